//! Reads the fields of a protobuf message. Knows the wire format only, no schema; a message that ends
//! in the middle of a field is an error with the byte, never a panic.

use crate::base::{Error, Result};

/// The value of a field, by its wire type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    /// Wire type 0: numbers, truth values, enums.
    Number(u64),
    /// Wire type 1, eight bytes.
    Fixed64,
    /// Wire type 2: text, bytes or a message, with its first byte in the file.
    Bytes(usize, &'a [u8]),
    /// Wire type 5, four bytes.
    Fixed32(u32),
}

/// Fields of a message in the order of the file, as (number, value).
#[derive(Debug)]
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    /// Place of `bytes[0]` in the file.
    at: usize,
}

impl<'a> Fields<'a> {
    /// Fields of a message that begins at byte `at` of its file.
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Fields { bytes, at }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.bytes.split_at_checked(count) else {
            return Err(self.damaged(
                &format!("{count} more bytes"),
                format!("{} before the end", self.bytes.len()),
            ));
        };
        self.bytes = rest;
        self.at += count;
        Ok(taken)
    }

    /// Seven bits per byte, lowest first; the high bit says that more follow.
    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.damaged("a number of at most ten bytes", "a longer one".to_owned()))
    }

    fn field(&mut self) -> Result<(u64, Value<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Fixed64
            }
            2 => {
                let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                let at = self.at;
                Value::Bytes(at, self.take(length)?)
            }
            5 => {
                let mut bits = [0; 4];
                bits.copy_from_slice(self.take(4)?);
                Value::Fixed32(u32::from_le_bytes(bits))
            }
            other => {
                return Err(self.damaged("a wire type 0, 1, 2 or 5", format!("wire type {other}")));
            }
        };
        Ok((tag >> 3, value))
    }

    fn damaged(&self, expected: &str, found: String) -> Error {
        Error::data("the file is damaged")
            .at(format!("byte {}", self.at))
            .expected(expected)
            .found(found)
            .hint("the file is cut off or not what its name says; copy it again")
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>)>;

    /// The next field; after an error there is none.
    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.bytes = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_all_wire_types() {
        // The examples of the format's documentation: field 1 = 150, field 2 = "testing".
        let mut bytes = vec![0x08, 0x96, 0x01, 0x12, 0x07];
        bytes.extend(b"testing");
        bytes.extend([0x1D, 0, 0, 0x80, 0x3F, 0x21, 1, 2, 3, 4, 5, 6, 7, 8, 0x82, 0x06, 0]);
        let fields: Vec<_> = Fields::new(&bytes, 0).map(Result::unwrap).collect();
        let want = [
            (1, Value::Number(150)),
            (2, Value::Bytes(5, b"testing")),
            (3, Value::Fixed32(1.0f32.to_bits())),
            (4, Value::Fixed64),
            (96, Value::Bytes(29, b"")),
        ];
        assert_eq!(fields, want);
    }

    #[test]
    fn damage_is_an_error_with_the_byte() {
        for bytes in [&[0x08][..], &[0x12, 5, 1], &[0x0B], &[0xFF; 11], &[0x1D, 0, 0]] {
            let results: Vec<_> = Fields::new(bytes, 40).collect();
            assert_eq!(results.len(), 1);
            let e = results.into_iter().next().unwrap().unwrap_err();
            assert!(e.to_string().contains("byte 4") || e.to_string().contains("byte 5"), "{e}");
        }
    }
}
