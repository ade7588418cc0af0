#![forbid(unsafe_code)]
//! Owns the forms in which the set bits of one chunk of 65536 granules are held, and which form holds what. Knows
//! nothing of chunk keys, disks, granularities or bytes.
//!
//! A view is a chunk's bits wherever they lie; a container owns them, so that they can change one by one. A container
//! that has no bit is the empty array; the directory never keeps one. A container that has all bits is always `Full`, so
//! which chunks are full depends on the bits alone. Between the other forms a change of single bits switches only where a
//! limit forces it to; results of set operations take the smallest form.

mod array;
mod bits;
mod list;
mod runs;
mod sparse;
#[cfg(test)]
mod tests;
mod unite;
mod view;

use crate::kernels::{ChunkOperation, Kernels, Measure, select};
pub(super) use bits::{clear_run, no_words};
use list::List;
pub(super) use runs::Run;
pub(crate) use sparse::LEAST as SPARSE_FROM;
pub(crate) use sparse::Sparse;
pub(super) use sparse::{Packer, packed_len};
pub(super) use unite::{Made, Workspace};

pub(crate) use bits::Words;
pub(crate) use runs::Pair;
pub(super) use view::RunIter;
pub(crate) use view::{Form, Plain, View};

/// The granules of one chunk.
pub(super) const CHUNK: u32 = 1 << 16;

/// The most bits an array holds, as in the Roaring format: above, words are never larger.
pub(super) const ARRAY_MAX: usize = 4096;

/// The most runs a container holds: above, words are smaller.
pub(super) const RUNS_MAX: usize = 2048;

/// The set bits of one chunk, to be changed.
#[derive(Clone, Debug)]
pub(super) enum Container {
    Array { len: u16, blocks: array::Blocks },
    Bits { ones: u32, words: Box<Words> },
    Runs { len: u16, blocks: runs::Blocks },
    Full,
}

impl Container {
    pub(super) fn empty() -> Self {
        Self::array(&[])
    }

    fn array(bits: &[u16]) -> Self {
        let (len, blocks) = list::list_of(bits);
        Self::Array { len, blocks }
    }

    fn runs(runs: &[Pair]) -> Self {
        let (len, blocks) = list::list_of(runs);
        Self::Runs { len, blocks }
    }

    pub(super) fn view(&self) -> View<'_> {
        match self {
            Self::Array { len, blocks } => View::Array(list::items(*len, blocks)),
            Self::Bits { words, .. } => View::Words(words),
            Self::Runs { len, blocks } => View::Runs(list::items(*len, blocks)),
            Self::Full => View::Full,
        }
    }

    /// A copy of a view that holds `ones` bits, in the same form if that is one that changes bit by bit.
    pub(super) fn copy(view: View<'_>, ones: u32) -> Self {
        match view {
            View::Array(array) => Self::array(array),
            View::Words(words) => Self::Bits { ones, words: Box::new(*words) },
            View::Runs(runs) => Self::runs(runs),
            View::Sparse(_) if ones as usize <= ARRAY_MAX => Self::array(&bits::positions(&view.words())),
            View::Sparse(_) => Self::Bits { ones, words: Box::new(*view.words()) },
            View::Full => Self::Full,
        }
    }

    /// The smallest form of sorted bits, none twice.
    pub(super) fn from_sorted(bits: &[u16]) -> Self {
        if bits.len() <= ARRAY_MAX && bits.len() <= 2 * array::run_count(bits) {
            return Self::array(bits);
        }
        Self::from_runs(&View::Array(bits).runs(Run::WHOLE).map(Run::pair).collect::<Vec<_>>())
    }

    /// The smallest form of sorted runs that neither overlap nor touch.
    pub(super) fn from_runs(runs: &[Pair]) -> Self {
        match Plain::smallest(runs::ones_of(runs), small(runs.len())) {
            Plain::Full => Self::Full,
            Plain::Array => Self::array(&runs.iter().flat_map(|run| run[0]..=run[1]).collect::<Vec<_>>()),
            Plain::Runs => Self::runs(runs),
            Plain::Words => {
                let mut words = no_words();
                View::Runs(runs).add_to(&mut words);
                Self::Bits { ones: runs::ones_of(runs), words }
            }
        }
    }

    /// The smallest form of `words`.
    pub(super) fn from_words(words: Box<Words>) -> Self {
        let measure = (select().measure)(&words);
        Self::from_measured(words, measure)
    }

    /// The smallest form of `words`, which hold `measure`.
    fn from_measured(words: Box<Words>, measure: Measure) -> Self {
        match Plain::smallest(measure.ones, measure.runs) {
            Plain::Full => Self::Full,
            Plain::Array => Self::array(&bits::positions(&words)),
            Plain::Runs => Self::runs(&bits::runs(&words, measure.runs as usize)),
            Plain::Words => Self::Bits { ones: measure.ones, words },
        }
    }

    /// Takes the smallest form for what is held.
    pub(super) fn optimize(&mut self) {
        *self = match std::mem::replace(self, Self::Full) {
            Self::Full => return,
            Self::Array { len, blocks } => Self::from_sorted(list::items(len, &blocks)),
            Self::Bits { words, .. } => Self::from_words(words),
            Self::Runs { len, blocks } => Self::from_runs(list::items(len, &blocks)),
        };
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Array { len: 0, .. })
    }

    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Full)
    }

    /// The number of set bits, 0..=65536.
    pub(super) fn ones(&self) -> u32 {
        match self {
            Self::Bits { ones, .. } => *ones,
            _ => self.view().ones(),
        }
    }

    pub(super) fn measure(&self) -> Measure {
        Measure { ones: self.ones(), runs: self.view().run_count() }
    }

    pub(super) fn set(&mut self, new: Run) {
        match self {
            Self::Full => {}
            Self::Array { len, blocks } => {
                let mut array = List { len, blocks };
                if !array::try_set(&mut array, new) {
                    let ours = View::Array(&array).runs(Run::WHOLE);
                    *self = Self::from_runs(&runs::sweep(ours, std::iter::once(new), |a, b| a || b));
                }
            }
            Self::Bits { ones, words } => {
                bits::set(words, ones, new);
                if *ones == CHUNK {
                    *self = Self::Full;
                }
            }
            Self::Runs { len, blocks } => {
                let mut runs = List { len, blocks };
                runs::set(&mut runs, new);
                if runs.len() > RUNS_MAX || runs[0] == Run::WHOLE.pair() {
                    *self = Self::from_runs(&runs);
                }
            }
        }
    }

    pub(super) fn clear(&mut self, gone: Run) {
        match self {
            Self::Full => {
                *self = Self::runs(&[Run::WHOLE.pair()]);
                self.clear(gone);
            }
            Self::Array { len, blocks } => array::clear(&mut List { len, blocks }, gone),
            Self::Bits { ones, words } => {
                bits::clear(words, ones, gone);
                if *ones as usize <= ARRAY_MAX {
                    *self = Self::from_words(std::mem::replace(words, no_words()));
                }
            }
            Self::Runs { len, blocks } => {
                let mut runs = List { len, blocks };
                runs::clear(&mut runs, gone);
                if runs.is_empty() || runs.len() > RUNS_MAX {
                    *self = Self::from_runs(&runs);
                }
            }
        }
    }

    /// The bits set in both.
    pub(super) fn intersect(a: View<'_>, b: View<'_>) -> Self {
        match (a, b) {
            (View::Full, other) | (other, View::Full) => {
                let mut copy = Self::copy(other, other.ones());
                copy.optimize();
                copy
            }
            (View::Array(x), View::Array(y)) => Self::from_sorted(&array::intersect(x, y)),
            (View::Array(array), other) | (other, View::Array(array)) => {
                Self::from_sorted(&array.iter().copied().filter(|&bit| other.contains(bit)).collect::<Vec<_>>())
            }
            _ => Self::combine(a, b, |kernels| kernels.and, |a, b| a && b),
        }
    }

    /// The bits set in `a` and not in `b`.
    pub(super) fn subtract(a: View<'_>, b: View<'_>) -> Self {
        match (a, b) {
            (_, View::Full) => Self::empty(),
            (View::Array(x), View::Array(y)) => Self::from_sorted(&array::subtract(x, y)),
            (View::Array(array), _) => {
                Self::from_sorted(&array.iter().copied().filter(|&bit| !b.contains(bit)).collect::<Vec<_>>())
            }
            _ => Self::combine(a, b, |kernels| kernels.and_not, |a, b| a && !b),
        }
    }

    /// The bits set in one of the two only.
    pub(super) fn xor(a: View<'_>, b: View<'_>) -> Self {
        Self::combine(a, b, |kernels| kernels.xor, |a, b| a != b)
    }

    fn combine(a: View<'_>, b: View<'_>, kernel: fn(&Kernels) -> ChunkOperation, keep: fn(bool, bool) -> bool) -> Self {
        let in_words = |view| matches!(view, View::Words(_) | View::Sparse(_));
        if !in_words(a) && !in_words(b) {
            return Self::from_runs(&runs::sweep(a.runs(Run::WHOLE), b.runs(Run::WHOLE), keep));
        }
        let mut words = Box::new(*a.words());
        let measure = kernel(select())(&mut words, &b.words());
        Self::from_measured(words, measure)
    }

    /// The bytes this container has on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::Array { blocks, .. } => list::heap_bytes(blocks),
            Self::Bits { .. } => size_of::<Words>(),
            Self::Runs { blocks, .. } => list::heap_bytes(blocks),
            Self::Full => 0,
        }
    }
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
