#![forbid(unsafe_code)]
//! The measures of a disk: its size in bytes, the [`Granularity`] of a bitmap, and [`Extent`]s of bytes.

// Owns the conversion between bytes and granules with every overflow rule. Knows nothing of bitmaps.

use crate::error::{Error, ErrorKind, Result};
use std::fmt;

/// The largest disk, in bytes: offsets must fit a signed 64-bit integer, as in QEMU.
pub const MAX_DISK_BYTES: u64 = i64::MAX as u64;

/// The most granules a bitmap may have, as in QEMU on 64-bit hosts.
pub const MAX_GRANULES: u64 = 1 << 41;

/// The number of bytes that one bit of a bitmap stands for: a power of two from 1 to 2^31.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Granularity {
    bits: u8,
}

impl Granularity {
    /// The granularity of 2^`bits` bytes; `bits` is 0..=31.
    pub fn from_bits(bits: u32) -> Result<Self> {
        match u8::try_from(bits) {
            Ok(bits @ 0..=31) => Ok(Self { bits }),
            _ => Err(Error::new(ErrorKind::InvalidArgument, format!("granularity 2^{bits} is above 2^31 bytes"))),
        }
    }

    /// The granularity of `bytes` bytes: a power of two from 1 to 2^31.
    pub fn from_bytes(bytes: u64) -> Result<Self> {
        if !bytes.is_power_of_two() {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("granularity {bytes} is not a power of two, such as 65536"),
            ));
        }
        Self::from_bits(bytes.trailing_zeros())
    }

    /// The base-two logarithm.
    pub const fn bits(self) -> u32 {
        self.bits as u32
    }

    /// The bytes that one granule covers.
    pub const fn bytes(self) -> u64 {
        1 << self.bits
    }

    /// The granules that a disk of `size_bytes` has: the last one may be partial.
    pub const fn granules(self, size_bytes: u64) -> u64 {
        size_bytes.div_ceil(self.bytes())
    }

    /// The index of the granule that holds the byte at `offset`.
    pub const fn granule_of(self, offset: u64) -> u64 {
        offset >> self.bits
    }
}

impl fmt::Debug for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Granularity({})", self.bytes())
    }
}

/// Refuses a disk that is too large, or that has too many granules.
pub fn check_disk(size_bytes: u64, granularity: Granularity) -> Result<()> {
    if size_bytes > MAX_DISK_BYTES {
        return Err(Error::new(ErrorKind::InvalidArgument, format!("disk size {size_bytes} is above 2^63-1 bytes")));
    }
    if granularity.granules(size_bytes) > MAX_GRANULES {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("{size_bytes} bytes at granularity {} are more than 2^41 granules", granularity.bytes()),
        )
        .advise("use a larger granularity"));
    }
    Ok(())
}

/// The end of the range that begins at `offset`, cut at the disk's end; any length up to `u64::MAX` is "to the end".
pub fn clip_end(offset: u64, len_bytes: u64, size_bytes: u64) -> u64 {
    offset.saturating_add(len_bytes).min(size_bytes)
}

/// A range of bytes of the virtual disk.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// The first byte.
    pub offset: u64,
    /// The number of bytes; never 0 in an extent that this crate returns.
    pub len_bytes: u64,
}

impl Extent {
    /// The first byte after the extent.
    pub const fn end(self) -> u64 {
        self.offset + self.len_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn granularity_is_a_power_of_two_up_to_two_gib() {
        for bits in 0..=31 {
            assert_eq!(Granularity::from_bytes(1 << bits).unwrap().bits(), bits);
        }
        for bytes in [0, 3, 65535, 1 << 32, u64::MAX] {
            assert_eq!(Granularity::from_bytes(bytes).unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
    }

    #[test]
    fn the_limits_of_a_disk() {
        let byte = Granularity::from_bytes(1).unwrap();
        assert!(check_disk(1 << 41, byte).is_ok());
        assert!(check_disk((1 << 41) + 1, byte).is_err());
        let large = Granularity::from_bytes(1 << 31).unwrap();
        assert!(check_disk(MAX_DISK_BYTES, large).is_ok());
        assert!(check_disk(MAX_DISK_BYTES + 1, large).is_err());
        assert_eq!(large.granules(MAX_DISK_BYTES), 1 << 32);
    }

    #[test]
    fn a_length_to_the_end_does_not_overflow() {
        assert_eq!(clip_end(10, u64::MAX, 100), 100);
        assert_eq!(clip_end(u64::MAX, u64::MAX, 100), 100);
        assert_eq!(clip_end(10, 5, 100), 15);
    }
}
