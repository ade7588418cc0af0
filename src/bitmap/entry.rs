#![forbid(unsafe_code)]
//! Owns what a directory keeps of one chunk: where what it holds lies, and how much that is. Must never know the other
//! chunks.

use super::arena::{Arena, ArenaOffset};
use super::container::{CHUNK, Container, Form, Sparse, View, Words, to_u16};
use super::span::Span;
use crate::kernels::Measure;
use crate::memory::Result;

/// One chunk with dirty granules, or several consecutive full ones.
pub(super) struct Entry {
    /// The first chunk: its granules' indices shifted right by 16.
    pub(super) key: u32,
    /// For full chunks their number, for a packed container the dirty granules.
    pub(super) size: u32,
    pub(super) body: Body,
}

pub(super) enum Body {
    Full,
    // A packed container knows its number of runs: of words 32768 at most.
    Array(ArenaOffset, u16),
    Words(ArenaOffset, u16),
    Runs(ArenaOffset, u16),
    /// With the number of bytes, too.
    Sparse(ArenaOffset, u16, u16),
    /// Never full nor empty.
    Own(Container),
}

const _: () = assert!(size_of::<Entry>() == 24 || usize::BITS != 64);

impl Entry {
    pub(super) fn full(key: u32, end: u32) -> Self {
        Self { key, size: end - key, body: Body::Full }
    }

    /// The entry of what lies at `place`, which is not full, in its smallest form.
    #[inline]
    pub(super) fn packed(key: u32, measure: Measure, view: View<'_>, place: ArenaOffset) -> Self {
        let runs = to_u16(measure.runs);
        let body = match view {
            View::Full => Body::Full,
            View::Array(_) => Body::Array(place, runs),
            View::Words(_) => Body::Words(place, runs),
            View::Runs(_) => Body::Runs(place, runs),
            #[allow(clippy::cast_possible_truncation, reason = "it is smaller than words")]
            View::Sparse(sparse) => Body::Sparse(place, sparse.bytes.len() as u16, runs),
        };
        Self { key, size: measure.ones, body }
    }

    /// The entry of words that lie at `place`.
    pub(super) fn words(key: u32, measure: Measure, place: ArenaOffset) -> Self {
        Self { key, size: measure.ones, body: Body::Words(place, to_u16(measure.runs)) }
    }

    pub(super) fn own(key: u32, container: Container) -> Self {
        Self { key, size: 0, body: Body::Own(container) }
    }

    /// A copy, which is packed in a copy of the same arena.
    pub(super) fn try_clone(&self) -> Result<Self> {
        let body = match &self.body {
            Body::Full => Body::Full,
            Body::Array(place, runs) => Body::Array(*place, *runs),
            Body::Words(place, runs) => Body::Words(*place, *runs),
            Body::Runs(place, runs) => Body::Runs(*place, *runs),
            Body::Sparse(place, len, runs) => Body::Sparse(*place, *len, *runs),
            Body::Own(container) => Body::Own(Container::copy(container.view(), ones_of(container))?),
        };
        Ok(Self { body, ..*self })
    }

    /// How many chunks; more than one only if they are full.
    pub(super) fn chunks(&self) -> u32 {
        if self.is_full() { self.size } else { 1 }
    }

    /// The chunk after the last one.
    pub(super) fn end(&self) -> u32 {
        self.key + self.chunks()
    }

    /// The index of the first granule of the first chunk.
    pub(super) fn base(&self) -> u64 {
        u64::from(self.key) << 16
    }

    /// All granules of the chunks, clean ones too.
    pub(super) fn span(&self) -> Span {
        Span { first: self.base(), last: (u64::from(self.end()) << 16) - 1 }
    }

    /// The number of dirty granules.
    pub(super) fn ones(&self) -> u64 {
        u64::from(self.chunks()) * u64::from(self.ones_of_chunk())
    }

    /// The number of dirty granules of one of the chunks.
    #[inline(always)]
    pub(super) fn ones_of_chunk(&self) -> u32 {
        match &self.body {
            Body::Full => CHUNK,
            Body::Array(..) | Body::Words(..) | Body::Runs(..) | Body::Sparse(..) => self.size,
            Body::Own(container) => ones_of(container),
        }
    }

    /// The maximal runs of dirty granules of one of the chunks.
    #[inline(always)]
    pub(super) fn runs_of_chunk(&self) -> u32 {
        match &self.body {
            Body::Full => 1,
            Body::Array(_, runs) | Body::Words(_, runs) | Body::Runs(_, runs) | Body::Sparse(.., runs) => {
                (*runs).into()
            }
            Body::Own(container) => runs_of(container),
        }
    }

    /// What one of the chunks holds.
    pub(super) fn measure_of_chunk(&self) -> Measure {
        Measure { ones: self.ones_of_chunk(), runs: self.runs_of_chunk() }
    }

    pub(super) fn is_full(&self) -> bool {
        matches!(self.body, Body::Full)
    }

    /// What the chunk, or each of its chunks, holds.
    #[inline(always)]
    pub(super) fn view<'a>(&'a self, arena: &'a Arena) -> View<'a> {
        match &self.body {
            Body::Full => View::Full,
            Body::Array(place, _) => View::Array(arena.list(*place, self.size as usize)),
            Body::Words(place, _) => View::Words(arena.words(*place)),
            Body::Runs(place, count) => View::Runs(arena.pairs(*place, usize::from(*count))),
            Body::Sparse(place, len, runs) => {
                View::Sparse(Sparse::counted(arena.bytes(*place, usize::from(*len)), u32::from(*runs)))
            }
            Body::Own(container) => container.view(),
        }
    }

    /// Whether it is that of the same chunks, with a container of the same form in the same place of another arena.
    pub(super) fn is_copy_of(&self, other: &Self) -> bool {
        let is_alike = match (&self.body, &other.body) {
            (Body::Full, Body::Full) => true,
            (Body::Array(place, runs), Body::Array(other, others))
            | (Body::Words(place, runs), Body::Words(other, others))
            | (Body::Runs(place, runs), Body::Runs(other, others)) => (place, runs) == (other, others),
            (Body::Sparse(place, len, runs), Body::Sparse(other, others_len, others)) => {
                (place, len, runs) == (other, others_len, others)
            }
            _ => false,
        };
        is_alike && (self.key, self.size) == (other.key, other.size)
    }

    /// Where in the arena it begins, if it is packed.
    pub(super) fn place(&self) -> Option<ArenaOffset> {
        match self.body {
            Body::Array(place, _) | Body::Words(place, _) | Body::Runs(place, _) | Body::Sparse(place, ..) => {
                Some(place)
            }
            Body::Full | Body::Own(_) => None,
        }
    }

    /// Takes its place in an arena that comes after `blocks` blocks of another.
    pub(super) fn put_after(&mut self, blocks: u32) {
        if let Some(place) = self.place() {
            self.move_to(place.after(blocks));
        }
    }

    /// Takes another place, if it is packed.
    pub(super) fn move_to(&mut self, to: ArenaOffset) {
        if let Body::Array(place, _) | Body::Words(place, _) | Body::Runs(place, _) | Body::Sparse(place, ..) =
            &mut self.body
        {
            *place = to;
        }
    }

    /// Its form, if it is the smallest for what it holds.
    pub(super) fn packed_form(&self) -> Option<Form> {
        match self.body {
            Body::Full => Some(Form::Full),
            Body::Array(..) => Some(Form::Array),
            Body::Words(..) => Some(Form::Words),
            Body::Runs(..) => Some(Form::Runs),
            Body::Sparse(..) => Some(Form::Sparse),
            Body::Own(_) => None,
        }
    }

    /// Whether what it holds is known to be in its smallest form.
    pub(super) fn is_smallest(&self) -> bool {
        !matches!(self.body, Body::Own(_))
    }

    /// The bytes of what it holds.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        match &self.body {
            Body::Full => 0,
            Body::Array(..) => 2 * self.size as usize,
            Body::Words(..) => size_of::<Words>(),
            Body::Runs(_, count) => 4 * usize::from(*count),
            Body::Sparse(_, len, _) => usize::from(*len),
            Body::Own(container) => container.view().bytes(),
        }
    }
}

// The counting stands apart from the known counts, so that a question for a known one is a few instructions at each call.

#[inline(never)]
fn ones_of(container: &Container) -> u32 {
    container.ones()
}

#[inline(never)]
fn runs_of(container: &Container) -> u32 {
    container.view().run_count()
}
