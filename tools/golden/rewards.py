"""Goldens of the rewards of form and length: TRL's own functions, pycocotools, and the published
patterns of projects that cannot be installed.

    python tools/golden/rewards.py --out tests/data/rewards

Made with Python 3.11, trl 1.16.0, math-verify 0.9.0, pycocotools 2.0.11, numpy. In the same folder,
`vlm_r1_rewards.py` makes `*_vlm_r1.jsonl`, `iou_compat.jsonl` and `detection_compat.jsonl`; the tables
with a column `why` are written by hand.
"""

import argparse
import contextlib
import io
import json
import pathlib
import random
import re

PATTERN = r"<think>.*?</think>\s*<answer>.*?</answer>"  # VLM-R1, grpo_jsonl.py
# format_reward_vqa of the waybarrios fork of VLM-R1: fences go, then an object is searched.
FENCE = r"```json\s*|\s*```"
OBJECT = r'\{[^{}]*"reasoning_steps"[^{}]*"answer"[^{}]*\}'

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

STEPS = [
    '{"reasoning_steps": ["The sky is blue."], "answer": "blue"}',
    '{"reasoning_steps": [], "answer": ""}',
    '```json\n{"reasoning_steps": ["a", "b"], "answer": "c"}\n```',
    'Sure! ```json {"reasoning_steps": ["a"], "answer": "c"} ``` Anything else?',
    'Text before {"reasoning_steps": ["a"], "answer": "c"} and after',
    '{"reasoning_steps": ["a"], "answer": "c", "more": 1}',
    '{"reasoning_steps": [1, 2], "answer": "c"}',
    '{"answer": "c", "reasoning_steps": ["a"]}',
    '{"reasoning_steps": ["set {1, 2}"], "answer": "c"}',
    '{"reasoning_steps": "a", "answer": "c"}',
    '{"reasoning_steps": ["a"], "answer": 3}',
    '{"reasoning_steps": ["a"], "answer": "c"',
    '{"reasoning_steps": ["a"], "answer": "c",}',
    '{"reasoning_steps": ["a"]} {"answer": "c"}',
    '{"x": {"reasoning_steps": ["a"], "answer": "c"}}',
    '{"reasoning_steps": ["a\nb"], "answer": "c"}',
    "{'reasoning_steps': ['a'], 'answer': 'c'}",
    '{"steps": ["a"], "answer": "c"}',
]

THOUGHTS = [
    "<think>a</think>",
    "<think></think>b",
    "<think>a\n</think>\nb",
    "<think>a</think>b</think>",
    "<think>a<think>b</think>",
    "<think>a</think><think>b</think>",
    "a<think>b</think>",
    "\n<think>b</think>",
    "<think>a",
]

# The GSM8K recipe for TRL ("willccb"), whose functions carry no licence: their formulas, in our words.
STRICT = r"^<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n$"
SOFT = r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>"
GOOD = "<reasoning>\na\n</reasoning>\n<answer>\nb\n</answer>\n"

REASONED = [
    GOOD,
    GOOD[:-1],
    GOOD + "\n",
    GOOD + "\n\n",
    GOOD + "bye",
    GOOD[:-1] + " bye",
    GOOD + "x" * 700,
    GOOD.replace("\n", ""),
    GOOD.replace("\n", " "),
    GOOD.replace("a", "a\nb"),
    GOOD.replace("b", "b\nc"),
    GOOD.replace("</reasoning>\n", "</reasoning>\n\n\n"),
    GOOD.replace("</answer>", ""),
    GOOD.replace("<answer>\n", "<answer>"),
    "Well. " + GOOD,
    GOOD + GOOD,
    GOOD + "<answer>\nc\n</answer>\n",
    "<reasoning>\n\n</reasoning>\n<answer>\n\n</answer>\n",
    "<reasoning></reasoning><answer></answer>",
    "<answer>\nb\n</answer>\n<reasoning>\na\n</reasoning>\n",
    "<reasoning>\n",
    "<reasoning>a</reasoning> <answer>b</answer> bye",
    "<reasoning>a</reasoning>\u00a0<answer>b</answer>",
    "<reasoning>a</reasoning>\x1c<answer>b</answer>",
    "<reasoning>a</reasoning>x<answer>b</answer>",
    "<reasoning>a</reasoning><answer>b",
    "<think>a</think><answer>b</answer>",
    "",
]


def write(path, rows):
    with open(path, "w") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)


def formats():
    from trl.rewards import think_format_reward

    def searched(text):
        found = re.search(OBJECT, re.sub(FENCE, "", text).strip(), re.DOTALL)
        try:
            said = json.loads(found.group(0)) if found else {}
        except json.JSONDecodeError:
            return False
        return isinstance(said.get("reasoning_steps"), list) and isinstance(said.get("answer"), str)

    for text in COMPLETIONS + STEPS + THOUGHTS:
        yield {
            "completion": text,
            "vlm_r1": 1.0 if re.fullmatch(PATTERN, text, re.DOTALL) else 0.0,
            "trl": think_format_reward([[{"content": text}]])[0],
            "mllm_evaluator": 1.0 if searched(text) else 0.0,
        }


def counted(text):
    """0.125 for each tag with its line ends that stands once; each character behind the answer costs."""
    total = 0.0
    for tag in ["<reasoning>\n", "\n</reasoning>\n"]:
        total += 0.125 if text.count(tag) == 1 else 0.0
    if text.count("\n<answer>\n") == 1:
        total += 0.125
        total -= len(text.split("\n</answer>\n")[-1]) * 0.001
    if text.count("\n</answer>") == 1:
        total += 0.125
        total -= (len(text.split("\n</answer>")[-1]) - 1) * 0.001
    return total


def recipe():
    for text in REASONED:
        yield {
            "completion": text,
            "xmlcount": counted(text),
            "soft_format": 0.5 if re.match(SOFT, text) else 0.0,
            "strict_format": 0.5 if re.match(STRICT, text) else 0.0,
        }


def overlong():
    from trl.rewards import get_soft_overlong_punishment

    for limit, cache in [(100, 20), (512, 102), (7, 7), (64, 1)]:
        reward = get_soft_overlong_punishment(limit, cache)
        lengths = {0, 1, limit - cache, limit - cache + 1, limit - 1, limit, limit + 1}
        lengths.add(limit - cache // 2)
        for n in sorted(lengths):
            score = reward(completion_ids=[[0] * n])[0]
            yield {"limit": limit, "cache": cache, "tokens": n, "reward": float(score)}


def cosine():
    from trl.rewards.accuracy_rewards import get_cosine_scaled_reward

    for limit in [1, 100, 333]:
        reward = get_cosine_scaled_reward(max_len=limit)
        for n in sorted({0, 1, limit // 3, limit // 2, limit - 1, limit, limit + 1, 2 * limit}):
            for said, correct in [(r"\boxed{1}", True), (r"\boxed{2}", False)]:
                score = reward([[{"content": said}]], ["$1$"], [[1] * n])[0]
                yield {"limit": limit, "tokens": n, "correct": correct, "reward": score}


def repetition():
    from trl.rewards.other_rewards import get_repetition_penalty_reward

    draw = random.Random(3)
    lists = [[], [1], [1, 2], [5] * 5, [1, 2, 3, 4], [1, 2, 3] * 4]
    lists += [[draw.randrange(3) for _ in range(n)] for n in [3, 7, 20, 60]]
    for n, most in [(1, -1.0), (2, -1.0), (3, -1.0), (3, -0.5), (40, -1.0)]:
        reward = get_repetition_penalty_reward(n, most)
        for ids in lists:
            yield {"n": n, "max_penalty": most, "ids": ids, "reward": reward([ids])[0]}


def boxes_near(draw, truth):
    """Boxes around those of the truth, some moved far, some of another label, some twice."""
    for label, *sides in truth:
        moved = [x + draw.choice([0, 0, 1, 2, 4, 9, 40]) for x in sides]
        label = draw.choice([label] * 5 + ["a", "nowhere"])
        if draw.random() < 0.85:
            yield [label, *moved]
        if draw.random() < 0.25:
            yield [label, *moved]
    if draw.random() < 0.4:
        yield ["a", 0, 0, draw.randrange(1, 300), 50]


def coco(truth, named):
    """mAP and AP50 of pycocotools, all scores 1."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    labels = list(dict.fromkeys(t[0] for t in truth))

    def xywh(b):
        return [b[1], b[2], b[3] - b[1], b[4] - b[2]]

    gt = COCO()
    gt.dataset = {
        "images": [{"id": 0, "width": 2048, "height": 2048}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(labels)],
        "annotations": [
            {
                "id": i + 1, "image_id": 0, "category_id": labels.index(b[0]), "iscrowd": 0,
                "bbox": xywh(b), "area": xywh(b)[2] * xywh(b)[3],
            }
            for i, b in enumerate(truth)
        ],
    }
    gt.createIndex()
    found = [
        {"image_id": 0, "category_id": labels.index(b[0]), "bbox": xywh(b), "score": 1.0}
        for b in named
        if b[0] in labels
    ]
    if not found:
        return [0.0, 0.0]
    judge = COCOeval(gt, gt.loadRes(found), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return [float(judge.stats[0]), float(judge.stats[1])]


def precisions():
    draw = random.Random(7)
    cases = []
    for _ in range(70):
        truth = []
        for _ in range(draw.randrange(1, 7)):
            x, y = draw.randrange(300), draw.randrange(300)
            width, height = draw.randrange(10, 200), draw.randrange(10, 200)
            truth.append([draw.choice("abc"), x, y, x + width, y + height])
        named = list(boxes_near(draw, truth))
        draw.shuffle(named)
        cases.append((truth, named))
    one = [["a", 0, 0, 100, 100]]
    cases += [
        (one, one * 120),
        (one, [["a", 500, 0, 600, 100]] * 101 + one),
        (one, [["a", 100, 100, 0, 0]]),
        (one, [["a", 100, 0, 0, 100]] + one),
        ([["a", 100, 0, 0, 100]], one),
        ([["a", 100, 0, 0, 100], *one], one * 2),
        ([["a", 0, 0, 200000, 200000], *one], one),
        ([["a", 0.5, 0.25, 10.5, 7.75], ["a", 0, 0, 10, 10]], [["a", 0.25, 0.0, 10.0, 8.0]]),
        (one, [["a", 0, 0, 100, 50]]),
        (one * 2, one * 2),
    ]
    for truth, named in cases:
        with contextlib.redirect_stdout(io.StringIO()):
            both, half = coco(truth, named)
        yield {"truth": truth, "named": named, "map": both, "map50": half}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    write(out / "format_compat.jsonl", formats())
    write(out / "xml_compat.jsonl", recipe())
    write(out / "length.jsonl", overlong())
    write(out / "cosine.jsonl", cosine())
    write(out / "repetition_trl.jsonl", repetition())
    write(out / "coco_map.jsonl", precisions())


if __name__ == "__main__":
    main()
