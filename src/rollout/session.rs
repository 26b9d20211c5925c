//! A rollout under way: requests come, end and are cancelled while others run; every step is one pass
//! of the scheduler, and what was drawn is heard at once. A call of the engine is a loop over a session,
//! so that a token that is served has the bits of the same token in training, whatever else was there.

use crate::base::{Error, Result};
use crate::model::decoder::{TextInput, logits, text};
use crate::model::net::Net;
use crate::model::panels::Panels;
use crate::model::processor::Visual;
use crate::model::prompt::Prompt;
use crate::model::vision_store::{encoding_bytes, passes};
use crate::ops::Slot;
use crate::ops::attention::{Segment, Span};
use crate::ops::gather_rows::GatherRows;
use crate::ops::sample::{Sample, SampleRow};
use crate::rollout::cache::KvPool;
use crate::rollout::engine::{Engine, StopCheck, head_settings};
use crate::rollout::layout::{Layout, parts};
use crate::rollout::pages::PAGE_ROWS;
use crate::rollout::scheduler::{Counts, Piece, Scheduler};
use crate::rollout::sequence::{Completion, Drawn, Finish, Request};
use crate::tape::Tape;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// A token that was drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Event {
    /// The request's number.
    pub request: usize,
    /// Which of its completions.
    pub completion: usize,
    /// The token.
    pub drawn: Drawn,
    /// Set if it was the last of its completion.
    pub finish: Option<Finish>,
}

/// A request in the making.
#[derive(Debug)]
struct Job {
    request: Request,
    /// Its completions, as the scheduler numbers them.
    ids: Range<usize>,
    /// Per completion: its tokens, and why it ended.
    drawn: Vec<(Vec<Drawn>, Option<Finish>)>,
}

/// Who draws: request, completion of it, and row of the pass.
#[derive(Debug, Clone, Copy)]
struct Draw {
    request: usize,
    completion: usize,
    row: i32,
}

/// See the top of the file.
pub struct Session<'e, 'a> {
    engine: &'e Engine<'a>,
    pool: KvPool,
    panels: Option<Panels>,
    scheduler: Scheduler,
    jobs: BTreeMap<usize, Job>,
    layout: Layout,
}

impl<'e, 'a> Session<'e, 'a> {
    /// An empty session in the space that `layout` divides.
    ///
    /// # Errors
    /// If it does not fit the arena.
    pub fn new(engine: &'e Engine<'a>, layout: Layout) -> Result<Self> {
        let (model, arena) = (engine.model, engine.arena);
        let base = arena.shared_base();
        let head = model.config.text.head_name();
        let panels = match layout.panel_bytes {
            0 => None,
            _ => Some(Panels::pack(&model.params, &head, arena, base)?),
        };
        let base = panels.as_ref().map_or(base, |p| p.end);
        let (rows, float) = (layout.limits.pages * PAGE_ROWS, model.params.float_type());
        let pool = KvPool::place(arena, &model.config.text, float, base, rows)?;
        let scheduler = Scheduler::new(layout.limits, &[]);
        Ok(Session { engine, pool, panels, scheduler, jobs: BTreeMap::new(), layout })
    }

    /// One more request, behind the others; returns its number: 0 for the first, then 1, and so on.
    ///
    /// # Errors
    /// If prompt and completion do not fit the model's context or the pages there are.
    pub fn add(&mut self, request: Request) -> Result<usize> {
        let size = self.engine.size(&request)?;
        if size.least_pages() > self.layout.limits.pages {
            return Err(self.engine.too_small(&self.layout, size.least_pages()));
        }
        let (number, ids) = self.scheduler.add(size);
        let drawn = vec![(Vec::new(), None); size.completions];
        self.jobs.insert(number, Job { request, ids, drawn });
        Ok(number)
    }

    /// Sees whether the images of a prompt can be encoded in the space that was divided for requests
    /// that were not known.
    ///
    /// # Errors
    /// If they do not fit the vision cache together, or the space of a pass.
    pub fn check_images(&self, prompt: &Prompt) -> Result<()> {
        let (model, store) = (self.engine.model, self.engine.vision);
        let distinct: BTreeMap<u128, &Arc<Visual>> =
            prompt.visuals.iter().map(|v| (v.content, v)).collect();
        let images: Vec<&Arc<Visual>> = distinct.into_values().collect();
        let rows: usize = images.iter().map(|v| v.rows()).sum();
        if rows > store.rows() {
            return Err(Error::device("the images do not fit the vision cache together")
                .key("vision_cache_size")
                .expected(format!("at most {} tokens of images", store.rows()))
                .found(format!("{rows} tokens"))
                .hint("send fewer or smaller images"));
        }
        for pass in passes(&images, |image| image.patches()) {
            let grids: Vec<[usize; 3]> = pass.iter().map(|v| v.grid_thw).collect();
            let bytes = encoding_bytes(&model.config, &model.params, &grids)?;
            if bytes > self.layout.pass_bytes {
                return Err(Error::device("an image is too large to be encoded in this memory")
                    .key("memory_budget")
                    .expected(format!("at most {} bytes for a pass", self.layout.pass_bytes))
                    .found(format!("{bytes} bytes"))
                    .hint("send a smaller image"));
            }
        }
        Ok(())
    }

    /// Forgets a request, finished or not; what it held is free. An unknown number is nothing.
    pub fn cancel(&mut self, request: usize) {
        if self.jobs.remove(&request).is_some() {
            self.scheduler.remove(request);
        }
    }

    /// Ends one completion of a request before its limit, as a stop text does. Nothing happens if it
    /// has ended or is unknown.
    pub fn end(&mut self, request: usize, completion: usize) {
        let Some(job) = self.jobs.get_mut(&request) else { return };
        let Some((_, finish @ None)) = job.drawn.get_mut(completion) else { return };
        *finish = Some(Finish::Stop);
        self.scheduler.end(job.ids.start + completion);
    }

    /// Whether anything is left to do.
    pub fn busy(&self) -> bool {
        self.scheduler.busy()
    }

    /// Whether all completions of a request have ended, or it is unknown.
    pub fn finished(&self, request: usize) -> bool {
        let job = self.jobs.get(&request);
        job.is_none_or(|job| job.drawn.iter().all(|(_, finish)| finish.is_some()))
    }

    /// Completions of a request, which is forgotten; `None` if it is unknown.
    pub fn take(&mut self, request: usize) -> Option<Vec<Completion>> {
        let job = self.jobs.remove(&request)?;
        self.scheduler.remove(request);
        let completion = |(drawn, finish): (Vec<Drawn>, Option<Finish>)| Completion {
            ids: drawn.iter().map(|d| d.token).collect(),
            logps: drawn.iter().map(|d| d.logp).collect(),
            statistics: drawn.iter().map(|d| [d.lse, d.entropy]).collect(),
            finish: finish.unwrap_or(Finish::Length),
        };
        Some(job.drawn.into_iter().map(completion).collect())
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.scheduler.counts()
    }

    /// Pages of the KV cache that requests hold, and pages there are.
    pub fn pages(&self) -> (usize, usize) {
        (self.scheduler.used_pages(), self.layout.limits.pages)
    }

    /// Completions that are decoded, and those that wait.
    pub fn load(&self) -> (usize, usize) {
        self.scheduler.load()
    }

    /// Runs one pass; returns what was drawn, in an order that says nothing.
    ///
    /// # Errors
    /// If a pass does not fit the memory, or the device fails. Then the session can only be told to
    /// cancel what it has.
    pub fn step(&mut self) -> Result<Vec<Event>> {
        let pass = self.scheduler.next_pass();
        let mut events = Vec::new();
        for same in self.by_adapter(pass) {
            let store = self.engine.vision.rows();
            for part in parts(&same, |group| self.prompt(group), store) {
                for (at, drawn) in self.run(part)? {
                    events.push(self.hear(at, drawn));
                }
            }
        }
        Ok(events)
    }

    /// Pieces with adapters on and those with adapters off: no tape can have both. Pieces of one
    /// prompt stay together and in order.
    fn by_adapter(&self, pass: Vec<Piece>) -> Vec<Vec<Piece>> {
        let on = |p: &Piece| self.jobs[&p.group].request.adapter;
        let (on, off): (Vec<Piece>, Vec<Piece>) = pass.into_iter().partition(on);
        [on, off].into_iter().filter(|pieces| !pieces.is_empty()).collect()
    }

    /// Notes a token.
    fn hear(&mut self, at: Draw, drawn: Drawn) -> Event {
        let (engine, Draw { request, completion, .. }) = (self.engine, at);
        let job = self.jobs.get_mut(&request).expect("nothing is cancelled during a pass");
        let (tokens, finish) = &mut job.drawn[completion];
        tokens.push(drawn);
        let stops = |stop: StopCheck| stop(&tokens.iter().map(|d| d.token).collect::<Vec<_>>());
        let settings = &engine.settings;
        *finish = if settings.eos.contains(&drawn.token) && !settings.ignore_eos {
            Some(Finish::Eos)
        } else if engine.stop.is_some_and(stops) {
            Some(Finish::Stop)
        } else if tokens.len() >= job.request.max_tokens {
            Some(Finish::Length)
        } else {
            None
        };
        self.scheduler.drawn(job.ids.start + completion, finish.is_some());
        Event { request, completion, drawn, finish: *finish }
    }

    fn prompt(&self, request: usize) -> &Prompt {
        &self.jobs[&request].request.prompt
    }

    fn net<'t>(&'t self, tape: &'t mut Tape, adapter: bool) -> Net<'t> {
        let mut net = Net::new(tape, &self.engine.model.params);
        net.adapter = adapter;
        net.panels = self.panels.as_ref();
        net
    }

    /// Runs a part of a pass, all of it with adapters on or off; returns who drew what.
    fn run(&self, pass: &[Piece]) -> Result<Vec<(Draw, Drawn)>> {
        let (engine, base) = (self.engine, self.pool.end);
        let adapter = pass.first().is_some_and(|p| self.jobs[&p.group].request.adapter);
        let indices = self.prompt_indices(pass)?;
        let mut tape = engine.model.params.tape();
        let mut input = TextInput {
            index: Vec::new(),
            vision: match indices.iter().any(Option::is_some) {
                true => engine.vision.slots(&mut tape),
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
            let job = &self.jobs[&piece.group];
            let prompt = &job.request.prompt;
            match (piece.sequence, index) {
                (Some(id), _) => {
                    let own = &job.drawn[id - job.ids.start].0[range];
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
            let row = (start + piece.len - 1) as i32;
            let draw = |id| Draw { request: piece.group, completion: id - job.ids.start, row };
            draws.extend(piece.draws.iter().map(|&id| draw(id)));
        }
        input.segments = Arc::new(segments);
        input.cache = Some((self.pool.layers.clone(), cache_rows));
        let config = &engine.model.config.text;
        let hidden = text(&mut self.net(&mut tape, adapter), config, &input)?;
        // Rows that draw in the same way are drawn by one op.
        draws.sort_by_key(|d| self.way(d));
        let drawn = self.draw(&mut tape, adapter, hidden, &draws)?;
        let plan = tape.plan();
        let run = tape.run(&plan, engine.arena, base)?;
        let mut out = Vec::new();
        let mut who = draws.iter();
        for [token, logp, lse, entropy] in drawn {
            let statistics = run.f32(lse)?.into_iter().zip(run.f32(entropy)?);
            let columns = run.f32(logp)?.into_iter().zip(statistics);
            for (token, (logp, (lse, entropy))) in run.i32(token)?.into_iter().zip(columns) {
                let at = *who.next().expect("one draw per row");
                out.push((at, Drawn { token: token as u32, logp, lse, entropy }));
            }
        }
        Ok(out)
    }

    /// What rows have in common that one op draws.
    fn way(&self, at: &Draw) -> (usize, Option<u64>) {
        let request = &self.jobs[&at.request].request;
        (Arc::as_ptr(&request.sampling).addr(), request.seed)
    }

    /// Decoder input of the prompts with images of which rows are in the pass, by piece.
    fn prompt_indices(&self, pass: &[Piece]) -> Result<Vec<Option<Vec<i32>>>> {
        let engine = self.engine;
        let with_images =
            |p: &Piece| p.sequence.is_none() && !self.prompt(p.group).visuals.is_empty();
        let images: Vec<_> = pass
            .iter()
            .filter(|p| with_images(p))
            .flat_map(|p| &self.prompt(p.group).visuals)
            .collect();
        let mut rows = match images.is_empty() {
            true => Vec::new(),
            false => engine.vision.features(
                (&engine.model.config, &engine.model.params),
                (engine.arena, self.pool.end),
                &images,
                engine.vision_weights,
            )?,
        }
        .into_iter();
        let index = |p: &Piece| {
            with_images(p).then(|| {
                let prompt = self.prompt(p.group);
                prompt.index(&rows.by_ref().take(prompt.visuals.len()).collect::<Vec<_>>())
            })
        };
        Ok(pass.iter().map(index).collect())
    }

    /// Random key and history of a draw.
    fn sample_row(&self, at: &Draw) -> SampleRow {
        let job = &self.jobs[&at.request];
        let own = &job.drawn[at.completion].0;
        let seen = match job.request.sampling.repetition_penalty == 1.0 {
            true => Vec::new(),
            false => {
                let own = own.iter().map(|d| d.token);
                job.request.prompt.ids.iter().copied().chain(own).collect()
            }
        };
        let sample = job.request.first_sample.wrapping_add(at.completion as u32);
        SampleRow { step: self.engine.settings.step, sample, token: own.len() as u32, seen }
    }

    /// Head and sampling; returns token, log-probability, log-sum-exp and entropy of each run of rows
    /// that draw in the same way. The head's weights are read once for all of them.
    fn draw(
        &self,
        tape: &mut Tape,
        adapter: bool,
        hidden: Slot,
        draws: &[Draw],
    ) -> Result<Vec<[Slot; 4]>> {
        let mut out = Vec::new();
        if draws.is_empty() {
            return Ok(out);
        }
        let engine = self.engine;
        let gather = tape.indices(draws.iter().map(|d| d.row).collect());
        let hidden = tape.op(GatherRows, &[hidden, gather])?;
        let all = logits(&mut self.net(tape, adapter), &engine.model.config.text, hidden)?;
        let mut first = 0;
        for same in draws.chunk_by(|a, b| self.way(a) == self.way(b)) {
            let request = &self.jobs[&same[0].request].request;
            let own = match same.len() == draws.len() {
                true => all,
                false => {
                    let rows = tape.indices((first..first + same.len() as i32).collect());
                    tape.op(GatherRows, &[all, rows])?
                }
            };
            first += same.len() as i32;
            let op = Sample {
                head: Arc::new(head_settings(&request.sampling, &engine.settings.forbidden)),
                settings: request.sampling.clone(),
                rows: Arc::new(same.iter().map(|d| self.sample_row(d)).collect()),
                seed: request.seed.unwrap_or(engine.settings.seed),
            };
            let drawn = tape.ops(op, &[own])?;
            let drawn = [drawn[0], drawn[1], drawn[2], drawn[3]];
            drawn.iter().for_each(|&s| {
                tape.keep(s);
            });
            out.push(drawn);
        }
        Ok(out)
    }
}
