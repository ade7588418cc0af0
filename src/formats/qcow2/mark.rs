#![forbid(unsafe_code)]
//! Owns the mark of a step over several images in the header: a record that QEMU keeps and does not read, with an autoclear bit and a seal
//! by which is seen whether something else has changed the image since. Must never know the step.

use super::header::{AUTOCLEAR_MARK, EXTENSION_MARK, Header};
use crate::error::Result;
use crate::host::{Mark, Progress};
use crate::io::bytes::put;
use crate::memory;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The bytes before the path of the journal: the step, the number of the image, how far the switch came.
const FIXED_LEN: usize = 24;
pub(super) const PROGRESS_AT: usize = 20;
/// Fills the padding behind the record, of which there is at least one byte. QEMU writes zeros there whenever it writes the header, so
/// it also tells of an image that was opened for reading, which keeps the autoclear bit, and then reopened for writing.
const SEAL: u8 = 0xa5;

impl Header {
    /// The mark that the image carries. One that is too short names no journal.
    pub(super) fn mark(&self) -> Option<Mark> {
        let found = self.extension(EXTENSION_MARK)?;
        let end = found.at + 8 + found.len;
        let data = self.raw.get(found.at + 8..end).unwrap_or_default();
        let padding = self.raw.get(end..found.end()).unwrap_or_default();
        let (step, rest) = data.split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
        let number = rest.first_chunk().map_or(0, |number| u32::from_be_bytes(*number));
        let path = data.get(FIXED_LEN..).unwrap_or_default();
        let path = path.strip_suffix(&[0]).unwrap_or(path);
        let mut mark = Mark::new(*step, number, Path::new(OsStr::from_bytes(path)));
        let is_sealed = !padding.is_empty() && padding.iter().all(|byte| *byte == SEAL);
        mark.is_untouched = is_sealed && self.autoclear & AUTOCLEAR_MARK != 0;
        mark.progress = match data.get(PROGRESS_AT..FIXED_LEN) {
            Some([0, 0, 0, 0]) => Progress::Before,
            Some([0, 0, 0, 2]) => Progress::After,
            _ => Progress::Within,
        };
        Some(mark)
    }
}

/// The number by which the mark tells how far the switch came.
pub(super) fn encode_progress(progress: Progress) -> [u8; 4] {
    match progress {
        Progress::Before => 0_u32,
        Progress::Within => 1,
        Progress::After => 2,
    }
    .to_be_bytes()
}

/// The content of the record and its padding, and the length of the content alone.
pub(super) fn encode(mark: &Mark) -> Result<(Vec<u8>, usize)> {
    let journal = mark.journal.as_os_str().as_bytes();
    let len = FIXED_LEN + journal.len();
    // A byte of zero ends the path where no room for padding would be left.
    let len = if len.is_multiple_of(8) { len + 1 } else { len };
    let mut data = memory::zeroed(len)?;
    let fits = put(&mut data, 0, &mark.step)
        && put(&mut data, 16, &mark.number.to_be_bytes())
        && put(&mut data, PROGRESS_AT, &encode_progress(mark.progress))
        && put(&mut data, FIXED_LEN, journal);
    debug_assert!(fits, "there is room for them and the path");
    memory::extend(&mut data, std::iter::repeat_n(SEAL, len.next_multiple_of(8) - len))?;
    Ok((data, len))
}
