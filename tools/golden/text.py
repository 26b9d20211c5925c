"""Golden token ids, chats and templates of tests/golden_text.rs, from transformers.

    python tools/golden/text.py --out tests/data/text

Reads OUT/tokenizer (made by this program: `cargo test --release --test golden_text -- --ignored
write_tokenizer`) and writes OUT/golden.json. Ran with transformers 5.23.0, tokenizers 0.23.3,
jinja2 3.1.6, pillow 13.0.0, torch 2.15.0.
"""

import argparse
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from shutil import copytree

from PIL import Image
from transformers import AutoProcessor, AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

TEXTS = [
    "",
    " ",
    "What color is the circle on the left?",
    "  leading, trailing  and   inner \t spaces \r\n\r\n\n  \n end\n",
    "Numbers: 0 12 345,678.90 1e-6 ½ ٣ 四",
    "It's we're I'LL they'd DON'T",
    "Hình tròn màu đỏ ở bên trái, hình vuông màu xanh ở giữa; có bao nhiêu hình?",
    "红色的圆形在左边，蓝色的正方形在中间。一共有几个图形？",
    "赤い丸はどこですか。빨간 원은 어디에 있습니까? Где красный круг? أين الدائرة؟ वृत्त कहाँ है?",
    "🦊🇻🇳👩‍👩‍👧‍👦 emoji ☕️ and 𝒎𝒂𝒕𝒉 ∑ᵢ xᵢ² ≤ ∞",
    "e\u0301 o\u0302\u0309 A\u030a (decomposed), \u1ed3 \uac00 \u1112\u1161\u11ab",
    "<think>two shapes</think>\n<answer>2</answer>",
    "{\"bbox_2d\": [12, 34, 560, 780], \"label\": \"cross\"}",
    "<|im_start|>user\n<|vision_start|><|image_pad|><|image_pad|><|vision_end|>Hi<|im_end|>\n",
    "almost: <|im_start | > <|image_pad| <|IM_END|> |im_end|>",
    "zero\u0000width\u200bjoin\u200d nbsp\u00a0thin\u2009 BOM\ufeff \u2028line",
    "fn main() {\n    let x = vec![1, 2];\n\tprintln!(\"{x:?}\");\n}\n",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" * 3,
]


def text(s):
    return {"type": "text", "text": s}


IMAGE = {"type": "image"}


def user(*content):
    return {"role": "user", "content": list(content)}


def turn(role, s):
    return {"role": role, "content": [text(s)]}


# (messages, sizes of the images in pixels, add_generation_prompt)
CHATS = [
    ([user(IMAGE, text("What color is the circle?"))], [(56, 56)], True),
    ([user(text("Compare "), IMAGE, text(" and "), IMAGE, text("."))], [(56, 84), (112, 56)], True),
    ([user(IMAGE, IMAGE, IMAGE)], [(56, 56), (84, 84), (56, 56)], True),
    ([turn("system", "Be brief. \n"), user(IMAGE, text("\nHow many shapes?"))], [(84, 56)], True),
    (
        [
            user(IMAGE, text("Where is it?")),
            turn("assistant", "left"),
            user(text("And now?"), IMAGE),
            turn("assistant", " <answer>right</answer>\n"),
            user(text("Sure?")),
        ],
        [(56, 56), (56, 112)],
        True,
    ),
    ([user(IMAGE, text("  odd \t white\r\n\r\nspace \n\n"))], [(56, 56)], True),
    ([user(IMAGE, text("🦊🇻🇳 màu đỏ ở bên trái 红色的圆形 12345"))], [(56, 56)], True),
    ([user(text("no image, "), text("two parts"))], [], True),
    ([user(IMAGE, text("What?")), turn("assistant", "red")], [(56, 56)], False),
    ([user(text("{{ 7 * 7 }} {% raw %} a < b && c > \"d\" 'e'"), IMAGE)], [(56, 56)], True),
]

TOOL = {"name": "box", "parameters": {"x": [1, 2.5, None, True], "t": "<é & \"q\">"}, "n": {}}
SAMPLE = [
    {"role": "system", "content": " S "},
    {"role": "user", "content": "a<b & c, Ünï\n", "flag": True},
    {"role": "assistant", "content": "<think>t</think>x\ny", "score": 0.5},
]
TEMPLATES = [
    "{%- for m in messages %}\n    {%- if loop.first %}\n  F{{ m.role }}\n    {%- endif %}\n  [{{ m['content'] }}]\n{% endfor %}\n",
    "{% for m in messages %}\n    {% if m.role == 'system' %}\n        {% continue %}\n    {% endif %}\n{{ m.content.strip().split('\\n')[-1] | trim | upper }}|{{ loop.index0 }}\n{% endfor %}\nend\n\n",
    "{{ tools[0] | tojson }} {{ tools[0] | tojson(indent=2) }} {{ messages[1] | tojson }}",
    "{% set ns = namespace(n=0, seen=[]) %}{% for m in messages[::-1] %}{% set ns.n = ns.n + 1 %}{% if '</think>' in m.content %}{{ m.content.split('</think>')[-1].lstrip('\\n') }}{% endif %}{% endfor %}{{ ns.n }}",
    "{% macro show(x, y='-') %}{{ x }}{{ y }}{% endmacro %}{{ show('a') }}{{ show('b', y='+') }}{% if tools is not none and tools is iterable and tools is not string %}T{% endif %}{% if documents is none %}N{% endif %}",
    "{% for k, v in messages[1].items() %}{{ k }}={{ v }};{% endfor %}{{ messages[2].score }} {{ messages | length }} {{ missing is defined }} {{ messages[1].get('nope', 'd') }}",
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% endif %}{% endfor %}{{ bos_token }}{{ '%05.1f' | format(3.14159) }}{{ ['a', 'b'] | join(', ') }}",
    "{%- for m in messages | selectattr('role', 'equalto', 'user') %}{{ m.content.startswith('a<') }}{{ m.content | replace('<', '&lt;') }}{{ m.content[2:5] }}{% endfor %}{{ 7 // 2 }} {{ 7 / 2 }} {{ 2 ** 3 }} {{ [1, 'a', none, true] }}",
    "{%- if add_generation_prompt -%}\n   {{- '<|im_start|>assistant\\n' -}}\n   {%- if enable_thinking is defined and enable_thinking is false %}\n{{- '<think>\\n\\n</think>\\n\\n' }}\n{%- endif %}\n{%- endif -%}\n",
]


def make_processor(tokenizer_dir):
    """AutoProcessor from the program's own files and the image settings of Qwen2.5-VL."""
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp) / "model"
        copytree(tokenizer_dir, folder)
        settings = {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "min_pixels": 3136,
            "max_pixels": 12845056,
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
        (folder / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
        return AutoProcessor.from_pretrained(folder)


def text_cases(tokenizer):
    for s in TEXTS:
        ids = tokenizer(s, add_special_tokens=False)["input_ids"]
        yield {
            "text": s,
            "ids": ids,
            "ordinary": tokenizer(s, add_special_tokens=False, split_special_tokens=True)["input_ids"],
            "decoded": tokenizer.decode(ids),
            "decoded_skip_special": tokenizer.decode(ids, skip_special_tokens=True),
        }


def chat_cases(processor):
    for messages, sizes, generate in CHATS:
        rendered = processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=generate
        )
        images = [Image.new("RGB", size, (200, 30, 30)) for size in sizes] or None
        out = processor(text=[rendered], images=images)
        grids = out["image_grid_thw"].tolist() if images else []
        yield {
            "messages": messages,
            "add_generation_prompt": generate,
            "text": rendered,
            "ids": list(out["input_ids"][0]),
            "image_tokens": [t * h * w // 4 for t, h, w in grids],
        }


def template_cases():
    extra = {"tools": [TOOL], "bos_token": "<s>", "enable_thinking": False}
    for template in TEMPLATES:
        rendered, _ = render_jinja_template(
            [SAMPLE], chat_template=template, add_generation_prompt=True, **extra
        )
        yield {"template": template, "messages": SAMPLE, "extra": extra, "text": rendered[0]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
    assert type(tokenizer).__name__ == "Qwen2Tokenizer", type(tokenizer)
    processor = make_processor(out / "tokenizer")
    golden = {
        "versions": {p: version(p) for p in ("transformers", "tokenizers", "jinja2", "torch")},
        "vocab_size": len(tokenizer),
        "special": tokenizer.get_added_vocab(),
        "texts": list(text_cases(tokenizer)),
        "chats": list(chat_cases(processor)),
        "templates": list(template_cases()),
    }
    (out / "golden.json").write_text(
        json.dumps(golden, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8"
    )
    print(f"{out / 'golden.json'}: {len(TEXTS)} texts, {len(CHATS)} chats, {len(TEMPLATES)} templates")


if __name__ == "__main__":
    main()
