"""Writes the two workloads of the comparison from easy-VQA rows, as the JSON Lines that grpo-rt reads.

    python tools/compare/make_data.py --source DIR --out DIR [--rows N] [--image_size N]

--source is a folder with train.jsonl and images, as tools/data/easy_vqa.py writes it. Each workload is a
folder with rows.jsonl and images/: `small` has the images of 64 x 64 pixels as they are (4 image
tokens), `image` has them enlarged to --image_size (896 x 896: 1,024 image tokens). Both have the same
rows: questions whose answer is yes (see make_model.py), each about another image, so no image can be
shared between prompts.
"""

import argparse
import json
import shutil
from pathlib import Path

from PIL import Image


def choose(source, count):
    """The first `count` rows answered with yes, each with an image that no other chosen row has."""
    chosen, seen = [], set()
    with open(source / "train.jsonl", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if row["answer"] == "yes" and row["image"] not in seen:
                seen.add(row["image"])
                chosen.append({k: row[k] for k in ("id", "image", "question", "answer")})
            if len(chosen) == count:
                return chosen
    raise SystemExit(f"{source} has {len(chosen)} fitting rows, {count} are wanted")


def write(source, out, rows, size):
    (out / "images").mkdir(parents=True, exist_ok=True)
    with open(out / "rows.jsonl", "w", encoding="utf-8") as file:
        for row in rows:
            name = f"images/{Path(row['image']).name}"
            if size is None:
                shutil.copyfile(source / row["image"], out / name)
            else:
                picture = Image.open(source / row["image"]).convert("RGB")
                picture.resize((size, size), Image.Resampling.BICUBIC).save(out / name)
            file.write(json.dumps(row | {"image": name}, ensure_ascii=False) + "\n")
    print(f"{out / 'rows.jsonl'}: {len(rows)} rows")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--image_size", type=int, default=896, help="width and height in the workload `image`")
    args = parser.parse_args()
    rows = choose(args.source, args.rows)
    write(args.source, args.out / "small", rows, None)
    write(args.source, args.out / "image", rows, args.image_size)


if __name__ == "__main__":
    main()
