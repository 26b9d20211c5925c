//! Columns of the rows: what types they have, how often they are null, what stands in them. Long
//! values are never kept.

use crate::io::dataset::Row;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Columns that are told apart; a file with a name of its own in every row has no more.
const MOST_COLUMNS: usize = 100;
/// Distinct texts that are listed.
const LISTED: usize = 20;
/// Longest text that is listed, in characters.
const SHORT: usize = 60;

/// The columns of a data set.
#[derive(Debug, Clone, Serialize)]
pub struct Schema {
    /// In the order of their first appearance.
    pub columns: Vec<Column>,
    /// Names beyond those.
    pub further: usize,
}

/// A column.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Values by type: `text`, `whole number`, `number`, `true/false`, `list`, `object`.
    pub types: BTreeMap<&'static str, usize>,
    /// Share of the rows that have null, or no such column.
    pub null_share: f64,
    /// Distinct values.
    pub distinct: usize,
    /// Those values with their numbers, most frequent first, if they are few short texts.
    pub values: Option<Vec<ValueCount>>,
    /// Least and greatest number.
    pub numbers: Option<[f64; 2]>,
    /// Least and greatest length of texts, in characters.
    pub characters: Option<[usize; 2]>,
    /// Least and greatest length of lists.
    pub items: Option<[usize; 2]>,
}

/// A value and how often it stands there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ValueCount {
    /// The value.
    pub value: String,
    /// Rows.
    pub count: usize,
}

impl ValueCount {
    /// Most frequent first, then by the alphabet.
    pub(super) fn sorted<'a>(counts: impl IntoIterator<Item = (&'a str, usize)>) -> Vec<Self> {
        let of = |(value, count): (&str, usize)| ValueCount { value: value.to_owned(), count };
        let mut all: Vec<ValueCount> = counts.into_iter().map(of).collect();
        all.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.value.cmp(&b.value)));
        all
    }
}

/// What is gathered of a column.
#[derive(Default)]
struct Gathered {
    column: Column,
    present: usize,
    seen: HashSet<u64>,
    /// `None` once there are too many, or a long one.
    texts: Option<HashMap<String, usize>>,
}

/// The columns of some rows.
pub(super) fn of(rows: &[&Row]) -> Schema {
    let mut all: Vec<Gathered> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut further: HashSet<&str> = HashSet::new();
    for row in rows {
        for (name, value) in &row.columns {
            let next = all.len();
            if next == MOST_COLUMNS && !places.contains_key(name.as_str()) {
                further.insert(name);
                continue;
            }
            let at = *places.entry(name).or_insert(next);
            if at == next {
                let column = Column { name: name.clone(), ..Column::default() };
                let texts = Some(HashMap::new());
                all.push(Gathered { column, texts, ..Gathered::default() });
            }
            all[at].take(value);
        }
    }
    let columns = all.into_iter().map(|g| g.done(rows.len())).collect();
    Schema { columns, further: further.len() }
}

impl Gathered {
    fn take(&mut self, value: &Value) {
        if value.is_null() {
            return;
        }
        self.present += 1;
        let c = &mut self.column;
        *c.types.entry(type_of(value)).or_default() += 1;
        let mut hasher = DefaultHasher::new();
        match value {
            Value::String(text) => {
                text.hash(&mut hasher);
                let length = text.chars().count();
                widen(&mut c.characters, length);
                self.list(text, length);
            }
            other => {
                other.to_string().hash(&mut hasher);
                match other {
                    Value::Number(n) => {
                        if let Some(n) = n.as_f64().filter(|n| n.is_finite()) {
                            let [low, high] = c.numbers.unwrap_or([n, n]);
                            c.numbers = Some([low.min(n), high.max(n)]);
                        }
                    }
                    Value::Array(list) => widen(&mut c.items, list.len()),
                    _ => {}
                }
            }
        }
        self.seen.insert(hasher.finish());
    }

    /// Keeps the value of a short text while there are few of them.
    fn list(&mut self, text: &str, length: usize) {
        let Some(texts) = &mut self.texts else { return };
        if length > SHORT || texts.len() == LISTED && !texts.contains_key(text) {
            self.texts = None;
        } else if let Some(count) = texts.get_mut(text) {
            *count += 1;
        } else {
            texts.insert(text.to_owned(), 1);
        }
    }

    fn done(self, rows: usize) -> Column {
        let listed = self.texts.filter(|t| !t.is_empty());
        let values = listed.map(|t| ValueCount::sorted(t.iter().map(|(v, n)| (v.as_str(), *n))));
        Column {
            null_share: (rows - self.present) as f64 / rows as f64,
            distinct: self.seen.len(),
            values,
            ..self.column
        }
    }
}

fn widen(range: &mut Option<[usize; 2]>, n: usize) {
    let [low, high] = range.unwrap_or([n, n]);
    *range = Some([low.min(n), high.max(n)]);
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true/false",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "whole number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::super::texts::tests::row;
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_say_what_is_in_them() {
        let lines = [
            json!({"kind": "a", "n": 1, "list": [1, 2], "b": true}),
            json!({"kind": "b", "n": 2.5, "list": [], "b": null}),
            json!({"kind": "a", "n": -3, "long": "x".repeat(61)}),
            json!({"kind": null, "n": "?", "o": {"x": 1}}),
        ];
        let rows: Vec<Row> = lines.into_iter().map(|columns| row("", "", columns)).collect();
        let schema = of(&rows.iter().collect::<Vec<_>>());
        let names: Vec<&str> = schema.columns.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["kind", "n", "list", "b", "long", "o"]);
        let [kind, n, list, b, long, o] = schema.columns.try_into().unwrap();
        let counts = ValueCount::sorted([("b", 1), ("a", 2)]);
        assert_eq!(counts[0].value, "a");
        assert_eq!(kind.values, Some(counts));
        assert_eq!((kind.null_share, kind.distinct, kind.characters), (0.25, 2, Some([1, 1])));
        assert_eq!((n.types["whole number"], n.types["number"], n.types["text"]), (2, 1, 1));
        assert_eq!((n.numbers, n.distinct), (Some([-3.0, 2.5]), 4));
        assert_eq!((list.items, list.null_share), (Some([0, 2]), 0.5));
        assert_eq!((b.types["true/false"], b.values), (1, None));
        assert_eq!((long.values, long.characters), (None, Some([61, 61])));
        assert_eq!(o.types["object"], 1);
    }

    #[test]
    fn many_names_and_values_are_counted_only() {
        let columns = |i: usize| json!({format!("c{i}"): 1, "v": format!("{i}")});
        let rows: Vec<Row> = (0..150).map(|i| row("", "", columns(i))).collect();
        let schema = of(&rows.iter().collect::<Vec<_>>());
        assert_eq!((schema.columns.len(), schema.further), (MOST_COLUMNS, 51));
        let v = schema.columns.iter().find(|c| c.name == "v").unwrap();
        assert_eq!((v.distinct, v.values.as_ref()), (150, None));
    }
}
