#![forbid(unsafe_code)]
//! Owns the question whether QEMU will have room for the bitmaps: whenever it closes an image it stores every bitmap anew
//! before it releases the old clusters, and where that fails it drops them all. Must never write to the file.

use super::commit;
use super::draft::{Cluster, Content, Draft, Drafted};
use super::file::Qcow2File;
use super::header::{DirectoryRef, Header};
use super::space::Space;
use super::table::{self, Payload, Shape};
use crate::error::{Error, ErrorKind, Result};
use crate::io::Storage;
use crate::memory;

/// The clusters that QEMU takes to store the bitmaps once more: those that record as if everything was written to since,
/// the others as they are. The guest's own writes come on top.
#[derive(Debug)]
pub(crate) struct Need {
    cluster_bytes: u64,
    /// For each bitmap that QEMU stores: the clusters of its table, and those of its data.
    bitmaps: Vec<(u64, u64)>,
    directory: u64,
}

impl Need {
    /// The room for the bitmaps of `draft`, with their directory at `directory`.
    pub(super) fn of(file: Qcow2File<'_>, draft: &Draft<'_>, directory: Option<DirectoryRef>) -> Result<Self> {
        let header = file.header;
        let cluster_bytes = header.cluster_bytes();
        let mut bitmaps = Vec::new();
        // QEMU leaves the others where they are.
        let stored = |bitmap: &&Drafted| !bitmap.entry.is_inconsistent() && !bitmap.entry.is_unusable();
        for bitmap in draft.bitmaps.iter().filter(stored) {
            let entries = Shape::of(header, bitmap.entry.granularity).entries();
            let data = if bitmap.entry.is_recording() { entries } else { data_clusters(file, bitmap)? };
            memory::push(&mut bitmaps, ((entries * 8).div_ceil(cluster_bytes), data.min(entries)))?;
        }
        let directory = directory.map_or(0, |directory| directory.len_bytes.div_ceil(cluster_bytes));
        Ok(Self { cluster_bytes, bitmaps, directory })
    }

    fn len_bytes(&self) -> u64 {
        let clusters: u64 = self.bitmaps.iter().map(|(table, data)| table + data).sum();
        (clusters + self.directory) * self.cluster_bytes
    }

    fn message(&self, has: &str) -> String {
        format!(
            "QEMU needs room for {} bytes to store the bitmaps anew when it closes the image, else it drops them all; {has}",
            self.len_bytes()
        )
    }

    /// The warning where the file system has less room than that, or does not say.
    pub(crate) fn warning(&self, storage: &dyn Storage) -> Option<String> {
        if !storage.can_grow() {
            return None;
        }
        match storage.room_bytes() {
            Some(room) if room >= self.len_bytes() => None,
            Some(room) => Some(self.message(&format!("the file system has {room} bytes left"))),
            None => Some(self.message("how much the file system has left is unknown")),
        }
    }

    /// Takes the clusters in the memory of `space` as QEMU would, one bitmap after the other, and fails where a device
    /// has less.
    pub(crate) fn check_device(&self, header: &Header, space: &mut Space<'_>) -> Result<()> {
        self.take(header, space).map_err(|error| match error.kind() {
            ErrorKind::NoSpace => Error::new(ErrorKind::NoSpace, self.message("the device has no such room"))
                .advise("enlarge the device, or delete checkpoints first"),
            _ => error,
        })
    }

    fn take(&self, header: &Header, space: &mut Space<'_>) -> Result<()> {
        for (table, data) in &self.bitmaps {
            for _ in 0..*data {
                space.take_onward(1)?;
            }
            space.take_onward(*table)?;
        }
        if self.directory > 0 {
            space.take_onward(self.directory)?;
        }
        commit::new_table(header, space).map(drop)
    }
}

/// The clusters of data that a frozen bitmap has, or at most has.
fn data_clusters(file: Qcow2File<'_>, bitmap: &Drafted) -> Result<u64> {
    let mut clusters = 0;
    match &bitmap.content {
        Content::Kept => {
            let whole = 0..u64::from(bitmap.entry.table_entries);
            table::for_each(file, &bitmap.entry, whole, &mut |_, payload| {
                clusters += u64::from(payload? != Payload::Zeros);
                Ok(())
            })?;
        }
        Content::Clusters(all) => clusters = all.iter().filter(|cluster| **cluster != Cluster::Zeros).count() as u64,
        Content::Bits(bits) => clusters = bits.dirty_granules(),
    }
    Ok(clusters)
}
