//! `explanation`: the text inside `<explain>` against reference explanations, by shared words and pairs of
//! words and, with a sentence encoder, by meaning. It never looks at the answer.

use crate::base::Result;
use crate::reward::completion::explanation;
use crate::reward::settings::RewardSettings;
use crate::reward::steps::{Similarity, column_texts, common, words};
use crate::reward::{Reward, Sample};
use std::collections::HashSet;

/// Columns that may hold the references, the first that has any counts.
const COLUMNS: [&str; 3] = ["explanation", "explanations", "explains"];
/// Longest n-grams that are compared, in words.
const LONGEST: usize = 2;

/// 0 to 1; None for rows without a reference explanation.
///
/// With words as [`words`] finds them, `c` the n-grams that two texts share (each as often as the text
/// that has it less often), `p` and `r` those that they have,
///
/// ```text
/// F1_n  = 2 c / (p + r)                          for n = 1, 2, unless p + r = 0
/// words = the mean of F1_n
/// sense = max(0, cosine of the embeddings) * distinct pairs of words / pairs of words said
/// score = words, or (words + sense) / 2 with an encoder; the best over the references
/// ```
///
/// Saying words again adds to `p` but not to `c`, and lowers the share of distinct pairs: it never pays.
#[derive(Debug, Clone)]
pub struct Explanation {
    similarity: Similarity,
}

impl Explanation {
    /// From the settings; opens the sentence encoder if they name one.
    ///
    /// # Errors
    /// If the encoder cannot be read.
    pub fn new(settings: &RewardSettings) -> Result<Self> {
        Ok(Explanation { similarity: Similarity::of(&settings.steps, settings.compat)? })
    }

    fn score_one(&self, s: &Sample<'_>) -> Result<Option<f64>> {
        let references = references(s)?;
        if references.is_empty() {
            return Ok(None);
        }
        let said = explanation(s.completion).unwrap_or_default();
        let said_words = words(said);
        if said_words.is_empty() {
            return Ok(Some(0.0));
        }
        let shared = |reference: &String| shared_n_grams(&said_words, &words(reference));
        let mut scores: Vec<f64> = references.iter().map(shared).collect();
        if let Similarity::Encoder(_) = &self.similarity {
            let texts: Vec<&str> = references.iter().map(String::as_str).collect();
            let alike = self.similarity.table(&[said], &texts)?;
            let distinct = distinct_pairs(&said_words);
            for (score, cosine) in scores.iter_mut().zip(&alike[0]) {
                *score = (*score + cosine.clamp(0.0, 1.0) * distinct) / 2.0;
            }
        }
        Ok(scores.into_iter().reduce(f64::max))
    }
}

impl Reward for Explanation {
    fn name(&self) -> &str {
        "explanation"
    }
    fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
        let said: Vec<&str> = samples.iter().filter_map(|s| explanation(s.completion)).collect();
        self.similarity.prepare(&said);
        samples.iter().map(|s| self.score_one(s)).collect()
    }
}

/// Reference explanations of a row that have words: from its columns, or from its answer.
fn references(s: &Sample<'_>) -> Result<Vec<String>> {
    for key in COLUMNS {
        let whole = |text: &str| vec![explanation(text).unwrap_or(text).to_owned()];
        let mut texts = column_texts(s.columns, key, whole)?;
        texts.retain(|text| !words(text).is_empty());
        if !texts.is_empty() {
            return Ok(texts);
        }
    }
    let own = explanation(s.answer).filter(|text| !words(text).is_empty());
    Ok(own.map(str::to_owned).into_iter().collect())
}

/// Mean F1 of the n-grams up to [`LONGEST`] that at least one of the texts has.
fn shared_n_grams(said: &[String], reference: &[String]) -> f64 {
    let of = |n: usize| {
        let (p, r): (Vec<_>, Vec<_>) = (said.windows(n).collect(), reference.windows(n).collect());
        let both = p.len() + r.len();
        (both > 0).then(|| 2.0 * common(&p, &r) as f64 / both as f64)
    };
    let found: Vec<f64> = (1..=LONGEST).filter_map(of).collect();
    found.iter().sum::<f64>() / found.len().max(1) as f64
}

/// Share of distinct ones among a text's pairs of words; 1 if there are none.
fn distinct_pairs(words: &[String]) -> f64 {
    let pairs = words.windows(2);
    let count = pairs.len();
    let distinct = pairs.collect::<HashSet<_>>().len();
    if count == 0 { 1.0 } else { distinct as f64 / count as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::test_sample;
    use serde_json::{Value, json};
    use std::path::Path;

    fn reward(encoder: bool) -> Explanation {
        let mut settings = RewardSettings::default();
        let tiny =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sentence_encoder/tiny_bert");
        settings.steps.sentence_encoder = encoder.then_some(tiny);
        Explanation::new(&settings).unwrap()
    }

    fn score(encoder: bool, columns: &Value, answer: &str, said: &str) -> Option<f64> {
        let sample = test_sample(said, answer, &[], columns.as_object().unwrap());
        reward(encoder).score(&[sample]).pop().unwrap().unwrap()
    }

    /// The score of an explanation against one reference, without an encoder.
    fn against(reference: &str, said: &str) -> f64 {
        let said = format!("<answer>x</answer><explain>{said}</explain>");
        score(false, &json!({ "explanation": reference }), "x", &said).unwrap()
    }

    #[test]
    fn words_and_pairs_of_words_are_counted_once() {
        assert_eq!(against("a cat sits on a mat", "A cat sits on a mat."), 1.0);
        // Words: 2 of 3 and 4, so 2*2/7; pairs: 1 of 2 and 3, so 2*1/5.
        let want = (2.0 * 2.0 / 7.0 + 2.0 * 1.0 / 5.0) / 2.0;
        assert!((against("a cat on mats", "the a cat") - want).abs() < 1e-12);
        assert_eq!(against("cat", "cat"), 1.0, "no pairs to compare");
        assert_eq!(against("cat", "a cat"), (2.0 / 3.0 + 0.0) / 2.0);
        assert_eq!(against("cat", "dog"), 0.0);
        assert_eq!(against("vì trời nắng", "Vi\u{300} trơ\u{300}i nă\u{301}ng!"), 1.0);
        assert_eq!(against("红色", "红的"), (2.0 / 4.0) / 2.0);
    }

    #[test]
    fn repeating_never_pays() {
        let reference = "vì người đàn ông đang cưỡi ngựa trên bãi biển";
        let columns = json!({ "explanation": reference });
        for said in ["người đàn ông", "người đàn ông đang cưỡi", reference, "ngựa", "con mèo đen"]
        {
            for encoder in [false, true] {
                let of = |text: &str| {
                    score(encoder, &columns, "", &format!("<explain>{text}</explain>")).unwrap()
                };
                let once = of(said);
                for times in [2, 3, 5, 20] {
                    let again = vec![said; times].join(" ");
                    let (again, most) = (of(&again), once + 1e-9);
                    // One word said twice is a pair, and a text of its own to an encoder.
                    if said.contains(' ') || !encoder {
                        assert!(again <= most, "{said} x{times}: {again} after {once}");
                    }
                }
            }
        }
    }

    #[test]
    fn references_come_from_columns_or_from_the_answer() {
        let said =
            "<think><explain>no</explain></think><answer>x</answer><explain> a cat </explain>";
        for columns in [
            json!({"explanation": "a cat"}),
            json!({"explanations": ["two dogs", "a cat"]}),
            json!({"explanations": "[\"two dogs\", \"a cat\"]"}),
            json!({"explanation": "", "explains": ["a cat"]}),
            json!({"explanation": "<answer>x</answer><explain>a cat</explain>"}),
        ] {
            assert_eq!(score(false, &columns, "", said), Some(1.0), "{columns}");
        }
        let answer = "<answer>x</answer><explain>a cat</explain>";
        assert_eq!(score(false, &json!({}), answer, said), Some(1.0));
        for columns in [json!({}), json!({"explanation": null}), json!({"explanations": ["", "!"]})]
        {
            assert_eq!(score(false, &columns, "x", said), None, "{columns}");
        }
    }

    #[test]
    fn nothing_said_is_worth_nothing() {
        let columns = json!({"explanation": "a cat"});
        for said in [
            "",
            "a cat",
            "<explain></explain>",
            "<explain> !? </explain>",
            "<explain>a cat",
            "<think><explain>a cat</explain></think>",
        ] {
            for encoder in [false, true] {
                assert_eq!(score(encoder, &columns, "", said), Some(0.0), "{said}");
            }
        }
    }

    #[test]
    fn an_encoder_has_half_the_say() {
        let columns = json!({"explanation": "a red ball on the table"});
        let same = score(true, &columns, "", "<explain>a red ball on the table</explain>").unwrap();
        assert!((same - 1.0).abs() < 1e-6, "{same}");
        let said = "<explain>the two dogs are running</explain>";
        let by_words = score(false, &columns, "", said).unwrap();
        let both = score(true, &columns, "", said).unwrap();
        let tiny = reward(true);
        let texts = ["the two dogs are running", "a red ball on the table"];
        let cosine = tiny.similarity.table(&texts[..1], &texts[1..]).unwrap()[0][0];
        assert!((both - (by_words + cosine.max(0.0)) / 2.0).abs() < 1e-12, "{both} {cosine}");
    }
}
