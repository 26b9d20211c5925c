"""One GRPO run of TRL on the CPU, measured: a line of JSON per step, the first with what was run.

    python tools/compare/trl_run.py --model DIR --data DIR --out FILE --precision float32|bfloat16|autocast
        [--compact] [--steps N] [--threads N] [--seed N] [--loss_type dapo|grpo] [--freeze_vision]

Run by tools/compare/compare.py, which gives grpo-rt the same settings. What is not set here is TRL's
default, but for gradient checkpointing, which is off because grpo-rt has none.

float32   weights and computation in float32
bfloat16  weights, gradients, moments and computation in bfloat16
autocast  weights in float32, computation in bfloat16 where torch's autocast says so (TRL's default)

--compact scores the positions of completions only. TRL does that by itself where Triton runs and
scores prompts, too, where it does not, which is here; with this option it is not held to that.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with rows.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="JSON Lines")
    parser.add_argument("--precision", choices=["float32", "bfloat16", "autocast"], required=True)
    parser.add_argument("--compact", action="store_true")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--loss_type", choices=["dapo", "grpo"], default="dapo")
    parser.add_argument("--completions", type=int, default=16, help="per step")
    parser.add_argument("--num_generations", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64, help="per completion")
    parser.add_argument("--freeze_vision", action="store_true")
    return parser.parse_args()


ARGS = arguments()
# Before torch is loaded, which reads them once.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(ARGS.threads)
os.environ["HF_HUB_OFFLINE"] = os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import datasets  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
import trl  # noqa: E402
from transformers import TrainerCallback  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402


def exact(completions, answer, **_):
    """The reward `exact` of grpo-rt, for completions of words and spaces: 1 if nothing but the answer."""
    texts = [c[0]["content"] if isinstance(c, list) else c for c in completions]
    return [float(text.strip() == a) for text, a in zip(texts, answer)]


class Clock(TrainerCallback):
    """Writes a line per step. A step lasts from the end of the one before it, so nothing is left out.

    The parts: rollout (tokenising and generating), reference (log-probabilities of the reference,
    rewards, preparing the batch a second time), forward_backward, optimizer.
    """

    def __init__(self, out):
        self.out, self.parts, self.tokens, self.prompts = out, {}, [], []

    def watch(self, trainer):
        """Puts stop-watches around four methods of a trainer; they change nothing else."""

        def timed(name, method, seen=lambda result: None):
            def call(*args, **kwargs):
                begin = time.perf_counter()
                result = method(*args, **kwargs)
                self.parts[name] = self.parts.get(name, 0.0) + time.perf_counter() - begin
                seen(result)
                return result

            return call

        trainer._generate = timed("rollout", trainer._generate, self.saw)
        trainer._generate_and_score_completions = timed("scored", trainer._generate_and_score_completions, self.scored)
        trainer.training_step = timed("step", trainer.training_step)

    def saw(self, generated):
        self.prompts, completions = [list(map(int, ids)) for ids in generated[0]], generated[1]
        self.tokens = [len(ids) for ids in completions]

    def scored(self, batch):
        self.advantage = batch["advantages"].abs().max().item()

    def on_train_begin(self, *_, **__):
        self.last = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        now, p = time.perf_counter(), self.parts
        line = {
            "step": state.global_step,
            "step_time": now - self.last,
            "time/rollout": p["rollout"],
            "time/reference": p["scored"] - p["rollout"],
            "time/forward_backward": p["step"] - p["scored"],
            "time/optimizer": now - self.last - p["step"],
            "completions/min_length": min(self.tokens),
            "completions/max_length": max(self.tokens),
            "completion_tokens": sum(self.tokens),
            "advantage_max": self.advantage,
            "prompts": self.prompts[:: ARGS.num_generations],
            "memory/peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        self.parts = {}
        with open(self.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.last = time.perf_counter()


def read_rows(folder):
    rows = [json.loads(line) for line in open(folder / "rows.jsonl", encoding="utf-8")]
    table = datasets.Dataset.from_dict({
        "prompt": [[{"role": "user", "content": r["question"]}] for r in rows],
        "image": [str(folder / r["image"]) for r in rows],
        "answer": [r["answer"] for r in rows],
    })
    return table.cast_column("image", datasets.Image())


def main():
    torch.set_num_threads(ARGS.threads)
    if ARGS.compact:
        # The only use that this module makes of the question is whether to leave prompts out.
        trl.trainer.utils._use_triton = lambda device: True
    datasets.disable_progress_bars()
    scratch = tempfile.TemporaryDirectory()
    config = GRPOConfig(
        output_dir=scratch.name,
        use_cpu=True,
        bf16=ARGS.precision == "autocast",
        model_init_kwargs={"dtype": "bfloat16" if ARGS.precision == "bfloat16" else "float32"},
        gradient_checkpointing=False,
        per_device_train_batch_size=ARGS.completions,
        num_generations=ARGS.num_generations,
        max_completion_length=ARGS.tokens,
        temperature=1.0,
        # Nothing ends a completion; costs no logits processor, as min_new_tokens would.
        generation_kwargs={"eos_token_id": None},
        beta=0.04,
        loss_type=ARGS.loss_type,
        num_iterations=1,
        learning_rate=1e-6,
        max_steps=ARGS.steps,
        seed=ARGS.seed,
        shuffle_dataset=False,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
    )
    clock = Clock(ARGS.out)
    trainer = GRPOTrainer(
        model=str(ARGS.model), reward_funcs=exact, args=config, train_dataset=read_rows(ARGS.data), callbacks=[clock]
    )
    trainer.eos_token_ids = [-1]  # no token: an end token in the middle of a completion cuts nothing off
    if ARGS.freeze_vision:
        trainer.model.model.visual.requires_grad_(False)
    clock.watch(trainer)
    weights = next(trainer.model.parameters()).dtype
    about = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": trl.__version__,
        "threads": torch.get_num_threads(),
        "weights": str(weights),
        "autocast": trainer.accelerator.mixed_precision,
        "attention": trainer.model.config._attn_implementation,
        "optimizer": str(config.optim),
        "trained": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "memory/peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    ARGS.out.write_text(json.dumps(about) + "\n", encoding="utf-8")
    trainer.train()
    scratch.cleanup()


if __name__ == "__main__":
    sys.exit(main())
