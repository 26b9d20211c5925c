"""Golden token ids of published tokenizers and of small ones in the older file formats.

    python tools/golden/published_tokenizers.py --tokenizers target/tokenizers --out tests/data/tokenizers

Published ones (folders as tools/golden/fetch_tokenizers.sh makes them) go through transformers. Small
ones are trained here: SentencePiece models go through `sentencepiece`, a table of ranks through
`tiktoken`, each with control tokens cut out first as the published tokenizer classes do.
Made with transformers 5.23.0, tokenizers 0.23.3, sentencepiece 0.2.3, tiktoken 0.14.0.
"""

import argparse
import base64
import json
import re
import tempfile
import unicodedata
from importlib.metadata import version
from pathlib import Path

import sentencepiece
import tiktoken
from tiktoken._educational import bpe_train
from transformers import AutoTokenizer, PreTrainedTokenizerFast

VIETNAMESE = "Hình tròn màu đỏ nằm ở bên trái, hình vuông màu xanh lá cây ở giữa; có mấy hình? Đường Nguyễn Huệ."
TEXTS = [
    "",
    " ",
    "What color is the circle on the left?",
    VIETNAMESE,
    unicodedata.normalize("NFD", VIETNAMESE),
    "đĐ ơƠ ưƯ ằ ẵ ặ ợ ự ỹ; a\u0323\u0302 = ậ, a\u0302\u0323, o\u031b\u0301",
    "左边的圆形是什么颜色？红色的。一共有三个图形，坐标是（12，34）。",
    "赤い丸はどこですか。빨간 원은 어디에 있습니까? Где красный круг? أين الدائرة؟ वृत्त कहाँ है?",
    "🦊🇻🇳👩‍👩‍👧‍👦 ☕️ 𝒎𝒂𝒕𝒉 ∑ᵢ xᵢ² ≤ ∞",
    "0 1 12 123 1234 12345 1,234.56 1e-10 ½ Ⅻ ٣٤",
    "fn main() {\n    let x = vec![1, 2];\n\tprintln!(\"{x:?}\");\n}\n\n\n    # end\n",
    "a  b   c    d\t\te \n \n\n f          g",
    "   leading and trailing   ",
    "line\r\nline\n\r\n\tx",
    "it's we'll I'D don't 'tis ''",
    "<think>two shapes</think>\n<answer>2</answer>",
    "{\"bbox_2d\": [12, 34, 560, 780], \"label\": \"cross\"}",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "almost: <|im_start | > <|IM_END|> |im_end|> <s> </s> [UNK]",
    "zero\u0000width\u200bjoin\u200d nbsp\u00a0thin\u2009 BOM\ufeff \u2028line \u3000wide",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa abababababababababa",
    "\u2581 lower one eighth block\u2581\u2581",
]

PUBLISHED = {"qwen2_5": AutoTokenizer, "qwen3": AutoTokenizer, "internlm2": PreTrainedTokenizerFast}


def with_names(folder, temp):
    """A copy whose reserved pieces have the names of added_tokens_decoder. transformers does so when
    it reads InternLM2's tokenizer.model, but not with a tokenizer.json (ids past the embedding)."""
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = whole["model"]["vocab"]
    pieces = {i: piece for piece, i in vocab.items()}
    for i, token in config["added_tokens_decoder"].items():
        if token["content"] not in vocab and int(i) in pieces:
            vocab[token["content"]] = vocab.pop(pieces[int(i)])
    (Path(temp) / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    (Path(temp) / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return temp


def published(folder, loader):
    with tempfile.TemporaryDirectory() as temp:
        named = with_names(folder, temp) if loader is PreTrainedTokenizerFast else folder
        tokenizer = loader.from_pretrained(named)
    cases = []
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        split = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        cases.append(
            {
                "text": text,
                "ids": ids,
                "ordinary": split,
                "decoded": tokenizer.decode(ids),
                "decoded_skip_special": tokenizer.decode(ids, skip_special_tokens=True),
            }
        )
    return {"vocab_size": len(tokenizer), "special": tokenizer.get_added_vocab(), "cases": cases}


def corpus():
    """Lines for the small tokenizers: few words, many times, in several scripts."""
    lines = []
    for i in range(300):
        lines += [
            f"What color is circle {i}? It's red, isn't it?",
            f"Hình {i} màu đỏ ở bên trái, hình vuông màu xanh.",
            f"第{i}个圆形是红色的。",
            f"    x{i} = [{i}, {i * 7}]\n",
            "the there then thence aa aaa aaaa abab ababab  baba",
        ]
    return lines


def entry(content, special=True):
    flags = {k: False for k in ("lstrip", "normalized", "rstrip", "single_word")}
    return {"content": content, **flags, "special": special}


def cut(pieces, control, encode):
    """Ids of a text whose control tokens were cut out, the text between them by `encode`."""
    ids = []
    for piece in pieces:
        ids += [control[piece]] if piece in control else encode(piece) if piece else []
    return ids


def cases_with(control, encode, texts):
    pattern = re.compile("(" + "|".join(map(re.escape, control)) + ")")
    return [{"text": t, "ids": cut(pattern.split(t), control, encode)} for t in texts]


SENTENCEPIECE = {
    # As InternLM2's: text as it is, unknown letters as bytes.
    "sentencepiece_plain": {
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "byte_fallback": True,
        "vocab_size": 440,
    },
    # SentencePiece's own way with spaces: one before the text, single ones inside, none at its ends.
    "sentencepiece_spaces": {
        "normalization_rule_name": "identity",
        "byte_fallback": False,
        "vocab_size": 190,
    },
}


def small_sentencepiece(folder, options):
    folder.mkdir(parents=True, exist_ok=True)
    lines = iter(corpus())
    with (folder / "tokenizer.model").open("wb") as out:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=out,
            model_type="bpe",
            character_coverage=0.99,
            num_threads=1,
            split_digits=True,
            user_defined_symbols=["[UNUSED_0]", "[UNUSED_1]"],
            minloglevel=2,
            **options,
        )
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    reserved = [model.piece_to_id(f"[UNUSED_{i}]") for i in range(2)]
    control = dict(zip(["<|im_end|>", "<|im_start|>"], reserved)) | {"<s>": 1, "</s>": 2}
    config = {
        "add_bos_token": True,
        "added_tokens_decoder": {str(i): entry(t) for t, i in control.items()},
        "bos_token": "<s>",
        "tokenizer_class": "InternLM2Tokenizer",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    cases = cases_with(control, model.encode, TEXTS)
    for case in cases:
        unknown = model.unk_id() in case["ids"]  # shown as U+2047, which is no token
        if not unknown and not any(t in case["text"] for t in control):
            case["decoded"] = model.decode(case["ids"])
    return {"vocab_size": model.vocab_size(), "special": control, "cases": cases}


GLM4_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GLM4_CONTROL = "<|endoftext|> [MASK] [gMASK] [sMASK] <sop> <eop> <|system|> <|user|> <|assistant|> <|observation|> <|begin_of_image|> <|end_of_image|> <|begin_of_video|> <|end_of_video|>".split()


def small_tiktoken(folder):
    folder.mkdir(parents=True, exist_ok=True)
    ranks = bpe_train("\n".join(corpus()), 700, GLM4_PATTERN, visualise=None)
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()]
    (folder / "tokenizer.model").write_text("".join(lines))
    control = {t: len(ranks) + i for i, t in enumerate(GLM4_CONTROL)}
    config = {
        "added_tokens_decoder": {str(i): entry(t) for t, i in control.items()},
        "eos_token": "<|endoftext|>",
        "tokenizer_class": "ChatGLM4Tokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    model = tiktoken.Encoding("small", pat_str=GLM4_PATTERN, mergeable_ranks=ranks, special_tokens={})
    texts = TEXTS + ["[gMASK]<sop><|user|>\nHình<|assistant|>", "the thenthence aaaaaa abababab" * 3]
    cases = cases_with(control, model.encode, texts)
    for case in cases:
        if not any(t in case["text"] for t in control):
            case["decoded"] = model.decode(case["ids"])
    return {"vocab_size": len(ranks) + len(control), "special": control, "cases": cases}


def write(file, golden, packages):
    golden = {"versions": {p: version(p) for p in packages}, **golden}
    text = json.dumps(golden, ensure_ascii=False, separators=(",", ":"))
    file.write_text(text + "\n", encoding="utf-8")
    print(f"{file}: {len(golden['cases'])} texts, {file.stat().st_size // 1000} kB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizers", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    for name, loader in PUBLISHED.items():
        golden = published(args.tokenizers / name, loader)
        write(args.out / f"{name}.json", golden, ["transformers", "tokenizers"])
    for name, options in SENTENCEPIECE.items():
        golden = small_sentencepiece(args.out / name, options)
        write(args.out / name / "golden.json", golden, ["sentencepiece"])
    golden = small_tiktoken(args.out / "tiktoken")
    write(args.out / "tiktoken" / "golden.json", golden, ["tiktoken"])


if __name__ == "__main__":
    main()
