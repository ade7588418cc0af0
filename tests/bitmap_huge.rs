#![forbid(unsafe_code)]
//! The largest disks there can be: 2^41 granules, sizes just below 2^63, against booleans for whole stretches.

use checkmap::{Bitmap, Extent, Granularity};
use proptest::prelude::*;
use proptest::sample::select;

const MAX_GRANULES: u64 = 1 << 41;

fn granularity(bits: u32) -> Granularity {
    Granularity::from_bits(bits).unwrap()
}

/// The granules at which stretches may begin and end, around every boundary of the inside.
fn edges(granules: u64) -> Vec<u64> {
    let mut edges: Vec<u64> = [0, 64, 1 << 16, 3 << 16, 1 << 32, (1 << 32) + (1 << 16), 1 << 40, granules]
        .into_iter()
        .flat_map(|edge: u64| [edge.saturating_sub(1 << 16), edge.saturating_sub(1), edge, edge + 1, edge + 64])
        .filter(|&edge| edge <= granules)
        .collect();
    edges.sort_unstable();
    edges.dedup();
    edges
}

#[derive(Clone)]
struct Pair {
    bitmap: Bitmap,
    edges: Vec<u64>,
    dirty: Vec<bool>,
}

impl Pair {
    fn new(size: u64, bits: u32) -> Self {
        let bitmap = Bitmap::new(size, granularity(bits)).unwrap();
        let edges = edges(bitmap.granules());
        let dirty = vec![false; edges.len() - 1];
        Self { bitmap, edges, dirty }
    }

    fn byte(&self, edge: usize) -> u64 {
        (self.edges[edge] << self.bitmap.granularity().bits()).min(self.bitmap.size_bytes())
    }

    fn fill(&mut self, a: usize, b: usize, value: bool) {
        let (a, b) = (a % self.edges.len(), b % self.edges.len());
        let (a, b) = (a.min(b), a.max(b));
        let (offset, end) = (self.byte(a), self.byte(b));
        if value {
            self.bitmap.set(offset, end - offset).unwrap();
        } else {
            self.bitmap.clear(offset, end - offset).unwrap();
        }
        self.dirty[a..b].fill(value);
    }

    fn check(&self) {
        let bitmap = &self.bitmap;
        bitmap.validate().unwrap();
        let mut expected: Vec<Extent> = Vec::new();
        let mut granules = 0;
        for index in (0..self.dirty.len()).filter(|&index| self.dirty[index]) {
            let (offset, end) = (self.byte(index), self.byte(index + 1));
            granules += self.edges[index + 1] - self.edges[index];
            match expected.last_mut() {
                Some(extent) if extent.end() == offset => extent.len_bytes += end - offset,
                _ => expected.push(Extent { offset, len_bytes: end - offset }),
            }
        }
        assert!(bitmap.extents(0, u64::MAX).eq(expected.iter().copied()));
        assert!(bitmap.extents(0, u64::MAX).rev().eq(expected.iter().rev().copied()));
        assert_eq!((bitmap.dirty_granules(), bitmap.extent_count()), (granules, expected.len() as u64));
        assert_eq!(bitmap.dirty_bytes(), expected.iter().map(|extent| extent.len_bytes).sum::<u64>());
        assert!(bitmap.heap_bytes() < 200_000, "{} bytes on the heap", bitmap.heap_bytes());
        if bitmap.serialized_len() < 1 << 18 {
            let mut bytes = Vec::new();
            bitmap.write_roaring(&mut bytes).unwrap();
            assert_eq!(bytes.len() as u64, bitmap.serialized_len());
            assert_eq!(Bitmap::from_roaring(&bytes, bitmap.size_bytes(), bitmap.granularity()).unwrap(), *bitmap);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_largest_disks_agree_with_booleans_for_stretches(
        (size, bits) in select(vec![
            (MAX_GRANULES, 0), ((1 << 50) - 511, 9), (i64::MAX as u64, 22), (i64::MAX as u64, 31), ((1 << 40) + 77, 0),
        ]),
        steps in prop::collection::vec((0..12, any::<bool>(), 0usize..1000, 0usize..1000), 1..30),
    ) {
        let mut pairs = [Pair::new(size, bits), Pair::new(size, bits)];
        for (operation, on_second, a, b) in steps {
            let other = pairs[usize::from(!on_second)].clone();
            let target = &mut pairs[usize::from(on_second)];
            let mut combine = |change: fn(&mut Bitmap, &Bitmap) -> checkmap::Result<()>, keep: fn(bool, bool) -> bool| {
                change(&mut target.bitmap, &other.bitmap).unwrap();
                for (to, &from) in target.dirty.iter_mut().zip(&other.dirty) {
                    *to = keep(*to, from);
                }
            };
            match operation {
                0 => combine(Bitmap::union_with, |a, b| a | b),
                1 => combine(Bitmap::intersect_with, |a, b| a & b),
                2 => combine(Bitmap::subtract, |a, b| a & !b),
                3 => combine(Bitmap::xor_with, |a, b| a ^ b),
                4 => {
                    target.bitmap = Bitmap::union_many(&[&target.bitmap, &other.bitmap, &other.bitmap], None).unwrap();
                    target.dirty.iter_mut().zip(&other.dirty).for_each(|(to, &from)| *to |= from);
                }
                5 => {
                    target.bitmap.set_all().unwrap();
                    target.dirty.fill(true);
                }
                _ => target.fill(a, b, operation % 3 != 0),
            }
            target.check();
            let subset = target.dirty.iter().zip(&other.dirty).all(|(&a, &b)| !a || b);
            prop_assert_eq!(target.bitmap.is_subset(&other.bitmap).unwrap(), subset);
        }
    }
}

#[test]
fn an_all_dirty_disk_of_any_size_takes_next_to_no_memory() {
    for (size, bits) in [(MAX_GRANULES, 0), (i64::MAX as u64, 22), (1 << 40, 9)] {
        let mut bitmap = Bitmap::new(size, granularity(bits)).unwrap();
        bitmap.set_all().unwrap();
        bitmap.validate().unwrap();
        assert_eq!((bitmap.dirty_granules(), bitmap.dirty_bytes()), (bitmap.granules(), size));
        assert_eq!(bitmap.next_clean(0, u64::MAX), None);
        assert!(bitmap.heap_bytes() < 1000, "{} bytes on the heap", bitmap.heap_bytes());
    }
}

#[test]
fn the_last_granule_of_the_largest_disk_ends_at_the_disks_end() {
    let mut bitmap = Bitmap::new(i64::MAX as u64, granularity(31)).unwrap();
    bitmap.set(i64::MAX as u64 - 1, 1).unwrap();
    let last = Extent { offset: (1 << 63) - (1 << 31), len_bytes: (1 << 31) - 1 };
    assert_eq!(bitmap.extents(0, u64::MAX).collect::<Vec<_>>(), [last]);
    assert_eq!(
        bitmap.extents(last.offset + 5, i64::MAX as u64).next().map(|extent| extent.offset),
        Some(last.offset + 5)
    );
    assert_eq!(bitmap.dirty_bytes(), last.len_bytes);
    bitmap.set(last.offset, 1 << 31).unwrap();
    assert!(bitmap.set(last.offset, (1 << 31) + 1).is_err());
    bitmap.clear(last.offset, 1 << 31).unwrap();
    assert!(bitmap.is_empty());
}

#[test]
fn a_huge_disk_changes_its_granularity_by_extents() {
    let size = i64::MAX as u64;
    let mut coarse = Bitmap::new(size, granularity(31)).unwrap();
    coarse.set(5 << 40, 1 << 60).unwrap();
    coarse.set(size - 1, 1).unwrap();
    let fine = coarse.to_granularity(granularity(22)).unwrap();
    fine.validate().unwrap();
    assert!(fine.extents(0, u64::MAX).eq(coarse.extents(0, u64::MAX)));
    assert_eq!(fine.to_granularity(granularity(31)).unwrap(), coarse);
    assert!(fine.is_subset(&coarse).unwrap() && coarse.is_subset(&fine).unwrap());
    assert!(coarse.difference(&fine).unwrap().is_empty() && fine.difference(&coarse).unwrap().is_empty());
    assert!(coarse.to_granularity(granularity(21)).is_err(), "2^42 granules");
}

/// However far past a small disk bits begin, and whatever it holds.
#[test]
fn bits_past_the_disk_change_nothing() {
    const GRANULES: u64 = 4096;
    for (first, count) in [(0, 0), (0, 1), (GRANULES - 1, 1), (0, GRANULES)] {
        let mut bitmap = Bitmap::new(GRANULES, granularity(0)).unwrap();
        bitmap.set(first, count).unwrap();
        let before = bitmap.clone();
        for offset in [GRANULES, GRANULES + 8, 1 << 16, 1 << 32, 1 << 47, 1 << 48, 1 << 63, !7] {
            for bits in [&[][..], &[1], &[0xff; 9000]] {
                bitmap.set_bits(offset, bits).unwrap();
                bitmap.replace_bits(offset, bits).unwrap();
                bitmap.validate().unwrap();
                assert_eq!(bitmap, before, "{} bytes at {offset}", bits.len());
            }
        }
    }
}
