#![forbid(unsafe_code)]
//! Owns the locks that QEMU takes on an image file, so that checkmap and QEMU refuse while the other writes.
//! Must never know the file's format.
//!
//! QEMU (`file-posix`) holds shared open-file-description locks on single bytes: byte 100+p for a permission p it
//! uses, byte 200+p for one it does not let others use (p: 0 consistent read, 1 write, 3 resize). It then probes,
//! without taking anything, that nobody denies what it uses and nobody uses what it denies. Seen with QEMU 10.0.2: a
//! writer holds 100, 101, 103, 201 and 203; a reader 100, 201 and 203.

use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use nix::fcntl::{FcntlArg, fcntl};
use std::fs::File;
use std::sync::Arc;

const USES: libc::off_t = 100;
const DENIES: libc::off_t = 200;
const READ: libc::off_t = 0;
const WRITE: libc::off_t = 1;
const RESIZE: libc::off_t = 3;

/// The use that the holder of the locks makes of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Reader,
    Writer,
}

impl Role {
    fn uses(self) -> &'static [libc::off_t] {
        match self {
            Role::Reader => &[READ],
            Role::Writer => &[READ, WRITE, RESIZE],
        }
    }
}

/// The uses that both roles deny to others.
const DENIED: &[libc::off_t] = &[WRITE, RESIZE];

/// Locks on an image, released when this is dropped.
///
/// They are released by name, not by closing the file alone: a child that another thread is just starting holds a copy
/// of every descriptor until it executes its program, and would keep the locks until then.
#[derive(Debug)]
pub(crate) struct Held {
    file: Arc<File>,
    role: Role,
}

impl Held {
    /// Turns the locks of a reader into those of a writer, on `file`: another open file of the same file. At every moment
    /// one of the two keeps other writers out. On failure the reader's locks are held as before.
    pub(crate) fn upgrade(&mut self, file: &Arc<File>) -> Result<()> {
        let writer = Held { file: Arc::clone(file), role: Role::Writer };
        take(&writer.file, writer.role)?;
        self.release();
        match probe(&writer.file, writer.role) {
            Ok(()) => {
                *self = writer;
                Ok(())
            }
            Err(refused) => {
                take(&self.file, self.role)?;
                Err(refused)
            }
        }
    }

    fn release(&self) {
        for byte in bytes_held(self.role) {
            // Should this fail, closing the last descriptor releases the lock.
            let _ = fcntl(&self.file, FcntlArg::F_OFD_SETLK(&lock(libc::F_UNLCK, byte)));
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}

/// Takes the locks of `role` on `file`.
///
/// Fails with [`ErrorKind::InUse`] when another process, or another open file of this one, is in the way, with
/// [`ErrorKind::NoLocks`] when the file system has no such locks. On failure nothing stays locked.
pub(crate) fn acquire(file: &Arc<File>, role: Role) -> Result<Held> {
    let held = Held { file: Arc::clone(file), role };
    take(&held.file, role)?;
    probe(&held.file, role).map(|()| held)
}

/// Whether something else has `file` open for writing; false as well where that cannot be told.
pub(crate) fn held_by_writer(file: &File) -> bool {
    held_by_another(file, USES + WRITE).unwrap_or(false)
}

/// Fails with [`ErrorKind::InUse`] where something else has `file` open for writing, as far as that can be told; takes
/// no lock.
pub(crate) fn check_no_writer(file: &File) -> Result<()> {
    if held_by_writer(file) { Err(in_use(WRITES)) } else { Ok(()) }
}

fn bytes_held(role: Role) -> impl Iterator<Item = libc::off_t> {
    role.uses().iter().map(|use_| USES + use_).chain(DENIED.iter().map(|denied| DENIES + denied))
}

fn take(file: &File, role: Role) -> Result<()> {
    for byte in bytes_held(role) {
        fcntl(file, FcntlArg::F_OFD_SETLK(&lock(libc::F_RDLCK, byte))).map_err(|errno| match errno {
            nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES => in_use("holds it alone"),
            _ => no_locks(errno),
        })?;
    }
    Ok(())
}

/// Fails where another program denies a use of `role`, or has a use that `role` denies.
fn probe(file: &File, role: Role) -> Result<()> {
    for use_ in role.uses() {
        if held_by_another(file, DENIES + use_)? {
            return Err(in_use(match role {
                Role::Reader => "does not let others read it",
                Role::Writer => "has it open and does not let others write to it",
            }));
        }
    }
    for denied in DENIED {
        if held_by_another(file, USES + denied)? {
            return Err(in_use(WRITES));
        }
    }
    Ok(())
}

fn held_by_another(file: &File, byte: libc::off_t) -> Result<bool> {
    let mut probe = lock(libc::F_WRLCK, byte);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut probe)).map_err(no_locks)?;
    Ok(probe.l_type != short(libc::F_UNLCK))
}

fn lock(kind: i32, byte: libc::off_t) -> libc::flock {
    libc::flock { l_type: short(kind), l_whence: short(libc::SEEK_SET), l_start: byte, l_len: 1, l_pid: 0 }
}

#[expect(clippy::cast_possible_truncation, reason = "the lock kinds are 0, 1 and 2, the kernel's field is a short")]
const fn short(constant: i32) -> libc::c_short {
    constant as libc::c_short
}

const WRITES: &str = "has it open for writing";

fn in_use(how: &str) -> Error {
    Error::new(ErrorKind::InUse, format!("this or another process {how}")).advise(
        WayOut::from("stop it, or ask the running QEMU itself; ")
            .control(Control::OpenForNames)
            .words(" shows names without the locks"),
    )
}

fn no_locks(errno: nix::errno::Errno) -> Error {
    // The cause is in words: the errno of this kind does not depend on the file system's answer.
    let message = format!("the file system cannot lock ({}), so a running QEMU would not be noticed", errno.desc());
    Error::new(ErrorKind::NoLocks, message)
        .advise(WayOut::from("make sure that nothing else uses the image, then insist with ").control(Control::NoLock))
}
