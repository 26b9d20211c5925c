//! `grpo-rt ops`: every op of the table on a device: whether it agrees with the f64 reference, forward
//! and backward, how far off it is, and with `--bench` how fast it is at sizes of real models. Changes
//! nothing.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Outcome;
use super::output::print;
use crate::base::{DType, Error, Result};
use crate::device::{self, Device, DeviceSpec, KnownDevice, MatmulImpl};
use crate::ops::{Case, NO_KERNEL, OPS, OpSpec};
use crate::options::Options;
use crate::tape::conformance::agrees;
use crate::tape::measure::{Measured, measure};

/// Seed of the cases' numbers.
const SEED: u64 = 17;

/// What a table is made for.
struct Table {
    device: Option<Arc<dyn Device>>,
    name: String,
    known: Option<&'static KnownDevice>,
    json: bool,
}

/// Prints the table.
///
/// # Errors
/// If the device is not there, no op has the name, or an op does not agree.
pub fn ops(options: &Options) -> Result<Outcome> {
    let spec: DeviceSpec =
        options.text("device").unwrap_or("cpu").parse().map_err(|e: Error| e.key("device"))?;
    let device = device::open_with(spec, MatmulImpl::named(options.text("matmul")))?;
    let known = device.as_ref().and_then(|d| KnownDevice::recognised(&d.properties().name));
    let table = Table { device, name: spec.to_string(), known, json: options.flag("json") };
    let wanted = options.text("op");
    let specs: Vec<&OpSpec> =
        OPS.iter().copied().filter(|s| wanted.is_none_or(|w| s.name == w)).collect();
    if specs.is_empty() {
        let names: Vec<&str> = OPS.iter().map(|s| s.name).collect();
        return Err(Error::usage("there is no such op")
            .key("op")
            .expected(names.join(", "))
            .found(wanted.unwrap_or_default()));
    }
    let bench = options.flag("bench");
    table.head(bench);
    let mut failed = 0;
    for spec in specs {
        for float in [DType::F32, DType::BF16] {
            if float == DType::F32 || spec.bf16_roundings > 0 {
                match bench {
                    true => table.measure(spec, float)?,
                    false => failed += table.check(spec, float),
                }
            }
        }
    }
    match failed {
        0 => Ok(Outcome::Done),
        n => Err(Error::device("not every op agrees with its reference")
            .at(table.name)
            .expected("pass in every row")
            .found(format!("{n} rows with fail or missing"))
            .hint("`cargo test --test conformance` says which element; see docs/porting.md")),
    }
}

impl Table {
    fn head(&self, bench: bool) {
        if self.json {
            return;
        }
        print(&match bench {
            true => format!(
                "{:<22} {:<36} {:<9} {:>10} {:>9} {:>10} {:>7}\n",
                "op", "case", "dtype", "ms", "GB/s", "GFLOP/s", "limit"
            ),
            false => format!(
                "{:<22} {:<48} {:<9} {:<8} {:>9} {:>9}\n",
                "op", "case", "dtype", "status", "forward", "backward"
            ),
        });
    }

    /// Prints a row for each case; returns how many do not pass.
    fn check(&self, spec: &OpSpec, float: DType) -> usize {
        let mut failed = 0;
        for case in (spec.cases)() {
            let result = agrees(spec, &case, float, SEED, self.device.as_ref());
            let (status, why) = match &result {
                Ok(_) => ("pass", None),
                Err(e) if e.contains(NO_KERNEL) => ("missing", Some(e.clone())),
                Err(e) => ("fail", Some(e.clone())),
            };
            failed += usize::from(result.is_err());
            let e = result.unwrap_or_default();
            print(&match self.json {
                true => self.line(
                    spec.name,
                    &case,
                    float,
                    json!({"status": status, "error": {"forward": e.forward, "backward": e.backward}, "why": why}),
                ),
                false => format!(
                    "{:<22} {:<48} {:<9} {status:<8} {:>9.1e} {:>9.1e}\n{}",
                    spec.name,
                    case.label,
                    float.torch_name(),
                    e.forward,
                    e.backward,
                    why.map_or(String::new(), |w| format!("    {w}\n"))
                ),
            });
        }
        failed
    }

    fn measure(&self, spec: &OpSpec, float: DType) -> Result<()> {
        for case in (spec.bench)() {
            for m in measure(&case, float, self.device.as_ref())? {
                let share = self.known.map(|k| limit(k, &m) / m.seconds);
                print(&match self.json {
                    true => self.line(
                        m.name,
                        &case,
                        float,
                        json!({"seconds": m.seconds, "bytes": m.cost.bytes, "flops": m.cost.flops, "share": share}),
                    ),
                    false => format!(
                        "{:<22} {:<36} {:<9} {:>10.4} {:>9.1} {:>10.1} {:>7}\n",
                        m.name,
                        case.label,
                        float.torch_name(),
                        m.seconds * 1e3,
                        m.cost.bytes / m.seconds / 1e9,
                        m.cost.flops / m.seconds / 1e9,
                        share.map_or(String::new(), |s| format!("{:.0} %", 100.0 * s))
                    ),
                });
            }
        }
        Ok(())
    }

    /// A row as JSON: what it is about, then what was found.
    fn line(&self, op: &str, case: &Case, float: DType, found: Value) -> String {
        let mut row = json!({
            "op": op, "case": case.label, "dtype": float.torch_name(), "device": self.name,
            "inputs": case.inputs.iter().map(|(shape, ..)| shape).collect::<Vec<_>>(),
        });
        if let (Value::Object(row), Value::Object(found)) = (&mut row, found) {
            row.extend(found);
        }
        format!("{row}\n")
    }
}

/// Seconds that a device needs at least: for its operations or for its bytes.
fn limit(device: &KnownDevice, m: &Measured) -> f64 {
    (m.cost.flops / device.bf16_flops).max(m.cost.bytes / device.bytes_per_second)
}
