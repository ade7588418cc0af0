#![forbid(unsafe_code)]
//! Owns what an engine must offer to be measured. Knows no engine.

use crate::input::{Input, Shape, Span, Tally, digest};
use crate::patterns::{Disk, Write};

/// One of the ways in which an engine can do a job.
pub struct Form<F> {
    pub name: &'static str,
    pub threads: usize,
    pub run: F,
}

impl<F> Form<F> {
    /// A form on the caller's thread.
    pub fn new(name: &'static str, run: F) -> Self {
        Self { name, threads: 1, run }
    }
}

/// A way to unite bitmaps.
pub enum Union<B> {
    /// Adds the second to the first. For more than two the first is copied and the others added one after the other; the
    /// copy counts.
    InPlace(fn(&mut B, &B)),
    /// Makes a new bitmap of all.
    New(fn(&[&B]) -> B),
}

/// Bytes that a bitmap was written to, from `start` on: some formats must begin at a multiple of 64.
pub struct Saved {
    pub bytes: Vec<u8>,
    pub start: usize,
}

impl Saved {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl From<Vec<u8>> for Saved {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, start: 0 }
    }
}

/// A way to open what one of the engine's `saves` wrote.
pub struct Open<E: Engine + ?Sized> {
    /// The name of the save.
    pub saved_by: &'static str,
    pub open: for<'a> fn(&'a [u8], &Disk) -> E::Opened<'a>,
}

/// The digest of how many granules are dirty in each span, by [`count_each`].
pub type Count<B> = fn(&B, &Disk, &[Span]) -> u64;
/// Adds every extent to the tally.
pub type Walk<B> = fn(&B, &Disk, &mut Tally);
/// Adds the extents of each span, cut at its edges, each span a list of the tally.
pub type WalkSpans<B> = fn(&B, &Disk, &[Span], &mut Tally);
pub type Save<B> = fn(&B) -> Saved;
/// A bitmap of these writes, which arrive one by one.
pub type Mark<B> = fn(&Disk, &[Write]) -> B;

/// An engine under measure. Each job may come in several forms; all give the same answer, and the best one counts.
pub trait Engine {
    type Bitmap: Clone;
    /// A bitmap that may borrow the bytes that it was opened from.
    type Opened<'a>;

    const NAME: &'static str;
    const SHAPE: Shape;

    /// Why it cannot take this input, if so.
    fn refuses(_input: &Input) -> Option<String> {
        None
    }

    fn build(input: &Input, disk: &Disk) -> Self::Bitmap;
    fn cardinality(bitmap: &Self::Bitmap) -> u64;

    fn unions(count: usize) -> Vec<Form<Union<Self::Bitmap>>>;
    fn counts() -> Vec<Form<Count<Self::Bitmap>>>;
    fn extents() -> Vec<Form<Walk<Self::Bitmap>>>;
    fn windows() -> Vec<Form<WalkSpans<Self::Bitmap>>>;
    fn saves() -> Vec<Form<Save<Self::Bitmap>>>;
    fn opens() -> Vec<Form<Open<Self>>>;
    fn marks() -> Vec<Form<Mark<Self::Bitmap>>>;

    fn count_opened(opened: &Self::Opened<'_>, disk: &Disk, span: Span) -> u64;
    fn tally_opened(opened: &Self::Opened<'_>, disk: &Disk) -> Tally;
}

/// The digest of what `count` says of each span.
#[inline(always)]
pub fn count_each(spans: &[Span], count: impl Fn(Span) -> u64) -> u64 {
    digest(spans.iter().map(|&span| count(span)))
}
