#![forbid(unsafe_code)]
//! Owns the change of clusters in an image of our own, in place: clusters get other data or become zeros, and the disk another
//! size. Must never know why, nor touch an image that [`super::fresh`] would not have laid out.
//!
//! It is for an image of which an overlay hides every cluster that changes. So a cluster that changes may hold anything meanwhile,
//! but all others must read as before at each instant, also after a power cut, and the image must stay one that QEMU opens:
//!
//! 1. Data goes where the cluster's data were, or to clusters that nothing uses; so do L2 tables that were not there, whole.
//! 2. Flush. The reference counts of new clusters follow, and another flush: no cluster in use is ever counted as free.
//! 3. Now the entries: those of L2 tables in place, and those of the L1 table that name the new ones.
//! 4. At the end, flushed: the entries behind the new end go, then the size changes in one write of one sector, then what nothing
//!    names any more is counted as free.
//!
//! A cluster that becomes zeros keeps its place in the file, so nothing has to be counted anew; the caller gives the room back to
//! the file system. A run that was cut leaves clusters that are counted and not used: the next one finds them by its walk.

use super::fresh::{CLUSTER_BYTES, COUNT_BITS_LOG, COUNTS, L2_ENTRIES, TABLE_BYTES, VERSION, ZERO, big_endian};
use super::header::Header;
use super::walk::COPIED;
use crate::bitmap::Bitmap;
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::{Extent, Granularity};
use crate::io::Storage;
use crate::io::bytes::{be_u64s, file_len, read_padded};
use crate::memory;
use std::collections::BTreeMap;
use std::ops::Range;

/// The bits of an entry that are no offset of a cluster of 64 KiB.
const NO_OFFSET: u64 = !0x00ff_ffff_ffff_0000;
/// The number of changed L2 tables in memory.
const MOST_TABLES: usize = 512;
const SIZE_AT: usize = 24;
/// Where the header names the encryption.
const METHOD: Range<usize> = 32..36;
const L1_ENTRIES_AT: usize = 36;
const SECTOR: usize = 512;

/// An L2 table that changed in memory.
#[derive(Debug)]
struct Table {
    entries: Vec<u64>,
    offset: u64,
    is_new: bool,
}

/// An image that is being changed.
#[derive(Debug)]
pub(crate) struct Refill<'a> {
    storage: &'a dyn Storage,
    header: Header,
    l1: Vec<u64>,
    counts: Vec<u64>,
    /// The clusters of the file that something names.
    used: Bitmap,
    /// The first cluster that may be free.
    next: u64,
    tables: BTreeMap<u64, Table>,
    /// The blocks of counts that changed, by their place in the table; true where it was not there.
    blocks: BTreeMap<u64, bool>,
    /// The clusters whose data nobody reads any more.
    freed: Vec<Extent>,
}

impl<'a> Refill<'a> {
    /// Looks at all tables of the image in `storage`; or tells why this image is none that can be changed so, in a sentence.
    /// `size_bytes` is the size that the disk will have.
    pub(crate) fn open(storage: &'a dyn Storage, size_bytes: u64) -> Result<std::result::Result<Self, String>> {
        let header = Header::read(storage)?;
        if let Some(why) = why_not(&header, size_bytes) {
            return Ok(Err(why.to_owned()));
        }
        let end = file_len(storage)?.div_ceil(CLUSTER_BYTES);
        // Room for the file as it may become: all of the disk, its tables and their counts.
        let most = end
            .saturating_add(size_bytes.div_ceil(CLUSTER_BYTES))
            .saturating_add(size_bytes.div_ceil(TABLE_BYTES))
            .saturating_mul(2);
        let counted = u64::from(header.refcount_table_clusters) * L2_ENTRIES * COUNTS;
        let clusters = most.min(counted);
        let used = Bitmap::new(clusters.saturating_mul(CLUSTER_BYTES), Granularity::from_bytes(CLUSTER_BYTES)?)?;
        let l1 = read(storage, header.l1_offset, u64::from(header.l1_entries) * 8)?;
        let counts =
            read(storage, header.refcount_table_offset, u64::from(header.refcount_table_clusters) * CLUSTER_BYTES)?;
        let (tables, blocks, freed) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        let mut refill = Self { storage, header, l1, counts, used, next: 0, tables, blocks, freed };
        match refill.look(end) {
            Err(error) if error.kind() == ErrorKind::Damaged => Ok(Err(error.reason().to_string())),
            looked => looked.map(|()| Ok(refill)),
        }
    }

    /// Finds the clusters that something names; each may be named once, and lies inside of the file.
    fn look(&mut self, end: u64) -> Result<()> {
        self.uses(0, CLUSTER_BYTES, end)?;
        let l1_bytes = u64::from(self.header.l1_entries) * 8;
        self.uses(self.header.l1_offset, l1_bytes.next_multiple_of(CLUSTER_BYTES), end)?;
        let table_bytes = u64::from(self.header.refcount_table_clusters) * CLUSTER_BYTES;
        self.uses(self.header.refcount_table_offset, table_bytes, end)?;
        for block in memory::copy(&self.counts)?.into_iter().filter(|block| *block != 0) {
            if block & NO_OFFSET != 0 {
                return Err(damaged("a block of reference counts is not at the start of a cluster"));
            }
            self.uses(block, CLUSTER_BYTES, end)?;
        }
        for entry in memory::copy(&self.l1)?.into_iter().filter(|entry| *entry != 0) {
            if entry & NO_OFFSET != COPIED || offset_of(entry) == 0 {
                return Err(damaged("an L2 table is not alone in its place"));
            }
            self.uses(entry & !COPIED, CLUSTER_BYTES, end)?;
            for entry in read(self.storage, entry & !COPIED, CLUSTER_BYTES)? {
                match entry & NO_OFFSET {
                    flags if flags & !ZERO == COPIED && offset_of(entry) != 0 => {
                        self.uses(offset_of(entry), CLUSTER_BYTES, end)?
                    }
                    0 | ZERO if offset_of(entry) == 0 => {}
                    _ => return Err(damaged("it has clusters that are compressed, or not alone in their place")),
                }
            }
        }
        Ok(())
    }

    fn uses(&mut self, offset: u64, len_bytes: u64, end: u64) -> Result<()> {
        if offset.saturating_add(len_bytes) > end.saturating_mul(CLUSTER_BYTES).min(self.used.size_bytes()) {
            return Err(damaged("a structure lies behind the end of the file"));
        }
        if self.used.extents(offset, len_bytes).next().is_some() {
            return Err(damaged("two structures lie in one place"));
        }
        if len_bytes > 0 { self.used.set(offset, len_bytes) } else { Ok(()) }
    }

    /// These clusters get these bytes; only at the end of the disk can they be no whole clusters.
    pub(crate) fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let piece = usize::try_from(CLUSTER_BYTES).unwrap_or(usize::MAX);
        for (cluster, bytes) in (offset / CLUSTER_BYTES..).zip(bytes.chunks(piece)) {
            let place = match offset_of(self.entry(cluster)?) {
                0 => self.allocate()?,
                place => place,
            };
            self.write(bytes, place)?;
            self.enter(cluster, place | COPIED)?;
        }
        Ok(())
    }

    /// These clusters become zeros. Those that no entry names are zeros already, as nothing lies below.
    pub(crate) fn zeros(&mut self, offset: u64, len_bytes: u64) -> Result<()> {
        let end = (offset + len_bytes).div_ceil(CLUSTER_BYTES);
        let mut cluster = offset / CLUSTER_BYTES;
        while cluster < end {
            if !self.has_table(cluster / L2_ENTRIES) {
                cluster = (cluster / L2_ENTRIES + 1) * L2_ENTRIES;
                continue;
            }
            let entry = self.entry(cluster)?;
            if offset_of(entry) != 0 {
                self.enter(cluster, entry | ZERO)?;
                memory::push(&mut self.freed, Extent { offset: offset_of(entry), len_bytes: CLUSTER_BYTES })?;
            }
            cluster += 1;
        }
        Ok(())
    }

    /// Stores all, and gives the disk its size. Returns the parts of the file whose bytes nobody reads any more.
    pub(crate) fn finish(mut self, size_bytes: u64) -> Result<Vec<Extent>> {
        self.store()?;
        self.flush()?;
        let mut released = Vec::new();
        if size_bytes < self.header.size_bytes {
            self.cut(size_bytes, &mut released)?;
        }
        self.clear_tail(size_bytes)?;
        self.resize(size_bytes)?;
        self.flush()?;
        for place in released {
            self.used.clear(place, CLUSTER_BYTES)?;
            memory::push(&mut self.freed, Extent { offset: place, len_bytes: CLUSTER_BYTES })?;
        }
        // All of them: so clusters that an interrupted run had taken are free again.
        for block in 0..self.counts.len() as u64 {
            if self.block(block) != 0 {
                self.write_block(block)?;
            }
        }
        self.flush()?;
        Ok(self.freed)
    }

    fn has_table(&self, number: u64) -> bool {
        let entry = usize::try_from(number).ok().and_then(|number| self.l1.get(number));
        self.tables.contains_key(&number) || entry.is_some_and(|entry| *entry != 0)
    }

    /// The entry of a cluster of the disk.
    fn entry(&mut self, cluster: u64) -> Result<u64> {
        let number = cluster / L2_ENTRIES;
        if !self.has_table(number) {
            return Ok(0);
        }
        let table = self.table(number)?;
        Ok(place_in(&table.entries, cluster % L2_ENTRIES))
    }

    fn enter(&mut self, cluster: u64, entry: u64) -> Result<()> {
        let number = cluster / L2_ENTRIES;
        let at = usize::try_from(cluster % L2_ENTRIES).unwrap_or(usize::MAX);
        if let Some(place) = self.table(number)?.entries.get_mut(at) {
            *place = entry;
        }
        Ok(())
    }

    /// An L2 table, in memory from now on.
    fn table(&mut self, number: u64) -> Result<&mut Table> {
        if !self.tables.contains_key(&number) {
            if self.tables.len() >= MOST_TABLES {
                self.store()?;
            }
            let entry = place_in(&self.l1, number);
            let table = match entry {
                0 => {
                    let entries = memory::zeroed(usize::try_from(L2_ENTRIES).unwrap_or(usize::MAX))?;
                    Table { entries, offset: self.allocate()?, is_new: true }
                }
                entry => {
                    let offset = entry & !COPIED;
                    Table { entries: read(self.storage, offset, CLUSTER_BYTES)?, offset, is_new: false }
                }
            };
            self.tables.insert(number, table);
        }
        self.tables.get_mut(&number).ok_or_else(|| damaged("a table is lost"))
    }

    /// A cluster of the file that nothing names.
    fn allocate(&mut self) -> Result<u64> {
        let place = self.take()?;
        let mut counted = place;
        // A block that is not there needs a cluster, too, which the same or another block counts.
        while self.block(counted / CLUSTER_BYTES / COUNTS) == 0 {
            let block = counted / CLUSTER_BYTES / COUNTS;
            counted = self.take()?;
            self.set_block(block, counted)?;
            self.blocks.insert(block, true);
        }
        Ok(place)
    }

    fn take(&mut self) -> Result<u64> {
        let place = self.used.next_clean(self.next, u64::MAX).ok_or_else(|| {
            Error::new(ErrorKind::CannotStore, "the image has no room in its table of reference counts")
        })?;
        self.used.set(place, CLUSTER_BYTES)?;
        self.next = place + CLUSTER_BYTES;
        self.blocks.entry(place / CLUSTER_BYTES / COUNTS).or_insert(false);
        Ok(place)
    }

    fn block(&self, number: u64) -> u64 {
        place_in(&self.counts, number)
    }

    fn set_block(&mut self, number: u64, place: u64) -> Result<()> {
        let entry = usize::try_from(number).ok().and_then(|number| self.counts.get_mut(number));
        let full = || Error::new(ErrorKind::CannotStore, "the image has no room in its table of reference counts");
        *entry.ok_or_else(full)? = place;
        Ok(())
    }

    /// Writes the changed tables, in the order that the head of this file tells.
    fn store(&mut self) -> Result<()> {
        if self.tables.is_empty() && self.blocks.is_empty() {
            return Ok(());
        }
        let tables = std::mem::take(&mut self.tables);
        let blocks = std::mem::take(&mut self.blocks);
        for table in tables.values().filter(|table| table.is_new) {
            self.write(&big_endian(table.entries.iter().copied())?, table.offset)?;
        }
        for (block, _) in blocks.iter().filter(|(_, is_new)| **is_new) {
            self.write_block(*block)?;
        }
        self.flush()?;
        for (block, is_new) in &blocks {
            if *is_new {
                let at = self.header.refcount_table_offset + block * 8;
                self.write(&self.block(*block).to_be_bytes(), at)?;
            } else if self.block(*block) != 0 {
                self.write_block(*block)?;
            }
        }
        self.flush()?;
        for (number, table) in tables {
            if table.is_new {
                let entry = table.offset | COPIED;
                self.set_l1(number, entry)?;
            } else {
                self.write(&big_endian(table.entries.iter().copied())?, table.offset)?;
            }
        }
        Ok(())
    }

    fn set_l1(&mut self, number: u64, entry: u64) -> Result<()> {
        let at = usize::try_from(number).unwrap_or(usize::MAX);
        if at >= self.l1.len() {
            // Behind the table's present end, inside of its cluster.
            let missing = at + 1 - self.l1.len();
            memory::extend(&mut self.l1, std::iter::repeat_n(0, missing))?;
        }
        if let Some(place) = self.l1.get_mut(at) {
            *place = entry;
        }
        self.write(&entry.to_be_bytes(), self.header.l1_offset + number * 8)
    }

    /// Writes a block of counts anew: one for each cluster that something names.
    fn write_block(&self, number: u64) -> Result<()> {
        let mut bytes: Vec<u8> = memory::zeroed(usize::try_from(CLUSTER_BYTES).unwrap_or(usize::MAX))?;
        let start = number * COUNTS * CLUSTER_BYTES;
        for extent in self.used.extents(start, COUNTS * CLUSTER_BYTES) {
            let clusters = clusters_of(extent.offset - start, extent.len_bytes);
            let from = usize::try_from(clusters.start * 2 + 1).unwrap_or(usize::MAX);
            let count = usize::try_from(clusters.end - clusters.start).unwrap_or(usize::MAX);
            bytes.iter_mut().skip(from).step_by(2).take(count).for_each(|byte| *byte = 1);
        }
        self.write(&bytes, self.block(number))
    }

    /// Takes out the entries of all clusters that lie behind the new end as a whole; `released` gets what they named.
    fn cut(&mut self, size_bytes: u64, released: &mut Vec<u64>) -> Result<()> {
        let first = size_bytes.div_ceil(CLUSTER_BYTES);
        for number in first / L2_ENTRIES..self.l1.len() as u64 {
            if !self.has_table(number) {
                continue;
            }
            let from = usize::try_from(first.saturating_sub(number * L2_ENTRIES)).unwrap_or(usize::MAX);
            let table = self.table(number)?;
            for entry in table.entries.iter_mut().skip(from) {
                if offset_of(*entry) != 0 {
                    memory::push(released, offset_of(*entry))?;
                }
                *entry = 0;
            }
            if from == 0 {
                let place = table.offset;
                memory::push(released, place)?;
                self.tables.remove(&number);
                self.set_l1(number, 0)?;
            }
        }
        self.store()
    }

    /// Writes zeros behind the disk's new end, up to the end of its cluster.
    fn clear_tail(&mut self, end: u64) -> Result<()> {
        let inside = end % CLUSTER_BYTES;
        if inside == 0 {
            return Ok(());
        }
        let entry = self.entry(end / CLUSTER_BYTES)?;
        if offset_of(entry) != 0 && entry & ZERO == 0 {
            let zeros: Vec<u8> = memory::zeroed(usize::try_from(CLUSTER_BYTES - inside).unwrap_or(usize::MAX))?;
            self.write(&zeros, offset_of(entry) + inside)?;
        }
        Ok(())
    }

    /// Writes the size, and how many entries of the L1 table count, in one sector.
    fn resize(&mut self, size_bytes: u64) -> Result<()> {
        let old = u64::from(self.header.l1_entries);
        let entries = size_bytes.div_ceil(TABLE_BYTES).max(old);
        // Also those that are zeros: an interrupted run may have left others.
        for number in old..entries {
            self.set_l1(number, place_in(&self.l1, number))?;
        }
        self.flush()?;
        let mut sector = memory::copy(self.header.raw.get(..SECTOR).unwrap_or_default())?;
        put(&mut sector, SIZE_AT, &size_bytes.to_be_bytes());
        put(&mut sector, L1_ENTRIES_AT, &u32::try_from(entries).unwrap_or(u32::MAX).to_be_bytes());
        self.write(&sector, 0)
    }

    fn write(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.storage.write_at(bytes, offset).map_err(|error| Error::io("cannot change the image", error))
    }

    fn flush(&self) -> Result<()> {
        self.storage.flush().map_err(|error| Error::io("cannot make the image durable", error))
    }
}

/// Why an image of this header cannot be changed in place, where that is so.
fn why_not(header: &Header, size_bytes: u64) -> Option<&'static str> {
    let is_encrypted = header.crypto.is_some() || header.raw.get(METHOD) != Some(&[0; 4]);
    let room = (u64::from(header.l1_entries) * 8).next_multiple_of(CLUSTER_BYTES);
    if header.version != VERSION
        || 1 << header.cluster_bits != CLUSTER_BYTES
        || header.refcount_order != COUNT_BITS_LOG
        || header.incompatible != 0
        || header.autoclear != 0
        || is_encrypted
    {
        Some("it is not as a new image would be")
    } else if header.snapshots > 0 || header.has_bitmaps_extension() {
        Some("it has snapshots or bitmaps")
    } else if header.backing_name.is_some_and(|(_, len)| len > 0) {
        Some("it lies on another file")
    } else if size_bytes.div_ceil(TABLE_BYTES) * 8 > room {
        Some("its table has no room for the size of the disk")
    } else {
        None
    }
}

/// A table of the file.
fn read(storage: &dyn Storage, offset: u64, len_bytes: u64) -> Result<Vec<u64>> {
    be_u64s(&read_padded(storage, &"qcow2 table", offset, len_bytes, CLUSTER_BYTES)?)
}

/// The place in the file that an entry names, 0 for none.
fn offset_of(entry: u64) -> u64 {
    entry & !NO_OFFSET
}

fn place_in(table: &[u64], number: u64) -> u64 {
    usize::try_from(number).ok().and_then(|number| table.get(number)).copied().unwrap_or(0)
}

fn clusters_of(offset: u64, len_bytes: u64) -> Range<u64> {
    offset / CLUSTER_BYTES..(offset + len_bytes).div_ceil(CLUSTER_BYTES)
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + field.len()) {
        place.copy_from_slice(field);
    }
}

fn damaged(message: &str) -> Error {
    Error::new(ErrorKind::Damaged, message)
}

#[cfg(test)]
mod tests {
    use super::super::fresh::Fresh;
    use super::*;
    use crate::formats;
    use crate::io::FileStorage;
    use crate::progress::Unobserved;
    use std::sync::Arc;

    /// A file that comes to need new blocks of counts, which count themselves too; at every place near the border of two blocks.
    #[test]
    fn blocks_of_counts_come_where_the_file_needs_them() {
        for before in 0..6 {
            let file = tempfile::tempfile().unwrap();
            let size = 8 * TABLE_BYTES;
            let mut fresh = Fresh::begin(file.try_clone().unwrap(), size, None).unwrap();
            fresh.data(0, &[1; 1 << 16]).unwrap();
            fresh.finish().unwrap();
            let storage = Arc::new(FileStorage::new(file).unwrap());
            let mut refill = Refill::open(&*storage, size).unwrap().unwrap();
            refill.next = (2 * COUNTS - before) * CLUSTER_BYTES;
            for table in 0..3 {
                refill.data(table * TABLE_BYTES, &[7; 3 << 16]).unwrap();
            }
            let unread = refill.finish(size).unwrap();
            assert!(unread.is_empty());
            let host = formats::open(storage).unwrap();
            let report = host.check(&mut Unobserved).unwrap();
            assert_eq!((report.errors, report.leaked_bytes), (0, 0), "{before}: {:?}", report.problems);
            let held = host.allocated(0, u64::MAX, &mut Unobserved).unwrap().unwrap();
            assert_eq!(held.dirty_bytes(), 9 * CLUSTER_BYTES);
        }
    }

    /// What somebody else changed is left alone.
    #[test]
    fn only_images_of_our_own_are_changed() {
        let file = tempfile::tempfile().unwrap();
        let mut fresh = Fresh::begin(file.try_clone().unwrap(), 1 << 20, None).unwrap();
        fresh.data(0, &[1; 2 << 16]).unwrap();
        fresh.finish().unwrap();
        let storage = FileStorage::new(file).unwrap();
        let whole = |storage: &FileStorage| Refill::open(storage, 1 << 20).unwrap().map(drop);
        assert_eq!(whole(&storage), Ok(()));
        // The data of two clusters in one place, a compressed one, an entry with a bit that means nothing, a mark in the header.
        let table = 4 * CLUSTER_BYTES;
        for (at, bytes) in [
            (table, ((3 * CLUSTER_BYTES) | COPIED).to_be_bytes()),
            (table + 8, (1 << 62 | CLUSTER_BYTES).to_be_bytes()),
            (table + 8, (1_u64 << 5).to_be_bytes()),
            (table + 8, (1_u64 << 40 | COPIED).to_be_bytes()),
            (72, 1_u64.to_be_bytes()),
        ] {
            let mut before = [0; 8];
            storage.read_at(&mut before, at).unwrap();
            assert_ne!(before, bytes, "{at}");
            storage.write_at(&bytes, at).unwrap();
            assert!(whole(&storage).is_err(), "{at}: {bytes:?}");
            storage.write_at(&before, at).unwrap();
        }
        assert_eq!(whole(&storage), Ok(()));
    }
}
