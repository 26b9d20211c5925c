//! The files of a published tokenizer. Which of them a folder has decides how its tokenizer is built;
//! a class name in a configuration decides nothing.

use std::path::Path;

use serde_json::Value;
use tokenizers::Tokenizer;

use super::added_tokens::AddedTokens;
use super::contents::{parse_json, read_bytes};
use super::{sentencepiece, tiktoken, vocab_merges};
use crate::base::{Error, Result};

/// One way in which tokenizers are published.
struct Layout {
    /// Files that must all be there.
    needs: &'static [&'static str],
    read: fn(&Path, &AddedTokens) -> Result<Tokenizer>,
}

/// The first whose files are there is taken.
const LAYOUTS: [Layout; 3] = [
    Layout { needs: &["tokenizer.json"], read: read_tokenizer_json },
    Layout { needs: &["vocab.json", "merges.txt"], read: vocab_merges::read },
    Layout { needs: &["tokenizer.model"], read: read_tokenizer_model },
];

/// The tokenizer of a folder with all its added tokens.
///
/// # Errors
/// No known set of files (the error lists what was looked for), or a damaged file.
pub(super) fn read(dir: &Path) -> Result<Tokenizer> {
    let there = |file: &&str| dir.join(file).is_file();
    let Some(layout) = LAYOUTS.iter().find(|l| l.needs.iter().all(there)) else {
        return Err(no_tokenizer(dir));
    };
    let added = AddedTokens::from_dir(dir)?;
    let mut tokenizer = (layout.read)(dir, &added)?;
    added.add_to(&mut tokenizer).map_err(|e| e.at(dir.display().to_string()))?;
    Ok(tokenizer)
}

fn no_tokenizer(dir: &Path) -> Error {
    let sets: Vec<String> = LAYOUTS.iter().map(|l| l.needs.join(" with ")).collect();
    let mut found: Vec<&str> = LAYOUTS.iter().flat_map(|l| l.needs).copied().collect();
    found.retain(|f| dir.join(f).is_file());
    let found = match found.as_slice() {
        [] => "none of them".to_owned(),
        some => format!("only {}", some.join(" and ")),
    };
    Error::data("the folder has no tokenizer")
        .file(dir)
        .expected(sets.join(", or "))
        .found(found)
        .hint("give the directory that holds config.json, the tokenizer's files and *.safetensors of one model")
}

fn read_tokenizer_json(dir: &Path, added: &AddedTokens) -> Result<Tokenizer> {
    let file = dir.join("tokenizer.json");
    let bytes = read_bytes(&file)?;
    let tokenizer = parse_tokenizer_json(&bytes).map_err(|e| e.file(&file))?;
    let names = added.names_of_reserved(&tokenizer);
    if names.is_empty() {
        return Ok(tokenizer);
    }
    named(&bytes, &names)
        .and_then(|text| parse_tokenizer_json(text.as_bytes()))
        .map_err(|e| e.file(&file))
}

/// A `tokenizer.json` whose reserved pieces have their names, as transformers names them when it
/// reads the SentencePiece model itself. Merges that would build a reserved piece out of text go.
fn named(bytes: &[u8], names: &[(String, String)]) -> Result<String> {
    let mut json = parse_json(&String::from_utf8_lossy(bytes))?;
    let model = &mut json["model"];
    if let Some(vocab) = model["vocab"].as_object_mut() {
        for (reserved, name) in names {
            if let Some(id) = vocab.swap_remove(reserved) {
                vocab.insert(name.clone(), id);
            }
        }
    }
    if let Some(merges) = model["merges"].as_array_mut() {
        merges.retain(|merge| {
            let (left, right) = match merge {
                Value::String(pair) => pair.split_once(' ').unwrap_or((pair, "")),
                pair => (pair[0].as_str().unwrap_or(""), pair[1].as_str().unwrap_or("")),
            };
            let whole = format!("{left}{right}");
            !names.iter().any(|(r, _)| *r == left || *r == right || *r == whole)
        });
    }
    Ok(json.to_string())
}

/// The content of a `tokenizer.json`.
///
/// # Errors
/// Bytes that are not a tokenizer that the `tokenizers` crate understands.
pub(super) fn parse_tokenizer_json(bytes: &[u8]) -> Result<Tokenizer> {
    Tokenizer::from_bytes(bytes).map_err(|e| {
        Error::data("cannot read the tokenizer")
            .expected("a tokenizer.json as the `tokenizers` library 0.x writes it")
            .found(e.to_string())
            .hint("save it again: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)")
    })
}

/// `tokenizer.model` is a SentencePiece message (InternLM2) or a table of ranks (GLM-4). A message
/// begins with the tag of its first field, which is a line end; a table begins with a token.
fn read_tokenizer_model(dir: &Path, added: &AddedTokens) -> Result<Tokenizer> {
    let file = dir.join("tokenizer.model");
    let bytes = read_bytes(&file)?;
    let read = if bytes.first() == Some(&sentencepiece::FIRST_BYTE) {
        sentencepiece::parse(&bytes, added)
    } else {
        tiktoken::parse(&bytes)
    };
    read.map_err(|e| e.file(&file))
}
