//! `grpo-rt infer`: one chat, answered by the engine that training uses, so that what is seen here is
//! what is trained there. Scores and trains nothing.

use crate::base::{Error, Result};
use crate::io::dataset::{Message, Part, VideoMeta, VideoRef};
use crate::io::image::{self, Alpha};
use crate::io::video::VideoSource;
use crate::rollout::{Completion, Finish};
use crate::train::generation::{Draws, generate, rollout_settings};
use crate::train::prompts::{Media, read_messages};
use crate::train::settings::{ChatSettings, InferSettings};
use crate::train::tasks::text_or_file;
use crate::train::workspace::Prepared;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Its text, special tokens removed.
    pub text: String,
    /// Its tokens with what is known of them.
    pub completion: Completion,
}

/// The messages of a chat and their images.
fn read_chat(chat: &ChatSettings) -> Result<(Vec<Message>, Media)> {
    let (system, images, videos, text) = match chat {
        ChatSettings::Messages(file) => return read_messages(file),
        ChatSettings::Question { system, images, videos, text } => (system, images, videos, text),
    };
    let open = |p| image::open_with(p, Alpha::OverWhite);
    let images = images.iter().map(open).collect::<Result<Vec<_>>>()?;
    let video = |path: &PathBuf| {
        let source = VideoSource::Path(path.clone());
        source.check().map(|()| VideoRef { source, meta: VideoMeta::default() })
    };
    let videos = videos.iter().map(video).collect::<Result<Vec<_>>>()?;
    let mut content: Vec<Part> = (0..images.len()).map(Part::Image).collect();
    content.extend((0..videos.len()).map(Part::Video));
    content.push(Part::Text(text.clone()));
    let system = system.as_ref().map(|s| text_or_file("system_prompt", s)).transpose()?;
    let system = system.map(|s| Message::text("system", s));
    let question = Message { role: "user".into(), content };
    Ok((
        system.into_iter().chain([question]).collect(),
        Media { images, videos, ..Media::default() },
    ))
}

/// Answers a chat; with `out`, writes one JSON object per answer to it.
///
/// # Errors
/// If model or chat cannot be read, the chat does not fit the model or the memory, or the file cannot
/// be written.
pub fn infer(s: &InferSettings) -> Result<Vec<Answer>> {
    let (messages, media) = read_chat(&s.chat)?;
    let mut prepared = Prepared::read(&s.model, &s.machine)?;
    prepared.bound_prompts(None, s.sampling.max_completion_length)?;
    let w = prepared.open(&s.model, &s.machine, s.seed)?;
    let prompt = Arc::new(w.encoder.encode(&messages, &media, true)?);
    let draws = Draws { per_prompt: s.num_samples, ..Draws::default() };
    let made = generate(&w, &rollout_settings(&w, &s.sampling, s.seed), &[prompt], draws, None)?;
    let tokenizer = &w.encoder.chat.tokenizer;
    let answer = |completion: Completion| Answer {
        text: tokenizer.decode(&completion.ids, true),
        completion,
    };
    let answers: Vec<Answer> = made.completions.into_iter().flatten().map(answer).collect();
    if let Some(out) = &s.out {
        write(out, &answers)?;
    }
    Ok(answers)
}

fn write(file: &Path, answers: &[Answer]) -> Result<()> {
    let line = |a: &Answer| {
        let c = &a.completion;
        let reason = match c.finish {
            Finish::Eos => "eos",
            Finish::Stop => "stop",
            Finish::Length => "length",
        };
        let line = json!({
            "text": a.text,
            "tokens": c.ids,
            "logps": c.logps,
            "finish_reason": reason,
        });
        format!("{line}\n")
    };
    std::fs::write(file, answers.iter().map(line).collect::<String>())
        .map_err(|e| Error::io("cannot write the answers", file, &e).key("out"))
        .map_err(|e| e.hint("give a file in a folder that exists and can be written"))
}
