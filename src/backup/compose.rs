#![forbid(unsafe_code)]
//! Owns a moment as the sum of its files: which file each cluster comes from, and the walk over all of them in the order of the
//! disk. Must never know where the bytes go.

use super::directory::Directory;
use super::layer::Layer;
use super::manifest::DiskRecord;
use super::sums::{Summed, clusters};
use crate::bitmap::Bitmap;
use crate::error::{Error, ErrorKind, Result};
use crate::formats::CLUSTER_BYTES;
use crate::geometry::Extent;
use crate::memory;
use crate::progress::{Observer, tell};
use std::collections::VecDeque;
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
        let mut recent = Recent::default();
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
                self.copy(part, extent, &mut recent, sink)?;
                reached = extent.end();
                done = (done + extent.len_bytes).min(total);
            }
            tell_zeros(wanted, reached, end, sink)?;
            at = end;
        }
        tell(observer, "reading the backup", total, total)
    }

    /// The pieces of a window in the order of the disk, each inside of one extent with a sum.
    fn pieces(&self, wanted: &Bitmap, start: u64, end: u64) -> Result<Vec<(usize, Extent)>> {
        let mut pieces = Vec::new();
        if start >= end {
            return Ok(pieces);
        }
        for (number, part) in self.parts.iter().enumerate() {
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
                        memory::push(&mut pieces, (number, Extent { offset: at, len_bytes: stop - at }))?;
                        at = stop;
                    }
                }
            }
        }
        pieces.sort_unstable_by_key(|(_, extent)| extent.offset);
        Ok(pieces)
    }

    /// Gives a piece to the sink.
    fn copy(&self, number: usize, piece: Extent, recent: &mut Recent, sink: &mut dyn Sink) -> Result<()> {
        let Some(part) = self.parts.get(number) else { return Ok(()) };
        let lost = || {
            let message = format!("its list of sums has no extent at {}", piece.offset);
            Error::new(ErrorKind::Damaged, message).in_file(&part.layer.path)
        };
        let summed = part.layer.sums.at(piece.offset).ok_or_else(lost)?;
        let bytes = recent.read(number, part, summed)?;
        let start = length(piece.offset - summed.extent.offset);
        let end = start.saturating_add(length(piece.len_bytes));
        sink.data(piece.offset, bytes.get(start..end).ok_or_else(lost)?)
    }
}

/// The extents that were read last, whole, as the sum of each is that of the whole. Pieces of several files alternate.
#[derive(Default)]
struct Recent(VecDeque<(usize, u64, Vec<u8>)>);

impl Recent {
    const MOST: usize = 16;

    /// The extent, followed by zeros up to the end of its last cluster.
    fn read(&mut self, number: usize, part: &Part, summed: Summed) -> Result<&[u8]> {
        let Extent { offset, len_bytes } = summed.extent;
        let found = self.0.iter().position(|(of, at, _)| (*of, *at) == (number, offset));
        let at = match found {
            Some(at) => at,
            None => {
                let old = if self.0.len() < Self::MOST { None } else { self.0.pop_front() };
                let mut bytes = old.map(|(_, _, bytes)| bytes).unwrap_or_default();
                bytes.clear();
                memory::extend(&mut bytes, std::iter::repeat_n(0, length(len_bytes.next_multiple_of(CLUSTER_BYTES))))?;
                part.layer.read(summed, bytes.get_mut(..length(len_bytes)).unwrap_or_default())?;
                // Nothing of this file is seen behind the end of a shorter one above.
                let seen = length(part.limit.saturating_sub(offset));
                bytes.iter_mut().skip(seen).for_each(|byte| *byte = 0);
                self.0.try_reserve(1)?;
                self.0.push_back((number, offset, bytes));
                self.0.len() - 1
            }
        };
        Ok(self.0.get(at).map(|(_, _, bytes)| bytes.as_slice()).unwrap_or_default())
    }
}

/// A length of bytes that are in memory.
fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Tells the wanted part of a stretch without data.
fn tell_zeros(wanted: &Bitmap, from: u64, to: u64, sink: &mut dyn Sink) -> Result<()> {
    if from >= to {
        return Ok(());
    }
    wanted.extents(from, to - from).try_for_each(|extent| sink.zeros(extent.offset, extent.len_bytes))
}
