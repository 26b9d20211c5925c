//! Every op of the table on every case: single precision and bf16 against the f64 reference,
//! forward and backward, within the op's tolerance; prints the worst error of each. Memory is poisoned before
//! every run, so a number that an op forgot to write is a NaN here. No gradient is judged by
//! differences; that is `gradcheck`.

use grpo_rt::base::{DType, Philox, RngDomain};
use grpo_rt::device::{Device, Vendor};
use grpo_rt::ops::linear_logprob::HeadSettings;
use grpo_rt::ops::sample::{Sample, SampleRow, SamplingSettings};
use grpo_rt::ops::{Case, Fill, OPS, OpSpec};
use grpo_rt::tape::check::{Check, fill};
use grpo_rt::tape::conformance::agrees;
use std::sync::Arc;

mod devices; // emulated and present devices

const SEED: u64 = 17;

/// Compares all cases of some ops on the CPU.
fn agree(specs: impl Iterator<Item = &'static OpSpec>, float: DType) {
    let mut failures = Vec::new();
    println!("{:<16} {:<48} {:>8} {:>8}", "op", "case", "forward", "backward");
    for spec in specs {
        let cases = (spec.cases)();
        assert!(cases.len() >= 3, "{} has {} cases, not three or more", spec.name, cases.len());
        for case in &cases {
            assert_eq!(case.op.name(), spec.name, "the case belongs to another op");
            match agrees(spec, case, float, SEED, None) {
                Ok(e) => println!(
                    "{:<16} {:<48} {:8.1e} {:8.1e}",
                    spec.name, case.label, e.forward, e.backward
                ),
                Err(e) => failures.push(e),
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn single_precision_agrees_with_the_reference() {
    agree(OPS.iter().copied(), DType::F32);
}

#[test]
fn bf16_agrees_with_the_reference() {
    agree(OPS.iter().copied().filter(|s| s.bf16_roundings > 0), DType::BF16);
}

/// Compares all cases on a device, each also with the CPU's own error.
fn device_agrees(device: &Arc<dyn Device>) {
    let p = device.properties();
    println!("{}: {}, {}", p.spec, p.name, p.arch);
    let only = std::env::var("GRPO_RT_TEST_OP").ok();
    let mut failures = Vec::new();
    for spec in OPS.iter().filter(|s| only.as_ref().is_none_or(|o| o == s.name)) {
        for float in [DType::F32, DType::BF16] {
            if float == DType::BF16 && spec.bf16_roundings == 0 {
                continue;
            }
            for case in (spec.cases)() {
                match agrees(spec, &case, float, SEED, Some(device)) {
                    Ok(e) => println!(
                        "{:<16} {float:?} {:<48} {:8.1e} {:8.1e}",
                        spec.name, case.label, e.forward, e.backward
                    ),
                    Err(e) => failures.push(e),
                }
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{}: {} failures\n{}",
        p.spec,
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn waves_of_32_agree_on_the_emulator() {
    device_agrees(&devices::emulated(Vendor::Cuda));
}

#[test]
fn waves_of_64_agree_on_the_emulator() {
    device_agrees(&devices::emulated(Vendor::Hip));
}

#[test]
fn devices_of_this_machine_agree() {
    devices::present().iter().for_each(device_agrees);
}

/// What the sampler must do, in the plainest words: (token, its log-probability, log-sum-exp).
fn sample_plainly(
    logits: &[f64],
    head: &HeadSettings,
    s: &SamplingSettings,
    row: &SampleRow,
    u: f64,
) -> (usize, f64, f64) {
    let allowed: Vec<usize> =
        (0..logits.len()).filter(|i| !head.forbidden.contains(&(*i as u32))).collect();
    let z: Vec<f64> = logits.iter().map(|x| x * head.inv_temperature()).collect();
    let lse = allowed.iter().map(|&i| z[i].exp()).sum::<f64>().ln();
    let penalty = f64::from(s.repetition_penalty);
    let drawn: Vec<f64> = z
        .iter()
        .enumerate()
        .map(|(i, &x)| match row.seen.contains(&(i as u32)) {
            true if x > 0.0 => x / penalty,
            true => x * penalty,
            false => x,
        })
        .collect();
    let truncates = s.top_k > 0 || s.top_p < 1.0 || s.min_p > 0.0;
    let mut order = allowed;
    if truncates || s.temperature == 0.0 {
        order.sort_by(|&a, &b| drawn[b].total_cmp(&drawn[a]));
    }
    if s.temperature == 0.0 {
        order.truncate(1);
    }
    if s.top_k > 0 {
        order.truncate(s.top_k);
    }
    let probability = |kept: &[usize]| -> Vec<f64> {
        let sum: f64 = kept.iter().map(|&i| drawn[i].exp()).sum();
        kept.iter().map(|&i| drawn[i].exp() / sum).collect()
    };
    if s.top_p < 1.0 {
        let p = probability(&order);
        let before = |n: usize| p[..n].iter().sum::<f64>();
        let kept = (0..order.len()).filter(|&n| before(n) < f64::from(s.top_p)).count();
        order.truncate(kept);
    }
    if s.min_p > 0.0 {
        let p = probability(&order);
        let kept = p.iter().filter(|x| **x >= f64::from(s.min_p) * p[0]).count();
        order.truncate(kept);
    }
    let mut sum = 0.0;
    let token = order
        .iter()
        .zip(probability(&order))
        .find(|(_, p)| {
            sum += p;
            sum > u
        })
        .map_or(order[order.len() - 1], |(&i, _)| i);
    (token, z[token] - lse, lse)
}

fn sampling_agrees(device: Option<&Arc<dyn Device>>) {
    let d = SamplingSettings::default;
    let settings = [
        d(),
        SamplingSettings { temperature: 0.0, ..d() },
        SamplingSettings { temperature: 0.6, ..d() },
        SamplingSettings { temperature: 1.4, top_k: 5, ..d() },
        SamplingSettings { top_p: 0.7, ..d() },
        SamplingSettings { min_p: 0.2, ..d() },
        SamplingSettings { repetition_penalty: 1.5, ..d() },
        SamplingSettings {
            temperature: 0.8,
            top_k: 12,
            top_p: 0.9,
            min_p: 0.05,
            repetition_penalty: 0.7,
        },
    ];
    let (rows, vocab, seed) = (64, 150, 23);
    let mut different = std::collections::HashSet::new();
    for (n, settings) in settings.iter().enumerate() {
        let keys: Vec<SampleRow> = (0..rows)
            .map(|i| SampleRow { step: 2, sample: i, token: 3 * i, seen: vec![i, 3, 3, 149] })
            .collect();
        let temperature = f64::from(settings.temperature);
        let head = HeadSettings { temperature, forbidden: vec![0, 77, 149] };
        let op = Sample {
            head: Arc::new(head.clone()),
            settings: Arc::new(settings.clone()),
            rows: Arc::new(keys.clone()),
            seed,
        };
        let shape = vec![rows as usize, vocab];
        let kind = Fill::Normal(2.5);
        let logits = fill(&kind, rows as usize * vocab, SEED, 0);
        let case = Case { label: "sampling", op: Arc::new(op), inputs: vec![(shape, kind, false)] };
        let mut check = match device {
            None => Check::forward(&case, DType::F32, SEED).unwrap(),
            Some(device) => Check::on(device, &case, DType::F32, SEED).unwrap(),
        };
        let out = check.run().unwrap().outputs;
        let rng = Philox::new(seed, RngDomain::Sample);
        for (i, row) in keys.iter().enumerate() {
            let u = f64::from(rng.uniform(row.step, row.sample, row.token));
            let z = &logits[i * vocab..][..vocab];
            let (token, logp, lse) = sample_plainly(z, &head, settings, row, u);
            assert_eq!(out[0].values[i] as usize, token, "settings {n}, row {i}: token");
            assert!((out[1].values[i] - logp).abs() < 5e-6, "settings {n}, row {i}: logp");
            assert!((out[2].values[i] - lse).abs() < 5e-6, "settings {n}, row {i}: lse");
            different.insert((n, token));
        }
    }
    assert!(different.len() > 100, "the rows drew only {} different tokens", different.len());
}

#[test]
fn sampling_agrees_with_its_plain_statement() {
    sampling_agrees(None);
    sampling_agrees(Some(&devices::emulated(Vendor::Cuda)));
    sampling_agrees(Some(&devices::emulated(Vendor::Hip)));
    devices::present().iter().for_each(|d| sampling_agrees(Some(d)));
}
