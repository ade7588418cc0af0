#![forbid(unsafe_code)]
//! Owns bitmap tables and the data they point to: which clusters of the file hold which bits of a bitmap.
//! Must never decide on their fate.

use super::directory::{Entry, payload_bytes, table_entries};
use super::file::Qcow2File;
use super::header::Header;
use super::occupied::Occupied;
use crate::bitmap::Bitmap;
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::geometry::{Granularity, check_disk};
use crate::io::Storage;
use crate::io::bytes::{be_u64s, file_len, read_exact, read_padded};
use crate::memory;
use crate::pool::map_ordered;
use std::fmt::Display;
use std::ops::Range;

const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const ALL_ONES: u64 = 1;

/// The meaning of one entry of a bitmap table: its cluster of payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    /// Every bit is clear.
    Zeros,
    /// Every bit is set.
    Ones,
    /// The bits stand at this offset of the file.
    At(u64),
}

impl Payload {
    fn parse(entry: u64, cluster_bytes: u64) -> std::result::Result<Self, String> {
        let offset = entry & OFFSET_MASK;
        match (offset, entry & !OFFSET_MASK) {
            (0, 0) => Ok(Payload::Zeros),
            (0, ALL_ONES) => Ok(Payload::Ones),
            (_, 0) if offset.is_multiple_of(cluster_bytes) => Ok(Payload::At(offset)),
            (_, 0) => Err(format!("the data's offset {offset:#x} is not at the start of a cluster")),
            (_, reserved) => Err(format!("the reserved bits {reserved:#x} are set in entry {entry:#x}")),
        }
    }

    pub(crate) fn encode(self) -> u64 {
        match self {
            Payload::Zeros => 0,
            Payload::Ones => ALL_ONES,
            Payload::At(offset) => offset,
        }
    }

    pub(crate) fn offset(self) -> Option<u64> {
        match self {
            Payload::At(offset) => Some(offset),
            _ => None,
        }
    }
}

/// How the bits of one bitmap lie in clusters of payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) size_bytes: u64,
    pub(crate) granularity: Granularity,
    pub(crate) cluster_bytes: u64,
}

impl Shape {
    pub(crate) fn of(header: &Header, granularity: Granularity) -> Self {
        Self { size_bytes: header.size_bytes, granularity, cluster_bytes: header.cluster_bytes() }
    }

    pub(crate) fn entries(&self) -> u64 {
        table_entries(self.size_bytes, self.granularity, self.cluster_bytes)
    }

    /// The granules that one whole cluster of payload covers.
    fn granules_per_cluster(&self) -> u64 {
        self.cluster_bytes * 8
    }

    /// The bytes of the disk that one whole cluster of payload covers.
    pub(crate) fn covered_bytes(&self) -> u64 {
        self.granules_per_cluster() << self.granularity.bits()
    }

    /// The payload bytes in cluster `number` that stand for granules of the disk.
    pub(crate) fn payload_in(&self, number: u64) -> u64 {
        payload_bytes(self.size_bytes, self.granularity)
            .saturating_sub(number * self.cluster_bytes)
            .min(self.cluster_bytes)
    }

    /// Whether every bit of cluster `number` stands for a granule of the disk.
    pub(crate) fn is_whole(&self, number: u64) -> bool {
        (number + 1) * self.granules_per_cluster() <= self.granularity.granules(self.size_bytes)
    }

    /// Clears the bits of cluster `number` that stand for nothing; true if any was set.
    pub(crate) fn mask_tail(&self, number: u64, bytes: &mut [u8]) -> bool {
        let granules = self.granularity.granules(self.size_bytes).saturating_sub(number * self.granules_per_cluster());
        let mut masked = false;
        for (index, byte) in bytes.iter_mut().enumerate() {
            let used = granules.saturating_sub(index as u64 * 8).min(8);
            let keep = u8::try_from((1_u32 << used) - 1).unwrap_or(u8::MAX);
            masked |= *byte & !keep != 0;
            *byte &= keep;
        }
        masked
    }

    /// The payload of cluster `number`, zero-filled to the whole cluster, and whether tail bits had to be masked.
    pub(crate) fn read(
        &self,
        storage: &dyn Storage,
        name: &dyn Display,
        number: u64,
        payload: Payload,
    ) -> Result<(Vec<u8>, bool)> {
        let cluster_len = usize::try_from(self.cluster_bytes).unwrap_or(usize::MAX);
        let mut bytes = match payload {
            Payload::Zeros => memory::zeroed(cluster_len)?,
            Payload::Ones => memory::gather(std::iter::repeat_n(0xff, cluster_len))?,
            Payload::At(offset) => {
                // A writer need not pad its last cluster: only the payload itself must be there.
                let mut bytes = read_exact(
                    storage,
                    &format_args!("qcow2 data of bitmap {name}, cluster {number}"),
                    offset,
                    self.payload_in(number),
                )?;
                memory::resize(&mut bytes, cluster_len)?;
                bytes
            }
        };
        let masked = !self.is_whole(number) && self.mask_tail(number, &mut bytes);
        Ok((bytes, masked))
    }
}

/// So much of a table is in memory at a time.
const PIECE_BYTES: usize = 1 << 20;

/// The table of `entry`, every entry checked, the data's place in the file included.
pub(super) fn read(file: Qcow2File<'_>, entry: &Entry) -> Result<Vec<Payload>> {
    read_range(file, entry, 0..u64::from(entry.table_entries))
}

/// The table's entries in `window`, every one checked.
pub(super) fn read_range(file: Qcow2File<'_>, entry: &Entry, window: Range<u64>) -> Result<Vec<Payload>> {
    let mut table = Vec::new();
    for_each(file, entry, window, &mut |_, payload| Ok(memory::push(&mut table, payload?)?))?;
    Ok(table)
}

/// Calls `each` for the table's entries in `window`: their number, and the payload or its fault.
pub(super) fn for_each(
    file: Qcow2File<'_>,
    entry: &Entry,
    window: Range<u64>,
    each: &mut dyn FnMut(u64, Result<Payload>) -> Result<()>,
) -> Result<()> {
    let Qcow2File { storage, header, .. } = file;
    let file_end = file_len(storage)?;
    check_place(header, entry, file_end)?;
    let shape = Shape::of(header, entry.granularity);
    for start in window.clone().step_by(PIECE_BYTES / 8) {
        let end = window.end.min(start + (PIECE_BYTES / 8) as u64);
        let at = entry.table_offset + start * 8;
        let len = (end - start) * 8;
        // Bytes that the last cluster of the file lacks read as zeros.
        let bytes = match at < file_end {
            true => {
                let structure = format_args!("qcow2 table of bitmap {}", entry.name);
                read_padded(storage, &structure, at, len, header.cluster_bytes())?
            }
            false => memory::zeroed(usize::try_from(len).unwrap_or(usize::MAX))?,
        };
        for (number, raw) in (start..).zip(be_u64s(&bytes)?) {
            each(number, parse(raw, number, entry, &shape, file_end))?;
        }
    }
    Ok(())
}

fn structure(entry: &Entry) -> String {
    format!("qcow2 table of bitmap {}", entry.name)
}

/// The bytes of the table of `entry`.
pub(crate) fn len_bytes(entry: &Entry) -> u64 {
    u64::from(entry.table_entries) * 8
}

/// The clusters of the table of `entry`.
pub(crate) fn clusters(header: &Header, entry: &Entry) -> Range<u64> {
    let end = entry.table_offset.saturating_add(len_bytes(entry));
    entry.table_offset >> header.cluster_bits..end.div_ceil(header.cluster_bytes())
}

/// Refuses a table that does not lie in the file, whose last cluster need not be filled. A table of which the file has
/// nothing may be one that was lost.
fn check_place(header: &Header, entry: &Entry, file_end: u64) -> Result<()> {
    let (base, len_bytes) = (entry.table_offset, len_bytes(entry));
    let reach = file_end.next_multiple_of(header.cluster_bytes());
    if base >= file_end || base.checked_add(len_bytes).is_none_or(|table_end| table_end > reach) {
        let message =
            format!("{len_bytes} bytes are needed, but the file ends at {file_end:#x}; it is cut short or damaged");
        return Err(unreadable(entry, entry.table_offset, message));
    }
    Ok(())
}

/// The error for a table in a cluster of something else.
pub(crate) fn shared_table(entry: &Entry) -> Error {
    unreadable(entry, entry.table_offset, "the table overlaps another structure, so its bits cannot be trusted".into())
}

fn parse(raw: u64, number: u64, entry: &Entry, shape: &Shape, file_end: u64) -> Result<Payload> {
    let at = entry.table_offset + number * 8;
    let payload = Payload::parse(raw, shape.cluster_bytes).map_err(|message| unreadable(entry, at, message))?;
    if let Payload::At(offset) = payload
        && offset.checked_add(shape.payload_in(number).max(1)).is_none_or(|data_end| data_end > file_end)
    {
        let message =
            format!("the data at {offset:#x} lies past the file's end at {file_end:#x}; it is cut short or damaged");
        return Err(unreadable(entry, at, message));
    }
    Ok(payload)
}

/// The error for a bitmap of which a cluster cannot be trusted, found in its table at the offset `at`.
pub(crate) fn unreadable(entry: &Entry, at: u64, message: String) -> Error {
    Error::new(ErrorKind::Damaged, message).at(structure(entry), at).advise(
        WayOut::from("restore the file from a copy; or remove this bitmap, before anything repairs the image, with ")
            .control(Control::ForceInconsistent)
            .words(" or ")
            .control(Control::DropBitmapNamed(entry.name.as_bytes().to_vec()))
            .words(", and make the next backup a full one"),
    )
}

/// Fewer clusters than these are read before threads would have started.
pub(crate) const FEW: usize = 64;

/// The bits of `entry` that stand for the `window` of the disk; clusters outside it are not read, their bits left clear.
///
/// A cluster that [`Occupied`] calls into doubt is refused.
pub(super) fn load(
    file: Qcow2File<'_>,
    entry: &Entry,
    occupied: &Occupied,
    window: Range<u64>,
    threads: usize,
) -> Result<Bitmap> {
    let Qcow2File { storage, header, .. } = file;
    let shape = Shape::of(header, entry.granularity);
    check_disk(shape.size_bytes, shape.granularity)?;
    let bitmap = Bitmap::new(shape.size_bytes, shape.granularity)?;
    if window.is_empty() {
        return Ok(bitmap);
    }
    let (first, last) = (window.start / shape.covered_bytes(), (window.end - 1) / shape.covered_bytes());
    occupied.check_table(header, entry)?;
    let table = read_range(file, entry, first..last + 1)?;
    let held = memory::gather((first..).zip(table).filter(|(_, payload)| *payload != Payload::Zeros))?;
    let read = |part: &[(u64, Payload)]| {
        let mut bitmap = bitmap.try_clone()?;
        for &(number, payload) in part {
            let start = number * shape.covered_bytes();
            if payload == Payload::Ones {
                bitmap.set(start, shape.covered_bytes().min(shape.size_bytes - start))?;
            } else {
                occupied.check_data(header, entry, number, payload)?;
                bitmap.set_bits(start, &shape.read(storage, &entry.name, number, payload)?.0)?;
            }
        }
        Ok(bitmap)
    };
    if threads <= 1 || held.len() < FEW {
        return read(&held);
    }
    // Several parts for each thread, since some are read faster than others; the first error in their order counts.
    let parts = memory::gather(held.chunks(held.len().div_ceil(4 * threads).max(FEW / 4)))?;
    let mut parts = map_ordered(threads, parts, read)?.into_iter();
    let mut whole = parts.next().unwrap_or(Ok(bitmap))?;
    parts.try_for_each(|part| whole.union_with(&part?))?;
    Ok(whole)
}
