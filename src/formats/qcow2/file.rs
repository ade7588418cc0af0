#![forbid(unsafe_code)]
//! Owns the file as it is: its bytes, its header and its directory as they were read. Must never change or judge them.

use super::directory::Entry;
use super::header::{DirectoryRef, Header};
use crate::io::Storage;

/// A qcow2 file as it is. Everything that reads the file, or plans a change of it, is handed this.
#[derive(Clone, Copy, Debug)]
pub(super) struct Qcow2File<'a> {
    pub(super) storage: &'a dyn Storage,
    pub(super) header: &'a Header,
    /// Where the bitmap directory is, if the file has one that can be read.
    pub(super) directory: Option<DirectoryRef>,
    /// The entries of the directory, as far as it can be read.
    pub(super) entries: &'a [Entry],
}
