//! Options of rows. Opens no file.

use super::*;
use crate::io::dataset::{Filter, QUESTION_PLACES, Share};
use crate::settings::tasks::{names_a_file, task_named};

pub(super) fn data(o: &Options) -> Result<DataSettings> {
    let files = o.paths("dataset_name");
    check_format(o, "dataset_name")?;
    check_format(o, "eval_dataset")?;
    let image_folders = o.paths("image_folders");
    if image_folders.len() > 1 && image_folders.len() != files.len() {
        return Err(o
            .wrong("image_folders", "the numbers of image folders and data files differ")
            .expected(format!("1 or {} folders", files.len())));
    }
    let shares = o.texts("dataset_shares");
    let shares: Vec<Share> = shares.iter().map(|t| Share::parse(t)).collect::<Result<_>>()?;
    if shares.len() > 1 && shares.len() != files.len() {
        return Err(o
            .wrong("dataset_shares", "the numbers of shares and data files differ")
            .expected(format!("1 or {} shares", files.len())));
    }
    let question_template = o.text("question_template").map(str::to_string);
    let placeless =
        |t: &String| !names_a_file(t) && QUESTION_PLACES.iter().all(|place| !t.contains(place));
    if question_template.as_ref().is_some_and(placeless) {
        return Err(o
            .wrong("question_template", "the template has no place for the question")
            .expected("a text with {Question} in it, or the name of a file"));
    }
    Ok(DataSettings {
        files,
        image_folders,
        split: o.text("dataset_split").map(str::to_string),
        measures: o.command() == Command::Eval,
        saved_by_datasets: o.flag("use_huggingface_dataset"),
        columns: columns(o)?,
        filter: Filter::parse(&o.texts("filter"))?,
        shares,
        seed: data_seed(o),
        task: o.text("task_type").and_then(task_named),
        val_split_ratio: ratio(o)?,
        question_template,
        system_prompt: o.text("system_prompt").map(str::to_string),
        strict: o.flag("strict_data"),
        max_rows: o.count("max_rows"),
        shuffle: o.flag("shuffle_dataset"),
        max_prompt_length: o.count("max_prompt_length"),
    })
}

/// Pairs of column names, as `ours=theirs`.
pub(super) fn columns(o: &Options) -> Result<Vec<(String, String)>> {
    let pair = |text: &String| {
        let both = text.split_once('=').map(|(a, b)| (a.trim(), b.trim()));
        match both.filter(|(a, b)| !a.is_empty() && !b.is_empty()) {
            Some((ours, theirs)) => Ok((ours.to_string(), theirs.to_string())),
            None => Err(o
                .wrong("column", "a pair of column names is wrong")
                .expected("our name, =, and the file's: image=decoded_image")
                .hint("several pairs follow each other, with spaces between")),
        }
    };
    let pairs = o.texts("column").iter().map(pair).collect::<Result<Vec<_>>>()?;
    let twice = pairs.iter().enumerate().find(|(i, p)| pairs[..*i].iter().any(|q| q.0 == p.0));
    match twice {
        Some((_, (ours, _))) => {
            Err(o.wrong("column", format!("`{ours}` is given two columns")).expected("one"))
        }
        None => Ok(pairs),
    }
}

/// `val_split_ratio`, which makes evaluation rows of its own.
fn ratio(o: &Options) -> Result<f64> {
    if o.command() != Command::Train {
        return Ok(0.0);
    }
    let ratio = below_one(o, "val_split_ratio")?;
    if ratio > 0.0 && !o.paths("eval_dataset").is_empty() {
        return Err(o
            .wrong("val_split_ratio", "`val_split_ratio` and `eval_dataset` contradict each other")
            .hint("give one of the two"));
    }
    Ok(ratio)
}

/// The evaluation rows of `train`: as the training rows, but all of them and in file order.
pub(super) fn eval_data(o: &Options) -> Result<Option<DataSettings>> {
    let files = o.paths("eval_dataset");
    if files.is_empty() {
        useless(o, &["eval_split"], "nothing is measured", "add --eval_dataset")?;
        return Ok(None);
    }
    let data = data(o)?;
    if data.image_folders.len() > 1 {
        return Err(o
            .wrong("eval_dataset", "several image_folders leave open which is for `eval_dataset`")
            .hint("give one folder for all, or measure with grpo-rt eval after the run"));
    }
    let split = o.text("eval_split").map(str::to_string);
    let own = DataSettings { files, split, measures: true, val_split_ratio: 0.0, ..data };
    Ok(Some(DataSettings { shuffle: false, max_rows: None, shares: Vec::new(), ..own }))
}
