//! Analytic gradients against central differences over four points, in f64: of every op, and of a
//! whole small model with its loss, whose tape is played again in double precision. Nothing here
//! compares precisions or backends; that is `conformance`.

use grpo_rt::base::{DType, HostTensor, Philox, RngDomain, Tolerance};
use grpo_rt::grpo::pack::{Packed, TrainCompletion, TrainGroup, pack};
use grpo_rt::mem::{Arena, Region};
use grpo_rt::model::decoder::{head, text};
use grpo_rt::model::lora::{LoraConfig, Pattern, Targets};
use grpo_rt::model::net::{AdapterDropout, Net};
use grpo_rt::model::params::{ParamStore, Training};
use grpo_rt::model::positions::{PositionRule, TokenRun};
use grpo_rt::model::processor::Visual;
use grpo_rt::model::prompt::Prompt;
use grpo_rt::model::spec::Part;
use grpo_rt::model::vlm::Vlm;
use grpo_rt::ops::gather_rows::GatherRows;
use grpo_rt::ops::grpo_loss::GrpoLoss;
use grpo_rt::ops::linear_logprob::{HeadSettings, LinearLogprob};
use grpo_rt::ops::{Case, Emit, OPS, ParamRef, Slot};
use grpo_rt::tape::check::Check;
use grpo_rt::tape::{Place, Tape};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// Elements per input whose slope is measured.
const ELEMENTS: usize = 24;
/// Allowed distance, relative to the largest gradient of the input.
const TOLERANCE: Tolerance = Tolerance { abs: 1e-9, rel: 1e-6 };

/// All elements of a small tensor, or some of a large one.
fn some_elements(len: usize, input: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..len).collect();
    Philox::new(11, RngDomain::Test).stream(7, input as u32).shuffle(&mut all);
    all.truncate(ELEMENTS);
    all
}

/// Worst relative error over all inputs of a case.
fn check(op: &str, case: &Case) -> Result<f64, String> {
    let mut analytic = Check::backward(case, DType::F64, 3).map_err(|e| e.to_string())?;
    let grads = analytic.run().map_err(|e| e.to_string())?.grads;
    let mut numeric = Check::forward(case, DType::F64, 3).map_err(|e| e.to_string())?;
    let mut worst = 0.0f64;
    for input in numeric.differentiable(case).collect::<Vec<_>>() {
        let value = numeric.value(input);
        let rms = (value.iter().map(|x| x * x).sum::<f64>() / value.len() as f64).sqrt();
        let grad = grads[input].as_ref().expect("a differentiable input has a gradient");
        let scale = grad.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        assert!(scale > 0.0, "{op}, {}: input {input} has no gradient", case.label);
        for e in some_elements(value.len(), input) {
            let slope = numeric.slope(input, e, 1e-3 * rms).map_err(|e| e.to_string())?;
            let (difference, bound) =
                ((slope - grad[e]).abs(), TOLERANCE.abs + TOLERANCE.rel * scale);
            if difference.is_nan() || difference > bound {
                return Err(format!(
                    "{op}, {}: input {input}, element {e}: gradient {} but slope {slope} (allowed {bound:.1e})",
                    case.label, grad[e]
                ));
            }
            worst = worst.max(difference / scale);
        }
    }
    Ok(worst)
}

#[test]
fn every_op_has_the_gradient_that_differences_measure() {
    let mut failures = Vec::new();
    let mut checked = 0;
    for spec in OPS {
        for case in (spec.cases)().iter().filter(|c| c.inputs.iter().any(|i| i.2)) {
            // A weight that is held fixed on purpose has a slope that is no gradient.
            if case.label.ends_with("detached") {
                continue;
            }
            match check(spec.name, case) {
                Ok(worst) => println!("{:<16} {:<48} {worst:.1e}", spec.name, case.label),
                Err(e) => failures.push(e),
            }
            checked += 1;
        }
    }
    assert!(checked > 40, "only {checked} cases have a gradient");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_gradient_reaches_a_parameter_through_a_view() {
    let mut arena = Arena::reserve(1 << 16).unwrap();
    let value = arena.persist(6, DType::F32).unwrap();
    let grad = arena.persist(6, DType::F32).unwrap();
    let mut tape = Tape::new(DType::F32);
    let p = tape.param(ParamRef { value, grad: Some(grad) }, &[2, 3]);
    let turned = tape.view(p, &[3, 2]).unwrap();
    let rows = tape.indices(vec![2, 0, 2]);
    let y = tape.op(GatherRows, &[turned, rows]).unwrap();
    let seed = tape.input(HostTensor::f32([3, 2], vec![1.0, 2.0, 4.0, 8.0, 16.0, 32.0]));
    tape.backward(&[(y, seed)]).unwrap();
    let plan = tape.plan();
    tape.run(&plan, &arena, arena.shared_base()).unwrap();
    assert_eq!(arena.read::<f32>(grad).unwrap(), [4.0, 8.0, 0.0, 0.0, 17.0, 34.0]);
}

/// An image with random pixels.
fn image(grid: [usize; 3], number: u32) -> Arc<Visual> {
    let patch_dim = 3 * 2 * 4 * 4;
    let mut stream = Philox::new(2, RngDomain::Test).stream(3, number);
    let patches = (0..grid.iter().product::<usize>() * patch_dim).map(|_| stream.normal());
    Arc::new(Visual {
        patches: patches.collect(),
        patch_dim,
        grid_thw: grid,
        original: (grid[2] * 4, grid[1] * 4),
        resized: (grid[2] * 4, grid[1] * 4),
        content: u128::from(number),
        runs: vec![TokenRun::of_grid([1, grid[1] / 2, grid[2] / 2])],
        seconds: vec![],
    })
}

/// Two groups in one decoder pass: completions of several lengths that share a prompt with an
/// image, and one completion of a prompt with another.
fn batch() -> Packed {
    let prompt = |grid: [usize; 3], number: u32| {
        let tokens = grid.iter().product::<usize>() / 4;
        let mut ids = vec![10 + number, 20, 296];
        ids.extend(vec![298; tokens]);
        ids.extend([297, 30, 40 + number]);
        let images = vec![image(grid, number)];
        Arc::new(Prompt::new(ids, images, vec![3], PositionRule::Grid, String::new()).unwrap())
    };
    let completion = |sample: u32, ids: &[u32], advantage: f32| TrainCompletion {
        ids: ids.to_vec(),
        advantage,
        weight: 0.125,
        sample,
        ..TrainCompletion::default()
    };
    pack(&[
        TrainGroup {
            prompt: prompt([1, 4, 10], 0),
            completions: vec![completion(0, &[50, 60, 70], 0.8), completion(1, &[61], -0.6)],
        },
        TrainGroup {
            prompt: prompt([1, 6, 4], 1),
            completions: vec![completion(2, &[50, 71, 80, 90], -1.1)],
        },
    ])
}

/// The training pass of a micro-batch: log-probabilities, and the loss if old ones are given.
fn training_pass(model: &Vlm, packed: &Packed, old: Option<&[f32]>, dropout: f64) -> (Tape, Slot) {
    let mut tape = Tape::new(DType::F32);
    let mut net = Net::new(&mut tape, &model.params);
    if dropout > 0.0 {
        let keys = HostTensor::i32([packed.keys.len() / 2, 2], packed.keys.clone());
        let keys = net.tape.input(keys);
        net.dropout = Some(AdapterDropout { p: dropout, seed: 1, step: 2, keys });
    }
    let mut input = packed.input.clone();
    let (pixels, grids) = packed.visuals.pixels().unwrap();
    input.vision = model.config.vision.encode(&mut net, pixels, &grids).unwrap();
    let hidden = text(&mut net, &model.config.text, &input).unwrap();
    let w = head(&mut net, &model.config.text).unwrap();
    let rows = tape.indices(packed.rows.clone());
    let hidden = tape.op(GatherRows, &[hidden, rows]).unwrap();
    let targets = tape.indices(packed.targets.clone());
    let settings = HeadSettings { temperature: 0.9, forbidden: vec![298, 299] };
    let op = LinearLogprob { head: Arc::new(settings), known: false, bonus: false };
    let logp = tape.ops(op, &[hidden, w, targets]).unwrap()[0];
    let Some(old) = old else { return (tape, logp) };
    let column = |tape: &mut Tape, v: Vec<f32>| tape.input(HostTensor::f32([v.len(), 1], v));
    let reference = old.iter().enumerate().map(|(i, x)| x - 0.3 + 0.1 * i as f32).collect();
    let inputs = [
        logp,
        column(&mut tape, old.to_vec()),
        column(&mut tape, packed.advantage.clone()),
        column(&mut tape, packed.weight.clone()),
        column(&mut tape, reference),
    ];
    let op = GrpoLoss::clipped(0.2, 0.28).with_k3(0.1, true);
    let loss = tape.op(op, &inputs).unwrap();
    (tape, loss)
}

/// A tape of singles played again in doubles, with parameters of its own.
struct Doubles {
    arena: Arena,
    tape: Tape,
    params: Vec<(String, ParamRef)>,
    slots: HashMap<Slot, Slot>,
}

impl Doubles {
    fn of(tape: &Tape, arena: &Arena, params: &ParamStore) -> Self {
        let arena_64 = Arena::reserve(1 << 28).unwrap();
        let mut d = Doubles {
            arena: arena_64,
            tape: Tape::new(DType::F64),
            params: Vec::new(),
            slots: HashMap::new(),
        };
        for p in params.all() {
            let mut place = || d.arena.persist(p.len(), DType::F64).unwrap();
            let value = place();
            let grad = p.trained().then(place);
            let singles: Vec<f32> = arena.read(p.place.value).unwrap();
            let doubles: Vec<f64> = singles.into_iter().map(f64::from).collect();
            d.arena.write(value, &doubles).unwrap();
            d.params.push((p.name.clone(), ParamRef { value, grad }));
        }
        let by_offset: HashMap<usize, usize> =
            params.all().iter().enumerate().map(|(i, p)| (p.place.value.offset, i)).collect();
        for (i, info) in tape.slots().iter().enumerate() {
            let new = match &info.place {
                Place::Input(t) => d.tape.input(t.clone()),
                // Gradients are fixed slots, too; the new tape makes its own.
                Place::Fixed(r) => match by_offset.get(&r.offset) {
                    Some(&p) => d.tape.param(d.params[p].1, &info.ty.shape),
                    None => continue,
                },
                Place::Planned | Place::View(_) => continue,
            };
            d.slots.insert(Slot(i as u32), new);
        }
        for node in tape.nodes() {
            let inputs: Vec<Slot> = node.inputs.iter().map(|s| d.slots[s]).collect();
            let made = match &node.op {
                Some(op) => d.tape.emit(op.clone(), &inputs).unwrap(),
                None => vec![d.tape.view(inputs[0], &tape.ty(node.outputs[0]).shape).unwrap()],
            };
            assert_eq!(made.len(), node.outputs.len(), "a forward node that updates in place");
            d.slots.extend(node.outputs.iter().copied().zip(made));
        }
        d
    }

    fn value(&self, tape: &Tape, slot: Slot) -> Vec<f64> {
        let plan = tape.plan();
        let run = tape.run(&plan, &self.arena, self.arena.shared_base()).unwrap();
        run.f64(slot).unwrap()
    }

    /// The derivative of `loss` when a parameter moves along a direction.
    fn slope(&mut self, forward: &Tape, loss: Slot, at: Region, along: &[f64], h: f64) -> f64 {
        let before: Vec<f64> = self.arena.read(at).unwrap();
        let mut slope = 0.0;
        for (step, factor) in [(-2.0, 1.0), (-1.0, -8.0), (1.0, 8.0), (2.0, -1.0)] {
            let moved: Vec<f64> = before.iter().zip(along).map(|(x, d)| x + step * h * d).collect();
            self.arena.write(at, &moved).unwrap();
            slope += factor * self.value(forward, loss)[0] / (12.0 * h);
        }
        self.arena.write(at, &before).unwrap();
        slope
    }
}

/// Moves every trained parameter as a whole along a random direction and compares the slope of the
/// loss with the gradient. Returns how many parameters that were.
fn check_model(training: &Training, dropout: f64) -> usize {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/qwen2_5_vl/tied");
    let mut arena = Arena::reserve(1 << 28).unwrap();
    let model = Vlm::load(&dir, training, DType::F32, 5, &mut arena).unwrap();
    let rng = Philox::new(4, RngDomain::Test);
    for (i, p) in model.params.all().iter().enumerate() {
        if p.name.ends_with(".lora_B.weight") {
            let mut stream = rng.stream(5, i as u32);
            let b: Vec<f32> = (0..p.len()).map(|_| 0.1 * stream.normal()).collect();
            arena.write(p.place.value, &b).unwrap();
        }
    }
    let packed = batch();
    let (mut tape, logp) = training_pass(&model, &packed, None, dropout);
    tape.keep(logp);
    let plan = tape.plan();
    let logps = tape.run(&plan, &arena, arena.shared_base()).unwrap().f32(logp).unwrap();
    // Ratios inside and outside of the clip range, none near its bounds.
    let gaps = [0.1, -0.4, 0.0, 0.5, -0.1, 0.35, 0.05, -0.5];
    let old: Vec<f32> = logps.iter().zip(gaps).map(|(l, g)| l - g).collect();
    assert_eq!(old.len(), packed.targets.len());

    let (tape, loss) = training_pass(&model, &packed, Some(&old), dropout);
    let mut d = Doubles::of(&tape, &arena, &model.params);
    let loss = d.slots[&loss];
    d.tape.keep(loss);
    let forward = d.tape.clone();
    let mut backward = d.tape.clone();
    let one = backward.input(HostTensor::f32([1, 1], vec![1.0]));
    backward.backward(&[(loss, one)]).unwrap();
    d.value(&backward, loss);
    let trained: Vec<(String, Region, Region)> =
        d.params.iter().filter_map(|(name, p)| Some((name.clone(), p.value, p.grad?))).collect();
    let mut worst = 0.0f64;
    for (i, (name, value, grad)) in trained.iter().enumerate() {
        let mut stream = rng.stream(6, i as u32);
        let along: Vec<f64> = (0..value.elements).map(|_| f64::from(stream.normal())).collect();
        let g: Vec<f64> = d.arena.read(*grad).unwrap();
        let x: Vec<f64> = d.arena.read(*value).unwrap();
        let size = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let rms = size(&x) / (x.len() as f64).sqrt();
        let h = 2e-4 * if rms > 0.0 { rms } else { 0.1 };
        let slope = d.slope(&forward, loss, *value, &along, h);
        let ours: f64 = g.iter().zip(&along).map(|(a, b)| a * b).sum();
        let (difference, bound) = ((slope - ours).abs(), 1e-9 + 1e-6 * size(&g));
        assert!(difference <= bound, "{name}: slope {slope}, gradient {ours}, allowed {bound:.1e}");
        // The gradient of a key bias is 0: it moves all scores of a query alike.
        if size(&g) > 1e-9 {
            worst = worst.max(difference / size(&g));
        }
    }
    println!("{} parameters, worst {worst:.1e}", trained.len());
    trained.len()
}

#[test]
fn the_whole_model_has_the_gradient_that_differences_measure() {
    let parts = vec![Part::Vision, Part::Connector, Part::Language, Part::Head];
    assert!(check_model(&Training::Full(parts), 0.0) > 60);
}

#[test]
fn adapters_have_the_gradient_that_differences_measure() {
    let modules = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"];
    let lora = LoraConfig {
        r: 3,
        lora_alpha: 6.0,
        lora_dropout: 0.3,
        target_modules: Targets::Names(modules.map(String::from).to_vec()),
        exclude_modules: Some(Pattern::new(r".*visual\..*").unwrap()),
    };
    assert_eq!(check_model(&Training::Lora(lora.clone()), 0.0), 2 * 5 * 2);
    assert_eq!(check_model(&Training::Lora(lora), 0.3), 2 * 5 * 2);
}
