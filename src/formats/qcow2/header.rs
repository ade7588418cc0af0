#![forbid(unsafe_code)]
//! Owns the qcow2 header cluster as it is read: its fields, its extensions and the backing file's name, each as QEMU
//! takes it. Must never lay it out anew: that is `stages`.
//!
//! Source of the layout: QEMU's `docs/interop/qcow2.rst`; limits and normalised fields as QEMU 10.0 has them.

use crate::error::{Error, ErrorKind, Result};
use crate::io::Storage;
use crate::io::bytes::{Fields, file_len, read_exact, read_padded};
use crate::memory;

/// The first four bytes of every qcow2 image.
pub(crate) const MAGIC: u32 = 0x5146_49fb;

pub(crate) const INCOMPATIBLE_DIRTY: u64 = 1 << 0;
pub(crate) const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
pub(crate) const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
pub(crate) const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;
/// Dirty, corrupt, external data file, compression type, extended L2.
const INCOMPATIBLE_KNOWN: u64 = 0b1_1111;

pub(crate) const AUTOCLEAR_BITMAPS: u64 = 1 << 0;
/// The bits that a writer may leave set if it understands the bitmaps extension and raw external data.
pub(crate) const AUTOCLEAR_KNOWN: u64 = 0b11;
/// Set together with the mark of a step over several images; whatever opens the image for writing clears it.
pub(super) const AUTOCLEAR_MARK: u64 = 1 << 62;
pub(crate) const AUTOCLEAR_AT: usize = 88;
pub(crate) const REFCOUNT_TABLE_AT: usize = 48;
/// The length of the header that every version 3 has, up to the field that says how long it is.
const SHORTEST_HEADER: u32 = 104;
const COMPRESSION_AT: usize = 104;

const EXTENSION_END: u32 = 0;
pub(super) const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
pub(super) const EXTENSION_CRYPTO: u32 = 0x0537_be77;
pub(super) const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
pub(super) const EXTENSION_FEATURE_NAMES: u32 = 0x6803_f857;
/// "cmpj": the mark of a step over several images. Nobody else knows this type, so it is kept.
pub(super) const EXTENSION_MARK: u32 = 0x636d_706a;
pub(crate) const EXTENSION_BITMAPS: u32 = 0x2385_2875;

const MAX_L1_BYTES: u64 = 32 << 20;
const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// A LUKS header with the material of all its keys has about 2 MiB.
const MAX_CRYPTO_BYTES: u64 = 64 << 20;
const MAX_SNAPSHOTS: u32 = 65536;
const MAX_BACKING_NAME: u32 = 1023;
const MAX_BACKING_FORMAT: usize = 15;
/// QEMU counts a disk in sectors of this size, and cuts off a part of a sector at the end.
const DISK_SECTOR_BYTES: u64 = 512;
const ENCRYPTION_LUKS: u32 = 2;
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
pub(super) struct Extension {
    pub(super) kind: u32,
    pub(super) at: usize,
    pub(super) len: usize,
}

impl Extension {
    /// Where the next record begins.
    pub(super) fn end(&self) -> usize {
        self.at + 8 + self.len.next_multiple_of(8)
    }
}

/// The header cluster, parsed.
#[derive(Debug)]
pub(crate) struct Header {
    /// The first cluster as it stands in the file.
    pub(crate) raw: Vec<u8>,
    pub(crate) version: u32,
    pub(crate) cluster_bits: u32,
    /// The disk's size as QEMU sees it: whole sectors of 512 bytes.
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
    /// The length of the fixed fields; the extensions follow.
    pub(super) fields_len: usize,
    /// Where the backing file's name stands, and its length: even an empty one ends the extensions.
    pub(super) backing_name: Option<(usize, usize)>,
    pub(super) extensions: Vec<Extension>,
    /// Where the next extension record would begin: the place of the end marker.
    pub(super) extensions_end: usize,
    /// The bitmaps extension, or its fault.
    pub(crate) directory: std::result::Result<Option<DirectoryRef>, DirectoryFault>,
}

/// A fault of the bitmaps extension, kept so that the rest of a damaged image can still be shown.
#[derive(Clone, Debug)]
pub(crate) struct DirectoryFault {
    message: String,
    at: u64,
    malformed: bool,
}

impl DirectoryFault {
    /// Whether it matters even where the bitmaps are out of date: QEMU reads no content then, but the length.
    pub(crate) fn is_malformed(&self) -> bool {
        self.malformed
    }

    pub(crate) fn error(&self) -> Error {
        Error::new(ErrorKind::Damaged, self.message.clone()).at("qcow2 bitmaps extension", self.at)
    }
}

impl Header {
    pub(crate) fn read(storage: &dyn Storage) -> Result<Self> {
        let start = read_exact(storage, &"qcow2 header", 0, file_len(storage)?.min(512))?;
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
        if version > 2 && (header_len < SHORTEST_HEADER || header_len > cluster_bytes) {
            return Err(damaged(100, format!("header length {header_len} is impossible")));
        }
        let raw = read_padded(storage, &"qcow2 header cluster", 0, u64::from(cluster_bytes), u64::from(cluster_bytes))?;
        let fields = Fields::new(&raw, "qcow2 header", 0);
        if version > 2 {
            check_compression(&fields, incompatible, header_len)?;
        }
        let stored_size = fields.u64(24)?;
        let mut header = Self {
            version,
            cluster_bits,
            size_bytes: stored_size - stored_size % DISK_SECTOR_BYTES,
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
            fields_len: header_len as usize,
            backing_name: backing_name(&fields, cluster_bytes)?,
            extensions: Vec::new(),
            extensions_end: header_len as usize,
            directory: Ok(None),
            raw: Vec::new(),
        };
        header.check_limits(stored_size)?;
        header.read_extensions(&fields).map_err(|fault| match header_len % 8 {
            0 => fault,
            _ => damaged(100, format!("no extensions stand behind a header of {header_len} bytes")),
        })?;
        header.check_encryption(&fields)?;
        header.raw = raw;
        Ok(header)
    }

    /// A copy, with its cluster of any size.
    pub(crate) fn try_clone(&self) -> Result<Self> {
        Ok(Self {
            raw: memory::copy(&self.raw)?,
            extensions: memory::copy(&self.extensions)?,
            directory: self.directory.clone(),
            ..*self
        })
    }

    fn check_limits(&self, stored_size: u64) -> Result<()> {
        let cluster_bytes = self.cluster_bytes();
        if stored_size > crate::geometry::MAX_DISK_BYTES {
            return Err(damaged(24, format!("disk size {stored_size:#x} is above 2^63-1")));
        }
        if self.refcount_order > 6 {
            return Err(damaged(96, format!("refcount width 2^{} bits is above 64", self.refcount_order)));
        }
        if u64::from(self.l1_entries) * 8 > MAX_L1_BYTES {
            return Err(damaged(36, format!("an L1 table of {} entries is above 32 MiB", self.l1_entries)));
        }
        let entry_bytes = if self.has_extended_l2() { 16 } else { 8 };
        let needed = stored_size.div_ceil(cluster_bytes * (cluster_bytes / entry_bytes));
        if u64::from(self.l1_entries) < needed {
            let message = format!("an L1 table of {} entries is too small: the disk needs {needed}", self.l1_entries);
            return Err(damaged(36, message));
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
        // QEMU looks at the offset of an empty table, too.
        for (at, what, offset) in [
            (40, "L1 table", self.l1_offset),
            (48, "refcount table", self.refcount_table_offset),
            (64, "snapshot table", self.snapshots_offset),
        ] {
            if offset % cluster_bytes != 0 {
                return Err(damaged(at, format!("the {what}'s offset {offset:#x} is not at the start of a cluster")));
            }
            if offset > crate::geometry::MAX_DISK_BYTES {
                return Err(damaged(at, format!("the {what}'s offset {offset:#x} is above 2^63-1")));
            }
        }
        Ok(())
    }

    /// The method of encryption and the extension that says where its header is come together, or not at all.
    fn check_encryption(&self, fields: &Fields<'_>) -> Result<()> {
        let method = fields.u32(32)?;
        match (method, self.crypto) {
            (ENCRYPTION_LUKS.., _) if method > ENCRYPTION_LUKS => {
                Err(Error::new(ErrorKind::Unsupported, format!("encryption method {method} is unknown"))
                    .at("qcow2 header", 32)
                    .advise("use a newer checkmap"))
            }
            (ENCRYPTION_LUKS, None) => Err(damaged(32, "no extension says where the encryption header is".into())),
            (0..ENCRYPTION_LUKS, Some(_)) => {
                Err(damaged(32, format!("there is an encryption header, but the encryption method is {method}")))
            }
            _ => Ok(()),
        }
    }

    fn read_extensions(&mut self, fields: &Fields<'_>) -> Result<()> {
        let end = self.backing_name.map_or(self.cluster_bytes_usize(), |(at, _)| at);
        let mut at = self.extensions_end;
        let damaged =
            |at: usize, message| Err(Error::new(ErrorKind::Damaged, message).at("qcow2 header extension", at as u64));
        while at < end {
            if end - at < 8 {
                return damaged(at, format!("there is no room for an end marker before the end at {end:#x}"));
            }
            let kind = fields.u32(at)?;
            let len = fields.u32(at + 4)? as usize;
            // The end marker's length means nothing, but QEMU compares it as any other.
            if len > end - at - 8 {
                return damaged(at, format!("extension {kind:#x} of {len} bytes leaves the header"));
            }
            match kind {
                EXTENSION_END => break,
                EXTENSION_BITMAPS => self.directory = self.read_bitmaps_extension(fields, at, len),
                EXTENSION_CRYPTO => self.crypto = Some(self.read_crypto_extension(fields, at, len)?),
                EXTENSION_BACKING_FORMAT if len > MAX_BACKING_FORMAT => {
                    return damaged(at + 4, format!("the backing file's format has {len} bytes"));
                }
                _ => {}
            }
            let extension = Extension { kind, at, len };
            at = extension.end();
            memory::push(&mut self.extensions, extension)?;
            if self.directory.as_ref().is_err_and(DirectoryFault::is_malformed) {
                // Where the next extension begins is unknown.
                break;
            }
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
        let fault =
            |message: String, within: usize| DirectoryFault { message, at: (at + within) as u64, malformed: len != 24 };
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

    /// The extension of this kind; of several, the one that QEMU takes.
    pub(super) fn extension(&self, kind: u32) -> Option<&Extension> {
        self.extensions.iter().rfind(|extension| extension.kind == kind)
    }

    /// The text of an extension, which may be empty.
    pub(super) fn extension_text(&self, kind: u32) -> Option<&[u8]> {
        self.extension(kind).and_then(|found| self.raw.get(found.at + 8..found.at + 8 + found.len)).map(until_nul)
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
        let (at, len) = self.backing_name?;
        let name = until_nul(self.raw.get(at..at + len)?);
        let format = self.extension_text(EXTENSION_BACKING_FORMAT).filter(|format| !format.is_empty());
        (!name.is_empty()).then_some((name, format))
    }

    /// The name of the external data file, where one is recorded.
    pub(crate) fn data_file(&self) -> Option<&[u8]> {
        self.extension_text(EXTENSION_DATA_FILE)
    }

    /// The autoclear bits that a writer which understands bitmaps and raw data files may keep.
    pub(crate) fn autoclear_kept(&self) -> u64 {
        let of_mark = if self.extension(EXTENSION_MARK).is_some() { AUTOCLEAR_MARK } else { 0 };
        self.autoclear & (AUTOCLEAR_KNOWN | of_mark)
    }
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

/// QEMU holds names as C strings, which a NUL ends.
fn until_nul(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The compression type is zlib, or another one that an incompatible feature bit announces.
fn check_compression(fields: &Fields<'_>, incompatible: u64, header_len: u32) -> Result<()> {
    let kind = if header_len > SHORTEST_HEADER { fields.u8(COMPRESSION_AT)? } else { 0 };
    let announced = incompatible & INCOMPATIBLE_COMPRESSION != 0;
    match kind {
        0 | 1 if announced == (kind != 0) => Ok(()),
        0 | 1 => Err(damaged(72, format!("compression type {kind} does not fit its incompatible feature bit"))),
        _ => Err(Error::new(ErrorKind::Unsupported, format!("compression type {kind} is unknown"))
            .at("qcow2 header", COMPRESSION_AT as u64)
            .advise("use a newer checkmap")),
    }
}

fn damaged(at: u64, message: String) -> Error {
    Error::new(ErrorKind::Damaged, message).at("qcow2 header", at)
}
