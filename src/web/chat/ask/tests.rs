//! Requests that are understood, and those that are refused with the name of what is wrong.

use super::*;
use serde_json::json;

fn read(change: Value) -> Read<Ask> {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    for (key, value) in change.as_object().unwrap() {
        body[key] = value.clone();
    }
    Ask::read(body.to_string().as_bytes())
}

#[test]
fn everything_that_is_known_arrives() {
    let ask = read(json!({
        "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.2,
        "max_tokens": 5, "max_completion_tokens": 6, "n": 3, "stop": ["a", "b"], "seed": -1,
        "logprobs": true, "stream": true, "stream_options": {"include_usage": true},
        "frequency_penalty": 0.0, "tools": [], "response_format": {"type": "text"},
        "user": "someone", "tool_choice": "auto", "logit_bias": null,
    }))
    .unwrap();
    assert_eq!((ask.max_tokens, ask.n, ask.seed), (Some(6), 3, Some(u64::MAX)));
    assert!(ask.logprobs && ask.stream && ask.include_usage && ask.stop == ["a", "b"]);
    let want = SamplingSettings {
        temperature: 0.5,
        top_p: 0.9,
        top_k: 7,
        min_p: 0.1,
        repetition_penalty: 1.2,
    };
    assert_eq!(ask.sampling, want);
    let plain = read(json!({"top_k": -1, "stop": "x"})).unwrap();
    assert_eq!(plain.sampling, SamplingSettings::default());
    assert_eq!((plain.n, plain.max_tokens, plain.seed), (1, None, None));
}

#[test]
fn images_are_numbered_through_the_chat() {
    let image = |url: &str| json!({"type": "image_url", "image_url": {"url": url}});
    let ask = read(json!({"messages": [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [image("data:image/png;base64,AAAA"), {"type": "text", "text": "a"}]},
        {"role": "assistant", "content": "b", "tool_calls": [], "refusal": null},
        {"role": "user", "content": [image("https://example.com/x.png")]},
    ]}))
    .unwrap();
    assert_eq!(ask.messages[0].role, "system");
    assert_eq!(ask.messages[1].content, [Part::Image(0), Part::Text("a".into())]);
    assert_eq!(ask.messages[3].content, [Part::Image(1)]);
    let url = Source::Url("https://example.com/x.png".into());
    assert_eq!(ask.images, [Source::Data("AAAA".into()), url]);
}

#[test]
fn what_would_change_the_answer_is_refused_by_name() {
    let image = |url: Value| json!([{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]);
    for (change, param) in [
        (json!({"frequency_penalty": 0.5}), "frequency_penalty"),
        (json!({"presence_penalty": -1}), "presence_penalty"),
        (json!({"tools": [{}]}), "tools"),
        (json!({"response_format": {"type": "json_object"}}), "response_format"),
        (json!({"top_logprobs": 5}), "top_logprobs"),
        (json!({"guided_json": {}}), "guided_json"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"temperature": -1}), "temperature"),
        (json!({"top_p": 0}), "top_p"),
        (json!({"top_k": -2}), "top_k"),
        (json!({"repetition_penalty": 0}), "repetition_penalty"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"n": 65}), "n"),
        (json!({"stop": [""]}), "stop"),
        (json!({"stop": 5}), "stop"),
        (json!({"seed": 0.5}), "seed"),
        (json!({"stream": 1}), "stream"),
        (json!({"stream_options": {}}), "stream_options"),
        (json!({"model": 5}), "model"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": "hi"}), "messages"),
        (json!({"messages": [{"role": "system", "content": "x"}]}), "messages"),
        (json!({"messages": [{"role": "tool", "content": "x"}]}), "messages[0].role"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}),
            "messages[0].content[0]",
        ),
        (
            json!({"messages": [{"role": "user", "content": "x", "name": "Ann"}]}),
            "messages[0].name",
        ),
        (
            json!({"messages": image(json!({"url": "file:///etc/passwd"}))}),
            "messages[0].content[0].image_url.url",
        ),
        (
            json!({"messages": image(json!({"url": "data:image/png,xx"}))}),
            "messages[0].content[0].image_url.url",
        ),
        (
            json!({"messages": image(json!({"url": "https://x/y", "detail": "low"}))}),
            "messages[0].content[0].image_url.detail",
        ),
        (json!({"messages": image(json!(null))}), "messages[0].content[0].image_url.url"),
    ] {
        let fault = read(change.clone()).unwrap_err();
        assert_eq!(fault.param.as_deref(), Some(param), "{change}: {}", fault.message);
        assert_eq!(fault.status, StatusCode::BAD_REQUEST);
    }
    for body in ["", "{", "[]", "5", "\"x\"", "{\"messages\": \u{7f}"] {
        assert!(Ask::read(body.as_bytes()).is_err(), "{body}");
    }
}
