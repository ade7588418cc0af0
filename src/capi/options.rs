//! Owns the structs that begin with their size, which can grow: options in, facts out, and the progress callback. Must never
//! know which call reads them.

use crate::chain::{KnownModel, Model};
use crate::error::{Error, ErrorKind, Result};
use crate::image::Layers;
use crate::progress::{Observer, Step};
use std::ffi::{c_char, c_int, c_void};
use std::io;
use std::ops::ControlFlow;
use std::{mem, ptr};

/// Told how far a long call has come; returns 0 to go on, anything else to stop.
///
/// It runs on the thread of the call, inside of it: it may ask other handles anything, and must not use the ones of this
/// call, nor others of the same running machine, nor leave by longjmp or an exception. `phase` names the step of the work, and is good until the callback returns.
/// `done` and `total` compare only with each other. A call that was stopped returns `-ECANCELED` and has changed nothing;
/// once a change of an image is being committed, the answer is ignored. A backup or a prune that has begun with its disks returns
/// their rows instead: those that were done before, and the stopped one with `-ECANCELED`.
pub type checkmap_progress_fn =
    Option<unsafe extern "C" fn(user_data: *mut c_void, phase: *const c_char, done: u64, total: u64) -> c_int>;

/// Do not look at the layers below the image, and change none of them: the caller knows that they do not matter.
pub const CHECKMAP_OPT_TOP_LAYER_ONLY: u32 = 1;
/// Delete the checkpoint even if what it holds is inconsistent, giving up what older checkpoints know with it.
pub const CHECKMAP_OPT_FORCE_INCONSISTENT: u32 = 2;
/// Find out whether the change could be made, and make none.
pub const CHECKMAP_OPT_DRY_RUN: u32 = 4;

/// Drop also the bitmaps that belong to no checkpoint: somebody else may need them.
pub const CHECKMAP_OPT_FOREIGN_TOO: u32 = 8;

const FLAGS: u32 =
    CHECKMAP_OPT_TOP_LAYER_ONLY | CHECKMAP_OPT_FORCE_INCONSISTENT | CHECKMAP_OPT_DRY_RUN | CHECKMAP_OPT_FOREIGN_TOO;

/// In options: the model that the image's bitmaps show. In facts: there are no bitmaps.
pub const CHECKMAP_MODEL_NONE: u32 = 0;
/// Each bitmap covers the interval from its checkpoint to the next; only the last one records.
pub const CHECKMAP_MODEL_INTERVAL: u32 = 1;
/// Each bitmap records since its checkpoint, until it is deleted.
pub const CHECKMAP_MODEL_CUMULATIVE: u32 = 2;
/// In facts: the bitmaps could be either, or their names form no chain.
pub const CHECKMAP_MODEL_UNKNOWN: u32 = 3;

/// More threads than these are a mistake.
const MOST_THREADS: u32 = 1024;

/// The number of threads that a caller gave, looked at.
pub(super) fn threads(threads: u32) -> Result<usize> {
    match usize::try_from(threads) {
        Ok(many) if threads <= MOST_THREADS => Ok(many),
        _ => Err(invalid(format!("{threads} threads are more than {MOST_THREADS}"))),
    }
}

/// Options of the calls that can take long; begin with `CHECKMAP_OPTS_INIT`. Wherever one is asked for, NULL stands for
/// the defaults. A call ignores the members that mean nothing to it.
///
/// The struct can grow. `size` tells which members the caller knows: one that is smaller than the first version of the
/// struct is `-EINVAL`; a larger one is fine as long as what this library does not know is zero, else `-E2BIG`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct checkmap_opts {
    /// sizeof(struct checkmap_opts)
    pub size: u32,
    /// How many threads may be used; 0 and 1 both mean the caller's alone. At most 1024, else `-EINVAL`. None of them runs
    /// after the call has returned. Calls on an image do not read it: see `checkmap_image_set_threads()`.
    pub threads: u32,
    /// The most memory a merge of segments takes, in bytes; 0 is the default of 64 MiB. A diff holds bitmaps of as many
    /// bytes at once, beside its result and the one that is being read: a larger span is united in several passes.
    pub memory_bytes: u64,
    /// Told how far the call has come, and asked whether to go on; or NULL.
    pub progress: checkmap_progress_fn,
    /// Handed to `progress`.
    pub user_data: *mut c_void,
    /// `CHECKMAP_OPT_...`; an unknown one is `-EINVAL`.
    pub flags: u32,
    /// The `CHECKMAP_MODEL_...` to insist on where the image's own is unknown, or has checkpoints of both; 0, INTERVAL or
    /// CUMULATIVE. With 0 a name picks the chain that has it, and one in both is `-EPROTO`.
    pub model: u32,
}

/// The bytes that the first version of a struct had: every caller must know at least these.
const FIRST_OPTS: usize = mem::size_of::<checkmap_opts>();

/// No struct will ever be larger.
const LARGEST: usize = 4096;

/// Options, looked at.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) threads: usize,
    pub(super) memory_bytes: u64,
    pub(super) flags: u32,
    pub(super) model: Option<KnownModel>,
    progress: checkmap_progress_fn,
    user_data: *mut c_void,
}

pub(super) fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

/// The model that a caller insists on.
pub(super) fn known_model(model: u32) -> Result<Option<KnownModel>> {
    match model {
        CHECKMAP_MODEL_NONE => Ok(None),
        CHECKMAP_MODEL_INTERVAL => Ok(Some(KnownModel::Interval)),
        CHECKMAP_MODEL_CUMULATIVE => Ok(Some(KnownModel::Cumulative)),
        other => Err(invalid(format!("{other} is no model to insist on"))),
    }
}

impl Default for Options {
    fn default() -> Self {
        Self { threads: 0, memory_bytes: 0, flags: 0, model: None, progress: None, user_data: ptr::null_mut() }
    }
}

impl Options {
    /// Reads the options of a call; NULL stands for the defaults.
    ///
    /// # Safety
    ///
    /// As every call: `opts` is NULL or readable for as many bytes as its size says.
    pub(super) unsafe fn read(opts: *const checkmap_opts) -> Result<Self> {
        if opts.is_null() {
            return Ok(Self::default());
        }
        // SAFETY: not NULL; the alignment and the size are looked at before more than the size is read.
        let opts = unsafe { read_sized(opts, FIRST_OPTS, "checkmap_opts") }?;
        let threads = threads(opts.threads)?;
        if opts.flags & !FLAGS != 0 {
            return Err(invalid(format!("the options have unknown flags: {:#x}", opts.flags)));
        }
        let model = known_model(opts.model)?;
        Ok(Self {
            threads,
            memory_bytes: opts.memory_bytes,
            flags: opts.flags,
            model,
            progress: opts.progress,
            user_data: opts.user_data,
        })
    }

    /// Options that only tell how far the call has come.
    pub(super) fn observed_by(progress: checkmap_progress_fn, user_data: *mut c_void) -> Self {
        Self { progress, user_data, ..Self::default() }
    }

    pub(super) fn layers(&self) -> Layers {
        if self.flags & CHECKMAP_OPT_TOP_LAYER_ONLY != 0 { Layers::TopOnly } else { Layers::Check }
    }

    pub(super) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

impl Observer for Options {
    fn step(&mut self, step: Step) -> ControlFlow<()> {
        let Some(progress) = self.progress else { return ControlFlow::Continue(()) };
        let mut phase = [0_u8; 64];
        let len = step.phase.len().min(phase.len() - 1);
        phase[..len].copy_from_slice(&step.phase.as_bytes()[..len]);
        // SAFETY: the caller gave a function of this type, to be called with this pointer; the phase ends with NUL.
        let answer = unsafe { progress(self.user_data, phase.as_ptr().cast(), step.done, step.total) };
        if answer == 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

/// A struct that begins with its own size as a `uint32_t`.
///
/// # Safety
///
/// Plain old data: every pattern of bits is a value, and the first member is a `u32`.
pub(super) unsafe trait Sized32: Copy {}

// SAFETY: integers, and pointers that may be NULL; the size comes first. A function pointer of any bits but NULL is the
// caller's to answer for.
unsafe impl Sized32 for checkmap_opts {}

/// The size that a struct of C claims to have, where that can be true.
///
/// # Safety
///
/// As every call: `given` is not NULL and has at least its first member.
unsafe fn size_of_given<T: Sized32>(given: *const T, first: usize, what: &str) -> Result<usize> {
    if !given.is_aligned() {
        return Err(invalid(format!("{what} is misaligned")));
    }
    // SAFETY: aligned, and the first member of every such struct is its size, readable by the caller's promise.
    let size = unsafe { given.cast::<u32>().read() };
    match usize::try_from(size) {
        Ok(size) if size < first => {
            Err(invalid(format!("{what} says it has {size} bytes, and has at least {first}: set its size")))
        }
        Ok(size) if size <= LARGEST => Ok(size),
        _ => Err(too_new(what)),
    }
}

fn too_new(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{what} asks for something that this library does not know"))
        .with_source(io::Error::from_raw_os_error(libc::E2BIG))
}

/// Reads a struct that can grow; members that the caller does not know are zero.
///
/// # Safety
///
/// As every call: `given` is not NULL, and readable for as many bytes as its size says.
pub(super) unsafe fn read_sized<T: Sized32>(given: *const T, first: usize, what: &str) -> Result<T> {
    // SAFETY: the caller's promise is the same.
    let size = unsafe { size_of_given(given, first, what) }?;
    let known = size.min(mem::size_of::<T>());
    let mut read = mem::MaybeUninit::<T>::zeroed();
    // SAFETY: `known` bytes are readable by the caller's promise, and fit into the local copy.
    unsafe { ptr::copy_nonoverlapping(given.cast::<u8>(), read.as_mut_ptr().cast::<u8>(), known) };
    for at in known..size {
        // SAFETY: inside the size that the caller promises to be readable.
        if unsafe { given.cast::<u8>().add(at).read() } != 0 {
            return Err(too_new(what));
        }
    }
    // SAFETY: every pattern of bits is a value of such a struct, and the rest was zeroed.
    Ok(unsafe { read.assume_init() })
}

/// A place for facts in a struct that can grow. Everything behind its size is zero from the beginning of the call, also
/// bytes that this library does not know.
#[derive(Debug)]
pub(super) struct Facts<T> {
    place: *mut T,
    known: usize,
}

impl<T: Sized32> Facts<T> {
    /// Looks at `place`, whose size the caller has set, and zeroes it.
    ///
    /// # Safety
    ///
    /// As every call: `place` is NULL or writable for as many bytes as its size says, which nobody else uses meanwhile.
    pub(super) unsafe fn new(place: *mut T, first: usize, what: &str) -> Result<Self> {
        if place.is_null() {
            return Err(invalid(format!("{what} is NULL")));
        }
        // SAFETY: not NULL, and the caller's promise is the same.
        let size = unsafe { size_of_given(place.cast_const(), first, what) }?;
        // SAFETY: inside the size that the caller promises to be writable; the first four bytes, the size, stay.
        unsafe { place.cast::<u8>().add(4).write_bytes(0, size - 4) };
        Ok(Self { place, known: size.min(mem::size_of::<T>()) })
    }

    /// Writes the part of `facts` that the caller knows; the size stays as it was.
    pub(super) fn put(self, facts: &T) {
        let from: *const T = facts;
        // SAFETY: `known` bytes are inside both structs, which are not the same one; the size stays.
        unsafe {
            ptr::copy_nonoverlapping(from.cast::<u8>().add(4), self.place.cast::<u8>().add(4), self.known - 4);
        }
    }
}

/// The number that stands for a model.
pub(super) fn model_number(model: Model) -> u32 {
    match model {
        Model::None => CHECKMAP_MODEL_NONE,
        Model::Interval => CHECKMAP_MODEL_INTERVAL,
        Model::Cumulative => CHECKMAP_MODEL_CUMULATIVE,
        Model::Unknown => CHECKMAP_MODEL_UNKNOWN,
    }
}
