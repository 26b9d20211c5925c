//! Runs the tables of answers in `tests/data/rewards`. Used by tests only.

use serde_json::{Map, Value};

use crate::base::Result;
use crate::reward::settings::{ANSWER_FORMATS, COMPATS};
use crate::reward::{Reward, RewardSettings, test_sample};

/// Builds the reward of a row's settings.
pub type Build<'b> = &'b dyn Fn(&RewardSettings) -> Result<Box<dyn Reward>>;

/// Rows `{said, answer, score, why}`: `said` is put inside the tags unless `raw` is true; `columns`,
/// `question`, `format` and `compat` as a run would have them. `least` answers earn nothing in
/// default mode.
pub fn check(table: &str, build: Build<'_>, least: usize) {
    let (mut wrong, mut refused) = (Vec::new(), 0);
    for (i, line) in table.lines().enumerate() {
        let row: Map<String, Value> = serde_json::from_str(line).expect(line);
        let text = |k: &str| row.get(k).and_then(Value::as_str).unwrap_or_default();
        let raw = row.get("raw").and_then(Value::as_bool).unwrap_or(false);
        let said = match raw {
            true => text("said").to_string(),
            false => format!("<think>hm</think>\n<answer>{}</answer>", text("said")),
        };
        let format = ANSWER_FORMATS.iter().find(|(name, _)| *name == text("format"));
        let compat = COMPATS.iter().find(|(name, _)| *name == text("compat"));
        let settings = RewardSettings {
            answer_format: format.map(|f| f.1).unwrap_or_default(),
            compat: compat.map(|c| c.1).unwrap_or_default(),
            ..RewardSettings::default()
        };
        let columns = row.get("columns").and_then(Value::as_object).cloned().unwrap_or_default();
        let mut sample = test_sample(&said, text("answer"), &[], &columns);
        sample.prompt = text("question");
        let reward = build(&settings).expect("the settings of a row");
        let got = reward.score(&[sample]).remove(0).expect("a verdict");
        if got != row["score"].as_f64() {
            wrong.push(format!("line {}: {} ({line}): got {got:?}", i + 1, text("why")));
        }
        refused += usize::from(compat.is_none() && row["score"] == 0.0);
    }
    assert!(wrong.is_empty(), "{} rows\n{}", wrong.len(), wrong.join("\n"));
    assert!(refused >= least, "only {refused} answers that must earn nothing");
}
