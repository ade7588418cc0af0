#![forbid(unsafe_code)]
//! Owns the place of a panic beside its text, and hands both from one thread to another. Must
//! never know who catches it.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
#[cfg(any(test, feature = "capi"))]
use std::panic::Location;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// The bytes that are kept of a file's name: its end tells more than its beginning.
const NAME_BYTES: usize = 100;

thread_local! {
    /// The place of the last panic of this thread, if the hook noted it and it was not taken yet.
    static LAST: Cell<Option<SourceLine>> = const { Cell::new(None) };
}

/// A line of a source.
#[derive(Clone, Copy)]
pub(crate) struct SourceLine {
    name: [u8; NAME_BYTES],
    len: usize,
    line: u32,
}

impl fmt::Display for SourceLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.get(..self.len).unwrap_or_default();
        write!(f, "{}:{}", String::from_utf8_lossy(name), self.line)
    }
}

impl fmt::Debug for SourceLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Notes where a panic of this thread happened; without allocating, since that may be why.
#[cfg(any(test, feature = "capi"))]
pub(crate) fn note(location: &Location<'_>) {
    let all = location.file().as_bytes();
    let kept = &all[all.len().saturating_sub(NAME_BYTES)..];
    let mut name = [0; NAME_BYTES];
    name[..kept.len()].copy_from_slice(kept);
    LAST.set(Some(SourceLine { name, len: kept.len(), line: location.line() }));
}

/// Where the last panic of this thread happened, where that was noted.
pub(crate) fn take() -> Option<SourceLine> {
    LAST.take()
}

/// A panic that was caught, to go on in another thread.
pub(crate) struct Fault {
    payload: Box<dyn Any + Send>,
    place: Option<Box<SourceLine>>,
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fault").field("place", &self.place).finish_non_exhaustive()
    }
}

/// The result of `work`, or its panic. The data that `work` changed must not be used after a panic.
pub(crate) fn catch<R>(work: impl FnOnce() -> R) -> Result<R, Fault> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| Fault { payload, place: take().map(Box::new) })
}

impl Fault {
    /// Goes on as a panic of this thread.
    pub(crate) fn resume(self) -> ! {
        LAST.set(self.place.map(|place| *place));
        resume_unwind(self.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_name_the_end_is_kept() {
        note(Location::caller());
        let line = line!() - 1;
        assert_eq!(take().map(|place| place.to_string()), Some(format!("src/fault.rs:{line}")));
        assert!(take().is_none());
    }

    #[test]
    fn a_panic_goes_on_in_another_thread_with_its_payload_and_place() {
        let work = || {
            catch(|| {
                note(Location::caller());
                resume_unwind(Box::new(42))
            })
        };
        let Err::<(), Fault>(fault) = std::thread::spawn(work).join().expect("it was caught") else {
            panic!("there was none")
        };
        let payload = catch_unwind(AssertUnwindSafe(|| fault.resume())).expect_err("it goes on");
        assert_eq!(payload.downcast_ref::<i32>(), Some(&42));
        assert!(take().expect("it was noted").to_string().starts_with("src/fault.rs:"));
    }
}
