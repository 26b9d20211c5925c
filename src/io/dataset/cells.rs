//! Columns of a table and their cells as JSON, whatever file they are from. Every access is checked: what a
//! file promises and does not hold is an error of the row. Bytes are never turned into JSON; they are handed
//! to whoever asked, who keeps where they are.

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::temporal_conversions as times;
use arrow_array::types::{Decimal128Type, Decimal256Type, DecimalType};
use arrow_buffer::{Buffer, i256};
use arrow_schema::{DataType, TimeUnit};
use serde_json::{Map, Number, Value};

/// What is wrong with a cell, in words.
pub(super) type CellResult<T> = std::result::Result<T, String>;

/// Where the bytes of a cell are.
pub(super) enum BytesAt<'a> {
    /// Here.
    Here(&'a [u8]),
    /// In the table's file: first byte and number of bytes.
    InFile(u64, u64),
    /// In the table's file, not looked at yet.
    Unread,
}

/// Takes the bytes of a cell and says what stands for them.
pub(super) type TakeBytes<'a> = &'a mut dyn FnMut(BytesAt) -> Value;

/// A column of a batch.
pub(super) struct Cells {
    pub(super) len: usize,
    /// Bit `offset + row` is 1 where a value is; none: everywhere.
    pub(super) valid: Option<Bits>,
    pub(super) body: Body,
}

/// Bits, least significant first.
pub(super) struct Bits {
    pub(super) bytes: Buffer,
    pub(super) offset: usize,
}

impl Bits {
    pub(super) fn get(&self, i: usize) -> Option<bool> {
        let at = self.offset.checked_add(i)?;
        Some(self.bytes.get(at / 8)? >> (at % 8) & 1 == 1)
    }
}

/// What a column holds.
pub(super) enum Body {
    /// Nothing.
    Null,
    /// Booleans.
    Bits(Bits),
    /// Numbers and times: `width` bytes each.
    Fixed { data_type: DataType, bytes: Buffer, width: usize },
    /// Texts.
    Text { ends: Ends, bytes: Buffer },
    /// Bytes, in memory or (given where they begin) in the file.
    Binary { ends: Ends, at: BinaryAt },
    /// Bytes that were left in the file.
    Unread,
    /// Lists.
    List { ends: Ends, values: Box<Cells> },
    /// Maps: lists of key and value.
    Struct(Vec<(String, Cells)>),
    /// Numbers of rows of another column.
    Dictionary { keys: Box<Cells>, values: Box<Cells> },
    /// A type that JSON has no form for.
    Unsupported(String),
}

/// Where the values of a binary column are.
pub(super) enum BinaryAt {
    Memory(Buffer),
    File(u64),
}

/// Where each value of a column begins and ends.
pub(super) enum Ends {
    /// Value i is from number i to number i + 1 of these (4 or 8 bytes each).
    Offsets { bytes: Buffer, wide: bool },
    /// All are of one length.
    Even(usize),
}

impl Ends {
    fn of(&self, i: usize) -> Option<(usize, usize)> {
        match self {
            Ends::Even(n) => Some((i.checked_mul(*n)?, i.checked_add(1)?.checked_mul(*n)?)),
            Ends::Offsets { bytes, wide } => {
                let number = |i: usize| -> Option<usize> {
                    let width = if *wide { 8 } else { 4 };
                    let at = i.checked_mul(width)?;
                    let raw = bytes.get(at..at.checked_add(width)?)?;
                    let n = match wide {
                        true => i64::from_le_bytes(raw.try_into().ok()?),
                        false => i64::from(i32::from_le_bytes(raw.try_into().ok()?)),
                    };
                    usize::try_from(n).ok()
                };
                let (start, end) = (number(i)?, number(i.checked_add(1)?)?);
                (start <= end).then_some((start, end))
            }
        }
    }
}

/// More nesting than this is a trick, not data.
const MAX_DEPTH: usize = 64;
/// Most bytes of a value, as it is in memory.
const MAX_CELL: usize = 256 << 20;

impl Cells {
    /// Row `i` as JSON, and about how many bytes it takes.
    ///
    /// # Errors
    /// What the file promises and does not hold, in words.
    pub(super) fn value(&self, i: usize, take: TakeBytes) -> CellResult<(Value, usize)> {
        let mut left = MAX_CELL;
        let value = self.at(i, take, 0, &mut left)?;
        Ok((value, MAX_CELL - left))
    }

    fn at(&self, i: usize, take: TakeBytes, depth: usize, left: &mut usize) -> CellResult<Value> {
        if depth > MAX_DEPTH {
            return Err("values nested too deeply".into());
        }
        let mut spend = |bytes: usize| match left.checked_sub(bytes) {
            Some(rest) => {
                *left = rest;
                Ok(())
            }
            None => Err(format!("more than {} MiB", MAX_CELL >> 20)),
        };
        spend(size_of::<Value>())?;
        let outside = || "a value that lies outside of its column".to_string();
        if i >= self.len {
            return Err(outside());
        }
        if let Some(valid) = &self.valid
            && !valid.get(i).ok_or_else(outside)?
        {
            return Ok(Value::Null);
        }
        match &self.body {
            Body::Null => Ok(Value::Null),
            Body::Bits(bits) => Ok(Value::Bool(bits.get(i).ok_or_else(outside)?)),
            Body::Fixed { data_type, bytes, width } => {
                let start = i.checked_mul(*width).ok_or_else(outside)?;
                let raw = bytes.get(start..start.saturating_add(*width)).ok_or_else(outside)?;
                number(data_type, raw).ok_or_else(outside)
            }
            Body::Text { ends, bytes } => {
                let (start, end) = ends.of(i).ok_or_else(outside)?;
                let raw = bytes.get(start..end).ok_or_else(outside)?;
                spend(raw.len())?;
                match std::str::from_utf8(raw) {
                    Ok(text) => Ok(Value::String(text.to_owned())),
                    Err(e) => Err(format!("a text that is not UTF-8, at byte {}", e.valid_up_to())),
                }
            }
            Body::Unread => Ok(take(BytesAt::Unread)),
            Body::Binary { ends, at } => {
                let (start, end) = ends.of(i).ok_or_else(outside)?;
                Ok(take(match at {
                    BinaryAt::Memory(bytes) => {
                        BytesAt::Here(bytes.get(start..end).ok_or_else(outside)?)
                    }
                    BinaryAt::File(first) => {
                        let place = first.checked_add(start as u64).ok_or_else(outside)?;
                        BytesAt::InFile(place, (end - start) as u64)
                    }
                }))
            }
            Body::List { ends, values } => {
                let (start, end) = ends.of(i).ok_or_else(outside)?;
                // Entries of no bytes (nulls) could be promised without end.
                if end > values.len {
                    return Err(outside());
                }
                let all = start..end;
                all.map(|j| values.at(j, take, depth + 1, left))
                    .collect::<CellResult<_>>()
                    .map(Value::Array)
            }
            Body::Struct(fields) => {
                let mut object = Map::new();
                for (name, cells) in fields {
                    object.insert(name.clone(), cells.at(i, take, depth + 1, left)?);
                }
                Ok(Value::Object(object))
            }
            Body::Dictionary { keys, values } => {
                let key = keys.at(i, take, depth + 1, left)?.as_u64().ok_or_else(outside)?;
                values.at(usize::try_from(key).map_err(|_| outside())?, take, depth + 1, left)
            }
            Body::Unsupported(name) => Err(format!("a value of type {name}, which is not read")),
        }
    }
}

/// Bytes of one value of a type, where all values have the same.
pub(super) fn width_of(data_type: &DataType) -> Option<usize> {
    data_type.primitive_width()
}

/// A number, or the text of a date, a time or a decimal. What is no number is null, as in JSON.
fn number(data_type: &DataType, raw: &[u8]) -> Option<Value> {
    let float = |v: f64| Number::from_f64(v).map_or(Value::Null, Value::Number);
    let signed = |raw: &[u8]| -> Option<i64> {
        Some(match raw.len() {
            1 => i64::from(i8::from_le_bytes(raw.try_into().ok()?)),
            2 => i64::from(i16::from_le_bytes(raw.try_into().ok()?)),
            4 => i64::from(i32::from_le_bytes(raw.try_into().ok()?)),
            _ => i64::from_le_bytes(raw.try_into().ok()?),
        })
    };
    Some(match data_type {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
            Value::from(signed(raw)?)
        }
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => {
            let mut all = [0; 8];
            all.get_mut(..raw.len())?.copy_from_slice(raw);
            Value::from(u64::from_le_bytes(all))
        }
        DataType::Float16 => float(f64::from(half::f16::from_le_bytes(raw.try_into().ok()?))),
        DataType::Float32 => float(f64::from(f32::from_le_bytes(raw.try_into().ok()?))),
        DataType::Float64 => float(f64::from_le_bytes(raw.try_into().ok()?)),
        DataType::Decimal128(p, s) => {
            let value = i128::from_le_bytes(raw.try_into().ok()?);
            Value::String(Decimal128Type::format_decimal(value, *p, *s))
        }
        DataType::Decimal256(p, s) => {
            let value = i256::from_le_bytes(raw.try_into().ok()?);
            Value::String(Decimal256Type::format_decimal(value, *p, *s))
        }
        DataType::Duration(unit) => {
            let unit = match unit {
                TimeUnit::Second => "s",
                TimeUnit::Millisecond => "ms",
                TimeUnit::Microsecond => "us",
                TimeUnit::Nanosecond => "ns",
            };
            Value::String(format!("{} {unit}", signed(raw)?))
        }
        _ => time(data_type, signed(raw)?),
    })
}

/// A date or time as ISO 8601 writes it; null for one that no calendar has.
fn time(data_type: &DataType, value: i64) -> Value {
    let narrow = i32::try_from(value).unwrap_or(i32::MAX);
    let text = match data_type {
        DataType::Date32 => times::date32_to_datetime(narrow).map(|d| d.date().to_string()),
        DataType::Date64 => times::date64_to_datetime(value).map(|d| d.date().to_string()),
        DataType::Time32(TimeUnit::Second) => times::time32s_to_time(narrow).map(|t| t.to_string()),
        DataType::Time32(_) => times::time32ms_to_time(narrow).map(|t| t.to_string()),
        DataType::Time64(TimeUnit::Nanosecond) => {
            times::time64ns_to_time(value).map(|t| t.to_string())
        }
        DataType::Time64(_) => times::time64us_to_time(value).map(|t| t.to_string()),
        DataType::Timestamp(unit, zone) => {
            let datetime = match unit {
                TimeUnit::Second => times::timestamp_s_to_datetime(value),
                TimeUnit::Millisecond => times::timestamp_ms_to_datetime(value),
                TimeUnit::Microsecond => times::timestamp_us_to_datetime(value),
                TimeUnit::Nanosecond => times::timestamp_ns_to_datetime(value),
            };
            // Values with a zone are in UTC.
            let zone = if zone.is_some() { "+00:00" } else { "" };
            datetime.map(|d| format!("{}{zone}", d.to_string().replace(' ', "T")))
        }
        _ => None,
    };
    text.map_or(Value::Null, Value::String)
}

/// The cells of a column that is in memory. `full` is the type that the table's schema gives it: what the
/// array lacks of it was left in the file.
pub(super) fn cells_of(array: &dyn Array, full: &DataType) -> Cells {
    let valid = array.nulls().map(|n| Bits { bytes: n.buffer().clone(), offset: n.offset() });
    let offsets = |bytes: &Buffer, wide: bool| Ends::Offsets { bytes: bytes.clone(), wide };
    let body = match array.data_type() {
        DataType::Null => Some(Body::Null),
        DataType::Boolean => array.as_boolean_opt().map(|a| {
            Body::Bits(Bits { bytes: a.values().inner().clone(), offset: a.values().offset() })
        }),
        DataType::Utf8 => array.as_string_opt::<i32>().map(|a| Body::Text {
            ends: offsets(a.offsets().inner().inner(), false),
            bytes: a.values().clone(),
        }),
        DataType::LargeUtf8 => array.as_string_opt::<i64>().map(|a| Body::Text {
            ends: offsets(a.offsets().inner().inner(), true),
            bytes: a.values().clone(),
        }),
        DataType::Binary => array.as_binary_opt::<i32>().map(|a| Body::Binary {
            ends: offsets(a.offsets().inner().inner(), false),
            at: BinaryAt::Memory(a.values().clone()),
        }),
        DataType::LargeBinary => array.as_binary_opt::<i64>().map(|a| Body::Binary {
            ends: offsets(a.offsets().inner().inner(), true),
            at: BinaryAt::Memory(a.values().clone()),
        }),
        DataType::FixedSizeBinary(n) => array.as_fixed_size_binary_opt().map(|a| Body::Binary {
            ends: Ends::Even(usize::try_from(*n).unwrap_or(0)),
            at: BinaryAt::Memory(Buffer::from(a.value_data().to_vec())),
        }),
        DataType::List(_) => array.as_list_opt::<i32>().map(|a| Body::List {
            ends: offsets(a.offsets().inner().inner(), false),
            values: Box::new(cells_of(a.values(), element_of(full))),
        }),
        DataType::LargeList(_) => array.as_list_opt::<i64>().map(|a| Body::List {
            ends: offsets(a.offsets().inner().inner(), true),
            values: Box::new(cells_of(a.values(), element_of(full))),
        }),
        DataType::FixedSizeList(_, n) => array.as_fixed_size_list_opt().map(|a| Body::List {
            ends: Ends::Even(usize::try_from(*n).unwrap_or(0)),
            values: Box::new(cells_of(a.values(), element_of(full))),
        }),
        DataType::Map(_, _) => array.as_map_opt().map(|a| Body::List {
            ends: offsets(a.offsets().inner().inner(), false),
            values: Box::new(cells_of(a.entries(), element_of(full))),
        }),
        DataType::Struct(_) => array.as_struct_opt().map(|a| Body::Struct(fields_of(a, full))),
        DataType::Dictionary(_, _) => array.as_any_dictionary_opt().map(|a| Body::Dictionary {
            keys: Box::new(cells_of(a.keys(), a.keys().data_type())),
            values: Box::new(cells_of(a.values().as_ref(), a.values().data_type())),
        }),
        other => other.primitive_width().and_then(|width| {
            let data = array.to_data();
            let whole = data.buffers().first()?;
            let start = data.offset().checked_mul(width)?;
            let bytes = (start <= whole.len()).then(|| whole.slice(start))?;
            Some(Body::Fixed { data_type: other.clone(), bytes, width })
        }),
    };
    let unsupported = || Body::Unsupported(array.data_type().to_string());
    Cells { len: array.len(), valid, body: body.unwrap_or_else(unsupported) }
}

/// The type of a list's values; the type itself where it is no list.
fn element_of(list: &DataType) -> &DataType {
    match list {
        DataType::List(f) | DataType::LargeList(f) => f.data_type(),
        DataType::FixedSizeList(f, _) | DataType::Map(f, _) => f.data_type(),
        other => other,
    }
}

/// The fields that the full type has; those that the array lacks were left in the file.
fn fields_of(array: &arrow_array::StructArray, full: &DataType) -> Vec<(String, Cells)> {
    let DataType::Struct(fields) = full else { return Vec::new() };
    let field = |f: &arrow_schema::FieldRef| {
        let cells = match array.column_by_name(f.name()) {
            Some(column) => cells_of(column.as_ref(), f.data_type()),
            None => Cells { len: array.len(), valid: None, body: Body::Unread },
        };
        (f.name().clone(), cells)
    };
    fields.iter().map(field).collect()
}
