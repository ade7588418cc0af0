#![forbid(unsafe_code)]
//! Owns what a handle without locks does instead: it looks whether anybody else changed the image, before it reads and
//! again before it answers. Must never know the question.

use super::{Access, Image};
use crate::error::{Error, ErrorKind, Result};
use crate::io::locks;
use std::time::SystemTime;

impl Image {
    /// Whether locks keep others from changing the image. Without them each call looks for changes by itself, and fails
    /// with [`ErrorKind::Changed`] or [`ErrorKind::InUse`].
    pub fn is_locked(&self) -> bool {
        self.locks.is_some()
    }

    /// Reads the header and the bitmap directory again: [`ErrorKind::Changed`] if somebody else has written them since.
    pub fn check_unchanged(&self) -> Result<()> {
        match self.host.is_unchanged().map_err(|error| self.name_it(error))? {
            true => Ok(()),
            false => Err(self.changed()),
        }
    }

    /// Lets `ask` read the image. Without locks, its answer counts only if nobody else wrote meanwhile.
    pub(super) fn steady<T>(&self, ask: impl FnOnce() -> Result<T>) -> Result<T> {
        let before = self.look()?;
        let answer = ask();
        if answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Cancelled) {
            return answer;
        }
        // An error too may only tell of what changed. A writer that came and went twice may leave the same header and
        // the same directory behind, over other bits; the time of the last write tells of it.
        if self.look()? != before {
            return Err(self.changed());
        }
        answer
    }

    /// Without locks: refuses where a writer is there or has changed the image, and tells when it was last written.
    pub(super) fn look(&self) -> Result<Option<SystemTime>> {
        if self.is_locked() {
            return Ok(None);
        }
        // Names are asked for while a writer is there, which writes what it likes.
        let may_be_written = self.options.access == Access::Names;
        if let Some(file) = self.file.as_ref().filter(|_| !may_be_written) {
            locks::check_no_writer(file).map_err(|error| self.name_it(error))?;
        }
        self.check_unchanged()?;
        match self.storage.as_ref().filter(|_| !may_be_written) {
            None => Ok(None),
            Some(storage) => {
                storage.last_written().map_err(|error| self.name_it(Error::io("cannot look at it", error)))
            }
        }
    }

    fn changed(&self) -> Error {
        let message = "the image was changed by somebody else since it was opened";
        self.name_it(Error::new(ErrorKind::Changed, message).advise("open it again, with locks if possible"))
    }
}
