//! Features of images, computed once: a bounded part of the arena that holds the vision tower's
//! results for the images seen last, by content and by the weights that made them. Rollout reads
//! prompts' features from here; so does training, where the tower is frozen. A trained tower's
//! features are never kept beyond its next update, and its gradient never comes from here.

use crate::base::{DType, Error, HostTensor, Result};
use crate::mem::{Arena, Region};
use crate::model::config::VlmConfig;
use crate::model::net::Net;
use crate::model::params::ParamStore;
use crate::model::processor::Visual;
use crate::model::prompt::VisualStack;
use crate::ops::kv_write::KvWrite;
use crate::ops::{Emit, Slot};
use crate::tape::Tape;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

/// Patches that are encoded in one pass, if several images are new.
pub const PATCHES_PER_PASS: usize = 8192;

/// Which weights made a feature: 0 for the weights that the run began with (a frozen tower, a
/// reference), else the number of optimizer steps that a trained tower has had.
pub type VisionWeights = u64;

#[derive(Debug, Clone, Copy)]
struct Entry {
    first: usize,
    rows: usize,
    last_use: u64,
}

#[derive(Debug, Default)]
struct Shelf {
    entries: HashMap<(u128, VisionWeights), Entry>,
    clock: u64,
    encoded: u64,
}

impl Shelf {
    /// The distinct images that are not here; those that are count as used now.
    fn missing<'i>(
        &mut self,
        images: &[&'i Arc<Visual>],
        weights: VisionWeights,
    ) -> Vec<&'i Arc<Visual>> {
        let mut missing = Vec::new();
        let mut seen = HashSet::new();
        for &image in images {
            if !seen.insert(image.content) {
                continue;
            }
            match self.entries.get_mut(&(image.content, weights)) {
                Some(entry) => entry.last_use = self.clock,
                None => missing.push(image),
            }
        }
        missing
    }
}

/// Slots of the type of a store's levels, without a store: for tapes that are only planned.
pub fn stand_in(tape: &mut Tape, config: &VlmConfig) -> Vec<Slot> {
    let (hidden, dtype) = (config.text.hidden_size, tape.float_type());
    // Places that no parameter has.
    let level = |i| Region { offset: usize::MAX - i, elements: hidden, dtype };
    (0..config.vision.levels()).map(|i| tape.fixed(level(i), &[1, hidden])).collect()
}

/// Images in order, cut into those that are encoded together: as many as [`PATCHES_PER_PASS`] allows,
/// and at least one.
pub fn passes<T>(images: &[T], patches: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let (mut passes, mut first, mut load) = (Vec::new(), 0, 0);
    for (i, image) in images.iter().enumerate() {
        if i > first && load + patches(image) > PATCHES_PER_PASS {
            passes.push(&images[first..i]);
            (first, load) = (i, 0);
        }
        load += patches(image);
    }
    if first < images.len() {
        passes.push(&images[first..]);
    }
    passes
}

/// The tape that writes the features of some images into rows of a store, level by level.
fn encoding(
    (config, params): (&VlmConfig, &ParamStore),
    pixels: HostTensor,
    grids: &[[usize; 3]],
    places: Vec<i32>,
    store: impl FnOnce(&mut Tape) -> Vec<Slot>,
) -> Result<Tape> {
    let mut tape = params.tape();
    let levels = config.vision.encode(&mut Net::new(&mut tape, params), pixels, grids)?;
    let rows = tape.indices(places);
    let store = store(&mut tape);
    for (features, to) in levels.into_iter().zip(store) {
        tape.emit_into(Arc::new(KvWrite), &[features, rows], &[to])?;
    }
    Ok(tape)
}

/// Bytes that encoding images of these grids in one pass takes, from their shapes alone.
///
/// # Errors
/// If a grid does not fit the model.
pub fn encoding_bytes(
    config: &VlmConfig,
    params: &ParamStore,
    grids: &[[usize; 3]],
) -> Result<usize> {
    if grids.is_empty() {
        return Ok(0);
    }
    let pixels = blank_pixels(config, grids);
    let places = vec![0; grids.iter().map(|&g| config.vision.feature_rows(g)).sum()];
    let tape = encoding((config, params), pixels, grids, places, |tape| stand_in(tape, config))?;
    Ok(tape.plan().peak)
}

/// Bytes of one feature of an image, in all levels.
pub fn feature_bytes(config: &VlmConfig, dtype: DType) -> usize {
    config.vision.levels() * config.text.hidden_size * dtype.size()
}

/// Black patches of images of these grids: to plan with.
pub fn blank_pixels(config: &VlmConfig, grids: &[[usize; 3]]) -> HostTensor {
    let rows: usize = grids.iter().map(|g| g.iter().product::<usize>()).sum();
    let cols = config.vision.patch_values();
    HostTensor::f32([rows, cols], vec![0.0; rows * cols])
}

/// See the top of the file.
#[derive(Debug)]
pub struct VisionStore {
    /// One per level, each with all rows.
    levels: Vec<Region>,
    rows: usize,
    hidden: usize,
    shelf: Mutex<Shelf>,
}

impl VisionStore {
    /// Takes room for as many feature rows as `bytes` hold.
    ///
    /// # Errors
    /// Kind device if the arena is full.
    pub fn place(
        config: &VlmConfig,
        params: &ParamStore,
        bytes: usize,
        arena: &mut Arena,
    ) -> Result<Self> {
        let (hidden, dtype) = (config.text.hidden_size, params.float_type());
        let rows = bytes / feature_bytes(config, dtype);
        let levels = (0..config.vision.levels())
            .map(|_| arena.persist(rows * hidden, dtype))
            .collect::<Result<_>>()?;
        Ok(VisionStore { levels, rows, hidden, shelf: Mutex::default() })
    }

    /// All rows of each level, as the decoder's input.
    pub fn slots(&self, tape: &mut Tape) -> Vec<Slot> {
        self.levels.iter().map(|&level| tape.fixed(level, &[self.rows, self.hidden])).collect()
    }

    /// Rows that it has.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Images that the tower has encoded so far.
    pub fn encoded(&self) -> u64 {
        self.lock().encoded
    }

    /// The first row of each image's features; those that are not here are computed, in the arena
    /// above byte `base`. Rows stay where they are until the next call.
    ///
    /// # Errors
    /// If the images of this call do not fit the store, or a pass does not fit the arena.
    pub fn features(
        &self,
        (config, params): (&VlmConfig, &ParamStore),
        (arena, base): (&Arena, usize),
        images: &[&Arc<Visual>],
        weights: VisionWeights,
    ) -> Result<Vec<usize>> {
        let mut shelf = self.lock();
        shelf.clock += 1;
        // What another state of a trained tower made can never be asked for again.
        shelf.entries.retain(|(_, made_by), _| *made_by == 0 || *made_by >= weights);
        let mut missing = shelf.missing(images, weights);
        if self.reserve(&mut shelf, &missing, weights).is_err() {
            // What is here already may lie in the way: side by side, they fit if they can.
            shelf.entries.clear();
            missing = shelf.missing(images, weights);
            self.reserve(&mut shelf, &missing, weights)?;
        }
        for pass in passes(&missing, |image| image.patches()) {
            self.encode(&mut shelf, (config, params), (arena, base), pass, weights)?;
        }
        Ok(images.iter().map(|i| shelf.entries[&(i.content, weights)].first).collect())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Gives each image its rows.
    fn reserve(
        &self,
        shelf: &mut Shelf,
        images: &[&Arc<Visual>],
        weights: VisionWeights,
    ) -> Result<()> {
        for &image in images {
            let rows = image.rows();
            let first = self.make_room(shelf, rows)?;
            let entry = Entry { first, rows, last_use: shelf.clock };
            shelf.entries.insert((image.content, weights), entry);
        }
        Ok(())
    }

    /// Fills the rows that images have.
    fn encode(
        &self,
        shelf: &mut Shelf,
        (config, params): (&VlmConfig, &ParamStore),
        (arena, base): (&Arena, usize),
        images: &[&Arc<Visual>],
        weights: VisionWeights,
    ) -> Result<()> {
        let mut stack = VisualStack::default();
        let mut places = Vec::new();
        for &image in images {
            stack.place(image);
            let first = shelf.entries[&(image.content, weights)].first;
            places.extend((first..first + image.rows()).map(|r| r as i32));
        }
        if let Some((pixels, grids)) = stack.pixels() {
            let model = (config, params);
            let tape = encoding(model, pixels, &grids, places, |tape| self.slots(tape))?;
            let plan = tape.plan();
            tape.run(&plan, arena, base)?;
        }
        shelf.encoded += images.len() as u64;
        Ok(())
    }

    /// First of `rows` free rows; what was not used in this call and longest ago makes way.
    fn make_room(&self, shelf: &mut Shelf, rows: usize) -> Result<usize> {
        loop {
            let mut taken: Vec<(usize, usize)> =
                shelf.entries.values().map(|e| (e.first, e.rows)).collect();
            taken.sort_unstable();
            let mut end = 0;
            for (first, len) in taken.into_iter().chain([(self.rows, 0)]) {
                if first - end >= rows {
                    return Ok(end);
                }
                end = first + len;
            }
            let oldest = shelf
                .entries
                .iter()
                .filter(|(_, e)| e.last_use < shelf.clock)
                .min_by_key(|(key, e)| (e.last_use, e.first, key.0))
                .map(|(key, _)| *key);
            match oldest {
                Some(key) => shelf.entries.remove(&key),
                None => {
                    let row =
                        self.hidden * self.levels.iter().map(|l| l.dtype.size()).sum::<usize>();
                    return Err(Error::device(
                        "the images of one pass do not fit the vision cache",
                    )
                    .key("vision_cache_size")
                    .expected(format!("at most {} bytes", self.rows * row))
                    .found(format!("{} bytes more for the next image", rows * row))
                    .hint("raise --vision_cache_size, or lower --max_pixels"));
                }
            };
        }
    }
}
