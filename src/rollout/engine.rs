//! Prefill each prompt once, then decode all its completions together with everybody else's. A
//! pass is a tape like any other, planned and run in the arena above the KV pool. Which sequences
//! share a pass changes no bit of any of them.

use crate::base::{DType, Error, Result};
use crate::mem::Arena;
use crate::model::families::qwen2_5_vl::net::{TextInput, head, text, vision};
use crate::model::net::Net;
use crate::model::prompt::{Prompt, stack_images};
use crate::model::vlm::Vlm;
use crate::ops::attention::{Segment, Span};
use crate::ops::gather_rows::GatherRows;
use crate::ops::linear_logprob::HeadSettings;
use crate::ops::matmul::Matmul;
use crate::ops::sample::{Sample, SampleRow, SamplingSettings};
use crate::rollout::cache::{KvPool, kv_row_bytes};
use crate::rollout::sequence::{Completion, Finish, Sequence};
use crate::tape::Tape;
use std::sync::Arc;

/// How completions are made.
#[derive(Debug, Clone)]
pub struct RolloutSettings {
    /// How tokens are drawn.
    pub sampling: SamplingSettings,
    /// Most tokens of a completion.
    pub max_completion_length: usize,
    /// Tokens that end a completion.
    pub eos: Vec<u32>,
    /// Go on after an end token, to the full length (benchmarks).
    pub ignore_eos: bool,
    /// Tokens that are never sampled, sorted.
    pub forbidden: Vec<u32>,
    /// Seed of the run.
    pub seed: u64,
    /// Most prompt tokens of one prefill pass; a longer prompt has a pass of its own.
    pub prefill_tokens: usize,
}

impl RolloutSettings {
    /// Temperature and forbidden tokens, as training must use them too.
    pub fn head(&self) -> HeadSettings {
        HeadSettings {
            temperature: f64::from(self.sampling.temperature),
            forbidden: self.forbidden.clone(),
        }
    }
}

/// Says whether the text of these tokens contains a stop string.
pub type StopCheck<'a> = &'a (dyn Fn(&[u32]) -> bool + Sync);

/// A model ready to generate.
pub struct Engine<'a> {
    model: &'a Vlm,
    arena: &'a Arena,
    settings: RolloutSettings,
    head: Arc<HeadSettings>,
    sampling: Arc<SamplingSettings>,
    stop: Option<StopCheck<'a>>,
    /// False generates with adapters off.
    pub adapter: bool,
}

impl<'a> Engine<'a> {
    /// An engine on the model's weights; nothing is copied.
    pub fn new(model: &'a Vlm, arena: &'a Arena, settings: RolloutSettings) -> Self {
        let head = Arc::new(settings.head());
        let sampling = Arc::new(settings.sampling.clone());
        Engine { model, arena, settings, head, sampling, stop: None, adapter: true }
    }

    /// Ends completions whose text contains a stop string.
    pub fn with_stop(mut self, stop: StopCheck<'a>) -> Self {
        self.stop = Some(stop);
        self
    }

    /// `n` completions of each prompt, in order. Random keys are (`step`, `first_sample` + prompt
    /// number · n + completion number, token number).
    ///
    /// # Errors
    /// If a prompt is longer than the model's context, or memory is too small for one group.
    pub fn generate(
        &self,
        prompts: &[Arc<Prompt>],
        n: usize,
        step: u32,
        first_sample: u32,
    ) -> Result<Vec<Vec<Completion>>> {
        let mut out = Vec::with_capacity(prompts.len());
        let mut done = 0;
        while done < prompts.len() {
            let take = self.wave(&prompts[done..], n)?;
            let wave = &prompts[done..done + take];
            out.extend(self.generate_wave(wave, n, step, first_sample + (done * n) as u32)?);
            done += take;
        }
        Ok(out)
    }

    /// Cache rows of a prompt's group: its prompt once, and each completion's tokens but the last.
    fn rows(&self, prompt: &Prompt, n: usize) -> usize {
        prompt.len() + n * self.settings.max_completion_length
    }

    /// How many of the prompts fit the cache at once: half of the free space, the other half is for
    /// activations.
    fn wave(&self, prompts: &[Arc<Prompt>], n: usize) -> Result<usize> {
        let cfg = &self.model.config.text;
        let limit = cfg.max_position_embeddings;
        let free = self.arena.capacity().saturating_sub(self.arena.shared_base()) / 2;
        let (mut rows, mut take) = (0, 0);
        for p in prompts {
            let longest = p.next_position as usize + self.settings.max_completion_length;
            if longest > limit {
                return Err(Error::usage(
                    "prompt and completion are longer than the model's context",
                )
                .expected(format!("at most {limit} positions (max_position_embeddings)"))
                .found(format!(
                    "{} of the prompt and max_completion_length {}",
                    p.next_position, self.settings.max_completion_length
                ))
                .hint("lower --max_completion_length or --max_pixels"));
            }
            rows += self.rows(p, n);
            if rows * kv_row_bytes(cfg) > free {
                break;
            }
            take += 1;
        }
        if take == 0 {
            return Err(Error::device(
                "the memory budget is too small for one group of completions",
            )
            .expected(format!("{} bytes of KV cache", rows * kv_row_bytes(cfg)))
            .found(format!("{free} bytes"))
            .hint("raise --memory_budget, or lower --num_generations or --max_completion_length"));
        }
        Ok(take)
    }

    fn generate_wave(
        &self,
        prompts: &[Arc<Prompt>],
        n: usize,
        step: u32,
        first_sample: u32,
    ) -> Result<Vec<Vec<Completion>>> {
        let total: usize = prompts.iter().map(|p| self.rows(p, n)).sum();
        let base = self.arena.shared_base();
        let pool = KvPool::place(self.arena, &self.model.config.text, base, total)?;
        let mut prompt_rows = Vec::new();
        let mut sequences = Vec::new();
        let mut row = 0;
        for (i, p) in prompts.iter().enumerate() {
            prompt_rows.push(row);
            row += p.len();
            for g in 0..n {
                sequences.push(Sequence {
                    prompt: i,
                    sample: first_sample + (i * n + g) as u32,
                    first_row: row,
                    ids: Vec::new(),
                    logps: Vec::new(),
                    finish: None,
                });
                row += self.settings.max_completion_length;
            }
        }
        let mut first = 0;
        while first < prompts.len() {
            let mut last = first + 1;
            let mut tokens = prompts[first].len();
            while last < prompts.len()
                && tokens + prompts[last].len() <= self.settings.prefill_tokens
            {
                tokens += prompts[last].len();
                last += 1;
            }
            let group = &mut sequences[first * n..last * n];
            self.prefill(&pool, &prompts[first..last], &prompt_rows[first..last], group, step)?;
            first = last;
        }
        while self.decode(&pool, prompts, &prompt_rows, &mut sequences, step)? {}
        let mut out: Vec<Vec<Completion>> = vec![Vec::new(); prompts.len()];
        for s in sequences {
            let finish = s.finish.unwrap_or(Finish::Length);
            out[s.prompt].push(Completion { ids: s.ids, logps: s.logps, finish });
        }
        Ok(out)
    }

    /// Forwards prompts, writes their keys and values, and draws the first token of each completion.
    fn prefill(
        &self,
        pool: &KvPool,
        prompts: &[Arc<Prompt>],
        rows: &[usize],
        sequences: &mut [Sequence],
        step: u32,
    ) -> Result<()> {
        let mut tape = Tape::new(DType::F32);
        let mut net = self.net(&mut tape);
        let cfg = &self.model.config;
        let vision = match stack_images(prompts.iter().map(|p| &**p)) {
            Some((pixels, grids)) => Some(vision(&mut net, cfg, pixels, &grids)?),
            None => None,
        };
        let mut input = empty_input(vision);
        let (mut segments, mut cache_rows, mut last_rows) = (Vec::new(), Vec::new(), Vec::new());
        let mut feature = 0;
        for (p, &row) in prompts.iter().zip(rows) {
            let start = input.index.len();
            input.index.extend(p.index(feature));
            feature += p.num_features();
            input.positions.extend(&p.positions);
            segments.push(Segment {
                queries: Span { start, len: p.len() },
                keys: vec![Span { start: row, len: p.len() }],
                causal: true,
            });
            cache_rows.extend((row..row + p.len()).map(|r| r as i32));
            last_rows.push((start + p.len() - 1) as i32);
        }
        input.segments = Arc::new(segments);
        input.cache = Some((pool.layers.clone(), cache_rows));
        let hidden = text(&mut net, cfg, &input)?;
        let n = sequences.len() / prompts.len();
        let gather: Vec<i32> = last_rows.iter().flat_map(|&r| std::iter::repeat_n(r, n)).collect();
        let gather = tape.indices(gather);
        let hidden = tape.op(GatherRows, &[hidden, gather])?;
        let mut refs: Vec<&mut Sequence> = sequences.iter_mut().collect();
        let context: Vec<&Prompt> =
            refs.iter().map(|s| &*prompts[s.prompt - refs[0].prompt]).collect();
        self.draw(tape, pool, hidden, &context, &mut refs, step)
    }

    /// One more token for every sequence that goes on; false if none does.
    fn decode(
        &self,
        pool: &KvPool,
        prompts: &[Arc<Prompt>],
        prompt_rows: &[usize],
        sequences: &mut [Sequence],
        step: u32,
    ) -> Result<bool> {
        let mut live: Vec<&mut Sequence> =
            sequences.iter_mut().filter(|s| s.finish.is_none()).collect();
        if live.is_empty() {
            return Ok(false);
        }
        let mut input = empty_input(None);
        let (mut segments, mut cache_rows) = (Vec::new(), Vec::new());
        for (i, s) in live.iter().enumerate() {
            let (p, done) = (&prompts[s.prompt], s.ids.len());
            input.index.push(s.ids[done - 1] as i32);
            input.positions.extend(p.positions_after(done - 1, 1));
            segments.push(Segment {
                queries: Span { start: i, len: 1 },
                keys: vec![
                    Span { start: prompt_rows[s.prompt], len: p.len() },
                    Span { start: s.first_row, len: done },
                ],
                causal: true,
            });
            cache_rows.push((s.first_row + done - 1) as i32);
        }
        input.segments = Arc::new(segments);
        input.cache = Some((pool.layers.clone(), cache_rows));
        let mut tape = Tape::new(DType::F32);
        let hidden = text(&mut self.net(&mut tape), &self.model.config, &input)?;
        let context: Vec<&Prompt> = live.iter().map(|s| &*prompts[s.prompt]).collect();
        self.draw(tape, pool, hidden, &context, &mut live, step)?;
        Ok(true)
    }

    fn net<'t>(&'t self, tape: &'t mut Tape) -> Net<'t> {
        let mut net = Net::new(tape, &self.model.params);
        net.adapter = self.adapter;
        net
    }

    /// Head, sampling, and what the new tokens mean for their sequences.
    fn draw(
        &self,
        mut tape: Tape,
        pool: &KvPool,
        hidden: crate::ops::Slot,
        prompts: &[&Prompt],
        sequences: &mut [&mut Sequence],
        step: u32,
    ) -> Result<()> {
        let w = head(&mut self.net(&mut tape), &self.model.config)?;
        let logits = tape.op(Matmul::default(), &[hidden, w])?;
        let penalised = self.sampling.repetition_penalty != 1.0;
        let rows = sequences
            .iter()
            .zip(prompts)
            .map(|(s, p)| SampleRow {
                step,
                sample: s.sample,
                token: s.ids.len() as u32,
                seen: if penalised { [&p.ids[..], &s.ids].concat() } else { Vec::new() },
            })
            .collect();
        let op = Sample {
            head: self.head.clone(),
            settings: self.sampling.clone(),
            rows: Arc::new(rows),
            seed: self.settings.seed,
        };
        let drawn = tape.ops(op, &[logits])?;
        tape.keep(drawn[0]);
        tape.keep(drawn[1]);
        let plan = tape.plan();
        let run = tape.run(&plan, self.arena, pool.end)?;
        for ((s, token), logp) in sequences.iter_mut().zip(run.i32(drawn[0])).zip(run.f32(drawn[1]))
        {
            s.ids.push(token as u32);
            s.logps.push(logp);
            s.finish = self.finish(&s.ids);
        }
        Ok(())
    }

    fn finish(&self, ids: &[u32]) -> Option<Finish> {
        let last = ids.last()?;
        if self.settings.eos.contains(last) && !self.settings.ignore_eos {
            Some(Finish::Eos)
        } else if self.stop.is_some_and(|stop| stop(ids)) {
            Some(Finish::Stop)
        } else if ids.len() >= self.settings.max_completion_length {
            Some(Finish::Length)
        } else {
            None
        }
    }
}

fn empty_input(vision: Option<crate::ops::Slot>) -> TextInput {
    TextInput {
        index: Vec::new(),
        vision,
        positions: Vec::new(),
        segments: Arc::new(Vec::new()),
        cache: None,
    }
}
