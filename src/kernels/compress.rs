//! Owns what takes the instructions of AVX-512 that compress and expand bytes, written by hand as the compiler does not use
//! them. Must never be reached on a CPU without AVX-512 with BW, VL and VBMI2.

use super::body::{self, EDGES, MASKS, ROOM, SPARSE_ROOM, WORDS};
use super::{Pair, Words};
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// The bytes of one register.
const LANES: usize = 64;

/// As a caller of these features: each door here is reached only through `x86::AVX512`.
macro_rules! door {
    ($name:ident, $body:ident, ($($argument:ident: $type:ty),*) -> $result:ty) => {
        pub(super) fn $name($($argument: $type),*) -> $result {
            // SAFETY: this is reached only through `x86::AVX512`, which `kernels::of` gives out only where detection has
            // found all of these features.
            unsafe { $body($($argument),*) }
        }
    };
}

door!(pack, pack_avx512, (words: &Words, out: &mut [u8]) -> usize);
door!(spread, spread_avx512, (sparse: &[u8], words: &mut Words) -> ());
door!(positions, positions_avx512, (words: &Words, out: &mut [u16]) -> usize);
door!(edges, edges_avx512, (words: &Words, from: u32, to: u32, out: &mut [u32; EDGES]) -> (usize, u32));
door!(scatter_runs, scatter_runs_avx512, (runs: &[Pair], words: &mut Words) -> ());

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
fn pack_avx512(words: &Words, out: &mut [u8]) -> usize {
    let mut low = [0; 8 * WORDS + LANES];
    let mut lower = [0; 8 * MASKS / 8];
    let mut taken = 0;
    for (mask, eight) in lower.iter_mut().zip(words.as_chunks::<8>().0) {
        *mask = take(load_words(eight), &mut low[taken..]);
        taken += mask.count_ones() as usize;
    }
    let out = &mut out[..SPARSE_ROOM];
    let mut end = MASKS;
    for (place, eight) in lower.as_chunks::<8>().0.iter().enumerate() {
        let mask = take(load_words(eight), &mut out[end..]);
        out[8 * place..8 * place + 8].copy_from_slice(&mask.to_le_bytes());
        end += mask.count_ones() as usize;
    }
    out[end..end + taken].copy_from_slice(&low[..taken]);
    end + taken
}

/// Puts the bytes that are not 0 to the front of `room`, which has a register's bytes or more; which they are.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
fn take(bytes: __m512i, room: &mut [u8]) -> u64 {
    let mask = _mm512_test_epi8_mask(bytes, bytes);
    store_bytes(_mm512_maskz_compress_epi8(mask, bytes), room);
    mask
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
fn spread_avx512(sparse: &[u8], words: &mut Words) {
    let (upper, mut rest) = sparse.split_at(sparse.len().min(MASKS));
    let mut lower = [0; 8 * MASKS / 8];
    for (eight, mask) in lower.as_chunks_mut::<8>().0.iter_mut().zip(upper.as_chunks::<8>().0) {
        store_words(put(u64::from_le_bytes(*mask), &mut rest), eight);
    }
    for (eight, &mask) in words.as_chunks_mut::<8>().0.iter_mut().zip(&lower) {
        let sum = _mm512_or_si512(load_words(eight), put(mask, &mut rest));
        store_words(sum, eight);
    }
}

/// The next of `rest` at the places of a mask; 0 where there are not so many.
#[target_feature(enable = "bmi1,bmi2,popcnt,avx512f,avx512bw,avx512vbmi2")]
fn put(mask: u64, rest: &mut &[u8]) -> __m512i {
    let bytes = match rest.first_chunk::<LANES>() {
        // SAFETY: the array is readable for 64 bytes, and the load needs no alignment.
        Some(bytes) => unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) },
        // SAFETY: only the lanes of the mask are read, which are as many as there are bytes, less than 64.
        None => unsafe { _mm512_maskz_loadu_epi8((1 << rest.len()) - 1, rest.as_ptr().cast()) },
    };
    *rest = rest.get(mask.count_ones() as usize..).unwrap_or_default();
    _mm512_maskz_expand_epi8(mask, bytes)
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
fn positions_avx512(words: &Words, out: &mut [u16]) -> usize {
    let each = numbers();
    let mut count = 0;
    for (index, &word) in (0..).zip(words) {
        let Some(room) = out.get_mut(count..).and_then(|rest| rest.first_chunk_mut::<ROOM>()) else { break };
        let found = word.count_ones();
        let bits = _mm512_maskz_compress_epi8(word, each);
        let base = _mm256_set1_epi16(i16::wrapping_mul(index, 64));
        let (sixteens, _) = room.as_chunks_mut::<16>();
        let quarters = [
            _mm512_extracti32x4_epi32::<0>(bits),
            _mm512_extracti32x4_epi32::<1>(bits),
            _mm512_extracti32x4_epi32::<2>(bits),
            _mm512_extracti32x4_epi32::<3>(bits),
        ];
        for (place, (sixteen, quarter)) in (0..).zip(sixteens.iter_mut().zip(quarters)) {
            if place > 0 && found <= 16 * place {
                break;
            }
            let positions = _mm256_add_epi16(_mm256_cvtepu8_epi16(quarter), base);
            // SAFETY: the array is writable for 32 bytes, and the store needs no alignment.
            unsafe { _mm256_storeu_si256(sixteen.as_mut_ptr().cast(), positions) };
        }
        count += found as usize;
    }
    count
}

/// As the portable body, but for how the places of a word's changes are found.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
fn edges_avx512(words: &Words, from: u32, to: u32, out: &mut [u32; EDGES]) -> (usize, u32) {
    let each = numbers();
    body::edges_by(words, from, to, out, |changes, base, room| {
        let bits = _mm512_maskz_compress_epi8(changes, each);
        #[allow(clippy::cast_possible_wrap, reason = "positions of a chunk are below 65536")]
        let base = _mm512_set1_epi32(base as i32);
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

/// Makes a list of masks and of the words that they are for, one for the word in which a run begins and, where it ends in the
/// next one, one for that: a jump at each run would be guessed wrong too often.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
fn scatter_runs_avx512(runs: &[Pair], words: &mut Words) {
    const EIGHT: usize = LANES / size_of::<u64>();
    const BLOCKS: usize = 16;
    const MOST: usize = 2 * EIGHT * BLOCKS + EIGHT;
    let (mut masks, mut places) = ([MaybeUninit::<u64>::uninit(); MOST], [MaybeUninit::<u64>::uninit(); MOST]);
    let store = |numbers: __m512i, list: &mut [MaybeUninit<u64>; MOST], count: usize| {
        let room: &mut [_] = &mut list[count..count + EIGHT];
        // SAFETY: the slice is writable for 64 bytes, and the store needs no alignment.
        unsafe { _mm512_storeu_si512(room.as_mut_ptr().cast(), numbers) }
    };
    let (ones, last_bit, last_word) = (_mm512_set1_epi64(-1), _mm512_set1_epi64(63), _mm512_set1_epi64(1023));
    let (blocks, rest) = runs.as_chunks::<EIGHT>();
    for blocks in blocks.chunks(BLOCKS) {
        let mut count = 0;
        for block in blocks {
            // SAFETY: the array is readable for 32 bytes, and the load needs no alignment.
            let firsts = _mm512_cvtepu32_epi64(unsafe { _mm256_loadu_si256(block.as_ptr().cast()) });
            let lasts = _mm512_srli_epi64::<16>(firsts);
            let heads = _mm512_sllv_epi64(ones, _mm512_and_si512(firsts, last_bit));
            let tails = _mm512_srlv_epi64(ones, _mm512_andnot_si512(lasts, last_bit));
            let from = _mm512_and_si512(_mm512_srli_epi64::<6>(firsts), last_word);
            let to = _mm512_srli_epi64::<6>(lasts);
            let further = _mm512_sub_epi64(to, from);
            if _mm512_cmpgt_epu64_mask(further, _mm512_set1_epi64(1)) != 0 {
                body::scatter_runs(block, words);
                continue;
            }
            let goes_on = _mm512_test_epi64_mask(further, further);
            store(_mm512_mask_and_epi64(heads, !goes_on, heads, tails), &mut masks, count);
            store(from, &mut places, count);
            store(_mm512_maskz_compress_epi64(goes_on, tails), &mut masks, count + EIGHT);
            store(_mm512_maskz_compress_epi64(goes_on, to), &mut places, count + EIGHT);
            count += EIGHT + goes_on.count_ones() as usize;
        }
        for (mask, place) in masks[..count].iter().zip(&places[..count]) {
            // SAFETY: as many of both were stored.
            let (mask, place) = unsafe { (mask.assume_init(), place.assume_init()) };
            #[allow(clippy::cast_possible_truncation, reason = "a chunk has 1024 words")]
            let place = place as usize % WORDS;
            words[place] |= mask;
        }
    }
    body::scatter_runs(rest, words);
}

/// The numbers of the lanes.
#[target_feature(enable = "avx512f")]
fn numbers() -> __m512i {
    #[allow(clippy::cast_possible_truncation, reason = "there are 64 lanes")]
    const NUMBERS: [u8; LANES] = {
        let mut numbers = [0; LANES];
        let mut lane = 0;
        while lane < LANES {
            numbers[lane] = lane as u8;
            lane += 1;
        }
        numbers
    };
    // SAFETY: the array is readable for 64 bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(NUMBERS.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
fn load_words(words: &[u64; 8]) -> __m512i {
    // SAFETY: the array is readable for 64 bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
fn store_words(bytes: __m512i, words: &mut [u64; 8]) {
    // SAFETY: the array is writable for 64 bytes, and the store needs no alignment.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), bytes) }
}

#[target_feature(enable = "avx512f")]
fn store_bytes(bytes: __m512i, room: &mut [u8]) {
    let room: &mut [u8] = &mut room[..LANES];
    // SAFETY: the slice is writable for 64 bytes, and the store needs no alignment.
    unsafe { _mm512_storeu_si512(room.as_mut_ptr().cast(), bytes) }
}
