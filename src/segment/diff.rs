#![forbid(unsafe_code)]
//! Owns the comparison of two segments, byte by byte of the disk, so that their granularities need not be the same.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::extents::Extents;
use super::read::Segment;
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::{Extent, clip_end};
use std::iter::FusedIterator;

/// Which of the two segments has something dirty that the other has clean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The first one.
    A,
    /// The second one.
    B,
}

/// A range of the disk that is dirty on one side only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where it is.
    pub extent: Extent,
    /// The side on which it is dirty.
    pub dirty_in: Side,
}

/// Where `a` and `b` differ inside `offset..offset + len_bytes`, in ascending order.
///
/// Disks of different size are [`ErrorKind::SizeMismatch`]. Both segments are read as the iterator goes; after an error it
/// ends.
pub fn diff<'a>(a: &'a Segment<'a>, b: &'a Segment<'a>, offset: u64, len_bytes: u64) -> Result<Differences<'a>> {
    check_sizes(a, b)?;
    let end = clip_end(offset, len_bytes, a.size_bytes());
    let side = |segment: &'a Segment<'a>| Feed { extents: segment.extents(offset, len_bytes), head: None };
    Ok(Differences { a: side(a), b: side(b), position: offset, end, pending: None })
}

pub(super) fn check_sizes(a: &Segment<'_>, b: &Segment<'_>) -> Result<()> {
    if a.size_bytes() == b.size_bytes() {
        return Ok(());
    }
    let message = format!("segments of disks of {} and {} bytes", a.size_bytes(), b.size_bytes());
    Err(b.named(Error::new(ErrorKind::SizeMismatch, message)))
}

/// Where two segments differ, see [`diff`].
#[derive(Debug)]
pub struct Differences<'a> {
    a: Feed<'a>,
    b: Feed<'a>,
    position: u64,
    end: u64,
    pending: Option<Difference>,
}

/// The extents of one side, the first of them in hand.
#[derive(Debug)]
struct Feed<'a> {
    extents: Extents<'a>,
    head: Option<Extent>,
}

impl Feed<'_> {
    /// Whether `position` is dirty, and where that changes; goes past all that ends before it.
    fn state(&mut self, position: u64, end: u64) -> Result<(bool, u64)> {
        while self.head.is_none_or(|head| head.end() <= position) {
            self.head = self.extents.next().transpose()?;
            if self.head.is_none() {
                return Ok((false, end));
            }
        }
        Ok(match self.head {
            Some(head) if head.offset <= position => (true, head.end()),
            Some(head) => (false, head.offset),
            None => (false, end),
        })
    }
}

impl Differences<'_> {
    fn step(&mut self) -> Result<Option<Difference>> {
        while self.position < self.end {
            let (a, a_end) = self.a.state(self.position, self.end)?;
            let (b, b_end) = self.b.state(self.position, self.end)?;
            let from = std::mem::replace(&mut self.position, a_end.min(b_end));
            let extent = Extent { offset: from, len_bytes: self.position - from };
            let dirty_in = if a { Side::A } else { Side::B };
            match &mut self.pending {
                Some(before) if a != b && before.dirty_in == dirty_in && before.extent.end() == from => {
                    before.extent.len_bytes += extent.len_bytes;
                }
                _ if a != b => {
                    if let Some(ready) = self.pending.replace(Difference { extent, dirty_in }) {
                        return Ok(Some(ready));
                    }
                }
                _ => {}
            }
        }
        Ok(self.pending.take())
    }
}

impl Iterator for Differences<'_> {
    type Item = Result<Difference>;

    fn next(&mut self) -> Option<Result<Difference>> {
        let step = self.step();
        if step.is_err() {
            (self.position, self.pending) = (self.end, None);
        }
        step.transpose()
    }
}

impl FusedIterator for Differences<'_> {}
