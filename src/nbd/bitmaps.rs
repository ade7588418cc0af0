#![forbid(unsafe_code)]
//! Owns the way from QEMU's maps of dirty blocks to bitmaps, and how a granularity that nobody tells is found. Must never know
//! how the status of blocks is asked for.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::client::Client;
use crate::bitmap::Bitmap;
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::{Extent, Granularity, check_disk, clip_end};
use crate::memory;
use crate::progress::Observer;

/// The beginning of the name of a context that is a dirty bitmap of QEMU's.
pub const DIRTY_BITMAP: &[u8] = b"qemu:dirty-bitmap:";

/// The only flag of such a context: the stretch is dirty.
const DIRTY: u64 = 1;

/// The finest granularity of QEMU's bitmaps, and the coarsest that is taken where it is not told, as bits.
const FINEST_BITS: u32 = 9;
const COARSEST_BITS: u32 = 16;

/// The name of the context that is the bitmap of this name.
pub fn context_of(bitmap: &[u8]) -> Result<Vec<u8>> {
    Ok(memory::gather(DIRTY_BITMAP.iter().chain(bitmap).copied())?)
}

/// A bitmap that is being made of stretches.
struct Builder {
    bitmap: Bitmap,
    /// The granularity that all bounds so far allow, as bits; for one that was told, that one.
    bits: u32,
}

impl Builder {
    fn new(disk_bytes: u64, granularity: Option<Granularity>) -> Result<Self> {
        if let Some(granularity) = granularity {
            return Ok(Self { bitmap: Bitmap::new(disk_bytes, granularity)?, bits: granularity.bits() });
        }
        let possible = (FINEST_BITS..31).find_map(|bits| {
            let granularity = Granularity::from_bits(bits).ok()?;
            check_disk(disk_bytes, granularity).ok().map(|()| granularity)
        });
        let finest = possible.map_or_else(|| Granularity::from_bits(31), Ok)?;
        Ok(Self { bitmap: Bitmap::new(disk_bytes, finest)?, bits: COARSEST_BITS.max(finest.bits()) })
    }

    /// Notes a bound between dirty and clean blocks.
    fn bound(&mut self, offset: u64) {
        self.bits = self.bits.min(offset.trailing_zeros()).max(self.bitmap.granularity().bits());
    }

    fn finish(mut self) -> Result<Bitmap> {
        let granularity = Granularity::from_bits(self.bits)?;
        if granularity != self.bitmap.granularity() {
            return self.bitmap.to_granularity(granularity);
        }
        self.bitmap.optimize()?;
        Ok(self.bitmap)
    }
}

impl Client {
    /// The bitmaps of all contexts, each of which must be a dirty bitmap of QEMU's, in their order.
    ///
    /// They have the size of the disk, and are clean outside of the window, which is cut at the disk's end. `granularities` has one
    /// for each context; dirty stretches are rounded outward to it. As NBD does not tell the granularity, `None` takes the largest
    /// power of two from 512 to 65536 at which every bound between dirty and clean blocks in the window is a multiple; a disk with
    /// more than 2^41 granules takes a larger one.
    ///
    /// A context that is no dirty bitmap, or another number of granularities: [`ErrorKind::InvalidArgument`]. A status that is
    /// neither clean nor dirty: [`ErrorKind::Damaged`]. Else the errors of [`block_status`](Self::block_status) and
    /// [`Bitmap::new`].
    pub fn dirty_bitmaps(
        &mut self,
        offset: u64,
        len_bytes: u64,
        granularities: &[Option<Granularity>],
        observer: &mut dyn Observer,
    ) -> Result<Vec<Bitmap>> {
        if granularities.len() != self.contexts.len() {
            let message = format!("{} granularities for {} contexts", granularities.len(), self.contexts.len());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        if let Some(other) = self.contexts.iter().find(|context| !context.starts_with(DIRTY_BITMAP)) {
            let message = format!("context '{}' is no dirty bitmap", other.escape_ascii());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let (disk, size) = (self.disk_bytes(), self.size_bytes());
        if offset > disk {
            let message = format!("offset {offset} is past the end of the disk, {disk} bytes");
            return Err(Error::new(ErrorKind::OutOfRange, message));
        }
        let end = clip_end(offset, len_bytes, disk);
        let mut builders = memory::room(granularities.len())?;
        for granularity in granularities {
            builders.push(Builder::new(disk, *granularity)?);
        }
        let mut visit = |status: super::Status| {
            let Some(builder) = builders.get_mut(status.context) else { return Ok(()) };
            let Extent { offset: from, len_bytes } = status.extent;
            // The ends of the window and of the export say nothing of the granularity.
            if from > offset {
                builder.bound(from);
            }
            match status.flags {
                0 => Ok(()),
                DIRTY => builder.bitmap.set(from, len_bytes),
                flags => {
                    let message = format!("status {flags:#x} at {from} is neither clean nor dirty");
                    Err(Error::new(ErrorKind::Damaged, message).at("NBD protocol", None))
                }
            }
        };
        self.block_status(offset.min(size), end.saturating_sub(offset.min(size)), &mut visit, observer)?;
        let mut bitmaps = memory::room(builders.len())?;
        for mut builder in builders {
            if end > size {
                // The export does not have these bytes, so nobody knows.
                let from = size.max(offset);
                builder.bitmap.set(from, end - from)?;
            }
            bitmaps.push(builder.finish()?);
        }
        Ok(bitmaps)
    }
}
