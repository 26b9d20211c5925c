//! The header of a safetensors file and the index of a sharded checkpoint, parsed from bytes that
//! are not trusted: every length, offset and product is checked here once, so that later reads
//! index without looking. Nothing here allocates more than the header's own size.

use crate::base::{Error, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// The reference implementation refuses longer headers.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// What the header says of one tensor; `begin..end` are offsets in the file, checked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TensorInfo {
    /// Name of the element type, as in the file; it may be one that this program cannot read.
    pub dtype: String,
    pub shape: Vec<usize>,
    pub begin: usize,
    pub end: usize,
}

/// A parsed header.
#[derive(Debug)]
pub(super) struct Header {
    pub metadata: BTreeMap<String, String>,
    pub tensors: Vec<(String, TensorInfo)>,
}

/// Parses and checks the header of a whole file.
pub(super) fn parse(file: &[u8]) -> Result<Header> {
    let not_one = || Error::data("the weight file is not a safetensors file");
    let len = file.first_chunk::<8>().map(|b| u64::from_le_bytes(*b)).ok_or_else(not_one)?;
    let rest = &file[8..];
    if len > MAX_HEADER_BYTES {
        return Err(not_one()
            .expected(format!("a header of at most {MAX_HEADER_BYTES} bytes"))
            .found(format!("a header length of {len}"))
            .hint("the file is of another format, or damaged; fetch it again"));
    }
    // MAX_HEADER_BYTES fits any usize.
    let len = len as usize;
    if len > rest.len() {
        return Err(truncated(8 + len, file.len()));
    }
    let json: Value = serde_json::from_slice(&rest[..len]).map_err(|e| {
        Error::data("the header of the weight file is not JSON")
            .found(e.to_string())
            .hint("the file is of another format, or damaged; fetch it again")
    })?;
    let Value::Object(entries) = json else {
        return Err(Error::data("the header of the weight file is not a JSON object"));
    };
    let mut header = Header { metadata: BTreeMap::new(), tensors: Vec::new() };
    for (name, entry) in entries {
        if name == "__metadata__" {
            header.metadata = strings(&entry)
                .ok_or_else(|| Error::data("the metadata is not text").key("__metadata__"))?;
        } else {
            let info = tensor_info(&entry).map_err(|e| e.tensor(&name))?;
            header.tensors.push((name, info));
        }
    }
    place(&mut header.tensors, 8 + len, file.len())?;
    Ok(header)
}

/// One entry; offsets are still relative to the data.
fn tensor_info(entry: &Value) -> Result<TensorInfo> {
    let bad = |key: &str, expected: &str| {
        Error::data("the header describes the tensor wrongly")
            .key(key)
            .expected(expected)
            .found(entry.get(key).map_or("nothing".into(), Value::to_string))
    };
    let dtype = entry["dtype"].as_str().ok_or_else(|| bad("dtype", "a name"))?.to_string();
    let size = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok());
    let sizes = |key: &str| -> Option<Vec<usize>> {
        entry.get(key)?.as_array()?.iter().map(size).collect()
    };
    let shape = sizes("shape").ok_or_else(|| bad("shape", "a list of sizes"))?;
    let offsets = sizes("data_offsets").unwrap_or_default();
    let [begin, end] = offsets[..] else {
        return Err(bad("data_offsets", "[begin, end]"));
    };
    let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let bytes = bits(&dtype).and_then(|bits| count?.checked_mul(bits)).map(|n| n.div_ceil(8));
    let fits = match (count, bytes) {
        (None, _) => false,
        // An element type that is not known here: its size cannot be checked, nor can it be read.
        (_, None) => bits(&dtype).is_none() && begin <= end,
        (_, Some(bytes)) => begin.checked_add(bytes) == Some(end),
    };
    if !fits {
        return Err(bad(
            "data_offsets",
            &bytes.map_or("an ordered pair".into(), |n| format!("{n} bytes for shape {shape:?}")),
        ));
    }
    Ok(TensorInfo { dtype, shape, begin, end })
}

/// Checks that the tensors fill the data without gap or overlap (the format demands both), and
/// makes the offsets absolute.
fn place(tensors: &mut [(String, TensorInfo)], data_start: usize, file_len: usize) -> Result<()> {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| (tensors[i].1.begin, tensors[i].1.end));
    let mut at = 0;
    for i in order {
        let (name, info) = &mut tensors[i];
        if info.begin != at {
            return Err(Error::data("the header's offsets overlap or leave a gap")
                .tensor(&*name)
                .key("data_offsets")
                .expected(format!("a begin of {at}"))
                .found(info.begin.to_string())
                .hint("the file is damaged; fetch it again"));
        }
        at = info.end;
        let absolute = |x: usize| x.checked_add(data_start);
        match (absolute(info.begin), absolute(info.end)) {
            (Some(begin), Some(end)) if end <= file_len => (info.begin, info.end) = (begin, end),
            _ => {
                let need = at.saturating_add(data_start);
                return Err(truncated(need, file_len).tensor(&*name));
            }
        }
    }
    if data_start + at != file_len {
        return Err(Error::data("the weight file has bytes that no tensor owns")
            .expected(format!("{} bytes", data_start + at))
            .found(format!("{file_len} bytes"))
            .hint("the file is damaged; fetch it again"));
    }
    Ok(())
}

fn truncated(need: usize, have: usize) -> Error {
    Error::data("the weight file is truncated")
        .expected(format!("at least {need} bytes"))
        .found(format!("{have} bytes"))
        .hint("it was not downloaded or copied completely; fetch it again")
}

/// Bits per element of every element type of the format (safetensors 0.8).
fn bits(dtype: &str) -> Option<usize> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" => 8,
        "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
        "I16" | "U16" | "F16" | "BF16" => 16,
        "I32" | "U32" | "F32" => 32,
        "F64" | "I64" | "U64" | "C64" => 64,
        _ => return None,
    })
}

fn strings(v: &Value) -> Option<BTreeMap<String, String>> {
    v.as_object()?.iter().map(|(k, v)| Some((k.clone(), v.as_str()?.to_string()))).collect()
}

/// The `weight_map` of an index file: tensor name to shard file name.
pub(super) fn read_index(file: &Path) -> Result<BTreeMap<String, String>> {
    let text = std::fs::read(file).map_err(|e| Error::io("cannot read the index", file, &e))?;
    let json: Value = serde_json::from_slice(&text).map_err(|e| {
        Error::data("the index is not JSON").file(file).line(e.line()).found(e.to_string())
    })?;
    let map = json.get("weight_map").and_then(strings).ok_or_else(|| {
        Error::data("the index has no usable weight map")
            .file(file)
            .key("weight_map")
            .expected("an object from tensor names to file names")
    })?;
    for (name, shard) in &map {
        // A shard lies beside its index; a path could lead anywhere.
        if Path::new(shard).file_name().is_none_or(|n| n.to_str() != Some(shard)) {
            return Err(Error::data("the index names a shard that is not a plain file name")
                .file(file)
                .tensor(name)
                .found(shard));
        }
    }
    if map.is_empty() {
        return Err(Error::data("the index lists no tensors").file(file).key("weight_map"));
    }
    Ok(map)
}
