//! Laws of the memory planner on random lifetimes, and of plan and executor together on tapes of
//! random graphs: live tensors never share a byte, and the peak that was planned is the peak that
//! was used, to the byte. Runs no model.

use grpo_rt::base::{DType, ErrorKind, HostTensor};
use grpo_rt::device::cpu::ARENA_ALIGN;
use grpo_rt::mem::Arena;
use grpo_rt::mem::plan::{Lifetime, aligned, lower_bound, plan_offsets};
use grpo_rt::ops::Slot;
use grpo_rt::ops::add::Add;
use grpo_rt::ops::split::Split;
use grpo_rt::tape::Tape;
use proptest::prelude::*;
use proptest::test_runner::Config;

fn config() -> Config {
    Config { cases: 300, failure_persistence: None, ..Config::default() }
}

fn lifetime() -> impl Strategy<Value = Lifetime> {
    // Few sizes and short lives: ties and gaps that fit exactly are what breaks planners.
    let bytes = prop_oneof![Just(0), 1..200usize, Just(64), Just(4096), 1..100_000usize];
    (bytes, 0..60u32, prop_oneof![Just(0), 0..4u32, 0..60u32])
        .prop_map(|(bytes, first, length)| Lifetime { bytes, first, last: first + length })
}

fn alive_together(a: &Lifetime, b: &Lifetime) -> bool {
    a.first <= b.last && b.first <= a.last
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_plan_keeps_live_tensors_apart(lifetimes in prop::collection::vec(lifetime(), 0..80)) {
        let plan = plan_offsets(&lifetimes);
        prop_assert_eq!(plan.offsets.len(), lifetimes.len());
        let mut end = 0;
        for (i, (a, &at)) in lifetimes.iter().zip(&plan.offsets).enumerate() {
            prop_assert_eq!(at % ARENA_ALIGN, 0);
            if a.bytes == 0 {
                continue;
            }
            end = end.max(at + aligned(a.bytes));
            for (b, &bt) in lifetimes[..i].iter().zip(&plan.offsets) {
                if b.bytes > 0 && alive_together(a, b) {
                    let apart = at + a.bytes <= bt || bt + b.bytes <= at;
                    prop_assert!(apart, "{:?} at {} and {:?} at {}", a, at, b, bt);
                }
            }
        }
        prop_assert_eq!(plan.peak, end);
        prop_assert!(plan.peak >= lower_bound(&lifetimes));
        prop_assert!(plan.peak <= lifetimes.iter().map(|l| aligned(l.bytes)).sum());
        prop_assert_eq!(plan_offsets(&lifetimes), plan);
    }

    #[test]
    fn only_ties_depend_on_the_order(
        lifetimes in prop::collection::vec(lifetime(), 0..50),
        keys in prop::collection::vec(any::<u32>(), 50),
    ) {
        // Tensors of one size and one birth are placed in the order of their numbers; all others
        // are placed the same wherever they stand in the list.
        let mut seen = std::collections::HashSet::new();
        let lifetimes: Vec<Lifetime> =
            lifetimes.into_iter().filter(|l| seen.insert((l.bytes, l.first))).collect();
        let mut order: Vec<usize> = (0..lifetimes.len()).collect();
        order.sort_by_key(|&i| (keys[i], i));
        let shuffled: Vec<Lifetime> = order.iter().map(|&i| lifetimes[i]).collect();
        let (plan, other) = (plan_offsets(&lifetimes), plan_offsets(&shuffled));
        prop_assert_eq!(plan.peak, other.peak);
        for (at, &i) in order.iter().enumerate() {
            prop_assert_eq!(other.offsets[at], plan.offsets[i]);
        }
    }
}

#[test]
fn nothing_takes_no_room() {
    assert_eq!(plan_offsets(&[]).peak, 0);
    assert_eq!(lower_bound(&[]), 0);
    let empty = Lifetime { bytes: 0, first: 3, last: 9 };
    let plan = plan_offsets(&[empty, empty]);
    assert_eq!((plan.peak, plan.offsets), (0, vec![0, 0]));
}

/// One node of a random graph: the two tensors it reads (modulo what exists) and what it does.
#[derive(Debug, Clone, Copy)]
struct Step {
    left: usize,
    right: usize,
    kind: u8,
    keep: bool,
}

fn step() -> impl Strategy<Value = Step> {
    (any::<u16>(), any::<u16>(), 0..4u8, prop::bool::weighted(0.15)).prop_map(
        |(left, right, kind, keep)| Step { left: left.into(), right: right.into(), kind, keep },
    )
}

/// A tape under construction together with what it must compute: shape and value of each tensor.
struct Graph {
    tape: Tape,
    tensors: Vec<(Slot, [usize; 2], Vec<f32>)>,
    kept: Vec<usize>,
}

impl Graph {
    fn push(&mut self, slot: Slot, shape: [usize; 2], value: Vec<f32>) {
        self.tensors.push((slot, shape, value));
    }

    fn apply(&mut self, s: Step) {
        let (a, shape, x) = self.tensors[s.left % self.tensors.len()].clone();
        match s.kind {
            0 if shape[1] > 0 && shape[1] % 2 == 0 => {
                let half = shape[1] / 2;
                let parts = self.tape.ops(Split::columns(&[half, half]), &[a]).unwrap();
                for (p, &slot) in parts.iter().enumerate() {
                    let part = x.chunks(shape[1]).flat_map(|r| r[p * half..][..half].to_vec());
                    self.push(slot, [shape[0], half], part.collect());
                }
            }
            1 => {
                let turned = [shape[1], shape[0]];
                let v = self.tape.view(a, &turned).unwrap();
                self.push(v, turned, x);
            }
            _ => {
                let fitting: Vec<usize> =
                    (0..self.tensors.len()).filter(|&i| self.tensors[i].1 == shape).collect();
                let (b, _, y) = self.tensors[fitting[s.right % fitting.len()]].clone();
                let sum = self.tape.op(Add, &[a, b]).unwrap();
                let value = x.iter().zip(&y).map(|(x, y)| x + y).collect();
                self.push(sum, shape, value);
            }
        }
        if s.keep {
            let last = self.tensors.len() - 1;
            self.tape.keep(self.tensors[last].0);
            self.kept.push(last);
        }
    }
}

fn graph(rows: usize, columns: &[usize], steps: &[Step]) -> Graph {
    let mut g = Graph { tape: Tape::new(DType::F32), tensors: Vec::new(), kept: Vec::new() };
    for (i, &c) in columns.iter().enumerate() {
        // Small integers: sums are exact, and 2 to the 20th additions could not overflow.
        let value: Vec<f32> = (0..rows * c).map(|j| ((i * 31 + j * 7) % 13) as f32 - 6.0).collect();
        let slot = g.tape.input(HostTensor::f32([rows, c], value.clone()));
        g.tape.require_grad(slot);
        g.push(slot, [rows, c], value);
    }
    for &s in steps {
        g.apply(s);
    }
    g
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn random_graphs_use_the_bytes_that_were_planned(
        rows in prop_oneof![1 => Just(0usize), 9 => 1..5usize],
        columns in prop::collection::vec(prop_oneof![1..9usize, 30..70usize, Just(64)], 1..4),
        steps in prop::collection::vec(step(), 1..18),
        backward in any::<bool>(),
        persistent in 0..200usize,
    ) {
        let mut g = graph(rows, &columns, &steps);
        let (end, shape, value) = g.tensors[g.tensors.len() - 1].clone();
        g.tape.keep(end);
        let mut gradients = Vec::new();
        if backward {
            let one = HostTensor::f32(shape, vec![1.0; value.len()]);
            let seed = g.tape.input(one);
            let found = g.tape.backward(&[(end, seed)]).unwrap();
            gradients.extend((0..columns.len()).filter_map(|i| found.of(g.tensors[i].0)));
            gradients.iter().for_each(|&s| { g.tape.keep(s); });
        }
        let mut arena = Arena::reserve(1 << 26).unwrap();
        arena.persist(persistent, DType::F32).unwrap();
        let plan = g.tape.plan();
        let lifetimes: Vec<Lifetime> = g.tape.lifetimes().into_iter().map(|(_, l)| l).collect();
        prop_assert!(plan.peak >= lower_bound(&lifetimes));
        let base = arena.shared_base();
        let run = g.tape.run(&plan, &arena, base).unwrap();
        for &i in &g.kept {
            prop_assert_eq!(&run.f32(g.tensors[i].0).unwrap(), &g.tensors[i].2);
        }
        prop_assert_eq!(run.f32(end).unwrap(), value);
        // The sum of all entries is linear in the inputs, so it is also gradient times input.
        if backward && gradients.len() == columns.len() {
            let total: f32 = g.tensors[g.tensors.len() - 1].2.iter().sum();
            let through: f32 = gradients.iter().zip(&g.tensors).map(|(&s, (_, _, x))| {
                run.f32(s).unwrap().iter().zip(x).map(|(g, x)| g * x).sum::<f32>()
            }).sum();
            prop_assert_eq!(total, through);
        }
        prop_assert_eq!(arena.actual_peak(), base + plan.peak);
    }
}

#[test]
fn a_plan_beyond_the_budget_is_refused_with_its_bytes() {
    let mut tape = Tape::new(DType::F32);
    let x = tape.input(HostTensor::f32([1024, 512], vec![1.0; 1024 * 512]));
    let y = tape.op(Add, &[x, x]).unwrap();
    tape.keep(y);
    let plan = tape.plan();
    assert_eq!(plan.peak, 4 << 20, "two tensors of 2 MiB");
    let arena = Arena::reserve((4 << 20) - 64).unwrap();
    let e = tape.run(&plan, &arena, arena.shared_base()).unwrap_err();
    assert_eq!((e.kind(), e.exit_code()), (ErrorKind::Device, 5));
    let text = e.one_line();
    assert!(text.contains("4.0 MiB") && text.contains("--memory_budget"), "{text}");
    assert_eq!(arena.actual_peak(), 0, "a refused plan touched memory");
    let arena = Arena::reserve(4 << 20).unwrap();
    assert!(tape.run(&plan, &arena, arena.shared_base()).is_ok(), "an exact fit fits");
}
