"""Golden files of the Qwen3-VL mixture of experts: fused experts on disk, the best few of them renormed to one, and
one layer that is dense.

Published checkpoints hold the experts' factors as [experts, in, out]; transformers 5 has them as [experts, out, in],
in memory and in what it saves, and turns a file's tensor over when its shape is not the one it wants. sparse is written
as published, saved as transformers 5 saves. Gradients of both are [experts, out, in].

Run: python tools/golden/families/qwen3_vl_moe.py --out tests/data/families/qwen3_vl_moe
"""

import json

import golden
import qwen
from safetensors.torch import save_file
from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration, Qwen3VLProcessor, Qwen3VLVideoProcessor

MODELS = {
    "sparse": dict(
        text=dict(hidden_size=32, intermediate_size=20, moe_intermediate_size=8, num_hidden_layers=3,
                  num_attention_heads=4, num_key_value_heads=2, head_dim=12, rms_norm_eps=1e-6, num_experts=5,
                  num_experts_per_tok=2, decoder_sparse_step=1, mlp_only_layers=[1], norm_topk_prob=True),
        rope=dict(rope_theta=5e6, mrope_section=[2, 2, 2]), tie=False,
        vision=dict(depth=2, hidden_size=12, intermediate_size=20, num_heads=1, patch_size=4,
                    num_position_embeddings=25, deepstack_visual_indexes=[0, 1]),
        pixels=(256, 1024), video_pixels=(1024, 3200), sizes=[(37, 19), (17, 40)],
        video=dict(size=(30, 21), frames=5, fps=2.0, image=True),
    ),
    "saved": dict(
        text=dict(hidden_size=16, intermediate_size=20, moe_intermediate_size=12, num_hidden_layers=4,
                  num_attention_heads=2, num_key_value_heads=1, head_dim=12, rms_norm_eps=1e-6, num_experts=4,
                  num_experts_per_tok=3, decoder_sparse_step=2, norm_topk_prob=True),
        rope=dict(rope_theta=5e6, mrope_section=[2, 2, 2]), tie=True,
        vision=dict(depth=2, hidden_size=8, intermediate_size=12, num_heads=1, patch_size=4,
                    num_position_embeddings=9, deepstack_visual_indexes=[0, 1]),
        pixels=(256, 1024), video_pixels=(1024, 3200), sizes=[(16, 19), (17, 40)],
        video=None, cases=["_one", "_text"], gradients="_one",
    ),
}


def publish_experts(folder):
    weights = golden.load_file(folder / "model.safetensors")
    turned = {k: t.transpose(1, 2).contiguous() if ".experts." in k else t for k, t in weights.items()}
    save_file(turned, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_experts"] = config["text_config"].pop("num_local_experts")
    golden.write_json(folder / "config.json", config)


def main():
    family = qwen.Family(
        config=Qwen3VLMoeConfig, model=Qwen3VLMoeForConditionalGeneration, processor=Qwen3VLProcessor,
        video=Qwen3VLVideoProcessor, mean_std=([0.5] * 3, [0.5] * 3), cap_pixels=False,
        rope={"mrope_interleaved": True}, publish=publish_experts,
    )
    qwen.write(__doc__, family, MODELS)


if __name__ == "__main__":
    main()
