#![forbid(unsafe_code)]
//! What the benches share: bitmaps of a few patterns from fixed seeds, the operations on them, and what a loop over plain
//! bits says to each. Must never know how a cost is taken.
#![allow(dead_code, unreachable_pub, reason = "every bench uses its own part of it")]

pub mod operations;
#[path = "../../tests/support/random.rs"]
pub mod random;

use checkmap::{Bitmap, Extent, Granularity};
use random::Random;

/// 64 KiB.
pub const GRANULARITY_BITS: u32 = 16;

/// What the dirty granules look like.
#[derive(Clone, Copy, Debug)]
pub enum Pattern {
    /// 0.01 % random.
    Sparse,
    /// 1 % random.
    OnePercent,
    /// 30 % random.
    Dense,
    /// Runs of 256 granules on average, 10 % in all.
    Runs,
}

impl Pattern {
    pub const ALL: [Self; 4] = [Self::Sparse, Self::OnePercent, Self::Dense, Self::Runs];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Sparse => "sparse",
            Self::OnePercent => "1%",
            Self::Dense => "30%",
            Self::Runs => "runs",
        }
    }
}

/// One bit for each granule, and no cleverness: what answers are held against.
#[derive(Clone, PartialEq, Eq)]
pub struct Flat {
    pub granules: u64,
    pub words: Vec<u64>,
}

impl Flat {
    pub fn new(granules: u64) -> Self {
        Self { granules, words: vec![0; index(granules.div_ceil(64))] }
    }

    pub fn of(pattern: Pattern, granules: u64, seed: u64) -> Self {
        let mut random = Random::from_seed(seed);
        let mut flat = Self::new(granules);
        // Gaps and lengths spread evenly from 1 to twice their mean.
        let (gap, len) = match pattern {
            Pattern::Sparse => (10_000, 1),
            Pattern::OnePercent => (100, 1),
            Pattern::Dense => return flat.scattered(&mut random),
            Pattern::Runs => (2304, 256),
        };
        let mut at = random.below(2 * gap);
        while at < granules {
            let end = (at + if len == 1 { 1 } else { 1 + random.below(2 * len) }).min(granules);
            flat.set(at, end);
            at = end + 1 + random.below(2 * gap - 1);
        }
        flat
    }

    /// Every granule for itself, 5 in 16 of them.
    fn scattered(mut self, random: &mut Random) -> Self {
        for word in &mut self.words {
            let (a, b) = (random.next(), random.next());
            *word = a & b & (random.next() | random.next()) | a & !b & random.next();
        }
        self
    }

    pub fn set(&mut self, from: u64, to: u64) {
        (from..to).for_each(|granule| self.words[index(granule / 64)] |= 1 << (granule % 64));
    }

    pub fn get(&self, granule: u64) -> bool {
        self.words[index(granule / 64)] >> (granule % 64) & 1 == 1
    }

    pub fn union(all: &[Self]) -> Self {
        let mut sum = Self::new(all[0].granules);
        for flat in all {
            sum.words.iter_mut().zip(&flat.words).for_each(|(to, from)| *to |= from);
        }
        sum
    }

    pub fn zip(&self, other: &Self, operation: fn(u64, u64) -> u64) -> Self {
        let words = self.words.iter().zip(&other.words).map(|(a, b)| operation(*a, *b)).collect();
        Self { granules: self.granules, words }
    }

    pub fn count(&self, from: u64, to: u64) -> u64 {
        let (low, high) = (index(from / 64), index(to / 64));
        if high - low < 2 {
            return (from..to).filter(|&granule| self.get(granule)).count() as u64;
        }
        let whole: u64 = self.words[low + 1..high].iter().map(|word| u64::from(word.count_ones())).sum();
        let (begin, end) = ((low as u64 + 1) * 64, high as u64 * 64);
        whole + (from..begin).chain(end..to).filter(|&granule| self.get(granule)).count() as u64
    }

    pub fn extents(&self) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        for granule in (0..self.granules).filter(|&granule| self.get(granule)) {
            let offset = granule << GRANULARITY_BITS;
            match extents.last_mut() {
                Some(extent) if extent.end() == offset => extent.len_bytes += 1 << GRANULARITY_BITS,
                _ => extents.push(Extent { offset, len_bytes: 1 << GRANULARITY_BITS }),
            }
        }
        extents
    }

    pub fn bitmap(&self) -> Bitmap {
        let bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        Bitmap::from_bits(self.granules << GRANULARITY_BITS, granularity(), &bytes).expect("the disk can be")
    }

    /// Holds a bitmap to these bits.
    pub fn check(&self, bitmap: &Bitmap) {
        bitmap.validate().expect("no rule is broken");
        assert!(bitmap.extents(0, u64::MAX).eq(self.extents()), "the bitmap is not what plain bits say");
    }
}

pub fn granularity() -> Granularity {
    Granularity::from_bits(GRANULARITY_BITS).expect("it is one")
}

pub fn index(number: u64) -> usize {
    usize::try_from(number).expect("the disks here fit memory")
}
