"""Runs TRL and grpo-rt on the same model, rows and settings, in turn, and prints what each of them took.

    python tools/compare/compare.py --bin PROGRAM --model DIR --data DIR --out DIR
        [--workloads small image] [--sides grpo-rt:float32 trl:float32 ...] [--steps N] [--rounds N]

Every run is a process of its own; in each round each side runs once, so that what else the machine does
meets all of them. A step's time is the program's own; the time between two lines of its log, taken here,
stands beside it. Peak memory is the largest resident set of the process, from its start to its end,
as the kernel has it. The first step of a run is kept apart. Writes comparison.md and comparison.json.
"""

import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

from report import markdown

HERE = Path(__file__).resolve().parent
SIDES = {
    "grpo-rt:float32": ["--dtype", "float32"],
    "grpo-rt:bfloat16": ["--dtype", "bfloat16"],
    "trl:float32": ["--precision", "float32"],
    "trl:bfloat16": ["--precision", "bfloat16"],
    "trl:autocast": ["--precision", "autocast"],
    "trl:float32:compact": ["--precision", "float32", "--compact"],
    "trl:bfloat16:compact": ["--precision", "bfloat16", "--compact"],
    "trl:autocast:compact": ["--precision", "autocast", "--compact"],
}
# One vision pass per image and one forward per prompt, if the program says how many there were.
COUNTS = ["rollout/vision_images", "rollout/prompt_prefills", "train/vision_images", "train/prompt_forwards"]


def command(side, args, workload, out):
    """The command of one run and the file its lines go to."""
    data = args.data / workload
    if side.startswith("trl"):
        log = out / "steps.jsonl"
        words = [sys.executable, HERE / "trl_run.py", "--model", args.model, "--data", data, "--out", log]
        words += ["--steps", args.steps, "--threads", args.threads, "--seed", args.seed]
        words += ["--loss_type", args.loss_type, "--completions", args.completions]
        words += ["--num_generations", args.num_generations, "--tokens", args.tokens]
        words += ["--freeze_vision"] if args.freeze_vision else []
    else:
        log = out / "run" / "metrics.jsonl"
        words = [args.bin, "train", "--model_name_or_path", args.model, "--dataset_name", data / "rows.jsonl"]
        words += ["--output_dir", out / "run", "--overwrite_output_dir", "--reward_funcs", "exact"]
        words += ["--per_device_train_batch_size", args.completions, "--num_generations", args.num_generations]
        words += ["--max_completion_length", args.tokens, "--ignore_eos", "--temperature", 1.0]
        words += ["--beta", 0.04, "--learning_rate", 1e-6, "--loss_type", args.loss_type]
        words += ["--num_iterations", 1, "--max_steps", args.steps, "--no_shuffle_dataset"]
        words += ["--seed", args.seed, "--threads", args.threads, "--save_steps", 0]
        words += ["--report_to", "jsonl", "--quiet"]
        words += [] if args.freeze_vision else ["--tune_mm_vision", "--tune_mm_mlp"]
    return [str(w) for w in words + SIDES[side]], log


def watch(log, arrivals, stop):
    """Notes when each line of a file appears."""
    seen = 0
    while not stop.wait(0.02):
        if log.exists():
            lines = log.read_bytes().count(b"\n")
            arrivals += [time.perf_counter()] * (lines - seen)
            seen = max(seen, lines)


def run(side, args, workload, out):
    """One process; its steps, the time between its lines, its peak memory, or why there are none."""
    out.mkdir(parents=True, exist_ok=True)
    words, log = command(side, args, workload, out)
    log.unlink(missing_ok=True)
    arrivals, stop = [], threading.Event()
    watcher = threading.Thread(target=watch, args=(log, arrivals, stop))
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    with open(out / "output.txt", "wb") as output:
        begin = time.perf_counter()
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, env=environment)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - begin
    stop.set()
    watcher.join()
    if process.returncode != 0:
        text = (out / "output.txt").read_text(errors="replace").strip().splitlines() or ["no output"]
        # A traceback has its reason at the end, an error of grpo-rt at the beginning.
        why = text[-1] if side.startswith("trl") else next((t for t in text if "error" in t), text[0])
        return {"failed": f"exit {process.returncode}: {why}"}
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [line for line in lines if "step_time" in line]
    return {
        "about": next((line for line in lines if "step_time" not in line), {}),
        "steps": steps,
        "seen_from_outside": [b - a for a, b in zip(arrivals, arrivals[1:])][-(len(steps) - 1):],
        "wall": wall,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
    }


def safetensors_ids(path):
    """The tensor input_ids (int32) of a safetensors file."""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        begin, end = header["input_ids"]["data_offsets"]
        file.seek(begin, 1)
        return list(struct.unpack(f"<{(end - begin) // 4}i", file.read(end - begin)))


def compare_prompts(args, workload, runs, out):
    """Token ids of the prompts that TRL used, in the order of the rows, against those of grpo-rt."""
    used = next((r["steps"] for side, rs in runs.items() if side.startswith("trl") for r in rs if "steps" in r), [])
    used = [prompt for step in used for prompt in step["prompts"]]
    rows = [json.loads(line) for line in open(args.data / workload / "rows.jsonl", encoding="utf-8")]
    result = []
    for i, (row, theirs) in enumerate(zip(rows[: args.check_rows], used)):
        chat, trace = out / f"prompt_{i}.json", out / f"prompt_{i}.safetensors"
        image = str((args.data / workload / row["image"]).resolve())
        content = [{"type": "image", "image": image}, {"type": "text", "text": row["question"]}]
        chat.write_text(json.dumps([{"role": "user", "content": content}]))
        words = [args.bin, "trace", "--model_name_or_path", args.model, "--messages", chat, "--out", trace]
        words += ["--threads", args.threads, "--quiet"]
        subprocess.run([str(w) for w in words], check=True)
        ours = safetensors_ids(trace)
        trace.unlink()
        same = sum(a == b for a, b in zip(ours, theirs))
        differ = max(len(ours), len(theirs)) - same
        result.append({"row": row["id"], "tokens": len(ours), "trl_tokens": len(theirs), "different": differ})
    return result


def summary(side, runs, args):
    """Figures of one side over all its runs; the first step of each run is no part of the median."""
    done = [r for r in runs if "steps" in r]
    if not done:
        return {"side": side, "failed": runs[0]["failed"]}
    steps = [s for r in done for s in r["steps"][1:]]
    times = [s["step_time"] for s in steps]
    median, completion_tokens = statistics.median(times), args.completions * args.tokens
    parts = {k: statistics.median(s[k] for s in steps) for k in steps[0] if k.startswith("time/")}
    name = next(k for k in ("completion_tokens", "completions/mean_length") if k in steps[0])
    told = {s[name] * (1 if name == "completion_tokens" else args.completions) for s in steps}
    if told != {completion_tokens}:
        raise SystemExit(f"{side}: {completion_tokens} completion tokens per step expected, found {sorted(told)}")
    out = {
        "side": side,
        "about": done[0]["about"],
        "first": statistics.median(r["steps"][0]["step_time"] for r in done),
        "median": median,
        "minimum": min(times),
        "outside": statistics.median(t for r in done for t in r["seen_from_outside"]),
        "steps": len(times),
        "tokens_per_second": completion_tokens / median,
        "parts": parts,
        "cpu_seconds": min(r["cpu_seconds"] for r in done),  # of a whole run, start and end included
        "peak_bytes": max(r["peak_bytes"] for r in done),
    }
    if side.startswith("trl"):
        out["flat_steps"] = sum(s["advantage_max"] == 0 for s in steps)
    else:
        out["flat_steps"] = sum(s["frac_reward_zero_std"] == 1 for s in steps)
        out["arena_bytes"] = max(s["memory/actual_peak"] for s in steps)
        out["counts"] = {k: steps[-1].get(k) for k in COUNTS}
    return out


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=Path, required=True, help="grpo-rt")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of the workloads")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workloads", nargs="+", default=["small", "image"])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--steps", type=int, default=5, help="per run; the first is not counted")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--loss_type", choices=["dapo", "grpo"], default="dapo")
    parser.add_argument("--completions", type=int, default=16, help="per step")
    parser.add_argument("--num_generations", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64, help="per completion")
    parser.add_argument("--check_rows", type=int, default=4, help="prompts whose token ids are compared")
    parser.add_argument("--freeze_vision", action="store_true", help="train the language model only")
    args = parser.parse_args()
    if args.steps < 2:
        parser.error("--steps must be at least 2: the first is not counted")
    return args


def main():
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    report = {"settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}, "workloads": {}}
    for path in ("bin", "model", "data", "out"):  # of this machine; no part of a report
        report["settings"].pop(path)
    for workload in args.workloads:
        runs = {side: [] for side in args.sides}
        for n in range(args.rounds):
            for side in args.sides:
                if n and "failed" in runs[side][0]:
                    continue
                result = run(side, args, workload, args.out / workload / side.replace(":", "-") / f"round_{n}")
                runs[side].append(result)
                told = result.get("failed") or " ".join(f"{s['step_time']:.2f}" for s in result["steps"]) + " s"
                print(f"{workload}  round {n + 1}  {side:<21} {told}", file=sys.stderr, flush=True)
        report["workloads"][workload] = {
            "sides": [summary(side, rs, args) for side, rs in runs.items()],
            "prompts": compare_prompts(args, workload, runs, args.out / workload),
        }
        # After every workload, so that a run that is cut short leaves what it measured.
        (args.out / "comparison.json").write_text(json.dumps(report, indent=1) + "\n")
        (args.out / "comparison.md").write_text(markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    main()
