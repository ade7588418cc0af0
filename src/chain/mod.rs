#![forbid(unsafe_code)]
//! The checkpoints of a disk, read from the names and flags of its bitmaps, and the actions on bitmaps that creating,
//! deleting and renaming a checkpoint come to. Nothing here reads or writes anything: [`Image`](crate::Image) does.
//!
//! A checkpoint is a point in time; a bitmap holds the writes *after* its own checkpoint, until the next one:
//!
//! ```text
//! checkpoints   1        2        3        4        (now)
//! bitmaps       |--'1'---|-'1->2'-|-'2->3'-|-'3->4'-->
//!                frozen    frozen   frozen   recording
//! ```
//!
//! So `diff(since 2)` is `1->2` ∪ `2->3` ∪ `3->4`. Deleting 3 lets `1->2` absorb `2->3` and renames `3->4` to `2->4`.
//!
//! ```
//! use checkmap::Granularity;
//! use checkmap::chain::{BitmapState, Chain, Name};
//!
//! let granularity = Granularity::from_bytes(65536)?;
//! let bitmap = |name: &str, recording| BitmapState::new(Name::new(name), granularity, recording);
//! let chain = Chain::read(&[bitmap("1->2", true), bitmap("1", false)], None)?;
//! let plan = chain.plan_delete(b"2", false)?;
//! let steps: Vec<String> = plan.actions().iter().map(|action| action.to_string()).collect();
//! assert_eq!(steps, ["merge '1->2' into '1'", "start recording in '1'", "remove '1->2'"]);
//! # Ok::<(), checkmap::Error>(())
//! ```

// Owns the checkpoints: how the names of bitmaps carry a chain, and what an operation on checkpoints means for the bitmaps.
// Pure logic over names and flags: it must never know a file, a format or a bit.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod beside;
mod convert;
mod create;
mod delete;
mod diff;
mod drop;
mod merge;
mod model;
mod name;
mod nearest;
mod order;
mod plan;
mod read;
mod record;
mod rename;
mod select;
mod stack;
mod stretch;

pub use beside::interval_of;
pub use create::CreateOptions;
pub use diff::Span;
pub use drop::{foreign_in, plan_drop_bitmap};
pub use merge::plan_merge;
pub use model::{BitmapState, Checkpoint, Interval, KnownModel, Model, Owner, Until};
pub use name::{MAX_BITMAP_NAME, MAX_CHECKPOINT_NAME, Name, check_checkpoint_name};
pub(crate) use name::{list, no_bitmap};
pub use order::Contents;
pub use plan::{Action, BelowActions, Plan};
pub(crate) use plan::{Origin, carry_out as after, plan_actions};
pub use record::Record;
pub use stack::{
    CommitPlan, ForcedDeletion, IsAlias, Layer, LayerActions, Part, Stack, StackCheckpoint, StackSpan, Taken,
};

use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::memory;
use std::collections::HashMap;
use stretch::Stretch;

/// The checkpoints of one image, read from the names and flags of its bitmaps.
#[derive(Clone, Debug)]
pub struct Chain {
    model: Model,
    /// The model that the caller insists on, which also decides what `create` starts on an empty image.
    insist: Option<KnownModel>,
    checkpoints: Vec<Checkpoint>,
    /// The place of each checkpoint, by its bitmap.
    places: HashMap<Name, usize>,
    /// The parts of an interval chain without a gap, in the order of the checkpoints.
    stretches: Vec<Stretch>,
    foreign: Vec<Name>,
    helpers: Vec<Name>,
    /// Every bitmap of the image, helpers and foreign ones too: any of them can hold a name that a plan wants.
    states: Vec<BitmapState>,
}

impl Chain {
    /// The model of the checkpoints.
    pub fn model(&self) -> Model {
        self.model
    }

    /// The checkpoints. Interval: oldest first; where there are several gaps, what lies between them stands by name, see
    /// [`Checkpoint::ordered`]. Cumulative: by name until [`Chain::order_cumulative`] is called, then
    /// oldest first where that can be told. Empty for [`Model::None`] and [`Model::Unknown`].
    pub fn checkpoints(&self) -> &[Checkpoint] {
        &self.checkpoints
    }

    /// The bitmaps that are no checkpoints of this chain: listed, never touched. A bitmap here can record or not, be
    /// consistent or not; it belongs to somebody else, or to the other chain of the image, see [`Chain::beside`]. Empty for
    /// [`Model::None`] and [`Model::Unknown`].
    pub fn foreign(&self) -> &[Name] {
        &self.foreign
    }

    /// What libvirt left behind after a crash, see [`Name::is_helper`]: listed, never taken for checkpoints, and of no
    /// weight for the model. They still occupy their names.
    pub fn helpers(&self) -> &[Name] {
        &self.helpers
    }

    /// The checkpoint of this name.
    pub fn checkpoint(&self, name: &[u8]) -> Option<&Checkpoint> {
        self.checkpoints.iter().find(|checkpoint| checkpoint.name.as_bytes() == name)
    }

    /// The interval that the bitmap named `bitmap` covers; `None` for a bitmap that belongs to no checkpoint.
    pub fn interval_of(&self, bitmap: &Name) -> Option<Interval> {
        let at = *self.places.get(bitmap)?;
        let own = self.checkpoints.get(at)?;
        let until = match self.stretch_of(at) {
            Some(stretch) if at + 1 < stretch.places.end => {
                Until::Checkpoint(self.checkpoints.get(at + 1).map(|next| next.name.clone())?)
            }
            Some(stretch) if self.lies_before_a_gap(stretch) => Until::Gap,
            _ => Until::Now,
        };
        Some(Interval { since: own.name.clone(), until })
    }

    /// The stretch in which the checkpoint at this place stands; `None` for cumulative checkpoints.
    fn stretch_of(&self, at: usize) -> Option<&Stretch> {
        self.stretches.get(self.stretches.partition_point(|stretch| stretch.places.end <= at))
    }

    fn part(&self, stretch: &Stretch) -> &[Checkpoint] {
        self.checkpoints.get(stretch.places.clone()).unwrap_or_default()
    }

    /// The checkpoint before the one at this place, and the one after it, where no gap lies between.
    fn neighbours(&self, at: usize) -> (Option<&Checkpoint>, Option<&Checkpoint>) {
        let Some(stretch) = self.stretch_of(at) else { return (None, None) };
        let neighbour = |at: usize| self.checkpoints.get(at).filter(|_| stretch.places.contains(&at));
        (at.checked_sub(1).and_then(neighbour), neighbour(at + 1))
    }

    /// Whether the bitmap at the end of this stretch ended long ago, at a checkpoint that is missing. One that records
    /// ends now.
    fn lies_before_a_gap(&self, stretch: &Stretch) -> bool {
        let records = self.part(stretch).last().is_some_and(|newest| newest.recording);
        !records && stretch.places.end < self.checkpoints.len()
    }

    /// Refuses a new checkpoint the name of one that only a gap still mentions: the new one would be taken for it.
    fn refuse_name_of_gap(&self, own: &Name) -> Result<()> {
        let missing = |stretch: &&Stretch| stretch.missing.as_ref() == Some(own);
        let Some(after) = self.stretches.iter().find(missing).and_then(|stretch| self.part(stretch).first()) else {
            return Ok(());
        };
        let message = format!("{} still follows a checkpoint {own}, which has no bitmap any more", after.bitmap);
        let way_out = WayOut::from("choose another name, or drop what lies before the gap with ")
            .control(Control::DropBefore(after.name.as_bytes().to_vec()));
        Err(Error::new(ErrorKind::Exists, message).advise(way_out))
    }

    /// Notes where each checkpoint stands now.
    fn note_places(&mut self) -> Result<()> {
        let bitmaps = self.checkpoints.iter().map(|checkpoint| checkpoint.bitmap.clone());
        self.places = memory::map(bitmaps.zip(0..))?;
        Ok(())
    }

    /// Refuses an unknown model ([`ErrorKind::Model`]): nothing that needs the chain can be answered.
    pub fn check_known(&self) -> Result<()> {
        if self.model != Model::Unknown {
            return Ok(());
        }
        let plain = self.states.iter().filter(|state| !state.name.is_helper());
        let silent = plain.clone().filter(|state| !state.recording).map(|state| &state.name);
        let verb = if silent.clone().nth(1).is_some() { "do" } else { "does" };
        Err(Error::new(
            ErrorKind::Model,
            format!(
                "{} may be one chain of intervals or cumulative checkpoints: {} {verb} not record",
                name::list(plain.map(|state| &state.name)),
                name::list(silent),
            ),
        )
        .advise(
            WayOut::from("say which with ")
                .control(Control::Model(None))
                .words(", or drop the bitmaps that do not belong with ")
                .control(Control::DropBitmap),
        ))
    }

    /// The place of the checkpoint named `name`.
    fn position(&self, name: &[u8]) -> Result<usize> {
        self.check_known()?;
        match self.checkpoints.iter().position(|checkpoint| checkpoint.name.as_bytes() == name) {
            Some(at) => Ok(at),
            None => Err(self.not_found(&Name::new(name))),
        }
    }

    fn not_found(&self, name: &Name) -> Error {
        let error = |message: String| Error::new(ErrorKind::NotFound, message);
        if let Some(other) = self.other_model_of(name) {
            let message = format!("{name} is a checkpoint of the other chain of this image, which is {other}");
            return error(message).advise(WayOut::from("ask for ").control(Control::Model(Some(other.as_str()))));
        }
        if let Some(own) = self.checkpoints.iter().find(|checkpoint| checkpoint.bitmap == *name) {
            return error(format!("{name} is a bitmap, not a checkpoint"))
                .advise(format!("its checkpoint is {}", own.name));
        }
        let way_out = match self.checkpoints.is_empty() {
            true => "there are no checkpoints: the next backup must be full".to_owned(),
            false => nearest::suggestion(name, self.names()),
        };
        match self.states.iter().any(|state| state.name == *name) {
            true => error(format!("{name} is a bitmap of its own, not a checkpoint")).advise(way_out),
            false => error(format!("no checkpoint is named {name}")).advise(way_out),
        }
    }
}
