//! Chats that are answered once: from the command line, a file of messages, or rows of a data file. Says what
//! each is about and makes its prompt when it is its turn, so that thousands of pictures are never in
//! memory together. What cannot be read costs its own chat alone.

use crate::base::{Error, Result};
use crate::io::dataset::{self, DatasetOptions, Message, Part, Row, VideoMeta, VideoRef};
use crate::io::image;
use crate::io::remote::{Remote, RemoteRules, is_url};
use crate::io::video::VideoSource;
use crate::model::prompt::Prompt;
use crate::settings::ChatSettings;
use crate::settings::tasks::text_or_file;
use crate::train::generation::question;
use crate::train::prompts::{Media, PromptEncoder, read_messages};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What an image by address may take.
const FETCH: RemoteRules =
    RemoteRules { private: true, time: Duration::from_secs(60), bytes: 64 << 20 };
/// Endings of files that are pictures, in a folder of which every picture is asked about.
const PICTURES: [&str; 6] = ["png", "jpg", "jpeg", "webp", "gif", "bmp"];

/// A chat that is to be answered.
#[derive(Debug)]
pub struct Chat {
    /// The last text of the user.
    pub text: String,
    /// Files and addresses of its images and videos.
    pub media: Vec<String>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// As a file says it; images are decoded.
    Messages(Vec<Message>, Media),
    /// Images are read when it is their turn.
    Question(Vec<Message>, Vec<VideoRef>),
    Row(Box<Row>),
}

/// Chats, and what could not be read of them.
#[derive(Debug, Default)]
pub struct Chats {
    /// In order.
    pub chats: Vec<Chat>,
    /// Errors of rows.
    pub bad: Vec<Error>,
}

impl Chat {
    /// What it is about, in one line: its media, or its text.
    pub fn about(&self) -> String {
        let shown: String = self.text.split_whitespace().collect::<Vec<_>>().join(" ");
        let shown: String = shown.chars().take(80).collect();
        match self.media.is_empty() {
            true => shown,
            false => format!("{}: {shown}", self.media.join(", ")),
        }
    }

    /// Its prompt.
    ///
    /// # Errors
    /// If an image or video cannot be read, or the chat does not fit the model.
    pub fn encode(&self, encoder: &PromptEncoder) -> Result<Prompt> {
        match &self.content {
            Content::Messages(messages, media) => encoder.encode(messages, media, true),
            Content::Row(row) => encoder.encode_row(row),
            Content::Question(messages, videos) => {
                let images = &self.media[..self.media.len() - videos.len()];
                let files = images.iter().map(|i| read(i)).collect::<Result<Vec<_>>>()?;
                let names = images.iter().map(String::as_str);
                let files: Vec<(&str, &[u8])> =
                    names.zip(files.iter().map(Vec::as_slice)).collect();
                encoder.encode_files(messages, &files, videos)
            }
        }
    }
}

/// The bytes of an image.
fn read(place: &str) -> Result<Vec<u8>> {
    match is_url(place) {
        true => Remote::new(FETCH).get(place),
        false => image::read_file(Path::new(place)),
    }
}

impl Chats {
    /// The chats that the settings name.
    ///
    /// # Errors
    /// If a file of messages or rows cannot be read at all, or a folder has no pictures.
    pub fn read(settings: &ChatSettings) -> Result<Chats> {
        match settings {
            ChatSettings::Messages(file) => {
                let (messages, media) = read_messages(file)?;
                let text = last_text(&messages);
                let content = Content::Messages(messages, media);
                let media = vec![file.display().to_string()];
                Ok(Chats { chats: vec![Chat { text, media, content }], bad: Vec::new() })
            }
            ChatSettings::Rows { system, file } => rows(system.as_ref(), file),
            ChatSettings::Questions { system, images, videos, texts } => {
                questions(system.as_ref(), images, videos, texts)
            }
        }
    }
}

fn last_text(messages: &[Message]) -> String {
    let last = messages.iter().rev().find(|m| m.role == "user");
    let parts = last.map(|m| m.content.as_slice()).unwrap_or_default();
    let text = |p: &Part| if let Part::Text(t) = p { Some(t.clone()) } else { None };
    parts.iter().filter_map(text).collect()
}

fn rows(system: Option<&String>, file: &Path) -> Result<Chats> {
    let options = DatasetOptions {
        system_prompt: system.map(|s| text_or_file("system_prompt", s)).transpose()?,
        unanswered: true,
        ..DatasetOptions::default()
    };
    let loaded = dataset::load(&file.display().to_string(), &options)?;
    let chat = |row: Row| {
        let images = row.images.iter().map(|i| i.name());
        let videos = row.videos.iter().map(|v| v.source.name());
        let media = images.chain(videos).collect();
        Chat { text: question(&row), media, content: Content::Row(Box::new(row)) }
    };
    let chats = loaded.rows.into_iter().map(chat).collect();
    Ok(Chats { chats, bad: loaded.skipped })
}

fn questions(
    system: Option<&String>,
    images: &[String],
    videos: &[PathBuf],
    texts: &[String],
) -> Result<Chats> {
    let video = |path: &PathBuf| {
        let source = VideoSource::Path(path.clone());
        source.check().map(|()| VideoRef { source, meta: VideoMeta::default() })
    };
    let videos = videos.iter().map(video).collect::<Result<Vec<_>>>()?;
    let names = videos.iter().map(|v| v.source.name());
    let system = system.map(|s| text_or_file("system_prompt", s)).transpose()?;
    let mut chats = Vec::new();
    for images in together(images)? {
        for text in texts {
            let mut content: Vec<Part> = (0..images.len()).map(Part::Image).collect();
            content.extend((0..videos.len()).map(Part::Video));
            content.push(Part::Text(text.clone()));
            let asked = Message { role: "user".into(), content };
            let before = system.as_ref().map(|s| Message::text("system", s.as_str()));
            let content =
                Content::Question(before.into_iter().chain([asked]).collect(), videos.clone());
            let media = images.iter().cloned().chain(names.clone()).collect();
            chats.push(Chat { text: text.clone(), media, content });
        }
    }
    Ok(Chats { chats, bad: Vec::new() })
}

/// Images that are shown together: all of them, or, where a folder is among them, each by itself.
fn together(images: &[String]) -> Result<Vec<Vec<String>>> {
    let is_folder = |place: &String| !is_url(place) && Path::new(place).is_dir();
    if !images.iter().any(is_folder) {
        return Ok(vec![images.to_vec()]);
    }
    let mut all = Vec::new();
    for place in images {
        match is_folder(place) {
            true => all.extend(pictures(Path::new(place))?),
            false => all.push(place.clone()),
        }
    }
    Ok(all.into_iter().map(|one| vec![one]).collect())
}

/// The pictures in a folder, by name.
fn pictures(dir: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io("cannot read", dir, &e))?;
    let is_picture = |p: &PathBuf| {
        let ending = p.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
        p.is_file() && ending.is_some_and(|e| PICTURES.contains(&e.as_str()))
    };
    let paths = entries.flatten().map(|e| e.path()).filter(is_picture);
    let mut names: Vec<String> = paths.map(|p| p.display().to_string()).collect();
    names.sort();
    match names.is_empty() {
        false => Ok(names),
        true => Err(Error::data("the folder has no pictures")
            .file(dir)
            .key("image")
            .expected(format!("files that end in {}", PICTURES.join(", ")))),
    }
}
