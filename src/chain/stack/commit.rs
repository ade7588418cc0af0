#![forbid(unsafe_code)]
//! Owns the way of checkpoints down into a layer: which of its bitmaps take in which of the layers above. Knows nothing
//! of bits.

use super::super::plan::{self, Action, carry_out};
use super::super::{Chain, KnownModel, Model, Name};
use super::Stack;
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::memory;
use std::ops::Range;
use std::path::Path;

/// What a layer gets from those above it, so that every diff of it contains theirs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommitPlan {
    /// The actions on the layer's bitmaps, in their order.
    pub actions: Vec<Action>,
    /// What its bitmaps take in afterwards, in the same step.
    pub taken: Vec<Taken>,
}

/// What one bitmap takes in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Taken {
    /// The bitmap, by its name after the actions.
    pub into: Option<Name>,
    /// Bitmaps of layers above, each with its layer; the top one is 0.
    pub bitmaps: Vec<(usize, Name)>,
    /// Layers all of whose allocation counts. The layer itself can be one of them.
    pub allocations: Vec<usize>,
    /// Bytes of the disk that count as changed, see [`Part::cut_off`](super::Part::cut_off).
    pub cut_off: Vec<Range<u64>>,
}

impl Taken {
    fn count_all_of(&mut self, layer: usize, cut_off: Range<u64>) -> Result<()> {
        if !self.allocations.contains(&layer) {
            memory::push(&mut self.allocations, layer)?;
        }
        if !cut_off.is_empty() {
            memory::push(&mut self.cut_off, cut_off)?;
        }
        Ok(())
    }
}

impl Stack {
    /// Plans that the layer number `base` takes in the checkpoints and the bits of all layers above it.
    ///
    /// Its checkpoints stay; those that it lacks are added behind its newest one, and it goes on recording in the last. What a
    /// layer above did not record goes into the newest bitmap from before it was put on top. Doing it again adds nothing.
    pub fn plan_commit(&self, base: usize) -> Result<CommitPlan> {
        self.top()?;
        if self.model == Model::Cumulative {
            let message = "cumulative checkpoints are merged by libvirt, and by nobody else";
            return Err(Error::new(ErrorKind::Model, message)
                .advise("commit with libvirt, or delete the checkpoints and make the next backup a full one"));
        }
        let Some(read) = self.layers.get(base).filter(|_| base > 0) else {
            return Err(Error::new(ErrorKind::InvalidArgument, "the layers to take from lie above another one"));
        };
        for layer in self.layers.iter().take(base + 1) {
            let in_layer = |error: Error| error.in_file(Path::new(&layer.label));
            for own in layer.chain.as_ref().map_err(|error| in_layer(error.clone()))?.checkpoints() {
                if own.unusable {
                    return Err(in_layer(plan::unusable(&own.bitmap)));
                }
                if own.inconsistent {
                    return Err(in_layer(plan::inconsistent(&own.bitmap)).advise(
                        WayOut::from("delete the inconsistent checkpoints with ")
                            .control(Control::DeleteAllInconsistent)
                            .words(", then take a full backup"),
                    ));
                }
            }
        }
        let chain = read.chain.as_ref().map_err(Error::clone)?;
        let newest = chain.newest_to_follow(Model::Interval).map_err(|error| error.in_file(Path::new(&read.label)))?;
        let mut draft = Draft {
            stack: self,
            base,
            order: memory::gather(chain.checkpoints().iter().map(|own| (own.name.clone(), own.bitmap.clone())))?,
            records: newest.map(|newest| newest.bitmap.clone()),
            plan: CommitPlan::default(),
        };
        for layer in (0..base).rev() {
            draft.take_layer(layer)?;
        }
        draft.finish(read.states.as_slice())
    }
}

struct Draft<'a> {
    stack: &'a Stack,
    base: usize,
    /// The checkpoints that the base will have, oldest first, each with its bitmap.
    order: Vec<(Name, Name)>,
    /// The bitmap in which the base records.
    records: Option<Name>,
    plan: CommitPlan,
}

impl Draft<'_> {
    fn take_layer(&mut self, layer: usize) -> Result<()> {
        let Some(read) = self.stack.layers.get(layer) else { return Ok(()) };
        // Writes that the layer did not record are younger than all that is known below it.
        if let Some(newest) = self.newest_below(layer)? {
            self.admit(&newest, None, layer)?;
            let cut_off = self.stack.cut_off(layer, self.stack.layers.len().saturating_sub(1));
            let taken = self.taken(&newest)?;
            taken.count_all_of(layer, cut_off)?;
        }
        let mut before: Option<&Name> = None;
        for (at, own) in read.checkpoints().iter().enumerate() {
            let chain = read.chain.as_ref().map_err(Error::clone)?;
            let missing = chain.missing_before(at);
            self.admit(&own.name, before.or(missing), layer)?;
            let taken = self.taken(&own.name)?;
            memory::push(&mut taken.bitmaps, (layer, own.bitmap.clone()))?;
            // A copy whose original is gone.
            if missing.is_some() {
                taken.count_all_of(layer, 0..0)?;
            }
            before = Some(&own.name);
        }
        Ok(())
    }

    /// The newest checkpoint from before `layer` was put on top: of the newest that a layer below has, the first one of which
    /// `layer` itself does not tell the two sides apart.
    fn newest_below(&self, layer: usize) -> Result<Option<Name>> {
        let own = self.stack.layers.get(layer).and_then(|read| read.chain.as_ref().ok());
        let is_born_here =
            |name: &Name| own.is_some_and(|own| own.place_of(name).is_some_and(|at| own.neighbours(at).0.is_some()));
        for below in self.stack.layers.iter().skip(layer + 1) {
            if let Err(why) = &below.chain {
                return Err(why.clone().in_file(Path::new(&below.label)));
            }
            if let Some(newest) = below.checkpoints().iter().rev().find(|own| !is_born_here(&own.name)) {
                return Ok(Some(newest.name.clone()));
            }
        }
        Ok(None)
    }

    /// Makes sure that the base has a bitmap for this checkpoint of `layer`, which follows the one `before`.
    fn admit(&mut self, checkpoint: &Name, before: Option<&Name>, layer: usize) -> Result<()> {
        if self.order.iter().any(|(own, _)| own == checkpoint) {
            return Ok(());
        }
        let original = self.stack.layers.iter().rev().find_map(|layer| layer.own(checkpoint));
        let Some(original) = original else { return Err(self.stack.not_found(checkpoint)) };
        let newest = self.order.last().map(|(own, _)| own);
        if let (Some(before), Some(newest)) = (before, newest)
            && before != newest
            && self.order.iter().any(|(own, _)| own == before)
        {
            let message = format!(
                "{checkpoint} follows {before} above, and the base goes on with {newest}: checkpoints were deleted or renamed \
                 in some of the layers only"
            );
            return Err(Error::new(ErrorKind::BrokenChain, message)
                .advise("repeat that deletion on the top layer, or delete the checkpoint there"));
        }
        let name = match newest {
            Some(newest) => Name::chained(Some(newest), checkpoint),
            None => original.bitmap.clone(),
        };
        if let Some(records) = self.records.replace(name.clone()) {
            memory::push(&mut self.plan.actions, Action::SetRecording { name: records, recording: false })?;
        }
        let add = Action::Add { name: name.clone(), granularity: original.granularity };
        memory::push(&mut self.plan.actions, add)?;
        // A bitmap made for the base lacks what the base and the layers up to that one got since the checkpoint, unless it was
        // created there.
        let is_older = self.stack.layers.iter().skip(self.base + 1).any(|below| below.own(checkpoint).is_some());
        memory::push(&mut self.order, (checkpoint.clone(), name))?;
        if is_older {
            let last = self.stack.layers.len().saturating_sub(1);
            for layer in layer..=self.base {
                let cut_off = self.stack.cut_off(layer, last);
                self.taken(checkpoint)?.count_all_of(layer, cut_off)?;
            }
        }
        Ok(())
    }

    /// What the bitmap of this checkpoint takes in.
    fn taken(&mut self, checkpoint: &Name) -> Result<&mut Taken> {
        let into = self.order.iter().find(|(own, _)| own == checkpoint).map(|(_, bitmap)| bitmap.clone());
        let at = match self.plan.taken.iter().position(|taken| taken.into == into) {
            Some(at) => at,
            None => {
                memory::push(&mut self.plan.taken, Taken { into, ..Taken::default() })?;
                self.plan.taken.len() - 1
            }
        };
        self.plan.taken.get_mut(at).ok_or_else(|| Error::new(ErrorKind::NotFound, "no bitmap takes it in"))
    }

    /// Proves that the base will read as the chain that is meant.
    fn finish(self, states: &[super::super::BitmapState]) -> Result<CommitPlan> {
        let after = Chain::read(&carry_out(states, &self.plan.actions)?, Some(KnownModel::Interval))?;
        let is_meant = after.names().eq(self.order.iter().map(|(own, _)| own));
        match is_meant || self.plan.actions.is_empty() {
            true => Ok(self.plan),
            false => Err(Error::new(
                ErrorKind::BrokenChain,
                "the base's bitmaps would not read as one chain with those above",
            )
            .advise("delete the checkpoints that do not belong")),
        }
    }
}
