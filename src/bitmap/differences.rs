#![forbid(unsafe_code)]
//! Owns the comparison of two bitmaps: byte by byte of the disk, and by a hash of their bits. Must never know where either came from.

use super::Bitmap;
use crate::error::Result;
use crate::geometry::Extent;
#[cfg(feature = "sha256")]
use sha2::{Digest, Sha256};

/// The bytes that are dirty in one of two bitmaps of a disk alone, see [`Bitmap::compare`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Comparison {
    /// The bytes that are dirty in the first bitmap alone.
    pub only_in_first_bytes: u64,
    /// The bytes that are dirty in the second bitmap alone.
    pub only_in_second_bytes: u64,
    /// The first range that is dirty in one of them alone.
    pub first_difference: Option<Extent>,
}

impl Comparison {
    /// Whether the same bytes of the disk are dirty in both.
    pub fn is_equal(&self) -> bool {
        self.first_difference.is_none()
    }
}

impl Bitmap {
    /// Compares the bytes of the disk that are dirty, so that the granularities need not be the same.
    ///
    /// Disks of different size are [`ErrorKind::SizeMismatch`](crate::ErrorKind::SizeMismatch).
    ///
    /// ```
    /// use checkmap::{Bitmap, Granularity};
    ///
    /// let mut fine = Bitmap::new(1 << 30, Granularity::from_bytes(4096)?)?;
    /// let mut coarse = Bitmap::new(1 << 30, Granularity::from_bytes(65536)?)?;
    /// fine.set(65536, 65536)?;
    /// coarse.set(65536, 1)?;
    /// assert!(fine.compare(&coarse)?.is_equal());
    /// coarse.set(0, 1)?;
    /// assert_eq!(fine.compare(&coarse)?.only_in_second_bytes, 65536);
    /// # Ok::<(), checkmap::Error>(())
    /// ```
    pub fn compare(&self, other: &Self) -> Result<Comparison> {
        self.check_size(other)?;
        let mut comparison = Comparison::default();
        if self == other {
            return Ok(comparison);
        }
        let (mut ours, mut theirs) = (Feed::of(self), Feed::of(other));
        let mut position = 0;
        while position < self.size_bytes {
            let (our_state, our_end) = ours.state(position, self.size_bytes);
            let (their_state, their_end) = theirs.state(position, self.size_bytes);
            let end = our_end.min(their_end);
            if our_state != their_state {
                let extent = Extent { offset: position, len_bytes: end - position };
                comparison.add(extent, our_state);
            }
            position = end;
        }
        Ok(comparison)
    }

    /// The SHA-256 of the bits, as QEMU computes it for `x-debug-block-dirty-bitmap-sha256`: bit n is granule n, in byte n/8, counted
    /// from the least significant bit, in zeros up to a multiple of 8 bytes, and 8 bytes at least.
    ///
    /// Two bitmaps of one size and granularity are equal if their hashes are. The size and the granularity are not part of it.
    #[cfg(feature = "sha256")]
    pub fn sha256(&self) -> Result<[u8; 32]> {
        let mut left = self.granules().div_ceil(64).max(1) * 8;
        let (mut hash, mut piece, mut granule) = (Sha256::new(), [0; 1 << 14], 0);
        while left > 0 {
            let len = left.min(piece.len() as u64);
            #[allow(clippy::cast_possible_truncation, reason = "no more than the piece has")]
            let bytes = piece.split_at_mut(len as usize).0;
            match granule < self.granules() {
                true => self.copy_bits(granule << self.granularity.bits(), bytes)?,
                false => bytes.fill(0),
            }
            hash.update(&*bytes);
            (granule, left) = (granule + len * 8, left - len);
        }
        Ok(hash.finalize().into())
    }
}

impl Comparison {
    fn add(&mut self, extent: Extent, in_first: bool) {
        let sum = if in_first { &mut self.only_in_first_bytes } else { &mut self.only_in_second_bytes };
        *sum += extent.len_bytes;
        match &mut self.first_difference {
            // What ends where another begins is one range, whichever side it is dirty on.
            Some(first) if first.end() == extent.offset => first.len_bytes += extent.len_bytes,
            Some(_) => {}
            first => *first = Some(extent),
        }
    }
}

/// The extents of one bitmap, the first of them in hand.
struct Feed<'a> {
    extents: super::Extents<'a>,
    head: Option<Extent>,
}

impl<'a> Feed<'a> {
    fn of(bitmap: &'a Bitmap) -> Self {
        let mut extents = bitmap.extents(0, u64::MAX);
        let head = extents.next();
        Self { extents, head }
    }

    /// Whether `position` is dirty, and where that changes; goes past all that ends before it.
    fn state(&mut self, position: u64, end: u64) -> (bool, u64) {
        while self.head.is_some_and(|head| head.end() <= position) {
            self.head = self.extents.next();
        }
        match self.head {
            Some(head) if head.offset <= position => (true, head.end()),
            Some(head) => (false, head.offset),
            None => (false, end),
        }
    }
}
