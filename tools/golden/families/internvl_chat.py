"""Golden files of InternVL in its own layout (`InternVLChatModel`), with InternLM2, Qwen2 and Qwen3 language models.

The model is internvl_chat_model.py, held against transformers' InternVL, Qwen and Llama with the same weights.
Needs sentencepiece 0.2.3 besides what the other scripts need.
Run: python tools/golden/families/internvl_chat.py --out tests/data/families/internvl_chat
"""

import io
import json
import re

import sentencepiece
import torch
from safetensors.torch import save_file
from sentencepiece import sentencepiece_model_pb2
from transformers import AutoTokenizer, InternVLVisionConfig, InternVLVisionModel, LlamaConfig, LlamaForCausalLM

import golden
from internvl_chat_model import InternVLChat, frames_of, prompt_text, tiles

IMAGE_TOKENS = ["<img>", "</img>", "<IMG_CONTEXT>"]
LAYER_NORM = dict(norm_type="layer_norm", qkv_bias=True, qk_normalization=False)
# internlm2: packed projections of grouped queries, a sentencepiece model and a first token <s>. qwen2: vocab.json,
# merges.txt and added_tokens.json, no tokenizer.json. qwen3: the vision tower's branches of InternViT-6B.
MODELS = {
    "internlm2": dict(
        text=dict(architectures=["InternLM2ForCausalLM"], model_type="internlm2", hidden_size=32,
                  intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, bias=False,
                  rms_norm_eps=1e-5, rope_theta=1000000, rope_scaling={"factor": 2.0, "type": "dynamic"}),
        vision=dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                    image_size=28, patch_size=7, **LAYER_NORM),
        patches=(1, 4), template="internlm2-chat", sizes=[(70, 33), (25, 40), (31, 30)],
    ),
    "qwen2": dict(
        text=dict(architectures=["Qwen2ForCausalLM"], model_type="qwen2", hidden_size=32, intermediate_size=28,
                  num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, rms_norm_eps=1e-6,
                  rope_theta=1000000.0,
                  rope_scaling={"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"}),
        vision=dict(hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=3,
                    image_size=24, patch_size=6, **LAYER_NORM),
        patches=(1, 3), template="Hermes-2", sizes=[(20, 61), (50, 24)],
    ),
    "qwen3": dict(
        text=dict(architectures=["Qwen3ForCausalLM"], model_type="qwen3", hidden_size=32, intermediate_size=24,
                  num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=24, rms_norm_eps=1e-6,
                  rope_theta=1000000, rope_scaling=None, tie_word_embeddings=True),
        vision=dict(hidden_size=12, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16,
                    patch_size=4, norm_type="rms_norm", qkv_bias=False, qk_normalization=True),
        patches=(1, 6), template="internvl2_5", sizes=[(49, 33), (18, 20)],
        video=dict(size=(30, 22), frames=12, fps=2.0, image=True),
    ),
}
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def added(token):
    return {"content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
            "special": True}


class Qwen2Files:
    """A byte-level BPE in the files of the slow tokenizer."""

    def __init__(self, folder):
        specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *IMAGE_TOKENS]
        bpe = golden.byte_bpe(specials)
        model = json.loads(bpe.to_str())["model"]
        ids = {s: bpe.token_to_id(s) for s in specials}
        golden.write_json(folder / "vocab.json", model["vocab"])
        lines = ["#version: 0.2"] + [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n")
        golden.write_json(folder / "added_tokens.json", ids)
        golden.write_json(folder / "special_tokens_map.json", {
            "additional_special_tokens": specials[1:], "eos_token": added("<|im_end|>"),
            "pad_token": added("<|endoftext|>")})
        golden.write_json(folder / "tokenizer_config.json", {
            "add_eos_token": False, "add_prefix_space": False,
            "added_tokens_decoder": {str(i): added(s) for s, i in ids.items()},
            "additional_special_tokens": specials[1:], "bos_token": None, "chat_template": CHATML,
            "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "errors": "replace",
            "model_max_length": 8192, "pad_token": "<|endoftext|>", "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer", "unk_token": None})
        self.bpe, self.ids, self.size = bpe, ids, bpe.get_vocab_size()
        self.end, self.pad, self.bos = ids["<|im_end|>"], ids["<|endoftext|>"], None
        self.theirs = AutoTokenizer.from_pretrained(folder)

    def encode(self, text):
        ids = self.bpe.encode(text).ids
        assert self.theirs(text).input_ids == ids
        return ids


class InternLM2Files:
    """A sentencepiece model as InternLM2's: bytes as fallback, no space put in front, unused pieces at its end whose
    numbers belong to <|im_start|> and <|im_end|>, and further tokens behind."""

    def __init__(self, folder):
        trained = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(golden.CORPUS), model_writer=trained, vocab_size=3 + 256 + 60, model_type="bpe",
            byte_fallback=True, add_dummy_prefix=False, remove_extra_whitespaces=False, split_digits=True,
            normalization_rule_name="identity", character_coverage=1.0, minloglevel=2, num_threads=1,
            allow_whitespace_only_pieces=True, hard_vocab_limit=False, unk_surface=" \u2047 ")
        model = sentencepiece_model_pb2.ModelProto.FromString(trained.getvalue())
        for i in range(2):
            model.pieces.add(piece=f"[UNUSED_TOKEN_{i}]", score=-1000.0 - i)
        model.trainer_spec.vocab_size = n = len(model.pieces)
        (folder / "tokenizer.model").write_bytes(model.SerializeToString())
        self.sp = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        self.ids = {"<unk>": 0, "<s>": 1, "</s>": 2, "<|im_end|>": n - 2, "<|im_start|>": n - 1}
        self.ids |= {s: n + i for i, s in enumerate(IMAGE_TOKENS)}
        specials = ["<|im_start|>", "<|im_end|>", *IMAGE_TOKENS]
        names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
        golden.write_json(folder / "added_tokens.json", {s: self.ids[s] for s in specials})
        golden.write_json(folder / "special_tokens_map.json", {"additional_special_tokens": specials, **names})
        golden.write_json(folder / "tokenizer_config.json", {
            "add_bos_token": True, "add_eos_token": False,
            "added_tokens_decoder": {str(i): added(s) for s, i in sorted(self.ids.items(), key=lambda x: x[1])},
            "additional_special_tokens": specials,
            "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
            **names, "chat_template": "{{ bos_token }}" + CHATML, "clean_up_tokenization_spaces": False,
            "model_max_length": 8192, "sp_model_kwargs": None, "tokenizer_class": "InternLM2Tokenizer"})
        self.size, self.end, self.pad, self.bos = n + len(IMAGE_TOKENS), self.ids["<|im_end|>"], 2, 1
        self.pattern = re.compile("(" + "|".join(map(re.escape, self.ids)) + ")")

    def encode(self, text):
        out = [1]
        for part in self.pattern.split(text):
            out += [self.ids[part]] if part in self.ids else self.sp.encode(part)
        return out


def make_config(spec, files):
    lo, hi = spec["patches"]
    arch = spec["text"]["architectures"][0]
    return {
        "_commit_hash": None,
        "architectures": ["InternVLChatModel"],
        "auto_map": {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig",
                     "AutoModel": "modeling_internvl_chat.InternVLChatModel",
                     "AutoModelForCausalLM": "modeling_internvl_chat.InternVLChatModel"},
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": spec["vision"]["image_size"],
        "llm_config": {
            **spec["text"], "vocab_size": files.size + (0 if arch.startswith("InternLM2") else 2),
            "max_position_embeddings": 2048, "attention_dropout": 0.0, "hidden_act": "silu",
            "initializer_range": 0.02, "torch_dtype": "float32", "use_cache": True,
            "tie_word_embeddings": spec["text"].get("tie_word_embeddings", False),
            "bos_token_id": files.bos or files.pad, "eos_token_id": 2 if files.bos else files.end,
            "pad_token_id": files.pad,
        },
        "max_dynamic_patch": hi,
        "min_dynamic_patch": lo,
        "model_type": "internvl_chat",
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "template": spec["template"],
        "torch_dtype": "float32",
        "transformers_version": None,
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": True,
        "vision_config": {
            "architectures": ["InternVisionModel"], "attention_dropout": 0.0, "drop_path_rate": 0.0, "dropout": 0.0,
            "hidden_act": "gelu", "initializer_factor": 1.0, "initializer_range": 0.02, "layer_norm_eps": 1e-06,
            "model_type": "intern_vit_6b", "num_channels": 3, "torch_dtype": "float32", "use_bfloat16": False,
            "use_flash_attn": False, **spec["vision"],
        },
    }


def encode(files, config, folder, messages):
    images = []
    for part in [c for m in messages if isinstance(m["content"], list) for c in m["content"]]:
        if part["type"] == "image":
            images.append(tiles(golden.Image.open(folder / part["image"]).convert("RGB"), config))
        elif part["type"] == "video":  # eight frames of one tile each, however many there are in a second
            frames = sorted((folder / part["video"]).iterdir())
            images += [tiles(golden.Image.open(frames[i]).convert("RGB"), config | {"max_dynamic_patch": 1})
                       for i in frames_of(len(frames))]
    side = config["force_image_size"] // config["vision_config"]["patch_size"]
    counts = [len(t) * side * side // 4 for t in images]

    def ids(msgs, generation):
        return torch.tensor(files.encode(prompt_text(msgs, config["template"], counts, generation)))

    full = ids(messages, False)
    labels = golden.labels_of(full, ids(messages[:-1], True), files.end)
    return full, labels, images


def run_case(model, files, ids, labels, images, gradients):
    out = {"position_ids": torch.arange(len(ids)).expand(3, -1)}
    pixels = torch.cat(images) if images else None
    if images:
        out |= {"pixel_values": pixels, "image_embeds": model.features(pixels),
                "image_num_patches": torch.tensor([len(t) for t in images])}
    logits = model(ids, pixels, files.ids["<IMG_CONTEXT>"])
    return golden.finish(model, logits, ids, labels, gradients, out)


def build(out, name, spec, index):
    folder = out / name
    folder.mkdir(parents=True)
    files = (InternLM2Files if name == "internlm2" else Qwen2Files)(folder)
    config = make_config(spec, files)
    golden.write_json(folder / "config.json", config)
    golden.write_json(folder / "generation_config.json", {"_from_model_config": True,
                                                          "eos_token_id": [files.pad, files.end]})
    side = config["force_image_size"]
    golden.write_json(folder / "preprocessor_config.json", {
        "crop_size": side, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225], "resample": 3, "size": side})
    torch.manual_seed(index)
    model = InternVLChat(config).float().eval()
    golden.randomize(model, 100 + index)
    tied = config["llm_config"]["tie_word_embeddings"]
    state = {k: v.contiguous() for k, v in model.state_dict().items()
             if not (tied and k == "language_model.lm_head.weight")}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    for case, messages in golden.make_cases(folder, spec["sizes"], spec.get("video"), index).items():
        if case == "":  # the default system message, long in bytes, is in the case of text alone
            messages.insert(0, {"role": "system", "content": "y"})
        ids, labels, images = encode(files, config, folder, messages)
        golden.write_case(folder, case, messages, run_case(model, files, ids, labels, images, gradients=case == ""))
        check_vision(model, config, images)
        if name == "internlm2":
            check_llama(model, config, ids)
    golden.write_names(folder, model)
    return golden.parameter_count(model)


def check_vision(model, config, images):
    """transformers' vision tower with these weights gives the same."""
    v = config["vision_config"]
    theirs = InternVLVisionModel(InternVLVisionConfig(
        **{k: v[k] for k in ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                             "image_size", "patch_size", "norm_type"]},
        attention_bias=v["qkv_bias"], use_qk_norm=v["qk_normalization"])).eval()
    names = {"embeddings.class_embedding": "embeddings.cls_token", "patch_embedding": "patch_embeddings.projection",
             "position_embedding": "position_embeddings", "encoder.layers": "encoder.layer", "attn.proj":
             "attention.projection_layer", "attn.": "attention.", "norm1": "layernorm_before", "norm2":
             "layernorm_after", "ls1": "lambda_1", "ls2": "lambda_2"}
    state = {}
    for k, t in model.vision_model.state_dict().items():
        for ours, other in names.items():
            k = k.replace(ours, other)
        split = dict(zip("qkv", t.chunk(3))) if ".qkv." in k else {"": t}
        state |= {k.replace("qkv", f"{part}_proj") if part else k: rows for part, rows in split.items()}
    theirs.load_state_dict(state)
    for pixels in images:
        torch.testing.assert_close(theirs(pixels).last_hidden_state[:, 1:], model.vision_model(pixels))


def check_llama(model, config, ids):
    """Llama with the projections taken apart gives the same logits of a text."""
    c = config["llm_config"]
    theirs = LlamaForCausalLM(LlamaConfig(
        **{k: c[k] for k in ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                             "num_key_value_heads", "rms_norm_eps", "vocab_size"]},
        rope_parameters={"rope_type": "default", "rope_theta": float(c["rope_theta"])})).eval()
    group, d = c["num_attention_heads"] // c["num_key_value_heads"], c["hidden_size"] // c["num_attention_heads"]
    names = {"model.tok_embeddings": "model.embed_tokens", "output.": "lm_head.", "attention.wo": "self_attn.o_proj",
             "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "feed_forward.w1":
             "mlp.gate_proj", "feed_forward.w3": "mlp.up_proj", "feed_forward.w2": "mlp.down_proj"}
    state = {}
    for k, t in model.language_model.state_dict().items():
        for ours, other in names.items():
            k = k.replace(ours, other)
        if "wqkv" in k:
            rows = t.view(-1, group + 2, d, t.shape[-1])
            for part, r in {"q": rows[:, :group], "k": rows[:, group], "v": rows[:, group + 1]}.items():
                state[k.replace("attention.wqkv", f"self_attn.{part}_proj")] = r.reshape(-1, t.shape[-1])
        else:
            state[k] = t
    theirs.load_state_dict(state)
    torch.testing.assert_close(theirs(ids[None]).logits[0], model(ids, None, None), rtol=1e-4, atol=1e-4)


def main():
    out = golden.start(__doc__)
    golden.report(out, {n: build(out, n, s, i) for i, (n, s) in enumerate(MODELS.items())})


if __name__ == "__main__":
    main()
