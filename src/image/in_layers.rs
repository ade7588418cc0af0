#![forbid(unsafe_code)]
//! Owns the changes of checkpoints that several layers of an image know: one file after the other, none before all of them
//! were tried. Must never know what a change means for the bitmaps, nor the order of its steps.

use super::stacked::Stacked;
use super::{Access, Image, OpenOptions};
use crate::chain::{self, Action, Chain, ForcedDeletion, IsAlias, KnownModel, LayerActions, Model, Name, Stack};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::io::FileId;
use crate::memory;
use crate::progress::{Observer, Step};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// A change of checkpoints that can reach the layers below an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Edit<'a> {
    /// These checkpoints go, and lose nothing.
    Delete(&'a [Name]),
    /// These checkpoints go, with all that is lost where their bitmaps cannot be trusted.
    ForceDelete(&'a [Name]),
    /// All bitmaps of checkpoints go that cannot be trusted, with all that is lost.
    DeleteAllInconsistent,
    /// The first checkpoint gets the second one's name.
    Rename(&'a Name, &'a Name),
}

/// The steps of a change, each of which is one change of one layer, and warnings once they are done.
type Steps = (Vec<LayerActions>, Vec<String>);

/// One of the two ways in which [`Stack`] plans a renaming.
type PlanRename = fn(&Stack, &[u8], &[u8], IsAlias<'_>) -> Result<Vec<LayerActions>>;

impl Edit<'_> {
    /// The checkpoints that it is about.
    pub(super) fn checkpoints(&self) -> &[Name] {
        match self {
            Edit::Delete(checkpoints) | Edit::ForceDelete(checkpoints) => checkpoints,
            Edit::DeleteAllInconsistent => &[],
            Edit::Rename(checkpoint, _) => std::slice::from_ref(*checkpoint),
        }
    }

    /// The steps where layers change one after the other.
    fn plan(&self, stacked: &Stacked<'_>, observer: &mut dyn Observer) -> Result<Steps> {
        self.steps(stacked, Stack::plan_rename, observer)
    }

    /// The steps where all layers change at the same moment.
    pub(super) fn plan_at_once(&self, stacked: &Stacked<'_>, observer: &mut dyn Observer) -> Result<Steps> {
        self.steps(stacked, Stack::plan_rename_at_once, observer)
    }

    fn steps(&self, stacked: &Stacked<'_>, rename: PlanRename, observer: &mut dyn Observer) -> Result<Steps> {
        let stack = &stacked.stack;
        match self {
            Edit::Delete(checkpoints) => Ok((stack.plan_delete(checkpoints)?, Vec::new())),
            Edit::ForceDelete(checkpoints) => stack.plan_delete_forced(Some(checkpoints)).map(with_losses),
            Edit::DeleteAllInconsistent => stack.plan_delete_forced(None).map(with_losses),
            Edit::Rename(checkpoint, new_name) => {
                let observer = std::cell::RefCell::new(observer);
                let is_alias = |layer: usize, alias: &Name, own: &Name| {
                    stacked.is_alias(layer, alias, own, &mut **observer.borrow_mut())
                };
                let steps = rename(stack, checkpoint.as_bytes(), new_name.as_bytes(), &is_alias)?;
                let of_libvirt = || {
                    format!("if libvirt made this checkpoint, libvirt goes on looking for a bitmap named {checkpoint}")
                };
                let of_libvirt = (stack.model() == Model::Cumulative).then(of_libvirt);
                Ok((steps, new_name.warning().into_iter().chain(of_libvirt).collect()))
            }
        }
    }

    /// Whether the layers below take part.
    pub(super) fn spans(&self, stack: &Stack) -> Result<bool> {
        let forced = match self {
            Edit::Delete(_) | Edit::Rename(..) => return Ok(stack.is_known_to_lower(self.checkpoints())),
            Edit::ForceDelete(checkpoints) => stack.plan_delete_forced(Some(checkpoints))?,
            Edit::DeleteAllInconsistent => stack.plan_delete_forced(None)?,
        };
        let removed = forced.steps.iter().flat_map(|step| &step.actions).filter_map(|action| match action {
            Action::Remove { name } => name.mentions().pop(),
            _ => None,
        });
        Ok(forced.steps.iter().any(|step| step.layer > 0)
            || removed.clone().any(|name| stack.is_known_to_lower(&[name])))
    }

    /// The same change again, in words.
    fn again(&self) -> &'static str {
        match self {
            Edit::Delete(_) | Edit::ForceDelete(_) | Edit::DeleteAllInconsistent => "delete the same checkpoints again",
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

/// Tells how far the work is, and goes on whatever the answer.
struct Unstoppable<'a>(&'a mut dyn Observer);

impl Observer for Unstoppable<'_> {
    fn step(&mut self, step: Step) -> ControlFlow<()> {
        let _ = self.0.step(step);
        ControlFlow::Continue(())
    }
}

/// The steps of a forced deletion, and warnings of the losses.
fn with_losses(forced: ForcedDeletion) -> Steps {
    let mut warnings = Vec::new();
    if !forced.lost.is_empty() {
        warnings.push(format!("every diff since {} is lost", chain::list(&forced.lost)));
    }
    if !forced.leaves_any {
        warnings.push("no checkpoint is left: tracking ends, and the next backup must be full".to_owned());
    } else if !forced.records {
        warnings.push(
            "nothing records any more: until the next checkpoint all that the image holds counts as changed".to_owned(),
        );
    }
    (forced.steps, warnings)
}

/// The model to read the layers by: where two chains stand side by side, the names picked one.
pub(super) fn picked(chain: &Chain, model: Option<KnownModel>) -> Option<KnownModel> {
    model.or(chain.model().known().filter(|model| *model == KnownModel::Cumulative))
}

/// A change that was tried: its steps, and the layers below that they change.
struct Prepared {
    steps: Vec<LayerActions>,
    lower: Vec<(usize, Image)>,
    change: LayersChange,
}

impl Image {
    /// Whether a layer below knows one of the checkpoints, so that [`Image::change_layers`] has to change them. Else a plan for this
    /// image does it, as for an image that lies in no file: its host answers for its layers.
    ///
    /// A layer that cannot be read is [`ErrorKind::BackingLayer`], but where this image has all of the checkpoints: its own plan
    /// says whether that matters.
    pub fn spans_layers(&self, edit: &Edit<'_>, model: Option<KnownModel>) -> Result<bool> {
        if !self.has_layers() || self.storage.is_none() {
            return Ok(false);
        }
        let chain = self.chain_for(model, edit.checkpoints())?;
        let has_all = edit.checkpoints().iter().all(|name| chain.checkpoint(name.as_bytes()).is_some());
        match self.stacked(picked(&chain, model), true, &[]) {
            Ok(stacked) => edit.spans(&stacked.stack).map_err(|error| self.name_it(error)),
            Err(error) if has_all && !error.is_of_the_call() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Changes checkpoints in this image and in every layer below that knows them; see `docs/layers.md`.
    ///
    /// Each step is one atomic change of one layer, after all layers were opened for writing and tried. `observer` can stop the
    /// work until the first of them is done. A kill between two steps loses no dirty block, and the same call finishes it. On any
    /// error nothing has changed, except [`ErrorKind::CommitInDoubt`]: then each layer is as it was before or after a step, whole,
    /// and the same call finishes it too.
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
            let applied = image.look().and_then(|_| match done {
                0 => image.host.apply(&step.actions, observer),
                _ => image.host.apply(&step.actions, &mut Unstoppable(observer)),
            });
            let mut warnings = match image.note_change(applied) {
                Ok(warnings) => warnings,
                Err(error) if done == 0 => return Err(error),
                Err(error) => {
                    let message = format!("{}; some layers are changed already", error.message());
                    let way_out = format!("{}: that finishes it, and no diff is short meanwhile", edit.again());
                    return Err(Error::new(ErrorKind::CommitInDoubt, message)
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

    fn prepare(
        &self,
        edit: &Edit<'_>,
        model: Option<KnownModel>,
        access: Access,
        observer: &mut dyn Observer,
    ) -> Result<Prepared> {
        self.check_writable()?;
        self.check_readable()?;
        let model = picked(&self.chain_for(model, edit.checkpoints())?, model);
        // Read once to know which layers change; then again, with these locked.
        let files = {
            let stacked = self.stacked(model, true, &[])?;
            let (steps, _) = edit.plan(&stacked, observer).map_err(|error| self.name_it(error))?;
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
        let (steps, warnings) = edit.plan(&stacked, observer).map_err(|error| self.name_it(error))?;
        if stacked.files_of(&steps)? != files {
            let error =
                Error::new(ErrorKind::Changed, "a layer below was changed by somebody else").advise("try again");
            return Err(self.name_it(error));
        }
        let mut change = LayersChange { warnings, ..LayersChange::default() };
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
