//! Segments: bitmaps in files of our own, against the bitmap in memory, and against bytes that nobody should write.

mod bad;
mod queries;
mod unions;

#[allow(dead_code, unreachable_pub, reason = "the tests of images use more of it")]
#[path = "../support/memory.rs"]
mod memory;

use checkmap::{Bitmap, Granularity, Segment, segment};
use memory::Memory;
use proptest::prelude::*;
use proptest::sample::select;
use std::sync::Arc;

/// A disk of this many granules of 2^[`BITS`] bytes, the last one partial, in nine chunks, the last one partial too.
const GRANULES: u64 = (8 << 16) + 1000;
const BITS: u32 = 12;
const SIZE: u64 = (GRANULES << BITS) - 1234;

fn granularity(bits: u32) -> Granularity {
    Granularity::from_bits(bits).expect("a granularity")
}

/// The dirty ranges of a bitmap: the first granule, how many ranges, granules in each, granules from one to the next.
type Shape = Vec<(u64, u64, u64, u64)>;

/// Shapes that come out as arrays, words, runs and full chunks, near the borders of chunks and at the disk's end.
fn shapes() -> impl Strategy<Value = Shape> {
    let near = select(vec![0, 1 << 16, 2 << 16, 5 << 16, 6 << 16, GRANULES]);
    let first = (near, 0u64..3000).prop_map(|(near, before): (u64, u64)| near.saturating_sub(before));
    let kind = prop_oneof![
        3 => (1u64..6, 1u64..3, 1u64..9000),
        2 => (select(vec![600, 4095, 4096, 4097]), Just(1u64), 2u64..6),
        2 => (9_000u64..40_000, Just(1u64), 2u64..4),
        2 => (1u64..400, 5u64..60, 61u64..400),
        2 => (1u64..3, 60_000u64..300_000, Just(300_000u64)),
    ];
    prop::collection::vec((first, kind).prop_map(|(first, (count, len, step))| (first, count, len, step)), 0..6)
}

fn bitmap_of(shape: &Shape, bits: u32) -> Bitmap {
    let mut bitmap = Bitmap::new(SIZE, granularity(bits)).expect("a disk");
    let scale = bits.saturating_sub(BITS);
    for &(first, count, len, step) in shape {
        for number in 0..count {
            let first = (first + number * step) >> scale;
            let len = len.min(bitmap.granules().saturating_sub(first));
            if len > 0 {
                bitmap.set(first << bits, len << bits).expect("inside the disk");
            }
        }
    }
    bitmap
}

fn bytes_of(bitmap: &Bitmap) -> Vec<u8> {
    let mut bytes = Vec::new();
    let summary = segment::write(bitmap, &mut bytes).expect("memory can be written");
    assert_eq!(summary.file_bytes, bytes.len() as u64);
    assert!(segment::to_vec(bitmap).unwrap() == bytes);
    bytes
}

fn open(bytes: impl Into<Vec<u8>>) -> checkmap::Result<Segment<'static>> {
    Segment::open(Arc::new(Memory::new(bytes)))
}

fn segment_of(bitmap: &Bitmap) -> Segment<'static> {
    open(bytes_of(bitmap)).expect("we wrote it")
}
