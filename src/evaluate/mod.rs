//! Floor 13: `grpo-rt eval`: asks every model of the line-up, writes answers as they come, and makes tables, results
//! and the report of them. An evaluation that was interrupted goes on where its answers end, to the same
//! answers: random keys count completions.

pub mod answers; // lines of answers.jsonl
mod candidates; // what is measured in one go
mod page; // report.html
pub mod paired; // two models on the same rows
pub mod results; // results.json
pub mod statistics; // means, intervals, pass@k
pub mod tables; // from answers to figures

use crate::base::{Error, ErrorKind, Result};
use crate::io::atomic::write_atomic;
use crate::io::dataset::{Loaded, Row};
use crate::options::Options;
use crate::settings::{EvalSettings, ModelSettings, check_paths};
use crate::train::evaluation::{EvalReport, Evaluation};
use crate::train::generation::{reward_set, rollout_settings};
use crate::train::interrupt;
use crate::train::rows::load_rows;
use crate::train::workspace::Prepared;
use answers::Answer;
use candidates::{Candidate, Lineup, Source, earlier, lineup};
use results::{Logged, Results};
use serde_json::Value;
use statistics::Precision;
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use tables::Making;

/// Options as they were, in the folder of an evaluation.
const CONFIG: &str = "config.resolved.yaml";
/// Options that do not change any answer.
const FREE: [&str; 18] = [
    "resume",
    "threads",
    "memory_budget",
    "vision_cache_size",
    "quiet",
    "eval_batch_size",
    "max_num_seqs",
    "max_num_batched_tokens",
    "out",
    "out_dir",
    "report_rows",
    "confidence_level",
    "bootstrap_samples",
    "group_by",
    "pass_at_k",
    "config",
    "matmul",
    "device",
];

/// What an evaluation came to.
#[derive(Debug)]
pub struct Measured {
    /// Of the model of the options.
    pub report: EvalReport,
    /// Everything.
    pub results: Results,
}

/// Measures what the options name.
///
/// # Errors
/// If models or data cannot be read, files cannot be written, or the user stopped the program.
pub fn evaluate(options: &Options) -> Result<Measured> {
    let s = EvalSettings::from_options(options)?;
    check_paths(options)?;
    interrupt::watch();
    let lineup = lineup(&s)?;
    let loaded = load_rows(&s.data)?;
    // Before anything is asked: a column may not be there.
    let columns: Vec<(String, Vec<String>)> =
        s.measures.group_by.iter().map(|c| column(&loaded.rows, c)).collect::<Result<_>>()?;
    let done = prepare_dir(options, &s)?;
    let mut files = Files::open(&s, &done)?;
    let mut all = Vec::new();
    let mut report = None;
    let mut figures = Vec::new();
    for (i, candidate) in lineup.all.iter().enumerate() {
        let single = lineup.all.len() == 1 && s.measures.dir.is_none();
        let name = if single { "" } else { candidate.name.as_str() };
        let (answers, its) = match &candidate.source {
            Source::Earlier(file) => (earlier(file)?, None),
            Source::Model(model) => {
                let former = done.iter().map(|(_, a)| a).filter(|a| a.model == name);
                let asked = Asked { settings: &s, model, name, former: former.cloned().collect() };
                let (answers, its) = asked.ask(&loaded, &mut files)?;
                (answers, Some(its))
            }
        };
        if let Some(its) = its {
            figures.push((candidate.name.clone(), its.figures.clone()));
            if i == lineup.main {
                report = Some(its);
            }
        }
        all.push(answers);
    }
    let mut report = report.ok_or_else(|| Error::internal("the model was not measured"))?;
    report.skipped += loaded.skipped_rows;
    if report.samples == 0 && report.skipped > 0 {
        return Err(Error::data("no row of the data set could be read")
            .found(format!("{} bad rows", report.skipped))
            .hint("the warnings above name them"));
    }
    let results = results(options, &s, &lineup, &columns, &all, (&report, figures))?;
    if let Some(dir) = &s.measures.dir {
        let text = serde_json::to_string_pretty(&results.to_json()).expect("a JSON value prints");
        write_atomic(dir.join("results.json"), text.as_bytes())?;
        let names: Vec<&str> = lineup.all.iter().map(|c| c.name.as_str()).collect();
        let shown =
            page::Shown { results: &results, rows: &loaded.rows, answers: &all, names: &names };
        let html = page::render(&shown, s.measures.report_rows);
        write_atomic(dir.join("report.html"), html.as_bytes())?;
    }
    Ok(Measured { report, results })
}

fn results(
    options: &Options,
    s: &EvalSettings,
    lineup: &Lineup,
    columns: &[(String, Vec<String>)],
    all: &[Vec<Answer>],
    (report, figures): (&EvalReport, Logged),
) -> Result<Results> {
    let rewards: Vec<String> = report.per_reward.iter().map(|(name, _)| name.clone()).collect();
    let m = &s.measures;
    let making = Making {
        rewards: &rewards,
        precision: Precision { level: m.confidence, draws: m.draws, seed: s.seed },
        at_k: &m.pass_at_k,
        format: s.rewards.told.answer_format,
        columns,
    };
    let pairs = || lineup.all.iter().zip(all);
    let models = pairs().map(|(c, a)| tables::model(&c.name, a, &making)).collect();
    let mut versus = Vec::new();
    if let Some(first) = lineup.reference {
        let before = (lineup.all[first].name.as_str(), all[first].as_slice());
        for (i, (c, a)) in pairs().enumerate().filter(|(i, _)| *i != first) {
            let v = tables::versus(before, (&c.name, a), &making);
            if v.rewards.is_empty() {
                return Err(nothing_in_common(&lineup.all[first], &lineup.all[i]));
            }
            versus.push(v);
        }
    }
    Ok(Results {
        settings: settings_of(options),
        level: m.confidence,
        main: lineup.all[lineup.main].name.clone(),
        skipped: report.skipped,
        models,
        versus,
        figures,
    })
}

fn nothing_in_common(a: &Candidate, b: &Candidate) -> Error {
    Error::data("two evaluations have nothing in common")
        .expected("rows of the same id, question and answer, scored by the same reward")
        .found(format!("`{}` and `{}`", a.name, b.name))
        .hint("measure both on the same data with the same rewards")
}

fn settings_of(options: &Options) -> Vec<(String, String)> {
    let yaml = options.to_yaml();
    let lines = yaml.lines().filter(|l| !l.starts_with('#'));
    let pairs = lines.filter_map(|l| l.split_once(": "));
    pairs.map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

/// A column with its value in every row, as text.
fn column(rows: &[Row], name: &str) -> Result<(String, Vec<String>)> {
    if !rows.is_empty() && rows.iter().all(|r| !r.columns.contains_key(name)) {
        let mut known: Vec<&String> = rows[0].columns.keys().collect();
        known.sort();
        let known: Vec<&str> = known.into_iter().map(String::as_str).collect();
        return Err(Error::usage(format!("no row has a column `{name}`"))
            .key("group_by")
            .expected(format!("one of: {}", known.join(", "))));
    }
    let text = |row: &Row| match row.columns.get(name) {
        None | Some(Value::Null) => "(none)".to_string(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    Ok((name.to_string(), rows.iter().map(text).collect()))
}

/// Makes or checks the folder; returns the good lines of an evaluation that goes on.
fn prepare_dir(options: &Options, s: &EvalSettings) -> Result<Vec<(String, Answer)>> {
    let Some(dir) = &s.measures.dir else { return Ok(Vec::new()) };
    let (config, file) = (dir.join(CONFIG), dir.join("answers.jsonl"));
    if file.is_file() && !s.measures.resume {
        return Err(Error::usage("the folder holds an evaluation already")
            .file(dir)
            .key("out_dir")
            .hint("go on with it with --resume, or give another --out_dir"));
    }
    std::fs::create_dir_all(dir)
        .map_err(|e| Error::io("cannot create the folder", dir, &e).key("out_dir"))?;
    let mut kept = Vec::new();
    if file.is_file() {
        check_same(options, &config)?;
        kept = whole_rows(answers::read(&file)?, s.num_samples);
    }
    write_atomic(&config, options.to_yaml().as_bytes())?;
    let text: String = kept.iter().map(|(line, _)| format!("{line}\n")).collect();
    write_atomic(&file, text.as_bytes())?;
    Ok(kept)
}

/// The lines of rows that have all their samples: what was interrupted in between is asked again.
fn whole_rows(lines: Vec<(String, Answer)>, samples: usize) -> Vec<(String, Answer)> {
    let same =
        |a: &(String, Answer), b: &(String, Answer)| a.1.row == b.1.row && a.1.model == b.1.model;
    let whole = lines.chunk_by(same).filter(|row| row.len() == samples);
    whole.flatten().cloned().collect()
}

/// Refuses to go on with other options than before.
fn check_same(options: &Options, config: &Path) -> Result<()> {
    let before = std::fs::read_to_string(config)
        .map_err(|e| Error::io("cannot tell how this evaluation was begun", config, &e))?;
    let now = options.to_yaml();
    let free = |line: &&str| FREE.iter().any(|f| line.split(':').next() == Some(f));
    let lines = |text: &'_ str| -> Vec<String> {
        text.lines().filter(|l| !free(l)).map(str::to_string).collect()
    };
    let (old, new) = (lines(&before), lines(&now));
    match new.iter().find(|line| !old.contains(line)) {
        None => Ok(()),
        Some(line) => {
            let key = line.split(':').next().unwrap_or_default();
            let was = old.iter().find(|l| l.split(':').next() == Some(key));
            Err(Error::usage("the evaluation was begun with other options")
                .key(key)
                .expected(was.cloned().unwrap_or_else(|| "no such option".into()))
                .found(line)
                .hint("use the same options, or another --out_dir"))
        }
    }
}

/// Where answers are written as they come.
struct Files {
    open: Vec<(PathBuf, BufWriter<File>)>,
}

impl Files {
    fn open(s: &EvalSettings, done: &[(String, Answer)]) -> Result<Files> {
        let mut open = Vec::new();
        if let Some(path) = &s.out {
            let file = File::create(path)
                .map_err(|e| Error::io("cannot write the answers", path, &e).key("out"))
                .map_err(|e| e.hint("give a file in a folder that exists and can be written"))?;
            let mut file = BufWriter::new(file);
            for (line, _) in done {
                writeln!(file, "{line}")
                    .map_err(|e| Error::io("cannot write the answers", path, &e))?;
            }
            open.push((path.clone(), file));
        }
        if let Some(dir) = &s.measures.dir {
            let path = dir.join("answers.jsonl");
            let file = File::options().append(true).open(&path);
            let file = file.map_err(|e| Error::io("cannot write the answers", &path, &e))?;
            open.push((path, BufWriter::new(file)));
        }
        Ok(Files { open })
    }

    fn write(&mut self, lines: &[(Value, Answer)]) -> Result<()> {
        for (path, file) in &mut self.open {
            let wrong = |e: std::io::Error| Error::io("cannot write the answers", &*path, &e);
            for (line, _) in lines {
                writeln!(file, "{line}").map_err(wrong)?;
            }
            file.flush().map_err(wrong)?;
        }
        Ok(())
    }
}

/// A model that is asked.
struct Asked<'a> {
    settings: &'a EvalSettings,
    model: &'a ModelSettings,
    name: &'a str,
    /// Answers of a former session, row after row.
    former: Vec<Answer>,
}

impl Asked<'_> {
    /// Answers and scores the rows that are left.
    fn ask(self, loaded: &Loaded, files: &mut Files) -> Result<(Vec<Answer>, EvalReport)> {
        let s = self.settings;
        let mut prepared = Prepared::read(self.model, &s.machine)?;
        let limit = s.sampling.max_completion_length;
        let rewards = reward_set(&s.rewards, limit, prepared.config.family)?;
        prepared.bound_prompts(s.data.max_prompt_length, limit)?;
        let w = prepared.open(self.model, &s.machine, s.seed)?;
        let names: Vec<String> = rewards.names().iter().map(|n| n.to_string()).collect();
        let evaluation = Evaluation {
            rollout: rollout_settings(&w, &s.sampling, s.seed),
            workspace: &w,
            rewards: &rewards,
            samples: s.num_samples,
            batch: s.batch_size,
            vision_weights: 0,
            strict: s.data.strict,
        };
        let mut all = self.former;
        let (begun, first) = (all.last().map_or(0, |a| a.row), all.len());
        let rows = loaded.rows.get(begun..).unwrap_or_default();
        let numbers: Vec<(usize, &Row)> =
            rows.iter().enumerate().map(|(i, r)| (begun + i + 1, r)).collect();
        let mut next = 0;
        let ran = evaluation.run_from(rows, first, |kept, scored| {
            let mut batch = Vec::with_capacity(kept.len());
            for row in kept {
                // Rows come in order; those left out in between were bad.
                let at = numbers[next..].iter().position(|(_, r)| std::ptr::eq(*r, *row));
                let at = next + at.ok_or_else(|| Error::internal("a row was answered twice"))?;
                batch.push(numbers[at]);
                next = at + 1;
            }
            let batch = answers::Batch {
                model: self.name,
                rewards: &names,
                samples: s.num_samples,
                rows: &batch,
            };
            let lines = answers::lines(&batch, scored);
            files.write(&lines)?;
            all.extend(lines.into_iter().map(|(_, answer)| answer));
            Ok(())
        });
        let mut report = ran.map_err(|e| match (e.kind(), &s.measures.dir) {
            (ErrorKind::Interrupted, Some(_)) => e.hint("continue with --resume"),
            (ErrorKind::Interrupted, None) => e.hint("with --out_dir it could be continued"),
            _ => e,
        })?;
        if first > 0 {
            recount(&mut report, &all);
        }
        Ok((all, report))
    }
}

/// Figures of all answers, those of a former session included.
fn recount(report: &mut EvalReport, all: &[Answer]) {
    for (name, mean) in &mut report.per_reward {
        let scores: Vec<f64> = all.iter().filter_map(|a| a.score(name)).collect();
        *mean = scores.iter().sum::<f64>() / scores.len() as f64;
    }
    report.accuracy = report.per_reward.first().map_or(0.0, |r| r.1);
    report.samples = all.len();
    let share = |n: usize| n as f64 / all.len() as f64;
    report.mean_length = share(all.iter().map(|a| a.tokens).sum());
    report.clipped = share(all.iter().filter(|a| a.truncated).count());
    // Rows that have no answer were bad, in whichever session.
    let answered: HashSet<usize> = all.iter().map(|a| a.row).collect();
    let last = all.iter().map(|a| a.row).max().unwrap_or(0);
    report.skipped = report.skipped.max(last - answered.len());
}
