"""Golden of the steps that mllm_evaluator's reward finds in completions: its way of mending JSON, by
Python's `re` and `json`.

    python tools/golden/loose_json.py --out tests/data/rewards

The rules are those of `vqa_reasoning_reward` (qwen_module.py of the waybarrios fork of VLM-R1, HEAD
4b4347c). Made with Python 3.11.
"""

import argparse
import json
import pathlib
import re

GOOD = '{"reasoning_steps": ["a b", "c d"], "answer": "C"}'
COMPLETIONS = [
    GOOD,
    f"```json\n{GOOD}\n```",
    f"```\n{GOOD}\n```",
    f"Sure.\n```json\n{GOOD}\n```\nDone {{}}",
    f"<think>x</think>{GOOD}",
    f"{GOOD} {GOOD}",
    '{"reasoning_steps": ["a b"]}',
    '{"answer": "C"}',
    '["reasoning_steps", "answer"]',
    '"reasoning_steps answer"',
    "3",
    "null",
    "",
    "no json",
    "x {\"reasoning_steps\": [\"a b\"]}",
    "x {\"reasoning_steps\": [\"a b\",], \"answer\": \"C\",}",
    "{\"reasoning_steps\": [\"a b\", \"c d\",], \"answer\": \"C\"}",
    "{'reasoning_steps': ['a b', 'c d'], 'answer': 'C'}",
    "{\"reasoning_steps\": ['a b', 'c d'], \"answer\": 'C'}",
    "{\"reasoning_steps\": ['it''s', 'c d'], \"answer\": 'C'}",
    "{\"reasoning_steps\": ['a, b', 'c: d'], \"answer\": 'C'}",
    "{\"reasoning_steps\": ['a', \"b's\", 'c'], \"answer\": \"C\"}",
    "{\"reasoning_steps\": [\"a b\"\n \"c d\"], \"answer\": \"C\"}",
    "{\"reasoning_steps\": [\"a b\" \"c d\"   \"e\"], \"answer\": \"C\"}",
    "{\"reasoning_steps\": [\"a b\" \"c d\"\n\n\"e\",\n], \"answer\": \"C\"\n}",
    "{\u201creasoning_steps\u201d: [\u201ca b\u201d, \u201cc \u2019d\u2019\u201d], \u201canswer\u201d: \u201cC\u201d}",
    "{\"reasoning_steps\": [\"a } b\"], \"answer\": \"C\"} x",
    "x {\"reasoning_steps\": [\"a } b\"], \"answer\": \"C\"}",
    "x {\"a\": {\"b\": 1}, \"reasoning_steps\": [\"a\"], \"answer\": \"C\"} {",
    "{{\"reasoning_steps\": [\"a\"], \"answer\": \"C\"}}",
    "{\"reasoning_steps\": [\"a\", \"answer\": \"C\"}",
    "{\"reasoning_steps\": [\"a\"], \"answer\": \"C\"",
    "x {\"reasoning_steps\": [\"Qu\u1ea3 b\u00f3ng \u0111\u1ecf\", 'n\u1eb1m tr\u00ean'], \"answer\": \"C\"}",
    "x {\"reasoning_steps\": [\"\", \" \", \"a\"], \"answer\": \"C\"}",
    "x {\"reasoning_steps\": \"a b\", \"answer\": \"C\"}",
    "x {\"reasoning_steps\": [1, null, {\"a\": 'b'}], \"answer\": \"C\"}",
    "x {reasoning_steps: ['a'], answer: 'C'}",
    "x {\"reasoning_steps\": [ 'a' , 'b' ] , \"answer\" : 'C' }",
]


def steps(content):
    cleaned = re.sub(r"```json\s*|\s*```", "", content).strip()
    text = parsed = None
    try:
        parsed = json.loads(cleaned)
        if "reasoning_steps" in parsed and "answer" in parsed:
            text = cleaned
    except Exception:
        pass
    if parsed is None and (start := cleaned.find("{")) != -1:
        depth = 0
        for i in range(start, len(cleaned)):
            depth += (cleaned[i] == "{") - (cleaned[i] == "}")
            if depth == 0:
                text = cleaned[start : i + 1]
                break
    if not text:
        return None
    if parsed is None:
        text = re.sub("[\u201c\u201d]", '"', text)
        text = re.sub("[\u2018\u2019]", "'", text)
        text = re.sub(r"(?<=[:,\[])\s*'([^']*)'(?=\s*[,\]\}])", r' "\1"', text)
        try:
            parsed = json.loads(commas(text))
        except json.JSONDecodeError:
            try:
                parsed = json.loads(commas(commas(text).replace("'", '"')))
            except json.JSONDecodeError:
                return None
    return parsed.get("reasoning_steps") if isinstance(parsed, dict) else None


def commas(text):
    text = re.sub(r'"\s*\n\s*"', '",\n    "', text)
    text = re.sub(r'"\s+(?=")', '", ', text)
    return re.sub(r",(\s*[\]}])", r"\1", text)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, required=True)
    out = parser.parse_args().out / "loose_json.jsonl"
    rows = [{"completion": c, "steps": steps(c)} for c in COMPLETIONS]
    out.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    print(sum(r["steps"] is not None for r in rows), "of", len(rows), "have steps")


if __name__ == "__main__":
    main()
