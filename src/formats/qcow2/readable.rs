#![forbid(unsafe_code)]
//! Owns what a header says of the guest's data: whether a plain reader gets them right, and which keys and files it takes. Must
//! never read the data.

use super::header::{Header, INCOMPATIBLE_CORRUPT, INCOMPATIBLE_DIRTY};
use crate::error::{Error, ErrorKind, Result};
use crate::formats::{DataNeeds, Encryption};
use crate::io::Storage;
use crate::io::bytes::Fields;

/// The incompatible feature bit of another compression than zlib.
const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
const METHOD_AT: usize = 32;
const SIZE_AT: usize = 24;
const AES: u32 = 1;
const LUKS: u32 = 2;

/// What the guest's data need, and why a plain reader must leave them to QEMU.
pub(crate) fn data_needs(storage: &dyn Storage) -> Result<DataNeeds> {
    let header = Header::read(storage)?;
    let fields = Fields::new(&header.raw, "qcow2 header", 0);
    let encryption = match fields.u32(METHOD_AT)? {
        0 => None,
        AES => Some(Encryption::Aes),
        LUKS => Some(Encryption::Luks),
        method => {
            let message = format!("encryption method {method} is unknown");
            return Err(Error::new(ErrorKind::Unsupported, message).at("qcow2 header", METHOD_AT as u64));
        }
    };
    let data_file = match (header.has_data_file(), header.data_file()) {
        (false, _) => None,
        (true, Some(name)) if !name.is_empty() => Some(name.to_vec()),
        (true, _) => {
            let message = "its data are in an external file, whose name it does not record";
            return Err(Error::new(ErrorKind::Unsupported, message).at("qcow2 header", 72));
        }
    };
    let why_not_plain = if encryption.is_some() {
        Some("is encrypted")
    } else if header.version < 3 {
        Some("is of version 2")
    } else if header.has_extended_l2() {
        Some("has extended L2 entries")
    } else if header.incompatible & INCOMPATIBLE_COMPRESSION != 0 {
        Some("is compressed by zstd")
    } else if header.incompatible & INCOMPATIBLE_CORRUPT != 0 {
        Some("is marked corrupt")
    } else if header.incompatible & INCOMPATIBLE_DIRTY != 0 {
        Some("is marked dirty")
    } else if fields.u64(SIZE_AT)? != header.size_bytes {
        Some("has a size of no whole sectors")
    } else {
        None
    };
    Ok(DataNeeds { why_not_plain, encryption, data_file })
}
