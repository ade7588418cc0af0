#![forbid(unsafe_code)]
//! Owns the check of a whole segment: every container, the gaps between them, and the counts that only all of them
//! together can confirm. Must never change a byte.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::container::Decoder;
use super::layout::{TRAILER, TRAILER_BYTES};
use super::read::{READ_BYTES, Segment, SpanReader};
use crate::error::{ErrorKind, Result};
use crate::progress::{Observer, tell};

/// After so many problems the check looks no further.
const MOST_PROBLEMS: usize = 1000;

/// One thing that is wrong with a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The structure that breaks a rule.
    pub structure: String,
    /// Where it is in the file.
    pub offset: u64,
    /// The rule.
    pub message: String,
}

impl Segment {
    /// Reads every container, and returns what is wrong, 1000 problems at most; header, trailer and directory were checked
    /// when the segment was opened.
    ///
    /// An error is one of reading, or of `observer`.
    pub fn check(&self, observer: &mut dyn Observer) -> Result<Vec<Problem>> {
        let mut problems = Vec::new();
        let (mut reader, mut decoder) = (SpanReader::default(), Decoder::new());
        let mut extents = Some(0_u64);
        let mut last = (0, false);
        let total = self.summary().directory_offset();
        for (index, entry) in self.entries().iter().enumerate() {
            if index % 64 == 0 {
                tell(observer, "checking containers", entry.offset.min(total), total)?;
            }
            if problems.len() >= MOST_PROBLEMS {
                return Ok(problems);
            }
            let mut wrong = |offset: u64, message: &str| {
                problems.push(Problem { structure: entry.structure(), offset, message: message.to_owned() });
            };
            let bytes = reader.container(self, index, READ_BYTES)?;
            match self.decode(&mut decoder, entry, bytes) {
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    wrong(entry.offset, error.message());
                    extents = None;
                }
                Err(error) => return Err(error),
                Ok(view) => {
                    let joined = last == (entry.key, true) && view.contains(0);
                    let runs = u64::from(view.run_count()) - u64::from(joined);
                    extents = extents.map(|extents| extents + runs);
                    last = (entry.end(), view.contains(u16::MAX));
                }
            }
            if !reader.is_padded(entry) {
                wrong(entry.offset + u64::from(entry.len), "the bytes up to the next container are not zero");
            }
        }
        if extents.is_some_and(|extents| extents != self.summary().extents) {
            problems.push(Problem {
                structure: TRAILER.to_owned(),
                offset: self.summary().file_bytes - TRAILER_BYTES as u64 + 16,
                message: "the number of extents is not that of the containers".to_owned(),
            });
        }
        tell(observer, "checking containers", total, total)?;
        Ok(problems)
    }
}
