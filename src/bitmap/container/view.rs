#![forbid(unsafe_code)]
//! Owns what can be asked of the set bits of one chunk, wherever they lie, and their walk by runs. Knows nothing of chunk
//! keys, disks or bytes.

use super::bits;
use super::{ARRAY_MAX, CHUNK, Pair, RUNS_MAX, Run, Sparse, Words, array, runs, small, sparse, to_u16};
use crate::kernels::select;
use std::borrow::Cow;
use std::sync::Arc;

/// The set bits of one chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum View<'a> {
    /// Sorted, none twice.
    Array(&'a [u16]),
    Words(&'a Words),
    /// Sorted; they neither overlap nor touch.
    Runs(&'a [Pair]),
    Sparse(Sparse<'a>),
    Full,
}

/// A form, without what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Array,
    Words,
    Runs,
    Sparse,
    Full,
}

/// A form whose length follows from the number of set bits and of runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plain {
    Array,
    Words,
    Runs,
    Full,
}

impl From<Plain> for Form {
    fn from(plain: Plain) -> Self {
        match plain {
            Plain::Array => Self::Array,
            Plain::Words => Self::Words,
            Plain::Runs => Self::Runs,
            Plain::Full => Self::Full,
        }
    }
}

impl Plain {
    /// The bytes that a number of bits in a number of runs take.
    pub(crate) fn bytes(self, ones: u32, runs: u32) -> usize {
        match self {
            Self::Array => ones as usize * size_of::<u16>(),
            Self::Words => size_of::<Words>(),
            Self::Runs => runs as usize * size_of::<Pair>(),
            Self::Full => 0,
        }
    }

    /// The form that takes the fewest bytes.
    pub(crate) fn smallest(ones: u32, runs: u32) -> Self {
        match () {
            () if ones == CHUNK => Self::Full,
            () if ones as usize <= ARRAY_MAX && ones <= 2 * runs => Self::Array,
            () if runs as usize <= RUNS_MAX => Self::Runs,
            () => Self::Words,
        }
    }
}

impl<'a> View<'a> {
    pub(crate) fn form(self) -> Form {
        match self {
            Self::Array(_) => Form::Array,
            Self::Words(_) => Form::Words,
            Self::Runs(_) => Form::Runs,
            Self::Sparse(_) => Form::Sparse,
            Self::Full => Form::Full,
        }
    }

    /// The number of set bits, 0..=65536.
    pub(crate) fn ones(self) -> u32 {
        match self {
            Self::Array(array) => small(array.len()),
            Self::Words(words) => bits::count_ones(words),
            Self::Runs(runs) => runs::ones_of(runs),
            Self::Sparse(sparse) => sparse::ones(select(), sparse.bytes),
            Self::Full => CHUNK,
        }
    }

    /// The number of maximal runs of set bits.
    pub(crate) fn run_count(self) -> u32 {
        match self {
            Self::Array(array) => small(array::run_count(array)),
            Self::Words(words) => bits::run_count(words),
            Self::Runs(runs) => small(runs.len()),
            Self::Sparse(sparse) => sparse.run_count(),
            Self::Full => 1,
        }
    }

    pub(crate) fn contains(self, bit: u16) -> bool {
        match self {
            Self::Array(array) => array::contains(array, bit),
            Self::Words(words) => bits::contains(words, bit),
            Self::Runs(runs) => runs::contains(runs, bit),
            Self::Sparse(sparse) => sparse::contains(select(), sparse.bytes, bit),
            Self::Full => true,
        }
    }

    /// The first set bit from `bit` on.
    #[inline]
    pub(in crate::bitmap) fn next_set(self, bit: u16) -> Option<u16> {
        match self {
            Self::Array(array) => array.get(array::rank(array, bit.into())).copied(),
            Self::Words(words) => bits::next(words, bit, 0),
            Self::Runs(runs) => runs.get(runs.partition_point(|run| run[1] < bit)).map(|run| run[0].max(bit)),
            Self::Sparse(sparse) => sparse::next_set(select(), sparse.bytes, bit),
            Self::Full => Some(bit),
        }
    }

    /// The first clear bit from `bit` on.
    #[inline]
    pub(in crate::bitmap) fn next_clear(self, bit: u16) -> Option<u16> {
        match self {
            Self::Array(array) => {
                let rest = &array[array::rank(array, bit.into())..];
                let taken = (bit..=u16::MAX).zip(rest).take_while(|(bit, other)| bit == *other).count();
                bit.checked_add(to_u16(small(taken)))
            }
            Self::Words(words) => bits::next(words, bit, u64::MAX),
            Self::Runs(runs) => match runs.get(runs.partition_point(|run| run[1] < bit)) {
                Some(&[first, last]) if first <= bit => last.checked_add(1),
                _ => Some(bit),
            },
            Self::Sparse(sparse) => spread_once(sparse.bytes, |words| bits::next(words, bit, u64::MAX)),
            Self::Full => None,
        }
    }

    /// Whether its first and its last bit are set.
    pub(crate) fn edges(self) -> (bool, bool) {
        match self {
            Self::Array(array) => (array.first() == Some(&0), array.last() == Some(&u16::MAX)),
            Self::Runs(runs) => {
                (runs.first().is_some_and(|run| run[0] == 0), runs.last().is_some_and(|run| run[1] == u16::MAX))
            }
            _ => (self.contains(0), self.contains(u16::MAX)),
        }
    }

    /// The number of set bits inside `window`.
    pub(in crate::bitmap) fn count(self, window: Run) -> u32 {
        match self {
            Self::Array(array) => small(array::within(array, window).len()),
            Self::Words(words) => bits::count(words, window),
            Self::Runs(runs) => runs::count(runs, window),
            Self::Sparse(sparse) => {
                let before = |end| sparse::count_before(select(), sparse.bytes, end);
                before(window.end()) - before(window.first.into())
            }
            Self::Full => window.len(),
        }
    }

    /// The `number`-th set bit, from 0; the view must have more bits than that.
    pub(in crate::bitmap) fn nth(self, number: u32) -> u16 {
        match self {
            Self::Array(array) => array[number as usize],
            Self::Words(words) => bits::nth(words, number),
            Self::Runs(_) => {
                let mut rest = number;
                let mut runs = self.runs(Run::WHOLE);
                let run = runs.find(|run| {
                    let is_it = rest < run.len();
                    rest -= if is_it { 0 } else { run.len() };
                    is_it
                });
                run.map_or(u16::MAX, |run| run.first + to_u16(rest))
            }
            Self::Sparse(_) => bits::nth(&self.words(), number),
            Self::Full => to_u16(number),
        }
    }

    /// The maximal runs of set bits inside `window`, cut to it.
    #[inline]
    pub(in crate::bitmap) fn runs(self, window: Run) -> RunIter<'a> {
        match self {
            Self::Array(array) => RunIter::Array(array::within(array, window)),
            Self::Words(words) => RunIter::Words { words, from: window.first.into(), to: window.end() },
            Self::Sparse(sparse) => RunIter::spread(sparse.bytes, window, RunIter::Full(None)),
            Self::Runs(runs) => RunIter::Runs { runs: runs::within(runs, window), window },
            Self::Full => RunIter::Full(Some(window)),
        }
    }

    /// Whether every bit of this view is set in `other`.
    pub(in crate::bitmap) fn is_subset(self, other: View<'_>) -> bool {
        match (self, other) {
            (_, View::Full) => true,
            (Self::Full, _) => false,
            (Self::Words(_) | Self::Sparse(_), View::Words(_) | View::Sparse(_)) => {
                (select().is_subset)(&self.words(), &other.words())
            }
            _ => self.ones() <= other.ones() && self.runs(Run::WHOLE).all(|run| other.count(run) == run.len()),
        }
    }

    /// Whether both hold the same bits, in any form.
    pub(in crate::bitmap) fn same_bits(self, other: View<'_>) -> bool {
        match (self, other) {
            (Self::Array(a), View::Array(b)) => a == b,
            (Self::Words(a), View::Words(b)) => a == b,
            (Self::Runs(a), View::Runs(b)) => a == b,
            (Self::Sparse(a), View::Sparse(b)) => a.bytes == b.bytes,
            _ => self.ones() == other.ones() && self.is_subset(other),
        }
    }

    /// Sets these bits in `words`.
    pub(crate) fn add_to(self, words: &mut Words) {
        match self {
            Self::Array(array) => (select().scatter)(array, words),
            Self::Words(other) => (select().or_only)(words, other),
            Self::Runs(runs) => (select().scatter_runs)(runs, words),
            Self::Sparse(sparse) => (select().spread)(sparse.bytes, words),
            Self::Full => words.fill(u64::MAX),
        }
    }

    /// Fills `words` with these bits.
    pub(crate) fn copy_to(self, words: &mut Words) {
        match self {
            Self::Words(other) => words.copy_from_slice(other),
            Self::Sparse(sparse) => (select().unpack)(sparse.bytes, words),
            _ => {
                words.fill(0);
                self.add_to(words);
            }
        }
    }

    /// These bits as words.
    pub(crate) fn words(self) -> Cow<'a, Words> {
        if let Self::Words(words) = self {
            return Cow::Borrowed(words);
        }
        let mut words = [0; 1024];
        self.copy_to(&mut words);
        Cow::Owned(words)
    }

    /// The bytes that the form takes.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Array(array) => size_of_val(array),
            Self::Words(words) => size_of_val(words),
            Self::Runs(runs) => size_of_val(runs),
            Self::Sparse(sparse) => sparse.bytes.len(),
            Self::Full => 0,
        }
    }

    /// Checks what a packed chunk is made of; nothing may be asked of another.
    pub(crate) fn check_packed(bytes: &[u8]) -> Result<(), &'static str> {
        sparse::validate(select(), bytes)
    }

    /// Whether this is the form that takes the fewest bytes for `ones` bits in `runs` runs, unless packing takes less.
    pub(in crate::bitmap) fn is_smallest(self, ones: u32, runs: u32) -> bool {
        match self {
            Self::Sparse(sparse) => sparse::is_smallest(sparse.bytes.len(), ones, runs),
            _ => self.form() == Plain::smallest(ones, runs).into(),
        }
    }

    /// Checks that the form is allowed to hold what it holds, which is said to be `ones` bits.
    pub(in crate::bitmap) fn validate(self, ones: u32) -> Result<(), &'static str> {
        if let Self::Sparse(sparse) = self {
            sparse::validate(select(), sparse.bytes)?;
            if sparse.run_count() != Sparse::uncounted(sparse.bytes).run_count() {
                return Err("the number of runs of a sparse container is wrong");
            }
        }
        if self.ones() != ones {
            return Err("the count of a container is wrong");
        }
        match self {
            Self::Array(array) => array::validate(array),
            Self::Words(_) if ones as usize <= ARRAY_MAX || ones == CHUNK => {
                Err("a bit container has so few or so many bits that another form must hold them")
            }
            Self::Sparse(_) if ones == CHUNK => Err("a sparse container holds its whole chunk"),
            Self::Words(_) | Self::Sparse(_) | Self::Full => Ok(()),
            Self::Runs(runs) => runs::validate(runs),
        }
    }
}

/// The runs of one chunk, from both ends.
#[derive(Clone)]
pub(in crate::bitmap) enum RunIter<'a> {
    Array(&'a [u16]),
    Words {
        words: &'a Words,
        from: u32,
        to: u32,
    },
    /// The packed words. They are shared by copies of the walk, not copied.
    Spread {
        #[allow(
            clippy::redundant_allocation,
            reason = "words right behind an Arc cannot be asked for in words that can fail"
        )]
        words: Arc<Box<Words>>,
        from: u32,
        to: u32,
    },
    /// Packed bytes that found no memory to be spread into words: each run is searched for anew.
    Packed {
        bytes: &'a [u8],
        from: u32,
        to: u32,
    },
    Runs {
        runs: &'a [Pair],
        window: Run,
    },
    Full(Option<Run>),
}

impl<'a> RunIter<'a> {
    /// The runs of a packed chunk; where `former` walked over words of its own, they are used again.
    pub(in crate::bitmap) fn spread(bytes: &'a [u8], window: Run, former: Self) -> Self {
        let (from, to) = (window.first.into(), window.end());
        let former = match former {
            Self::Spread { words, .. } => Some(words).filter(|words| Arc::strong_count(words) == 1),
            _ => None,
        };
        let Some(mut words) = former.or_else(|| bits::no_words().ok().map(Arc::new)) else {
            return Self::Packed { bytes, from, to };
        };
        if let Some(words) = Arc::get_mut(&mut words) {
            (select().unpack)(bytes, words);
        }
        Self::Spread { words, from, to }
    }
}

/// Spreads packed `bytes` into words, for one look at them.
#[cold]
#[inline(never)]
pub(in crate::bitmap) fn spread_once<R>(bytes: &[u8], look: impl FnOnce(&Words) -> R) -> R {
    let mut words = [0; 1024];
    (select().unpack)(bytes, &mut words);
    look(&words)
}

/// The first run of `from..to`, which begins behind it then.
fn next_run(words: &Words, from: &mut u32, to: u32) -> Option<Run> {
    let first = bits::scan(words, *from, to, 0);
    *from = bits::scan(words, first, to, u64::MAX);
    (first < to).then(|| Run { first: to_u16(first), last: to_u16(*from - 1) })
}

/// The last run of `from..to`, which ends before it then.
fn last_run(words: &Words, from: u32, to: &mut u32) -> Option<Run> {
    let end = bits::scan_back(words, from, *to, 0);
    *to = bits::scan_back(words, from, end, u64::MAX);
    (*to < end).then(|| Run { first: to_u16(*to), last: to_u16(end - 1) })
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
            Self::Words { words, from, to } => next_run(words, from, *to),
            Self::Spread { words, from, to } => next_run(words, from, *to),
            Self::Packed { bytes, from, to } => spread_once(bytes, |words| next_run(words, from, *to)),
            Self::Runs { runs, window } => {
                let (&run, rest) = runs.split_first()?;
                *runs = rest;
                Some(cut(run.into(), *window))
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
            Self::Words { words, from, to } => last_run(words, *from, to),
            Self::Spread { words, from, to } => last_run(words, *from, to),
            Self::Packed { bytes, from, to } => spread_once(bytes, |words| last_run(words, *from, to)),
            Self::Runs { runs, window } => {
                let (&run, rest) = runs.split_last()?;
                *runs = rest;
                Some(cut(run.into(), *window))
            }
            Self::Full(run) => run.take(),
        }
    }
}

fn cut(run: Run, window: Run) -> Run {
    Run { first: run.first.max(window.first), last: run.last.min(window.last) }
}
