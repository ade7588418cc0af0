#![forbid(unsafe_code)]
//! Owns the changes of libvirt's notes of its checkpoints, and carries them out on a folder of documents. Must never know why.

use super::write::can_be_file;
use super::{DomainCheckpoint, Metadata};
use crate::chain::Name;
use crate::error::{Error, ErrorKind, Result};
use crate::io::replace::{Synced, Target};
use crate::memory;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One change.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Change {
    /// libvirt is told of a checkpoint, or of another state of one that it has.
    Tell(Box<DomainCheckpoint>),
    /// libvirt forgets a checkpoint. Its children follow its parent then; no bitmap is touched.
    Forget(Name),
}

impl Change {
    /// The checkpoint.
    pub fn name(&self) -> &Name {
        match self {
            Change::Tell(told) => told.name(),
            Change::Forget(name) => name,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Forget(name) => write!(f, "let libvirt forget the checkpoint {name}"),
            Change::Tell(told) => {
                write!(f, "tell libvirt of the checkpoint {}", told.name())?;
                if let Some(parent) = told.parent() {
                    write!(f, " after {parent}")?;
                }
                let disks = told.disks().iter().filter(|disk| disk.bitmap.is_some());
                let disks: Vec<&str> = disks.map(|disk| disk.target.as_str()).collect();
                write!(f, ", with a bitmap on {}", disks.join(", "))
            }
        }
    }
}

/// Changes of a folder of documents that are ready: each new document is written, durable, and has no name yet. Dropped, they are gone.
#[derive(Debug)]
pub struct FolderChange {
    documents: Vec<Synced>,
    forgotten: Vec<PathBuf>,
}

impl FolderChange {
    /// Puts each document in its place in one step, one after the other, then removes those that go. libvirt's daemon reads its own folder
    /// when it starts.
    ///
    /// Fails with an error of the system; changes before it stay, and `done` counts them.
    pub fn commit(self, done: &mut usize) -> Result<()> {
        for document in self.documents {
            document.commit()?;
            *done += 1;
        }
        for file in &self.forgotten {
            fs::remove_file(file).map_err(|error| Error::io("cannot be removed", error).in_file(file))?;
            *done += 1;
        }
        for folder in self.forgotten.iter().filter_map(|file| file.parent()).collect::<BTreeSet<_>>() {
            let synced = File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(|error| Error::io("cannot be made durable", error).in_file(folder))?;
        }
        Ok(())
    }

    /// How many documents change.
    pub fn len(&self) -> usize {
        self.documents.len() + self.forgotten.len()
    }

    /// Whether none changes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Metadata {
    /// Makes changes of the folder of these documents ready. The children of a checkpoint that goes follow its parent.
    ///
    /// Fails with [`ErrorKind::InvalidName`] where a name is none of a file, with [`ErrorKind::Exists`] where another file has the name of a
    /// new document, and with an error of the system where there is no room or no right to write.
    pub fn change_folder(&self, folder: &Path, changes: &[Change]) -> Result<FolderChange> {
        let forgotten: BTreeSet<&Name> =
            changes.iter().filter(|change| matches!(change, Change::Forget(_))).map(Change::name).collect();
        let mut documents: BTreeMap<&Name, DomainCheckpoint> = BTreeMap::new();
        for change in changes {
            if let Change::Tell(told) = change {
                documents.insert(told.name(), (**told).clone());
            }
        }
        for own in self.checkpoints().iter().filter(|own| !forgotten.contains(own.name())) {
            let mut parent = documents.get(own.name()).unwrap_or(own).parent().cloned();
            if !parent.as_ref().is_some_and(|parent| forgotten.contains(parent)) {
                continue;
            }
            while let Some(gone) = parent.as_ref().filter(|parent| forgotten.contains(parent)) {
                let above = self.get(gone).and_then(DomainCheckpoint::parent);
                parent = above.filter(|above| self.get(above).is_some()).cloned();
            }
            let again = documents.get(own.name()).unwrap_or(own).with_parent(parent.as_ref())?;
            documents.insert(own.name(), again);
        }
        let mut ready = Vec::new();
        for document in documents.values() {
            let path = match document.file() {
                Some(file) => file.to_owned(),
                None => folder.join(format!("{}.xml", file_name(document.name())?)),
            };
            if document.file().is_none() && path.symlink_metadata().is_ok() {
                return Err(Error::new(ErrorKind::Exists, "is there already, and has another checkpoint")
                    .advise("move it away first")
                    .in_file(&path));
            }
            let mut file = Target::new(&path)?.begin()?;
            let cannot_write = |error| Error::io("cannot be written", error).in_file(&path);
            file.write_all(document.text().as_bytes()).map_err(cannot_write)?;
            memory::push(&mut ready, file.sync()?)?;
        }
        let gone = forgotten.into_iter().filter_map(|name| self.get(name)?.file()).map(Path::to_owned);
        let gone = memory::gather(gone)?;
        // To remove a file takes the right to write in its folder, as a new file does, which is dropped here.
        for parent in gone.iter().filter_map(|file| file.parent()).collect::<BTreeSet<_>>() {
            let tried = tempfile::Builder::new().prefix(".checkmap-").tempfile_in(parent);
            tried.map_err(|error| Error::io("cannot be changed", error).in_file(parent))?;
        }
        Ok(FolderChange { documents: ready, forgotten: gone })
    }
}

/// The name of a checkpoint as that of a file in the folder, and nowhere else.
fn file_name(name: &Name) -> Result<&str> {
    let text = std::str::from_utf8(name.as_bytes()).ok().filter(|text| can_be_file(text));
    text.ok_or_else(|| Error::new(ErrorKind::InvalidName, format!("{name} can be no name of a file")))
}
