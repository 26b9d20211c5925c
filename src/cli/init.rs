//! `grpo-rt init`: trains a tokenizer on the texts that a model will read and write, and makes a
//! model with random weights for it. Looks at texts only; images need not be there yet.

use std::path::Path;

use serde_json::Value;

use super::Outcome;
use super::output::{check_output_dir, counted, print, print_warning};
use crate::base::{Error, Result};
use crate::io::dataset::{DatasetOptions, each_row};
use crate::io::text::SpecialTokens;
use crate::io::text::bpe::{TrainedTokenizer, train_bpe_for};
use crate::model::config::VlmConfig;
use crate::model::create::create_model;
use crate::model::families::preset::PRESETS;
use crate::model::families::{NewTokenizer, family_named, parameters};
use crate::options::Options;
use crate::settings::InitSettings;

/// Columns of a data file whose texts a model reads or writes: those of the data loader.
const TEXT_COLUMNS: [&str; 8] =
    ["question", "problem", "prompt", "query", "answer", "solution", "conversations", "messages"];
/// Keys of a turn and of a part that hold its text.
const TEXT_KEYS: [&str; 3] = ["value", "content", "text"];

/// What surrounds every question in the chat template, and the tags that rewards look for. Counted
/// once per row, so that they become few tokens.
const AROUND_A_ROW: &str = "system\nYou are a helpful assistant.\nuser\nassistant\n\
    <think></think> <answer></answer>\n<think> </think>\n<answer> </answer>";

/// Makes a model.
///
/// # Errors
/// Wrong options, files that cannot be read, no text at all, or a folder that is not empty or cannot
/// be written.
pub fn init(options: &Options) -> Result<Outcome> {
    let s = InitSettings::from_options(options)?;
    let family = family_named(&s.family)?;
    check_preset(options, &s)?;
    check_output_dir(&s.output_dir, s.overwrite)?;
    let specials = SpecialTokens::of(family.name())?;
    let tokenizer = train_bpe_for(specials, texts(&s)?.into_iter(), s.vocab_size)?;
    let ids = NewTokenizer {
        vocab_size: tokenizer.tokenizer().vocab_size(),
        id: &|token| tokenizer.special_id(token),
    };
    let config = VlmConfig::preset(family, &s.preset, &ids)?;
    let parameters: usize = parameters(&config).iter().map(|p| p.len()).sum();
    create_model(&s.output_dir, config, &tokenizer, s.seed)?;
    if !s.quiet {
        print(&format!(
            "wrote {}: {} {}, {:.1} million parameters, a tokenizer of {} tokens\n",
            s.output_dir.display(),
            s.family,
            s.preset,
            parameters as f64 / 1e6,
            tokenizer.tokenizer().vocab_size()
        ));
    }
    warn_of_few_tokens(&tokenizer, s.vocab_size);
    Ok(Outcome::Done)
}

/// Before anything is read: a preset that does not exist.
fn check_preset(options: &Options, s: &InitSettings) -> Result<()> {
    let vocab_size = SpecialTokens::of(&s.family)?.min_vocab_size();
    let placeholder = NewTokenizer { vocab_size, id: &|_| Ok(0) };
    VlmConfig::preset(family_named(&s.family)?, &s.preset, &placeholder).map(|_| ()).map_err(|_| {
        options
            .wrong("preset", format!("unknown preset `{}`", s.preset))
            .expected(format!("one of: {}", PRESETS.each_ref().map(|p| p.name).join(", ")))
    })
}

/// A small text has few pairs of letters that occur twice; the model is then made for what came out.
fn warn_of_few_tokens(tokenizer: &TrainedTokenizer, wanted: usize) {
    let made = tokenizer.tokenizer().vocab_size();
    if made < wanted {
        print_warning(&format!(
            "the texts gave {made} tokens, not {wanted}: there is no further pair that occurs twice"
        ));
    }
}

/// Everything the tokenizer is trained on.
fn texts(s: &InitSettings) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for file in &s.text_files {
        texts.push(read(file)?);
    }
    let (split, columns) = (s.split.clone(), s.columns.clone());
    let options = DatasetOptions { split, columns, ..DatasetOptions::default() };
    for file in &s.data_files {
        let before = texts.len();
        let bad = data_texts(file, &options, &mut texts)?;
        if bad > 0 {
            print_warning(&format!(
                "{}: {} without a text that was understood",
                file.display(),
                counted(bad, "row")
            ));
        }
        if texts.len() == before {
            return Err(Error::data("the data file has no texts")
                .file(file)
                .expected(format!("rows with one of: {}", TEXT_COLUMNS.join(", "))));
        }
    }
    if texts.iter().all(|t| t.trim().is_empty()) {
        return Err(Error::data("the new tokenizer has nothing to be trained on")
            .expected("files with text in them")
            .found("empty files"));
    }
    Ok(texts)
}

fn read(file: &Path) -> Result<String> {
    let bytes =
        std::fs::read(file).map_err(|e| Error::io("cannot read the text file", file, &e))?;
    String::from_utf8(bytes).map_err(|e| {
        Error::data("the text file is not UTF-8")
            .file(file)
            .found(format!("a bad byte at position {}", e.utf8_error().valid_up_to()))
            .hint("save the file as UTF-8")
    })
}

/// Adds the texts of every row of a data file or folder; returns how many rows had none.
fn data_texts(file: &Path, options: &DatasetOptions, texts: &mut Vec<String>) -> Result<usize> {
    let mut silent = 0;
    let bad = each_row(&file.display().to_string(), options, &mut |row| {
        let before = texts.len();
        for column in TEXT_COLUMNS {
            if let Some(value) = row.get(column) {
                add_texts(value, texts);
            }
        }
        match texts.len() == before {
            true => silent += 1,
            false => texts.push(AROUND_A_ROW.into()),
        }
    })?;
    Ok(bad + silent)
}

/// The texts of a column: itself, or those of its turns and their parts. Numbers and boxes as
/// answers are written as JSON, as the data loader does.
fn add_texts(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::String(text) => texts.push(text.replace("<image>", "")),
        Value::Array(items) => items.iter().for_each(|v| add_texts(v, texts)),
        Value::Object(turn) => {
            TEXT_KEYS.iter().filter_map(|k| turn.get(*k)).for_each(|v| add_texts(v, texts));
        }
        Value::Number(number) => texts.push(number.to_string()),
        Value::Bool(_) | Value::Null => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_every_layout_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.jsonl");
        let rows = concat!(
            "\u{feff}{\"image\": \"no/such.png\", \"question\": \"Q1\", \"answer\": 3}\n\n",
            "{\"conversations\": [{\"from\": \"human\", \"value\": \"<image>Q2\"}, {\"from\": \"gpt\", \"value\": \"A2\"}]}\n",
            "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image\"}, {\"type\": \"text\", \"text\": \"Q3\"}]}]}\n",
            "{\"image\": \"only\"}\nno json\n"
        );
        std::fs::write(&file, rows).unwrap();
        let mut texts = Vec::new();
        assert_eq!(data_texts(&file, &DatasetOptions::default(), &mut texts).unwrap(), 2);
        texts.retain(|t| t != AROUND_A_ROW);
        assert_eq!(texts, ["Q1", "3", "Q2", "A2", "Q3"]);
    }

    #[test]
    fn a_text_file_must_be_text() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.txt");
        std::fs::write(&file, [b'a', 0xff]).unwrap();
        let error = read(&file).unwrap_err();
        assert!(error.exit_code() == 3 && error.to_string().contains("position 1"), "{error}");
        assert_eq!(read(&dir.path().join("b.txt")).unwrap_err().exit_code(), 4);
    }
}
