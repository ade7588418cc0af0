#![forbid(unsafe_code)]
//! Roaring bytes against two other implementations of the format, and against hostile input.
#![allow(clippy::cast_possible_truncation, reason = "the bytes and the lengths are small by construction")]

use checkmap::{Bitmap, ErrorKind, Granularity};
use croaring::{Bitmap64, Portable, Treemap};
use proptest::prelude::*;
use proptest::sample::select;
use roaring::{RoaringBitmap, RoaringTreemap};
use std::collections::BTreeMap;

/// The disk has this many granules of one byte each.
const GRANULES: u64 = (5 << 32) + 12345;

fn byte() -> Granularity {
    Granularity::from_bits(0).unwrap()
}

fn bitmap_of(ranges: &[(u64, u64, u64)]) -> Bitmap {
    let mut bitmap = Bitmap::new(GRANULES, byte()).unwrap();
    for value in values_of(ranges) {
        bitmap.set(value, 1).unwrap();
    }
    bitmap
}

/// The values of `(first, count, step)` ranges, in no order.
fn values_of(ranges: &[(u64, u64, u64)]) -> impl Iterator<Item = u64> + '_ {
    ranges
        .iter()
        .flat_map(|&(first, count, step)| (0..count).map(move |index| first + index * step))
        .filter(|&value| value < GRANULES)
}

/// Ranges that give arrays, words and runs, near the boundaries of chunks and of the high 32 bits.
fn ranges() -> impl Strategy<Value = Vec<(u64, u64, u64)>> {
    let near = select(vec![0, 65536, 3 << 16, 9 << 16, 1 << 32, 3 << 32, GRANULES]);
    let first = (near, 0u64..3000).prop_map(|(near, before): (u64, u64)| near.saturating_sub(before));
    let count = prop_oneof![3 => 1u64..6, 2 => select(vec![4095, 4096, 4097, 9000]), 1 => 60_000u64..70_000];
    prop::collection::vec((first, count, 1u64..5), 0..7)
}

fn bytes_of(bitmap: &Bitmap) -> Vec<u8> {
    let mut bytes = Vec::new();
    bitmap.write_roaring(&mut bytes).unwrap();
    assert_eq!(bitmap.to_roaring().unwrap(), bytes);
    assert_eq!(bitmap.serialized_len(), bytes.len() as u64);
    bytes
}

fn read(bytes: &[u8]) -> checkmap::Result<Bitmap> {
    Bitmap::from_roaring(bytes, GRANULES, byte())
}

fn values(bitmap: &Bitmap) -> impl Iterator<Item = u64> {
    bitmap.extents(0, u64::MAX).flat_map(|extent| extent.offset..extent.end())
}

fn run_optimized(map: &RoaringTreemap) -> RoaringTreemap {
    let mut parts: BTreeMap<u32, RoaringBitmap> = map.bitmaps().map(|(high, part)| (high, part.clone())).collect();
    parts.values_mut().for_each(|part| {
        part.optimize();
    });
    RoaringTreemap::from_bitmaps(parts)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_other_libraries_read_ours_and_we_read_theirs(ranges in ranges()) {
        let bitmap = bitmap_of(&ranges);
        let bytes = bytes_of(&bitmap);
        prop_assert_eq!(&read(&bytes).unwrap(), &bitmap);

        let map = RoaringTreemap::deserialize_from(&bytes[..]).unwrap();
        prop_assert!(map.iter().eq(values(&bitmap)));
        for map in [run_optimized(&map), values_of(&ranges).collect()] {
            let mut theirs = Vec::new();
            map.serialize_into(&mut theirs).unwrap();
            prop_assert_eq!(&read(&theirs).unwrap(), &bitmap);
        }

        // On a big-endian CPU CRoaring refuses these bytes, seen with croaring 2.6 on s390x.
        if cfg!(target_endian = "big") {
            return Ok(());
        }
        let mut map = Bitmap64::try_deserialize::<Portable>(&bytes).unwrap();
        map.internal_validate().unwrap();
        prop_assert!(map.iter().eq(values(&bitmap)));
        map.remove_run_compression();
        prop_assert_eq!(&read(&map.serialize::<Portable>()).unwrap(), &bitmap);
        map.run_optimize();
        prop_assert_eq!(&read(&map.serialize::<Portable>()).unwrap(), &bitmap);

        let map = Treemap::try_deserialize::<Portable>(&bytes).unwrap();
        prop_assert!(map.iter().eq(values(&bitmap)));
        prop_assert_eq!(&read(&map.serialize::<Portable>()).unwrap(), &bitmap);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_bytes_are_refused_or_mean_what_the_other_library_reads(
        shape in 0usize..6,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
        more in prop::collection::vec(any::<u8>(), 0..3),
    ) {
        let mut bytes = SHAPES.with(|shapes| shapes[shape].clone());
        for (place, value, only_header) in changes {
            let reach = if only_header { bytes.len().min(60) } else { bytes.len() };
            bytes[place.index(reach)] ^= value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        bytes.extend(more);
        match read(&bytes) {
            Ok(bitmap) => {
                bitmap.validate().unwrap();
                prop_assert!(bitmap.heap_bytes() <= 64 * bytes.len() + 4096);
                let map = RoaringTreemap::deserialize_from(&bytes[..]).unwrap();
                prop_assert!(map.iter().eq(values(&bitmap)));
            }
            Err(error) => {
                prop_assert_eq!(error.kind(), ErrorKind::Damaged);
                prop_assert!(error.structure().is_some() && error.offset().unwrap() <= bytes.len() as u64);
            }
        }
    }
}

thread_local! {
    /// The bytes of an array, runs, few and many containers, words, several high keys, and nothing.
    static SHAPES: [Vec<u8>; 6] = [
        bytes_of(&bitmap_of(&[(7, 20, 3), (1 << 32, 1, 1)])),
        bytes_of(&bitmap_of(&[(100, 500, 1), (1000, 30, 1), (70_000, 9, 2)])),
        bytes_of(&bitmap_of(&[(65_530, 300_000, 1)])),
        bytes_of(&bitmap_of(&[(0, 5000, 2), (65536, 3, 9)])),
        bytes_of(&bitmap_of(&[(5, 1, 1), (1 << 32, 70_000, 1), ((4 << 32) + 9, 4, 70_000)])),
        bytes_of(&bitmap_of(&[])),
    ];
}

/// Packed containers are written in blocks; those set bit by bit are not.
#[test]
fn lists_and_runs_of_every_length_are_written_alike_packed_or_not() {
    let lists = (1..100).map(|count| (count, 1));
    let runs = (1..100).chain([511, 512, 513, 1000, 2046]).map(|count| (count, 9));
    let chunks: Vec<(u64, u64)> = lists.chain(runs).collect();
    for chunks in (1..chunks.len()).map(|from| &chunks[from..]).chain([&chunks[..40], &chunks[..120]]) {
        let mut bitmap = Bitmap::new(GRANULES, byte()).unwrap();
        for (chunk, &(count, len_bytes)) in (0u64..).zip(chunks) {
            (0..count).for_each(|index| bitmap.set((chunk << 16) + 31 * index, len_bytes).unwrap());
        }
        let bytes = bytes_of(&bitmap);
        let map = RoaringTreemap::deserialize_from(&bytes[..]).unwrap();
        assert!(map.iter().eq(values(&bitmap)));
        let packed = read(&bytes).unwrap();
        assert_eq!(packed, bitmap);
        assert!(bytes_of(&packed) == bytes, "{chunks:?}");
    }
}

/// A 64-bit bitmap of one 32-bit bitmap with high key 0.
fn one_group(group: &[u8]) -> Vec<u8> {
    [&1u64.to_le_bytes(), &0u32.to_le_bytes()[..], group].concat()
}

fn words(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Asserts that `bytes` are refused for `message`, in `structure` at `offset`.
fn assert_damaged(bytes: &[u8], message: &str, structure: &str, offset: u64) {
    let error = read(bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.message().contains(message), "{error}");
    assert_eq!((error.structure(), error.offset()), (Some(structure), Some(offset)), "{error}");
}

#[test]
fn an_empty_32_bit_bitmap_is_no_damage() {
    assert!(read(&one_group(&words(&[12346, 0, 0, 0]))).unwrap().is_empty());
}

#[test]
fn each_rule_of_the_format_has_its_refusal() {
    let array = |values: &[u16]| {
        let header = [12346, 0, 1, 0, 0, values.len() as u16 - 1, 16, 0];
        one_group(&words(&[&header, values].concat()))
    };
    assert_eq!(values(&read(&array(&[3, 9])).unwrap()).collect::<Vec<_>>(), [3, 9]);
    assert_damaged(&array(&[9, 3]), "not in ascending order", "Roaring container", 28);
    assert_damaged(&array(&[3, 3]), "not in ascending order", "Roaring container", 28);
    assert_damaged(&array(&[3, 9])[..31], "end inside", "Roaring container", 28);
    assert_damaged(&[&array(&[3])[..], &[0]].concat(), "follow the last", "Roaring bitmap", 30);

    let runs = |ones: u16, runs: &[u16]| {
        let header = [12347, 0, 1, 0, ones - 1, runs.len() as u16 / 2];
        let mut group = words(&[&header, runs].concat());
        group.remove(5);
        one_group(&group)
    };
    assert_eq!(values(&read(&runs(4, &[5, 1, 8, 1])).unwrap()).collect::<Vec<_>>(), [5, 6, 8, 9]);
    assert_damaged(&runs(4, &[5, 1, 6, 1]), "overlap", "Roaring container", 21);
    assert_damaged(&runs(4, &[5, 1, 7, 1]), "touch", "Roaring container", 21);
    assert_damaged(&runs(4, &[8, 1, 5, 1]), "ascending", "Roaring container", 21);
    assert_damaged(&runs(4, &[65_533, 2]), "as many values", "Roaring container", 21);
    assert_damaged(&runs(4, &[65_534, 3]), "past its container", "Roaring container", 21);
    assert_damaged(&runs(1, &[]), "as many values", "Roaring container", 21);
    assert_damaged(&runs(5, &[5, 1, 8, 1]), "as many values", "Roaring container", 21);
    assert_damaged(&runs(5, &[0, 65_535]), "as many values", "Roaring container", 21);
    let mut spare_flag = runs(4, &[5, 1, 8, 1]);
    spare_flag[16] |= 2;
    assert_damaged(&spare_flag, "run flag", "Roaring bitmap header", 12);

    let mut wrong_ones = bytes_of(&bitmap_of(&[(0, 5000, 2)]));
    wrong_ones[22] ^= 1;
    assert_damaged(&wrong_ones, "as many values", "Roaring container", 28);

    let two = |keys: [u16; 2], offset: u16| {
        one_group(&words(&[12346, 0, 2, 0, keys[0], 0, keys[1], 0, 24, 0, offset, 0, 1, 1]))
    };
    assert!(read(&two([0, 1], 26)).is_ok());
    assert_damaged(&two([1, 1], 26), "keys of the containers", "Roaring container", 38);
    assert_damaged(&two([1, 0], 26), "keys of the containers", "Roaring container", 38);
    assert_damaged(&two([0, 1], 28), "not where the header says", "Roaring container", 38);

    assert_damaged(&one_group(&words(&[12345, 0])), "cookie", "Roaring bitmap header", 12);
    assert_damaged(&one_group(&words(&[12346, 1, 0, 0])), "cookie", "Roaring bitmap header", 12);
    assert_damaged(&one_group(&words(&[12346, 0, 1, 1])), "more than 65536", "Roaring bitmap header", 20);
    assert_damaged(&one_group(&words(&[12346, 0, 0, 1])), "end inside", "Roaring container descriptions", 20);
    assert_damaged(&[0; 7], "end inside", "Roaring header", 0);
    assert_damaged(&u64::MAX.to_le_bytes(), "end inside", "Roaring high key", 8);
}

#[test]
fn high_keys_ascend() {
    let group = |high: u32| [&high.to_le_bytes()[..], &words(&[12346, 0, 1, 0, 0, 0, 16, 0, 5])].concat();
    let all = |highs: [u32; 2]| [&2u64.to_le_bytes()[..], &group(highs[0]), &group(highs[1])].concat();
    assert_eq!(read(&all([0, 4])).unwrap().dirty_granules(), 2);
    assert_damaged(&all([4, 4]), "high keys", "Roaring high key", 30);
    assert_damaged(&all([4, 0]), "high keys", "Roaring high key", 30);
    assert_damaged(&all([0, 6]), "past the end of the disk", "Roaring high key", 30);
}

#[test]
fn a_value_past_the_last_granule_is_damage() {
    for (first, count) in [(6, 1), (65_536, 1), (0, 1 << 17)] {
        let bytes = bytes_of(&bitmap_of(&[(first, count, 1)]));
        let short = Bitmap::from_roaring(&bytes, first + count - 1, byte()).unwrap_err();
        assert_eq!(short.kind(), ErrorKind::Damaged);
        assert!(Bitmap::from_roaring(&bytes, first + count, byte()).is_ok());
    }
    let bytes = bytes_of(&bitmap_of(&[(2, 1, 1)]));
    let coarse = Granularity::from_bits(9).unwrap();
    assert!(Bitmap::from_roaring(&bytes, 1025, coarse).is_ok());
    assert_eq!(Bitmap::from_roaring(&bytes, 1024, coarse).unwrap_err().kind(), ErrorKind::Damaged);
}

#[test]
fn full_stretches_across_high_keys_serialize_chunk_by_chunk() {
    // The chunks before the key and all of them: one on either side, too, and a whole key between.
    for (before, chunks) in [(3, 7), (1, 2), (2, 3), (1, 3), (1, 2 + (1 << 16))] {
        let mut bitmap = Bitmap::new(GRANULES, byte()).unwrap();
        let first = (1 << 32) - (before << 16);
        bitmap.set(first, chunks << 16).unwrap();
        let bytes = bytes_of(&bitmap);
        let map = RoaringTreemap::deserialize_from(&bytes[..]).unwrap();
        assert_eq!((map.len(), map.min()), (chunks << 16, Some(first)));
        assert_eq!(map.max(), Some(first + (chunks << 16) - 1));
        assert_eq!(read(&bytes).unwrap(), bitmap);
    }
}

#[test]
fn a_32_bit_bitmap_is_read_by_itself() {
    let mut some = croaring::Bitmap::of(&[0, 7, 65_535, 65_536, 9 << 16, u32::MAX]);
    let mut checked = 0;
    for more in [0..0, 100..101, 200_000..300_000, 1 << 20..1 << 24] {
        some.add_range(more);
        for has_runs in [false, true] {
            some.remove_run_compression();
            if has_runs {
                some.run_optimize();
            }
            let found = read(&some.serialize::<Portable>()).unwrap();
            found.validate().unwrap();
            assert!(values(&found).eq(some.iter().map(u64::from)));
            checked += 1;
        }
    }
    assert_eq!(checked, 8);
    let none = read(&croaring::Bitmap::new().serialize::<Portable>()).unwrap();
    assert!(none.is_empty());
    // Cut anywhere, or with a byte too many, it is damaged.
    let bytes = croaring::Bitmap::of(&[1, 2, 3 << 16]).serialize::<Portable>();
    for len in 0..bytes.len() {
        assert_eq!(read(&bytes[..len]).unwrap_err().kind(), ErrorKind::Damaged);
    }
    assert_eq!(read(&[&bytes[..], &[0]].concat()).unwrap_err().kind(), ErrorKind::Damaged);
    // A value past the disk is named so, with a way out.
    let past = Bitmap::from_roaring(&bytes, 3 << 16, byte()).unwrap_err();
    assert_eq!(past.kind(), ErrorKind::Damaged);
    let text = past.to_string();
    assert!(text.contains("past the end of the disk"), "{text}");
}
