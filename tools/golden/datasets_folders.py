"""Data sets as Hugging Face `datasets` writes them, with what each row must be read as.

Writes tests/data/datasets/: `saved` (a DatasetDict of `save_to_disk`, two shards of training rows), `hub` (Parquet
in the layout of the hub), `rows.parquet` and `rows.arrow` (one file each, several row groups and batches), and
`expected.json`: the columns of the eight training rows as JSON. `bomb.parquet` is one page that unpacks to 600 MiB.

Made with Python 3.11, datasets 5.2.0, pyarrow 26.0.1, Pillow 13.0.0:

    python tools/golden/datasets_folders.py
"""

import datetime
import decimal
import json
import math
import pathlib
import shutil

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as Picture, ImageDraw

OUT = pathlib.Path(__file__).parents[2] / "tests/data/datasets"
COLORS = ["red", "green", "blue", "yellow"]


def picture(i):
    image = Picture.new("RGB", (32 + 4 * (i % 3), 32), "white")
    ImageDraw.Draw(image).rectangle([4, 4, 12 + i, 20], fill=COLORS[i % 4])
    return image


def rows(first, count):
    index = range(first, first + count)
    return {
        "image": [picture(i) for i in index],
        "more": [[picture(j) for j in range(i % 3)] for i in index],
        "question": [f"Which colour is picture {i}? \u1ea2nh g\u00ec?" for i in index],
        "answer": [COLORS[i % 4] for i in index],
        "reference_steps": [[f"step {j} of {i}" for j in range(i % 4)] for i in index],
        "choices": [COLORS if i % 2 else [] for i in index],
        "source": ["chartqa" if i % 4 == 0 else "textvqa" for i in index],
        "kind": [i % 3 for i in index],
        "score": [math.nan if i == 3 else i / 8 for i in index],
        "big": [2**62 + i for i in index],
        "small": [-i for i in index],
        "ok": [None if i == 2 else i % 2 == 0 for i in index],
        "when": [datetime.datetime(2024, 2, 29, 12, 30, i) for i in index],
        "day": [datetime.date(2024, 3, 1 + i) for i in index],
        "price": [decimal.Decimal(i) / 4 for i in index],
        "meta": [{"grade": i, "tags": [f"t{i}"], "note": None if i % 2 else "x"} for i in index],
    }


FEATURES = Features({
    "image": Image(),
    "more": List(Image()),
    "question": Value("string"),
    "answer": Value("string"),
    "reference_steps": List(Value("string")),
    "choices": List(Value("string")),
    "source": Value("string"),
    "kind": ClassLabel(names=["flat", "round", "deep"]),
    "score": Value("float64"),
    "big": Value("int64"),
    "small": Value("int16"),
    "ok": Value("bool"),
    "when": Value("timestamp[us]"),
    "day": Value("date32"),
    "price": Value("decimal128(10, 2)"),
    "meta": {"grade": Value("int32"), "tags": List(Value("string")), "note": Value("large_string")},
})

LEFT_OUT = "(bytes left out)"


def expected(i, row):
    out = dict(row)
    out["image"] = {"bytes": LEFT_OUT, "path": None}
    out["more"] = [{"bytes": LEFT_OUT, "path": None} for _ in range(i % 3)]
    out["kind"] = ["flat", "round", "deep"][row["kind"]]
    out["score"] = None if math.isnan(row["score"]) else row["score"]
    out["when"] = row["when"].isoformat()
    out["day"] = row["day"].isoformat()
    out["price"] = f"{row['price']:.2f}"
    return out


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    data = rows(0, 8)
    train = Dataset.from_dict(data, features=FEATURES)
    test = Dataset.from_dict(rows(8, 2), features=FEATURES)
    DatasetDict(train=train, test=test).save_to_disk(OUT / "saved", num_shards={"train": 2, "test": 1})
    train.to_parquet(OUT / "rows.parquet", batch_size=3)
    (OUT / "hub/data").mkdir(parents=True)
    for shard in range(2):
        name = f"train-{shard:05}-of-00002.parquet"
        train.shard(2, shard, contiguous=True).to_parquet(OUT / "hub/data" / name)
    test.to_parquet(OUT / "hub/data/test-00000-of-00001.parquet")
    table = train.with_format("arrow")[:]
    with ipc.new_file(OUT / "rows.arrow", table.schema) as out:
        out.write_table(table, max_chunksize=3)
    plain = [{key: column[i] for key, column in data.items()} for i in range(8)]
    wanted = [expected(i, row) for i, row in enumerate(plain)]
    (OUT / "expected.json").write_text(json.dumps(wanted, ensure_ascii=False, indent=1) + "\n")
    bomb = pa.table({"image": pa.array([bytes(600 << 20)], pa.large_binary()), "question": ["?"], "answer": ["x"]})
    pq.write_table(bomb, OUT / "bomb.parquet", compression="zstd", compression_level=19,
                   use_dictionary=False, write_statistics=False)


main()
