#![forbid(unsafe_code)]
//! Owns the qcow2 header cluster: its fields, its extensions and the backing file's name, read and laid out anew.
//! Must never write: the order in which its sectors reach the disk is `commit`'s concern.
//!
//! Source of the layout: QEMU's `docs/interop/qcow2.rst`; limits as QEMU 10.0 enforces them.

use crate::error::{Error, ErrorKind, Result};
use crate::formats::bytes::{Fields, file_len, put, read_exact};
use crate::storage::Storage;

/// The first four bytes of every qcow2 image.
pub(crate) const MAGIC: u32 = 0x5146_49fb;

pub(crate) const INCOMPATIBLE_DIRTY: u64 = 1 << 0;
pub(crate) const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
pub(crate) const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
pub(crate) const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;
/// Dirty, corrupt, external data file, compression type, extended L2.
const INCOMPATIBLE_KNOWN: u64 = 0b1_1111;

pub(crate) const AUTOCLEAR_BITMAPS: u64 = 1 << 0;
/// The bitmaps extension and raw external data: what a writer that understands both may leave set.
pub(crate) const AUTOCLEAR_KNOWN: u64 = 0b11;
pub(crate) const AUTOCLEAR_AT: usize = 88;
pub(crate) const REFCOUNT_TABLE_AT: usize = 48;

const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_CRYPTO: u32 = 0x0537_be77;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
pub(crate) const EXTENSION_BITMAPS: u32 = 0x2385_2875;
/// Type, length and the 24 bytes of the bitmaps extension.
const BITMAPS_RECORD_LEN: usize = 32;

const MAX_L1_BYTES: u64 = 32 << 20;
const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// A LUKS header with the material of all its keys has about 2 MiB.
const MAX_CRYPTO_BYTES: u64 = 64 << 20;
const MAX_SNAPSHOTS: u32 = 65536;
const MAX_BACKING_NAME: u32 = 1023;
pub(crate) const MAX_BITMAPS: u32 = 65535;
pub(crate) const MAX_DIRECTORY_BYTES: u64 = 1024 * MAX_BITMAPS as u64;

/// The content of the bitmaps extension: where the directory of bitmaps is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DirectoryRef {
    pub(crate) bitmaps: u32,
    pub(crate) len_bytes: u64,
    pub(crate) offset: u64,
}

impl DirectoryRef {
    /// The clusters that the directory takes.
    pub(crate) fn clusters(&self, cluster_bits: u32) -> std::ops::Range<u64> {
        let end = self.offset.saturating_add(self.len_bytes);
        self.offset >> cluster_bits..end.div_ceil(1 << cluster_bits)
    }
}

/// One record of the header extension area; `at` is where its type stands in the header cluster.
#[derive(Clone, Copy, Debug)]
struct Extension {
    kind: u32,
    at: usize,
    len: usize,
}

/// The header cluster, parsed.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    /// The first cluster as it stands in the file.
    pub(crate) raw: Vec<u8>,
    pub(crate) version: u32,
    pub(crate) cluster_bits: u32,
    pub(crate) size_bytes: u64,
    pub(crate) l1_entries: u32,
    pub(crate) l1_offset: u64,
    pub(crate) refcount_table_offset: u64,
    pub(crate) refcount_table_clusters: u32,
    pub(crate) refcount_order: u32,
    pub(crate) snapshots: u32,
    pub(crate) snapshots_offset: u64,
    pub(crate) incompatible: u64,
    pub(crate) autoclear: u64,
    /// Offset and length of the encryption header, for LUKS.
    pub(crate) crypto: Option<(u64, u64)>,
    /// Where the backing file's name stands, and its length: even an empty one ends the extensions.
    backing_name: Option<(usize, usize)>,
    extensions: Vec<Extension>,
    /// Where the next extension record would begin: the place of the end marker.
    extensions_end: usize,
    /// The bitmaps extension, or what is wrong with it.
    pub(crate) directory: std::result::Result<Option<DirectoryRef>, DirectoryFault>,
}

/// What is wrong with the bitmaps extension, kept so that the rest of a damaged image can still be shown.
#[derive(Clone, Debug)]
pub(crate) struct DirectoryFault {
    message: String,
    at: u64,
}

impl DirectoryFault {
    pub(crate) fn error(&self) -> Error {
        Error::new(ErrorKind::Damaged, self.message.clone()).at("qcow2 bitmaps extension", self.at)
    }
}

impl Header {
    pub(crate) fn read(storage: &dyn Storage) -> Result<Self> {
        let start = read_exact(storage, "qcow2 header", 0, file_len(storage)?.min(512))?;
        let fields = Fields::new(&start, "qcow2 header", 0);
        if fields.u32(0).ok() != Some(MAGIC) {
            return Err(Error::new(ErrorKind::UnknownFormat, "is not a qcow2 image")
                .advise("checkmap reads qcow2; `qemu-img info` tells what this is"));
        }
        let version = fields.u32(4)?;
        let cluster_bits = fields.u32(20)?;
        if !(2..=3).contains(&version) {
            let way_out = match version {
                0 | 1 => "convert it with `qemu-img convert -O qcow2`",
                _ => "use a newer checkmap",
            };
            return Err(Error::new(ErrorKind::Unsupported, format!("qcow2 version {version} is unknown"))
                .at("qcow2 header", 4)
                .advise(way_out));
        }
        if !(9..=21).contains(&cluster_bits) {
            return Err(damaged(20, format!("cluster size 2^{cluster_bits} is outside 512 bytes to 2 MiB")));
        }
        let (incompatible, autoclear, refcount_order, header_len) = match version {
            2 => (0, 0, 4, 72),
            _ => (fields.u64(72)?, fields.u64(AUTOCLEAR_AT)?, fields.u32(96)?, fields.u32(100)?),
        };
        if incompatible & !INCOMPATIBLE_KNOWN != 0 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("incompatible feature bits {:#x} are unknown", incompatible & !INCOMPATIBLE_KNOWN),
            )
            .at("qcow2 header", 72)
            .advise("use a newer checkmap"));
        }
        if incompatible & INCOMPATIBLE_EXTENDED_L2 != 0 && cluster_bits < 14 {
            return Err(damaged(20, "extended L2 entries need clusters of 16 KiB or more".into()));
        }
        let cluster_bytes = 1_u32 << cluster_bits;
        if version > 2 && (header_len < 104 || header_len % 8 != 0 || header_len > cluster_bytes) {
            return Err(damaged(100, format!("header length {header_len} is impossible")));
        }
        let raw = read_exact(storage, "qcow2 header cluster", 0, u64::from(cluster_bytes))?;
        let fields = Fields::new(&raw, "qcow2 header", 0);
        let mut header = Self {
            version,
            cluster_bits,
            size_bytes: fields.u64(24)?,
            l1_entries: fields.u32(36)?,
            l1_offset: fields.u64(40)?,
            refcount_table_offset: fields.u64(REFCOUNT_TABLE_AT)?,
            refcount_table_clusters: fields.u32(56)?,
            refcount_order,
            snapshots: fields.u32(60)?,
            snapshots_offset: fields.u64(64)?,
            incompatible,
            autoclear,
            crypto: None,
            backing_name: backing_name(&fields, cluster_bytes)?,
            extensions: Vec::new(),
            extensions_end: header_len as usize,
            directory: Ok(None),
            raw: Vec::new(),
        };
        header.check_limits()?;
        header.read_extensions(&fields)?;
        header.raw = raw;
        Ok(header)
    }

    fn check_limits(&self) -> Result<()> {
        let cluster_bytes = self.cluster_bytes();
        if self.size_bytes > crate::geometry::MAX_DISK_BYTES {
            return Err(damaged(24, format!("disk size {:#x} is above 2^63-1", self.size_bytes)));
        }
        if self.refcount_order > 6 {
            return Err(damaged(96, format!("refcount width 2^{} bits is above 64", self.refcount_order)));
        }
        if u64::from(self.l1_entries) * 8 > MAX_L1_BYTES {
            return Err(damaged(36, format!("an L1 table of {} entries is above 32 MiB", self.l1_entries)));
        }
        if u64::from(self.refcount_table_clusters) << self.cluster_bits > MAX_REFCOUNT_TABLE_BYTES.max(cluster_bytes) {
            return Err(damaged(56, format!("{} refcount table clusters are too many", self.refcount_table_clusters)));
        }
        if self.refcount_table_clusters == 0 {
            return Err(damaged(56, "there is no refcount table".into()));
        }
        if self.snapshots > MAX_SNAPSHOTS {
            return Err(damaged(60, format!("{} snapshots are above {MAX_SNAPSHOTS}", self.snapshots)));
        }
        for (at, what, offset) in [
            (40, "L1 table", self.l1_offset),
            (48, "refcount table", self.refcount_table_offset),
            (64, "snapshot table", self.snapshots_offset),
        ] {
            if offset % cluster_bytes != 0 {
                return Err(damaged(at, format!("the {what}'s offset {offset:#x} is not at the start of a cluster")));
            }
        }
        Ok(())
    }

    fn read_extensions(&mut self, fields: &Fields<'_>) -> Result<()> {
        let end = self.backing_name.map_or(self.cluster_bytes_usize(), |(at, _)| at);
        let mut at = self.extensions_end;
        while at + 8 <= end {
            let kind = fields.u32(at)?;
            let len = fields.u32(at + 4)? as usize;
            if kind == EXTENSION_END {
                break;
            }
            if len > end - at - 8 {
                return Err(Error::new(
                    ErrorKind::Damaged,
                    format!("extension {kind:#x} of {len} bytes leaves the header"),
                )
                .at("qcow2 header extension", at as u64));
            }
            match kind {
                EXTENSION_BITMAPS => self.directory = self.read_bitmaps_extension(fields, at, len),
                EXTENSION_CRYPTO => self.crypto = Some(self.read_crypto_extension(fields, at, len)?),
                _ => {}
            }
            self.extensions.push(Extension { kind, at, len });
            at += 8 + len.next_multiple_of(8);
        }
        self.extensions_end = at;
        Ok(())
    }

    /// Where the encryption header is.
    fn read_crypto_extension(&self, fields: &Fields<'_>, at: usize, len: usize) -> Result<(u64, u64)> {
        let damaged = |within: usize, message| {
            Err(Error::new(ErrorKind::Damaged, message).at("qcow2 header extension", (at + within) as u64))
        };
        if len != 16 {
            return damaged(4, format!("the encryption extension has {len} bytes instead of 16"));
        }
        let (offset, len_bytes) = (fields.u64(at + 8)?, fields.u64(at + 16)?);
        if offset % self.cluster_bytes() != 0 {
            return damaged(8, format!("the encryption header's offset {offset:#x} is not at the start of a cluster"));
        }
        if len_bytes > MAX_CRYPTO_BYTES {
            return damaged(16, format!("an encryption header of {len_bytes} bytes is impossible"));
        }
        Ok((offset, len_bytes))
    }

    fn read_bitmaps_extension(
        &self,
        fields: &Fields<'_>,
        at: usize,
        len: usize,
    ) -> std::result::Result<Option<DirectoryRef>, DirectoryFault> {
        let fault = |message: String, within: usize| DirectoryFault { message, at: (at + within) as u64 };
        let read = |error: Error| fault(error.message().to_owned(), 8);
        if self.extension(EXTENSION_BITMAPS).is_some() {
            return Err(fault("stands in the header twice".into(), 0));
        }
        if len != 24 {
            return Err(fault(format!("has {len} bytes instead of 24"), 4));
        }
        let bitmaps = fields.u32(at + 8).map_err(read)?;
        let reserved = fields.u32(at + 12).map_err(read)?;
        let len_bytes = fields.u64(at + 16).map_err(read)?;
        let offset = fields.u64(at + 24).map_err(read)?;
        if bitmaps == 0 || bitmaps > MAX_BITMAPS {
            return Err(fault(format!("counts {bitmaps} bitmaps; 1 to {MAX_BITMAPS} are possible"), 8));
        }
        if reserved != 0 {
            return Err(fault(format!("its reserved field is {reserved:#x} instead of 0"), 12));
        }
        if len_bytes == 0 || len_bytes > MAX_DIRECTORY_BYTES {
            return Err(fault(format!("a directory of {len_bytes} bytes is impossible"), 16));
        }
        if offset == 0 || offset % self.cluster_bytes() != 0 {
            return Err(fault(format!("the directory's offset {offset:#x} is not at the start of a cluster"), 24));
        }
        Ok(Some(DirectoryRef { bitmaps, len_bytes, offset }))
    }

    fn extension(&self, kind: u32) -> Option<&Extension> {
        self.extensions.iter().find(|extension| extension.kind == kind)
    }

    fn extension_bytes(&self, kind: u32) -> Option<&[u8]> {
        self.extension(kind).and_then(|found| self.raw.get(found.at + 8..found.at + 8 + found.len))
    }

    pub(crate) fn has_bitmaps_extension(&self) -> bool {
        self.extension(EXTENSION_BITMAPS).is_some()
    }

    pub(crate) fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    pub(crate) fn cluster_bytes_usize(&self) -> usize {
        1 << self.cluster_bits
    }

    pub(crate) fn has_data_file(&self) -> bool {
        self.incompatible & INCOMPATIBLE_DATA_FILE != 0
    }

    pub(crate) fn has_extended_l2(&self) -> bool {
        self.incompatible & INCOMPATIBLE_EXTENDED_L2 != 0
    }

    /// The name of the backing file as stored, and its format where one is recorded.
    pub(crate) fn backing(&self) -> Option<(&[u8], Option<&[u8]>)> {
        let (at, len) = self.backing_name.filter(|(_, len)| *len > 0)?;
        Some((self.raw.get(at..at + len)?, self.extension_bytes(EXTENSION_BACKING_FORMAT)))
    }

    /// The name of the external data file, where one is recorded.
    pub(crate) fn data_file(&self) -> Option<&[u8]> {
        self.extension_bytes(EXTENSION_DATA_FILE)
    }

    /// The header cluster with the bitmaps extension replaced, added or removed, as the stages in which it must be
    /// written: each stage differs from the one before it, and is a header that QEMU opens.
    ///
    /// Adding may have to move the backing file's name, which then stands twice until the header points to the copy.
    pub(crate) fn with_directory(&self, directory: Option<DirectoryRef>) -> Result<Vec<Vec<u8>>> {
        match (self.extension(EXTENSION_BITMAPS), directory) {
            (Some(found), Some(directory)) => {
                let mut raw = self.raw.clone();
                self.put(&mut raw, found.at + 8, &encode(directory))?;
                self.put(&mut raw, AUTOCLEAR_AT, &(self.autoclear_kept() | AUTOCLEAR_BITMAPS).to_be_bytes())?;
                Ok(vec![raw])
            }
            (Some(found), None) => self.without_bitmaps(found),
            (None, Some(directory)) => self.with_first_bitmap(directory),
            (None, None) => Ok(Vec::new()),
        }
    }

    /// The autoclear bits that a writer which understands bitmaps and raw data files may keep.
    pub(crate) fn autoclear_kept(&self) -> u64 {
        self.autoclear & AUTOCLEAR_KNOWN
    }

    fn without_bitmaps(&self, found: &Extension) -> Result<Vec<Vec<u8>>> {
        let mut hidden = self.raw.clone();
        self.put(&mut hidden, AUTOCLEAR_AT, &(self.autoclear_kept() & !AUTOCLEAR_BITMAPS).to_be_bytes())?;
        let after = found.at + 8 + found.len.next_multiple_of(8);
        let area_end = self.area_end();
        // Whatever follows moves down, the end marker with it; what it leaves behind becomes zero.
        let tail = self.raw.get(after..area_end).map(<[u8]>::to_vec).unwrap_or_default();
        let mut raw = hidden.clone();
        self.put(&mut raw, found.at, &tail)?;
        self.put(&mut raw, found.at + tail.len(), &vec![0; area_end - found.at - tail.len()])?;
        if tail.len() <= 8 {
            return Ok(vec![raw]);
        }
        // Extensions that are read while they move must move in one sector.
        let one_sector = hidden.chunks(512).zip(raw.chunks(512)).filter(|(old, new)| old != new).count() <= 1;
        if !one_sector {
            return Err(Error::new(ErrorKind::CannotStore, "an unknown extension follows that cannot move safely")
                .at("qcow2 bitmaps extension", found.at as u64)
                .advise("remove the last bitmap with `qemu-img bitmap --remove`; nothing was changed"));
        }
        Ok(vec![hidden, raw])
    }

    /// The end of the extension area, its end marker included where there is room for one.
    fn area_end(&self) -> usize {
        let limit = self.backing_name.map_or(self.cluster_bytes_usize(), |(at, _)| at.max(self.extensions_end));
        (self.extensions_end + 8).min(limit)
    }

    fn with_first_bitmap(&self, directory: DirectoryRef) -> Result<Vec<Vec<u8>>> {
        let at = self.extensions_end;
        let end = at + BITMAPS_RECORD_LEN + 8;
        let mut stages = Vec::new();
        let mut raw = self.raw.clone();
        if let Some((name_at, name_len)) = self.backing_name
            && name_at < end
        {
            let name = self.raw.get(name_at..name_at + name_len).map(<[u8]>::to_vec).unwrap_or_default();
            if end + name_len <= 512 {
                // Within the first sector everything changes at once, and no second copy is needed.
                self.put(&mut raw, end, &name)?;
                self.put(&mut raw, 8, &(end as u64).to_be_bytes())?;
            } else {
                // The copy overlaps neither the name as it stands nor the room of the new extension.
                let copy_at = end.max(name_at + name_len).next_multiple_of(8);
                let has_end_marker = at + 8 <= name_at;
                if !has_end_marker || copy_at + name_len > self.cluster_bytes_usize() {
                    return Err(no_room(at));
                }
                self.put(&mut raw, copy_at, &name)?;
                stages.push(raw.clone());
                self.put(&mut raw, 8, &(copy_at as u64).to_be_bytes())?;
                stages.push(raw.clone());
            }
        } else if end > self.cluster_bytes_usize() {
            return Err(no_room(at));
        }
        self.put(&mut raw, at, &EXTENSION_BITMAPS.to_be_bytes())?;
        self.put(&mut raw, at + 4, &24_u32.to_be_bytes())?;
        self.put(&mut raw, at + 8, &encode(directory))?;
        self.put(&mut raw, at + BITMAPS_RECORD_LEN, &[0; 8])?;
        self.put(&mut raw, AUTOCLEAR_AT, &(self.autoclear_kept() | AUTOCLEAR_BITMAPS).to_be_bytes())?;
        stages.push(raw);
        Ok(stages)
    }

    fn put(&self, raw: &mut [u8], at: usize, field: &[u8]) -> Result<()> {
        if put(raw, at, field) { Ok(()) } else { Err(no_room(at)) }
    }

    /// Where the type of the bitmaps extension stands, or will stand when the first bitmap comes.
    pub(crate) fn bitmaps_record_at(&self) -> usize {
        self.extension(EXTENSION_BITMAPS).map_or(self.extensions_end, |found| found.at)
    }
}

fn encode(directory: DirectoryRef) -> [u8; 24] {
    let mut bytes = [0; 24];
    let fits = put(&mut bytes, 0, &directory.bitmaps.to_be_bytes())
        && put(&mut bytes, 8, &directory.len_bytes.to_be_bytes())
        && put(&mut bytes, 16, &directory.offset.to_be_bytes());
    debug_assert!(fits, "the three fields end at byte 24");
    bytes
}

fn backing_name(fields: &Fields<'_>, cluster_bytes: u32) -> Result<Option<(usize, usize)>> {
    let offset = fields.u64(8)?;
    let len = fields.u32(16)?;
    if offset == 0 {
        return Ok(None);
    }
    if len > MAX_BACKING_NAME || offset.checked_add(u64::from(len)).is_none_or(|end| end > u64::from(cluster_bytes)) {
        return Err(damaged(
            8,
            format!("the backing file's name ({len} bytes at {offset:#x}) leaves the header cluster"),
        ));
    }
    let at = usize::try_from(offset).map_err(|_| damaged(8, "the backing file's name is out of reach".into()))?;
    Ok(Some((at, len as usize)))
}

fn damaged(at: u64, message: String) -> Error {
    Error::new(ErrorKind::Damaged, message).at("qcow2 header", at)
}

fn no_room(at: usize) -> Error {
    Error::new(ErrorKind::CannotStore, "there is no room for the bitmaps extension beside the backing file's name")
        .at("qcow2 header cluster", at as u64)
        .advise("give the image a shorter backing name, or convert it to clusters of 64 KiB; nothing was changed")
}
