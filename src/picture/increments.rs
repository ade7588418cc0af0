#![forbid(unsafe_code)]
//! Owns what an increment would carry, had its bitmap another granularity. Must never know where the bitmap is from.

use crate::bitmap::Bitmap;
use crate::error::Result;
use crate::geometry::{Granularity, check_disk};
use crate::memory;

/// The granularities in question, as powers of two: from 4 KiB to 4 MiB.
const FINEST: u32 = 12;
const COARSEST: u32 = 22;

/// An increment at one granularity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Increment {
    /// The granularity of the bitmap.
    pub granularity: Granularity,
    /// How many bytes the increment would carry.
    pub dirty_bytes: u64,
    /// In how many extents; `None` where that is not known.
    pub extents: Option<u64>,
    /// Whether it may carry less: the writes were recorded at a coarser granularity, so nobody knows.
    pub is_upper_bound: bool,
    /// The bytes of one bit for each granule of the disk, as QEMU keeps the bitmap in memory at least.
    pub bitmap_bytes: u64,
}

/// What an increment would carry at each granularity from 4 KiB to 4 MiB, the finest first. Those at which the disk has too many
/// granules for a bitmap are left out.
///
/// `recorded` is the coarsest granularity at which the writes were recorded: at finer ones the figures are upper bounds. It counts as
/// that of the bitmap where it is finer.
pub fn increments(bitmap: &Bitmap, recorded: Granularity) -> Result<Vec<Increment>> {
    let recorded = recorded.max(bitmap.granularity());
    let mut all = memory::room((COARSEST - FINEST + 1) as usize)?;
    let mut coarser: Option<Bitmap> = None;
    for bits in FINEST..=COARSEST {
        let granularity = Granularity::from_bits(bits)?;
        let source = coarser.as_ref().unwrap_or(bitmap);
        if granularity > source.granularity() {
            coarser = Some(source.to_granularity(granularity)?);
        }
        let source = coarser.as_ref().unwrap_or(bitmap);
        if check_disk(bitmap.size_bytes(), granularity).is_err() {
            continue;
        }
        let is_upper_bound = granularity < recorded;
        all.push(Increment {
            granularity,
            dirty_bytes: source.dirty_bytes(),
            extents: (!is_upper_bound).then(|| source.extent_count()),
            is_upper_bound,
            bitmap_bytes: granularity.granules(bitmap.size_bytes()).div_ceil(8),
        });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granularity(bytes: u64) -> Granularity {
        Granularity::from_bytes(bytes).unwrap()
    }

    /// Against sets of granules.
    #[test]
    fn figures_are_those_of_a_naive_count() {
        for (size, own, recorded) in [
            (10_001_920, 512, 512),
            (10_001_920, 65536, 65536),
            (10_001_920, 4096, 65536),
            (1, 65536, 65536),
            (9 << 20, 8 << 20, 1),
        ] {
            let mut bitmap = Bitmap::new(size, granularity(own)).unwrap();
            for offset in [0, size / 3, size / 3 + 5000, size / 2, size - 1] {
                bitmap.set(offset, 1).unwrap();
            }
            let all = increments(&bitmap, granularity(recorded)).unwrap();
            assert_eq!(all.len(), 11);
            for (bits, increment) in (12..).zip(all) {
                let bytes = 1u64 << bits;
                assert_eq!((increment.granularity.bytes(), increment.bitmap_bytes), (bytes, size.div_ceil(bytes * 8)));
                assert_eq!(increment.is_upper_bound, bytes < own.max(recorded));
                let of_extent = |extent: crate::Extent| extent.offset / bytes..=(extent.end() - 1) / bytes;
                let dirty: std::collections::BTreeSet<u64> = bitmap.extents(0, u64::MAX).flat_map(of_extent).collect();
                let naive: u64 = dirty.iter().map(|granule| (size - granule * bytes).min(bytes)).sum();
                let runs = dirty.iter().filter(|granule| **granule == 0 || !dirty.contains(&(**granule - 1))).count();
                assert_eq!(increment.dirty_bytes, naive, "{bytes} of {own}");
                assert!(increment.is_upper_bound == increment.extents.is_none());
                assert!(increment.extents.is_none_or(|extents| extents == runs as u64), "{bytes} of {own}");
            }
        }
    }

    #[test]
    fn granularities_that_the_disk_is_too_large_for_are_left_out() {
        let mut bitmap = Bitmap::new((1 << 41) * 65536, granularity(65536)).unwrap();
        bitmap.set_all().unwrap();
        let all = increments(&bitmap, bitmap.granularity()).unwrap();
        assert_eq!(all.first().map(|increment| increment.granularity.bytes()), Some(65536));
        assert!(all.iter().all(|increment| increment.dirty_bytes == bitmap.size_bytes()));
        assert_eq!(all.len(), 7);
    }
}
