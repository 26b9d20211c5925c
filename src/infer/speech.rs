//! From tokens to text as it is heard: what is whole is said at once, what may be the beginning of a stop
//! text is held back, and nothing that was said is taken back.

use crate::io::text::tokenizer::{DecodeStream, Tokenizer};

/// The text of one completion in the making.
#[derive(Debug)]
pub struct Speech {
    /// `None` once it has ended.
    stream: Option<DecodeStream>,
    stop: Vec<String>,
    /// Text that may turn out to be a stop text.
    held: String,
}

impl Speech {
    /// A completion that ends before any of these texts (none of them empty).
    pub fn new(tokenizer: &Tokenizer, stop: &[String]) -> Self {
        let stream = Some(tokenizer.decode_stream(true));
        Speech { stream, stop: stop.to_vec(), held: String::new() }
    }

    /// Text that a token makes certain, and whether a stop text came: then it is the last.
    pub fn push(&mut self, token: u32) -> (String, bool) {
        let text = self.stream.as_mut().and_then(|stream| stream.push(token));
        text.map_or((String::new(), false), |text| self.hear(&text))
    }

    /// What was held back, at the end of a completion.
    pub fn finish(&mut self) -> String {
        let rest = self.stream.take().and_then(DecodeStream::finish).unwrap_or_default();
        let (mut text, stopped) = self.hear(&rest);
        if !stopped {
            text += &std::mem::take(&mut self.held);
        }
        text
    }

    fn hear(&mut self, text: &str) -> (String, bool) {
        self.held += text;
        let found = self.stop.iter().filter_map(|s| self.held.find(s.as_str())).min();
        if let Some(at) = found {
            self.stream = None;
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self.stop.iter().map(|s| beginning(&self.held, s)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }
}

/// Bytes at the end of `text` with which `stop` begins.
fn beginning(text: &str, stop: &str) -> usize {
    let lengths = stop.char_indices().map(|(at, _)| at).rev();
    lengths.into_iter().find(|&n| text.ends_with(&stop[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts as they are said when these pieces are heard.
    fn said(stop: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let stop = stop.iter().map(|s| s.to_string()).collect();
        let mut speech = Speech { stream: None, stop, held: String::new() };
        let mut all = Vec::new();
        for piece in pieces {
            let (text, stopped) = speech.hear(piece);
            all.push(text);
            if stopped {
                return (all, true);
            }
        }
        all.push(speech.finish());
        (all, false)
    }

    #[test]
    fn what_may_be_a_stop_text_is_held_back() {
        assert_eq!(said(&[], &["a", "b"]), (vec!["a".into(), "b".into(), "".into()], false));
        let (all, stopped) = said(&["</answer>"], &["x </", "ans", "wer", "> y"]);
        assert!(stopped && all == ["x ", "", "", ""]);
        let (all, stopped) = said(&["</answer>"], &["x </", "ans", "el", " </"]);
        assert!(!stopped && all == ["x ", "", "</ansel", " ", "</"]);
        // The first of several, wherever a piece ends; characters stay whole.
        assert_eq!(said(&["bc", "c"], &["ab", "c"]), (vec!["a".into(), "".into()], true));
        assert_eq!(said(&["c", "bcd"], &["abc"]).0, ["ab"]);
        assert_eq!(said(&["é!"], &["cafe\u{301} é", "x"]).0, ["cafe\u{301} ", "éx", ""]);
    }
}
