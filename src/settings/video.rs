//! How frames are taken of videos, from the options. What a row says of its own video goes before
//! this, and this before the model's video processor. Opens no file.

use crate::base::Result;
use crate::io::video::sampling::{FrameCount, MAX_FRAMES, MAX_RATE};
use crate::io::video::wishes::FrameWishes;
use crate::options::Options;

/// Options about videos; `None` leaves a thing to the row, then to the model's video processor.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VideoSettings {
    /// `video_fps`: frames taken per second, above 0; never with `num_frames`.
    pub fps: Option<f64>,
    /// `num_frames`: frames taken of every video (`nframes` of qwen-vl-utils, `num_segments` of
    /// InternVL).
    pub num_frames: Option<usize>,
    /// `min_frames`: least frames.
    pub min_frames: Option<usize>,
    /// `max_frames`: most frames.
    pub max_frames: Option<usize>,
    /// `dynamic_sample`: true takes as many frames as a clip's length suggests, within the limits:
    /// the sum of `frame_cnts` in the row's `meta`, or the rate times its seconds. False takes
    /// `max_frames` of every clip. (`FrameSampling::Clip`; without it the family's rule applies.)
    pub dynamic_sample: Option<bool>,
    /// `video_min_pixels`: least pixels of a frame.
    pub min_pixels: Option<usize>,
    /// `video_max_pixels`: most pixels of a frame.
    pub max_pixels: Option<usize>,
}

impl VideoSettings {
    /// What the options want of the model's rule for frames; a row's own wishes go before them.
    pub fn wishes(&self) -> FrameWishes {
        let rate = self.fps.map(FrameCount::PerSecond);
        FrameWishes {
            count: self.num_frames.map(FrameCount::Number).or(rate),
            min_frames: self.min_frames,
            max_frames: self.max_frames,
            dynamic: self.dynamic_sample,
            suggested: None,
        }
    }

    /// Checks the options about videos against each other. A command that takes none of them gets
    /// the default.
    pub(super) fn from_options(o: &Options) -> Result<Self> {
        let settings = VideoSettings {
            fps: o.float("video_fps"),
            num_frames: o.count("num_frames"),
            min_frames: o.count("min_frames"),
            max_frames: o.count("max_frames"),
            dynamic_sample: o.choice_of_bool("dynamic_sample"),
            min_pixels: o.count("video_min_pixels"),
            max_pixels: o.count("video_max_pixels"),
        };
        if settings.fps.is_some_and(|fps| fps <= 0.0 || fps > MAX_RATE) {
            return Err(o
                .wrong("video_fps", "wrong value for `video_fps`")
                .expected(format!("a rate above 0, up to {MAX_RATE} frames per second")));
        }
        for name in ["num_frames", "min_frames", "max_frames"] {
            if o.count(name).is_some_and(|n| n > MAX_FRAMES) {
                return Err(o
                    .wrong(name, format!("wrong value for `{name}`"))
                    .expected(format!("at most {MAX_FRAMES} frames")));
            }
        }
        for (low, high) in [("min_frames", "max_frames"), ("video_min_pixels", "video_max_pixels")]
        {
            if let (Some(least), Some(most)) = (o.count(low), o.count(high))
                && least > most
            {
                return Err(o
                    .wrong(low, format!("`{low}` is above `{high}`"))
                    .expected(format!("at most {most}")));
            }
        }
        // The libraries of the field refuse a number and a rate together, too.
        let idle = ["video_fps", "dynamic_sample"].into_iter().find(|n| o.changed(n));
        if let (Some(_), Some(name)) = (settings.num_frames, idle) {
            return Err(o
                .wrong(name, format!("`{name}` would do nothing: num_frames fixes the number"))
                .hint(format!("leave out {name} or num_frames")));
        }
        Ok(settings)
    }
}
