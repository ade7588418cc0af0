//! CRoaring by its `croaring` crate: `Bitmap`, of 32 bits, and `Bitmap64`, each with and without run containers. The C code
//! picks its own vector instructions when it starts.

use crate::engine::{Count, Engine, Form, Mark, Open, Save, Saved, Union, Walk, WalkSpans, count_each};
use crate::input::{Input, Shape, Span, Tally};
use crate::operations::{Operations, Questions, SetOperation, digest_of_words};
use crate::patterns::Disk;
use croaring::{Bitmap, Bitmap64, Bitmap64View, BitmapView, Frozen, Native, Portable, RangeInclusive};
use std::ops::Deref;

/// `Bitmap`; with `RUNS` after `run_optimize`, without it has no run container.
pub struct Croaring<const RUNS: bool>;

/// `Bitmap64`, likewise.
pub struct Croaring64<const RUNS: bool>;

/// Read by the library, or still in the bytes.
pub enum Opened<B, V> {
    Owned(B),
    View(V),
}

impl<B, V: Deref<Target = B>> Deref for Opened<B, V> {
    type Target = B;

    fn deref(&self) -> &B {
        match self {
            Self::Owned(bitmap) => bitmap,
            Self::View(view) => view,
        }
    }
}

/// What the two types do in the same words, over `$int`.
macro_rules! questions {
    ($module:ident, $bitmap:ty, $int:ty) => {
        mod $module {
            use super::*;

            type Range = RangeInclusive<$int>;

            fn range(span: Span) -> std::ops::RangeInclusive<$int> {
                span.first as $int..=span.last as $int
            }

            pub(super) fn optimized(mut bitmap: $bitmap, runs: bool) -> $bitmap {
                if runs {
                    bitmap.run_optimize();
                } else {
                    bitmap.remove_run_compression();
                }
                bitmap.shrink_to_fit();
                bitmap
            }

            pub(super) fn count(bitmap: &$bitmap, span: Span) -> u64 {
                bitmap.range_cardinality(range(span))
            }

            pub(super) fn counts() -> Vec<Form<Count<$bitmap>>> {
                vec![Form::new("range_cardinality", |bitmap, _, spans| count_each(spans, |span| count(bitmap, span)))]
            }

            pub(super) fn extents() -> Vec<Form<Walk<$bitmap>>> {
                vec![Form::new("ranges", |bitmap, _, sum| tally(bitmap, sum))]
            }

            pub(super) fn tally(bitmap: &$bitmap, sum: &mut Tally) {
                let mut buffer = [Range::default(); 512];
                let mut cursor = bitmap.cursor();
                loop {
                    let count = cursor.read_many_ranges(&mut buffer);
                    buffer[..count].iter().for_each(|range| sum.add(range.start.into(), range.last.into()));
                    if count < buffer.len() {
                        return;
                    }
                }
            }

            /// Reads in growing steps, as most windows have few. Ranges are read whole, so one that leaves its window is
            /// walked to its end, wherever that is; the other two forms do not do that.
            pub(super) fn windows() -> Vec<Form<WalkSpans<$bitmap>>> {
                vec![
                    Form::new("ranges", |bitmap, _, spans, sum| {
                        let mut buffer = [Range::default(); 512];
                        let mut cursor = bitmap.cursor();
                        for span in spans {
                            cursor.reset_at_or_after(span.first as $int);
                            let mut step = 8;
                            loop {
                                let count = cursor.read_many_ranges(&mut buffer[..step]);
                                let last = span.last as $int;
                                let inside = buffer[..count].iter().take_while(|range| range.start <= last);
                                inside.for_each(|range| sum.add(range.start.into(), range.last.min(last).into()));
                                if count < step || buffer[count - 1].last >= last {
                                    break;
                                }
                                step = (2 * step).min(buffer.len());
                            }
                            sum.end_list();
                        }
                    }),
                    Form::new("values", |bitmap, _, spans, sum| {
                        let mut buffer = [0; 1024];
                        let mut values = bitmap.iter();
                        for span in spans {
                            values.reset_at_or_after(span.first as $int);
                            let mut open: Option<($int, $int)> = None;
                            let mut step = 8;
                            loop {
                                let count = values.next_many(&mut buffer[..step]);
                                let last = span.last as $int;
                                for &value in buffer[..count].iter().take_while(|&&value| value <= last) {
                                    match &mut open {
                                        Some((_, end)) if *end + 1 == value => *end = value,
                                        Some((start, end)) => {
                                            sum.add((*start).into(), (*end).into());
                                            open = Some((value, value));
                                        }
                                        None => open = Some((value, value)),
                                    }
                                }
                                if count < step || buffer[count - 1] >= last {
                                    break;
                                }
                                step = (2 * step).min(buffer.len());
                            }
                            open.iter().for_each(|&(start, end)| sum.add(start.into(), end.into()));
                            sum.end_list();
                        }
                    }),
                    Form::new("intersection", |bitmap, _, spans, sum| {
                        for &span in spans {
                            tally(&<$bitmap>::from_range(range(span)).and(bitmap), sum);
                            sum.end_list();
                        }
                    }),
                ]
            }

            pub(super) fn marks() -> Vec<Form<Mark<$bitmap>>> {
                vec![
                    Form::new("add_range", |disk, writes| {
                        let mut bitmap = <$bitmap>::new();
                        writes.iter().for_each(|write| bitmap.add_range(range(write.granules(disk))));
                        bitmap
                    }),
                    Form::new("bulk", |disk, writes| {
                        let mut bitmap = <$bitmap>::new();
                        bitmap.extend(writes.iter().flat_map(|write| range(write.granules(disk))));
                        bitmap
                    }),
                ]
            }
        }
    };
}

questions!(narrow, Bitmap, u32);
questions!(wide, Bitmap64, u64);

/// The part of the trait that is the same words for both.
macro_rules! answered_by {
    ($module:ident, $bitmap:ty) => {
        fn cardinality(bitmap: &$bitmap) -> u64 {
            bitmap.cardinality()
        }

        fn counts() -> Vec<Form<Count<$bitmap>>> {
            $module::counts()
        }

        fn extents() -> Vec<Form<Walk<$bitmap>>> {
            $module::extents()
        }

        fn windows() -> Vec<Form<WalkSpans<$bitmap>>> {
            $module::windows()
        }

        fn marks() -> Vec<Form<Mark<$bitmap>>> {
            $module::marks()
        }

        fn count_opened(opened: &Self::Opened<'_>, _: &Disk, span: Span) -> u64 {
            $module::count(opened, span)
        }

        fn tally_opened(opened: &Self::Opened<'_>, _: &Disk) -> Tally {
            let mut sum = Tally::default();
            $module::tally(opened, &mut sum);
            sum
        }
    };
}

impl<const RUNS: bool> Engine for Croaring<RUNS> {
    type Bitmap = Bitmap;
    type Opened<'a> = Opened<Bitmap, BitmapView<'a>>;

    const NAME: &'static str = if RUNS { "croaring+run" } else { "croaring" };
    const SHAPE: Shape = if RUNS { Shape::SmallestContainers } else { Shape::Containers };

    fn build(input: &Input, _: &Disk) -> Bitmap {
        narrow::optimized(Bitmap::deserialize::<Portable>(&input.to_portable()), RUNS)
    }

    fn unions(_: usize) -> Vec<Form<Union<Bitmap>>> {
        vec![
            Form::new("in place, one by one", Union::InPlace(Bitmap::or_inplace)),
            Form::new(
                "new, one by one",
                Union::New(|bitmaps| {
                    let first = bitmaps[0].or(bitmaps[1]);
                    bitmaps[2..].iter().fold(first, |sum, other| sum.or(other))
                }),
            ),
            Form::new("fast_or", Union::New(Bitmap::fast_or)),
            Form::new("fast_or_heap", Union::New(Bitmap::fast_or_heap)),
            Form::new("lazy", Union::New(|bitmaps| lazy(bitmaps, false))),
            Form::new("lazy, bitsets", Union::New(|bitmaps| lazy(bitmaps, true))),
        ]
    }

    fn saves() -> Vec<Form<Save<Bitmap>>> {
        vec![
            Form::new("portable", |bitmap| bitmap.serialize::<Portable>().into()),
            Form::new("native", |bitmap| bitmap.serialize::<Native>().into()),
            Form::new("frozen", |bitmap| {
                let mut bytes = Vec::new();
                let len = bitmap.serialize_into_vec::<Frozen>(&mut bytes).len();
                Saved { start: bytes.len() - len, bytes }
            }),
        ]
    }

    fn opens() -> Vec<Form<Open<Self>>> {
        vec![
            Form::new(
                "portable, read",
                Open { saved_by: "portable", open: |bytes, _| Opened::Owned(Bitmap::deserialize::<Portable>(bytes)) },
            ),
            Form::new(
                "native, read",
                Open { saved_by: "native", open: |bytes, _| Opened::Owned(Bitmap::deserialize::<Native>(bytes)) },
            ),
            Form::new(
                "portable, view",
                Open {
                    saved_by: "portable",
                    // SAFETY: the bytes are what the save of that name wrote.
                    open: |bytes, _| Opened::View(unsafe { BitmapView::deserialize::<Portable>(bytes) }),
                },
            ),
            Form::new(
                "frozen, view",
                Open {
                    saved_by: "frozen",
                    // SAFETY: the bytes are what the save of that name wrote, from where it aligned them.
                    open: |bytes, _| Opened::View(unsafe { BitmapView::deserialize::<Frozen>(bytes) }),
                },
            ),
        ]
    }

    answered_by!(narrow, Bitmap);
}

fn lazy(bitmaps: &[&Bitmap], bitsets: bool) -> Bitmap {
    let mut sum = bitmaps[0].clone();
    sum.lazy_batch(|lazy| {
        for other in &bitmaps[1..] {
            lazy.or_inplace(other, bitsets);
        }
    });
    sum
}

impl<const RUNS: bool> Engine for Croaring64<RUNS> {
    type Bitmap = Bitmap64;
    type Opened<'a> = Opened<Bitmap64, Bitmap64View<'a>>;

    const NAME: &'static str = if RUNS { "croaring64+run" } else { "croaring64" };
    const SHAPE: Shape = if RUNS { Shape::SmallestContainers } else { Shape::Containers };

    fn build(input: &Input, _: &Disk) -> Bitmap64 {
        wide::optimized(Bitmap64::deserialize::<Portable>(&input.to_portable64()), RUNS)
    }

    fn unions(_: usize) -> Vec<Form<Union<Bitmap64>>> {
        vec![
            Form::new("in place, one by one", Union::InPlace(Bitmap64::or_inplace)),
            Form::new(
                "new, one by one",
                Union::New(|bitmaps| {
                    let first = bitmaps[0].or(bitmaps[1]);
                    bitmaps[2..].iter().fold(first, |sum, other| sum.or(other))
                }),
            ),
        ]
    }

    fn saves() -> Vec<Form<Save<Bitmap64>>> {
        vec![
            Form::new("portable", |bitmap| bitmap.serialize::<Portable>().into()),
            Form::new("frozen", |bitmap| {
                let mut bytes = Vec::new();
                let len = bitmap.serialize_into_vec::<Frozen>(&mut bytes).len();
                Saved { start: bytes.len() - len, bytes }
            }),
        ]
    }

    fn opens() -> Vec<Form<Open<Self>>> {
        vec![
            Form::new(
                "portable, read",
                Open { saved_by: "portable", open: |bytes, _| Opened::Owned(Bitmap64::deserialize::<Portable>(bytes)) },
            ),
            Form::new(
                "portable, view",
                Open {
                    saved_by: "portable",
                    open: |bytes, _| {
                        // SAFETY: the bytes are what the save of that name wrote, from where it aligned them.
                        let view = unsafe { Bitmap64View::deserialize::<Portable>(bytes) };
                        Opened::View(view.expect("the bytes are a bitmap"))
                    },
                },
            ),
            Form::new(
                "frozen, view",
                Open {
                    saved_by: "frozen",
                    open: |bytes, _| {
                        // SAFETY: the bytes are what the save of that name wrote, from where it aligned them.
                        let view = unsafe { Bitmap64View::deserialize::<Frozen>(bytes) };
                        Opened::View(view.expect("the bytes are a bitmap"))
                    },
                },
            ),
        ]
    }

    answered_by!(wide, Bitmap64);
}

/// What both do in the same words, over `$int`.
macro_rules! operations {
    ($engine:ident, $bitmap:ty, $int:ty $(, $($more:item)*)?) => {
        impl<const RUNS: bool> Operations for $engine<RUNS> {
            fn change(operation: SetOperation, ours: &mut $bitmap, theirs: &$bitmap) {
                match operation {
                    SetOperation::Union => ours.or_inplace(theirs),
                    SetOperation::Intersect => ours.and_inplace(theirs),
                    SetOperation::Subtract => ours.andnot_inplace(theirs),
                    SetOperation::Xor => ours.xor_inplace(theirs),
                }
            }

            fn make(operation: SetOperation, ours: &$bitmap, theirs: &$bitmap) -> $bitmap {
                match operation {
                    SetOperation::Union => ours.or(theirs),
                    SetOperation::Intersect => ours.and(theirs),
                    SetOperation::Subtract => ours.andnot(theirs),
                    SetOperation::Xor => ours.xor(theirs),
                }
            }

            fn is_subset(ours: &$bitmap, theirs: &$bitmap) -> bool {
                ours.is_subset(theirs)
            }

            fn is_equal(ours: &$bitmap, theirs: &$bitmap) -> bool {
                ours == theirs
            }

            fn optimize(bitmap: &mut $bitmap) {
                bitmap.run_optimize();
                bitmap.shrink_to_fit();
            }

            fn write(bitmap: &$bitmap) -> Vec<u8> {
                bitmap.serialize::<Portable>()
            }

            fn read(bytes: &[u8], _: &Disk) -> $bitmap {
                <$bitmap>::deserialize::<Portable>(bytes)
            }
        }

        impl<const RUNS: bool> Questions for $engine<RUNS> {
            fn next_dirty(bitmap: &$bitmap, _: &Disk, from: u64) -> Option<u64> {
                let mut cursor = bitmap.cursor();
                cursor.reset_at_or_after(from as $int);
                cursor.current().map(u64::from)
            }

            fn next_clean(bitmap: &$bitmap, disk: &Disk, from: u64) -> Option<u64> {
                let mut cursor = bitmap.cursor();
                cursor.reset_at_or_after(from as $int);
                let mut range = [RangeInclusive::<$int>::default()];
                let is_dirty = cursor.current() == Some(from as $int) && cursor.read_many_ranges(&mut range) == 1;
                let clean = if is_dirty { u64::from(range[0].last) + 1 } else { from };
                (clean < disk.granules()).then_some(clean)
            }

            fn get(bitmap: &$bitmap, _: &Disk, granule: u64) -> bool {
                bitmap.contains(granule as $int)
            }

            $($($more)*)?
        }
    };
}

operations!(
    Croaring,
    Bitmap,
    u32,
    fn to_bits(bitmap: &Bitmap, disk: &Disk) -> Option<u64> {
        let mut bits = bitmap.to_bitset().expect("there is memory");
        bits.resize_words(disk.granules() as usize / 64, false);
        Some(digest_of_words(bits.as_slice().iter().copied()))
    }
);
operations!(Croaring64, Bitmap64, u64);
