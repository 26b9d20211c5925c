//! Tests of the report as a whole, on a made-up run; the page is also left in the build's folder
//! for a look with a browser.

use super::*;
use crate::base::{Philox, RngDomain};
use crate::track::health::Turn;
use crate::track::{JsonlSink, SampleCompletion, Sink};

/// A run of 120 steps in which everything goes reasonably well.
fn made_up_run() -> (Vec<MetricRow>, Vec<SampleGroup>) {
    let mut rng = Philox::new(1, RngDomain::Test).stream(0, 0);
    let (mut rows, mut groups) = (Vec::new(), Vec::new());
    for step in 1..=120u64 {
        let t = step as f64 / 120.0;
        let mut noise = |scale: f64| scale * f64::from(rng.normal());
        let accuracy = (0.25 + 0.6 * t + noise(0.06)).clamp(0.0, 1.0);
        let format = (1.0 - (-8.0 * t).exp() + noise(0.02)).clamp(0.0, 1.0);
        let mut row = MetricRow::new(step, t * 2.0);
        for (name, value) in [
            ("loss", noise(0.01)),
            ("grad_norm", 0.4 + noise(0.08).abs()),
            ("learning_rate", 1e-5 * (1.0 - t)),
            ("num_tokens", 5200.0 * step as f64),
            ("reward", accuracy + format),
            ("reward_std", 0.5 - 0.3 * t),
            ("frac_reward_zero_std", 0.1 + 0.4 * t),
            ("rewards/accuracy/mean", accuracy),
            ("rewards/accuracy/std", 0.3),
            ("rewards/format/mean", format),
            ("rewards/format/std", 0.3 * (1.0 - t)),
            ("rewards/failed", 0.0),
            ("kl", if step == 1 { 0.0 } else { 0.02 * t + noise(0.001).abs() }),
            ("entropy", 1.1 - 0.7 * t + noise(0.03)),
            ("completions/mean_length", 60.0 - 20.0 * t + noise(3.0)),
            ("completions/min_length", 20.0),
            ("completions/max_length", 100.0 - 25.0 * t),
            ("completions/clipped_ratio", 0.2 * (1.0 - t)),
            ("clip_ratio/low_mean", 0.01 * t),
            ("clip_ratio/high_mean", 0.02 * t),
            ("clip_ratio/region_mean", 0.03 * t),
            ("sampling/logp_diff_max", 0.0),
            ("step_time", 2.6 + noise(0.1)),
            ("time/rollout", 1.2 + noise(0.1).abs()),
            ("time/reward", 0.02),
            ("time/forward", 0.5),
            ("time/backward", 0.7 + noise(0.05).abs()),
            ("time/optimizer", 0.1),
            ("memory/weights", 3.1e8),
            ("memory/rollout", 5.4e8),
            ("memory/backward", 7.9e8),
        ] {
            row.push(name, value);
        }
        rows.push(row);
        if step % 40 == 0 || step == 1 {
            let values =
                [("eval_reward", accuracy + format), ("eval_rewards/accuracy/mean", accuracy)];
            let values = values.map(|(n, v)| (n.to_string(), v)).to_vec();
            rows.push(MetricRow { step, epoch: t * 2.0, values });
        }
        if step % 4 == 0 {
            groups.push(made_up_group(step, accuracy, &mut || rng.uniform()));
        }
    }
    (rows, groups)
}

fn made_up_group(step: u64, accuracy: f64, uniform: &mut dyn FnMut() -> f32) -> SampleGroup {
    let picture = image::RgbImage::from_fn(64, 64, |x, y| {
        let inside = (x as i32 - 40).pow(2) + (y as i32 - 24).pow(2) < 180;
        image::Rgb(if inside { [30, 90, 220] } else { [235, 225, 200] })
    });
    let mut png = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut png, image::ImageFormat::Png).unwrap();
    let mut completions: Vec<SampleCompletion> = (0..4)
        .map(|_| {
            let right = f64::from(uniform()) < accuracy;
            let said = if right { "circle" } else { "square & <b>more</b>" };
            let text = format!(
                "<think>I look at the shape.\nIt is round.</think>\n<answer>{said}</answer>"
            );
            let rewards = vec![
                ("accuracy".to_string(), Some(f64::from(right))),
                ("format".to_string(), Some(1.0)),
                ("judge".to_string(), None),
            ];
            let total = Some(1.0 + f64::from(right));
            SampleCompletion { text, rewards, total, advantage: 0.0, tokens: 24 }
        })
        .collect();
    let mean = completions.iter().filter_map(|c| c.total).sum::<f64>() / 4.0;
    completions.iter_mut().for_each(|c| c.advantage = (c.total.unwrap() - mean) * 1.7);
    SampleGroup {
        step,
        prompt: "What shape is in the image?\nAnswer with one word.".into(),
        answer: "circle".into(),
        images_png: vec![png.into_inner()],
        completions,
    }
}

#[test]
fn a_run_becomes_a_page_with_every_section() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("easy<vqa>");
    let (rows, groups) = made_up_run();
    let mut sink = JsonlSink::open(run.join("metrics.jsonl")).unwrap();
    rows.iter().for_each(|r| sink.log(r).unwrap());
    let log = SampleLog::new(&run);
    groups.iter().for_each(|g| log.append(g).unwrap());
    let yaml =
        "learning_rate: 1.0e-5\nmodel: \"a/<b>\"\nlora:\n  r: 8\n  targets: [q_proj, v_proj]\n";
    std::fs::write(run.join("config.resolved.yaml"), yaml).unwrap();

    let path = write_report(&run).unwrap();
    let html = std::fs::read_to_string(&path).unwrap();
    // Left beside the build for a look; the test does not depend on it.
    let look = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/report-preview.html");
    let _ = std::fs::copy(&path, look);

    for id in
        ["rewards", "evaluation", "policy", "completions", "time", "other", "samples", "settings"]
    {
        assert!(html.contains(&format!("<section id=\"{id}\">")), "{id}");
    }
    assert!(html.contains("<h1>easy&lt;vqa&gt;</h1>") && !html.contains("<vqa>"));
    assert!(html.contains("square &amp; &lt;b&gt;more&lt;/b&gt;") && !html.contains("<b>more</b>"));
    assert!(html.contains("lora.r</span><code>8<"));
    assert!(html.contains("<code>a/&lt;b&gt;</code>"));
    assert!(html.contains("Reward: accuracy") && html.contains("<span>judge <b>–</b></span>"));
    assert_eq!(html.matches("<details class=\"group\"").count(), GROUPS_SHOWN);
    assert!(html.contains("<b>step 4</b>") && html.contains("<b>step 120</b>"));
    assert!(html.contains("753.40 MiB"), "peak memory");
    assert!(html.contains("<td>reward</td>"), "evaluation table");
    assert!(!html.contains("NaN") && !html.contains("inf,"));
    assert_no_network(&html);
    assert_balanced(&html);
    assert!(html.len() < 600_000, "{} bytes", html.len());
}

/// Nothing in the page may point anywhere but into it.
fn assert_no_network(html: &str) {
    for needle in ["http:", "https:", "src=\"//", "@import", "url(", "<link", "fetch("] {
        assert!(!html.contains(needle), "{needle}");
    }
    for (at, _) in html.match_indices("src=\"") {
        assert!(html[at + 5..].starts_with("data:image/png;base64,"));
    }
}

/// Every element that must be closed is closed.
fn assert_balanced(html: &str) {
    for tag in
        ["section", "figure", "svg", "details", "div", "table", "tr", "td", "span", "pre", "main"]
    {
        let open =
            html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
        assert_eq!(open, html.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}

#[test]
fn hostile_text_stays_text() {
    let bad = "</pre></script><script>alert(1)</script>\"'&\u{0}\u{1b}[0m";
    let input = ReportInput {
        title: bad.into(),
        settings: vec![(bad.into(), bad.into())],
        metrics: vec![MetricRow {
            step: 1,
            epoch: 0.0,
            values: vec![
                (bad.into(), 1.0),
                (format!("time/{bad}"), 1.0),
                (format!("memory/{bad}"), 1.0),
                (format!("rewards/{bad}/mean"), f64::INFINITY),
            ],
        }],
        rewards: vec![(1, vec![f64::NAN, 0.5])],
        alerts: vec![Alert {
            step: 1,
            name: bad.into(),
            state: Turn::Begun,
            value: None,
            message: bad.into(),
            advice: bad.into(),
            link: bad.into(),
        }],
        groups: vec![SampleGroup {
            prompt: bad.into(),
            answer: bad.into(),
            completions: vec![SampleCompletion {
                text: bad.into(),
                rewards: vec![(bad.into(), None)],
                advantage: f64::NAN,
                ..Default::default()
            }],
            ..Default::default()
        }],
        summary: vec![
            (bad.into(), bad.into()),
            (format!("before/{bad}"), bad.into()),
            (format!("after/{bad}"), bad.into()),
        ],
    };
    let html = render(&input);
    assert_eq!(html.matches("<script>").count(), 1, "only the page's own");
    assert!(!html.contains('\u{0}') && !html.contains('\u{1b}'));
    assert_balanced(&html);
}

#[test]
fn an_empty_run_is_a_page_and_a_missing_one_is_an_error() {
    let html = render(&ReportInput::default());
    assert!(html.contains("without a finished step") && !html.contains("<section"));
    assert_balanced(&html);
    let dir = tempfile::tempdir().unwrap();
    let e = report_from_dir(dir.path()).unwrap_err();
    assert!(e.to_string().contains("metrics.jsonl") && e.hint_text().is_some());
    std::fs::write(dir.path().join("metrics.jsonl"), "").unwrap();
    assert!(report_from_dir(dir.path()).is_ok());
    std::fs::write(dir.path().join("config.resolved.yaml"), "a: [1\n").unwrap();
    assert_eq!(report_from_dir(dir.path()).unwrap_err().exit_code(), 3);
}

#[test]
fn spread_keeps_both_ends() {
    assert_eq!(spread((0..30).collect(), 4), [0, 9, 19, 29]);
    assert_eq!(spread(vec![1, 2], 4), [1, 2]);
}
