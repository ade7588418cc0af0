#![forbid(unsafe_code)]
//! Owns the run of a verb on one disk as a process of its own, so that its crash spoils no other disk. Must never know the verb.

use crate::interrupt::Interrupt;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The longest answer of a disk that is kept in memory.
pub(super) const MOST_ANSWER_BYTES: usize = 16 << 20;

/// The longest message of a disk that is kept.
const MOST_SAID_BYTES: usize = 16 << 10;

/// How long a signal or the end of a child can go unnoticed.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// How long output is waited for after a child has ended: a helper of it can hold its pipes.
const AFTER_THE_END: Duration = Duration::from_secs(2);

/// How a run ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// The exit status, 128 and the signal's number where one ended it; `None` where it could not be started.
    pub(super) status: Option<i32>,
    pub(super) answer: Vec<u8>,
    /// Whether the answer was longer, and is not all here.
    pub(super) is_cut: bool,
    /// What it said on stderr, one line after the other.
    pub(super) said: String,
    pub(super) seconds: f64,
}

/// Runs the program with these arguments. Where a signal came it is asked to stop by SIGINT, and waited for; and likewise where
/// it `may_stop` early and nobody can take its answer.
pub(super) fn run(arguments: &[OsString], may_stop: bool, interrupt: &Interrupt) -> Ended {
    let since = Instant::now();
    let seconds = |since: Instant| since.elapsed().as_secs_f64();
    // The program that runs, also where another version has replaced its file. A group of its own keeps it from the signals
    // of a terminal, so that it gets each of them once, from here.
    let child = Command::new("/proc/self/exe")
        .arg0("checkmap")
        .args(arguments)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let failed = |what: &str, error: io::Error| Ended {
        status: None,
        answer: Vec::new(),
        is_cut: false,
        said: crate::words::spelled(&checkmap::Error::io(what, error)),
        seconds: seconds(since),
    };
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return failed("checkmap cannot be started for it", error),
    };
    let mut answer = Kept::new(MOST_ANSWER_BYTES);
    let mut said = Kept::new(MOST_SAID_BYTES);
    match follow(&mut child, &mut answer, &mut said, may_stop, interrupt) {
        Ok(status) => {
            let status = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
            let said = text_of(&said.bytes);
            Ended { status, answer: answer.bytes, is_cut: answer.is_cut, said, seconds: seconds(since) }
        }
        Err(error) => failed("its process cannot be followed", error),
    }
}

fn follow(
    child: &mut Child,
    answer: &mut Kept,
    said: &mut Kept,
    may_stop: bool,
    interrupt: &Interrupt,
) -> io::Result<ExitStatus> {
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let mut is_told = false;
    let mut ended: Option<(ExitStatus, Instant)> = None;
    loop {
        if !is_told && (interrupt.came() || may_stop && answer.is_cut) && ended.is_none() {
            is_told = true;
            // It has not been waited for, so its number is no other's. One that has just ended needs no signal.
            if let Some(process) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process(process, Signal::INT);
            }
        }
        let open: Vec<BorrowedFd<'_>> =
            [stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd)].into_iter().flatten().collect();
        if open.is_empty() {
            return match ended {
                Some((status, _)) => Ok(status),
                None => child.wait(),
            };
        }
        let mut polled: Vec<PollFd<'_>> =
            open.iter().map(|pipe| PollFd::from_borrowed_fd(*pipe, PollFlags::IN)).collect();
        match poll(&mut polled, Some(&LOOK)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut is_ready = polled.iter().map(|pipe| !pipe.revents().is_empty()).collect::<Vec<_>>().into_iter();
        drop(polled);
        if stdout.is_some() && is_ready.next() == Some(true) && !answer.take(stdout.as_mut())? {
            stdout = None;
        }
        if stderr.is_some() && is_ready.next() == Some(true) && !said.take(stderr.as_mut())? {
            stderr = None;
        }
        if ended.is_none() {
            ended = child.try_wait()?.map(|status| (status, Instant::now()));
        }
        if let Some((status, _)) = ended.filter(|(_, since)| since.elapsed() > AFTER_THE_END) {
            return Ok(status);
        }
    }
}

/// The first bytes of a pipe.
struct Kept {
    bytes: Vec<u8>,
    most: usize,
    is_cut: bool,
}

impl Kept {
    fn new(most: usize) -> Self {
        Self { bytes: Vec::new(), most, is_cut: false }
    }

    /// Reads once; false at the end of the pipe.
    fn take(&mut self, pipe: Option<&mut impl Read>) -> io::Result<bool> {
        let Some(pipe) = pipe else { return Ok(false) };
        let mut piece = [0; 1 << 14];
        let read = match pipe.read(&mut piece) {
            Ok(0) => return Ok(false),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error),
        };
        let room = self.most.saturating_sub(self.bytes.len()).min(read);
        self.bytes.extend_from_slice(piece.get(..room).unwrap_or_default());
        self.is_cut |= room < read;
        Ok(true)
    }
}

/// The messages without the name of the program, joined to one line.
fn text_of(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let lines = said.lines().map(|line| line.strip_prefix("checkmap: ").unwrap_or(line).trim());
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}
