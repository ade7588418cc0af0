#![forbid(unsafe_code)]
//! Owns the portable loops over the words of a chunk. Must never ask what the CPU is.

use super::runs::pair;
use crate::kernels::table::{EDGES, Measure, Pair, ROOM, WORDS, Words};

#[inline(always)]
pub(in crate::kernels) fn or(to: &mut Words, from: &Words) -> Measure {
    or_only(to, from);
    measure(to)
}

#[inline(always)]
pub(in crate::kernels) fn and(to: &mut Words, from: &Words) -> Measure {
    to.iter_mut().zip(from).for_each(|(to, from)| *to &= from);
    measure(to)
}

#[inline(always)]
pub(in crate::kernels) fn and_not(to: &mut Words, from: &Words) -> Measure {
    to.iter_mut().zip(from).for_each(|(to, from)| *to &= !from);
    measure(to)
}

#[inline(always)]
pub(in crate::kernels) fn xor(to: &mut Words, from: &Words) -> Measure {
    to.iter_mut().zip(from).for_each(|(to, from)| *to ^= from);
    measure(to)
}

#[inline(always)]
pub(in crate::kernels) fn or_only(to: &mut Words, from: &Words) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to |= from);
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "a chunk has 65536 bits")]
pub(in crate::kernels) fn measure(words: &Words) -> Measure {
    let (mut ones, mut runs) =
        (u64::from(words[0].count_ones()), u64::from((words[0] & !(words[0] << 1)).count_ones()));
    for index in 1..WORDS {
        let (word, before) = (words[index], words[index - 1]);
        ones += u64::from(word.count_ones());
        runs += u64::from((word & !(word << 1 | before >> 63)).count_ones());
    }
    Measure { ones: ones as u32, runs: runs as u32 }
}

#[inline(always)]
pub(in crate::kernels) fn ones(words: &[u64]) -> u64 {
    words.iter().map(|word| u64::from(word.count_ones())).sum()
}

#[inline(always)]
pub(in crate::kernels) fn is_subset(a: &Words, b: &Words) -> bool {
    let (a, _) = a.as_chunks::<64>();
    let (b, _) = b.as_chunks::<64>();
    a.iter().zip(b).all(|(a, b)| a.iter().zip(b).fold(0, |left, (a, b)| left | (a & !b)) == 0)
}

#[inline(always)]
#[allow(
    clippy::cast_possible_truncation,
    reason = "positions of a chunk are below 65536; what is above is not counted"
)]
pub(in crate::kernels) fn positions(words: &Words, out: &mut [u16]) -> usize {
    let mut count = 0;
    for (block, eight) in words.as_chunks::<8>().0.iter().enumerate() {
        // Few bits leave most words empty.
        if eight.iter().fold(0, |any, word| any | word) == 0 {
            continue;
        }
        for (index, &word) in eight.iter().enumerate() {
            let Some(room) = out.get_mut(count..).and_then(|rest| rest.first_chunk_mut::<ROOM>()) else {
                return count;
            };
            let base = edge(8 * block + index);
            let found = word.count_ones() as usize;
            each_bit::<4>(word, |place, bit| room[place] = (base + bit) as u16);
            count += found;
        }
    }
    count
}

/// Puts the positions of a word's bits, some at a time: up to one less than these are put too many, which the next word
/// overwrites.
#[inline(always)]
pub(in crate::kernels) fn each_bit<const AT_ONCE: usize>(word: u64, mut put: impl FnMut(usize, u32)) {
    let mut rest = word;
    let mut place = 0;
    loop {
        for step in 0..AT_ONCE {
            put((place + step) % ROOM, rest.trailing_zeros());
            rest &= rest.wrapping_sub(1);
        }
        if rest == 0 {
            break;
        }
        place += AT_ONCE;
    }
}

#[inline(always)]
pub(in crate::kernels) fn edges(words: &Words, from: u32, to: u32, out: &mut [u32; EDGES]) -> (usize, u32) {
    edges_by(words, from, to, out, |changes, base, room| each_bit::<4>(changes, |place, bit| room[place] = base + bit))
}

/// [`edges`], where `put` gets a word's changes, the number of its first bit, and where the numbers of the changes go.
#[inline(always)]
pub(in crate::kernels) fn edges_by(
    words: &Words,
    from: u32,
    to: u32,
    out: &mut [u32; EDGES],
    put: impl Fn(u64, u32, &mut [u32; ROOM]),
) -> (usize, u32) {
    if from >= to {
        return (0, to);
    }
    let (first, last) = (from as usize / 64, (to as usize - 1) / 64);
    let (mut count, mut carry) = (0, 0);
    let mut mask = u64::MAX << (from % 64);
    for (index, &word) in words.iter().enumerate().take(last + 1).skip(first) {
        if count > EDGES - ROOM {
            // A run that is open goes to the next call whole.
            let (closed, next) = if count % 2 == 0 { (count, edge(index)) } else { (count - 1, out[count - 1]) };
            return (closed, next);
        }
        if index == last {
            mask &= u64::MAX >> (63 - (to - 1) % 64);
        }
        let word = word & mask;
        mask = u64::MAX;
        let changes = word ^ (word << 1 | carry);
        carry = word >> 63;
        let base = edge(index);
        let room: &mut [u32] = &mut out[count..];
        if let Some(room) = room.first_chunk_mut::<ROOM>() {
            put(changes, base, room);
        }
        count += changes.count_ones() as usize;
    }
    if count % 2 == 1 {
        out[count] = to;
        count += 1;
    }
    (count, to)
}

#[inline(always)]
pub(in crate::kernels) fn runs(words: &Words, out: &mut [Pair]) -> usize {
    let end = edge(WORDS);
    let mut bounds = [0; EDGES];
    let (mut count, mut from) = (0, 0);
    while from < end {
        let (found, next) = edges(words, from, end, &mut bounds);
        let (pairs, _) = bounds[..found].as_chunks::<2>();
        for (run, &[first, end]) in out[count..].iter_mut().zip(pairs) {
            *run = pair(first, end - 1);
        }
        count += pairs.len();
        from = next;
    }
    count
}

/// The first bit of a word.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "a chunk has 1024 words")]
fn edge(index: usize) -> u32 {
    index as u32 * 64
}

#[inline(always)]
pub(in crate::kernels) fn fold(from: &[u64], to: &mut [u64]) {
    for (to, &[low, high]) in to.iter_mut().zip(from.as_chunks::<2>().0) {
        *to = halved(low) | halved(high) << 32;
    }
}

/// For each two bits whether one is set, in the lower half.
#[inline(always)]
fn halved(word: u64) -> u64 {
    let word = (word | word >> 1) & 0x5555_5555_5555_5555;
    let word = (word | word >> 1) & 0x3333_3333_3333_3333;
    let word = (word | word >> 2) & 0x0f0f_0f0f_0f0f_0f0f;
    let word = (word | word >> 4) & 0x00ff_00ff_00ff_00ff;
    let word = (word | word >> 8) & 0x0000_ffff_0000_ffff;
    (word | word >> 16) & 0x0000_0000_ffff_ffff
}

#[inline(always)]
pub(in crate::kernels) fn unfold(from: &[u64], to: &mut [u64]) {
    for (to, &word) in to.as_chunks_mut::<2>().0.iter_mut().zip(from) {
        *to = [doubled(word & 0xffff_ffff), doubled(word >> 32)];
    }
}

/// Each bit of the lower half twice.
#[inline(always)]
fn doubled(half: u64) -> u64 {
    let word = (half | half << 16) & 0x0000_ffff_0000_ffff;
    let word = (word | word << 8) & 0x00ff_00ff_00ff_00ff;
    let word = (word | word << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let word = (word | word << 2) & 0x3333_3333_3333_3333;
    let word = (word | word << 1) & 0x5555_5555_5555_5555;
    word | word << 1
}
