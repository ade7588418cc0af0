#![forbid(unsafe_code)]
//! Owns the question which bitmaps answer for a span between two checkpoints, and whether they can be trusted to.
//! Knows nothing of bits.

use super::create::not_recording;
use super::delete::not_frozen;
use super::stretch::Stretch;
use super::{Chain, Checkpoint, Model, Name, plan};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::geometry::Granularity;
use crate::memory;

/// The bitmaps whose union is the difference between two points in time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Span {
    /// The bitmaps, oldest first. Empty only if `since` and `until` are the same checkpoint: nothing can have changed
    /// between a point in time and itself.
    pub bitmaps: Vec<Name>,
    /// The checkpoint since which.
    pub since: Name,
    /// The checkpoint until which, or now.
    pub until: Option<Name>,
    /// The finest granularity of the span; that of `since`'s bitmap for an empty one.
    pub granularity: Granularity,
    /// The checkpoints that are not older than `since`. A lower layer that knows one of them recorded writes of the span
    /// too. Empty where the span is.
    pub takes_part: Vec<Name>,
}

impl Chain {
    /// Plans the difference between two checkpoints, or since a checkpoint until now.
    ///
    /// Every bitmap of the span has to be consistent. Until now, the last one has to record; one before it that records
    /// too, as libvirt leaves it when a snapshot is committed, holds nothing that is not of the span. Until a checkpoint, all
    /// have to be frozen. Bitmaps outside of the span do not matter. The cumulative model knows "until now" only.
    pub fn plan_diff(&self, since: &[u8], until: Option<&[u8]>) -> Result<Span> {
        self.check_known()?;
        if self.model == Model::Cumulative && until.is_some() {
            return Err(Error::new(
                ErrorKind::Model,
                "cumulative checkpoints have no diff between two of them, only since one until now",
            )
            .advise(WayOut::from("leave out ").control(Control::Until).words(", or keep interval checkpoints")));
        }
        let first = self.position(since)?;
        let end = match (self.model, until) {
            (Model::Cumulative, _) => first + 1,
            (_, None) => self.stretch_of(first).map_or(self.checkpoints.len(), |stretch| stretch.places.end),
            (_, Some(until)) => self.end_of_span(first, until)?,
        };
        let span: &[Checkpoint] = self.checkpoints.get(first..end).unwrap_or_default();
        for (at, part) in span.iter().enumerate() {
            let must_record = until.is_none() && at + 1 == span.len();
            if part.unusable {
                return Err(plan::unusable(&part.bitmap));
            }
            if must_record && !part.recording && self.stretches.len() > 1 {
                return Err(self.gap_after(&part.bitmap));
            }
            if part.inconsistent {
                return Err(plan::inconsistent(&part.bitmap).advise(
                    WayOut::from("take a full backup, then go on with ").control(Control::DeleteAllInconsistent),
                ));
            }
            match (must_record, part.recording) {
                (true, false) => return Err(not_recording(part)),
                (false, true) if until.is_some() => return Err(not_frozen(part)),
                _ => {}
            }
        }
        let finest = span.iter().map(|part| part.granularity).min();
        let own = self.checkpoints.get(first).map(|own| own.granularity);
        let Some(granularity) = finest.or(own) else { return Err(self.not_found(&Name::new(since))) };
        Ok(Span {
            bitmaps: memory::gather(span.iter().map(|part| part.bitmap.clone()))?,
            since: Name::new(since),
            until: until.map(Name::new),
            granularity,
            takes_part: if span.is_empty() { Vec::new() } else { self.not_older_than(first)? },
        })
    }

    /// For each checkpoint, in the order of [`Chain::checkpoints`], whether [`Chain::plan_diff`] answers since it until
    /// now, as far as the chain alone can tell.
    pub fn answer_until_now(&self) -> Result<Vec<bool>> {
        let mut answers = memory::gather(self.checkpoints.iter().map(|_| false))?;
        // Whether the next younger one answers; at the end of a stretch there is none.
        let mut younger = false;
        for (at, (answers, own)) in answers.iter_mut().zip(&self.checkpoints).enumerate().rev() {
            let ends = self.stretch_of(at).is_none_or(|stretch| stretch.places.end == at + 1);
            let goes_on = if ends { own.recording } else { younger };
            *answers = goes_on && !own.inconsistent && !own.unusable;
            younger = *answers;
        }
        Ok(answers)
    }

    /// The place up to which a span goes that begins at the place `first`.
    fn end_of_span(&self, first: usize, until: &[u8]) -> Result<usize> {
        let end = self.position(until)?;
        let (own, other) = (self.stretch_of(first), self.stretch_of(end));
        let is_ordered = own == other || own.is_some_and(|own| own.placed) || other.is_some_and(|other| other.placed);
        if end < first && is_ordered {
            let since = self.checkpoints.get(first).map(|since| since.name.to_string()).unwrap_or_default();
            return Err(Error::new(ErrorKind::Order, format!("{} is older than {since}", Name::new(until)))
                .advise("swap the two"));
        }
        let newest = own.and_then(|own| self.part(own).last());
        match newest.filter(|_| own != other) {
            Some(newest) => Err(self.gap_after(&newest.bitmap)),
            None => Ok(end),
        }
    }

    /// The error for a span that would go on behind the last bitmap before a gap.
    pub(super) fn gap_after(&self, bitmap: &Name) -> Error {
        let message = format!("a gap follows {bitmap}: the bitmap of the next interval is missing");
        let way_out = WayOut::from("what changed cannot be told; take a full backup");
        let last = self.stretches.last().filter(|last| last.placed && self.stretches.len() > 1);
        let way_out = match last.and_then(|last| self.part(last).first()) {
            Some(first) => way_out
                .words(format!(", and begin incremental ones at {} or later; ", first.name))
                .control(Control::DropBefore(first.name.as_bytes().to_vec()))
                .words(" drops what lies before it"),
            None => way_out,
        };
        Error::new(ErrorKind::BrokenChain, message).advise(way_out)
    }

    /// All checkpoints but those that are known to be older than the one at this place, with those that only gaps
    /// mention; in the cumulative model that one alone.
    pub(super) fn not_older_than(&self, at: usize) -> Result<Vec<Name>> {
        let older = self.older_than(at);
        let is_older = |place: usize| older.iter().any(|older| older.contains(&place));
        if self.stretches.is_empty() {
            return Ok(self.names().skip(at).take(1).cloned().collect());
        }
        let own = self.names().enumerate().filter(|(place, _)| !is_older(*place)).map(|(_, name)| name);
        let begins_later = |stretch: &&Stretch| stretch.places.start != at && !is_older(stretch.places.start);
        let missing = self.stretches.iter().filter(begins_later).filter_map(|stretch| stretch.missing.as_ref());
        Ok(memory::gather(own.chain(missing).cloned())?)
    }
}
