#![forbid(unsafe_code)]
//! Owns the bytes that go to and come from a peer: buffered, each answer until its deadline, stopped when the observer wants it.
//! Must never know what the bytes mean.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::address::Stream;
use crate::error::{Error, ErrorKind, Result};
use crate::memory;
use crate::progress::{Observer, tell};
use std::io;
use std::time::{Duration, Instant};

/// The bytes that are read ahead.
const BUFFER_BYTES: usize = 64 << 10;

/// The observer is asked at least so often while nothing comes.
const PATIENCE: Duration = Duration::from_millis(100);

/// The farewell is not worth more than this.
const FAREWELL: Duration = Duration::from_millis(200);

/// Somebody who waits for answers: how far the work is, and whether to go on.
pub(super) struct Waiting<'a> {
    observer: &'a mut dyn Observer,
    phase: &'static str,
    done: u64,
    total: u64,
}

impl<'a> Waiting<'a> {
    pub(super) fn new(observer: &'a mut dyn Observer, phase: &'static str, total: u64) -> Self {
        Self { observer, phase, done: 0, total }
    }

    /// `done` of the work is done.
    pub(super) fn tell(&mut self, done: u64) -> Result<()> {
        self.done = done.min(self.total);
        self.ask()
    }

    fn ask(&mut self) -> Result<()> {
        tell(self.observer, self.phase, self.done, self.total)
    }
}

/// A connection with the bytes that were read ahead.
pub(super) struct Wire {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    /// The part of the buffer that was not taken yet.
    at: usize,
    end: usize,
    timeout: Duration,
    /// How long the stream was told to wait, so that it is told changes only.
    patience: Duration,
    /// When the answer has to be there; never where the clock has no such time.
    deadline: Option<Instant>,
    /// When the observer was asked the last time.
    asked: Instant,
    /// The bytes that end the conversation, in the state that it has.
    farewell: Option<Vec<u8>>,
}

impl Wire {
    pub(super) fn new(stream: Box<dyn Stream>, timeout: Duration) -> Result<Self> {
        let buffer = memory::zeroed(BUFFER_BYTES)?;
        Ok(Self {
            stream,
            buffer,
            at: 0,
            end: 0,
            timeout,
            patience: Duration::ZERO,
            deadline: None,
            asked: Instant::now(),
            farewell: None,
        })
    }

    /// From now on the connection ends with these bytes, or without any.
    pub(super) fn set_farewell(&mut self, farewell: Option<Vec<u8>>) {
        self.farewell = farewell;
    }

    /// The next answer begins: it has to be there in time.
    pub(super) fn begin(&mut self) {
        self.deadline = Instant::now().checked_add(self.timeout);
    }

    /// From now on the peer may take its time.
    pub(super) fn wait_for_ever(&mut self) {
        self.deadline = None;
    }

    /// Prepares a call of the stream: it may wait for as long as there is time. A peer that gives a byte now and then must not
    /// keep the observer from being asked.
    fn prepare(&mut self, waiting: &mut Waiting<'_>) -> Result<()> {
        if self.asked.elapsed() >= PATIENCE {
            waiting.ask()?;
            self.asked = Instant::now();
        }
        let patience = self.patience()?;
        if patience != self.patience {
            let failed = |error| Error::io("cannot set the time-out of the NBD connection", error);
            self.stream.set_patience(patience).map_err(failed)?;
            self.patience = patience;
        }
        Ok(())
    }

    /// How long a single call of the stream may take.
    fn patience(&self) -> Result<Duration> {
        let left = self.deadline.map_or(PATIENCE, |deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            let seconds = self.timeout.as_secs_f64();
            let message = format!("the NBD server did not answer within {seconds} s");
            return Err(Error::new(ErrorKind::Io, message).with_source(io::Error::from_raw_os_error(libc::ETIMEDOUT)));
        }
        Ok(left.min(PATIENCE))
    }

    /// Sends all of `bytes`.
    pub(super) fn send(&mut self, bytes: &[u8], waiting: &mut Waiting<'_>) -> Result<()> {
        let failed = |error| Error::io("cannot write to the NBD server", error);
        let mut rest = bytes;
        while !rest.is_empty() {
            self.prepare(waiting)?;
            match self.stream.write(rest) {
                Ok(0) => return Err(closed()),
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(error) if is_wait(&error) => waiting.ask()?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// Fills `out`.
    pub(super) fn read(&mut self, out: &mut [u8], waiting: &mut Waiting<'_>) -> Result<()> {
        let mut rest = out;
        while !rest.is_empty() {
            let len = if self.at < self.end {
                let ready = self.buffer.get(self.at..self.end).unwrap_or_default();
                let len = ready.len().min(rest.len());
                if let (Some(to), Some(from)) = (rest.get_mut(..len), ready.get(..len)) {
                    to.copy_from_slice(from);
                }
                self.at += len;
                len
            } else if rest.len() >= BUFFER_BYTES {
                // Bytes that do not fit into the buffer go past it.
                self.receive(Some(&mut *rest), waiting)?
            } else {
                self.fill(waiting)?;
                0
            };
            rest = std::mem::take(&mut rest).get_mut(len..).unwrap_or_default();
        }
        Ok(())
    }

    /// Reads `N` bytes.
    pub(super) fn array<const N: usize>(&mut self, waiting: &mut Waiting<'_>) -> Result<[u8; N]> {
        let mut array = [0; N];
        self.read(&mut array, waiting)?;
        Ok(array)
    }

    /// Reads `len` bytes, which the caller knows to be few.
    pub(super) fn bytes(&mut self, len: usize, waiting: &mut Waiting<'_>) -> Result<Vec<u8>> {
        let mut bytes = memory::zeroed(len)?;
        self.read(&mut bytes, waiting)?;
        Ok(bytes)
    }

    /// Takes `len` bytes and forgets them.
    pub(super) fn skip(&mut self, len: u64, waiting: &mut Waiting<'_>) -> Result<()> {
        let mut left = len;
        while left > 0 {
            if self.at == self.end {
                self.fill(waiting)?;
            }
            let ready = self.end - self.at;
            let taken = usize::try_from(left).unwrap_or(usize::MAX).min(ready);
            self.at += taken;
            left -= taken as u64;
        }
        Ok(())
    }

    fn fill(&mut self, waiting: &mut Waiting<'_>) -> Result<()> {
        (self.at, self.end) = (0, self.receive(None, waiting)?);
        Ok(())
    }

    /// Waits for the next bytes and puts them into `out`, or into the buffer; returns how many there are.
    fn receive(&mut self, mut out: Option<&mut [u8]>, waiting: &mut Waiting<'_>) -> Result<usize> {
        let failed = |error| Error::io("cannot read from the NBD server", error);
        loop {
            self.prepare(waiting)?;
            let into = out.as_deref_mut().unwrap_or(&mut self.buffer);
            match self.stream.read(into) {
                Ok(0) => return Err(closed()),
                Ok(len) => return Ok(len.min(into.len())),
                Err(error) if is_wait(&error) => waiting.ask()?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

impl Drop for Wire {
    /// Says farewell, if the server takes it at once.
    fn drop(&mut self) {
        if let Some(farewell) = &self.farewell {
            let _ = self.stream.set_patience(FAREWELL).and_then(|()| self.stream.write(farewell));
        }
    }
}

fn is_wait(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn closed() -> Error {
    let message = "the NBD server closed the connection in the middle of an answer";
    Error::new(ErrorKind::Io, message).with_source(io::Error::from_raw_os_error(libc::ECONNRESET))
}
