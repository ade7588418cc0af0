#![forbid(unsafe_code)]
//! Owns bounded reading of other people's bytes: every read names its structure and offset when it fails, and nothing
//! is allocated before the file is known to be that long. Must never know what a field means.

use crate::error::{Error, ErrorKind, Result};
use crate::storage::Storage;

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

/// The big-endian u64 entries of a table.
pub(crate) fn be_u64s(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks::<8>().0.iter().map(|entry| u64::from_be_bytes(*entry)).collect()
}

/// Refuses where the file ends before `len` bytes at `offset` do.
pub(crate) fn check_inside(storage: &dyn Storage, structure: &str, offset: u64, len: u64) -> Result<()> {
    let file_len = file_len(storage)?;
    if offset.checked_add(len).is_none_or(|end| end > file_len) {
        return Err(Error::new(
            ErrorKind::Damaged,
            format!("{len} bytes are needed, but the file ends at {file_len:#x}; it is cut short or damaged"),
        )
        .at(structure, offset));
    }
    Ok(())
}

/// Reads `len` bytes at `offset`; refuses before it allocates when the file ends earlier.
pub(crate) fn read_exact(storage: &dyn Storage, structure: &str, offset: u64, len: u64) -> Result<Vec<u8>> {
    check_inside(storage, structure, offset, len)?;
    let len = usize::try_from(len).map_err(|_| {
        Error::new(ErrorKind::Unsupported, "is larger than this machine's memory").at(structure, offset)
    })?;
    let mut bytes = vec![0; len];
    let filled = storage
        .read_at(&mut bytes, offset)
        .map_err(|error| Error::io(format!("cannot read {len} bytes"), error).at(structure, offset))?;
    if filled < len {
        return Err(Error::new(ErrorKind::Damaged, "the file became shorter while it was read").at(structure, offset));
    }
    Ok(bytes)
}

/// The present length of the file.
pub(crate) fn file_len(storage: &dyn Storage) -> Result<u64> {
    storage.len_bytes().map_err(|error| Error::io("cannot find the size", error))
}
