"""Names and shapes of the tensors in published checkpoints, from published configs, on torch's meta device.

Writes <out>/<model>/config.json (the fields that say what tensors there are) and <out>/<model>/tensors.txt: a line
`name shape` for each tensor as on disk, where `{0..27}` in a name stands for every number of that range.
Run: python tools/golden/families/layouts.py --out tests/data/layouts

Where values come from is said at each group. `billions` is the size that the model's page on the hub states; the sum
of all tensors has to be within half a percent of it, or of its last digit.
"""

import re
from itertools import groupby
from math import prod

import torch
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.core_model_loading import revert_weight_conversion

import golden
import internvl_chat_model
from glm4v_9b import ChatGLM

MODELS = {}


def model(name, billions, kind, **config):
    MODELS[name] = (billions, kind, config)


# Qwen2-VL: config.json of Qwen/Qwen2-VL-{2B,7B,72B}-Instruct; the language models are Qwen2's of the same size.
def qwen2(hidden, inner, layers, heads, groups, vocabulary, tied):
    return dict(hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
                num_key_value_heads=groups, vocab_size=vocabulary, tie_word_embeddings=tied, rope_theta=1000000.0)


MROPE = dict(rope_scaling={"type": "mrope", "mrope_section": [16, 24, 24]}, rms_norm_eps=1e-6, hidden_act="silu",
             image_token_id=151655, video_token_id=151656, vision_start_token_id=151652, vision_end_token_id=151653,
             max_position_embeddings=32768)
for size, billions, text in [
    ("2B", 2.21, qwen2(1536, 8960, 28, 12, 2, 151936, True)),
    ("7B", 8.29, qwen2(3584, 18944, 28, 28, 4, 152064, False)),
    ("72B", 73.4, qwen2(8192, 29568, 80, 64, 8, 152064, False)),
]:
    model(f"Qwen2-VL-{size}-Instruct", billions, "hf", architectures=["Qwen2VLForConditionalGeneration"],
          model_type="qwen2_vl", **text, **MROPE,
          vision_config=dict(depth=32, embed_dim=1280, mlp_ratio=4, num_heads=16, in_chans=3, patch_size=14,
                             hidden_size=text["hidden_size"], spatial_merge_size=2, temporal_patch_size=2))

# Qwen2.5-VL: config.json of Qwen/Qwen2.5-VL-{3B,7B,32B,72B}-Instruct. The two large ones have a wider vision MLP.
for size, billions, text, inner in [
    ("3B", 3.75, qwen2(2048, 11008, 36, 16, 2, 151936, True), 3420),
    ("7B", 8.29, qwen2(3584, 18944, 28, 28, 4, 152064, False), 3420),
    ("32B", 33.5, qwen2(5120, 27648, 64, 40, 8, 152064, False), 3456),
    ("72B", 73.4, qwen2(8192, 29568, 80, 64, 8, 152064, False), 3456),
]:
    model(f"Qwen2.5-VL-{size}-Instruct", billions, "hf", architectures=["Qwen2_5_VLForConditionalGeneration"],
          model_type="qwen2_5_vl", **text, **MROPE,
          vision_config=dict(depth=32, hidden_size=1280, intermediate_size=inner, num_heads=16, in_chans=3,
                             out_hidden_size=text["hidden_size"], patch_size=14, spatial_merge_size=2,
                             spatial_patch_size=14, window_size=112, fullatt_block_indexes=[7, 15, 23, 31],
                             tokens_per_second=2, temporal_patch_size=2, hidden_act="silu"))


# Qwen3-VL: config.json of Qwen/Qwen3-VL-{2B,4B,8B,32B,30B-A3B}-Instruct; the language models are Qwen3's. 2B and 4B
# have the smaller vision tower.
def qwen3(hidden, inner, layers, heads, groups, tied, **more):
    return dict(hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
                num_key_value_heads=groups, head_dim=128, vocab_size=151936, tie_word_embeddings=tied,
                rms_norm_eps=1e-6, hidden_act="silu", **more)


def qwen3_vision(small, out):
    sizes = (24, 1024, 4096, [5, 11, 17]) if small else (27, 1152, 4304, [8, 16, 24])
    return dict(zip(["depth", "hidden_size", "intermediate_size", "deepstack_visual_indexes"], sizes), num_heads=16,
                in_channels=3, num_position_embeddings=2304, out_hidden_size=out, patch_size=16,
                spatial_merge_size=2, temporal_patch_size=2, hidden_act="gelu_pytorch_tanh")


QWEN3_ROPE = dict(rope_theta=5000000, max_position_embeddings=262144, rope_scaling={
    "mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"})
MOE = dict(decoder_sparse_step=1, mlp_only_layers=[], moe_intermediate_size=768, norm_topk_prob=True, num_experts=128,
           num_experts_per_tok=8)
for size, billions, text, small in [
    ("2B", 2.13, qwen3(2048, 6144, 28, 16, 8, True), True),
    ("4B", 4.44, qwen3(2560, 9728, 36, 32, 8, True), True),
    ("8B", 8.77, qwen3(4096, 12288, 36, 32, 8, False), False),
    ("32B", 33.4, qwen3(5120, 25600, 64, 64, 8, False), False),
    ("30B-A3B", 31.1, qwen3(2048, 6144, 48, 32, 4, False, **MOE), False),
]:
    kind = "qwen3_vl_moe" if "num_experts" in text else "qwen3_vl"
    model(f"Qwen3-VL-{size}-Instruct", billions, "hf", model_type=kind,
          architectures=["Qwen3VLMoeForConditionalGeneration" if "moe" in kind else "Qwen3VLForConditionalGeneration"],
          image_token_id=151655, video_token_id=151656, vision_start_token_id=151652, vision_end_token_id=151653,
          tie_word_embeddings=text["tie_word_embeddings"],
          text_config=dict(text, model_type=f"{kind}_text", **QWEN3_ROPE),
          vision_config=dict(qwen3_vision(small, text["hidden_size"]), model_type=kind))

# InternVL in its own layout: config.json of OpenGVLab/InternVL2-{1B,2B,8B}, InternVL2_5-{1B,2B,8B}, InternVL3-{1B,2B,8B}
# and 5CD-AI/Vintern-1B-v2, which was trained from InternVL2-1B. The vision tower is InternViT-300M-448px in all of
# them. Heads are untied in all of them (configuration_internvl_chat.py of the InternVL repository, and the sizes).
# Rows of the embeddings are the tokenizer's length, as internvl_chat_finetune.py resizes them: Qwen2 151646 + 9,
# Qwen2.5 151665 + 9, InternLM2 92544 + 9.
INTERNVIT = dict(architectures=["InternVisionModel"], model_type="intern_vit_6b", hidden_size=1024,
                 intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=448, patch_size=14,
                 num_channels=3, norm_type="layer_norm", qkv_bias=True, qk_normalization=False, layer_norm_eps=1e-6,
                 hidden_act="gelu")


def internvl(name, billions, template, llm):
    model(name, billions, "internvl_chat", architectures=["InternVLChatModel"], model_type="internvl_chat",
          downsample_ratio=0.5, dynamic_image_size=True, force_image_size=448, max_dynamic_patch=12,
          min_dynamic_patch=1, ps_version="v2", select_layer=-1, template=template, use_thumbnail=True,
          llm_config=llm, vision_config=INTERNVIT)


def as_llm(kind, config):
    return dict(config, architectures=[f"{kind}ForCausalLM"], model_type=kind.lower(), hidden_act="silu")


def internlm2(hidden, inner, layers, heads, eps=1e-5):
    return as_llm("InternLM2", dict(qwen2(hidden, inner, layers, heads, 8, 92553, False), bias=False,
                                    rms_norm_eps=eps))


def qwen2_llm(vocabulary, hidden, inner, layers, heads, groups):
    return as_llm("Qwen2", dict(qwen2(hidden, inner, layers, heads, groups, vocabulary, False), rms_norm_eps=1e-6))


HALF_BILLION = (896, 4864, 24, 14, 2)
internvl("InternVL2-1B", 0.938, "Hermes-2", qwen2_llm(151655, *HALF_BILLION))
internvl("Vintern-1B-v2", 0.938, "Hermes-2", qwen2_llm(151655, *HALF_BILLION))
internvl("InternVL2-2B", 2.21, "internlm2-chat", internlm2(2048, 8192, 24, 16))
internvl("InternVL2-8B", 8.08, "internlm2-chat", internlm2(4096, 14336, 32, 32))
internvl("InternVL2_5-1B", 0.938, "internvl2_5", qwen2_llm(151674, *HALF_BILLION))
internvl("InternVL2_5-2B", 2.21, "internvl2_5", internlm2(2048, 8192, 24, 16))
internvl("InternVL2_5-8B", 8.08, "internvl2_5", internlm2(4096, 14336, 32, 32))
internvl("InternVL3-1B", 0.938, "internvl2_5", qwen2_llm(151674, *HALF_BILLION))
internvl("InternVL3-2B", 2.09, "internvl2_5", qwen2_llm(151674, 1536, 8960, 28, 12, 2))
internvl("InternVL3-8B", 7.94, "internvl2_5", qwen2_llm(151674, 3584, 18944, 28, 28, 4))

# InternVL3_5-{1B,8B}: the same with Qwen3 models. Their embeddings are not resized: 151936 rows with the image token
# 151671 is what configs of the transformers layout of the family have; the model page's table (0.8 and 8.2 billion
# for the language model) has room for an untied head also in the small one.
QWEN3_LLM = {"1B": qwen3(1024, 3072, 28, 16, 8, False), "8B": qwen3(4096, 12288, 36, 32, 8, False)}
for size, billions in [("1B", 1.06), ("8B", 8.53)]:
    internvl(f"InternVL3_5-{size}", billions, "internvl2_5", as_llm("Qwen3", dict(QWEN3_LLM[size], rope_theta=1000000)))

# InternVL in the layout of transformers: OpenGVLab/InternVL3-{1B,2B,8B}-hf and InternVL3_5-{1B,8B}-HF, which were
# converted from the above, with transformers' InternVLConfig. Whether their config.json has the top-level
# tie_word_embeddings is not known here: the sizes say that the heads are there.
HF_VISION = dict(model_type="internvl_vision", hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
                 num_attention_heads=16, attention_bias=True, use_qk_norm=False, norm_type="layer_norm",
                 layer_norm_eps=1e-6, image_size=[448, 448], patch_size=[14, 14], num_channels=3, hidden_act="gelu",
                 use_absolute_position_embeddings=True, use_mask_token=False, use_mean_pooling=True,
                 layer_scale_init_value=0.1)
for name in ["InternVL3-1B", "InternVL3-2B", "InternVL3-8B", "InternVL3_5-1B", "InternVL3_5-8B"]:
    billions, _, remote = MODELS[name]
    text = dict(remote["llm_config"])
    model(name + ("-HF" if "3_5" in name else "-hf"), billions, "hf",
          architectures=["InternVLForConditionalGeneration"], model_type="internvl", downsample_ratio=0.5,
          image_seq_length=256, image_token_id=151671 if "3_5" in name else 151667, projector_hidden_act="gelu",
          vision_feature_layer=-1, vision_feature_select_strategy="default", tie_word_embeddings=False,
          text_config=text, vision_config=HF_VISION)

# glm-4v-9b: config.json of THUDM/glm-4v-9b.
model("glm-4v-9b", 13.9, "chatglm", architectures=["ChatGLMModel"], model_type="chatglm", hidden_size=4096,
      ffn_hidden_size=13696, num_layers=40, num_attention_heads=32, kv_channels=128, multi_query_attention=True,
      multi_query_group_num=2, padded_vocab_size=151552, add_bias_linear=False, add_qkv_bias=True,
      layernorm_epsilon=1.5625e-07, rope_ratio=1, seq_length=8192, boi_token_id=151339, eoi_token_id=151340,
      pad_token_id=151329,
      vision_config=dict(hidden_size=1792, intermediate_size=15360, num_hidden_layers=63, num_heads=16,
                         image_size=1120, patch_size=14, num_positions=6401, in_channels=3, layer_norm_eps=1e-6,
                         dropout_prob=0.0, hidden_act="gelu", scaling_factor=8))

# GLM-4.1V: config.json of zai-org/GLM-4.1V-9B-Thinking, whose values are the defaults of transformers' Glm4vConfig.
model("GLM-4.1V-9B-Thinking", 10.3, "hf", architectures=["Glm4vForConditionalGeneration"], model_type="glm4v",
      image_token_id=151343, video_token_id=151344, image_start_token_id=151339, image_end_token_id=151340,
      video_start_token_id=151341, video_end_token_id=151342, tie_word_embeddings=False,
      text_config=dict(model_type="glm4v_text", hidden_size=4096, intermediate_size=13696, num_hidden_layers=40,
                       num_attention_heads=32, num_key_value_heads=2, vocab_size=151552, rms_norm_eps=1e-5,
                       partial_rotary_factor=0.5, rope_theta=10000.0, hidden_act="silu",
                       rope_scaling={"type": "default", "mrope_section": [8, 12, 12]}),
      vision_config=dict(model_type="glm4v", depth=24, hidden_size=1536, num_heads=12, image_size=336, patch_size=14,
                         in_channels=3, intermediate_size=13696, out_hidden_size=4096, rms_norm_eps=1e-5,
                         spatial_merge_size=2, temporal_patch_size=2, attention_bias=False, hidden_act="silu"))


def tensors_of(kind, config):
    """name -> shape, as on disk."""
    with torch.device("meta"):
        if kind == "internvl_chat":
            built = internvl_chat_model.InternVLChat(config)
        elif kind == "chatglm":
            built = ChatGLM(config)
        else:
            c = AutoConfig.for_model(**config)
            built = AutoModelForImageTextToText.from_config(c)
    state = dict(built.state_dict())
    if kind == "hf":
        state = revert_weight_conversion(built, state)
        if built.config.tie_word_embeddings:
            state.pop("lm_head.weight")
    shapes = {k: list(t.shape) for k, t in state.items()}
    # the published experts are [experts, in, out]
    return {k: [s[0], s[2], s[1]] if ".mlp.experts." in k else s for k, s in shapes.items()}


def collapse(shapes):
    """Lines with runs of numbers written as ranges; names that differ only in a number, and have one shape."""
    found = {}
    for name, shape in shapes.items():
        m = re.search(r"\.(layers|blocks|layer|deepstack_merger_list)\.(\d+)\.", name)
        key, number = (name[: m.start(2)] + "#" + name[m.end(2):], int(m[2])) if m else (name, None)
        found.setdefault((key, tuple(shape)), []).append(number)
    lines = []
    for (key, shape), numbers in found.items():
        sizes = "x".join(map(str, shape))
        if numbers == [None]:
            lines.append(f"{key} {sizes}")
            continue
        for _, run in groupby(enumerate(sorted(numbers)), lambda x: x[1] - x[0]):
            run = [n for _, n in run]
            lines.append(key.replace("#", f"{{{run[0]}..{run[-1]}}}") + f" {sizes}")
    return lines


def expand(lines):
    for line in lines:
        name, sizes = line.split()
        m = re.search(r"\{(\d+)\.\.(\d+)\}", name)
        for n in range(int(m[1]), int(m[2]) + 1) if m else [None]:
            yield (name if n is None else name.replace(m[0], str(n))), [int(s) for s in sizes.split("x")]


def main():
    out = golden.start(__doc__)
    for name, (billions, kind, config) in MODELS.items():
        shapes = tensors_of(kind, config)
        lines = collapse(shapes)
        assert dict(expand(lines)) == shapes, name
        total = sum(prod(s) for s in shapes.values()) / 1e9
        digits = len(str(billions).split(".")[1])
        ok = abs(total - billions) <= max(0.5 * 10**-digits, 0.005 * billions)
        assert ok, (name, total, billions)
        print(f"{name}: {len(shapes)} tensors, {total:.4f} billion, stated {billions}")
        (out / name).mkdir()
        golden.write_json(out / name / "config.json", config)
        (out / name / "tensors.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
