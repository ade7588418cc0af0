#![forbid(unsafe_code)]
//! Owns the ways through the dirty granules in order: as spans of granules and as extents of bytes, from both ends. Knows
//! nothing of how a chunk holds its bits.

use super::Bitmap;
use super::container::RunIter;
use super::directory::{Directory, Entry, Span, split, window_in_chunk};
use crate::geometry::{Extent, clip_end};
use std::fmt;
use std::iter::{Flatten, FusedIterator};
use std::slice;

impl Bitmap {
    /// The dirty extents inside `offset..offset + len_bytes`, in ascending order and from both ends.
    ///
    /// Two extents never touch. The range is cut at the disk's end, and extents are cut at the edges of the range, to the
    /// byte; `len_bytes` of `u64::MAX` is "to the end". The work is that of the extents taken, plus a binary search.
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
        let spans = match end {
            end if end > offset => {
                let window =
                    Span { first: self.granularity.granule_of(offset), last: self.granularity.granule_of(end - 1) };
                Spans::new(&self.directory, window)
            }
            _ => Spans::none(),
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
    fn extent(&self, span: Span) -> Extent {
        let offset = (span.first << self.bits).max(self.offset);
        let end = ((span.last + 1) << self.bits).min(self.end);
        Extent { offset, len_bytes: end - offset }
    }
}

impl Iterator for Extents<'_> {
    type Item = Extent;

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

/// Maximal spans of dirty granules, joined across chunks, from both ends.
#[derive(Clone)]
pub(super) struct Spans<'a> {
    parts: Flatten<Chunks<'a>>,
    /// A part that one end has taken and not yet returned, as it did not touch the part before.
    front: Option<Span>,
    back: Option<Span>,
}

impl<'a> Spans<'a> {
    pub(super) fn new(directory: &'a Directory, window: Span) -> Self {
        let entries = directory.within(split(window.first).0, split(window.last).0 + 1).iter();
        Self { parts: Chunks { entries, window }.flatten(), front: None, back: None }
    }

    fn none() -> Self {
        let window = Span { first: 0, last: 0 };
        Self { parts: Chunks { entries: [].iter(), window }.flatten(), front: None, back: None }
    }
}

impl Iterator for Spans<'_> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        let Some(mut span) = self.front.take().or_else(|| self.parts.next()) else { return self.back.take() };
        for part in self.parts.by_ref() {
            if part.first != span.last + 1 {
                self.front = Some(part);
                return Some(span);
            }
            span.last = part.last;
        }
        if let Some(part) = self.back.take_if(|part| part.first == span.last + 1) {
            span.last = part.last;
        }
        Some(span)
    }
}

impl DoubleEndedIterator for Spans<'_> {
    fn next_back(&mut self) -> Option<Span> {
        let Some(mut span) = self.back.take().or_else(|| self.parts.next_back()) else { return self.front.take() };
        for part in self.parts.by_ref().rev() {
            if part.last + 1 != span.first {
                self.back = Some(part);
                return Some(span);
            }
            span.first = part.first;
        }
        if let Some(part) = self.front.take_if(|part| part.last + 1 == span.first) {
            span.first = part.first;
        }
        Some(span)
    }
}

/// The entries of a directory that touch a window, each as its spans inside the window.
#[derive(Clone)]
struct Chunks<'a> {
    entries: slice::Iter<'a, Entry>,
    window: Span,
}

impl<'a> Chunks<'a> {
    fn spans(&self, entry: &'a Entry) -> ChunkSpans<'a> {
        if entry.container.is_full() {
            let Span { first, last } = entry.span();
            return ChunkSpans::Full(Some(Span {
                first: first.max(self.window.first),
                last: last.min(self.window.last),
            }));
        }
        let base = entry.base();
        ChunkSpans::Runs { base, runs: entry.container.runs(window_in_chunk(self.window, base)) }
    }
}

impl<'a> Iterator for Chunks<'a> {
    type Item = ChunkSpans<'a>;

    fn next(&mut self) -> Option<ChunkSpans<'a>> {
        self.entries.next().map(|entry| self.spans(entry))
    }
}

impl DoubleEndedIterator for Chunks<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.entries.next_back().map(|entry| self.spans(entry))
    }
}

/// The spans of one entry.
#[derive(Clone)]
enum ChunkSpans<'a> {
    Full(Option<Span>),
    Runs { base: u64, runs: RunIter<'a> },
}

impl Iterator for ChunkSpans<'_> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        match self {
            Self::Full(span) => span.take(),
            Self::Runs { base, runs } => {
                runs.next().map(|run| Span { first: *base + u64::from(run.first), last: *base + u64::from(run.last) })
            }
        }
    }
}

impl DoubleEndedIterator for ChunkSpans<'_> {
    fn next_back(&mut self) -> Option<Span> {
        match self {
            Self::Full(span) => span.take(),
            Self::Runs { base, runs } => runs
                .next_back()
                .map(|run| Span { first: *base + u64::from(run.first), last: *base + u64::from(run.last) }),
        }
    }
}
