"""Times every op of grpo-rt on a device beside what PyTorch does for the same tensors, in turn.

    python3 tools/device_check.py --bin PROGRAM [--device cuda:0] [--rounds 2] [--out FILE]

PROGRAM prints its rows with `ops --device DEVICE --json --bench`: one JSON object per line (or one array)
with op, case, dtype (float32, bfloat16), seconds, bytes, flops and inputs, the shapes of the op's inputs.
Rows of a case whose op is NAME_bwd... are one backward pass together. --rows FILE reads them from a file
instead. A round is one run of PROGRAM and one of torch; the medians of the rounds count.

Torch's side is what its users would write: cuBLAS and scaled_dot_product_attention as they are,
everything else through torch.compile. Times are CUDA events around one call, the median of many, after
warming up; backward passes go through autograd with the forward pass left out.

Writes one JSON row per op and case to --out (default benches/results/DEVICE.jsonl) and prints a table.
`share` is the time that the device's limits allow (bytes over the bandwidth of a large copy, operations
over the rate of a large product, both measured here) over the time that we take.
"""

import argparse
import datetime
import json
import math
import re
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch
import torch._functorch.config
import torch.nn.functional as F


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", help="the built program")
    parser.add_argument("--device", default="cuda:0", help="as the program names it; torch takes its number")
    parser.add_argument("--rows", type=Path, help="rows of the program from a file")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default="", help="a regular expression that the op must match")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--torch-device", help="cpu: a dry run of this script")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if (args.bin is None) == (args.rows is None):
        parser.error("one of --bin and --rows is needed")
    return args


# --- clocks --------------------------------------------------------------------------------------


class Clock:
    """Milliseconds of one call: the median of runs that fill a tenth of a second, at least ten."""

    def __init__(self, device):
        self.device = torch.device(device)

    def once(self, run):
        if self.device.type == "cpu":
            start = time.perf_counter()
            run()
            return (time.perf_counter() - start) * 1e3
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)

    def median(self, run, budget_ms=100.0):
        for _ in range(3):
            run()
        times = [self.once(run)]
        while len(times) < 10 or (sum(times) < budget_ms and len(times) < 500):
            times.append(self.once(run))
        return statistics.median(times)


def limits(clock):
    """Bytes per second of a copy, operations per second of a product in each type."""
    small = clock.device.type == "cpu"
    a = torch.empty(1 << (24 if small else 32), dtype=torch.uint8, device=clock.device).random_(0, 255)
    b = torch.empty_like(a)
    found = {"bandwidth": 2 * a.numel() / clock.median(lambda: b.copy_(a)) * 1e3}
    del a, b
    n = 256 if small else 8192
    for dtype in (torch.bfloat16, torch.float32):
        x, y = (torch.randn(n, n, device=clock.device, dtype=dtype) for _ in range(2))
        found[str(dtype).removeprefix("torch.")] = 2 * n**3 / clock.median(lambda: x @ y) * 1e3
    return found


# --- what torch does for an op -------------------------------------------------------------------


class Work:
    """A torch form of one case: `forward` of tensors of which those in `slopes` have gradients."""

    def __init__(self, name, forward, slopes=(), compiled=True):
        self.name, self.forward, self.slopes, self.compiled = name, forward, list(slopes), compiled


class Maker:
    """Makes tensors for the shapes of a case."""

    def __init__(self, device, dtype, shapes, case):
        self.device, self.dtype, self.shapes, self.case = device, dtype, shapes, case

    def activation(self, i, slope=True):
        return torch.randn(self.shapes[i], device=self.device).to(self.dtype).requires_grad_(slope)

    def single(self, i):
        return torch.randn(self.shapes[i], device=self.device)

    def ids(self, n, end):
        return torch.randint(0, end, (n,), device=self.device)


def matmul(m):
    x, w = m.activation(0), m.activation(1)
    return Work("linear (cuBLAS)", lambda: F.linear(x, w), [x, w], compiled=False)


HEAD_DIM = 128  # of all measured cases


def attention(m):
    """Causal self-attention of one text, or a token each of several texts."""
    shapes = [(rows, columns // HEAD_DIM, HEAD_DIM) for rows, columns in m.shapes[:3]]
    decode = re.match(r"(\d+) queries of (\d+) keys", m.case)
    count = int(decode[1]) if decode else 1

    def heads(shape):
        rows, heads, width = shape
        t = torch.randn(count, rows // count, heads, width, device=m.device).to(m.dtype)
        return t.transpose(1, 2).requires_grad_(True)

    q, k, v = (heads(s) for s in shapes)
    if not decode and q.shape[2] != k.shape[2]:
        return None
    causal = not decode
    group = q.shape[1] != k.shape[1]
    sdpa = F.scaled_dot_product_attention
    run = lambda: sdpa(q, k, v, is_causal=causal, enable_gqa=group)  # noqa: E731
    return Work("scaled_dot_product_attention", run, [q, k, v], compiled=False)


def rms_norm(m):
    x, w = m.activation(0), m.single(1).to(m.dtype).requires_grad_(True)
    return Work("rms_norm", lambda: F.rms_norm(x, w.shape, w, 1e-6), [x, w])


def layer_norm(m):
    x = m.activation(0)
    w, b = (m.single(i).to(m.dtype).requires_grad_(True) for i in (1, 2))
    return Work("layer_norm", lambda: F.layer_norm(x, w.shape, w, b, 1e-6), [x, w, b])


def swiglu(m):
    gate, up = m.activation(0), m.activation(1)
    return Work("silu(gate) * up", lambda: F.silu(gate) * up, [gate, up])


def gelu(m):
    x = m.activation(0)
    if m.case.startswith("quick"):
        return Work("x * sigmoid(1.702 x)", lambda: x * torch.sigmoid(1.702 * x), [x])
    kind = "tanh" if m.case.startswith("tanh") else "none"
    return Work(f"gelu {kind}", lambda: F.gelu(x, approximate=kind), [x])


def add(m):
    a, b = m.activation(0), m.activation(1)
    return Work("a + b", lambda: a + b, [a, b])


def rope(m):
    x, cos, sin = m.activation(0), m.single(1), m.single(2)
    rows, half = cos.shape
    if "neighbours" in m.case:
        head = x.shape[1] // 16

        def turn_neighbours():
            h = x.view(rows, -1, head)
            turned = h[..., : 2 * half].unflatten(-1, (half, 2)).float()
            c, s = cos[:, None], sin[:, None]
            low, high = turned[..., 0], turned[..., 1]
            turned = torch.stack([low * c - high * s, high * c + low * s], -1).flatten(-2)
            return torch.cat([turned.to(x.dtype), h[..., 2 * half :]], -1).view_as(x)

        return Work("rotate neighbours", turn_neighbours, [x])

    def turn():
        h = x.view(rows, -1, 2, half)
        c, s = cos[:, None], sin[:, None]
        low, high = h[:, :, 0].float(), h[:, :, 1].float()
        return torch.stack([low * c - high * s, high * c + low * s], 2).to(x.dtype).view_as(x)

    return Work("rotate halves", turn, [x])


def embed(m):
    table, vision = m.activation(0), m.activation(1)
    ids = m.ids(m.shapes[2][0], m.shapes[0][0])
    place = torch.arange(m.shapes[1][0], device=m.device)
    return Work("embedding, index_copy", lambda: F.embedding(ids, table).index_copy(0, place, vision),
                [table, vision])


def gather_rows(m):
    x = m.activation(0)
    index = m.ids(m.shapes[1][0], m.shapes[0][0])
    return Work("index_select", lambda: x.index_select(0, index), [x])


def scale_columns(m):
    x, w = m.activation(0), m.single(1).to(m.dtype).requires_grad_(True)
    return Work("x * w", lambda: x * w, [x, w])


def add_rows(m):
    x, rows = m.activation(0), m.activation(1)
    place = torch.arange(m.shapes[1][0], device=m.device)
    return Work("index_add", lambda: x.index_add(0, place, rows), [x, rows])


def dropout(m):
    x = m.activation(0)
    return Work("dropout", lambda: F.dropout(x, 0.1), [x])


def linear_logprob(m):
    h, w = m.activation(0), m.activation(1)
    target = m.ids(m.shapes[0][0], m.shapes[1][0])[:, None]

    def head():
        logits = F.linear(h, w).float()
        lse = torch.logsumexp(logits, -1, keepdim=True)
        with torch.no_grad():
            entropy = lse - (torch.exp(logits - lse) * logits).sum(-1, keepdim=True)
        return logits.gather(1, target) - lse, lse, entropy

    return Work("linear, logsumexp, gather, entropy", head, [h, w])


def adamw(m):
    n = max(math.prod(s) for s in m.shapes)
    p = torch.nn.Parameter(torch.randn(n, device=m.device))
    p.grad = torch.randn_like(p)
    optimizer = torch.optim.AdamW([p], fused=True)
    copy = torch.empty(n, device=m.device, dtype=m.dtype) if "copy" in m.case else None

    def step():
        optimizer.step()
        if copy is not None:
            copy.copy_(p.detach())

    return Work("AdamW(fused=True)", step, compiled=False)


def grad_norm(m):
    gradients = [torch.randn(s, device=m.device) for s in m.shapes]
    return Work("get_total_norm", lambda: torch.nn.utils.get_total_norm(gradients), compiled=False)


def sample(m):
    logits = m.single(0)
    return Work("softmax, multinomial", lambda: torch.multinomial(torch.softmax(logits, -1), 1), compiled=False)


FORMS = {f.__name__: f for f in (matmul, attention, rms_norm, layer_norm, swiglu, gelu, add, rope, embed,
                                 gather_rows, scale_columns, add_rows, dropout, linear_logprob, adamw, grad_norm,
                                 sample)}


class Torch:
    """Torch's times of one case; compiled once, measured every round."""

    def __init__(self, clock, row, eager):
        dtype = getattr(torch, row["dtype"])
        maker = Maker(clock.device, dtype, [tuple(s) for s in row.get("inputs", [])], row["case"])
        form = FORMS.get(row["op"])
        self.clock = clock
        self.work = form(maker) if form and maker.shapes else None
        self.name = self.work and self.work.name
        if self.work and self.work.compiled and not eager:
            torch._dynamo.reset()
            self.work.forward = torch.compile(self.work.forward, mode="max-autotune-no-cudagraphs")
            self.name += ", compiled"

    def forward(self):
        with torch.no_grad():
            return self.work and self.clock.median(self.work.forward)

    def backward(self):
        if not self.work or not self.work.slopes:
            return None
        out = self.work.forward()
        out = out[0] if isinstance(out, tuple) else out
        slope = torch.randn_like(out)
        run = lambda: torch.autograd.grad(out, self.work.slopes, slope, retain_graph=True)  # noqa: E731
        return self.clock.median(run)


# --- rows ----------------------------------------------------------------------------------------


def program_rows(args):
    if args.rows:
        text = args.rows.read_text()
    else:
        command = [args.bin, "ops", "--device", args.device, "--json", "--bench"]
        text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    text = text.strip()
    rows = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
    wanted = {"op", "case", "dtype", "seconds", "bytes", "flops"}
    for row in rows:
        if missing := wanted - row.keys():
            sys.exit(f"a row of the program lacks {sorted(missing)}: {row}")
    return rows


def passes(rows):
    """(op, case, dtype) -> {"forward": row, "backward": sum of rows}, with the forward pass's shapes."""
    found = defaultdict(dict)
    for row in rows:
        base, _, rest = row["op"].partition("_bwd")
        which = "backward" if "_bwd" in row["op"] else "forward"
        sums = found[base, row["case"], row["dtype"]].setdefault(which, dict.fromkeys(("seconds", "bytes", "flops"), 0.0))
        for key in ("seconds", "bytes", "flops"):
            sums[key] += row[key]
        if which == "forward":
            sums["inputs"] = row.get("inputs", [])
        del rest
    return found


def measure(args, clock):
    """Rounds of both sides: (op, case, dtype, pass) -> (our row, our times, torch's times, torch's form)."""
    results, torches = {}, {}
    for round_ in range(args.rounds):
        for (op, case, dtype), both in passes(program_rows(args)).items():
            if not re.search(args.only, op) or "forward" not in both:
                continue
            key = (op, case, dtype)
            try:
                if key not in torches:
                    row = {"op": op, "case": case, "dtype": dtype, "inputs": both["forward"]["inputs"]}
                    torches[key] = Torch(clock, row, args.eager)
                side = torches[key]
                theirs = {"forward": side.forward(), "backward": "backward" in both and side.backward() or None}
                name = side.name
            except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
                print(f"torch failed on {op}, {case}, {dtype}: {str(error).splitlines()[0]}", file=sys.stderr)
                torches[key] = Torch(clock, {"op": "", "case": "", "dtype": dtype}, True)
                theirs, name = {"forward": None, "backward": None}, None
            for which, row in both.items():
                _, ours, other, _ = results.setdefault((*key, which), (row, [], [], name))
                ours.append(row["seconds"] * 1e3)
                if theirs[which] is not None:
                    other.append(theirs[which])
        print(f"round {round_ + 1} of {args.rounds} done", file=sys.stderr)
    return results


def table(results, rates, device):
    today = datetime.date.today().isoformat()
    rows = []
    for (op, case, dtype, which), (row, ours, theirs, name) in results.items():
        mine = statistics.median(ours)
        other = statistics.median(theirs) if theirs else None
        limit = max(row["bytes"] / rates["bandwidth"], row["flops"] / rates[dtype]) * 1e3
        rows.append({
            "op": op if which == "forward" else f"{op}_bwd", "case": case, "dtype": dtype, "device": device,
            "ours_ms": round(mine, 6), "torch_ms": other and round(other, 6),
            "ratio": other and round(other / mine, 3), "bytes": row["bytes"], "flops": row["flops"],
            "limit_ms": round(limit, 6), "share": round(limit / mine, 3),
            "torch": name, "torch_version": torch.__version__, "date": today,
        })
    return rows


def main():
    args = arguments()
    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    # A backward pass is timed many times over one forward pass.
    torch._functorch.config.donated_buffer = False
    number = args.device.rpartition(":")[2]
    clock = Clock(args.torch_device or f"cuda:{number}")
    on_cpu = clock.device.type == "cpu"
    device = "cpu (dry run)" if on_cpu else torch.cuda.get_device_name(clock.device)
    rates = limits(clock)
    print(f"{device}: " + ", ".join(f"{k} {v:.3g}/s" for k, v in rates.items()), file=sys.stderr)
    rows = table(measure(args, clock), rates, device)
    slug = re.sub(r"[^a-z0-9]+", "_", device.lower()).strip("_")
    out = args.out or Path(__file__).resolve().parent.parent / f"benches/results/{slug}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    header = {"device": device, "torch_version": torch.__version__, "rounds": args.rounds, "rates": rates}
    out.write_text("".join(json.dumps(r) + "\n" for r in [header, *rows]))
    print(f"{'op':<22} {'case':<34} {'type':<9} {'ours ms':>9} {'torch ms':>9} {'torch/ours':>10} {'of limit':>8}")
    for r in rows:
        other = "-" if r["torch_ms"] is None else f"{r['torch_ms']:.4f}"
        ratio = "-" if r["ratio"] is None else f"{r['ratio']:.2f}"
        print(f"{r['op']:<22} {r['case']:<34} {r['dtype']:<9} {r['ours_ms']:>9.4f} {other:>9} {ratio:>10} "
              f"{r['share']:>7.0%}")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
