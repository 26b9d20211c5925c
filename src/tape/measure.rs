//! How long an op takes: a case at the size of a real model, forward and backward, on the CPU or on a
//! device, with the work of each node. Numbers are cheap to make and mean nothing; no result is looked
//! at. Used by the benches and by `grpo-rt ops`.

use crate::base::{DType, HostTensor, Philox, Result, RngDomain, Target, TensorData};
use crate::device::Device;
use crate::mem::{Arena, Region};
use crate::ops::{Case, Cost, Emit, Fill, ParamRef, Slot, Stored, TensorType};
use crate::tape::check::inputs_read;
use crate::tape::{Tape, TapePlan};
use half::bf16;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Seconds that a case is measured for on the CPU.
const SECONDS: f64 = 0.3;
/// Rounds on a device, of which the median counts.
const ROUNDS: usize = 15;
/// Address space for plans.
const PLANNED: usize = 1 << 40;

/// Time and work of all nodes of a name.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Name of the op, with `_bwd…` for backward nodes.
    pub name: &'static str,
    /// Of the best run on the CPU, of the median run on a device.
    pub seconds: f64,
    /// Operations and bytes.
    pub cost: Cost,
}

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

/// A case as a tape, forward and, if anything needs it, backward, with the values of its parameters.
struct Built {
    tape: Tape,
    values: Vec<(Region, HostTensor)>,
    base: usize,
}

fn build(case: &Case, float: DType, target: Target) -> Result<Built> {
    let mut arena = Arena::planned(PLANNED, target);
    let types = case.types(float);
    let read = inputs_read(case, &types)?;
    let (mut tape, mut values) = (Tape::on(float, target), Vec::new());
    let mut slots: Vec<Slot> = Vec::new();
    for (i, ((shape, fill, differentiable), ty)) in case.inputs.iter().zip(&types).enumerate() {
        let t = tensor(ty, fill);
        if !*differentiable && i < read {
            slots.push(tape.input(t));
            continue;
        }
        let value = arena.persist(ty.len(), ty.dtype)?;
        values.push((value, t));
        let grad = match differentiable {
            true => Some(arena.persist(ty.len(), ty.dtype.statistic())?),
            false => None,
        };
        slots.push(tape.param(ParamRef { value, grad }, shape));
    }
    let made = tape.append(case.op.clone(), &slots[..read], &slots[read..])?;
    made.iter().for_each(|&s| {
        tape.keep(s);
    });
    if case.inputs.iter().any(|i| i.2) {
        let outputs = case.op.outputs_with_gradient(made.len());
        let seeds: Vec<(Slot, Slot)> = outputs
            .into_iter()
            .map(|i| made[i])
            .map(|s| {
                let ty = tape.ty(s).clone();
                (s, tape.input(tensor(&ty, &Fill::Normal(1.0))))
            })
            .collect();
        tape.backward(&seeds)?;
    }
    Ok(Built { tape, values, base: arena.shared_base() })
}

/// Work of all nodes of each name.
fn work(tape: &Tape) -> BTreeMap<&'static str, Cost> {
    let mut found: BTreeMap<&'static str, Cost> = BTreeMap::new();
    for node in tape.nodes() {
        let Some(op) = &node.op else { continue };
        let types = |slots: &[Slot]| slots.iter().map(|&s| tape.ty(s)).collect::<Vec<_>>();
        let cost = op.cost(&types(&node.inputs), &types(&node.outputs));
        let sum = found.entry(op.name()).or_default();
        sum.flops += cost.flops;
        sum.bytes += cost.bytes;
    }
    found
}

/// Runs a case often enough to know how long each of its nodes takes. `device` is `None` for the CPU.
///
/// # Errors
/// If the op refuses the case, has no kernel for it, or the device has not enough memory.
pub fn measure(
    case: &Case,
    float: DType,
    device: Option<&Arc<dyn Device>>,
) -> Result<Vec<Measured>> {
    let target = if device.is_some() { Target::Gpu } else { Target::Cpu };
    let Built { tape, values, base } = build(case, float, target)?;
    let plan = tape.plan();
    let mut arena = Arena::on(device, base + plan.peak)?;
    for (region, t) in &values {
        match &t.data {
            TensorData::BF16(v) => arena.write(*region, v)?,
            TensorData::F32(v) => arena.write(*region, v)?,
            TensorData::I32(v) => arena.write(*region, v)?,
            other => panic!("places hold singles, bf16 or integers, not {other:?}"),
        }
    }
    let seconds = match device {
        None => best_on_cpu(&tape, &plan, &arena, base)?,
        Some(_) => median_on_device(&tape, &plan, &arena, base)?,
    };
    let timed = |(name, cost)| Measured { name, seconds: seconds[name], cost };
    Ok(work(&tape).into_iter().map(timed).collect())
}

fn best_on_cpu(
    tape: &Tape,
    plan: &TapePlan,
    arena: &Arena,
    base: usize,
) -> Result<BTreeMap<&'static str, f64>> {
    let mut best: BTreeMap<&'static str, f64> = BTreeMap::new();
    let (mut start, mut runs) = (Instant::now(), 0);
    while runs < 4 || start.elapsed().as_secs_f64() < SECONDS {
        let run = tape.run(plan, arena, base)?;
        for (name, seconds) in run.seconds_by_op() {
            let entry = best.entry(name).or_insert(f64::MAX);
            *entry = entry.min(seconds);
        }
        runs += 1;
        if runs == 1 {
            start = Instant::now(); // the first one touches the memory
        }
    }
    Ok(best)
}

fn median_on_device(
    tape: &Tape,
    plan: &TapePlan,
    arena: &Arena,
    base: usize,
) -> Result<BTreeMap<&'static str, f64>> {
    let mut rounds: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        let mut round: BTreeMap<&'static str, f64> = BTreeMap::new();
        for (name, _, seconds) in tape.time(plan, arena, base)? {
            *round.entry(name).or_default() += seconds;
        }
        round.into_iter().for_each(|(name, s)| rounds.entry(name).or_default().push(s));
    }
    let median = |mut v: Vec<f64>| {
        v.sort_by(f64::total_cmp);
        v[v.len() / 2]
    };
    Ok(rounds.into_iter().map(|(name, v)| (name, median(v))).collect())
}
