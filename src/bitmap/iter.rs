#![forbid(unsafe_code)]
//! Owns the ways through the dirty granules in order, as extents of bytes, from both ends. Knows nothing of how a chunk
//! comes to hold its bits.

use super::Bitmap;
use super::container::{Run, RunIter, View, Words, spread_once};
use super::directory::Directory;
use super::span::{Span, split, window_in_chunk};
use crate::geometry::{Extent, clip_end};
use crate::kernels::{EDGES, select};
use std::fmt;
use std::iter::FusedIterator;
use std::ops::Range;

impl Bitmap {
    /// The dirty extents inside `offset..offset + len_bytes`, in ascending order and from both ends.
    ///
    /// Two extents never touch. The range is cut at the disk's end, and extents are cut at the edges of the range, to the
    /// byte; `len_bytes` of `u64::MAX` is "to the end". The work is that of the extents taken, plus a binary search. To go
    /// on later, ask again from the end of the last extent.
    ///
    /// ```
    /// use checkmap::{Bitmap, Extent, Granularity};
    ///
    /// let mut bitmap = Bitmap::new(1_000_000, Granularity::from_bytes(65536)?)?;
    /// bitmap.set(70_000, 1)?;
    /// bitmap.set(990_000, 1)?;
    /// let extents: Vec<Extent> = bitmap.extents(0, u64::MAX).collect();
    /// assert_eq!(extents, [
    ///     Extent { offset: 65_536, len_bytes: 65_536 },
    ///     Extent { offset: 983_040, len_bytes: 16_960 },
    /// ]);
    /// # Ok::<(), checkmap::Error>(())
    /// ```
    pub fn extents(&self, offset: u64, len_bytes: u64) -> Extents<'_> {
        let end = clip_end(offset, len_bytes, self.size_bytes);
        let (directory, bits) = (&self.directory, self.granularity.bits());
        // The granules of an empty range are none, whatever they are called.
        let (done, to) = if end > offset { (offset >> bits, ((end - 1) >> bits) + 1) } else { (0, 0) };
        let places = if done < to { directory.places(split(done).0, split(to - 1).0 + 1) } else { 0..0 };
        let rest = RunIter::Array(&[]);
        Extents { directory, bits, offset, end, done, to, places, base: 0, rest, ahead: None, at: 0, filled: 0 }
    }
}

/// The extents that are decoded at a time for a caller that takes one by one, and for one that takes all.
const AHEAD: usize = 32;
const BATCH: usize = 64;

const NO_EXTENT: Extent = Extent { offset: 0, len_bytes: 0 };

/// What no extent touches.
const NOWHERE: Extent = Extent { offset: u64::MAX, len_bytes: 0 };

/// The dirty extents of a range of a bitmap, see [`Bitmap::extents`].
///
/// From the front chunks are decoded into extents, many at a time; from the back every extent is searched for.
#[derive(Clone)]
pub struct Extents<'a> {
    directory: &'a Directory,
    bits: u32,
    /// The range, by which the first and the last extent are cut.
    offset: u64,
    end: u64,
    /// The granules that are neither decoded from the front nor taken from the back.
    done: u64,
    to: u64,
    /// The entries that the front has not entered.
    places: Range<usize>,
    /// The chunk that is being decoded: its first byte, and its runs that are left.
    base: u64,
    rest: RunIter<'a>,
    /// The extents that are decoded and not yet taken lie at `at..filled`.
    ahead: Option<[Extent; AHEAD]>,
    at: usize,
    filled: usize,
}

impl<'a> Extents<'a> {
    /// Fills `out` with the next extents and returns how many there were; fewer than `out` has room for are the last.
    /// What stands behind them in `out` means nothing then.
    ///
    /// The quickest way through many extents: room for some hundreds is enough.
    pub fn fill(&mut self, out: &mut [Extent]) -> usize {
        let ahead = self.ahead.iter().flatten().take(self.filled).skip(self.at);
        let ready = out.iter_mut().zip(ahead).map(|(place, extent)| *place = *extent).count();
        self.at += ready;
        ready + self.decode(&mut out[ready..])
    }

    /// Decodes as many extents as `out` has room for, or all that are left.
    fn decode(&mut self, out: &mut [Extent]) -> usize {
        let mut batch = Batch { out, filled: 0, bits: self.bits };
        loop {
            batch.take(&mut self.rest, self.base);
            if batch.room() == 0 {
                self.complete(&mut batch);
                break;
            }
            match self.enter() {
                None => break,
                Some(None) => {}
                Some(Some(stretch)) => batch.add(stretch),
            }
        }
        let (filled, out) = (batch.filled, batch.out);
        self.cut(&mut out[..filled])
    }

    /// Goes to the next entry. What it has inside of the range is left to be decoded, or returned if it is full.
    fn enter(&mut self) -> Option<Option<Extent>> {
        let place = self.places.next()?;
        let entry = &self.directory.entries()[place];
        let all = entry.span();
        if all.first.max(self.done) >= self.to {
            return None;
        }
        let window = Span { first: all.first.max(self.done), last: all.last.min(self.to - 1) };
        let view = self.directory.view(entry);
        if let View::Full = view {
            let offset = window.first << self.bits;
            return Some(Some(Extent { offset, len_bytes: ((window.last + 1) << self.bits) - offset }));
        }
        self.base = all.first << self.bits;
        self.rest = match (view, window_in_chunk(window, all.first)) {
            (View::Array(list), Run::WHOLE) => RunIter::Array(list),
            (View::Runs(runs), window @ Run::WHOLE) => RunIter::Runs { runs, window },
            (View::Sparse(sparse), window) => {
                let former = std::mem::replace(&mut self.rest, RunIter::Full(None));
                RunIter::spread(sparse.bytes, window, former)
            }
            (view, window) => view.runs(window),
        };
        Some(None)
    }

    /// Adds to the last extent of a batch without room what touches it.
    #[inline(never)]
    fn complete(&mut self, batch: &mut Batch<'_>) {
        loop {
            let mut later = self.rest.clone();
            if let Some(run) = later.next() {
                let more = batch.extent(self.base, run.first.into(), run.end());
                if more.offset != batch.end() {
                    return;
                }
                self.rest = later;
                batch.add(more);
                continue;
            }
            let next = self.directory.entries().get(self.places.start).filter(|_| !self.places.is_empty());
            if next.is_none_or(|next| next.base() << self.bits != batch.end()) {
                return;
            }
            match self.enter() {
                None => return,
                Some(None) => {}
                Some(Some(stretch)) => batch.add(stretch),
            }
        }
    }

    /// Cuts the decoded runs to the range, without those that the back has taken; returns how many are left.
    fn cut(&mut self, decoded: &mut [Extent]) -> usize {
        let limit = self.to << self.bits;
        let mut left = decoded.len();
        while left > 0 && decoded[left - 1].offset >= limit {
            left -= 1;
            (self.places, self.rest) = (0..0, RunIter::Array(&[]));
        }
        let decoded = &mut decoded[..left];
        if let Some(first) = decoded.first_mut() {
            let offset = first.offset.max(self.offset);
            *first = Extent { offset, len_bytes: first.end() - offset };
        }
        if let Some(last) = decoded.last_mut() {
            last.len_bytes = last.end().min(self.end) - last.offset;
            self.done = ((last.end() - 1) >> self.bits) + 1;
        }
        left
    }

    /// Decodes ahead; false if there is nothing more.
    #[inline(never)]
    fn look_ahead(&mut self) -> bool {
        let mut ahead = self.ahead.take().unwrap_or([NO_EXTENT; AHEAD]);
        (self.at, self.filled) = (0, self.decode(&mut ahead));
        self.ahead = Some(ahead);
        self.filled > 0
    }

    /// The last span of those not decoded.
    fn search_back(&mut self) -> Option<Span> {
        let directory = self.directory;
        let mut found: Option<Span> = None;
        while self.to > self.done {
            let places = directory.places(split(self.done).0, split(self.to - 1).0 + 1);
            let Some(entry) = directory.entries()[places].last() else { break };
            let all = entry.span();
            let window = Span { first: all.first.max(self.done), last: all.last.min(self.to - 1) };
            if found.is_some_and(|found| window.last + 1 != found.first) {
                break;
            }
            let part = if entry.is_full() {
                Some(window)
            } else {
                let run = directory.view(entry).runs(window_in_chunk(window, all.first)).next_back();
                run.map(|run| Span { first: all.first + u64::from(run.first), last: all.first + u64::from(run.last) })
            };
            match (part, &mut found) {
                (None, None) => self.to = window.first,
                (None, Some(_)) => break,
                (Some(part), None) => found = Some(part),
                (Some(part), Some(found)) if part.last + 1 == found.first => found.first = part.first,
                (Some(_), Some(_)) => break,
            }
            if let Some(found) = found {
                self.to = found.first;
                if found.first != window.first {
                    break;
                }
            }
        }
        if found.is_none() {
            self.to = self.to.min(self.done);
        }
        found
    }
}

impl Iterator for Extents<'_> {
    type Item = Extent;

    #[inline]
    fn next(&mut self) -> Option<Extent> {
        if self.at == self.filled && !self.look_ahead() {
            return None;
        }
        let extent = self.ahead.as_ref()?[self.at % AHEAD];
        self.at += 1;
        Some(extent)
    }

    fn fold<B, F: FnMut(B, Extent) -> B>(mut self, start: B, mut add: F) -> B {
        let (mut sum, mut batch) = (start, [NO_EXTENT; BATCH]);
        loop {
            let filled = self.fill(&mut batch);
            sum = batch[..filled].iter().fold(sum, |sum, extent| add(sum, *extent));
            if filled < BATCH {
                return sum;
            }
        }
    }
}

impl DoubleEndedIterator for Extents<'_> {
    fn next_back(&mut self) -> Option<Extent> {
        if let Some(span) = self.search_back() {
            let offset = (span.first << self.bits).max(self.offset);
            let end = ((span.last + 1) << self.bits).min(self.end);
            return Some(Extent { offset, len_bytes: end - offset });
        }
        if self.at == self.filled {
            return None;
        }
        self.filled -= 1;
        Some(self.ahead.as_ref()?[self.filled])
    }
}

impl FusedIterator for Extents<'_> {}

impl fmt::Debug for Extents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extents").field("offset", &self.offset).field("end", &self.end).finish_non_exhaustive()
    }
}

/// Extents on their way into a slice, not yet cut to a range. The last one may go on.
struct Batch<'a> {
    out: &'a mut [Extent],
    filled: usize,
    bits: u32,
}

impl Batch<'_> {
    fn room(&self) -> usize {
        self.out.len() - self.filled
    }

    /// The end of the last extent, or what no extent begins with.
    fn end(&self) -> u64 {
        self.out[..self.filled].last().unwrap_or(&NOWHERE).end()
    }

    /// The granules `first..end` of the chunk that begins at byte `base`.
    #[inline]
    fn extent(&self, base: u64, first: u32, end: u32) -> Extent {
        let (first, end) = (u64::from(first), u64::from(end));
        Extent { offset: base + (first << self.bits), len_bytes: (end - first) << self.bits }
    }

    /// Adds an extent, for which there is room unless it touches the last one.
    fn add(&mut self, extent: Extent) {
        if extent.offset == self.end() {
            self.out[self.filled - 1].len_bytes += extent.len_bytes;
        } else {
            self.out[self.filled] = extent;
            self.filled += 1;
        }
    }

    /// Takes runs of the chunk that begins at byte `base`, until there are no more or no more room.
    #[inline]
    fn take(&mut self, rest: &mut RunIter<'_>, base: u64) {
        match rest {
            RunIter::Array(list) => {
                while !list.is_empty() && self.room() > 0 {
                    let (some, later) = list.split_at(list.len().min(self.room()));
                    self.filled = (select().extents)(some, base, self.bits, self.out, self.filled);
                    *list = later;
                }
            }
            RunIter::Runs { runs, .. } => {
                while !runs.is_empty() && self.room() > 0 {
                    let (some, later) = runs.split_at(runs.len().min(self.room()));
                    self.add_runs(base, some.iter().map(|&[first, last]| [first.into(), u32::from(last) + 1]));
                    *runs = later;
                }
            }
            RunIter::Words { words, from, to } => self.add_words(base, words, from, *to),
            RunIter::Spread { words, from, to } => self.add_words(base, words, from, *to),
            RunIter::Packed { bytes, from, to } => spread_once(bytes, |words| self.add_words(base, words, from, *to)),
            RunIter::Full(run) => {
                if self.room() > 0
                    && let Some(run) = run.take()
                {
                    self.add(self.extent(base, run.first.into(), run.end()));
                }
            }
        }
    }

    /// Adds the runs of bits `from..to`, as far as there is room; `from` is where others may follow then.
    fn add_words(&mut self, base: u64, words: &Words, from: &mut u32, to: u32) {
        let mut bounds = [0; EDGES];
        while *from < to && self.room() > 0 {
            let (found, next) = (select().edges)(words, *from, to, &mut bounds);
            let runs = bounds[..found].as_chunks::<2>().0;
            let some = &runs[..runs.len().min(self.room())];
            self.add_runs(base, some.iter().copied());
            *from = if some.len() < runs.len() { some[some.len() - 1][1] } else { next };
        }
    }

    /// Adds runs, not more than there is room for, of which only the first may touch the run before it.
    #[inline]
    fn add_runs(&mut self, base: u64, mut runs: impl ExactSizeIterator<Item = [u32; 2]>) {
        let Some([first, end]) = runs.next() else { return };
        self.add(self.extent(base, first, end));
        let (from, bits) = (self.filled, self.bits);
        self.filled += runs.len();
        for (place, [first, end]) in self.out[from..].iter_mut().zip(runs) {
            let (first, len) = (u64::from(first), u64::from(end - first));
            *place = Extent { offset: base + (first << bits), len_bytes: len << bits };
        }
    }
}
