//! What an option's value may be, and the one reading of text into values that flags, environment
//! and configuration files share. Never looks at where the text came from: callers build the error.

use std::fmt::Write as _;

/// The type of an option's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// `true` or `false`; a bare flag is true, `--no_<name>` is false.
    Bool,
    /// A whole number not below `min`.
    Int {
        /// Smallest value that is accepted.
        min: i64,
    },
    /// A finite number in `min..=max`.
    Float {
        /// Smallest value that is accepted.
        min: f64,
        /// Largest value that is accepted.
        max: f64,
    },
    /// Any text.
    Text,
    /// A name without spaces and commas, so that lists of them may be written `a,b`.
    Word,
    /// One of a closed set of words.
    Choice(&'static [&'static str]),
    /// A file or folder. Lists of them may be written `a:b` (the form of VLM-R1).
    Path,
    /// A file or folder, or an `http` or `https` address.
    PathOrUrl,
    /// `true`, `false` or a path; a bare flag is true.
    BoolOrPath,
    /// `true`, `false` or `auto`; a bare flag is true.
    BoolOrAuto,
    /// A number of bytes: `24GiB`, `500MB`, `1073741824`.
    Bytes,
    /// Several values of one kind.
    List(&'static Kind),
}

/// A value that was read by [`Kind::read`].
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// The option has no default and was not given.
    Unset,
    /// Of [`Kind::Bool`]; of [`Kind::BoolOrPath`] and [`Kind::BoolOrAuto`] when it is one.
    Bool(bool),
    /// Of [`Kind::Int`] and [`Kind::Bytes`].
    Int(i64),
    /// Of [`Kind::Float`].
    Float(f64),
    /// Of every kind of text.
    Text(String),
    /// Of [`Kind::List`].
    List(Vec<Value>),
}

impl Kind {
    /// Reads one scalar; `None` if the text is not of this kind. A list kind reads one element.
    pub fn read(self, text: &str) -> Option<Value> {
        let trimmed = text.trim();
        match self {
            Kind::Bool => read_bool(trimmed).map(Value::Bool),
            Kind::Int { min } => trimmed.parse::<i64>().ok().filter(|v| *v >= min).map(Value::Int),
            Kind::Float { min, max } => {
                let value = trimmed.parse::<f64>().ok()?;
                (value.is_finite() && value >= min && value <= max).then_some(Value::Float(value))
            }
            Kind::Text => Some(Value::Text(text.to_string())),
            Kind::Word => {
                let good = !text.is_empty() && !text.contains([',', ' ', '\t', '\n']);
                good.then(|| Value::Text(text.to_string()))
            }
            Kind::Choice(words) => {
                words.iter().find(|w| **w == trimmed).map(|w| Value::Text(w.to_string()))
            }
            Kind::Path | Kind::PathOrUrl => {
                (!text.is_empty()).then(|| Value::Text(text.to_string()))
            }
            Kind::BoolOrPath => match read_bool(trimmed) {
                Some(b) => Some(Value::Bool(b)),
                None => Kind::Path.read(text),
            },
            Kind::BoolOrAuto => match read_bool(trimmed) {
                Some(b) => Some(Value::Bool(b)),
                None => (trimmed == "auto").then(|| Value::Text("auto".into())),
            },
            Kind::Bytes => read_bytes(trimmed).map(Value::Int),
            Kind::List(element) => element.read(text),
        }
    }

    /// Splits one piece of text into the elements of a list: at commas, at colons for paths, and
    /// not at all for free text, where both are ordinary characters.
    pub fn split(self, text: &str) -> Vec<&str> {
        let separator = match self {
            Kind::List(Kind::Text) => return vec![text],
            Kind::List(Kind::PathOrUrl) if text.contains("://") => return vec![text],
            Kind::List(Kind::Path | Kind::PathOrUrl) => ':',
            Kind::List(_) => ',',
            _ => return vec![text],
        };
        text.split(separator).map(str::trim).filter(|s| !s.is_empty()).collect()
    }

    /// What a right value looks like, for error messages.
    pub fn expected(self) -> String {
        match self {
            Kind::Bool => "true or false".into(),
            Kind::Int { min: i64::MIN } => "a whole number".into(),
            Kind::Int { min } => format!("a whole number of at least {min}"),
            Kind::Float { min, max } => match (min == f64::MIN, max == f64::MAX) {
                (true, true) => "a number".into(),
                (false, true) => format!("a number of at least {min}"),
                (true, false) => format!("a number of at most {max}"),
                (false, false) => format!("a number from {min} to {max}"),
            },
            Kind::Text => "text".into(),
            Kind::Word => "a name without spaces and commas".into(),
            Kind::Choice(words) => format!("one of: {}", words.join(", ")),
            Kind::Path => "a path".into(),
            Kind::PathOrUrl => "a path or an http(s) address".into(),
            Kind::BoolOrPath => "true, false or a path".into(),
            Kind::BoolOrAuto => "true, false or auto".into(),
            Kind::Bytes => "a number of bytes such as 24GiB, 500MB or 1073741824".into(),
            Kind::List(element) => format!("a list, each element {}", element.expected()),
        }
    }

    /// The short form that `--help` shows after the option's name.
    pub fn placeholder(self) -> String {
        match self {
            Kind::Bool => String::new(),
            Kind::Int { .. } => "INT".into(),
            Kind::Float { .. } => "NUMBER".into(),
            Kind::Text => "TEXT".into(),
            Kind::Word => "NAME".into(),
            // A long list would not fit the help's column; a wrong word is answered with all of it.
            Kind::Choice(words) if words.iter().map(|w| w.len() + 1).sum::<usize>() > 80 => {
                format!("{}|...", words[..3].join("|"))
            }
            Kind::Choice(words) => words.join("|"),
            Kind::Path => "PATH".into(),
            Kind::PathOrUrl => "PATH|URL".into(),
            Kind::BoolOrPath => "[PATH]".into(),
            Kind::BoolOrAuto => "[auto]".into(),
            Kind::Bytes => "BYTES".into(),
            Kind::List(element) => format!("{} ...", element.placeholder()),
        }
    }

    /// Whether a bare `--name` is complete, meaning true.
    pub fn bare(self) -> bool {
        matches!(self, Kind::Bool | Kind::BoolOrPath | Kind::BoolOrAuto)
    }
}

impl Value {
    /// The value as YAML that reads back as the same value, on one line. Text is always quoted and
    /// exponents carry a dot, so that readers of YAML 1.1 (PyYAML) see the same types.
    pub fn to_yaml(&self) -> String {
        match self {
            Value::Unset => "null".into(),
            Value::Bool(b) => b.to_string(),
            Value::Int(i) => i.to_string(),
            Value::Float(f) => {
                let text = format!("{f:?}");
                match text.split_once('e') {
                    Some((mantissa, exponent)) => {
                        let dot = if mantissa.contains('.') { "" } else { ".0" };
                        let sign = if exponent.starts_with('-') { "" } else { "+" };
                        format!("{mantissa}{dot}e{sign}{exponent}")
                    }
                    None => text,
                }
            }
            Value::Text(t) => quote(t),
            Value::List(items) => {
                let items: Vec<String> = items.iter().map(Value::to_yaml).collect();
                format!("[{}]", items.join(", "))
            }
        }
    }
}

/// A double-quoted YAML (and JSON) string.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // C0, DEL, C1 and the Unicode line ends are not printable in YAML.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn read_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// Bytes with an optional unit: powers of 1000 for KB, MB, GB, TB; of 1024 for KiB and so on and
/// for the bare letters, as in coreutils.
fn read_bytes(text: &str) -> Option<i64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024.0 * 1024.0,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "t" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * factor;
    // 2^53: beyond it a float no longer counts single bytes, and no machine has that much.
    (1.0..9_007_199_254_740_992.0).contains(&bytes).then_some(bytes as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_read_or_refused() {
        assert_eq!(Kind::Bool.read("True"), Some(Value::Bool(true)));
        assert_eq!(Kind::Bool.read("maybe"), None);
        assert_eq!(Kind::Int { min: 0 }.read("-1"), None);
        assert_eq!(Kind::Int { min: -1 }.read("-1"), Some(Value::Int(-1)));
        assert_eq!(Kind::Int { min: 0 }.read("8.5"), None);
        let unit = Kind::Float { min: 0.0, max: 1.0 };
        assert_eq!(unit.read("1e-6"), Some(Value::Float(1e-6)));
        assert_eq!(unit.read("1.5"), None);
        assert_eq!(unit.read("nan"), None);
        assert_eq!(Kind::Word.read("a b"), None);
        assert_eq!(Kind::Choice(&["dapo", "grpo"]).read("grpo"), Some(Value::Text("grpo".into())));
        assert_eq!(Kind::BoolOrPath.read("true"), Some(Value::Bool(true)));
        assert_eq!(Kind::BoolOrPath.read("out/c"), Some(Value::Text("out/c".into())));
    }

    #[test]
    fn bytes_know_both_families_of_units() {
        for (text, bytes) in [
            ("1073741824", 1 << 30),
            ("1GiB", 1 << 30),
            ("1 GB", 1_000_000_000),
            ("1.5k", 1536),
            ("2g", 2 << 30),
        ] {
            assert_eq!(Kind::Bytes.read(text), Some(Value::Int(bytes)), "{text}");
        }
        for text in ["", "GiB", "-1", "1XB", "0", "1..2GB"] {
            assert_eq!(Kind::Bytes.read(text), None, "{text}");
        }
    }

    #[test]
    fn lists_split_where_their_elements_cannot_hold_the_separator() {
        assert_eq!(Kind::List(&Kind::Word).split("a, b"), ["a", "b"]);
        assert_eq!(Kind::List(&Kind::Path).split("a.jsonl:b,c.jsonl"), ["a.jsonl", "b,c.jsonl"]);
        assert_eq!(Kind::List(&Kind::Text).split("a, b:c"), ["a, b:c"]);
    }

    #[test]
    fn yaml_text_survives_every_character() {
        for text in
            ["", "a\"b\\c", "x\ny\tz\r", "null", "\u{85}\u{2028}\u{1}", "Câu hỏi: {question} 😀"]
        {
            let yaml = format!("k: {}\n", Value::Text(text.into()).to_yaml());
            let back: std::collections::BTreeMap<String, String> =
                serde_saphyr::from_str(&yaml).unwrap();
            assert_eq!(back["k"], text);
        }
        assert_eq!(Value::Float(1e-6).to_yaml(), "1.0e-6");
        assert_eq!(Value::Float(1e20).to_yaml(), "1.0e+20");
        assert_eq!(Value::Float(0.5).to_yaml(), "0.5");
    }
}
