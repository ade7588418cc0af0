#![forbid(unsafe_code)]
//! Owns the creation of a checkpoint on a disk of several layers: how a top layer without bitmaps goes on with the chain
//! below it. Knows nothing of bits.

use super::super::plan::{Action, Plan};
use super::super::{Checkpoint, CreateOptions, KnownModel, Model, Name, check_checkpoint_name};
use super::Stack;
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::Granularity;
use crate::memory;

impl Stack {
    /// Plans a new checkpoint, as [`Chain::plan_create`](super::super::Chain::plan_create) does; the actions are for the top
    /// layer. `fit` gives the finest granularity from one on that the top layer can keep.
    ///
    /// No layer may know the name. Where the top layer has no checkpoint and the layers below record, it gets the bitmap of
    /// their newest checkpoint too, with all that it holds, so that the two chains are one. Where they do not, the
    /// checkpoint begins a chain of its own, and a warning says why.
    pub fn plan_create(
        &self,
        checkpoint: &[u8],
        mut options: CreateOptions,
        fit: &dyn Fn(Granularity) -> Result<Granularity>,
    ) -> Result<Plan> {
        let top = self.top()?;
        let own = check_checkpoint_name(checkpoint)?;
        if let Some(layer) = self.layers.iter().skip(1).find(|layer| layer.mentions.contains(&own)) {
            let message = format!("the layer {} below it knows a checkpoint {own} already", layer.label);
            return Err(Error::new(ErrorKind::Exists, message).advise("choose another name"));
        }
        if self.model == Model::Cumulative {
            options.model = options.model.or(Some(KnownModel::Cumulative));
        }
        if !top.checkpoints().is_empty() || options.model == Some(KnownModel::Cumulative) {
            return top.plan_create(checkpoint, options);
        }
        match self.newest_below() {
            None => top.plan_create(checkpoint, options),
            Some(Err(why)) => {
                let mut plan = top.plan_create(checkpoint, options)?;
                plan.warn(format!("no diff since an older checkpoint is answered from now on: {}", why.reason()));
                Ok(plan)
            }
            Some(Ok(newest)) => {
                let copy = fit(newest.granularity)?;
                let granularity = options.granularity.unwrap_or(copy);
                check_checkpoint_name(newest.name.as_bytes())
                    .map_err(|error| error.advise("rename that checkpoint first"))?;
                let mut plan = Plan::of(vec![
                    Action::AddAllocated { name: newest.bitmap.clone(), granularity: copy },
                    Action::Add { name: Name::chained(Some(&newest.name), &own), granularity },
                ]);
                plan.warnings.extend(own.warning());
                plan.takes_part = memory::gather([own.clone()])?;
                top.finish(plan, Model::Interval, &[newest.name.clone(), own])
            }
        }
    }

    /// The newest checkpoint below the top layer, where its bitmap recorded until the layer above came; or why nothing can
    /// follow it. `None` where no layer below has a checkpoint.
    fn newest_below(&self) -> Option<Result<&Checkpoint>> {
        for layer in self.layers.iter().skip(1) {
            match &layer.chain {
                Err(why) => return Some(Err(why.clone())),
                Ok(chain) => match chain.newest_to_follow(Model::Interval) {
                    Ok(None) => {}
                    Ok(Some(newest)) => return Some(Ok(newest)),
                    Err(why) => return Some(Err(why)),
                },
            }
        }
        None
    }
}
