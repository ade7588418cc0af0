#![forbid(unsafe_code)]
//! Owns two chains in one image: cumulative checkpoints, as libvirt makes them, beside intervals of ours. Which bitmap is
//! whose, which of the two a name means, and that no plan for one of them changes the other. Knows nothing of the use of
//! either.

use super::plan::Action;
use super::select::ends_of;
use super::{BitmapState, Chain, Interval, KnownModel, Model, Name, Plan, plan};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::memory;
use std::collections::{BTreeMap, BTreeSet};

impl Chain {
    /// The cumulative checkpoints that stand beside a chain of intervals, whether that one can be read or not. `None` where
    /// no bitmap has an arrow in its name, since then there is one chain at most, or where there are none.
    ///
    /// They are the bitmaps without an arrow that record, but for a root of the intervals: one to which an arrow leads,
    /// while no other bitmap begins at its checkpoint.
    pub fn beside(bitmaps: &[BitmapState]) -> Result<Option<Chain>> {
        let is_beside = has_arrow(bitmaps) && !recording_beside(bitmaps)?.is_empty();
        is_beside.then(|| Chain::read(bitmaps, Some(KnownModel::Cumulative))).transpose()
    }

    /// Reads the chain that `words` speak of: names of checkpoints, or `A..B` as for [`Chain::select`].
    ///
    /// Where `insist` picks none and the image has two, it is that of the intervals, unless the words are names of the other
    /// one only. A name that is in both, or names of both, are [`ErrorKind::Model`].
    pub fn read_for(bitmaps: &[BitmapState], insist: Option<KnownModel>, words: &[impl AsRef<[u8]>]) -> Result<Chain> {
        if insist.is_some() {
            return Chain::read(bitmaps, insist);
        }
        let own = Chain::read(bitmaps, None)?;
        let Some(other) = Chain::beside(bitmaps)? else { return Ok(own) };
        let [names, others] = [&own, &other].map(|chain| memory::sorted_set(chain.names().map(Name::as_bytes)));
        let (mut of_own, mut of_other) = (None, None);
        for word in words.iter().map(AsRef::as_ref) {
            match (speaks_of(word, &names), speaks_of(word, &others)) {
                (true, true) => {
                    let message = format!("both chains of this image have a checkpoint {}", Name::new(word));
                    return Err(pick_one(message));
                }
                (true, false) => of_own = of_own.or(Some(word)),
                (false, true) => of_other = of_other.or(Some(word)),
                (false, false) => {}
            }
        }
        match (of_own, of_other) {
            (Some(one), Some(two)) => {
                let (one, two) = (Name::new(one), Name::new(two));
                let message = format!("{one} and {two} are checkpoints of different chains: {two} is a cumulative one");
                Err(Error::new(ErrorKind::Model, message).advise("name checkpoints of one of them only"))
            }
            (None, Some(_)) => Ok(other),
            _ => Ok(own),
        }
    }

    /// The model of the other chain of the image, where that one has a checkpoint of this name.
    pub(super) fn other_model_of(&self, name: &Name) -> Option<Model> {
        match self.model {
            Model::Interval => {
                let others = recording_beside(&self.states).ok()?;
                let is_other = others.iter().any(|state| state.name == *name && !self.places.contains_key(name));
                is_other.then_some(Model::Cumulative)
            }
            Model::Cumulative if has_arrow(&self.states) => {
                let intervals = Chain::read(&self.states, None).ok()?;
                intervals.checkpoint(name.as_bytes()).map(|_| Model::Interval)
            }
            Model::Cumulative | Model::None | Model::Unknown => None,
        }
    }

    /// Refuses a cumulative checkpoint a name that a chain of intervals speaks of: it could be taken for its root, or would
    /// stand in both.
    pub(super) fn refuse_name_of_interval(&self, own: &Name) -> Result<()> {
        if self.model != Model::Cumulative {
            return Ok(());
        }
        let links = self.states.iter().map(|state| &state.name).filter(|name| name.has_arrow());
        match links.clone().find(|link| link.mentions().contains(own)) {
            Some(link) => {
                let message = format!("{link}, of the chain of intervals beside it, speaks of a checkpoint {own}");
                Err(Error::new(ErrorKind::Exists, message).advise("choose another name"))
            }
            None => Ok(()),
        }
    }

    /// Gives the root of the intervals that a plan leaves a name that nobody can take for a checkpoint of somebody else: its
    /// plain one would do so where it belongs to somebody else already, or where no arrow is left to tell the two apart.
    pub(super) fn mark_root(&self, plan: &mut Plan, expected: &[Name]) -> Result<()> {
        let is_foreign = |name: &Name| !self.places.contains_key(name) && !name.is_helper();
        let others = memory::sorted_set(self.states.iter().map(|state| &state.name).filter(|name| is_foreign(name)));
        if others.is_empty() || plan.is_empty() {
            return Ok(());
        }
        // A frozen one would be taken for the root as soon as anything follows.
        let recording = memory::sorted_set(recording_beside(&self.states)?.into_iter().map(|state| &state.name));
        let is_taken = |name: &&Name| others.contains(name) && recording.contains(name);
        let root = plan.actions.iter().filter_map(given).find(is_taken).cloned();
        if let Some(root) = root {
            give_instead(&mut plan.actions, &root, &Name::marked_root(&root));
        }
        let after = plan::carry_out(&self.states, &plan.actions)?;
        let (false, [root]) = (has_arrow(&after), expected) else { return Ok(()) };
        let marked = Name::marked_root(root);
        if !give_instead(&mut plan.actions, root, &marked) {
            memory::push(&mut plan.actions, Action::Rename { from: root.clone(), to: marked })?;
        }
        Ok(())
    }

    /// Refuses a plan for this chain that would change how the other one reads, where `after` is left of the bitmaps and
    /// `expected` are the checkpoints of this one.
    pub(super) fn check_other(&self, after: &[BitmapState], expected: &[Name]) -> Result<()> {
        let left = recording_beside(after)?;
        let is_same = match self.model {
            Model::Interval => {
                let before = recording_beside(&self.states)?;
                let before = before.into_iter().filter(|state| !self.places.contains_key(&state.name));
                // Without an arrow a root of ours looks alike.
                let is_own = |name: &Name| !has_arrow(after) && expected.contains(name);
                by_name(before) == by_name(left.into_iter().filter(|state| !is_own(&state.name)))
            }
            Model::Cumulative if has_arrow(&self.states) => {
                let names = memory::sorted_set(left.iter().map(|state| &state.name));
                names == memory::sorted_set(expected)
                    && match (Chain::read(&self.states, None), Chain::read(after, None)) {
                        (Ok(before), Ok(after)) => before.checkpoints == after.checkpoints,
                        (Err(error), _) | (_, Err(error)) if error.is_of_the_call() => return Err(error),
                        (before, after) => before.is_err() && after.is_err(),
                    }
            }
            Model::Cumulative | Model::None | Model::Unknown => true,
        };
        if is_same {
            return Ok(());
        }
        let way_out = WayOut::from("choose another name, or drop a bitmap that belongs to no checkpoint with ");
        Err(Error::new(ErrorKind::BrokenChain, "the other chain of this image would no longer read as it does")
            .advise(way_out.control(Control::DropBitmap)))
    }
}

/// The interval that a bitmap covers in that chain of the image to which it belongs, as far as chains can be read.
pub fn interval_of(bitmaps: &[BitmapState], bitmap: &Name) -> Result<Option<Interval>> {
    let chains = [Chain::read(bitmaps, None).map(Some), Chain::beside(bitmaps)];
    if let Some(error) = chains.iter().filter_map(|chain| chain.as_ref().err()).find(|error| error.is_of_the_call()) {
        return Err(error.clone());
    }
    Ok(chains.into_iter().flatten().flatten().find_map(|chain| chain.interval_of(bitmap)))
}

/// The error for intervals that form no chain, with the way to the other one where there is one.
pub(super) fn lead_beside(broken: Error, bitmaps: &[BitmapState]) -> Error {
    match recording_beside(bitmaps) {
        Ok(beside) if !beside.is_empty() && broken.kind() == ErrorKind::BrokenChain => {
            let way_out = broken.way_out().cloned().unwrap_or_default();
            let cumulative = Control::Model(Some(Model::Cumulative.as_str()));
            let way_out = way_out.words("; the cumulative checkpoints beside it answer with ").control(cumulative);
            Error::new(broken.kind(), broken.message()).advise(way_out)
        }
        Err(error) => error,
        Ok(_) => broken,
    }
}

/// The bitmaps without an arrow that record and are no root of a chain of intervals. Told by names and flags alone, also
/// where those form no chain.
pub(super) fn recording_beside(bitmaps: &[BitmapState]) -> Result<Vec<&BitmapState>> {
    let links = || bitmaps.iter().map(|state| &state.name).filter(|name| name.has_arrow());
    let begins = memory::sorted_set(links().filter_map(begins_at));
    let follows = |link: &Name| {
        let mut mentioned = link.mentions();
        mentioned.pop();
        mentioned
    };
    let followed = memory::sorted_set(links().flat_map(follows));
    let is_root = |name: &Name| followed.contains(name) && !begins.contains(name);
    let is_plain = |name: &Name| !name.has_arrow() && !name.is_helper();
    let beside = bitmaps
        .iter()
        .filter(|state| state.recording && is_plain(&state.name) && (state.of_libvirt || !is_root(&state.name)));
    Ok(memory::gather(beside)?)
}

/// The name that a bitmap gets by this action.
fn given(action: &Action) -> Option<&Name> {
    match action {
        Action::Rename { to, .. } => Some(to),
        Action::Add { name, .. } | Action::AddAllocated { name, .. } => Some(name),
        Action::Merge { .. } | Action::Remove { .. } | Action::SetRecording { .. } => None,
    }
}

/// Lets the bitmap that gets the name `old` by one of these actions get another one, by which the actions after it call it.
/// False where none does.
fn give_instead(actions: &mut [Action], old: &Name, new: &Name) -> bool {
    let Some(at) = actions.iter().position(|action| given(action) == Some(old)) else { return false };
    let change = |name: &mut Name| {
        if name == old {
            *name = new.clone();
        }
    };
    for (place, action) in actions.iter_mut().enumerate().skip(at) {
        match action {
            Action::Rename { to, .. } if place == at => change(to),
            Action::Rename { from: name, .. }
            | Action::Add { name, .. }
            | Action::AddAllocated { name, .. }
            | Action::Remove { name }
            | Action::SetRecording { name, .. } => change(name),
            Action::Merge { sources, target } => sources.iter_mut().chain([target]).for_each(change),
        }
    }
    true
}

fn by_name<'a>(states: impl Iterator<Item = &'a BitmapState>) -> BTreeMap<&'a Name, &'a BitmapState> {
    memory::sorted_map(states.map(|state| (&state.name, state)))
}

/// Whether one of these checkpoints has this name, or two of them begin and end a range that is written so.
fn speaks_of(word: &[u8], names: &BTreeSet<&[u8]>) -> bool {
    names.contains(word) || ends_of(word).any(|(from, to)| names.contains(from) && names.contains(to))
}

pub(super) fn has_arrow(bitmaps: &[BitmapState]) -> bool {
    bitmaps.iter().any(|state| state.name.has_arrow())
}

/// The checkpoint at which a bitmap of a chain begins, if its name has an arrow.
fn begins_at(name: &Name) -> Option<Name> {
    name.has_arrow().then(|| name.mentions().pop()).flatten()
}

/// The error for a name that does not tell which of two chains it means.
fn pick_one(message: String) -> Error {
    Error::new(ErrorKind::Model, message).advise(WayOut::from("say which with ").control(Control::Model(None)))
}
