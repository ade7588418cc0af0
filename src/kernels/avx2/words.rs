//! Owns the loops over the words of a chunk in 256-bit registers, written by hand as the compiler counts in a second pass. Must
//! never be reached on a CPU without AVX2 and POPCNT.
//!
//! Bits are counted by adders: three registers of bits become one of sums and one of carries, so that only every fourth register
//! of carries is counted itself.

use super::lists::{LANES, packed};
use crate::kernels::portable;
use crate::kernels::table::{Measure, Pair, ROOM, WORDS, Words};
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// The words of a register, and of the registers that are counted together.
const QUAD: usize = 4;
const BLOCK: usize = 4 * QUAD;

/// Where this many words are not 0, most have more than four bits.
const MANY: usize = WORDS * 7 / 8;

/// The number of set bits in any number of registers.
struct Ones {
    /// Bits that count once, and twice.
    ones: __m256i,
    twos: __m256i,
    /// In each 64 bits, the number of bits that counted four times.
    fours: __m256i,
}

impl Ones {
    #[target_feature(enable = "avx2")]
    #[inline]
    fn new() -> Self {
        let none = _mm256_setzero_si256();
        Self { ones: none, twos: none, fours: none }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn add(&mut self, [a, b, c, d]: [__m256i; 4]) {
        let (ones, first) = add_bits(self.ones, a, b);
        let (ones, second) = add_bits(ones, c, d);
        let (twos, fours) = add_bits(self.twos, first, second);
        (self.ones, self.twos) = (ones, twos);
        self.fours = _mm256_add_epi64(self.fours, count(fours));
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn sum(self) -> u32 {
        let twos = _mm256_add_epi64(count(self.twos), _mm256_slli_epi64::<1>(self.fours));
        let all = _mm256_add_epi64(count(self.ones), _mm256_slli_epi64::<1>(twos));
        let halves = _mm_add_epi64(_mm256_castsi256_si128(all), _mm256_extracti128_si256::<1>(all));
        let sum = _mm_add_epi64(halves, _mm_unpackhi_epi64(halves, halves));
        _mm_cvtsi128_si32(sum).cast_unsigned()
    }
}

/// The sums and the carries of three bits in each place.
#[target_feature(enable = "avx2")]
#[inline]
fn add_bits(a: __m256i, b: __m256i, c: __m256i) -> (__m256i, __m256i) {
    let differ = _mm256_xor_si256(a, b);
    let carries = _mm256_or_si256(_mm256_and_si256(a, b), _mm256_and_si256(differ, c));
    (_mm256_xor_si256(differ, c), carries)
}

/// The number of set bits in each 64.
#[target_feature(enable = "avx2")]
#[inline]
fn count(bits: __m256i) -> __m256i {
    let of_four = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    let four = _mm256_set1_epi8(0xf);
    let low = _mm256_shuffle_epi8(of_four, _mm256_and_si256(bits, four));
    let high = _mm256_shuffle_epi8(of_four, _mm256_and_si256(_mm256_srli_epi16::<4>(bits), four));
    _mm256_sad_epu8(_mm256_add_epi8(low, high), _mm256_setzero_si256())
}

/// The counts of words that come one block after the other.
struct Counts {
    ones: Ones,
    runs: Ones,
    /// The register before, its last word in front.
    before: __m256i,
}

impl Counts {
    #[target_feature(enable = "avx2")]
    #[inline]
    fn new() -> Self {
        Self { ones: Ones::new(), runs: Ones::new(), before: _mm256_setzero_si256() }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn add(&mut self, block: [__m256i; 4]) {
        self.ones.add(block);
        let mut firsts = block;
        for (firsts, here) in firsts.iter_mut().zip(block) {
            *firsts = _mm256_andnot_si256(bits_before(here, &mut self.before), here);
        }
        self.runs.add(firsts);
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn measure(self) -> Measure {
        Measure { ones: self.ones.sum(), runs: self.runs.sum() }
    }
}

/// The bit before each bit; `before` is the register before with its last word in front, and becomes this one so.
#[target_feature(enable = "avx2")]
#[inline]
fn bits_before(here: __m256i, before: &mut __m256i) -> __m256i {
    let turned = _mm256_permute4x64_epi64::<0b10_01_00_11>(here);
    let carries = _mm256_srli_epi64::<63>(_mm256_blend_epi32::<0b11>(turned, *before));
    *before = turned;
    _mm256_or_si256(_mm256_slli_epi64::<1>(here), carries)
}

#[target_feature(enable = "avx2")]
#[inline]
fn load(words: &[u64; BLOCK]) -> [__m256i; 4] {
    let quads = words.as_chunks::<QUAD>().0;
    // SAFETY: each array is readable for 32 bytes, and the load needs no alignment.
    std::array::from_fn(|place| unsafe { _mm256_loadu_si256(quads[place].as_ptr().cast()) })
}

#[target_feature(enable = "avx2")]
#[inline]
fn store(registers: [__m256i; 4], words: &mut [u64; BLOCK]) {
    for (quad, register) in words.as_chunks_mut::<QUAD>().0.iter_mut().zip(registers) {
        // SAFETY: the array is writable for 32 bytes, and the store needs no alignment.
        unsafe { _mm256_storeu_si256(quad.as_mut_ptr().cast(), register) };
    }
}

/// Asks for the same block of the next chunk, as containers of words mostly lie one after the other.
#[target_feature(enable = "avx2")]
#[inline]
#[allow(unused_unsafe, reason = "older compilers take the call for unsafe")]
fn fetch_next(block: *const u64) {
    for line in 0..BLOCK / 8 {
        // SAFETY: the instruction reads nothing that the program would see, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(block.wrapping_add(WORDS + 8 * line).cast()) };
    }
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
pub(super) fn measure(words: &Words) -> Measure {
    let mut counts = Counts::new();
    words.as_chunks::<BLOCK>().0.iter().for_each(|block| counts.add(load(block)));
    counts.measure()
}

/// Operations on two chunks that count what they store, while they wait for memory.
macro_rules! counted {
    ($($name:ident: |$to:ident, $from:ident| $result:expr;)*) => {
        $(
            #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
            #[inline]
            pub(in crate::kernels) fn $name(to: &mut Words, from: &Words) -> Measure {
                let mut counts = Counts::new();
                for (to, from) in to.as_chunks_mut::<BLOCK>().0.iter_mut().zip(from.as_chunks::<BLOCK>().0) {
                    fetch_next(from.as_ptr());
                    fetch_next(to.as_ptr());
                    let (ours, theirs) = (load(to), load(from));
                    let mut results = ours;
                    for (result, ($to, $from)) in results.iter_mut().zip(ours.into_iter().zip(theirs)) {
                        *result = $result;
                    }
                    store(results, to);
                    counts.add(results);
                }
                counts.measure()
            }
        )*
    };
}

counted! {
    or: |to, from| _mm256_or_si256(to, from);
    and: |to, from| _mm256_and_si256(to, from);
    and_not: |to, from| _mm256_andnot_si256(from, to);
    xor: |to, from| _mm256_xor_si256(to, from);
}

#[target_feature(enable = "avx2")]
#[inline]
pub(in crate::kernels) fn or_only(to: &mut Words, from: &Words) {
    for (to, from) in to.as_chunks_mut::<BLOCK>().0.iter_mut().zip(from.as_chunks::<BLOCK>().0) {
        fetch_next(from.as_ptr());
        let (mut results, theirs) = (load(to), load(from));
        results.iter_mut().zip(theirs).for_each(|(ours, theirs)| *ours = _mm256_or_si256(*ours, theirs));
        store(results, to);
    }
}

#[target_feature(enable = "avx2")]
#[inline]
pub(in crate::kernels) fn is_subset(a: &Words, b: &Words) -> bool {
    a.as_chunks::<BLOCK>().0.iter().zip(b.as_chunks::<BLOCK>().0).all(|(a, b)| {
        fetch_next(a.as_ptr());
        fetch_next(b.as_ptr());
        let [first, second, third, fourth] = load(a);
        let [others @ .., last] = load(b);
        let none = [first, second, third]
            .iter()
            .zip(others)
            .fold(_mm256_andnot_si256(last, fourth), |left, (a, b)| _mm256_or_si256(left, _mm256_andnot_si256(b, *a)));
        _mm256_testz_si256(none, none) == 1
    })
}

/// The words of a chunk that are not 0.
struct Used {
    indices: [MaybeUninit<u16>; WORDS + LANES],
    count: usize,
}

impl Used {
    #[inline]
    fn new() -> Self {
        Self { indices: [MaybeUninit::uninit(); WORDS + LANES], count: 0 }
    }

    /// Adds those of eight words, which follow the eight before; `first` is the index of the first.
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
    #[inline]
    #[allow(clippy::cast_possible_wrap, reason = "a chunk has 1024 words")]
    fn add(&mut self, first: u16, words: [__m256i; 2]) {
        let none = _mm256_setzero_si256();
        let [low, high] = words.map(|words| _mm256_castsi256_pd(_mm256_cmpeq_epi64(words, none)));
        let empty = (_mm256_movemask_pd(low) | _mm256_movemask_pd(high) << QUAD).cast_unsigned() as usize;
        let indices = _mm_add_epi16(_mm_set1_epi16(first as i16), _mm_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7));
        let room: &mut [_] = &mut self.indices[self.count..][..LANES];
        // SAFETY: 16 bytes are writable, and the store needs no alignment.
        unsafe { _mm_storeu_si128(room.as_mut_ptr().cast(), packed(indices, empty)) };
        self.count += LANES - empty.count_ones() as usize;
    }

    fn iter(&self) -> impl Iterator<Item = u16> {
        // SAFETY: `add` has stored as many.
        self.indices[..self.count].iter().map(|index| unsafe { index.assume_init() })
    }

    /// Puts the positions of the bits of all these words, as many as `out` has room for; their number.
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "a word has 64 bits; what is above is overwritten")]
    fn positions<const AT_ONCE: usize>(&self, words: &Words, out: &mut [u16]) -> usize {
        let mut count = 0;
        for index in self.iter() {
            let word = words[usize::from(index) % WORDS];
            let Some(room) = out.get_mut(count..).and_then(|rest| rest.first_chunk_mut::<ROOM>()) else { break };
            portable::each_bit::<AT_ONCE>(word, |place, bit| room[place] = (index * 64).wrapping_add(bit as u16));
            count += word.count_ones() as usize;
        }
        count
    }
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
pub(super) fn positions(words: &Words, out: &mut [u16]) -> usize {
    let mut used = Used::new();
    for (first, block) in (0..).step_by(BLOCK).zip(words.as_chunks::<BLOCK>().0) {
        let [a, b, c, d] = load(block);
        used.add(first, [a, b]);
        used.add(first + 8, [c, d]);
    }
    if used.count < MANY { used.positions::<4>(words, out) } else { used.positions::<8>(words, out) }
}

/// Puts where runs begin and where they have ended, which take turns, side by side. The runs of a disk leave most words alone,
/// which then cost nothing more.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline]
pub(super) fn runs(words: &Words, out: &mut [Pair]) -> usize {
    let mut changes = [0; WORDS];
    let (mut used, mut before) = (Used::new(), _mm256_setzero_si256());
    let blocks = words.as_chunks::<BLOCK>().0.iter().zip(changes.as_chunks_mut::<BLOCK>().0);
    for (first, (block, changes)) in (0..).step_by(BLOCK).zip(blocks) {
        let [a, b, c, d] = load(block).map(|here| _mm256_xor_si256(here, bits_before(here, &mut before)));
        store([a, b, c, d], changes);
        used.add(first, [a, b]);
        used.add(first + 8, [c, d]);
    }
    let bounds = out.as_flattened_mut();
    let mut count = used.positions::<4>(&changes, bounds);
    assert!(bounds.len() >= count + ROOM, "there is room behind all runs");
    if words[WORDS - 1] >> 63 == 1 {
        // The end of the chunk, of which 16 bits are left.
        bounds[count] = 0;
        count += 1;
    }
    for [_, last] in &mut out[..count / 2] {
        *last = last.wrapping_sub(1);
    }
    count / 2
}

const _: () = assert!(WORDS.is_multiple_of(BLOCK));
