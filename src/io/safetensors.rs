//! Weights in safetensors files, one file or shards with an index: opened as a memory map, read
//! tensor by tensor, written as transformers writes them (see `save`). A hostile or truncated file
//! is an error that names file and tensor, never a panic, and nothing is copied before it is asked
//! for. Format: <https://github.com/huggingface/safetensors#format>.

mod header;
mod save;

pub use save::{Sink, TensorSpec, save, save_sharded, save_sharded_with, save_with};

use crate::base::{DType, Error, HostTensor, Result};
use memmap2::Mmap;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Name of an unsharded weight file.
pub const SINGLE_FILE: &str = "model.safetensors";
/// Name of the index of a sharded checkpoint.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
/// Name of a PEFT adapter's weight file.
pub const ADAPTER_FILE: &str = "adapter_model.safetensors";

/// The tensors of a model or adapter on disk, memory-mapped.
#[derive(Debug)]
pub struct Checkpoint {
    source: PathBuf,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Place>,
    metadata: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    map: Mmap,
}

/// Where a tensor lies: shard, and what its header said (offsets made absolute and checked).
#[derive(Debug, Clone)]
struct Place {
    shard: usize,
    info: header::TensorInfo,
}

impl Checkpoint {
    /// Opens a folder (`model.safetensors`, or else `model.safetensors.index.json` with its
    /// shards), or one `.safetensors` or `.index.json` file.
    ///
    /// # Errors
    /// If a file is missing, truncated or has a header that does not fit it; if the index names a
    /// shard or tensor that is not there.
    pub fn open(dir_or_file: impl AsRef<Path>) -> Result<Checkpoint> {
        let path = dir_or_file.as_ref();
        let meta = std::fs::metadata(path)
            .map_err(|e| Error::io("cannot open the checkpoint", path, &e))
            .map_err(|e| e.hint("the file was not copied with the others; fetch it again"))?;
        let file = if meta.is_dir() { find_in_dir(path)? } else { path.to_path_buf() };
        if file.to_string_lossy().ends_with(".index.json") {
            return Self::open_index(&file);
        }
        let mut ckpt = Checkpoint::empty(&file);
        let header = ckpt.add_shard(&file)?;
        ckpt.metadata = header.metadata;
        for (name, info) in header.tensors {
            ckpt.tensors.insert(name, Place { shard: 0, info });
        }
        Ok(ckpt)
    }

    fn empty(source: &Path) -> Checkpoint {
        Checkpoint {
            source: source.to_path_buf(),
            shards: Vec::new(),
            tensors: BTreeMap::new(),
            metadata: BTreeMap::new(),
        }
    }

    fn open_index(file: &Path) -> Result<Checkpoint> {
        let weight_map = header::read_index(file)?;
        let mut ckpt = Checkpoint::empty(file);
        let mut opened: BTreeMap<String, (usize, BTreeMap<String, header::TensorInfo>)> =
            BTreeMap::new();
        for (name, shard_name) in weight_map {
            if !opened.contains_key(&shard_name) {
                let shard_path = file.with_file_name(&shard_name);
                let n = ckpt.shards.len();
                let header = ckpt.add_shard(&shard_path).map_err(|e| {
                    e.at(format!("listed in {}", file.display()))
                        .hint("download or copy the shard again; all shards must be complete")
                })?;
                ckpt.metadata.extend(header.metadata);
                opened.insert(shard_name.clone(), (n, header.tensors.into_iter().collect()));
            }
            let (shard, tensors) = &opened[&shard_name];
            let info = tensors.get(&name).cloned().ok_or_else(|| {
                Error::data("the index names a tensor that its shard does not have")
                    .file(&ckpt.shards[*shard].path)
                    .tensor(&name)
                    .hint(near_hint(&name, tensors.keys()))
            })?;
            ckpt.tensors.insert(name, Place { shard: *shard, info });
        }
        Ok(ckpt)
    }

    fn add_shard(&mut self, path: &Path) -> Result<header::Header> {
        let fail = |e: std::io::Error| Error::io("cannot open the weight file", path, &e);
        let file = File::open(path).map_err(fail)?;
        let len = file.metadata().map_err(fail)?.len();
        if len < 8 {
            return Err(Error::data("the weight file is not a safetensors file")
                .file(path)
                .expected("at least the 8 bytes of the header's length")
                .found(format!("{len} bytes"))
                .hint("the file was not downloaded or copied completely; fetch it again"));
        }
        // SAFETY: the map is read-only and private to this struct. Its bytes may change if another
        // process writes into the file while it is open; every byte pattern is valid for the
        // element types that are copied out of it, and offsets are checked against the length once
        // mapped, so the worst that a concurrent writer causes is wrong numbers, or SIGBUS if it
        // truncates the file. That risk is the price of reading weights without a second copy.
        let map = unsafe { Mmap::map(&file) }.map_err(fail)?;
        let header = header::parse(&map).map_err(|e| e.file(path))?;
        self.shards.push(Shard { path: path.to_path_buf(), map });
        Ok(header)
    }

    /// The file that was opened: the weight file or the index.
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// True if there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Sizes of a tensor, outermost first.
    ///
    /// # Errors
    /// If there is no such tensor; the hint lists near names.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.place(name)?.info.shape)
    }

    /// Element type of a tensor.
    ///
    /// # Errors
    /// If there is no such tensor or this program has no such element type (for example `F8_E4M3`).
    pub fn dtype(&self, name: &str) -> Result<DType> {
        let place = self.place(name)?;
        const SUPPORTED: [DType; 7] =
            [DType::F64, DType::F32, DType::BF16, DType::F16, DType::I64, DType::I32, DType::U8];
        SUPPORTED.into_iter().find(|d| d.safetensors_name() == place.info.dtype).ok_or_else(|| {
            self.tensor_error("the tensor's element type is not supported", name)
                .expected("F64, F32, BF16, F16, I64, I32 or U8")
                .found(&place.info.dtype)
                .hint("convert the checkpoint to bfloat16 or float32 first")
        })
    }

    /// Raw little-endian bytes of a tensor, in the map.
    ///
    /// # Errors
    /// If there is no such tensor.
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        let place = self.place(name)?;
        Ok(&self.shards[place.shard].map[place.info.begin..place.info.end])
    }

    /// Copies a tensor out of the file, in the element type of the file.
    ///
    /// # Errors
    /// As [`Checkpoint::dtype`].
    pub fn read(&self, name: &str) -> Result<HostTensor> {
        let dtype = self.dtype(name)?;
        HostTensor::from_bytes(dtype, self.shape(name)?.to_vec(), self.bytes(name)?)
            .map_err(|e| e.file(&self.shards[self.tensors[name].shard].path).tensor(name))
    }

    /// Shape and elements of a tensor as singles; F64 is rounded, BF16 and F16 are exact.
    ///
    /// # Errors
    /// As [`Checkpoint::dtype`], or if the tensor has an integer element type.
    pub fn read_f32(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let dtype = self.dtype(name)?;
        if matches!(dtype, DType::I64 | DType::I32 | DType::U8) {
            return Err(self
                .tensor_error("the tensor does not hold floating-point numbers", name)
                .expected("F32, BF16, F16 or F64")
                .found(dtype.safetensors_name()));
        }
        let t = self.read(name)?;
        Ok(match t.data {
            crate::base::TensorData::F32(v) => (t.shape, v),
            _ => {
                let v = t.to_f32_vec();
                (t.shape, v)
            }
        })
    }

    /// The `__metadata__` strings, of all shards together.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Sum of the sizes of all tensors in bytes.
    pub fn total_bytes(&self) -> usize {
        self.tensors.values().map(|p| p.info.end - p.info.begin).sum()
    }

    fn place(&self, name: &str) -> Result<&Place> {
        self.tensors.get(name).ok_or_else(|| {
            Error::data("the checkpoint lacks a tensor")
                .file(&self.source)
                .tensor(name)
                .hint(near_hint(name, self.tensors.keys()))
        })
    }

    fn tensor_error(&self, what: &str, name: &str) -> Error {
        let e = Error::data(what);
        match self.tensors.get(name) {
            Some(p) => e.file(&self.shards[p.shard].path).tensor(name),
            None => e.file(&self.source).tensor(name),
        }
    }
}

fn find_in_dir(dir: &Path) -> Result<PathBuf> {
    for name in [SINGLE_FILE, INDEX_FILE] {
        let path = dir.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    let error = Error::data("the folder has no weights")
        .file(dir)
        .expected(format!("{SINGLE_FILE} or {INDEX_FILE}"));
    Err(if dir.join(ADAPTER_FILE).is_file() {
        error
            .found(ADAPTER_FILE)
            .hint("this is an adapter; give its base model as the model and this as the adapter")
    } else if dir.join("pytorch_model.bin").is_file() {
        error
            .found("pytorch_model.bin")
            .hint("pickled weights are not read; save the model again with safe_serialization=True")
    } else {
        error.hint("give the folder that holds config.json and the safetensors files")
    })
}

/// Names that a reader may have meant: the three with the smallest edit distance.
fn near_hint<'a>(wanted: &str, names: impl Iterator<Item = &'a String>) -> String {
    let mut near: Vec<(usize, &String)> = names.map(|n| (edit_distance(wanted, n), n)).collect();
    near.sort();
    let near: Vec<String> = near.iter().take(3).map(|(_, n)| format!("`{n}`")).collect();
    match near.len() {
        0 => "the file has no tensors at all".into(),
        _ => format!("near names: {}", near.join(", ")),
    }
}

fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, &x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let swap = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = swap.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
