//! `iou`: overlap of the answer's box with the reference box, for referring expressions. It never looks
//! for the best of several boxes: an answer names one.

use crate::base::{Error, Result};
use crate::reward::answer::{reference_answer, tagged_answer};
use crate::reward::boxes::{BoxSpace, Rect, Rescale, four_number_lists};
use crate::reward::{Compat, Reward, RewardSettings, Sample, completion};
use regex::Regex;

/// Intersection over union, 0 to 1; None for rows without a reference.
///
/// With `compat` VLM-R1's, that of its `iou_reward` (`vlm_modules/qwen_module.py`,
/// `internvl_module.py`): the first list of four whole numbers in the first `<answer>`, edges as pixels
/// that belong to the box; boxes with edges on the wrong side are not refused and may earn anything.
#[derive(Debug, Clone)]
pub struct Iou {
    settings: RewardSettings,
    /// First answer and first list of whole numbers, where VLM-R1's are to be found.
    original: Option<[Regex; 2]>,
}

impl Iou {
    /// As the settings say.
    ///
    /// # Errors
    /// None that a user can cause.
    pub fn new(settings: &RewardSettings) -> Result<Self> {
        let wrong = |e| Error::internal(format!("a pattern of `iou`: {e}"));
        let original = if settings.compat == Compat::VlmR1 {
            let number = r"([0-9]+)";
            let list = [number; 4].join(r",[\s\x1c-\x1f]*");
            let answer = Regex::new(r"(?s)<answer>(.*?)</answer>").map_err(wrong)?;
            Some([answer, Regex::new(&format!(r"\[{list}\]")).map_err(wrong)?])
        } else {
            None
        };
        Ok(Iou { settings: settings.clone(), original })
    }

    fn score_one(&self, s: &Sample<'_>) -> Result<Option<f64>> {
        if reference_answer(s.answer).is_empty() {
            return Ok(None);
        }
        let reference = reference_box(s.answer)?;
        if let Some(patterns) = &self.original {
            return self.original(s, reference, patterns).map(Some);
        }
        let rescale = Rescale::of(s, &self.settings)?;
        rescale.check(&reference)?;
        let said = completion::answer(s.completion, self.settings.answer_format);
        let lists = said.map(|t| four_number_lists(&t)).unwrap_or_default();
        let [only] = lists[..] else { return Ok(Some(0.0)) };
        let named = Rect::new(only).and_then(|r| rescale.apply(r));
        Ok(Some(named.map_or(0.0, |r| r.iou(&reference))))
    }

    fn original(&self, s: &Sample<'_>, reference: Rect, patterns: &[Regex; 2]) -> Result<f64> {
        let [answer, list] = patterns;
        let said = answer.captures(s.completion).and_then(|c| c.get(1)).map_or("", |m| m.as_str());
        let Some(found) = list.captures(said) else { return Ok(0.0) };
        let mut named: [f64; 4] = std::array::from_fn(|i| found[i + 1].parse().unwrap_or(f64::NAN));
        if self.settings.box_space != BoxSpace::Reference {
            // Checks that there is an image; the original rescales without looking where a box ends.
            Rescale::of(s, &self.settings)?;
            let sizes = s.images[0];
            let thousand = self.settings.box_space == BoxSpace::Thousand;
            let units = if thousand { [1000; 2] } else { sizes.seen };
            for (i, x) in named.iter_mut().enumerate() {
                *x = *x / units[i % 2] as f64 * sizes.original[i % 2] as f64;
            }
        }
        Ok(pixel_iou(named, reference.sides).unwrap_or(0.0))
    }
}

/// VLM-R1's `iou`: the right and bottom edges are the pixels after the box's last, and the last common
/// pixels must lie past the first ones. None where it divides by 0.
pub(super) fn pixel_iou(a: [f64; 4], b: [f64; 4]) -> Option<f64> {
    let (left, top) = (a[0].max(b[0]), a[1].max(b[1]));
    let (right, bottom) = ((a[2] - 1.0).min(b[2] - 1.0), (a[3] - 1.0).min(b[3] - 1.0));
    let both = if left < right && top < bottom {
        (right - left + 1.0) * (bottom - top + 1.0)
    } else {
        0.0
    };
    let area = |r: [f64; 4]| (r[2] - r[0]) * (r[3] - r[1]);
    let union = area(a) + area(b) - both;
    (union != 0.0).then(|| both / union)
}

/// The one box of a reference answer.
fn reference_box(answer: &str) -> Result<Rect> {
    let text = tagged_answer(answer).unwrap_or(answer);
    let lists = four_number_lists(text);
    let rect = if let [only] = lists[..] { Rect::new(only) } else { None };
    rect.ok_or_else(|| {
        Error::data("the reference answer is not a box")
            .expected("one list of left, top, right and bottom, such as [10, 20, 110, 220]")
            .found(format!("`{}`", text.chars().take(80).collect::<String>()))
    })
}

impl Reward for Iou {
    fn name(&self) -> &str {
        "iou"
    }
    fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
        samples.iter().map(|s| self.score_one(s)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::boxes::BOX_SPACES;
    use crate::reward::{ImageSizes, table_rows, test_sample};
    use serde_json::{Map, Value};

    /// Rows `{space, said, answer, score, why}` on an image of 640 x 480 that the model sees in
    /// 320 x 240, written by hand; `said` goes inside the tags unless `raw` is true.
    const TABLE: &str = include_str!("../../../tests/data/rewards/iou.jsonl");
    /// Rows `{space, original, seen, completion, solution, iou}` of VLM-R1's `iou_reward`: see
    /// `tools/golden/vlm_r1_rewards.py`.
    const COMPAT: &str = include_str!("../../../tests/data/rewards/iou_compat.jsonl");

    fn iou(compat: Compat, space: &Value) -> Iou {
        let named = BOX_SPACES.iter().find(|(n, _)| Some(*n) == space.as_str()).unwrap();
        Iou::new(&RewardSettings { compat, box_space: named.1, ..RewardSettings::default() })
            .unwrap()
    }

    #[test]
    fn adversarial_table() {
        let columns = Map::new();
        let images = [ImageSizes { original: [640, 480], seen: [320, 240] }];
        let mut rows = 0;
        for row in table_rows(TABLE) {
            let text = |k: &str| row[k].as_str().unwrap();
            let said = match row.get("raw") {
                Some(_) => text("said").to_string(),
                None => format!("<think>hm</think><answer>{}</answer>", text("said")),
            };
            let sample = test_sample(&said, text("answer"), &[], &columns);
            let got = iou(Compat::None, &row["space"])
                .score_one(&Sample { images: &images, ..sample })
                .map_err(|e| e.one_line());
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
        let (columns, mut rows) = (Map::new(), 0);
        for row in table_rows(COMPAT) {
            let text = |k: &str| row[k].as_str().unwrap();
            let pair = |k: &str| [0, 1].map(|i| row[k][i].as_u64().unwrap() as usize);
            let images = [ImageSizes { original: pair("original"), seen: pair("seen") }];
            let sample = test_sample(text("completion"), text("solution"), &[], &columns);
            let reward = iou(Compat::VlmR1, &row["space"]);
            let got = reward.score_one(&Sample { images: &images, ..sample }).unwrap().unwrap();
            let want = row["iou"].as_f64().unwrap();
            assert!((got - want).abs() < 1e-12, "{got}, not {want}: {}", text("completion"));
            rows += 1;
        }
        assert!(rows >= 20, "{rows}");
    }

    #[test]
    fn no_image_costs_the_sample() {
        let columns = Map::new();
        let sample = test_sample("<answer>[0,0,1,1]</answer>", "[0,0,1,1]", &[], &columns);
        let got = iou(Compat::None, &"auto".into()).score(&[sample]);
        assert!(got[0].as_ref().unwrap_err().one_line().contains("--box_space reference"));
    }
}
