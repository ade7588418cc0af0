//! Owns the loops over runs in 128-bit registers. Must never be reached on a CPU without AVX2 and POPCNT.
//!
//! Where runs begin and where they end is sorted, each by itself. A run of a union begins at the n-th beginning if the first n
//! runs have ended before; a part that two lists have in common, if all but one of them have.

use super::lists::{LANES, fill_group, load, merge_both, packed, sort_groups, store_packed};
use crate::kernels::portable::{self, Groups};
use crate::kernels::table::{FEW_RUNS, Pair};
use std::arch::x86_64::*;
use std::hint::select_unpredictable;

/// All lanes of a register.
const ALL: usize = 0xff;

/// The pairs of one register.
const PAIRS: usize = LANES / 2;

/// The most groups that one of two lists takes, and the most runs that are compared at a time.
const GROUPS: usize = FEW_RUNS;
const MOST: usize = GROUPS * LANES;

/// One of two lists, of [`MOST`] runs or single positions at most.
#[derive(Clone, Copy)]
enum Side<'a> {
    Runs(&'a [Pair]),
    Bits(&'a [u16]),
}

impl Side<'_> {
    #[inline(always)]
    fn len(self) -> usize {
        match self {
            Self::Runs(list) => list.len(),
            Self::Bits(list) => list.len(),
        }
    }

    /// The last position.
    #[inline(always)]
    fn end(self) -> Option<u16> {
        match self {
            Self::Runs(list) => list.last().map(|run| run[1]),
            Self::Bits(list) => list.last().copied(),
        }
    }
}

/// Where the runs of a list begin, or where they end, in groups: behind the last one stands a group of the last position, which
/// no other sorts behind.
type Bounds<const ROOM: usize> = [[u16; LANES]; ROOM];

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
pub(super) fn unite_few_runs(runs: &[&[Pair]], bits: &[&[u16]], out: &mut [Pair]) -> usize {
    let two = match (runs, bits) {
        (&[a, b], []) => Some((Side::Runs(a), Side::Runs(b))),
        (&[a], &[b]) => Some((Side::Runs(a), Side::Bits(b))),
        _ => None,
    };
    match two {
        Some((a, b)) if a.len() + b.len() <= MOST => unite_two(a, b, out),
        _ => unite_groups(runs, bits, out),
    }
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
pub(super) fn unite_runs(a: &[Pair], b: &[Pair], out: &mut [Pair]) -> usize {
    portable::unite_parts(a, b, MOST / 2, out, |a, b, out| unite_two(Side::Runs(a), Side::Runs(b), out))
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
pub(super) fn intersect_runs(a: &[Pair], b: &[Pair], out: &mut [Pair]) -> usize {
    portable::intersect_parts(a, b, MOST, out, |a, b, out| intersect_two(a, b, out))
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
pub(super) fn filter_by_runs(list: &[u16], runs: &[Pair], kept: bool, out: &mut [u16]) -> usize {
    portable::filter_parts::<MOST>(list, runs, kept, out, |list, runs, out| filter_two(list, runs, out))
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
fn unite_two(a: Side<'_>, b: Side<'_>, out: &mut [Pair]) -> usize {
    let Some(end) = a.end().max(b.end()) else { return 0 };
    let mut union = Union::new();
    walk(a, b, |begins, ended, there, is_first| union.add(begins, ended, there, is_first));
    union.finish(end, out)
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
fn unite_groups(runs: &[&[Pair]], bits: &[&[u16]], out: &mut [Pair]) -> usize {
    let Groups { firsts, lasts, groups, runs } = Groups::new(runs, bits);
    let Some(last_place) = runs.checked_sub(1) else { return 0 };
    let mut begins: [__m128i; FEW_RUNS] = [none(); FEW_RUNS];
    let mut ends: [__m128i; FEW_RUNS] = [none(); FEW_RUNS];
    for index in 0..groups.min(FEW_RUNS) {
        begins[index] = load(&firsts[index]);
        ends[index] = load(&lasts[index]);
    }
    sort_groups(&mut begins, groups);
    sort_groups(&mut ends, groups);
    let (mut union, mut before) = (Union::new(), none());
    for (index, (&begin, &end)) in begins[..=last_place / LANES].iter().zip(&ends).enumerate() {
        union.add(begin, _mm_alignr_epi8::<14>(end, before), first_lanes(runs - index * LANES), index == 0);
        before = end;
    }
    let mut lanes = [0; LANES];
    store_packed(before, 0, &mut lanes);
    union.finish(lanes[last_place % LANES], out)
}

/// What lies in runs of both lists.
///
/// The runs of one list are apart, so at most two runs are open at a time: a common part begins at the n-th beginning if all but
/// one of the runs that began before have ended before, and lasts to the end that comes next.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
fn intersect_two(a: &[Pair], b: &[Pair], out: &mut [Pair]) -> usize {
    let mut count = 0;
    walk(Side::Runs(a), Side::Runs(b), |begins, ends, there, is_first| {
        let gone = apart(begins, ends, there, is_first);
        store_pairs(packed(begins, gone), packed(ends, gone), &mut out[count..]);
        count += LANES - gone.count_ones() as usize;
    });
    count
}

/// The items that lie in runs.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
fn filter_two(list: &[u16], runs: &[Pair], out: &mut [u16]) -> usize {
    let mut count = 0;
    walk(Side::Bits(list), Side::Runs(runs), |begins, ends, there, is_first| {
        let gone = apart(begins, ends, there, is_first);
        store_packed(begins, gone, &mut out[count..]);
        count += LANES - gone.count_ones() as usize;
    });
    count
}

/// The lanes at which no common part begins, as the end that comes next lies before; nothing is open before the first run.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
fn apart(begins: __m128i, ends: __m128i, there: usize, is_first: bool) -> usize {
    let is_common = lanes_of(_mm_cmpeq_epi16(_mm_max_epu16(begins, ends), ends));
    !(is_common & there & !usize::from(is_first)) & ALL
}

/// Hands where the runs of both lists begin to `take`, eight at a time and in order; for the n-th beginning also the end before
/// the n-th, which the first one has none of; which lanes there are; and whether they are the first.
///
/// Beginnings lie in the lower and ends in the upper halves of registers. Eight of a list at a time go through a bitonic network
/// together with the eight largest before them; the eight smallest that come out are final.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
fn walk(a: Side<'_>, b: Side<'_>, take: impl FnMut(__m128i, __m128i, usize, bool)) {
    // Short lists need less room, which has to be filled first.
    match a.len().max(b.len()).div_ceil(LANES) {
        ..=3 => walk_in::<4>(a, b, take),
        4..=15 => walk_in::<16>(a, b, take),
        _ => walk_in::<{ GROUPS + 1 }>(a, b, take),
    }
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
fn walk_in<const ROOM: usize>(a: Side<'_>, b: Side<'_>, mut take: impl FnMut(__m128i, __m128i, usize, bool)) {
    let mut rooms = [[[u16::MAX; LANES]; ROOM]; 4];
    let [our_begins, our_ends, their_begins, their_ends] = &mut rooms;
    let (our_begins, our_ends) = a.bounds(our_begins, our_ends);
    let (their_begins, their_ends) = b.bounds(their_begins, their_ends);
    let last = [a.len().div_ceil(LANES), b.len().div_ceil(LANES)];
    let mut begins = Feed { groups: [our_begins, their_begins], at: [1, 1], last };
    let mut ends = Feed { groups: [our_ends, their_ends], at: [1, 1], last };
    let first = |list: usize| _mm256_set_m128i(load(&ends.groups[list][0]), load(&begins.groups[list][0]));
    let (mut smallest, mut largest) = merge_both(first(0), first(1));
    let count = a.len() + b.len();
    let mut before = none();
    for from in (0..count).step_by(LANES) {
        let (begin, end) = (_mm256_castsi256_si128(smallest), _mm256_extracti128_si256::<1>(smallest));
        take(begin, _mm_alignr_epi8::<14>(end, before), first_lanes(count - from), from == 0);
        before = end;
        let next = (load(begins.next()), load(ends.next()));
        (smallest, largest) = merge_both(_mm256_set_m128i(next.1, next.0), largest);
    }
}

/// The groups of two lists in the order of their first items.
#[derive(Clone, Copy)]
struct Feed<'a, const ROOM: usize> {
    groups: [&'a Bounds<ROOM>; 2],
    /// The group of each list that comes next, and its last one.
    at: [usize; 2],
    last: [usize; 2],
}

impl<'a, const ROOM: usize> Feed<'a, ROOM> {
    #[inline(always)]
    fn next(&mut self) -> &'a [u16; LANES] {
        let [a, b] = [0, 1].map(|list| &self.groups[list][self.at[list].min(ROOM - 1)]);
        let is_a = a[0] <= b[0];
        self.at[0] = (self.at[0] + usize::from(is_a)).min(self.last[0]);
        self.at[1] = (self.at[1] + usize::from(!is_a)).min(self.last[1]);
        select_unpredictable(is_a, a, b)
    }
}

impl Side<'_> {
    /// Where it begins and ends; the rooms hold the last position everywhere.
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
    #[inline]
    fn bounds<'r, const ROOM: usize>(
        self,
        begins: &'r mut Bounds<ROOM>,
        ends: &'r mut Bounds<ROOM>,
    ) -> (&'r Bounds<ROOM>, &'r Bounds<ROOM>) {
        match self {
            Side::Runs(list) => {
                let (blocks, rest) = list.as_chunks::<LANES>();
                for ((block, begin), end) in blocks.iter().zip(&mut *begins).zip(&mut *ends) {
                    split(block, begin, end);
                }
                if !rest.is_empty() {
                    split(&filled(rest), &mut begins[blocks.len()], &mut ends[blocks.len()]);
                }
                (begins, ends)
            }
            Side::Bits(list) => {
                let (blocks, rest) = list.as_chunks::<LANES>();
                for (block, begin) in blocks.iter().zip(&mut *begins) {
                    *begin = *block;
                }
                if !rest.is_empty() {
                    fill_group(&mut begins[blocks.len()], rest);
                }
                (begins, begins)
            }
        }
    }
}

/// Less than a register of runs, filled up with the last position; without a loop whose end would be guessed wrong most often.
#[inline(always)]
fn filled(runs: &[Pair]) -> [Pair; LANES] {
    let mut block = [[u16::MAX; 2]; LANES];
    if let (Some(head), Some(tail)) = (runs.first_chunk::<PAIRS>(), runs.last_chunk::<PAIRS>()) {
        block[..PAIRS].copy_from_slice(head);
        block[runs.len() - PAIRS..runs.len()].copy_from_slice(tail);
    } else if let [first, .., last] = runs {
        (block[0], block[runs.len() / 2], block[runs.len() - 1]) = (*first, runs[runs.len() / 2], *last);
    } else if let [only] = runs {
        block[0] = *only;
    }
    block
}

/// Takes runs apart.
#[target_feature(enable = "avx2")]
#[inline]
fn split(runs: &[Pair; LANES], begins: &mut [u16; LANES], ends: &mut [u16; LANES]) {
    let first = _mm_set1_epi32(0xffff);
    // SAFETY: the runs are readable for 32 bytes, and each room is writable for 16; nothing needs alignment.
    unsafe {
        let low = _mm_loadu_si128(runs.as_ptr().cast());
        let high = _mm_loadu_si128(runs[PAIRS..].as_ptr().cast());
        let firsts = _mm_packus_epi32(_mm_and_si128(low, first), _mm_and_si128(high, first));
        let lasts = _mm_packus_epi32(_mm_srli_epi32::<16>(low), _mm_srli_epi32::<16>(high));
        _mm_storeu_si128(begins.as_mut_ptr().cast(), firsts);
        _mm_storeu_si128(ends.as_mut_ptr().cast(), lasts);
    }
}

/// A union on its way: runs that neither overlap nor touch.
struct Union {
    firsts: [u16; FEW_RUNS * LANES + LANES],
    /// In front of each end of a run stands that of the run before.
    lasts: [u16; FEW_RUNS * LANES + LANES],
    runs: usize,
}

impl Union {
    fn new() -> Self {
        Self { firsts: [0; FEW_RUNS * LANES + LANES], lasts: [0; FEW_RUNS * LANES + LANES], runs: 0 }
    }

    /// Adds the runs that begin at one of the beginnings, where the end before it is not near.
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
    #[inline]
    fn add(&mut self, begins: __m128i, ended: __m128i, there: usize, is_first: bool) {
        let gap = _mm_subs_epu16(begins, _mm_adds_epu16(ended, _mm_set1_epi16(1)));
        let goes_on = lanes_of(_mm_cmpeq_epi16(gap, _mm_setzero_si128())) & !usize::from(is_first);
        let gone = goes_on | !there & ALL;
        store_packed(begins, gone, &mut self.firsts[self.runs..]);
        store_packed(ended, gone, &mut self.lasts[self.runs..]);
        self.runs += LANES - gone.count_ones() as usize;
    }

    /// The last run ends at `end`; the number of all.
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
    #[inline]
    fn finish(mut self, end: u16, out: &mut [Pair]) -> usize {
        self.lasts[self.runs] = end;
        for from in (0..self.runs).step_by(LANES) {
            let (firsts, lasts) = (self.firsts[from..].first_chunk(), self.lasts[from + 1..].first_chunk());
            let (Some(firsts), Some(lasts)) = (firsts, lasts) else { break };
            store_pairs(load(firsts), load(lasts), &mut out[from..]);
        }
        self.runs
    }
}

/// The filler of free lanes: the last position, which no other sorts behind.
#[target_feature(enable = "avx2")]
#[inline]
fn none() -> __m128i {
    _mm_set1_epi16(-1)
}

/// The first `count` lanes, or all.
#[inline(always)]
fn first_lanes(count: usize) -> usize {
    ALL >> LANES.saturating_sub(count)
}

/// The lanes of a comparison that hold.
#[target_feature(enable = "avx2")]
#[inline]
fn lanes_of(compared: __m128i) -> usize {
    (_mm_movemask_epi8(_mm_packs_epi16(compared, _mm_setzero_si128())) as usize) & ALL
}

/// Stores eight pairs.
#[target_feature(enable = "avx2")]
#[inline]
fn store_pairs(firsts: __m128i, lasts: __m128i, out: &mut [Pair]) {
    let room: &mut [Pair] = &mut out[..LANES];
    // SAFETY: `room` is writable for 32 bytes, and the stores need no alignment.
    unsafe {
        _mm_storeu_si128(room.as_mut_ptr().cast(), _mm_unpacklo_epi16(firsts, lasts));
        _mm_storeu_si128(room[PAIRS..].as_mut_ptr().cast(), _mm_unpackhi_epi16(firsts, lasts));
    }
}
