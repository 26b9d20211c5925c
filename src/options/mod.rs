//! Floor 8: options as data: one table ([`OPTIONS`]) makes the flags, the configuration keys, the
//! environment variables, `--help`, the documentation page and the spelling suggestions. Nothing
//! here acts on an option; `settings` turns them into checked structs.
//!
//! Where an option is given several times, flags win over the environment, the environment over
//! the configuration file, the file over the default. Within the flags the last one wins.

mod command;
mod file;
mod foreign;
mod help;
mod kind;
mod source;
mod suggest;
mod table;

use std::path::{Path, PathBuf};

pub use command::Command;
pub use foreign::{FOREIGN, Foreign};
pub use help::{docs_markdown, help, overview};
pub use kind::{Kind, Value};
pub use source::Source;
pub use table::{FAMILY_NAMES, GROUPS, OPTIONS, Opt, REWARDS, TASK_NAMES};

use crate::base::{Error, Result};
use crate::device::images::BUILD_VARIABLES;
use crate::io::video::ffmpeg;
use suggest::nearest;

/// Environment variables of options start with this, followed by the name in capitals.
pub const ENV_PREFIX: &str = "GRPO_RT_";
/// Variables with this beginning belong to the tests, not to options; nor are those of the build options,
/// nor the one that names ffmpeg.
pub const ENV_OF_TESTS: &str = "GRPO_RT_TEST_";

/// The options of one command, every one with its value and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    command: Command,
    /// Beside [`OPTIONS`]; options that the command does not take stay unset.
    values: Vec<(Value, Source)>,
    /// What is here in place of options of other programs that were given.
    notes: Vec<String>,
}

impl Options {
    /// Reads the options of `command` from `args` (what follows the command's words), from the
    /// environment and from the file that `--config` names.
    ///
    /// # Errors
    /// [`crate::base::ErrorKind::Usage`] for an unknown option (with the nearest names), an option
    /// of another command, a value of the wrong kind, a missing option that the command needs, and
    /// what [`Error::io`] says when the configuration file cannot be read.
    pub fn parse(command: Command, args: &[String]) -> Result<Options> {
        // A variable that is not Unicode cannot be one of ours.
        let environment = std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.to_string_lossy().into_owned())));
        Self::resolve(command, args, environment)
    }

    /// [`Options::parse`] with a given environment.
    pub fn resolve(
        command: Command,
        args: &[String],
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Options> {
        let flags = read_flags(command, args)?;
        let variables = read_environment(command, environment)?;
        let given = |name: &str| {
            let last = flags.iter().rev().find(|g| g.opt.name == name);
            last.or_else(|| variables.iter().find(|g| g.opt.name == name))
        };
        let from_file = match given("config").map(|g| &g.value) {
            Some(Value::Text(path)) => read_file(command, Path::new(path))?,
            _ => Vec::new(),
        };
        let mut options = Options::defaults(command);
        let mut translator = foreign::Translator::new(command);
        let mut layers = Vec::new();
        for layer in [from_file, variables, flags] {
            layers.push(translator.translate(layer)?);
        }
        let (implied, notes) = translator.finish();
        options.notes = notes;
        for layer in std::iter::once(implied).chain(layers) {
            for Given { opt, value, source } in layer {
                options.values[index(opt.name)] = (value, source);
            }
        }
        for opt in OPTIONS.iter().filter(|o| o.required.contains(&command)) {
            if *options.get(opt.name) == Value::Unset {
                return Err(Error::usage(format!("`{}` needs `{}`", command.name(), opt.name))
                    .expected(opt.help)
                    .hint(format!("add --{} {}", opt.name, opt.kind.placeholder())));
            }
        }
        Ok(options)
    }

    /// The defaults of `command`.
    pub fn defaults(command: Command) -> Options {
        let value = |opt: &Opt| match opt.default_for(command) {
            "" => Value::Unset,
            _ if !opt.accepted_by(command) => Value::Unset,
            text => read_texts(opt, &[text.to_string()])
                .unwrap_or_else(|_| panic!("the default of `{}` is not of its kind", opt.name)),
        };
        let values = OPTIONS.iter().map(|o| (value(o), Source::Default)).collect();
        Options { command, values, notes: Vec::new() }
    }

    /// The command these options are for.
    pub fn command(&self) -> Command {
        self.command
    }
    /// What this program has in place of the options of other programs that were given: a line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
    /// The value of an option. Panics if there is no option of that name: names are the program's.
    pub fn get(&self, name: &str) -> &Value {
        &self.values[index(name)].0
    }
    /// Where the value came from.
    pub fn source(&self, name: &str) -> &Source {
        &self.values[index(name)].1
    }
    /// Whether the value was given for this command and differs from the default.
    pub fn changed(&self, name: &str) -> bool {
        let i = index(name);
        !matches!(self.values[i].1, Source::Default | Source::Run(_))
            && self.values[i].0 != Options::defaults(self.command).values[i].0
    }
    /// A [`Kind::Bool`] option; unset is false.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name) == &Value::Bool(true)
    }
    /// A [`Kind::Bool`] option that may be unset.
    pub fn choice_of_bool(&self, name: &str) -> Option<bool> {
        match self.get(name) {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }
    /// A [`Kind::Int`] or [`Kind::Bytes`] option.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.get(name) {
            Value::Int(i) => Some(*i),
            _ => None,
        }
    }
    /// An option of whole numbers that are never negative, such as a count.
    pub fn count(&self, name: &str) -> Option<usize> {
        self.int(name).and_then(|i| usize::try_from(i).ok())
    }
    /// A [`Kind::Float`] option.
    pub fn float(&self, name: &str) -> Option<f64> {
        match self.get(name) {
            Value::Float(f) => Some(*f),
            _ => None,
        }
    }
    /// An option of text.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Value::Text(t) => Some(t),
            _ => None,
        }
    }
    /// A [`Kind::Path`] option.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }
    /// A list of texts; unset is empty.
    pub fn texts(&self, name: &str) -> Vec<String> {
        let text = |v: &Value| match v {
            Value::Text(t) => Some(t.clone()),
            _ => None,
        };
        match self.get(name) {
            Value::List(items) => items.iter().filter_map(text).collect(),
            _ => Vec::new(),
        }
    }
    /// A list of paths; unset is empty.
    pub fn paths(&self, name: &str) -> Vec<PathBuf> {
        self.texts(name).into_iter().map(PathBuf::from).collect()
    }
    /// A list of numbers; unset is empty.
    pub fn floats(&self, name: &str) -> Vec<f64> {
        let number = |v: &Value| match v {
            Value::Float(f) => Some(*f),
            _ => None,
        };
        match self.get(name) {
            Value::List(items) => items.iter().filter_map(number).collect(),
            _ => Vec::new(),
        }
    }

    /// These options with other values for some, as if given last on the command line.
    ///
    /// # Errors
    /// An unknown option or a value of the wrong kind.
    pub fn with(&self, changes: &[(&str, String)]) -> Result<Options> {
        let mut changed = self.clone();
        for (name, value) in changes {
            let opt = find(self.command, name)?;
            let source = Source::Flag(format!("--{name}"));
            let Given { value, source, .. } = read_given(opt, std::slice::from_ref(value), source)?;
            changed.values[index(opt.name)] = (value, source);
        }
        Ok(changed)
    }

    /// These options with another value for one of them, as if it had stood where the old one did.
    pub fn replaced(mut self, name: &str, value: Value) -> Options {
        self.values[index(name)].0 = value;
        self
    }

    /// These options with a value of a run's resolved options (what [`Options::to_yaml`] wrote into `file`).
    /// One that is null there, or is no value any more, leaves the option as it is.
    pub fn inherited(mut self, name: &str, value: &serde_json::Value, file: &Path) -> Options {
        let kind = OPTIONS[index(name)].kind;
        let read = match file::raw(value) {
            file::Raw::One(text) => kind.read(&text),
            file::Raw::Many(texts) => {
                texts.iter().map(|t| kind.read(t)).collect::<Option<_>>().map(Value::List)
            }
            file::Raw::Null | file::Raw::Nested => None,
        };
        if let Some(value) = read {
            self.values[index(name)] = (value, Source::Run(file.to_path_buf()));
        }
        self
    }

    /// The same options for another command: values that both take, defaults for the rest.
    pub fn for_command(&self, command: Command) -> Options {
        let mut other = Options::defaults(command);
        for (i, opt) in OPTIONS.iter().enumerate() {
            if opt.accepted_by(command) && opt.accepted_by(self.command) {
                other.values[i] = self.values[i].clone();
            }
        }
        other
    }

    /// A usage error about the value of an option, with its place and value filled in.
    pub fn wrong(&self, name: &str, what: impl Into<String>) -> Error {
        let found = format!("{name}: {}", self.get(name).to_yaml());
        self.source(name).blame(Error::usage(what), name).found(found)
    }

    /// Every option of the command with its value as YAML, in the order of the table. Reading it
    /// back with `--config` gives the same values. `config` itself is left out: its content is in.
    pub fn to_yaml(&self) -> String {
        let mut out = format!("# grpo-rt {}: every option as it was used\n", self.command.name());
        for (opt, (value, _)) in OPTIONS.iter().zip(&self.values) {
            if opt.accepted_by(self.command) && opt.name != "config" {
                out += &format!("{}: {}\n", opt.name, value.to_yaml());
            }
        }
        out
    }
}

/// Whether a command line asks for help: `Some(false)` for `--help` or `-h`, `Some(true)` for
/// `--help all`. Asked before parsing, so that help is given even beside a wrong option.
pub fn wants_help(args: &[String]) -> Option<bool> {
    let at = args.iter().position(|a| a == "--help" || a == "-h")?;
    Some(args.get(at + 1).is_some_and(|a| a == "all"))
}

/// One option as it was given in one place.
struct Given {
    opt: &'static Opt,
    value: Value,
    source: Source,
}

/// Place of an option in [`OPTIONS`].
fn index(name: &str) -> usize {
    let found = OPTIONS.iter().position(|o| o.name == name);
    found.unwrap_or_else(|| panic!("`{name}` is not in the option table"))
}

/// Every option that is understood: ours, then those of other programs.
fn known() -> impl Iterator<Item = &'static Opt> {
    OPTIONS.iter().chain(FOREIGN.iter().map(|f| &f.opt))
}

/// The option that a key names for a command, by name or alias, dashes allowed.
///
/// # Errors
/// An unknown key, with the nearest names; an option of other commands, with which.
fn find(command: Command, key: &str) -> Result<&'static Opt> {
    let name = key.replace('-', "_").to_ascii_lowercase();
    let known = known().find(|o| o.name == name || o.aliases.contains(&name.as_str()));
    let Some(opt) = known else {
        let taken = OPTIONS.iter().filter(|o| o.accepted_by(command));
        let names = taken.flat_map(|o| std::iter::once(&o.name).chain(o.aliases)).copied();
        let near = nearest(&name, names);
        let error = Error::usage(format!("unknown option `{key}`"));
        return Err(if near.is_empty() {
            error.hint(format!("grpo-rt {} --help all lists every option", command.name()))
        } else {
            error.hint(format!("did you mean {}?", quoted(near.into_iter())))
        });
    };
    if opt.accepted_by(command) {
        return Ok(opt);
    }
    let takers = quoted(opt.commands.iter().map(|c| c.name()));
    Err(Error::usage(format!("`{}` does not take `{key}`", command.name()))
        .expected(format!("`{}` with {takers}", opt.name))
        .hint(format!("grpo-rt {} --help all lists its options", command.name())))
}

fn quoted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|n| format!("`{n}`")).collect::<Vec<_>>().join(" or ")
}

/// Reads the texts of one place into the value of an option; `Err` is the text that is wrong.
fn read_texts(opt: &Opt, texts: &[String]) -> std::result::Result<Value, String> {
    if let Kind::List(_) = opt.kind {
        let pieces = texts.iter().flat_map(|t| opt.kind.split(t));
        let read = |t: &str| opt.kind.read(t).ok_or_else(|| t.to_string());
        let items: Vec<Value> = pieces.map(read).collect::<std::result::Result<_, _>>()?;
        return if items.is_empty() { Err(String::new()) } else { Ok(Value::List(items)) };
    }
    match texts {
        [one] => opt.kind.read(one).ok_or_else(|| one.clone()),
        many => Err(many.join(" ")),
    }
}

/// [`read_texts`] for what a person gave: `none` unsets what has no default, and a wrong text is
/// an error with its place.
fn read_given(opt: &'static Opt, texts: &[String], source: Source) -> Result<Given> {
    let value = match read_texts(opt, texts) {
        Ok(value) => value,
        Err(_) if unsets(opt, texts) => Value::Unset,
        Err(found) => {
            let error = Error::usage(format!("wrong value for `{}`", opt.name));
            return Err(source
                .blame(error, opt.name)
                .expected(opt.kind.expected())
                .found(if found.is_empty() { "nothing".into() } else { format!("`{found}`") }));
        }
    };
    Ok(Given { opt, value, source })
}

/// Whether the texts take back an option without default, in the words of Python and YAML. Only
/// asked for texts that are no value, so a file called `none` stays a file.
fn unsets(opt: &Opt, texts: &[String]) -> bool {
    let word = |t: &String| matches!(t.to_ascii_lowercase().as_str(), "none" | "null");
    opt.default.is_empty() && matches!(texts, [one] if word(one))
}

/// Reads the command line.
fn read_flags(command: Command, args: &[String]) -> Result<Vec<Given>> {
    let mut given: Vec<Given> = Vec::new();
    // Words of the option that needs no name; they may stand before, between and after the others.
    let mut unnamed: Vec<String> = Vec::new();
    let mut i = 0;
    while i < args.len() {
        let Some(body) = args[i].strip_prefix("--").filter(|b| !b.is_empty()) else {
            let words: Vec<String> =
                args[i..].iter().take_while(|a| !a.starts_with('-')).cloned().collect();
            if words.is_empty() || !OPTIONS.iter().any(|o| o.positional.contains(&command)) {
                return Err(stray(command, &args[i], given.last()));
            }
            i += words.len();
            unnamed.extend(words);
            continue;
        };
        let (key, inline) = match body.split_once('=') {
            Some((key, value)) => (key, Some(value.to_string())),
            None => (body, None),
        };
        i += 1;
        let source = Source::Flag(format!("--{key}"));
        if let Some(opt) = negated(command, key) {
            if inline.is_some() {
                return Err(Error::usage(format!("--{key} takes no value"))
                    .hint(format!("write --{} true or --{} false", opt.name, opt.name)));
            }
            given.push(Given { opt, value: Value::Bool(false), source });
            continue;
        }
        let opt = find(command, key).map_err(|e| e.at("command line"))?;
        let texts = match inline {
            Some(text) => vec![text],
            None => {
                let texts = following(opt, &args[i..]);
                i += texts.len();
                texts
            }
        };
        if texts.is_empty() && opt.kind.bare() {
            given.push(Given { opt, value: Value::Bool(true), source });
        } else {
            let new = read_given(opt, &texts, source)?;
            let before = given.iter_mut().find(|g| g.opt.name == opt.name && opt.gathers);
            match (before, new.value) {
                (Some(Given { value: Value::List(all), .. }), Value::List(more)) => {
                    all.extend(more)
                }
                (_, value) => given.push(Given { value, ..new }),
            }
        }
    }
    let opt = OPTIONS.iter().find(|o| o.positional.contains(&command));
    if let Some(opt) = opt.filter(|_| !unnamed.is_empty()) {
        given.push(read_given(opt, &unnamed, Source::Flag(unnamed.join(" ")))?);
    }
    Ok(given)
}

/// The option that `no_<name>` switches off.
fn negated(command: Command, key: &str) -> Option<&'static Opt> {
    let key = key.replace('-', "_");
    let opt = find(command, key.strip_prefix("no_")?).ok()?;
    opt.kind.bare().then_some(opt)
}

/// The arguments that belong to an option: up to the next flag for a list, one for a scalar, and
/// for a bool only a word that is one.
fn following(opt: &Opt, rest: &[String]) -> Vec<String> {
    let values = rest.iter().take_while(|a| !a.starts_with("--"));
    let most = if matches!(opt.kind, Kind::List(_)) { usize::MAX } else { 1 };
    let fits = |a: &&String| opt.kind != Kind::Bool || opt.kind.read(a).is_some();
    values.take(most).take_while(fits).cloned().collect()
}

/// The error for an argument that is neither a flag nor a value of one.
fn stray(command: Command, found: &str, before: Option<&Given>) -> Error {
    let error = Error::usage(format!("unexpected argument `{found}`")).at("command line");
    if found.starts_with('-') && found.len() > 1 && !found.starts_with("--") {
        return error
            .expected("options that start with two dashes")
            .hint(format!("write -{found}"));
    }
    match before {
        Some(Given { opt, .. }) if opt.kind == Kind::Bool => {
            error.expected(format!("true, false or the next option after --{}", opt.name))
        }
        Some(Given { opt, .. }) => error
            .expected(format!("one value after --{}", opt.name))
            .hint("put a value with spaces in quotes"),
        None => error
            .expected("--option value")
            .hint(format!("grpo-rt {} --help shows the options", command.name())),
    }
}

/// Reads the environment. A variable of an option that only other commands take is left alone: an
/// environment serves several commands.
fn read_environment(
    command: Command,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Vec<Given>> {
    let mut given: Vec<Given> = Vec::new();
    for (variable, text) in environment {
        let Some(name) = variable.strip_prefix(ENV_PREFIX) else { continue };
        let no_option =
            BUILD_VARIABLES.contains(&variable.as_str()) || variable == ffmpeg::VARIABLE;
        if no_option || variable.starts_with(ENV_OF_TESTS) {
            continue;
        }
        let name = name.to_ascii_lowercase();
        let elsewhere = |o: &Opt| o.name == name || o.aliases.contains(&name.as_str());
        let opt = match find(command, &name) {
            Ok(opt) => opt,
            Err(_) if known().any(elsewhere) => continue,
            Err(error) => return Err(error.at(format!("environment variable {variable}"))),
        };
        if given.iter().any(|g| g.opt.name == opt.name) {
            return Err(Error::usage(format!("two environment variables set `{}`", opt.name))
                .found(variable)
                .hint("unset one of the two"));
        }
        given.push(read_given(opt, &list_in_variable(opt, text), Source::Env(variable))?);
    }
    Ok(given)
}

/// A list in a variable may be a JSON array; otherwise it is split like any other text.
fn list_in_variable(opt: &Opt, text: String) -> Vec<String> {
    if matches!(opt.kind, Kind::List(_))
        && let Ok(items) = serde_json::from_str::<Vec<serde_json::Value>>(&text)
    {
        let word = |v: serde_json::Value| match v {
            serde_json::Value::String(s) => s,
            other => other.to_string(),
        };
        return items.into_iter().map(word).collect();
    }
    vec![text]
}

/// Reads a configuration file.
fn read_file(command: Command, path: &Path) -> Result<Vec<Given>> {
    let mut given: Vec<Given> = Vec::new();
    for file::Entry { key, line, value } in file::read(path)? {
        let source = Source::File(path.to_path_buf(), line);
        // A run is planned and its data looked at from its own file: what concerns neither is passed over.
        let of_a_run = || find(Command::Train, &key).is_ok();
        let looks = matches!(command, Command::Plan | Command::Inspect);
        let opt = match find(command, &key) {
            Err(_) if looks && of_a_run() => continue,
            found => found.map_err(|e| source.blame(e, &key))?,
        };
        if opt.name == "config" {
            return Err(source.blame(Error::usage("a configuration file names another"), &key));
        }
        if given.iter().any(|g| g.opt.name == opt.name) {
            let what = format!("`{}` stands twice in the configuration file", opt.name);
            return Err(source.blame(Error::usage(what), &key).hint("keep one of the two"));
        }
        let texts = match value {
            file::Raw::Null => continue,
            file::Raw::One(text) => vec![text],
            file::Raw::Many(texts) if matches!(opt.kind, Kind::List(_)) => {
                given.push(read_elements(opt, &texts, source)?);
                continue;
            }
            file::Raw::Many(texts) => {
                let error = Error::usage(format!("wrong value for `{}`", opt.name));
                return Err(source
                    .blame(error, &key)
                    .expected(opt.kind.expected())
                    .found(format!("a list of {}", texts.len())));
            }
            file::Raw::Nested => {
                return Err(source
                    .blame(Error::usage("configuration files are flat"), &key)
                    .expected(opt.kind.expected())
                    .found("a nested map or list"));
            }
        };
        given.push(read_given(opt, &texts, source)?);
    }
    Ok(given)
}

/// A list of a configuration file: elements are already apart and are not split again.
fn read_elements(opt: &'static Opt, texts: &[String], source: Source) -> Result<Given> {
    let mut items = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().enumerate() {
        match opt.kind.read(text) {
            Some(value) => items.push(value),
            None => {
                let error = Error::usage(format!("wrong element {} of `{}`", i + 1, opt.name));
                return Err(source
                    .blame(error, opt.name)
                    .expected(opt.kind.expected())
                    .found(format!("`{text}`")));
            }
        }
    }
    let value = if items.is_empty() { Value::Unset } else { Value::List(items) };
    if value == Value::Unset && !opt.default.is_empty() {
        let error = Error::usage(format!("`{}` is an empty list", opt.name));
        return Err(source.blame(error, opt.name).expected(opt.kind.expected()));
    }
    Ok(Given { opt, value, source })
}
