//! What pages of the program are made of: their look, escaping, charts. A page is one file without fonts
//! or requests; every text in it passes [`escape`], because models and data sets write most of it.

mod chart; // numbers as SVG

pub use chart::{Frame, Series, compact, line_chart, padded, range};

/// The look of a page: light and dark.
pub const STYLE: &str = include_str!("page.css");
/// What moves on a page: readouts of charts under the pointer.
pub const SCRIPT: &str = include_str!("page.js");

/// Text that is safe in HTML content and in quoted attributes; control characters are dropped.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c if c.is_control() && c != '\n' && c != '\t' => {}
            c => out.push(c),
        }
    }
    out
}
