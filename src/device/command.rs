//! What a device is asked to do: kernel launches with one by-value argument struct each, fills and
//! copies. Plain data, so that a list of commands can be compared with an earlier one, timed one by
//! one or written to a trace. Nothing here calls a driver.

use super::blas::Gemm;
use bytemuck::{Pod, Zeroable};

/// An address in device memory.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable, Default)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// No address: an argument that a kernel does not read.
    pub const NULL: DevicePtr = DevicePtr(0);

    /// The address `bytes` further on.
    #[must_use]
    pub fn offset(self, bytes: usize) -> DevicePtr {
        DevicePtr(self.0 + bytes as u64)
    }
}

/// One kernel launch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Launch {
    /// File of `kernels/` without its ending.
    pub module: &'static str,
    /// Name of the kernel in it.
    pub kernel: &'static str,
    /// Blocks in each dimension.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// The argument struct.
    pub args: Vec<u8>,
    /// Address ranges that the kernel may touch: (first byte, end). For the emulator, which checks
    /// them; empty on real devices.
    pub ranges: Vec<[u64; 2]>,
}

/// One entry of a device's queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Command {
    /// Runs a kernel.
    Launch(Launch),
    /// A matrix product by the vendor's library.
    Matmul(Gemm),
    /// Sets bytes.
    Fill {
        /// First byte.
        to: DevicePtr,
        /// What each byte becomes.
        byte: u8,
        /// How many.
        bytes: usize,
    },
    /// Copies bytes within the device; the ranges do not overlap.
    Copy {
        /// First byte written.
        to: DevicePtr,
        /// First byte read.
        from: DevicePtr,
        /// How many.
        bytes: usize,
    },
}
