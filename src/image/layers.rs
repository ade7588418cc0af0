#![forbid(unsafe_code)]
//! Owns the look at the layers below an image, read-only: whether one of them holds a bitmap that takes part.
//! Must never change a layer.

use super::{Access, Image, OpenOptions, looks_like_qcow2, open_file};
use crate::chain::Name;
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::formats::locks::{self, Held, Role};
use crate::formats::qcow2::Qcow2;
use crate::storage::{FileStorage, Storage};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A chain longer than this is taken for a loop.
const MAX_LAYERS: usize = 256;

fn insist() -> WayOut {
    WayOut::from("insist with ")
        .control(Control::TopLayerOnly)
        .words(" if what the layers below recorded does not matter")
}

impl Image {
    /// Refuses where a lower layer holds a bitmap of one of these names, or cannot be read.
    pub(super) fn check_layers(&self, names: &[Name]) -> Result<()> {
        let Some((name, format)) = self.format.backing() else { return Ok(()) };
        let mut next = Some(Backing::new(&self.path, name, format));
        let mut seen = Vec::new();
        while let Some(backing) = next {
            let unreadable = |error: Error| {
                let message = format!("the layer {} below it cannot be read", backing.name);
                self.name_it(Error::new(ErrorKind::BackingLayer, message).with_source(error).advise(insist()))
            };
            let layer = backing.open(&mut seen, &self.options).map_err(unreadable)?;
            next = match layer {
                None => None,
                Some(Layer { path, format: layer, _locks }) => {
                    if let Some(found) = layer.entries().iter().find(|entry| names.contains(&entry.name)) {
                        let message = format!(
                            "the layer {} below it holds a bitmap {} too, so the answer from this layer alone would be short",
                            path.display(),
                            found.name
                        );
                        return Err(self.name_it(Error::new(ErrorKind::BackingLayer, message).advise(insist())));
                    }
                    if let Some(trouble) = layer.trouble().filter(|trouble| trouble.kind() == ErrorKind::Damaged) {
                        return Err(unreadable(trouble.clone()));
                    }
                    layer.backing().map(|(name, format)| Backing::new(&path, name, format))
                }
            };
        }
        Ok(())
    }
}

/// A layer that may hold bitmaps, locked against writers while it is looked at.
struct Layer {
    path: PathBuf,
    format: Qcow2,
    _locks: Option<Held>,
}

/// A layer as the one above it names it.
pub(super) struct Backing {
    name: String,
    /// Where it is, if it is a file that can be found.
    pub(super) path: Option<PathBuf>,
    format: Option<Vec<u8>>,
}

impl Backing {
    pub(super) fn new(above: &Path, name: &[u8], format: Option<&[u8]>) -> Self {
        let shown = String::from_utf8_lossy(name).into_owned();
        // QEMU takes what follows `file:` from its own working directory, which we cannot know.
        let (file, is_known) = match name.strip_prefix(b"file:") {
            Some(file) => (file, file.starts_with(b"/")),
            // `nbd:...`, `json:...`: a protocol stands before the first colon, unless a slash comes earlier.
            None => (name, !name.iter().take_while(|byte| **byte != b'/').any(|byte| *byte == b':')),
        };
        let folder = above.parent().unwrap_or(Path::new(""));
        let path = is_known.then(|| folder.join(OsStr::from_bytes(file)));
        Self { name: shown, path, format: format.map(<[u8]>::to_vec) }
    }

    /// The layer, or `None` for one that cannot hold bitmaps.
    fn open(&self, seen: &mut Vec<(u64, u64)>, options: &OpenOptions) -> Result<Option<Layer>> {
        let Some(path) = &self.path else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "only files and block devices with a path of their own can be read",
            ));
        };
        let file = Arc::new(open_file(path, Access::Read)?);
        remember(&file, seen)?;
        if self.format.as_deref() == Some(b"raw") {
            return Ok(None);
        }
        let wants_locks = !options.no_lock && options.access != Access::Names;
        let locks = match wants_locks.then(|| locks::acquire(&file, Role::Reader)).transpose() {
            // Said already of the image above, which is on the same file system most often.
            Err(error) if error.kind() == ErrorKind::NoLocks => None,
            locked => locked?,
        };
        if locks.is_none() && options.access != Access::Names {
            locks::check_no_writer(&file)?;
        }
        let storage: Arc<dyn Storage> =
            Arc::new(FileStorage::new(file).map_err(|error| Error::io("cannot be used", error))?);
        if looks_like_qcow2(&*storage)? {
            return Ok(Some(Layer { path: path.clone(), format: Qcow2::open(storage)?, _locks: locks }));
        }
        if self.format.as_deref() == Some(b"qcow2") {
            return Err(Error::new(ErrorKind::Damaged, "it should be a qcow2 image, and is none"));
        }
        let mut start = [0; 16];
        let filled = storage.read_at(&mut start, 0).map_err(|error| Error::io("cannot read", error))?;
        if filled == start.len() && (start == *b"WithoutFreeSpace" || start == *b"WithouFreSpacExt") {
            return Err(Error::new(ErrorKind::Unsupported, "it is a Parallels image, which may hold bitmaps"));
        }
        Ok(None)
    }
}

fn remember(file: &File, seen: &mut Vec<(u64, u64)>) -> Result<()> {
    let metadata = file.metadata().map_err(|error| Error::io("cannot look at it", error))?;
    let identity = (metadata.dev(), metadata.ino());
    if seen.contains(&identity) || seen.len() >= MAX_LAYERS {
        return Err(Error::new(ErrorKind::Damaged, "the backing files form a loop"));
    }
    seen.push(identity);
    Ok(())
}
