"""Loads what grpo-rt saved into the usual tools and compares logits.

    python tools/golden/peft_roundtrip.py --base DIR [--adapter DIR] --expect FILE [--messages FILE]

With --adapter, DIR holds a PEFT adapter for the model in --base; without it, --base is a full model folder that
transformers loads. The conversation in messages.json (image paths relative to its folder; default: the one in
--base) goes through the processor and the model in float32, and its logits are compared with the tensor `logits`
[T, V] of the safetensors file --expect, which `grpo-rt trace` wrote. Exit code 1 above --tolerance (relative to
the largest logit), or if the token ids in --expect (`input_ids`, if there) differ.

Made with torch 2.15.0, transformers 5.23.0, peft 0.21.2.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor


def encode(folder, messages_file, backend):
    messages = json.loads(messages_file.read_text())
    processor = AutoProcessor.from_pretrained(folder)
    # The two forms resize a little differently; grpo-rt computes what transformers takes by default.
    processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend=backend)
    paths = [part["image"] for m in messages if isinstance(m["content"], list) for part in m["content"]
             if "image" in part]
    images = [Image.open(messages_file.parent / p).convert("RGB") for p in paths]
    text = processor.apply_chat_template(messages, tokenize=False)
    return processor(text=[text], images=images or None, return_tensors="pt")


def load(base, adapter):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, report = AutoModelForImageTextToText.from_pretrained(
            base, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
        problems = {k: sorted(v) for k, v in report.items() if v}
        if adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, adapter)
    problems |= {"adapter keys": [str(w.message) for w in caught if "adapter keys" in str(w.message)]}
    return model.eval(), {k: v for k, v in problems.items() if v}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--expect", type=Path, required=True)
    parser.add_argument("--messages", type=Path)
    parser.add_argument("--backend", choices=["torchvision", "pil"], default="torchvision")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    expect = load_file(args.expect)
    inputs = encode(args.base, args.messages or args.base / "messages.json", args.backend)
    if "input_ids" in expect and expect["input_ids"].flatten().tolist() != inputs["input_ids"][0].tolist():
        sys.exit("token ids differ")
    model, problems = load(args.base, args.adapter)
    if problems:
        sys.exit(f"the files did not load cleanly: {problems}")
    with torch.no_grad():
        logits = model(**inputs, use_cache=False).logits[0]
    want = expect["logits"].to(torch.float32)
    want = want.reshape(-1, want.shape[-1])
    if want.shape != logits.shape:
        sys.exit(f"logits are {list(logits.shape)}, expected file has {list(want.shape)}")
    difference = ((logits - want).abs().max() / want.abs().max()).item()
    print(f"max relative difference of logits {difference:.3e} (allowed {args.tolerance:.0e})")
    if not difference <= args.tolerance:
        sys.exit(1)


if __name__ == "__main__":
    main()
