#![forbid(unsafe_code)]
//! Owns the bitmap directory: its entries parsed, checked and encoded. Must never read tables or data.

use super::header::{DirectoryRef, Header, MAX_BITMAPS, MAX_DIRECTORY_BYTES};
use crate::chain::Name;
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::Granularity;
use crate::io::Storage;
use crate::io::bytes::{Fields, put, read_padded};
use crate::memory;
use std::collections::HashSet;

/// The writer did not store the bitmap: everything but the name may be out of date.
pub(crate) const FLAG_IN_USE: u32 = 1 << 0;
/// The bitmap records.
pub(crate) const FLAG_AUTO: u32 = 1 << 1;
const FLAG_EXTRA_DATA_COMPATIBLE: u32 = 1 << 2;
const FLAGS_KNOWN: u32 = FLAG_IN_USE | FLAG_AUTO | FLAG_EXTRA_DATA_COMPATIBLE;
const TYPE_DIRTY: u8 = 1;
const ENTRY_LEN: usize = 24;
const MAX_NAME: usize = 1023;
/// QEMU refuses bitmaps whose data is larger.
pub(crate) const MAX_PAYLOAD_BYTES: u64 = 512 << 20;
const MAX_TABLE_ENTRIES: u64 = 0x800_0000;

/// One bitmap of the directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) table_offset: u64,
    pub(crate) table_entries: u32,
    pub(crate) flags: u32,
    pub(crate) kind: u8,
    pub(crate) granularity: Granularity,
    pub(crate) extra: Vec<u8>,
    pub(crate) name: Name,
}

impl Entry {
    pub(crate) fn is_recording(&self) -> bool {
        self.flags & FLAG_AUTO != 0
    }

    pub(crate) fn is_inconsistent(&self) -> bool {
        self.flags & FLAG_IN_USE != 0
    }

    /// Extra data or a type that no software known here writes: kept to the byte, never used.
    pub(crate) fn is_unusable(&self) -> bool {
        !self.extra.is_empty() || self.kind != TYPE_DIRTY
    }

    pub(crate) fn len_bytes(&self) -> usize {
        (ENTRY_LEN + self.extra.len() + self.name.as_bytes().len()).next_multiple_of(8)
    }

    /// The empty entry of a bitmap that is being born.
    pub(crate) fn recording(name: Name, granularity: Granularity) -> Self {
        Self {
            table_offset: 0,
            table_entries: 0,
            flags: FLAG_AUTO,
            kind: TYPE_DIRTY,
            granularity,
            extra: Vec::new(),
            name,
        }
    }

    /// A copy: its extra data can be of any length.
    pub(crate) fn try_clone(&self) -> Result<Self> {
        Ok(Self { extra: memory::copy(&self.extra)?, name: self.name.clone(), ..*self })
    }

    fn encode(&self) -> Result<Vec<u8>> {
        let too_long = || Error::new(ErrorKind::NameTooLong, format!("bitmap name {} is too long", self.name));
        let name_len = u16::try_from(self.name.as_bytes().len()).map_err(|_| too_long())?;
        let extra_len = u32::try_from(self.extra.len()).map_err(|_| too_long())?;
        let granularity_bits = u8::try_from(self.granularity.bits()).unwrap_or(u8::MAX);
        let mut bytes = memory::zeroed(self.len_bytes())?;
        let fits = put(&mut bytes, 0, &self.table_offset.to_be_bytes())
            && put(&mut bytes, 8, &self.table_entries.to_be_bytes())
            && put(&mut bytes, 12, &self.flags.to_be_bytes())
            && put(&mut bytes, 16, &[self.kind, granularity_bits])
            && put(&mut bytes, 18, &name_len.to_be_bytes())
            && put(&mut bytes, 20, &extra_len.to_be_bytes())
            && put(&mut bytes, ENTRY_LEN, &self.extra)
            && put(&mut bytes, ENTRY_LEN + self.extra.len(), self.name.as_bytes());
        if fits { Ok(bytes) } else { Err(too_long()) }
    }
}

/// The bytes of a directory of `entries`, within QEMU's limits.
pub(crate) fn encode(entries: &[Entry]) -> Result<Vec<u8>> {
    if entries.len() > MAX_BITMAPS as usize {
        return Err(Error::new(ErrorKind::CannotStore, format!("a qcow2 image holds at most {MAX_BITMAPS} bitmaps")));
    }
    let mut bytes = Vec::new();
    for entry in entries {
        memory::extend(&mut bytes, entry.encode()?)?;
    }
    if bytes.len() as u64 > MAX_DIRECTORY_BYTES {
        return Err(Error::new(ErrorKind::CannotStore, "the bitmap directory would exceed QEMU's limit of 64 MiB")
            .advise("delete checkpoints that are no longer needed"));
    }
    Ok(bytes)
}

/// The readable part of a directory: the entries up to the first fault, and the fault.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) entries: Vec<Entry>,
    pub(crate) fault: Option<Error>,
}

/// Reads the directory at `place` of the file with this header; every rule of the format and of QEMU is checked.
pub(super) fn read(storage: &dyn Storage, header: &Header, place: DirectoryRef) -> Result<Listing> {
    let mut entries = Vec::new();
    match read_entries(storage, header, place, &mut entries).err() {
        Some(error) if error.is_of_the_call() => Err(error),
        fault => Ok(Listing { entries, fault }),
    }
}

fn read_entries(storage: &dyn Storage, header: &Header, place: DirectoryRef, entries: &mut Vec<Entry>) -> Result<()> {
    let (size_bytes, cluster_bytes) = (header.size_bytes, header.cluster_bytes());
    let bytes = read_padded(storage, &"qcow2 bitmap directory", place.offset, place.len_bytes, cluster_bytes)?;
    let mut names = HashSet::new();
    let mut at = 0;
    for number in 0..place.bitmaps {
        let structure = format!("qcow2 bitmap directory entry {number}");
        let base = place.offset + at as u64;
        let rest = bytes.get(at..).unwrap_or_default();
        let entry = parse(rest, &structure, base)?;
        check(&entry, size_bytes, cluster_bytes, &structure, base)?;
        names.try_reserve(1)?;
        if !names.insert(entry.name.clone()) {
            let message = format!("the name {} stands in the directory twice", entry.name);
            return Err(Error::new(ErrorKind::Damaged, message).at(structure, base));
        }
        at += entry.len_bytes();
        memory::push(entries, entry)?;
    }
    if at != bytes.len() {
        let message = format!("{} bytes are left after the last entry", bytes.len().saturating_sub(at));
        return Err(Error::new(ErrorKind::Damaged, message).at("qcow2 bitmap directory", place.offset + at as u64));
    }
    Ok(())
}

fn parse(bytes: &[u8], structure: &str, base: u64) -> Result<Entry> {
    let fields = Fields::new(bytes, structure, base);
    fields.slice(0, ENTRY_LEN)?;
    let extra_len = fields.u32(20)? as usize;
    let name_len = usize::from(fields.u16(18)?);
    let granularity_bits = u32::from(fields.u8(17)?);
    if !(9..=31).contains(&granularity_bits) {
        let message = format!("granularity 2^{granularity_bits} is outside 512 bytes to 2 GiB");
        return Err(Error::new(ErrorKind::Damaged, message).at(structure, base + 17));
    }
    let entry = Entry {
        table_offset: fields.u64(0)?,
        table_entries: fields.u32(8)?,
        flags: fields.u32(12)?,
        kind: fields.u8(16)?,
        granularity: Granularity::from_bits(granularity_bits)?,
        extra: memory::copy(fields.slice(ENTRY_LEN, extra_len)?)?,
        name: Name::new(memory::copy(fields.slice(ENTRY_LEN.saturating_add(extra_len), name_len)?)?),
    };
    fields.slice(0, entry.len_bytes())?;
    Ok(entry)
}

/// Checks the fields of `entry`, which stands at `base` of the file as `structure`.
fn check(entry: &Entry, size_bytes: u64, cluster_bytes: u64, structure: &str, base: u64) -> Result<()> {
    let damaged =
        |at: u64, message| Err(Error::new(ErrorKind::Damaged, message).at(structure, base.saturating_add(at)));
    let name = entry.name.as_bytes();
    if name.is_empty() || name.len() > MAX_NAME {
        return damaged(18, format!("a name of {} bytes is outside 1 to {MAX_NAME}", name.len()));
    }
    if name.contains(&0) {
        let at = ENTRY_LEN + entry.extra.len();
        return damaged(at as u64, format!("the name {} holds a NUL byte, at which QEMU would cut it", entry.name));
    }
    if entry.flags & !FLAGS_KNOWN != 0 {
        return damaged(12, format!("reserved flags {:#x} are set", entry.flags & !FLAGS_KNOWN));
    }
    if entry.table_offset == 0 || !entry.table_offset.is_multiple_of(cluster_bytes) {
        return damaged(0, format!("the table's offset {:#x} is not at the start of a cluster", entry.table_offset));
    }
    let entries = u64::from(entry.table_entries);
    if entries == 0 || entries > MAX_TABLE_ENTRIES || entries * cluster_bytes > MAX_PAYLOAD_BYTES.max(cluster_bytes) {
        return damaged(8, format!("a table of {entries} entries is impossible"));
    }
    if !entry.is_inconsistent() {
        let needed = table_entries(size_bytes, entry.granularity, cluster_bytes);
        if entries != needed {
            return damaged(8, format!("the table has {entries} entries where the disk's size needs {needed}"));
        }
    }
    Ok(())
}

/// The payload bytes of a bitmap of a disk of `size_bytes`.
pub(crate) fn payload_bytes(size_bytes: u64, granularity: Granularity) -> u64 {
    granularity.granules(size_bytes).div_ceil(8)
}

/// The entries that the table of such a bitmap has.
pub(crate) fn table_entries(size_bytes: u64, granularity: Granularity, cluster_bytes: u64) -> u64 {
    payload_bytes(size_bytes, granularity).div_ceil(cluster_bytes)
}

/// Refuses a granularity at which QEMU could not store a bitmap of this disk.
pub(crate) fn check_new(size_bytes: u64, granularity: Granularity) -> Result<()> {
    if size_bytes == 0 {
        return Err(Error::new(ErrorKind::CannotStore, "a disk of size zero cannot have a bitmap in qcow2"));
    }
    if !(9..=31).contains(&granularity.bits()) {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("granularity {} is outside qcow2's 512 bytes to 2 GiB", granularity.bytes()),
        ));
    }
    if payload_bytes(size_bytes, granularity) > MAX_PAYLOAD_BYTES {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("at granularity {} the bitmap would exceed qcow2's 512 MiB", granularity.bytes()),
        )
        .advise("use a larger granularity"));
    }
    Ok(())
}
