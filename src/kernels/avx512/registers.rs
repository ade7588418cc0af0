//! Owns how bytes and words come into 512-bit registers and out of them. Must never be reached on a CPU without AVX-512 with BW.

use std::arch::x86_64::*;

/// The bytes of one register, and its words.
pub(super) const LANES: usize = 64;
pub(super) const EIGHT: usize = LANES / size_of::<u64>();

/// The numbers of the lanes.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn numbers() -> __m512i {
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
#[inline]
pub(super) fn load_bytes(bytes: &[u8; LANES]) -> __m512i {
    // SAFETY: the array is readable for 64 bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// Less than 64 bytes, and zeros.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn load_few(bytes: &[u8]) -> __m512i {
    let lanes = (1 << (bytes.len() % LANES)) - 1;
    // SAFETY: only the lanes of the mask are read, which are no more than there are bytes.
    unsafe { _mm512_maskz_loadu_epi8(lanes, bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn load_words(words: &[u64; 8]) -> __m512i {
    // SAFETY: the array is readable for 64 bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn store_words(bytes: __m512i, words: &mut [u64; 8]) {
    // SAFETY: the array is writable for 64 bytes, and the store needs no alignment.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), bytes) }
}

#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn store_bytes(bytes: __m512i, room: &mut [u8]) {
    let room: &mut [u8] = &mut room[..LANES];
    // SAFETY: the slice is writable for 64 bytes, and the store needs no alignment.
    unsafe { _mm512_storeu_si512(room.as_mut_ptr().cast(), bytes) }
}
