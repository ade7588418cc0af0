#![forbid(unsafe_code)]
//! Owns the deletion of checkpoints whose bitmaps cannot be trusted, on several layers: the losses, and the order in which the
//! layers change. Knows nothing of bits.

use super::super::plan::{self, Action, Plan, carry_out};
use super::super::{Chain, Model, Name};
use super::{LayerActions, Stack};
use crate::error::Result;
use crate::memory;
use std::collections::BTreeSet;

/// A deletion that gives up what inconsistent bitmaps know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ForcedDeletion {
    /// The steps, in their order, each in one go.
    pub steps: Vec<LayerActions>,
    /// The checkpoints since which no diff is answered any more.
    pub lost: Vec<Name>,
    /// Whether the disk has checkpoints afterwards, in whatever layer.
    pub leaves_any: bool,
    /// Whether the top layer records afterwards.
    pub records: bool,
}

impl Stack {
    /// Plans the deletion of checkpoints as [`Stack::plan_delete`] does, where inconsistent bitmaps stand in its way; without
    /// checkpoints it is that of all inconsistent bitmaps.
    ///
    /// Each layer with an inconsistent bitmap gives up that one and those of all older checkpoints, as a single image does. Where a
    /// layer below knows such a checkpoint too, diffs since it stay: they count all that the layers above hold. The others are
    /// lost, and go from the layers above first. Then the checkpoints that are named and still known are deleted as ever.
    pub fn plan_delete_forced(&self, checkpoints: Option<&[Name]>) -> Result<ForcedDeletion> {
        self.top()?;
        let named = memory::sorted_set(checkpoints.unwrap_or_default().iter().cloned());
        self.refuse_unreadable(&named)?;
        if let Some(unknown) = named.iter().find(|name| self.layers.iter().all(|layer| layer.own(name).is_none())) {
            return Err(self.not_found(unknown));
        }
        let mut given_up: Vec<BTreeSet<Name>> = memory::room(self.layers.len())?;
        for (layer, read) in self.layers.iter().enumerate() {
            given_up.push(match &read.chain {
                Ok(chain) => {
                    chain.given_up(checkpoints.map(|_| &named)).map_err(|error| self.in_layer(layer, error))?
                }
                Err(_) => BTreeSet::new(),
            });
        }
        let mut lost = BTreeSet::new();
        for (layer, names) in given_up.iter().enumerate() {
            let is_known = |name: &Name| self.is_known_below(layer, &BTreeSet::from([name.clone()]));
            lost.extend(names.iter().filter(|name| !is_known(name)).cloned());
        }
        self.refuse_unreadable(&lost)?;
        let (mut steps, mut states) = (Vec::new(), memory::room(self.layers.len())?);
        for (layer, (read, given_up)) in self.layers.iter().zip(&given_up).enumerate() {
            let gone: BTreeSet<Name> = given_up.union(&lost).cloned().collect();
            let actions = self.without(layer, &gone).map_err(|error| self.in_layer(layer, error))?;
            states.push(carry_out(&read.states, &actions).map_err(|error| self.in_layer(layer, error))?);
            if !actions.is_empty() {
                memory::push(&mut steps, LayerActions { layer, actions })?;
            }
        }
        let mut after = self.with(&states)?;
        let left: Vec<Name> =
            named.into_iter().filter(|name| after.layers.iter().any(|it| it.own(name).is_some())).collect();
        if !left.is_empty() {
            let more = after.plan_delete(&left)?;
            for step in &more {
                if let Some(states) = states.get_mut(step.layer) {
                    *states = carry_out(states, &step.actions)?;
                }
            }
            memory::extend(&mut steps, more)?;
            after = self.with(&states)?;
        }
        let records = after.layers.first().is_some_and(|top| top.checkpoints().iter().any(|own| own.recording));
        let leaves_any = after.layers.iter().any(|layer| !layer.checkpoints().is_empty());
        Ok(ForcedDeletion { steps, lost: lost.into_iter().collect(), leaves_any, records })
    }

    /// The actions by which a layer gives up these checkpoints with what they recorded.
    fn without(&self, layer: usize, gone: &BTreeSet<Name>) -> Result<Vec<Action>> {
        let Some(Ok(chain)) = self.layers.get(layer).map(|layer| layer.chain.as_ref()) else { return Ok(Vec::new()) };
        let mut actions = Vec::new();
        for own in chain.checkpoints().iter().filter(|own| gone.contains(&own.name)) {
            if own.unusable {
                return Err(plan::unusable(&own.bitmap));
            }
            memory::push(&mut actions, Action::Remove { name: own.bitmap.clone() })?;
        }
        for (at, own) in chain.checkpoints().iter().enumerate().filter(|(_, own)| !gone.contains(&own.name)) {
            let missing = chain.missing_before(at);
            let Some(follows) = own.parent.as_ref().or(missing) else { continue };
            if !gone.contains(follows) {
                continue;
            }
            if missing.is_some() {
                self.refuse_lone_copy(layer, own)?;
            }
            let to = Name::chained(None, &own.name);
            memory::push(&mut actions, Action::Rename { from: own.bitmap.clone(), to })?;
        }
        let left = chain.names().filter(|name| !gone.contains(*name)).cloned();
        let left = memory::gather(left)?;
        Ok(chain.finish(Plan::of(actions), chain.model(), &left)?.actions)
    }
}

impl Chain {
    /// The checkpoints that go with inconsistent bitmaps of this layer: of those that are named, or of all.
    fn given_up(&self, named: Option<&BTreeSet<Name>>) -> Result<BTreeSet<Name>> {
        let spoiled: Vec<usize> = match named {
            Some(named) if self.model != Model::Cumulative => {
                let gone = memory::gather(self.names().map(|name| named.contains(name)))?;
                memory::gather(self.need_force(&gone)?.into_iter().map(|(at, _)| at))?
            }
            _ => {
                let is_named = |name: &Name| named.is_none_or(|named| named.contains(name));
                let own = self.checkpoints.iter().enumerate();
                memory::gather(own.filter(|(_, own)| own.inconsistent && is_named(&own.name)).map(|(at, _)| at))?
            }
        };
        if self.model == Model::Cumulative {
            let own = spoiled.iter().filter_map(|at| self.checkpoints.get(*at));
            return Ok(memory::sorted_set(own.map(|own| own.name.clone())));
        }
        let gone = self.cut(&spoiled)?;
        Ok(memory::sorted_set(self.names().zip(&gone).filter(|(_, gone)| **gone).map(|(name, _)| name.clone())))
    }
}
