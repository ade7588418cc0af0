#![forbid(unsafe_code)]
//! Owns the facts of a disk and its bitmaps, as plain data. Must never know how they were found out.

use crate::bitmap::Bitmap;
use crate::chain::Name;
use std::time::Duration;

/// The facts of a disk, as its host read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Facts<'a> {
    /// The name of the format or of the place, in one word to be shown, such as "qcow2".
    pub format: &'static str,
    /// The version of the format; 0 where it has none.
    pub format_version: u32,
    /// The size of the virtual disk in bytes.
    pub size_bytes: u64,
    /// The unit in which room is allocated, in bytes; 0 where there is none.
    pub allocation_bytes: u64,
    /// The image below this one, where there is one.
    pub backing: Option<Backing<'a>>,
    /// The name of the external data file as it is stored, where there is one.
    pub data_file: Option<&'a [u8]>,
    /// Whether a mark says that a crash or damage has to be repaired before anything is changed.
    pub is_unclean: bool,
}

impl Facts<'_> {
    /// A disk of `size_bytes` with nothing below it; the other facts are set one by one.
    pub fn new(format: &'static str, size_bytes: u64) -> Self {
        Self {
            format,
            format_version: 0,
            size_bytes,
            allocation_bytes: 0,
            backing: None,
            data_file: None,
            is_unclean: false,
        }
    }
}

/// The image below another, as that one stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backing<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Its format, where that is stored.
    pub format: Option<&'a [u8]>,
}

impl<'a> Backing<'a> {
    /// The image `name`, of `format` where that is stored.
    pub fn new(name: &'a [u8], format: Option<&'a [u8]>) -> Self {
        Self { name, format }
    }
}

/// Bits that a bitmap gets in addition to its own.
#[derive(Debug)]
#[non_exhaustive]
pub struct Fill {
    /// The bitmap.
    pub name: Name,
    /// The bits, of the disk's size and of any granularity.
    pub bits: Bitmap,
}

impl Fill {
    /// `bits` for the bitmap `name`.
    pub fn new(name: Name, bits: Bitmap) -> Self {
        Self { name, bits }
    }
}

/// The sums of one bitmap; `None` where they are not known, or its content cannot be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// The sum of its dirty extents, cut at the disk's end, in bytes.
    pub dirty_bytes: Option<u64>,
    /// The number of its dirty extents.
    pub dirty_extents: Option<u64>,
    /// The bytes that it takes where it is stored.
    pub stored_bytes: Option<u64>,
}

/// The remarks of a host about a change, one sentence each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Remarks {
    /// Warnings for the user before it is carried out.
    pub risks: Vec<String>,
    /// Warnings that are true once it is carried out.
    pub warnings: Vec<String>,
    /// How long every disk of the machine is expected to stand still while it is carried out.
    pub stall: Duration,
}

impl Remarks {
    /// Adds those about another layer that changes in the same step.
    pub(crate) fn add(&mut self, other: Remarks) {
        self.stall = self.stall.saturating_add(other.stall);
        for (all, more) in [(&mut self.risks, other.risks), (&mut self.warnings, other.warnings)] {
            more.into_iter().for_each(|one| {
                if !all.contains(&one) {
                    all.push(one);
                }
            });
        }
    }
}
