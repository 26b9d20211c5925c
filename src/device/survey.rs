//! Everything about devices that people ask when something is missing: drivers, devices, kernels that
//! the program carries and what compiled them, emulators, and how far each vendor's path is proven.
//! Gathers and states; starts no kernel, prints nothing, fails at nothing.

use super::driver::Driver;
use super::images::{COMPILERS, IMAGES};
use super::telemetry::{Reading, Telemetry};
use super::{Device, DeviceSpec, Vendor, open, probe};
use crate::base::{Error, Result};
use std::collections::BTreeSet;
use std::sync::Arc;

/// How the emulator is built.
pub const BUILD_EMULATOR: &str = "sh kernels/emu/build.sh";

/// One vendor's side of the machine and of the program.
#[derive(Debug)]
pub struct Survey {
    /// Whose.
    pub vendor: Vendor,
    /// How far the program's path to these devices is proven.
    pub proven: &'static str,
    /// Whether a library of the driver is there, fit for use or not.
    pub installed: bool,
    /// The devices, each open or with the reason why it is not; or why there are none.
    pub devices: Result<Vec<Result<Found>>>,
    /// Kernels that the program carries.
    pub kernels: Kernels,
    /// The emulated device, or why there is none.
    pub emulator: Result<Arc<dyn Device>>,
}

/// A device that is there.
#[derive(Debug)]
pub struct Found {
    /// The device.
    pub device: Arc<dyn Device>,
    /// Modules of kernels that the driver took, or the first that it did not.
    pub kernels: Result<usize>,
    /// Version of the driver's package, where the system tells it.
    pub package: Option<String>,
    /// What it says about itself.
    pub reading: Reading,
}

/// Kernels of one vendor in this program.
#[derive(Debug)]
pub struct Kernels {
    /// What compiled them, or why nothing did.
    pub compiler: std::result::Result<&'static str, &'static str>,
    /// Modules.
    pub modules: BTreeSet<&'static str>,
    /// Architectures, `fatbin` for several in one.
    pub archs: BTreeSet<&'static str>,
}

impl Kernels {
    /// What the program carries for a vendor.
    pub fn of(vendor: Vendor) -> Self {
        let ours = || IMAGES.iter().filter(move |i| i.vendor == vendor);
        let compiler = COMPILERS.iter().find(|c| c.vendor == vendor);
        Kernels {
            compiler: compiler.map_or(Err("the build has not looked for one"), |c| c.outcome),
            modules: ours().map(|i| i.module).collect(),
            archs: ours().map(|i| i.arch).collect(),
        }
    }
}

/// How far the path to a vendor's devices is proven.
pub fn proven(vendor: Vendor) -> &'static str {
    match vendor {
        Vendor::Cuda => {
            "by emulation, compilation and static gates; no run on a device is recorded yet"
        }
        Vendor::Hip => {
            "by emulation, compilation and static gates only; it has never run on an AMD device"
        }
    }
}

/// Looks at one vendor's side.
pub fn survey(vendor: Vendor) -> Survey {
    let kernels = Kernels::of(vendor);
    let emulator = open(DeviceSpec::Emulated(vendor))
        .and_then(|d| d.ok_or_else(|| Error::internal("an emulator that is the CPU")));
    let devices = count(vendor).map(|n| (0..n).map(|i| found(vendor, i, &kernels)).collect());
    let installed = Driver::is_there(vendor);
    Survey { vendor, proven: proven(vendor), installed, devices, kernels, emulator }
}

/// How many devices a vendor's driver has.
///
/// # Errors
/// Kind device if there is no driver, it refuses, is too old or sees none.
fn count(vendor: Vendor) -> Result<u32> {
    let count = probe::start(&Driver::installed(vendor)?, vendor.name())?;
    if count == 0 {
        return Err(Error::device("the driver sees no device")
            .at(vendor.name())
            .hint("in a container, pass the device through"));
    }
    Ok(count)
}

fn found(vendor: Vendor, number: u32, carried: &Kernels) -> Result<Found> {
    let device = open(DeviceSpec::Gpu(vendor, number))?
        .ok_or_else(|| Error::internal("a device that is the CPU"))?;
    let telemetry = Telemetry::of(device.properties());
    let package = match &telemetry {
        Telemetry::Nvml(w) => w.driver_version().ok(),
        _ => None,
    };
    let kernels = match carried.modules.len() {
        0 => Err(none_carried(vendor, carried)),
        n => carried.modules.iter().try_for_each(|m| device.load(m)).map(|()| n),
    };
    Ok(Found { kernels, package, reading: telemetry.read(), device })
}

/// The error of a program that carries no kernels of a vendor.
pub fn none_carried(vendor: Vendor, carried: &Kernels) -> Error {
    let found = match carried.compiler {
        Ok(compiler) => format!("none, though {compiler} was there"),
        Err(why) => format!("none: at build time, {why}"),
    };
    Error::device(format!("this program carries no kernels for {} devices", vendor.title()))
        .found(found)
        .hint("run tools/setup/kernel_compilers.sh, then build again with GRPO_RT_KERNELS=require")
}
