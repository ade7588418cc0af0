#![forbid(unsafe_code)]
//! Owns one file of a backup directory, read by itself, and every byte compared with its sum. Must never read the file below it:
//! so damage of one file is never taken for the content of another.

use super::directory::Directory;
use super::manifest::{Backup, DiskRecord};
use super::sums::{Summed, Sums};
use crate::checksum::crc32c;
use crate::error::{Error, ErrorKind, Result};
use crate::formats::{self, LAYERED_FORMAT, PlainDisk, PlainLayer, data_needs};
use crate::host::{Backing, Host};
use crate::io::locks::{self, Held, Role};
use crate::io::{FileStorage, Storage};
use crate::progress::Observer;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A backup's file and its list of sums.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) path: PathBuf,
    pub(super) size_bytes: u64,
    pub(super) sums: Sums,
    disk: PlainDisk,
    host: Box<dyn Host>,
    /// Whether a fold changes it, so that it can hold more than its list says.
    is_changing: bool,
    _locks: Option<Held>,
}

/// The list of sums of a backup.
pub(super) fn read_sums(directory: &Directory, disk: &DiskRecord, backup: &Backup) -> Result<Sums> {
    let path = directory.sums(disk, backup);
    let file = File::open(&path).map_err(|error| Error::io("cannot open", error).in_file(&path))?;
    Sums::read(&file, backup.size_bytes, backup.sums).map_err(|error| error.in_file(&path))
}

impl Layer {
    /// Opens the backup at `place` of a disk.
    pub(super) fn open(directory: &Directory, disk: &DiskRecord, place: usize) -> Result<Self> {
        Self::locked(directory, disk, place, true)
    }

    /// Opens it, and keeps writers out unless the caller is the writer.
    pub(super) fn locked(directory: &Directory, disk: &DiskRecord, place: usize, locked: bool) -> Result<Self> {
        let backup = disk.backups.get(place);
        let backup = backup.ok_or_else(|| Error::new(ErrorKind::NotFound, "the disk has no such backup"))?;
        let below = place.checked_sub(1).filter(|_| !backup.is_full).and_then(|place| disk.backups.get(place));
        let path = directory.file(disk, backup);
        let sums = read_sums(directory, disk, backup)?;
        let name = below.map(backing_name);
        Self::of(&path, backup, name.as_deref(), sums, locked).map_err(|error| error.in_file(&path))
    }

    fn of(path: &Path, backup: &Backup, below: Option<&str>, sums: Sums, locked: bool) -> Result<Self> {
        let file = Arc::new(File::open(path).map_err(|error| Error::io("cannot open", error))?);
        let locks = match locked.then(|| locks::acquire(&file, Role::Reader)).transpose() {
            Err(error) if error.kind() == ErrorKind::NoLocks => None,
            locked => locked?,
        };
        let storage: Arc<dyn Storage> =
            Arc::new(FileStorage::new(Arc::clone(&file)).map_err(|error| Error::io("cannot be used", error))?);
        let host = formats::open_layered(Arc::clone(&storage)).map_err(as_damage)?;
        let (facts, needs) = (host.facts(), data_needs(&*storage)?);
        let size_bytes = backup.size_bytes;
        // A fold changes the size of a file that is given up.
        if facts.size_bytes != size_bytes && !(backup.is_given_up && facts.size_bytes > size_bytes) {
            let message = format!("it is of a disk of {} bytes, the manifest says {size_bytes}", facts.size_bytes);
            return Err(Error::new(ErrorKind::Damaged, message));
        }
        let found = facts.backing.map(|Backing { name, format, .. }| (name, format));
        if found != below.map(|name| (name.as_bytes(), Some(LAYERED_FORMAT.as_bytes()))) {
            return Err(Error::new(ErrorKind::Damaged, "it does not lie on the file that the manifest says"));
        }
        if let Some(why) = needs.why_not_plain {
            return Err(Error::new(ErrorKind::Damaged, format!("it {why}, as no backup is")));
        }
        let disk = PlainDisk::open(vec![PlainLayer { file, is_raw: false, data_file: None }])?;
        let is_changing = backup.is_given_up && backup.is_full;
        Ok(Self { path: path.to_owned(), size_bytes, sums, disk, host, is_changing, _locks: locks })
    }

    /// Reads an extent of data, and compares it with its sum.
    pub(super) fn read(&self, summed: Summed, buffer: &mut [u8]) -> Result<()> {
        self.disk
            .read_at(buffer, summed.extent.offset)
            .map_err(|error| Error::io("cannot be read", error).in_file(&self.path))?;
        if crc32c(buffer) != summed.sum {
            let message = format!(
                "{} bytes at {} are damaged: their checksum is another one",
                buffer.len(),
                summed.extent.offset
            );
            return Err(Error::new(ErrorKind::Damaged, message).in_file(&self.path));
        }
        Ok(())
    }

    /// Whether the file holds just the clusters that the list names: others would hide, or let through, what lies below.
    pub(super) fn check_held(&self, observer: &mut dyn Observer) -> Result<()> {
        let held = self.host.allocated(0, u64::MAX, observer)?;
        let expected = self.sums.held()?;
        match held {
            Some(mut held) if self.is_changing => {
                held.resize(expected.size_bytes())?;
                if expected.difference(&held)?.is_empty() { Ok(()) } else { Err(self.holds_others()) }
            }
            Some(held) if held.symmetric_difference(&expected)?.is_empty() => Ok(()),
            _ => Err(self.holds_others()),
        }
    }

    fn holds_others(&self) -> Error {
        let message = "it does not hold the clusters that its list of sums names";
        Error::new(ErrorKind::Damaged, message).in_file(&self.path)
    }
}

/// Whether the file at `path` is an image that lies on no other one; false where it cannot be read.
pub(super) fn stands_alone(path: &Path) -> bool {
    let storage = File::open(path).and_then(FileStorage::new);
    let host = storage.ok().and_then(|storage| formats::open_layered(Arc::new(storage)).ok());
    host.is_some_and(|host| host.facts().backing.is_none())
}

/// The name by which the next backup refers to this one: without the beginning a colon would name a protocol.
pub(super) fn backing_name(backup: &Backup) -> String {
    format!("./{}", backup.file_name())
}

/// A file that is no image any more is a damaged one.
fn as_damage(error: Error) -> Error {
    match error.kind() {
        ErrorKind::UnknownFormat | ErrorKind::Unsupported => error.with_kind(ErrorKind::Damaged),
        _ => error,
    }
}
