#![forbid(unsafe_code)]
//! Owns the deletion of checkpoints that several layers know: the actions on each layer, and their order. Knows nothing of
//! bits.

use super::super::plan::{self, Action, carry_out};
use super::super::{BitmapState, Chain, KnownModel, Model, Name};
use super::{Layer, Stack};
use crate::error::{Error, Result};
use crate::memory;
use std::collections::BTreeSet;
use std::path::Path;

/// The actions on one layer of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerActions {
    /// The layer; the top one is 0.
    pub layer: usize,
    /// The actions on its bitmaps, which are carried out in one step.
    pub actions: Vec<Action>,
}

impl Stack {
    /// Whether a layer below the top one knows one of these checkpoints, so that the deletion changes several layers.
    pub fn is_known_to_lower(&self, checkpoints: &[impl AsRef<[u8]>]) -> bool {
        let names = memory::sorted_set(checkpoints.iter().map(|name| Name::new(name.as_ref())));
        self.is_known_below(0, &names)
    }

    /// Plans the deletion of checkpoints in every layer that knows them: in each the older neighbour absorbs the bits, or
    /// gets the bitmap under its own name where it has none there.
    ///
    /// The layers are to be changed in this order, the top one first: as long as one below still knows a checkpoint, every
    /// diff since it counts all layers above. So a stop between two of them loses nothing, and the same deletion finishes it.
    pub fn plan_delete(&self, checkpoints: &[impl AsRef<[u8]>]) -> Result<Vec<LayerActions>> {
        self.top()?;
        let mut plans: Vec<LayerActions> = Vec::new();
        let mut states = memory::room(self.layers.len())?;
        for (layer, read) in self.layers.iter().enumerate() {
            plans.push(LayerActions { layer, actions: Vec::new() });
            states.push(memory::gather(read.states.iter().cloned())?);
        }
        for checkpoint in memory::sorted_set(checkpoints.iter().map(|name| Name::new(name.as_ref()))) {
            let now = self.with(&states)?;
            now.refuse_unreadable(&BTreeSet::from([checkpoint.clone()]))?;
            if now.layers.iter().all(|layer| layer.own(&checkpoint).is_none()) {
                return Err(self.not_found(&checkpoint));
            }
            let before = now.before(&checkpoint);
            for (layer, (plan, states)) in plans.iter_mut().zip(&mut states).enumerate() {
                let named = |error: Error| match self.layers.get(layer).filter(|_| layer > 0) {
                    Some(read) => error.in_file(Path::new(&read.label)),
                    None => error,
                };
                let actions = now.actions(layer, &checkpoint, before.as_ref()).map_err(named)?;
                *states = carry_out(states, &actions).map_err(named)?;
                memory::extend(&mut plan.actions, actions)?;
            }
        }
        self.with(&states)?;
        plans.retain(|plan| !plan.actions.is_empty());
        Ok(plans)
    }

    /// The same layers with other bitmaps; refuses those whose names form no chain.
    pub(super) fn with(&self, states: &[Vec<BitmapState>]) -> Result<Stack> {
        let insist = match self.model {
            Model::Interval => Some(KnownModel::Interval),
            Model::Cumulative => Some(KnownModel::Cumulative),
            Model::None | Model::Unknown => None,
        };
        let mut layers = memory::room(self.layers.len())?;
        for (read, states) in self.layers.iter().zip(states) {
            let was_readable = read.chain.is_ok();
            if was_readable {
                Chain::read(states, insist)?;
            }
            layers.push(Layer::new(read.label.clone(), memory::gather(states.iter().cloned())?, read.size_bytes));
        }
        Stack::read(&layers, self.stands_on_more, insist)
    }

    /// The checkpoint before this one on the disk, and the name of its bitmap.
    fn before(&self, checkpoint: &Name) -> Option<(Name, Name)> {
        let (chain, at) = self.layers.iter().rev().find_map(|layer| {
            let chain = layer.chain.as_ref().ok()?;
            Some((chain, chain.place_of(checkpoint)?))
        })?;
        if let Some(before) = chain.neighbours(at).0 {
            return Some((before.name.clone(), before.bitmap.clone()));
        }
        let before = chain.missing_before(at)?;
        let known = self.layers.iter().rev().find_map(|layer| layer.own(before))?;
        Some((known.name.clone(), known.bitmap.clone()))
    }

    /// The actions that delete a checkpoint in one layer.
    fn actions(&self, layer: usize, checkpoint: &Name, before: Option<&(Name, Name)>) -> Result<Vec<Action>> {
        let Some(Ok(chain)) = self.layers.get(layer).map(|layer| layer.chain.as_ref()) else { return Ok(Vec::new()) };
        if let Some(at) = chain.place_of(checkpoint) {
            let is_first = chain.neighbours(at).0.is_none();
            return match (before.filter(|_| is_first && self.model == Model::Interval), chain.checkpoints().get(at)) {
                (Some((before, bitmap)), Some(own)) => {
                    if own.inconsistent {
                        return Err(plan::inconsistent(&own.bitmap));
                    }
                    let mut actions = Vec::new();
                    memory::push(&mut actions, Action::Rename { from: own.bitmap.clone(), to: bitmap.clone() })?;
                    if let Some(after) = chain.neighbours(at).1 {
                        let to = Name::chained(Some(before), &after.name);
                        memory::push(&mut actions, Action::Rename { from: after.bitmap.clone(), to })?;
                    }
                    Ok(actions)
                }
                _ => Ok(memory::gather(chain.plan_delete(checkpoint.as_bytes(), false)?.actions().iter().cloned())?),
            };
        }
        // A copy of the next checkpoint's bitmap, which follows this one by its name.
        let mut actions = Vec::new();
        for (at, own) in chain.checkpoints().iter().enumerate() {
            if chain.missing_before(at) == Some(checkpoint) {
                let to = Name::chained(before.map(|(before, _)| before), &own.name);
                memory::push(&mut actions, Action::Rename { from: own.bitmap.clone(), to })?;
            }
        }
        Ok(actions)
    }
}
