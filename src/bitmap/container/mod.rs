#![forbid(unsafe_code)]
//! Owns the forms in which the set bits of one chunk of 65536 granules are held, and which form holds what. Knows
//! nothing of chunk keys, disks, granularities or bytes.
//!
//! A container that has no bit is the empty array; the directory never keeps one. A container that has all bits is
//! always `Full`, so which chunks are full depends on the bits alone. Between the other forms a change of single bits
//! switches only where a limit forces it to; results of set operations take the smallest form.

mod array;
mod bits;
mod runs;
#[cfg(test)]
mod tests;
mod unite;

use crate::kernels::{ChunkOperation, Kernels, Measure, select};
pub(super) use array::Array;
pub(super) use bits::{Bits, Words, clear_run, no_words, set_run};
pub(super) use runs::{Run, Runs};
use std::borrow::Cow;
pub(super) use unite::Workspace;

/// The granules of one chunk.
pub(super) const CHUNK: u32 = 1 << 16;

/// The most bits an array holds, as in the Roaring format: above, words are never larger.
pub(super) const ARRAY_MAX: usize = 4096;

/// The most runs a container holds: above, words are smaller.
pub(super) const RUNS_MAX: usize = 2048;

/// The set bits of one chunk.
#[derive(Clone)]
pub(super) enum Container {
    Array(Array),
    Bits(Bits),
    Runs(Runs),
    Full,
}

impl Container {
    pub(super) const fn empty() -> Self {
        Self::Array(Array(Vec::new()))
    }

    /// The smallest form of sorted bits, none twice.
    pub(super) fn from_sorted(mut bits: Vec<u16>) -> Self {
        if bits.len() <= ARRAY_MAX && bits.len() <= 2 * array::run_count(&bits) {
            bits.shrink_to_fit();
            return Self::Array(Array(bits));
        }
        Self::from_runs(array_runs(&bits).collect())
    }

    /// The smallest form of sorted runs that neither overlap nor touch.
    pub(super) fn from_runs(runs: Vec<Run>) -> Self {
        if runs.first() == Some(&Run::WHOLE) {
            return Self::Full;
        }
        let ones = runs::ones_of(&runs);
        if ones as usize <= ARRAY_MAX && 2 * ones <= runs::bytes_of(runs.len()) {
            return Self::Array(Array(runs.iter().flat_map(|run| run.first..=run.last).collect()));
        }
        if runs.len() <= RUNS_MAX {
            return Self::Runs(Runs(runs));
        }
        let mut words = no_words();
        runs.iter().for_each(|&run| set_run(&mut words, run));
        Self::Bits(Bits { ones, words })
    }

    /// The smallest form of `words`.
    pub(super) fn from_words(words: Box<Words>) -> Self {
        let measure = (select().measure)(&words);
        match Self::without_words(&words, measure) {
            Some(container) => container,
            None => Self::Bits(Bits { ones: measure.ones, words }),
        }
    }

    /// The smallest form of `words`, which hold `measure`, unless it is the words themselves.
    fn without_words(words: &Words, measure: Measure) -> Option<Self> {
        let (ones, runs) = (measure.ones as usize, measure.runs as usize);
        if measure.ones == CHUNK {
            return Some(Self::Full);
        }
        if ones <= ARRAY_MAX && ones <= 2 * runs {
            return Some(Self::Array(Array(bits::positions(words))));
        }
        (runs <= RUNS_MAX).then(|| Self::Runs(Runs(bits::runs(words, runs))))
    }

    /// Takes the smallest form for what is held.
    pub(super) fn optimize(&mut self) {
        *self = match std::mem::replace(self, Self::Full) {
            Self::Full => return,
            Self::Array(array) => Self::from_sorted(array.0),
            Self::Bits(bits) => Self::from_words(bits.words),
            Self::Runs(runs) => Self::from_runs(runs.0),
        };
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Array(array) if array.0.is_empty())
    }

    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Full)
    }

    /// The number of set bits, 0..=65536.
    pub(super) fn ones(&self) -> u32 {
        match self {
            Self::Array(array) => small(array.0.len()),
            Self::Bits(bits) => bits.ones,
            Self::Runs(runs) => runs.ones(),
            Self::Full => CHUNK,
        }
    }

    /// The number of maximal runs of set bits.
    pub(super) fn run_count(&self) -> u32 {
        match self {
            Self::Array(array) => small(array::run_count(&array.0)),
            Self::Bits(bits) => bits::run_count(&bits.words),
            Self::Runs(runs) => small(runs.0.len()),
            Self::Full => 1,
        }
    }

    pub(super) fn contains(&self, bit: u16) -> bool {
        match self {
            Self::Array(array) => array.contains(bit),
            Self::Bits(bits) => bits.contains(bit),
            Self::Runs(runs) => runs.contains(bit),
            Self::Full => true,
        }
    }

    /// The number of set bits inside `window`.
    pub(super) fn count(&self, window: Run) -> u32 {
        match self {
            Self::Array(array) => array.count(window),
            Self::Bits(bits) => bits.count(window),
            Self::Runs(runs) => runs.count(window),
            Self::Full => window.len(),
        }
    }

    /// The maximal runs of set bits inside `window`, cut to it.
    pub(super) fn runs(&self, window: Run) -> RunIter<'_> {
        match self {
            Self::Array(array) => RunIter::Array(array.within(window)),
            Self::Bits(bits) => {
                RunIter::Bits { words: &bits.words, from: window.first.into(), to: u32::from(window.last) + 1 }
            }
            Self::Runs(runs) => RunIter::Runs { runs: runs.within(window), window },
            Self::Full => RunIter::Full(Some(window)),
        }
    }

    pub(super) fn set(&mut self, new: Run) {
        match self {
            Self::Full => {}
            Self::Array(array) => {
                if !array.try_set(new) {
                    let runs = runs::sweep(array_runs(&array.0), std::iter::once(new), |a, b| a || b);
                    *self = Self::from_runs(runs);
                }
            }
            Self::Bits(bits) => {
                bits.set(new);
                if bits.ones == CHUNK {
                    *self = Self::Full;
                }
            }
            Self::Runs(runs) => {
                runs.set(new);
                if runs.0.len() > RUNS_MAX || runs.0[0] == Run::WHOLE {
                    *self = Self::from_runs(std::mem::take(&mut runs.0));
                }
            }
        }
    }

    pub(super) fn clear(&mut self, gone: Run) {
        match self {
            Self::Full => {
                let mut rest = Runs(vec![Run::WHOLE]);
                rest.clear(gone);
                *self = Self::from_runs(rest.0);
            }
            Self::Array(array) => array.clear(gone),
            Self::Bits(bits) => {
                bits.clear(gone);
                if bits.ones as usize <= ARRAY_MAX {
                    *self = Self::from_words(std::mem::replace(&mut bits.words, no_words()));
                }
            }
            Self::Runs(runs) => {
                runs.clear(gone);
                if runs.0.is_empty() || runs.0.len() > RUNS_MAX {
                    *self = Self::from_runs(std::mem::take(&mut runs.0));
                }
            }
        }
    }

    /// The bits set in both.
    pub(super) fn intersect(a: Cow<'_, Self>, b: &Self) -> Self {
        match (&*a, b) {
            (Self::Full, _) => b.clone(),
            (_, Self::Full) => a.into_owned(),
            (Self::Array(x), Self::Array(y)) => Self::from_sorted(array::intersect(&x.0, &y.0)),
            (Self::Array(array), other) | (other, Self::Array(array)) => {
                Self::from_sorted(array.0.iter().copied().filter(|&bit| other.contains(bit)).collect())
            }
            _ => Self::combine(a, b, |kernels| kernels.and, |a, b| a && b),
        }
    }

    /// The bits set in `a` and not in `b`.
    pub(super) fn subtract(a: Cow<'_, Self>, b: &Self) -> Self {
        match (&*a, b) {
            (_, Self::Full) => Self::empty(),
            (Self::Array(x), Self::Array(y)) => Self::from_sorted(array::subtract(&x.0, &y.0)),
            (Self::Array(array), _) => {
                Self::from_sorted(array.0.iter().copied().filter(|&bit| !b.contains(bit)).collect())
            }
            _ => Self::combine(a, b, |kernels| kernels.and_not, |a, b| a && !b),
        }
    }

    /// The bits set in one of the two only.
    pub(super) fn xor(a: Cow<'_, Self>, b: &Self) -> Self {
        Self::combine(a, b, |kernels| kernels.xor, |a, b| a != b)
    }

    fn combine(
        a: Cow<'_, Self>,
        b: &Self,
        kernel: fn(&Kernels) -> ChunkOperation,
        keep: fn(bool, bool) -> bool,
    ) -> Self {
        if !matches!((&*a, b), (Self::Bits(_), _) | (_, Self::Bits(_))) {
            return Self::from_runs(runs::sweep(a.runs(Run::WHOLE), b.runs(Run::WHOLE), keep));
        }
        let mut words = a.into_owned().into_words();
        let measure = kernel(select())(&mut words, &b.words());
        match Self::without_words(&words, measure) {
            Some(container) => container,
            None => Self::Bits(Bits { ones: measure.ones, words }),
        }
    }

    /// Whether every bit of this container is set in `other`.
    pub(super) fn is_subset(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Full) => true,
            (Self::Full, _) => false,
            (Self::Bits(a), Self::Bits(b)) => (select().is_subset)(&a.words, &b.words),
            _ => self.ones() <= other.ones() && self.runs(Run::WHOLE).all(|run| other.count(run) == run.len()),
        }
    }

    /// Whether both hold the same bits, in whatever form.
    pub(super) fn same_bits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Array(a), Self::Array(b)) => a == b,
            (Self::Bits(a), Self::Bits(b)) => a == b,
            (Self::Runs(a), Self::Runs(b)) => a == b,
            _ => self.ones() == other.ones() && self.is_subset(other),
        }
    }

    /// Sets this container's bits in `words`.
    pub(super) fn add_to(&self, words: &mut Words) {
        match self {
            Self::Array(array) => (select().scatter)(&array.0, words),
            Self::Bits(bits) => (select().or_only)(words, &bits.words),
            Self::Runs(runs) => runs.0.iter().for_each(|&run| set_run(words, run)),
            Self::Full => words.fill(u64::MAX),
        }
    }

    /// This container as words.
    pub(super) fn words(&self) -> Cow<'_, Words> {
        if let Self::Bits(bits) = self {
            return Cow::Borrowed(&bits.words);
        }
        let mut words = [0; 1024];
        self.add_to(&mut words);
        Cow::Owned(words)
    }

    fn into_words(self) -> Box<Words> {
        if let Self::Bits(bits) = self {
            return bits.words;
        }
        let mut words = no_words();
        self.add_to(&mut words);
        words
    }

    /// The bytes this container has on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::Array(array) => array.0.capacity() * size_of::<u16>(),
            Self::Bits(_) => size_of::<Words>(),
            Self::Runs(runs) => runs.0.capacity() * size_of::<Run>(),
            Self::Full => 0,
        }
    }

    /// Checks that the form is allowed to hold what it holds.
    pub(super) fn validate(&self) -> Result<(), &'static str> {
        match self {
            Self::Array(array) => array.validate(),
            Self::Bits(bits) => bits.validate(),
            Self::Runs(runs) => runs.validate(),
            Self::Full => Ok(()),
        }
    }
}

/// The runs of one container, from both ends.
#[derive(Clone)]
pub(super) enum RunIter<'a> {
    Array(&'a [u16]),
    Bits { words: &'a Words, from: u32, to: u32 },
    Runs { runs: &'a [Run], window: Run },
    Full(Option<Run>),
}

impl Iterator for RunIter<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        match self {
            Self::Array(bits) => {
                let first = *bits.first()?;
                let (run, rest) = bits.split_at(array::leading_run(bits));
                *bits = rest;
                Some(Run { first, last: run[run.len() - 1] })
            }
            Self::Bits { words, from, to } => {
                let first = bits::scan(words, *from, *to, 0);
                *from = bits::scan(words, first, *to, u64::MAX);
                (first < *to).then(|| Run { first: to_u16(first), last: to_u16(*from - 1) })
            }
            Self::Runs { runs, window } => {
                let (run, rest) = runs.split_first()?;
                *runs = rest;
                Some(cut(*run, *window))
            }
            Self::Full(run) => run.take(),
        }
    }
}

impl DoubleEndedIterator for RunIter<'_> {
    fn next_back(&mut self) -> Option<Run> {
        match self {
            Self::Array(bits) => {
                let last = *bits.last()?;
                let (rest, run) = bits.split_at(bits.len() - array::trailing_run(bits));
                *bits = rest;
                Some(Run { first: run[0], last })
            }
            Self::Bits { words, from, to } => {
                let end = bits::scan_back(words, *from, *to, 0);
                *to = bits::scan_back(words, *from, end, u64::MAX);
                (*to < end).then(|| Run { first: to_u16(*to), last: to_u16(end - 1) })
            }
            Self::Runs { runs, window } => {
                let (run, rest) = runs.split_last()?;
                *runs = rest;
                Some(cut(*run, *window))
            }
            Self::Full(run) => run.take(),
        }
    }
}

fn array_runs(bits: &[u16]) -> RunIter<'_> {
    RunIter::Array(bits)
}

fn cut(run: Run, window: Run) -> Run {
    Run { first: run.first.max(window.first), last: run.last.min(window.last) }
}

/// A position inside a chunk as its 16-bit index.
#[allow(clippy::cast_possible_truncation, reason = "positions are below 65536")]
pub(super) fn to_u16(position: u32) -> u16 {
    debug_assert!(position < CHUNK);
    position as u16
}

/// The length of a list of one chunk's bits or runs.
#[allow(clippy::cast_possible_truncation, reason = "a chunk has at most 65536 bits, so two lists of them fit")]
fn small(len: usize) -> u32 {
    debug_assert!(len <= 2 * CHUNK as usize);
    len as u32
}
