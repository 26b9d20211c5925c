//! Where a position table made for one grid is read for another: the sixteen rows around each patch and
//! their weights, as `torch.nn.functional.grid_sample` takes them (bicubic, `align_corners=False`,
//! border padding) in single precision. Index arithmetic; the table itself is never seen.

/// Rows of the table that one patch takes.
pub const TAPS: usize = 16;
/// The parameter of the cubic kernel in torch (Keys, IEEE TASSP 29, 1981, with a = -3/4).
const A: f32 = -0.75;

/// Indices `[P * 16]` into a table of `side`² rows, and weights `[P, 16]`, for patches at `positions`
/// (row, column), frame by frame of `grids`.
pub fn bicubic_taps(
    side: usize,
    grids: &[[usize; 3]],
    positions: &[[i32; 2]],
) -> (Vec<i32>, Vec<f32>) {
    let mut index = Vec::with_capacity(positions.len() * TAPS);
    let mut weight = Vec::with_capacity(positions.len() * TAPS);
    let mut rest = positions;
    for &[t, h, w] in grids {
        let (own, after) = rest.split_at(t * h * w);
        rest = after;
        for &[row, column] in own {
            let (rows, row_weights) = axis_taps(row, h, side);
            let (columns, column_weights) = axis_taps(column, w, side);
            for (r, rw) in rows.iter().zip(row_weights) {
                index.extend(columns.iter().map(|c| r * side as i32 + c));
                weight.extend(column_weights.iter().map(|cw| rw * cw));
            }
        }
    }
    (index, weight)
}

/// Places and weights of the four taps of place `at` of `len` along an axis of `side` places.
fn axis_taps(at: i32, len: usize, side: usize) -> ([i32; 4], [f32; 4]) {
    // First to the range -1 to 1 of the model's code, then to places of the table.
    let normed = (at as f32 + 0.5) / len as f32 * 2.0 - 1.0;
    let place = ((normed + 1.0) * side as f32 - 1.0) / 2.0;
    let first = place.floor();
    let t = place - first;
    let taps = [-1, 0, 1, 2].map(|k| (first as i32 + k).clamp(0, side as i32 - 1));
    (taps, [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)])
}

/// The kernel up to distance 1.
fn near(x: f32) -> f32 {
    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
}

/// The kernel from distance 1 to 2.
fn far(x: f32) -> f32 {
    ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::families::qwen_patches::frames;

    #[test]
    fn a_grid_of_the_tables_size_takes_the_table() {
        let (positions, _) = frames(&[[1, 4, 4]], 2).unwrap();
        let (index, weight) = bicubic_taps(4, &[[1, 4, 4]], &positions);
        for (p, &[row, column]) in positions.iter().enumerate() {
            let mut sum = [0.0; 16];
            for (i, w) in index[p * TAPS..][..TAPS].iter().zip(&weight[p * TAPS..]) {
                sum[*i as usize] += w;
            }
            let own = (row * 4 + column) as usize;
            assert!(sum.iter().enumerate().all(|(i, s)| *s == f32::from(i == own)), "{sum:?}");
        }
    }

    #[test]
    fn weights_sum_to_one_and_taps_stay_inside() {
        let grids = [[2, 6, 2], [1, 2, 10]];
        let (positions, _) = frames(&grids, 2).unwrap();
        let (index, weight) = bicubic_taps(5, &grids, &positions);
        assert_eq!((index.len(), weight.len()), (44 * TAPS, 44 * TAPS));
        assert!(index.iter().all(|i| (0..25).contains(i)));
        assert!(weight.chunks(TAPS).all(|w| (w.iter().sum::<f32>() - 1.0).abs() < 1e-6));
        // Computed with torch 2.15: a quarter of a place before the middle of the first.
        let (taps, weights) = axis_taps(0, 10, 5);
        assert_eq!(taps, [0, 0, 0, 1]);
        let torch = [-0.03515625, 0.26171875, 0.87890625, -0.10546875];
        assert!(weights.iter().zip(torch).all(|(a, b)| (a - b).abs() < 2e-7), "{weights:?}");
    }
}
