#![forbid(unsafe_code)]
//! Owns a moment as the sum of its files: which file each cluster comes from, and the walk over all of them in the order of the
//! disk. Must never know where the bytes go.

use super::directory::Directory;
use super::layer::Layer;
use super::manifest::DiskRecord;
use super::sums::clusters;
use crate::bitmap::Bitmap;
use crate::error::{Error, ErrorKind, Result};
use crate::formats::CLUSTER_BYTES;
use crate::geometry::Extent;
use crate::memory;
use crate::progress::{Observer, tell};
use std::ops::RangeInclusive;

/// The part of the disk whose pieces are put in order at once.
const WINDOW: u64 = 64 << 20;

/// More files than this are not read as one moment: each needs descriptors.
pub(super) const MOST_LAYERS: usize = 500;

/// Takes the pieces of a moment, in ascending order.
pub(super) trait Sink {
    /// These bytes stand there.
    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Zeros stand there.
    fn zeros(&mut self, offset: u64, len_bytes: u64) -> Result<()>;
}

/// A file, the clusters that nothing above it hides, and the byte from which on a shorter file above hides it.
#[derive(Debug)]
struct Part {
    layer: Layer,
    seen: Bitmap,
    limit: u64,
}

/// One moment of a disk.
#[derive(Debug)]
pub(super) struct Moment {
    /// The top one first.
    parts: Vec<Part>,
    size_bytes: u64,
}

impl Moment {
    /// The moment of the last of these backups, from the files of all of them.
    pub(super) fn open(directory: &Directory, disk: &DiskRecord, places: RangeInclusive<usize>) -> Result<Self> {
        Self::opened(directory, disk, places, true)
    }

    /// The same, where the caller has locked the lowest file to change it.
    pub(super) fn open_to_fold(
        directory: &Directory,
        disk: &DiskRecord,
        places: RangeInclusive<usize>,
    ) -> Result<Self> {
        Self::opened(directory, disk, places, false)
    }

    fn opened(
        directory: &Directory,
        disk: &DiskRecord,
        places: RangeInclusive<usize>,
        lock_lowest: bool,
    ) -> Result<Self> {
        let lowest = *places.start();
        if places.clone().count() > MOST_LAYERS {
            let message = format!("the moment has more than {MOST_LAYERS} files");
            return Err(Error::new(ErrorKind::CannotStore, message).advise("prune the directory"));
        }
        let mut layers = Vec::new();
        for place in places.rev() {
            memory::push(&mut layers, Layer::locked(directory, disk, place, lock_lowest || place != lowest)?)?;
        }
        Self::of(layers)
    }

    fn of(layers: Vec<Layer>) -> Result<Self> {
        let size_bytes = layers.first().map_or(0, |top| top.size_bytes);
        let mut moment = Self { parts: memory::room(layers.len())?, size_bytes };
        let mut hidden = Bitmap::new(size_bytes, clusters()?)?;
        let mut limit = size_bytes;
        for layer in layers {
            limit = limit.min(layer.size_bytes);
            // The cluster in which a shorter file ends is cut when it is read.
            let end = limit.next_multiple_of(CLUSTER_BYTES);
            if end < size_bytes {
                hidden.set(end, size_bytes - end)?;
            }
            let (mut seen, mut held) = (layer.sums.has_data.try_clone()?, layer.sums.held()?);
            seen.resize(size_bytes)?;
            held.resize(size_bytes)?;
            seen.subtract(&hidden)?;
            hidden.union_with(&held)?;
            moment.parts.push(Part { layer, seen, limit });
        }
        Ok(moment)
    }

    /// The file that lies on no other one.
    pub(super) fn lowest(&self) -> Option<&Layer> {
        self.parts.last().map(|part| &part.layer)
    }

    /// The files that lie on it.
    pub(super) fn above_lowest(&self) -> impl Iterator<Item = &Layer> {
        let parts = self.parts.split_last().map(|(_, above)| above).unwrap_or_default();
        parts.iter().map(|part| &part.layer)
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Where the moment has data.
    pub(super) fn data(&self) -> Result<Bitmap> {
        let seen: Vec<&Bitmap> = memory::gather(self.parts.iter().map(|part| &part.seen))?;
        match seen.is_empty() {
            true => Bitmap::new(self.size_bytes, clusters()?),
            false => Bitmap::union_many(&seen, None),
        }
    }

    /// Gives `sink` all data of the moment, and zeros for the rest; only the part in `wanted`, where there is such a map.
    pub(super) fn walk(&self, wanted: Option<&Bitmap>, sink: &mut dyn Sink, observer: &mut dyn Observer) -> Result<()> {
        let everything;
        let wanted = match wanted {
            Some(wanted) => wanted,
            None => {
                let mut all = Bitmap::new(self.size_bytes, clusters()?)?;
                all.set_all()?;
                everything = all;
                &everything
            }
        };
        let data = self.data()?.intersection(wanted)?;
        let mut buffer = Vec::new();
        let (mut at, mut done, total) = (0, 0, data.dirty_bytes());
        // Zeros between two windows with data are told at once.
        while at < self.size_bytes {
            let next = data.next_dirty(at, u64::MAX).unwrap_or(self.size_bytes);
            tell_zeros(wanted, at, next, sink)?;
            let end = next.saturating_add(WINDOW).min(self.size_bytes);
            let mut reached = next;
            for (part, extent) in self.pieces(&data, next, end)? {
                tell(observer, "reading the backup", done, total)?;
                tell_zeros(wanted, reached, extent.offset, sink)?;
                self.copy(part, extent, &mut buffer, sink)?;
                reached = extent.end();
                done = (done + extent.len_bytes).min(total);
            }
            tell_zeros(wanted, reached, end, sink)?;
            at = end;
        }
        tell(observer, "reading the backup", total, total)
    }

    /// The pieces of a window in the order of the disk, each inside of one extent with a sum.
    fn pieces(&self, wanted: &Bitmap, start: u64, end: u64) -> Result<Vec<(&Part, Extent)>> {
        let mut pieces = Vec::new();
        if start >= end {
            return Ok(pieces);
        }
        for part in &self.parts {
            for own in part.seen.extents(start, end - start) {
                for both in wanted.extents(own.offset, own.len_bytes) {
                    let mut at = both.offset;
                    while at < both.end() {
                        let summed = part.layer.sums.at(at);
                        // The last cluster of a disk that grew goes on behind the extent of its end.
                        let stop = summed.map_or(both.end(), |summed| {
                            if summed.extent.end() == part.layer.size_bytes {
                                summed.extent.end().next_multiple_of(CLUSTER_BYTES)
                            } else {
                                summed.extent.end()
                            }
                        });
                        let stop = stop.min(both.end());
                        memory::push(&mut pieces, (part, Extent { offset: at, len_bytes: stop - at }))?;
                        at = stop;
                    }
                }
            }
        }
        pieces.sort_unstable_by_key(|(_, extent)| extent.offset);
        Ok(pieces)
    }

    /// Gives a piece to the sink.
    fn copy(&self, part: &Part, piece: Extent, buffer: &mut Vec<u8>, sink: &mut dyn Sink) -> Result<()> {
        let lost = || {
            let message = format!("its list of sums has no extent at {}", piece.offset);
            Error::new(ErrorKind::Damaged, message).in_file(&part.layer.path)
        };
        let summed = part.layer.sums.at(piece.offset).ok_or_else(lost)?;
        let len = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        // Also where a part of it is wanted: the sum is that of the whole.
        buffer.clear();
        memory::extend(buffer, std::iter::repeat_n(0, len(summed.extent.len_bytes)))?;
        part.layer.read(summed, buffer)?;
        // Nothing of this file is seen behind the end of a shorter one above.
        let seen = part.limit.saturating_sub(summed.extent.offset);
        buffer.iter_mut().skip(len(seen)).for_each(|byte| *byte = 0);
        let start = len(piece.offset - summed.extent.offset);
        let end = start.saturating_add(len(piece.len_bytes));
        if buffer.len() < end {
            let missing = end - buffer.len();
            memory::extend(buffer, std::iter::repeat_n(0, missing))?;
        }
        sink.data(piece.offset, buffer.get(start..end).ok_or_else(lost)?)
    }
}

/// Tells the wanted part of a stretch without data.
fn tell_zeros(wanted: &Bitmap, from: u64, to: u64, sink: &mut dyn Sink) -> Result<()> {
    if from >= to {
        return Ok(());
    }
    wanted.extents(from, to - from).try_for_each(|extent| sink.zeros(extent.offset, extent.len_bytes))
}
