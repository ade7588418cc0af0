#![forbid(unsafe_code)]
//! Owns the deletion of checkpoints: which bitmap absorbs which, and what has to go with an inconsistent one. Knows
//! nothing of the image.

use super::name;
use super::plan::{self, Action, Plan};
use super::{Chain, Checkpoint, Model, Name};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use std::collections::BTreeSet;

impl Chain {
    /// Plans the deletion of a checkpoint.
    ///
    /// Interval: the bitmap before it absorbs its own, and goes on recording where its own did; the first checkpoint's
    /// bitmap is dropped. Only those two bitmaps have to be consistent, and frozen unless they are the last. Cumulative:
    /// its bitmap is removed.
    ///
    /// An inconsistent bitmap needs `force_inconsistent`: then, in an interval chain, the checkpoint's bitmap goes *and
    /// those of all older checkpoints*, and the next younger one becomes the root. Where nothing has to be forced, the
    /// flag changes nothing: the deletion that loses nothing is planned.
    pub fn plan_delete(&self, checkpoint: &[u8], force_inconsistent: bool) -> Result<Plan> {
        let at = self.position(checkpoint)?;
        match self.model {
            Model::Cumulative => self.drop_cumulative(at, force_inconsistent),
            _ => self.delete_interval(at, force_inconsistent),
        }
    }

    /// Plans the deletion of all inconsistent bitmaps of checkpoints in one step.
    ///
    /// Interval: the newest inconsistent bitmap goes and those of all older checkpoints. Cumulative: the inconsistent
    /// bitmaps go. Bitmaps that belong to no checkpoint stay. Without an inconsistent one, the plan is empty.
    pub fn plan_delete_all_inconsistent(&self) -> Result<Plan> {
        self.check_known()?;
        if self.model == Model::Cumulative {
            let gone: Vec<&Checkpoint> = self.checkpoints.iter().filter(|checkpoint| checkpoint.inconsistent).collect();
            return self.remove_cumulative(&gone);
        }
        match self.checkpoints.iter().rposition(|checkpoint| checkpoint.inconsistent) {
            Some(newest) => self.cut(newest),
            None => Ok(Plan::default()),
        }
    }

    fn delete_interval(&self, at: usize, force: bool) -> Result<Plan> {
        let before = at.checked_sub(1).and_then(|before| self.checkpoints.get(before));
        let after = self.checkpoints.get(at + 1);
        let Some(own) = self.checkpoints.get(at) else { return Ok(Plan::default()) };
        if let Some(spoiled) = [Some(own), before].into_iter().flatten().find(|part| part.inconsistent) {
            if force {
                return self.cut(at);
            }
            return Err(plan::inconsistent(&spoiled.bitmap).advise(
                WayOut::default()
                    .control(Control::ForceInconsistent)
                    .words(" deletes this checkpoint and all older ones; take a full backup then"),
            ));
        }
        let odd = before.into_iter().chain([own]).find(|part| part.recording && (after.is_some() || *part != own));
        if let (Some(odd), Some(_)) = (odd, before) {
            return Err(not_frozen(odd));
        }

        let mut plan = Plan::default();
        if let Some(before) = before {
            plan.actions.push(Action::Merge { sources: vec![own.bitmap.clone()], target: before.bitmap.clone() });
            if own.recording {
                plan.actions.push(Action::SetRecording { name: before.bitmap.clone(), recording: true });
            } else if after.is_none() {
                plan.warn(format!(
                    "{} did not record, so {} does not record either: writes are missing since then",
                    own.bitmap, before.bitmap
                ));
            }
            if own.granularity < before.granularity {
                plan.warn(format!(
                    "{} absorbs {} at its own granularity of {} bytes: diffs that need it become coarser",
                    before.bitmap,
                    own.bitmap,
                    before.granularity.bytes()
                ));
            }
        }
        plan.actions.push(Action::Remove { name: own.bitmap.clone() });
        plan.actions.extend(after.map(|after| rehang(after, before.map(|before| &before.name))));
        let left: Vec<Name> = self.names().filter(|name| **name != own.name).cloned().collect();
        self.finish(plan, Model::Interval, &left)
    }

    /// Cuts the chain off after the checkpoint at `last`: it and all older ones go, the next becomes the root.
    fn cut(&self, last: usize) -> Result<Plan> {
        let gone: Vec<&Checkpoint> = self.checkpoints.iter().take(last + 1).collect();
        let actions = gone.iter().map(|checkpoint| Action::Remove { name: checkpoint.bitmap.clone() });
        let mut plan = Plan::of(actions.collect());
        let root = self.checkpoints.get(last + 1);
        plan.actions.extend(root.map(|root| rehang(root, None)));
        let names: Vec<&Name> = gone.iter().map(|checkpoint| &checkpoint.name).collect();
        let mut lost = format!("every diff since {} is lost", name::list(&names));
        if let Some(root) = root {
            lost.push_str(&format!(": an incremental backup can begin at {} or later only", root.name));
        }
        plan.warn(lost);
        let left: Vec<Name> = self.names().skip(last + 1).cloned().collect();
        self.finish(plan, Model::Interval, &left)
    }

    fn drop_cumulative(&self, at: usize, force: bool) -> Result<Plan> {
        let gone: Vec<&Checkpoint> = self.checkpoints.get(at).into_iter().collect();
        if let (Some(own), false) = (gone.iter().find(|own| own.inconsistent), force) {
            return Err(plan::inconsistent(&own.bitmap).advise(
                WayOut::default().control(Control::ForceInconsistent).words(" deletes it; take a full backup then"),
            ));
        }
        self.remove_cumulative(&gone)
    }

    fn remove_cumulative(&self, gone: &[&Checkpoint]) -> Result<Plan> {
        let actions = gone.iter().map(|checkpoint| Action::Remove { name: checkpoint.bitmap.clone() });
        let mut plan = Plan::of(actions.collect());
        if !gone.is_empty() {
            plan.warn("if libvirt made this checkpoint, libvirt still lists it: delete its metadata there too");
        }
        let gone: BTreeSet<&Name> = gone.iter().map(|checkpoint| &checkpoint.name).collect();
        let left: Vec<Name> = self.names().filter(|name| !gone.contains(name)).cloned().collect();
        self.finish(plan, Model::Cumulative, &left)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Name> {
        self.checkpoints.iter().map(|checkpoint| &checkpoint.name)
    }
}

/// Gives the bitmap of `checkpoint` the name it has after `parent`.
fn rehang(checkpoint: &Checkpoint, parent: Option<&Name>) -> Action {
    Action::Rename { from: checkpoint.bitmap.clone(), to: Name::chained(parent, &checkpoint.name) }
}

/// The error for a bitmap of a past interval that still records.
pub(super) fn not_frozen(checkpoint: &Checkpoint) -> Error {
    Error::new(
        ErrorKind::Recording,
        format!("the bitmap {} of a past interval still records, so it holds later writes too", checkpoint.bitmap),
    )
    .advise("stop its recording with `qemu-img bitmap --disable`")
}
