#![forbid(unsafe_code)]
//! The one [`Error`] of this crate: its [`ErrorKind`] for programs, a message for people, where it was found, and a [`WayOut`]
//! that names what to do next.
//!
//! ```
//! use checkmap::{ErrorKind, Granularity};
//!
//! let error = Granularity::from_bytes(1000).unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::InvalidArgument);
//! assert_eq!(error.to_string(), "granularity 1000 is not a power of two, such as 65536");
//! ```

// Owns the error and the one table of its kinds. Knows nothing of disks, formats or exit codes.

use std::borrow::Cow;
use std::collections::TryReserveError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The result of every fallible call of this crate.
pub type Result<T> = std::result::Result<T, Error>;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Makes [`ErrorKind`] and its table from one list, so that no kind can miss its number, name or errno.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $number:literal, $c_name:literal, $errno:ident;)*) => {
        /// The kind of an error, as stable as the C ABI: numbers and names are never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorKind {
            $($(#[$doc])* $kind,)*
        }

        impl ErrorKind {
            /// Every kind, in the order of the numbers.
            pub const ALL: &'static [ErrorKind] = &[$(ErrorKind::$kind),*];

            /// The stable number of this kind.
            pub const fn number(self) -> u32 {
                match self { $(ErrorKind::$kind => $number,)* }
            }

            /// The name of this kind in C.
            pub const fn c_name(self) -> &'static str {
                match self { $(ErrorKind::$kind => $c_name,)* }
            }

            /// The positive errno that C callers see; for [`ErrorKind::Io`] the system's own comes first, see
            /// [`Error::errno`].
            pub const fn errno(self) -> i32 {
                match self { $(ErrorKind::$kind => libc::$errno,)* }
            }
        }
    };
}

kinds! {
    /// The operating system refused: see the source for its reason.
    Io = 1, "CHECKMAP_ERROR_IO", EIO;
    /// The disk, or the block device that cannot grow, is full.
    NoSpace = 2, "CHECKMAP_ERROR_NO_SPACE", ENOSPC;
    /// An argument that no disk could make right: a granularity that is no power of two, an unaligned clear.
    InvalidArgument = 3, "CHECKMAP_ERROR_INVALID_ARGUMENT", EINVAL;
    /// A range that ends past the last granule of the disk.
    OutOfRange = 4, "CHECKMAP_ERROR_OUT_OF_RANGE", ERANGE;
    /// Two bitmaps of disks of different size.
    SizeMismatch = 5, "CHECKMAP_ERROR_SIZE_MISMATCH", EINVAL;
    /// A name that is empty or holds what a name may not hold.
    InvalidName = 6, "CHECKMAP_ERROR_INVALID_NAME", EINVAL;
    /// A name above the limit.
    NameTooLong = 7, "CHECKMAP_ERROR_NAME_TOO_LONG", ENAMETOOLONG;
    /// No checkpoint or bitmap has this name. A file that is missing is [`ErrorKind::Io`], with the same errno.
    NotFound = 8, "CHECKMAP_ERROR_NOT_FOUND", ENOENT;
    /// A checkpoint or bitmap of this name is there already.
    Exists = 9, "CHECKMAP_ERROR_EXISTS", EEXIST;
    /// The content is no format that checkmap knows.
    UnknownFormat = 10, "CHECKMAP_ERROR_UNKNOWN_FORMAT", ENOTSUP;
    /// The format is known, this version or feature of it is not.
    Unsupported = 11, "CHECKMAP_ERROR_UNSUPPORTED", ENOTSUP;
    /// The bytes break a rule of their format.
    Damaged = 12, "CHECKMAP_ERROR_DAMAGED", EBADMSG;
    /// Another process, or another handle of this one, has the image open in a way that excludes this one.
    InUse = 13, "CHECKMAP_ERROR_IN_USE", EBUSY;
    /// The file system cannot lock, so nothing protects the image from a running QEMU.
    NoLocks = 14, "CHECKMAP_ERROR_NO_LOCKS", ENOLCK;
    /// The image, or the handle to it, does not allow writing.
    ReadOnly = 15, "CHECKMAP_ERROR_READ_ONLY", EROFS;
    /// The image carries the mark of a crash (dirty) or of damage (corrupt), so its free space cannot be trusted.
    Unclean = 16, "CHECKMAP_ERROR_UNCLEAN", EUCLEAN;
    /// Software that knows nothing of bitmaps wrote to the image: every bitmap in it is out of date.
    Stale = 17, "CHECKMAP_ERROR_STALE", EUCLEAN;
    /// A bitmap was not stored when its writer ended: its content cannot be trusted.
    Inconsistent = 18, "CHECKMAP_ERROR_INCONSISTENT", EUCLEAN;
    /// A bitmap that must record does not, or one that must be frozen records.
    Recording = 19, "CHECKMAP_ERROR_RECORDING", EPROTO;
    /// The names of the bitmaps do not form one chain of checkpoints.
    BrokenChain = 20, "CHECKMAP_ERROR_BROKEN_CHAIN", EPROTO;
    /// The model of the checkpoints is unknown, or does not offer this operation.
    Model = 21, "CHECKMAP_ERROR_MODEL", EPROTO;
    /// The checkpoints asked for are in the wrong order.
    Order = 22, "CHECKMAP_ERROR_ORDER", EPROTO;
    /// A layer below the image takes part, or cannot be read, so the answer would be short.
    BackingLayer = 23, "CHECKMAP_ERROR_BACKING_LAYER", EPROTO;
    /// The caller asked to stop, and nothing was changed.
    Cancelled = 24, "CHECKMAP_ERROR_CANCELLED", ECANCELED;
    /// Writing failed after the commit began: the image holds the state before or the state after, whole.
    CommitInDoubt = 25, "CHECKMAP_ERROR_COMMIT_IN_DOUBT", EIO;
    /// The image changed under a handle that holds no locks.
    Changed = 26, "CHECKMAP_ERROR_CHANGED", ESTALE;
    /// The image is of a version that cannot hold bitmaps.
    OldVersion = 27, "CHECKMAP_ERROR_OLD_VERSION", ENOTSUP;
    /// This image cannot take the change: no room in its header, a disk of size zero, a limit of its format.
    CannotStore = 28, "CHECKMAP_ERROR_CANNOT_STORE", ENOTSUP;
    /// A call on this handle was cut short by a fault of checkmap itself: what it holds may be half a state.
    Poisoned = 29, "CHECKMAP_ERROR_POISONED", ENOTRECOVERABLE;
    /// The system has no memory for what the call needs, and nothing was changed.
    OutOfMemory = 30, "CHECKMAP_ERROR_OUT_OF_MEMORY", ENOMEM;
    /// A fork caught another thread in the middle of a change of this object: what the child holds may be half a state.
    TornByFork = 31, "CHECKMAP_ERROR_TORN_BY_FORK", EDEADLK;
    /// A running hypervisor refused a command, or the connection to it broke.
    Hypervisor = 32, "CHECKMAP_ERROR_HYPERVISOR", EREMOTEIO;
}

/// A call or an option of checkmap that a way out names. Each front end spells it in the words of its own callers;
/// `Display` spells it as in this crate.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Control {
    /// Opening an image for names and flags only, without locks.
    OpenForNames,
    /// Opening an image without locks.
    NoLock,
    /// Leaving the layers below the image out of account.
    TopLayerOnly,
    /// Deleting a checkpoint although a bitmap that takes part is inconsistent.
    ForceInconsistent,
    /// Deleting every inconsistent bitmap, and what depends on them.
    DeleteAllInconsistent,
    /// Removing one bitmap by its stored name, whatever its state.
    DropBitmap,
    /// Removing the whole bitmap directory, damaged or not.
    DropAll,
    /// Saying of which model the checkpoints are: this one, or any where it is `None`.
    Model(Option<&'static str>),
    /// The checkpoint until which a diff is asked for.
    Until,
    /// The verification of the whole image.
    Check,
    /// The list of checkpoints.
    List,
    /// Dropping everything older than this checkpoint.
    DropBefore(Vec<u8>),
    /// Dropping also the bitmaps that belong to no checkpoint.
    ForeignToo,
    /// Removing the bitmap that is stored by this name, whatever its state.
    DropBitmapNamed(Vec<u8>),
    /// Creating a checkpoint.
    Create,
    /// The socket of the NBD server that runs in a hypervisor already.
    NbdSocket,
    /// How long a step may stop a running machine.
    MaxStall,
    /// The file that records a step over several images.
    Journal,
    /// The end of a step over several images that was interrupted.
    Recover,
    /// Leaving an image as a step that was interrupted left it.
    ForgetStep,
}

impl fmt::Display for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Control::OpenForNames => "Access::Names",
            Control::NoLock => "OpenOptions::no_lock",
            Control::TopLayerOnly => "Layers::TopOnly",
            Control::ForceInconsistent => "force_inconsistent",
            Control::DeleteAllInconsistent => "Image::plan_delete_all_inconsistent",
            Control::DropBitmap => "Action::Remove",
            Control::DropAll => "Image::drop_all",
            Control::Model(None) => "a model",
            Control::Model(Some(model)) => return write!(f, "the model {model}"),
            Control::Until => "until",
            Control::Check => "Image::check",
            Control::List => "Image::chain",
            Control::DropBefore(checkpoint) => {
                return write!(f, "Image::plan_drop_before of '{}'", checkpoint.escape_ascii());
            }
            Control::ForeignToo => "foreign_too",
            Control::Create => "Image::plan_create",
            Control::NbdSocket => "Options::nbd_socket",
            Control::MaxStall => "Options::max_stall",
            Control::Journal => "Group::journaled",
            Control::Recover => "Image::recover",
            Control::ForgetStep => "Image::forget_step",
            Control::DropBitmapNamed(bitmap) => {
                return write!(f, "Image::plan_drop_bitmap of '{}'", bitmap.escape_ascii());
            }
        })
    }
}

/// The next step for the user, as data: words that hold for every caller, and between them controls that each front end
/// spells in its own language.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WayOut(Vec<Part>);

/// One part of a [`WayOut`], in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// Words for every caller.
    Words(Cow<'static, str>),
    /// A call or an option of checkmap.
    Control(Control),
}

impl WayOut {
    /// Appends words.
    #[must_use]
    pub fn words(mut self, words: impl Into<Cow<'static, str>>) -> Self {
        self.0.push(Part::Words(words.into()));
        self
    }

    /// Appends a call or an option.
    #[must_use]
    pub fn control(mut self, control: Control) -> Self {
        self.0.push(Part::Control(control));
        self
    }

    /// The parts, in their order.
    pub fn parts(&self) -> &[Part] {
        &self.0
    }

    /// The calls and options that it names.
    pub fn controls(&self) -> impl Iterator<Item = &Control> {
        self.0.iter().filter_map(|part| match part {
            Part::Control(control) => Some(control),
            Part::Words(_) => None,
        })
    }
}

impl<W: Into<Cow<'static, str>>> From<W> for WayOut {
    fn from(words: W) -> Self {
        WayOut::default().words(words)
    }
}

/// How a front end spells a call or an option.
pub type Spelling = fn(&Control, &mut fmt::Formatter<'_>) -> fmt::Result;

/// An error in the words of one front end, see [`Error::spelled`]; or without its ways out, see [`Error::reason`].
struct Spelled<'a>(&'a Error, Option<Spelling>);

impl fmt::Display for Spelled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f, self.1)
    }
}

/// An error: its kind, the fault and its place, and the next step.
///
/// `Display` prints `file: structure, offset 0x..: message: cause (way out)`, leaving out the parts that are not known.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    file: Option<PathBuf>,
    place: Option<(String, Option<u64>)>,
    way_out: Option<WayOut>,
    nothing_changed: bool,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `message` states the fault, without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        let (file, place, way_out, source) = (None, None, None, None);
        Self(Box::new(Inner { kind, message, file, place, way_out, nothing_changed: false, source }))
    }

    /// An error of the operating system while doing `what`; a full disk gets its own kind.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        let kind = match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => ErrorKind::NoSpace,
            Some(libc::EROFS) => ErrorKind::ReadOnly,
            _ if source.kind() == std::io::ErrorKind::OutOfMemory => ErrorKind::OutOfMemory,
            _ if source.kind() == std::io::ErrorKind::StorageFull => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        };
        Self::new(kind, what).with_source(source)
    }

    /// The system refused a request for memory.
    pub(crate) fn out_of_memory() -> Self {
        Self::new(ErrorKind::OutOfMemory, "the system has no memory for this")
    }

    /// Whether the call itself was stopped or had no memory, so that the error says nothing of the data. Such an error must
    /// be the call's answer, also where a fault of the data would be reported and passed over.
    pub(crate) fn is_of_the_call(&self) -> bool {
        matches!(self.kind(), ErrorKind::Cancelled | ErrorKind::OutOfMemory)
    }

    /// Names the file, unless a deeper layer already named one.
    #[must_use]
    pub fn in_file(mut self, file: &Path) -> Self {
        self.0.file.get_or_insert_with(|| file.to_owned());
        self
    }

    /// Names the structure and, where there is one, its byte offset in the file.
    #[must_use]
    pub fn at(mut self, structure: impl Into<String>, offset: impl Into<Option<u64>>) -> Self {
        self.0.place.get_or_insert_with(|| (structure.into(), offset.into()));
        self
    }

    /// Adds the next step, unless a deeper layer already did.
    #[must_use]
    pub fn advise(mut self, way_out: impl Into<WayOut>) -> Self {
        self.0.way_out.get_or_insert_with(|| way_out.into());
        self
    }

    /// Adds sentences that the caller would have been told, had the call ended well.
    #[must_use]
    pub(crate) fn telling(mut self, sentences: &[String]) -> Self {
        for sentence in sentences {
            self.0.message.push_str("; ");
            self.0.message.push_str(sentence);
        }
        self
    }

    /// Says that nothing was changed.
    #[must_use]
    pub fn nothing_changed(mut self) -> Self {
        self.0.nothing_changed = true;
        self
    }

    /// Whether the error says that nothing was changed.
    pub fn has_changed_nothing(&self) -> bool {
        self.0.nothing_changed
    }

    /// Keeps the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Cause>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// Replaces the kind: a failed write becomes [`ErrorKind::CommitInDoubt`] once the commit has begun.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The fault, without file, place and advice.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The structure in which it is wrong.
    pub fn structure(&self) -> Option<&str> {
        self.0.place.as_ref().map(|(structure, _)| structure.as_str())
    }

    /// The byte offset in the file at which it is wrong.
    pub fn offset(&self) -> Option<u64> {
        self.0.place.as_ref().and_then(|(_, offset)| *offset)
    }

    /// The next step for the user.
    pub fn way_out(&self) -> Option<&WayOut> {
        self.0.way_out.as_ref()
    }

    /// The error as `Display` prints it, its calls and options spelled by a front end for its own callers.
    pub fn spelled(&self, spelling: Spelling) -> impl fmt::Display + '_ {
        Spelled(self, Some(spelling))
    }

    /// The error as text without its ways out: warnings and findings are read by users of every front end.
    pub fn reason(&self) -> impl fmt::Display + '_ {
        Spelled(self, None)
    }

    /// The positive errno: the system's own where it gave one, else the kind's.
    pub fn errno(&self) -> i32 {
        let system = self.0.source.as_ref().and_then(|source| source.downcast_ref::<std::io::Error>());
        system.and_then(std::io::Error::raw_os_error).unwrap_or_else(|| self.0.kind.errno())
    }
}

impl From<TryReserveError> for Error {
    fn from(_: TryReserveError) -> Self {
        Self::out_of_memory()
    }
}

impl Error {
    fn write(&self, f: &mut fmt::Formatter<'_>, spelling: Option<Spelling>) -> fmt::Result {
        if let Some(file) = &self.0.file {
            write!(f, "{}: ", file.display())?;
        }
        match &self.0.place {
            Some((structure, Some(offset))) => write!(f, "{structure}, offset {offset:#x}: ")?,
            Some((structure, None)) => write!(f, "{structure}: ")?,
            None => {}
        }
        f.write_str(&self.0.message)?;
        if let Some(source) = &self.0.source {
            f.write_str(": ")?;
            write_cause(f, &**source, spelling)?;
        }
        let parts = match (&self.0.way_out, spelling) {
            (Some(way_out), Some(_)) => way_out.parts(),
            _ => &[],
        };
        if parts.is_empty() && !self.0.nothing_changed {
            return Ok(());
        }
        f.write_str(" (")?;
        for part in parts {
            match part {
                Part::Words(words) => f.write_str(words)?,
                Part::Control(control) => spelling.unwrap_or(fmt::Display::fmt)(control, f)?,
            }
        }
        match (parts.is_empty(), self.0.nothing_changed) {
            (_, false) => f.write_str(")"),
            (true, true) => f.write_str("nothing was changed)"),
            (false, true) => f.write_str("; nothing was changed)"),
        }
    }
}

fn write_cause(
    f: &mut fmt::Formatter<'_>,
    cause: &(dyn std::error::Error + Send + Sync + 'static),
    spelling: Option<Spelling>,
) -> fmt::Result {
    if let Some(error) = cause.downcast_ref::<Error>() {
        return error.write(f, spelling);
    }
    match cause.downcast_ref::<std::io::Error>() {
        Some(error) => f.write_str(&in_words(error)),
        None => write!(f, "{cause}"),
    }
}

/// An error of the system without its number, which is for `errno`; people read the words.
pub(crate) fn in_words(error: &std::io::Error) -> String {
    let text = error.to_string();
    let number = error.raw_os_error().map(|number| format!(" (os error {number})")).unwrap_or_default();
    text.strip_suffix(&number).unwrap_or(&text).to_owned()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, Some(fmt::Display::fmt))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_table_gives_each_kind_its_own_number_and_name() {
        let numbers: HashSet<u32> = ErrorKind::ALL.iter().map(|kind| kind.number()).collect();
        let names: HashSet<&str> = ErrorKind::ALL.iter().map(|kind| kind.c_name()).collect();
        assert_eq!((numbers.len(), names.len()), (ErrorKind::ALL.len(), ErrorKind::ALL.len()));
        for kind in ErrorKind::ALL {
            assert!(kind.number() > 0 && kind.c_name().starts_with("CHECKMAP_ERROR_") && kind.errno() > 0, "{kind:?}");
            assert_ne!(kind.errno(), libc::EPERM, "-EPERM is -1, which C callers read as `none`");
        }
    }

    #[test]
    fn display_names_file_structure_offset_and_way_out() {
        let error = Error::new(ErrorKind::Damaged, "the magic is wrong")
            .at("header", 0x10)
            .in_file(Path::new("disk.qcow2"))
            .advise("restore it");
        assert_eq!(error.to_string(), "disk.qcow2: header, offset 0x10: the magic is wrong (restore it)");
    }

    #[test]
    fn a_way_out_is_spelled_by_the_front_end_also_where_it_is_a_causes() {
        let cause = Error::new(ErrorKind::NoLocks, "no locks")
            .advise(WayOut::from("insist with ").control(Control::NoLock).words(" or {} stop"));
        let error = Error::new(ErrorKind::BackingLayer, "cannot be read").with_source(cause);
        assert_eq!(error.to_string(), "cannot be read: no locks (insist with OpenOptions::no_lock or {} stop)");
        let spelled = error.spelled(|control, f| match control {
            Control::NoLock => f.write_str("--no-lock"),
            other => write!(f, "{other}"),
        });
        assert_eq!(spelled.to_string(), "cannot be read: no locks (insist with --no-lock or {} stop)");
        assert_eq!(error.reason().to_string(), "cannot be read: no locks");
    }

    #[test]
    fn that_nothing_changed_stands_at_the_end() {
        let full = || Error::io("cannot write", std::io::Error::from_raw_os_error(libc::ENOSPC)).nothing_changed();
        assert_eq!(full().to_string(), "cannot write: No space left on device (nothing was changed)");
        let advised = full().advise("free some room");
        assert_eq!(advised.to_string(), "cannot write: No space left on device (free some room; nothing was changed)");
    }

    #[test]
    fn the_systems_number_is_data_and_not_words() {
        let error = Error::io("cannot open", std::io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!(
            (error.to_string().as_str(), error.errno()),
            ("cannot open: No such file or directory", libc::ENOENT)
        );
    }

    #[test]
    fn a_full_disk_has_its_own_kind_and_the_systems_errno_wins() {
        let error = Error::io("writing", std::io::Error::from_raw_os_error(libc::EDQUOT));
        assert_eq!((error.kind(), error.errno()), (ErrorKind::NoSpace, libc::EDQUOT));
    }
}
