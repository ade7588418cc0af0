#![forbid(unsafe_code)]
//! Owns the change of a checkpoint in several layers of one disk in one step, where the hosts of the layers share a transaction, as
//! those of a running hypervisor do. Must never know how the step is made.

use super::Image;
use super::in_layers::{Edit, picked};
use crate::chain::{BelowActions, KnownModel, LayerActions, Plan};
use crate::error::{Error, ErrorKind, Result};
use crate::host::{Remarks, Share};
use crate::memory;
use crate::progress::{Observer, Unobserved};
use std::time::Duration;

/// A stall shorter than this is not worth a word.
const NOTABLE_STALL: Duration = Duration::from_millis(10);

impl Image {
    /// The change of a disk in whose layers below it takes part; `None` where it does not, or where the layers cannot change in
    /// one step.
    pub(super) fn plan_at_once(&self, edit: &Edit<'_>, model: Option<KnownModel>) -> Result<Option<Plan>> {
        let Some(member) = self.host.membership() else { return Ok(None) };
        if self.host.layers_below().map_err(|error| self.name_it(error))?.is_none_or(|below| below.is_empty()) {
            return Ok(None);
        }
        let chain = self.chain_to_change(model, edit.checkpoints())?;
        let stacked = self.stacked(picked(&chain, model), true, &[])?;
        if !edit.spans(&stacked.stack).map_err(|error| self.name_it(error))? {
            return Ok(None);
        }
        let planned = edit.plan_at_once(&stacked, &mut Unobserved);
        let (steps, warnings) = planned.map_err(|error| self.name_it(error))?;
        let mut layers: Vec<LayerActions> = Vec::new();
        for step in steps {
            match layers.iter_mut().find(|layer| layer.layer == step.layer) {
                Some(layer) => memory::extend(&mut layer.actions, step.actions)?,
                None => memory::push(&mut layers, step)?,
            }
        }
        let (mut own, mut below, mut remarks) = (Vec::new(), Vec::new(), Remarks::default());
        for LayerActions { layer, actions } in layers {
            let host = stacked.host(layer)?;
            remarks.add(host.remarks(&actions));
            if layer == 0 {
                own = actions;
                continue;
            }
            let Some(other) = host.membership().filter(|other| other.shares_with(&member)) else { return Ok(None) };
            let states = memory::gather(host.bitmaps())?;
            memory::push(&mut below, BelowActions::new(stacked.label(layer), other.disk, actions, states))?;
        }
        self.look()?;
        let mut plan = Plan::in_layers(own, below);
        warnings.into_iter().for_each(|warning| plan.warn(warning));
        self.end_plan(&mut plan, remarks);
        Ok(Some(plan))
    }

    /// Adds what the host says of the plan, and ties it to this image.
    pub(super) fn end_plan(&self, plan: &mut Plan, remarks: Remarks) {
        if remarks.stall >= NOTABLE_STALL {
            plan.warn_before(format!(
                "QEMU stops every disk of the machine while it merges bitmaps: for about {} ms here",
                remarks.stall.as_millis()
            ));
        }
        remarks.risks.into_iter().for_each(|risk| plan.warn_before(risk));
        remarks.warnings.into_iter().for_each(|warning| plan.warn(warning));
        plan.bind(&self.origin);
    }

    /// Tries a plan of several layers, without a change.
    pub(super) fn rehearse_at_once(&self, plan: &Plan, observer: &mut dyn Observer) -> Result<Option<Vec<String>>> {
        let Some(member) = self.host.membership() else {
            return Err(Error::new(ErrorKind::Unsupported, "the layers of this disk do not change in one step"));
        };
        let mut shares = Vec::new();
        add_shares(&mut shares, &member.disk, plan)?;
        let rehearsed = member.transaction.rehearse(&shares, observer)?;
        Ok(rehearsed.map(|all| all.into_iter().flatten().collect()))
    }
}

/// Adds the shares of a plan for the disk that its host calls `disk`: its own, and those of the layers below it.
pub(super) fn add_shares<'p>(shares: &mut Vec<Share<'p>>, disk: &'p str, plan: &'p Plan) -> Result<()> {
    if !plan.actions().is_empty() {
        memory::push(shares, Share::new(disk, plan.actions()))?;
    }
    for below in plan.below() {
        memory::push(shares, Share::new(&below.disk, &below.actions).planned_on(&below.planned_on))?;
    }
    Ok(())
}
