//! Kernel bindings beside the ops' own files: launches that several ops share, and those that are
//! long. One file each; nothing here computes anything.

pub mod fold; // sums over rows
pub mod matmul; // matrix products
pub mod rows; // element-wise launches by rows
