//! `grpo-rt doctor`: what this machine has, what of it the program uses, and what is missing. Changes
//! nothing, and takes about a second, which its measurements need.

use serde_json::{Value, json};

use super::Outcome;
use super::bench::{copy_bandwidth, matmul_flops};
use super::doctor_devices::{self, Devices};
use super::machine::Machine;
use super::output::print;
use crate::base::Result;
use crate::ops::cpu::Isa;
use crate::options::Options;

/// Memory below which even the demo may not fit, in bytes.
const SMALL_MEMORY: u64 = 2 << 30;

/// Everything doctor finds out.
struct Findings {
    machine: Machine,
    /// Threads of the program.
    threads: usize,
    /// Vector instructions that the kernels were compiled for and this machine has.
    kernels: &'static str,
    flops: f64,
    bytes_per_second: f64,
    devices: Devices,
    missing: Vec<String>,
}

/// Says what the machine can do.
///
/// # Errors
/// None of its own.
pub fn doctor(options: &Options) -> Result<Outcome> {
    let machine = Machine::look();
    let kernels = match Isa::best() {
        Isa::Avx512 => "AVX-512",
        Isa::Avx2 => "AVX2",
        Isa::Baseline => "baseline",
    };
    let devices = doctor_devices::look();
    let mut missing = missing(&machine, Isa::best());
    missing.extend(devices.missing());
    let findings = Findings {
        missing,
        devices,
        machine,
        threads: rayon::current_num_threads(),
        kernels,
        flops: matmul_flops(),
        bytes_per_second: copy_bandwidth(),
    };
    if options.flag("json") {
        print(&format!("{:#}\n", findings.to_json()));
    } else {
        print(&findings.to_text());
    }
    Ok(Outcome::Done)
}

/// What would make runs faster, better or possible.
fn missing(machine: &Machine, isa: Isa) -> Vec<String> {
    let mut list = Vec::new();
    match isa {
        Isa::Baseline => list.push(
            "no AVX2 and FMA: matrix products run many times slower; results are the same".into(),
        ),
        Isa::Avx2 => list.push("no AVX-512: matrix products run at half the width".into()),
        Isa::Avx512 => {}
    }
    if machine.memory_available.is_some_and(|m| m < SMALL_MEMORY) {
        list.push(format!(
            "memory: less than {} free; close other programs or give a --memory_budget",
            gib(SMALL_MEMORY)
        ));
    }
    if cfg!(not(feature = "jpeg-exact")) {
        list.push(
            "built without jpeg-exact: pixels of JPEG files may differ by one from Pillow's".into(),
        );
    }
    if cfg!(debug_assertions) {
        list.push("built without --release: everything is many times slower".into());
    }
    list
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
}

impl Findings {
    fn to_text(&self) -> String {
        let m = &self.machine;
        let unknown = || "unknown".to_string();
        let memory = match (m.memory_total, m.memory_available) {
            (Some(total), Some(free)) => format!("{}, {} available", gib(total), gib(free)),
            _ => unknown(),
        };
        let cores = m.cores.map_or_else(unknown, |n| n.to_string());
        let instructions = match m.instructions.as_slice() {
            [] => unknown(),
            some => some.join(" "),
        };
        let lines = [
            ("program", format!("grpo-rt {} for {}", env!("CARGO_PKG_VERSION"), m.system)),
            ("processor", m.processor.clone().unwrap_or_else(unknown)),
            ("cores", format!("{cores} physical, {} threads at once", m.threads)),
            ("threads", format!("{} used (--threads)", self.threads)),
            ("instructions", format!("{instructions}; kernels use {}", self.kernels)),
            ("memory", memory),
            ("matmul", format!("{:.1} GFLOP/s in float32, measured now", self.flops / 1e9)),
            ("memory copy", format!("{:.1} GB/s, measured now", self.bytes_per_second / 1e9)),
            ("devices", format!("{} (--device)", self.devices.names().join(", "))),
        ];
        let lines = lines.into_iter().map(|(k, v)| (k.to_string(), v)).chain(self.devices.lines());
        let mut out: String = lines.map(|(k, v)| format!("{k:<14}{v}\n")).collect();
        out += "\n";
        if self.missing.is_empty() {
            out += "Nothing is missing. New here? grpo-rt demo\n";
        }
        out + &self.missing.iter().map(|m| format!("missing: {m}\n")).collect::<String>()
    }

    fn to_json(&self) -> Value {
        let m = &self.machine;
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "system": m.system,
            "processor": m.processor,
            "cores_physical": m.cores,
            "threads_available": m.threads,
            "threads_used": self.threads,
            "instructions": m.instructions,
            "kernels": self.kernels,
            "memory_total_bytes": m.memory_total,
            "memory_available_bytes": m.memory_available,
            "devices": self.devices.names(),
            "accelerators": self.devices.to_json(),
            "matmul_f32_flops_per_second": self.flops,
            "memory_copy_bytes_per_second": self.bytes_per_second,
            "missing": self.missing,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_things_are_called_so_and_missing_ones_are_listed() {
        let machine = Machine {
            system: "s".into(),
            processor: None,
            cores: None,
            threads: 2,
            instructions: Vec::new(),
            memory_total: Some(4 << 30),
            memory_available: Some(1 << 30),
        };
        let missing = missing(&machine, Isa::Baseline);
        assert!(missing.iter().any(|m| m.contains("AVX2")));
        assert!(missing.iter().any(|m| m.contains("2.0 GiB")));
        let findings = Findings {
            machine,
            threads: 1,
            kernels: "baseline",
            flops: 1.5e9,
            bytes_per_second: 2e9,
            devices: doctor_devices::look(),
            missing,
        };
        let text = findings.to_text();
        for part in
            ["unknown", "(--device)", "proven by emulation", "1.5 GFLOP/s", "2.0 GB/s", "missing: "]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(findings.to_json()["processor"], Value::Null);
    }
}
