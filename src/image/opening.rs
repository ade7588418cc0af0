#![forbid(unsafe_code)]
//! Owns the opening of an image's file: by its path, or anew from a descriptor. Must never read what
//! is in it.

use super::Access;
use crate::error::{Error, ErrorKind, Result, in_words};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{FileStat, SFlag, fstat};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Opens the file at `path`.
pub(super) fn open(path: &Path, access: Access) -> Result<File> {
    let write = access == Access::Write;
    let file = open_nonblocking(path, write).map_err(|error| cannot_open(error, write))?;
    check_permissions(&file, write)?;
    Ok(file)
}

/// Opens for writing as well the file behind one that was opened for reading.
pub(super) fn reopen_for_writing(ours: &File) -> Result<File> {
    let file = open_nonblocking(&path_of(ours.as_fd()), true).map_err(|error| cannot_open(error, true))?;
    check_permissions(&file, true)?;
    check_same(&file, &fstat(ours).map_err(failed_to_look)?)?;
    Ok(file)
}

fn cannot_open(error: io::Error, write: bool) -> Error {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM | libc::EROFS) if write => read_only(error),
        _ => Error::io("cannot open", error),
    }
}

fn check_permissions(file: &File, write: bool) -> Result<()> {
    // Root may write where the permission is taken away; the owner who took it away wants the image to stay as it is.
    let permissions = file.metadata().map_err(|error| Error::io("cannot look at it", error))?.permissions();
    if write && permissions.mode() & 0o222 == 0 {
        return Err(read_only(io::Error::from_raw_os_error(libc::EACCES)));
    }
    Ok(())
}

/// Opens the file behind `given` once more, so that the image has an open file of its own: with its own locks, its own
/// position and none of the caller's modes. Never with more rights than `given` has.
pub(super) fn reopen(given: BorrowedFd<'_>, access: Access) -> Result<File> {
    check_mode(mode(given)?, access)?;
    let stat = fstat(given).map_err(failed_to_look)?;
    // Others are refused without opening them: that would be an event for who serves a pipe or a terminal.
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFREG && kind != SFlag::S_IFBLK {
        let error = match kind {
            SFlag::S_IFDIR => io::Error::from_raw_os_error(libc::EISDIR),
            _ => io::Error::new(io::ErrorKind::InvalidInput, "neither a file nor a block device"),
        };
        return Err(Error::io("cannot be used as an image", error));
    }
    let opened = open_nonblocking(&path_of(given), access == Access::Write);
    let file = opened.map_err(|error| no_locks(&in_words(&error)))?;
    check_same(&file, &stat)?;
    Ok(file)
}

/// Whether a descriptor that can be read can be written too.
pub(super) fn is_writable(given: BorrowedFd<'_>) -> Result<bool> {
    Ok(mode(given)? & OFlag::O_ACCMODE == OFlag::O_RDWR)
}

fn mode(given: BorrowedFd<'_>) -> Result<OFlag> {
    fcntl(given, FcntlArg::F_GETFL).map(OFlag::from_bits_retain).map_err(failed_to_look)
}

fn failed_to_look(errno: nix::Error) -> Error {
    Error::io("cannot look at the descriptor", errno.into())
}

fn path_of(given: BorrowedFd<'_>) -> PathBuf {
    format!("/proc/self/fd/{}", given.as_raw_fd()).into()
}

/// Refuses another file than the one of `stat`, for systems with something else at /proc.
fn check_same(file: &File, stat: &FileStat) -> Result<()> {
    let metadata = file.metadata().map_err(|error| Error::io("cannot look at it", error))?;
    match (metadata.dev(), metadata.ino()) == (stat.st_dev, stat.st_ino) {
        true => Ok(()),
        false => Err(no_locks("/proc leads to another file")),
    }
}

/// A pipe would block the opening; on files and devices the flag has no effect.
fn open_nonblocking(path: &Path, write: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(write).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Refuses a descriptor that does not allow the access.
fn check_mode(flags: OFlag, access: Access) -> Result<()> {
    let refused = |message: &str| Err(Error::new(ErrorKind::InvalidArgument, message));
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
