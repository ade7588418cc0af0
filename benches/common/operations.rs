#![forbid(unsafe_code)]
//! The operations on bitmaps whose costs are taken, each with the answer of plain bits.

use super::random::Random;
use super::{Flat, GRANULARITY_BITS, Pattern, granularity, index};
use checkmap::io::Storage;
use checkmap::progress::Unobserved;
use checkmap::segment::{self, MergeOptions};
use checkmap::{Bitmap, Extent, Granularity, Segment};
use roaring::RoaringTreemap;
use std::io;
use std::sync::Arc;

/// The inputs of the larger unions.
const MANY: u64 = 8;

/// The receiver of the costs of operations.
pub trait Meter {
    /// Takes the cost of `run` on what `prepare` makes; `check` panics where the result is wrong.
    fn take<S, R>(
        &mut self,
        operation: &str,
        pattern: &str,
        prepare: impl Fn() -> S,
        run: impl Fn(S) -> R,
        check: impl FnOnce(R),
    );
}

/// Every operation, on disks of `granules` granules.
pub fn each(granules: u64, patterns: &[Pattern], meter: &mut impl Meter) {
    for &pattern in patterns {
        let flats: Vec<Flat> = (0..MANY).map(|seed| Flat::of(pattern, granules, seed + 1)).collect();
        let bitmaps: Vec<Bitmap> = flats.iter().map(Flat::bitmap).collect();
        unions(pattern.name(), &flats, &bitmaps, meter);
        combinations(pattern.name(), &flats, &bitmaps, meter);
        questions(pattern.name(), &Flat::union(&flats[..2]), meter);
        segments(pattern.name(), &flats, &bitmaps, meter);
    }
    mark(granules, meter);
    COUNTED_LOG2.into_iter().for_each(|log2| count_after_change(log2, meter));
}

/// The operation whose cost must not depend on the size of the disk: these are powers of two of granules.
pub const COUNTED: &str = "count_after_change";
pub const COUNTED_LOG2: [u32; 2] = [20, 32];

/// The counts of a whole disk, right after a granule of a clean chunk was marked. The last granule is partial.
fn count_after_change(log2: u32, meter: &mut impl Meter) {
    let granules = 1_u64 << log2;
    let size_bytes = (granules << GRANULARITY_BITS) - 1;
    let mut bitmap = Bitmap::new(size_bytes, granularity()).expect("the disk can be");
    let mut mark = |granule: u64| bitmap.set(granule << GRANULARITY_BITS, 1).expect("it is on the disk");
    // Every other chunk, the last granule, and then one in a clean chunk.
    (0..granules >> 17).for_each(|chunk| mark(chunk << 17));
    mark(granules - 1);
    mark(3 << 16);
    let count =
        |()| (bitmap.dirty_granules(), bitmap.dirty_bytes(), bitmap.count_range(0, u64::MAX), bitmap.is_empty());
    let ones = (granules >> 17) + 2;
    meter.take(
        COUNTED,
        &format!("2^{log2}"),
        || (),
        count,
        |found| {
            assert_eq!(found, (ones, (ones << GRANULARITY_BITS) - 1, ones, false));
        },
    );
}

fn unions(pattern: &str, flats: &[Flat], bitmaps: &[Bitmap], meter: &mut impl Meter) {
    let all: Vec<&Bitmap> = bitmaps.iter().collect();
    let unite = |mut sum: Bitmap| {
        sum.union_with(&bitmaps[1]).expect("both are of one disk");
        sum
    };
    meter.take("union_2", pattern, || bitmaps[0].clone(), unite, |sum| Flat::union(&flats[..2]).check(&sum));
    let unite = |()| Bitmap::union_many(&all, None).expect("all are of one disk");
    meter.take("union_8", pattern, || (), unite, |sum| Flat::union(flats).check(&sum));
}

/// The other set operations, in place, and the way to larger granules.
fn combinations(pattern: &str, flats: &[Flat], bitmaps: &[Bitmap], meter: &mut impl Meter) {
    type Change = fn(&mut Bitmap, &Bitmap) -> checkmap::Result<()>;
    type OfWords = fn(u64, u64) -> u64;
    let operations: [(&str, Change, OfWords); 3] = [
        ("intersect_2", Bitmap::intersect_with, |a, b| a & b),
        ("subtract_2", Bitmap::subtract, |a, b| a & !b),
        ("xor_2", Bitmap::xor_with, |a, b| a ^ b),
    ];
    for (name, change, of_words) in operations {
        let run = |mut bitmap: Bitmap| {
            change(&mut bitmap, &bitmaps[1]).expect("both are of one disk");
            bitmap
        };
        let check = |found: Bitmap| flats[0].zip(&flats[1], of_words).check(&found);
        meter.take(name, pattern, || bitmaps[0].clone(), run, check);
    }
    let union = bitmaps[0].union(&bitmaps[1]).expect("both are of one disk");
    let is_subset = |()| bitmaps[0].is_subset(&union).expect("both are of one disk");
    meter.take("is_subset", pattern, || (), is_subset, |found| assert!(found));
    let coarse = Granularity::from_bits(GRANULARITY_BITS + 4).expect("it is one");
    let to_coarse = |()| bitmaps[0].to_granularity(coarse).expect("the disk can be");
    meter.take(
        "coarser_16",
        pattern,
        || (),
        to_coarse,
        |found| {
            let granules =
                (0..flats[0].granules / 16).filter(|granule| flats[0].count(16 * granule, 16 * granule + 16) > 0);
            assert_eq!(found.dirty_granules(), granules.count() as u64);
        },
    );
    let bytes = vec![0; index(flats[0].granules / 8)];
    let to_bits = |mut bytes: Vec<u8>| {
        bitmaps[0].copy_bits(0, &mut bytes).expect("it begins with a granule");
        bytes
    };
    let bits: Vec<u8> = flats[0].words.iter().flat_map(|word| word.to_le_bytes()).collect();
    meter.take("to_bits", pattern, || bytes.clone(), to_bits, |found| assert!(found == bits));
    let from_bits = |()| Bitmap::from_bits(bitmaps[0].size_bytes(), granularity(), &bits).expect("the disk can be");
    meter.take("from_bits", pattern, || (), from_bits, |found| flats[0].check(&found));
}

fn questions(pattern: &str, flat: &Flat, meter: &mut impl Meter) {
    let bitmap = flat.bitmap();
    let mut random = Random::from_seed(99);
    let mut range = || {
        let (a, b) = (random.below(flat.granules), random.below(flat.granules));
        (a.min(b), a.max(b) + 1)
    };
    let ranges: Vec<(u64, u64)> = (0..1000).map(|_| range()).collect();
    let count = |()| -> Vec<u64> {
        let count =
            |&(from, to): &(u64, u64)| bitmap.count_range(from << GRANULARITY_BITS, (to - from) << GRANULARITY_BITS);
        ranges.iter().map(count).collect()
    };
    let check = |found: Vec<u64>| assert!(ranges.iter().map(|&(from, to)| flat.count(from, to)).eq(found));
    meter.take("count_ranges", pattern, || (), count, check);

    let walk = |(): ()| bitmap.extents(0, u64::MAX).fold(Sum::default(), Sum::with);
    meter.take(
        "extents",
        pattern,
        || (),
        walk,
        |sum| assert!(flat.extents().into_iter().fold(Sum::default(), Sum::with) == sum),
    );

    let serialize = |mut bytes: Vec<u8>| {
        bitmap.write_roaring(&mut bytes).expect("memory can be written");
        bytes
    };
    let room = || Vec::with_capacity(usize::try_from(bitmap.serialized_len()).expect("it fits memory"));
    meter.take("serialize", pattern, room, serialize, |bytes| {
        let read = RoaringTreemap::deserialize_from(&bytes[..]).expect("it is portable Roaring");
        assert!(read.into_iter().eq((0..flat.granules).filter(|&granule| flat.get(granule))));
    });

    let bytes = serialize(room());
    let open = |()| Bitmap::from_roaring(&bytes, bitmap.size_bytes(), granularity()).expect("it is our own");
    meter.take("open", pattern, || (), open, |opened| flat.check(&opened));
}

fn segments(pattern: &str, flats: &[Flat], bitmaps: &[Bitmap], meter: &mut impl Meter) {
    let segment = |bitmap: &Bitmap| {
        let mut bytes = Vec::new();
        segment::write(bitmap, &mut bytes).expect("memory can be written");
        Segment::open(Arc::new(Memory(bytes))).expect("it is our own")
    };
    let segments: Vec<Segment> = bitmaps.iter().map(segment).collect();
    let all: Vec<&Segment> = segments.iter().collect();
    let merge = |()| {
        let mut bytes = Vec::new();
        segment::merge(&all, &mut bytes, &MergeOptions::default(), &mut Unobserved).expect("all are our own");
        bytes
    };
    meter.take(
        "segment_merge_8",
        pattern,
        || (),
        merge,
        |bytes| {
            let merged = Segment::open(Arc::new(Memory(bytes))).expect("it is our own");
            Flat::union(flats).check(&merged.load(0, u64::MAX).expect("it is whole"));
        },
    );
}

/// Writes of 4 to 64 KiB all over the disk, one by one.
fn mark(granules: u64, meter: &mut impl Meter) {
    let mut random = Random::from_seed(7);
    let mut write = || {
        let len_bytes = (1 + random.below(16)) << 12;
        (random.below(((granules << GRANULARITY_BITS) - len_bytes) >> 12) << 12, len_bytes)
    };
    let writes: Vec<(u64, u64)> = (0..20_000).map(|_| write()).collect();
    let empty = || Bitmap::new(granules << GRANULARITY_BITS, granularity()).expect("the disk can be");
    let mark = |mut bitmap: Bitmap| {
        writes.iter().for_each(|&(offset, len_bytes)| bitmap.set(offset, len_bytes).expect("it is on the disk"));
        bitmap
    };
    meter.take("mark", "random", empty, mark, |bitmap| {
        let mut flat = Flat::new(granules);
        for (offset, len_bytes) in &writes {
            flat.set(offset >> GRANULARITY_BITS, ((offset + len_bytes - 1) >> GRANULARITY_BITS) + 1);
        }
        flat.check(&bitmap);
    });
}

/// A fingerprint of a list of extents.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    extents: u64,
    hash: u64,
}

impl Sum {
    fn with(self, extent: Extent) -> Self {
        let product = (extent.offset + 0x9e37_79b9_7f4a_7c15).wrapping_mul(2 * extent.len_bytes + 1);
        Self { extents: self.extents + 1, hash: self.hash.rotate_left(1) ^ product }
    }
}

/// A file in memory, to be read.
#[derive(Debug)]
struct Memory(Vec<u8>);

impl Storage for Memory {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let start = usize::try_from(offset).map_or(self.0.len(), |start| start.min(self.0.len()));
        let len = buffer.len().min(self.0.len() - start);
        buffer[..len].copy_from_slice(&self.0[start..start + len]);
        Ok(len)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn can_grow(&self) -> bool {
        false
    }
}
