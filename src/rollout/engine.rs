//! Generates completions of many prompts: checks what is asked, divides the space above the weights, and
//! lets a session run to its end. Which rows share a pass, and when, changes no bit of any completion.

use crate::base::{Error, ErrorKind, Result};
use crate::mem::Arena;
use crate::model::prompt::Prompt;
use crate::model::vision_store::{VisionStore, VisionWeights};
use crate::model::vlm::Vlm;
use crate::ops::linear_logprob::HeadSettings;
use crate::ops::sample::SamplingSettings;
use crate::rollout::layout::{Layout, Service, Wanted};
use crate::rollout::need::DrawShape;
use crate::rollout::pages::PAGE_ROWS;
use crate::rollout::scheduler::{Counts, GroupSize};
use crate::rollout::sequence::{Completion, Request};
use crate::rollout::session::{Event, Session};
use std::sync::Arc;

/// What holds for all completions of an engine.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Tokens that end a completion.
    pub eos: Vec<u32>,
    /// Go on after an end token, to the full length (benchmarks).
    pub ignore_eos: bool,
    /// Tokens that are never sampled, sorted.
    pub forbidden: Vec<u32>,
    /// Seed of the run.
    pub seed: u64,
    /// Training step: random keys are (step, sample, token).
    pub step: u32,
    /// Completions that are decoded at a time.
    pub max_num_seqs: usize,
    /// Rows of a pass; a longer prompt is forwarded in pieces.
    pub max_num_batched_tokens: usize,
    /// Most pages of the KV cache; as many as are useful and fit if `None`.
    pub max_pages: Option<usize>,
}

/// Temperature and forbidden tokens of some sampling, as training must use them too.
pub fn head_settings(sampling: &SamplingSettings, forbidden: &[u32]) -> HeadSettings {
    HeadSettings { temperature: f64::from(sampling.temperature), forbidden: forbidden.to_vec() }
}

/// Says whether the text of these tokens contains a stop string.
pub type StopCheck<'a> = &'a (dyn Fn(&[u32]) -> bool + Sync);

/// Hears of every request as soon as the last of its completions is finished: its number and its
/// completions. The engine waits for it to return.
pub type GroupDone<'a> = &'a (dyn Fn(usize, &[Completion]) + Sync);

/// Hears of tokens. The engine waits for it to return.
pub type Heard<'a> = &'a dyn Fn(&Event);

/// What came of a call.
#[derive(Debug, Clone)]
pub struct Generated {
    /// Completions of each request, in order.
    pub completions: Vec<Vec<Completion>>,
    /// What the scheduler did.
    pub counts: Counts,
    /// Images that the vision tower encoded.
    pub vision_images: u64,
    /// Rows of the KV cache.
    pub cache_rows: usize,
}

/// A model ready to generate.
pub struct Engine<'a> {
    pub(super) model: &'a Vlm,
    pub(super) arena: &'a Arena,
    pub(super) vision: &'a VisionStore,
    pub(super) settings: EngineSettings,
    /// State of the tower whose features are used.
    pub vision_weights: VisionWeights,
    /// Ends completions whose text contains a stop string.
    pub stop: Option<StopCheck<'a>>,
    /// Hears of finished requests while the others go on.
    pub group_done: Option<GroupDone<'a>>,
    /// Asked before every pass; true ends the call with an error of kind interrupted.
    pub cancelled: Option<&'a (dyn Fn() -> bool + Sync)>,
    /// Hears of every token as soon as it is drawn.
    pub heard: Option<Heard<'a>>,
}

impl<'a> Engine<'a> {
    /// An engine on the model's weights; nothing is copied until it generates.
    pub fn new(
        model: &'a Vlm,
        arena: &'a Arena,
        vision: &'a VisionStore,
        settings: EngineSettings,
    ) -> Self {
        Engine {
            model,
            arena,
            vision,
            settings,
            vision_weights: 0,
            stop: None,
            group_done: None,
            cancelled: None,
            heard: None,
        }
    }

    /// Completions of all requests.
    ///
    /// # Errors
    /// If a prompt is longer than the model's context, memory is too small for one completion, or the
    /// call was cancelled.
    pub fn generate(&self, requests: &[Request]) -> Result<Generated> {
        let sizes: Vec<GroupSize> = requests.iter().map(|r| self.size(r)).collect::<Result<_>>()?;
        let encoded = self.vision.encoded();
        let layout = self.layout(requests, &sizes)?;
        let mut session = Session::new(self, layout)?;
        for request in requests {
            session.add(request.clone())?;
        }
        let mut completions: Vec<Vec<Completion>> = vec![Vec::new(); requests.len()];
        while session.busy() {
            if self.cancelled.is_some_and(|cancelled| cancelled()) {
                return Err(Error::new(ErrorKind::Interrupted, "the rollout was stopped"));
            }
            for event in session.step()? {
                if let Some(heard) = self.heard {
                    heard(&event);
                }
                let number = event.request;
                if event.finish.is_none() || !session.finished(number) {
                    continue;
                }
                // Several of its completions may have ended in this pass.
                let Some(all) = session.take(number) else { continue };
                completions[number] = all;
                if let Some(done) = self.group_done {
                    done(number, &completions[number]);
                }
            }
        }
        Ok(Generated {
            completions,
            counts: session.counts(),
            vision_images: self.vision.encoded() - encoded,
            cache_rows: layout.limits.pages * PAGE_ROWS,
        })
    }

    /// A session for requests that are not known yet.
    ///
    /// # Errors
    /// If the memory is too small for one request of the largest kind.
    pub fn serve(&self, service: &Service) -> Result<Session<'_, 'a>> {
        let (model, free) = (self.model, self.arena.shared_room());
        let layout = Layout::of_service(&model.config, &model.params, service, free)?;
        match layout.fits() {
            true => Session::new(self, layout),
            false => Err(self.too_small(&layout, layout.least)),
        }
    }

    /// What a request asks of the scheduler.
    pub(super) fn size(&self, r: &Request) -> Result<GroupSize> {
        let limit = self.model.config.text.max_position_embeddings;
        let room = limit.saturating_sub(r.prompt.next_position as usize);
        if r.max_tokens > room {
            return Err(Error::usage("prompt and completion are longer than the model's context")
                .key("max_completion_length")
                .expected(format!(
                    "at most {room}: {limit} positions (max_position_embeddings) less {} of the prompt",
                    r.prompt.next_position
                ))
                .found(r.max_tokens.to_string())
                .hint("lower --max_completion_length or --max_pixels"));
        }
        Ok(GroupSize {
            prompt: r.prompt.len(),
            completions: r.completions,
            max_tokens: r.max_tokens,
        })
    }

    /// How the space above the weights is divided.
    fn layout(&self, requests: &[Request], sizes: &[GroupSize]) -> Result<Layout> {
        let s = &self.settings;
        let prompts = requests.iter().map(|r| &*r.prompt);
        let groups: Vec<(&Prompt, GroupSize)> = prompts.zip(sizes.iter().copied()).collect();
        let wanted = Wanted {
            groups: &groups,
            max_num_seqs: s.max_num_seqs,
            max_num_batched_tokens: s.max_num_batched_tokens,
            max_pages: s.max_pages,
            draw: &self.draw_shape(requests, sizes),
        };
        let free = self.arena.shared_room();
        let layout = Layout::of(&self.model.config, &self.model.params, &wanted, free)?;
        match layout.fits() {
            true => Ok(layout),
            false => Err(self.too_small(&layout, layout.least)),
        }
    }

    /// Says that `pages` pages are too many.
    pub(super) fn too_small(&self, layout: &Layout, pages: usize) -> Error {
        let (capacity, base) = (self.arena.capacity(), self.arena.shared_base());
        let (cache, pass) = (pages * layout.page_bytes, layout.pass_bytes);
        Error::device("the memory budget is too small for one completion")
            .key("memory_budget")
            .expected(format!(
                "{} bytes: {base} of weights and optimizer, {cache} of KV cache, {pass} for a pass",
                base + cache + pass,
            ))
            .found(format!("{capacity} bytes"))
            .hint("raise --memory_budget, or lower --max_completion_length, --max_pixels or --max_num_batched_tokens")
    }

    /// How tokens are drawn at the most expensive.
    fn draw_shape(&self, requests: &[Request], sizes: &[GroupSize]) -> DrawShape {
        let truncates = |s: &SamplingSettings| s.top_k > 0 || s.top_p < 1.0 || s.min_p > 0.0;
        let all = requests.iter().map(|r| &r.sampling);
        let mut sampling = SamplingSettings::default();
        for s in all {
            if truncates(s) {
                (sampling.top_k, sampling.top_p, sampling.min_p) = (s.top_k, s.top_p, s.min_p);
            }
            if s.repetition_penalty != 1.0 {
                sampling.repetition_penalty = s.repetition_penalty;
            }
        }
        let alike = |a: &&Request| Arc::ptr_eq(&a.sampling, &requests[0].sampling);
        DrawShape {
            mixed: !requests.iter().all(|r| alike(&r) && r.seed.is_none()),
            head: Arc::new(head_settings(&sampling, &self.settings.forbidden)),
            sampling: Arc::new(sampling),
            seen: sizes.iter().map(|g| g.prompt + g.max_tokens).max().unwrap_or(0),
        }
    }
}
