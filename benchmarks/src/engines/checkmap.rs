#![forbid(unsafe_code)]
//! checkmap itself, through its public calls, which count in bytes. Of each job it has the one form that its users are
//! told to use.

use crate::engine::{Count, Engine, Form, Mark, Open, Save, Union, Walk, WalkSpans, count_each};
use crate::input::{Input, Shape, Span, Tally};
use crate::operations::{Operations, Questions, SetOperation, digest_of_words};
use crate::patterns::Disk;
use checkmap::io::Memory;
use checkmap::{Bitmap, Extent, Granularity, Segment, segment};
use std::sync::Arc;

pub struct Checkmap;

/// Read into memory, or a segment that stays in the bytes.
pub enum Opened<'a> {
    Bitmap(Bitmap),
    Segment(Segment<'a>),
}

fn granularity(disk: &Disk) -> Granularity {
    Granularity::from_bits(disk.granule_bits).expect("the disks here have granularities of 4 to 64 KiB")
}

fn read(bytes: &[u8], disk: &Disk) -> Bitmap {
    Bitmap::from_roaring(bytes, disk.bytes(), granularity(disk)).expect("the bytes are Roaring of this disk")
}

#[inline(always)]
fn bytes(span: Span, disk: &Disk) -> (u64, u64) {
    (span.first << disk.granule_bits, span.granules() << disk.granule_bits)
}

/// Where extents are fetched to, batch by batch.
type Batch = [Extent; 512];

const NO_EXTENTS: Batch = [Extent { offset: 0, len_bytes: 0 }; 512];

#[inline(always)]
fn tally(bitmap: &Bitmap, disk: &Disk, (offset, len_bytes): (u64, u64), batch: &mut Batch, tally: &mut Tally) {
    let mut extents = bitmap.extents(offset, len_bytes);
    loop {
        let filled = extents.fill(batch);
        for extent in &batch[..filled] {
            tally.add(extent.offset >> disk.granule_bits, (extent.end() >> disk.granule_bits) - 1);
        }
        if filled < batch.len() {
            return;
        }
    }
}

impl Engine for Checkmap {
    type Bitmap = Bitmap;
    type Opened<'a> = Opened<'a>;

    const NAME: &'static str = crate::report::OURS;
    const SHAPE: Shape = Shape::SmallestContainers;

    fn build(input: &Input, disk: &Disk) -> Bitmap {
        read(&input.to_portable64(), disk)
    }

    fn cardinality(bitmap: &Bitmap) -> u64 {
        bitmap.dirty_granules()
    }

    // A form with `threads: 2` is a row of its own.
    fn unions(count: usize) -> Vec<Form<Union<Bitmap>>> {
        let many = Form::new(
            "many-way",
            Union::New(|bitmaps| Bitmap::union_many(bitmaps, None).expect("all are of one disk")),
        );
        let on_two = Form {
            name: "many-way, 2 threads",
            threads: 2,
            run: Union::New(|bitmaps| Bitmap::union_many_with(bitmaps, None, 2).expect("all are of one disk")),
        };
        match count {
            2 => vec![Form::new(
                "in place",
                Union::InPlace(|sum, other| sum.union_with(other).expect("both are of one disk")),
            )],
            8 => vec![many, on_two],
            _ => vec![many],
        }
    }

    fn counts() -> Vec<Form<Count<Bitmap>>> {
        vec![Form::new("count_range", |bitmap, disk, spans| {
            count_each(spans, |span| {
                let (offset, len_bytes) = bytes(span, disk);
                bitmap.count_range(offset, len_bytes)
            })
        })]
    }

    fn extents() -> Vec<Form<Walk<Bitmap>>> {
        vec![Form::new("fill", |bitmap, disk, sum| tally(bitmap, disk, (0, u64::MAX), &mut NO_EXTENTS.clone(), sum))]
    }

    fn windows() -> Vec<Form<WalkSpans<Bitmap>>> {
        vec![Form::new("fill", |bitmap, disk, spans, sum| {
            let mut batch = NO_EXTENTS;
            for &span in spans {
                tally(bitmap, disk, bytes(span, disk), &mut batch, sum);
                sum.end_list();
            }
        })]
    }

    fn saves() -> Vec<Form<Save<Bitmap>>> {
        vec![
            Form::new("portable", |bitmap| bitmap.to_roaring().expect("there is memory").into()),
            Form::new("segment", |bitmap| segment::to_vec(bitmap).expect("there is memory").into()),
        ]
    }

    fn opens() -> Vec<Form<Open<Self>>> {
        vec![
            Form::new(
                "portable, read",
                Open { saved_by: "portable", open: |bytes, disk| Opened::Bitmap(read(bytes, disk)) },
            ),
            Form::new(
                "segment, in place",
                Open {
                    saved_by: "segment",
                    open: |bytes, _| {
                        Opened::Segment(Segment::open(Arc::new(Memory(bytes))).expect("the bytes are a segment"))
                    },
                },
            ),
        ]
    }

    fn marks() -> Vec<Form<Mark<Bitmap>>> {
        vec![Form::new("set", |disk, writes| {
            let mut bitmap = Bitmap::new(disk.bytes(), granularity(disk)).expect("the disks here are small enough");
            for write in writes {
                bitmap.set(write.offset, write.len_bytes).expect("the writes are inside the disk");
            }
            bitmap
        })]
    }

    fn count_opened(opened: &Opened<'_>, disk: &Disk, span: Span) -> u64 {
        let (offset, len_bytes) = bytes(span, disk);
        match opened {
            Opened::Bitmap(bitmap) => bitmap.count_range(offset, len_bytes),
            Opened::Segment(segment) => segment.count_range(offset, len_bytes).expect("the segment is sound"),
        }
    }

    fn tally_opened(opened: &Opened<'_>, disk: &Disk) -> Tally {
        let (mut sum, mut batch) = (Tally::default(), NO_EXTENTS);
        match opened {
            Opened::Bitmap(bitmap) => tally(bitmap, disk, (0, u64::MAX), &mut batch, &mut sum),
            Opened::Segment(segment) => {
                let bitmap = segment.load(0, u64::MAX).expect("the segment is sound");
                tally(&bitmap, disk, (0, u64::MAX), &mut batch, &mut sum);
            }
        }
        sum
    }
}

impl Operations for Checkmap {
    fn change(operation: SetOperation, ours: &mut Bitmap, theirs: &Bitmap) {
        let done = match operation {
            SetOperation::Union => ours.union_with(theirs),
            SetOperation::Intersect => ours.intersect_with(theirs),
            SetOperation::Subtract => ours.subtract(theirs),
            SetOperation::Xor => ours.xor_with(theirs),
        };
        done.expect("both are of one disk");
    }

    fn make(operation: SetOperation, ours: &Bitmap, theirs: &Bitmap) -> Bitmap {
        let made = match operation {
            SetOperation::Union => ours.union(theirs),
            SetOperation::Intersect => ours.intersection(theirs),
            SetOperation::Subtract => ours.difference(theirs),
            SetOperation::Xor => ours.symmetric_difference(theirs),
        };
        made.expect("both are of one disk")
    }

    fn is_subset(ours: &Bitmap, theirs: &Bitmap) -> bool {
        ours.is_subset(theirs).expect("both are of one disk")
    }

    fn is_equal(ours: &Bitmap, theirs: &Bitmap) -> bool {
        ours == theirs
    }

    fn optimize(bitmap: &mut Bitmap) {
        bitmap.optimize().expect("there is memory");
    }

    fn write(bitmap: &Bitmap) -> Vec<u8> {
        bitmap.to_roaring().expect("there is memory")
    }

    fn read(bytes: &[u8], disk: &Disk) -> Bitmap {
        read(bytes, disk)
    }
}

/// An operation on threads: its name, how many bitmaps it takes, and the call.
pub type OnThreads = (&'static str, usize, fn(&[&Bitmap], usize) -> Bitmap);

/// The operations that take threads.
pub const ON_THREADS: [OnThreads; 4] = [
    ("union_8", 8, |all, threads| Bitmap::union_many_with(all, None, threads).expect("all are of one disk")),
    ("intersect_new", 2, |all, threads| all[0].intersection_on(all[1], threads).expect("both are of one disk")),
    ("subtract_new", 2, |all, threads| all[0].difference_on(all[1], threads).expect("both are of one disk")),
    ("xor_new", 2, |all, threads| all[0].symmetric_difference_on(all[1], threads).expect("both are of one disk")),
];

impl Questions for Checkmap {
    fn from_bits(bits: &[u8], disk: &Disk) -> Option<Bitmap> {
        Some(Bitmap::from_bits(disk.bytes(), granularity(disk), bits).expect("the disk can be"))
    }

    fn to_bits(bitmap: &Bitmap, disk: &Disk) -> Option<u64> {
        let mut bits = vec![0; disk.granules().div_ceil(8) as usize];
        bitmap.copy_bits(0, &mut bits).expect("it begins at the first granule");
        Some(digest_of_words(bits.as_chunks().0.iter().map(|&word| u64::from_le_bytes(word))))
    }

    fn next_dirty(bitmap: &Bitmap, disk: &Disk, from: u64) -> Option<u64> {
        Some(bitmap.next_dirty(from << disk.granule_bits, u64::MAX)? >> disk.granule_bits)
    }

    fn next_clean(bitmap: &Bitmap, disk: &Disk, from: u64) -> Option<u64> {
        Some(bitmap.next_clean(from << disk.granule_bits, u64::MAX)? >> disk.granule_bits)
    }

    fn get(bitmap: &Bitmap, disk: &Disk, granule: u64) -> bool {
        bitmap.get(granule << disk.granule_bits).expect("it is on the disk")
    }
}
