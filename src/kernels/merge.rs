//! Owns the union of two sorted lists in 128-bit registers, written by hand as the compiler keeps it scalar. Must never be
//! reached on a CPU without AVX2 and POPCNT.
//!
//! Eight items of the lists at a time go through a bitonic network together with the eight largest before them; the eight
//! smallest that come out are final and are packed to the left without those that repeat the item before.

use super::body::{self, FEW, GROUP};
use std::arch::x86_64::*;
use std::hint::select_unpredictable;

/// The items of one register.
const LANES: usize = GROUP;

/// Lists of this many items or more are cut in two halves.
const SPLIT_MIN: usize = 64;

/// For each set of lanes to leave out, the bytes to keep, packed to the left.
static PACK: [[u8; 16]; 256] = pack();

#[allow(clippy::cast_possible_truncation, reason = "bytes of a register are below 16")]
const fn pack() -> [[u8; 16]; 256] {
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
    table
}

/// Stores eight items of a stream, and takes eight more. A macro, as the stream must stay in registers.
macro_rules! step {
    ($stream:ident, $out:ident) => {
        $stream.count += store_new($stream.before, $stream.low, &mut $out[$stream.count..]);
        $stream.before = $stream.low;
        let (block_a, block_b) = (&$stream.blocks_a[$stream.next_a], &$stream.blocks_b[$stream.next_b]);
        let is_a = block_a[0] <= block_b[0];
        let block = select_unpredictable(is_a, block_a, block_b);
        $stream.next_a += usize::from(is_a);
        $stream.next_b += usize::from(!is_a);
        ($stream.low, $stream.high) = merge(load(block), $stream.high);
    };
}

pub(super) fn unite(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    // SAFETY: this is reached only through `x86::AVX2`, which `kernels::of` gives out only where detection has found both
    // features.
    unsafe { unite_avx2(a, b, out) }
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
fn unite_avx2(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    if let Some((few, many)) = body::skewed(a, b) {
        return body::unite_few(few, many, out);
    }
    assert!(out.len() >= a.len() + b.len() + 2 * LANES);
    if a.len().min(b.len()) < SPLIT_MIN {
        return match Stream::new(a, b) {
            Some(stream) => stream.finish(out),
            None => body::unite_evenly(a, b, out),
        };
    }
    // Two halves at a time: neither has to wait for the other's network.
    let middle = a.len() / 2;
    let (low_a, high_a) = a.split_at(middle);
    let (low_b, high_b) = b.split_at(b.partition_point(|&item| item < high_a[0]));
    let room = low_a.len() + low_b.len() + LANES;
    let (Some(mut low), Some(mut high)) = (Stream::new(low_a, low_b), Stream::new(high_a, high_b)) else {
        let count = body::unite_evenly(low_a, low_b, out);
        return count + body::unite_evenly(high_a, high_b, &mut out[count..]);
    };
    let (lower, upper) = out.split_at_mut(room);
    while low.has_more() && high.has_more() {
        step!(low, lower);
        step!(high, upper);
    }
    let (lower, upper) = (low.finish(lower), high.finish(upper));
    out.copy_within(room..room + upper, lower);
    lower + upper
}

/// Two lists on their way through the network.
struct Stream<'a> {
    a: &'a [u16],
    b: &'a [u16],
    blocks_a: &'a [[u16; LANES]],
    blocks_b: &'a [[u16; LANES]],
    next_a: usize,
    next_b: usize,
    before: __m128i,
    low: __m128i,
    high: __m128i,
    count: usize,
}

impl<'a> Stream<'a> {
    /// Both lists must fill a register.
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
    fn new(a: &'a [u16], b: &'a [u16]) -> Option<Self> {
        let ((blocks_a, _), (blocks_b, _)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        let (low, high) = merge(load(blocks_a.first()?), load(blocks_b.first()?));
        // No list of eight begins with this value, so nothing is taken for its repetition.
        let before = _mm_set1_epi16(-1);
        Some(Self { a, b, blocks_a, blocks_b, next_a: 1, next_b: 1, before, low, high, count: 0 })
    }

    fn has_more(&self) -> bool {
        self.next_a < self.blocks_a.len() && self.next_b < self.blocks_b.len()
    }

    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
    #[inline]
    fn finish(mut self, out: &mut [u16]) -> usize {
        while self.has_more() {
            step!(self, out);
        }
        let count = self.count + store_new(self.before, self.low, &mut out[self.count..]);
        // What is left: the largest eight, less than eight of one list, and any number of the other.
        let mut largest = [0; 2 * LANES];
        let left = store_new(self.low, self.high, &mut largest);
        let (rest_a, rest_b) = (&self.a[self.next_a * LANES..], &self.b[self.next_b * LANES..]);
        let (short, long) = if rest_a.len() < LANES { (rest_a, rest_b) } else { (rest_b, rest_a) };
        let mut both = [0; 4 * LANES];
        let left = body::unite_evenly(&largest[..left], short, &mut both);
        count + body::unite_evenly(&both[..left], long, &mut out[count..])
    }
}

pub(super) fn sort_few(items: &mut [[u16; GROUP]; FEW / GROUP], groups: usize, out: &mut [u16]) -> usize {
    // SAFETY: this is reached only through `x86::AVX2`, which `kernels::of` gives out only where detection has found both
    // features.
    unsafe { sort_few_avx2(items, groups, out) }
}

/// Merges neighbours, then neighbours of those, by bitonic networks; copies are left out at the end.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
fn sort_few_avx2(items: &mut [[u16; LANES]; FEW / LANES], groups: usize, out: &mut [u16]) -> usize {
    let used = groups.next_power_of_two();
    items[groups..used].fill([u16::MAX; LANES]);
    let mut registers: [__m128i; FEW / LANES] = std::array::from_fn(|index| load(&items[index]));
    if used > 1 {
        unite_halves::<1>(&mut registers[..used]);
    }
    if used > 2 {
        unite_halves::<2>(&mut registers[..used]);
    }
    if used > 4 {
        unite_halves::<4>(&mut registers[..used]);
    }
    if used > 8 {
        unite_halves::<8>(&mut registers[..used]);
    }
    let mut before = _mm_set1_epi16(-1);
    let mut count = 0;
    for &register in &registers[..used] {
        count += store_new(before, register, &mut out[count..]);
        before = register;
    }
    // What the groups were filled up with is left once, at the end.
    count - usize::from(count > 0 && out[count - 1] == u16::MAX)
}

/// Sorts each `2 * HALF` registers, of which either half is sorted.
#[target_feature(enable = "avx2")]
#[inline]
fn unite_halves<const HALF: usize>(registers: &mut [__m128i]) {
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
fn load(block: &[u16; LANES]) -> __m128i {
    // SAFETY: the array is readable for 16 bytes, and the load needs no alignment.
    unsafe { _mm_loadu_si128(block.as_ptr().cast()) }
}

/// The eight smallest and the eight largest of two sorted registers, each sorted.
#[target_feature(enable = "avx2")]
fn merge(x: __m128i, y: __m128i) -> (__m128i, __m128i) {
    let x = turn(x);
    (settle(_mm_min_epu16(x, y)), settle(_mm_max_epu16(x, y)))
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
    let shifted = _mm_alignr_epi8::<14>(new, before);
    let repeats = _mm_cmpeq_epi16(shifted, new);
    let gone = (_mm_movemask_epi8(_mm_packs_epi16(repeats, _mm_setzero_si128())) & 0xff) as usize;
    let room: &mut [u16] = &mut out[..LANES];
    // SAFETY: a row of the table is readable for 16 bytes, `room` is writable for 16, and neither needs alignment.
    unsafe {
        let keep = _mm_loadu_si128(PACK[gone].as_ptr().cast());
        _mm_storeu_si128(room.as_mut_ptr().cast(), _mm_shuffle_epi8(new, keep));
    }
    LANES - gone.count_ones() as usize
}
