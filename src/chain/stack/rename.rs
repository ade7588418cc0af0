#![forbid(unsafe_code)]
//! Owns the renaming of a checkpoint that several layers know: the steps, none of which leaves a diff short, and how a
//! renaming that was stopped between two of them is told. Knows nothing of bits.

use super::super::plan::{self, Action, Plan, carry_out};
use super::super::{Chain, Checkpoint, Model, Name, check_checkpoint_name};
use super::{LayerActions, Stack};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::memory;
use std::collections::BTreeSet;

/// Says of a layer whether its first bitmap, that of the new name, can be the alias of the second one, that of the old name: in the
/// interval model it holds no dirty block, in the cumulative one both hold the same blocks.
pub type IsAlias<'a> = &'a dyn Fn(usize, &Name, &Name) -> Result<bool>;

impl Stack {
    /// Plans a new name for a checkpoint in every layer that knows it. The steps are to be carried out in this order, each in one go.
    ///
    /// 1. The lowest layer that has the checkpoint gets the new name beside the old one, for the same moment: an alias.
    /// 2. Each layer above changes to the new name. The alias below answers for both names meanwhile, and counts as a
    ///    whole each layer that does not know the name that is asked for.
    /// 3. The lowest layer gives up the old name.
    ///
    /// A stop between two of them loses nothing. The same renaming then finds the alias, by `is_alias`, and plans the rest.
    pub fn plan_rename(&self, checkpoint: &[u8], new_name: &[u8], is_alias: IsAlias<'_>) -> Result<Vec<LayerActions>> {
        let renaming = Renaming::of(self, checkpoint, new_name, is_alias)?;
        renaming.check_alias()?;
        let Renaming { origin, .. } = renaming;
        let mut steps = Vec::new();
        let mut states = memory::room(self.layers.len())?;
        for read in &self.layers {
            states.push(memory::gather(read.states.iter().cloned())?);
        }
        let mut step = |layer: usize, actions: Vec<Action>| -> Result<Stack> {
            if let Some(states) = states.get_mut(layer) {
                *states = carry_out(states, &actions).map_err(|error| self.in_layer(layer, error))?;
            }
            if !actions.is_empty() {
                memory::push(&mut steps, LayerActions { layer, actions })?;
            }
            self.with(&states)
        };
        if origin == 0 {
            step(0, renaming.renamed(0)?)?;
            return Ok(steps);
        }
        if !renaming.is_half_done {
            step(origin, renaming.alias()?)?;
        }
        for layer in (0..origin).rev() {
            step(layer, renaming.renamed(layer)?)?;
        }
        let now = step(origin, Vec::new())?;
        step(origin, now.given_up(origin, &renaming.from)?)?;
        Ok(steps)
    }

    /// As [`Stack::plan_rename`], where all layers change at the same moment: one list of actions for each.
    pub fn plan_rename_at_once(
        &self,
        checkpoint: &[u8],
        new_name: &[u8],
        is_alias: IsAlias<'_>,
    ) -> Result<Vec<LayerActions>> {
        let renaming = Renaming::of(self, checkpoint, new_name, is_alias)?;
        let (mut steps, mut states) = (Vec::new(), memory::room(self.layers.len())?);
        for (layer, read) in self.layers.iter().enumerate() {
            let actions = match renaming.is_half_done && layer == renaming.origin {
                true => self.given_up(layer, &renaming.from)?,
                false => renaming.renamed(layer)?,
            };
            states.push(carry_out(&read.states, &actions).map_err(|error| self.in_layer(layer, error))?);
            if !actions.is_empty() {
                memory::push(&mut steps, LayerActions { layer, actions })?;
            }
        }
        self.with(&states)?;
        Ok(steps)
    }

    /// The actions by which the layer of an alias gives up the old name.
    fn given_up(&self, layer: usize, from: &Name) -> Result<Vec<Action>> {
        let Some(read) = self.layers.get(layer) else { return Ok(Vec::new()) };
        let plan =
            read.chain.as_ref().map_err(Error::clone).and_then(|chain| chain.plan_delete(from.as_bytes(), false));
        Ok(memory::gather(plan.map_err(|error| self.in_layer(layer, error))?.actions().iter().cloned())?)
    }
}

/// A renaming, as far as the layers allow one.
struct Renaming<'a> {
    stack: &'a Stack,
    from: Name,
    to: Name,
    /// The lowest layer that has the checkpoint's bitmap, and its chain.
    origin: usize,
    chain: &'a Chain,
    own: &'a Checkpoint,
    /// Whether that layer has the alias already.
    is_half_done: bool,
}

impl<'a> Renaming<'a> {
    fn of(stack: &'a Stack, checkpoint: &[u8], new_name: &[u8], is_alias: IsAlias<'_>) -> Result<Self> {
        stack.top()?;
        let (from, to) = (Name::new(checkpoint), check_checkpoint_name(new_name)?);
        stack.refuse_unreadable(&BTreeSet::from([from.clone(), to.clone()]))?;
        let origin = stack.layers.iter().enumerate().rev().find_map(|(layer, read)| {
            let chain = read.chain.as_ref().ok()?;
            Some((layer, chain, chain.checkpoint(checkpoint)?))
        });
        let (origin, chain, own) = origin.ok_or_else(|| stack.not_found(&from))?;
        let before = match stack.model {
            Model::Cumulative => chain.checkpoint(new_name),
            _ => chain.place_of(&from).and_then(|at| chain.neighbours(at).0).filter(|before| before.name == to),
        };
        let is_half_done = match before.filter(|_| origin > 0 && from != to) {
            Some(before) => is_alias(origin, &before.bitmap, &own.bitmap)?,
            None => false,
        };
        let renaming = Self { stack, from, to, origin, chain, own, is_half_done };
        renaming.check_new_name()?;
        Ok(renaming)
    }

    /// Refuses a new name that a layer knows, unless a renaming that was stopped gave it to this checkpoint.
    fn check_new_name(&self) -> Result<()> {
        for (layer, read) in self.stack.layers.iter().enumerate() {
            let is_changed = layer < self.origin && read.own(&self.from).is_none();
            let is_ours = self.is_half_done && (layer == self.origin || is_changed);
            if is_ours || !read.mentions.contains(&self.to) {
                continue;
            }
            let message = match layer {
                0 => format!("a checkpoint named {} exists already", self.to),
                _ => format!("the layer {} below it knows a checkpoint {} already", read.label, self.to),
            };
            let error = Error::new(ErrorKind::Exists, message);
            return Err(match self.is_half_done {
                true => {
                    error.advise(format!("choose another name; if both stand for one moment, delete {}", self.from))
                }
                false => error.advise("choose another name"),
            });
        }
        Ok(())
    }

    /// Refuses layers of which the lowest one cannot answer for both names: one further below would have to, or the bitmap
    /// is a copy, which counts as one by its place alone.
    fn check_alias(&self) -> Result<()> {
        let stack = self.stack;
        if self.own.inconsistent {
            let way_out =
                WayOut::from("delete the inconsistent checkpoints with ").control(Control::DeleteAllInconsistent);
            let error = plan::inconsistent(&self.own.bitmap).advise(way_out.words(", then take a full backup"));
            return Err(stack.in_layer(self.origin, error));
        }
        let first = if self.is_half_done { &self.to } else { &self.from };
        let known = stack.not_older_than(first)?;
        let lowest = stack.lowest(&known).unwrap_or(self.origin);
        let missing = self.chain.place_of(first).and_then(|at| self.chain.missing_before(at));
        let message = match missing.filter(|_| stack.stands_on(self.origin)) {
            _ if lowest > self.origin => format!(
                "the layer {} below it knows the checkpoint {first} or a later one too, but has no bitmap of {first}",
                stack.layers.get(lowest).map(|read| read.label.as_str()).unwrap_or_default(),
            ),
            Some(missing) => format!(
                "the bitmap {} follows the checkpoint {missing}, which has no bitmap there: it is a copy, and its original \
                 is gone",
                self.own.bitmap
            ),
            None => return Ok(()),
        };
        let way_out = WayOut::from("delete the checkpoint instead, or insist with ").control(Control::TopLayerOnly);
        let way_out = way_out.words(" if what the layers below recorded does not matter");
        let error = Error::new(ErrorKind::BackingLayer, message).advise(way_out);
        Err(stack.in_layer(self.origin, error))
    }

    /// The actions that give the checkpoint its new name beside the old one.
    fn alias(&self) -> Result<Vec<Action>> {
        let Self { chain, own, from, to, .. } = self;
        let mut expected = memory::room(chain.checkpoints().len() + 1)?;
        for name in chain.names() {
            expected.extend((name == from).then(|| to.clone()));
            expected.push(name.clone());
        }
        let granularity = own.granularity;
        let actions = match chain.model() {
            Model::Cumulative => vec![
                Action::Add { name: to.clone(), granularity },
                Action::Merge { sources: vec![own.bitmap.clone()], target: to.clone() },
            ],
            _ => {
                let name = match own.bitmap.split() {
                    Some(Ok((None, _))) => Name::marked_root(to),
                    Some(Ok((follows, _))) => Name::chained(follows.as_ref(), to),
                    Some(Err(_)) | None => to.clone(),
                };
                vec![
                    Action::Rename { from: own.bitmap.clone(), to: Name::chained(Some(to), from) },
                    Action::Add { name: name.clone(), granularity },
                    Action::SetRecording { name, recording: false },
                ]
            }
        };
        let plan = chain.refuse_name_of_bitmap(to).and_then(|()| chain.refuse_name_of_interval(to));
        let plan = plan.and_then(|()| chain.finish(Plan::of(actions), chain.model(), &expected));
        Ok(plan.map_err(|error| self.stack.in_layer(self.origin, error))?.actions)
    }

    /// The actions by which a layer changes from the old name to the new one.
    fn renamed(&self, layer: usize) -> Result<Vec<Action>> {
        let Some(Ok(chain)) = self.stack.layers.get(layer).map(|read| &read.chain) else { return Ok(Vec::new()) };
        let named = |error: Error| self.stack.in_layer(layer, error);
        if chain.place_of(&self.from).is_none() {
            // A copy of the next checkpoint's bitmap, which follows this one by its name.
            let mut actions = Vec::new();
            for (at, own) in chain.checkpoints().iter().enumerate() {
                if chain.missing_before(at) == Some(&self.from) {
                    let to = Name::chained(Some(&self.to), &own.name);
                    memory::push(&mut actions, Action::Rename { from: own.bitmap.clone(), to })?;
                }
            }
            return Ok(actions);
        }
        let plan = chain.plan_rename(self.from.as_bytes(), self.to.as_bytes()).map_err(named)?;
        Ok(plan.actions)
    }
}
