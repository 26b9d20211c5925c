"""Golden values of clip_grad_norm_ and AdamW: ten steps in f32.

Made with torch 2.x on a CPU; the exact version is written into the file.
Run: python tools/golden/optimizer.py --out tests/data/optimizer
"""

import argparse
import json
import pathlib

import torch


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(3)
    options = dict(lr=3e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
    max_norm, steps, n = 1.0, 10, 37
    start = torch.randn(n)
    param = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([param], foreach=False, fused=False, **options)
    grads, norms, params = [], [], []
    for step in range(steps):
        # Norms around 1, so that some steps are clipped and some are not.
        grad = torch.randn(n) * 0.05 * (step + 1)
        param.grad = grad.clone()
        norms.append(torch.nn.utils.clip_grad_norm_([param], max_norm).item())
        optimizer.step()
        grads.append(grad.tolist())
        params.append(param.detach().tolist())
    state = optimizer.state[param]
    golden = {
        "versions": {"torch": torch.__version__},
        "options": {**options, "max_norm": max_norm},
        "start": start.tolist(),
        "grads": grads,
        "norms": norms,
        "params": params,
        "exp_avg": state["exp_avg"].tolist(),
        "exp_avg_sq": state["exp_avg_sq"].tolist(),
    }
    (out / "adamw.json").write_text(json.dumps(golden))


if __name__ == "__main__":
    main()
