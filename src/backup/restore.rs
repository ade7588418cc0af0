#![forbid(unsafe_code)]
//! Owns the way of a moment to its target: a new file, one that may be replaced, or a device. Must never replace what it was not
//! told to, nor what somebody uses.

use super::compose::{Moment, Sink};
use super::directory::{Directory, sync, temporary};
use super::manifest::DiskRecord;
use crate::error::{Error, ErrorKind, Result};
use crate::formats::{self, Fresh};
use crate::io::locks::{self, Held, Role};
use crate::progress::Observer;
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The format that a restored disk gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TargetFormat {
    /// An image that can keep bitmaps.
    #[default]
    Image,
    /// The bytes of the disk themselves.
    Raw,
}

impl TargetFormat {
    /// The format that QEMU calls so.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "raw" => Some(Self::Raw),
            name => formats::keeps_bitmaps(name).then_some(Self::Image),
        }
    }
}

/// A moment that is to be restored, and its target.
#[derive(Clone, Copy, Debug)]
pub struct RestoreRequest<'a> {
    disk: &'a [u8],
    at: Option<&'a [u8]>,
    target: &'a Path,
    format: Option<TargetFormat>,
    force: bool,
}

impl<'a> RestoreRequest<'a> {
    /// The newest moment of a disk, to `target`.
    pub fn new(disk: &'a [u8], target: &'a Path) -> Self {
        Self { disk, at: None, target, format: None, force: false }
    }

    /// The moment of this checkpoint.
    #[must_use]
    pub fn at(self, at: Option<&'a [u8]>) -> Self {
        Self { at, ..self }
    }

    /// The format of the new file. A device gets the bytes of the disk, and no other format.
    #[must_use]
    pub fn format(self, format: Option<TargetFormat>) -> Self {
        Self { format, ..self }
    }

    /// Replace a file that is there, or write over a device; never one that somebody uses.
    #[must_use]
    pub fn force(self, force: bool) -> Self {
        Self { force, ..self }
    }
}

/// The kind of the target, looked at before anything is read.
#[derive(Debug)]
enum Target {
    /// Nothing is there.
    New,
    /// A file that is to be replaced.
    File,
    /// A block device.
    Device,
}

/// The target as it is now, and the lock on it where somebody could use it.
struct Found {
    kind: Target,
    file: Option<Arc<File>>,
    _locks: Option<Held>,
}

pub(super) fn restore(directory: &Directory, request: &RestoreRequest<'_>, observer: &mut dyn Observer) -> Result<()> {
    let disk = directory.manifest.disk(request.disk).ok_or_else(|| {
        let name = String::from_utf8_lossy(request.disk).into_owned();
        Error::new(ErrorKind::NotFound, format!("the directory has no disk '{name}'")).in_file(&directory.path)
    })?;
    let place = place_of(disk, request.at).map_err(|error| error.in_file(&directory.path))?;
    directory.check_outside(request.target)?;
    let found = look(request).map_err(|error| error.in_file(request.target))?;
    let moment = Moment::open(directory, disk, disk.root_of(place)..=place)?;
    match (&found.kind, &found.file) {
        (Target::Device, Some(device)) => to_device(&moment, device, observer),
        _ => to_file(&moment, request, &found, observer),
    }
    .map_err(|error| error.in_file(request.target))
}

fn place_of(disk: &DiskRecord, at: Option<&[u8]>) -> Result<usize> {
    let place = match at {
        Some(at) => disk.backups.iter().position(|backup| backup.checkpoint == at && !backup.is_given_up),
        None => disk.backups.len().checked_sub(1),
    };
    place.ok_or_else(|| {
        let of = String::from_utf8_lossy(&disk.name).into_owned();
        let at = at.map(|at| format!(" '{}'", String::from_utf8_lossy(at))).unwrap_or_default();
        Error::new(ErrorKind::NotFound, format!("the directory keeps no moment{at} of the disk '{of}'"))
    })
}

/// Looks at the target, and refuses one that may not be written.
fn look(request: &RestoreRequest<'_>) -> Result<Found> {
    let metadata = match fs::metadata(request.target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A link that leads nowhere is something, too.
            return match fs::symlink_metadata(request.target) {
                Err(_) => Ok(Found { kind: Target::New, file: None, _locks: None }),
                Ok(_) => Err(Error::new(ErrorKind::InvalidArgument, "is a link to a file that is not there")),
            };
        }
        metadata => metadata.map_err(|error| Error::io("cannot look at the target", error))?,
    };
    let kind = match metadata.file_type() {
        kind if kind.is_file() => Target::File,
        kind if kind.is_block_device() => Target::Device,
        _ => return Err(Error::new(ErrorKind::InvalidArgument, "is neither a file nor a block device")),
    };
    if !request.force {
        let message = "is there already, and nothing is replaced without being told to";
        return Err(Error::new(ErrorKind::Exists, message).advise("name a new file, or insist on replacing it"));
    }
    if matches!(kind, Target::Device) && request.format == Some(TargetFormat::Image) {
        return Err(Error::new(ErrorKind::InvalidArgument, "is a device, which gets the bytes of the disk alone"));
    }
    let mut options = File::options();
    options.read(true).write(true);
    if matches!(kind, Target::Device) {
        // The kernel refuses a device that is mounted, or part of another one.
        options.custom_flags(libc::O_EXCL);
    }
    let file = Arc::new(options.open(request.target).map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => Error::new(ErrorKind::InUse, "is in use").with_source(error),
        _ => Error::io("cannot open", error),
    })?);
    let locks = match locks::acquire(&file, Role::Writer) {
        Err(error) if error.kind() == ErrorKind::NoLocks => None,
        locked => Some(locked?),
    };
    Ok(Found { kind, file: Some(file), _locks: locks })
}

fn to_file(moment: &Moment, request: &RestoreRequest<'_>, found: &Found, observer: &mut dyn Observer) -> Result<()> {
    // Links are followed: the file behind them is replaced.
    let path = match found.kind {
        Target::New => request.target.to_owned(),
        _ => fs::canonicalize(request.target).map_err(|error| Error::io("cannot find the target", error))?,
    };
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let temporary = temporary(&folder)?;
    let failed = |error| Error::io("cannot be written", error);
    let handle = temporary.as_file().try_clone().map_err(failed)?;
    match request.format.unwrap_or_default() {
        TargetFormat::Raw => {
            handle.set_len(moment.size_bytes()).map_err(failed)?;
            moment.walk(None, &mut Sparse { file: &handle }, observer)?;
        }
        TargetFormat::Image => {
            let mut image = ToImage { fresh: Fresh::begin(handle, moment.size_bytes(), None)? };
            moment.walk(None, &mut image, observer)?;
            image.fresh.finish()?;
        }
    }
    temporary.as_file().sync_all().map_err(failed)?;
    if let Some(old) = &found.file {
        let permissions = old.metadata().map_err(failed)?.permissions();
        temporary.as_file().set_permissions(permissions).map_err(failed)?;
    }
    let persisted = match found.kind {
        Target::New => temporary.persist_noclobber(&path),
        _ => temporary.persist(&path),
    };
    persisted.map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => Error::new(ErrorKind::Exists, "came to be there meanwhile"),
        _ => failed(error.error),
    })?;
    sync(&folder)
}

fn to_device(moment: &Moment, device: &Arc<File>, observer: &mut dyn Observer) -> Result<()> {
    let failed = |error| Error::io("cannot be written", error);
    let size = (&**device).seek(SeekFrom::End(0)).map_err(failed)?;
    if size < moment.size_bytes() {
        let message = format!("has {size} bytes, the disk {}", moment.size_bytes());
        return Err(Error::new(ErrorKind::NoSpace, message).nothing_changed());
    }
    moment.walk(None, &mut Whole { device }, observer)?;
    device.sync_all().map_err(failed)
}

/// A new file, in which nothing has to be written for zeros.
struct Sparse<'a> {
    file: &'a File,
}

impl Sink for Sparse<'_> {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, offset).map_err(|error| Error::io("cannot be written", error))
    }

    fn zeros(&mut self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }
}

/// A new image without a file below.
struct ToImage {
    fresh: Fresh,
}

impl Sink for ToImage {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.fresh.data(offset, bytes)
    }

    fn zeros(&mut self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }
}

/// A device, which holds anything before.
struct Whole<'a> {
    device: &'a File,
}

impl Sink for Whole<'_> {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.device.write_all_at(bytes, offset).map_err(|error| Error::io("cannot be written", error))
    }

    fn zeros(&mut self, offset: u64, len_bytes: u64) -> Result<()> {
        if fallocate(self.device, FallocateFlags::ZERO_RANGE, offset, len_bytes).is_ok() {
            return Ok(());
        }
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        let end = offset + len_bytes;
        let mut at = offset;
        while at < end {
            let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(ZEROS.len());
            self.data(at, ZEROS.get(..len).unwrap_or_default())?;
            at += len as u64;
        }
        Ok(())
    }
}
