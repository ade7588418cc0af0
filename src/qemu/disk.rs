#![forbid(unsafe_code)]
//! Owns one disk of a running hypervisor as a host of bitmaps. Must never know who asks.

use super::commands;
use super::machine::{self, Shared};
use super::nodes::{Node, NodeBitmap};
use super::read;
use crate::bitmap::Bitmap;
use crate::chain::{Action, BitmapState, Name};
use crate::error::{Error, ErrorKind, Result};
use crate::formats;
use crate::geometry::Granularity;
use crate::host::{
    Backing, CheckReport, Facts, Host, Membership, Problem, Remarks, Severity, Share, Summary, Transaction,
    UnionRequest,
};
use crate::progress::{Observer, Unobserved};
use std::sync::Arc;

/// A disk, as it was read.
#[derive(Debug)]
pub(super) struct DiskHost {
    shared: Arc<Shared>,
    node: Node,
    /// The file of the layer below, where there is one.
    backing: Option<String>,
    unfit: Option<Error>,
}

impl DiskHost {
    /// The disk whose top node is this one.
    pub(super) fn open(shared: &Arc<Shared>, node: &str) -> Result<Self> {
        let connection = shared.connection();
        let own = connection.nodes.node(node)?.clone();
        let below = connection.nodes.layers(node)?.get(1).and_then(|below| connection.nodes.get(below));
        let backing = below.map(|below| below.file.clone());
        let unfit = commands::check_node(&own).err().filter(|error| error.kind() == ErrorKind::CannotStore);
        drop(connection);
        shared.know(&own);
        Ok(Self { shared: Arc::clone(shared), node: own, backing, unfit })
    }

    fn find(&self, name: &Name) -> Option<&NodeBitmap> {
        self.node.kept().find(|bitmap| bitmap.state.name == *name)
    }
}

impl Host for DiskHost {
    fn facts(&self) -> Facts<'_> {
        let mut facts = Facts::new(formats::title_of(&self.node.driver), self.node.size_bytes);
        facts.allocation_bytes = self.node.cluster_bytes;
        facts.backing = self.backing.as_ref().map(|name| Backing::new(name.as_bytes(), None));
        facts
    }

    fn bitmaps(&self) -> Box<dyn Iterator<Item = BitmapState> + '_> {
        Box::new(self.node.kept().map(|bitmap| bitmap.state.clone()))
    }

    fn trouble(&self) -> Option<&Error> {
        self.unfit.as_ref()
    }

    fn is_unchanged(&self) -> Result<bool> {
        let now = self.shared.look_at(&self.node.name, &mut Unobserved)?;
        Ok(now.size_bytes == self.node.size_bytes && machine::is_same(now.bitmaps.iter(), self.node.bitmaps.iter()))
    }

    fn is_live(&self) -> bool {
        true
    }

    /// QEMU's default: the cluster size, from 4 KiB to 64 KiB.
    fn default_granularity(&self) -> Result<Granularity> {
        let bits = self.node.cluster_bytes.checked_ilog2().unwrap_or(16).clamp(12, 16);
        self.fitting_granularity(Granularity::from_bits(bits)?)
    }

    fn check_granularity(&self, granularity: Granularity) -> Result<()> {
        formats::check_bitmap(&self.node.driver, self.node.size_bytes, granularity)
    }

    /// Above 1 TiB never finer than 64 KiB: a merge of finer bitmaps stops the machine for too long.
    fn fitting_granularity(&self, smallest: Granularity) -> Result<Granularity> {
        const LARGE_BYTES: u64 = 1 << 40;
        let least = if self.node.size_bytes > LARGE_BYTES { 16 } else { 9 };
        for bits in smallest.bits().max(least)..31 {
            let granularity = Granularity::from_bits(bits)?;
            if self.check_granularity(granularity).is_ok() {
                return Ok(granularity);
            }
        }
        let largest = Granularity::from_bits(31)?;
        self.check_granularity(largest).map(|()| largest)
    }

    fn union(&self, request: &UnionRequest<'_>, observer: &mut dyn Observer) -> Result<Bitmap> {
        read::union(&self.shared, &self.node.name, &self.node.bitmaps, request, observer)
    }

    /// What QEMU counts. It counts the last granule whole, also where the disk ends inside of it.
    fn summary(&self, name: &Name) -> Result<Summary> {
        let mut summary = Summary::default();
        if let Some(bitmap) = self.find(name) {
            let is_whole = self.node.size_bytes.is_multiple_of(bitmap.state.granularity.bytes());
            let whole = bitmap.state.granularity.granules(self.node.size_bytes) << bitmap.state.granularity.bits();
            summary.dirty_bytes = match bitmap.dirty_bytes {
                0 => Some(0),
                all if all == whole => Some(self.node.size_bytes),
                some => Some(some).filter(|_| is_whole),
            };
        }
        Ok(summary)
    }

    fn remarks(&self, actions: &[Action]) -> Remarks {
        let mut remarks = Remarks::default();
        if let Ok(commands) = self.shared.plan_from_last(&[Share::new(&self.node.name, actions)]) {
            remarks.risks.extend(machine::stall_in_words(commands.stall()));
        }
        if actions.iter().any(|action| matches!(action, Action::Add { .. })) {
            remarks.warnings.push(
                "until the hypervisor closes the disk, the checkpoint exists in its memory only: if it is killed, or the \
                 power fails, the chain of checkpoints ends, and the next backup must be full"
                    .into(),
            );
        }
        remarks
    }

    fn rehearse(&self, actions: &[Action], observer: &mut dyn Observer) -> Result<Option<Vec<String>>> {
        self.shared.plan(&[Share::new(&self.node.name, actions)], observer)?;
        Ok(Some(Vec::new()))
    }

    fn apply(&mut self, actions: &[Action], observer: &mut dyn Observer) -> Result<Vec<String>> {
        self.shared.change(&[Share::new(&self.node.name, actions)], observer)?;
        self.read_again()?;
        Ok(Vec::new())
    }

    fn membership(&self) -> Option<Membership> {
        let transaction = Arc::clone(&self.shared) as Arc<dyn Transaction>;
        Some(Membership::new(transaction, self.node.name.clone()))
    }

    fn read_again(&mut self) -> Result<()> {
        self.node = self.shared.look_at(&self.node.name, &mut Unobserved)?;
        self.shared.know(&self.node);
        Ok(())
    }

    /// The hypervisor keeps the structures; a bitmap that it calls inconsistent cannot be used.
    fn check(&self, _observer: &mut dyn Observer) -> Result<CheckReport> {
        let mut report = CheckReport::default();
        for bitmap in self.node.kept().filter(|bitmap| bitmap.state.inconsistent) {
            report.unusable += 1;
            let message = "is inconsistent: its writer ended without storing it";
            report.problems.push(Problem::new(Severity::Unusable, format!("bitmap {}", bitmap.state.name), message));
        }
        for bitmap in self.node.bitmaps.iter().filter(|bitmap| bitmap.is_busy) {
            report.problems.push(Problem::new(
                Severity::Warning,
                format!("bitmap {}", bitmap.state.name),
                "is in use by an export or a job",
            ));
        }
        Ok(report)
    }
}
