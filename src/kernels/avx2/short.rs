//! Owns the set operations on two lists that fill two registers at most, without a jump that depends on their lengths: those
//! differ from chunk to chunk, and a jump that is guessed wrong costs as much as the operation. Must never be reached on a
//! CPU without AVX2 and POPCNT.

use super::lists::{LANES, packed, unite_halves};
use super::pairs::found_in;
use std::arch::x86_64::*;

/// The most items of a list.
pub(super) const SHORT: usize = 2 * LANES;

/// Pairs of items to read, and then as many not to read.
static WINDOW: [i32; SHORT] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

/// Items, and 0 behind them.
#[target_feature(enable = "avx2")]
#[inline]
fn load(list: &[u16]) -> __m256i {
    let Some(&last) = list.last() else { return _mm256_setzero_si256() };
    let pairs = list.len() / 2;
    let window = WINDOW[SHORT / 2 - pairs..].first_chunk::<{ SHORT / 2 }>().expect("there are eight pairs at most");
    // SAFETY: the window is readable for 32 bytes, and tells to read as many pairs of items as the list has; nothing needs
    // alignment.
    let items = unsafe { _mm256_maskload_epi32(list.as_ptr().cast(), _mm256_loadu_si256(window.as_ptr().cast())) };
    let is_last = _mm256_cmpeq_epi16(places(), place_of_last(list));
    _mm256_or_si256(items, _mm256_and_si256(is_last, _mm256_set1_epi16(last.cast_signed())))
}

/// Items, and the mark for the end behind them.
#[target_feature(enable = "avx2")]
#[inline]
fn load_marked(list: &[u16]) -> [__m128i; 2] {
    let items = _mm256_or_si256(load(list), _mm256_cmpgt_epi16(places(), place_of_last(list)));
    [_mm256_castsi256_si128(items), _mm256_extracti128_si256::<1>(items)]
}

/// The number of each lane.
#[target_feature(enable = "avx2")]
#[inline]
fn places() -> __m256i {
    _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
}

/// The lane of the last item in all lanes; -1 if there is none.
#[target_feature(enable = "avx2")]
#[inline]
#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "a list has 16 items at most")]
fn place_of_last(list: &[u16]) -> __m256i {
    _mm256_set1_epi16(list.len() as i16 - 1)
}

/// The items of `a` that are in `b`, or that are not; none is 0.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
pub(super) fn pick<const IN_BOTH: bool>(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    let (ours, theirs) = (load(a), load(b));
    let [low, high] = [_mm256_castsi256_si128(ours), _mm256_extracti128_si256::<1>(ours)];
    let others = [_mm256_castsi256_si128(theirs), _mm256_extracti128_si256::<1>(theirs)];
    let found = |items| others.into_iter().fold(0, |found, others| found | found_in(items, others));
    let found = found(low) | found(high) << LANES;
    let gone = if IN_BOTH { !found } else { found | usize::MAX << a.len() };
    let mut count = 0;
    for (items, gone) in [(low, gone & 0xff), (high, gone >> LANES & 0xff)] {
        count += put(items, gone, &mut out[count..]);
    }
    count
}

/// The items of both lists once, or those that are in one of them only if `XOR`; none is the last position.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
pub(super) fn merge<const XOR: bool>(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    let none = _mm_set1_epi16(-1);
    let ([x, y], [z, w]) = (load_marked(a), load_marked(b));
    let mut sorted = [x, y, z, w];
    unite_halves::<2>(&mut sorted);
    let [x, y, z, w] = sorted;
    let mut count = 0;
    for (before, items, after) in [(none, x, y), (x, y, z), (y, z, w), (z, w, none)] {
        let repeats = _mm_cmpeq_epi16(_mm_alignr_epi8::<14>(items, before), items);
        let is_repeated = _mm_cmpeq_epi16(_mm_alignr_epi8::<2>(after, items), items);
        let gone = if XOR { _mm_or_si128(repeats, is_repeated) } else { repeats };
        let gone = _mm_movemask_epi8(_mm_packs_epi16(gone, _mm_setzero_si128())).cast_unsigned() as usize;
        count += put(items, gone, &mut out[count..]);
    }
    // A mark may be left, and stands behind all items.
    count - usize::from(count > 0 && out[count - 1] == u16::MAX)
}

/// Stores the lanes that are not in `gone`; their number.
#[target_feature(enable = "avx2,popcnt")]
#[inline]
fn put(items: __m128i, gone: usize, out: &mut [u16]) -> usize {
    let room: &mut [u16] = &mut out[..LANES];
    // SAFETY: 16 bytes are writable, and the store needs no alignment.
    unsafe { _mm_storeu_si128(room.as_mut_ptr().cast(), packed(items, gone)) };
    LANES - gone.count_ones() as usize
}
