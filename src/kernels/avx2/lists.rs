//! Owns the union of two sorted lists in 128-bit registers, written by hand as the compiler keeps it scalar. Must never be
//! reached on a CPU without AVX2 and POPCNT.
//!
//! Eight items of the lists at a time go through a bitonic network together with the eight largest before them; the eight
//! smallest that come out are final and are packed to the left without those that repeat the item before.

use super::short::{self, SHORT};
use crate::kernels::portable;
use crate::kernels::table::{FEW, GROUP};
use std::arch::x86_64::*;
use std::hint::select_unpredictable;

/// The items of one register.
pub(super) const LANES: usize = GROUP;

/// The levels of the network that merges two registers: the logarithm of their lanes.
const LEVELS: u32 = (2 * LANES).trailing_zeros();

/// Lists of this many items or more are cut in two halves.
const SPLIT_MIN: usize = 64;

/// For each set of lanes to leave out, the bytes to keep, packed to the left. No row lies in two lines of the cache.
static PACK: Rows = pack();

#[repr(align(64))]
struct Rows([[u8; 16]; 256]);

#[allow(clippy::cast_possible_truncation, reason = "bytes of a register are below 16")]
const fn pack() -> Rows {
    let mut table = [[0x80; 16]; 256];
    let mut gone = 0;
    while gone < 256 {
        let (mut lane, mut place) = (0, 0);
        while lane < LANES {
            if gone >> lane & 1 == 0 {
                table[gone][place] = 2 * lane as u8;
                table[gone][place + 1] = 2 * lane as u8 + 1;
                place += 2;
            }
            lane += 1;
        }
        gone += 1;
    }
    Rows(table)
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
pub(super) fn unite(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    // The mark for the end cannot be an item of the networks.
    let (a_below, b_below) = (a.strip_suffix(&[u16::MAX]), b.strip_suffix(&[u16::MAX]));
    if a_below.is_some() || b_below.is_some() {
        let count = unite(a_below.unwrap_or(a), b_below.unwrap_or(b), out);
        out[count] = u16::MAX;
        return count + 1;
    }
    if let Some((few, many)) = portable::skewed(a, b) {
        return portable::unite_few(few, many, out);
    }
    if a.len() > SHORT && b.len() > SHORT || a.len() + b.len() > FEW - 2 * LANES {
        return merge_lists::<false>(a, b, out);
    }
    if a.len().max(b.len()) <= SHORT {
        return short::merge::<false>(a, b, out);
    }
    sort_few(&[a, b], out)
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
pub(super) fn xor_lists(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    let (a_below, b_below) = (a.strip_suffix(&[u16::MAX]), b.strip_suffix(&[u16::MAX]));
    let (below, other_below) = (a_below.unwrap_or(a), b_below.unwrap_or(b));
    let is_short = below.len().max(other_below.len()) <= SHORT;
    let count = if is_short { short::merge::<true> } else { merge_lists::<true> }(below, other_below, out);
    out[count] = u16::MAX;
    count + usize::from(a_below.is_some() != b_below.is_some())
}

/// Merges two lists; what they have in common is there once, or not at all if `XOR`.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
fn merge_lists<const XOR: bool>(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    let one_by_one = if XOR { portable::xor_lists } else { portable::unite_evenly };
    assert!(out.len() >= a.len() + b.len() + 4 * LANES);
    if a.len().min(b.len()) < SPLIT_MIN {
        return match Stream::<XOR>::new(a, b) {
            Some(stream) => stream.finish(out),
            None => one_by_one(a, b, out),
        };
    }
    // Two halves at a time, side by side in the same registers.
    let middle = a.len() / 2;
    let (low_a, high_a) = a.split_at(middle);
    let (low_b, high_b) = b.split_at(b.partition_point(|&item| item < high_a[0]));
    let room = low_a.len() + low_b.len() + 2 * LANES;
    let (Some(mut low), Some(mut high)) = (Stream::<XOR>::new(low_a, low_b), Stream::<XOR>::new(high_a, high_b)) else {
        let count = one_by_one(low_a, low_b, out);
        return count + one_by_one(high_a, high_b, &mut out[count..]);
    };
    let (lower, upper) = out.split_at_mut(room);
    step_both(&mut low, lower, &mut high, upper);
    let (lower, upper) = (low.finish(lower), high.finish(upper));
    out.copy_within(room..room + upper, lower);
    lower + upper
}

/// Takes two streams on together, one in the lower and one in the upper half of each register, until either has less than
/// eight of a list.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
fn step_both<const XOR: bool>(
    low: &mut Stream<'_, XOR>,
    lower: &mut [u16],
    high: &mut Stream<'_, XOR>,
    upper: &mut [u16],
) {
    let mut earlier = _mm256_set_m128i(high.earlier, low.earlier);
    let mut before = _mm256_set_m128i(high.before, low.before);
    let mut smallest = _mm256_set_m128i(high.low, low.low);
    let mut largest = _mm256_set_m128i(high.high, low.high);
    let (mut low_count, mut high_count) = (0, 0);
    loop {
        // Every step takes a block of one list of each stream, so no list can end within `steps` steps.
        let left = [low.left(), high.left()].into_iter().flatten().min();
        let steps = left.unwrap_or(0);
        if steps == 0 {
            break;
        }
        assert!(lower.len() >= low_count + LANES * (steps + 1) && upper.len() >= high_count + LANES * (steps + 1));
        let (mut low_a, mut low_b) = (low.blocks_a[low.next_a..].as_ptr(), low.blocks_b[low.next_b..].as_ptr());
        let (mut high_a, mut high_b) = (high.blocks_a[high.next_a..].as_ptr(), high.blocks_b[high.next_b..].as_ptr());
        let (first_low_a, first_high_a) = (low_a, high_a);
        for _ in 0..steps {
            let (items, repeats) = if XOR {
                // Whether an item is repeated is known only when the next one is there.
                let repeats = _mm256_cmpeq_epi16(_mm256_alignr_epi8::<14>(before, earlier), before);
                let is_repeated = _mm256_cmpeq_epi16(_mm256_alignr_epi8::<2>(smallest, before), before);
                (before, _mm256_or_si256(repeats, is_repeated))
            } else {
                (smallest, _mm256_cmpeq_epi16(_mm256_alignr_epi8::<14>(smallest, before), smallest))
            };
            let gone = _mm256_movemask_epi8(_mm256_packs_epi16(repeats, _mm256_setzero_si256()));
            let (gone_low, gone_high) = ((gone & 0xff) as usize, (gone >> 16 & 0xff) as usize);
            (earlier, before) = (before, smallest);
            // SAFETY: each of the four lists had `steps` blocks or more, one of two of which each step leaves behind; what
            // is stored is at most eight items a step behind the counts that the slices were found to have room for; rows
            // of the table are 16 bytes, and nothing needs alignment.
            unsafe {
                let keep = _mm256_set_m128i(
                    _mm_loadu_si128(PACK.0[gone_high].as_ptr().cast()),
                    _mm_loadu_si128(PACK.0[gone_low].as_ptr().cast()),
                );
                let packed = _mm256_shuffle_epi8(items, keep);
                _mm_storeu_si128(lower.as_mut_ptr().add(low_count).cast(), _mm256_castsi256_si128(packed));
                _mm_storeu_si128(upper.as_mut_ptr().add(high_count).cast(), _mm256_extracti128_si256::<1>(packed));
                let is_low_a = (*low_a)[0] <= (*low_b)[0];
                let is_high_a = (*high_a)[0] <= (*high_b)[0];
                let next_low = _mm_loadu_si128(select_unpredictable(is_low_a, low_a, low_b).cast());
                let next_high = _mm_loadu_si128(select_unpredictable(is_high_a, high_a, high_b).cast());
                low_a = low_a.add(usize::from(is_low_a));
                low_b = low_b.add(usize::from(!is_low_a));
                high_a = high_a.add(usize::from(is_high_a));
                high_b = high_b.add(usize::from(!is_high_a));
                (smallest, largest) = merge_both(_mm256_set_m128i(next_high, next_low), largest);
            }
            low_count += LANES - gone_low.count_ones() as usize;
            high_count += LANES - gone_high.count_ones() as usize;
        }
        // SAFETY: both pointers are into the same list, the later one behind the earlier.
        let (from_low, from_high) =
            unsafe { (low_a.offset_from_unsigned(first_low_a), high_a.offset_from_unsigned(first_high_a)) };
        low.next_a += from_low;
        low.next_b += steps - from_low;
        high.next_a += from_high;
        high.next_b += steps - from_high;
    }
    let halves = |both: __m256i| (_mm256_castsi256_si128(both), _mm256_extracti128_si256::<1>(both));
    (low.earlier, high.earlier) = halves(earlier);
    ((low.before, high.before), (low.low, high.low)) = (halves(before), halves(smallest));
    (low.high, high.high) = halves(largest);
    (low.count, high.count) = (low_count, high_count);
}

/// [`merge`] in both halves of the registers.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn merge_both(x: __m256i, y: __m256i) -> (__m256i, __m256i) {
    let places = _mm256_broadcastsi128_si256(_mm_setr_epi8(14, 15, 12, 13, 10, 11, 8, 9, 6, 7, 4, 5, 2, 3, 0, 1));
    let (mut x, mut y) = (_mm256_shuffle_epi8(x, places), y);
    for _ in 0..LEVELS {
        let (low, high) = (_mm256_min_epu16(x, y), _mm256_max_epu16(x, y));
        (x, y) = (_mm256_unpacklo_epi16(low, high), _mm256_unpackhi_epi16(low, high));
    }
    (x, y)
}

/// Two lists on their way through the network; what they have in common is stored once, or not at all if `XOR`.
struct Stream<'a, const XOR: bool> {
    a: &'a [u16],
    b: &'a [u16],
    blocks_a: &'a [[u16; LANES]],
    blocks_b: &'a [[u16; LANES]],
    next_a: usize,
    next_b: usize,
    /// The last two registers that came out of the network before `low`.
    earlier: __m128i,
    before: __m128i,
    low: __m128i,
    high: __m128i,
    count: usize,
}

impl<'a, const XOR: bool> Stream<'a, XOR> {
    /// Both lists must fill a register.
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
    fn new(a: &'a [u16], b: &'a [u16]) -> Option<Self> {
        let ((blocks_a, _), (blocks_b, _)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        let (low, high) = merge(load(blocks_a.first()?), load(blocks_b.first()?));
        // No list of eight begins with this value, so nothing is taken for its repetition.
        let none = _mm_set1_epi16(-1);
        Some(Self { a, b, blocks_a, blocks_b, next_a: 1, next_b: 1, earlier: none, before: none, low, high, count: 0 })
    }

    /// The blocks that are left of either list.
    fn left(&self) -> [usize; 2] {
        [self.blocks_a.len() - self.next_a, self.blocks_b.len() - self.next_b]
    }

    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
    #[inline]
    fn finish(mut self, out: &mut [u16]) -> usize {
        while let (Some(block_a), Some(block_b)) = (self.blocks_a.get(self.next_a), self.blocks_b.get(self.next_b)) {
            let is_a = block_a[0] <= block_b[0];
            self.next_a += usize::from(is_a);
            self.next_b += usize::from(!is_a);
            self.take(load(select_unpredictable(is_a, block_a, block_b)), out);
        }
        let (mut rest_a, mut rest_b) = (&self.a[self.next_a * LANES..], &self.b[self.next_b * LANES..]);
        while !rest_a.is_empty() || !rest_b.is_empty() {
            let is_a = !rest_a.is_empty() && (rest_b.is_empty() || rest_a[0] <= rest_b[0]);
            let rest = if is_a { &mut rest_a } else { &mut rest_b };
            let (part, later) = rest.split_at(rest.len().min(LANES));
            *rest = later;
            let mut group = [u16::MAX; LANES];
            fill_group(&mut group, part);
            self.take(load(&group), out);
        }
        let (high, none) = (self.high, _mm_set1_epi16(-1));
        self.add(high, out);
        self.add(none, out);
        if XOR {
            self.add(none, out);
        }
        // A mark may be left, and stands behind all items.
        self.count - usize::from(self.count > 0 && out[self.count - 1] == u16::MAX)
    }

    /// Takes the next eight items of a list.
    #[target_feature(enable = "avx2,popcnt")]
    #[inline]
    fn take(&mut self, items: __m128i, out: &mut [u16]) {
        let (low, high) = merge(items, self.high);
        self.add(low, out);
        self.high = high;
    }

    /// Takes a register that came out of the network. The last one before it is stored, or the one before that if `XOR`: whether its
    /// items are repeated is known only when the next one is there.
    #[target_feature(enable = "avx2,popcnt")]
    #[inline]
    fn add(&mut self, new: __m128i, out: &mut [u16]) {
        let (earlier, before, low) = (self.earlier, self.before, self.low);
        let room = &mut out[self.count..];
        if XOR {
            let repeats = _mm_cmpeq_epi16(_mm_alignr_epi8::<14>(before, earlier), before);
            let is_repeated = _mm_cmpeq_epi16(_mm_alignr_epi8::<2>(low, before), before);
            self.count += store_without(_mm_or_si128(repeats, is_repeated), before, room);
        } else {
            self.count += store_new(before, low, room);
        }
        (self.earlier, self.before, self.low) = (before, low, new);
    }
}

/// Merges neighbours, then neighbours of those, by bitonic networks; copies are left out at the end.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
pub(super) fn sort_few(lists: &[&[u16]], out: &mut [u16]) -> usize {
    // Filled up with the mark for the end.
    let mut items = [[u16::MAX; LANES]; FEW / LANES];
    let mut groups = 0;
    for part in lists.iter().flat_map(|list| list.chunks(LANES)) {
        fill_group(&mut items[groups % (FEW / LANES)], part);
        groups += 1;
    }
    assert!(groups <= items.len(), "there are no more groups than are sorted");
    let mut registers = [_mm_set1_epi16(-1); FEW / LANES];
    for (register, group) in registers.iter_mut().zip(&items[..groups]) {
        *register = load(group);
    }
    sort_groups(&mut registers, groups);
    let mut before = _mm_set1_epi16(-1);
    let mut count = 0;
    for &register in &registers[..groups] {
        count += store_new(before, register, &mut out[count..]);
        before = register;
    }
    // What the groups were filled up with is left once, at the end.
    let count = count - usize::from(count > 0 && out[count - 1] == u16::MAX);
    portable::close(lists, out, count)
}

/// Puts the items of `part` to the front of a group, without a loop whose end would be guessed wrong most often.
#[inline(always)]
pub(super) fn fill_group(group: &mut [u16; GROUP], part: &[u16]) {
    const HALF: usize = GROUP / 2;
    let len = part.len().min(GROUP);
    if let (Some(head), Some(tail)) = (part.first_chunk::<HALF>(), part[..len].last_chunk::<HALF>()) {
        group[..HALF].copy_from_slice(head);
        group[len - HALF..len].copy_from_slice(tail);
    } else if let [first, .., last] = part {
        (group[0], group[len / 2], group[len - 1]) = (*first, part[len / 2], *last);
    } else if let [only] = part {
        group[0] = *only;
    }
}

/// Sorts the items of the first `used` of sorted registers; those behind them hold nothing that is smaller.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn sort_groups<const N: usize>(registers: &mut [__m128i; N], used: usize) {
    if used > 1 {
        unite_halves::<1>(&mut registers[..used.next_multiple_of(2)]);
    }
    if used > 2 {
        unite_halves::<2>(&mut registers[..used.next_multiple_of(4)]);
    }
    if used > 4 {
        unite_halves::<4>(&mut registers[..used.next_multiple_of(8)]);
    }
    if used > 8 {
        unite_halves::<8>(&mut registers[..used.next_multiple_of(16)]);
    }
    if used > 16 {
        unite_halves::<16>(&mut registers[..used.next_multiple_of(32)]);
    }
}

/// Sorts each `2 * HALF` registers, of which either half is sorted.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn unite_halves<const HALF: usize>(registers: &mut [__m128i]) {
    for pair in registers.chunks_exact_mut(2 * HALF) {
        let mut turned = [_mm_setzero_si128(); HALF];
        for (index, turned) in turned.iter_mut().enumerate() {
            *turned = turn(pair[2 * HALF - 1 - index]);
        }
        for (index, turned) in turned.into_iter().enumerate() {
            let x = pair[index];
            pair[index] = _mm_min_epu16(x, turned);
            pair[HALF + index] = _mm_max_epu16(x, turned);
        }
        let mut distance = HALF / 2;
        while distance > 0 {
            for index in (0..2 * HALF).filter(|index| index & distance == 0) {
                let (x, y) = (pair[index], pair[index + distance]);
                pair[index] = _mm_min_epu16(x, y);
                pair[index + distance] = _mm_max_epu16(x, y);
            }
            distance /= 2;
        }
        for register in pair {
            *register = settle(*register);
        }
    }
}

#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn load(block: &[u16; LANES]) -> __m128i {
    // SAFETY: the array is readable for 16 bytes, and the load needs no alignment.
    unsafe { _mm_loadu_si128(block.as_ptr().cast()) }
}

/// The eight smallest and the eight largest of two sorted registers, each sorted.
///
/// Each level compares the lanes of one register with those of the other, and then shuffles both like the halves of a pack of
/// cards: the lanes that are compared next lie in different registers again, and after the last level all lanes are in their places.
#[target_feature(enable = "avx2")]
fn merge(x: __m128i, y: __m128i) -> (__m128i, __m128i) {
    let (mut x, mut y) = (turn(x), y);
    for _ in 0..LEVELS {
        let (low, high) = (_mm_min_epu16(x, y), _mm_max_epu16(x, y));
        (x, y) = (_mm_unpacklo_epi16(low, high), _mm_unpackhi_epi16(low, high));
    }
    (x, y)
}

/// The items of a register in reverse.
#[target_feature(enable = "avx2")]
fn turn(x: __m128i) -> __m128i {
    let places = _mm_setr_epi8(14, 15, 12, 13, 10, 11, 8, 9, 6, 7, 4, 5, 2, 3, 0, 1);
    _mm_shuffle_epi8(x, places)
}

/// Sorts a bitonic register.
#[target_feature(enable = "avx2")]
fn settle(x: __m128i) -> __m128i {
    let swapped = _mm_shuffle_epi32::<0b01_00_11_10>(x);
    let x = _mm_blend_epi16::<0b1111_0000>(_mm_min_epu16(x, swapped), _mm_max_epu16(x, swapped));
    let swapped = _mm_shuffle_epi32::<0b10_11_00_01>(x);
    let x = _mm_blend_epi16::<0b1100_1100>(_mm_min_epu16(x, swapped), _mm_max_epu16(x, swapped));
    let swap = _mm_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    let swapped = _mm_shuffle_epi8(x, swap);
    _mm_blend_epi16::<0b1010_1010>(_mm_min_epu16(x, swapped), _mm_max_epu16(x, swapped))
}

/// Stores the items of `new` that do not repeat the item before them, the last one of `before` standing before the first;
/// their number.
#[target_feature(enable = "avx2,popcnt")]
fn store_new(before: __m128i, new: __m128i, out: &mut [u16]) -> usize {
    store_without(_mm_cmpeq_epi16(_mm_alignr_epi8::<14>(new, before), new), new, out)
}

/// Stores the lanes of `items` that are not marked in `repeats`; their number.
#[target_feature(enable = "avx2,popcnt")]
fn store_without(repeats: __m128i, items: __m128i, out: &mut [u16]) -> usize {
    let gone = (_mm_movemask_epi8(_mm_packs_epi16(repeats, _mm_setzero_si128())) & 0xff) as usize;
    store_packed(items, gone, out);
    LANES - gone.count_ones() as usize
}

/// Stores the lanes that are not in `gone`, packed to the left.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn store_packed(lanes: __m128i, gone: usize, out: &mut [u16]) {
    let room: &mut [u16] = &mut out[..LANES];
    // SAFETY: `room` is writable for 16 bytes, and the store needs no alignment.
    unsafe { _mm_storeu_si128(room.as_mut_ptr().cast(), packed(lanes, gone)) };
}

/// The lanes that are not in `gone`, packed to the left.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn packed(lanes: __m128i, gone: usize) -> __m128i {
    let row = &PACK.0[gone & 0xff];
    // SAFETY: a row of the table is readable for 16 bytes, and the load needs no alignment.
    _mm_shuffle_epi8(lanes, unsafe { _mm_loadu_si128(row.as_ptr().cast()) })
}
