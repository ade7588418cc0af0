//! Owns the set operations on two or many bitmaps, as C programs ask for them. Must never know how they are computed.

use super::bitmap::checkmap_bitmap;
use super::boundary::{exclusive, give, guard, handle_out, handles, shared};
use super::options::{Options, checkmap_opts};
use crate::bitmap::Bitmap;
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::Granularity;
use crate::memory;
use crate::progress::{Observer, Step};
use std::ffi::c_int;
use std::ptr;

const PHASE: &str = "uniting bitmaps";
const COMBINING: &str = "combining bitmaps";

/// Unites bitmaps, and tells the observer before and after: in between there is nothing to stop.
fn unite(bitmaps: &[&Bitmap], granularity: Option<Granularity>, options: &mut Options) -> Result<Bitmap> {
    let total = bitmaps.len() as u64;
    if options.step(Step { phase: PHASE, done: 0, total }).is_break() {
        return Err(Error::new(ErrorKind::Cancelled, "stopped as asked").nothing_changed());
    }
    let united = Bitmap::union_many_with(bitmaps, granularity, options.threads)?;
    if options.step(Step { phase: PHASE, done: total, total }).is_break() {
        return Err(Error::new(ErrorKind::Cancelled, "stopped as asked").nothing_changed());
    }
    Ok(united)
}

/// Unites `src` into `dst`.
///
/// # Safety
///
/// As every call.
unsafe fn union(
    dst: *mut checkmap_bitmap,
    src: *const *const checkmap_bitmap,
    n: usize,
    opts: *const checkmap_opts,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `opts`.
        let mut options = unsafe { Options::read(opts) }?;
        let united = {
            // SAFETY: the caller's promise for `dst`, which is only read so far, since it may be among the sources.
            let target = unsafe { shared(dst.cast_const()) }?;
            // SAFETY: the caller's promise for `src` and the handles in it.
            let sources = unsafe { handles(src, n, "the array of bitmaps") }?;
            if sources.is_empty() {
                return Ok(0);
            }
            let all = std::iter::once(&*target).chain(sources.iter().map(|source| &**source));
            let all: Vec<&Bitmap> = memory::gather(all)?;
            unite(&all, Some(target.granularity()), &mut options)?
        };
        // SAFETY: the caller's promise for `dst`; the references above are gone.
        *unsafe { exclusive(dst) }? = united;
        Ok(0)
    })
}

/// Makes `dst` the union of itself and the `n` bitmaps of `src`, at its own granularity, rounded outward.
///
/// `dst` may be among the sources. With `n` 0 nothing happens. On error nothing changes.
///
/// Errors:
/// - `-EINVAL`: disks of different size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_union(
    dst: *mut checkmap_bitmap,
    src: *const *const checkmap_bitmap,
    n: usize,
) -> c_int {
    // SAFETY: the caller's promise for all three.
    unsafe { union(dst, src, n, ptr::null()) }
}

/// `checkmap_bitmap_union()` with options.
///
/// Options: `threads`, `progress`.
///
/// Errors:
/// - `-ECANCELED`: the call was stopped, and nothing has changed.
/// - as `checkmap_bitmap_union()`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_union_with(
    dst: *mut checkmap_bitmap,
    src: *const *const checkmap_bitmap,
    n: usize,
    opts: *const checkmap_opts,
) -> c_int {
    // SAFETY: the caller's promise for all of them.
    unsafe { union(dst, src, n, opts) }
}

/// Makes a new bitmap of all that is dirty in any of the `n` bitmaps of `src`, at `granularity`, rounded outward.
///
/// A `granularity` of 0 is the finest of theirs. All are read in one pass, however many they are.
///
/// Errors:
/// - `-EINVAL`: disks of different size, an `n` of 0, or a granularity at which the disk has more than 2^41 granules.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_union_new(
    src: *const *const checkmap_bitmap,
    n: usize,
    granularity: u64,
    out: *mut *mut checkmap_bitmap,
) -> c_int {
    // SAFETY: the caller's promise for all of them.
    unsafe { checkmap_bitmap_union_new_with(src, n, granularity, ptr::null(), out) }
}

/// `checkmap_bitmap_union_new()` with options.
///
/// Options: `threads`, `progress`.
///
/// Errors:
/// - `-ECANCELED`: the call was stopped.
/// - as `checkmap_bitmap_union_new()`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_union_new_with(
    src: *const *const checkmap_bitmap,
    n: usize,
    granularity: u64,
    opts: *const checkmap_opts,
    out: *mut *mut checkmap_bitmap,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        // SAFETY: the caller's promise for `opts`.
        let mut options = unsafe { Options::read(opts) }?;
        // SAFETY: the caller's promise for `src` and the handles in it.
        let sources = unsafe { handles(src, n, "the array of bitmaps") }?;
        let sources: Vec<&Bitmap> = memory::gather(sources.iter().map(|source| &**source))?;
        let granularity = if granularity == 0 { None } else { Some(Granularity::from_bytes(granularity)?) };
        out.put(give(unite(&sources, granularity, &mut options)?));
        Ok(0)
    })
}

/// Changes `dst` by `src`; where both are the same bitmap, `alone` does it.
///
/// # Safety
///
/// As every call.
unsafe fn combine(
    dst: *mut checkmap_bitmap,
    src: *const checkmap_bitmap,
    opts: *const checkmap_opts,
    both: impl FnOnce(&mut Bitmap, &Bitmap, usize) -> Result<()>,
    alone: impl FnOnce(&mut Bitmap),
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `opts`.
        let mut options = unsafe { Options::read(opts) }?;
        if options.step(Step { phase: COMBINING, done: 0, total: 1 }).is_break() {
            return Err(Error::new(ErrorKind::Cancelled, "stopped as asked").nothing_changed());
        }
        if ptr::eq(dst, src) {
            // SAFETY: the caller's promise for `dst`.
            alone(&mut *unsafe { exclusive(dst) }?);
            return Ok(0);
        }
        // SAFETY: the caller's promise for `dst`.
        let mut target = unsafe { exclusive(dst) }?;
        // SAFETY: the caller's promise for `src`, which is another bitmap.
        let source = unsafe { shared(src) }?;
        both(&mut target, &source, options.threads)?;
        // It is done, so an observer that would stop it now comes too late.
        let _ = options.step(Step { phase: COMBINING, done: 1, total: 1 });
        Ok(0)
    })
}

/// Keeps in `dst` only granules that are dirty in `src` too; a coarser or finer `src` rounds outward.
///
/// On error nothing changes.
///
/// Errors:
/// - `-EINVAL`: disks of different size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_intersect(dst: *mut checkmap_bitmap, src: *const checkmap_bitmap) -> c_int {
    // SAFETY: the caller's promise for both.
    unsafe { checkmap_bitmap_intersect_with(dst, src, ptr::null()) }
}

/// `checkmap_bitmap_intersect()` with options.
///
/// Options: `threads`, `progress`.
///
/// Errors:
/// - `-ECANCELED`: the call was stopped, and nothing has changed.
/// - as `checkmap_bitmap_intersect()`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_intersect_with(
    dst: *mut checkmap_bitmap,
    src: *const checkmap_bitmap,
    opts: *const checkmap_opts,
) -> c_int {
    // SAFETY: the caller's promise for all three.
    unsafe { combine(dst, src, opts, Bitmap::intersect_with_on, |_| ()) }
}

/// Removes from `dst` the granules that are dirty in `src`; a granule goes only where `src` covers all of it.
///
/// On error nothing changes.
///
/// Errors:
/// - `-EINVAL`: disks of different size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_subtract(dst: *mut checkmap_bitmap, src: *const checkmap_bitmap) -> c_int {
    // SAFETY: the caller's promise for both.
    unsafe { checkmap_bitmap_subtract_with(dst, src, ptr::null()) }
}

/// `checkmap_bitmap_subtract()` with options.
///
/// Options: `threads`, `progress`.
///
/// Errors:
/// - `-ECANCELED`: the call was stopped, and nothing has changed.
/// - as `checkmap_bitmap_subtract()`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_subtract_with(
    dst: *mut checkmap_bitmap,
    src: *const checkmap_bitmap,
    opts: *const checkmap_opts,
) -> c_int {
    // SAFETY: the caller's promise for all three.
    unsafe { combine(dst, src, opts, Bitmap::subtract_on, Bitmap::clear_all) }
}

/// Leaves in `dst` the granules that are dirty in one of the two only.
///
/// On error nothing changes.
///
/// Errors:
/// - `-EINVAL`: disks of different size, or bitmaps of different granularity.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_xor(dst: *mut checkmap_bitmap, src: *const checkmap_bitmap) -> c_int {
    // SAFETY: the caller's promise for both.
    unsafe { checkmap_bitmap_xor_with(dst, src, ptr::null()) }
}

/// `checkmap_bitmap_xor()` with options.
///
/// Options: `threads`, `progress`.
///
/// Errors:
/// - `-ECANCELED`: the call was stopped, and nothing has changed.
/// - as `checkmap_bitmap_xor()`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_xor_with(
    dst: *mut checkmap_bitmap,
    src: *const checkmap_bitmap,
    opts: *const checkmap_opts,
) -> c_int {
    // SAFETY: the caller's promise for all three.
    unsafe { combine(dst, src, opts, Bitmap::xor_with_on, Bitmap::clear_all) }
}

/// Makes the clean granules of the disk dirty, and the dirty ones clean.
///
/// On error nothing changes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_complement(bitmap: *mut checkmap_bitmap) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `bitmap`.
        let mut bitmap = unsafe { exclusive(bitmap) }?;
        *bitmap = bitmap.complement()?;
        Ok(0)
    })
}

/// Whether two bitmaps have the same size, the same granularity and the same dirty granules.
///
/// Returns: 0 or 1; or a negative errno.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_equal(a: *const checkmap_bitmap, b: *const checkmap_bitmap) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for both, which may be the same one.
        let (a, b) = unsafe { (shared(a)?, shared(b)?) };
        Ok(c_int::from(*a == *b))
    })
}

/// Whether every dirty byte of `a` is dirty in `b`.
///
/// Returns: 0 or 1; or a negative errno.
///
/// Errors:
/// - `-EINVAL`: disks of different size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_is_subset(a: *const checkmap_bitmap, b: *const checkmap_bitmap) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for both, which may be the same one.
        let (a, b) = unsafe { (shared(a)?, shared(b)?) };
        a.is_subset(&b).map(c_int::from)
    })
}

/// Makes a bitmap of another granularity, rounded outward: every dirty byte stays dirty.
///
/// Going coarser and back gives more than there was.
///
/// Errors:
/// - `-EINVAL`: no power of two from 1 to 2^31, or a granularity at which the disk has more than 2^41 granules.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_bitmap_to_granularity(
    bitmap: *const checkmap_bitmap,
    granularity: u64,
    out: *mut *mut checkmap_bitmap,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        // SAFETY: the caller's promise for `bitmap`.
        let bitmap = unsafe { shared(bitmap) }?;
        out.put(give(bitmap.to_granularity(Granularity::from_bytes(granularity)?)?));
        Ok(0)
    })
}
