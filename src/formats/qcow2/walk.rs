#![forbid(unsafe_code)]
//! Owns the walk over everything in a qcow2 file that occupies clusters: header, refcounts, L1 and L2 tables,
//! snapshots, encryption header, bitmaps, and the guest's own data. Must never judge its findings.

use super::file::Qcow2File;
use super::ranges::Ranges;
use super::table::{self, Payload};
use crate::error::{Error, ErrorKind, Result};
use crate::io::bytes::{Fields, be_u64s, check_reach, file_len, read_padded};
use crate::memory;
use std::collections::BTreeMap;

const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
pub(super) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
pub(crate) const COPIED: u64 = 1 << 63;
pub(super) const COMPRESSED: u64 = 1 << 62;
const MAX_SNAPSHOT_EXTRA: u32 = 1024;
/// A file of a few KiB can claim 65536 snapshots of 32 MiB each; this is enough for a thousand of a disk of 16 TiB.
const MAX_SNAPSHOT_L1_BYTES: u64 = 256 << 20;
/// So much of an L1 table is in memory at a time.
const L1_PIECE_BYTES: usize = 1 << 20;

/// The structure that occupies a range of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Header,
    RefcountTable,
    RefcountBlock,
    L1Table,
    L2Table,
    SnapshotTable,
    Crypto,
    BitmapDirectory,
    BitmapTable,
    BitmapData,
    GuestData,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Header => "header",
            Role::RefcountTable => "refcount table",
            Role::RefcountBlock => "refcount block",
            Role::L1Table => "L1 table",
            Role::L2Table => "L2 table",
            Role::SnapshotTable => "snapshot table",
            Role::Crypto => "encryption header",
            Role::BitmapDirectory => "bitmap directory",
            Role::BitmapTable => "bitmap table",
            Role::BitmapData => "bitmap data",
            Role::GuestData => "guest data",
        }
    }

    pub(crate) fn is_bitmap(self) -> bool {
        matches!(self, Role::BitmapDirectory | Role::BitmapTable | Role::BitmapData)
    }
}

/// The receiver of the walk's findings; an error ends the walk.
pub(crate) trait Visitor {
    /// `len_bytes` bytes at `offset` belong to `role`.
    fn occupies(&mut self, role: Role, offset: u64, len_bytes: u64) -> Result<()>;

    /// A structure could not be read, or breaks a rule; where this returns `Ok`, the walk goes on after it.
    fn fault(&mut self, fault: Error) -> Result<()>;

    /// The same of the bitmap at `place` in the directory.
    fn bitmap_fault(&mut self, _place: usize, fault: Error) -> Result<()> {
        self.fault(fault)
    }

    /// An entry of an active L1 or L2 table points to `offset`, and says whether nothing else does.
    fn copied_flag(&mut self, _role: Role, _entry_at: u64, _offset: u64, _copied: bool) -> Result<()> {
        Ok(())
    }

    /// Called now and then, so that a long walk can be told and stopped.
    fn tick(&mut self, _done: u64, _total: u64) -> Result<()> {
        Ok(())
    }
}

/// A walk over a file.
pub(super) struct Walk<'a>(pub(super) Qcow2File<'a>);

impl Walk<'_> {
    /// Everything but the refcounts, the bitmaps, and the clusters that the L2 tables name.
    pub(crate) fn disk(&self, visitor: &mut dyn Visitor) -> Result<()> {
        let header = self.0.header;
        visitor.occupies(Role::Header, 0, header.cluster_bytes())?;
        let table_len = u64::from(header.refcount_table_clusters) << header.cluster_bits;
        visitor.occupies(Role::RefcountTable, header.refcount_table_offset, table_len)?;
        if let Some((offset, len_bytes)) = header.crypto {
            visitor.occupies(Role::Crypto, offset, len_bytes)?;
        }
        self.l1_table(header.l1_offset, header.l1_entries, true, visitor)?;
        if header.snapshots > 0
            && let Err(fault) = self.snapshots(visitor)
        {
            return if fault.is_of_the_call() { Err(fault) } else { visitor.fault(fault) };
        }
        Ok(())
    }

    /// The directory, tables and data of the bitmaps. A table that shares a cluster with another one is not read: so all
    /// that is read lies in the file once.
    pub(super) fn bitmaps(&self, visitor: &mut dyn Visitor) -> Result<()> {
        let Qcow2File { directory: Some(directory), entries, .. } = self.0 else { return Ok(()) };
        visitor.occupies(Role::BitmapDirectory, directory.offset, directory.len_bytes)?;
        let (tables, shared) =
            Ranges::with_repeated(memory::gather(entries.iter().map(|entry| table::clusters(self.0.header, entry)))?)?;
        let total = tables.count();
        let mut done = 0;
        for entry in entries {
            visitor.occupies(Role::BitmapTable, entry.table_offset, table::len_bytes(entry))?;
        }
        for (place, entry) in entries.iter().enumerate() {
            visitor.tick(done, total)?;
            if shared.overlaps(table::clusters(self.0.header, entry)) {
                visitor.bitmap_fault(place, table::shared_table(entry))?;
                continue;
            }
            let mut fault = None;
            let whole = 0..u64::from(entry.table_entries);
            let walked = table::for_each(self.0, entry, whole, &mut |number, payload| {
                let per_cluster = self.0.header.cluster_bytes() / 8;
                if number % per_cluster == 0 {
                    visitor.tick((done + number / per_cluster).min(total), total)?;
                }
                match payload {
                    Ok(Payload::At(offset)) => {
                        visitor.occupies(Role::BitmapData, offset, self.0.header.cluster_bytes())
                    }
                    Ok(_) => Ok(()),
                    Err(error) => {
                        fault.get_or_insert(error);
                        Ok(())
                    }
                }
            });
            let range = table::clusters(self.0.header, entry);
            done = (done + (range.end - range.start)).min(total);
            match (walked, fault) {
                (Err(error), _) if error.is_of_the_call() => return Err(error),
                (Err(error), _) | (Ok(()), Some(error)) => visitor.bitmap_fault(place, error)?,
                (Ok(()), None) => {}
            }
        }
        Ok(())
    }

    fn snapshots(&self, visitor: &mut dyn Visitor) -> Result<()> {
        let start = self.0.header.snapshots_offset;
        let cluster_bytes = self.0.header.cluster_bytes();
        let (mut at, mut end) = (start, start);
        let mut l1_tables = BTreeMap::from([(self.0.header.l1_offset, u64::from(self.0.header.l1_entries) * 8)]);
        let mut l1_bytes = 0;
        for _ in 0..self.0.header.snapshots {
            let structure = "qcow2 snapshot table";
            let fixed = read_padded(self.0.storage, &structure, at, 40, cluster_bytes)?;
            let fields = Fields::new(&fixed, structure, at);
            let extra = fields.u32(36)?;
            if extra > MAX_SNAPSHOT_EXTRA {
                let message = format!("{extra} bytes of extra data are above {MAX_SNAPSHOT_EXTRA}");
                return Err(Error::new(ErrorKind::Damaged, message).at(structure, at + 36));
            }
            let (l1_offset, l1_entries) = (fields.u64(0)?, fields.u32(8)?);
            let l1_len = u64::from(l1_entries) * 8;
            l1_bytes += l1_len;
            if l1_bytes > MAX_SNAPSHOT_L1_BYTES {
                let message = format!("the snapshots' L1 tables take more than {MAX_SNAPSHOT_L1_BYTES} bytes");
                return Err(Error::new(ErrorKind::Unsupported, message).at(structure, at + 8).advise(
                    "delete snapshots with `qemu-img snapshot -d`; where there are none, restore the image from a copy",
                ));
            }
            let names = u64::from(fields.u16(12)?) + u64::from(fields.u16(14)?);
            end = at + 40 + u64::from(extra) + names;
            check_reach(self.0.storage, &structure, start, end - start, cluster_bytes)?;
            // Nothing pads the last entry: the file may end with it.
            at = end.next_multiple_of(8);
            // Each table is its own: one that is part of another would only be walked again and again.
            let before = l1_tables.range(..l1_offset.saturating_add(l1_len)).next_back();
            if l1_len > 0 && before.is_some_and(|(other, len)| other.saturating_add(*len) > l1_offset) {
                let message = "the L1 table of a snapshot overlaps another L1 table";
                visitor.fault(Error::new(ErrorKind::Damaged, message).at("qcow2 L1 table", l1_offset))?;
                continue;
            }
            l1_tables.insert(l1_offset, l1_len);
            self.l1_table(l1_offset, l1_entries, false, visitor)?;
        }
        visitor.occupies(Role::SnapshotTable, start, end - start)
    }

    fn l1_table(&self, offset: u64, entries: u32, active: bool, visitor: &mut dyn Visitor) -> Result<()> {
        if entries == 0 {
            return Ok(());
        }
        let structure = "qcow2 L1 table";
        let len_bytes = u64::from(entries) * 8;
        if len_bytes > 32 << 20 || !offset.is_multiple_of(self.0.header.cluster_bytes()) {
            let message = format!("a table of {entries} entries at {offset:#x} is impossible");
            return visitor.fault(Error::new(ErrorKind::Damaged, message).at(structure, offset));
        }
        visitor.occupies(Role::L1Table, offset, len_bytes)?;
        let cluster_bytes = self.0.header.cluster_bytes();
        if let Err(fault) = check_reach(self.0.storage, &structure, offset, len_bytes, cluster_bytes) {
            return visitor.fault(fault);
        }
        // A table that the file ends before is all zeros, and so are the pieces past the end of one that it cuts.
        let present = file_len(self.0.storage)?.saturating_sub(offset).min(len_bytes);
        for start in (0..present).step_by(L1_PIECE_BYTES) {
            let piece = (L1_PIECE_BYTES as u64).min(len_bytes - start);
            match read_padded(self.0.storage, &structure, offset + start, piece, cluster_bytes) {
                Ok(bytes) => self.l1_piece(&be_u64s(&bytes)?, offset, start / 8, entries.into(), active, visitor)?,
                Err(fault) => visitor.fault(fault)?,
            }
        }
        Ok(())
    }

    /// The entries of the L1 table at `offset` from number `first` on.
    fn l1_piece(
        &self,
        piece: &[u64],
        offset: u64,
        first: u64,
        total: u64,
        active: bool,
        visitor: &mut dyn Visitor,
    ) -> Result<()> {
        let structure = "qcow2 L1 table";
        visitor.tick(first, total)?;
        for (number, entry) in (first..).zip(piece).filter(|(_, entry)| **entry != 0) {
            visitor.tick(number, total)?;
            let entry_at = offset + number * 8;
            let l2_offset = entry & OFFSET_MASK;
            if entry & L1_RESERVED != 0 || !l2_offset.is_multiple_of(self.0.header.cluster_bytes()) {
                let message = format!("the entry {entry:#x} is not the offset of a cluster");
                visitor.fault(Error::new(ErrorKind::Damaged, message).at(structure, entry_at))?;
            } else if l2_offset != 0 {
                visitor.occupies(Role::L2Table, l2_offset, self.0.header.cluster_bytes())?;
                if active {
                    visitor.copied_flag(Role::L2Table, entry_at, l2_offset, entry & COPIED != 0)?;
                }
            }
        }
        Ok(())
    }

    /// The guest's clusters that the L2 table at `offset` names.
    pub(crate) fn l2_table(&self, offset: u64, active: bool, visitor: &mut dyn Visitor) -> Result<()> {
        let structure = "qcow2 L2 table";
        let cluster_bytes = self.0.header.cluster_bytes();
        let table = match read_padded(self.0.storage, &structure, offset, cluster_bytes, cluster_bytes) {
            Ok(bytes) => be_u64s(&bytes)?,
            Err(fault) => return visitor.fault(fault),
        };
        let step = if self.0.header.has_extended_l2() { 2 } else { 1 };
        for (entry_at, entry) in (offset..).step_by(8).zip(table).step_by(step) {
            if entry & COMPRESSED != 0 {
                let (start, len) = self.compressed(entry);
                if self.0.header.has_data_file() {
                    let message = "a compressed cluster cannot stand in an external data file";
                    visitor.fault(Error::new(ErrorKind::Damaged, message).at(structure, entry_at))?;
                } else {
                    visitor.occupies(Role::GuestData, start, len)?;
                }
                continue;
            }
            let data = entry & OFFSET_MASK;
            if data == 0 || self.0.header.has_data_file() {
                continue;
            }
            if !data.is_multiple_of(cluster_bytes) {
                let message = format!("the data's offset {data:#x} is not at the start of a cluster");
                visitor.fault(Error::new(ErrorKind::Damaged, message).at(structure, entry_at))?;
                continue;
            }
            visitor.occupies(Role::GuestData, data, cluster_bytes)?;
            if active {
                visitor.copied_flag(Role::GuestData, entry_at, data, entry & COPIED != 0)?;
            }
        }
        Ok(())
    }

    /// Where the sectors of a compressed cluster stand: offset and the count of 512-byte sectors share the entry.
    fn compressed(&self, entry: u64) -> (u64, u64) {
        let offset_bits = 62 - (self.0.header.cluster_bits - 8);
        let start = entry & ((1 << offset_bits) - 1);
        let sectors = ((entry & !(COPIED | COMPRESSED)) >> offset_bits) + 1;
        (start, sectors * 512 - (start & 511))
    }
}
