"""Golden files of glm-4v-9b in its own layout (`ChatGLMForConditionalGeneration`).

The model is restated here. Facts are those of the published modeling_chatglm.py, visual.py and tokenization_chatglm.py
and of vLLM's glm4v.py and chatglm.py: norms after attention and MLP in the vision tower, a convolution of 2 x 2 patches,
a gated connector, learned rows around the picture, all divided by scaling_factor; in the text half of each head turned
in neighbouring pairs, packed q k v with biases, packed gate and up; all patches of a picture at one position.
The text layers are held against transformers' GLM with the same weights.
Run: python tools/golden/families/glm4v_9b.py --out tests/data/families/glm4v_9b
"""

import base64
import json
import re

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from torchvision.transforms import functional as tv
from transformers import GlmConfig, GlmForCausalLM
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

import golden
from internvl_chat_model import RMSNorm, attend, attributes

# in the order of their numbers in the published tokenizer
SPECIALS = ["<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>",
            "<|assistant|>", "<|observation|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>",
            "<|end_of_video|>"]
SPLIT = golden.SPLIT.replace(r"\p{N}| ?", r"\p{N}{1,3}| ?")
# published: the tokenizer's only file is tokenizer.model, one line of base64 and rank for each token, and no word of
# the rotary base. converted: a tokenizer.json besides, another base, as many key heads as query heads.
MODELS = {
    "published": dict(
        text=dict(hidden_size=32, ffn_hidden_size=24, num_layers=2, num_attention_heads=2, kv_channels=16,
                  multi_query_group_num=1, rope_ratio=1, layernorm_epsilon=1.5625e-07),
        vision=dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_heads=2, patch_size=4,
                    image_size=16, num_positions=17, scaling_factor=8, layer_norm_eps=1e-6),
        sizes=[(37, 19), (17, 40)],
    ),
    "converted": dict(
        text=dict(hidden_size=24, ffn_hidden_size=20, num_layers=2, num_attention_heads=4, kv_channels=8,
                  multi_query_group_num=4, rope_ratio=500, layernorm_epsilon=1e-05),
        vision=dict(hidden_size=12, intermediate_size=20, num_hidden_layers=3, num_heads=1, patch_size=6,
                    image_size=36, num_positions=37, scaling_factor=2, layer_norm_eps=1e-6),
        sizes=[(38, 26), (13, 33)],
    ),
}


class VisionLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        width, inner = c["hidden_size"], c["intermediate_size"]
        self.heads = c["num_heads"]
        self.input_layernorm = nn.LayerNorm(width, eps=c["layer_norm_eps"])
        self.attention = attributes(query_key_value=nn.Linear(width, 3 * width), dense=nn.Linear(width, width))
        self.post_attention_layernorm = nn.LayerNorm(width, eps=c["layer_norm_eps"])
        self.mlp = attributes(fc1=nn.Linear(width, inner), fc2=nn.Linear(inner, width))

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for t in self.attention.query_key_value(x).chunk(3, -1))
        x = x + self.input_layernorm(self.attention.dense(attend(q, k, v, causal=False).transpose(1, 2).flatten(2)))
        return x + self.post_attention_layernorm(self.mlp.fc2(F.gelu(self.mlp.fc1(x))))


class Vision(nn.Module):
    def __init__(self, text, c):
        super().__init__()
        width, out, inner = c["hidden_size"], text["hidden_size"], text["ffn_hidden_size"]
        self.scale, self.side = c["scaling_factor"], c["image_size"] // c["patch_size"]
        self.patch_embedding = attributes(proj=nn.Conv2d(3, width, c["patch_size"], stride=c["patch_size"]),
                                          position_embedding=nn.Embedding(c["num_positions"], width))
        self.patch_embedding.cls_embedding = nn.Parameter(torch.empty(1, width))
        self.transformer = attributes(layers=nn.ModuleList([VisionLayer(c) for _ in range(c["num_hidden_layers"])]))
        self.conv = nn.Conv2d(width, out, 2, stride=2)
        self.linear_proj = attributes(
            linear_proj=nn.Linear(out, out, bias=False), norm1=nn.LayerNorm(out),
            dense_h_to_4h=nn.Linear(out, inner, bias=False), gate_proj=nn.Linear(out, inner, bias=False),
            dense_4h_to_h=nn.Linear(inner, out, bias=False))
        self.boi, self.eoi = nn.Parameter(torch.empty(1, 1, out)), nn.Parameter(torch.empty(1, 1, out))

    def forward(self, pixels):
        """[images, 3, side, side]; rows [images, 2 + patches/4, D]: a first, one of each 2 x 2 patches, a last."""
        e, p, n = self.patch_embedding, self.linear_proj, len(pixels)
        x = torch.cat([e.cls_embedding.expand(n, 1, -1), e.proj(pixels).flatten(2).mT], 1) + e.position_embedding.weight
        for layer in self.transformer.layers:
            x = layer(x)
        x = self.conv(x[:, 1:].mT.unflatten(-1, (self.side, self.side))).flatten(2).mT
        x = F.gelu(p.norm1(p.linear_proj(x)))
        x = p.dense_4h_to_h(F.silu(p.gate_proj(x)) * p.dense_h_to_4h(x))
        return torch.cat([self.boi.expand(n, -1, -1), x, self.eoi.expand(n, -1, -1)], 1) / self.scale


class TextLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        width, inner = c["hidden_size"], c["ffn_hidden_size"]
        self.heads, self.groups, self.d = c["num_attention_heads"], c["multi_query_group_num"], c["kv_channels"]
        self.base = 10000.0 * c["rope_ratio"]
        self.input_layernorm = RMSNorm(width, c["layernorm_epsilon"])
        self.self_attention = attributes(
            query_key_value=nn.Linear(width, (self.heads + 2 * self.groups) * self.d, bias=True),
            dense=nn.Linear(self.heads * self.d, width, bias=False))
        self.post_attention_layernorm = RMSNorm(width, c["layernorm_epsilon"])
        self.mlp = attributes(dense_h_to_4h=nn.Linear(width, 2 * inner, bias=False),
                              dense_4h_to_h=nn.Linear(inner, width, bias=False))

    def rotate(self, x, positions):
        turned = self.d // 2
        frequency = 1.0 / self.base ** (torch.arange(0, turned, 2).float() / turned)
        angle = positions.float()[:, None] * frequency
        even, odd = x[..., 0:turned:2], x[..., 1:turned:2]
        pairs = torch.stack([even * angle.cos() - odd * angle.sin(), odd * angle.cos() + even * angle.sin()], -1)
        return torch.cat([pairs.flatten(-2), x[..., turned:]], -1)

    def forward(self, x, positions):
        rows = [n * self.d for n in (self.heads, self.groups, self.groups)]
        q, k, v = (t.unflatten(-1, (-1, self.d)).transpose(1, 2)
                   for t in self.self_attention.query_key_value(self.input_layernorm(x)).split(rows, -1))
        k, v = (t.repeat_interleave(self.heads // self.groups, 1) for t in (k, v))
        mixed = attend(self.rotate(q, positions), self.rotate(k, positions), v, causal=True)
        x = x + self.self_attention.dense(mixed.transpose(1, 2).flatten(2))
        gate, up = self.mlp.dense_h_to_4h(self.post_attention_layernorm(x)).chunk(2, -1)
        return x + self.mlp.dense_4h_to_h(F.silu(gate) * up)


class ChatGLM(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.transformer = attributes(
            embedding=attributes(word_embeddings=nn.Embedding(c["padded_vocab_size"], c["hidden_size"])),
            encoder=attributes(layers=nn.ModuleList([TextLayer(c) for _ in range(c["num_layers"])]),
                               final_layernorm=RMSNorm(c["hidden_size"], c["layernorm_epsilon"])),
            output_layer=nn.Linear(c["hidden_size"], c["padded_vocab_size"], bias=False),
            vision=Vision(c, c["vision_config"]))

    def forward(self, ids, positions, pixels=None, place=None):
        """ids and positions [T]; place: the tokens that the rows of the pictures take."""
        t = self.transformer
        x = t.embedding.word_embeddings(ids)
        if pixels is not None:
            x = torch.index_put(x, (place,), t.vision(pixels).flatten(0, 1))
        x = x[None]
        for layer in t.encoder.layers:
            x = layer(x, positions)
        return t.output_layer(t.encoder.final_layernorm(x))[0]


class Tokens:
    """The byte-level BPE of ranks, and its files."""

    def __init__(self, folder, with_json):
        bpe = golden.byte_bpe([])
        model = json.loads(bpe.to_str())["model"]
        # the letters by which byte-level BPE writes bytes: the printable ones are themselves
        own = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
        letters = {chr(b): b for b in own} | {chr(256 + i): b for i, b in enumerate(sorted(set(range(256)) - set(own)))}

        def spell(word):
            return bytes(letters[c] for c in word)

        merged = [spell("".join(m) if isinstance(m, list) else m.replace(" ", "")) for m in model["merges"]]
        self.ranks = {t: i for i, t in enumerate([bytes([b]) for b in range(256)] + merged)}
        self.special = {s: len(self.ranks) + i for i, s in enumerate(SPECIALS)}
        lines = [f"{base64.b64encode(t).decode()} {i}" for t, i in self.ranks.items()]
        (folder / "tokenizer.model").write_text("\n".join(lines) + "\n")
        flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
        golden.write_json(folder / "tokenizer_config.json", {
            "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLM4Tokenizer", None]},
            "added_tokens_decoder": {str(i): {"content": s, **flags} for s, i in self.special.items()},
            "additional_special_tokens": SPECIALS, "clean_up_tokenization_spaces": False, "do_lower_case": False,
            "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "model_max_length": 4096,
            "padding_side": "left", "remove_space": False, "tokenizer_class": "ChatGLM4Tokenizer"})
        back = {b: c for c, b in letters.items()}

        def letters_of(token):
            return "".join(back[b] for b in token)

        whole = Tokenizer(models.BPE(vocab={letters_of(t): i for t, i in self.ranks.items()},
                                     merges=[tuple(map(letters_of, self.parts(t))) for t in merged]))
        whole.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        whole.decoder = decoders.ByteLevel()
        whole.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
        if with_json:
            whole.save(str(folder / "tokenizer.json"))
        self.whole = whole
        self.pieces = whole.pre_tokenizer

    def parts(self, token):
        """The two tokens that a merged one is made of: the join of everything below its own rank."""
        pieces = self.join(token, self.ranks[token])
        assert len(pieces) == 2, token
        return pieces

    def join(self, word, below):
        pieces = [word[i:i + 1] for i in range(len(word))]
        while True:
            pairs = [(self.ranks.get(a + b, below), i) for i, (a, b) in enumerate(zip(pieces, pieces[1:]))]
            rank, i = min(pairs, default=(below, 0))
            if rank >= below:
                return pieces
            pieces[i:i + 2] = [pieces[i] + pieces[i + 1]]

    def encode(self, text):
        words = re.findall(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]{1,3}| ?[^\sA-Za-z0-9]+[\r\n]*"
                           r"|\s*[\r\n]+|\s+(?!\S)|\s+", text)  # the chats are of ASCII
        ids = [self.ranks[p] for w in words for p in self.join(w.encode(), len(self.ranks))]
        assert ids == self.whole.encode(text).ids
        return ids


def pixels_of(image, side):
    return tv.normalize(tv.to_tensor(image.resize((side, side), golden.Image.Resampling.BICUBIC)),
                        OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)


def encode(tokens, config, folder, messages, generation):
    """Token ids, positions and pixels. Each picture is <|begin_of_image|>, one token for each row, <|end_of_image|>,
    right before the text of its message; the published tokenizer has one token between, which the model widens."""
    s, v = tokens.special, config["vision_config"]
    rows = (v["image_size"] // v["patch_size"] // 2) ** 2
    ids, positions, place, pixels = [s["[gMASK]"], s["<sop>"]], [0, 1], [], []

    def add(more):
        start = positions[-1] + 1
        ids.extend(more)
        positions.extend(range(start, start + len(more)))

    for m in messages:
        add([s[f"<|{m['role']}|>"]] + tokens.encode("\n"))
        body = [{"type": "text", "text": m["content"]}] if isinstance(m["content"], str) else m["content"]
        for part in body:
            if part["type"] == "text":
                add(tokens.encode(part["text"]))
                continue
            image = golden.Image.open(folder / part["image"]).convert("RGB")
            pixels.append(pixels_of(image, v["image_size"]))
            place.extend(range(len(ids), len(ids) + rows + 2))
            add([s["<|begin_of_image|>"], s["<|endoftext|>"]])
            ids.extend([s["<|endoftext|>"]] * (rows - 1))
            positions.extend([positions[-1]] * (rows - 1))
            add([s["<|end_of_image|>"]])
    if generation:
        add([s["<|assistant|>"]])
    return (*map(torch.tensor, (ids, positions, place)), torch.stack(pixels) if pixels else None)


def make_config(spec, tokens):
    s = tokens.special
    return {
        "_name_or_path": "THUDM/glm-4v-9b", "model_type": "chatglm", "architectures": ["ChatGLMModel"],
        "auto_map": {"AutoConfig": "configuration_chatglm.ChatGLMConfig",
                     "AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration",
                     "AutoModelForCausalLM": "modeling_chatglm.ChatGLMForConditionalGeneration"},
        "add_bias_linear": False, "add_qkv_bias": True, "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False, "attention_dropout": 0.0,
        "attention_softmax_in_fp32": True, "bias_dropout_fusion": True, "boi_token_id": s["<|begin_of_image|>"],
        "eoi_token_id": s["<|end_of_image|>"], "eos_token_id": [s["<|endoftext|>"], s["<|user|>"], s["<|observation|>"]],
        "fp32_residual_connection": False, "hidden_dropout": 0.0, "multi_query_attention": True,
        "original_rope": True, "pad_token_id": s["<|endoftext|>"], "post_layer_norm": True, "pre_seq_len": None,
        "prefix_projection": False, "rmsnorm": True, "seq_length": 2048, "tie_word_embeddings": False,
        "torch_dtype": "float32", "transformers_version": "4.40.2", "use_cache": True,
        "padded_vocab_size": max(s.values()) + 4, "vocab_size": max(s.values()) + 4, **spec["text"],
        "vision_config": {"dropout_prob": 0.0, "hidden_act": "gelu", "in_channels": 3, **spec["vision"]},
    }


def cases(folder, spec, index):
    made = golden.make_cases(folder, spec["sizes"], seed=index)
    made[""][0] = golden.turn("Compare the images.", ["a"])  # the published code has one picture a chat
    made["_two"] = [golden.turn("Compare the images.", ["a", "b"]), made[""][-1]]  # the same rule for several
    return made


def build(out, name, spec, index):
    folder = out / name
    folder.mkdir(parents=True)
    tokens = Tokens(folder, with_json=name == "converted")
    config = make_config(spec, tokens)
    golden.write_json(folder / "config.json", config)
    golden.write_json(folder / "generation_config.json", {
        "eos_token_id": config["eos_token_id"], "pad_token_id": config["pad_token_id"], "do_sample": True,
        "temperature": 0.8, "top_p": 0.8, "max_length": 8192})
    torch.manual_seed(index)
    model = ChatGLM(config).float().eval()
    golden.randomize(model, 100 + index)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors",
              metadata={"format": "pt"})
    for case, messages in cases(folder, spec, index).items():
        ids, positions, place, pixels = encode(tokens, config, folder, messages, False)
        labels = golden.labels_of(ids, encode(tokens, config, folder, messages[:-1], True)[0], None)
        tensors = {"position_ids": positions.expand(3, -1)}
        if pixels is not None:
            tensors |= {"pixel_values": pixels, "image_embeds": model.transformer.vision(pixels).flatten(0, 1)}
        logits = model(ids, positions, pixels, place)
        golden.write_case(folder, case, messages,
                          golden.finish(model, logits, ids, labels, case == "", tensors))
        check_glm(model, config, ids, positions)
    golden.write_names(folder, model)
    return golden.parameter_count(model)


def check_glm(model, c, ids, positions):
    """transformers' GLM with the projections taken apart gives the same logits of a text."""
    theirs = GlmForCausalLM(GlmConfig(
        vocab_size=c["padded_vocab_size"], hidden_size=c["hidden_size"], intermediate_size=c["ffn_hidden_size"],
        num_hidden_layers=c["num_layers"], num_attention_heads=c["num_attention_heads"],
        num_key_value_heads=c["multi_query_group_num"], head_dim=c["kv_channels"], attention_bias=True,
        rms_norm_eps=c["layernorm_epsilon"], pad_token_id=0, eos_token_id=0, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0 * c["rope_ratio"],
                         "partial_rotary_factor": 0.5})).eval()
    d = c["kv_channels"]
    rows = [c["num_attention_heads"] * d, c["multi_query_group_num"] * d, c["multi_query_group_num"] * d]
    names = {"transformer.embedding.word_embeddings": "model.embed_tokens", "transformer.output_layer": "lm_head",
             "transformer.encoder.final_layernorm": "model.norm", "transformer.encoder": "model",
             "self_attention.dense": "self_attn.o_proj", "dense_h_to_4h": "gate_up_proj", "dense_4h_to_h": "down_proj"}
    state = {}
    for k, t in model.state_dict().items():
        if ".vision." in k:
            continue
        for ours, other in names.items():
            k = k.replace(ours, other)
        if "query_key_value" in k:
            for part, r in zip("qkv", t.split(rows)):
                state[k.replace("self_attention.query_key_value", f"self_attn.{part}_proj")] = r
        else:
            state[k] = t
    theirs.load_state_dict(state)
    # with a mask, or repeated positions would be taken for the starts of several texts
    got = theirs(ids[None], position_ids=positions[None], attention_mask=torch.ones_like(ids)[None],
                 use_cache=False).logits[0]
    torch.testing.assert_close(got, model(ids, positions), rtol=1e-4, atol=1e-4)


def main():
    out = golden.start(__doc__)
    golden.report(out, {n: build(out, n, s, i) for i, (n, s) in enumerate(MODELS.items())})


if __name__ == "__main__":
    main()
