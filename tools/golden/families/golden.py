"""What the scripts of all families share: a tiny tokenizer, random weights, images and videos, the cases,
and the files that are written of each. The format is that of tools/golden/qwen2_5_vl.py."""

import argparse
import json
import random
import shutil
from pathlib import Path

import numpy as np
import safetensors
import tokenizers
import torch
import torchvision
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.video_utils import VideoMetadata

VERSIONS = {  # one metadata value, because the order of several is not kept
    "torch": torch.__version__.split("+")[0],
    "torchvision": torchvision.__version__.split("+")[0],
    "transformers": transformers.__version__,
    "tokenizers": tokenizers.__version__,
    "safetensors": safetensors.__version__,
}
METADATA = {"versions": json.dumps(VERSIONS)}
# Splits words, single digits, punctuation and white space as the Qwen2 tokenizer does.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = [
    "system\nuser\nassistant\n",
    "user\nassistant\nWhat color is it? What shape is it? red blue green",
    "assistant\nThe answer is blue. The answer is two circles.",
    "user\nassistant\nCompare the images. The first is red, the second is blue.",
]


def byte_bpe(specials, merges=37):
    """A byte-level BPE like Qwen2's, of 256 bytes and a few merges."""
    tok = Tokenizer(models.BPE(byte_fallback=False))
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + merges, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tok.train_from_iterator(CORPUS, trainer)
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    return tok


def make_tokenizer(specials, eos, pad, template, **more):
    tok = PreTrainedTokenizerFast(
        tokenizer_object=byte_bpe(specials), eos_token=eos, pad_token=pad, model_max_length=4096,
        clean_up_tokenization_spaces=False, **more,
    )
    tok.chat_template = template
    return tok


def randomize(model, seed):
    """Activations and scores of order one at every width; layer scales of 0.5 to 1."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=g)
        last = name.rsplit(".", 1)[-1]
        if last in ("ls1", "ls2", "lambda_1", "lambda_2"):
            p.data = 0.5 + 0.5 * torch.rand(p.shape, generator=g)
        elif "norm" in name or name.endswith(("ln_q.weight", "mlp1.0.weight")):
            p.data = (0.0 if last == "bias" else 1.0) + 0.2 * noise
        elif last == "bias" or p.dim() == 1 or p.dim() == 3 and p.shape[0] == 1:
            p.data = 0.2 * noise
        elif any(s in name for s in ("embed_tokens", "tok_embeddings", "word_embeddings", "position_embedding",
                                     "pos_embed", "cls_embedding")):
            p.data = 0.2 * noise
        else:
            fan_in = p.shape[-1] if "experts" in name else p[0].numel()
            p.data = noise * fan_in**-0.5 * 1.2


def picture(width, height, rng, phase=0.0):
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], -1)
    base = np.abs((base + 255 * phase) % 510 - 255)
    return Image.fromarray(np.clip(base + rng.normal(0, 12, base.shape), 0, 255).astype(np.uint8))


def make_image(path, width, height, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(width, height, np.random.default_rng(seed)).save(path, optimize=True)


def make_video(path, width, height, frames, seed):
    path.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(frames):
        picture(width, height, rng, i / frames).save(path / f"{i:04}.png", optimize=True)


def turn(text, images=(), videos=()):
    content = [{"type": "image", "image": f"images/{n}.png"} for n in images]
    content += [{"type": "video", "video": f"videos/{n}", "raw_fps": fps} for n, fps in videos]
    return {"role": "user", "content": content + [{"type": "text", "text": text}]}


def make_cases(folder, sizes, video=None, seed=0):
    """sizes: (width, height) of images a, b, c. video: dict(size, frames, fps, image: with an image before it)."""
    for n, (name, size) in enumerate(zip("abc", sizes)):
        make_image(folder / f"images/{name}.png", *size, seed=10 * seed + n)
    answer = {"role": "assistant", "content": "The answer is blue."}
    cases = {
        "": [turn("Compare the images.", ["a", "b"]), {"role": "assistant", "content": "The first is red."},
             turn("What color is it?", ["c"] if len(sizes) > 2 else []), answer],
        "_one": [{"role": "system", "content": "x"}, turn("What shape is it?", ["b"]),
                 {"role": "assistant", "content": "two circles"}],
        "_text": [{"role": "user", "content": "What color is it?"}, answer],
    }
    if video:
        make_video(folder / "videos/a", *video["size"], video["frames"], seed=10 * seed + 5)
        first = ["b"] if video.get("image") else []
        cases["_video"] = [turn("What color is it?", first, [("a", video["fps"])]), answer]
    return cases


def read_video(folder, part):
    frames = [np.asarray(Image.open(f).convert("RGB")) for f in sorted((folder / part["video"]).iterdir())]
    array = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()
    n, _, h, w = array.shape
    return array, VideoMetadata(total_num_frames=n, fps=part["raw_fps"], width=w, height=h, duration=n / part["raw_fps"])


def parts(messages, kind):
    return [c for m in messages if isinstance(m["content"], list) for c in m["content"] if c["type"] == kind]


def run_processor(processor, folder, messages, generation, video_options):
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
    inputs = dict(text=[text], return_tensors="pt")
    if images := parts(messages, "image"):
        inputs["images"] = [Image.open(folder / c["image"]).convert("RGB") for c in images]
    if videos := parts(messages, "video"):
        arrays, metadata = zip(*(read_video(folder, c) for c in videos))
        inputs |= dict(videos=list(arrays), video_metadata=list(metadata), do_sample_frames=True, **video_options)
    return dict(processor(**inputs))


def encode(processor, folder, messages, end=None, video_options=None):
    """Token ids and pixels of a whole chat, and labels of its last answer, up to and with the token `end`
    (None: to the end of the text)."""
    options = video_options or {}
    prompt = run_processor(processor, folder, messages[:-1], True, options)
    full = run_processor(processor, folder, messages, False, options)
    return full, labels_of(full["input_ids"][0], prompt["input_ids"][0], end)


def labels_of(ids, prompt, end):
    start = len(prompt)
    assert torch.equal(ids[:start], prompt), (ids.tolist(), prompt.tolist())
    labels = torch.full_like(ids, -100)
    stop = len(ids) if end is None else start + (ids[start:] == end).nonzero()[0, 0] + 1
    labels[start:stop] = ids[start:stop]
    return labels


def narrow(t):
    t = t.detach()
    return (t.to(torch.int32) if t.dtype in (torch.int64, torch.bool) else t).clone().contiguous()


def finish(model, logits, ids, labels, gradients, out):
    """Adds log-probabilities, loss, logits and gradients to the tensors of a case."""
    logps = logits.log_softmax(-1)[:-1].gather(-1, ids[1:, None])[:, 0]
    loss = torch.nn.functional.cross_entropy(logits[:-1], labels[1:], ignore_index=-100)
    out |= {"input_ids": ids, "labels": labels, "logps": logps, "loss": loss.reshape(1)}
    if gradients:
        out["logits"] = logits
        model.zero_grad(set_to_none=True)
        loss.backward()
        for name, p in model.named_parameters():
            assert p.grad is not None, name
            out[f"grad.{name}"] = p.grad
    else:
        out["logits_last"] = logits[-1]
    assert all(torch.isfinite(t).all() for t in out.values())
    return {k: narrow(v) for k, v in out.items()}


def in_token_order(types, rows):
    """rows: {token type: features [n, D]}; the rows of all visual tokens in the order of the chat."""
    out = torch.zeros(len(types), next(iter(rows.values())).shape[-1])
    for kind, r in rows.items():
        out[types == kind] = r.detach()
    return out[types > 0]


def run_mrope_case(model, full, labels, gradients):
    """A case of a family with three position axes (Qwen-VL, GLM-4.1V)."""
    ids, types = full["input_ids"], full["mm_token_type_ids"]
    out, inputs, rows, deep = {}, dict(input_ids=ids, mm_token_type_ids=types), {}, {}
    grids = {k: full[k] for k in ("image_grid_thw", "video_grid_thw") if k in full}
    if "second_per_grid_ts" in full:  # Qwen2.5-VL
        grids["second_per_grid_ts"] = torch.as_tensor(full["second_per_grid_ts"])
        inputs |= {"second_per_grid_ts": grids["second_per_grid_ts"]}
        out |= {"second_per_grid_ts": grids["second_per_grid_ts"]}
    for kind, pixels, grid in [(1, "pixel_values", "image_grid_thw"), (2, "pixel_values_videos", "video_grid_thw")]:
        if pixels not in full:
            continue
        inputs |= {pixels: full[pixels], grid: full[grid]}
        out |= {pixels: full[pixels], grid: full[grid]}
        method = model.model.get_image_features if kind == 1 else model.model.get_video_features
        vision = method(full[pixels], full[grid], return_dict=True)
        rows[kind] = joined(vision.pooler_output)
        deep[kind] = [joined(f) for f in getattr(vision, "deepstack_features", None) or []]
    if rows:
        out["image_embeds"] = in_token_order(types[0], rows)
        for i in range(len(next(iter(deep.values())))):
            out[f"deepstack.{i}"] = in_token_order(types[0], {k: d[i] for k, d in deep.items()})
        positions, delta = model.model.get_rope_index(ids, mm_token_type_ids=types, **grids)
        out |= {"position_ids": positions[:, 0], "rope_delta": delta[0]}
    else:
        out |= {"position_ids": torch.arange(ids.shape[1]).expand(3, -1), "rope_delta": torch.zeros(1).long()}
    logits = model(**inputs, use_cache=False).logits[0]
    return finish(model, logits, ids[0], labels, gradients, out)


def joined(features):
    return torch.cat(list(features)) if isinstance(features, (list, tuple)) else features


def write_case(folder, case, messages, tensors):
    (folder / f"messages{case}.json").write_text(json.dumps(messages, indent=1) + "\n")
    save_file(tensors, folder / f"expected{case}.safetensors", metadata=METADATA)


def write_names(folder, model):
    names = {
        "parameters": [[n, list(p.shape)] for n, p in model.named_parameters()],
        "on_disk": [[n, list(t.shape)] for n, t in sorted(load_file(folder / "model.safetensors").items())],
    }
    (folder / "names.json").write_text(json.dumps(names) + "\n")


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def edit_json(path, **changes):
    value = json.loads(path.read_text()) | changes
    write_json(path, {k: v for k, v in value.items() if v is not None})


def start(doc):
    """Reads --out and prepares torch; returns the empty folder of the family."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    random.seed(0)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    return out


def report(out, model_sizes):
    for f in out.rglob("*.safetensors"):
        f.chmod(0o644)
    for shape, count in model_sizes.items():
        size = sum(f.stat().st_size for f in (out / shape).rglob("*") if f.is_file())
        print(f"{out.name}/{shape}: {count} parameters, {size / 1e3:.0f} kB")


def parameter_count(model):
    return sum(p.numel() for p in model.parameters())
