"""Makes tests/data/vivqa_x: a hand-made sample in the layout of ViVQA-X with drawn pictures, for
tests/data_commands.rs. Questions, answers and explanations are our own, about our own pictures; only the
layout is that of the published files (github.com/duongtruongbinh/ViVQA-X).

    python tools/golden/vivqa_x.py --out tests/data/vivqa_x

Made with Python 3.11, Pillow 13.0.0. Nothing random: a second run gives the same files.

ViVQA-X_train.json has 20 good items: one with decomposed letters, one that names its image by an id alone,
two that ask the same of one picture (which has two names) and answer it differently. ViVQA-X_val.json has
two good items beside one without its image, one that stands twice and two bad ones. ViVQA-X_test.json has
three good items.
"""

import argparse
import json
import unicodedata
from pathlib import Path

from PIL import Image, ImageDraw

COLORS = {
    "đỏ": (214, 40, 40),
    "xanh lá": (46, 160, 67),
    "xanh dương": (40, 90, 214),
    "vàng": (240, 200, 30),
    "đen": (20, 20, 20),
    "trắng": (250, 250, 250),
    "xám": (130, 130, 130),
}

# (split, COCO number): (width, height, background, shapes); a shape is its name, colour, box in percent.
PICTURES = {
    ("train2014", 9): (96, 72, "trắng", [("tròn", "đỏ", (30, 20, 70, 80))]),
    ("train2014", 25): (80, 80, "xám", [("vuông", "xanh dương", (20, 20, 60, 60))]),
    ("train2014", 30): (
        112,
        64,
        "trắng",
        [("tròn", "xanh lá", (5, 20, 35, 80)), ("tròn", "đỏ", (60, 20, 90, 80))],
    ),
    ("train2014", 34): (64, 112, "đen", [("tam giác", "vàng", (15, 30, 85, 80))]),
    ("train2014", 36): (
        96,
        96,
        "trắng",
        [("vuông", "đen", (10, 10, 40, 40)), ("tam giác", "xanh dương", (50, 50, 90, 90))],
    ),
    ("train2014", 49): (72, 72, "vàng", [("vuông", "đỏ", (25, 25, 75, 75))]),
    # The picture of number 9 under another name.
    ("train2014", 61): (96, 72, "trắng", [("tròn", "đỏ", (30, 20, 70, 80))]),
    ("val2014", 42): (96, 72, "xám", [("tròn", "vàng", (35, 25, 65, 75))]),
    ("val2014", 73): (
        80,
        80,
        "trắng",
        [("vuông", "xanh lá", (10, 30, 45, 70)), ("vuông", "đỏ", (55, 30, 90, 70))],
    ),
}

# (COCO number, question, answer, explanations)
TRAIN = [
    (9, "Hình tròn màu gì?", "đỏ", ["hình tròn được tô kín bằng màu đỏ", "màu của hình giống màu máu"]),
    (9, "Có bao nhiêu hình trong ảnh?", "một", ["chỉ có một hình tròn ở giữa ảnh"]),
    (9, "Nền của ảnh màu gì?", "trắng", ["phần xung quanh hình tròn đều trắng"]),
    (25, "Đây là hình gì?", "hình vuông", ["hình có bốn cạnh bằng nhau", "bốn góc của hình đều vuông"]),
    (25, "Hình vuông có màu đỏ không?", "không", ["hình vuông có màu xanh dương"]),
    (25, "Hình vuông nằm ở đâu?", "bên trái", ["hình nằm gần cạnh trái và cạnh trên của ảnh"]),
    (30, "Có mấy hình tròn?", "hai", ["một hình ở bên trái và một hình ở bên phải"]),
    (30, "Hình tròn bên phải màu gì?", "đỏ", ["hình ở nửa phải của ảnh có màu đỏ", "hình còn lại màu xanh lá"]),
    (30, "Hai hình có cùng màu không?", "không", ["một hình xanh lá, hình kia đỏ"]),
    (34, "Đây là hình gì?", "hình tam giác", ["hình có ba cạnh và một đỉnh nhọn ở trên"]),
    (34, "Nền của ảnh có tối không?", "có", ["nền là màu đen", "chỉ hình tam giác là sáng"]),
    (34, "Hình tam giác màu gì?", "vàng", ["ba cạnh bao quanh một vùng màu vàng"]),
    (36, "Có hình tròn nào không?", "không", ["trong ảnh chỉ có hình vuông và hình tam giác"]),
    (36, "Hình vuông màu gì?", "đen", ["hình ở góc trên bên trái có màu đen"]),
    (36, "Hình nào ở dưới?", "hình tam giác", ["hình tam giác nằm ở góc dưới bên phải"]),
    (49, "Nền của ảnh màu gì?", "vàng", ["bốn phía của hình vuông đều vàng"]),
    (49, "Hình vuông ở giữa ảnh phải không?", "có", ["khoảng cách đến bốn cạnh ảnh bằng nhau"]),
    (49, "Có bao nhiêu hình vuông?", "1", ["chỉ thấy một hình vuông màu đỏ"]),
    (61, "Hình tròn màu gì?", "màu đỏ", ["bên trong đường tròn là màu đỏ"]),
    (61, "Hình này có góc không?", "không", ["hình tròn không có góc nào"]),
]
VAL = [
    (42, "Hình tròn màu gì?", "vàng", ["hình tròn sáng màu vàng trên nền xám"]),
    (73, "Có mấy hình vuông?", "hai", ["một hình xanh lá bên trái, một hình đỏ bên phải"]),
]
TEST = [
    (42, "Nền của ảnh màu gì?", "xám", ["xung quanh hình tròn là màu xám"]),
    (73, "Hình vuông bên trái màu gì?", "xanh lá", ["hình ở nửa trái có màu xanh lá"]),
    (73, "Có hình tròn không?", "không", ["chỉ có hai hình vuông trong ảnh"]),
]


def draw(width, height, background, shapes):
    # Drawn four times as large and made small: smooth edges, the same everywhere.
    image = Image.new("RGB", (4 * width, 4 * height), COLORS[background])
    pen = ImageDraw.Draw(image)
    for shape, color, (x0, y0, x1, y1) in shapes:
        box = [4 * width * x0 // 100, 4 * height * y0 // 100, 4 * width * x1 // 100, 4 * height * y1 // 100]
        if shape == "tròn":
            pen.ellipse(box, fill=COLORS[color])
        elif shape == "vuông":
            pen.rectangle(box, fill=COLORS[color])
        else:
            corners = [(box[0], box[3]), (box[2], box[3]), ((box[0] + box[2]) // 2, box[1])]
            pen.polygon(corners, fill=COLORS[color])
    return image.resize((width, height), Image.Resampling.BOX)


def item(split, number, question, answer, explanations, place):
    kind = "yes/no" if answer in ("có", "không") else "number" if answer in ("một", "hai", "1") else "other"
    return {
        "question": question,
        "image_id": str(number),
        "image_name": f"COCO_{split}_{number:012d}.jpg",
        "explanation": explanations,
        "answer": answer,
        "question_id": f"{number}{place:03d}",
        "question_type": "none of the above",
        "answer_type": kind,
    }


def items(split, rows):
    return [item(split, *row, place) for place, row in enumerate(rows)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    for (split, number), picture in PICTURES.items():
        path = out / "coco" / split / f"COCO_{split}_{number:012d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(*picture).save(path, quality=90)
    train = items("train2014", TRAIN)
    train[7]["question"] = unicodedata.normalize("NFD", train[7]["question"])
    del train[10]["image_name"]
    val = items("val2014", VAL)
    missing = item("val2014", 77, "Có ảnh không?", "không", ["ảnh này không được vẽ"], 2)
    wrong = item("val2014", 73, "Hình nào lớn hơn?", "", ["hai hình bằng nhau"], 3)
    val += [missing, val[0], wrong, "not an item"]
    test = items("val2014", TEST)
    for name, rows in (("train", train), ("val", val), ("test", test)):
        text = json.dumps(rows, ensure_ascii=False, indent=2) + "\n"
        (out / f"ViVQA-X_{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
