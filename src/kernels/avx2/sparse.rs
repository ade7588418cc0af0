//! Owns packed chunks in general registers, eight bytes at a time, written by hand as the compiler does not find the
//! instructions for it. Must never be reached on a CPU without BMI2 and POPCNT.

use crate::kernels::portable;
use crate::kernels::table::{MASKS, SPARSE_ROOM, WORDS, Words};
use std::arch::x86_64::{_pdep_u64, _pext_u64};

/// For each set of bytes of a word, the word in which they are all ones.
static BYTES: [u64; 256] = bytes();

const fn bytes() -> [u64; 256] {
    let mut table = [0; 256];
    let mut mask = 0;
    while mask < 256 {
        let mut place = 0;
        while place < 8 {
            table[mask] |= if mask >> place & 1 == 1 { 0xff << (8 * place) } else { 0 };
            place += 1;
        }
        mask += 1;
    }
    table
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
pub(super) fn pack(words: &Words, out: &mut [u8]) -> usize {
    let out = &mut out[..SPARSE_ROOM];
    let lower: [u8; WORDS] = std::array::from_fn(|index| portable::mask_of(words[index]));
    let mut end = MASKS;
    for (place, group) in lower.as_chunks::<8>().0.iter().enumerate() {
        let group = u64::from_le_bytes(*group);
        out[place] = portable::mask_of(group);
        end += take(group, out[place], &mut out[end..]);
    }
    for (&word, &mask) in words.iter().zip(&lower) {
        end += take(word, mask, &mut out[end..]);
    }
    end
}

/// Puts the bytes of a mask to the front of `room`, which is longer than a word; their number.
#[target_feature(enable = "bmi1,bmi2,popcnt")]
fn take(word: u64, mask: u8, room: &mut [u8]) -> usize {
    if let Some(room) = room.first_chunk_mut() {
        *room = _pext_u64(word, BYTES[usize::from(mask)]).to_le_bytes();
    }
    mask.count_ones() as usize
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
pub(super) fn spread(sparse: &[u8], words: &mut Words) {
    each_word(sparse, words, |word, bytes| *word |= bytes);
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
pub(super) fn unpack(sparse: &[u8], words: &mut Words) {
    each_word(sparse, words, |word, bytes| *word = bytes);
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
fn each_word(sparse: &[u8], words: &mut Words, put_into: impl Fn(&mut u64, u64)) {
    let (upper, mut rest) = sparse.split_at(sparse.len().min(MASKS));
    let mut lower = [0; WORDS];
    for (group, &mask) in lower.as_chunks_mut::<8>().0.iter_mut().zip(upper) {
        *group = put(mask, &mut rest).to_le_bytes();
    }
    for (word, &mask) in words.iter_mut().zip(&lower) {
        put_into(word, put(mask, &mut rest));
    }
}

/// Takes the next bytes of `rest` to the places of a mask; places for which no byte is left get 0.
#[target_feature(enable = "bmi1,bmi2,popcnt")]
fn put(mask: u8, rest: &mut &[u8]) -> u64 {
    let bytes = match rest.first_chunk() {
        Some(bytes) => *bytes,
        None => std::array::from_fn(|place| rest.get(place).copied().unwrap_or(0)),
    };
    *rest = rest.get(mask.count_ones() as usize..).unwrap_or_default();
    _pdep_u64(u64::from_le_bytes(bytes), BYTES[usize::from(mask)])
}
