//! Writing safetensors files byte for byte as the reference library does (tensors sorted by element
//! type, then name; header padded to 8 bytes), and shards with an index as transformers does. Every
//! file appears complete or not at all; nothing is held beside the caller's own tensors.

use super::{INDEX_FILE, SINGLE_FILE};
use crate::base::{DType, Error, HostTensor, Result};
use crate::io::atomic::{write_atomic, write_atomic_with};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::Path;

/// What is known of a tensor before its elements are at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in the checkpoint.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// The description of `tensor` under `name`.
    pub fn of(name: impl Into<String>, tensor: &HostTensor) -> Self {
        TensorSpec { name: name.into(), dtype: tensor.dtype(), shape: tensor.shape.clone() }
    }
    /// Size of the elements in bytes.
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }
}

/// Writes tensors and metadata to one file.
///
/// # Errors
/// If a name occurs twice or is `__metadata__`, or the file cannot be written.
pub fn save(
    path: impl AsRef<Path>,
    tensors: &[(String, HostTensor)],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let specs: Vec<TensorSpec> = tensors.iter().map(|(n, t)| TensorSpec::of(n, t)).collect();
    check_names(path.as_ref(), &specs)?;
    let order: Vec<usize> = (0..specs.len()).collect();
    write_file(path.as_ref(), &specs, order, metadata, &mut |i, sink| sink(tensors[i].1.bytes()))
}

/// [`save`] for tensors whose bytes are handed over piece by piece: `fetch` gets each name once, and
/// somebody to give the bytes to.
///
/// # Errors
/// As [`save`]; what `fetch` returns; or of kind internal if it gives another number of bytes than
/// was announced.
pub fn save_with(
    path: impl AsRef<Path>,
    specs: &[TensorSpec],
    metadata: &BTreeMap<String, String>,
    mut fetch: impl FnMut(&str, &mut Sink) -> Result<()>,
) -> Result<()> {
    check_names(path.as_ref(), specs)?;
    let order: Vec<usize> = (0..specs.len()).collect();
    let mut fetch = |i: usize, sink: &mut Sink| fetch(&specs[i].name, sink);
    write_file(path.as_ref(), specs, order, metadata, &mut fetch)
}

/// Writes a checkpoint to the existing folder `dir`: `model.safetensors` if all tensors fit
/// `max_shard_bytes`, otherwise `model-00001-of-0000N.safetensors` and the index. Tensors stay in
/// the given order when they are split, as in transformers. Weight files of an earlier save in the
/// folder that do not belong to this one are removed at the end.
///
/// # Errors
/// As [`save`].
pub fn save_sharded(
    dir: impl AsRef<Path>,
    tensors: &[(String, HostTensor)],
    max_shard_bytes: usize,
) -> Result<()> {
    let specs: Vec<TensorSpec> = tensors.iter().map(|(n, t)| TensorSpec::of(n, t)).collect();
    save_by(dir.as_ref(), &specs, max_shard_bytes, &mut |i, sink| sink(tensors[i].1.bytes()))
}

/// [`save_sharded`] for tensors whose bytes are handed over piece by piece, as in [`save_with`].
///
/// # Errors
/// As [`save_with`].
pub fn save_sharded_with(
    dir: impl AsRef<Path>,
    specs: &[TensorSpec],
    max_shard_bytes: usize,
    mut fetch: impl FnMut(&str, &mut Sink) -> Result<()>,
) -> Result<()> {
    let mut fetch = |i: usize, sink: &mut Sink| fetch(&specs[i].name, sink);
    save_by(dir.as_ref(), specs, max_shard_bytes, &mut fetch)
}

/// Takes the next bytes of a tensor.
pub type Sink<'s> = dyn FnMut(&[u8]) -> Result<()> + 's;

type Fetch<'f> = &'f mut dyn FnMut(usize, &mut Sink) -> Result<()>;

fn save_by(dir: &Path, specs: &[TensorSpec], max_bytes: usize, fetch: Fetch) -> Result<()> {
    check_names(dir, specs)?;
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    let shards = split(specs, max_bytes);
    let n = shards.len();
    if n <= 1 {
        let order = shards.into_iter().flatten().collect();
        write_file(&dir.join(SINGLE_FILE), specs, order, &metadata, fetch)?;
        return remove_stale(dir, &HashSet::from([SINGLE_FILE.to_string()]));
    }
    let mut weight_map = BTreeMap::new();
    let mut keep = HashSet::from([INDEX_FILE.to_string()]);
    for (i, shard) in shards.into_iter().enumerate() {
        let file = format!("model-{:05}-of-{n:05}.safetensors", i + 1);
        for &t in &shard {
            weight_map.insert(specs[t].name.clone(), Value::from(file.as_str()));
        }
        write_file(&dir.join(&file), specs, shard, &metadata, fetch)?;
        keep.insert(file);
    }
    let elements: usize = specs.iter().map(|s| s.shape.iter().product::<usize>()).sum();
    let bytes: usize = specs.iter().map(TensorSpec::bytes).sum();
    // Python's json.dumps(indent=2, sort_keys=True), which serde_json's pretty form equals here.
    let index = json!({
        "metadata": { "total_parameters": elements, "total_size": bytes },
        "weight_map": weight_map.into_iter().collect::<Map<String, Value>>(),
    });
    let text = serde_json::to_string_pretty(&index)
        .map_err(|e| Error::internal(format!("cannot write the index: {e}")))?;
    write_atomic(dir.join(INDEX_FILE), (text + "\n").as_bytes())?;
    remove_stale(dir, &keep)
}

/// Which tensors go into which shard: `split_torch_state_dict_into_shards` of huggingface_hub. A
/// tensor above the limit gets a shard of its own, which is closed before the one being filled.
fn split(specs: &[TensorSpec], max_bytes: usize) -> Vec<Vec<usize>> {
    let mut shards = Vec::new();
    let (mut current, mut size) = (Vec::new(), 0usize);
    for (i, spec) in specs.iter().enumerate() {
        let bytes = spec.bytes();
        if bytes > max_bytes {
            shards.push(vec![i]);
            continue;
        }
        if size + bytes > max_bytes {
            shards.push(std::mem::take(&mut current));
            size = 0;
        }
        current.push(i);
        size += bytes;
    }
    if !current.is_empty() {
        shards.push(current);
    }
    shards
}

/// Rank of an element type in the reference library's sort (its enum order, larger first).
fn sort_rank(dtype: DType) -> u8 {
    match dtype {
        DType::I64 => 0,
        DType::F64 => 1,
        DType::F32 => 2,
        DType::I32 => 3,
        DType::BF16 => 4,
        DType::F16 => 5,
        DType::U8 => 6,
    }
}

fn write_file(
    path: &Path,
    specs: &[TensorSpec],
    mut order: Vec<usize>,
    metadata: &BTreeMap<String, String>,
    fetch: Fetch,
) -> Result<()> {
    order.sort_by_key(|&i| (sort_rank(specs[i].dtype), &specs[i].name));
    let header = header_bytes(specs, &order, metadata)?;
    let fail = |e: std::io::Error| Error::io("cannot write the weight file", path, &e);
    write_atomic_with(path, |w| {
        w.write_all(&(header.len() as u64).to_le_bytes()).map_err(fail)?;
        w.write_all(&header).map_err(fail)?;
        for &i in &order {
            let mut written = 0;
            fetch(i, &mut |bytes| {
                written += bytes.len();
                w.write_all(bytes).map_err(fail)
            })?;
            if written != specs[i].bytes() {
                return Err(Error::internal("a tensor is not what was announced")
                    .file(path)
                    .tensor(&specs[i].name)
                    .expected(format!("{} bytes", specs[i].bytes()))
                    .found(format!("{written} bytes")));
            }
        }
        Ok(())
    })
}

fn header_bytes(
    specs: &[TensorSpec],
    order: &[usize],
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), json!(metadata));
    }
    let mut at = 0usize;
    for &i in order {
        let s = &specs[i];
        let end = at + s.bytes();
        let entry = json!({
            "dtype": s.dtype.safetensors_name(), "shape": s.shape, "data_offsets": [at, end],
        });
        header.insert(s.name.clone(), entry);
        at = end;
    }
    let mut text = serde_json::to_vec(&Value::Object(header))
        .map_err(|e| Error::internal(format!("cannot write the header: {e}")))?;
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok(text)
}

fn check_names(path: &Path, specs: &[TensorSpec]) -> Result<()> {
    let mut seen = HashSet::new();
    for s in specs {
        if s.name == "__metadata__" || !seen.insert(&s.name) {
            return Err(Error::data("a checkpoint cannot hold two tensors of one name")
                .file(path)
                .tensor(&s.name));
        }
    }
    Ok(())
}

/// Removes `model*.safetensors` and the index of an earlier save, except what is in `keep`.
fn remove_stale(dir: &Path, keep: &HashSet<String>) -> Result<()> {
    let fail = |e: std::io::Error| Error::io("cannot remove old weight files", dir, &e);
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name().to_string_lossy().into_owned();
        let ours = name == SINGLE_FILE || name == INDEX_FILE || is_shard_name(&name);
        if ours && !keep.contains(&name) {
            std::fs::remove_file(dir.join(&name)).map_err(fail)?;
        }
    }
    Ok(())
}

/// True for `model-00001-of-00002.safetensors` and nothing else.
fn is_shard_name(name: &str) -> bool {
    let middle = name.strip_prefix("model-").and_then(|n| n.strip_suffix(".safetensors"));
    let number = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
    middle.and_then(|m| m.split_once("-of-")).is_some_and(|(a, b)| number(a) && number(b))
}
