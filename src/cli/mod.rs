//! Floor 15: the commands. Splits the command line, answers `--help` and `--version`, prints errors
//! and gives the exit code. What a command does beyond talking to the user is on lower floors.

mod bench; // a second of measurement for `doctor`
mod convert; // published data sets to rows
mod demo; // from nothing to a report, as a list of ordinary commands
mod demo_report; // report.html of the demo
mod doctor; // what this machine has and can do
mod doctor_devices; // the devices' part of it
mod eval; // rewards of a model on a data file
mod infer; // answers to one chat
mod init; // a new model and its tokenizer
mod inspect; // what a data set holds
mod machine; // processor, memory and instruction sets as the system tells them
mod make_shapes; // a data set of drawn shapes
mod merge; // an adapter made part of its base
mod ops; // every op on a device: agreement and rate
mod output; // text for people, folders for results
mod plan; // the memory of a run, before there is one
mod push; // a model to the hub
mod runs; // runs on disk
mod serve; // a chat endpoint
mod sft; // supervised fine-tuning
mod trace; // intermediate tensors of one pass
mod train; // GRPO

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::base::{Error, Result};
use crate::options::{Command, Options, help, overview, wants_help};
use crate::settings::{check_paths, resolve_data_sets, resolve_repositories};
use crate::train::evaluation::EvalReport;
use output::{print, print_error};

/// What a command came to.
#[derive(Debug)]
enum Outcome {
    /// Everything is said and written.
    Done,
    /// A run, in this folder.
    Run(PathBuf),
    /// Rewards that were measured.
    Measured(EvalReport),
}

/// Runs the program on the words after its name. Errors go to stderr with all their parts; the exit
/// code is that of [`Error::exit_code`].
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match run_words(args.into_iter().collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn run_words(args: Vec<OsString>) -> Result<()> {
    let words: Vec<String> = args.into_iter().map(word).collect::<Result<_>>()?;
    if let Some(text) = told(&words)? {
        print(&text);
        return Ok(());
    }
    let (command, taken) = Command::split(&words)?;
    let options = Options::parse(command, &words[taken..])?;
    if !options.flag("quiet") {
        options.notes().iter().for_each(|line| eprintln!("{line}"));
    }
    start_pool(options.count("threads"))?;
    execute(&options).map(|_| ())
}

/// Arguments are matched, printed and written to files as text.
fn word(arg: OsString) -> Result<String> {
    arg.into_string().map_err(|arg| {
        Error::usage("an argument is not Unicode")
            .found(arg.to_string_lossy())
            .hint("rename the file, or give the path of a folder above it as the current folder")
    })
}

/// The text of a command line that asks to be told something: help and version win over everything
/// else on the line, so that help is there when it is needed.
fn told(words: &[String]) -> Result<Option<String>> {
    let version = |w: &String| w == "--version" || w == "-V";
    if words.first().is_some_and(version) {
        return Ok(Some(format!("grpo-rt {}\n", env!("CARGO_PKG_VERSION"))));
    }
    // `help train` is `train --help`.
    let asked_first = words.first().is_some_and(|w| w == "help");
    let rest = if asked_first { &words[1..] } else { words };
    let all = match wants_help(rest) {
        Some(all) => all,
        None if asked_first => rest.last().is_some_and(|w| w == "all"),
        None => return Ok(None),
    };
    let named: Vec<String> = rest
        .iter()
        .take_while(|w| !w.starts_with('-'))
        .filter(|w| !(asked_first && *w == "all"))
        .cloned()
        .collect();
    if named.is_empty() {
        return Ok(Some(overview()));
    }
    let begin = format!("{} ", named.join(" "));
    if Command::ALL.iter().any(|c| c.name().starts_with(&begin)) {
        let actions = Command::ALL.iter().filter(|c| c.name().starts_with(&begin));
        return Ok(Some(actions.map(|c| help(*c, all)).collect::<Vec<_>>().join("\n")));
    }
    let (command, _) = Command::split(&named)?;
    Ok(Some(help(command, all)))
}

/// Fixes the number of threads of everything that follows.
fn start_pool(threads: Option<usize>) -> Result<()> {
    let mut pool = rayon::ThreadPoolBuilder::new();
    if let Some(threads) = threads {
        pool = pool.num_threads(threads);
    }
    pool.build_global().map_err(|e| {
        Error::device("cannot start the threads")
            .expected(threads.map_or("one per core".into(), |n| format!("{n} threads")))
            .found(e.to_string())
            .hint("lower --threads")
    })
}

/// Runs a command with parsed options, after the threads were started.
fn execute(options: &Options) -> Result<Outcome> {
    let options = &resolve_repositories(&resolve_data_sets(options)?)?;
    check_paths(options)?;
    match options.command() {
        Command::Demo => demo::demo(options),
        Command::Train => train::train(options),
        Command::Sft => sft::sft(options),
        Command::Eval => eval::eval(options),
        Command::Infer => infer::infer(options),
        Command::Serve => serve::serve(options),
        Command::Plan => plan::plan(options),
        Command::Init => init::init(options),
        Command::MakeShapes => make_shapes::make_shapes(options),
        Command::Inspect => inspect::inspect(options),
        Command::ConvertVivqaX => convert::vivqa_x(options),
        Command::Merge => merge::merge(options),
        Command::Push => push::push(options),
        Command::Trace => trace::trace(options),
        Command::RunsList => runs::list(options),
        Command::RunsShow => runs::show(options),
        Command::RunsCompare => runs::compare(options),
        Command::RunsReport => runs::report(options),
        Command::RunsDelete => runs::delete(options),
        Command::RunsLogs => runs::logs(options),
        Command::RunsCheckpoints => runs::checkpoints(options),
        Command::RunsFetch => runs::fetch(options),
        Command::RunsServe => runs::serve(options),
        Command::Ops => ops::ops(options),
        Command::Doctor => doctor::doctor(options),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> Option<String> {
        let words: Vec<String> = line.split_whitespace().map(String::from).collect();
        told(&words).unwrap()
    }

    #[test]
    fn help_and_version_are_found_anywhere() {
        assert_eq!(said("train --seed 1"), None);
        assert!(said("--version").unwrap().starts_with("grpo-rt "));
        for line in ["--help", "-h", "help"] {
            assert_eq!(said(line).unwrap(), overview(), "{line}");
        }
        for line in ["train --help", "train --wrong 1 -h", "help train"] {
            assert_eq!(said(line).unwrap(), help(Command::Train, false), "{line}");
        }
        for line in ["train --help all", "help train all"] {
            assert_eq!(said(line).unwrap(), help(Command::Train, true), "{line}");
        }
        assert_eq!(said("data make-shapes -h").unwrap(), help(Command::MakeShapes, false));
        let actions = [Command::MakeShapes, Command::Inspect, Command::ConvertVivqaX];
        let actions = actions.map(|c| help(c, false));
        for line in ["data --help", "help data"] {
            assert_eq!(said(line).unwrap(), actions.join("\n"), "{line}");
        }
        for line in ["data convert -h", "help data convert", "data convert vivqa_x --help"] {
            assert_eq!(said(line).unwrap(), actions[2], "{line}");
        }
        assert!(told(&["trian".into(), "--help".into()]).is_err());
    }
}
