#![forbid(unsafe_code)]
//! Owns the comparison of two directories: whether they hold the same granules, and whether one holds all of the other. Must
//! never know disks or granularities.

use super::container::Workspace;
use super::directory::Directory;
use super::ops::Pairs;
use crate::memory;

/// Whether both hold the same granules.
pub(super) fn is_same(ours: &Directory, theirs: &Directory) -> bool {
    if ours.ones() != theirs.ones() || ours.entries().len() != theirs.entries().len() {
        return false;
    }
    // A copy, or a bitmap that was made in the same way, is told without a look at each container.
    if ours.is_copy_of(theirs) {
        return true;
    }
    ours.entries()
        .iter()
        .zip(theirs.entries())
        .all(|(a, b)| (a.key, a.chunks()) == (b.key, b.chunks()) && ours.view(a).same_bits(theirs.view(b)))
}

/// Whether all that is dirty in `ours` is dirty in `theirs`.
pub(super) fn is_subset(ours: &Directory, theirs: &Directory) -> memory::Result<bool> {
    let mut workspace = Workspace::new();
    for pair in Pairs::new(ours, theirs) {
        let is_inside = match (pair.ours, pair.theirs) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(a), Some(b)) => {
                a.ones_of_chunk() <= b.ones_of_chunk() && workspace.is_subset(ours.view(a), theirs.view(b))?
            }
        };
        if !is_inside {
            return Ok(false);
        }
    }
    Ok(true)
}
