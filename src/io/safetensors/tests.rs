//! Round trips of the writer and reader, and files that lie in every way we could think of. Equality
//! with the Python library's bytes is asserted by `tests/golden_image.rs`.

use super::*;
use crate::base::TensorData;
use half::{bf16, f16};

fn sample() -> Vec<(String, HostTensor)> {
    let bf = |n: usize| (0..n).map(|i| bf16::from_f32(i as f32 * 0.5)).collect();
    vec![
        ("b.weight".into(), HostTensor::f32([2, 3], vec![0.0, -1.5, 2.0, 3.0, f32::MAX, 5.0])),
        ("a.weight".into(), HostTensor::new(vec![5], TensorData::BF16(bf(5)))),
        ("c.half".into(), HostTensor::new(vec![1], TensorData::F16(vec![f16::from_f32(0.1)]))),
        ("d.double".into(), HostTensor::new(vec![], TensorData::F64(vec![0.1]))),
        ("e.ids".into(), HostTensor::i64([2], vec![-1, i64::MAX])),
        ("f.empty".into(), HostTensor::new(vec![0, 4], TensorData::U8(vec![]))),
    ]
}

fn meta() -> BTreeMap<String, String> {
    BTreeMap::from([("format".into(), "pt".into())])
}

/// A file with this header text and `data` bytes after it.
fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    let mut f = (header.len() as u64).to_le_bytes().to_vec();
    f.extend_from_slice(header.as_bytes());
    f.extend_from_slice(data);
    f
}

fn open_bytes(bytes: &[u8]) -> Result<Checkpoint> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SINGLE_FILE);
    std::fs::write(&path, bytes).unwrap();
    Checkpoint::open(&path)
}

#[test]
fn one_file_round_trips() {
    let dir = tempfile::tempdir().unwrap();
    save(dir.path().join(SINGLE_FILE), &sample(), &meta()).unwrap();
    let c = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(c.metadata(), &meta());
    assert_eq!(c.names().len(), 6);
    for (name, t) in sample() {
        assert_eq!(c.read(&name).unwrap(), t, "{name}");
        assert_eq!(c.shape(&name).unwrap(), t.shape);
        assert_eq!(c.dtype(&name).unwrap(), t.dtype());
    }
    assert_eq!(c.read_f32("a.weight").unwrap(), (vec![5], vec![0.0, 0.5, 1.0, 1.5, 2.0]));
    assert_eq!(c.read_f32("d.double").unwrap(), (vec![], vec![0.1]));
    assert!(c.read_f32("e.ids").unwrap_err().to_string().contains("I64"));
    // The reference crate reads it too.
    let bytes = std::fs::read(dir.path().join(SINGLE_FILE)).unwrap();
    let theirs = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.tensor("b.weight").unwrap().shape(), [2, 3]);
}

#[test]
fn shards_round_trip_and_replace_each_other() {
    let dir = tempfile::tempdir().unwrap();
    save_sharded(dir.path(), &sample(), 1 << 20).unwrap();
    assert!(dir.path().join(SINGLE_FILE).is_file());
    save_sharded(dir.path(), &sample(), 20).unwrap();
    assert!(!dir.path().join(SINGLE_FILE).exists());
    let c = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(c.source(), dir.path().join(INDEX_FILE));
    for (name, t) in sample() {
        assert_eq!(c.read(&name).unwrap(), t, "{name}");
    }
    let specs: Vec<_> = sample().iter().map(|(n, t)| TensorSpec::of(n.clone(), t)).collect();
    let find = |n: &str, sink: &mut Sink| {
        let tensor = sample().into_iter().find(|(m, _)| m == n).unwrap().1;
        tensor.bytes().chunks(3).try_for_each(sink)
    };
    save_sharded_with(dir.path(), &specs, 1 << 20, find).unwrap();
    let mut left: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [SINGLE_FILE]);
    let wrong = |_: &str, sink: &mut Sink| sink(&[1; 5]);
    assert!(save_sharded_with(dir.path(), &specs, 1 << 20, wrong).is_err());
    assert!(Checkpoint::open(dir.path()).unwrap().contains("a.weight"), "the old file is kept");
}

#[test]
fn missing_things_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let e = Checkpoint::open(dir.path().join("nope")).unwrap_err();
    assert_eq!(e.exit_code(), 4);
    assert!(e.to_string().contains("nope"));
    let e = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(e.contains(INDEX_FILE), "{e}");
    std::fs::write(dir.path().join(ADAPTER_FILE), b"x").unwrap();
    let e = Checkpoint::open(dir.path()).unwrap_err();
    assert!(e.hint_text().unwrap().contains("adapter"));

    save_sharded(dir.path(), &sample(), 20).unwrap();
    let c = Checkpoint::open(dir.path()).unwrap();
    let e = c.read("a.weigth").unwrap_err().to_string();
    assert!(e.contains("a.weigth") && e.contains("near names: `a.weight`"), "{e}");
    let shard = dir.path().join("model-00001-of-00003.safetensors");
    assert!(shard.is_file());
    std::fs::remove_file(&shard).unwrap();
    let e = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(e.contains("model-00001-of-00003.safetensors") && e.contains("index"), "{e}");
    // A shard that lacks what the index promises.
    let other = vec![("x".to_string(), HostTensor::f32([1], vec![1.0]))];
    save(&shard, &other, &meta()).unwrap();
    let e = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(e.contains("b.weight") && e.contains("`x`"), "{e}");
    let climbing = br#"{"weight_map": {"a": "../model.safetensors"}}"#;
    std::fs::write(dir.path().join(INDEX_FILE), climbing).unwrap();
    let e = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(e.contains("plain file name"), "{e}");
}

#[test]
fn lying_headers_are_errors() {
    let entry = |dtype: &str, shape: &str, at: &str| {
        format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{at}}}}}"#)
    };
    let two = r#"{"t":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},
                  "u":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#;
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "not a safetensors file"),
        (vec![1, 2, 3], "not a safetensors file"),
        (u64::MAX.to_le_bytes().to_vec(), "header length"),
        (raw("{}", b"")[..9].to_vec(), "truncated"),
        (raw("{\"t\":", b""), "not JSON"),
        (raw(&"[".repeat(5000), b""), "not JSON"),
        (raw("[1]", b""), "not a JSON object"),
        (raw("{}", b"stray"), "no tensor owns"),
        (raw(r#"{"__metadata__":{"a":1}}"#, b""), "metadata"),
        (raw(r#"{"t":5}"#, b""), "dtype"),
        (raw(&entry("F32", "[1]", "[0,4]"), b"abc"), "truncated"),
        (raw(&entry("F32", "[1]", "[0,3]"), b"abc"), "4 bytes for shape [1]"),
        (raw(&entry("F32", "[1]", "[4,0]"), b"abcd"), "data_offsets"),
        (raw(&entry("F32", "[1]", "[0]"), b"abcd"), "data_offsets"),
        (raw(&entry("F32", "[-1]", "[0,4]"), b"abcd"), "shape"),
        (raw(&entry("F32", "[1.5]", "[0,4]"), b"abcd"), "shape"),
        (raw(&entry("F32", "[1]", "[2,6]"), b"abcdef"), "gap"),
        (raw(&entry("U8", "[4294967296,4294967296,2]", "[0,0]"), b""), "data_offsets"),
        (
            raw(&entry("U8", "[18446744073709551615]", "[0,18446744073709551615]"), b""),
            "data_offsets",
        ),
        (raw(&entry("ODD", "[1]", "[0,18446744073709551615]"), b""), "truncated"),
        (raw(two, b"abc"), "overlap"),
    ];
    for (bytes, wanted) in cases {
        let e = open_bytes(&bytes).unwrap_err().to_string();
        assert!(e.contains(wanted) && e.contains(SINGLE_FILE), "wanted {wanted:?} in\n{e}");
    }
}

#[test]
fn unknown_element_types_fail_only_when_they_are_read() {
    let header = r#"{"q":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]},
                     "w":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}"#;
    let c = open_bytes(&raw(header, b"abc")).unwrap();
    assert_eq!(c.read("w").unwrap(), HostTensor::new(vec![1], TensorData::U8(vec![b'c'])));
    let e = c.read("q").unwrap_err().to_string();
    assert!(e.contains("F8_E4M3") && e.contains("tensor `q`"), "{e}");
}

#[test]
fn names_must_be_unique() {
    let dir = tempfile::tempdir().unwrap();
    let t = HostTensor::f32([1], vec![1.0]);
    let twice = [("a".to_string(), t.clone()), ("a".to_string(), t)];
    let e = save(dir.path().join("x.safetensors"), &twice, &meta()).unwrap_err();
    assert!(e.to_string().contains("tensor `a`"));
}

proptest::proptest! {
    #[test]
    fn random_damage_never_panics(at in 0usize..200, byte in 0u8..=255, cut in 0usize..300) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SINGLE_FILE);
        save(&path, &sample(), &meta()).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(bytes.len().saturating_sub(cut));
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(c) = Checkpoint::open(&path) {
            for name in c.names() {
                let _ = c.read(name);
            }
        }
    }
}
