//! InternVL in both layouts beyond its goldens (`golden_families`): what config.json may say, where tokens
//! and chat layouts come from, names on disk, tiles of images and frames of videos, new models.

use grpo_rt::base::DType;
use grpo_rt::io::image;
use grpo_rt::io::safetensors::{self, Checkpoint};
use grpo_rt::io::text::{SpecialTokens, Tokenizer, train_bpe_for};
use grpo_rt::io::video::VideoInfo;
use grpo_rt::io::video::sampling::{FrameCount, FrameSampling};
use grpo_rt::mem::Arena;
use grpo_rt::model::config::VlmConfig;
use grpo_rt::model::create::create_model;
use grpo_rt::model::families::{NewTokenizer, family_named, parameters};
use grpo_rt::model::params::Training;
use grpo_rt::model::processor::tiles::closest_grid;
use grpo_rt::model::processor::{Clip, ImageBackend, ProcessorOptions, VisualProcessor};
use grpo_rt::model::vlm::{Vlm, model_bytes};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const CHAT: [&str; 3] = ["internvl_chat/internlm2", "internvl_chat/qwen2", "internvl_chat/qwen3"];
const TRANSFORMERS: [&str; 2] = ["internvl/qwen2", "internvl/qwen3"];

fn folder(shape: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/families").join(shape)
}

fn read(path: impl AsRef<Path>) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn processor(shape: &str, options: &ProcessorOptions) -> Box<dyn VisualProcessor> {
    let config = VlmConfig::from_dir(folder(shape)).unwrap();
    config.family.processor(Some(&folder(shape)), &config, options).unwrap()
}

fn pillow() -> ProcessorOptions {
    ProcessorOptions { backend: Some(ImageBackend::Pillow), ..ProcessorOptions::default() }
}

/// A copy of a golden folder's files without images and weights.
fn copy(shape: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder(shape)).unwrap().map(|e| e.unwrap()) {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_file() && !name.ends_with(".safetensors") {
            std::fs::copy(entry.path(), dir.path().join(name)).unwrap();
        }
    }
    dir
}

fn put(dir: &tempfile::TempDir, file: &str, content: &Value) {
    std::fs::write(dir.path().join(file), content.to_string()).unwrap();
}

#[test]
fn the_grid_of_tiles_is_that_of_the_reference() {
    // get_optimal_tiled_canvas of transformers 5.23 for tiles of 448 pixels.
    let sizes = [(800, 600), (448, 448), (1000, 200), (896, 896), (450, 450), (1920, 1080)];
    let more = [(1080, 1920), (3000, 1000), (5000, 1), (1600, 1600), (500, 375), (317, 317)];
    let sizes: Vec<(usize, usize)> = sizes.into_iter().chain(more).collect();
    let grids = |least, most| -> Vec<(usize, usize)> {
        sizes.iter().map(|&size| closest_grid(size, 448, least, most)).collect()
    };
    let twelve = [(4, 3), (1, 1), (5, 1), (2, 2), (1, 1), (4, 2)];
    assert_eq!(grids(1, 12)[..6], twelve);
    assert_eq!(grids(1, 12)[6..], [(2, 4), (6, 2), (12, 1), (3, 3), (4, 3), (1, 1)]);
    assert_eq!(grids(1, 6)[..6], [(3, 2), (1, 1), (5, 1), (2, 2), (1, 1), (2, 1)]);
    assert_eq!(grids(2, 12)[..6], [(4, 3), (2, 2), (5, 1), (2, 2), (2, 2), (4, 2)]);
    assert_eq!(grids(3, 5)[6..], [(1, 3), (3, 1), (5, 1), (2, 2), (2, 2), (2, 2)]);
    assert!(grids(1, 1).iter().all(|grid| *grid == (1, 1)));
}

#[test]
fn a_frame_is_an_image_of_one_tile() {
    let one = ProcessorOptions { max_tiles: Some(1), ..pillow() };
    let processor = processor(CHAT[1], &one);
    let picture = image::open(folder(CHAT[1]).join("images/a.png")).unwrap();
    let image = processor.image(&picture).unwrap();
    let (width, height) = (picture.width, picture.height);
    let info = VideoInfo { frames: 9, fps: 4.0, width, height, duration: 2.25 };
    let frames = [picture.clone(), picture];
    let (min_pixels, max_pixels, total_pixels) = (None, None, None);
    let indices = &[2, 6];
    let clip = Clip { frames: &frames, indices, info: &info, min_pixels, max_pixels, total_pixels };
    let video = processor.video(&clip).unwrap();
    assert_eq!((image.grid_thw[0], video.grid_thw[0]), (1, 2));
    assert_eq!(video.patches, image.patches.repeat(2));
    assert_eq!(video.seconds, [0.5, 1.5]);
    let text = processor.text(&video);
    let lines = "Frame1: <img><IMG_CONTEXT></img>\nFrame2: <img><IMG_CONTEXT></img>";
    assert_eq!((text.written.as_str(), text.text.as_str()), ("<video>", lines));
    assert_eq!(processor.text(&image).text, "<IMG_CONTEXT>");
    let error = processor.video(&Clip { total_pixels: Some(9), ..clip }).unwrap_err().to_string();
    assert!(error.contains("total_pixels"), "{error}");
    assert!(processor.video(&Clip { frames: &[], indices: &[], ..clip }).is_err());
}

#[test]
fn frames_are_chosen_as_the_folder_says() {
    let rule = |shape| processor(shape, &ProcessorOptions::default()).sampling().unwrap();
    let count = |count| FrameSampling::InternVl { count };
    assert_eq!(rule(CHAT[0]), FrameSampling::InternVlSegments { num_segments: 8 });
    assert_eq!(rule(TRANSFORMERS[0]), count(FrameCount::Number(4)));
    assert_eq!(rule(TRANSFORMERS[1]), count(FrameCount::PerSecond(2.0)));
}

#[test]
fn options_that_tiles_cannot_follow_are_refused() {
    let refused = |shape: &str, options: ProcessorOptions| {
        let config = VlmConfig::from_dir(folder(shape)).unwrap();
        let error = config.family.processor(Some(&folder(shape)), &config, &options).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    };
    let none = ProcessorOptions::default;
    for shape in [CHAT[0], TRANSFORMERS[0]] {
        let error = refused(shape, ProcessorOptions { max_pixels: Some(9), ..none() });
        assert!(error.contains("max_pixels"), "{error}");
        let error = refused(shape, ProcessorOptions { max_tiles: Some(0), ..none() });
        assert!(error.contains("max_anyres_num"), "{error}");
        let options = ProcessorOptions { max_tiles: Some(2), ..none() };
        assert_eq!(processor(shape, &options).image_shape(20, 70).unwrap().grid_thw[0], 3);
    }
    let torchvision = Some(ImageBackend::Torchvision);
    let error = refused(CHAT[0], ProcessorOptions { backend: torchvision, ..none() });
    assert!(error.contains("Pillow"), "{error}");
}

#[test]
fn what_cannot_run_is_an_error_with_its_key() {
    let cases = [
        (CHAT[1], "/downsample_ratio", json!(0.25), "downsample_ratio"),
        (CHAT[1], "/select_layer", json!(-4), "select_layer"),
        (CHAT[1], "/ps_version", json!("v3"), "ps_version"),
        (CHAT[1], "/pad2square", json!(true), "pad2square"),
        (CHAT[1], "/use_llm_lora", json!(16), "use_llm_lora"),
        (CHAT[1], "/force_image_size", json!(48), "force_image_size"),
        (CHAT[1], "/max_dynamic_patch", json!(0), "max_dynamic_patch"),
        (CHAT[1], "/min_dynamic_patch", json!(9), "max_dynamic_patch"),
        (CHAT[1], "/vision_config/norm_type", json!("batch"), "vision_config.norm_type"),
        (CHAT[1], "/vision_config/hidden_act", json!("silu"), "vision_config.hidden_act"),
        (CHAT[1], "/vision_config/dropout", json!(0.1), "vision_config.dropout"),
        (CHAT[1], "/vision_config/patch_size", json!(5), "vision_config.image_size"),
        (CHAT[1], "/vision_config/num_attention_heads", json!(5), "num_attention_heads"),
        (CHAT[1], "/llm_config/architectures", json!(["Phi3ForCausalLM"]), "architectures"),
        (CHAT[0], "/llm_config/bias", json!(true), "llm_config.bias"),
        (CHAT[0], "/llm_config/rope_scaling/type", json!("linear"), "rope_scaling.type"),
        (CHAT[0], "/llm_config/rope_pos_id_version", json!("v2pe_fix"), "rope_pos_id_version"),
        (CHAT[2], "/llm_config/attention_bias", json!(true), "attention_bias"),
        (TRANSFORMERS[0], "/image_token_id", json!(999), "image_token_id"),
        (TRANSFORMERS[0], "/vision_feature_layer", json!(-2), "vision_feature_layer"),
        (TRANSFORMERS[0], "/vision_feature_layer", json!([-1]), "vision_feature_layer"),
        (TRANSFORMERS[0], "/vision_feature_select_strategy", json!("full"), "select_strategy"),
        (TRANSFORMERS[0], "/projector_hidden_act", json!("relu"), "projector_hidden_act"),
        (TRANSFORMERS[0], "/text_config/model_type", json!("phi3"), "text_config.model_type"),
        (TRANSFORMERS[0], "/vision_config/image_size", json!([28, 42]), "image_size"),
        (TRANSFORMERS[0], "/vision_config/image_size", json!([21, 21]), "image_size"),
        (TRANSFORMERS[0], "/vision_config/use_mask_token", json!(true), "use_mask_token"),
        (TRANSFORMERS[0], "/vision_config/use_mean_pooling", json!(false), "use_mean_pooling"),
    ];
    for (shape, pointer, value, key) in cases {
        let mut raw = read(folder(shape).join("config.json"));
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        raw.pointer_mut(parent).unwrap()[last] = value;
        let error = VlmConfig::from_json(raw, "config.json").expect_err(pointer).to_string();
        let at = error.split("key `").nth(1).unwrap_or_default().split('`').next().unwrap();
        assert!(at.ends_with(key), "{pointer}: {error}");
    }
    let mut raw = read(folder(CHAT[1]).join("config.json"));
    raw["llm_config"]["architectures"] = json!(["LlamaForCausalLM"]);
    assert!(!VlmConfig::from_json(raw.clone(), "config.json").unwrap().text.qkv_bias);
    raw["llm_config"]["architectures"] = json!(["Gemma2ForCausalLM"]);
    let error = VlmConfig::from_json(raw, "config.json").unwrap_err().to_string();
    assert!(error.contains("InternLM2ForCausalLM") && error.contains("Qwen3"), "{error}");
}

#[test]
fn processor_settings_that_do_not_fit_are_errors() {
    let opened = |dir: &tempfile::TempDir| {
        let config = VlmConfig::from_dir(dir.path()).unwrap();
        config.family.processor(Some(dir.path()), &config, &ProcessorOptions::default()).map(|_| ())
    };
    let file = "preprocessor_config.json";
    for (shape, key, value) in [
        (CHAT[1], "image_mean", json!([0.5, 0.5, 0.5])),
        (TRANSFORMERS[0], "size", json!({"height": 56, "width": 56})),
        (TRANSFORMERS[0], "do_normalize", json!(false)),
        (TRANSFORMERS[0], "min_patches", json!(9)),
        (TRANSFORMERS[0], "resample", json!(0)),
        (TRANSFORMERS[0], "image_std", json!([0.0, 1.0, 1.0])),
        (TRANSFORMERS[0], "image_processor_type", json!("CLIPImageProcessor")),
    ] {
        let dir = copy(shape);
        opened(&dir).unwrap();
        let mut settings = read(dir.path().join(file));
        settings[key] = value;
        put(&dir, file, &settings);
        let error = opened(&dir).expect_err(key).to_string();
        assert!(error.contains(file), "{key}: {error}");
    }
    let dir = copy(TRANSFORMERS[0]);
    put(&dir, "processor_config.json", &json!({"image_seq_length": 256}));
    let error = opened(&dir).unwrap_err().to_string();
    assert!(error.contains("image_seq_length") && error.contains("256"), "{error}");
    put(&dir, "processor_config.json", &json!({"video_processor": {"size": {"height": 1}}}));
    assert!(opened(&dir).unwrap_err().to_string().contains("height"));
}

#[test]
fn tokens_that_config_json_leaves_out_are_found_by_name() {
    for shape in CHAT {
        let tokenizer = Tokenizer::from_dir(folder(shape)).unwrap();
        let id = |token: &str| tokenizer.token_id(token).unwrap();
        let tokens = VlmConfig::from_dir(folder(shape)).unwrap().tokens;
        assert_eq!(tokens.image, id("<IMG_CONTEXT>"), "{shape}");
        assert_eq!(tokens.marks, [id("<img>"), id("</img>")], "{shape}");
        assert!(tokens.eos.contains(&id("<|im_end|>")) && tokens.eos.len() == 2, "{shape}");
        // Without a word of generation_config.json, the end of the chat layout's turns.
        let dir = copy(shape);
        put(&dir, "generation_config.json", &json!({"_from_model_config": true}));
        assert_eq!(VlmConfig::from_dir(dir.path()).unwrap().tokens.eos, [id("<|im_end|>")]);
    }
    for shape in TRANSFORMERS {
        let tokenizer = Tokenizer::from_dir(folder(shape)).unwrap();
        let tokens = VlmConfig::from_dir(folder(shape)).unwrap().tokens;
        let marks = ["<img>", "</img>", "<video>"].map(|t| tokenizer.token_id(t).unwrap());
        assert_eq!(tokens.marks, marks, "{shape}");
    }
    // A plan has config.json alone.
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(folder(CHAT[0]).join("config.json"), dir.path().join("config.json")).unwrap();
    let config = VlmConfig::from_dir(dir.path()).unwrap();
    let processor = config.family.processor(None, &config, &ProcessorOptions::default());
    assert_eq!(processor.unwrap().image_shape(70, 33).unwrap().rows(), 12);
    put(&dir, "added_tokens.json", &json!({"<img>": 320, "</img>": 321}));
    let error = VlmConfig::from_dir(dir.path()).unwrap_err().to_string();
    assert!(error.contains("<IMG_CONTEXT>"), "{error}");
    put(&dir, "added_tokens.json", &json!({"<IMG_CONTEXT>": 92546}));
    let error = VlmConfig::from_dir(dir.path()).unwrap_err().to_string();
    assert!(error.contains("92546") && error.contains("324"), "{error}");
}

#[test]
fn the_chat_layout_is_the_named_one_unless_the_folder_marks_images_itself() {
    let text = |dir: &tempfile::TempDir| {
        let config = VlmConfig::from_dir(dir.path()).unwrap();
        let template = config.family.template(dir.path(), &config)?;
        let messages = json!([{"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "image"}]}]);
        template.render(messages.as_array().unwrap(), true, &Map::new())
    };
    let dir = copy(CHAT[0]);
    let image = "<img><IMG_CONTEXT></img>\n";
    let named = format!(
        "<s><|im_start|>system\ns<|im_end|><|im_start|>user\n{image}<|im_end|><|im_start|>assistant\n"
    );
    assert_eq!(text(&dir).unwrap(), named);
    std::fs::write(dir.path().join("chat_template.jinja"), "<IMG_CONTEXT>").unwrap();
    assert_eq!(text(&dir).unwrap(), named);
    std::fs::write(dir.path().join("chat_template.jinja"), "own <img><IMG_CONTEXT></img>").unwrap();
    assert_eq!(text(&dir).unwrap(), "own <img><IMG_CONTEXT></img>");
    std::fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    let mut config = read(dir.path().join("config.json"));
    config["template"] = json!("vicuna_v1.1");
    put(&dir, "config.json", &config);
    let error = text(&dir).unwrap_err().to_string();
    assert!(error.contains("vicuna_v1.1") && error.contains("Hermes-2"), "{error}");
}

#[test]
fn both_namings_are_read_and_given_back() {
    for shape in CHAT.iter().chain(&TRANSFORMERS) {
        let names = read(folder(shape).join("names.json"));
        let list = |key: &str| -> BTreeSet<(String, Vec<usize>)> {
            serde_json::from_value::<Vec<(String, Vec<usize>)>>(names[key].clone())
                .unwrap()
                .into_iter()
                .collect()
        };
        let config = VlmConfig::from_dir(folder(shape)).unwrap();
        let ours = parameters(&config).into_iter().map(|p| (p.name, p.shape)).collect();
        assert_eq!(list("parameters"), ours, "{shape}");
    }
    let shape = TRANSFORMERS[1];
    let (dir, out) = (copy(shape), tempfile::tempdir().unwrap());
    let published = Checkpoint::open(folder(shape).join("model.safetensors")).unwrap();
    let by_module = |name: &str| match name.strip_prefix("language_model.") {
        Some("lm_head.weight") => "lm_head.weight".to_string(),
        Some(rest) => format!("model.language_model.{}", rest.strip_prefix("model.").unwrap()),
        None => format!("model.{name}"),
    };
    let names: Vec<String> = published.names().map(str::to_string).collect();
    let renamed = |n: &String| (by_module(n), published.read(n).unwrap());
    let tensors: Vec<_> = names.iter().map(renamed).collect();
    safetensors::save(dir.path().join("model.safetensors"), &tensors, &Default::default()).unwrap();
    for (from, module) in [(folder(shape), false), (dir.path().to_path_buf(), true)] {
        let config = VlmConfig::from_dir(&from).unwrap();
        let bytes = model_bytes(&config, &Training::None, DType::F32);
        let mut arena = Arena::reserve(bytes).unwrap();
        let model = Vlm::load(&from, &Training::None, DType::F32, 0, &mut arena).unwrap();
        model.save_weights(out.path(), &arena).unwrap();
        let saved = Checkpoint::open(out.path()).unwrap();
        for name in &names {
            let written = if module { by_module(name) } else { name.clone() };
            assert_eq!(saved.read(&written).unwrap(), published.read(name).unwrap(), "{written}");
        }
    }
}

#[test]
fn new_models_have_the_promised_sizes_and_their_files_agree() {
    for (family, specials) in [("internvl_chat", 3), ("internvl", 4)] {
        let family = family_named(family).unwrap();
        let texts = (0..20).map(|i| format!("Which color is shape {i}? red"));
        let tokenizer =
            train_bpe_for(SpecialTokens::of(family.name()).unwrap(), texts, 300).unwrap();
        let ids = NewTokenizer {
            vocab_size: tokenizer.tokenizer().vocab_size(),
            id: &|token| tokenizer.special_id(token),
        };
        for (size, smallest, largest) in
            [("tiny", 1_000_000, 2_000_000), ("small", 15_000_000, 25_000_000)]
        {
            let config = VlmConfig::preset(family, size, &ids).unwrap();
            let count: usize = parameters(&config).iter().map(|p| p.len()).sum();
            assert!((smallest..largest).contains(&count), "{size}: {count}");
        }
        assert!(VlmConfig::preset(family, "huge", &ids).is_err());
        let dir = tempfile::tempdir().unwrap();
        let config = VlmConfig::preset(family, "tiny", &ids).unwrap();
        create_model(dir.path(), config, &tokenizer, 1).unwrap();
        let config = VlmConfig::from_dir(dir.path()).unwrap();
        assert_eq!(config.tokens.placeholders().len(), specials);
        assert_eq!(config.tokens.eos[0], tokenizer.special_id("<|im_end|>").unwrap());
        assert!(config.family.template(dir.path(), &config).unwrap().takes_parts());
        let options = ProcessorOptions::default();
        let processor = config.family.processor(Some(dir.path()), &config, &options).unwrap();
        let visual = processor.image_shape(224, 112).unwrap();
        assert_eq!((visual.grid_thw, visual.rows()), ([3, 8, 8], 48));
        assert_eq!(config.vision.feature_rows(visual.grid_thw), visual.rows());
    }
}
