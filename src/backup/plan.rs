#![forbid(unsafe_code)]
//! Owns the answer to how much of a disk a backup has to read: the changed part, the allocated part, or all. Must never change anything.

use super::images::is_of_the_map;
use crate::content::{self, Chain};
use crate::error::Result;
use crate::geometry::Extent;
use crate::image::{DiffRequest, Image};
use crate::progress::Observer;
use std::ops::ControlFlow;
use std::path::Path;

/// How much of a disk has to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tier {
    /// What changed since the checkpoint.
    Changed,
    /// The allocated part, as it cannot be told what changed.
    Allocated,
    /// All, as nobody can tell the allocated part either.
    All,
}

impl Tier {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Changed => "changed",
            Tier::Allocated => "allocated",
            Tier::All => "all",
        }
    }
}

/// What a backup of a disk since a checkpoint has to read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Planned {
    /// Which part of the disk.
    pub tier: Tier,
    /// Why it is not a smaller one, in a sentence; none for what changed.
    pub reason: Option<String>,
    /// How many bytes changed; none where that cannot be told.
    pub changed_bytes: Option<u64>,
    /// How many bytes are allocated; none where that cannot be told.
    pub allocated_bytes: Option<u64>,
    /// The size of the disk.
    pub size_bytes: u64,
}

/// Tells how much of the disk of `image`, which was opened for reading, a backup since `checkpoint` has to read. `secret_file`
/// holds the passphrase of encrypted layers.
///
/// Only what says nothing of the map is an error, such as one of the system, or a call that was stopped.
pub fn plan(
    image: &Image,
    checkpoint: &[u8],
    secret_file: Option<&Path>,
    observer: &mut dyn Observer,
) -> Result<Planned> {
    let mut planned = Planned {
        tier: Tier::Changed,
        reason: None,
        changed_bytes: None,
        allocated_bytes: None,
        size_bytes: image.virtual_size(),
    };
    match image.diff(&DiffRequest::since(checkpoint), observer) {
        Ok(diff) => planned.changed_bytes = Some(diff.bitmap.dirty_bytes()),
        Err(error) if is_of_the_map(&error) => {
            (planned.tier, planned.reason) = (Tier::Allocated, Some(error.reason().to_string()));
        }
        Err(error) => return Err(error),
    }
    match allocated(image, secret_file, observer) {
        Ok(bytes) => planned.allocated_bytes = Some(bytes),
        Err(error) if error.is_of_the_call() => return Err(error),
        Err(error) if planned.tier == Tier::Allocated => {
            let before = planned.reason.take().unwrap_or_default();
            (planned.tier, planned.reason) = (Tier::All, Some(format!("{before}; {}", error.reason())));
        }
        Err(_) => {}
    }
    Ok(planned)
}

/// How many bytes of the disk any layer has.
fn allocated(image: &Image, secret_file: Option<&Path>, observer: &mut dyn Observer) -> Result<u64> {
    let chain = Chain::of(image, content::Options { no_lock: image.is_without_locks() })?;
    let (content, _) = content::open(chain, secret_file, observer)?;
    let mut bytes = 0;
    let whole = Extent { offset: 0, len_bytes: content.size_bytes() };
    content.allocation(whole, &mut |extent, allocation| {
        bytes += if allocation.is_hole { 0 } else { extent.len_bytes };
        ControlFlow::Continue(())
    })?;
    Ok(bytes)
}
