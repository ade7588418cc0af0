#![forbid(unsafe_code)]
//! Owns the writing of a new image from its first byte to its last: clusters of 64 KiB come in ascending order, each as data or
//! as zeros, and are laid out one behind the other. Must never know where they come from, nor change a file that has content.
//!
//! Every cluster of the file is used exactly once, so the reference counts are known from its length alone. The header is
//! written last: until then no program takes the file for an image.

use super::header::MAGIC;
use crate::error::{Error, ErrorKind, Result};
use crate::memory;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The cluster size of new images.
pub(crate) const CLUSTER_BYTES: u64 = 1 << CLUSTER_BITS;

const CLUSTER_BITS: u32 = 16;
const CLUSTER_LEN: usize = 1 << CLUSTER_BITS;
/// The bytes of the disk that one L2 table of a new image stands for.
pub(crate) const TABLE_BYTES: u64 = L2_ENTRIES * CLUSTER_BYTES;

pub(super) const L2_ENTRIES: u64 = CLUSTER_BYTES / 8;
/// A block of reference counts of 16 bits counts this many clusters.
pub(super) const COUNTS: u64 = CLUSTER_BYTES / 2;
pub(super) const COUNT_BITS_LOG: u32 = 4;
pub(super) const VERSION: u32 = 3;
const HEADER_BYTES: u32 = 104;
/// The header extension that records the format of the backing file.
const BACKING_FORMAT: u32 = 0xe279_2aca;
/// Bits of a table entry: counted once; reads as zeros.
const COPIED: u64 = 1 << 63;
pub(super) const ZERO: u64 = 1;
/// QEMU's bounds of the L1 table and of the name of a backing file.
const MOST_L1_BYTES: u64 = 32 << 20;
const MOST_NAME: usize = 1023;

/// A new image in the making, in a file that was empty.
#[derive(Debug)]
pub(crate) struct Fresh {
    file: File,
    size_bytes: u64,
    backing: Option<Vec<u8>>,
    l1: Vec<u64>,
    /// The L2 table that is being filled, and its place in the L1 table.
    l2: Vec<u64>,
    l2_number: Option<u64>,
    /// The first cluster of the file that nothing occupies.
    next: u64,
    /// The first cluster of the guest that was not given yet.
    reached: u64,
}

impl Fresh {
    /// Begins an image of a disk of `size_bytes`, a multiple of 512, over the file that is named `backing`, which is of the
    /// same format.
    pub(crate) fn begin(file: File, size_bytes: u64, backing: Option<&[u8]>) -> Result<Self> {
        let entries = size_bytes.div_ceil(TABLE_BYTES);
        if entries * 8 > MOST_L1_BYTES || backing.is_some_and(|name| name.len() > MOST_NAME) {
            let message = "the disk is too large for a new image, or the name of its backing file too long";
            return Err(Error::new(ErrorKind::CannotStore, message));
        }
        let l1 = memory::zeroed(usize::try_from(entries).unwrap_or(usize::MAX))?;
        let backing = backing.map(memory::copy).transpose()?;
        let next = 1 + (entries * 8).div_ceil(CLUSTER_BYTES);
        Ok(Self { file, size_bytes, backing, l1, l2: Vec::new(), l2_number: None, next, reached: 0 })
    }

    /// The next clusters hold these bytes; only at the end of the disk can they be no whole clusters.
    pub(crate) fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.take(offset, bytes.len() as u64)?;
        let (first, cluster) = (self.next, offset / CLUSTER_BYTES);
        let count = (bytes.len() as u64).div_ceil(CLUSTER_BYTES);
        write(&self.file, bytes, first * CLUSTER_BYTES)?;
        // Before the entries: a table that is full is written behind the data.
        self.next += count;
        (0..count).try_for_each(|at| self.enter(cluster + at, ((first + at) * CLUSTER_BYTES) | COPIED))
    }

    /// The next clusters read as zeros, whatever lies below.
    pub(crate) fn zeros(&mut self, offset: u64, len_bytes: u64) -> Result<()> {
        self.take(offset, len_bytes)?;
        let end = (offset + len_bytes).div_ceil(CLUSTER_BYTES);
        (offset / CLUSTER_BYTES..end).try_for_each(|cluster| self.enter(cluster, ZERO))
    }

    /// Writes the tables and the header; the caller makes the file durable. Returns its length.
    pub(crate) fn finish(mut self) -> Result<u64> {
        self.end_l2()?;
        let (blocks, table_clusters) = counts_of(self.next);
        let blocks_at = self.next * CLUSTER_BYTES;
        let table_at = blocks_at + blocks * CLUSTER_BYTES;
        let clusters = self.next + blocks + table_clusters;
        let mut left = clusters;
        for block in 0..blocks {
            let count = left.min(COUNTS);
            left -= count;
            let mut bytes: Vec<u8> = memory::zeroed(CLUSTER_LEN)?;
            let used = usize::try_from(count).unwrap_or(usize::MAX);
            bytes.iter_mut().skip(1).step_by(2).take(used).for_each(|byte| *byte = 1);
            write(&self.file, &bytes, blocks_at + block * CLUSTER_BYTES)?;
        }
        let places = (0..blocks).map(|block| blocks_at + block * CLUSTER_BYTES);
        write(&self.file, &big_endian(places)?, table_at)?;
        write(&self.file, &big_endian(self.l1.iter().copied())?, CLUSTER_BYTES)?;
        let end = clusters * CLUSTER_BYTES;
        self.file.set_len(end).map_err(failed)?;
        let header = self.header(table_at, table_clusters)?;
        write(&self.file, &header, 0)?;
        Ok(end)
    }

    /// Takes note that the part of the disk comes next.
    fn take(&mut self, offset: u64, len_bytes: u64) -> Result<()> {
        let end = offset.saturating_add(len_bytes);
        let is_whole =
            offset.is_multiple_of(CLUSTER_BYTES) && (end.is_multiple_of(CLUSTER_BYTES) || end == self.size_bytes);
        if !is_whole || end > self.size_bytes || offset / CLUSTER_BYTES < self.reached {
            let message = format!("{len_bytes} bytes at {offset} cannot come next in the new image");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        self.reached = end.div_ceil(CLUSTER_BYTES);
        Ok(())
    }

    /// Enters a cluster of the guest into its L2 table.
    fn enter(&mut self, cluster: u64, entry: u64) -> Result<()> {
        let number = cluster / L2_ENTRIES;
        if self.l2_number != Some(number) {
            self.end_l2()?;
            self.l2 = memory::zeroed(CLUSTER_LEN / 8)?;
            self.l2_number = Some(number);
        }
        if let Some(place) = usize::try_from(cluster % L2_ENTRIES).ok().and_then(|at| self.l2.get_mut(at)) {
            *place = entry;
        }
        Ok(())
    }

    /// Writes the L2 table that is being filled.
    fn end_l2(&mut self) -> Result<()> {
        let Some(number) = self.l2_number.take() else { return Ok(()) };
        let at = self.next * CLUSTER_BYTES;
        write(&self.file, &big_endian(self.l2.drain(..))?, at)?;
        self.next += 1;
        if let Some(place) = usize::try_from(number).ok().and_then(|number| self.l1.get_mut(number)) {
            *place = at | COPIED;
        }
        Ok(())
    }

    fn header(&self, table_at: u64, table_clusters: u64) -> Result<Vec<u8>> {
        let mut extensions = Vec::new();
        let name = self.backing.as_deref().unwrap_or_default();
        if !name.is_empty() {
            let format = super::FORMAT.as_bytes();
            memory::extend(&mut extensions, BACKING_FORMAT.to_be_bytes())?;
            memory::extend(&mut extensions, short(format.len() as u64).to_be_bytes())?;
            memory::extend(&mut extensions, format.iter().copied())?;
            let missing = extensions.len().next_multiple_of(8) - extensions.len();
            memory::extend(&mut extensions, std::iter::repeat_n(0, missing))?;
        }
        // The end of the extensions.
        memory::extend(&mut extensions, [0; 8])?;
        let name_at = if name.is_empty() { 0 } else { u64::from(HEADER_BYTES) + extensions.len() as u64 };
        let mut header: Vec<u8> = memory::room(2048)?;
        header.extend(MAGIC.to_be_bytes());
        header.extend(VERSION.to_be_bytes());
        header.extend(name_at.to_be_bytes());
        header.extend(short(name.len() as u64).to_be_bytes());
        header.extend(CLUSTER_BITS.to_be_bytes());
        header.extend(self.size_bytes.to_be_bytes());
        // No encryption.
        header.extend(0_u32.to_be_bytes());
        header.extend(short(self.l1.len() as u64).to_be_bytes());
        header.extend(CLUSTER_BYTES.to_be_bytes());
        header.extend(table_at.to_be_bytes());
        header.extend(short(table_clusters).to_be_bytes());
        // No snapshots, and no features.
        header.extend([0; 4 + 8 + 3 * 8]);
        header.extend(COUNT_BITS_LOG.to_be_bytes());
        header.extend(HEADER_BYTES.to_be_bytes());
        memory::extend(&mut header, extensions)?;
        memory::extend(&mut header, name.iter().copied())?;
        Ok(header)
    }
}

/// How many blocks of counts a file needs, and how many clusters their table, where this many clusters lie before them.
fn counts_of(clusters: u64) -> (u64, u64) {
    let (mut blocks, mut table) = (0, 0);
    loop {
        let all = clusters + blocks + table;
        let needed = (all.div_ceil(COUNTS), all.div_ceil(COUNTS).div_ceil(L2_ENTRIES));
        if needed == (blocks, table) {
            return needed;
        }
        (blocks, table) = needed;
    }
}

/// A field of 32 bits; the bounds at the beginning keep larger values away.
fn short(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

pub(super) fn big_endian(entries: impl Iterator<Item = u64>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for entry in entries {
        memory::extend(&mut bytes, entry.to_be_bytes())?;
    }
    Ok(bytes)
}

fn write(file: &File, bytes: &[u8], offset: u64) -> Result<()> {
    file.write_all_at(bytes, offset).map_err(failed)
}

fn failed(error: io::Error) -> Error {
    Error::io("cannot write the new image", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_count_themselves() {
        for clusters in [1, COUNTS - 2, COUNTS - 1, COUNTS, 5 * COUNTS - 6, 1 << 40] {
            let (blocks, table) = counts_of(clusters);
            let all = clusters + blocks + table;
            assert!(blocks * COUNTS >= all && (blocks - 1) * COUNTS < all, "{clusters}: {blocks}");
            assert!(table * L2_ENTRIES >= blocks, "{clusters}: {table}");
        }
    }
}
