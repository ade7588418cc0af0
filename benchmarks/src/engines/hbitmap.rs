#![forbid(unsafe_code)]
//! A model of QEMU's `HBitmap`, written by us from its documented behaviour: seven levels of 64-bit words, a bit of a level
//! says that a word of the level below is not zero. The count is known; a merge at equal granularity combines all words of
//! all levels and counts anew. Not compressed, so it is measured beside the others and is never the best peer of a cell.

use crate::engine::{Count, Engine, Form, Mark, Open, Save, Union, Walk, WalkSpans, count_each};
use crate::input::{Input, Shape, Span, Tally};
use crate::operations::{Questions, digest_of_words};
use crate::patterns::Disk;

pub struct Hbitmap;

const LEVELS: usize = 7;

/// The levels from the top down; the last one has a bit for each granule.
#[derive(Clone)]
pub struct Levels {
    levels: [Vec<u64>; LEVELS],
    granules: u64,
    count: u64,
}

impl Levels {
    fn clean(disk: &Disk) -> Self {
        let mut levels: [Vec<u64>; LEVELS] = Default::default();
        let mut bits = disk.granules();
        for level in levels.iter_mut().rev() {
            bits = bits.div_ceil(64).max(1);
            *level = vec![0; bits as usize];
        }
        Self { levels, granules: disk.granules(), count: 0 }
    }

    fn last(&self) -> &[u64] {
        &self.levels[LEVELS - 1]
    }

    /// Builds the levels above the last one, and counts.
    fn finish(&mut self) {
        for level in (1..LEVELS).rev() {
            let (above, below) = self.levels.split_at_mut(level);
            for (word, below) in above[level - 1].iter_mut().zip(below[0].chunks(64)) {
                *word = below.iter().rev().fold(0, |word, below| word << 1 | u64::from(*below != 0));
            }
        }
        self.count = self.count_between(0, self.granules - 1);
    }

    /// Sets `first..=last`: counts those that are new, then goes up as long as words of zeros were met.
    fn set(&mut self, first: u64, last: u64) {
        let before = self.count_between(first, last);
        self.count += last - first + 1 - before;
        let (mut first, mut last) = (first, last);
        for level in self.levels.iter_mut().rev() {
            let (from, to) = ((first / 64) as usize, (last / 64) as usize);
            let mut was_zero = false;
            for (index, word) in level[from..=to].iter_mut().enumerate() {
                let head = if index == 0 { u64::MAX << (first % 64) } else { u64::MAX };
                let tail = if from + index == to { u64::MAX >> (63 - last % 64) } else { u64::MAX };
                was_zero |= *word == 0;
                *word |= head & tail;
            }
            if !was_zero {
                return;
            }
            (first, last) = (first / 64, last / 64);
        }
    }

    fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        for (level, other) in self.levels.iter_mut().zip(&other.levels) {
            level.iter_mut().zip(other).for_each(|(word, other)| *word |= other);
        }
        self.count = self.count_between(0, self.granules - 1);
    }

    /// The first set bit of a level from `from` on: a word of zeros is left by the level above.
    fn next_in(&self, level: usize, from: u64) -> Option<u64> {
        let words = &self.levels[level];
        let word = *words.get((from / 64) as usize)? & u64::MAX << (from % 64);
        if word != 0 {
            return Some(from / 64 * 64 + u64::from(word.trailing_zeros()));
        }
        let below = if level == 0 {
            (from / 64 + 1..words.len() as u64).find(|&at| words[at as usize] != 0)?
        } else {
            self.next_in(level - 1, from / 64 + 1)?
        };
        Some(below * 64 + u64::from(words[below as usize].trailing_zeros()))
    }

    fn next_dirty(&self, from: u64) -> Option<u64> {
        self.next_in(LEVELS - 1, from)
    }

    fn next_clean(&self, from: u64) -> Option<u64> {
        let words = self.last();
        let mut at = (from / 64) as usize;
        let mut word = !words.get(at)? & u64::MAX << (from % 64);
        while word == 0 {
            at += 1;
            word = !*words.get(at)?;
        }
        let clean = at as u64 * 64 + u64::from(word.trailing_zeros());
        (clean < self.granules).then_some(clean)
    }

    /// Counts from word to word that is not zero.
    fn count_between(&self, first: u64, last: u64) -> u64 {
        let words = self.last();
        let (from, to) = (first / 64, last / 64);
        let (head, tail) = (u64::MAX << (first % 64), u64::MAX >> (63 - last % 64));
        if from == to {
            return u64::from((words[from as usize] & head & tail).count_ones());
        }
        let edges = (words[from as usize] & head).count_ones() + (words[to as usize] & tail).count_ones();
        let mut sum = u64::from(edges);
        let mut at = from + 1;
        while let Some(word) = self.next_in(LEVELS - 2, at)
            && word < to
        {
            sum += u64::from(words[word as usize].count_ones());
            at = word + 1;
        }
        sum
    }

    /// The dirty areas of `span`, one after the other, cut at its edges.
    fn each_area(&self, span: Span, mut each: impl FnMut(u64, u64)) {
        let mut from = span.first;
        while let Some(first) = self.next_dirty(from).filter(|&first| first <= span.last) {
            let end = self.next_clean(first).unwrap_or(self.granules).min(span.last + 1);
            each(first, end - 1);
            from = end;
        }
    }

    fn tally(&self, span: Span, sum: &mut Tally) {
        self.each_area(span, |first, last| sum.add(first, last));
    }

    fn whole(&self) -> Span {
        Span { first: 0, last: self.granules - 1 }
    }

    fn of_bits(bits: &[u8], disk: &Disk) -> Self {
        let mut levels = Self::clean(disk);
        for (word, bytes) in levels.levels[LEVELS - 1].iter_mut().zip(bits.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        levels.finish();
        levels
    }
}

impl Engine for Hbitmap {
    type Bitmap = Levels;
    type Opened<'a> = Levels;

    const NAME: &'static str = "hbitmap-model";
    const SHAPE: Shape = Shape::Flat;

    fn build(input: &Input, disk: &Disk) -> Levels {
        let mut levels = Levels::clean(disk);
        input.write_words(&mut levels.levels[LEVELS - 1]);
        levels.finish();
        levels
    }

    fn cardinality(bitmap: &Levels) -> u64 {
        bitmap.count
    }

    // Several are merged as QEMU does: into a new one, in a pass for each.
    fn unions(count: usize) -> Vec<Form<Union<Levels>>> {
        let one_by_one = Form::new(
            "new, one by one",
            Union::New(|bitmaps: &[&Levels]| {
                let levels = bitmaps[0].levels.each_ref().map(|level| vec![0; level.len()]);
                let mut sum = Levels { levels, granules: bitmaps[0].granules, count: 0 };
                bitmaps.iter().for_each(|bitmap| sum.merge(bitmap));
                sum
            }),
        );
        match count {
            2 => vec![Form::new("in place", Union::InPlace(Levels::merge)), one_by_one],
            _ => vec![one_by_one],
        }
    }

    fn counts() -> Vec<Form<Count<Levels>>> {
        vec![Form::new("count", |bitmap, _, spans| {
            count_each(spans, |span| bitmap.count_between(span.first, span.last))
        })]
    }

    fn extents() -> Vec<Form<Walk<Levels>>> {
        vec![Form::new("areas", |bitmap, _, sum| bitmap.tally(bitmap.whole(), sum))]
    }

    fn windows() -> Vec<Form<WalkSpans<Levels>>> {
        vec![Form::new("areas", |bitmap, _, spans, sum| {
            for &span in spans {
                bitmap.tally(span, sum);
                sum.end_list();
            }
        })]
    }

    fn saves() -> Vec<Form<Save<Levels>>> {
        vec![Form::new("bits", |bitmap| {
            let bytes: Vec<u8> = bitmap.last().iter().flat_map(|word| word.to_le_bytes()).collect();
            bytes.into()
        })]
    }

    fn opens() -> Vec<Form<Open<Self>>> {
        vec![Form::new("bits, read", Open { saved_by: "bits", open: |bytes, disk| Levels::of_bits(bytes, disk) })]
    }

    fn marks() -> Vec<Form<Mark<Levels>>> {
        vec![Form::new("set", |disk, writes| {
            let mut bitmap = Levels::clean(disk);
            for span in writes.iter().map(|write| write.granules(disk)) {
                bitmap.set(span.first, span.last);
            }
            bitmap
        })]
    }

    fn count_opened(opened: &Levels, _: &Disk, span: Span) -> u64 {
        opened.count_between(span.first, span.last)
    }

    fn tally_opened(opened: &Levels, _: &Disk) -> Tally {
        let mut sum = Tally::default();
        opened.tally(opened.whole(), &mut sum);
        sum
    }
}

impl Questions for Hbitmap {
    fn from_bits(bits: &[u8], disk: &Disk) -> Option<Levels> {
        Some(Levels::of_bits(bits, disk))
    }

    fn to_bits(bitmap: &Levels, disk: &Disk) -> Option<u64> {
        let mut bits = vec![0; disk.granules().div_ceil(8) as usize];
        let (words, _) = bits.as_chunks_mut();
        words.iter_mut().zip(bitmap.last()).for_each(|(bytes, word)| *bytes = word.to_le_bytes());
        Some(digest_of_words(bits.as_chunks().0.iter().map(|&word| u64::from_le_bytes(word))))
    }

    fn next_dirty(bitmap: &Levels, _: &Disk, from: u64) -> Option<u64> {
        bitmap.next_dirty(from)
    }

    fn next_clean(bitmap: &Levels, _: &Disk, from: u64) -> Option<u64> {
        bitmap.next_clean(from)
    }

    fn get(bitmap: &Levels, _: &Disk, granule: u64) -> bool {
        bitmap.last()[(granule / 64) as usize] >> (granule % 64) & 1 == 1
    }
}
