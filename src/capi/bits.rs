//! Owns the ways of a bitmap in and out of C as bytes: plain bits and portable Roaring. Must never know either form.

use super::bitmap::checkmap_bitmap;
use super::boundary::{Out, OutBuffer, array, count, exclusive, give, guard, handle_out, shared, signed, too_short};
use super::values::checkmap_sha256;
use crate::bitmap::Bitmap;
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::{Granularity, clip_end};
use std::ffi::c_int;

/// Refuses an offset at which no byte of bits begins.
fn check_start(bitmap: &Bitmap, offset: u64) -> Result<()> {
    bitmap.copy_bits(offset, &mut [])
}

/// How many granules a range touches that begins with a whole one.
fn granules_in(bitmap: &Bitmap, offset: u64, length: u64) -> u64 {
    let end = clip_end(offset, length, bitmap.size_bytes());
    bitmap.granularity().granules(end.saturating_sub(offset))
}

/// Writes the bits of the granules that the range touches; with `out` NULL it only tells how many bytes they take.
///
/// Bit n, in byte n/8, counted from the least significant bit, is granule n after `offset`; bits that stand for no
/// granule of the range are 0. The range is cut at the end of the disk.
///
/// Returns: how many bytes they take; or a negative errno.
///
/// Errors:
/// - `-EINVAL`: an offset that is no multiple of 8 granules.
/// - `-ERANGE`: a `cap` that is too small.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_to_bits(
    bitmap: *const checkmap_bitmap,
    offset: u64,
    length: u64,
    out: *mut u8,
    cap: usize,
) -> i64 {
    guard(|| {
        // SAFETY: the caller's promise for `bitmap`.
        let bitmap = unsafe { shared(bitmap) }?;
        check_start(&bitmap, offset)?;
        let granules = granules_in(&bitmap, offset, length);
        let need = granules.div_ceil(8);
        if out.is_null() || need == 0 {
            return Ok(signed(need));
        }
        let len = usize::try_from(need).ok().filter(|len| *len <= cap).ok_or_else(|| too_short(cap, need))?;
        // SAFETY: the caller's promise for `out`, which has `cap` bytes, and `len` is not above it.
        let mut room = unsafe { OutBuffer::new(out, len, "the buffer") }?;
        let bytes = room.bytes(len);
        bitmap.copy_bits(offset, bytes)?;
        if let (Some(last), used @ 1..) = (bytes.last_mut(), granules % 8) {
            *last &= (1 << used) - 1;
        }
        Ok(signed(need))
    })
}

/// Replaces the granules from `offset` on, as many as `bits` has bits, in the order of `checkmap_bitmap_to_bits()`.
///
/// Bits past the last granule of the disk are ignored.
///
/// Errors:
/// - `-EINVAL`: an offset that is no multiple of 8 granules.
/// - `-ERANGE`: an offset past the end of the disk.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_from_bits(
    bitmap: *mut checkmap_bitmap,
    offset: u64,
    bits: *const u8,
    len: usize,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `bitmap`.
        let mut bitmap = unsafe { exclusive(bitmap) }?;
        // SAFETY: the caller's promise for `bits`.
        let bits = unsafe { array(bits, len, "the bits") }?;
        check_start(&bitmap, offset)?;
        if offset > bitmap.size_bytes() {
            let message = format!("offset {offset} is past the end of a disk of {} bytes", bitmap.size_bytes());
            return Err(Error::new(ErrorKind::OutOfRange, message));
        }
        bitmap.replace_bits(offset, bits)?;
        Ok(0)
    })
}

/// Computes the SHA-256 of the bits, as QEMU does for x-debug-block-dirty-bitmap-sha256; zeros on error.
///
/// It is that of the bits in the order of `checkmap_bitmap_to_bits()`, in zeros up to a multiple of 8 bytes, and 8 bytes at least. Size
/// and granularity of the disk are not part of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_sha256(bitmap: *const checkmap_bitmap, out: *mut checkmap_sha256) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { Out::new(out, checkmap_sha256::default()) }?;
        // SAFETY: the caller's promise for `bitmap`.
        let bitmap = unsafe { shared(bitmap) }?;
        out.put(checkmap_sha256 { bytes: bitmap.sha256()? });
        Ok(0)
    })
}

/// Writes the bitmap as portable 64-bit Roaring, its values being granules; with `out` NULL it only tells how many bytes
/// it takes.
///
/// Size and granularity of the disk are not part of it.
///
/// Returns: how many bytes it takes; or a negative errno.
///
/// Errors:
/// - `-ERANGE`: a `cap` that is too small.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_serialize(bitmap: *const checkmap_bitmap, out: *mut u8, cap: usize) -> i64 {
    guard(|| {
        // SAFETY: the caller's promise for `bitmap`.
        let bitmap = unsafe { shared(bitmap) }?;
        let need = bitmap.serialized_len();
        if out.is_null() {
            return Ok(signed(need));
        }
        let len = usize::try_from(need).ok().filter(|len| *len <= cap).ok_or_else(|| too_short(cap, need))?;
        // SAFETY: the caller's promise for `out`, which has `cap` bytes, and `len` is not above it.
        let mut room = unsafe { OutBuffer::new(out, len, "the buffer") }?;
        let mut rest = room.bytes(len);
        bitmap.write_roaring(&mut rest).map_err(|error| Error::io("cannot write into the buffer", error))?;
        Ok(count(len - rest.len()))
    })
}

/// Reads portable 64-bit Roaring, from wherever it comes, as a bitmap of a disk of this size and granularity.
///
/// The memory taken is at most a small multiple of `len`.
///
/// Errors:
/// - `-EBADMSG`: what breaks the format, bytes left over, or a granule past the end of the disk.
/// - `-EINVAL`: a disk that `checkmap_bitmap_new()` would refuse.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_deserialize(
    bytes: *const u8,
    len: usize,
    disk_size: u64,
    granularity: u64,
    out: *mut *mut checkmap_bitmap,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        // SAFETY: the caller's promise for `bytes`.
        let bytes = unsafe { array(bytes, len, "the bytes") }?;
        out.put(give(Bitmap::from_roaring(bytes, disk_size, Granularity::from_bytes(granularity)?)?));
        Ok(0)
    })
}
