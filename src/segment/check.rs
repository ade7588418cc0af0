#![forbid(unsafe_code)]
//! Owns the check of a whole segment: every container, the gaps between them, and the counts that only all of them
//! together can confirm. Must never change a byte.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::container::Decoder;
use super::layout::{DIRECTORY, ENTRY_BYTES, Entry, PAGE_ENTRIES, TOUCH, TRAILER, TRAILER_BYTES};
use super::read::{READ_BYTES, Segment, SpanReader};
use crate::bitmap::chunks::View;
use crate::error::{ErrorKind, Result};
use crate::memory;
use crate::progress::{Observer, tell};

const PHASE: &str = "checking containers";

/// The check ends after this many problems.
const MOST_PROBLEMS: usize = 1000;

/// One broken rule of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// The structure that breaks a rule.
    pub structure: String,
    /// Where it is in the file.
    pub offset: u64,
    /// The rule.
    pub message: String,
}

impl Segment<'_> {
    /// Reads every page of the directory and every container, and returns the problems, 1000 at most; header,
    /// trailer and index were checked when the segment was opened.
    ///
    /// An error is one of reading, or of `observer`.
    pub fn check(&self, observer: &mut dyn Observer) -> Result<Vec<Fault>> {
        let mut problems = Vec::new();
        let (mut reader, mut decoder) = (SpanReader::default(), Decoder::default());
        // What only the whole file can tell; nothing once a part of it is not known.
        let mut whole = Some(Whole::default());
        let mut before: Option<Entry> = None;
        let total = self.summary().directory_offset();
        for number in 0..self.pages() {
            if problems.len() >= MOST_PROBLEMS {
                return Ok(problems);
            }
            let page = match self.page(number) {
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    let problem = Fault::new(DIRECTORY, error.offset().unwrap_or(total), error.message());
                    memory::push(&mut problems, problem)?;
                    (whole, before) = (None, None);
                    continue;
                }
                page => page?,
            };
            if let (Some(before), Some(first)) = (before, page.first())
                && before.touches(first)
            {
                let offset = total + (number * PAGE_ENTRIES * ENTRY_BYTES) as u64;
                memory::push(&mut problems, Fault::new(DIRECTORY, offset, TOUCH))?;
            }
            before = page.last().copied();
            tell(observer, PHASE, page.iter().map(|entry| entry.offset).max().unwrap_or(0).min(total), total)?;
            for (place, entry) in page.iter().enumerate() {
                if problems.len() >= MOST_PROBLEMS {
                    return Ok(problems);
                }
                let mut wrong = |offset: u64, message: &str| {
                    memory::push(&mut problems, Fault::new(&entry.structure(), offset, message))
                };
                let bytes = reader.container(self, number * PAGE_ENTRIES + place, READ_BYTES)?;
                match self.decode(&mut decoder, entry, bytes) {
                    Err(error) if error.kind() == ErrorKind::Damaged => {
                        wrong(entry.offset, error.message())?;
                        whole = None;
                    }
                    Err(error) => return Err(error),
                    Ok(view) => whole.iter_mut().for_each(|whole| whole.add(entry, &view)),
                }
                if !reader.is_padded(entry) {
                    wrong(entry.offset + u64::from(entry.len), "the bytes up to the next container are not zero")?;
                }
            }
        }
        let trailer = self.summary().file_bytes - TRAILER_BYTES as u64;
        if whole.as_ref().is_some_and(|whole| whole.chunks != self.summary().chunks) {
            let message = "the number of chunks is not that of the directory";
            memory::push(&mut problems, Fault::new(TRAILER, trailer, message))?;
        }
        if whole.is_some_and(|whole| whole.extents != self.summary().extents) {
            let message = "the number of extents is not that of the containers";
            memory::push(&mut problems, Fault::new(TRAILER, trailer + 16, message))?;
        }
        tell(observer, PHASE, total, total)?;
        Ok(problems)
    }
}

impl Fault {
    fn new(structure: &str, offset: u64, message: &str) -> Self {
        Self { structure: structure.to_owned(), offset, message: message.to_owned() }
    }
}

/// What all containers have together.
#[derive(Debug, Default)]
struct Whole {
    chunks: u64,
    extents: u64,
    /// The chunk after the last one, and whether the last granule before it is dirty.
    last: (u32, bool),
}

impl Whole {
    fn add(&mut self, entry: &Entry, view: &View<'_>) {
        let (first, last) = view.edges();
        let joined = self.last == (entry.key, true) && first;
        self.extents += u64::from(view.run_count()) - u64::from(joined);
        self.chunks += u64::from(entry.chunks);
        self.last = (entry.end(), last);
    }
}
