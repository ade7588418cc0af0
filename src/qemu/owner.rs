#![forbid(unsafe_code)]
//! Owns who of checkmap's clients is at work in a hypervisor: the mark inside of it, the lock file outside that tells
//! the living from the dead, and the folder for a socket. Must never know the work.
//!
//! The mark is an object of type `authz-simple` with one fixed id. QEMU adds it for one client only, over whatever
//! monitor that one came, and its `identity` names the folder of the client, whose lock file is locked as long as the client lives.

use super::nodes::PREFIX;
use crate::error::{Error, ErrorKind, Result};
use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The id of the mark.
pub(super) const MARK: &str = "checkmap-lock";

/// The longest path of a Unix socket on Linux, without the byte that ends it.
const MOST_SOCKET_PATH_BYTES: usize = 107;

/// The beginning of the names of folders for files.
const FILES_PREFIX: &str = "checkmap-scratch-";

const LOCK_FILE: &str = "lock";
/// The lock file before it is locked.
const UNREADY_FILE: &str = "unready";

/// How many random letters and digits the name of a folder ends with: no other program has such names.
const RANDOM_BYTES: usize = 12;

/// How often a folder is made anew that another client removes.
const MOST_TRIES: usize = 8;
const SOCKET_FILE: &str = "nbd.sock";
/// It has the path of a server that is not this client's, and that serves its moment.
const SERVER_FILE: &str = "server";
/// A longer path is none of a socket.
const MOST_NOTED_BYTES: u64 = 4096;

/// The folder of a client, private to it and to the hypervisor. It goes when this is dropped.
#[derive(Debug)]
pub(super) struct Owner {
    folder: PathBuf,
    is_left: bool,
    /// Locked until this is dropped.
    _lock: File,
}

impl Drop for Owner {
    fn drop(&mut self) {
        if !self.is_left {
            remove(&self.folder);
        }
    }
}

impl Owner {
    /// A folder beside the socket of the monitor, where that can be; else where temporary files go. `hypervisor` is the user
    /// as whom the hypervisor runs, who has to be able to make a socket there.
    pub(super) fn new(beside: Option<&Path>, hypervisor: Option<u32>) -> Result<Self> {
        let made = beside.and_then(|beside| Self::make(beside, true).ok());
        let made = made.map_or_else(|| Self::make(&std::env::temp_dir(), true), Ok)?;
        Self::given(made, hypervisor)
    }

    /// A folder for files in this one.
    pub(super) fn of_files(parent: &Path, hypervisor: Option<u32>) -> Result<Self> {
        Self::given(Self::make(parent, false)?, hypervisor)
    }

    /// Gives a new folder to the user of the hypervisor.
    fn given((folder, lock): (TempDir, File), hypervisor: Option<u32>) -> Result<Self> {
        if let Some(user) = hypervisor.filter(|user| *user != rustix::process::geteuid().as_raw()) {
            chown(folder.path(), Some(user), None).map_err(|error| {
                let message = format!("cannot give a private folder to the hypervisor's user {user}");
                Error::io(message, error).in_file(folder.path()).advise("work as that user, or as root")
            })?;
        }
        Ok(Self { folder: folder.keep(), is_left: false, _lock: lock })
    }

    /// The folder of a client that is gone, whose lock is held now.
    pub(super) fn adopt(folder: PathBuf, lock: File) -> Self {
        Self { folder, is_left: false, _lock: lock }
    }

    fn make(parent: &Path, for_socket: bool) -> Result<(TempDir, File)> {
        let mut made = Self::try_to_make(parent, for_socket);
        // Another client took the folder for that of a dead one, before its lock was there.
        for _ in 0..MOST_TRIES {
            match &made {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    made = Self::try_to_make(parent, for_socket);
                }
                _ => break,
            }
        }
        made.map_err(|error| Error::io("cannot make a private folder", error).in_file(parent))
    }

    fn try_to_make(parent: &Path, for_socket: bool) -> std::io::Result<(TempDir, File)> {
        let mut builder = tempfile::Builder::new();
        let prefix = if for_socket { PREFIX } else { FILES_PREFIX };
        let folder = builder.prefix(prefix).rand_bytes(RANDOM_BYTES).permissions(private()).tempdir_in(parent)?;
        let room = folder.path().as_os_str().len() + 1 + SOCKET_FILE.len();
        if for_socket && room > MOST_SOCKET_PATH_BYTES {
            return Err(std::io::ErrorKind::InvalidFilename.into());
        }
        let unready = folder.path().join(UNREADY_FILE);
        let lock = File::options().create_new(true).write(true).mode(0o600).open(&unready)?;
        lock.lock()?;
        // Nobody sees a lock file that is not locked yet.
        fs::rename(&unready, folder.path().join(LOCK_FILE))?;
        Ok((folder, lock))
    }

    /// The folder's name, under which names in the hypervisor belong to this client.
    pub(super) fn id(&self) -> String {
        self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The folder itself.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The text of the mark: where this client's lock file is.
    pub(super) fn identity(&self) -> String {
        self.folder.to_string_lossy().into_owned()
    }

    /// Whether the hypervisor still listens at the socket of this client.
    pub(super) fn is_listened_at(&self) -> bool {
        listens(&self.folder)
    }

    /// Leaves the folder, with a lock file that says that this client is gone: something of it may still be in the hypervisor.
    pub(super) fn leave(&mut self) {
        self.is_left = true;
    }

    /// Notes the server of somebody else that serves this client's moment: as long as somebody listens there the folder is needed.
    pub(super) fn note_server(&self, server: &Path) -> Result<()> {
        // The folder may belong to the hypervisor, whose guest may have taken it over: no link of it is followed.
        let flags = UNFOLLOWED | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let noted = open_folder(&self.folder)
            .and_then(|folder| Ok(openat(&folder, SERVER_FILE, flags, Mode::RUSR | Mode::WUSR)?))
            .and_then(|file| File::from(file).write_all(std::path::absolute(server)?.as_os_str().as_bytes()));
        noted.map_err(|error| Error::io("cannot note the NBD server", error).in_file(&self.folder))
    }

    /// Where the hypervisor is to listen.
    pub(super) fn socket(&self) -> PathBuf {
        socket_in(&self.folder)
    }
}

fn private() -> fs::Permissions {
    fs::Permissions::from_mode(0o700)
}

/// Whether the client that made a mark is alive.
#[derive(Debug)]
pub(super) enum Life {
    Alive,
    /// Nobody else finds it dead as long as this lock is held, where the file is still there.
    Dead(Option<File>),
    /// Its lock file cannot be looked at from here.
    Unknown,
}

/// Whether the client whose mark has this text is alive. The text comes from the hypervisor: no link is followed, and no pipe waited for.
pub(super) fn life_of(identity: &str) -> Life {
    let Some(folder) = left_by(identity) else { return Life::Unknown };
    let lock = open_folder(&folder)
        .and_then(|folder| Ok(openat(&folder, LOCK_FILE, UNFOLLOWED | OFlags::NONBLOCK, Mode::empty())?));
    match lock.map(File::from) {
        Ok(lock) => match lock.try_lock() {
            Ok(()) => Life::Dead(Some(lock)),
            Err(TryLockError::WouldBlock) => Life::Alive,
            Err(TryLockError::Error(_)) => Life::Unknown,
        },
        // A client removes its folder after its mark.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Life::Dead(None),
        Err(_) => Life::Unknown,
    }
}

const UNFOLLOWED: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);

/// Opens a folder, and no link to one.
pub(super) fn open_folder(folder: &Path) -> std::io::Result<File> {
    let flags = UNFOLLOWED | OFlags::DIRECTORY;
    Ok(openat(rustix::fs::CWD, folder, flags, Mode::empty())?.into())
}

/// The folder and the socket that a dead client left, where the text of its mark is one of ours.
pub(super) fn left_by(identity: &str) -> Option<PathBuf> {
    let folder = Path::new(identity);
    let own = folder.file_name().and_then(|name| name.to_str()?.strip_prefix(PREFIX));
    let is_ours = own.is_some_and(|own| !own.is_empty());
    (folder.is_absolute() && is_ours).then(|| folder.to_owned())
}

/// Whether somebody listens at the socket of this folder.
pub(super) fn listens(folder: &Path) -> bool {
    is_listened_at(&folder.join(SOCKET_FILE))
}

/// Whether somebody listens at this path. One that takes no more clients is not waited for.
fn is_listened_at(path: &Path) -> bool {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let Ok(socket) = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None) else { return false };
    let Ok(address) = SocketAddrUnix::new(path) else { return false };
    matches!(connect(&socket, &address), Ok(()) | Err(Errno::AGAIN))
}

/// Whether somebody listens at the server that the client of this folder noted.
fn is_served_elsewhere(folder: &Path) -> bool {
    let mut server = Vec::new();
    let read = open_folder(folder)
        .and_then(|folder| Ok(openat(&folder, SERVER_FILE, UNFOLLOWED | OFlags::NONBLOCK, Mode::empty())?))
        .and_then(|file| File::from(file).take(MOST_NOTED_BYTES).read_to_end(&mut server));
    read.is_ok() && is_listened_at(Path::new(OsStr::from_bytes(&server)))
}

/// Removes the folder of a dead client: the files that it can hold, and nothing else.
pub(super) fn remove(folder: &Path) {
    // Another client may be doing the same.
    let Ok(open) = open_folder(folder) else { return };
    for file in [LOCK_FILE, SOCKET_FILE, SERVER_FILE] {
        let _ = unlinkat(&open, file, AtFlags::empty());
    }
    let _ = fs::remove_dir(folder);
}

/// Removes what dead clients left beside a monitor's socket, but for the folder of a moment that stands: a hypervisor that ended took
/// their marks along.
pub(super) fn sweep(parent: &Path, standing: Option<&Path>) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && is_of_a_client(&entry.file_name().to_string_lossy()) {
            let path = entry.path();
            if standing == Some(&path) {
                continue;
            }
            match path.join(LOCK_FILE).try_exists() {
                Ok(true) => {
                    let is_served = listens(&path) || is_served_elsewhere(&path);
                    if let (false, Life::Dead(_lock)) = (is_served, life_of(&path.to_string_lossy())) {
                        remove(&path);
                    }
                }
                Ok(false) => remove_unready(&path),
                Err(_) => {}
            }
        }
    }
}

fn is_of_a_client(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(is_random)
}

/// Whether a folder of this name is one for files.
pub(super) fn is_for_files(name: &str) -> bool {
    name.strip_prefix(FILES_PREFIX).is_some_and(is_random)
}

fn is_random(name: &str) -> bool {
    name.len() == RANDOM_BYTES && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Removes the folder of a client that was killed before its lock file was there. One that is alive finds it gone, and makes
/// another one; its lock file is never touched, so where that comes meanwhile the folder stays.
pub(super) fn remove_unready(folder: &Path) {
    let Ok(open) = open_folder(folder) else { return };
    let _ = unlinkat(&open, UNREADY_FILE, AtFlags::empty());
    let _ = fs::remove_dir(folder);
}

/// Where a client listens whose folder this is.
pub(super) fn socket_in(folder: &Path) -> PathBuf {
    folder.join(SOCKET_FILE)
}

/// The refusal where another client is at work.
pub(super) fn in_use(identity: &str, life: &Life) -> Error {
    let why = match life {
        Life::Unknown => "and cannot be looked at from here",
        _ => "and is alive",
    };
    let message = format!("another checkmap works in this hypervisor: its folder is {identity}, {why}");
    Error::new(ErrorKind::InUse, message).advise(match life {
        Life::Unknown => format!("when it is known to be gone, remove its mark: `object-del` of {MARK} over QMP"),
        _ => "wait until it is done".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::{Owner, sweep};
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_folder_goes_when_neither_its_client_nor_its_server_is_there() {
        let parent = tempfile::tempdir().expect("a folder");
        let server = parent.path().join("server");
        let listener = UnixListener::bind(&server).expect("a socket");
        let made = || Owner::new(Some(parent.path()), None).expect("a folder");
        let (mut gone, mut served, alive) = (made(), made(), made());
        served.note_server(&server).expect("it can be noted");
        let folders = [&gone, &served, &alive].map(|owner| owner.folder().to_owned());
        let are_there = || folders.each_ref().map(|folder| folder.is_dir());
        gone.leave();
        served.leave();
        drop((gone, served));
        assert_eq!(are_there(), [true, true, true]);
        sweep(parent.path(), None);
        assert_eq!(are_there(), [false, true, true]);
        drop(listener);
        sweep(parent.path(), None);
        assert_eq!(are_there(), [false, false, true]);
        drop(alive);
        assert_eq!(are_there(), [false, false, false]);
    }
}
