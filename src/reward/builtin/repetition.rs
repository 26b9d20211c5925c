//! `repetition`: a completion that says the same over and over loses. It never pays, and never asks
//! whether what is said is right.

use crate::base::{Error, Result};
use crate::reward::tags::is_python_space;
use crate::reward::{Compat, Reward, RewardSettings, Sample};
use regex::Regex;
use serde_json::Value;
use std::collections::HashSet;
use std::hash::Hash;

/// Characters from which on a piece without spaces is not one word but its characters.
const LONG_PIECE: usize = 30;

/// `(1 - distinct / all) max_penalty` over the n-grams of a completion: from `max_penalty` to 0.
///
/// Whose n-grams depends on `compat`:
///
/// - none: words in lower case without punctuation around them. Characters of scripts that put no spaces
///   between words, and of pieces too long to be a word, count as words, so that a text cannot hide its
///   repetitions in one long piece; and n is at most half the number of words, so that a short text
///   cannot hide them either.
/// - TRL: tokens (`get_repetition_penalty_reward`).
/// - VLM-R1 (`repetition_reward` of `grpo_jsonl.py`): single objects of a JSON list of boxes if there is
///   one, else 6-grams of words; -1 at most. JSON that does not parse is text here; VLM-R1 first tries
///   to repair it.
#[derive(Debug, Clone)]
pub struct Repetition {
    n: usize,
    max_penalty: f64,
    units: Units,
}

#[derive(Debug, Clone)]
enum Units {
    Words,
    Tokens,
    VlmR1([Regex; 3]),
}

impl Repetition {
    /// As the settings say.
    ///
    /// # Errors
    /// If n is 0, or the penalty would pay.
    pub fn new(settings: &RewardSettings) -> Result<Self> {
        let (n, max_penalty) =
            (settings.length.repetition_n_grams, settings.length.repetition_max_penalty);
        if n == 0 {
            return Err(Error::usage("n-grams of no words")
                .key("repetition_n_grams")
                .expected("at least 1")
                .found("0"));
        }
        if !(max_penalty <= 0.0 && max_penalty.is_finite()) {
            return Err(Error::usage("`repetition` would pay for repeating")
                .key("repetition_max_penalty")
                .expected("0 or less")
                .found(max_penalty.to_string()));
        }
        let units = match settings.compat {
            Compat::Trl => Units::Tokens,
            Compat::VlmR1 => Units::VlmR1(patterns()?),
            Compat::None | Compat::MllmEvaluator => Units::Words,
        };
        Ok(Repetition { n, max_penalty, units })
    }

    fn score_one(&self, s: &Sample<'_>) -> f64 {
        match &self.units {
            Units::Words => {
                let words = words(s.completion);
                let n = self.n.min(words.len() / 2).max(1);
                repeated(&words, n) * self.max_penalty + 0.0
            }
            Units::Tokens => repeated(s.completion_ids, self.n) * self.max_penalty + 0.0,
            Units::VlmR1(patterns) => -vlm_r1(s.completion, patterns) + 0.0,
        }
    }
}

/// Share of n-grams that stood before; 0 if there is none.
fn repeated<T: Hash + Eq>(units: &[T], n: usize) -> f64 {
    let all = (units.len() + 1).saturating_sub(n);
    if all == 0 {
        return 0.0;
    }
    let distinct: HashSet<&[T]> = units.windows(n).collect();
    1.0 - distinct.len() as f64 / all as f64
}

/// Words as [`Repetition`] counts them.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let lower = text.to_lowercase();
    for piece in lower.split_whitespace() {
        let bare = piece.trim_matches(|c: char| !c.is_alphanumeric());
        // A piece of punctuation only stays what it is.
        let word = if bare.is_empty() { piece } else { bare };
        if word.chars().nth(LONG_PIECE).is_some() || word.chars().any(is_unspaced) {
            words.extend(word.chars().map(String::from));
        } else {
            words.push(word.to_string());
        }
    }
    words
}

/// Characters of scripts that are written without spaces: Thai, Lao, Tibetan, Myanmar, Khmer, kana,
/// CJK ideographs.
fn is_unspaced(c: char) -> bool {
    matches!(c, '\u{e00}'..='\u{fff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}'
        | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// Where VLM-R1 looks for boxes: a `json` fence, any fence, a list of objects with box and label.
fn patterns() -> Result<[Regex; 3]> {
    let compiled = |p: &str| {
        Regex::new(p).map_err(|e| Error::internal(format!("a pattern of `repetition`: {e}")))
    };
    let list = r#"(?s)(\[[\s\x1c-\x1f]*\{.*?"bbox_2d".*?"label".*?\}[\s\x1c-\x1f]*\])"#;
    Ok([compiled(r"(?s)```json(.*?)```")?, compiled(r"(?s)```(.*?)```")?, compiled(list)?])
}

/// Share of repetition as VLM-R1 counts it.
fn vlm_r1(text: &str, patterns: &[Regex; 3]) -> f64 {
    let found = |p: &Regex| {
        let inside = p.captures(text)?.get(1)?.as_str().trim_matches(is_python_space);
        Some(inside).filter(|t| !t.is_empty())
    };
    // An empty `json` fence is found and stays the only one that is looked at.
    let json = match patterns[0].is_match(text) {
        true => found(&patterns[0]),
        false => found(&patterns[1]).or_else(|| found(&patterns[2])),
    };
    if let Some(Ok(Value::Array(items))) = json.map(serde_json::from_str::<Value>)
        && !items.is_empty()
    {
        let named = |item: &Value| {
            let label = &item.get("label")?;
            let label = label.as_str().map_or_else(|| label.to_string(), str::to_string);
            Some(format!("{}_{label}", item.get("bbox_2d")?))
        };
        return repeated(&items.iter().filter_map(named).collect::<Vec<_>>(), 1);
    }
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split(is_python_space).filter(|w| !w.is_empty()).collect();
    repeated(&words, 6)
}

impl Reward for Repetition {
    fn name(&self) -> &str {
        "repetition"
    }
    fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
        samples.iter().map(|s| Ok(Some(self.score_one(s)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::settings::LengthSettings;
    use crate::reward::{table_rows, test_sample};
    use serde_json::Map;

    /// Rows `{n, max_penalty, ids, reward}` of TRL's `get_repetition_penalty_reward`, made by
    /// `tools/golden/rewards.py`.
    const TRL: &str = include_str!("../../../tests/data/rewards/repetition_trl.jsonl");
    /// Rows `{completion, repetition}` of VLM-R1's `repetition_reward`: see
    /// `tools/golden/vlm_r1_rewards.py`.
    const VLM_R1: &str = include_str!("../../../tests/data/rewards/repetition_vlm_r1.jsonl");

    fn reward(compat: Compat, n: usize, max_penalty: f64) -> Repetition {
        let length = LengthSettings {
            repetition_n_grams: n,
            repetition_max_penalty: max_penalty,
            ..LengthSettings::default()
        };
        let settings = RewardSettings { compat, length, ..RewardSettings::default() };
        Repetition::new(&settings).unwrap()
    }

    #[test]
    fn equals_trl_in_compat() {
        let (columns, mut rows) = (Map::new(), 0);
        for row in table_rows(TRL) {
            let list = row["ids"].as_array().unwrap();
            let ids: Vec<u32> = list.iter().map(|v| v.as_u64().unwrap() as u32).collect();
            let (n, most) = (row["n"].as_u64().unwrap(), row["max_penalty"].as_f64().unwrap());
            let reward = reward(Compat::Trl, n as usize, most);
            let got = reward.score_one(&test_sample("", "", &ids, &columns));
            assert!((got - row["reward"].as_f64().unwrap()).abs() < 1e-12, "{got}: {row:?}");
            rows += 1;
        }
        assert!(rows >= 15);
    }

    #[test]
    fn equals_vlm_r1_in_compat() {
        let (columns, reward) = (Map::new(), reward(Compat::VlmR1, 3, -1.0));
        let (mut rows, mut punished) = (0, 0);
        for row in table_rows(VLM_R1) {
            let said = row["completion"].as_str().unwrap();
            let got = reward.score_one(&test_sample(said, "", &[], &columns));
            let want = row["repetition"].as_f64().unwrap();
            assert!((got - want).abs() < 1e-12, "{got}, not {want}: {said:?}");
            rows += 1;
            punished += usize::from(got < 0.0);
        }
        assert!(rows >= 15 && punished >= 5, "{rows} {punished}");
    }

    #[test]
    fn repetition_does_not_hide() {
        let columns = Map::new();
        let ours = reward(Compat::None, 3, -1.0);
        let score = |t: &str| ours.score_one(&test_sample(t, "", &[], &columns));
        for said in [
            "",
            "red",
            "red car",
            "a cup on the left of the mat",
            "水在杯子里面吗",
            "The cat sat. The dog ran, and a bird sang in the tree.",
        ] {
            assert_eq!(score(said), 0.0, "{said:?}");
            assert!(score(said).is_sign_positive());
        }
        assert_eq!(score("yes yes"), -0.5);
        assert_eq!(score("Yes, yes. YES! yes?"), -(1.0 - 1.0 / 3.0));
        for said in [
            "yes yes yes yes yes yes yes yes".to_string(),
            "yes".repeat(100),
            "不".repeat(40),
            "是不是".repeat(30),
            "!!!!".repeat(50),
            "ha ".repeat(50),
            "สวัสดี".repeat(20),
            "a,b,".repeat(40),
            "so\u{a0}so\u{3000}so so so so so".to_string(),
        ] {
            assert!(score(&said) < -0.6, "{said}: {}", score(&said));
        }
        assert_eq!(
            reward(Compat::None, 1, -2.0).score_one(&test_sample("a a", "", &[], &columns)),
            -1.0
        );
    }

    #[test]
    fn penalties_do_not_pay() {
        for (n, most) in [(0, -1.0), (3, 0.5), (3, f64::NAN)] {
            let length = LengthSettings {
                repetition_n_grams: n,
                repetition_max_penalty: most,
                ..LengthSettings::default()
            };
            let error = Repetition::new(&RewardSettings { length, ..RewardSettings::default() });
            assert_eq!(error.unwrap_err().exit_code(), 2);
        }
    }
}
