#![forbid(unsafe_code)]
//! Owns the look at the layers below an image, read-only: whether one of them recorded changes that an answer needs.
//! Must never change a layer.

use super::{Access, Image, OpenOptions, open_file};
use crate::chain::Name;
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::formats::filename::{Below, FileBelow, NamedFile, Next, Origin};
use crate::formats::{Content, probe};
use crate::host::{Backing, Host, LayerBelow};
use crate::io::locks::{self, Held, Role};
use crate::io::{FileId, FileStorage, Part, Storage};
use crate::memory;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A chain longer than this is taken for a loop.
const MAX_LAYERS: usize = 256;

fn insist() -> WayOut {
    WayOut::from("insist with ")
        .control(Control::TopLayerOnly)
        .words(" if what the layers below recorded does not matter")
}

/// A checkpoint that a lower layer knows.
pub(super) struct Known {
    layer: PathBuf,
    bitmap: Name,
    pub(super) checkpoint: Name,
}

impl Known {
    /// The layer and its bitmap, for a message.
    pub(super) fn words(&self) -> String {
        format!(
            "the layer {} below it knows the checkpoint {} too, by its bitmap {}",
            self.layer.display(),
            self.checkpoint,
            self.bitmap
        )
    }
}

impl Image {
    /// Refuses where a lower layer knows one of these checkpoints, or cannot be read.
    ///
    /// A layer that knows a checkpoint was the top one when that checkpoint was created, or later, so it recorded what
    /// was written then. One that knows none of them was frozen before.
    pub(super) fn check_layers(&self, checkpoints: &[Name]) -> Result<()> {
        match self.known_below(checkpoints)? {
            None => Ok(()),
            Some(known) => {
                let message = format!("{}, so the answer from this layer alone would be short", known.words());
                Err(self.name_it(Error::new(ErrorKind::BackingLayer, message).advise(insist())))
            }
        }
    }

    /// Refuses a new name that a layer below knows: its checkpoint would be taken for this one.
    pub(super) fn refuse_known_below(&self, new_name: &Name) -> Result<()> {
        let Some(known) = self.known_below(std::slice::from_ref(new_name))? else { return Ok(()) };
        let message = format!("the layer {} below it knows a checkpoint {new_name} already", known.layer.display());
        Err(self.name_it(Error::new(ErrorKind::Exists, message).advise("choose another name")))
    }

    /// The first layer below that knows one of these checkpoints: its name is that of a bitmap, or stands on either side
    /// of an arrow in one. What the bitmaps of the layer mean to one another does not matter.
    pub(super) fn known_below(&self, checkpoints: &[Name]) -> Result<Option<Known>> {
        let checkpoints = memory::sorted_set(checkpoints);
        self.find_below(&mut |layer, bitmap| {
            let checkpoint = bitmap.mentions().into_iter().find(|name| checkpoints.contains(name))?;
            Some(Known { layer: layer.to_owned(), bitmap: bitmap.clone(), checkpoint })
        })
    }

    /// Every checkpoint that a layer below knows.
    pub(super) fn known_to_layers(&self) -> Result<BTreeSet<Name>> {
        let mut known = BTreeSet::new();
        self.find_below::<()>(&mut |_, bitmap| {
            known.extend(bitmap.mentions());
            None
        })?;
        Ok(known)
    }

    /// The first answer of `look` for a bitmap of a layer below, layer by layer.
    fn find_below<T>(&self, look: &mut dyn FnMut(&Path, &Name) -> Option<T>) -> Result<Option<T>> {
        for layer in &self.layers_below(&[])?.layers {
            for bitmap in layer.host.bitmaps() {
                if let Some(found) = look(Path::new(&layer.label), &bitmap.name) {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    /// The layers below, down to the last one that can hold bitmaps; each is locked against writers, but for the files
    /// `ours`, which the caller has locked.
    pub(super) fn layers_below(&self, ours: &[FileId]) -> Result<LayersBelow> {
        let mut found = LayersBelow::default();
        if let Some(known) = self.host.layers_below().map_err(|error| self.name_it(error))? {
            for layer in known {
                let LayerBelow { name: label, host: Some(host) } = layer else {
                    found.stands_on_more = true;
                    break;
                };
                memory::push(&mut found.layers, Layer { label, path: PathBuf::new(), id: None, host, _locks: None })?;
            }
            return Ok(found);
        }
        let top = self.storage.as_ref().and_then(|storage| storage.file_id());
        let mut seen: Vec<Identity> = top.map(|top| (top, 0)).into_iter().collect();
        let mut above = self.path.clone();
        let mut next = self.host.facts().backing.map(below);
        while let Some((name, below)) = next {
            let unreadable = |error: Error| {
                if error.is_of_the_call() {
                    return error;
                }
                let message = format!("the layer {name} below it cannot be read");
                self.name_it(Error::new(ErrorKind::BackingLayer, message).with_source(error).advise(insist()))
            };
            if self.storage.is_none() {
                let message = "its name is one of a host that lies in no file";
                return Err(unreadable(Error::new(ErrorKind::Unsupported, message)));
            }
            found.stands_on_more = true;
            let Below::File(below) = below.map_err(unreadable)? else { break };
            let Some(layer) = Layer::open(&below, &above, &mut seen, &self.options, ours).map_err(unreadable)? else {
                break;
            };
            if let Some(trouble) = layer.host.trouble().filter(|trouble| trouble.kind() == ErrorKind::Damaged) {
                return Err(unreadable(trouble.clone()));
            }
            next = match below.next {
                Next::AsRecorded => layer.host.facts().backing.map(self::below),
                Next::Nothing => None,
                Next::Instead(other) => Some((name, Ok(*other))),
            };
            above = layer.path.clone();
            memory::push(&mut found.layers, layer)?;
            found.stands_on_more = false;
        }
        Ok(found)
    }
}

/// The layers below an image.
#[derive(Default)]
pub(super) struct LayersBelow {
    /// The nearest first.
    pub(super) layers: Vec<Layer>,
    /// Whether the last of them stands on something that can hold no bitmaps.
    pub(super) stands_on_more: bool,
}

/// A layer as it is shown, and what its name means.
fn below(layer: Backing<'_>) -> (String, Result<Below>) {
    (String::from_utf8_lossy(layer.name).into_owned(), Below::of(layer.name, layer.format))
}

/// A layer that may hold bitmaps, locked against writers while it is looked at.
pub(super) struct Layer {
    /// Its name in messages.
    pub(super) label: String,
    /// Its file, where it lies in one.
    pub(super) path: PathBuf,
    /// That file, where the layer is all of it.
    pub(super) id: Option<FileId>,
    pub(super) host: Box<dyn Host>,
    _locks: Option<Held>,
}

impl Layer {
    /// The layer, or `None` for one that turns out to be of a format that holds no bitmaps.
    fn open(
        below: &FileBelow,
        above: &Path,
        seen: &mut Vec<Identity>,
        options: &OpenOptions,
        ours: &[FileId],
    ) -> Result<Option<Layer>> {
        let (path, file) = find(&below.place, above)?;
        let file = Arc::new(file);
        remember(&file, below.window.0, seen)?;
        let id = identity(&file)?;
        let is_ours = ours.contains(&id);
        let wants_locks = !is_ours && !options.no_lock && options.access != Access::Names;
        let locks = match wants_locks.then(|| locks::acquire(&file, Role::Reader)).transpose() {
            // Said already of the image above, which is on the same file system most often.
            Err(error) if error.kind() == ErrorKind::NoLocks => None,
            locked => locked?,
        };
        if locks.is_none() && !is_ours && options.access != Access::Names {
            locks::check_no_writer(&file)?;
        }
        let whole: Arc<dyn Storage> =
            Arc::new(FileStorage::new(file).map_err(|error| Error::io("cannot be used", error))?);
        let storage = match below.window {
            (0, None) => whole,
            (offset, len_bytes) => Arc::new(Part::new(whole, offset, len_bytes)),
        };
        Ok(match probe(storage, below.format)? {
            Content::Host(host) => {
                let id = (below.window == (0, None)).then_some(id);
                Some(Layer { label: path.display().to_string(), path, id, host, _locks: locks })
            }
            Content::NoBitmaps => None,
        })
    }
}

/// The file of a layer, and its path.
///
/// QEMU takes a relative name of some kinds from the folder in which it was started. Nobody recorded that folder, so the
/// name is believed only where our own and that of the image lead to the same file.
pub(crate) fn find(place: &NamedFile, above: &Path) -> Result<(PathBuf, File)> {
    let mut candidates = candidates(place, above).into_iter();
    let path = candidates.next().unwrap_or_default();
    let file = open_file(&path, Access::Read)?;
    for other in candidates {
        let other = open_file(&other, Access::Read).and_then(|other| identity(&other));
        if other.ok() != Some(identity(&file)?) {
            let message = "QEMU takes such a name from the folder in which it was started, which cannot be known";
            return Err(Error::new(ErrorKind::Unsupported, message)
                .advise("record a full path or a plain name with `qemu-img rebase -u`"));
        }
    }
    Ok((path, file))
}

/// Where the file can be that the image at `above` names: seen from its own folder, and, for some kinds of names, from ours.
pub(super) fn candidates(place: &NamedFile, above: &Path) -> Vec<PathBuf> {
    let mut candidates = vec![above.parent().unwrap_or(Path::new("")).join(&place.path)];
    candidates
        .extend((place.origin == Origin::WorkingDirectory && place.path.is_relative()).then(|| place.path.clone()));
    candidates
}

/// An image: its file, and where it begins there.
type Identity = (FileId, u64);

fn identity(file: &File) -> Result<FileId> {
    file.metadata().map(|metadata| FileId::of(&metadata)).map_err(|error| Error::io("cannot look at it", error))
}

/// Refuses a loop: the same image, at the same place of the same file, once more.
fn remember(file: &File, offset: u64, seen: &mut Vec<Identity>) -> Result<()> {
    let identity = (identity(file)?, offset);
    if seen.contains(&identity) || seen.len() >= MAX_LAYERS {
        return Err(Error::new(ErrorKind::Damaged, "the backing files form a loop"));
    }
    seen.push(identity);
    Ok(())
}
