"""Loads what grpo-rt saves into the field's tools, and what they save into grpo-rt, for every family.

    python tools/golden/families/roundtrip.py --program target/release/grpo-rt [--only qwen3_vl] [--names FILE]

For each golden folder, on its chat of one picture:
  adapter  `grpo-rt sft` with a LoRA on each preset of --lora_target_modules; PEFT loads it with no key too many or too
           few, and the logits are those of `grpo-rt trace --adapter`
  model    `grpo-rt sft` of all weights; the saved folder has the names and shapes of the folder that was read, the
           reference loads it whole, and the logits are those of `grpo-rt trace`
  peft     adapters that PEFT makes (by names, whole names and patterns, with some excluded, "all-linear") with random
           factors; the logits are those of `grpo-rt trace --adapter`, and training that goes on from them saves the
           same keys. Those on convolutions and on the head have to be refused.
The reference is transformers, or the restatements of this folder for layouts that only remote code has; token ids
and pixels are those of the trace (golden files compare them with the processors'). --names writes what PEFT calls the
factors of each preset, for tests/saved_files.rs. Exit code 1 if anything is wrong or above --tolerance, relative to
the largest logit.

Made with torch 2.15.0, transformers 5.23.0, peft 0.21.2, and for internvl_chat sentencepiece 0.2.3.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from itertools import groupby
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForImageTextToText
from transformers.utils import logging

from glm4v_9b import ChatGLM
from internvl_chat_model import InternVLChat

DATA = Path(__file__).resolve().parents[3] / "tests/data"
# Module paths of a family's parts, as the beginning of a regular expression: language model, vision tower with what
# belongs to it, connector. Layers that are the connector's are not the vision tower's.
VISUAL = (r"model\.language_model\.", r"model\.visual\.", r"model\.visual\.(merger|deepstack_merger_list)\.")
PARTS = {
    "qwen2_vl": VISUAL, "qwen2_5_vl": VISUAL, "qwen2_5_vl_video": VISUAL, "qwen3_vl": VISUAL,
    "qwen3_vl_moe": VISUAL, "glm4v": VISUAL,
    "internvl": (r"model\.language_model\.", r"model\.vision_tower\.", r"model\.multi_modal_projector\."),
    "internvl_chat": (r"language_model\.model\.", r"vision_model\.", r"mlp1\."),
    "glm4v_9b": (r"transformer\.encoder\.", r"transformer\.vision\.", r"transformer\.vision\.linear_proj\."),
}
PRESETS = ["language", "language-attention", "vision", "connector"]


def folders(only):
    found = sorted(DATA.glob("families/*/*")) + [DATA / "qwen2_5_vl/tied", DATA / "qwen2_5_vl/untied"]
    return {f"{f.parent.name}/{f.name}": f for f in found if only in f"{f.parent.name}/{f.name}"}


def modules_of(model, family, preset):
    """Names of the linear layers that a preset word means."""
    language, vision, connector = PARTS[family]
    of = {"language": language, "language-attention": language, "vision": vision, "connector": connector}[preset]
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and re.match(of, n)]
    if preset == "vision":
        names = [n for n in names if not re.match(connector, n)]
    if preset == "language-attention":
        names = [n for n in names if re.search(r"\.(self_attn|self_attention|attention)\.", n)]
    return names


class Reference:
    """The model of a folder in transformers, or as restated here; float32."""

    def __init__(self, folder, weights=None):
        self.config, self.problems = json.loads((folder / "config.json").read_text()), {}
        kind = self.config["architectures"][0]
        restated = {"InternVLChatModel": InternVLChat, "ChatGLMModel": ChatGLM}.get(kind)
        if restated:
            self.model = restated(self.config).float()
            result = self.model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
            tied = self.config.get("llm_config", {}).get("tie_word_embeddings")
            missing = [k for k in result.missing_keys if not (tied and k == "language_model.lm_head.weight")]
            self.problems = {"missing": missing, "unexpected": result.unexpected_keys}
            # PEFT's class for causal language models asks for it, as published classes have it
            self.model.prepare_inputs_for_generation = None
        else:
            self.model, self.problems = AutoModelForImageTextToText.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
        self.problems = {k: sorted(v) for k, v in self.problems.items() if v}
        self.model.eval()
        self.restated = restated

    def logits(self, trace, model=None):
        """[T, V] for the ids and pixels of a trace."""
        model, ids, pixels = model or self.model, trace["input_ids"].flatten().long(), trace["pixel_values"]
        with torch.no_grad():
            if self.restated is InternVLChat:
                # the one id that stands where features are
                image = ids[(ids[1:] == ids[:-1]).nonzero()[0, 0]].item()
                return model(ids, self.tiles(pixels), image)
            if self.restated is ChatGLM:
                begin, end = ((ids == self.config[f"{k}_token_id"]).nonzero()[0, 0] for k in ("boi", "eoi"))
                place = torch.arange(begin, end + 1)
                return model(ids, trace["position_ids"][0].long(), self.tiles(pixels), place)
            if "InternVL" in self.config["architectures"][0]:
                return model(input_ids=ids[None], pixel_values=self.tiles(pixels), use_cache=False).logits[0]
            kinds = (ids == self.config["image_token_id"]).int()
            return model(input_ids=ids[None], mm_token_type_ids=kinds[None], pixel_values=pixels,
                         image_grid_thw=trace["image_grid_thw"].long(), use_cache=False).logits[0]

    def tiles(self, patches):
        """Rows of patches [tiles * rows * columns, 3 * side * side] as pictures [tiles, 3, height, width]."""
        c = self.config["vision_config"]
        patch, size = (v[0] if isinstance(v, list) else v for v in (c["patch_size"], c["image_size"]))
        n = size // patch
        return patches.reshape(-1, n, n, 3, patch, patch).permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, size, size)


class Program:
    def __init__(self, path, folder, work):
        self.path, self.folder, self.work = path.resolve(), folder, work
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("GRPO_RT_")}
        rows = [{"image": str(folder / f"images/{n}.png"), "question": "What color is it?", "answer": a}
                for n, a in [("a", "The answer is blue."), ("b", "two circles")]]
        (work / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))

    def run(self, *words, fails=False):
        done = subprocess.run([self.path, *map(str, words), "--quiet"], env=self.env, capture_output=True, text=True)
        if (done.returncode != 0) != fails:
            raise RuntimeError(f"grpo-rt {words[0]} ended with {done.returncode}: {done.stderr.strip()[-600:]}")
        return done.stderr

    def sft(self, name, *options):
        out = self.work / name
        self.run("sft", "--model", self.folder, "--dataset_name", self.work / "rows.jsonl", "--batch_size", 2,
                 "--max_steps", 2, "--lr", 1e-2, "--output_dir", out, *options)
        return out

    def trace(self, *options, model=None, fails=False):
        file = self.work / "trace.safetensors"
        said = self.run("trace", "--model", model or self.folder, "--messages", self.folder / "messages_one.json",
                        "--out", file, *options, fails=fails)
        if fails:
            return said
        trace = load_file(file)
        golden = load_file(self.folder / "expected_one.safetensors")
        ids, want = trace["input_ids"].flatten(), golden["input_ids"].flatten()
        if "ChatGLM" not in (self.folder / "config.json").read_text():
            assert torch.equal(ids, want), "token ids differ from the golden ones"
        trace["input_ids"] = want  # glm-4v-9b: tokens in the places of features differ, nobody reads them
        return trace


def difference(trace, logits):
    want = trace["logits"].reshape(logits.shape)
    return ((logits - want).abs().max() / want.abs().max()).item()


def peft_keys(model):
    return sorted(get_peft_model_state_dict(model))


def adapters_of_ours(name, folder, program):
    """(preset, largest difference); and what PEFT calls the factors of each preset."""
    names, rows = {}, []
    for preset in PRESETS:
        reference = Reference(folder)
        modules = modules_of(reference.model, name.split("/")[0], preset)
        made = get_peft_model(reference.model, LoraConfig(r=4, target_modules=exactly(modules)))
        names[preset] = peft_keys(made)
        saved = program.sft(f"adapter-{preset}", "--use_peft", "--lora_r", 4, "--lora_target_modules", preset)
        keys = sorted(load_file(saved / "adapter_model.safetensors"))
        assert keys == names[preset], (preset, sorted(set(keys) ^ set(names[preset]))[:6])
        reference = Reference(folder)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loaded = PeftModel.from_pretrained(reference.model, saved).eval()
        said = [str(w.message) for w in caught if "adapter" in str(w.message)]
        assert not said, said
        assert peft_keys(loaded) == keys, (preset, sorted(set(keys) ^ set(peft_keys(loaded)))[:6])
        trace = program.trace("--adapter", saved)
        plain = program.trace()
        assert not torch.equal(plain["logits"], trace["logits"]), "the adapter changes nothing"
        rows.append((preset, difference(trace, reference.logits(trace, loaded.get_base_model()))))
    return names, rows


def exactly(modules):
    """A pattern of these module names and no others (PEFT matches names in a list as ends)."""
    return "|".join(re.escape(m) for m in modules)


def model_of_ours(folder, program):
    saved = program.sft("model", "--tune_mm_vision", "--tune_mm_mlp")
    before, after = load_file(folder / "model.safetensors"), load_file(saved / "model.safetensors")
    shapes = [{k: list(t.shape) for k, t in d.items()} for d in (before, after)]
    assert shapes[0] == shapes[1], sorted(set(map(str, shapes[0].items())) ^ set(map(str, shapes[1].items())))[:6]
    same = [k for k in before if torch.equal(before[k], after[k])]
    assert not same, f"not trained: {same[:6]}"
    reference = Reference(saved)
    assert not reference.problems, reference.problems
    trace = program.trace(model=saved)
    return [("all weights", difference(trace, reference.logits(trace)))]


def peft_targets(model, family):
    """What people give as target_modules."""
    by_part = {p: modules_of(model, family, p) for p in PRESETS}

    def ends(names):
        return {re.search(r"\w+(\.\d+)*$", n)[0] for n in names}

    attention = ends(by_part["language-attention"])
    convolutions = ends(n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Conv3d)))
    every = ends(n for names in by_part.values() for n in names)
    # PEFT refuses a name that belongs to something else too; a convolution comes below
    others = [n for n, m in model.named_modules() if not isinstance(m, nn.Linear)]
    every = {e for e in every if not any(n == e or n.endswith(f".{e}") for n in others)}
    two = attention & {"q_proj", "v_proj"} or attention
    # PEFT knows the head of a model of transformers and leaves it out
    heads = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n not in sum(by_part.values(), [])]
    return {
        "attention names": dict(target_modules=sorted(two)),
        "every name": dict(target_modules=sorted(every)),
        "whole names": dict(target_modules=by_part["vision"][-2:] + by_part["connector"] + by_part["language"][:2]),
        "less some": dict(target_modules=sorted(every), exclude_modules=sorted(two)),
        "all-linear": dict(target_modules="all-linear", exclude_modules=heads),
        # as other trainers write them; looking ahead is Python's
        "pattern": dict(target_modules=rf"^({PARTS[family][0][:-2]}(?=\.).*\.({'|'.join(sorted(two))}))$"),
    }, [sorted(convolutions), heads]


def peft_adapter(folder, out, options):
    reference = Reference(folder)
    torch.manual_seed(0)
    made = get_peft_model(reference.model, LoraConfig(r=4, lora_alpha=6, **options)).eval()
    for n, p in made.named_parameters():
        if "lora_B" in n:
            p.data = 0.2 * torch.randn(p.shape)
    made.save_pretrained(out)
    return reference, made


def adapters_of_peft(name, folder, program):
    rows = []
    targets, refused = peft_targets(Reference(folder).model, name.split("/")[0])
    for i, (what, options) in enumerate(targets.items()):
        out = program.work / f"peft-{i}"
        reference, made = peft_adapter(folder, out, options)
        trace = program.trace("--adapter", out)
        rows.append((what, difference(trace, reference.logits(trace, made.get_base_model()))))
        keys, goes_on = (sorted(load_file(d / "adapter_model.safetensors")) for d in (
            out, program.sft(f"next-{i}", "--adapter", out)))
        assert keys == goes_on, sorted(set(keys) ^ set(goes_on))[:6]
    for i, names in enumerate(refused):
        out = program.work / f"refused-{i}"
        peft_adapter(folder, out, dict(target_modules=names))
        said = program.trace("--adapter", out, fails=True)
        assert "fits no module" in said or "has no place in the model" in said, said
    return rows


def collapse(names):
    """Names with both factors as one, `lora_{A,B}`, and runs of layers as ranges, `{0..3}`."""
    found = {}
    for name in names:
        m = re.search(r"\.(layers|blocks|layer|deepstack_merger_list)\.(\d+)\.", name)
        key, number = (name[: m.start(2)] + "#" + name[m.end(2):], int(m[2])) if m else (name, None)
        found.setdefault(re.sub("lora_[AB]", "lora_{A,B}", key), []).append(number)
    lines = []
    for key, numbers in found.items():
        assert all(numbers.count(n) == 2 for n in numbers), key
        if numbers[0] is None:
            lines.append(key)
            continue
        for _, run in groupby(enumerate(sorted(set(numbers))), lambda x: x[1] - x[0]):
            run = [n for _, n in run]
            lines.append(key.replace("#", f"{{{run[0]}..{run[-1]}}}" if len(run) > 1 else str(run[0])))
    return sorted(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--names", type=Path)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    all_names, wrong = {}, 0
    for name, folder in folders(args.only).items():
        def adapter(program):
            all_names[name], rows = adapters_of_ours(name, folder, program)
            return rows

        checks = {"adapter": adapter, "model": lambda p: model_of_ours(folder, p),
                  "peft": lambda p: adapters_of_peft(name, folder, p)}
        for check, do in checks.items():
            with tempfile.TemporaryDirectory() as work:
                try:
                    rows = do(Program(args.program, folder, Path(work)))
                    bad = [r for r in rows if not r[1] <= args.tolerance]
                    result = ", ".join(f"{what} {d:.1e}" for what, d in rows)
                except Exception as e:  # the other folders are still worth a look
                    bad, result = [e], f"{type(e).__name__}: {e}"
            wrong += bool(bad)
            print(f"{'WRONG' if bad else 'ok   '} {name:26} {check:8} {result}", flush=True)
    if args.names:
        collapsed = {n: {p: collapse(keys) for p, keys in presets.items()} for n, presets in all_names.items()}
        args.names.write_text(json.dumps(collapsed, indent=1) + "\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
