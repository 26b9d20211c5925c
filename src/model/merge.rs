//! An adapter made part of its base model: `W + (alpha / r) B A` (Hu et al. 2021, arXiv 2106.09685),
//! computed in single precision and rounded once, tensor by tensor from the mapped files to the new
//! ones. Holds a block of rows at a time; never loads a model.

use crate::base::{DType, Error, Result};
use crate::io::safetensors::{ADAPTER_FILE, Checkpoint, Sink, TensorSpec, save_sharded_with};
use crate::model::companions;
use crate::model::config::VlmConfig;
use crate::model::families::naming::{Naming, PEFT_PREFIX, canonical_name, detect_naming, name_in};
use crate::model::families::parameters;
use crate::model::lora::LoraConfig;
use crate::model::spec::ParamSpec;
use half::{bf16, f16};
use rayon::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Elements that are in memory at a time.
const BLOCK: usize = 1 << 22;

/// What is merged into what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergeInput {
    /// Folder of the base model.
    pub base: PathBuf,
    /// Folder of the adapter.
    pub adapter: PathBuf,
    /// The model that the adapter says it was trained on, if that is a folder of this machine.
    pub trained_on: Option<PathBuf>,
    /// Type of the new floating-point tensors; `None` keeps each one's.
    pub dtype: Option<DType>,
    /// Most bytes of a file of weights.
    pub max_shard_bytes: usize,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// Linear layers that the adapter changed.
    pub layers: usize,
    /// Tensors of the new model.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// The factors of one layer, widened.
struct Factors {
    /// `[r, inputs]`.
    a: Vec<f32>,
    /// `[outputs, r]`.
    b: Vec<f32>,
    rank: usize,
    scale: f32,
}

/// Writes the merged model to the existing folder `out`: weights under the names of the base, and
/// everything beside them.
///
/// # Errors
/// If base or adapter cannot be read, the adapter is of another model (the tensor is named), or a file
/// cannot be written.
pub fn merge(input: &MergeInput, out: &Path) -> Result<Merged> {
    let config = VlmConfig::from_dir(&input.base)?;
    let lora = LoraConfig::from_dir(&input.adapter)?;
    if let Some(other) = &input.trained_on {
        check_base(&config, &input.base, other, &input.adapter)?;
    }
    let base = Checkpoint::open(&input.base)?;
    let pairs = config.family.names();
    let naming = detect_naming(pairs, base.names()).map_err(|e| e.file(base.source()))?;
    let mut factors = BTreeMap::new();
    for (layer, f) in factors_of(&config, &lora, &input.adapter)? {
        let name = name_in(pairs, naming, &format!("{layer}.weight"));
        let shape = base.shape(&name)?;
        let wanted = [f.b.len() / f.rank, f.a.len() / f.rank];
        if shape != wanted {
            return Err(Error::data("the adapter is of a model with other sizes")
                .file(&input.adapter)
                .tensor(&name)
                .expected(format!("{wanted:?} by the adapter's factors"))
                .found(format!("{shape:?} in {}", base.source().display()))
                .hint("give the base model that the adapter was trained on"));
        }
        factors.insert(name, f);
    }
    let specs = specs_of(&base, input.dtype)?;
    save_sharded_with(out, &specs, input.max_shard_bytes, |name, sink| {
        stream(&base, name, input.dtype, factors.get(name), sink)
    })?;
    companions::copy_model(&input.base, out, input.dtype)?;
    let bytes = specs.iter().map(TensorSpec::bytes).sum();
    Ok(Merged { layers: factors.len(), tensors: specs.len(), bytes })
}

/// The model that an adapter's configuration names.
///
/// # Errors
/// If the folder has no configuration of an adapter.
pub fn recorded_base(adapter: &Path) -> Result<Option<String>> {
    let file = adapter.join("adapter_config.json");
    let text = std::fs::read_to_string(&file).map_err(|e| {
        Error::io("cannot read the adapter", &file, &e)
            .hint("an adapter's folder holds adapter_config.json and adapter_model.safetensors")
    })?;
    let json: Value = serde_json::from_str(&text).map_err(|e| {
        Error::data("not an adapter configuration").file(&file).found(e.to_string())
    })?;
    Ok(json["base_model_name_or_path"].as_str().filter(|s| !s.is_empty()).map(str::to_string))
}

/// Two models of one family and one size can carry the same adapter; others cannot, even where the
/// layers that it changes happen to have the same names.
fn check_base(config: &VlmConfig, base: &Path, other: &Path, adapter: &Path) -> Result<()> {
    let was = VlmConfig::from_dir(other)?;
    let list = |c: &VlmConfig| -> Vec<(String, Vec<usize>)> {
        parameters(c).into_iter().map(|p| (p.name, p.shape)).collect()
    };
    let (ours, theirs) = (list(config), list(&was));
    let (family, its) = (config.family.name(), was.family.name());
    if family == its && ours == theirs {
        return Ok(());
    }
    let first = theirs.iter().find(|p| !ours.contains(p)).map(|p| p.0.clone());
    let error = Error::data("the adapter was trained on another model")
        .file(adapter)
        .expected(format!("{} ({its}), which its adapter_config.json names", other.display()))
        .found(format!("{} ({family})", base.display()))
        .hint("give the model that the adapter was trained on");
    Err(match first {
        Some(name) => error.tensor(name),
        None => error,
    })
}

/// The factors of every layer that the adapter changes, by canonical module name.
fn factors_of(
    config: &VlmConfig,
    lora: &LoraConfig,
    dir: &Path,
) -> Result<BTreeMap<String, Factors>> {
    let file = Checkpoint::open(dir.join(ADAPTER_FILE))?;
    let all = parameters(config);
    let layer = |module: &str| -> Option<&ParamSpec> {
        all.iter().find(|p| p.linear && p.name.strip_suffix(".weight") == Some(module))
    };
    let pairs = config.family.names();
    let mut found: BTreeMap<String, [Option<&str>; 2]> = BTreeMap::new();
    for name in file.names() {
        let rest = name.strip_prefix(PEFT_PREFIX);
        let factor = rest.and_then(|rest| {
            let ends = [".lora_A.weight", ".lora_B.weight"];
            ends.iter().enumerate().find_map(|(i, end)| Some((i, rest.strip_suffix(end)?)))
        });
        let place = factor.and_then(|(i, module)| Some((i, canonical_name(pairs, module)?)));
        match place.filter(|(_, module)| layer(module).is_some()) {
            Some((i, module)) => found.entry(module).or_default()[i] = Some(name),
            None => {
                return Err(Error::data("the adapter has a tensor that has no place in the model")
                    .file(file.source())
                    .tensor(name)
                    .expected("lora_A and lora_B of linear layers of the base model")
                    .hint("give the base model that the adapter was trained on"));
            }
        }
    }
    for spec in &all {
        if let Some(module) = lora.covered(spec)
            && !found.contains_key(module)
        {
            return Err(Error::data("the adapter lacks the factors of a layer it says it changes")
                .file(file.source())
                .tensor(name_in(pairs, Naming::Module, module))
                .hint("give the base model that the adapter was trained on"));
        }
    }
    found
        .into_iter()
        .map(|(module, names)| Ok((module.clone(), factors(&file, &module, names, lora)?)))
        .collect()
}

fn factors(
    file: &Checkpoint,
    module: &str,
    names: [Option<&str>; 2],
    lora: &LoraConfig,
) -> Result<Factors> {
    let [Some(a), Some(b)] = names else {
        return Err(Error::data("the adapter has one factor of a layer and not the other")
            .file(file.source())
            .tensor(module));
    };
    let ((a_shape, a_values), (b_shape, b_values)) = (file.read_f32(a)?, file.read_f32(b)?);
    let rank = lora.r;
    for (name, shape, at) in [(a, &a_shape, 0), (b, &b_shape, 1)] {
        if shape.len() != 2 || shape[at] != rank {
            return Err(Error::data("a factor of the adapter has the wrong shape")
                .file(file.source())
                .tensor(name)
                .expected(format!("a matrix of rank {rank}, by adapter_config.json"))
                .found(format!("{shape:?}")));
        }
    }
    Ok(Factors { a: a_values, b: b_values, rank, scale: lora.scale() as f32 })
}

fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F64 | DType::F32 | DType::BF16 | DType::F16)
}

fn specs_of(base: &Checkpoint, dtype: Option<DType>) -> Result<Vec<TensorSpec>> {
    base.names()
        .map(|name| {
            let own = base.dtype(name)?;
            let dtype = dtype.filter(|_| is_float(own)).unwrap_or(own);
            Ok(TensorSpec { name: name.to_string(), dtype, shape: base.shape(name)?.to_vec() })
        })
        .collect()
}

/// Hands over a tensor of the new model, a block of rows at a time.
fn stream(
    base: &Checkpoint,
    name: &str,
    dtype: Option<DType>,
    factors: Option<&Factors>,
    sink: &mut Sink,
) -> Result<()> {
    let (from, bytes) = (base.dtype(name)?, base.bytes(name)?);
    let to = dtype.filter(|_| is_float(from)).unwrap_or(from);
    if factors.is_none() && to == from {
        return bytes.chunks(BLOCK).try_for_each(sink);
    }
    let columns = base.shape(name)?.last().copied().unwrap_or(1).max(1);
    let rows = (BLOCK / columns).max(1);
    let mut out = Vec::new();
    for (i, block) in bytes.chunks(rows * columns * from.size()).enumerate() {
        let mut values = widened(from, block);
        if let Some(f) = factors {
            add_product(f, &mut values, columns, i * rows);
        }
        rounded(to, &values, &mut out);
        sink(&out)?;
    }
    Ok(())
}

/// Adds `scale * B A` to rows of a matrix, the first of which is number `first`. The inner sums run in
/// ascending order of the rank, whatever the block.
fn add_product(f: &Factors, values: &mut [f32], columns: usize, first: usize) {
    values.par_chunks_mut(columns).enumerate().for_each(|(i, row)| {
        let b = &f.b[(first + i) * f.rank..][..f.rank];
        let mut sum = vec![0f32; columns];
        for (k, b) in b.iter().enumerate() {
            let a = &f.a[k * columns..][..columns];
            sum.iter_mut().zip(a).for_each(|(s, a)| *s = b.mul_add(*a, *s));
        }
        row.iter_mut().zip(&sum).for_each(|(w, s)| *w = f.scale.mul_add(*s, *w));
    });
}

/// Elements of a floating-point type as singles.
fn widened(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let pair = |c: &[u8]| [c[0], c[1]];
    match dtype {
        DType::BF16 => {
            bytes.chunks_exact(2).map(|c| bf16::from_le_bytes(pair(c)).to_f32()).collect()
        }
        DType::F16 => bytes.chunks_exact(2).map(|c| f16::from_le_bytes(pair(c)).to_f32()).collect(),
        DType::F64 => {
            let word = |c: &[u8]| f64::from_le_bytes(c.try_into().expect("eight bytes"));
            bytes.chunks_exact(8).map(|c| word(c) as f32).collect()
        }
        _ => {
            let word = |c: &[u8]| f32::from_le_bytes(c.try_into().expect("four bytes"));
            bytes.chunks_exact(4).map(word).collect()
        }
    }
}

/// Singles as elements of a floating-point type, each rounded to the nearest, ties to even.
fn rounded(dtype: DType, values: &[f32], out: &mut Vec<u8>) {
    out.clear();
    match dtype {
        DType::BF16 => values.iter().for_each(|&v| out.extend(bf16::from_f32(v).to_le_bytes())),
        DType::F16 => values.iter().for_each(|&v| out.extend(f16::from_f32(v).to_le_bytes())),
        DType::F64 => values.iter().for_each(|&v| out.extend(f64::from(v).to_le_bytes())),
        _ => values.iter().for_each(|v| out.extend(v.to_le_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_is_added_the_same_in_any_blocks() {
        let factors = Factors {
            a: (0..6).map(|i| i as f32 + 0.5).collect(),
            b: (0..8).map(|i| 0.25 * i as f32 - 1.0).collect(),
            rank: 2,
            scale: 1.5,
        };
        let mut whole: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let mut parts = whole.clone();
        add_product(&factors, &mut whole, 3, 0);
        parts.chunks_mut(3).enumerate().for_each(|(i, row)| add_product(&factors, row, 3, i));
        assert_eq!(whole, parts);
        // Row 1: b = (-0.5, -0.25), first column of a = (0.5, 3.5).
        assert_eq!(whole[3], 3.0 + 1.5 * (-0.5 * 0.5 - 0.25 * 3.5));
    }

    #[test]
    fn elements_go_there_and_back() {
        let values = [0.0, -1.5, 3.140625, 65280.0];
        for dtype in [DType::BF16, DType::F16, DType::F32, DType::F64] {
            let mut bytes = Vec::new();
            rounded(dtype, &values, &mut bytes);
            assert_eq!(bytes.len(), 4 * dtype.size());
            assert_eq!(widened(dtype, &bytes), values, "{dtype:?}");
        }
        let mut bytes = Vec::new();
        rounded(DType::BF16, &[1.0 + 1.0 / 256.0], &mut bytes);
        assert_eq!(widened(DType::BF16, &bytes), [1.0], "ties go to even");
    }
}
