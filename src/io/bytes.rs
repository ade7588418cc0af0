#![forbid(unsafe_code)]
//! Owns bounded reading of bytes that others wrote, in either byte order: every read names its structure and offset when it fails, and nothing
//! is allocated before the file is known to be that long. Must never know what a field means.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::Storage;
use crate::error::{Error, ErrorKind, Result};
use crate::memory;
use std::fmt::Display;

/// A structure read from a file, whose big-endian fields are taken out by position.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
    structure: &'a str,
    base: u64,
}

impl<'a> Fields<'a> {
    /// The fields of `bytes`, which stand at `base` in their file.
    pub(crate) fn new(bytes: &'a [u8], structure: &'a str, base: u64) -> Self {
        Self { bytes, structure, base }
    }

    pub(crate) fn slice(&self, at: usize, len: usize) -> Result<&'a [u8]> {
        at.checked_add(len).and_then(|end| self.bytes.get(at..end)).ok_or_else(|| {
            Error::new(ErrorKind::Damaged, format!("is cut short: {len} bytes are needed at byte {at} of it"))
                .at(self.structure, self.base.saturating_add(at as u64))
        })
    }

    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.slice(at, N)?);
        Ok(array)
    }

    pub(crate) fn u8(&self, at: usize) -> Result<u8> {
        Ok(u8::from_be_bytes(self.array(at)?))
    }

    pub(crate) fn u16(&self, at: usize) -> Result<u16> {
        Ok(u16::from_be_bytes(self.array(at)?))
    }

    pub(crate) fn u32(&self, at: usize) -> Result<u32> {
        Ok(u32::from_be_bytes(self.array(at)?))
    }

    pub(crate) fn u64(&self, at: usize) -> Result<u64> {
        Ok(u64::from_be_bytes(self.array(at)?))
    }
}

/// Puts `field` into `bytes` at `at`; false where it does not fit.
#[must_use]
pub(crate) fn put(bytes: &mut [u8], at: usize, field: &[u8]) -> bool {
    match at.checked_add(field.len()).and_then(|end| bytes.get_mut(at..end)) {
        Some(place) => {
            place.copy_from_slice(field);
            true
        }
        None => false,
    }
}

/// The little-endian u32 at `at` of a structure of fixed length, which has it.
pub(crate) fn le_u32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().map_or(0, u32::from_le_bytes)
}

/// The little-endian u64 at `at` of a structure of fixed length, which has it.
pub(crate) fn le_u64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().map_or(0, u64::from_le_bytes)
}

/// The big-endian u64 entries of a table.
pub(crate) fn be_u64s(bytes: &[u8]) -> Result<Vec<u64>> {
    Ok(memory::gather(bytes.as_chunks::<8>().0.iter().map(|entry| u64::from_be_bytes(*entry)))?)
}

/// Refuses where a structure of a file in clusters reaches a whole cluster or more past the end of the file. Less may be
/// missing: writers need not fill the last cluster, and QEMU reads zeros there.
pub(crate) fn check_reach(
    storage: &dyn Storage,
    structure: &dyn Display,
    offset: u64,
    len: u64,
    cluster_bytes: u64,
) -> Result<()> {
    let file_len = file_len(storage)?;
    match offset.checked_add(len).filter(|end| end.saturating_sub(file_len) < cluster_bytes) {
        Some(_) => Ok(()),
        None => Err(cut_short(structure, offset, len, file_len)),
    }
}

/// Reads `len` bytes at `offset`; refuses before it allocates when the file ends earlier.
pub(crate) fn read_exact(storage: &dyn Storage, structure: &dyn Display, offset: u64, len: u64) -> Result<Vec<u8>> {
    let file_len = file_len(storage)?;
    if offset.checked_add(len).is_none_or(|end| end > file_len) {
        return Err(cut_short(structure, offset, len, file_len));
    }
    read(storage, structure, offset, len, len)
}

/// Reads a structure of a file in clusters: zeros stand for what the last cluster of the file lacks. Refuses before it
/// allocates when more is missing, or when the file ends before the structure begins.
pub(crate) fn read_padded(
    storage: &dyn Storage,
    structure: &dyn Display,
    offset: u64,
    len: u64,
    cluster_bytes: u64,
) -> Result<Vec<u8>> {
    let file_len = file_len(storage)?;
    check_reach(storage, structure, offset, len, cluster_bytes)?;
    match file_len.checked_sub(offset) {
        None | Some(0) => Err(cut_short(structure, offset, len, file_len)),
        Some(present) => read(storage, structure, offset, len, present.min(len)),
    }
}

fn cut_short(structure: &dyn Display, offset: u64, len: u64, file_len: u64) -> Error {
    Error::new(
        ErrorKind::Damaged,
        format!("{len} bytes are needed, but the file ends at {file_len:#x}; it is cut short or damaged"),
    )
    .at(structure.to_string(), offset)
}

/// Reads `len` bytes of which the file has the first `present`.
fn read(storage: &dyn Storage, structure: &dyn Display, offset: u64, len: u64, present: u64) -> Result<Vec<u8>> {
    let too_large = |_| {
        Error::new(ErrorKind::Unsupported, "is larger than this machine's memory").at(structure.to_string(), offset)
    };
    let present = usize::try_from(present).map_err(too_large)?;
    let mut bytes = memory::zeroed(usize::try_from(len).map_err(too_large)?)?;
    fill(storage, structure, offset, bytes.get_mut(..present).unwrap_or_default())?;
    Ok(bytes)
}

/// Reads into `buffer` what the file has from `offset` on; how many bytes that are.
pub(crate) fn read_some(
    storage: &dyn Storage,
    structure: &dyn Display,
    offset: u64,
    buffer: &mut [u8],
) -> Result<usize> {
    let wanted = buffer.len();
    let read = storage.read_at(buffer, offset);
    read.map_err(|error| Error::io(format!("cannot read {wanted} bytes"), error).at(structure.to_string(), offset))
}

/// Fills `buffer` from `offset` on, which the caller knows to be in the file.
pub(crate) fn fill(storage: &dyn Storage, structure: &dyn Display, offset: u64, buffer: &mut [u8]) -> Result<()> {
    if read_some(storage, structure, offset, buffer)? < buffer.len() {
        let message = "the file became shorter while it was read";
        return Err(Error::new(ErrorKind::Damaged, message).at(structure.to_string(), offset));
    }
    Ok(())
}

/// Passes `len` bytes from `offset` on to `take`; they are copied only where they are not in memory.
pub(crate) fn with_bytes<T>(
    storage: &dyn Storage,
    structure: &dyn Display,
    offset: u64,
    len: usize,
    take: impl FnOnce(&[u8]) -> Result<T>,
) -> Result<T> {
    let inside = |all| -> Option<&[u8]> { <[u8]>::get(all, usize::try_from(offset).ok()?..)?.get(..len) };
    if let Some(bytes) = storage.in_memory().and_then(inside) {
        return take(bytes);
    }
    let mut buffer = memory::zeroed(len)?;
    fill(storage, structure, offset, &mut buffer)?;
    take(&buffer)
}

/// The present length of the file.
pub(crate) fn file_len(storage: &dyn Storage) -> Result<u64> {
    storage.len_bytes().map_err(|error| Error::io("cannot find the size", error))
}
