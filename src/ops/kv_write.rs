//! Writes keys or values of new tokens into their rows of a cache. In place, no derivative.
//!
//! T tokens, S cache rows, C columns.

use crate::base::{DType, Error, Result};
use crate::device::DevicePtr;
use crate::ops::{Cost, Io, Launcher, Op, TensorType, gpu};
use bytemuck::Pod;
use half::bf16;

/// Inputs: `x[T,C]`, `row[T,1]`; updates `cache[S,C]` of `x`'s type: `cache[row[t]] = x[t]`; a negative
/// row is not written (its keys are in the cache already).
#[derive(Debug, Clone, Copy)]
pub struct KvWrite;

impl KvWrite {
    fn go<T: Pod>(io: &Io) {
        let (x, rows, c) = (io.input::<T>(0), io.input::<i32>(1), io.in_type(0).cols());
        let cache = io.output::<T>(0);
        for (x, &row) in x.chunks_exact(c).zip(rows).filter(|(_, row)| **row >= 0) {
            cache[row as usize * c..][..c].copy_from_slice(x);
        }
    }
}

/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct KvWriteArgs {
    x: DevicePtr,
    row: DevicePtr,
    cache: DevicePtr,
    rows: i32,
    cols: i32,
    cache_rows: i32,
    unused: i32,
}
const _: () = assert!(size_of::<KvWriteArgs>() == 40);

impl Op for KvWrite {
    fn name(&self) -> &'static str {
        "kv_write"
    }
    fn infer(&self, i: &[&TensorType]) -> Result<Vec<TensorType>> {
        if i[1].len() != i[0].rows() {
            return Err(Error::internal("kv_write: one row per token").found(format!("{i:?}")));
        }
        Ok(vec![])
    }
    fn run(&self, io: &Io) {
        assert_eq!(io.in_type(0).dtype, io.out_type(0).dtype, "kv_write: the cache's type");
        match io.float_type() {
            DType::F64 => Self::go::<f64>(io),
            DType::BF16 => Self::go::<bf16>(io),
            _ => Self::go::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let (x, cache) = (k.in_type(0), k.out_type(0));
        assert_eq!(x.dtype, cache.dtype, "kv_write: the cache's type");
        let args = KvWriteArgs {
            x: k.input(0),
            row: k.input(1),
            cache: k.output(0),
            rows: gpu::int(x.rows()),
            cols: gpu::int(x.cols()),
            cache_rows: gpu::int(cache.rows()),
            unused: 0,
        };
        let size = [x.rows(), x.cols()];
        gpu::by_rows(k, "rows", ["kv_write_f32", "kv_write_bf16"], size, &args);
        Ok(())
    }
    fn cost(&self, i: &[&TensorType], _: &[&TensorType]) -> Cost {
        // Of the cache only the rows that are written.
        let bytes = 2 * i[0].len() * i[0].dtype.size() + i[1].len() * i[1].dtype.size();
        Cost { flops: 0.0, bytes: bytes as f64 }
    }
}
