//! Match-F1: how many steps of a reasoning say the same as steps of a reference, one to one (the metric of
//! `mllm_evaluator` in the waybarrios fork of VLM-R1; with the order of steps, its proposal "Ordered
//! Match-F1"). Likeness is the cosine of sentence embeddings, or shared words. No step counts twice.

use crate::base::{Error, Result};
use crate::model::encoder::SentenceEncoder;
use crate::reward::settings::{Compat, StepSettings};
use regex::Regex;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use tokenizers::NormalizedString;

/// Most words of a step, by the prompt that asks for steps; a longer one matches nothing.
pub const MOST_WORDS: usize = 14;
/// Most steps of a reference, and of a completion that can match.
pub const MOST_STEPS: usize = 1024;
/// Likeness of shared words above which steps match (`best_match_f1` in `simple_similarity.py`).
const WORDS_THRESHOLD: f64 = 0.3;
/// Cosine above which steps match, for encoders that the table does not name.
const OTHER_THRESHOLD: f64 = 0.45;
/// Cosine above which steps match, by encoder (`model_thresholds` in `mllm_evaluator.py`).
const THRESHOLDS: [(&str, f64); 6] = [
    ("all-minilm-l6-v2", 0.45),
    ("all-minilm-l12-v2", 0.47),
    ("all-mpnet-base-v2", 0.48),
    ("all-distilroberta-v1", 0.50),
    ("paraphrase-multilingual-minilm-l12-v2", 0.43),
    ("paraphrase-multilingual-mpnet-base-v2", 0.45),
];

/// How much alike two steps are.
#[derive(Debug, Clone)]
pub enum Similarity {
    /// Cosine of their embeddings.
    Encoder(Arc<SentenceEncoder>),
    /// Shared [`words`], counted with repetition, over the geometric mean of their numbers.
    Words,
    /// The same with words as Python's `\w+` finds them, and 1 for two texts without words: the original.
    PythonWords,
}

impl Similarity {
    /// What the settings ask for.
    ///
    /// # Errors
    /// If the folder of the encoder cannot be read.
    pub fn of(settings: &StepSettings, compat: Compat) -> Result<Self> {
        match (&settings.sentence_encoder, compat) {
            (Some(dir), _) => Ok(Similarity::Encoder(SentenceEncoder::shared(dir)?)),
            (None, Compat::MllmEvaluator) => Ok(Similarity::PythonWords),
            (None, _) => Ok(Similarity::Words),
        }
    }

    /// The threshold of Match-F1 if nobody sets one.
    pub fn threshold(&self) -> f64 {
        match self {
            Similarity::Encoder(encoder) => encoder_threshold(encoder.folder()),
            _ => WORDS_THRESHOLD,
        }
    }

    /// Embeds texts together that will be compared one by one: faster, and no other result.
    pub fn prepare(&self, texts: &[&str]) {
        if let Similarity::Encoder(encoder) = self {
            // A text that cannot be embedded fails again, with its own sample.
            let _ = encoder.embed(texts);
        }
    }

    /// How much alike each of `left` is with each of `right`.
    ///
    /// # Errors
    /// If a text cannot be embedded.
    pub fn table(&self, left: &[&str], right: &[&str]) -> Result<Vec<Vec<f64>>> {
        let each = |alike: &dyn Fn(usize, usize) -> f64| {
            let row = |i| (0..right.len()).map(|j| alike(i, j)).collect();
            (0..left.len()).map(row).collect()
        };
        Ok(match self {
            Similarity::Encoder(encoder) => {
                let (left, right) = (encoder.embed(left)?, encoder.embed(right)?);
                each(&|i, j| cosine(&left[i], &right[j]))
            }
            Similarity::Words => {
                let [left, right] = [left, right].map(|t| t.iter().map(|t| words(t)).collect());
                let (left, right): (Vec<_>, Vec<_>) = (left, right);
                each(&|i, j| shared(&left[i], &right[j]))
            }
            Similarity::PythonWords => {
                let of = |t: &&str| python_words(t);
                let (left, right): (Vec<_>, Vec<_>) =
                    (left.iter().map(of).collect(), right.iter().map(of).collect());
                each(&|i, j| match left[i].is_empty() && right[j].is_empty() {
                    true => 1.0,
                    false => shared(&left[i], &right[j]),
                })
            }
        })
    }
}

/// The threshold of the encoder in a folder, by the folder's name or that of one around it (the cache of
/// the Hugging Face hub has the name further up).
fn encoder_threshold(folder: &Path) -> f64 {
    let parts = folder
        .components()
        .rev()
        .map(|part| part.as_os_str().to_string_lossy().to_lowercase().replace('_', "-"));
    parts
        .flat_map(|part| THRESHOLDS.iter().find(|(name, _)| part.contains(name)))
        .map(|(_, threshold)| *threshold)
        .next()
        .unwrap_or(OTHER_THRESHOLD)
}

/// Cosine of two vectors; 0 if one has no direction.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    };
    let lengths = dot(a, a).sqrt() * dot(b, b).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 }
}

/// Scripts that put no spaces between words: each character is a word.
const UNSPACED: &str = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}";

/// Words of a text in any script: composed (NFC), in small letters, without punctuation.
pub fn words(text: &str) -> Vec<String> {
    static WORD: LazyLock<Regex> = LazyLock::new(|| {
        let pattern = format!(r"[{UNSPACED}]|[\w--[{UNSPACED}]]+");
        Regex::new(&pattern).expect("a pattern that is written here")
    });
    let mut composed = NormalizedString::from(text);
    composed.nfc();
    let small = composed.get().to_lowercase();
    WORD.find_iter(&small).map(|m| m.as_str().to_owned()).collect()
}

/// What `re.findall(r"\w+", text.lower())` finds in Python, where marks are no letters.
fn python_words(text: &str) -> Vec<String> {
    static WORD: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"[\p{L}\p{N}_]+").expect("a pattern that is written here"));
    let small = text.to_lowercase();
    WORD.find_iter(&small).map(|m| m.as_str().to_owned()).collect()
}

/// How many elements two lists share, counted with repetition.
pub fn common<T: std::hash::Hash + Eq>(a: &[T], b: &[T]) -> usize {
    let mut left: HashMap<&T, usize> = HashMap::new();
    for x in a {
        *left.entry(x).or_default() += 1;
    }
    let mut found = 0;
    for y in b {
        if let Some(n) = left.get_mut(y).filter(|n| **n > 0) {
            *n -= 1;
            found += 1;
        }
    }
    found
}

fn shared(a: &[String], b: &[String]) -> f64 {
    if a.is_empty() || b.is_empty() {
        return 0.0;
    }
    common(a, b) as f64 / ((a.len() * b.len()) as f64).sqrt()
}

/// Compares lists of steps.
#[derive(Debug, Clone)]
pub struct Matcher {
    /// How much alike two steps are.
    pub similarity: Similarity,
    /// Steps match if they are more alike than this.
    pub threshold: f64,
    /// Share of the score that depends on the order of the steps.
    pub order_weight: f64,
    /// Steps without words or with more words than this match nothing. None: every step may match.
    pub most_words: Option<usize>,
}

/// What came of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Matching {
    /// Predicted and reference steps that match, best first.
    pub pairs: Vec<(usize, usize)>,
    /// 2PR / (P + R) with P and R the shares of predicted and reference steps that match.
    pub f1: f64,
    /// F1 with its share that depends on order: `f1 * ((1 - a) + a * (tau + 1) / 2)`, tau Kendall's rank
    /// correlation of the steps that match (1 for fewer than two).
    pub score: f64,
}

impl Matcher {
    /// What the settings ask for.
    ///
    /// # Errors
    /// If the folder of the encoder cannot be read.
    pub fn of(settings: &StepSettings, compat: Compat) -> Result<Self> {
        let similarity = Similarity::of(settings, compat)?;
        let threshold = settings.match_threshold.unwrap_or_else(|| similarity.threshold());
        let most_words = (compat != Compat::MllmEvaluator).then_some(MOST_WORDS);
        Ok(Matcher { similarity, threshold, order_weight: settings.match_order_weight, most_words })
    }

    /// Pairs are taken one after another, the most alike first, of equals the later step first, and each
    /// step once (`_find_matches` of the original).
    ///
    /// # Errors
    /// If the reference has more than [`MOST_STEPS`] steps, or a text cannot be embedded.
    pub fn compare<S: AsRef<str>>(&self, predicted: &[S], reference: &[S]) -> Result<Matching> {
        not_too_many(reference.len())?;
        let may_match = |i: &usize| {
            let count = predicted[*i].as_ref().split_whitespace().count();
            self.most_words.is_none_or(|most| (1..=most).contains(&count))
        };
        let rows: Vec<usize> = (0..predicted.len()).filter(may_match).take(MOST_STEPS).collect();
        let left: Vec<&str> = rows.iter().map(|&i| predicted[i].as_ref()).collect();
        let right: Vec<&str> = reference.iter().map(AsRef::as_ref).collect();
        let table = self.similarity.table(&left, &right)?;
        let mut near: Vec<(f64, usize, usize)> = Vec::new();
        for (&i, row) in rows.iter().zip(&table) {
            near.extend(row.iter().enumerate().map(|(j, &s)| (s, i, j)));
        }
        near.retain(|(s, ..)| *s > self.threshold);
        near.sort_by(|a, b| b.0.total_cmp(&a.0).then((b.1, b.2).cmp(&(a.1, a.2))));
        let mut taken = (vec![false; predicted.len()], vec![false; reference.len()]);
        let mut pairs = Vec::new();
        for (_, i, j) in near {
            if !taken.0[i] && !taken.1[j] {
                (taken.0[i], taken.1[j]) = (true, true);
                pairs.push((i, j));
            }
        }
        let f1 = match pairs.len() {
            0 => 0.0,
            n => 2.0 * n as f64 / (predicted.len() + reference.len()) as f64,
        };
        let a = self.order_weight;
        let score = f1 * ((1.0 - a) + a * (order(&pairs) + 1.0) / 2.0);
        Ok(Matching { pairs, f1, score })
    }
}

/// Refuses references that would take an hour to compare.
fn not_too_many(count: usize) -> Result<()> {
    match count <= MOST_STEPS {
        true => Ok(()),
        false => Err(Error::data("the reference has too many steps or texts")
            .expected(format!("at most {MOST_STEPS}"))
            .found(count.to_string())),
    }
}

/// Kendall's tau of the predicted steps in the order of their references: 1 in order, -1 backwards.
fn order(pairs: &[(usize, usize)]) -> f64 {
    let k = pairs.len();
    if k < 2 {
        return 1.0;
    }
    let mut sum = 0i64;
    for (n, a) in pairs.iter().enumerate() {
        for b in &pairs[n + 1..] {
            sum += if (a.0 < b.0) == (a.1 < b.1) { 1 } else { -1 };
        }
    }
    sum as f64 / (k * (k - 1) / 2) as f64
}

/// The texts of a column: a list of them, the JSON text of one, or one text, which `split` takes apart.
/// Empty ones are left out; a missing column has none.
///
/// # Errors
/// If the column holds something else, or more than [`MOST_STEPS`] of them.
pub fn column_texts(
    columns: &Map<String, Value>,
    key: &str,
    split: impl Fn(&str) -> Vec<String>,
) -> Result<Vec<String>> {
    let wrong = |found: &Value| {
        let shown: String = found.to_string().chars().take(60).collect();
        Error::data("a column does not hold texts")
            .key(key)
            .expected("a list of texts")
            .found(shown)
    };
    let list = |items: &[Value]| -> Result<Vec<String>> {
        items.iter().map(|v| v.as_str().map(str::to_owned).ok_or_else(|| wrong(v))).collect()
    };
    let mut texts = match columns.get(key) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) => list(items)?,
        Some(Value::String(text)) => match serde_json::from_str::<Value>(text) {
            Ok(Value::Array(items)) => list(&items)?,
            _ => split(text),
        },
        Some(other) => return Err(wrong(other)),
    };
    texts.retain(|text| !text.trim().is_empty());
    not_too_many(texts.len()).map_err(|e| e.key(key))?;
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn by_words(order_weight: f64) -> Matcher {
        let settings = StepSettings { match_order_weight: order_weight, ..StepSettings::default() };
        Matcher::of(&settings, Compat::None).unwrap()
    }

    #[test]
    fn steps_match_once_and_strictly_above_the_threshold() {
        let m = by_words(0.0);
        let f1 = |p: &[&str], r: &[&str]| m.compare(p, r).unwrap().f1;
        assert_eq!(f1(&["a red ball", "two dogs"], &["two dogs", "a red ball"]), 1.0);
        assert_eq!(f1(&["a red ball"; 4], &["a red ball", "two dogs"]), 2.0 / 6.0);
        assert_eq!(f1(&[], &["a"]), 0.0);
        assert_eq!(f1(&["x"], &["y"]), 0.0);
        assert_eq!(f1(&["", "  ", "..."], &["a", "..."]), 0.0, "no words");
        let at = |threshold| Matcher { threshold, ..m.clone() };
        // Three of four words: 3 / sqrt(4 * 4).
        let (p, r) = (["a b c d"], ["a b c x"]);
        assert_eq!(at(0.75).compare(&p, &r).unwrap().f1, 0.0);
        assert_eq!(at(0.7499).compare(&p, &r).unwrap().f1, 1.0);
    }

    #[test]
    fn of_equals_the_later_step_goes_first() {
        let found = by_words(0.0).compare(&["a b", "a b", "c"], &["a b", "c", "c"]).unwrap();
        assert_eq!(found.pairs, [(2, 2), (1, 0)]);
        assert_eq!(found.f1, 4.0 / 6.0);
    }

    #[test]
    fn long_steps_match_nothing_unless_the_original_is_asked_for() {
        let long = "w ".repeat(15);
        let short = "w ".repeat(14);
        let m = by_words(0.0);
        assert_eq!(m.compare(&[&long], &[&long]).unwrap().f1, 0.0);
        assert_eq!(m.compare(&[&short], &[&long]).unwrap().f1, 1.0);
        assert_eq!(m.compare(&[&long, &short], &[&short]).unwrap().f1, 2.0 / 3.0);
        let original = Matcher::of(&StepSettings::default(), Compat::MllmEvaluator).unwrap();
        assert_eq!(original.compare(&[&long], &[&long]).unwrap().f1, 1.0);
        assert_eq!(original.compare(&["?!"], &["..."]).unwrap().f1, 1.0, "1 for no words at all");
    }

    #[test]
    fn order_counts_as_much_as_it_is_told() {
        let steps = ["one", "two", "three"];
        let backwards = ["three", "two", "one"];
        let score = |weight, p: &[&str]| by_words(weight).compare(p, &steps).unwrap().score;
        assert_eq!(score(0.3, &steps), 1.0);
        assert!((score(0.3, &backwards) - 0.7).abs() < 1e-12);
        assert_eq!(score(0.0, &backwards), 1.0);
        // Two of three pairs in order: tau = 1/3.
        let swapped = score(0.3, &["two", "one", "three"]);
        assert!((swapped - (0.7 + 0.3 * (1.0 / 3.0 + 1.0) / 2.0)).abs() < 1e-12);
        assert_eq!(score(1.0, &["two"]), 0.5, "one step is in order");
    }

    #[test]
    fn words_of_any_script() {
        assert_eq!(words("It's RED, 3.5 cm!"), ["it", "s", "red", "3", "5", "cm"]);
        assert_eq!(words("Qua\u{309} bo\u{301}ng đỏ"), words("Quả bóng ĐỎ"));
        assert_eq!(words("Quả bóng"), ["quả", "bóng"]);
        assert_eq!(words("红色3个"), ["红", "色", "3", "个"]);
        assert_eq!(words(" .,;! "), [""; 0]);
        assert_eq!(python_words("Qua\u{309} a_1"), ["qua", "a_1"]);
    }

    #[test]
    fn thresholds_go_by_the_name_of_the_folder() {
        for (path, want) in [
            ("/m/all-MiniLM-L6-v2", 0.45),
            ("/m/all-MiniLM-L12-v2/", 0.47),
            ("/hub/models--sentence-transformers--all-distilroberta-v1/snapshots/0a1b", 0.50),
            ("/m/paraphrase_multilingual_MiniLM_L12_v2", 0.43),
            ("/all-mpnet-base-v2/all-distilroberta-v1", 0.50),
            ("/m/encoder", 0.45),
        ] {
            assert_eq!(encoder_threshold(Path::new(path)), want, "{path}");
        }
        let set = StepSettings { match_threshold: Some(0.9), ..StepSettings::default() };
        assert_eq!(Matcher::of(&set, Compat::None).unwrap().threshold, 0.9);
        assert_eq!(by_words(0.0).threshold, 0.3);
    }

    #[test]
    fn a_reference_without_end_is_an_error_not_an_hour() {
        let many = vec!["step"; MOST_STEPS + 1];
        let e = by_words(0.0).compare(&["step"], &many).unwrap_err().one_line();
        assert!(e.contains("1025"), "{e}");
        let found = by_words(0.0).compare(&many, &["step"]).unwrap();
        assert_eq!(found.pairs, [(MOST_STEPS - 1, 0)]);
    }

    #[test]
    fn columns_hold_texts_in_three_ways() {
        let columns = json!({
            "list": ["a", " ", "b"], "json": "[\"a\", \"b\"]", "lines": "a\n\nb", "null": null,
            "number": 3, "mixed": ["a", 1], "broken": "[\"a\", ", "many": vec!["a"; MOST_STEPS + 1]
        });
        let columns = columns.as_object().unwrap();
        let lines = |t: &str| t.lines().map(str::to_owned).collect::<Vec<_>>();
        let of = |key: &str| column_texts(columns, key, lines);
        for key in ["list", "json", "lines"] {
            assert_eq!(of(key).unwrap(), ["a", "b"], "{key}");
        }
        assert!(of("null").unwrap().is_empty() && of("missing").unwrap().is_empty());
        assert_eq!(of("broken").unwrap(), ["[\"a\", "]);
        for (key, found) in [("number", "found: 3"), ("mixed", "found: 1"), ("many", "found: 1025")]
        {
            let e = of(key).unwrap_err().one_line();
            assert!(e.contains(key) && e.contains(found), "{e}");
        }
    }

    #[test]
    fn cosine_of_nothing_is_nothing() {
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 0.0]), 0.0);
        assert!((cosine(&[2.0, 0.0], &[3.0, 0.0]) - 1.0).abs() < 1e-12);
        assert_eq!(common(&[1, 1, 2], &[1, 2, 2, 3]), 2);
    }
}
