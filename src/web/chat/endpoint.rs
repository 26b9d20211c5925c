//! The routes of the chat endpoint: bodies in, answers out, within limits. Images are read, decoded and
//! cut into patches here, by threads that the engine never waits for.

use super::ask::{Ask, Fault, Source};
use super::desk::{Question, Told};
use super::gauges::{Gauges, Place, add};
use super::reply::Reply;
use crate::base::{Error, ErrorKind};
use crate::io::data_url::decode_base64;
use crate::io::remote::Remote;
use crate::model::prompt::Prompt;
use crate::train::prompts::PromptEncoder;
use crate::web::server::{Limits, read_body, refusal};
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use std::convert::Infallible;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

/// Bytes of all bodies that are in memory, in KiB.
const BODIES: usize = 512 << 10;
/// Bytes of all prompts that wait or are answered, in KiB: mostly the patches of their images.
const PROMPTS: usize = 2 << 20;
/// Prompts that are made at a time.
const READERS: usize = 8;
/// Time between two signs of life in a stream that says nothing.
const ALIVE: Duration = Duration::from_secs(10);

/// Names that clients may ask for.
#[derive(Debug, Clone)]
pub struct Names {
    /// The model as it was trained.
    pub main: String,
    /// The model with its adapter off, if it has one.
    pub base: Option<String>,
}

/// What the routes share.
pub struct Chat {
    /// Chats to prompts.
    pub encoder: PromptEncoder,
    /// The model's names.
    pub names: Names,
    /// To the engine's thread.
    pub questions: Mutex<Sender<Question>>,
    /// Numbers.
    pub gauges: Arc<Gauges>,
    /// Limits of bodies.
    pub limits: Limits,
    /// Requests that are open at a time.
    pub max_queue: usize,
    /// Tokens of a prompt and its completion, and positions that the model has.
    pub context: (usize, usize),
    /// Tokens of a completion, where a request does not say.
    pub max_tokens: usize,
    /// Fetches images; `None` refuses addresses.
    pub remote: Option<Remote>,
    /// Memory of bodies and threads of prompts.
    pub room: Room,
}

/// Memory of bodies and prompts, in KiB, and threads that make prompts.
#[derive(Debug)]
pub struct Room {
    bodies: Semaphore,
    prompts: Arc<Semaphore>,
    readers: Semaphore,
}

impl Default for Room {
    fn default() -> Self {
        Room {
            bodies: Semaphore::new(BODIES),
            prompts: Arc::new(Semaphore::new(PROMPTS)),
            readers: Semaphore::new(READERS),
        }
    }
}

/// The routes.
pub fn router(chat: Arc<Chat>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(completions))
        .route("/v1/models", get(models))
        .route("/v1/models/{name}", get(model))
        .route("/health", get(|| async { Json(json!({"status": "ok"})) }))
        .route("/metrics", get(metrics))
        .fallback(|| async {
            let known = "POST /v1/chat/completions, GET /v1/models, GET /health, GET /metrics";
            refusal(StatusCode::NOT_FOUND, &format!("no such route; there are: {known}"), None)
        })
        .method_not_allowed_fallback(|| async {
            refusal(StatusCode::METHOD_NOT_ALLOWED, "this route takes another method", None)
        })
        .with_state(chat)
}

async fn metrics(State(chat): State<Arc<Chat>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], chat.gauges.text()).into_response()
}

impl Chat {
    fn card(&self, name: &str) -> serde_json::Value {
        json!({
            "id": name, "object": "model", "created": 0, "owned_by": "grpo-rt",
            "max_model_len": self.context.0,
        })
    }

    fn all_names(&self) -> impl Iterator<Item = &str> {
        [Some(&self.names.main), self.names.base.as_ref()].into_iter().flatten().map(String::as_str)
    }

    /// Whether adapters are on for a name; an empty one is the main.
    fn adapter(&self, name: &str) -> Result<bool, Fault> {
        if name.is_empty() || name == self.names.main {
            return Ok(true);
        }
        if self.names.base.as_deref() == Some(name) {
            return Ok(false);
        }
        let all: Vec<&str> = self.all_names().collect();
        let message = format!("there is no model `{name}`; there are: {}", all.join(", "));
        Err(Fault::of("model", message).with(StatusCode::NOT_FOUND))
    }

    /// The bytes of an image.
    fn image(&self, source: &Source) -> Result<Vec<u8>, Fault> {
        let wrong = |message: String| Fault::of("messages", message);
        match (source, &self.remote) {
            (Source::Data(text), _) => {
                decode_base64(text).map_err(|e| wrong(format!("an image is not base64: {e}")))
            }
            (Source::Url(url), Some(remote)) => remote.get(url).map_err(|e| wrong(e.one_line())),
            (Source::Url(_), None) => Err(wrong(
                "this server fetches no images; send them as data: URLs, or start it with \
                 --allow_image_urls"
                    .into(),
            )),
        }
    }

    /// The prompt of a request, and the tokens that its completions may have.
    fn prompt(&self, ask: &Ask) -> Result<(Prompt, usize), Fault> {
        let files = ask.images.iter().map(|i| self.image(i)).collect::<Result<Vec<_>, _>>()?;
        let names: Vec<String> = (1..=files.len()).map(|i| format!("image {i}")).collect();
        let files: Vec<(&str, &[u8])> =
            names.iter().map(String::as_str).zip(files.iter().map(Vec::as_slice)).collect();
        let prompt = self.encoder.encode_files(&ask.messages, &files, &[]);
        let prompt = prompt.map_err(|e| Fault::of("messages", e.one_line()))?;
        let (context, positions) = self.context;
        let used = (prompt.len(), prompt.next_position as usize);
        let room = context.saturating_sub(used.0).min(positions.saturating_sub(used.1));
        let asked = ask.max_tokens.unwrap_or(self.max_tokens.min(room.max(1)));
        if asked <= room {
            return Ok((prompt, asked));
        }
        let message = format!(
            "prompt and completion are longer than the context: {} tokens of the prompt ({} of \
             images) and {asked} of the completion, at most {context} together",
            used.0,
            prompt.visual_tokens()
        );
        let param = if ask.max_tokens.is_some() && room > 0 { "max_tokens" } else { "messages" };
        Err(Fault::of(param, message))
    }

    fn send(&self, question: Question) -> Result<(), Fault> {
        let questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
        questions.send(question).map_err(|_| gone())
    }
}

fn gone() -> Fault {
    Fault {
        status: StatusCode::SERVICE_UNAVAILABLE,
        message: "the engine has ended".into(),
        param: None,
    }
}

async fn models(State(chat): State<Arc<Chat>>) -> Response {
    let cards: Vec<_> = chat.all_names().map(|name| chat.card(name)).collect();
    Json(json!({"object": "list", "data": cards})).into_response()
}

async fn model(State(chat): State<Arc<Chat>>, Path(name): Path<String>) -> Response {
    match chat.adapter(&name) {
        Ok(_) => Json(chat.card(&name)).into_response(),
        Err(fault) => fault.response(),
    }
}

async fn completions(State(chat): State<Arc<Chat>>, request: Request) -> Response {
    match answer(&chat, request).await {
        Ok(response) => response,
        Err(response) => {
            let kind = if response.status().is_server_error() {
                &chat.gauges.failed
            } else {
                &chat.gauges.refused
            };
            add(kind, 1);
            response
        }
    }
}

fn busy(most: usize) -> Response {
    let message = format!("{most} requests are waiting already; try again later");
    let mut response = refusal(StatusCode::SERVICE_UNAVAILABLE, &message, None);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

async fn answer(chat: &Arc<Chat>, request: Request) -> Result<Response, Response> {
    let place = Place::take(&chat.gauges, chat.max_queue).ok_or_else(|| busy(chat.max_queue))?;
    let (ask, adapter, body) = read(chat, request).await?;
    // A prompt that nobody waits for is made to its end, but never asked.
    let maker = chat.clone();
    let closed = |_| gone().response();
    let reader = chat.room.readers.acquire().await.map_err(closed)?;
    let made = tokio::task::spawn_blocking(move || {
        let prompt = maker.prompt(&ask);
        (Ask { images: Vec::new(), ..ask }, prompt)
    });
    let (ask, prompt) = made.await.map_err(|_| {
        let message = "a defect of the server: making the prompt panicked";
        refusal(StatusCode::INTERNAL_SERVER_ERROR, message, None)
    })?;
    drop(body);
    let (prompt, max_tokens) = prompt.map_err(|fault| fault.response())?;
    let bytes: usize = prompt.visuals.iter().map(|v| v.patches.len() * 4).sum();
    let kib = (bytes >> 10).min(PROMPTS) as u32;
    let memory = chat.room.prompts.clone().acquire_many_owned(kib).await.map_err(closed)?;
    drop(reader);
    let held = Held { _place: place, _memory: memory };
    let name = if ask.model.is_empty() { &chat.names.main } else { &ask.model };
    let reply = Reply::new(&ask, name, prompt.len(), &chat.encoder.chat.tokenizer);
    let (to, told) = unbounded_channel();
    let question = Question {
        prompt: Arc::new(prompt),
        sampling: ask.sampling,
        n: ask.n,
        max_tokens,
        stop: ask.stop,
        seed: ask.seed,
        adapter,
        to,
    };
    chat.send(question).map_err(|fault| fault.response())?;
    match ask.stream {
        true => stream(reply, told, held).await,
        false => whole(reply, told, held).await,
    }
}

/// What a request holds until it is answered.
struct Held {
    _place: Place,
    _memory: OwnedSemaphorePermit,
}

/// Reads and checks a body; memory is taken by its length before it comes.
async fn read(chat: &Chat, request: Request) -> Result<(Ask, bool, SemaphorePermit<'_>), Response> {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<usize>().ok());
    let length = length.unwrap_or(chat.limits.body).min(chat.limits.body);
    let kib = (length >> 10).clamp(1, BODIES) as u32;
    let memory = chat.room.bodies.acquire_many(kib).await.map_err(|_| gone().response())?;
    let body = read_body(request.into_body(), &chat.limits).await?;
    let ask = Ask::read(&body).map_err(|fault| fault.response())?;
    let adapter = chat.adapter(&ask.model).map_err(|fault| fault.response())?;
    Ok((ask, adapter, memory))
}

/// The answer to a request that the engine refuses.
fn refused(e: &Error) -> Response {
    let status = match e.kind() {
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    };
    refusal(status, &e.one_line(), Some("messages"))
}

async fn whole(
    mut reply: Reply,
    mut told: UnboundedReceiver<Told>,
    _held: Held,
) -> Result<Response, Response> {
    while let Some(told) = told.recv().await {
        match &told {
            Told::Failed(why) => {
                return Err(refusal(StatusCode::INTERNAL_SERVER_ERROR, why, None));
            }
            Told::Refused(e) => return Err(refused(e)),
            Told::Token { .. } => reply.add(&told),
        }
        if reply.finished() {
            return Ok(Json(reply.whole()).into_response());
        }
    }
    Err(gone().response())
}

/// The first news decides between an error and a stream; then the connection that goes away drops the
/// stream, which is how the engine hears of it.
async fn stream(
    mut reply: Reply,
    mut told: UnboundedReceiver<Told>,
    held: Held,
) -> Result<Response, Response> {
    let first = match told.recv().await {
        Some(Told::Refused(e)) => return Err(refused(&e)),
        Some(Told::Failed(why)) => {
            return Err(refusal(StatusCode::INTERNAL_SERVER_ERROR, &why, None));
        }
        Some(first) => first,
        None => return Err(gone().response()),
    };
    let begin = reply.begin() + &reply.go_on(&first);
    let every = tokio::time::interval_at(tokio::time::Instant::now() + ALIVE, ALIVE);
    let rest = UnboundedReceiverStream::new(told).timeout_repeating(every);
    let rest = rest.filter_map(move |told| {
        // The place is held as long as the stream.
        let _held = &held;
        let text = match told {
            Ok(told) => reply.go_on(&told),
            Err(_) => ": still here\n\n".to_string(),
        };
        (!text.is_empty()).then_some(text)
    });
    let all = tokio_stream::once(begin).chain(rest).map(Ok::<String, Infallible>);
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    Ok((headers, Body::from_stream(all)).into_response())
}
