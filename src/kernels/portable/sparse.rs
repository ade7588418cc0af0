#![forbid(unsafe_code)]
//! Owns the portable loops over packed chunks, and over bytes. Must never ask what the CPU is.

use crate::kernels::table::{MASKS, WORDS, Words};

#[inline(always)]
pub(in crate::kernels) fn pack(words: &Words, out: &mut [u8]) -> usize {
    let lower: [u8; WORDS] = std::array::from_fn(|index| mask_of(words[index]));
    let (upper, rest) = out.split_at_mut(MASKS);
    let mut end = 0;
    for (mask, group) in upper.iter_mut().zip(lower.as_chunks::<8>().0) {
        let group = u64::from_le_bytes(*group);
        *mask = mask_of(group);
        end += take_bytes(group, &mut rest[end..]);
    }
    for &word in words {
        end += take_bytes(word, &mut rest[end..]);
    }
    MASKS + end
}

#[inline(always)]
pub(in crate::kernels) fn packed_len(words: &Words) -> usize {
    let lower: [u8; WORDS] = std::array::from_fn(|index| mask_of(words[index]));
    MASKS + lower.iter().filter(|mask| **mask != 0).count() + byte_ones(&lower) as usize
}

/// The highest bit of each byte that is not 0.
#[inline(always)]
fn full_bytes(word: u64) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    (((word & LOW) + LOW) | word) & !LOW
}

/// Which bytes are not 0.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the product has the eight bits on top")]
pub(in crate::kernels) fn mask_of(word: u64) -> u8 {
    ((full_bytes(word) >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
}

/// Takes the bytes that are not 0; their number.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "one byte is taken")]
fn take_bytes(word: u64, out: &mut [u8]) -> usize {
    let mut left = full_bytes(word);
    let mut count = 0;
    while left != 0 {
        out[count] = (word >> (left.trailing_zeros() & !7)) as u8;
        left &= left - 1;
        count += 1;
    }
    count
}

#[inline(always)]
pub(in crate::kernels) fn spread(sparse: &[u8], words: &mut Words) {
    let (upper, mut rest) = sparse.split_at(sparse.len().min(MASKS));
    let mut lower = [0; 8 * MASKS];
    for (group, &mask) in lower.as_chunks_mut::<8>().0.iter_mut().zip(upper) {
        *group = put_bytes(mask, &mut rest);
    }
    for (word, &mask) in words.iter_mut().zip(&lower) {
        *word |= u64::from_le_bytes(put_bytes(mask, &mut rest));
    }
}

#[inline(always)]
pub(in crate::kernels) fn unpack(sparse: &[u8], words: &mut Words) {
    words.fill(0);
    spread(sparse, words);
}

/// The next of `rest` at the places of a mask.
#[inline(always)]
fn put_bytes(mask: u8, rest: &mut &[u8]) -> [u8; 8] {
    let mut bytes = [0; 8];
    let mut left = mask;
    while let (true, Some((&byte, later))) = (left != 0, rest.split_first()) {
        bytes[left.trailing_zeros() as usize % 8] = byte;
        left &= left - 1;
        *rest = later;
    }
    bytes
}

#[inline(always)]
pub(in crate::kernels) fn byte_ones(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<8>();
    let ones: u32 = words.iter().map(|word| u64::from_le_bytes(*word).count_ones()).sum();
    ones + rest.iter().map(|byte| byte.count_ones()).sum::<u32>()
}

#[inline(always)]
pub(in crate::kernels) fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}
