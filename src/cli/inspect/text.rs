//! An inspection as text: one paragraph per matter, the most important numbers first. Texts of the data
//! stand on one line and without control characters, so that they cannot command a terminal.

use crate::inspect::{
    Answers, Broken, BrokenRow, Column, Copies, Inspection, Pictures, Questions, Schema, Spread,
    Tokens, ValueCount, Videos,
};
use std::collections::BTreeMap;
use std::fmt::Display;

/// Longest text of the data on a line, in characters.
const SHORT: usize = 70;

/// The whole report.
pub fn of(i: &Inspection) -> String {
    let files: Vec<String> = i.files.iter().map(|f| f.display().to_string()).collect();
    let mut out = format!("{}\n", plain(&files.join(", "), 400));
    line(&mut out, "rows", format!("{}: {} usable, {} broken", i.rows, i.good, i.broken.count));
    let parts = [
        broken(&i.broken),
        schema(&i.schema),
        images(&i.images),
        i.videos.as_ref().map_or(String::new(), videos),
        questions(&i.questions),
        answers(&i.answers),
        i.tokens.as_ref().map_or(String::new(), tokens),
    ];
    for part in parts.iter().filter(|p| !p.is_empty()) {
        out += "\n";
        out += part;
    }
    out
}

fn line(out: &mut String, name: &str, value: impl Display) {
    *out += &format!("  {name:<22}{value}\n");
}

/// A text of the data on one line.
fn plain(text: &str, most: usize) -> String {
    // Marks of direction turn what follows on a line around.
    let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let quiet = |c: char| if c.is_control() || turns(c) { ' ' } else { c };
    let mut short: String = text.chars().take(most).map(quiet).collect();
    if text.chars().nth(most).is_some() {
        short.push('…');
    }
    short
}

/// The end of a path on one line: names differ there.
fn end(path: &str, most: usize) -> String {
    let skipped = path.chars().count().saturating_sub(most);
    let rest: String = path.chars().skip(skipped).collect();
    plain(&if skipped > 0 { format!("…{rest}") } else { rest }, most + 1)
}

/// A number without needless digits.
fn number(n: f64) -> String {
    if n.fract() == 0.0 && n.abs() < 1e15 { format!("{n:.0}") } else { format!("{n:.3}") }
}

fn spread(s: &Option<Spread>) -> String {
    s.map_or("-".into(), |s| {
        format!(
            "min {}, median {}, 95 % {}, max {}",
            number(s.min),
            number(s.median),
            number(s.p95),
            number(s.max)
        )
    })
}

fn counts<K: Display>(map: &BTreeMap<K, usize>) -> String {
    map.iter().map(|(k, n)| format!("{k} ({n})")).collect::<Vec<_>>().join(", ")
}

fn broken(b: &Broken) -> String {
    if b.count == 0 {
        return String::new();
    }
    let mut out = "broken rows\n".to_string();
    let mut kinds: Vec<(&String, &usize)> = b.kinds.iter().collect();
    kinds.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
    for (what, n) in kinds {
        out += &format!("  {n:>6} x {}\n", plain(what, 120));
    }
    out += &format!("  the first {}:\n", b.first.len());
    for row in &b.first {
        out += &format!("  {}\n", broken_row(row));
    }
    out
}

fn broken_row(row: &BrokenRow) -> String {
    let mut place: Vec<String> = Vec::new();
    place.extend(row.file.clone());
    place.extend(row.row.map(|n| format!("row {n}")));
    place.extend(row.key.as_ref().map(|k| format!("key `{k}`")));
    let found = row.found.as_ref().map_or(String::new(), |f| format!(" (found: {f})"));
    plain(&format!("{}: {}{found}", place.join(", "), row.what), 300)
}

fn schema(s: &Schema) -> String {
    let mut out = "columns\n".to_string();
    for c in &s.columns {
        line(&mut out, &plain(&c.name, 20), column(c));
    }
    if s.further > 0 {
        out += &format!("  and {} further columns\n", s.further);
    }
    out
}

fn column(c: &Column) -> String {
    let mut parts = vec![if c.types.is_empty() { "always null".into() } else { counts(&c.types) }];
    if c.null_share > 0.0 && !c.types.is_empty() {
        parts.push(format!("{:.1} % null", 100.0 * c.null_share));
    }
    parts.push(format!("{} distinct", c.distinct));
    parts.extend(c.numbers.map(|[a, b]| format!("{} to {}", number(a), number(b))));
    parts.extend(c.characters.map(|[a, b]| format!("{a} to {b} characters")));
    parts.extend(c.items.map(|[a, b]| format!("{a} to {b} items")));
    let mut text = parts.join(", ");
    // Names of rows are no kinds of rows.
    let repeated = |values: &&Vec<ValueCount>| values.iter().any(|v| v.count > 1);
    if let Some(values) = c.values.as_ref().filter(repeated) {
        let list = values.iter().map(|v| format!("{} ({})", plain(&v.value, SHORT), v.count));
        text += &format!(": {}", plain(&list.collect::<Vec<_>>().join(", "), 400));
    }
    text
}

fn copies(c: &Copies) -> String {
    let names: Vec<String> = c.names.iter().map(|n| end(n, SHORT)).collect();
    let more = c.count - c.names.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}: {} rows", names.join(" = "), c.rows)
}

fn images(p: &Pictures) -> String {
    if p.references == 0 {
        return "images\n  none\n".into();
    }
    let mut out = "images\n".to_string();
    let (files, pictures) = (p.names, p.pictures);
    line(&mut out, "in all rows", format!("{}, of {files} files", p.references));
    line(&mut out, "per row", {
        let of = |(n, rows): (&usize, &usize)| format!("{n} ({rows} rows)");
        p.per_row.iter().map(of).collect::<Vec<_>>().join(", ")
    });
    line(&mut out, "width", spread(&p.width));
    line(&mut out, "height", spread(&p.height));
    line(&mut out, "megapixels", spread(&p.megapixels));
    line(&mut out, "formats", counts(&p.formats));
    line(&mut out, "modes", counts(&p.modes));
    if p.turned > 0 {
        line(&mut out, "turned by EXIF", format!("{} (not applied, as in Pillow)", p.turned));
    }
    line(
        &mut out,
        "distinct pictures",
        format!("{pictures}; {} rows share one with another row", p.rows_sharing),
    );
    if p.copied > 0 {
        line(&mut out, "several names", format!("{} pictures, the first:", p.copied));
        for c in p.copies.iter().take(5) {
            out += &format!("    {}\n", copies(c));
        }
    }
    out
}

fn videos(v: &Videos) -> String {
    let mut out = "videos\n".to_string();
    line(&mut out, "in all rows", format!("{}, of {} files", v.references, v.names));
    line(&mut out, "seconds", spread(&v.seconds));
    line(&mut out, "frames", spread(&v.frames));
    line(&mut out, "frames per second", spread(&v.fps));
    line(&mut out, "width", spread(&v.width));
    line(&mut out, "height", spread(&v.height));
    out
}

fn questions(q: &Questions) -> String {
    let mut out = "questions\n".to_string();
    line(&mut out, "distinct", q.distinct);
    line(&mut out, "characters", spread(&q.characters));
    line(&mut out, "repeated", format!("{} rows ask again, of the same pictures", q.repeated));
    if q.contradicting > 0 {
        line(
            &mut out,
            "contradicting",
            format!("{} prompts have several answers", q.contradicting),
        );
    }
    for e in q.examples.iter().take(5) {
        out += &format!(
            "    {}: {} rows ({}), answers {}\n",
            plain(&e.question, SHORT),
            e.count,
            plain(&e.rows.join("; "), 120),
            plain(&e.answers.join(" | "), SHORT)
        );
    }
    out
}

fn answers(a: &Answers) -> String {
    let mut out = "answers\n".to_string();
    line(&mut out, "distinct", a.distinct);
    line(&mut out, "characters", spread(&a.characters));
    if a.tokens.is_some() {
        line(&mut out, "tokens", spread(&a.tokens));
    }
    // Where every answer is its own, some are enough to see what they are like.
    let shown = if a.top.first().is_some_and(|v| v.count > 1) { a.top.len() } else { 3 };
    for v in a.top.iter().take(shown) {
        out += &format!("  {:>6} x {}\n", v.count, plain(&v.value, SHORT));
    }
    out
}

fn tokens(t: &Tokens) -> String {
    let mut out = "tokens of a prompt\n".to_string();
    line(&mut out, "all", spread(&t.prompt));
    line(&mut out, "images and videos", spread(&t.visual));
    line(&mut out, "text", spread(&t.text));
    if let Some(limit) = t.max_prompt_length {
        let over = t.over_max_prompt_length;
        line(&mut out, "max_prompt_length", format!("{limit}: {over} rows are longer"));
    }
    line(
        &mut out,
        "context",
        format!(
            "{} positions, {} for a completion: {} rows do not fit",
            t.context, t.max_completion_length, t.over_context
        ),
    );
    for s in &t.suggestions {
        let flag = format!("--max_prompt_length {}", s.max_prompt_length);
        line(&mut out, "suggested", format!("{flag} (leaves {} rows out)", s.rows_left_out));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_data_stay_on_their_line() {
        assert_eq!(plain("a\nb\u{1b}[31m\u{7}c\u{202e}", 70), "a b [31m c ");
        assert_eq!(plain("ảnh này", 3), "ảnh…");
        assert_eq!((end("a/b/ảnh.png", 7), end("a.png", 7)), ("…ảnh.png".into(), "a.png".into()));
        assert_eq!((number(3.0), number(0.12345)), ("3".into(), "0.123".into()));
    }
}
