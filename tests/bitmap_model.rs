#![forbid(unsafe_code)]
//! Random sequences of operations on two bitmaps of one disk, against plain lists of booleans.
#![allow(clippy::cast_possible_truncation, reason = "test disks are small enough to index")]

use checkmap::{Bitmap, ErrorKind, Extent, Granularity};
use proptest::prelude::*;
use proptest::sample::select;

fn granularity(bits: u32) -> Granularity {
    Granularity::from_bits(bits).unwrap()
}

/// One boolean for each granule, and no cleverness.
#[derive(Clone)]
struct Model {
    size: u64,
    bits: u32,
    dirty: Vec<bool>,
}

impl Model {
    fn new(size: u64, bits: u32) -> Self {
        let granules = size.div_ceil(1 << bits);
        Self { size, bits, dirty: vec![false; granules as usize] }
    }

    fn fill(&mut self, offset: u64, end: u64, value: bool) {
        if offset < end {
            self.dirty[(offset >> self.bits) as usize..=((end - 1) >> self.bits) as usize].fill(value);
        }
    }

    fn is_dirty(&self, offset: u64) -> bool {
        self.dirty[(offset >> self.bits) as usize]
    }

    /// The bytes of granule `index` that the disk has.
    fn bytes(&self, index: usize) -> (u64, u64) {
        let offset = (index as u64) << self.bits;
        (offset, (offset + (1 << self.bits)).min(self.size))
    }

    fn extents(&self, offset: u64, len: u64) -> Vec<Extent> {
        let end = offset.saturating_add(len).min(self.size);
        let mut extents: Vec<Extent> = Vec::new();
        if offset >= end {
            return extents;
        }
        for index in (offset >> self.bits)..=((end - 1) >> self.bits) {
            if self.dirty[index as usize] {
                let (first, last) = self.bytes(index as usize);
                let (first, last) = (first.max(offset), last.min(end));
                match extents.last_mut() {
                    Some(extent) if extent.end() == first => extent.len_bytes += last - first,
                    _ => extents.push(Extent { offset: first, len_bytes: last - first }),
                }
            }
        }
        extents
    }

    fn at_granularity(&self, bits: u32) -> Self {
        let mut result = Self::new(self.size, bits);
        for index in (0..self.dirty.len()).filter(|&index| self.dirty[index]) {
            let (offset, end) = self.bytes(index);
            result.fill(offset, end, true);
        }
        result
    }

    fn covers(&self, offset: u64, end: u64) -> bool {
        self.dirty[(offset >> self.bits) as usize..=((end - 1) >> self.bits) as usize].iter().all(|&dirty| dirty)
    }

    fn resize(&mut self, size: u64) {
        self.size = size;
        self.dirty.resize(size.div_ceil(1 << self.bits) as usize, false);
    }
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Set,
    Clear,
    SetAll,
    ClearAll,
    /// Points at a fixed distance, in a number that makes a chunk change its form.
    Scatter,
    Unscatter,
    Resize,
    SetBits,
    Union,
    Intersect,
    Subtract,
    Xor,
    UnionMany,
    Regranulate,
    ThroughRoaring,
    ThroughBits,
}

#[derive(Clone, Debug)]
struct Step {
    operation: Operation,
    on_second: bool,
    place: (u64, i64, u64),
    amount: (u64, i64, u64),
    stride: u64,
}

impl Step {
    /// A granule near a boundary, or anywhere.
    fn granule(&self, granules: u64) -> u64 {
        pick(self.place, granules)
    }

    fn length(&self, granules: u64) -> u64 {
        pick(self.amount, granules)
    }
}

fn pick((unit, delta, factor): (u64, i64, u64), granules: u64) -> u64 {
    let boundary = (factor % (granules / unit + 1)) * unit;
    boundary.saturating_add_signed(delta).min(granules)
}

fn places() -> impl Strategy<Value = (u64, i64, u64)> {
    (select(vec![1, 1, 64, 4096, 65536, u64::MAX]), -2i64..=2, any::<u32>().prop_map(u64::from))
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    use Operation::*;
    let operation = prop_oneof![
        8 => Just(Set), 6 => Just(Clear), 1 => Just(SetAll), 1 => Just(ClearAll), 4 => Just(Scatter),
        3 => Just(Unscatter), 2 => Just(Resize), 2 => Just(SetBits), 3 => Just(Union), 2 => Just(Intersect),
        3 => Just(Subtract), 2 => Just(Xor), 1 => Just(UnionMany), 1 => Just(Regranulate),
        2 => Just(ThroughRoaring), 1 => Just(ThroughBits),
    ];
    let step = (operation, any::<bool>(), places(), places(), 1u64..20)
        .prop_map(|(operation, on_second, place, amount, stride)| Step { operation, on_second, place, amount, stride });
    prop::collection::vec(step, 1..24)
}

/// Granule counts at the edges of words, array limits and chunks.
fn shapes() -> impl Strategy<Value = u64> {
    select(vec![
        0, 1, 7, 63, 64, 65, 4095, 4096, 4097, 65535, 65536, 65537, 100_000, 131_071, 131_072, 131_073, 200_000,
        262_167,
    ])
}

struct Pair {
    bitmap: Bitmap,
    model: Model,
}

impl Pair {
    fn new(size: u64, bits: u32) -> Self {
        Self { bitmap: Bitmap::new(size, granularity(bits)).unwrap(), model: Model::new(size, bits) }
    }

    fn check(&self, step: &Step) {
        let (bitmap, model) = (&self.bitmap, &self.model);
        bitmap.validate().unwrap();
        assert_eq!((bitmap.size_bytes(), bitmap.granules()), (model.size, model.dirty.len() as u64));
        let expected = model.extents(0, u64::MAX);
        assert!(bitmap.extents(0, u64::MAX).eq(expected.iter().copied()), "extents from the front");
        assert!(bitmap.extents(0, u64::MAX).rev().eq(expected.iter().rev().copied()), "extents from the back");
        assert_eq!(bitmap.extent_count(), expected.len() as u64);
        assert_eq!(bitmap.dirty_bytes(), expected.iter().map(|extent| extent.len_bytes).sum::<u64>());
        assert_eq!(bitmap.dirty_granules(), model.dirty.iter().filter(|&&dirty| dirty).count() as u64);
        assert_eq!(bitmap.is_empty(), expected.is_empty());
        self.check_window(step);
    }

    /// Extents in batches of several lengths, with single ones in between from either end.
    fn check_batches(&self, (offset, len): (u64, u64), expected: &[Extent]) {
        let extents = || self.bitmap.extents(offset, len);
        let nothing = Extent { offset: 7, len_bytes: 0 };
        for room in [1, 2, 3, 31, 64, expected.len(), expected.len() + 1] {
            let (mut left, mut batch, mut found) = (extents(), vec![nothing; room], Vec::new());
            loop {
                let filled = left.fill(&mut batch);
                found.extend_from_slice(&batch[..filled]);
                if filled < room || room == 0 {
                    break;
                }
            }
            assert!(room == 0 || found == expected, "{room} at a time");
            let (mut left, mut front, mut back) = (extents(), Vec::new(), Vec::new());
            loop {
                let filled = left.fill(&mut batch);
                front.extend_from_slice(&batch[..filled]);
                let next = left.next();
                front.extend(next);
                back.extend(left.next_back());
                if next.is_none() {
                    break;
                }
            }
            assert_eq!(left.fill(&mut batch), 0);
            back.reverse();
            assert!([front, back].concat() == expected, "{room} at a time, from both ends");
        }
        assert!(
            extents().fold(Vec::new(), |mut all, extent| {
                all.push(extent);
                all
            }) == expected
        );
    }

    fn check_window(&self, step: &Step) {
        let (bitmap, model) = (&self.bitmap, &self.model);
        let granules = model.dirty.len() as u64;
        let offset = (step.granule(granules) << model.bits) + step.amount.2 % (1 << model.bits);
        let len = (step.length(granules) << model.bits) + step.place.2 % (1 << model.bits);
        let expected = model.extents(offset, len);
        let end = offset.saturating_add(len).min(model.size);

        self.check_batches((offset, len), &expected);
        let mut both_ends = bitmap.extents(offset, len);
        let (mut front, mut back) = (Vec::new(), Vec::new());
        let mut turns = step.stride.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        loop {
            turns = turns.rotate_left(1);
            let next = if turns & 1 == 0 { both_ends.next() } else { both_ends.next_back() };
            let Some(extent) = next else { break };
            if turns & 1 == 0 { front.push(extent) } else { back.push(extent) }
        }
        assert_eq!((both_ends.next(), both_ends.next_back()), (None, None));
        front.extend(back.into_iter().rev());
        assert_eq!(front, expected);

        assert_eq!(bitmap.next_dirty(offset, len), expected.first().map(|extent| extent.offset));
        assert_eq!(bitmap.previous_dirty(offset, len), expected.last().map(|extent| extent.end() - 1));
        let clean = |offset: &u64| !model.is_dirty(*offset);
        let edges = |index: u64| {
            let (first, last) = model.bytes(index as usize);
            (first.max(offset), last.min(end))
        };
        let touched = if offset < end { offset >> model.bits..((end - 1) >> model.bits) + 1 } else { 0..0 };
        let next_clean = touched.clone().map(|index| edges(index).0).find(clean);
        let previous_clean = touched.clone().rev().map(|index| edges(index).1 - 1).find(clean);
        assert_eq!(bitmap.next_clean(offset, len), next_clean);
        assert_eq!(bitmap.previous_clean(offset, len), previous_clean);
        let count = touched.filter(|&index| model.dirty[index as usize]).count() as u64;
        assert_eq!(bitmap.count_range(offset, len), count);

        let is_past = offset >= model.size;
        let index = if is_past { model.dirty.len() } else { (offset >> model.bits) as usize };
        let rank = model.dirty[..index].iter().filter(|&&dirty| dirty).count() as u64;
        assert_eq!(bitmap.rank(offset), rank);
        let at_or_after = (index..model.dirty.len()).find(|&index| model.dirty[index]);
        assert_eq!(bitmap.select(rank), at_or_after.map(|index| (index as u64) << model.bits));
        assert_eq!(bitmap.select(bitmap.dirty_granules()), None);
        if offset < granules << model.bits {
            assert_eq!(bitmap.get(offset).unwrap(), model.is_dirty(offset));
        } else {
            assert_eq!(bitmap.get(offset).unwrap_err().kind(), ErrorKind::OutOfRange);
        }
    }

    fn apply(&mut self, step: &Step, other: &Pair) {
        let Self { bitmap, model } = self;
        let granules = model.dirty.len() as u64;
        let (first, bits, size) = (step.granule(granules), model.bits, model.size);
        let granule = 1u64 << bits;
        let count = step.length(granules).min(granules - first);
        match step.operation {
            Operation::Set => {
                let offset = first * granule + step.amount.2 % granule;
                let len = (count * granule).saturating_sub(step.amount.2 % granule);
                bitmap.set(offset, len).unwrap();
                model.fill(offset, offset + len, true);
            }
            Operation::Clear => {
                let offset = first * granule;
                let end = ((first + count) * granule).min(size.max(offset));
                bitmap.clear(offset, end - offset).unwrap();
                model.fill(offset, end, false);
            }
            Operation::SetAll => {
                bitmap.set_all().unwrap();
                model.dirty.fill(true);
            }
            Operation::ClearAll => {
                bitmap.clear_all();
                model.dirty.fill(false);
            }
            Operation::Scatter | Operation::Unscatter => {
                let value = matches!(step.operation, Operation::Scatter);
                for point in (first..granules).step_by(step.stride as usize + 1).take(5000) {
                    let offset = point * granule;
                    if value {
                        bitmap.set(offset, 1).unwrap()
                    } else {
                        clear_one(bitmap, offset)
                    }
                    model.dirty[point as usize] = value;
                }
            }
            Operation::Resize => unreachable!("both bitmaps are resized together"),
            Operation::SetBits => {
                let first = first & !7;
                let bytes: Vec<u8> = (0..count.div_ceil(8)).map(|byte| (byte * step.stride * 37) as u8).collect();
                bitmap.set_bits(first * granule, &bytes).unwrap();
                for bit in 0..bytes.len() as u64 * 8 {
                    if bytes[bit as usize / 8] >> (bit % 8) & 1 == 1 && first + bit < granules {
                        model.dirty[(first + bit) as usize] = true;
                    }
                }
            }
            Operation::Union => {
                bitmap.union_with(&other.bitmap).unwrap();
                let rounded = other.model.at_granularity(bits).dirty;
                model.dirty.iter_mut().zip(rounded).for_each(|(to, from)| *to |= from);
                assert!(other.bitmap.is_subset(bitmap).unwrap());
            }
            Operation::Intersect => {
                bitmap.intersect_with(&other.bitmap).unwrap();
                let rounded = other.model.at_granularity(bits).dirty;
                model.dirty.iter_mut().zip(rounded).for_each(|(to, from)| *to &= from);
            }
            Operation::Subtract => {
                bitmap.subtract(&other.bitmap).unwrap();
                for index in 0..model.dirty.len() {
                    let (offset, end) = model.bytes(index);
                    model.dirty[index] &= !other.model.covers(offset, end);
                }
            }
            Operation::Xor if bits == other.model.bits => {
                bitmap.xor_with(&other.bitmap).unwrap();
                model.dirty.iter_mut().zip(&other.model.dirty).for_each(|(to, from)| *to ^= from);
            }
            Operation::Xor => {
                let before = bitmap.clone();
                assert_eq!(bitmap.xor_with(&other.bitmap).unwrap_err().kind(), ErrorKind::InvalidArgument);
                assert_eq!(*bitmap, before);
            }
            Operation::UnionMany => {
                let middle = Bitmap::new(size, granularity(bits)).unwrap();
                let ours = bitmap.clone();
                let all = [&ours, &other.bitmap, &middle, &other.bitmap];
                *bitmap = Bitmap::union_many(&all, Some(granularity(bits))).unwrap();
                let rounded = other.model.at_granularity(bits).dirty;
                model.dirty.iter_mut().zip(rounded).for_each(|(to, from)| *to |= from);
                let finest = Bitmap::union_many_with(&all, None, 2).unwrap();
                assert_eq!(finest, ours.union(&other.bitmap).unwrap());
            }
            Operation::Regranulate => {
                let target = other.model.bits;
                let moved = bitmap.to_granularity(granularity(target)).unwrap();
                moved.validate().unwrap();
                let rounded = model.at_granularity(target);
                assert!(moved.extents(0, u64::MAX).eq(rounded.extents(0, u64::MAX)));
                assert!(bitmap.is_subset(&moved).unwrap());
            }
            Operation::ThroughRoaring => {
                let mut bytes = Vec::new();
                bitmap.write_roaring(&mut bytes).unwrap();
                assert_eq!(bitmap.serialized_len(), bytes.len() as u64);
                let read = Bitmap::from_roaring(&bytes, size, granularity(bits)).unwrap();
                assert_eq!(read, *bitmap);
                let mut again = Vec::new();
                read.write_roaring(&mut again).unwrap();
                assert_eq!(again, bytes, "equal bitmaps give equal bytes");
                *bitmap = read;
            }
            Operation::ThroughBits => {
                let mut bytes = vec![0xa5; granules.div_ceil(8) as usize + 3];
                bitmap.copy_bits(0, &mut bytes).unwrap();
                for bit in 0..bytes.len() * 8 {
                    let dirty = model.dirty.get(bit).copied().unwrap_or(false);
                    assert_eq!(bytes[bit / 8] >> (bit % 8) & 1 == 1, dirty, "bit {bit}");
                }
                let from = (first & !7).min(bytes.len() as u64 * 8);
                let mut piece = vec![0xa5; (count / 8) as usize];
                bitmap.copy_bits(from * granule, &mut piece).unwrap();
                let start = from as usize / 8;
                assert_eq!(piece, bytes[start..][..piece.len()]);
                *bitmap = Bitmap::from_bits(size, granularity(bits), &bytes).unwrap();
            }
        }
    }
}

/// Clears the granule at `offset`, whose length the disk's end may cut.
fn clear_one(bitmap: &mut Bitmap, offset: u64) {
    let len = bitmap.granularity().bytes().min(bitmap.size_bytes() - offset);
    bitmap.clear(offset, len).unwrap();
}

fn check_subset(a: &Pair, b: &Pair) {
    let expected = (0..a.model.dirty.len()).filter(|&index| a.model.dirty[index]).all(|index| {
        let (offset, end) = a.model.bytes(index);
        b.model.covers(offset, end)
    });
    assert_eq!(a.bitmap.is_subset(&b.bitmap).unwrap(), expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_sequence_of_operations_agrees_with_plain_booleans(
        bits in select(vec![(0, 0), (4, 4), (9, 9), (16, 16), (31, 31), (0, 3), (3, 0), (12, 9), (9, 10), (0, 16), (16, 4)]),
        shape in shapes(),
        cut in any::<u32>(),
        other_shape in shapes(),
        steps in steps(),
    ) {
        let finest = bits.0.min(bits.1);
        let sized = |shape: u64| (shape << finest).saturating_sub(u64::from(cut) % (1 << finest));
        let mut pairs = [Pair::new(sized(shape), bits.0), Pair::new(sized(shape), bits.1)];
        for step in steps {
            if let Operation::Resize = step.operation {
                let before = pairs[0].model.size;
                let size = sized(if before == sized(shape) { other_shape } else { shape });
                for pair in &mut pairs {
                    pair.bitmap.resize(size).unwrap();
                    pair.model.resize(size);
                    pair.check(&step);
                }
                continue;
            }
            let [first, second] = &mut pairs;
            let (target, other) = if step.on_second { (second, first) } else { (first, second) };
            target.apply(&step, other);
            target.check(&step);
            check_subset(target, other);
        }
    }
}
