//! A prompt as the decoder reads it: token ids, which of them stand for features of images and videos,
//! positions. Visual tokens are known by their runs, never found by searching for an id.

use crate::base::{HostTensor, Result};
use crate::model::positions::{PlacedRun, PositionRule};
use crate::model::processor::Visual;
use std::collections::HashMap;
use std::sync::Arc;

/// An encoded chat with its images and videos.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// Token ids, placeholders included.
    pub ids: Vec<u32>,
    /// Images and videos in the order of their tokens.
    pub visuals: Vec<Arc<Visual>>,
    /// First token of every run of every visual, in order.
    pub starts: Vec<usize>,
    /// Temporal, height and width position of each token.
    pub positions: Vec<[i32; 3]>,
    /// Position, on every axis, of the first token after the prompt.
    pub next_position: i32,
    /// The text that was encoded.
    pub text: String,
}

impl Prompt {
    /// Assigns positions to encoded tokens; `starts` are the first tokens of the visuals' runs.
    ///
    /// # Errors
    /// If runs and tokens do not fit.
    pub fn new(
        ids: Vec<u32>,
        visuals: Vec<Arc<Visual>>,
        starts: Vec<usize>,
        rule: PositionRule,
        text: String,
    ) -> Result<Self> {
        let runs = visuals.iter().flat_map(|v| &v.runs);
        let placed: Vec<PlacedRun> =
            starts.iter().zip(runs).map(|(&start, &run)| PlacedRun { start, run }).collect();
        let (positions, next_position) = rule.positions(ids.len(), &placed)?;
        Ok(Prompt { ids, visuals, starts, positions, next_position, text })
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }
    /// True if there is no token.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
    /// Tokens that stand for features.
    pub fn visual_tokens(&self) -> usize {
        self.visuals.iter().map(|v| v.rows()).sum()
    }
    /// Decoder input: token ids, and `-(row + 1)` where a feature goes; the features of visual `i` are
    /// the rows from `first_rows[i]` on.
    pub fn index(&self, first_rows: &[usize]) -> Vec<i32> {
        let mut index: Vec<i32> = self.ids.iter().map(|&t| t as i32).collect();
        let mut starts = self.starts.iter();
        for (visual, &first) in self.visuals.iter().zip(first_rows) {
            let mut rows = first as i32..;
            for (run, &start) in visual.runs.iter().zip(starts.by_ref()) {
                for (slot, row) in index[start..start + run.tokens].iter_mut().zip(rows.by_ref()) {
                    *slot = -(row + 1);
                }
            }
        }
        index
    }
    /// Positions of the `n` tokens that follow.
    pub fn positions_after(&self, first: usize, n: usize) -> impl Iterator<Item = [i32; 3]> {
        let from = self.next_position + first as i32;
        (from..from + n as i32).map(|p| [p; 3])
    }
}

/// The visuals of a pass, each distinct one once, and the rows that their features will have.
#[derive(Debug, Clone, Default)]
pub struct VisualStack {
    visuals: Vec<Arc<Visual>>,
    rows: usize,
    first_row: HashMap<u128, usize>,
}

impl VisualStack {
    /// The first feature row of a visual; new ones go to the end.
    pub fn place(&mut self, visual: &Arc<Visual>) -> usize {
        *self.first_row.entry(visual.content).or_insert_with(|| {
            self.visuals.push(visual.clone());
            self.rows += visual.rows();
            self.rows - visual.rows()
        })
    }
    /// Places the visuals of a prompt; returns its decoder input.
    pub fn place_prompt(&mut self, prompt: &Prompt) -> Vec<i32> {
        let first: Vec<usize> = prompt.visuals.iter().map(|visual| self.place(visual)).collect();
        prompt.index(&first)
    }
    /// The distinct visuals, in order.
    pub fn visuals(&self) -> &[Arc<Visual>] {
        &self.visuals
    }
    /// Number of patches.
    pub fn patches(&self) -> usize {
        self.visuals.iter().map(|v| v.patches()).sum()
    }
    /// Patches in time, height and width of each, in order.
    pub fn grids(&self) -> Vec<[usize; 3]> {
        self.visuals.iter().map(|v| v.grid_thw).collect()
    }
    /// Patches of all of them and their grids; `None` if there are none.
    pub fn pixels(&self) -> Option<(HostTensor, Vec<[usize; 3]>)> {
        let width = self.visuals.first()?.patch_dim;
        let patches: Vec<f32> = self.visuals.iter().flat_map(|v| &v.patches).copied().collect();
        Some((HostTensor::f32([patches.len() / width, width], patches), self.grids()))
    }
}
