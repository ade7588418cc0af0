//! Owns the bitmaps of an image as they are stored, as C programs see them: for programs with an order of their own in
//! the names. Must never know the meaning of the names.

use super::bitmap::checkmap_bitmap;
use super::boundary::{Out, OutBuffer, count, exclusive, give, guard, handle_out, shared, signed};
use super::checkpoint::{change, conclude};
use super::image::{OpenImage, checkmap_image, name};
use super::many::several_names;
use super::options::{CHECKMAP_OPT_DRY_RUN, CHECKMAP_OPT_FOREIGN_TOO, Options, checkmap_opts};
use super::values::{
    CHECKMAP_CHECKPOINT_INCONSISTENT, CHECKMAP_CHECKPOINT_RECORDING, CHECKMAP_CHECKPOINT_UNUSABLE, checkmap_sha256,
    checkmap_stored, checkmap_summary,
};
use crate::chain::{BitmapState, Name};
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::memory;
use crate::progress::Unobserved;
use std::ffi::{c_char, c_int};
use std::sync::Arc;

/// Fills `out` with the bitmaps in the order of the image, `max` at most; with `out` NULL it only counts.
///
/// Returns: how many bitmaps there are in all; or a negative errno.
///
/// Ownership: the names live until a call that changes the image succeeds, or its end, and may be passed to that call.
///
/// Errors:
/// - `-EBADMSG`: the directory of the bitmaps is damaged.
/// - `-ENOTSUP`: the image needs something of its format that is unknown.
/// - `-ESTALE`: the image changed under a handle that holds no locks.
/// - what the system says, such as `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_stored_list(
    image: *const checkmap_image,
    out: *mut checkmap_stored,
    max: usize,
) -> i64 {
    guard(|| {
        // SAFETY: the caller's promise for `image`.
        let open = unsafe { shared(image) }?;
        let bitmaps = list(&open)?;
        if out.is_null() {
            return Ok(count(bitmaps.len()));
        }
        // SAFETY: the caller's promise for `out`, which has room for `max` bitmaps.
        let mut room = unsafe { OutBuffer::new(out, max, "the array of bitmaps") }?;
        let flag = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
        for state in bitmaps.iter().take(room.left()) {
            room.push(checkmap_stored {
                name: state.name.as_bytes().as_ptr().cast(),
                name_len: state.name.as_bytes().len(),
                granularity: state.granularity.bytes(),
                flags: flag(state.recording, CHECKMAP_CHECKPOINT_RECORDING)
                    | flag(state.inconsistent, CHECKMAP_CHECKPOINT_INCONSISTENT)
                    | flag(state.unusable, CHECKMAP_CHECKPOINT_UNUSABLE),
                reserved: 0,
                reserved2: [0; 4],
            });
        }
        Ok(count(bitmaps.len()))
    })
}

/// The bitmaps, kept in the handle for as long as C may hold pointers to their names.
fn list(open: &OpenImage) -> Result<Arc<Vec<BitmapState>>> {
    let image = open.fresh()?;
    open.lent().bitmaps(|| image.states())
}

/// Reads a stored bitmap; outside of the granules that the window touches it is clean.
///
/// `CHECKMAP_TO_END` as a length is up to the end of the disk.
///
/// Errors:
/// - `-ENOENT`: no bitmap has this name.
/// - `-EUCLEAN`: the bitmap is inconsistent, or software that knows nothing of bitmaps wrote to the image.
/// - `-ENOTSUP`: the bitmap is of an unknown type.
/// - `-EBADMSG`: the bitmap is damaged.
/// - `-EINVAL`: a name that cannot be.
/// - `-ENAMETOOLONG`: a name that is longer than the format allows.
/// - `-ESTALE`: the image changed under a handle that holds no locks.
/// - what the system says, such as `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_stored_read(
    image: *const checkmap_image,
    name: *const c_char,
    len: usize,
    offset: u64,
    length: u64,
    out: *mut *mut checkmap_bitmap,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        // SAFETY: the caller's promise for `image`.
        let open = unsafe { shared(image) }?;
        // SAFETY: the caller's promise for `name`.
        let name = unsafe { self::name(name, len) }?;
        out.put(give(open.image.read_bitmap(&Name::new(name), offset, length)?));
        Ok(0)
    })
}

/// Tells what a stored bitmap amounts to; what cannot be known is -1, and so is everything on error.
///
/// Errors:
/// - `-ENOENT`: no bitmap has this name.
/// - `-EBADMSG`: the bitmap is damaged.
/// - `-EINVAL`: a name that cannot be.
/// - `-ENAMETOOLONG`: a name that is longer than the format allows.
/// - `-ESTALE`: the image changed under a handle that holds no locks.
/// - what the system says, such as `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_stored_summarize(
    image: *const checkmap_image,
    name: *const c_char,
    len: usize,
    out: *mut checkmap_summary,
) -> c_int {
    guard(|| {
        let unknown = checkmap_summary { dirty_bytes: -1, dirty_extents: -1, stored_bytes: -1, reserved: 0 };
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { Out::new(out, unknown) }?;
        // SAFETY: the caller's promise for `image`.
        let open = unsafe { shared(image) }?;
        // SAFETY: the caller's promise for `name`.
        let name = unsafe { self::name(name, len) }?;
        let summary = open.image.summarize(&Name::new(name))?;
        let number = |number: Option<u64>| number.map_or(-1, signed);
        out.put(checkmap_summary {
            dirty_bytes: number(summary.dirty_bytes),
            dirty_extents: number(summary.dirty_extents),
            stored_bytes: number(summary.stored_bytes),
            reserved: 0,
        });
        Ok(0)
    })
}

/// Tells the SHA-256 of a stored bitmap, see `checkmap_bitmap_sha256()`; zeros on error.
///
/// Of a disk of a running hypervisor, the hypervisor computes it, and no bit is moved: two calls prove a copy or a migration.
///
/// Errors:
/// - as `checkmap_stored_read()`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_stored_sha256(
    image: *const checkmap_image,
    name: *const c_char,
    len: usize,
    out: *mut checkmap_sha256,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { Out::new(out, checkmap_sha256::default()) }?;
        // SAFETY: the caller's promise for `image`.
        let open = unsafe { shared(image) }?;
        // SAFETY: the caller's promise for `name`.
        let name = unsafe { self::name(name, len) }?;
        out.put(checkmap_sha256 { bytes: open.image.sha256(&Name::new(name), &mut Unobserved)? });
        Ok(0)
    })
}

/// Makes the stored bitmap into the union of itself and `n` others, in one atomic step; the others stay.
///
/// `names` and `lens` have `n` elements each.
///
/// Options: `progress`, `DRY_RUN`.
///
/// Errors:
/// - `-ECANCELED`: the call was stopped, and nothing has changed.
/// - as `checkmap_checkpoint_delete()`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_stored_merge(
    image: *mut checkmap_image,
    names: *const *const c_char,
    lens: *const usize,
    n: usize,
    into: *const c_char,
    into_len: usize,
    opts: *const checkmap_opts,
) -> c_int {
    let plan = |image: &Image, _: &Options| {
        // SAFETY: the caller's promise for `names` and `lens`, of `n` elements each.
        let copied = unsafe { several_names(names, lens, n) }?;
        if copied.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "there is no bitmap to merge"));
        }
        let sources: Vec<&[u8]> = memory::gather(copied.iter().map(Vec::as_slice))?;
        // SAFETY: the caller's promise for `into`.
        image.plan_merge(&sources, &unsafe { self::name(into, into_len) }?)
    };
    // SAFETY: the caller's promise for `image` and `opts`.
    unsafe { change(image, opts, plan) }
}

/// Drops one stored bitmap, in one atomic step, whatever it belongs to and in whatever state it is.
///
/// Nothing absorbs what it recorded: a checkpoint that loses its bitmap leaves a gap.
///
/// Options: `progress`, `DRY_RUN`.
///
/// Errors:
/// - `-ENOENT`: no bitmap has this name.
/// - `-ECANCELED`: the call was stopped, and nothing has changed.
/// - as `checkmap_checkpoint_create()` without `-EEXIST`, `-EPROTO`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_stored_drop(
    image: *mut checkmap_image,
    name: *const c_char,
    len: usize,
    opts: *const checkmap_opts,
) -> c_int {
    let plan = |image: &Image, _: &Options| {
        // SAFETY: the caller's promise for `name`.
        image.plan_drop_bitmap(&unsafe { self::name(name, len) }?)
    };
    // SAFETY: the caller's promise for `image` and `opts`.
    unsafe { change(image, opts, plan) }
}

/// Drops all bitmaps with their directory, in one atomic step, damaged or not: also where damage in it keeps QEMU from
/// opening the image.
///
/// Losses, and room that cannot be reclaimed, are told by `checkmap_image_warning()`. Without bitmaps nothing
/// happens.
///
/// Options: `progress`, `DRY_RUN`, `FOREIGN_TOO`.
///
/// Errors:
/// - `-EEXIST`: bitmaps that belong to no checkpoint would go too, and FOREIGN_TOO was not asked for.
/// - `-ECANCELED`: the call was stopped, and nothing has changed.
/// - as `checkmap_checkpoint_create()` without `-EEXIST`, `-EINVAL`, `-ENAMETOOLONG`, `-EPROTO`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_stored_drop_all(image: *mut checkmap_image, opts: *const checkmap_opts) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `opts`.
        let mut options = unsafe { Options::read(opts) }?;
        // SAFETY: the caller's promise for `image`.
        let mut open = unsafe { exclusive(image) }?;
        open.lent().begin_change();
        let foreign_too = options.has(CHECKMAP_OPT_FOREIGN_TOO);
        let loss = open.image.loss_of_all().map_err(Error::nothing_changed)?;
        if options.has(CHECKMAP_OPT_DRY_RUN) {
            let warnings = open.image.rehearse_drop_all(foreign_too, &mut options)?;
            open.lent().warn(&loss.warnings);
            open.lent().warn(&warnings);
            return Ok(0);
        }
        let before = open.image.states().map_err(Error::nothing_changed)?;
        let dropped = open.image.drop_all(foreign_too, &mut options);
        conclude(&open, &before, &loss.warnings, dropped)
    })
}
