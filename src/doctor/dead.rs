#![forbid(unsafe_code)]
//! Owns the parts of a chain of intervals that no diff can use any more. Must never know libvirt.

use super::patient::Patient;
use super::{Finding, FindingKind};
use crate::chain::{self, Action, BitmapState, Chain, Checkpoint, KnownModel, Model};
use crate::error::Result;
use crate::memory;

/// Each mend can bring the next fault to light, such as a chain of which nothing records after its dead bitmap is gone.
const MOST_MENDS: usize = 4;

/// The faults of the intervals among the bitmaps of the top layer, and the actions that mend them.
pub(super) fn of_intervals(
    patient: &Patient,
    model: Option<KnownModel>,
    disk: &str,
) -> Result<(Vec<Finding>, Vec<Action>)> {
    let (mut findings, mut actions) = (Vec::new(), Vec::new());
    let mut states = memory::gather(patient.bitmaps().iter().cloned())?;
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
        let Some((mut found, mut steps)) = fault(&chain, patient, disk)? else { break };
        // A chain that goes on through layers is none of the top one's alone.
        if patient.unread.is_some() || reaches_below(&chain, patient) {
            found.mend = None;
            steps.clear();
        }
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

/// The bitmaps of the layers below.
fn below(patient: &Patient) -> impl Iterator<Item = &BitmapState> {
    patient.layers.iter().skip(1).flat_map(|layer| &layer.bitmaps)
}

fn reaches_below(chain: &Chain, patient: &Patient) -> bool {
    let own = |bitmap: &BitmapState| chain.checkpoints().iter().any(|own| own.bitmap == bitmap.name);
    below(patient).any(|bitmap| bitmap.name.has_arrow() || own(bitmap))
}

/// Whether a layer below has the checkpoint that this one's bitmap follows: a layer that was put on top has only the bitmap that recorded.
fn is_in_layers(own: &Checkpoint, patient: &Patient) -> bool {
    let Some((Some(before), _)) = own.bitmap.link() else { return false };
    let is_it = |bitmap: &BitmapState| match bitmap.name.link() {
        Some((_, checkpoint)) => checkpoint == before,
        None => bitmap.name == before,
    };
    below(patient).any(|bitmap| is_it(bitmap) && !bitmap.inconsistent && !bitmap.unusable)
}

/// Whether a diff from one checkpoint until the next one is answered.
fn answers_past_diffs(own: &[Checkpoint]) -> bool {
    let is_sound = |own: &Checkpoint| !own.inconsistent && !own.unusable;
    own.windows(2).any(|pair| matches!(pair, [since, until] if is_sound(since) && !until.gap))
}

fn fault(chain: &Chain, patient: &Patient, disk: &str) -> Result<Option<(Finding, Vec<Action>)>> {
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
        if answers_past_diffs(own) {
            let message = format!(
                "{message}; diffs between its checkpoints are answered still: take them, then drop its bitmaps"
            );
            return Ok(Some((finding(FindingKind::DeadChain, disk, message, cost, None), Vec::new())));
        }
        let steps: Vec<Action> = memory::gather(own.iter().map(|own| Action::Remove { name: own.bitmap.clone() }))?;
        let mend = Some("the chain goes, so that a new one can begin".to_owned());
        return Ok(Some((finding(FindingKind::DeadChain, disk, message, cost, mend), steps)));
    }
    if patient.unread.is_some() {
        return Ok(None);
    }
    let Some(first) = own.iter().rfind(|own| own.gap && !is_in_layers(own, patient)) else { return Ok(None) };
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
