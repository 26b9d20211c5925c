//! What is reported and where, from the options: targets that contradict each other and options that would
//! do nothing are errors. Starts no tracker.

use super::*;
use crate::track::WandbSettings;

pub(super) fn logging(o: &Options) -> Result<LoggingSettings> {
    let targets = o.texts("report_to");
    let named = |name: &str| targets.iter().any(|t| t == name);
    for alone in ["none", "all"] {
        if named(alone) && targets.len() > 1 {
            return Err(o
                .wrong("report_to", format!("`{alone}` beside other targets"))
                .expected(format!("{alone} alone")));
        }
    }
    let to = |name: &str| named(name) || named("all");
    if !to("tensorboard") {
        let (why, hint) = ("no TensorBoard events are written", "--report_to tensorboard");
        useless(o, &["logging_dir"], why, hint)?;
    }
    if !to("wandb") {
        let (why, hint) = ("nothing is sent to Weights & Biases", "--report_to wandb");
        useless(o, &["project"], why, hint)?;
    }
    let tracked = to("wandb") || to("tensorboard");
    let quiet = o.flag("quiet");
    let trains = o.command() == Command::Train;
    let completions = trains && o.flag("log_completions");
    if trains && !completions {
        let why = "no completions are printed";
        let names = ["num_completions_to_print", "log_unique_prompts"];
        useless(o, &names, why, "add --log_completions")?;
    }
    if completions && quiet && !tracked {
        return Err(o
            .wrong("log_completions", "`quiet` prints no completions, and no tracker shows them")
            .hint("give one of the two; completions/ in the run's folder has all of them"));
    }
    if o.flag("tui") && quiet {
        return Err(o
            .wrong("tui", "`quiet` shows nothing, and `tui` fills the terminal")
            .hint("give one of the two"));
    }
    if !o.flag("health_alerts") {
        let why = "no alerts are raised";
        useless(o, &["stop_on_alert"], why, "leave out --health_alerts false")?;
    }
    let run_name = o.text("run_name").map(str::to_string);
    let most = o.count("num_completions_to_print");
    Ok(LoggingSettings {
        print_trainable: o.flag("print_trainable"),
        steps: count(o, "logging_steps"),
        first_step: o.flag("logging_first_step"),
        tensorboard_dir: to("tensorboard")
            .then(|| o.path("logging_dir").unwrap_or_else(|| run_dir(o).join("runs"))),
        // The record that resuming, the report and the registry of runs are made from.
        jsonl: !named("none"),
        wandb: to("wandb").then(|| WandbSettings {
            run_name: run_name.clone(),
            project: o.text("project").map(str::to_string),
            python: path(o, "python"),
            required: named("wandb"),
            completions,
            unique_prompts: trains && o.flag("log_unique_prompts"),
            multimodal: !trains || o.flag("log_multimodal"),
        }),
        run_name,
        print_completions: if completions && !quiet { most } else { Some(0) },
        track_completions: if completions { most.unwrap_or(usize::MAX) } else { 0 },
        unique_prompts: trains && o.flag("log_unique_prompts"),
        multimodal: !trains || o.flag("log_multimodal"),
        health_alerts: o.flag("health_alerts"),
        stop_on_alert: o.texts("stop_on_alert"),
        tui: o.flag("tui"),
        quiet,
    })
}
