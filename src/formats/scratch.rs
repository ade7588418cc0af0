#![forbid(unsafe_code)]
//! Owns the choice of the format of a scratch image, in which only the blocks that are written take room. Must never know who
//! writes to it.

use super::qcow2;
use crate::error::{Error, Result};
use crate::io::locks;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// An empty image for a disk of some size.
#[derive(Debug)]
pub(crate) struct Scratch {
    beginning: Vec<u8>,
    /// The bytes of the file that the empty image takes.
    pub(crate) empty_bytes: u64,
    /// The bytes of the file that it takes at most, once every block was written.
    pub(crate) full_bytes: u64,
}

impl Scratch {
    /// The name of the format, as QEMU calls its driver.
    pub(crate) const DRIVER: &str = "qcow2";

    /// The smallest share of a file in which an image is of any use.
    pub(crate) const LEAST_ROOM_BYTES: u64 = 1 << 20;

    /// For a disk of this size, in bytes.
    pub(crate) fn new(size_bytes: u64) -> Result<Self> {
        let (beginning, empty_bytes) = qcow2::empty_image(size_bytes)?;
        // For each 64 KiB an entry of 8 bytes and a refcount of 2, and tables of whole clusters.
        let tables = (size_bytes >> 12).saturating_add(4 << 20);
        Ok(Self { beginning, empty_bytes, full_bytes: size_bytes.saturating_add(empty_bytes).saturating_add(tables) })
    }

    /// Whether somebody has the file of an image open to write to it, as far as that can be told.
    pub(crate) fn is_in_use(file: &File) -> bool {
        locks::held_by_writer(file)
    }

    /// Writes the image to a new file, which has `len_bytes` then, holes but for its beginning.
    pub(crate) fn write(&self, file: &File, len_bytes: u64) -> Result<()> {
        let written =
            file.set_len(len_bytes.max(self.empty_bytes)).and_then(|()| file.write_all_at(&self.beginning, 0));
        written.map_err(|error| Error::io("cannot write a scratch image", error))
    }
}
