//! Owns what takes the instructions of AVX-512 that compress and expand bytes, written by hand as the compiler does not use
//! them. Must never be reached on a CPU without AVX-512 with BW, VL and VBMI2.

use super::body::{self, EDGES, MASKS, ROOM, SPARSE_ROOM, WORDS};
use super::{Measure, Pair, Words};
use crate::geometry::Extent;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// The bytes of one register, and its words.
const LANES: usize = 64;
const EIGHT: usize = LANES / size_of::<u64>();

/// The kernel `$name`, which any code may call, for `$body`, which only a CPU with its features may run.
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
door!(byte_ones, byte_ones_avx512, (bytes: &[u8]) -> u32);
door!(positions, positions_avx512, (words: &Words, out: &mut [u16]) -> usize);
door!(list_runs, list_runs_avx512, (list: &[u16]) -> usize);
door!(edges, edges_avx512, (words: &Words, from: u32, to: u32, out: &mut [u32; EDGES]) -> (usize, u32));
door!(extents, extents_avx512, (list: &[u16], base: u64, bits: u32, out: &mut [Extent], filled: usize) -> usize);
door!(runs, runs_avx512, (words: &Words, out: &mut [Pair]) -> usize);
door!(scatter_runs, scatter_runs_avx512, (runs: &[Pair], words: &mut Words) -> ());
door!(apart_ones, apart_ones_avx512, (runs: &[Pair]) -> Option<u32>);
door!(measure, measure_avx512, (words: &Words) -> Measure);
door!(packed_len, packed_len_avx512, (words: &Words) -> usize);

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2,avx512vpopcntdq")]
fn pack_avx512(words: &Words, out: &mut [u8]) -> usize {
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

pub(super) fn spread(sparse: &[u8], words: &mut Words) {
    // SAFETY: as above.
    unsafe { each_block(sparse, words, |block, bytes| store_words(_mm512_or_si512(load_words(block), bytes), block)) }
}

pub(super) fn unpack(sparse: &[u8], words: &mut Words) {
    // SAFETY: as above.
    unsafe { each_block(sparse, words, |block, bytes| store_words(bytes, block)) }
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2,avx512vpopcntdq")]
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

/// The next of `rest` at the places of a mask; 0 where there are not so many.
#[target_feature(enable = "bmi1,bmi2,popcnt,avx512f,avx512bw,avx512vbmi2")]
fn put(mask: u64, rest: &mut &[u8]) -> __m512i {
    let bytes = match rest.first_chunk::<LANES>() {
        Some(bytes) => load_bytes(bytes),
        None => load_few(rest),
    };
    *rest = rest.get(mask.count_ones() as usize..).unwrap_or_default();
    _mm512_maskz_expand_epi8(mask, bytes)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vpopcntdq")]
fn byte_ones_avx512(bytes: &[u8]) -> u32 {
    let (blocks, rest) = bytes.as_chunks::<LANES>();
    let mut ones = _mm512_popcnt_epi64(load_few(rest));
    for block in blocks {
        ones = _mm512_add_epi64(ones, _mm512_popcnt_epi64(load_bytes(block)));
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes of a chunk are few")]
    let ones = _mm512_reduce_add_epi64(ones) as u32;
    ones
}

#[target_feature(enable = "bmi2,popcnt,avx512f,avx512bw")]
fn list_runs_avx512(list: &[u16]) -> usize {
    let Some((_, rest)) = list.split_first() else { return 0 };
    let (mut before, mut after, mut runs) = (list, rest, 1);
    while !after.is_empty() {
        #[allow(clippy::cast_possible_truncation, reason = "the number of lanes is small")]
        let lanes = _bzhi_u32(u32::MAX, after.len().min(LANES / 2) as u32);
        // SAFETY: only the lanes of the mask are read, which are no more than there are items in the shorter list.
        let (low, high) = unsafe {
            (
                _mm512_maskz_loadu_epi16(lanes, before.as_ptr().cast()),
                _mm512_maskz_loadu_epi16(lanes, after.as_ptr().cast()),
            )
        };
        let steps = _mm512_sub_epi16(high, low);
        runs += _mm512_mask_cmpneq_epi16_mask(lanes, steps, _mm512_set1_epi16(1)).count_ones() as usize;
        before = before.get(LANES / 2..).unwrap_or_default();
        after = after.get(LANES / 2..).unwrap_or_default();
    }
    runs
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
fn positions_avx512(words: &Words, out: &mut [u16]) -> usize {
    let each = numbers();
    let mut count = 0;
    for (index, &word) in (0_u16..).zip(words) {
        let Some(room) = out.get_mut(count..).and_then(|rest| rest.first_chunk_mut::<ROOM>()) else { break };
        let found = word.count_ones();
        let bits = _mm512_maskz_compress_epi8(word, each);
        let base = _mm256_set1_epi16((index * 64).cast_signed());
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

/// Puts the beginnings and the ends of runs, which take turns, side by side.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
fn runs_avx512(words: &Words, out: &mut [Pair]) -> usize {
    let mut changes = [MaybeUninit::<[u64; EIGHT]>::uninit(); WORDS / EIGHT];
    let mut changed = [MaybeUninit::<u16>::uninit(); WORDS + LANES / 2];
    // The runs of a disk leave most words alone, which then cost nothing more.
    let count = changed_words(words, &mut changes, &mut changed);
    // SAFETY: so many were stored.
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
fn edges_avx512(words: &Words, from: u32, to: u32, out: &mut [u32; EDGES]) -> (usize, u32) {
    let each = numbers();
    body::edges_by(words, from, to, out, |changes, base, room| {
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

/// Takes the items that begin runs, and those that end them, and makes extents of both without a jump that depends on how they
/// lie.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
fn extents_avx512(list: &[u16], base: u64, bits: u32, out: &mut [Extent], filled: usize) -> usize {
    const ITEMS: usize = LANES / size_of::<u16>();
    const EXTENTS: usize = LANES / size_of::<Extent>();
    /// Fewer items are quicker without registers that are mostly empty.
    const FEW_ITEMS: usize = 16;
    if list.len() < FEW_ITEMS {
        return body::extents(list, base, bits, out, filled);
    }
    let (granule, mut filled) = (1 << bits, filled);
    let offset = |item: u16| base + (u64::from(item) << bits);
    let shift = _mm_cvtsi32_si128(bits.cast_signed());
    let (low, step) = (base.cast_signed(), granule as i64);
    let least = _mm512_setr_epi64(low, step, low, step, low, step, low, step);
    let mut end = body::last_of(&out[..filled]).end();
    for some in list.chunks(ITEMS) {
        let lanes = u32::MAX >> (ITEMS - some.len());
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
        if let Some(room) = room.first_chunk_mut::<ITEMS>() {
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

/// The words of one register, aligned as it is: else each store of one goes to two lines of the cache.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u64; EIGHT]);

/// Sets for each run what it has in the word in which it begins; what it has in the next one is set afterwards, from a list of
/// the runs that go on: a jump at each run would be guessed wrong too often.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
fn scatter_runs_avx512(runs: &[Pair], words: &mut Words) {
    const BLOCKS: usize = 32;
    let mut masks = [MaybeUninit::<Line>::uninit(); BLOCKS];
    let mut going_on = [MaybeUninit::<Pair>::uninit(); EIGHT * BLOCKS];
    let (ones, last_bit) = (_mm512_set1_epi64(-1), _mm512_set1_epi64(63));
    let (blocks, rest) = runs.as_chunks::<EIGHT>();
    for blocks in blocks.chunks(BLOCKS) {
        let (mut count, mut longer) = (0, 0);
        for (block, masks) in blocks.iter().zip(&mut masks) {
            // SAFETY: the array is readable for 32 bytes, and the load needs no alignment.
            let pairs = unsafe { _mm256_loadu_si256(block.as_ptr().cast()) };
            let (first, last) = (_mm256_and_si256(pairs, _mm256_set1_epi32(0xffff)), _mm256_srli_epi32::<16>(pairs));
            let goes_on = _mm256_cmpgt_epu32_mask(_mm256_xor_si256(first, last), _mm256_set1_epi32(63));
            // Only a run of more than 65 bits has bits in a third word.
            longer |= _mm256_cmpgt_epu32_mask(_mm256_sub_epi32(last, first), _mm256_set1_epi32(64));
            let (first, last) = (_mm512_cvtepu32_epi64(first), _mm512_cvtepu32_epi64(last));
            let heads = _mm512_sllv_epi64(ones, _mm512_and_si512(first, last_bit));
            let tails = _mm512_srlv_epi64(ones, _mm512_andnot_si512(last, last_bit));
            let room: &mut [_] = &mut going_on[count..count + EIGHT];
            // SAFETY: 64 and 32 bytes are writable, and the stores need no alignment.
            unsafe {
                _mm512_storeu_si512(masks.as_mut_ptr().cast(), _mm512_mask_and_epi64(heads, !goes_on, heads, tails));
                _mm256_storeu_si256(room.as_mut_ptr().cast(), _mm256_maskz_compress_epi32(goes_on, pairs));
            }
            count += goes_on.count_ones() as usize;
        }
        for (block, masks) in blocks.iter().zip(&masks) {
            // SAFETY: as many were stored as there are blocks.
            let Line(masks) = unsafe { masks.assume_init_ref() };
            for (&[first, _], mask) in block.iter().zip(masks) {
                words[usize::from(first / 64)] |= mask;
            }
        }
        // SAFETY: so many were stored.
        let going_on = going_on[..count].iter().map(|pair| unsafe { pair.assume_init() });
        for [_, last] in going_on.clone() {
            words[usize::from(last / 64)] |= u64::MAX >> (63 - last % 64);
        }
        if longer != 0 {
            for [first, last] in going_on {
                let (next, to) = (usize::from(first / 64) + 1, usize::from(last / 64));
                if next < to {
                    words[next..to].fill(u64::MAX);
                }
            }
        }
    }
    body::scatter_runs(rest, words);
}

/// As the portable body, sixteen runs at a time.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2")]
fn apart_ones_avx512(runs: &[Pair]) -> Option<u32> {
    const SIXTEEN: usize = LANES / size_of::<Pair>();
    let (low, two) = (_mm512_set1_epi32(0xffff), _mm512_set1_epi32(2));
    let (mut ones, mut wrong) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    for block in (0..runs.len()).step_by(SIXTEEN).map(|from| &runs[from..]) {
        let (here, next) = (lanes(block.len()), lanes(block.len() - 1));
        // SAFETY: only the lanes of the masks are read, which are no more than there are runs, and runs behind the first.
        let [pairs, others] = unsafe {
            [
                _mm512_maskz_loadu_epi32(here, block.as_ptr().cast()),
                _mm512_maskz_loadu_epi32(next, block.as_ptr().add(1).cast()),
            ]
        };
        let last = _mm512_srli_epi32::<16>(pairs);
        let more = _mm512_sub_epi32(last, _mm512_and_si512(pairs, low));
        let gap = _mm512_sub_epi32(_mm512_sub_epi32(_mm512_and_si512(others, low), last), two);
        // A difference below 0 has the highest bit.
        wrong = _mm512_or_si512(wrong, more);
        wrong = _mm512_mask_or_epi32(wrong, next, wrong, gap);
        ones = _mm512_add_epi32(ones, more);
    }
    #[allow(clippy::cast_possible_truncation, reason = "a chunk has 65536 bits")]
    let ones = _mm512_reduce_add_epi32(ones).cast_unsigned().wrapping_add(runs.len() as u32);
    (_mm512_movepi32_mask(wrong) == 0).then_some(ones)
}

/// The first so many of sixteen lanes.
#[allow(clippy::cast_possible_truncation, reason = "there are 16 lanes")]
fn lanes(count: usize) -> u16 {
    (0xffff_u32 >> 16_usize.saturating_sub(count)) as u16
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2,avx512vpopcntdq")]
fn measure_avx512(words: &Words) -> Measure {
    let (mut ones, mut runs) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    let mut before = _mm512_setzero_si512();
    for block in words.as_chunks::<EIGHT>().0 {
        let here = load_words(block);
        // The bit before each bit.
        let shifted = _mm512_shldi_epi64::<1>(here, _mm512_alignr_epi64::<7>(here, before));
        ones = _mm512_add_epi64(ones, _mm512_popcnt_epi64(here));
        runs = _mm512_add_epi64(runs, _mm512_popcnt_epi64(_mm512_andnot_si512(shifted, here)));
        before = here;
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a chunk has 65536 bits")]
    let [ones, runs] = [ones, runs].map(|counts| _mm512_reduce_add_epi64(counts) as u32);
    Measure { ones, runs }
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
fn packed_len_avx512(words: &Words) -> usize {
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
fn load_bytes(bytes: &[u8; LANES]) -> __m512i {
    // SAFETY: the array is readable for 64 bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// Less than 64 bytes, and zeros.
#[target_feature(enable = "avx512f,avx512bw")]
fn load_few(bytes: &[u8]) -> __m512i {
    let lanes = (1 << (bytes.len() % LANES)) - 1;
    // SAFETY: only the lanes of the mask are read, which are no more than there are bytes.
    unsafe { _mm512_maskz_loadu_epi8(lanes, bytes.as_ptr().cast()) }
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
