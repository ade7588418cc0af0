#![forbid(unsafe_code)]
//! Owns the content of a disk as its guest reads it: its bytes, and where it has any. Must never know why somebody reads them.
//!
//! Every layer's header is checked first, and each file is opened here, for reading only, and locked against writers. Then the
//! bytes come from a plain reader of our own process, or where that would not get them right, from a private qemu-nbd.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod chain;
mod plain;
mod remote;
mod through_qemu;

pub(crate) use chain::{Chain, Options};
pub(crate) use remote::Remote;

use crate::error::Result;
use crate::geometry::Extent;
use crate::progress::Observer;
use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// A file that is read for the content of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceFile {
    /// Where it is.
    pub path: PathBuf,
    /// The format as which it is read.
    pub format: String,
    /// What it is to the disk: "the image", "a backing file", "a data file".
    pub role: &'static str,
}

/// The state of a stretch of a disk, over all its layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allocation {
    /// Whether it takes no room.
    pub(crate) is_hole: bool,
    /// Whether it reads as zeros.
    pub(crate) is_zero: bool,
}

/// Takes each stretch, and says whether to go on.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(Extent, Allocation) -> ControlFlow<()>;

/// The content of a disk. Calls can come from several threads at once.
pub(crate) trait Content: Send + Sync + fmt::Debug {
    /// The size in bytes, in whole sectors of 512.
    fn size_bytes(&self) -> u64;

    /// Fills `buffer` with the bytes from `offset` on; the range is inside the disk.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;

    /// As [`read_at`](Self::read_at), of several extents, whose bytes come one behind another and fill the buffer.
    fn read_extents(&self, buffer: &mut [u8], extents: &[Extent]) -> Result<()> {
        one_by_one(buffer, extents, &mut |bytes, offset| self.read_at(bytes, offset))
    }

    /// How many bytes between two windows are better looked at than left out, as each question has its price.
    fn gap_worth_asking(&self) -> u64 {
        0
    }

    /// Tells `visit` the state of each stretch of a window, which is inside the disk, without a gap; two that touch can be alike.
    fn allocation(&self, window: Extent, visit: Visit<'_>) -> Result<()>;
}

/// Reads extents whose bytes come one behind another.
fn one_by_one(buffer: &mut [u8], extents: &[Extent], read: &mut dyn FnMut(&mut [u8], u64) -> Result<()>) -> Result<()> {
    let mut rest = buffer;
    for extent in extents {
        let len = usize::try_from(extent.len_bytes).unwrap_or(usize::MAX).min(rest.len());
        let (bytes, behind) = std::mem::take(&mut rest).split_at_mut(len);
        read(bytes, extent.offset)?;
        rest = behind;
    }
    Ok(())
}

/// Opens the content of the disk of a chain that was checked; with the reason where qemu-nbd has to read it. `secret_file` holds
/// the passphrase of encrypted layers.
pub(crate) fn open(
    chain: Chain,
    secret_file: Option<&Path>,
    observer: &mut dyn Observer,
) -> Result<(Box<dyn Content>, Option<String>)> {
    match plain::Plain::open(chain) {
        Ok(plain) => Ok((Box::new(plain), None)),
        Err((_, error)) if error.is_of_the_call() => Err(error),
        Err((chain, error)) => {
            let content = through_qemu::ThroughQemu::open(chain, secret_file, observer)?;
            Ok((Box::new(content), Some(error.to_string())))
        }
    }
}
