//! Owns the change of several images in one step, as C programs see it. Must never know how their hosts make it one.

use super::boundary::{Exclusive, array, exclusives, guard};
use super::checkpoint::{conclude, plan_creation};
use super::image::{OpenImage, checkmap_image, name};
use super::options::{CHECKMAP_OPT_DRY_RUN, CHECKMAP_OPT_FORCE_INCONSISTENT, Options, checkmap_opts};
use crate::chain::Plan;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Group, Image};
use crate::memory;
use std::ffi::{c_char, c_int};

/// Plans a change of images and carries it out on all of them in one step, or rehearses it.
///
/// # Safety
///
/// As every call, for images that this one has alone.
unsafe fn change_many(
    images: *const *mut checkmap_image,
    n: usize,
    opts: *const checkmap_opts,
    plan: impl Fn(&Image, &Options) -> Result<Plan>,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `opts`.
        let mut options = unsafe { Options::read(opts) }?;
        // SAFETY: the caller's promise for `images`, of `n` handles, and for each of them.
        let mut open = unsafe { exclusives(images, n, "the array of images") }?;
        for image in &open {
            image.lent().begin_change();
        }
        let mut before = memory::room(open.len())?;
        for image in &open {
            image.image.survey(&mut options).map_err(Error::nothing_changed)?;
            before.push(image.image.states().map_err(Error::nothing_changed)?);
        }
        let is_dry = options.has(CHECKMAP_OPT_DRY_RUN);
        let (plans, done) = {
            let mut group = Group::new(open.iter_mut().map(inside)).map_err(Error::nothing_changed)?;
            let plans = group.plan(|image| plan(image, &options)).map_err(Error::nothing_changed)?;
            let done = match is_dry {
                true => group.rehearse(&plans, &mut options),
                false => group.commit(&plans, &mut options),
            };
            (plans, done)
        };
        for (image, plan) in open.iter().zip(&plans) {
            image.lent().warn(plan.risks());
        }
        if is_dry {
            for ((image, plan), warnings) in open.iter().zip(&plans).zip(done?) {
                let mut lent = image.lent();
                lent.warn(plan.warnings());
                lent.warn(&warnings);
            }
            return Ok(0);
        }
        let (mut said, failed) = match done {
            Ok(said) => (said.into_iter(), None),
            Err(error) => (Vec::new().into_iter(), Some(error)),
        };
        for ((image, before), plan) in open.iter().zip(&before).zip(&plans) {
            let of_image = failed.clone().map_or_else(|| Ok(said.next().unwrap_or_default()), Err);
            // An error is that of all images; the others still have to know of it.
            let _ = conclude(image, before, plan.warnings(), of_image);
        }
        failed.map_or(Ok(0), Err)
    })
}

fn inside<'a>(open: &'a mut Exclusive<'_, OpenImage>) -> &'a mut Image {
    &mut open.image
}

/// Creates a checkpoint of the same moment on `n` images, in one atomic step: on all of them, or on none.
///
/// The images are disks of one machine, see `checkmap_machine_image()`; a single one may be of any kind. Name and granularity
/// are those of `checkmap_checkpoint_create()`. On every error but the one of kind `CHECKMAP_ERROR_COMMIT_IN_DOUBT` no image has
/// changed; the message names the image. After that one all of them hold the state before, or all the state after.
///
/// Options: `progress`, `model`, `DRY_RUN`.
///
/// Errors:
/// - `-EINVAL`: no image, the same one twice, a name or a granularity that cannot be.
/// - `-ENOTSUP`: the images cannot change in one step, or one cannot take it: a limit of its format, a version without
///   bitmaps.
/// - `-ECANCELED`: the call was stopped, and nothing has changed.
/// - as `checkmap_checkpoint_create()` without `-EINVAL`, `-ENOTSUP`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_checkpoint_create_many(
    images: *const *mut checkmap_image,
    n: usize,
    name: *const c_char,
    len: usize,
    granularity: u64,
    opts: *const checkmap_opts,
) -> c_int {
    // SAFETY: the caller's promise for `name`.
    let plan = |image: &Image, options: &Options| unsafe { plan_creation(image, options, name, len, granularity) };
    // SAFETY: the caller's promise for `images` and `opts`.
    unsafe { change_many(images, n, opts, plan) }
}

/// Deletes checkpoints on `n` images, in one atomic step: on all of them, or on none.
///
/// `names` and `lens` have `count` elements each; the images are as those of `checkmap_checkpoint_create_many()`. Each image has
/// all of these checkpoints. On every error but the one of kind `CHECKMAP_ERROR_COMMIT_IN_DOUBT` no image has changed; the message
/// names the image. In a running hypervisor the bitmaps are merged inside of it, which stops every disk of the machine:
/// `max_stall_ms` of `checkmap_qmp_opts` limits that.
///
/// Options: `progress`, `model`, `TOP_LAYER_ONLY`, `FORCE_INCONSISTENT`, `DRY_RUN`.
///
/// Errors:
/// - `-EINVAL`: no image, the same one twice, no name, or one that cannot be.
/// - `-ENOTSUP`: the images cannot change in one step, or one cannot take it: a limit of its format, a version without
///   bitmaps.
/// - `-ECANCELED`: the call was stopped, and nothing has changed.
/// - as `checkmap_checkpoint_delete()` without `-EINVAL`, `-ENOTSUP`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_checkpoint_delete_many(
    images: *const *mut checkmap_image,
    n: usize,
    names: *const *const c_char,
    lens: *const usize,
    count: usize,
    opts: *const checkmap_opts,
) -> c_int {
    let plan = |image: &Image, options: &Options| {
        // SAFETY: the caller's promise for `names` and `lens`, of `count` elements each.
        let names = unsafe { several_names(names, lens, count) }?;
        let checkpoints: Vec<&[u8]> = memory::gather(names.iter().map(Vec::as_slice))?;
        if checkpoints.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "there is no checkpoint to delete"));
        }
        let force = options.has(CHECKMAP_OPT_FORCE_INCONSISTENT);
        image.plan_delete_many(&checkpoints, force, options.layers(), options.model)
    };
    // SAFETY: the caller's promise for `images` and `opts`.
    unsafe { change_many(images, n, opts, plan) }
}

/// Copies of names that the caller gave.
///
/// # Safety
///
/// As every call: `names` and `lens` are NULL or have `count` elements, and each name has its length.
pub(super) unsafe fn several_names(
    names: *const *const c_char,
    lens: *const usize,
    count: usize,
) -> Result<Vec<Vec<u8>>> {
    // SAFETY: the caller's promise is the same.
    let (names, lens) = unsafe { (array(names, count, "the array of names")?, array(lens, count, "their lengths")?) };
    let mut copied = memory::room(names.len())?;
    for (name, len) in names.iter().zip(lens) {
        // SAFETY: the caller's promise for each name.
        copied.push(unsafe { self::name(*name, *len) }?);
    }
    Ok(copied)
}
