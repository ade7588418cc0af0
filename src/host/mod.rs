#![forbid(unsafe_code)]
//! A host keeps the bitmaps of one disk: a qcow2 image, a running hypervisor, a file beside the disk.
//!
//! Programs that work with images need nothing from here: [`Image`](crate::Image) gives the same operations on every host.
//! A program that keeps bitmaps in a place of its own implements [`Host`] and calls
//! [`Image::on`](crate::Image::on); then checkpoints are created, deleted, renamed, listed and diffed there too.
//!
//! # The duties of a host
//!
//! * [`Host::bitmaps`] and [`Host::facts`] give the state as it was read, which alters only by a change through this host.
//!   [`Host::is_unchanged`] tells whether another program has changed it since.
//! * [`Host::apply`] carries out a list of actions in their order, all of them or none. While a bitmap is in use by
//!   something else, it fails with [`ErrorKind::InUse`] and changes nothing.
//! * [`Host::union`] answers from bits that can be trusted, and fails where it cannot: it never leaves out a dirty block.
//! * Calls that take `&self` can come from several threads at once.
//!
//! Everything else has a default that is right for a host that has nothing to say.
//!
//! # Several disks in one step
//!
//! The disks of one virtual machine change together: the hosts of its disks name the same [`Transaction`] by
//! [`Host::membership`], and a [`Group`](crate::image::Group) hands it the actions of all of them.

// Owns the one seam between the operations on images and the places where bitmaps live: a trait and plain data. Must
// never know a place, nor what bitmaps mean to one another.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod facts;
mod joint;
mod layer;
mod report;
mod transaction;
mod unite;

pub use facts::{Backing, Facts, Fill, Remarks, Summary};
pub use joint::{Ground, Mark, Prepared, Progress, Switch};
pub use layer::LayerBelow;
pub use report::{CheckReport, Problem, Severity};
pub use transaction::{Membership, Share, Transaction};
pub use unite::{UnionRequest, unite};

use crate::bitmap::Bitmap;
use crate::chain::{Action, BitmapState, Name};
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::Granularity;
use crate::io::Storage;
use crate::memory;
use crate::progress::Observer;
use std::fmt;
use std::sync::Arc;

/// A place that keeps the bitmaps of one disk; its duties stand at the [module](self).
///
/// An error's message states the fault, and [`Error::at`] its place: the image adds its own name.
pub trait Host: Send + Sync + fmt::Debug {
    /// The facts of the disk. It costs nothing: everything was read when the host was opened.
    fn facts(&self) -> Facts<'_>;

    /// The bitmaps, in the order in which the host keeps them; where its list is damaged, those before the damage.
    fn bitmaps(&self) -> Box<dyn Iterator<Item = BitmapState> + '_>;

    /// The bitmap of this name. By default it is searched among all.
    fn bitmap(&self, name: &Name) -> Result<Option<BitmapState>> {
        Ok(self.bitmaps().find(|bitmap| bitmap.name == *name))
    }

    /// Whether [`Host::drop_all`] has anything to remove: also a list of bitmaps that is empty, or cannot be read.
    fn has_directory(&self) -> bool {
        self.bitmaps().next().is_some()
    }

    /// Whether a running program keeps the bitmaps, which each reading of their bits disturbs: they are read where the bits are asked
    /// for, and not for sums alone.
    fn is_live(&self) -> bool {
        false
    }

    /// Why no bitmap here can be used or changed, where that is so.
    fn trouble(&self) -> Option<&Error> {
        None
    }

    /// Why nothing may be changed here until something is repaired, where [`Facts::is_unclean`] says so.
    fn unclean(&self) -> Option<Error> {
        None
    }

    /// Whether the list of bitmaps is still as it was read. It is asked before and after each question where no locks keep
    /// others out.
    fn is_unchanged(&self) -> Result<bool>;

    /// The granularity of a new bitmap where nothing else says one.
    fn default_granularity(&self) -> Result<Granularity>;

    /// Refuses a granularity at which no bitmap of this disk can be kept, with [`ErrorKind::InvalidArgument`]; or a disk
    /// that can have no bitmap, with [`ErrorKind::CannotStore`].
    fn check_granularity(&self, granularity: Granularity) -> Result<()>;

    /// The finest granularity from `smallest` on at which a bitmap of this disk can be kept.
    fn fitting_granularity(&self, smallest: Granularity) -> Result<Granularity> {
        for bits in smallest.bits()..31 {
            let granularity = Granularity::from_bits(bits)?;
            if self.check_granularity(granularity).is_ok() {
                return Ok(granularity);
            }
        }
        let largest = Granularity::from_bits(31)?;
        self.check_granularity(largest).map(|()| largest)
    }

    /// Prepares [`Host::doubt`], where that takes long enough to be watched. Without it the first call
    /// that needs it does so.
    fn survey(&self, _observer: &mut dyn Observer) -> Result<()> {
        Ok(())
    }

    /// Why the content of this bitmap cannot be trusted although its flags are fine.
    fn doubt(&self, _name: &Name, _observer: &mut dyn Observer) -> Result<Option<Error>> {
        Ok(None)
    }

    /// The union of at least one bitmap inside a window of the disk, of the disk's own size, at the granularity that is asked
    /// for. Outside of the granules that the window touches the
    /// answer is clean.
    ///
    /// The caller has made sure that the bitmaps are there, consistent and of a known type. A host whose bitmaps are read
    /// one after the other passes a reading of one to [`unite`].
    fn union(&self, request: &UnionRequest<'_>, observer: &mut dyn Observer) -> Result<Bitmap>;

    /// The blocks inside a window of the disk that this layer holds itself, data and zeros, instead of leaving them to the
    /// layer below; of the disk's own size, at any granularity, rounded outward. `None` where that cannot be known.
    ///
    /// It is asked for layers that were put on top of another one: writes that no bitmap recorded are among these blocks.
    fn allocated(&self, _offset: u64, _len_bytes: u64, _observer: &mut dyn Observer) -> Result<Option<Bitmap>> {
        Ok(None)
    }

    /// The layers below this one, the nearest first, where the host knows them all; `None` where [`Facts::backing`] names
    /// the next one, which is then looked for among the files.
    fn layers_below(&self) -> Result<Option<Vec<LayerBelow>>> {
        Ok(None)
    }

    /// The sums of a bitmap that are known without reading its bits; the image counts the rest. An error is damage of the bitmap.
    fn summary(&self, _name: &Name) -> Result<Summary> {
        Ok(Summary::default())
    }

    /// The SHA-256 of a bitmap's bits, as [`Bitmap::sha256`](crate::bitmap) computes it, where the place tells it without handing out
    /// the bits. `None` where it does not: then the bits are read.
    fn sha256(&self, _name: &Name, _observer: &mut dyn Observer) -> Result<Option<[u8; 32]>> {
        Ok(None)
    }

    /// Remarks for the user about these actions, beside those of the chain.
    fn remarks(&self, _actions: &[Action]) -> Remarks {
        Remarks::default()
    }

    /// Finds out whether [`Host::apply`] could carry out `actions`, without a change; `None` where only doing it tells.
    /// The strings are the warnings that it would give.
    fn rehearse(&self, _actions: &[Action], _observer: &mut dyn Observer) -> Result<Option<Vec<String>>> {
        Ok(None)
    }

    /// Carries out `actions` in their order and in one step: all of them, or none. The strings are warnings.
    ///
    /// Afterwards [`Host::bitmaps`] shows what there is then. On any error nothing has changed, and the error says so
    /// ([`Error::nothing_changed`]); but for [`ErrorKind::CommitInDoubt`], where all or none of it was done and nobody knows
    /// which. `observer` can stop it until the step begins.
    fn apply(&mut self, actions: &[Action], observer: &mut dyn Observer) -> Result<Vec<String>>;

    /// As [`Host::apply`]; then, in the same step, adds bits to bitmaps that are there afterwards, whether they record or not.
    fn apply_filled(&mut self, actions: &[Action], fills: &[Fill], observer: &mut dyn Observer) -> Result<Vec<String>> {
        if fills.is_empty() { self.apply(actions, observer) } else { Err(cannot_fill().nothing_changed()) }
    }

    /// The rehearsal of [`Host::apply_filled`], as [`Host::rehearse`] is that of [`Host::apply`].
    fn rehearse_filled(
        &self,
        actions: &[Action],
        fills: &[Fill],
        observer: &mut dyn Observer,
    ) -> Result<Option<Vec<String>>> {
        if fills.is_empty() { self.rehearse(actions, observer) } else { Err(cannot_fill()) }
    }

    /// Removes every bitmap in one step, as [`Host::apply`] does, damaged ones too.
    fn drop_all(&mut self, observer: &mut dyn Observer) -> Result<Vec<String>> {
        let actions = removals(self.bitmaps())?;
        self.apply(&actions, observer)
    }

    /// The rehearsal of [`Host::drop_all`], as [`Host::rehearse`] is that of [`Host::apply`].
    fn rehearse_drop_all(&self, observer: &mut dyn Observer) -> Result<Option<Vec<String>>> {
        self.rehearse(&removals(self.bitmaps())?, observer)
    }

    /// The transaction in which this host changes together with others.
    fn membership(&self) -> Option<Membership> {
        None
    }

    /// Reads the state anew after a [`Transaction`] changed it. Where that fails, the host refuses every later call.
    fn read_again(&mut self) -> Result<()> {
        Ok(())
    }

    /// The mark of a step over several places that was interrupted here.
    fn mark(&self) -> Option<Mark> {
        None
    }

    /// The refusal of every change while [`Host::mark`] is there, unless [`Host::mend`] allows them.
    fn unfinished(&self) -> Option<Error> {
        None
    }

    /// Whether changes are allowed although there is a mark: those that undo the step.
    fn mend(&mut self, _allowed: bool) {}

    /// Refuses a mark that cannot be set here.
    fn check_mark(&self, _mark: &Mark) -> Result<()> {
        Err(cannot_join())
    }

    /// Finds out what a change needs to know, as the first part of a step over several places.
    fn ground(&self, _observer: &mut dyn Observer) -> Result<Box<dyn Ground + '_>> {
        Err(cannot_join())
    }

    /// The sum by which [`Switch`] tells on which side of a switch the place is.
    fn state_sum(&self) -> Option<u32> {
        None
    }

    /// Whether [`Host::switch_again`] may lead this way: nothing has changed the place since, as far as it tells, and no bits count
    /// afterwards that may lack a write.
    fn can_switch(&self, _switch: &Switch, _forward: bool) -> bool {
        false
    }

    /// Switches a place that has not switched, or not wholly, forward or back; the strings are warnings. Fails with
    /// [`ErrorKind::Changed`] where something else changed the place since, else as [`Host::apply`].
    fn switch_again(&mut self, _switch: &Switch, _forward: bool) -> Result<Vec<String>> {
        Err(cannot_join())
    }

    /// Takes the mark out, durably.
    fn take_mark_out(&mut self) -> Result<()> {
        Ok(())
    }

    /// Verifies every structure and rule, and changes nothing.
    fn check(&self, observer: &mut dyn Observer) -> Result<CheckReport>;

    /// How many threads the calls from now on may use; 0 and 1 mean the caller's.
    fn set_threads(&mut self, _threads: usize) {}

    /// From now on the host is read and written through `storage`, which holds the same bytes and can be written. Asked
    /// only of hosts that lie in a file.
    fn set_storage(&mut self, _storage: Arc<dyn Storage>) -> Result<()> {
        Err(Error::new(ErrorKind::ReadOnly, "was opened for reading only"))
    }
}

fn cannot_fill() -> Error {
    Error::new(ErrorKind::Unsupported, "bits from elsewhere cannot be written into a bitmap here")
}

fn cannot_join() -> Error {
    Error::new(ErrorKind::Unsupported, "cannot change in one step with other images")
}

fn removals(bitmaps: Box<dyn Iterator<Item = BitmapState> + '_>) -> Result<Vec<Action>> {
    Ok(memory::gather(bitmaps.map(|bitmap| Action::Remove { name: bitmap.name }))?)
}
