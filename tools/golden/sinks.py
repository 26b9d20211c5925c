"""Reads what a run leaves with the tools of the field and checks it.

    cargo test --release --test sinks -- --nocapture    # writes the files, prints the folder
    python tools/golden/sinks.py --dir FOLDER           # reads them with tensorboard and pandas
    python tools/golden/sinks.py --records              # prints the golden records of src/io/tfevents.rs

Made with tensorboard 2.21.0, pandas 3.1.1 and pyarrow 26.0.1. Prints the versions and `all checks passed`.
"""

import argparse
import io
import json
import pathlib


def golden_records():
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter

    version = event_pb2.Event(wall_time=1.5, file_version="brain.Event:2")
    value = summary_pb2.Summary.Value(tag="train/loss", simple_value=-0.25)
    scalar = event_pb2.Event(wall_time=1.5, step=300, summary=summary_pb2.Summary(value=[value]))
    for name, event in [("VERSION_RECORD", version), ("SCALAR_RECORD", scalar)]:
        out = io.BytesIO()
        RecordWriter(out).write(event.SerializeToString())
        print(name, out.getvalue().hex())


def check_events(folder):
    import tensorboard
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    print("tensorboard", tensorboard.__version__)
    acc = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "images": 0})
    acc.Reload()
    tags = acc.Tags()
    reward = [(s.step, round(s.value, 6)) for s in acc.Scalars("train/reward")]
    assert reward == [(1, 0.25), (2, 0.5), (3, 0.75)], reward
    assert [s.step for s in acc.Scalars("eval/reward")] == [3], tags
    assert acc.Scalars("train/rewards/format/mean")[0].value == 1.0
    assert "train/kl" in tags["scalars"] and len(acc.Scalars("train/kl")) == 2, "NaN is left out"

    text = acc.Tensors("args/text_summary")[0]
    assert tensor_util.make_ndarray(text.tensor_proto)[0].decode() == "| a | b |\n|---|---|\n| é | 1 |"
    metadata = acc.SummaryMetadata("args/text_summary")
    assert metadata.plugin_data.plugin_name == "text"

    h = acc.Histograms("rewards")[0].histogram_value
    assert (h.num, h.min, h.max, h.sum) == (5, -1.0, 1.0, 1.0), h
    assert sum(h.bucket) == 5 and len(h.bucket) == len(h.bucket_limit)

    image = acc.Images("sample")[0]
    assert (image.width, image.height) == (3, 2)
    from PIL import Image

    assert Image.open(io.BytesIO(image.encoded_image_string)).size == (3, 2)


def check_resumed_events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    acc = EventAccumulator(str(folder), purge_orphaned_data=True)
    acc.Reload()
    values = [(s.step, s.value) for s in acc.Scalars("train/loss")]
    assert values == [(1, 1.0), (2, 20.0), (3, 30.0)], values


def check_completions(path):
    import pandas
    import pyarrow
    import pyarrow.parquet

    print("pandas", pandas.__version__, "pyarrow", pyarrow.__version__)
    schema = pyarrow.parquet.read_schema(path)
    part = pyarrow.struct([("type", pyarrow.string()), ("text", pyarrow.string())])
    message = pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.list_(part))])
    said = pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())])
    want = [
        ("step", pyarrow.int64()),
        ("prompt", pyarrow.list_(message)),
        ("completion", pyarrow.list_(said)),
        ("accuracy", pyarrow.float64()),
        ("format", pyarrow.float64()),
        ("advantage", pyarrow.float64()),
    ]
    assert [f.name for f in schema] == [n for n, _ in want], schema
    for (name, kind), field in zip(want, schema):
        assert field.type == kind, (name, field.type, kind)

    table = pandas.read_parquet(path)
    assert len(table) == 3
    assert table["step"].tolist() == [4, 4, 4]
    assert table["format"].tolist()[:2] == [1.0, 0.0] and pandas.isna(table["format"][2])
    assert table["advantage"].tolist() == [0.5, -0.5, 0.0]
    prompt = table["prompt"][0]
    assert prompt[0]["role"] == "user"
    parts = [(p["type"], p["text"]) for p in prompt[0]["content"]]
    assert parts == [("image", None), ("text", "How many? ŵ")], parts
    assert table["completion"][1][0] == {"role": "assistant", "content": "no\n\"tags\""}
    assert len(table["prompt"][2]) == 2


def check_metrics(path):
    rows = [json.loads(line) for line in open(path)]
    assert [r["step"] for r in rows] == [1, 2, 3, 3], rows
    assert list(rows[0])[:2] == ["step", "epoch"]
    assert rows[0]["kl"] is None and rows[1]["kl"] == 0.125


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dir", type=pathlib.Path)
    parser.add_argument("--records", action="store_true")
    args = parser.parse_args()
    if args.records:
        golden_records()
    if args.dir:
        check_events(args.dir / "runs")
        check_resumed_events(args.dir / "resumed")
        check_completions(args.dir / "completions" / "completions_00004.parquet")
        check_metrics(args.dir / "metrics.jsonl")
        print("all checks passed")


if __name__ == "__main__":
    main()
