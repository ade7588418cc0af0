#![forbid(unsafe_code)]
//! Owns containers as bytes: reading one with every rule checked, and writing one. Must never know where in a file they
//! stand.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::layout::{ARRAY_MAX, Entry, RUNS_MAX};
use crate::bitmap::chunks::{Form, Pair, View, Words};

const WRONG_SUM: &str = "the checksum is wrong";
const WRONG_COUNT: &str = "it does not hold as many granules as the directory says";

/// The buffers that one container at a time is read into.
#[derive(Debug)]
pub(super) struct Decoder {
    array: Vec<u16>,
    /// Empty or one.
    words: Vec<Words>,
    runs: Vec<Pair>,
    form: Form,
}

static NO_WORDS: Words = [0; 1024];

impl Decoder {
    /// The most memory that a decoder takes.
    pub(super) const HEAP_BYTES: u64 = 3 * 8192;

    pub(super) fn new() -> Self {
        Self { array: Vec::new(), words: Vec::new(), runs: Vec::new(), form: Form::Full }
    }

    /// Reads the container of `entry`, whose chunk has `granules`; says which rule it breaks.
    pub(super) fn decode(&mut self, entry: &Entry, bytes: &[u8], granules: u32) -> Result<View<'_>, &'static str> {
        if crc32c::crc32c(bytes) != entry.sum {
            return Err(WRONG_SUM);
        }
        let (ones, last) = match entry.form {
            Form::Full => (entry.ones, None),
            Form::Array => {
                self.array.clear();
                self.array.reserve_exact(ARRAY_MAX as usize);
                self.array.extend(bytes.as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes)));
                let later = self.array.get(1..).unwrap_or_default();
                if !self.array.iter().zip(later).fold(true, |sorted, (one, next)| sorted & (one < next)) {
                    return Err("the values of an array are out of order");
                }
                (u32::try_from(self.array.len()).unwrap_or(u32::MAX), self.array.last().copied())
            }
            Form::Words => {
                self.words.reserve_exact(1);
                self.words.resize(1, NO_WORDS);
                let words = self.words.first_mut().ok_or("its words are not there")?;
                for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
                    *word = u64::from_le_bytes(*bytes);
                }
                (View::Words(words).ones(), last_of(words))
            }
            Form::Sparse => {
                View::check_packed(bytes)?;
                self.words.resize(1, NO_WORDS);
                let words = self.words.first_mut().ok_or("its words are not there")?;
                View::Sparse(bytes).copy_to(words);
                (View::Words(words).ones(), last_of(words))
            }
            Form::Runs => {
                self.runs.clear();
                self.runs.reserve_exact(RUNS_MAX as usize);
                self.runs.extend(
                    bytes
                        .as_chunks::<4>()
                        .0
                        .iter()
                        .map(|[a, b, c, d]| [u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d])]),
                );
                let later = self.runs.get(1..).unwrap_or_default();
                let mut apart = self.runs.iter().zip(later).map(|([_, last], [first, _])| (*last, *first));
                if self.runs.iter().any(|[first, last]| first > last)
                    || apart.any(|(last, first)| u32::from(last) + 1 >= u32::from(first))
                {
                    return Err("runs overlap, touch or are out of order");
                }
                let ones = self.runs.iter().map(|[first, last]| u32::from(*last) - u32::from(*first) + 1).sum();
                (ones, self.runs.last().map(|run| run[1]))
            }
        };
        if ones != entry.ones {
            return Err(WRONG_COUNT);
        }
        if last.is_some_and(|last| u32::from(last) >= granules) {
            return Err("dirty granules lie past the end of the disk");
        }
        // What was packed is handed on as words.
        self.form = if entry.form == Form::Sparse { Form::Words } else { entry.form };
        Ok(self.view())
    }

    /// What was read last.
    pub(super) fn view(&self) -> View<'_> {
        match self.form {
            Form::Array => View::Array(&self.array),
            Form::Words | Form::Sparse => View::Words(self.words.first().unwrap_or(&NO_WORDS)),
            Form::Runs => View::Runs(&self.runs),
            Form::Full => View::Full,
        }
    }
}

/// The last set bit.
fn last_of(words: &Words) -> Option<u16> {
    let last = (0_u16..1024).zip(words.iter()).rev().find(|(_, word)| **word != 0);
    last.map(|(index, word)| index * 64 + 63 - u16::try_from(word.leading_zeros()).unwrap_or(63))
}

/// As [`count_before`] of what [`Decoder::decode`] gives, for words of a whole chunk: nothing is copied.
pub(super) fn count_words_before(entry: &Entry, bytes: &[u8], end: u16) -> Result<u64, &'static str> {
    if crc32c::crc32c(bytes) != entry.sum {
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
        View::Sparse(_) => count_before(View::Words(&view.words()), end),
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

/// Appends the bytes of a container.
pub(super) fn encode(view: View<'_>, out: &mut Vec<u8>) {
    let from = out.len();
    let len = match view {
        View::Array(array) => size_of_val(array),
        View::Words(words) => size_of_val(words),
        View::Runs(runs) => size_of_val(runs),
        View::Sparse(bytes) => bytes.len(),
        View::Full => 0,
    };
    out.resize(from + len, 0);
    let room = out.get_mut(from..).unwrap_or_default();
    match view {
        View::Full => {}
        View::Sparse(bytes) => room.copy_from_slice(bytes),
        View::Array(array) => {
            for (bytes, value) in room.as_chunks_mut::<2>().0.iter_mut().zip(array) {
                *bytes = value.to_le_bytes();
            }
        }
        View::Words(words) => {
            for (bytes, word) in room.as_chunks_mut::<8>().0.iter_mut().zip(words) {
                *bytes = word.to_le_bytes();
            }
        }
        View::Runs(runs) => {
            for (bytes, [first, last]) in room.as_chunks_mut::<4>().0.iter_mut().zip(runs) {
                let ([a, b], [c, d]) = (first.to_le_bytes(), last.to_le_bytes());
                *bytes = [a, b, c, d];
            }
        }
    }
}
