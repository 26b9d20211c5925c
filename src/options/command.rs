//! The commands of the program, as data: name, one line for the help, and nothing of what they do.

use super::suggest::nearest;
use crate::base::{Error, Result};

/// A command of `grpo-rt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Command {
    /// A whole run on a tiny model and drawn shapes.
    Demo,
    /// GRPO training.
    Train,
    /// Supervised fine-tuning.
    Sft,
    /// Accuracy of a model on a data file.
    Eval,
    /// Answers of a model to one prompt.
    Infer,
    /// An OpenAI-compatible chat endpoint.
    Serve,
    /// The memory of a GRPO run, from configuration and settings alone.
    Plan,
    /// A new model with random weights.
    Init,
    /// A data set of drawn shapes with questions.
    MakeShapes,
    /// What a data set holds and what a model would see of it.
    Inspect,
    /// The published ViVQA-X files as rows.
    ConvertVivqaX,
    /// An adapter made part of its base model.
    Merge,
    /// A model to the hub.
    Push,
    /// Intermediate values of one forward (and backward) pass.
    Trace,
    /// Which runs there are, and in which state.
    RunsList,
    /// Everything of one run.
    RunsShow,
    /// Several runs side by side.
    RunsCompare,
    /// The report of a run, written again.
    RunsReport,
    /// The files of runs, removed.
    RunsDelete,
    /// What the console of a run said.
    RunsLogs,
    /// The checkpoints of a run.
    RunsCheckpoints,
    /// A model of a run, copied.
    RunsFetch,
    /// A local web page of runs.
    RunsServe,
    /// Which ops a device computes as defined, and how fast.
    Ops,
    /// What this machine can do.
    Doctor,
}

impl Command {
    /// Every command, in the order of the help.
    pub const ALL: &'static [Command] = &[
        Command::Demo,
        Command::Train,
        Command::Sft,
        Command::Eval,
        Command::Infer,
        Command::Serve,
        Command::Plan,
        Command::Init,
        Command::MakeShapes,
        Command::Inspect,
        Command::ConvertVivqaX,
        Command::Merge,
        Command::Push,
        Command::Trace,
        Command::RunsList,
        Command::RunsShow,
        Command::RunsCompare,
        Command::RunsReport,
        Command::RunsDelete,
        Command::RunsLogs,
        Command::RunsCheckpoints,
        Command::RunsFetch,
        Command::RunsServe,
        Command::Ops,
        Command::Doctor,
    ];

    /// The words that are typed: one, or up to three for the actions of `data` and `runs`.
    pub fn name(self) -> &'static str {
        match self {
            Command::Demo => "demo",
            Command::Train => "train",
            Command::Sft => "sft",
            Command::Eval => "eval",
            Command::Infer => "infer",
            Command::Serve => "serve",
            Command::Plan => "plan",
            Command::Init => "init",
            Command::MakeShapes => "data make-shapes",
            Command::Inspect => "data inspect",
            Command::ConvertVivqaX => "data convert vivqa-x",
            Command::Merge => "merge",
            Command::Push => "push",
            Command::Trace => "trace",
            Command::RunsList => "runs list",
            Command::RunsShow => "runs show",
            Command::RunsCompare => "runs compare",
            Command::RunsReport => "runs report",
            Command::RunsDelete => "runs delete",
            Command::RunsLogs => "runs logs",
            Command::RunsCheckpoints => "runs checkpoints",
            Command::RunsFetch => "runs fetch",
            Command::RunsServe => "runs serve",
            Command::Ops => "ops",
            Command::Doctor => "doctor",
        }
    }

    /// One line for the list of commands.
    pub fn about(self) -> &'static str {
        match self {
            Command::Demo => "trains a tiny model on drawn shapes, from nothing to a report",
            Command::Train => "trains a vision-language model with GRPO",
            Command::Sft => "trains on given answers (supervised fine-tuning)",
            Command::Eval => "measures a model's rewards on a data file",
            Command::Infer => "answers prompts with pictures, on the engine of training",
            Command::Serve => "answers chats over HTTP, as OpenAI's endpoint does",
            Command::Plan => "says what memory a training run takes, and what fits a device",
            Command::Init => "makes a new model with random weights and its tokenizer",
            Command::MakeShapes => "draws a data set of shapes with questions and answers",
            Command::Inspect => {
                "says what a data set holds, what is broken, what a model sees of it"
            }
            Command::ConvertVivqaX => "turns the published ViVQA-X files into training rows",
            Command::Merge => "makes an adapter part of its base model",
            Command::Push => "uploads a model with its card by the hub's client",
            Command::Trace => "writes the intermediate tensors of one pass, for comparison",
            Command::RunsList => "lists the runs below a folder: state, step, reward, duration",
            Command::RunsShow => {
                "shows everything of a run: changed settings, figures, checkpoints, alerts"
            }
            Command::RunsCompare => {
                "holds runs against each other: settings that differ, figures, curves"
            }
            Command::RunsReport => "writes the report.html of a run again",
            Command::RunsDelete => "removes what runs wrote, and nothing else",
            Command::RunsLogs => "prints what the console of a run said",
            Command::RunsCheckpoints => {
                "lists the checkpoints of a run: step, size, whole or damaged"
            }
            Command::RunsFetch => "copies a checkpoint or the final model out of a run",
            Command::RunsServe => "shows runs on a local web page: curves, samples, comparison",
            Command::Ops => "checks or measures every op on a device",
            Command::Doctor => "says what this machine has and can do",
        }
    }

    /// The command that the words of a command line begin with, and how many words it took.
    ///
    /// Errors name the nearest command.
    pub fn split(words: &[String]) -> Result<(Command, usize)> {
        let said: Vec<String> = words.iter().take(3).map(|w| w.replace('_', "-")).collect();
        let first = words.first().map_or("", String::as_str);
        let parts = |command: &Command| command.name().split(' ').collect::<Vec<_>>();
        let begins = |command: &Command, n: usize| {
            parts(command).iter().take(n).eq(said.iter().take(n)) && said.len() >= n
        };
        for &command in Command::ALL {
            let n = parts(&command).len();
            if begins(&command, n) {
                return Ok((command, n));
            }
        }
        let names = || Command::ALL.iter().map(|c| c.name());
        // As many words as lead to some command.
        let known = (1..=said.len()).rev().find(|n| Command::ALL.iter().any(|c| begins(c, *n)));
        if let Some(n) = known {
            let actions: Vec<&str> =
                Command::ALL.iter().filter(|c| begins(c, n)).map(|c| c.name()).collect();
            return Err(Error::usage(format!("`{}` needs an action", said[..n].join(" ")))
                .expected(format!("one of: {}", actions.join(", ")))
                .found(said.get(n).map_or("nothing".into(), |word| format!("`{word}`")))
                .hint(format!("for example: grpo-rt {} --help", actions[0])));
        }
        let near = nearest(first, names());
        let all: Vec<&str> = names().collect();
        let error = Error::usage(if first.is_empty() {
            "no command given".to_string()
        } else {
            format!("unknown command `{first}`")
        })
        .expected(format!("one of: {}", all.join(", ")));
        Err(match near.first() {
            Some(name) => error.hint(format!("did you mean `{name}`?")),
            None => error.hint("grpo-rt --help lists what each command does"),
        })
    }
}
