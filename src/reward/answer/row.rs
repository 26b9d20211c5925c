//! What a row says about its answer beside the answer itself: choices, precision, tolerance, unit,
//! kind. Columns as in MathVista (`answer_type`, `precision`, `unit`, `choices`) and in VQA rows
//! (`choices`, `options`). What a row does not say is not guessed, but for choices in its question.

use serde_json::Value;

use super::choice::Choices;
use super::number::Number;
use crate::base::{Error, Result};
use crate::reward::Sample;
use crate::reward::math::rational::Rational;

/// Most decimals that a row may ask for.
const MOST_DECIMALS: u32 = 30;

/// What a row allows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Row {
    /// Answers to choose from.
    pub choices: Option<Choices>,
    /// Most distance of a number that is right.
    pub tolerance: Option<Tolerance>,
    /// Unit of the answer, which may be left out.
    pub unit: Option<String>,
    /// The answer is a list, compared item by item.
    pub list: bool,
}

/// Distance from the reference that is no mistake.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tolerance {
    /// In the unit of the answer.
    Absolute(Rational),
    /// As a share of the reference.
    Relative(Rational),
}

impl Row {
    /// What the sample's row allows. A column that cannot be read is an error of that sample.
    pub fn of(sample: &Sample<'_>) -> Result<Row> {
        let kind = match column(sample, "answer_type") {
            None => "",
            Some(Value::String(kind)) => kind.as_str(),
            Some(other) => return Err(unreadable("answer_type", "a word", other)),
        };
        Ok(Row {
            choices: ["choices", "options"]
                .iter()
                .find_map(|name| column(sample, name).and_then(Choices::read))
                .or_else(|| Choices::in_question(sample.prompt)),
            tolerance: tolerance(sample, kind)?,
            unit: match column(sample, "unit") {
                Some(Value::String(unit)) if !unit.trim().is_empty() => Some(unit.trim().into()),
                _ => None,
            },
            list: kind == "list",
        })
    }
}

fn column<'s>(sample: &Sample<'s>, name: &str) -> Option<&'s Value> {
    sample.columns.get(name).filter(|v| !v.is_null())
}

fn unreadable(name: &str, expected: &str, found: &Value) -> Error {
    Error::data("a column about the answer cannot be read")
        .key(name)
        .expected(expected)
        .found(found.to_string())
}

/// The column `tolerance`, else half a step of the column `precision`. An integer has no precision:
/// 3.4 is not 3.
fn tolerance(sample: &Sample<'_>, kind: &str) -> Result<Option<Tolerance>> {
    if let Some(value) = column(sample, "tolerance") {
        let wrong = || unreadable("tolerance", "a number from 0 up, or per cent as text", value);
        let text = match value {
            Value::String(text) => text.trim().to_string(),
            other => other.to_string(),
        };
        let (text, relative) = match text.strip_suffix('%') {
            Some(share) => (share.trim_end(), true),
            None => (text.as_str(), false),
        };
        let number = Number::parse(&text.to_lowercase()).and_then(|n| n.to_rational());
        let number = number.filter(|n| n.numerator() >= 0).ok_or_else(wrong)?;
        if !relative {
            return Ok(Some(Tolerance::Absolute(number)));
        }
        let share = Rational::new(1, 100).and_then(|r| r.mul(number)).ok_or_else(wrong)?;
        return Ok(Some(Tolerance::Relative(share)));
    }
    let (Some(value), "" | "float") = (column(sample, "precision"), kind) else { return Ok(None) };
    let wrong = || unreadable("precision", "a number of decimals, 0 to 30", value);
    let decimals = match value {
        Value::String(text) => text.trim().parse::<f64>().ok(),
        other => other.as_f64(),
    };
    let decimals =
        decimals.filter(|d| d.fract() == 0.0 && (0.0..=f64::from(MOST_DECIMALS)).contains(d));
    let decimals = decimals.ok_or_else(wrong)? as i128;
    let step = Rational::integer(10).pow(-decimals).and_then(|s| s.mul(Rational::HALF));
    Ok(Some(Tolerance::Absolute(step.ok_or_else(wrong)?)))
}

impl Tolerance {
    /// Whether a number is close enough to the reference.
    pub fn allows(self, reference: Rational, said: Rational) -> bool {
        let limit = match self {
            Tolerance::Absolute(limit) => Some(limit),
            Tolerance::Relative(share) => share.mul(reference.abs()),
        };
        let distance = reference.sub(said).map(Rational::abs);
        let order = distance.zip(limit).and_then(|(d, l)| d.compare(l));
        order.is_some_and(std::cmp::Ordering::is_le)
    }
}
