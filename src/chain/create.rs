#![forbid(unsafe_code)]
//! Owns the creation of a checkpoint: which bitmap is born and which one is frozen, and when a gap in the recording
//! forbids it. Knows nothing of the image.

use super::plan::{self, Action, Plan};
use super::{Chain, Checkpoint, KnownModel, Model, Name, check_checkpoint_name};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::geometry::Granularity;
use crate::memory;

/// How to create a checkpoint.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct CreateOptions {
    /// The granularity of the new bitmap; without it, that of the newest checkpoint.
    pub granularity: Option<Granularity>,
    /// The granularity where there is no checkpoint yet.
    pub default_granularity: Granularity,
    /// The model to start with, or the one of the checkpoints that are there. Without it, the model that
    /// [`Chain::read`] was told to insist on, else the one of the bitmaps, else interval.
    pub model: Option<KnownModel>,
}

impl CreateOptions {
    /// Nothing insisted on.
    pub fn new(default_granularity: Granularity) -> Self {
        Self { granularity: None, default_granularity, model: None }
    }
}

impl Chain {
    /// Plans a new checkpoint named `checkpoint`.
    ///
    /// Refused while any bitmap of the chain is inconsistent or the newest interval bitmap does not record: the new
    /// checkpoint would hide the gap.
    pub fn plan_create(&self, checkpoint: &[u8], options: CreateOptions) -> Result<Plan> {
        self.check_known()?;
        let own = check_checkpoint_name(checkpoint)?;
        let model = self.model_to_create(options.model)?;
        if self.checkpoint(checkpoint).is_some() {
            return Err(Error::new(ErrorKind::Exists, format!("a checkpoint named {own} exists already"))
                .advise("choose another name, or delete that checkpoint"));
        }
        self.refuse_name_of_gap(&own)?;
        self.refuse_name_of_bitmap(&own)?;
        self.refuse_name_of_interval(&own)?;
        let newest = self.newest_to_follow(model)?;

        let granularity = options.granularity.unwrap_or_else(|| self.newest_granularity(options.default_granularity));
        let mut actions = Vec::new();
        if let Some(newest) = newest {
            // A name that is read back must be a valid one: a root of somebody else can have a longer one.
            check_checkpoint_name(newest.name.as_bytes())
                .map_err(|error| error.advise("rename that checkpoint first"))?;
            actions.push(Action::SetRecording { name: newest.bitmap.clone(), recording: false });
        }
        let late = self.late_recorders(newest)?;
        let stop = late.iter().map(|own| Action::SetRecording { name: own.bitmap.clone(), recording: false });
        memory::extend(&mut actions, stop)?;
        let name = Name::chained(newest.map(|newest| &newest.name), &own);
        actions.push(Action::Add { name, granularity });

        let mut plan = Plan::of(actions);
        plan.warnings.extend(own.warning());
        for own in late {
            plan.warn(format!(
                "the bitmap {} of a past interval stops recording only now: diffs until a checkpoint after {} hold later \
                 writes too",
                own.bitmap, own.name
            ));
        }
        // A caller who asks for intervals knows whose checkpoint it is.
        let is_said = options.model == Some(KnownModel::Interval);
        if let Some(root) = newest.filter(|newest| newest.bitmap == newest.name && !is_said) {
            plan.warn(format!(
                "the bitmap {} stops recording: if libvirt has a checkpoint of that name, libvirt takes it for broken \
                 from now on (the model cumulative leaves it alone)",
                root.bitmap
            ));
        }
        let mut expected = memory::gather(self.names().cloned())?;
        plan.takes_part = vec![own.clone()];
        memory::push(&mut expected, own)?;
        self.finish(plan, model, &expected)
    }

    /// Refuses a new checkpoint the name of any bitmap, of whomever: it would be, or become, the name of its own.
    pub(super) fn refuse_name_of_bitmap(&self, own: &Name) -> Result<()> {
        match self.states.iter().any(|state| state.name == *own) {
            true => Err(plan::exists(own)),
            false => Ok(()),
        }
    }

    fn model_to_create(&self, asked: Option<KnownModel>) -> Result<Model> {
        let refuse = |message: String| {
            Err(Error::new(ErrorKind::Model, message).advise(
                WayOut::from("leave out ").control(Control::Model(None)).words(", or delete the checkpoints first"),
            ))
        };
        let alone = matches!(self.checkpoints.as_slice(), [root] if root.bitmap == root.name);
        match (self.model, asked.or(self.insist).map(Model::from)) {
            (Model::None, asked) => Ok(asked.unwrap_or(Model::Interval)),
            (model, None) => Ok(model),
            (model, Some(asked)) if model == asked => Ok(model),
            // One plain bitmap that records says the same in both models.
            (Model::Interval, Some(Model::Cumulative)) if alone && self.foreign.is_empty() => Ok(Model::Cumulative),
            (model, Some(asked)) => refuse(format!("the checkpoints are {model}, not {asked}")),
        }
    }

    /// The checkpoint that a new one follows, whose bitmap is to be frozen. Refuses where a gap in the recording would
    /// become invisible.
    pub(super) fn newest_to_follow(&self, model: Model) -> Result<Option<&Checkpoint>> {
        for checkpoint in &self.checkpoints {
            if checkpoint.unusable {
                return Err(plan::unusable(&checkpoint.bitmap));
            }
            if checkpoint.inconsistent {
                return Err(plan::inconsistent(&checkpoint.bitmap).advise(
                    WayOut::from("delete the inconsistent checkpoints with ")
                        .control(Control::DeleteAllInconsistent)
                        .words(", then take a full backup"),
                ));
            }
        }
        if model != Model::Interval {
            return Ok(None);
        }
        let ends = self.stretches.iter().filter_map(|stretch| self.part(stretch).last());
        let recording = memory::gather(ends.filter(|newest| newest.recording))?;
        match (recording.as_slice(), self.checkpoints.last()) {
            ([one, two, ..], _) => Err(several_record(one, two)),
            ([], Some(newest)) => Err(not_recording(newest)),
            (newest, _) => Ok(newest.first().copied()),
        }
    }

    /// The checkpoints in the chain of `newest` that go on recording beside it: where libvirt commits a snapshot, the bitmap
    /// that recorded when the snapshot was made is not stopped.
    fn late_recorders(&self, newest: Option<&Checkpoint>) -> Result<Vec<&Checkpoint>> {
        let Some(newest) = newest else { return Ok(Vec::new()) };
        Ok(memory::gather(self.checkpoints.iter().filter(|own| own.recording && own.name != newest.name))?)
    }

    /// The granularity of the newest checkpoint. Where nobody can tell which is the newest, the finest of all: it is
    /// never less exact.
    fn newest_granularity(&self, default: Granularity) -> Granularity {
        let newest = self.checkpoints.last().filter(|newest| newest.ordered).map(|newest| newest.granularity);
        let finest = || self.checkpoints.iter().map(|checkpoint| checkpoint.granularity).min();
        newest.or_else(finest).unwrap_or(default)
    }
}

/// The error for a last bitmap that lets writes pass unseen.
pub(super) fn not_recording(checkpoint: &Checkpoint) -> Error {
    Error::new(
        ErrorKind::Recording,
        format!("the bitmap {} does not record, so writes since {} are missing", checkpoint.bitmap, checkpoint.name),
    )
    .advise(
        WayOut::from("nothing can recover them: begin anew with ")
            .control(Control::DropAll)
            .words(", or by deleting every checkpoint, then take a full backup"),
    )
}

/// The error for two stretches that both go on until now: nobody can say which one a checkpoint would follow.
fn several_record(one: &Checkpoint, two: &Checkpoint) -> Error {
    Error::new(ErrorKind::BrokenChain, format!("a gap lies between {} and {}, and both record", one.bitmap, two.bitmap))
        .advise(
            WayOut::from("drop what does not belong, with ")
                .control(one.bitmap.drop_it())
                .words(" or ")
                .control(two.bitmap.drop_it()),
        )
}
