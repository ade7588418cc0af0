#![forbid(unsafe_code)]
//! Unions on several threads against unions on one: enough chunks that threads are really used, full stretches across the
//! cuts between them, sparse, dense and clustered parts.

use checkmap::{Bitmap, Granularity};

const CHUNK: u64 = 65_536;
const CHUNKS: u64 = 20_000;

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn bitmap(seed: u64) -> Bitmap {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bitmap = Bitmap::new(CHUNK * CHUNKS, Granularity::from_bits(0).unwrap()).unwrap();
    for chunk in (0..CHUNKS).filter(|chunk| chunk % 7 != seed % 7) {
        for _ in 0..next(&mut state) % 4 {
            let offset = chunk * CHUNK + next(&mut state) % CHUNK;
            let len = (next(&mut state) % 300).min(CHUNK * CHUNKS - offset);
            bitmap.set(offset, len).unwrap();
        }
    }
    for _ in 0..12 {
        let first = next(&mut state) % (CHUNKS - 1500);
        bitmap.set(first * CHUNK, next(&mut state) % (1500 * CHUNK)).unwrap();
    }
    let dense = next(&mut state) % (CHUNKS - 10) * CHUNK;
    (0..200_000).for_each(|step| bitmap.set(dense + 3 * step, 1).unwrap());
    bitmap
}

#[test]
fn unions_do_not_depend_on_the_number_of_threads() {
    let mut bitmaps: Vec<Bitmap> = (1..=6).map(bitmap).collect();
    bitmaps.iter_mut().skip(3).for_each(|bitmap| bitmap.optimize().unwrap());
    let refs: Vec<&Bitmap> = bitmaps.iter().collect();
    let mut expected = bitmaps[0].clone();
    bitmaps[1..].iter().for_each(|other| expected.union_with(other).unwrap());
    for threads in [0, 1, 2, 3, 5, 1000] {
        let union = Bitmap::union_many_with(&refs, None, threads).unwrap();
        union.validate().unwrap();
        assert_eq!(union, expected, "{threads} threads");
        assert_eq!(union.dirty_granules(), expected.dirty_granules());
        assert!(union.extents(0, u64::MAX).eq(expected.extents(0, u64::MAX)));
    }
}
