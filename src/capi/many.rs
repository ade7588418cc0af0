//! Owns the change of several images in one step, as C programs see it. Must never know how their hosts make it one.

use super::boundary::{Exclusive, array, exclusive, exclusives, guard};
use super::checkpoint::{conclude, plan_creation};
use super::image::{OpenImage, checkmap_image, name};
use super::options::{CHECKMAP_OPT_DRY_RUN, CHECKMAP_OPT_FORCE_INCONSISTENT, Options, checkmap_opts};
use crate::chain::{Name, Plan};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Group, Image, Outcome, Purpose, Recovered};
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
    purpose: impl Fn(&Options) -> Result<Purpose>,
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
            let purpose = purpose(&options).map_err(Error::nothing_changed)?;
            let mut group = Group::of(open.iter_mut().map(inside), purpose).map_err(Error::nothing_changed)?;
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
/// The images are disks of one machine, see `checkmap_machine_image()`, or images in files; a single one may be of any kind. Name and
/// granularity are those of `checkmap_checkpoint_create()`. On every error but the one of kind `CHECKMAP_ERROR_COMMIT_IN_DOUBT` no image
/// has changed; the message names the image. After that one all disks of a machine hold the state before, or all the state after.
///
/// Images in files change by a journal beside the first one, which must be a file. After a kill or a power cut, and after an error in
/// doubt, no call changes them until `checkmap_image_recover()` has ended the step on all of them.
///
/// Options: `progress`, `model`, `DRY_RUN`.
///
/// Errors:
/// - `-EINVAL`: no image, the same one twice, a device as the first image, a name or a granularity that cannot be.
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
    // SAFETY: the caller's promise for `name`.
    let purpose = |options: &Options| Ok(Purpose::Create(Name::new(unsafe { self::name(name, len) }?), options.model));
    // SAFETY: the caller's promise for `images` and `opts`.
    unsafe { change_many(images, n, opts, purpose, plan) }
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
    unsafe { change_many(images, n, opts, |_| Ok(Purpose::Delete), plan) }
}

/// The step has been finished: every image has the change.
pub const CHECKMAP_STEP_FINISHED: u32 = 1;
/// The step has been undone: no image has the change.
pub const CHECKMAP_STEP_UNDONE: u32 = 2;
/// Some images have the change and others not: a program wrote to one since, and a deletion or a renaming cannot be undone.
pub const CHECKMAP_STEP_LEFT_APART: u32 = 3;

/// Ends a change of several images in files that was interrupted, on all of them; this one tells which.
///
/// The image is open for writing, and the others are opened so for the time of the call. Where nothing has changed any of them
/// since, the change is finished; where all of them have it, it is done. Else a checkpoint that it created is deleted from all, its bits merged back, so that no block is
/// missed. `checkmap_image_warning()` tells what the user has to know.
///
/// Options: `progress`.
///
/// Returns: 0 if no change was interrupted, else a `CHECKMAP_STEP_...`; or a negative errno.
///
/// Errors:
/// - `-EUCLEAN`: the journal or an image of the step is not there, or belongs to another step.
/// - `-EBADMSG`: the journal is damaged.
/// - `-ECANCELED`: the call was stopped; the step is still interrupted.
/// - as `checkmap_checkpoint_delete()` without `-ENOENT`, `-EINVAL`, `-ENAMETOOLONG`, `-EUCLEAN`, `-EBADMSG`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_image_recover(image: *mut checkmap_image, opts: *const checkmap_opts) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `opts`.
        let mut options = unsafe { Options::read(opts) }?;
        // SAFETY: the caller's promise for `image`.
        let mut open = unsafe { exclusive(image) }?;
        open.lent().begin_change();
        let before = open.image.states()?;
        let recovered = open.image.recover(&mut options);
        let (outcome, done) = match recovered {
            Ok(None) => return Ok(0),
            Ok(Some(Recovered { outcome, warnings, .. })) => (Some(outcome), Ok(warnings)),
            Err(error) => (None, Err(error)),
        };
        conclude(&open, &before, &[], done)?;
        let number = match outcome {
            Some(Outcome::Undone) => CHECKMAP_STEP_UNDONE,
            Some(Outcome::LeftApart) => CHECKMAP_STEP_LEFT_APART,
            Some(Outcome::Finished) | None => CHECKMAP_STEP_FINISHED,
        };
        Ok(number.cast_signed())
    })
}

/// Leaves an image as a change of several images left it that was interrupted: for one whose journal or whose other images are lost.
///
/// Nothing happens to an image that is in no such change.
///
/// Errors:
/// - as `checkmap_checkpoint_delete()` without `-ENOENT`, `-EINVAL`, `-ENAMETOOLONG`, `-EPROTO`, `-EUCLEAN`, `-EBADMSG`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_image_forget_step(image: *mut checkmap_image) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `image`.
        let mut open = unsafe { exclusive(image) }?;
        open.lent().begin_change();
        let before = open.image.states()?;
        let forgotten = open.image.forget_step().map(|()| Vec::new());
        conclude(&open, &before, &[], forgotten)
    })
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
