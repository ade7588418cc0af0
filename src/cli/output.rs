#![forbid(unsafe_code)]
//! Owns where an answer goes: to stdout, or whole and synced into a file that appears in one step. Must never know what
//! the answer says.

use crate::exit::Failure;
use crate::interrupt::Interrupt;
use crate::session::Session;
use checkmap::io::FileId;
use checkmap::io::replace::Target;
use checkmap::{Image, Segment};
use std::fs;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::path::Path;

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
            // Bytes still in the buffer must not be written again when it is dropped.
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

impl Destination {
    /// The place that `-o` names, which must not be the file at `input`; stdout without it, and for `-`. `is_binary` keeps
    /// the answer off a terminal.
    pub(crate) fn new(output: Option<&Path>, input: Option<&Path>, is_binary: bool) -> Result<Self, Failure> {
        let Some(path) = output.filter(|path| *path != Path::new("-")) else {
            return match is_binary && io::stdout().is_terminal() {
                true => Err(Failure::Usage("this format is binary: give a file with -o, or redirect stdout".into())),
                false => Ok(Destination::Stdout),
            };
        };
        let target = Target::new(path).map_err(of_output)?;
        if let Some(input) = input.and_then(|input| fs::metadata(input).ok()) {
            target.refuse(FileId::of(&input), "the image itself")?;
        }
        target.refuse_disk_image().map_err(of_output)?;
        Ok(Destination::File(Box::new(target)))
    }

    /// Refuses to replace a file that the image consists of.
    pub(crate) fn refuse_parts_of(&self, image: &Image) -> Result<(), Failure> {
        image.files().into_iter().try_for_each(|part| self.refuse(Some(part.id), &part.role))
    }

    /// Refuses to replace a segment that is read.
    pub(crate) fn refuse_segment(&self, segment: &Segment<'_>) -> Result<(), Failure> {
        self.refuse(segment.file_id(), "one of the segments that are read")
    }

    fn refuse(&self, file: Option<FileId>, what: &str) -> Result<(), Failure> {
        match (self, file) {
            (Destination::File(target), Some(file)) => Ok(target.refuse(file, what)?),
            _ => Ok(()),
        }
    }

    /// Writes the answer. A file appears, or is replaced, in one step after all of it is on the disk; on failure the file that was
    /// there stays, and no temporary file is left.
    pub(crate) fn write(
        self,
        session: &Session,
        write: impl FnOnce(&mut dyn Write) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let target = match self {
            Destination::Stdout => return print(session, write),
            Destination::File(target) => target,
        };
        let what = format!("cannot write to {}", target.path().display());
        // No signal may end the program while the temporary file is there.
        session.interrupt().hold();
        let replacement = pass(session, target.begin().map_err(of_output)?, &what, write)?;
        let whole = replacement.sync().map_err(of_output)?;
        if session.interrupt().came() {
            return Err(Failure::Interrupted);
        }
        whole.commit().map_err(of_output)
    }
}

/// An error of the file that the answer goes to: the status of a read-only one is the image's alone.
fn of_output(error: checkmap::Error) -> Failure {
    Failure::Library(match error.kind() {
        checkmap::ErrorKind::ReadOnly => error.with_kind(checkmap::ErrorKind::Io),
        _ => error,
    })
}
