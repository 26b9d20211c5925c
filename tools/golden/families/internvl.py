"""Golden files of InternVL in the layout of transformers (`InternVLForConditionalGeneration`).

Run: python tools/golden/families/internvl.py --out tests/data/families/internvl
"""

import json

import torch
from transformers import AutoImageProcessor, AutoProcessor, InternVLConfig, InternVLForConditionalGeneration
from transformers import InternVLProcessor, InternVLVideoProcessor, Qwen2Config, Qwen3Config
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

import golden

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
NAMED = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
         "video_token": "<video>"}
# ChatML; a picture is its placeholder and a line break, before the text.
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif c['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
IMAGENET = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])

# qwen2: InternViT-300M's branches (layer norm, biases, no query/key norm), Qwen2 language model, tied head.
# qwen3: InternViT-6B's branches (RMS norm, query/key norm, no biases), Qwen3 language model, own head size.
MODELS = {
    "qwen2": dict(
        text=dict(model_type="qwen2", hidden_size=32, intermediate_size=40, num_hidden_layers=2,
                  num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-6, rope=1e6, tie=True),
        vision=dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                    attention_bias=True, use_qk_norm=False, norm_type="layer_norm", layer_norm_eps=1e-6,
                    image_size=[28, 28], patch_size=[7, 7]),
        patches=(1, 4), sizes=[(70, 33), (25, 40), (31, 30)],
        video=dict(size=(40, 30), frames=5, fps=2.0), sampling=dict(num_frames=4),
    ),
    "qwen3": dict(
        text=dict(model_type="qwen3", hidden_size=32, intermediate_size=24, num_hidden_layers=2,
                  num_attention_heads=2, num_key_value_heads=1, head_dim=24, rms_norm_eps=1e-6, rope=1e4, tie=False),
        vision=dict(hidden_size=20, intermediate_size=28, num_hidden_layers=3, num_attention_heads=2,
                    attention_bias=False, use_qk_norm=True, norm_type="rms_norm", layer_norm_eps=1e-6,
                    image_size=[24, 24], patch_size=[6, 6]),
        patches=(1, 3), sizes=[(20, 61), (50, 24)],
        video=dict(size=(26, 44), frames=7, fps=3.0, image=True), sampling=dict(fps=2.0),
    ),
}


def make_config(spec, tok):
    t, v = dict(spec["text"]), dict(spec["vision"])
    theta, tie = t.pop("rope"), t.pop("tie")
    ids = {s: tok.convert_tokens_to_ids(s) for s in SPECIALS}
    kind = {"qwen2": Qwen2Config, "qwen3": Qwen3Config}[t.pop("model_type")]
    text = kind(**t, vocab_size=len(tok) + 3, max_position_embeddings=2048, tie_word_embeddings=tie,
                rope_parameters={"rope_type": "default", "rope_theta": theta},
                bos_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|im_end|>"])
    tokens = (v["image_size"][0] // v["patch_size"][0]) ** 2 // 4
    return InternVLConfig(
        vision_config=dict(v, layer_scale_init_value=0.1, use_mean_pooling=True), text_config=text,
        image_token_id=ids["<IMG_CONTEXT>"], image_seq_length=tokens, downsample_ratio=0.5,
        tie_word_embeddings=tie, dtype="float32",
    )


def publish_config(path):
    """The rotary fields as in InternVL3's files: a dynamic scaling, which only texts longer than
    max_position_embeddings would feel."""
    config = json.loads(path.read_text())
    text = config["text_config"]
    text["rope_theta"] = text.pop("rope_parameters")["rope_theta"]
    text["rope_scaling"] = {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"}
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.52.0.dev0"
    golden.write_json(path, config)


def run_case(model, full, labels, gradients):
    ids = full["input_ids"]
    out = {"position_ids": torch.arange(ids.shape[1]).expand(3, -1)}
    inputs = dict(input_ids=ids)
    if "pixel_values" in full:
        inputs["pixel_values"] = full["pixel_values"]
        features = model.model.get_image_features(full["pixel_values"], return_dict=True).pooler_output
        out |= {"pixel_values": full["pixel_values"], "image_embeds": features.flatten(0, 1)}
    logits = model(**inputs, use_cache=False).logits[0]
    return golden.finish(model, logits, ids[0], labels, gradients, out)


def tiles_of(processor, folder, messages):
    images = golden.parts(messages, "image")
    options = dict(crop_to_patches=True, return_tensors="pt")
    done = [processor.image_processor(golden.Image.open(folder / c["image"]).convert("RGB"), **options)
            for c in images]
    return torch.tensor([int(d["num_patches"][0]) for d in done])


def build(out, name, spec, index):
    folder = out / name
    folder.mkdir(parents=True)
    tok = golden.make_tokenizer(SPECIALS, "<|im_end|>", "<|endoftext|>", TEMPLATE, extra_special_tokens=NAMED)
    side = spec["vision"]["image_size"][0]
    lo, hi = spec["patches"]
    options = dict(size={"height": side, "width": side}, **IMAGENET)
    tiling = dict(crop_to_patches=False, min_patches=lo, max_patches=hi)
    config = make_config(spec, tok)
    config._attn_implementation = "eager"
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessorPil(**options, **tiling), tokenizer=tok,
        video_processor=InternVLVideoProcessor(**options, **spec["sampling"]),
        image_seq_length=config.image_seq_length, chat_template=TEMPLATE,
    )
    torch.manual_seed(index)
    model = InternVLForConditionalGeneration(config).float().eval()
    golden.randomize(model, 100 + index)
    model.generation_config.eos_token_id = [tok.eos_token_id, tok.pad_token_id]
    model.generation_config.pad_token_id = tok.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if index == 0:  # as published: one file for each of image, video and text processor
        processor.image_processor.save_pretrained(folder)
        processor.video_processor.save_pretrained(folder)
        golden.edit_json(folder / "preprocessor_config.json", image_processor_type="GotOcr2ImageProcessorFast",
                         processor_class="InternVLProcessor")
        golden.write_json(folder / "processor_config.json",
                          {"image_seq_length": config.image_seq_length, "processor_class": "InternVLProcessor"})
        publish_config(folder / "config.json")
    fast = GotOcr2ImageProcessor(**options, **tiling)
    for case, messages in golden.make_cases(folder, spec["sizes"], spec["video"], index).items():
        full, labels = golden.encode(processor, folder, messages, tok.eos_token_id)
        tensors = run_case(model, full, labels, gradients=case == "")
        if golden.parts(messages, "image"):
            tensors["image_num_patches"] = golden.narrow(tiles_of(processor, folder, messages))
        if case == "_one":
            image = golden.Image.open(folder / messages[1]["content"][0]["image"])
            tensors["pixel_values_fast"] = golden.narrow(
                fast(image, crop_to_patches=True, return_tensors="pt")["pixel_values"])
            gap = (tensors["pixel_values_fast"] - tensors["pixel_values"]).abs().max()
            print(f"{name}: torchvision's pixels differ by up to {gap:.4f}")
        golden.write_case(folder, case, messages, tensors)
    golden.write_names(folder, model)
    check_loads(folder, model, spec)
    return golden.parameter_count(model)


def check_loads(folder, model, spec):
    """The folder loads in transformers as it is, and gives the same weights, token ids and pixels."""
    loaded = InternVLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()
    for (n, a), b in zip(loaded.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b), n
    processor = AutoProcessor.from_pretrained(folder)
    processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    for case in ["", "_one", "_text", "_video"]:
        messages = json.loads((folder / f"messages{case}.json").read_text())
        full, _ = golden.encode(processor, folder, messages, processor.tokenizer.eos_token_id)
        want = golden.load_file(folder / f"expected{case}.safetensors")
        assert torch.equal(full["input_ids"][0].int(), want["input_ids"]), case
        if "pixel_values" in full:
            assert torch.equal(full["pixel_values"], want["pixel_values"]), case
        got = run_case(loaded, full, want["labels"].long(), gradients=False)
        last = want["logits"][-1] if "logits" in want else want["logits_last"]
        torch.testing.assert_close(got["logits_last"], last, rtol=1e-5, atol=1e-5)


def main():
    out = golden.start(__doc__)
    golden.report(out, {n: build(out, n, s, i) for i, (n, s) in enumerate(MODELS.items())})


if __name__ == "__main__":
    main()
