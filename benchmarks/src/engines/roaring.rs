#![forbid(unsafe_code)]
//! The `roaring` crate: `RoaringBitmap`, of 32 bits, and `RoaringTreemap`, each with and without run containers. It picks
//! its own vector instructions when it starts.

use crate::engine::{Count, Engine, Form, Mark, Open, Save, Union, Walk, WalkSpans, count_each};
use crate::input::{Input, Shape, Span, Tally};
use crate::operations::{Operations, Questions, SetOperation};
use crate::patterns::Disk;
use roaring::bitmap::Iter;
use roaring::{MultiOps, RoaringBitmap, RoaringTreemap};
use std::ops::RangeInclusive;

/// `RoaringBitmap`; with `RUNS` after `optimize`, without it has no run container to begin with.
pub struct Roaring<const RUNS: bool>;

/// `RoaringTreemap`, likewise.
pub struct Roaring64<const RUNS: bool>;

const EXPECT_READ: &str = "the bytes are Roaring";

fn narrow(span: Span) -> RangeInclusive<u32> {
    span.first as u32..=span.last as u32
}

fn build(input: &Input, runs: bool) -> RoaringBitmap {
    let mut bitmap = RoaringBitmap::deserialize_unchecked_from(&input.to_portable()[..]).expect(EXPECT_READ);
    if runs {
        bitmap.optimize();
    } else {
        bitmap.remove_run_compression();
    }
    bitmap
}

/// Adds the ranges that are left.
#[inline(always)]
fn tally(mut ranges: Iter<'_>, sum: &mut Tally) {
    while let Some(range) = ranges.next_range() {
        sum.add((*range.start()).into(), (*range.end()).into());
    }
}

/// The bitmap of the low 32 bits, as the disks here have no more granules; `RoaringTreemap` cannot walk ranges itself.
fn low(treemap: &RoaringTreemap) -> Option<&RoaringBitmap> {
    treemap.bitmaps().next().map(|(high, bitmap)| {
        assert_eq!(high, 0, "a disk of more than 2^32 granules");
        bitmap
    })
}

impl<const RUNS: bool> Engine for Roaring<RUNS> {
    type Bitmap = RoaringBitmap;
    type Opened<'a> = RoaringBitmap;

    const NAME: &'static str = if RUNS { "roaring+run" } else { "roaring" };
    const SHAPE: Shape = if RUNS { Shape::SmallestContainers } else { Shape::Containers };

    fn build(input: &Input, _: &Disk) -> RoaringBitmap {
        build(input, RUNS)
    }

    fn cardinality(bitmap: &RoaringBitmap) -> u64 {
        bitmap.len()
    }

    fn unions(_: usize) -> Vec<Form<Union<RoaringBitmap>>> {
        vec![
            Form::new("in place, one by one", Union::InPlace(|sum, other| *sum |= other)),
            Form::new(
                "new, one by one",
                Union::New(|bitmaps| {
                    let first = bitmaps[0] | bitmaps[1];
                    bitmaps[2..].iter().fold(first, |sum, &other| &sum | other)
                }),
            ),
            Form::new("MultiOps", Union::New(|bitmaps| bitmaps.iter().copied().union())),
        ]
    }

    fn counts() -> Vec<Form<Count<RoaringBitmap>>> {
        vec![Form::new("range_cardinality", |bitmap, _, spans| {
            count_each(spans, |span| bitmap.range_cardinality(narrow(span)))
        })]
    }

    fn extents() -> Vec<Form<Walk<RoaringBitmap>>> {
        vec![Form::new("next_range", |bitmap, _, sum| tally(bitmap.iter(), sum))]
    }

    fn windows() -> Vec<Form<WalkSpans<RoaringBitmap>>> {
        vec![Form::new("next_range", |bitmap, _, spans, sum| {
            for &span in spans {
                tally(bitmap.range(narrow(span)), sum);
                sum.end_list();
            }
        })]
    }

    fn saves() -> Vec<Form<Save<RoaringBitmap>>> {
        vec![Form::new("portable", |bitmap| {
            let mut bytes = Vec::with_capacity(bitmap.serialized_size());
            bitmap.serialize_into(&mut bytes).expect("a vector takes everything");
            bytes.into()
        })]
    }

    fn opens() -> Vec<Form<Open<Self>>> {
        vec![
            Form::new(
                "portable, read",
                Open {
                    saved_by: "portable",
                    open: |bytes, _| RoaringBitmap::deserialize_from(bytes).expect(EXPECT_READ),
                },
            ),
            Form::new(
                "portable, read unchecked",
                Open {
                    saved_by: "portable",
                    open: |bytes, _| RoaringBitmap::deserialize_unchecked_from(bytes).expect(EXPECT_READ),
                },
            ),
        ]
    }

    fn marks() -> Vec<Form<Mark<RoaringBitmap>>> {
        vec![
            Form::new("insert_range", |disk, writes| {
                let mut bitmap = RoaringBitmap::new();
                for write in writes {
                    bitmap.insert_range(narrow(write.granules(disk)));
                }
                bitmap
            }),
            Form::new("insert", |disk, writes| {
                let mut bitmap = RoaringBitmap::new();
                for granule in writes.iter().flat_map(|write| narrow(write.granules(disk))) {
                    bitmap.insert(granule);
                }
                bitmap
            }),
        ]
    }

    fn count_opened(opened: &RoaringBitmap, _: &Disk, span: Span) -> u64 {
        opened.range_cardinality(narrow(span))
    }

    fn tally_opened(opened: &RoaringBitmap, _: &Disk) -> Tally {
        let mut sum = Tally::default();
        tally(opened.iter(), &mut sum);
        sum
    }
}

impl<const RUNS: bool> Engine for Roaring64<RUNS> {
    type Bitmap = RoaringTreemap;
    type Opened<'a> = RoaringTreemap;

    const NAME: &'static str = if RUNS { "roaring64+run" } else { "roaring64" };
    const SHAPE: Shape = if RUNS { Shape::SmallestContainers } else { Shape::Containers };

    fn build(input: &Input, _: &Disk) -> RoaringTreemap {
        RoaringTreemap::from_bitmaps([(0, build(input, RUNS))])
    }

    fn cardinality(treemap: &RoaringTreemap) -> u64 {
        treemap.len()
    }

    fn unions(_: usize) -> Vec<Form<Union<RoaringTreemap>>> {
        vec![
            Form::new("in place, one by one", Union::InPlace(|sum, other| *sum |= other)),
            Form::new(
                "new, one by one",
                Union::New(|treemaps| {
                    let first = treemaps[0] | treemaps[1];
                    treemaps[2..].iter().fold(first, |sum, &other| &sum | other)
                }),
            ),
            Form::new("MultiOps", Union::New(|treemaps| treemaps.iter().copied().union())),
        ]
    }

    fn counts() -> Vec<Form<Count<RoaringTreemap>>> {
        vec![Form::new("range_cardinality", |treemap, _, spans| {
            count_each(spans, |span| treemap.range_cardinality(span.first..=span.last))
        })]
    }

    fn extents() -> Vec<Form<Walk<RoaringTreemap>>> {
        vec![Form::new("bitmaps, next_range", |treemap, _, sum| {
            low(treemap).iter().for_each(|bitmap| tally(bitmap.iter(), sum));
        })]
    }

    fn windows() -> Vec<Form<WalkSpans<RoaringTreemap>>> {
        vec![Form::new("bitmaps, next_range", |treemap, _, spans, sum| {
            for &span in spans {
                low(treemap).iter().for_each(|bitmap| tally(bitmap.range(narrow(span)), sum));
                sum.end_list();
            }
        })]
    }

    fn saves() -> Vec<Form<Save<RoaringTreemap>>> {
        vec![Form::new("portable", |treemap| {
            let mut bytes = Vec::with_capacity(treemap.serialized_size());
            treemap.serialize_into(&mut bytes).expect("a vector takes everything");
            bytes.into()
        })]
    }

    fn opens() -> Vec<Form<Open<Self>>> {
        vec![
            Form::new(
                "portable, read",
                Open {
                    saved_by: "portable",
                    open: |bytes, _| RoaringTreemap::deserialize_from(bytes).expect(EXPECT_READ),
                },
            ),
            Form::new(
                "portable, read unchecked",
                Open {
                    saved_by: "portable",
                    open: |bytes, _| RoaringTreemap::deserialize_unchecked_from(bytes).expect(EXPECT_READ),
                },
            ),
        ]
    }

    fn marks() -> Vec<Form<Mark<RoaringTreemap>>> {
        vec![
            Form::new("insert_range", |disk, writes| {
                let mut treemap = RoaringTreemap::new();
                for write in writes {
                    let span = write.granules(disk);
                    treemap.insert_range(span.first..=span.last);
                }
                treemap
            }),
            Form::new("insert", |disk, writes| {
                let mut treemap = RoaringTreemap::new();
                for span in writes.iter().map(|write| write.granules(disk)) {
                    for granule in span.first..=span.last {
                        treemap.insert(granule);
                    }
                }
                treemap
            }),
        ]
    }

    fn count_opened(opened: &RoaringTreemap, _: &Disk, span: Span) -> u64 {
        opened.range_cardinality(span.first..=span.last)
    }

    fn tally_opened(opened: &RoaringTreemap, _: &Disk) -> Tally {
        let mut sum = Tally::default();
        low(opened).iter().for_each(|bitmap| tally(bitmap.iter(), &mut sum));
        sum
    }
}

/// What both do in the same words.
macro_rules! operations {
    ($engine:ident, $bitmap:ty, $int:ty, $low:expr; $optimize:item $($question:item)*) => {
        impl<const RUNS: bool> Operations for $engine<RUNS> {
            fn change(operation: SetOperation, ours: &mut $bitmap, theirs: &$bitmap) {
                match operation {
                    SetOperation::Union => *ours |= theirs,
                    SetOperation::Intersect => *ours &= theirs,
                    SetOperation::Subtract => *ours -= theirs,
                    SetOperation::Xor => *ours ^= theirs,
                }
            }

            fn make(operation: SetOperation, ours: &$bitmap, theirs: &$bitmap) -> $bitmap {
                match operation {
                    SetOperation::Union => ours | theirs,
                    SetOperation::Intersect => ours & theirs,
                    SetOperation::Subtract => ours - theirs,
                    SetOperation::Xor => ours ^ theirs,
                }
            }

            fn is_subset(ours: &$bitmap, theirs: &$bitmap) -> bool {
                ours.is_subset(theirs)
            }

            fn is_equal(ours: &$bitmap, theirs: &$bitmap) -> bool {
                ours == theirs
            }

            fn write(bitmap: &$bitmap) -> Vec<u8> {
                let mut bytes = Vec::with_capacity(bitmap.serialized_size());
                bitmap.serialize_into(&mut bytes).expect("a vector takes everything");
                bytes
            }

            fn read(bytes: &[u8], _: &Disk) -> $bitmap {
                <$bitmap>::deserialize_from(bytes).expect(EXPECT_READ)
            }

            $optimize
        }

        impl<const RUNS: bool> Questions for $engine<RUNS> {
            fn next_dirty(bitmap: &$bitmap, _: &Disk, from: u64) -> Option<u64> {
                $low(bitmap)?.range(from as u32..).next().map(u64::from)
            }

            fn next_clean(bitmap: &$bitmap, disk: &Disk, from: u64) -> Option<u64> {
                let range = $low(bitmap)?.range(from as u32..).next_range();
                let clean = match range {
                    Some(range) if u64::from(*range.start()) == from => u64::from(*range.end()) + 1,
                    _ => from,
                };
                (clean < disk.granules()).then_some(clean)
            }

            fn get(bitmap: &$bitmap, _: &Disk, granule: u64) -> bool {
                bitmap.contains(granule as $int)
            }

            $($question)*
        }
    };
}

operations!(
    Roaring, RoaringBitmap, u32, Some;
    fn optimize(bitmap: &mut RoaringBitmap) {
        bitmap.optimize();
    }

    fn from_bits(bits: &[u8], disk: &Disk) -> Option<RoaringBitmap> {
        // Version 0.12 panics at the end of all values.
        (disk.granules() < 1 << 32).then(|| RoaringBitmap::from_lsb0_bytes(0, bits))
    }
);
operations!(
    Roaring64, RoaringTreemap, u64, low;
    fn optimize(bitmap: &mut RoaringTreemap) {
        *bitmap = RoaringTreemap::from_bitmaps(bitmap.bitmaps().map(|(high, part)| {
            let mut part = part.clone();
            part.optimize();
            (high, part)
        }));
    }
);
