"""`InternVLChatModel` restated: InternViT, pixel shuffle, the connector `mlp1`, and InternLM2 or a Qwen model.

Facts (module names, the order inside `wqkv`, the pixel shuffle v2, tiling, prompt templates) are those of
github.com/OpenGVLab/InternVL, internvl_chat/internvl; the words and the code are not.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms import functional as tv
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# name -> (default system message, what ends a turn). All are ChatML and always have a system turn.
_SHANGHAI = "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
TEMPLATES = {
    "Hermes-2": (_SHANGHAI, "<|im_end|>"),
    "internlm2-chat": (_SHANGHAI, "<|im_end|>"),
    "internvl2_5": (
        "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。",
        "<|im_end|>\n",
    ),
}


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x):
        return self.weight * (x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.eps))


def attend(q, k, v, causal):
    """[B, heads, T, d] each."""
    scores = q @ k.mT * q.shape[-1] ** -0.5
    if causal:
        scores = scores + torch.full(scores.shape[-2:], float("-inf")).triu(1)
    return scores.softmax(-1) @ v


def attributes(**modules):
    """A module that only holds others under their published names."""
    m = nn.Module()
    for name, child in modules.items():
        setattr(m, name, child)
    return m


class VisionLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        width, eps = c["hidden_size"], c["layer_norm_eps"]
        norm = {"layer_norm": nn.LayerNorm, "rms_norm": RMSNorm}[c["norm_type"]]
        self.attn = attributes(qkv=nn.Linear(width, 3 * width, bias=c["qkv_bias"]), proj=nn.Linear(width, width))
        if c["qk_normalization"]:  # over all heads together
            self.attn.q_norm, self.attn.k_norm = RMSNorm(width, eps), RMSNorm(width, eps)
        self.mlp = attributes(fc1=nn.Linear(width, c["intermediate_size"]), fc2=nn.Linear(c["intermediate_size"], width))
        self.norm1, self.norm2 = norm(width, eps=eps), norm(width, eps=eps)
        self.ls1, self.ls2 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))
        self.heads = c["num_attention_heads"]

    def forward(self, x):
        q, k, v = self.attn.qkv(self.norm1(x)).chunk(3, -1)
        if hasattr(self.attn, "q_norm"):
            q, k = self.attn.q_norm(q), self.attn.k_norm(k)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        x = x + self.ls1 * self.attn.proj(attend(q, k, v, causal=False).transpose(1, 2).flatten(2))
        return x + self.ls2 * self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class Vision(nn.Module):
    def __init__(self, c):
        super().__init__()
        width, patch = c["hidden_size"], c["patch_size"]
        self.embeddings = attributes(patch_embedding=nn.Conv2d(3, width, patch, stride=patch))
        positions = (c["image_size"] // patch) ** 2 + 1
        self.embeddings.class_embedding = nn.Parameter(torch.empty(1, 1, width))
        self.embeddings.position_embedding = nn.Parameter(torch.empty(1, positions, width))
        self.encoder = attributes(layers=nn.ModuleList([VisionLayer(c) for _ in range(c["num_hidden_layers"])]))

    def forward(self, pixels):
        e = self.embeddings
        x = e.patch_embedding(pixels).flatten(2).mT
        x = torch.cat([e.class_embedding.expand(len(x), -1, -1), x], 1) + e.position_embedding
        for layer in self.encoder.layers:
            x = layer(x)
        return x[:, 1:]


def shuffle(x):
    """[B, side*side, C] -> [B, side/2*side/2, 4C]: each 2 x 2 block becomes one row, first the upper pair of
    patches, then the lower ("ps_version": "v2")."""
    side = round(x.shape[1] ** 0.5)
    x = x.unflatten(1, (side // 2, 2, side // 2, 2))  # row, upper/lower, column, left/right
    return x.permute(0, 1, 3, 2, 4, 5).flatten(3).flatten(1, 2)


class InternLM2Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        width, inner = c["hidden_size"], c["intermediate_size"]
        self.heads, self.kv = c["num_attention_heads"], c["num_key_value_heads"]
        self.d, self.theta = width // self.heads, c["rope_theta"]
        self.attention = attributes(
            wqkv=nn.Linear(width, (self.heads + 2 * self.kv) * self.d, bias=c["bias"]),
            wo=nn.Linear(width, width, bias=c["bias"]),
        )
        self.feed_forward = attributes(w1=nn.Linear(width, inner, bias=False), w3=nn.Linear(width, inner, bias=False),
                                       w2=nn.Linear(inner, width, bias=False))
        self.attention_norm, self.ffn_norm = RMSNorm(width, c["rms_norm_eps"]), RMSNorm(width, c["rms_norm_eps"])

    def rotate(self, x):
        half = self.d // 2
        frequency = 1.0 / self.theta ** (torch.arange(0, self.d, 2).float() / self.d)
        angle = torch.arange(x.shape[-2]).float()[:, None] * frequency
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

    def forward(self, x):
        group = self.heads // self.kv
        # rows of wqkv: for each key head its query heads, the key, the value
        packed = self.attention.wqkv(self.attention_norm(x)).unflatten(-1, (self.kv, group + 2, self.d))
        q = packed[..., :group, :].flatten(2, 3).transpose(1, 2)
        k = packed[..., group, :].repeat_interleave(group, 2).transpose(1, 2)
        v = packed[..., group + 1, :].repeat_interleave(group, 2).transpose(1, 2)
        x = x + self.attention.wo(attend(self.rotate(q), self.rotate(k), v, causal=True).transpose(1, 2).flatten(2))
        f, h = self.feed_forward, self.ffn_norm(x)
        return x + f.w2(F.silu(f.w1(h)) * f.w3(h))


class InternLM2(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.model = attributes(
            tok_embeddings=nn.Embedding(c["vocab_size"], c["hidden_size"]),
            layers=nn.ModuleList([InternLM2Layer(c) for _ in range(c["num_hidden_layers"])]),
            norm=RMSNorm(c["hidden_size"], c["rms_norm_eps"]),
        )
        self.output = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)

    def embed(self, ids):
        return self.model.tok_embeddings(ids)

    def forward(self, x):
        for layer in self.model.layers:
            x = layer(x)
        return self.output(self.model.norm(x))


def language_model(c):
    kind = c["architectures"][0]
    if kind == "InternLM2ForCausalLM":
        return InternLM2(c)
    config, model = {"Qwen2ForCausalLM": (Qwen2Config, Qwen2ForCausalLM),
                     "Qwen3ForCausalLM": (Qwen3Config, Qwen3ForCausalLM)}[kind]
    return model._from_config(config(**{k: v for k, v in c.items() if k not in ("architectures", "torch_dtype")}),
                              attn_implementation="eager")


class InternVLChat(nn.Module):
    def __init__(self, config):
        super().__init__()
        vision, text = config["vision_config"], config["llm_config"]
        self.vision_model, self.language_model = Vision(vision), language_model(text)
        wide = 4 * vision["hidden_size"]
        self.mlp1 = nn.Sequential(nn.LayerNorm(wide), nn.Linear(wide, text["hidden_size"]), nn.GELU(),
                                  nn.Linear(text["hidden_size"], text["hidden_size"]))

    def features(self, pixels):
        return self.mlp1(shuffle(self.vision_model(pixels))).flatten(0, 1)

    def forward(self, ids, pixels, image_id):
        """ids [T], pixels [tiles, 3, side, side] or None; logits [T, V]."""
        lm = self.language_model
        x = lm.embed(ids) if isinstance(lm, InternLM2) else lm.get_input_embeddings()(ids)
        if pixels is not None:
            x = torch.index_put(x, ((ids == image_id).nonzero()[:, 0],), self.features(pixels))
        return lm(x[None])[0] if isinstance(lm, InternLM2) else lm(inputs_embeds=x[None], use_cache=False).logits[0]


def grid_of(width, height, lo, hi, side):
    """Columns and rows of tiles: the nearest aspect ratio; among equally near ones the last, in order of the
    number of tiles, that does not enlarge the picture to more than twice its area."""
    shapes = {(i, j) for n in range(lo, hi + 1) for i in range(1, n + 1) for j in range(1, n + 1) if lo <= i * j <= hi}
    best, distance = (1, 1), float("inf")
    for i, j in sorted(shapes, key=lambda s: s[0] * s[1]):
        d = abs(width / height - i / j)
        if d < distance or d == distance and width * height > 0.5 * side * side * i * j:
            best, distance = (i, j), d
    return best


def tiles(image, config):
    """Pixels [tiles, 3, side, side] of a picture: its tiles row by row, and if several, the whole of it."""
    side = config["force_image_size"]
    columns, rows = (1, 1)
    if config["dynamic_image_size"]:
        columns, rows = grid_of(*image.size, config["min_dynamic_patch"], config["max_dynamic_patch"], side)
    whole = image.resize((side * columns, side * rows))  # Pillow's default is bicubic
    parts = [whole.crop((x * side, y * side, (x + 1) * side, (y + 1) * side))
             for y in range(rows) for x in range(columns)]
    if config["use_thumbnail"] and len(parts) > 1:
        parts.append(image.resize((side, side)))
    return torch.stack([tv.normalize(tv.to_tensor(p), MEAN, STD) for p in parts])


def frames_of(total, segments=8):
    """Numbers of the frames that stand for a video: the middles of equal parts, as the model's page does it."""
    part = (total - 1) / segments
    return [int(part / 2 + round(part * i)) for i in range(segments)]  # round: half to even


def part_text(part, counts):
    if part["type"] == "text":
        return part["text"]
    names = [f"Frame{i + 1}: " for i in range(8)] if part["type"] == "video" else [""]
    return "".join(f"{name}<img>{'<IMG_CONTEXT>' * next(counts)}</img>\n" for name in names)


def prompt_text(messages, template, tokens_of_images, generation):
    """The chat as text. tokens_of_images: the number of visual tokens of each picture and of
    each frame of a video, in order."""
    system, end = TEMPLATES[template]
    counts = iter(tokens_of_images)
    if messages[0]["role"] == "system":
        system, messages = messages[0]["content"], messages[1:]
    text = f"<|im_start|>system\n{system}{end}"
    for m in messages:
        body = m["content"]
        if not isinstance(body, str):
            body = "".join(part_text(p, counts) for p in body)
        text += f"<|im_start|>{m['role']}\n{body}{end}"
    return text + ("<|im_start|>assistant\n" if generation else "")
