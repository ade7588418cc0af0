#![forbid(unsafe_code)]
//! Owns the header of a Parallels image and its allocation table. Must never know what lies in the format extension.

use crate::error::{Error, ErrorKind, Result};
use crate::geometry::MAX_DISK_BYTES;
use crate::io::Storage;
use crate::io::bytes::{le_u32, le_u64, read_exact};
use crate::progress::{Observer, tell};

/// The magic of images whose allocation table counts in sectors, and of those where it counts in clusters.
const OLD_MAGIC: &[u8; 16] = b"WithoutFreeSpace";
const MAGIC: &[u8; 16] = b"WithouFreSpacExt";
const STRUCTURE: &str = "Parallels header";

pub(super) const SECTOR: u64 = 512;
const HEADER_BYTES: u64 = 64;
pub(super) const VERSION: u32 = 2;
/// QEMU's own limit: a cluster is below 2 GiB.
const MOST_SECTORS: u32 = i32::MAX as u32 / 513;
/// QEMU's own limit: an allocation table is below 2 GiB.
const MOST_ENTRIES: u32 = i32::MAX as u32 / 4;
const MARK_AT: u64 = 44;
const OPEN: u32 = 0x746f_6e59;
const CLOSED: u32 = 0x312e_3276;
/// How many bytes of the allocation table are in memory at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// Whether a file that begins with `start` is a Parallels image.
pub(crate) fn is_parallels(start: &[u8]) -> bool {
    start.starts_with(OLD_MAGIC) || start.starts_with(MAGIC)
}

/// The mark that the last writer left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// It knows the format extension, and has closed the image.
    Closed,
    /// It has the image open, or never closed it.
    Open,
    /// It does not know the format extension.
    Unaware,
}

/// The header, its fields checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) size_bytes: u64,
    pub(super) cluster_bytes: u64,
    pub(super) mark: Mark,
    /// Where the clusters begin.
    pub(super) data_start: u64,
    /// The first sector of the format extension; 0 where there is none.
    pub(super) extension_sector: u64,
    table_entries: u32,
    /// The bytes that one unit of an entry of the allocation table stands for.
    unit_bytes: u64,
}

impl Header {
    pub(super) fn read(storage: &dyn Storage) -> Result<Self> {
        let raw = read_exact(storage, &STRUCTURE, 0, HEADER_BYTES)?;
        let damaged = |at: u64, message: String| Err(Error::new(ErrorKind::Damaged, message).at(STRUCTURE, at));
        if !is_parallels(&raw) {
            return Err(Error::new(ErrorKind::UnknownFormat, "is no Parallels image").at(STRUCTURE, 0));
        }
        let counts_clusters = raw.starts_with(MAGIC);
        let version = le_u32(&raw, 16);
        if version != VERSION {
            let message = format!("version {version} is unknown");
            return Err(Error::new(ErrorKind::Unsupported, message).at(STRUCTURE, 16));
        }
        let tracks = le_u32(&raw, 28);
        if tracks == 0 || tracks > MOST_SECTORS {
            return damaged(28, format!("a cluster of {tracks} sectors is impossible"));
        }
        let cluster_bytes = u64::from(tracks) * SECTOR;
        // Old writers leave garbage in the upper half.
        let sectors = if counts_clusters { le_u64(&raw, 36) } else { u64::from(le_u32(&raw, 36)) };
        let Some(size_bytes) = sectors.checked_mul(SECTOR).filter(|size| *size <= MAX_DISK_BYTES) else {
            return damaged(36, format!("a disk of {sectors} sectors is impossible"));
        };
        let mark = match le_u32(&raw, 44) {
            CLOSED => Mark::Closed,
            OPEN => Mark::Open,
            0 => Mark::Unaware,
            other => return damaged(MARK_AT, format!("the mark of its last writer is {other:#x}, which none leaves")),
        };
        let table_entries = le_u32(&raw, 32);
        if table_entries > MOST_ENTRIES {
            return damaged(32, format!("an allocation table of {table_entries} entries is above 2 GiB"));
        }
        let data_start = match u64::from(le_u32(&raw, 48)) * SECTOR {
            0 => (HEADER_BYTES + u64::from(table_entries) * 4).next_multiple_of(SECTOR),
            start => start,
        };
        Ok(Self {
            size_bytes,
            cluster_bytes,
            mark,
            data_start,
            extension_sector: le_u64(&raw, 56),
            table_entries,
            unit_bytes: if counts_clusters { cluster_bytes } else { SECTOR },
        })
    }

    /// Calls `each` with the first byte of every cluster that holds data of the guest.
    pub(super) fn guest_clusters(
        &self,
        storage: &dyn Storage,
        observer: &mut dyn Observer,
        each: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let end = HEADER_BYTES + u64::from(self.table_entries) * 4;
        let mut at = HEADER_BYTES;
        while at < end {
            tell(observer, "reading the allocation table", at, end)?;
            let len = PIECE_BYTES.min(end - at);
            let piece = read_exact(storage, &"Parallels allocation table", at, len)?;
            for entry in piece.as_chunks::<4>().0 {
                match u32::from_le_bytes(*entry) {
                    0 => {}
                    entry => each(u64::from(entry).saturating_mul(self.unit_bytes)),
                }
            }
            at += len;
        }
        Ok(())
    }

    /// The place of the mark, for messages.
    pub(super) fn at_mark(error: Error) -> Error {
        error.at(STRUCTURE, MARK_AT)
    }
}
