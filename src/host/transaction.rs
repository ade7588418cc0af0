#![forbid(unsafe_code)]
//! Owns the step in which the hosts of several disks change together. Must never know how the step is made.

use crate::chain::{Action, BitmapState};
use crate::error::Result;
use crate::progress::Observer;
use std::fmt;
use std::sync::Arc;

/// A step that changes the bitmaps of several disks, all or none: that of one hypervisor over the disks of its machine.
pub trait Transaction: Send + Sync + fmt::Debug {
    /// Carries out the actions of every share, in their order, in one step. The strings are warnings, for each share its own.
    ///
    /// On any error no disk has changed, and the error says so; but for
    /// [`ErrorKind::CommitInDoubt`](crate::ErrorKind::CommitInDoubt), where all of it or nothing was done. The error names the
    /// disk, where it is one's. `observer` can stop it until the step begins.
    fn apply(&self, shares: &[Share<'_>], observer: &mut dyn Observer) -> Result<Vec<Vec<String>>>;

    /// Finds out whether [`Transaction::apply`] could carry them out, without a change; `None` where only doing it tells.
    fn rehearse(&self, _shares: &[Share<'_>], _observer: &mut dyn Observer) -> Result<Option<Vec<Vec<String>>>> {
        Ok(None)
    }
}

/// The part of one disk in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Share<'a> {
    /// The disk, by the name that its host has in the transaction.
    pub disk: &'a str,
    /// The actions on its bitmaps.
    pub actions: &'a [Action],
    /// The bitmaps for which they were planned, where the disk's own host does not know: on others they are not carried out.
    pub planned_on: Option<&'a [BitmapState]>,
}

impl<'a> Share<'a> {
    /// These actions on the bitmaps of `disk`.
    pub fn new(disk: &'a str, actions: &'a [Action]) -> Self {
        Self { disk, actions, planned_on: None }
    }

    /// The same, which was planned for these bitmaps.
    #[must_use]
    pub fn planned_on(self, bitmaps: &'a [BitmapState]) -> Self {
        Self { planned_on: Some(bitmaps), ..self }
    }
}

/// That a host takes part in a transaction, and as which disk.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Membership {
    /// The transaction: the same object for all hosts that change together.
    pub transaction: Arc<dyn Transaction>,
    /// The name of the disk in it, which no other host has.
    pub disk: String,
}

impl Membership {
    /// The disk of this name takes part in `transaction`.
    pub fn new(transaction: Arc<dyn Transaction>, disk: impl Into<String>) -> Self {
        Self { transaction, disk: disk.into() }
    }

    /// Whether both take part in the same transaction.
    pub fn shares_with(&self, other: &Membership) -> bool {
        Arc::ptr_eq(&self.transaction, &other.transaction)
    }
}
