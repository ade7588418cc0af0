#![forbid(unsafe_code)]
//! Owns the formats in which diff and dump give a map of dirty blocks, and the window they are cut to. Must never know
//! how the bits were found.

use crate::args::MapArgs;
use crate::compared::Hash;
use crate::exit::Failure;
use crate::output::Destination;
use crate::rows::{RowsWish, Sheet};
use crate::session::Session;
use crate::words::{amount, count, hex, text};
use checkmap::chain::{Interval, Name};
use checkmap::formats::extents;
use checkmap::{Bitmap, Image, segment};
use std::io::Write;
use std::path::Path;

/// The format of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// One JSON document with the dirty extents
    Json,
    /// For people
    Table,
    /// One dirty extent a line: start,length in bytes
    Csv,
    /// What `nbdinfo --map=qemu:dirty-bitmap:NAME --json` prints
    Nbdinfo,
    /// What `qemu-img map --output=json` prints over NBD with x-dirty-bitmap: dirty blocks are absent
    QemuMap,
    /// Indices of dirty granules as portable 64-bit Roaring (binary)
    Roaring,
    /// One bit for each granule, least significant bit first (binary)
    Raw,
    /// A file for `checkmap segment`: indexed, with checksums (binary)
    Segment,
    /// The SHA-256 of the bits as QEMU computes it, for `checkmap compare --sha256`
    Sha256,
    /// A row for each dirty extent, for SQL engines (binary; in builds with Parquet)
    Parquet,
    /// A row for each interval, with its granules as Roaring (binary; in builds with Parquet)
    ParquetRoaring,
}

/// What the map is of, for the formats that say it.
#[derive(Debug)]
pub(crate) enum Subject {
    /// What changed since a checkpoint, until another or now.
    Diff { since: Name, until: Option<Name> },
    /// One bitmap, and the interval it covers where that is known.
    Bitmap { name: Name, interval: Option<Interval> },
}

/// What the person wants of the map; checked as far as the command line alone can tell.
#[derive(Debug)]
pub(crate) struct Wish {
    format: Format,
    only_sums: bool,
    destination: Destination,
    start: u64,
    length: u64,
    /// Of formats that are rows.
    rows: Option<RowsWish>,
}

impl Wish {
    pub(crate) fn new(args: &MapArgs, image: Option<&Path>, each_interval: bool) -> Result<Self, Failure> {
        let format = match (args.json, args.format) {
            (true, None | Some(Format::Json)) => Format::Json,
            (true, Some(_)) => return Err(Failure::Usage("--json and another --format contradict each other".into())),
            (false, format) => format.unwrap_or(Format::Table),
        };
        if args.summary && !matches!(format, Format::Json | Format::Table) {
            return Err(Failure::Usage("--summary is for tables and JSON only".into()));
        }
        if format == Format::Sha256 && (args.start, args.length) != (0, None) {
            return Err(Failure::Usage("--format sha256 is for whole bitmaps, without --start and --length".into()));
        }
        let rows = RowsWish::new(args, format, each_interval)?;
        let is_binary = matches!(format, Format::Roaring | Format::Raw | Format::Segment) || rows.is_some();
        let destination = Destination::new(args.output.as_deref(), image, is_binary)?;
        Ok(Self {
            format,
            only_sums: args.summary,
            destination,
            start: args.start,
            length: args.length.unwrap_or(u64::MAX),
            rows,
        })
    }

    /// The window of the disk: its first byte, and its length.
    pub(crate) fn window(&self) -> (u64, u64) {
        (self.start, self.length)
    }

    /// Refuses what only the image can tell: a window that begins past its disk, an output that is a part of it.
    pub(crate) fn check(&self, image: &Image) -> Result<(), Failure> {
        self.check_start(image.virtual_size())?;
        self.destination.refuse_parts_of(image)
    }

    /// Refuses a window that begins past the end of a disk of this size.
    pub(crate) fn check_start(&self, size_bytes: u64) -> Result<(), Failure> {
        if self.start > size_bytes {
            let message = format!("--start {} is past the end of the disk at {size_bytes}", self.start);
            return Err(Failure::Usage(message));
        }
        Ok(())
    }

    /// Writes rows, which `fill` adds; those of the disk that is called `disk`, unless the person has a name for it.
    pub(crate) fn write_rows(
        self,
        session: &Session,
        disk: &[u8],
        fill: impl FnOnce(&mut Sheet<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let Some(wish) = self.rows else { return Err(Failure::Usage("this format has no rows".into())) };
        self.destination.write(session, |out| {
            let mut sheet = Sheet::begin(&wish, disk, out)?;
            fill(&mut sheet)?;
            sheet.end()
        })
    }

    /// Writes the map of `bitmap`, which is clean outside of the window, of the disk that is called `disk`.
    pub(crate) fn write(
        self,
        session: &Session,
        disk: &[u8],
        bitmap: &Bitmap,
        subject: &Subject,
    ) -> Result<(), Failure> {
        if self.rows.is_some() {
            return self.write_rows(session, disk, |sheet| sheet.add(subject, bitmap));
        }
        let map = Map { bitmap, start: self.start, length: self.length, only_sums: self.only_sums };
        let unit = bitmap.granularity().bytes() * 8;
        if self.format == Format::Raw && !self.start.is_multiple_of(unit) {
            let message = format!("--start {} is no multiple of {unit}: raw begins at whole bytes of bits", self.start);
            return Err(Failure::Usage(message));
        }
        self.destination.write(session, |out| match self.format {
            Format::Json => map.write_json(subject, out),
            Format::Table => map.write_table(subject, out),
            Format::Csv => Ok(extents::write_csv(bitmap, self.start, self.length, out)?),
            Format::Nbdinfo => Ok(extents::write_nbdinfo(bitmap, self.start, self.length, out)?),
            Format::QemuMap => Ok(extents::write_qemu_map(bitmap, self.start, self.length, out)?),
            Format::Roaring => map.write_roaring(out),
            Format::Raw => map.write_raw(out),
            Format::Segment => map.write_segment(out),
            Format::Sha256 => Ok(writeln!(out, "{}", Hash(bitmap.sha256()?))?),
            // They have been written above.
            Format::Parquet | Format::ParquetRoaring => Ok(()),
        })
    }
}

struct Map<'a> {
    bitmap: &'a Bitmap,
    start: u64,
    length: u64,
    only_sums: bool,
}

impl Map<'_> {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.length).min(self.bitmap.size_bytes())
    }

    /// The number of extents in the window, and of the bytes in them.
    fn totals(&self) -> (u64, u64) {
        let extents = self.bitmap.extents(self.start, self.length);
        extents.fold((0, 0), |(number, bytes), extent| (number + 1, bytes + extent.len_bytes))
    }

    fn write_json(&self, subject: &Subject, out: &mut dyn Write) -> Result<(), Failure> {
        let (size, granularity) = (self.bitmap.size_bytes(), self.bitmap.granularity().bytes());
        write!(out, "{{\"virtual_size\": {size}, \"granularity\": {granularity}")?;
        let (since, until) = match subject {
            Subject::Diff { since, until } => (Some(since), until.as_ref()),
            Subject::Bitmap { name, interval } => {
                write_name(out, "bitmap", Some(name))?;
                let until = interval.as_ref().and_then(|interval| interval.until.checkpoint());
                (interval.as_ref().map(|interval| &interval.since), until)
            }
        };
        write_name(out, "since", since)?;
        write_name(out, "until", until)?;
        let (number, bytes) = self.totals();
        if self.only_sums {
            return Ok(writeln!(out, ", \"dirty_bytes\": {bytes}, \"dirty_extents\": {number}}}")?);
        }
        write!(out, ", \"dirty_bytes\": {bytes},\n \"extents\": ")?;
        extents::write_json_array(self.bitmap, self.start, self.length, out)?;
        out.write_all(b"}\n")?;
        Ok(())
    }

    fn write_table(&self, subject: &Subject, out: &mut dyn Write) -> Result<(), Failure> {
        let subject = match subject {
            Subject::Diff { since, until: None } => format!("changed since {since}"),
            Subject::Diff { since, until: Some(until) } => format!("changed since {since} until {until}"),
            Subject::Bitmap { name, .. } => format!("dirty in bitmap {name}"),
        };
        let (number, bytes) = self.totals();
        let (size, granularity) = (self.bitmap.size_bytes(), self.bitmap.granularity().bytes());
        write!(out, "{subject}: {}, {} of {}", count(number, "extent"), amount(bytes), amount(size))?;
        if self.start > 0 || self.end() < size {
            write!(out, ", looking at bytes {} to {} only", self.start, self.end())?;
        }
        writeln!(out, ", granularity {}", amount(granularity))?;
        if number == 0 || self.only_sums {
            return Ok(());
        }
        let width = self.bitmap.size_bytes().to_string().len().max("length".len());
        writeln!(out, "{:>width$}  {:>width$}", "start", "length")?;
        for extent in self.bitmap.extents(self.start, self.length) {
            writeln!(out, "{:>width$}  {:>width$}  {}", extent.offset, extent.len_bytes, amount(extent.len_bytes))?;
        }
        Ok(())
    }

    /// By the granules' numbers on the whole disk.
    fn write_roaring(&self, mut out: &mut dyn Write) -> Result<(), Failure> {
        Ok(self.bitmap.write_roaring(&mut out)?)
    }

    fn write_segment(&self, out: &mut dyn Write) -> Result<(), Failure> {
        segment::write(self.bitmap, out)?;
        Ok(())
    }

    /// The bits of the window piece by piece, since a flat bitmap of a large disk does not fit into memory.
    fn write_raw(&self, out: &mut dyn Write) -> Result<(), Failure> {
        let granularity = self.bitmap.granularity();
        let mut piece = [0; 1 << 16];
        let mut offset = self.start;
        while offset < self.end() {
            let bits = granularity.granules(self.end() - offset).min(piece.len() as u64 * 8);
            let len_bytes = usize::try_from(bits.div_ceil(8)).unwrap_or_default();
            let Some(bytes) = piece.get_mut(..len_bytes) else { break };
            self.bitmap.copy_bits(offset, bytes)?;
            if let (Some(last), used @ 1..) = (bytes.last_mut(), bits % 8) {
                *last &= !(u8::MAX << used);
            }
            out.write_all(bytes)?;
            offset += bits * granularity.bytes();
        }
        Ok(())
    }
}

/// A member of a JSON object whose value is a name or null, and its exact bytes where JSON cannot carry them.
fn write_name(out: &mut dyn Write, key: &str, name: Option<&Name>) -> Result<(), Failure> {
    let quoted = name.map(text).map_or(serde_json::Value::Null, serde_json::Value::from);
    write!(out, ", \"{key}\": {quoted}")?;
    if let Some(hex) = name.and_then(hex) {
        write!(out, ", \"{key}_hex\": \"{hex}\"")?;
    }
    Ok(())
}
