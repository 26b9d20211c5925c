//! Whole models against transformers (`tools/golden/qwen2_5_vl.py`): token ids, pixel values and
//! positions exactly, logits within 1e-4, the gradient of every parameter within 1e-3, relative to
//! the largest element of each tensor.

use grpo_rt::base::{DType, HostTensor, Tolerance};
use grpo_rt::io::safetensors::Checkpoint;
use grpo_rt::model::families::Family;
use grpo_rt::model::families::naming::{Naming, name_in};
use grpo_rt::model::families::qwen2_5_vl::Qwen25Vl;
use grpo_rt::model::processor::{ImageBackend, ProcessorOptions};
use grpo_rt::settings::{ModelSettings, TraceSettings, Trained};
use grpo_rt::train::trace::trace;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/qwen2_5_vl").join(path)
}

fn settings(model: &str, adapter: Option<&str>, messages: &str, grad: bool) -> TraceSettings {
    TraceSettings {
        model: ModelSettings {
            path: data(model),
            dtype: DType::F32,
            adapter: adapter.map(data),
            trained: Trained::Nothing,
            processor: ProcessorOptions {
                backend: Some(ImageBackend::Pillow),
                ..ProcessorOptions::default()
            },
            video: Default::default(),
            max_shard_bytes: 1 << 30,
        },
        messages: data(messages),
        grad,
        out: PathBuf::new(),
        threads: None,
        quiet: true,
    }
}

fn wide(t: &HostTensor) -> Vec<f64> {
    t.to_f32_vec().into_iter().map(f64::from).collect()
}

/// Runs a case and compares everything that the golden has; returns how many gradients that were.
fn compare(s: &TraceSettings, expected: &str) -> usize {
    let ours: BTreeMap<String, HostTensor> = trace(s).unwrap().into_iter().collect();
    let golden = Checkpoint::open(data(expected)).unwrap();
    let mut gradients = 0;
    let mut worst = BTreeMap::new();
    let mut note = |what: &'static str, error: f64| {
        let w = worst.entry(what).or_insert(0.0f64);
        *w = w.max(error);
    };
    for name in golden.names() {
        let want = golden.read(name).unwrap();
        let flat = wide(&want);
        match name {
            "input_ids" | "image_grid_thw" | "position_ids" => {
                let got = ours[name].to_i64_vec().unwrap();
                assert_eq!(got, want.to_i64_vec().unwrap(), "{expected} {name}");
            }
            "pixel_values" => {
                assert_eq!(
                    ours[name].as_f32().unwrap(),
                    want.as_f32().unwrap(),
                    "{expected} {name}"
                );
            }
            "image_embeds" => {
                Tolerance::rel(1e-4).check(expected, &wide(&ours["visual.merger"]), &flat).unwrap();
            }
            "logits" => {
                let got = wide(&ours[name]);
                note("logits", Tolerance::rel(1e-4).check(expected, &got, &flat).unwrap());
            }
            "logits_last" => {
                let all = wide(&ours["logits"]);
                let last = &all[all.len() - flat.len()..];
                Tolerance::rel(1e-4).check(expected, last, &flat).unwrap();
            }
            "loss" if s.grad => {
                Tolerance::rel(1e-5).check(expected, &wide(&ours[name]), &flat).unwrap();
            }
            _ => {
                let Some(parameter) = name.strip_prefix("grad.") else { continue };
                let got = gradient(&ours, parameter);
                let what = format!("{expected} {name}");
                // A gradient that is 0 by symmetry (key biases) is rounding noise on both sides.
                let error = Tolerance { abs: 1e-6, rel: 1e-3 }.check(&what, &got, &flat).unwrap();
                if flat.iter().any(|x| x.abs() > 1e-6) {
                    note("gradients", error);
                }
                gradients += 1;
            }
        }
    }
    println!("{expected}: largest relative differences {worst:?}");
    gradients
}

/// Our gradient of a canonical parameter name, whatever naming the checkpoint has.
fn gradient(ours: &BTreeMap<String, HostTensor>, canonical: &str) -> Vec<f64> {
    let canonical = canonical.strip_prefix("base_model.model.").unwrap_or(canonical);
    let on_disk = name_in(Qwen25Vl.names(), Naming::Checkpoint, canonical);
    let names = [format!("grad.{canonical}"), format!("grad.{on_disk}")];
    let found = names.iter().find_map(|n| ours.get(n));
    wide(found.unwrap_or_else(|| panic!("no gradient of {canonical}")))
}

#[test]
fn models_equal_transformers_in_logits_and_every_gradient() {
    for (model, parameters) in [("tied", 40), ("untied", 40), ("grouped", 40)] {
        let s = settings(model, None, &format!("{model}/messages.json"), true);
        let n = compare(&s, &format!("{model}/expected.safetensors"));
        assert!(n >= parameters, "{model}: only {n} gradients were compared");
    }
}

#[test]
fn one_image_and_no_image() {
    for model in ["tied", "untied", "grouped"] {
        for (messages, expected) in
            [("messages_one", "expected_one"), ("messages_text", "expected_text")]
        {
            let s = settings(model, None, &format!("{model}/{messages}.json"), true);
            compare(&s, &format!("{model}/{expected}.safetensors"));
        }
    }
}

#[test]
fn bfloat16_shards_are_read() {
    let s = settings("tied_bf16_sharded", None, "tied/messages.json", false);
    compare(&s, "tied_bf16_sharded/expected.safetensors");
}

/// In bfloat16 nobody's bits are right: the whole of the logits and of all gradients may be at most
/// twice as far from float32 as transformers is in bfloat16 (`tools/golden/bf16_error.py`).
#[test]
fn bfloat16_is_as_close_to_float32_as_transformers_is() {
    let text = std::fs::read_to_string(data("bf16.json")).unwrap();
    let theirs: serde_json::Value = serde_json::from_str(&text).unwrap();
    for model in ["tied", "untied", "grouped"] {
        let mut s = settings(model, None, &format!("{model}/messages.json"), true);
        s.model.dtype = DType::BF16;
        let ours: BTreeMap<String, HostTensor> = trace(&s).unwrap().into_iter().collect();
        let golden = Checkpoint::open(data(&format!("{model}/expected.safetensors"))).unwrap();
        let mut parts = BTreeMap::from([("logits", (0.0f64, 0.0f64)), ("gradients", (0.0, 0.0))]);
        for name in golden.names() {
            let (part, got) = match name.strip_prefix("grad.") {
                Some(parameter) => ("gradients", gradient(&ours, parameter)),
                None if name == "logits" => ("logits", wide(&ours[name])),
                None => continue,
            };
            let (apart, whole) = parts.get_mut(part).unwrap();
            for (g, w) in got.iter().zip(wide(&golden.read(name).unwrap())) {
                *apart += (g - w).powi(2);
                *whole += w.powi(2);
            }
        }
        for (part, (apart, whole)) in parts {
            let (error, yardstick) =
                ((apart / whole).sqrt(), theirs[model][part].as_f64().unwrap());
            println!("{model} {part}: {error:.2e}, transformers {yardstick:.2e}");
            assert!(error <= 2.0 * yardstick, "{model} {part}: {error} {yardstick}");
        }
    }
}

#[test]
fn adapters_equal_peft() {
    let s = settings("tied", Some("tied_lora"), "tied/messages.json", true);
    let n = compare(&s, "tied_lora/expected.safetensors");
    assert_eq!(n, 12, "two factors of three modules in two layers");
}
