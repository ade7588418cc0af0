#![forbid(unsafe_code)]
//! Owns the question which bitmaps answer for a span between two checkpoints, and whether they can be trusted to.
//! Knows nothing of bits.

use super::create::not_recording;
use super::delete::not_frozen;
use super::{Chain, Checkpoint, Model, Name, plan};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::geometry::Granularity;

/// The bitmaps whose union is the difference between two points in time.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

impl Chain {
    /// Plans the difference between two checkpoints, or since a checkpoint until now.
    ///
    /// Every bitmap of the span has to be consistent. Until now, the last one has to record; all others of the span
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
            (_, None) => self.checkpoints.len(),
            (_, Some(until)) => self.position(until)?,
        };
        if end < first {
            let until = Name::new(until.unwrap_or_default());
            return Err(Error::new(ErrorKind::Order, format!("{until} is older than {}", Name::new(since)))
                .advise("swap the two"));
        }
        let span: Vec<&Checkpoint> = self.checkpoints.iter().skip(first).take(end - first).collect();
        for (at, part) in span.iter().enumerate() {
            let must_record = until.is_none() && at + 1 == span.len();
            if part.unusable {
                return Err(plan::unusable(&part.bitmap));
            }
            if part.inconsistent {
                return Err(plan::inconsistent(&part.bitmap).advise(
                    WayOut::from("take a full backup, then go on with ").control(Control::DeleteAllInconsistent),
                ));
            }
            match (must_record, part.recording) {
                (true, false) => return Err(not_recording(part)),
                (false, true) => return Err(not_frozen(part)),
                _ => {}
            }
        }
        let finest = span.iter().map(|part| part.granularity).min();
        let own = self.checkpoints.get(first).map(|own| own.granularity);
        let Some(granularity) = finest.or(own) else { return Err(self.not_found(&Name::new(since))) };
        Ok(Span {
            bitmaps: span.iter().map(|part| part.bitmap.clone()).collect(),
            since: Name::new(since),
            until: until.map(Name::new),
            granularity,
        })
    }
}
