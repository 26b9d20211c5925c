//! Floor 13: `grpo-rt infer`: chats, answered by the engine that training uses, so that what is seen here is what is
//! trained there. A chat that cannot be read costs itself alone. Scores and trains nothing.

pub mod chats; // chats that are answered once
pub mod speech; // tokens to text as it is heard

use crate::base::{Error, Result};
use crate::infer::chats::{Chat, Chats};
use crate::infer::speech::Speech;
use crate::model::prompt::Prompt;
use crate::rollout::{Completion, Engine, Event, Finish, Request};
use crate::settings::InferSettings;
use crate::train::generation::{RolloutSettings, generate_with, rollout_settings};
use crate::train::workspace::{Prepared, Workspace};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

/// Chats whose prompts are in memory together.
const TOGETHER: usize = 64;

/// Which answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Number of the chat.
    pub chat: usize,
    /// 0 with the adapter as the settings have it, 1 with the adapter off.
    pub variant: usize,
    /// Number of the completion.
    pub sample: usize,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// To what.
    pub place: Place,
    /// Its text, special tokens removed.
    pub text: String,
    /// Its tokens with what is known of them.
    pub completion: Completion,
}

/// Everything that came of the chats.
#[derive(Debug)]
pub struct Answers {
    /// What was asked.
    pub chats: Vec<Chat>,
    /// Answers, by place.
    pub answers: Vec<Answer>,
    /// Chats that could not be answered: their numbers, if they came as far as that, and why.
    pub failed: Vec<(Option<usize>, Error)>,
    /// Answers to a chat: 2 if adapters on and off are compared.
    pub variants: usize,
}

/// Hears text as it comes, and the whole of an answer at its end.
pub trait Listener {
    /// What became certain of an answer's text.
    fn piece(&self, _chats: &[Chat], _at: Place, _text: &str) {}
    /// An answer has all its text.
    fn ended(&self, _chats: &[Chat], _at: Place) {}
    /// A whole answer.
    fn answer(&self, _chats: &[Chat], _answer: &Answer) {}
    /// A chat that cannot be answered.
    fn failed(&self, _chats: &[Chat], _chat: Option<usize>, _why: &Error) {}
}

/// Answers chats; `listener` hears the answers while they are made.
///
/// # Errors
/// If the model or the chats cannot be read at all, the memory is too small, or no chat at all can be
/// answered: then the first reason.
pub fn infer(s: &InferSettings, listener: &dyn Listener) -> Result<Answers> {
    let Chats { chats, bad } = Chats::read(&s.chat)?;
    let mut prepared = Prepared::read(&s.model, &s.machine)?;
    if s.compare && s.model.adapter.is_none() {
        return Err(Error::usage("there is no adapter to compare with")
            .key("compare_adapter")
            .expected("adapter, or a run that trained one")
            .hint("add --adapter DIR, or leave compare_adapter out"));
    }
    prepared.bound_prompts(None, s.sampling.max_completion_length)?;
    let w = prepared.open(&s.model, &s.machine, s.seed)?;
    let variants = if s.compare { 2 } else { 1 };
    let mut all = Answers { chats, answers: Vec::new(), failed: Vec::new(), variants };
    for error in bad {
        listener.failed(&all.chats, None, &error);
        all.failed.push((None, error));
    }
    let rollout = rollout_settings(&w, &s.sampling, s.seed);
    for first in (0..all.chats.len()).step_by(TOGETHER) {
        let part = first..(first + TOGETHER).min(all.chats.len());
        let mut prompts = Vec::new();
        for chat in part {
            match all.chats[chat].encode(&w.encoder) {
                Ok(prompt) => prompts.push((chat, Arc::new(prompt))),
                Err(e) => {
                    listener.failed(&all.chats, Some(chat), &e);
                    all.failed.push((Some(chat), e));
                }
            }
        }
        let part = Part { w: &w, s, rollout: &rollout, chats: &all.chats, prompts, variants };
        let answers = part.answer(listener)?;
        all.answers.extend(answers);
    }
    match all.answers.is_empty() {
        false => Ok(all),
        true => Err(all.failed.into_iter().next().map_or_else(
            || Error::data("there is nothing to answer").hint("give a file with rows"),
            |(_, first)| first,
        )),
    }
}

/// Chats that are answered together.
struct Part<'p> {
    w: &'p Workspace,
    s: &'p InferSettings,
    rollout: &'p RolloutSettings,
    chats: &'p [Chat],
    prompts: Vec<(usize, Arc<Prompt>)>,
    variants: usize,
}

impl Part<'_> {
    /// Answers, in order.
    fn answer(&self, listener: &dyn Listener) -> Result<Vec<Answer>> {
        let n = self.s.num_samples;
        // What is compared is drawn with the same keys.
        let request = |(chat, prompt): &(usize, Arc<Prompt>), variant: usize| Request {
            prompt: prompt.clone(),
            completions: n,
            sampling: self.rollout.sampling.clone(),
            max_tokens: self.rollout.max_completion_length,
            first_sample: (chat * n) as u32,
            seed: None,
            adapter: variant == 0,
        };
        let variants = 0..self.variants;
        let asked = self.prompts.iter().flat_map(|p| variants.clone().map(move |v| (p, v)));
        let places: Vec<(usize, usize)> = asked.clone().map(|(p, v)| (p.0, v)).collect();
        let requests: Vec<Request> = asked.map(|(p, v)| request(p, v)).collect();
        let tokenizer = &self.w.encoder.chat.tokenizer;
        let place = |request: usize, sample: usize| {
            let (chat, variant) = places[request];
            Place { chat, variant, sample }
        };
        let speech = || (0..n).map(|_| Speech::new(tokenizer, &[])).collect::<Vec<_>>();
        let speeches = RefCell::new(requests.iter().map(|_| speech()).collect::<Vec<_>>());
        let heard = |event: &Event| {
            let speech = &mut speeches.borrow_mut()[event.request][event.completion];
            let (mut text, _) = speech.push(event.drawn.token);
            if event.finish.is_some() {
                text += &speech.finish();
            }
            let at = place(event.request, event.completion);
            listener.piece(self.chats, at, &text);
            if event.finish.is_some() {
                listener.ended(self.chats, at);
            }
        };
        let answer = |request: usize, sample: usize, completion: &Completion| Answer {
            place: place(request, sample),
            text: tokenizer.decode(&completion.ids, true),
            completion: completion.clone(),
        };
        let done = |request: usize, completions: &[Completion]| {
            (0..).zip(completions).map(|(i, c)| answer(request, i, c)).collect::<Vec<_>>()
        };
        let settings = self.rollout.engine.clone();
        let w = self.w;
        let mut engine = Engine::new(&w.model, &w.arena, &w.vision, settings);
        engine.heard = Some(&heard);
        let made = generate_with(engine, w, &self.s.sampling.stop, &requests)?;
        let answers: Vec<Answer> =
            (0..).zip(&made.completions).flat_map(|(r, all)| done(r, all)).collect();
        answers.iter().for_each(|a| listener.answer(self.chats, a));
        Ok(answers)
    }
}

/// What a line of results says beside the answer.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// Folder of the model.
    pub model: String,
    /// Folder of the adapter.
    pub adapter: Option<String>,
    /// The run that made it.
    pub run_id: Option<String>,
    /// Root of everything random.
    pub seed: u64,
}

/// Writes one JSON object per answer, then one per chat that could not be answered.
///
/// # Errors
/// If the file cannot be written.
pub fn write(file: &Path, all: &Answers, origin: &Origin) -> Result<()> {
    let failed = |e: std::io::Error| {
        Error::io("cannot write the answers", file, &e)
            .key("out")
            .hint("give a file in a folder that exists and can be written")
    };
    let mut out = BufWriter::new(File::create(file).map_err(failed)?);
    let chat = |i: usize| (json!(all.chats[i].text), json!(all.chats[i].media));
    let answers = all.answers.iter().map(|a| answer_line(a, chat(a.place.chat), origin));
    let errors = all.failed.iter().map(|(i, e)| {
        let (prompt, media) = i.map_or((Value::Null, Value::Null), chat);
        json!({"error": e.one_line(), "prompt": prompt, "media": media, "chat": i})
    });
    for line in answers.chain(errors) {
        writeln!(out, "{line}").map_err(failed)?;
    }
    out.flush().map_err(failed)
}

fn answer_line(a: &Answer, (prompt, media): (Value, Value), origin: &Origin) -> Value {
    let reason = match a.completion.finish {
        Finish::Eos => "eos",
        Finish::Stop => "stop",
        Finish::Length => "length",
    };
    let adapter = origin.adapter.as_ref().filter(|_| a.place.variant == 0);
    json!({
        "text": a.text,
        "tokens": a.completion.ids,
        "logps": a.completion.logps,
        "finish_reason": reason,
        "prompt": prompt,
        "media": media,
        "chat": a.place.chat,
        "sample": a.place.sample,
        "model": origin.model,
        "adapter": adapter,
        "run_id": origin.run_id,
        "seed": origin.seed,
    })
}
