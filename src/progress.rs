#![forbid(unsafe_code)]
//! How long work tells its caller where it stands, and how the caller stops it.
//!
//! Calls that can take long take an [`Observer`]: a closure, or [`Unobserved`].
//!
//! ```
//! use checkmap::progress::Step;
//! use std::ops::ControlFlow;
//!
//! let mut observer = |step: Step| {
//!     eprintln!("{}: {} of {}", step.phase, step.done, step.total);
//!     ControlFlow::<()>::Continue(())
//! };
//! # let _: &mut dyn checkmap::progress::Observer = &mut observer;
//! ```

// Owns the telling and the stopping. Knows nothing of the work.

use crate::error::{Error, ErrorKind, Result};
use std::ops::ControlFlow;

/// How far a piece of work has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step {
    /// The step of the work, such as `reading bitmaps`.
    pub phase: &'static str,
    /// How much of it is done, in units that only compare with `total`.
    pub done: u64,
    /// How much of it there is; never less than `done`.
    pub total: u64,
}

impl Step {
    /// So much of `phase` is done.
    pub fn new(phase: &'static str, done: u64, total: u64) -> Self {
        Self { phase, done, total }
    }
}

/// A listener to the progress of a call, called on the caller's thread. `Break` stops the work where nothing has been
/// changed yet, and is ignored once the commit has begun.
pub trait Observer {
    /// Takes note of `step`, and says whether to go on.
    fn step(&mut self, step: Step) -> ControlFlow<()>;
}

impl<F: FnMut(Step) -> ControlFlow<()>> Observer for F {
    fn step(&mut self, step: Step) -> ControlFlow<()> {
        self(step)
    }
}

/// An observer that looks away and never stops anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn step(&mut self, _: Step) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Tells `observer`; its `Break` becomes [`ErrorKind::Cancelled`].
pub(crate) fn tell(observer: &mut dyn Observer, phase: &'static str, done: u64, total: u64) -> Result<()> {
    match observer.step(Step::new(phase, done, total)) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::new(ErrorKind::Cancelled, "stopped as asked").nothing_changed()),
    }
}
