//! Owns the loops over runs in 512-bit registers. Must never be reached on a CPU without AVX-512 with BW, DQ, VL and VBMI2.
//!
//! For the union of few runs, where runs begin and where they end is sorted, each by itself: a run of the union begins at the n-th beginning if the
//! first n runs have ended before.

use super::lists::{LANES, four, load, load_half, load_short, settle, sort_groups, store, turn};
use super::registers::EIGHT;
use crate::kernels::portable;
use crate::kernels::table::{FEW_RUNS, GROUP, Pair, SavedRun, Words};
use bytemuck::NoUninit;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// The registers that hold all groups.
const REGISTERS: usize = FEW_RUNS * GROUP / LANES;

/// The pairs of one register.
const PAIRS: usize = LANES / 2;

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
#[inline]
pub(super) fn unite_few_runs(runs: &[&[Pair]], bits: &[&[u16]], out: &mut [Pair]) -> usize {
    let (mut begins, mut ends) = ([none(); REGISTERS], [none(); REGISTERS]);
    let lens = || runs.iter().map(|list| list.len()).chain(bits.iter().map(|list| list.len()));
    let (count, longest) = (lens().sum::<usize>(), lens().max().unwrap_or(0));
    let registers = |len: usize| len.div_ceil(LANES);
    let whole: usize = lens().map(registers).sum();
    let half = registers(longest).next_power_of_two();
    let are_two = lens().count() == 2 && half <= REGISTERS / 2;
    let used = if are_two || whole <= REGISTERS {
        let step = |len: usize| if are_two { half } else { registers(len) };
        let mut from = 0;
        for list in runs {
            place_runs(list, &mut begins[from..], &mut ends[from..]);
            from += step(list.len());
        }
        for list in bits {
            place_bits(list, &mut begins[from..], &mut ends[from..]);
            from += step(list.len());
        }
        if are_two {
            unite_two(&mut begins, half);
            unite_two(&mut ends, half);
            return join(&begins, &ends, count, out);
        }
        whole
    } else {
        let mut groups = [([_mm_set1_epi16(-1); 4], [_mm_set1_epi16(-1); 4]); REGISTERS];
        let mut filled = 0;
        let mut place = |first: __m128i, last: __m128i| {
            let (firsts, lasts) = &mut groups[filled / 4];
            (firsts[filled % 4], lasts[filled % 4]) = (first, last);
            filled += 1;
        };
        for part in runs.iter().flat_map(|list| list.chunks(GROUP)) {
            let (firsts, lasts) = split(part);
            place(_mm512_castsi512_si128(firsts), _mm512_castsi512_si128(lasts));
        }
        for part in bits.iter().flat_map(|list| list.chunks(GROUP)) {
            let group = _mm512_castsi512_si128(load_short(part));
            place(group, group);
        }
        for ((begin, end), (firsts, lasts)) in begins.iter_mut().zip(&mut ends).zip(&groups) {
            (*begin, *end) = (sort_groups(four(firsts)), sort_groups(four(lasts)));
        }
        filled.div_ceil(4)
    };
    sort(&mut begins, used);
    sort(&mut ends, used);
    join(&begins, &ends, count, out)
}

/// The most runs of one list that are compared at a time.
const MOST: usize = REGISTERS / 2 * LANES;

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
#[inline]
pub(super) fn intersect_runs(a: &[Pair], b: &[Pair], out: &mut [Pair]) -> usize {
    portable::intersect_parts(a, b, MOST, out, |a, b, out| intersect_some(a, b, out))
}

/// What lies in runs of both lists, which have [`MOST`] runs each at most.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
#[inline]
fn intersect_some(a: &[Pair], b: &[Pair], out: &mut [Pair]) -> usize {
    let half = a.len().max(b.len()).div_ceil(LANES).next_power_of_two();
    let (mut begins, mut ends) = ([none(); REGISTERS], [none(); REGISTERS]);
    place_runs(a, &mut begins, &mut ends);
    place_runs(b, &mut begins[half..], &mut ends[half..]);
    let mut count = 0;
    common(&mut begins, &mut ends, half, a.len() + b.len(), |found, begin, end| {
        let (firsts, lasts) = (_mm512_maskz_compress_epi16(found, begin), _mm512_maskz_compress_epi16(found, end));
        let halves = [
            (_mm512_castsi512_si256(firsts), _mm512_castsi512_si256(lasts)),
            (_mm512_extracti64x4_epi64::<1>(firsts), _mm512_extracti64x4_epi64::<1>(lasts)),
        ];
        let out = &mut out[count..count + found.count_ones() as usize];
        for (part, (firsts, lasts)) in out.chunks_mut(PAIRS).zip(halves) {
            let lasts = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(lasts));
            let pairs = _mm512_or_si512(_mm512_cvtepu16_epi32(firsts), lasts);
            // SAFETY: only the lanes of the mask are written, which are as many as the part has pairs.
            unsafe { _mm512_mask_storeu_epi32(part.as_mut_ptr().cast(), lanes(part.len()), pairs) };
        }
        count += out.len();
    });
    count
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
#[inline]
pub(super) fn filter_by_runs(list: &[u16], runs: &[Pair], kept: bool, out: &mut [u16]) -> usize {
    portable::filter_parts::<MOST>(list, runs, kept, out, |list, runs, out| filter_some(list, runs, out))
}

/// The items that lie in runs. There are [`MOST`] of both at most.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
#[inline]
fn filter_some(list: &[u16], runs: &[Pair], out: &mut [u16]) -> usize {
    let half = list.len().max(runs.len()).div_ceil(LANES).next_power_of_two();
    let (mut begins, mut ends) = ([none(); REGISTERS], [none(); REGISTERS]);
    place_bits(list, &mut begins, &mut ends);
    place_runs(runs, &mut begins[half..], &mut ends[half..]);
    let mut count = 0;
    common(&mut begins, &mut ends, half, list.len() + runs.len(), |found, begin, _| {
        let out = &mut out[count..count + found.count_ones() as usize];
        #[allow(clippy::cast_possible_truncation, reason = "the number of lanes is small")]
        let lanes = _bzhi_u32(u32::MAX, out.len() as u32);
        // SAFETY: only the lanes of the mask are written, which are as many as there are items.
        unsafe { _mm512_mask_storeu_epi16(out.as_mut_ptr().cast(), lanes, _mm512_maskz_compress_epi16(found, begin)) };
        count += out.len();
    });
    count
}

/// Hands where the common parts of two lists begin and end to `take`, up to a register at a time and in order: a mask says
/// which lanes. The lists lie in the first `half` and the next `half` registers and have `count` runs, those of one list apart.
///
/// So at most two runs are open at a time: a common part begins at the n-th beginning if all but one of the runs that began
/// before have ended before, and lasts to the end that comes next.
#[target_feature(enable = "bmi2,avx512f,avx512bw")]
#[inline]
fn common(
    begins: &mut [__m512i; REGISTERS],
    ends: &mut [__m512i; REGISTERS],
    half: usize,
    count: usize,
    mut take: impl FnMut(u32, __m512i, __m512i),
) {
    unite_two(begins, half);
    unite_two(ends, half);
    let mut before = none();
    for (index, (&begin, &end)) in begins[..count.div_ceil(LANES)].iter().zip(&*ends).enumerate() {
        let next = _mm512_alignr_epi8::<14>(end, _mm512_alignr_epi64::<6>(end, before));
        before = end;
        // Nothing is open before the first; behind the last there is nothing.
        let is_first = u32::from(index == 0);
        #[allow(clippy::cast_possible_truncation, reason = "the number of lanes is small")]
        let there = _bzhi_u32(u32::MAX, (count - index * LANES).min(LANES) as u32) & !is_first;
        take(_mm512_cmple_epu16_mask(begin, next) & there, begin, next);
    }
}

/// Puts where runs begin and end into registers.
#[target_feature(enable = "bmi2,avx512f,avx512bw")]
#[inline]
fn place_runs(list: &[Pair], begins: &mut [__m512i], ends: &mut [__m512i]) {
    for ((part, begin), end) in list.chunks(LANES).zip(begins).zip(ends) {
        (*begin, *end) = split(part);
    }
}

/// Puts single bits, at which a run begins and ends, into registers.
#[target_feature(enable = "bmi2,avx512f,avx512bw")]
#[inline]
fn place_bits(list: &[u16], begins: &mut [__m512i], ends: &mut [__m512i]) {
    for ((part, begin), end) in list.chunks(LANES).zip(begins).zip(ends) {
        *begin = load_short(part);
        *end = *begin;
    }
}

/// Joins the first `count` beginnings and ends to runs that neither overlap nor touch; their number.
#[target_feature(enable = "bmi2,popcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
#[inline]
fn join(begins: &[__m512i; REGISTERS], ends: &[__m512i; REGISTERS], count: usize, out: &mut [Pair]) -> usize {
    let Some(last_place) = count.checked_sub(1) else { return 0 };
    let mut firsts = [0; REGISTERS * LANES + LANES];
    // In front of each end of a run stands that of the run before.
    let mut lasts = [0; REGISTERS * LANES + LANES];
    let (mut runs, mut before) = (0, none());
    for (index, (&begin, &end)) in begins[..count.div_ceil(LANES)].iter().zip(ends).enumerate() {
        let ended = _mm512_alignr_epi8::<14>(end, _mm512_alignr_epi64::<6>(end, before));
        before = end;
        let gaps = _mm512_subs_epu16(begin, _mm512_adds_epu16(ended, _mm512_set1_epi16(1)));
        // Nothing has ended before the first; behind the last there is nothing.
        let is_first = u32::from(index == 0);
        #[allow(clippy::cast_possible_truncation, reason = "the number of lanes is small")]
        let there = _bzhi_u32(u32::MAX, (count - index * LANES).min(LANES) as u32);
        let starts = (_mm512_test_epi16_mask(gaps, gaps) | is_first) & there;
        store(_mm512_maskz_compress_epi16(starts, begin), &mut firsts[runs..]);
        store(_mm512_maskz_compress_epi16(starts, ended), &mut lasts[runs..]);
        runs += starts.count_ones() as usize;
    }
    let mut lanes = [0; LANES];
    store(ends[last_place / LANES], &mut lanes);
    lasts[runs] = lanes[last_place % LANES];
    let blocks = out[..runs.next_multiple_of(PAIRS)].as_chunks_mut::<PAIRS>().0;
    for (index, block) in blocks.iter_mut().enumerate() {
        let firsts = load_half(&firsts[index * PAIRS..]);
        let lasts = load_half(&lasts[index * PAIRS + 1..]);
        let pairs =
            _mm512_or_si512(_mm512_cvtepu16_epi32(firsts), _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(lasts)));
        // SAFETY: the block is writable for 64 bytes, and the store needs no alignment.
        unsafe { _mm512_storeu_si512(block.as_mut_ptr().cast(), pairs) };
    }
    runs
}

/// The firsts and the lasts of a register of runs at most, filled up with the last position.
#[target_feature(enable = "bmi2,avx512f,avx512bw")]
#[inline]
fn split(runs: &[Pair]) -> (__m512i, __m512i) {
    let (low, high) = runs.split_at(runs.len().min(PAIRS));
    let (low, high) = (load_pairs(low), load_pairs(high));
    let firsts = load(&EVEN);
    let lasts = _mm512_add_epi16(firsts, _mm512_set1_epi16(1));
    (_mm512_permutex2var_epi16(low, firsts, high), _mm512_permutex2var_epi16(low, lasts, high))
}

/// Where the firsts are among the numbers of two registers of runs.
#[allow(clippy::cast_possible_truncation, reason = "there are 64 numbers")]
const EVEN: [u16; LANES] = {
    let mut even = [0; LANES];
    let mut lane = 0;
    while lane < LANES {
        even[lane] = 2 * lane as u16;
        lane += 1;
    }
    even
};

/// Sorts what the first `used` registers hold, each of them sorted; those behind them hold nothing that is smaller.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn sort(registers: &mut [__m512i; REGISTERS], used: usize) {
    if used > 1 {
        unite_halves::<1>(&mut registers[..used.next_multiple_of(2)]);
    }
    if used > 2 {
        unite_halves::<2>(&mut registers[..used.next_multiple_of(4)]);
    }
    if used > 4 {
        unite_halves::<4>(registers);
    }
}

/// Sorts what the first `half` and the next `half` registers hold, either half sorted; it is 1, 2 or 4.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn unite_two(registers: &mut [__m512i; REGISTERS], half: usize) {
    match half {
        1 => unite_halves::<1>(&mut registers[..2]),
        2 => unite_halves::<2>(&mut registers[..4]),
        _ => unite_halves::<4>(registers),
    }
}

/// Sorts each `2 * HALF` registers, of which either half is sorted.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn unite_halves<const HALF: usize>(registers: &mut [__m512i]) {
    for pair in registers.chunks_exact_mut(2 * HALF) {
        let (lower, upper) = pair.split_at_mut(HALF);
        upper.reverse();
        for (x, y) in lower.iter_mut().zip(upper) {
            let turned = turn(*y);
            (*x, *y) = (_mm512_min_epu16(*x, turned), _mm512_max_epu16(*x, turned));
        }
        let mut distance = HALF / 2;
        while distance > 0 {
            for index in (0..2 * HALF).filter(|index| index & distance == 0) {
                let (x, y) = (pair[index], pair[index + distance]);
                (pair[index], pair[index + distance]) = (_mm512_min_epu16(x, y), _mm512_max_epu16(x, y));
            }
            distance /= 2;
        }
        for register in pair {
            *register = settle(*register);
        }
    }
}

/// The filler of free lanes: the last position, which no other sorts behind.
#[target_feature(enable = "avx512f")]
#[inline]
fn none() -> __m512i {
    _mm512_set1_epi16(-1)
}

/// Half a register of runs at most, filled up with the last position.
#[target_feature(enable = "bmi2,avx512f")]
#[inline]
fn load_pairs(runs: &[Pair]) -> __m512i {
    #[allow(clippy::cast_possible_truncation, reason = "sixteen lanes are sixteen bits")]
    let lanes = _bzhi_u32(0xffff, runs.len().min(PAIRS) as u32) as u16;
    // SAFETY: only the lanes of the mask are read, which are no more than there are runs.
    unsafe { _mm512_mask_loadu_epi32(none(), lanes, runs.as_ptr().cast()) }
}

/// The words of one register, aligned as it is: else each store of one goes to two lines of the cache.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u64; EIGHT]);

/// Sets for each run what it has in the word in which it begins; what it has in the next one is set afterwards, from a list of
/// the runs that go on: a jump at each run would be guessed wrong too often.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
#[inline]
pub(super) fn scatter_runs(runs: &[Pair], words: &mut Words) {
    const BLOCKS: usize = 32;
    let mut masks = [MaybeUninit::<Line>::uninit(); BLOCKS];
    let mut going_on = [MaybeUninit::<Pair>::uninit(); EIGHT * BLOCKS];
    let (ones, last_bit) = (_mm512_set1_epi64(-1), _mm512_set1_epi64(63));
    let (blocks, rest) = runs.as_chunks::<EIGHT>();
    for blocks in blocks.chunks(BLOCKS) {
        let (mut count, mut longer) = (0, 0);
        for (block, masks) in blocks.iter().zip(&mut masks) {
            // SAFETY: the array is readable for 32 bytes, and the load needs no alignment.
            let pairs = unsafe { _mm256_loadu_si256(block.as_ptr().cast()) };
            let (first, last) = (_mm256_and_si256(pairs, _mm256_set1_epi32(0xffff)), _mm256_srli_epi32::<16>(pairs));
            let goes_on = _mm256_cmpgt_epu32_mask(_mm256_xor_si256(first, last), _mm256_set1_epi32(63));
            // Only a run of more than 65 bits has bits in a third word.
            longer |= _mm256_cmpgt_epu32_mask(_mm256_sub_epi32(last, first), _mm256_set1_epi32(64));
            let (first, last) = (_mm512_cvtepu32_epi64(first), _mm512_cvtepu32_epi64(last));
            let heads = _mm512_sllv_epi64(ones, _mm512_and_si512(first, last_bit));
            let tails = _mm512_srlv_epi64(ones, _mm512_andnot_si512(last, last_bit));
            let room: &mut [_] = &mut going_on[count..count + EIGHT];
            // SAFETY: 64 and 32 bytes are writable, and the stores need no alignment.
            unsafe {
                _mm512_storeu_si512(masks.as_mut_ptr().cast(), _mm512_mask_and_epi64(heads, !goes_on, heads, tails));
                _mm256_storeu_si256(room.as_mut_ptr().cast(), _mm256_maskz_compress_epi32(goes_on, pairs));
            }
            count += goes_on.count_ones() as usize;
        }
        for (block, masks) in blocks.iter().zip(&masks) {
            // SAFETY: as many were stored as there are blocks.
            let Line(masks) = unsafe { masks.assume_init_ref() };
            for (&[first, _], mask) in block.iter().zip(masks) {
                words[usize::from(first / 64)] |= mask;
            }
        }
        // SAFETY: `count` pairs were stored.
        let going_on = going_on[..count].iter().map(|pair| unsafe { pair.assume_init() });
        for [_, last] in going_on.clone() {
            words[usize::from(last / 64)] |= u64::MAX >> (63 - last % 64);
        }
        if longer != 0 {
            for [first, last] in going_on {
                let (next, to) = (usize::from(first / 64) + 1, usize::from(last / 64));
                if next < to {
                    words[next..to].fill(u64::MAX);
                }
            }
        }
    }
    portable::scatter_runs(rest, words);
}

/// As the portable body, sixteen runs at a time.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2")]
#[inline]
pub(super) fn apart_ones(runs: &[Pair]) -> Option<u32> {
    let mut sums = Sums::new();
    for block in (0..runs.len()).step_by(PAIRS).map(|from| &runs[from..]) {
        let (pairs, others, next) = load_with_next(block);
        sums.add(pairs, others, next);
    }
    sums.ones(runs.len())
}

/// As the portable body. The runs are not read again after the store, as a read would wait for it.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2")]
#[inline]
pub(super) fn load_runs(saved: &[SavedRun], out: &mut [Pair]) -> Option<u32> {
    let mut sums = Sums::new();
    let out = &mut out[..saved.len()];
    for from in (0..saved.len()).step_by(PAIRS) {
        let block = &saved[from..];
        let (saved, others, next) = load_with_next(block);
        let pairs = _mm512_add_epi32(saved, _mm512_slli_epi32::<16>(saved));
        let room = &mut out[from..];
        // SAFETY: only the lanes of the mask are written, which are no more than there is room for pairs.
        unsafe { _mm512_mask_storeu_epi32(room.as_mut_ptr().cast(), lanes(room.len()), pairs) }
        sums.add(pairs, others, next);
    }
    sums.ones(saved.len())
}

/// The first sixteen of some items of four bytes, those behind each of them, and for which of them there is one.
#[target_feature(enable = "avx512f")]
#[inline]
fn load_with_next<T: NoUninit>(block: &[T]) -> (__m512i, __m512i, __mmask16) {
    const { assert!(size_of::<T>() == 4) }
    let rest = block.get(1..).unwrap_or_default();
    let (here, next) = (lanes(block.len()), lanes(rest.len()));
    // SAFETY: only the lanes of the masks are read, which are no more than there are items, and items behind the first.
    let [items, others] = unsafe {
        [_mm512_maskz_loadu_epi32(here, block.as_ptr().cast()), _mm512_maskz_loadu_epi32(next, rest.as_ptr().cast())]
    };
    (items, others, next)
}

/// The positions of runs, and whether they are ascending, and neither overlap nor touch.
struct Sums {
    ones: __m512i,
    /// A lane below 0 is none of the two.
    wrong: __m512i,
}

impl Sums {
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn new() -> Self {
        Self { ones: _mm512_setzero_si512(), wrong: _mm512_setzero_si512() }
    }

    /// Adds runs, which are 0 in free lanes. In the lanes `next`, `others` begins with the first position of the run behind.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn add(&mut self, pairs: __m512i, others: __m512i, next: __mmask16) {
        let (low, two) = (_mm512_set1_epi32(0xffff), _mm512_set1_epi32(2));
        let last = _mm512_srli_epi32::<16>(pairs);
        let more = _mm512_sub_epi32(last, _mm512_and_si512(pairs, low));
        let gap = _mm512_sub_epi32(_mm512_sub_epi32(_mm512_and_si512(others, low), last), two);
        // A difference below 0 has the highest bit.
        self.wrong = _mm512_or_si512(self.wrong, more);
        self.wrong = _mm512_mask_or_epi32(self.wrong, next, self.wrong, gap);
        self.ones = _mm512_add_epi32(self.ones, more);
    }

    #[target_feature(enable = "avx512f,avx512dq")]
    #[inline]
    fn ones(&self, runs: usize) -> Option<u32> {
        #[allow(clippy::cast_possible_truncation, reason = "a chunk has 65536 bits")]
        let ones = _mm512_reduce_add_epi32(self.ones).cast_unsigned().wrapping_add(runs as u32);
        (_mm512_movepi32_mask(self.wrong) == 0).then_some(ones)
    }
}

/// The mask of the first `count` of sixteen lanes.
#[allow(clippy::cast_possible_truncation, reason = "there are 16 lanes")]
fn lanes(count: usize) -> u16 {
    (0xffff_u32 >> 16_usize.saturating_sub(count)) as u16
}
