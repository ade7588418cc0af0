#![forbid(unsafe_code)]
//! Owns the making of one backup's file and of its list of sums: data in extents of at most 1 MiB, each with its sum, clusters
//! of zeros without data. Must never know where the bytes come from.
//!
//! The file is written from its first byte to its last by code of our own: no other program has to be there, one pass over the
//! file is enough, and a zero cluster can only be what it is, where a server may turn zeros into a discard.

use super::compose::Sink;
use super::directory::{place, temporary};
use super::sums::{MOST_EXTENT, Sums};
use crate::checksum::crc32c;
use crate::error::{Error, Result};
use crate::formats::{CLUSTER_BYTES, Fresh};
use crate::memory;
use std::io::Write;
use std::path::Path;
use tempfile::NamedTempFile;

/// A backup's file in the making, under a temporary name.
#[derive(Debug)]
pub(super) struct Writer {
    file: NamedTempFile,
    fresh: Fresh,
    sums: Sums,
    /// Whether a file lies below: then zeros must be told.
    has_backing: bool,
}

/// A backup's file and its list, complete and without names yet.
#[derive(Debug)]
pub(super) struct Written {
    file: NamedTempFile,
    list: NamedTempFile,
    /// The sum of the list, and what the manifest tells of the file.
    pub(super) sum: u32,
    pub(super) data_bytes: u64,
    pub(super) zero_bytes: u64,
    pub(super) file_bytes: u64,
}

impl Writer {
    /// Begins a file in `folder` for a disk of this size, over the file that is named `backing`.
    pub(super) fn begin(folder: &Path, size_bytes: u64, backing: Option<&str>) -> Result<Self> {
        let file = temporary(folder)?;
        let handle = file.as_file().try_clone().map_err(|error| Error::io("cannot write", error).in_file(folder))?;
        let fresh = Fresh::begin(handle, size_bytes, backing.map(str::as_bytes))?;
        Ok(Self { file, fresh, sums: Sums::new(size_bytes)?, has_backing: backing.is_some() })
    }

    /// Takes bytes that were read; clusters of zeros among them are written as such.
    pub(super) fn bytes(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let cluster = usize::try_from(CLUSTER_BYTES).unwrap_or(usize::MAX);
        let mut start = 0;
        while start < bytes.len() {
            let is_zero = |piece: &[u8]| is_zero(piece);
            let mut end = start;
            let first = bytes.get(start..bytes.len().min(start + cluster)).is_some_and(is_zero);
            while end < bytes.len() {
                let piece = bytes.get(end..bytes.len().min(end + cluster)).unwrap_or_default();
                if is_zero(piece) != first {
                    break;
                }
                end += piece.len();
            }
            let at = offset + start as u64;
            match first {
                true => self.write_zeros(at, (end - start) as u64)?,
                false => self.data(at, bytes.get(start..end).unwrap_or_default())?,
            }
            start = end;
        }
        Ok(())
    }

    /// Takes clusters that must read as zeros, whatever lies below.
    pub(super) fn write_zeros(&mut self, offset: u64, len_bytes: u64) -> Result<()> {
        self.fresh.zeros(offset, len_bytes)?;
        self.sums.add_zeros(offset, len_bytes)
    }

    /// Completes the file and the list, both durable.
    pub(super) fn finish(self, folder: &Path) -> Result<Written> {
        let named = |error: Error| error.in_file(folder);
        let file_bytes = self.fresh.finish().map_err(named)?;
        let (list, sum) = write_list(folder, &self.sums)?;
        for file in [&self.file, &list] {
            file.as_file().sync_all().map_err(|error| Error::io("cannot be made durable", error).in_file(folder))?;
        }
        let (data_bytes, zero_bytes) = (self.sums.has_data.dirty_bytes(), self.sums.has_zeros.dirty_bytes());
        Ok(Written { file: self.file, list, sum, data_bytes, zero_bytes, file_bytes })
    }
}

/// Writes a list, durable, to `path`; returns its sum.
pub(super) fn place_list(folder: &Path, sums: &Sums, path: &Path) -> Result<u32> {
    let (list, sum) = write_list(folder, sums)?;
    place(list, path)?;
    Ok(sum)
}

fn write_list(folder: &Path, sums: &Sums) -> Result<(NamedTempFile, u32)> {
    let text = sums.encode()?;
    let mut list = temporary(folder)?;
    list.write_all(text.as_bytes()).map_err(|error| Error::io("cannot write", error).in_file(folder))?;
    Ok((list, crc32c(text.as_bytes())))
}

impl Written {
    /// Gives both files their names; the manifest does not know them yet, or still has those that they replace.
    pub(super) fn place(self, file: &Path, list: &Path) -> Result<()> {
        place(self.file, file)?;
        place(self.list, list)
    }
}

impl Sink for Writer {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.fresh.data(offset, bytes)?;
        let most = usize::try_from(MOST_EXTENT).unwrap_or(usize::MAX);
        let mut at = offset;
        for piece in bytes.chunks(most) {
            self.sums.add_data(at, piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn zeros(&mut self, offset: u64, len_bytes: u64) -> Result<()> {
        // With nothing below, a hole reads as zeros too.
        if self.has_backing { self.write_zeros(offset, len_bytes) } else { Ok(()) }
    }
}

/// Whether all bytes are zero, in pieces that the processor compares at once.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|piece| ZEROS.get(..piece.len()) == Some(piece))
}

/// A buffer of zero bytes.
pub(super) fn buffer(len_bytes: u64) -> Result<Vec<u8>> {
    Ok(memory::zeroed(usize::try_from(len_bytes).unwrap_or(usize::MAX))?)
}
