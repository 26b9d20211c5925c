//! The report's list of alerts: when each began, what it saw, what to do, and when it was over.

use crate::io::html::escape;
use crate::track::health::{Alert, Turn};
use std::fmt::Write;

/// A table of the alerts that began; empty if there were none.
pub(super) fn alerts(alerts: &[Alert]) -> String {
    let mut lines = String::new();
    for (i, a) in alerts.iter().enumerate().filter(|(_, a)| a.state == Turn::Begun) {
        let end = alerts[i..].iter().find(|o| o.state == Turn::Over && o.name == a.name);
        let until = end.map_or("to the end".to_string(), |o| format!("to step {}", o.step));
        let _ = write!(
            lines,
            "<tr><td><b>{}</b></td><td>from step {} {until}</td><td>{}</td><td>{}<br><code>{}</code></td></tr>",
            escape(&a.name),
            a.step,
            escape(&a.message),
            escape(&a.advice),
            escape(&a.link),
        );
    }
    match lines.is_empty() {
        true => lines,
        false => format!(
            "<div class=\"card\"><table><tr><th>alert</th><th>when</th><th>what</th><th>what to do</th>\
             </tr>{lines}</table></div>\n"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::track::MetricRow;
    use crate::track::health::Health;

    #[test]
    fn alerts_are_listed_with_their_ends() {
        assert_eq!(alerts(&[]), "");
        let mut health = Health::default();
        let row = |step, loss: f64| {
            let mut row = MetricRow::new(step, 0.0);
            row.push(crate::track::health::NON_FINITE, loss);
            row
        };
        let mut all = health.look(&row(3, 1.0));
        let open = alerts(&all);
        assert!(open.contains("<b>non_finite</b>") && open.contains("from step 3 to the end"));
        all.extend(health.look(&row(5, 0.0)));
        let html = alerts(&all);
        assert!(html.contains("from step 3 to step 5"), "{html}");
        assert_eq!(html.matches("<tr>").count(), 2);
    }
}
