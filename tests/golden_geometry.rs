//! Configuration, parameter names, positions, window order and rotary tables of Qwen2.5-VL against
//! transformers (`tools/golden/qwen2_5_vl.py`). Integers and names are compared exactly; no model runs
//! here.

use grpo_rt::base::{DType, HostTensor};
use grpo_rt::model::config::VlmConfig;
use grpo_rt::model::config::keys::Keys;
use grpo_rt::model::decoder::TextRope;
use grpo_rt::model::families::naming::{
    Naming, PEFT_PREFIX, canonical_name, detect_naming, name_in,
};
use grpo_rt::model::families::qwen2_5_vl::{self as qwen, Qwen25Vl, VisionConfig};
use grpo_rt::model::families::{Family, NewTokenizer, Patching, parameters};
use grpo_rt::model::positions::{PlacedRun, PositionRule, TokenRun};
use grpo_rt::model::rope::{RopeTables, mrope_axes, rope_inv_freq};
use grpo_rt::model::spec::{ParamSpec, Part};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const MODELS: [&str; 3] = ["tied", "untied", "grouped"];

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/qwen2_5_vl").join(path)
}

fn read_json(path: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(data(path)).unwrap()).unwrap()
}

fn read_tensors(path: &str) -> BTreeMap<String, HostTensor> {
    let bytes = std::fs::read(data(path)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |view: safetensors::tensor::TensorView| {
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::BF16 => DType::BF16,
            Dtype::I32 => DType::I32,
            other => panic!("{other:?}"),
        };
        HostTensor::from_bytes(dtype, view.shape().to_vec(), view.data()).unwrap()
    };
    file.tensors().into_iter().map(|(name, view)| (name, tensor(view))).collect()
}

fn config(model: &str) -> VlmConfig {
    VlmConfig::from_dir(data(model)).unwrap()
}

/// The vision part of a configuration.
fn vision(raw: &Value, text_hidden: usize) -> VisionConfig {
    let keys = Keys::of(raw, Path::new("config.json")).unwrap();
    qwen::read_vision(&keys, text_hidden).unwrap()
}

fn vision_of(model: &str) -> VisionConfig {
    let raw = read_json(&format!("{model}/config.json"));
    vision(&raw["vision_config"], config(model).text.hidden_size)
}

/// Runs of images with these first tokens and grids in patches.
fn placed(images: &[(usize, [usize; 3])], merge: usize) -> Vec<PlacedRun> {
    let run = |[t, h, w]: [usize; 3]| TokenRun::of_grid([t, h / merge, w / merge]);
    images.iter().map(|&(start, grid)| PlacedRun { start, run: run(grid) }).collect()
}

fn ints<T: TryFrom<i64>>(value: &Value) -> Vec<T> {
    let one = |v: &Value| T::try_from(v.as_i64().unwrap()).ok().unwrap();
    value.as_array().unwrap().iter().map(one).collect()
}

fn grids(value: &Value) -> Vec<[usize; 3]> {
    value.as_array().unwrap().iter().map(|g| ints::<usize>(g).try_into().unwrap()).collect()
}

fn size(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

/// Segments as the cumulative lengths that transformers uses.
fn cumulative(segments: &[(usize, usize)]) -> Vec<usize> {
    let ends = segments.iter().map(|(start, len)| start + len);
    std::iter::once(0).chain(ends).collect()
}

#[test]
fn window_order_is_that_of_transformers() {
    let golden = read_json("geometry.json");
    let layouts = golden["layouts"].as_array().unwrap();
    assert!(layouts.len() >= 40);
    for case in layouts {
        let cfg = VisionConfig {
            patching: Patching {
                side: size(&case["patch"]),
                frames: 2,
                merge: size(&case["merge"]),
            },
            window_size: size(&case["window"]),
            ..vision_of("tied")
        };
        let layout = qwen::vision_layout(&grids(&case["grids"]), &cfg).unwrap();
        assert_eq!(layout.window_index, ints::<u32>(&case["window_index"]), "{case}");
        assert_eq!(cumulative(&layout.window_segments), ints::<usize>(&case["cu_window_seqlens"]));
        assert_eq!(cumulative(&layout.full_segments), ints::<usize>(&case["cu_seqlens"]));

        // Transformers permutes rows of units by window_index; positions go through the same gather.
        let unit = cfg.patching.merge.pow(2) as u32;
        let positions: Vec<i32> = ints(&case["position_ids"]);
        let mut patches = Vec::new();
        for &u in &layout.window_index {
            patches.extend(u * unit..(u + 1) * unit);
        }
        assert_eq!(layout.patch_order, patches);
        let gathered: Vec<[i32; 2]> = patches
            .iter()
            .map(|&p| [positions[2 * p as usize], positions[2 * p as usize + 1]])
            .collect();
        assert_eq!(layout.rope_pos, gathered);
        for (token, &place) in layout.reverse.iter().enumerate() {
            assert_eq!(layout.window_index[place as usize] as usize, token);
        }
    }
}

#[test]
fn text_positions_are_those_of_transformers() {
    let golden = read_json("geometry.json");
    for case in golden["positions"].as_array().unwrap() {
        let images: Vec<(usize, [usize; 3])> =
            ints::<usize>(&case["starts"]).into_iter().zip(grids(&case["grids"])).collect();
        let (length, runs) = (size(&case["length"]), placed(&images, size(&case["merge"])));
        let (positions, next) = PositionRule::Grid.positions(length, &runs).unwrap();
        assert_eq!(positions.concat(), ints::<i32>(&case["position_ids"]), "{case}");
        assert_eq!(i64::from(next) - length as i64, case["delta"].as_i64().unwrap());
    }
}

#[test]
fn positions_of_whole_conversations() {
    for model in MODELS {
        let cfg = config(model);
        for case in ["", "_one", "_text"] {
            let golden = read_tensors(&format!("{model}/expected{case}.safetensors"));
            let ids = golden["input_ids"].to_i64_vec().unwrap();
            let merge = cfg.vision.patching().merge;
            let mut images = Vec::new();
            let mut at = 0;
            let grids = golden.get("image_grid_thw").map(|g| g.to_i64_vec().unwrap());
            for g in grids.unwrap_or_default().chunks(3) {
                let image = i64::from(cfg.tokens.image);
                let start = at + ids[at..].iter().position(|&id| id == image).unwrap();
                assert_eq!(ids[start - 1], i64::from(cfg.tokens.marks[0]));
                let grid: [usize; 3] = [g[0] as usize, g[1] as usize, g[2] as usize];
                at = start + grid.iter().product::<usize>() / (merge * merge);
                assert_eq!(ids[at], i64::from(cfg.tokens.marks[1]));
                images.push((start, grid));
            }
            let runs = placed(&images, merge);
            let (positions, next) = cfg.positions.positions(ids.len(), &runs).unwrap();
            let delta = next - ids.len() as i32;
            let want = golden["position_ids"].to_i64_vec().unwrap();
            for (t, position) in positions.iter().enumerate() {
                for axis in 0..3 {
                    assert_eq!(i64::from(position[axis]), want[axis * ids.len() + t]);
                }
            }
            assert_eq!(i64::from(delta), golden["rope_delta"].to_i64_vec().unwrap()[0]);
        }
    }
}

/// Largest difference in units of the last place.
fn ulps(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let one =
        |(g, w): (&f32, &f32)| (g - w).abs() / (w.abs().max(f32::MIN_POSITIVE) * f32::EPSILON);
    got.iter().zip(want).map(one).fold(0.0, f32::max)
}

/// Compares a table with that of transformers: to the last place where the frequency is the same, and
/// to what one unit in the frequency's last place does to the largest angle where torch's vectorised
/// power is off by that (it depends on the machine that made the golden).
fn check_tables(got: &RopeTables, mine: &[f32], freq: &[f32], cos: &[f32], sin: &[f32]) {
    assert!(ulps(mine, freq) <= 1.0);
    let differing = mine.iter().zip(freq).filter(|(a, b)| a != b).count();
    assert!(differing * 32 <= mine.len(), "{differing} of {} frequencies differ", mine.len());
    for (got, want) in [(&got.cos, cos), (&got.sin, sin)] {
        assert_eq!(got.len(), want.len());
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            let column = i % freq.len();
            if mine[column] == freq[column] {
                assert!(ulps(&[*g], &[*w]) <= 1.0, "element {i}: {g} {w}");
            } else {
                let angle = 4096.0 * freq[column];
                assert!((g - w).abs() <= (1.0 + angle) * f32::EPSILON, "element {i}: {g} {w}");
            }
        }
    }
}

#[test]
fn rotary_tables_are_those_of_transformers() {
    let golden = read_tensors("rope.safetensors");
    let tensor = |name: String| golden[&name].to_f32_vec();
    let pos = golden["text.positions"].to_i64_vec().unwrap();
    let rows = pos.len() / 3;
    let text: Vec<[i32; 3]> =
        (0..rows).map(|t| [0, 1, 2].map(|axis| pos[axis * rows + t] as i32)).collect();
    for (head_dim, rope_theta, mrope_section) in
        [(16, 1e6, [2, 3, 3]), (20, 1e4, [2, 4, 4]), (128, 1e6, [16, 24, 24])]
    {
        let axes = mrope_axes(mrope_section);
        let tables = TextRope { axes, ..TextRope::plain(head_dim, rope_theta) }.tables(&text);
        let name = format!("text{head_dim}");
        let inv_freq = rope_inv_freq(head_dim, rope_theta);
        assert_eq!(tables.half, head_dim / 2);
        let [freq, cos, sin] =
            ["inv_freq", "cos", "sin"].map(|part| tensor(format!("{name}.{part}")));
        check_tables(&tables, &inv_freq, &freq, &cos, &sin);
    }
    let pos = golden["vision.positions"].to_i64_vec().unwrap();
    let vision: Vec<[i32; 2]> = pos.chunks(2).map(|p| [p[0] as i32, p[1] as i32]).collect();
    for head_dim in [8, 12, 16, 80] {
        let tables = RopeTables::of_grid(&vision, head_dim, 1e4);
        let name = format!("vision{head_dim}");
        let inv_freq = rope_inv_freq(head_dim / 2, 1e4);
        let [freq, cos, sin] =
            ["inv_freq", "cos", "sin"].map(|part| tensor(format!("{name}.{part}")));
        check_tables(&tables, &inv_freq, &freq, &cos, &sin);
    }
}

fn named_shapes(value: &Value) -> Vec<(String, Vec<usize>)> {
    let one = |v: &Value| (v[0].as_str().unwrap().to_string(), ints::<usize>(&v[1]));
    value.as_array().unwrap().iter().map(one).collect()
}

#[test]
fn parameters_have_the_names_and_shapes_of_transformers() {
    for model in MODELS {
        let list = parameters(&config(model));
        let names = read_json(&format!("{model}/names.json"));
        let mine = |name: &dyn Fn(&ParamSpec) -> String| -> Vec<(String, Vec<usize>)> {
            list.iter().map(|p| (name(p), p.shape.clone())).collect()
        };
        assert_eq!(mine(&|p| p.name.clone()), named_shapes(&names["parameters"]), "{model}");

        let mut on_disk = mine(&|p| name_in(Qwen25Vl.names(), Naming::Checkpoint, &p.name));
        on_disk.sort();
        let stored = read_tensors(&format!("{model}/model.safetensors"));
        assert_eq!(on_disk, stored.into_iter().map(|(n, t)| (n, t.shape)).collect::<Vec<_>>());
        assert_eq!(on_disk, named_shapes(&names["on_disk"]));
        assert_eq!(
            detect_naming(Qwen25Vl.names(), on_disk.iter().map(|p| &p.0)).unwrap(),
            Naming::Checkpoint
        );
        let canonical = list.iter().map(|p| &p.name);
        assert_eq!(detect_naming(Qwen25Vl.names(), canonical).unwrap(), Naming::Module);
        for p in &list {
            let disk = name_in(Qwen25Vl.names(), Naming::Checkpoint, &p.name);
            assert_eq!(canonical_name(Qwen25Vl.names(), &disk).as_ref(), Some(&p.name));
        }
        let has_head = list.iter().any(|p| p.part == Part::Head);
        assert_eq!(has_head, model == "untied");
    }
}

#[test]
fn sharded_files_hold_the_same_parameters() {
    let index = read_json("tied_bf16_sharded/model.safetensors.index.json");
    let map = index["weight_map"].as_object().unwrap();
    let list = parameters(&config("tied_bf16_sharded"));
    assert_eq!(map.len(), list.len());
    for p in list {
        let name = name_in(Qwen25Vl.names(), Naming::Checkpoint, &p.name);
        let file = map[&name].as_str().unwrap();
        let tensors = read_tensors(&format!("tied_bf16_sharded/{file}"));
        assert_eq!((tensors[&name].dtype(), &tensors[&name].shape), (DType::BF16, &p.shape));
    }
}

#[test]
fn adapter_keys_are_canonical_module_names() {
    let list = parameters(&config("tied"));
    let adapter = read_tensors("tied_lora/adapter_model.safetensors");
    assert_eq!(adapter.len(), 2 * 3 * 2); // A and B of three matrices in two layers
    for (key, tensor) in &adapter {
        let module = key.strip_prefix(PEFT_PREFIX).unwrap();
        let (module, is_a) = match module.strip_suffix(".lora_A.weight") {
            Some(module) => (module, true),
            None => (module.strip_suffix(".lora_B.weight").unwrap(), false),
        };
        let weight = format!("{module}.weight");
        let p = list.iter().find(|p| p.name == weight).expect(&weight);
        let want = if is_a { [3, p.shape[1]] } else { [p.shape[0], 3] };
        assert_eq!(tensor.shape, want);
    }
}

#[test]
fn both_layouts_of_config_json() {
    let new = config("tied"); // transformers 5
    assert_eq!(new.family.name(), "qwen2_5_vl");
    assert_eq!((new.text.num_heads, new.text.num_kv_heads, new.text.head_dim), (2, 1, 32));
    assert_eq!((new.text.rope.theta, &new.text.rope.axes), (1e6, &mrope_axes([4, 6, 6])));
    assert!(new.text.tie_word_embeddings);
    let v = vision_of("tied");
    assert_eq!((v.window_units(), v.head_dim()), (2, 8));
    assert_eq!((v.is_full_attention(1), v.is_full_attention(2)), (true, false));
    assert_eq!(new.tokens.eos, [295, 293]); // from generation_config.json
    assert_eq!(new.dtype, Some(DType::F32));
    assert_eq!(config("tied_bf16_sharded").dtype, Some(DType::BF16));

    let old = config("untied"); // transformers 4, as published
    assert!(old.raw.get("text_config").is_none());
    assert_eq!((old.text.hidden_size, old.text.head_dim, old.text.num_layers), (40, 20, 2));
    assert_eq!((old.text.rope.theta, &old.text.rope.axes), (1e4, &mrope_axes([2, 4, 4])));
    assert_eq!((old.text.rms_norm_eps, old.text.tie_word_embeddings), (1e-5, false));
    let v = vision_of("untied");
    assert_eq!((v.patching.side, v.window_size), (6, 24));
    assert_eq!((old.tokens.image, old.tokens.pad, old.tokens.bos), (298, Some(293), Some(293)));
}

#[test]
fn missing_keys_take_the_defaults_of_transformers() {
    let minimal = json!({"model_type": "qwen2_5_vl", "vision_config": {"out_hidden_size": 8192}});
    let cfg = VlmConfig::from_json(minimal, "config.json").unwrap();
    let t = &cfg.text;
    assert_eq!((t.hidden_size, t.num_layers, t.num_heads, t.num_kv_heads), (8192, 80, 64, 8));
    assert_eq!(
        (t.intermediate_size, t.vocab_size, &t.rope.axes),
        (29568, 152_064, &mrope_axes([16, 24, 24]))
    );
    assert_eq!((t.rms_norm_eps, t.rope.theta, t.tie_word_embeddings), (1e-5, 1e6, false));
    let v = vision(&json!({"out_hidden_size": 8192}), 8192);
    assert_eq!((v.hidden_size, v.intermediate_size, v.depth, v.num_heads), (3584, 3420, 32, 16));
    assert_eq!(
        (v.window_size, v.fullatt_block_indexes.as_slice()),
        (112, [7, 15, 23, 31].as_slice())
    );
    assert_eq!((cfg.tokens.image, cfg.tokens.eos.as_slice()), (151_655, [151_645].as_slice()));
    assert_eq!((cfg.tokens.bos, cfg.tokens.pad, cfg.dtype), (Some(151_643), None, None));
}

#[test]
fn what_cannot_run_is_an_error_with_its_key() {
    let text = |key: &str| format!("text_config.{key}");
    let cases: Vec<(&str, Value, String)> = vec![
        ("/model_type", json!("llama"), "model_type".into()),
        ("/quantization_config", json!({"bits": 4}), "quantization_config".into()),
        ("/text_config/hidden_act", json!("gelu"), text("hidden_act")),
        ("/text_config/num_attention_heads", json!(3), text("num_attention_heads")),
        ("/text_config/num_key_value_heads", json!(4), text("num_key_value_heads")),
        ("/text_config/hidden_size", json!("64"), text("hidden_size")),
        ("/text_config/vocab_size", json!(0), text("vocab_size")),
        ("/text_config/vocab_size", json!(290), "image_token_id".into()),
        ("/text_config/layer_types", json!(["sliding_attention"]), text("layer_types")),
        ("/text_config/attention_dropout", json!(0.1), text("attention_dropout")),
        ("/text_config/head_dim", json!(16), text("head_dim")),
        (
            "/text_config/rope_parameters/rope_type",
            json!("yarn"),
            text("rope_parameters.rope_type"),
        ),
        (
            "/text_config/rope_parameters/mrope_section",
            json!([4, 6, 7]),
            text("rope_parameters.mrope_section"),
        ),
        ("/vision_config/hidden_act", json!("quick_gelu"), "vision_config.hidden_act".into()),
        ("/vision_config/out_hidden_size", json!(32), "vision_config.out_hidden_size".into()),
        ("/vision_config/window_size", json!(4), "vision_config.window_size".into()),
        ("/vision_config/num_heads", json!(3), "vision_config.num_heads".into()),
        ("/dtype", json!("int4"), "dtype".into()),
        ("/text_config", json!([]), "text_config".into()),
    ];
    for (pointer, value, key) in cases {
        let mut raw = read_json("tied/config.json");
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        raw.pointer_mut(parent).unwrap()[last] = value;
        let error = VlmConfig::from_json(raw, "config.json").expect_err(pointer).to_string();
        assert!(error.contains(&format!("config.json, key `{key}`")), "{pointer}: {error}");
    }
    let mut old = read_json("untied/config.json");
    old["use_sliding_window"] = json!(true);
    old["max_window_layers"] = json!(1);
    let error = VlmConfig::from_json(old, "config.json").unwrap_err().to_string();
    assert!(error.contains("use_sliding_window"), "{error}");
    let error = VlmConfig::from_dir(data("tied_lora")).unwrap_err();
    assert!(error.hint_text().unwrap().contains("base model"));
    assert!(VlmConfig::from_dir(data("nowhere")).is_err());
}

#[test]
fn presets_have_the_promised_sizes() {
    let id = |token: &str| Ok(if token == "<|endoftext|>" { 0 } else { 1 + token.len() as u32 });
    let preset = |size, vocab_size| {
        VlmConfig::preset(&Qwen25Vl, size, &NewTokenizer { vocab_size, id: &id })
    };
    for (name, smallest, largest) in
        [("tiny", 1_000_000, 2_000_000), ("small", 15e6 as usize, 25e6 as usize)]
    {
        let cfg = preset(name, 512).unwrap();
        let count: usize = parameters(&cfg).iter().map(ParamSpec::len).sum();
        assert!((smallest..largest).contains(&count), "{name}: {count}");
        assert_eq!((cfg.tokens.image, cfg.tokens.pad), (14, Some(0)));
    }
    assert!(preset("huge", 512).is_err());
    assert!(preset("tiny", 4).is_err());
}
