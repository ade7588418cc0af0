#![forbid(unsafe_code)]
//! Owns the set operations on whole bitmaps, the rules for mixed granularities among them. Must never know what a set
//! operation is for.

use super::Bitmap;
use super::collector::Collector;
use super::container::{Container, Packer, View, Workspace};
use super::directory::Directory;
use super::entry::Entry;
use super::many;
use super::span::Span;
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::{Granularity, check_disk};
use crate::memory;
use std::borrow::Borrow;

impl Bitmap {
    /// Whether every dirty byte of this bitmap is dirty in `other`, exactly, at whatever granularities.
    ///
    /// Disks of different size are [`ErrorKind::SizeMismatch`].
    pub fn is_subset(&self, other: &Self) -> Result<bool> {
        self.check_size(other)?;
        if self.granularity == other.granularity {
            let mut pairs = Pairs::new(&self.directory, &other.directory);
            return Ok(pairs.all(|pair| match (pair.ours, pair.theirs) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(ours), Some(theirs)) => self.directory.view(ours).is_subset(other.directory.view(theirs)),
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
        self.combine_with(other, Rounding::Outward, Operation::Union)
    }

    /// Keeps only granules that are dirty in `other` too, once `other` is rounded outward to this bitmap's granularity.
    ///
    /// Disks of different size are [`ErrorKind::SizeMismatch`], and nothing changes.
    pub fn intersect_with(&mut self, other: &Self) -> Result<()> {
        self.combine_with(other, Rounding::Outward, Operation::Intersect)
    }

    /// Cleans every granule of which `other` covers all bytes that the disk has; a granule covered in part stays dirty.
    ///
    /// Disks of different size are [`ErrorKind::SizeMismatch`], and nothing changes.
    pub fn subtract(&mut self, other: &Self) -> Result<()> {
        self.combine_with(other, Rounding::Inward, Operation::Subtract)
    }

    /// Flips every granule that is dirty in `other`.
    ///
    /// Granularities that differ are [`ErrorKind::InvalidArgument`]: rounding `other` outward would clean granules that
    /// it covers in part, rounding it inward would leave out bytes that it has, so either could lose a dirty block.
    /// Disks of different size are [`ErrorKind::SizeMismatch`]. On error nothing changes.
    pub fn xor_with(&mut self, other: &Self) -> Result<()> {
        self.check_same_granularity(other)?;
        self.combine_with(other, Rounding::Outward, Operation::Xor)
    }

    /// The granules dirty in either, at the finer of the two granularities.
    ///
    /// Disks of different size are [`ErrorKind::SizeMismatch`].
    pub fn union(&self, other: &Self) -> Result<Self> {
        if other.granularity < self.granularity {
            return other.union(self);
        }
        self.combine(other, Rounding::Outward, Operation::Union)
    }

    /// The granules dirty in both, at this bitmap's granularity, see [`Bitmap::intersect_with`].
    pub fn intersection(&self, other: &Self) -> Result<Self> {
        self.combine(other, Rounding::Outward, Operation::Intersect)
    }

    /// The granules dirty here and not wholly covered by `other`, at this bitmap's granularity, see [`Bitmap::subtract`].
    pub fn difference(&self, other: &Self) -> Result<Self> {
        self.combine(other, Rounding::Inward, Operation::Subtract)
    }

    /// The granules dirty in one of the two only; both must have one granularity, see [`Bitmap::xor_with`].
    pub fn symmetric_difference(&self, other: &Self) -> Result<Self> {
        self.check_same_granularity(other)?;
        self.combine(other, Rounding::Outward, Operation::Xor)
    }

    /// The granules dirty in any of `bitmaps`, at `granularity` or else at the finest of theirs, rounded outward.
    ///
    /// All are read in one pass, however many they are. No bitmap, or a granularity at which the disk has more than 2^41
    /// granules, is [`ErrorKind::InvalidArgument`]; disks of different size are [`ErrorKind::SizeMismatch`].
    pub fn union_many(bitmaps: &[&Self], granularity: Option<Granularity>) -> Result<Self> {
        Self::union_many_with(bitmaps, granularity, 1)
    }

    /// [`Bitmap::union_many`] on `threads` threads: 0 and 1 are the caller's thread, on which small unions stay anyway.
    ///
    /// The threads are started for this call and have ended when it returns.
    pub fn union_many_with(bitmaps: &[&Self], granularity: Option<Granularity>, threads: usize) -> Result<Self> {
        let Some(finest) = bitmaps.iter().map(|bitmap| bitmap.granularity).min() else {
            return Err(Error::new(ErrorKind::InvalidArgument, "there is no bitmap to unite"));
        };
        let target = granularity.unwrap_or(finest);
        let mut result = Self::new(bitmaps[0].size_bytes, target)?;
        bitmaps.iter().try_for_each(|bitmap| result.check_size(bitmap))?;
        let mut sources = memory::room(bitmaps.len())?;
        for bitmap in bitmaps {
            sources.push(bitmap.rescaled(target, Rounding::Outward)?);
        }
        result.directory = many::unite(&memory::gather(sources.iter().map(Rescaled::borrow))?, threads)?;
        Ok(result)
    }

    /// This bitmap at another granularity, rounded outward: every dirty byte stays dirty.
    ///
    /// Going coarser and back gives a superset, not the original. A granularity at which the disk has more than 2^41
    /// granules is [`ErrorKind::InvalidArgument`].
    pub fn to_granularity(&self, granularity: Granularity) -> Result<Self> {
        check_disk(self.size_bytes, granularity)?;
        let directory = match self.rescaled(granularity, Rounding::Outward)? {
            Rescaled::Same(directory) => directory.try_clone()?,
            Rescaled::Made(directory) => directory,
        };
        Ok(Self { size_bytes: self.size_bytes, granularity, directory })
    }

    fn combine_with(&mut self, other: &Self, rounding: Rounding, operation: Operation) -> Result<()> {
        self.check_size(other)?;
        let other = other.rescaled(self.granularity, rounding)?;
        let other: &Directory = other.borrow();
        let (ours, theirs) = (self.directory.entries().len(), other.entries().len());
        let is_union = matches!(operation, Operation::Union);
        if is_union && theirs <= FEW_CHUNKS.min(ours / FEW_OF_MANY) {
            self.directory.unite_few(other)?;
        } else if !(is_union && self.directory.unite_in_place(other)?) {
            self.directory = apply(&self.directory, other, operation)?;
        }
        Ok(())
    }

    fn combine(&self, other: &Self, rounding: Rounding, operation: Operation) -> Result<Self> {
        self.check_size(other)?;
        let other = other.rescaled(self.granularity, rounding)?;
        Ok(Self { directory: apply(&self.directory, other.borrow(), operation)?, ..*self })
    }

    /// The directory of this bitmap at `target`, at which the disk must have no more than 2^41 granules.
    fn rescaled(&self, target: Granularity, rounding: Rounding) -> Result<Rescaled<'_>> {
        if target == self.granularity {
            return Ok(Rescaled::Same(&self.directory));
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
                collector.push(Span { first, last: end - 1 })?;
            }
        }
        Ok(Rescaled::Made(collector.finish()?))
    }

    pub(super) fn check_size(&self, other: &Self) -> Result<()> {
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

/// A directory at the granularity that is asked for.
enum Rescaled<'a> {
    Same(&'a Directory),
    Made(Directory),
}

impl Borrow<Directory> for Rescaled<'_> {
    fn borrow(&self) -> &Directory {
        match self {
            Self::Same(directory) => directory,
            Self::Made(directory) => directory,
        }
    }
}

/// Which way extents go that do not begin or end at a granule.
#[derive(Clone, Copy)]
enum Rounding {
    Outward,
    Inward,
}

#[derive(Clone, Copy)]
enum Operation {
    Union,
    Intersect,
    Subtract,
    Xor,
}

/// Up to this many chunks, if the other side has many times as many, are added one by one instead of building all anew.
const FEW_CHUNKS: usize = 256;
const FEW_OF_MANY: usize = 16;

fn apply(ours: &Directory, theirs: &Directory, operation: Operation) -> memory::Result<Directory> {
    let (mut workspace, mut packer) = (Workspace::new(), Packer::new());
    let (keeps_ours, keeps_theirs) = match operation {
        Operation::Union | Operation::Xor => (true, true),
        Operation::Subtract => (true, false),
        Operation::Intersect => (false, false),
    };
    let mut result = match operation {
        Operation::Union | Operation::Xor => {
            let (chunks, others) = (ours.entries().len(), theirs.entries().len());
            Directory::with_capacity(chunks + others, chunks.max(others), ours.bytes() + theirs.bytes())?
        }
        Operation::Subtract | Operation::Intersect => {
            Directory::with_capacity(ours.entries().len(), ours.entries().len(), ours.bytes())?
        }
    };
    for Pair { key, chunks, ours: a, theirs: b } in Pairs::new(ours, theirs) {
        let (source, entry, is_kept) = match (a, b) {
            (Some(a), Some(b)) => {
                let (a, b) = (ours.view(a), theirs.view(b));
                if matches!((a, b), (View::Full, View::Full)) {
                    if matches!(operation, Operation::Union | Operation::Intersect) {
                        result.push_full(key, chunks)?;
                    }
                    continue;
                }
                let container = match operation {
                    Operation::Union => {
                        let made = workspace.unite(&[a, b])?;
                        result.push(key, made.measure, made.view)?;
                        continue;
                    }
                    Operation::Intersect => Container::intersect(a, b)?,
                    Operation::Subtract => Container::subtract(a, b)?,
                    Operation::Xor => Container::xor(a, b)?,
                };
                result.push(key, container.measure(), packer.pack(container.view())?)?;
                continue;
            }
            (Some(a), None) => (ours, a, keeps_ours),
            (None, Some(b)) => (theirs, b, keeps_theirs),
            (None, None) => continue,
        };
        if is_kept && entry.is_full() {
            result.push_full(key, chunks)?;
        } else if is_kept {
            result.push_entry(source, entry)?;
        }
    }
    result.shrink();
    Ok(result)
}

/// One side of a walk.
struct Feed<'a> {
    rest: &'a [Entry],
}

impl<'a> Feed<'a> {
    /// The first chunk at or after `position` that is held; beyond all chunks if there is none.
    fn start(&self, position: u32) -> u32 {
        self.rest.first().map_or(u32::MAX, |head| head.key.max(position))
    }

    /// The end of the run at `position`, or of the gap there.
    fn edge(&self, position: u32) -> u32 {
        match self.rest.first() {
            Some(head) if head.key <= position => head.end(),
            Some(head) => head.key,
            None => u32::MAX,
        }
    }

    /// What holds the chunks `position..to`, which lie in one entry or in one gap.
    fn take(&mut self, position: u32, to: u32) -> Option<&'a Entry> {
        let (head, rest) = self.rest.split_first()?;
        if head.key > position {
            return None;
        }
        if head.end() <= to {
            self.rest = rest;
        }
        Some(head)
    }
}

/// Walks two directories side by side, in stretches of chunks of which each side holds one container or nothing.
struct Pairs<'a, 'b> {
    ours: Feed<'a>,
    theirs: Feed<'b>,
    /// All chunks before this one are done.
    position: u32,
}

/// The chunks of one stretch, and which entry of each side they are part of.
struct Pair<'a, 'b> {
    key: u32,
    chunks: u32,
    ours: Option<&'a Entry>,
    theirs: Option<&'b Entry>,
}

impl<'a, 'b> Pairs<'a, 'b> {
    fn new(ours: &'a Directory, theirs: &'b Directory) -> Self {
        Self { ours: Feed { rest: ours.entries() }, theirs: Feed { rest: theirs.entries() }, position: 0 }
    }
}

impl<'a, 'b> Iterator for Pairs<'a, 'b> {
    type Item = Pair<'a, 'b>;

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.ours.start(self.position).min(self.theirs.start(self.position));
        if key == u32::MAX {
            return None;
        }
        let end = self.ours.edge(key).min(self.theirs.edge(key));
        self.position = end;
        Some(Pair { key, chunks: end - key, ours: self.ours.take(key, end), theirs: self.theirs.take(key, end) })
    }
}
