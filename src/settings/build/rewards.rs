//! Options of rewards. Builds no reward.

use std::time::Duration;

use super::*;
use crate::options::Source;
use crate::reward::RewardSettings as Told;
use crate::reward::boxes::BOX_SPACES;
use crate::reward::settings::{
    ANSWER_FORMATS, COMPATS, JudgeSettings, LengthSettings, ProcessSettings, StepSettings,
};
use crate::settings::tasks::{Task, task_named};

pub(super) fn rewards(o: &Options) -> Result<RewardSettings> {
    let task = o.text("task_type").and_then(task_named);
    let of_task = match (task, o.source("reward_funcs")) {
        (Some(task), Source::Default) => task.rewards,
        _ => &[],
    };
    let (names, of_task): (Vec<String>, Vec<f64>) = match of_task {
        [] => (o.texts("reward_funcs"), Vec::new()),
        rewards => rewards.iter().map(|(name, weight)| (name.to_string(), *weight)).unzip(),
    };
    let names: Vec<String> = names.into_iter().map(|name| meant(o, task, name)).collect();
    if let Some(twice) = names.iter().enumerate().find(|(i, n)| names[..*i].contains(n)) {
        let what = format!("the reward `{}` stands twice", twice.1);
        return Err(o.wrong("reward_funcs", what).hint("use reward_weights to weigh it"));
    }
    let mut weights = o.floats("reward_weights");
    if weights.is_empty() {
        weights = if of_task.is_empty() { vec![1.0; names.len()] } else { of_task };
    }
    if weights.len() != names.len() {
        return Err(o
            .wrong("reward_weights", "the numbers of reward_weights and reward_funcs differ")
            .expected(format!("{} weights, for {}", names.len(), names.join(", "))));
    }
    weigh(o, "format_reward_weight", &names, &mut weights, true)?;
    weigh(o, "accuracy_reward_weight", &names, &mut weights, false)?;
    let named = |wanted: &[&str]| names.iter().any(|n| wanted.contains(&n.as_str()));
    if !named(&["reasoning"]) {
        let hint = "add reasoning to reward_funcs";
        useless(o, &["match_threshold", "match_order_weight"], "no reward matches steps", hint)?;
    }
    if !named(&["reasoning", "explanation"]) {
        let hint = "add reasoning or explanation to reward_funcs";
        useless(o, &["sentence_encoder"], "no reward compares sentences", hint)?;
    }
    Ok(RewardSettings { names, weights, told: told(o)? })
}

/// The reward that a name means in a task; a method of comparison keeps `accuracy` what it is.
fn meant(o: &Options, task: Option<&Task>, name: String) -> String {
    let general = name == "accuracy" && o.changed("accu_reward_method");
    let meaning = task.filter(|_| !general).and_then(|t| t.meanings.iter().find(|m| m.0 == name));
    meaning.map_or(name, |(_, means)| means.to_string())
}

/// Rewards that pay the form of an answer; every other pays what it says.
const FORMS: [&str; 7] = [
    "format",
    "box_format",
    "think_answer_graded",
    "soft_format",
    "strict_format",
    "xmlcount",
    "repetition",
];

/// Takes over a weight that names no reward but its part: the form of an answer, or the answer.
fn weigh(
    o: &Options,
    option: &str,
    names: &[String],
    weights: &mut [f64],
    form: bool,
) -> Result<()> {
    let Some(weight) = o.float(option) else { return Ok(()) };
    let of_part: Vec<usize> =
        (0..names.len()).filter(|i| FORMS.contains(&names[*i].as_str()) == form).collect();
    match of_part[..] {
        [one] => {
            weights[one] = weight;
            Ok(())
        }
        _ => Err(o
            .wrong(option, "it is not clear which reward this weight is for")
            .expected(format!("one reward of the {}", if form { "form" } else { "answer" }))
            .hint(format!("use --reward_weights, in the order of {}", names.join(", ")))),
    }
}

/// The value of a table that an option names; its default if it is unset.
fn named<T: Copy + Default>(o: &Options, name: &str, table: &[(&str, T)]) -> T {
    let row = table.iter().find(|(n, _)| Some(*n) == o.text(name));
    row.map(|(_, value)| *value).unwrap_or_default()
}

fn seconds(o: &Options, name: &str) -> Result<Duration> {
    // Three years are forever, and can be multiplied.
    Ok(Duration::from_secs_f64(above_zero(o, name)?.clamp(1e-3, 1e8)))
}

/// What the built-in rewards are told.
fn told(o: &Options) -> Result<Told> {
    let truthful = |v: String| v.eq_ignore_ascii_case("true");
    let debug = std::env::var("DEBUG_MODE").is_ok_and(truthful);
    let log = std::env::var_os("LOG_PATH").map_or_else(|| "debug_log.txt".into(), PathBuf::from);
    Ok(Told {
        max_completion_length: count(o, "max_completion_length"),
        answer_format: match (o.text("task_type").and_then(task_named), o.text("answer_format")) {
            (Some(task), None) => task.answer_format,
            _ => named(o, "answer_format", &ANSWER_FORMATS),
        },
        answer_tag: true,
        compat: named(o, "reward_compat", &COMPATS),
        accuracy_method: text(o, "accu_reward_method"),
        box_space: named(o, "box_space", &BOX_SPACES),
        length: LengthSettings {
            soft_overlong_cache: o.count("soft_overlong_cache"),
            cosine_max_length: o.count("cosine_max_length"),
            cosine_wrong: [
                float(o, "cosine_min_length_value_wrong"),
                float(o, "cosine_max_length_value_wrong"),
            ],
            cosine_correct: [
                float(o, "cosine_min_length_value_correct"),
                float(o, "cosine_max_length_value_correct"),
            ],
            repetition_n_grams: count(o, "repetition_n_grams"),
            repetition_max_penalty: float(o, "repetition_max_penalty"),
        },
        steps: StepSettings {
            sentence_encoder: o.path("sentence_encoder"),
            match_threshold: o.float("match_threshold"),
            match_order_weight: float(o, "match_order_weight"),
        },
        judge: judge(o)?,
        process: ProcessSettings {
            python: path(o, "python"),
            workers: count(o, "reward_workers"),
            time_limit: seconds(o, "reward_timeout")?,
        },
        debug_log: debug.then_some(log),
    })
}

fn judge(o: &Options) -> Result<Option<JudgeSettings>> {
    let Some(url) = o.text("judge_url") else {
        let names = ["judge_model"];
        useless(o, &names, "nobody is asked without judge_url", "add --judge_url")?;
        return Ok(None);
    };
    if !(url.starts_with("http://") || url.starts_with("https://")) {
        return Err(o
            .wrong("judge_url", "the judge has no address")
            .expected("the base address of an OpenAI-compatible endpoint")
            .hint("such as http://localhost:11434/v1 for Ollama"));
    }
    let Some(model) = o.text("judge_model") else {
        return Err(o.wrong("judge_model", "the judge has no name").hint("name the model to ask"));
    };
    Ok(Some(JudgeSettings {
        url: url.trim_end_matches('/').to_string(),
        model: model.to_string(),
        key_variable: text(o, "judge_key_variable"),
        time_limit: seconds(o, "judge_timeout")?,
        retries: count(o, "judge_retries"),
        concurrency: count(o, "judge_concurrency"),
    }))
}
