//! What a client asks: the JSON of `POST /v1/chat/completions`, checked key by key. A key that would change
//! the answer and that this program does not know is refused by name, never passed over; keys that only
//! label a request are.

use crate::io::dataset::{Message, Part};
use crate::ops::sample::SamplingSettings;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value};

/// Why a request is refused, as a client hears it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Status of the answer.
    pub status: StatusCode,
    /// What is wrong and what would be right.
    pub message: String,
    /// The key that is wrong.
    pub param: Option<String>,
}

impl Fault {
    /// A wrong key.
    pub fn of(param: &str, message: impl Into<String>) -> Self {
        let param = Some(param.to_string());
        Fault { status: StatusCode::BAD_REQUEST, message: message.into(), param }
    }

    /// With another status than 400.
    pub fn with(self, status: StatusCode) -> Self {
        Fault { status, ..self }
    }

    /// The answer.
    pub fn response(&self) -> Response {
        crate::web::server::refusal(self.status, &self.message, self.param.as_deref())
    }
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Its bytes, base64, in the request.
    Data(String),
    /// An address.
    Url(String),
}

/// A request that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// The chat; images are numbered through it.
    pub messages: Vec<Message>,
    /// Its images.
    pub images: Vec<Source>,
    /// How tokens are drawn.
    pub sampling: SamplingSettings,
    /// Most tokens of a completion; `None` leaves it to the server.
    pub max_tokens: Option<usize>,
    /// Completions.
    pub n: usize,
    /// Texts that end a completion.
    pub stop: Vec<String>,
    /// Seed of its randomness.
    pub seed: Option<u64>,
    /// Log-probabilities are wanted.
    pub logprobs: bool,
    /// The answer comes in pieces.
    pub stream: bool,
    /// The last piece says how many tokens there were.
    pub include_usage: bool,
    /// The model's name as it was given; empty if it was not.
    pub model: String,
}

/// Most completions of a request.
pub const MOST_COMPLETIONS: usize = 64;
/// Most images of a request.
pub const MOST_IMAGES: usize = 64;
/// Most stop texts of a request, and characters of one.
const MOST_STOPS: (usize, usize) = (16, 256);

/// Keys that only label a request.
const LABELS: &[&str] = &[
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
];

/// Keys with the values that change nothing: any other is refused.
const ONLY: &[(&str, &str)] = &[
    ("frequency_penalty", "0"),
    ("presence_penalty", "0"),
    ("top_logprobs", "0"),
    ("response_format", r#"{"type":"text"}"#),
    ("tools", "[]"),
    ("functions", "[]"),
    ("tool_choice", r#""none""#),
    ("logit_bias", "{}"),
    ("modalities", r#"["text"]"#),
    ("best_of", "1"),
    ("echo", "false"),
    ("add_generation_prompt", "true"),
    ("skip_special_tokens", "true"),
    ("ignore_eos", "false"),
    ("min_tokens", "0"),
    ("length_penalty", "1"),
    ("use_beam_search", "false"),
];

const KNOWN: &[&str] = &[
    "model",
    "messages",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "stop",
    "seed",
    "logprobs",
    "stream",
    "stream_options",
];

type Read<T> = Result<T, Fault>;

/// Whether two JSON values are one; 0 and 0.0 are.
fn same(a: &Value, b: &Value) -> bool {
    a == b || a.as_f64().is_some_and(|x| b.as_f64() == Some(x))
}

/// A key that is there and is not null.
fn given<'m>(body: &'m Map<String, Value>, key: &str) -> Option<&'m Value> {
    body.get(key).filter(|v| !v.is_null())
}

fn shown(value: &Value) -> String {
    value.to_string().chars().take(80).collect()
}

fn number(body: &Map<String, Value>, key: &str, (low, high): (f64, f64)) -> Read<Option<f64>> {
    let Some(value) = given(body, key) else { return Ok(None) };
    match value.as_f64().filter(|x| (low..=high).contains(x)) {
        Some(x) => Ok(Some(x)),
        None => Err(Fault::of(
            key,
            format!("`{key}` must be a number from {low} to {high}, not {}", shown(value)),
        )),
    }
}

fn count(body: &Map<String, Value>, key: &str, most: usize) -> Read<Option<usize>> {
    let Some(value) = given(body, key) else { return Ok(None) };
    match value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=most).contains(n)) {
        Some(n) => Ok(Some(n)),
        None => Err(Fault::of(
            key,
            format!("`{key}` must be a whole number from 1 to {most}, not {}", shown(value)),
        )),
    }
}

fn flag(body: &Map<String, Value>, key: &str) -> Read<bool> {
    match given(body, key) {
        None => Ok(false),
        Some(Value::Bool(b)) => Ok(*b),
        Some(other) => {
            Err(Fault::of(key, format!("`{key}` must be true or false, not {}", shown(other))))
        }
    }
}

impl Ask {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// The first key that is wrong or unknown.
    pub fn read(body: &[u8]) -> Read<Ask> {
        let value: Value = serde_json::from_slice(body).map_err(|e| Fault {
            status: StatusCode::BAD_REQUEST,
            message: format!("the body is not JSON: {e}"),
            param: None,
        })?;
        let Value::Object(body) = value else {
            return Err(Fault::of("messages", "the body must be a JSON object with `messages`"));
        };
        for (key, value) in body.iter().filter(|(_, v)| !v.is_null()) {
            check_key(key, value)?;
        }
        let (messages, images) = messages(given(&body, "messages"))?;
        let stream = flag(&body, "stream")?;
        let options = match given(&body, "stream_options") {
            None => None,
            Some(_) if !stream => {
                return Err(Fault::of("stream_options", "`stream_options` needs `stream`: true"));
            }
            Some(Value::Object(options)) => Some(options),
            Some(_) => {
                return Err(Fault::of("stream_options", "`stream_options` must be an object"));
            }
        };
        let max = count(&body, "max_completion_tokens", usize::MAX)?;
        Ok(Ask {
            messages,
            images,
            sampling: sampling(&body)?,
            max_tokens: max.or(count(&body, "max_tokens", usize::MAX)?),
            n: count(&body, "n", MOST_COMPLETIONS)?.unwrap_or(1),
            stop: stops(given(&body, "stop"))?,
            seed: seed(given(&body, "seed"))?,
            logprobs: flag(&body, "logprobs")?,
            stream,
            include_usage: options.map_or(Ok(false), |o| flag(o, "include_usage"))?,
            model: match given(&body, "model") {
                None => String::new(),
                Some(Value::String(name)) => name.clone(),
                Some(_) => return Err(Fault::of("model", "`model` must be a text")),
            },
        })
    }
}

fn check_key(key: &str, value: &Value) -> Read<()> {
    if KNOWN.contains(&key) || LABELS.contains(&key) {
        return Ok(());
    }
    let harmless = |(name, text): &&(&str, &str)| {
        *name == key && serde_json::from_str::<Value>(text).is_ok_and(|v| same(value, &v))
    };
    if ONLY.iter().any(|pair| harmless(&pair)) || (key == "tool_choice" && value == "auto") {
        return Ok(());
    }
    Err(Fault::of(
        key,
        match ONLY.iter().find(|(name, _)| *name == key) {
            Some((_, only)) => format!("`{key}` is not supported (only {only}); leave it out"),
            None => format!("`{key}` is not supported; leave it out"),
        },
    ))
}

fn sampling(body: &Map<String, Value>) -> Read<SamplingSettings> {
    let top_k = match given(body, "top_k").map(|v| (v, v.as_i64())) {
        None => 0,
        // -1 is all of them in vLLM.
        Some((_, Some(k))) if k >= -1 => k.max(0) as usize,
        Some((v, _)) => {
            let message = format!("`top_k` must be a whole number from -1 (all), not {}", shown(v));
            return Err(Fault::of("top_k", message));
        }
    };
    let top_p = number(body, "top_p", (0.0, 1.0))?.unwrap_or(1.0);
    if top_p == 0.0 {
        return Err(Fault::of("top_p", "`top_p` must be above 0; `temperature` 0 is greedy"));
    }
    let penalty = number(body, "repetition_penalty", (0.0, 100.0))?.unwrap_or(1.0);
    if penalty == 0.0 {
        return Err(Fault::of("repetition_penalty", "`repetition_penalty` must be above 0"));
    }
    Ok(SamplingSettings {
        temperature: number(body, "temperature", (0.0, 100.0))?.unwrap_or(1.0) as f32,
        top_p: top_p as f32,
        top_k,
        min_p: number(body, "min_p", (0.0, 1.0))?.unwrap_or(0.0) as f32,
        repetition_penalty: penalty as f32,
    })
}

fn stops(value: Option<&Value>) -> Read<Vec<String>> {
    let wrong = || {
        let (many, long) = MOST_STOPS;
        let message =
            format!("`stop` must be a text or up to {many} texts of 1 to {long} characters");
        Fault::of("stop", message)
    };
    let texts = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) if list.len() <= MOST_STOPS.0 => list.iter().collect(),
        Some(one @ Value::String(_)) => vec![one],
        Some(_) => return Err(wrong()),
    };
    let text = |v: &Value| {
        let text = v.as_str().filter(|t| (1..=MOST_STOPS.1).contains(&t.chars().count()));
        text.map(str::to_string).ok_or_else(wrong)
    };
    texts.into_iter().map(text).collect()
}

fn seed(value: Option<&Value>) -> Read<Option<u64>> {
    let Some(value) = value else { return Ok(None) };
    // Negative ones are seeds like any other.
    match value.as_u64().or(value.as_i64().map(|s| s as u64)) {
        Some(seed) => Ok(Some(seed)),
        None => Err(Fault::of("seed", "`seed` must be a whole number")),
    }
}

fn messages(value: Option<&Value>) -> Read<(Vec<Message>, Vec<Source>)> {
    let Some(Value::Array(list)) = value else {
        return Err(Fault::of("messages", "`messages` must be a list"));
    };
    if list.is_empty() {
        return Err(Fault::of("messages", "`messages` must not be empty"));
    }
    let mut images = Vec::new();
    let read = |(i, m): (usize, &Value)| message(&format!("messages[{i}]"), m, &mut images);
    let messages = list.iter().enumerate().map(read).collect::<Read<Vec<_>>>()?;
    if messages.iter().all(|m| m.role == "system") {
        return Err(Fault::of("messages", "`messages` must hold one of the user"));
    }
    Ok((messages, images))
}

fn message(at: &str, value: &Value, images: &mut Vec<Source>) -> Read<Message> {
    let Value::Object(m) = value else {
        return Err(Fault::of(at, format!("`{at}` must be an object")));
    };
    let empty = |v: &Value| v.is_null() || v.as_array().is_some_and(Vec::is_empty);
    if let Some((key, _)) =
        m.iter().find(|(key, v)| !matches!(key.as_str(), "role" | "content") && !empty(v))
    {
        let param = format!("{at}.{key}");
        return Err(Fault::of(&param, format!("`{param}` is not supported; leave it out")));
    }
    let role = match m.get("role").and_then(Value::as_str) {
        Some("developer") => "system",
        Some(role @ ("system" | "user" | "assistant")) => role,
        _ => {
            let param = format!("{at}.role");
            let message = format!("`{param}` must be system, developer, user or assistant");
            return Err(Fault::of(&param, message));
        }
    };
    let content_at = format!("{at}.content");
    let content = match m.get("content") {
        Some(Value::String(text)) => vec![Part::Text(text.clone())],
        Some(Value::Array(parts)) => {
            let parts = parts.iter().enumerate();
            let part = |(i, p)| part(&format!("{content_at}[{i}]"), p, role, images);
            parts.map(part).collect::<Read<_>>()?
        }
        _ => {
            let message = format!("`{content_at}` must be a text or a list of parts");
            return Err(Fault::of(&content_at, message));
        }
    };
    Ok(Message { role: role.into(), content })
}

fn part(at: &str, value: &Value, role: &str, images: &mut Vec<Source>) -> Read<Part> {
    match (value["type"].as_str(), value["text"].as_str()) {
        (Some("text"), Some(text)) => return Ok(Part::Text(text.into())),
        (Some("image_url"), _) => {}
        _ => {
            let message = format!(
                "`{at}` must be {{\"type\":\"text\",\"text\":…}} or \
                 {{\"type\":\"image_url\",\"image_url\":{{\"url\":…}}}}, not {}",
                shown(value)
            );
            return Err(Fault::of(at, message));
        }
    }
    if role == "system" {
        return Err(Fault::of(at, format!("`{at}`: a system message shows no image")));
    }
    let image = &value["image_url"];
    let url = image.as_str().or(image["url"].as_str()).unwrap_or_default();
    // A picture is seen in as much detail as the model's settings allow; less is another answer.
    if !matches!(image["detail"].as_str(), None | Some("auto" | "high")) {
        let param = format!("{at}.image_url.detail");
        let message = "only `auto` and `high` are supported; send a smaller picture instead";
        return Err(Fault::of(&param, message));
    }
    if images.len() >= MOST_IMAGES {
        return Err(Fault::of(at, format!("at most {MOST_IMAGES} images in a request")));
    }
    images.push(source(&format!("{at}.image_url.url"), url)?);
    Ok(Part::Image(images.len() - 1))
}

fn source(at: &str, url: &str) -> Read<Source> {
    if let Some(rest) = url.strip_prefix("data:") {
        return match rest.split_once(";base64,") {
            Some((_, data)) => Ok(Source::Data(data.to_string())),
            None => Err(Fault::of(at, "a data: URL must hold base64: data:image/png;base64,…")),
        };
    }
    if crate::io::remote::is_url(url) {
        return Ok(Source::Url(url.to_string()));
    }
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    let message = format!(
        "`{at}` must be a data: URL with base64, or an http(s) address if the server allows them{}",
        if scheme == "file" { "; files of the server are never read" } else { "" }
    );
    Err(Fault::of(at, message))
}

#[cfg(test)]
mod tests;
