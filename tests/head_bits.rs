//! Rollout and training agree to the bit: what the sampler reports of a token from logits in memory,
//! what the head computes without storing logits, for other rows in another order, and what its
//! backward pass finds when it checks. On the CPU and on every device. How exact the numbers are is
//! `conformance`.

use grpo_rt::base::{DType, HostTensor, Philox, RngDomain};
use grpo_rt::device::{Device, Vendor};
use grpo_rt::mem::Arena;
use grpo_rt::ops::linear_logprob::{HeadSettings, LinearLogprob};
use grpo_rt::ops::matmul::Matmul;
use grpo_rt::ops::sample::{Sample, SampleRow, SamplingSettings};
use grpo_rt::tape::Tape;
use std::sync::Arc;

mod devices; // emulated and present devices

const VOCAB: usize = 2301;

/// Rows of hidden states, a head, and how it is read.
struct Model {
    float: DType,
    hidden: usize,
    h: Vec<f32>,
    w: Vec<f32>,
    head: Arc<HeadSettings>,
}

/// What is known of each row: log-probability, log-sum-exp and entropy.
type Numbers = [Vec<f32>; 3];

impl Model {
    fn new(float: DType, rows: usize, hidden: usize) -> Self {
        let numbers = |n: usize, which: u32, size: f32| -> Vec<f32> {
            let mut stream = Philox::new(5, RngDomain::Test).stream(hidden as u32, which);
            (0..n).map(|_| size * stream.normal()).collect()
        };
        let head = HeadSettings { temperature: 0.8, forbidden: vec![5, 1023, 1024, 2300] };
        Model {
            float,
            hidden,
            h: numbers(rows * hidden, 0, 1.0),
            w: numbers(VOCAB * hidden, 1, 0.7),
            head: Arc::new(head),
        }
    }

    fn rows(&self) -> usize {
        self.h.len() / self.hidden
    }

    fn arena(device: Option<&Arc<dyn Device>>) -> Arena {
        Arena::on(device, 64 << 20).unwrap()
    }

    fn weights(&self, tape: &mut Tape) -> grpo_rt::ops::Slot {
        tape.activation(HostTensor::f32([VOCAB, self.hidden], self.w.clone()))
    }

    /// Tokens, and their numbers as the sampler reports them.
    fn sampled(
        &self,
        device: Option<&Arc<dyn Device>>,
        settings: SamplingSettings,
    ) -> (Vec<i32>, Numbers) {
        let arena = Self::arena(device);
        let mut tape = Tape::on(self.float, arena.target());
        let h = tape.activation(HostTensor::f32([self.rows(), self.hidden], self.h.clone()));
        let w = self.weights(&mut tape);
        let logits = tape.op(Matmul { wide: true, ..Matmul::default() }, &[h, w]).unwrap();
        let row = |i| SampleRow { step: 1, sample: i, token: 7, seen: vec![9, i] };
        let op = Sample {
            head: self.head.clone(),
            settings: Arc::new(settings),
            rows: Arc::new((0..self.rows() as u32).map(row).collect()),
            seed: 3,
        };
        let out = tape.ops(op, &[logits]).unwrap();
        out.iter().for_each(|&s| {
            tape.keep(s);
        });
        let plan = tape.plan();
        let run = tape.run(&plan, &arena, 0).unwrap();
        (run.i32(out[0]).unwrap(), [1, 2, 3].map(|i| run.f32(out[i]).unwrap()))
    }

    /// Numbers of `targets` for some rows, in their order; if `known`, what the backward pass makes
    /// of the numbers given, with gradients `dlogp`.
    fn scored(
        &self,
        device: Option<&Arc<dyn Device>>,
        rows: &[usize],
        targets: &[i32],
        known: Option<(&Numbers, &[f32])>,
    ) -> Numbers {
        let arena = Self::arena(device);
        let mut tape = Tape::on(self.float, arena.target());
        let of = |r: &usize| self.h[r * self.hidden..][..self.hidden].to_vec();
        let h: Vec<f32> = rows.iter().flat_map(of).collect();
        let h = tape.activation(HostTensor::f32([rows.len(), self.hidden], h));
        tape.require_grad(h);
        let w = self.weights(&mut tape);
        let mut inputs = vec![h, w, tape.indices(targets.to_vec())];
        let column = |v: &[f32]| HostTensor::f32([v.len(), 1], v.to_vec());
        if let Some((numbers, _)) = known {
            inputs.extend(numbers.each_ref().map(|v| tape.input(column(v))));
        }
        let op = LinearLogprob { head: self.head.clone(), known: known.is_some(), bonus: false };
        let out = tape.ops(op, &inputs).unwrap();
        if let Some((_, dlogp)) = known {
            let seed = tape.input(column(dlogp));
            let grads = tape.backward(&[(out[0], seed)]).unwrap();
            let dh = grads.of(h).unwrap();
            tape.keep(dh);
        }
        out[..3].iter().for_each(|&s| {
            tape.keep(s);
        });
        let plan = tape.plan();
        let run = tape.run(&plan, &arena, 0).unwrap();
        [0, 1, 2].map(|i| run.f32(out[i]).unwrap())
    }
}

fn bits(numbers: &Numbers, rows: &[usize]) -> Vec<[u32; 3]> {
    rows.iter().map(|&r| [0, 1, 2].map(|i| numbers[i][r].to_bits())).collect()
}

fn agree(device: Option<&Arc<dyn Device>>, float: DType, rows: usize, hidden: usize) {
    let name = device.map_or("cpu".into(), |d| d.properties().spec.clone());
    let name = format!("{name}, {float:?}, H {hidden}");
    let model = Model::new(float, rows, hidden);
    let cut = SamplingSettings { top_k: 40, repetition_penalty: 1.2, ..Default::default() };
    for settings in [SamplingSettings::default(), cut] {
        let (tokens, sampled) = model.sampled(device, settings);
        // Other rows beside a row, and another place in the batch.
        let some: Vec<usize> = (0..rows).rev().filter(|r| r % 3 != 1).collect();
        let targets: Vec<i32> = some.iter().map(|&r| tokens[r]).collect();
        let scored = model.scored(device, &some, &targets, None);
        let all: Vec<usize> = (0..some.len()).collect();
        assert_eq!(bits(&scored, &all), bits(&sampled, &some), "{name}: head against sampler");

        // What the rollout is said to have found is wrong here; rows with a gradient say so.
        let wrong: Numbers = [
            vec![1.5; some.len()],
            some.iter().map(|&r| sampled[1][r]).collect(),
            vec![-2.5; some.len()],
        ];
        let dlogp: Vec<f32> = all.iter().map(|i| [0.0, 0.5, -1.0][i % 3]).collect();
        let checked = model.scored(device, &some, &targets, Some((&wrong, &dlogp)));
        for (i, dlogp) in dlogp.iter().enumerate() {
            let want = if *dlogp == 0.0 { &wrong } else { &scored };
            assert_eq!(bits(&checked, &[i]), bits(want, &[i]), "{name}: backward pass, row {i}");
        }
    }
}

/// Rows of whole vectors, in one block and in two, and rows of odd length.
fn agree_everywhere(device: Option<&Arc<dyn Device>>) {
    for float in [DType::F32, DType::BF16] {
        agree(device, float, 11, 24);
        agree(device, float, 5, 13);
    }
    agree(device, DType::BF16, 205, 48);
}

#[test]
fn the_cpu_agrees_with_itself() {
    agree_everywhere(None);
}

#[test]
fn waves_of_32_agree_with_themselves() {
    agree_everywhere(Some(&devices::emulated(Vendor::Cuda)));
}

#[test]
fn waves_of_64_agree_with_themselves() {
    agree_everywhere(Some(&devices::emulated(Vendor::Hip)));
}

#[test]
fn devices_of_this_machine_agree_with_themselves() {
    devices::present().iter().for_each(|d| agree_everywhere(Some(d)));
}
