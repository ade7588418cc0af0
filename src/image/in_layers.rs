#![forbid(unsafe_code)]
//! Owns the changes of checkpoints that several layers of an image know: one file after the other, none before all of them
//! were tried. Must never know what a change means for the bitmaps, nor the order of its steps.

use super::stacked::Stacked;
use super::{Access, Image, OpenOptions};
use crate::chain::{Action, KnownModel, LayerActions, Model, Name};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::io::FileId;
use crate::memory;
use crate::progress::Observer;
use std::path::{Path, PathBuf};

/// A change of checkpoints that can reach the layers below an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Edit<'a> {
    /// These checkpoints go.
    Delete(&'a [Name]),
    /// The first checkpoint gets the second one's name.
    Rename(&'a Name, &'a Name),
}

impl Edit<'_> {
    /// The checkpoints that it is about.
    fn checkpoints(&self) -> &[Name] {
        match self {
            Edit::Delete(checkpoints) => checkpoints,
            Edit::Rename(checkpoint, _) => std::slice::from_ref(*checkpoint),
        }
    }

    /// The steps, each of which is one change of one layer.
    fn steps(&self, stacked: &Stacked<'_>, observer: &mut dyn Observer) -> Result<Vec<LayerActions>> {
        match self {
            Edit::Delete(checkpoints) => stacked.stack.plan_delete(checkpoints),
            Edit::Rename(checkpoint, new_name) => {
                let observer = std::cell::RefCell::new(observer);
                let is_alias = |layer: usize, alias: &Name, own: &Name| {
                    stacked.is_alias(layer, alias, own, &mut **observer.borrow_mut())
                };
                stacked.stack.plan_rename(checkpoint.as_bytes(), new_name.as_bytes(), &is_alias)
            }
        }
    }

    /// Warnings of the change, once it is carried out.
    fn warnings(&self, model: Model) -> Vec<String> {
        let Edit::Rename(checkpoint, new_name) = self else { return Vec::new() };
        let of_libvirt =
            || format!("if libvirt made this checkpoint, libvirt goes on looking for a bitmap named {checkpoint}");
        new_name.warning().into_iter().chain((model == Model::Cumulative).then(of_libvirt)).collect()
    }

    /// The same change again, in words.
    fn again(&self) -> &'static str {
        match self {
            Edit::Delete(_) => "delete the same checkpoints again",
            Edit::Rename(..) => "rename it again, to the same name",
        }
    }
}

/// The change of several layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayersChange {
    /// Each step, in the order in which they are carried out: a layer, and the actions on its bitmaps. A layer can be there twice.
    pub layers: Vec<(PathBuf, Vec<Action>)>,
    /// Warnings for the caller's user, one sentence each.
    pub warnings: Vec<String>,
}

/// A change that was tried: its steps, and the layers below that they change.
struct Prepared {
    steps: Vec<LayerActions>,
    lower: Vec<(usize, Image)>,
    change: LayersChange,
}

impl Image {
    /// Whether a layer below knows one of the checkpoints, so that [`Image::change_layers`] has to change them.
    ///
    /// Fails with [`ErrorKind::BackingLayer`] where a layer cannot be read.
    pub fn spans_layers(&self, edit: &Edit<'_>, model: Option<KnownModel>) -> Result<bool> {
        if !self.has_layers() {
            return Ok(false);
        }
        let model = self.picked(edit, model)?;
        Ok(self.stacked(model, false, &[])?.stack.is_known_to_lower(edit.checkpoints()))
    }

    /// Whether this image has bitmaps of all the checkpoints.
    pub fn has_checkpoints(&self, edit: &Edit<'_>, model: Option<KnownModel>) -> bool {
        let chain = self.chain_for(model, edit.checkpoints());
        chain.is_ok_and(|chain| edit.checkpoints().iter().all(|name| chain.checkpoint(name.as_bytes()).is_some()))
    }

    /// Changes checkpoints in this image and in every layer below that knows them; see `docs/layers.md`.
    ///
    /// Each step is one atomic change of one layer, after all layers were opened for writing and tried. A stop between two
    /// steps loses no dirty block, and the same call finishes it. On an error nothing has changed, unless it says that some
    /// layers did.
    pub fn change_layers(
        &mut self,
        edit: &Edit<'_>,
        model: Option<KnownModel>,
        observer: &mut dyn Observer,
    ) -> Result<LayersChange> {
        if self.options.access != Access::Write {
            let read_only = Error::new(ErrorKind::ReadOnly, "was not opened for writing");
            return Err(self.name_it(read_only.advise("open it for writing").nothing_changed()));
        }
        let Prepared { steps, mut lower, mut change } =
            self.prepare(edit, model, Access::Write, observer).map_err(Error::nothing_changed)?;
        for (done, step) in steps.iter().enumerate() {
            let image = match step.layer {
                0 => Some(&mut *self),
                below => lower.iter_mut().find(|(layer, _)| *layer == below).map(|(_, image)| image),
            };
            let Some(image) = image else { continue };
            let applied = image.look().and_then(|_| image.host.apply(&step.actions, observer));
            let mut warnings = match image.note_change(applied) {
                Ok(warnings) => warnings,
                Err(error) if done == 0 => return Err(error),
                Err(error) => {
                    let message = format!("{}; some layers are changed already", error.message());
                    let way_out = format!("{}: that finishes it, and no diff is short meanwhile", edit.again());
                    return Err(Error::new(error.kind(), message)
                        .in_file(&image.path)
                        .with_source(error)
                        .advise(way_out));
                }
            };
            change.warnings.append(&mut warnings);
        }
        Ok(change)
    }

    /// What [`Image::change_layers`] would do; everything is tried but the writing.
    pub fn rehearse_layers(
        &self,
        edit: &Edit<'_>,
        model: Option<KnownModel>,
        observer: &mut dyn Observer,
    ) -> Result<LayersChange> {
        self.prepare(edit, model, Access::Read, observer).map(|prepared| prepared.change)
    }

    /// The model to read the layers by: where two chains stand side by side, the names pick one.
    fn picked(&self, edit: &Edit<'_>, model: Option<KnownModel>) -> Result<Option<KnownModel>> {
        let chain = self.chain_for(model, edit.checkpoints())?;
        Ok(model.or(chain.model().known().filter(|model| *model == KnownModel::Cumulative)))
    }

    fn prepare(
        &self,
        edit: &Edit<'_>,
        model: Option<KnownModel>,
        access: Access,
        observer: &mut dyn Observer,
    ) -> Result<Prepared> {
        self.check_writable()?;
        self.check_readable()?;
        let model = self.picked(edit, model)?;
        // Read once to know which layers change; then again, with these locked.
        let files = {
            let stacked = self.stacked(model, true, &[])?;
            let steps = edit.steps(&stacked, observer).map_err(|error| self.name_it(error))?;
            stacked.files_of(&steps)?
        };
        let options = OpenOptions { access, ..self.options };
        let mut lower = memory::room(files.len())?;
        for (layer, path) in &files {
            lower.push((*layer, Image::open(path, &options)?));
        }
        let ours: Vec<FileId> =
            memory::gather(lower.iter().filter_map(|(_, image)| image.storage.as_ref().and_then(|s| s.file_id())))?;
        let stacked = self.stacked(model, true, &ours)?;
        let steps = edit.steps(&stacked, observer).map_err(|error| self.name_it(error))?;
        if stacked.files_of(&steps)? != files {
            let error =
                Error::new(ErrorKind::Changed, "a layer below was changed by somebody else").advise("try again");
            return Err(self.name_it(error));
        }
        let mut change = LayersChange { warnings: edit.warnings(stacked.stack.model()), ..LayersChange::default() };
        for (at, step) in steps.iter().enumerate() {
            let below = lower.iter().find(|(layer, _)| *layer == step.layer).map(|(_, image)| image);
            let image = below.unwrap_or(self);
            image.check_writable()?;
            memory::push(&mut change.layers, (image.path.clone(), memory::gather(step.actions.iter().cloned())?))?;
            // With what happens to this layer before.
            let until_then = steps.iter().take(at + 1).filter(|other| other.layer == step.layer);
            let actions = memory::gather(until_then.flat_map(|step| step.actions.iter().cloned()))?;
            image.rehearsed(image.host.rehearse(&actions, observer))?;
        }
        drop(stacked);
        Ok(Prepared { steps, lower, change })
    }
}

impl Stacked<'_> {
    /// The files of the layers below that change.
    fn files_of(&self, steps: &[LayerActions]) -> Result<Vec<(usize, PathBuf)>> {
        let mut files: Vec<(usize, PathBuf)> = Vec::new();
        for step in steps.iter().filter(|step| step.layer > 0) {
            if files.iter().any(|(layer, _)| *layer == step.layer) {
                continue;
            }
            let below = self.below.layers.get(step.layer - 1);
            let Some(below) = below.filter(|below| below.id.is_some()) else {
                let message = "the layer is only a part of a file, or lies in none, and cannot be changed";
                let way_out = WayOut::from("insist with ").control(Control::TopLayerOnly);
                let error = Error::new(ErrorKind::BackingLayer, message)
                    .advise(way_out.words(" if what the layers below recorded does not matter"));
                return Err(self.named(step.layer, error));
            };
            memory::push(&mut files, (step.layer, Path::new(&below.path).to_owned()))?;
        }
        Ok(files)
    }

    /// See [`IsAlias`](crate::chain::IsAlias).
    fn is_alias(&self, layer: usize, alias: &Name, own: &Name, observer: &mut dyn Observer) -> Result<bool> {
        let bits = self.read_bitmap(layer, alias, observer)?;
        Ok(match self.stack.model() {
            Model::Cumulative => bits == self.read_bitmap(layer, own, observer)?,
            _ => bits.is_empty(),
        })
    }
}
