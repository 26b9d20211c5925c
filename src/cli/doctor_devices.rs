//! The devices' part of `doctor`: what the device floor's survey found, as text and as JSON, with two
//! measurements of each device that is there. An emulated device is named, never measured.

use serde_json::{Map, Value, json};

use super::output::counted;
use crate::base::{DType, Error, Result};
use crate::device::Vendor;
use crate::device::probe::version_text;
use crate::device::survey::{BUILD_EMULATOR, Found, Survey, none_carried, survey};
use crate::tape::rate::{copy_rate, matmul_rate};

/// Bytes of the measured copy: beyond every cache, small beside any device's memory.
const COPIED: usize = 512 << 20;
/// Rows of the measured product: enough tiles for every unit of a large device.
const ROWS: usize = 4096;

/// Both vendors' sides, and what was measured.
#[derive(Debug)]
pub struct Devices {
    sides: Vec<Side>,
}

/// One vendor's side.
#[derive(Debug)]
struct Side {
    survey: Survey,
    /// Of each device that opened, in the survey's order.
    rates: Vec<Rates>,
}

/// What was measured of one device.
#[derive(Debug)]
struct Rates {
    /// Bytes per second read and written.
    copy: Result<f64>,
    /// Operations per second of a product in bf16.
    matmul: Result<f64>,
}

/// Looks and measures.
pub fn look() -> Devices {
    let side = |vendor| {
        let survey = survey(vendor);
        let there = survey.devices.iter().flatten().flatten();
        let rates = there
            .map(|f| Rates {
                copy: copy_rate(&f.device, COPIED),
                matmul: matmul_rate(&f.device, ROWS, DType::BF16),
            })
            .collect();
        Side { survey, rates }
    };
    Devices { sides: Vendor::ALL.into_iter().map(side).collect() }
}

fn gib(bytes: f64) -> String {
    format!("{:.1} GiB", bytes / (1u64 << 30) as f64)
}

/// An error's parts as an object.
fn problem(e: &Error) -> Value {
    let parts = e.parts().into_iter().map(|(name, part)| (name.to_string(), json!(part)));
    Value::Object(parts.collect::<Map<_, _>>())
}

impl Devices {
    /// Names that `--device` takes, without the emulated ones.
    pub fn names(&self) -> Vec<String> {
        let found = self.sides.iter().flat_map(|s| s.survey.devices.iter().flatten().flatten());
        let name = |f: &Found| f.device.properties().spec.clone();
        std::iter::once("cpu".to_string()).chain(found.map(name)).collect()
    }

    /// What would make a device usable, with how to get it.
    pub fn missing(&self) -> Vec<String> {
        let mut list = Vec::new();
        for s in self.sides.iter().map(|s| &s.survey) {
            match &s.devices {
                Err(e) if s.installed => list.push(e.one_line()),
                // A machine without a vendor's driver misses nothing: it has none of its devices.
                Err(_) => {}
                Ok(devices) => {
                    for d in devices {
                        match d {
                            Err(e) => list.push(e.one_line()),
                            Ok(f) => list.extend(f.kernels.as_ref().err().map(Error::one_line)),
                        }
                    }
                }
            }
            if s.kernels.modules.is_empty() {
                list.push(none_carried(s.vendor, &s.kernels).one_line());
            }
        }
        list.dedup();
        list
    }

    /// Lines of (what, value).
    pub fn lines(&self) -> Vec<(String, String)> {
        self.sides.iter().flat_map(Side::lines).collect()
    }

    /// One object for each vendor.
    pub fn to_json(&self) -> Value {
        self.sides.iter().map(Side::to_json).collect()
    }
}

impl Side {
    fn lines(&self) -> Vec<(String, String)> {
        let s = &self.survey;
        let title = s.vendor.title();
        let mut lines = Vec::new();
        let mut say = |value: String| lines.push((title.to_string(), value));
        match &s.devices {
            Err(e) => say(format!("no device: {}", e.one_line())),
            Ok(devices) => {
                let mut rates = self.rates.iter();
                for d in devices {
                    match d {
                        Err(e) => say(format!("a device that cannot be used: {}", e.one_line())),
                        Ok(f) => {
                            device_lines(f, rates.next()).into_iter().for_each(&mut say);
                        }
                    }
                }
            }
        }
        let compiler = match s.kernels.compiler {
            Ok(c) => format!("compiled by {c}"),
            Err(why) => format!("no compiler at build time: {why}"),
        };
        let modules = counted(s.kernels.modules.len(), "module");
        say(format!("kernels carried: {modules}; {compiler}"));
        say(match &s.emulator {
            Ok(d) => {
                let p = d.properties();
                format!("{}: {} ({}), emulated on the processor; for tests", p.spec, p.name, p.arch)
            }
            Err(e) => format!("emulator: {}; build it with `{BUILD_EMULATOR}`", e.one_line()),
        });
        say(format!("proven {}", s.proven));
        lines
    }

    fn to_json(&self) -> Value {
        let s = &self.survey;
        let mut rates = self.rates.iter();
        let devices: Vec<Value> = s
            .devices
            .iter()
            .flatten()
            .map(|d| match d {
                Ok(f) => device_json(f, rates.next()),
                Err(e) => json!({ "problem": problem(e) }),
            })
            .collect();
        let emulator = match &s.emulator {
            Ok(d) => {
                let p = d.properties();
                json!({ "device": p.spec, "name": p.name, "arch": p.arch, "emulated": true })
            }
            Err(e) => json!({ "problem": problem(e), "build": BUILD_EMULATOR }),
        };
        json!({
            "vendor": s.vendor.name(),
            "title": s.vendor.title(),
            "proven": s.proven,
            "devices": devices,
            "problem": s.devices.as_ref().err().map(problem),
            "kernels": {
                "modules": s.kernels.modules,
                "architectures": s.kernels.archs,
                "compiler": s.kernels.compiler.ok(),
                "problem": s.kernels.compiler.err(),
            },
            "emulator": emulator,
        })
    }
}

fn device_lines(f: &Found, rates: Option<&Rates>) -> Vec<String> {
    let p = f.device.properties();
    let mut driver = format!("driver {}", version_text(p.vendor, p.driver));
    if let Some(package) = &f.package {
        driver += &format!(" ({package})");
    }
    let mut lines = vec![
        format!("{}: {} ({}), {} units, {driver}", p.spec, p.name, p.arch, p.units),
        format!("{}: {} of memory, {} free", p.spec, gib(p.memory as f64), gib(p.available as f64)),
        match &f.kernels {
            Ok(n) => format!("{}: the driver takes all {}", p.spec, counted(*n, "kernel module")),
            Err(e) => format!("{}: no kernels: {}", p.spec, e.one_line()),
        },
    ];
    if let Some(r) = rates {
        let rate = |r: &Result<f64>, unit: &str, scale: f64| match r {
            Ok(v) => format!("{:.1} {unit}, measured now", v * scale),
            Err(e) => format!("not measured: {}", e.one_line()),
        };
        lines.push(format!("{}: matmul {}", p.spec, rate(&r.matmul, "TFLOP/s in bfloat16", 1e-12)));
        lines.push(format!("{}: memory copy {}", p.spec, rate(&r.copy, "GB/s", 1e-9)));
    }
    let said = [
        ("power", &f.reading.power, "W"),
        ("busy", &f.reading.utilization, "%"),
        ("temperature", &f.reading.temperature, "°C"),
    ];
    let said = said.map(|(name, figure, unit)| match figure {
        Ok(v) => format!("{name} {v:.0} {unit}"),
        Err(why) => format!("{name} unknown ({why})"),
    });
    lines.push(format!("{}: {}", p.spec, said.join(", ")));
    lines
}

fn device_json(f: &Found, rates: Option<&Rates>) -> Value {
    let p = f.device.properties();
    let reading: Map<String, Value> = f
        .reading
        .named()
        .into_iter()
        .map(|(name, figure)| match figure {
            Ok(v) => (name.to_string(), json!(v)),
            Err(why) => (name.to_string(), json!({ "absent": why })),
        })
        .collect();
    let rate = |r: &Result<f64>| match r {
        Ok(v) => json!(v),
        Err(e) => json!({ "problem": problem(e) }),
    };
    json!({
        "device": p.spec,
        "name": p.name,
        "arch": p.arch,
        "driver": version_text(p.vendor, p.driver),
        "driver_package": f.package,
        "units": p.units,
        "wave": p.wave,
        "memory_total_bytes": p.memory,
        "memory_free_bytes": p.available,
        "kernel_modules_taken": f.kernels.as_ref().ok(),
        "problem": f.kernels.as_ref().err().map(problem),
        "reading": reading,
        "matmul_bf16_flops_per_second": rates.map(|r| rate(&r.matmul)),
        "memory_copy_bytes_per_second": rates.map(|r| rate(&r.copy)),
    })
}
