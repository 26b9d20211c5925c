//! Videos of the rows: how long, how fast, how large. Every distinct one is opened once; its frames are
//! counted, not kept.

use super::broken::in_row;
use super::counts::Spread;
use super::in_parallel;
use crate::base::{Error, Result};
use crate::io::dataset::{Row, VideoRef};
use crate::io::video::{Video, VideoInfo};
use serde::Serialize;
use std::collections::HashMap;

/// Videos of a data set.
#[derive(Debug, Clone, Serialize)]
pub struct Videos {
    /// Videos of all rows together.
    pub references: usize,
    /// Distinct files or lists of frames that could be read.
    pub names: usize,
    /// Lengths in seconds.
    pub seconds: Option<Spread>,
    /// Frames of each.
    pub frames: Option<Spread>,
    /// Frames per second.
    pub fps: Option<Spread>,
    /// Widths of the frames, in pixels.
    pub width: Option<Spread>,
    /// Their heights.
    pub height: Option<Spread>,
}

/// What is known of every video of some rows.
pub(super) struct Clips {
    places: HashMap<String, usize>,
    found: Vec<Result<VideoInfo>>,
}

/// What a video is called: videos of one name and one rate are one.
pub(super) fn name_of(video: &VideoRef) -> String {
    format!("{:?} {:?}", video.source, video.meta.raw_fps)
}

/// Looks at every distinct video of the rows; `None` if there is none.
///
/// # Errors
/// After Ctrl-C; a video that cannot be read is no error here.
pub(super) fn look(rows: &[&Row]) -> Result<(Clips, Option<Videos>)> {
    let mut places = HashMap::new();
    let mut distinct = Vec::new();
    let references = rows.iter().map(|row| row.videos.len()).sum();
    for video in rows.iter().flat_map(|row| &row.videos) {
        places.entry(name_of(video)).or_insert_with(|| {
            distinct.push(video);
            distinct.len() - 1
        });
    }
    let open = |v: &&VideoRef| Video::open(&v.source, v.meta.raw_fps).map(|video| video.info);
    let clips = Clips { places, found: in_parallel(&distinct, open)? };
    let good: Vec<&VideoInfo> = clips.found.iter().filter_map(|v| v.as_ref().ok()).collect();
    let spread = |of: fn(&VideoInfo) -> f64| Spread::of(good.iter().map(|v| of(v)));
    let videos = Videos {
        references,
        names: good.len(),
        seconds: spread(|v| v.duration),
        frames: spread(|v| v.frames as f64),
        fps: spread(|v| v.fps),
        width: spread(|v| v.width as f64),
        height: spread(|v| v.height as f64),
    };
    Ok((clips, Some(videos).filter(|v| v.references > 0)))
}

impl Clips {
    /// The error of the first video of a row that cannot be read.
    pub(super) fn error_of(&self, row: &Row) -> Option<Error> {
        let all = row.videos.iter().map(|v| &self.found[self.places[&name_of(v)]]);
        let wrong = all.filter_map(|v| v.as_ref().err()).next()?;
        Some(in_row(row, "video", wrong))
    }
}
