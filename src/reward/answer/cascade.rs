//! The order in which an answer is judged: choice, yes or no, number, exact text; and what is left for
//! a judge. Each step that applies decides: no later step pays for what an earlier one refused.

use super::number::Number;
use super::row::Row;
use super::{choice, fold_spelling, normalise, same_answer, undressed, yes_no};
use crate::base::Result;
use crate::reward::math::units;

/// Who is asked whether two free texts mean the same.
pub trait SameAnswer: Send + Sync {
    /// Whether `answer` answers `question` as `reference` does. None: no opinion, and the sample is
    /// not judged by this reward. `Err`: the judge could not be asked.
    fn same_answer(&self, question: &str, reference: &str, answer: &str) -> Result<Option<bool>>;

    /// For [`crate::reward::Reward::figures`].
    fn figures(&self) -> Vec<(String, f64)> {
        Vec::new()
    }

    /// For [`crate::reward::Reward::notices`].
    fn notices(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What the rules say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Right.
    Same,
    /// Wrong, whatever anyone else says.
    Different,
    /// Not the same words, but free text of several words: a judge may see the same meaning.
    Open,
}

/// Most words of an answer for each word of the reference that a judge is asked about, and on top.
const WORDS_PER_WORD: usize = 4;
const WORDS_ON_TOP: usize = 12;

/// What the rules say about an answer.
pub fn decide(said: &str, reference: &str, row: &Row) -> Verdict {
    let decided = choice::verdict(said, reference, row.choices.as_ref())
        .or_else(|| yes_no::verdict(said, reference))
        .or_else(|| quantities(said, reference, row))
        .or_else(|| row.list.then(|| lists(said, reference, row)).flatten());
    match decided {
        Some(true) => Verdict::Same,
        Some(false) => Verdict::Different,
        None if same_answer(said, reference) => Verdict::Same,
        None if is_open(said, reference) => Verdict::Open,
        None => Verdict::Different,
    }
}

/// Free text of several words, an answer of about its size, and the same numbers in both.
fn is_open(said: &str, reference: &str) -> bool {
    let (p, r) = (normalise(said), normalise(reference));
    let (words, wanted) = (p.split(' ').count(), r.split(' ').count());
    let letters = |t: &str| t.chars().any(char::is_alphabetic);
    wanted >= 2
        && letters(&p)
        && letters(&r)
        && words <= WORDS_PER_WORD * wanted + WORDS_ON_TOP
        && digits(&p) == digits(&r)
}

/// Runs of digits, sorted.
fn digits(text: &str) -> Vec<&str> {
    let runs = text.split(|c: char| !c.is_numeric()).filter(|r| !r.is_empty());
    let mut runs: Vec<&str> = runs.collect();
    runs.sort_unstable();
    runs
}

/// Numbers with or without unit; None if the reference is none, or the answer is text.
fn quantities(said: &str, reference: &str, row: &Row) -> Option<bool> {
    let own = row.unit.as_deref();
    let (wanted, unit) = quantity(reference, own)?;
    let (number, theirs) = quantity(said, own)?;
    let units = match own {
        // The row names the unit: it may be left out on both sides.
        Some(own) => [&unit, &theirs].iter().all(|u| u.is_empty() || units::same(u, own)),
        None => match (unit.is_empty(), theirs.is_empty()) {
            (false, false) => units::same(&unit, &theirs),
            (a, b) => a == b,
        },
    };
    if !units {
        return Some(false);
    }
    let close = || {
        let (wanted, number) = (wanted.to_rational()?, number.to_rational()?);
        Some(row.tolerance?.allows(wanted, number))
    };
    Some(wanted == number || close().unwrap_or(false))
}

/// A number and its unit, which must be known or the row's own: "5 or 6" is no number.
fn quantity(text: &str, own: Option<&str>) -> Option<(Number, String)> {
    let folded = fold_spelling(text);
    let bare = undressed(&folded);
    let lower = bare.to_lowercase();
    if let Some(number) = Number::parse(&lower) {
        return Some((number, String::new()));
    }
    for currency in ["$", "\u{20ac}", "\u{a3}", "\u{a5}"] {
        if let Some(rest) = bare.strip_prefix(currency) {
            return Some((Number::parse(rest.trim_start())?, currency.into()));
        }
    }
    let numeric = |c: char| c.is_ascii_digit() || "+-.,/".contains(c);
    let split = bare.find(|c| !numeric(c))?;
    let (number, unit) = (Number::parse(&bare[..split])?, bare[split..].trim());
    let known = units::is_known(unit) || units::is_percent(unit);
    let own = own.is_some_and(|own| units::same(unit, own));
    (known || own).then(|| (number, unit.to_string()))
}

/// Lists item by item, in order, brackets left out.
fn lists(said: &str, reference: &str, row: &Row) -> Option<bool> {
    let items = |text: &str| {
        let folded = fold_spelling(text);
        let inside = folded.trim().trim_end_matches('.');
        let inside = inside.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(inside);
        let items = inside.split(',').map(|t| t.trim().trim_matches(['\'', '"']).to_string());
        items.collect::<Vec<String>>()
    };
    let (wanted, said) = (items(reference), items(said));
    let row = Row { list: false, choices: None, ..row.clone() };
    let same = |(s, w): (&String, &String)| decide(s, w, &row) == Verdict::Same;
    Some(wanted.len() == said.len() && said.iter().zip(&wanted).all(same))
}
