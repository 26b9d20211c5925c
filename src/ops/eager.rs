//! Test only: an [`Emit`] that runs every node as it is appended, and with it the checks that all
//! cases of the op table must pass. It plans nothing and frees nothing.

use super::{Backward, Case, Emit, Fill, Io, OPS, Op, Slot, TensorType};
use crate::base::{DType, Philox, Result, RngDomain, Tolerance};
use crate::device::{HostArena, RawView};
use crate::mem::plan::aligned;
use std::sync::Arc;

struct Eager {
    arena: HostArena,
    used: usize,
    slots: Vec<(RawView, TensorType)>,
}

impl Eager {
    fn new() -> Self {
        Eager { arena: HostArena::reserve(1 << 30).unwrap(), used: 0, slots: Vec::new() }
    }

    fn add(&mut self, ty: TensorType, value: impl Fn(usize) -> f64) -> Slot {
        let view = self.arena.view(self.used, ty.len(), ty.dtype);
        self.used += aligned(ty.len() * ty.dtype.size());
        // SAFETY: the range is new; nobody else knows it.
        unsafe {
            match ty.dtype {
                DType::F64 => fill(view.slice_mut::<f64>(), value),
                DType::F32 => fill(view.slice_mut::<f32>(), |i| value(i) as f32),
                DType::I32 => fill(view.slice_mut::<i32>(), |i| value(i) as i32),
                other => panic!("no test fills {other:?}"),
            }
        }
        self.slots.push((view, ty));
        Slot(self.slots.len() as u32 - 1)
    }

    fn read(&self, slot: Slot) -> Vec<f64> {
        let (view, ty) = &self.slots[slot.0 as usize];
        // SAFETY: no node is running.
        unsafe {
            match ty.dtype {
                DType::F64 => view.slice::<f64>().to_vec(),
                _ => view.slice::<f32>().iter().map(|&x| f64::from(x)).collect(),
            }
        }
    }

    fn run(&self, op: &dyn Op, inputs: &[Slot], outputs: &[Slot]) {
        let bind = |slots: &[Slot]| -> Vec<(RawView, &TensorType)> {
            slots.iter().map(|s| &self.slots[s.0 as usize]).map(|(v, t)| (*v, t)).collect()
        };
        let (inputs, outputs) = (bind(inputs), bind(outputs));
        // SAFETY: nodes run one after another, and nothing else holds slices.
        op.run(&unsafe { Io::new(&inputs, &outputs) });
    }
}

fn fill<T>(to: &mut [T], value: impl Fn(usize) -> T) {
    to.iter_mut().enumerate().for_each(|(i, x)| *x = value(i));
}

impl Emit for Eager {
    fn emit(&mut self, op: Arc<dyn Op>, inputs: &[Slot]) -> Result<Vec<Slot>> {
        let types: Vec<&TensorType> = inputs.iter().map(|s| &self.slots[s.0 as usize].1).collect();
        let fresh = op.infer(&types)?;
        // NaN: what an op forgets to write is seen.
        let outputs: Vec<Slot> = fresh.into_iter().map(|t| self.add(t, |_| f64::NAN)).collect();
        self.run(&*op, inputs, &outputs);
        Ok(outputs)
    }
    fn emit_into(&mut self, op: Arc<dyn Op>, inputs: &[Slot], outputs: &[Slot]) -> Result<()> {
        let types: Vec<&TensorType> = inputs.iter().map(|s| &self.slots[s.0 as usize].1).collect();
        assert!(op.infer(&types)?.is_empty(), "{} infers accumulated outputs", op.name());
        self.run(&*op, inputs, outputs);
        Ok(())
    }
    fn tensor_type(&self, slot: Slot) -> &TensorType {
        &self.slots[slot.0 as usize].1
    }
}

fn normals(n: usize, stream: u32) -> Vec<f64> {
    let mut s = Philox::new(5, RngDomain::Test).stream(1, stream);
    (0..n).map(|_| f64::from(s.normal())).collect()
}

/// Values of the inputs of a case, exactly representable in f32.
fn values(case: &Case) -> Vec<Vec<f64>> {
    let round = |x: f64| f64::from(x as f32);
    let one = |(i, (shape, fill, _)): (usize, &(Vec<usize>, Fill, bool))| {
        let noise = normals(shape.iter().product(), i as u32);
        match fill {
            Fill::Normal(std) => noise.iter().map(|x| round(x * std)).collect(),
            Fill::NearOne(std) => noise.iter().map(|x| round(1.0 + x * std)).collect(),
            Fill::Ints(v) => v.iter().map(|&i| f64::from(i)).collect(),
            Fill::Values(v) => v.iter().map(|&x| round(x)).collect(),
        }
    };
    case.inputs.iter().enumerate().map(one).collect()
}

/// Outputs and gradients of one run of a case.
struct Outcome {
    outputs: Vec<Vec<f64>>,
    /// Per input; of the loss `sum(dy * y)` for the first output.
    grads: Vec<Option<Vec<f64>>>,
}

/// How gradients of checked inputs are asked for.
#[derive(Clone, Copy, PartialEq)]
enum Grads {
    No,
    /// As activations: in slots that backward returns.
    Fresh,
    /// As parameters: added to existing slots, which start at 1.
    Params,
}

fn run_case(case: &Case, values: &[Vec<f64>], float: DType, ask: Grads) -> Outcome {
    let mut e = Eager::new();
    let slots: Vec<Slot> = case
        .inputs
        .iter()
        .zip(values)
        .map(|((shape, fill, _), v)| {
            let dtype = if matches!(fill, Fill::Ints(_)) { DType::I32 } else { float };
            e.add(TensorType { shape: shape.clone(), dtype }, |i| v[i])
        })
        .collect();
    let types: Vec<TensorType> = slots.iter().map(|&s| e.tensor_type(s).clone()).collect();
    let refs: Vec<&TensorType> = types.iter().collect();
    // An op without fresh outputs: its case lists the outputs' old values after the inputs.
    let split = (0..=refs.len()).find(|&n| case.op.infer(&refs[..n]).is_ok_and(|o| o.is_empty()));
    if let Some(n) = split {
        e.emit_into(case.op.clone(), &slots[..n], &slots[n..]).unwrap();
        let outputs = slots[n..].iter().map(|&s| e.read(s)).collect();
        return Outcome { outputs, grads: vec![] };
    }
    let outs = e.emit(case.op.clone(), &slots).unwrap();
    let outputs = outs.iter().map(|&s| e.read(s)).collect();
    if ask == Grads::No {
        return Outcome { outputs, grads: vec![] };
    }
    let y = e.tensor_type(outs[0]).clone();
    let dy_values = normals(y.len(), 99);
    let dy = e.add(y, |i| f64::from(dy_values[i] as f32));
    let needs: Vec<bool> = case.inputs.iter().map(|i| i.2).collect();
    let param = |e: &mut Eager, i: usize| {
        (ask == Grads::Params && needs[i]).then(|| e.add(types[i].clone(), |_| 1.0))
    };
    let params: Vec<Option<Slot>> = (0..slots.len()).map(|i| param(&mut e, i)).collect();
    let mut grads = vec![None; outs.len()];
    grads[0] = Some(dy);
    let mut b = Backward {
        tape: &mut e,
        inputs: &slots,
        outputs: &outs,
        grads: &grads,
        needs: &needs,
        param_grads: &params,
    };
    let returned = case.op.backward(&mut b).unwrap();
    assert_eq!(returned.len(), slots.len());
    let read = |i: usize| match (returned[i], params[i]) {
        (Some(slot), _) => Some(e.read(slot)),
        (None, Some(p)) => Some(e.read(p).iter().map(|g| g - 1.0).collect()),
        (None, None) => None,
    };
    Outcome { outputs, grads: (0..slots.len()).map(read).collect() }
}

fn check_gradient(name: &str, case: &Case, values: &[Vec<f64>], got: &Outcome) {
    let dy = normals(got.outputs[0].len(), 99);
    let loss = |values: &[Vec<f64>]| -> f64 {
        let y = &run_case(case, values, DType::F64, Grads::No).outputs[0];
        y.iter().zip(&dy).map(|(y, dy)| y * f64::from(*dy as f32)).sum()
    };
    for (i, (_, _, needed)) in case.inputs.iter().enumerate() {
        if !needed {
            continue;
        }
        let grad = got.grads[i].as_ref().unwrap_or_else(|| panic!("{name}: no gradient {i}"));
        // Along random directions, and along a few axes.
        let n = grad.len();
        for probe in 0..6 {
            let mut direction = normals(n, 200 + probe);
            if probe >= 3 {
                let axis = (probe as usize * 7919) % n;
                direction = (0..n).map(|j| f64::from(u8::from(j == axis))).collect();
            }
            let h = 1e-5;
            let at = |sign: f64| {
                let mut moved = values.to_vec();
                for (x, d) in moved[i].iter_mut().zip(&direction) {
                    *x += sign * h * d;
                }
                loss(&moved)
            };
            let numeric = (at(1.0) - at(-1.0)) / (2.0 * h);
            let analytic: f64 = grad.iter().zip(&direction).map(|(g, d)| g * d).sum();
            let size = grad.iter().zip(&direction).map(|(g, d)| (g * d).abs()).sum::<f64>() + 1e-3;
            let d = (numeric - analytic).abs();
            assert!(d < 1e-5 * size, "{name}, gradient {i}: {analytic} but {numeric}");
        }
    }
}

#[test]
fn cases_agree_with_references_and_differences() {
    for spec in OPS {
        let cases = (spec.cases)();
        assert!(cases.len() >= 3, "{} has too few cases", spec.name);
        for case in &cases {
            let name = format!("{} ({})", spec.name, case.label);
            assert_eq!(case.op.name(), spec.name);
            let values = values(case);
            let has_grad = case.inputs.iter().any(|i| i.2);
            let ask = if has_grad { Grads::Fresh } else { Grads::No };
            let want = run_case(case, &values, DType::F64, ask);
            let got = run_case(case, &values, DType::F32, ask);
            for (o, (got, want)) in got.outputs.iter().zip(&want.outputs).enumerate() {
                spec.tolerance.check(&format!("{name} output {o}"), got, want).unwrap();
            }
            if !has_grad {
                continue;
            }
            check_gradient(&name, case, &values, &want);
            let t = Tolerance { abs: 1e-7, rel: 5.0 * spec.tolerance.rel };
            let param = run_case(case, &values, DType::F64, Grads::Params);
            for i in (0..values.len()).filter(|&i| case.inputs[i].2) {
                let want = want.grads[i].as_ref().unwrap();
                t.check(&format!("{name} gradient {i}"), got.grads[i].as_ref().unwrap(), want)
                    .unwrap();
                Tolerance { abs: 1e-12, rel: 1e-12 }
                    .check(&format!("{name} parameter {i}"), param.grads[i].as_ref().unwrap(), want)
                    .unwrap();
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    for spec in OPS {
        for case in (spec.cases)() {
            let values = values(&case);
            let ask = if case.inputs.iter().any(|i| i.2) { Grads::Params } else { Grads::No };
            let with = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let o = pool.install(|| run_case(&case, &values, DType::F32, ask));
                let bits = |v: &Vec<f64>| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                let all = o.outputs.iter().chain(o.grads.iter().flatten());
                all.map(bits).collect::<Vec<_>>()
            };
            assert!(with(1) == with(3), "{} ({})", spec.name, case.label);
        }
    }
}
