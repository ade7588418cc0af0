//! Owns the set operations on two sorted lists in 128-bit registers, written by hand as the compiler keeps them scalar. Must never
//! be reached on a CPU without NEON.
//!
//! Unions go through a bitonic network, eight items of the lists at a time together with the eight largest before them, as in
//! `avx2/lists.rs`. For intersections and differences eight items of one list are compared with eight of the other, each with
//! each; then the list whose eight end first goes on.

use crate::kernels::portable;
use std::arch::aarch64::*;
use std::hint::select_unpredictable;

/// The items of one register, and all of its lanes.
const LANES: usize = 8;
const ALL: usize = 0xff;

/// The levels of the network that merges two registers: the logarithm of their lanes.
const LEVELS: u32 = (2 * LANES).trailing_zeros();

/// With fewer items in all, no register is worth its filling.
const LEAST: usize = 4 * LANES;

/// For each set of lanes to leave out, how many stay.
static LEFT: [u8; 256] = left();

/// For each set of lanes to leave out, the bytes to keep, packed to the left. No row lies in two lines of the cache.
static PACK: Rows = pack();

#[repr(align(64))]
struct Rows([[u8; 16]; 256]);

#[allow(clippy::cast_possible_truncation, reason = "a register has eight lanes")]
const fn left() -> [u8; 256] {
    let mut table = [0; 256];
    let mut gone = 0;
    while gone < 256 {
        table[gone] = LANES as u8 - gone.count_ones() as u8;
        gone += 1;
    }
    table
}

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

#[target_feature(enable = "neon")]
#[inline]
pub(super) fn unite(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    if a.len() + b.len() < LEAST || portable::skewed(a, b).is_some() {
        return portable::unite(a, b, out);
    }
    // The mark for the end cannot be an item of the network.
    let (a_below, b_below) = (a.strip_suffix(&[u16::MAX]), b.strip_suffix(&[u16::MAX]));
    let count = merge_lists::<false>(a_below.unwrap_or(a), b_below.unwrap_or(b), out);
    out[count] = u16::MAX;
    count + usize::from(a_below.is_some() || b_below.is_some())
}

#[target_feature(enable = "neon")]
#[inline]
pub(super) fn xor_lists(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    if a.len() + b.len() < LEAST {
        return portable::xor_lists(a, b, out);
    }
    let (a_below, b_below) = (a.strip_suffix(&[u16::MAX]), b.strip_suffix(&[u16::MAX]));
    let count = merge_lists::<true>(a_below.unwrap_or(a), b_below.unwrap_or(b), out);
    out[count] = u16::MAX;
    count + usize::from(a_below.is_some() != b_below.is_some())
}

#[target_feature(enable = "neon")]
#[inline]
pub(super) fn intersect(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    if a.len() + b.len() < LEAST || portable::skewed(a, b).is_some() {
        return portable::intersect(a, b, out);
    }
    pick::<true>(a, b, out)
}

#[target_feature(enable = "neon")]
#[inline]
pub(super) fn subtract(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    if a.len() + b.len() < LEAST || portable::skewed(a, b).is_some_and(|(few, _)| few.len() == a.len()) {
        return portable::subtract(a, b, out);
    }
    pick::<false>(a, b, out)
}

/// Merges two lists; what they have in common is there once, or not at all if `XOR`.
#[target_feature(enable = "neon")]
#[inline]
fn merge_lists<'a, const XOR: bool>(mut a: &'a [u16], mut b: &'a [u16], out: &mut [u16]) -> usize {
    let mut merged = Merged::<XOR>::new(out);
    let mut high = load(&next_block(&mut a, &mut b));
    while let (Some(block_a), Some(block_b)) = (a.first_chunk(), b.first_chunk()) {
        let is_a = block_a[0] <= block_b[0];
        let block = load(select_unpredictable(is_a, block_a, block_b));
        a = &a[if is_a { LANES } else { 0 }..];
        b = &b[if is_a { 0 } else { LANES }..];
        let (low, rest) = merge(block, high);
        merged.add(low);
        high = rest;
    }
    while !a.is_empty() || !b.is_empty() {
        let (low, rest) = merge(load(&next_block(&mut a, &mut b)), high);
        merged.add(low);
        high = rest;
    }
    merged.add(high);
    merged.finish()
}

/// Takes the next eight items from the list whose next item is the smaller one; the mark for the end stands for those that
/// are missing.
fn next_block<'a>(a: &mut &'a [u16], b: &mut &'a [u16]) -> [u16; LANES] {
    let is_a = match (a.first(), b.first()) {
        (Some(x), Some(y)) => x <= y,
        (first, _) => first.is_some(),
    };
    let list = if is_a { a } else { b };
    let (items, rest) = list.split_at(list.len().min(LANES));
    *list = rest;
    let mut block = [u16::MAX; LANES];
    block[..items.len()].copy_from_slice(items);
    block
}

/// The items that came out of the network.
struct Merged<'o, const XOR: bool> {
    out: &'o mut [u16],
    count: usize,
    /// The last two registers; of a union the first is not used.
    earlier: uint16x8_t,
    before: uint16x8_t,
}

impl<'o, const XOR: bool> Merged<'o, XOR> {
    #[target_feature(enable = "neon")]
    #[inline]
    fn new(out: &'o mut [u16]) -> Self {
        let none = vdupq_n_u16(u16::MAX);
        Self { out, count: 0, earlier: none, before: none }
    }

    /// Takes a register. Whether the items of the last one are repeated is known only now.
    #[target_feature(enable = "neon")]
    #[inline]
    fn add(&mut self, new: uint16x8_t) {
        let (earlier, before) = (self.earlier, self.before);
        (self.earlier, self.before) = (before, new);
        if XOR {
            let repeats = vceqq_u16(vextq_u16::<7>(earlier, before), before);
            let is_repeated = vceqq_u16(vextq_u16::<1>(before, new), before);
            self.count += store_without(vorrq_u16(repeats, is_repeated), before, &mut self.out[self.count..]);
        } else {
            let repeats = vceqq_u16(vextq_u16::<7>(before, new), new);
            self.count += store_without(repeats, new, &mut self.out[self.count..]);
        }
    }

    /// The number of items, without a mark that may stand behind them.
    #[target_feature(enable = "neon")]
    #[inline]
    fn finish(mut self) -> usize {
        if XOR {
            self.add(vdupq_n_u16(u16::MAX));
        }
        self.count - usize::from(self.count > 0 && self.out[self.count - 1] == u16::MAX)
    }
}

/// The eight smallest and the eight largest of two sorted registers, each sorted: each level compares the lanes of one register
/// with those of the other, and then shuffles both like the halves of a pack of cards.
#[target_feature(enable = "neon")]
#[inline]
fn merge(x: uint16x8_t, y: uint16x8_t) -> (uint16x8_t, uint16x8_t) {
    let halves = vrev64q_u16(x);
    let (mut x, mut y) = (vextq_u16::<4>(halves, halves), y);
    for _ in 0..LEVELS {
        let (low, high) = (vminq_u16(x, y), vmaxq_u16(x, y));
        (x, y) = (vzip1q_u16(low, high), vzip2q_u16(low, high));
    }
    (x, y)
}

/// The items of `a` that are in `b`, or that are not; `out` has room for all of `a`.
#[target_feature(enable = "neon")]
#[inline]
fn pick<const IN_BOTH: bool>(mut a: &[u16], mut b: &[u16], out: &mut [u16]) -> usize {
    let (mut count, mut found) = (0, vdupq_n_u16(0));
    while let (Some(x), Some(y)) = (a.first_chunk::<LANES>(), b.first_chunk::<LANES>()) {
        let ours = load(x);
        found = vorrq_u16(found, equal_to_any(ours, load(y)));
        // Stored again and again until the eight are passed, as a jump would be guessed wrong too often.
        let gone = if IN_BOTH { vmvnq_u16(found) } else { found };
        let stored = store_without(gone, ours, &mut out[count..]);
        let (ends, other_ends) = (x[LANES - 1] <= y[LANES - 1], y[LANES - 1] <= x[LANES - 1]);
        count += if ends { stored } else { 0 };
        found = vandq_u16(found, vdupq_n_u16(if ends { 0 } else { u16::MAX }));
        a = &a[if ends { LANES } else { 0 }..];
        b = &b[if other_ends { LANES } else { 0 }..];
    }
    while let Some(last) = a.get(..a.len().min(LANES)).and_then(<[u16]>::last) {
        let (ours, len) = load_some(a, *last);
        while let Some(their_last) = b.get(..b.len().min(LANES)).and_then(<[u16]>::last) {
            let (theirs, their_len) = load_some(b, *their_last);
            found = vorrq_u16(found, equal_to_any(ours, theirs));
            if their_last > last {
                break;
            }
            b = &b[their_len..];
        }
        // Lanes behind the end of the list repeat its last item.
        let there = ALL >> (LANES - len);
        let found_lanes = lanes_of(found);
        let gone = if IN_BOTH { !found_lanes } else { found_lanes } | !there;
        count += store_packed(ours, gone & ALL, &mut out[count..]);
        (a, found) = (&a[len..], vdupq_n_u16(0));
    }
    count
}

/// Which lanes of `x` are equal to any lane of `y`.
#[target_feature(enable = "neon")]
#[inline]
fn equal_to_any(x: uint16x8_t, y: uint16x8_t) -> uint16x8_t {
    macro_rules! equal {
        ($($lanes:literal)*) => {
            [vceqq_u16(x, y), $(vceqq_u16(x, vextq_u16::<$lanes>(y, y)),)*]
        };
    }
    let [a, b, c, d, e, f, g, h] = equal!(1 2 3 4 5 6 7);
    let (ab, cd, ef, gh) = (vorrq_u16(a, b), vorrq_u16(c, d), vorrq_u16(e, f), vorrq_u16(g, h));
    vorrq_u16(vorrq_u16(ab, cd), vorrq_u16(ef, gh))
}

/// The first eight items of a list that has some, and how many they are; free lanes repeat the last one.
#[target_feature(enable = "neon")]
#[inline]
fn load_some(list: &[u16], last: u16) -> (uint16x8_t, usize) {
    match list.first_chunk() {
        Some(block) => (load(block), LANES),
        None => {
            let mut block = [last; LANES];
            block[..list.len()].copy_from_slice(list);
            (load(&block), list.len())
        }
    }
}

#[target_feature(enable = "neon")]
#[inline]
fn load(block: &[u16; LANES]) -> uint16x8_t {
    // SAFETY: the array is readable for 16 bytes, and the load needs no more alignment than it has.
    unsafe { vld1q_u16(block.as_ptr()) }
}

/// Stores the lanes of `items` that are not marked in `gone`; their number.
#[target_feature(enable = "neon")]
#[inline]
fn store_without(gone: uint16x8_t, items: uint16x8_t, out: &mut [u16]) -> usize {
    store_packed(items, lanes_of(gone), out)
}

/// Which lanes are marked.
#[target_feature(enable = "neon")]
#[inline]
fn lanes_of(marked: uint16x8_t) -> usize {
    const BITS: [u16; LANES] = [1, 2, 4, 8, 16, 32, 64, 128];
    usize::from(vaddvq_u16(vandq_u16(marked, load(&BITS))))
}

/// Stores the lanes that are not in `gone`, packed to the left; their number.
#[target_feature(enable = "neon")]
#[inline]
fn store_packed(items: uint16x8_t, gone: usize, out: &mut [u16]) -> usize {
    let room: &mut [u16] = &mut out[..LANES];
    let row = &PACK.0[gone & ALL];
    // SAFETY: a row of the table is readable for 16 bytes, `room` is writable for 16, and neither needs more alignment than it
    // has.
    unsafe {
        let packed = vqtbl1q_u8(vreinterpretq_u8_u16(items), vld1q_u8(row.as_ptr()));
        vst1q_u16(room.as_mut_ptr(), vreinterpretq_u16_u8(packed));
    }
    usize::from(LEFT[gone & ALL])
}
