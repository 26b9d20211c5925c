"""Goldens of the rewards: Python's re.fullmatch for `format`, TRL's function for `length`.

    python tools/golden/rewards.py --out tests/data/rewards

Made with Python 3, trl 1.16.0. `accuracy.jsonl` in the same folder is written by hand.
"""

import argparse
import json
import pathlib
import re

PATTERN = r"<think>.*?</think>\s*<answer>.*?</answer>"  # VLM-R1, grpo_jsonl.py and qwen_module.py

COMPLETIONS = [
    "<think>a</think><answer>b</answer>",
    "<think>a</think> <answer>b</answer>",
    "<think>a\nb</think>\n\n<answer>c\nd</answer>",
    "<think></think><answer></answer>",
    "<think>a</think>\t\u00a0\u3000<answer>b</answer>",
    "<think>a</think><answer>b</answer><answer>c</answer>",
    "<think>a</think>x</think><answer>b</answer>",
    "<think><think>a</think><answer>b</answer>",
    "<think>\u1ec7 \U0001f600</think><answer>\u00e9</answer>",
    "<think>a</think><answer>b</answer>\n",
    " <think>a</think><answer>b</answer>",
    "\n<think>a</think><answer>b</answer>",
    "<think>a</think>x<answer>b</answer>",
    "<think>a</think><answer>b",
    "<think>a</think><answer>b</answer> done",
    "<think>a<answer>b</answer>",
    "a</think><answer>b</answer>",
    "<answer>b</answer>",
    "<answer>b</answer><think>a</think>",
    "<THINK>a</THINK><ANSWER>b</ANSWER>",
    "<think>a</think><answer>b</answer>.",
    "<think >a</think><answer>b</answer>",
    "think a answer b",
    "",
    "<think>a</think>\u200b<answer>b</answer>",
]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    with open(out / "format.jsonl", "w") as f:
        for text in COMPLETIONS:
            score = 1.0 if re.fullmatch(PATTERN, text, re.DOTALL) else 0.0
            f.write(json.dumps({"completion": text, "format": score}) + "\n")

    from trl.rewards import get_soft_overlong_punishment

    with open(out / "length.jsonl", "w") as f:
        for limit, cache in [(100, 20), (512, 102), (7, 7), (64, 1)]:
            reward = get_soft_overlong_punishment(limit, cache)
            lengths = {0, 1, limit - cache, limit - cache + 1, limit - 1, limit, limit + 1}
            lengths.add(limit - cache // 2)
            for n in sorted(lengths):
                score = reward(completion_ids=[[0] * n])[0]
                row = {"limit": limit, "cache": cache, "tokens": n, "reward": float(score)}
                f.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
