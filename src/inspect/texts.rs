//! Questions and answers: how many are distinct, what is asked twice, what is answered how often.
//! Two rows ask the same if their questions and their pictures are the same.

use super::counts::{Histogram, Spread};
use super::pictures::Shown;
use super::schema::ValueCount;
use super::tokens::Length;
use super::videos;
use crate::io::dataset::{Part, Row};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Answers that are listed.
const TOP: usize = 20;
/// Prompts that are listed because they stand there more than once.
const NAMED: usize = 10;
/// Longest text that is given in a list, in characters.
const SHORT: usize = 160;

/// Questions of a data set, as they are put to the model (with the question template).
#[derive(Debug, Clone, Serialize)]
pub struct Questions {
    /// Distinct texts.
    pub distinct: usize,
    /// Texts that are asked more than once, most frequent first.
    pub most_common: Vec<ValueCount>,
    /// Rows that ask what an earlier row asks, of the same pictures.
    pub repeated: usize,
    /// Prompts that have several different answers.
    pub contradicting: usize,
    /// The first prompts that stand there more than once.
    pub examples: Vec<Repeated>,
    /// Lengths in characters.
    pub characters: Option<Spread>,
}

/// A prompt of several rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Repeated {
    /// The question.
    pub question: String,
    /// The rows that ask it, as `file, row n`; the first ones.
    pub rows: Vec<String>,
    /// How many rows.
    pub count: usize,
    /// Distinct answers; the first ones.
    pub answers: Vec<String>,
}

/// Reference answers of a data set, verbatim.
#[derive(Debug, Clone, Serialize)]
pub struct Answers {
    /// Distinct ones.
    pub distinct: usize,
    /// The most frequent ones.
    pub top: Vec<ValueCount>,
    /// Lengths in characters.
    pub characters: Option<Spread>,
    /// Lengths in tokens, with the end of the turn.
    pub tokens: Option<Spread>,
    /// Lengths in characters as a histogram.
    pub histogram: Option<Histogram>,
}

/// The text of the last turn.
pub(super) fn question_of(row: &Row) -> String {
    let text = |part: &Part| match part {
        Part::Text(text) => Some(text.clone()),
        Part::Image(_) | Part::Video(_) => None,
    };
    let parts = row.messages.last().into_iter().flat_map(|m| &m.content);
    parts.filter_map(text).collect::<String>().trim().to_owned()
}

/// The beginning of a text, and how much of it is left out.
pub(super) fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((at, _)) => {
            format!("{}… ({} more characters)", &text[..at], text[at..].chars().count())
        }
    }
}

/// What the rows ask.
pub(super) fn questions(rows: &[&Row], shown: &Shown) -> Questions {
    let texts: Vec<String> = rows.iter().map(|row| question_of(row)).collect();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    type Prompt<'a> = (&'a str, Vec<u128>, Vec<String>);
    let mut prompts: HashMap<Prompt, Vec<usize>> = HashMap::new();
    for (i, (row, text)) in rows.iter().zip(&texts).enumerate() {
        *counts.entry(text).or_default() += 1;
        let videos = row.videos.iter().map(videos::name_of).collect();
        prompts.entry((text, shown.contents(row), videos)).or_default().push(i);
    }
    // By their first rows, for the order of a map is chance.
    let several = prompts.values().filter(|of| of.len() > 1).map(|of| (of[0], of));
    let several: Vec<&Vec<usize>> = several.collect::<BTreeMap<_, _>>().into_values().collect();
    let answers = |of: &[usize]| -> Vec<&str> {
        let mut seen = HashSet::new();
        of.iter().map(|i| rows[*i].answer.as_str()).filter(|a| seen.insert(*a)).collect()
    };
    let example = |of: &&Vec<usize>| Repeated {
        question: cut(&texts[of[0]], SHORT),
        rows: of
            .iter()
            .take(NAMED)
            .map(|i| format!("{}, row {}", rows[*i].file.display(), rows[*i].row))
            .collect(),
        count: of.len(),
        answers: answers(of).into_iter().take(NAMED).map(|a| cut(a, SHORT)).collect(),
    };
    Questions {
        distinct: counts.len(),
        most_common: top(counts.iter().filter(|(_, n)| **n > 1).map(|(t, n)| (*t, *n)), 5),
        repeated: several.iter().map(|of| of.len() - 1).sum(),
        contradicting: several.iter().filter(|of| answers(of).len() > 1).count(),
        examples: several.iter().take(NAMED).map(example).collect(),
        characters: Spread::of(texts.iter().map(|t| t.chars().count() as f64)),
    }
}

/// What the rows answer; `lengths` may be empty.
pub(super) fn answers(rows: &[&Row], lengths: &[Length]) -> Answers {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for row in rows {
        *counts.entry(&row.answer).or_default() += 1;
    }
    let characters = || rows.iter().map(|row| row.answer.chars().count() as f64);
    Answers {
        distinct: counts.len(),
        top: top(counts.iter().map(|(t, n)| (*t, *n)), TOP),
        characters: Spread::of(characters()),
        tokens: Spread::of(lengths.iter().map(|l| l.answer as f64)),
        histogram: Histogram::of(characters(), 1.0),
    }
}

/// The most frequent texts, cut to a length for lists.
fn top<'a>(counts: impl Iterator<Item = (&'a str, usize)>, most: usize) -> Vec<ValueCount> {
    let sorted = ValueCount::sorted(counts).into_iter().take(most);
    sorted.map(|v| ValueCount { value: cut(&v.value, SHORT), ..v }).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::pictures;
    use super::*;
    use crate::io::dataset::{Message, PixelLimits};
    use serde_json::{Value, json};

    /// Row 1 of d.jsonl with a question, an answer and these columns.
    pub(crate) fn row(question: &str, answer: &str, columns: Value) -> Row {
        let Value::Object(columns) = columns else { panic!("{columns} is no object") };
        Row {
            file: "d.jsonl".into(),
            row: 1,
            id: "1".into(),
            images: Vec::new(),
            videos: Vec::new(),
            pixels: PixelLimits::default(),
            messages: vec![Message::text("system", "S"), Message::text("user", question)],
            answer: answer.into(),
            columns,
        }
    }

    #[test]
    fn what_is_asked_twice_and_answered_otherwise_is_found() {
        let said = [("What?", "a"), ("Why? ", "b"), ("What?", "c"), ("What?", "a"), ("Why?", "b")];
        let rows: Vec<Row> = said.iter().map(|(q, a)| row(q, a, json!({}))).collect();
        let rows: Vec<&Row> = rows.iter().collect();
        let shown = pictures::look(&rows).unwrap();
        let q = questions(&rows, &shown);
        assert_eq!((q.distinct, q.repeated, q.contradicting), (2, 3, 1));
        assert_eq!((q.examples.len(), q.examples[0].count), (2, 3));
        assert_eq!((q.examples[0].question.as_str(), q.examples[0].answers.len()), ("What?", 2));
        assert_eq!(q.most_common[0], ValueCount { value: "What?".into(), count: 3 });
        let a = answers(&rows, &[]);
        assert_eq!((a.distinct, a.top[0].count, a.tokens), (3, 2, None));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("ảnh", 3), "ảnh");
        assert_eq!(cut("ảnh này", 2), "ản… (5 more characters)");
    }
}
