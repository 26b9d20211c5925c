//! Ids of whole sentences, as sentence encoders read them: with the control tokens that the encoder puts
//! around a text, cut off at its longest input. From `tokenizer.json`, or from the `vocab.txt` of BERT
//! (WordPiece; Devlin et al., arXiv 1810.04805). Chats and completions never go through here.

use std::path::Path;

use serde_json::Value;
use tokenizers::models::bpe::Vocab;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::{BertNormalizer, Lowercase, NormalizerWrapper, Sequence};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{Tokenizer, TruncationParams};

use super::added_tokens::AddedTokens;
use super::contents::{read_bytes, read_json, read_required_text};
use super::files::parse_tokenizer_json;
use crate::base::{Error, Result};

/// Lengths above this in `model_max_length` say "no limit" (transformers writes 10^30).
const NO_LIMIT: f64 = 1e9;

/// The tokenizer of a sentence encoder.
#[derive(Debug, Clone)]
pub struct SentenceTokenizer {
    tokenizer: Tokenizer,
    model_max_length: Option<usize>,
}

impl SentenceTokenizer {
    /// Reads `tokenizer.json`, or else `vocab.txt`, with what tokenizer_config.json says of letters:
    /// `do_lower_case`, `strip_accents` and `tokenize_chinese_chars` go before tokenizer.json, as in
    /// transformers.
    ///
    /// # Errors
    /// If there is neither file, or one is damaged.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let config = read_json(&dir.join("tokenizer_config.json"))?.unwrap_or(Value::Null);
        let (json, vocab) = (dir.join("tokenizer.json"), dir.join("vocab.txt"));
        let mut tokenizer = if json.is_file() {
            parse_tokenizer_json(&read_bytes(&json)?).map_err(|e| e.file(&json))?
        } else if vocab.is_file() {
            word_piece(&read_required_text(&vocab)?, &config).map_err(|e| e.file(&vocab))?
        } else {
            return Err(Error::data("the folder has no tokenizer of a sentence encoder")
                .file(dir)
                .expected("tokenizer.json, or vocab.txt")
                .hint("save the encoder again: SentenceTransformer(DIR).save(NEW_DIR)"));
        };
        AddedTokens::from_dir(dir)?
            .add_to(&mut tokenizer)
            .map_err(|e| e.at(dir.display().to_string()))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(defect)?;
        if let Some(NormalizerWrapper::BertNormalizer(bert)) = tokenizer.get_normalizer() {
            let letters = bert_letters(*bert, &config);
            tokenizer.with_normalizer(Some(letters)).map_err(defect)?;
        }
        let model_max_length = config["model_max_length"]
            .as_f64()
            .filter(|length| (1.0..NO_LIMIT).contains(length))
            .map(|length| length as usize);
        Ok(SentenceTokenizer { tokenizer, model_max_length })
    }

    /// `model_max_length` of tokenizer_config.json, if it is a limit.
    pub fn model_max_length(&self) -> Option<usize> {
        self.model_max_length
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Makes letters small before anything else (`do_lower_case` of sentence_bert_config.json).
    ///
    /// # Errors
    /// If the tokenizer's added tokens do not survive it.
    pub fn lower_case(&mut self) -> Result<()> {
        let mut steps = vec![NormalizerWrapper::from(Lowercase)];
        steps.extend(self.tokenizer.get_normalizer().cloned());
        self.tokenizer.with_normalizer(Some(Sequence::new(steps))).map_err(defect)?;
        Ok(())
    }

    /// Cuts every text off so that it has at most `tokens` ids, control tokens included.
    ///
    /// # Errors
    /// If not even the control tokens fit.
    pub fn limit(&mut self, tokens: usize) -> Result<()> {
        let around = self.ids("")?.len();
        if tokens <= around {
            return Err(Error::data("the longest input of the encoder has no room for text")
                .key("max_seq_length")
                .expected(format!("more than {around}, the control tokens"))
                .found(tokens.to_string()));
        }
        let cut = TruncationParams { max_length: tokens, ..TruncationParams::default() };
        self.tokenizer.with_truncation(Some(cut)).map_err(defect)?;
        Ok(())
    }

    /// Ids of a text between the encoder's control tokens.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self
            .tokenizer
            .encode_fast(text, true)
            .map_err(|e| Error::data("cannot tokenize a sentence").found(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }
}

fn defect(e: tokenizers::Error) -> Error {
    Error::data("cannot use the tokenizer of the sentence encoder").found(e.to_string())
}

/// BERT's way with letters, where the configuration says another one.
fn bert_letters(found: BertNormalizer, config: &Value) -> BertNormalizer {
    let says = |key: &str, otherwise: bool| config[key].as_bool().unwrap_or(otherwise);
    let strip_accents = match config.get("strip_accents") {
        Some(value) => value.as_bool(),
        None => found.strip_accents,
    };
    BertNormalizer::new(
        found.clean_text,
        says("tokenize_chinese_chars", found.handle_chinese_chars),
        strip_accents,
        says("do_lower_case", found.lowercase),
    )
}

/// The name of a control token in tokenizer_config.json: text, or an object with its `content`.
fn control(config: &Value, key: &str, otherwise: &str) -> String {
    let value = &config[key];
    value.as_str().or(value["content"].as_str()).unwrap_or(otherwise).to_owned()
}

/// BERT's tokenizer from its vocabulary: one token a line, the line's number is its id.
fn word_piece(text: &str, config: &Value) -> Result<Tokenizer> {
    let lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
    let tokens = lines.map(|line| line.strip_suffix('\r').unwrap_or(line).to_owned());
    // Of a token that stands on two lines the later id counts, as in transformers.
    let vocab: Vocab = tokens.zip(0..).collect();
    let [cls, sep, unk] = [("cls_token", "[CLS]"), ("sep_token", "[SEP]"), ("unk_token", "[UNK]")]
        .map(|(key, otherwise)| control(config, key, otherwise));
    let id = |token: &str| {
        vocab.get(token).copied().ok_or_else(|| {
            Error::data("the vocabulary lacks a control token")
                .key(token)
                .hint("the file is cut off, or tokenizer_config.json is of another model")
        })
    };
    let around = vec![(cls.clone(), id(&cls)?), (sep.clone(), id(&sep)?)];
    id(&unk)?;
    let model = WordPiece::builder().vocab(vocab).unk_token(unk).build();
    let mut tokenizer = Tokenizer::new(model.map_err(defect)?);
    tokenizer.with_normalizer(Some(BertNormalizer::default())).map_err(defect)?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    let template = TemplateProcessing::builder()
        .try_single(vec![cls, "$A".to_owned(), sep])
        .map_err(|e| Error::data("cannot build the tokenizer").found(e))?
        .special_tokens(around)
        .build()
        .map_err(|e| Error::data("cannot build the tokenizer").found(e.to_string()))?;
    tokenizer.with_post_processor(Some(template));
    Ok(tokenizer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOCAB: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nred\nball\n##s\n中\nRed\ncafe\ncafé\n";

    fn folder(config: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("vocab.txt"), VOCAB).unwrap();
        std::fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
        dir
    }

    #[test]
    fn words_become_pieces_between_control_tokens() {
        let dir = folder("{\"model_max_length\": 1000000000000000019884624838656}");
        let mut t = SentenceTokenizer::from_dir(dir.path()).unwrap();
        assert_eq!(t.ids("Red balls 中, café").unwrap(), [2, 4, 5, 6, 7, 1, 9, 3]);
        assert_eq!(t.ids("").unwrap(), [2, 3]);
        assert_eq!(t.model_max_length(), None);
        t.limit(4).unwrap();
        assert_eq!(t.ids("red balls red").unwrap(), [2, 4, 5, 3]);
        let e = t.limit(2).unwrap_err().one_line();
        assert!(e.contains("max_seq_length") && e.contains("more than 2"), "{e}");
    }

    #[test]
    fn the_configuration_decides_about_letters() {
        let dir = folder("{\"do_lower_case\": false, \"model_max_length\": 512}");
        let mut t = SentenceTokenizer::from_dir(dir.path()).unwrap();
        assert_eq!(t.ids("Red café").unwrap(), [2, 8, 10, 3]);
        assert_eq!(t.model_max_length(), Some(512));
        t.lower_case().unwrap();
        assert_eq!(t.ids("Red café").unwrap(), [2, 4, 10, 3]);
        let dir = folder("{\"strip_accents\": false}");
        let t = SentenceTokenizer::from_dir(dir.path()).unwrap();
        assert_eq!(t.ids("Red café").unwrap(), [2, 4, 10, 3]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let e = SentenceTokenizer::from_dir(dir.path()).unwrap_err().one_line();
        assert!(e.contains("tokenizer.json, or vocab.txt"), "{e}");
        std::fs::write(dir.path().join("vocab.txt"), "[UNK]\n[CLS]\nred\n").unwrap();
        let e = SentenceTokenizer::from_dir(dir.path()).unwrap_err().one_line();
        assert!(e.contains("[SEP]") && e.contains("vocab.txt"), "{e}");
    }
}
