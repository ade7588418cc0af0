#![forbid(unsafe_code)]
//! Owns what a backup has to write: the clusters that are copied, and those that read as zeros. Must never write.
//!
//! An increment holds what changed, rounded outward to clusters and read from the disk. Clusters that are zeros now and have data
//! in the older backups are zeros in it whatever the map of changes says: a disk that was shrunk and grown again leaves no bit.

use super::compose::{Moment, Sink};
use super::sums::clusters;
use super::writer::buffer;
use crate::bitmap::Bitmap;
use crate::content::Content;
use crate::error::{Error, Result};
use crate::formats::{CLUSTER_BYTES, TABLE_BYTES};
use crate::geometry::Extent;
use crate::progress::{Observer, tell};
use std::ops::ControlFlow;

/// What a backup has to write; no cluster is in both.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) copied: Bitmap,
    pub(super) zeros: Bitmap,
}

/// What a full backup has to write.
pub(super) fn all(content: &dyn Content, observer: &mut dyn Observer) -> Result<Wanted> {
    let mut copied = Bitmap::new(content.size_bytes(), clusters()?)?;
    if content.size_bytes() > 0 {
        copied.set_all()?;
    }
    let look = Look::at(content, &copied, observer)?;
    copied.subtract(&look.zeros)?;
    // Nothing lies below, so that a hole reads as zeros.
    Ok(Wanted { copied, zeros: Bitmap::new(content.size_bytes(), clusters()?)? })
}

/// What an increment over `older` has to write, where `changed` blocks changed since; or the damage of an older file.
pub(super) fn since(
    content: &dyn Content,
    changed: &Bitmap,
    older: &Moment,
    observer: &mut dyn Observer,
) -> Result<std::result::Result<Wanted, Error>> {
    let size = content.size_bytes();
    let mut touched = outward(changed, size)?;
    let mut before = older.data()?;
    before.resize(size)?;
    // What lies behind the end of that day is new, whatever the map says.
    let end = older.size_bytes() / CLUSTER_BYTES * CLUSTER_BYTES;
    if end < size {
        let mut grown = Bitmap::new(size, clusters()?)?;
        grown.set(end, size - end)?;
        grown.subtract(&Look::at(content, &grown, observer)?.zeros)?;
        touched.union_with(&grown)?;
    }
    let look = Look::at(content, &touched.union(&before)?, observer)?;
    // Clusters that are zeros in part can have lost data as well. Only the bytes tell.
    let doubtful = look.partial.intersection(&before)?.difference(&touched)?;
    let mut comparing = Comparing { content, differs: Bitmap::new(size, clusters()?)?, failed: None };
    if !doubtful.is_empty() {
        let mut wanted = doubtful.try_clone()?;
        wanted.resize(older.size_bytes())?;
        let walked = older.walk(Some(&wanted), &mut comparing, observer);
        if let Some(error) = comparing.failed {
            return Err(error);
        }
        match walked {
            Err(error) if error.is_of_the_call() => return Err(error),
            Err(error) => return Ok(Err(error)),
            Ok(()) => {}
        }
    }
    let copied = touched.difference(&look.zeros)?.union(&comparing.differs)?;
    let mut zeros = look.zeros.intersection(&before)?;
    add_where_free(&mut zeros, &look.zeros, &copied)?;
    Ok(Ok(Wanted { copied, zeros }))
}

/// Adds to `zeros` those of `all` that cost nothing, as the table that has them is written anyway. The older backups have zeros
/// there, too: a guest that trims a huge empty disk shall not fill the new file with tables.
fn add_where_free(zeros: &mut Bitmap, all: &Bitmap, copied: &Bitmap) -> Result<()> {
    let needed = zeros.try_clone()?;
    for extent in all.extents(0, u64::MAX) {
        let mut at = extent.offset;
        while at < extent.end() {
            let table = at / TABLE_BYTES * TABLE_BYTES;
            let end = extent.end().min(table + TABLE_BYTES);
            let is_written = |map: &Bitmap| map.next_dirty(table, TABLE_BYTES).is_some();
            if is_written(&needed) || is_written(copied) {
                zeros.set(at, end - at)?;
            }
            at = end;
        }
    }
    Ok(())
}

/// The extents, and what lies between those with no more than `gap` between them.
fn joined(extents: impl Iterator<Item = Extent>, gap: u64) -> impl Iterator<Item = Extent> {
    let mut extents = extents.peekable();
    std::iter::from_fn(move || {
        let mut window = extents.next()?;
        while let Some(near) = extents.next_if(|next| next.offset - window.end() <= gap) {
            window.len_bytes = near.end() - window.offset;
        }
        Some(window)
    })
}

/// The clusters that a map touches.
fn outward(map: &Bitmap, size_bytes: u64) -> Result<Bitmap> {
    let mut touched = Bitmap::new(size_bytes, clusters()?)?;
    for extent in map.extents(0, u64::MAX) {
        if extent.offset < size_bytes {
            touched.set(extent.offset, extent.len_bytes.min(size_bytes - extent.offset))?;
        }
    }
    Ok(touched)
}

/// What the allocation tells of some clusters: those that are zeros as a whole, and those of which only the bytes tell.
struct Look {
    zeros: Bitmap,
    partial: Bitmap,
}

impl Look {
    fn at(content: &dyn Content, within: &Bitmap, observer: &mut dyn Observer) -> Result<Self> {
        let size = content.size_bytes();
        let mut look = Self { zeros: Bitmap::new(size, clusters()?)?, partial: Bitmap::new(size, clusters()?)? };
        let windows = joined(within.extents(0, u64::MAX), content.gap_worth_asking());
        for extent in windows {
            tell(observer, "looking at the allocation", extent.offset, size)?;
            let mut run: Option<Extent> = None;
            let mut failed = Ok(());
            content.allocation(extent, &mut |stretch, allocation| {
                if allocation.is_hole && !allocation.is_zero {
                    // A snapshot of a running disk tells of its top layer alone: the layers below may have zeros there.
                    failed = look.partial.set(stretch.offset, stretch.len_bytes);
                }
                match (&mut run, allocation.is_zero) {
                    (Some(before), true) if before.end() == stretch.offset => before.len_bytes += stretch.len_bytes,
                    (_, true) => run = Some(stretch),
                    (_, false) => {
                        if let Some(run) = run.take() {
                            failed = std::mem::replace(&mut failed, Ok(())).and_then(|()| look.add(run, size));
                        }
                    }
                }
                if failed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            failed?;
            if let Some(run) = run {
                look.add(run, size)?;
            }
        }
        look.zeros = look.zeros.intersection(within)?;
        look.partial = look.partial.intersection(within)?;
        Ok(look)
    }

    /// Adds a run of zeros that no other one touches.
    fn add(&mut self, run: Extent, size: u64) -> Result<()> {
        let start = run.offset.next_multiple_of(CLUSTER_BYTES);
        let end = if run.end() == size { size } else { run.end() / CLUSTER_BYTES * CLUSTER_BYTES };
        if start < end {
            self.zeros.set(start, end - start)?;
        }
        for edge in [run.offset, run.end() - 1] {
            let is_whole = start <= edge && edge < end;
            if !is_whole {
                self.partial.set(edge, 1)?;
            }
        }
        Ok(())
    }
}

/// Compares what the older backup has with what the disk has now.
struct Comparing<'a> {
    content: &'a dyn Content,
    differs: Bitmap,
    /// The fault of the disk, not of the backup.
    failed: Option<Error>,
}

impl Sink for Comparing<'_> {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let len = (bytes.len() as u64).min(self.content.size_bytes().saturating_sub(offset));
        let mut now = buffer(len)?;
        if let Err(error) = self.content.read_at(&mut now, offset) {
            self.failed = Some(error.clone());
            return Err(error);
        }
        let cluster = usize::try_from(CLUSTER_BYTES).unwrap_or(usize::MAX);
        let mut at = offset;
        for (now, before) in now.chunks(cluster).zip(bytes.chunks(cluster)) {
            if before.get(..now.len()) != Some(now) {
                self.differs.set(at, now.len() as u64)?;
            }
            at += now.len() as u64;
        }
        Ok(())
    }

    fn zeros(&mut self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }
}
