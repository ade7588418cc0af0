#![forbid(unsafe_code)]
//! Where the bitmaps of disks, their chain, and what libvirt notes of its checkpoints disagree; and the steps that mend it.
//!
//! ```no_run
//! use checkmap::doctor::{Options, Seen, Visit};
//! use checkmap::image::{Access, Image, OpenOptions};
//! use checkmap::progress::Unobserved;
//! use std::path::Path;
//!
//! let mut image = Image::open(Path::new("disk.qcow2"), &OpenOptions::new(Access::Write))?;
//! let notes = Path::new("/var/lib/libvirt/qemu/checkpoint/web");
//! let disks = vec![Seen::image(&mut image, Some("vda".into()))];
//! let mut visit = Visit::begin(disks, None, Some(notes), Options::new(1_795_710_080), &mut Unobserved)?;
//! let found = visit.diagnose(&mut Unobserved)?;
//! for finding in &found.findings {
//!     println!("{}: {} ({})", finding.disk, finding.message, finding.cost);
//! }
//! let plans = visit.plan_repair(&found)?;
//! visit.carry_out(&plans, &found.changes, &mut Unobserved)?;
//! # Ok::<(), checkmap::Error>(())
//! ```

// Owns the comparison of all that is told of checkpoints, and the steps that make the tellers agree. Must never know how a step is
// carried out, nor how a person is told.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod dead;
mod notes;
mod patient;
mod visit;
mod ward;

pub use patient::{Patient, Sight};
pub use visit::{Conversion, Seen, Visit};

use crate::chain::{Action, KnownModel, Name};
use crate::error::Result;
use crate::libvirt::{Change, Metadata};
use std::collections::BTreeSet;
use ward::Ward;

/// The kind of a disagreement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FindingKind {
    /// libvirt has the checkpoint, and its bitmap does not record, is inconsistent or has a gap in the layers.
    BrokenBitmap,
    /// libvirt has the checkpoint, and no layer of the disk has its bitmap.
    MetadataWithoutBitmap,
    /// A recording bitmap that libvirt knows nothing of.
    BitmapWithoutMetadata,
    /// The bitmap is in the layer below, and was not carried into the one above.
    NotCarried,
    /// The bitmap of an older checkpoint misses blocks that a younger one has.
    LacksBlocks,
    /// The names of the bitmaps form no chain.
    BrokenChain,
    /// A part of a chain that makes every later backup full.
    DeadChain,
    /// A chain with a gap.
    Gap,
    /// A helper of a job that has ended, or the mark of a step over several images that was interrupted.
    Leftover,
    /// A bitmap that belongs to no checkpoint.
    Stranger,
    /// Disks have other names now than when the checkpoint was made.
    ShiftedDisk,
    /// A checkpoint speaks of a disk that the domain has no more.
    DiskGone,
    /// A checkpoint follows one that libvirt has no more.
    ParentGone,
    /// Nobody can tell what the bitmaps mean.
    UnknownModel,
    /// The layers below cannot be read.
    LayerUnread,
}

impl FindingKind {
    /// The kind in lower-case words with hyphens.
    pub const fn as_str(self) -> &'static str {
        match self {
            FindingKind::BrokenBitmap => "broken-bitmap",
            FindingKind::MetadataWithoutBitmap => "metadata-without-bitmap",
            FindingKind::BitmapWithoutMetadata => "bitmap-without-metadata",
            FindingKind::NotCarried => "not-carried",
            FindingKind::LacksBlocks => "lacks-blocks",
            FindingKind::BrokenChain => "broken-chain",
            FindingKind::DeadChain => "dead-chain",
            FindingKind::Gap => "gap",
            FindingKind::Leftover => "leftover",
            FindingKind::Stranger => "stranger",
            FindingKind::ShiftedDisk => "shifted-disk",
            FindingKind::DiskGone => "disk-gone",
            FindingKind::ParentGone => "parent-gone",
            FindingKind::UnknownModel => "unknown-model",
            FindingKind::LayerUnread => "layer-unread",
        }
    }
}

/// One disagreement.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// Its kind.
    pub kind: FindingKind,
    /// The disk; empty where it is of no single one.
    pub disk: String,
    /// The bitmap or checkpoint.
    pub name: Option<Name>,
    /// The fault, in a sentence.
    pub message: String,
    /// The price of leaving it so.
    pub cost: String,
    /// The mend that is among the steps; `None` where a person has to decide.
    pub mend: Option<String>,
}

/// How disks are examined.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Options {
    /// The model of bitmaps that could be either, as for [`Chain::read`](crate::chain::Chain::read).
    pub model: Option<KnownModel>,
    /// The time that a checkpoint gets of which nobody noted any, in seconds since 1970 (UTC).
    pub now_seconds: u64,
}

impl Options {
    /// Nothing insisted on.
    pub fn new(now_seconds: u64) -> Self {
        Self { model: None, now_seconds }
    }

    /// The model to insist on.
    #[must_use]
    pub fn model(self, model: Option<KnownModel>) -> Self {
        Self { model, ..self }
    }
}

/// All that is compared.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    patients: &'a [Patient],
    metadata: Option<&'a Metadata>,
    targets: Option<BTreeSet<String>>,
}

impl<'a> Case<'a> {
    /// These disks, and nothing of libvirt.
    pub fn new(patients: &'a [Patient]) -> Self {
        Self { patients, metadata: None, targets: None }
    }

    /// What libvirt notes of its checkpoints, where it was asked.
    #[must_use]
    pub fn metadata(self, metadata: Option<&'a Metadata>) -> Self {
        Self { metadata, ..self }
    }

    /// All disks that the domain has, by target, where that is known: also those that are no patients.
    #[must_use]
    pub fn targets(self, targets: Option<BTreeSet<String>>) -> Self {
        Self { targets, ..self }
    }
}

/// The disagreements, and the steps that mend them. The actions come first: libvirt looks at bitmaps when it is told of them.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Diagnosis {
    /// Each disagreement, disk by disk.
    pub findings: Vec<Finding>,
    /// For each disk the actions on the bitmaps of its top layer.
    pub actions: Vec<Vec<Action>>,
    /// The changes of libvirt's notes, in this order.
    pub changes: Vec<Change>,
    /// Sentences for the person beside the findings.
    pub notes: Vec<String>,
}

/// Compares bitmaps, chains and libvirt's notes; changes nothing.
pub fn diagnose(case: &Case<'_>, options: &Options) -> Result<Diagnosis> {
    let mut ward = Ward::new(case, options);
    ward.compare_targets();
    for at in 0..case.patients.len() {
        ward.look_at(at)?;
    }
    ward.finish()
}
