//! `detection`: boxes with labels against those of the reference, by VLM-R1's methods. Unless the
//! original is to be reproduced, a box counts with its label only, a box too many costs, and "no object"
//! has to be said.

mod average_precision; // COCO's
mod items; // boxes with labels in a text
mod original; // VLM-R1's rules, holes and all
mod weighted; // position and completeness

use crate::base::{Error, Result};
use crate::reward::answer::{reference_answer, same_answer};
use crate::reward::boxes::Rescale;
use crate::reward::{Compat, Reward, RewardSettings, Sample, completion};
use average_precision::{Item, average_precision};
use items::{Labelled, Said};
use original::Original;

/// How boxes are judged: the values of VLM-R1's `accu_reward_method` that are about boxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DetectionMethod {
    /// Mean average precision, wherever the boxes stand in the text.
    Map,
    /// The same of the answer.
    OdAp,
    /// At an overlap of 0.5 only.
    OdAp50,
    /// Mean average precision times the share of boxes that are not too many.
    OdLength,
    /// 0.7 of overlap, 0.3 of completeness.
    WeightedSum,
    /// The answer is the reference, as text.
    AllMatch,
}

/// Names of [`DetectionMethod`].
const METHODS: [(&str, DetectionMethod); 6] = [
    ("map", DetectionMethod::Map),
    ("od_ap", DetectionMethod::OdAp),
    ("od_ap50", DetectionMethod::OdAp50),
    ("odLength", DetectionMethod::OdLength),
    ("weighted_sum", DetectionMethod::WeightedSum),
    ("all_match", DetectionMethod::AllMatch),
];

impl DetectionMethod {
    /// The method of this name, if it is one about boxes.
    pub fn named(name: &str) -> Option<Self> {
        METHODS.iter().find(|(n, _)| *n == name).map(|(_, method)| *method)
    }
}

/// 0 to 1. The method is that of the row's column `accu_reward_method`, else that of the option of this
/// name, else `odLength`. None for rows without a reference, and for rows whose column names a method
/// that is not about boxes.
#[derive(Debug, Clone)]
pub struct Detection {
    settings: RewardSettings,
    method: DetectionMethod,
    original: Option<Original>,
}

impl Detection {
    /// As the settings say.
    ///
    /// # Errors
    /// None that a user can cause.
    pub fn new(settings: &RewardSettings) -> Result<Self> {
        let method = DetectionMethod::named(&settings.accuracy_method);
        let original = (settings.compat == Compat::VlmR1).then(Original::new).transpose()?;
        Ok(Detection {
            settings: settings.clone(),
            method: method.unwrap_or(DetectionMethod::OdLength),
            original,
        })
    }

    /// The score of one sample by `method`.
    ///
    /// # Errors
    /// If the reference cannot be read, or its coordinates need an image that is not there.
    pub fn score_by(&self, method: DetectionMethod, s: &Sample<'_>) -> Result<Option<f64>> {
        let reference = reference_answer(s.answer);
        if reference.is_empty() {
            return Ok(None);
        }
        if let Some(original) = &self.original {
            return original.score(method, s.completion, s.answer).map(Some);
        }
        let answer = completion::answer(s.completion, self.settings.answer_format);
        let answer = answer.unwrap_or_default();
        if method == DetectionMethod::AllMatch {
            return Ok(Some(f64::from(same_answer(&answer, reference))));
        }
        let truth = truth(reference)?;
        let rescale = Rescale::of(s, &self.settings);
        if let Ok(rescale) = &rescale {
            truth.iter().try_for_each(|b| rescale.check(&b.rect))?;
        }
        let named = match items::said(&answer) {
            Said::Nothing => return Ok(Some(f64::from(truth.is_empty()))),
            Said::Boxes(_) if truth.is_empty() => return Ok(Some(0.0)),
            Said::Boxes(boxes) => boxes,
            Said::Unreadable => return Ok(Some(0.0)),
        };
        let rescale = rescale?;
        let all = named.len();
        let moved = |b: Labelled| Some(Labelled { rect: rescale.apply(b.rect)?, ..b });
        let boxes: Vec<Labelled> = named.into_iter().flatten().filter_map(moved).collect();
        Ok(Some(judged(method, &truth, &boxes, all)))
    }

    fn score_one(&self, s: &Sample<'_>) -> Result<Option<f64>> {
        match s.columns.get("accu_reward_method").and_then(|v| v.as_str()) {
            None | Some("default") => self.score_by(self.method, s),
            Some(name) => match DetectionMethod::named(name) {
                Some(method) => self.score_by(method, s),
                None => Ok(None),
            },
        }
    }
}

/// Reference boxes; "None" is none.
fn truth(reference: &str) -> Result<Vec<Labelled>> {
    let wrong = || {
        Error::data("the reference answer is not a list of boxes")
            .expected(r#"[{"bbox_2d": [left, top, right, bottom], "label": "..."}, ...] or None"#)
            .found(format!("`{}`", reference.chars().take(80).collect::<String>()))
    };
    match items::said(reference) {
        Said::Nothing => Ok(Vec::new()),
        Said::Boxes(boxes) => boxes.into_iter().collect::<Option<_>>().ok_or_else(wrong),
        Said::Unreadable => Err(wrong()),
    }
}

fn coco(boxes: &[Labelled]) -> Vec<Item<'_>> {
    boxes.iter().map(|b| Item { label: &b.label, sides: b.rect.sides }).collect()
}

/// The score of boxes, `all` of which were named; those that are not in `boxes` are none.
fn judged(method: DetectionMethod, truth: &[Labelled], boxes: &[Labelled], all: usize) -> f64 {
    let not_too_many = (truth.len() as f64 / all as f64).min(1.0);
    let precision =
        |at: usize| average_precision(&coco(truth), &coco(boxes))[at].max(0.0) * not_too_many;
    match method {
        DetectionMethod::OdAp50 => precision(1),
        DetectionMethod::WeightedSum => {
            let iou = |i: usize, j: usize| match boxes[i].label == truth[j].label {
                true => boxes[i].rect.iou(&truth[j].rect),
                false => 0.0,
            };
            let pairs = weighted::greedy(boxes.len(), truth.len(), iou);
            let overlap: f64 = pairs.iter().map(|p| p.iou).sum();
            weighted::sum(overlap, pairs.len(), truth.len(), all)
        }
        _ => precision(0),
    }
}

impl Reward for Detection {
    fn name(&self) -> &str {
        "detection"
    }
    fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
        samples.iter().map(|s| self.score_one(s)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::boxes::BoxSpace;
    use crate::reward::{ImageSizes, table_rows, test_sample};
    use serde_json::{Map, json};

    /// Rows `{method, said, answer, score, why}` written by hand; `said` goes inside the tags unless
    /// `raw` is true.
    const TABLE: &str = include_str!("../../../../tests/data/rewards/detection.jsonl");
    /// Rows `{method, completion, solution, reward}` of VLM-R1's `accuracy_reward`: see
    /// `tools/golden/vlm_r1_rewards.py`.
    const COMPAT: &str = include_str!("../../../../tests/data/rewards/detection_compat.jsonl");

    fn detection(compat: Compat) -> Detection {
        let box_space = BoxSpace::Reference;
        Detection::new(&RewardSettings { compat, box_space, ..RewardSettings::default() }).unwrap()
    }

    #[test]
    fn adversarial_table() {
        let (columns, reward) = (Map::new(), detection(Compat::None));
        let mut rows = 0;
        for row in table_rows(TABLE) {
            let text = |k: &str| row[k].as_str().unwrap();
            let said = match row.get("raw") {
                Some(_) => text("said").to_string(),
                None => format!("<think>hm</think><answer>{}</answer>", text("said")),
            };
            let method = DetectionMethod::named(text("method")).unwrap();
            let got = reward.score_by(method, &test_sample(&said, text("answer"), &[], &columns));
            match row["score"].as_f64() {
                Some(want) => {
                    let got = got.unwrap().unwrap();
                    assert!((got - want).abs() < 1e-9, "{got}, not {want}: {}", row["why"]);
                }
                None => assert!(!matches!(got, Ok(Some(_))), "{}", row["why"]),
            }
            rows += 1;
        }
        assert!(rows >= 30, "the table lost rows: {rows}");
    }

    #[test]
    fn equals_vlm_r1_in_compat() {
        let (columns, reward) = (Map::new(), detection(Compat::VlmR1));
        let mut seen = std::collections::BTreeMap::new();
        for row in table_rows(COMPAT) {
            let text = |k: &str| row[k].as_str().unwrap();
            let method = DetectionMethod::named(text("method")).unwrap();
            let sample = test_sample(text("completion"), text("solution"), &[], &columns);
            let got = reward.score_by(method, &sample).unwrap().unwrap();
            let want = row["reward"].as_f64().unwrap();
            assert!((got - want).abs() < 1e-12, "{got}, not {want}: {row:?}");
            *seen.entry(text("method").to_string()).or_insert(0) += 1;
        }
        assert!(seen.len() == METHODS.len() && seen.values().all(|n| *n >= 10), "{seen:?}");
    }

    #[test]
    fn the_row_decides_and_other_methods_are_not_judged() {
        let one = r#"[{"bbox_2d": [0, 0, 10, 10], "label": "cat"}]"#;
        let said = format!("<answer>{}</answer>", one.replace("[0, 0, 10", "[0, 0, 6"));
        let reward = detection(Compat::None);
        let score = |column: Option<&str>| {
            let mut columns = Map::new();
            if let Some(name) = column {
                columns.insert("accu_reward_method".into(), json!(name));
            }
            reward.score(&[test_sample(&said, one, &[], &columns)]).remove(0).unwrap()
        };
        // An overlap of 0.6 passes three of the ten thresholds.
        let close = |got: Option<f64>, want: f64| (got.unwrap() - want).abs() < 1e-9;
        assert!(close(score(None), 0.3) && close(score(Some("default")), 0.3));
        assert!(close(score(Some("od_ap50")), 1.0));
        assert!(close(score(Some("weighted_sum")), 0.7 * 0.6 + 0.3));
        assert_eq!(score(Some("mcq")), None);
    }

    #[test]
    fn boxes_are_those_of_the_image_that_the_model_saw() {
        let columns = Map::new();
        let images = [ImageSizes { original: [200, 200], seen: [100, 100] }];
        let of = |sides| format!(r#"[{{"bbox_2d": {sides}, "label": "cat"}}]"#);
        let said = format!("<answer>{}</answer>", of("[10, 10, 50, 50]"));
        let answer = of("[20, 20, 100, 100]");
        let sample = test_sample(&said, &answer, &[], &columns);
        let reward = Detection::new(&RewardSettings::default()).unwrap();
        let got = reward.score(&[Sample { images: &images, ..sample }, sample]);
        assert!((got[0].as_ref().unwrap().unwrap() - 1.0).abs() < 1e-9);
        assert!(got[1].is_err());
    }
}
