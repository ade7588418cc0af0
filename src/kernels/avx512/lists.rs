//! Owns the loops over sorted lists in 512-bit registers. Must never be reached on a CPU without AVX-512 with BW, VL and VBMI2.
//!
//! A union goes as in `avx2/lists.rs`, but 32 items of two lists at a time go through the network together with the 32 largest before them, and
//! 128 items of many lists are sorted in four registers.

use super::pairs;
use crate::geometry::Extent;
use crate::kernels::portable;
use crate::kernels::table::{BLOCK, Block, FEW, GROUP};
use std::arch::x86_64::*;
use std::hint::select_unpredictable;

/// The items of one register.
pub(super) const LANES: usize = BLOCK;

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vbmi2")]
#[inline]
pub(super) fn unite(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    if a.len() <= LANES && b.len() <= LANES && out.len() >= 2 * LANES {
        return unite_short(a, b, out);
    }
    // The mark for the end cannot be an item of the network.
    let (a_below, b_below) = (a.strip_suffix(&[u16::MAX]), b.strip_suffix(&[u16::MAX]));
    if a_below.is_some() || b_below.is_some() {
        let count = unite(a_below.unwrap_or(a), b_below.unwrap_or(b), out);
        out[count] = u16::MAX;
        return count + 1;
    }
    if let Some((few, many)) = portable::skewed(a, b) {
        return portable::unite_few(few, many, out);
    }
    merge_lists::<UNITE>(a, b, out)
}

/// As the union, but an item that comes out of the network twice is not stored.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vbmi2")]
#[inline]
pub(super) fn xor_lists(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    let (a_below, b_below) = (a.strip_suffix(&[u16::MAX]), b.strip_suffix(&[u16::MAX]));
    if a_below.is_some() || b_below.is_some() {
        let count = xor_lists(a_below.unwrap_or(a), b_below.unwrap_or(b), out);
        out[count] = u16::MAX;
        return count + usize::from(a_below.is_some() != b_below.is_some());
    }
    if a.len() <= LANES && b.len() <= LANES && out.len() >= 3 * LANES {
        let mut items = Out::<XOR>::new(out);
        let (low, high) = merge(load_short(a), load_short(b));
        items.add(low);
        items.add(high);
        return items.len();
    }
    merge_lists::<XOR>(a, b, out)
}

/// The items of `a` that are in `b`.
#[target_feature(enable = "bmi2,popcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
#[inline]
pub(super) fn intersect(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    if a.len() > LANES || b.len() > LANES {
        return pairs::intersect(a, b, out);
    }
    let found = found_in(a, b);
    store(_mm512_maskz_compress_epi16(found, load_short(a)), out);
    found.count_ones() as usize
}

/// The items of `a` that are not in `b`, as [`intersect`].
#[target_feature(enable = "bmi2,popcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
#[inline]
pub(super) fn subtract(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    if a.len() > LANES || b.len() > LANES {
        return pairs::subtract(a, b, out);
    }
    let found = found_in(a, b);
    store(_mm512_maskz_compress_epi16(!found, load_short(a)), out);
    a.len() - found.count_ones() as usize
}

/// Which items of `a` are in `b`, both a register at most.
#[target_feature(enable = "bmi2,avx512f,avx512bw")]
#[inline]
fn found_in(a: &[u16], b: &[u16]) -> u32 {
    let (items, mut found) = (load_short(a), 0);
    for &other in b {
        found |= _mm512_cmpeq_epi16_mask(items, _mm512_set1_epi16(other.cast_signed()));
    }
    #[allow(clippy::cast_possible_truncation, reason = "the number of lanes is small")]
    let there = _bzhi_u32(u32::MAX, a.len() as u32);
    found & there
}

/// Whether items are wanted that both lists have.
const UNITE: bool = true;
const XOR: bool = false;

/// Lists of this many items are merged in two halves side by side, as each step waits for the one before.
const SPLIT_MIN: usize = 96;

/// Merges two lists, and stores the items that are wanted.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vbmi2")]
#[inline]
fn merge_lists<const RULE: bool>(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    if a.len().min(b.len()) < SPLIT_MIN {
        return Merger::<RULE>::new((a, b), out).finish();
    }
    let (low_a, high_a) = a.split_at(a.len() / 2);
    let (low_b, high_b) = b.split_at(b.partition_point(|&item| item < high_a[0]));
    let room = low_a.len() + low_b.len() + LANES;
    let (lower, upper) = out.split_at_mut(room);
    let mut low = Merger::<RULE>::new((low_a, low_b), lower);
    let mut high = Merger::<RULE>::new((high_a, high_b), upper);
    while low.has_blocks() && high.has_blocks() {
        low.step();
        high.step();
    }
    let (lower, upper) = (low.finish(), high.finish());
    out.copy_within(room..room + upper, lower);
    lower + upper
}

/// Two lists on their way through the network.
struct Merger<'a, 'o, const RULE: bool> {
    a: Blocks<'a>,
    b: Blocks<'a>,
    low: __m512i,
    high: __m512i,
    out: Out<'o, RULE>,
}

impl<'a, 'o, const RULE: bool> Merger<'a, 'o, RULE> {
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vbmi2")]
    #[inline]
    fn new((a, b): (&'a [u16], &'a [u16]), out: &'o mut [u16]) -> Self {
        let (mut a, mut b) = (Blocks::new(a), Blocks::new(b));
        let (low, high) = merge(a.next(), b.next());
        Self { a, b, low, high, out: Out::new(out) }
    }

    /// Whether both lists have a whole block.
    #[inline(always)]
    fn has_blocks(&self) -> bool {
        !self.a.whole.is_empty() && !self.b.whole.is_empty()
    }

    /// Goes on by a block, where both lists have one.
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vbmi2")]
    #[inline]
    fn step(&mut self) {
        let ([next_a, rest_a @ ..], [next_b, rest_b @ ..]) = (self.a.whole, self.b.whole) else { return };
        self.out.add(self.low);
        let is_a = next_a[0] <= next_b[0];
        let next = select_unpredictable(is_a, next_a, next_b);
        self.a.whole = select_unpredictable(is_a, rest_a, self.a.whole);
        self.b.whole = select_unpredictable(is_a, self.b.whole, rest_b);
        (self.low, self.high) = merge(load(next), self.high);
    }

    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vbmi2")]
    #[inline]
    fn take(&mut self, is_a: bool) {
        self.out.add(self.low);
        (self.low, self.high) = merge(if is_a { self.a.next() } else { self.b.next() }, self.high);
    }

    /// Merges the rest; the number of all items that are stored.
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vbmi2")]
    #[inline]
    fn finish(mut self) -> usize {
        while self.has_blocks() {
            self.step();
        }
        while let (Some(head_a), Some(head_b)) = (self.a.head(), self.b.head()) {
            self.take(head_a <= head_b);
        }
        while self.a.head().or(self.b.head()).is_some() {
            self.take(self.a.head().is_some());
        }
        self.out.add(self.low);
        // Behind the first mark for the end there are only marks, for which there may be no room.
        if !self.out.has_end() {
            self.out.add(self.high);
        }
        self.out.len()
    }
}

/// The union of lists of a register each.
#[target_feature(enable = "bmi2,avx512f,avx512bw,avx512vbmi2,popcnt")]
#[inline]
fn unite_short(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    let mut items = Out::<UNITE>::new(out);
    let (low, high) = merge(load_short(a), load_short(b));
    items.add(low);
    if a.len() + b.len() > LANES {
        items.add(high);
    }
    let count = items.len();
    portable::close(&[a, b], out, count)
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
#[inline]
pub(super) fn sort_few(lists: &[&[u16]], out: &mut [u16]) -> usize {
    let mut out = Out::<UNITE>::new(out);
    let (registers, used) = sorted(lists);
    let [r, s, t, u] = registers;
    if used <= 1 {
        out.add(r);
    } else if used == 2 {
        let (a, b) = merge(r, s);
        out.add(a);
        out.add(b);
    } else {
        let (a, b) = merge(r, s);
        let (c, d) = merge(t, u);
        let (c, d) = (turn(d), turn(c));
        let lower = (_mm512_min_epu16(a, c), _mm512_min_epu16(b, d));
        let upper = (_mm512_max_epu16(a, c), _mm512_max_epu16(b, d));
        for (x, y) in [lower, upper] {
            out.add(settle(_mm512_min_epu16(x, y)));
            out.add(settle(_mm512_max_epu16(x, y)));
        }
    }
    let count = out.len();
    portable::close(lists, out.items, count)
}

#[target_feature(enable = "bmi2,popcnt,avx512f,avx512bw")]
#[inline]
pub(super) fn list_runs(list: &[u16]) -> usize {
    runs_and_descents(list).0
}

#[target_feature(enable = "bmi2,popcnt,avx512f,avx512bw")]
#[inline]
pub(super) fn ascending_runs(list: &[u16]) -> Option<usize> {
    let (runs, descents) = runs_and_descents(list);
    (descents == 0).then_some(runs)
}

/// The number of runs, and in which lanes an item is not above the one before it.
#[target_feature(enable = "bmi2,popcnt,avx512f,avx512bw")]
#[inline]
fn runs_and_descents(list: &[u16]) -> (usize, __mmask32) {
    let Some((_, rest)) = list.split_first() else { return (0, 0) };
    let (mut before, mut after, mut runs, mut descents) = (list, rest, 1, 0);
    while !after.is_empty() {
        #[allow(clippy::cast_possible_truncation, reason = "the number of lanes is small")]
        let lanes = _bzhi_u32(u32::MAX, after.len().min(LANES) as u32);
        // SAFETY: only the lanes of the mask are read, which are no more than there are items in the shorter list.
        let (low, high) = unsafe {
            (
                _mm512_maskz_loadu_epi16(lanes, before.as_ptr().cast()),
                _mm512_maskz_loadu_epi16(lanes, after.as_ptr().cast()),
            )
        };
        let steps = _mm512_sub_epi16(high, low);
        runs += _mm512_mask_cmpneq_epi16_mask(lanes, steps, _mm512_set1_epi16(1)).count_ones() as usize;
        descents |= _mm512_mask_cmple_epu16_mask(lanes, high, low);
        before = before.get(LANES..).unwrap_or_default();
        after = after.get(LANES..).unwrap_or_default();
    }
    (runs, descents)
}

#[target_feature(enable = "bmi2,avx512f,avx512bw")]
#[inline]
pub(super) fn block(list: &[u16], out: &mut Block) {
    store(load_short(list), out);
}

/// Takes the items that begin runs, and those that end them, and makes extents of both without a jump that depends on how they
/// lie.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
#[inline]
pub(super) fn extents(list: &[u16], base: u64, bits: u32, out: &mut [Extent], filled: usize) -> usize {
    const EXTENTS: usize = size_of::<__m512i>() / size_of::<Extent>();
    /// Fewer items are quicker without registers that are mostly empty.
    const FEW_ITEMS: usize = 16;
    if list.len() < FEW_ITEMS {
        return portable::extents(list, base, bits, out, filled);
    }
    let (granule, mut filled) = (1 << bits, filled);
    let offset = |item: u16| base + (u64::from(item) << bits);
    let shift = _mm_cvtsi32_si128(bits.cast_signed());
    let (low, step) = (base.cast_signed(), granule as i64);
    let least = _mm512_setr_epi64(low, step, low, step, low, step, low, step);
    let mut end = portable::last_of(&out[..filled]).end();
    for some in list.chunks(LANES) {
        let lanes = u32::MAX >> (LANES - some.len());
        // SAFETY: only the lanes of the mask are read, which are as many as there are items.
        let items = unsafe { _mm512_maskz_loadu_epi16(lanes, some.as_ptr().cast()) };
        let before = _mm512_maskz_expand_epi16(!1, items);
        let apart = _mm512_cmpneq_epi16_mask(_mm512_sub_epi16(items, before), _mm512_set1_epi16(1));
        let starts = apart & lanes & !1 | u32::from(offset(some[0]) != end);
        end = offset(some[some.len() - 1]) + granule;
        if let Some(last) = filled.checked_sub(1) {
            out[last].len_bytes += u64::from(starts.trailing_zeros().min(lanes.count_ones())) << bits;
        }
        // Before each start but the first one there is an end, and so is the last item.
        let ends = (starts & starts.wrapping_sub(1)) >> 1 | lanes & !(lanes >> 1);
        let firsts = _mm512_maskz_compress_epi16(starts, items);
        let further = _mm512_sub_epi16(_mm512_maskz_compress_epi16(ends, items), firsts);
        let pairs = [_mm512_unpacklo_epi16(firsts, further), _mm512_unpackhi_epi16(firsts, further)];
        let fours = [
            _mm512_extracti32x4_epi32::<0>(pairs[0]),
            _mm512_extracti32x4_epi32::<0>(pairs[1]),
            _mm512_extracti32x4_epi32::<1>(pairs[0]),
            _mm512_extracti32x4_epi32::<1>(pairs[1]),
            _mm512_extracti32x4_epi32::<2>(pairs[0]),
            _mm512_extracti32x4_epi32::<2>(pairs[1]),
            _mm512_extracti32x4_epi32::<3>(pairs[0]),
            _mm512_extracti32x4_epi32::<3>(pairs[1]),
        ];
        let of = |four| _mm512_add_epi64(_mm512_sll_epi64(_mm512_cvtepu16_epi64(four), shift), least);
        let (found, room) = (starts.count_ones() as usize, &mut out[filled..]);
        if let Some(room) = room.first_chunk_mut::<LANES>() {
            for (room, four) in room.as_chunks_mut::<EXTENTS>().0.iter_mut().zip(fours) {
                // SAFETY: four extents, each two numbers of 64 bits, are writable for 64 bytes, and the store needs no alignment.
                unsafe { _mm512_storeu_si512(room.as_mut_ptr().cast(), of(four)) }
            }
        } else {
            for (room, four) in room[..found].chunks_mut(EXTENTS).zip(fours) {
                let numbers = u8::MAX >> (8 - 2 * room.len());
                // SAFETY: only the lanes of the mask are written, two of 64 bits for each extent, which is two such numbers.
                unsafe { _mm512_mask_storeu_epi64(room.as_mut_ptr().cast(), numbers, of(four)) }
            }
        }
        filled += found;
    }
    filled
}

/// The items of lists in sorted registers, and how many of them are used.
#[target_feature(enable = "bmi2,avx512f,avx512bw,avx512vl")]
#[inline]
fn sorted(lists: &[&[u16]]) -> ([__m512i; FEW / LANES], usize) {
    let mut registers = [_mm512_set1_epi16(-1); FEW / LANES];
    let longest = lists.iter().map(|list| list.len()).max().unwrap_or(0);
    if longest <= LANES / 2 && lists.len() <= 2 * registers.len() {
        for (register, two) in registers.iter_mut().zip(lists.chunks(2)) {
            let second = two.get(1).copied().unwrap_or_default();
            *register =
                sort_halves(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(load_half(two[0])), load_half(second)));
        }
        return (registers, lists.len().div_ceil(2));
    }
    let (groups, count) = cut(lists);
    for (register, groups) in registers.iter_mut().zip(groups.as_chunks().0).take(count.div_ceil(4)) {
        *register = sort_groups(four(groups));
    }
    (registers, count.div_ceil(4))
}

/// The groups of lists in any order, each filled up with the mark for the end, and their number. First come those that the
/// lists begin with, then the next ones of those that go on, so that few branches depend on how long the lists are.
#[target_feature(enable = "bmi2,avx512f,avx512bw,avx512vl")]
#[inline]
fn cut(lists: &[&[u16]]) -> ([__m128i; FEW / GROUP], usize) {
    let none = _mm_set1_epi16(-1);
    let mut groups = [none; FEW / GROUP];
    let mut left: [&[u16]; FEW / GROUP] = [&[]; FEW / GROUP];
    let mut used = lists.len().min(left.len());
    left[..used].copy_from_slice(&lists[..used]);
    let mut count = 0;
    while used > 0 && count < groups.len() {
        let mut going_on = 0;
        for index in 0..used {
            let list = left[index];
            #[allow(clippy::cast_possible_truncation, reason = "eight lanes are eight bits")]
            let lanes = _bzhi_u32(0xff, list.len().min(GROUP) as u32) as u8;
            // SAFETY: only the lanes of the mask are read, which are no more than there are items.
            groups[count % groups.len()] = unsafe { _mm_mask_loadu_epi16(none, lanes, list.as_ptr().cast()) };
            count += 1;
            left[going_on] = list.get(GROUP..).unwrap_or_default();
            going_on += usize::from(list.len() > GROUP);
        }
        used = going_on;
    }
    assert!(
        used == 0 && count <= groups.len() && lists.len() <= left.len(),
        "there are no more groups than are sorted"
    );
    (groups, count)
}

/// Four groups in one register.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn four([a, b, c, d]: &[__m128i; 4]) -> __m512i {
    let register = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(*a), *b);
    _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(register, *c), *d)
}

/// Sorts a register of four sorted groups.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn sort_groups(x: __m512i) -> __m512i {
    let places = _mm512_broadcast_i32x4(_mm_setr_epi8(14, 15, 12, 13, 10, 11, 8, 9, 6, 7, 4, 5, 2, 3, 0, 1));
    let turned = _mm512_shuffle_epi8(_mm512_shuffle_i64x2::<0b10_11_00_01>(x, x), places);
    sort_halves(settle_eights(order(x, turned, 0xff00_ff00)))
}

/// Sorts a register of two sorted halves.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn sort_halves(x: __m512i) -> __m512i {
    settle_halves(order(x, turn(x), 0xffff_0000))
}

/// The rest of a list: whole blocks, and less than a block.
struct Blocks<'a> {
    whole: &'a [[u16; LANES]],
    rest: &'a [u16],
}

impl<'a> Blocks<'a> {
    fn new(list: &'a [u16]) -> Self {
        let (whole, rest) = list.as_chunks();
        Self { whole, rest }
    }

    fn head(&self) -> Option<u16> {
        self.whole.as_flattened().first().or(self.rest.first()).copied()
    }

    /// The next block; the last one is filled up with the mark for the end.
    #[target_feature(enable = "bmi2,avx512f,avx512bw")]
    #[inline]
    fn next(&mut self) -> __m512i {
        if let Some((block, later)) = self.whole.split_first() {
            self.whole = later;
            return load(block);
        }
        load_short(std::mem::take(&mut self.rest))
    }
}

/// Where items go that are wanted of what comes out of the network.
struct Out<'a, const RULE: bool> {
    items: &'a mut [u16],
    /// The last register, and the one before it.
    last: __m512i,
    before: __m512i,
    count: usize,
}

impl<'a, const RULE: bool> Out<'a, RULE> {
    /// The slice must have room for a register behind all items.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn new(items: &'a mut [u16]) -> Self {
        // No list begins with this value, so nothing is taken for its repetition.
        let none = _mm512_set1_epi16(-1);
        Self { items, last: none, before: none, count: 0 }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt")]
    #[inline]
    fn add(&mut self, new: __m512i) {
        let (last, before) = (self.last, self.before);
        (self.before, self.last) = (last, new);
        let (wanted, items) = if RULE == UNITE {
            (_mm512_cmpneq_epi16_mask(before_each(new, last), new), new)
        } else {
            // Whether another item follows of the same place is known only when the next one is there.
            let is_new = _mm512_cmpneq_epi16_mask(before_each(last, before), last);
            (is_new & _mm512_cmpneq_epi16_mask(after_each(last, new), last), last)
        };
        store(_mm512_maskz_compress_epi16(wanted, items), &mut self.items[self.count..]);
        self.count += wanted.count_ones() as usize;
    }

    /// Whether the last item is the mark for the end.
    #[inline(always)]
    fn has_end(&self) -> bool {
        RULE == UNITE && self.count > 0 && self.items[self.count - 1] == u16::MAX
    }

    /// The number of items, without the mark for the end.
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt")]
    #[inline]
    fn len(&mut self) -> usize {
        if RULE == UNITE {
            return self.count - usize::from(self.has_end());
        }
        self.add(_mm512_set1_epi16(-1));
        self.count
    }
}

/// The item before each, that of the first being the last one of `before`.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn before_each(items: __m512i, before: __m512i) -> __m512i {
    _mm512_alignr_epi8::<14>(items, _mm512_alignr_epi64::<6>(items, before))
}

/// The item after each, that of the last being the first one of `after`.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn after_each(items: __m512i, after: __m512i) -> __m512i {
    _mm512_alignr_epi8::<2>(_mm512_alignr_epi64::<2>(after, items), items)
}

#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn store(items: __m512i, room: &mut [u16]) {
    let room: &mut [u16] = &mut room[..LANES];
    // SAFETY: the slice is writable for 64 bytes, and the store needs no alignment.
    unsafe { _mm512_storeu_si512(room.as_mut_ptr().cast(), items) }
}

#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn load(block: &[u16; LANES]) -> __m512i {
    // SAFETY: the array is readable for 64 bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(block.as_ptr().cast()) }
}

/// A list of a register at most, filled up with the mark for the end.
#[target_feature(enable = "bmi2,avx512f,avx512bw")]
#[inline]
pub(super) fn load_short(list: &[u16]) -> __m512i {
    #[allow(clippy::cast_possible_truncation, reason = "the number of lanes is small")]
    let lanes = _bzhi_u32(u32::MAX, list.len().min(LANES) as u32);
    // SAFETY: only the lanes of the mask are read, which are no more than there are items.
    unsafe { _mm512_mask_loadu_epi16(_mm512_set1_epi16(-1), lanes, list.as_ptr().cast()) }
}

/// As much of a list as half a register takes, filled up with the mark for the end.
#[target_feature(enable = "bmi2,avx512f,avx512bw,avx512vl")]
#[inline]
pub(super) fn load_half(list: &[u16]) -> __m256i {
    #[allow(clippy::cast_possible_truncation, reason = "sixteen lanes are sixteen bits")]
    let lanes = _bzhi_u32(0xffff, list.len().min(LANES / 2) as u32) as u16;
    // SAFETY: only the lanes of the mask are read, which are no more than there are items.
    unsafe { _mm256_mask_loadu_epi16(_mm256_set1_epi16(-1), lanes, list.as_ptr().cast()) }
}

/// The smaller and the larger half of two sorted registers, each sorted.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn merge(x: __m512i, y: __m512i) -> (__m512i, __m512i) {
    let x = turn(x);
    (settle(_mm512_min_epu16(x, y)), settle(_mm512_max_epu16(x, y)))
}

/// The items of a register in reverse.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn turn(x: __m512i) -> __m512i {
    let pairs = _mm512_set_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    _mm512_rol_epi32::<16>(_mm512_permutexvar_epi32(pairs, x))
}

/// Sorts a bitonic register.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn settle(x: __m512i) -> __m512i {
    settle_halves(order(x, _mm512_shuffle_i64x2::<0b01_00_11_10>(x, x), 0xffff_0000))
}

/// Sorts the halves of a register, which are bitonic.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn settle_halves(x: __m512i) -> __m512i {
    settle_eights(order(x, _mm512_shuffle_i64x2::<0b10_11_00_01>(x, x), 0xff00_ff00))
}

/// Sorts each eight items of a register, which are bitonic.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn settle_eights(x: __m512i) -> __m512i {
    let x = order(x, _mm512_shuffle_epi32::<0b01_00_11_10>(x), 0xf0f0_f0f0);
    let x = order(x, _mm512_shuffle_epi32::<0b10_11_00_01>(x), 0xcccc_cccc);
    order(x, _mm512_rol_epi32::<16>(x), 0xaaaa_aaaa)
}

/// The smaller of each two items, and in `upper` lanes the larger.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn order(x: __m512i, swapped: __m512i, upper: __mmask32) -> __m512i {
    _mm512_mask_max_epu16(_mm512_min_epu16(x, swapped), upper, x, swapped)
}
