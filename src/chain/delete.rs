#![forbid(unsafe_code)]
//! Owns the deletion of checkpoints: which bitmap absorbs which, and what has to go with an inconsistent one. Knows
//! nothing of the image.

use super::name;
use super::plan::{self, Action, Plan};
use super::{Chain, Checkpoint, Model, Name};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::memory;
use std::ops::Range;

impl Chain {
    /// Plans the deletion of a checkpoint.
    ///
    /// Interval: the bitmap before it absorbs its own, and goes on recording where its own did; the first checkpoint's
    /// bitmap is dropped, and so is the first one's after a gap, which stays visible. Only those two bitmaps have to be consistent, and frozen unless they are the last. Cumulative:
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
            let gone = memory::gather(self.checkpoints.iter().filter(|checkpoint| checkpoint.inconsistent))?;
            return self.remove_cumulative(&gone);
        }
        let spoiled = (0..).zip(&self.checkpoints).filter(|(_, own)| own.inconsistent).map(|(at, _)| at);
        let spoiled: Vec<usize> = memory::gather(spoiled)?;
        match spoiled.as_slice() {
            [] => Ok(Plan::default()),
            spoiled => self.cut(spoiled),
        }
    }

    fn delete_interval(&self, at: usize, force: bool) -> Result<Plan> {
        let (before, after) = self.neighbours(at);
        let Some(own) = self.checkpoints.get(at) else { return Ok(Plan::default()) };
        if let Some(spoiled) = [Some(own), before].into_iter().flatten().find(|part| part.inconsistent) {
            if force {
                return self.cut(&[at]);
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

        if own.unusable {
            return Err(plan::unusable(&own.bitmap));
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
        let follows = before.map(|before| &before.name).or_else(|| self.missing_before(at));
        plan.actions.extend(after.map(|after| rehang(after, follows)));
        plan.takes_part = vec![own.name.clone()];
        let left = memory::gather(self.names().filter(|name| **name != own.name).cloned())?;
        self.finish(plan, Model::Interval, &left)
    }

    /// Takes out the checkpoints at these places, in ascending order, and whatever is older than any of them. What then
    /// comes first becomes the root.
    fn cut(&self, spoiled: &[usize]) -> Result<Plan> {
        let mut gone = memory::gather(self.checkpoints.iter().map(|_| false))?;
        let mut mark =
            |places: Range<usize>| gone.iter_mut().take(places.end).skip(places.start).for_each(|gone| *gone = true);
        for stretch in &self.stretches {
            let newest =
                spoiled.get(..spoiled.partition_point(|at| *at < stretch.places.end)).and_then(<[usize]>::last);
            if let Some(newest) = newest.filter(|at| stretch.places.contains(at)) {
                self.older_than(*newest).into_iter().for_each(&mut mark);
                mark(*newest..newest + 1);
            }
        }
        if let Some((_, unusable)) = gone.iter().zip(&self.checkpoints).find(|(gone, own)| **gone && own.unusable) {
            return Err(plan::unusable(&unusable.bitmap));
        }
        self.remove_all_but_rehang(&gone)
    }

    /// The places of the checkpoints that are known to be older than the one at this place.
    pub(super) fn older_than(&self, at: usize) -> [Range<usize>; 2] {
        match self.stretch_of(at).filter(|own| !own.placed) {
            None => [0..at, 0..0],
            Some(own) => {
                let root = self.stretches.first().filter(|root| root.placed);
                [root.map_or(0..0, |root| root.places.clone()), own.places.start..at]
            }
        }
    }

    /// Removes the checkpoints that are `gone`. A checkpoint that follows none of those that stay becomes the root, or
    /// keeps its gap where others can be older.
    pub(super) fn remove_all_but_rehang(&self, gone: &[bool]) -> Result<Plan> {
        let is_gone = |at: usize| gone.get(at).copied().unwrap_or_default();
        let mut plan = Plan::default();
        let removed = self.checkpoints.iter().enumerate().filter(|(at, _)| is_gone(*at)).map(|(_, one)| one);
        memory::extend(&mut plan.actions, removed.clone().map(|one| Action::Remove { name: one.bitmap.clone() }))?;
        let mut left = Vec::new();
        for stretch in &self.stretches {
            let first = stretch.places.clone().find(|at| !is_gone(*at));
            let Some((at, first)) = first.and_then(|at| Some((at, self.checkpoints.get(at)?))) else { continue };
            let is_oldest = left.is_empty() && stretch.placed;
            let follows = if is_oldest { None } else { stretch.missing.as_ref() };
            if (at > stretch.places.start || is_oldest) && first.bitmap != Name::chained(follows, &first.name) {
                memory::push(&mut plan.actions, rehang(first, follows))?;
            }
            let stays = self.checkpoints.iter().take(stretch.places.end).skip(at);
            memory::extend(&mut left, stays.map(|one| one.name.clone()))?;
        }
        if removed.clone().next().is_some() {
            let mut lost = format!("every diff since {} is lost", name::list(removed.map(|one| &one.name)));
            match left.as_slice() {
                [] => {}
                [root, ..] if self.stretches.iter().all(|stretch| stretch.placed) => {
                    lost.push_str(&format!(": an incremental backup can begin at {root} or later only"));
                }
                some => lost.push_str(&format!(": an incremental backup can begin at {} only", name::list(some))),
            }
            plan.warn(lost);
        }
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
        if let Some(unusable) = gone.iter().find(|checkpoint| checkpoint.unusable) {
            return Err(plan::unusable(&unusable.bitmap));
        }
        let actions = gone.iter().map(|checkpoint| Action::Remove { name: checkpoint.bitmap.clone() });
        let mut plan = Plan::of(memory::gather(actions)?);
        if !gone.is_empty() {
            plan.warn("if libvirt made this checkpoint, libvirt still lists it: delete its metadata there too");
        }
        plan.takes_part = memory::gather(gone.iter().map(|checkpoint| checkpoint.name.clone()))?;
        let gone = memory::sorted_set(gone.iter().map(|checkpoint| &checkpoint.name));
        let left = memory::gather(self.names().filter(|name| !gone.contains(name)).cloned())?;
        self.finish(plan, Model::Cumulative, &left)
    }

    /// The checkpoint without a bitmap that the one at this place follows.
    pub(super) fn missing_before(&self, at: usize) -> Option<&Name> {
        self.stretch_of(at).filter(|stretch| stretch.places.start == at).and_then(|stretch| stretch.missing.as_ref())
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
