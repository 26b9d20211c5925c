//! Published sizes of every family from their config.json alone: the parameters that we expect are the
//! tensors of the published checkpoints, name by name and shape by shape (`tools/golden/families/layouts.py`),
//! and `plan` gives each a plan. No weights are needed.

use grpo_rt::model::config::VlmConfig;
use grpo_rt::model::families::naming::{canonical_name, detect_naming, name_in};
use grpo_rt::model::families::parameters;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

mod program; // the program, as tests run it

/// What the issue of this program asks for at least.
const SIZES: usize = 28;

fn layouts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/layouts");
    let mut all: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    assert!(all.len() >= SIZES, "only {} sizes", all.len());
    all
}

/// Name and shape of every tensor of an index whose layers are written as ranges (`layers.{0..27}.`).
fn tensors(folder: &Path) -> BTreeMap<String, Vec<usize>> {
    let text = std::fs::read_to_string(folder.join("tensors.txt")).unwrap();
    let mut all = BTreeMap::new();
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let (name, shape) = line.rsplit_once(' ').unwrap();
        let shape: Vec<usize> = shape.split('x').map(|n| n.parse().unwrap()).collect();
        for name in expanded(name) {
            assert!(all.insert(name, shape.clone()).is_none(), "{line} is there twice");
        }
    }
    all
}

fn expanded(name: &str) -> Vec<String> {
    let Some((head, rest)) = name.split_once('{') else { return vec![name.to_string()] };
    let (range, tail) = rest.split_once('}').unwrap();
    let (first, last) = range.split_once("..").unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    (first..=last).flat_map(|i| expanded(&format!("{head}{i}{tail}"))).collect()
}

#[test]
fn every_tensor_of_the_published_checkpoints_is_expected() {
    for folder in layouts() {
        let at = folder.file_name().unwrap().display().to_string();
        let config = VlmConfig::from_path(folder.join("config.json"))
            .unwrap_or_else(|e| panic!("{at}: {e}"));
        let pairs = config.family.names();
        let published = tensors(&folder);
        let naming = detect_naming(pairs, published.keys()).unwrap();
        let ours: BTreeMap<String, Vec<usize>> = parameters(&config)
            .into_iter()
            .map(|p| (name_in(pairs, naming, &p.name), p.shape))
            .collect();
        let missing: Vec<_> = published.keys().filter(|n| !ours.contains_key(*n)).take(5).collect();
        let unknown: Vec<_> = ours.keys().filter(|n| !published.contains_key(*n)).take(5).collect();
        assert!(missing.is_empty() && unknown.is_empty(), "{at}: {missing:?} {unknown:?}");
        for (name, shape) in &published {
            let mut expected = ours[name].clone();
            if name.contains(".experts.") {
                expected.swap(1, 2); // published [experts, in, out], ours [experts, out, in]
            }
            assert_eq!(&expected, shape, "{at}: {name}");
            let canonical = canonical_name(pairs, name).unwrap();
            assert_eq!(&name_in(pairs, naming, &canonical), name, "{at}");
        }
    }
}

#[test]
fn every_published_size_is_planned() {
    for folder in layouts() {
        let config = folder.join("config.json").display().to_string();
        let line = "plan --device mi300x --use_peft --dtype bfloat16 --num_generations 4 \
            --per_device_train_batch_size 4 --max_completion_length 64 --prompt_image_size 448x448 \
            --prompt_tokens 128 --model";
        let mut command = program::program();
        let done = command.args(line.split_whitespace()).arg(&config).output().unwrap();
        let (said, failed) =
            (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{config}: {failed}");
        assert!(said.contains("\nfits: "), "{config}: {said}");
    }
}
