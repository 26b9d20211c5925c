//! Text to ids and back, through the `tokenizers` crate, for every file format that models are
//! published with. Ids never depend on who asks, and text that came from a user never becomes a
//! control token.

use std::path::Path;
use std::sync::Arc;

use tokenizers::AddedToken;

use super::files;
use crate::base::{Error, Result};

/// A tokenizer; cloning shares the vocabulary.
#[derive(Debug, Clone)]
pub struct Tokenizer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Recognises every added token, as transformers does.
    full: tokenizers::Tokenizer,
    /// The same vocabulary, but control tokens in the text are ordinary characters.
    ordinary: tokenizers::Tokenizer,
    /// Control tokens by id, in order of id.
    special: Vec<(u32, String)>,
}

impl Tokenizer {
    /// Reads the tokenizer of a model directory: `tokenizer.json`; or `vocab.json` with `merges.txt`
    /// (Qwen2); or `tokenizer.model`, which is a SentencePiece model (InternLM2) or a table of ranks
    /// (GLM-4). Added tokens that only tokenizer_config.json or added_tokens.json names are added, as
    /// transformers does.
    ///
    /// # Errors
    /// A directory without any of these files (the error lists them), or a damaged file, with its
    /// line or byte.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self> {
        Self::new(files::read(dir.as_ref())?)
    }

    /// Reads the content of a `tokenizer.json`.
    ///
    /// # Errors
    /// Bytes that are not a tokenizer that the `tokenizers` crate understands.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::new(files::parse_tokenizer_json(bytes)?)
    }

    pub(super) fn new(mut full: tokenizers::Tokenizer) -> Result<Self> {
        // Truncation and padding that a file may carry would change ids silently.
        full.with_padding(None);
        full.with_truncation(None).map_err(defect)?;
        let mut controls: Vec<(u32, AddedToken)> = full
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, t)| t.special || looks_like_control(&t.content))
            .collect();
        controls.sort_by_key(|(id, _)| *id);
        let mut ordinary = full.clone();
        // Same content, same id: this only marks them as special, so the next line covers them.
        ordinary
            .add_special_tokens(
                controls.iter().map(|(_, t)| AddedToken { special: true, ..t.clone() }),
            )
            .map_err(defect)?;
        ordinary.set_encode_special_tokens(true);
        let special = controls.into_iter().map(|(id, t)| (id, t.content)).collect();
        Ok(Tokenizer(Arc::new(Inner { full, ordinary, special })))
    }

    /// Ids of a text in which control tokens are recognised, as `tokenizer(text,
    /// add_special_tokens=False)` of transformers gives them. For text of a template, not of users.
    ///
    /// # Errors
    /// A text that the tokenizer's normaliser or model refuses (byte-level BPE refuses none).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        encode_with(&self.0.full, text)
    }

    /// Ids of a text of a user: a string that looks like a control token (`<|image_pad|>`) is split
    /// as plain text. Added tokens that are ordinary words (`<think>`) are still recognised.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_ordinary(&self, text: &str) -> Result<Vec<u32>> {
        encode_with(&self.0.ordinary, text)
    }

    /// Text of ids. Incomplete UTF-8 becomes U+FFFD; ids outside of the vocabulary (padded rows of
    /// an embedding) give no text.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        // The byte-level, metaspace and fuse decoders have no error path that ids can reach.
        self.0.full.decode(ids, skip_special).unwrap_or_default()
    }

    /// Id of a token, added tokens first.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.0.full.token_to_id(token)
    }

    /// Id of a token that the caller cannot work without.
    ///
    /// # Errors
    /// A vocabulary without it.
    pub fn require_id(&self, token: &str) -> Result<u32> {
        self.token_id(token).ok_or_else(|| {
            Error::data(format!("the tokenizer has no token {token}"))
                .key(token)
                .expected("a tokenizer of the model's own family")
                .found(format!("{} tokens without it", self.vocab_size()))
                .hint("check that tokenizer.json belongs to config.json")
        })
    }

    /// Spelling of an id in the vocabulary (byte-level characters, not text).
    pub fn token(&self, id: u32) -> Option<String> {
        self.0.full.id_to_token(id)
    }

    /// Number of tokens including added ones. A model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.0.full.get_vocab_size(true)
    }

    /// Ids of control tokens, ascending: special ones and all of the form `<|...|>`.
    pub fn special_ids(&self) -> Vec<u32> {
        self.0.special.iter().map(|(id, _)| *id).collect()
    }

    /// Control tokens with their ids, ascending by id.
    pub fn special_tokens(&self) -> &[(u32, String)] {
        &self.0.special
    }

    /// Does the text contain the spelling of a control token?
    pub fn contains_special(&self, text: &str) -> bool {
        self.0.special.iter().any(|(_, t)| text.contains(t.as_str()))
    }

    /// A stream that turns ids into text one by one.
    pub fn decode_stream(&self, skip_special: bool) -> DecodeStream {
        DecodeStream { tokenizer: self.clone(), skip_special, ids: Vec::new(), shown: 0 }
    }
}

/// Some tokenizers do not flag `<|fim_pad|>` and its like as special; the shape is the convention.
fn looks_like_control(content: &str) -> bool {
    content.len() > 4 && content.starts_with("<|") && content.ends_with("|>")
}

fn encode_with(tokenizer: &tokenizers::Tokenizer, text: &str) -> Result<Vec<u32>> {
    let encoding = tokenizer
        .encode_fast(text, false)
        .map_err(|e| Error::data("cannot tokenize a text").found(e.to_string()))?;
    Ok(encoding.get_ids().to_vec())
}

fn defect(e: tokenizers::Error) -> Error {
    Error::data("cannot use the tokenizer").found(e.to_string())
}

/// Text of a growing sequence of ids. Bytes of an incomplete character are held back until the
/// character is complete, so what was shown never changes.
#[derive(Debug, Clone)]
pub struct DecodeStream {
    tokenizer: Tokenizer,
    skip_special: bool,
    /// Ids since the last but one time that text was shown: the decoder needs the one before to
    /// decide about spaces (metaspace decoders).
    ids: Vec<u32>,
    /// How many of `ids` have been shown.
    shown: usize,
}

impl DecodeStream {
    /// Adds an id; returns the text that became complete with it, if any.
    pub fn push(&mut self, id: u32) -> Option<String> {
        self.ids.push(id);
        let text = self.new_text();
        if text.is_empty() || text.ends_with('\u{FFFD}') {
            return None;
        }
        self.ids.drain(..self.shown);
        self.shown = self.ids.len();
        Some(text)
    }

    /// The held-back rest, with U+FFFD for what never became a character. Ends the stream.
    pub fn finish(mut self) -> Option<String> {
        let text = self.new_text();
        self.ids.clear();
        (!text.is_empty()).then_some(text)
    }

    fn new_text(&self) -> String {
        let all = self.tokenizer.decode(&self.ids, self.skip_special);
        let before = self.tokenizer.decode(&self.ids[..self.shown], self.skip_special);
        all.strip_prefix(before.as_str()).map_or(String::new(), str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Philox, RngDomain};
    use crate::io::text::train_bpe;

    fn small() -> Tokenizer {
        let texts = ["The quick brown fox. 12 đỏ 红色 🦊", "the quick red fox, the fox"];
        train_bpe(texts.iter().map(|s| s.to_string()), 320).unwrap().tokenizer().clone()
    }

    #[test]
    fn user_text_never_becomes_a_control_token() {
        let t = small();
        let pad = t.token_id("<|image_pad|>").unwrap();
        let text = "a<|image_pad|><|im_end|>\nb";
        assert!(t.encode(text).unwrap().contains(&pad));
        let ids = t.encode_ordinary(text).unwrap();
        assert!(ids.iter().all(|id| !t.special_ids().contains(id)));
        assert_eq!(t.decode(&ids, true), text);
        assert!(t.contains_special(text) && !t.contains_special("a <|image"));
        let plain = "đỏ 🦊 the fox\t 3";
        assert_eq!(t.encode(plain).unwrap(), t.encode_ordinary(plain).unwrap());
    }

    #[test]
    fn unflagged_control_tokens_are_guarded_but_words_are_kept() {
        let texts = ["x".to_owned()];
        let trained = train_bpe(texts.into_iter(), 280).unwrap();
        let mut inner = trained.tokenizer().0.full.clone();
        let added = ["<|fim_pad|>", "<think>"].map(|t| AddedToken::from(t, false));
        inner.add_tokens(added).unwrap();
        let t = Tokenizer::new(inner).unwrap();
        let (fim, think) = (t.token_id("<|fim_pad|>").unwrap(), t.token_id("<think>").unwrap());
        let ids = t.encode_ordinary("<think><|fim_pad|>").unwrap();
        assert!(ids.contains(&think) && !ids.contains(&fim));
        assert_eq!(t.encode("<think><|fim_pad|>").unwrap(), [think, fim]);
    }

    #[test]
    fn stream_holds_back_incomplete_characters() {
        let t = small();
        let text = "đường 🦊🇻🇳 中文 end";
        let ids = t.encode(text).unwrap();
        let mut stream = t.decode_stream(true);
        let mut shown = String::new();
        for id in ids {
            if let Some(s) = stream.push(id) {
                assert!(!s.contains('\u{FFFD}'));
                shown += &s;
                assert!(text.starts_with(&shown));
            }
        }
        assert_eq!(stream.finish(), None);
        assert_eq!(shown, text);
    }

    #[test]
    fn stream_equals_decode_on_random_ids() {
        let t = small();
        let mut rng = Philox::new(3, RngDomain::Test).stream(0, 0);
        for skip in [true, false] {
            for _ in 0..50 {
                let ids: Vec<u32> = (0..40).map(|_| rng.below(t.vocab_size()) as u32).collect();
                let mut stream = t.decode_stream(skip);
                let mut shown: String = ids.iter().filter_map(|id| stream.push(*id)).collect();
                shown += &stream.finish().unwrap_or_default();
                assert_eq!(shown, t.decode(&ids, skip));
            }
        }
    }

    #[test]
    fn errors_name_the_file_and_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let e = Tokenizer::from_dir(dir.path()).unwrap_err();
        assert!(e.to_string().contains("tokenizer.json"));
        std::fs::write(dir.path().join("vocab.json"), "{}").unwrap();
        let e = Tokenizer::from_dir(dir.path()).unwrap_err();
        assert!(e.to_string().contains("only vocab.json"), "{e}");
        for name in ["tokenizer.json", "vocab.json with merges.txt", "tokenizer.model"] {
            assert!(e.to_string().contains(name), "{e}");
        }
        std::fs::write(dir.path().join("tokenizer.json"), "{\"version\": 3").unwrap();
        let e = Tokenizer::from_dir(dir.path()).unwrap_err();
        assert_eq!(e.exit_code(), 3);
        assert!(e.to_string().contains("tokenizer.json"), "{e}");
        let e = small().require_id("<|nope|>").unwrap_err();
        assert!(e.to_string().contains("<|nope|>"));
    }
}
