"""Goldens of VLM-R1's rewards: runs its own functions, from a checkout that you give, on our inputs.

    python tools/golden/vlm_r1_rewards.py --vlm_r1 path/to/VLM-R1 --out tests/data/rewards

Made with om-ai-lab/VLM-R1 at 90052f4, Python 3.11, pycocotools 2.0.11. Only inputs and results are kept.
The functions are taken out of their files one by one, because the files import the whole trainer.
"""

import argparse
import ast
import contextlib
import io
import json
import math
import os
import pathlib
import random
import re
from datetime import datetime

SOURCE = pathlib.Path("src/open-r1-multimodal/src/open_r1")

METHODS = ["map", "od_ap", "od_ap50", "odLength", "weighted_sum", "all_match"]


def functions(path, names, given):
    """The functions `names` of a file, at any depth, with `given` as their globals."""
    wanted = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name in names
    ]
    for node in wanted:
        node.decorator_list = []
    scope = dict(given)
    # The first of a name: functions inside functions come later.
    for node in reversed(wanted):
        exec(compile(ast.Module([node], []), str(path), "exec"), scope)
    return scope


def answered(text):
    return f"<think>Where are they?</think>\n<answer>{text}</answer>"


def listed(*items):
    return json.dumps([{"bbox_2d": list(sides), "label": label} for label, *sides in items])


def fenced(*items):
    return "```json\n" + listed(*items) + "\n```"


CAT, DOG = ("cat", 10, 10, 110, 110), ("dog", 200, 50, 300, 250)
NEAR = [("cat", 12, 8, 115, 108), ("dog", 205, 60, 310, 240)]
BOTH = answered(fenced(CAT, DOG))

# (completion, reference)
DETECTIONS = [
    (BOTH, BOTH),
    (answered(fenced(*NEAR)), BOTH),
    (answered(fenced(*NEAR, *NEAR)), BOTH),
    (answered(fenced(NEAR[0])), BOTH),
    (answered(fenced(CAT, DOG, *[("cat", i, 0, i + 50, 50) for i in range(20)])), BOTH),
    (answered(fenced(("dog", *CAT[1:]), ("cat", *DOG[1:]))), BOTH),
    (answered(fenced(CAT, ("bird", *DOG[1:]))), BOTH),
    (answered(fenced(("Cat", *CAT[1:]))), BOTH),
    (answered(listed(CAT, DOG)), BOTH),
    (answered("```json\n[{]\n```"), BOTH),
    (answered("```json\n[]\n```"), BOTH),
    (answered("None"), BOTH),
    (answered(fenced(CAT) + fenced(CAT, DOG)), BOTH),
    (fenced(CAT, DOG), BOTH),
    (answered("None") + answered(fenced(CAT, DOG)), BOTH),
    (answered('```json\n[{"bbox_2d": [10, 10, 110], "label": "cat"}]\n```'), BOTH),
    (answered('```json\n[{"label": "cat"}, {"bbox_2d": [10, 10, 110, 110]}]\n```'), BOTH),
    (answered('```json\n{"bbox_2d": [10, 10, 110, 110], "label": "cat"}\n```'), BOTH),
    (answered('```json\n[{"bbox_2d": [110, 110, 10, 10], "label": "cat"}]\n```'), BOTH),
    (answered('```json\n[{"bbox_2d": [10, 10, 110, 110, 7], "label": "cat"}]\n```'), BOTH),
    (answered("None"), answered("None")),
    (answered("none."), answered("None")),
    (answered("I see no objects."), answered("None")),
    (answered(fenced(CAT)), answered("None")),
    ("", answered("None")),
    (answered("A red\n cat. "), answered("a RED cat")),
    (answered("a red\ncat"), answered("a RED cat")),
    (answered("a blue cat"), answered("a red cat")),
]

SOLUTION = "<answer>[50, 40, 250, 240]</answer>"

BOXES = [
    answered('```json\n[{"bbox_2d": [50, 40, 250, 240], "label": "x"}]\n```'),
    answered('{"bbox_2d": [60, 50, 250, 240]}'),
    answered("[25, 20, 125, 120]"),
    answered("[50,40,250,240]"),
    answered("[50 , 40, 250, 240]"),
    answered("[50.0, 40.0, 250.0, 240.0]"),
    answered("[0, 0, 1, 1] [50, 40, 250, 240]"),
    answered("[250, 240, 50, 40]"),
    answered("[50, 40, 51, 240]"),
    answered("[0, 0, 5000, 5000]"),
    answered("[250, 40, 450, 240]"),
    answered("[249, 40, 450, 240]"),
    answered("[0, 0, 0, 0]"),
    answered("[-50, 40, 250, 240]"),
    answered("nothing"),
    answered("[1, 2, 3, 4]") + answered("[50, 40, 250, 240]"),
    "<think>[1, 2, 3, 4]</think><answer>[50, 40, 250, 240]</answer>",
    "[50, 40, 250, 240]",
    "<answer>[50, 40, 250, 240]",
    "",
]

REPEATED = [
    "",
    "yes",
    "yes yes yes yes yes",
    "yes yes yes yes yes yes",
    "yes " * 40,
    "Yes yes YES yes yEs yes yes",
    "the cat is on the mat and the dog is on the mat and the bird is on the mat and the cow too",
    "one two three four five six seven eight nine ten",
    "不" * 50,
    "a\x1cb\u00a0c\u3000d e f a b c d e f",
    answered(fenced(CAT, DOG)),
    answered(fenced(CAT, DOG, CAT)),
    answered(fenced(CAT, ("dog", *CAT[1:]))),
    answered(fenced(*[CAT] * 30)),
    answered(listed(CAT, CAT, DOG)),
    answered("```\n" + listed(CAT, CAT) + "\n```"),
    answered("```json\n[]\n```" + " again and again" * 6),
    answered("```json\n```" + " again and again" * 6),
    answered('```json\n{"a": 1}\n```' + " again and again" * 6),
    answered('```json\n[{"bbox_2d": [1, 2, 3, 4]}]\n```' + " again and again" * 6),
]


class Image:
    """Stands for a file: its name is its size."""

    def __init__(self, size):
        self.size = size

    @staticmethod
    def open(path):
        return Image(tuple(int(n) for n in path.split("x")))


def overlaps(checkout):
    modules = checkout / SOURCE / "vlm_modules"
    qwen = functions(modules / "qwen_module.py", ["iou_reward"], {"Image": Image})
    intern = functions(modules / "internvl_module.py", ["iou_reward"], {})
    draw = random.Random(5)
    drawn = [[draw.randrange(300) for _ in range(4)] for _ in range(12)]
    for said in BOXES + [answered(str(b)) for b in drawn]:
        for original, grid in [((640, 480), (20, 26)), ((333, 777), (56, 24))]:
            seen = [grid[1] * 14, grid[0] * 14]
            score = qwen["iou_reward"](
                [[{"content": said}]],
                [SOLUTION],
                image_grid_thw=[(1, *grid)],
                image_path=[["x".join(map(str, original))]],
            )[0]
            row = {"space": "seen", "original": original, "seen": seen, "completion": said}
            yield row | {"solution": SOLUTION, "iou": score}
        score = intern["iou_reward"]([[{"content": said}]], [SOLUTION])[0]
        row = {"space": "reference", "original": [1, 1], "seen": [1, 1], "completion": said}
        yield row | {"solution": SOLUTION, "iou": score}


def box_formats(checkout):
    modules = checkout / SOURCE / "vlm_modules"
    said = [
        functions(modules / f"{name}_module.py", ["format_reward_rec"], {})["format_reward_rec"]
        for name in ("qwen", "internvl")
    ]
    answers = ["", "none", "[1,2,3,4]", "{[1, 2, 3, 4]}", "{[1 ,2,3,4]}", "{[1,\u00a02,\x1c3,\n4]}", "} [1,2,3,4] {",
               "{[1,2,3,4] {}", "[1,2,3,4]}", "{[1.0, 2, 3, 4]}", "{[1, 2, 3]} {[1, 2, 3, 4]}", "{[\u0661, 2, 3, 4]}"]
    texts = BOXES + [answered(a) for a in answers]
    texts += ["<think>a</think> b <answer>{[1,2,3,4]}</answer>", "x <think></think><answer>{[1,2,3,4]}</answer> y",
              "<answer>{[1,2,3,4]}</answer>", "<think>a</think><answer>x</answer> {[1,2,3,4]} </answer>",
              "<think>a</think><answer>{[1,2,3,4]}", "<think><think>a</think>\x1f<answer>\n{\n[1,2,3,4]\n}\n</answer>"]
    for text in texts:
        qwen, internvl = [reward([[{"content": text}]])[0] for reward in said]
        yield {"completion": text, "qwen": qwen, "internvl": internvl}


def detections(scope):
    for said, reference in DETECTIONS:
        for method in METHODS:
            if method not in ("weighted_sum", "all_match") and "RED" in reference + said:
                continue
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    score = scope["accuracy_reward"](
                        [[{"content": said}]], [reference], accu_reward_method=[method]
                    )[0]
            except UnboundLocalError:  # the original ends the run at a pair without a label
                continue
            row = {"method": method, "completion": said, "solution": reference}
            yield row | {"reward": float(score)}


def write(path, rows):
    with open(path, "w") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)


def main():
    from json_repair import repair_json
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def coco(dataset):
        made = COCO()
        made.dataset = dataset
        made.createIndex()
        return made

    parser = argparse.ArgumentParser()
    parser.add_argument("--vlm_r1", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    told = parser.parse_args()
    os.environ.pop("DEBUG_MODE", None)
    given = {
        "re": re, "os": os, "json": json, "math": math, "datetime": datetime,
        "COCO": coco, "COCOeval": COCOeval, "repair_json": repair_json,
    }
    names = [
        "accuracy_reward", "all_match_reward", "calculate_map", "clean_text", "detection_score", "iou",
        "map_reward", "od_reward", "odLength_reward", "repetition_reward",
    ]
    scope = functions(told.vlm_r1 / SOURCE / "grpo_jsonl.py", names, given)
    write(told.out / "iou_compat.jsonl", overlaps(told.vlm_r1))
    write(told.out / "box_format_compat.jsonl", box_formats(told.vlm_r1))
    write(told.out / "detection_compat.jsonl", detections(scope))
    repeated = ({"completion": t, "repetition": scope["repetition_reward"](t)} for t in REPEATED)
    write(told.out / "repetition_vlm_r1.jsonl", repeated)


if __name__ == "__main__":
    main()
