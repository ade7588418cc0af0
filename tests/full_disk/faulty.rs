//! A storage whose disk is full at a chosen moment.

use crate::support::memory::{Memory, no_space};
use checkmap::io::Storage;
use std::io;
use std::sync::Mutex;

/// When the disk is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The write of this number fails.
    Write(u64),
    /// The flush of this number fails.
    Flush(u64),
    /// The file can grow by this number of sectors only.
    Growth(u64),
    /// From the write of this number on, nothing works.
    Forever(u64),
}

impl Fault {
    /// Whether a begun change can be put back.
    pub(crate) fn spares_the_undo(self) -> bool {
        !matches!(self, Fault::Forever(_))
    }
}

#[derive(Debug)]
pub(crate) struct Faulty {
    memory: Memory,
    len_before: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    fault: Fault,
    writes: u64,
    flushes: u64,
    has_struck: bool,
}

impl Faulty {
    pub(crate) fn new(image: &[u8], fault: Fault) -> Self {
        let state = State { fault, writes: 0, flushes: 0, has_struck: false };
        Self { memory: Memory::new(image), len_before: image.len() as u64, state: Mutex::new(state) }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.memory.bytes()
    }

    /// Whether anything failed.
    pub(crate) fn has_struck(&self) -> bool {
        self.state.lock().expect("nobody panics inside").has_struck
    }

    /// From now on there is room.
    pub(crate) fn heal(&self) {
        self.state.lock().expect("nobody panics inside").fault = Fault::None;
    }

    /// Fails where the fault says so; `strikes` looks at the calls before this one.
    fn meet(&self, strikes: impl FnOnce(&State) -> bool) -> io::Result<()> {
        let mut state = self.state.lock().expect("nobody panics inside");
        if strikes(&state) {
            state.has_struck = true;
            return Err(no_space());
        }
        Ok(())
    }
}

impl Storage for Faulty {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.memory.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        let met = self.meet(|state| match state.fault {
            Fault::Write(number) => state.writes == number,
            Fault::Forever(number) => state.writes >= number,
            Fault::Growth(sectors) => end > self.len_before + sectors * 512,
            Fault::None | Fault::Flush(_) => false,
        });
        self.state.lock().expect("nobody panics inside").writes += 1;
        if met.is_err() {
            // A failed write may have written a part: here the first half, as far as the file goes.
            let there = self.memory.len_bytes()?.saturating_sub(offset).min(bytes.len() as u64 / 2);
            self.memory.write_at(&bytes[..usize::try_from(there).expect("a part of the bytes")], offset)?;
        }
        met.and_then(|()| self.memory.write_at(bytes, offset))
    }

    fn flush(&self) -> io::Result<()> {
        let met = self.meet(|state| match state.fault {
            Fault::Flush(number) => state.flushes == number,
            Fault::Forever(number) => state.writes > number,
            _ => false,
        });
        self.state.lock().expect("nobody panics inside").flushes += 1;
        met
    }

    fn truncate(&self, len_bytes: u64) -> io::Result<()> {
        self.memory.truncate(len_bytes)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.memory.len_bytes()
    }

    fn can_grow(&self) -> bool {
        true
    }
}
