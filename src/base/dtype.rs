//! Element types of tensors, with their names in safetensors and config.json.

use super::{Error, Result};

/// Element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE 754 double; used by gradient checks and references only.
    F64,
    /// IEEE 754 single.
    F32,
    /// bfloat16: the upper half of a single.
    BF16,
    /// IEEE 754 half.
    F16,
    /// Signed 64-bit integer.
    I64,
    /// Signed 32-bit integer.
    I32,
    /// Unsigned 8-bit integer.
    U8,
}

impl DType {
    /// Size of one element in bytes.
    pub const fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::BF16 | DType::F16 => 2,
            DType::U8 => 1,
        }
    }

    /// The type of per-row statistics, parameter vectors and sums beside activations of this type:
    /// doubles for doubles, singles for everything else.
    pub const fn statistic(self) -> DType {
        match self {
            DType::F64 => DType::F64,
            _ => DType::F32,
        }
    }

    /// Name in a safetensors header.
    pub const fn safetensors_name(self) -> &'static str {
        match self {
            DType::F64 => "F64",
            DType::F32 => "F32",
            DType::BF16 => "BF16",
            DType::F16 => "F16",
            DType::I64 => "I64",
            DType::I32 => "I32",
            DType::U8 => "U8",
        }
    }

    /// Reads the name that config.json and `--dtype` use (`float32`, `bfloat16`, `torch.float16`).
    ///
    /// # Errors
    /// [`Error`] of kind usage for any other name.
    pub fn from_torch_name(name: &str) -> Result<DType> {
        match name.strip_prefix("torch.").unwrap_or(name) {
            "float64" => Ok(DType::F64),
            "float32" => Ok(DType::F32),
            "bfloat16" => Ok(DType::BF16),
            "float16" => Ok(DType::F16),
            other => Err(Error::usage("unknown element type")
                .expected("float32, bfloat16 or float16")
                .found(other)),
        }
    }

    /// Name that config.json and `--dtype` use.
    pub const fn torch_name(self) -> &'static str {
        match self {
            DType::F64 => "float64",
            DType::F32 => "float32",
            DType::BF16 => "bfloat16",
            DType::F16 => "float16",
            DType::I64 => "int64",
            DType::I32 => "int32",
            DType::U8 => "uint8",
        }
    }
}
