//! Byte-level BPE: every byte is a letter of the vocabulary, so no text is ever unknown. How text is
//! cut into words before the merges is a pattern of the family, never a guess.

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer, TokenizerBuilder,
};

/// What a byte-level tokenizer does to a text before BPE sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WordSplit {
    /// Each match is a word; merges never cross its border.
    pub pattern: &'static str,
    /// Is the text brought to Unicode's composed form (NFC) first?
    pub composes: bool,
}

/// Qwen2, Qwen2.5, Qwen3 and what is built on them (tokenizer.json, `pre_tokenizer`): contractions,
/// letters with one leading sign, single digits, signs, line ends, spaces.
pub const QWEN2_SPLIT: WordSplit = WordSplit {
    pattern: r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    composes: true,
};

/// GLM-4 (`pat_str` of its `ChatGLM4Tokenizer`): as Qwen2's, but up to three digits are one word, and
/// accents stay as they were typed.
pub const GLM4_SPLIT: WordSplit = WordSplit {
    pattern: r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    composes: false,
};

/// The tokenizer around a byte-level BPE model.
pub(super) fn around(model: BPE, split: WordSplit) -> tokenizers::Result<Tokenizer> {
    let builder = TokenizerBuilder::new()
        .with_model(model)
        .with_normalizer(split.composes.then_some(NormalizerWrapper::NFC(NFC)))
        .with_pre_tokenizer(Some(pre_tokenizer(split)?))
        .with_post_processor(Some(ByteLevel::new(false, false, false)))
        .with_decoder(Some(ByteLevel::new(false, false, false)));
    Ok(builder.build()?.into())
}

/// A model of a vocabulary and its merges, best first. `whole_words`: a word that is itself a token
/// is taken as it is, whatever the merges would make of it (tiktoken's rule).
pub(super) fn model(vocab: Vocab, merges: Merges, whole_words: bool) -> tokenizers::Result<BPE> {
    BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(whole_words).build()
}

fn pre_tokenizer(split: WordSplit) -> tokenizers::Result<PreTokenizerWrapper> {
    let pattern = SplitPattern::Regex(split.pattern.to_owned());
    let words = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?;
    Ok(PreTokenizerWrapper::Sequence(Sequence::new(vec![
        PreTokenizerWrapper::Split(words),
        PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, false)),
    ])))
}

/// The character that stands for each byte in a vocabulary: printable Latin-1 for itself, the rest
/// from U+0100 on (GPT-2, `bytes_to_unicode`).
pub(super) fn byte_characters() -> [char; 256] {
    let printable = |b: u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    std::array::from_fn(|b| {
        let b = b as u32;
        let code = if printable(b) {
            b
        } else {
            next += 1;
            next - 1
        };
        char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_characters_of_the_byte_level_alphabet() {
        let characters = byte_characters();
        assert_eq!(characters[b' ' as usize], 'Ġ');
        assert_eq!(characters[b'\n' as usize], 'Ċ');
        assert_eq!(characters[0xAD], 'Ń');
        let alphabet = ByteLevel::alphabet();
        assert_eq!(alphabet.len(), 256);
        assert!(characters.iter().all(|c| alphabet.contains(c)));
    }
}
