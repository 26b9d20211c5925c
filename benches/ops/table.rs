//! Every op of the table at sizes of real models, forward and backward, in singles and in bf16:
//! time, rate, and the share of what the machine could do at most. No result is looked at.

use super::machine::Machine;
use grpo_rt::base::DType;
use grpo_rt::device::Device;
use grpo_rt::ops::OPS;
use grpo_rt::tape::measure::{Measured, measure};
use std::sync::Arc;

/// Ops that are products of matrices: in bf16 their limit is that of bf16 dot products.
const PRODUCTS: &[&str] = &["attention", "linear_logprob", "matmul"];

fn print(label: &str, float: DType, machine: &Machine, m: Measured) {
    let product = PRODUCTS.iter().any(|p| m.name.starts_with(p));
    let peak = match float {
        DType::BF16 if product => machine.bf16_flops,
        _ => machine.f32_flops,
    };
    let limit = (m.cost.flops / peak).max(m.cost.bytes / machine.bandwidth);
    println!(
        "{:<24} {label:<28} {:<5} {:>9.3} ms {:>7.1} GB/s {:>7.1} GFLOP/s {:>4.0} %",
        m.name,
        if float == DType::BF16 { "bf16" } else { "f32" },
        m.seconds * 1e3,
        m.cost.bytes / m.seconds / 1e9,
        m.cost.flops / m.seconds / 1e9,
        100.0 * limit / m.seconds
    );
}

/// Prints all ops whose name contains `filter`, on the CPU or on a device.
pub fn run(filter: &str, machine: &Machine, device: Option<&Arc<dyn Device>>) {
    for spec in OPS.iter().filter(|s| s.name.contains(filter)) {
        for case in (spec.bench)() {
            for float in [DType::F32, DType::BF16] {
                if float == DType::F32 || spec.bf16_roundings > 0 {
                    let measured = measure(&case, float, device).expect("the case fits the op");
                    measured.into_iter().for_each(|m| print(case.label, float, machine, m));
                }
            }
        }
    }
}
