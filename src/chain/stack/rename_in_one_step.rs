#![forbid(unsafe_code)]
//! Owns the renaming of a checkpoint in all layers that know it, where they change in one step. Knows nothing of bits.

use super::super::plan::{Action, carry_out};
use super::super::{Name, check_checkpoint_name};
use super::{LayerActions, Stack};
use crate::error::{Error, ErrorKind, Result};
use crate::memory;
use std::collections::BTreeSet;
use std::path::Path;

impl Stack {
    /// Plans a new name for a checkpoint in every layer that knows it: for its own bitmap, and for those that follow it by their names.
    ///
    /// All layers have to change in one step: between two of them a diff would be short.
    pub fn plan_rename_in_one_step(&self, checkpoint: &[u8], new_name: &[u8]) -> Result<Vec<LayerActions>> {
        self.top()?;
        let (old, new) = (Name::new(checkpoint), check_checkpoint_name(new_name)?);
        self.refuse_unreadable(&BTreeSet::from([old.clone(), new.clone()]))?;
        if self.layers.iter().all(|layer| layer.own(&old).is_none()) {
            return Err(self.not_found(&old));
        }
        if let Some(layer) = self.layers.iter().find(|layer| layer.mentions.contains(&new)) {
            let message = format!("the layer {} knows a checkpoint {new} already", layer.label);
            return Err(Error::new(ErrorKind::Exists, message).advise("choose another name"));
        }
        let (mut plans, mut after) = (Vec::new(), memory::room(self.layers.len())?);
        for (layer, read) in self.layers.iter().enumerate() {
            let named = |error: Error| if layer > 0 { error.in_file(Path::new(&read.label)) } else { error };
            let mut actions = Vec::new();
            if let Ok(chain) = &read.chain {
                if chain.checkpoint(checkpoint).is_some() {
                    let plan = chain.plan_rename(checkpoint, new_name).map_err(named)?;
                    memory::extend(&mut actions, plan.actions().iter().cloned())?;
                }
                // A copy of a bitmap that follows it, without one of its own here.
                for (at, own) in chain.checkpoints().iter().enumerate() {
                    if chain.missing_before(at) == Some(&old) {
                        let to = Name::chained(Some(&new), &own.name);
                        memory::push(&mut actions, Action::Rename { from: own.bitmap.clone(), to })?;
                    }
                }
            }
            after.push(carry_out(&read.states, &actions).map_err(named)?);
            if !actions.is_empty() {
                memory::push(&mut plans, LayerActions { layer, actions })?;
            }
        }
        let after = self.with(&after)?;
        match after.layers.iter().find(|layer| layer.mentions.contains(&old)) {
            None => Ok(plans),
            Some(layer) => {
                let message = format!("the bitmaps of the layer {} would still speak of {old}", layer.label);
                Err(Error::new(ErrorKind::BrokenChain, message))
            }
        }
    }
}
