//! Owns the intersection and the difference of two sorted lists that take more than a register. Must never be reached on a CPU
//! without AVX-512 with BW, VL and VBMI2.
//!
//! Sixteen items of one list are compared with sixteen of the other, each with each, in eight steps; then the list whose
//! sixteen end first goes on. No jump depends on the items, as it would be guessed wrong at every other step.

use crate::kernels::portable;
use std::arch::x86_64::*;
use std::hint::select_unpredictable;

/// The items of one list that are compared at a time: half a register.
const LANES: usize = 16;

#[target_feature(enable = "bmi2,popcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
#[inline]
pub(super) fn intersect(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    match portable::skewed(a, b) {
        Some(_) => portable::intersect(a, b, out),
        None => pick::<true>(a, b, out),
    }
}

#[target_feature(enable = "bmi2,popcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
#[inline]
pub(super) fn subtract(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    match portable::skewed(a, b) {
        Some((few, _)) if few.len() == a.len() => portable::subtract(a, b, out),
        _ => pick::<false>(a, b, out),
    }
}

/// The items of `a` that are in `b`, or those that are not; their number. `out` has room for all of `a` and a block.
#[target_feature(enable = "bmi2,popcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
#[inline]
fn pick<const IN_BOTH: bool>(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    let (mut at, mut their_at, mut count) = (0, 0, 0);
    // Which of the sixteen at `at` were found in blocks of the other list that are passed.
    let mut found = 0;
    while let (Some(ours), Some(theirs)) = (a[at..].first_chunk(), b[their_at..].first_chunk()) {
        let items = load(ours);
        let now = found_in(items, load(theirs));
        let (last, their_last) = (last_of(ours), last_of(theirs));
        let (ends, theirs_end) = (last <= their_last, their_last <= last);
        if IN_BOTH {
            // Each item is found once at most, so new ones come behind those that are stored.
            store(now, items, &mut out[count..]);
            count += now.count_ones() as usize;
        } else {
            // Stored again and again until the sixteen are passed.
            found |= now;
            store(!found, items, &mut out[count..]);
            count += select_unpredictable(ends, LANES - found.count_ones() as usize, 0);
            found = select_unpredictable(ends, 0, found);
        }
        at += select_unpredictable(ends, LANES, 0);
        their_at += select_unpredictable(theirs_end, LANES, 0);
    }
    count + pick_rest::<IN_BOTH>(&a[at..], &b[their_at..], found, &mut out[count..])
}

/// The end of [`pick`], where one of the lists has less than a block.
#[target_feature(enable = "bmi2,popcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
#[inline]
fn pick_rest<const IN_BOTH: bool>(a: &[u16], b: &[u16], found: u16, out: &mut [u16]) -> usize {
    let (mut rest, mut theirs, mut found, mut count) = (a, b, found, 0);
    while let Some((items, there, last)) = load_some(rest) {
        while let Some((others, _, their_last)) = load_some(theirs) {
            found |= found_in(items, others);
            if their_last > last {
                break;
            }
            theirs = theirs.get(LANES..).unwrap_or_default();
        }
        let picked = if IN_BOTH { found & there } else { !found & there };
        store(picked, items, &mut out[count..]);
        count += picked.count_ones() as usize;
        (rest, found) = (rest.get(LANES..).unwrap_or_default(), 0);
    }
    count
}

/// The first items of a list that has some, which of the lanes they are, and the last of them, which the free lanes repeat.
#[target_feature(enable = "bmi2,avx512f,avx512bw,avx512vl")]
#[inline]
fn load_some(list: &[u16]) -> Option<(__m256i, u16, u16)> {
    let last = *list[..list.len().min(LANES)].last()?;
    #[allow(clippy::cast_possible_truncation, reason = "sixteen lanes are sixteen bits")]
    let there = _bzhi_u32(0xffff, list.len().min(LANES) as u32) as u16;
    // SAFETY: only the lanes of the mask are read, which are no more than there are items.
    let items = unsafe { _mm256_mask_loadu_epi16(_mm256_set1_epi16(last.cast_signed()), there, list.as_ptr().cast()) };
    Some((items, there, last))
}

/// Which items of `x` are any of `y`.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn found_in(x: __m256i, y: __m256i) -> u16 {
    // The low half of a register has each eight of `x` beside the same eight of `y`, the high half beside the others.
    let x = _mm512_broadcast_i64x4(x);
    let y = _mm512_shuffle_i64x2::<0b00_01_01_00>(_mm512_castsi256_si512(y), _mm512_castsi256_si512(y));
    // In eight steps each item meets each of eight: pairs of items turn around, and the two of a pair change places.
    let pairs = [
        y,
        _mm512_shuffle_epi32::<0b00_11_10_01>(y),
        _mm512_shuffle_epi32::<0b01_00_11_10>(y),
        _mm512_shuffle_epi32::<0b10_01_00_11>(y),
    ];
    let mut least = _mm512_set1_epi16(-1);
    for y in pairs {
        least = _mm512_min_epu16(least, _mm512_xor_si512(x, y));
        least = _mm512_min_epu16(least, _mm512_xor_si512(x, _mm512_rol_epi32::<16>(y)));
    }
    let apart = _mm512_test_epi16_mask(least, least);
    #[allow(clippy::cast_possible_truncation, reason = "the halves of the mask are put together")]
    let found = !(apart & apart >> LANES) as u16;
    found
}

/// The last item, read for itself: the compiler would take it out of the register, which takes longer, and each step waits for it.
#[inline(always)]
fn last_of(block: &[u16; LANES]) -> u16 {
    let [.., last] = block;
    // SAFETY: the pointer comes from a reference, so it is valid and aligned.
    unsafe { std::ptr::from_ref(last).read_volatile() }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(block: &[u16; LANES]) -> __m256i {
    // SAFETY: the array is readable for 32 bytes, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(block.as_ptr().cast()) }
}

/// Stores the chosen items, and zeros behind them.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2")]
#[inline]
fn store(chosen: u16, items: __m256i, room: &mut [u16]) {
    let room: &mut [u16] = &mut room[..LANES];
    // SAFETY: the slice is writable for 32 bytes, and the store needs no alignment.
    unsafe { _mm256_storeu_si256(room.as_mut_ptr().cast(), _mm256_maskz_compress_epi16(chosen, items)) }
}
