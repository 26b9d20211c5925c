//! The rows of a data set that the settings name: read, split, and the bad ones named. Encodes nothing.

use crate::base::{Error, Philox, Result, RngDomain};
use crate::io::dataset::{self, DatasetOptions, Loaded, Row};
use crate::settings::DataSettings;
use crate::settings::tasks::{Task, text_or_file, without_last_line_end};
use crate::track::terminal::tell;
use std::collections::HashSet;

/// Reads the rows that the settings name; bad rows are named on the console.
///
/// # Errors
/// If a file is missing, has no good row, or has a bad one and the settings are strict.
pub fn load_rows(s: &DataSettings) -> Result<Loaded> {
    let loaded = read_rows(s)?;
    name_skipped(&loaded.skipped);
    Ok(loaded)
}

/// [`load_rows`] without a word on the console.
///
/// # Errors
/// As [`load_rows`].
pub fn read_rows(s: &DataSettings) -> Result<Loaded> {
    let files: Vec<String> = s.files.iter().map(|f| f.display().to_string()).collect();
    let prompt = |key: &str, given: &Option<String>, of_task: fn(&Task) -> &'static str| {
        let of_task = || s.task.map(|t| without_last_line_end(of_task(t)).to_owned());
        given.as_ref().map(|text| text_or_file(key, text)).transpose().map(|g| g.or_else(of_task))
    };
    dataset::load(
        &files.join(":"),
        &DatasetOptions {
            image_folders: s.image_folders.clone(),
            question_template: prompt("question_template", &s.question_template, |t| t.question)?,
            system_prompt: prompt("system_prompt", &s.system_prompt, |t| t.system)?,
            strict: s.strict,
            max_rows: s.max_rows,
            split: s.split.clone(),
            measures: s.measures,
            saved_by_datasets: s.saved_by_datasets,
            columns: s.columns.clone(),
            filter: s.filter.clone(),
            shares: s.shares.clone(),
            seed: s.seed,
            unanswered: false,
        },
    )
}

/// Rows to train on and rows to measure: a share `ratio` of all, drawn by `seed`; both stay in file order.
///
/// # Errors
/// If one of the two would be empty.
pub fn split_rows(rows: Vec<Row>, ratio: f64, seed: u64) -> Result<(Vec<Row>, Vec<Row>)> {
    let count = ((rows.len() as f64 * ratio).round() as usize).max(1);
    if count >= rows.len() {
        return Err(Error::usage("too few rows are left to train on")
            .key("val_split_ratio")
            .expected("a smaller share, or more rows")
            .found(format!("{count} of {} rows", rows.len())));
    }
    let mut order: Vec<usize> = (0..rows.len()).collect();
    // The orders of epochs are streams (epoch, 0).
    Philox::new(seed, RngDomain::Shuffle).stream(0, 1).shuffle(&mut order);
    let measured: HashSet<usize> = order.into_iter().take(count).collect();
    let (eval, train): (Vec<_>, Vec<_>) =
        rows.into_iter().enumerate().partition(|(i, _)| measured.contains(i));
    let plain = |v: Vec<(usize, Row)>| v.into_iter().map(|(_, row)| row).collect();
    Ok((plain(train), plain(eval)))
}

/// Names the first bad rows and counts the rest.
pub fn name_skipped(skipped: &[Error]) {
    const NAMED: usize = 5;
    for e in skipped.iter().take(NAMED) {
        tell(&format!("skipped: {}", e.one_line()));
    }
    if skipped.len() > NAMED {
        tell(&format!("skipped: {} more rows", skipped.len() - NAMED));
    }
}
