"""Makes tests/data/image: small image files, and what Pillow, torchvision and transformers make of
them. Pixel arrays are stored as SHA-256 of their bytes, so the folder stays small.

    python tools/golden/image.py --out tests/data/image

Made with Python 3.11, Pillow 13.0.0 (libjpeg-turbo), torch 2.15.0, torchvision 0.29.2,
transformers 5.23.0, safetensors and numpy 2.4.6; expected.json repeats the versions of the run.
"""

import argparse
import hashlib
import io
import json
import os
import tempfile

import numpy as np
import PIL
import safetensors
import safetensors.torch
import torch
import torchvision
import transformers
from PIL import Image
from torchvision.transforms.v2 import functional as tvF
from transformers import AutoImageProcessor
from transformers.image_transforms import convert_to_rgb
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

FILTERS = {"lanczos": 1, "bilinear": 2, "bicubic": 3}
TV_FILTERS = {
    "lanczos": tvF.InterpolationMode.LANCZOS,
    "bilinear": tvF.InterpolationMode.BILINEAR,
    "bicubic": tvF.InterpolationMode.BICUBIC,
}


def sha(array):
    array = np.ascontiguousarray(array)
    return hashlib.sha256(array.tobytes()).hexdigest()


def picture(width, height, seed):
    """Gradients, sharp shapes and a little noise: resizing errors show on all three."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([255 * x / max(width - 1, 1), 255 * y / max(height - 1, 1), (x * 7 + y * 13) % 256], -1)
    disc = (x - width * 0.4) ** 2 + (y - height * 0.6) ** 2 < (min(width, height) * 0.3) ** 2
    rgb[disc] = 255 - rgb[disc]
    rgb[(x // 5 + y // 5) % 7 == 0] = [255, 0, 128]
    rgb += rng.integers(-9, 10, rgb.shape)
    return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8), "RGB")


def noise(width, height, seed):
    """What the tests make again from the same formula: no file is needed for resize cases."""
    i = np.arange(width * height * 3, dtype=np.uint64) + np.uint64(seed)
    v = (i * np.uint64(2654435761)) >> np.uint64(13)
    return (v & np.uint64(0xFF)).astype(np.uint8).reshape(height, width, 3)


def make_files(out):
    files = {}

    def put(name, image, **options):
        image.save(os.path.join(out, name), **options)
        files[name] = None

    put("rgb_33x70.png", picture(33, 70, 1))
    put("rgb_97x41.jpg", picture(97, 41, 2), quality=85)
    put("rgb_160x120.jpg", picture(160, 120, 3), quality=75, subsampling=0)
    put("palette_31x57.png", picture(31, 57, 4).quantize(23))
    transparent = picture(29, 30, 5).quantize(13)
    transparent.info["transparency"] = bytes([0, 128, 255, 40])
    put("palette_alpha_29x30.png", transparent, transparency=bytes([0, 128, 255, 40]))
    rgba = picture(45, 38, 6).convert("RGBA")
    y, x = np.mgrid[0:38, 0:45]
    rgba.putalpha(Image.fromarray(((x * 6 + y * 3) % 256).astype(np.uint8)))
    put("rgba_45x38.png", rgba)
    put("grey_alpha_20x20.png", rgba.crop((0, 0, 20, 20)).convert("LA"))
    put("grey_64x49.jpg", picture(64, 49, 7).convert("L"), quality=80)
    put("grey_40x40.png", picture(40, 40, 8).convert("L"))
    put("bits_35x35.png", picture(35, 35, 9).convert("1"))
    put("progressive_83x90.jpg", picture(83, 90, 10), quality=70, progressive=True)
    put("cmyk_30x32.jpg", picture(30, 32, 11).convert("CMYK"), quality=90)
    put("lossless_36x34.webp", picture(36, 34, 12), lossless=True)
    put("anim_30x31.gif", picture(30, 31, 13).quantize(16), save_all=True,
        append_images=[picture(30, 31, 14).quantize(16)])
    put("rgb_37x29.bmp", picture(37, 29, 15))
    wide = (np.asarray(picture(24, 22, 16)).astype(np.uint16) << 8) | 0xA7
    files["rgb16_24x22.png"] = png16(os.path.join(out, "rgb16_24x22.png"), wide)
    exif = Image.Exif()
    exif[0x0112] = 6
    put("orientation_40x24.jpg", picture(40, 24, 17), quality=90, exif=exif)
    return sorted(files)


def png16(path, array):
    """Pillow does not write 16-bit RGB; a PNG by hand."""
    import struct
    import zlib

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    h, w, _ = array.shape
    rows = b"".join(b"\0" + array[y].astype(">u2").tobytes() for y in range(h))
    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, 2, 0, 0, 0)))
        f.write(chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b""))


def decoded(out, names):
    cases = []
    for name in names:
        image = Image.open(os.path.join(out, name))
        rgb = np.asarray(image.convert("RGB"))
        white = convert_to_rgb(Image.open(os.path.join(out, name)), return_numpy=True)
        cases.append({"file": name, "width": image.width, "height": image.height,
                      "rgb": sha(rgb), "over_white": sha(white)})
    return cases


def resized():
    cases = []
    sizes = [(33, 70, 28, 84), (97, 41, 112, 56), (160, 120, 84, 56), (50, 40, 50, 28),
             (50, 40, 28, 40), (7, 5, 140, 84), (211, 300, 28, 28), (1, 200, 28, 812),
             (64, 64, 65, 63), (3, 3, 28, 28)]
    rng = np.random.default_rng(0)
    sizes += [tuple(int(v) for v in rng.integers(1, 260, 4)) for _ in range(60)]
    for seed, (w, h, nw, nh) in enumerate(sizes):
        rgb = noise(w, h, seed)
        case = {"from": [w, h], "to": [nw, nh], "seed": seed, "pillow": {}, "torch": {}}
        planes = torch.from_numpy(rgb.copy()).permute(2, 0, 1)
        for name, number in FILTERS.items():
            pillow = Image.fromarray(rgb).resize((nw, nh), resample=number)
            case["pillow"][name] = sha(np.asarray(pillow))
            both = [tvF.resize(p, [nh, nw], interpolation=TV_FILTERS[name], antialias=True)
                    for p in (planes, planes.contiguous())]
            assert torch.equal(*both), "the memory format changes the result"
            case["torch"][name] = sha(both[0].permute(1, 2, 0).contiguous().numpy())
        cases.append(case)
    return cases


def processed(out, names):
    limits = [(3136, 12845056), (784, 784 * 6), (28 * 28 * 20, 28 * 28 * 40), (56 * 56, 784)]
    variants = [
        {},
        {"do_normalize": False},
        {"do_rescale": False},
        {"do_rescale": False, "do_normalize": False},
        {"patch_size": 16, "merge_size": 1, "temporal_patch_size": 1, "resample": 2},
        {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.3], "rescale_factor": 0.0078125},
    ]
    cases = []
    for name in names:
        runs = [(low, high, {}) for low, high in limits]
        if name == "rgb_97x41.jpg":
            runs += [(3136, 50176, v) for v in variants[1:]]
        for low, high, variant in runs:
            config = {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": low,
                      "max_pixels": high, **variant}
            case = {"file": name, "config": config}
            for backend in ("torchvision", "pil"):
                with tempfile.TemporaryDirectory() as folder:
                    with open(os.path.join(folder, "preprocessor_config.json"), "w") as f:
                        json.dump(config, f)
                    processor = AutoImageProcessor.from_pretrained(folder, backend=backend)
                    assert processor.backend == backend
                image = Image.open(os.path.join(out, name)).convert("RGB")
                result = processor(images=image, return_tensors="pt")
                pixels = result["pixel_values"].to(torch.float32).numpy()
                case["grid_thw"] = result["image_grid_thw"][0].tolist()
                case["shape"] = list(pixels.shape)
                case[backend] = {"sha256": sha(pixels), "first": [float(v) for v in pixels[0, :4]]}
            cases.append(case)
    return cases


def sizes():
    rng = np.random.default_rng(1)
    cases = []
    for _ in range(400):
        h, w = (int(v) for v in rng.integers(1, 3000, 2))
        if max(h, w) / min(h, w) > 200:
            continue
        factor = int(rng.choice([16, 28, 32]))
        low, high = int(rng.integers(1, 300000)), int(rng.integers(784, 2000000))
        if rng.integers(2):
            h, w = h // 14 * 14 or 14, w // 14 * 14 or 14  # halves, where rounding matters
        cases.append([h, w, factor, low, high, *smart_resize(h, w, factor, low, high)])
    return cases


def weights(out):
    """A file of the Python library; the Rust writer must give the same bytes."""
    tensors = {
        "b.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3) / 4,
        "a.weight": torch.arange(5, dtype=torch.bfloat16),
        "c.ids": torch.tensor([1, -2], dtype=torch.int64),
        "h": torch.tensor(0.5, dtype=torch.float16),
        "d": torch.tensor([0.1], dtype=torch.float64),
        "i": torch.tensor([7, 8], dtype=torch.int32),
        "u": torch.tensor([1, 2, 3], dtype=torch.uint8),
    }
    safetensors.torch.save_file(tensors, os.path.join(out, "weights.safetensors"), metadata={"format": "pt"})


def sharded():
    """What save_pretrained makes of a small model, as hashes of its files."""
    torch.manual_seed(0)
    config = transformers.Qwen2Config(vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=2,
                                      num_attention_heads=2, num_key_value_heads=1)
    model = transformers.Qwen2ForCausalLM(config)
    with torch.no_grad():
        for i, (_, p) in enumerate(sorted(model.named_parameters())):
            p.copy_(((torch.arange(p.numel()) * 37 + i) % 101).reshape(p.shape) / 64)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, max_shard_size=1500)
        files = {}
        for name in sorted(os.listdir(folder)):
            if name.startswith("model"):
                with open(os.path.join(folder, name), "rb") as f:
                    files[name] = hashlib.sha256(f.read()).hexdigest()
    tensors = [[name, list(p.shape)] for name, p in model.state_dict().items()]
    return {"max_shard_bytes": 1500, "tensors": tensors, "files": files}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    out = parser.parse_args().out
    os.makedirs(out, exist_ok=True)
    names = make_files(out)
    weights(out)
    expected = {
        "versions": {m.__name__: m.__version__ for m in (PIL, np, torch, torchvision, transformers, safetensors)},
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "decode": decoded(out, names),
        "resize": resized(),
        "process": processed(out, ["rgb_33x70.png", "rgb_97x41.jpg", "rgb_160x120.jpg", "palette_31x57.png",
                                   "rgba_45x38.png", "grey_64x49.jpg", "progressive_83x90.jpg"]),
        "smart_resize": sizes(),
        "sharded": sharded(),
    }
    with open(os.path.join(out, "expected.json"), "w") as f:
        rows = [f"{json.dumps(k)}: {json.dumps(v)}" if not isinstance(v, list) else
                f"{json.dumps(k)}: [\n" + ",\n".join(json.dumps(c) for c in v) + "\n]" for k, v in expected.items()]
        f.write("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()
