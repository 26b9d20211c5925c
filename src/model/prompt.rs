//! A prompt as the decoder reads it: token ids, which of them stand for image features, positions.
//! Image tokens are known by their spans, never found by searching for an id.

use crate::base::{HostTensor, Result};
use crate::model::families::qwen2_5_vl::rope_index;
use crate::model::processor::qwen_image::ProcessedImage;
use std::collections::HashMap;
use std::sync::Arc;

/// An encoded chat with its images.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// Token ids, image placeholders included.
    pub ids: Vec<u32>,
    /// Images in order.
    pub images: Vec<Arc<ProcessedImage>>,
    /// (first token, tokens) of each image.
    pub spans: Vec<(usize, usize)>,
    /// Temporal, height and width position of each token.
    pub positions: Vec<[i32; 3]>,
    /// Position, on every axis, of the first token after the prompt.
    pub next_position: i32,
    /// The text that was encoded.
    pub text: String,
}

impl Prompt {
    /// Assigns positions to encoded tokens.
    ///
    /// # Errors
    /// If spans and images do not fit.
    pub fn new(
        ids: Vec<u32>,
        images: Vec<Arc<ProcessedImage>>,
        spans: Vec<(usize, usize)>,
        merge: usize,
        text: String,
    ) -> Result<Self> {
        let grids: Vec<(usize, [usize; 3])> =
            spans.iter().zip(&images).map(|(s, i)| (s.0, i.grid_thw)).collect();
        let (positions, delta) = rope_index(ids.len(), &grids, merge)?;
        let next_position = ids.len() as i32 + delta;
        Ok(Prompt { ids, images, spans, positions, next_position, text })
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }
    /// True if there is no token.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
    /// Images with the number of feature rows of each.
    pub fn images_with_rows(&self) -> impl Iterator<Item = (&Arc<ProcessedImage>, usize)> {
        self.images.iter().zip(self.spans.iter().map(|s| s.1))
    }
    /// Decoder input: token ids, and `-(row + 1)` where an image feature goes; the features of image
    /// `i` are the rows from `first_rows[i]` on.
    pub fn index(&self, first_rows: &[usize]) -> Vec<i32> {
        let mut index: Vec<i32> = self.ids.iter().map(|&t| t as i32).collect();
        for (&(start, len), &first) in self.spans.iter().zip(first_rows) {
            for (slot, row) in index[start..start + len].iter_mut().zip(first as i32..) {
                *slot = -(row + 1);
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

/// The images of a pass, each distinct one once, and the rows that their features will have.
#[derive(Debug, Clone, Default)]
pub struct ImageStack {
    images: Vec<(Arc<ProcessedImage>, usize)>,
    rows: usize,
    first_row: HashMap<u128, usize>,
}

impl ImageStack {
    /// The first feature row of an image that has `rows` of them; new images go to the end.
    pub fn place(&mut self, image: &Arc<ProcessedImage>, rows: usize) -> usize {
        *self.first_row.entry(image.content).or_insert_with(|| {
            self.images.push((image.clone(), rows));
            self.rows += rows;
            self.rows - rows
        })
    }
    /// Places the images of a prompt; returns its decoder input.
    pub fn place_prompt(&mut self, prompt: &Prompt) -> Vec<i32> {
        let first: Vec<usize> =
            prompt.images_with_rows().map(|(image, rows)| self.place(image, rows)).collect();
        prompt.index(&first)
    }
    /// The distinct images with their feature rows, in order.
    pub fn images(&self) -> &[(Arc<ProcessedImage>, usize)] {
        &self.images
    }
    /// Number of patches.
    pub fn patches(&self) -> usize {
        self.images.iter().map(|(i, _)| i.patches()).sum()
    }
    /// Patches in time, height and width of each image, in order.
    pub fn grids(&self) -> Vec<[usize; 3]> {
        self.images.iter().map(|(i, _)| i.grid_thw).collect()
    }
    /// Patches of all images and their grids; `None` without images.
    pub fn pixels(&self) -> Option<(HostTensor, Vec<[usize; 3]>)> {
        let width = self.images.first()?.0.patch_dim;
        let patches: Vec<f32> = self.images.iter().flat_map(|(i, _)| &i.patches).copied().collect();
        Some((HostTensor::f32([patches.len() / width, width], patches), self.grids()))
    }
}
