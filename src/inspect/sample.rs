//! Prompts as a model sees them: token ids taken apart again into text, control tokens and pictures in
//! the size that the processor makes of them. Without a model, the turns of the row. Never fails: what
//! cannot be shown says why.

use super::Reader;
use super::texts::{cut, question_of};
use crate::base::Result;
use crate::io::data_url::data_url;
use crate::io::dataset::{Part, Row, VideoRef};
use crate::io::image::{Alpha, Filter, Image, encode_jpeg, encode_png, pillow_resize};
use crate::io::video::Video;
use crate::model::processor::Visual;
use crate::model::prompt::Prompt;
use std::collections::HashMap;

/// Longest text of a piece, in characters: a page must stay one.
const LONG: usize = 20_000;
/// Longest value of a column.
const VALUE: usize = 4_000;
/// Up to this many pixels a picture is shown without loss.
const SMALL: usize = 256 * 256;
/// Longest side of a picture where no model says its size.
const SIDE: usize = 448;

/// A row as it is shown.
pub(super) struct Sample {
    /// Its data file.
    pub(super) file: String,
    /// Its number.
    pub(super) row: usize,
    /// Its name.
    pub(super) id: String,
    /// Its question in one line.
    pub(super) question: String,
    /// The prompt.
    pub(super) pieces: Vec<Piece>,
    /// Why there is no prompt.
    pub(super) problem: Option<String>,
    /// Tokens of the prompt, and how many stand for images and videos.
    pub(super) tokens: Option<(usize, usize)>,
    /// The reference answer.
    pub(super) answer: String,
    /// Every column.
    pub(super) columns: Vec<(String, String)>,
}

/// A piece of a prompt.
pub(super) enum Piece {
    /// Who speaks; only where no chat template says it.
    Role(String),
    /// Text of ordinary tokens.
    Text(String),
    /// A control token.
    Control(String),
    /// An image, or the first frame of a video.
    Picture(Picture),
    /// Further tokens that stand for a part of the visual before.
    More(usize),
}

/// A picture with what is said of it.
pub(super) struct Picture {
    /// As a data URI; `None` where it cannot be shown.
    pub(super) uri: Option<String>,
    /// Width and height as the model gets it.
    pub(super) size: (usize, usize),
    /// What it is.
    pub(super) caption: String,
}

/// The row as a model sees it, or as it stands in the file.
pub(super) fn of(row: &Row, reader: Option<&Reader>) -> Sample {
    let made = match reader {
        None => turns(row).map(|pieces| (pieces, None)),
        Some(reader) => prompt(row, reader).map(|(pieces, tokens)| (pieces, Some(tokens))),
    };
    let (pieces, tokens, problem) = match made {
        Ok((pieces, tokens)) => (pieces, tokens, None),
        Err(e) => (Vec::new(), None, Some(e.to_string())),
    };
    let value = |v: &serde_json::Value| match v {
        serde_json::Value::String(text) => cut(text, VALUE),
        other => cut(&format!("{other:#}"), VALUE),
    };
    Sample {
        file: row.file.display().to_string(),
        row: row.row,
        id: row.id.clone(),
        question: cut(&question_of(row).replace('\n', " "), 200),
        pieces,
        problem,
        tokens,
        answer: cut(&row.answer, LONG),
        columns: row.columns.iter().map(|(name, v)| (name.clone(), value(v))).collect(),
    }
}

/// The turns of a row.
fn turns(row: &Row) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    for message in &row.messages {
        pieces.push(Piece::Role(message.role.clone()));
        for part in &message.content {
            pieces.push(match part {
                Part::Text(text) => Piece::Text(cut(text, LONG)),
                Part::Image(i) => {
                    let image = row.images[*i].open(Alpha::OverWhite)?;
                    let longest = image.width.max(image.height).max(SIDE);
                    let scaled = |side: usize| (side * SIDE / longest).max(1);
                    let size = (scaled(image.width), scaled(image.height));
                    let original = format!("{} x {}", image.width, image.height);
                    let caption = format!("{}, {original}", row.images[*i].name());
                    Piece::Picture(picture(&image, size, caption)?)
                }
                Part::Video(i) => Piece::Picture(video(&row.videos[*i], None)?),
            });
        }
    }
    Ok(pieces)
}

/// The tokens of a row's prompt, taken apart.
fn prompt(row: &Row, reader: &Reader) -> Result<(Vec<Piece>, (usize, usize))> {
    let images = row.images.iter().map(|i| i.open(Alpha::OverWhite)).collect::<Result<Vec<_>>>()?;
    let sizes: Vec<(usize, usize)> = images.iter().map(|i| (i.width, i.height)).collect();
    let prompt = reader.encoder.measure_row(row, &sizes)?;
    let parts = row.messages.iter().flat_map(|m| &m.content);
    let shown = parts.filter(|p| !matches!(p, Part::Text(_)));
    let mut pictures = Vec::new();
    for (part, visual) in shown.zip(&prompt.visuals) {
        pictures.push(match part {
            Part::Image(i) => {
                let caption = format!(
                    "{}: {} x {}, seen as {}",
                    row.images[*i].name(),
                    visual.original.0,
                    visual.original.1,
                    seen(visual)
                );
                picture(&images[*i], visual.resized, caption)?
            }
            Part::Video(i) => video(&row.videos[*i], Some(visual))?,
            Part::Text(_) => continue,
        });
    }
    let pieces = pieces(&prompt, pictures, reader);
    Ok((pieces, (prompt.len(), prompt.visual_tokens())))
}

/// Size and tokens of a visual.
fn seen(visual: &Visual) -> String {
    let (width, height) = visual.resized;
    format!("{width} x {height}, {} tokens", visual.rows())
}

/// Walks the ids: runs of visuals where the prompt says that they begin, control tokens by their ids,
/// and the text of what is between.
fn pieces(prompt: &Prompt, pictures: Vec<Picture>, reader: &Reader) -> Vec<Piece> {
    let tokenizer = &reader.encoder.chat.tokenizer;
    let control: HashMap<u32, &str> =
        tokenizer.special_tokens().iter().map(|(id, text)| (*id, text.as_str())).collect();
    let visuals = prompt.visuals.iter().zip(pictures).flat_map(|(visual, picture)| {
        let mut picture = Some(picture);
        visual.runs.iter().map(move |run| (run.tokens, picture.take()))
    });
    let mut runs = prompt.starts.iter().zip(visuals).peekable();
    let (mut out, mut text) = (Vec::new(), Vec::new());
    let flush = |text: &mut Vec<u32>, out: &mut Vec<Piece>| {
        if !text.is_empty() {
            out.push(Piece::Text(cut(&tokenizer.decode(text, false), LONG)));
            text.clear();
        }
    };
    let mut at = 0;
    while let Some(id) = prompt.ids.get(at) {
        if let Some((_, (tokens, picture))) = runs.next_if(|(start, _)| **start == at) {
            flush(&mut text, &mut out);
            out.push(picture.map_or(Piece::More(tokens), Piece::Picture));
            at += tokens.max(1);
            continue;
        }
        match control.get(id) {
            Some(token) => {
                flush(&mut text, &mut out);
                out.push(Piece::Control((*token).to_owned()));
            }
            None => text.push(*id),
        }
        at += 1;
    }
    flush(&mut text, &mut out);
    out
}

/// An image in a size, as a data URI.
fn picture(image: &Image, size: (usize, usize), caption: String) -> Result<Picture> {
    let scaled;
    let pixels = if size == (image.width, image.height) {
        image
    } else {
        scaled = pillow_resize::pillow_resize(image, size.0, size.1, Filter::Bicubic)?;
        &scaled
    };
    let (kind, bytes) = if size.0 * size.1 <= SMALL {
        ("png", encode_png(pixels)?)
    } else {
        ("jpeg", encode_jpeg(pixels, 90)?)
    };
    let uri = Some(data_url(kind, &bytes));
    Ok(Picture { uri, size, caption })
}

/// The first frame of a video, in the size of the model's frames.
fn video(video: &VideoRef, visual: Option<&Visual>) -> Result<Picture> {
    let opened = Video::open(&video.source, video.meta.raw_fps)?;
    let frame = opened.frames(&[0])?;
    let info = &opened.info;
    let name = video.source.path().display();
    let length = format!("{name}: {} frames, {:.2} s", info.frames, info.duration);
    let longest = info.width.max(info.height).max(SIDE);
    let scaled = |side: usize| (side * SIDE / longest).max(1);
    let (size, caption) = match visual {
        Some(visual) => (visual.resized, format!("{length}, seen as frames of {}", seen(visual))),
        None => ((scaled(info.width), scaled(info.height)), length),
    };
    match frame.first() {
        Some(first) => picture(first, size, caption),
        None => Ok(Picture { uri: None, size, caption }),
    }
}
