//! Lengths of prompts and answers in tokens of a model: as training would count them, from the sizes of
//! the images, without patches and weights.

use super::counts::{Histogram, Spread, percentile, sorted};
use super::pictures::Shown;
use super::{Reader, in_parallel};
use crate::base::Result;
use crate::io::dataset::Row;
use crate::settings::InspectSettings;
use serde::Serialize;

/// Suggested lengths are multiples of this.
const STEP: usize = 64;

/// Lengths of a row in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Length {
    /// The whole prompt.
    pub(super) prompt: usize,
    /// What of it stands for images and videos.
    pub(super) visual: usize,
    /// Positions that it takes of the context.
    pub(super) positions: usize,
    /// The reference answer and the end of its turn.
    pub(super) answer: usize,
}

/// Lengths of a data set in tokens.
#[derive(Debug, Clone, Serialize)]
pub struct Tokens {
    /// Whole prompts.
    pub prompt: Option<Spread>,
    /// What of them stands for images and videos.
    pub visual: Option<Spread>,
    /// The rest of them: text, and marks of turns.
    pub text: Option<Spread>,
    /// Whole prompts as a histogram.
    pub histogram: Option<Histogram>,
    /// The limit that was asked for.
    pub max_prompt_length: Option<usize>,
    /// Rows whose prompt is longer.
    pub over_max_prompt_length: usize,
    /// Positions of the model's context.
    pub context: usize,
    /// Of which a completion may take this many.
    pub max_completion_length: usize,
    /// Rows whose prompt needs more than the rest.
    pub over_context: usize,
    /// Limits that would do, the roomier first.
    pub suggestions: Vec<Suggestion>,
}

/// A value of `max_prompt_length`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Suggestion {
    /// The limit in tokens.
    pub max_prompt_length: usize,
    /// Rows that it leaves out, with those that the context leaves out.
    pub rows_left_out: usize,
}

/// The lengths of each row, or why it cannot be a prompt.
///
/// # Errors
/// After Ctrl-C.
pub(super) fn measure(
    reader: &Reader,
    rows: &[&Row],
    shown: &Shown,
) -> Result<Vec<Result<Length>>> {
    in_parallel(rows, |row| {
        let go = || {
            let prompt = reader.encoder.measure_row(row, &shown.sizes(row))?;
            Ok(Length {
                prompt: prompt.len(),
                visual: prompt.visual_tokens(),
                positions: prompt.next_position.max(0) as usize,
                answer: reader.encoder.chat.encode_answer(&row.answer)?.len(),
            })
        };
        go().map_err(|e: crate::base::Error| e.file(&row.file).row(row.row))
    })
}

/// The lengths of all rows.
pub(super) fn summary(s: &InspectSettings, context: usize, lengths: &[Length]) -> Tokens {
    let room = context.saturating_sub(s.max_completion_length);
    let limit = s.data.max_prompt_length;
    let spread = |of: fn(&Length) -> usize| Spread::of(lengths.iter().map(|l| of(l) as f64));
    Tokens {
        prompt: spread(|l| l.prompt),
        visual: spread(|l| l.visual),
        text: spread(|l| l.prompt - l.visual),
        histogram: Histogram::of(lengths.iter().map(|l| l.prompt as f64), 1.0),
        max_prompt_length: limit,
        over_max_prompt_length: lengths
            .iter()
            .filter(|l| limit.is_some_and(|n| l.prompt > n))
            .count(),
        context,
        max_completion_length: s.max_completion_length,
        over_context: lengths.iter().filter(|l| l.positions > room).count(),
        suggestions: suggestions(lengths, room),
    }
}

/// A limit for every prompt that the context has room for, and one for 99 % of them where that saves
/// a quarter.
fn suggestions(lengths: &[Length], room: usize) -> Vec<Suggestion> {
    let fitting = sorted(lengths.iter().filter(|l| l.positions <= room).map(|l| l.prompt as f64));
    let Some(longest) = fitting.last() else { return Vec::new() };
    let suggestion = |tokens: f64| {
        let most = (tokens as usize).next_multiple_of(STEP);
        let out = |l: &&Length| l.prompt > most || l.positions > room;
        Suggestion { max_prompt_length: most, rows_left_out: lengths.iter().filter(out).count() }
    };
    let (all, most) = (suggestion(*longest), suggestion(percentile(&fitting, 99)));
    let saves = 4 * most.max_prompt_length <= 3 * all.max_prompt_length;
    if saves { vec![all, most] } else { vec![all] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(prompt: usize) -> Length {
        Length { prompt, visual: 0, positions: prompt, answer: 1 }
    }

    #[test]
    fn a_limit_for_all_and_one_for_most() {
        let lengths: Vec<Length> = (1..=200).map(length).collect();
        let limit =
            |max_prompt_length, rows_left_out| Suggestion { max_prompt_length, rows_left_out };
        assert_eq!(suggestions(&lengths, 4096), [limit(256, 0)]);
        let lengths: Vec<Length> = lengths.into_iter().chain([length(3000)]).collect();
        assert_eq!(suggestions(&lengths, 4096), [limit(3008, 0), limit(256, 1)]);
        // What the context has no room for decides nothing.
        assert_eq!(suggestions(&lengths, 2000), [limit(256, 1)]);
        assert_eq!(suggestions(&lengths, 0), []);
    }
}
