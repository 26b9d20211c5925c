//! Added tokens of a model folder: those that its side files name beside the vocabulary. An id that a
//! file promises is the id that the tokenizer gives, or reading fails.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer};

use super::contents::read_json;
use crate::base::{Error, Result};

/// Keys of tokenizer_config.json and special_tokens_map.json that name one special token each.
const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What the side files of a folder say about added tokens.
#[derive(Debug, Default)]
pub(super) struct AddedTokens {
    /// By id: `added_tokens_decoder` of tokenizer_config.json or, in older folders,
    /// added_tokens.json.
    by_id: BTreeMap<u32, AddedToken>,
    /// The file that `by_id` is from.
    file: PathBuf,
    /// Tokens that have a role (end of text, ...). They are special if the vocabulary has them.
    named: Vec<String>,
}

impl AddedTokens {
    /// Reads tokenizer_config.json, added_tokens.json and special_tokens_map.json; each may be
    /// missing.
    ///
    /// # Errors
    /// A file that is not JSON, or an entry of another shape, with its key.
    pub(super) fn from_dir(dir: &Path) -> Result<Self> {
        let config_file = dir.join("tokenizer_config.json");
        let config = read_json(&config_file)?.unwrap_or(Value::Null);
        let map = read_json(&dir.join("special_tokens_map.json"))?.unwrap_or(Value::Null);
        let named: Vec<String> = [&config, &map].into_iter().flat_map(named_tokens).collect();
        let older = dir.join("added_tokens.json");
        let (file, by_id) = match config.get("added_tokens_decoder") {
            Some(decoder) => (config_file, by_decoder(decoder)),
            None => {
                let ids = read_json(&older)?.unwrap_or(Value::Null);
                (older, by_content(&ids, &named))
            }
        };
        let by_id = by_id.map_err(|e| e.file(&file))?;
        Ok(AddedTokens { by_id, file, named })
    }

    /// The token that a side file puts at an id, if any.
    pub(super) fn at(&self, id: u32) -> Option<&AddedToken> {
        self.by_id.get(&id)
    }

    /// (reserved piece, its name) where a vocabulary has another piece at the id of a token that it
    /// lacks: InternLM2's `[UNUSED_TOKEN_146]` is `<|im_start|>`.
    pub(super) fn names_of_reserved(&self, tokenizer: &Tokenizer) -> Vec<(String, String)> {
        let lacks = |token: &AddedToken| tokenizer.token_to_id(&token.content).is_none();
        self.by_id
            .iter()
            .filter(|(_, token)| lacks(token))
            .filter_map(|(id, token)| Some((tokenizer.id_to_token(*id)?, token.content.clone())))
            .collect()
    }

    /// Adds all tokens to a tokenizer, in order of id as transformers does.
    ///
    /// # Errors
    /// A token that gets another id than its file says.
    pub(super) fn add_to(&self, tokenizer: &mut Tokenizer) -> Result<()> {
        let known = tokenizer.get_added_tokens_decoder();
        let news: Vec<AddedToken> = self
            .by_id
            .iter()
            .filter(|(id, token)| known.get(*id) != Some(*token))
            .map(|(_, token)| token.clone())
            .collect();
        add(tokenizer, news)?;
        for (id, token) in &self.by_id {
            let found = tokenizer.token_to_id(&token.content);
            if found != Some(*id) {
                return Err(Error::data("the id of an added token does not fit the vocabulary")
                    .file(&self.file)
                    .key(&token.content)
                    .expected(format!("id {id}"))
                    .found(found.map_or("no id".to_owned(), |i| format!("id {i}")))
                    .hint("the tokenizer's files do not belong together, or the vocabulary is cut off; copy all of them again from one model"));
            }
        }
        let known = tokenizer.get_added_vocabulary().get_vocab();
        let roles: Vec<AddedToken> = self
            .named
            .iter()
            .filter(|t| !known.contains_key(*t) && tokenizer.token_to_id(t).is_some())
            .map(|t| AddedToken::from(t.clone(), true))
            .collect();
        add(tokenizer, roles)
    }
}

/// Ids of a model folder's added tokens by name, without building its tokenizer: those of the side files,
/// or of tokenizer.json where they name none. `None` for a folder without such files.
///
/// # Errors
/// A file that is not JSON, or an entry of another shape.
pub fn added_ids(dir: impl AsRef<Path>) -> Result<Option<BTreeMap<String, u32>>> {
    let dir = dir.as_ref();
    let side = AddedTokens::from_dir(dir)?.by_id;
    if !side.is_empty() {
        return Ok(Some(side.into_iter().map(|(id, token)| (token.content, id)).collect()));
    }
    let Some(tokenizer) = read_json(&dir.join("tokenizer.json"))? else { return Ok(None) };
    let tokens = tokenizer.get("added_tokens").and_then(Value::as_array);
    let entry = |token: &Value| {
        let id = u32::try_from(token.get("id")?.as_u64()?).ok()?;
        Some((token.get("content")?.as_str()?.to_owned(), id))
    };
    Ok(Some(tokens.into_iter().flatten().filter_map(entry).collect()))
}

fn add(tokenizer: &mut Tokenizer, tokens: Vec<AddedToken>) -> Result<()> {
    if tokens.is_empty() {
        return Ok(());
    }
    tokenizer
        .add_tokens(tokens)
        .map(|_| ())
        .map_err(|e| Error::data("cannot add tokens to the tokenizer").found(e.to_string()))
}

/// `{"151643": {"content": "<|endoftext|>", "special": true, ...}, ...}`.
fn by_decoder(decoder: &Value) -> Result<BTreeMap<u32, AddedToken>> {
    let wrong = |key: &str, found: &Value| {
        Error::data("cannot read an added token")
            .key(format!("added_tokens_decoder.{key}"))
            .expected("an id with an object that has a string `content`")
            .found(found.to_string())
    };
    let entries = decoder.as_object().ok_or_else(|| wrong("", decoder))?;
    entries
        .iter()
        .map(|(key, value)| {
            let id: u32 = key.parse().map_err(|_| wrong(key, value))?;
            let content = value.get("content").and_then(Value::as_str);
            let content = content.ok_or_else(|| wrong(key, value))?;
            let flag = |name: &str, default: bool| {
                value.get(name).and_then(Value::as_bool).unwrap_or(default)
            };
            let special = flag("special", false);
            Ok((
                id,
                AddedToken {
                    content: content.to_owned(),
                    single_word: flag("single_word", false),
                    lstrip: flag("lstrip", false),
                    rstrip: flag("rstrip", false),
                    normalized: flag("normalized", !special),
                    special,
                },
            ))
        })
        .collect()
}

/// `{"<img>": 151646, ...}`: the older form, which does not say what is special.
fn by_content(ids: &Value, named: &[String]) -> Result<BTreeMap<u32, AddedToken>> {
    let Some(entries) = ids.as_object() else { return Ok(BTreeMap::new()) };
    entries
        .iter()
        .map(|(content, id)| {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
                Error::data("cannot read an added token")
                    .key(content)
                    .expected("an id")
                    .found(id.to_string())
            })?;
            Ok((id, AddedToken::from(content.clone(), named.contains(content))))
        })
        .collect()
}

/// Tokens with a role, and `additional_special_tokens`; each a string or an object with `content`.
fn named_tokens(file: &Value) -> Vec<String> {
    let roles = NAMED.iter().filter_map(|key| file.get(key));
    let more = file.get("additional_special_tokens").and_then(Value::as_array);
    roles
        .chain(more.into_iter().flatten())
        .filter_map(|v| v.get("content").unwrap_or(v).as_str())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(config: &Value) -> Result<AddedTokens> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        AddedTokens::from_dir(dir.path())
    }

    #[test]
    fn flags_default_as_in_transformers() {
        let config = json!({"added_tokens_decoder": {
            "7": {"content": "<x>", "special": true}, "9": {"content": "word", "lstrip": true}}});
        let tokens = read(&config).unwrap();
        assert_eq!(tokens.at(7), Some(&AddedToken::from("<x>", true)));
        let word = tokens.at(9).unwrap();
        assert!(word.lstrip && word.normalized && !word.special && tokens.at(8).is_none());
    }

    #[test]
    fn the_older_form_takes_what_is_special_from_the_map() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, v: Value| std::fs::write(dir.path().join(name), v.to_string());
        write("added_tokens.json", json!({"<img>": 3, "<think>": 4})).unwrap();
        let map = json!({"eos_token": {"content": "<e>"}, "additional_special_tokens": ["<img>"]});
        write("special_tokens_map.json", map).unwrap();
        let tokens = AddedTokens::from_dir(dir.path()).unwrap();
        assert!(tokens.at(3).unwrap().special && !tokens.at(4).unwrap().special);
        assert_eq!(tokens.named, ["<e>", "<img>"]);
    }

    #[test]
    fn a_damaged_entry_is_named() {
        let e = read(&json!({"added_tokens_decoder": {"7": {"text": "<x>"}}})).unwrap_err();
        let text = e.to_string();
        assert!(text.contains("added_tokens_decoder.7") && text.contains("tokenizer_config.json"));
        assert!(read(&json!({"added_tokens_decoder": {"x": {"content": "a"}}})).is_err());
        assert!(read(&json!({"added_tokens_decoder": 3})).is_err());
    }
}
