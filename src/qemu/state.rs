#![forbid(unsafe_code)]
//! Owns the knowledge of one disk that was read out of a hypervisor's answers: everything of a host that needs no connection. Must
//! never know how the answers came here.

use super::commands::{self, Commands, Place};
use super::nodes::{Node, NodeBitmap, Nodes};
use crate::chain::{Action, BitmapState, Name};
use crate::error::{Error, ErrorKind, Result};
use crate::formats;
use crate::geometry::Granularity;
use crate::host::{Backing, CheckReport, Facts, Problem, Remarks, Severity, Summary};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Disks above this size get no bitmap finer than [`LARGE_BITS`] unless somebody asks for one: a merge of finer ones stops the
/// machine for too long.
const LARGE_BYTES: u64 = 1 << 40;
const LARGE_BITS: u32 = 16;

/// One disk.
#[derive(Clone, Debug)]
pub(super) struct DiskState {
    pub(super) node: Node,
    /// The file of the layer below, where there is one.
    backing: Option<String>,
    /// Why it can have no bitmap.
    pub(super) unfit: Option<Error>,
    /// The checkpoints that libvirt has of the machine.
    pub(super) theirs: Arc<BTreeSet<Name>>,
}

impl DiskState {
    /// The disk of these layers, the top first.
    pub(super) fn of(nodes: &Nodes, layers: &[String]) -> Result<Self> {
        let Some(top) = layers.first() else {
            return Err(Error::new(ErrorKind::InvalidArgument, "a disk has one layer at least"));
        };
        let node = nodes.node(top)?.clone();
        let backing = layers.get(1).and_then(|below| nodes.get(below)).map(|below| below.file.clone());
        let unfit = commands::check_node(&node).err().filter(|error| error.kind() == ErrorKind::CannotStore);
        Ok(Self { node, backing, unfit, theirs: Arc::default() })
    }

    /// The name for messages.
    pub(super) fn title(&self) -> String {
        match self.node.file.is_empty() {
            true => self.node.name.clone(),
            false => format!("{} (node {})", self.node.file, self.node.name),
        }
    }

    pub(super) fn facts(&self) -> Facts<'_> {
        let mut facts = Facts::new(formats::title_of(&self.node.driver), self.node.size_bytes);
        facts.allocation_bytes = self.node.cluster_bytes;
        facts.backing = self.backing.as_ref().map(|name| Backing::new(name.as_bytes(), None));
        facts
    }

    pub(super) fn bitmaps(&self) -> Box<dyn Iterator<Item = BitmapState> + '_> {
        Box::new(self.node.kept().map(|bitmap| {
            let of_libvirt = self.theirs.contains(&bitmap.state.name);
            BitmapState { of_libvirt, ..bitmap.state.clone() }
        }))
    }

    fn find(&self, name: &Name) -> Option<&NodeBitmap> {
        self.node.kept().find(|bitmap| bitmap.state.name == *name)
    }

    /// QEMU's default: the cluster size, from 4 KiB to 64 KiB.
    pub(super) fn default_granularity(&self) -> Result<Granularity> {
        let bits = self.node.cluster_bytes.checked_ilog2().unwrap_or(16).clamp(12, 16);
        self.fitting_granularity(Granularity::from_bits(bits)?)
    }

    pub(super) fn check_granularity(&self, granularity: Granularity) -> Result<()> {
        formats::check_bitmap(&self.node.driver, self.node.size_bytes, granularity)
    }

    pub(super) fn fitting_granularity(&self, smallest: Granularity) -> Result<Granularity> {
        let least = if self.node.size_bytes > LARGE_BYTES { LARGE_BITS } else { 0 };
        for bits in smallest.bits().max(least)..31 {
            let granularity = Granularity::from_bits(bits)?;
            if self.check_granularity(granularity).is_ok() {
                return Ok(granularity);
            }
        }
        let largest = Granularity::from_bits(31)?;
        self.check_granularity(largest).map(|()| largest)
    }

    /// What QEMU counts. It counts the last granule whole, also where the disk ends inside of it.
    pub(super) fn summary(&self, name: &Name) -> Summary {
        let mut summary = Summary::default();
        if let Some(bitmap) = self.find(name) {
            let granularity = bitmap.state.granularity;
            let whole = granularity.granules(self.node.size_bytes) << granularity.bits();
            summary.dirty_bytes = match bitmap.dirty_bytes {
                0 => Some(0),
                all if all == whole => Some(self.node.size_bytes),
                some => Some(some).filter(|_| whole == self.node.size_bytes),
            };
        }
        summary
    }

    pub(super) fn remarks(&self, actions: &[Action]) -> Remarks {
        let mut remarks = Remarks::default();
        let mut commands = Commands::default();
        let place = if self.node.is_read_only { Place::Below } else { Place::Top };
        remarks.stall = commands.add(&self.node, actions, place).map(|()| commands.stall()).unwrap_or_default();
        if actions.iter().any(|action| matches!(action, Action::Add { .. })) {
            remarks.warnings.push(
                "until the hypervisor closes the disk, the checkpoint exists in its memory only: if it is killed, or the \
                 power fails, the chain of checkpoints ends, and the next backup must be full"
                    .into(),
            );
        }
        remarks
    }

    /// The hypervisor keeps the structures; a bitmap that it calls inconsistent cannot be used.
    pub(super) fn check(&self) -> CheckReport {
        let mut report = CheckReport::default();
        for bitmap in self.node.kept() {
            let mut note = |severity, message| {
                let structure = format!("bitmap {}", bitmap.state.name);
                report.problems.push(Problem::new(severity, structure, message));
            };
            if bitmap.is_busy {
                note(Severity::Warning, "is in use by an export or a job");
            }
            if bitmap.state.inconsistent {
                note(Severity::Unusable, "is inconsistent: its writer ended without storing it");
                report.unusable += 1;
            }
        }
        report
    }
}
