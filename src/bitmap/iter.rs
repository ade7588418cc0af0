#![forbid(unsafe_code)]
//! Owns the ways through the dirty granules in order, as extents of bytes, from both ends. Knows nothing of how a chunk
//! comes to hold its bits.

use super::Bitmap;
use super::container::{Pair, Run, View, Words, no_words};
use super::directory::{Directory, Span, split, window_in_chunk};
use crate::geometry::{Extent, clip_end};
use crate::kernels::{EDGES, Kernels, select};
use std::fmt;
use std::iter::FusedIterator;

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
        let spans = if end > offset {
            let window =
                Span { first: self.granularity.granule_of(offset), last: self.granularity.granule_of(end - 1) };
            Spans::new(&self.directory, window)
        } else {
            Spans::none(&self.directory)
        };
        Extents { spans, offset, end, bits: self.granularity.bits() }
    }

    /// The dirty granules of the whole disk as maximal spans.
    pub(super) fn spans(&self) -> Spans<'_> {
        Spans::new(&self.directory, Span { first: 0, last: (1 << 47) - 1 })
    }
}

/// The dirty extents of a range of a bitmap, see [`Bitmap::extents`].
#[derive(Clone)]
pub struct Extents<'a> {
    spans: Spans<'a>,
    offset: u64,
    end: u64,
    bits: u32,
}

impl Extents<'_> {
    /// Fills `out` with the next extents and returns how many there were; fewer than `out` has room for are the last.
    ///
    /// The quickest way through many extents.
    pub fn fill(&mut self, out: &mut [Extent]) -> usize {
        let mut filled = 0;
        for place in out.iter_mut() {
            let Some(extent) = self.next() else { break };
            *place = extent;
            filled += 1;
        }
        filled
    }

    #[inline]
    fn extent(&self, span: Span) -> Extent {
        let offset = (span.first << self.bits).max(self.offset);
        let end = ((span.last + 1) << self.bits).min(self.end);
        Extent { offset, len_bytes: end - offset }
    }
}

impl Iterator for Extents<'_> {
    type Item = Extent;

    #[inline]
    fn next(&mut self) -> Option<Extent> {
        self.spans.next().map(|span| self.extent(span))
    }
}

impl DoubleEndedIterator for Extents<'_> {
    fn next_back(&mut self) -> Option<Extent> {
        self.spans.next_back().map(|span| self.extent(span))
    }
}

impl FusedIterator for Extents<'_> {}

impl fmt::Debug for Extents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extents").field("offset", &self.offset).field("end", &self.end).finish_non_exhaustive()
    }
}

/// What is left of the chunk that is being decoded.
#[derive(Clone, Copy)]
enum Rest<'a> {
    None,
    Array(&'a [u16]),
    Runs(&'a [Pair]),
    /// The words, from which bit on, up to which.
    Words(&'a Words, u32, u32),
    /// The same, of words that a packed chunk was spread to.
    Spread(u32, u32),
}

/// Maximal spans of dirty granules, joined across chunks, from both ends.
///
/// From the front a chunk is decoded into bounds, some at a time; from the back every span is searched for.
#[derive(Clone)]
pub(super) struct Spans<'a> {
    directory: &'a Directory,
    kernels: &'static Kernels,
    /// The granules that are left: those before `to`, and from the front those that are not decoded yet.
    to: u64,
    /// The place of the next entry, and of the one after the last.
    next: usize,
    end: usize,
    /// The first granule of the chunk that is being decoded, what is left of it, and the bounds decoded.
    base: u64,
    rest: Rest<'a>,
    spread: Option<Box<Words>>,
    bounds: [u32; EDGES],
    at: usize,
    filled: usize,
    /// A span that ended with its chunk, and may go on in the next.
    open: Option<Span>,
    /// The granule after the last span from the front.
    done: u64,
}

impl<'a> Spans<'a> {
    pub(super) fn new(directory: &'a Directory, window: Span) -> Self {
        let places = directory.places(split(window.first).0, split(window.last).0 + 1);
        Self { to: window.last + 1, next: places.start, end: places.end, done: window.first, ..Self::none(directory) }
    }

    fn none(directory: &'a Directory) -> Self {
        Self {
            directory,
            kernels: select(),
            to: 0,
            next: 0,
            end: 0,
            base: 0,
            rest: Rest::None,
            spread: None,
            bounds: [0; EDGES],
            at: 0,
            filled: 0,
            open: None,
            done: 0,
        }
    }

    /// Decodes more bounds; false if there are none.
    fn refill(&mut self) -> bool {
        let (bounds, kernels) = (&mut self.bounds, self.kernels);
        self.at = 0;
        self.filled = 0;
        match &mut self.rest {
            Rest::None => return false,
            Rest::Array(list) => {
                let (filled, taken) = (kernels.list_edges)(list, bounds);
                self.filled = filled;
                *list = &list[taken..];
            }
            Rest::Runs(runs) => {
                let (some, later) = runs.split_at(runs.len().min(EDGES / 2));
                for (bounds, run) in bounds.as_chunks_mut::<2>().0.iter_mut().zip(some) {
                    *bounds = [run[0].into(), u32::from(run[1]) + 1];
                }
                self.filled = 2 * some.len();
                *runs = later;
            }
            Rest::Words(words, from, to) => {
                while *from < *to && self.filled == 0 {
                    (self.filled, *from) = (kernels.edges)(words, *from, *to, bounds);
                }
            }
            Rest::Spread(from, to) => {
                while let Some(words) = self.spread.as_deref().filter(|_| *from < *to && self.filled == 0) {
                    (self.filled, *from) = (kernels.edges)(words, *from, *to, bounds);
                }
            }
        }
        self.filled > 0
    }

    /// Goes to the next entry; what of it is full at once is returned.
    fn enter(&mut self) -> Option<Option<Span>> {
        if self.next >= self.end || self.done >= self.to {
            return None;
        }
        let entry = &self.directory.entries()[self.next];
        self.next += 1;
        let all = entry.span();
        if all.first >= self.to || all.last < self.done {
            self.rest = Rest::None;
            return Some(None);
        }
        let window = Span { first: all.first.max(self.done), last: all.last.min(self.to - 1) };
        self.base = entry.base();
        let run = window_in_chunk(window, self.base);
        let is_whole = run == Run::WHOLE;
        self.rest = match self.directory.view(entry) {
            View::Full => {
                self.rest = Rest::None;
                return Some(Some(window));
            }
            View::Array(list) if is_whole => Rest::Array(list),
            View::Runs(runs) if is_whole => Rest::Runs(runs),
            View::Words(words) => Rest::Words(words, run.first.into(), run.end()),
            View::Sparse(bytes) => {
                let words = self.spread.get_or_insert_with(no_words);
                (self.kernels.unpack)(bytes, words);
                Rest::Spread(run.first.into(), run.end())
            }
            view => return Some(self.enter_part(view, run)),
        };
        Some(None)
    }

    /// Takes what a window has of a chunk; the runs at its edges may have to be cut.
    fn enter_part(&mut self, view: View<'a>, window: Run) -> Option<Span> {
        match view.within(window) {
            View::Array(list) => self.rest = Rest::Array(list),
            View::Runs(mut runs) => {
                let mut cut = None;
                // A first run that is cut is a span of its own: the others are decoded, and cut by what follows.
                if let Some((&[head, tail], later)) = runs.split_first()
                    && (head < window.first || tail > window.last)
                {
                    let (head, tail) = (head.max(window.first), tail.min(window.last));
                    cut = Some(Span { first: self.base + u64::from(head), last: self.base + u64::from(tail) });
                    runs = later;
                }
                self.rest = Rest::Runs(runs);
                return cut;
            }
            View::Words(_) | View::Sparse(_) | View::Full => self.rest = Rest::None,
        }
        None
    }

    /// The next span where decoding has to go on, or a span may reach into the next chunk.
    #[inline(never)]
    fn next_slowly(&mut self) -> Option<Span> {
        loop {
            if self.at < self.filled || self.refill() {
                let span = self.decoded();
                if let Some(open) = &mut self.open {
                    if open.last + 1 != span.first {
                        // What was open has ended; what was just decoded comes next.
                        self.at -= 2;
                        return self.open.take().and_then(|open| self.finish(open));
                    }
                    open.last = span.last;
                } else {
                    self.open = Some(span);
                }
                if self.at < self.filled {
                    return self.open.take().and_then(|open| self.finish(open));
                }
                continue;
            }
            match self.enter() {
                None => return self.open.take().and_then(|open| self.finish(open)),
                Some(None) => {}
                Some(Some(span)) => match &mut self.open {
                    Some(open) if open.last + 1 == span.first => open.last = span.last,
                    Some(open) => {
                        let ready = std::mem::replace(open, span);
                        return self.finish(ready);
                    }
                    None => self.open = Some(span),
                },
            }
        }
    }

    /// The next of the spans decoded.
    #[inline]
    fn decoded(&mut self) -> Span {
        let (first, end) = (self.bounds[self.at % EDGES], self.bounds[(self.at + 1) % EDGES]);
        self.at += 2;
        Span { first: self.base + u64::from(first), last: self.base + u64::from(end) - 1 }
    }

    /// What is left of a span once the back has taken its part.
    #[inline]
    fn finish(&mut self, span: Span) -> Option<Span> {
        if span.first >= self.to {
            (self.next, self.filled, self.rest, self.open) = (self.end, 0, Rest::None, None);
            return None;
        }
        let span = Span { last: span.last.min(self.to - 1), ..span };
        self.done = span.last + 1;
        Some(span)
    }
}

impl Iterator for Spans<'_> {
    type Item = Span;

    #[inline]
    fn next(&mut self) -> Option<Span> {
        // All but the last of the bounds decoded are whole spans, unless one before them is open.
        if self.at + 2 < self.filled && self.open.is_none() {
            let span = self.decoded();
            return self.finish(span);
        }
        self.next_slowly()
    }
}

impl DoubleEndedIterator for Spans<'_> {
    fn next_back(&mut self) -> Option<Span> {
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
