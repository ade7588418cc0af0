//! Owns the intersection and the difference of two sorted lists, written by hand as the compiler keeps them
//! scalar. Must never be reached on a CPU without AVX2 and POPCNT.
//!
//! Eight items of one list are compared with eight of the other by one instruction, each with each; then the list whose eight end
//! first goes on. Two halves of the lists take turns, as each step waits for the one before.

use super::lists::{LANES, fill_group, load, packed, store_packed};
use super::short::{self, SHORT};
use crate::kernels::portable;
use std::arch::x86_64::*;
use std::hint::select_unpredictable;

/// All lanes of a register.
const ALL: usize = 0xff;

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
    // The instruction that compares takes 0 for the end of a text.
    let (a_above, b_above) = (a.strip_prefix(&[0]), b.strip_prefix(&[0]));
    if a_above.is_some() || b_above.is_some() {
        let is_kept = a_above.is_some() && b_above.is_some() == IN_BOTH;
        out[0] = 0;
        let room = &mut out[usize::from(is_kept)..];
        return usize::from(is_kept) + pick_above::<IN_BOTH>(a_above.unwrap_or(a), b_above.unwrap_or(b), room);
    }
    pick_above::<IN_BOTH>(a, b, out)
}

/// [`pick`], where no item is 0.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
fn pick_above<const IN_BOTH: bool>(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    if a.len().max(b.len()) <= SHORT {
        return short::pick::<IN_BOTH>(a, b, out);
    }
    if a.len().min(b.len()) < SPLIT_MIN {
        return finish::<IN_BOTH>(Side::new(a, b), out);
    }
    let (low_a, high_a) = a.split_at(a.len() / 2);
    let (low_b, high_b) = b.split_at(b.partition_point(|&item| item < high_a[0]));
    let room = low_a.len() + 2 * LANES;
    let (lower, upper) = out.split_at_mut(room);
    let (mut low, mut high) = (Side::new(low_a, low_b), Side::new(high_a, high_b));
    step_both::<IN_BOTH>(&mut low, lower, &mut high, upper);
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

    /// How many steps it can take for certain: each goes on by eight of a list, or by eight of both.
    fn steps(&self) -> usize {
        self.a.len().min(self.b.len()) / LANES
    }

    /// Leaves behind what lies before `at`, which must be in the lists or at their ends.
    unsafe fn pass_to(&mut self, [a, b]: [*const u16; 2]) {
        // SAFETY: the caller says so.
        let (from_a, from_b) =
            unsafe { (a.offset_from_unsigned(self.a.as_ptr()), b.offset_from_unsigned(self.b.as_ptr())) };
        (self.a, self.b) = (&self.a[from_a..], &self.b[from_b..]);
    }
}

/// Takes two sides on together until either has less than eight of a list.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
fn step_both<const IN_BOTH: bool>(low: &mut Side<'_>, lower: &mut [u16], high: &mut Side<'_>, upper: &mut [u16]) {
    assert!(lower.len() >= low.a.len() + LANES && upper.len() >= high.a.len() + LANES);
    let (mut low_out, mut high_out) = (lower.as_mut_ptr(), upper.as_mut_ptr());
    let (low_start, high_start) = (low_out, high_out);
    // The last places at which eight items are stored.
    // SAFETY: both rooms have eight items or more.
    let (low_last, high_last) = unsafe { (low_out.add(lower.len() - LANES), high_out.add(upper.len() - LANES)) };
    loop {
        let steps = low.steps().min(high.steps());
        if steps == 0 {
            break;
        }
        let mut low_at = [low.a.as_ptr(), low.b.as_ptr()];
        let mut high_at = [high.a.as_ptr(), high.b.as_ptr()];
        for _ in 0..steps {
            // SAFETY: all four lists had `steps` blocks of eight, and a step passes one block of a list at most. The result of a
            // difference goes on by eight at most for each block of `a` that is passed, and there is room for all of `a` and a
            // block; that of an intersection stays before the last place.
            unsafe {
                step::<IN_BOTH>(&mut low_at, &mut low.found, &mut low_out, low_last);
                step::<IN_BOTH>(&mut high_at, &mut high.found, &mut high_out, high_last);
            }
        }
        // SAFETY: each step left the pointers in the lists, or at their ends.
        unsafe {
            low.pass_to(low_at);
            high.pass_to(high_at);
        }
    }
    // SAFETY: both pointers are into the same room, the later one not before the earlier.
    (low.count, high.count) =
        unsafe { (low_out.offset_from_unsigned(low_start), high_out.offset_from_unsigned(high_start)) };
}

/// Compares eight with eight, and stores those of the first that are picked.
///
/// Eight items must be readable at each of `at`, and eight writable at `out` and at `last`, which is not before it. `out` goes on
/// by eight at most: for a difference only where the first of `at` does. For an intersection it goes on at every step, and is held
/// back at `last`, whatever the lists hold.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
unsafe fn step<const IN_BOTH: bool>(at: &mut [*const u16; 2], found: &mut usize, out: &mut *mut u16, last: *mut u16) {
    let [a, b] = *at;
    // SAFETY: the caller says so; nothing needs alignment. The last items are read for themselves, as the compiler would take
    // them out of the registers, which takes longer, and each step waits for them.
    unsafe {
        let (ours, theirs) = (_mm_loadu_si128(a.cast()), _mm_loadu_si128(b.cast()));
        let (our_last, their_last) = (a.add(LANES - 1).read_volatile(), b.add(LANES - 1).read_volatile());
        let (ends, other_ends) = (our_last <= their_last, their_last <= our_last);
        *at = [select_unpredictable(ends, a.add(LANES), a), select_unpredictable(other_ends, b.add(LANES), b)];
        if IN_BOTH {
            // Each item is found once at most, so new ones come behind those that are stored.
            let gone = found_in(ours, theirs) ^ ALL;
            _mm_storeu_si128(out.cast(), packed(ours, gone));
            *out = out.add((gone ^ ALL).count_ones() as usize).min(last);
            return;
        }
        // Stored again and again until the eight are passed, as a jump would be guessed wrong too often.
        let known = *found | found_in(ours, theirs);
        _mm_storeu_si128(out.cast(), packed(ours, known));
        let kept = LANES - known.count_ones() as usize;
        *out = select_unpredictable(ends, out.add(kept), *out);
        *found = select_unpredictable(ends, 0, known);
    }
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
            found |= found_in(ours, theirs);
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

/// Which items of `x` are any of `y`, none of which is 0.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn found_in(x: __m128i, y: __m128i) -> usize {
    const ANY: i32 = _SIDD_UWORD_OPS | _SIDD_CMP_EQUAL_ANY | _SIDD_BIT_MASK;
    _mm_cvtsi128_si32(_mm_cmpistrm::<ANY>(y, x)).cast_unsigned() as usize
}
