#![forbid(unsafe_code)]
//! Backups of disks in a directory: taken, listed, verified, restored and pruned.
//!
//! A [`BackupDirectory`] keeps moments of disks, of images or of a running machine. Each is a file that lies on the one before it, so that QEMU's own tools restore it
//! too, with a list of checksums beside it; `backup.json` says which there are. Only complete moments are in it: whenever a
//! program or the machine stops, the next run finds the moments that were there before.
//!
//! ```no_run
//! use checkmap::backup::{BackupDirectory, Options, Source};
//! use checkmap::progress::Unobserved;
//! use std::path::Path;
//!
//! let mut directory = BackupDirectory::create(Path::new("/backup/vm"))?;
//! let disk = Source::new(Path::new("disk.qcow2"));
//! for (taken, done) in directory.take(&[disk], &Options::new(b"monday"), &mut Unobserved)? {
//!     println!("{}: {}", String::from_utf8_lossy(&taken.name), if done.is_ok() { "done" } else { "failed" });
//! }
//! # Ok::<(), checkmap::Error>(())
//! ```

// Owns backup directories. Must never know how the content of a disk is read, nor how a checkpoint is made.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod changes;
mod compose;
mod copy;
mod directory;
mod fold;
mod images;
mod layer;
mod manifest;
mod names;
mod origin;
mod plan;
mod prune;
mod restore;
mod running;
mod sums;
mod take;
mod verify;
mod writer;

use crate::bitmap::Bitmap;
pub use crate::content::SourceFile;
use crate::error::{Error, Result};
use crate::progress::Observer;
use crate::qemu::{Machine, MomentOptions};
use directory::{Directory, MANIFEST, Use};
use images::Images;
pub use manifest::{Backup, DiskRecord};
pub use names::{checkpoint_name, file_name};
pub use plan::{Planned, Tier, plan, plan_running};
pub use prune::{Keep, Pruned};
pub use restore::{RestoreRequest, TargetFormat};
pub use running::RunningSource;
use running::{Running, Watching};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;
pub use verify::{Finding, Verified};

/// A disk that is to be backed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source<'a> {
    /// Its image.
    pub image: &'a Path,
    /// Its name in the directory; any bytes.
    pub name: Vec<u8>,
}

impl<'a> Source<'a> {
    /// The disk of an image, named after the file.
    pub fn new(image: &'a Path) -> Self {
        let name = image.file_name().map(OsStr::as_bytes).unwrap_or_default().to_vec();
        Self { image, name }
    }
}

/// How backups are taken.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    checkpoint: &'a [u8],
    full: bool,
    keep_checkpoints: usize,
    secret_file: Option<&'a Path>,
    no_lock: bool,
    threads: usize,
}

impl<'a> Options<'a> {
    /// The moment gets this name: that of the checkpoint on every disk.
    pub fn new(checkpoint: &'a [u8]) -> Self {
        Self { checkpoint, full: false, keep_checkpoints: 1, secret_file: None, no_lock: false, threads: 0 }
    }

    /// Copy all, also where an increment could be taken; and take an image that was moved for the disk of that name.
    #[must_use]
    pub fn full(self, full: bool) -> Self {
        Self { full, ..self }
    }

    /// How many checkpoints that the directory made stay on each disk, the new one among them; at least 1, which is the default.
    #[must_use]
    pub fn keep_checkpoints(self, keep_checkpoints: usize) -> Self {
        Self { keep_checkpoints, ..self }
    }

    /// The file that holds the passphrase of encrypted layers.
    #[must_use]
    pub fn secret_file(self, secret_file: Option<&'a Path>) -> Self {
        Self { secret_file, ..self }
    }

    /// Take no locks on the images, see [`OpenOptions::no_lock`](crate::image::OpenOptions::no_lock).
    #[must_use]
    pub fn no_lock(self, no_lock: bool) -> Self {
        Self { no_lock, ..self }
    }

    /// How many threads read bitmaps, see [`OpenOptions::threads`](crate::image::OpenOptions::threads); from 2 on the disk is read on
    /// one while another writes the backup.
    #[must_use]
    pub fn threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }
}

/// What came of one disk.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Taken {
    /// The name of the disk in the directory.
    pub name: Vec<u8>,
    /// The new moment, where there is one.
    pub backup: Option<Backup>,
    /// The files that were read for it, the top one first.
    pub files: Vec<SourceFile>,
    /// Why the content was read by a private qemu-nbd, in a sentence; none where this process read it itself.
    pub through_qemu: Option<String>,
    /// The checkpoints that were dropped from the disk.
    pub dropped: Vec<Vec<u8>>,
    /// What the caller should tell its user.
    pub warnings: Vec<String>,
}

impl Taken {
    fn of(name: &[u8]) -> Self {
        let (files, dropped, warnings) = (Vec::new(), Vec::new(), Vec::new());
        Self { name: name.to_vec(), backup: None, files, through_qemu: None, dropped, warnings }
    }
}

/// Why a disk is not done.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// The cause.
    pub error: Error,
    /// Whether the backup is complete all the same, and only older checkpoints stay on the disk.
    pub is_backed_up: bool,
}

/// Tells what [`BackupDirectory::take`] would write into the directory at `path`, which need not be there: for each disk the moment
/// as it would be, its bytes at most. Nothing is changed; the errors are those of `take`.
pub fn preview(
    path: &Path,
    sources: &[Source<'_>],
    options: &Options<'_>,
    observer: &mut dyn Observer,
) -> Result<Vec<Taken>> {
    let directory = match fs::symlink_metadata(path.join(MANIFEST)) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => None,
        _ => Some(BackupDirectory::open(path)?),
    };
    let mut images = Images::of(sources, options)?;
    take::preview(directory.as_ref().map(|directory| &directory.0), &mut images, options, observer)
}

/// A directory of backups. It is locked until it is dropped: many can read it at once, one can change it.
#[derive(Debug)]
pub struct BackupDirectory(Directory);

impl BackupDirectory {
    /// Opens a directory to read it. [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): it is none;
    /// [`ErrorKind::InUse`](crate::ErrorKind::InUse): somebody changes it;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): a newer version of checkmap made it.
    pub fn open(path: &Path) -> Result<Self> {
        Self::opened(path, Use::Read)
    }

    /// As [`open`](Self::open), to change it: what an interrupted run left is finished or cleared.
    pub fn open_to_change(path: &Path) -> Result<Self> {
        Self::opened(path, Use::Change)
    }

    /// As [`open_to_change`](Self::open_to_change); where there is no directory, or an empty one, it becomes one with mode 0700.
    pub fn create(path: &Path) -> Result<Self> {
        Self::opened(path, Use::Create)
    }

    fn opened(path: &Path, purpose: Use) -> Result<Self> {
        let mut directory = Directory::open(path, purpose)?;
        fold::notice(&mut directory)?;
        if purpose != Use::Read {
            directory.finish_moves()?;
            directory.clear()?;
        }
        Ok(Self(directory))
    }

    /// Whether the folder at `path` has the manifest of a backup directory.
    pub fn is_one(path: &Path) -> bool {
        path.join(MANIFEST).is_file()
    }

    /// The disks and their kept moments.
    pub fn disks(&self) -> &[DiskRecord] {
        &self.0.manifest.disks
    }

    /// What the file of a moment of a disk holds itself, data or zeros: of an increment what changed since the moment before, of a full
    /// backup what the disk had. The list beside the file tells it; the file is not read.
    ///
    /// A list that is damaged is [`ErrorKind::Damaged`](crate::ErrorKind::Damaged).
    pub fn held(&self, disk: &DiskRecord, backup: &Backup) -> Result<Bitmap> {
        layer::read_sums(&self.0, disk, backup)?.held()
    }

    /// Takes a backup of every disk, all with one checkpoint name. An error changes nothing; what came of each disk is in the list.
    ///
    /// The first backup of a disk is full, later ones hold what changed since the last one, or all with the reason why.
    /// [`ErrorKind::Changed`](crate::ErrorKind::Changed): the disk of that name in the directory is of another image.
    /// [`ErrorKind::Exists`](crate::ErrorKind::Exists): the checkpoint is there already.
    /// [`ErrorKind::ReadOnly`](crate::ErrorKind::ReadOnly): the directory was opened to read it.
    pub fn take(
        &mut self,
        sources: &[Source<'_>],
        options: &Options<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Vec<(Taken, std::result::Result<(), Failure>)>> {
        let directory = self.0.changed()?;
        let mut images = Images::of(sources, options)?;
        for place in images.places() {
            directory.check_outside(place)?;
        }
        take::take(directory, &mut images, options, observer)
    }

    /// As [`take`](Self::take), of disks of a running machine, while its guest writes on: all as they were at one moment, at which
    /// the checkpoint is made (see [`Machine::begin_moment`]). A moment that an interrupted run of this directory left in the machine is
    /// backed up in the place of a new one, under its own name; `abandon` ends it before.
    ///
    /// `say` is called with what the user should know at once. [`ErrorKind::InUse`](crate::ErrorKind::InUse): a moment of somebody else
    /// stands in the machine, or a job works on the disks. [`ErrorKind::CannotStore`](crate::ErrorKind::CannotStore): too little room for
    /// the scratch. Where the moment is lost, no disk that was not read yet is backed up, and the next run has all changes.
    pub fn take_running(
        &mut self,
        (machine, sources): (&Machine, &[RunningSource]),
        options: &Options<'_>,
        (moment, abandon): (&MomentOptions, bool),
        say: &dyn Fn(&str),
        observer: &mut dyn Observer,
    ) -> Result<Vec<(Taken, std::result::Result<(), Failure>)>> {
        let watch = RefCell::new(None);
        let manifest = &self.0.changed()?.manifest;
        let known = (manifest.id.as_str(), manifest.disks.as_slice());
        let mut running = Running::new((machine, sources), known, (moment, options.threads), say, &watch)?;
        if abandon {
            running.abandon(observer)?;
        }
        let mut watching = Watching { inner: observer, watch: &watch, say, looked: Instant::now(), is_told: false };
        take::take(&mut self.0, &mut running, options, &mut watching)
    }

    /// Writes a moment of a disk to a new file, an existing one that may be replaced, or a device, and compares all that it
    /// reads with the sums.
    pub fn restore(&self, request: &RestoreRequest<'_>, observer: &mut dyn Observer) -> Result<()> {
        restore::restore(&self.0, request, observer)
    }

    /// Reads everything, and says which files are damaged or missing and which moments that costs.
    pub fn verify(&self, observer: &mut dyn Observer) -> Result<Verified> {
        verify::verify(&self.0, observer)
    }

    /// The moments that [`prune`](Self::prune) would give up. Nothing is changed.
    pub fn going(&self, keep: &Keep) -> Result<Vec<Pruned>> {
        prune::going(&self.0, keep)
    }

    /// Gives up the moments that no rule keeps. Every kept moment can be restored at each instant. Where the call is stopped, the list
    /// ends with the disk at which it was.
    /// [`ErrorKind::ReadOnly`](crate::ErrorKind::ReadOnly): the directory was opened to read it.
    pub fn prune(&mut self, keep: &Keep, observer: &mut dyn Observer) -> Result<Vec<Pruned>> {
        prune::prune(self.0.changed()?, keep, observer)
    }
}
