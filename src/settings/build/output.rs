//! Options of the run's folder and of checkpoints. Opens no file.

use super::*;

pub(super) fn output(o: &Options) -> Result<OutputSettings> {
    if let Some(id) = o.text("run_id")
        && (id.contains(['/', '\\']) || id == "." || id == "..")
    {
        return Err(o.wrong("run_id", "a run id is one folder name").expected("no slashes"));
    }
    let resume = match o.get("resume_from_checkpoint") {
        Value::Bool(true) => Resume::Latest,
        Value::Text(path) => Resume::From(PathBuf::from(path)),
        _ => Resume::No,
    };
    if resume != Resume::No && o.flag("overwrite_output_dir") {
        return Err(o
            .wrong("overwrite_output_dir", "a run cannot be resumed and overwritten")
            .hint("give one of overwrite_output_dir and resume_from_checkpoint"));
    }
    let save = save(o)?;
    let best = best(o, save)?;
    Ok(OutputSettings {
        run_dir: run_dir(o),
        overwrite: o.flag("overwrite_output_dir"),
        save,
        save_total_limit: o.count("save_total_limit"),
        save_only_model: o.flag("save_only_model"),
        load_best: o.command() == Command::Train && o.flag("load_best_model_at_end"),
        best,
        resume,
    })
}

/// When checkpoints are saved.
fn save(o: &Options) -> Result<When> {
    let strategy = o.text("save_strategy").unwrap_or("steps");
    if strategy != "steps" {
        let hint = "leave one of the two out";
        useless(o, &["save_steps"], "save_strategy is another one", hint)?;
    }
    if strategy == "no" {
        let names = ["save_total_limit", "save_only_model"];
        useless(o, &names, "no checkpoint is saved", "leave out --save_strategy no")?;
    }
    match (strategy, o.count("save_steps").unwrap_or(0)) {
        ("no", _) => Ok(When::Never),
        ("epoch", _) => Ok(When::Epochs),
        ("best", _) if o.command() == Command::Train => Ok(When::Better),
        ("best", _) => Err(o
            .wrong("save_strategy", "nothing is measured that could be best")
            .expected("steps, epoch or no")),
        (_, 0) => Ok(When::Last),
        (_, n) => Ok(When::Steps(n)),
    }
}

/// What the best checkpoint is the best in.
fn best(o: &Options, save: When) -> Result<Option<BestSettings>> {
    if o.command() != Command::Train {
        return Ok(None);
    }
    let load = o.flag("load_best_model_at_end");
    let given = o.text("metric_for_best_model");
    if given.is_none() && !load && save != When::Better {
        let hint = "add --metric_for_best_model";
        useless(o, &["greater_is_better"], "no checkpoint is called the best", hint)?;
        return Ok(None);
    }
    let key = match (given, load) {
        (Some(_), _) => "metric_for_best_model",
        (None, true) => "load_best_model_at_end",
        (None, false) => "save_strategy",
    };
    if !super::validation::has_rows(o) {
        return Err(o
            .wrong(key, "nothing is measured that could be best")
            .expected("--eval_dataset or --val_split_ratio"));
    }
    if load {
        loadable(o, save)?;
    }
    // transformers' default is the loss; here the reward is what a run is for.
    let metric = given.unwrap_or("reward");
    let metric = format!("eval_{}", metric.strip_prefix("eval_").unwrap_or(metric));
    let greater = o.choice_of_bool("greater_is_better").unwrap_or(!metric.ends_with("loss"));
    Ok(Some(BestSettings { metric, greater }))
}

/// The best model can be loaded only if it was saved: a checkpoint is due only where one was measured
/// (as transformers asks it).
fn loadable(o: &Options, save: When) -> Result<()> {
    let measured = super::validation::when(o)?;
    let fits = match (save, measured) {
        (When::Better, _) => true,
        (When::Steps(save), When::Steps(eval)) => save.is_multiple_of(eval),
        (a, b) => a == b && a != When::Never && a != When::Last,
    };
    if fits {
        return Ok(());
    }
    Err(o
        .wrong("load_best_model_at_end", "checkpoints are not saved where rewards are measured")
        .expected("save_strategy best; or eval_strategy and save_strategy the same, with save_steps a multiple of eval_steps")
        .hint("add --eval_strategy steps --save_strategy best"))
}
