//! Sums of a few rows of a table, each times a weight: position embeddings interpolated to the grid of an
//! image (four taps bilinear, sixteen bicubic). Indices and weights are made on the host; nothing is
//! interpolated here. The backward pass adds into the table in ascending order of the taps; no atomics:
//! threads own rows of the table.

use super::cpu::rows::rows_per_task;
use super::cpu::vectorised;
use super::gather_rows::scatter_weighted;
use super::gpu::{self, rows};
use super::shapes::{beside, bytes, require, same_float};
use super::{Backward, Case, Cost, Fill, Io, Launcher, Op, OpSpec, Slot, Stored, TensorType};
use crate::base::{DType, Result, Tolerance};
use crate::device::DevicePtr;
use half::bf16;
use rayon::prelude::*;
use std::sync::Arc;

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "weighted_rows",
    doc: "table[S,H], index i32[R*taps,1], weight[R,taps] to y[R,H]: sums of weighted rows of the table",
    cases,
    tolerance: Tolerance::rel(1e-6),
    bf16_roundings: 1,
    bench,
};

/// Inputs `table[S,H]`, `index` i32 of `R*taps` entries in `0..S`, `weight[R,taps]` of the statistics'
/// type; output `y[R,H]` with `y[r] = sum over taps k, ascending, of
/// weight[r,k] * table[index[r*taps + k]]`. Running it with an index outside panics. Weights have no
/// gradient.
#[derive(Debug, Clone, Copy)]
pub struct WeightedRows {
    /// Rows of the table in each sum; at least 1.
    pub taps: usize,
}

/// Inputs `dy[R,H]`, `index`, `weight`; output the gradient `[S,H]` of the table, fresh or added to.
#[derive(Debug, Clone, Copy)]
struct WeightedRowsBwdTable {
    taps: usize,
    rows: usize,
    fresh: bool,
}

/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct WeightedRowsArgs {
    table: DevicePtr,
    index: DevicePtr,
    weight: DevicePtr,
    y: DevicePtr,
    rows: i32,
    cols: i32,
    table_rows: i32,
    taps: i32,
}
const _: () = assert!(size_of::<WeightedRowsArgs>() == 48);

/// True if `index` and `weight` list `taps` taps for as many rows each, beside activations like `x`.
fn lists_ok(x: &TensorType, index: &TensorType, weight: &TensorType, taps: usize) -> bool {
    taps > 0
        && index.dtype == DType::I32
        && index.len() == weight.len()
        && weight.cols() == taps
        && beside(x, &[weight])
}

impl Op for WeightedRows {
    fn name(&self) -> &'static str {
        "weighted_rows"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = matches!(inputs, [table, index, weight]
            if same_float(&[table]) && lists_ok(table, index, weight, self.taps));
        let expected = format!("table[S,H], index i32[R*{0},1], weight[R,{0}]", self.taps);
        require(ok, self.name(), inputs, &expected)?;
        let table = inputs[0];
        Ok(vec![TensorType::matrix(inputs[2].rows(), table.cols(), table.dtype)])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => self.reference(io),
            DType::BF16 => self.fast::<bf16>(io),
            _ => self.fast::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let (rows, cols) = (k.out_type(0).rows(), k.out_type(0).cols());
        let args = WeightedRowsArgs {
            table: k.input(0),
            index: k.input(1),
            weight: k.input(2),
            y: k.output(0),
            rows: gpu::int(rows),
            cols: gpu::int(cols),
            table_rows: gpu::int(k.in_type(0).rows()),
            taps: gpu::int(self.taps),
        };
        let names = ["weighted_rows_f32", "weighted_rows_bf16"];
        gpu::by_rows(k, "rows", names, [rows, cols], &args);
        Ok(())
    }
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        let Some(dy) = b.grads[0] else { return Ok(vec![None; 3]) };
        let rows = b.tape.tensor_type(b.inputs[0]).rows();
        let back = |fresh| WeightedRowsBwdTable { taps: self.taps, rows, fresh };
        let from = [dy, b.inputs[1], b.inputs[2]];
        let dtable = match b.param_grads[0] {
            Some(grad) => {
                b.emit_into(back(false), &from, &[grad])?;
                None
            }
            None if b.needs[0] => Some(b.emit1(back(true), &from)?),
            None => None,
        };
        Ok(vec![dtable, None, None])
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let (table, y) = (inputs[0], outputs[0]);
        // The table is small beside the sums, and stays near.
        let flops = 2.0 * (y.len() * self.taps) as f64;
        let read = table.len().min(y.len() * self.taps) * table.dtype.size();
        Cost { flops, bytes: bytes(&inputs[1..], outputs) + read as f64 }
    }
}

impl WeightedRows {
    /// The definition.
    fn reference(&self, io: &Io) {
        let (table, index, weight) = (io.input::<f64>(0), io.input::<i32>(1), io.input::<f64>(2));
        let (y, h) = (io.output::<f64>(0), io.in_type(0).cols());
        y.fill(0.0);
        for (e, (&i, &w)) in index.iter().zip(weight).enumerate() {
            let y = &mut y[e / self.taps * h..][..h];
            y.iter_mut().zip(&table[i as usize * h..][..h]).for_each(|(y, x)| *y += w * x);
        }
    }

    fn fast<S: Stored>(&self, io: &Io) {
        let (table, index, weight) = (io.input::<S>(0), io.input::<i32>(1), io.input::<f32>(2));
        let (y, h, taps) = (io.output::<S>(0), io.in_type(0).cols(), self.taps);
        let rows = rows_per_task(h);
        (y.par_chunks_mut(rows * h), index.par_chunks(rows * taps), weight.par_chunks(rows * taps))
            .into_par_iter()
            .for_each(|(y, index, weight)| {
                vectorised(
                    #[inline(always)]
                    || {
                        let taps = index.chunks(taps).zip(weight.chunks(taps));
                        for (y, (index, weight)) in y.chunks_mut(h).zip(taps) {
                            weighted_row(table, index, weight, y);
                        }
                    },
                );
            });
    }
}

/// Columns that are summed at a time, in registers and the nearest cache.
const BLOCK: usize = 128;

/// `y = sum of weight * table[index]`, in f32 and in order, rounded once.
#[inline(always)]
fn weighted_row<S: Stored>(table: &[S], index: &[i32], weight: &[f32], y: &mut [S]) {
    let h = y.len();
    for (b, y) in y.chunks_mut(BLOCK).enumerate() {
        let mut acc = [0f32; BLOCK];
        for (&i, &w) in index.iter().zip(weight) {
            let x = &table[i as usize * h + b * BLOCK..][..y.len()];
            for (a, &x) in acc.iter_mut().zip(x) {
                *a = w.mul_add(x.load(), *a);
            }
        }
        for (y, &a) in y.iter_mut().zip(&acc) {
            *y = S::store(a);
        }
    }
}

impl Op for WeightedRowsBwdTable {
    fn name(&self) -> &'static str {
        "weighted_rows_bwd_table"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = matches!(inputs, [dy, index, weight] if same_float(&[dy])
            && weight.rows() == dy.rows() && lists_ok(dy, index, weight, self.taps));
        let expected = format!("dy[R,H], index i32[R*{0},1], weight[R,{0}]", self.taps);
        require(ok, self.name(), inputs, &expected)?;
        let fresh = TensorType::matrix(self.rows, inputs[0].cols(), inputs[0].dtype);
        Ok(if self.fresh { vec![fresh] } else { vec![] })
    }
    fn run(&self, io: &Io) {
        scatter_weighted(io, self.rows, self.taps, self.fresh);
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        rows::scatter_weighted(k, self.rows, self.taps, self.fresh);
        Ok(())
    }
    fn gpu_work(&self, inputs: &[&TensorType], _: &[&TensorType]) -> usize {
        rows::scatter_work(inputs[1])
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let into = outputs[0].len() * outputs[0].dtype.size();
        let updated = if self.fresh { 0 } else { into };
        Cost {
            flops: 2.0 * (inputs[0].len() * self.taps) as f64,
            bytes: bytes(inputs, outputs) + updated as f64,
        }
    }
}

fn case(label: &'static str, [s, h, r, taps]: [usize; 4], index: impl Fn(usize) -> usize) -> Case {
    let index: Vec<i32> = (0..r * taps).map(|e| index(e) as i32).collect();
    Case {
        label,
        op: Arc::new(WeightedRows { taps }),
        inputs: vec![
            (vec![s, h], Fill::Normal(1.0), true),
            (vec![r * taps, 1], Fill::Ints(index), false),
            (vec![r, taps], Fill::Normal(0.5).beside(), false),
        ],
    }
}

fn cases() -> Vec<Case> {
    vec![
        case("four taps", [9, 33, 7, 4], |e| e * 5 % 8),
        case("one tap", [3, 1, 2, 1], |e| 2 * e),
        case("the same row twice in a sum", [5, 24, 3, 4], |e| e / 2 % 5),
        case("sixteen taps", [40, 136, 21, 16], |e| e * 7 % 40),
        case("several tasks", [300, 300, 90, 4], |e| e * 11 % 290),
        case("a long list", [64, 8, 600, 4], |e| e * 13 % 64),
    ]
}

/// Sizes of real models.
fn bench() -> Vec<Case> {
    // Neighbours in two rows of a grid of 48.
    let corner = |e: usize| (e / 4 * 9 / 16 + e % 2 + e % 4 / 2 * 48) % 2304;
    vec![case("4096 x 1152, four of 2304 rows", [2304, 1152, 4096, 4], corner)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_all_its_taps() {
        let table = TensorType::matrix(5, 8, DType::F32);
        let index = TensorType::matrix(7, 1, DType::I32);
        let weight = TensorType::matrix(2, 4, DType::F32);
        let e = WeightedRows { taps: 4 }.infer(&[&table, &index, &weight]).unwrap_err();
        assert!(e.one_line().contains("index i32[R*4,1]"), "{e}");
    }
}
