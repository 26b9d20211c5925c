//! Pixels, sizes and weight files against Pillow, torchvision, transformers and safetensors, to the
//! bit. Expected values are hashes made by `tools/golden/image.py`; nothing is compared with a
//! tolerance here.

use grpo_rt::base::HostTensor;
use grpo_rt::io::image::pillow_resize::pillow_resize;
use grpo_rt::io::image::torch_resize::torch_resize;
use grpo_rt::io::image::{Alpha, Filter, Image, open, open_with};
use grpo_rt::io::safetensors::{Checkpoint, save, save_sharded};
use grpo_rt::model::processor::ImageBackend;
use grpo_rt::model::processor::qwen_image::{
    ImageProcessorSettings, QwenImageProcessor, smart_resize,
};
use serde_json::Value;
use std::path::PathBuf;

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/image").join(name)
}

fn expected(key: &str) -> Value {
    let text = std::fs::read(data("expected.json")).unwrap();
    serde_json::from_slice::<Value>(&text).unwrap()[key].take()
}

fn list(v: &Value) -> &Vec<Value> {
    v.as_array().unwrap()
}

fn text(v: &Value) -> &str {
    v.as_str().unwrap()
}

fn size(v: &Value) -> usize {
    usize::try_from(v.as_u64().unwrap()).unwrap()
}

/// JPEG pixels are Pillow's only with libjpeg's arithmetic.
fn comparable(file: &str) -> bool {
    cfg!(feature = "jpeg-exact") || !file.ends_with(".jpg")
}

#[test]
fn sha256_is_sha256() {
    assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

#[test]
fn decoding_equals_pillow() {
    let cases = expected("decode");
    let mut wrong = Vec::new();
    for case in list(&cases) {
        let file = text(&case["file"]);
        if !comparable(file) {
            continue;
        }
        for (alpha, key) in [(Alpha::Drop, "rgb"), (Alpha::OverWhite, "over_white")] {
            let image = open_with(data(file), alpha).unwrap();
            assert_eq!((image.width, image.height), (size(&case["width"]), size(&case["height"])));
            if sha256(&image.rgb) != text(&case[key]) {
                wrong.push(format!("{file} {key}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(list(&cases).len(), 17);
}

/// The picture that the script makes from the same formula.
fn noise(width: usize, height: usize, seed: u64) -> Image {
    let byte = |i: usize| ((i as u64 + seed).wrapping_mul(2_654_435_761) >> 13) as u8;
    Image::new(width, height, (0..width * height * 3).map(byte).collect()).unwrap()
}

#[test]
fn resizing_equals_pillow_and_torchvision() {
    let cases = expected("resize");
    let filters = [
        ("bilinear", Filter::Bilinear),
        ("bicubic", Filter::Bicubic),
        ("lanczos", Filter::Lanczos),
    ];
    let mut wrong = Vec::new();
    for case in list(&cases) {
        let (from, to) = (list(&case["from"]), list(&case["to"]));
        let image = noise(size(&from[0]), size(&from[1]), case["seed"].as_u64().unwrap());
        let (w, h) = (size(&to[0]), size(&to[1]));
        for (name, filter) in filters {
            let pillow = pillow_resize(&image, w, h, filter).unwrap();
            if sha256(&pillow.rgb) != text(&case["pillow"][name]) {
                wrong.push(format!("pillow {name} {from:?} {to:?}"));
            }
            let torch = torch_resize(&image, w, h, filter).unwrap();
            if sha256(&torch.rgb) != text(&case["torch"][name]) {
                wrong.push(format!("torch {name} {from:?} {to:?}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(list(&cases).len(), 70);
}

#[test]
fn pixel_values_equal_transformers() {
    let cases = expected("process");
    let mut wrong = Vec::new();
    for case in list(&cases) {
        let file = text(&case["file"]);
        if !comparable(file) {
            continue;
        }
        let image = open(data(file)).unwrap();
        let settings = ImageProcessorSettings::from_json(&case["config"]).unwrap();
        let fast = QwenImageProcessor::new(settings).unwrap();
        let slow = fast.clone().with_backend(ImageBackend::Pillow);
        for (processor, key) in [(fast, "torchvision"), (slow, "pil")] {
            let out = processor.process(&image).unwrap();
            let grid: Vec<usize> = list(&case["grid_thw"]).iter().map(size).collect();
            assert_eq!(out.grid_thw[..], grid, "{file} {}", case["config"]);
            assert_eq!(processor.grid_of(image.width, image.height).unwrap(), out.grid_thw);
            let shape = [out.patches.len() / out.patch_dim, out.patch_dim];
            assert_eq!(shape[..], list(&case["shape"]).iter().map(size).collect::<Vec<_>>());
            let bytes: Vec<u8> = out.patches.iter().flat_map(|v| v.to_le_bytes()).collect();
            if sha256(&bytes) != text(&case[key]["sha256"]) {
                let (have, want) = (&out.patches[..4], &case[key]["first"]);
                wrong.push(format!("{file} {key} {}: {have:?}, not {want}", case["config"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(list(&cases).len(), 33);
}

#[test]
fn smart_resize_equals_transformers() {
    let cases = expected("smart_resize");
    assert!(list(&cases).len() > 300);
    for case in list(&cases) {
        let n: Vec<usize> = list(case).iter().map(size).collect();
        let have = smart_resize(n[0], n[1], n[2], n[3] as u64, n[4] as u64).unwrap();
        assert_eq!(have, (n[5], n[6]), "{case}");
    }
}

#[test]
fn a_file_of_the_python_library_is_written_to_the_byte() {
    let theirs = Checkpoint::open(data("weights.safetensors")).unwrap();
    let names: Vec<String> = theirs.names().map(String::from).collect();
    let tensors: Vec<(String, HostTensor)> =
        names.into_iter().map(|n| (n.clone(), theirs.read(&n).unwrap())).collect();
    let (shape, values) = theirs.read_f32("b.weight").unwrap();
    assert_eq!((shape, values), (vec![2, 3], vec![0.0, 0.25, 0.5, 0.75, 1.0, 1.25]));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ours.safetensors");
    save(&path, &tensors, theirs.metadata()).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), std::fs::read(data("weights.safetensors")).unwrap());
}

#[test]
fn shards_equal_those_of_save_pretrained() {
    let case = expected("sharded");
    let names: Vec<&str> = list(&case["tensors"]).iter().map(|t| text(&t[0])).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    let tensors: Vec<(String, HostTensor)> = list(&case["tensors"])
        .iter()
        .map(|t| {
            let shape: Vec<usize> = list(&t[1]).iter().map(size).collect();
            let i = sorted.iter().position(|n| *n == text(&t[0])).unwrap();
            let value = |k: usize| ((k * 37 + i) % 101) as f32 / 64.0;
            let values = (0..shape.iter().product()).map(value).collect();
            (text(&t[0]).to_string(), HostTensor::f32(shape, values))
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    save_sharded(dir.path(), &tensors, size(&case["max_shard_bytes"])).unwrap();
    for (name, hash) in case["files"].as_object().unwrap() {
        let bytes = std::fs::read(dir.path().join(name)).unwrap();
        assert_eq!(sha256(&bytes), text(hash), "{name}");
    }
    let files = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(files, case["files"].as_object().unwrap().len());
    let back = Checkpoint::open(dir.path()).unwrap();
    for (name, t) in &tensors {
        assert_eq!(&back.read(name).unwrap(), t);
    }
}

/// SHA-256 (FIPS 180-4) in hexadecimal; the constants are computed from their definition.
fn sha256(data: &[u8]) -> String {
    let primes: Vec<u64> = (2u64..312).filter(|n| (2..*n).all(|d| n % d != 0)).take(64).collect();
    // The first 32 bits of the fractional part of the nth root, by integer search.
    let fraction = |p: u64, n: u32| {
        let (mut low, mut high) = (0u128, 1u128 << 40);
        while high - low > 1 {
            let mid = (low + high) / 2;
            if mid.pow(n) <= u128::from(p) << (32 * n) { low = mid } else { high = mid }
        }
        low as u32
    };
    let k: Vec<u32> = primes.iter().map(|&p| fraction(p, 3)).collect();
    let mut h: Vec<u32> = primes[..8].iter().map(|&p| fraction(p, 2)).collect();
    let mut message = data.to_vec();
    message.push(0x80);
    message.resize((message.len() + 8).next_multiple_of(64) - 8, 0);
    message.extend((data.len() as u64 * 8).to_be_bytes());
    for block in message.chunks_exact(64) {
        let mut w: Vec<u32> =
            block.chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]])).collect();
        for i in 16..64 {
            let (a, b) = (w[i - 15], w[i - 2]);
            let s0 = a.rotate_right(7) ^ a.rotate_right(18) ^ (a >> 3);
            let s1 = b.rotate_right(17) ^ b.rotate_right(19) ^ (b >> 10);
            w.push(w[i - 16].wrapping_add(s0).wrapping_add(w[i - 7]).wrapping_add(s1));
        }
        let mut v = h.clone();
        for i in 0..64 {
            let (a, e) = (v[0], v[4]);
            let s1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
            let choose = (e & v[5]) ^ (!e & v[6]);
            let t1 = v[7].wrapping_add(s1).wrapping_add(choose).wrapping_add(k[i]);
            let t1 = t1.wrapping_add(w[i]);
            let s0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
            let majority = (a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]);
            v.rotate_right(1);
            v[4] = v[4].wrapping_add(t1);
            v[0] = t1.wrapping_add(s0).wrapping_add(majority);
        }
        h.iter_mut().zip(v).for_each(|(h, v)| *h = h.wrapping_add(v));
    }
    h.iter().map(|x| format!("{x:08x}")).collect()
}
