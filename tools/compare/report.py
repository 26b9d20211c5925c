"""The tables of a comparison, in Markdown. Measures nothing: tools/compare/compare.py does."""

MIB = 1 << 20


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def precision(side):
    """`trl:float32:compact` is TRL in float32, scoring completions only."""
    words = side["side"].split(":")
    return words[1] + (", completions only" if "compact" in words else "")


def program(side):
    return "TRL" if side["side"].startswith("trl") else "grpo-rt"


def figures(workload, sides):
    rows = []
    for s in sides:
        rows.append([
            workload, program(s), precision(s), f"{s['median']:.2f}", f"{s['minimum']:.2f}", f"{s['first']:.2f}",
            f"{s['outside']:.2f}", f"{s['tokens_per_second']:.1f}", f"{s['peak_bytes'] / MIB:,.0f}",
            f"{s['arena_bytes'] / MIB:,.0f}" if "arena_bytes" in s else "",
        ])
    return rows


def parts(workload, sides):
    rows = []
    for s in sides:
        p = {k.removeprefix("time/"): v for k, v in s["parts"].items()}
        named = ["rollout", "reference", "forward_backward", "optimizer"]
        other = s["median"] - sum(p[n] for n in named)
        rows.append([workload, program(s), precision(s), *(f"{p[n]:.2f}" for n in named), f"{max(other, 0):.2f}"])
    return rows


def ratios(workload, sides):
    """Every TRL side against every grpo-rt side; above 1 is in grpo-rt's favour."""
    trl = [s for s in sides if program(s) == "TRL"]
    quickest = min((s["median"] for s in trl), default=None)
    rows = []
    for ours in (s for s in sides if program(s) != "TRL"):
        for s in trl:
            rows.append([
                workload, precision(ours), precision(s) + (" (fastest)" if s["median"] == quickest else ""),
                f"{s['median'] / ours['median']:.2f}", f"{s['minimum'] / ours['minimum']:.2f}",
                f"{s['peak_bytes'] / ours['peak_bytes']:.2f}",
            ])
    return rows


def remarks(workload, w):
    """What must hold for the figures to mean anything, in sentences."""
    out = []
    for s in w["sides"]:
        if "failed" in s:
            out.append(f"{workload}, {program(s)} {precision(s)}: not run, {s['failed']}")
            continue
        if s["flat_steps"]:
            out.append(
                f"{workload}, {program(s)} {precision(s)}: {s['flat_steps']} of {s['steps']} steps had no "
                "advantage other than 0")
        if "counts" in s:
            told = ", ".join(f"{k} {'not reported' if v is None else f'{v:g}'}" for k, v in s["counts"].items())
            out.append(f"{workload}, {program(s)} {precision(s)}, per step: {told}")
    checked = w["prompts"]
    if checked:
        wrong = [p for p in checked if p["different"]]
        lengths = sorted({p["tokens"] for p in checked})
        out.append(
            f"{workload}: token ids of the first {len(checked)} prompts ({lengths[0]} to {lengths[-1]} tokens) are "
            + ("the same in both" if not wrong else "not the same: " + "; ".join(
                f"{p['row']} has {p['different']} differences ({p['tokens']} and {p['trl_tokens']} tokens)"
                for p in wrong)))
    return out


def markdown(report):
    s, rows = report["settings"], {"figures": [], "parts": [], "ratios": [], "remarks": []}
    versions = {}
    for name, w in report["workloads"].items():
        done = [side for side in w["sides"] if "failed" not in side]
        for key, make in (("figures", figures), ("parts", parts), ("ratios", ratios)):
            rows[key] += make(name, done)
        rows["remarks"] += remarks(name, w)
        for side in done:
            versions |= {k: side["about"][k] for k in ("torch", "transformers", "trl") if k in side["about"]}
    trained = "the language model" if s["freeze_vision"] else "all weights"
    told = ", ".join(f"{k} {v}" for k, v in versions.items())
    return "\n\n".join([
        f"{s['completions']} completions of {s['tokens']} tokens per step, groups of {s['num_generations']}, "
        f"{trained} trained, {s['loss_type']}, beta 0.04, {s['threads']} threads; {s['rounds']} rounds of {s['steps']} "
        f"steps, the first of each apart. {told}.",
        table(["workload", "program", "precision", "s/step", "fastest", "first", "seen from outside", "tokens/s",
               "peak MiB", "planned MiB in it"], rows["figures"]),
        "Seconds by part (medians):",
        table(["workload", "program", "precision", "rollout", "reference", "forward and backward", "optimizer",
               "other"], rows["parts"]),
        "TRL / grpo-rt, above 1 where grpo-rt takes less:",
        table(["workload", "grpo-rt", "TRL", "time", "time, fastest steps", "peak memory"], rows["ratios"]),
        "\n".join(f"- {line}" for line in rows["remarks"]),
    ]) + "\n"
