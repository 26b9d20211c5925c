//! Every op of the table at sizes of real models, forward and backward, in singles and in bf16:
//! time, rate, and the share of what the machine could do at most. Numbers are cheap to make and
//! mean nothing; no result is looked at.

use super::machine::Machine;
use grpo_rt::base::{DType, HostTensor, Philox, RngDomain, TensorData};
use grpo_rt::mem::{Arena, Region};
use grpo_rt::ops::{Case, Cost, Emit, Fill, OPS, ParamRef, Slot, Stored, TensorType};
use grpo_rt::tape::Tape;
use grpo_rt::tape::check::inputs_read;
use half::bf16;
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Instant;

/// Address space; pages that nobody touches cost nothing.
const ARENA_BYTES: usize = 16 << 30;

/// Ops that are products of matrices: in bf16 their limit is that of bf16 dot products.
const PRODUCTS: &[&str] = &["attention", "linear_logprob", "matmul"];

/// Some normal numbers, which [`tensor`] takes over and over again in another order.
fn normals() -> &'static [f32] {
    static NORMALS: OnceLock<Vec<f32>> = OnceLock::new();
    NORMALS.get_or_init(|| {
        let mut stream = Philox::new(1, RngDomain::Test).stream(0, 0);
        (0..1 << 14).map(|_| stream.normal()).collect()
    })
}

fn tensor(ty: &TensorType, fill: &Fill) -> HostTensor {
    let (mean, std) = match fill {
        Fill::Normal(std) => (0.0, *std as f32),
        Fill::NearOne(std) => (1.0, *std as f32),
        Fill::Beside(inner) => return tensor(ty, inner),
        Fill::Ints(_) | Fill::Values(_) => (0.0, 0.0),
    };
    let normals = normals();
    let number = |i: usize| {
        let hash = (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        mean + std * normals[hash as usize % normals.len()]
    };
    let data = match (ty.dtype, fill) {
        (DType::I32, Fill::Ints(v)) => TensorData::I32(v.clone()),
        (_, Fill::Values(v)) => TensorData::F32(v.iter().map(|&x| x as f32).collect()),
        (DType::BF16, _) => {
            TensorData::BF16((0..ty.len()).map(|i| bf16::store(number(i))).collect())
        }
        _ => TensorData::F32((0..ty.len()).map(number).collect()),
    };
    HostTensor::new(ty.shape.clone(), data)
}

fn write(arena: &mut Arena, region: Region, t: &HostTensor) {
    match &t.data {
        TensorData::BF16(v) => arena.write(region, v).unwrap(),
        TensorData::F32(v) => arena.write(region, v).unwrap(),
        other => panic!("places hold singles or bf16, not {other:?}"),
    }
}

/// A case as a tape, forward and, if anything needs it, backward.
fn build(case: &Case, float: DType, arena: &mut Arena) -> Tape {
    let types = case.types(float);
    let read = inputs_read(case, &types).expect("the case fits the op");
    let mut tape = Tape::new(float);
    let mut slots: Vec<Slot> = Vec::new();
    for (i, ((shape, fill, differentiable), ty)) in case.inputs.iter().zip(&types).enumerate() {
        let t = tensor(ty, fill);
        slots.push(if *differentiable || i >= read {
            let value = arena.persist(ty.len(), ty.dtype).expect("memory");
            write(arena, value, &t);
            let grad = differentiable
                .then(|| arena.persist(ty.len(), ty.dtype.statistic()).expect("memory"));
            tape.param(ParamRef { value, grad }, shape)
        } else {
            tape.input(t)
        });
    }
    let made = tape.append(case.op.clone(), &slots[..read], &slots[read..]).expect("it fits");
    made.iter().for_each(|&s| {
        tape.keep(s);
    });
    if case.inputs.iter().any(|i| i.2) {
        let outputs = if case.op.name() == "split" { made.len() } else { 1 };
        let seeds: Vec<(Slot, Slot)> = made[..outputs]
            .iter()
            .map(|&s| {
                let ty = tape.ty(s).clone();
                (s, tape.input(tensor(&ty, &Fill::Normal(1.0))))
            })
            .collect();
        tape.backward(&seeds).expect("the op has a derivative");
    }
    tape
}

/// Seconds of the best of several runs, and work, of all nodes of a name.
fn measure(case: &Case, float: DType) -> BTreeMap<&'static str, (f64, Cost)> {
    let mut arena = Arena::reserve(ARENA_BYTES).expect("address space");
    let tape = build(case, float, &mut arena);
    let mut found: BTreeMap<&'static str, (f64, Cost)> = BTreeMap::new();
    for node in tape.nodes() {
        let Some(op) = &node.op else { continue };
        let types = |slots: &[Slot]| slots.iter().map(|&s| tape.ty(s)).collect::<Vec<_>>();
        let cost = op.cost(&types(&node.inputs), &types(&node.outputs));
        let sum = &mut found.entry(op.name()).or_insert((f64::MAX, Cost::default())).1;
        sum.flops += cost.flops;
        sum.bytes += cost.bytes;
    }
    let plan = tape.plan();
    let (mut start, mut runs) = (Instant::now(), 0);
    while runs < 4 || start.elapsed().as_secs_f64() < 0.3 {
        let run = tape.run(&plan, &arena, arena.shared_base()).expect("memory");
        for (name, seconds) in run.seconds_by_op() {
            let entry = found.get_mut(name).expect("a node of the tape");
            entry.0 = entry.0.min(seconds);
        }
        runs += 1;
        if runs == 1 {
            start = Instant::now(); // the first one touches the memory
        }
    }
    found
}

fn print(label: &str, float: DType, machine: &Machine, rows: BTreeMap<&str, (f64, Cost)>) {
    for (name, (seconds, cost)) in rows {
        let product = PRODUCTS.iter().any(|p| name.starts_with(p));
        let peak = match float {
            DType::BF16 if product => machine.bf16_flops,
            _ => machine.f32_flops,
        };
        let limit = (cost.flops / peak).max(cost.bytes / machine.bandwidth);
        println!(
            "{name:<24} {label:<28} {:<5} {:>9.3} ms {:>7.1} GB/s {:>7.1} GFLOP/s {:>4.0} %",
            if float == DType::BF16 { "bf16" } else { "f32" },
            seconds * 1e3,
            cost.bytes / seconds / 1e9,
            cost.flops / seconds / 1e9,
            100.0 * limit / seconds
        );
    }
}

/// Prints all ops whose name contains `filter`.
pub fn run(filter: &str, machine: &Machine) {
    for spec in OPS.iter().filter(|s| s.name.contains(filter)) {
        for case in (spec.bench)() {
            for float in [DType::F32, DType::BF16] {
                if float == DType::F32 || spec.bf16_roundings > 0 {
                    print(case.label, float, machine, measure(&case, float));
                }
            }
        }
    }
}
