#![forbid(unsafe_code)]
//! Owns the seam between the taking of a backup and the disks that it is taken of. Must never know what lies behind it: image files
//! are one origin ([`super::images`]), a running machine is another ([`super::running`]).
//!
//! [`super::take`] calls an origin in this order. First `take_up`. For each disk `check_usable`, then `delete` for what an interrupted run left, then
//! `check_create`; nothing was made yet, and an error ends the run. Then `create` once for all disks, unless a moment was taken up. Then for each disk `open`, the
//! reading, and the end of the reading when it is dropped. Last `delete`: of the new checkpoint where the disk could not be copied,
//! of older ones where it was. `end` is behind all disks.
//!
//! What an origin promises, so that no change is lost:
//! * The moment that a [`Reading`] shows is not older than the checkpoint that `create` made, and it stands still. Where it is lost
//!   while it is read, each later read fails.
//! * `changed_since` has every block that may differ between the moment of that checkpoint and the moment of the reading.
//! * The allocation that the content tells is that of the same moment. What it calls zeros reads as zeros.

use super::SourceFile;
use crate::bitmap::Bitmap;
use crate::content::Content;
use crate::error::{Error, Result};
use crate::progress::Observer;
use std::fmt;
use std::time::SystemTime;

/// Whether the directory has a disk, by its name, at a checkpoint.
pub(crate) type IsDone<'a> = &'a dyn Fn(&[u8], &[u8]) -> bool;

/// The disks of one run.
pub(crate) trait Origin {
    /// The disks, in the order in which the caller named them.
    fn disks(&mut self) -> Vec<&mut dyn Disk>;

    /// Goes on with the moment that an interrupted run of this directory left: its checkpoint, which `create` need not make. `is_done`
    /// tells whether that run has backed up a disk at a checkpoint; where it has all of them, there is nothing to go on with.
    fn take_up(&mut self, _is_done: IsDone<'_>, _observer: &mut dyn Observer) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    /// Makes the checkpoint on the disks of which `wanted` is true, at one moment where the origin can do that; all disks can be opened
    /// then. An answer for each disk: its warnings, or why it has no checkpoint;
    /// [`ErrorKind::CommitInDoubt`](crate::ErrorKind::CommitInDoubt) where it may have one. An error of all says that no disk has one.
    fn create(
        &mut self,
        checkpoint: &[u8],
        wanted: &[bool],
        observer: &mut dyn Observer,
    ) -> Result<Vec<Result<Vec<String>>>>;

    /// Leaves what `take_up` found where it is, for another run.
    fn leave(&mut self) {}

    /// Ends what `create` or `take_up` began, once every disk was read; a warning where that fails.
    fn end(&mut self) -> Option<String> {
        None
    }
}

/// One disk.
pub(crate) trait Disk: fmt::Debug {
    /// Its name in the directory.
    fn name(&self) -> &[u8];

    /// By what the directory knows the disk again: the path of its top image.
    fn place(&self) -> &[u8];

    /// Whether the image of that path is one of its layers; told once `check_usable` was called.
    fn is_at(&self, place: &[u8]) -> bool;

    /// Names the disk in an error.
    fn named(&self, error: Error) -> Error;

    /// Refuses a disk that must not be changed now, or whose bytes cannot be read.
    fn check_usable(&mut self, observer: &mut dyn Observer) -> Result<()>;

    /// Whether the checkpoint can be made: the reason why not, where the disk can be copied without one.
    fn check_create(&mut self, checkpoint: &[u8]) -> Result<Option<Error>>;

    /// Deletes those of these checkpoints that are on the disk, so that their changes count from the ones before. Returns the names
    /// of these, and warnings.
    fn delete(&mut self, checkpoints: &[Vec<u8>]) -> Result<(Vec<Vec<u8>>, Vec<String>)>;

    /// The disk as of the moment that is backed up.
    fn open(&mut self, observer: &mut dyn Observer) -> Result<Box<dyn Reading>>;
}

/// A disk as of one moment. Dropping it gives the moment up.
pub(crate) trait Reading: fmt::Debug {
    /// Its size, its bytes, and where it has any.
    fn content(&self) -> &dyn Content;

    /// The time of the moment.
    fn time(&self) -> SystemTime;

    /// What changed from that checkpoint until this moment; or the reason why that cannot be told, in a sentence.
    fn changed_since(
        &self,
        checkpoint: &[u8],
        observer: &mut dyn Observer,
    ) -> Result<std::result::Result<Bitmap, String>>;

    /// The files that are read, the top one first.
    fn files(&self) -> Vec<SourceFile>;

    /// What the caller should tell its user.
    fn warnings(&self) -> Vec<String>;

    /// Why the content is read by a private qemu-nbd, in a sentence; none where this process reads it itself.
    fn through_qemu(&self) -> Option<&str>;
}
