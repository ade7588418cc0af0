#![forbid(unsafe_code)]
//! A whole new file in the place of an old one, in one step: written beside it under a name of its own, made durable, and
//! renamed. See [`Target`].

// Owns the one way in which a file is written at a path. Must never know the content.

use super::FileId;
use crate::error::{Error, ErrorKind, Result};
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// How the formats of disk images begin that say so in their first bytes. No answer of checkmap's begins like one.
const DISK_IMAGES: [&[u8]; 7] =
    [b"QFI\xfb", b"QED\0", b"KDMV", b"vhdxfile", b"LUKS\xba\xbe", b"WithoutFreeSpace", b"WithouFreSpacExt"];

/// More links than these are a loop, as for the system.
const MOST_LINKS: usize = 40;

/// A place where a file is to appear, or to be replaced in one step. It was looked at, and nothing was changed yet.
///
/// A replaced file keeps its mode, and its owner where the system allows that; a new file has the mode that the process's
/// mask leaves it. A symbolic link is followed: the file behind it is replaced.
///
/// ```
/// use checkmap::io::replace::Target;
/// use std::io::Write;
///
/// let folder = tempfile::tempdir().expect("a folder");
/// let path = folder.path().join("answer");
/// let mut replacement = Target::new(&path)?.begin()?;
/// replacement.write_all(b"42").expect("room for two bytes");
/// assert!(!path.exists());
/// replacement.sync()?.commit()?;
/// assert_eq!(std::fs::read(&path).expect("it is there"), b"42");
/// # Ok::<(), checkmap::Error>(())
/// ```
#[derive(Debug)]
pub struct Target {
    /// As the caller named it.
    path: PathBuf,
    /// The file behind all links, from the root on.
    behind: PathBuf,
    /// The file that stands there now.
    old: Option<Metadata>,
}

impl Target {
    /// Looks at `path`. A folder, a device, a pipe, a socket or a name that no file can have is
    /// [`ErrorKind::InvalidArgument`]; a folder that is not there is an error of the system.
    pub fn new(path: &Path) -> Result<Self> {
        let (behind, old) = find(path).map_err(|error| error.in_file(path))?;
        Ok(Self { path: path.to_owned(), behind, old })
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses to replace `file`, which the caller describes; by any name or link that leads to it.
    pub fn refuse(&self, file: FileId, what: &str) -> Result<()> {
        match &self.old {
            Some(old) if FileId::of(old) == file => Err(refused(&format!("it is {what}")).in_file(&self.path)),
            _ => Ok(()),
        }
    }

    /// Refuses to replace a disk image: to put another file in its place is a mistake.
    pub fn refuse_disk_image(&self) -> Result<()> {
        let Some(old) = self.old.as_ref().filter(|old| old.len() > 0) else { return Ok(()) };
        let longest = DISK_IMAGES.iter().map(|start| start.len()).max().unwrap_or(0);
        let mut start = Vec::with_capacity(longest);
        // A pipe that came in between must not block.
        let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&self.behind).and_then(|file| {
            // Another file may stand there by now.
            match FileId::of(&file.metadata()?) == FileId::of(old) {
                true => file.take(longest as u64).read_to_end(&mut start),
                false => Ok(0),
            }
        });
        let is_image = DISK_IMAGES.iter().any(|image| start.starts_with(image));
        match opened {
            Ok(_) if is_image => {
                Err(refused("it is a disk image").advise("remove it first if you mean it").in_file(&self.path))
            }
            Ok(_) => Ok(()),
            // Without the right to look at it, the file to be replaced cannot be known.
            Err(error) => Err(Error::io("cannot look at what would be replaced", error).in_file(&self.path)),
        }
    }

    /// Begins a file beside the target, under a name that nothing has; refuses disk images as
    /// [`Target::refuse_disk_image`] does.
    pub fn begin(self) -> Result<Replacement> {
        self.refuse_disk_image()?;
        let failed = |error: io::Error| cannot_write(error).in_file(&self.path);
        let folder = self.behind.parent().unwrap_or(Path::new("/"));
        // Opened now, so that a failure comes before anything is done.
        let opened = File::open(folder).map_err(|error| failed(of_system(error)))?;
        // No user may read more of it than of the old one, not for a moment.
        let mode = self.old.as_ref().map_or(0o666, |old| old.mode() & 0o666);
        let mut builder = tempfile::Builder::new();
        // So short that it fits wherever the name of the target does.
        builder.prefix(".checkmap-").permissions(Permissions::from_mode(mode));
        let temporary = builder.tempfile_in(folder).map_err(|error| failed(of_system(error)))?;
        if let Some(old) = &self.old {
            keep_owner(temporary.as_file(), old);
            temporary.as_file().set_permissions(old.permissions()).map_err(failed)?;
        }
        Ok(Replacement { target: self, folder: opened, temporary })
    }
}

/// A file in the making. Its bytes are visible to no other program; dropped, it is gone.
#[derive(Debug)]
pub struct Replacement {
    target: Target,
    folder: File,
    temporary: NamedTempFile,
}

impl Replacement {
    /// Makes all that was written durable.
    pub fn sync(self) -> Result<Synced> {
        let failed = |error| cannot_write(error).in_file(&self.target.path);
        self.temporary.as_file().sync_all().map_err(failed)?;
        Ok(Synced(self))
    }
}

impl Write for Replacement {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.temporary.as_file_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A whole and durable file that has no name yet. Dropped, it is gone.
#[derive(Debug)]
pub struct Synced(Replacement);

impl Synced {
    /// Puts the file in its place, and makes that durable.
    ///
    /// On an error the target is untouched; but for [`ErrorKind::CommitInDoubt`]: then the new content stands, and nobody
    /// can say whether it would after a power cut.
    pub fn commit(self) -> Result<()> {
        let Replacement { target, folder, temporary } = self.0;
        // While the file was made, something else may have come to stand there.
        target.look_again()?;
        temporary.persist(&target.behind).map_err(|error| cannot_write(error.error).in_file(&target.path))?;
        folder.sync_all().map_err(|error| {
            let message = "the new content stands, but its folder could not be made durable";
            Error::io(message, error)
                .with_kind(ErrorKind::CommitInDoubt)
                .advise("after a power cut the old content could be back: write it again")
                .in_file(&target.path)
        })
    }
}

impl Target {
    /// Refuses where the target, looked at now, would be refused.
    fn look_again(&self) -> Result<()> {
        let again = Self::new(&self.behind)?;
        match again.behind == self.behind {
            true => again.refuse_disk_image(),
            false => Err(refused("a link came to stand there meanwhile").in_file(&self.path)),
        }
    }
}

/// The file behind `path` from the root on, and its state now.
fn find(path: &Path) -> Result<(PathBuf, Option<Metadata>)> {
    match fs::metadata(path) {
        Ok(old) if old.is_dir() => Err(refused("it is a directory")),
        Ok(old) if !old.is_file() => Err(refused("it is no regular file")),
        Ok(old) => {
            let behind = fs::canonicalize(path).map_err(cannot_write)?;
            // A path like /proc/self/fd/3 may lead to a file that has no name any more.
            match fs::symlink_metadata(&behind) {
                Ok(there) if FileId::of(&there) == FileId::of(&old) => Ok((behind, Some(old))),
                _ => Err(refused("the file behind it has no name")),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((missing(path).map_err(cannot_write)?, None)),
        Err(error) => Err(cannot_write(error)),
    }
}

/// The file behind `path` where it is not there, behind links that lead to nothing too.
fn missing(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        // A name such as `..`, or `new/`, is none of a file's.
        let name =
            path.file_name().filter(|name| path.as_os_str().as_encoded_bytes().ends_with(name.as_encoded_bytes()));
        let Some(name) = name else { return Err(io::Error::from_raw_os_error(libc::ENOENT)) };
        let place = fs::canonicalize(folder)?.join(name);
        match fs::read_link(&place) {
            Ok(next) => path = place.parent().unwrap_or(Path::new("/")).join(next),
            Err(_) => return Ok(place),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

/// Gives the new file the owner of the old one: where the system does not allow that, it stays as it is.
fn keep_owner(file: &File, old: &Metadata) {
    let Ok(new) = file.metadata() else { return };
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        let _ = fchown(file, None, Some(old.gid()));
        let _ = fchown(file, Some(old.uid()), None);
    }
}

fn refused(why: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("cannot be replaced: {why}"))
}

fn cannot_write(error: io::Error) -> Error {
    Error::io("cannot be written", error)
}

/// The system's own error, which `tempfile` wraps together with the name of the temporary file.
fn of_system(error: io::Error) -> io::Error {
    let mut cause = error.get_ref().map(|error| error as &(dyn std::error::Error + 'static));
    while let Some(inner) = cause {
        if let Some(number) = inner.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return io::Error::from_raw_os_error(number);
        }
        cause = inner.source();
    }
    error
}
