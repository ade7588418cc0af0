#![forbid(unsafe_code)]
//! Owns the deletion of checkpoints: which bitmap absorbs which, and what has to go with an inconsistent one. Knows
//! nothing of the image.

use super::name;
use super::plan::{self, Action, Plan};
use super::{Chain, Checkpoint, KnownModel, Model, Name};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::memory;
use std::ops::Range;

impl Chain {
    /// Plans the deletion of a checkpoint.
    ///
    /// Interval: the bitmap before it absorbs its own, and goes on recording where its own did; the first checkpoint's
    /// bitmap is dropped, and so is the first one's after a gap, which stays visible. Only those two bitmaps have to be
    /// consistent, and frozen unless they are the last. Cumulative: its bitmap is removed.
    ///
    /// An inconsistent bitmap needs `force_inconsistent`: then, in an interval chain, the checkpoint's bitmap goes *and
    /// those of all older checkpoints*, and the next younger one becomes the root. Where nothing has to be forced, the
    /// flag changes nothing: the deletion that loses nothing is planned.
    pub fn plan_delete(&self, checkpoint: &[u8], force_inconsistent: bool) -> Result<Plan> {
        self.plan_delete_many(&[checkpoint], force_inconsistent)
    }

    /// Plans the deletion of several checkpoints in one step. The order of the names does not matter, and one that is
    /// given twice counts once. For `A..B` see [`Chain::select`].
    ///
    /// Without force the outcome is that of [`Chain::plan_delete`] for one after the other, the oldest first, and it is
    /// refused as a whole where one of those would be. With `force_inconsistent` the checkpoints that need force go first,
    /// each with all that are older, as in [`Chain::plan_delete_all_inconsistent`]; the others that are left are then
    /// deleted as ever, and loses nothing.
    pub fn plan_delete_many(&self, checkpoints: &[impl AsRef<[u8]>], force_inconsistent: bool) -> Result<Plan> {
        let gone = self.places_of(checkpoints)?;
        match self.model {
            Model::Cumulative => self.drop_cumulative(&gone, force_inconsistent),
            _ => self.delete_intervals(&gone, force_inconsistent),
        }
    }

    /// For each checkpoint, whether it is one of these.
    fn places_of(&self, checkpoints: &[impl AsRef<[u8]>]) -> Result<Vec<bool>> {
        self.check_known()?;
        let mut gone = memory::gather(self.checkpoints.iter().map(|_| false))?;
        let wanted = memory::sorted_set(checkpoints.iter().map(AsRef::as_ref));
        for (gone, own) in gone.iter_mut().zip(&self.checkpoints) {
            *gone = wanted.contains(own.name.as_bytes());
        }
        // Names that nothing has, in the order in which they were given.
        if gone.iter().filter(|gone| **gone).count() < wanted.len() {
            checkpoints.iter().try_for_each(|name| self.position(name.as_ref()).map(drop))?;
        }
        Ok(gone)
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
            spoiled => self.lose(&self.cut(spoiled)?),
        }
    }

    fn delete_intervals(&self, gone: &[bool], force: bool) -> Result<Plan> {
        let spoiled = self.need_force(gone)?;
        let Some((_, first)) = spoiled.first() else {
            let (plan, left) = self.join_intervals(gone)?;
            return self.finish(plan, Model::Interval, &left);
        };
        if !force {
            let which = if gone.iter().filter(|gone| **gone).count() > 1 { "each such" } else { "this" };
            return Err(plan::inconsistent(&first.bitmap).advise(
                WayOut::default()
                    .control(Control::ForceInconsistent)
                    .words(format!(" deletes {which} checkpoint and all older ones; take a full backup then")),
            ));
        }
        let spoiled = memory::gather(spoiled.iter().map(|(at, _)| *at))?;
        let lost = self.cut(&spoiled)?;
        let (mut plan, left) = self.remove_all_but_rehang(&lost)?;
        let others = self.names().zip(gone.iter().zip(&lost)).filter(|(_, (gone, lost))| **gone && !**lost);
        let others = memory::gather(others.map(|(name, _)| name))?;
        let (then, left) = match others.is_empty() {
            true => (Plan::default(), left),
            false => {
                // Without the bitmaps of others, so that a root that does not record cannot be taken for one of these.
                let own = self.states.iter().filter(|state| self.places.contains_key(&state.name)).cloned();
                let rest = plan::carry_out(&memory::gather(own)?, &plan.actions)?;
                let rest = Chain::read(&rest, Some(KnownModel::Interval))?;
                rest.join_intervals(&rest.places_of(&others)?)?
            }
        };
        memory::extend(&mut plan.actions, then.actions)?;
        memory::extend(&mut plan.warnings, then.warnings)?;
        plan.takes_part = then.takes_part;
        self.warn_of_loss(&mut plan, &lost, &left);
        self.finish(plan, Model::Interval, &left)
    }

    /// The checkpoints among these that cannot go without force, each with the inconsistent bitmap that is the reason:
    /// its own, or the one that would absorb it.
    pub(super) fn need_force(&self, gone: &[bool]) -> Result<Vec<(usize, &Checkpoint)>> {
        let mut spoiled = Vec::new();
        for stretch in &self.stretches {
            let mut before: Option<&Checkpoint> = None;
            let places = stretch.places.clone().zip(gone.iter().skip(stretch.places.start));
            for ((at, gone), own) in places.zip(self.part(stretch)) {
                if !gone {
                    before = Some(own);
                } else if let Some(reason) = [Some(own), before].into_iter().flatten().find(|part| part.inconsistent) {
                    memory::push(&mut spoiled, (at, reason))?;
                    before = None;
                }
            }
        }
        Ok(spoiled)
    }

    /// Deletes the checkpoints that are `gone`, none of which needs force, and returns the names of those that stay.
    fn join_intervals(&self, gone: &[bool]) -> Result<(Plan, Vec<Name>)> {
        let (mut plan, mut left, mut renames) = (Plan::default(), Vec::new(), Vec::new());
        for stretch in &self.stretches {
            let flags = gone.get(stretch.places.clone()).unwrap_or_default();
            let mut rest = self.part(stretch).iter().zip(flags).peekable();
            let mut before: Option<&Checkpoint> = None;
            while rest.peek().is_some() {
                let run = std::iter::from_fn(|| rest.next_if(|(_, gone)| **gone)).map(|(own, _)| own);
                let run = memory::gather(run)?;
                let after = rest.next().map(|(after, _)| after);
                if !run.is_empty() {
                    join(&mut plan, before, &run, after.is_none())?;
                    let follows = before.map(|before| &before.name).or(stretch.missing.as_ref());
                    memory::extend(&mut renames, after.map(|after| rehang(after, follows)))?;
                }
                if let Some(after) = after {
                    memory::push(&mut left, after.name.clone())?;
                    before = Some(after);
                }
            }
        }
        // Last, as the other actions name the bitmaps as they are.
        memory::extend(&mut plan.actions, renames)?;
        Ok((plan, left))
    }

    /// For each checkpoint, whether it stands at one of these places, which ascend, or is older than one that does.
    pub(super) fn cut(&self, spoiled: &[usize]) -> Result<Vec<bool>> {
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
        Ok(gone)
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

    /// Removes the checkpoints that are `gone` with what their bitmaps recorded.
    pub(super) fn lose(&self, gone: &[bool]) -> Result<Plan> {
        let (mut plan, left) = self.remove_all_but_rehang(gone)?;
        self.warn_of_loss(&mut plan, gone, &left);
        self.finish(plan, Model::Interval, &left)
    }

    /// Removes the checkpoints that are `gone`, and returns the names of those that stay. A checkpoint that follows none
    /// of these becomes the root, or keeps its gap where others can be older.
    fn remove_all_but_rehang(&self, gone: &[bool]) -> Result<(Plan, Vec<Name>)> {
        let is_gone = |at: usize| gone.get(at).copied().unwrap_or_default();
        let mut plan = Plan::default();
        let removed = self.checkpoints.iter().enumerate().filter(|(at, _)| is_gone(*at)).map(|(_, one)| one);
        memory::extend(&mut plan.actions, removed.map(|one| Action::Remove { name: one.bitmap.clone() }))?;
        let mut left = Vec::new();
        for stretch in &self.stretches {
            let first = stretch.places.clone().find(|at| !is_gone(*at));
            let Some((at, first)) = first.and_then(|at| Some((at, self.checkpoints.get(at)?))) else { continue };
            let is_oldest = left.is_empty() && stretch.placed;
            let follows = if is_oldest { None } else { stretch.missing.as_ref() };
            let hangs = first.bitmap == Name::chained(follows, &first.name)
                || follows.is_none() && first.bitmap == Name::marked_root(&first.name);
            if (at > stretch.places.start || is_oldest) && !hangs {
                memory::push(&mut plan.actions, rehang(first, follows))?;
            }
            let stays = self.checkpoints.iter().take(stretch.places.end).skip(at);
            memory::extend(&mut left, stays.map(|one| one.name.clone()))?;
        }
        Ok((plan, left))
    }

    /// Warns of the diffs since the checkpoints that are `gone`, where `left` are those that stay.
    fn warn_of_loss(&self, plan: &mut Plan, gone: &[bool], left: &[Name]) {
        let mut gone = self.names().zip(gone).filter(|(_, gone)| **gone).map(|(name, _)| name).peekable();
        if gone.peek().is_none() {
            return;
        }
        let mut lost = format!("every diff since {} is lost", name::list(gone));
        match left {
            [] => {}
            [root, ..] if self.stretches.iter().all(|stretch| stretch.placed) => {
                lost.push_str(&format!(": an incremental backup can begin at {root} or later only"));
            }
            some => lost.push_str(&format!(": an incremental backup can begin at {} only", name::list(some))),
        }
        plan.warn(lost);
    }

    fn drop_cumulative(&self, gone: &[bool], force: bool) -> Result<Plan> {
        let gone = self.checkpoints.iter().zip(gone).filter(|(_, gone)| **gone).map(|(own, _)| own);
        let gone = memory::gather(gone)?;
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

    pub(super) fn names(&self) -> impl Iterator<Item = &Name> + Clone {
        self.checkpoints.iter().map(|checkpoint| &checkpoint.name)
    }
}

/// Takes out a run of checkpoints that follow one another: the bitmap `before` them absorbs theirs, or, where there is
/// none, they are dropped.
fn join(plan: &mut Plan, before: Option<&Checkpoint>, run: &[&Checkpoint], are_newest: bool) -> Result<()> {
    let Some((last, all_but_last)) = run.split_last() else { return Ok(()) };
    let frozen = all_but_last.iter().chain((!are_newest).then_some(last)).copied();
    if let (Some(odd), true) = (before.into_iter().chain(frozen).find(|part| part.recording), before.is_some()) {
        return Err(not_frozen(odd));
    }
    if let Some(unusable) = run.iter().find(|own| own.unusable) {
        return Err(plan::unusable(&unusable.bitmap));
    }
    if let Some(before) = before {
        let sources = memory::gather(run.iter().map(|own| own.bitmap.clone()))?;
        memory::push(&mut plan.actions, Action::Merge { sources, target: before.bitmap.clone() })?;
        if last.recording {
            let start = Action::SetRecording { name: before.bitmap.clone(), recording: true };
            memory::push(&mut plan.actions, start)?;
        } else if are_newest {
            plan.warn(format!(
                "{} did not record, so {} does not record either: writes are missing since then",
                last.bitmap, before.bitmap
            ));
        }
        for own in run.iter().filter(|own| own.granularity < before.granularity) {
            plan.warn(format!(
                "{} absorbs {} at its own granularity of {} bytes: diffs that need it become coarser",
                before.bitmap,
                own.bitmap,
                before.granularity.bytes()
            ));
        }
    }
    memory::extend(&mut plan.actions, run.iter().map(|own| Action::Remove { name: own.bitmap.clone() }))?;
    Ok(memory::extend(&mut plan.takes_part, run.iter().map(|own| own.name.clone()))?)
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
    .advise(
        WayOut::from("make a checkpoint with ")
            .control(Control::Create)
            .words(", which stops its recording, or stop that with `qemu-img bitmap --disable`"),
    )
}
