//! Headers of Parquet pages, read before the pages are: a page says how many bytes it will unpack to, and
//! whoever unpacks it believes that. Unpacks nothing.
//!
//! Source: the format's `parquet.thrift` (struct PageHeader) and Thrift's compact protocol.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};

use parquet::file::metadata::ParquetMetaData;

use crate::base::{Error, Result};

/// Largest page that is unpacked. Writers aim at one MiB; a page of one large picture has its size.
const MAX_PAGE: u64 = 512 << 20;
/// Columns nested deeper than this, or headers, are none.
const MAX_DEPTH: usize = 16;

/// Sees that every page of a file lies inside of it and unpacks to at most [`MAX_PAGE`] bytes; returns what the
/// largest unpacks to.
///
/// # Errors
/// Of kind data: the first page that does not.
pub(super) fn check_pages(file: &File, len: u64, metadata: &ParquetMetaData) -> Result<u64> {
    let mut reader = Headers { from: BufReader::new(file), at: 0, len, largest: 0 };
    for group in metadata.row_groups() {
        for column in group.columns() {
            let data = column.data_page_offset();
            let first = column.dictionary_page_offset().map_or(data, |d| d.min(data));
            let place = (u64::try_from(first), u64::try_from(column.compressed_size()));
            let (Ok(first), Ok(size)) = place else {
                return Err(wrong("a column at a negative place"));
            };
            if first.checked_add(size).is_none_or(|end| end > len) {
                return Err(wrong(format!(
                    "a column that ends at {} of {len} bytes",
                    first.saturating_add(size)
                )));
            }
            reader.pages(first, first + size)?;
        }
    }
    Ok(reader.largest)
}

fn wrong(found: impl Into<String>) -> Error {
    Error::data("the Parquet file is damaged")
        .expected(format!("pages inside of the file, of at most {MAX_PAGE} bytes each"))
        .found(found)
        .hint("write it again, or copy it again if it ended early")
}

/// A file, read forwards.
struct Headers<'a> {
    from: BufReader<&'a File>,
    at: u64,
    len: u64,
    /// Bytes of the largest page.
    largest: u64,
}

impl Headers<'_> {
    fn pages(&mut self, first: u64, end: u64) -> Result<()> {
        self.from.seek(SeekFrom::Start(first)).map_err(|_| wrong("a page outside of the file"))?;
        self.at = first;
        while self.at < end {
            let [unpacked, packed] = self.header()?;
            if unpacked > MAX_PAGE {
                return Err(wrong(format!("a page of {unpacked} bytes")));
            }
            self.largest = self.largest.max(unpacked);
            self.skip(packed)?;
        }
        Ok(())
    }

    /// Sizes of a page: unpacked and packed.
    fn header(&mut self) -> Result<[u64; 2]> {
        let (mut id, mut sizes) = (0i64, [None; 2]);
        while let Some((delta, kind)) = self.field()? {
            id = if delta == 0 { self.zigzag()? } else { id + i64::from(delta) };
            match (id, kind) {
                (2 | 3, 5) => {
                    let size = u64::try_from(self.zigzag()?)
                        .map_err(|_| wrong("a page of negative size"))?;
                    sizes[id as usize - 2] = Some(size);
                }
                _ => self.value(kind, 0)?,
            }
        }
        match sizes {
            [Some(unpacked), Some(packed)] => Ok([unpacked, packed]),
            _ => Err(wrong("a page without a size")),
        }
    }

    fn byte(&mut self) -> Result<u8> {
        let mut one = [0];
        self.from.read_exact(&mut one).map_err(|_| wrong("a page outside of the file"))?;
        self.at += 1;
        Ok(one[0])
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        let end = self.at.checked_add(bytes).filter(|end| *end <= self.len);
        let end = end.ok_or_else(|| wrong("a page outside of the file"))?;
        let by = i64::try_from(bytes).map_err(|_| wrong("a page outside of the file"))?;
        self.from.seek_relative(by).map_err(|_| wrong("a page outside of the file"))?;
        self.at = end;
        Ok(())
    }

    fn varint(&mut self) -> Result<u64> {
        let mut out = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            out |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(out);
            }
        }
        Err(wrong("a number without an end"))
    }

    fn zigzag(&mut self) -> Result<i64> {
        let n = self.varint()?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    /// Step to the next field's number and its type; none at the end of a struct.
    fn field(&mut self) -> Result<Option<(u8, u8)>> {
        let byte = self.byte()?;
        Ok((byte != 0).then_some((byte >> 4, byte & 0x0f)))
    }

    /// Passes over a value.
    fn value(&mut self, kind: u8, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(wrong("a page header nested too deeply"));
        }
        match kind {
            1 | 2 => Ok(()),
            3 => self.skip(1),
            4..=6 => self.varint().map(|_| ()),
            7 => self.skip(8),
            8 => {
                let len = self.varint()?;
                self.skip(len)
            }
            9 | 10 => {
                let byte = self.byte()?;
                let count = if byte >> 4 == 15 { self.varint()? } else { u64::from(byte >> 4) };
                // Booleans in lists have a byte each.
                let kind = byte & 0x0f;
                (0..count).try_for_each(|_| match kind {
                    1 | 2 => self.skip(1),
                    _ => self.value(kind, depth + 1),
                })
            }
            12 => {
                while let Some((delta, kind)) = self.field()? {
                    if delta == 0 {
                        self.zigzag()?;
                    }
                    self.value(kind, depth + 1)?;
                }
                Ok(())
            }
            _ => Err(wrong("a page header that is none")),
        }
    }
}
