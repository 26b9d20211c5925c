//! Qwen2-VL, Qwen3-VL and its mixture of experts beyond single passes: new models load and read images,
//! rollout and training agree to the bit, recomputation changes nothing, experts are written as they
//! were read. Right numbers are the business of `golden_families`.

use grpo_rt::base::DType;
use grpo_rt::io::safetensors::Checkpoint;
use grpo_rt::mem::Arena;
use grpo_rt::model::config::VlmConfig;
use grpo_rt::model::params::Training;
use grpo_rt::model::processor::ProcessorOptions;
use grpo_rt::model::vlm::{Vlm, model_bytes};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

mod program; // the program, as tests run it

const FAMILIES: [&str; 3] = ["qwen2_vl", "qwen3_vl", "qwen3_vl_moe"];

fn go(dir: &Path, line: &str) {
    let mut command = program::program();
    let done = command.args(line.split_whitespace()).current_dir(dir).output().unwrap();
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A folder with rows (`data`) and a new model of each family, made once.
fn lab() -> &'static Path {
    static LAB: OnceLock<PathBuf> = OnceLock::new();
    LAB.get_or_init(|| {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("qwen_vl");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        go(&dir, "data make-shapes --output_dir data --num_rows 32 --seed 1 --quiet");
        for family in FAMILIES {
            let line = format!(
                "init --family {family} --preset tiny --vocab_size 320 \
                 --dataset_name data/train.jsonl --seed 1 --output_dir {family} --quiet"
            );
            go(&dir, &line);
        }
        dir
    })
}

fn load(dir: &Path) -> (Vlm, Arena) {
    let config = VlmConfig::from_dir(dir).unwrap();
    let mut arena = Arena::reserve(model_bytes(&config, &Training::None, DType::F32)).unwrap();
    let model = Vlm::load(dir, &Training::None, DType::F32, 0, &mut arena).unwrap();
    (model, arena)
}

#[test]
fn new_models_have_files_that_fit_together() {
    for family in FAMILIES {
        let dir = lab().join(family);
        let (model, _) = load(&dir);
        let config = &model.config;
        assert_eq!(config.family.name(), family);
        let options = ProcessorOptions::default();
        let processor = config.family.processor(Some(&dir), config, &options).unwrap();
        let image = processor.image_shape(64, 64).unwrap();
        assert_eq!(image.patch_dim, config.vision.patch_values(), "{family}");
        assert_eq!(image.rows(), config.vision.feature_rows(image.grid_thw), "{family}");
        let template = config.family.template(&dir, config).unwrap();
        assert!(template.takes_parts(), "{family}");
    }
}

/// Metrics of two steps that must not depend on how the memory was used. The model has seen some
/// answers, so that completions differ and there is something to learn.
fn train(family: &str, run: &str, more: &str) -> Vec<[f64; 4]> {
    let line = format!(
        "train --model {family}_warm --dataset_name data/train.jsonl --reward_funcs exact,length --max_steps 2 \
         --num_generations 4 --batch_size 16 --max_completion_length 6 --scale_rewards none --lr 1e-3 --beta 0.04 \
         --tune_mm_vision --tune_mm_mlp --output_dir {run} --quiet {more}"
    );
    go(lab(), &line);
    let text = std::fs::read_to_string(lab().join(run).join("metrics.jsonl")).unwrap();
    let rows = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    let names = ["loss", "grad_norm", "kl", "sampling/logp_diff_max"];
    let steps = rows.filter(|row| row.get("loss").is_some());
    steps
        .map(|row| names.map(|n| row[n].as_f64().unwrap_or_else(|| panic!("no {n}: {row}"))))
        .collect()
}

#[test]
fn rollout_and_training_agree_to_the_bit() {
    for family in FAMILIES {
        let line = format!(
            "sft --model {family} --dataset_name data/train.jsonl --max_steps 12 --batch_size 16 \
             --lr 2e-3 --tune_mm_vision --tune_mm_mlp --output_dir {family}_warm --quiet"
        );
        go(lab(), &line);
        let kept = train(family, &format!("{family}_kept"), "--gradient_checkpointing false");
        assert_eq!(kept.len(), 2, "{family}");
        assert!(kept.iter().all(|row| row[3] == 0.0 && row[1] > 0.0), "{family}: {kept:?}");
        assert_eq!(kept[0][2], 0.0, "{family}: an untouched reference");
        let again = train(family, &format!("{family}_again"), "--gradient_checkpointing true");
        assert_eq!(kept, again, "{family}: recomputation");
    }
}

#[test]
fn experts_are_written_as_they_were_read() {
    // published: [experts, in, out]; saved by transformers 5: [experts, out, in]
    for shape in ["sparse", "saved"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let dir = root.join("tests/data/families/qwen3_vl_moe").join(shape);
        let (model, arena) = load(&dir);
        let out = tempfile::tempdir().unwrap();
        model.save_weights(out.path(), &arena).unwrap();
        let (want, got) = (Checkpoint::open(&dir).unwrap(), Checkpoint::open(out.path()).unwrap());
        for name in want.names() {
            assert!(want.read(name).unwrap() == got.read(name).unwrap(), "{shape}: {name}");
        }
        assert_eq!(want.names().count(), got.names().count());
    }
}
