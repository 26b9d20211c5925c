//! One JSON object to one row: VLM-R1's `conversations`, `messages` with roles, and plain `question`
//! and `answer` columns. Nothing is guessed: markers must agree in number with images and videos.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::images::{self, Blob, MediaFolder, image_column, resolve};
use super::record::{Record, without_bytes};
use super::row_error::{RowResult, bad, kind_of};
use super::videos::{Named, named_part, resolve_video, video_column};
use super::{DatasetOptions, Message, Part, PixelLimits, Row, template};

/// The marker of an image in a text (LLaVA's and VLM-R1's habit).
const IMAGE: &str = "<image>";
/// The marker of a video in a text.
const VIDEO: &str = "<video>";
/// Columns that may hold the question of a plain row, in order of preference.
const QUESTION: [&str; 4] = ["question", "problem", "prompt", "query"];
/// Columns that may hold the reference answer, in order of preference.
const ANSWER: [&str; 2] = ["answer", "solution"];
/// Columns that may hold chat turns, in order of preference.
const TURNS: [&str; 3] = ["conversations", "messages", "prompt"];

/// Most bytes of the texts of a prompt, and of an answer. A book has a few hundred thousand.
const MAX_TEXT: usize = 1 << 20;

/// A piece of a turn before images and videos have numbers.
enum Piece {
    Text(String),
    /// Takes the next image of the image column.
    ImageMarker,
    /// Brings its own.
    Image(images::Named),
    /// Takes the next video of the video column.
    VideoMarker,
    /// Brings its own video.
    Video(Named),
}

struct Turn {
    role: &'static str,
    key: String,
    pieces: Vec<Piece>,
    /// The content as one text, if it was one: an assistant's is an answer, verbatim.
    text: Option<String>,
}

/// Makes a row, or says what is wrong with it.
pub(super) fn row_of(
    file: &Arc<Path>,
    number: usize,
    folder: &MediaFolder,
    record: Record,
    options: &DatasetOptions,
) -> RowResult<Row> {
    let (image_key, named_images) = image_column(&record)?;
    let Record { mut columns, blobs, .. } = record;
    let (video_key, named) = video_column(&columns)?;
    let mut turns = turns_of(&columns, &blobs)?;
    let answer = match take_answer(&columns, &mut turns) {
        Err(_) if options.unanswered => String::new(),
        found => found?,
    };
    if turns.last().is_none_or(|t| t.role != "user") {
        let key = turns.last().map_or("messages".to_owned(), |t| t.key.clone());
        return Err(bad("the row has no question before the answer", key)
            .expected("a turn of the user (\"human\" or \"user\") before the answer"));
    }
    check_length(&turns, &answer)?;
    // Images stand before videos where neither has a marker.
    let marks_video = |p: &Piece| matches!(p, Piece::VideoMarker);
    balance(&mut turns, VIDEO, marks_video, || Piece::VideoMarker, video_key, named.len())?;
    let marks_image = |p: &Piece| matches!(p, Piece::ImageMarker);
    let count = named_images.len();
    balance(&mut turns, IMAGE, marks_image, || Piece::ImageMarker, &image_key, count)?;
    if let (Some(template), Some(last)) = (options.question_template.as_deref(), turns.last_mut()) {
        apply_template(template, &columns, &mut last.pieces)?;
    }
    let (images, videos) = take_media(&mut turns, (&image_key, named_images), (video_key, named));
    let at = (file, number);
    let image = |(key, image): (String, images::Named)| resolve(folder, &key, image, at);
    let images = images.into_iter().map(image).collect::<RowResult<_>>()?;
    let videos = videos
        .into_iter()
        .map(|(key, v)| resolve_video(folder, &key, v))
        .collect::<RowResult<_>>()?;
    let mut messages = messages_of(turns);
    if let Some(system) = &options.system_prompt
        && messages.iter().all(|m| m.role != "system")
    {
        messages.insert(0, Message::text("system", system.as_str()));
    }
    let pixels = pixel_limits(&columns)?;
    columns.values_mut().for_each(without_bytes);
    let id = id_of(file, number, &columns);
    let file = file.to_path_buf();
    Ok(Row { file, row: number, id, images, videos, pixels, messages, answer, columns })
}

/// Column `id`, or the name of the file with the row's number.
fn id_of(file: &Path, number: usize, columns: &Map<String, Value>) -> String {
    match columns.get("id") {
        Some(Value::String(id)) => id.clone(),
        Some(id) if !id.is_null() => id.to_string(),
        _ => {
            let stem = file.file_stem().map(|s| s.to_string_lossy().into_owned());
            format!("{}-{number}", stem.unwrap_or_default())
        }
    }
}

/// Columns `min_pixels` and `max_pixels`, which go before the options of a run.
fn pixel_limits(columns: &Map<String, Value>) -> RowResult<PixelLimits> {
    let limit = |key: &str| match columns.get(key) {
        None | Some(Value::Null) => Ok(None),
        // JSON written by Python may have 8.0 for 8.
        Some(v) => match v.as_f64().filter(|n| *n >= 1.0 && *n < 1e15 && n.fract() == 0.0) {
            Some(n) => Ok(Some(n as u64)),
            None => Err(bad("a limit of an image's size is wrong", key)
                .expected("a whole number from 1")
                .found(v.to_string().chars().take(80).collect::<String>())),
        },
    };
    let limits = PixelLimits { min: limit("min_pixels")?, max: limit("max_pixels")? };
    match limits.min.zip(limits.max) {
        Some((min, max)) if min > max => {
            Err(bad("`min_pixels` is above `max_pixels`", "min_pixels")
                .expected(format!("at most {max}"))
                .found(min.to_string()))
        }
        _ => Ok(limits),
    }
}

/// A text of many megabytes is a mistake, and takes minutes to tokenise.
fn check_length(turns: &[Turn], answer: &str) -> RowResult<()> {
    let text = |p: &Piece| if let Piece::Text(t) = p { t.len() } else { 0 };
    let mut whole = 0;
    for turn in turns {
        whole += turn.pieces.iter().map(text).sum::<usize>();
        if whole > MAX_TEXT {
            return Err(bad("the question is too long", turn.key.as_str())
                .expected(format!("at most {MAX_TEXT} bytes of text"))
                .found(format!("{whole} bytes")));
        }
    }
    match answer.len() > MAX_TEXT {
        true => Err(bad("the answer is too long", "answer")
            .expected(format!("at most {MAX_TEXT} bytes"))
            .found(format!("{} bytes", answer.len()))),
        false => Ok(()),
    }
}

fn turns_of(columns: &Map<String, Value>, blobs: &[Blob]) -> RowResult<Vec<Turn>> {
    for key in TURNS {
        if let Some(Value::Array(list)) = columns.get(key) {
            return list
                .iter()
                .enumerate()
                .map(|(i, v)| turn_of(v, blobs, format!("{key}[{i}]")))
                .collect();
        }
    }
    for key in QUESTION {
        match columns.get(key) {
            Some(Value::String(text)) if !text.trim().is_empty() => {
                return Ok(vec![Turn {
                    role: "user",
                    key: key.to_owned(),
                    pieces: pieces_of(text),
                    text: Some(text.clone()),
                }]);
            }
            None | Some(Value::Null) => {}
            Some(other) => {
                return Err(bad("the question is not a text", key)
                    .expected("a string that is not empty")
                    .found(if other.is_string() { "an empty string" } else { kind_of(other) }));
            }
        }
    }
    Err(bad("the row has no question", "question")
        .expected("`question` and `answer`, or `conversations`, or `messages`")
        .found(format!("keys {}", columns.keys().cloned().collect::<Vec<_>>().join(", "))))
}

fn turn_of(value: &Value, blobs: &[Blob], key: String) -> RowResult<Turn> {
    let text_of = |names: [&str; 2]| names.iter().find_map(|n| value.get(*n));
    let role = match text_of(["from", "role"]).and_then(Value::as_str) {
        Some("human" | "user") => "user",
        Some("gpt" | "assistant") => "assistant",
        Some("system") => "system",
        other => {
            return Err(bad("a turn has no known role", format!("{key}.from"))
                .expected("human, gpt, user, assistant or system")
                .found(other.map_or("none".to_owned(), |r| format!("{r:?}"))));
        }
    };
    let content = text_of(["value", "content"]);
    let (pieces, text) = match content {
        Some(Value::String(text)) => (pieces_of(text), Some(text.clone())),
        Some(Value::Array(parts)) => (parts_of(parts, blobs, &key)?, None),
        // Boxes and numbers as answers (VLM-R1's detection sets) are kept as their JSON text.
        Some(other) if role == "assistant" && !other.is_null() => {
            (vec![Piece::Text(other.to_string())], Some(other.to_string()))
        }
        other => {
            return Err(bad("a turn has no content", format!("{key}.value"))
                .expected("a string or a list of parts")
                .found(other.map_or("nothing", kind_of)));
        }
    };
    // An assistant's list that is not of parts (a box) is an answer too.
    let text = text.or_else(|| match (role, content) {
        ("assistant", Some(list)) => Some(joined_text(&pieces).unwrap_or_else(|| list.to_string())),
        _ => None,
    });
    Ok(Turn { role, key, pieces, text })
}

fn joined_text(pieces: &[Piece]) -> Option<String> {
    let texts: Vec<&str> = pieces
        .iter()
        .filter_map(|p| match p {
            Piece::Text(t) => Some(t.as_str()),
            _ => None,
        })
        .collect();
    (!texts.is_empty()).then(|| texts.concat())
}

/// Splits a text at its markers; empty pieces vanish.
fn pieces_of(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = text;
    loop {
        let next = [(IMAGE, rest.find(IMAGE)), (VIDEO, rest.find(VIDEO))];
        let next = next.into_iter().filter_map(|(m, at)| Some((at?, m))).min();
        let (before, after) = match next {
            Some((at, marker)) => (&rest[..at], Some((marker, &rest[at + marker.len()..]))),
            None => (rest, None),
        };
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        let Some((marker, after)) = after else { return pieces };
        pieces.push(if marker == IMAGE { Piece::ImageMarker } else { Piece::VideoMarker });
        rest = after;
    }
}

/// Content lists of the `{"type": "image"}`, `{"type": "text", "text": ...}` form; a video part may
/// bring its own path (`{"type": "video", "video": path}`), as an image part may.
fn parts_of(parts: &[Value], blobs: &[Blob], key: &str) -> RowResult<Vec<Piece>> {
    let mut pieces = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        let kind = part.get("type").and_then(Value::as_str);
        if let Some(video) = named_part(part, &format!("{key}[{i}]"))? {
            pieces.push(Piece::Video(video));
        } else if kind == Some("video") {
            pieces.push(Piece::VideoMarker);
        } else if let Some(image) = image_of_part(part, blobs, &format!("{key}[{i}]"))? {
            pieces.push(Piece::Image(image));
        } else if kind == Some("image") {
            pieces.push(Piece::ImageMarker);
        } else if let Some(text) = part.get("text").and_then(Value::as_str) {
            pieces.extend(pieces_of(text));
        } else if part.is_number() || part.is_array() {
            return Ok(Vec::new()); // a box, not a list of parts
        } else {
            return Err(bad("a part of a turn is neither text nor image nor video", format!("{key}[{i}]"))
                .expected("{\"type\": \"text\", \"text\": ...}, {\"type\": \"image\"} or {\"type\": \"video\"}")
                .found(part.to_string().chars().take(80).collect::<String>()));
        }
    }
    Ok(pieces)
}

/// The image that a part brings: `image`, `path` or `url`, or the `image_url` of OpenAI's chats.
fn image_of_part(part: &Value, blobs: &[Blob], key: &str) -> RowResult<Option<images::Named>> {
    let address = part.get("image_url").map(|v| v.get("url").unwrap_or(v));
    let places = ["image", "path", "url"].into_iter().map(|k| part.get(k)).chain([address]);
    // Tables write a null, or an empty text, for every key that some part has.
    let given = |v: &&Value| !v.is_null() && *v != "";
    match places.flatten().find(given) {
        Some(v @ (Value::String(_) | Value::Object(_))) => images::named(v, blobs, key).map(Some),
        _ => Ok(None),
    }
}

/// The last assistant turn if it is the last of all (removed from `turns`), else a column.
fn take_answer(columns: &Map<String, Value>, turns: &mut Vec<Turn>) -> RowResult<String> {
    let (key, answer) = if let Some(turn) = turns.pop_if(|t| t.role == "assistant") {
        (turn.key, turn.text)
    } else {
        let key = ANSWER.into_iter().find(|k| columns.contains_key(*k)).unwrap_or(ANSWER[0]);
        let text = match columns.get(key) {
            Some(Value::String(text)) => Some(text.clone()),
            None | Some(Value::Null) => None,
            Some(other) => Some(other.to_string()),
        };
        (key.to_owned(), text)
    };
    match answer {
        Some(text) if !text.trim().is_empty() => Ok(text),
        found => Err(bad("the row has no answer", key)
            .expected("a reference answer that is not empty")
            .found(if found.is_some() { "an empty text" } else { "none" })
            .hint("rewards compare with it; remove the row or fill it in")),
    }
}

/// Sees that there are as many markers of a kind as `count`. Where there is none at all, they are
/// put before the first question, as VLM-R1 does it.
fn balance(
    turns: &mut [Turn],
    marker: &str,
    is_marker: fn(&Piece) -> bool,
    make: fn() -> Piece,
    key: &str,
    count: usize,
) -> RowResult<()> {
    let markers = turns.iter().flat_map(|t| &t.pieces).filter(|p| is_marker(p)).count();
    if markers == count {
        return Ok(());
    }
    if markers == 0
        && let Some(first) = turns.iter_mut().find(|t| t.role == "user")
    {
        first.pieces.splice(0..0, std::iter::repeat_with(make).take(count));
        return Ok(());
    }
    let word = if marker == IMAGE { "image" } else { "video" };
    Err(bad(&format!("{word} markers and {word}s do not match"), key)
        .expected(format!("as many {word}s as {marker} markers: {markers}"))
        .found(format!("{count} {word}s"))
        .hint(format!("put one {marker} per {word} in the text, or none at all")))
}

/// Things with the keys of the row that they are from.
type Keyed<T> = Vec<(String, T)>;

/// Images and videos in the order in which the turns use them.
fn take_media(
    turns: &mut [Turn],
    (image_key, paths): (&str, Vec<images::Named>),
    (video_key, named): (&str, Vec<Named>),
) -> (Keyed<images::Named>, Keyed<Named>) {
    let (mut paths, mut named) = (paths.into_iter(), named.into_iter());
    let (mut images, mut videos) = (Vec::new(), Vec::new());
    for turn in turns {
        for piece in &mut turn.pieces {
            match piece {
                Piece::Text(_) => {}
                Piece::ImageMarker => {
                    images.extend(paths.next().map(|p| (image_key.to_owned(), p)));
                }
                Piece::VideoMarker => {
                    videos.extend(named.next().map(|v| (video_key.to_owned(), v)));
                }
                Piece::Image(_) => {
                    // What is left behind says where the image was.
                    if let Piece::Image(i) = std::mem::replace(piece, Piece::ImageMarker) {
                        images.push((turn.key.clone(), i));
                    }
                }
                Piece::Video(_) => {
                    // What is left behind says where the video was.
                    if let Piece::Video(v) = std::mem::replace(piece, Piece::VideoMarker) {
                        videos.push((turn.key.clone(), v));
                    }
                }
            }
        }
    }
    (images, videos)
}

/// Wraps a question in the template. Images and videos that lead the question stay in front of
/// everything, as VLM-R1 has them; those inside of it stay where they are.
fn apply_template(
    template: &str,
    columns: &Map<String, Value>,
    pieces: &mut Vec<Piece>,
) -> RowResult<()> {
    let (before, after) = template::around(template, columns)?;
    let leading = pieces.iter().take_while(|p| !matches!(p, Piece::Text(_))).count();
    pieces.insert(leading, Piece::Text(before));
    pieces.push(Piece::Text(after));
    Ok(())
}

/// Numbers images and videos and joins neighbouring texts.
fn messages_of(turns: Vec<Turn>) -> Vec<Message> {
    let (mut images, mut videos) = (0.., 0..);
    let mut messages = Vec::new();
    for turn in turns {
        let mut content: Vec<Part> = Vec::new();
        for piece in turn.pieces {
            match (piece, content.last_mut()) {
                (Piece::Text(new), Some(Part::Text(text))) => text.push_str(&new),
                (Piece::Text(new), _) if new.is_empty() => {}
                (Piece::Text(new), _) => content.push(Part::Text(new)),
                (Piece::ImageMarker | Piece::Image(_), _) => {
                    content.extend(images.next().map(Part::Image));
                }
                (Piece::VideoMarker | Piece::Video(_), _) => {
                    content.extend(videos.next().map(Part::Video));
                }
            }
        }
        messages.push(Message { role: turn.role.to_owned(), content });
    }
    messages
}
