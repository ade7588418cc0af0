#![forbid(unsafe_code)]
//! Owns the facts of one disk that a diagnosis needs, read once. Must never know what they mean to one another.

use super::Options;
use crate::bitmap::Bitmap;
use crate::chain::{BitmapState, KnownModel, Name};
use crate::error::Result;
use crate::image::{Image, Scope};
use crate::libvirt::Metadata;
use crate::memory;
use crate::progress::Observer;
use std::collections::BTreeMap;

/// The bitmaps of one layer of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sight {
    /// The layer, as messages name it.
    pub layer: String,
    /// Its bitmaps.
    pub bitmaps: Vec<BitmapState>,
}

impl Sight {
    /// A layer with these bitmaps.
    pub fn new(layer: impl Into<String>, bitmaps: Vec<BitmapState>) -> Self {
        Self { layer: layer.into(), bitmaps }
    }
}

/// A disk, as it was examined.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Patient {
    /// The disk, as messages name it.
    pub title: String,
    /// Its name in libvirt's domain, such as `vda`, where it is known.
    pub target: Option<String>,
    /// The files of its layers, where they are known.
    pub files: Vec<String>,
    /// The layers, the top one first.
    pub layers: Vec<Sight>,
    /// Why the layers below cannot be read, where that is so.
    pub unread: Option<String>,
    /// The journal of a step over several images that was interrupted while this one took part.
    pub unfinished: Option<String>,
    /// The recording bitmaps without an arrow, oldest first as far as their bits tell; read only where libvirt does not know all of them.
    pub order: Vec<Name>,
    /// Pairs of an older and a younger checkpoint of libvirt's of which the younger bitmap has blocks that the older one misses.
    pub lacking: Vec<(Name, Name)>,
}

impl Patient {
    /// A disk of these layers, of which nothing else is known.
    pub fn new(title: impl Into<String>, target: Option<&str>, layers: Vec<Sight>) -> Self {
        Self {
            title: title.into(),
            target: target.map(str::to_owned),
            files: Vec::new(),
            layers,
            unread: None,
            unfinished: None,
            order: Vec::new(),
            lacking: Vec::new(),
        }
    }

    /// The same disk, whose layers lie in these files.
    #[must_use]
    pub fn files(self, files: Vec<String>) -> Self {
        Self { files, ..self }
    }

    /// Reads what a diagnosis needs of an image: names and flags of all layers, and the bits where only they tell. `target` is its name in
    /// libvirt's domain.
    pub fn examine(
        image: &Image,
        target: Option<&str>,
        metadata: Option<&Metadata>,
        options: &Options,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let own = image.bitmaps_surveyed(observer)?;
        let title = image.path().display().to_string();
        let mut patient = Self::new(title, target, vec![Sight::new(image.path().display().to_string(), own)]);
        patient.unfinished = image.unfinished().map(|unfinished| unfinished.journal.display().to_string());
        match image.bitmaps_below() {
            Err(error) if error.is_of_the_call() => return Err(error),
            Err(error) => patient.unread = Some(error.reason().to_string()),
            Ok(below) => {
                let below = below.into_iter().map(|(layer, bitmaps)| Sight { layer, bitmaps });
                memory::extend(&mut patient.layers, below)?;
            }
        }
        if let (Some(metadata), None) = (metadata, image.trouble()) {
            patient.order = order_of(image, &patient, metadata, options, observer)?;
            if !image.is_live() {
                patient.lacking = lacking(image, &patient, metadata)?;
            }
        }
        Ok(patient)
    }

    /// The bitmaps of the top layer.
    pub fn bitmaps(&self) -> &[BitmapState] {
        self.layers.first().map(|top| top.bitmaps.as_slice()).unwrap_or_default()
    }

    /// A bitmap of a layer.
    pub(super) fn bitmap(&self, layer: usize, name: &Name) -> Option<&BitmapState> {
        self.layers.get(layer)?.bitmaps.iter().find(|bitmap| bitmap.name == *name)
    }
}

/// Whether a program could go on with it as with a checkpoint of libvirt's.
pub(super) fn is_sound(bitmap: &BitmapState) -> bool {
    bitmap.recording && !bitmap.inconsistent && !bitmap.unusable
}

/// Whether it can be a checkpoint of libvirt's, by its name.
pub(super) fn is_plain(bitmap: &BitmapState) -> bool {
    !bitmap.name.has_arrow() && !bitmap.name.is_helper()
}

fn order_of(
    image: &Image,
    patient: &Patient,
    metadata: &Metadata,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<Vec<Name>> {
    let plain = || patient.bitmaps().iter().filter(|bitmap| is_plain(bitmap) && bitmap.recording);
    if plain().all(|bitmap| metadata.get(&bitmap.name).is_some()) {
        return Ok(Vec::new());
    }
    let model = options.model.or_else(|| (plain().count() > 1).then_some(KnownModel::Cumulative));
    let overview = image.overview(model, Scope::Checkpoints, observer)?;
    // A guess by name is no parent.
    let ordered = overview.chain.as_ref().is_ok_and(|chain| chain.is_ordered());
    let names =
        overview.chain.iter().filter(|_| ordered).flat_map(|chain| chain.checkpoints()).map(|own| own.bitmap.clone());
    Ok(memory::gather(names)?)
}

/// The bitmap of a checkpoint began to record before those of the checkpoints after it, so it has all of their blocks; another one lost
/// some. Times alone tell nothing: a checkpoint that libvirt was told of late has a late one.
fn lacking(image: &Image, patient: &Patient, metadata: &Metadata) -> Result<Vec<(Name, Name)>> {
    let Some(target) = patient.target.as_deref() else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    // For each checkpoint the nearest sound bitmap at it or before it.
    let mut nearest: BTreeMap<&Name, &Name> = BTreeMap::new();
    let mut last: Option<(&Name, Bitmap)> = None;
    for own in metadata.checkpoints() {
        let before = own.parent().and_then(|parent| nearest.get(parent).copied());
        let Some(bitmap) = own.bitmap_on(target).filter(|name| patient.bitmap(0, name).is_some_and(is_sound)) else {
            nearest.extend(before.map(|before| (own.name(), before)));
            continue;
        };
        nearest.insert(own.name(), bitmap);
        let read = |name: &Name| match image.read_bitmap(name, 0, u64::MAX) {
            Err(error) if error.is_of_the_call() => Err(error),
            // The check of the image tells of it.
            bits => Ok(bits.ok()),
        };
        let Some(bits) = read(bitmap)? else { continue };
        if let Some(before) = before {
            let older = match last.take().filter(|(name, _)| *name == before) {
                Some((_, older)) => Some(older),
                None => read(before)?,
            };
            if let Some(older) = older
                && older.granularity() >= bits.granularity()
                && !bits.is_subset(&older)?
            {
                memory::push(&mut found, (before.clone(), bitmap.clone()))?;
            }
        }
        last = Some((bitmap, bits));
    }
    Ok(found)
}
