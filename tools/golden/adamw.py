"""Golden values of AdamW, gradient clipping and learning-rate schedules.

Ten steps of torch.optim.AdamW (single-tensor form) in float64 and float32 on three tensors with weight decay
and clip_grad_norm_, and the learning rates of transformers' schedules over 20 steps.

Made with torch 2.15.0, transformers 5.23.0. Run: python tools/golden/adamw.py --out tests/data/adamw
"""

import argparse
import json
from pathlib import Path

import torch
import transformers

STEPS = 10
SHAPES = [[3, 4], [5], [2, 2]]


def adamw(case):
    g = torch.Generator().manual_seed(case["seed"])
    start = [torch.randn(s, generator=g) for s in SHAPES]
    # One large step, so that clipping acts in some steps and not in others.
    grads = [[torch.randn(s, generator=g) * (0.1 if step % 3 else 2.0) for s in SHAPES] for step in range(STEPS)]
    out = dict(case, start=[t.flatten().tolist() for t in start],
               grads=[[t.flatten().tolist() for t in step] for step in grads])
    for name, dtype in [("f64", torch.float64), ("f32", torch.float32)]:
        params = [torch.nn.Parameter(t.to(dtype)) for t in start]
        optimizer = torch.optim.AdamW(
            params, lr=case["lr"], betas=tuple(case["betas"]), eps=case["eps"], weight_decay=case["weight_decay"],
            foreach=False, fused=False)
        norms = []
        for step in grads:
            for p, t in zip(params, step, strict=True):
                p.grad = t.to(dtype).clone()
            norm = (torch.nn.utils.clip_grad_norm_(params, case["max_grad_norm"]) if case["max_grad_norm"] > 0
                    else torch.nn.utils.get_total_norm([p.grad for p in params]))
            norms.append(norm.item())
            optimizer.step()
        out[name] = dict(
            grad_norms=norms, params=[p.detach().flatten().tolist() for p in params],
            exp_avg=[optimizer.state[p]["exp_avg"].flatten().tolist() for p in params],
            exp_avg_sq=[optimizer.state[p]["exp_avg_sq"].flatten().tolist() for p in params])
    return out


def schedule(name, lr, warmup, total):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = transformers.get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=total)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])  # the rate that update number len(rates) uses
        optimizer.step()
        scheduler.step()
    return dict(name=name, lr=lr, warmup_steps=warmup, total_steps=total, rates=rates)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    base = dict(lr=0.01, betas=[0.9, 0.999], eps=1e-8, weight_decay=0.1, max_grad_norm=1.0)
    result = dict(
        versions={"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__},
        shapes=SHAPES,
        adamw=[adamw(dict(base, seed=0)), adamw(dict(base, seed=1, weight_decay=0.0, max_grad_norm=0.0)),
               adamw(dict(base, seed=2, betas=[0.9, 0.95], eps=1e-6, lr=0.3))],
        schedules=[schedule(n, 2e-4, w, t) for n in ["constant", "constant_with_warmup", "linear", "cosine"]
                   for w, t in [(0, 20), (5, 20), (3, 15)]],
    )
    (out / "adamw.json").write_text(
        json.dumps(result, separators=(",", ":")).replace('{"lr"', '\n{"lr"').replace('{"name"', '\n{"name"') + "\n")


if __name__ == "__main__":
    main()
