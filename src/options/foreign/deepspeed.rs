//! A DeepSpeed configuration: what of it means something to one process with planned memory. Settings of
//! sharding and offload are told; types and clipping become options. Knows nothing else of DeepSpeed.

use super::Meaning;
use crate::base::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// Reads a configuration, JSON or the YAML of `accelerate`.
///
/// # Errors
/// If the file cannot be read or asks for float16.
pub fn read(path: &Path) -> Result<Meaning> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::io("cannot read the DeepSpeed configuration", path, &e))
        .map_err(|e| e.hint("leave --deepspeed out: nothing in it is needed here"))?;
    let yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
    let parsed = match yaml {
        true => serde_saphyr::from_str::<Value>(&text).map_err(|e| e.to_string()),
        false => serde_json::from_str(&text).map_err(|e| e.to_string()),
    };
    let config = parsed.map_err(|e| {
        Error::usage("cannot understand the DeepSpeed configuration")
            .file(path)
            .expected("JSON, or YAML of accelerate")
            .found(e)
    })?;
    let on = |key: &str| config[key]["enabled"] == Value::Bool(true);
    if on("fp16") {
        return Err(Error::usage("float16 is not computed here")
            .file(path)
            .key("fp16")
            .hint("set bf16 instead; its range is that of float32 and needs no loss scale"));
    }
    let mut out = Meaning::default();
    if on("bf16") {
        out.set.push(("dtype", vec!["bfloat16".into()]));
    }
    if let Some(norm) = config["gradient_clipping"].as_f64() {
        out.set.push(("max_grad_norm", vec![norm.to_string()]));
    }
    out.said.push(sharding(&config));
    Ok(out)
}

/// What stands for ZeRO here.
fn sharding(config: &Value) -> String {
    let zero = &config["zero_optimization"];
    let zero = if zero.is_null() { &config["deepspeed_config"] } else { zero };
    let stage = [&zero["stage"], &zero["zero_stage"]].iter().find_map(|s| s.as_u64());
    let stage = stage.map_or("DeepSpeed".to_string(), |s| format!("ZeRO stage {s}"));
    let device = |v: &Value| {
        let device = v["device"].as_str().or(v.as_str()).unwrap_or("none");
        (device != "none").then(|| device.to_string())
    };
    let moved = [
        ("optimizer", [&zero["offload_optimizer"], &zero["offload_optimizer_device"]]),
        ("parameters", [&zero["offload_param"], &zero["offload_param_device"]]),
    ];
    let moved: Vec<String> = moved
        .iter()
        .filter_map(|(what, at)| {
            at.iter().find_map(|v| device(v)).map(|d| format!("{what} on {d}"))
        })
        .collect();
    let offload = match moved.is_empty() {
        true => String::new(),
        false => format!(" with {}", moved.join(" and ")),
    };
    format!(
        "in place of {stage}{offload}: one process holds weights, gradients and optimizer in one planned \
         block of memory, nothing is sharded or moved; `grpo-rt plan` says what fits"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, text: &str) -> Result<Meaning> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn published_configurations_are_understood() {
        // VLM-R1's local_scripts/zero2.json, as far as it says something.
        let zero2 = r#"{"fp16": {"enabled": "auto"}, "bf16": {"enabled": "auto"},
            "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu", "pin_memory": true}},
            "gradient_clipping": "auto", "train_micro_batch_size_per_gpu": "auto"}"#;
        let m = of("zero2.json", zero2).unwrap();
        assert!(m.set.is_empty());
        assert!(m.said[0].contains("ZeRO stage 2 with optimizer on cpu:"), "{:?}", m.said);
        let zero3 = "distributed_type: DEEPSPEED\ndeepspeed_config:\n  zero_stage: 3\n  \
                     offload_optimizer_device: none\nmixed_precision: bf16\n";
        assert!(of("z.yaml", zero3).unwrap().said[0].contains("ZeRO stage 3:"));
        let plain = r#"{"bf16": {"enabled": true}, "gradient_clipping": 0.5}"#;
        let m = of("a.json", plain).unwrap();
        assert_eq!(
            m.set,
            [("dtype", vec!["bfloat16".to_string()]), ("max_grad_norm", vec!["0.5".to_string()])]
        );
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        let e = of("a.json", r#"{"fp16": {"enabled": true}}"#).unwrap_err();
        assert!(e.to_string().contains("float16") && e.hint_text().is_some());
        assert!(of("a.json", "{").unwrap_err().to_string().contains("a.json"));
        assert_eq!(read(Path::new("no/such.json")).unwrap_err().exit_code(), 4);
    }
}
