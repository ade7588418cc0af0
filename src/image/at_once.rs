#![forbid(unsafe_code)]
//! Owns the change of a checkpoint in several layers of one disk in one step, where the hosts of the layers share a transaction, as
//! those of a running hypervisor do. Must never know how the step is made.

use super::Image;
use crate::chain::{BelowActions, KnownModel, LayerActions, Plan, Stack};
use crate::error::{Error, ErrorKind, Result};
use crate::host::{Remarks, Share};
use crate::memory;
use crate::progress::Observer;
use std::time::Duration;

/// A stall shorter than this is not worth a word.
const NOTABLE_STALL: Duration = Duration::from_millis(10);

impl Image {
    /// The change of a disk whose layers below know one of these checkpoints; `None` where none does, or where the layers cannot
    /// change in one step.
    pub(super) fn plan_at_once(
        &self,
        checkpoints: &[impl AsRef<[u8]>],
        model: Option<KnownModel>,
        plan: impl FnOnce(&Stack) -> Result<Vec<LayerActions>>,
    ) -> Result<Option<Plan>> {
        let Some(member) = self.host.membership() else { return Ok(None) };
        if self.host.layers_below().map_err(|error| self.name_it(error))?.is_none_or(|below| below.is_empty()) {
            return Ok(None);
        }
        // The names pick the chain where two stand side by side.
        let picked = self.read_chain_for(model, checkpoints)?.model().known();
        let model = model.or(picked.filter(|picked| *picked == KnownModel::Cumulative));
        let stacked = self.stacked(model, true, &[])?;
        if !stacked.stack.is_known_to_lower(checkpoints) {
            return Ok(None);
        }
        let steps = plan(&stacked.stack).map_err(|error| self.name_it(error))?;
        let (mut own, mut below, mut remarks) = (Vec::new(), Vec::new(), Remarks::default());
        for LayerActions { layer, actions } in steps {
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
