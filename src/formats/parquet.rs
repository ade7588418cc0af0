#![forbid(unsafe_code)]
//! Maps of dirty extents as Parquet, for SQL engines: the columns stand in `docs/formats/parquet.md`.
//!
//! ```
//! use checkmap::formats::parquet::{Rows, Writer};
//! use checkmap::{Bitmap, Granularity};
//!
//! let mut bitmap = Bitmap::new(1 << 30, Granularity::from_bytes(65536)?)?;
//! bitmap.set(1 << 20, 65536)?;
//! let mut file = Vec::new();
//! let mut writer = Writer::new(Rows::Extents, "web-1", &mut file)?;
//! writer.write(Some("monday"), None, &bitmap, 0, u64::MAX)?;
//! writer.finish()?;
//! assert!(file.starts_with(b"PAR1") && file.ends_with(b"PAR1"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

// Owns these columns and how they are encoded. Must never know where a bitmap came from, nor where the bytes go.

use crate::bitmap::Bitmap;
use crate::error::{Error, ErrorKind, Result};
use crate::memory;
use parquet::basic::{Compression, Encoding};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;
use std::io::{self, Write};
use std::sync::Arc;

/// A row group has no more rows than these, and 16 bytes of memory are held for each.
const GROUP_ROWS: usize = 1 << 20;

/// The most rows of one call for a column that has the same value in all rows.
const PIECE_ROWS: usize = 1 << 13;

/// A value is no longer than this, so that the page that holds it can tell its length in 31 bits, with room for its head.
const MOST_VALUE_BYTES: u64 = 1 << 30;

const EXTENTS: &str = "message extents {
    required binary disk (UTF8); optional binary since (UTF8); optional binary until (UTF8);
    required int64 start; required int64 length; required int64 granularity; required int64 virtual_size;
}";

const ROARING: &str = "message intervals {
    required binary disk (UTF8); optional binary since (UTF8); optional binary until (UTF8);
    required int64 virtual_size; required int64 granularity; required int64 dirty_bytes; required int64 dirty_extents;
    required binary roaring;
}";

/// What a row stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// A dirty extent, in bytes of the disk.
    Extents,
    /// An interval, also where nothing is dirty in it, with its dirty granules as a portable 64-bit Roaring bitmap.
    Roaring,
}

/// A Parquet file in the making: a map after the other, then the end without which no reader takes it.
///
/// Memory for one row group is held, whatever the length of the map: about 32 MiB for extents, and for Roaring four times
/// the bitmap.
pub struct Writer<'a> {
    rows: Rows,
    disk: ByteArray,
    /// The rows of one group are in memory, and go to `out` when the group is complete.
    file: SerializedFileWriter<Vec<u8>>,
    out: &'a mut dyn Write,
}

impl std::fmt::Debug for Writer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl<'a> Writer<'a> {
    /// Begins a file whose rows are all of the disk named `disk`.
    pub fn new(rows: Rows, disk: &str, out: &'a mut dyn Write) -> io::Result<Self> {
        let schema = parse_message_type(match rows {
            Rows::Extents => EXTENTS,
            Rows::Roaring => ROARING,
        });
        let start = ColumnPath::from("start");
        let roaring = ColumnPath::from("roaring");
        // Snappy makes ascending offsets half as long again, see docs/formats/parquet.md; every reader has it.
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .set_column_dictionary_enabled(start.clone(), false)
            .set_column_encoding(start, Encoding::DELTA_BINARY_PACKED)
            // Where the lengths are too many for a dictionary.
            .set_column_encoding(ColumnPath::from("length"), Encoding::DELTA_BINARY_PACKED)
            .set_column_dictionary_enabled(roaring.clone(), false)
            .set_column_statistics_enabled(roaring.clone(), EnabledStatistics::None)
            // Roaring is compressed already.
            .set_column_compression(roaring, Compression::UNCOMPRESSED);
        let schema = Arc::new(schema.map_err(of_parquet)?);
        let file = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties.build())).map_err(of_parquet)?;
        Ok(Self { rows, disk: disk.into(), file, out })
    }

    /// Refuses a bitmap that has no place in a value ([`ErrorKind::CannotStore`]), before anything is written of it.
    pub fn check(rows: Rows, bitmap: &Bitmap) -> Result<()> {
        let len_bytes = bitmap.serialized_len();
        if rows == Rows::Roaring && len_bytes > MOST_VALUE_BYTES {
            let message = format!(
                "the Roaring bitmap takes {len_bytes} bytes, and a value of Parquet here {MOST_VALUE_BYTES} at most"
            );
            return Err(Error::new(ErrorKind::CannotStore, message).advise("take rows of extents, or another format"));
        }
        Ok(())
    }

    /// Notes a fact of the whole file, beside its schema.
    pub fn note(&mut self, key: &str, value: &str) {
        self.file.append_key_value_metadata(KeyValue::new(key.to_owned(), value.to_owned()));
    }

    /// Writes the rows of one interval: the dirty extents in the window of `bitmap` from `offset` on, `len_bytes` long, cut
    /// at the disk's end; `u64::MAX` is "to the end". Outside of the window the bitmap must be clean. `None` for `since` is
    /// "of no interval", and for `until` "now".
    pub fn write(
        &mut self,
        since: Option<&str>,
        until: Option<&str>,
        bitmap: &Bitmap,
        offset: u64,
        len_bytes: u64,
    ) -> io::Result<()> {
        let names = Names { disk: self.disk.clone(), since: since.map(Into::into), until: until.map(Into::into) };
        let extents = bitmap.extents(offset, len_bytes);
        match self.rows {
            Rows::Extents => self.write_extents(&names, bitmap, extents),
            Rows::Roaring => {
                let (mut number, mut bytes) = (0, 0);
                for extent in extents {
                    (number, bytes) = (number + 1, bytes + extent.len_bytes);
                }
                self.write_roaring(&names, bitmap, (number, bytes))
            }
        }
    }

    fn write_extents(
        &mut self,
        names: &Names,
        bitmap: &Bitmap,
        extents: impl Iterator<Item = crate::geometry::Extent>,
    ) -> io::Result<()> {
        let (granularity, size) = (signed(bitmap.granularity().bytes())?, signed(bitmap.size_bytes())?);
        let mut extents = extents.peekable();
        let (mut starts, mut lengths) = (Vec::new(), Vec::new());
        while extents.peek().is_some() {
            starts.clear();
            lengths.clear();
            for extent in extents.by_ref().take(GROUP_ROWS) {
                memory::push(&mut starts, signed(extent.offset)?)?;
                memory::push(&mut lengths, signed(extent.len_bytes)?)?;
            }
            let rows = starts.len();
            let mut group = self.file.next_row_group().map_err(of_parquet)?;
            names.put(&mut group, rows)?;
            put::<Int64Type>(&mut group, &starts)?;
            put::<Int64Type>(&mut group, &lengths)?;
            put_same::<Int64Type>(&mut group, &Some(granularity), rows, false)?;
            put_same::<Int64Type>(&mut group, &Some(size), rows, false)?;
            group.close().map_err(of_parquet)?;
            self.pass_on()?;
        }
        Ok(())
    }

    fn write_roaring(&mut self, names: &Names, bitmap: &Bitmap, (number, bytes): (u64, u64)) -> io::Result<()> {
        let roaring = bitmap.to_roaring().map_err(io::Error::other)?;
        let mut group = self.file.next_row_group().map_err(of_parquet)?;
        names.put(&mut group, 1)?;
        for number in [bitmap.size_bytes(), bitmap.granularity().bytes(), bytes, number] {
            put::<Int64Type>(&mut group, &[signed(number)?])?;
        }
        put::<ByteArrayType>(&mut group, &[roaring.into()])?;
        group.close().map_err(of_parquet)?;
        self.pass_on()
    }

    /// Ends the file.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.finish().map_err(of_parquet)?;
        self.pass_on()
    }

    /// Hands over the complete groups.
    fn pass_on(&mut self) -> io::Result<()> {
        self.file.flush()?;
        let written = self.file.inner_mut();
        self.out.write_all(written)?;
        written.clear();
        Ok(())
    }
}

/// The columns that are the same in all rows of an interval.
struct Names {
    disk: ByteArray,
    since: Option<ByteArray>,
    until: Option<ByteArray>,
}

impl Names {
    fn put(&self, group: &mut SerializedRowGroupWriter<'_, Vec<u8>>, rows: usize) -> io::Result<()> {
        put_same::<ByteArrayType>(group, &Some(self.disk.clone()), rows, false)?;
        put_same::<ByteArrayType>(group, &self.since, rows, true)?;
        put_same::<ByteArrayType>(group, &self.until, rows, true)
    }
}

/// Writes the next column, in which every row has a value.
fn put<T: DataType>(group: &mut SerializedRowGroupWriter<'_, Vec<u8>>, values: &[T::T]) -> io::Result<()> {
    let mut column = group.next_column().map_err(of_parquet)?.ok_or_else(|| io::Error::other("a column is missing"))?;
    column.typed::<T>().write_batch(values, None, None).map_err(of_parquet)?;
    column.close().map_err(of_parquet)
}

/// Writes the next column, which is the same in all rows; nothing in any of them for `None`, where it `is_optional`.
fn put_same<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    value: &Option<T::T>,
    rows: usize,
    is_optional: bool,
) -> io::Result<()> {
    let mut column = group.next_column().map_err(of_parquet)?.ok_or_else(|| io::Error::other("a column is missing"))?;
    let piece = rows.min(PIECE_ROWS);
    let values = value.as_ref().map_or_else(Vec::new, |value| vec![value.clone(); piece]);
    let levels = vec![i16::from(value.is_some()); piece];
    let mut left = rows;
    while left > 0 {
        let now = left.min(piece);
        let values = values.get(..now).unwrap_or_default();
        let levels = is_optional.then(|| levels.get(..now).unwrap_or_default());
        column.typed::<T>().write_batch(values, levels, None).map_err(of_parquet)?;
        left -= now;
    }
    column.close().map_err(of_parquet)
}

/// SQL engines have no good unsigned sums. No offset of a disk is larger, see [`crate::geometry::MAX_DISK_BYTES`].
fn signed(number: u64) -> io::Result<i64> {
    i64::try_from(number).map_err(io::Error::other)
}

fn of_parquet(error: ParquetError) -> io::Error {
    io::Error::other(error)
}
