#![forbid(unsafe_code)]
//! Owns the question which bitmaps of which layers answer for a span, and which layers count with their allocation. Knows
//! nothing of bits.

use super::super::create::not_recording;
use super::super::delete::not_frozen;
use super::super::{Chain, Checkpoint, Model, Name, plan};
use super::{Read, Stack, insist};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::geometry::Granularity;
use crate::memory;
use std::collections::BTreeSet;
use std::ops::Range;

/// The parts of several layers whose union is the difference between two points in time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StackSpan {
    /// What each layer that takes part adds, the top one first. Empty only if `since` and `until` are the same checkpoint.
    pub parts: Vec<Part>,
    /// The checkpoint since which.
    pub since: Name,
    /// The checkpoint until which, or now.
    pub until: Option<Name>,
    /// The finest granularity of the bitmaps of the span.
    pub granularity: Granularity,
}

/// The part that one layer adds to a span.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Part {
    /// The layer; the top one is 0.
    pub layer: usize,
    /// Its bitmaps, oldest first.
    pub bitmaps: Vec<Name>,
    /// Whether all counts that the layer holds itself: it was put on top within the span, and no bitmap can prove that it
    /// recorded from the first write on.
    pub allocation: bool,
    /// The bytes of the disk that changed because this layer ends before one below it: they read as zeros since it was put on
    /// top.
    pub cut_off: Range<u64>,
}

/// A span in the making.
struct Draft<'a> {
    parts: Vec<Part>,
    finest: Option<Granularity>,
    stack: &'a Stack,
}

impl Stack {
    /// Plans the difference between two checkpoints of the disk, or since a checkpoint until now.
    ///
    /// The lowest layer that knows the checkpoint, or one that is not older, answers from its bitmaps, which have to be there
    /// without a gap, consistent, and recording at their end. Every layer above was put on top later: it adds its bitmaps
    /// and its allocation, unless its own bitmaps tell the two sides of the checkpoint apart. Layers below were
    /// frozen before.
    pub fn plan_diff(&self, since: &[u8], until: Option<&[u8]>) -> Result<StackSpan> {
        let top = self.top()?;
        let (since, until) = (Name::new(since), until.map(Name::new));
        if self.model == Model::Cumulative && until.is_some() {
            top.plan_diff(since.as_bytes(), until.as_ref().map(Name::as_bytes))?;
        }
        let known = self.not_older_than(&since)?;
        self.refuse_unreadable(&known)?;
        let lowest = self.lowest(&known).ok_or_else(|| self.not_found(&since))?;
        if until.as_ref() == Some(&since) {
            let own = self.layers.iter().rev().find_map(|layer| layer.own(&since));
            let granularity = own.ok_or_else(|| self.not_found(&since))?.granularity;
            return Ok(StackSpan { parts: Vec::new(), since, until, granularity });
        }
        let after = match &until {
            None => None,
            Some(until) => Some(self.end_of_span(&since, until, &known)?),
        };
        let mut draft = Draft { parts: Vec::new(), finest: None, stack: self };
        match self.model {
            Model::Cumulative => draft.cumulative(&since, lowest)?,
            _ => draft.interval(&since, lowest, until.as_ref(), after.as_ref())?,
        }
        let Draft { mut parts, finest, .. } = draft;
        parts.sort_by_key(|part| part.layer);
        let granularity = finest.ok_or_else(|| self.not_found(&since))?;
        Ok(StackSpan { parts, since, until, granularity })
    }

    /// The checkpoint `until` and all that are not older, where it is known to be younger than `since`.
    fn end_of_span(&self, since: &Name, until: &Name, known: &BTreeSet<Name>) -> Result<BTreeSet<Name>> {
        if !self.layers.iter().any(|layer| layer.own(until).is_some()) {
            return Err(self.not_found(until));
        }
        let after = self.not_older_than(until)?;
        if after.contains(since) && !known.contains(until) {
            return Err(Error::new(ErrorKind::Order, format!("{until} is older than {since}")).advise("swap the two"));
        }
        // Of two that nothing links, the one that only upper layers know is the younger.
        let (of_until, of_since) = (self.lowest(&after), self.lowest(known));
        if !known.contains(until) && of_until > of_since {
            return Err(Error::new(ErrorKind::Order, format!("{until} is older than {since}")).advise("swap the two"));
        }
        if !known.contains(until) && of_until == of_since {
            // In the chain of one layer this has a better reason.
            for layer in &self.layers {
                if let Ok(chain) = &layer.chain
                    && let (Some(_), Some(_)) = (layer.own(since), layer.own(until))
                {
                    chain.plan_diff(since.as_bytes(), Some(until.as_bytes()))?;
                }
            }
            let message = format!("nothing links {since} and {until}, which are checkpoints of different layers");
            return Err(Error::new(ErrorKind::BrokenChain, message)
                .advise(WayOut::from("ask without ").control(Control::Until)));
        }
        self.refuse_unreadable(&after)?;
        Ok(after)
    }

    /// The bytes that read as zeros since `layer` was put on top, as it ends before a layer down to `lowest` does.
    pub(super) fn cut_off(&self, layer: usize, lowest: usize) -> Range<u64> {
        let size = |layer: usize| self.layers.get(layer).map_or(0, |layer| layer.size_bytes);
        let below = (layer + 1..=lowest).map(size).max().unwrap_or_default();
        size(layer)..below.min(size(0)).max(size(layer))
    }
}

impl Read {
    /// The checkpoint of this name.
    pub(super) fn own(&self, name: &Name) -> Option<&Checkpoint> {
        self.chain.as_ref().ok()?.checkpoint(name.as_bytes())
    }
}

impl Draft<'_> {
    fn add(&mut self, layer: usize, from: &[&Checkpoint], allocation: bool, cut_off: Range<u64>) -> Result<()> {
        for own in from {
            check(own).map_err(|error| self.stack.in_layer(layer, error))?;
            self.finest = self.finest.into_iter().chain([own.granularity]).min();
        }
        let bitmaps = memory::gather(from.iter().map(|own| own.bitmap.clone()))?;
        if bitmaps.is_empty() && !allocation && cut_off.is_empty() {
            return Ok(());
        }
        Ok(memory::push(&mut self.parts, Part { layer, bitmaps, allocation, cut_off })?)
    }

    fn cumulative(&mut self, since: &Name, lowest: usize) -> Result<()> {
        let stack = self.stack;
        for (layer, read) in stack.layers.iter().enumerate().take(lowest + 1) {
            let own = read.own(since);
            if let Some(silent) = own.filter(|own| !own.recording) {
                return Err(self.stack.in_layer(layer, not_recording(silent)));
            }
            let own: Vec<&Checkpoint> = own.into_iter().collect();
            self.add(layer, &own, layer < lowest, stack.cut_off(layer, lowest))?;
        }
        Ok(())
    }

    fn interval(
        &mut self,
        since: &Name,
        lowest: usize,
        until: Option<&Name>,
        after: Option<&BTreeSet<Name>>,
    ) -> Result<()> {
        let stack = self.stack;
        let Some(bottom) = stack.layers.get(lowest) else { return Ok(()) };
        let chain = bottom.chain.as_ref().map_err(Error::clone)?;
        let first = match chain.place_of(since) {
            Some(at) => at,
            None => self.place_before(since, lowest, chain)?,
        };
        // A copy whose original is gone: what that one recorded went into the checkpoint before it, or into this layer.
        let missing = chain.missing_before(first).filter(|_| stack.stands_on(lowest));
        if let Some(before) = missing {
            let only = BTreeSet::from([before.clone()]);
            if stack.is_known_below(lowest, &only) {
                let known = stack.not_older_than(before)?;
                stack.refuse_unreadable(&known)?;
                let below = stack.lowest(&known).unwrap_or(lowest);
                if below > lowest {
                    return self.interval(before, below, until, after);
                }
            }
        }
        let part = self.own_part(chain, first, lowest, until)?;
        self.add(lowest, &part, missing.is_some(), 0..0)?;

        for (layer, read) in stack.layers.iter().enumerate().take(lowest).rev() {
            let chain = read.chain.as_ref().map_err(|error| self.stack.in_layer(layer, error.clone()))?;
            let exact = chain.place_of(since).filter(|at| chain.neighbours(*at).0.is_some());
            // Whether this layer was put on top after the end of the span.
            let is_later = after.is_some_and(|after| stack.is_known_below(layer, after));
            let mut part = Vec::new();
            for (at, own) in chain.checkpoints().iter().enumerate().skip(exact.unwrap_or_default()) {
                let is_in = match (until, after) {
                    (Some(until), Some(after)) => {
                        !after.contains(&own.name) && (!is_later || stack.is_older(&own.name, until)?)
                    }
                    _ => true,
                };
                if is_in {
                    let ends = at + 1 == chain.checkpoints().len();
                    if own.recording && !ends && until.is_some() {
                        return Err(self.stack.in_layer(layer, not_frozen(own)));
                    }
                    if !own.recording && ends && layer == 0 && until.is_none() {
                        return Err(not_recording(own));
                    }
                    memory::push(&mut part, own)?;
                }
            }
            let is_whole = exact.is_none() && !is_later;
            let cut_off = if is_whole { stack.cut_off(layer, lowest) } else { 0..0 };
            self.add(layer, &part, is_whole, cut_off)?;
        }
        Ok(())
    }

    /// The checkpoints of the lowest layer of a span, from the place `first` on.
    fn own_part<'c>(
        &self,
        chain: &'c Chain,
        first: usize,
        layer: usize,
        until: Option<&Name>,
    ) -> Result<Vec<&'c Checkpoint>> {
        let all = chain.checkpoints();
        let Some(from) = all.get(first) else { return Ok(Vec::new()) };
        let in_layer = |error: Error| self.stack.in_layer(layer, error);
        // Until the end of the layer, or until a checkpoint that it knows: the chain of the layer answers that.
        let until = until.filter(|until| chain.place_of(until).is_some_and(|at| at > first));
        let span = chain.plan_diff(from.name.as_bytes(), until.map(|until| until.as_bytes())).map_err(in_layer)?;
        if until.is_none() && first + span.bitmaps.len() < all.len() {
            return Err(in_layer(chain.gap_after(span.bitmaps.last().unwrap_or(&from.bitmap))));
        }
        Ok(memory::gather(all.iter().skip(first).take(span.bitmaps.len()))?)
    }

    /// The place of a checkpoint from which on a layer recorded without a gap, and that is older than `since`, which the
    /// layer does not have itself.
    fn place_before(&self, since: &Name, layer: usize, chain: &Chain) -> Result<usize> {
        for (at, own) in chain.checkpoints().iter().enumerate().rev() {
            if self.stack.is_older(&own.name, since)? {
                return Ok(at);
            }
        }
        let known = self.stack.not_older_than(since)?;
        let read = self.stack.layers.get(layer);
        let knows = read.and_then(|read| read.mentions.iter().find(|mention| known.contains(*mention)));
        let message = format!(
            "the layer {} below it knows the checkpoint {} too, but not all that was written there since {since}",
            read.map(|read| read.label.as_str()).unwrap_or_default(),
            knows.unwrap_or(since)
        );
        Err(Error::new(ErrorKind::BackingLayer, message).advise(insist()))
    }
}

fn check(own: &Checkpoint) -> Result<()> {
    if own.unusable {
        return Err(plan::unusable(&own.bitmap));
    }
    if own.inconsistent {
        return Err(plan::inconsistent(&own.bitmap)
            .advise(WayOut::from("take a full backup, then go on with ").control(Control::DeleteAllInconsistent)));
    }
    Ok(())
}

impl Chain {
    /// The place of this checkpoint; `None` where it has no bitmap here.
    pub(super) fn place_of(&self, name: &Name) -> Option<usize> {
        self.checkpoints.iter().position(|own| own.name == *name)
    }

    /// The place of this checkpoint, or of the first after it where only a gap mentions it.
    pub(super) fn place_known(&self, name: &Name) -> Option<usize> {
        let gap = |name: &Name| self.stretches.iter().find(|stretch| stretch.missing.as_ref() == Some(name));
        self.place_of(name).or_else(|| gap(name).map(|stretch| stretch.places.start))
    }
}
