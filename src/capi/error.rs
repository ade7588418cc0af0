//! Owns what C programs learn of an error: an errno at once, and message and kind of the last one in each thread. Must never
//! know how an error came about.

use super::boundary::guard;
use crate::error::{Control, Error, ErrorKind};
use std::cell::{Cell, UnsafeCell};
use std::ffi::{CStr, c_char, c_int};
use std::fmt::{self, Write};

/// The operating system refused; the errno is its own. (`EIO` where it gave none)
pub const CHECKMAP_ERROR_IO: u32 = 1;
/// The disk, or the block device that cannot grow, is full. (`ENOSPC`)
pub const CHECKMAP_ERROR_NO_SPACE: u32 = 2;
/// An argument that no disk could make right: a granularity that is no power of two, an unaligned clear. (`EINVAL`)
pub const CHECKMAP_ERROR_INVALID_ARGUMENT: u32 = 3;
/// A range that ends past the last granule of the disk. (`ERANGE`)
pub const CHECKMAP_ERROR_OUT_OF_RANGE: u32 = 4;
/// Two bitmaps of disks of different size. (`EINVAL`)
pub const CHECKMAP_ERROR_SIZE_MISMATCH: u32 = 5;
/// A name that is empty or holds what a name may not hold. (`EINVAL`)
pub const CHECKMAP_ERROR_INVALID_NAME: u32 = 6;
/// A name above the limit. (`ENAMETOOLONG`)
pub const CHECKMAP_ERROR_NAME_TOO_LONG: u32 = 7;
/// No checkpoint or bitmap has this name. (`ENOENT`)
pub const CHECKMAP_ERROR_NOT_FOUND: u32 = 8;
/// A checkpoint or bitmap of this name is there already. (`EEXIST`)
pub const CHECKMAP_ERROR_EXISTS: u32 = 9;
/// The content is no format that checkmap knows. (`ENOTSUP`)
pub const CHECKMAP_ERROR_UNKNOWN_FORMAT: u32 = 10;
/// The format is known, this version or feature of it is not. (`ENOTSUP`)
pub const CHECKMAP_ERROR_UNSUPPORTED: u32 = 11;
/// The bytes break a rule of their format. (`EBADMSG`)
pub const CHECKMAP_ERROR_DAMAGED: u32 = 12;
/// Another process has the image open in a way that excludes this one. (`EBUSY`)
pub const CHECKMAP_ERROR_IN_USE: u32 = 13;
/// The file system cannot lock, so nothing protects the image from a running QEMU. (`ENOLCK`)
pub const CHECKMAP_ERROR_NO_LOCKS: u32 = 14;
/// The image, or the handle to it, does not allow writing. (`EROFS`)
pub const CHECKMAP_ERROR_READ_ONLY: u32 = 15;
/// The image carries the mark of a crash (dirty) or of damage (corrupt), so its free space cannot be trusted. (`EUCLEAN`)
pub const CHECKMAP_ERROR_UNCLEAN: u32 = 16;
/// Software that knows nothing of bitmaps wrote to the image: every bitmap in it is out of date. (`EUCLEAN`)
pub const CHECKMAP_ERROR_STALE: u32 = 17;
/// A bitmap was not stored when its writer ended: its content cannot be trusted. (`EUCLEAN`)
pub const CHECKMAP_ERROR_INCONSISTENT: u32 = 18;
/// A bitmap that must record does not, or one that must be frozen records. (`EPROTO`)
pub const CHECKMAP_ERROR_RECORDING: u32 = 19;
/// The names of the bitmaps do not form one chain of checkpoints. (`EPROTO`)
pub const CHECKMAP_ERROR_BROKEN_CHAIN: u32 = 20;
/// The model of the checkpoints is unknown, or does not offer this operation. (`EPROTO`)
pub const CHECKMAP_ERROR_MODEL: u32 = 21;
/// The checkpoints asked for are in the wrong order. (`EPROTO`)
pub const CHECKMAP_ERROR_ORDER: u32 = 22;
/// A layer below the image takes part, or cannot be read, so the answer would be short. (`EPROTO`)
pub const CHECKMAP_ERROR_BACKING_LAYER: u32 = 23;
/// The caller asked to stop, and nothing was changed. (`ECANCELED`)
pub const CHECKMAP_ERROR_CANCELLED: u32 = 24;
/// Writing failed after the commit began: the image holds the state before or the state after, whole. (`EIO`)
pub const CHECKMAP_ERROR_COMMIT_IN_DOUBT: u32 = 25;
/// The image changed under a handle that holds no locks. (`ESTALE`)
pub const CHECKMAP_ERROR_CHANGED: u32 = 26;
/// The image is of a version that cannot hold bitmaps. (`ENOTSUP`)
pub const CHECKMAP_ERROR_OLD_VERSION: u32 = 27;
/// This image cannot take what was asked for: no room in its header, a disk of size zero, a limit of its format. (`ENOTSUP`)
pub const CHECKMAP_ERROR_CANNOT_STORE: u32 = 28;
/// A call on this handle was cut short by a fault of checkmap itself: what it holds may be half a state. (`ENOTRECOVERABLE`)
pub const CHECKMAP_ERROR_POISONED: u32 = 29;
/// The system has no memory for what the call needs, and nothing was changed. (`ENOMEM`)
pub const CHECKMAP_ERROR_OUT_OF_MEMORY: u32 = 30;
/// A fork caught another thread in the middle of a change of this object: what the child holds may be half a state. (`EDEADLK`)
pub const CHECKMAP_ERROR_TORN_BY_FORK: u32 = 31;

/// The bytes of a message, its final NUL included; a longer one is cut.
const MESSAGE_BYTES: usize = 1024;

/// The last error of a thread. It has no destructor, so that nothing is left to do where a thread ends.
struct Last {
    message: UnsafeCell<[u8; MESSAGE_BYTES]>,
    kind: Cell<u32>,
    errno: Cell<c_int>,
}

thread_local! {
    static LAST: Last = const {
        Last { message: UnsafeCell::new(first_message()), kind: Cell::new(0), errno: Cell::new(0) }
    };
}

const fn first_message() -> [u8; MESSAGE_BYTES] {
    let mut message = [0; MESSAGE_BYTES];
    let text = b"no error";
    let mut at = 0;
    while at < text.len() {
        message[at] = text[at];
        at += 1;
    }
    message
}

/// Writes text into a fixed buffer, leaving out what does not fit and the NULs that C would take for the end.
struct Cut<'a> {
    buffer: &'a mut [u8; MESSAGE_BYTES],
    len: usize,
}

impl Write for Cut<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars().filter(|character| *character != '\0') {
            if self.len + character.len_utf8() >= MESSAGE_BYTES {
                return Err(fmt::Error);
            }
            self.len += character.encode_utf8(&mut self.buffer[self.len..]).len();
        }
        Ok(())
    }
}

/// How C programs spell what a way out names.
fn spelling(control: &Control, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str(match control {
        Control::OpenForNames => "CHECKMAP_OPEN_FORCE_SHARE",
        Control::NoLock => "CHECKMAP_OPEN_NO_LOCK",
        Control::TopLayerOnly => "CHECKMAP_OPT_TOP_LAYER_ONLY",
        Control::ForceInconsistent => "CHECKMAP_OPT_FORCE_INCONSISTENT",
        Control::DeleteAllInconsistent => "checkmap_checkpoint_delete_inconsistent()",
        Control::DropBitmap | Control::DropBitmapNamed(_) => "`checkmap drop --bitmap`",
        Control::DropBefore(_) => "`checkmap drop --before`",
        Control::DropAll | Control::ForeignToo => "`checkmap drop --all`",
        Control::Model(None) => "the model of the options",
        Control::Model(Some(model)) => return write!(f, "the model {model} of the options"),
        Control::Until => "until",
        Control::Check => "checkmap_image_check()",
        Control::List => "checkmap_checkpoint_list()",
    })
}

/// Keeps `error` as the last one of this thread, and returns its positive errno.
pub(super) fn remember(error: &Error) -> c_int {
    // -EPERM is -1, which the calls that look for an offset return for "none".
    let errno = match error.errno() {
        libc::EPERM => libc::EACCES,
        errno if errno > 0 => errno,
        _ => libc::EIO,
    };
    LAST.with(|last| {
        // SAFETY: only this thread reaches its buffer, and this function calls nothing that could come back here; what C
        // holds is a raw pointer, which the header says is good until the next failure.
        let buffer = unsafe { &mut *last.message.get() };
        let mut cut = Cut { buffer, len: 0 };
        // What does not fit is left out.
        let _ = write!(cut, "{}", error.spelled(spelling));
        let end = cut.len;
        cut.buffer[end] = 0;
        last.kind.set(error.kind().number());
        last.errno.set(errno);
    });
    errno
}

/// The message of the last error of this thread, in UTF-8: `file: structure, offset: what is wrong (advice): cause`.
///
/// Never NULL; "no error" before the first one. A call that succeeds leaves it as it is. The text is good until the next
/// call that fails in this thread: copy it at once, above all where a coroutine may go on in another thread.
#[unsafe(no_mangle)]
pub extern "C" fn checkmap_last_error() -> *const c_char {
    LAST.with(|last| last.message.get().cast_const().cast())
}

/// The kind of the last error of this thread, one of `CHECKMAP_ERROR_...`; 0 before the first one.
#[unsafe(no_mangle)]
pub extern "C" fn checkmap_last_error_kind() -> u32 {
    LAST.with(|last| last.kind.get())
}

/// The positive errno of the last error of this thread; 0 before the first one.
///
/// For the calls that cannot return one, such as `checkmap_bitmap_size()`.
#[unsafe(no_mangle)]
pub extern "C" fn checkmap_last_error_errno() -> c_int {
    LAST.with(|last| last.errno.get())
}

/// The name of a kind of error, such as "CHECKMAP_ERROR_DAMAGED"; NULL for a number that is none.
///
/// The text lives as long as the library.
#[unsafe(no_mangle)]
pub extern "C" fn checkmap_error_name(kind: u32) -> *const c_char {
    guard(|| Ok(name_of(kind).map_or(std::ptr::null(), CStr::as_ptr)))
}

/// The errno that a kind of error has where the system gave none; 0 for a number that is none.
#[unsafe(no_mangle)]
pub extern "C" fn checkmap_error_errno(kind: u32) -> c_int {
    ErrorKind::ALL.iter().find(|known| known.number() == kind).map_or(0, |known| known.errno())
}

fn name_of(kind: u32) -> Option<&'static CStr> {
    Some(match kind {
        CHECKMAP_ERROR_IO => c"CHECKMAP_ERROR_IO",
        CHECKMAP_ERROR_NO_SPACE => c"CHECKMAP_ERROR_NO_SPACE",
        CHECKMAP_ERROR_INVALID_ARGUMENT => c"CHECKMAP_ERROR_INVALID_ARGUMENT",
        CHECKMAP_ERROR_OUT_OF_RANGE => c"CHECKMAP_ERROR_OUT_OF_RANGE",
        CHECKMAP_ERROR_SIZE_MISMATCH => c"CHECKMAP_ERROR_SIZE_MISMATCH",
        CHECKMAP_ERROR_INVALID_NAME => c"CHECKMAP_ERROR_INVALID_NAME",
        CHECKMAP_ERROR_NAME_TOO_LONG => c"CHECKMAP_ERROR_NAME_TOO_LONG",
        CHECKMAP_ERROR_NOT_FOUND => c"CHECKMAP_ERROR_NOT_FOUND",
        CHECKMAP_ERROR_EXISTS => c"CHECKMAP_ERROR_EXISTS",
        CHECKMAP_ERROR_UNKNOWN_FORMAT => c"CHECKMAP_ERROR_UNKNOWN_FORMAT",
        CHECKMAP_ERROR_UNSUPPORTED => c"CHECKMAP_ERROR_UNSUPPORTED",
        CHECKMAP_ERROR_DAMAGED => c"CHECKMAP_ERROR_DAMAGED",
        CHECKMAP_ERROR_IN_USE => c"CHECKMAP_ERROR_IN_USE",
        CHECKMAP_ERROR_NO_LOCKS => c"CHECKMAP_ERROR_NO_LOCKS",
        CHECKMAP_ERROR_READ_ONLY => c"CHECKMAP_ERROR_READ_ONLY",
        CHECKMAP_ERROR_UNCLEAN => c"CHECKMAP_ERROR_UNCLEAN",
        CHECKMAP_ERROR_STALE => c"CHECKMAP_ERROR_STALE",
        CHECKMAP_ERROR_INCONSISTENT => c"CHECKMAP_ERROR_INCONSISTENT",
        CHECKMAP_ERROR_RECORDING => c"CHECKMAP_ERROR_RECORDING",
        CHECKMAP_ERROR_BROKEN_CHAIN => c"CHECKMAP_ERROR_BROKEN_CHAIN",
        CHECKMAP_ERROR_MODEL => c"CHECKMAP_ERROR_MODEL",
        CHECKMAP_ERROR_ORDER => c"CHECKMAP_ERROR_ORDER",
        CHECKMAP_ERROR_BACKING_LAYER => c"CHECKMAP_ERROR_BACKING_LAYER",
        CHECKMAP_ERROR_CANCELLED => c"CHECKMAP_ERROR_CANCELLED",
        CHECKMAP_ERROR_COMMIT_IN_DOUBT => c"CHECKMAP_ERROR_COMMIT_IN_DOUBT",
        CHECKMAP_ERROR_CHANGED => c"CHECKMAP_ERROR_CHANGED",
        CHECKMAP_ERROR_OLD_VERSION => c"CHECKMAP_ERROR_OLD_VERSION",
        CHECKMAP_ERROR_CANNOT_STORE => c"CHECKMAP_ERROR_CANNOT_STORE",
        CHECKMAP_ERROR_POISONED => c"CHECKMAP_ERROR_POISONED",
        CHECKMAP_ERROR_OUT_OF_MEMORY => c"CHECKMAP_ERROR_OUT_OF_MEMORY",
        CHECKMAP_ERROR_TORN_BY_FORK => c"CHECKMAP_ERROR_TORN_BY_FORK",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_and_names_of_c_are_those_of_the_table() {
        for kind in ErrorKind::ALL {
            let name = name_of(kind.number()).expect("every kind has a name");
            assert_eq!(name.to_str(), Ok(kind.c_name()));
            assert_eq!(checkmap_error_errno(kind.number()), kind.errno());
        }
        assert!(name_of(0).is_none() && name_of(CHECKMAP_ERROR_TORN_BY_FORK + 1).is_none());
        assert!(checkmap_error_name(u32::MAX).is_null());
    }

    #[test]
    fn a_long_message_is_cut_between_characters_and_ends_with_nul() {
        let errno = remember(&Error::new(ErrorKind::Damaged, "a\0b".to_owned() + &"\u{e4}".repeat(600)));
        assert_eq!((errno, checkmap_last_error_kind()), (libc::EBADMSG, CHECKMAP_ERROR_DAMAGED));
        // SAFETY: the buffer is this thread's, ends with NUL, and nothing fails meanwhile.
        let text = unsafe { CStr::from_ptr(checkmap_last_error()) }.to_str().expect("UTF-8");
        assert!(text.starts_with("ab\u{e4}") && text.len() > 1000 && text.len() < MESSAGE_BYTES);
    }

    #[test]
    fn no_errno_is_taken_for_none() {
        let denied = Error::io("cannot open", std::io::Error::from_raw_os_error(libc::EPERM));
        assert_eq!(remember(&denied), libc::EACCES);
    }
}
