#![forbid(unsafe_code)]
//! Owns the Unix socket on which clients are waited for: its file, the threads of the clients, and the end of both. Must never
//! know the conversations.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::{Export, converse};
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::Address;
use crate::pool;
use crate::progress::{Observer, Step};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_send_buffer_size, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// How many clients a server has at once unless it is told otherwise.
pub const DEFAULT_CLIENTS: usize = 64;

/// The observer is asked this often while nobody comes.
const PATIENCE: Duration = Duration::from_millis(50);

/// A wait after the system had no room for another connection.
const BREATH: Duration = Duration::from_millis(20);

/// The most bytes of a socket's path, which ends with a NUL in the kernel's field of 108.
const MOST_PATH_BYTES: usize = 107;

/// The bytes of answers that wait in the system for a client.
const SEND_BUFFER_BYTES: usize = 2 << 20;

/// The socket inside of the folder in which it is made.
const NAME_WHEN_NEW: &str = "s";

/// A Unix socket that waits for clients. Its file is removed when it is dropped, unless it is another's by then.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
}

impl Listener {
    /// Listens at `path`, which only the user of this process may connect to. A socket there on which nobody listens is
    /// replaced; the new one appears in one step, and takes connections at once.
    ///
    /// [`ErrorKind::InUse`]: somebody listens there. [`ErrorKind::Exists`]: something else than a socket is there.
    /// [`ErrorKind::InvalidArgument`]: the path has more than 107 bytes. Else [`ErrorKind::Io`].
    pub fn bind(path: &Path) -> Result<Self> {
        Self::bound(path).map_err(|error| error.in_file(path))
    }

    fn bound(path: &Path) -> Result<Self> {
        let failed = |error: io::Error| Error::io("cannot make the socket", error);
        if path.as_os_str().len() > MOST_PATH_BYTES || path.file_name().is_none() {
            let message = format!("a socket's path has a name and at most {MOST_PATH_BYTES} bytes");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        // Of two servers that find the same stale socket, the second one waits and then finds the first one's.
        let turn = File::open(folder).map_err(failed)?;
        let _ = flock(&turn, FlockOperation::LockExclusive);
        refuse_living(path)?;
        let made_in = tempfile::Builder::new().prefix(".checkmap-").tempdir_in(folder).map_err(failed)?;
        let new = made_in.path().join(NAME_WHEN_NEW);
        // The way through the descriptor is short, however long the path is.
        let place = File::open(made_in.path()).map_err(failed)?;
        let short = format!("/proc/self/fd/{}/{NAME_WHEN_NEW}", place.as_raw_fd());
        let listener = UnixListener::bind(short).or_else(|_| UnixListener::bind(&new)).map_err(failed)?;
        fs::set_permissions(&new, Permissions::from_mode(0o600)).map_err(failed)?;
        set_socket_timeout(&listener, Timeout::Recv, Some(PATIENCE)).map_err(|errno| failed(errno.into()))?;
        let identity = identity(&fs::symlink_metadata(&new).map_err(failed)?);
        fs::rename(&new, path).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), identity })
    }

    /// Where clients find it.
    pub fn address(&self) -> Address {
        Address::Unix(self.path.clone())
    }

    /// Serves `export` under `name` until `observer`, which is asked several times a second, says to stop.
    ///
    /// Each client has a thread of its own, which blocks signals; there are at most `clients`, and one more is hung up on. All
    /// threads have ended when this returns: they leave a client that is slow or silent within a fraction of a second, and wait for
    /// a call of `export` that is under way. Clients that vanish or break the protocol do not matter to the others.
    pub fn serve(&self, name: &[u8], export: &dyn Export, clients: usize, observer: &mut dyn Observer) -> Result<()> {
        let ends = AtomicBool::new(false);
        let active = AtomicUsize::new(0);
        thread::scope(|scope| {
            let _told = TellEnd(&ends);
            while observer.step(Step::new("serving", 0, 1)).is_continue() {
                let Some(stream) = self.accept()? else { continue };
                if active.load(Ordering::Relaxed) >= clients {
                    continue;
                }
                active.fetch_add(1, Ordering::Relaxed);
                let seat = Seat(&active);
                let ends = &ends;
                let work = move || {
                    let _seat = seat;
                    talk(stream, name, export, ends);
                };
                // Where there is no room for a thread, the client is hung up on.
                let builder = thread::Builder::new().name("checkmap-nbd".into());
                let _ = pool::start_quietly(|| builder.spawn_scoped(scope, work));
            }
            Ok(())
        })
    }

    /// The next client, if one comes soon.
    fn accept(&self) -> Result<Option<UnixStream>> {
        let error = match self.listener.accept() {
            Ok((stream, _)) => return Ok(Some(stream)),
            Err(error) => error,
        };
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR | libc::ECONNABORTED) => Ok(None),
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                thread::sleep(BREATH);
                Ok(None)
            }
            _ => Err(Error::io("cannot wait for clients", error).in_file(&self.path)),
        }
    }
}

/// Tells the threads of all clients that the end has come, however it comes.
struct TellEnd<'a>(&'a AtomicBool);

impl Drop for TellEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Leads the conversation with one client; how it ends is the client's business.
fn talk(stream: UnixStream, name: &[u8], export: &dyn Export, ends: &AtomicBool) {
    let mut observer = |_: Step| match ends.load(Ordering::Relaxed) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    // Fewer waits for a client that takes its time; the system may grant less.
    let _ = set_socket_send_buffer_size(&stream, SEND_BUFFER_BYTES);
    let _ = converse(Box::new(stream), name, export, &mut observer);
}

/// The place of one client among those that are served.
struct Seat<'a>(&'a AtomicUsize);

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Refuses a path where something is that must stay: anything but a socket on which nobody listens.
fn refuse_living(path: &Path) -> Result<()> {
    let failed = |error: io::Error| Error::io("cannot look at the socket", error);
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(Error::new(ErrorKind::Exists, "is there already, and is no socket"));
        }
        Ok(_) => {}
    }
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let attempt = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .and_then(|socket| connect(&socket, &SocketAddrUnix::new(path)?));
    match attempt {
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(()),
        // A queue that is full is somebody's, and so is a socket of another kind.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => {
            Err(Error::new(ErrorKind::InUse, "somebody listens on this socket already"))
        }
        Err(errno) => Err(failed(errno.into())),
    }
}
