#![forbid(unsafe_code)]
//! Owns the content of a chain of plain images, read in this process. Must never be given a chain that only QEMU reads right.

use super::chain::{Chain, Kind};
use super::{Allocation, Content, Visit};
use crate::error::{Error, ErrorKind, Result};
use crate::formats::{PlainDisk, PlainLayer, Stretch};
use crate::geometry::Extent;
use crate::memory;
use std::ops::ControlFlow;
use std::sync::Arc;

/// The content of a chain, whose files stay locked.
#[derive(Debug)]
pub(super) struct Plain {
    disk: PlainDisk,
    chain: Chain,
}

impl Plain {
    /// Opens the disk; gives the chain back with the reason where that does not work.
    pub(super) fn open(chain: Chain) -> std::result::Result<Self, (Chain, Error)> {
        match disk(&chain) {
            Ok(disk) => Ok(Self { disk, chain }),
            Err(error) => Err((chain, error)),
        }
    }

    /// An error of the reader, with the name of the image.
    fn failed(&self, what: &str, error: std::io::Error) -> Error {
        let error = Error::io(what, error);
        match self.chain.layers.first() {
            Some(top) => error.in_file(&top.part.path),
            None => error,
        }
    }
}

fn disk(chain: &Chain) -> Result<PlainDisk> {
    if let Some(why) = chain.why_not_plain() {
        return Err(Error::new(ErrorKind::Unsupported, why));
    }
    let layer = |layer: &super::chain::Layer| PlainLayer {
        file: Arc::clone(&layer.part.file),
        is_raw: matches!(layer.kind, Kind::Raw),
        data_file: layer.data_file.as_ref().map(|data| Arc::clone(&data.file)),
    };
    PlainDisk::open(memory::gather(chain.layers.iter().map(layer))?)
}

impl Content for Plain {
    fn size_bytes(&self) -> u64 {
        self.chain.size_bytes
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.disk.read_at(buffer, offset).map_err(|error| self.failed("cannot read the disk", error))
    }

    fn allocation(&self, window: Extent, visit: Visit<'_>) -> Result<()> {
        let mut at = window.offset;
        while at < window.end() {
            let stretch = self.disk.stretch(at, window.end() - at);
            let (state, len_bytes) = stretch.map_err(|error| self.failed("cannot tell what is allocated", error))?;
            let is_hole = state == Stretch::Hole;
            let allocation = Allocation { is_hole, is_zero: is_hole };
            if visit(Extent { offset: at, len_bytes }, allocation) == ControlFlow::Break(()) {
                break;
            }
            at += len_bytes;
        }
        Ok(())
    }
}
