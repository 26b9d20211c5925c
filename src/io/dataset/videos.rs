//! Videos of a row: the columns `video` and `videos`, video parts of messages, and what `meta` or a
//! part says of how frames are taken. Only names and numbers are read here; no video is decoded.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::images::MediaFolder;
use super::row_error::{RowError, RowResult, bad, kind_of};
use crate::base::Error;
use crate::io::video::VideoSource;
use crate::io::video::sampling::{FrameCount, MAX_FRAMES};
use crate::io::video::wishes::FrameWishes;

/// A video of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoRef {
    /// Where it is; seen to exist.
    pub source: VideoSource,
    /// How its frames are taken, where the row says so.
    pub meta: VideoMeta,
}

/// What a row says of a video: the `meta` of data sets of action clips, and the keys that
/// qwen-vl-utils reads from a video part. They go before the options of the run, which go before the
/// model's processor. Keys that are not listed here are left to rewards (in [`super::Row::columns`]).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VideoMeta {
    /// `fps`: frames taken per second.
    pub fps: Option<f64>,
    /// `raw_fps` or `sample_fps`: frames per second of a folder or list of frames.
    pub raw_fps: Option<f64>,
    /// `nframes` or `num_frames`: frames taken.
    pub num_frames: Option<usize>,
    /// `min_frames`: least frames taken.
    pub min_frames: Option<usize>,
    /// `max_frames`: most frames taken.
    pub max_frames: Option<usize>,
    /// `video_start`: seconds at which the wanted part begins.
    pub video_start: Option<f64>,
    /// `video_end`: seconds at which the wanted part ends.
    pub video_end: Option<f64>,
    /// `min_pixels` of a frame.
    pub min_pixels: Option<usize>,
    /// `max_pixels` of a frame.
    pub max_pixels: Option<usize>,
    /// `total_pixels` of all frames together.
    pub total_pixels: Option<usize>,
    /// `frame_cnts`: frames of each action of the clip.
    pub frame_counts: Vec<usize>,
    /// `dynamic_sample`: the number of frames follows the clip's length.
    pub dynamic_sample: Option<bool>,
}

impl VideoMeta {
    /// What the row wants of the model's rule for frames. A number of frames goes before a rate.
    pub fn wishes(&self) -> FrameWishes {
        let rate = self.fps.map(FrameCount::PerSecond);
        let sum = self.frame_counts.iter().fold(0usize, |a, n| a.saturating_add(*n));
        FrameWishes {
            count: self.num_frames.map(FrameCount::Number).or(rate),
            min_frames: self.min_frames,
            max_frames: self.max_frames,
            dynamic: self.dynamic_sample,
            suggested: Some(sum.min(MAX_FRAMES)).filter(|n| *n > 0),
        }
    }
}

/// A video as a row names it, before its files are looked for.
pub(super) struct Named {
    source: VideoSource,
    meta: VideoMeta,
}

/// Endings of still pictures: a list of such files is the frames of one video. (GIF and WebP files may
/// be animations, so they are videos of their own.)
const STILLS: [&str; 4] = ["png", "jpg", "jpeg", "bmp"];

/// Videos of column `video` or `videos` with what `meta` says of them, and the column's name.
pub(super) fn video_column(columns: &Map<String, Value>) -> RowResult<(&'static str, Vec<Named>)> {
    let given = |key: &&str| columns.get(*key).is_some_and(|v| !v.is_null());
    let Some(key) = ["video", "videos"].into_iter().find(given) else {
        return Ok(("video", Vec::new()));
    };
    let sources = match &columns[key] {
        Value::Array(list) if !list.iter().all(is_still) || list.is_empty() => list
            .iter()
            .enumerate()
            .map(|(i, v)| source_of(v, &format!("{key}[{i}]")))
            .collect::<RowResult<Vec<_>>>()?,
        one => vec![source_of(one, key)?],
    };
    let metas: Vec<VideoMeta> = match columns.get("meta") {
        Some(Value::Object(meta)) => vec![meta_of(meta, "meta")?; sources.len()],
        Some(Value::Array(list)) if list.iter().all(Value::is_object) => {
            if list.len() != sources.len() {
                return Err(bad("`meta` and the videos do not match", "meta")
                    .expected(format!("one object, or as many as videos: {}", sources.len()))
                    .found(format!("{} objects", list.len())));
            }
            let one = |(i, v): (usize, &Value)| match v {
                Value::Object(meta) => meta_of(meta, &format!("meta[{i}]")),
                _ => Ok(VideoMeta::default()),
            };
            list.iter().enumerate().map(one).collect::<RowResult<_>>()?
        }
        // Any other `meta` is a column of the data set's own.
        _ => vec![VideoMeta::default(); sources.len()],
    };
    let named = sources.into_iter().zip(metas).map(|(source, meta)| Named { source, meta });
    Ok((key, named.collect()))
}

/// The video that a part such as `{"type": "video", "video": path, "fps": 1.0}` brings.
pub(super) fn named_part(part: &Value, key: &str) -> RowResult<Option<Named>> {
    let Some(object) = part.as_object() else { return Ok(None) };
    let names: &[&str] = match part.get("type").and_then(Value::as_str) {
        Some("video") => &["video", "path", "url"],
        // Tables write a null for every key that some part has.
        _ => &["video"],
    };
    let given = names.iter().find_map(|n| Some((n, object.get(*n).filter(|v| !v.is_null())?)));
    let Some((name, video)) = given else { return Ok(None) };
    let source = source_of(video, &format!("{key}.{name}"))?;
    Ok(Some(Named { source, meta: meta_of(object, key)? }))
}

/// The video that a part of a message brings (`{"type": "video", "video": path}`, with the keys of
/// [`VideoMeta`] beside it); paths are relative to `folder`. `None` for another part.
///
/// # Errors
/// Of kind data, with the key: a value that is wrong, or files that are not there.
pub fn video_of_part(part: &Value, folder: &Path) -> crate::base::Result<Option<VideoRef>> {
    let named = named_part(part, "part").map_err(RowError::without_row)?;
    let folder = MediaFolder::open(folder);
    named
        .map(|named| resolve_video(&folder, "part.video", named).map_err(RowError::without_row))
        .transpose()
}

fn is_still(value: &Value) -> bool {
    let ending = value.as_str().and_then(|p| Path::new(p).extension());
    ending.is_some_and(|e| STILLS.iter().any(|s| e.eq_ignore_ascii_case(s)))
}

/// A path, or a list of the paths of frames.
fn source_of(value: &Value, key: &str) -> RowResult<VideoSource> {
    let path = |v: &Value, key: &str| match v {
        Value::String(path) if !path.is_empty() => Ok(PathBuf::from(path)),
        // What `datasets` makes of a file that it did not take in.
        Value::Object(object) if object.get("bytes").is_some_and(Value::is_null) => {
            match object.get("path").and_then(Value::as_str).filter(|p| !p.is_empty()) {
                Some(path) => Ok(PathBuf::from(path)),
                None => Err(bad("a video has neither bytes nor a path", key)),
            }
        }
        other => Err(bad("a video is not a path", key)
            .expected("the path of a video or of a folder of frames, or a list of paths of frames")
            .found(if other == "" { "an empty string" } else { kind_of(other) })
            .hint("write the videos to files and name them in the row")),
    };
    match value {
        Value::Array(list) if list.is_empty() => Err(bad("a video has no frames", key)
            .expected("at least one path of a frame")
            .found("an empty list")),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .map(|(i, v)| path(v, &format!("{key}[{i}]")))
            .collect::<RowResult<_>>()
            .map(VideoSource::Frames),
        one => path(one, key).map(VideoSource::Path),
    }
}

/// Reads the keys of [`VideoMeta`]. A null is as good as no key.
fn meta_of(meta: &Map<String, Value>, key: &str) -> RowResult<VideoMeta> {
    let at = |name: &str| format!("{key}.{name}");
    let get = |name: &str| meta.get(name).filter(|v| !v.is_null());
    let number = |name: &str, least: f64| match get(name) {
        None => Ok(None),
        Some(v) => match v.as_f64().filter(|n| n.is_finite() && *n >= least) {
            Some(n) => Ok(Some(n)),
            None => Err(wrong(v, at(name), &format!("a number from {least}"))),
        },
    };
    let count = |name: &str| match get(name) {
        None => Ok(None),
        // JSON written by Python may have 8.0 for 8.
        Some(v) => match v.as_f64().filter(|n| *n >= 1.0 && *n < 1e15 && n.fract() == 0.0) {
            Some(n) => Ok(Some(n as usize)),
            None => Err(wrong(v, at(name), "a whole number from 1")),
        },
    };
    let rate = |name: &str| match number(name, 0.0)? {
        Some(0.0) => Err(wrong(&meta[name], at(name), "a number above 0")),
        other => Ok(other),
    };
    let first = |a: Option<f64>, b: Option<f64>| a.or(b);
    let parsed = VideoMeta {
        fps: rate("fps")?,
        raw_fps: first(rate("raw_fps")?, rate("sample_fps")?),
        num_frames: count("nframes")?.or(count("num_frames")?),
        min_frames: count("min_frames")?,
        max_frames: count("max_frames")?,
        video_start: number("video_start", 0.0)?,
        video_end: number("video_end", 0.0)?,
        min_pixels: count("min_pixels")?,
        max_pixels: count("max_pixels")?,
        total_pixels: count("total_pixels")?,
        frame_counts: match get("frame_cnts") {
            None => Vec::new(),
            Some(Value::Array(list)) => {
                let of = |v: &Value| v.as_u64().map(|n| n as usize);
                let counts: Option<Vec<usize>> = list.iter().map(of).collect();
                counts.ok_or_else(|| {
                    wrong(
                        &meta["frame_cnts"],
                        at("frame_cnts"),
                        "whole numbers that are not negative",
                    )
                })?
            }
            Some(other) => {
                return Err(wrong(other, at("frame_cnts"), "a list of numbers of frames"));
            }
        },
        dynamic_sample: match get("dynamic_sample") {
            None => None,
            Some(Value::Bool(dynamic)) => Some(*dynamic),
            Some(other) => return Err(wrong(other, at("dynamic_sample"), "true or false")),
        },
    };
    let above = |low: Option<usize>, high: Option<usize>| low.zip(high).is_some_and(|(a, b)| a > b);
    for (low, high, limits) in [
        ("min_frames", "max_frames", (parsed.min_frames, parsed.max_frames)),
        ("min_pixels", "max_pixels", (parsed.min_pixels, parsed.max_pixels)),
    ] {
        if above(limits.0, limits.1) {
            return Err(wrong(&meta[low], at(low), &format!("at most `{high}`, {}", meta[high])));
        }
    }
    Ok(parsed)
}

fn wrong(value: &Value, key: String, expected: &str) -> RowError {
    let found: String = value.to_string().chars().take(80).collect();
    bad("a setting of a video is wrong", key).expected(expected).found(found)
}

/// The video with its paths resolved and seen to exist; nothing is decoded.
pub(super) fn resolve_video(folder: &MediaFolder, key: &str, named: Named) -> RowResult<VideoRef> {
    let whole = |path: &PathBuf| folder.find("a video", key, &path.to_string_lossy());
    let source = match &named.source {
        VideoSource::Path(path) => VideoSource::Path(whole(path)?),
        VideoSource::Frames(list) => {
            VideoSource::Frames(list.iter().map(whole).collect::<RowResult<_>>()?)
        }
    };
    source.check().map_err(|e: Error| RowError { key: Some(key.into()), error: e })?;
    Ok(VideoRef { source, meta: named.meta })
}

#[cfg(test)]
mod tests {
    use super::super::{DatasetOptions, Part, Row, load};
    use super::*;

    /// A folder with videos v.mp4 and w.gif, frames 1.png and 2.png, the folders `clip` (one frame)
    /// and `none` (no frame), and these rows.
    fn rows(lines: &[String]) -> crate::base::Result<Vec<Row>> {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["clip", "none"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        for name in ["v.mp4", "w.gif", "1.png", "2.png", "clip/1.jpg", "none/notes.txt"] {
            std::fs::write(dir.path().join(name), b"not decoded here").unwrap();
        }
        std::fs::write(dir.path().join("empty.mp4"), b"").unwrap();
        let file = dir.path().join("rows.jsonl");
        std::fs::write(&file, lines.join("\n")).unwrap();
        let options = DatasetOptions { strict: true, ..Default::default() };
        Ok(load(&file.display().to_string(), &options)?.rows)
    }

    /// A plain row with these columns.
    fn row(columns: &str) -> crate::base::Result<Row> {
        rows(&[format!(r#"{{{columns}, "question": "What?", "answer": "x"}}"#)])
            .map(|mut r| r.remove(0))
    }

    fn names(row: &Row) -> Vec<Vec<String>> {
        let name = |p: &PathBuf| p.file_name().unwrap().to_string_lossy().into_owned();
        let of = |v: &VideoRef| match &v.source {
            VideoSource::Path(path) => vec![name(path)],
            VideoSource::Frames(list) => list.iter().map(name).collect(),
        };
        row.videos.iter().map(of).collect()
    }

    #[test]
    fn rows_of_action_clips() {
        let line = r#"{"id": 0, "conversations": [{"from": "human", "value": "<video>\nWhich?"},
            {"from": "gpt", "value": "<answer>(1) A</answer>"}], "video": "v.mp4", "meta":
            {"frame_cnts": [15, 11], "min_frames": 4, "max_frames": 8, "dynamic_sample": true}}"#;
        let row = rows(&[line.replace('\n', " ")]).unwrap().remove(0);
        assert_eq!(row.messages[0].content, [Part::Video(0), Part::Text("\nWhich?".into())]);
        assert_eq!(names(&row), [["v.mp4"]]);
        let meta = VideoMeta {
            min_frames: Some(4),
            max_frames: Some(8),
            frame_counts: vec![15, 11],
            dynamic_sample: Some(true),
            ..Default::default()
        };
        assert_eq!(row.videos[0].meta, meta);
        assert_eq!((meta.wishes().suggested, meta.wishes().dynamic), (Some(26), Some(true)));
        assert!(row.columns.contains_key("meta"));
    }

    #[test]
    fn what_a_column_may_hold() {
        let cases: [(&str, &[&[&str]]); 8] = [
            (r#""video": "v.mp4""#, &[&["v.mp4"]]),
            (r#""videos": ["v.mp4", "clip", "w.gif"]"#, &[&["v.mp4"], &["clip"], &["w.gif"]]),
            (r#""video": ["w.gif", "w.gif"]"#, &[&["w.gif"], &["w.gif"]]),
            // Stills in a list are the frames of one video.
            (r#""video": ["2.png", "1.png"]"#, &[&["2.png", "1.png"]]),
            (
                r#""videos": [["1.png"], ["2.png", "1.png"], "clip"]"#,
                &[&["1.png"], &["2.png", "1.png"], &["clip"]],
            ),
            (r#""video": null, "videos": ["v.mp4"]"#, &[&["v.mp4"]]),
            (r#""videos": []"#, &[]),
            (r#""video": "v.mp4", "meta": "of the data set""#, &[&["v.mp4"]]),
        ];
        for (columns, expected) in cases {
            let row = row(columns).unwrap();
            assert_eq!(names(&row), expected, "{columns}");
            let parts: Vec<Part> = (0..expected.len()).map(Part::Video).collect();
            assert_eq!(row.messages[0].content[..expected.len()], parts, "{columns}");
        }
        let two = r#""videos": ["v.mp4", "w.gif"], "meta": [{"nframes": 8.0}, {"video_end": 2}]"#;
        let row = row(two).unwrap();
        assert_eq!(row.videos[0].meta.num_frames, Some(8));
        assert_eq!(
            (row.videos[1].meta.num_frames, row.videos[1].meta.video_end),
            (None, Some(2.0))
        );
    }

    #[test]
    fn images_and_videos_in_one_row() {
        let parts = r#"{"images": ["1.png"], "videos": ["v.mp4"], "answer": "x", "messages": [
            {"role": "user", "content": [{"type": "video", "video": "w.gif", "fps": 1.5,
             "max_pixels": 784, "image": null}, {"type": "text", "text": "a <image>", "video": null},
             {"type": "video"}, {"type": "video", "path": ["1.png"]}]}]}"#;
        let row = rows(&[parts.replace('\n', " ")]).unwrap().remove(0);
        let content = [
            Part::Video(0),
            Part::Text("a ".into()),
            Part::Image(0),
            Part::Video(1),
            Part::Video(2),
        ];
        assert_eq!(row.messages[0].content, content);
        assert_eq!(names(&row), [["w.gif"], ["v.mp4"], ["1.png"]]);
        let meta = VideoMeta { fps: Some(1.5), max_pixels: Some(784), ..Default::default() };
        assert_eq!((&row.videos[0].meta, row.images.len()), (&meta, 1));
        let plain = self::row(r#""image": "1.png", "video": "v.mp4""#).unwrap();
        let content = [Part::Image(0), Part::Video(0), Part::Text("What?".into())];
        assert_eq!(plain.messages[0].content, content);
    }

    #[test]
    fn refusals_name_the_row_and_the_key() {
        for (columns, parts) in [
            (r#""video": "x.mp4""#, &["key `video`", "x.mp4", "--image_folders"][..]),
            (r#""video": "empty.mp4""#, &["an empty file"]),
            (r#""video": "none""#, &["no frames", "none"]),
            (r#""videos": ["v.mp4", 3]"#, &["key `videos[1]`", "a number"]),
            (r#""videos": [["1.png", "x.png"]]"#, &["x.png"]),
            (r#""videos": [[]]"#, &["key `videos[0]`", "an empty list"]),
            (r#""video": """#, &["an empty string"]),
            (r#""video": "https://x/v.mp4""#, &["network"]),
            (
                r#""problem": "<video>?", "video": ["v.mp4", "w.gif"], "question": null"#,
                &["as many videos as <video> markers: 1", "found:    2 videos"],
            ),
            (
                r#""prompt": [{"role": "user", "content": "<video>"}]"#,
                &["video markers and videos do not match", "0 videos"],
            ),
            (r#""video": "v.mp4", "meta": {"frame_cnts": "15"}"#, &["key `meta.frame_cnts`", "15"]),
            (r#""video": "v.mp4", "meta": {"frame_cnts": [-1]}"#, &["key `meta.frame_cnts`"]),
            (r#""video": "v.mp4", "meta": {"fps": 0}"#, &["key `meta.fps`", "above 0"]),
            (r#""video": "v.mp4", "meta": {"max_frames": 1.5}"#, &["key `meta.max_frames`"]),
            (r#""video": "v.mp4", "meta": {"max_frames": 1e300}"#, &["key `meta.max_frames`"]),
            (
                r#""video": "v.mp4", "meta": {"min_frames": 9, "max_frames": 8}"#,
                &["key `meta.min_frames`", "at most `max_frames`, 8"],
            ),
            (r#""video": "v.mp4", "meta": {"dynamic_sample": 1}"#, &["true or false"]),
            (r#""video": "v.mp4", "meta": [{}, {}]"#, &["key `meta`", "2 objects"]),
        ] {
            let line = format!(r#"{{"question": "What?", "answer": "x", {columns}}}"#);
            let e = rows(&[line]).unwrap_err();
            assert_eq!(e.exit_code(), 3);
            for part in parts.iter().chain(&["rows.jsonl, row 1"]) {
                assert!(e.to_string().contains(part), "`{part}` is not in\n{e}");
            }
        }
    }
}
