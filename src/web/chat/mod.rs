//! The chat endpoint: OpenAI's `POST /v1/chat/completions` on the engine of training. One thread owns the
//! engine; HTTP has threads of its own and talks to it through a channel. Trains nothing.

pub mod ask; // what a client asks
pub mod desk; // the engine's thread
pub mod endpoint; // routes
pub mod gauges; // numbers
pub mod reply; // answers as JSON and events

use crate::base::{Error, Result};
use crate::io::remote::{Remote, RemoteRules};
use crate::model::params::Training;
use crate::model::vision_store::PATCHES_PER_PASS;
use crate::ops::sample::SamplingSettings;
use crate::rollout::layout::{Layout, Service};
use crate::rollout::need::DrawShape;
use crate::rollout::{Engine, EngineSettings, head_settings};
use crate::settings::ServeSettings;
use crate::train::workspace::{Prepared, Workspace};
use crate::web::server::{Limits, Listen, Stop};
use desk::Desk;
use endpoint::{Chat, Names, router};
use gauges::Gauges;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Tokens of prompt and completion, unless the settings say more.
const CONTEXT: usize = 32_768;
/// Longest side of a square image that the memory of a pass is planned for.
const SIDE: usize = 16_384;
/// Smallest one.
const SMALLEST_SIDE: usize = 128;
/// What an image by address may take.
const FETCH: (Duration, u64) = (Duration::from_secs(20), 32 << 20);

/// Asks a server to stop when it goes out of scope: whatever ends the engine ends the server.
struct EndsWithEngine(Stop);

impl Drop for EndsWithEngine {
    fn drop(&mut self) {
        self.0.ask();
    }
}

/// Serves a model until it is stopped; `say` hears the one line that tells where.
///
/// # Errors
/// If the port is taken, the model cannot be read, or the memory is too small.
pub fn serve(s: &ServeSettings, say: &dyn Fn(&str)) -> Result<()> {
    let limits = Limits {
        connections: s.max_connections,
        body: s.max_body,
        drain: s.drain,
        ..Limits::default()
    };
    let listen = Listen {
        host: s.host.clone(),
        port: s.port,
        token: s.token.clone(),
        open: &["/health"],
        browser: false,
        limits,
    };
    // Before the model is read, which may take minutes.
    let bound = listen.bind()?;
    let mut prepared = Prepared::read(&s.model, &s.machine)?;
    prepared.bound_prompts(None, 1)?;
    let adapter = !matches!(prepared.training, Training::None);
    let w = prepared.open(&s.model, &s.machine, s.seed)?;
    let settings = engine_settings(s, &w);
    let service = service(s, &w, &settings)?;
    let Workspace { arena, model, encoder, vision, .. } = w;
    let engine = Engine::new(&model, &arena, &vision, settings);
    let mut session = engine.serve(&service)?;
    let gauges = Arc::new(Gauges::default());
    let tokenizer = encoder.chat.tokenizer.clone();
    let (questions, receive) = channel();
    let positions = model.config.text.max_position_embeddings;
    let name = name_of(s);
    let chat = Chat {
        encoder,
        names: Names { base: adapter.then(|| format!("{name}-base")), main: name },
        questions: Mutex::new(questions),
        gauges: gauges.clone(),
        limits,
        max_queue: s.max_queue,
        context: (service.context, positions),
        max_tokens: s.sampling.max_completion_length,
        remote: s.allow_image_urls.then(|| {
            let (time, bytes) = FETCH;
            Remote::new(RemoteRules { private: s.allow_private_urls, time, bytes })
        }),
        room: endpoint::Room::default(),
    };
    let models: Vec<String> =
        [Some(chat.names.main.clone()), chat.names.base.clone()].into_iter().flatten().collect();
    let (_, pages) = session.pages();
    say(&format!(
        "listening on {} ({}; {pages} pages of KV cache, {} tokens of context)\n",
        bound.url(),
        models.join(", "),
        service.context,
    ));
    let router = router(Arc::new(chat));
    let stop = Stop::default();
    let encoded = || vision.encoded();
    let ended = AtomicBool::new(false);
    let served = std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let served = bound.serve(router, &stop);
            ended.store(true, Ordering::SeqCst);
            served
        });
        let _end = EndsWithEngine(stop.clone());
        Desk::new(&mut session, &tokenizer, &gauges, &encoded).work(&receive, &ended);
        server.join()
    });
    let whole = match served {
        Ok(served) => served?,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    if !whole {
        let seconds = s.drain.as_secs();
        eprintln!("warning: answers that took longer than {seconds} s were cut off");
    }
    Ok(())
}

/// What the engine is told.
fn engine_settings(s: &ServeSettings, w: &Workspace) -> EngineSettings {
    EngineSettings {
        eos: w.model.config.tokens.eos.clone(),
        ignore_eos: false,
        forbidden: w.forbidden_tokens(),
        seed: s.seed,
        step: 0,
        max_num_seqs: s.sampling.max_num_seqs,
        max_num_batched_tokens: s.sampling.max_num_batched_tokens,
        max_pages: None,
    }
}

/// What requests may ask for: as much context as is wanted, and images as large as the model's settings
/// allow, unless they would take more than half of the memory.
fn service(s: &ServeSettings, w: &Workspace, engine: &EngineSettings) -> Result<Service> {
    let positions = w.model.config.text.max_position_embeddings;
    let context = s.max_model_len.unwrap_or(positions.min(CONTEXT));
    if context > positions {
        return Err(Error::usage("the model has no such context")
            .key("max_model_len")
            .expected(format!("at most {positions} (max_position_embeddings of config.json)"))
            .found(context.to_string()));
    }
    let sampling = SamplingSettings { top_k: 1, repetition_penalty: 2.0, ..Default::default() };
    let draw = DrawShape {
        head: Arc::new(head_settings(&sampling, &engine.forbidden)),
        sampling: Arc::new(sampling),
        seen: context,
        mixed: true,
    };
    let free = w.arena.shared_room();
    let mut side = SIDE;
    loop {
        let visual = w.encoder.visuals.image_shape(side, side)?;
        let patches = visual.patches().max(1);
        let grids = vec![visual.grid_thw; PATCHES_PER_PASS.div_ceil(patches)];
        let service = Service {
            max_num_seqs: engine.max_num_seqs,
            max_num_batched_tokens: engine.max_num_batched_tokens,
            context,
            max_pages: engine.max_pages,
            grids,
            draw: draw.clone(),
        };
        if side <= SMALLEST_SIDE {
            return Ok(service);
        }
        if visual.rows() <= w.vision.rows() {
            let layout = Layout::of_service(&w.model.config, &w.model.params, &service, free)?;
            if patches <= PATCHES_PER_PASS || layout.pass_bytes <= free / 2 {
                return Ok(service);
            }
        }
        side /= 2;
    }
}

/// The name that clients use: the one given, the run's, or that of the model's folder.
fn name_of(s: &ServeSettings) -> String {
    let run = s.run.as_ref().map(|(id, _)| id.clone());
    s.name.clone().or(run).unwrap_or_else(|| {
        let full = std::path::absolute(&s.model.path).unwrap_or_else(|_| s.model.path.clone());
        full.file_name().map_or("model".into(), |n| n.to_string_lossy().into_owned())
    })
}
