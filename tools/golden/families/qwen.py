"""What the scripts of the Qwen-VL families share."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from transformers import AutoImageProcessor, AutoProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

import golden

SPECIALS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
]
# ChatML with vision markers; no default system prompt, to stay short.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' or 'image' in c %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif c['type'] == 'video' or 'video' in c %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in c %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass
class Family:
    config: type
    model: type
    processor: type
    video: type
    mean_std: tuple  # of the image processor
    cap_pixels: bool  # whether a video's frames share a budget of pixels, as qwen-vl-utils has it
    rope: dict = field(default_factory=dict)
    vision_width: str | None = "out_hidden_size"  # field of the vision config with the text's width
    video_options: dict = field(default_factory=dict)
    publish: Callable | None = None  # what else to change in a folder to have it as published
    flat: bool = False  # whether published configs have the text's fields at the top


def make_config(family, spec, tok):
    ids = {s: tok.convert_tokens_to_ids(s) for s in SPECIALS}
    text = dict(
        spec["text"], vocab_size=len(tok) + 3, max_position_embeddings=2048, tie_word_embeddings=spec["tie"],
        rope_parameters={"rope_type": "default", **spec["rope"], **family.rope},
        bos_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|im_end|>"],
    )
    vision = dict(spec["vision"], in_channels=3, temporal_patch_size=2, spatial_merge_size=2)
    vision[family.vision_width] = spec["text"]["hidden_size"]
    return family.config(
        text_config=text, vision_config=vision, tie_word_embeddings=spec["tie"], dtype="float32",
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
    )


def make_processor(family, spec, tok):
    patch = spec["vision"]["patch_size"]
    mean, std = family.mean_std
    sizes = dict(patch_size=patch, merge_size=2, temporal_patch_size=2, image_mean=mean, image_std=std)

    def pixels(limits):
        return {"shortest_edge": limits[0], "longest_edge": limits[1]}

    return family.processor(
        image_processor=Qwen2VLImageProcessorPil(size=pixels(spec["pixels"]), **sizes), tokenizer=tok,
        video_processor=family.video(size=pixels(spec["video_pixels"]), cap_pixels_per_frame=family.cap_pixels,
                                     **sizes),
        chat_template=TEMPLATE,
    )


def publish_config(path, flat):
    """Writes the rotary fields, the dtype and (Qwen2-VL) the text's fields where published configs have them."""
    config = json.loads(path.read_text())
    text = config["text_config"]
    rope = text.pop("rope_parameters")
    text["rope_theta"] = rope.pop("rope_theta")
    rope["type" if flat else "rope_type"] = "mrope" if flat else rope.pop("rope_type")
    rope.pop("rope_type" if flat else "type", None)
    text["rope_scaling"] = rope
    config["torch_dtype" if flat else "dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.41.2" if flat else "4.57.0.dev0"
    if flat:
        config.pop("text_config")
        drop = {"model_type", "layer_types", "pad_token_id", "dtype"}
        config |= {k: v for k, v in text.items() if k not in drop}
    for k in ["dtype", "rope_parameters"]:
        config["vision_config"].pop(k, None)
    config["vision_config"]["model_type"] = config["model_type"]
    golden.write_json(path, config)


def build(out, family, name, spec, index):
    folder = out / name
    folder.mkdir(parents=True)
    tok = golden.make_tokenizer(SPECIALS, "<|im_end|>", "<|endoftext|>", TEMPLATE,
                                additional_special_tokens=SPECIALS[1:])
    processor = make_processor(family, spec, tok)
    config = make_config(family, spec, tok)
    config._attn_implementation = "eager"
    torch.manual_seed(index)
    model = family.model(config).float().eval()
    golden.randomize(model, 100 + index)
    model.generation_config.eos_token_id = [tok.eos_token_id, tok.pad_token_id]
    model.generation_config.pad_token_id = tok.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if index == 0:  # as published: one file for each of image and video processor, none for the processor
        processor.image_processor.save_pretrained(folder)
        processor.video_processor.save_pretrained(folder)
        golden.edit_json(folder / "preprocessor_config.json", image_processor_type="Qwen2VLImageProcessorFast",
                         processor_class=family.processor.__name__)
        (folder / "processor_config.json").unlink()
        golden.edit_json(folder / "video_preprocessor_config.json", cap_pixels_per_frame=None, max_video_tokens=None)
        publish_config(folder / "config.json", family.flat)
        if family.publish:
            family.publish(folder)
    fast = Qwen2VLImageProcessor(**{k: getattr(processor.image_processor, k) for k in [
        "size", "patch_size", "merge_size", "temporal_patch_size", "image_mean", "image_std"]})
    cases = golden.make_cases(folder, spec["sizes"], spec["video"], index)
    for case, messages in cases.items():
        if case not in spec.get("cases", cases):
            continue
        full, labels = golden.encode(processor, folder, messages, tok.eos_token_id, family.video_options)
        tensors = golden.run_mrope_case(model, full, labels, gradients=case == spec.get("gradients", ""))
        if case == "_one":
            image = golden.Image.open(folder / messages[1]["content"][0]["image"])
            theirs = golden.narrow(fast(image, return_tensors="pt")["pixel_values"])
            if not torch.equal(theirs, tensors["pixel_values"]):
                tensors["pixel_values_fast"] = theirs
        golden.write_case(folder, case, messages, tensors)
    golden.write_names(folder, model)
    check_loads(folder, family, model)
    return golden.parameter_count(model)


def check_loads(folder, family, model):
    """The folder loads in transformers as it is, and gives the same weights, token ids and pixels."""
    loaded = family.model.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    for (n, a), b in zip(loaded.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b), n
    processor = AutoProcessor.from_pretrained(folder)
    processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    for file in folder.glob("messages*.json"):
        full, _ = golden.encode(processor, folder, json.loads(file.read_text()), processor.tokenizer.eos_token_id,
                                family.video_options)
        want = golden.load_file(folder / file.name.replace("messages", "expected").replace("json", "safetensors"))
        got = golden.run_mrope_case(loaded, full, want["labels"].long(), gradients=False)
        assert torch.equal(got["logits_last"], want["logits"][-1] if "logits" in want else want["logits_last"]), file
        assert torch.equal(full["input_ids"][0].int(), want["input_ids"]), file
        for k in ["pixel_values", "pixel_values_videos"]:
            if k in full:
                assert torch.equal(full[k], want[k]), (file, k)


def write(doc, family, models):
    out = golden.start(doc)
    golden.report(out, {n: build(out, family, n, s, i) for i, (n, s) in enumerate(models.items())})
