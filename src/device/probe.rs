//! What is on this machine, and opening it by name. Absence is an error with a reason, which `doctor`
//! prints and `--device` reports; looking never panics and never starts anything but a driver.

use super::driver::Driver;
use super::{Device, Gpu, MatmulImpl, Vendor, fault};
use crate::base::{Error, Result};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// Oldest driver that reads our images: 12.8, the first for everything that the kernels use.
const OLDEST_CUDA: i32 = 12_080;
/// Oldest ROCm whose properties struct we know.
const OLDEST_HIP: i32 = 60_000_000;

/// Which device a run is to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceSpec {
    /// This machine's processors.
    #[default]
    Cpu,
    /// Device of this number.
    Gpu(Vendor, u32),
    /// The emulator of that vendor's devices. For tests.
    Emulated(Vendor),
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceSpec::Cpu => f.write_str("cpu"),
            DeviceSpec::Gpu(v, n) => write!(f, "{}:{n}", v.name()),
            DeviceSpec::Emulated(v) => write!(f, "emu-{}", v.name()),
        }
    }
}

impl FromStr for DeviceSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let vendor = |name: &str| Vendor::ALL.into_iter().find(|v| v.name() == name);
        let (name, number) = text.split_once(':').unwrap_or((text, "0"));
        let spec = match (name.strip_prefix("emu-"), number.parse()) {
            _ if text == "cpu" => Some(DeviceSpec::Cpu),
            (Some(name), _) => vendor(name).map(DeviceSpec::Emulated),
            (None, Ok(n)) => vendor(name).map(|v| DeviceSpec::Gpu(v, n)),
            _ => None,
        };
        spec.ok_or_else(|| {
            Error::usage("there is no such device")
                .expected("cpu, cuda:0, hip:0 (or another number), emu-cuda or emu-hip")
                .found(text)
        })
    }
}

/// Opens a device; `None` for the CPU.
///
/// # Errors
/// Kind device, with the reason why it is not there.
pub fn open(spec: DeviceSpec) -> Result<Option<Arc<dyn Device>>> {
    Ok(opened(spec)?.map(|gpu| Arc::new(gpu) as Arc<dyn Device>))
}

/// Opens a device whose products of linear layers are computed as asked; `None` for the CPU.
///
/// # Errors
/// As [`open`]; kind usage or device if there is no vendor's library for the device.
pub fn open_with(spec: DeviceSpec, matmul: MatmulImpl) -> Result<Option<Arc<dyn Device>>> {
    if matmul == MatmulImpl::Own {
        return open(spec);
    }
    let none = |e: Error| e.key("matmul").found(spec.to_string()).hint("use --matmul own");
    match spec {
        DeviceSpec::Cpu => Err(none(Error::usage("the CPU has no vendor's matrix products"))),
        DeviceSpec::Emulated(_) => {
            Err(none(Error::device("an emulated device has no vendor's matrix products")))
        }
        DeviceSpec::Gpu(..) => open_with_library(spec, None),
    }
}

/// Opens a device whose products of linear layers are computed by the vendor's library, installed or at
/// `path`. For tests, which bring a library of their own to an emulated device.
///
/// # Errors
/// As [`open`]; kind device if the library cannot be used.
pub fn open_with_library(spec: DeviceSpec, path: Option<&Path>) -> Result<Option<Arc<dyn Device>>> {
    let Some(mut gpu) = opened(spec)? else { return Ok(None) };
    gpu.use_vendor_matmul(path)?;
    Ok(Some(Arc::new(gpu)))
}

fn opened(spec: DeviceSpec) -> Result<Option<Gpu>> {
    let (driver, number) = match spec {
        DeviceSpec::Cpu => return Ok(None),
        DeviceSpec::Gpu(vendor, n) => (Driver::installed(vendor)?, n),
        DeviceSpec::Emulated(vendor) => (Driver::at(vendor, &emulator(vendor)?)?, 0),
    };
    let count = start(&driver, &spec.to_string())?;
    if number >= count {
        return Err(Error::device("there is no device of this number")
            .key("device")
            .expected(match count {
                0 => "a device; the driver sees none".to_string(),
                n => format!("a number below {n}"),
            })
            .found(spec.to_string())
            .hint("`grpo-rt doctor` lists the devices; in a container, pass the device through"));
    }
    Ok(Some(Gpu::open(driver, number as i32, &spec.to_string())?))
}

/// Initialises a driver and counts its devices.
///
/// # Errors
/// Kind device if it refuses, or is too old.
pub fn start(driver: &Driver, spec: &str) -> Result<u32> {
    let done = |call: &str, code: i32| match code {
        0 => Ok(()),
        _ => Err(fault::error(spec, call, code, driver.name_of(code).as_deref())),
    };
    // SAFETY: the first call to a driver.
    done("init", unsafe { (driver.init)(0) })?;
    let (mut version, mut count) = (0, 0);
    // SAFETY: writes one number.
    done("driver version", unsafe { (driver.version)(&raw mut version) })?;
    let oldest = if driver.vendor == Vendor::Cuda { OLDEST_CUDA } else { OLDEST_HIP };
    if version < oldest {
        return Err(Error::device("the driver is too old")
            .at(spec.to_string())
            .expected(format!("version {} or later", version_text(driver.vendor, oldest)))
            .found(version_text(driver.vendor, version))
            .hint("update the driver, or use --device cpu"));
    }
    // SAFETY: writes one number.
    done("device count", unsafe { (driver.device_count)(&raw mut count) })?;
    Ok(count.max(0) as u32)
}

/// `12.8` of 12080, `6.2` of 60200000.
pub fn version_text(vendor: Vendor, version: i32) -> String {
    match vendor {
        Vendor::Cuda => format!("{}.{}", version / 1000, version % 1000 / 10),
        Vendor::Hip => format!("{}.{}", version / 10_000_000, version / 100_000 % 100),
    }
}

/// The emulator's library: in the folder that `GRPO_RT_TEST_EMULATOR` names, or where its script puts it,
/// `target/emu` of the checkout.
fn emulator(vendor: Vendor) -> Result<PathBuf> {
    let file = format!("libgrt_emu_{}.so", vendor.name());
    let folders = match std::env::var_os("GRPO_RT_TEST_EMULATOR") {
        Some(folder) => vec![PathBuf::from(folder)],
        None => {
            let exe = std::env::current_exe().unwrap_or_default();
            let target = exe.ancestors().find(|p| p.ends_with("target")).map(PathBuf::from);
            let here = std::env::current_dir().unwrap_or_default().join("target");
            [target, Some(here)].into_iter().flatten().map(|p| p.join("emu")).collect()
        }
    };
    folders.iter().map(|f| f.join(&file)).find(|p| p.exists()).ok_or_else(|| {
        Error::device("the emulator is not built")
            .expected(file.clone())
            .found(format!(
                "none in {}",
                folders.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", ")
            ))
            .hint("run kernels/emu/build.sh, or name its folder in GRPO_RT_TEST_EMULATOR")
    })
}
