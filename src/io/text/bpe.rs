//! Trains a small byte-level BPE tokenizer with the control tokens of a family, for models made from
//! scratch. The same texts always give the same file, and no byte sequence is ever unknown to it.

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::AddedToken;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::builtin;
use super::byte_level;
use super::special_tokens::{FAMILIES, QWEN_TOKENS, SpecialTokens};
use super::tokenizer::Tokenizer;
use crate::base::{Error, Result};

/// The smallest vocabulary of [`train_bpe`]: every byte and the control tokens.
pub const MIN_VOCAB_SIZE: usize = 256 + QWEN_TOKENS.len();

/// A tokenizer that was just trained, with the files that go with it.
#[derive(Debug, Clone)]
pub struct TrainedTokenizer {
    tokenizer: Tokenizer,
    json: String,
    family: &'static SpecialTokens,
}

/// Trains a tokenizer for Qwen2.5-VL: [`train_bpe_for`] with the first row of the table of families.
///
/// # Errors
/// A `vocab_size` below [`MIN_VOCAB_SIZE`].
pub fn train_bpe(
    texts: impl Iterator<Item = String>,
    vocab_size: usize,
) -> Result<TrainedTokenizer> {
    train_bpe_for(&FAMILIES[0], texts, vocab_size)
}

/// Trains a tokenizer of at most `vocab_size` tokens (the family's control tokens included); fewer
/// when the texts have no more pairs that occur twice.
///
/// # Errors
/// A `vocab_size` below [`SpecialTokens::min_vocab_size`].
pub fn train_bpe_for(
    family: &'static SpecialTokens,
    texts: impl Iterator<Item = String>,
    vocab_size: usize,
) -> Result<TrainedTokenizer> {
    let (least, special) = (family.min_vocab_size(), family.tokens.len());
    if vocab_size < least {
        return Err(Error::usage("the vocabulary is too small")
            .key("vocab_size")
            .expected(format!("at least {least} (256 bytes and {special} control tokens)"))
            .found(vocab_size.to_string()));
    }
    let mut tokenizer = byte_level::around(BPE::default(), family.split).map_err(failed)?;
    let trainer = BpeTrainer::builder()
        .vocab_size(vocab_size - special)
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect::<HashSet<char>>())
        .build();
    // Collected first: the trainer wants an iterator that may cross threads.
    let pieces: Vec<String> =
        texts.flat_map(|t| without_special_tokens(t, family.tokens)).collect();
    tokenizer
        .train(&mut TrainerWrapper::BpeTrainer(trainer), pieces.into_iter())
        .map_err(failed)?;
    tokenizer
        .add_special_tokens(family.tokens.iter().map(|t| AddedToken::from(*t, true)))
        .map_err(failed)?;
    let json = tokenizer.to_string(true).map_err(failed)?;
    Ok(TrainedTokenizer { tokenizer: Tokenizer::from_bytes(json.as_bytes())?, json, family })
}

/// Pieces of a training text between control tokens: their letters must not shape the merges.
fn without_special_tokens(text: String, special: &[&str]) -> Vec<String> {
    let mut pieces = vec![text];
    for token in special {
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

    /// The family whose control tokens it has.
    pub fn family(&self) -> &'static SpecialTokens {
        self.family
    }

    /// Id of one of the family's control tokens.
    ///
    /// # Errors
    /// Another name.
    pub fn special_id(&self, name: &str) -> Result<u32> {
        self.tokenizer.require_id(name)
    }

    /// Writes `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` (the family's
    /// chat layout) so that `AutoTokenizer` and `AutoProcessor` of transformers load them.
    ///
    /// # Errors
    /// A directory that cannot be made or written.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        std::fs::create_dir_all(dir)
            .map_err(|e| Error::io("cannot make the directory", dir, &e))?;
        let config = format!("{:#}\n", self.config());
        let template = builtin::source(self.family.template)?;
        for (name, content) in [
            ("tokenizer.json", self.json.as_str()),
            ("tokenizer_config.json", config.as_str()),
            ("chat_template.jinja", template.as_str()),
        ] {
            let file = dir.join(name);
            std::fs::write(&file, content)
                .map_err(|e| Error::io("cannot write the tokenizer", &file, &e))?;
        }
        Ok(())
    }

    /// `tokenizer_config.json` with the keys of the published ones.
    fn config(&self) -> Value {
        let family = self.family;
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
        let mut config = json!({
            "add_bos_token": false,
            "add_prefix_space": false,
            "added_tokens_decoder": decoder,
            "additional_special_tokens": family.tokens[1..],
            "bos_token": null,
            "clean_up_tokenization_spaces": false,
            "eos_token": family.end_of_turn,
            "errors": "replace",
            "model_max_length": 131_072,
            "pad_token": family.end_of_text,
            "processor_class": family.processor_class,
            "split_special_tokens": false,
            "tokenizer_class": family.tokenizer_class,
            "unk_token": null,
        });
        let roles: Map<String, Value> =
            family.roles.iter().map(|(role, token)| (role.to_string(), json!(token))).collect();
        if let Some(keys) = config.as_object_mut() {
            keys.retain(|key, value| key != "processor_class" || !value.is_null());
            if !roles.is_empty() {
                keys.insert("extra_special_tokens".into(), Value::Object(roles));
            }
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::text::ChatTemplate;

    fn texts() -> impl Iterator<Item = String> {
        (0..50).map(|i| format!("What color is the {i} circle? It's red.\n<|im_end|>im_end"))
    }

    #[test]
    fn training_is_deterministic_and_special_ids_come_last() {
        let a = train_bpe(texts(), 290).unwrap();
        assert_eq!(a.json(), train_bpe(texts(), 290).unwrap().json());
        assert_eq!(a.tokenizer().vocab_size(), 290);
        for (i, token) in QWEN_TOKENS.iter().enumerate() {
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
    fn every_family_has_its_control_tokens_and_its_chat_layout() {
        for family in &FAMILIES {
            let t = train_bpe_for(family, texts(), family.min_vocab_size() + 20).unwrap();
            let dir = tempfile::tempdir().unwrap();
            t.save(dir.path()).unwrap();
            let back = Tokenizer::from_dir(dir.path()).unwrap();
            for token in family.tokens {
                let id = t.special_id(token).unwrap();
                assert_eq!(back.encode(token).unwrap(), [id], "{}", family.family);
            }
            assert_eq!(t.special_id(family.tokens[0]).unwrap(), 276);
            let template = ChatTemplate::from_dir(dir.path()).unwrap();
            let messages = json!([{"role": "user", "content": [
                {"type": "image"}, {"type": "text", "text": "What circle?"}]}]);
            let text = template.render(messages.as_array().unwrap(), true, &Map::new()).unwrap();
            let ids = back.encode(&text).unwrap();
            assert!(ids.iter().filter(|id| **id >= 276).count() >= 3, "{}", family.family);
            assert_eq!(back.decode(&ids, false), text);
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
