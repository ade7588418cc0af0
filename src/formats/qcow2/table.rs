#![forbid(unsafe_code)]
//! Owns bitmap tables and the data they point to: which clusters of the file hold which bits of a bitmap.
//! Must never decide what becomes of them.

use super::directory::{Entry, payload_bytes, table_entries};
use super::header::Header;
use crate::bitmap::Bitmap;
use crate::error::{Error, ErrorKind, Result};
use crate::formats::bytes::{be_u64s, file_len, read_exact, read_padded};
use crate::geometry::{Granularity, check_disk};
use crate::pool::map_ordered;
use crate::storage::Storage;
use std::ops::Range;

const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const ALL_ONES: u64 = 1;

/// What one entry of a bitmap table says of its cluster of payload.
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
    fn parse(entry: u64, cluster_bytes: u64) -> Result<Self> {
        let damaged = |message: String| Err(Error::new(ErrorKind::Damaged, message));
        let offset = entry & OFFSET_MASK;
        match (offset, entry & !OFFSET_MASK) {
            (0, 0) => Ok(Payload::Zeros),
            (0, ALL_ONES) => Ok(Payload::Ones),
            (_, 0) if offset.is_multiple_of(cluster_bytes) => Ok(Payload::At(offset)),
            (_, 0) => damaged(format!("the data's offset {offset:#x} is not at the start of a cluster")),
            (_, reserved) => damaged(format!("the reserved bits {reserved:#x} are set in entry {entry:#x}")),
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
    pub(crate) fn granules_per_cluster(&self) -> u64 {
        self.cluster_bytes * 8
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
        name: &str,
        number: u64,
        payload: Payload,
    ) -> Result<(Vec<u8>, bool)> {
        let cluster_len = usize::try_from(self.cluster_bytes).unwrap_or(usize::MAX);
        let mut bytes = match payload {
            Payload::Zeros => vec![0; cluster_len],
            Payload::Ones => vec![0xff; cluster_len],
            Payload::At(offset) => {
                let structure = format!("qcow2 data of bitmap {name}, cluster {number}");
                // A writer need not pad its last cluster: only the payload itself must be there.
                let mut bytes = read_exact(storage, &structure, offset, self.payload_in(number))?;
                bytes.resize(cluster_len, 0);
                bytes
            }
        };
        let masked = !self.is_whole(number) && self.mask_tail(number, &mut bytes);
        Ok((bytes, masked))
    }
}

/// The table of `entry`, every entry checked, the data's place in the file included.
pub(crate) fn read(storage: &dyn Storage, header: &Header, entry: &Entry) -> Result<Vec<Payload>> {
    read_range(storage, header, entry, 0, u64::from(entry.table_entries))
}

/// The table's entries from `first` up to `end`.
fn read_range(storage: &dyn Storage, header: &Header, entry: &Entry, first: u64, end: u64) -> Result<Vec<Payload>> {
    let structure = format!("qcow2 table of bitmap {}", entry.name);
    let (base, cluster_bytes) = (entry.table_offset, header.cluster_bytes());
    let whole = u64::from(entry.table_entries) * 8;
    let file_end = file_len(storage)?;
    // The last cluster of the file need not be filled. A table of which the file has nothing may be one that was lost.
    let reach = file_end.next_multiple_of(cluster_bytes);
    if base >= file_end || base.checked_add(whole).is_none_or(|table_end| table_end > reach) {
        let message =
            format!("{whole} bytes are needed, but the file ends at {file_end:#x}; it is cut short or damaged");
        return Err(Error::new(ErrorKind::Damaged, message)
            .at(structure, base)
            .advise("restore the file, or remove this bitmap and make the next backup a full one"));
    }
    let (start, len) = (base + first * 8, (end - first) * 8);
    let bytes = match start < file_end {
        true => read_padded(storage, &structure, start, len, cluster_bytes)?,
        false => vec![0; usize::try_from(len.min(cluster_bytes)).unwrap_or(usize::MAX)],
    };
    let shape = Shape::of(header, entry.granularity);
    let mut table = Vec::with_capacity(bytes.len() / 8);
    for (number, raw) in (first..).zip(be_u64s(&bytes)) {
        let at = base + number * 8;
        let payload = Payload::parse(raw, cluster_bytes).map_err(|error| error.at(structure.as_str(), at))?;
        if let Payload::At(offset) = payload
            && offset.checked_add(shape.payload_in(number).max(1)).is_none_or(|data_end| data_end > file_end)
        {
            let message = format!(
                "the data at {offset:#x} lies past the file's end at {file_end:#x}; it is cut short or damaged"
            );
            return Err(Error::new(ErrorKind::Damaged, message)
                .at(structure, at)
                .advise("restore the file, or remove this bitmap and make the next backup a full one"));
        }
        table.push(payload);
    }
    Ok(table)
}

/// Fewer clusters than these are read before threads would have started.
pub(crate) const FEW: usize = 64;

/// The bits of `entry` that stand for the `window` of the disk; clusters outside it are not read, their bits left clear.
///
/// A cluster that is among those `shared` with another structure is refused.
pub(crate) fn load(
    storage: &dyn Storage,
    header: &Header,
    entry: &Entry,
    shared: &Bitmap,
    window: Range<u64>,
    threads: usize,
) -> Result<Bitmap> {
    let shape = Shape::of(header, entry.granularity);
    check_disk(shape.size_bytes, shape.granularity)?;
    let bitmap = Bitmap::new(shape.size_bytes, shape.granularity)?;
    if window.is_empty() {
        return Ok(bitmap);
    }
    let cluster_of = |byte: u64| shape.granularity.granule_of(byte) / shape.granules_per_cluster();
    let (first, last) = (cluster_of(window.start), cluster_of(window.end - 1));
    let table = read_range(storage, header, entry, first, last + 1)?;
    let name = entry.name.to_string();
    let overlap = |what: &str, at: u64| {
        Error::new(ErrorKind::Damaged, format!("{what} overlaps another structure, so its bits cannot be trusted"))
            .at(format!("qcow2 table of bitmap {name}"), at)
            .advise("repair the image with `qemu-img check -r all`, delete this checkpoint and make a full backup")
    };
    if shared.count_range(entry.table_offset, u64::from(entry.table_entries) * 8) > 0 {
        return Err(overlap("the table", entry.table_offset));
    }
    let held: Vec<(u64, Payload)> = (first..).zip(table).filter(|(_, payload)| *payload != Payload::Zeros).collect();
    let read = |part: &[(u64, Payload)]| {
        let mut bitmap = bitmap.clone();
        for &(number, payload) in part {
            let granule = number * shape.granules_per_cluster();
            if payload == Payload::Ones {
                let covered = shape.granules_per_cluster() << shape.granularity.bits();
                let start = granule << shape.granularity.bits();
                bitmap.set(start, covered.min(shape.size_bytes - start))?;
            } else {
                if payload.offset().is_some_and(|offset| shared.count_range(offset, shape.cluster_bytes) > 0) {
                    return Err(overlap("the data", entry.table_offset + number * 8));
                }
                bitmap.set_bits(granule, &shape.read(storage, &name, number, payload)?.0)?;
            }
        }
        Ok(bitmap)
    };
    if threads <= 1 || held.len() < FEW {
        return read(&held);
    }
    // Several parts for each thread, since some are read faster than others; the first error in their order counts.
    let parts = held.chunks(held.len().div_ceil(4 * threads).max(FEW / 4)).collect();
    let mut parts = map_ordered(threads, parts, read)?.into_iter();
    let mut whole = parts.next().unwrap_or(Ok(bitmap))?;
    parts.try_for_each(|part| whole.union_with(&part?))?;
    Ok(whole)
}
