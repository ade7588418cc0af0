#![forbid(unsafe_code)]
//! Owns the order of cumulative checkpoints, which nothing stores: an older bitmap contains the younger ones. Knows
//! bits only through the questions it asks.

use super::{Chain, Checkpoint, Model, Name};
use crate::error::Result;
use crate::memory;
use std::cmp::Reverse;
use std::collections::HashMap;

/// What the order of cumulative checkpoints asks of their bitmaps.
pub trait Contents {
    /// How many bytes are dirty in `bitmap`; `None` where its content cannot be known, as of an inconsistent one.
    fn dirty_bytes(&mut self, bitmap: &Name) -> Result<Option<u64>>;

    /// Whether every dirty byte of `small` is dirty in `large`. Asked only of two bitmaps whose content is known, where
    /// `large` has as many dirty bytes as `small` or more.
    fn contains(&mut self, large: &Name, small: &Name) -> Result<bool>;
}

/// No more chains than these are kept, so that the work for many bitmaps stays in proportion to their number. Only where
/// more bitmaps than these lie side by side, none inside another, some of them count as not comparable without a look.
const MOST_CHAINS: usize = 256;

/// A content is compared with no more of the same size than these. If an equal one is missed, both stand apart: then
/// more is compared, and the answer is the same.
const MOST_EQUALS: usize = 16;

impl Chain {
    /// Whether the place of every checkpoint is known, see [`Checkpoint::ordered`].
    pub fn is_ordered(&self) -> bool {
        self.checkpoints.iter().all(|checkpoint| checkpoint.ordered)
    }

    /// Orders cumulative checkpoints, oldest first; does nothing in other models.
    ///
    /// The order puts `a` before `b` where the bitmap of `a` strictly contains that of `b`, and takes the smallest name
    /// wherever containment leaves a choice, so it does not depend on the order in which the bitmaps were read.
    ///
    /// Bitmaps of which each contains the next take one comparison each. Where they are not comparable it takes more,
    /// but never more than some thousands for each bitmap: of more than 256 that lie side by side, some may count as not
    /// comparable to others without being compared.
    pub fn order_cumulative(&mut self, contents: &mut dyn Contents) -> Result<()> {
        if self.model != Model::Cumulative {
            return Ok(());
        }
        self.checkpoints.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut known: Vec<(u64, usize)> = memory::room(self.checkpoints.len())?;
        let mut order = Order::default();
        for (at, checkpoint) in self.checkpoints.iter().enumerate() {
            match contents.dirty_bytes(&checkpoint.bitmap)? {
                Some(dirty_bytes) => known.push((dirty_bytes, at)),
                None => order.add_unknown(at)?,
            }
        }
        known.sort_unstable_by_key(|&(dirty_bytes, at)| (Reverse(dirty_bytes), at));
        for (dirty_bytes, at) in known {
            let name = |at: usize| self.checkpoints.get(at).map(|checkpoint| &checkpoint.bitmap);
            order.add(at, dirty_bytes, &mut |large, small| match (name(large), name(small)) {
                (Some(large), Some(small)) => contents.contains(large, small),
                _ => Ok(false),
            })?;
        }
        let others = self.checkpoints.len().saturating_sub(1);
        let sorted = order.finish()?.into_iter().filter_map(|(at, comparable)| {
            let checkpoint = self.checkpoints.get(at)?.clone();
            Some(Checkpoint { ordered: comparable == others, ..checkpoint })
        });
        self.checkpoints = memory::gather(sorted)?;
        self.note_places()
    }
}

/// Checkpoints whose bitmaps are equal.
#[derive(Debug)]
struct Class {
    members: Vec<usize>,
    /// `None` where the content is not known: then it contains nothing, and nothing contains it.
    dirty_bytes: Option<u64>,
    /// The smallest class that contains this one in each chain that has such a class: chain, and number in it.
    inside: Vec<(usize, usize)>,
}

/// Classes that were added with the largest first, in chains of which each class contains the next.
///
/// As a chain is sorted, a binary search finds which of its classes contain another: the work for a class is that of the
/// number of chains, not of classes.
#[derive(Debug, Default)]
struct Order {
    classes: Vec<Class>,
    /// The numbers of classes, the largest first.
    chains: Vec<Vec<usize>>,
}

type Contains<'a> = &'a mut dyn FnMut(usize, usize) -> Result<bool>;

impl Order {
    fn add_unknown(&mut self, checkpoint: usize) -> Result<()> {
        let class = Class { members: vec![checkpoint], dirty_bytes: None, inside: Vec::new() };
        Ok(memory::push(&mut self.classes, class)?)
    }

    /// Adds a checkpoint whose bitmap is not larger than those that were added before.
    fn add(&mut self, checkpoint: usize, dirty_bytes: u64, contains: Contains<'_>) -> Result<()> {
        let same_size = self.classes.iter_mut().rev().take_while(|class| class.dirty_bytes == Some(dirty_bytes));
        for class in same_size.take(MOST_EQUALS) {
            if let Some(&member) = class.members.first()
                && contains(member, checkpoint)?
            {
                return Ok(memory::push(&mut class.members, checkpoint)?);
            }
        }
        let (mut inside, mut tail_of) = (Vec::new(), None);
        for (number, chain) in self.chains.iter().enumerate() {
            let count = self.containing(chain, checkpoint, dirty_bytes, contains)?;
            memory::extend(&mut inside, count.checked_sub(1).map(|last| (number, last)))?;
            if tail_of.is_none() && count == chain.len() {
                tail_of = Some(number);
            }
        }
        let class = self.classes.len();
        let new = Class { members: vec![checkpoint], dirty_bytes: Some(dirty_bytes), inside };
        memory::push(&mut self.classes, new)?;
        let has_room = self.chains.len() < MOST_CHAINS;
        match tail_of.and_then(|number| self.chains.get_mut(number)) {
            Some(chain) => memory::push(chain, class)?,
            None if has_room => memory::push(&mut self.chains, vec![class])?,
            None => {}
        }
        Ok(())
    }

    /// How many classes of a chain strictly contain a checkpoint: the first ones.
    fn containing(
        &self,
        chain: &[usize],
        checkpoint: usize,
        dirty_bytes: u64,
        contains: Contains<'_>,
    ) -> Result<usize> {
        let (mut low, mut high) = (0, chain.len());
        // Most often it is all of them.
        let mut middle = high.saturating_sub(1);
        while low < high {
            let class = chain.get(middle).and_then(|&class| self.classes.get(class));
            let is_inside = match class.and_then(|class| Some((class.dirty_bytes?, *class.members.first()?))) {
                Some((larger, member)) if larger > dirty_bytes => contains(member, checkpoint)?,
                _ => false,
            };
            match is_inside {
                true => low = middle + 1,
                false => high = middle,
            }
            middle = low.midpoint(high);
        }
        Ok(low)
    }

    /// The checkpoints in order, each with the number of those that its place is known against.
    fn finish(&self) -> Result<Vec<(usize, usize)>> {
        let comparable = self.comparable()?;
        // What a class waits for, and what waits for it.
        let mut waits = memory::gather(self.classes.iter().map(|class| class.inside.len()))?;
        let mut waiting: HashMap<usize, Vec<usize>> = HashMap::new();
        for (number, class) in self.classes.iter().enumerate() {
            for &(chain, place) in &class.inside {
                let outer = self.chains.get(chain).and_then(|chain| chain.get(place));
                waiting.try_reserve(1)?;
                memory::push(waiting.entry(outer.copied().unwrap_or_default()).or_default(), number)?;
            }
        }
        let members = |number: usize| {
            let members = self.classes.get(number).map(|class| class.members.as_slice()).unwrap_or_default();
            members.iter().map(move |&checkpoint| (checkpoint, number))
        };
        let mut left = memory::gather(self.classes.iter().map(|class| class.members.len()))?;
        let unhindered = waits.iter().enumerate().filter(|(_, wait)| **wait == 0);
        let mut free = memory::sorted_set(unhindered.flat_map(|(number, _)| members(number)));
        let mut order = memory::room(left.iter().sum())?;
        while let Some((checkpoint, class)) = free.pop_first() {
            order.push((checkpoint, comparable.get(class).copied().unwrap_or_default()));
            let Some(left @ 1..) = left.get_mut(class) else { continue };
            *left -= 1;
            if *left > 0 {
                continue;
            }
            for inner in waiting.remove(&class).unwrap_or_default() {
                if let Some(wait @ 1..) = waits.get_mut(inner) {
                    *wait -= 1;
                    if *wait == 0 {
                        free.extend(members(inner));
                    }
                }
            }
        }
        Ok(order)
    }

    /// For each class, how many checkpoints contain it or lie in it.
    fn comparable(&self) -> Result<Vec<usize>> {
        let weight = |class: usize| self.classes.get(class).map_or(0, |class| class.members.len());
        // For each place of a chain, the checkpoints up to it, and those of which it is the smallest class around them.
        let mut outer: Vec<Vec<usize>> = memory::room(self.chains.len())?;
        for chain in &self.chains {
            let sums = chain.iter().scan(0, |sum, &class| {
                *sum += weight(class);
                Some(*sum)
            });
            outer.push(memory::gather(sums)?);
        }
        let mut inner: Vec<Vec<usize>> = memory::room(self.chains.len())?;
        for chain in &self.chains {
            inner.push(memory::zeroed(chain.len())?);
        }
        let mut comparable = memory::zeroed(self.classes.len())?;
        for (class, sum) in self.classes.iter().zip(&mut comparable) {
            for &(chain, place) in &class.inside {
                *sum += outer.get(chain).and_then(|sums| sums.get(place)).copied().unwrap_or_default();
                if let Some(inner) = inner.get_mut(chain).and_then(|inner| inner.get_mut(place)) {
                    *inner += class.members.len();
                }
            }
        }
        for (chain, inner) in self.chains.iter().zip(&inner) {
            let mut sum = 0;
            for (&class, inside) in chain.iter().zip(inner).rev() {
                sum += inside;
                if let Some(comparable) = comparable.get_mut(class) {
                    *comparable += sum;
                }
            }
        }
        Ok(comparable)
    }
}
