#![forbid(unsafe_code)]
//! Owns how the file of an image is come by: opened by its path, or opened anew from a descriptor. Must never read what
//! is in it.

use super::Access;
use crate::error::{Error, ErrorKind, Result};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{SFlag, fstat};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Opens the file at `path`.
pub(super) fn open(path: &Path, access: Access) -> Result<File> {
    let write = access == Access::Write;
    let file = open_nonblocking(path, write).map_err(|error| match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM | libc::EROFS) if write => read_only(error),
        _ => Error::io("cannot open", error),
    })?;
    // Root may write where nobody has the permission; who took it away meant the image to stay as it is.
    let permissions = file.metadata().map_err(|error| Error::io("cannot look at it", error))?.permissions();
    if write && permissions.mode() & 0o222 == 0 {
        return Err(read_only(io::Error::from_raw_os_error(libc::EACCES)));
    }
    Ok(file)
}

/// Opens the file behind `given` once more, so that the image has an open file of its own: with its own locks, its own
/// position and none of the caller's modes. Never with more rights than `given` has.
pub(super) fn reopen(given: BorrowedFd<'_>, access: Access) -> Result<File> {
    let failed = |errno: nix::Error| Error::io("cannot look at the descriptor", errno.into());
    check_mode(fcntl(given, FcntlArg::F_GETFL).map_err(failed)?, access)?;
    let stat = fstat(given).map_err(failed)?;
    // Others are refused without opening them: that would be an event for who serves a pipe or a terminal.
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFREG && kind != SFlag::S_IFBLK {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "neither a file nor a block device");
        return Err(Error::io("cannot be used as an image", error));
    }
    let path = format!("/proc/self/fd/{}", given.as_raw_fd());
    let file = open_nonblocking(Path::new(&path), access == Access::Write).map_err(|error| no_locks(&error.to_string()))?;
    let metadata = file.metadata().map_err(|error| Error::io("cannot look at it", error))?;
    if (metadata.dev(), metadata.ino()) != (stat.st_dev, stat.st_ino) {
        return Err(no_locks("/proc leads to another file"));
    }
    Ok(file)
}

/// A pipe would block the opening; on files and devices the flag has no effect.
fn open_nonblocking(path: &Path, write: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(write).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Refuses a descriptor that cannot do what it is wanted for.
fn check_mode(flags: i32, access: Access) -> Result<()> {
    let refused = |message: &str| Err(Error::new(ErrorKind::InvalidArgument, message));
    let flags = OFlag::from_bits_retain(flags);
    if flags.contains(OFlag::O_PATH) {
        return refused("the descriptor was opened with O_PATH, which allows no reading");
    }
    if flags.contains(OFlag::O_APPEND) {
        return refused("the descriptor was opened with O_APPEND: an image is not written at its end only");
    }
    match flags & OFlag::O_ACCMODE {
        OFlag::O_RDWR => Ok(()),
        OFlag::O_RDONLY if access != Access::Write => Ok(()),
        OFlag::O_RDONLY => Err(Error::new(ErrorKind::ReadOnly, "the descriptor was not opened for writing")),
        _ => refused("the descriptor was not opened for reading"),
    }
}

fn read_only(error: io::Error) -> Error {
    Error::new(ErrorKind::ReadOnly, "the image cannot be written").with_source(error).advise("make it writable first")
}

fn no_locks(why: &str) -> Error {
    let message = format!("the descriptor cannot be opened anew, for locks of its own: {why}");
    Error::new(ErrorKind::NoLocks, message).advise("open the image by its path")
}
