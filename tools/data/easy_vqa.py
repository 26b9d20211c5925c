"""Writes the easy-VQA data set (PyPI package easy-vqa 1.0) as JSON Lines that grpo-rt reads.

    python tools/data/easy_vqa.py --output_dir data/easy_vqa [--source DIR]

Gets the wheel with pip into a temporary folder, or takes --source: the wheel itself, or a folder in
which it was unpacked. Writes train.jsonl, test.jsonl and images/. Needs nothing but Python and pip.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "easy-vqa==1.0"


def find_data(source):
    """The folder that holds train/questions.json, below a wheel's unpacked content."""
    for folder in (source, source / "data", source / "easy_vqa" / "data"):
        if (folder / "train" / "questions.json").is_file():
            return folder
    sys.exit(f"{source} has no train/questions.json: give the unpacked {PACKAGE} wheel")


def unpacked(source, temp):
    if source and source.is_dir():
        return source
    if not source:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*command, "--dest", str(temp), PACKAGE], check=True)
        source = next(temp.glob("easy_vqa-*.whl"))
    with zipfile.ZipFile(source) as wheel:
        wheel.extractall(temp / "wheel")
    return temp / "wheel"


def task_of(question, answer):
    if answer in ("yes", "no"):
        return "yes_no"
    return "color" if "color" in question else "kind"


def write_split(data, split, out):
    questions = json.loads((data / split / "questions.json").read_text(encoding="utf-8"))
    images = {image: f"images/{split}-{image:05}.png" for _, _, image in questions}
    for image, name in images.items():
        shutil.copyfile(data / split / "images" / f"{image}.png", out / name)
    with open(out / f"{split}.jsonl", "w", encoding="utf-8") as file:
        for i, (question, answer, image) in enumerate(questions):
            row = {
                "id": f"{split}-{i:06}",
                "image": images[image],
                "question": question,
                "answer": answer,
                "task": task_of(question, answer),
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"{out / f'{split}.jsonl'}: {len(questions)} rows, {len(images)} images")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--source", type=Path, help="the wheel or its unpacked folder")
    args = parser.parse_args()
    (args.output_dir / "images").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temp:
        data = find_data(unpacked(args.source, Path(temp)))
        for split in ("train", "test"):
            write_split(data, split, args.output_dir)


if __name__ == "__main__":
    main()
