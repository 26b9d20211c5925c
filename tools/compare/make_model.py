"""Makes the model of the comparison: a random Qwen2.5-VL of 43 million parameters, a Hugging Face folder.

    python tools/compare/make_model.py --tokenizer DIR --out DIR [--seed N]

--tokenizer is a folder with the tokenizer.json of any Qwen2.5 model: the vocabulary of 151,936 is real,
and with it the cost of the head and of sampling, which small models usually hide. Patches, merging and
windows are those of the published models; widths and depths are not.

The output distribution is tilted: a token is "yes" in one of 64 cases, else a space. Rows whose answer is
"yes" then earn the reward "the completion is the reference answer" for 37 of 100 completions of 64
tokens, those with exactly one "yes": nearly every group has a spread, and both programs can compute the
same reward. Weights beside that are transformers' own initial ones, and no time depends on them.
"""

import argparse
import math
from pathlib import Path

import torch
from transformers import AutoTokenizer, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

VOCABULARY = 151_936
# ChatML with vision markers and the default system message of the published models.
TEMPLATE = (
    "{% for m in messages %}"
    "{% if loop.first and m['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' or 'image' in c %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in c %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPACE, WORD = "Ġ", "yes"  # "Ġ" is how a byte-level vocabulary writes a space
WORD_SHARE = 1 / 64
REST = 1e-4  # share of everything else together


def make_config(tok):
    ids = tok.convert_tokens_to_ids
    return Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            rms_norm_eps=1e-6,
            max_position_embeddings=32768,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
            bos_token_id=ids("<|endoftext|>"),
            eos_token_id=ids("<|im_end|>"),
            pad_token_id=ids("<|endoftext|>"),
        ),
        vision_config=dict(
            depth=4,
            hidden_size=128,
            intermediate_size=344,
            num_heads=4,
            out_hidden_size=256,
            in_channels=3,
            patch_size=14,
            temporal_patch_size=2,
            spatial_merge_size=2,
            window_size=112,
            fullatt_block_indexes=[1, 3],
        ),
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
        dtype="float32",
    )


@torch.no_grad()
def tilt(model, tok):
    """Turns the final hidden state towards one direction, and the rows of two tokens with it.

    The value bias of the last layer goes through attention unchanged, whatever the weights of attention
    are, so its image under the output projection is a constant in the residual stream. Made long, it
    is nearly all of the normalised state, whose norm is sqrt(width).
    """
    text = model.model.language_model
    last, config = text.layers[-1].self_attn, text.config
    groups = config.num_attention_heads // config.num_key_value_heads
    bias = torch.randn(config.num_key_value_heads, last.head_dim)
    constant = last.o_proj.weight @ bias.repeat_interleave(groups, 0).flatten()
    length = constant.norm()
    last.v_proj.bias.copy_(bias.flatten() * (16.0 / length))  # others in the stream have a length of about 1
    direction, rows = constant / length, text.embed_tokens.weight
    norm = math.sqrt(config.hidden_size)
    # The other logits are normal with deviation norm * 0.02, so their exponentials add up to this.
    others = math.log(len(rows)) + (norm * config.initializer_range) ** 2 / 2
    for token, share in ((SPACE, 1 - WORD_SHARE - REST), (WORD, WORD_SHARE)):
        logit = others + math.log(share / REST)
        rows[tok.convert_tokens_to_ids(token)] = direction * (logit / norm)


@torch.no_grad()
def shares(model, tok):
    """Probabilities of the tilted tokens after a chat without an image."""
    chat = [{"role": "user", "content": "Is it red?"}]
    text = tok.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    logits = model(**tok(text, return_tensors="pt")).logits[0, -1]
    p = logits.softmax(-1)
    return {t: round(p[tok.convert_tokens_to_ids(t)].item(), 4) for t in (SPACE, WORD)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json of a Qwen2.5 model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    tok = AutoTokenizer.from_pretrained(args.tokenizer)
    tok.chat_template = TEMPLATE
    torch.manual_seed(args.seed)
    model = Qwen2_5_VLForConditionalGeneration(make_config(tok)).float().eval()
    tilt(model, tok)
    end_of_turn, end_of_text = tok.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    model.generation_config.eos_token_id = [end_of_turn, end_of_text]
    model.generation_config.pad_token_id = end_of_text
    images = Qwen2VLImageProcessor(
        size={"shortest_edge": 56 * 56, "longest_edge": 3584 * 3584},
        patch_size=14, merge_size=2, temporal_patch_size=2,
    )
    processor = Qwen2_5_VLProcessor(
        image_processor=images, tokenizer=tok, video_processor=Qwen2VLVideoProcessor(), chat_template=TEMPLATE
    )
    model.save_pretrained(args.out)
    processor.save_pretrained(args.out)
    images.save_pretrained(args.out)  # preprocessor_config.json, the layout of the published models
    count = sum(p.numel() for p in model.parameters())
    vision = sum(p.numel() for p in model.model.visual.parameters())
    print(f"{args.out}: {count:,} parameters, {vision:,} of them vision; shares {shares(model, tok)}")


if __name__ == "__main__":
    main()
