//! Trains a small byte-level BPE tokenizer in Qwen2's layout, for models made from scratch. The
//! same texts always give the same file, and no byte sequence is ever unknown to it.

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, TokenizerBuilder,
};

use super::template::QWEN2_5_VL_TEMPLATE;
use super::tokenizer::Tokenizer;
use crate::base::{Error, Result};

/// Control tokens of Qwen2.5-VL in the order of their ids (tokenizer_config.json,
/// `added_tokens_decoder`, 151643 ff.); here they follow the trained vocabulary in this order.
pub const SPECIAL_TOKENS: [&str; 14] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
];

/// How Qwen2 cuts text into words before BPE (tokenizer.json, `pre_tokenizer`): contractions,
/// letters with one leading sign, single digits, signs, line ends, spaces.
pub const QWEN2_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The smallest vocabulary: every byte and the control tokens.
pub const MIN_VOCAB_SIZE: usize = 256 + SPECIAL_TOKENS.len();

/// A tokenizer that was just trained, with the files that go with it.
#[derive(Debug, Clone)]
pub struct TrainedTokenizer {
    tokenizer: Tokenizer,
    json: String,
}

/// Trains a tokenizer of at most `vocab_size` tokens (control tokens included); fewer when the
/// texts have no more pairs that occur twice.
///
/// # Errors
/// A `vocab_size` below [`MIN_VOCAB_SIZE`].
pub fn train_bpe(
    texts: impl Iterator<Item = String>,
    vocab_size: usize,
) -> Result<TrainedTokenizer> {
    if vocab_size < MIN_VOCAB_SIZE {
        return Err(Error::usage("the vocabulary is too small")
            .key("vocab_size")
            .expected(format!(
                "at least {MIN_VOCAB_SIZE} (256 bytes and {} control tokens)",
                SPECIAL_TOKENS.len()
            ))
            .found(vocab_size.to_string()));
    }
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(Some(NormalizerWrapper::NFC(NFC)))
        .with_pre_tokenizer(Some(qwen2_pre_tokenizer()?))
        .with_post_processor(Some(ByteLevel::new(false, false, false)))
        .with_decoder(Some(ByteLevel::new(false, false, false)))
        .build()
        .map_err(failed)?;
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab_size - SPECIAL_TOKENS.len())
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect::<HashSet<char>>())
        .build();
    // Collected first: the trainer wants an iterator that may cross threads.
    let pieces: Vec<String> = texts.flat_map(without_special_tokens).collect();
    tokenizer.train(&mut trainer, pieces.into_iter()).map_err(failed)?;
    tokenizer
        .add_special_tokens(SPECIAL_TOKENS.map(|t| AddedToken::from(t, true)))
        .map_err(failed)?;
    let json = tokenizer.to_string(true).map_err(failed)?;
    Ok(TrainedTokenizer { tokenizer: Tokenizer::from_bytes(json.as_bytes())?, json })
}

fn qwen2_pre_tokenizer() -> Result<PreTokenizerWrapper> {
    let split = Split::new(
        SplitPattern::Regex(QWEN2_PATTERN.to_owned()),
        SplitDelimiterBehavior::Isolated,
        false,
    )
    .map_err(failed)?;
    let bytes = ByteLevel::new(false, false, false);
    Ok(PreTokenizerWrapper::Sequence(Sequence::new(vec![
        PreTokenizerWrapper::Split(split),
        PreTokenizerWrapper::ByteLevel(bytes),
    ])))
}

/// Pieces of a training text between control tokens: their letters must not shape the merges.
fn without_special_tokens(text: String) -> Vec<String> {
    let mut pieces = vec![text];
    for token in SPECIAL_TOKENS {
        if pieces.iter().any(|p| p.contains(token)) {
            pieces =
                pieces.iter().flat_map(|p| p.split(token).map(str::to_owned)).collect::<Vec<_>>();
        }
    }
    pieces
}

fn failed(e: tokenizers::Error) -> Error {
    Error::internal("cannot train a tokenizer").found(e.to_string())
}

impl TrainedTokenizer {
    /// The tokenizer itself.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Content of `tokenizer.json`.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// Id of one of [`SPECIAL_TOKENS`].
    ///
    /// # Errors
    /// Another name.
    pub fn special_id(&self, name: &str) -> Result<u32> {
        self.tokenizer.require_id(name)
    }

    /// Writes `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` (the chat layout
    /// of Qwen2.5-VL) so that `AutoTokenizer` and `AutoProcessor` of transformers load them.
    ///
    /// # Errors
    /// A directory that cannot be made or written.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        std::fs::create_dir_all(dir)
            .map_err(|e| Error::io("cannot make the directory", dir, &e))?;
        let config = format!("{:#}\n", self.config());
        for (name, content) in [
            ("tokenizer.json", self.json.as_str()),
            ("tokenizer_config.json", config.as_str()),
            ("chat_template.jinja", QWEN2_5_VL_TEMPLATE),
        ] {
            let file = dir.join(name);
            std::fs::write(&file, content)
                .map_err(|e| Error::io("cannot write the tokenizer", &file, &e))?;
        }
        Ok(())
    }

    /// `tokenizer_config.json` with the keys of Qwen2.5-VL's.
    fn config(&self) -> Value {
        let decoder: Map<String, Value> = self
            .tokenizer
            .special_tokens()
            .iter()
            .map(|(id, content)| {
                let token = json!({
                    "content": content, "lstrip": false, "normalized": false, "rstrip": false,
                    "single_word": false, "special": true,
                });
                (id.to_string(), token)
            })
            .collect();
        json!({
            "add_bos_token": false,
            "add_prefix_space": false,
            "added_tokens_decoder": decoder,
            "additional_special_tokens": SPECIAL_TOKENS[1..],
            "bos_token": null,
            "clean_up_tokenization_spaces": false,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 131_072,
            "pad_token": "<|endoftext|>",
            "processor_class": "Qwen2_5_VLProcessor",
            "split_special_tokens": false,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": null,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts() -> impl Iterator<Item = String> {
        (0..50).map(|i| format!("What color is the {i} circle? It's red.\n<|im_end|>im_end"))
    }

    #[test]
    fn training_is_deterministic_and_special_ids_come_last() {
        let a = train_bpe(texts(), 290).unwrap();
        assert_eq!(a.json(), train_bpe(texts(), 290).unwrap().json());
        assert_eq!(a.tokenizer().vocab_size(), 290);
        for (i, token) in SPECIAL_TOKENS.iter().enumerate() {
            assert_eq!(a.special_id(token).unwrap() as usize, 276 + i);
        }
        assert_eq!(a.tokenizer().special_ids().len(), 14);
    }

    #[test]
    fn every_text_survives_the_way_there_and_back() {
        let t = train_bpe(texts(), 290).unwrap();
        for text in ["", " ", "\n\n \t", "naïve", "数字 42", "🇻🇳 đỏ", "\u{0}\u{7f}\u{fffd}"]
        {
            let ids = t.tokenizer().encode(text).unwrap();
            assert_eq!(t.tokenizer().decode(&ids, false), text);
        }
    }

    #[test]
    fn saved_files_load_and_a_small_vocabulary_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let t = train_bpe(texts(), 400).unwrap();
        t.save(dir.path()).unwrap();
        let back = Tokenizer::from_dir(dir.path()).unwrap();
        let text = "<|im_start|>What circle?";
        assert_eq!(back.encode(text).unwrap(), t.tokenizer().encode(text).unwrap());
        let e = train_bpe(texts(), 269).unwrap_err();
        assert_eq!(e.exit_code(), 2);
        assert!(e.to_string().contains("270"));
    }
}
