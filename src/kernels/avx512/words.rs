//! Owns the loops over the words of a chunk in 512-bit registers. Must never be reached on a CPU without AVX-512 with BW, VL,
//! VBMI2 and its population counts.

use super::registers::{EIGHT, LANES, load_words, numbers};
use crate::kernels::portable;
use crate::kernels::table::{EDGES, Measure, Pair, ROOM, WORDS, Words};
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// The counts of words that come one block after the other.
struct Counts {
    ones: __m512i,
    runs: __m512i,
    before: __m512i,
}

impl Counts {
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn new() -> Self {
        let none = _mm512_setzero_si512();
        Self { ones: none, runs: none, before: none }
    }

    #[target_feature(enable = "avx512f,avx512vbmi2,avx512vpopcntdq")]
    #[inline]
    fn add(&mut self, here: __m512i) {
        // The bit before each bit.
        let shifted = _mm512_shldi_epi64::<1>(here, _mm512_alignr_epi64::<7>(here, self.before));
        self.ones = _mm512_add_epi64(self.ones, _mm512_popcnt_epi64(here));
        self.runs = _mm512_add_epi64(self.runs, _mm512_popcnt_epi64(_mm512_andnot_si512(shifted, here)));
        self.before = here;
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn measure(self) -> Measure {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a chunk has 65536 bits")]
        let [ones, runs] = [self.ones, self.runs].map(|counts| _mm512_reduce_add_epi64(counts) as u32);
        Measure { ones, runs }
    }
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2,avx512vpopcntdq")]
#[inline]
pub(super) fn measure(words: &Words) -> Measure {
    let mut counts = Counts::new();
    words.as_chunks::<EIGHT>().0.iter().for_each(|block| counts.add(load_words(block)));
    counts.measure()
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
#[inline]
pub(super) fn positions(words: &Words, out: &mut [u16]) -> usize {
    let each = numbers();
    let mut count = 0;
    let mut used = [MaybeUninit::<u16>::uninit(); WORDS + LANES / 2];
    let words_used = used_words(words, &mut used);
    // SAFETY: as many indices were stored.
    for index in used[..words_used].iter().map(|index| unsafe { index.assume_init() }) {
        let word = words[usize::from(index) % WORDS];
        let Some(room) = out.get_mut(count..).and_then(|rest| rest.first_chunk_mut::<ROOM>()) else { break };
        let found = word.count_ones() as usize;
        let bits = _mm512_maskz_compress_epi8(word, each);
        let base = _mm512_set1_epi16((index * 64).cast_signed());
        let halves = [_mm512_castsi512_si256(bits), _mm512_extracti64x4_epi64::<1>(bits)];
        for (place, (room, half)) in (0..).zip(room.as_chunks_mut::<{ ROOM / 2 }>().0.iter_mut().zip(halves)) {
            if place > 0 && found <= ROOM / 2 {
                break;
            }
            let positions = _mm512_add_epi16(_mm512_cvtepu8_epi16(half), base);
            // SAFETY: the array is writable for 64 bytes, and the store needs no alignment.
            unsafe { _mm512_storeu_si512(room.as_mut_ptr().cast(), positions) };
        }
        count += found;
    }
    count
}

/// The indices of the words that are not 0; their number.
#[target_feature(enable = "popcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
#[inline]
fn used_words(words: &Words, used: &mut [MaybeUninit<u16>; WORDS + LANES / 2]) -> usize {
    let mut count = 0;
    let mut indices = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(numbers()));
    for blocks in words.as_chunks::<EIGHT>().0.chunks_exact(4) {
        let mut some = 0;
        for (place, block) in (0..).zip(blocks) {
            let here = load_words(block);
            some |= u32::from(_mm512_test_epi64_mask(here, here)) << (8 * place);
        }
        let room: &mut [_] = &mut used[count..count + LANES / 2];
        // SAFETY: 64 bytes are writable, and the store needs no alignment.
        unsafe { _mm512_storeu_si512(room.as_mut_ptr().cast(), _mm512_maskz_compress_epi16(some, indices)) };
        count += some.count_ones() as usize;
        indices = _mm512_add_epi16(indices, _mm512_set1_epi16(32));
    }
    count
}

/// Puts the beginnings and the ends of runs, which take turns, side by side.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
#[inline]
pub(super) fn runs(words: &Words, out: &mut [Pair]) -> usize {
    let mut changes = [MaybeUninit::<[u64; EIGHT]>::uninit(); WORDS / EIGHT];
    let mut changed = [MaybeUninit::<u16>::uninit(); WORDS + LANES / 2];
    // The runs of a disk leave most words alone, which then cost nothing more.
    let count = changed_words(words, &mut changes, &mut changed);
    // SAFETY: `count` indices were stored.
    let changed = changed[..count].iter().map(|index| unsafe { index.assume_init() });
    let each = numbers();
    let bounds = out.as_flattened_mut();
    let mut count = 0;
    for index in changed {
        let room = bounds[count..].first_chunk_mut::<ROOM>().expect("there is room, as the kernel's users promise");
        // SAFETY: all of them were stored.
        let changes = unsafe { changes[usize::from(index) / EIGHT].assume_init_ref() }[usize::from(index) % EIGHT];
        let bits = _mm512_maskz_compress_epi8(changes, each);
        let found = changes.count_ones() as usize;
        let base = _mm512_set1_epi16((index * 64).cast_signed());
        let halves = [_mm512_castsi512_si256(bits), _mm512_extracti64x4_epi64::<1>(bits)];
        for (place, (room, half)) in (0..).zip(room.as_chunks_mut::<{ ROOM / 2 }>().0.iter_mut().zip(halves)) {
            if place > 0 && found <= ROOM / 2 {
                break;
            }
            let positions = _mm512_add_epi16(_mm512_cvtepu8_epi16(half), base);
            // SAFETY: the array is writable for 64 bytes, and the store needs no alignment.
            unsafe { _mm512_storeu_si512(room.as_mut_ptr().cast(), positions) };
        }
        count += found;
    }
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

/// At which bits of each word a run begins or has ended, and the indices of the words that have such a bit; their number.
#[target_feature(enable = "popcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
#[inline]
fn changed_words(
    words: &Words,
    changes: &mut [MaybeUninit<[u64; EIGHT]>; WORDS / EIGHT],
    changed: &mut [MaybeUninit<u16>; WORDS + LANES / 2],
) -> usize {
    let (mut count, mut before) = (0, _mm512_setzero_si512());
    let mut indices = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(numbers()));
    for (blocks, changes) in words.as_chunks::<EIGHT>().0.chunks_exact(4).zip(changes.chunks_exact_mut(4)) {
        let mut some = 0;
        for (place, (block, changes)) in (0..).zip(blocks.iter().zip(changes)) {
            let here = load_words(block);
            let shifted = _mm512_shldi_epi64::<1>(here, _mm512_alignr_epi64::<7>(here, before));
            let edges = _mm512_xor_si512(here, shifted);
            // SAFETY: 64 bytes are writable, and the store needs no alignment.
            unsafe { _mm512_storeu_si512(changes.as_mut_ptr().cast(), edges) };
            some |= u32::from(_mm512_test_epi64_mask(edges, edges)) << (8 * place);
            before = here;
        }
        let room: &mut [_] = &mut changed[count..count + LANES / 2];
        // SAFETY: 64 bytes are writable, and the store needs no alignment.
        unsafe { _mm512_storeu_si512(room.as_mut_ptr().cast(), _mm512_maskz_compress_epi16(some, indices)) };
        count += some.count_ones() as usize;
        indices = _mm512_add_epi16(indices, _mm512_set1_epi16(32));
    }
    count
}

/// As the portable body, but for how the places of a word's changes are found.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
#[inline]
pub(super) fn edges(words: &Words, from: u32, to: u32, out: &mut [u32; EDGES]) -> (usize, u32) {
    let each = numbers();
    portable::edges_by(words, from, to, out, |changes, base, room| {
        let bits = _mm512_maskz_compress_epi8(changes, each);
        let base = _mm512_set1_epi32(base.cast_signed());
        let quarters = [
            _mm512_extracti32x4_epi32::<0>(bits),
            _mm512_extracti32x4_epi32::<1>(bits),
            _mm512_extracti32x4_epi32::<2>(bits),
            _mm512_extracti32x4_epi32::<3>(bits),
        ];
        let found = changes.count_ones();
        for (place, (sixteen, quarter)) in (0..).zip(room.as_chunks_mut::<16>().0.iter_mut().zip(quarters)) {
            if place > 0 && found <= 16 * place {
                break;
            }
            let positions = _mm512_add_epi32(_mm512_cvtepu8_epi32(quarter), base);
            // SAFETY: the array is writable for 64 bytes, and the store needs no alignment.
            unsafe { _mm512_storeu_si512(sixteen.as_mut_ptr().cast(), positions) };
        }
    })
}
