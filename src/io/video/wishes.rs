//! What options and rows want of a model's rule for frames, merged in order of precedence. A wish that
//! a rule cannot fulfil is an error, never left out.

use super::sampling::{FrameCount, FrameSampling};
use crate::base::{Error, Result};

/// Wishes of a row or of the options; `None` leaves a thing to who comes next.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FrameWishes {
    /// Frames wanted.
    pub count: Option<FrameCount>,
    /// Least frames.
    pub min_frames: Option<usize>,
    /// Most frames.
    pub max_frames: Option<usize>,
    /// Whether the number follows the clip's length ([`FrameSampling::Clip`]).
    pub dynamic: Option<bool>,
    /// Frames that the length suggests (the sum of `frame_cnts`); used by a dynamic clip alone.
    pub suggested: Option<usize>,
}

impl FrameWishes {
    /// These wishes, and where there are none those of `next`.
    #[must_use]
    pub fn or(&self, next: &FrameWishes) -> FrameWishes {
        FrameWishes {
            count: self.count.or(next.count),
            min_frames: self.min_frames.or(next.min_frames),
            max_frames: self.max_frames.or(next.max_frames),
            dynamic: self.dynamic.or(next.dynamic),
            suggested: self.suggested.or(next.suggested),
        }
    }
}

impl FrameSampling {
    /// This rule with other numbers; with `dynamic` given, the rule of clips with this one's limits.
    ///
    /// # Errors
    /// Of kind data: a wish for something that the rule does not have, a least number above the most.
    pub fn with(&self, wishes: &FrameWishes) -> Result<FrameSampling> {
        let mut rule = self.clone();
        match (wishes.dynamic, &mut rule) {
            (Some(dynamic), _) => rule = self.clip(wishes, dynamic)?,
            (None, FrameSampling::Qwen2Vl { count, min_frames, max_frames, .. })
            | (None, FrameSampling::Qwen3Vl { count, min_frames, max_frames }) => {
                *count = wishes.count.unwrap_or(*count);
                *min_frames = wishes.min_frames.unwrap_or(*min_frames);
                *max_frames = wishes.max_frames.unwrap_or(*max_frames);
            }
            (None, FrameSampling::QwenVlUtils { count, min_frames, max_frames }) => {
                *count = wishes.count.unwrap_or(*count);
                *min_frames = wishes.min_frames.unwrap_or(*min_frames);
                *max_frames = wishes.max_frames.or(*max_frames);
            }
            (None, FrameSampling::InternVl { count }) => {
                no_limits(wishes)?;
                *count = wishes.count.unwrap_or(*count);
            }
            (None, FrameSampling::InternVlSegments { num_segments }) => {
                no_limits(wishes)?;
                match wishes.count {
                    Some(FrameCount::Number(n)) => *num_segments = n,
                    Some(FrameCount::PerSecond(_)) => {
                        return Err(cannot("frames per second", "a number of frames"));
                    }
                    None => {}
                }
            }
            (None, FrameSampling::Glm4v { fps, .. }) => {
                no_limits(wishes)?;
                match wishes.count {
                    Some(FrameCount::PerSecond(rate)) => *fps = rate,
                    Some(FrameCount::Number(_)) => {
                        return Err(cannot("a number of frames", "frames per second"));
                    }
                    None => {}
                }
            }
            (None, FrameSampling::All | FrameSampling::Clip { .. }) => {
                no_limits(wishes)?;
                if wishes.count.is_some() {
                    return Err(cannot("a number of frames or a rate", "every frame"));
                }
            }
        }
        match rule.limits() {
            (least, Some(most)) if least > most => {
                Err(Error::data("the least number of frames of a video is above the most")
                    .expected(format!("min_frames up to max_frames, {most}"))
                    .found(format!("min_frames {least}")))
            }
            _ => Ok(rule),
        }
    }

    /// Least and most frames of the rule, where it has them.
    fn limits(&self) -> (usize, Option<usize>) {
        match self {
            FrameSampling::Qwen2Vl { min_frames, max_frames, .. }
            | FrameSampling::Qwen3Vl { min_frames, max_frames, .. }
            | FrameSampling::Clip { min_frames, max_frames, .. } => {
                (*min_frames, Some(*max_frames))
            }
            FrameSampling::QwenVlUtils { min_frames, max_frames, .. } => (*min_frames, *max_frames),
            _ => (1, None),
        }
    }

    fn clip(&self, wishes: &FrameWishes, dynamic: bool) -> Result<FrameSampling> {
        let (min_frames, max_frames) = self.limits();
        let Some(max_frames) = wishes.max_frames.or(max_frames) else {
            return Err(Error::data("a clip has no limit for its frames")
                .expected("max_frames beside dynamic_sample")
                .found("dynamic_sample alone")
                .hint("give --max_frames, or max_frames in the row's `meta`"));
        };
        let own = match self {
            FrameSampling::Qwen2Vl { count, .. }
            | FrameSampling::QwenVlUtils { count, .. }
            | FrameSampling::Qwen3Vl { count, .. }
            | FrameSampling::InternVl { count } => Some(*count),
            FrameSampling::Glm4v { fps, .. } => Some(FrameCount::PerSecond(*fps)),
            _ => None,
        };
        let suggested = wishes.suggested.map(FrameCount::Number).or(wishes.count).or(own);
        if dynamic && suggested.is_none() {
            return Err(Error::data("nothing says how many frames a clip should have")
                .expected("frame_cnts or fps beside dynamic_sample")
                .found("dynamic_sample alone")
                .hint("give --video_fps, or frame_cnts in the row's `meta`"));
        }
        Ok(FrameSampling::Clip {
            // The row or option that names the most alone has not asked for more than that.
            min_frames: wishes.min_frames.unwrap_or(min_frames.min(max_frames)),
            max_frames,
            dynamic: suggested.filter(|_| dynamic),
        })
    }
}

fn no_limits(wishes: &FrameWishes) -> Result<()> {
    match (wishes.min_frames, wishes.max_frames) {
        (None, None) => Ok(()),
        _ => Err(cannot("min_frames or max_frames", "no limits")),
    }
}

fn cannot(wish: &str, has: &str) -> Error {
    Error::data("the model's rule for the frames of a video cannot do what is wanted")
        .expected(format!("what the rule knows: {has}"))
        .found(format!("a wish for {wish}"))
        .hint("leave out the option, or the key in the row's `meta` or video part")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes(count: Option<FrameCount>, min: Option<usize>, max: Option<usize>) -> FrameWishes {
        FrameWishes { count, min_frames: min, max_frames: max, ..Default::default() }
    }

    const QWEN: FrameSampling = FrameSampling::Qwen3Vl {
        count: FrameCount::PerSecond(2.0),
        min_frames: 4,
        max_frames: 768,
    };

    #[test]
    fn rows_go_before_options_and_options_before_the_model() {
        let row = wishes(None, None, Some(16));
        let option = wishes(Some(FrameCount::Number(12)), Some(6), Some(99));
        let rule = QWEN.with(&row.or(&option)).unwrap();
        let count = FrameCount::Number(12);
        assert_eq!(rule, FrameSampling::Qwen3Vl { count, min_frames: 6, max_frames: 16 });
        assert_eq!(QWEN.with(&FrameWishes::default()).unwrap(), QWEN);
        let e = QWEN.with(&wishes(None, None, Some(3))).unwrap_err().to_string();
        assert!(e.contains("max_frames, 3") && e.contains("min_frames 4"), "{e}");
    }

    #[test]
    fn dynamic_clips_take_what_the_row_suggests() {
        let meta = FrameWishes {
            dynamic: Some(true),
            suggested: Some(26),
            ..wishes(None, Some(4), Some(8))
        };
        let clip = |dynamic| FrameSampling::Clip { min_frames: 4, max_frames: 8, dynamic };
        assert_eq!(QWEN.with(&meta).unwrap(), clip(Some(FrameCount::Number(26))));
        let rate = FrameWishes { suggested: None, ..meta.clone() };
        assert_eq!(QWEN.with(&rate).unwrap(), clip(Some(FrameCount::PerSecond(2.0))));
        let fixed = FrameWishes { dynamic: Some(false), ..meta };
        assert_eq!(QWEN.with(&fixed).unwrap(), clip(None));
        let alone = FrameWishes { dynamic: Some(true), ..Default::default() };
        let segments = FrameSampling::InternVlSegments { num_segments: 8 };
        assert!(segments.with(&alone).unwrap_err().to_string().contains("--max_frames"));
        let unsaid = FrameWishes { max_frames: Some(8), ..alone };
        assert!(segments.with(&unsaid).unwrap_err().to_string().contains("frame_cnts"));
    }

    #[test]
    fn wishes_that_a_rule_cannot_fulfil_are_errors() {
        let (number, rate) = (FrameCount::Number(4), FrameCount::PerSecond(1.0));
        let segments = FrameSampling::InternVlSegments { num_segments: 8 };
        let glm = FrameSampling::Glm4v { fps: 2.0, max_duration: 300.0 };
        let four = wishes(Some(number), None, None);
        let slow = wishes(Some(rate), None, None);
        assert_eq!(
            segments.with(&four).unwrap(),
            FrameSampling::InternVlSegments { num_segments: 4 }
        );
        let at_one = FrameSampling::Glm4v { fps: 1.0, max_duration: 300.0 };
        assert_eq!(glm.with(&slow).unwrap(), at_one);
        for (rule, wish) in [
            (&segments, &slow),
            (&glm, &four),
            (&glm, &wishes(None, None, Some(9))),
            (&FrameSampling::InternVl { count: number }, &wishes(None, Some(2), None)),
            (&FrameSampling::All, &slow),
        ] {
            assert!(rule.with(wish).unwrap_err().to_string().contains("a wish for"), "{rule:?}");
        }
    }
}
