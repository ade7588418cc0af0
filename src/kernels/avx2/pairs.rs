//! Owns the intersection and the difference of two sorted lists, written by hand as the compiler keeps them
//! scalar. Must never be reached on a CPU without AVX2 and POPCNT.
//!
//! Eight items of one list are compared with eight of the other at once, each with each; then the list whose eight end first
//! goes on. Two halves of the lists go side by side in the two halves of the registers, as each step waits for the one before.

use super::lists::{LANES, fill_group, load, store_packed};
use crate::kernels::portable;
use std::arch::x86_64::*;

/// Shorter lists are not cut in two halves.
const SPLIT_MIN: usize = 48;

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
pub(super) fn intersect(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    match portable::skewed(a, b) {
        Some(_) => portable::intersect(a, b, out),
        None => pick::<true>(a, b, out),
    }
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
pub(super) fn subtract(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    match portable::skewed(a, b) {
        Some((few, _)) if few.len() == a.len() => portable::subtract(a, b, out),
        _ => pick::<false>(a, b, out),
    }
}

/// The items of `a` that are in `b`, or that are not; `out` has room for all of `a`.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
fn pick<const IN_BOTH: bool>(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    if a.len().min(b.len()) < SPLIT_MIN {
        return finish::<IN_BOTH>(Side::new(a, b), out);
    }
    let (low_a, high_a) = a.split_at(a.len() / 2);
    let (low_b, high_b) = b.split_at(b.partition_point(|&item| item < high_a[0]));
    let room = low_a.len() + 2 * LANES;
    let (lower, upper) = out.split_at_mut(room);
    let (low, high) = step_both::<IN_BOTH>(Side::new(low_a, low_b), lower, Side::new(high_a, high_b), upper);
    let (lower, upper) = (finish::<IN_BOTH>(low, lower), finish::<IN_BOTH>(high, upper));
    out.copy_within(room..room + upper, lower);
    lower + upper
}

/// How far two lists have been compared.
struct Side<'a> {
    a: &'a [u16],
    b: &'a [u16],
    /// Which of the first eight of `a` have been found in the other.
    found: usize,
    /// The items that are stored.
    count: usize,
}

impl<'a> Side<'a> {
    fn new(a: &'a [u16], b: &'a [u16]) -> Self {
        Self { a, b, found: 0, count: 0 }
    }
}

/// Takes two sides on together until either has less than eight of a list.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
fn step_both<'a, const IN_BOTH: bool>(
    mut low: Side<'a>,
    lower: &mut [u16],
    mut high: Side<'a>,
    upper: &mut [u16],
) -> (Side<'a>, Side<'a>) {
    let blocks = |list: &'a [u16]| list.as_chunks::<LANES>().0;
    let (low_a, low_b, high_a, high_b) = (blocks(low.a), blocks(low.b), blocks(high.a), blocks(high.b));
    let (mut at_low_a, mut at_low_b, mut at_high_a, mut at_high_b) = (0, 0, 0, 0);
    while let (Some(x), Some(y), Some(z), Some(w)) =
        (low_a.get(at_low_a), low_b.get(at_low_b), high_a.get(at_high_a), high_b.get(at_high_b))
    {
        let (ours, theirs) = (_mm256_set_m128i(load(z), load(x)), _mm256_set_m128i(load(w), load(y)));
        let equal = _mm256_packs_epi16(equal_to_any(ours, theirs), _mm256_setzero_si256());
        let found = _mm256_movemask_epi8(equal).cast_unsigned() as usize;
        let (low_ends, high_ends) = (x[LANES - 1] <= y[LANES - 1], z[LANES - 1] <= w[LANES - 1]);
        if IN_BOTH {
            // Each item is found once at most, so new ones come behind those that are stored. Mostly none is found.
            if found != 0 {
                low.count += store::<IN_BOTH>(_mm256_castsi256_si128(ours), found & 0xff, &mut lower[low.count..]);
                let found = found >> 16 & 0xff;
                high.count += store::<IN_BOTH>(_mm256_extracti128_si256::<1>(ours), found, &mut upper[high.count..]);
            }
        } else {
            low.found |= found & 0xff;
            high.found |= found >> 16 & 0xff;
            // Stored again and again until the eight are passed: a jump would be guessed wrong too often.
            let stored = store::<IN_BOTH>(_mm256_castsi256_si128(ours), low.found, &mut lower[low.count..]);
            low.count += if low_ends { stored } else { 0 };
            low.found = if low_ends { 0 } else { low.found };
            let stored = store::<IN_BOTH>(_mm256_extracti128_si256::<1>(ours), high.found, &mut upper[high.count..]);
            high.count += if high_ends { stored } else { 0 };
            high.found = if high_ends { 0 } else { high.found };
        }
        at_low_b += usize::from(y[LANES - 1] <= x[LANES - 1]);
        at_high_b += usize::from(w[LANES - 1] <= z[LANES - 1]);
        at_low_a += usize::from(low_ends);
        at_high_a += usize::from(high_ends);
    }
    (low.a, low.b) = (&low.a[at_low_a * LANES..], &low.b[at_low_b * LANES..]);
    (high.a, high.b) = (&high.a[at_high_a * LANES..], &high.b[at_high_b * LANES..]);
    (low, high)
}

/// Compares the rest of two lists, and stores the picked items behind those that are stored; the number of all.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
fn finish<const IN_BOTH: bool>(side: Side<'_>, out: &mut [u16]) -> usize {
    let Side { mut a, mut b, mut found, mut count } = side;
    while let Some(last) = a.get(..a.len().min(LANES)).and_then(<[u16]>::last) {
        let (ours, len) = load_some(a, *last);
        while let Some(their_last) = b.get(..b.len().min(LANES)).and_then(<[u16]>::last) {
            let (theirs, their_len) = load_some(b, *their_last);
            let equal = equal_to_any(_mm256_castsi128_si256(ours), _mm256_castsi128_si256(theirs));
            let equal = _mm_packs_epi16(_mm256_castsi256_si128(equal), _mm_setzero_si128());
            found |= _mm_movemask_epi8(equal).cast_unsigned() as usize;
            if their_last > last {
                break;
            }
            b = &b[their_len..];
        }
        // Lanes behind the end of the list repeat its last item.
        let there = 0xff >> (LANES - len);
        let left_out = if IN_BOTH { !found & there } else { found & there };
        let room = &mut out[count..];
        store_packed(ours, left_out | !there & 0xff, room);
        count += len - left_out.count_ones() as usize;
        (a, found) = (&a[len..], 0);
    }
    count
}

/// The first eight items of a list that has some, and how many they are; free lanes repeat the last one.
#[target_feature(enable = "avx2")]
#[inline]
fn load_some(list: &[u16], last: u16) -> (__m128i, usize) {
    match list.first_chunk() {
        Some(block) => (load(block), LANES),
        None => {
            let mut block = [last; LANES];
            fill_group(&mut block, list);
            (load(&block), list.len())
        }
    }
}

/// Stores the lanes that were found, or those that were not; their number.
#[target_feature(enable = "avx2,popcnt")]
#[inline]
fn store<const FOUND: bool>(items: __m128i, found: usize, out: &mut [u16]) -> usize {
    let gone = if FOUND { !found & 0xff } else { found };
    store_packed(items, gone, out);
    LANES - gone.count_ones() as usize
}

/// In each half, which lanes of `x` are equal to any lane of `y`.
#[target_feature(enable = "avx2")]
#[inline]
fn equal_to_any(x: __m256i, y: __m256i) -> __m256i {
    macro_rules! equal {
        ($($bytes:literal)*) => {
            [_mm256_cmpeq_epi16(x, y), $(_mm256_cmpeq_epi16(x, _mm256_alignr_epi8::<$bytes>(y, y)),)*]
        };
    }
    let [a, b, c, d, e, f, g, h] = equal!(2 4 6 8 10 12 14);
    let (ab, cd) = (_mm256_or_si256(a, b), _mm256_or_si256(c, d));
    let (ef, gh) = (_mm256_or_si256(e, f), _mm256_or_si256(g, h));
    _mm256_or_si256(_mm256_or_si256(ab, cd), _mm256_or_si256(ef, gh))
}
