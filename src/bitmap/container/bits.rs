#![forbid(unsafe_code)]
//! Owns the form of a chunk that holds one bit for each granule in 64-bit words, and the loops over words. Knows nothing
//! of chunk keys, disks or bytes.

use super::{ARRAY_MAX, CHUNK, Run, to_u16};

/// The bits of one chunk; bit n is bit n%64, counted from the least significant, of word n/64.
pub(in crate::bitmap) type Words = [u64; 1024];

/// The words of a chunk and the number of ones in them.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::bitmap) struct Bits {
    pub(super) ones: u32,
    pub(super) words: Box<Words>,
}

impl Bits {
    pub(super) fn contains(&self, bit: u16) -> bool {
        self.words[usize::from(bit / 64)] >> (bit % 64) & 1 == 1
    }

    pub(super) fn count(&self, window: Run) -> u32 {
        let mut ones = 0;
        for_masks(window, |index, mask| ones += (self.words[index] & mask).count_ones());
        ones
    }

    pub(super) fn set(&mut self, new: Run) {
        let Self { ones, words } = self;
        for_masks(new, |index, mask| {
            *ones += (mask & !words[index]).count_ones();
            words[index] |= mask;
        });
    }

    pub(super) fn clear(&mut self, gone: Run) {
        let Self { ones, words } = self;
        for_masks(gone, |index, mask| {
            *ones -= (mask & words[index]).count_ones();
            words[index] &= !mask;
        });
    }

    pub(super) fn validate(&self) -> Result<(), &'static str> {
        if count_ones(&self.words) != self.ones {
            return Err("the count of a bit container is wrong");
        }
        if self.ones as usize <= ARRAY_MAX || self.ones == CHUNK {
            return Err("a bit container has so few or so many bits that another form must hold them");
        }
        Ok(())
    }
}

/// No bit set.
pub(in crate::bitmap) fn no_words() -> Box<Words> {
    Box::new([0; 1024])
}

pub(in crate::bitmap) fn set_run(words: &mut Words, run: Run) {
    for_masks(run, |index, mask| words[index] |= mask);
}

pub(in crate::bitmap) fn clear_run(words: &mut Words, run: Run) {
    for_masks(run, |index, mask| words[index] &= !mask);
}

pub(super) fn count_ones(words: &Words) -> u32 {
    words.iter().map(|word| word.count_ones()).sum()
}

/// The indices of the set bits, which are `ones` many.
pub(super) fn positions(words: &Words, ones: u32) -> Vec<u16> {
    let mut positions = Vec::with_capacity(ones as usize);
    for (index, &word) in (0..).zip(words) {
        let mut rest = word;
        while rest != 0 {
            positions.push(to_u16(index * 64 + rest.trailing_zeros()));
            rest &= rest - 1;
        }
    }
    positions
}

pub(super) fn run_count(words: &Words) -> u32 {
    let mut before = 0;
    let starts = words.iter().map(|&word| {
        let starts = (word & !(word << 1 | before)).count_ones();
        before = word >> 63;
        starts
    });
    starts.sum()
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
