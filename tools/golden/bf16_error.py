"""How far transformers in bfloat16 is from itself in float32 on the golden models: the yardstick for
our own bfloat16. Writes tests/data/qwen2_5_vl/bf16.json.

    python tools/golden/bf16_error.py

Ran with torch 2.15.0, transformers 5.23.0.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import Qwen2_5_VLForConditionalGeneration

DATA = Path(__file__).resolve().parents[2] / "tests/data/qwen2_5_vl"


def relative(got, want):
    """Distance in the 2-norm, relative to the expected tensor."""
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


def error(name):
    golden = load_file(DATA / name / "expected.safetensors")
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(DATA / name, dtype=torch.bfloat16)
    ids = golden["input_ids"].long().reshape(1, -1)
    out = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=golden["pixel_values"].bfloat16(),
        image_grid_thw=golden["image_grid_thw"].long(),
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
    )
    logits = out.logits[0].float()
    labels = golden["labels"].long().reshape(-1)
    loss = torch.nn.functional.cross_entropy(logits[:-1], labels[1:], ignore_index=-100)
    loss.backward()
    wanted = {n[len("grad.") :]: t for n, t in golden.items() if n.startswith("grad.")}
    grads = {n: p.grad.float() for n, p in model.named_parameters() if n in wanted}
    assert set(grads) == set(wanted), sorted(set(wanted) - set(grads))
    both = [torch.cat([g[n].reshape(-1).float() for n in sorted(wanted)]) for g in (grads, wanted)]
    return {"logits": relative(logits, golden["logits"]), "gradients": relative(*both)}


if __name__ == "__main__":
    errors = {name: error(name) for name in ("tied", "untied", "grouped")}
    (DATA / "bf16.json").write_text(json.dumps(errors, indent=2) + "\n")
    print(json.dumps(errors, indent=2))
