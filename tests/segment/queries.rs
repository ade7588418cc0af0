//! Every query, against the same query on the bitmap that was written.

use crate::{GRANULES, SIZE, bitmap_of, bytes_of, granularity, segment_of, shapes};
use checkmap::progress::Unobserved;
use checkmap::segment::{self, Difference, Side};
use checkmap::{Bitmap, ErrorKind, Extent, Segment};
use proptest::prelude::*;
use std::sync::Arc;

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Offsets and lengths, most of them near borders.
fn windows() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let offset = prop_oneof![
        0..SIZE + 5000,
        (0u64..9, -2i64..3).prop_map(|(chunk, off)| (chunk << 28).saturating_add_signed(off))
    ];
    let length = prop_oneof![0u64..5, 0u64..SIZE, Just(1u64 << 28), Just(u64::MAX)];
    prop::collection::vec((offset, length), 1..12)
}

/// The granules that touch a window, and nothing else.
fn cut(bitmap: &Bitmap, offset: u64, len: u64) -> Bitmap {
    let mut cut = Bitmap::new(bitmap.size_bytes(), bitmap.granularity()).unwrap();
    for extent in bitmap.extents(offset, len) {
        cut.set(extent.offset, extent.len_bytes).unwrap();
    }
    cut
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn a_segment_answers_as_the_bitmap_that_was_written(shape in shapes(), windows in windows()) {
        let bitmap = bitmap_of(&shape, crate::BITS);
        let segment = segment_of(&bitmap);
        // Where no number is aligned, containers cannot be read in their place.
        let odd = [vec![0], bytes_of(&bitmap)].concat();
        let odd = Segment::open(Arc::new(checkmap::io::Memory(&odd[1..]))).unwrap();
        prop_assert_eq!(segment.dirty_granules(), bitmap.dirty_granules());
        prop_assert_eq!(segment.dirty_bytes().unwrap(), bitmap.dirty_bytes());
        prop_assert_eq!(segment.summary().extents, bitmap.extent_count());
        prop_assert_eq!(segment.check(&mut Unobserved).unwrap(), vec![]);
        prop_assert_eq!(&segment.load(0, u64::MAX).unwrap(), &bitmap);
        for (offset, len) in windows {
            prop_assert_eq!(segment.count_range(offset, len).unwrap(), bitmap.count_range(offset, len));
            prop_assert_eq!(odd.count_range(offset, len).unwrap(), bitmap.count_range(offset, len));
            prop_assert_eq!(segment.next_dirty(offset, len).unwrap(), bitmap.next_dirty(offset, len));
            prop_assert_eq!(segment.next_clean(offset, len).unwrap(), bitmap.next_clean(offset, len));
            prop_assert_eq!(segment.previous_dirty(offset, len).unwrap(), bitmap.previous_dirty(offset, len));
            prop_assert_eq!(segment.previous_clean(offset, len).unwrap(), bitmap.previous_clean(offset, len));
            prop_assert_eq!(segment.rank(offset).unwrap(), bitmap.rank(offset));
            for number in [bitmap.rank(offset), len % (bitmap.dirty_granules() + 2)] {
                prop_assert_eq!(segment.select(number).unwrap(), bitmap.select(number));
            }
            prop_assert_eq!(segment.get(offset).ok(), bitmap.get(offset).ok());
            let extents: Vec<Extent> = segment.extents(offset, len).collect::<Result<_, _>>().unwrap();
            prop_assert!(extents.iter().copied().eq(bitmap.extents(offset, len)));
            let loaded = segment.load(offset, len).unwrap();
            loaded.validate().unwrap();
            prop_assert_eq!(loaded, cut(&bitmap, offset, len));
        }
    }

    #[test]
    fn equal_bitmaps_give_equal_bytes_however_they_came_about(shape in shapes()) {
        let bitmap = bitmap_of(&shape, crate::BITS);
        let mut again = Bitmap::new(SIZE, bitmap.granularity()).unwrap();
        for extent in bitmap.extents(0, u64::MAX).rev() {
            again.set(extent.offset, extent.len_bytes).unwrap();
        }
        prop_assert_eq!(bytes_of(&again), bytes_of(&bitmap));
        let mut united = bitmap.clone();
        united.union_with(&again).unwrap();
        prop_assert_eq!(bytes_of(&united), bytes_of(&bitmap));
    }

    #[test]
    fn a_diff_says_what_is_dirty_on_one_side_only(a in shapes(), b in shapes(), coarse in 0u32..6) {
        let (a, b) = (bitmap_of(&a, crate::BITS), bitmap_of(&b, crate::BITS + coarse));
        let fine = b.to_granularity(a.granularity()).unwrap();
        let (left, right) = (segment_of(&a), segment_of(&b));
        for (offset, len) in [(0, u64::MAX), (SIZE / 3, SIZE / 2)] {
            let found: Vec<Difference> =
                segment::diff(&left, &right, offset, len).unwrap().collect::<Result<_, _>>().unwrap();
            for (side, expected) in [(Side::A, a.difference(&fine)), (Side::B, fine.difference(&a))] {
                let found = found.iter().filter(|found| found.dirty_in == side).map(|found| found.extent);
                prop_assert!(found.eq(expected.unwrap().extents(offset, len)));
            }
            prop_assert!(found.windows(2).all(|pair| pair[0].extent.end() <= pair[1].extent.offset));
        }
    }
}

#[test]
fn the_smallest_and_the_largest_disks_have_segments() {
    for (size, bits) in [(0, 0), (1, 0), (1, 31), (i64::MAX as u64, 31), (1 << 41, 0), (65536, 0), (65537, 0)] {
        let mut bitmap = Bitmap::new(size, granularity(bits)).unwrap();
        for full in [false, true] {
            if full {
                bitmap.set_all().unwrap();
            }
            let segment = segment_of(&bitmap);
            assert!(segment.summary().file_bytes < 1000, "a full disk is few entries");
            assert_eq!(segment.load(0, u64::MAX).unwrap(), bitmap, "{size}");
            assert_eq!(segment.dirty_bytes().unwrap(), bitmap.dirty_bytes());
            assert_eq!(segment.check(&mut Unobserved).unwrap(), []);
        }
    }
}

#[test]
fn a_query_reads_only_the_containers_it_needs() {
    let mut bitmap = Bitmap::new(SIZE, granularity(crate::BITS)).unwrap();
    for granule in (0..GRANULES).step_by(2) {
        bitmap.set(granule << crate::BITS, 1).unwrap();
    }
    let mut bytes = bytes_of(&bitmap);
    // All containers but those of the chunks 2 and 5 are destroyed.
    for chunk in [0, 1, 3, 4, 6, 7] {
        bytes[64 + chunk * 8192..64 + (chunk + 1) * 8192].fill(0xff);
    }
    let segment = crate::open(bytes).unwrap();
    let chunk = |number: u64| number << (16 + crate::BITS);
    let (from, to) = (chunk(2) + 8192, chunk(5) + 8192);
    assert_eq!(segment.count_range(from, to - from).unwrap(), bitmap.count_range(from, to - from));
    assert_eq!(segment.next_dirty(from, u64::MAX).unwrap(), Some(from));
    assert_eq!(segment.load(from, 4096).unwrap(), cut(&bitmap, from, 4096));
    let mut extents = segment.extents(chunk(2), u64::MAX);
    let good = extents.by_ref().take_while(Result::is_ok).count();
    assert!((32_000..=32_768).contains(&good), "{good}");
    assert!(extents.next().is_none(), "it ends after an error");
    let error = segment.get(chunk(1)).unwrap_err();
    assert_eq!((error.kind(), error.structure()), (ErrorKind::Damaged, Some("segment container of chunk 1")));
    assert_eq!(error.offset(), Some(64 + 8192));
}
