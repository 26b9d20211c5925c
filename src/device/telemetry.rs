//! What a device says about itself while it works: memory, power, utilisation, temperature. Read from
//! NVIDIA's management library or from the files of AMD's kernel driver, through nothing that a kernel
//! runs on. What a system does not tell is absent with a reason; nothing here is an error of a run.

pub mod nvml; // NVIDIA's management library, opened at run time
pub mod sysfs; // files of the kernel's driver for AMD devices

use super::{Properties, Vendor};
use std::path::Path;

/// A figure, or why there is none.
pub type Figure = std::result::Result<f64, String>;

/// What a device said at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Bytes of device memory that are taken, by all programs.
    pub memory_used: Figure,
    /// Bytes of device memory.
    pub memory_total: Figure,
    /// Watts that the board draws.
    pub power: Figure,
    /// Share of the last moment in which a kernel ran, in percent.
    pub utilization: Figure,
    /// Degrees Celsius.
    pub temperature: Figure,
}

impl Reading {
    /// A reading without figures.
    pub fn absent(why: &str) -> Self {
        let none = || Err(why.to_string());
        Reading {
            memory_used: none(),
            memory_total: none(),
            power: none(),
            utilization: none(),
            temperature: none(),
        }
    }

    /// The figures by the last part of their metrics' names.
    pub fn named(&self) -> [(&'static str, &Figure); 5] {
        [
            ("memory_used", &self.memory_used),
            ("memory_total", &self.memory_total),
            ("power", &self.power),
            ("utilization", &self.utilization),
            ("temperature", &self.temperature),
        ]
    }
}

/// Where the readings of one device come from.
#[derive(Debug)]
pub enum Telemetry {
    /// NVIDIA's library.
    Nvml(nvml::Watched),
    /// A folder of the kernel's driver.
    Sysfs(sysfs::Card),
    /// Nowhere.
    Absent(String),
}

impl Telemetry {
    /// Looks for what tells of a device.
    pub fn of(device: &Properties) -> Self {
        if device.emulated {
            return Telemetry::Absent("the device is emulated".into());
        }
        let Some(bus) = device.bus.as_deref() else {
            return Telemetry::Absent("the driver does not say where the device is".into());
        };
        let found = match device.vendor {
            Vendor::Cuda => nvml::Watched::open(nvml::LIBRARY, bus).map(Telemetry::Nvml),
            Vendor::Hip => sysfs::Card::find(Path::new("/sys"), bus).map(Telemetry::Sysfs),
        };
        found.unwrap_or_else(Telemetry::Absent)
    }

    /// What the device says now. Takes microseconds to a few milliseconds.
    pub fn read(&self) -> Reading {
        match self {
            Telemetry::Nvml(w) => w.read(),
            Telemetry::Sysfs(c) => c.read(),
            Telemetry::Absent(why) => Reading::absent(why),
        }
    }
}
