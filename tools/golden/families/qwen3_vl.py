"""Golden files of Qwen3-VL: deepstack, interpolated positions of the vision tower, interleaved rotary axes.

Run: python tools/golden/families/qwen3_vl.py --out tests/data/families/qwen3_vl
"""

import qwen
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor, Qwen3VLVideoProcessor

# Both have a head size other than hidden/heads, two deepstack levels, and a position table of another shape than
# the images. tied: grouped queries, a text layer without deepstack. untied: as many key heads as query heads.
MODELS = {
    "tied": dict(
        text=dict(hidden_size=32, intermediate_size=20, num_hidden_layers=3, num_attention_heads=4,
                  num_key_value_heads=2, head_dim=12, rms_norm_eps=1e-6),
        rope=dict(rope_theta=5e6, mrope_section=[2, 2, 2]), tie=True,
        vision=dict(depth=3, hidden_size=12, intermediate_size=20, num_heads=3, patch_size=4,
                    num_position_embeddings=25, deepstack_visual_indexes=[0, 2]),
        pixels=(256, 1024), video_pixels=(1024, 3200), sizes=[(37, 19), (17, 40), (16, 20)],
        video=dict(size=(30, 21), frames=5, fps=2.0),
    ),
    "untied": dict(
        text=dict(hidden_size=32, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2,
                  num_key_value_heads=2, head_dim=20, rms_norm_eps=1e-6),
        rope=dict(rope_theta=1e4, mrope_section=[4, 3, 3]), tie=False,
        vision=dict(depth=2, hidden_size=12, intermediate_size=20, num_heads=1, patch_size=6,
                    num_position_embeddings=16, deepstack_visual_indexes=[0, 1]),
        pixels=(144, 2304), video_pixels=(1152, 5184), sizes=[(38, 26), (13, 33)],
        video=dict(size=(31, 40), frames=7, fps=3.0, image=True),
    ),
}


def main():
    family = qwen.Family(
        config=Qwen3VLConfig, model=Qwen3VLForConditionalGeneration, processor=Qwen3VLProcessor,
        video=Qwen3VLVideoProcessor, mean_std=([0.5] * 3, [0.5] * 3), cap_pixels=False, rope={"mrope_interleaved": True},
        vision_width="out_hidden_size",
    )
    qwen.write(__doc__, family, MODELS)


if __name__ == "__main__":
    main()
