//! Launches of ops whose own file would grow too long with them. Computes nothing; the kernels are in
//! `kernels/`.

pub mod matmul; // products of the linear layers
