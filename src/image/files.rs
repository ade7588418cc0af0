#![forbid(unsafe_code)]
//! Owns the list of the files that an image consists of, so that nothing else is written in the place of one. Must never
//! read what a bitmap holds.

use super::layers::candidates;
use super::{Access, Image, open_file};
use crate::formats::filename::{Below, Next};
use crate::formats::{Content, probe};
use crate::host::Host;
use crate::io::{FileId, FileStorage, Storage};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that an image consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageFile {
    /// Where it is.
    pub path: PathBuf,
    /// Which file it is, by whatever name it is reached.
    pub id: FileId,
    /// What it is to the image: "its backing file".
    pub role: String,
}

impl Image {
    /// The files that the image consists of, from the top down: itself, the backing file, the backing file's own, and the
    /// data file of each. A file that is not there, or a layer that is no file, is left out, and so is all below it.
    pub fn files(&self) -> Vec<ImageFile> {
        let mut files = Vec::new();
        files.extend(self.storage.as_ref().and_then(|storage| storage.file_id()).map(|id| ImageFile {
            path: self.path.clone(),
            id,
            role: "the image itself".into(),
        }));
        let (mut above, mut data_file) = (self.path.clone(), self.data_file().map(<[u8]>::to_vec));
        let mut next = below(&*self.host);
        let mut depth = 0;
        loop {
            for path in data_file.iter().flat_map(|name| data_files(&above, name)) {
                let role =
                    if depth == 0 { "its data file".into() } else { format!("the data file of {}", above.display()) };
                files.extend(found(&path, role));
            }
            let Some(layer) = next.take() else { return files };
            let candidates = layer.place().map(|place| candidates(place, &above)).unwrap_or_default();
            let role =
                if depth == 0 { "its backing file".into() } else { format!("the backing file of {}", above.display()) };
            let mut new: Vec<ImageFile> = candidates.iter().filter_map(|path| found(path, role.clone())).collect();
            new.retain(|file| files.iter().all(|known| known.id != file.id));
            let Some(path) = new.first().map(|first| first.path.clone()) else { return files };
            files.append(&mut new);
            let Below::File(file) = layer else { return files };
            let Some(host) = read(&path) else { return files };
            data_file = host.facts().data_file.map(<[u8]>::to_vec);
            next = match file.next {
                Next::AsRecorded => below(&*host),
                Next::Nothing => None,
                Next::Instead(other) => Some(*other),
            };
            above = path;
            depth += 1;
        }
    }
}

/// What an image says lies below it, where that can be known.
fn below(host: &dyn Host) -> Option<Below> {
    host.facts().backing.and_then(|backing| Below::of(backing.name, backing.format).ok())
}

/// Where the data file of the image at `above` may be: QEMU looks for a relative name in its working directory, which can be
/// ours or the image's folder.
fn data_files(above: &Path, name: &[u8]) -> Vec<PathBuf> {
    let data = Below::of(name, Some(b"raw")).ok();
    let place = data.as_ref().and_then(Below::place);
    place
        .map(|place| [above, Path::new("")].into_iter().flat_map(|from| candidates(place, from)).collect())
        .unwrap_or_default()
}

fn found(path: &Path, role: String) -> Option<ImageFile> {
    let id = FileId::of(&fs::metadata(path).ok()?);
    Some(ImageFile { path: path.to_owned(), id, role })
}

/// The layer in the file at `path`, where it is an image that names others. Without locks: names are all that is read.
fn read(path: &Path) -> Option<Box<dyn Host>> {
    let storage: Arc<dyn Storage> = Arc::new(FileStorage::new(open_file(path, Access::Read).ok()?).ok()?);
    match probe(storage, None).ok()? {
        Content::Host(host) => Some(host),
        Content::NoBitmaps => None,
    }
}
