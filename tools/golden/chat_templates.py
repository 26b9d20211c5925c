"""Golden renderings of the built-in chat templates.

    python tools/golden/chat_templates.py --published DIR --out tests/data/chat_templates.json

DIR holds the published templates as NAME.jinja (chat_template.jinja of Qwen2-VL-7B-Instruct,
Qwen2.5-VL-7B-Instruct, Qwen3-VL-4B-Instruct, InternVL3-1B-hf and GLM-4.1V-9B-Thinking); transformers
renders them. The layouts of InternVL's own code and of glm-4v-9b are restated below: OpenGVLab/InternVL,
internvl_chat/internvl/conversation.py (style MPT) with `chat` of the modeling file, which turns
`<image>` into `<img>`, context tokens and `</img>`; and `apply_chat_template` of glm-4v-9b's
tokenization_chatglm.py. Only chats and rendered texts are written.
Made with transformers 5.23.0, jinja2 3.1.6.
"""

import argparse
import json
from importlib.metadata import version
from pathlib import Path

from transformers.utils.chat_template_utils import render_jinja_template

IMAGE, VIDEO = {"type": "image"}, {"type": "video"}


def text(s):
    return {"type": "text", "text": s}


def message(role, *content):
    return {"role": role, "content": list(content)}


CHATS = [
    [message("user", text("Hello"))],
    [message("user", IMAGE, text("What color is it?"))],
    [{"role": "system", "content": "Be brief. \n"}, message("user", IMAGE, text(" Màu gì? 红色 🦊\n"))],
    [message("user", IMAGE, IMAGE, text("Compare "), text("them."))],
    [message("user", text("Look: "), IMAGE, text(" and "), VIDEO, text("."))],
    [message("user", VIDEO, text("What happens?"))],
    [
        message("user", IMAGE, text("Where?")),
        {"role": "assistant", "content": "<think>left</think>\nleft "},
        {"role": "user", "content": "Sure?\n\n"},
    ],
    [{"role": "user", "content": "{{ 7 * 7 }} <b> & 'q'"}, {"role": "assistant", "content": "49"}],
]

PUBLISHED = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "glm4v"]

SYSTEM_2 = "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
SYSTEM_2_5 = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
CHATML = {"user": "<|im_start|>user\n", "assistant": "<|im_start|>assistant\n"}
PHI3 = {"user": "<|user|>\n", "assistant": "<|assistant|>\n"}
# name: (before the system message, system message, roles, separator)
CONVERSATIONS = {
    "internlm2-chat": ("<|im_start|>system\n", SYSTEM_2, CHATML, "<|im_end|>"),
    "Hermes-2": ("<|im_start|>system\n", SYSTEM_2, CHATML, "<|im_end|>"),
    "phi3-chat": ("<|system|>\n", SYSTEM_2, PHI3, "<|end|>"),
    "internvl2_5": ("<|im_start|>system\n", SYSTEM_2_5, CHATML, "<|im_end|>\n"),
}


def plain(content, image, video):
    """Text of a message's content with what stands for its images and videos."""
    if isinstance(content, str):
        return content
    marks = {"image": image, "video": video}
    return "".join(part["text"] if part["type"] == "text" else marks[part["type"]] for part in content)


def conversation(name, messages, generate):
    before, system, roles, separator = CONVERSATIONS[name]
    if messages[0]["role"] == "system":
        system, messages = messages[0]["content"], messages[1:]
    out = before + system + separator
    for m in messages:
        content = plain(m["content"], "<image>\n", "<video>\n")
        out += roles[m["role"]] + (content + separator if content else "")
    if generate:
        out += roles["assistant"]
    return out.replace("<image>", "<img><IMG_CONTEXT></img>")


def glm_4v_9b(messages, generate):
    """None for chats with a video, which the model does not take. The published code takes one image; several follow
    the same rule."""
    out = "[gMASK]<sop>"
    for m in messages:
        parts = m["content"] if isinstance(m["content"], list) else []
        if VIDEO in parts:
            return None
        image = "<|begin_of_image|><|endoftext|><|end_of_image|>" * parts.count(IMAGE)
        content = plain(m["content"], "", "")
        if image or content:
            out += f"<|{m['role']}|>\n{image}{content}"
    return out + ("<|assistant|>" if generate else "")


def published(source, messages, generate):
    rendered, _ = render_jinja_template(
        [messages], chat_template=source, add_generation_prompt=generate
    )
    return rendered[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    cases = []
    for i, messages in enumerate(CHATS):
        generate = i + 1 < len(CHATS)
        texts = {}
        for name in PUBLISHED:
            source = (args.published / f"{name}.jinja").read_text(encoding="utf-8")
            texts[name] = published(source, messages, generate)
        for name in CONVERSATIONS:
            texts[name] = conversation(name, messages, generate)
        texts["glm-4v-9b"] = glm_4v_9b(messages, generate)
        cases.append({"messages": messages, "add_generation_prompt": generate, "texts": texts})
    golden = {"versions": {p: version(p) for p in ("transformers", "jinja2")}, "cases": cases}
    args.out.write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{args.out}: {len(cases)} chats, {args.out.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
