#![forbid(unsafe_code)]
//! A [`Bitmap`] says which blocks of a disk are dirty: compressed, so that one of a disk of any size fits into memory.
//!
//! ```
//! use checkmap::{Bitmap, Granularity};
//!
//! let granularity = Granularity::from_bytes(65536)?;
//! let (mut monday, mut tuesday) = (Bitmap::new(1 << 40, granularity)?, Bitmap::new(1 << 40, granularity)?);
//! monday.set(0, 1)?;
//! tuesday.set(1 << 39, 100_000)?;
//! let both = monday.union(&tuesday)?;
//! assert_eq!(both.extents(0, u64::MAX).map(|extent| extent.len_bytes).sum::<u64>(), 3 * 65536);
//! # Ok::<(), checkmap::Error>(())
//! ```
//!
//! The granules are cut into chunks of 65536. A sorted directory holds the chunks that have dirty granules, each in the
//! smallest of several forms; consecutive full chunks are one entry. So an all-dirty disk of any size takes a few bytes,
//! and the work of most calls is that of the chunks they touch.

// Owns the bitmap with its construction, its marking and its own consistency. Must never know where a bitmap is stored, what
// it is named, or which checkpoint it belongs to.

mod arena;
mod bits;
pub(crate) mod chunks;
mod collector;
mod compare;
mod container;
mod differences;
mod directory;
mod entries;
mod entry;
mod in_place;
mod iter;
mod many;
mod ops;
mod range;
mod rescale;
mod roaring;
mod search;
mod span;

pub use differences::Comparison;
pub use iter::Extents;

use crate::error::{Error, ErrorKind, Result};
use crate::geometry::{Granularity, check_disk, clip_end};
use directory::Directory;
use span::{Span, split};
use std::fmt;

/// One bit for each granule of a disk: dirty or clean.
///
/// Offsets and lengths are bytes of the virtual disk. Marking rounds outward to granules, clearing refuses to round, and
/// answers are cut at the disk's end, to the byte. Two bitmaps are equal if they have the same size, the same granularity
/// and the same dirty granules.
///
/// ```
/// use checkmap::{Bitmap, Granularity};
///
/// let mut bitmap = Bitmap::new(10 << 30, Granularity::from_bytes(65536)?)?;
/// bitmap.set(1_000_000, 1)?;
/// assert!(bitmap.get(1_000_000)?);
/// assert_eq!(bitmap.dirty_bytes(), 65536);
/// assert_eq!(bitmap.next_dirty(0, u64::MAX), Some(983_040));
/// # Ok::<(), checkmap::Error>(())
/// ```
pub struct Bitmap {
    size_bytes: u64,
    granularity: Granularity,
    directory: Directory,
}

impl Bitmap {
    /// A bitmap of a disk of `size_bytes` bytes, all clean.
    ///
    /// The size is 0..=2^63-1; a disk of 0 bytes has no granules. More than 2^41 granules, or a larger disk, are
    /// [`ErrorKind::InvalidArgument`].
    pub fn new(size_bytes: u64, granularity: Granularity) -> Result<Self> {
        check_disk(size_bytes, granularity)?;
        Ok(Self { size_bytes, granularity, directory: Directory::default() })
    }

    /// The size of the disk in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The bytes that one granule stands for.
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// The number of granules, 0..=2^41; the last one may reach past the disk's end.
    pub fn granules(&self) -> u64 {
        self.granularity.granules(self.size_bytes)
    }

    /// Marks every granule that `offset..offset + len_bytes` touches.
    ///
    /// A length of 0 does nothing, wherever it is. A length of `u64::MAX` is "to the end", where an `offset` of exactly
    /// the disk's size does nothing. Any other range must end inside the last granule, though it may end past the disk:
    /// else [`ErrorKind::OutOfRange`], and nothing is marked.
    pub fn set(&mut self, offset: u64, len_bytes: u64) -> Result<()> {
        if let Some((offset, end)) = self.checked_range(offset, len_bytes)? {
            let (first, last) = (self.granularity.granule_of(offset), self.granularity.granule_of(end - 1));
            self.directory.set_span(Span { first, last })?;
        }
        Ok(())
    }

    /// Makes `offset..offset + len_bytes` clean, without ever cleaning a byte outside of it.
    ///
    /// So `offset` must be a multiple of the granularity, and `len_bytes` too unless the range ends exactly at the disk's
    /// end: else [`ErrorKind::InvalidArgument`]. The range may also end where the last granule does; past that it is
    /// [`ErrorKind::OutOfRange`]. On error nothing is cleaned. A length of 0 does nothing, `u64::MAX` is "to the end".
    pub fn clear(&mut self, offset: u64, len_bytes: u64) -> Result<()> {
        let Some((offset, end)) = self.checked_range(offset, len_bytes)? else { return Ok(()) };
        let granule = self.granularity.bytes();
        if !offset.is_multiple_of(granule) || !(end.is_multiple_of(granule) || end == self.size_bytes) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("clearing {offset}..{end} would clean bytes outside of it: the granularity is {granule}"),
            ));
        }
        let (first, last) = (self.granularity.granule_of(offset), self.granularity.granule_of(end - 1));
        self.directory.clear_span(Span { first, last })?;
        Ok(())
    }

    /// Cleans every granule that `offset..offset + len_bytes` does not touch. The range is cut at the disk's end;
    /// `u64::MAX` is "to the end".
    ///
    /// Without memory for it, [`ErrorKind::OutOfMemory`], some of these granules may be clean already, and no other.
    pub fn keep(&mut self, offset: u64, len_bytes: u64) -> Result<()> {
        let end = clip_end(offset, len_bytes, self.size_bytes);
        if end <= offset {
            self.clear_all();
            return Ok(());
        }
        let (first, last) = (self.granularity.granule_of(offset), self.granularity.granule_of(end - 1));
        if let Some(before) = first.checked_sub(1) {
            self.directory.clear_span(Span { first: 0, last: before })?;
        }
        if last + 1 < self.granules() {
            self.directory.clear_span(Span { first: last + 1, last: self.granules() - 1 })?;
        }
        Ok(())
    }

    /// Marks the whole disk; takes the same little time and memory for every size.
    pub fn set_all(&mut self) -> Result<()> {
        let mut directory = Directory::default();
        if let Some(last) = self.granules().checked_sub(1) {
            directory.set_span(Span { first: 0, last })?;
        }
        self.directory = directory;
        Ok(())
    }

    /// Makes the whole disk clean.
    pub fn clear_all(&mut self) {
        self.directory = Directory::default();
    }

    /// Whether no granule is dirty.
    pub fn is_empty(&self) -> bool {
        self.directory.ones() == 0
    }

    /// Whether the granule that holds the byte at `offset` is dirty.
    ///
    /// An `offset` past the last granule is [`ErrorKind::OutOfRange`].
    pub fn get(&self, offset: u64) -> Result<bool> {
        let granule = self.granularity.granule_of(offset);
        if granule >= self.granules() {
            return Err(self.out_of_range(offset, None));
        }
        let (key, bit) = split(granule);
        Ok(self.directory.find(key).is_some_and(|entry| self.directory.view(entry).contains(bit)))
    }

    /// Changes the size of the disk to `size_bytes`, as QEMU does.
    ///
    /// Granules that lie wholly past the new end are dropped. New granules are clean: the caller that grows a disk decides whether
    /// the new area counts as changed. A granule that was partial keeps its bit, which now speaks for all of its bytes.
    /// A size that [`Bitmap::new`] would refuse is [`ErrorKind::InvalidArgument`], and nothing changes.
    pub fn resize(&mut self, size_bytes: u64) -> Result<()> {
        check_disk(size_bytes, self.granularity)?;
        let (before, granules) = (self.granules(), self.granularity.granules(size_bytes));
        if granules < before {
            self.directory.clear_span(Span { first: granules, last: before - 1 })?;
        }
        self.size_bytes = size_bytes;
        Ok(())
    }

    /// Takes the smallest form for every part of the bitmap, and no more memory than that needs.
    ///
    /// Single marks keep the form that a part has, as long as it can hold them, and room for more. What other calls
    /// return is in its smallest form already; if it is changed afterwards, the memory of the parts that were changed or
    /// cleared is given back by this call, or with the last of them.
    pub fn optimize(&mut self) -> Result<()> {
        Ok(self.directory.optimize()?)
    }

    /// A copy; where there is no memory for one this is [`ErrorKind::OutOfMemory`], while `clone` ends the process then, as
    /// everything in the standard library does.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self { directory: self.directory.try_clone()?, ..*self })
    }

    /// Whether a fork caught another thread while it did what the last change had left to who reads first: then nobody can
    /// do it in this child, and every call that needs it would panic.
    #[cfg(feature = "capi")]
    pub(crate) fn is_torn(&self) -> bool {
        self.directory.is_torn()
    }

    /// The bytes that this bitmap takes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.directory.heap_bytes()
    }

    /// Checks every internal rule, for tests and fuzzers: a rule that does not hold is [`ErrorKind::Damaged`].
    pub fn validate(&self) -> Result<()> {
        check_disk(self.size_bytes, self.granularity)?;
        let damaged =
            |key: u32, what: &str| Error::new(ErrorKind::Damaged, what).at(format!("bitmap chunk {key}"), None);
        self.directory.validate().map_err(|(key, what)| damaged(key, what))?;
        match self.directory.last() {
            Some(last) if last >= self.granules() => {
                Err(damaged(split(last).0, "a granule past the disk's end is dirty"))
            }
            _ => Ok(()),
        }
    }

    /// The range as `(offset, end)`, or `None` where it is empty; its last byte is inside the last granule.
    fn checked_range(&self, offset: u64, len_bytes: u64) -> Result<Option<(u64, u64)>> {
        if len_bytes == 0 {
            return Ok(None);
        }
        if len_bytes == u64::MAX {
            return match offset {
                offset if offset < self.size_bytes => Ok(Some((offset, self.size_bytes))),
                offset if offset == self.size_bytes => Ok(None),
                _ => Err(self.out_of_range(offset, None)),
            };
        }
        match offset.checked_add(len_bytes) {
            Some(end) if self.granularity.granule_of(end - 1) < self.granules() => Ok(Some((offset, end))),
            _ => Err(self.out_of_range(offset, Some(len_bytes))),
        }
    }

    fn out_of_range(&self, offset: u64, len_bytes: Option<u64>) -> Error {
        let what = len_bytes.map_or(format!("offset {offset}"), |len| format!("{len} bytes at offset {offset}"));
        let (size, granule) = (self.size_bytes, self.granularity.bytes());
        Error::new(
            ErrorKind::OutOfRange,
            format!("{what} reach past the last granule of a disk of {size} bytes, granularity {granule}"),
        )
    }
}

impl Clone for Bitmap {
    fn clone(&self) -> Self {
        let directory = self.directory.try_clone().unwrap_or_else(|failed| failed.abort());
        Self { directory, ..*self }
    }
}

impl PartialEq for Bitmap {
    fn eq(&self, other: &Self) -> bool {
        (self.size_bytes, self.granularity) == (other.size_bytes, other.granularity)
            && compare::is_same(&self.directory, &other.directory)
    }
}

impl Eq for Bitmap {}

impl fmt::Debug for Bitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bitmap")
            .field("size_bytes", &self.size_bytes)
            .field("granularity", &self.granularity.bytes())
            .field("dirty_granules", &self.dirty_granules())
            .finish()
    }
}
