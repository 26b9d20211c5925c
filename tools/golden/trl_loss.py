"""Golden values of the GRPO losses and advantages, computed by TRL's own code.

The loss is `GRPOTrainer._compute_loss` (for gmpo `GMPOTrainer._compute_loss`) bound to an object that has
only the attributes it reads, with the per-token log-probs and entropies as leaf variables. The advantages
and the ratios of sampler and trainer are the statements of `GRPOTrainer._generate_and_score_completions`
that compute them, cut out of the installed source by its syntax tree and run as they are. What TRL lacks is
written out below, each with its paper, in plain torch. All arithmetic is in float64 on float32 inputs.

Made with torch 2.15.0, trl 1.16.0. Run: python tools/golden/trl_loss.py --out tests/data/trl
"""

import argparse
import ast
import inspect
import json
import math
import textwrap
from collections import defaultdict
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import torch
import trl
from trl import GRPOTrainer
from trl.experimental.gmpo import GMPOTrainer
from trl.trainer import grpo_trainer

ROWS, TOKENS = 6, 5


class OneProcess:
    """The accelerator of a run on one process."""

    num_processes = 1
    sync_gradients = True

    def gather(self, x):
        return x

    gather_for_metrics = gather

    def pad_across_processes(self, x, dim, pad_index):
        return x

    def reduce(self, x, reduction):
        return x


def single(x):
    """Rounds to float32 so that the JSON is exact in a float32 program, too."""
    return x.to(torch.float32).to(torch.float64)


def make_inputs(seed):
    g = torch.Generator().manual_seed(seed)
    shape = (ROWS, TOKENS)
    logps = single(-1.5 + 0.8 * torch.randn(shape, generator=g))
    old = single(logps + 0.45 * torch.randn(shape, generator=g))
    ref = single(logps + 0.4 * torch.randn(shape, generator=g))
    lengths = torch.randint(1, TOKENS + 1, (ROWS,), generator=g)
    mask = (torch.arange(TOKENS) < lengths[:, None]).long()
    mask[0] = 0  # a truncated completion under mask_truncated_completions
    advantages = single(torch.rand(ROWS, generator=g) + 0.3) * torch.tensor([1.0, 1, -1, 1, -1, -1])
    advantages[1] = 0.0
    sampled = single(old + 0.15 * torch.randn(shape, generator=g))
    entropies = single(2.0 * torch.rand(shape, generator=g))
    return dict(logps=logps, old=old, ref=ref, mask=mask, advantages=advantages, sampled=sampled,
                entropies=entropies)


def statement(wanted):
    """Compiles a statement of `GRPOTrainer._generate_and_score_completions`, found by a predicate."""
    source = textwrap.dedent(inspect.getsource(GRPOTrainer._generate_and_score_completions))
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.If) and wanted(node)]
    assert len(found) == 1, len(found)
    return compile(ast.Module(found, []), "trl", "exec")


def sampler_ratio(inputs, mode, least, most):
    """TRL's `vllm_importance_sampling_ratio`."""
    code = statement(lambda node: ast.unparse(node.test) == "self.use_vllm and self.vllm_importance_sampling_correction"
                     and "vllm_importance_sampling_ratio = torch.exp" in ast.unparse(node))
    space = dict(
        vars(grpo_trainer), old_per_token_logps=inputs["old"], sampling_per_token_logps=inputs["sampled"],
        completion_mask=inputs["mask"], tool_mask=None,
        self=SimpleNamespace(use_vllm=True, vllm_importance_sampling_correction=True,
                             vllm_importance_sampling_mode=mode, vllm_importance_sampling_clip_min=least,
                             vllm_importance_sampling_clip_max=most),
    )
    exec(code, space)  # noqa: S102 (TRL's own statement)
    return space["vllm_importance_sampling_ratio"]


def compute(inputs, case):
    logps = inputs["logps"].clone().requires_grad_()
    entropies = inputs["entropies"].clone().requires_grad_()
    corrected = case["correction"] is not None
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (logps, entropies, None),
        aux_loss_enabled=False, top_entropy_quantile=case["top_entropy_quantile"],
        off_policy_mask_threshold=case["off_policy"], use_vllm=corrected,
        vllm_importance_sampling_correction=corrected,
        _entropy_bonus_enabled=case["entropy_coef"] != 0.0, entropy_coef=case["entropy_coef"],
        use_adaptive_entropy=False, _metrics={"train": defaultdict(list)}, accelerator=OneProcess(),
        model=SimpleNamespace(training=True), importance_sampling_level=case["importance_sampling_level"],
        beta=case["beta"], loss_type=case["loss_type"], epsilon_low=case["epsilon"],
        epsilon_high=case["epsilon_high"], max_completion_length=case["max_completion_length"],
        current_gradient_accumulation_steps=case["gradient_accumulation_steps"],
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask, get_gamma_weights=GRPOTrainer.get_gamma_weights,
        args=SimpleNamespace(use_bias_correction_kl=case["use_bias_correction_kl"], delta=case["delta"],
                             steps_per_generation=case["steps_per_generation"],
                             sapo_temperature_pos=1.0, sapo_temperature_neg=1.05,
                             vespo_k_pos=2.0, vespo_lambda_pos=3.0, vespo_k_neg=3.0, vespo_lambda_neg=2.0),
    )
    trainer.get_high_entropy_mask = lambda *a: GRPOTrainer.get_high_entropy_mask(trainer, *a)
    ids = torch.zeros(ROWS, TOKENS, dtype=torch.long)
    batch = dict(
        prompt_ids=ids[:, :0], prompt_mask=ids[:, :0], completion_ids=ids, completion_mask=inputs["mask"],
        advantages=inputs["advantages"], old_per_token_logps=inputs["old"] if case["old_logps"] else None,
        ref_per_token_logps=inputs["ref"], num_items_in_batch=torch.tensor(float(case["num_items_in_batch"])),
    )
    if corrected:
        batch["importance_sampling_ratio"] = sampler_ratio(inputs, case["correction"], *case["correction_range"])
        batch["sampling_per_token_logps"] = inputs["sampled"]
    owner = GMPOTrainer if case["loss_type"] == "gmpo" else GRPOTrainer
    loss = owner._compute_loss(trainer, None, batch)
    loss.backward()
    metrics = {k: v[0] for k, v in trainer._metrics["train"].items() if not math.isnan(v[0]) and k != "entropy"}
    out = dict(case, loss=loss.item(), grad=logps.grad.flatten().tolist(), metrics=metrics)
    if case["entropy_coef"]:
        out["entropy_grad"] = entropies.grad.flatten().tolist()
    return out


BASE = dict(epsilon=0.2, epsilon_high=0.2, delta=None, gradient_accumulation_steps=1, steps_per_generation=1,
            num_items_in_batch=17, max_completion_length=8, importance_sampling_level="token", old_logps=True,
            use_bias_correction_kl=False, off_policy=None, correction=None, correction_range=[None, 3.0],
            top_entropy_quantile=1.0, entropy_coef=0.0)
RANGE = {"cispo": dict(epsilon_high=1.1), "gmpo": dict(epsilon=0.4, epsilon_high=0.3)}
MODES = ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


def loss_cases():
    step = {"gradient_accumulation_steps": 2, "steps_per_generation": 4}
    for loss_type, beta in product(["grpo", "bnpo", "dr_grpo", "dapo"], [0.0, 0.04]):
        for change in [{}, {"epsilon_high": 0.28}, {"delta": 1.3}, {"old_logps": False},
                       {"importance_sampling_level": "sequence"}, step]:
            yield dict(BASE, loss_type=loss_type, beta=beta) | change
    # The KL term with the probability ratio, the default of TRL; the largest beta makes it the main term.
    for loss_type, beta in product(["grpo", "dapo"], [0.04, 1.0]):
        for change in [{}, {"epsilon_high": 0.28}, {"old_logps": False}, step]:
            yield dict(BASE, loss_type=loss_type, beta=beta, use_bias_correction_kl=True) | change
    # Every loss on every level, without a KL and with it, both ways.
    every = ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo", "luspo"]
    for loss_type, level in product(every, ["token", "sequence"]):
        case = dict(BASE, loss_type=loss_type, importance_sampling_level=level) | RANGE.get(loss_type, {})
        for kl in [dict(beta=0.0), dict(beta=0.3), dict(beta=0.3, use_bias_correction_kl=True)]:
            yield case | kl
            yield case | kl | step | {"old_logps": False}
    for beta in [0.0, 0.3]:
        case = dict(BASE, loss_type="gmpo", beta=beta) | RANGE["gmpo"]
        yield from [case, case | step, case | {"top_entropy_quantile": 0.63}]
    # Masks, corrections and the entropy's reward.
    for loss_type, level in product(["grpo", "dapo", "cispo", "sapo", "vespo"], ["token", "sequence"]):
        case = dict(BASE, loss_type=loss_type, importance_sampling_level=level, beta=0.1,
                    use_bias_correction_kl=True) | RANGE.get(loss_type, {})
        yield from [case | {"off_policy": 0.05}, case | {"top_entropy_quantile": 0.37}]
        yield case | {"entropy_coef": 0.02, "top_entropy_quantile": 0.37} | step
        for mode in MODES[:2] if loss_type == "vespo" else MODES:
            yield case | {"correction": mode, "correction_range": [0.9, 1.1]}
        yield case | {"correction": "token_mask", "off_policy": 0.1}
    yield dict(BASE, loss_type="bnpo", beta=0.0, entropy_coef=0.5)


def clip(x, low, high):
    return torch.clamp(x, low, high)


def written(inputs, name, **o):
    """Losses that TRL lacks, by their papers; the tokens of all counted completions are averaged."""
    logps, mask, A = inputs["logps"].clone().requires_grad_(), inputs["mask"], inputs["advantages"][:, None]
    log_ratio = logps - inputs["old"]
    ratio = log_ratio.exp()
    x = logps - inputs["ref"]
    kl = {None: 0.0 * x, "k1": x, "k2": x * x / 2, "k3": (-x).exp() + x - 1}[o.get("kl")]
    if name == "gspo_token":
        # GSPO, arXiv 2507.18071, eq. 14: s = sg(sequence ratio) * pi / sg(pi).
        mean = (log_ratio * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
        ratio = mean.exp().detach() * (logps - logps.detach()).exp()
        policy = -torch.min(ratio * A, clip(ratio, 0.8, 1.28) * A)
    elif name == "cispo_relative":
        # MiniMax-M1, arXiv 2506.13585, eq. 4 and 5.
        policy = -clip(ratio, 1 - 0.2, 1 + 0.28).detach() * A * logps
    elif name == "dual_clip":
        # Ye et al., arXiv 1912.09729, eq. 5.
        inner = torch.min(ratio * A, clip(ratio, 0.8, 1.28) * A)
        policy = -torch.where(A < 0, torch.max(inner, 1.4 * A), inner)
    elif name == "clipped":
        policy = -torch.min(ratio * A, clip(ratio, 0.8, 1.28) * A)
    else:
        # The video project's loss, its advantage scaled: -alpha * A * log pi, with A in the inputs.
        policy = -0.5 * A * logps
    if o.get("ratio"):
        kl = kl * ratio
    loss = ((policy + o.get("beta", 0.0) * kl) * mask).sum() / mask.sum()
    loss.backward()
    return dict(name=name, kl=o.get("kl"), ratio=o.get("ratio", False), beta=o.get("beta", 0.0),
                loss=loss.item(), grad=logps.grad.flatten().tolist())


def written_cases(inputs):
    for name in ["gspo_token", "cispo_relative", "dual_clip", "reward_weighted"]:
        yield written(inputs, name)
        yield written(inputs, name, kl="k3", beta=0.2)
    for kl, ratio in product(["k1", "k2", "k3"], [False, True]):
        yield written(inputs, "clipped", kl=kl, beta=0.2, ratio=ratio)
    yield written(inputs, "gspo_token", kl="k2", beta=0.2, ratio=True)


def written_advantages():
    """Estimators that TRL lacks; standard deviations are unbiased, 1e-4 is added to them."""
    groups = torch.tensor([[1.0, 0.0, 0.5, 2.0], [3.0, 3.0, 3.0, 3.0], [0.25, 1.0, -1.0, 1.0]], dtype=torch.float64)
    n = groups.shape[1]
    others = (groups.sum(1, keepdim=True) - groups) / (n - 1)
    centred = groups - groups.mean(1, keepdim=True)
    top = groups.topk(2, dim=1)
    lead = torch.zeros_like(groups).scatter(1, top.indices[:, :1], top.values[:, :1] - top.values[:, 1:])
    yield dict(name="rloo", advantages=(groups - others))  # arXiv 2402.14740, section 3.2
    yield dict(name="reinforce_plus_plus", advantages=(groups - groups.mean()) / (groups.std() + 1e-4))  # 2501.03262
    yield dict(name="reinforce_plus_plus_baseline",
               advantages=(centred - centred.mean()) / (centred.std() + 1e-4))  # ibid.
    yield dict(name="pass_k", advantages=lead / (groups.std(1, keepdim=True) + 1e-4))  # 2503.19595


def advantage_code():
    """Compiles TRL's `if self.multi_objective_aggregation == ...` statement and the line after it."""
    source = textwrap.dedent(inspect.getsource(GRPOTrainer._generate_and_score_completions))
    body = ast.parse(source).body[0].body
    first = next(i for i, node in enumerate(body)
                 if isinstance(node, ast.If) and "self.multi_objective_aggregation" in ast.unparse(node.test))
    assert ast.unparse(body[first + 1]).startswith("advantages = torch.nan_to_num")
    return compile(ast.Module(body[first:first + 2], []), "trl", "exec")


def advantage_cases():
    code = advantage_code()
    nan = float("nan")
    tables = {
        "two rewards": (4, [1.0, 0.5], [[1, 0], [0, 1], [1, 1], [0, 0], [0.5, 1], [0.5, 1], [0.5, 1], [0.5, 1]]),
        "one reward": (3, [1.0], [[0.1], [0.7], [0.4], [1], [1], [0], [-2], [5], [3.5]]),
        "a reward that does not apply": (2, [1.0, 2.0], [[1, nan], [0, nan], [nan, 0.25], [0.5, 0.75]]),
        "an unscorable completion": (4, [1.0], [[1], [nan], [0], [0], [nan], [nan], [nan], [2]]),
    }
    ways = [("sum_then_normalize", scale) for scale in ["group", "batch", "none"]] + [("normalize_then_sum", "group")]
    for (name, (group, weights, rows)), (aggregation, scale) in product(tables.items(), ways):
        rewards_per_func = torch.tensor(rows, dtype=torch.float64)
        space = dict(
            vars(grpo_trainer), rewards_per_func=rewards_per_func, num_generations=group,
            unscorable_mask=torch.isnan(rewards_per_func).all(dim=1), device=torch.device("cpu"),
            self=SimpleNamespace(multi_objective_aggregation=aggregation, scale_rewards=scale,
                                 reward_weights=torch.tensor(weights, dtype=torch.float64), reward_funcs=weights),
        )
        exec(code, space)  # noqa: S102 (TRL's own statement)
        yield dict(
            name=name, num_generations=group, reward_weights=weights, scale_rewards=scale, aggregation=aggregation,
            rewards=[[None if math.isnan(x) else x for x in row] for row in rewards_per_func.tolist()],
            advantages=space["advantages"].tolist(), is_std_zero=space["is_std_zero"].tolist(),
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    inputs = make_inputs(0)
    result = dict(
        versions={"torch": torch.__version__.split("+")[0], "trl": trl.__version__},
        rows=ROWS, tokens=TOKENS, inputs={k: v.flatten().tolist() for k, v in inputs.items()},
        losses=[compute(inputs, case) for case in loss_cases()],
        advantages=list(advantage_cases()), written=list(written_cases(inputs)),
        written_advantages=[dict(a, advantages=a["advantages"].flatten().tolist()) for a in written_advantages()],
    )
    first, delta = result["losses"][0], result["losses"][2]
    assert first["metrics"]["clip_ratio/low_mean"] > 0 and first["metrics"]["clip_ratio/high_mean"] > 0
    assert delta["delta"] is not None and delta["loss"] != first["loss"]
    ratio = next(c for c in result["losses"] if c["use_bias_correction_kl"])
    plain = next(c for c in result["losses"] if c["loss_type"] == ratio["loss_type"] and c["beta"] == ratio["beta"])
    assert ratio["loss"] != plain["loss"] and ratio["metrics"]["kl"] != plain["metrics"]["kl"]
    result = json.loads(json.dumps(result), parse_float=lambda x: float(f"{float(x):.10g}"))
    text = json.dumps(result, separators=(",", ":"), allow_nan=False).replace('{"epsilon"', '\n{"epsilon"')
    (out / "grpo.json").write_text(text.replace('{"name"', '\n{"name"') + "\n")


if __name__ == "__main__":
    main()
