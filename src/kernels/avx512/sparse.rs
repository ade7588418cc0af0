//! Owns packed chunks by the instructions that compress and expand bytes, 64 at a time. Must never be reached on a CPU without
//! AVX-512 with BW, VL, VBMI2 and its population counts.

use super::registers::{EIGHT, LANES, load_bytes, load_few, load_words, store_bytes, store_words};
use crate::kernels::table::{MASKS, SPARSE_ROOM, Words};
use std::arch::x86_64::*;

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2,avx512vpopcntdq")]
#[inline]
pub(super) fn pack(words: &Words, out: &mut [u8]) -> usize {
    let out = &mut out[..SPARSE_ROOM];
    let mut lower = [0; MASKS];
    for (mask, block) in lower.iter_mut().zip(words.as_chunks::<8>().0) {
        let bytes = load_words(block);
        *mask = _mm512_test_epi8_mask(bytes, bytes);
    }
    let mut end = MASKS;
    for (place, block) in lower.as_chunks::<8>().0.iter().enumerate() {
        let bytes = load_words(block);
        let mask = _mm512_test_epi8_mask(bytes, bytes);
        out[8 * place..8 * place + 8].copy_from_slice(&mask.to_le_bytes());
        store_bytes(_mm512_maskz_compress_epi8(mask, bytes), &mut out[end..]);
        end += mask.count_ones() as usize;
    }
    for (mask, block) in lower.iter().zip(words.as_chunks::<8>().0) {
        store_bytes(_mm512_maskz_compress_epi8(*mask, load_words(block)), &mut out[end..]);
        end += mask.count_ones() as usize;
    }
    end
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2,avx512vpopcntdq")]
#[inline]
pub(super) fn spread(sparse: &[u8], words: &mut Words) {
    each_block(sparse, words, |block, bytes| store_words(_mm512_or_si512(load_words(block), bytes), block));
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2,avx512vpopcntdq")]
#[inline]
pub(super) fn unpack(sparse: &[u8], words: &mut Words) {
    each_block(sparse, words, |block, bytes| store_words(bytes, block));
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2,avx512vpopcntdq")]
#[inline]
fn each_block(sparse: &[u8], words: &mut Words, put_into: impl Fn(&mut [u64; 8], __m512i)) {
    let (upper, mut rest) = sparse.split_at(sparse.len().min(MASKS));
    let mut lower = [0; MASKS];
    for (eight, mask) in lower.as_chunks_mut::<8>().0.iter_mut().zip(upper.as_chunks::<8>().0) {
        store_words(put(u64::from_le_bytes(*mask), &mut rest), eight);
    }
    let mut blocks = words.as_chunks_mut::<8>().0.iter_mut().zip(&lower);
    while let Some(bytes) = rest.first_chunk::<LANES>() {
        let Some((block, mask)) = blocks.next() else { return };
        put_into(block, _mm512_maskz_expand_epi8(*mask, load_bytes(bytes)));
        // SAFETY: the mask has no more bits than the 64 bytes that were there.
        rest = unsafe { rest.get_unchecked(mask.count_ones() as usize..) };
    }
    for (block, &mask) in blocks {
        put_into(block, put(mask, &mut rest));
    }
}

/// Takes the next bytes of `rest` to the places of a mask; places for which no byte is left get 0.
#[target_feature(enable = "bmi1,bmi2,popcnt,avx512f,avx512bw,avx512vbmi2")]
#[inline]
fn put(mask: u64, rest: &mut &[u8]) -> __m512i {
    let bytes = match rest.first_chunk::<LANES>() {
        Some(bytes) => load_bytes(bytes),
        None => load_few(rest),
    };
    *rest = rest.get(mask.count_ones() as usize..).unwrap_or_default();
    _mm512_maskz_expand_epi8(mask, bytes)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vpopcntdq")]
#[inline]
pub(super) fn byte_ones(bytes: &[u8]) -> u32 {
    let (blocks, rest) = bytes.as_chunks::<LANES>();
    let mut ones = _mm512_popcnt_epi64(load_few(rest));
    for block in blocks {
        ones = _mm512_add_epi64(ones, _mm512_popcnt_epi64(load_bytes(block)));
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes of a chunk are few")]
    let ones = _mm512_reduce_add_epi64(ones) as u32;
    ones
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
#[inline]
pub(super) fn packed_len(words: &Words) -> usize {
    let mut lower = [0; MASKS];
    let mut bytes = 0;
    for (mask, block) in lower.iter_mut().zip(words.as_chunks::<EIGHT>().0) {
        let block = load_words(block);
        *mask = _mm512_test_epi8_mask(block, block);
        bytes += mask.count_ones() as usize;
    }
    lower.as_chunks::<EIGHT>().0.iter().fold(MASKS + bytes, |len, block| {
        let masks = load_words(block);
        len + _mm512_test_epi8_mask(masks, masks).count_ones() as usize
    })
}
