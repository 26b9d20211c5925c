"""Speaks to Weights & Biases for grpo-rt, through the client that is installed. Standard library only
besides it.

Requests come in as JSON lines, each is answered with a line. What the client prints goes to standard
error.
"""

import base64
import io
import json
import os
import sys
import threading

# Seconds that the client gets to finish once grpo-rt is gone.
LAST = 60


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


def picture(wandb, png):
    """An image of the client; it needs Pillow."""
    from PIL import Image

    return wandb.Image(Image.open(io.BytesIO(base64.b64decode(png))))


class Run:
    """One run of the client."""

    def __init__(self, wandb):
        self.wandb = wandb
        self.run = None
        self.finished = False

    def init(self, request):
        kwargs = request["init"]
        if "WANDB_CONSOLE" not in os.environ:
            kwargs["settings"] = {"console": "off"}
        self.run = self.wandb.init(**kwargs)
        # One axis for all metrics, as transformers does it.
        self.wandb.define_metric("train/global_step")
        self.wandb.define_metric("*", step_metric="train/global_step", step_sync=True)
        known = ["id", "project", "entity", "name"]
        if not getattr(self.run, "offline", False):
            known.append("url")
        found = {key: getattr(self.run, key, None) for key in known}
        return {key: str(value) for key, value in found.items() if value}

    def config(self, request):
        self.wandb.config.update(request["values"], allow_val_change=True)

    def log(self, request):
        values = dict(request["values"])
        for name, (counts, edges) in request.get("histograms", {}).items():
            values[name] = self.wandb.Histogram(np_histogram=(counts, edges))
        values["train/global_step"] = request["step"]
        self.wandb.log(values)

    def table(self, request):
        columns, rows = request["columns"], request["rows"]
        said = {}
        if request["images"]:
            try:
                images = [[picture(self.wandb, png) for png in group] for group in request["images"]]
                columns = columns + ["image"]
                rows = [row + [images[g]] for row, g in zip(rows, request["groups"])]
            except ImportError as error:
                said["warning"] = f"completions without images: {error}"
        table = self.wandb.Table(columns=columns, data=rows, allow_mixed_types=True)
        self.wandb.log({request["name"]: table, "train/global_step": request["step"]})
        return said

    def alert(self, request):
        levels = getattr(self.wandb, "AlertLevel", None)
        level = {"level": levels.WARN} if levels else {}
        self.wandb.alert(title=request["title"], text=request["text"], **level)

    def summary(self, request):
        for name, value in request["values"].items():
            self.wandb.run.summary[name] = value

    def finish(self, request):
        self.finished = True
        self.wandb.finish(exit_code=request["exit_code"])


OPERATIONS = ("init", "config", "log", "table", "alert", "summary", "finish")


def main():
    # The folder that the program was started in may hold a folder `wandb` of former runs.
    sys.path = [p for p in sys.path if p != ""]
    requests, answers = take_streams()
    out = os.fdopen(answers, "wb")

    def say(answer):
        out.write(json.dumps(answer).encode() + b"\n")
        out.flush()

    try:
        import wandb

        if not hasattr(wandb, "init"):
            raise ImportError("the module `wandb` has no `init`")
        say({"ready": str(getattr(wandb, "__version__", "?"))})
    except ImportError as error:
        say({"missing": str(error)})
        return
    except BaseException as error:
        say({"failed": f"{type(error).__name__}: {error}"})
        return
    run = Run(wandb)
    for line in os.fdopen(requests, "rb"):
        request = json.loads(line)
        answer = {"id_of_request": request["id_of_request"]}
        try:
            if request["op"] not in OPERATIONS:
                raise ValueError(f"no operation `{request['op']}`")
            answer.update(getattr(run, request["op"])(request) or {})
        except Exception as error:
            answer["error"] = f"{type(error).__name__}: {error}".replace("\n", " ")[:1000]
        say(answer)
    if run.run is not None and not run.finished:
        # grpo-rt is gone without a word.
        limit = threading.Timer(LAST, os._exit, (1,))
        limit.daemon = True
        limit.start()
        wandb.finish(exit_code=1)
        limit.cancel()


if __name__ == "__main__":
    main()
