//! Which frames of a video a model sees: the rules of the families' processors as pure functions from
//! a video's length and rate to frame numbers. Nothing here opens a file or decodes a pixel.
//!
//! Every rule is held against the library it is from (tests/data/video/sampling.json, made by
//! tools/golden/video_sampling.py).

use super::VideoInfo;
use crate::base::{Error, Result};

/// More frames than any processor takes of a video; asking for more is a mistake in a row or option.
pub const MAX_FRAMES: usize = 1 << 16;
/// Most frames per second that may be asked for.
pub const MAX_RATE: f64 = 1000.0;

/// How many frames are wanted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FrameCount {
    /// This many (`num_frames` of transformers, `nframes` of qwen-vl-utils).
    Number(usize),
    /// This many for every second of the video (`fps`).
    PerSecond(f64),
}

/// A family's rule. Limits are numbers of frames; a rule that refuses a video does so with an error.
#[derive(Debug, Clone, PartialEq)]
pub enum FrameSampling {
    /// Every frame (`do_sample_frames: false`).
    All,
    /// transformers' `Qwen2VLVideoProcessor`: a multiple of `temporal_patch_size`, each frame at the
    /// start of its share of the video. The limits apply to [`FrameCount::PerSecond`] alone.
    Qwen2Vl {
        /// Frames wanted.
        count: FrameCount,
        /// Least frames, before they are rounded down to the multiple.
        min_frames: usize,
        /// Most frames.
        max_frames: usize,
        /// Frames of one patch, at least 1.
        temporal_patch_size: usize,
    },
    /// qwen-vl-utils' `smart_nframes`: an even number, from the first frame to the last in equal
    /// steps. The limits apply to [`FrameCount::PerSecond`] alone.
    QwenVlUtils {
        /// Frames wanted.
        count: FrameCount,
        /// Least frames; rounded up to an even number.
        min_frames: usize,
        /// Most frames; rounded down to an even number. `None` is 768 or the video's length.
        max_frames: Option<usize>,
    },
    /// transformers' `Qwen3VLVideoProcessor`: from the first frame to the last in equal steps. The
    /// limits apply to [`FrameCount::PerSecond`] alone.
    Qwen3Vl {
        /// Frames wanted.
        count: FrameCount,
        /// Least frames.
        min_frames: usize,
        /// Most frames.
        max_frames: usize,
    },
    /// transformers' `Glm4vVideoProcessor`: the first frame at or after each tick of a clock, no
    /// frame twice, but the last again if their number is odd.
    Glm4v {
        /// Ticks per second.
        fps: f64,
        /// Seconds up to which a video gets its ticks; a longer one gets as many as this length.
        max_duration: f64,
    },
    /// OpenGVLab's rule for InternVL: the middle of each of equal segments.
    InternVlSegments {
        /// Segments, at least 1.
        num_segments: usize,
    },
    /// transformers' `InternVLVideoProcessor` with `initial_shift: true`: the middle of each share.
    InternVl {
        /// Frames wanted.
        count: FrameCount,
    },
    /// The `meta` of data rows of action clips: `max_frames` frames in equal steps, or, with
    /// `dynamic`, as many as the clip's own length suggests, within the limits.
    Clip {
        /// Least frames of a dynamic clip.
        min_frames: usize,
        /// Most frames.
        max_frames: usize,
        /// What the length suggests (`frame_cnts`, summed, or a rate); `None` is `max_frames` always.
        dynamic: Option<FrameCount>,
    },
}

impl FrameSampling {
    /// The frames to take, counted from 0. Numbers ascend; they repeat where the rule repeats them.
    ///
    /// # Errors
    /// Of kind data, if the rule refuses the video (too short for the number that is wanted), or a
    /// number is not usable (a rate of 0).
    pub fn indices(&self, info: &VideoInfo) -> Result<Vec<usize>> {
        self.indices_within(info, None, None)
    }

    /// [`FrameSampling::indices`] of the part between two times in seconds (`video_start` and
    /// `video_end` of qwen-vl-utils, `bound` of InternVL). Numbers still count from the video's start.
    ///
    /// # Errors
    /// As [`FrameSampling::indices`], and if no frame lies between the times.
    pub fn indices_within(
        &self,
        info: &VideoInfo,
        start: Option<f64>,
        end: Option<f64>,
    ) -> Result<Vec<usize>> {
        check_info(info)?;
        let (first, last) = self.range(info, start, end)?;
        let frames = last - first + 1;
        // Without a range, the file's own duration counts; a part lasts as long as its frames do.
        let duration = if frames == info.frames { info.duration } else { frames as f64 / info.fps };
        let part = VideoInfo { frames, duration, ..info.clone() };
        let mut indices = self.of_part(&part)?;
        for i in &mut indices {
            *i += first;
        }
        Ok(indices)
    }

    /// First and last frame of a range in seconds.
    fn range(
        &self,
        info: &VideoInfo,
        start: Option<f64>,
        end: Option<f64>,
    ) -> Result<(usize, usize)> {
        let whole = (0, info.frames - 1);
        if start.is_none() && end.is_none() {
            return Ok(whole);
        }
        let length = info.frames as f64 / info.fps;
        let clamped = |t: f64| t.clamp(0.0, length) * info.fps;
        let rounds = matches!(self, FrameSampling::InternVlSegments { .. });
        let up = |x: f64| if rounds { x.round_ties_even() } else { x.ceil() };
        let down = |x: f64| if rounds { x.round_ties_even() } else { x.floor() };
        let first = start.map_or(0, |t| up(clamped(t)) as usize);
        let last = end.map_or(whole.1, |t| (down(clamped(t)) as usize).min(whole.1));
        // qwen-vl-utils wants two frames at least.
        if first > last || (first == last && !rounds) {
            return Err(Error::data("no frames lie in the wanted part of the video")
                .expected("a start before the end, and more than one frame between them")
                .found(format!(
                    "frames {first} to {last} of {} ({length:.3} s at {} frames per second)",
                    info.frames, info.fps
                )));
        }
        Ok((first, last))
    }

    fn of_part(&self, info: &VideoInfo) -> Result<Vec<usize>> {
        let total = info.frames;
        let seconds = total as f64 / info.fps;
        match *self {
            FrameSampling::All => Ok((0..total).collect()),
            FrameSampling::Qwen2Vl { count, min_frames, max_frames, temporal_patch_size } => {
                let t = temporal_patch_size.max(1);
                let n = match checked(count)? {
                    FrameCount::Number(n) => nearest_multiple(n, t),
                    FrameCount::PerSecond(rate) => {
                        let most = max_frames.min(total) / t * t;
                        whole((seconds * rate).max(min_frames as f64)).min(most) / t * t
                    }
                };
                // transformers: torch.arange(0, total, total / n).int()
                Ok(shares(taken(n, 1, info)?, total, 0))
            }
            FrameSampling::QwenVlUtils { count, min_frames, max_frames } => {
                let n = match checked(count)? {
                    FrameCount::Number(n) => nearest_multiple(n, 2),
                    FrameCount::PerSecond(rate) => {
                        let least = min_frames.div_ceil(2) * 2;
                        let most = max_frames.unwrap_or(768.min(total)) / 2 * 2;
                        whole((seconds * rate).max(least as f64)).min(most).min(total) / 2 * 2
                    }
                };
                Ok(line(taken(n, 2, info)?, total))
            }
            FrameSampling::Qwen3Vl { count, min_frames, max_frames } => {
                let n = match checked(count)? {
                    FrameCount::Number(n) => n,
                    FrameCount::PerSecond(rate) => {
                        whole(seconds * rate).max(min_frames).min(max_frames).min(total)
                    }
                };
                Ok(line(n, total))
            }
            FrameSampling::Glm4v { fps, max_duration } => {
                checked(FrameCount::PerSecond(fps))?;
                glm4v(info, fps, max_duration)
            }
            FrameSampling::InternVlSegments { num_segments } => {
                checked(FrameCount::Number(num_segments))?;
                let size = (total - 1) as f64 / num_segments.max(1) as f64;
                let middle = |i: usize| (size / 2.0 + (size * i as f64).round_ties_even()) as usize;
                Ok((0..num_segments).map(middle).collect())
            }
            FrameSampling::InternVl { count } => {
                let n = match checked(count)? {
                    FrameCount::Number(n) => n,
                    FrameCount::PerSecond(rate) => whole(seconds * rate),
                };
                Ok(shares(taken(n, 1, info)?, total, 1))
            }
            FrameSampling::Clip { min_frames, max_frames, dynamic } => {
                let n = match dynamic.map(checked).transpose()? {
                    None => max_frames,
                    Some(FrameCount::Number(n)) => n.max(min_frames).min(max_frames),
                    Some(FrameCount::PerSecond(rate)) => {
                        whole(seconds * rate).max(min_frames).min(max_frames)
                    }
                };
                Ok(line(n.min(total), total))
            }
        }
    }
}

fn check_info(info: &VideoInfo) -> Result<()> {
    if info.frames > 0 && info.fps > 0.0 && info.fps.is_finite() {
        return Ok(());
    }
    Err(Error::data("the video has no usable length")
        .expected("at least one frame, and a rate above 0")
        .found(format!("{} frames at {} per second", info.frames, info.fps)))
}

/// Refuses numbers with which nothing can be sampled, or not in bounded memory.
fn checked(count: FrameCount) -> Result<FrameCount> {
    let fine = match count {
        FrameCount::Number(n) => (1..=MAX_FRAMES).contains(&n),
        FrameCount::PerSecond(rate) => rate > 0.0 && rate <= MAX_RATE,
    };
    if fine {
        return Ok(count);
    }
    let e = Error::data("the wanted number of frames is not usable");
    Err(match count {
        FrameCount::Number(n) => {
            e.expected(format!("1 to {MAX_FRAMES} frames")).found(n.to_string())
        }
        FrameCount::PerSecond(rate) => e
            .expected(format!("a rate above 0, up to {MAX_RATE} frames per second"))
            .found(rate.to_string()),
    })
}

/// The whole part of a number that is not negative.
fn whole(x: f64) -> usize {
    x as usize
}

/// Python's `round(n / factor) * factor`: halves go to the even multiple.
fn nearest_multiple(n: usize, factor: usize) -> usize {
    whole((n as f64 / factor as f64).round_ties_even()) * factor
}

/// `n`, if it is at least `least` and the video has as many frames.
fn taken(n: usize, least: usize, info: &VideoInfo) -> Result<usize> {
    if (least..=info.frames).contains(&n) {
        return Ok(n);
    }
    let e = Error::data("the video is too short for its frames to be sampled")
        .expected(format!("{least} to {} frames, the length of the video", info.frames))
        .found(format!("{n} frames wanted"));
    Err(if n > info.frames {
        e.hint("ask for fewer frames, or give a longer video")
    } else {
        e.hint("raise the frames per second that are taken, or give a longer video")
    })
}

/// The frame at the start of each of `n` equal shares of `total` frames, or half a share later
/// (`half` = 1). In whole numbers: the same frames as the float arithmetic of `torch.arange`, save
/// that rounding there sometimes adds the frame after the last one.
fn shares(n: usize, total: usize, half: usize) -> Vec<usize> {
    let at = |i: usize| ((2 * i + half) as u128 * total as u128 / (2 * n) as u128) as usize;
    (0..n).map(at).collect()
}

/// `n` frames in equal steps from the first to the last, rounded with halves to even: numpy's and
/// torch's `linspace(0, total - 1, n).round()`.
fn line(n: usize, total: usize) -> Vec<usize> {
    let last = (total - 1) as f64;
    let step = last / n.saturating_sub(1).max(1) as f64;
    let at = |i: usize| match i {
        0 => 0,
        i if i + 1 == n => total - 1,
        i => whole((i as f64 * step).round_ties_even()),
    };
    (0..n).map(at).collect()
}

fn glm4v(info: &VideoInfo, rate: f64, max_duration: f64) -> Result<Vec<usize>> {
    let last = info.frames - 1;
    let duration = match info.duration {
        d if d > 0.0 => d,
        _ => (last as f64 / info.fps).round_ties_even() + 1.0,
    };
    let most = whole(max_duration * rate).min(MAX_FRAMES);
    let at = |frame: f64| whole(frame.ceil()).min(last);
    let mut indices: Vec<usize> = if duration <= max_duration {
        let ticks = whole((duration * rate).floor()).clamp(1, MAX_FRAMES);
        (0..ticks).map(|i| at(i as f64 * info.fps / rate)).collect()
    } else if most >= info.frames {
        (0..info.frames).collect()
    } else {
        let step = duration / most.saturating_sub(1).max(1) as f64;
        let second = |i: usize| if i > 0 && i + 1 == most { duration } else { i as f64 * step };
        (0..most).map(|i| at(second(i) * info.fps)).collect()
    };
    indices.dedup(); // they ascend
    if indices.len() % 2 == 1 {
        indices.extend(indices.last().copied());
    }
    Ok(indices)
}
