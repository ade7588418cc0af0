#![forbid(unsafe_code)]
//! Owns the facts that a diagnosis asks of an image, and the plan of a mend. Must never know what a mend is for.

use super::{Image, Scope};
use crate::bitmap::Bitmap;
use crate::chain::{self, Action, BitmapState, Chain, KnownModel, Model, Name, Plan, Record};
use crate::error::{Error, ErrorKind, Result, WayOut};
use crate::host::UnionRequest;
use crate::memory;
use crate::progress::Observer;
use std::fmt;

/// The bitmaps of a layer, which has this name in messages.
pub(crate) type LayerBitmaps = (String, Vec<BitmapState>);

/// How much too large a past diff becomes when cumulative checkpoints turn into intervals.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Excess {
    /// The checkpoint since which.
    pub since: Name,
    /// The next one.
    pub until: Name,
    /// The bytes of the diff from one to the other.
    pub bytes: u64,
    /// How many of these can have changed only after the next one.
    pub excess_bytes: u64,
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { since, until, bytes, excess_bytes } = self;
        write!(
            f,
            "the diff from {since} until {until} has {bytes} bytes of changes, of which up to {excess_bytes} came only after {until}"
        )
    }
}

/// The way of one image from cumulative checkpoints to intervals.
#[derive(Debug)]
#[non_exhaustive]
pub struct ToInterval {
    /// The steps.
    pub plan: Plan,
    /// The bitmaps that become intervals, oldest first.
    pub bitmaps: Vec<Name>,
    /// What it costs past diffs.
    pub excess: Vec<Excess>,
}

impl Image {
    /// Plans that the cumulative checkpoints of the image become a chain of intervals, see
    /// [`Chain::plan_to_interval`](crate::chain::Chain::plan_to_interval), in the order of `records` where these tell it. Nothing is to
    /// be done where there are no cumulative ones; where both are, it is an error of kind [`ErrorKind::Model`].
    ///
    /// The bits of all of them are read: where one misses a block that a younger one has, it lost changes, which the intervals would hide,
    /// and it is an error of kind [`ErrorKind::Inconsistent`].
    pub fn plan_to_interval(
        &self,
        records: &[Record],
        model: Option<KnownModel>,
        observer: &mut dyn Observer,
    ) -> Result<ToInterval> {
        self.check_writable()?;
        let mut overview = self.overview(model, Scope::Checkpoints, observer)?;
        if let Ok(chain) = &mut overview.chain {
            chain.follow(records)?;
        }
        let chain = overview.chain.as_ref().map_err(Error::clone)?;
        chain.check_known().map_err(|error| self.name_it(error))?;
        if chain.model() != Model::Cumulative {
            if overview.beside.is_some() {
                let message = "there is a chain of intervals already, beside the cumulative checkpoints";
                let error =
                    Error::new(ErrorKind::Model, message).advise("delete the checkpoints of one of the two first");
                return Err(self.name_it(error));
            }
            let plan = self.finish(Ok(Plan::default()))?;
            return Ok(ToInterval { plan, bitmaps: Vec::new(), excess: Vec::new() });
        }
        let names = memory::gather(chain.checkpoints().iter().map(|own| own.name.clone()))?;
        self.check_layers(&names)?;
        let plan = self.finish(chain.plan_to_interval())?;
        self.check_contained(chain, observer)?;
        let dirty = |name: &Name| overview.summary(name).dirty_bytes.unwrap_or(self.virtual_size());
        let pairs = chain.checkpoints().iter().zip(chain.checkpoints().iter().skip(1));
        let excess = pairs.map(|(own, next)| Excess {
            since: own.name.clone(),
            until: next.name.clone(),
            bytes: dirty(&own.bitmap),
            excess_bytes: dirty(&next.bitmap),
        });
        let bitmaps = memory::gather(chain.checkpoints().iter().map(|own| own.bitmap.clone()))?;
        Ok(ToInterval { plan, bitmaps, excess: memory::gather(excess)? })
    }

    /// Refuses where a cumulative bitmap misses a block that the next younger one has. The younger one is read first: both record, so a
    /// write between the two readings can only be in the older one alone.
    fn check_contained(&self, chain: &Chain, observer: &mut dyn Observer) -> Result<()> {
        let checkpoints = chain.checkpoints();
        if checkpoints.len() < 2 {
            return Ok(());
        }
        let coarsest = checkpoints.iter().map(|own| own.granularity).max();
        let mut younger: Option<(&Name, Bitmap)> = None;
        for own in checkpoints.iter().rev() {
            // A block of the finer one says only that something in the block of the coarser one changed.
            let granularity = coarsest.unwrap_or(own.granularity);
            let request = UnionRequest::new(std::slice::from_ref(&own.bitmap), granularity);
            let bits = self.steady(|| self.united(&request, observer))?;
            if let Some((name, younger)) = &younger
                && !younger.is_subset(&bits)?
            {
                let message = format!("{} misses blocks that the younger {name} has: it lost changes", own.bitmap);
                return Err(self.name_it(
                    Error::new(ErrorKind::Inconsistent, message)
                        .advise(WayOut::from("make a full backup, and drop it with ").control(own.bitmap.drop_it())),
                ));
            }
            younger = Some((&own.bitmap, bits));
        }
        Ok(())
    }

    /// The bitmaps; one that cannot be trusted for the place where it lies counts as inconsistent.
    pub(crate) fn bitmaps_surveyed(&self, observer: &mut dyn Observer) -> Result<Vec<BitmapState>> {
        self.steady(|| if self.trouble().is_some() { self.states() } else { self.surveyed(observer) })
    }

    /// The bitmaps of each layer below, the nearest first.
    pub(crate) fn bitmaps_below(&self) -> Result<Vec<LayerBitmaps>> {
        let mut below = Vec::new();
        if self.has_layers() {
            for layer in self.layers_below(&[])?.layers {
                let is_stale = layer.host.trouble().is_some();
                let mark = |state: BitmapState| BitmapState { inconsistent: state.inconsistent || is_stale, ..state };
                let states = memory::gather(layer.host.bitmaps().map(mark))?;
                memory::push(&mut below, (layer.label, states))?;
            }
        }
        Ok(below)
    }

    /// Whether a running program keeps the bitmaps, so that reading their bits disturbs it.
    pub(crate) fn is_live(&self) -> bool {
        self.host.is_live()
    }

    /// Plans actions that a diagnosis came to.
    pub(crate) fn plan_mend(&self, actions: &[Action]) -> Result<Plan> {
        self.check_writable()?;
        self.finish(chain::plan_actions(&self.states()?, actions))
    }
}
