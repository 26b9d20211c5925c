//! Which rows are taken: comparisons of columns with values, all of which must hold. Reads no row.

use serde_json::{Map, Value};

use crate::base::{Error, Result};

/// Comparisons that all must hold; none holds for every row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter(Vec<Comparison>);

#[derive(Debug, Clone, PartialEq)]
struct Comparison {
    /// A column, or with dots a field inside of one.
    column: String,
    sign: Sign,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Equal,
    Unequal,
    Below,
    AtMost,
    Above,
    AtLeast,
}

/// Longer signs first: `<=` begins as `<` does.
const SIGNS: [(&str, Sign); 6] = [
    ("!=", Sign::Unequal),
    ("<=", Sign::AtMost),
    (">=", Sign::AtLeast),
    ("=", Sign::Equal),
    ("<", Sign::Below),
    (">", Sign::Above),
];

impl Filter {
    /// Reads comparisons such as `source=chartqa` or `year >= 2001`; one text may hold several, joined by
    /// ` and `. A value may stand between quotes.
    ///
    /// # Errors
    /// Of kind usage: a text without a sign, without a column, or `<` beside what is no number.
    pub fn parse(texts: &[String]) -> Result<Self> {
        let all = texts.iter().flat_map(|t| t.split(" and "));
        all.map(comparison).collect::<Result<_>>().map(Filter)
    }

    /// The columns that are looked at.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|c| c.column.as_str())
    }

    /// Whether a row is taken.
    pub fn holds(&self, columns: &Map<String, Value>) -> bool {
        self.0.iter().all(|c| c.holds(columns))
    }
}

fn comparison(text: &str) -> Result<Comparison> {
    let wrong = |what: &str| {
        Error::usage(what)
            .key("filter")
            .expected("column=value, column!=value, or <, <=, >, >= beside a number")
            .found(format!("{text:?}"))
    };
    // The first sign of the text; of two at one place the longer.
    let first = SIGNS.iter().filter_map(|(s, sign)| Some((text.find(s)?, *s, *sign)));
    let first = first.min_by_key(|(at, s, _)| (*at, usize::MAX - s.len()));
    let (at, sign_text, sign) = first.ok_or_else(|| wrong("the filter compares nothing"))?;
    let column = text[..at].trim();
    let value = text[at + sign_text.len()..].trim();
    let value = value.strip_prefix('=').unwrap_or(value).trim(); // `==`, as programmers write it
    let inner = ['"', '\''].iter().find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q));
    let value = inner.unwrap_or(value);
    if column.is_empty() {
        return Err(wrong("the filter names no column"));
    }
    let ordered = !matches!(sign, Sign::Equal | Sign::Unequal);
    if ordered && value.parse::<f64>().is_err() {
        return Err(wrong("the filter compares with what is no number"));
    }
    Ok(Comparison { column: column.to_owned(), sign, value: value.to_owned() })
}

impl Comparison {
    fn holds(&self, columns: &Map<String, Value>) -> bool {
        let value = value_of(columns, &self.column);
        match self.sign {
            Sign::Equal => value.is_some_and(|v| self.equals(v)),
            Sign::Unequal => !value.is_some_and(|v| self.equals(v)),
            _ => {
                let pair = value.and_then(number).zip(self.value.parse().ok());
                pair.is_some_and(|(a, b): (f64, f64)| match self.sign {
                    Sign::Below => a < b,
                    Sign::AtMost => a <= b,
                    Sign::Above => a > b,
                    _ => a >= b,
                })
            }
        }
    }

    /// Texts as texts, numbers as numbers, null as `null`; a list if one of its entries is equal.
    fn equals(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => *text == self.value,
            Value::Array(list) => list.iter().any(|v| self.equals(v)),
            // Whole numbers digit by digit: as floats, large ones that differ would be equal.
            Value::Number(n) if !n.is_f64() && self.value.parse::<i128>().is_ok() => {
                n.to_string().parse::<i128>().ok() == self.value.parse().ok()
            }
            Value::Number(n) => self.value.parse::<f64>().is_ok_and(|v| n.as_f64() == Some(v)),
            Value::Null => self.value == "null",
            Value::Bool(b) => self.value == if *b { "true" } else { "false" },
            Value::Object(_) => false,
        }
    }
}

/// A column, or where there is none of this name, the field of a column that its dots lead to.
fn value_of<'a>(columns: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    columns.get(name).or_else(|| {
        let mut parts = name.split('.');
        let first = columns.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part))
    })
}

/// A number, also one that is written as text.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn comparisons_of_every_kind() {
        let row = json!({"source": "chart qa", "n": 7, "big": u64::MAX, "x": "2.5", "ok": true, "gone": null,
            "tags": ["a", "b"], "metadata": {"category": "math", "grade": 3}, "a.b": "dotted"});
        let Value::Object(row) = row else { unreachable!() };
        for (text, holds) in [
            ("source=chart qa", true),
            ("source = 'chart qa'", true),
            ("source==\"chart qa\"", true),
            ("source!=chart qa", false),
            ("n=7", true),
            ("n=7.0", true),
            ("n>7", false),
            ("n>=7 and n<8", true),
            ("n>=7 and n<7", false),
            ("big=18446744073709551615", true),
            ("big=18446744073709551614", false),
            ("x<=2.5", true),
            ("ok=true", true),
            ("gone=null", true),
            ("gone!=x", true),
            ("missing=x", false),
            ("missing!=x", true),
            ("missing<3", false),
            ("tags=b", true),
            ("tags!=b", false),
            ("metadata.category=math", true),
            ("metadata.grade>2", true),
            ("metadata.nothing=1", false),
            ("a.b=dotted", true),
            ("source=a=b", false),
        ] {
            let filter = Filter::parse(&[text.to_owned()]).unwrap();
            assert_eq!(filter.holds(&row), holds, "{text}");
        }
        assert!(Filter::default().holds(&row));
        let two = Filter::parse(&["n=7".into(), "ok=false".into()]).unwrap();
        assert!(!two.holds(&row));
        assert_eq!(two.columns().collect::<Vec<_>>(), ["n", "ok"]);
    }

    #[test]
    fn what_is_no_comparison() {
        for text in ["source", "", "=x", "n<many", "a=b and "] {
            let e = Filter::parse(&[text.to_owned()]).unwrap_err();
            assert!(e.exit_code() == 2 && e.to_string().contains("filter"), "{text}: {e}");
        }
    }
}
