"""Golden files of Qwen2.5-VL: tiny random models in full Hugging Face folders, their logits, loss and
gradients, and the index arithmetic of the architecture (window order, positions, rotary tables).

Made with torch 2.15.0, transformers 5.23.0, peft 0.21.2, tokenizers 0.23.3, safetensors 0.8.0.
Run: python tools/golden/qwen2_5_vl.py --out tests/data/qwen2_5_vl
"""

import argparse
import json
import random
import shutil
from pathlib import Path

import numpy as np
import peft
import safetensors
import tokenizers
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLRotaryEmbedding,
    Qwen2_5_VLVisionRotaryEmbedding,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.vision_utils import get_vision_cu_seqlens, get_vision_position_ids, get_vision_window_index

VERSIONS = {  # one metadata value, because the order of several is not kept
    "torch": torch.__version__.split("+")[0],
    "transformers": transformers.__version__,
    "peft": peft.__version__,
    "tokenizers": tokenizers.__version__,
    "safetensors": safetensors.__version__,
}
METADATA = {"versions": json.dumps(VERSIONS)}
SPECIALS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
# Splits words, single digits, punctuation and white space as the Qwen2 tokenizer does.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = [
    "system\nuser\nassistant\n",
    "user\nassistant\nWhat color is it? What shape is it? red blue green",
    "assistant\nThe answer is blue. The answer is two circles.",
    "user\nassistant\nCompare the images. The first is red, the second is blue.",
]
# ChatML with vision markers, the wire format of the family; no default system prompt, to stay short.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' or 'image' in c %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in c %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# name -> text sizes, vision sizes. Every head size, grouping, window and tie that the code branches on
# occurs once: windows are partial for most images, and both window and full attention occur.
MODELS = {
    "tied": dict(
        text=dict(hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                  num_key_value_heads=1, rope_theta=1e6, mrope_section=[4, 6, 6], tie=True, eps=1e-6),
        vision=dict(hidden_size=16, intermediate_size=24, depth=3, num_heads=2, patch_size=4,
                    window_size=16, fullatt_block_indexes=[1], spatial_merge_size=2),
        pixels=(256, 1024),
    ),
    "untied": dict(
        text=dict(hidden_size=40, intermediate_size=56, num_hidden_layers=2, num_attention_heads=2,
                  num_key_value_heads=2, rope_theta=1e4, mrope_section=[2, 4, 4], tie=False, eps=1e-5),
        vision=dict(hidden_size=24, intermediate_size=20, depth=2, num_heads=2, patch_size=6,
                    window_size=24, fullatt_block_indexes=[1], spatial_merge_size=2),
        pixels=(576, 2304),
    ),
    "grouped": dict(
        text=dict(hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
                  num_key_value_heads=1, rope_theta=1e6, mrope_section=[2, 3, 3], tie=True, eps=1e-6),
        vision=dict(hidden_size=16, intermediate_size=28, depth=2, num_heads=1, patch_size=14,
                    window_size=56, fullatt_block_indexes=[0], spatial_merge_size=2),
        pixels=(3136, 7000),
    ),
}


def make_tokenizer():
    tok = Tokenizer(models.BPE(byte_fallback=False))
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + 37, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tok.train_from_iterator(CORPUS, trainer)
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tok,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIALS[1:],
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )


def make_config(spec, tok):
    t, v = dict(spec["text"]), spec["vision"]
    ids = {s: tok.convert_tokens_to_ids(s) for s in SPECIALS}
    theta, section, tie, eps = t.pop("rope_theta"), t.pop("mrope_section"), t.pop("tie"), t.pop("eps")
    return Qwen2_5_VLConfig(
        text_config=dict(
            t, vocab_size=len(tok) + 4, rms_norm_eps=eps, max_position_embeddings=2048,
            rope_parameters={"rope_type": "default", "rope_theta": theta, "mrope_section": section},
            bos_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|im_end|>"], pad_token_id=ids["<|endoftext|>"],
        ),
        vision_config=dict(v, out_hidden_size=t["hidden_size"], in_channels=3, temporal_patch_size=2),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=tie,
        dtype="float32",
    )


def randomize(model, seed):
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=g)
        if "norm" in name or name.endswith("ln_q.weight"):
            p.data = 1.0 + 0.2 * noise
        elif name.endswith("bias"):
            p.data = 0.2 * noise
        elif "embed_tokens" in name:
            p.data = 0.2 * noise
        else:  # keeps activations and scores of order one at every width
            p.data = noise * (p[0].numel() ** -0.5) * 1.2


def make_image(path, width, height, seed):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], -1)
    Image.fromarray(np.clip(base + rng.normal(0, 40, base.shape), 0, 255).astype(np.uint8)).save(path)


def image_turn(names, text):
    return {"role": "user", "content": [{"type": "image", "image": f"images/{n}"} for n in names]
            + [{"type": "text", "text": text}]}


def make_cases(folder, spec, index):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    p = spec["vision"]["patch_size"] * 2  # pixels of one merged token
    rng = random.Random(index)
    a = (3 * p + rng.randrange(1, p), 2 * p + 1)
    b = (2 * p - 1, (2 if p > 20 else 3) * p + rng.randrange(1, p // 2))
    make_image(folder / "images/a.png", *a, seed=10 * index)
    make_image(folder / "images/b.png", *b, seed=10 * index + 1)
    answer = {"role": "assistant", "content": "The answer is blue."}
    return {
        "": [image_turn(["a.png", "b.png"], "Compare the images."),
             {"role": "assistant", "content": "The first is red."},
             {"role": "user", "content": "What color is it?"}, answer],
        "_one": [{"role": "system", "content": "x"}, image_turn(["b.png"], "What shape is it?"),
                 {"role": "assistant", "content": "two circles"}],
        "_text": [{"role": "user", "content": "What color is it?"}, answer],
    }


def encode(processor, folder, messages):
    def run(msgs, generation):
        paths = [c["image"] for m in msgs if isinstance(m["content"], list) for c in m["content"] if "image" in c]
        text = processor.apply_chat_template(msgs, tokenize=False, add_generation_prompt=generation)
        images = [Image.open(folder / n).convert("RGB") for n in paths] or None
        return processor(text=[text], images=images, return_tensors="pt")

    prompt, full = run(messages[:-1], True), run(messages, False)
    ids = full["input_ids"][0]
    start = prompt["input_ids"].shape[1]
    assert torch.equal(ids[:start], prompt["input_ids"][0])
    labels = torch.full_like(ids, -100)
    labels[start:-1] = ids[start:-1]  # up to and with <|im_end|>, without the line break after it
    return full, labels


def run_case(model, full, labels, gradients):
    ids = full["input_ids"]
    inputs = dict(input_ids=ids, mm_token_type_ids=full["mm_token_type_ids"])
    out = {"input_ids": ids[0], "labels": labels}
    if "pixel_values" in full:
        inputs |= dict(pixel_values=full["pixel_values"], image_grid_thw=full["image_grid_thw"])
        out |= {"pixel_values": full["pixel_values"], "image_grid_thw": full["image_grid_thw"]}
        positions, delta = model.model.get_rope_index(
            ids, mm_token_type_ids=full["mm_token_type_ids"], image_grid_thw=full["image_grid_thw"])
        out |= {"position_ids": positions[:, 0], "rope_delta": delta[0]}
        vision = model.model.visual(full["pixel_values"], grid_thw=full["image_grid_thw"])
        out["image_embeds"] = vision.pooler_output.detach()
    else:
        out["position_ids"] = torch.arange(ids.shape[1]).expand(3, -1)
        out["rope_delta"] = torch.zeros(1, dtype=torch.int64)
    model.zero_grad(set_to_none=True)
    logits = model(**inputs, use_cache=False).logits[0]
    logps = logits.log_softmax(-1)[:-1].gather(-1, ids[0, 1:, None])[:, 0]
    loss = torch.nn.functional.cross_entropy(logits[:-1], labels[1:], ignore_index=-100)
    out |= {"logps": logps, "loss": loss.reshape(1)}
    if gradients:
        out["logits"] = logits
        loss.backward()
        for name, p in model.named_parameters():
            out[f"grad.{name}"] = p.grad
    else:
        out["logits_last"] = logits[-1]
    return {k: narrow(v) for k, v in out.items()}


def narrow(t):
    t = t.detach()
    return (t.to(torch.int32) if t.dtype == torch.int64 else t).clone().contiguous()


def save_tokenizer(folder, tok):
    tok.chat_template = TEMPLATE
    tok.save_pretrained(folder)


def build(out, name, spec, index):
    folder = out / name
    folder.mkdir(parents=True)
    tok = make_tokenizer()
    tok.chat_template = TEMPLATE
    lo, hi = spec["pixels"]
    ip = Qwen2VLImageProcessorPil(
        size={"shortest_edge": lo, "longest_edge": hi},
        patch_size=spec["vision"]["patch_size"], merge_size=2, temporal_patch_size=2,
    )
    processor = Qwen2_5_VLProcessor(image_processor=ip, tokenizer=tok, video_processor=Qwen2VLVideoProcessor(),
                                    chat_template=TEMPLATE)
    config = make_config(spec, tok)
    config._attn_implementation = "eager"
    torch.manual_seed(index)
    model = Qwen2_5_VLForConditionalGeneration(config).float().eval()
    randomize(model, 100 + index)
    model.generation_config.eos_token_id = [tok.eos_token_id, tok.pad_token_id]
    model.generation_config.pad_token_id = tok.pad_token_id
    model.save_pretrained(folder)
    save_tokenizer(folder, tok)
    ip.save_pretrained(folder)
    encoded = {}
    for case, messages in make_cases(folder, spec, index).items():
        (folder / f"messages{case}.json").write_text(json.dumps(messages, indent=1) + "\n")
        encoded[case] = encode(processor, folder, messages)
        tensors = run_case(model, *encoded[case], gradients=case == "")
        if case != "":
            tensors.pop("pixel_values", None)
        save_file(tensors, folder / f"expected{case}.safetensors", metadata=METADATA)
    names = {
        "parameters": [[n, list(p.shape)] for n, p in model.named_parameters()],
        "on_disk": [[n, list(t.shape)] for n, t in sorted(load_file(folder / "model.safetensors").items())],
    }
    (folder / "names.json").write_text(json.dumps(names) + "\n")
    return model, tok, ip, encoded


def legacy_names(state):
    """Names of transformers 4 and of the published checkpoints: visual.*, model.layers.*, lm_head."""
    return {
        k.replace("model.visual.", "visual.").replace("model.language_model.", "model."): v for k, v in state.items()
    }


def copy_inputs(source, folder):
    shutil.copytree(source / "images", folder / "images")
    for f in ["messages.json", "tokenizer.json", "preprocessor_config.json"]:
        shutil.copy(source / f, folder / f)


def make_legacy(folder, tok, model):
    """Rewrites a folder into the layout of the published checkpoints: flat config, rope_scaling, torch_dtype, old names, template in
    tokenizer_config.json and chat_template.json, min_pixels/max_pixels."""
    new = json.loads((folder / "config.json").read_text())
    text, vision = new["text_config"], dict(new["vision_config"])
    rope = text["rope_parameters"]
    config = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        **{k: text[k] for k in ["bos_token_id", "eos_token_id", "hidden_act", "hidden_size", "intermediate_size",
                                "max_position_embeddings", "num_attention_heads", "num_hidden_layers",
                                "num_key_value_heads", "rms_norm_eps", "vocab_size"]},
        **{k: new[k] for k in ["vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id",
                               "tie_word_embeddings"]},
        "vision_token_id": new["image_token_id"] - 1,
        "initializer_range": 0.02,
        "max_window_layers": text["num_hidden_layers"],
        "model_type": "qwen2_5_vl",
        "rope_theta": rope["rope_theta"],
        "sliding_window": 32768,
        "torch_dtype": "float32",
        "transformers_version": "4.41.2",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            **{k: vision[k] for k in ["depth", "hidden_act", "hidden_size", "intermediate_size", "num_heads",
                                      "out_hidden_size", "patch_size", "spatial_merge_size", "temporal_patch_size",
                                      "window_size", "fullatt_block_indexes", "tokens_per_second"]},
            "in_chans": 3,
            "spatial_patch_size": vision["patch_size"],
        },
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(legacy_names(model.state_dict()), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "generation_config.json").write_text(json.dumps(
        {"bos_token_id": tok.pad_token_id, "pad_token_id": tok.pad_token_id, "do_sample": True,
         "eos_token_id": [tok.eos_token_id, tok.pad_token_id], "temperature": 1e-6}, indent=2) + "\n")
    tc = json.loads((folder / "tokenizer_config.json").read_text())
    tc |= {"tokenizer_class": "Qwen2Tokenizer", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(tc, indent=2) + "\n")
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}, indent=2) + "\n")
    pre = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(
        {"min_pixels": pre["size"]["shortest_edge"], "max_pixels": pre["size"]["longest_edge"],
         "patch_size": pre["patch_size"], "temporal_patch_size": 2, "merge_size": 2,
         "image_mean": pre["image_mean"], "image_std": pre["image_std"],
         "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor"},
        indent=2) + "\n")
    loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    for (n, a), b in zip(loaded.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b), n


def write_sharded(out, source, encoded):
    """bfloat16 weights in several files with an index; logits of the rounded weights, computed in float32."""
    folder = out / f"{source.name}_bf16_sharded"
    folder.mkdir()
    copy_inputs(source, folder)
    for f in ["tokenizer_config.json", "chat_template.jinja"]:
        shutil.copy(source / f, folder / f)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(source, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="60KB")
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()
    tensors = run_case(model, *encoded[""], gradients=False)
    save_file({k: tensors[k] for k in ["input_ids", "labels", "logps", "loss", "logits_last"]},
              folder / "expected.safetensors", metadata=METADATA)


def write_adapter(out, source, encoded):
    """A PEFT adapter on the language layers: names, shapes, config and logps with it."""
    folder = out / f"{source.name}_lora"
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        source, dtype=torch.float32, attn_implementation="eager").eval()
    wrapped = peft.get_peft_model(model, peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=r".*language_model.*\.(q_proj|v_proj|down_proj)", task_type="CAUSAL_LM"))
    g = torch.Generator().manual_seed(7)
    for n, p in wrapped.named_parameters():
        if "lora_" in n:
            p.data = 0.3 * torch.randn(p.shape, generator=g)
    wrapped.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = source.name
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    full, labels = encoded[""]
    wrapped.zero_grad(set_to_none=True)
    inputs = {k: full[k] for k in ["input_ids", "mm_token_type_ids", "pixel_values", "image_grid_thw"]}
    logits = wrapped(**inputs, use_cache=False).logits[0]
    loss = torch.nn.functional.cross_entropy(logits[:-1], labels[1:], ignore_index=-100)
    loss.backward()
    out_t = {"logits": narrow(logits), "loss": narrow(loss.reshape(1))}
    for n, p in wrapped.named_parameters():
        if p.grad is not None:
            out_t["grad." + n.replace(".default", "")] = narrow(p.grad)
    save_file(out_t, folder / "expected.safetensors", metadata=METADATA)


def geometry(out, tied, seed=0):
    """Index arithmetic on many random grids, and rotary tables."""
    rng = random.Random(seed)
    layouts = []
    for i in range(48):
        merge = rng.choice([2, 2, 2, 1, 3])
        patch = rng.choice([4, 14, 14, 16])
        window_units = rng.choice([1, 2, 3, 4])
        window = window_units * merge * patch + rng.choice([0, 0, merge * patch // 2])
        grids = [[rng.choice([1, 1, 1, 2]), merge * rng.randint(1, 7), merge * rng.randint(1, 7)]
                 for _ in range(rng.randint(1, 3))]
        thw = torch.tensor(grids)
        index, cu_window = get_vision_window_index(thw, merge, window, patch)
        layouts.append(dict(
            merge=merge, patch=patch, window=window, grids=grids, window_index=index.tolist(),
            cu_window_seqlens=cu_window.tolist(), cu_seqlens=get_vision_cu_seqlens(thw).tolist(),
            position_ids=get_vision_position_ids(thw, merge).flatten().tolist()))
    positions = []
    for i in range(24):
        merge = rng.choice([2, 2, 1, 3])
        tied.model.config.vision_config.spatial_merge_size = merge
        types, grids, spans = [0] * rng.randint(0, 3), [], []
        for _ in range(rng.randint(0, 3)):
            grid = [1, merge * rng.randint(1, 5), merge * rng.randint(1, 5)]
            n = grid[1] * grid[2] // merge**2
            spans.append(len(types))
            types += [1] * n + [0] * rng.randint(1, 5)  # a marker always separates two images
            grids.append(grid)
        types += [0] * rng.randint(1, 4)
        mm = torch.tensor([types])
        pos, delta = tied.model.get_rope_index(
            torch.zeros_like(mm), mm_token_type_ids=mm, image_grid_thw=torch.tensor(grids) if grids else None)
        positions.append(dict(merge=merge, length=len(types), starts=spans, grids=grids,
                              position_ids=pos[:, 0].T.flatten().tolist(), delta=int(delta[0, 0])))
    tied.model.config.vision_config.spatial_merge_size = 2
    (out / "geometry.json").write_text(json.dumps(
        {"versions": VERSIONS, "layouts": layouts, "positions": positions}, separators=(",", ":")) + "\n")


def rope_tables(out):
    tensors = {}
    pos = torch.tensor([[[0, 1, 2, 7, 100, 1999, 4095]], [[0, 1, 5, 9, 101, 1500, 4000]], [[0, 1, 3, 11, 7, 1700, 3]]])
    for head_dim, theta, section in [(16, 1e6, [2, 3, 3]), (20, 1e4, [2, 4, 4]), (128, 1e6, [16, 24, 24])]:
        config = Qwen2_5_VLConfig(text_config=dict(
            hidden_size=head_dim * 2, num_attention_heads=2, num_key_value_heads=1,
            rope_parameters={"rope_type": "default", "rope_theta": theta, "mrope_section": section})).text_config
        rope = Qwen2_5_VLRotaryEmbedding(config)
        cos, sin = rope(torch.zeros(1), pos)
        half = head_dim // 2
        assert torch.equal(cos[..., :half], cos[..., half:])
        tensors |= {f"text{head_dim}.inv_freq": rope.inv_freq, f"text{head_dim}.cos": cos[0, :, :half],
                    f"text{head_dim}.sin": sin[0, :, :half]}
    hw = torch.tensor([[0, 0], [0, 1], [1, 0], [3, 2], [17, 40], [91, 5]])
    for head_dim in [8, 12, 16, 80]:
        config = Qwen2_5_VLConfig(vision_config=dict(hidden_size=head_dim * 2, num_heads=2)).vision_config
        rope = Qwen2_5_VLVisionRotaryEmbedding(config)
        cos, sin = rope(torch.zeros(1), hw)
        half = head_dim // 2
        tensors |= {f"vision{head_dim}.inv_freq": rope.inv_freq, f"vision{head_dim}.cos": cos[:, :half],
                    f"vision{head_dim}.sin": sin[:, :half]}
        assert torch.equal(cos[..., :half], cos[..., half:])
    tensors |= {"text.positions": pos[:, 0], "vision.positions": hw}
    save_file({k: narrow(v) for k, v in tensors.items()}, out / "rope.safetensors", metadata=METADATA)


def check_loads(out, built):
    """The folders load in transformers as they are, and give the same token ids and pixels."""
    for name, (_, _, _, encoded) in built.items():
        folder = out / name
        processor = AutoProcessor.from_pretrained(folder)
        processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        for case in ["", "_one", "_text"]:
            full, _ = encode(processor, folder, json.loads((folder / f"messages{case}.json").read_text()))
            assert torch.equal(full["input_ids"], encoded[case][0]["input_ids"]), (name, case)
            if "pixel_values" in full:
                assert torch.equal(full["pixel_values"], encoded[case][0]["pixel_values"]), (name, case)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    built = {name: build(out, name, spec, i) for i, (name, spec) in enumerate(MODELS.items())}
    make_legacy(out / "untied", built["untied"][1], built["untied"][0])
    write_sharded(out, out / "tied", built["tied"][3])
    write_adapter(out, out / "tied", built["tied"][3])
    geometry(out, built["tied"][0])
    rope_tables(out)
    check_loads(out, built)
    for name in MODELS:  # some image is larger than a window, so that window and full attention differ
        vision = built[name][0].config.vision_config
        grids = built[name][3][""][0]["image_grid_thw"]
        _, windows = get_vision_window_index(grids, 2, vision.window_size, vision.patch_size)
        assert len(windows) > len(get_vision_cu_seqlens(grids)), name
    for f in out.rglob("*.safetensors"):
        f.chmod(0o644)
    total = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(f"{total / 1e6:.2f} MB in {out}")


if __name__ == "__main__":
    main()
