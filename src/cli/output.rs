#![forbid(unsafe_code)]
//! Owns where an answer goes: to stdout, or whole and synced into a file that appears in one step. Must never know what
//! the answer says.

use crate::exit::Failure;
use crate::interrupt::Interrupt;
use crate::session::Session;
use checkmap::Image;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

const STDOUT: &str = "cannot write to stdout";

/// Writes an answer to stdout. A reader that has seen enough and closes the pipe ends it quietly.
pub(crate) fn print(
    session: &Session,
    write: impl FnOnce(&mut dyn Write) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let stdout = io::stdout().lock();
    match pass(session, stdout, STDOUT, write) {
        Err(Failure::Output(_, error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map(|_| ()),
    }
}

/// An error of writing to wherever the answer goes; [`pass`] says where that is.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Output(String::new(), error)
    }
}

/// Lets `write` write to `to` through a buffer, and gives it back once all is written.
fn pass<W: Write>(
    session: &Session,
    to: W,
    what: &str,
    write: impl FnOnce(&mut dyn Write) -> Result<(), Failure>,
) -> Result<W, Failure> {
    let interrupt = session.interrupt();
    let mut buffered = BufWriter::with_capacity(1 << 16, Stoppable { to, interrupt });
    let written = write(&mut buffered).and_then(|()| Ok(buffered.flush()?));
    match written {
        Ok(()) => Ok(buffered.into_parts().0.to),
        Err(Failure::Output(..)) if interrupt.came() => Err(Failure::Interrupted),
        Err(Failure::Output(_, error)) => {
            // What is still in the buffer must not be tried again on its way out.
            let _ = buffered.into_parts();
            Err(Failure::Output(what.to_owned(), error))
        }
        Err(failure) => Err(failure),
    }
}

/// Writes until a signal came.
struct Stoppable<'a, W> {
    to: W,
    interrupt: &'a Interrupt,
}

impl<W: Write> Write for Stoppable<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.interrupt.came() {
            return Err(io::Error::other("interrupted"));
        }
        self.to.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Where the answer of `-o` goes, looked at before the work begins.
#[derive(Debug)]
pub(crate) enum Destination {
    Stdout,
    File(Box<Target>),
}

/// A file to be written or replaced.
#[derive(Debug)]
pub(crate) struct Target {
    path: PathBuf,
    folder: PathBuf,
    /// What stands there now.
    old: Option<Metadata>,
}

impl Destination {
    /// The place that `-o` names, which must not be the `image`; stdout without it, and for `-`. `is_binary` keeps the answer off a terminal.
    pub(crate) fn new(output: Option<&Path>, image: Option<&Path>, is_binary: bool) -> Result<Self, Failure> {
        let Some(path) = output.filter(|path| *path != Path::new("-")) else {
            return match is_binary && io::stdout().is_terminal() {
                true => Err(Failure::Usage("this format is binary: give a file with -o, or redirect stdout".into())),
                false => Ok(Destination::Stdout),
            };
        };
        let target = Target::new(path)?;
        if let Some(image) = image {
            target.refuse_if_same(image, "the image itself")?;
        }
        target.refuse_disk_image()?;
        Ok(Destination::File(Box::new(target)))
    }

    /// Refuses to replace a file that the image consists of.
    pub(crate) fn refuse_parts_of(&self, image: &Image) -> Result<(), Failure> {
        let Destination::File(target) = self else { return Ok(()) };
        let folder = image.path().parent().unwrap_or(Path::new(""));
        for (part, what) in [(image.backing_file(), "its backing file"), (image.data_file(), "its data file")] {
            if let Some(part) = part {
                target.refuse_if_same(&folder.join(OsStr::from_bytes(part)), what)?;
            }
        }
        Ok(())
    }

    /// Writes the answer. A file appears, or is replaced, in one step after all of it is on the disk; on failure what was
    /// there stays, and no temporary file is left.
    pub(crate) fn write(
        self,
        session: &Session,
        write: impl FnOnce(&mut dyn Write) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        match self {
            Destination::Stdout => print(session, write),
            Destination::File(target) => target.replace(session, write),
        }
    }
}

impl Target {
    fn new(path: &Path) -> Result<Self, Failure> {
        let usage = |why: &str| Failure::Usage(format!("cannot write to {}: {why}", path.display()));
        // A link is followed, so that the file behind it is replaced and not the link.
        let path_behind = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let old = match fs::metadata(&path_behind) {
            Ok(old) if old.is_dir() => return Err(usage("it is a directory")),
            Ok(old) if !old.is_file() => return Err(usage("it is no regular file; leave out -o and redirect stdout")),
            Ok(old) => Some(old),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(Failure::Output(format!("cannot write to {}", path.display()), error)),
        };
        if path_behind.file_name().is_none() {
            return Err(usage("it names no file"));
        }
        let folder = match path_behind.parent() {
            Some(folder) if folder != Path::new("") => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        Ok(Self { path: path_behind, folder, old })
    }

    fn refusal(&self, why: &str) -> Failure {
        Failure::Usage(format!("cannot write to {}: {why}", self.path.display()))
    }

    /// Refuses to replace a qcow2 image, be it a layer of this one: nobody means to put a map there.
    fn refuse_disk_image(&self) -> Result<(), Failure> {
        let mut start = [0; 4];
        let begins =
            self.old.is_some() && File::open(&self.path).and_then(|mut file| file.read_exact(&mut start)).is_ok();
        match begins && start == *b"QFI\xfb" {
            true => Err(self.refusal("it is a disk image; remove it first if you mean it")),
            false => Ok(()),
        }
    }

    fn refuse_if_same(&self, other: &Path, what: &str) -> Result<(), Failure> {
        let Some((old, other)) = self.old.as_ref().zip(fs::metadata(other).ok()) else { return Ok(()) };
        match (old.dev(), old.ino()) == (other.dev(), other.ino()) {
            true => Err(self.refusal(&format!("it is {what}"))),
            false => Ok(()),
        }
    }

    fn replace(
        self,
        session: &Session,
        write: impl FnOnce(&mut dyn Write) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let what = format!("cannot write to {}", self.path.display());
        let failed = |error: io::Error| Failure::Output(what.clone(), error);
        // No signal may end the program while the temporary file is there.
        session.interrupt().hold();
        let temporary = self.temporary().map_err(failed)?;
        let temporary = pass(session, temporary, &what, write)?;
        temporary.as_file().sync_all().map_err(failed)?;
        if session.interrupt().came() {
            return Err(Failure::Interrupted);
        }
        temporary.persist(&self.path).map_err(|error| failed(error.error))?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    fn temporary(&self) -> io::Result<NamedTempFile> {
        let mut prefix = OsString::from(".");
        // A long name leaves no room for the random part.
        prefix.push(self.path.file_name().filter(|name| name.len() < 200).unwrap_or(OsStr::new("checkmap")));
        prefix.push(".");
        let mut builder = tempfile::Builder::new();
        // The process's mask applies, as to any file that a program creates.
        let temporary = builder.prefix(&prefix).permissions(Permissions::from_mode(0o666)).tempfile_in(&self.folder)?;
        if let Some(old) = &self.old {
            temporary.as_file().set_permissions(old.permissions())?;
        }
        Ok(temporary)
    }
}
