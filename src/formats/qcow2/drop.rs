#![forbid(unsafe_code)]
//! Owns the removal of the bitmap directory with every bitmap in it, readable or not. Must never take room in the file,
//! nor read content that another structure may have overwritten.

use super::commit;
use super::header::Header;
use crate::error::{ErrorKind, Result};
use crate::progress::Observer;
use crate::storage::{Memory, Storage};

/// Takes the bitmaps extension out of the header; the strings say what is lost or leaked.
///
/// Only the header is written, so this works on images that nothing else may be written to.
pub(crate) fn write(storage: &dyn Storage, header: &mut Header, observer: &mut dyn Observer) -> Result<Vec<String>> {
    let warnings = rehearse(storage, header, observer)?;
    let stages = stages(header)?;
    commit::commit(storage, header, stages).map_err(|error| error.with_kind(ErrorKind::CommitInDoubt))?;
    Ok(warnings)
}

/// What [`write`] would say, without writing.
pub(crate) fn rehearse(_: &dyn Storage, header: &Header, _: &mut dyn Observer) -> Result<Vec<String>> {
    if !header.has_bitmaps_extension() {
        return Ok(Vec::new());
    }
    stages(header)?;
    Ok(vec!["the clusters of the bitmaps stay counted as used: `qemu-img check -r leaks` releases them".into()])
}

/// The stages of the header that leave it without a bitmaps extension, however often it stands there.
fn stages(header: &Header) -> Result<Vec<Vec<u8>>> {
    let (mut stages, mut next) = (Vec::new(), header.clone());
    while next.has_bitmaps_extension() {
        let more = next.with_directory(None)?;
        if let Some(last) = more.last() {
            next = Header::read(&Memory(last))?;
        }
        stages.extend(more);
    }
    Ok(stages)
}
