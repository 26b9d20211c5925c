"""Hand-made samples of three published data sets, twenty rows each, in the form in which they are published:
pictures and clips are drawn here, no content of the originals is used.

Writes tests/data/samples/: `refcoco` (the JSON Lines of VLM-R1), `mathvista` (Parquet with `decoded_image`),
`video` (clips with `meta`, as animated GIF files).

Made with Python 3.11, datasets 5.2.0, pyarrow 26.0.1, Pillow 13.0.0:

    python tools/golden/samples.py
"""

import json
import pathlib
import shutil

from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Picture, ImageDraw

OUT = pathlib.Path(__file__).parents[2] / "tests/data/samples"
COLORS = [("red", "\u0111\u1ecf"), ("green", "xanh l\u00e1"), ("blue", "xanh d\u01b0\u01a1ng"), ("yellow", "v\u00e0ng")]
SHAPES = [("square", "h\u00ecnh vu\u00f4ng"), ("circle", "h\u00ecnh tr\u00f2n")]


def draw(color, shape, box, size=(64, 48)):
    image = Picture.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    (pen.rectangle if shape == "square" else pen.ellipse)(box, fill=color)
    return image


def scene(i):
    color, shape = COLORS[i % 4], SHAPES[i // 4 % 2]
    left, top = 4 + i, 3 + i // 2
    box = [left, top, left + 18, top + 18]
    return color, shape, box, draw(color[0], shape[0], box)


def folder(name):
    path = OUT / name
    (path / "images").mkdir(parents=True)
    return path


def lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def refcoco():
    here, rows = folder("refcoco"), []
    ask = "Please provide the bounding box coordinate of the region this sentence describes: the {} {}"
    for i in range(20):
        color, shape, box, image = scene(i)
        name = f"COCO_train2014_{i:012}.png"
        image.save(here / "images" / name)
        question = ask.format(color[0], shape[0])
        if i < 12:
            turns = [{"from": "human", "value": "<image>" + question}, {"from": "gpt", "value": box}]
            rows.append({"id": i + 1, "image": name, "conversations": turns})
        else:
            rows.append({"image": name, "problem": question, "solution": box, "dataset_name": "refcoco"})
    lines(here / "refcoco_train.jsonl", rows)


def mathvista():
    here = OUT / "mathvista/data"
    here.mkdir(parents=True)
    rows = []
    for i in range(20):
        color, shape, box, image = scene(i)
        choice = i % 2 == 0
        kind = "text" if choice else ["integer", "float", "list"][i // 2 % 3]
        choices = [c[0] for c in COLORS] if choice else None
        side = box[2] - box[0]
        answers = {"text": color[0], "integer": str(side), "float": f"{side / 4:.1f}", "list": f"[{box[0]}, {box[1]}]"}
        questions = {
            "text": f"Which colour has the {shape[0]}?",
            "integer": f"How wide is the {shape[0]}, in pixels?",
            "float": f"A pixel is 0.25 cm wide. How wide is the {shape[0]}?",
            "list": f"Where does the {shape[0]} begin?",
        }
        rows.append({
            "pid": str(i + 1),
            "question": questions[kind],
            "image": f"images/{i + 1}.jpg",
            "decoded_image": image,
            "choices": choices,
            "unit": "cm" if kind == "float" else None,
            "precision": 1.0 if kind == "float" else None,
            "answer": answers[kind],
            "question_type": "multi_choice" if choice else "free_form",
            "answer_type": kind,
            "metadata": {"category": "general-vqa" if choice else "math-targeted-vqa", "grade": "elementary school",
                         "skills": ["geometry reasoning"] if choice else ["arithmetic reasoning"]},
            "query": f"Hint: answer the question.\nQuestion: {questions[kind]}",
        })
    features = Features({
        "pid": Value("string"), "question": Value("string"), "image": Value("string"), "decoded_image": Image(),
        "choices": List(Value("string")), "unit": Value("string"), "precision": Value("float64"),
        "answer": Value("string"), "question_type": Value("string"), "answer_type": Value("string"),
        "metadata": {"category": Value("string"), "grade": Value("string"), "skills": List(Value("string"))},
        "query": Value("string"),
    })
    table = Dataset.from_list(rows, features=features)
    table.to_parquet(here / "testmini-00000-of-00001-725687bf7a18d64b.parquet", batch_size=7)


def video():
    here, rows = OUT / "video", []
    here.mkdir(parents=True)
    actions = ["move right", "move down", "grow", "change colour"]
    for clip in range(5):
        frames, counts = [], [5 + clip % 2, 4]
        first, second = actions[clip % 4], actions[(clip + 1) % 4]
        box, color = [4, 4, 12, 12], 0
        for action, count in [(first, counts[0]), (second, counts[1])]:
            for _ in range(count):
                if action == "move right":
                    box = [box[0] + 3, box[1], box[2] + 3, box[3]]
                elif action == "move down":
                    box = [box[0], box[1] + 2, box[2], box[3] + 2]
                elif action == "grow":
                    box = [box[0], box[1], box[2] + 2, box[3] + 2]
                else:
                    color = (color + 1) % 4
                frames.append(draw(COLORS[color][0], "square", box))
        name = f"clip_{clip}.gif"
        frames[0].save(here / name, save_all=True, append_images=frames[1:], duration=250, loop=0)
        for variant in range(4):
            options = actions[variant:] + actions[:variant]
            asked = " ".join(f"({n + 1}) {a}" for n, a in enumerate(options))
            text = ("<video>\nWhich two actions happen, in their order? " + asked + "\nOutput the thinking process in "
                    "<think> </think> and final answer in <answer> </answer> tags.")
            rows.append({
                "id": len(rows),
                "conversations": [{"from": "human", "value": text},
                                  {"from": "gpt", "value": f"<answer>(1) {first} (2) {second}</answer>"}],
                "video": name,
                "meta": {"frame_cnts": counts, "min_frames": 4, "max_frames": 8, "dynamic_sample": variant % 2 == 0},
            })
    lines(here / "assembly.jsonl", rows)


shutil.rmtree(OUT, ignore_errors=True)
refcoco()
mathvista()
video()
