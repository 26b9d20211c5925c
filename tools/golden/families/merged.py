"""Loads what `grpo-rt merge` writes into the field's tools, for every family.

    python tools/golden/families/merged.py --program target/debug/grpo-rt [--only qwen3_vl]

For each golden folder: `grpo-rt sft` trains an adapter, `grpo-rt merge` makes it part of the model. The merged folder has
the names, types and shapes of the base, the reference loads it whole, its logits are those of PEFT with base and
adapter, and its weights those of PEFT's merge_and_unload. The same for shards of 100 KB. Exit code 1 if anything is
wrong or above --tolerance, relative to the largest value.

Made with torch 2.15.0, transformers 5.23.0, peft 0.21.2.
"""

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

from peft import PeftModel
from roundtrip import Program, Reference, folders
from safetensors.torch import load_file


def largest(found, want):
    return ((found - want).abs().max() / want.abs().max()).item()


def weights(folder):
    files = sorted(folder.glob("model*.safetensors"))
    return {k: v for file in files for k, v in load_file(file).items()}


def check(folder, program):
    saved = program.sft("run", "--use_peft", "--lora_r", 4, "--lora_target_modules", "language", "vision", "connector",
                        "--lora_dropout", 0, "--max_steps", 3, "--lr", "5e-2")
    trace = program.trace()
    with warnings.catch_warnings(record=True):
        base = Reference(folder)
        adapted = PeftModel.from_pretrained(base.model, saved).eval()
    want = base.logits(trace, adapted.get_base_model())
    plain = Reference(folder).logits(trace)
    assert largest(plain, want) > 1e-2, "the adapter does nothing"
    rows = []
    for name, options in [("one file", []), ("shards", ["--max_shard_size", "100KB"])]:
        merged = program.work / name.replace(" ", "-")
        program.run("merge", "--model", folder, "--adapter", saved, "--output_dir", merged, *options)
        assert (merged / "model.safetensors.index.json").exists() == bool(options)
        before, after = weights(folder), weights(merged)
        assert {k: (v.shape, v.dtype) for k, v in before.items()} == {k: (v.shape, v.dtype) for k, v in after.items()}
        if not options:
            reference = Reference(merged)
        elif reference.restated:
            continue  # the restatements read one file
        else:
            reference = Reference(merged)
        assert not reference.problems, reference.problems
        rows.append((name, largest(reference.logits(trace), want)))
    unloaded = adapted.merge_and_unload().state_dict()
    same = {k: v for k, v in reference.model.state_dict().items() if k in unloaded}
    assert len(same) > 10
    rows.append(("merge_and_unload", max(largest(v.float(), unloaded[k].float()) for k, v in same.items()
                                         if v.is_floating_point() and unloaded[k].abs().max() > 0)))
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", type=Path, required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--tolerance", type=float, default=2e-5)
    args = parser.parse_args()
    bad = 0
    for name, folder in folders(args.only).items():
        with tempfile.TemporaryDirectory() as work:
            for what, off in check(folder, Program(args.program, folder, Path(work))):
                wrong = not off <= args.tolerance
                bad += wrong
                print(f"{name:32} {what:18} {off:.1e}{'  WRONG' if wrong else ''}", flush=True)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
