//! Owns the image as C programs see it: opening it by path or descriptor, its facts, and the warnings about it.
//! Must never know a format, nor how a checkpoint comes about.

use super::boundary::{Handle, Shared, array, count, exclusive, free, give, guard, handle_out, object, shared};
use super::lent::{Files, Lent};
use super::options::{Facts, Options, Sized32, checkmap_opts, model_number};
use super::report::{checkmap_report, report_of};
use crate::chain::{MAX_BITMAP_NAME, Model, Record};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Access, Image, OpenOptions};
use std::ffi::{CString, OsStr, c_char, c_int};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{mem, ptr};

/// Open for everything that changes nothing.
pub const CHECKMAP_OPEN_RDONLY: u32 = 0;
/// Open for changes as well.
pub const CHECKMAP_OPEN_RDWR: u32 = 1;
/// Take no locks, for file systems that have none: the caller makes sure that nothing else changes the image. A writer
/// whose locks can be seen is `-EBUSY` all the same. Each call reads header and bitmap directory before and after, and
/// returns `-ESTALE` if they changed under it. No way to an image that a running QEMU has open: docs/embedding.md has one.
pub const CHECKMAP_OPEN_NO_LOCK: u32 = 2;
/// Names and flags only, without locks: works while a running QEMU holds the image, and trusts no content.
pub const CHECKMAP_OPEN_FORCE_SHARE: u32 = 4;

const FLAGS: u32 = CHECKMAP_OPEN_RDWR | CHECKMAP_OPEN_NO_LOCK | CHECKMAP_OPEN_FORCE_SHARE;

/// An open disk image. Its locks are held until it is closed.
///
/// Calls that take it as `const` may run concurrently.
#[derive(Debug)]
pub struct checkmap_image {
    #[allow(dead_code, reason = "reached through pointers to the whole")]
    handle: Handle<OpenImage>,
}

object!(checkmap_image = OpenImage, b"cmImage!", "image");

/// The longest path that Linux takes, with its NUL.
const PATH_MAX: usize = 4096;

/// The object behind a handle.
#[derive(Debug)]
pub(super) struct OpenImage {
    pub(super) image: Image,
    /// libvirt's notes of the order of cumulative checkpoints.
    pub(super) records: Vec<Record>,
    lent: Mutex<Lent>,
}

impl OpenImage {
    pub(super) fn new(image: Image) -> Self {
        let mut lent = Lent::default();
        lent.warn(image.warnings());
        Self { image, records: Vec::new(), lent: Mutex::new(lent) }
    }

    /// The image, for calls that answer from memory: an error if it changed under a handle without locks.
    pub(super) fn fresh(&self) -> Result<&Image> {
        if !self.image.is_locked() {
            self.image.check_unchanged()?;
        }
        Ok(&self.image)
    }

    /// Values that were handed out by pointer.
    pub(super) fn lent(&self) -> MutexGuard<'_, Lent> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Text as C takes it.
pub(super) fn text(text: &str) -> CString {
    CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default()
}

/// A copy of a name of a checkpoint or a bitmap that the caller gave: it may be one that the call itself lets go of.
///
/// # Safety
///
/// As every call: `name` is NULL or has `len` bytes.
pub(super) unsafe fn name(name: *const c_char, len: usize) -> Result<Vec<u8>> {
    if len > MAX_BITMAP_NAME {
        let message = format!("a name of {len} bytes is too long: no bitmap has one above {MAX_BITMAP_NAME}");
        return Err(Error::new(ErrorKind::NameTooLong, message));
    }
    if len == 0 {
        return Err(Error::new(ErrorKind::InvalidName, "a name cannot be empty"));
    }
    // SAFETY: the caller's promise is the same.
    Ok(unsafe { array(name.cast(), len, "the name") }?.to_vec())
}

/// A copy of a path that the caller gave.
///
/// # Safety
///
/// As every call: `path` is NULL or has `len` bytes.
pub(super) unsafe fn path(path: *const c_char, len: usize) -> Result<PathBuf> {
    let refused = |message: &str| Err(Error::new(ErrorKind::InvalidArgument, message));
    if len >= PATH_MAX {
        let message = format!("a path of {len} bytes is too long");
        return Err(Error::new(ErrorKind::NameTooLong, message));
    }
    if len == 0 {
        return refused("a path cannot be empty");
    }
    // SAFETY: the caller's promise is the same.
    let bytes: &[u8] = unsafe { array(path.cast(), len, "the path") }?;
    if bytes.contains(&0) {
        return refused("the path holds a NUL byte");
    }
    Ok(PathBuf::from(OsStr::from_bytes(bytes)))
}

/// A duplicate of a descriptor that stays the caller's, and the path that it goes by in messages.
pub(super) fn duplicate(fd: c_int) -> Result<(File, PathBuf)> {
    if fd < 0 {
        return Err(bad_descriptor(fd));
    }
    let failed = |error| Error::io(format!("cannot duplicate the descriptor {fd}"), error);
    // SAFETY: it is not -1, and is only duplicated: one that is not open gives EBADF.
    let ours = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned().map_err(failed)?;
    let path = path_of(ours.as_raw_fd());
    Ok((File::from(ours), path))
}

/// The name of a descriptor in messages.
fn path_of(fd: c_int) -> PathBuf {
    std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_else(|_| PathBuf::from(format!("descriptor {fd}")))
}

fn bad_descriptor(fd: c_int) -> Error {
    Error::io(format!("there is no descriptor {fd}"), io::Error::from_raw_os_error(libc::EBADF))
}

fn open_options(flags: u32) -> Result<OpenOptions> {
    let refused = |message: String| Err(Error::new(ErrorKind::InvalidArgument, message));
    if flags & !FLAGS != 0 {
        return refused(format!("unknown flags to open an image: {flags:#x}"));
    }
    let access = match (flags & CHECKMAP_OPEN_RDWR != 0, flags & CHECKMAP_OPEN_FORCE_SHARE != 0) {
        (true, true) => return refused("CHECKMAP_OPEN_FORCE_SHARE reads names only, and cannot write".into()),
        (true, false) => Access::Write,
        (false, true) => Access::Names,
        (false, false) => Access::Read,
    };
    let mut options = OpenOptions::new(access);
    options.no_lock = flags & CHECKMAP_OPEN_NO_LOCK != 0;
    Ok(options)
}

/// Opens the image file or block device at `path`, whose format is told by its content.
///
/// `flags` are `CHECKMAP_OPEN_...`. The path has `path_len` bytes and needs no NUL behind them. An image whose bitmaps
/// cannot be used still opens, see `checkmap_image_trouble()`.
///
/// Errors:
/// - `-EBUSY`: another process, or another handle of this one, has the image in use.
/// - `-ENOLCK`: the file system cannot lock. Only for writing; reading warns.
/// - `-EROFS`: the file system is for reading only, and `CHECKMAP_OPEN_RDWR` was asked for.
/// - `-ENOTSUP`: an unknown format, or a feature of it that is unknown.
/// - `-EBADMSG`: the image is damaged.
/// - `-EINVAL`: unknown flags, an empty path, or one with a NUL inside.
/// - `-ENAMETOOLONG`: a path that is too long.
/// - `-ENOENT`: no such file, with kind `CHECKMAP_ERROR_IO`.
/// - `-EACCES`: the file may not be opened; for `CHECKMAP_OPEN_RDWR` with kind `CHECKMAP_ERROR_READ_ONLY`.
/// - `-EISDIR`: a folder.
/// - what the system says, such as `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_image_open(
    path: *const c_char,
    path_len: usize,
    flags: u32,
    out: *mut *mut checkmap_image,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        let options = open_options(flags)?;
        // SAFETY: the caller's promise for `path`; the name of the function is only shadowed here.
        let path = unsafe { self::path(path, path_len) }?;
        out.put(give(OpenImage::new(Image::open(&path, &options)?)));
        Ok(0)
    })
}

/// Opens the image behind an open descriptor, which stays the caller's and may be closed at once.
///
/// The descriptor can be read, and written for `CHECKMAP_OPEN_RDWR`; `O_DIRECT` does not matter. `flags` are
/// `CHECKMAP_OPEN_...`. The file is opened anew through /proc/self/fd, so the handle has locks of its own, which exclude
/// those of every other handle, and of the caller's descriptor too.
///
/// Errors:
/// - `-EROFS`: a descriptor for reading only, and `CHECKMAP_OPEN_RDWR` was asked for.
/// - `-EINVAL`: a descriptor with `O_APPEND` or `O_PATH`, or one only for writing.
/// - `-EBADF`: no open descriptor.
/// - `-ENOLCK`: the file system cannot lock, or the file cannot be opened anew.
/// - as `checkmap_image_open()` without `-ENAMETOOLONG`, `-ENOENT`, `-EROFS`, `-EINVAL`, `-ENOLCK`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_image_open_fd(fd: c_int, flags: u32, out: *mut *mut checkmap_image) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        let options = open_options(flags)?;
        if fd < 0 {
            return Err(bad_descriptor(fd));
        }
        // SAFETY: it is not -1, and is only looked at and opened anew: one that is not open gives EBADF.
        let given = unsafe { BorrowedFd::borrow_raw(fd) };
        out.put(give(OpenImage::new(Image::open_file(given, &path_of(fd), &options)?)));
        Ok(0)
    })
}

/// Makes an image that was opened with `CHECKMAP_OPEN_RDONLY` one that can be changed as well.
///
/// Nothing happens to one that can be already. The handle's locks keep every writer out the whole time, so a diff made
/// before is still true afterwards. On error the handle is what it was.
///
/// Errors:
/// - `-EBUSY`: another reader has the image.
/// - `-EROFS`: the file system is for reading only, or the descriptor was.
/// - `-EACCES`: the file may not be written, with kind `CHECKMAP_ERROR_READ_ONLY`.
/// - `-ENOLCK`: the file system cannot lock.
/// - `-EINVAL`: an image that was opened with `CHECKMAP_OPEN_FORCE_SHARE`.
/// - `-ESTALE`: the image changed under a handle that holds no locks.
/// - what the system says, such as `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_image_upgrade(image: *mut checkmap_image) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `image`.
        unsafe { exclusive(image) }?.image.upgrade()?;
        Ok(0)
    })
}

/// Closes an image, a poisoned one too, and releases its locks.
///
/// NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_image_close(image: *mut checkmap_image) {
    // SAFETY: the caller's promise for `image`, which it gives up.
    unsafe { free(image) }
}

/// How many threads the calls on this image may use from now on where there is much to read, write or unite.
///
/// 0, which an image begins with, and 1 both mean the caller's alone. None of them runs after the call that started them
/// has returned, and they block every signal but those of a fault.
///
/// Errors:
/// - `-EINVAL`: more than 1024 threads.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_image_set_threads(image: *mut checkmap_image, threads: u32) -> c_int {
    guard(|| {
        let threads = super::options::threads(threads)?;
        // SAFETY: the caller's promise for `image`.
        unsafe { exclusive(image) }?.image.set_threads(threads);
        Ok(0)
    })
}

/// The image is marked dirty or corrupt: it can be read, and must be repaired before it is written.
pub const CHECKMAP_IMAGE_UNCLEAN: u32 = 1;
/// A running writer was seen (`CHECKMAP_OPEN_FORCE_SHARE` only): the bitmaps are in use, and not inconsistent.
pub const CHECKMAP_IMAGE_HELD_BY_WRITER: u32 = 2;
/// No bitmap of this image can be used; `checkmap_image_trouble()` says why.
pub const CHECKMAP_IMAGE_TROUBLE: u32 = 4;

/// What an image is; begin with `CHECKMAP_IMAGE_INFO_INIT`. It can grow, see `checkmap_opts`. The texts live until a call
/// that changes the image succeeds, or its end, and may be passed to that call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct checkmap_image_info {
    /// sizeof(struct checkmap_image_info)
    pub size: u32,
    /// The version of the format.
    pub format_version: u32,
    /// The name of the format, such as "qcow2".
    pub format: *const c_char,
    /// The size of the virtual disk in bytes.
    pub disk_size: u64,
    /// The unit in which the image allocates room, in bytes.
    pub cluster_size: u64,
    /// The granularity of a new bitmap where nothing else says one; 0 where the image can have none.
    pub default_granularity: u64,
    /// The name of the backing file as it is stored, without a NUL behind it; NULL if there is none.
    pub backing_file: *const c_char,
    /// The bytes of that name.
    pub backing_file_len: usize,
    /// The name of the external data file as it is stored, without a NUL behind it; NULL if there is none.
    pub data_file: *const c_char,
    /// The bytes of that name.
    pub data_file_len: usize,
    /// `CHECKMAP_MODEL_...`
    pub model: u32,
    /// `CHECKMAP_IMAGE_...`
    pub flags: u32,
}

// SAFETY: integers and pointers that may be NULL; the size comes first.
unsafe impl Sized32 for checkmap_image_info {}

/// Tells what an image is.
///
/// Everything but `info->size`, which the caller sets, is zero on error.
///
/// Ownership: the texts of `info` live until a call that changes the image succeeds, or its end, and may be passed to
/// that call.
///
/// Errors:
/// - `-ESTALE`: the image changed under a handle that holds no locks.
/// - what the system says, such as `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_image_get_info(
    image: *const checkmap_image,
    info: *mut checkmap_image_info,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `info`.
        let facts = unsafe { Facts::new(info, mem::size_of::<checkmap_image_info>(), "checkmap_image_info") }?;
        // SAFETY: the caller's promise for `image`.
        let open = unsafe { shared(image) }?;
        let image = open.fresh()?;
        let owned = |name: Option<&[u8]>| name.map(<[u8]>::to_vec);
        let look = || Files {
            format: text(image.format()),
            backing: owned(image.backing_file()),
            data: owned(image.data_file()),
        };
        let files = open.lent().files(look)?;
        let bytes =
            |name: &Option<Vec<u8>>| name.as_ref().map_or((ptr::null(), 0), |name| (name.as_ptr().cast(), name.len()));
        let (backing_file, backing_file_len) = bytes(&files.backing);
        let (data_file, data_file_len) = bytes(&files.data);
        let flag = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
        facts.put(&checkmap_image_info {
            size: 0,
            format_version: image.format_version(),
            format: files.format.as_ptr(),
            disk_size: image.virtual_size(),
            cluster_size: image.cluster_bytes(),
            default_granularity: image.default_granularity().map_or(0, |granularity| granularity.bytes()),
            backing_file,
            backing_file_len,
            data_file,
            data_file_len,
            model: model_number(image.chain(None).map_or(Model::Unknown, |chain| chain.model())),
            flags: flag(image.has_unclean_mark(), CHECKMAP_IMAGE_UNCLEAN)
                | flag(image.is_held_by_writer(), CHECKMAP_IMAGE_HELD_BY_WRITER)
                | flag(image.trouble().is_some(), CHECKMAP_IMAGE_TROUBLE),
        });
        Ok(0)
    })
}

/// Why no bitmap of the image can be used: the error that a diff would give.
///
/// Returns: 0 if they can be used; or a negative errno.
///
/// Errors:
/// - `-EUCLEAN`: software that knows nothing of bitmaps wrote to the image.
/// - `-EBADMSG`: the bitmaps, or their directory, are damaged.
/// - `-ENOTSUP`: the image needs something of its format that is unknown.
/// - `-ESTALE`: the image changed under a handle that holds no locks.
/// - what the system says, such as `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_image_trouble(image: *const checkmap_image) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `image`.
        let open = unsafe { shared(image) }?;
        match open.fresh()?.trouble() {
            None => Ok(0),
            Some(trouble) => Err(trouble.clone()),
        }
    })
}

/// The number of warnings: of the opening, or of the last call that changed the image or tried to.
///
/// Returns: a number of warnings; or a negative errno.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_image_warnings(image: *const checkmap_image) -> i64 {
    guard(|| {
        // SAFETY: the caller's promise for `image`.
        let open = unsafe { shared(image) }?;
        Ok(count(open.lent().warnings().len()))
    })
}

/// A warning, in UTF-8.
///
/// Returns: the text; NULL where there is none with that index.
///
/// Ownership: the text lives until a call that changes the image succeeds, or its end, and may be passed to that call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_image_warning(image: *const checkmap_image, index: usize) -> *const c_char {
    guard(|| {
        // SAFETY: the caller's promise for `image`.
        let open = unsafe { shared(image) }?;
        let lent = open.lent();
        let many = lent.warnings().len();
        let none = || Error::new(ErrorKind::OutOfRange, format!("there are {many} warnings"));
        Ok(lent.warnings().get(index).ok_or_else(none)?.as_ptr())
    })
}

/// Verifies every structure and rule of the image, and changes nothing.
///
/// Faults of the image stand in the report, and are no error.
///
/// Options: `progress`.
///
/// Errors:
/// - `-ECANCELED`: the call was stopped.
/// - `-ESTALE`: the image changed under a handle that holds no locks.
/// - what the system says, such as `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_image_check(
    image: *const checkmap_image,
    opts: *const checkmap_opts,
    out: *mut *mut checkmap_report,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        // SAFETY: the caller's promise for `opts`.
        let mut options = unsafe { Options::read(opts) }?;
        // SAFETY: the caller's promise for `image`.
        let open: Shared<'_, OpenImage> = unsafe { shared(image) }?;
        out.put(give(report_of(open.image.check(&mut options)?)?));
        Ok(0)
    })
}
