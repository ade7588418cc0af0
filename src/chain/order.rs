#![forbid(unsafe_code)]
//! Owns the order of cumulative checkpoints, which nothing stores: an older bitmap contains the younger ones. Knows
//! bits only through the question it asks.

use super::{Chain, Checkpoint, Model, Name};
use crate::error::Result;
use std::collections::BTreeSet;

impl Chain {
    /// Whether the place of every checkpoint is known, see [`Checkpoint::ordered`].
    pub fn is_ordered(&self) -> bool {
        self.checkpoints.iter().all(|checkpoint| checkpoint.ordered)
    }

    /// Orders cumulative checkpoints, oldest first; does nothing in other models.
    ///
    /// `strictly_contains(a, b)` tells whether the bitmap `a` holds every bit of `b` and more, or `None` if that cannot
    /// be told, as for an inconsistent one. It is asked for each pair, once or twice. The order puts `a` before `b`
    /// where `a` strictly contains `b`, and takes the smallest name wherever containment leaves a choice, so it does
    /// not depend on the order in which the bitmaps were read.
    pub fn order_cumulative(
        &mut self,
        strictly_contains: &mut dyn FnMut(&Name, &Name) -> Result<Option<bool>>,
    ) -> Result<()> {
        if self.model != Model::Cumulative {
            return Ok(());
        }
        self.checkpoints.sort_by(|a, b| a.name.cmp(&b.name));
        let mut places: Vec<Place> = self.checkpoints.iter().map(|_| Place::default()).collect();
        for (a, one) in self.checkpoints.iter().enumerate() {
            for (b, two) in self.checkpoints.iter().enumerate().skip(a + 1) {
                let (older, younger) = if strictly_contains(&one.bitmap, &two.bitmap)? == Some(true) {
                    (a, b)
                } else if strictly_contains(&two.bitmap, &one.bitmap)? == Some(true) {
                    (b, a)
                } else {
                    continue;
                };
                if let Some(place) = places.get_mut(older) {
                    place.younger.push(younger);
                }
                if let Some(place) = places.get_mut(younger) {
                    place.older += 1;
                }
            }
        }
        let others = self.checkpoints.len().saturating_sub(1);
        let mut order: Vec<Checkpoint> = Vec::with_capacity(self.checkpoints.len());
        for (at, known) in sort(&places) {
            if let (Some(place), Some(checkpoint)) = (places.get(at), self.checkpoints.get(at)) {
                let ordered = known && place.older + place.younger.len() == others;
                order.push(Checkpoint { ordered, ..checkpoint.clone() });
            }
        }
        self.checkpoints = order;
        Ok(())
    }
}

/// What containment says of one checkpoint.
#[derive(Default)]
struct Place {
    /// How many are older.
    older: usize,
    /// Which are younger.
    younger: Vec<usize>,
}

/// A topological order that takes the smallest index where it has a choice. Answers that contradict each other, which
/// no bits can give, end in the order of the names, marked as not known.
fn sort(places: &[Place]) -> Vec<(usize, bool)> {
    let mut waits: Vec<usize> = places.iter().map(|place| place.older).collect();
    let mut left: BTreeSet<usize> = (0..places.len()).collect();
    let mut free: BTreeSet<usize> = left.iter().copied().filter(|at| waits.get(*at) == Some(&0)).collect();
    let mut order = Vec::with_capacity(places.len());
    while let Some(at) = free.pop_first() {
        left.remove(&at);
        order.push((at, true));
        for younger in places.get(at).map(|place| place.younger.as_slice()).unwrap_or_default() {
            if let Some(wait) = waits.get_mut(*younger) {
                *wait -= 1;
                if *wait == 0 {
                    free.insert(*younger);
                }
            }
        }
    }
    order.extend(left.into_iter().map(|at| (at, false)));
    order
}
