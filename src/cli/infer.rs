//! `grpo-rt infer`: prints what a model answers, as it comes or when it is whole, keeps results with the
//! run, and names what could not be answered. Tokens and log-probabilities go to files, never to the
//! screen.

use super::Outcome;
use super::output::{counted, print, print_warning};
use crate::base::{Error, Result, utc};
use crate::infer::chats::Chat;
use crate::infer::{self as answering, Answer, Answers, Listener, Origin, Place};
use crate::options::Options;
use crate::runs::{self, Run};
use crate::settings::InferSettings;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Folder of results in that of a run.
const RESULTS: &str = "inference";

/// Answers chats.
///
/// # Errors
/// Wrong options, and what the answering returns.
pub fn infer(options: &Options) -> Result<Outcome> {
    let s = InferSettings::from_options(options)?;
    match &s.run {
        Some((name, root)) if name == "all" => all_runs(options, &s, root)?,
        Some((name, root)) => {
            let run = runs::find(root, name)?;
            let own = settings_of(&run, options)?;
            let answers = answer(&own, Some(&run))?;
            let kept = keep(&run, &answers, &origin(&own, Some(&run)))?;
            eprintln!("results are kept in {}", kept.display());
        }
        None => {
            answer(&s, None)?;
        }
    }
    Ok(Outcome::Done)
}

fn origin(s: &InferSettings, run: Option<&Run>) -> Origin {
    Origin {
        model: s.model.path.display().to_string(),
        adapter: s.model.adapter.as_ref().map(|a| a.display().to_string()),
        run_id: run.map(|r| r.run_id.clone()),
        seed: s.seed,
    }
}

/// The settings with the model of a run.
fn settings_of(run: &Run, options: &Options) -> Result<InferSettings> {
    let mut own = InferSettings::from_options(&runs::as_trained(run, options)?)?;
    // There is nothing to compare where a run has trained the model itself.
    own.compare &= own.model.adapter.is_some();
    Ok(own)
}

/// Answers the chats, on the screen and in the file that is asked for.
fn answer(s: &InferSettings, run: Option<&Run>) -> Result<Answers> {
    let answers = answering::infer(s, &Screen::new(s))?;
    if let Some(file) = &s.out {
        answering::write(file, &answers, &origin(s, run))?;
    }
    print("\n");
    Ok(answers)
}

/// Writes results into the folder of a run; returns where.
fn keep(run: &Run, answers: &Answers, origin: &Origin) -> Result<PathBuf> {
    let dir = run.dir.join(RESULTS);
    let failed = |e: std::io::Error| {
        Error::io("cannot keep the results with the run", &dir, &e)
            .hint("make the folder writable, or give --model_name_or_path and --adapter instead")
    };
    std::fs::create_dir_all(&dir).map_err(failed)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let time = utc::text(now).replace(':', "-");
    let names = (0..).map(|i| match i {
        0 => format!("{time}.jsonl"),
        i => format!("{time}-{i}.jsonl"),
    });
    let mut free = names.map(|name| dir.join(name)).filter(|p: &PathBuf| !p.exists());
    let Some(file) = free.next() else { return Ok(dir) };
    answering::write(&file, answers, origin)?;
    Ok(file)
}

/// One line of the table of all runs.
struct Tried {
    run: String,
    state: &'static str,
    outcome: std::result::Result<(usize, usize, f64, String), String>,
}

/// Every run answers; a run that cannot costs itself alone.
fn all_runs(options: &Options, s: &InferSettings, root: &Path) -> Result<()> {
    let runs = runs::list(root)?;
    if runs.is_empty() {
        return Err(Error::usage("there are no runs")
            .file(root)
            .key("run_id")
            .hint("give the folder that runs are below with --output_dir"));
    }
    let mut table = Vec::new();
    for run in &runs {
        print(&format!("## {}\n", run.run_id));
        let start = Instant::now();
        let answered = settings_of(run, options).and_then(|own| {
            // One file for all of them would keep only the last.
            let own = InferSettings { out: None, ..own };
            let answers = answer(&own, Some(run))?;
            keep(run, &answers, &origin(&own, Some(run)))?;
            Ok((answers, origin(&own, Some(run))))
        });
        let outcome = match answered {
            Ok((all, origin)) => {
                let tokens = all.answers.iter().map(|a| a.completion.ids.len()).sum();
                let first = all.answers.first().map_or("", |a| a.text.as_str());
                let first = first.split_whitespace().collect::<Vec<_>>().join(" ");
                let seconds = start.elapsed().as_secs_f64();
                if let Some(file) = &s.out {
                    append(file, &all, &origin, table.is_empty())?;
                }
                Ok((all.answers.len(), tokens, seconds, first))
            }
            Err(e) => {
                print_warning(&format!("{}: {}", run.run_id, e.one_line()));
                Err(e.what().to_string())
            }
        };
        table.push(Tried { run: run.run_id.clone(), state: run.state.name(), outcome });
        print("\n");
    }
    print(&lines(&table));
    match table.iter().any(|t| t.outcome.is_ok()) {
        true => Ok(()),
        false => Err(Error::data("no run could answer")
            .file(root)
            .found(counted(table.len(), "run"))
            .hint("the warnings say why")),
    }
}

/// Adds answers to the end of a file, which is begun anew if they are the first.
fn append(file: &Path, all: &Answers, origin: &Origin, first: bool) -> Result<()> {
    let before = if first { Vec::new() } else { std::fs::read(file).unwrap_or_default() };
    answering::write(file, all, origin)?;
    let failed = |e: std::io::Error| Error::io("cannot write the answers", file, &e).key("out");
    let new = std::fs::read(file).map_err(failed)?;
    std::fs::write(file, [before, new].concat()).map_err(failed)
}

/// The table of all runs.
fn lines(table: &[Tried]) -> String {
    let width = table.iter().map(|t| t.run.chars().count()).max().unwrap_or(0).max(3);
    let mut text = format!(
        "{:<width$}  {:<8}{:>8}{:>8}{:>9}  first answer\n",
        "run", "state", "answers", "tokens", "seconds"
    );
    for t in table {
        text += &match &t.outcome {
            Ok((answers, tokens, seconds, first)) => {
                let first: String = first.chars().take(60).collect();
                format!(
                    "{:<width$}  {:<8}{answers:>8}{tokens:>8}{seconds:>9.1}  {first}\n",
                    t.run, t.state
                )
            }
            Err(why) => {
                format!("{:<width$}  {:<8}{:>8}{:>8}{:>9}  {why}\n", t.run, t.state, "-", "-", "-")
            }
        };
    }
    text
}

/// Prints answers in their order: one as it comes, the others when it is their turn.
struct Screen {
    streams: bool,
    samples: usize,
    variants: usize,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// Whose text is on the screen at its end, and whether it is whole.
    shown: Option<Place>,
    /// Text of answers that wait for their turn.
    waiting: BTreeMap<Place, String>,
    whole: BTreeMap<Place, bool>,
    failed: Vec<usize>,
}

impl Screen {
    fn new(s: &InferSettings) -> Self {
        Screen {
            streams: s.stream.unwrap_or_else(|| std::io::stdout().is_terminal()),
            samples: s.num_samples,
            variants: if s.compare { 2 } else { 1 },
            state: RefCell::default(),
        }
    }

    /// What stands before an answer: a line between two, and of what it is an answer.
    fn heading(&self, chats: &[Chat], before: Option<Place>, at: Place) -> String {
        let mut text = if before.is_some() { "\n\n".to_string() } else { String::new() };
        if chats.len() > 1 && before.is_none_or(|b| b.chat != at.chat) {
            text += &format!("== {}\n", chats[at.chat].about());
        }
        if self.variants > 1 && before.is_none_or(|b| (b.chat, b.variant) != (at.chat, at.variant))
        {
            text += if at.variant == 0 { "-- adapter on\n" } else { "-- adapter off\n" };
        }
        text
    }

    /// The answer that comes after another.
    fn next(&self, chats: usize, at: Option<Place>, failed: &[usize]) -> Option<Place> {
        let Place { mut chat, mut variant, mut sample } = match at {
            None => Place { chat: 0, variant: 0, sample: 0 },
            Some(at) => Place { sample: at.sample + 1, ..at },
        };
        if sample >= self.samples {
            (sample, variant) = (0, variant + 1);
        }
        if variant >= self.variants {
            (variant, chat) = (0, chat + 1);
        }
        while failed.contains(&chat) {
            chat += 1;
        }
        (chat < chats).then_some(Place { chat, variant, sample })
    }

    /// Prints what is next, as far as it is there.
    fn go_on(&self, chats: &[Chat]) {
        let mut state = self.state.borrow_mut();
        loop {
            let ended = state.shown.is_none_or(|at| state.whole.get(&at) == Some(&true));
            if let Some(at) = state.shown
                && let Some(text) = state.waiting.remove(&at)
            {
                print(&text);
            }
            if !ended {
                return;
            }
            let Some(next) = self.next(chats.len(), state.shown, &state.failed) else { return };
            if !state.waiting.contains_key(&next) && !state.whole.contains_key(&next) {
                return;
            }
            print(&self.heading(chats, state.shown, next));
            state.shown = Some(next);
        }
    }
}

impl Listener for Screen {
    fn piece(&self, chats: &[Chat], at: Place, text: &str) {
        if !self.streams || text.is_empty() {
            return;
        }
        *self.state.borrow_mut().waiting.entry(at).or_default() += text;
        self.go_on(chats);
    }

    fn ended(&self, chats: &[Chat], at: Place) {
        if self.streams {
            self.state.borrow_mut().whole.insert(at, true);
            self.go_on(chats);
        }
    }

    fn answer(&self, chats: &[Chat], answer: &Answer) {
        if !self.streams {
            let mut state = self.state.borrow_mut();
            state.waiting.insert(answer.place, answer.text.clone());
            state.whole.insert(answer.place, true);
            drop(state);
            self.go_on(chats);
        }
    }

    fn failed(&self, chats: &[Chat], chat: Option<usize>, why: &Error) {
        let about = chat.map_or("a row".to_string(), |i| chats[i].about());
        print_warning(&format!("left out: {about}: {}", why.one_line()));
        self.state.borrow_mut().failed.extend(chat);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_stand_in_a_table() {
        let tried = |run: &str, outcome| Tried { run: run.into(), state: "done", outcome };
        let text = lines(&[
            tried("v1-baseline", Ok((1, 12, 0.5, "4".into()))),
            tried("v2", Err("the run has no model yet".into())),
        ]);
        let want = "\
run          state    answers  tokens  seconds  first answer
v1-baseline  done           1      12      0.5  4
v2           done           -       -        -  the run has no model yet
";
        assert_eq!(text, want);
    }

    #[test]
    fn answers_have_an_order() {
        let screen = Screen { streams: true, samples: 2, variants: 2, state: RefCell::default() };
        let mut at = None;
        let mut all = Vec::new();
        while let Some(next) = screen.next(3, at, &[1]) {
            all.push((next.chat, next.variant, next.sample));
            at = Some(next);
        }
        let pairs = [(0, 0), (0, 1), (1, 0), (1, 1)];
        let want: Vec<_> = [0, 2].into_iter().flat_map(|c| pairs.map(|(v, s)| (c, v, s))).collect();
        assert_eq!(all, want);
    }
}
