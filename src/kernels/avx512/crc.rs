//! Owns the checksum CRC-32C by carry-less multiplication of 512 bits at once. Must never be reached on a CPU without
//! AVX-512 and VPCLMULQDQ.
//!
//! The bytes are a polynomial, of which only the remainder counts. What stands in a register is multiplied by x^n mod P, n
//! being the bits by which it lies before what it is added to: that is 16 bytes where there were 16 + n / 8. The last 16
//! bytes that are left take the processor's own instruction for CRC-32C.

use crate::kernels::portable;
use std::arch::x86_64::*;

/// The bytes of one register, and of those that are folded side by side.
const LANES: usize = 64;
const BLOCK: usize = 4 * LANES;

/// From this many bytes on the wide registers are faster: 64 bytes take 18 ns in them and 7 ns in the portable body, 512 bytes 24
/// ns in both, on the Xeon of docs/performance.md.
const WIDE_FROM: usize = 512;

/// By what the lower and the upper half of 16 bytes are multiplied that lie `bits` before others.
const fn factors(bits: u32) -> [u64; 2] {
    [power(bits + 32), power(bits - 32)]
}

/// x^n mod P, from the least significant bit of 33 down.
const fn power(n: u32) -> u64 {
    const POLYNOMIAL: u32 = 0x1edc_6f41;
    let mut rest: u32 = 1;
    let mut step = 0;
    while step < n {
        rest = rest << 1 ^ if rest >> 31 == 1 { POLYNOMIAL } else { 0 };
        step += 1;
    }
    (rest.reverse_bits() as u64) << 1
}

const BY_BLOCK: [u64; 2] = factors(2048);
const BY_REGISTER: [u64; 2] = factors(512);
/// The first three quarters of a register to its last.
const BY_QUARTERS: [[u64; 2]; 4] = [factors(384), factors(256), factors(128), [0, 0]];

#[target_feature(enable = "sse4.2,avx512f,avx512bw,avx512vl,vpclmulqdq")]
#[inline]
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    if bytes.len() < WIDE_FROM {
        return portable::crc32c(bytes);
    }
    // What does not fill a register comes first, as zeros before it change nothing: so nothing is left behind.
    let (head, rest) = bytes.split_at(bytes.len() % LANES);
    let (registers, blocks) = rest.as_chunks().0.split_at(rest.len() % BLOCK / LANES);
    // Ones instead of the first 32 bits, wherever these are, are part of the definition.
    let first = 0xf_u128 << (LANES - head.len());
    #[allow(clippy::cast_possible_truncation, reason = "its halves")]
    let mut ones = [first as u64, (first >> 64) as u64].map(|mask| _mm512_maskz_set1_epi8(mask, -1)).into_iter();
    let mut started = |sum| ones.next().map_or(sum, |ones| _mm512_xor_si512(sum, ones));
    let by_register = all(BY_REGISTER);
    let mut sum = started(load_last(head));
    for register in registers {
        sum = started(_mm512_xor_si512(fold(sum, by_register), load(register)));
    }
    if let Some((first, blocks)) = blocks.as_chunks::<{ BLOCK / LANES }>().0.split_first() {
        let mut sums = first.each_ref().map(|register| load(register));
        sums[0] = started(_mm512_xor_si512(fold(sum, by_register), sums[0]));
        let by_block = all(BY_BLOCK);
        for block in blocks {
            for (sum, register) in sums.iter_mut().zip(block) {
                *sum = _mm512_xor_si512(fold(*sum, by_block), load(register));
            }
        }
        sum = sums[0];
        for next in &sums[1..] {
            sum = _mm512_xor_si512(fold(sum, by_register), *next);
        }
    }
    let [[a, b], [c, d], [e, f], [g, h]] = BY_QUARTERS.map(|factors| factors.map(u64::cast_signed));
    let folded = fold(sum, _mm512_setr_epi64(a, b, c, d, e, f, g, h));
    let quarters = [
        _mm512_castsi512_si128(folded),
        _mm512_extracti32x4_epi32::<1>(folded),
        _mm512_extracti32x4_epi32::<2>(folded),
        _mm512_extracti32x4_epi32::<3>(sum),
    ];
    let last = quarters.into_iter().fold(_mm_setzero_si128(), |sum, quarter| _mm_xor_si128(sum, quarter));
    let crc = _mm_crc32_u64(0, _mm_cvtsi128_si64(last).cast_unsigned());
    #[allow(clippy::cast_possible_truncation, reason = "the instruction leaves 32 bits")]
    let crc = _mm_crc32_u64(crc, _mm_extract_epi64::<1>(last).cast_unsigned()) as u32;
    !crc
}

/// Each 16 bytes, multiplied.
#[target_feature(enable = "avx512f,vpclmulqdq")]
#[inline]
fn fold(sum: __m512i, factors: __m512i) -> __m512i {
    _mm512_xor_si512(_mm512_clmulepi64_epi128::<0x00>(sum, factors), _mm512_clmulepi64_epi128::<0x11>(sum, factors))
}

/// The same factors for all quarters.
#[target_feature(enable = "avx512f")]
#[inline]
fn all([low, high]: [u64; 2]) -> __m512i {
    _mm512_broadcast_i32x4(_mm_set_epi64x(high.cast_signed(), low.cast_signed()))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(bytes: &[u8; LANES]) -> __m512i {
    // SAFETY: the array is readable for 64 bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// A register that ends with less bytes than it has, after zeros.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn load_last(bytes: &[u8]) -> __m512i {
    debug_assert!(bytes.len() < LANES);
    let missing = LANES - bytes.len();
    let mask = if missing < LANES { u64::MAX << missing } else { 0 };
    // SAFETY: the mask leaves out what lies before the slice, which is then neither read nor a fault.
    unsafe { _mm512_maskz_loadu_epi8(mask, bytes.as_ptr().wrapping_sub(missing).cast()) }
}
