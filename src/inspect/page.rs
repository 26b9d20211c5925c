//! The page of an inspection: tables, small histograms and sample prompts. One file, light and dark,
//! without scripts or requests. Every text of a data set passes [`escape`] on its way in.

use super::counts::{Histogram, Spread};
use super::pictures::{Copies, Pictures};
use super::sample::{Piece, Sample};
use super::schema::{Column, Schema, ValueCount};
use super::texts::{Answers, Questions};
use super::{Broken, Inspection, Tokens, Videos};
use crate::io::html::{Frame, STYLE, compact, escape};
use std::collections::BTreeMap;
use std::fmt::{Display, Write};

/// What the look of reports lacks.
const MORE_STYLE: &str = "\
.prompt{white-space:pre-wrap;overflow-wrap:anywhere;font-size:14px;line-height:1.6}\
.prompt figure{margin:6px 0;white-space:normal}.prompt figcaption{color:var(--soft);font-size:12.5px}\
.body .prompt img{min-width:0;margin:0}\
.tok{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:12px;color:var(--soft);\
background:var(--plane);border:1px solid var(--line);border-radius:5px;padding:0 4px}\
.role{display:block;color:var(--soft);font-size:12px;margin-top:8px}\
.body pre{margin:0;white-space:pre-wrap;overflow-wrap:anywhere;font-size:12.5px;max-height:22em;overflow:auto}\
.flow{overflow-x:auto}.bad{color:var(--neg)}\n";

/// The page.
pub(super) fn render(i: &Inspection, samples: &[Sample]) -> String {
    let sections = [
        ("broken", "Broken rows", broken(&i.broken)),
        ("samples", "Sample prompts", samples.iter().enumerate().map(sample).collect()),
        ("tokens", "Tokens", i.tokens.as_ref().map_or(String::new(), tokens)),
        ("images", "Images", images(&i.images)),
        ("videos", "Videos", i.videos.as_ref().map_or(String::new(), videos)),
        ("questions", "Questions", questions(&i.questions)),
        ("answers", "Answers", answers(&i.answers)),
        ("columns", "Columns", schema(&i.schema)),
    ];
    let mut nav = String::new();
    let mut body = String::new();
    for (id, title, html) in sections.iter().filter(|(_, _, html)| !html.is_empty()) {
        let _ = write!(nav, "<a href=\"#{id}\">{title}</a>");
        let _ = write!(body, "<section id=\"{id}\"><h2>{title}</h2>\n{html}</section>\n");
    }
    let names: Vec<String> = i.files.iter().map(|f| f.display().to_string()).collect();
    let title = escape(&names.join(", "));
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>{title} · grpo-rt</title>\n<style>\n{STYLE}{MORE_STYLE}</style></head><body><main>\n\
         <h1>{title}</h1><p class=\"sub\">A data set as grpo-rt reads it</p><nav>{nav}</nav>\n{}\n\
         {body}</main></body></html>\n",
        tiles(i),
    )
}

fn tiles(i: &Inspection) -> String {
    let mut all = vec![
        ("rows", i.rows.to_string()),
        ("usable", i.good.to_string()),
        ("broken", i.broken.count.to_string()),
        ("distinct pictures", i.images.pictures.to_string()),
        ("distinct questions", i.questions.distinct.to_string()),
        ("distinct answers", i.answers.distinct.to_string()),
    ];
    if let Some(t) = &i.tokens {
        all.extend(t.prompt.map(|p| ("longest prompt, tokens", compact(p.max))));
        all.extend(
            t.suggestions.first().map(|s| ("suggested limit", s.max_prompt_length.to_string())),
        );
    }
    let tile = |(name, value): &(&str, String)| {
        format!("<div class=\"tile\"><span>{name}</span><b>{}</b></div>", escape(value))
    };
    format!("<div class=\"tiles\">{}</div>", all.iter().map(tile).collect::<String>())
}

/// A table; cells are texts from outside.
fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let head: String = head.iter().map(|h| format!("<th>{}</th>", escape(h))).collect();
    let row = |cells: Vec<String>| {
        let cells: String = cells.iter().map(|c| format!("<td>{}</td>", escape(c))).collect();
        format!("<tr>{cells}</tr>")
    };
    let rows: String = rows.into_iter().map(row).collect();
    format!("<table><tr>{head}</tr>{rows}</table>")
}

fn card(title: &str, inner: &str, wide: bool) -> String {
    let class = if wide { "card wide flow" } else { "card flow" };
    format!(
        "<div class=\"{class}\"><div class=\"cap\"><b>{}</b></div>{inner}</div>\n",
        escape(title)
    )
}

fn cards(html: &str) -> String {
    format!("<div class=\"charts\">\n{html}</div>\n")
}

fn lines(lines: Vec<(&str, String)>) -> String {
    table(&["", ""], lines.into_iter().map(|(name, value)| vec![name.to_owned(), value]))
}

fn spreads(title: &str, all: &[(&str, Option<Spread>)]) -> String {
    let row = |(name, s): &(&str, Option<Spread>)| {
        let s = (*s)?;
        let numbers = [s.min, s.median, s.p95, s.max, s.mean].map(compact);
        Some(std::iter::once((*name).to_owned()).chain(numbers).collect::<Vec<_>>())
    };
    let rows: Vec<Vec<String>> = all.iter().filter_map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    card(title, &table(&["", "min", "median", "95 %", "max", "mean"], rows), false)
}

/// Bars from zero with their counts.
fn bars(title: &str, all: impl IntoIterator<Item = (String, usize)>) -> String {
    let all: Vec<(String, usize)> = all.into_iter().collect();
    let most = all.iter().map(|b| b.1).max().unwrap_or(0).max(1);
    let bar = |(name, n): &(String, usize)| {
        format!(
            "<tr><td>{}</td><td class=\"bar\"><i class=\"b0\" style=\"width:{:.1}%\"></i></td>\
             <td>{n}</td></tr>",
            escape(name),
            100.0 * *n as f64 / most as f64
        )
    };
    if all.is_empty() {
        return String::new();
    }
    let rows: String = all.iter().map(bar).collect();
    card(title, &format!("<table class=\"shares\">{rows}</table>"), false)
}

fn histogram(title: &str, h: Option<&Histogram>) -> String {
    let Some(h) = h else { return String::new() };
    let n = h.counts.len();
    let top = h.counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    let frame = Frame { x: (0.0, n as f64), y: (0.0, top * 1.05) };
    let mut svg = frame.open(title, false);
    let edge = |i: usize| compact(h.from + i as f64 * h.width);
    for (i, count) in h.counts.iter().enumerate().filter(|(_, c)| **c > 0) {
        let (x, y) = (frame.px(i as f64), frame.py(*count as f64));
        let _ = write!(
            svg,
            "<rect class=\"f0\" x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\">\
             <title>{} to {}: {count}</title></rect>",
            x + 0.5,
            (frame.px(1.0) - frame.px(0.0) - 1.0).max(0.5),
            frame.py(0.0) - y,
            edge(i),
            edge(i + 1),
        );
    }
    for i in (0..=n).step_by(n.div_ceil(6).max(1)) {
        let x = frame.px(i as f64);
        let _ = write!(svg, "<text class=\"xlab\" x=\"{x:.1}\" y=\"184\">{}</text>", edge(i));
    }
    let beyond = match h.beyond {
        0 => String::new(),
        b => format!("{b} beyond"),
    };
    format!(
        "<figure class=\"card\"><figcaption><b>{}</b><span class=\"read\">{beyond}</span></figcaption>\
         {svg}</svg></figure>\n",
        escape(title)
    )
}

fn text<T: Display>(value: &Option<T>) -> String {
    value.as_ref().map_or(String::new(), T::to_string)
}

fn broken(b: &Broken) -> String {
    if b.count == 0 {
        return String::new();
    }
    let kinds: BTreeMap<std::cmp::Reverse<usize>, Vec<&String>> =
        b.kinds.iter().fold(BTreeMap::new(), |mut all, (what, n)| {
            all.entry(std::cmp::Reverse(*n)).or_insert_with(Vec::new).push(what);
            all
        });
    let kinds =
        kinds.into_iter().flat_map(|(n, all)| all.into_iter().map(move |w| (w.clone(), n.0)));
    let rows = b.first.iter().map(|r| {
        let wanted = text(&r.expected);
        vec![text(&r.file), text(&r.row), text(&r.key), r.what.clone(), wanted, text(&r.found)]
    });
    let head = ["file", "row", "key", "what", "expected", "found"];
    let title = format!("The first {} of {}", b.first.len(), b.count);
    cards(&(bars("What is wrong, rows", kinds) + &card(&title, &table(&head, rows), true)))
}

fn schema(s: &Schema) -> String {
    let types =
        |c: &Column| c.types.iter().map(|(t, n)| format!("{t} {n}")).collect::<Vec<_>>().join(", ");
    let range = |c: &Column| {
        let mut all = Vec::new();
        all.extend(c.numbers.map(|[a, b]| format!("{a} to {b}")));
        all.extend(c.characters.map(|[a, b]| format!("{a} to {b} characters")));
        all.extend(c.items.map(|[a, b]| format!("{a} to {b} items")));
        all.join(", ")
    };
    let values = |c: &Column| {
        let list = c.values.iter().flatten().map(|v| format!("{} ({})", v.value, v.count));
        list.collect::<Vec<_>>().join(", ")
    };
    let rows = s.columns.iter().map(|c| {
        let null = format!("{:.1} %", 100.0 * c.null_share);
        vec![c.name.clone(), types(c), null, c.distinct.to_string(), range(c), values(c)]
    });
    let head = ["column", "types", "null", "distinct", "range", "values"];
    let mut inner = table(&head, rows);
    if s.further > 0 {
        let _ = write!(inner, "<p>{} further columns</p>", s.further);
    }
    cards(&card("Columns of the usable rows", &inner, true))
}

fn copies(all: &[Copies]) -> String {
    let row = |c: &Copies| {
        let more = c.count - c.names.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        vec![format!("{}{more}", c.names.join(", ")), c.count.to_string(), c.rows.to_string()]
    };
    table(&["names", "how many", "rows"], all.iter().map(row))
}

fn images(p: &Pictures) -> String {
    if p.references == 0 {
        return String::new();
    }
    let count = |map: &BTreeMap<&'static str, usize>| {
        map.iter().map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ")
    };
    let mut html = card(
        "Images",
        &lines(vec![
            ("in all rows", p.references.to_string()),
            ("files", p.names.to_string()),
            ("distinct pictures", p.pictures.to_string()),
            ("rows that share a picture", p.rows_sharing.to_string()),
            ("pictures with several names", p.copied.to_string()),
            ("formats", count(&p.formats)),
            ("modes", count(&p.modes)),
            ("turned by EXIF (not applied)", p.turned.to_string()),
        ]),
        false,
    );
    html += &spreads(
        "Sizes of the files",
        &[("width", p.width), ("height", p.height), ("megapixels", p.megapixels)],
    );
    html += &histogram("Megapixels, files", p.histogram.as_ref());
    html +=
        &bars("Images of a row, rows", p.per_row.iter().map(|(n, rows)| (n.to_string(), *rows)));
    if !p.copies.is_empty() {
        html += &card("The same picture under several names", &copies(&p.copies), true);
    }
    if !p.most_shared.is_empty() {
        html += &card("Pictures of the most rows", &copies(&p.most_shared), true);
    }
    cards(&html)
}

fn videos(v: &Videos) -> String {
    let counts = lines(vec![
        ("in all rows", v.references.to_string()),
        ("files that can be read", v.names.to_string()),
    ]);
    let spread = spreads(
        "Lengths and sizes",
        &[
            ("seconds", v.seconds),
            ("frames", v.frames),
            ("frames per second", v.fps),
            ("width", v.width),
            ("height", v.height),
        ],
    );
    cards(&(card("Videos", &counts, false) + &spread))
}

fn listed(title: &str, all: &[ValueCount]) -> String {
    bars(title, all.iter().map(|v| (v.value.clone(), v.count)))
}

fn questions(q: &Questions) -> String {
    let mut html = card(
        "Questions",
        &lines(vec![
            ("distinct", q.distinct.to_string()),
            ("rows that ask again what an earlier one asks", q.repeated.to_string()),
            ("prompts with several answers", q.contradicting.to_string()),
        ]),
        false,
    );
    html += &spreads("Lengths", &[("characters", q.characters)]);
    html += &listed("Asked most often, rows", &q.most_common);
    if !q.examples.is_empty() {
        let rows = q
            .examples
            .iter()
            .map(|e| vec![e.question.clone(), e.rows.join("; "), e.answers.join(" | ")]);
        html += &card(
            "The same question about the same pictures",
            &table(&["question", "rows", "answers"], rows),
            true,
        );
    }
    cards(&html)
}

fn answers(a: &Answers) -> String {
    let html = listed(&format!("Most frequent of {} answers, rows", a.distinct), &a.top)
        + &spreads("Lengths", &[("characters", a.characters), ("tokens", a.tokens)])
        + &histogram("Characters, rows", a.histogram.as_ref());
    cards(&html)
}

fn tokens(t: &Tokens) -> String {
    let mut all = vec![
        ("context of the model, positions", t.context.to_string()),
        ("of which for a completion", t.max_completion_length.to_string()),
        ("rows that do not fit", t.over_context.to_string()),
    ];
    if let Some(limit) = t.max_prompt_length {
        all.push(("max_prompt_length", limit.to_string()));
        all.push(("rows above it", t.over_max_prompt_length.to_string()));
    }
    for s in &t.suggestions {
        let out = match s.rows_left_out {
            0 => "leaves no row out".to_owned(),
            n => format!("leaves {n} rows out"),
        };
        all.push(("suggested", format!("--max_prompt_length {}: {out}", s.max_prompt_length)));
    }
    let html = card("Limits", &lines(all), false)
        + &spreads(
            "Tokens of a prompt",
            &[("all", t.prompt), ("images and videos", t.visual), ("text", t.text)],
        )
        + &histogram("Tokens of a prompt, rows", t.histogram.as_ref());
    cards(&html)
}

/// One sample; the first is open.
fn sample((index, s): (usize, &Sample)) -> String {
    let columns = s
        .columns
        .iter()
        .map(|(name, value)| format!("<h3>{}</h3><pre>{}</pre>", escape(name), escape(value)));
    let tokens = match s.tokens {
        Some((all, visual)) => format!("{all} tokens, {visual} of images"),
        None => String::new(),
    };
    let prompt: String = match &s.problem {
        Some(why) => format!("<pre class=\"bad\">{}</pre>", escape(why)),
        None => s.pieces.iter().map(piece).collect(),
    };
    format!(
        "<details class=\"group\"{}><summary><b>{}, row {}</b><span class=\"q\">{}</span>\
         <span class=\"read\">{tokens}</span></summary><div class=\"body\"><div>\
         <h3>Reference answer</h3><p>{}</p><details><summary>Columns of {}</summary>{}</details></div>\
         <div class=\"prompt\">{prompt}</div></div></details>\n",
        if index == 0 { " open" } else { "" },
        escape(&s.file),
        s.row,
        escape(&s.question),
        escape(&s.answer),
        escape(&s.id),
        columns.collect::<String>(),
    )
}

fn piece(piece: &Piece) -> String {
    match piece {
        Piece::Role(role) => format!("<span class=\"role\">{}</span>", escape(role)),
        Piece::Text(text) => format!("<span>{}</span>", escape(text)),
        Piece::Control(token) => format!("<span class=\"tok\">{}</span>", escape(token)),
        Piece::More(tokens) => format!("<span class=\"tok\">{tokens} more tokens</span>"),
        Piece::Picture(p) => {
            let image = p.uri.as_ref().map_or(String::new(), |uri| {
                let (width, height) = p.size;
                format!("<img alt=\"\" width=\"{width}\" height=\"{height}\" src=\"{uri}\">")
            });
            format!("<figure>{image}<figcaption>{}</figcaption></figure>", escape(&p.caption))
        }
    }
}
