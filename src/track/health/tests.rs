//! Every rule of the table begins, stays silent, ends, and does not stir in a healthy run.

use super::*;

fn row(step: u64, values: &[(&str, f64)]) -> MetricRow {
    let values = values.iter().map(|(n, v)| (n.to_string(), *v)).collect();
    MetricRow { step, epoch: 0.0, values }
}

/// Alerts of a course of one metric, as (step, name, turn).
fn course(name: &str, values: impl IntoIterator<Item = f64>) -> Vec<(u64, String, Turn)> {
    let mut health = Health::default();
    let rows = values.into_iter().enumerate();
    let found = rows.flat_map(|(i, v)| {
        let spread = ("reward_std", 0.5);
        health.look(&row(i as u64 + 1, &[(name, v), spread]))
    });
    found.map(|a| (a.step, a.name, a.state)).collect()
}

fn flat(value: f64, rows: usize) -> impl Iterator<Item = f64> {
    std::iter::repeat_n(value, rows)
}

/// A metric, its healthy and its bad value, and the rows until the trouble begins and ends.
const COURSES: &[(&str, &str, f64, f64)] = &[
    ("non_finite", NON_FINITE, 0.0, 1.0),
    ("reward_collapse", "reward", 1.0, 0.1),
    ("entropy_collapse", "entropy", 1.5, 0.01),
    ("length_explosion", "completions/mean_length", 100.0, 600.0),
    ("repetition", "completions/repetition", 0.1, 0.9),
    ("dead_groups", "frac_reward_zero_std", 0.3, 1.0),
    ("truncation", "completions/clipped_ratio", 0.1, 0.9),
    ("format_zero", "rewards/format/mean", 0.5, 0.0),
    ("kl_explosion", "kl", 0.05, 9.0),
    ("reward_failures", "rewards/failed_ratio", 0.0, 0.5),
];

#[test]
fn every_rule_begins_once_and_ends_once() {
    let named: Vec<&str> = COURSES.iter().map(|c| c.0).collect();
    let table: Vec<&str> = RULES.iter().map(|r| r.name).collect();
    assert_eq!(named, table);
    for &(name, metric, good, bad) in COURSES {
        let window = RULES.iter().find(|r| r.name == name).unwrap().window;
        assert_eq!(course(metric, flat(good, 60)), [], "{name} in a healthy run");
        let whole = flat(good, 30).chain(flat(bad, 60)).chain(flat(good, 60));
        let found = course(metric, whole);
        let turns: Vec<(&str, Turn)> = found.iter().map(|(_, n, t)| (n.as_str(), *t)).collect();
        assert_eq!(turns, [(name, Turn::Begun), (name, Turn::Over)], "{name}");
        assert!(found[0].0 > 30 && found[0].0 <= 30 + window as u64, "{name}: {found:?}");
        assert!(found[1].0 > 90 && found[1].0 <= 90 + window as u64, "{name}: {found:?}");
    }
}

#[test]
fn a_figure_that_wavers_around_its_limit_is_told_once() {
    let wavers = (0..200).map(|i| if i / 7 % 2 == 0 { 0.55 } else { 0.46 });
    let found = course("completions/clipped_ratio", wavers);
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn the_state_after_a_resume_is_that_of_the_whole_run() {
    let rows: Vec<MetricRow> = (0..120u64)
        .map(|i| {
            let wave = (i as f64 * 0.37).sin().abs();
            row(
                i + 1,
                &[
                    ("reward", if (40..80).contains(&i) { 0.1 * wave } else { 1.0 + wave }),
                    ("reward_std", 0.4),
                    ("entropy", if i > 90 { 0.001 } else { 1.0 }),
                    ("kl", if i % 30 < 9 { f64::INFINITY } else { 0.1 }),
                    ("health/active", 7.0),
                ],
            )
        })
        .collect();
    let mut whole = Health::default();
    let alerts: Vec<Vec<Alert>> = rows.iter().map(|r| whole.look(r)).collect();
    assert!(alerts.iter().flatten().count() >= 5);
    for cut in [0, 1, 37, 60, 95, 119] {
        let mut resumed = Health::after(&rows[..cut]);
        let rest: Vec<Vec<Alert>> = rows[cut..].iter().map(|r| resumed.look(r)).collect();
        assert_eq!(rest, alerts[cut..], "after {cut} rows");
        assert_eq!(resumed.figures(), whole.figures());
    }
}

#[test]
fn figures_name_what_has_been_and_alerts_are_lines_of_json() {
    let mut health = Health::default();
    assert_eq!(health.figures(), [("health/active".to_string(), 0.0)]);
    let begun = health.look(&row(1, &[(NON_FINITE, 2.0)])).pop().unwrap();
    let on = [("health/active".to_string(), 1.0), ("health/non_finite".to_string(), 1.0)];
    assert_eq!(health.figures(), on);
    let over = health.look(&row(2, &[("loss", 0.1)])).pop().unwrap();
    assert_eq!(over.state, Turn::Over);
    let off = [("health/active".to_string(), 0.0), ("health/non_finite".to_string(), 0.0)];
    assert_eq!(health.figures(), off);
    assert!(health.look(&row(3, &[("eval_reward", 1.0)])).is_empty());

    let text = serde_json::to_string(&begun).unwrap();
    assert!(text.starts_with(r#"{"step":1,"name":"non_finite","state":"begun","value":2.0"#));
    assert_eq!(serde_json::from_str::<Alert>(&text).unwrap(), begun);
    assert!(begun.line().contains("docs/tuning.md#non-finite"), "{}", begun.line());
    let endless = Alert { value: None, ..begun };
    let text = serde_json::to_string(&endless).unwrap();
    assert_eq!(serde_json::from_str::<Alert>(&text).unwrap(), endless);
}

#[test]
fn the_option_names_every_rule() {
    use crate::options::{Kind, OPTIONS};
    let option = OPTIONS.iter().find(|o| o.name == "stop_on_alert").unwrap();
    let Kind::List(Kind::Choice(words)) = option.kind else { panic!("{:?}", option.kind) };
    let rules: Vec<&str> = RULES.iter().map(|r| r.name).collect();
    assert_eq!(words[0], "all");
    assert_eq!(words[1..], rules);
}
