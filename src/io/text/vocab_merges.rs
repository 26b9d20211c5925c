//! The older files of Qwen2 tokenizers: `vocab.json` (letters to ids) and `merges.txt` (pairs, best
//! first), as InternVL and Vintern folders have them. The same tokenizer as their tokenizer.json.

use std::path::Path;

use tokenizers::Tokenizer;
use tokenizers::models::bpe::{Merges, Vocab};

use super::added_tokens::AddedTokens;
use super::byte_level::{self, QWEN2_SPLIT};
use super::contents::{parse_json, read_required_text};
use crate::base::{Error, Result};

/// Reads the two files of a folder.
///
/// # Errors
/// A file that cannot be read or is damaged, with its line or key.
pub(super) fn read(dir: &Path, _: &AddedTokens) -> Result<Tokenizer> {
    let (vocab_file, merges_file) = (dir.join("vocab.json"), dir.join("merges.txt"));
    let vocab = parse_vocab(&read_required_text(&vocab_file)?).map_err(|e| e.file(&vocab_file))?;
    let merges = parse_merges(&read_required_text(&merges_file)?, &vocab)
        .map_err(|e| e.file(&merges_file))?;
    byte_level::model(vocab, merges, false)
        .and_then(|model| byte_level::around(model, QWEN2_SPLIT))
        .map_err(|e| Error::data("cannot build the tokenizer").file(dir).found(e.to_string()))
}

fn parse_vocab(text: &str) -> Result<Vocab> {
    let json = parse_json(text)?;
    let wrong = |key: &str, found: String| {
        Error::data("cannot read the vocabulary").key(key).expected("tokens with ids").found(found)
    };
    let entries = json.as_object().ok_or_else(|| wrong("", "not an object".to_owned()))?;
    entries
        .iter()
        .map(|(token, id)| {
            let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
            Ok((token.clone(), number.ok_or_else(|| wrong(token, id.to_string()))?))
        })
        .collect()
}

/// Lines `left right`; the first may say `#version: ...`.
fn parse_merges(text: &str, vocab: &Vocab) -> Result<Merges> {
    let lines = text.lines().enumerate();
    lines
        .filter(|(i, line)| !(line.is_empty() || *i == 0 && line.starts_with("#version")))
        .map(|(i, line)| {
            let wrong = |found: String| {
                Error::data("cannot read a merge")
                    .line(i + 1)
                    .expected(
                        "two tokens of vocab.json with one space between, and so is their sum",
                    )
                    .found(found)
            };
            let (left, right) = line.split_once(' ').ok_or_else(|| wrong(format!("{line:?}")))?;
            for token in [left, right, &format!("{left}{right}")] {
                if !vocab.contains_key(token) {
                    return Err(wrong(format!("{token:?} is not in vocab.json")));
                }
            }
            Ok((left.to_owned(), right.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_files_are_named_with_their_line() {
        let vocab = parse_vocab("{\"a\": 0, \"b\": 1, \"ab\": 2}").unwrap();
        let good = parse_merges("#version: 0.2\na b\n\n", &vocab).unwrap();
        assert_eq!(good, [("a".to_owned(), "b".to_owned())]);
        for (text, line) in [("#version: 0.2\na b\nab", 3), ("a c", 1), ("a b\nb a", 2)] {
            let e = parse_merges(text, &vocab).unwrap_err();
            assert!(e.to_string().contains(&format!("line {line}")), "{e}");
        }
        assert!(parse_vocab("{\"a\": -1}").unwrap_err().to_string().contains("-1"));
        assert!(parse_vocab("{\"a\": 1,\n2").unwrap_err().to_string().contains("line 2"));
        assert!(parse_vocab("[]").is_err());
    }
}
