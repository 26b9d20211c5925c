//! AdamW, gradient clipping and learning-rate schedules against ten steps of torch and twenty of
//! transformers (`tools/golden/adamw.py`): once through the ops on a tape, once through the
//! optimizer step that training runs.

use grpo_rt::base::{DType, Tolerance};
use grpo_rt::grpo::optim::{OptimizerSettings, Rates, optimizer_step, zero_gradients};
use grpo_rt::grpo::schedule::{Schedule, ScheduleKind};
use grpo_rt::mem::{Arena, Region};
use grpo_rt::model::params::{ParamStore, Training};
use grpo_rt::model::spec::{ParamSpec, Part};
use grpo_rt::ops::Emit;
use grpo_rt::ops::adamw::AdamW;
use grpo_rt::ops::grad_norm::GradNorm;
use grpo_rt::tape::Tape;
use serde_json::Value;
use std::sync::Arc;

/// Of a tensor after ten steps, relative to its largest magnitude.
const TOLERANCE: Tolerance = Tolerance::rel(1e-6);

fn golden() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/adamw/adamw.json");
    let text = std::fs::read_to_string(path).expect("the golden file is in the tree");
    serde_json::from_str(&text).expect("the golden file is JSON")
}

fn list(v: &Value) -> &[Value] {
    v.as_array().unwrap_or_else(|| panic!("{v} is no list"))
}

fn number(v: &Value) -> f64 {
    v.as_f64().unwrap_or_else(|| panic!("{v} is no number"))
}

fn numbers(v: &Value) -> Vec<f64> {
    list(v).iter().map(number).collect()
}

fn singles(v: &Value) -> Vec<f32> {
    numbers(v).into_iter().map(|x| x as f32).collect()
}

/// Compares with torch in single precision and with the exact result.
fn check(name: &str, got: &[f32], case: &Value, key: &str, tensor: usize) {
    let got: Vec<f64> = got.iter().map(|&x| f64::from(x)).collect();
    for precision in ["f32", "f64"] {
        let want = numbers(&case[precision][key][tensor]);
        if let Err(e) = TOLERANCE.check(&format!("{name} {tensor}, torch {precision}"), &got, &want)
        {
            panic!("{e}");
        }
    }
}

fn check_norm(step: usize, norm: f64, case: &Value) {
    let want = number(&case["f64"]["grad_norms"][step]);
    assert!((norm - want).abs() < 2e-7 * want, "step {step}: norm {norm}, torch {want}");
}

/// Value, gradient and moments of one parameter.
struct Places {
    value: Region,
    grad: Region,
    moments: [Region; 2],
}

#[test]
fn ten_steps_of_adamw_are_those_of_torch() {
    let golden = golden();
    for case in list(&golden["adamw"]) {
        let mut arena = Arena::reserve(1 << 20).unwrap();
        let mut params = Vec::new();
        for start in list(&case["start"]) {
            let start = singles(start);
            let mut place = || arena.persist(start.len(), DType::F32).unwrap();
            let p = Places { value: place(), grad: place(), moments: [place(), place()] };
            arena.write(p.value, &start).unwrap();
            params.push(p);
        }
        for (step, grads) in list(&case["grads"]).iter().enumerate() {
            for (p, g) in params.iter().zip(list(grads)) {
                arena.write(p.grad, &singles(g)).unwrap();
            }
            let mut tape = Tape::new(DType::F32);
            let row = |tape: &mut Tape, r: Region| tape.fixed(r, &[1, r.elements]);
            let grads: Vec<_> = params.iter().map(|p| row(&mut tape, p.grad)).collect();
            let max_norm = number(&case["max_grad_norm"]);
            let clip = tape.op(GradNorm { max_norm }, &grads).unwrap();
            tape.keep(clip);
            for (p, &g) in params.iter().zip(&grads) {
                let updated = [p.value, p.moments[0], p.moments[1]].map(|r| row(&mut tape, r));
                let op = AdamW {
                    lr: number(&case["lr"]),
                    beta1: number(&case["betas"][0]),
                    beta2: number(&case["betas"][1]),
                    eps: number(&case["eps"]),
                    weight_decay: number(&case["weight_decay"]),
                    step: step as u32 + 1,
                };
                tape.emit_into(Arc::new(op), &[g, clip], &updated).unwrap();
            }
            let plan = tape.plan();
            let run = tape.run(&plan, &arena, arena.shared_base()).unwrap();
            check_norm(step, f64::from(run.f32(clip).unwrap()[0]), case);
        }
        for (i, p) in params.iter().enumerate() {
            check("parameter", &arena.read(p.value).unwrap(), case, "params", i);
            check("first moment", &arena.read(p.moments[0]).unwrap(), case, "exp_avg", i);
            check("second moment", &arena.read(p.moments[1]).unwrap(), case, "exp_avg_sq", i);
        }
    }
}

#[test]
fn the_step_of_training_decays_matrices_only() {
    let golden = golden();
    let shapes: Vec<Vec<usize>> = list(&golden["shapes"])
        .iter()
        .map(|s| numbers(s).into_iter().map(|x| x as usize).collect())
        .collect();
    let specs: Vec<ParamSpec> = shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| ParamSpec {
            name: format!("p{i}"),
            shape: shape.clone(),
            part: Part::Language,
            linear: false,
        })
        .collect();
    for case in list(&golden["adamw"]) {
        let mut arena = Arena::reserve(1 << 20).unwrap();
        let training = Training::Full(vec![Part::Language]);
        let store = ParamStore::place(&specs, &training, DType::F32, &mut arena).unwrap();
        for (p, start) in store.all().iter().zip(list(&case["start"])) {
            arena.write(p.place.value, &singles(start)).unwrap();
        }
        let settings = OptimizerSettings {
            beta1: number(&case["betas"][0]),
            beta2: number(&case["betas"][1]),
            epsilon: number(&case["eps"]),
            weight_decay: number(&case["weight_decay"]),
            max_grad_norm: number(&case["max_grad_norm"]),
        };
        for (step, grads) in list(&case["grads"]).iter().enumerate() {
            for (p, g) in store.trained().zip(list(grads)) {
                arena.write(p.place.grad.unwrap(), &singles(g)).unwrap();
            }
            let lr = number(&case["lr"]);
            let norm = optimizer_step(&store, &arena, &settings, Rates::all(lr), step + 1).unwrap();
            check_norm(step, norm, case);
        }
        for (i, p) in store.all().iter().enumerate() {
            let moments = p.moments.unwrap();
            check("first moment", &arena.read(moments[0]).unwrap(), case, "exp_avg", i);
            check("second moment", &arena.read(moments[1]).unwrap(), case, "exp_avg_sq", i);
            // The golden decays all tensors.
            if p.shape.len() > 1 || settings.weight_decay == 0.0 {
                check("parameter", &arena.read(p.place.value).unwrap(), case, "params", i);
            }
        }
        zero_gradients(&store, &arena).unwrap();
        for p in store.trained() {
            let g: Vec<f32> = arena.read(p.place.grad.unwrap()).unwrap();
            assert!(g.iter().all(|x| *x == 0.0), "{} still has a gradient", p.name);
        }
    }
}

#[test]
fn schedules_are_those_of_transformers() {
    let golden = golden();
    let cases = list(&golden["schedules"]);
    assert!(cases.len() >= 12);
    for case in cases {
        let schedule = Schedule {
            kind: match case["name"].as_str() {
                Some("constant") => ScheduleKind::Constant,
                Some("constant_with_warmup") => ScheduleKind::ConstantWithWarmup,
                Some("linear") => ScheduleKind::Linear,
                Some("cosine") => ScheduleKind::Cosine,
                other => panic!("unknown schedule {other:?}"),
            },
            peak: number(&case["lr"]),
            vision_peak: None,
            connector_peak: None,
            warmup_steps: number(&case["warmup_steps"]) as usize,
            total_steps: number(&case["total_steps"]) as usize,
        };
        for (step, want) in numbers(&case["rates"]).into_iter().enumerate() {
            let got = schedule.rate(step);
            let close = (got - want).abs() <= 1e-12 * schedule.peak;
            assert!(close, "{schedule:?}, step {step}: {got}, transformers {want}");
        }
    }
}
