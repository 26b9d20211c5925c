"""Golden files of GLM-4.1V: a bicubic position table, half of each text head turned, four norms a layer, videos as
single frames with their times.

Run: python tools/golden/families/glm4v.py --out tests/data/families/glm4v
"""

import json

import torch
from transformers import AutoImageProcessor, AutoProcessor, Glm4vConfig, Glm4vForConditionalGeneration, Glm4vProcessor
from transformers import Glm4vVideoProcessor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.models.glm4v.image_processing_glm4v import Glm4vImageProcessor
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil

import golden

SPECIALS = ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
            "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>", "<|image|>", "<|video|>"]
TEMPLATE = (
    "[gMASK]<sop>{% for m in messages %}{{ '<|' + m['role'] + '|>\n' }}"
    "{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'video' or 'video' in c %}<|begin_of_video|><|video|><|end_of_video|>"
    "{% elif c['type'] == 'image' or 'image' in c %}<|begin_of_image|><|image|><|end_of_image|>"
    "{% elif 'text' in c %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
# Both have images of another shape than the position table. tied: five frames, the last of them twice; untied: a
# video that is thinned out. No chat has pictures and a video: the two have one token, and transformers counts the
# rows of either against the tokens of both.
MODELS = {
    "tied": dict(
        text=dict(hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                  num_key_value_heads=1, rms_norm_eps=1e-5),
        rope=dict(rope_theta=1e4, mrope_section=[1, 1, 2], partial_rotary_factor=0.5), tie=True,
        vision=dict(depth=2, hidden_size=16, num_heads=2, patch_size=4, image_size=20, intermediate_size=20),
        pixels=(512, 2048), video_pixels=(1024, 3200), sizes=[(37, 19), (17, 40), (16, 20)],
        video=dict(size=(30, 21), frames=5, fps=2.0),
    ),
    "untied": dict(
        text=dict(hidden_size=32, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4,
                  num_key_value_heads=2, rms_norm_eps=1e-5),
        rope=dict(rope_theta=5e5, mrope_section=[2, 1, 1], partial_rotary_factor=1.0), tie=False,
        vision=dict(depth=2, hidden_size=12, num_heads=1, patch_size=6, image_size=24, intermediate_size=28),
        pixels=(288, 4608), video_pixels=(1152, 5184), sizes=[(38, 26), (13, 33)],
        video=dict(size=(31, 40), frames=7, fps=3.0),
    ),
}


def make_config(spec, tok):
    ids = {s: tok.convert_tokens_to_ids(s) for s in SPECIALS}
    return Glm4vConfig(
        text_config=dict(
            spec["text"], vocab_size=len(tok) + 3, max_position_embeddings=2048,
            rope_parameters={"rope_type": "default", **spec["rope"]}, pad_token_id=ids["<|endoftext|>"],
            eos_token_id=[ids["<|endoftext|>"], ids["<|user|>"], ids["<|observation|>"]],
            tie_word_embeddings=spec["tie"],
        ),
        vision_config=dict(spec["vision"], in_channels=3, temporal_patch_size=2, spatial_merge_size=2,
                           out_hidden_size=spec["text"]["hidden_size"], rms_norm_eps=1e-5),
        image_token_id=ids["<|image|>"], video_token_id=ids["<|video|>"],
        image_start_token_id=ids["<|begin_of_image|>"], image_end_token_id=ids["<|end_of_image|>"],
        video_start_token_id=ids["<|begin_of_video|>"], video_end_token_id=ids["<|end_of_video|>"],
        tie_word_embeddings=spec["tie"], dtype="float32",
    )


def publish_config(path):
    """The rotary fields where the published config has them."""
    config = json.loads(path.read_text())
    text = config["text_config"]
    rope = text.pop("rope_parameters")
    text["rope_theta"], text["partial_rotary_factor"] = rope.pop("rope_theta"), rope.pop("partial_rotary_factor")
    text["rope_scaling"] = {"type": "default", "mrope_section": rope["mrope_section"]}
    config["vision_config"].pop("rope_parameters", None)
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.53.1"
    golden.write_json(path, config)


def build(out, name, spec, index):
    folder = out / name
    folder.mkdir(parents=True)
    tok = golden.make_tokenizer(SPECIALS, "<|endoftext|>", "<|endoftext|>", TEMPLATE,
                                additional_special_tokens=SPECIALS)
    sizes = dict(patch_size=spec["vision"]["patch_size"], merge_size=2, temporal_patch_size=2,
                 image_mean=OPENAI_CLIP_MEAN, image_std=OPENAI_CLIP_STD)

    def options(key):
        return dict(size={"shortest_edge": spec[key][0], "longest_edge": spec[key][1]}, **sizes)

    processor = Glm4vProcessor(
        image_processor=Glm4vImageProcessorPil(**options("pixels")), tokenizer=tok,
        video_processor=Glm4vVideoProcessor(**options("video_pixels")), chat_template=TEMPLATE)
    config = make_config(spec, tok)
    config._attn_implementation = "eager"
    torch.manual_seed(index)
    model = Glm4vForConditionalGeneration(config).float().eval()
    golden.randomize(model, 100 + index)
    model.generation_config.eos_token_id = config.text_config.eos_token_id
    model.generation_config.pad_token_id = tok.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if index == 0:  # as published: one file for each of image and video processor, none for the processor
        processor.image_processor.save_pretrained(folder)
        processor.video_processor.save_pretrained(folder)
        golden.edit_json(folder / "preprocessor_config.json", image_processor_type="Glm4vImageProcessor",
                         processor_class="Glm4vProcessor")
        (folder / "processor_config.json").unlink()
        publish_config(folder / "config.json")
    fast = Glm4vImageProcessor(**options("pixels"))
    for case, messages in golden.make_cases(folder, spec["sizes"], spec["video"], index).items():
        full, labels = golden.encode(processor, folder, messages)
        tensors = golden.run_mrope_case(model, full, labels, gradients=case == "")
        if case == "_one":
            image = golden.Image.open(folder / messages[1]["content"][0]["image"])
            theirs = golden.narrow(fast(image, return_tensors="pt")["pixel_values"])
            if not torch.equal(theirs, tensors["pixel_values"]):
                tensors["pixel_values_fast"] = theirs
        golden.write_case(folder, case, messages, tensors)
    golden.write_names(folder, model)
    check_loads(folder, model)
    return golden.parameter_count(model)


def check_loads(folder, model):
    """The folder loads in transformers as it is, and gives the same weights, token ids, pixels and logits."""
    loaded = Glm4vForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()
    for (n, a), b in zip(loaded.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b), n
    processor = AutoProcessor.from_pretrained(folder)
    processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    for file in folder.glob("messages*.json"):
        full, _ = golden.encode(processor, folder, json.loads(file.read_text()))
        want = golden.load_file(folder / file.name.replace("messages", "expected").replace("json", "safetensors"))
        assert torch.equal(full["input_ids"][0].int(), want["input_ids"]), file
        for k in ["pixel_values", "pixel_values_videos"]:
            assert k not in full or torch.equal(full[k], want[k]), (file, k)
        got = golden.run_mrope_case(loaded, full, want["labels"].long(), gradients=False)
        assert torch.equal(got["logits_last"], want["logits"][-1] if "logits" in want else want["logits_last"]), file


def main():
    out = golden.start(__doc__)
    golden.report(out, {n: build(out, n, s, i) for i, (n, s) in enumerate(MODELS.items())})


if __name__ == "__main__":
    main()
