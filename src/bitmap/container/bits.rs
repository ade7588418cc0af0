#![forbid(unsafe_code)]
//! Owns the form of a chunk that holds one bit for each granule in 64-bit words, and the loops over words. Knows nothing
//! of chunk keys, disks or bytes.

use super::{ARRAY_MAX, CHUNK, Pair, RUNS_MAX, Run, to_u16};
use crate::kernels::{ROOM, select};
use crate::memory::{self, Result};

/// The bits of one chunk, least significant first.
pub(crate) use crate::kernels::Words;

pub(super) fn contains(words: &Words, bit: u16) -> bool {
    words[usize::from(bit / 64)] >> (bit % 64) & 1 == 1
}

pub(super) fn count(words: &Words, window: Run) -> u32 {
    let (from, to) = (usize::from(window.first / 64), usize::from(window.last / 64));
    let head = u64::MAX << (window.first % 64);
    let tail = u64::MAX >> (63 - window.last % 64);
    if from == to {
        return (words[from] & head & tail).count_ones();
    }
    let ends = (words[from] & head).count_ones() + (words[to] & tail).count_ones();
    #[allow(clippy::cast_possible_truncation, reason = "a chunk has 65536 bits")]
    let middle = (select().ones)(&words[from + 1..to]) as u32;
    ends + middle
}

/// The `number`-th set bit, from 0; the words must have more bits than that.
pub(super) fn nth(words: &Words, number: u32) -> u16 {
    let mut rest = number;
    for (index, &word) in (0..).zip(words) {
        let ones = word.count_ones();
        if rest < ones {
            let without = (0..rest).fold(word, |word, _| word & (word - 1));
            return to_u16(index * 64 + without.trailing_zeros());
        }
        rest -= ones;
    }
    u16::MAX
}

/// Sets the bits of `new`, and says how many of them are new.
pub(super) fn set(words: &mut Words, new: Run) -> u32 {
    let mut added = 0;
    for_masks(new, |index, mask| {
        added += (mask & !words[index]).count_ones();
        words[index] |= mask;
    });
    added
}

/// Clears the bits of `gone`, and says how many were set.
pub(super) fn clear(words: &mut Words, gone: Run) -> u32 {
    let mut cleared = 0;
    for_masks(gone, |index, mask| {
        cleared += (mask & words[index]).count_ones();
        words[index] &= !mask;
    });
    cleared
}

/// No bit set.
pub(in crate::bitmap) fn no_words() -> Result<Box<Words>> {
    memory::zeroed_box()
}

pub(in crate::bitmap) fn clear_run(words: &mut Words, run: Run) {
    for_masks(run, |index, mask| words[index] &= !mask);
}

pub(super) fn count_ones(words: &Words) -> u32 {
    (select().measure)(words).ones
}

pub(super) fn run_count(words: &Words) -> u32 {
    (select().measure)(words).runs
}

/// Hands the indices of the set bits, which are `ARRAY_MAX` at most, to `take`.
pub(super) fn with_positions<R>(words: &Words, take: impl FnOnce(&[u16]) -> R) -> R {
    let mut out = [0; ARRAY_MAX + ROOM];
    let count = (select().positions)(words, &mut out);
    take(&out[..count])
}

/// Hands the maximal runs of set bits, which are `RUNS_MAX` at most, to `take`.
pub(super) fn with_runs<R>(words: &Words, take: impl FnOnce(&[Pair]) -> R) -> R {
    let mut out = [[0, 0]; RUNS_MAX + ROOM];
    let count = (select().runs)(words, &mut out);
    take(&out[..count])
}

/// The first position in `from..end` whose bit differs from those of `same` (0 or all ones); `end` if there is none.
pub(super) fn scan(words: &Words, from: u32, end: u32, same: u64) -> u32 {
    if from >= end {
        return end;
    }
    let mut index = from / 64;
    let mut word = (words[index as usize] ^ same) & u64::MAX << (from % 64);
    while word == 0 {
        index += 1;
        if index * 64 >= end {
            return end;
        }
        word = words[index as usize] ^ same;
    }
    end.min(index * 64 + word.trailing_zeros())
}

/// The first position from `bit` on whose bit differs from those of `same` (0 or all ones).
pub(super) fn next(words: &Words, bit: u16, same: u64) -> Option<u16> {
    u16::try_from(scan(words, bit.into(), CHUNK, same)).ok()
}

/// The position after the last one in `start..end` whose bit differs from those of `same` (0 or all ones); `start` if
/// there is none.
pub(super) fn scan_back(words: &Words, start: u32, end: u32, same: u64) -> u32 {
    if start >= end {
        return start;
    }
    let mut index = (end - 1) / 64;
    let mut word = (words[index as usize] ^ same) & u64::MAX >> (63 - (end - 1) % 64);
    while word == 0 {
        if index * 64 <= start {
            return start;
        }
        index -= 1;
        word = words[index as usize] ^ same;
    }
    start.max(index * 64 + 64 - word.leading_zeros())
}

/// Calls `visit` with the index of each word that `run` touches and the mask of the run's bits in it.
fn for_masks(run: Run, mut visit: impl FnMut(usize, u64)) {
    let (from, to) = (usize::from(run.first / 64), usize::from(run.last / 64));
    let head = u64::MAX << (run.first % 64);
    let tail = u64::MAX >> (63 - run.last % 64);
    if from == to {
        visit(from, head & tail);
        return;
    }
    visit(from, head);
    for index in from + 1..to {
        visit(index, u64::MAX);
    }
    visit(to, tail);
}
