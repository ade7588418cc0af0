#![forbid(unsafe_code)]
//! Owns the question which clusters of the guest this file holds itself, instead of leaving them to the layer below. Must
//! never know what lies below.

use super::file::Qcow2File;
use super::header::Header;
use super::walk::{COMPRESSED, OFFSET_MASK};
use crate::bitmap::Bitmap;
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::Granularity;
use crate::io::bytes::{be_u64s, file_len, read_padded};
use crate::progress::{Observer, tell};
use std::ops::Range;

const PHASE: &str = "reading the allocation";
/// A piece of an L1 table that is read at once, in entries.
const L1_PIECE: usize = 1 << 16;
/// With extended L2 entries a cluster has this many subclusters.
const SUBCLUSTER_BITS: u32 = 5;

/// The part of the disk inside `window` that this file holds itself: data of any kind, compressed or not, and clusters that
/// read as zeros, with or without room of their own. Its granularity is that in which the file allocates.
///
/// Every doubt counts as held: an entry that is not empty, whatever it says.
pub(super) fn allocated(file: Qcow2File<'_>, window: Range<u64>, observer: &mut dyn Observer) -> Result<Bitmap> {
    let header = file.header;
    let parts = if header.has_extended_l2() { SUBCLUSTER_BITS } else { 0 };
    let mut held = Bitmap::new(header.size_bytes, Granularity::from_bits(header.cluster_bits - parts)?)?;
    let entry_bytes = if header.has_extended_l2() { 16 } else { 8 };
    // The bytes of the disk for which one L2 table stands.
    let reach = (header.cluster_bytes() / entry_bytes) << header.cluster_bits;
    let end = window.end.min(header.size_bytes);
    if window.start >= end {
        return Ok(held);
    }
    let tables = window.start / reach..end.div_ceil(reach);
    check_l1(header, tables.end)?;
    for first in (tables.start..tables.end).step_by(L1_PIECE) {
        let count = (L1_PIECE as u64).min(tables.end - first);
        for (number, entry) in (first..).zip(l1_piece(file, first, count)?) {
            tell(observer, PHASE, number - tables.start, tables.end - tables.start)?;
            if entry & OFFSET_MASK != 0 {
                l2_table(file, entry & OFFSET_MASK, number * reach, &mut held)?;
            }
        }
    }
    held.keep(window.start, end - window.start)?;
    Ok(held)
}

/// Refuses an L1 table that cannot be one, or has not the `entries` for the disk: QEMU does not open such an image.
fn check_l1(header: &Header, entries: u64) -> Result<()> {
    let message = match () {
        () if entries > header.l1_entries.into() => "the table is too short for the disk",
        () if !header.l1_offset.is_multiple_of(header.cluster_bytes()) => "the table is not at the start of a cluster",
        () => return Ok(()),
    };
    Err(Error::new(ErrorKind::Damaged, message).at("qcow2 L1 table", header.l1_offset))
}

/// Entries of the L1 table. Those that the file ends before are empty, as in the walk.
fn l1_piece(file: Qcow2File<'_>, first: u64, count: u64) -> Result<Vec<u64>> {
    let Qcow2File { storage, header, .. } = file;
    let (offset, end) = (header.l1_offset.saturating_add(first * 8), file_len(storage)?);
    if offset >= end && offset < end.next_multiple_of(header.cluster_bytes()) {
        return Ok(Vec::new());
    }
    be_u64s(&read_padded(storage, &"qcow2 L1 table", offset, count * 8, header.cluster_bytes())?)
}

/// Marks what the L2 table at `offset` holds, which stands for the disk from the byte `start` on.
fn l2_table(file: Qcow2File<'_>, offset: u64, start: u64, held: &mut Bitmap) -> Result<()> {
    let Qcow2File { storage, header, .. } = file;
    let structure = "qcow2 L2 table";
    let cluster_bytes = header.cluster_bytes();
    if !offset.is_multiple_of(cluster_bytes) {
        return Err(Error::new(ErrorKind::Damaged, "the table is not at the start of a cluster").at(structure, offset));
    }
    let table = be_u64s(&read_padded(storage, &structure, offset, cluster_bytes, cluster_bytes)?)?;
    let mut run: Range<u64> = start..start;
    let mut mark = |part: Range<u64>, held: &mut Bitmap| -> Result<()> {
        if part.start != run.end {
            set(held, &run)?;
            run.start = part.start;
        }
        run.end = part.end;
        Ok(())
    };
    let mut at = start;
    for entry in table.chunks(if header.has_extended_l2() { 2 } else { 1 }) {
        match entry {
            [0] | [0, 0] => {}
            [entry, parts] if entry & COMPRESSED == 0 => mark_parts(header, *parts, at, &mut mark, held)?,
            _ => mark(at..at + cluster_bytes, held)?,
        }
        at += cluster_bytes;
    }
    set(held, &run)
}

/// Marks the subclusters that the bits of an extended entry call allocated, in the lower half, or zero, in the upper one.
fn mark_parts(
    header: &Header,
    parts: u64,
    at: u64,
    mark: &mut dyn FnMut(Range<u64>, &mut Bitmap) -> Result<()>,
    held: &mut Bitmap,
) -> Result<()> {
    let part_bytes = header.cluster_bytes() >> SUBCLUSTER_BITS;
    let present = (parts | parts >> 32) & 0xffff_ffff;
    for part in (0..32).filter(|part| present >> part & 1 == 1) {
        mark(at + part * part_bytes..at + (part + 1) * part_bytes, held)?;
    }
    Ok(())
}

/// Marks a run, which a table for the end of the disk may take further than the disk goes.
fn set(held: &mut Bitmap, run: &Range<u64>) -> Result<()> {
    let end = run.end.min(held.size_bytes());
    if run.start < end { held.set(run.start, end - run.start) } else { Ok(()) }
}
