#![forbid(unsafe_code)]
//! Owns a disk of several layers as an image reads it: the bits of a checkpoint gathered from all layers that took part, and
//! what each of them holds itself. Must never know how a layer is found.

use super::layers::LayersBelow;
use super::{DiffRequest, Image};
use crate::bitmap::Bitmap;
use crate::chain::{BitmapState, KnownModel, Layer, Name, Part, Stack, StackSpan};
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::Granularity;
use crate::host::{Host, UnionRequest};
use crate::io::FileId;
use crate::memory;
use crate::progress::{Observer, Unobserved};
use std::path::Path;

/// An image together with the layers below it, as they were read.
pub(super) struct Stacked<'a> {
    image: &'a Image,
    pub(super) below: LayersBelow,
    pub(super) stack: Stack,
}

impl Image {
    /// Whether anything lies below the image.
    pub(super) fn has_layers(&self) -> bool {
        self.host.facts().backing.is_some()
    }

    /// The image and the layers below it. `surveyed` says whether bitmaps count as inconsistent that cannot be trusted for
    /// the place where they lie: else they are refused when they are read. The file `ours` is locked already.
    pub(super) fn stacked(&self, insist: Option<KnownModel>, surveyed: bool, ours: &[FileId]) -> Result<Stacked<'_>> {
        let below = self.layers_below(ours)?;
        let mut layers = memory::room(below.layers.len() + 1)?;
        let own = if surveyed { self.surveyed(&mut Unobserved)? } else { self.states()? };
        layers.push(Layer::new(self.path.display().to_string(), own, self.virtual_size()));
        for layer in &below.layers {
            let states = states_of(&*layer.host, surveyed).map_err(|error| error.in_file(Path::new(&layer.label)))?;
            layers.push(Layer::new(layer.label.clone(), states, layer.host.facts().size_bytes));
        }
        let stack = Stack::read(&layers, below.stands_on_more, insist).map_err(|error| self.name_it(error))?;
        Ok(Stacked { image: self, below, stack })
    }
}

/// The bitmaps of a layer below, of which none counts that is out of date.
fn states_of(host: &dyn Host, surveyed: bool) -> Result<Vec<BitmapState>> {
    let mut states = memory::gather(host.bitmaps())?;
    let is_stale = host.trouble().is_some();
    for state in &mut states {
        let doubt = match surveyed && !is_stale {
            true => host.doubt(&state.name, &mut Unobserved)?,
            false => None,
        };
        state.inconsistent |= is_stale || doubt.is_some();
    }
    Ok(states)
}

impl Stacked<'_> {
    /// The host of a layer; the top one is 0.
    pub(super) fn host(&self, layer: usize) -> Result<&dyn Host> {
        let below = layer.checked_sub(1).map(|below| self.below.layers.get(below));
        match below {
            None => Ok(&*self.image.host),
            Some(Some(layer)) => Ok(&*layer.host),
            Some(None) => Err(Error::new(ErrorKind::NotFound, "there is no such layer")),
        }
    }

    /// The name of a layer in messages.
    pub(super) fn label(&self, layer: usize) -> String {
        let below = layer.checked_sub(1).and_then(|below| self.below.layers.get(below));
        below.map_or_else(|| self.image.path.display().to_string(), |layer| layer.label.clone())
    }

    pub(super) fn named(&self, layer: usize, error: Error) -> Error {
        let label = layer.checked_sub(1).and_then(|below| self.below.layers.get(below)).map(|layer| &layer.label);
        match label {
            Some(label) => error.in_file(Path::new(label)),
            None => self.image.name_it(error),
        }
    }

    pub(super) fn plan_diff(&self, since: &[u8], until: Option<&[u8]>) -> Result<StackSpan> {
        self.stack.plan_diff(since, until).map_err(|error| self.image.name_it(error))
    }

    /// The union of all parts of a span, in a window of the disk.
    pub(super) fn unite(
        &self,
        span: &StackSpan,
        request: &DiffRequest<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Bitmap> {
        let (offset, len_bytes) = request.window_bytes();
        let mut all = Vec::new();
        for part in &span.parts {
            self.read_part(part, span.granularity, request, &mut all, observer)
                .map_err(|error| self.named(part.layer, error))?;
        }
        let size_bytes = self.image.virtual_size();
        let mut united = match all.is_empty() {
            true => Bitmap::new(size_bytes, span.granularity)?,
            false => {
                let all = memory::gather(&all)?;
                Bitmap::union_many_with(&all, Some(span.granularity), self.image.options.threads)?
            }
        };
        united.keep(offset, len_bytes)?;
        Ok(united)
    }

    /// Adds the bits of one layer, cut or extended to the size of the disk.
    fn read_part(
        &self,
        part: &Part,
        granularity: Granularity,
        request: &DiffRequest<'_>,
        all: &mut Vec<Bitmap>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let host = self.host(part.layer)?;
        let (offset, len_bytes) = request.window_bytes();
        let (own_bytes, size_bytes) = (host.facts().size_bytes, self.image.virtual_size());
        if !part.bitmaps.is_empty() && offset < own_bytes {
            for name in &part.bitmaps {
                check_trusted(host, name, observer)?;
            }
            let mut wanted = UnionRequest::new(&part.bitmaps, granularity).window(offset, len_bytes);
            (wanted.memory_bytes, wanted.threads) = (request.memory(), self.image.options.threads);
            let united = host.union(&wanted, observer)?;
            memory::push(all, fitted(united, own_bytes, size_bytes)?)?;
        }
        if part.allocation && offset < own_bytes {
            let held = self.allocated(part.layer, offset, len_bytes, observer)?;
            memory::push(all, fitted(held, own_bytes, size_bytes)?)?;
        }
        if !part.cut_off.is_empty() {
            memory::push(all, marked(&part.cut_off, size_bytes, granularity)?)?;
        }
        Ok(())
    }

    /// All that a layer holds itself, of its own size.
    pub(super) fn allocated(
        &self,
        layer: usize,
        offset: u64,
        len_bytes: u64,
        observer: &mut dyn Observer,
    ) -> Result<Bitmap> {
        let held = match self.host(layer)?.allocated(offset, len_bytes, observer) {
            Err(error) if error.is_of_the_call() => return Err(error),
            held => held,
        };
        let why = match held {
            Ok(Some(held)) => return Ok(held),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        let message = "no bitmap recorded all that was written to this layer, and its allocation cannot be read";
        let error = Error::new(ErrorKind::BackingLayer, message);
        Err(match why {
            Some(why) => error.with_source(why),
            None => error,
        })
    }

    /// Refuses where a layer below is no longer as it was read.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        for layer in &self.below.layers {
            if !layer.host.is_unchanged().map_err(|error| error.in_file(Path::new(&layer.label)))? {
                let message = "the layer was changed by somebody else while it was read";
                return Err(Error::new(ErrorKind::Changed, message)
                    .in_file(Path::new(&layer.label))
                    .advise("ask again, with locks if possible"));
            }
        }
        Ok(())
    }
}

/// Refuses a bitmap whose content cannot be trusted.
pub(super) fn check_trusted(host: &dyn Host, name: &Name, observer: &mut dyn Observer) -> Result<()> {
    if let Some(trouble) = host.trouble() {
        return Err(trouble.clone());
    }
    host.doubt(name, observer)?.map_or(Ok(()), Err)
}

/// Bits of a layer for the disk: cut at its end, and clean where the layer ends before it.
pub(super) fn fitted(mut bits: Bitmap, own_bytes: u64, size_bytes: u64) -> Result<Bitmap> {
    if bits.size_bytes() != own_bytes {
        let message = format!("the bits are of a disk of {} bytes, the layer has {own_bytes}", bits.size_bytes());
        return Err(Error::new(ErrorKind::SizeMismatch, message));
    }
    bits.resize(size_bytes)?;
    Ok(bits)
}

/// A bitmap in which this range is dirty.
pub(super) fn marked(range: &std::ops::Range<u64>, size_bytes: u64, granularity: Granularity) -> Result<Bitmap> {
    let mut bits = Bitmap::new(size_bytes, granularity)?;
    let end = range.end.min(size_bytes);
    if range.start < end {
        bits.set(range.start, end - range.start)?;
    }
    Ok(bits)
}
