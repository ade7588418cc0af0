#![forbid(unsafe_code)]
//! Owns the room in a qcow2 file: which clusters are free, and taking and releasing them in memory.
//! Must never write to the file.

use super::directory::Entry;
use super::header::{DirectoryRef, Header};
use super::occupied::{Occupied, Strictness};
use super::refcounts::Refcounts;
use crate::bitmap::Bitmap;
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::formats::bytes::file_len;
use crate::progress::Observer;
use crate::storage::Storage;

/// The offsets that a table entry can hold end here.
const MAX_FILE_BYTES: u64 = 1 << 56;

#[derive(Debug)]
pub(crate) struct Space<'a> {
    pub(crate) refcounts: Refcounts<'a>,
    /// The clusters that a metadata structure occupies, whatever their refcounts say.
    occupied: Bitmap,
    cluster_bits: u32,
    /// No cluster before this one is free.
    cursor: u64,
    end_bytes: u64,
}

impl<'a> Space<'a> {
    /// Reads what occupies the file. A structure that overlaps another is refused: writing one would change both.
    pub(crate) fn read(
        storage: &'a dyn Storage,
        header: &Header,
        bitmaps: Option<(DirectoryRef, &[Entry])>,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let refcounts = Refcounts::read(storage, header)?;
        let occupied = Occupied::read(storage, header, bitmaps, Strictness::Strict, observer)?;
        if let Some((role, offset)) = occupied.overlap {
            return Err(Error::new(ErrorKind::Damaged, "overlaps another structure")
                .at(format!("qcow2 {}", role.name()), offset)
                .advise(
                    WayOut::from("look at ").control(Control::Check).words(", repair with `qemu-img check -r all`"),
                ));
        }
        let end_bytes = if storage.can_grow() { MAX_FILE_BYTES } else { file_len(storage)? };
        let cluster_bits = header.cluster_bits;
        Ok(Self { refcounts, occupied: occupied.clusters, cluster_bits, cursor: 0, end_bytes })
    }

    fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Takes `clusters` neighbouring free clusters, their refcounts set to 1 in memory; the offset of the first.
    pub(crate) fn take(&mut self, clusters: u64) -> Result<u64> {
        let first = self.find(clusters)?;
        // Spoken for before it is counted, because counting may have to find room for a refcount block.
        self.occupied.set(first << self.cluster_bits, clusters << self.cluster_bits)?;
        for cluster in first..first + clusters {
            if !self.refcounts.has_block(cluster) {
                self.add_block(cluster)?;
            }
            self.refcounts.set(cluster, 1)?;
        }
        Ok(first << self.cluster_bits)
    }

    /// Adds the block that counts `cluster`; the block may count itself.
    fn add_block(&mut self, cluster: u64) -> Result<()> {
        let place = self.find(1)?;
        self.occupied.set(place << self.cluster_bits, self.cluster_bytes())?;
        self.refcounts.add_block(cluster, place << self.cluster_bits)?;
        if !self.refcounts.has_block(place) {
            self.add_block(place)?;
        }
        self.refcounts.set(place, 1)
    }

    /// Finds room without taking it.
    fn find(&mut self, clusters: u64) -> Result<u64> {
        let mut first = self.next_free(self.cursor)?;
        self.cursor = first;
        let mut last = first;
        while last + 1 - first < clusters {
            let next = self.next_free(last + 1)?;
            if next != last + 1 {
                first = next;
            }
            last = next;
        }
        if last >= self.end_bytes >> self.cluster_bits {
            return Err(self.full(clusters));
        }
        Ok(first)
    }

    fn next_free(&mut self, mut cluster: u64) -> Result<u64> {
        loop {
            cluster = self.refcounts.next_zero(cluster)?;
            if cluster >= self.end_bytes >> self.cluster_bits {
                return Err(self.full(1));
            }
            if !self.occupied_at(cluster)? {
                return Ok(cluster);
            }
            cluster += 1;
        }
    }

    fn occupied_at(&self, cluster: u64) -> Result<bool> {
        let offset = cluster << self.cluster_bits;
        if offset >= self.occupied.size_bytes() { Ok(false) } else { self.occupied.get(offset) }
    }

    fn full(&self, clusters: u64) -> Error {
        let bytes = clusters * self.cluster_bytes();
        Error::new(ErrorKind::NoSpace, format!("there is no free room of {bytes} bytes, and the device cannot grow"))
            .advise("enlarge the device")
    }

    /// Refuses where a cluster that is to be released is not counted as used.
    pub(crate) fn check_releasable(&mut self, clusters: &[u64]) -> Result<()> {
        for offset in clusters {
            if self.refcounts.get(offset >> self.cluster_bits)? == 0 {
                return Err(Error::new(ErrorKind::Damaged, "it belongs to a bitmap, but its refcount is 0")
                    .at("qcow2 cluster", *offset)
                    .advise("repair the image with `qemu-img check -r all`"));
            }
        }
        Ok(())
    }

    /// Lowers the refcount of each cluster by one, in memory.
    pub(crate) fn release(&mut self, clusters: &[u64]) -> Result<()> {
        for offset in clusters {
            let cluster = offset >> self.cluster_bits;
            let refcount = self.refcounts.get(cluster)?;
            self.refcounts.set(cluster, refcount.saturating_sub(1))?;
        }
        Ok(())
    }
}
