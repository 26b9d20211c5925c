//! Floor 1: where bytes live and kernels run. All foreign interfaces of vendors belong here and
//! nowhere else. Today: the CPU, and the compiled kernels of devices to come.

pub mod cpu;
pub mod images;

pub use cpu::{HostArena, RawView};

/// Whose driver runs a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vendor {
    /// NVIDIA's: libcuda.
    Cuda,
    /// AMD's: libamdhip64.
    Hip,
}
