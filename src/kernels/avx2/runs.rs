//! Owns the union of few runs in 128-bit registers. Must never be reached on a CPU without AVX2 and POPCNT.

use super::lists::{LANES, load, sort_groups, store_packed};
use crate::kernels::portable::Groups;
use crate::kernels::table::{FEW_RUNS, Pair};
use std::arch::x86_64::*;

/// Sorts where runs begin and where they end, each by itself: a run of the union begins at the n-th beginning if the first
/// n runs have ended before.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
pub(super) fn unite_few_runs(runs: &[&[Pair]], bits: &[&[u16]], out: &mut [Pair]) -> usize {
    let Groups { firsts, lasts, groups, runs } = Groups::new(runs, bits);
    if runs == 0 {
        return 0;
    }
    let none = _mm_set1_epi16(-1);
    let mut begins: [__m128i; FEW_RUNS] = [none; FEW_RUNS];
    let mut ends: [__m128i; FEW_RUNS] = [none; FEW_RUNS];
    for index in 0..groups.min(FEW_RUNS) {
        begins[index] = load(&firsts[index]);
        ends[index] = load(&lasts[index]);
    }
    sort_groups(&mut begins, groups);
    sort_groups(&mut ends, groups);
    let mut first = [0; FEW_RUNS * LANES + LANES];
    let mut last = [0; FEW_RUNS * LANES + LANES];
    let mut count = 0;
    let mut before = none;
    for index in 0..runs.div_ceil(LANES) {
        let ended = _mm_alignr_epi8::<14>(ends[index], before);
        before = ends[index];
        let gap = _mm_subs_epu16(begins[index], _mm_adds_epu16(ended, _mm_set1_epi16(1)));
        let joined = _mm_cmpeq_epi16(gap, _mm_setzero_si128());
        let mut gone = (_mm_movemask_epi8(_mm_packs_epi16(joined, _mm_setzero_si128())) & 0xff) as usize;
        // Nothing has ended before the first; behind the last there is nothing.
        gone &= if index == 0 { !1 } else { !0 };
        gone |= if runs - index * LANES < LANES { 0xff << (runs - index * LANES) & 0xff } else { 0 };
        store_packed(begins[index], gone, &mut first[count..]);
        store_packed(ended, gone, &mut last[count..]);
        count += LANES - gone.count_ones() as usize;
    }
    let final_end = ends[(runs - 1) / LANES];
    let mut lanes = [[0; LANES]; 1];
    store_packed(final_end, 0, lanes.as_flattened_mut());
    last[count] = lanes[0][(runs - 1) % LANES];
    for (index, pair) in out[..count].iter_mut().enumerate() {
        *pair = [first[index], last[index + 1]];
    }
    count
}
