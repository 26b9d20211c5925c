//! Parquet files. Columns of bytes are left in the file where its statistics say that every row has one, and
//! are read cell by cell when an image is decoded; otherwise they are read in small batches and let go. Page
//! sizes are checked before the format's library may believe them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder, RowSelection, RowSelector,
};

use super::cells::{Body, BytesAt, Cells, cells_of};
use super::pages::check_pages;
use super::table::{Batch, RowAt, TableRows, quiet};
use crate::base::{Error, Result};
use crate::io::image::{MAX_FILE_BYTES, too_long};

/// First and last bytes of a file.
pub(super) const MAGIC: &[u8] = b"PAR1";
/// Rows that are read together.
const BATCH: usize = 1024;
/// Bytes that rows which are read together may have, by what the file says.
const BATCH_BYTES: i64 = 32 << 20;
/// Bytes that they may have if every row has the largest page.
const PAGE_BYTES: u64 = 512 << 20;

/// An open Parquet file: its footer.
pub(super) struct ParquetTable {
    path: PathBuf,
    metadata: ArrowReaderMetadata,
    /// Bytes of the largest page. If it is a dictionary, every row may have that many.
    largest: u64,
}

/// Bytes number `nth` in a column of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) group: usize,
    pub(super) row: usize,
    pub(super) column: usize,
    pub(super) nth: usize,
}

impl std::fmt::Debug for ParquetTable {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_tuple("ParquetTable").field(&self.path).finish()
    }
}

impl PartialEq for ParquetTable {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

/// Hands every batch of a file to `rows`.
///
/// # Errors
/// If the file is damaged, or promises pages larger than any honest one.
pub(super) fn read(file: &Path, rows: &mut TableRows) -> Result<()> {
    let table = Arc::new(ParquetTable::open(file)?);
    let schema = table.metadata.schema().clone();
    rows.begin(&schema).map_err(|e| e.file(file))?;
    let mut first = 0;
    for group in 0..table.metadata.metadata().num_row_groups() {
        let (mask, size) = table.projection(group);
        let mut reader = quiet(|| table.reader(group, mask, size, None))?;
        let mut in_group = 0;
        while let Some(batch) = table.next(&mut reader)? {
            let column = |field: &arrow_schema::FieldRef| match batch.column_by_name(field.name()) {
                Some(array) => cells_of(array.as_ref(), field.data_type()),
                None => Cells { len: batch.num_rows(), valid: None, body: Body::Unread },
            };
            let columns = schema.fields().iter().map(column).collect();
            let at = RowAt::Parquet { table: table.clone(), group, in_group, first };
            let len = batch.num_rows();
            (first, in_group) = (first + len, in_group + len);
            if rows.batch(&Batch { columns, len, at })?.is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

impl ParquetTable {
    fn open(path: &Path) -> Result<Self> {
        let io = |e: std::io::Error| Error::io("cannot read the data file", path, &e);
        let file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        let metadata = quiet(|| {
            let options = ArrowReaderOptions::new();
            ArrowReaderMetadata::load(&file, options).map_err(|e| damaged(path, e))
        })
        .map_err(|e| e.hint("write it again, or copy it again if it ended early"))?;
        let largest = check_pages(&file, len, metadata.metadata()).map_err(|e| e.file(path))?;
        Ok(ParquetTable { path: path.to_owned(), metadata, largest })
    }

    fn reader(
        &self,
        group: usize,
        mask: ProjectionMask,
        batch: usize,
        selection: Option<RowSelection>,
    ) -> Result<ParquetRecordBatchReader> {
        // A file of its own: a handle that is shared would share its place too.
        let file = File::open(&self.path)
            .map_err(|e| Error::io("cannot read the data file", &self.path, &e))?;
        let builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
                .with_row_groups(vec![group])
                .with_projection(mask)
                .with_batch_size(batch);
        let builder = match selection {
            Some(selection) => builder.with_row_selection(selection),
            None => builder,
        };
        builder.build().map_err(|e| damaged(&self.path, e))
    }

    fn next(&self, reader: &mut ParquetRecordBatchReader) -> Result<Option<RecordBatch>> {
        quiet(|| reader.next().transpose().map_err(|e| damaged(&self.path, e)))
    }

    /// The columns of a group that are read with the rows, and rows per batch.
    fn projection(&self, group: usize) -> (ProjectionMask, usize) {
        let metadata = self.metadata.metadata();
        let (schema, group) = (self.metadata.parquet_schema(), metadata.row_group(group));
        let mut leaves = Vec::new();
        for field in self.metadata.schema().fields() {
            leaves_of(field.data_type(), true, &mut leaves);
        }
        if leaves.len() != group.num_columns() {
            // A type of ours that the file divides otherwise: everything is read.
            leaves = vec![Leaf::Read; group.num_columns()];
        }
        let full = |i: usize| {
            let statistics = group.column(i).statistics();
            statistics.and_then(|s| s.null_count_opt()) == Some(0)
        };
        let wanted = |i: &usize| leaves[*i] != Leaf::MayStay || !full(*i);
        let read: Vec<usize> = (0..leaves.len()).filter(wanted).collect();
        let bytes: i64 = read.iter().map(|i| group.column(*i).uncompressed_size().max(0)).sum();
        let per_row = bytes / group.num_rows().max(1) + 1;
        let honest = (BATCH_BYTES / per_row).clamp(1, BATCH as i64) as usize;
        let batch = honest.min((PAGE_BYTES / self.largest.max(1)).max(1) as usize);
        (ProjectionMask::leaves(schema, read), batch)
    }

    /// The bytes of a cell.
    ///
    /// # Errors
    /// If the file has changed or is damaged, or there are no bytes, or too many.
    pub(super) fn bytes(&self, cell: &Cell) -> Result<Vec<u8>> {
        let mask = ProjectionMask::roots(self.metadata.parquet_schema(), [cell.column]);
        let one = vec![RowSelector::skip(cell.row), RowSelector::select(1)];
        let missing = || Error::data("the image is not in its data file").file(&self.path);
        let mut reader = quiet(|| self.reader(cell.group, mask, 1, Some(one.into())))?;
        let batch = self.next(&mut reader)?.ok_or_else(missing)?;
        let field = self.metadata.schema().fields().get(cell.column).ok_or_else(missing)?;
        let array = batch.columns().first().ok_or_else(missing)?;
        let (mut nth, mut found) = (0, Err(missing()));
        let mut take = |bytes: BytesAt| {
            if let (true, BytesAt::Here(bytes)) = (nth == cell.nth, bytes) {
                let len = bytes.len() as u64;
                found = if len > MAX_FILE_BYTES { Err(too_long(len)) } else { Ok(bytes.to_vec()) };
            }
            nth += 1;
            serde_json::Value::Null
        };
        let cells = cells_of(array.as_ref(), field.data_type());
        cells.value(0, &mut take).map_err(|e| missing().found(e))?;
        found
    }
}

fn damaged(path: &Path, found: impl std::fmt::Display) -> Error {
    Error::data("the Parquet file is damaged")
        .file(path)
        .expected("a complete Parquet file")
        .found(found.to_string().chars().take(300).collect::<String>())
}

/// What becomes of a column of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaf {
    /// It is read with the rows.
    Read,
    /// Bytes that may stay: something beside them says how many there are.
    MayStay,
}

/// The columns that a type has in the file, in their order.
fn leaves_of(data_type: &DataType, counted: bool, out: &mut Vec<Leaf>) {
    let binary = |t: &DataType| matches!(t, DataType::Binary | DataType::LargeBinary);
    match data_type {
        DataType::List(f) | DataType::LargeList(f) => leaves_of(f.data_type(), false, out),
        DataType::FixedSizeList(f, _) | DataType::Map(f, _) => leaves_of(f.data_type(), false, out),
        DataType::Struct(fields) => {
            let beside =
                fields.iter().any(|f| !binary(f.data_type()) && !f.data_type().is_nested());
            fields.iter().for_each(|f| leaves_of(f.data_type(), beside, out));
        }
        t if binary(t) && counted => out.push(Leaf::MayStay),
        _ => out.push(Leaf::Read),
    }
}
