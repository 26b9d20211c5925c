//! Arithmetic shared by the CPU forms of the ops: vector loops compiled for several instruction
//! sets, elementary functions, matrix multiplication. Nothing here knows a tape or a shape rule.

pub mod attention; // tiles of attention, forward and backward
pub mod choose; // one of many by weight, for the sampler
pub mod gemm; // matrix multiplication: packing, tiles, threads
pub mod logsumexp; // one walk over logits for head and sampler
pub mod rows; // work cut into tasks by rows and columns
pub mod simd; // run-time choice of the instruction set
pub mod vecmath; // exp, ln, tanh, erf, sums in a fixed order

pub use gemm::{Mat, gemm_f32, gemm_real};
pub use simd::{Isa, vectorised};
