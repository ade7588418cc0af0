#![forbid(unsafe_code)]
//! Owns the way through the extents of a segment, container by container. Must never hold more than one of them.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::container::Decoder;
use super::read::{READ_BYTES, Segment, SpanReader};
use crate::error::Result;
use crate::geometry::Extent;
use crate::memory;
use std::collections::VecDeque;
use std::fmt;
use std::iter::FusedIterator;
use std::ops::Range;

/// The dirty extents of a range of a segment, see [`Segment::extents`].
pub struct Extents<'a> {
    segment: &'a Segment<'a>,
    /// The range of bytes.
    range: Range<u64>,
    /// The next entry to be read, once it is known.
    next: Option<usize>,
    is_done: bool,
    reader: SpanReader,
    decoder: Decoder,
    /// How far to read ahead: little at first, since many a caller wants one extent only.
    ahead: u64,
    /// Runs of granules, the end excluded, that touch nothing before them; the last one may go on.
    ready: VecDeque<(u64, u64)>,
}

impl<'a> Extents<'a> {
    pub(super) fn new(segment: &'a Segment<'a>, offset: u64, end: u64) -> Self {
        Self {
            segment,
            range: offset..end,
            next: None,
            is_done: false,
            reader: SpanReader::default(),
            decoder: Decoder::default(),
            ahead: 0,
            ready: VecDeque::new(),
        }
    }

    /// Reads the next entry's runs, those inside the window.
    fn read(&mut self) -> Result<()> {
        self.is_done = true;
        let Some(window) = self.segment.window(self.range.start, self.range.end.saturating_sub(self.range.start))
        else {
            return Ok(());
        };
        let index = match self.next {
            Some(index) => index,
            None => self.segment.first_touching(&window)?,
        };
        let Some(entry) = self.segment.touch_inside(index, &window)? else { return Ok(()) };
        self.next = Some(index + 1);
        let base = u64::from(entry.key) << 16;
        let end = u64::from(entry.end()) << 16;
        let ready = &mut self.ready;
        let mut take = |first: u64, end: u64| -> memory::Result<()> {
            match ready.back_mut() {
                Some((_, last)) if *last == first => *last = end,
                _ => {
                    ready.try_reserve(1)?;
                    ready.push_back((first, end));
                }
            }
            Ok(())
        };
        if entry.is_full() {
            take(base.max(window.start), end.min(window.end))?;
            self.is_done = false;
            return Ok(());
        }
        let bytes = self.reader.container(self.segment, index, self.ahead)?;
        self.ahead = (self.ahead * 2).clamp(8192, READ_BYTES);
        let view = self.segment.decode(&mut self.decoder, entry, bytes)?;
        let inside = |granule: u64| u16::try_from(granule.saturating_sub(base)).unwrap_or(u16::MAX);
        let mut taken = Ok(());
        view.runs_within(inside(window.start), inside(window.end - 1), |first, last| {
            taken = taken.and_then(|()| take(base + u64::from(first), base + u64::from(last) + 1));
        });
        taken?;
        self.is_done = false;
        Ok(())
    }
}

impl Iterator for Extents<'_> {
    type Item = Result<Extent>;

    fn next(&mut self) -> Option<Result<Extent>> {
        // The last run that is ready may go on in the next entry.
        while self.ready.len() < 2 && !self.is_done {
            if let Err(error) = self.read() {
                self.ready.clear();
                return Some(Err(error));
            }
        }
        let (first, end) = self.ready.pop_front()?;
        let bits = self.segment.granularity().bits();
        let offset = (first << bits).max(self.range.start);
        let len_bytes = (end << bits).min(self.range.end) - offset;
        Some(Ok(Extent { offset, len_bytes }))
    }
}

impl FusedIterator for Extents<'_> {}

impl fmt::Debug for Extents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extents").field("range", &self.range).finish_non_exhaustive()
    }
}
