#![forbid(unsafe_code)]
//! Owns the chain of files that the content of a disk comes from: each is found by the rules of QEMU, opened for reading, locked
//! against writers and checked before the next one is looked for. Must never read the guest's data.
//!
//! Names in headers are a guest's where it wrote the header: so an image that is one by its content alone, because no layer above
//! recorded its format, may name no other file. The top image is the one that the caller named.

use super::SourceFile;
use crate::error::{Error, ErrorKind, Result};
use crate::formats::filename::{Below, NamedFile, Next};
use crate::formats::{self, DataNeeds, Encryption, data_needs, is_of_another_format};
use crate::host::{Backing, Host};
use crate::image::{Image, find};
use crate::io::locks::{self, Held, Role};
use crate::io::{FileId, FileStorage, Storage};
use crate::memory;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A chain longer than this is refused.
const MOST_LAYERS: usize = 256;

/// Formats whose images are one file, which names no other, and which QEMU reads.
const SINGLE_FILES: &[&str] = &["vdi", "vhdx", "vpc", "luks", "bochs", "cloop", "dmg"];

/// Formats that are the bytes of the disk themselves.
const RAW: &[&str] = &["raw", "file", "host_device"];

/// How the files are opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Take no locks.
    pub(crate) no_lock: bool,
}

/// A file that is part of a layer.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) path: PathBuf,
    pub(super) file: Arc<File>,
    /// None for the top image, which its owner holds, and where locks do not work.
    _locks: Option<Held>,
}

/// The kind of a layer.
#[derive(Debug)]
pub(super) enum Kind {
    /// An image that can lie on another, and the name of its format.
    Image(&'static str, DataNeeds),
    /// The bytes of the disk themselves.
    Raw,
    /// A format that only QEMU reads.
    Foreign(String),
}

/// A layer of a disk.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) part: Part,
    pub(super) kind: Kind,
    pub(super) data_file: Option<Part>,
}

/// The files that the content of a disk comes from.
#[derive(Debug)]
pub(crate) struct Chain {
    /// The top one first.
    pub(super) layers: Vec<Layer>,
    pub(super) size_bytes: u64,
    /// The faults of the locks, one sentence each.
    warnings: Vec<String>,
}

/// The error of a layer that cannot be part of the content.
fn refused(what: &str, cause: Error) -> Error {
    if cause.is_of_the_call() {
        return cause;
    }
    Error::new(ErrorKind::BackingLayer, format!("{what} cannot be read")).with_source(cause)
}

fn unsupported(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, message)
}

impl Chain {
    /// The chain of `image`, which must be in a file, and whose locks the caller keeps.
    pub(crate) fn of(image: &Image, options: Options) -> Result<Self> {
        Self::walk(image, options).map_err(|error| error.in_file(image.path()))
    }

    fn walk(image: &Image, options: Options) -> Result<Self> {
        let Some(file) = image.file() else {
            return Err(unsupported("is no file, so its content cannot be read"));
        };
        let mut walk = Walk { options, seen: Vec::new(), warnings: Vec::new() };
        let mut layers = Vec::new();
        let mut part = Part { path: image.path().to_owned(), file: Arc::clone(file), _locks: None };
        walk.remember(&part.file)?;
        let mut recorded = Recorded::Top;
        let mut size_bytes = None;
        loop {
            let label = match recorded {
                Recorded::Top => "the image".to_owned(),
                _ => format!("the layer {} below it", part.path.display()),
            };
            let looked = storage(&part.file).and_then(|storage| walk.layer(part, storage, &recorded));
            let layer = looked.map_err(|error| refused(&label, error))?;
            size_bytes = size_bytes.or(Some(layer.size_bytes));
            let above = layer.layer.part.path.clone();
            memory::push(&mut layers, layer.layer)?;
            let Some((name, format)) = layer.below else { break };
            let label = String::from_utf8_lossy(&name).into_owned();
            let next = walk.below(&name, format.as_deref(), &above);
            (part, recorded) = next.map_err(|error| refused(&format!("the layer {label} below it"), error))?;
        }
        Ok(Self { layers, size_bytes: size_bytes.unwrap_or_default(), warnings: walk.warnings })
    }

    /// The files, in the order of the layers.
    pub(crate) fn files(&self) -> Vec<SourceFile> {
        let mut files = Vec::new();
        for (number, layer) in self.layers.iter().enumerate() {
            let format = match &layer.kind {
                Kind::Image(format, _) => (*format).to_owned(),
                Kind::Raw => "raw".to_owned(),
                Kind::Foreign(format) => format.clone(),
            };
            let role = if number == 0 { "the image" } else { "a backing file" };
            files.push(SourceFile { path: layer.part.path.clone(), format, role });
            let data_file = layer.data_file.as_ref();
            files.extend(data_file.map(|data| SourceFile {
                path: data.path.clone(),
                format: "raw".to_owned(),
                role: "a data file",
            }));
        }
        files
    }

    /// What the caller should tell its user about the locks.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Why only QEMU reads this chain right, in a sentence; none where the plain reader does.
    pub(crate) fn why_not_plain(&self) -> Option<String> {
        self.layers.iter().find_map(|layer| {
            let why = match &layer.kind {
                Kind::Image(_, needs) => needs.why_not_plain.map(str::to_owned),
                Kind::Raw => None,
                Kind::Foreign(format) => Some(format!("is of the format {format}")),
            };
            why.map(|why| format!("{} {why}", layer.part.path.display()))
        })
    }
}

impl Layer {
    pub(super) fn encryption(&self) -> Option<Encryption> {
        match &self.kind {
            Kind::Image(_, needs) => needs.encryption,
            Kind::Foreign(format) if format == "luks" => Some(Encryption::Luks),
            _ => None,
        }
    }
}

/// The knowledge of a layer's format before it is looked at.
#[derive(Debug)]
enum Recorded {
    /// The caller named it, and its content tells.
    Top,
    /// The layer above recorded it.
    Image,
    Raw,
    Foreign(String),
    /// Nobody recorded it.
    Nothing,
}

/// A layer that was looked at, and the name and format of the one below as it records them.
struct Looked {
    layer: Layer,
    size_bytes: u64,
    below: Option<(Vec<u8>, Option<Vec<u8>>)>,
}

struct Walk {
    options: Options,
    seen: Vec<FileId>,
    warnings: Vec<String>,
}

impl Walk {
    /// Refuses a file that is part of the chain already.
    fn remember(&mut self, file: &File) -> Result<()> {
        let metadata = file.metadata().map_err(|error| Error::io("cannot look at it", error))?;
        let id = FileId::of(&metadata);
        if self.seen.contains(&id) || self.seen.len() >= MOST_LAYERS {
            return Err(Error::new(ErrorKind::Damaged, "the files of the chain form a loop"));
        }
        memory::push(&mut self.seen, id)?;
        Ok(())
    }

    /// Opens and locks the file of a name in the image at `above`.
    fn open(&mut self, place: &NamedFile, above: &Path) -> Result<Part> {
        let (path, file) = find(place, above)?;
        let file = Arc::new(file);
        self.remember(&file)?;
        let locks = match (!self.options.no_lock).then(|| locks::acquire(&file, Role::Reader)).transpose() {
            Err(error) if error.kind() == ErrorKind::NoLocks => {
                memory::push(&mut self.warnings, format!("{}: {}", path.display(), error.reason()))?;
                None
            }
            locked => locked?,
        };
        if locks.is_none() {
            locks::check_no_writer(&file)?;
        }
        Ok(Part { path, file, _locks: locks })
    }

    /// Looks at the layer in `part`.
    fn layer(&mut self, part: Part, storage: Arc<dyn Storage>, recorded: &Recorded) -> Result<Looked> {
        let foreign = |part, format: &str| Looked {
            layer: Layer { part, kind: Kind::Foreign(format.to_owned()), data_file: None },
            size_bytes: 0,
            below: None,
        };
        let raw = |part| Looked { layer: Layer { part, kind: Kind::Raw, data_file: None }, size_bytes: 0, below: None };
        match recorded {
            Recorded::Raw => return Ok(raw(part)),
            Recorded::Foreign(format) => return Ok(foreign(part, format)),
            Recorded::Nothing if !formats::is_layered(&*storage)? => {
                if is_of_another_format(&*storage, &part.path)? {
                    return Err(unsupported("nobody recorded its format, and it may be another one than raw")
                        .advise("record the format in the layer above with `qemu-img rebase -u -F FORMAT`"));
                }
                return Ok(raw(part));
            }
            Recorded::Top | Recorded::Image | Recorded::Nothing => {}
        }
        let host = formats::open_layered(Arc::clone(&storage))?;
        if let Some(trouble) = host.trouble().filter(|trouble| trouble.kind() == ErrorKind::Damaged) {
            return Err(trouble.clone());
        }
        self.image(part, &*storage, &*host, recorded)
    }

    fn image(&mut self, part: Part, storage: &dyn Storage, host: &dyn Host, recorded: &Recorded) -> Result<Looked> {
        let needs = data_needs(storage)?;
        let facts = host.facts();
        let below = match facts.backing {
            Some(Backing { name, format, .. }) => Some((memory::copy(name)?, format.map(memory::copy).transpose()?)),
            None => None,
        };
        if matches!(recorded, Recorded::Nothing) && (below.is_some() || needs.data_file.is_some()) {
            let other = below.as_ref().map(|(name, _)| name).or(needs.data_file.as_ref());
            let other = String::from_utf8_lossy(other.map(Vec::as_slice).unwrap_or_default()).into_owned();
            let message = format!(
                "nobody recorded its format, so a guest can have written its header, which names the file {other}"
            );
            return Err(
                unsupported(message).advise("record the format in the layer above with `qemu-img rebase -u -F FORMAT`")
            );
        }
        let data_file = match &needs.data_file {
            Some(name) => Some(self.data_file(name, &part.path)?),
            None => None,
        };
        let size_bytes = facts.size_bytes;
        let kind = Kind::Image(facts.format, needs);
        Ok(Looked { layer: Layer { part, kind, data_file }, size_bytes, below })
    }

    /// The file that holds the data of the image at `above`.
    fn data_file(&mut self, name: &[u8], above: &Path) -> Result<Part> {
        // QEMU takes such a name from the folder in which it was started, as it takes names with a protocol.
        let below = Below::of(name, Some(b"raw"))?;
        let place = below.place().filter(|_| !name.starts_with(b"json:"));
        let place = place.ok_or_else(|| unsupported(format!("its data file {} is no plain file", shown(name))))?;
        let place = NamedFile { path: place.path.clone(), origin: formats::filename::Origin::WorkingDirectory };
        self.open(&place, above)
            .map_err(|error| Error::new(error.kind(), format!("its data file {}", shown(name))).with_source(error))
    }

    /// The next layer: its file, and the record of its format.
    fn below(&mut self, name: &[u8], format: Option<&[u8]>, above: &Path) -> Result<(Part, Recorded)> {
        let below = Below::of(name, format)?;
        let is_json = name.starts_with(b"json:");
        let format = format.map(|format| String::from_utf8_lossy(format).into_owned());
        let (place, recorded) = match (&below, format) {
            (Below::File(file), _) if file.window != (0, None) || file.next != Next::AsRecorded => {
                return Err(unsupported("its name says more than a file"));
            }
            (Below::File(file), _) if file.format.is_some() => (&file.place, Recorded::Image),
            (Below::File(file), _) => (&file.place, Recorded::Nothing),
            (Below::Bare(Some(place)), Some(format)) if !is_json && RAW.contains(&&*format) => (place, Recorded::Raw),
            (Below::Bare(Some(place)), Some(format)) if !is_json && SINGLE_FILES.contains(&&*format) => {
                (place, Recorded::Foreign(format))
            }
            (Below::Bare(_), Some(format)) if !is_json => {
                return Err(unsupported(format!("which files a {format} image consists of cannot be told")));
            }
            _ => return Err(unsupported("its name is no plain one of a file")),
        };
        Ok((self.open(place, above)?, recorded))
    }
}

fn shown(name: &[u8]) -> String {
    Path::new(OsStr::from_bytes(name)).display().to_string()
}

fn storage(file: &Arc<File>) -> Result<Arc<dyn Storage>> {
    let storage = FileStorage::new(Arc::clone(file)).map_err(|error| Error::io("cannot be used", error))?;
    Ok(Arc::new(storage))
}
