#![forbid(unsafe_code)]
//! Owns the comparison of two directories: whether they hold the same granules, and whether one holds all of the other. Must
//! never know disks or granularities.

use super::arena::ArenaOffset;
use super::container::Workspace;
use super::directory::Directory;
use super::ops::Pairs;
use crate::memory;

/// Whether both hold the same granules.
pub(super) fn is_same(ours: &Directory, theirs: &Directory) -> bool {
    if ours.ones() != theirs.ones() || ours.entries().len() != theirs.entries().len() {
        return false;
    }
    // What was packed in one order lies in one order.
    if is_same_memory(ours, theirs) {
        return true;
    }
    ours.entries()
        .iter()
        .zip(theirs.entries())
        .all(|(a, b)| (a.key, a.chunks()) == (b.key, b.chunks()) && ours.view(a).same_bits(theirs.view(b)))
}

/// Consecutive containers that lie one behind the other in both arenas.
struct Stretch {
    ours: ArenaOffset,
    theirs: ArenaOffset,
    words: usize,
}

/// Whether all entries are alike, and the memory in which their containers lie too. Where it is not, the bits may be the same.
fn is_same_memory(ours: &Directory, theirs: &Directory) -> bool {
    let is_alike = |stretch: &Stretch| {
        ours.packed_words(stretch.ours, stretch.words) == theirs.packed_words(stretch.theirs, stretch.words)
    };
    let mut stretch: Option<Stretch> = None;
    for (a, b) in ours.entries().iter().zip(theirs.entries()) {
        if (a.key, a.size, a.packed_form()) != (b.key, b.size, b.packed_form()) || a.bytes() != b.bytes() {
            return false;
        }
        let (place, other) = match (a.place(), b.place()) {
            (Some(place), Some(other)) => (place, other),
            _ if a.is_full() => continue,
            _ => return false,
        };
        let words = a.bytes().div_ceil(size_of::<u64>());
        match &mut stretch {
            Some(stretch)
                if place.is_behind(stretch.ours, stretch.words) && other.is_behind(stretch.theirs, stretch.words) =>
            {
                stretch.words += words;
            }
            _ => {
                if !stretch.replace(Stretch { ours: place, theirs: other, words }).is_none_or(|done| is_alike(&done)) {
                    return false;
                }
            }
        }
    }
    stretch.is_none_or(|last| is_alike(&last))
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
