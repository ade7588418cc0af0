#![forbid(unsafe_code)]
//! Owns removals that no bitmap absorbs: all that is older than a checkpoint, or one bitmap by its own name, also
//! where the names form no chain. Knows nothing of the image.

use super::beside::recording_beside;
use super::name;
use super::plan::{Plan, carry_out};
use super::read::refuse_duplicates;
use super::{Action, BitmapState, Chain, Model, Name, Until};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::memory;

impl Chain {
    /// Plans that the interval checkpoint `checkpoint` becomes the root: the bitmaps of all older checkpoints go, also
    /// those before gaps. Bitmaps that belong to no checkpoint stay.
    pub fn plan_drop_before(&self, checkpoint: &[u8]) -> Result<Plan> {
        self.check_known()?;
        if self.model == Model::Cumulative {
            return Err(Error::new(ErrorKind::Model, "cumulative checkpoints have no place in a chain")
                .advise(WayOut::from("drop them one by one with ").control(Control::DropBitmap)));
        }
        let at = self.position(checkpoint)?;
        if self.stretch_of(at).is_some_and(|own| !own.placed) {
            return Err(self.unknown_order(&Name::new(checkpoint)));
        }
        let gone = memory::gather((0..self.checkpoints.len()).map(|place| place < at))?;
        self.lose(&gone)
    }

    /// The error for a checkpoint that lies between several gaps.
    fn unknown_order(&self, checkpoint: &Name) -> Error {
        let message = format!("several gaps leave it open which checkpoints are older than {checkpoint}");
        let last = self.stretches.last().filter(|last| last.placed).and_then(|last| self.part(last).first());
        let way_out = match last {
            Some(first) => WayOut::from("drop all before the last gap with ")
                .control(Control::DropBefore(first.name.as_bytes().to_vec()))
                .words(", or single bitmaps with "),
            None => WayOut::from("drop single bitmaps with "),
        };
        Error::new(ErrorKind::BrokenChain, message).advise(way_out.control(Control::DropBitmap))
    }
}

/// The bitmaps that are no checkpoints of a chain of checkmap's: foreign ones, helpers of libvirt, and all of an unknown
/// model. Where the names form no chain, the plain ones that nothing follows.
pub fn foreign_in(bitmaps: &[BitmapState]) -> Result<Vec<Name>> {
    let links = bitmaps.iter().filter(|state| state.name.has_arrow());
    let linked = memory::sorted_set(links.flat_map(|state| state.name.mentions()));
    let chain = Chain::read(bitmaps, None);
    if let Err(error) = &chain
        && error.is_of_the_call()
    {
        return Err(error.clone());
    }
    let beside = memory::sorted_set(recording_beside(bitmaps)?.into_iter().map(|state| &state.name));
    let is_own = |name: &Name| match &chain {
        Ok(chain) => chain.interval_of(name).is_some(),
        Err(_) => name.has_arrow() || linked.contains(name) && !beside.contains(name),
    };
    Ok(memory::gather(bitmaps.iter().map(|state| &state.name).filter(|name| !is_own(name)).cloned())?)
}

/// Plans the removal of one bitmap by its own name, whatever it means: of a checkpoint, foreign, inconsistent or of a
/// kind that is not known; also where the names form no chain. Nothing absorbs what it recorded.
pub fn plan_drop_bitmap(bitmaps: &[BitmapState], bitmap: &[u8]) -> Result<Plan> {
    refuse_duplicates(bitmaps)?;
    let Some(gone) = bitmaps.iter().find(|state| state.name.as_bytes() == bitmap) else {
        return Err(name::no_bitmap(&Name::new(bitmap), bitmaps.iter().map(|state| &state.name)));
    };
    let mut plan = Plan::of(vec![Action::Remove { name: gone.name.clone() }]);
    let after = carry_out(bitmaps, &plan.actions)?;
    let beside = Chain::beside(bitmaps)?.filter(|beside| beside.interval_of(&gone.name).is_some());
    match beside.map_or_else(|| Chain::read(bitmaps, None), Ok) {
        Ok(chain) => chain.warn_of_dropped(&gone.name, &mut plan),
        Err(error) if error.is_of_the_call() => return Err(error),
        Err(_) => plan.warn(
            "the names of the bitmaps formed no chain, so nobody knows what the remaining ones cover: take a full backup",
        ),
    }
    match Chain::read(&after, None) {
        Ok(_) => {}
        Err(error) if error.is_of_the_call() => return Err(error),
        Err(broken) => plan.warn(format!("afterwards the bitmaps form no chain: {}", broken.message())),
    }
    Ok(plan)
}

impl Chain {
    fn warn_of_dropped(&self, bitmap: &Name, plan: &mut Plan) {
        let Some(interval) = self.interval_of(bitmap) else { return };
        if self.model == Model::Cumulative {
            return plan.warn("if libvirt made this checkpoint, libvirt still lists it: delete its metadata there too");
        }
        let until = match interval.until {
            Until::Checkpoint(next) => format!("until {next}"),
            Until::Gap => "until the gap".to_owned(),
            Until::Now => "until now: nothing records any more, and the next backup must be full".to_owned(),
        };
        plan.warn(format!(
            "the checkpoint {} goes, and every diff is lost that needs what was written from then {until}",
            interval.since
        ));
    }
}
