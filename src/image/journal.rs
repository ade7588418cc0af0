#![forbid(unsafe_code)]
//! Owns the journal of a step over several images: a small file beside the first one, from which any of them tells how far an
//! interrupted step came. Must never look into an image.
//!
//! `docs/formats/journal.md` describes the bytes.

use crate::chain::{KnownModel, Name};
use crate::checksum::crc32c;
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::host::Switch;
use crate::io::bytes::{le_u32, read_exact};
use crate::io::replace::Target;
use crate::io::{FileStorage, Storage};
use crate::memory;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const STRUCTURE: &str = "journal";
const MAGIC: &[u8; 8] = b"CMJOURNL";
const VERSION: u32 = 1;
/// Magic, version, phase, step, number of images, verb, model, length of the name.
const HEAD_LEN: usize = 40;
/// The two lengths and the two sums of one image.
const IMAGE_LEN: usize = 16;
/// The longest journal that is read, and the most images of a step: far above what a machine has.
const MOST_BYTES: u64 = 64 << 20;
const MOST_IMAGES: usize = 65536;
/// The longest name that file systems take.
const MOST_NAME_BYTES: usize = 255;

/// The purpose of a step, so that it can be told of, and undone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Purpose {
    /// A new checkpoint. It is taken out again where the step cannot be finished: of this model, where the caller said one.
    Create(Name, Option<KnownModel>),
    /// Checkpoints go.
    Delete,
    /// A checkpoint gets another name.
    Rename,
}

impl std::fmt::Display for Purpose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Purpose::Create(name, _) => write!(f, "the creation of checkpoint {name}"),
            Purpose::Delete => f.write_str("the deletion of checkpoints"),
            Purpose::Rename => f.write_str("the renaming of a checkpoint"),
        }
    }
}

/// One image of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) path: PathBuf,
    pub(super) switch: Switch,
}

/// The journal of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Journal {
    pub(super) step: [u8; 16],
    pub(super) purpose: Purpose,
    /// Whether every image has switched: then marks that are left mean nothing.
    pub(super) is_done: bool,
    pub(super) members: Vec<Member>,
}

/// Where the journal of a step lies whose first image is at `image`: beside the file. A device has no place beside it.
pub(super) fn beside(image: &Path) -> Result<PathBuf> {
    let failed = |error| Error::io("cannot find the place of the image", error).in_file(image);
    let file = fs::canonicalize(image).map_err(failed)?;
    if fs::metadata(&file).map_err(failed)?.file_type().is_block_device() {
        let message = "is a device, beside which no journal can lie";
        let way_out = WayOut::from("say where the journal shall lie with ").control(Control::Journal);
        return Err(Error::new(ErrorKind::InvalidArgument, message).advise(way_out).in_file(image));
    }
    let name = file.file_name().unwrap_or_default().as_bytes();
    let mut hidden = [b".", name, b".checkmap-journal"].concat();
    if hidden.len() > MOST_NAME_BYTES {
        hidden = format!(".{:08x}.checkmap-journal", crc32c(name)).into_bytes();
    }
    Ok(file.with_file_name(OsStr::from_bytes(&hidden)))
}

/// The path by which an image is found again: that of the file behind all links. The names of devices change, so theirs stays as it was
/// given.
pub(super) fn lasting(path: &Path) -> Result<PathBuf> {
    let failed = |error| Error::io("cannot find the place of the image", error).in_file(path);
    match fs::metadata(path).map_err(failed)?.file_type().is_block_device() {
        true => std::path::absolute(path),
        false => fs::canonicalize(path),
    }
    .map_err(failed)
}

/// A number that no other step has.
pub(super) fn new_step() -> Result<[u8; 16]> {
    let mut step = [0; 16];
    let read = File::open("/dev/urandom").and_then(|mut source| io::Read::read_exact(&mut source, &mut step));
    read.map(|()| step).map_err(|error| Error::io("cannot read /dev/urandom", error))
}

impl Journal {
    fn encode(&self) -> Result<Vec<u8>> {
        let (verb, model, name) = match &self.purpose {
            Purpose::Create(name, model) => (1_u8, model_number(*model), name.as_bytes()),
            Purpose::Delete => (2, 0, &[][..]),
            Purpose::Rename => (3, 0, &[][..]),
        };
        let of_images = self.members.iter();
        let len = of_images.map(|of| IMAGE_LEN + of.path.as_os_str().len() + of.switch.redo.len()).sum::<usize>();
        let mut bytes = memory::room(HEAD_LEN + name.len() + len + 4)?;
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(u32::from(self.is_done).to_le_bytes());
        bytes.extend(self.step);
        bytes.extend(length(self.members.len())?.to_le_bytes());
        bytes.extend([verb, model]);
        bytes.extend(u16::try_from(name.len()).map_err(|_| too_long())?.to_le_bytes());
        bytes.extend(name);
        for Member { path, switch } in &self.members {
            let path = path.as_os_str().as_bytes();
            bytes.extend(length(path.len())?.to_le_bytes());
            bytes.extend(length(switch.redo.len())?.to_le_bytes());
            bytes.extend(switch.before.to_le_bytes());
            bytes.extend(switch.after.to_le_bytes());
            bytes.extend(path);
            bytes.extend(&switch.redo);
        }
        let sum = crc32c(&bytes);
        bytes.extend(sum.to_le_bytes());
        Ok(bytes)
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let damaged = |at: usize, message: String| Error::new(ErrorKind::Damaged, message).at(STRUCTURE, at as u64);
        let cut_short = |at: usize| damaged(at, "ends too early".into());
        if !bytes.starts_with(MAGIC) {
            return Err(Error::new(ErrorKind::UnknownFormat, "is no journal of checkmap"));
        }
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or_else(|| cut_short(bytes.len()))?;
        if crc32c(body) != u32::from_le_bytes(*sum) {
            return Err(damaged(
                body.len(),
                "its checksum is wrong: it is cut short, or something else wrote to it".into(),
            ));
        }
        let (head, mut rest) = body.split_at_checked(HEAD_LEN).ok_or_else(|| cut_short(body.len()))?;
        if le_u32(head, 8) != VERSION {
            let message = format!("version {} is unknown", le_u32(head, 8));
            return Err(Error::new(ErrorKind::Unsupported, message).at(STRUCTURE, 8).advise("use a newer checkmap"));
        }
        let is_done = match le_u32(head, 12) {
            0 => false,
            1 => true,
            phase => return Err(damaged(12, format!("phase {phase} is none"))),
        };
        let mut step = [0; 16];
        step.copy_from_slice(head.get(16..32).unwrap_or_default());
        let images = le_u32(head, 32) as usize;
        if !(1..=MOST_IMAGES).contains(&images) {
            return Err(damaged(32, format!("{images} images are impossible")));
        }
        let kind = le_u32(head, 36);
        let [verb, model, ..] = kind.to_le_bytes();
        let name = split(&mut rest, (kind >> 16) as usize).ok_or_else(|| cut_short(HEAD_LEN))?;
        let purpose = match (verb, model) {
            (1, 0) => Purpose::Create(Name::new(name), None),
            (1, 1) => Purpose::Create(Name::new(name), Some(KnownModel::Interval)),
            (1, 2) => Purpose::Create(Name::new(name), Some(KnownModel::Cumulative)),
            (2, 0) => Purpose::Delete,
            (3, 0) => Purpose::Rename,
            _ => return Err(damaged(36, format!("purpose {verb} of model {model} is none"))),
        };
        let mut members = Vec::new();
        for _ in 0..images {
            let at = body.len() - rest.len();
            let fixed = split(&mut rest, IMAGE_LEN).ok_or_else(|| cut_short(at))?;
            let path = split(&mut rest, le_u32(fixed, 0) as usize).ok_or_else(|| cut_short(at))?;
            let redo = split(&mut rest, le_u32(fixed, 4) as usize).ok_or_else(|| cut_short(at))?;
            let switch = Switch::new(le_u32(fixed, 8), le_u32(fixed, 12), memory::copy(redo)?);
            memory::push(&mut members, Member { path: Path::new(OsStr::from_bytes(path)).to_owned(), switch })?;
        }
        match rest.is_empty() {
            true => Ok(Self { step, purpose, is_done, members }),
            false => Err(damaged(body.len() - rest.len(), "there is more behind its last image".into())),
        }
    }

    /// Reads the journal at `path`; `None` where nothing is there.
    pub(super) fn read(path: &Path) -> Result<Option<Self>> {
        let named = |error: Error| error.in_file(path);
        let failed = |error| named(Error::io("cannot open the journal", error));
        let no_file = || named(Error::new(ErrorKind::UnknownFormat, "is no file, and so no journal of checkmap"));
        // The path comes from an image: to open a pipe could block, and to open a device could have effects.
        let there = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            there => there.map_err(failed)?,
        };
        if !there.is_file() {
            return Err(no_file());
        }
        let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(no_file());
        }
        let storage = FileStorage::new(file).map_err(|error| named(Error::io("cannot be a journal", error)))?;
        let len = storage.len_bytes().map_err(|error| named(Error::io("cannot find the size", error)))?;
        if len > MOST_BYTES {
            let message = format!("a journal of {len} bytes is impossible");
            return Err(named(Error::new(ErrorKind::Damaged, message).at(STRUCTURE, 0)));
        }
        read_exact(&storage, &STRUCTURE, 0, len).and_then(|bytes| Self::decode(&bytes)).map(Some).map_err(named)
    }

    /// Puts the journal at `path`, where nothing may be yet: whole and durable, or not at all.
    pub(super) fn create(&self, path: &Path) -> Result<()> {
        let failed = |error: io::Error| cannot_write(error, path);
        let bytes = self.encode()?;
        let folder = folder_of(path);
        let opened = File::open(folder).map_err(failed)?;
        // For its owner alone: it names the images of a machine.
        let builder = tempfile::Builder::new().prefix(".checkmap-").tempfile_in(folder);
        let mut temporary = builder.map_err(failed)?;
        temporary.write_all(&bytes).map_err(failed)?;
        temporary.as_file().sync_all().map_err(failed)?;
        temporary.persist_noclobber(path).map_err(|error| failed(error.error))?;
        opened.sync_all().map_err(|error| {
            // Nothing names it yet.
            let _ = fs::remove_file(path);
            failed(error)
        })
    }

    /// Lets the journal at `path` say that every image has switched.
    pub(super) fn end(&mut self, path: &Path) -> Result<()> {
        self.is_done = true;
        let bytes = self.encode()?;
        let mut replacement = Target::new(path)?.begin()?;
        replacement.write_all(&bytes).map_err(|error| Error::io("cannot be written", error).in_file(path))?;
        replacement.sync()?.commit()
    }
}

/// Refuses a place for a journal that has no folder, before anything is done.
pub(super) fn check_place(path: &Path) -> Result<()> {
    File::open(folder_of(path)).map(drop).map_err(|error| cannot_write(error, path))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))
}

fn cannot_write(error: io::Error, path: &Path) -> Error {
    let way_out = WayOut::from("say another place with ").control(Control::Journal);
    Error::io("cannot write the journal of the step", error).advise(way_out).in_file(path)
}

/// Removes the journal at `path`, which no image names any more.
pub(super) fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path)
        .and_then(|()| File::open(folder_of(path)))
        .and_then(|folder| folder.sync_all())
        .map_err(|error| Error::io("cannot remove the journal", error).in_file(path))
}

/// Removes the journal of a step that has ended; a warning where it stays.
pub(super) fn remove_at_end(path: &Path, warnings: &mut Vec<String>) {
    if let Err(error) = remove(path) {
        warnings.push(format!("the journal of the step stays, and no image names it: {}", error.reason()));
    }
}

fn split<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (first, others) = rest.split_at_checked(len)?;
    *rest = others;
    Some(first)
}

fn model_number(model: Option<KnownModel>) -> u8 {
    match model {
        None => 0,
        Some(KnownModel::Interval) => 1,
        Some(KnownModel::Cumulative) => 2,
    }
}

fn length(len: usize) -> Result<u32> {
    u32::try_from(len).map_err(|_| too_long())
}

fn too_long() -> Error {
    Error::new(ErrorKind::InvalidArgument, "the names are too long for a journal")
}
