"""Golden files of Qwen2-VL: LayerNorm and quick GELU in the vision tower, full attention, videos.

Run: python tools/golden/families/qwen2_vl.py --out tests/data/families/qwen2_vl
"""

import qwen
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

MODELS = {
    "tied": dict(
        text=dict(hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
                  num_key_value_heads=2, rms_norm_eps=1e-6),
        rope=dict(rope_theta=1e6, mrope_section=[1, 1, 2]), tie=True,
        vision=dict(depth=2, embed_dim=16, mlp_ratio=2, num_heads=2, patch_size=4),
        pixels=(256, 1024), video_pixels=(256, 640), sizes=[(37, 19), (17, 40), (16, 20)],
        video=dict(size=(30, 21), frames=5, fps=2.0),
    ),
    "untied": dict(
        text=dict(hidden_size=32, intermediate_size=28, num_hidden_layers=2, num_attention_heads=2,
                  num_key_value_heads=2, rms_norm_eps=1e-5),
        rope=dict(rope_theta=1e4, mrope_section=[2, 3, 3]), tie=False,
        vision=dict(depth=3, embed_dim=12, mlp_ratio=4, num_heads=1, patch_size=6),
        pixels=(144, 2304), video_pixels=(144, 1296), sizes=[(38, 26), (13, 33)],
        video=dict(size=(31, 40), frames=7, fps=3.0, image=True),
    ),
}


def main():
    family = qwen.Family(
        config=Qwen2VLConfig, model=Qwen2VLForConditionalGeneration, processor=Qwen2VLProcessor,
        video=Qwen2VLVideoProcessor, mean_std=(OPENAI_CLIP_MEAN, OPENAI_CLIP_STD), cap_pixels=False,
        # the files of the family name no rate, qwen-vl-utils samples two frames a second
        vision_width="hidden_size", video_options=dict(fps=2.0), flat=True,
    )
    qwen.write(__doc__, family, MODELS)


if __name__ == "__main__":
    main()
