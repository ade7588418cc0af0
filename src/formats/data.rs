#![forbid(unsafe_code)]
//! Owns the data of a disk as its guest reads them, out of a stack of plain images that others have opened and checked. Must never
//! open a file, nor follow a name that an image records.
//!
//! The reading is the crate imago's, which is right for the images that [`data_needs`](super::data_needs) calls plain. It is given
//! every file by its descriptor, and nothing else.

use crate::error::{Error, ErrorKind, Result};
use crate::fault;
use crate::memory;
use imago::file::File as ImagoFile;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, ShallowMapping};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;

/// What the data of an image need, and whether a plain reader gets them right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataNeeds {
    /// Why only QEMU reads it right, behind the image's name.
    pub(crate) why_not_plain: Option<&'static str>,
    pub(crate) encryption: Option<Encryption>,
    /// The name of the file that holds the data, as it is recorded.
    pub(crate) data_file: Option<Vec<u8>>,
}

/// How data are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encryption {
    Aes,
    Luks,
}

/// One file of a stack.
#[derive(Clone, Debug)]
pub(crate) struct PlainLayer {
    /// Opened for reading.
    pub(crate) file: Arc<File>,
    /// An image that lies on the next layer, or the bytes of the disk themselves.
    pub(crate) is_raw: bool,
    /// The file that holds the image's data, where that is another one.
    pub(crate) data_file: Option<Arc<File>>,
}

/// The state of a stretch of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stretch {
    /// A layer has data.
    Data,
    /// It reads as zeros, and takes no room.
    Hole,
}

type Access = Arc<FormatAccess<ImagoFile>>;

/// The data of a stack of images.
pub(crate) struct PlainDisk {
    /// The top one first.
    layers: Vec<(Access, PlainLayer)>,
}

impl fmt::Debug for PlainDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.layers.iter().map(|(_, layer)| layer)).finish()
    }
}

impl PlainDisk {
    /// Opens a stack, the top layer first; only the last one can be raw.
    pub(crate) fn open(layers: Vec<PlainLayer>) -> Result<Self> {
        let mut opened: Vec<(Access, PlainLayer)> = memory::room(layers.len())?;
        let mut below: Option<Access> = None;
        for layer in layers.into_iter().rev() {
            let access = guarded(|| open_layer(&layer, below.take()))
                .map_err(|error| Error::new(ErrorKind::Unsupported, "cannot be read plainly").with_source(error))?;
            let access = Arc::new(access);
            below = Some(Arc::clone(&access));
            opened.push((access, layer));
        }
        opened.reverse();
        Ok(Self { layers: opened })
    }

    /// Fills `buffer` with the disk's bytes from `offset` on; zeros behind its end.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self.layers.first() {
            Some((top, _)) => guarded(|| top.read(buffer, offset)),
            None => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// The state of the disk at `offset`, and for how many bytes, at least one and at most `len_bytes`, it is known to go on.
    pub(crate) fn stretch(&self, offset: u64, len_bytes: u64) -> io::Result<(Stretch, u64)> {
        let mut len = len_bytes;
        for (access, layer) in &self.layers {
            let (mapping, found) = guarded(|| access.get_shallow_mapping(offset, len))?;
            let found = found.min(len);
            let state = match mapping {
                ShallowMapping::Eof { .. } => return Ok((Stretch::Hole, len)),
                ShallowMapping::Indirect { offset: same, .. } if same == offset && found > 0 => {
                    len = found;
                    continue;
                }
                ShallowMapping::Raw { .. } if layer.is_raw => return in_raw(&layer.file, offset, found),
                ShallowMapping::Zero { .. } => Stretch::Hole,
                ShallowMapping::Raw { .. } | ShallowMapping::Special { .. } => Stretch::Data,
                _ => return Err(io::Error::other("a mapping of an unknown kind")),
            };
            return match found {
                0 => Err(io::Error::other("a mapping of no bytes")),
                found => Ok((state, found)),
            };
        }
        Ok((Stretch::Hole, len))
    }
}

fn open_layer(layer: &PlainLayer, below: Option<Access>) -> io::Result<FormatAccess<ImagoFile>> {
    let file = ImagoFile::try_from(layer.file.try_clone()?)?;
    if layer.is_raw {
        return Ok(FormatAccess::new(Raw::builder(file).open(DenyImplicitOpenGate::default())?));
    }
    let data_file = match &layer.data_file {
        Some(data_file) => Some(ImagoFile::try_from(data_file.try_clone()?)?),
        None => None,
    };
    let builder = Qcow2::<ImagoFile, Access>::builder(file).backing(below).data_file(data_file);
    Ok(FormatAccess::new(builder.open(DenyImplicitOpenGate::default())?))
}

/// A panic of the reader, about bytes that it did not expect, is an error of these bytes.
fn guarded<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    fault::catch(work).unwrap_or_else(|_| Err(io::Error::other("the image's structures cannot be followed")))
}

/// The state of a raw file at `offset`, as the file system tells it.
fn in_raw(file: &File, offset: u64, len_bytes: u64) -> io::Result<(Stretch, u64)> {
    // A device tells of no holes.
    if file.metadata()?.file_type().is_block_device() {
        return Ok((Stretch::Data, len_bytes));
    }
    let reach = |end: u64| end.saturating_sub(offset).min(len_bytes);
    match seek(file, SeekFrom::Data(offset)) {
        Ok(data) if data > offset => Ok((Stretch::Hole, reach(data))),
        Ok(_) => match seek(file, SeekFrom::Hole(offset)) {
            Ok(hole) if hole > offset => Ok((Stretch::Data, reach(hole))),
            // It was cut off meanwhile, or the file system does not know.
            Ok(_) | Err(_) => Ok((Stretch::Data, len_bytes)),
        },
        // Nothing but a hole follows.
        Err(Errno::NXIO) => Ok((Stretch::Hole, len_bytes)),
        Err(_) => Ok((Stretch::Data, len_bytes)),
    }
}
