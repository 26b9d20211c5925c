//! A mixture of experts as a block: router, experts, sum. Every pair's row is that of a linear layer
//! with its expert's matrix; a token has the same bits alone, among others and when its block is
//! computed a second time; on the CPU and on emulated devices. What the right numbers are is the
//! business of `conformance`.

use grpo_rt::base::{DType, HostTensor, Philox, RngDomain};
use grpo_rt::device::{Device, Vendor};
use grpo_rt::mem::{Arena, Recompute};
use grpo_rt::ops::add::Add;
use grpo_rt::ops::expert_matmul::ExpertMatmul;
use grpo_rt::ops::matmul::Matmul;
use grpo_rt::ops::mix_experts::MixExperts;
use grpo_rt::ops::route::Route;
use grpo_rt::ops::split::Split;
use grpo_rt::ops::swiglu::Swiglu;
use grpo_rt::ops::{ParamRef, Slot, Stored};
use grpo_rt::tape::Tape;
use half::bf16;
use std::sync::Arc;

mod devices; // emulated devices

const EXPERTS: usize = 6;
const TOP_K: usize = 2;
const HIDDEN: usize = 64;
const INNER: usize = 40;

fn normal(number: u32, len: usize, std: f32) -> Vec<f32> {
    let mut stream = Philox::new(37, RngDomain::Test).stream(2, number);
    (0..len).map(|_| std * stream.normal()).collect()
}

/// Router, gate and up, down: `[rows, columns]` of each.
const SHAPES: [[usize; 2]; 3] =
    [[EXPERTS, HIDDEN], [EXPERTS * 2 * INNER, HIDDEN], [EXPERTS * HIDDEN, INNER]];

/// An arena with trained matrices in it.
struct Lab {
    arena: Arena,
    params: Vec<(ParamRef, [usize; 2])>,
    float: DType,
}

impl Lab {
    fn new(device: Option<&Arc<dyn Device>>, float: DType, shapes: &[[usize; 2]]) -> Self {
        let arena = Arena::on(device, 16 << 20).unwrap();
        let mut lab = Lab { arena, params: Vec::new(), float };
        for (i, &shape) in shapes.iter().enumerate() {
            let len = shape[0] * shape[1];
            let value = lab.arena.persist(len, float).unwrap();
            let grad = lab.arena.persist(len, DType::F32).unwrap();
            lab.params.push((ParamRef { value, grad: Some(grad) }, shape));
            lab.fill(i, &normal(i as u32, len, 0.2));
        }
        lab
    }

    /// Sets a matrix.
    fn fill(&mut self, matrix: usize, numbers: &[f32]) {
        let value = self.params[matrix].0.value;
        match self.float {
            DType::BF16 => {
                let rounded: Vec<bf16> = numbers.iter().map(|&x| Stored::store(x)).collect();
                self.arena.write(value, &rounded).unwrap();
            }
            _ => self.arena.write(value, numbers).unwrap(),
        }
    }

    fn tape(&self) -> (Tape, Vec<Slot>) {
        let mut tape = Tape::on(self.float, self.arena.target());
        let slots = self.params.iter().map(|(p, shape)| tape.param(*p, shape)).collect();
        (tape, slots)
    }

    /// Plans and runs a tape; returns some of its slots and the gradients of the parameters.
    fn run(&mut self, tape: &mut Tape, read: &[Slot], when: Recompute) -> (Vec<Vec<f32>>, f64) {
        for (p, _) in &self.params {
            let grad = p.grad.unwrap();
            self.arena.write(grad, &vec![0f32; grad.elements]).unwrap();
        }
        read.iter().for_each(|&s| {
            tape.keep(s);
        });
        let plan = tape.plan_within(0, when);
        let run = tape.run(&plan, &self.arena, self.arena.shared_base()).unwrap();
        let mut all: Vec<Vec<f32>> = read.iter().map(|&s| run.f32(s).unwrap()).collect();
        let grads = self.params.iter().map(|(p, _)| self.arena.read(p.grad.unwrap()).unwrap());
        all.extend(grads);
        (all, plan.recomputed)
    }
}

/// What a layer does with the rows of `x`: each is added to what its experts make of it.
fn block(tape: &mut Tape, x: Slot, w: &[Slot]) -> Slot {
    let logits = tape.op(Matmul { wide: true, ..Matmul::default() }, &[x, w[0]]).unwrap();
    let route = Route { top_k: TOP_K, normalize: true };
    let [weight, _, order, first] = tape.ops(route, &[logits]).unwrap()[..] else { panic!() };
    let product = |rows_per_token| ExpertMatmul { experts: EXPERTS, rows_per_token };
    let both = tape.op(product(TOP_K), &[x, w[1], order, first]).unwrap();
    let halves = tape.ops(Split::columns(&[INNER; 2]), &[both]).unwrap();
    let inner = tape.op(Swiglu, &halves).unwrap();
    let y = tape.op(product(1), &[inner, w[2], order, first]).unwrap();
    let out = tape.op(MixExperts { top_k: TOP_K }, &[y, weight]).unwrap();
    tape.op(Add, &[x, out]).unwrap()
}

/// Some rows of a batch through two blocks and back: outputs, gradients of the rows, gradients of the
/// matrices; and the operations that ran twice.
fn pass(lab: &mut Lab, rows: &[usize], when: Recompute) -> (Vec<Vec<f32>>, f64) {
    let (mut tape, w) = lab.tape();
    let of = |number| -> HostTensor {
        let all = normal(number, 300 * HIDDEN, 1.0);
        let some = rows.iter().flat_map(|r| all[r * HIDDEN..][..HIDDEN].to_vec()).collect();
        HostTensor::f32([rows.len(), HIDDEN], some)
    };
    let x = tape.activation(of(10));
    tape.require_grad(x);
    tape.begin_segment("first");
    let y = block(&mut tape, x, &w);
    tape.begin_segment("second");
    let y = block(&mut tape, y, &w);
    tape.end_segment();
    let seed = tape.activation(of(11));
    let grads = tape.backward(&[(y, seed)]).unwrap();
    let dx = grads.of(x).unwrap();
    lab.run(&mut tape, &[y, dx], when)
}

fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|x| x.to_bits()).collect()
}

fn assert_same(what: &str, a: &[f32], b: &[f32]) {
    let differing = bits(a).iter().zip(bits(b)).filter(|(a, b)| **a != *b).count();
    assert!(a.len() == b.len() && differing == 0, "{what}: {differing} of {} differ", a.len());
}

/// The CPU and both emulated devices.
fn places() -> Vec<(&'static str, Option<Arc<dyn Device>>)> {
    let emulated = |v| Some(devices::emulated(v));
    vec![
        ("cpu", None),
        ("waves of 32", emulated(Vendor::Cuda)),
        ("waves of 64", emulated(Vendor::Hip)),
    ]
}

#[test]
fn a_token_is_the_same_alone_and_among_others() {
    for (place, device) in places() {
        for float in [DType::F32, DType::BF16] {
            let mut lab = Lab::new(device.as_ref(), float, &SHAPES);
            // Enough rows for the largest tiles of a device, fewer, one.
            let all: Vec<usize> = (0..300).collect();
            let (whole, _) = pass(&mut lab, &all, Recompute::Never);
            assert!(whole[0].iter().all(|x| x.is_finite()) && whole[1].iter().any(|x| *x != 0.0));
            for rows in [vec![0], vec![299], (100..180).collect(), vec![7, 150, 3]] {
                let (few, _) = pass(&mut lab, &rows, Recompute::Never);
                for (part, (few, whole)) in few.iter().zip(&whole).take(2).enumerate() {
                    let row = |&r: &usize| whole[r * HIDDEN..][..HIDDEN].to_vec();
                    let mine: Vec<f32> = rows.iter().flat_map(row).collect();
                    let what = format!("{place}, {float:?}, {} rows, part {part}", rows.len());
                    assert_same(&what, few, &mine);
                }
            }
        }
    }
}

#[test]
fn a_block_that_runs_twice_gives_the_same_gradients() {
    for (place, device) in places() {
        for float in [DType::F32, DType::BF16] {
            let mut lab = Lab::new(device.as_ref(), float, &SHAPES);
            let rows: Vec<usize> = (0..33).collect();
            let (once, none) = pass(&mut lab, &rows, Recompute::Never);
            let (twice, again) = pass(&mut lab, &rows, Recompute::Always);
            assert!(none == 0.0 && again > 0.0, "{place}: nothing ran a second time");
            assert_eq!(once.len(), 2 + SHAPES.len());
            for (part, (a, b)) in once.iter().zip(&twice).enumerate() {
                assert!(a.iter().any(|x| *x != 0.0), "{place}: part {part} is nothing");
                assert_same(&format!("{place}, {float:?}, part {part}"), a, b);
            }
        }
    }
}

/// Forward and backward of a product of `x` with matrix 0: `y`, `dx`, the matrix's gradient.
fn linear(
    lab: &mut Lab,
    x: HostTensor,
    dy: HostTensor,
    experts: Option<[Vec<i32>; 2]>,
) -> Vec<Vec<f32>> {
    let (mut tape, w) = lab.tape();
    let x = tape.activation(x);
    tape.require_grad(x);
    let y = match experts {
        None => tape.op(Matmul::default(), &[x, w[0]]).unwrap(),
        Some([order, first]) => {
            let op = ExpertMatmul { experts: first.len() - 1, rows_per_token: 1 };
            let (order, first) = (tape.indices(order), tape.indices(first));
            tape.op(op, &[x, w[0], order, first]).unwrap()
        }
    };
    let seed = tape.activation(dy);
    let dx = tape.backward(&[(y, seed)]).unwrap().of(x).unwrap();
    lab.run(&mut tape, &[y, dx], Recompute::Never).0
}

#[test]
fn an_expert_computes_what_a_linear_layer_with_its_matrix_does() {
    // Inner and outer sizes with and without rows of 16 bytes; expert 1 has nobody.
    for (place, device) in places() {
        for (float, inner, outer) in [
            (DType::F32, 48, 32),
            (DType::F32, 33, 21),
            (DType::BF16, 48, 32),
            (DType::BF16, 33, 21),
        ] {
            let expert = |p: usize| [0, 2, 2, 3, 0, 2][p * p % 6];
            let pairs = 70;
            let of = |e: usize| (0..pairs).filter(|&p| expert(p) == e).collect::<Vec<usize>>();
            let order: Vec<i32> = (0..4).flat_map(of).map(|p| p as i32).collect();
            let first = (0..5).map(|e| (0..e).map(|e| of(e).len() as i32).sum()).collect();
            let (x, dy) = (normal(20, pairs * inner, 1.0), normal(21, pairs * outer, 1.0));
            let pick = |v: &[f32], cols: usize, rows: &[usize]| {
                let data = rows.iter().flat_map(|r| v[r * cols..][..cols].to_vec()).collect();
                HostTensor::f32([rows.len(), cols], data)
            };
            let mut lab = Lab::new(device.as_ref(), float, &[[4 * outer, inner]]);
            let all: Vec<usize> = (0..pairs).collect();
            let (all_x, all_dy) = (pick(&x, inner, &all), pick(&dy, outer, &all));
            let whole = linear(&mut lab, all_x, all_dy, Some([order, first]));
            let matrices = normal(0, 4 * outer * inner, 0.2);
            let mut one = Lab::new(device.as_ref(), float, &[[outer, inner]]);
            for e in 0..4 {
                one.fill(0, &matrices[e * outer * inner..][..outer * inner]);
                let what = format!("{place}, {float:?}, {inner} x {outer}, expert {e}");
                let dw = &whole[2][e * outer * inner..][..outer * inner];
                if of(e).is_empty() {
                    assert!(dw.iter().all(|x| *x == 0.0), "{what}: a gradient from nobody");
                    continue;
                }
                let rows = of(e);
                let (x, dy) = (pick(&x, inner, &rows), pick(&dy, outer, &rows));
                let alone = linear(&mut one, x, dy, None);
                for (part, cols) in [(0, outer), (1, inner)] {
                    let mine = pick(&whole[part], cols, &rows).to_f32_vec();
                    assert_same(&format!("{what}, part {part}"), &alone[part], &mine);
                }
                assert_same(&format!("{what}, gradient"), &alone[2], dw);
            }
        }
    }
}
