#![forbid(unsafe_code)]
//! Owns a backup directory as files: who may use it, how its manifest is read and replaced, how a new file appears, and what an
//! interrupted run left behind. Must never know what the files hold.
//!
//! A file that the manifest does not name does not exist for anybody. So the files of a new moment come first, each written under
//! a temporary name, made durable and renamed, and the manifest last, in one step.
//!
//! Where files of a kept moment are replaced, the new ones wait, durable, under the name of a successor (`mon.sums.next`). Then
//! the manifest tells of them in one step, and calls them moving; then they are renamed over the old ones. Until they are, the
//! successors are read in their place, and the next run that may change the directory renames them. [`super::fold`] has an order of
//! its own.

use super::manifest::{Backup, DiskRecord, Manifest, file_name, sums_name};
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::Extent;
use crate::io::replace::Target;
use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags, fallocate, flock};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// The name of the manifest.
pub(crate) const MANIFEST: &str = "backup.json";
/// How the names of successors end.
const SUCCESSOR: &str = ".next";
/// How temporary files begin, those of [`Target`] among them.
const TEMPORARY: &str = ".checkmap-";
/// It holds plaintext of disks that may be encrypted.
const MODE: u32 = 0o700;
/// A longer manifest is none.
const MOST_BYTES: u64 = 1 << 30;

/// The use that is made of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Others can read it too.
    Read,
    /// Nobody else.
    Change,
    /// As `Change`; it is made where it is not there.
    Create,
}

/// A backup directory, locked until it is dropped.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) path: PathBuf,
    pub(crate) manifest: Manifest,
    purpose: Use,
    _lock: File,
}

impl Directory {
    pub(crate) fn open(path: &Path, purpose: Use) -> Result<Self> {
        Self::opened(path, purpose).map_err(|error| error.in_file(path))
    }

    fn opened(path: &Path, purpose: Use) -> Result<Self> {
        if purpose == Use::Create {
            match DirBuilder::new().mode(MODE).create(path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => {
                    made.map_err(|error| Error::io("cannot make the directory", error))?;
                    match sync(folder_of(path)) {
                        // Who may make a folder there need not be allowed to list it.
                        Err(error) if error.errno() == libc::EACCES => {}
                        synced => synced?,
                    }
                }
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let lock = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| Error::io("cannot open the directory", error.into()))?;
        let shared = purpose == Use::Read;
        let operation =
            if shared { FlockOperation::NonBlockingLockShared } else { FlockOperation::NonBlockingLockExclusive };
        match flock(&lock, operation) {
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let message = "another checkmap works on this backup directory";
                return Err(Error::new(ErrorKind::InUse, message).advise("wait for its end"));
            }
            locked => locked.map_err(|error| Error::io("cannot lock the directory", error.into()))?,
        }
        let manifest = read_manifest(&path.join(MANIFEST))?;
        let is_new = manifest.is_none();
        let manifest = match (manifest, purpose) {
            (Some(manifest), _) => manifest,
            (None, Use::Create) => begin(path)?,
            (None, _) => {
                let message = format!("is no backup directory: it has no {MANIFEST}");
                return Err(Error::new(ErrorKind::NotFound, message));
            }
        };
        let directory = Self { path: path.to_owned(), manifest, purpose, _lock: lock.into() };
        if is_new {
            directory.save()?;
        }
        Ok(directory)
    }

    /// The directory, to change it: others may read one that was opened for reading.
    pub(crate) fn changed(&mut self) -> Result<&mut Self> {
        match self.purpose {
            Use::Read => {
                let message = "the backup directory was opened for reading";
                Err(Error::new(ErrorKind::ReadOnly, message).in_file(&self.path))
            }
            Use::Change | Use::Create => Ok(self),
        }
    }

    /// Puts the manifest in the place of the old one, in one step.
    pub(crate) fn save(&self) -> Result<()> {
        let path = self.path.join(MANIFEST);
        let mut replacement = Target::new(&path)?.begin()?;
        replacement
            .write_all(&self.manifest.encode()?)
            .map_err(|error| Error::io("cannot be written", error).in_file(&path))?;
        replacement.sync()?.commit()
    }

    /// The record of a disk, which is there from now on.
    pub(crate) fn record(&mut self, name: &[u8]) -> Result<&mut DiskRecord> {
        let found = self.manifest.disks.iter_mut().find(|disk| disk.name == name);
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, "the directory has no such disk"))
    }

    /// The folder of a disk's files.
    pub(crate) fn folder(&self, disk: &DiskRecord) -> PathBuf {
        self.path.join(disk.folder())
    }

    /// The file of a backup.
    pub(crate) fn file(&self, disk: &DiskRecord, backup: &Backup) -> PathBuf {
        present(self.folder(disk).join(backup.file_name()), backup)
    }

    /// The list of sums of a backup.
    pub(crate) fn sums(&self, disk: &DiskRecord, backup: &Backup) -> PathBuf {
        present(self.folder(disk).join(backup.sums_name()), backup)
    }

    /// Renames successors that a run left where they were written, and lets the manifest say so.
    pub(crate) fn finish_moves(&mut self) -> Result<()> {
        let mut moved = false;
        for disk in &self.manifest.disks {
            let folder = self.path.join(disk.folder());
            for backup in disk.backups.iter().filter(|backup| backup.is_moving) {
                for name in [backup.file_name(), backup.sums_name()] {
                    let path = folder.join(name);
                    match fs::rename(successor(&path), &path) {
                        // It was renamed before.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        renamed => renamed.map_err(|error| Error::io("cannot be renamed", error).in_file(&path))?,
                    }
                }
                moved = true;
            }
            if moved {
                sync(&folder)?;
            }
        }
        if moved {
            let backups = self.manifest.disks.iter_mut().flat_map(|disk| &mut disk.backups);
            backups.for_each(|backup| backup.is_moving = false);
            self.save()?;
        }
        Ok(())
    }

    /// Makes the folder of a disk where it is not there.
    pub(crate) fn make_folder(&self, disk: &DiskRecord) -> Result<()> {
        let folder = self.folder(disk);
        let failed = |error| Error::io("cannot make the folder", error).in_file(&folder);
        match DirBuilder::new().mode(MODE).create(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(failed(error)),
            Ok(()) => sync(&self.path),
        }
    }

    /// Removes what no moment needs: temporary files, and the files of moments that did not come to be or were given up. All of it
    /// is of runs that were interrupted, as nobody else works here. Files of other names are not ours.
    pub(crate) fn clear(&mut self) -> Result<()> {
        clear_folder(&self.path, &|name| name.starts_with(TEMPORARY))?;
        for disk in &mut self.manifest.disks {
            let folder = self.path.join(disk.folder());
            if !folder.is_dir() {
                continue;
            }
            let mut left = Vec::new();
            for backup in &disk.backups {
                if !backup.is_moving {
                    left.push(backup.file_name() + SUCCESSOR);
                }
                if !backup.is_moving && backup.fold.is_none() {
                    left.push(backup.sums_name() + SUCCESSOR);
                }
            }
            let kept = |name: &Vec<u8>| disk.place_of(name).is_some();
            let pending = disk.pending.iter().map(|mark| &mark.checkpoint);
            for name in pending.chain(&disk.gone).filter(|name| !kept(name)) {
                let names = [file_name(name), sums_name(name)];
                left.extend(names.iter().map(|name| name.clone() + SUCCESSOR));
                left.extend(names);
            }
            clear_folder(&folder, &|name| name.starts_with(TEMPORARY) || left.iter().any(|left| left == name))?;
            disk.gone.clear();
        }
        Ok(())
    }

    /// Refuses a file that lies in the directory: what others do with it would cost moments.
    pub(crate) fn check_outside(&self, path: &Path) -> Result<()> {
        // A link is followed when the file is replaced.
        let folder = match fs::canonicalize(path) {
            Ok(there) => there,
            Err(_) => {
                fs::canonicalize(folder_of(path)).map_err(|error| Error::io("cannot find", error).in_file(path))?
            }
        };
        let own = fs::canonicalize(&self.path).map_err(|error| Error::io("cannot find", error).in_file(&self.path))?;
        if folder.starts_with(own) {
            let message = "lies in the backup directory, whose files are its own";
            return Err(Error::new(ErrorKind::InvalidArgument, message).in_file(path));
        }
        Ok(())
    }
}

/// The folder that a path names its last part in.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        Some(_) => Path::new("."),
        None => path,
    }
}

/// The path of the file that is to replace the one at `path`.
pub(crate) fn successor(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(SUCCESSOR);
    name.into()
}

/// Where a file of a backup lies at present.
fn present(path: PathBuf, backup: &Backup) -> PathBuf {
    let next = successor(&path);
    if backup.is_moving && next.exists() { next } else { path }
}

/// The manifest of a directory that is to become one for backups: it must be empty, but for what an interrupted run left.
fn begin(path: &Path) -> Result<Manifest> {
    let entries = fs::read_dir(path).map_err(|error| Error::io("cannot list the directory", error))?;
    for entry in entries {
        let name = entry.map_err(|error| Error::io("cannot list the directory", error))?.file_name();
        // A disk for backups alone has this folder from its file system.
        let is_fine = name == "lost+found" || name.to_string_lossy().starts_with(TEMPORARY);
        if !is_fine {
            let message = format!("is no backup directory, and not empty: it has {}", name.to_string_lossy());
            return Err(Error::new(ErrorKind::Exists, message).advise("name another directory"));
        }
    }
    fs::set_permissions(path, Permissions::from_mode(MODE))
        .map_err(|error| Error::io("cannot set the mode of the directory", error))?;
    let mut id = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut id))
        .map_err(|error| Error::io("cannot make an id", error))?;
    Ok(Manifest { id: id.iter().map(|byte| format!("{byte:02x}")).collect(), disks: Vec::new() })
}

fn read_manifest(path: &Path) -> Result<Option<Manifest>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|error| Error::io("cannot open", error).in_file(path))?,
    };
    let mut text = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut text).map_err(|error| Error::io("cannot read", error).in_file(path))?;
    Manifest::decode(&text).map(Some).map_err(|error| error.in_file(path))
}

fn clear_folder(folder: &Path, is_left: &dyn Fn(&str) -> bool) -> Result<()> {
    let failed = |error| Error::io("cannot clear what an interrupted run left", error).in_file(folder);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_file = entry.file_type().map_err(failed)?.is_file();
        // Names of ours are UTF-8.
        if is_file && entry.file_name().to_str().is_some_and(is_left) {
            fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

/// A new file in `folder`, under a temporary name.
pub(crate) fn temporary(folder: &Path) -> Result<NamedTempFile> {
    let made = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(folder);
    made.map_err(|error| Error::io("cannot make a file", error).in_file(folder))
}

/// Makes a file durable, and gives it its name; what stood there is replaced.
pub(crate) fn place(file: NamedTempFile, path: &Path) -> Result<()> {
    let failed = |error| Error::io("cannot be written", error).in_file(path);
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    sync(folder_of(path))
}

/// Renames a file that is durable, in its folder; what stood under the new name is replaced.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|error| Error::io("cannot be renamed", error).in_file(from))?;
    sync(folder_of(to))
}

/// Gives the room of parts of a file back, whose bytes nobody reads. Where the file system cannot do that, they stay.
pub(crate) fn clear_room(file: &File, parts: &[Extent]) {
    for part in parts {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if fallocate(file, flags, part.offset, part.len_bytes).is_err() {
            break;
        }
    }
}

/// Makes the names in a folder durable.
pub(crate) fn sync(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| Error::io("cannot be made durable", error).in_file(folder))
}
