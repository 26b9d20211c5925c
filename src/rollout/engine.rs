//! Generates completions: asks the scheduler for rows, turns them into a tape like any other, runs it
//! in the arena above the KV cache, draws the next tokens. Which rows share a pass, and when, changes
//! no bit of any completion.

use crate::base::{Error, ErrorKind, Result};
use crate::mem::Arena;
use crate::model::decoder::{TextInput, logits, text};
use crate::model::net::Net;
use crate::model::panels::Panels;
use crate::model::prompt::Prompt;
use crate::model::vision_store::{VisionStore, VisionWeights};
use crate::model::vlm::Vlm;
use crate::ops::Slot;
use crate::ops::attention::{Segment, Span};
use crate::ops::gather_rows::GatherRows;
use crate::ops::linear_logprob::HeadSettings;
use crate::ops::sample::{Sample, SampleRow, SamplingSettings};
use crate::rollout::cache::KvPool;
use crate::rollout::layout::{Layout, Wanted, parts};
use crate::rollout::need::DrawShape;
use crate::rollout::pages::PAGE_ROWS;
use crate::rollout::scheduler::{Counts, GroupSize, Piece, Scheduler};
use crate::rollout::sequence::{Completion, Drawn, Finish, Request};
use crate::tape::Tape;
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
    model: &'a Vlm,
    arena: &'a Arena,
    vision: &'a VisionStore,
    settings: EngineSettings,
    /// State of the tower whose features are used.
    pub vision_weights: VisionWeights,
    /// Ends completions whose text contains a stop string.
    pub stop: Option<StopCheck<'a>>,
    /// Hears of finished requests while the others go on.
    pub group_done: Option<GroupDone<'a>>,
    /// Asked before every pass; true ends the call with an error of kind interrupted.
    pub cancelled: Option<&'a (dyn Fn() -> bool + Sync)>,
    /// False generates with adapters off.
    pub adapter: bool,
}

/// Everything a pass needs beside its pieces.
struct Call<'c> {
    requests: &'c [Request],
    /// Per completion: number of its request, its tokens so far and what is known of them.
    sequences: Vec<(usize, u32, Vec<Drawn>)>,
    pool: KvPool,
    panels: Option<Panels>,
}

impl Call<'_> {
    fn prompt(&self, group: usize) -> &Prompt {
        &self.requests[group].prompt
    }
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
            adapter: true,
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
        let sequences: Vec<_> = requests
            .iter()
            .enumerate()
            .flat_map(|(g, r)| {
                (0..r.completions).map(move |i| (g, r.first_sample + i as u32, Vec::new()))
            })
            .collect();
        let layout = self.layout(requests, &sizes)?;
        let (limits, base) = (layout.limits, self.arena.shared_base());
        let head = self.model.config.text.head_name();
        let panels = match layout.panel_bytes {
            0 => None,
            _ => Some(Panels::pack(&self.model.params, &head, self.arena, base)?),
        };
        let base = panels.as_ref().map_or(base, |p| p.end);
        let (rows, float) = (limits.pages * PAGE_ROWS, self.model.params.float_type());
        let pool = KvPool::place(self.arena, &self.model.config.text, float, base, rows)?;
        let mut call = Call { requests, sequences, pool, panels };
        let mut scheduler = Scheduler::new(limits, &sizes);
        let mut unfinished: Vec<usize> = sizes.iter().map(|g| g.completions).collect();
        let mut completions: Vec<Vec<Completion>> = vec![Vec::new(); requests.len()];
        loop {
            if self.cancelled.is_some_and(|cancelled| cancelled()) {
                return Err(Error::new(ErrorKind::Interrupted, "the rollout was stopped"));
            }
            let pass = scheduler.next_pass();
            if pass.is_empty() {
                break;
            }
            for part in parts(&pass, |group| call.prompt(group), self.vision.rows()) {
                for (id, drawn) in self.run(&call, part)? {
                    let group = call.sequences[id].0;
                    call.sequences[id].2.push(drawn);
                    let finished = self.finish(&call, id).is_some();
                    scheduler.drawn(id, finished);
                    unfinished[group] -= usize::from(finished);
                    if finished && unfinished[group] == 0 {
                        completions[group] = self.completions(&call, group);
                        if let Some(done) = self.group_done {
                            done(group, &completions[group]);
                        }
                    }
                }
            }
        }
        Ok(Generated {
            completions,
            counts: scheduler.counts(),
            vision_images: self.vision.encoded() - encoded,
            cache_rows: rows,
        })
    }

    /// Completions of a group that is finished.
    fn completions(&self, call: &Call, group: usize) -> Vec<Completion> {
        let first = call.sequences.partition_point(|(g, ..)| *g < group);
        (first..first + call.requests[group].completions)
            .map(|id| {
                let drawn = &call.sequences[id].2;
                Completion {
                    ids: drawn.iter().map(|d| d.token).collect(),
                    logps: drawn.iter().map(|d| d.logp).collect(),
                    statistics: drawn.iter().map(|d| [d.lse, d.entropy]).collect(),
                    finish: self.finish(call, id).unwrap_or(Finish::Length),
                }
            })
            .collect()
    }

    /// What a request asks of the scheduler.
    fn size(&self, r: &Request) -> Result<GroupSize> {
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
        let (capacity, base) = (self.arena.capacity(), self.arena.shared_base());
        let free = self.arena.shared_room();
        let layout = Layout::of(&self.model.config, &self.model.params, &wanted, free)?;
        if layout.fits() {
            return Ok(layout);
        }
        let (cache, pass) = (layout.least * layout.page_bytes, layout.pass_bytes);
        Err(Error::device("the memory budget is too small for one completion")
            .key("memory_budget")
            .expected(format!(
                "{} bytes: {base} of weights and optimizer, {cache} of KV cache, {pass} for a pass",
                base + cache + pass,
            ))
            .found(format!("{capacity} bytes"))
            .hint("raise --memory_budget, or lower --max_completion_length, --max_pixels or --max_num_batched_tokens"))
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
        DrawShape {
            head: Arc::new(head_settings(&sampling, &self.settings.forbidden)),
            sampling: Arc::new(sampling),
            seen: sizes.iter().map(|g| g.prompt + g.max_tokens).max().unwrap_or(0),
        }
    }

    fn tape(&self) -> Tape {
        self.model.params.tape()
    }

    fn net<'t>(&'t self, tape: &'t mut Tape, panels: Option<&'t Panels>) -> Net<'t> {
        let mut net = Net::new(tape, &self.model.params);
        net.adapter = self.adapter;
        net.panels = panels;
        net
    }

    /// Runs a pass, or a part of one; returns who drew what.
    fn run(&self, call: &Call, pass: &[Piece]) -> Result<Vec<(usize, Drawn)>> {
        let base = call.pool.end;
        let indices = self.prompt_indices(call, pass)?;
        let mut tape = self.tape();
        let mut input = TextInput {
            index: Vec::new(),
            vision: match indices.iter().any(Option::is_some) {
                true => self.vision.slots(&mut tape),
                false => Vec::new(),
            },
            positions: Vec::new(),
            segments: Arc::new(Vec::new()),
            cache: None,
            read: None,
        };
        let (mut segments, mut cache_rows, mut draws) = (Vec::new(), Vec::new(), Vec::new());
        for (piece, index) in pass.iter().zip(indices) {
            let (start, range) = (input.index.len(), piece.first..piece.first + piece.len);
            let prompt = call.prompt(piece.group);
            match (piece.sequence, index) {
                (Some(id), _) => {
                    let own = &call.sequences[id].2[range];
                    input.index.extend(own.iter().map(|d| d.token as i32));
                    input.positions.extend(prompt.positions_after(piece.first, piece.len));
                }
                (None, Some(index)) => {
                    input.index.extend(&index[range.clone()]);
                    input.positions.extend(&prompt.positions[range]);
                }
                (None, None) => {
                    input.index.extend(prompt.ids[range.clone()].iter().map(|&t| t as i32));
                    input.positions.extend(&prompt.positions[range]);
                }
            }
            segments.push(Segment {
                queries: Span { start, len: piece.len },
                keys: piece.keys.clone(),
                causal: true,
            });
            match piece.cache_rows.is_empty() {
                true => cache_rows.extend(std::iter::repeat_n(-1, piece.len)),
                false => cache_rows.extend(piece.cache_rows.iter().map(|&r| r as i32)),
            }
            let last = (start + piece.len - 1) as i32;
            draws.extend(piece.draws.iter().map(|&id| (id, last)));
        }
        input.segments = Arc::new(segments);
        input.cache = Some((call.pool.layers.clone(), cache_rows));
        let panels = call.panels.as_ref();
        let hidden = text(&mut self.net(&mut tape, panels), &self.model.config.text, &input)?;
        // Rows that draw in the same way are drawn by one op.
        draws.sort_by_key(|(id, _)| Arc::as_ptr(&call.requests[call.sequences[*id].0].sampling));
        let rows: Vec<_> = draws.iter().map(|&(id, row)| self.sample_row(call, id, row)).collect();
        let drawn = self.draw(&mut tape, panels, hidden, &rows)?;
        let plan = tape.plan();
        let run = tape.run(&plan, self.arena, base)?;
        let mut out = Vec::new();
        let mut ids = draws.iter().map(|(id, _)| *id);
        for [token, logp, lse, entropy] in drawn {
            let statistics = run.f32(lse)?.into_iter().zip(run.f32(entropy)?);
            let columns = run.f32(logp)?.into_iter().zip(statistics);
            for (token, (logp, (lse, entropy))) in run.i32(token)?.into_iter().zip(columns) {
                let id = ids.next().expect("one draw per row");
                out.push((id, Drawn { token: token as u32, logp, lse, entropy }));
            }
        }
        Ok(out)
    }

    /// Decoder input of the prompts with images of which rows are in the pass, by piece.
    fn prompt_indices(&self, call: &Call, pass: &[Piece]) -> Result<Vec<Option<Vec<i32>>>> {
        let with_images =
            |p: &Piece| p.sequence.is_none() && !call.prompt(p.group).visuals.is_empty();
        let images: Vec<_> = pass
            .iter()
            .filter(|p| with_images(p))
            .flat_map(|p| &call.prompt(p.group).visuals)
            .collect();
        let mut rows = match images.is_empty() {
            true => Vec::new(),
            false => self.vision.features(
                (&self.model.config, &self.model.params),
                (self.arena, call.pool.end),
                &images,
                self.vision_weights,
            )?,
        }
        .into_iter();
        let index = |p: &Piece| {
            with_images(p).then(|| {
                let prompt = call.prompt(p.group);
                prompt.index(&rows.by_ref().take(prompt.visuals.len()).collect::<Vec<_>>())
            })
        };
        Ok(pass.iter().map(index).collect())
    }

    /// Hidden row, random key and history of a draw, and how it is drawn.
    fn sample_row(
        &self,
        call: &Call,
        id: usize,
        row: i32,
    ) -> (i32, SampleRow, Arc<SamplingSettings>) {
        let (group, sample, own) = &call.sequences[id];
        let settings = call.requests[*group].sampling.clone();
        let seen = match settings.repetition_penalty == 1.0 {
            true => Vec::new(),
            false => {
                let own = own.iter().map(|d| d.token);
                call.prompt(*group).ids.iter().copied().chain(own).collect()
            }
        };
        let key =
            SampleRow { step: self.settings.step, sample: *sample, token: own.len() as u32, seen };
        (row, key, settings)
    }

    /// Head and sampling; returns token, log-probability, log-sum-exp and entropy of each run of rows
    /// with the same settings.
    fn draw(
        &self,
        tape: &mut Tape,
        panels: Option<&Panels>,
        hidden: Slot,
        rows: &[(i32, SampleRow, Arc<SamplingSettings>)],
    ) -> Result<Vec<[Slot; 4]>> {
        let mut out = Vec::new();
        for same in rows.chunk_by(|a, b| Arc::ptr_eq(&a.2, &b.2)) {
            let gather = tape.indices(same.iter().map(|(row, ..)| *row).collect());
            let hidden = tape.op(GatherRows, &[hidden, gather])?;
            let logits = logits(&mut self.net(tape, panels), &self.model.config.text, hidden)?;
            let op = Sample {
                head: Arc::new(head_settings(&same[0].2, &self.settings.forbidden)),
                settings: same[0].2.clone(),
                rows: Arc::new(same.iter().map(|(_, key, _)| key.clone()).collect()),
                seed: self.settings.seed,
            };
            let drawn = tape.ops(op, &[logits])?;
            let drawn = [drawn[0], drawn[1], drawn[2], drawn[3]];
            drawn.iter().for_each(|&s| {
                tape.keep(s);
            });
            out.push(drawn);
        }
        Ok(out)
    }

    fn finish(&self, call: &Call, id: usize) -> Option<Finish> {
        let (group, _, drawn) = &call.sequences[id];
        let last = drawn.last()?;
        let stops = |stop: StopCheck| stop(&drawn.iter().map(|d| d.token).collect::<Vec<_>>());
        if self.settings.eos.contains(&last.token) && !self.settings.ignore_eos {
            Some(Finish::Eos)
        } else if self.stop.is_some_and(stops) {
            Some(Finish::Stop)
        } else if drawn.len() >= call.requests[*group].max_tokens {
            Some(Finish::Length)
        } else {
            None
        }
    }
}
