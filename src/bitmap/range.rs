#![forbid(unsafe_code)]
//! Owns the questions about ranges: how much of one is dirty, and where in it the next or the last dirty or clean byte
//! is. Must never change a bitmap.

use super::Bitmap;
use super::span::{Span, split, window_in_chunk};
use crate::geometry::clip_end;

impl Bitmap {
    /// The number of dirty granules, which is kept at all times.
    pub fn dirty_granules(&self) -> u64 {
        self.directory.ones()
    }

    /// The number of dirty bytes, the sum of all extents, which is known at all times: unlike QEMU's count it ends where the disk does, and so is
    /// never above the disk's size.
    pub fn dirty_bytes(&self) -> u64 {
        let whole = self.dirty_granules() << self.granularity.bits();
        let past_end = (self.granules() << self.granularity.bits()) - self.size_bytes;
        let last_is_dirty = past_end > 0 && self.directory.last_holds(self.granules() - 1);
        whole - if last_is_dirty { past_end } else { 0 }
    }

    /// The number of extents of the whole disk; counted, not walked.
    pub fn extent_count(&self) -> u64 {
        let directory = &self.directory;
        let entries = directory.entries();
        let runs: u64 = entries.iter().map(|entry| u64::from(entry.runs_of_chunk())).sum();
        let joined = entries.windows(2).filter(|pair| {
            pair[0].end() == pair[1].key && directory.view(&pair[0]).edges().1 && directory.view(&pair[1]).edges().0
        });
        runs - joined.count() as u64
    }

    /// The number of dirty granules that touch `offset..offset + len_bytes`, a range that is cut at the disk's end;
    /// `u64::MAX` is "to the end".
    ///
    /// The time does not depend on the length: the counts before all chunks are kept once they have been asked for, until the
    /// next change; the count of the whole disk is known at all times.
    pub fn count_range(&self, offset: u64, len_bytes: u64) -> u64 {
        let end = clip_end(offset, len_bytes, self.size_bytes);
        if end <= offset {
            return 0;
        }
        let window = Span { first: self.granularity.granule_of(offset), last: self.granularity.granule_of(end - 1) };
        let directory = &self.directory;
        if window.first == 0 && window.last + 1 == self.granules() {
            return directory.ones();
        }
        let places = directory.places(split(window.first).0, split(window.last).0 + 1);
        let in_window = |place: usize| {
            let entry = &directory.entries()[place];
            let all = entry.span();
            if entry.is_full() {
                all.last.min(window.last) - all.first.max(window.first) + 1
            } else if window.first <= all.first && all.last <= window.last {
                entry.ones()
            } else {
                u64::from(directory.view(entry).count(window_in_chunk(window, entry.base())))
            }
        };
        match places.len() {
            0 => 0,
            1 => in_window(places.start),
            2 => in_window(places.start) + in_window(places.end - 1),
            _ => {
                let between = directory.ones_at(places.start + 1..places.end - 1);
                in_window(places.start) + between + in_window(places.end - 1)
            }
        }
    }

    /// The number of dirty granules before the one that holds the byte at `offset`. At the disk's end and past it, also inside
    /// the last granule, all are counted.
    pub fn rank(&self, offset: u64) -> u64 {
        if offset >= self.size_bytes {
            return self.dirty_granules();
        }
        let end = self.granularity.granule_of(offset) << self.granularity.bits();
        self.count_range(0, end)
    }

    /// The offset of the `number`-th dirty granule, counted from 0; `None` if fewer are dirty.
    pub fn select(&self, number: u64) -> Option<u64> {
        let directory = &self.directory;
        let (entry, before) = directory.holder_of(number)?;
        let rest = number - before;
        let (chunk, rest) = (rest / u64::from(entry.ones_of_chunk()), rest % u64::from(entry.ones_of_chunk()));
        #[allow(clippy::cast_possible_truncation, reason = "one chunk holds less than 2^17 granules")]
        let bit = directory.view(entry).nth(rest as u32);
        Some((entry.base() + (chunk << 16) + u64::from(bit)) << self.granularity.bits())
    }

    /// The first dirty byte of `offset..offset + len_bytes`, a range that is cut at the disk's end.
    ///
    /// If the granule that holds `offset` is dirty, the answer is `offset` itself, not the granule's start.
    pub fn next_dirty(&self, offset: u64, len_bytes: u64) -> Option<u64> {
        let end = clip_end(offset, len_bytes, self.size_bytes);
        if end <= offset {
            return None;
        }
        let granule = self.directory.next_dirty(self.granularity.granule_of(offset))?;
        Some(offset.max(granule << self.granularity.bits())).filter(|&dirty| dirty < end)
    }

    /// The first clean byte of `offset..offset + len_bytes`, a range that is cut at the disk's end.
    pub fn next_clean(&self, offset: u64, len_bytes: u64) -> Option<u64> {
        let end = clip_end(offset, len_bytes, self.size_bytes);
        if end <= offset {
            return None;
        }
        let granule = self.directory.next_clean(self.granularity.granule_of(offset));
        Some(offset.max(granule << self.granularity.bits())).filter(|&clean| clean < end)
    }

    /// The last dirty byte of `offset..offset + len_bytes`, a range that is cut at the disk's end: the largest offset in
    /// it whose granule is dirty.
    pub fn previous_dirty(&self, offset: u64, len_bytes: u64) -> Option<u64> {
        self.extents(offset, len_bytes).next_back().map(|extent| extent.end() - 1)
    }

    /// The last clean byte of `offset..offset + len_bytes`, a range that is cut at the disk's end: the largest offset in
    /// it whose granule is clean.
    pub fn previous_clean(&self, offset: u64, len_bytes: u64) -> Option<u64> {
        let end = clip_end(offset, len_bytes, self.size_bytes);
        let clean_end = match self.extents(offset, len_bytes).next_back() {
            Some(extent) if extent.end() == end => extent.offset,
            _ => end,
        };
        (clean_end > offset).then(|| clean_end - 1)
    }
}
