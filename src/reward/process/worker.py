"""Runs one reward function for grpo-rt. Standard library only.

Requests come in as JSON lines, answers go out as JSON lines. What the function prints goes to
standard error, so that it can never be taken for an answer.
"""

import importlib
import importlib.util
import inspect
import json
import os
import select
import signal
import sys
import traceback

# What TRL passes by name whatever the data set holds.
ALWAYS = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
# Columns that TRL leaves out, and names that are taken.
LEFT_OUT = ("prompt", "completion") + ALWAYS

# Exceptions that are printed whole; the others are told in one line each.
TRACES = 3


class Refused(Exception):
    """What is wrong with the function, before it is called, and what to do about it."""

    def __init__(self, what, hint=None):
        super().__init__(what)
        self.hint = hint


class State:
    """The part of transformers' TrainerState that is known."""

    def __init__(self, known):
        self.__dict__.update(known)

    def __getattr__(self, name):
        known = ", ".join(sorted(self.__dict__))
        raise AttributeError(f"trainer_state has no `{name}` here; it has {known}")


def take_streams():
    """Keeps requests and answers for this program: prints go to standard error, input() is empty."""
    requests, answers = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")
    return requests, answers


def start_guard(requests, answers):
    """A small process that ends this group once grpo-rt is gone, even if the function never returns.

    It is nobody's child, so that a function that waits for its own children does not find it.
    """
    if not (hasattr(os, "fork") and hasattr(select, "poll")):
        return
    alive, held = os.pipe()
    child = os.fork()
    if child:
        os.close(alive)
        os.waitpid(child, 0)
        return  # `held` is never closed: its end is the end of this process
    if os.fork():
        os._exit(0)
    os.close(held)
    os.close(answers)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    waiting = select.poll()
    waiting.register(requests, 0)
    waiting.register(alive, 0)
    hung_up = [fd for fd, _ in waiting.poll()]
    if alive not in hung_up:
        # Requests have ended: the worker may finish what it does.
        waiting.unregister(requests)
        if not waiting.poll(2000):
            os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(0)


def load(kind, source, function):
    """The function and the place that errors name."""
    if kind == "file":
        folder, name = os.path.split(os.path.abspath(source))
        sys.path.insert(0, folder)
        stem = os.path.splitext(name)[0]
        spec = importlib.util.spec_from_file_location(stem, os.path.join(folder, name))
        if spec is None:
            raise Refused(f"{source} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[stem] = module
        spec.loader.exec_module(module)
    else:
        sys.path.insert(0, os.getcwd())
        module = importlib.import_module(source)
    found = module
    for part in function.split("."):
        if not hasattr(found, part):
            own = [n for n, v in vars(module).items() if inspect.isfunction(v) and n[0] != "_"]
            has = ", ".join(own) or "none"
            raise Refused(f"{source} has no `{function}`", f"functions of it: {has}")
        found = getattr(found, part)
    if not callable(found):
        raise Refused(f"`{function}` of {source} is a {type(found).__name__}, not a function")
    refused = [name for name in ALWAYS if not accepts(found, name)]
    if refused:
        raise Refused(
            f"`{function}` does not take {', '.join(refused)}",
            "as TRL does, every argument and every column is passed by name: add **kwargs",
        )
    return found


def accepts(function, name):
    """Whether the function can be given `name` by name."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return True
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return True
    found = parameters.get(name)
    return found is not None and found.kind in (found.POSITIONAL_OR_KEYWORD, found.KEYWORD_ONLY)


def arguments(function, samples):
    """Prompts, completions and columns, as TRL names them."""
    names = []
    for sample in samples:
        names.extend(n for n in sample["columns"] if n not in names and n not in LEFT_OUT)
    given = {name: [s["columns"].get(name) for s in samples] for name in names}
    # What VLM-R1's rewards take and a row may have under another name.
    for name, key in (("solution", "answer"), ("answer", "answer"), ("problem", "question")):
        if name not in given and accepts(function, name):
            given[name] = [s[key] for s in samples]
    given["prompts"] = [s["prompt"] for s in samples]
    given["completions"] = [[{"role": "assistant", "content": s["completion"]}] for s in samples]
    given["completion_ids"] = [s["completion_ids"] for s in samples]
    return given


def text(value):
    """A text that other programs can read, too: no halves of characters."""
    return str(value).encode("utf-8", "replace").decode()


def plain(value):
    """A value that JSON has."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return text(value)
    if isinstance(value, int):
        return value if abs(value) < 2**63 else str(value)
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return text(value)


def score(value):
    """One score: a number, None, or what is wrong with it. NaN is None, as in TRL."""
    if value is None:
        return None
    if isinstance(value, (str, bytes)):
        return {"error": f"a {type(value).__name__}: {text(repr(value)[:80])}"}
    try:
        number = float(value)
    except Exception:
        return {"error": f"a {type(value).__name__}: {text(repr(value)[:80])}"}
    if number != number:
        return None
    return number if number - number == 0 else {"error": repr(number)}


class Caller:
    """Calls the function; a coroutine runs on one loop that lives as long as the process."""

    def __init__(self, function):
        self.function = function
        self.loop = None

    def call(self, request):
        samples = request["samples"]
        extra, metrics = {}, {}
        given = arguments(self.function, samples)
        given["trainer_state"] = State(request["trainer_state"])
        given["log_extra"] = lambda column, values: extra.setdefault(str(column), []).extend(values)
        given["log_metric"] = lambda name, value: metrics.setdefault(str(name), []).append(
            float(value)
        )
        result = self.function(**given)
        if inspect.isawaitable(result):
            result = self.run(result)
        if result is None or isinstance(result, (str, bytes, dict)) or not hasattr(
            result, "__iter__"
        ):
            return {"wrong": f"a {type(result).__name__}: {text(repr(result)[:80])}"}
        for column, values in extra.items():
            if len(values) != len(samples):
                return {"wrong": f"log_extra(`{column}`) with {len(values)} values"}
        return {
            "scores": [score(value) for value in result],
            "extra": {column: plain(values) for column, values in extra.items()},
            "metrics": {name: plain(values) for name, values in metrics.items()},
        }

    def run(self, awaitable):
        import asyncio

        async def wait():
            return await awaitable

        if self.loop is None:
            self.loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self.loop)
        return self.loop.run_until_complete(wait())


def told(error, source):
    """An exception as an answer: what, and the line of the user's file."""
    what = text(error).strip().replace("\n", " ")[:2000]
    answer = {"error": f"{type(error).__name__}: {what}" if what else type(error).__name__}
    if isinstance(error, Refused):
        answer["error"] = what
    if getattr(error, "hint", None):
        answer["hint"] = error.hint
    if isinstance(error, SyntaxError) and error.filename:
        answer["where"] = f"{os.path.relpath(error.filename)}, line {error.lineno}"
        return answer
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename[:1] != "<"]
    path = os.path.abspath(source)
    own = [f for f in frames if os.path.abspath(f.filename) == path] or frames
    if own and not isinstance(error, Refused):
        last = own[-1]
        answer["where"] = f"{os.path.relpath(last.filename)}, line {last.lineno}, in {last.name}"
    return answer


def main():
    kind, source, function = sys.argv[1:4]
    sys.argv = [source]
    requests, answers = take_streams()
    start_guard(requests, answers)
    out = os.fdopen(answers, "wb")

    def say(answer):
        out.write(json.dumps(answer, allow_nan=False).encode() + b"\n")
        out.flush()

    try:
        caller = Caller(load(kind, source, function))
    except BaseException as error:
        answer = told(error, source)
        answer["failed"] = answer.pop("error")
        say(answer)
        return
    say({"ready": True})
    printed = 0
    for line in os.fdopen(requests, "rb"):
        request = json.loads(line)
        try:
            answer = caller.call(request)
        except SystemExit as error:
            sys.stderr.flush()
            # At once: a thread of the function must not keep the process.
            os._exit(error.code if isinstance(error.code, int) else 1)
        except Exception as error:
            if printed < TRACES:
                printed += 1
                traceback.print_exc()
            answer = told(error, source)
        answer["id"] = request["id"]
        say(answer)


if __name__ == "__main__":
    main()
