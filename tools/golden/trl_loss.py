"""Golden values of the GRPO losses and advantages, computed by TRL's own code.

The loss is `GRPOTrainer._compute_loss` bound to an object that has only the attributes it reads, with the
per-token log-probs as leaf variables. The advantages are the statement of
`GRPOTrainer._generate_and_score_completions` that turns rewards into advantages, cut out of the installed
source by its syntax tree and run as it is. All arithmetic is in float64 on float32 inputs.

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
from trl.trainer import grpo_trainer

ROWS, TOKENS = 6, 5


class OneProcess:
    """The accelerator of a run on one process."""

    num_processes = 1
    sync_gradients = True

    def gather(self, x):
        return x

    gather_for_metrics = gather

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
    return dict(logps=logps, old=old, ref=ref, mask=mask, advantages=advantages)


def compute(inputs, case):
    logps = inputs["logps"].clone().requires_grad_()
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (logps, torch.zeros_like(logps), None),
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None, use_vllm=False,
        _entropy_bonus_enabled=False, _metrics={"train": defaultdict(list)}, accelerator=OneProcess(),
        model=SimpleNamespace(training=True), importance_sampling_level=case["importance_sampling_level"],
        beta=case["beta"], loss_type=case["loss_type"], epsilon_low=case["epsilon"],
        epsilon_high=case["epsilon_high"], max_completion_length=case["max_completion_length"],
        current_gradient_accumulation_steps=case["gradient_accumulation_steps"],
        args=SimpleNamespace(use_bias_correction_kl=case["use_bias_correction_kl"], delta=case["delta"],
                             steps_per_generation=case["steps_per_generation"]),
    )
    ids = torch.zeros(ROWS, TOKENS, dtype=torch.long)
    loss = GRPOTrainer._compute_loss(trainer, None, dict(
        prompt_ids=ids[:, :0], prompt_mask=ids[:, :0], completion_ids=ids, completion_mask=inputs["mask"],
        advantages=inputs["advantages"], old_per_token_logps=inputs["old"] if case["old_logps"] else None,
        ref_per_token_logps=inputs["ref"], num_items_in_batch=torch.tensor(float(case["num_items_in_batch"])),
    ))
    loss.backward()
    metrics = {k: v[0] for k, v in trainer._metrics["train"].items() if not math.isnan(v[0]) and k != "entropy"}
    return dict(case, loss=loss.item(), grad=logps.grad.flatten().tolist(), metrics=metrics)


def loss_cases():
    base = dict(epsilon=0.2, epsilon_high=0.2, delta=None, gradient_accumulation_steps=1, steps_per_generation=1,
                num_items_in_batch=17, max_completion_length=8, importance_sampling_level="token", old_logps=True,
                use_bias_correction_kl=False)
    for loss_type, beta in product(["grpo", "bnpo", "dr_grpo", "dapo"], [0.0, 0.04]):
        for change in [{}, {"epsilon_high": 0.28}, {"delta": 1.3}, {"old_logps": False},
                       {"importance_sampling_level": "sequence"},
                       {"gradient_accumulation_steps": 2, "steps_per_generation": 4}]:
            yield dict(base, loss_type=loss_type, beta=beta) | change
    for beta in [0.0, 0.04]:
        yield dict(base, loss_type="cispo", beta=beta, epsilon_high=1.1)
    # The KL term with the probability ratio, the default of TRL; the largest beta makes it the main term.
    for loss_type, beta in product(["grpo", "dapo"], [0.04, 1.0]):
        for change in [{}, {"epsilon_high": 0.28}, {"old_logps": False},
                       {"gradient_accumulation_steps": 2, "steps_per_generation": 4}]:
            yield dict(base, loss_type=loss_type, beta=beta, use_bias_correction_kl=True) | change


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
    for (name, (group, weights, rows)), scale in product(tables.items(), ["group", "batch", "none"]):
        rewards_per_func = torch.tensor(rows, dtype=torch.float64)
        space = dict(
            vars(grpo_trainer), rewards_per_func=rewards_per_func, num_generations=group,
            unscorable_mask=torch.isnan(rewards_per_func).all(dim=1), device=torch.device("cpu"),
            self=SimpleNamespace(multi_objective_aggregation="sum_then_normalize", scale_rewards=scale,
                                 reward_weights=torch.tensor(weights, dtype=torch.float64)),
        )
        exec(code, space)  # noqa: S102 (TRL's own statement)
        yield dict(
            name=name, num_generations=group, reward_weights=weights, scale_rewards=scale,
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
        advantages=list(advantage_cases()),
    )
    first, delta = result["losses"][0], result["losses"][2]
    assert first["metrics"]["clip_ratio/low_mean"] > 0 and first["metrics"]["clip_ratio/high_mean"] > 0
    assert delta["delta"] is not None and delta["loss"] != first["loss"]
    ratio = next(c for c in result["losses"] if c["use_bias_correction_kl"])
    plain = next(c for c in result["losses"] if c["loss_type"] == ratio["loss_type"] and c["beta"] == ratio["beta"])
    assert ratio["loss"] != plain["loss"] and ratio["metrics"]["kl"] != plain["metrics"]["kl"]
    text = json.dumps(result, separators=(",", ":"), allow_nan=False).replace('{"epsilon"', '\n{"epsilon"')
    (out / "grpo.json").write_text(text.replace('{"name"', '\n{"name"') + "\n")


if __name__ == "__main__":
    main()
