//! One question over HTTP: `POST <url>/chat/completions` in OpenAI's form, read up to a limit and within a
//! time. Says what came of it; tries nothing twice.

use crate::base::{Error, Result};
use crate::reward::settings::JudgeSettings;
use serde_json::Value;
use std::net::IpAddr;
use std::time::Duration;
use ureq::http::{HeaderValue, Response, Uri};
use ureq::{Agent, Body, Proxy};

/// Most bytes of a reply that are read.
const LONGEST: u64 = 1 << 20;
/// Characters of a refusal that are shown.
const SHOWN: usize = 200;

/// An OpenAI-compatible endpoint.
pub(super) struct Endpoint {
    agent: Agent,
    address: String,
    /// Never printed: `Endpoint` has no `Debug`.
    key: Option<String>,
}

/// What came of a question.
pub(super) enum Reply {
    /// The model's text; empty if the endpoint answered without one.
    Content(String),
    /// Another attempt may help: why, and after how long if the endpoint says so.
    Again {
        /// Why there is no answer.
        why: String,
        /// What the endpoint asks for.
        after: Option<Duration>,
    },
    /// Another attempt would be refused too.
    Refused(String),
}

impl Endpoint {
    /// Reads the key from its variable.
    pub(super) fn new(s: &JudgeSettings) -> Result<Endpoint> {
        let address = format!("{}/chat/completions", s.url.trim_end_matches('/'));
        let uri = address.parse::<Uri>().ok().filter(|uri| uri.host().is_some());
        let Some(uri) = uri else {
            return Err(Error::usage("the judge has no address")
                .key("judge_url")
                .expected("the base address of an OpenAI-compatible endpoint")
                .found(format!("`{}`", s.url))
                .hint("such as http://localhost:11434/v1 for Ollama"));
        };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let key = std::env::var(&s.key_variable).ok().filter(|key| !key.is_empty());
        let key = key.map(|key| key.trim().to_string());
        if key.as_ref().is_some_and(|key| HeaderValue::from_str(key).is_err()) {
            return Err(Error::usage("the judge's key cannot be sent")
                .key("judge_key_variable")
                .expected(format!("one line of plain characters in {}", s.key_variable)));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // A question that went elsewhere would take the key along.
            .max_redirects(0)
            .max_redirects_will_error(false)
            // What runs on this machine is not behind a proxy.
            .proxy(if here { None } else { Proxy::try_from_env() })
            .max_idle_connections_per_host(s.concurrency)
            .max_idle_connections(s.concurrency)
            .user_agent(concat!("grpo-rt/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Endpoint { agent: config.into(), address, key })
    }

    /// Asks and waits for at most `limit`.
    pub(super) fn post(&self, body: &str, limit: Duration) -> Reply {
        let mut request = self.agent.post(&self.address).content_type("application/json");
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let limit = limit.max(Duration::from_millis(1));
        match request.config().timeout_global(Some(limit)).build().send(body) {
            Ok(response) => self.read(response),
            Err(e) => failed(&e),
        }
    }

    fn read(&self, mut response: Response<Body>) -> Reply {
        let status = response.status().as_u16();
        let after = response.headers().get("retry-after").and_then(|v| v.to_str().ok());
        let after = after.and_then(|v| v.trim().parse().ok()).map(Duration::from_secs);
        let body = response.body_mut().with_config().limit(LONGEST).lossy_utf8(true);
        let text = match body.read_to_string() {
            Ok(text) => text,
            // It answers, if too much.
            Err(ureq::Error::BodyExceedsLimit(_)) => String::new(),
            Err(e) => return failed(&e),
        };
        match status {
            200..=299 => Reply::Content(content(&text).unwrap_or_default()),
            429 | 500..=599 => Reply::Again { why: self.refusal(status, &text), after },
            _ => Reply::Refused(self.refusal(status, &text)),
        }
    }

    /// Status and beginning of a refusal, less the key, which some endpoints repeat.
    fn refusal(&self, status: u16, text: &str) -> String {
        let text = match &self.key {
            Some(key) => text.replace(key.as_str(), "***"),
            None => text.to_string(),
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        let shown: String = words.join(" ").chars().take(SHOWN).collect();
        format!("HTTP {status}: {shown}").trim_end_matches([' ', ':']).to_string()
    }
}

/// An error before there was an answer.
fn failed(e: &ureq::Error) -> Reply {
    let why = e.to_string();
    match e {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::InvalidProxyUrl => {
            Reply::Refused(why)
        }
        _ => Reply::Again { why, after: None },
    }
}

/// The text of the first choice: a text, or the texts of a list of parts.
fn content(body: &str) -> Option<String> {
    let body: Value = serde_json::from_str(body).ok()?;
    match &body["choices"][0]["message"]["content"] {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => Some(parts.iter().filter_map(|p| p["text"].as_str()).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::judge::test_settings;

    #[test]
    fn the_text_of_a_reply() {
        let of = |message: &str| content(&format!(r#"{{"choices": [{{"message": {message}}}]}}"#));
        assert_eq!(of(r#"{"content": "yes"}"#).as_deref(), Some("yes"));
        let parts = r#"{"content": [{"type": "text", "text": "y"}, {"text": "es"}]}"#;
        assert_eq!(of(parts).as_deref(), Some("yes"));
        assert_eq!(of(r#"{"content": null}"#), None);
        for body in ["", "<html>", "{}", r#"{"choices": []}"#, "[1]"] {
            assert_eq!(content(body), None, "{body}");
        }
    }

    #[test]
    fn an_address_must_be_one() {
        for url in ["", "http://", "http:// x", "nonsense:"] {
            let e = Endpoint::new(&test_settings(url)).err().expect(url);
            assert_eq!(e.exit_code(), 2);
        }
    }

    #[test]
    fn a_refusal_shows_no_key() {
        let mut endpoint = Endpoint::new(&test_settings("http://localhost:1/v1")).unwrap();
        endpoint.key = Some("sk-secret".into());
        let shown = endpoint.refusal(401, "{\"error\":\n \"bad key sk-secret\"}");
        assert_eq!(shown, "HTTP 401: {\"error\": \"bad key ***\"}");
        assert_eq!(endpoint.refusal(502, ""), "HTTP 502");
    }
}
