#![forbid(unsafe_code)]
//! Owns the set operations on whole bitmaps, the rules for mixed granularities among them. Must never know what a set
//! operation is for.

use super::Bitmap;
use super::compare::is_subset;
use super::container::{Operation, View, Workspace};
use super::directory::Directory;
use super::entry::Entry;
use super::many;
use super::rescale::{self, Rounding};
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
            return Ok(is_subset(&self.directory, &other.directory)?);
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
        self.combine_with(other, Rounding::Outward, Operation::Union, 1)
    }

    /// Keeps only granules that are dirty in `other` too, once `other` is rounded outward to this bitmap's granularity.
    ///
    /// Disks of different size are [`ErrorKind::SizeMismatch`], and nothing changes.
    pub fn intersect_with(&mut self, other: &Self) -> Result<()> {
        self.intersect_with_on(other, 1)
    }

    /// [`Bitmap::intersect_with`] on `threads` threads, see [`Bitmap::union_many_with`].
    pub fn intersect_with_on(&mut self, other: &Self, threads: usize) -> Result<()> {
        self.combine_with(other, Rounding::Outward, Operation::Intersect, threads)
    }

    /// Cleans every granule of which `other` covers all bytes that the disk has; a granule covered in part stays dirty.
    ///
    /// Disks of different size are [`ErrorKind::SizeMismatch`], and nothing changes.
    pub fn subtract(&mut self, other: &Self) -> Result<()> {
        self.subtract_on(other, 1)
    }

    /// [`Bitmap::subtract`] on `threads` threads, see [`Bitmap::union_many_with`].
    pub fn subtract_on(&mut self, other: &Self, threads: usize) -> Result<()> {
        self.combine_with(other, Rounding::Inward, Operation::Subtract, threads)
    }

    /// Flips every granule that is dirty in `other`.
    ///
    /// Granularities that differ are [`ErrorKind::InvalidArgument`]: rounding `other` outward would clean granules that
    /// it covers in part, rounding it inward would leave out bytes that it has, so either could lose a dirty block.
    /// Disks of different size are [`ErrorKind::SizeMismatch`]. On error nothing changes.
    pub fn xor_with(&mut self, other: &Self) -> Result<()> {
        self.xor_with_on(other, 1)
    }

    /// [`Bitmap::xor_with`] on `threads` threads, see [`Bitmap::union_many_with`].
    pub fn xor_with_on(&mut self, other: &Self, threads: usize) -> Result<()> {
        self.check_same_granularity(other)?;
        self.combine_with(other, Rounding::Outward, Operation::Xor, threads)
    }

    /// The granules dirty in either, at the finer of the two granularities.
    ///
    /// Disks of different size are [`ErrorKind::SizeMismatch`].
    pub fn union(&self, other: &Self) -> Result<Self> {
        if other.granularity < self.granularity {
            return other.union(self);
        }
        self.combine(other, Rounding::Outward, Operation::Union, 1)
    }

    /// The granules dirty in both, at this bitmap's granularity, see [`Bitmap::intersect_with`].
    pub fn intersection(&self, other: &Self) -> Result<Self> {
        self.intersection_on(other, 1)
    }

    /// [`Bitmap::intersection`] on `threads` threads, see [`Bitmap::union_many_with`].
    pub fn intersection_on(&self, other: &Self, threads: usize) -> Result<Self> {
        self.combine(other, Rounding::Outward, Operation::Intersect, threads)
    }

    /// The granules dirty here and not wholly covered by `other`, at this bitmap's granularity, see [`Bitmap::subtract`].
    pub fn difference(&self, other: &Self) -> Result<Self> {
        self.difference_on(other, 1)
    }

    /// [`Bitmap::difference`] on `threads` threads, see [`Bitmap::union_many_with`].
    pub fn difference_on(&self, other: &Self, threads: usize) -> Result<Self> {
        self.combine(other, Rounding::Inward, Operation::Subtract, threads)
    }

    /// The granules dirty in one of the two only; both must have one granularity, see [`Bitmap::xor_with`].
    pub fn symmetric_difference(&self, other: &Self) -> Result<Self> {
        self.symmetric_difference_on(other, 1)
    }

    /// [`Bitmap::symmetric_difference`] on `threads` threads, see [`Bitmap::union_many_with`].
    pub fn symmetric_difference_on(&self, other: &Self, threads: usize) -> Result<Self> {
        self.check_same_granularity(other)?;
        self.combine(other, Rounding::Outward, Operation::Xor, threads)
    }

    /// The granules of the disk that are clean here, and no others.
    pub fn complement(&self) -> Result<Self> {
        let mut all = Self::new(self.size_bytes, self.granularity)?;
        all.set_all()?;
        all.difference(self)
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

    fn combine_with(&mut self, other: &Self, rounding: Rounding, operation: Operation, threads: usize) -> Result<()> {
        self.check_size(other)?;
        let other = other.rescaled(self.granularity, rounding)?;
        let other: &Directory = other.borrow();
        let (ours, theirs) = (self.directory.entries().len(), other.entries().len());
        let is_few = theirs <= FEW_CHUNKS.min(ours / FEW_OF_MANY);
        let few_are_apart = match operation {
            Operation::Union | Operation::Subtract => true,
            Operation::Xor => other.entries().iter().all(|entry| !entry.is_full()),
            Operation::Intersect => false,
        };
        if is_few && few_are_apart {
            self.directory.combine_few(operation, other)?;
        } else if !self.directory.combine_in_place(operation, other)? {
            self.directory = apply(&self.directory, other, operation, threads)?;
        }
        Ok(())
    }

    fn combine(&self, other: &Self, rounding: Rounding, operation: Operation, threads: usize) -> Result<Self> {
        self.check_size(other)?;
        let other = other.rescaled(self.granularity, rounding)?;
        Ok(Self { directory: apply(&self.directory, other.borrow(), operation, threads)?, ..*self })
    }

    /// The directory of this bitmap at `target`, at which the disk must have no more than 2^41 granules.
    fn rescaled(&self, target: Granularity, rounding: Rounding) -> Result<Rescaled<'_>> {
        if target == self.granularity {
            return Ok(Rescaled::Same(&self.directory));
        }
        Ok(Rescaled::Made(match target.bits().checked_sub(self.granularity.bits()) {
            Some(shift) => rescale::coarser(&self.directory, shift, rounding, self.granules())?,
            None => {
                let shift = self.granularity.bits() - target.bits();
                rescale::finer(&self.directory, shift, target.granules(self.size_bytes))?
            }
        }))
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

/// Up to this many chunks, if the other side has many times as many, are added one by one instead of building all anew.
const FEW_CHUNKS: usize = 256;
const FEW_OF_MANY: usize = 16;

/// On `threads` threads if there is enough to do; 0 and 1 are the caller's.
fn apply(ours: &Directory, theirs: &Directory, operation: Operation, threads: usize) -> memory::Result<Directory> {
    many::in_parts(&[ours, theirs], threads, |from, to| apply_within(ours, theirs, operation, from, to))
}

/// The chunks `from..to`.
fn apply_within(
    ours: &Directory,
    theirs: &Directory,
    operation: Operation,
    from: u32,
    to: u32,
) -> memory::Result<Directory> {
    let mut workspace = Workspace::new();
    let held = |side: &Directory| match side.within(from, to) {
        all if all.len() == side.entries().len() => (all.len(), side.bytes()),
        some => (some.len(), some.iter().map(Entry::bytes).sum::<usize>()),
    };
    let ((chunks, bytes), (others, other_bytes)) = (held(ours), held(theirs));
    let mut result = match operation {
        Operation::Union | Operation::Xor => {
            Directory::with_capacity(chunks + others, chunks.max(others), bytes + other_bytes)?
        }
        Operation::Subtract => Directory::with_capacity(chunks, chunks, bytes)?,
        Operation::Intersect => {
            let fewest = chunks.min(others);
            Directory::with_capacity(fewest, fewest, bytes.min(other_bytes))?
        }
    };
    // A merge begins in the middle of both lists too. Lists that are read from front to end the CPU fetches by itself.
    let is_merge = matches!(operation, Operation::Union | Operation::Xor);
    let mut pairs = Pairs::within(ours, theirs, from, to);
    while let Some(Pair { key, chunks, ours: a, theirs: b }) = pairs.next() {
        if is_merge {
            pairs.ours.rest.first().inspect(|next| ours.prefetch(next));
            pairs.theirs.rest.first().inspect(|next| theirs.prefetch(next));
        }
        match (a, b) {
            (Some(a), Some(b)) if !a.is_full() && !b.is_full() => match (ours.view(a), theirs.view(b)) {
                (View::Words(words), other @ View::Words(_)) => {
                    result.push_combined(key, operation, words, other, &mut workspace)?;
                }
                (view, other) => {
                    let made = workspace.combine(operation, view, other)?;
                    result.push(key, made.measure, made.view)?;
                }
            },
            (Some(a), Some(b)) => match (operation, a.is_full(), b.is_full()) {
                (Operation::Union, ..) | (Operation::Intersect, true, true) => result.push_full(key, chunks)?,
                (Operation::Intersect, true, _) => result.push_entry(theirs, b, &mut workspace)?,
                (Operation::Intersect, false, _) => result.push_entry(ours, a, &mut workspace)?,
                (Operation::Subtract, _, true) | (Operation::Xor, true, true) => {}
                (_, is_ours, _) => {
                    let other = if is_ours { theirs.view(b) } else { ours.view(a) };
                    let made = workspace.complement(other)?;
                    result.push(key, made.measure, made.view)?;
                }
            },
            (a, b) => {
                let alone = match operation {
                    Operation::Union | Operation::Xor => a.map(|a| (ours, a)).or(b.map(|b| (theirs, b))),
                    Operation::Subtract => a.map(|a| (ours, a)),
                    Operation::Intersect => None,
                };
                match alone {
                    Some((_, entry)) if entry.is_full() => result.push_full(key, chunks)?,
                    Some((source, entry)) => result.push_entry(source, entry, &mut workspace)?,
                    None => {}
                }
            }
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
pub(super) struct Pairs<'a, 'b> {
    ours: Feed<'a>,
    theirs: Feed<'b>,
    /// All chunks before this one are done.
    position: u32,
    /// No chunk from here on is looked at.
    to: u32,
}

/// The chunks of one stretch, and which entry of each side they are part of.
pub(super) struct Pair<'a, 'b> {
    key: u32,
    chunks: u32,
    pub(super) ours: Option<&'a Entry>,
    pub(super) theirs: Option<&'b Entry>,
}

impl<'a, 'b> Pairs<'a, 'b> {
    pub(super) fn new(ours: &'a Directory, theirs: &'b Directory) -> Self {
        Self::within(ours, theirs, 0, u32::MAX)
    }

    /// The chunks `from..to`.
    fn within(ours: &'a Directory, theirs: &'b Directory, from: u32, to: u32) -> Self {
        let (ours, theirs) = (Feed { rest: ours.within(from, to) }, Feed { rest: theirs.within(from, to) });
        Self { ours, theirs, position: from, to }
    }
}

impl<'a, 'b> Iterator for Pairs<'a, 'b> {
    type Item = Pair<'a, 'b>;

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.ours.start(self.position).min(self.theirs.start(self.position));
        if key >= self.to {
            return None;
        }
        let end = self.ours.edge(key).min(self.theirs.edge(key)).min(self.to);
        self.position = end;
        Some(Pair { key, chunks: end - key, ours: self.ours.take(key, end), theirs: self.theirs.take(key, end) })
    }
}
