//! Floor 1: where bytes live and kernels run. All foreign interfaces of vendors belong here and
//! nowhere else. Today: the CPU.

pub mod cpu;
pub mod known; // accelerators by name, for plans without a device

pub use cpu::{HostArena, RawView};
pub use known::KnownDevice;
