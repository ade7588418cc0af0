#![forbid(unsafe_code)]
//! Owns the question whether a bitmap's clusters are its own: bits that another structure writes over are no bits.
//! Must never judge anything else, so that one damaged structure does not hide the others.

use super::directory::Entry;
use super::header::{DirectoryRef, Header};
use super::refcounts::Refcounts;
use super::walk::{Depth, Role, Visitor, Walk};
use crate::bitmap::Bitmap;
use crate::error::{Error, Result};
use crate::geometry::{Granularity, MAX_DISK_BYTES, MAX_GRANULES};
use crate::storage::Storage;

/// The clusters that a bitmap's structure shares with any other structure of the file, the guest's own data excepted.
pub(crate) fn shared_clusters(
    storage: &dyn Storage,
    header: &Header,
    place: DirectoryRef,
    entries: &[Entry],
) -> Result<Bitmap> {
    let size_bytes = MAX_GRANULES.saturating_mul(header.cluster_bytes()).min(MAX_DISK_BYTES);
    let empty = Bitmap::new(size_bytes, Granularity::from_bits(header.cluster_bits)?)?;
    let mut map = Map { occupied: empty.clone(), shared: empty };
    let walk = Walk { storage, header, depth: Depth::Metadata };
    walk.disk(&mut map)?;
    if let Ok(refcounts) = Refcounts::read(storage, header) {
        for (_, offset) in refcounts.blocks() {
            map.occupies(Role::RefcountBlock, offset, header.cluster_bytes())?;
        }
    }
    walk.bitmaps(place, entries, &mut map)?;
    Ok(map.shared)
}

struct Map {
    occupied: Bitmap,
    shared: Bitmap,
}

impl Visitor for Map {
    fn occupies(&mut self, role: Role, offset: u64, len_bytes: u64) -> Result<()> {
        if role.is_bitmap() {
            for extent in self.occupied.extents(offset, len_bytes.max(1)) {
                self.shared.set(extent.offset, extent.len_bytes)?;
            }
        }
        // What lies out of reach is the fault of the structure that points there, and is found when that is read.
        let _ = self.occupied.set(offset, len_bytes);
        Ok(())
    }

    fn fault(&mut self, _: Error) -> Result<()> {
        Ok(())
    }
}
