//! Laws of rows on devices, on the emulated ones and on those of this machine that are asked for: a
//! row has the same bits alone and among others, an index out of range is seen, a cache keeps what it
//! is not told to write, sums of rows have the processor's bits. What the right numbers are is the business of `conformance`.

use grpo_rt::base::{DType, HostTensor};
use grpo_rt::device::{Device, Vendor};
use grpo_rt::mem::Arena;
use grpo_rt::ops::gather_rows::GatherRows;
use grpo_rt::ops::kv_write::KvWrite;
use grpo_rt::ops::weighted_rows::WeightedRows;
use grpo_rt::ops::{Case, Emit, Fill, OPS, ParamRef, Stored};
use grpo_rt::tape::Tape;
use grpo_rt::tape::check::{Check, Checked};
use half::bf16;
use std::sync::Arc;

mod devices; // emulated and present devices

fn on_all(f: impl Fn(&Arc<dyn Device>)) {
    [Vendor::Cuda, Vendor::Hip].map(devices::emulated).iter().for_each(&f);
    devices::present().iter().for_each(&f);
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

/// The case with the first `rows` rows of every matrix. Tests fill tensors from their start, so these
/// rows hold the same numbers.
fn first_rows(case: &Case, rows: usize) -> Case {
    let mut case = case.clone();
    for (shape, fill, _) in case.inputs.iter_mut().filter(|(shape, _, _)| shape.len() == 2) {
        shape[0] = rows;
        let len = shape[0] * shape[1];
        let fill = if let Fill::Beside(inner) = fill { inner } else { fill };
        match fill {
            Fill::Ints(v) => v.truncate(len),
            Fill::Values(v) => v.truncate(len),
            _ => {}
        }
    }
    case
}

#[test]
fn a_row_is_the_same_alone_and_among_others() {
    on_all(|device| {
        let mut compared = 0;
        for spec in OPS.iter().filter(|s| ROW_BY_ROW.contains(&s.name)) {
            let cases = (spec.cases)();
            for (case, float) in cases.iter().flat_map(|c| [(c, DType::F32), (c, DType::BF16)]) {
                let go = |case: &Case| {
                    Check::on(device, case, float, 31).unwrap().run().expect("the case runs")
                };
                let (whole, alone) = (go(case), go(&first_rows(case, 1)));
                let what = format!("{}, {}, {float:?}", spec.name, case.label);
                let same = |what: &str, alone: &[f64], whole: &[f64]| {
                    let differ = alone.iter().zip(whole).filter(|(a, w)| a != w).count();
                    assert_eq!(differ, 0, "{what}: elements that differ, of {}", alone.len());
                };
                for (a, w) in alone.outputs.iter().zip(&whole.outputs) {
                    same(&what, &a.values, &w.values);
                    compared += a.values.len();
                }
                let matrices = case.inputs.iter().map(|(shape, _, _)| shape.len() == 2);
                for ((a, w), _) in
                    alone.grads.iter().zip(&whole.grads).zip(matrices).filter(|(_, m)| *m)
                {
                    let (Some(a), Some(w)) = (a, w) else { continue };
                    same(&format!("{what}, gradient"), a, w);
                }
            }
        }
        assert!(compared > 10_000, "only {compared} numbers were compared");
    });
}

#[test]
fn an_index_out_of_range_gives_a_row_of_nan_and_adds_nothing() {
    let (rows, cols, index) = (5, 24, vec![4, 5, 0, -1, 4]);
    let case = Case {
        label: "out of range",
        op: Arc::new(GatherRows),
        inputs: vec![
            (vec![rows, cols], Fill::Normal(1.0), true),
            (vec![index.len(), 1], Fill::Ints(index.clone()), false),
        ],
    };
    on_all(|device| {
        for float in [DType::F32, DType::BF16] {
            let run = Check::on(device, &case, float, 3).unwrap().run().unwrap();
            let Checked { values, .. } = &run.outputs[0];
            for (t, row) in index.iter().zip(values.chunks(cols)) {
                let outside = !(0..rows as i32).contains(t);
                assert!(row.iter().all(|x| x.is_nan() == outside), "index {t}, {float:?}");
            }
            let grad = run.grads[0].as_ref().unwrap();
            let moved = |row: usize| grad[row * cols..][..cols].iter().any(|&x| x != 0.0);
            assert_eq!([0, 1, 2, 3, 4].map(moved), [true, false, false, false, true], "{float:?}");
        }
    });
}

#[test]
fn a_cache_keeps_the_rows_it_is_not_told_to_write() {
    on_all(|device| {
        // An odd width and one of whole vectors; numbers that bf16 holds exactly.
        for (cols, float) in
            [(3, DType::F32), (3, DType::BF16), (16, DType::F32), (16, DType::BF16)]
        {
            let mut arena = Arena::on(Some(device), 1 << 16).unwrap();
            let cache = arena.persist(6 * cols, float).unwrap();
            match float {
                DType::BF16 => arena.write(cache, &vec![bf16::store(7.0); 6 * cols]).unwrap(),
                _ => arena.write(cache, &vec![7.0f32; 6 * cols]).unwrap(),
            }
            let x: Vec<f32> = (0..3 * cols).map(|i| i as f32 - 20.0).collect();
            let mut tape = Tape::on(float, arena.target());
            let slot = tape.activation(HostTensor::f32([3, cols], x.clone()));
            let (rows, target) = (tape.indices(vec![4, -1, 1]), tape.fixed(cache, &[6, cols]));
            tape.emit_into(Arc::new(KvWrite), &[slot, rows], &[target]).unwrap();
            let plan = tape.plan();
            let run = tape.run(&plan, &arena, arena.shared_base()).unwrap();
            let after = run.f32(target).unwrap();
            for (row, got) in after.chunks(cols).enumerate() {
                match row {
                    4 => assert_eq!(got, &x[..cols], "{float:?}"),
                    1 => assert_eq!(got, &x[2 * cols..], "{float:?}"),
                    _ => assert!(got.iter().all(|&x| x == 7.0), "{float:?}, row {row}"),
                }
            }
        }
    });
}

/// The gradient of a table that sums of weighted rows reach through a view, in the table's own type.
fn table_gradient(device: Option<&Arc<dyn Device>>, float: DType, cols: usize) -> Vec<f32> {
    let mut arena = Arena::on(device, 1 << 16).unwrap();
    let value = arena.persist(6 * cols, float).unwrap();
    let grad = arena.persist(6 * cols, DType::F32).unwrap();
    match float {
        DType::BF16 => arena.write(value, &vec![bf16::store(1.0); 6 * cols]).unwrap(),
        _ => arena.write(value, &vec![1.0f32; 6 * cols]).unwrap(),
    }
    arena.write(grad, &vec![0.0f32; 6 * cols]).unwrap();
    let mut tape = Tape::on(float, arena.target());
    let p = tape.param(ParamRef { value, grad: Some(grad) }, &[12, cols / 2]);
    let table = tape.view(p, &[6, cols]).unwrap();
    let index = tape.indices(vec![5, 0, 2, 2, 0, 5, 3, 2, 0, 0, 2, 5]);
    let weight = (0..12).map(|i| 0.3 + 0.17 * i as f32).collect();
    let weight = tape.input(HostTensor::f32([4, 3], weight));
    let y = tape.op(WeightedRows { taps: 3 }, &[table, index, weight]).unwrap();
    let dy = (0..4 * cols).map(|i| (i as f32 * 0.37).sin()).collect();
    let dy = tape.activation(HostTensor::f32([4, cols], dy));
    tape.backward(&[(y, dy)]).unwrap();
    let plan = tape.plan();
    tape.run(&plan, &arena, arena.shared_base()).unwrap();
    arena.read::<f32>(grad).unwrap()
}

#[test]
fn a_table_gets_the_gradient_of_weighted_rows_that_the_processor_gives_it() {
    on_all(|device| {
        for (cols, float) in
            [(18, DType::F32), (18, DType::BF16), (32, DType::F32), (32, DType::BF16)]
        {
            let want = table_gradient(None, float, cols);
            let got = table_gradient(Some(device), float, cols);
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&got), bits(&want), "{cols} columns, {float:?}");
            let moved = |row: usize| want[row * cols..][..cols].iter().any(|&x| x != 0.0);
            assert_eq!([0, 1, 2, 3, 4, 5].map(moved), [true, false, true, true, false, true]);
        }
    });
}
