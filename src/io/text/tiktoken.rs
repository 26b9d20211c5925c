//! Rank tables of tiktoken (`tokenizer.model` of glm-4v-9b): one line per token, its bytes in base64
//! and its rank, which is its id. The merges are never stored; they follow from the ranks.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokenizers::Tokenizer;
use tokenizers::models::bpe::Vocab;

use super::byte_level::{self, GLM4_SPLIT};
use crate::base::{Error, Result};

/// Builds GLM-4's tokenizer from the content of its rank table.
///
/// # Errors
/// A line that is not `base64 rank`, a token or rank that occurs twice, or a byte without a token;
/// with the line.
pub(super) fn parse(bytes: &[u8]) -> Result<Tokenizer> {
    let ranks = parse_ranks(bytes)?;
    let characters = byte_level::byte_characters();
    let spelled = |token: &[u8]| token.iter().map(|b| characters[*b as usize]).collect::<String>();
    let vocab: Vocab = ranks.iter().map(|(token, rank)| (spelled(token), *rank)).collect();
    let merges = merges(&ranks).into_iter().map(|(l, r)| (spelled(l), spelled(r))).collect();
    byte_level::model(vocab, merges, true)
        .and_then(|model| byte_level::around(model, GLM4_SPLIT))
        .map_err(|e| Error::data("cannot build the tokenizer").found(e.to_string()))
}

fn parse_ranks(bytes: &[u8]) -> Result<HashMap<Vec<u8>, u32>> {
    let mut ranks = HashMap::new();
    let mut lines_of_ranks = HashMap::new();
    for (i, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let wrong = |what: &str| {
            Error::data("cannot read the table of ranks")
                .line(i + 1)
                .expected("a token in base64, one space and its rank")
                .found(what)
        };
        let (token, rank) = parse_line(line)
            .ok_or_else(|| wrong(&format!("{:?}", String::from_utf8_lossy(line))))?;
        if let Some(other) = lines_of_ranks.insert(rank, i + 1) {
            return Err(wrong(&format!("rank {rank}, which line {other} has too")));
        }
        if let Some(other) = ranks.insert(token, rank) {
            return Err(wrong(&format!("a token that rank {other} has too")));
        }
    }
    if let Some(byte) = (0..=255u8).find(|b| !ranks.contains_key([*b].as_slice())) {
        return Err(Error::data("the table of ranks is not complete")
            .expected("a token for each of the 256 bytes")
            .found(format!("none for byte 0x{byte:02X} in {} tokens", ranks.len()))
            .hint("the file is cut off or not a table of tiktoken; copy it again"));
    }
    Ok(ranks)
}

fn parse_line(line: &[u8]) -> Option<(Vec<u8>, u32)> {
    let space = line.iter().position(|b| *b == b' ')?;
    let rank = std::str::from_utf8(&line[space + 1..]).ok()?.trim().parse().ok()?;
    let token = STANDARD.decode(&line[..space]).ok()?;
    (!token.is_empty()).then_some((token, rank))
}

/// Every way to make a token of two tokens, in the order of the token's rank, then of the halves'
/// (as `TikTokenConverter` of transformers orders them).
fn merges(ranks: &HashMap<Vec<u8>, u32>) -> Vec<(&[u8], &[u8])> {
    let mut all = Vec::new();
    for (token, rank) in ranks {
        for (left, right) in (1..token.len()).map(|at| token.split_at(at)) {
            if let (Some(l), Some(r)) = (ranks.get(left), ranks.get(right)) {
                all.push(((*rank, *l, *r), (left, right)));
            }
        }
    }
    all.sort_unstable_by_key(|(order, _)| *order);
    all.into_iter().map(|(_, pair)| pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_tables_are_named_with_their_line() {
        for (text, line) in [
            ("Zg== 0\nZm9v\n", 2),
            ("Zg== 0\n!!!! 1\n", 2),
            ("Zg== 0\nZm8 1\n", 2),
            ("Zg== 0\nZm8= 0\n", 2),
            ("Zg== 0\n\nZg== 1\n", 3),
            ("Zg== x\n", 1),
            (" 1\n", 1),
        ] {
            let e = parse(text.as_bytes()).unwrap_err();
            assert!(e.to_string().contains(&format!("line {line}")), "{text:?}: {e}");
        }
        let e = parse(b"Zg== 0\n").unwrap_err();
        assert!(e.to_string().contains("byte 0x00"), "{e}");
    }
}
