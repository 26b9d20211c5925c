"""Trains a tiny model with every tracker on and reads what they got with the tools of the field.

    python tools/golden/trackers.py --program target/debug/grpo-rt --dir FOLDER

Event files are read by tensorboard, completions by pandas and beside a file that TRL itself writes of the
same completions, the offline run of Weights & Biases by the client's own record types. The folder is
emptied first. Made with tensorboard 2.21.0, wandb 0.31.0, trl 1.16.0, pandas 3.1.1, pyarrow 26.0.1 and
Pillow; the Python that runs this is the one whose wandb the program uses. Prints the versions and
`all checks passed`.
"""

import argparse
import collections
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import types
from unittest import mock

STEPS = 3
TRAIN = (
    "train --model new --dataset_name shapes/train.jsonl --num_generations 2 --batch_size 4 "
    "--max_completion_length 8 --reward_funcs format exact --beta 0.04 --threads 2 --save_steps 2 "
    "--report_to tensorboard wandb jsonl --log_completions --run_name colours --project grpo-rt-check "
    "--output_dir run"
)
# TRL 1.16 with `beta` above 0 and `loss_type dapo`, and the end of the Hugging Face trainer.
SCALARS = """
loss grad_norm learning_rate num_tokens step_time epoch reward reward_std frac_reward_zero_std entropy kl
rewards/format/mean rewards/format/std rewards/exact/mean rewards/exact/std completions/mean_length
completions/min_length completions/max_length completions/mean_terminated_length
completions/min_terminated_length completions/max_terminated_length completions/clipped_ratio
clip_ratio/low_mean clip_ratio/low_min clip_ratio/high_mean clip_ratio/high_max clip_ratio/region_mean
sampling/sampling_logp_difference/mean sampling/sampling_logp_difference/max
train_runtime train_samples_per_second train_steps_per_second total_flos train_loss
""".split()


def run(program, folder, words):
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("GRPO_RT_", "WANDB_"))}
    keep["WANDB_MODE"] = "offline"
    subprocess.run([program, *words], cwd=folder, env=keep, check=True, stderr=subprocess.PIPE)


def check_events(folder):
    import tensorboard
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    print("tensorboard", tensorboard.__version__)
    kept = {"scalars": 0, "tensors": 0, "images": 0, "histograms": 0}
    events = EventAccumulator(str(folder), size_guidance=kept)
    events.Reload()
    tags = events.Tags()
    missing = [name for name in SCALARS if f"train/{name}" not in tags["scalars"]]
    assert not missing, missing
    assert [s.step for s in events.Scalars("train/loss")] == list(range(1, STEPS + 1))

    def text(tag):
        event = events.Tensors(f"{tag}/text_summary")[0]
        return tensor_util.make_ndarray(event.tensor_proto)[0].decode()

    assert "| run_name | `colours` |" in text("args")
    assert "model_type" in text("model_config")
    assert "| format | exact | reward | advantage |" in text("completions")
    for name in ("reward", "completion_length", "advantage", "log_ratio", "entropy"):
        value = events.Histograms(f"histograms/{name}")[0].histogram_value
        assert value.num == sum(value.bucket) > 0, name
    from PIL import Image
    import io

    image = events.Images("completions/prompt_0/image_0")[0]
    assert Image.open(io.BytesIO(image.encoded_image_string)).size == (image.width, image.height)


def written_by_trl(table, folder):
    """The parquet file that TRL's trainer writes of the same completions."""
    import transformers
    import trl
    from trl.trainer import grpo_trainer

    print("trl", trl.__version__)
    plain = table.to_pylist()
    logs = {
        "prompt": [row["prompt"] for row in plain],
        "completion": [row["completion"] for row in plain],
        "rewards": {name: [row[name] for row in plain] for name in table.column_names[3:-1]},
        "advantages": [row["advantage"] for row in plain],
        "extra": {},
        "images": [],
    }
    (folder / "completions").mkdir(parents=True)
    trainer = object.__new__(grpo_trainer.GRPOTrainer)
    trainer.model = types.SimpleNamespace(training=True)
    trainer._metrics = {"train": collections.defaultdict(list)}
    trainer._logs = logs
    trainer.accelerator = types.SimpleNamespace(is_main_process=True)
    trainer.state = types.SimpleNamespace(global_step=plain[0]["step"])
    trainer.args = types.SimpleNamespace(report_to=[], output_dir=str(folder))
    trainer.log_completions, trainer.num_completions_to_print = True, None
    trainer.log_unique_prompts = False
    with mock.patch.object(transformers.Trainer, "log"), mock.patch.object(
        grpo_trainer, "is_rich_available", lambda: False
    ):
        trainer.log({})
    return next((folder / "completions").glob("*.parquet"))


def check_completions(run_folder, scratch):
    import pandas
    import pyarrow
    import pyarrow.parquet

    print("pandas", pandas.__version__, "pyarrow", pyarrow.__version__)
    ours = run_folder / "completions" / "completions_00001.parquet"
    table = pyarrow.parquet.read_table(ours)
    theirs = written_by_trl(table, scratch)
    assert theirs.name == ours.name, theirs
    other = pyarrow.parquet.read_table(theirs)
    assert table.column_names == other.column_names, (table.schema, other.schema)
    for field in other.schema:
        assert table.schema.field(field.name).type == field.type, field
    assert table.to_pylist() == other.to_pylist()
    pandas.testing.assert_frame_equal(pandas.read_parquet(ours), pandas.read_parquet(theirs))


def records(path):
    """Records of a `.wandb` file: a log of LevelDB's format behind seven bytes, each record a protobuf."""
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    assert data[:4] == b":W&B", data[:7]
    at, parts = 7, []
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        if kind == 0:
            at += left
            continue
        parts.append(data[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


def name_of(item):
    return "/".join(item.nested_key) if item.nested_key else item.key


def check_wandb(run_folder):
    import wandb

    print("wandb", wandb.__version__)
    kept = json.loads((run_folder / "wandb_run.json").read_text())
    assert kept["project"] == "grpo-rt-check" and kept["name"] == "colours", kept
    folders = sorted((run_folder / "wandb").glob("offline-run-*"))
    assert len(folders) == 2, "the run and the session that resumed it"
    losses, tables, histograms, config, exits = [], 0, set(), {}, []
    for folder in folders:
        (log,) = folder.glob("*.wandb")
        assert kept["id"] in log.name, (kept, log)
        for record in records(log):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                assert record.run.run_id == kept["id"]
                config.update({u.key: json.loads(u.value_json) for u in record.run.config.update})
            if kind == "artifact" and record.artifact.type == "run_table":
                check_table({c.path: c.local_path for c in record.artifact.manifest.contents})
            if kind == "exit":
                exits.append(record.exit.exit_code)
            if kind != "history":
                continue
            items = {name_of(i): json.loads(i.value_json) for i in record.history.item}
            if "train/loss" in items:
                losses.append((items["train/global_step"], items["train/loss"]))
            if "completions/path" in items:
                tables += 1
            for name in ("reward", "entropy"):
                if f"histograms/{name}/bins" in items:
                    histograms.add(name)
                    counts = items[f"histograms/{name}/values"]
                    assert len(items[f"histograms/{name}/bins"]) == len(counts) + 1, name
    metrics = [json.loads(line) for line in (run_folder / "metrics.jsonl").open()]
    assert losses == [(m["step"], m["loss"]) for m in metrics], (losses, metrics)
    assert tables == len(metrics) and exits == [0, 0], (tables, exits)
    assert histograms == {"reward", "entropy"}, histograms
    assert config["max_steps"] == STEPS + 1 or config["max_steps"] == STEPS, config


def check_table(files):
    """A table of the client's with its images, as it waits to be sent."""
    from PIL import Image

    table = json.loads(pathlib.Path(files["completions.table.json"]).read_text())
    want = ["step", "prompt", "completion", "format", "exact", "advantage", "image"]
    assert table["columns"] == want, table["columns"]
    assert len(table["data"]) == 4
    for row in table["data"]:
        assert row[1][0]["role"] == "user" and row[2][0]["role"] == "assistant", row
        assert isinstance(row[5], float) and len(row[6]) == 1, row
        picture = row[6][0]
        size = Image.open(files[picture["path"]]).size
        assert size == (picture["width"], picture["height"]), picture


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", type=pathlib.Path, required=True)
    parser.add_argument("--dir", type=pathlib.Path, required=True)
    args = parser.parse_args()
    program, folder = str(args.program.resolve()), args.dir.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run(program, folder, "data make-shapes --output_dir shapes --num_rows 8 --seed 1".split())
    new = "init --preset tiny --vocab_size 320 --dataset_name shapes/train.jsonl --seed 1 --output_dir new"
    run(program, folder, new.split())
    python = ["--python", sys.executable]
    run(program, folder, f"{TRAIN} --max_steps {STEPS}".split() + python)
    check_events(folder / "run" / "runs")
    check_completions(folder / "run", folder / "trl")
    more = f"{TRAIN} --max_steps {STEPS + 1} --resume_from_checkpoint true".split()
    run(program, folder, more + python)
    check_wandb(folder / "run")
    print("all checks passed")


if __name__ == "__main__":
    main()
