#![forbid(unsafe_code)]
//! Set operations on several threads against those on one: enough chunks that threads are really used, full stretches across the
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

#[test]
fn set_operations_do_not_depend_on_the_number_of_threads() {
    let (mut a, b) = (bitmap(7), bitmap(8));
    a.optimize().unwrap();
    let intersection = a.intersection(&b).unwrap();
    let difference = a.difference(&b).unwrap();
    let xor = a.symmetric_difference(&b).unwrap();
    assert!(!intersection.is_empty() && !difference.is_empty() && xor != difference);
    let check = |what: &str, threads: usize, made: &Bitmap, expected: &Bitmap| {
        made.validate().unwrap();
        assert_eq!(made, expected, "{what}, {threads} threads");
        assert_eq!(made.dirty_granules(), expected.dirty_granules(), "{what}, {threads} threads");
    };
    for threads in [0, 1, 2, 3, 5, 1000] {
        check("intersection", threads, &a.intersection_on(&b, threads).unwrap(), &intersection);
        check("difference", threads, &a.difference_on(&b, threads).unwrap(), &difference);
        check("xor", threads, &a.symmetric_difference_on(&b, threads).unwrap(), &xor);
        let changed = |change: &dyn Fn(&mut Bitmap)| {
            let mut changed = a.clone();
            change(&mut changed);
            changed
        };
        let intersected = changed(&|a| a.intersect_with_on(&b, threads).unwrap());
        check("intersect in place", threads, &intersected, &intersection);
        check("subtract in place", threads, &changed(&|a| a.subtract_on(&b, threads).unwrap()), &difference);
        check("xor in place", threads, &changed(&|a| a.xor_with_on(&b, threads).unwrap()), &xor);
    }
    let sum = difference.union(&intersection).unwrap();
    assert_eq!(sum, a);
}
