#![forbid(unsafe_code)]
//! Owns the parts of a chain of intervals that no diff can use any more. Must never know libvirt.

use super::{Finding, FindingKind};
use crate::chain::{self, Action, BitmapState, Chain, KnownModel, Model};
use crate::error::Result;
use crate::memory;

/// Each mend can bring the next fault to light, such as a chain of which nothing records after its dead bitmap is gone.
const MOST_MENDS: usize = 4;

/// The faults of the intervals among these bitmaps, and the actions that mend them.
pub(super) fn of_intervals(
    bitmaps: &[BitmapState],
    model: Option<KnownModel>,
    disk: &str,
) -> Result<(Vec<Finding>, Vec<Action>)> {
    let (mut findings, mut actions) = (Vec::new(), Vec::new());
    let mut states = memory::gather(bitmaps.iter().cloned())?;
    for _ in 0..MOST_MENDS {
        let chain = match Chain::read(&states, model) {
            Err(error) if error.is_of_the_call() => return Err(error),
            Err(error) => {
                let message = format!("the bitmaps form no chain: {}", error.message());
                let cost = "no checkpoint can be made, and no diff is answered";
                findings.push(finding(FindingKind::BrokenChain, disk, message, cost, None));
                break;
            }
            Ok(chain) => chain,
        };
        if chain.model() != Model::Interval {
            break;
        }
        let Some((found, steps)) = fault(&chain, disk)? else { break };
        let is_mended = !steps.is_empty();
        findings.push(found);
        if !is_mended {
            break;
        }
        states = chain::after(&states, &steps)?;
        memory::extend(&mut actions, steps)?;
    }
    Ok((findings, actions))
}

fn finding(kind: FindingKind, disk: &str, message: String, cost: &str, mend: Option<String>) -> Finding {
    Finding { kind, disk: disk.to_owned(), name: None, message, cost: cost.to_owned(), mend }
}

fn fault(chain: &Chain, disk: &str) -> Result<Option<(Finding, Vec<Action>)>> {
    let own = chain.checkpoints();
    let spoiled = own.iter().filter(|own| own.inconsistent).map(|own| &own.bitmap);
    if spoiled.clone().next().is_some() {
        let message = format!("{} lost writes when a writer ended without storing it", chain::list(spoiled));
        let cost = "no diff since then or before is answered, and no checkpoint can be made";
        let steps = match chain.plan_delete_all_inconsistent() {
            Err(error) if error.is_of_the_call() => return Err(error),
            plan => plan.map(|plan| plan.actions().to_vec()).unwrap_or_default(),
        };
        let mend = (!steps.is_empty()).then(|| "what needs it goes; younger checkpoints stay".to_owned());
        return Ok(Some((finding(FindingKind::DeadChain, disk, message, cost, mend), steps)));
    }
    let Some(newest) = own.last() else { return Ok(None) };
    if own.iter().all(|own| !own.recording) {
        let message = format!("nothing records: the chain ended at {}", newest.bitmap);
        let cost = "every later backup is full, and no checkpoint can be made";
        let steps: Vec<Action> = memory::gather(own.iter().map(|own| Action::Remove { name: own.bitmap.clone() }))?;
        let mend = Some("the chain goes, so that a new one can begin".to_owned());
        return Ok(Some((finding(FindingKind::DeadChain, disk, message, cost, mend), steps)));
    }
    let Some(first) = own.iter().rfind(|own| own.gap) else { return Ok(None) };
    let message = format!("a bitmap is missing before {}", first.name);
    let cost = "a diff since any checkpoint before it is refused";
    let steps = match chain.plan_drop_before(first.name.as_bytes()) {
        Err(error) if error.is_of_the_call() => return Err(error),
        plan => plan.map(|plan| plan.actions().to_vec()).unwrap_or_default(),
    };
    let mend =
        (!steps.is_empty()).then(|| format!("{} becomes the first checkpoint; what lies before it goes", first.name));
    Ok(Some((finding(FindingKind::Gap, disk, message, cost, mend), steps)))
}
