//! `accuracy`: the answer of the completion is the reference answer. In default mode it never pays for
//! parts, closeness or length; see [`crate::reward::answer`] for what counts as the same. The
//! methods that a run or a row can choose are lines of [`METHODS`].

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use super::detection::{Detection, DetectionMethod};
use crate::base::{Error, Result};
use crate::reward::answer::cascade::{Verdict, decide};
use crate::reward::answer::row::Row;
use crate::reward::answer::{
    SameAnswer, choice, mllm_evaluator, normalise, reference_answer, same_answer, vlm_r1, yes_no,
};
use crate::reward::math::{Rules, equivalent, extract, same};
use crate::reward::{AnswerFormat, Compat, Judge, Reward, RewardSettings, Sample, completion};

/// Column of a row that chooses its method.
const METHOD_COLUMN: &str = "accu_reward_method";

/// Scores one sample; None where it cannot be judged.
type Score = fn(&Accuracy, &Sample<'_>) -> Result<Option<f64>>;

/// One way to compare answers.
pub struct Method {
    /// Its name in `--accu_reward_method` and in the column of the same name.
    pub name: &'static str,
    /// What counts, in one line.
    pub doc: &'static str,
    score: Score,
}

/// Every method. A new one is a line here.
pub static METHODS: &[Method] = &[
    Method {
        name: "all_match",
        doc: "the answer is the reference list of boxes, as text",
        score: |a, s| a.boxes.score_by(DetectionMethod::AllMatch, s),
    },
    Method {
        name: "default",
        doc: "choice, yes or no, number with the row's tolerance, exact text, then the judge if there is one",
        score: Accuracy::by_cascade,
    },
    Method {
        name: "exact",
        doc: "the same text or the same number, nothing else",
        score: Accuracy::by_text,
    },
    Method {
        name: "llm",
        doc: "the judge decides what is not the same text",
        score: Accuracy::by_judge,
    },
    Method {
        name: "map",
        doc: "boxes with labels: mean average precision, wherever they stand",
        score: |a, s| a.boxes.score_by(DetectionMethod::Map, s),
    },
    Method { name: "math", doc: "equivalent mathematics", score: Accuracy::by_math },
    Method { name: "mcq", doc: "the letter or the text of a choice", score: Accuracy::by_choice },
    Method {
        name: "odLength",
        doc: "the same, times the share of boxes that are not too many",
        score: |a, s| a.boxes.score_by(DetectionMethod::OdLength, s),
    },
    Method {
        name: "od_ap",
        doc: "boxes with labels: mean average precision of the answer",
        score: |a, s| a.boxes.score_by(DetectionMethod::OdAp, s),
    },
    Method {
        name: "od_ap50",
        doc: "the same at an overlap of 0.5",
        score: |a, s| a.boxes.score_by(DetectionMethod::OdAp50, s),
    },
    Method {
        name: "weighted_sum",
        doc: "boxes with labels: 0.7 of overlap, 0.3 of completeness",
        score: |a, s| a.boxes.score_by(DetectionMethod::WeightedSum, s),
    },
    Method { name: "yes_no", doc: "yes or no, as the whole answer", score: Accuracy::by_yes_no },
];

/// The method called `name`.
fn method_by_name(name: &str) -> Option<&'static Method> {
    METHODS.iter().find(|m| m.name == name)
}

fn unknown_method(kind: fn(String) -> Error, name: &str) -> Error {
    let known: Vec<&str> = METHODS.iter().map(|m| m.name).collect();
    kind("unknown method of accuracy".into())
        .key(METHOD_COLUMN)
        .expected(format!("one of {}", known.join(", ")))
        .found(format!("`{name}`"))
}

/// 1 or 0 (in modes that reproduce others, what they pay); None for rows without a reference answer
/// (TRL: an empty gold answer is not judged).
#[derive(Clone)]
pub struct Accuracy {
    format: AnswerFormat,
    /// Without marks of the answer the score is 0; when false, a completion without them is judged
    /// whole, as VLM-R1 does.
    answer_tag: bool,
    compat: Compat,
    method: &'static Method,
    judge: Option<Arc<dyn SameAnswer>>,
    boxes: Detection,
}

impl std::fmt::Debug for Accuracy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Accuracy({}, {:?}, {:?})", self.method.name, self.format, self.compat)
    }
}

impl Accuracy {
    /// With the judge of the settings, if they name one.
    ///
    /// # Errors
    /// On an unknown method, on method `llm` without a judge, and on a judge that cannot be asked.
    pub fn new(settings: &RewardSettings) -> Result<Self> {
        let judge = settings.judge.as_ref().map(Judge::open).transpose()?;
        Self::judged(settings, judge.map(|j| Arc::new(j) as Arc<dyn SameAnswer>))
    }

    /// With this judge, whatever the settings name.
    pub(super) fn judged(
        settings: &RewardSettings,
        judge: Option<Arc<dyn SameAnswer>>,
    ) -> Result<Self> {
        let name = settings.accuracy_method.as_str();
        let method = method_by_name(name).ok_or_else(|| unknown_method(Error::usage, name))?;
        if name == "llm" && judge.is_none() {
            return Err(no_judge(Error::usage));
        }
        Ok(Accuracy {
            format: settings.answer_format,
            answer_tag: settings.answer_tag,
            compat: settings.compat,
            method,
            judge,
            boxes: Detection::new(settings)?,
        })
    }

    fn score_one(&self, s: &Sample<'_>) -> Result<Option<f64>> {
        if reference_answer(s.answer).is_empty() {
            return Ok(None);
        }
        let method = match s.columns.get(METHOD_COLUMN) {
            None | Some(Value::Null) => self.method,
            Some(Value::String(name)) if name.is_empty() => self.method,
            Some(Value::String(name)) => {
                method_by_name(name).ok_or_else(|| unknown_method(Error::data, name))?
            }
            Some(other) => return Err(unknown_method(Error::data, &other.to_string())),
        };
        (method.score)(self, s)
    }

    /// The answer that is judged; None earns nothing.
    fn said<'t>(&self, s: &Sample<'t>) -> Option<Cow<'t, str>> {
        let whole = || (!self.answer_tag).then_some(Cow::Borrowed(s.completion));
        completion::answer(s.completion, self.format).or_else(whole)
    }

    /// 1 if the answer is there and `right` of it and the reference, else 0.
    fn paid(&self, s: &Sample<'_>, right: impl Fn(&str, &str) -> bool) -> Result<Option<f64>> {
        let said = self.said(s);
        let right = said.is_some_and(|said| right(&said, reference_answer(s.answer)));
        Ok(Some(f64::from(right)))
    }

    fn by_cascade(&self, s: &Sample<'_>) -> Result<Option<f64>> {
        match self.compat {
            Compat::None => {}
            Compat::VlmR1 => return Ok(Some(vlm_r1::default_accuracy(s.completion, s.answer))),
            Compat::MllmEvaluator => return self.by_calculator(s),
            Compat::Trl => return Ok(trl_accuracy(s.completion, s.answer)),
        }
        let row = Row::of(s)?;
        let reference = reference_answer(s.answer);
        let Some(said) = self.said(s) else { return Ok(Some(0.0)) };
        match (decide(&said, reference, &row), &self.judge) {
            (Verdict::Same, _) => Ok(Some(1.0)),
            (Verdict::Open, Some(judge)) => {
                Ok(judge.same_answer(s.prompt, reference, &said)?.map(f64::from))
            }
            _ => Ok(Some(0.0)),
        }
    }

    /// The calculator of `mllm_evaluator`.
    fn by_calculator(&self, s: &Sample<'_>) -> Result<Option<f64>> {
        let said = match self.format {
            AnswerFormat::Json => mllm_evaluator::json_answer(s.completion),
            _ => self.said(s).map(Cow::into_owned),
        };
        let Some(said) = said else { return Ok(Some(0.0)) };
        let reference = reference_answer(s.answer);
        mllm_evaluator::score(s.prompt, &said, reference, self.judge.as_deref())
    }

    fn by_text(&self, s: &Sample<'_>) -> Result<Option<f64>> {
        self.paid(s, same_answer)
    }

    fn by_judge(&self, s: &Sample<'_>) -> Result<Option<f64>> {
        let judge = self.judge.as_ref().ok_or_else(|| no_judge(Error::data))?;
        let reference = reference_answer(s.answer);
        let Some(said) = self.said(s) else { return Ok(Some(0.0)) };
        // Nothing is no answer, and the same text needs no opinion.
        if normalise(&said).is_empty() || same_answer(&said, reference) {
            return Ok(Some(f64::from(same_answer(&said, reference))));
        }
        Ok(judge.same_answer(s.prompt, reference, &said)?.map(f64::from))
    }

    fn by_math(&self, s: &Sample<'_>) -> Result<Option<f64>> {
        if self.compat == Compat::VlmR1 {
            return Ok(Some(vlm_r1::math(s.completion, s.answer)));
        }
        let said = self.said(s);
        Ok(math_score(said.as_deref(), reference_answer(s.answer)))
    }

    /// `mcq`; None if the reference is no choice.
    pub(super) fn by_choice(&self, s: &Sample<'_>) -> Result<Option<f64>> {
        if self.compat == Compat::VlmR1 {
            return Ok(Some(vlm_r1::mcq(s.completion, s.answer)));
        }
        let (row, reference) = (Row::of(s)?, reference_answer(s.answer));
        let said = self.said(s).unwrap_or_default();
        let among = choice::verdict(&said, reference, row.choices.as_ref());
        let letters = || choice::letter(reference).map(|r| choice::letter(&said) == Some(r));
        Ok(among.or_else(letters).map(f64::from))
    }

    /// `yes_no`; None if the reference is neither.
    pub(super) fn by_yes_no(&self, s: &Sample<'_>) -> Result<Option<f64>> {
        if self.compat == Compat::VlmR1 {
            return Ok(Some(vlm_r1::yes_no(s.completion, s.answer)));
        }
        let said = self.said(s).unwrap_or_default();
        Ok(yes_no::verdict(&said, reference_answer(s.answer)).map(f64::from))
    }

    /// 1 if the cascade without a judge says so; for rewards that pay another sum.
    pub(super) fn by_rules(&self, s: &Sample<'_>) -> Result<bool> {
        let row = Row::of(s)?;
        let right =
            |said: Cow<'_, str>| decide(&said, reference_answer(s.answer), &row) == Verdict::Same;
        Ok(self.said(s).is_some_and(right))
    }
}

/// 1 or 0 by mathematics; None if the reference is none.
pub(super) fn math_score(said: Option<&str>, reference: &str) -> Option<f64> {
    let verdict = equivalent(reference, said.unwrap_or_default(), Rules::Strict)?;
    Some(f64::from(verdict && said.is_some()))
}

/// TRL's `accuracy_reward`: math_verify of the formula that the completion boxes or calls its answer;
/// None if the reference holds no formula.
pub(super) fn trl_accuracy(completion: &str, reference: &str) -> Option<f64> {
    let wanted = extract::node(reference, false)?;
    let said = extract::node(completion, true);
    Some(f64::from(said.is_some_and(|said| same(&wanted, &said, Rules::MathVerify))))
}

fn no_judge(kind: fn(String) -> Error) -> Error {
    kind("method `llm` has no judge to ask".into())
        .key(METHOD_COLUMN)
        .expected("a judge (--judge_url)")
        .found("none")
}

impl Reward for Accuracy {
    fn name(&self) -> &str {
        "accuracy"
    }
    fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
        if self.judge.is_none() {
            return samples.iter().map(|s| self.score_one(s)).collect();
        }
        // A judge takes its time: the samples of a group wait for it together.
        std::thread::scope(|scope| {
            let ask = |s| scope.spawn(move || self.score_one(s));
            let threads: Vec<_> = samples.iter().map(ask).collect();
            let joined = threads.into_iter().map(|t| t.join());
            joined.map(|r| r.unwrap_or_else(|p| std::panic::resume_unwind(p))).collect()
        })
    }

    fn figures(&self) -> Vec<(String, f64)> {
        self.judge.as_ref().map(|j| j.figures()).unwrap_or_default()
    }

    fn notices(&self) -> Vec<String> {
        self.judge.as_ref().map(|j| j.notices()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
