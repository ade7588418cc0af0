#![forbid(unsafe_code)]
//! Owns the room in a qcow2 file: which clusters are free, and taking and releasing them in memory.
//! Must never write to the file.

use super::file::Qcow2File;
use super::occupied::Occupied;
use super::ranges::Ranges;
use super::refcounts::Refcounts;
use crate::error::{Error, ErrorKind, Result};
use crate::io::bytes::file_len;
use crate::memory;
use std::ops::Range;

/// The offsets that a table entry can hold end here.
const MAX_FILE_BYTES: u64 = 1 << 56;

#[derive(Debug)]
pub(crate) struct Space<'a> {
    pub(crate) refcounts: Refcounts<'a>,
    /// The clusters in use, also where their refcount is 0.
    occupied: &'a Occupied,
    /// Clusters that are being taken and are not counted yet.
    taken: Vec<Range<u64>>,
    /// Clusters that were in use and are free again.
    released: Ranges,
    cluster_bits: u32,
    /// No cluster before this one is free.
    cursor: u64,
    end_bytes: u64,
}

impl<'a> Space<'a> {
    /// The room in the file that `occupied` leaves. Where not all of the guest's clusters are known, free room begins
    /// behind the end of the file and of everything that is counted.
    pub(super) fn new(file: Qcow2File<'a>, occupied: &'a Occupied) -> Result<Self> {
        let Qcow2File { storage, header, .. } = file;
        let mut refcounts = Refcounts::read(file)?;
        let file_end = file_len(storage)?;
        let cursor = match occupied.is_complete {
            true => 0,
            false => refcounts.counted_end()?.max(file_end.div_ceil(header.cluster_bytes())),
        };
        let end_bytes = if storage.can_grow() { MAX_FILE_BYTES } else { file_end };
        let (taken, released) = (Vec::new(), Ranges::default());
        Ok(Self { refcounts, occupied, taken, released, cluster_bits: header.cluster_bits, cursor, end_bytes })
    }

    fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Takes `clusters` neighbouring free clusters, their refcounts set to 1 in memory; the offset of the first.
    pub(crate) fn take(&mut self, clusters: u64) -> Result<u64> {
        let first = self.find(clusters)?;
        // Spoken for before it is counted, because counting may have to find room for a refcount block.
        memory::push(&mut self.taken, first..first + clusters)?;
        for cluster in first..first + clusters {
            if !self.refcounts.has_block(cluster) {
                self.add_block(cluster)?;
            }
            self.refcounts.set(cluster, 1)?;
        }
        self.taken.clear();
        Ok(first << self.cluster_bits)
    }

    /// Adds the block that counts `cluster`; the block may count itself.
    fn add_block(&mut self, cluster: u64) -> Result<()> {
        let place = self.find(1)?;
        memory::push(&mut self.taken, place..place + 1)?;
        self.refcounts.add_block(cluster, place << self.cluster_bits)?;
        if !self.refcounts.has_block(place) {
            self.add_block(place)?;
        }
        self.refcounts.set(place, 1)
    }

    /// Finds room without taking it.
    fn find(&mut self, clusters: u64) -> Result<u64> {
        let mut first = self.next_free(self.cursor, clusters)?;
        self.cursor = first;
        let mut last = first;
        while last + 1 - first < clusters {
            let next = self.next_free(last + 1, clusters)?;
            if next != last + 1 {
                first = next;
            }
            last = next;
        }
        Ok(first)
    }

    fn next_free(&mut self, mut cluster: u64, wanted: u64) -> Result<u64> {
        loop {
            cluster = self.refcounts.next_zero(cluster)?;
            if cluster >= self.end_bytes >> self.cluster_bits {
                return Err(self.full(wanted));
            }
            if !self.is_in_use(cluster) {
                return Ok(cluster);
            }
            cluster += 1;
        }
    }

    fn is_in_use(&self, cluster: u64) -> bool {
        self.occupied.holds(cluster) && !self.released.contains(cluster)
            || self.taken.iter().any(|taken| taken.contains(&cluster))
    }

    fn full(&self, clusters: u64) -> Error {
        let bytes = clusters * self.cluster_bytes();
        Error::new(ErrorKind::NoSpace, format!("there is no free room of {bytes} bytes, and the device cannot grow"))
            .advise("enlarge the device")
    }

    /// Which of these clusters of bitmaps can be released: those that are counted as used, and that nothing else uses.
    /// `kept` are the clusters of the bitmaps that stay.
    pub(crate) fn releasable(&mut self, mut clusters: Vec<u64>, kept: &Ranges) -> Result<Vec<u64>> {
        clusters.sort_unstable();
        clusters.dedup();
        let mut releasable = memory::room(clusters.len())?;
        for offset in clusters {
            let cluster = offset >> self.cluster_bits;
            let other = self.occupied.is_used_by_disk(cluster) || kept.contains(cluster);
            if !other && self.refcounts.get(cluster)? > 0 {
                releasable.push(offset);
            }
        }
        Ok(releasable)
    }

    /// Lowers the refcount of each cluster by one, in memory.
    pub(crate) fn release(&mut self, clusters: &[u64]) -> Result<()> {
        for offset in clusters {
            let cluster = offset >> self.cluster_bits;
            let refcount = self.refcounts.get(cluster)?;
            self.refcounts.set(cluster, refcount.saturating_sub(1))?;
        }
        let released = clusters.iter().map(|offset| offset >> self.cluster_bits);
        self.released = Ranges::of(memory::gather(released.map(|cluster| cluster..cluster + 1))?)?;
        self.cursor = 0;
        Ok(())
    }

    /// Takes neighbouring free clusters as [`Space::take`] does, and never again any that lie before them.
    pub(crate) fn take_onward(&mut self, clusters: u64) -> Result<u64> {
        let offset = self.take(clusters)?;
        self.cursor = (offset >> self.cluster_bits) + clusters;
        Ok(offset)
    }

    /// The warning where clusters of the disk are in use and counted as free.
    pub(crate) fn warning(&self) -> Option<String> {
        let uncounted = self.occupied.uncounted_disk();
        let first = uncounted.iter().next()?;
        Some(format!(
            "{} clusters that the disk uses are counted as free, the first at offset {:#x}: QEMU will give them away, and \
             what they hold is overwritten then; after this change repair the image with `qemu-img check -r all`, before a \
             guest runs",
            uncounted.count(),
            first.start << self.cluster_bits
        ))
    }
}
