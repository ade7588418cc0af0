//! Merges of any number of segments, against the union of the bitmaps.

use crate::{BITS, SIZE, Shape, bitmap_of, bytes_of, granularity, open, segment_of, shapes};
use checkmap::progress::{Observer, Step, Unobserved};
use checkmap::segment::{self, MergeOptions, Summary};
use checkmap::{Bitmap, ErrorKind, Segment};
use proptest::prelude::*;
use std::io::{self, Write};
use std::ops::ControlFlow;

fn options(memory_bytes: u64, threads: usize) -> MergeOptions {
    let mut options = MergeOptions::default();
    (options.memory_bytes, options.threads) = (memory_bytes, threads);
    options
}

/// The least memory with which a number of segments can be merged, but for a little.
fn tight(inputs: usize) -> u64 {
    (200 << 10) + inputs as u64 * (64 << 10)
}

fn merge(segments: &[Segment], options: &MergeOptions) -> checkmap::Result<(Vec<u8>, Summary)> {
    let segments: Vec<&Segment> = segments.iter().collect();
    let mut out = Vec::new();
    let summary = segment::merge(&segments, &mut out, options, &mut Unobserved)?;
    assert_eq!(segment::count(&segments, options, &mut Unobserved)?, summary, "counting says something else");
    Ok((out, summary))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_merge_is_the_union_to_the_byte(
        shapes in prop::collection::vec((shapes(), 0u32..6), 1..6),
        mixed in any::<bool>(),
        threads in 0usize..4,
    ) {
        let bits = |coarse: u32| if mixed { BITS + coarse } else { BITS };
        let bitmaps: Vec<Bitmap> = shapes.iter().map(|(shape, coarse)| bitmap_of(shape, bits(*coarse))).collect();
        let union = Bitmap::union_many(&bitmaps.iter().collect::<Vec<_>>(), None).unwrap();
        let segments: Vec<Segment> = bitmaps.iter().map(segment_of).collect();
        for memory in [tight(segments.len()), 64 << 20] {
            let (bytes, summary) = merge(&segments, &options(memory, threads)).unwrap();
            prop_assert_eq!(summary.dirty_granules, union.dirty_granules());
            prop_assert_eq!(summary.extents, union.extent_count());
            prop_assert_eq!(&open(bytes.clone()).unwrap().load(0, u64::MAX).unwrap(), &union);
            prop_assert_eq!(bytes, bytes_of(&union));
        }
    }
}

#[test]
fn a_granularity_may_be_so_coarse_that_one_granule_is_many_chunks() {
    let mut coarse = Bitmap::new(crate::SIZE, granularity(31)).unwrap();
    coarse.set(crate::SIZE - 1, 1).unwrap();
    let mut middle = Bitmap::new(crate::SIZE, granularity(28)).unwrap();
    middle.set(1 << 28, 1).unwrap();
    let fine = bitmap_of(&vec![(5, 3, 2, 70_000)], 9);
    let segments = [&coarse, &middle, &fine].map(segment_of);
    let union = Bitmap::union_many(&[&coarse, &middle, &fine], None).unwrap();
    for memory in [tight(3), 64 << 20] {
        assert_eq!(merge(&segments, &options(memory, 0)).unwrap().0, bytes_of(&union));
    }
}

/// Disks of 2^41 bytes, from a granule of one byte to one of 2^15 chunks of those.
const FAR_SIZE: u64 = (1 << 41) - 77;

/// A bitmap of ranges, each as where it begins, how long it is, how often it comes and how far apart, in granules.
fn far(bits: u32, ranges: &[(u64, u64, u64, u64)]) -> Bitmap {
    let mut bitmap = Bitmap::new(FAR_SIZE, granularity(bits)).unwrap();
    let granules = bitmap.granules();
    for (first, len, count, apart) in ranges {
        for number in 0..*count {
            let first = (first + number * apart) % granules;
            let len = (*len).min(granules - first);
            bitmap.set(first << bits, ((len << bits) - 1).min(FAR_SIZE - (first << bits))).unwrap();
        }
    }
    bitmap
}

fn far_bitmaps() -> impl Strategy<Value = Vec<Bitmap>> {
    let bits = prop_oneof![Just(0_u32), Just(3), 8..20_u32, 20..=31_u32];
    let ranges = prop::collection::vec((any::<u32>(), 1..200_000_u64, 1..300_u64, 1..70_000_u64), 0..4);
    let one = (bits, ranges).prop_map(|(bits, ranges)| {
        // Most of them at the end or the beginning of the disk, where chunks are cut.
        let granules = granularity(bits).granules(FAR_SIZE);
        let place = |any: u32| match any % 3 {
            0 => u64::from(any) << 9,
            1 => u64::from(any % 100_000),
            _ => granules.saturating_sub(u64::from(any % 100_000)),
        };
        let ranges = ranges.into_iter().map(|(any, len, count, apart)| (place(any), len, count, apart));
        far(bits, &ranges.collect::<Vec<_>>())
    });
    prop::collection::vec(one, 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_merge_of_granularities_far_apart_is_the_union_to_the_byte(
        bitmaps in far_bitmaps(),
        threads in 0usize..3,
    ) {
        let union = Bitmap::union_many(&bitmaps.iter().collect::<Vec<_>>(), None).unwrap();
        let segments: Vec<Segment> = bitmaps.iter().map(segment_of).collect();
        for memory in [tight(segments.len()), 64 << 20] {
            let (bytes, summary) = merge(&segments, &options(memory, threads)).unwrap();
            prop_assert_eq!(summary.extents, union.extent_count());
            prop_assert!(bytes == bytes_of(&union), "{:?}", bitmaps);
        }
    }
}

#[test]
fn the_work_of_a_merge_follows_what_is_stored_and_not_the_chunks_of_the_disk() {
    let fine = far(0, &[(5, 1, 1, 1), (FAR_SIZE - 5, 1, 1, 1)]);
    for bits in 8..=31 {
        let some = far(bits, &[(7, 1, 1, 1), ((1 << 40) >> bits, 3, 1, 1)]);
        let all = far(bits, &[(0, u64::MAX >> bits, 1, 1)]);
        for coarse in [some, all] {
            let mut steps = 0;
            let mut count = |_: Step| {
                steps += 1;
                ControlFlow::Continue(())
            };
            let (one, two) = (segment_of(&fine), segment_of(&coarse));
            let mut out = Vec::new();
            segment::merge(&[&one, &two], &mut out, &MergeOptions::default(), &mut count).unwrap();
            assert!(out == bytes_of(&fine.union(&coarse).unwrap()), "{coarse:?}");
            assert!(steps < 10, "{steps} batches for 4 granules, granularity {}", coarse.granularity().bytes());
        }
    }
    // Every second granule of a whole coarse chunk, each of which is many chunks of the result.
    let many = far(24, &[(0, 1, 32768, 2)]);
    let segments = [segment_of(&fine), segment_of(&many)];
    let union = bytes_of(&fine.union(&many).unwrap());
    for memory in [tight(2), 64 << 20] {
        assert!(merge(&segments, &options(memory, 0)).unwrap().0 == union);
    }
}

#[test]
fn forms_that_are_not_the_smallest_come_out_smallest() {
    // Runs of one granule each: an array is half as long. Bytes as nobody writes them, but as the layout allows them.
    let bitmap = bitmap_of(&vec![(10, 100, 1, 3)], BITS);
    let bytes =
        crate::bad::Crafted::new(&[crate::bad::Item::runs(0, &(0..100).map(|n| [10 + 3 * n; 2]).collect::<Vec<_>>())])
            .bytes();
    let segment = open(bytes).unwrap();
    assert_eq!(segment.load(0, u64::MAX).unwrap(), bitmap);
    assert_eq!(merge(&[segment], &MergeOptions::default()).unwrap().0, bytes_of(&bitmap));
}

fn shape() -> Shape {
    vec![(0, 30_000, 1, 3), (200_000, 90_000, 1, 2)]
}

#[test]
fn what_cannot_be_merged_is_refused_before_anything_is_written() {
    let one = segment_of(&bitmap_of(&shape(), BITS));
    let other = segment_of(&Bitmap::new(crate::SIZE + 1, granularity(BITS)).unwrap());
    let mut out = Vec::new();
    let mut refuse = |segments: &[&Segment], options: &MergeOptions| {
        let error = segment::merge(segments, &mut out, options, &mut Unobserved).unwrap_err();
        assert!(out.is_empty());
        error.kind()
    };
    assert_eq!(refuse(&[&one, &other], &MergeOptions::default()), ErrorKind::SizeMismatch);
    assert_eq!(refuse(&[], &MergeOptions::default()), ErrorKind::InvalidArgument);
    for threads in [0, 4] {
        assert_eq!(refuse(&[&one, &one], &options(10_000, threads)), ErrorKind::InvalidArgument);
    }
}

/// Stops at the step of this number.
struct Stop(u64);

impl Observer for Stop {
    fn step(&mut self, step: Step) -> ControlFlow<()> {
        assert!(step.done <= step.total);
        self.0 -= 1;
        if self.0 == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[test]
fn an_observer_can_stop_a_merge_wherever_it_is() {
    let one = segment_of(&bitmap_of(&shape(), BITS));
    for threads in [0, 3] {
        for steps in 1..3 {
            let stopped =
                segment::merge(&[&one, &one, &one], &mut io::sink(), &options(tight(3), threads), &mut Stop(steps));
            assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Cancelled);
        }
    }
}

/// Takes a number of bytes, then the disk is full.
struct Small(usize);

impl Write for Small {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.0 {
            return Err(io::Error::from_raw_os_error(28));
        }
        self.0 -= bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_ends_a_merge_wherever_it_fills() {
    let one = segment_of(&bitmap_of(&shape(), BITS));
    let len = usize::try_from(one.summary().file_bytes).unwrap();
    for threads in [0, 3] {
        for room in (0..len).step_by(len / 23) {
            let full = segment::merge(&[&one], &mut Small(room), &options(tight(1), threads), &mut Unobserved);
            assert_eq!(full.unwrap_err().kind(), ErrorKind::NoSpace, "{room}");
        }
    }
}

#[test]
fn a_damaged_container_ends_a_merge() {
    let mut bytes = bytes_of(&bitmap_of(&shape(), BITS));
    bytes[64 + 5000] ^= 1;
    let (bad, good) = (open(bytes).unwrap(), segment_of(&bitmap_of(&shape(), BITS)));
    for threads in [0, 2, 4] {
        let error =
            segment::merge(&[&good, &bad], &mut io::sink(), &options(1 << 20, threads), &mut Unobserved).unwrap_err();
        assert_eq!((error.kind(), error.offset()), (ErrorKind::Damaged, Some(64)), "{error}");
        assert_eq!(error.structure(), Some("segment container of chunk 0"));
    }
}

/// Chunks on both sides of every limit between the forms, from one seed.
fn limits() -> Vec<Bitmap> {
    let mut state = 1_u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) % below
    };
    let spread = [1400, 1535, 1537, 1580, 1700, 4096, 9000, 30_000];
    let mut bitmaps = Vec::new();
    for len in [1, 2, 5] {
        let mut bitmap = Bitmap::new(SIZE, granularity(BITS)).expect("a disk");
        for (chunk, ones) in (0..).zip(spread) {
            for _ in 0..ones / len {
                let first = (chunk << 16) + random((1 << 16) - len);
                bitmap.set(first << BITS, len << BITS).expect("inside the disk");
            }
        }
        bitmaps.push(bitmap);
    }
    for runs in [767, 768, 769] {
        let mut bitmap = Bitmap::new(SIZE, granularity(BITS)).expect("a disk");
        (0..runs).for_each(|run| bitmap.set((4 * run + 1) << BITS, 2 << BITS).expect("inside the disk"));
        bitmaps.push(bitmap);
    }
    bitmaps
}

#[test]
fn the_bytes_of_files_depend_on_no_cpu() {
    let bitmaps = limits();
    let mut sums: Vec<u32> = bitmaps.iter().map(|bitmap| crc32c::crc32c(&bytes_of(bitmap))).collect();
    for count in 2..=bitmaps.len() {
        let segments: Vec<Segment<'_>> = bitmaps[..count].iter().map(segment_of).collect();
        let mut merged = Vec::new();
        let refs: Vec<&Segment<'_>> = segments.iter().collect();
        segment::merge(&refs, &mut merged, &MergeOptions::default(), &mut Unobserved).expect("they are sound");
        let united = Bitmap::union_many(&bitmaps[..count].iter().collect::<Vec<_>>(), None).expect("of one disk");
        assert!(merged == bytes_of(&united), "{count}");
        sums.push(crc32c::crc32c(&merged));
    }
    let forms = segment_of(&bitmaps[0]).forms().expect("it is sound");
    assert_eq!((forms.array, forms.sparse, forms.words), (3, 4, 1), "{forms:?}");
    let expected = [
        0x46ef_bdd4,
        0x1043_2fbd,
        0x3f52_1d8d,
        0x6feb_15f1,
        0x578b_1c5f,
        0x61d7_cca4,
        0x567b_0bc1,
        0x6570_8993,
        0x2264_3d1d,
        0x5cc2_d834,
        0xc83c_9eb5,
    ];
    assert_eq!(sums, expected, "what other CPUs write");
    // Kernels are chosen once for each process.
    if std::env::var_os("CHECKMAP_KERNELS").is_none() {
        let program = std::env::current_exe().expect("this test has a file");
        for kernels in ["portable", "avx2", "avx512", "neon"] {
            let mut again = std::process::Command::new(&program);
            again.args(["unions::the_bytes_of_files_depend_on_no_cpu", "--exact"]).env("CHECKMAP_KERNELS", kernels);
            let ran = again.output().expect("it can be started again");
            assert!(ran.status.success(), "{kernels}: {}", String::from_utf8_lossy(&ran.stdout));
        }
    }
}
