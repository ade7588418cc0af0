#![forbid(unsafe_code)]
//! Owns the end of the program: what can stop a verb, and the exit status that scripts rely on. Must never know what
//! the verb was about.

use crate::hint;
use crate::session::Session;
use crate::words::spelled;
use checkmap::ErrorKind;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

/// The exit status, as the contract numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Done.
    Done = 0,
    /// Input, output or the image's bytes are at fault.
    Fault = 1,
    /// The command line is at fault.
    Usage = 2,
    /// Going on would be unsafe, or the answer wrong.
    Refused = 3,
}

impl Status {
    /// The worse one of two.
    pub(crate) fn worse(self, other: Status) -> Status {
        if other as u8 > self as u8 { other } else { self }
    }
}

/// Why a verb could not end well.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line asks for what cannot be.
    Usage(String),
    /// The library's error.
    Library(checkmap::Error),
    /// The answer could not be written: what, and why.
    Output(String, std::io::Error),
    /// A signal asked to stop, and nothing was changed.
    Interrupted,
    /// A command that was run ended with this status, and has said why.
    OfCommand(u8),
}

impl Failure {
    /// Says that nothing was changed.
    pub(crate) fn nothing_changed(self) -> Self {
        match self {
            Failure::Library(error) => Failure::Library(error.nothing_changed()),
            other => other,
        }
    }
}

/// What a verb returns: a fault that was reported already is a status, not a failure.
pub(crate) type Outcome = Result<Status, Failure>;

impl From<checkmap::Error> for Failure {
    fn from(error: checkmap::Error) -> Self {
        Failure::Library(error)
    }
}

/// Reports a failure, and turns the outcome into the exit status. After an interruption the process ends by the very
/// signal, so that its parent sees what happened.
pub(crate) fn end(outcome: Outcome, session: &Session) -> ExitCode {
    let status = match outcome {
        Ok(status) => status,
        Err(Failure::Usage(message)) => {
            session.error(&format!("{message}; see `checkmap --help`"));
            Status::Usage
        }
        Err(Failure::Library(error)) if error.kind() == ErrorKind::Cancelled => return die(session),
        Err(Failure::Interrupted) => return die(session),
        Err(Failure::OfCommand(status)) => return ExitCode::from(status),
        Err(Failure::Library(error)) => {
            session.error(&spelled(&error));
            if error.kind() == ErrorKind::NotFound {
                say_if_redirected(session);
            }
            status_of(error.kind())
        }
        Err(Failure::Output(what, error)) => {
            session.error(&checkmap::Error::io(what, error).to_string());
            Status::Fault
        }
    };
    ExitCode::from(status as u8)
}

/// Tells somebody whose name of a bitmap was not found that a shell may have cut it.
fn say_if_redirected(session: &Session) {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some(hint) = hint::of_redirection(words.iter().map(|word| word.as_bytes())) {
        session.say(&hint);
    }
}

fn die(session: &Session) -> ExitCode {
    session.error("interrupted; nothing was changed");
    session.interrupt().die();
    ExitCode::from(Status::Fault as u8)
}

/// The exit status for each kind of error; a kind that is not known here is a fault.
pub(crate) fn status_of(kind: ErrorKind) -> Status {
    match kind {
        ErrorKind::InvalidArgument
        | ErrorKind::InvalidName
        | ErrorKind::NameTooLong
        | ErrorKind::OutOfRange
        | ErrorKind::SizeMismatch => Status::Usage,
        ErrorKind::InUse
        | ErrorKind::NoLocks
        | ErrorKind::ReadOnly
        | ErrorKind::Unclean
        | ErrorKind::OldVersion
        | ErrorKind::Stale
        | ErrorKind::NotFound
        | ErrorKind::Exists
        | ErrorKind::Model
        | ErrorKind::BrokenChain
        | ErrorKind::BackingLayer
        | ErrorKind::Inconsistent
        | ErrorKind::Recording
        | ErrorKind::Order
        | ErrorKind::CannotStore
        | ErrorKind::Changed => Status::Refused,
        _ => Status::Fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_error_has_the_status_of_the_contract() {
        let kinds_of = |status| ErrorKind::ALL.iter().copied().filter(move |kind| status_of(*kind) == status);
        use ErrorKind::*;
        let faults = [
            Io,
            NoSpace,
            UnknownFormat,
            Unsupported,
            Damaged,
            Cancelled,
            CommitInDoubt,
            Poisoned,
            OutOfMemory,
            TornByFork,
            Hypervisor,
        ];
        assert_eq!(kinds_of(Status::Fault).collect::<Vec<_>>(), faults);
        let usage = [InvalidArgument, OutOfRange, SizeMismatch, InvalidName, NameTooLong];
        assert_eq!(kinds_of(Status::Usage).collect::<Vec<_>>(), usage);
        assert_eq!(kinds_of(Status::Done).count(), 0);
    }
}
