"""Makes tests/data/video/sampling.json: which frames of a video the processors of transformers and
qwen-vl-utils take, and OpenGVLab's rule for InternVL. No video is decoded.

    python tools/golden/video_sampling.py --out tests/data/video/sampling.json

Made with Python 3.11, torch 2.15.0, transformers 5.23.0, qwen-vl-utils 0.0.14 and numpy 2.4.6;
the file repeats the versions of the run. A case that the library refuses has null for its frames.
transformers' rule of Qwen2-VL computes with torch.arange and a rounded step: for some lengths it
yields one index more, the number of frames, which no video has. It is cut off here.
"""

import argparse
import json
import logging
import os
import random
from importlib.metadata import version

import numpy as np
import qwen_vl_utils.vision_process as qwen
import torch
import transformers
from transformers.models.glm4v.video_processing_glm4v import Glm4vVideoProcessor
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.video_utils import VideoMetadata

RATES = [1.0, 7.5, 10.0, 12.0, 15.0, 23.976023976023978, 24.0, 25.0, 29.97002997002997, 30.0, 60.0]
REFUSALS = (ValueError, ZeroDivisionError, AssertionError)


def tried(work):
    """The indices of `work`, or None where the library refuses."""
    try:
        return [int(i) for i in work()]
    except REFUSALS:
        return None


def videos(rng, count, longest):
    """(frames, frames per second): short ones first, then random."""
    fixed = [(n, rate) for n in (1, 2, 3, 4, 5, 7, 8, 31) for rate in (2.0, 30.0)]
    return fixed + [(rng.randint(1, longest), rng.choice(RATES)) for _ in range(count)]


def metadata(frames, fps):
    return VideoMetadata(total_num_frames=frames, fps=fps, duration=frames / fps)


def qwen2_vl(rng):
    processor = Qwen2VLVideoProcessor()
    for frames, fps in videos(rng, 120, 900):
        limits = {"min_frames": rng.choice([2, 4, 5, 8]), "max_frames": rng.choice([6, 8, 15, 768])}
        rate = {"fps": rng.choice([0.5, 1, 2.0, 3.7])} if rng.random() < 0.7 else {"num_frames": rng.randint(1, 40)}
        case = {"frames": frames, "fps": fps, "rate": rate, **limits, "temporal_patch_size": rng.choice([1, 2, 2])}
        case["indices"] = tried(
            lambda: processor.sample_frames(
                metadata(frames, fps), temporal_patch_size=case["temporal_patch_size"], **limits, **rate
            )
        )
        if case["indices"] and case["indices"][-1] == frames:
            case["indices"].pop()
        yield case


def qwen_vl_utils(rng):
    for frames, fps in videos(rng, 160, 900):
        ele = {"fps": rng.choice([0.5, 1, 2.0, 3.7])} if rng.random() < 0.7 else {"nframes": rng.randint(1, 40)}
        if rng.random() < 0.6:
            ele["min_frames"] = rng.choice([2, 3, 4, 8])
        if rng.random() < 0.6:
            ele["max_frames"] = rng.choice([6, 9, 16, 64])
        if rng.random() < 0.4:
            ele["video_start"] = round(rng.uniform(-0.5, frames / fps), 3)
        if rng.random() < 0.4:
            ele["video_end"] = round(rng.uniform(0, 1.3 * frames / fps), 3)

        def take():
            # As the readers of qwen-vl-utils do it: range, number, then a line of equal steps.
            start, end, count = qwen.calculate_video_frame_range(ele, frames, fps)
            number = qwen.smart_nframes(ele, total_frames=count, video_fps=fps)
            return torch.linspace(start, end, number).round().long().tolist()

        yield {"frames": frames, "fps": fps, "ele": ele, "indices": tried(take)}


def qwen3_vl(rng):
    processor = Qwen3VLVideoProcessor()
    for frames, fps in videos(rng, 120, 900):
        processor.min_frames, processor.max_frames = rng.choice([1, 4, 9]), rng.choice([9, 12, 768])
        rate = {"fps": rng.choice([0.5, 1, 2.0, 3.7])} if rng.random() < 0.7 else {"num_frames": rng.randint(1, 40)}
        case = {"frames": frames, "fps": fps, "rate": rate}
        case |= {"min_frames": processor.min_frames, "max_frames": processor.max_frames}
        case["indices"] = tried(lambda: processor.sample_frames(metadata(frames, fps), **rate))
        yield case


def glm4v(rng):
    processor = Glm4vVideoProcessor()
    for frames, fps in videos(rng, 120, 1500):
        processor.max_duration = rng.choice([5, 20, 300])
        rate = rng.choice([0.5, 1, 2, 2, 3.7])
        indices = tried(lambda: processor.sample_frames(metadata(frames, fps), fps=rate))
        yield {"frames": frames, "fps": fps, "rate": rate, "max_duration": processor.max_duration, "indices": indices}


def internvl(rng):
    processor = InternVLVideoProcessor()
    for frames, fps in videos(rng, 100, 900):
        rate = {"fps": rng.choice([0.5, 1, 2.0])} if rng.random() < 0.5 else {"num_frames": rng.randint(1, 40)}
        indices = tried(lambda: processor.sample_frames(metadata(frames, fps), **rate))
        yield {"frames": frames, "fps": fps, "rate": rate, "indices": indices}


def internvl_segments(rng):
    """OpenGVLab's model cards: the middle of each of equal segments, in numpy's rounding."""
    for frames, fps in videos(rng, 100, 900):
        segments = rng.choice([1, 2, 4, 8, 16, 32])
        bound = None
        first, last = 0, frames - 1
        if rng.random() < 0.4:
            bound = sorted([round(rng.uniform(0, frames / fps), 3), round(rng.uniform(0, frames / fps), 3)])
            first, last = max(0, round(bound[0] * fps)), min(round(bound[1] * fps), frames - 1)
        size = float(last - first) / segments
        indices = [int(first + size / 2 + np.round(size * i)) for i in range(segments)]
        yield {"frames": frames, "fps": fps, "bound": bound, "num_segments": segments, "indices": indices}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    out = parser.parse_args().out
    logging.disable(logging.WARNING)
    rules = [qwen2_vl, qwen_vl_utils, qwen3_vl, glm4v, internvl, internvl_segments]
    golden = {
        "versions": {
            "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__,
            "qwen-vl-utils": version("qwen-vl-utils"),
            "numpy": np.__version__,
        }
    }
    for number, rule in enumerate(rules):
        golden[rule.__name__] = list(rule(random.Random(number)))
    os.makedirs(os.path.dirname(out) or ".", exist_ok=True)
    with open(out, "w") as file:
        blocks = []
        for name, value in golden.items():
            if isinstance(value, list):
                lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in value)
                blocks.append(f'"{name}":[\n{lines}\n]')
            else:
                blocks.append(f'"{name}":{json.dumps(value)}')
        file.write("{\n" + ",\n".join(blocks) + "\n}\n")


if __name__ == "__main__":
    main()
