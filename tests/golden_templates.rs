//! Built-in chat templates against the published ones and against the layouts that InternVL's own code
//! and glm-4v-9b's tokenizer write in Python, exactly.

use grpo_rt::io::text::{ChatTemplate, builtin};
use serde_json::{Map, Value};

fn golden() -> Value {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/chat_templates.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn builtin_templates_render_the_published_text() {
    let golden = golden();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 8);
    for case in cases {
        let messages = case["messages"].as_array().unwrap();
        let generate = case["add_generation_prompt"].as_bool().unwrap();
        let texts = case["texts"].as_object().unwrap();
        for name in builtin::names() {
            let rendered =
                ChatTemplate::builtin(name).unwrap().render(messages, generate, &Map::new());
            match texts[name].as_str() {
                Some(want) => assert_eq!(rendered.unwrap(), want, "{name} {messages:?}"),
                None => assert!(rendered.is_err(), "{name} {messages:?}"),
            }
        }
    }
}
