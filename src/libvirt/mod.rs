#![forbid(unsafe_code)]
//! What libvirt keeps of its checkpoints beside the disks: an XML document for each, as `virsh checkpoint-dumpxml` prints it, or as its
//! daemon stores it under `/var/lib/libvirt/qemu/checkpoint/DOMAIN`.
//!
//! ```no_run
//! use checkmap::image::{Access, Image, OpenOptions};
//! use checkmap::libvirt::Metadata;
//! use std::path::Path;
//!
//! let metadata = Metadata::read(Path::new("/var/lib/libvirt/qemu/checkpoint/web"))?;
//! let image = Image::open(Path::new("disk.qcow2"), &OpenOptions::new(Access::Read))?;
//! let mut chain = image.chain(None)?;
//! chain.follow(&metadata.records())?;
//! for checkpoint in chain.checkpoints() {
//!     println!("{} after {:?}, made at {:?}", checkpoint.name, checkpoint.parent, checkpoint.time_seconds);
//! }
//! # Ok::<(), checkmap::Error>(())
//! ```

// Owns the documents that libvirt keeps of checkpoints: read, put in order, written. Must never know images, nor how a document came.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod change;
mod document;
mod folder;
mod write;

pub use change::{Change, FolderChange};
pub use document::{DiskEntry, DomainCheckpoint};
pub use folder::MOST_DOCUMENT_BYTES;
pub(crate) use write::can_be_named;

use crate::chain::{self, Name, Record};
use crate::error::{Error, ErrorKind, Result};
use crate::memory;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The checkpoints of one domain of libvirt.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    checkpoints: Vec<DomainCheckpoint>,
    places: BTreeMap<Name, usize>,
}

impl Metadata {
    /// Reads the documents `*.xml` of a folder; another file is nothing of libvirt's.
    ///
    /// Fails with [`ErrorKind::Damaged`] where one is no document of a checkpoint, has a document type or is too large, with
    /// [`ErrorKind::BrokenChain`] where two tell of the same checkpoint or their parents go round in a circle, and with an error of the
    /// system.
    pub fn read(folder: &Path) -> Result<Self> {
        folder::read(folder).and_then(Self::of).map_err(|error| error.in_file(folder))
    }

    /// Puts checkpoints in order, oldest first: by their parents, then by time and name.
    ///
    /// Fails with [`ErrorKind::BrokenChain`] where two have the same name, or parents go round in a circle. A parent that is missing is no
    /// error.
    pub fn of(checkpoints: Vec<DomainCheckpoint>) -> Result<Self> {
        let mut by_name = BTreeMap::new();
        for (at, checkpoint) in checkpoints.iter().enumerate() {
            if by_name.insert(checkpoint.name(), at).is_some() {
                let message = format!("two documents tell of a checkpoint {}", checkpoint.name());
                return Err(Error::new(ErrorKind::BrokenChain, message)
                    .advise("look which of the two libvirt has, and remove the other one"));
            }
        }
        let mut children: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut free = BTreeSet::new();
        let key = |at: usize| checkpoints.get(at).map(|own| (own.time_seconds(), own.name().clone(), at));
        for (at, checkpoint) in checkpoints.iter().enumerate() {
            match checkpoint.parent().and_then(|parent| by_name.get(parent)) {
                Some(parent) => memory::push(children.entry(*parent).or_default(), at)?,
                None => free.extend(key(at)),
            }
        }
        let mut order: Vec<usize> = memory::room(checkpoints.len())?;
        while let Some((.., at)) = free.pop_first() {
            order.push(at);
            free.extend(children.remove(&at).unwrap_or_default().into_iter().filter_map(key));
        }
        if order.len() < checkpoints.len() {
            let circle = children.values().flatten().filter_map(|at| checkpoints.get(*at)).map(DomainCheckpoint::name);
            let message = format!("the parents of {} go round in a circle", chain::list(circle));
            return Err(Error::new(ErrorKind::BrokenChain, message)
                .advise("libvirt made no such checkpoints: take their documents from a copy, or remove them"));
        }
        drop(by_name);
        let mut checkpoints: Vec<Option<DomainCheckpoint>> = checkpoints.into_iter().map(Some).collect();
        let sorted = order.into_iter().filter_map(|at| checkpoints.get_mut(at)?.take());
        let checkpoints = memory::gather(sorted)?;
        let places = memory::sorted_map(checkpoints.iter().map(|own| own.name().clone()).zip(0..));
        Ok(Self { checkpoints, places })
    }

    /// The checkpoints, oldest first.
    pub fn checkpoints(&self) -> &[DomainCheckpoint] {
        &self.checkpoints
    }

    /// The checkpoint of this name.
    pub fn get(&self, name: &Name) -> Option<&DomainCheckpoint> {
        self.places.get(name).and_then(|at| self.checkpoints.get(*at))
    }

    /// Order, parents and times, for [`Chain::follow`](crate::chain::Chain::follow).
    pub fn records(&self) -> Vec<Record> {
        let record =
            |own: &DomainCheckpoint| Record::new(own.name().clone(), own.parent().cloned(), own.time_seconds());
        self.checkpoints.iter().map(record).collect()
    }

    /// The disk of the domain, such as `vda`, whose image was this file when the newest checkpoint was made that tells of it. `None`
    /// where none does, or two disks had it.
    pub fn target_of(&self, image: &Path) -> Option<&str> {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let wanted = real(image);
        self.checkpoints.iter().rev().find_map(|own| {
            let mut found = own.sources().filter(|(_, source)| real(Path::new(source)) == wanted);
            match (found.next(), found.next()) {
                (Some((target, _)), None) => Some(target),
                _ => None,
            }
        })
    }

    /// Whether one of these files can have been the image of a disk: a document says so, or none tells its file.
    pub(crate) fn may_be(&self, target: &str, files: &[PathBuf]) -> bool {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let sources = self.checkpoints.iter().flat_map(DomainCheckpoint::sources).filter(|(own, _)| *own == target);
        let mut sources = sources.map(|(_, source)| real(Path::new(source))).peekable();
        sources.peek().is_none() || sources.any(|source| files.iter().any(|file| real(file) == source))
    }

    /// The disks that any checkpoint speaks of, by name.
    pub fn targets(&self) -> BTreeSet<&str> {
        memory::sorted_set(self.checkpoints.iter().flat_map(|own| own.disks().iter().map(|disk| disk.target.as_str())))
    }
}
