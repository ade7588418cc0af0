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
mod combine;
mod list;
mod runs;
mod sparse;
#[cfg(test)]
mod tests;
mod unite;
mod view;

use crate::kernels::{Measure, select};
use crate::memory::{self, Result, ThinSlice};
pub(super) use bits::{clear_run, no_words};
pub(super) use combine::Operation;
use list::List;
pub(super) use runs::Run;
pub(crate) use sparse::LEAST as SPARSE_FROM;
pub(crate) use sparse::Sparse;
pub(super) use sparse::{Keeper, Packer, packed_len};
pub(super) use unite::{Made, Workspace};

pub(crate) use bits::Words;
pub(crate) use runs::Pair;
pub(crate) use view::{Form, Plain, View};
pub(super) use view::{RunIter, spread_once};

/// The granules of one chunk.
pub(super) const CHUNK: u32 = 1 << 16;

/// The most bits an array holds, as in the Roaring format: above, words are never larger.
pub(super) const ARRAY_MAX: usize = 4096;

/// The most runs a container holds: above, words are smaller.
pub(super) const RUNS_MAX: usize = 2048;

/// The set bits of one chunk, to be changed.
#[derive(Debug)]
pub(super) enum Container {
    Array { len: u16, room: ThinSlice<u16> },
    Bits { ones: u32, words: Box<Words> },
    Runs { len: u16, room: ThinSlice<Pair> },
    Full,
}

impl Container {
    pub(super) const fn empty() -> Self {
        Self::Array { len: 0, room: ThinSlice::empty() }
    }

    fn array(bits: &[u16]) -> Result<Self> {
        let (len, room) = list::list_of(bits)?;
        Ok(Self::Array { len, room })
    }

    fn runs(runs: &[Pair]) -> Result<Self> {
        let (len, room) = list::list_of(runs)?;
        Ok(Self::Runs { len, room })
    }

    #[inline]
    pub(super) fn view(&self) -> View<'_> {
        match self {
            Self::Array { len, room } => View::Array(&room[..usize::from(*len)]),
            Self::Bits { words, .. } => View::Words(words),
            Self::Runs { len, room } => View::Runs(&room[..usize::from(*len)]),
            Self::Full => View::Full,
        }
    }

    /// A copy of a view that holds `ones` bits, in the same form if that is one that changes bit by bit.
    pub(super) fn copy(view: View<'_>, ones: u32) -> Result<Self> {
        match view {
            View::Array(array) => Self::array(array),
            View::Words(words) => Ok(Self::Bits { ones, words: memory::copy_box(words)? }),
            View::Runs(runs) => Self::runs(runs),
            View::Sparse(_) if ones as usize <= ARRAY_MAX => bits::with_positions(&view.words(), Self::array),
            View::Sparse(_) => Ok(Self::Bits { ones, words: memory::copy_box(&view.words())? }),
            View::Full => Ok(Self::Full),
        }
    }

    /// The smallest form of sorted bits, none twice.
    pub(super) fn from_sorted(bits: &[u16]) -> Result<Self> {
        if bits.len() <= ARRAY_MAX && bits.len() <= 2 * array::run_count(bits) {
            return Self::array(bits);
        }
        Self::from_runs(&memory::gather(View::Array(bits).runs(Run::WHOLE).map(Run::pair))?)
    }

    /// The smallest form of sorted runs that neither overlap nor touch.
    pub(super) fn from_runs(runs: &[Pair]) -> Result<Self> {
        match Plain::smallest(runs::ones_of(runs), small(runs.len())) {
            Plain::Full => Ok(Self::Full),
            Plain::Array => Self::array(&memory::gather(runs.iter().flat_map(|run| run[0]..=run[1]))?),
            Plain::Runs => Self::runs(runs),
            Plain::Words => {
                let mut words = no_words()?;
                View::Runs(runs).add_to(&mut words);
                Ok(Self::Bits { ones: runs::ones_of(runs), words })
            }
        }
    }

    /// The smallest form of `words`.
    pub(super) fn from_words(words: Box<Words>) -> Result<Self> {
        let measure = (select().measure)(&words);
        Self::from_measured(words, measure)
    }

    /// The smallest form of `words`, which hold `measure`.
    fn from_measured(words: Box<Words>, measure: Measure) -> Result<Self> {
        let smaller = Self::smaller(&words, measure)?;
        Ok(smaller.unwrap_or(Self::Bits { ones: measure.ones, words }))
    }

    /// The smallest form of `words`, which hold `measure`, unless they are it themselves.
    fn smaller(words: &Words, measure: Measure) -> Result<Option<Self>> {
        Ok(match Plain::smallest(measure.ones, measure.runs) {
            Plain::Full => Some(Self::Full),
            Plain::Array => Some(bits::with_positions(words, Self::array)?),
            Plain::Runs => Some(bits::with_runs(words, Self::runs)?),
            Plain::Words => None,
        })
    }

    /// Takes the smallest form for the bits that it holds.
    pub(super) fn optimize(&mut self) -> Result<()> {
        let smallest = match self {
            Self::Full => None,
            Self::Array { .. } | Self::Runs { .. } => match self.view() {
                View::Array(bits) => Some(Self::from_sorted(bits)?),
                View::Runs(runs) => Some(Self::from_runs(runs)?),
                _ => None,
            },
            Self::Bits { words, .. } => Self::smaller(words, (select().measure)(words))?,
        };
        if let Some(smallest) = smallest {
            *self = smallest;
        }
        Ok(())
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

    /// Sets the bits of `new`, and says how many of them are new. Nothing changes where there is no memory for them.
    pub(super) fn set(&mut self, new: Run) -> Result<u32> {
        let added = match self {
            Self::Full => return Ok(0),
            Self::Bits { ones, words } => {
                let added = bits::set(words, new);
                *ones += added;
                if *ones == CHUNK {
                    *self = Self::Full;
                }
                return Ok(added);
            }
            Self::Array { len, room } => array::try_set(&mut List { len, room }, new)?,
            Self::Runs { len, room } => {
                let mut runs = List { len, room };
                let added = runs::try_set(&mut runs, new)?;
                if runs[0] == Run::WHOLE.pair() {
                    *self = Self::Full;
                }
                added
            }
        };
        match added {
            Some(added) => Ok(added),
            None => self.set_anew(new),
        }
    }

    /// Sets the bits of `new` in another form than the list that is held.
    #[inline(never)]
    fn set_anew(&mut self, new: Run) -> Result<u32> {
        let added = new.len() - self.view().count(new);
        *self = Self::from_runs(&runs::sweep(self.view().runs(Run::WHOLE), std::iter::once(new), |a, b| a || b)?)?;
        Ok(added)
    }

    /// Clears the bits of `gone`, and says how many were set. Nothing changes where there is no memory for what stays.
    pub(super) fn clear(&mut self, gone: Run) -> Result<u32> {
        let cleared = match self {
            Self::Full => None,
            Self::Array { len, room } => Some(array::clear(&mut List { len, room }, gone)),
            // More bits stay than an array takes, so the form stays too.
            Self::Bits { ones, words } if *ones as usize > ARRAY_MAX + gone.len() as usize => {
                let cleared = bits::clear(words, gone);
                *ones -= cleared;
                Some(cleared)
            }
            Self::Bits { ones, words } => {
                let mut rest = **words;
                let cleared = bits::clear(&mut rest, gone);
                let is_few = (*ones - cleared) as usize <= ARRAY_MAX;
                match if is_few { Self::smaller(&rest, (select().measure)(&rest))? } else { None } {
                    Some(smaller) => *self = smaller,
                    None => (*ones, **words) = (*ones - cleared, rest),
                }
                Some(cleared)
            }
            Self::Runs { len, room } => {
                let mut runs = List { len, room };
                let cleared = runs::try_clear(&mut runs, gone)?;
                if runs.is_empty() {
                    *self = Self::empty();
                }
                cleared
            }
        };
        match cleared {
            Some(cleared) => Ok(cleared),
            None => self.clear_anew(gone),
        }
    }

    /// Clears the bits of `gone` in another form than the one that is held.
    #[inline(never)]
    fn clear_anew(&mut self, gone: Run) -> Result<u32> {
        let cleared = self.view().count(gone);
        let rest = runs::sweep(self.view().runs(Run::WHOLE), std::iter::once(gone), |a, b| a && !b)?;
        *self = Self::from_runs(&rest)?;
        Ok(cleared)
    }

    /// The bytes this container has on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::Array { room, .. } => room.heap_bytes(),
            Self::Bits { .. } => size_of::<Words>(),
            Self::Runs { room, .. } => room.heap_bytes(),
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
pub(super) fn small(len: usize) -> u32 {
    debug_assert!(len <= 2 * CHUNK as usize);
    len as u32
}
