//! The same bits for any number of threads, and for a row alone or among others: what makes the
//! log-probabilities of the rollout those of the training pass. Compares bits only; what the right
//! numbers are is the business of `conformance`.

use grpo_rt::base::{DType, HostTensor, Philox, RngDomain, TensorData};
use grpo_rt::mem::Arena;
use grpo_rt::ops::attention::{Attention, Segment, Span};
use grpo_rt::ops::kv_write::KvWrite;
use grpo_rt::ops::linear_logprob::{HeadSettings, LinearLogprob};
use grpo_rt::ops::matmul::{Lora, Matmul};
use grpo_rt::ops::sample::{Sample, SampleRow, SamplingSettings};
use grpo_rt::ops::{Case, Emit, Fill, OPS, Op, Stored};
use grpo_rt::tape::Tape;
use grpo_rt::tape::check::{Check, CheckRun, fill};
use half::bf16;
use std::sync::Arc;

fn with_threads<T: Send>(threads: usize, f: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads").install(f)
}

fn bits(run: &CheckRun) -> Vec<Vec<u64>> {
    let outputs = run.outputs.iter().map(|o| &o.values);
    let tensors = outputs.chain(run.grads.iter().flatten());
    tensors.map(|v| v.iter().map(|x| x.to_bits()).collect()).collect()
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let mut cases: Vec<(&str, Case)> =
        OPS.iter().flat_map(|s| (s.cases)().into_iter().map(|c| (s.name, c))).collect();
    // Large enough that every level of blocking of the matrix multiplication is divided.
    let matmul = Matmul {
        bias: true,
        lora: Some(Lora { scale: 0.5, own_input: false }),
        ..Matmul::default()
    };
    let normal = |shape: &[usize]| (shape.to_vec(), Fill::Normal(1.0), true);
    let sizes: [&[usize]; 5] = [&[310, 300], &[550, 300], &[550], &[16, 300], &[550, 16]];
    let inputs = sizes.map(normal).to_vec();
    cases.push(("matmul", Case { label: "many blocks", op: Arc::new(matmul), inputs }));
    let with_bf16 = |op: &str| OPS.iter().any(|s| s.name == op && s.bf16_roundings > 0);
    for (op, case) in &cases {
        for float in [DType::F32, DType::BF16] {
            if float == DType::BF16 && !with_bf16(op) {
                continue;
            }
            let run = |threads| {
                with_threads(threads, || {
                    bits(&Check::backward(case, float, 5).unwrap().run().unwrap())
                })
            };
            let one = run(1);
            for threads in [2, 4] {
                assert!(one == run(threads), "{op}, {}, {float:?}: {threads} threads", case.label);
            }
        }
    }
}

/// Ops whose rows know nothing of each other, whatever their inputs.
const ROW_BY_ROW: &[&str] = &[
    "add",
    "dropout",
    "gelu",
    "layer_norm",
    "rms_norm",
    "rope",
    "scale_columns",
    "split",
    "swiglu",
    "transpose_columns",
];

#[test]
fn a_row_is_the_same_alone_and_among_others() {
    let specs = OPS.iter().filter(|s| ROW_BY_ROW.contains(&s.name));
    assert_eq!(specs.clone().count(), ROW_BY_ROW.len());
    for (spec, float) in specs.flat_map(|s| [(s, DType::F32), (s, DType::BF16)]) {
        for case in (spec.cases)() {
            let t = case.inputs[0].0[0];
            let all: Vec<HostTensor> = case
                .inputs
                .iter()
                .zip(case.types(DType::F32))
                .enumerate()
                .map(|(i, ((shape, kind, _), ty))| {
                    let values = fill(kind, ty.len(), 31, i);
                    match ty.dtype {
                        DType::I32 => HostTensor::i32(
                            shape.clone(),
                            values.into_iter().map(|x| x as i32).collect(),
                        ),
                        _ => HostTensor::f32(
                            shape.clone(),
                            values.into_iter().map(|x| x as f32).collect(),
                        ),
                    }
                })
                .collect();
            let types = case.types(float);
            let go = |inputs: &[HostTensor], dout: &HostTensor| {
                let activation: Vec<bool> = types.iter().map(|t| t.dtype == float).collect();
                run_on(float, case.op.clone(), inputs, &activation, Some(dout))
            };
            let cols = case.op.infer(&types.iter().collect::<Vec<_>>()).unwrap()[0].cols();
            let dout = matrix(t, cols, 40);
            let whole = go(&all, &dout);
            for row in [0, t / 2, t - 1] {
                let few: Vec<HostTensor> = all
                    .iter()
                    .map(|x| if x.shape.len() == 2 { pick_any(x, row) } else { x.clone() })
                    .collect();
                let alone = go(&few, &pick(&dout, [row]));
                let what = format!("{}, {}, {float:?}, row {row}", spec.name, case.label);
                for (a, w) in alone.outputs.iter().zip(&whole.outputs) {
                    assert_same_bits(&what, a, &pick(w, [row]));
                }
                let gradients = alone.grads.iter().zip(&whole.grads).zip(&all);
                for ((a, w), _) in gradients.filter(|(_, x)| x.shape.len() == 2) {
                    let Some(a) = a else { continue };
                    let what = format!("{what}, gradient");
                    assert_same_bits(&what, a, &pick(w.as_ref().unwrap(), [row]));
                }
            }
        }
    }
}

/// A row of a matrix of singles or integers.
fn pick_any(m: &HostTensor, row: usize) -> HostTensor {
    match &m.data {
        TensorData::I32(v) => {
            let cols = m.shape[1];
            HostTensor::i32([1, cols], v[row * cols..][..cols].to_vec())
        }
        _ => pick(m, [row]),
    }
}

/// A random matrix.
fn matrix(rows: usize, cols: usize, number: u32) -> HostTensor {
    let mut stream = Philox::new(29, RngDomain::Test).stream(1, number);
    HostTensor::f32([rows, cols], (0..rows * cols).map(|_| stream.normal()).collect())
}

/// Rows of a matrix, in the order given.
fn pick(m: &HostTensor, rows: impl IntoIterator<Item = usize>) -> HostTensor {
    let (all, cols) = (m.as_f32().unwrap(), m.shape[1]);
    let data: Vec<f32> = rows.into_iter().flat_map(|r| all[r * cols..][..cols].to_vec()).collect();
    HostTensor::f32([data.len() / cols, cols], data)
}

fn column(values: Vec<i32>) -> HostTensor {
    HostTensor::i32([values.len(), 1], values)
}

/// Results of one op: its float outputs, and the gradients of its inputs that have one, all as
/// matrices. `dout` is the gradient of the first output.
struct Results {
    outputs: Vec<HostTensor>,
    grads: Vec<Option<HostTensor>>,
}

fn run(op: impl Op + 'static, inputs: &[HostTensor], dout: Option<&HostTensor>) -> Results {
    run_on(DType::F32, Arc::new(op), inputs, &vec![true; inputs.len()], dout)
}

/// [`run`] on a tape of another type; `activation` says which inputs are of that type.
fn run_on(
    float: DType,
    op: Arc<dyn Op>,
    inputs: &[HostTensor],
    activation: &[bool],
    dout: Option<&HostTensor>,
) -> Results {
    let mut tape = Tape::new(float);
    let slots: Vec<_> = inputs
        .iter()
        .zip(activation)
        .map(|(t, &a)| if a { tape.activation(t.clone()) } else { tape.input(t.clone()) })
        .collect();
    for (&s, t) in slots.iter().zip(inputs) {
        if t.dtype() == DType::F32 {
            tape.require_grad(s);
        }
    }
    let outputs = tape.emit(op, &slots).unwrap();
    outputs.iter().for_each(|&s| {
        tape.keep(s);
    });
    let grads: Vec<_> = match dout {
        None => vec![None; slots.len()],
        Some(dout) => {
            let seed = tape.activation(dout.clone());
            let grads = tape.backward(&[(outputs[0], seed)]).unwrap();
            slots.iter().map(|&s| grads.of(s)).collect()
        }
    };
    grads.iter().flatten().for_each(|&s| {
        tape.keep(s);
    });
    let arena = Arena::reserve(1 << 28).unwrap();
    let plan = tape.plan();
    let run = tape.run(&plan, &arena, 0).unwrap();
    let read = |s| {
        let ty = tape.ty(s);
        match ty.dtype {
            DType::I32 => HostTensor::i32(ty.shape.clone(), run.i32(s).unwrap()),
            _ => HostTensor::f32(ty.shape.clone(), run.f32(s).unwrap()),
        }
    };
    Results {
        outputs: outputs.iter().map(|&s| read(s)).collect(),
        grads: grads.iter().map(|g| g.map(read)).collect(),
    }
}

fn assert_same_bits(what: &str, a: &HostTensor, b: &HostTensor) {
    assert_eq!(a.shape, b.shape, "{what}: shapes");
    let differing = a.bytes().chunks(4).zip(b.bytes().chunks(4)).filter(|(a, b)| a != b).count();
    assert_eq!(differing, 0, "{what}: elements that differ, of {}", a.len());
}

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 24;

fn attention(segments: Vec<Segment>) -> Attention {
    Attention {
        heads: HEADS,
        kv_heads: KV_HEADS,
        head_dim: HEAD_DIM,
        scale: (HEAD_DIM as f64).powf(-0.5),
        segments: Arc::new(segments),
    }
}

fn segment(queries: Span, keys: Vec<Span>) -> Segment {
    Segment { queries, keys, causal: true }
}

fn span(start: usize, len: usize) -> Span {
    Span { start, len }
}

#[test]
fn a_decoded_token_attends_as_in_the_causal_pass() {
    let n = 141; // more than two blocks of keys
    let q = matrix(n, HEADS * HEAD_DIM, 0);
    let [k, v] = [1, 2].map(|i| matrix(n, KV_HEADS * HEAD_DIM, i));
    let whole = run(
        attention(vec![segment(span(0, n), vec![span(0, n)])]),
        &[q.clone(), k.clone(), v.clone()],
        None,
    );
    // The cache holds the prompt's 90 rows behind those of the completion, and garbage between.
    let (prompt, garbage) = (90, 7);
    let order = || (prompt..n).chain(0..garbage).chain(0..prompt);
    let (k_cache, v_cache) = (pick(&k, order()), pick(&v, order()));
    let prompt_at = n - prompt + garbage;
    for i in [0, 1, 63, 64, 89, 90, 91, 127, 128, 140] {
        let seen = i + 1;
        let mut keys = vec![span(prompt_at, seen.min(prompt))];
        if seen > prompt {
            keys.push(span(0, seen - prompt));
        }
        let op = attention(vec![segment(span(0, 1), keys)]);
        let one = run(op, &[pick(&q, [i]), k_cache.clone(), v_cache.clone()], None);
        for (part, (alone, whole)) in one.outputs.iter().zip(&whole.outputs).enumerate() {
            assert_same_bits(&format!("row {i}, output {part}"), alone, &pick(whole, [i]));
        }
    }
}

#[test]
fn decoding_a_batch_attends_as_each_sequence_alone() {
    let (lengths, rows) = ([1usize, 64, 65, 130, 3], 5);
    let q = matrix(rows, HEADS * HEAD_DIM, 3);
    let cache: usize = lengths.iter().sum();
    let [k, v] = [4, 5].map(|i| matrix(cache, KV_HEADS * HEAD_DIM, i));
    let mut start = 0;
    let keys = lengths.map(|len| {
        start += len;
        span(start - len, len)
    });
    let segments = keys.iter().enumerate().map(|(i, &k)| segment(span(i, 1), vec![k])).collect();
    let whole = run(attention(segments), &[q.clone(), k.clone(), v.clone()], None);
    for (i, keys) in keys.iter().enumerate() {
        let own = || keys.start..keys.start + keys.len;
        let op = attention(vec![segment(span(0, 1), vec![span(0, keys.len)])]);
        let alone = run(op, &[pick(&q, [i]), pick(&k, own()), pick(&v, own())], None);
        for (a, w) in alone.outputs.iter().zip(&whole.outputs) {
            assert_same_bits(&format!("sequence {i}"), a, &pick(w, [i]));
        }
    }
}

#[test]
fn completions_that_share_a_prompt_attend_as_if_each_had_its_own() {
    let (prompt, lengths) = (83, [3usize, 70, 1, 33]);
    let rows = prompt + lengths.iter().sum::<usize>();
    let q = matrix(rows, HEADS * HEAD_DIM, 6);
    let [k, v] = [7, 8].map(|i| matrix(rows, KV_HEADS * HEAD_DIM, i));
    let dout = matrix(rows, HEADS * HEAD_DIM, 9);
    let mut segments = vec![segment(span(0, prompt), vec![span(0, prompt)])];
    let mut start = prompt;
    for len in lengths {
        let own = span(start, len);
        segments.push(segment(own, vec![span(0, prompt), own]));
        start += len;
    }
    let inputs = [q.clone(), k.clone(), v.clone()];
    let whole = run(attention(segments.clone()), &inputs, Some(&dout));
    for own in segments[1..].iter().map(|s| s.queries) {
        let order = || (0..prompt).chain(own.start..own.start + own.len);
        let n = prompt + own.len;
        let op = attention(vec![segment(span(0, n), vec![span(0, n)])]);
        let inputs = inputs.each_ref().map(|t| pick(t, order()));
        let alone = run(op, &inputs, Some(&pick(&dout, order())));
        for (a, w) in alone.outputs.iter().zip(&whole.outputs) {
            assert_same_bits(&format!("{own:?}"), a, &pick(w, order()));
        }
        // The prompt's keys serve all completions; the queries and the own keys are alone.
        for (i, (a, w)) in alone.grads.iter().zip(&whole.grads).enumerate() {
            let (a, w) = (a.as_ref().unwrap(), w.as_ref().unwrap());
            let mine = pick(a, if i == 0 { 0..n } else { prompt..n });
            let rows = order().skip(if i == 0 { 0 } else { prompt });
            assert_same_bits(&format!("{own:?}, gradient {i}"), &mine, &pick(w, rows));
        }
    }
}

#[test]
fn a_row_of_a_linear_layer_is_the_same_alone_and_among_others() {
    for (rows, inner, out) in [(2, 33, 65), (40, 300, 130), (310, 270, 520)] {
        let x = matrix(rows, inner, 10);
        let rest =
            [matrix(out, inner, 11), matrix(1, out, 12), matrix(8, inner, 13), matrix(out, 8, 14)];
        let dout = matrix(rows, out, 15);
        let op = Matmul {
            bias: true,
            lora: Some(Lora { scale: 2.0, own_input: false }),
            ..Matmul::default()
        };
        let inputs =
            |x: HostTensor| -> Vec<HostTensor> { [x].into_iter().chain(rest.clone()).collect() };
        let whole = run(op, &inputs(x.clone()), Some(&dout));
        for chosen in [vec![0], vec![rows - 1], vec![rows / 2, 0]] {
            let few = |t: &HostTensor| pick(t, chosen.clone());
            let alone = run(op, &inputs(few(&x)), Some(&few(&dout)));
            let what = format!("{rows} rows, {chosen:?}");
            assert_same_bits(&what, &alone.outputs[0], &few(&whole.outputs[0]));
            assert_same_bits(&what, &alone.outputs[1], &few(&whole.outputs[1]));
            let grad = |r: &Results| r.grads[0].clone().unwrap();
            assert_same_bits(&format!("{what}, gradient"), &grad(&alone), &few(&grad(&whole)));
        }
    }
}

#[test]
fn an_adapter_whose_b_is_zero_changes_no_bit() {
    let (x, w, b) = (matrix(20, 90, 16), matrix(70, 90, 17), matrix(1, 70, 18));
    let a = matrix(4, 90, 19);
    let zero = HostTensor::f32([70, 4], vec![0.0; 280]);
    let base = run(
        Matmul { bias: true, lora: None, ..Matmul::default() },
        &[x.clone(), w.clone(), b.clone()],
        None,
    );
    let op = Matmul {
        bias: true,
        lora: Some(Lora { scale: 2.0, own_input: false }),
        ..Matmul::default()
    };
    let adapted = run(op, &[x, w, b, a, zero], None);
    assert_same_bits("output", &adapted.outputs[0], &base.outputs[0]);
}

fn head(temperature: f64, forbidden: Vec<u32>) -> Arc<HeadSettings> {
    Arc::new(HeadSettings { temperature, forbidden })
}

#[test]
fn a_row_of_the_head_is_the_same_alone_and_among_others() {
    let (rows, hidden, vocab) = (45, 40, 2345);
    let (h, w) = (matrix(rows, hidden, 20), matrix(vocab, hidden, 21));
    let targets: Vec<i32> = (0..rows).map(|i| (i * 53 % vocab) as i32).collect();
    let dout = matrix(rows, 1, 22);
    let op = LinearLogprob { head: head(0.9, vec![5, 1024]), known: false, bonus: false };
    let whole = run(op.clone(), &[h.clone(), w.clone(), column(targets.clone())], Some(&dout));
    for chosen in [vec![0], vec![44], vec![17, 3, 30]] {
        let few = |t: &HostTensor| pick(t, chosen.clone());
        let own = column(chosen.iter().map(|&i| targets[i]).collect());
        let alone = run(op.clone(), &[few(&h), w.clone(), own], Some(&few(&dout)));
        for i in 0..3 {
            assert_same_bits(
                &format!("{chosen:?}, output {i}"),
                &alone.outputs[i],
                &few(&whole.outputs[i]),
            );
        }
        let grad = |r: &Results| r.grads[0].clone().unwrap();
        assert_same_bits(&format!("{chosen:?}, gradient"), &grad(&alone), &few(&grad(&whole)));
    }
}

#[test]
fn the_sampler_reports_the_log_probability_that_training_computes() {
    let (rows, hidden, vocab) = (37, 64, 2500);
    let (h, w) = (matrix(rows, hidden, 23), matrix(vocab, hidden, 24));
    let d = SamplingSettings::default;
    for settings in [
        d(),
        SamplingSettings { temperature: 0.7, ..d() },
        SamplingSettings { temperature: 0.0, ..d() },
        SamplingSettings { temperature: 1.3, top_k: 20, repetition_penalty: 1.2, ..d() },
        SamplingSettings { top_p: 0.5, min_p: 0.02, ..d() },
    ] {
        let head = head(f64::from(settings.temperature), vec![3, 1023, 1024, 2499]);
        let mut sampled = (Vec::new(), Vec::new(), Vec::new());
        // Decoding in batches of several sizes, training on all rows at once.
        for batch in [0..1, 1..2, 2..9, 9..rows] {
            let keys: Vec<SampleRow> = batch
                .clone()
                .map(|i| SampleRow { step: 1, sample: i as u32, token: 4, seen: vec![1, 9] })
                .collect();
            let few = pick(&h, batch);
            let logits = run(Matmul::default(), &[few, w.clone()], None).outputs.remove(0);
            let op = Sample {
                head: head.clone(),
                settings: Arc::new(settings.clone()),
                rows: Arc::new(keys),
                seed: 8,
            };
            let out = run(op, &[logits], None).outputs;
            sampled.0.extend(out[0].to_i64_vec().unwrap().iter().map(|&t| t as i32));
            sampled.1.extend(out[1].to_f32_vec());
            sampled.2.extend(out[2].to_f32_vec());
        }
        let op = LinearLogprob { head, known: false, bonus: false };
        let trained = run(op, &[h.clone(), w.clone(), column(sampled.0)], None).outputs;
        let what = format!("{settings:?}");
        let as_column = |v: Vec<f32>| HostTensor::f32([rows, 1], v);
        assert_same_bits(&what, &as_column(sampled.1), &trained[0]);
        assert_same_bits(&what, &as_column(sampled.2), &trained[1]);
    }
}

#[test]
fn a_cache_keeps_the_rows_it_is_not_told_to_write() {
    let mut arena = Arena::reserve(1 << 16).unwrap();
    let singles = arena.persist(6 * 3, DType::F32).unwrap();
    let halves = arena.persist(6 * 3, DType::BF16).unwrap();
    arena.write(singles, &[7.0f32; 18]).unwrap();
    arena.write(halves, &[bf16::store(7.0); 18]).unwrap();
    // Numbers that bf16 holds exactly.
    let x = HostTensor::f32([2, 3], vec![1.5, -2.0, 0.25, 3.0, 100.0, -0.5]);
    for cache in [singles, halves] {
        let mut tape = Tape::new(cache.dtype);
        let (slot, rows) = (tape.activation(x.clone()), tape.indices(vec![4, 1]));
        let target = tape.fixed(cache, &[6, 3]);
        tape.emit_into(Arc::new(KvWrite), &[slot, rows], &[target]).unwrap();
        let plan = tape.plan();
        let run = tape.run(&plan, &arena, arena.shared_base()).unwrap();
        let after = HostTensor::f32([6, 3], run.f32(target).unwrap());
        assert_same_bits("written", &pick(&after, [4, 1]), &x);
        assert!(pick(&after, [0, 2, 3, 5]).to_f32_vec().iter().all(|&x| x == 7.0));
    }
}
