//! Options of the evaluation during training. Opens no file.

use super::*;

/// Options that decide how answers are drawn.
const DRAWN: [&str; 2] = ["eval_temperature", "eval_top_p"];

/// Whether there are rows to measure on.
pub(super) fn has_rows(o: &Options) -> bool {
    !o.paths("eval_dataset").is_empty() || float(o, "val_split_ratio") > 0.0
}

pub(super) fn validation(o: &Options) -> Result<ValidationSettings> {
    let when = when(o)?;
    if !has_rows(o) {
        let names = [
            "eval_strategy",
            "eval_steps",
            "eval_on_start",
            "num_generations_eval",
            "eval_max_rows",
            "eval_do_sample",
            "eval_temperature",
            "eval_top_p",
        ];
        let hint = "add --eval_dataset FILE or --val_split_ratio 0.1";
        useless(o, &names, "there are no rows to measure on", hint)?;
    }
    let greedy = !samples(o)?;
    let own = sampling(o)?;
    let num_generations = match (greedy, o.count("num_generations_eval")) {
        (_, Some(n)) => n,
        (true, None) => 1,
        // TRL's default.
        (false, None) => count(o, "num_generations"),
    };
    Ok(ValidationSettings {
        when,
        on_start: o.flag("eval_on_start"),
        sampling: SamplingSettings {
            greedy,
            temperature: o.float("eval_temperature").unwrap_or(own.temperature),
            top_p: o.float("eval_top_p").unwrap_or(own.top_p),
            ..own
        },
        num_generations,
        max_rows: o.count("eval_max_rows"),
        batch_size: count(o, "eval_batch_size"),
    })
}

/// Whether answers are drawn: if that is asked for, or if something was given that only makes sense
/// then (several answers per row, as TRL has it).
fn samples(o: &Options) -> Result<bool> {
    let several = o.count("num_generations_eval").is_some_and(|n| n > 1);
    let given = DRAWN.iter().find(|n| o.changed(n));
    if o.choice_of_bool("eval_do_sample") == Some(false) {
        let hint = "leave one of the two out";
        useless(o, &DRAWN, "eval_do_sample is false", hint)?;
        if several {
            return Err(o
                .wrong("num_generations_eval", "greedy answers to one prompt are all the same")
                .expected("1, or eval_do_sample true"));
        }
    }
    for name in DRAWN {
        if o.float(name).is_some_and(|v| v <= 0.0) {
            return Err(o
                .wrong(name, format!("wrong value for `{name}`"))
                .expected("a number above 0")
                .hint("answers are greedy without this option"));
        }
    }
    Ok(o.flag("eval_do_sample") || several || given.is_some())
}

/// When rewards are measured.
pub(super) fn when(o: &Options) -> Result<When> {
    let strategy = o.text("eval_strategy").unwrap_or("no");
    if strategy != "steps" {
        useless(o, &["eval_steps"], "eval_strategy is not steps", "add --eval_strategy steps")?;
    }
    Ok(match strategy {
        "steps" => When::Steps(count(o, "eval_steps")),
        "epoch" => When::Epochs,
        _ => When::Last,
    })
}
