#![forbid(unsafe_code)]
//! A disk and what changed on it since a checkpoint, served over NBD: the pull side of a backup.
//!
//! ```no_run
//! use checkmap::image::{Access, DiffRequest, Image, OpenOptions};
//! use checkmap::nbd::server::{DEFAULT_CLIENTS, Listener};
//! use checkmap::progress::Unobserved;
//! use checkmap::serve::{Options, Served};
//! use std::path::Path;
//!
//! let image = Image::open(Path::new("disk.qcow2"), &OpenOptions::new(Access::Read))?;
//! let served = Served::open(image, &DiffRequest::since(b"monday"), &Options::new(), &mut Unobserved)?;
//! for file in served.files() {
//!     eprintln!("reading {}", file.path.display());
//! }
//! let listener = Listener::bind(Path::new("/run/backup.sock"))?;
//! listener.serve(b"", &served, DEFAULT_CLIENTS, &mut Unobserved)?;
//! # Ok::<(), checkmap::Error>(())
//! ```

// Owns the bringing together of a disk's content and its changes as one export. Must never know how either is read, nor who
// the clients are.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use crate::bitmap::Bitmap;
pub use crate::content::SourceFile;
use crate::content::{self, Chain, Content, Remote};
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::Extent;
use crate::image::{DiffRequest, Image};
use crate::memory;
use crate::nbd::context_of;
use crate::nbd::server::{Export, Visit};
use crate::progress::Observer;
use crate::qemu::Moment;
use std::ops::ControlFlow;
use std::path::Path;

/// The name of the map of the allocation.
const ALLOCATION: &[u8] = b"base:allocation";

/// The flags of [`ALLOCATION`], and of a dirty bitmap.
const HOLE: u64 = 1;
const ZERO: u64 = 2;
const DIRTY: u64 = 1;

/// The longest name of a context.
const MOST_CONTEXT_BYTES: usize = 4096;

/// How a disk is served.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    bitmap_name: &'a [u8],
    secret_file: Option<&'a Path>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Options<'a> {
    /// The map of changes is the bitmap `checkmap`; no passphrase.
    pub fn new() -> Self {
        Self { bitmap_name: b"checkmap", secret_file: None }
    }

    /// The name of the bitmap that the map of changes is offered as: the context is `qemu:dirty-bitmap:NAME`, at most 4096 bytes.
    #[must_use]
    pub fn bitmap_name(self, bitmap_name: &'a [u8]) -> Self {
        Self { bitmap_name, ..self }
    }

    /// The file that holds the passphrase of encrypted layers.
    #[must_use]
    pub fn secret_file(self, secret_file: Option<&'a Path>) -> Self {
        Self { secret_file, ..self }
    }
}

/// A disk that is served, and its changes. The image and every file below it stay locked against writers until it is dropped.
#[derive(Debug)]
pub struct Served {
    /// Holds the locks of the top layer.
    image: Image,
    changes: Bitmap,
    /// None where the map alone is served.
    content: Option<Box<dyn Content>>,
    contexts: Vec<Vec<u8>>,
    files: Vec<SourceFile>,
    warnings: Vec<String>,
    through_qemu: Option<String>,
}

impl Served {
    /// Opens what `image`, which was opened for reading, and the layers below it hold, and the map of `request`: what changed since
    /// a checkpoint. With [`DiffRequest::until`] the map alone is served, as the disk has gone on since.
    ///
    /// Every layer is checked first. One that lies on files which its guest can have named is
    /// [`ErrorKind::BackingLayer`], as is one that cannot be read. An encrypted one without a passphrase is
    /// [`ErrorKind::InvalidArgument`]. The rest are errors of [`Image::diff`].
    pub fn open(
        image: Image,
        request: &DiffRequest<'_>,
        options: &Options<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let bitmap = checked_name(options)?;
        let diff = image.diff(request, observer)?;
        let mut served = Self {
            image,
            changes: diff.bitmap,
            content: None,
            contexts: Vec::new(),
            files: Vec::new(),
            warnings: Vec::new(),
            through_qemu: None,
        };
        if diff.until.is_none() {
            served.open_content(options, observer)?;
            memory::push(&mut served.contexts, memory::copy(ALLOCATION)?)?;
        }
        memory::push(&mut served.contexts, bitmap)?;
        Ok(served)
    }

    /// As [`Served::open`], for the disk at a place of a moment of a running machine, where `image` is the same disk after the moment
    /// began. `request` has no end of its own: the map ends with `checkpoint`, which was made at the moment.
    pub fn of_moment(
        image: Image,
        request: &DiffRequest<'_>,
        (moment, at, checkpoint): (&Moment, usize, &[u8]),
        options: &Options<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let disk = moment
            .disks()
            .get(at)
            .ok_or_else(|| Error::new(ErrorKind::InvalidArgument, format!("the moment has no disk at {at}")))?;
        let bitmap = checked_name(options)?;
        let until_then = moment.ends_at_checkpoint().then(|| image.diff(&request.until(checkpoint), observer));
        let changes = match until_then {
            // A cumulative chain has maps that end now only: they have a few blocks more.
            Some(Err(error)) if error.kind() == ErrorKind::Model => image.diff(request, observer)?,
            Some(diff) => diff?,
            None => image.diff(request, observer)?,
        }
        .bitmap;
        if disk.size_bytes != changes.size_bytes() {
            let message = format!("the moment has {} bytes, its map {}", disk.size_bytes, changes.size_bytes());
            return Err(Error::new(ErrorKind::SizeMismatch, message).in_file(image.path()));
        }
        let content = Remote::new(moment.address(), &disk.export, disk.size_bytes);
        content.connect(observer)?;
        let contexts = memory::gather([memory::copy(ALLOCATION)?, bitmap])?;
        let (files, warnings) = (Vec::new(), Vec::new());
        let content: Option<Box<dyn Content>> = Some(Box::new(content));
        Ok(Self { image, changes, content, contexts, files, warnings, through_qemu: None })
    }

    fn open_content(&mut self, options: &Options<'_>, observer: &mut dyn Observer) -> Result<()> {
        let chain = Chain::of(&self.image, content::Options { no_lock: self.image.is_without_locks() })?;
        self.files = chain.files();
        self.warnings = chain.warnings().to_vec();
        let (content, through_qemu) = content::open(chain, options.secret_file, observer)?;
        if content.size_bytes() != self.image.virtual_size() {
            let message =
                format!("its content has {} bytes, its map {}", content.size_bytes(), self.image.virtual_size());
            return Err(Error::new(ErrorKind::Damaged, message).in_file(self.image.path()));
        }
        self.content = Some(content);
        self.through_qemu = through_qemu;
        Ok(())
    }

    /// The files that are read for the content, the top one first; none where the map alone is served, and of a moment.
    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    /// What the caller should tell its user, such as locks that do not work.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Why the content is read by a private qemu-nbd, in a sentence; none where this process reads it itself.
    pub fn through_qemu(&self) -> Option<&str> {
        self.through_qemu.as_deref()
    }

    /// Whether the map alone is served, and reads are refused.
    pub fn is_map_alone(&self) -> bool {
        self.content.is_none()
    }

    /// The map of changes.
    pub fn changes(&self) -> &Bitmap {
        &self.changes
    }
}

impl Export for Served {
    fn size_bytes(&self) -> u64 {
        self.image.virtual_size()
    }

    fn contexts(&self) -> &[Vec<u8>] {
        &self.contexts
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        match &self.content {
            Some(content) => content.read_at(buffer, offset),
            None => {
                let message = "the map alone is served: the disk has changed since that checkpoint";
                Err(Error::new(ErrorKind::ReadOnly, message))
            }
        }
    }

    fn status(&self, context: usize, window: Extent, visit: Visit<'_>) -> Result<()> {
        match (&self.content, context) {
            (Some(content), 0) => content.allocation(window, &mut |extent, allocation| {
                let hole = if allocation.is_hole { HOLE } else { 0 };
                let zero = if allocation.is_zero { ZERO } else { 0 };
                visit(extent, hole | zero)
            }),
            _ => {
                tell_changes(&self.changes, window, visit);
                Ok(())
            }
        }
    }
}

/// The context of the map of changes.
fn checked_name(options: &Options<'_>) -> Result<Vec<u8>> {
    let bitmap = context_of(options.bitmap_name)?;
    if options.bitmap_name.is_empty() || bitmap.len() > MOST_CONTEXT_BYTES {
        let message = "the name of the served bitmap is empty, or too long for NBD";
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    Ok(bitmap)
}

/// Tells the dirty and the clean stretches of a window.
fn tell_changes(changes: &Bitmap, window: Extent, visit: Visit<'_>) {
    let mut tell = |from: u64, end: u64, flags: u64| match from < end {
        true => visit(Extent { offset: from, len_bytes: end - from }, flags),
        false => ControlFlow::Continue(()),
    };
    let mut at = window.offset;
    for dirty in changes.extents(window.offset, window.len_bytes) {
        if tell(at, dirty.offset, 0).is_break() || tell(dirty.offset, dirty.end(), DIRTY).is_break() {
            return;
        }
        at = dirty.end();
    }
    let _ = tell(at, window.end(), 0);
}
