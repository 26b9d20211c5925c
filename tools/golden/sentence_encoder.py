"""Goldens of the sentence encoder and of Match-F1: tiny random encoders with the embeddings that
sentence-transformers computes, and what 50 pairs of step lists score with them.

    python tools/golden/sentence_encoder.py --out tests/data/sentence_encoder \
        --real target/sentence_encoder/all-MiniLM-L6-v2

`--real` is the folder that tools/golden/fetch_sentence_encoder.sh makes; without it the goldens of the
published encoder are left as they are.
Made with sentence-transformers 6.2.0, transformers 5.23.0, tokenizers 0.23.3, torch 2.15.0.
"""

import argparse
import json
import math
import random
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig, BertModel, BertTokenizer, PreTrainedTokenizerFast, RobertaConfig, RobertaModel, XLMRobertaConfig,
    XLMRobertaModel,
)

TEXTS = [
    "",
    " ",
    "red",
    "A red ball lies on the table.",
    "  A red   ball\tlies on\nthe table.  ",
    "THE RED BALL IS ON THE TABLE!",
    "Quả bóng màu đỏ nằm trên bàn.",
    "Người đàn ông đang cưỡi ngựa trên bãi biển, vì trời nắng.",
    "Con mèo đen nằm trên ghế sofa",
    "Der Ball ist größer als die Schüssel.",
    "Le café est à gauche de l'assiette, n'est-ce pas ?",
    "左边的圆形是红色的。",
    "赤い丸はどこですか。",
    "빨간 원은 왼쪽에 있습니다",
    "Где красный круг?",
    "أين الدائرة الحمراء؟",
    "लाल वृत्त कहाँ है?",
    "🦊 jumps over 3 dogs ☕️",
    "3.5 cm, 1/2, 50%, x^2 + y_1 = 10",
    "[CLS] the token [SEP] of [MASK] and <s> </s> <pad> tags",
    "a\u0323\u0302 \u00e9 e\u0301 \ufb01ne \u200b zero\u0000 \ufffd",
    "supercalifragilisticexpialidocious" * 4,
    "The first step is to look at the picture. " * 40,
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty twenty-one twenty-two",
]

# Each line: ways to say one thing. Steps are drawn from these.
SAYINGS = [
    ["A red ball lies on the table", "The ball on the table is red", "There is a red sphere on a desk"],
    ["The left bar is taller than the right bar", "Left bar exceeds right bar", "The right bar is shorter"],
    ["The sign reads STOP in white letters", "White text on the sign says STOP", "A stop sign is visible"],
    ["Two dogs are running in the park", "Two dogs run across the grass", "Dogs play outdoors"],
    ["The clock shows a quarter past three", "The time on the clock is 3:15", "The clock hands point to 3 and 3"],
    ["The woman holds a blue umbrella", "A blue umbrella is carried by a woman", "It may rain today"],
    ["Three plates are stacked on the shelf", "There are three plates on the shelf", "The shelf holds dishes"],
    ["The triangle has a right angle", "One angle of the triangle is 90 degrees", "The triangle is right-angled"],
    ["The train has left the station", "The platform is empty", "No train is at the platform"],
    ["The speedometer reads 60 km/h", "The needle points to 60", "The car drives at sixty kilometers per hour"],
    ["Therefore the answer is C", "Select option C", "The correct choice is C"],
    ["The number 17 is painted in yellow", "A yellow 17 is visible", "Yellow digits show 17"],
    ["Quả bóng màu đỏ nằm trên bàn", "Trên bàn có một quả bóng đỏ", "Có một quả bóng"],
    ["Người đàn ông đang cưỡi ngựa", "Một người cưỡi ngựa trên bãi biển", "Con ngựa chạy trên cát"],
    ["左边的圆形是红色的", "红色的圆在左边", "右边有一个蓝色方块"],
    ["Das Auto ist grün", "Ein grünes Auto steht vor dem Haus", "The car is green"],
]
PAIRS = 50
ORDER_WEIGHT = 0.3


def corpus():
    return [s for group in SAYINGS for s in group] + TEXTS[1:] + [c for t in TEXTS for c in t]


def randomise(model, seed):
    """Weights large enough that every part of the network shows in the result."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if "LayerNorm.weight" in name:
                p.copy_(1 + 0.2 * noise)
            elif p.dim() == 1:
                p.copy_(0.2 * noise)
            elif "embeddings" in name:
                p.copy_(noise)
            else:
                p.copy_(noise * 1.5 / p.shape[1] ** 0.5)
    return model.eval()


def tiny_bert(folder):
    # By hand: the library's trainer breaks ties by chance. Words that come often, all characters, and the
    # same inside of words, but for two: unknown tokens.
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = Counter()
    for text in corpus():
        words.update(w for w, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    often = [w for w, n in sorted(words.items(), key=lambda e: (-e[1], e[0])) if len(w) > 1 and n > 1]
    letters = sorted({c for w in words for c in w} - {"圆", "🦊"})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = {p: i for i, p in enumerate(special + letters + ["##" + c for c in letters] + often)}
    tokenizer = BertTokenizer(vocab=vocab, model_max_length=40)
    config = BertConfig(
        vocab_size=len(vocab), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=40, type_vocab_size=2,
    )
    return saved(randomise(BertModel(config), 1), tokenizer, folder, 24, "mean", True)


def tiny_roberta(folder):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(corpus(), trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        cls_token="<s>", sep_token="</s>", mask_token="<mask>", model_max_length=64,
    )
    config = RobertaConfig(
        vocab_size=backend.get_vocab_size(), hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
        intermediate_size=40, max_position_embeddings=66, type_vocab_size=1, hidden_act="gelu_new",
    )
    return saved(randomise(RobertaModel(config), 2), tokenizer, folder, None, "weightedmean", False)


def tiny_xlm_roberta(folder):
    # By hand, as above: words with the mark of their beginning, and all characters.
    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" {2,}", " ")])
    splitter = pre_tokenizers.Metaspace()
    words, letters = Counter(), Counter()
    for text in corpus():
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)):
            words[word] += 1
            letters.update(word)
    del letters["圆"]
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pieces = [e for e in words.items() if len(e[0]) > 2 and e[1] > 1] + list(letters.items())
    total = sum(words.values()) + sum(letters.values())
    scores = [(p, round(math.log(n / total), 6)) for p, n in sorted(pieces, key=lambda e: (-e[1], e[0]))]
    backend = Tokenizer(models.Unigram([(s, 0.0) for s in special] + scores, unk_id=3))
    backend.normalizer, backend.pre_tokenizer = normalizer, splitter
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        cls_token="<s>", sep_token="</s>", mask_token="<mask>", model_max_length=32,
    )
    config = XLMRobertaConfig(
        vocab_size=backend.get_vocab_size(), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=40, type_vocab_size=1,
    )
    return saved(randomise(XLMRobertaModel(config), 6), tokenizer, folder, 32, "cls", True)


def saved(model, tokenizer, folder, longest, pooling, normalize):
    """The encoder as sentence-transformers writes it, read back."""
    bare = folder.with_name(folder.name + ".bare")
    for path in (bare, folder):
        shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(bare)
    tokenizer.save_pretrained(bare)
    layers = Transformer(str(bare), max_seq_length=longest)
    modules = [layers, Pooling(layers.get_embedding_dimension(), pooling_mode=pooling)]
    encoder = SentenceTransformer(modules=modules + [Normalize()] * normalize, device="cpu")
    encoder.save(str(folder), create_model_card=False)
    shutil.rmtree(bare)
    for extra in ("README.md", ".gitattributes"):
        (folder / extra).unlink(missing_ok=True)
    return SentenceTransformer(str(folder), device="cpu")


def words_alike(a, b):
    """simple_similarity.py of mllm_evaluator: shared words over the mean of the lengths."""
    a, b = re.findall(r"\w+", a.lower()), re.findall(r"\w+", b.lower())
    if not a or not b:
        return float(len(a) == len(b))
    return sum((Counter(a) & Counter(b)).values()) / (len(a) * len(b)) ** 0.5


def match(similarities, threshold):
    """Pairs of predicted and reference steps by the rules of mllm_evaluator's `_find_matches`, and F1."""
    predicted, reference = similarities.shape
    pairs = [
        (float(similarities[i, j]), i, j)
        for i in range(predicted)
        for j in range(reference)
        if similarities[i, j] > threshold
    ]
    taken, left, right = [], set(), set()
    for _, i, j in sorted(pairs, reverse=True):
        if i not in left and j not in right:
            taken.append([i, j])
            left.add(i)
            right.add(j)
    precision, recall = len(taken) / max(predicted, 1), len(taken) / max(reference, 1)
    return taken, 2 * precision * recall / (precision + recall) if taken else 0.0


def ordered(f1, pairs):
    """Ordered Match-F1: f1 * ((1 - a) + a * (tau + 1) / 2), tau over predicted steps in reference order."""
    order = [i for i, _ in sorted(pairs, key=lambda p: p[1])]
    k = len(order)
    signs = [np.sign(order[b] - order[a]) for a in range(k) for b in range(a + 1, k)]
    tau = sum(signs) / len(signs) if k >= 2 else 1.0
    return f1 * ((1 - ORDER_WEIGHT) + ORDER_WEIGHT * (tau + 1) / 2)


def safe(similarities, predicted, reference, threshold):
    """No number so near to the threshold or to another that a rounding decides."""
    if similarities.size == 0:
        return True
    if np.abs(similarities - threshold).min() < 1e-4:
        return False
    by_text = {(p, r): similarities[i, j] for i, p in enumerate(predicted) for j, r in enumerate(reference)}
    values = sorted(set(map(float, by_text.values())))
    same = len(values) == len(by_text)
    return same and all(b - a > 1e-5 for a, b in zip(values, values[1:]))


def cosine(a, b):
    return np.dot(a / np.linalg.norm(a), b / np.linalg.norm(b))


def draw(rng):
    groups = rng.sample(SAYINGS, rng.randint(1, 6))
    reference = [rng.choice(g) for g in groups]
    predicted = [rng.choice(g) for g in groups if rng.random() < 0.8]
    predicted += [rng.choice(rng.choice(SAYINGS)) for _ in range(rng.randint(0, 2))]
    if rng.random() < 0.3 and predicted:
        predicted.insert(0, rng.choice(predicted))
    if rng.random() < 0.15:
        reference.append(rng.choice(reference))
    if rng.random() < 0.5:
        rng.shuffle(predicted)
    return predicted, reference


def scored(encoder, threshold, seed):
    """Pairs of step lists with what they score."""
    rng = random.Random(seed)
    everything = sorted({s for group in SAYINGS for s in group})
    vectors = dict(zip(everything, encoder.encode(everything)))
    rows = []
    while len(rows) < PAIRS:
        predicted, reference = draw(rng)
        p, r = ([vectors[s] for s in steps] for steps in (predicted, reference))
        # Pair by pair: a product of matrices rounds equal rows differently, and so breaks ties by chance.
        alike = np.array([[cosine(a, b) for b in r] for a in p], np.float32).reshape(len(p), len(r))
        if not safe(alike, predicted, reference, threshold):
            continue
        pairs, f1 = match(alike, threshold)
        words = np.array([[words_alike(a, b) for b in reference] for a in predicted]).reshape(len(p), len(r))
        word_pairs, word_f1 = match(words, 0.3)
        rows.append(
            {
                "predicted": predicted,
                "reference": reference,
                "pairs": pairs,
                "f1": f1,
                "ordered": ordered(f1, pairs),
                "word_pairs": word_pairs,
                "word_f1": word_f1,
            }
        )
    return {"threshold": threshold, "order_weight": ORDER_WEIGHT, "rows": rows}


def write(out, name, encoder, threshold, seed):
    vectors = encoder.encode(TEXTS).astype(np.float32)
    # Alone or in a batch, the reference itself moves by less than a hundredth of the tolerance.
    alone = np.stack([encoder.encode([t])[0] for t in TEXTS])
    assert np.abs(vectors - alone).max() < 2e-6, np.abs(vectors - alone).max()
    save_file({"embeddings": vectors}, out / f"{name}.safetensors")
    steps = scored(encoder, threshold, seed)
    (out / f"{name}_steps.json").write_text(json.dumps(steps, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    f1 = [row["f1"] for row in steps["rows"]]
    print(name, vectors.shape, "mean F1", np.mean(f1), "different", len(set(f1)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--real", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    (args.out / "texts.json").write_text(json.dumps(TEXTS, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    write(args.out, "tiny_bert", tiny_bert(args.out / "tiny_bert"), 0.35, 3)
    write(args.out, "tiny_roberta", tiny_roberta(args.out / "tiny_roberta"), 0.6, 4)
    write(args.out, "tiny_xlm_roberta", tiny_xlm_roberta(args.out / "tiny_xlm_roberta"), 0.6, 7)
    if args.real:
        write(args.out, "all-MiniLM-L6-v2", SentenceTransformer(str(args.real), device="cpu"), 0.45, 5)


if __name__ == "__main__":
    main()
