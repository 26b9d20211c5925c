//! The one thread that owns the engine: takes questions from a channel, lets the session make a pass, says
//! what came of it to whoever asked, and forgets whoever is gone. Knows no HTTP.

use super::gauges::{Gauges, add, set};
use crate::base::Error;
use crate::infer::speech::Speech;
use crate::io::text::tokenizer::Tokenizer;
use crate::model::prompt::Prompt;
use crate::ops::sample::SamplingSettings;
use crate::rollout::{Event, Finish, Request, Session};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// How long an idle desk waits before it looks whether the server has ended.
const PATIENCE: Duration = Duration::from_millis(200);

/// A request that is ready for the engine.
#[derive(Debug)]
pub struct Question {
    /// The prompt, its images preprocessed.
    pub prompt: Arc<Prompt>,
    /// How tokens are drawn.
    pub sampling: SamplingSettings,
    /// Completions.
    pub n: usize,
    /// Most tokens of a completion.
    pub max_tokens: usize,
    /// Texts that end a completion.
    pub stop: Vec<String>,
    /// Seed of its randomness; `None` is the server's, and another draw for every request.
    pub seed: Option<u64>,
    /// With adapters on.
    pub adapter: bool,
    /// Who hears the answer. Whoever drops the other end has gone away.
    pub to: UnboundedSender<Told>,
}

/// What whoever asked is told.
#[derive(Debug)]
pub enum Told {
    /// A token, and what became certain of the text with it.
    Token {
        /// Number of the completion.
        choice: usize,
        /// Text that became certain; often empty.
        text: String,
        /// The token.
        token: u32,
        /// Its log-probability.
        logp: f32,
        /// Set with the last token of a completion.
        finish: Option<Finish>,
    },
    /// The request cannot be answered: it asks for too much.
    Refused(Error),
    /// The engine failed.
    Failed(String),
}

/// Who waits for a request.
struct Client {
    to: UnboundedSender<Told>,
    speeches: Vec<Speech>,
    /// Completions without an end.
    open: usize,
}

/// The thread's state.
pub struct Desk<'s, 'e, 'a> {
    session: &'s mut Session<'e, 'a>,
    tokenizer: &'s Tokenizer,
    gauges: &'s Gauges,
    clients: BTreeMap<usize, Client>,
    /// Samplings in use: equal ones are one, so that one op draws for all of them.
    samplings: Vec<Weak<SamplingSettings>>,
    /// Random key of the next completion without a seed of its own.
    next_sample: u32,
    /// Images that the tower has encoded.
    encoded: &'s dyn Fn() -> u64,
}

impl<'s, 'e, 'a> Desk<'s, 'e, 'a> {
    /// A desk for a session; `encoded` says how many images the vision tower has encoded.
    pub fn new(
        session: &'s mut Session<'e, 'a>,
        tokenizer: &'s Tokenizer,
        gauges: &'s Gauges,
        encoded: &'s dyn Fn() -> u64,
    ) -> Self {
        Desk {
            session,
            tokenizer,
            gauges,
            clients: BTreeMap::new(),
            samplings: Vec::new(),
            next_sample: 0,
            encoded,
        }
    }

    /// Answers until nobody can ask any more, or the server has `ended`.
    pub fn work(mut self, questions: &Receiver<Question>, ended: &AtomicBool) {
        loop {
            self.publish();
            if !self.session.busy() {
                match questions.recv_timeout(PATIENCE) {
                    Ok(question) => self.accept(question),
                    Err(RecvTimeoutError::Timeout) if !ended.load(Ordering::SeqCst) => continue,
                    Err(_) => break,
                }
            }
            while let Ok(question) = questions.try_recv() {
                self.accept(question);
            }
            self.forget_the_gone();
            if self.session.busy() {
                self.step();
            }
        }
        self.publish();
    }

    fn accept(&mut self, q: Question) {
        if q.to.is_closed() {
            add(&self.gauges.cancelled, 1);
            return;
        }
        let seed = q.seed.filter(|_| q.sampling.temperature > 0.0);
        let first_sample = match seed {
            Some(_) => 0,
            None => self.next_sample,
        };
        self.next_sample = self.next_sample.wrapping_add(q.n as u32);
        let prompt_tokens = q.prompt.len();
        let request = Request {
            completions: q.n,
            sampling: self.shared(q.sampling),
            max_tokens: q.max_tokens,
            first_sample,
            seed,
            adapter: q.adapter,
            prompt: q.prompt,
        };
        let checked = self.session.check_images(&request.prompt);
        match checked.and_then(|()| self.session.add(request)) {
            Ok(number) => {
                let speeches = (0..q.n).map(|_| Speech::new(self.tokenizer, &q.stop)).collect();
                self.clients.insert(number, Client { to: q.to, speeches, open: q.n });
                add(&self.gauges.prompt_tokens, prompt_tokens);
            }
            Err(e) => {
                // Nobody may be left to hear it.
                let _ = q.to.send(Told::Refused(e));
            }
        }
    }

    fn shared(&mut self, sampling: SamplingSettings) -> Arc<SamplingSettings> {
        self.samplings.retain(|s| s.strong_count() > 0);
        let mut known = self.samplings.iter().filter_map(Weak::upgrade);
        if let Some(same) = known.find(|s| **s == sampling) {
            return same;
        }
        let new = Arc::new(sampling);
        self.samplings.push(Arc::downgrade(&new));
        new
    }

    fn forget_the_gone(&mut self) {
        let gone = self.clients.iter().filter(|(_, c)| c.to.is_closed()).map(|(n, _)| *n);
        for number in gone.collect::<Vec<_>>() {
            self.clients.remove(&number);
            self.session.cancel(number);
            add(&self.gauges.cancelled, 1);
        }
    }

    fn step(&mut self) {
        match self.session.step() {
            Ok(events) => events.into_iter().for_each(|e| self.tell(e)),
            Err(e) => {
                eprintln!("error: a pass failed; its requests are given up\n{e}");
                for (number, client) in std::mem::take(&mut self.clients) {
                    self.session.cancel(number);
                    add(&self.gauges.failed, 1);
                    let _ = client.to.send(Told::Failed(e.one_line()));
                }
            }
        }
    }

    /// Passes a token on; the last one of a request ends it.
    fn tell(&mut self, event: Event) {
        add(&self.gauges.completion_tokens, 1);
        let Some(client) = self.clients.get_mut(&event.request) else { return };
        let speech = &mut client.speeches[event.completion];
        let (mut text, stopped) = speech.push(event.drawn.token);
        let mut finish = event.finish;
        if stopped {
            finish = Some(Finish::Stop);
            if event.finish.is_none() {
                self.session.end(event.request, event.completion);
            }
        } else if finish.is_some() {
            text += &speech.finish();
        }
        let told = Told::Token {
            choice: event.completion,
            text,
            token: event.drawn.token,
            logp: event.drawn.logp,
            finish,
        };
        // Whoever is gone is forgotten before the next pass.
        let heard = client.to.send(told).is_ok();
        client.open -= usize::from(finish.is_some());
        if heard && client.open == 0 {
            self.clients.remove(&event.request);
            self.session.cancel(event.request);
            add(&self.gauges.answered, 1);
        }
    }

    fn publish(&self) {
        let (running, waiting) = self.session.load();
        let (used, total) = self.session.pages();
        set(&self.gauges.running, running);
        set(&self.gauges.waiting, waiting);
        set(&self.gauges.pages_used, used);
        set(&self.gauges.pages_total, total);
        set(&self.gauges.images, (self.encoded)() as usize);
    }
}
