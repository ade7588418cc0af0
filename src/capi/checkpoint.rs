//! Owns the checkpoints as C programs see them: listed, created, deleted, renamed, and the diff between two. Must never know
//! which bitmaps that takes.

use super::bitmap::checkmap_bitmap;
use super::boundary::{OutBuffer, count, exclusive, give, guard, handle_out, shared, signed};
use super::image::{OpenImage, checkmap_image, name};
use super::lent::Checkpoints;
use super::options::{CHECKMAP_OPT_DRY_RUN, CHECKMAP_OPT_FORCE_INCONSISTENT, Options, checkmap_opts};
use super::values::{
    CHECKMAP_CHECKPOINT_GAP, CHECKMAP_CHECKPOINT_INCONSISTENT, CHECKMAP_CHECKPOINT_RECORDING,
    CHECKMAP_CHECKPOINT_UNORDERED, CHECKMAP_CHECKPOINT_UNUSABLE, checkmap_checkpoint,
};
use crate::chain::{BitmapState, Checkpoint, Name, Plan};
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::Granularity;
use crate::image::{DiffRequest, Edit, Image, Layers, Scope};
use crate::memory;
use std::ffi::{c_char, c_int};
use std::sync::Arc;
use std::{ptr, slice};

/// Plans a change of an image and carries it out, or rehearses it.
///
/// # Safety
///
/// As every call, for an image that this one has alone.
pub(super) unsafe fn change(
    image: *mut checkmap_image,
    opts: *const checkmap_opts,
    plan: impl FnOnce(&Image, &Options) -> Result<Plan>,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `opts`.
        let options = unsafe { Options::read(opts) }?;
        // SAFETY: the caller's promise for `image`.
        let mut open = unsafe { exclusive(image) }?;
        open.lent().begin_change();
        change_open(&mut open, options, plan)
    })
}

fn change_open(
    open: &mut OpenImage,
    mut options: Options,
    plan: impl FnOnce(&Image, &Options) -> Result<Plan>,
) -> Result<c_int> {
    open.image.survey(&mut options).map_err(Error::nothing_changed)?;
    let plan = plan(&open.image, &options).map_err(Error::nothing_changed)?;
    open.lent().warn(plan.risks());
    if options.has(CHECKMAP_OPT_DRY_RUN) {
        let warnings = open.image.rehearse(&plan, &mut options)?;
        let mut lent = open.lent();
        lent.warn(plan.warnings());
        lent.warn(&warnings);
        return Ok(0);
    }
    let before = open.image.states().map_err(Error::nothing_changed)?;
    let committed = open.image.commit(&plan, &mut options);
    conclude(open, &before, plan.warnings(), committed)
}

/// Plans a new checkpoint; a granularity of 0 is the default.
///
/// # Safety
///
/// As every call: `name` is NULL or has `len` bytes.
pub(super) unsafe fn plan_creation(
    image: &Image,
    options: &Options,
    name: *const c_char,
    len: usize,
    granularity: u64,
) -> Result<Plan> {
    // SAFETY: the caller's promise is the same.
    let checkpoint = unsafe { self::name(name, len) }?;
    let granularity = if granularity == 0 { None } else { Some(Granularity::from_bytes(granularity)?) };
    image.plan_create(&checkpoint, granularity, options.model)
}

/// A change that can reach the layers below the image.
enum Wanted {
    Delete(Name),
    DeleteInconsistent,
    Rename(Name, Name),
}

impl Wanted {
    /// The change of all layers, where the caller wants these changed.
    fn edit(&self, options: &Options) -> Option<Edit<'_>> {
        let edit = match self {
            Wanted::Delete(checkpoint) if options.has(CHECKMAP_OPT_FORCE_INCONSISTENT) => {
                Edit::ForceDelete(slice::from_ref(checkpoint))
            }
            Wanted::Delete(checkpoint) => Edit::Delete(slice::from_ref(checkpoint)),
            Wanted::DeleteInconsistent => Edit::DeleteAllInconsistent,
            Wanted::Rename(checkpoint, new_name) => Edit::Rename(checkpoint, new_name),
        };
        (options.layers() == Layers::Check).then_some(edit)
    }

    /// The change of this image alone.
    fn plan(&self, image: &Image, options: &Options) -> Result<Plan> {
        match self {
            Wanted::Delete(checkpoint) => {
                let force = options.has(CHECKMAP_OPT_FORCE_INCONSISTENT);
                image.plan_delete(checkpoint.as_bytes(), force, options.layers(), options.model)
            }
            Wanted::DeleteInconsistent => image.plan_delete_all_inconsistent(options.layers(), options.model),
            Wanted::Rename(checkpoint, new_name) => {
                image.plan_rename(checkpoint.as_bytes(), new_name.as_bytes(), options.layers(), options.model)
            }
        }
    }
}

/// Changes an image, and the layers below it that know the checkpoint.
///
/// # Safety
///
/// As every call, for an image that this one has alone.
unsafe fn change_layers(
    image: *mut checkmap_image,
    opts: *const checkmap_opts,
    wanted: impl FnOnce() -> Result<Wanted>,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `opts`.
        let mut options = unsafe { Options::read(opts) }?;
        // SAFETY: the caller's promise for `image`.
        let mut open = unsafe { exclusive(image) }?;
        open.lent().begin_change();
        let wanted = wanted().map_err(Error::nothing_changed)?;
        let edit = wanted.edit(&options);
        let spans = edit.map_or(Ok(false), |edit| open.image.spans_layers(&edit, options.model));
        let Some(edit) = edit.filter(|_| !matches!(spans, Ok(false))) else {
            return change_open(&mut open, options, |image, options| wanted.plan(image, options));
        };
        spans.map_err(Error::nothing_changed)?;
        let model = options.model;
        if options.has(CHECKMAP_OPT_DRY_RUN) {
            let change = open.image.rehearse_layers(&edit, model, &mut options)?;
            open.lent().warn(&change.warnings);
            return Ok(0);
        }
        let before = open.image.states().map_err(Error::nothing_changed)?;
        let changed = open.image.change_layers(&edit, model, &mut options);
        conclude(&open, &before, &[], changed.map(|change| change.warnings))
    })
}

/// Ends a change. Where it succeeded, no pointer that was handed out before is good any more, and `warnings` are true.
pub(super) fn conclude(
    open: &OpenImage,
    before: &[BitmapState],
    warnings: &[String],
    committed: Result<Vec<String>>,
) -> Result<c_int> {
    let is_as_before = open.image.has(before);
    let mut lent = open.lent();
    match committed {
        Ok(more) => {
            lent.end_change();
            lent.warn(warnings);
            lent.warn(&more);
            Ok(0)
        }
        Err(error) => {
            if error.kind() == ErrorKind::CommitInDoubt || !is_as_before {
                lent.outdate();
            }
            Err(error)
        }
    }
}

/// Creates a checkpoint of now, in one atomic step: the bitmap before it is frozen, a new one records.
///
/// The name has 1 to 510 bytes without `->`, which need not be UTF-8. `granularity` is in bytes; 0 is that of the newest
/// checkpoint, else the image's default. On every error but the one of kind `CHECKMAP_ERROR_COMMIT_IN_DOUBT` nothing
/// changed.
///
/// Errors:
/// - `-EEXIST`: a checkpoint of this name is there already.
/// - `-EINVAL`: a name or a granularity that cannot be.
/// - `-ENAMETOOLONG`: a name of more than 510 bytes.
/// - `-EUCLEAN`: a bitmap of the chain is inconsistent, the image is marked dirty or corrupt, or software that knows
///   nothing of bitmaps wrote to it.
/// - `-EPROTO`: the newest bitmap does not record, the names form no chain, or the model is unknown.
/// - `-EROFS`: the image was opened for reading.
/// - `-ENOTSUP`: the image cannot take it: a limit of its format, no room in its header, a version without bitmaps.
/// - `-EBADMSG`: the image is damaged.
/// - `-ENOSPC`: the disk that holds the image is full.
/// - `-ESTALE`: the image changed under a handle that holds no locks.
/// - `-EBUSY`: of a running hypervisor: another client of checkmap is at work, a bitmap that takes part is in use, or the step
///   would stop the machine for longer than `max_stall_ms`.
/// - `-EREMOTEIO`: a running hypervisor refused a command, or the connection to it broke.
/// - `-EIO`: with kind `CHECKMAP_ERROR_COMMIT_IN_DOUBT` writing failed after the commit began: then the image holds the
///   state before or the state after, whole.
/// - what the system says, such as `-EIO` with kind `CHECKMAP_ERROR_IO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_checkpoint_create(
    image: *mut checkmap_image,
    name: *const c_char,
    len: usize,
    granularity: u64,
) -> c_int {
    // SAFETY: the caller's promise for all of them.
    unsafe { checkmap_checkpoint_create_with(image, name, len, granularity, ptr::null()) }
}

/// `checkmap_checkpoint_create()` with options.
///
/// Options: `progress`, `model`, `DRY_RUN`.
///
/// Errors:
/// - `-ECANCELED`: the call was stopped, and nothing has changed.
/// - as `checkmap_checkpoint_create()`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_checkpoint_create_with(
    image: *mut checkmap_image,
    name: *const c_char,
    len: usize,
    granularity: u64,
    opts: *const checkmap_opts,
) -> c_int {
    // SAFETY: the caller's promise for `name`.
    let plan = |image: &Image, options: &Options| unsafe { plan_creation(image, options, name, len, granularity) };
    // SAFETY: the caller's promise for `image` and `opts`.
    unsafe { change(image, opts, plan) }
}

/// Deletes a checkpoint in one atomic step: the interval before it absorbs the one after it; the first one's is dropped.
///
/// Where layers below the image know the checkpoint too, each of them changes in an atomic step of its own, after all of them were
/// opened for writing and tried: the answers of the disk stay right in between, and the same call finishes what a kill left. On
/// every error but the one of kind `CHECKMAP_ERROR_COMMIT_IN_DOUBT` nothing changed; after that one a part of the layers can
/// have changed, and the same call finishes it.
///
/// Errors:
/// - `-ENOENT`: no checkpoint has this name.
/// - `-EUCLEAN`: a bitmap that takes part is inconsistent, the image is marked dirty or corrupt, or software that knows
///   nothing of bitmaps wrote to it.
/// - `-EPROTO`: a layer below the image cannot be read, or not be changed together with it, the names form no chain, or the model is
///   unknown.
/// - `-EROFS`: the image was opened for reading, or a layer that has to change cannot be written.
/// - `-EBUSY`: somebody else uses a layer that has to change; of a running hypervisor as `checkmap_checkpoint_create()`.
/// - `-EINVAL`: a name that cannot be.
/// - as `checkmap_checkpoint_create()` without `-EEXIST`, `-EINVAL`, `-EUCLEAN`, `-EPROTO`, `-EROFS`, `-EBUSY`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_checkpoint_delete(
    image: *mut checkmap_image,
    name: *const c_char,
    len: usize,
) -> c_int {
    // SAFETY: the caller's promise for all of them.
    unsafe { checkmap_checkpoint_delete_with(image, name, len, ptr::null()) }
}

/// `checkmap_checkpoint_delete()` with options.
///
/// Options: `progress`, `model`, `TOP_LAYER_ONLY`, `FORCE_INCONSISTENT`, `DRY_RUN`.
///
/// Errors:
/// - `-ECANCELED`: the call was stopped, and nothing has changed.
/// - as `checkmap_checkpoint_delete()`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_checkpoint_delete_with(
    image: *mut checkmap_image,
    name: *const c_char,
    len: usize,
    opts: *const checkmap_opts,
) -> c_int {
    // SAFETY: the caller's promise for `name`.
    let wanted = || Ok(Wanted::Delete(Name::new(unsafe { self::name(name, len) }?)));
    // SAFETY: the caller's promise for `image` and `opts`.
    unsafe { change_layers(image, opts, wanted) }
}

/// Deletes every inconsistent checkpoint, and all that depend on them, in one atomic step; the next backup is full.
///
/// Where nothing is inconsistent nothing happens. Layers below with an inconsistent bitmap change too, each in an atomic step of its
/// own, as for `checkmap_checkpoint_delete()`; what a layer below knows of a checkpoint stays.
///
/// Options: `progress`, `model`, `TOP_LAYER_ONLY`, `FORCE_INCONSISTENT`, `DRY_RUN`.
///
/// Errors:
/// - `-ECANCELED`: the call was stopped, and nothing has changed.
/// - as `checkmap_checkpoint_delete()` without `-ENOENT`, `-EINVAL`, `-ENAMETOOLONG`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_checkpoint_delete_inconsistent(
    image: *mut checkmap_image,
    opts: *const checkmap_opts,
) -> c_int {
    // SAFETY: the caller's promise for `image` and `opts`.
    unsafe { change_layers(image, opts, || Ok(Wanted::DeleteInconsistent)) }
}

/// Makes a checkpoint the first one, in one atomic step: the bitmaps of all older ones are dropped, also those before
/// gaps.
///
/// Options: `progress`, `model`, `DRY_RUN`.
///
/// Errors:
/// - `-EPROTO`: cumulative checkpoints, several gaps that leave it open which checkpoints are older, names that form no
///   chain, or an unknown model.
/// - `-ECANCELED`: the call was stopped, and nothing has changed.
/// - as `checkmap_checkpoint_delete()` without `-EPROTO`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_checkpoint_drop_before(
    image: *mut checkmap_image,
    name: *const c_char,
    len: usize,
    opts: *const checkmap_opts,
) -> c_int {
    let plan = |image: &Image, options: &Options| {
        // SAFETY: the caller's promise for `name`.
        image.plan_drop_before(&unsafe { self::name(name, len) }?, options.model)
    };
    // SAFETY: the caller's promise for `image` and `opts`.
    unsafe { change(image, opts, plan) }
}

/// Renames a checkpoint in one atomic step.
///
/// Where layers below the image know the checkpoint too, each of them changes as for `checkmap_checkpoint_delete()`: a diff since
/// either name is right in between.
///
/// Errors:
/// - `-EEXIST`: a checkpoint of the new name is there already, or a layer below knows one.
/// - as `checkmap_checkpoint_delete()`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_checkpoint_rename(
    image: *mut checkmap_image,
    name: *const c_char,
    len: usize,
    to: *const c_char,
    to_len: usize,
) -> c_int {
    // SAFETY: the caller's promise for all of them.
    unsafe { checkmap_checkpoint_rename_with(image, name, len, to, to_len, ptr::null()) }
}

/// `checkmap_checkpoint_rename()` with options.
///
/// Options: `progress`, `model`, `TOP_LAYER_ONLY`, `DRY_RUN`.
///
/// Errors:
/// - `-ECANCELED`: the call was stopped, and nothing has changed.
/// - as `checkmap_checkpoint_rename()`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_checkpoint_rename_with(
    image: *mut checkmap_image,
    name: *const c_char,
    len: usize,
    to: *const c_char,
    to_len: usize,
    opts: *const checkmap_opts,
) -> c_int {
    // SAFETY: the caller's promise for both names.
    let wanted =
        || unsafe { Ok(Wanted::Rename(Name::new(self::name(name, len)?), Name::new(self::name(to, to_len)?))) };
    // SAFETY: the caller's promise for `image` and `opts`.
    unsafe { change_layers(image, opts, wanted) }
}

/// Fills `out` with the checkpoints, oldest first, `max` at most; with `out` NULL it only counts.
///
/// To say how much is dirty it reads their bitmaps, once for all calls until the next change; what cannot be read is -1.
/// An image with cumulative checkpoints gives an order only as far as the bits tell one, or libvirt's notes after
/// `checkmap_image_follow()`, which give parents too. Where it has intervals and libvirt's cumulative checkpoints, these are the intervals; `checkmap_checkpoint_list_with()` lists the others.
///
/// Returns: how many checkpoints there are in all; or a negative errno.
///
/// Ownership: the names live until a call that changes the image succeeds, or its end, and may be passed to that call.
///
/// Errors:
/// - `-EPROTO`: the names of the bitmaps form no chain.
/// - `-EBADMSG`: the bitmaps, or their directory, are damaged.
/// - `-ENOTSUP`: the image needs something of its format that is unknown.
/// - `-ESTALE`: the image changed under a handle that holds no locks.
/// - what the system says, such as `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_checkpoint_list(
    image: *const checkmap_image,
    out: *mut checkmap_checkpoint,
    max: usize,
) -> i64 {
    // SAFETY: the caller's promise for both.
    unsafe { checkmap_checkpoint_list_with(image, ptr::null(), out, max) }
}

/// `checkmap_checkpoint_list()` with options: of an image with intervals and libvirt's cumulative checkpoints, `model` says
/// which are listed.
///
/// Options: `progress`, `model`.
///
/// Returns: how many checkpoints there are in all; or a negative errno.
///
/// Ownership: the names live until a call that changes the image succeeds, or its end, and may be passed to that call.
///
/// Errors:
/// - `-ECANCELED`: the call was stopped.
/// - as `checkmap_checkpoint_list()`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_checkpoint_list_with(
    image: *const checkmap_image,
    opts: *const checkmap_opts,
    out: *mut checkmap_checkpoint,
    max: usize,
) -> i64 {
    guard(|| {
        // SAFETY: the caller's promise for `opts`.
        let mut options = unsafe { Options::read(opts) }?;
        // SAFETY: the caller's promise for `image`.
        let open = unsafe { shared(image) }?;
        if out.is_null() {
            return Ok(count(open.image.chain(options.model)?.checkpoints().len()));
        }
        // SAFETY: the caller's promise for `out`, which has room for `max` checkpoints.
        let mut room = unsafe { OutBuffer::new(out, max, "the array of checkpoints") }?;
        let checkpoints = list(&open, &mut options)?;
        for (checkpoint, dirty_bytes) in checkpoints.iter().take(room.left()) {
            let parent = checkpoint.parent.as_ref().map(|parent| parent.as_bytes());
            room.push(checkmap_checkpoint {
                name: checkpoint.name.as_bytes().as_ptr().cast(),
                name_len: checkpoint.name.as_bytes().len(),
                parent: parent.map_or(ptr::null(), |parent| parent.as_ptr().cast()),
                parent_len: parent.map_or(0, <[u8]>::len),
                granularity: checkpoint.granularity.bytes(),
                dirty_bytes: *dirty_bytes,
                flags: flags_of(checkpoint),
                reserved: 0,
                reserved2: [0; 4],
            });
        }
        Ok(count(checkpoints.len()))
    })
}

fn flags_of(checkpoint: &Checkpoint) -> u32 {
    let flag = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
    flag(checkpoint.recording, CHECKMAP_CHECKPOINT_RECORDING)
        | flag(checkpoint.inconsistent, CHECKMAP_CHECKPOINT_INCONSISTENT)
        | flag(checkpoint.unusable, CHECKMAP_CHECKPOINT_UNUSABLE)
        | flag(!checkpoint.ordered, CHECKMAP_CHECKPOINT_UNORDERED)
        | flag(checkpoint.gap, CHECKMAP_CHECKPOINT_GAP)
}

/// The checkpoints, kept in the handle for as long as C may hold pointers to their names.
fn list(open: &OpenImage, options: &mut Options) -> Result<Arc<Checkpoints>> {
    let image = open.fresh()?;
    let model = options.model;
    if let Some(listed) = open.lent().listed(model) {
        return Ok(listed);
    }
    // Not while the list is locked: the callback may ask this image, too.
    let mut overview = image.overview(model, Scope::Checkpoints, options)?;
    if let Ok(chain) = &mut overview.chain {
        chain.follow(&open.records)?;
    }
    open.lent().checkpoints(model, || {
        let amount = |checkpoint: &Checkpoint| overview.summary(&checkpoint.bitmap).dirty_bytes.map_or(-1, signed);
        let chain = overview.chain.as_ref().map_err(Error::clone)?;
        let listed = chain.checkpoints().iter().map(|checkpoint| (checkpoint.clone(), amount(checkpoint)));
        Ok(memory::gather(listed)?)
    })
}

/// Makes a bitmap of the blocks that changed since a checkpoint, until another one or, with `until` NULL, until now.
///
/// It is never short: a gap in the knowledge is an error. A diff until now is that of the image as it is stored: a
/// running QEMU holds newer writes, but where it is asked itself, see `checkmap_machine_image()`.
///
/// Errors:
/// - `-ENOENT`: no checkpoint has this name, with kind `CHECKMAP_ERROR_NOT_FOUND`. A missing file has the same errno, and
///   kind `CHECKMAP_ERROR_IO`.
/// - `-EUCLEAN`: a bitmap of the span is inconsistent, or software that knows nothing of bitmaps wrote to the image.
/// - `-EBADMSG`: a bitmap of the span is damaged.
/// - `-EPROTO`: a gap in the recording, a layer below that takes part or cannot be read, an `until` that is older, names
///   that form no chain, or an unknown model.
/// - `-ENOTSUP`: a bitmap of the span is of an unknown type, or the image of a version without bitmaps.
/// - `-EINVAL`: a name that cannot be.
/// - `-ENAMETOOLONG`: a name of more than 510 bytes.
/// - `-ESTALE`: the image changed under a handle that holds no locks.
/// - `-EBUSY`: of a running hypervisor: another client of checkmap is at work, or a bitmap of the span is in use.
/// - `-EREMOTEIO`: a running hypervisor refused a command, or the connection to it broke.
/// - what the system says, such as `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_diff(
    image: *const checkmap_image,
    since: *const c_char,
    since_len: usize,
    until: *const c_char,
    until_len: usize,
    out: *mut *mut checkmap_bitmap,
) -> c_int {
    // SAFETY: the caller's promise for all of them.
    unsafe { checkmap_diff_with(image, since, since_len, until, until_len, 0, u64::MAX, ptr::null(), out) }
}

/// `checkmap_diff()` of a window of the disk, with options.
///
/// Outside of the granules that `offset` and `length` touch the bitmap is clean; `CHECKMAP_TO_END` is up to the end of
/// the disk.
///
/// Options: `progress`, `memory_bytes`, `model`, `TOP_LAYER_ONLY`.
///
/// Errors:
/// - `-ECANCELED`: the call was stopped.
/// - as `checkmap_diff()`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_diff_with(
    image: *const checkmap_image,
    since: *const c_char,
    since_len: usize,
    until: *const c_char,
    until_len: usize,
    offset: u64,
    length: u64,
    opts: *const checkmap_opts,
    out: *mut *mut checkmap_bitmap,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        // SAFETY: the caller's promise for `opts`.
        let mut options = unsafe { Options::read(opts) }?;
        // SAFETY: the caller's promise for `image`.
        let open = unsafe { shared(image) }?;
        // SAFETY: the caller's promise for `since`.
        let since = unsafe { name(since, since_len) }?;
        // SAFETY: the caller's promise for `until`.
        let until = if until.is_null() { None } else { Some(unsafe { name(until, until_len) }?) };
        let request = DiffRequest::since(&since).window(offset, length).layers(options.layers()).model(options.model);
        let request = until.as_deref().map_or(request, |until| request.until(until));
        let request = if options.memory_bytes > 0 { request.memory_bytes(options.memory_bytes) } else { request };
        out.put(give(open.image.diff(&request, &mut options)?.bitmap));
        Ok(0)
    })
}
