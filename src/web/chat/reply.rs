//! Answers in OpenAI's form: whole, or piece by piece as server-sent events. Turns what the desk tells into
//! JSON; waits for nothing.

use super::ask::Ask;
use super::desk::Told;
use crate::io::text::tokenizer::Tokenizer;
use crate::rollout::Finish;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// What all pieces of an answer share.
#[derive(Debug, Clone)]
pub struct Reply {
    id: String,
    created: u64,
    model: String,
    prompt_tokens: usize,
    tokenizer: Tokenizer,
    choices: Vec<Choice>,
    logprobs: bool,
    include_usage: bool,
}

#[derive(Debug, Clone, Default)]
struct Choice {
    text: String,
    tokens: usize,
    logprobs: Vec<Value>,
    finish: Option<&'static str>,
}

fn reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Eos | Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

/// One server-sent event.
fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}

impl Reply {
    /// The empty answer to a request.
    pub fn new(ask: &Ask, model: &str, prompt_tokens: usize, tokenizer: &Tokenizer) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Reply {
            id: format!("chatcmpl-{:x}-{number:x}", now.as_micros()),
            created: now.as_secs(),
            model: model.to_string(),
            prompt_tokens,
            tokenizer: tokenizer.clone(),
            choices: vec![Choice::default(); ask.n],
            logprobs: ask.logprobs,
            include_usage: ask.include_usage,
        }
    }

    /// Whether every completion has its end.
    pub fn finished(&self) -> bool {
        self.choices.iter().all(|c| c.finish.is_some())
    }

    fn usage(&self) -> Value {
        let completion: usize = self.choices.iter().map(|c| c.tokens).sum();
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
        })
    }

    /// Notes what was told; returns the number of the completion, its new text, and its new
    /// log-probabilities. `None` if it was no token.
    fn hear(&mut self, told: &Told) -> Option<(usize, String, Vec<Value>)> {
        let Told::Token { choice, text, token, logp, finish } = told else { return None };
        let own = self.choices.get_mut(*choice)?;
        own.tokens += 1;
        own.finish = finish.map(reason);
        let mut logprobs = Vec::new();
        if self.logprobs {
            let token = self.tokenizer.decode(&[*token], false);
            let bytes = token.as_bytes().to_vec();
            logprobs.push(json!({
                "token": token, "logprob": logp, "bytes": bytes, "top_logprobs": [],
            }));
        }
        Some((*choice, text.clone(), logprobs))
    }

    /// Adds what was told to the whole answer.
    pub fn add(&mut self, told: &Told) {
        if let Some((choice, text, logprobs)) = self.hear(told) {
            self.choices[choice].text += &text;
            self.choices[choice].logprobs.extend(logprobs);
        }
    }

    /// The whole answer.
    pub fn whole(&self) -> Value {
        let choice = |(i, c): (usize, &Choice)| {
            let logprobs = match self.logprobs {
                true => json!({"content": c.logprobs, "refusal": null}),
                false => Value::Null,
            };
            json!({
                "index": i,
                "message": {"role": "assistant", "content": c.text, "refusal": null},
                "logprobs": logprobs,
                "finish_reason": c.finish,
            })
        };
        json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": self.choices.iter().enumerate().map(choice).collect::<Vec<_>>(),
            "usage": self.usage(),
            "system_fingerprint": concat!("grpo-rt-", env!("CARGO_PKG_VERSION")),
        })
    }

    fn piece(&self, choices: Value) -> Value {
        let mut piece = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": concat!("grpo-rt-", env!("CARGO_PKG_VERSION")),
            "choices": choices,
        });
        if self.include_usage {
            piece["usage"] = Value::Null;
        }
        piece
    }

    /// The first events of a stream: who speaks.
    pub fn begin(&self) -> String {
        let first = |i: usize| {
            let delta = json!({"role": "assistant", "content": ""});
            event(&self.piece(json!([
                {"index": i, "delta": delta, "logprobs": null, "finish_reason": null}
            ])))
        };
        (0..self.choices.len()).map(first).collect()
    }

    /// The events that what was told makes, the end of the stream among them; empty if there is
    /// nothing to say yet.
    pub fn go_on(&mut self, told: &Told) -> String {
        let error = |message: String, kind: &str| {
            event(&json!({"error": {
                "message": message, "type": kind, "param": null, "code": null,
            }}))
        };
        match told {
            Told::Failed(why) => return error(why.clone(), "server_error"),
            Told::Refused(e) => return error(e.one_line(), "invalid_request_error"),
            Told::Token { .. } => {}
        }
        let Some((i, text, logprobs)) = self.hear(told) else { return String::new() };
        let finish = self.choices[i].finish;
        let mut out = String::new();
        if !text.is_empty() || !logprobs.is_empty() {
            let logprobs = match self.logprobs {
                true => json!({"content": logprobs, "refusal": null}),
                false => Value::Null,
            };
            out += &event(&self.piece(json!([{
                "index": i, "delta": {"content": text}, "logprobs": logprobs, "finish_reason": null,
            }])));
        }
        if let Some(reason) = finish {
            out += &event(&self.piece(json!([{
                "index": i, "delta": {}, "logprobs": null, "finish_reason": reason,
            }])));
        }
        if self.finished() {
            if self.include_usage {
                let mut last = self.piece(json!([]));
                last["usage"] = self.usage();
                out += &event(&last);
            }
            out += "data: [DONE]\n\n";
        }
        out
    }
}
