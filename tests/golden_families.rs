//! Every family against its reference implementation (`tools/golden/families`): token ids and positions
//! exactly, pixel values exactly (Pillow's arithmetic) or within one level of 255 (torchvision's),
//! logits within 1e-4, the gradient of every parameter within 1e-3, relative to the largest element of
//! each tensor.

use grpo_rt::base::{DType, HostTensor, Tolerance};
use grpo_rt::io::safetensors::Checkpoint;
use grpo_rt::io::text::Tokenizer;
use grpo_rt::model::config::VlmConfig;
use grpo_rt::model::families::naming::{Naming, name_in};
use grpo_rt::model::families::parameters;
use grpo_rt::model::processor::{ImageBackend, ProcessorOptions};
use grpo_rt::settings::{ModelSettings, TraceSettings, Trained};
use grpo_rt::train::trace::trace;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The folders; one without a line here fails `every_folder_is_compared`.
const FOLDERS: &[&str] = &[
    "qwen2_vl/tied",
    "qwen2_vl/untied",
    "qwen3_vl/tied",
    "qwen3_vl/untied",
    "qwen3_vl_moe/sparse",
    "qwen3_vl_moe/saved",
    "internvl/qwen2",
    "internvl/qwen3",
    "internvl_chat/internlm2",
    "internvl_chat/qwen2",
    "internvl_chat/qwen3",
    "glm4v/tied",
    "glm4v/untied",
    "glm4v_9b/published",
    "glm4v_9b/converted",
    "qwen2_5_vl_video/windows",
];

/// Families whose reference has other tokens than ours in the places of features, and those tokens. No
/// model reads them there.
const OTHER_PLACEHOLDERS: &[(&str, &[&str])] =
    &[("glm4v_9b", &["<|begin_of_image|>", "<|endoftext|>", "<|end_of_image|>"])];

type Tensors = BTreeMap<String, HostTensor>;

fn families() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/families")
}

/// Our trace of a case.
fn ours(folder: &Path, case: &str, grad: bool, backend: ImageBackend) -> Tensors {
    let processor = ProcessorOptions { backend: Some(backend), ..ProcessorOptions::default() };
    let settings = TraceSettings {
        model: ModelSettings {
            path: folder.to_path_buf(),
            dtype: DType::F32,
            adapter: None,
            trained: Trained::Nothing,
            processor,
            video: Default::default(),
            max_shard_bytes: 1 << 30,
        },
        messages: folder.join(format!("messages{case}.json")),
        grad,
        out: PathBuf::new(),
        threads: None,
        quiet: true,
    };
    trace(&settings)
        .unwrap_or_else(|e| panic!("{}{case}: {e}", folder.display()))
        .into_iter()
        .collect()
}

fn wide(t: &HostTensor) -> Vec<f64> {
    t.to_f32_vec().into_iter().map(f64::from).collect()
}

/// Pixels as rows of patches: those of tiles `[N,3,H,W]` are cut into patches first, row by row.
fn patch_rows(t: &HostTensor, patch_dim: usize) -> Vec<f32> {
    let values = t.to_f32_vec();
    let &[tiles, channels, height, width] = t.shape.as_slice() else { return values };
    let side = (patch_dim / channels).isqrt();
    let mut out = Vec::with_capacity(values.len());
    for tile in 0..tiles {
        for (top, left) in
            (0..height).step_by(side).flat_map(|y| (0..width).step_by(side).map(move |x| (y, x)))
        {
            for row in (0..channels * side).map(|r| (r / side, top + r % side)) {
                let at = ((tile * channels + row.0) * height + row.1) * width + left;
                out.extend(&values[at..at + side]);
            }
        }
    }
    out
}

/// Our pixels beside those of `name`: a golden of tiles has those of images and of videos in one tensor
/// (images come first in these chats).
fn pixels_like(ours: &Tensors, name: &str, want: &HostTensor) -> HostTensor {
    let both = ["pixel_values", "pixel_values_videos"];
    let tiles = want.shape.len() == 4;
    let of = both.iter().filter(|n| tiles || **n == name);
    let parts: Vec<&HostTensor> = of.filter_map(|n| ours.get(*n)).collect();
    let columns = parts[0].shape[1];
    let values: Vec<f32> = parts.iter().flat_map(|p| p.as_f32().unwrap()).copied().collect();
    HostTensor::f32([values.len() / columns, columns], values)
}

fn check_pixels(at: &str, got: &HostTensor, want: &HostTensor, exact: bool) {
    let (have, want) = (got.as_f32().unwrap(), patch_rows(want, got.shape[1]));
    assert_eq!(have.len(), want.len(), "{at}");
    if exact {
        assert!(have == want, "{at}: pixel values differ");
        return;
    }
    // One level of 255, divided by the smallest deviation that a processor has.
    let level = 1.0 / 255.0 / 0.22 + 1e-5;
    let worst = have.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= level, "{at}: {worst}");
}

/// Token ids are equal but where ours is the placeholder of a family with others.
fn check_ids(at: &str, folder: &Path, config: &VlmConfig, got: &HostTensor, want: &HostTensor) {
    let tokenizer = Tokenizer::from_dir(folder).unwrap();
    let ids = |t: &HostTensor| t.to_i64_vec().unwrap().into_iter().map(|i| i as u32).collect();
    let (got, want): (Vec<u32>, Vec<u32>) = (ids(got), ids(want));
    let entry = OTHER_PLACEHOLDERS.iter().find(|(family, _)| *family == config.family.name());
    let others: Vec<u32> = entry.map_or(Vec::new(), |(_, tokens)| {
        tokens.iter().map(|t| tokenizer.token_id(t).unwrap()).collect()
    });
    assert_eq!(got.len(), want.len(), "{at}");
    for (place, (got, want)) in got.iter().zip(&want).enumerate() {
        let stands_in = *got == config.tokens.image && others.contains(want);
        assert!(got == want || stands_in, "{at}: token {place} is {got}, not {want}");
    }
}

/// Compares everything that a case's golden has; returns how many gradients that were.
fn compare(folder: &Path, case: &str) -> BTreeSet<String> {
    let golden = Checkpoint::open(folder.join(format!("expected{case}.safetensors"))).unwrap();
    let grad = golden.names().any(|n| n.starts_with("grad."));
    let ours = ours(folder, case, grad, ImageBackend::Pillow);
    let config = VlmConfig::from_dir(folder).unwrap();
    let mut gradients = BTreeSet::new();
    let mut worst = BTreeMap::new();
    let mut note = |what: &'static str, error: f64| {
        let w = worst.entry(what).or_insert(0.0f64);
        *w = w.max(error);
    };
    for name in golden.names() {
        let want = golden.read(name).unwrap();
        let flat = wide(&want);
        let at = format!("{}{case} {name}", folder.display());
        let get = |name: &str| ours.get(name).unwrap_or_else(|| panic!("{at}: we have no {name}"));
        let close = |got: &[f64], tolerance: Tolerance| tolerance.check(&at, got, &flat).unwrap();
        match name {
            "input_ids" => check_ids(&at, folder, &config, get(name), &want),
            "position_ids" | "image_grid_thw" | "video_grid_thw" => {
                assert_eq!(get(name).to_i64_vec().unwrap(), want.to_i64_vec().unwrap(), "{at}");
            }
            "image_num_patches" => {
                let frames = |name: &str| -> Vec<i64> {
                    let grids = ours.get(name).map(|g| g.to_i64_vec().unwrap());
                    grids.iter().flatten().step_by(3).copied().collect()
                };
                let mut tiles = frames("image_grid_thw");
                // InternVL's own code counts each frame of a video as an image of one tile.
                let single: i64 = frames("video_grid_thw").iter().sum();
                if want.shape[0] > tiles.len() {
                    tiles.extend(std::iter::repeat_n(1, single as usize));
                }
                assert_eq!(tiles, want.to_i64_vec().unwrap(), "{at}");
            }
            "pixel_values" | "pixel_values_videos" => {
                check_pixels(&at, &pixels_like(&ours, name, &want), &want, true);
            }
            "pixel_values_fast" => {
                let fast = self::ours(folder, case, false, ImageBackend::Torchvision);
                check_pixels(&at, &fast["pixel_values"], &want, false);
            }
            "image_embeds" | "deepstack.0" | "deepstack.1" => {
                close(&wide(get(name)), Tolerance::rel(1e-4));
            }
            "logits" => {
                note("logits", close(&wide(get(name)), Tolerance::rel(1e-4)));
            }
            "logits_last" => {
                let all = wide(get("logits"));
                note("logits", close(&all[all.len() - flat.len()..], Tolerance::rel(1e-4)));
            }
            "loss" if grad => {
                close(&wide(get(name)), Tolerance::rel(1e-5));
            }
            _ => {
                let Some(parameter) = name.strip_prefix("grad.") else { continue };
                let disk = name_in(config.family.names(), Naming::Checkpoint, parameter);
                let found = [parameter, &disk].iter().find_map(|n| ours.get(&format!("grad.{n}")));
                let got = wide(found.unwrap_or_else(|| panic!("{at}: no gradient")));
                // A gradient that is 0 by symmetry (key biases) is rounding noise on both sides.
                let error = close(&got, Tolerance { abs: 1e-6, rel: 1e-3 });
                if flat.iter().any(|x| x.abs() > 1e-6) {
                    note("gradients", error);
                }
                gradients.insert(parameter.to_string());
            }
        }
    }
    println!("{}{case}: largest relative differences {worst:?}", folder.display());
    gradients
}

fn cases(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name());
    let mut cases: Vec<String> = names
        .filter_map(|n| {
            let name = n.to_str()?.strip_prefix("expected")?;
            Some(name.strip_suffix(".safetensors")?.to_string())
        })
        .collect();
    cases.sort();
    cases
}

#[test]
fn logits_and_every_gradient_are_those_of_the_reference() {
    for folder in FOLDERS {
        let path = families().join(folder);
        let mut gradients = BTreeSet::new();
        for case in cases(&path) {
            gradients.extend(compare(&path, &case));
        }
        let config = VlmConfig::from_dir(&path).unwrap();
        let missing: Vec<String> = parameters(&config)
            .into_iter()
            .map(|p| p.name)
            .filter(|n| !gradients.contains(n))
            .collect();
        assert!(missing.is_empty(), "{folder}: no gradient was compared of {missing:?}");
    }
}

#[test]
fn every_folder_is_compared() {
    for family in std::fs::read_dir(families()).unwrap().map(|e| e.unwrap().path()) {
        for shape in std::fs::read_dir(&family).unwrap().map(|e| e.unwrap().path()) {
            let name = shape.strip_prefix(families()).unwrap().display().to_string();
            assert!(FOLDERS.contains(&name.as_str()), "{name} is compared by no test");
        }
    }
}
