#![forbid(unsafe_code)]
//! Owns the way of an image's checkpoints into a layer below it, before or after its data are committed there. Must never
//! know how a layer is found.

use super::layers::Layer;
use super::stacked::{Stacked, check_trusted, fitted, marked};
use super::{Access, Image};
use crate::bitmap::Bitmap;
use crate::chain::{Action, CommitPlan, Taken};
use crate::error::{Error, ErrorKind, Result};
use crate::host::{Fill, UnionRequest};
use crate::memory;
use crate::progress::{Observer, tell};

/// What a layer took in, or would take in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Committed {
    /// The actions on its bitmaps, in their order.
    pub actions: Vec<Action>,
    /// For each bitmap that gets bits from the layers above, a sentence.
    pub taken: Vec<String>,
    /// Warnings for the caller's user, one sentence each.
    pub warnings: Vec<String>,
}

impl Committed {
    /// Whether there was nothing to do.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty() && self.taken.is_empty()
    }
}

/// The change of the base, worked out.
struct Change {
    committed: Committed,
    fills: Vec<Fill>,
}

impl Image {
    /// Lets `base`, a layer below this image, take in the checkpoints and the bits of all layers above it, in one step of
    /// that file: afterwards every diff of `base` contains that of this image.
    ///
    /// It can be called before or after the data are committed there, and again: bits are only added. The layers
    /// above are not changed. Fails with [`ErrorKind::BackingLayer`] where `base` is no layer below this image, or a layer
    /// cannot be read; with [`ErrorKind::Model`] for cumulative checkpoints; and as [`Image::commit`] does.
    pub fn commit_bitmaps(&self, base: &mut Image, observer: &mut dyn Observer) -> Result<Committed> {
        if base.options.access != Access::Write {
            let read_only = Error::new(ErrorKind::ReadOnly, "was not opened for writing");
            return Err(base.name_it(read_only.advise("open it for writing").nothing_changed()));
        }
        // The layers between stay locked until the step is done.
        let stacked = self.stacked_above(base).map_err(Error::nothing_changed)?;
        let Change { mut committed, fills } =
            self.commit_into(&stacked, base, observer).map_err(Error::nothing_changed)?;
        if committed.is_empty() {
            return Ok(committed);
        }
        base.look().map_err(Error::nothing_changed)?;
        let applied = base.host.apply_filled(&committed.actions, &fills, observer);
        let mut warnings = base.note_change(applied)?;
        committed.warnings.append(&mut warnings);
        Ok(committed)
    }

    /// What [`Image::commit_bitmaps`] would do; everything is tried but the writing.
    pub fn rehearse_commit_bitmaps(&self, base: &Image, observer: &mut dyn Observer) -> Result<Committed> {
        let stacked = self.stacked_above(base)?;
        let Change { mut committed, fills } = self.commit_into(&stacked, base, observer)?;
        if !committed.is_empty() {
            let rehearsed = base.host.rehearse_filled(&committed.actions, &fills, observer);
            committed.warnings.append(&mut base.rehearsed(rehearsed)?);
        }
        Ok(committed)
    }

    /// The image with its layers, of which `base` is open already.
    fn stacked_above(&self, base: &Image) -> Result<Stacked<'_>> {
        self.check_readable()?;
        base.check_writable()?;
        let ours = base.storage.as_ref().and_then(|storage| storage.file_id());
        self.stacked(None, true, ours.as_slice())
    }

    fn commit_into(&self, stacked: &Stacked<'_>, base: &Image, observer: &mut dyn Observer) -> Result<Change> {
        let id = base.storage.as_ref().and_then(|storage| storage.file_id());
        let member = base.host.membership();
        let is_base = |layer: &Layer| match (&member, layer.host.membership()) {
            (Some(base), Some(own)) => base.shares_with(&own) && base.disk == own.disk,
            _ => layer.id.is_some() && layer.id == id,
        };
        let place = stacked.below.layers.iter().position(is_base);
        let Some(place) = place else {
            let message = format!("{} is no layer below it", base.path.display());
            return Err(self.name_it(
                Error::new(ErrorKind::BackingLayer, message).advise("`qemu-img info` names the file below each image"),
            ));
        };
        let CommitPlan { actions, taken } =
            stacked.stack.plan_commit(place + 1).map_err(|error| self.name_it(error))?;
        let mut committed = Committed { actions, ..Committed::default() };
        let mut fills = Vec::new();
        let total = taken.len() as u64;
        for (done, taken) in (0..).zip(&taken) {
            tell(observer, "gathering bits", done, total)?;
            let Some(fill) = self.fill(stacked, base, taken, observer)? else { continue };
            let bytes = fill.bits.dirty_bytes();
            memory::push(&mut committed.taken, format!("merge {bytes} bytes of the layers above into {}", fill.name))?;
            memory::push(&mut fills, fill)?;
        }
        let sizes = stacked.below.layers.iter().take(place).map(|layer| layer.host.facts().size_bytes);
        if sizes.chain([self.virtual_size()]).any(|size| size > base.virtual_size()) && !committed.is_empty() {
            committed.warnings.push(format!(
                "a layer above is larger than the base of {} bytes: what changed behind its end is recorded when the data \
                 are committed",
                base.virtual_size()
            ));
        }
        stacked.check_unchanged()?;
        Ok(Change { committed, fills })
    }

    /// The bits that a bitmap of the base takes in; `None` where it has them all.
    fn fill(
        &self,
        stacked: &Stacked<'_>,
        base: &Image,
        taken: &Taken,
        observer: &mut dyn Observer,
    ) -> Result<Option<Fill>> {
        let Some(into) = &taken.into else { return Ok(None) };
        let size_bytes = base.virtual_size();
        let mut all: Vec<Bitmap> = Vec::new();
        for (layer, name) in &taken.bitmaps {
            let bits = stacked.read_bitmap(*layer, name, observer)?;
            memory::push(&mut all, bits)?;
        }
        for layer in &taken.allocations {
            let held = stacked.allocated(*layer, 0, u64::MAX, observer);
            memory::push(&mut all, held.map_err(|error| stacked.named(*layer, error))?)?;
        }
        for bits in &mut all {
            bits.resize(size_bytes)?;
        }
        for range in &taken.cut_off {
            let granularity = all.first().map_or(base.default_granularity()?, Bitmap::granularity);
            memory::push(&mut all, marked(range, size_bytes, granularity)?)?;
        }
        let Some(finest) = all.iter().map(Bitmap::granularity).min() else { return Ok(None) };
        let bits = Bitmap::union_many_with(&memory::gather(&all)?, Some(finest), self.options.threads)?;
        let known = base.host.bitmap(into).map_err(|error| base.name_it(error))?;
        let is_known = match known {
            Some(_) => bits.is_subset(&base.load(into, 0, u64::MAX)?)?,
            None => bits.is_empty(),
        };
        Ok((!is_known).then(|| Fill::new(into.clone(), bits)))
    }
}

impl Stacked<'_> {
    /// One bitmap of a layer, of that layer's size.
    pub(super) fn read_bitmap(
        &self,
        layer: usize,
        name: &crate::chain::Name,
        observer: &mut dyn Observer,
    ) -> Result<Bitmap> {
        let read = |observer: &mut dyn Observer| {
            let host = self.host(layer)?;
            check_trusted(host, name, observer)?;
            let Some(state) = host.bitmap(name)? else {
                return Err(Error::new(ErrorKind::NotFound, format!("no bitmap is named {name}")));
            };
            let request = UnionRequest::new(std::slice::from_ref(name), state.granularity);
            let own_bytes = host.facts().size_bytes;
            fitted(host.union(&request, observer)?, own_bytes, own_bytes)
        };
        read(observer).map_err(|error| self.named(layer, error))
    }
}
