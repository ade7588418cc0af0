#![forbid(unsafe_code)]
//! Owns the files of a folder of documents, and how large one may be. Must never know what they say.

use super::DomainCheckpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::memory;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// A longer document is none of a checkpoint: libvirt hands out no longer text, and its own have some kilobytes.
pub const MOST_DOCUMENT_BYTES: u64 = 4 << 20;

/// More documents are none of one domain: QEMU keeps no more bitmaps in an image.
const MOST_DOCUMENTS: usize = 65536;

/// The documents of a folder are held in memory together.
const MOST_BYTES: u64 = 512 << 20;

pub(super) fn read(folder: &Path) -> Result<Vec<DomainCheckpoint>> {
    let cannot_list = |error| Error::io("cannot be listed", error);
    let mut found: Vec<DomainCheckpoint> = Vec::new();
    let mut bytes = 0;
    for entry in fs::read_dir(folder).map_err(cannot_list)? {
        let path = entry.map_err(cannot_list)?.path();
        if path.extension().is_none_or(|extension| extension != "xml") {
            continue;
        }
        let read = read_file(&path).map_err(|error| error.in_file(&path))?;
        bytes += read.text().len() as u64;
        if bytes > MOST_BYTES || found.len() >= MOST_DOCUMENTS {
            let message = format!("has more than {MOST_DOCUMENTS} documents, or more than {MOST_BYTES} bytes of them");
            return Err(Error::new(ErrorKind::Damaged, message).advise("name the folder of one domain"));
        }
        memory::push(&mut found, read)?;
    }
    Ok(found)
}

fn read_file(path: &Path) -> Result<DomainCheckpoint> {
    let cannot_read = |error| Error::io("cannot be read", error);
    if !fs::metadata(path).map_err(cannot_read)?.is_file() {
        return Err(Error::new(ErrorKind::Damaged, "is no file"));
    }
    let file = File::open(path).map_err(cannot_read)?;
    let length = file.metadata().map_err(cannot_read)?.len();
    if length > MOST_DOCUMENT_BYTES {
        let message = format!("has {length} bytes, and a document of a checkpoint at most {MOST_DOCUMENT_BYTES}");
        return Err(Error::new(ErrorKind::Damaged, message).advise("move it out of the folder"));
    }
    // One byte more, so that the end is seen without more memory.
    let mut bytes = memory::room(usize::try_from(length).unwrap_or_default() + 1)?;
    file.take(MOST_DOCUMENT_BYTES + 1).read_to_end(&mut bytes).map_err(cannot_read)?;
    Ok(DomainCheckpoint::read(bytes)?.kept_in(path))
}
