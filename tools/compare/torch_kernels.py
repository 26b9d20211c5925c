"""Times torch's matrix multiplication and attention beside grpo-rt's, in turn, on the same sizes.

    python tools/compare/torch_kernels.py [--bench COMMAND] [--rounds N] [--threads N] [--out FILE]

--bench is a command that prints lines `name seconds gflops`, one per kernel (the default builds and runs
benches/compare.rs); other lines are passed over, and a name that is missing is "not reported". A round is
one run of that command and one of torch, each taking the best of several runs of a kernel; printed are
the best round and the median one. Writes a Markdown table and, with --out, JSON. (A file named kernels.py
in this folder would hide the package of that name from transformers.)

Products are x · Wᵀ with W as a Linear layer keeps it. Attention has 16 heads of 64, S = 1024, causal,
and counts half of the square. For the backward pass, 2.5 times the operations of the forward pass.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", default="cargo bench --locked --bench compare")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    return args


ARGS = arguments()
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(ARGS.threads)

import torch  # noqa: E402

HEADS, ROWS, WIDTH = 16, 1024, 64
ATTENTION = 4 * ROWS * ROWS * WIDTH * HEADS / 2  # operations of a causal forward pass


def best(run):
    """Seconds of the best run: at least three runs and a third of a second, as in benches/compare.rs."""
    run()
    least, begin, runs = float("inf"), time.perf_counter(), 0
    while runs < 3 or time.perf_counter() - begin < 0.33:
        t = time.perf_counter()
        run()
        least = min(least, time.perf_counter() - t)
        runs += 1
    return least


def matmul(dtype, m, n, k):
    x, w = torch.rand(m, k).sub(0.5).to(dtype), torch.rand(n, k).sub(0.5).to(dtype)
    return (lambda: torch.nn.functional.linear(x, w)), 2.0 * m * n * k


def attention(dtype, backward):
    shape = (1, HEADS, ROWS, WIDTH)
    q, k, v = (torch.randn(shape).to(dtype).requires_grad_(backward) for _ in range(3))
    sdpa = torch.nn.functional.scaled_dot_product_attention
    if not backward:
        return (lambda: sdpa(q, k, v, is_causal=True)), ATTENTION
    out = sdpa(q, k, v, is_causal=True)
    slope = torch.randn(shape).to(dtype)
    return (lambda: torch.autograd.grad(out, (q, k, v), slope, retain_graph=True)), 2.5 * ATTENTION


F32, BF16 = torch.float32, torch.bfloat16
# name -> a call that makes its inputs and returns what to time and its floating-point operations
KERNELS = {
    "matmul_f32_1536": lambda: matmul(F32, 1536, 1536, 1536),
    "matmul_f32_480x8192x2048": lambda: matmul(F32, 480, 8192, 2048),
    "matmul_bf16_1536": lambda: matmul(BF16, 1536, 1536, 1536),
    "matmul_bf16_480x8192x2048": lambda: matmul(BF16, 480, 8192, 2048),
    "attention_bf16_s1024_d64_h16_causal": lambda: attention(BF16, False),
    "attention_backward_bf16_s1024_d64_h16_causal": lambda: attention(BF16, True),
}


def torch_round():
    """Seconds by name."""
    out = {}
    for name, make in KERNELS.items():
        run, _ = make()
        out[name] = best(run)
    return out


def bench_round():
    """Seconds by name, of the kernels that the benchmark knows."""
    environment = os.environ | {"RAYON_NUM_THREADS": str(ARGS.threads)}
    done = subprocess.run(shlex.split(ARGS.bench), stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        sys.exit(f"`{ARGS.bench}` failed with exit {done.returncode}")
    lines = (line.split() for line in done.stdout.splitlines())
    return {w[0]: float(w[1]) for w in lines if len(w) == 3 and w[0] in KERNELS}


def main():
    torch.set_num_threads(ARGS.threads)
    ours, theirs = {n: [] for n in KERNELS}, {n: [] for n in KERNELS}
    for i in range(ARGS.rounds):
        for kept, measured in ((ours, bench_round()), (theirs, torch_round())):
            for name, seconds in measured.items():
                kept[name].append(seconds)
        print(f"round {i + 1} of {ARGS.rounds}", file=sys.stderr, flush=True)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {ARGS.rounds} rounds; GFLOP/s\n")
    print("| kernel | torch best | torch median | grpo-rt best | grpo-rt median | grpo-rt / torch, best | median |")
    print("|---|---|---|---|---|---|---|")
    report = {}
    for name, make in KERNELS.items():
        operations = make()[1]
        rates = [[operations / t / 1e9 for t in kept[name]] for kept in (theirs, ours)]
        report[name] = {"operations": operations, "torch_seconds": theirs[name], "grpo_rt_seconds": ours[name]}
        (torch_best, torch_median), rt = ((max(r), statistics.median(r)) if r else None for r in rates)
        if rt:
            cells = [*rt, rt[0] / torch_best, rt[1] / torch_median]
            cells = [f"{c:.1f}" for c in cells[:2]] + [f"{c:.2f}" for c in cells[2:]]
        else:
            cells = ["not reported"] * 4
        print(f"| `{name}` | {torch_best:.1f} | {torch_median:.1f} | " + " | ".join(cells) + " |")
    if ARGS.out:
        ARGS.out.parent.mkdir(parents=True, exist_ok=True)
        ARGS.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
