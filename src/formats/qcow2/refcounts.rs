#![forbid(unsafe_code)]
//! Owns the reference counts of a qcow2 file's clusters: reads and changes them in memory, in every width.
//! Must never write to the file, nor know the content of a cluster.

use super::file::Qcow2File;
use crate::error::{Error, ErrorKind, Result};
use crate::io::Storage;
use crate::io::bytes::{be_u64s, read_padded};
use crate::memory;
use std::collections::BTreeMap;
use std::ops::Range;

const BLOCK_RESERVED: u64 = 0x1ff;
/// QEMU's limit of 8 MiB.
const MAX_TABLE_ENTRIES: usize = 1 << 20;

/// A refcount block that was changed in memory.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
    /// The bytes in the file; `None` for a block that is being added.
    pub(crate) stored: Option<Vec<u8>>,
}

/// The refcounts of one image: those of the file, overlaid by changes not yet stored.
#[derive(Debug)]
pub(crate) struct Refcounts<'a> {
    storage: &'a dyn Storage,
    order: u32,
    cluster_bits: u32,
    stored_table: Vec<u64>,
    table: Vec<u64>,
    changed: BTreeMap<u64, Block>,
    recent: Option<(u64, Vec<u8>)>,
}

impl<'a> Refcounts<'a> {
    pub(super) fn read(file: Qcow2File<'a>) -> Result<Self> {
        let Qcow2File { storage, header, .. } = file;
        let len = u64::from(header.refcount_table_clusters) << header.cluster_bits;
        let offset = header.refcount_table_offset;
        let table = be_u64s(&read_padded(storage, &"qcow2 refcount table", offset, len, header.cluster_bytes())?)?;
        for (at, entry) in (header.refcount_table_offset..).step_by(8).zip(&table) {
            let aligned = (entry & !BLOCK_RESERVED).is_multiple_of(header.cluster_bytes());
            if entry & BLOCK_RESERVED != 0 || !aligned {
                let message = format!("the entry {entry:#x} is not the offset of a cluster");
                return Err(Error::new(ErrorKind::Damaged, message).at("qcow2 refcount table", at));
            }
        }
        Ok(Self {
            storage,
            order: header.refcount_order,
            cluster_bits: header.cluster_bits,
            stored_table: memory::copy(&table)?,
            table,
            changed: BTreeMap::new(),
            recent: None,
        })
    }

    /// The clusters that one refcount block counts.
    pub(crate) fn clusters_per_block(&self) -> u64 {
        (8 << self.cluster_bits) >> self.order
    }

    pub(crate) fn block_of(&self, cluster: u64) -> u64 {
        cluster / self.clusters_per_block()
    }

    /// Whether the block of `cluster` exists; where it does not, the refcount is 0.
    pub(crate) fn has_block(&self, cluster: u64) -> bool {
        self.block_offset(self.block_of(cluster)).is_some()
    }

    fn block_offset(&self, block: u64) -> Option<u64> {
        let index = usize::try_from(block).ok()?;
        self.table.get(index).copied().filter(|offset| *offset != 0)
    }

    pub(crate) fn get(&mut self, cluster: u64) -> Result<u64> {
        let block = self.block_of(cluster);
        let index = cluster % self.clusters_per_block();
        let order = self.order;
        if let Some(changed) = self.changed.get(&block) {
            return Ok(field(&changed.bytes, order, index));
        }
        let Some(offset) = self.block_offset(block) else { return Ok(0) };
        if self.recent.as_ref().is_none_or(|(number, _)| *number != block) {
            self.recent = Some((block, self.read_block(offset)?));
        }
        Ok(self.recent.as_ref().map_or(0, |(_, bytes)| field(bytes, order, index)))
    }

    /// The first cluster from `cluster` on whose refcount is 0.
    pub(crate) fn next_zero(&mut self, mut cluster: u64) -> Result<u64> {
        let per_block = self.clusters_per_block();
        loop {
            if self.get(cluster)? == 0 {
                return Ok(cluster);
            }
            let block = self.block_of(cluster);
            let bytes = match (self.changed.get(&block), &self.recent) {
                (Some(changed), _) => changed.bytes.as_slice(),
                (None, Some((_, bytes))) => bytes.as_slice(),
                (None, None) => return Ok(cluster),
            };
            let found = (cluster % per_block..per_block).find(|index| field(bytes, self.order, *index) == 0);
            match found {
                Some(index) => return Ok(block * per_block + index),
                None => cluster = (block + 1) * per_block,
            }
        }
    }

    /// Appends the clusters of `range` whose refcount is 0 to `zeros`.
    pub(crate) fn zeros_within(&mut self, range: Range<u64>, zeros: &mut Vec<Range<u64>>) -> Result<()> {
        let per_block = self.clusters_per_block();
        let mut note = |zero: Range<u64>| match zeros.last_mut() {
            Some(last) if last.end == zero.start => {
                last.end = zero.end;
                Ok(())
            }
            _ => memory::push(zeros, zero),
        };
        let mut first = range.start;
        while first < range.end {
            let end = range.end.min((self.block_of(first) + 1).saturating_mul(per_block));
            if self.has_block(first) {
                for cluster in first..end {
                    if self.get(cluster)? == 0 {
                        note(cluster..cluster + 1)?;
                    }
                }
            } else {
                note(first..end)?;
            }
            first = end;
        }
        Ok(())
    }

    /// The parts of `range` that no block counts.
    pub(crate) fn without_block(&self, range: Range<u64>) -> Result<Vec<Range<u64>>> {
        let per_block = self.clusters_per_block();
        let mut parts: Vec<Range<u64>> = Vec::new();
        let mut first = range.start;
        while first < range.end {
            let end = range.end.min((self.block_of(first) + 1).saturating_mul(per_block));
            match parts.last_mut() {
                _ if self.has_block(first) => {}
                Some(last) if last.end == first => last.end = end,
                _ => memory::push(&mut parts, first..end)?,
            }
            first = end;
        }
        Ok(parts)
    }

    /// Where the last cluster that the file's blocks count as used ends.
    pub(crate) fn counted_end(&mut self) -> Result<u64> {
        let per_block = self.clusters_per_block();
        let blocks = memory::gather(self.blocks().map(|(number, _)| number))?;
        for block in blocks.into_iter().rev() {
            let first = block.saturating_mul(per_block);
            for cluster in (first..first.saturating_add(per_block)).rev() {
                if self.get(cluster)? > 0 {
                    return Ok(cluster + 1);
                }
            }
        }
        Ok(0)
    }

    /// Sets the refcount of `cluster`, whose block must exist.
    pub(crate) fn set(&mut self, cluster: u64, refcount: u64) -> Result<()> {
        let block = self.block_of(cluster);
        let index = cluster % self.clusters_per_block();
        let (order, cluster_bits) = (self.order, self.cluster_bits);
        if !self.changed.contains_key(&block) {
            let offset = self.block_offset(block).ok_or_else(|| {
                Error::new(
                    ErrorKind::Damaged,
                    format!("no refcount block counts the cluster at {:#x}", cluster << cluster_bits),
                )
                .at("qcow2 refcount table", None)
            })?;
            let bytes = match self.recent.take_if(|(number, _)| *number == block) {
                Some((_, bytes)) => bytes,
                None => self.read_block(offset)?,
            };
            self.changed.insert(block, Block { offset, stored: Some(memory::copy(&bytes)?), bytes });
        }
        if let Some(changed) = self.changed.get_mut(&block) {
            set_field(&mut changed.bytes, order, index, refcount);
        }
        Ok(())
    }

    /// Adds the empty block that counts `cluster`, to be stored at `offset`.
    pub(crate) fn add_block(&mut self, cluster: u64, offset: u64) -> Result<()> {
        let block = self.block_of(cluster);
        let index = usize::try_from(block)
            .map_err(|_| Error::new(ErrorKind::NoSpace, "the file would need more refcounts than qcow2 can hold"))?;
        if index >= MAX_TABLE_ENTRIES {
            return Err(Error::new(
                ErrorKind::NoSpace,
                "the file would need more refcounts than QEMU's 8 MiB of table",
            ));
        }
        if index >= self.table.len() {
            memory::resize(&mut self.table, index + 1)?;
        }
        if let Some(entry) = self.table.get_mut(index) {
            *entry = offset;
        }
        self.changed.insert(block, Block { offset, bytes: memory::zeroed(1 << self.cluster_bits)?, stored: None });
        Ok(())
    }

    fn read_block(&self, offset: u64) -> Result<Vec<u8>> {
        let cluster_bytes = 1 << self.cluster_bits;
        read_padded(self.storage, &"qcow2 refcount block", offset, cluster_bytes, cluster_bytes)
    }

    /// Whether the block that counts `cluster` counts nothing at all.
    pub(crate) fn is_zero_block(&mut self, cluster: u64) -> Result<bool> {
        self.get(cluster)?;
        Ok(self
            .recent
            .as_ref()
            .is_some_and(|(number, bytes)| *number == self.block_of(cluster) && bytes.iter().all(|byte| *byte == 0)))
    }

    /// The table as it shall be, and as the file has it.
    pub(crate) fn tables(&self) -> (&[u64], &[u64]) {
        (&self.table, &self.stored_table)
    }

    /// In how many sectors of `sector_bytes` the table differs from the file's.
    pub(crate) fn changed_table_sectors(&self, sector_bytes: usize) -> usize {
        let mut sectors = 0;
        let mut stored = self.stored_table.chunks(sector_bytes / 8);
        for table in self.table.chunks(sector_bytes / 8) {
            let stored = stored.next().unwrap_or_default();
            let padded = stored.iter().copied().chain(std::iter::repeat(0));
            sectors += usize::from(table.iter().zip(padded).any(|(new, old)| *new != old));
        }
        sectors
    }

    /// The blocks that were changed; some may equal the file's again.
    pub(crate) fn changed(&self) -> impl Iterator<Item = &Block> {
        self.changed.values()
    }

    /// Every block that the file has: its number and its place.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        (0..).zip(&self.stored_table).filter(|(_, offset)| **offset != 0).map(|(number, offset)| (number, *offset))
    }

    /// Notes that the file holds these refcounts now. The blocks stay in memory: a rehearsal writes none of them.
    pub(crate) fn mark_stored(&mut self) -> Result<()> {
        for block in self.changed.values_mut() {
            block.stored = Some(memory::copy(&block.bytes)?);
        }
        self.stored_table = memory::copy(&self.table)?;
        Ok(())
    }
}

/// The refcount number `index` of a block; widths below a byte fill it from the least significant bit.
pub(crate) fn field(block: &[u8], order: u32, index: u64) -> u64 {
    let bits = 1_u64 << order;
    let Ok(first) = usize::try_from(index * bits / 8) else { return 0 };
    if order < 3 {
        let byte = block.get(first).copied().unwrap_or(0);
        return u64::from(byte >> (index * bits % 8)) & ((1 << bits) - 1);
    }
    let len = 1_usize << (order - 3);
    let bytes = block.get(first..first + len).unwrap_or_default();
    bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn set_field(block: &mut [u8], order: u32, index: u64, refcount: u64) {
    let bits = 1_u64 << order;
    let Ok(first) = usize::try_from(index * bits / 8) else { return };
    if order < 3 {
        let shift = index * bits % 8;
        let mask = ((1_u64 << bits) - 1) << shift;
        if let Some(byte) = block.get_mut(first) {
            let value = u64::from(*byte) & !mask | (refcount << shift) & mask;
            *byte = u8::try_from(value).unwrap_or(u8::MAX);
        }
        return;
    }
    let len = 1_usize << (order - 3);
    let encoded = refcount.to_be_bytes();
    if let (Some(place), Some(low)) = (block.get_mut(first..first + len), encoded.get(8 - len..)) {
        place.copy_from_slice(low);
    }
}

/// The largest refcount of a width.
pub(crate) fn largest(order: u32) -> u64 {
    u64::MAX >> (64 - (1_u32 << order))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_keeps_its_neighbours() {
        for order in 0..=6 {
            let mut block = vec![0; 512];
            let count = (512 * 8) >> order;
            let value = |index: u64| index.wrapping_mul(0x9e37_79b9_7f4a_7c15) & largest(order);
            for index in 0..count {
                set_field(&mut block, order, index, value(index));
            }
            for index in 0..count {
                assert_eq!(field(&block, order, index), value(index), "order {order}, index {index}");
            }
        }
    }

    #[test]
    fn narrow_widths_begin_at_the_least_significant_bit_and_wide_ones_are_big_endian() {
        let mut block = vec![0; 8];
        set_field(&mut block, 0, 1, 1);
        assert_eq!(block[0], 0b10);
        set_field(&mut block, 4, 1, 0x0102);
        assert_eq!(&block[2..4], &[1, 2]);
    }
}
