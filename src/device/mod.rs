//! Floor 1: where bytes live and kernels run. All foreign interfaces of vendors belong here and
//! nowhere else. Today: the CPU.

pub mod cpu;

pub use cpu::{HostArena, RawView};
