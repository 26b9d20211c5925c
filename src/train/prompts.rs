//! Rows and chats to prompts: images and frames of videos are read and processed, the chat rendered and
//! tokenised, positions assigned, lengths checked. A row that cannot be read is an error that names it;
//! nothing here knows weights. Rows are encoded by several threads, and those that decode at a time share a
//! bound on the pixels that are in memory.

use crate::base::{Error, Result};
use crate::io::dataset::{ImageRef, Message, Part, PixelLimits, Row, VideoRef, video_of_part};
use crate::io::image::{self, Alpha, Image};
use crate::io::text::tokenizer::Tokenizer;
use crate::io::video::Video;
use crate::model::config::VlmConfig;
use crate::model::positions::PositionRule;
use crate::model::processor::chat::ChatEncoder;
use crate::model::processor::{Clip, Visual, VisualProcessor, VisualText};
use crate::model::prompt::Prompt;
use crate::settings::{ModelSettings, VideoSettings};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::ScopedJoinHandle;

/// What the parts of a chat show, by their numbers.
#[derive(Debug, Clone, Default)]
pub struct Media {
    /// Images, decoded.
    pub images: Vec<Image>,
    /// Videos; their frames are decoded when the prompt is made.
    pub videos: Vec<VideoRef>,
    /// Limits of the images that go before those of the processor.
    pub pixels: PixelLimits,
}

/// Turns rows into prompts.
#[derive(Debug)]
pub struct PromptEncoder {
    /// Messages to token ids.
    pub chat: ChatEncoder,
    /// Images and videos to patches.
    pub visuals: Box<dyn VisualProcessor>,
    /// Longest prompt that is accepted, in tokens.
    pub max_prompt_length: Option<usize>,
    /// Positions that the model's context leaves to a prompt, and those that it leaves to a
    /// completion.
    pub(super) max_positions: Option<(usize, usize)>,
    positions: PositionRule,
    video: VideoSettings,
    decoding: Gate,
}

impl PromptEncoder {
    /// Reads tokenizer, chat template and image processor of a model folder.
    ///
    /// # Errors
    /// If one of them is missing or broken.
    pub fn open(settings: &ModelSettings, config: &VlmConfig) -> Result<Self> {
        let dir = &settings.path;
        let tokenizer = Tokenizer::from_dir(dir)?;
        let family = config.family;
        let template = family.template(dir, config)?;
        let chat = ChatEncoder::new(tokenizer, template, &config.tokens, family.end_of_turn())
            .map_err(|e| e.file(dir.join("tokenizer.json")))?;
        let visuals = family.processor(Some(dir), config, &settings.processor)?;
        check_fit(config, &*visuals).map_err(|e| e.file(dir))?;
        Ok(PromptEncoder {
            chat,
            visuals,
            max_prompt_length: None,
            max_positions: None,
            positions: config.positions,
            video: settings.video.clone(),
            decoding: Gate::new(DECODED_BYTES),
        })
    }

    /// Positions that a prompt may have; all there are if nothing bounds them.
    pub fn max_positions(&self) -> usize {
        self.max_positions.map_or(usize::MAX, |(room, _)| room)
    }

    /// Encodes messages with their images and videos, ending where the assistant begins, or with the
    /// last turn complete.
    ///
    /// # Errors
    /// If an image or video cannot be processed, placeholders and visuals do not match, or the prompt is
    /// longer than allowed (prompts with images are never cut).
    pub fn encode(&self, messages: &[Message], media: &Media, open_turn: bool) -> Result<Prompt> {
        let visual = |part: &Part| match part {
            Part::Text(_) => None,
            Part::Image(i) => {
                let PixelLimits { min, max } = media.pixels;
                Some(self.visuals.image_within(&media.images[*i], min, max))
            }
            Part::Video(i) => Some(self.video(&media.videos[*i])),
        };
        let parts = messages.iter().flat_map(|m| &m.content);
        let processed: Vec<Arc<Visual>> =
            parts.filter_map(visual).map(|v| v.map(Arc::new)).collect::<Result<_>>()?;
        let prompt = self.assemble(messages, processed, open_turn)?;
        self.check_length(&prompt)?;
        Ok(prompt)
    }

    /// The chat around visuals that were processed, whatever its length.
    fn assemble(
        &self,
        messages: &[Message],
        processed: Vec<Arc<Visual>>,
        open_turn: bool,
    ) -> Result<Prompt> {
        let texts: Vec<VisualText> = processed.iter().map(|v| self.visuals.text(v)).collect();
        let encoded = self.chat.encode(messages, &texts, open_turn)?;
        let (ids, starts) = (encoded.ids, encoded.starts);
        Prompt::new(ids, processed, starts, self.positions, encoded.text)
    }

    fn check_length(&self, prompt: &Prompt) -> Result<()> {
        if let Some(limit) = self.max_prompt_length
            && prompt.len() > limit
        {
            return Err(Error::data("the prompt is longer than max_prompt_length")
                .expected(format!("at most {limit} tokens"))
                .found(format!("{} tokens, {} of images", prompt.len(), prompt.visual_tokens()))
                .hint(format!(
                    "raise --max_prompt_length to {} or lower --max_pixels; prompts are never cut",
                    prompt.len()
                )));
        }
        if let Some((limit, completion)) = self.max_positions
            && prompt.next_position as usize > limit
        {
            let excess = prompt.next_position as usize - limit;
            let shorter = match completion.checked_sub(excess).filter(|rest| *rest > 0) {
                Some(rest) => format!("lower --max_completion_length to {rest} or"),
                None => "shorten the row, or lower".into(),
            };
            return Err(Error::data("the prompt is longer than the model's context allows")
                .expected(format!(
                    "at most {limit} positions: max_position_embeddings less max_completion_length"
                ))
                .found(format!("{} positions", prompt.next_position))
                .hint(format!("{shorter} --max_pixels; prompts are never cut")));
        }
        Ok(())
    }

    /// The prompt of a row whose images are known by width and height alone: what
    /// [`PromptEncoder::encode_row`] makes, without patches of images and whatever its length. Frames of
    /// videos are read, for only then is known what the model would see of them.
    ///
    /// # Errors
    /// If an image of that size or a video cannot be processed, or the chat cannot be rendered.
    pub fn measure_row(&self, row: &Row, sizes: &[(usize, usize)]) -> Result<Prompt> {
        let visual = |part: &Part| match part {
            Part::Text(_) => None,
            Part::Image(i) => Some(self.visuals.image_shape_within(sizes[*i], row.pixels)),
            Part::Video(i) => Some(self.video(&row.videos[*i])),
        };
        let parts = row.messages.iter().flat_map(|m| &m.content);
        let processed = parts.filter_map(visual).map(|v| v.map(Arc::new)).collect::<Result<_>>()?;
        self.assemble(&row.messages, processed, true)
    }

    /// Chooses, reads and processes the frames of a video: what the row says goes before the options,
    /// and these before the model's own rule.
    fn video(&self, video: &VideoRef) -> Result<Visual> {
        let (meta, rule) = (&video.meta, self.visuals.sampling()?);
        let rule = rule.with(&meta.wishes().or(&self.video.wishes()))?;
        let source = Video::open(&video.source, meta.raw_fps)?;
        let indices = rule.indices_within(&source.info, meta.video_start, meta.video_end)?;
        let frames = source.frames(&indices)?;
        self.visuals.video(&Clip {
            frames: &frames,
            indices: &indices,
            info: &source.info,
            min_pixels: meta.min_pixels.or(self.video.min_pixels),
            max_pixels: meta.max_pixels.or(self.video.max_pixels),
            total_pixels: meta.total_pixels,
        })
    }

    /// Encodes the prompt of a data set's row.
    ///
    /// # Errors
    /// As [`PromptEncoder::encode`], with the row's file and number.
    pub fn encode_row(&self, row: &Row) -> Result<Prompt> {
        let go = || {
            let read = |i: &ImageRef| i.bytes().map(|bytes| (i.name(), bytes));
            let files = row.images.iter().map(read).collect::<Result<Vec<_>>>()?;
            let files: Vec<(&str, &[u8])> =
                files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
            self.encode_bounded(&row.messages, &files, &row.videos, row.pixels)
        };
        go().map_err(|e| e.file(&row.file).row(row.row))
    }

    /// Encodes a chat whose images are files in memory, each with a name for errors, ending where the
    /// assistant begins. Threads that do so at a time share a bound on decoded pixels.
    ///
    /// # Errors
    /// As [`PromptEncoder::encode`].
    pub fn encode_files(
        &self,
        messages: &[Message],
        files: &[(&str, &[u8])],
        videos: &[VideoRef],
    ) -> Result<Prompt> {
        self.encode_bounded(messages, files, videos, PixelLimits::default())
    }

    fn encode_bounded(
        &self,
        messages: &[Message],
        files: &[(&str, &[u8])],
        videos: &[VideoRef],
        pixels: PixelLimits,
    ) -> Result<Prompt> {
        let mut need = videos.len() as u64 * VIDEO_BYTES;
        for (name, bytes) in files {
            let (w, h) = image::dimensions(bytes).map_err(|e| e.at(*name))?;
            need = need.saturating_add(u64::from(w) * u64::from(h) * PIXEL_BYTES);
        }
        let _pass = self.decoding.pass(need);
        let decode = |(name, bytes): &(&str, &[u8])| {
            image::decode_with(bytes, Alpha::OverWhite).map_err(|e| e.at(*name))
        };
        let images = files.iter().map(decode).collect::<Result<Vec<_>>>()?;
        self.encode(messages, &Media { images, videos: videos.to_vec(), pixels }, true)
    }

    /// Encodes the prompts of rows, several at a time; the result is that of one after another.
    pub fn encode_rows(&self, rows: &[&Row]) -> Vec<Result<Prompt>> {
        let threads = rayon::current_num_threads().min(rows.len()).min(MAX_DECODERS);
        if threads <= 1 {
            return rows.iter().map(|r| self.encode_row(r)).collect();
        }
        let next = AtomicUsize::new(0);
        // Threads of their own: one that waits at the gate must not hold work of the pool, which the one
        // behind the gate may need.
        let mut done: Vec<(usize, Result<Prompt>)> = std::thread::scope(|scope| {
            let work = || {
                let mut mine = Vec::new();
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(row) = rows.get(i) else { return mine };
                    mine.push((i, self.encode_row(row)));
                }
            };
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let join = |w: ScopedJoinHandle<Vec<_>>| match w.join() {
                Ok(mine) => mine,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            workers.into_iter().flat_map(join).collect()
        });
        done.sort_by_key(|(i, _)| *i);
        done.into_iter().map(|(_, prompt)| prompt).collect()
    }
}

/// Threads that decode at a time.
const MAX_DECODERS: usize = 8;
/// Bytes that decoded images of all threads may have together; a row that needs more is decoded alone.
const DECODED_BYTES: u64 = 1 << 30;
/// Bytes of a pixel while it is decoded and resized: RGBA of 16 bits, and RGB.
const PIXEL_BYTES: u64 = 12;
/// What the frames of a video are taken for.
const VIDEO_BYTES: u64 = 128 << 20;

/// Lets threads pass as long as what they need together stays within a bound.
#[derive(Debug)]
struct Gate {
    room: u64,
    free: Mutex<u64>,
    freed: Condvar,
}

/// What a thread has taken; given back when it is dropped.
struct Pass<'a> {
    gate: &'a Gate,
    taken: u64,
}

impl Gate {
    fn new(room: u64) -> Self {
        Gate { room, free: Mutex::new(room), freed: Condvar::new() }
    }

    /// Waits until there is room.
    fn pass(&self, need: u64) -> Pass<'_> {
        let taken = need.min(self.room);
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = self.freed.wait_while(free, |free| *free < taken);
        *wait.unwrap_or_else(PoisonError::into_inner) -= taken;
        Pass { gate: self, taken }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        *self.gate.free.lock().unwrap_or_else(PoisonError::into_inner) += self.taken;
        self.gate.freed.notify_all();
    }
}

/// Sees whether the processor's patches and tokens are those that the model was made for: the folder may
/// hold the files of two models.
fn check_fit(config: &VlmConfig, visuals: &dyn VisualProcessor) -> Result<()> {
    let patching = config.vision.patching();
    let side = 8 * patching.side * patching.merge; // divides into the model's patches
    let visual = visuals.image_shape(side, side)?;
    let made = (visual.patch_dim, visual.rows());
    let wanted = (config.vision.patch_values(), config.vision.feature_rows(visual.grid_thw));
    if made == wanted {
        return Ok(());
    }
    let words = |(values, tokens)| {
        format!("patches of {values} values, {tokens} tokens for {side} x {side}")
    };
    Err(Error::data("the image processor does not fit the model")
        .expected(format!("{} (config.json)", words(wanted)))
        .found(format!("{} (the processor's settings)", words(made)))
        .hint("config.json and the processor's files are not of one model; fetch them again"))
}

/// Reads a JSON file of chat messages in Hugging Face's format (`content` a text, or a list of
/// `{"type":"text","text":…}`, `{"type":"image","image":path}` and `{"type":"video","video":path}`;
/// paths relative to the file; a video part may say how its frames are taken, as in a data row).
///
/// # Errors
/// If the file, an image or a video cannot be read, or a part is of another type.
pub fn read_messages(file: &Path) -> Result<(Vec<Message>, Media)> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| Error::io("cannot read the messages", file, &e))?;
    let list: Vec<serde_json::Value> = serde_json::from_str(&text).map_err(|e| {
        Error::data("the messages are not a JSON list").file(file).found(e.to_string())
    })?;
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut media = Media::default();
    let mut messages = Vec::new();
    for (i, m) in list.iter().enumerate() {
        let at = format!("message {}", i + 1);
        let wrong = |what: &str| Error::data(what).file(file).at(at.clone());
        let role = m["role"].as_str().ok_or_else(|| wrong("a message has no role"))?;
        let content = match &m["content"] {
            serde_json::Value::String(s) => vec![Part::Text(s.clone())],
            serde_json::Value::Array(parts) => parts
                .iter()
                .map(|part| read_part(part, folder, &at, &mut media).map_err(|e| e.file(file)))
                .collect::<Result<_>>()?,
            other => {
                return Err(wrong("a message has no content")
                    .expected("a text or a list of parts")
                    .found(other.to_string()));
            }
        };
        messages.push(Message { role: role.into(), content });
    }
    Ok((messages, media))
}

/// One part of a message; images and videos go to the end of `media`.
fn read_part(part: &serde_json::Value, folder: &Path, at: &str, media: &mut Media) -> Result<Part> {
    if let Some(video) = video_of_part(part, folder)? {
        media.videos.push(video);
        return Ok(Part::Video(media.videos.len() - 1));
    }
    match (part["text"].as_str(), part["image"].as_str()) {
        (Some(text), _) => Ok(Part::Text(text.into())),
        (None, Some(path)) => {
            media.images.push(image::open_with(folder.join(path), Alpha::OverWhite)?);
            Ok(Part::Image(media.images.len() - 1))
        }
        _ => Err(Error::data("a part is neither text nor image nor video")
            .at(at)
            .expected(
                "{\"type\":\"text\",\"text\":…}, {\"type\":\"image\",\"image\":path} or \
                 {\"type\":\"video\",\"video\":path}",
            )
            .found(part.to_string())),
    }
}
