//! Options that name another program, or a setting that has no counterpart here: what each of them comes
//! to. Command lines of TRL, VLM-R1, transformers and Qwen-VL's trainer work as they are; what this
//! program has in an option's place is said in one line, and what cannot be had is refused. Nothing is
//! swallowed. The list is in [`table`]; here is only how it is read.

mod deepspeed; // what a DeepSpeed configuration asks for
mod table;

use super::{Command, Given, OPTIONS, Opt, Source, Value, find, read_given};
use crate::base::{Error, Result};
use std::path::Path;

pub use table::FOREIGN;

/// An option of another program.
#[derive(Debug, Clone, Copy)]
pub struct Foreign {
    /// Its name, kind and the commands that accept it.
    pub opt: Opt,
    /// What its values come to: every rule whose condition holds applies.
    pub rules: &'static [(When, Then)],
}

/// Which values a rule is for.
#[derive(Debug, Clone, Copy)]
pub enum When {
    /// All of them.
    Any,
    /// This text, or `true`, or `false`.
    Is(&'static str),
    /// Every other text.
    IsNot(&'static str),
    /// Numbers above this one.
    Above(f64),
}

/// What a value comes to.
#[derive(Debug, Clone, Copy)]
pub enum Then {
    /// An option of ours gets a value, in which `{}` is the one given.
    Set(&'static str, &'static str),
    /// As `Set`, and it wins over the same option beside it, wherever that stands.
    Win(&'static str, &'static str),
    /// An option of ours has this default from now on.
    Imply(&'static str, &'static str),
    /// What is here in its place, in one line.
    Say(&'static str),
    /// It cannot be had: why, and what to do instead.
    Refuse(&'static str, &'static str),
    /// The value is a file, or a number to be turned into another: what it comes to.
    Read(fn(&str) -> Result<Meaning>),
}

/// What a value came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Meaning {
    /// Options of ours with their values.
    pub set: Vec<(&'static str, Vec<String>)>,
    /// Those that win over the same option beside them.
    pub win: Vec<(&'static str, Vec<String>)>,
    /// Those that are only defaults.
    pub imply: Vec<(&'static str, Vec<String>)>,
    /// What is here in its place.
    pub said: Vec<String>,
}

/// Turns what was given under names of other programs into options of ours, layer by layer.
pub(super) struct Translator {
    command: Command,
    implied: Vec<Given>,
    /// What is said, and the names it is said of.
    said: Vec<(String, Vec<String>)>,
}

impl Translator {
    pub(super) fn new(command: Command) -> Self {
        Translator { command, implied: Vec::new(), said: Vec::new() }
    }

    /// A layer in which every option is one of ours. What wins over others comes last.
    pub(super) fn translate(&mut self, layer: Vec<Given>) -> Result<Vec<Given>> {
        let (mut out, mut last) = (Vec::with_capacity(layer.len()), Vec::new());
        for given in layer {
            let Some(foreign) = FOREIGN.iter().find(|f| f.opt.name == given.opt.name) else {
                out.push(given);
                continue;
            };
            let Given { value, source, .. } = given;
            let name = match &source {
                Source::Flag(flag) => flag.clone(),
                _ => foreign.opt.name.to_string(),
            };
            let meaning = foreign.meaning(&value).map_err(|e| source.blame(e, foreign.opt.name))?;
            for sentence in meaning.said {
                match self.said.iter_mut().find(|(s, _)| *s == sentence) {
                    Some((_, names)) => names.push(name.clone()),
                    None => self.said.push((sentence, vec![name.clone()])),
                }
            }
            self.push(&mut out, meaning.set, &source)?;
            self.push(&mut last, meaning.win, &source)?;
            let mut implied = std::mem::take(&mut self.implied);
            self.push(&mut implied, meaning.imply, &source)?;
            self.implied = implied;
        }
        out.extend(last);
        Ok(out)
    }

    /// Reads values of our options; those that the command does not take mean nothing to it.
    fn push(
        &self,
        out: &mut Vec<Given>,
        values: Vec<(&'static str, Vec<String>)>,
        source: &Source,
    ) -> Result<()> {
        for (name, texts) in values {
            let taken = OPTIONS.iter().any(|o| o.name == name && o.accepted_by(self.command));
            if taken {
                let opt = find(self.command, name)?;
                out.push(read_given(opt, &texts, source.clone())?);
            }
        }
        Ok(())
    }

    /// Defaults that follow from what was given, and the lines to say.
    pub(super) fn finish(self) -> (Vec<Given>, Vec<String>) {
        let line =
            |(sentence, names): (String, Vec<String>)| format!("{}: {sentence}", names.join(", "));
        (self.implied, self.said.into_iter().map(line).collect())
    }
}

impl Foreign {
    /// What a value of this option comes to.
    ///
    /// # Errors
    /// If it cannot be had, or its file cannot be read.
    pub fn meaning(&self, value: &Value) -> Result<Meaning> {
        let text = shown(value);
        let mut out = Meaning::default();
        let filled = |template: &str| match (template, value) {
            ("{}", Value::List(items)) => items.iter().map(shown).collect(),
            _ => vec![template.replace("{}", &text)],
        };
        for (_, then) in self.rules.iter().filter(|(when, _)| when.holds(value, &text)) {
            match *then {
                Then::Set(name, template) => out.set.push((name, filled(template))),
                Then::Win(name, template) => out.win.push((name, filled(template))),
                Then::Imply(name, template) => out.imply.push((name, filled(template))),
                Then::Say(what) => out.said.push(what.to_string()),
                Then::Refuse(why, hint) => {
                    return Err(Error::usage(why).found(text.clone()).hint(hint));
                }
                Then::Read(read) => {
                    let read = read(&text)?;
                    out.set.extend(read.set);
                    out.said.extend(read.said);
                }
            }
        }
        Ok(out)
    }

    /// What the documentation says of it.
    pub(super) fn told(&self) -> String {
        let one = |(when, then): &(When, Then)| {
            let set = |name: &str, template: &str| match template {
                "{}" => format!("`{name}`"),
                value => format!("`{name} {value}`"),
            };
            let what = match *then {
                Then::Set(name, template) | Then::Win(name, template) => set(name, template),
                Then::Imply(name, template) => format!("default {}", set(name, template)),
                Then::Say(what) => what.to_string(),
                Then::Refuse(why, hint) => format!("refused: {why}; {hint}"),
                Then::Read(_) => return None,
            };
            Some(match when {
                When::Any => what,
                When::Is(text) => format!("{text}: {what}"),
                When::IsNot(text) => format!("other than {text}: {what}"),
                When::Above(limit) => format!("above {limit}: {what}"),
            })
        };
        let all: Vec<String> = self.rules.iter().filter_map(one).collect();
        match all.is_empty() {
            true => self.opt.help.to_string(),
            false => all.join("; "),
        }
    }
}

impl When {
    fn holds(self, value: &Value, text: &str) -> bool {
        match self {
            When::Any => true,
            When::Is(wanted) => text.eq_ignore_ascii_case(wanted),
            When::IsNot(wanted) => !text.eq_ignore_ascii_case(wanted),
            When::Above(limit) => match value {
                Value::Int(i) => *i as f64 > limit,
                Value::Float(f) => *f > limit,
                _ => false,
            },
        }
    }
}

/// A value as it would be typed.
fn shown(value: &Value) -> String {
    match value {
        Value::Unset => "none".into(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Float(f) => f.to_string(),
        Value::Text(t) => t.clone(),
        Value::List(items) => items.iter().map(shown).collect::<Vec<_>>().join(","),
    }
}

/// Seconds between two frames are frames per second the other way round.
fn frames_per_second(seconds: &str) -> Result<Meaning> {
    let seconds: f64 = seconds.parse().unwrap_or(0.0);
    if seconds <= 0.0 {
        return Err(Error::usage("seconds between frames are above 0")
            .hint("leave base_interval out, or use --video_fps"));
    }
    Ok(Meaning {
        set: vec![("video_fps", vec![(1.0 / seconds).to_string()])],
        ..Meaning::default()
    })
}

/// What the DeepSpeed configuration of a file asks for.
fn deepspeed(file: &str) -> Result<Meaning> {
    deepspeed::read(Path::new(file))
}
