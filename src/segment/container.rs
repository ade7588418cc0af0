#![forbid(unsafe_code)]
//! Owns containers as bytes: reading one with every rule checked, and writing one. Must never know where in a file they
//! stand.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::layout::{ARRAY_MAX, Entry, RUNS_MAX};
use crate::bitmap::chunks::{CHUNK_GRANULES, Form, Pair, Sparse, View, Words, little_endian};
use crate::checksum::crc32c;
use crate::memory::{self, OutOfMemory};
use std::borrow::Cow;

const WRONG_SUM: &str = "the checksum is wrong";
const WRONG_COUNT: &str = "it does not hold as many granules as the directory says";

static NO_WORDS: Words = [0; 1024];

/// Why a container cannot be read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refusal {
    /// The rule that it breaks.
    Broken(&'static str),
    OutOfMemory,
}

impl From<&'static str> for Refusal {
    fn from(rule: &'static str) -> Self {
        Self::Broken(rule)
    }
}

impl From<OutOfMemory> for Refusal {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// Reads containers where they lie; where bytes cannot be read as numbers in their place, one at a time is copied.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    array: Vec<u16>,
    /// Empty or one.
    words: Vec<Words>,
    runs: Vec<Pair>,
}

impl Decoder {
    /// The most memory that a decoder takes.
    pub(super) const HEAP_BYTES: u64 = 3 * 8192;

    /// Reads the container of `entry`, whose chunk has `granules`.
    pub(super) fn decode<'a>(&'a mut self, entry: &Entry, bytes: &'a [u8], granules: u32) -> Result<View<'a>, Refusal> {
        if crc32c(bytes) != entry.sum {
            return Err(WRONG_SUM.into());
        }
        let view = self.view(entry.form, bytes)?;
        if view.checked_ones()? != entry.ones {
            return Err(WRONG_COUNT.into());
        }
        if granules < CHUNK_GRANULES && view.last().is_some_and(|last| u32::from(last) >= granules) {
            return Err("dirty granules lie past the end of the disk".into());
        }
        Ok(view)
    }

    /// What [`Decoder::decode`] gives of bytes that it has checked before.
    pub(super) fn view<'a>(&'a mut self, form: Form, bytes: &'a [u8]) -> memory::Result<View<'a>> {
        Ok(match form {
            Form::Full => View::Full,
            Form::Sparse => View::Sparse(Sparse::uncounted(bytes)),
            Form::Array => View::Array(match in_place(bytes) {
                Some(array) => array,
                None => {
                    let values = bytes.as_chunks().0.iter().map(|value| u16::from_le_bytes(*value));
                    refill(&mut self.array, ARRAY_MAX as usize, values)?
                }
            }),
            Form::Words => View::Words(match in_place(bytes).and_then(<[Words]>::first) {
                Some(words) => words,
                None => {
                    let mut words = NO_WORDS;
                    let numbers = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
                    words.iter_mut().zip(numbers).for_each(|(word, number)| *word = number);
                    refill(&mut self.words, 1, [words])?.first().unwrap_or(&NO_WORDS)
                }
            }),
            Form::Runs => View::Runs(match in_place(bytes) {
                Some(runs) => runs,
                None => {
                    let bounds = |[a, b, c, d]: &[u8; 4]| [u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d])];
                    refill(&mut self.runs, RUNS_MAX as usize, bytes.as_chunks().0.iter().map(bounds))?
                }
            }),
        })
    }
}

/// Bytes as numbers, if they are aligned and this machine has them in the order of the file.
fn in_place<T: bytemuck::Pod>(bytes: &[u8]) -> Option<&[T]> {
    if cfg!(target_endian = "little") { bytemuck::try_cast_slice(bytes).ok() } else { None }
}

/// Puts `items`, `most` at most, in the place of what a buffer had.
fn refill<T>(buffer: &mut Vec<T>, most: usize, items: impl IntoIterator<Item = T>) -> memory::Result<&[T]> {
    buffer.clear();
    buffer.try_reserve_exact(most)?;
    buffer.extend(items.into_iter().take(most));
    Ok(buffer)
}

/// As [`count_before`] of what [`Decoder::decode`] gives, for words of a whole chunk: nothing is copied.
pub(super) fn count_words_before(entry: &Entry, bytes: &[u8], end: u16) -> Result<u64, &'static str> {
    if crc32c(bytes) != entry.sum {
        return Err(WRONG_SUM);
    }
    let count = |words: &[[u8; 8]]| words.iter().map(|word| u64::from_le_bytes(*word).count_ones()).sum::<u32>();
    let (before, behind) = bytes.as_chunks::<8>().0.split_at_checked(usize::from(end / 64)).unwrap_or_default();
    let first = count(before);
    if first + count(behind) != entry.ones {
        return Err(WRONG_COUNT);
    }
    let begun = behind.first().map_or(0, |word| u64::from_le_bytes(*word) & ((1 << (end % 64)) - 1));
    Ok(u64::from(first + begun.count_ones()))
}

/// How many granules of a container come before the one of index `end`.
pub(super) fn count_before(view: View<'_>, end: u16) -> u64 {
    match view {
        View::Full => end.into(),
        View::Sparse(_) => view.count_before(end).into(),
        View::Array(array) => array.partition_point(|bit| *bit < end) as u64,
        View::Words(words) => {
            let (whole, rest) = (usize::from(end / 64), end % 64);
            let last = words.get(whole).map_or(0, |word| (word & ((1 << rest) - 1)).count_ones());
            let before = words.get(..whole).unwrap_or_default().iter().map(|word| word.count_ones());
            u64::from(before.sum::<u32>() + last)
        }
        View::Runs(runs) => {
            let begun = runs.iter().take_while(|[first, _]| *first < end);
            begun.map(|[first, last]| u64::from((*last).min(end - 1)) - u64::from(*first) + 1).sum()
        }
    }
}

/// The bytes of a container.
pub(super) fn encode(view: View<'_>) -> Cow<'_, [u8]> {
    match view {
        View::Full => Cow::Borrowed(&[]),
        View::Sparse(sparse) => Cow::Borrowed(sparse.bytes),
        View::Array(array) => little_endian(array, |value| value.to_le_bytes()),
        View::Words(words) => little_endian(words, |word| word.to_le_bytes()),
        View::Runs(runs) => little_endian(runs.as_flattened(), |bound| bound.to_le_bytes()),
    }
}
