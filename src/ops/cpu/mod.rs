//! Arithmetic shared by the CPU forms of the ops: vector loops compiled for several instruction
//! sets, elementary functions, matrix multiplication. Nothing here knows a tape or a shape rule.

pub mod gemm; // matrix multiplication: public forms, blocking, threads
mod gemm_kernels; // the register tiles of gemm, one per instruction set
mod gemm_thin; // matrix multiplication for few rows
pub mod rows; // how loops are cut into tasks
pub mod simd; // run-time choice of the instruction set
pub mod vecmath; // exp, ln, tanh, erf, sums in a fixed order

pub use gemm::{Mat, gemm_f32, gemm_f32_serial, gemm_real};
pub use simd::{Isa, vectorised};
