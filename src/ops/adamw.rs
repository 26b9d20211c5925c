//! One step of AdamW (Loshchilov and Hutter, arXiv 1711.05101) on one parameter, in place, with
//! the formula and the order of operations of `torch.optim.AdamW`. The gradient is multiplied by
//! the clipping coefficient on the way in, so that clipped gradients are never stored. Where the
//! passes read bf16, the parameter here is the master copy, and the working copy follows it.

use super::cpu::rows::CHUNK;
use super::cpu::vectorised;
use super::shapes::{require, same_statistic};
use super::{Case, Cost, Fill, Io, Launcher, Op, OpSpec, Real, Stored, TensorType, gpu};
use crate::base::{DType, Result, Tolerance};
use crate::device::DevicePtr;
use bytemuck::Pod;
use half::bf16;
use rayon::prelude::*;
use std::sync::Arc;

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "adamw",
    doc: "grad, clip[2]; updates param, m, v of grad's shape in place, and a rounded copy of param",
    cases,
    tolerance: Tolerance::rel(1e-6),
    bf16_roundings: 1,
    bench,
};

/// Inputs `grad`, `clip[2]` = (norm, coefficient); updates `param`, `m`, `v` of the gradient's
/// shape and type in place, so nothing is inferred. A fourth tensor, if there is one, becomes the
/// working copy: the new `param`, rounded to that tensor's type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Number of this update, from 1.
    pub step: u32,
}

/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct AdamWArgs {
    grad: DevicePtr,
    clip: DevicePtr,
    param: DevicePtr,
    m: DevicePtr,
    v: DevicePtr,
    copy: DevicePtr,
    n: i64,
    decay: f32,
    rate1: f32,
    beta2: f32,
    rate2: f32,
    root: f32,
    eps: f32,
    step_size: f32,
    unused: i32,
}
const _: () = assert!(size_of::<AdamWArgs>() == 88);

impl Op for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = matches!(inputs, [_, clip] if clip.len() == 2) && same_statistic(inputs);
        require(ok && self.step > 0, self.name(), inputs, "grad, clip[2], step from 1")?;
        Ok(vec![])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => self.update::<f64, f64>(io, |x| x),
            _ if io.num_outputs() == 4 && io.out_type(3).dtype == DType::BF16 => {
                self.update::<f32, bf16>(io, bf16::store)
            }
            _ => self.update::<f32, f32>(io, |x| x),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let n = k.in_type(0).len();
        let copies = k.num_outputs() == 4;
        let rounds = copies && k.out_type(3).dtype == DType::BF16;
        let s = self.scalars::<f32>();
        let args = AdamWArgs {
            grad: k.input(0),
            clip: k.input(1),
            param: k.output(0),
            m: k.output(1),
            v: k.output(2),
            copy: if rounds { k.output(3) } else { DevicePtr::NULL },
            n: n as i64,
            decay: s.decay,
            rate1: s.rate1,
            beta2: s.beta2,
            rate2: s.rate2,
            root: s.root,
            eps: s.eps,
            step_size: s.step_size,
            unused: 0,
        };
        let blocks = n.div_ceil(gpu::group(DType::BF16) * 256);
        k.kernel("optimizer", "adamw_f32", [blocks, 1, 1], 256, &args);
        if copies && !rounds {
            k.copy(k.output(3), k.output(0), n * size_of::<f32>());
        }
        Ok(())
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let n = inputs[0].len() as f64;
        let copy = outputs.get(3).map_or(0, |t| t.dtype.size());
        // Reads grad, param, m, v; writes the last three and the working copy.
        Cost { flops: 14.0 * n, bytes: n * (7 * inputs[0].dtype.size() + copy) as f64 }
    }
}

/// What multiplies the numbers of the tensors.
struct Scalars<T> {
    decay: T,
    rate1: T,
    beta2: T,
    rate2: T,
    root: T,
    eps: T,
    step_size: T,
}

impl AdamW {
    /// Scalars are doubles until they meet the tensor, as in torch.
    fn scalars<T: Real>(&self) -> Scalars<T> {
        let correction = |beta: f64| 1.0 - beta.powi(self.step as i32);
        Scalars {
            decay: T::of(1.0 - self.lr * self.weight_decay),
            rate1: T::of(1.0 - self.beta1),
            beta2: T::of(self.beta2),
            rate2: T::of(1.0 - self.beta2),
            root: T::of(correction(self.beta2).sqrt()),
            eps: T::of(self.eps),
            step_size: T::of(self.lr / correction(self.beta1)),
        }
    }

    fn update<T: Real, C: Pod + Send>(&self, io: &Io, round: impl Fn(T) -> C + Sync) {
        let (grad, clip) = (io.input::<T>(0), io.input::<T>(1)[1]);
        let [param, m, v] = [io.output::<T>(0), io.output::<T>(1), io.output::<T>(2)];
        assert!([&param, &m, &v].iter().all(|s| s.len() == grad.len()), "adamw: sizes differ");
        let copy = if io.num_outputs() == 4 { io.output::<C>(3) } else { &mut [] };
        assert!(copy.is_empty() || copy.len() == grad.len(), "adamw: sizes differ");
        // One piece of the working copy per task, or none.
        let missing = grad.len().div_ceil(CHUNK) - copy.len().div_ceil(CHUNK);
        let copies = copy.par_chunks_mut(CHUNK).chain((0..missing).into_par_iter().map(|_| {
            let none: &mut [C] = &mut [];
            none
        }));
        let Scalars { decay, rate1, beta2, rate2, root, eps, step_size } = self.scalars::<T>();
        (
            param.par_chunks_mut(CHUNK),
            m.par_chunks_mut(CHUNK),
            v.par_chunks_mut(CHUNK),
            grad.par_chunks(CHUNK),
            copies,
        )
            .into_par_iter()
            .for_each(|(param, m, v, grad, copy)| {
                vectorised(
                    #[inline(always)]
                    || {
                        let state = m.iter_mut().zip(v.iter_mut());
                        for ((p, &g), (m, v)) in param.iter_mut().zip(grad).zip(state) {
                            let g = g * clip;
                            *p *= decay;
                            *m = rate1.mul_add(g - *m, *m); // torch's lerp
                            *v = *v * beta2 + rate2 * g * g;
                            let denominator = v.sqrt() / root + eps;
                            *p -= step_size * *m / denominator;
                        }
                        for (c, &p) in copy.iter_mut().zip(&*param) {
                            *c = round(p);
                        }
                    },
                );
            });
    }
}

/// The inputs after the first two are the values before the update.
fn cases() -> Vec<Case> {
    let case = |label, n: usize, step: u32, weight_decay: f64, clip: f64, copy: bool| {
        let squares = (0..n).map(|i| ((i * 37 % 101) as f64 / 101.0).powi(2)).collect();
        let op = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay, step };
        let mut inputs = vec![
            (vec![n], Fill::Normal(0.5), false),
            (vec![2], Fill::Values(vec![3.0, clip]), false),
            (vec![n], Fill::Normal(1.0), false),
            (vec![n], Fill::Normal(0.1), false),
            (vec![n], Fill::Values(squares), false),
        ];
        inputs.extend(copy.then(|| (vec![1, n], Fill::Normal(1.0), false)));
        Case { label, op: Arc::new(op), inputs }
    };
    vec![
        case("first step", 33, 1, 0.0, 1.0, false),
        case("weight decay and clipping", 100, 7, 0.1, 0.3, false),
        case("several tasks", 40_001, 1000, 0.01, 1.0, false),
        case("working copy", 33_001, 3, 0.01, 0.7, true),
    ]
}

/// Sizes of real models.
fn bench() -> Vec<Case> {
    let (n, normal) = (8 << 20, || Fill::Normal(0.5));
    let op = AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, step: 9 };
    let state = (vec![n], Fill::NearOne(0.1), false);
    let clip = (vec![2], Fill::Values(vec![1.0, 1.0]), false);
    let inputs = vec![state.clone(), clip, state.clone(), state.clone(), state];
    let copied = [&inputs[..], &[(vec![1, n], normal(), false)]].concat();
    vec![
        Case { label: "8 Mi numbers", op: Arc::new(op), inputs },
        Case { label: "8 Mi numbers, working copy", op: Arc::new(op), inputs: copied },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::HostArena;
    use crate::ops::grad_norm::GradNorm;

    /// Ten clipped steps of torch (tools/golden/optimizer.py).
    const GOLDEN: &str = include_str!("../../tests/data/optimizer/adamw.json");

    fn numbers(v: &serde_json::Value) -> Vec<f32> {
        v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
    }

    #[test]
    fn ten_clipped_steps_equal_torch() {
        let golden: serde_json::Value = serde_json::from_str(GOLDEN).unwrap();
        let start = numbers(&golden["start"]);
        let n = start.len();
        let option = |key: &str| golden["options"][key].as_f64().unwrap();
        let arena = HostArena::reserve(1 << 16).unwrap();
        let at = |i: usize, len: usize| arena.view(i << 12, len, DType::F32);
        let (grad, param, m, v, clip) = (at(0, n), at(1, n), at(2, n), at(3, n), at(4, 2));
        let vector = |n: usize| TensorType { shape: vec![n], dtype: DType::F32 };
        let (long, short) = (vector(n), vector(2));
        // SAFETY: disjoint ranges, used one after another.
        let read = |view: crate::device::RawView| unsafe { view.slice::<f32>() }.to_vec();
        let close = |what: &str, got: &[f32], want: &[f32]| {
            let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
            Tolerance::rel(2e-7).check(what, &wide(got), &wide(want)).unwrap();
        };
        // SAFETY: as above.
        unsafe { param.slice_mut() }.copy_from_slice(&start);
        for step in 0..10 {
            // SAFETY: as above.
            unsafe {
                grad.slice_mut().copy_from_slice(&numbers(&golden["grads"][step]));
                GradNorm { max_norm: option("max_norm") }
                    .run(&Io::new(&[(grad, &long)], &[(clip, &short)]));
                AdamW {
                    lr: option("lr"),
                    beta1: 0.9,
                    beta2: 0.99,
                    eps: option("eps"),
                    weight_decay: option("weight_decay"),
                    step: step as u32 + 1,
                }
                .run(&Io::new(
                    &[(grad, &long), (clip, &short)],
                    &[(param, &long), (m, &long), (v, &long)],
                ));
            }
            close("norm", &read(clip)[..1], &numbers(&golden["norms"])[step..=step]);
            close("param", &read(param), &numbers(&golden["params"][step]));
        }
        close("exp_avg", &read(m), &numbers(&golden["exp_avg"]));
        close("exp_avg_sq", &read(v), &numbers(&golden["exp_avg_sq"]));
    }
}
