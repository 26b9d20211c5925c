//! Options of rows. Opens no file.

use super::*;

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
    let question_template = o.text("question_template").map(str::to_string);
    let places = ["{Question}", "{question}"];
    if question_template.as_ref().is_some_and(|t| places.iter().all(|p| !t.contains(p))) {
        return Err(o
            .wrong("question_template", "the template has no place for the question")
            .expected("a text with {Question} in it"));
    }
    Ok(DataSettings {
        files,
        image_folders,
        question_template,
        system_prompt: o.text("system_prompt").map(str::to_string),
        strict: o.flag("strict_data"),
        max_rows: o.count("max_rows"),
        shuffle: o.flag("shuffle_dataset"),
        max_prompt_length: o.count("max_prompt_length"),
    })
}

/// The evaluation rows of `train`: as the training rows, but all of them and in file order.
pub(super) fn eval_data(o: &Options) -> Result<Option<DataSettings>> {
    let files = o.paths("eval_dataset");
    if files.is_empty() {
        return Ok(None);
    }
    let data = data(o)?;
    if data.image_folders.len() > 1 {
        return Err(o
            .wrong("eval_dataset", "several image_folders leave open which is for `eval_dataset`")
            .hint("give one folder for all, or measure with grpo-rt eval after the run"));
    }
    Ok(Some(DataSettings { files, shuffle: false, max_rows: None, ..data }))
}
