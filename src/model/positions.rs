//! Where tokens stand: positions (temporal, height, width) of the tokens of a prompt, by the rules of
//! the families. Knows runs of visual tokens and their grids; tensors never appear here.

use crate::base::{Error, Result};

/// A run of tokens that stand for features of an image or of frames of a video.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenRun {
    /// Tokens.
    pub tokens: usize,
    /// Frames, rows and columns of the features, in units of one token.
    pub grid: [usize; 3],
    /// Temporal positions between two frames; the product with a frame's number is cut to an integer.
    pub time_step: f32,
}

impl TokenRun {
    /// The run of a grid with one token per unit, whose frames are one position apart.
    pub fn of_grid(grid: [usize; 3]) -> Self {
        TokenRun { tokens: grid.iter().product(), grid, time_step: 1.0 }
    }
}

/// A run at its place in a prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlacedRun {
    /// First token.
    pub start: usize,
    /// What stands there.
    pub run: TokenRun,
}

/// How a family gives positions to the tokens of images; text always counts up by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PositionRule {
    /// Every token counts up by one (InternVL).
    Sequential,
    /// M-RoPE: a run starts at the running position and spreads over three axes; it advances the
    /// position by the longer side of its grid, whatever its frames are (`get_rope_index` of
    /// transformers 5).
    Grid,
    /// All tokens between the first and the last of a run share one position (glm-4v-9b).
    Shared,
}

impl PositionRule {
    /// Positions of `len` tokens with these runs in order, and the position after the last one.
    ///
    /// # Errors
    /// If runs overlap or pass the end.
    pub fn positions(self, len: usize, runs: &[PlacedRun]) -> Result<(Vec<[i32; 3]>, i32)> {
        let mut positions: Vec<[i32; 3]> = Vec::with_capacity(len);
        let mut next = 0i32;
        for (i, placed) in runs.iter().enumerate() {
            check(placed, positions.len(), len, i)?;
            push_text(&mut positions, &mut next, placed.start);
            match self {
                PositionRule::Sequential => {
                    push_text(&mut positions, &mut next, placed.start + placed.run.tokens);
                }
                PositionRule::Grid => push_grid(&mut positions, &mut next, &placed.run),
                PositionRule::Shared => push_shared(&mut positions, &mut next, placed.run.tokens),
            }
        }
        push_text(&mut positions, &mut next, len);
        let largest = positions.iter().flatten().max().copied().unwrap_or(-1);
        Ok((positions, largest + 1))
    }
}

fn check(placed: &PlacedRun, done: usize, len: usize, number: usize) -> Result<()> {
    let PlacedRun { start, run } = *placed;
    if start >= done && start + run.tokens <= len && run.tokens > 0 {
        return Ok(());
    }
    Err(Error::data("image tokens do not fit the sequence")
        .at(format!("image {}", number + 1))
        .expected(format!("{} tokens between token {done} and token {len}", run.tokens))
        .found(format!("a first token at {start}"))
        .hint("raise max_prompt_length, or lower max_pixels: images cannot be truncated"))
}

fn push_text(positions: &mut Vec<[i32; 3]>, next: &mut i32, end: usize) {
    while positions.len() < end {
        positions.push([*next; 3]);
        *next += 1;
    }
}

fn push_grid(positions: &mut Vec<[i32; 3]>, next: &mut i32, run: &TokenRun) {
    let [_, h, w] = run.grid;
    for unit in 0..run.tokens {
        let (frame, row, column) = (unit / (h * w), unit / w % h, unit % w);
        let time = (frame as f32 * run.time_step) as i32;
        positions.push([*next + time, *next + row as i32, *next + column as i32]);
    }
    *next += h.max(w) as i32;
}

fn push_shared(positions: &mut Vec<[i32; 3]>, next: &mut i32, tokens: usize) {
    for token in 0..tokens {
        let place = usize::from(token > 0) + usize::from(token > 0 && token + 1 == tokens);
        positions.push([*next + place as i32; 3]);
    }
    *next += tokens.min(3) as i32;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(start: usize, grid: [usize; 3]) -> PlacedRun {
        PlacedRun { start, run: TokenRun::of_grid(grid) }
    }

    #[test]
    fn text_alone_counts_up() {
        for rule in [PositionRule::Sequential, PositionRule::Grid, PositionRule::Shared] {
            let (positions, next) = rule.positions(3, &[]).unwrap();
            assert_eq!((positions, next), (vec![[0; 3], [1; 3], [2; 3]], 3));
            assert_eq!(rule.positions(0, &[]).unwrap(), (vec![], 0));
        }
    }

    #[test]
    fn runs_are_checked() {
        let rule = PositionRule::Grid;
        assert!(rule.positions(6, &[placed(1, [1, 2, 2])]).is_ok());
        let error = rule.positions(4, &[placed(1, [1, 2, 2])]).unwrap_err();
        assert!(error.to_string().contains("image 1"), "{error}");
        assert!(rule.positions(9, &[placed(0, [1, 2, 2]), placed(3, [1, 1, 1])]).is_err());
    }

    #[test]
    fn each_rule_places_an_image_in_its_own_way() {
        let image = [placed(1, [1, 2, 3])];
        let of = |rule: PositionRule| rule.positions(8, &image).unwrap();
        assert_eq!(of(PositionRule::Sequential), ((0..8).map(|p| [p; 3]).collect(), 8));
        let (grid, next) = of(PositionRule::Grid);
        assert_eq!(&grid[1..7], [[1, 1, 1], [1, 1, 2], [1, 1, 3], [1, 2, 1], [1, 2, 2], [1, 2, 3]]);
        assert_eq!((grid[7], next), ([4; 3], 5));
        let (shared, next) = of(PositionRule::Shared);
        assert_eq!(shared.iter().map(|p| p[0]).collect::<Vec<_>>(), [0, 1, 2, 2, 2, 2, 3, 4]);
        assert_eq!(next, 5);
    }

    #[test]
    fn frames_are_a_time_step_apart() {
        let run = TokenRun { time_step: 1.5, ..TokenRun::of_grid([3, 1, 1]) };
        let (positions, next) =
            PositionRule::Grid.positions(5, &[PlacedRun { start: 1, run }]).unwrap();
        assert_eq!(positions.iter().map(|p| p[0]).collect::<Vec<_>>(), [0, 1, 2, 4, 2]);
        assert_eq!(next, 5);
    }
}
