#![forbid(unsafe_code)]
//! Owns the stretches of a chain with gaps: checkpoints that follow one another without a gap, and the order of
//! stretches as far as it can be told. Knows nothing of plans.

use super::model::{BitmapState, Checkpoint};
use super::name::Name;
use crate::error::Result;
use crate::memory;
use std::ops::Range;

/// Checkpoints that follow one another without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    /// Where they stand in the chain.
    pub(super) places: Range<usize>,
    /// The checkpoint that the first of them follows and that has no bitmap. `None` where it begins with a root.
    pub(super) missing: Option<Name>,
    /// Whether it is known which of the others are older and which are younger.
    pub(super) placed: bool,
}

/// The checkpoints of one stretch, before they have a place in the chain.
pub(super) struct Loose {
    pub(super) missing: Option<Name>,
    pub(super) checkpoints: Vec<Checkpoint>,
}

impl Loose {
    fn records(&self) -> bool {
        self.checkpoints.last().is_some_and(|newest| newest.recording)
    }

    fn first_name(&self) -> Option<&Name> {
        self.checkpoints.first().map(|first| &first.name)
    }

    /// A root that nothing follows any more.
    pub(super) fn lone(root: &BitmapState, own: Name) -> Loose {
        Loose { missing: None, checkpoints: vec![Checkpoint::of(root, own, None, true)] }
    }
}

/// Puts stretches into one list, oldest first. Only one that records can be the last, and only the one with the root
/// the first. The rest has an order only if it is a single one.
pub(super) fn line_up(mut loose: Vec<Loose>) -> Result<(Vec<Checkpoint>, Vec<Stretch>)> {
    let last = take_only(&mut loose, Loose::records);
    let first = take_only(&mut loose, |stretch| stretch.missing.is_none());
    loose.sort_unstable_by(|a, b| a.first_name().cmp(&b.first_name()));
    let placed = loose.len() < 2;
    let middle = loose.into_iter().map(|stretch| (stretch, placed));
    let known = |stretch: Option<Loose>| stretch.into_iter().map(|stretch| (stretch, true));

    let (mut checkpoints, mut stretches) = (Vec::new(), Vec::new());
    for (Loose { missing, checkpoints: own }, placed) in known(first).chain(middle).chain(known(last)) {
        let start = checkpoints.len();
        let gap = missing.is_some() || start > 0;
        for (at, checkpoint) in own.into_iter().enumerate() {
            memory::push(&mut checkpoints, Checkpoint { gap: gap && at == 0, ordered: placed, ..checkpoint })?;
        }
        memory::push(&mut stretches, Stretch { places: start..checkpoints.len(), missing, placed })?;
    }
    Ok((checkpoints, stretches))
}

/// Takes out the one that is so, unless there are none or several.
fn take_only(loose: &mut Vec<Loose>, is_so: impl Fn(&Loose) -> bool) -> Option<Loose> {
    let mut found = loose.iter().enumerate().filter(|(_, stretch)| is_so(stretch));
    match (found.next(), found.next()) {
        (Some((at, _)), None) => Some(loose.remove(at)),
        _ => None,
    }
}
