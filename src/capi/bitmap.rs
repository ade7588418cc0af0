//! Owns the bitmap as C programs see it: its life, its marking, and the questions it answers. Must never know how a bitmap
//! holds its granules.

use super::boundary::{
    Handle, OutBuffer, ask, exclusive, free, give, guard, handle_out, object, offset_or_none, shared, signed,
};
use super::values::{CHECKMAP_EXTENT_DIRTY, checkmap_extent};
use crate::bitmap::Bitmap;
use crate::error::Result;
use crate::geometry::{Extent, Granularity};
use std::ffi::c_int;

/// Which granules of a disk are dirty: one bit for each.
///
/// Offsets and lengths are bytes of the virtual disk. Calls that take it as `const` may run concurrently.
#[derive(Debug)]
pub struct checkmap_bitmap {
    #[allow(dead_code, reason = "reached through pointers to the whole")]
    handle: Handle<Bitmap>,
}

object!(checkmap_bitmap = Bitmap, b"cmBitmap", "bitmap", Bitmap::is_torn);

/// Makes a bitmap of a disk of `disk_size` bytes, all clean.
///
/// `granularity`, the bytes that one bit stands for, is a power of two from 1 to 2^31; the size is 0 to 2^63-1, and not
/// more than 2^41 granules.
///
/// Errors:
/// - `-EINVAL`: a size or a granularity out of these bounds.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_new(
    disk_size: u64,
    granularity: u64,
    out: *mut *mut checkmap_bitmap,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        out.put(give(Bitmap::new(disk_size, Granularity::from_bytes(granularity)?)?));
        Ok(0)
    })
}

/// Frees a bitmap, a poisoned one too.
///
/// NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_free(bitmap: *mut checkmap_bitmap) {
    // SAFETY: the caller's promise for `bitmap`, which it gives up.
    unsafe { free(bitmap) }
}

/// Makes a copy of a bitmap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_clone(
    bitmap: *const checkmap_bitmap,
    out: *mut *mut checkmap_bitmap,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        // SAFETY: the caller's promise for `bitmap`.
        let bitmap = unsafe { shared(bitmap) }?;
        out.put(give(bitmap.try_clone()?));
        Ok(0)
    })
}

/// Changes a bitmap.
///
/// # Safety
///
/// As every call, for a bitmap that this one has alone.
unsafe fn change(bitmap: *mut checkmap_bitmap, change: impl FnOnce(&mut Bitmap) -> Result<()>) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise is the same.
        let mut bitmap = unsafe { exclusive(bitmap) }?;
        change(&mut bitmap)?;
        Ok(0)
    })
}

/// Marks every granule that the range touches: it rounds outward.
///
/// A length of 0 does nothing, `CHECKMAP_TO_END` is up to the end of the disk. On error nothing is marked.
///
/// Errors:
/// - `-ERANGE`: the range ends past the last granule of the disk.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_set(bitmap: *mut checkmap_bitmap, offset: u64, length: u64) -> c_int {
    // SAFETY: the caller's promise for `bitmap`.
    unsafe { change(bitmap, |bitmap| bitmap.set(offset, length)) }
}

/// Makes the range clean, and never a byte outside of it.
///
/// So the offset must be a multiple of the granularity, and the end too unless it is the end of the disk. A length of 0
/// does nothing, `CHECKMAP_TO_END` is up to the end of the disk. On error nothing is cleaned.
///
/// Errors:
/// - `-EINVAL`: the offset or the end of the range is inside of a granule.
/// - `-ERANGE`: the range ends past the last granule of the disk.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_clear(bitmap: *mut checkmap_bitmap, offset: u64, length: u64) -> c_int {
    // SAFETY: the caller's promise for `bitmap`.
    unsafe { change(bitmap, |bitmap| bitmap.clear(offset, length)) }
}

/// Marks the whole disk; takes the same little time and memory for every size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_set_all(bitmap: *mut checkmap_bitmap) -> c_int {
    // SAFETY: the caller's promise for `bitmap`.
    unsafe { change(bitmap, Bitmap::set_all) }
}

/// Makes the whole disk clean.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_clear_all(bitmap: *mut checkmap_bitmap) -> c_int {
    let all = |bitmap: &mut Bitmap| {
        bitmap.clear_all();
        Ok(())
    };
    // SAFETY: the caller's promise for `bitmap`.
    unsafe { change(bitmap, all) }
}

/// Changes the size of the disk, as QEMU's truncate does.
///
/// `disk_size` is in bytes. Granules that lie wholly past the new end are dropped, new ones are clean, and a granule that
/// was partial keeps its bit, which now speaks for all of its bytes. On error nothing changes.
///
/// Errors:
/// - `-EINVAL`: a size that `checkmap_bitmap_new()` would refuse.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_resize(bitmap: *mut checkmap_bitmap, disk_size: u64) -> c_int {
    // SAFETY: the caller's promise for `bitmap`.
    unsafe { change(bitmap, |bitmap| bitmap.resize(disk_size)) }
}

/// Takes the smallest form for every part of the bitmap, and no more memory than that needs.
///
/// Marks keep the form that a part has, and room for more. What other calls return is in its smallest form already.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_optimize(bitmap: *mut checkmap_bitmap) -> c_int {
    // SAFETY: the caller's promise for `bitmap`.
    unsafe { change(bitmap, Bitmap::optimize) }
}

/// Whether the granule that holds the byte at `offset` is dirty.
///
/// Returns: 0 or 1; or a negative errno.
///
/// Errors:
/// - `-ERANGE`: an offset past the last granule of the disk.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_get(bitmap: *const checkmap_bitmap, offset: u64) -> c_int {
    // SAFETY: the caller's promise for `bitmap`.
    unsafe { ask(bitmap, |bitmap| bitmap.get(offset).map(c_int::from)) }
}

/// The size of the disk in bytes.
///
/// Returns: a number of bytes; 0 on error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_size(bitmap: *const checkmap_bitmap) -> u64 {
    // SAFETY: the caller's promise for `bitmap`.
    unsafe { ask(bitmap, |bitmap| Ok(bitmap.size_bytes())) }
}

/// The bytes that one bit stands for.
///
/// Returns: a number of bytes; 0 on error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_granularity(bitmap: *const checkmap_bitmap) -> u64 {
    // SAFETY: the caller's promise for `bitmap`.
    unsafe { ask(bitmap, |bitmap| Ok(bitmap.granularity().bytes())) }
}

/// The number of granules of the disk.
///
/// Returns: a number from 0 to 2^41; or a negative errno.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_granules(bitmap: *const checkmap_bitmap) -> i64 {
    // SAFETY: the caller's promise for `bitmap`.
    unsafe { ask(bitmap, |bitmap| Ok(signed(bitmap.granules()))) }
}

/// The number of dirty granules, which is kept at all times.
///
/// Returns: a number of granules; or a negative errno.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_count(bitmap: *const checkmap_bitmap) -> i64 {
    // SAFETY: the caller's promise for `bitmap`.
    unsafe { ask(bitmap, |bitmap| Ok(signed(bitmap.dirty_granules()))) }
}

/// The number of dirty granules that touch the range.
///
/// The range is cut at the end of the disk; `CHECKMAP_TO_END` is up to there.
///
/// Returns: a number of granules; or a negative errno.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_count_range(bitmap: *const checkmap_bitmap, offset: u64, length: u64) -> i64 {
    // SAFETY: the caller's promise for `bitmap`.
    unsafe { ask(bitmap, |bitmap| Ok(signed(bitmap.count_range(offset, length)))) }
}

/// The number of dirty bytes: the sum of all extents, never above the size of the disk.
///
/// Returns: a number of bytes; or a negative errno.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_dirty_bytes(bitmap: *const checkmap_bitmap) -> i64 {
    // SAFETY: the caller's promise for `bitmap`.
    unsafe { ask(bitmap, |bitmap| Ok(signed(bitmap.dirty_bytes()))) }
}

/// The number of dirty extents of the whole disk; counted, not walked.
///
/// Returns: a number of extents; or a negative errno.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_count_extents(bitmap: *const checkmap_bitmap) -> i64 {
    // SAFETY: the caller's promise for `bitmap`.
    unsafe { ask(bitmap, |bitmap| Ok(signed(bitmap.extent_count()))) }
}

/// Whether no granule is dirty.
///
/// Returns: 0 or 1; or a negative errno.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_is_empty(bitmap: *const checkmap_bitmap) -> c_int {
    // SAFETY: the caller's promise for `bitmap`.
    unsafe { ask(bitmap, |bitmap| Ok(c_int::from(bitmap.is_empty()))) }
}

/// The bytes that the bitmap takes on the heap.
///
/// Returns: a number of bytes; or a negative errno.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_heap_bytes(bitmap: *const checkmap_bitmap) -> i64 {
    // SAFETY: the caller's promise for `bitmap`.
    unsafe { ask(bitmap, |bitmap| Ok(super::boundary::count(bitmap.heap_bytes()))) }
}

/// Checks every rule inside of the bitmap, for tests.
///
/// Errors:
/// - `-EBADMSG`: a rule does not hold.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_validate(bitmap: *const checkmap_bitmap) -> c_int {
    // SAFETY: the caller's promise for `bitmap`.
    unsafe { ask(bitmap, |bitmap| bitmap.validate().map(|()| 0)) }
}

/// The first dirty byte of the range, which is cut at the end of the disk.
///
/// If the granule that holds `offset` is dirty, the answer is `offset` itself, as in QEMU.
///
/// Returns: an offset in bytes; -1 if there is none; or another negative errno.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_next_dirty(bitmap: *const checkmap_bitmap, offset: u64, length: u64) -> i64 {
    // SAFETY: the caller's promise for `bitmap`.
    unsafe { ask(bitmap, |bitmap| Ok(offset_or_none(bitmap.next_dirty(offset, length)))) }
}

/// The first clean byte of the range, which is cut at the end of the disk.
///
/// Returns: an offset in bytes; -1 if there is none; or another negative errno.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_next_clean(bitmap: *const checkmap_bitmap, offset: u64, length: u64) -> i64 {
    // SAFETY: the caller's promise for `bitmap`.
    unsafe { ask(bitmap, |bitmap| Ok(offset_or_none(bitmap.next_clean(offset, length)))) }
}

/// The last dirty byte of the range, which is cut at the end of the disk.
///
/// Returns: an offset in bytes; -1 if there is none; or another negative errno.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_previous_dirty(
    bitmap: *const checkmap_bitmap,
    offset: u64,
    length: u64,
) -> i64 {
    // SAFETY: the caller's promise for `bitmap`.
    unsafe { ask(bitmap, |bitmap| Ok(offset_or_none(bitmap.previous_dirty(offset, length)))) }
}

/// The last clean byte of the range, which is cut at the end of the disk.
///
/// Returns: an offset in bytes; -1 if there is none; or another negative errno.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_previous_clean(
    bitmap: *const checkmap_bitmap,
    offset: u64,
    length: u64,
) -> i64 {
    // SAFETY: the caller's promise for `bitmap`.
    unsafe { ask(bitmap, |bitmap| Ok(offset_or_none(bitmap.previous_clean(offset, length)))) }
}

/// The number of dirty granules before the one that holds the byte at `offset`; at the end of the disk and past it, all.
///
/// Returns: a number of granules; or a negative errno.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_rank(bitmap: *const checkmap_bitmap, offset: u64) -> i64 {
    // SAFETY: the caller's promise for `bitmap`.
    unsafe { ask(bitmap, |bitmap| Ok(signed(bitmap.rank(offset)))) }
}

/// Where the dirty granule of this number begins, counted from 0.
///
/// Returns: an offset in bytes; -1 if fewer granules are dirty; or another negative errno.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_select(bitmap: *const checkmap_bitmap, number: u64) -> i64 {
    // SAFETY: the caller's promise for `bitmap`.
    unsafe { ask(bitmap, |bitmap| Ok(offset_or_none(bitmap.select(number)))) }
}

/// Fills `out` with the dirty extents of the range, in ascending order.
///
/// The range is cut at the end of the disk, the extents at the edges of the range, to the byte; two of them never touch.
/// To go on, ask again from the end of the last extent.
///
/// Returns: how many extents were written; fewer than `max` is all; or a negative errno.
///
/// Errors:
/// - `-EINVAL`: a `max` of 0, or an `out` that is NULL or misaligned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_extents(
    bitmap: *const checkmap_bitmap,
    offset: u64,
    length: u64,
    out: *mut checkmap_extent,
    max: usize,
) -> i64 {
    const BATCH: usize = 64;
    guard(|| {
        // SAFETY: the caller's promise for `bitmap`.
        let bitmap = unsafe { shared(bitmap) }?;
        // SAFETY: the caller's promise for `out`, which has room for `max` extents.
        let mut room = unsafe { OutBuffer::new(out, max, "the array of extents") }?;
        let mut extents = bitmap.extents(offset, length);
        let mut batch = [Extent { offset: 0, len_bytes: 0 }; BATCH];
        while room.left() > 0 {
            let wanted = room.left().min(BATCH);
            let filled = extents.fill(&mut batch[..wanted]);
            room.fill(batch[..filled].iter().map(|&Extent { offset, len_bytes }| checkmap_extent {
                offset,
                length: len_bytes,
                flags: CHECKMAP_EXTENT_DIRTY,
                reserved: 0,
            }));
            if filled < wanted {
                break;
            }
        }
        Ok(room.count())
    })
}

#[cfg(test)]
mod tests {
    use super::super::error::{CHECKMAP_ERROR_POISONED, checkmap_last_error_kind};
    use super::*;
    use std::ptr;

    #[test]
    fn a_panic_is_an_error_and_poisons_the_handle_that_was_in_use() {
        let mut bitmap = ptr::null_mut();
        // SAFETY: a place of our own, then a handle that is ours alone until it is freed.
        unsafe {
            assert_eq!(checkmap_bitmap_new(1 << 20, 65536, &raw mut bitmap), 0);
            let status = change(bitmap, |_| panic!("on purpose"));
            assert_eq!((status, checkmap_last_error_kind()), (-libc::ENOTRECOVERABLE, CHECKMAP_ERROR_POISONED));
            assert_eq!(checkmap_bitmap_count(bitmap), -i64::from(libc::ENOTRECOVERABLE));
            assert_eq!(checkmap_bitmap_set(bitmap, 0, 1), -libc::ENOTRECOVERABLE);
            assert_eq!(checkmap_bitmap_size(bitmap), 0);
            checkmap_bitmap_free(bitmap);
        }
    }

    #[test]
    fn a_panic_while_it_is_only_read_poisons_it_too() {
        let mut bitmap = ptr::null_mut();
        // SAFETY: as above.
        unsafe {
            assert_eq!(checkmap_bitmap_new(1 << 20, 65536, &raw mut bitmap), 0);
            assert_eq!(ask(bitmap, |_| -> Result<i64> { panic!("on purpose") }), -i64::from(libc::ENOTRECOVERABLE));
            assert_eq!(checkmap_bitmap_get(bitmap, 0), -libc::ENOTRECOVERABLE);
            checkmap_bitmap_free(bitmap);
        }
    }

    #[test]
    fn an_error_does_not_poison() {
        let mut bitmap = ptr::null_mut();
        // SAFETY: as above.
        unsafe {
            assert_eq!(checkmap_bitmap_new(1 << 20, 65536, &raw mut bitmap), 0);
            let failed = |_: &mut Bitmap| Err(crate::error::Error::new(crate::error::ErrorKind::Io, "on purpose"));
            assert_eq!(change(bitmap, failed), -libc::EIO);
            assert_eq!(checkmap_bitmap_get(bitmap, 0), 0);
            checkmap_bitmap_free(bitmap);
        }
    }
}
