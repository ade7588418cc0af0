#![forbid(unsafe_code)]
//! Owns the seam for a step over places that share nothing, such as images in files: each is prepared without effect and marked, then
//! all switch. Must never know how a place is changed, nor where the record of the step lies.

use crate::chain::Action;
use crate::error::Result;
use crate::progress::Observer;
use std::path::{Path, PathBuf};

/// What a place carries from the moment in which all are prepared until the step has ended: by it an interrupted step is found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mark {
    /// The step, by a number that no other one has.
    pub step: [u8; 16],
    /// The place, by its number in the record of the step.
    pub number: u32,
    /// The file that records the step; empty where the mark is damaged.
    pub journal: PathBuf,
    /// Whether nothing else has changed the place since the mark was set.
    pub is_untouched: bool,
    /// How far the switch of the place came.
    pub progress: Progress,
}

/// How far the switch of one place came, as its mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// It has not begun.
    Before,
    /// It was interrupted: the place may have switched or not.
    Within,
    /// The place has switched.
    After,
}

impl Mark {
    /// The mark of the place of this number, which nothing has touched.
    pub fn new(step: [u8; 16], number: u32, journal: &Path) -> Self {
        Self { step, number, journal: journal.to_owned(), is_untouched: true, progress: Progress::Before }
    }
}

/// What the record of a step says of one place: enough to tell on which side of its switch it is, and to switch it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Switch {
    /// The sum of what the switch changes, as [`Host::state_sum`](super::Host::state_sum) tells it before the switch.
    pub before: u32,
    /// That sum after the switch.
    pub after: u32,
    /// What the place needs to switch once more, or back; nobody else reads it.
    pub redo: Vec<u8>,
}

impl Switch {
    /// A switch between these two sums.
    pub fn new(before: u32, after: u32, redo: Vec<u8>) -> Self {
        Self { before, after, redo }
    }
}

/// What a place found out about itself, so that a change can be prepared on it.
pub trait Ground {
    /// Writes everything of the change but the switch, which takes no effect yet. The place will carry `mark`.
    fn prepare<'a>(
        &'a mut self,
        actions: &[Action],
        mark: &Mark,
        observer: &mut dyn Observer,
    ) -> Result<Box<dyn Prepared + 'a>>;
}

/// A prepared change of one place. Its calls are made in the order in which they stand here, and ask for no memory.
pub trait Prepared {
    /// For the record of the step.
    fn switch_record(&self) -> &Switch;

    /// Sets the mark, durably. On an error the place is as it was, but for
    /// [`ErrorKind::CommitInDoubt`](crate::ErrorKind::CommitInDoubt).
    fn mark(&mut self) -> Result<()>;

    /// Lets the change take effect, durably. Errors are as those of [`Prepared::mark`].
    fn switch(&mut self) -> Result<()>;

    /// Takes the effect of the change back.
    fn switch_back(&mut self) -> Result<()>;

    /// Takes the mark out after the switch, and releases what the place no longer needs; false where the mark stays. Warnings join
    /// `warnings`.
    fn finish(&mut self, warnings: &mut Vec<String>) -> bool;

    /// Takes the mark out where it is set, and everything that was prepared; the place did not switch, or switched back.
    fn give_up(&mut self) -> Result<()>;
}
