//! A prompt as the decoder reads it: token ids, which of them stand for image features, positions.
//! Image tokens are known by their spans, never found by searching for an id.

use crate::base::{HostTensor, Result};
use crate::model::families::qwen2_5_vl::rope_index;
use crate::model::processor::qwen_image::ProcessedImage;
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
    /// Number of image feature rows.
    pub fn num_features(&self) -> usize {
        self.spans.iter().map(|s| s.1).sum()
    }
    /// Decoder input: token ids, and `-(row + 1)` where an image feature goes; the prompt's first
    /// feature is row `first_feature`.
    pub fn index(&self, first_feature: usize) -> Vec<i32> {
        let mut index: Vec<i32> = self.ids.iter().map(|&t| t as i32).collect();
        let mut row = first_feature as i32;
        for &(start, len) in &self.spans {
            for slot in &mut index[start..start + len] {
                row += 1;
                *slot = -row;
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

/// Patches of all images of some prompts, in order, and their grids; `None` without images.
pub fn stack_images<'a>(
    prompts: impl IntoIterator<Item = &'a Prompt>,
) -> Option<(HostTensor, Vec<[usize; 3]>)> {
    let (mut patches, mut grids, mut width) = (Vec::new(), Vec::new(), 0);
    for image in prompts.into_iter().flat_map(|p| &p.images) {
        patches.extend_from_slice(&image.patches);
        grids.push(image.grid_thw);
        width = image.patch_dim;
    }
    (width > 0).then(|| (HostTensor::f32([patches.len() / width, width], patches), grids))
}
