//! Tagged text, strictly: which tags stand where and how often, and the insides of blocks that make up
//! a whole completion. Decides nothing about what is between them, except whether it is anything.

/// Tags of the blocks that completions are made of.
const KNOWN: [&str; 4] = ["think", "reasoning", "answer", "explain"];

/// A tag that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    /// Index in [`KNOWN`].
    name: usize,
    closes: bool,
    /// Written as asked for: lower case, no spaces.
    exact: bool,
    start: usize,
    end: usize,
}

/// Every tag of [`KNOWN`] in the text, in order, however its letters and spaces are written: what a
/// browser would take for a tag is one, so that `<THINK>` and `< / think >` are not text.
fn tags(text: &str) -> Vec<Found> {
    let mut found = Vec::new();
    for (start, _) in text.match_indices('<') {
        let inside = text[start + 1..].trim_start();
        let (closes, inside) = match inside.strip_prefix('/') {
            Some(rest) => (true, rest.trim_start()),
            None => (false, inside),
        };
        let letters = inside.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(inside.len());
        let name = KNOWN.iter().position(|k| k.eq_ignore_ascii_case(&inside[..letters]));
        let after = inside[letters..].trim_start();
        if let Some(name) = name
            && after.starts_with('>')
        {
            let end = text.len() - after.len() + 1;
            let plain = KNOWN[name].len() + if closes { 3 } else { 2 };
            let exact = end - start == plain && inside.starts_with(KNOWN[name]);
            found.push(Found { name, closes, exact, start, end });
        }
    }
    found
}

/// Insides of the blocks `names`, in that order, where the text is these blocks with nothing but white
/// space between them and nothing around them, and has each of their tags exactly once.
pub fn blocks<'t, const N: usize>(text: &'t str, names: [&str; N]) -> Option<[&'t str; N]> {
    let mut ours = tags(text).into_iter().filter(|f| names.contains(&KNOWN[f.name]));
    let mut insides = [""; N];
    let mut at = 0;
    for (inside, name) in insides.iter_mut().zip(names) {
        let (open, close) = (ours.next()?, ours.next()?);
        let pair = [open, close].iter().all(|f| f.exact && KNOWN[f.name] == name);
        let between = &text[at..open.start];
        let parted = if at == 0 { between.is_empty() } else { between.trim().is_empty() };
        if !pair || open.closes || !close.closes || !parted {
            return None;
        }
        *inside = &text[open.end..close.start];
        at = close.end;
    }
    (at == text.len() && ours.next().is_none()).then_some(insides)
}

/// Whether a tag of this name stands anywhere in the text, open or closed, however it is written.
pub fn has_tag(text: &str, name: &str) -> bool {
    tags(text).iter().any(|f| KNOWN[f.name] == name)
}

/// Where the tag stands, from byte to byte, if it does exactly once and is written exactly.
pub fn only_tag(text: &str, name: &str, closes: bool) -> Option<(usize, usize)> {
    let all = tags(text).into_iter();
    let own: Vec<Found> = all.filter(|f| KNOWN[f.name] == name && f.closes == closes).collect();
    let [one] = own[..] else { return None };
    one.exact.then_some((one.start, one.end))
}

/// A block that stands in a text exactly once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block<'t> {
    /// Byte at which its opening tag begins.
    pub start: usize,
    /// What is inside.
    pub inside: &'t str,
    /// Byte after its closing tag.
    pub end: usize,
}

/// The block `name`, if its tags stand in the text exactly once each, written exactly and in order,
/// with none of `others` inside.
pub fn only_block<'t>(text: &'t str, name: &str, others: &[&str]) -> Option<Block<'t>> {
    let all = tags(text);
    let own: Vec<&Found> = all.iter().filter(|f| KNOWN[f.name] == name).collect();
    let [open, close] = own[..] else { return None };
    let inside = |f: &&Found| open.end <= f.start && f.end <= close.start;
    let crossed = all.iter().filter(inside).any(|f| others.contains(&KNOWN[f.name]));
    let good = open.exact && close.exact && !open.closes && close.closes && !crossed;
    good.then(|| Block { start: open.start, inside: &text[open.end..close.start], end: close.end })
}

/// Whether a reader sees anything: a character that is neither space nor control nor of no width.
pub fn is_visible(text: &str) -> bool {
    let hidden = |c: char| {
        c.is_whitespace()
            || c.is_control()
            || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}')
            || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{180e}' | '\u{2800}')
            || matches!(c, '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}')
    };
    text.chars().any(|c| !hidden(c))
}

/// Whether there is a letter or digit: what reasoning cannot do without.
pub fn has_words(text: &str) -> bool {
    // The Hangul fillers are letters that nobody sees.
    let letter = |c: char| c.is_alphanumeric() && is_visible(c.encode_utf8(&mut [0; 4]));
    text.chars().any(letter)
}

/// White space of Python's `str`, which has four separators more than Unicode's.
pub fn is_python_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_whole_ordered_and_single() {
        let two = |t| blocks(t, ["think", "answer"]);
        assert_eq!(two("<think>a</think>\n<answer>b</answer>"), Some(["a", "b"]));
        assert_eq!(
            two("<think>a <b> 1 < 2 </think><answer>b</answer>"),
            Some(["a <b> 1 < 2 ", "b"])
        );
        for bad in [
            "",
            " <think>a</think><answer>b</answer>",
            "<think>a</think><answer>b</answer>\n",
            "<think>a</think>x<answer>b</answer>",
            "<think>a <THINK> b</think><answer>b</answer>",
            "<think>a</think><answer>b < / answer ></answer>",
            "<think>a</think><answer>b</answer><answer>c</answer>",
            "<answer>b</answer><think>a</think>",
            "<think>a</think><answer>b",
            "<Think>a</Think><answer>b</answer>",
        ] {
            assert_eq!(two(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_block_stands_once_or_not_at_all() {
        let one = only_block("x<answer>b</answer>y", "answer", &["think"]).unwrap();
        assert_eq!((one.start, one.inside, one.end), (1, "b", 19));
        assert_eq!(only_block("<answer>b</answer><answer>", "answer", &[]), None);
        assert_eq!(only_block("</answer>b<answer>", "answer", &[]), None);
        assert_eq!(only_block("<answer><think></answer>", "answer", &["think"]), None);
        assert!(has_tag("a </ THINK> b", "think") && !has_tag("think> <thinking>", "think"));
    }

    #[test]
    fn what_nobody_sees_is_nothing() {
        assert!(!is_visible(" \u{200b}\u{feff}\u{3164}\n\u{7f}") && is_visible("?"));
        assert!(!has_words(" .\u{3164}!") && has_words("ệ") && has_words("水"));
    }
}
