#![forbid(unsafe_code)]
//! An [`Image`] is a disk whose checkpoints are listed, created, deleted, renamed and diffed; a [`Group`] is several disks that
//! change in one step.
//!
//! ```no_run
//! use checkmap::image::{Access, DiffRequest, Image, OpenOptions};
//! use checkmap::progress::Unobserved;
//! use std::path::Path;
//!
//! let mut image = Image::open(Path::new("disk.qcow2"), &OpenOptions::new(Access::Write))?;
//! let plan = image.plan_create(b"tuesday", None, None)?;
//! image.commit(&plan, &mut Unobserved)?;
//! let diff = image.diff(&DiffRequest::since(b"monday").until(b"tuesday"), &mut Unobserved)?;
//! for extent in diff.bitmap.extents(0, u64::MAX) {
//!     println!("{} {}", extent.offset, extent.len_bytes);
//! }
//! # Ok::<(), checkmap::Error>(())
//! ```
//!
//! Where its bitmaps live is the business of its host, see [`crate::host`]: [`Image::open`] finds the host of a file,
//! [`Image::on`] takes any.

// Owns the operations on images. Brings hosts, chain and bitmaps together; must never know the bytes of a format, nor how it
// is called.

mod at_once;
mod checkpoints;
mod commit_bitmaps;
mod drop;
mod files;
mod group;
mod in_layers;
mod journal;
mod layers;
mod mend;
mod opening;
mod overview;
mod recover;
mod report;
mod several;
mod stacked;
mod steady;
mod survey;

use crate::bitmap::Bitmap;
use crate::chain::{self, BitmapState, Name, Origin};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::formats;
use crate::geometry::Granularity;
pub use crate::host::{CheckReport, Problem, Severity, Summary};
use crate::host::{Host, UnionRequest};
use crate::io::locks::{self, Held, Role};
use crate::io::{FileStorage, Storage};
use crate::memory;
use crate::progress::{Observer, Unobserved};
pub use checkpoints::{Diff, DiffRequest, Layers};
pub use commit_bitmaps::Committed;
pub use drop::Loss;
pub use files::ImageFile;
pub use group::Group;
pub use in_layers::{Edit, LayersChange};
pub use journal::Purpose;
#[cfg(feature = "serve")]
pub(crate) use layers::find;
pub use mend::{Excess, ToInterval};
use opening::{is_writable, open as open_file, reopen};
pub use overview::{CheckpointBelow, Overview, Scope};
pub use recover::{Outcome, Recovered, Unfinished};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the image is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// Names and flags only, without locks: works while a running QEMU holds the image, and trusts no content.
    Names,
    /// Everything that changes nothing.
    Read,
    /// Changes as well.
    Write,
}

/// How an image is opened.
///
/// ```
/// use checkmap::image::{Access, OpenOptions};
///
/// let options = OpenOptions::new(Access::Read).threads(4);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    pub(crate) access: Access,
    pub(crate) no_lock: bool,
    pub(crate) threads: usize,
}

impl OpenOptions {
    /// Options for `access`, with locks and without threads.
    pub fn new(access: Access) -> Self {
        Self { access, no_lock: false, threads: 0 }
    }

    /// Take no locks, for file systems that have none: the caller makes sure that nothing else changes the image. A
    /// writer whose locks can be seen is refused all the same, and every call looks whether somebody else changed the
    /// image. No way to an image that a running QEMU has open.
    pub fn no_lock(self, no_lock: bool) -> Self {
        Self { no_lock, ..self }
    }

    /// How many threads read and write bitmaps where there is much of them; 0 and 1 mean the caller's thread. They have
    /// ended when the call that started them returns.
    pub fn threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }
}

/// An open disk image. Its locks are held until it is dropped.
///
/// Calls on a shared reference may run concurrently. A [`Plan`](crate::chain::Plan) belongs to the open image it was made
/// from, until that is changed; [`Image::commit`] carries it out.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    options: OpenOptions,
    host: Box<dyn Host>,
    /// Stands for what the host read; after a change it reads anew, and has another one.
    origin: Origin,
    /// What the host reads and writes, where it lies in a file.
    storage: Option<Arc<dyn Storage>>,
    held_by_writer: bool,
    locks: Option<Held>,
    /// The file, where there is one: to look for the locks of a writer, and to open it for writing too.
    file: Option<Arc<File>>,
    /// Whether the caller may have the file for writing: not by a descriptor that is for reading only.
    may_write: bool,
    warnings: Vec<String>,
    /// The checkpoints that libvirt has of the disk, as far as the caller told.
    theirs: BTreeSet<Name>,
}

impl Image {
    /// Opens the file or block device at `path`; its format is told by its content, never by its name.
    ///
    /// Fails with [`ErrorKind::InUse`], [`ErrorKind::NoLocks`] (writing only; reading warns), [`ErrorKind::ReadOnly`],
    /// [`ErrorKind::UnknownFormat`], [`ErrorKind::Damaged`] or an error of the system. An image whose bitmaps cannot be
    /// used still opens, see [`Image::trouble`].
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self> {
        let file = open_file(path, options.access).map_err(|error| error.in_file(path))?;
        Self::take_file(file, path, options, true).map_err(|error| error.in_file(path))
    }

    /// Opens the file or block device behind a descriptor, as [`Image::open`] opens one. `path` names it in messages,
    /// and is where relative names of backing files start.
    ///
    /// The file is opened anew through `/proc/self/fd`, so the image has locks of its own, and the descriptor stays as
    /// it is. Fails with [`ErrorKind::NoLocks`] where that cannot be done, with [`ErrorKind::ReadOnly`] where the
    /// descriptor does not allow writing, and with [`ErrorKind::InvalidArgument`] where it has `O_APPEND` or `O_PATH`,
    /// or does not allow reading. `O_DIRECT` does not matter.
    pub fn open_file(file: impl AsFd, path: &Path, options: &OpenOptions) -> Result<Self> {
        let taken = reopen(file.as_fd(), options.access)
            .and_then(|own| Self::take_file(own, path, options, is_writable(file.as_fd())?));
        taken.map_err(|error| error.in_file(path))
    }

    /// Makes an image that was opened for reading one that can be changed as well. Its locks keep every writer out the
    /// whole time, so earlier answers are still true. On failure it stays as it was.
    ///
    /// Fails with [`ErrorKind::InUse`] where another reader has it, [`ErrorKind::ReadOnly`], [`ErrorKind::NoLocks`], and
    /// with [`ErrorKind::InvalidArgument`] where it was opened for names only.
    pub fn upgrade(&mut self) -> Result<()> {
        match self.options.access {
            Access::Write => Ok(()),
            Access::Read => self.upgraded().map_err(|error| self.name_it(error)),
            Access::Names => {
                let message = "was opened for names only, and cannot be changed";
                Err(self.name_it(Error::new(ErrorKind::InvalidArgument, message)))
            }
        }
    }

    fn upgraded(&mut self) -> Result<()> {
        let Some(read) = self.file.as_ref().filter(|_| self.may_write) else {
            return Err(Error::new(ErrorKind::ReadOnly, "what it was opened from is for reading only"));
        };
        let file = Arc::new(opening::reopen_for_writing(read)?);
        let storage = Arc::new(
            FileStorage::new(Arc::clone(&file)).map_err(|error| Error::io("cannot be used as an image", error))?,
        );
        self.look()?;
        match &mut self.locks {
            Some(locks) => locks.upgrade(&file)?,
            None if self.options.no_lock => {}
            // Fails as it did when the image was opened, unless locks work by now.
            None => {
                let locks = locks::acquire(&file, Role::Writer)?;
                self.check_unchanged()?;
                self.locks = Some(locks);
            }
        }
        self.host.set_storage(Arc::clone(&storage) as Arc<dyn Storage>)?;
        self.options.access = Access::Write;
        self.storage = Some(storage);
        self.file = Some(file);
        Ok(())
    }

    fn take_file(file: File, path: &Path, options: &OpenOptions, may_write: bool) -> Result<Self> {
        let file = Arc::new(file);
        let names_only = options.access == Access::Names;
        let mut warnings = Vec::new();
        let locks = match (options.access, options.no_lock) {
            (Access::Names, _) | (_, true) => None,
            (Access::Read, false) => match locks::acquire(&file, Role::Reader) {
                Err(error) if error.kind() == ErrorKind::NoLocks => {
                    warnings.push(format!("{}: {}", path.display(), error.reason()));
                    None
                }
                locked => Some(locked?),
            },
            (Access::Write, false) => Some(locks::acquire(&file, Role::Writer)?),
        };
        // Looked for before and after the reading, since a writer may come in between.
        let held_before = names_only && locks::held_by_writer(&file);
        if locks.is_none() && !names_only {
            locks::check_no_writer(&file)?;
        }
        let storage: Arc<dyn Storage> = Arc::new(
            FileStorage::new(Arc::clone(&file)).map_err(|error| Error::io("cannot be used as an image", error))?,
        );
        let mut image = Self::open_storage(storage, path, options)?;
        image.held_by_writer = held_before || names_only && locks::held_by_writer(&file);
        image.locks = locks;
        image.file = Some(file);
        image.may_write = may_write;
        image.warnings.append(&mut warnings);
        if !names_only {
            image.look()?;
        }
        Ok(image)
    }

    /// Opens an image through the caller's own [`Storage`], which must be locked against other writers by its owner:
    /// this handle holds no locks, and looks for changes at each call.
    /// `path` names it in messages, and is where relative names of backing files start.
    pub fn open_storage(storage: Arc<dyn Storage>, path: &Path, options: &OpenOptions) -> Result<Self> {
        let host = formats::open(Arc::clone(&storage)).map_err(|error| with_way_out(error).in_file(path))?;
        Ok(Self { storage: Some(storage), ..Self::on(host, path, options) })
    }

    /// The image whose bitmaps `host` keeps, such as a disk of a running hypervisor. `name` stands for it in messages.
    ///
    /// This handle holds no locks, and asks the host for changes at each call.
    pub fn on(mut host: Box<dyn Host>, name: &Path, options: &OpenOptions) -> Self {
        host.set_threads(options.threads);
        Self {
            path: name.to_owned(),
            options: *options,
            host,
            origin: Origin::default(),
            storage: None,
            held_by_writer: false,
            locks: None,
            file: None,
            may_write: false,
            warnings: Vec::new(),
            theirs: BTreeSet::new(),
        }
    }

    /// Notes which checkpoints libvirt has of this disk: their bitmaps are then taken for no others, see
    /// [`BitmapState::of_libvirt`]. A host that asks libvirt itself needs no such note.
    pub fn note_libvirt(&mut self, checkpoints: impl IntoIterator<Item = Name>) {
        self.theirs = checkpoints.into_iter().collect();
        self.origin = Origin::default();
    }

    /// How many threads the calls from now on may use, see [`OpenOptions::threads()`].
    pub fn set_threads(&mut self, threads: usize) {
        self.options.threads = threads;
        self.host.set_threads(threads);
    }

    /// What the caller should tell its user about the opening, such as locks that do not work.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The file, where the image lies in one of its own: locked for as long as this handle is there, where [`Image::is_locked`].
    #[cfg(feature = "serve")]
    pub(crate) fn file(&self) -> Option<&Arc<File>> {
        self.file.as_ref()
    }

    /// Whether it was opened to be used without locks.
    #[cfg(feature = "serve")]
    pub(crate) fn is_without_locks(&self) -> bool {
        self.options.no_lock
    }

    /// The path it was opened by, or the name that stands for it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name of the format, or of the place where its host keeps the bitmaps.
    pub fn format(&self) -> &'static str {
        self.host.facts().format
    }

    /// The version of the format; 0 where it has none.
    pub fn format_version(&self) -> u32 {
        self.host.facts().format_version
    }

    /// The size of the virtual disk in bytes.
    pub fn virtual_size(&self) -> u64 {
        self.host.facts().size_bytes
    }

    /// The unit in which the image allocates room, in bytes; 0 where there is none.
    pub fn cluster_bytes(&self) -> u64 {
        self.host.facts().allocation_bytes
    }

    /// The name of the backing file as stored, where there is one.
    pub fn backing_file(&self) -> Option<&[u8]> {
        self.host.facts().backing.map(|backing| backing.name)
    }

    /// The name of the external data file as stored, where there is one.
    pub fn data_file(&self) -> Option<&[u8]> {
        self.host.facts().data_file
    }

    /// Whether the image is marked dirty or corrupt: it can be read, and must be repaired before it is written.
    pub fn has_unclean_mark(&self) -> bool {
        self.host.facts().is_unclean
    }

    /// The refusal that any change of an image meets that is marked dirty or corrupt, with the way out.
    pub fn unclean(&self) -> Option<Error> {
        self.host.unclean().map(|unclean| self.name_it(unclean))
    }

    /// Why no bitmap of this image can be used, where that is so: version 2, a stale autoclear bit, damage.
    pub fn trouble(&self) -> Option<&Error> {
        self.host.trouble()
    }

    /// Whether a running writer was seen, for [`Access::Names`]: its bitmaps are then in use, and not inconsistent.
    pub fn is_held_by_writer(&self) -> bool {
        self.held_by_writer
    }

    /// The bitmaps of the image in the order of its directory; those before the first fault where it is damaged. As they
    /// were at the opening, or after the last change through this handle.
    ///
    /// A bitmap whose content cannot be trusted, for whatever reason, counts as inconsistent here; except while a
    /// running writer holds the image, where every bitmap is marked as in use.
    pub fn bitmaps(&self) -> Vec<BitmapState> {
        self.host.bitmaps().map(|bitmap| self.state(bitmap)).collect()
    }

    /// As [`Image::bitmaps`]; there can be many.
    pub(crate) fn states(&self) -> Result<Vec<BitmapState>> {
        Ok(memory::gather(self.host.bitmaps().map(|bitmap| self.state(bitmap)))?)
    }

    /// Whether the bitmaps are these.
    #[cfg(feature = "capi")]
    pub(crate) fn has(&self, states: &[BitmapState]) -> bool {
        self.host.bitmaps().map(|bitmap| self.state(bitmap)).eq(states.iter().cloned())
    }

    /// The bitmap as the host has it, with what this image knows of all of them.
    fn state(&self, mut bitmap: BitmapState) -> BitmapState {
        let stale = self.trouble().is_some_and(|trouble| trouble.kind() == ErrorKind::Stale);
        bitmap.inconsistent = stale || bitmap.inconsistent && !self.held_by_writer;
        bitmap.of_libvirt |= self.theirs.contains(&bitmap.name);
        bitmap
    }

    fn state_of(&self, name: &Name) -> Result<BitmapState> {
        match self.host.bitmap(name).map_err(|error| self.name_it(error))? {
            Some(bitmap) => Ok(self.state(bitmap)),
            None => {
                let states = self.states()?;
                Err(self.name_it(chain::no_bitmap(name, states.iter().map(|state| &state.name))))
            }
        }
    }

    /// The bits of the bitmap stored as `name` for a window of the disk; outside of the granules that the window touches it
    /// is clean. `len_bytes` of `u64::MAX` is "to the end".
    ///
    /// Fails with [`ErrorKind::NotFound`], or where the content cannot be trusted: [`ErrorKind::Inconsistent`],
    /// [`ErrorKind::Stale`], [`ErrorKind::OldVersion`], [`ErrorKind::Unsupported`], [`ErrorKind::Damaged`].
    pub fn read_bitmap(&self, name: &Name, offset: u64, len_bytes: u64) -> Result<Bitmap> {
        self.steady(|| self.load(name, offset, len_bytes))
    }

    fn load(&self, name: &Name, offset: u64, len_bytes: u64) -> Result<Bitmap> {
        self.check_readable()?;
        let state = self.check_trusted(name)?;
        let request = UnionRequest::new(std::slice::from_ref(name), state.granularity).window(offset, len_bytes);
        self.united(&request, &mut Unobserved)
    }

    /// What the host answers. An answer for another disk would be short without a word, and is refused.
    fn united(&self, request: &UnionRequest<'_>, observer: &mut dyn Observer) -> Result<Bitmap> {
        let united = self.host.union(request, observer).map_err(|error| self.name_it(error))?;
        if united.size_bytes() != self.virtual_size() || united.granularity() != request.granularity {
            let message = format!(
                "the bitmaps are of a disk of {} bytes at granularity {}, this one has {} bytes and was asked for granularity {}",
                united.size_bytes(),
                united.granularity().bytes(),
                self.virtual_size(),
                request.granularity.bytes()
            );
            return Err(self.name_it(Error::new(ErrorKind::SizeMismatch, message)));
        }
        Ok(united)
    }

    /// The bitmap stored as `name`; refuses one whose content cannot be trusted, or is none that we know.
    fn check_trusted(&self, name: &Name) -> Result<BitmapState> {
        let state = self.state_of(name)?;
        if state.inconsistent {
            return Err(self.name_it(
                Error::new(
                    ErrorKind::Inconsistent,
                    format!("bitmap {name} is inconsistent: its writer did not store it"),
                )
                .advise(
                    WayOut::from("nothing can restore it: make a full backup, and drop what cannot be trusted with ")
                        .control(Control::DeleteAllInconsistent)
                        .words(" or ")
                        .control(name.drop_it()),
                ),
            ));
        }
        if state.unusable {
            let message = format!("bitmap {name} has extra data or a type that is unknown");
            let way_out = WayOut::from("use the software that made it, or drop it with ").control(name.drop_it());
            return Err(self.name_it(Error::new(ErrorKind::Unsupported, message).advise(way_out)));
        }
        Ok(state)
    }

    /// The granularity that a new bitmap gets where neither the caller nor the newest checkpoint says one.
    pub fn default_granularity(&self) -> Result<Granularity> {
        self.host.default_granularity().map_err(|error| self.name_it(error))
    }

    fn check_readable(&self) -> Result<()> {
        if self.options.access == Access::Names {
            let message = "was opened for names only: no content can be trusted while something else may write";
            return Err(self.name_it(Error::new(ErrorKind::InvalidArgument, message)));
        }
        self.trouble().map_or(Ok(()), |trouble| Err(self.name_it(trouble.clone())))
    }

    fn name_it(&self, error: Error) -> Error {
        with_way_out(error).in_file(&self.path)
    }

    /// Verifies every structure and rule, and changes nothing.
    pub fn check(&self, observer: &mut dyn Observer) -> Result<CheckReport> {
        self.steady(|| report::check(self, observer).map_err(|error| self.name_it(error)))
    }
}

/// The format of the file or block device at `path`, by its first bytes: also where nothing else of it can be read.
///
/// Fails with [`ErrorKind::UnknownFormat`] where it is none that can hold bitmaps, or an error of the system.
pub fn format_of(path: &Path) -> Result<&'static str> {
    let file = open_file(path, Access::Read)
        .and_then(|file| FileStorage::new(file).map_err(|error| Error::io("cannot be used as an image", error)));
    file.and_then(|storage| formats::name_of(&storage)).map_err(|error| error.in_file(path))
}

/// What to do about damage, unless a deeper layer knows better.
fn with_way_out(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Damaged => error.advise(
            WayOut::default()
                .control(Control::Check)
                .words(" shows all that can be read; restore the image from a copy"),
        ),
        _ => error,
    }
}
