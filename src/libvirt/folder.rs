#![forbid(unsafe_code)]
//! Owns the files of a folder of documents, and how large one may be. Must never know what they say.

use super::DomainCheckpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::memory;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// A longer document is none of a checkpoint: libvirt's own have some kilobytes.
pub const MOST_DOCUMENT_BYTES: u64 = 16 << 20;

pub(super) fn read(folder: &Path) -> Result<Vec<DomainCheckpoint>> {
    let cannot_list = |error| Error::io("cannot be listed", error);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(cannot_list)? {
        let path = entry.map_err(cannot_list)?.path();
        if path.extension().is_none_or(|extension| extension != "xml") {
            continue;
        }
        memory::push(&mut found, read_file(&path).map_err(|error| error.in_file(&path))?)?;
    }
    Ok(found)
}

fn read_file(path: &Path) -> Result<DomainCheckpoint> {
    let cannot_read = |error| Error::io("cannot be read", error);
    if !fs::metadata(path).map_err(cannot_read)?.is_file() {
        return Err(Error::new(ErrorKind::Damaged, "is no file"));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(cannot_read)?
        .take(MOST_DOCUMENT_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(cannot_read)?;
    Ok(DomainCheckpoint::read(bytes)?.kept_in(path))
}
