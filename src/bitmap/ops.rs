#![forbid(unsafe_code)]
//! Owns the set operations on whole bitmaps, the rules for mixed granularities among them. Must never know what a set
//! operation is for.

use super::Bitmap;
use super::container::{Container, Workspace};
use super::directory::{Collector, Directory, Entry, Span};
use super::many;
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::{Granularity, check_disk};
use std::borrow::Cow;

impl Bitmap {
    /// Whether every dirty byte of this bitmap is dirty in `other`, exactly, at whatever granularities.
    ///
    /// Disks of different size are [`ErrorKind::SizeMismatch`].
    pub fn is_subset(&self, other: &Self) -> Result<bool> {
        self.check_size(other)?;
        if self.granularity == other.granularity {
            let mut pairs = Pairs::new(parts(&self.directory), parts(&other.directory));
            return Ok(pairs.all(|(_, _, ours, theirs)| match (ours, theirs) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(ours), Some(theirs)) => ours.is_subset(&theirs),
            }));
        }
        let mut theirs = other.extents(0, u64::MAX).peekable();
        Ok(self.extents(0, u64::MAX).all(|extent| {
            while theirs.next_if(|their| their.end() <= extent.offset).is_some() {}
            theirs.peek().is_some_and(|their| their.offset <= extent.offset && extent.end() <= their.end())
        }))
    }

    /// Adds the dirty bytes of `other`, rounded outward to this bitmap's granularity.
    ///
    /// Disks of different size are [`ErrorKind::SizeMismatch`], and nothing changes.
    pub fn union_with(&mut self, other: &Self) -> Result<()> {
        self.combine_with(other, Rounding::Outward, union)
    }

    /// Keeps only what is dirty in `other` too, once `other` is rounded outward to this bitmap's granularity.
    ///
    /// Disks of different size are [`ErrorKind::SizeMismatch`], and nothing changes.
    pub fn intersect_with(&mut self, other: &Self) -> Result<()> {
        self.combine_with(other, Rounding::Outward, intersect)
    }

    /// Cleans every granule of which `other` covers all bytes that the disk has; a granule covered in part stays dirty.
    ///
    /// Disks of different size are [`ErrorKind::SizeMismatch`], and nothing changes.
    pub fn subtract(&mut self, other: &Self) -> Result<()> {
        self.combine_with(other, Rounding::Inward, subtract)
    }

    /// Flips every granule that is dirty in `other`.
    ///
    /// Granularities that differ are [`ErrorKind::InvalidArgument`]: rounding `other` outward would clean granules that
    /// it covers in part, rounding it inward would leave out bytes that it has, so either could lose a dirty block.
    /// Disks of different size are [`ErrorKind::SizeMismatch`]. On error nothing changes.
    pub fn xor_with(&mut self, other: &Self) -> Result<()> {
        self.check_same_granularity(other)?;
        self.combine_with(other, Rounding::Outward, xor)
    }

    /// What is dirty in either, at the finer of the two granularities.
    ///
    /// Disks of different size are [`ErrorKind::SizeMismatch`].
    pub fn union(&self, other: &Self) -> Result<Self> {
        if other.granularity < self.granularity {
            return other.union(self);
        }
        self.combine(other, Rounding::Outward, union)
    }

    /// What is dirty in both, at this bitmap's granularity, see [`Bitmap::intersect_with`].
    pub fn intersection(&self, other: &Self) -> Result<Self> {
        self.combine(other, Rounding::Outward, intersect)
    }

    /// What is dirty here and not wholly covered by `other`, at this bitmap's granularity, see [`Bitmap::subtract`].
    pub fn difference(&self, other: &Self) -> Result<Self> {
        self.combine(other, Rounding::Inward, subtract)
    }

    /// What is dirty in one of the two only; both must have one granularity, see [`Bitmap::xor_with`].
    pub fn symmetric_difference(&self, other: &Self) -> Result<Self> {
        self.check_same_granularity(other)?;
        self.combine(other, Rounding::Outward, xor)
    }

    /// What is dirty in any of `bitmaps`, at `granularity` or else at the finest of theirs, rounded outward.
    ///
    /// All are read in one pass, however many they are. No bitmap, or a granularity at which the disk has more than 2^41
    /// granules, is [`ErrorKind::InvalidArgument`]; disks of different size are [`ErrorKind::SizeMismatch`].
    pub fn union_many(bitmaps: &[&Self], granularity: Option<Granularity>) -> Result<Self> {
        let Some(finest) = bitmaps.iter().map(|bitmap| bitmap.granularity).min() else {
            return Err(Error::new(ErrorKind::InvalidArgument, "there is no bitmap to unite"));
        };
        let target = granularity.unwrap_or(finest);
        let mut result = Self::new(bitmaps[0].size_bytes, target)?;
        bitmaps.iter().try_for_each(|bitmap| result.check_size(bitmap))?;
        let sources: Vec<Cow<'_, Directory>> =
            bitmaps.iter().map(|bitmap| bitmap.rescaled(target, Rounding::Outward)).collect();
        result.directory = many::unite(&sources.iter().map(|source| source.entries()).collect::<Vec<_>>());
        Ok(result)
    }

    /// This bitmap at another granularity, rounded outward: every dirty byte stays dirty.
    ///
    /// Going coarser and back gives a superset, not the original. A granularity at which the disk has more than 2^41
    /// granules is [`ErrorKind::InvalidArgument`].
    pub fn to_granularity(&self, granularity: Granularity) -> Result<Self> {
        check_disk(self.size_bytes, granularity)?;
        let directory = self.rescaled(granularity, Rounding::Outward).into_owned();
        Ok(Self { size_bytes: self.size_bytes, granularity, directory })
    }

    fn combine_with(&mut self, other: &Self, rounding: Rounding, operation: Operation) -> Result<()> {
        self.check_size(other)?;
        let other = other.rescaled(self.granularity, rounding);
        let ours = std::mem::take(&mut self.directory).into_entries().into_iter().map(Part::from);
        self.directory = apply(ours, &other, operation);
        Ok(())
    }

    fn combine(&self, other: &Self, rounding: Rounding, operation: Operation) -> Result<Self> {
        self.check_size(other)?;
        let other = other.rescaled(self.granularity, rounding);
        Ok(Self { directory: apply(parts(&self.directory), &other, operation), ..*self })
    }

    /// The directory of this bitmap at `target`, at which the disk must have no more than 2^41 granules.
    fn rescaled(&self, target: Granularity, rounding: Rounding) -> Cow<'_, Directory> {
        if target == self.granularity {
            return Cow::Borrowed(&self.directory);
        }
        let mut collector = Collector::default();
        for extent in self.extents(0, u64::MAX) {
            let (first, end) = match rounding {
                Rounding::Outward => (target.granule_of(extent.offset), target.granules(extent.end())),
                Rounding::Inward if extent.end() == self.size_bytes => {
                    (target.granules(extent.offset), target.granules(self.size_bytes))
                }
                Rounding::Inward => (target.granules(extent.offset), target.granule_of(extent.end())),
            };
            if first < end {
                collector.push(Span { first, last: end - 1 });
            }
        }
        Cow::Owned(collector.finish())
    }

    fn check_size(&self, other: &Self) -> Result<()> {
        if self.size_bytes == other.size_bytes {
            return Ok(());
        }
        let message = format!("bitmaps of disks of {} and {} bytes", self.size_bytes, other.size_bytes);
        Err(Error::new(ErrorKind::SizeMismatch, message))
    }

    fn check_same_granularity(&self, other: &Self) -> Result<()> {
        if self.granularity == other.granularity {
            return Ok(());
        }
        let (ours, theirs) = (self.granularity.bytes(), other.granularity.bytes());
        let message = format!("no rounding is safe between the granularities {ours} and {theirs} of an exclusive or");
        Err(Error::new(ErrorKind::InvalidArgument, message))
    }
}

/// Which way extents go that do not begin or end at a granule.
#[derive(Clone, Copy)]
enum Rounding {
    Outward,
    Inward,
}

/// One chunk's result, from what the two sides have of it.
type Operation = fn(Option<Cow<'_, Container>>, Option<&Container>, &mut Workspace) -> Container;

fn union(a: Option<Cow<'_, Container>>, b: Option<&Container>, workspace: &mut Workspace) -> Container {
    match (a, b) {
        (Some(Cow::Owned(mut a)), Some(b)) => {
            a.unite_with(b, workspace);
            a
        }
        (Some(Cow::Borrowed(a)), Some(b)) => Container::union_of(&[a, b], workspace),
        (Some(a), None) => a.into_owned(),
        (None, b) => b.cloned().unwrap_or_else(Container::empty),
    }
}

fn intersect(a: Option<Cow<'_, Container>>, b: Option<&Container>, _: &mut Workspace) -> Container {
    match (a, b) {
        (Some(a), Some(b)) => Container::intersect(a, b),
        _ => Container::empty(),
    }
}

fn subtract(a: Option<Cow<'_, Container>>, b: Option<&Container>, _: &mut Workspace) -> Container {
    match (a, b) {
        (Some(a), Some(b)) => Container::subtract(a, b),
        (Some(a), None) => a.into_owned(),
        (None, _) => Container::empty(),
    }
}

fn xor(a: Option<Cow<'_, Container>>, b: Option<&Container>, workspace: &mut Workspace) -> Container {
    match (a, b) {
        (Some(a), Some(b)) => Container::xor(a, b),
        (a, b) => union(a, b, workspace),
    }
}

fn apply<'a>(ours: impl Iterator<Item = Part<'a>>, theirs: &Directory, operation: Operation) -> Directory {
    let mut workspace = Workspace::new();
    let mut result = Directory::with_capacity(ours.size_hint().0.max(theirs.entries().len()));
    for (key, chunks, ours, theirs) in Pairs::new(ours, parts(theirs)) {
        result.push(key, chunks, operation(ours, theirs.as_deref(), &mut workspace));
    }
    result.shrink();
    result
}

/// What is left of an entry during a walk.
struct Part<'a> {
    key: u32,
    end: u32,
    container: Cow<'a, Container>,
}

impl From<Entry> for Part<'_> {
    fn from(entry: Entry) -> Self {
        Part { key: entry.key, end: entry.end(), container: Cow::Owned(entry.container) }
    }
}

impl<'a> From<&'a Entry> for Part<'a> {
    fn from(entry: &'a Entry) -> Self {
        Part { key: entry.key, end: entry.end(), container: Cow::Borrowed(&entry.container) }
    }
}

fn parts(directory: &Directory) -> impl Iterator<Item = Part<'_>> {
    directory.entries().iter().map(Part::from)
}

/// One side of a walk.
struct Feed<'a, I> {
    parts: I,
    head: Option<Part<'a>>,
}

impl<'a, I: Iterator<Item = Part<'a>>> Feed<'a, I> {
    fn new(mut parts: I) -> Self {
        let head = parts.next();
        Self { parts, head }
    }

    /// The first chunk at or after `position` that is held; beyond all chunks if there is none.
    fn start(&self, position: u32) -> u32 {
        self.head.as_ref().map_or(u32::MAX, |head| head.key.max(position))
    }

    /// Where what is held at `position`, or the gap there, ends.
    fn edge(&self, position: u32) -> u32 {
        match &self.head {
            Some(head) if head.key <= position => head.end,
            Some(head) => head.key,
            None => u32::MAX,
        }
    }

    /// What is held of the chunks `position..to`, which lie in one part or in one gap.
    fn take(&mut self, position: u32, to: u32) -> Option<Cow<'a, Container>> {
        let head = self.head.take_if(|head| head.key <= position)?;
        if head.end <= to {
            self.head = self.parts.next();
            return Some(head.container);
        }
        self.head = Some(head);
        Some(Cow::Owned(Container::Full))
    }
}

/// Walks two directories side by side, in stretches of chunks of which each side holds one container or nothing.
struct Pairs<'a, 'b, A, B> {
    ours: Feed<'a, A>,
    theirs: Feed<'b, B>,
    /// All chunks before this one are done.
    position: u32,
}

/// The first chunk, the number of chunks, and what each side holds of them.
type Pair<'a, 'b> = (u32, u32, Option<Cow<'a, Container>>, Option<Cow<'b, Container>>);

impl<'a, 'b, A: Iterator<Item = Part<'a>>, B: Iterator<Item = Part<'b>>> Pairs<'a, 'b, A, B> {
    fn new(ours: A, theirs: B) -> Self {
        Self { ours: Feed::new(ours), theirs: Feed::new(theirs), position: 0 }
    }
}

impl<'a, 'b, A: Iterator<Item = Part<'a>>, B: Iterator<Item = Part<'b>>> Iterator for Pairs<'a, 'b, A, B> {
    type Item = Pair<'a, 'b>;

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.ours.start(self.position).min(self.theirs.start(self.position));
        if start == u32::MAX {
            return None;
        }
        let end = self.ours.edge(start).min(self.theirs.edge(start));
        self.position = end;
        Some((start, end - start, self.ours.take(start, end), self.theirs.take(start, end)))
    }
}
