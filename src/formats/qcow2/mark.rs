#![forbid(unsafe_code)]
//! Owns the mark of a step over several images in the header: a record that QEMU keeps and does not read, and an autoclear bit that QEMU
//! clears when it opens the image for writing. Must never know the step.

use super::header::{AUTOCLEAR_MARK, EXTENSION_MARK, Header};
use crate::error::Result;
use crate::host::Mark;
use crate::io::bytes::put;
use crate::memory;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The bytes before the path of the journal: the step, the number of the image, four reserved.
const FIXED_LEN: usize = 24;

impl Header {
    /// The mark that the image carries. One that is too short names no journal.
    pub(super) fn mark(&self) -> Option<Mark> {
        let found = self.extension(EXTENSION_MARK)?;
        let data = self.raw.get(found.at + 8..found.at + 8 + found.len).unwrap_or_default();
        let (step, rest) = data.split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
        let number = rest.first_chunk().map_or(0, |number| u32::from_be_bytes(*number));
        let journal = Path::new(OsStr::from_bytes(data.get(FIXED_LEN..).unwrap_or_default()));
        let mut mark = Mark::new(*step, number, journal);
        mark.is_untouched = self.autoclear & AUTOCLEAR_MARK != 0;
        Some(mark)
    }
}

/// The content of the record.
pub(super) fn encode(mark: &Mark) -> Result<Vec<u8>> {
    let journal = mark.journal.as_os_str().as_bytes();
    let mut data = memory::zeroed(FIXED_LEN + journal.len())?;
    let fits = put(&mut data, 0, &mark.step)
        && put(&mut data, 16, &mark.number.to_be_bytes())
        && put(&mut data, FIXED_LEN, journal);
    debug_assert!(fits, "there is room for both and the path");
    Ok(data)
}
