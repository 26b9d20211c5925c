//! What `--reward_funcs` may name besides built-in rewards: a function of a Python file or module, or a
//! program. Says what is meant and how it is started; starts nothing.

use crate::base::{Error, Result};
use crate::reward::settings::ProcessSettings;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs a Python function; see the file.
const WORKER: &str = include_str!("worker.py");

/// A reward that another program computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `rewards.py:function`.
    File {
        /// The file.
        file: PathBuf,
        /// The function in it.
        function: String,
    },
    /// `package.module:function`.
    Module {
        /// The module, as Python imports it.
        module: String,
        /// The function in it.
        function: String,
    },
    /// `program:./score`.
    Program {
        /// A path, or a name that is looked up in `PATH`.
        program: PathBuf,
    },
}

impl Source {
    /// Reads one word of `--reward_funcs`; None if it has the form of a built-in reward's name.
    ///
    /// # Errors
    /// If it is neither.
    pub fn parse(word: &str) -> Result<Option<Source>> {
        let wrong = |what: &str| {
            Error::usage(what).key("reward_funcs").found(format!("`{word}`")).expected(
                "a built-in reward, file.py:function, package.module:function or program:path",
            )
        };
        let Some((before, after)) = word.rsplit_once(':') else {
            let file = word.ends_with(".py") || word.contains('/');
            return match file {
                true => Err(wrong("the reward has no function")
                    .hint("name it after a colon: my_rewards.py:my_function")),
                false => Ok(None),
            };
        };
        if before.is_empty() || after.is_empty() {
            return Err(wrong("the reward is named by half"));
        }
        if before == "program" {
            return Ok(Some(Source::Program { program: after.into() }));
        }
        let function = after.to_string();
        if before.ends_with(".py") {
            let file = PathBuf::from(before);
            return match file.is_file() {
                true => Ok(Some(Source::File { file, function })),
                false => Err(wrong("there is no such file of rewards").file(file)),
            };
        }
        let module = before
            .split('.')
            .all(|part| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_'));
        match module {
            true => Ok(Some(Source::Module { module: before.into(), function })),
            false => Err(wrong("the reward is neither a file nor a module")),
        }
    }

    /// Names that it may have in metrics, the one that TRL gives first.
    pub fn names(&self) -> [String; 2] {
        let stem =
            |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        match self {
            Source::File { file, function } => {
                [function.clone(), format!("{}_{function}", stem(file))]
            }
            Source::Module { module, function } => {
                [function.clone(), format!("{}_{function}", module.replace('.', "_"))]
            }
            Source::Program { program } => [stem(program), format!("program_{}", stem(program))],
        }
    }

    /// The command that starts it.
    pub(super) fn command(&self, settings: &ProcessSettings) -> Command {
        let python = |kind: &str, source: &dyn AsRef<std::ffi::OsStr>, function: &str| {
            let mut command = Command::new(&settings.python);
            command.args(["-c", WORKER, kind]).arg(source).arg(function);
            command
        };
        match self {
            Source::File { file, function } => python("file", file, function),
            Source::Module { module, function } => python("module", module, function),
            Source::Program { program } => Command::new(program),
        }
    }

    /// Whether it says that it is ready before it answers.
    pub(super) fn greets(&self) -> bool {
        !matches!(self, Source::Program { .. })
    }

    /// Why it could not be started, for the person who asked for it.
    pub(super) fn not_started(&self, settings: &ProcessSettings, e: &std::io::Error) -> Error {
        match self {
            Source::Program { program } => {
                Error::usage("the program of a reward cannot be started")
                    .file(program)
                    .key("reward_funcs")
                    .found(e.to_string())
                    .hint("it must be executable, and its first line must say what runs it (#!)")
            }
            _ => Error::usage("Python cannot be started")
                .file(&settings.python)
                .key("python")
                .found(e.to_string())
                .hint("name the Python that runs your rewards: --python path/to/python3"),
        }
    }
}

/// A name for each word: its own for those without a source, and for sources the first that is free, so
/// that no two rewards share a column.
pub fn unique_names(words: &[(&str, Option<&Source>)]) -> Vec<String> {
    let mut taken: Vec<String> =
        words.iter().filter(|(_, s)| s.is_none()).map(|(word, _)| word.to_string()).collect();
    let mut out = Vec::new();
    for (word, source) in words {
        let Some(source) = source else {
            out.push(word.to_string());
            continue;
        };
        let [short, long] = source.names();
        let numbered = (2..).map(|i| format!("{long}_{i}"));
        let mut candidates = [short, long.clone()].into_iter().chain(numbered);
        let name = candidates.find(|name| !taken.contains(name)).unwrap_or(long);
        taken.push(name.clone());
        out.push(name);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_built_in_rewards_functions_or_programs() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mine.py");
        std::fs::write(&file, "").unwrap();
        let word = format!("{}:score", file.display());
        let parsed = Source::parse(&word).unwrap().unwrap();
        assert_eq!(parsed, Source::File { file, function: "score".into() });
        assert_eq!(parsed.names(), ["score", "mine_score"]);
        assert_eq!(Source::parse("accuracy").unwrap(), None);
        let module = Source::parse("a.b_1:f").unwrap().unwrap();
        assert_eq!(module.names(), ["f", "a_b_1_f"]);
        let program = Source::parse("program:./bin/score.sh").unwrap().unwrap();
        assert_eq!(program, Source::Program { program: "./bin/score.sh".into() });
        assert_eq!(program.names()[0], "score");
        let refused = [
            ("gone.py:f", "no such file"),
            ("mine.py", "name it after a colon"),
            ("org/model", "name it after a colon"),
            (":f", "by half"),
            ("mine.py:", "by half"),
            ("http://x:f", "neither a file nor a module"),
        ];
        for (word, why) in refused {
            let e = Source::parse(word).unwrap_err();
            assert_eq!(e.exit_code(), 2, "{word}");
            assert!(e.one_line().contains(why), "{word}: {}", e.one_line());
        }
    }

    #[test]
    fn names_are_made_unique() {
        let module = |m: &str, f: &str| Source::Module { module: m.into(), function: f.into() };
        let (a, b, c) = (module("a", "format"), module("b", "f"), module("c", "f"));
        let words = [
            ("a:format", Some(&a)),
            ("format", None),
            ("b:f", Some(&b)),
            ("c:f", Some(&c)),
            ("c:f", Some(&c)),
        ];
        assert_eq!(unique_names(&words), ["a_format", "format", "f", "c_f", "c_f_2"]);
    }
}
