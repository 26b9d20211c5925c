//! The judge against servers that answer well, late, badly or not at all: verdicts, retries, limits,
//! cache, and what is counted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use grpo_rt::io::dataset::Message;
use grpo_rt::reward::judge::{Judge, Question};
use grpo_rt::reward::settings::JudgeSettings;
use grpo_rt::reward::{RewardSet, RewardSettings, Sample};
use serde_json::Map;

mod fake_judge; // a server that does what it is told

use fake_judge::{Act, FakeJudge};

fn settings(url: &str) -> JudgeSettings {
    JudgeSettings {
        url: url.into(),
        model: "wise".into(),
        key_variable: "NO_SUCH_VARIABLE_OF_A_KEY".into(),
        time_limit: Duration::from_secs(20),
        retries: 2,
        concurrency: 4,
    }
}

fn judge(fake: &FakeJudge) -> Judge {
    Judge::open(&settings(&fake.url)).unwrap()
}

fn figures(judge: &Judge) -> BTreeMap<String, u64> {
    judge.figures().into_iter().map(|(n, v)| (n, v as u64)).filter(|(_, v)| *v > 0).collect()
}

fn counts<const N: usize>(list: [(&str, u64); N]) -> BTreeMap<String, u64> {
    list.into_iter().map(|(n, v)| (n.to_string(), v)).collect()
}

#[test]
fn a_verdict_is_asked_for_once() {
    let fake = FakeJudge::start(|_, heard| match heard.data()["candidate_answer"].as_str() {
        Some("crimson") => Act::Say("{\"correct\": true}"),
        _ => Act::Say("No."),
    });
    let judge = judge(&fake);
    let ask = |answer| judge.same_answer("Which colour?", "red", answer).unwrap();
    assert_eq!(
        (ask("crimson"), ask("blue"), ask("crimson")),
        (Some(true), Some(false), Some(true))
    );
    assert_eq!((ask(" "), judge.same_answer("q", "", "x").unwrap()), (Some(false), None));
    assert_eq!(figures(&judge), counts([("asked", 2), ("cached", 1)]));
    assert_eq!(figures(&judge), counts([]), "figures are of the time since the last call");
    let heard = fake.heard.lock().unwrap();
    assert_eq!(heard.len(), 2);
    assert!(heard[0].headers[0].starts_with("POST /v1/chat/completions "), "{:?}", heard[0]);
    assert!(!heard[0].headers.iter().any(|h| h.to_lowercase().starts_with("authorization")));
    assert_eq!(
        (&heard[0].body["model"], &heard[0].body["temperature"]),
        (&"wise".into(), &0.into())
    );
    let data = heard[0].data();
    assert_eq!(
        (&data["question"], &data["reference_answer"]),
        (&"Which colour?".into(), &"red".into())
    );
}

#[test]
fn handles_of_one_judge_share_what_is_known_and_count_for_themselves() {
    let fake = FakeJudge::start(|_, _| Act::Say("yes"));
    let (a, b) = (judge(&fake), judge(&fake));
    assert_eq!(a.same_answer("q", "r", "x").unwrap(), Some(true));
    assert_eq!(b.same_answer("q", "r", "x").unwrap(), Some(true));
    assert_eq!((figures(&a), figures(&b)), (counts([("asked", 1)]), counts([("cached", 1)])));
}

#[test]
fn the_key_is_sent_and_nowhere_else_to_be_seen() {
    // A variable that every environment has stands in for the key.
    let path = std::env::var("PATH").unwrap();
    let fake = FakeJudge::start(|_, _| Act::Status(401, "", "no"));
    let settings = JudgeSettings { key_variable: "PATH".into(), ..settings(&fake.url) };
    let judge = Judge::open(&settings).unwrap();
    assert_eq!(judge.same_answer("q", "r", "x").unwrap(), None);
    let heard = fake.heard.lock().unwrap();
    assert!(heard[0].headers.iter().any(|h| h.ends_with(&format!("Bearer {path}"))));
    assert!(!format!("{settings:?} {:?}", judge.notices()).contains(&path));
    assert_eq!(heard.len(), 1, "a refusal is not asked again");
}

#[test]
fn errors_of_the_server_are_tried_again() {
    let fake = FakeJudge::start(|i, _| match i {
        0 => Act::Status(500, "", "oops"),
        1 => Act::Drop,
        2 => Act::Say("yes"),
        3 => Act::Status(429, "Retry-After: 0\r\n", "slow down"),
        _ => Act::Say("no"),
    });
    let judge = judge(&fake);
    assert_eq!(judge.same_answer("q", "r", "a").unwrap(), Some(true));
    assert_eq!(judge.same_answer("q", "r", "b").unwrap(), Some(false));
    assert_eq!(figures(&judge), counts([("asked", 2), ("retries", 3)]));
}

#[test]
fn a_wait_that_is_longer_than_the_limit_is_not_waited_for() {
    let fake = FakeJudge::start(|_, _| Act::Status(503, "Retry-After: 3600\r\n", "busy"));
    let judge = judge(&fake);
    assert_eq!(judge.same_answer("q", "r", "a").unwrap(), None);
    assert_eq!(figures(&judge), counts([("asked", 1), ("unanswered", 1)]));
    let notices = judge.notices();
    assert!(notices[0].contains("HTTP 503: busy"), "{notices:?}");
}

#[test]
fn nonsense_is_no_verdict_and_no_reason_to_ask_again() {
    let fake = FakeJudge::start(|i, _| match i {
        0 => Act::Say("I would rather talk about the weather."),
        1 => Act::Status(200, "", "<html>"),
        2 => Act::Status(200, "", "{\"choices\": []}"),
        _ => Act::Endless,
    });
    let judge = judge(&fake);
    for answer in ["a", "b", "c", "d"] {
        assert_eq!(judge.same_answer("q", "r", answer).unwrap(), None, "{answer}");
    }
    assert_eq!(figures(&judge), counts([("asked", 4), ("nonsense", 4)]));
}

#[test]
fn a_late_answer_is_none() {
    let fake = FakeJudge::start(|i, _| match i {
        0 => Act::Hang,
        _ => Act::Slow(Duration::from_millis(50), "yes"),
    });
    let limit = Duration::from_secs(1);
    let judge = Judge::open(&JudgeSettings { time_limit: limit, ..settings(&fake.url) }).unwrap();
    assert_eq!(judge.same_answer("q", "r", "a").unwrap(), None);
    assert_eq!(judge.same_answer("q", "r", "b").unwrap(), Some(true));
    assert_eq!(figures(&judge), counts([("asked", 2), ("unanswered", 1)]));
}

#[test]
fn a_judge_that_is_down_costs_a_batch_its_limit_and_not_each_question() {
    let fake = FakeJudge::start(|_, _| Act::Hang);
    let limit = Duration::from_secs(1);
    let settings = JudgeSettings { time_limit: limit, ..settings(&fake.url) };
    let judge = Judge::open(&settings).unwrap();
    let answers: Vec<String> = (0..40).map(|i| format!("answer {i}")).collect();
    let questions: Vec<Question> =
        answers.iter().map(|a| Question { question: "q", reference: "r", answer: a }).collect();
    let start = Instant::now();
    let said = judge.same_answers(&questions);
    // One after the other they would take 40 s, four at a time 10.
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    assert!(said.iter().all(|v| matches!(v, Ok(None))));
    let figures = figures(&judge);
    assert_eq!(figures["unanswered"], 40);
    assert!(figures["asked"] < 12, "{figures:?}");
    assert!(judge.notices().iter().any(|n| n.contains("left out")));
}

#[test]
fn a_judge_that_comes_back_is_asked_again() {
    let fake = FakeJudge::start(|i, _| match i {
        0..3 => Act::Status(500, "", ""),
        _ => Act::Say("yes"),
    });
    let limit = Duration::from_millis(600);
    let told =
        JudgeSettings { time_limit: limit, retries: 0, concurrency: 1, ..settings(&fake.url) };
    let judge = Judge::open(&told).unwrap();
    let ask = |answer: usize| judge.same_answer("q", "r", &answer.to_string()).unwrap();
    assert_eq!((ask(0), ask(1), ask(2)), (None, None, None));
    let start = Instant::now();
    let back = (3..).find_map(|i| {
        std::thread::sleep(Duration::from_millis(20));
        assert!(start.elapsed() < Duration::from_secs(60), "never asked again");
        ask(i)
    });
    assert_eq!(back, Some(true));
    assert_eq!(fake.count(), 4, "one probe, and nothing while it is left alone");
    assert!(judge.notices().iter().any(|n| n.contains("answers again")));
}

#[test]
fn equal_questions_of_a_batch_are_one_and_come_back_in_order() {
    let fake = FakeJudge::start(|_, heard| {
        let same = heard.data()["candidate_answer"].as_str().unwrap().ends_with('1');
        Act::Say(if same { "yes" } else { "no" })
    });
    let judge = judge(&fake);
    let answers: Vec<String> = (0..24).map(|i| format!("n {}", i % 6)).collect();
    let questions: Vec<Question> =
        answers.iter().map(|a| Question { question: "q", reference: "r", answer: a }).collect();
    let said: Vec<_> = judge.same_answers(&questions).into_iter().map(|v| v.unwrap()).collect();
    let right: Vec<_> = answers.iter().map(|a| Some(a.ends_with('1'))).collect();
    assert_eq!((said, fake.count()), (right, 6));
}

#[test]
fn the_reward_judges_the_tagged_answer_and_gives_nothing_when_nobody_is_there() {
    let fake = FakeJudge::start(|_, heard| {
        let same = heard.data()["candidate_answer"] == "a red one";
        Act::Say(if same { "{\"correct\": true}" } else { "{\"correct\": false}" })
    });
    let columns = Map::new();
    let chat = [Message::text("user", "Which one?")];
    let sample = |completion| Sample {
        completion,
        completion_ids: &[],
        prompt: "Which one?",
        answer: "<answer>red</answer>",
        messages: &chat,
        columns: &columns,
        images: &[],
        truncated: false,
    };
    let texts = [
        "<think>blue?</think><answer>a red one</answer>",
        "<answer>blue</answer>",
        "hm</think>a red one",
    ];
    let samples = texts.map(sample);
    let set = |url: &str| {
        let judge = Some(JudgeSettings { retries: 0, ..settings(url) });
        let told = RewardSettings { judge, ..RewardSettings::default() };
        RewardSet::from_names(&["judge"], None, &told).unwrap()
    };
    let good = set(&fake.url);
    assert_eq!(good.score_all(&samples).total, [Some(1.0), Some(0.0), Some(1.0)]);
    assert!(good.figures().contains(&("rewards/judge/asked".into(), 2.0)));
    assert_eq!(fake.heard.lock().unwrap()[0].data()["reference_answer"], "red");
    // A port that nobody listens on.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let down = set(&format!("http://{free}/v1"));
    let scores = down.score_all(&samples);
    assert_eq!(scores.total, [None; 3]);
    assert!(scores.failures.is_empty(), "no verdict is no failure");
    assert!(down.figures().contains(&("rewards/judge/unanswered".into(), 2.0)));
    assert!(down.notices()[0].starts_with("judge: the judge"));
    let nobody = RewardSet::from_names(&["judge"], None, &RewardSettings::default());
    let e = nobody.err().expect("nobody to ask");
    assert!(e.exit_code() == 2 && e.one_line().contains("--judge_url"), "{}", e.one_line());
}
