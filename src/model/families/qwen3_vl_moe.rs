//! Qwen3-VL with a mixture of experts (arXiv 2511.21631): what its language model has beyond
//! `qwen3_vl`, with which it shares everything else. No tensor is touched here.

use super::naming::NamePairs;
use super::preset::{Preset, with};
use super::qwen3_vl::{self, Qwen3Vl, architecture, read_interleaved_text};
use super::{Architecture, Family, NewTokenizer};
use crate::base::Result;
use crate::model::config::VlmConfig;
use crate::model::config::keys::Keys;
use crate::model::config::text::TextDefaults;
use crate::model::decoder::Experts;
use crate::model::decoder::names::{FUSED_EXPERTS, IN_MODEL};
use crate::model::processor::{ProcessorOptions, VisualProcessor};
use serde_json::{Value, json};
use std::path::Path;

/// The family.
#[derive(Debug)]
pub struct Qwen3VlMoe;

/// Defaults are those of transformers' Qwen3VLMoeTextConfig.
const TEXT: TextDefaults = TextDefaults {
    sizes: [2048, 5632, 24, 16, 16, 151_936, 128_000],
    rms_norm_eps: 1e-6,
    rope_theta: 500_000.0,
    head_dim: 128, // of the default sizes; without the key it follows from the sizes
    qkv_bias: false,
    qk_norm: true,
    names: IN_MODEL,
};

impl Family for Qwen3VlMoe {
    fn model_type(&self) -> &'static str {
        "qwen3_vl_moe"
    }

    fn vlm_r1_converts_boxes(&self) -> bool {
        true
    }
    fn architecture(&self) -> &'static str {
        "Qwen3VLMoeForConditionalGeneration"
    }
    fn names(&self) -> NamePairs {
        Qwen3Vl.names()
    }
    fn vision_modules(&self) -> &'static [&'static str] {
        Qwen3Vl.vision_modules()
    }

    fn read(&self, top: &Keys) -> Result<Architecture> {
        let keys = top.object_or_empty("text_config")?;
        let [hidden, _, _, heads, ..] = TEXT.sizes;
        let quotient =
            keys.size("hidden_size", hidden)? / keys.size("num_attention_heads", heads)?;
        let defaults = TextDefaults { head_dim: quotient.max(1), ..TEXT };
        let mut text = read_interleaved_text(top, &keys, &defaults)?;
        text.experts = Some(read_experts(&keys, text.num_layers)?);
        architecture(top, &keys, text)
    }

    fn processor(
        &self,
        dir: Option<&Path>,
        config: &VlmConfig,
        options: &ProcessorOptions,
    ) -> Result<Box<dyn VisualProcessor>> {
        Qwen3Vl.processor(dir, config, options)
    }

    fn new_config(&self, preset: &Preset, tokenizer: &NewTokenizer) -> Result<Value> {
        new_config(preset, tokenizer)
    }

    fn processor_files(&self, config: &VlmConfig) -> Result<Vec<(&'static str, Value)>> {
        Qwen3Vl.processor_files(config)
    }
}

/// `num_local_experts` is what transformers 5 writes for `num_experts`. Its class divides the weights
/// of a token's experts by their sum whatever `norm_topk_prob` says.
fn read_experts(keys: &Keys, layers: usize) -> Result<Experts> {
    let count = match keys.get("num_experts") {
        Some(_) => keys.size("num_experts", 60)?,
        None => keys.size("num_local_experts", 60)?,
    };
    if keys.size("num_local_experts", count)? != count {
        return Err(keys.wrong("num_local_experts", format!("num_experts {count}")));
    }
    let per_token = keys.size("num_experts_per_tok", 4)?;
    if per_token > count {
        let expected = format!("at most the number of experts, {count}");
        return Err(keys.wrong("num_experts_per_tok", expected));
    }
    if !keys.boolean("norm_topk_prob", true)? {
        return Err(keys.wrong("norm_topk_prob", "true"));
    }
    if keys.boolean("output_router_logits", false)? {
        let hint = "the loss has no part that balances experts; set it to false in config.json";
        return Err(keys.wrong("output_router_logits", "false").hint(hint));
    }
    let step = keys.size("decoder_sparse_step", 1)?;
    let dense = keys.sizes("mlp_only_layers")?.unwrap_or_default();
    Ok(Experts {
        count,
        per_token,
        intermediate_size: keys.size("moe_intermediate_size", 1408)?,
        layers: (0..layers).map(|i| (i + 1).is_multiple_of(step) && !dense.contains(&i)).collect(),
        names: &FUSED_EXPERTS,
    })
}

/// Experts, experts of a token and width inside an expert, of each preset.
const EXPERTS: [[usize; 3]; 2] = [[6, 2, 64], [8, 2, 144]];

/// config.json of a new model, in the layout of transformers 5.
fn new_config(preset: &Preset, tokenizer: &NewTokenizer) -> Result<Value> {
    let [count, per_token, intermediate_size] = preset.of(EXPERTS);
    let mut config = qwen3_vl::new_config(&Qwen3VlMoe, preset, tokenizer)?;
    let own = json!({
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": intermediate_size,
        "norm_topk_prob": true,
        "num_experts": count,
        "num_experts_per_tok": per_token,
        "output_router_logits": false,
        "router_aux_loss_coef": 0.001,
    });
    config["text_config"] = with(config["text_config"].take(), own);
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &Value) -> Result<Experts> {
        read_experts(&Keys::of(value, Path::new("config.json")).unwrap(), 4)
    }

    #[test]
    fn layers_with_experts_are_chosen_by_step_and_list() {
        let layers = |value: Value| read(&value).unwrap().layers;
        assert_eq!(layers(json!({})), [true; 4]);
        assert_eq!(layers(json!({"decoder_sparse_step": 2})), [false, true, false, true]);
        assert_eq!(layers(json!({"mlp_only_layers": [1]})), [true, false, true, true]);
        assert_eq!(read(&json!({"num_local_experts": 5})).unwrap().count, 5);
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        for (key, value) in [
            ("norm_topk_prob", json!(false)),
            ("output_router_logits", json!(true)),
            ("num_experts_per_tok", json!(61)),
            ("num_local_experts", json!(7)),
        ] {
            let error = read(&json!({"num_experts": 60, key: value})).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
