#![forbid(unsafe_code)]
//! Set operations on chunks of every form beside every other, and at granularities that differ, against CRoaring.
#![allow(clippy::cast_possible_truncation, reason = "a disk of this test has less than 2^25 granules")]

use checkmap::{Bitmap, Granularity};
use croaring::Bitmap as Model;
use proptest::prelude::*;

const CHUNK: u64 = 1 << 16;

/// How one chunk is filled.
#[derive(Clone, Copy, Debug)]
enum Fill {
    Nothing,
    All,
    /// One granule in this many, at random.
    Random(u64),
    /// Runs and gaps of about these lengths.
    Runs(u64, u64),
    /// All but one granule in this many.
    Holes(u64),
}

fn fill() -> impl Strategy<Value = Fill> {
    prop_oneof![
        3 => Just(Fill::Nothing),
        2 => Just(Fill::All),
        4 => prop::sample::select(vec![10_000, 1000, 100, 30, 20, 12, 4, 2]).prop_map(Fill::Random),
        3 => (prop::sample::select(vec![2, 40, 300, 5000]), prop::sample::select(vec![3, 60, 300, 20_000]))
            .prop_map(|(len, gap)| Fill::Runs(len, gap)),
        1 => prop::sample::select(vec![20_000, 300, 40]).prop_map(Fill::Holes),
    ]
}

/// The granules of some chunks, all below `granules`.
fn model_of(fills: &[Fill], seed: u64, granules: u64) -> Model {
    let mut state = seed;
    let mut below = |end: u64| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) % end
    };
    let mut model = Model::new();
    for (base, fill) in (0..).step_by(CHUNK as usize).zip(fills) {
        let mut chunk = Model::new();
        let end = base + CHUNK;
        match *fill {
            Fill::Nothing => {}
            Fill::All => chunk.add_range(base as u32..end as u32),
            Fill::Random(one_in) => (0..CHUNK / one_in).for_each(|_| chunk.add((base + below(CHUNK)) as u32)),
            Fill::Runs(len, gap) => {
                let mut at = base + below(gap);
                while at < end {
                    let to = (at + 1 + below(2 * len)).min(end);
                    chunk.add_range(at as u32..to as u32);
                    at = to + 1 + below(2 * gap);
                }
            }
            Fill::Holes(one_in) => {
                chunk.add_range(base as u32..end as u32);
                (0..CHUNK / one_in).for_each(|_| chunk.remove((base + below(CHUNK)) as u32));
            }
        }
        model.or_inplace(&chunk);
    }
    model.and(&Model::from_range(0..granules as u32))
}

/// The bitmap of a model: packed, and with a few chunks that were changed one by one.
fn bitmap_of(model: &Model, size_bytes: u64, bits: u32, changed: &[u64]) -> Bitmap {
    let granularity = Granularity::from_bits(bits).unwrap();
    let mut bytes = vec![0; granularity.granules(size_bytes).div_ceil(8) as usize];
    model.iter().for_each(|granule| bytes[granule as usize / 8] |= 1 << (granule % 8));
    let mut bitmap = Bitmap::from_bits(size_bytes, granularity, &bytes).unwrap();
    for granule in changed.iter().map(|at| at % granularity.granules(size_bytes)) {
        let at = granule << bits;
        match bitmap.get(at).unwrap() {
            true => {
                bitmap.clear(at, granularity.bytes().min(size_bytes - at)).unwrap();
                bitmap.set(at, 1).unwrap();
            }
            false => {
                bitmap.set(at, 1).unwrap();
                bitmap.clear(at, granularity.bytes().min(size_bytes - at)).unwrap();
            }
        }
    }
    check(&bitmap, model);
    bitmap
}

fn check(bitmap: &Bitmap, model: &Model) {
    bitmap.validate().unwrap();
    assert_eq!(bitmap.dirty_granules(), model.cardinality());
    assert_eq!(bitmap.count_range(0, u64::MAX), model.cardinality());
    let bits = bitmap.granularity().bits();
    let found = bitmap
        .extents(0, u64::MAX)
        .map(|extent| (extent.offset >> bits) as u32..extent.end().div_ceil(bitmap.granularity().bytes()) as u32);
    let mut all = Model::new();
    found.for_each(|range| all.add_range(range));
    assert!(
        all == *model,
        "{} granules too many, {} too few",
        all.andnot_cardinality(model),
        model.andnot_cardinality(&all)
    );
}

/// The model at another granularity.
fn rescaled(model: &Model, from: u32, to: u32, size_bytes: u64, inward: bool) -> Model {
    let (granule, target) = (1_u64 << from, 1_u64 << to);
    let mut found = Model::new();
    if to <= from {
        let end = size_bytes.div_ceil(target) as u32;
        let shift = from - to;
        model.iter().for_each(|at| found.add_range(at << shift..((at + 1) << shift).min(end)));
        return found;
    }
    let shift = to - from;
    model.iter().for_each(|at| found.add(at >> shift));
    if inward {
        let end = size_bytes.div_ceil(granule) as u32;
        let parts = |at: u32| at << shift..((at + 1) << shift).min(end);
        let wholly: Vec<u32> = found.iter().filter(|&at| model.contains_range(parts(at))).collect();
        return Model::of(&wholly);
    }
    found
}

type Operation = (fn(&mut Bitmap, &Bitmap), fn(&Bitmap, &Bitmap) -> Bitmap, fn(&Model, &Model) -> Model);

const OPERATIONS: [Operation; 4] = [
    (|a, b| a.union_with(b).unwrap(), |a, b| a.union(b).unwrap(), |a, b| a.or(b)),
    (|a, b| a.intersect_with(b).unwrap(), |a, b| a.intersection(b).unwrap(), |a, b| a.and(b)),
    (|a, b| a.subtract(b).unwrap(), |a, b| a.difference(b).unwrap(), |a, b| a.andnot(b)),
    (|a, b| a.xor_with(b).unwrap(), |a, b| a.symmetric_difference(b).unwrap(), |a, b| a.xor(b)),
];

fn check_operations(a: &Bitmap, x: &Model, b: &Bitmap, y: &Model) {
    for (change, make, model) in OPERATIONS {
        let expected = model(x, y);
        let made = make(a, b);
        check(&made, &expected);
        let mut changed = a.clone();
        change(&mut changed, b);
        check(&changed, &expected);
        assert!(made == changed && (made == *a) == (expected == *x));
        // Once more on the changed one.
        change(&mut changed, b);
        check(&changed, &model(&expected, y));
    }
    assert_eq!(a.is_subset(b).unwrap(), x.is_subset(y));
    assert!(a.intersection(b).unwrap().is_subset(a).unwrap() && a.is_subset(&a.union(b).unwrap()).unwrap());
}

/// What an operation only copies takes its smallest form all the same, also where it was marked granule by granule.
#[test]
fn copies_of_marked_chunks_are_in_their_smallest_form() {
    let of = |chunk: u64, fill: Fill| {
        let model = model_of(&[fill], 5, CHUNK);
        let mut bitmap = Bitmap::new(2 * CHUNK, Granularity::from_bits(0).unwrap()).unwrap();
        model.iter().for_each(|granule| bitmap.set(chunk * CHUNK + u64::from(granule), 1).unwrap());
        bitmap
    };
    let fills = [10_000, 100, 40, 30, 20, 12, 8, 6, 4, 2].map(Fill::Random);
    for fill in fills.into_iter().chain([Fill::Runs(2, 60), Fill::Runs(40, 60), Fill::Runs(5000, 300), Fill::Holes(40)])
    {
        for (marked, other) in [(0, 1), (1, 0)] {
            let (a, b) = (of(marked, fill), of(other, Fill::Random(10_000)));
            let mut all = Bitmap::new(2 * CHUNK, a.granularity()).unwrap();
            all.set(0, u64::MAX).unwrap();
            let mut expected = a.clone();
            expected.optimize().unwrap();
            let copies = [
                a.intersection(&all).unwrap(),
                all.intersection(&a).unwrap(),
                a.difference(&b).unwrap(),
                a.union(&b).unwrap().difference(&b).unwrap(),
                b.symmetric_difference(&a).unwrap().difference(&b).unwrap(),
                Bitmap::union_many(&[&b, &a], None).unwrap().difference(&b).unwrap(),
            ];
            for mut copy in copies {
                copy.validate().unwrap();
                copy.optimize().unwrap();
                copy.validate().unwrap();
                assert!(copy == a && copy.heap_bytes() <= expected.heap_bytes() + 1024, "{fill:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_form_beside_every_other(
        fills in prop::collection::vec((fill(), fill()), 1..7), seed in any::<u64>(), less in 0..CHUNK,
        changed in prop::collection::vec(any::<u64>(), 0..3),
    ) {
        let (first, second): (Vec<Fill>, Vec<Fill>) = fills.into_iter().unzip();
        let size_bytes = (first.len() as u64 * CHUNK - less) * 512;
        let granules = size_bytes / 512;
        let (x, y) = (model_of(&first, seed, granules), model_of(&second, seed ^ 1, granules));
        let a = bitmap_of(&x, size_bytes, 9, &changed);
        let b = bitmap_of(&y, size_bytes, 9, &[]);
        check_operations(&a, &x, &b, &y);
        check_operations(&b, &y, &a, &x);
    }

    #[test]
    fn granularities_that_differ(
        fills in prop::collection::vec((fill(), fill()), 1..4), seed in any::<u64>(), less in 0..CHUNK * 512,
        shift in prop::sample::select(vec![1, 2, 4, 6, 9, 10, 11, 14, 16, 17, 20]),
    ) {
        let (first, second): (Vec<Fill>, Vec<Fill>) = fills.into_iter().unzip();
        // The finer one has these chunks; the coarser one as much of its own as the disk takes.
        let size_bytes = first.len() as u64 * CHUNK * 512 - less;
        let (fine, coarse) = (9, 9 + shift);
        let x = model_of(&first, seed, size_bytes.div_ceil(1 << fine));
        let y = model_of(&second, seed ^ 1, size_bytes.div_ceil(1 << coarse));
        let (a, b) = (bitmap_of(&x, size_bytes, fine, &[]), bitmap_of(&y, size_bytes, coarse, &[]));
        let to = |bitmap: &Bitmap, bits| bitmap.to_granularity(Granularity::from_bits(bits).unwrap()).unwrap();
        let outward = rescaled(&x, fine, coarse, size_bytes, false);
        let (inward, finer) = (rescaled(&x, fine, coarse, size_bytes, true), rescaled(&y, coarse, fine, size_bytes, false));
        check(&to(&a, coarse), &outward);
        check(&to(&b, fine), &finer);
        check(&a.union(&b).unwrap(), &x.or(&finer));
        check(&b.union(&a).unwrap(), &x.or(&finer));
        check(&a.intersection(&b).unwrap(), &x.and(&finer));
        check(&b.intersection(&a).unwrap(), &y.and(&outward));
        check(&a.difference(&b).unwrap(), &x.andnot(&finer));
        check(&b.difference(&a).unwrap(), &y.andnot(&inward));
    }

    #[test]
    fn few_chunks_beside_many(
        many in prop::collection::vec(fill(), 40..90), few in (fill(), fill()), places in (0usize..40, 0usize..40),
        seed in any::<u64>(),
    ) {
        let mut second = vec![Fill::Nothing; many.len()];
        (second[places.0], second[places.1]) = few;
        let granules = many.len() as u64 * CHUNK;
        let (x, y) = (model_of(&many, seed, granules), model_of(&second, seed ^ 1, granules));
        let (a, b) = (bitmap_of(&x, granules, 0, &[]), bitmap_of(&y, granules, 0, &[]));
        check_operations(&a, &x, &b, &y);
    }
}
