//! Owns what C programs learn of an error: an errno at once, and message and kind of the last one in each thread. Must never
//! know how an error came about.

use super::boundary::guard;
use crate::error::{Control, Error, ErrorKind, Spelling};
use std::borrow::Cow;
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
/// No checkpoint or bitmap has this name. (`ENOENT`, as `CHECKMAP_ERROR_IO` for a missing file: only the kind tells.)
pub const CHECKMAP_ERROR_NOT_FOUND: u32 = 8;
/// A checkpoint or bitmap of this name is there already. (`EEXIST`)
pub const CHECKMAP_ERROR_EXISTS: u32 = 9;
/// The content is no format that checkmap knows. (`ENOTSUP`)
pub const CHECKMAP_ERROR_UNKNOWN_FORMAT: u32 = 10;
/// The format is known, this version or feature of it is not. (`ENOTSUP`)
pub const CHECKMAP_ERROR_UNSUPPORTED: u32 = 11;
/// The bytes break a rule of their format. (`EBADMSG`)
pub const CHECKMAP_ERROR_DAMAGED: u32 = 12;
/// Another process, or another handle of this one, has the image open in a way that excludes this one. (`EBUSY`)
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
/// This image cannot take the change: no room in its header, a disk of size zero, a limit of its format. (`ENOTSUP`)
pub const CHECKMAP_ERROR_CANNOT_STORE: u32 = 28;
/// A call on this handle was cut short by a fault of checkmap itself: what it holds may be half a state. (`ENOTRECOVERABLE`)
pub const CHECKMAP_ERROR_POISONED: u32 = 29;
/// The system has no memory for what the call needs, and nothing was changed. (`ENOMEM`)
pub const CHECKMAP_ERROR_OUT_OF_MEMORY: u32 = 30;
/// A fork caught another thread in the middle of a change of this object: what the child holds may be half a state. (`EDEADLK`)
pub const CHECKMAP_ERROR_TORN_BY_FORK: u32 = 31;
/// A running hypervisor refused a command, or the connection to it broke. (`EREMOTEIO`)
pub const CHECKMAP_ERROR_HYPERVISOR: u32 = 32;

/// The bytes of a message, its final NUL included; a longer one is cut.
const MESSAGE_BYTES: usize = 1024;

/// The same of a message with marks, which are no part of the text.
const MARKED_BYTES: usize = 2048;

/// The bytes before, inside and behind a mark: no other text of a message has them.
const MARK: char = '\x1e';
const PART: char = '\x1f';

/// The last error of a thread. It has no destructor, so that nothing is left to do where a thread ends.
struct Last {
    message: UnsafeCell<[u8; MESSAGE_BYTES]>,
    marked: UnsafeCell<[u8; MARKED_BYTES]>,
    /// Whether a mark is being written.
    in_mark: Cell<bool>,
    kind: Cell<u32>,
    errno: Cell<c_int>,
}

thread_local! {
    static LAST: Last = const {
        Last {
            message: UnsafeCell::new(first_message()),
            marked: UnsafeCell::new(first_message()),
            in_mark: Cell::new(false),
            kind: Cell::new(0),
            errno: Cell::new(0),
        }
    };
}

const fn first_message<const BYTES: usize>() -> [u8; BYTES] {
    let mut message = [0; BYTES];
    let text = b"no error";
    let mut at = 0;
    while at < text.len() {
        message[at] = text[at];
        at += 1;
    }
    message
}

/// Writes text into a fixed buffer. Text that does not fit is left out, and so are NULs, which C would take for the end,
/// and bytes that would look like a mark; a mark is written whole or not at all.
struct Cut<'a> {
    buffer: &'a mut [u8],
    len: usize,
    in_mark: &'a Cell<bool>,
}

impl Cut<'_> {
    fn push(&mut self, text: &str) -> fmt::Result {
        let room = self.buffer.get_mut(self.len..self.len + text.len() + 1).ok_or(fmt::Error)?;
        room[..text.len()].copy_from_slice(text.as_bytes());
        room[text.len()] = 0;
        self.len += text.len();
        Ok(())
    }
}

impl Write for Cut<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.in_mark.get() {
            return self.push(text);
        }
        let mut character = [0; 4];
        let mut shown = text.chars().filter(|character| !['\0', MARK, PART].contains(character));
        shown.try_for_each(|shown| self.push(shown.encode_utf8(&mut character)))
    }
}

/// A control of a way out: its name in marks, its argument, and its spelling in C.
fn words(control: &Control) -> (&'static str, Option<Cow<'_, str>>, Cow<'static, str>) {
    let (name, in_c) = match control {
        Control::OpenForNames => ("OPEN_FOR_NAMES", "CHECKMAP_OPEN_FORCE_SHARE"),
        Control::NoLock => ("NO_LOCK", "CHECKMAP_OPEN_NO_LOCK"),
        Control::TopLayerOnly => ("TOP_LAYER_ONLY", "CHECKMAP_OPT_TOP_LAYER_ONLY"),
        Control::ForceInconsistent => ("FORCE_INCONSISTENT", "CHECKMAP_OPT_FORCE_INCONSISTENT"),
        Control::DeleteAllInconsistent => ("DELETE_INCONSISTENT", "checkmap_checkpoint_delete_inconsistent()"),
        Control::DropBitmap => ("DROP_BITMAP", "checkmap_stored_drop()"),
        Control::DropBitmapNamed(bitmap) => {
            let bitmap = String::from_utf8_lossy(bitmap);
            let in_c = format!("checkmap_stored_drop() of '{bitmap}'");
            return ("DROP_BITMAP", Some(bitmap), in_c.into());
        }
        Control::DropBefore(checkpoint) => {
            let checkpoint = String::from_utf8_lossy(checkpoint);
            let in_c = format!("checkmap_checkpoint_drop_before() of '{checkpoint}'");
            return ("DROP_BEFORE", Some(checkpoint), in_c.into());
        }
        Control::ForeignToo => ("FOREIGN_TOO", "CHECKMAP_OPT_FOREIGN_TOO"),
        Control::DropAll => ("DROP_ALL", "checkmap_stored_drop_all()"),
        Control::Model(None) => ("MODEL", "the model of the options"),
        Control::Model(Some(model)) => {
            return ("MODEL", Some((*model).into()), format!("the model {model} of the options").into());
        }
        Control::Until => ("UNTIL", "until"),
        Control::Create => ("CREATE", "checkmap_checkpoint_create()"),
        Control::NbdSocket => ("NBD_SOCKET", "nbd_socket of checkmap_qmp_opts"),
        Control::MaxStall => ("MAX_STALL", "max_stall_ms of checkmap_qmp_opts"),
        Control::Journal => ("JOURNAL", "a file as the first image"),
        Control::Recover => ("RECOVER", "checkmap_image_recover()"),
        Control::ForgetStep => ("FORGET_STEP", "checkmap_image_forget_step()"),
        Control::Check => ("CHECK", "checkmap_image_check()"),
        Control::List => ("LIST", "checkmap_checkpoint_list()"),
    };
    (name, None, in_c.into())
}

/// As C programs spell it.
fn spell(control: &Control, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str(&words(control).2)
}

/// Marked, for those who spell it in words of their own.
fn mark(control: &Control, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (name, with, in_c) = words(control);
    let with = with.map(|with| format!("={with}")).unwrap_or_default();
    // A control character in a user's name must not end the mark.
    let [with, in_c] = [with.as_str(), &in_c].map(|text| text.replace(char::is_control, "\u{fffd}"));
    let in_mark = |is_in| LAST.with(|last| last.in_mark.set(is_in));
    in_mark(true);
    let written = f.write_str(&format!("{MARK}{name}{with}{PART}{in_c}{MARK}"));
    in_mark(false);
    written
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
        // SAFETY: only this thread reaches its buffers, and this function calls nothing that could come back here; what C
        // holds are raw pointers, which the header says are good until the next failure.
        let (message, marked) = unsafe { (&mut *last.message.get(), &mut *last.marked.get()) };
        for (buffer, spelling) in [(&mut message[..], spell as Spelling), (&mut marked[..], mark)] {
            buffer[0] = 0;
            // Text that does not fit is left out.
            let _ = write!(Cut { buffer, len: 0, in_mark: &last.in_mark }, "{}", error.spelled(spelling));
        }
        last.kind.set(error.kind().number());
        last.errno.set(errno);
    });
    errno
}

/// The message of the last error of this thread, in UTF-8.
///
/// Its form: file: structure, offset: fault (advice): cause. A call that succeeds leaves it as it is.
///
/// Returns: the text, never NULL; "no error" before the first error.
///
/// Ownership: the text is the library's, and good until the next call that fails in this thread: copy it at once, above
/// all where a coroutine may go on in another thread.
#[unsafe(no_mangle)]
pub extern "C" fn checkmap_last_error() -> *const c_char {
    LAST.with(|last| last.message.get().cast_const().cast())
}

/// The message of the last error of this thread, with a mark in the place of each call and option that it names.
///
/// It is for programs and other languages that have words of their own for them. A mark is the byte 0x1e, a name, the
/// byte 0x1f, what `checkmap_last_error()` has in this place, and the byte 0x1e again. The names are OPEN_FOR_NAMES,
/// NO_LOCK, TOP_LAYER_ONLY, FORCE_INCONSISTENT, DELETE_INCONSISTENT, DROP_BEFORE, DROP_BITMAP, DROP_ALL, FOREIGN_TOO,
/// MODEL, UNTIL, CHECK, LIST, CREATE, NBD_SOCKET, MAX_STALL, JOURNAL, RECOVER and FORGET_STEP; one may be followed by = and
/// what to call it with, as in MODEL=interval. More can come, so take the second part for a name that is unknown.
///
/// Returns: the text, never NULL; "no error" before the first error.
///
/// Ownership: the text is the library's, and good until the next call that fails in this thread.
#[unsafe(no_mangle)]
pub extern "C" fn checkmap_last_error_marked() -> *const c_char {
    LAST.with(|last| last.marked.get().cast_const().cast())
}

/// The kind of the last error of this thread.
///
/// Returns: one of `CHECKMAP_ERROR_...`; 0 before the first error.
#[unsafe(no_mangle)]
pub extern "C" fn checkmap_last_error_kind() -> u32 {
    LAST.with(|last| last.kind.get())
}

/// The errno of the last error of this thread, for the calls that cannot return one, such as `checkmap_bitmap_size()`.
///
/// Returns: a positive errno; 0 before the first error.
#[unsafe(no_mangle)]
pub extern "C" fn checkmap_last_error_errno() -> c_int {
    LAST.with(|last| last.errno.get())
}

/// The name of a kind of error, such as "`CHECKMAP_ERROR_DAMAGED`".
///
/// Returns: the name; NULL for a number that is no kind.
///
/// Ownership: the text lives as long as the library.
#[unsafe(no_mangle)]
pub extern "C" fn checkmap_error_name(kind: u32) -> *const c_char {
    guard(|| Ok(name_of(kind).map_or(std::ptr::null(), CStr::as_ptr)))
}

/// The errno that a kind of error has where the system gave none.
///
/// Returns: a positive errno; 0 for a number that is no kind.
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
        CHECKMAP_ERROR_HYPERVISOR => c"CHECKMAP_ERROR_HYPERVISOR",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::WayOut;

    #[test]
    fn the_numbers_and_names_of_c_are_those_of_the_table() {
        for kind in ErrorKind::ALL {
            let name = name_of(kind.number()).expect("every kind has a name");
            assert_eq!(name.to_str(), Ok(kind.c_name()));
            assert_eq!(checkmap_error_errno(kind.number()), kind.errno());
        }
        assert!(name_of(0).is_none() && name_of(CHECKMAP_ERROR_HYPERVISOR + 1).is_none());
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
    fn a_marked_message_has_the_same_text_and_marks_that_no_text_can_forge() {
        // SAFETY: the buffers are this thread's, end with NUL, and nothing fails meanwhile.
        let told = |text| unsafe { CStr::from_ptr(text) }.to_str().expect("UTF-8").to_owned();
        let told = || (told(checkmap_last_error()), told(checkmap_last_error_marked()));
        let error = |message: &str| {
            let way_out = WayOut::from("insist with ").control(Control::NoLock).words(", or give ");
            Error::new(ErrorKind::NoLocks, message).advise(way_out.control(Control::Model(Some("inter\x1eval"))))
        };
        remember(&error("no\x1eLOCK\x1fs"));
        let (plain, marked) = told();
        assert_eq!(plain, "noLOCKs (insist with CHECKMAP_OPEN_NO_LOCK, or give the model interval of the options)");
        assert_eq!(
            marked,
            "noLOCKs (insist with \x1eNO_LOCK\x1fCHECKMAP_OPEN_NO_LOCK\x1e, or give \
             \x1eMODEL=inter\u{fffd}val\x1fthe model inter\u{fffd}val of the options\x1e)"
        );
        // A mark that does not fit is left out whole, wherever the message ends.
        let step = if cfg!(miri) { 35 } else { 1 };
        for len in (MARKED_BYTES - 200..MARKED_BYTES + 10).step_by(step) {
            remember(&error(&"x".repeat(len)));
            let (plain, marked) = told();
            assert_eq!((plain.len(), marked.matches(MARK).count() % 2), (MESSAGE_BYTES - 1, 0), "{len}");
            assert_eq!(marked.matches(PART).count(), marked.matches(MARK).count() / 2, "{len}");
        }
    }

    #[test]
    fn no_errno_is_taken_for_none() {
        let denied = Error::io("cannot open", std::io::Error::from_raw_os_error(libc::EPERM));
        assert_eq!(remember(&denied), libc::EACCES);
    }
}
