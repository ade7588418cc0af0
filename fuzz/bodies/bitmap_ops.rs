//! Any bytes as a sequence of operations on two bitmaps, against sets of integers.

use checkmap::{Bitmap, Granularity};
use std::collections::BTreeSet;

/// Three chunks of 65536 granules, the last one short, so that every form and every border comes up.
const MAX_GRANULES: u64 = 2 * 65536 + 1000;
const BITS: u32 = 9;
/// More operations only make each run slower.
const MAX_OPERATIONS: usize = 48;

struct Pair {
    bitmap: Bitmap,
    set: BTreeSet<u64>,
}

impl Pair {
    fn new(size_bytes: u64) -> Self {
        let granularity = Granularity::from_bits(BITS).expect("512 bytes are a granularity");
        Self { bitmap: Bitmap::new(size_bytes, granularity).expect("a small disk"), set: BTreeSet::new() }
    }

    fn assert_equal(&self) {
        self.bitmap.validate().expect("every operation keeps the rules of the bitmap");
        assert_eq!(self.bitmap.dirty_granules(), self.set.len() as u64);
        let granules = self.bitmap.extents(0, u64::MAX);
        let granules = granules.flat_map(|extent| extent.offset >> BITS..extent.end().div_ceil(1 << BITS));
        assert!(granules.eq(self.set.iter().copied()), "the bits differ");
    }
}

/// Plays the operations: nine bytes each, what to do and two numbers.
pub(crate) fn bitmap_ops(bytes: &[u8]) {
    let mut a = Pair::new(MAX_GRANULES << BITS);
    let mut b = Pair::new(MAX_GRANULES << BITS);
    for step in bytes.as_chunks::<9>().0.iter().take(MAX_OPERATIONS) {
        let [what, numbers @ ..] = step;
        let [one, two] = [&numbers[..4], &numbers[4..]]
            .map(|number| number.iter().fold(0, |value: u64, byte| value << 8 | u64::from(*byte)));
        play(*what, one, two, &mut a, &mut b);
        a.assert_equal();
    }
    b.assert_equal();
}

fn play(what: u8, one: u64, two: u64, a: &mut Pair, b: &mut Pair) {
    let size = a.bitmap.size_bytes();
    let granules = a.bitmap.granules();
    match what % 12 {
        // A range of bytes, rounded outward.
        0 | 1 => {
            let (offset, len) = (one % (size + 1), two);
            let fits = len == 0 || offset + len <= granules << BITS;
            assert_eq!(a.bitmap.set(offset, len).is_ok(), fits);
            if fits && len > 0 {
                a.set.extend(offset >> BITS..=(offset + len - 1) >> BITS);
            }
        }
        // Whole granules, near one another.
        2 => fill(a, one % granules, two % 300),
        3 => fill(a, one % granules, two % granules),
        4 | 5 => {
            let first = one % granules;
            let end = (first + two % (if what % 12 == 4 { 300 } else { granules })).min(granules);
            a.bitmap.clear(first << BITS, (end - first) << BITS).expect("whole granules inside the disk");
            a.set.retain(|granule| !(first..end).contains(granule));
        }
        6 => std::mem::swap(a, b),
        7 => with_both(a, b, Bitmap::union_with, |a, b| a | b),
        8 => with_both(a, b, Bitmap::intersect_with, |a, b| a & b),
        9 => with_both(a, b, Bitmap::subtract, |a, b| a - b),
        10 => with_both(a, b, Bitmap::xor_with, |a, b| a ^ b),
        _ => resize(a, b, 1 + one % (MAX_GRANULES << BITS)),
    }
}

fn fill(pair: &mut Pair, first: u64, count: u64) {
    let end = (first + count).min(pair.bitmap.granules());
    pair.bitmap.set(first << BITS, (end - first) << BITS).expect("whole granules inside the disk");
    pair.set.extend(first..end);
}

fn with_both(
    a: &mut Pair,
    b: &Pair,
    bits: fn(&mut Bitmap, &Bitmap) -> checkmap::Result<()>,
    sets: fn(&BTreeSet<u64>, &BTreeSet<u64>) -> BTreeSet<u64>,
) {
    bits(&mut a.bitmap, &b.bitmap).expect("both are of one disk");
    a.set = sets(&a.set, &b.set);
    assert_eq!(a.bitmap.is_subset(&b.bitmap).expect("both are of one disk"), a.set.is_subset(&b.set));
}

/// Both change, so that they stay of one disk.
fn resize(a: &mut Pair, b: &mut Pair, size_bytes: u64) {
    for pair in [a, b] {
        pair.bitmap.resize(size_bytes).expect("a small disk");
        let granules = pair.bitmap.granules();
        pair.set.retain(|granule| *granule < granules);
    }
}
