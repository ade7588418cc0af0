#![forbid(unsafe_code)]
//! Owns the deletion of checkpoints that several layers of an image know: one file after the other, the top one first. Must
//! never know what a deletion means for the bitmaps.

use super::stacked::Stacked;
use super::{Access, Image, OpenOptions};
use crate::chain::{Action, KnownModel, LayerActions};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::io::FileId;
use crate::memory;
use crate::progress::Observer;
use std::path::{Path, PathBuf};

/// The change of several layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayersChange {
    /// Each layer that changes, in the order in which they do, with the actions on its bitmaps.
    pub layers: Vec<(PathBuf, Vec<Action>)>,
    /// Warnings for the caller's user, one sentence each.
    pub warnings: Vec<String>,
}

impl Image {
    /// Whether a layer below knows one of these checkpoints, so that [`Image::delete_in_layers`] has to delete them.
    ///
    /// Fails with [`ErrorKind::BackingLayer`] where a layer cannot be read.
    pub fn spans_layers(&self, checkpoints: &[impl AsRef<[u8]>], model: Option<KnownModel>) -> Result<bool> {
        if !self.has_layers() {
            return Ok(false);
        }
        Ok(self.stacked(model, false, &[])?.stack.is_known_to_lower(checkpoints))
    }

    /// Deletes checkpoints in this image and in every layer below that knows them; see `docs/layers.md`.
    ///
    /// Each layer changes in one atomic step, the top one first, after all of them were opened for writing and tried. A stop between
    /// two layers loses no dirty block, and the same call finishes it. On an error nothing has changed, unless it says
    /// that layers above did.
    pub fn delete_in_layers(
        &mut self,
        checkpoints: &[impl AsRef<[u8]>],
        model: Option<KnownModel>,
        observer: &mut dyn Observer,
    ) -> Result<LayersChange> {
        if self.options.access != Access::Write {
            let read_only = Error::new(ErrorKind::ReadOnly, "was not opened for writing");
            return Err(self.name_it(read_only.advise("open it for writing").nothing_changed()));
        }
        let (steps, mut lower, mut change) =
            self.prepare(checkpoints, model, Access::Write, observer).map_err(Error::nothing_changed)?;
        let mut lower = lower.iter_mut();
        for (done, step) in steps.iter().enumerate() {
            let image = match step.layer {
                0 => Some(&mut *self),
                _ => lower.next(),
            };
            let Some(image) = image else { continue };
            let applied = image.look().and_then(|_| image.host.apply(&step.actions, observer));
            let mut warnings = match image.note_change(applied) {
                Ok(warnings) => warnings,
                Err(error) if done == 0 => return Err(error),
                Err(error) => {
                    let message = format!("{}; the layers above are changed already", error.message());
                    return Err(Error::new(error.kind(), message).in_file(&image.path).with_source(error).advise(
                        "delete the same checkpoints again: that finishes it, and no diff is short meanwhile",
                    ));
                }
            };
            change.warnings.append(&mut warnings);
        }
        Ok(change)
    }

    /// What [`Image::delete_in_layers`] would do; everything is tried but the writing.
    pub fn rehearse_delete_in_layers(
        &self,
        checkpoints: &[impl AsRef<[u8]>],
        model: Option<KnownModel>,
        observer: &mut dyn Observer,
    ) -> Result<LayersChange> {
        self.prepare(checkpoints, model, Access::Read, observer).map(|(_, _, change)| change)
    }

    /// The steps, and the images below that they change, each tried.
    fn prepare(
        &self,
        checkpoints: &[impl AsRef<[u8]>],
        model: Option<KnownModel>,
        access: Access,
        observer: &mut dyn Observer,
    ) -> Result<(Vec<LayerActions>, Vec<Image>, LayersChange)> {
        self.check_writable()?;
        self.check_readable()?;
        // Read once to know which layers change; then again, with these locked.
        let paths = {
            let stacked = self.stacked(model, true, &[])?;
            let steps = self.steps(&stacked, checkpoints)?;
            memory::gather(steps.iter().filter_map(|step| stacked.file_of(step.layer)))?
        };
        let options = OpenOptions { access, ..self.options };
        let mut lower = memory::room(paths.len())?;
        for path in &paths {
            lower.push(Image::open(path, &options)?);
        }
        let ours: Vec<FileId> =
            memory::gather(lower.iter().filter_map(|image| image.storage.as_ref().and_then(|s| s.file_id())))?;
        let stacked = self.stacked(model, true, &ours)?;
        let steps = self.steps(&stacked, checkpoints)?;
        let again = memory::gather(steps.iter().filter_map(|step| stacked.file_of(step.layer)))?;
        if again != paths || steps.iter().filter(|step| step.layer > 0).count() != lower.len() {
            let message = "a layer below was changed by somebody else, or is only a part of a file";
            return Err(self.name_it(
                Error::new(ErrorKind::Changed, message)
                    .advise(WayOut::from("try again, or insist with ").control(Control::TopLayerOnly)),
            ));
        }
        let mut change = LayersChange::default();
        let mut images = lower.iter();
        for step in &steps {
            let image = if step.layer == 0 { Some(self) } else { images.next() };
            let Some(image) = image else { continue };
            image.check_writable()?;
            let actions = memory::gather(step.actions.iter().cloned())?;
            memory::push(&mut change.layers, (image.path.clone(), actions))?;
            image.rehearsed(image.host.rehearse(&step.actions, observer))?;
        }
        drop(stacked);
        Ok((steps, lower, change))
    }

    fn steps(&self, stacked: &Stacked<'_>, checkpoints: &[impl AsRef<[u8]>]) -> Result<Vec<LayerActions>> {
        stacked.stack.plan_delete(checkpoints).map_err(|error| self.name_it(error))
    }
}

impl Stacked<'_> {
    /// The file of a layer below the top one, where the layer is all of it.
    fn file_of(&self, layer: usize) -> Option<PathBuf> {
        let below = self.below.layers.get(layer.checked_sub(1)?)?;
        below.id.map(|_| Path::new(&below.path).to_owned())
    }
}
