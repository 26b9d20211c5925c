//! Prints what the machine can do at most, and every op of the table at sizes of real models beside its
//! limit: on this machine's processors, and on each GPU that is there. Measures only; asserts nothing.
//!
//! `cargo bench --bench ops [-- FILTER]`; threads by `RAYON_NUM_THREADS`.

#[path = "ops/machine.rs"]
mod machine;
#[path = "ops/table.rs"]
mod table;

use grpo_rt::base::DType;
use grpo_rt::device::{Device, DeviceSpec, Vendor, open};
use grpo_rt::ops::cpu::Isa;
use grpo_rt::tape::rate::{copy_rate, matmul_rate};
use machine::Machine;
use std::sync::Arc;

/// Bytes that are copied, and rows of the matrices that are multiplied, to know a device's limits.
const COPIED: usize = 1 << 30;
const ROWS: usize = 8192;

fn print_limits(name: &str, m: &Machine) {
    println!(
        "{name}: at most {:.0} GFLOP/s in singles, {:.0} GFLOP/s in bf16 products, {:.1} GB/s",
        m.f32_flops / 1e9,
        m.bf16_flops / 1e9,
        m.bandwidth / 1e9
    );
}

/// What a device reaches in our own copy and products: its limits as far as this program knows.
fn limits(device: &Arc<dyn Device>) -> grpo_rt::base::Result<Machine> {
    Ok(Machine {
        bandwidth: copy_rate(device, COPIED)?,
        f32_flops: matmul_rate(device, ROWS / 4, DType::F32)?,
        bf16_flops: matmul_rate(device, ROWS, DType::BF16)?,
    })
}

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let cpu = machine::measure();
    print_limits(&format!("{:?}, {} threads", Isa::best(), rayon::current_num_threads()), &cpu);
    table::run(&filter, &cpu, None);
    for vendor in [Vendor::Cuda, Vendor::Hip] {
        match open(DeviceSpec::Gpu(vendor, 0)) {
            Ok(Some(device)) => match limits(&device) {
                Ok(machine) => {
                    print_limits(&device.properties().name, &machine);
                    table::run(&filter, &machine, Some(&device));
                }
                Err(e) => println!("{}: {}", device.properties().name, e.one_line()),
            },
            Ok(None) => {}
            Err(e) => println!("{}", e.one_line()),
        }
    }
}
