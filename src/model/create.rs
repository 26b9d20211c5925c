//! A new model with random weights, written as a Hugging Face folder that transformers loads without
//! a missing key. The same configuration, tokenizer and seed always give the same bytes; nothing is
//! downloaded and nothing is read.

use std::path::Path;

use serde_json::{Value, json};

use crate::base::{DType, Error, Philox, Result, RngDomain};
use crate::io::atomic::write_atomic;
use crate::io::text::bpe::TrainedTokenizer;
use crate::mem::Arena;
use crate::model::config::VlmConfig;
use crate::model::params::{Param, Training};
use crate::model::spec::Part;
use crate::model::vlm::{Vlm, model_bytes};

/// Standard deviation of embeddings: with the head tied to them, first logits then spread by about 1.
const EMBEDDING_DEVIATION: f32 = 0.1;

/// Writes a model of `config` with random weights to the folder `dir`, which is made if missing:
/// `config.json` (layout of transformers 5), `generation_config.json`, `model.safetensors` (names of
/// the published checkpoints, single precision), tokenizer, chat template and image processor.
///
/// # Errors
/// A configuration with fewer embedding rows than the tokenizer has tokens, or a file that cannot be
/// written.
pub fn create_model(
    dir: impl AsRef<Path>,
    config: VlmConfig,
    tokenizer: &TrainedTokenizer,
    seed: u64,
) -> Result<()> {
    let dir = dir.as_ref();
    let tokens = tokenizer.tokenizer().vocab_size();
    if config.text.vocab_size < tokens {
        return Err(Error::usage(
            "the model has fewer embedding rows than the tokenizer has tokens",
        )
        .key("vocab_size")
        .expected(format!("at least {tokens}"))
        .found(config.text.vocab_size.to_string()));
    }
    std::fs::create_dir_all(dir).map_err(|e| Error::io("cannot make the folder", dir, &e))?;
    write_json(&dir.join("generation_config.json"), &generation_config(&config))?;
    for (name, content) in config.family.processor_files(&config)? {
        write_json(&dir.join(name), &content)?;
    }
    tokenizer.save(dir)?;
    let mut arena = Arena::reserve(model_bytes(&config, &Training::None, DType::F32))?;
    let json = config.raw.clone();
    let layers = config.text.num_layers;
    let mut number = 0;
    let model = Vlm::create(config, &mut arena, |p| {
        number += 1;
        initial_value(p, seed, number - 1, layers)
    })?;
    model.save_weights(dir, &arena)?;
    // Last: a folder without config.json is not taken for a model.
    write_json(&dir.join("config.json"), &json)
}

/// First value of parameter `number`: norms and scales 1, biases 0, everything else normal.
fn initial_value(p: &Param, seed: u64, number: u32, layers: usize) -> Vec<f32> {
    if p.shape.len() == 1 {
        let value = if p.name.ends_with(".bias") { 0.0 } else { 1.0 };
        return vec![value; p.len()];
    }
    // Sub-stream 0; fresh adapters draw from sub-stream 1.
    let mut stream = Philox::new(seed, RngDomain::Init).stream(0, number);
    let deviation = deviation(p, layers);
    (0..p.len()).map(|_| deviation * stream.normal()).collect()
}

/// Last parts of the names of projections back into a residual stream.
const RESIDUAL: [&str; 9] =
    ["o_proj", "down_proj", "attn.proj", "projection_layer", "wo", "w2", "dense", "fc2", "4h_to_h"];

/// Deviation of a matrix: `1/sqrt(inputs)`, so that signals keep their size through every layer at
/// any width; projections back into the residual stream are smaller by `sqrt(2 layers)` (GPT-2,
/// section 2.3), so that the stream does not grow with depth. The 0.02 of transformers is tuned to
/// widths of thousands: at 128 its branches are almost silent, and a tiny model trained from it
/// does not find the image within a demo's time.
fn deviation(p: &Param, layers: usize) -> f32 {
    // Tables that are looked up in, not multiplied by: embeddings of tokens and places, single tokens.
    let looked_up = p.name.contains("embed") && !p.name.contains("patch_embed") || p.shape[0] == 1;
    if looked_up || p.part == Part::Head {
        return EMBEDDING_DEVIATION;
    }
    let inputs: usize = match p.shape[..] {
        [_, _, inputs] if p.name.contains(".experts.") => inputs, // a stack of matrices
        _ => p.shape[1..].iter().product(),
    };
    let module = p.name.strip_suffix(".weight").unwrap_or(&p.name);
    let residual = p.part != Part::Connector && RESIDUAL.iter().any(|n| module.ends_with(n));
    let branches = if residual { 2 * layers } else { 1 };
    1.0 / ((inputs * branches) as f32).sqrt()
}

fn generation_config(config: &VlmConfig) -> Value {
    let ids = &config.tokens;
    json!({
        "bos_token_id": ids.bos,
        "do_sample": true,
        "eos_token_id": ids.eos,
        "pad_token_id": ids.pad,
    })
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    write_atomic(path, format!("{value:#}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::safetensors::Checkpoint;
    use crate::io::text::{ChatTemplate, Tokenizer, bpe::train_bpe};
    use crate::model::families::preset::PRESETS;
    use crate::model::families::{NewTokenizer, qwen2_5_vl::Qwen25Vl};
    use crate::model::processor::{chat::ChatEncoder, qwen_image::QwenImageProcessor};

    fn tokenizer() -> TrainedTokenizer {
        train_bpe((0..20).map(|i| format!("Which color is shape {i}? red")), 300).unwrap()
    }

    fn preset(t: &TrainedTokenizer, size: &str) -> Result<VlmConfig> {
        let vocab_size = t.tokenizer().vocab_size();
        VlmConfig::preset(&Qwen25Vl, size, &NewTokenizer { vocab_size, id: &|s| t.special_id(s) })
    }

    fn created(seed: u64) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let t = tokenizer();
        create_model(dir.path(), preset(&t, "tiny").unwrap(), &t, seed).unwrap();
        dir
    }

    #[test]
    fn every_preset_is_known() {
        let t = tokenizer();
        for size in &PRESETS {
            preset(&t, size.name).unwrap();
        }
        let error = preset(&t, "huge").unwrap_err().to_string();
        assert!(PRESETS.iter().all(|p| error.contains(p.name)), "{error}");
    }

    #[test]
    fn the_folder_loads_and_its_files_agree() {
        let dir = created(7);
        let config = VlmConfig::from_dir(dir.path()).unwrap();
        let tokens = Tokenizer::from_dir(dir.path()).unwrap();
        assert_eq!(config.text.vocab_size, tokens.vocab_size());
        assert_eq!(config.tokens, preset(&tokenizer(), "tiny").unwrap().tokens);
        assert_eq!(tokens.token(config.tokens.eos[0]).as_deref(), Some("<|im_end|>"));
        let template = ChatTemplate::from_dir(dir.path()).unwrap();
        let chat = ChatEncoder::new(tokens, template, &config.tokens, "<|im_end|>").unwrap();
        assert_eq!(chat.end_of_turn_id, config.tokens.eos[0]);
        let images = QwenImageProcessor::from_dir(dir.path()).unwrap();
        assert_eq!(images.patch_dim(), config.vision.patch_values());
        assert_eq!(images.num_image_tokens(images.grid_of(56, 56).unwrap()), 4);
        let mut arena = Arena::reserve(model_bytes(&config, &Training::None, DType::F32)).unwrap();
        let model = Vlm::load(dir.path(), &Training::None, DType::F32, 0, &mut arena).unwrap();
        assert!(model.params.all().iter().all(|p| !p.is_empty()));
    }

    #[test]
    fn weights_follow_the_seed_and_have_the_right_spread() {
        let (a, b, other) = (created(1), created(1), created(2));
        let bytes =
            |d: &tempfile::TempDir| std::fs::read(d.path().join("model.safetensors")).unwrap();
        assert!(bytes(&a) == bytes(&b) && bytes(&a) != bytes(&other));
        let file = Checkpoint::open(a.path()).unwrap();
        let read = |name: &str| file.read_f32(name).unwrap().1;
        assert!(read("model.norm.weight").iter().all(|x| *x == 1.0));
        assert!(read("visual.merger.mlp.0.bias").iter().all(|x| *x == 0.0));
        let (q, k) = (
            read("model.layers.0.mlp.up_proj.weight"),
            read("model.layers.0.mlp.gate_proj.weight"),
        );
        assert_ne!(q, k);
        let n = q.len() as f32;
        let mean = q.iter().sum::<f32>() / n;
        let deviation = (q.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / n).sqrt();
        let wanted = 1.0 / (read("model.norm.weight").len() as f32).sqrt();
        assert!(mean.abs() < 2e-3 && (deviation - wanted).abs() < 2e-3, "{mean} {deviation}");
    }

    #[test]
    fn too_few_embedding_rows_are_refused() {
        let t = tokenizer();
        let mut config = preset(&t, "tiny").unwrap();
        config.text.vocab_size = t.tokenizer().vocab_size() - 1;
        let error = create_model(tempfile::tempdir().unwrap(), config, &t, 0).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("rows"), "{error}");
    }
}
