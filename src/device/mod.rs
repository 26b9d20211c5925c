//! Floor 1: where bytes live and kernels run. All foreign interfaces of vendors are here and nowhere
//! else. A missing driver, symbol or device is a value with a reason; nothing here panics because of
//! what a machine lacks, and nothing here knows an op.

pub mod blas; // the vendors' own matrix products, as a choice
pub mod command; // what is enqueued: launches, fills, copies
pub mod cpu; // host memory
pub mod driver; // one function table for both vendors' drivers
pub mod fault; // what the codes of a driver mean, and what to do
pub mod gpu; // a device behind such a table
mod graph; // launches that repeat are replayed
pub mod images; // kernels that the program carries
pub mod known; // accelerators by name, for plans without a device
pub mod probe; // what is on this machine
pub mod survey; // all of it, for people
pub mod telemetry; // what a device says about itself

pub use blas::{Gemm, MatmulImpl};
pub use command::{Command, DevicePtr, Launch};
pub use cpu::{HostArena, RawView};
pub use gpu::Gpu;
pub use known::KnownDevice;
pub use probe::{DeviceSpec, open, open_with};

use crate::base::Result;
use std::fmt::Debug;
use std::sync::Arc;

/// Whose driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vendor {
    /// NVIDIA: `libcuda`.
    Cuda,
    /// AMD: `libamdhip64`.
    Hip,
}

impl Vendor {
    /// Both, in the order in which people are told of them.
    pub const ALL: [Vendor; 2] = [Vendor::Cuda, Vendor::Hip];

    /// Name for people.
    pub fn title(self) -> &'static str {
        match self {
            Vendor::Cuda => "NVIDIA",
            Vendor::Hip => "AMD",
        }
    }
    /// Name as in `--device`.
    pub fn name(self) -> &'static str {
        match self {
            Vendor::Cuda => "cuda",
            Vendor::Hip => "hip",
        }
    }
}

/// What a device is.
#[derive(Debug, Clone, PartialEq)]
pub struct Properties {
    /// As `--device` names it: `cuda:0`, `emu-hip`.
    pub spec: String,
    /// As the driver names it.
    pub name: String,
    /// What kernels are built for: `sm_90`, `gfx942`.
    pub arch: String,
    /// Whose driver.
    pub vendor: Vendor,
    /// Driver version as the driver says it (13000 is 13.0).
    pub driver: i32,
    /// PCI address, such as `0000:1b:00.0`, if the driver says it.
    pub bus: Option<String>,
    /// Threads that run in step: 32 or 64.
    pub wave: usize,
    /// Streaming multiprocessors or compute units.
    pub units: usize,
    /// Bytes of device memory.
    pub memory: usize,
    /// Bytes of it that were free when the device was opened.
    pub available: usize,
    /// Most bytes of shared memory that a block can have.
    pub shared: usize,
    /// True if kernels run on this machine's processors.
    pub emulated: bool,
    /// Whose kernels compute the products of linear layers.
    pub matmul: MatmulImpl,
}

/// A device that runs kernels. Everything is enqueued in order on one stream; uploads, downloads and
/// [`Device::synchronize`] wait.
pub trait Device: Send + Sync + Debug {
    /// What it is.
    fn properties(&self) -> &Properties;
    /// Loads a module of kernels now, which otherwise happens when one of them is first launched.
    ///
    /// # Errors
    /// Kind device if the program has no image for the device, or the driver does not take it.
    fn load(&self, module: &'static str) -> Result<()>;
    /// Takes a block of device memory, aligned to 256 bytes; its content is undefined.
    ///
    /// # Errors
    /// Kind device if there is not enough.
    fn allocate(&self, bytes: usize) -> Result<DevicePtr>;
    /// Gives a block back.
    fn free(&self, block: DevicePtr);
    /// Copies bytes to the device, behind everything enqueued before.
    ///
    /// # Errors
    /// Kind device if the device failed, now or in what was enqueued before.
    fn upload(&self, to: DevicePtr, bytes: &[u8]) -> Result<()>;
    /// Copies bytes from the device, behind everything enqueued before, and waits for them.
    ///
    /// # Errors
    /// As [`Device::upload`].
    fn download(&self, from: DevicePtr, bytes: &mut [u8]) -> Result<()>;
    /// Enqueues commands, to run one after another.
    ///
    /// # Errors
    /// Kind device if a kernel is missing or cannot be launched.
    fn submit(&self, commands: &[Command]) -> Result<()>;
    /// Runs commands one by one and measures each in seconds by the device's own clock.
    ///
    /// # Errors
    /// As [`Device::submit`].
    fn time(&self, commands: &[Command]) -> Result<Vec<f64>>;
    /// Waits for everything enqueued.
    ///
    /// # Errors
    /// Kind device if something of it failed.
    fn synchronize(&self) -> Result<()>;
    /// Free and total bytes of device memory.
    ///
    /// # Errors
    /// Kind device if the driver does not say.
    fn memory(&self) -> Result<(usize, usize)>;
}

/// A block of device memory that is given back when dropped.
#[derive(Debug)]
pub struct DeviceArena {
    device: Arc<dyn Device>,
    base: DevicePtr,
    bytes: usize,
}

impl DeviceArena {
    /// Takes `bytes` in one allocation.
    ///
    /// # Errors
    /// Kind device if there is not enough memory.
    pub fn reserve(device: &Arc<dyn Device>, bytes: usize) -> Result<Self> {
        let bytes = bytes.max(cpu::ARENA_ALIGN);
        let base = device.allocate(bytes)?;
        Ok(DeviceArena { device: device.clone(), base, bytes })
    }
    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }
    /// Bytes taken.
    pub fn capacity(&self) -> usize {
        self.bytes
    }
    /// The address of byte `offset`. Panics if `bytes` from there on leave the block.
    pub fn at(&self, offset: usize, bytes: usize) -> DevicePtr {
        assert!(offset + bytes <= self.bytes, "view leaves the arena");
        self.base.offset(offset)
    }
}

impl Drop for DeviceArena {
    fn drop(&mut self) {
        self.device.free(self.base);
    }
}
