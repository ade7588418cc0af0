#![forbid(unsafe_code)]
//! Owns the view of a child after a fork: it has none of its parent's other threads, so a change that one of them had begun is
//! never finished there. Must never know the work of the threads.
//!
//! Nothing is registered with the system, which has no way to take it back, and a process that never forks pays nothing: who
//! finds a section entered asks for the number of the process, and compares.

use crate::error::{Error, ErrorKind};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

/// A fork caught another thread in the middle of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Torn;

impl From<Torn> for Error {
    fn from(_: Torn) -> Self {
        let message = "another thread was in the middle of a call on this when the process was forked";
        Self::new(ErrorKind::TornByFork, message).advise("free it in the child, and take what it held from elsewhere")
    }
}

/// Code in which threads may wait for each other, so that a child must not enter it if one of its parent's was inside.
#[derive(Debug, Default)]
pub(crate) struct Section {
    /// The process whose threads are inside, and in the lower half how many they are.
    inside: AtomicU64,
}

/// A thread is in a section for as long as this lives.
#[derive(Debug)]
pub(crate) struct Inside<'a>(&'a Section);

impl Section {
    /// Enters, unless a fork caught another thread inside.
    pub(crate) fn enter(&self) -> Result<Inside<'_>, Torn> {
        let ours = u64::from(process::id()) << 32;
        let enter = |inside: u64| match inside {
            _ if count(inside) == 0 => Some(ours + 1),
            _ if is_of(inside, ours) => Some(inside + 1),
            _ => None,
        };
        let entered = self.inside.fetch_update(Ordering::AcqRel, Ordering::Acquire, enter);
        entered.map(|_| Inside(self)).map_err(|_| Torn)
    }

    /// Whether a fork caught another thread inside.
    #[cfg(any(test, feature = "capi"))]
    pub(crate) fn is_torn(&self) -> bool {
        let inside = self.inside.load(Ordering::Acquire);
        count(inside) > 0 && !is_of(inside, u64::from(process::id()) << 32)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::AcqRel);
    }
}

fn count(inside: u64) -> u64 {
    inside & u64::from(u32::MAX)
}

fn is_of(inside: u64, process: u64) -> bool {
    inside - count(inside) == process
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_one_process_enter_together_and_those_of_another_find_it_torn() {
        let section = Section::default();
        let first = section.enter().unwrap();
        let second = section.enter().unwrap();
        assert!(!section.is_torn());
        drop(first);
        assert_eq!(count(section.inside.load(Ordering::Relaxed)), 1);
        // As a child with another number finds it.
        section.inside.fetch_xor(1 << 40, Ordering::Relaxed);
        assert!(section.is_torn() && section.enter().is_err() && section.enter().is_err());
        drop(second);
        assert!(!section.is_torn() && section.enter().is_ok());
    }
}
