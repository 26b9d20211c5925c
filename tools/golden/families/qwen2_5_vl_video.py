"""Golden files of a video through Qwen2.5-VL (its images are in tests/data/qwen2_5_vl).

Run: python tools/golden/families/qwen2_5_vl_video.py --out tests/data/families/qwen2_5_vl_video
"""

import qwen
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

MODELS = {
    "windows": dict(
        text=dict(hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
                  num_key_value_heads=1, rms_norm_eps=1e-6),
        rope=dict(rope_theta=1e6, mrope_section=[2, 3, 3]), tie=True,
        vision=dict(hidden_size=16, intermediate_size=24, depth=3, num_heads=2, patch_size=4, window_size=16,
                    fullatt_block_indexes=[1], tokens_per_second=2),
        pixels=(256, 1024), video_pixels=(256, 1024), sizes=[(37, 19), (17, 40)],
        video=dict(size=(44, 21), frames=11, fps=3.0, image=True), cases=["_one", "_video"], gradients="_video",
    ),
}


def main():
    family = qwen.Family(
        config=Qwen2_5_VLConfig, model=Qwen2_5_VLForConditionalGeneration, processor=Qwen2_5_VLProcessor,
        video=Qwen2VLVideoProcessor, mean_std=(OPENAI_CLIP_MEAN, OPENAI_CLIP_STD), cap_pixels=False,
        # the files of the family name no rate, qwen-vl-utils samples two frames a second
        video_options=dict(fps=2.0), flat=True,
    )
    qwen.write(__doc__, family, MODELS)


if __name__ == "__main__":
    main()
