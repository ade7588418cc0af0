#![forbid(unsafe_code)]
//! Owns the checksum that stands in segments: CRC-32C. Must never know the meaning of the bytes.

use crate::kernels::select;

/// The CRC-32C (Castagnoli) of `bytes`.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    (select().crc32c)(bytes)
}
