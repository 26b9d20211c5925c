//! Runs one [`Case`] of an op the way a model would: inputs filled from Philox, parameters with
//! gradients in an arena, forward and backward through plan and executor; and measures slopes by
//! differences. For tests; knows no op's arithmetic and nothing of it runs in training.

use crate::base::{DType, Error, HostTensor, Philox, Result, RngDomain, TensorData};
use crate::device::Device;
use crate::mem::{Arena, Region};
use crate::ops::{Case, Emit, Fill, ParamRef, Slot, Stored, TensorType};
use crate::tape::{Tape, TapePlan};
use half::bf16;
use std::sync::Arc;

/// Address space of a check on the host; pages that nobody touches cost nothing.
const ARENA_BYTES: usize = 1 << 30;
/// Device memory of a check, which is taken whether it is used or not.
const DEVICE_ARENA_BYTES: usize = 64 << 20;
/// What every byte of the planned region is before a run: a NaN in any float type, so that an
/// output that is not written in full is seen.
const POISON: u8 = 0xff;

/// A result tensor, whatever its type, as doubles (exact for all smaller types).
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// Shape and type on the tape.
    pub ty: TensorType,
    /// Elements.
    pub values: Vec<f64>,
}

/// What a run leaves behind.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckRun {
    /// Fresh outputs of the op, then the tensors that it updated in place.
    pub outputs: Vec<Checked>,
    /// One per input of the case: the gradient if it is differentiable and backward ran.
    pub grads: Vec<Option<Vec<f64>>>,
}

/// A case of an op on a tape of its own.
#[derive(Debug)]
pub struct Check {
    arena: Arena,
    tape: Tape,
    plan: TapePlan,
    params: Vec<Option<ParamRef>>,
    outputs: Vec<Slot>,
    /// Outputs that a gradient flows into, with it.
    seeds: Vec<(usize, Vec<f64>)>,
    with_backward: bool,
}

/// The numbers of input `i` of a case, rounded to singles so that they are the same in both
/// precisions.
pub fn fill(fill: &Fill, len: usize, seed: u64, i: usize) -> Vec<f64> {
    let mut stream = Philox::new(seed, RngDomain::Test).stream(0, i as u32);
    let mut normal = |std: f64| f64::from((f64::from(stream.normal()) * std) as f32);
    match fill {
        Fill::Normal(std) => (0..len).map(|_| normal(*std)).collect(),
        Fill::NearOne(std) => (0..len).map(|_| f64::from((1.0 + normal(*std)) as f32)).collect(),
        Fill::Ints(v) => v.iter().map(|&x| f64::from(x)).collect(),
        Fill::Values(v) => v.iter().map(|&x| f64::from(x as f32)).collect(),
        Fill::Beside(inner) => self::fill(inner, len, seed, i),
    }
}

/// Doubles rounded to what `dtype` can hold.
fn rounded(mut values: Vec<f64>, dtype: DType) -> Vec<f64> {
    if dtype == DType::BF16 {
        values.iter_mut().for_each(|x| *x = f64::from(bf16::store(*x as f32).load()));
    }
    values
}

/// Doubles as a tensor of `dtype`.
fn host(shape: &[usize], values: &[f64], dtype: DType) -> HostTensor {
    let data = match dtype {
        DType::F64 => TensorData::F64(values.to_vec()),
        DType::I32 => TensorData::I32(values.iter().map(|&x| x as i32).collect()),
        DType::BF16 => TensorData::BF16(values.iter().map(|&x| bf16::store(x as f32)).collect()),
        _ => TensorData::F32(values.iter().map(|&x| x as f32).collect()),
    };
    HostTensor::new(shape.to_vec(), data)
}

/// How many of a case's inputs are read; the rest are values before an update in place (the
/// convention of the ops that infer no output, such as `adamw` and `zero`).
///
/// # Errors
/// If the op refuses its inputs however many are read.
pub fn inputs_read(case: &Case, types: &[TensorType]) -> Result<usize> {
    let all: Vec<&TensorType> = types.iter().collect();
    let whole = case.op.infer(&all);
    if whole.is_ok() {
        return Ok(all.len());
    }
    (0..all.len())
        .rev()
        .find(|&n| case.op.infer(&all[..n]).is_ok())
        .map_or_else(|| whole.map(|_| 0).map_err(|e| e.at(format!("case `{}`", case.label))), Ok)
}

impl Check {
    /// The case's forward pass with activations of type `float`.
    ///
    /// # Errors
    /// If the op refuses its inputs.
    pub fn forward(case: &Case, float: DType, seed: u64) -> Result<Self> {
        Self::build(Arena::reserve(ARENA_BYTES)?, case, float, float, seed, false)
    }

    /// The case's forward and backward pass with random gradients of the outputs.
    ///
    /// # Errors
    /// If the op or its backward rule refuses its inputs.
    pub fn backward(case: &Case, float: DType, seed: u64) -> Result<Self> {
        Self::build(Arena::reserve(ARENA_BYTES)?, case, float, float, seed, true)
    }

    /// [`Check::backward`] on a device.
    ///
    /// # Errors
    /// If the op or its backward rule refuses its inputs, or the device has no memory.
    pub fn on(device: &Arc<dyn Device>, case: &Case, float: DType, seed: u64) -> Result<Self> {
        let arena = Arena::on(Some(device), DEVICE_ARENA_BYTES.max(16 * case_bytes(case)))?;
        Self::build(arena, case, float, float, seed, true)
    }

    /// Forward and backward in doubles, on exactly the numbers that [`Check::backward`] has with
    /// activations of type `of`.
    ///
    /// # Errors
    /// If the op or its backward rule refuses its inputs.
    pub fn reference(case: &Case, of: DType, seed: u64) -> Result<Self> {
        Self::build(Arena::reserve(ARENA_BYTES)?, case, DType::F64, of, seed, true)
    }

    /// Activations of type `float`, whose numbers `stored` can hold.
    fn build(
        mut arena: Arena,
        case: &Case,
        float: DType,
        stored: DType,
        seed: u64,
        with_backward: bool,
    ) -> Result<Self> {
        let mut tape = Tape::on(float, arena.target());
        let (types, stored) = (case.types(float), case.types(stored));
        let read = inputs_read(case, &types)?;
        let (mut slots, mut params) = (Vec::new(), Vec::new());
        for (i, ((shape, kind, differentiable), ty)) in case.inputs.iter().zip(&types).enumerate() {
            let values = rounded(fill(kind, ty.len(), seed, i), stored[i].dtype);
            if values.len() != ty.len() {
                return Err(Error::internal(format!(
                    "case `{}`: input {i} is misfilled",
                    case.label
                ))
                .expected(format!("{} numbers for {shape:?}", ty.len()))
                .found(values.len().to_string()));
            }
            let (mut param, mut slot) = (None, None);
            if *differentiable || i >= read {
                let value = arena.persist(ty.len(), ty.dtype)?;
                let grad = if *differentiable && with_backward {
                    Some(arena.persist(ty.len(), ty.dtype.statistic())?)
                } else {
                    None
                };
                write(&mut arena, value, &values)?;
                param = Some(ParamRef { value, grad });
                slot = Some(tape.param(ParamRef { value, grad }, shape));
            }
            slots.push(slot.unwrap_or_else(|| tape.input(host(shape, &values, ty.dtype))));
            params.push(param);
        }
        let fresh = tape.append(case.op.clone(), &slots[..read], &slots[read..])?;
        let outputs: Vec<Slot> = fresh.iter().chain(&slots[read..]).copied().collect();
        fresh.iter().for_each(|&s| {
            tape.keep(s);
        });
        let made = case.op.infer(&stored[..read].iter().collect::<Vec<_>>())?;
        let seeds: Vec<(usize, Vec<f64>)> = case
            .op
            .outputs_with_gradient(made.len())
            .into_iter()
            .map(|i| (i, fill(&Fill::Normal(1.0), made[i].len(), seed, 1000 + i)))
            .map(|(i, seed)| (i, rounded(seed, made[i].dtype)))
            .collect();
        if with_backward && params.iter().flatten().any(|p| p.grad.is_some()) {
            let mut pairs = Vec::new();
            for (i, seed) in &seeds {
                let ty = tape.ty(outputs[*i]).clone();
                pairs.push((outputs[*i], tape.input(host(&ty.shape, seed, ty.dtype))));
            }
            tape.backward(&pairs)?;
        }
        let plan = tape.plan();
        Ok(Check { arena, tape, plan, params, outputs, seeds, with_backward })
    }

    /// The tape that [`Check::run`] runs.
    pub fn tape(&self) -> &Tape {
        &self.tape
    }

    /// Inputs whose value [`Check::set_value`] can change, and whose gradient is checked.
    pub fn differentiable<'a>(&self, case: &'a Case) -> impl Iterator<Item = usize> + 'a {
        case.inputs.iter().enumerate().filter(|(_, (_, _, d))| *d).map(|(i, _)| i)
    }

    /// The value of a differentiable input. Panics for others.
    pub fn value(&self, input: usize) -> Vec<f64> {
        read(&self.arena, self.param(input).value).expect("a device that works")
    }

    /// Overwrites a differentiable input. Panics for others.
    pub fn set_value(&mut self, input: usize, values: &[f64]) {
        let region = self.param(input).value;
        write(&mut self.arena, region, values).expect("a device that works");
    }

    fn param(&self, input: usize) -> ParamRef {
        self.params[input].expect("the input is differentiable")
    }

    /// Sets all gradients to zero; a run adds to them.
    pub fn clear_gradients(&mut self) {
        for g in self.params.iter().flatten().filter_map(|p| p.grad) {
            write(&mut self.arena, g, &vec![0.0; g.elements]).expect("a device that works");
        }
    }

    /// Runs the tape over poisoned memory. Panics if the run touched another number of bytes than
    /// the plan said.
    ///
    /// # Errors
    /// If the plan does not fit the arena.
    pub fn run(&mut self) -> Result<CheckRun> {
        let base = self.arena.shared_base();
        let shared = Region { offset: base, elements: self.plan.peak, dtype: DType::U8 };
        self.arena.write(shared, &vec![POISON; self.plan.peak])?;
        let run = self.tape.run(&self.plan, &self.arena, base)?;
        let outputs = self
            .outputs
            .iter()
            .map(|&s| {
                let ty = self.tape.ty(s).clone();
                let values = match ty.dtype {
                    DType::I32 => run.i32(s)?.into_iter().map(f64::from).collect(),
                    _ => run.f64(s)?,
                };
                Ok(Checked { ty, values })
            })
            .collect::<Result<_>>()?;
        let grads = self
            .params
            .iter()
            .map(|p| p.and_then(|p| p.grad).map(|g| read(&self.arena, g)).transpose())
            .collect::<Result<_>>()?;
        let (planned, actual) = (base + self.plan.peak, self.arena.actual_peak());
        assert_eq!(planned, actual, "the plan predicts another peak than the run has");
        Ok(CheckRun { outputs, grads })
    }

    /// `Σ seed · output`: the number whose gradient the backward pass computes.
    ///
    /// # Errors
    /// If the plan does not fit the arena.
    pub fn loss(&mut self) -> Result<f64> {
        let outputs = self.run()?.outputs;
        let dot = |(i, s): &(usize, Vec<f64>)| -> f64 {
            s.iter().zip(&outputs[*i].values).map(|(a, b)| a * b).sum()
        };
        Ok(self.seeds.iter().map(dot).sum())
    }

    /// The derivative of [`Check::loss`] with respect to one element, by central differences over
    /// four points (error of order `h⁴`). Build with [`Check::forward`]: gradients would add up.
    ///
    /// # Errors
    /// If the plan does not fit the arena.
    pub fn slope(&mut self, input: usize, element: usize, h: f64) -> Result<f64> {
        assert!(!self.with_backward, "differences need a forward tape");
        let before = self.value(input);
        let mut values = before.clone();
        let mut slope = 0.0;
        for (step, factor) in [(-2.0, 1.0), (-1.0, -8.0), (1.0, 8.0), (2.0, -1.0)] {
            values[element] = before[element] + step * h;
            self.set_value(input, &values);
            slope += factor * self.loss()? / (12.0 * h);
        }
        self.set_value(input, &before);
        Ok(slope)
    }
}

/// Bytes of a case's inputs.
fn case_bytes(case: &Case) -> usize {
    case.inputs.iter().map(|(shape, ..)| 4 * shape.iter().product::<usize>()).sum()
}

fn read(arena: &Arena, r: Region) -> Result<Vec<f64>> {
    Ok(match r.dtype {
        DType::F64 => arena.read::<f64>(r)?,
        DType::I32 => arena.read::<i32>(r)?.into_iter().map(f64::from).collect(),
        DType::BF16 => arena.read::<bf16>(r)?.into_iter().map(|x| f64::from(x.load())).collect(),
        _ => arena.read::<f32>(r)?.into_iter().map(f64::from).collect(),
    })
}

fn write(arena: &mut Arena, r: Region, values: &[f64]) -> Result<()> {
    match r.dtype {
        DType::F64 => arena.write(r, values),
        DType::I32 => arena.write(r, &values.iter().map(|&x| x as i32).collect::<Vec<_>>()),
        DType::BF16 => {
            let values: Vec<bf16> = values.iter().map(|&x| bf16::store(x as f32)).collect();
            arena.write(r, &values)
        }
        _ => arena.write(r, &values.iter().map(|&x| x as f32).collect::<Vec<_>>()),
    }
}
