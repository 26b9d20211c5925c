//! Attention in singles and bf16: bf16 against the reference in doubles on the same rounded
//! inputs, and equal bits of a row alone, among others, behind a shared prompt and on any number
//! of threads; on the CPU, on emulated devices and on those of this machine. What the generic harnesses
//! ask of every op is asked there, not here.

use grpo_rt::base::{DType, HostTensor, Philox, RngDomain, Tolerance};
use grpo_rt::device::{Device, Vendor};
use grpo_rt::mem::Arena;
use grpo_rt::ops::attention::{Attention, SPEC, Segment, Span};
use grpo_rt::ops::{Emit, Op};
use grpo_rt::tape::Tape;
use std::sync::Arc;

mod devices; // emulated and present devices

/// Half a unit in the last place of bf16 is 2^-9 of a number; weights, gradients of scores and
/// outputs are rounded one after the other, inputs are not rounded again.
const BF16: Tolerance = Tolerance::rel(1.0 / 128.0);
/// `lse` stays in singles: sums of exact products.
const STATISTIC: Tolerance = Tolerance { abs: 1e-5, rel: 1e-6 };

/// A random matrix of numbers that bf16 holds exactly.
fn matrix(rows: usize, cols: usize, number: u32) -> HostTensor {
    let mut stream = Philox::new(31, RngDomain::Test).stream(2, number);
    let mut rounded = || half::bf16::from_f32(stream.normal()).to_f32();
    HostTensor::f32([rows, cols], (0..rows * cols).map(|_| rounded()).collect())
}

/// Rows of a matrix, in the order given.
fn pick(m: &HostTensor, rows: impl IntoIterator<Item = usize>) -> HostTensor {
    let (all, cols) = (m.as_f32().unwrap(), m.shape[1]);
    let data: Vec<f32> = rows.into_iter().flat_map(|r| all[r * cols..][..cols].to_vec()).collect();
    HostTensor::f32([data.len() / cols, cols], data)
}

fn span(start: usize, len: usize) -> Span {
    Span { start, len }
}

fn segment(queries: Span, keys: Vec<Span>) -> Segment {
    Segment { queries, keys, causal: true }
}

/// Heads, key heads and head size.
type Heads = (usize, usize, usize);

fn attention((heads, kv_heads, head_dim): Heads, segments: Vec<Segment>) -> Arc<dyn Op> {
    let scale = (head_dim as f64).powf(-0.5);
    Arc::new(Attention { heads, kv_heads, head_dim, scale, segments: Arc::new(segments) })
}

/// `o`, `lse`, `dq`, `dk`, `dv` with their columns, in doubles (exact for what is narrower).
struct Results {
    names: [&'static str; 5],
    values: Vec<(usize, Vec<f64>)>,
}

impl Results {
    /// Bits of chosen rows of one result.
    fn rows(&self, which: usize, rows: impl IntoIterator<Item = usize>) -> Vec<u64> {
        let (cols, x) = &self.values[which];
        rows.into_iter().flat_map(|r| &x[r * cols..][..*cols]).map(|x| x.to_bits()).collect()
    }
}

/// Where a test runs: on the CPU, or on a device.
type Place = Option<Arc<dyn Device>>;

fn run(
    place: &Place,
    float: DType,
    op: Arc<dyn Op>,
    inputs: &[HostTensor; 3],
    dout: &HostTensor,
) -> Results {
    let arena = Arena::on(place.as_ref(), 1 << 26).unwrap();
    let mut tape = Tape::on(float, arena.target());
    let slots = inputs.each_ref().map(|t| tape.activation(t.clone()));
    slots.iter().for_each(|&s| tape.require_grad(s));
    let outputs = tape.emit(op, &slots).unwrap();
    let seed = tape.activation(dout.clone());
    let grads = tape.backward(&[(outputs[0], seed)]).unwrap();
    let results: Vec<_> =
        outputs.iter().copied().chain(slots.iter().map(|&s| grads.of(s).unwrap())).collect();
    results.iter().for_each(|&s| {
        tape.keep(s);
    });
    for (i, &s) in results.iter().enumerate() {
        let want = if i == 1 { float.statistic() } else { float };
        assert_eq!(tape.ty(s).dtype, want, "type of result {i}");
    }
    let plan = tape.plan();
    let run = tape.run(&plan, &arena, 0).unwrap();
    let values = results.iter().map(|&s| (tape.ty(s).cols(), run.f64(s).unwrap())).collect();
    Results { names: ["o", "lse", "dq", "dk", "dv"], values }
}

/// Inputs and gradient of the output for segments that use `rows` key rows.
fn inputs((n, m, d): Heads, queries: usize, rows: usize) -> ([HostTensor; 3], HostTensor) {
    let all = [matrix(queries, n * d, 0), matrix(rows, m * d, 1), matrix(rows, m * d, 2)];
    (all, matrix(queries, n * d, 3))
}

fn agrees(
    place: &Place,
    label: &str,
    op: Arc<dyn Op>,
    inputs: &[HostTensor; 3],
    dout: &HostTensor,
) {
    let got = run(place, DType::BF16, op.clone(), inputs, dout);
    let want = run(&None, DType::F64, op, inputs, dout);
    let mut line = format!("{label:<48}");
    for (i, name) in got.names.iter().enumerate() {
        let tolerance = if i == 1 { STATISTIC } else { BF16 };
        let what = format!("{label}: {name}");
        let worst = tolerance.check(&what, &got.values[i].1, &want.values[i].1).unwrap();
        line += &format!(" {name} {worst:.1e}");
    }
    println!("{line}");
}

fn agree_with_the_reference(place: &Place) {
    for case in (SPEC.cases)() {
        let shape = |i: usize| case.inputs[i].0.clone();
        let tensors = [0, 1, 2].map(|i| matrix(shape(i)[0], shape(i)[1], i as u32));
        let dout = matrix(shape(0)[0], shape(0)[1], 3);
        agrees(place, case.label, case.op.clone(), &tensors, &dout);
    }
    let heads: [Heads; 6] =
        [(2, 2, 64), (4, 1, 128), (3, 1, 80), (6, 2, 33), (2, 1, 1), (7, 1, 20)];
    for heads in heads {
        let (prompt, own) = (131, 45);
        let rows = prompt + 2 * own;
        let mut segments = vec![segment(span(0, prompt), vec![span(0, prompt)])];
        for i in 0..2 {
            let mine = span(prompt + i * own, own);
            segments.push(segment(mine, vec![span(0, prompt), mine]));
        }
        let (tensors, dout) = inputs(heads, rows, rows);
        agrees(place, &format!("group, {heads:?}"), attention(heads, segments), &tensors, &dout);
    }
}

#[test]
fn bf16_agrees_with_the_reference() {
    agree_with_the_reference(&None);
}

const BOTH: [DType; 2] = [DType::F32, DType::BF16];
const SHAPES: [Heads; 4] = [(4, 2, 24), (2, 2, 64), (3, 1, 33), (6, 2, 80)];

fn rows_alone(place: &Place) {
    let n = 203; // more than three blocks of keys, more than one task of rows
    for (float, heads) in BOTH.into_iter().flat_map(|f| SHAPES.map(|s| (f, s))) {
        let (all, dout) = inputs(heads, n, n);
        let op = attention(heads, vec![segment(span(0, n), vec![span(0, n)])]);
        let whole = run(place, float, op, &all, &dout);
        for i in [0, 1, 62, 63, 64, 65, 127, 128, 130, 202] {
            // As in decoding: the last keys lie before the first ones.
            let seen = i + 1;
            let late = seen / 3;
            let order = || (seen - late..seen).chain(0..seen - late);
            let keys = vec![span(late, seen - late), span(0, late)];
            let [q, k, v] = &all;
            let some = [pick(q, [i]), pick(k, order()), pick(v, order())];
            let op = attention(heads, vec![segment(span(0, 1), keys)]);
            let alone = run(place, float, op, &some, &pick(&dout, [i]));
            for result in 0..3 {
                let name = whole.names[result];
                let same = alone.rows(result, [0]) == whole.rows(result, [i]);
                assert!(same, "{float:?} {heads:?}: {name} of row {i}");
            }
        }
    }
}

#[test]
fn a_query_row_is_the_same_alone_and_in_the_causal_pass() {
    rows_alone(&None);
}

fn siblings(place: &Place) {
    let (prompt, lengths) = (101, [1usize, 27, 28, 64, 3, 3]);
    let rows = prompt + lengths.iter().sum::<usize>();
    for (float, heads) in BOTH.into_iter().flat_map(|f| SHAPES.map(|s| (f, s))) {
        let (all, dout) = inputs(heads, lengths.len(), rows);
        let mut start = prompt;
        let own = lengths.map(|len| {
            start += len;
            span(start - len, len)
        });
        let one = |i: usize, s: Span| segment(span(i, 1), vec![span(0, prompt), s]);
        let segments = own.iter().enumerate().map(|(i, &s)| one(i, s)).collect();
        let whole = run(place, float, attention(heads, segments), &all, &dout);
        for (i, &s) in own.iter().enumerate() {
            let [q, k, v] = &all;
            let some = [pick(q, [i]), k.clone(), v.clone()];
            let op = attention(heads, vec![one(0, s)]);
            let alone = run(place, float, op, &some, &pick(&dout, [i]));
            for result in 0..3 {
                let name = whole.names[result];
                let same = alone.rows(result, [0]) == whole.rows(result, [i]);
                assert!(same, "{float:?} {heads:?}: {name} of sibling {i}");
            }
        }
    }
}

#[test]
fn siblings_decode_as_each_alone() {
    siblings(&None);
}

fn completions(place: &Place) {
    // An odd prompt: pairs of bf16 must not depend on where the completion's rows begin.
    let (prompt, lengths) = (83, [3usize, 70, 1, 33]);
    let rows = prompt + lengths.iter().sum::<usize>();
    for (float, heads) in BOTH.into_iter().flat_map(|f| SHAPES.map(|s| (f, s))) {
        let (all, dout) = inputs(heads, rows, rows);
        let mut segments = vec![segment(span(0, prompt), vec![span(0, prompt)])];
        let mut start = prompt;
        for len in lengths {
            segments.push(segment(span(start, len), vec![span(0, prompt), span(start, len)]));
            start += len;
        }
        let whole = run(place, float, attention(heads, segments.clone()), &all, &dout);
        for own in segments[1..].iter().map(|s| s.queries) {
            let order = || (0..prompt).chain(own.start..own.start + own.len);
            let n = prompt + own.len;
            let op = attention(heads, vec![segment(span(0, n), vec![span(0, n)])]);
            let some = all.each_ref().map(|t| pick(t, order()));
            let alone = run(place, float, op, &some, &pick(&dout, order()));
            for result in 0..5 {
                // The prompt's keys serve all completions; queries and own keys are alone.
                let skip = if result < 3 { 0 } else { prompt };
                let name = whole.names[result];
                let same = alone.rows(result, skip..n) == whole.rows(result, order().skip(skip));
                assert!(same, "{float:?} {heads:?} {own:?}: {name}");
            }
        }
    }
}

#[test]
fn completions_behind_a_shared_prompt_are_as_behind_their_own() {
    completions(&None);
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let (prompt, own) = (150, 37);
    for (float, heads) in BOTH.into_iter().flat_map(|f| SHAPES.map(|s| (f, s))) {
        let rows = prompt + 3 * own;
        let (all, dout) = inputs(heads, rows, rows);
        let mut segments = vec![segment(span(0, prompt), vec![span(0, prompt)])];
        for i in 0..3 {
            let mine = span(prompt + i * own, own);
            let causal = i > 0; // one that sees all of its keys, as in a vision window
            segments.push(Segment { queries: mine, keys: vec![span(0, prompt), mine], causal });
        }
        let op = attention(heads, segments);
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let r = pool.install(|| run(&None, float, op.clone(), &all, &dout));
            r.values.iter().map(|(_, x)| x.iter().map(|x| x.to_bits()).collect()).collect()
        };
        let one: Vec<Vec<u64>> = on(1);
        for threads in [2, 4, 16] {
            assert!(one == on(threads), "{float:?} {heads:?}: {threads} threads");
        }
    }
}

/// All of the above on a device.
fn device_agrees(place: &Place) {
    agree_with_the_reference(place);
    rows_alone(place);
    siblings(place);
    completions(place);
}

#[test]
fn waves_of_32_agree_on_the_emulator() {
    device_agrees(&Some(devices::emulated(Vendor::Cuda)));
}

#[test]
fn waves_of_64_agree_on_the_emulator() {
    device_agrees(&Some(devices::emulated(Vendor::Hip)));
}

#[test]
fn devices_of_this_machine_agree() {
    devices::present().into_iter().for_each(|d| device_agrees(&Some(d)));
}
