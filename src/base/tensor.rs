//! A tensor in ordinary host memory: how files, processors and goldens hand data around.
//! Tensors of a training step live in the arena instead (`mem`), never here.

use super::{DType, Error, Result};
use half::{bf16, f16};

/// Elements of a [`HostTensor`], row-major.
#[derive(Debug, Clone, PartialEq)]
pub enum TensorData {
    /// Doubles.
    F64(Vec<f64>),
    /// Singles.
    F32(Vec<f32>),
    /// bfloat16.
    BF16(Vec<bf16>),
    /// Halves.
    F16(Vec<f16>),
    /// 64-bit integers.
    I64(Vec<i64>),
    /// 32-bit integers.
    I32(Vec<i32>),
    /// Bytes.
    U8(Vec<u8>),
}

/// A dense row-major tensor in host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Sizes, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Elements; as many as the product of `shape`.
    pub data: TensorData,
}

impl HostTensor {
    /// A tensor of singles. Panics if `data.len()` is not the product of `shape`.
    pub fn f32(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Self {
        Self::new(shape.into(), TensorData::F32(data))
    }
    /// A tensor of 32-bit integers. Panics if `data.len()` is not the product of `shape`.
    pub fn i32(shape: impl Into<Vec<usize>>, data: Vec<i32>) -> Self {
        Self::new(shape.into(), TensorData::I32(data))
    }
    /// A tensor of 64-bit integers. Panics if `data.len()` is not the product of `shape`.
    pub fn i64(shape: impl Into<Vec<usize>>, data: Vec<i64>) -> Self {
        Self::new(shape.into(), TensorData::I64(data))
    }
    /// A tensor of any element type. Panics if the element count is not the product of `shape`.
    pub fn new(shape: Vec<usize>, data: TensorData) -> Self {
        let t = HostTensor { shape, data };
        assert_eq!(t.shape.iter().product::<usize>(), t.len(), "shape {:?}", t.shape);
        t
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match &self.data {
            TensorData::F64(_) => DType::F64,
            TensorData::F32(_) => DType::F32,
            TensorData::BF16(_) => DType::BF16,
            TensorData::F16(_) => DType::F16,
            TensorData::I64(_) => DType::I64,
            TensorData::I32(_) => DType::I32,
            TensorData::U8(_) => DType::U8,
        }
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        match &self.data {
            TensorData::F64(v) => v.len(),
            TensorData::F32(v) => v.len(),
            TensorData::BF16(v) => v.len(),
            TensorData::F16(v) => v.len(),
            TensorData::I64(v) => v.len(),
            TensorData::I32(v) => v.len(),
            TensorData::U8(v) => v.len(),
        }
    }
    /// True if there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The singles of an F32 tensor.
    ///
    /// # Errors
    /// If the tensor has another element type.
    pub fn as_f32(&self) -> Result<&[f32]> {
        match &self.data {
            TensorData::F32(v) => Ok(v),
            _ => Err(Error::data("tensor has the wrong element type")
                .expected("float32")
                .found(self.dtype().torch_name())),
        }
    }
    /// All elements as singles, converted if need be (bf16 and f16 exactly, the rest rounded).
    pub fn to_f32_vec(&self) -> Vec<f32> {
        match &self.data {
            TensorData::F64(v) => v.iter().map(|&x| x as f32).collect(),
            TensorData::F32(v) => v.clone(),
            TensorData::BF16(v) => v.iter().map(|x| x.to_f32()).collect(),
            TensorData::F16(v) => v.iter().map(|x| x.to_f32()).collect(),
            TensorData::I64(v) => v.iter().map(|&x| x as f32).collect(),
            TensorData::I32(v) => v.iter().map(|&x| x as f32).collect(),
            TensorData::U8(v) => v.iter().map(|&x| f32::from(x)).collect(),
        }
    }
    /// All elements as 64-bit integers, if the tensor is of an integer type.
    ///
    /// # Errors
    /// If the tensor has a floating-point element type.
    pub fn to_i64_vec(&self) -> Result<Vec<i64>> {
        match &self.data {
            TensorData::I64(v) => Ok(v.clone()),
            TensorData::I32(v) => Ok(v.iter().map(|&x| i64::from(x)).collect()),
            TensorData::U8(v) => Ok(v.iter().map(|&x| i64::from(x)).collect()),
            _ => Err(Error::data("tensor has the wrong element type")
                .expected("an integer type")
                .found(self.dtype().torch_name())),
        }
    }
    /// The elements as little-endian bytes (the layout of safetensors files).
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            TensorData::F64(v) => bytemuck::cast_slice(v),
            TensorData::F32(v) => bytemuck::cast_slice(v),
            TensorData::BF16(v) => bytemuck::cast_slice(v),
            TensorData::F16(v) => bytemuck::cast_slice(v),
            TensorData::I64(v) => bytemuck::cast_slice(v),
            TensorData::I32(v) => bytemuck::cast_slice(v),
            TensorData::U8(v) => v,
        }
    }
    /// Reads little-endian bytes, which need not be aligned.
    ///
    /// # Errors
    /// If the byte count does not fit the shape.
    pub fn from_bytes(dtype: DType, shape: Vec<usize>, bytes: &[u8]) -> Result<Self> {
        let n: usize = shape.iter().product();
        if bytes.len() != n * dtype.size() {
            return Err(Error::data("tensor has the wrong number of bytes")
                .expected(format!("{} for shape {shape:?}", n * dtype.size()))
                .found(bytes.len().to_string()));
        }
        let data = match dtype {
            DType::F64 => TensorData::F64(bytemuck::pod_collect_to_vec(bytes)),
            DType::F32 => TensorData::F32(bytemuck::pod_collect_to_vec(bytes)),
            DType::BF16 => TensorData::BF16(bytemuck::pod_collect_to_vec(bytes)),
            DType::F16 => TensorData::F16(bytemuck::pod_collect_to_vec(bytes)),
            DType::I64 => TensorData::I64(bytemuck::pod_collect_to_vec(bytes)),
            DType::I32 => TensorData::I32(bytemuck::pod_collect_to_vec(bytes)),
            DType::U8 => TensorData::U8(bytes.to_vec()),
        };
        Ok(HostTensor { shape, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_round_trip_at_any_alignment() {
        let t = HostTensor::f32([2, 3], vec![1.0, -2.5, 3.0, 0.0, f32::MIN_POSITIVE, 6.0]);
        let mut shifted = vec![0u8];
        shifted.extend_from_slice(t.bytes());
        let back = HostTensor::from_bytes(DType::F32, vec![2, 3], &shifted[1..]).unwrap();
        assert_eq!(t, back);
        assert!(HostTensor::from_bytes(DType::F32, vec![2, 2], &shifted[1..]).is_err());
    }
}
