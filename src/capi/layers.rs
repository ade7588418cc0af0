//! Owns the way of checkpoints into a layer below, as C programs see it. Must never know which bitmaps that takes.

use super::boundary::{exclusive, guard, shared};
use super::checkpoint::conclude;
use super::image::checkmap_image;
use super::options::{CHECKMAP_OPT_DRY_RUN, Options, checkmap_opts, invalid};
use crate::error::Error;
use std::ffi::c_int;
use std::ptr;

/// Lets `base`, a layer below `top`, take in the checkpoints and the bits of `top` and of all layers between them, in one
/// atomic step of that file: afterwards every diff of `base` contains that of `top`.
///
/// It is called before or after the data of the layers are committed there, and can be called again: bits are only added. `base`
/// was opened for reading and writing, `top` may be open for reading. The layers above `base` are not changed. On every error
/// but the one of kind `CHECKMAP_ERROR_COMMIT_IN_DOUBT` nothing changed.
///
/// Options: `progress`, `DRY_RUN`.
///
/// Errors:
/// - `-EINVAL`: both are the same image.
/// - `-EUCLEAN`: a bitmap of a layer is inconsistent, `base` is marked dirty or corrupt, or software that knows nothing of
///   bitmaps wrote to it.
/// - `-EPROTO`: `base` is no layer below `top`, a layer cannot be read, the checkpoints are cumulative, or the names would form no
///   chain.
/// - `-ECANCELED`: the call was stopped, and nothing has changed.
/// - as `checkmap_checkpoint_create()` without `-EEXIST`, `-EINVAL`, `-EUCLEAN`, `-EPROTO`, `-EREMOTEIO`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_commit_bitmaps(
    top: *const checkmap_image,
    base: *mut checkmap_image,
    opts: *const checkmap_opts,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `opts`.
        let mut options = unsafe { Options::read(opts) }?;
        if ptr::eq(top, base.cast_const()) {
            return Err(invalid("the top layer and the base are one image".into()));
        }
        // SAFETY: the caller's promise for both, which are two handles.
        let (top, mut base) = unsafe { (shared(top)?, exclusive(base)?) };
        base.lent().begin_change();
        if options.has(CHECKMAP_OPT_DRY_RUN) {
            let committed = top.image.rehearse_commit_bitmaps(&base.image, &mut options)?;
            base.lent().warn(&committed.warnings);
            return Ok(0);
        }
        let before = base.image.states().map_err(Error::nothing_changed)?;
        let committed = top.image.commit_bitmaps(&mut base.image, &mut options);
        conclude(&base, &before, &[], committed.map(|committed| committed.warnings))
    })
}
