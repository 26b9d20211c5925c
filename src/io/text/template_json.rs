//! JSON text as Python's `json.dumps` prints it, which chat templates show to the model. Nothing is
//! escaped for HTML here.

use serde_json::Value;

/// Prints a value as `json.dumps(value, indent=, separators=, sort_keys=, ensure_ascii=)` does.
pub(super) fn python_json(
    value: &Value,
    indent: Option<usize>,
    separators: Option<(String, String)>,
    sort_keys: bool,
    ensure_ascii: bool,
) -> String {
    // Python drops the space after the comma when it breaks the line there.
    let (item, key) = separators.unwrap_or_else(|| {
        let item = if indent.is_some() { "," } else { ", " };
        (item.to_owned(), ": ".to_owned())
    });
    let style = Style { indent, item, key, sort_keys, ensure_ascii };
    let mut out = String::new();
    style.print(value, 0, &mut out);
    out
}

struct Style {
    indent: Option<usize>,
    item: String,
    key: String,
    sort_keys: bool,
    ensure_ascii: bool,
}

impl Style {
    fn print(&self, value: &Value, depth: usize, out: &mut String) {
        match value {
            Value::Array(items) if !items.is_empty() => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    self.separate(i, depth + 1, out);
                    self.print(item, depth + 1, out);
                }
                self.close(depth, ']', out);
            }
            Value::Object(map) if !map.is_empty() => {
                let mut entries: Vec<_> = map.iter().collect();
                if self.sort_keys {
                    entries.sort_by_key(|(k, _)| *k);
                }
                out.push('{');
                for (i, (k, v)) in entries.into_iter().enumerate() {
                    self.separate(i, depth + 1, out);
                    self.string(k, out);
                    out.push_str(&self.key);
                    self.print(v, depth + 1, out);
                }
                self.close(depth, '}', out);
            }
            Value::String(s) => self.string(s, out),
            other => out.push_str(&other.to_string()),
        }
    }

    fn separate(&self, i: usize, depth: usize, out: &mut String) {
        if i > 0 {
            out.push_str(&self.item);
        }
        self.new_line(depth, out);
    }

    fn close(&self, depth: usize, bracket: char, out: &mut String) {
        self.new_line(depth, out);
        out.push(bracket);
    }

    fn new_line(&self, depth: usize, out: &mut String) {
        if let Some(n) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', n * depth));
        }
    }

    fn string(&self, s: &str, out: &mut String) {
        let quoted = Value::String(s.to_owned()).to_string();
        if !self.ensure_ascii {
            out.push_str(&quoted);
            return;
        }
        for c in quoted.chars() {
            if c.is_ascii() {
                out.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn prints_like_python() {
        let v = json!({"b": [1, {"x": []}], "a": "é<\"\n🦊", "c": {}});
        // Outputs of json.dumps of Python 3.11.
        assert_eq!(
            python_json(&v, None, None, false, false),
            "{\"b\": [1, {\"x\": []}], \"a\": \"é<\\\"\\n🦊\", \"c\": {}}"
        );
        assert_eq!(
            python_json(&v, Some(2), None, true, true),
            "{\n  \"a\": \"\\u00e9<\\\"\\n\\ud83e\\udd8a\",\n  \"b\": [\n    1,\n    {\n      \"x\": []\n    }\n  ],\n  \"c\": {}\n}"
        );
        let tight = Some((",".to_owned(), ":".to_owned()));
        assert_eq!(python_json(&json!({"a": [1, 2]}), None, tight, false, false), "{\"a\":[1,2]}");
    }
}
