#![forbid(unsafe_code)]
//! Owns the choice of a format by the first bytes of an image: the one place that knows every host in a file. Must never
//! know the purpose for which an image is opened.

use super::parallels::{self, Parallels, is_parallels};
use super::qcow2::{FORMAT, Qcow2, check_new, is_qcow2};
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::Granularity;
use crate::host::Host;
use crate::io::Storage;
use crate::io::bytes::read_some;
use std::sync::Arc;

/// The kind of a file's content.
#[derive(Debug)]
pub(crate) enum Content {
    /// An image that can hold bitmaps.
    Host(Box<dyn Host>),
    /// Bytes of a format that holds no bitmaps and stands on no other image.
    NoBitmaps,
}

/// QEMU's name of the one format whose bitmaps can be written.
const QCOW2: &str = FORMAT;

/// How the images begin that can hold bitmaps.
const START_BYTES: usize = 16;

fn read_start(storage: &dyn Storage) -> Result<Vec<u8>> {
    let mut start = vec![0; START_BYTES];
    let have = read_some(storage, &"first bytes", 0, &mut start)?;
    start.truncate(have);
    Ok(start)
}

/// The name of the format of an image, where it is one that can hold bitmaps.
pub(crate) fn name_of(storage: &dyn Storage) -> Result<&'static str> {
    match read_start(storage)? {
        start if is_qcow2(&start) => Ok(QCOW2),
        start if is_parallels(&start) => Ok(parallels::FORMAT),
        _ => Err(Error::new(ErrorKind::UnknownFormat, "is no image that can hold bitmaps")),
    }
}

/// Whether a file is an image of the format that stands on others and that can be changed.
#[cfg(feature = "serve")]
pub(crate) fn is_layered(storage: &dyn Storage) -> Result<bool> {
    Ok(is_qcow2(&read_start(storage)?))
}

/// Whether images of the format that QEMU calls so can hold bitmaps.
pub(crate) fn keeps_bitmaps(format: &str) -> bool {
    format == QCOW2
}

/// The format that QEMU calls so, as it is shown.
pub(crate) fn title_of(format: &str) -> &'static str {
    if keeps_bitmaps(format) { QCOW2 } else { "raw" }
}

/// Refuses a new bitmap that an image of this format and size cannot hold.
pub(crate) fn check_bitmap(format: &str, size_bytes: u64, granularity: Granularity) -> Result<()> {
    match keeps_bitmaps(format) {
        true => check_new(size_bytes, granularity),
        false => Err(Error::new(ErrorKind::CannotStore, format!("an image of format {format:?} cannot keep bitmaps"))),
    }
}

/// Opens an image that is to hold bitmaps.
pub(crate) fn open(storage: Arc<dyn Storage>) -> Result<Box<dyn Host>> {
    match is_parallels(&read_start(&*storage)?) {
        true => Ok(Box::new(Parallels::open(storage)?)),
        false => Ok(Box::new(Qcow2::open(storage)?)),
    }
}

/// Opens an image whose data are to be read as well: one of the format that stands on others.
#[cfg(feature = "serve")]
pub(crate) fn open_layered(storage: Arc<dyn Storage>) -> Result<Box<dyn Host>> {
    match is_parallels(&read_start(&*storage)?) {
        true => {
            Err(Error::new(ErrorKind::Unsupported, "it is a Parallels image, of which the bitmaps alone can be read"))
        }
        false => Ok(Box::new(Qcow2::open(storage)?)),
    }
}

/// Opens a file that may hold bitmaps or not, unless it is known to be of a `format`; refuses formats that may hold some, or stand
/// on others, and cannot be read.
pub(crate) fn probe(storage: Arc<dyn Storage>, format: Option<&str>) -> Result<Content> {
    let start = read_start(&*storage)?;
    if is_qcow2(&start) {
        return Ok(Content::Host(Box::new(Qcow2::open(storage)?)));
    }
    if let Some(format) = format {
        return Err(Error::new(ErrorKind::Damaged, format!("it should be a {format} image, and is none")));
    }
    if is_parallels(&start) {
        return Err(Error::new(ErrorKind::Unsupported, "it is a Parallels image, which may hold bitmaps"));
    }
    if start.starts_with(b"QED\0") {
        return Err(Error::new(ErrorKind::Unsupported, "it is a QED image, which may stand on others"));
    }
    Ok(Content::NoBitmaps)
}
