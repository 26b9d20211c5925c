//! Model folders and rows of every family that are not what they should be: files of two models, half a
//! download, tiles and frames that cannot be. Each is an error that names the file, and the row if it is one.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

mod program; // the program, as tests run it

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/families").join(path)
}

/// A copy of a golden model that may be spoilt.
struct Copy(tempfile::TempDir);

impl Copy {
    fn of(model: &str) -> Copy {
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(golden(model)).unwrap().map(|e| e.unwrap().path()) {
            if entry.is_file() && !entry.to_string_lossy().contains("expected") {
                std::fs::copy(&entry, dir.path().join(entry.file_name().unwrap())).unwrap();
            }
        }
        let images = dir.path().join("images");
        std::fs::create_dir(&images).unwrap();
        for entry in std::fs::read_dir(golden(model).join("images")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, images.join(path.file_name().unwrap())).unwrap();
        }
        Copy(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Sets a value inside a JSON file.
    fn set(&self, file: &str, pointer: &str, value: Value) {
        let path = self.path(file);
        let mut json: Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        json.pointer_mut(parent).unwrap()[key] = value;
        std::fs::write(path, json.to_string()).unwrap();
    }

    /// Runs the program in the folder; it must fail with this code and say all of this.
    fn fails(&self, line: &str, code: i32, said: &[&str]) {
        let mut command = program::program();
        let line_words = line.split_whitespace();
        let done = command.args(line_words).current_dir(self.0.path()).output().unwrap();
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(code), "{line}: {stderr}");
        for part in said {
            assert!(stderr.contains(part), "{line}: no `{part}` in: {stderr}");
        }
    }

    fn traced(&self, said: &[&str]) {
        self.fails(TRACE, DATA, said);
    }
}

const DATA: i32 = 3;
const IO: i32 = 4;
const TRACE: &str = "trace --model . --messages messages_one.json --out t.safetensors";
const EVAL: &str = "eval --model . --dataset_name d.jsonl --strict_data --max_completion_length 2 \
    --reward_funcs exact --quiet";

#[test]
fn files_of_two_models_are_noticed() {
    let p = Copy::of("qwen2_vl/tied");
    p.set("preprocessor_config.json", "/merge_size", json!(1));
    p.traced(&["the image processor does not fit the model", "tokens for", "fetch them again"]);

    let p = Copy::of("internvl/qwen2");
    p.set("processor_config.json", "/image_seq_length", json!(9));
    p.traced(&["image_seq_length"]);

    let p = Copy::of("qwen3_vl/tied");
    p.set("config.json", "/model_type", json!("qwen2_vl"));
    p.traced(&["config.json"]);
}

#[test]
fn families_are_told_by_the_configuration_alone() {
    let p = Copy::of("internvl_chat/qwen2");
    p.set("config.json", "/model_type", json!("vintern"));
    p.set("config.json", "/architectures", json!(["VinternModel"]));
    p.traced(&[
        "unknown model family",
        "internvl_chat (InternVLChatModel)",
        "vintern (VinternModel)",
    ]);
    let p = Copy::of("internvl_chat/qwen2");
    p.set("config.json", "/llm_config/architectures", json!(["FalconForCausalLM"]));
    p.traced(&["config.json", "FalconForCausalLM", "InternLM2"]);
}

#[test]
fn tiles_that_cannot_be_are_errors() {
    let p = Copy::of("internvl/qwen2");
    for file in ["preprocessor_config.json", "processor_config.json"] {
        let nested = std::fs::read_to_string(p.path(file)).unwrap().contains("image_processor\"");
        let at = if nested { "/image_processor/min_patches" } else { "/min_patches" };
        p.set(file, at, json!(99));
    }
    p.traced(&["max_patches", "at least 99"]);

    let p = Copy::of("internvl_chat/qwen2");
    p.set("config.json", "/min_dynamic_patch", json!(9));
    p.traced(&["config.json", "dynamic_patch"]);
    let p = Copy::of("internvl_chat/qwen2");
    p.fails(&format!("{TRACE} --max_anyres_num 0"), 2, &["max_anyres_num"]);
}

#[test]
fn rows_with_videos_that_cannot_be_are_named() {
    for model in ["qwen2_vl/tied", "qwen3_vl/tied", "internvl/qwen2", "glm4v/tied"] {
        let p = Copy::of(model);
        std::fs::create_dir(p.path("empty")).unwrap();
        let row = |video: &str| {
            let row = json!({"video": video, "question": "<video>What is it?", "answer": "red"});
            std::fs::write(p.path("d.jsonl"), format!("{row}\n")).unwrap();
        };
        row("empty");
        p.fails(EVAL, DATA, &["d.jsonl, row 1", "frame"]);
        row("nowhere.mp4");
        p.fails(EVAL, DATA, &["d.jsonl, row 1", "nowhere.mp4"]);
        std::fs::write(p.path("torn.gif"), b"GIF89a\x01\x00").unwrap();
        row("torn.gif");
        p.fails(EVAL, DATA, &["d.jsonl, row 1", "torn.gif"]);
    }
    let p = Copy::of("glm4v_9b/converted");
    let frames = p.path("images").display().to_string();
    let row = json!({"video": frames, "question": "<video>What is it?", "answer": "red"});
    std::fs::write(p.path("d.jsonl"), format!("{row}\n")).unwrap();
    p.fails(EVAL, DATA, &["d.jsonl, row 1", "take no videos"]);
}

#[test]
fn placeholders_and_images_must_agree() {
    let p = Copy::of("qwen3_vl/tied");
    let turns = json!({"images": ["images/a.png"],
        "messages": [{"role": "user", "content": "<image><image>What?"},
            {"role": "assistant", "content": "red"}]});
    std::fs::write(p.path("d.jsonl"), format!("{turns}\n")).unwrap();
    p.fails(EVAL, DATA, &["d.jsonl, row 1", "markers: 2", "1 images"]);
}

#[test]
fn half_a_download_is_named() {
    let every = [
        "qwen2_vl/tied",
        "qwen3_vl_moe/sparse",
        "internvl/qwen2",
        "internvl_chat/qwen2",
        "glm4v/tied",
        "glm4v_9b/converted",
    ];
    for model in every {
        let p = Copy::of(model);
        let weights = std::fs::read(p.path("model.safetensors")).unwrap();
        std::fs::write(p.path("model.safetensors"), &weights[..weights.len() / 2]).unwrap();
        p.traced(&["model.safetensors", "fetch it again"]);
        let p = Copy::of(model);
        let index =
            json!({"metadata": {}, "weight_map": {"x": "model-00001-of-00002.safetensors"}});
        std::fs::remove_file(p.path("model.safetensors")).unwrap();
        std::fs::write(p.path("model.safetensors.index.json"), index.to_string()).unwrap();
        p.fails(TRACE, IO, &["model-00001-of-00002.safetensors", "copy the shard again"]);
        let p = Copy::of(model);
        for file in
            ["preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"]
        {
            let _ = std::fs::remove_file(p.path(file));
        }
        // The original code of these two has its settings in config.json, or in itself.
        if !model.starts_with("glm4v_9b") && !model.starts_with("internvl_chat") {
            p.traced(&["preprocessor_config.json"]);
        }
    }
}
