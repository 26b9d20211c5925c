"""Asks a running `grpo-rt serve` through OpenAI's own client: with an image, whole and streamed, and from 64
threads of which some go away and some send nonsense. Prints figures; exits with 1 if anything is wrong.

    grpo-rt serve --model_name_or_path DIR --port 8000 &
    python tools/serve/check_openai.py --url http://127.0.0.1:8000 --image picture.png

Needs the package `openai` (checked with 3.54.0).
"""

import argparse
import base64
import collections
import concurrent.futures
import statistics
import sys
import time
import urllib.request

import openai


def metrics(url, token):
    """Every number of the metrics page by its name."""
    request = urllib.request.Request(url + "/metrics")
    if token:
        request.add_header("Authorization", "Bearer " + token)
    text = urllib.request.urlopen(request, timeout=30).read().decode()
    rows = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    return {name.removeprefix("grpo_rt_"): int(value) for name, value in rows}


def chat(image, text):
    data = base64.b64encode(open(image, "rb").read()).decode()
    url = {"url": "data:image/png;base64," + data}
    parts = [{"type": "image_url", "image_url": url}, {"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


def streamed(client, **request):
    """Text, finish reason, usage and seconds to the first piece."""
    start, first, text, reason, usage = time.time(), None, "", None, None
    options = {"include_usage": True}
    for piece in client.chat.completions.create(stream=True, stream_options=options, **request):
        first = first or time.time() - start
        for choice in piece.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
        usage = piece.usage or usage
    return text, reason, usage, first


def worker(i, client, base, want, counts):
    """One of the 64: what it does follows from its number."""
    start = time.time()
    if i % 8 == 3:
        stream = client.chat.completions.create(
            stream=True, **{**base, "max_tokens": 400, "temperature": 1.5}
        )
        for _ in zip(range(3), stream):
            pass
        stream.close()
        counts["gone"] += 1
        return None
    if i % 8 == 5:
        try:
            client.chat.completions.create(**{**base, "temperature": -1})
        except openai.BadRequestError as error:
            assert error.body["param"] == "temperature", error.body
            counts["refused"] += 1
            return None
        raise AssertionError("a negative temperature was accepted")
    if i % 8 == 6:
        text, _, usage, _ = streamed(client, **base)
    else:
        answer = client.chat.completions.create(**base)
        text, usage = answer.choices[0].message.content, answer.usage
    assert text == want, f"another answer in company: {text!r}, not {want!r}"
    counts["answered"] += 1
    counts["tokens"] += usage.completion_tokens
    return time.time() - start


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--token", default="")
    parser.add_argument("--image", required=True)
    parser.add_argument("--threads", type=int, default=64)
    arguments = parser.parse_args()
    client = openai.OpenAI(
        base_url=arguments.url + "/v1", api_key=arguments.token or "none", timeout=600, max_retries=0
    )
    models = [model.id for model in client.models.list()]
    print("models:", ", ".join(models))
    base = {
        "model": models[0],
        "messages": chat(arguments.image, "What is in the picture?"),
        "max_tokens": 24,
        "temperature": 0.8,
        "seed": 3,
    }
    whole = client.chat.completions.create(logprobs=True, **base)
    want = whole.choices[0].message.content
    logprobs = whole.choices[0].logprobs.content
    assert len(logprobs) == whole.usage.completion_tokens and all(t.logprob <= 0 for t in logprobs)
    print("image:", whole.usage.prompt_tokens, "prompt tokens,", len(logprobs), "tokens back")
    text, reason, usage, first = streamed(client, **base)
    assert (text, reason, usage) == (want, whole.choices[0].finish_reason, whole.usage)
    print(f"stream: the same text, first piece after {first:.3f} s")
    for model in models[1:]:
        client.chat.completions.create(**{**base, "model": model})
    try:
        client.chat.completions.create(**{**base, "model": "no-such-model"})
        raise AssertionError("an unknown model was accepted")
    except openai.NotFoundError:
        pass

    counts, start = collections.Counter(), time.time()
    with concurrent.futures.ThreadPoolExecutor(arguments.threads) as pool:
        work = lambda i: worker(i, client, base, want, counts)
        times = [t for t in pool.map(work, range(arguments.threads)) if t is not None]
    seconds = time.time() - start
    print(
        f"{arguments.threads} threads: {dict(counts)} in {seconds:.1f} s, "
        f"{counts['tokens'] / seconds:.1f} tokens/s, median {statistics.median(times):.2f} s"
    )
    end = time.time() + 60
    held = ["requests_open", "completions_running", "completions_waiting", "kv_pages_used"]
    while True:
        now = metrics(arguments.url, arguments.token)
        if all(now[name] == 0 for name in held):
            break
        assert time.time() < end, now
        time.sleep(0.1)
    print("held afterwards:", {name: now[name] for name in held}, "of", now["kv_pages_total"], "pages")
    print({name: value for name, value in now.items() if name.endswith("_total")})


if __name__ == "__main__":
    sys.exit(main())
