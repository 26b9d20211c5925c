//! Patches of processors that write them unit by unit: the `merge`² patches that become one token are
//! neighbours in memory (Qwen2-VL and what followed it, GLM-4.1V). Index arithmetic; no tensors.

use crate::base::{Error, Result};

/// A grid in merged units; the temporal axis is not merged.
///
/// # Errors
/// If it does not divide; `visual` is its number from 0.
pub fn merged_grid([t, h, w]: [usize; 3], merge: usize, visual: usize) -> Result<[usize; 3]> {
    if t == 0 || h == 0 || w == 0 || h % merge != 0 || w % merge != 0 {
        return Err(Error::data("image grid does not divide into merged units")
            .at(format!("image {}", visual + 1))
            .expected(format!("[t, h, w] with h and w positive multiples of {merge}"))
            .found(format!("{:?}", [t, h, w])));
    }
    Ok([t, h / merge, w / merge])
}

/// (row, column) of the patches of one frame of `h` x `w` merged units, in the processor's order.
pub fn push_frame(positions: &mut Vec<[i32; 2]>, h: usize, w: usize, merge: usize) {
    for unit in 0..h * w {
        let (top, left) = (unit / w * merge, unit % w * merge);
        for k in 0..merge * merge {
            positions.push([(top + k / merge) as i32, (left + k % merge) as i32]);
        }
    }
}

/// (row, column) of every patch, and (first patch, patches) of every frame.
pub type Frames = (Vec<[i32; 2]>, Vec<(usize, usize)>);

/// (row, column) of every patch of grids, and the attention segments (first patch, patches): one per
/// frame.
///
/// # Errors
/// If a grid does not divide by the merge size.
pub fn frames(grids: &[[usize; 3]], merge: usize) -> Result<Frames> {
    let (mut positions, mut segments) = (Vec::new(), Vec::new());
    for (i, &grid) in grids.iter().enumerate() {
        let [t, h, w] = merged_grid(grid, merge, i)?;
        for _ in 0..t {
            segments.push((positions.len(), h * w * merge * merge));
            push_frame(&mut positions, h, w, merge);
        }
    }
    Ok((positions, segments))
}
