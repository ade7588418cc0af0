#![forbid(unsafe_code)]
//! Owns the QMP transaction that the actions of a plan come to, and how long it stops the machine. Pure; must never know a
//! connection.
//!
//! QEMU 7.2 to 11 undo a transaction that fails in the middle, but for one thing: a remove has already taken the bitmap out of the
//! file. So every remove stands behind all other actions, of all disks.

use super::nodes::{Node, NodeBitmap};
use super::reopen::{self, Access};
use crate::chain::{Action, Name};
use crate::error::{Error, ErrorKind, Result, WayOut};
use crate::geometry::Granularity;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A transaction in the making, over the disks of one machine.
#[derive(Clone, Debug, Default)]
pub(super) struct Commands {
    jobs: Vec<Value>,
    first: Vec<Value>,
    removes: Vec<Value>,
    stall_ns: u64,
    /// The layers that have to be writable meanwhile, each by its node.
    reopened: Vec<String>,
    /// The commands that make each of them writable, and read-only again.
    reopening: Vec<[String; 2]>,
    changes_below: bool,
    /// The bitmaps that stand for the allocation of their nodes and have nothing of it yet.
    unfilled: Vec<(String, Name)>,
}

/// A bitmap that is not the disk's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bits {
    pub(super) node: String,
    pub(super) bitmap: String,
}

/// Where a node stands in its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It gets the guest's writes.
    Top,
    /// A layer below: it can be read-only, and is made writable for the step.
    Below,
}

/// A bitmap as far as a transaction has come.
#[derive(Clone, Copy, Debug)]
struct Known {
    granularity: Granularity,
    recording: bool,
    dirty_bytes: u64,
}

impl Commands {
    /// Adds the actions on the bitmaps of one node.
    ///
    /// Refuses a node that keeps no bitmaps, or a top one that is read-only, where QEMU would answer ok and store nothing; a bitmap that is
    /// in use; and a name that QMP cannot carry.
    pub(super) fn add(&mut self, node: &Node, actions: &[Action], place: Place) -> Result<()> {
        if actions.is_empty() {
            return Ok(());
        }
        self.open(node, place)?;
        let mut known: BTreeMap<&Name, Known> = BTreeMap::new();
        for bitmap in &node.bitmaps {
            let NodeBitmap { state, dirty_bytes, .. } = bitmap;
            let (granularity, recording) = (state.granularity, state.recording);
            known.insert(&state.name, Known { granularity, recording, dirty_bytes: *dirty_bytes });
        }
        let mut gone: BTreeSet<&Name> = BTreeSet::new();
        for action in actions {
            for name in names_of(action) {
                check_free(node, name)?;
                if gone.contains(name) {
                    let message = format!("the bitmap {name} would be removed and used again in one step");
                    return Err(Error::new(ErrorKind::CannotStore, message).advise("do it in two steps"));
                }
            }
            match action {
                Action::Add { name, granularity } => {
                    refuse_known(&known, name)?;
                    self.first.push(add(node, name, *granularity, true)?);
                    known.insert(name, Known { granularity: *granularity, recording: true, dirty_bytes: 0 });
                }
                Action::AddAllocated { name, granularity } => {
                    refuse_known(&known, name)?;
                    self.first.push(add(node, name, *granularity, false)?);
                    let own = Known { granularity: *granularity, recording: false, dirty_bytes: 0 };
                    // Of the blocks that the layer holds, and of those that are written meanwhile.
                    self.stall_ns = self.stall_ns.saturating_add(merge_ns(node, &own, &own).saturating_mul(2));
                    known.insert(name, own);
                    self.unfilled.push((node.name.clone(), name.clone()));
                }
                Action::Merge { sources, target } => {
                    let own = find(&known, target)?;
                    let mut dirty_bytes = own.dirty_bytes;
                    // A merge of nothing ends QEMU.
                    if sources.is_empty() {
                        continue;
                    }
                    for source in sources {
                        check_consistent(node, source)?;
                        let source = find(&known, source)?;
                        self.stall_ns = self.stall_ns.saturating_add(merge_ns(node, &source, &own));
                        dirty_bytes = dirty_bytes.saturating_add(source.dirty_bytes);
                    }
                    self.first.push(merge(node, sources, target)?);
                    known.insert(target, Known { dirty_bytes: dirty_bytes.min(node.size_bytes), ..own });
                }
                Action::Rename { from, to } => {
                    let own = find(&known, from)?;
                    check_consistent(node, from)?;
                    refuse_known(&known, to)?;
                    self.first.push(add(node, to, own.granularity, own.recording)?);
                    self.first.push(merge(node, std::slice::from_ref(from), to)?);
                    self.removes.push(on_bitmap("block-dirty-bitmap-remove", node, from)?);
                    self.stall_ns = self.stall_ns.saturating_add(merge_ns(node, &own, &own));
                    known.insert(to, own);
                    gone.insert(from);
                }
                Action::SetRecording { name, recording } => {
                    let own = find(&known, name)?;
                    let kind = if *recording { "block-dirty-bitmap-enable" } else { "block-dirty-bitmap-disable" };
                    self.first.push(on_bitmap(kind, node, name)?);
                    known.insert(name, Known { recording: *recording, ..own });
                }
                Action::Remove { name } => {
                    find(&known, name)?;
                    self.removes.push(on_bitmap("block-dirty-bitmap-remove", node, name)?);
                    gone.insert(name);
                }
            }
        }
        Ok(())
    }

    /// Looks whether bitmaps of a node can be changed where it stands.
    fn open(&mut self, node: &Node, place: Place) -> Result<()> {
        self.changes_below |= place == Place::Below;
        match check_node(node) {
            Err(error) if error.kind() == ErrorKind::ReadOnly && place == Place::Below => {
                let lines = [reopen::line(node, Access::Write)?, reopen::line(node, Access::Read)?];
                if !self.reopened.contains(&node.name) {
                    self.reopened.push(node.name.clone());
                    self.reopening.push(lines.map(|(name, arguments)| line(name, &arguments)));
                    self.stall_ns = self.stall_ns.saturating_add(node.kept().map(|one| store_ns(node, one)).sum());
                }
            }
            checked => checked?,
        }
        Ok(())
    }

    /// Adds what it costs that a bitmap gets bits from elsewhere, and whether that can be; see [`Commands::fill`].
    pub(super) fn expect_fill(
        &mut self,
        node: &Node,
        place: Place,
        target: &Name,
        (granularity, dirty_bytes): (Granularity, u64),
    ) -> Result<()> {
        self.open(node, place)?;
        check_free(node, target)?;
        let own = Known { granularity, recording: false, dirty_bytes };
        self.stall_ns = self.stall_ns.saturating_add(merge_ns(node, &own, &own));
        Ok(())
    }

    /// Adds bits from elsewhere to a bitmap as it is behind all other actions but removes.
    pub(super) fn fill(&mut self, node: &str, target: &Name, sources: &[Bits]) -> Result<()> {
        self.unfilled.retain(|(own, name)| own != node || name != target);
        if sources.is_empty() {
            return Ok(());
        }
        let sources: Vec<Value> =
            sources.iter().map(|bits| json!({ "node": bits.node, "name": bits.bitmap })).collect();
        self.first.push(json!({ "type": "block-dirty-bitmap-merge", "data": {
            "node": node, "target": text(target)?, "bitmaps": sources,
        } }));
        Ok(())
    }

    /// Adds a job that begins in the same step, before all changes of bitmaps: QEMU holds back the requests of its disk from then on until
    /// the step is done, so that no write comes between two of these changes.
    pub(super) fn begin_job(&mut self, kind: &str, arguments: Value) {
        self.jobs.push(json!({ "type": kind, "data": arguments }));
    }

    /// Refuses where a bitmap would be left without the allocation that it stands for.
    pub(super) fn check_filled(&self) -> Result<()> {
        match self.unfilled.first() {
            None => Ok(()),
            Some((node, name)) => {
                let message =
                    format!("the bitmap {name} needs the allocation of {node:?}, which QMP commands alone do not give");
                Err(Error::new(ErrorKind::BackingLayer, message)
                    .advise("let checkmap make the checkpoint itself, or let snapshots copy the recording bitmap, as libvirt does"))
            }
        }
    }

    /// The actions of the transaction, in their order.
    pub(super) fn actions(&self) -> impl Iterator<Item = &Value> {
        self.jobs.iter().chain(&self.first).chain(&self.removes)
    }

    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.first.is_empty() && self.removes.is_empty()
    }

    /// The arguments of `transaction`.
    pub(super) fn arguments(&self) -> Value {
        let actions: Vec<&Value> = self.actions().collect();
        json!({ "actions": actions })
    }

    /// The read-only layers that have to be writable while the transaction is carried out.
    pub(super) fn reopened(&self) -> &[String] {
        &self.reopened
    }

    /// Whether a layer below changes.
    pub(super) fn changes_below(&self) -> bool {
        self.changes_below
    }

    /// The commands as they are sent, one JSON document each; the layers are made writable before the transaction, and read-only again
    /// behind it.
    pub(super) fn lines(&self) -> Vec<String> {
        if self.is_empty() {
            return Vec::new();
        }
        let before = self.reopening.iter().map(|[before, _]| before.clone());
        let after = self.reopening.iter().rev().map(|[_, after]| after.clone());
        before.chain([line("transaction", &self.arguments())]).chain(after).collect()
    }

    /// How long every disk of the machine stands still while it is carried out, as expected from measurements.
    pub(super) fn stall(&self) -> Duration {
        Duration::from_nanos(self.stall_ns)
    }
}

/// A command as it is sent.
pub(super) fn line(name: &str, arguments: &Value) -> String {
    json!({ "execute": name, "arguments": arguments }).to_string()
}

/// The names that an action uses, those that it makes aside.
fn names_of(action: &Action) -> Vec<&Name> {
    match action {
        Action::Add { .. } | Action::AddAllocated { .. } => Vec::new(),
        Action::Merge { sources, target } => sources.iter().chain([target]).collect(),
        Action::Remove { name } | Action::SetRecording { name, .. } => vec![name],
        Action::Rename { from, .. } => vec![from],
    }
}

/// Refuses a node whose bitmaps cannot be changed for good.
pub(super) fn check_node(node: &Node) -> Result<()> {
    let refuse = |kind, message: String, way_out: &'static str| Err(Error::new(kind, message).advise(way_out));
    if !node.is_active {
        let message = format!("the node {:?} is not active: its image belongs to another process", node.name);
        return refuse(ErrorKind::InUse, message, "after a migration, ask the hypervisor at the destination");
    }
    if !can_keep(node) {
        let message = format!("a disk of format {:?} cannot keep bitmaps", node.driver);
        return refuse(ErrorKind::CannotStore, message, "convert it to a format that keeps bitmaps");
    }
    if node.is_read_only {
        let message =
            format!("the node {:?} is read-only: a change would be answered with ok and not be stored", node.name);
        return refuse(ErrorKind::ReadOnly, message, "reopen it read-write with `blockdev-reopen`");
    }
    Ok(())
}

/// Whether images of this driver store bitmaps.
pub(super) fn can_keep(node: &Node) -> bool {
    crate::formats::keeps_bitmaps(&node.driver)
}

fn check_free(node: &Node, name: &Name) -> Result<()> {
    let Some(own) = node.bitmaps.iter().find(|bitmap| bitmap.state.name == *name) else { return Ok(()) };
    if own.is_busy {
        let message = format!("the bitmap {name} of {:?} is in use by an export or a job", node.name);
        let way_out = WayOut::from("wait for the backup that uses it, or end it");
        return Err(Error::new(ErrorKind::InUse, message).advise(way_out));
    }
    Ok(())
}

/// Refuses a bitmap that QEMU would not read: a merge of it fails, and a rename is a merge.
fn check_consistent(node: &Node, name: &Name) -> Result<()> {
    match node.bitmaps.iter().any(|bitmap| bitmap.state.name == *name && bitmap.state.inconsistent) {
        true => {
            let message = format!("the bitmap {name} of {:?} is inconsistent, so QEMU cannot read it", node.name);
            let way_out = WayOut::from("do it while the machine is off, or drop it with ").control(name.drop_it());
            Err(Error::new(ErrorKind::Inconsistent, message).advise(way_out))
        }
        false => Ok(()),
    }
}

fn find(known: &BTreeMap<&Name, Known>, name: &Name) -> Result<Known> {
    known.get(name).copied().ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no bitmap is named {name}")))
}

fn refuse_known(known: &BTreeMap<&Name, Known>, name: &Name) -> Result<()> {
    match known.contains_key(name) {
        true => Err(Error::new(ErrorKind::Exists, format!("a bitmap named {name} exists already"))),
        false => Ok(()),
    }
}

/// The name as QMP carries it: JSON is Unicode.
pub(super) fn text(name: &Name) -> Result<&str> {
    std::str::from_utf8(name.as_bytes()).map_err(|_| {
        let message = format!("the name {name} is not UTF-8, and cannot be said over QMP");
        Error::new(ErrorKind::InvalidName, message).advise("rename it while the hypervisor is not running")
    })
}

fn add(node: &Node, name: &Name, granularity: Granularity, recording: bool) -> Result<Value> {
    Ok(json!({ "type": "block-dirty-bitmap-add", "data": {
        "node": node.name, "name": text(name)?, "granularity": granularity.bytes(), "persistent": true,
        "disabled": !recording,
    } }))
}

fn merge(node: &Node, sources: &[Name], target: &Name) -> Result<Value> {
    let sources: Result<Vec<&str>> = sources.iter().map(text).collect();
    Ok(json!({ "type": "block-dirty-bitmap-merge", "data": {
        "node": node.name, "target": text(target)?, "bitmaps": sources?,
    } }))
}

fn on_bitmap(kind: &str, node: &Node, name: &Name) -> Result<Value> {
    Ok(json!({ "type": kind, "data": { "node": node.name, "name": text(name)? } }))
}

/// Granules of the finer bitmap that QEMU passes in a nanosecond, the slowest seen: 16 TiB at 64 KiB are 2^28 granules and took 43 to
/// 103 ms, at 4 KiB 2^32 and 760 to 810 ms (QEMU 7.2 to 11, two loaded cores).
const GRANULES_PER_NS: u64 = 2;

/// What each dirty granule of the target costs beside, in nanoseconds: 20,000 granules of 64 KiB into 4 KiB took up to
/// 600 ms longer than between equal granularities, for 320,000 granules.
const DIRTY_GRANULE_NS: u64 = 2000;

/// Granules that QEMU passes in a nanosecond when it stores a bitmap: three of 2^28 granules took 129 ms (QEMU 10.0, two loaded cores).
const STORED_GRANULES_PER_NS: u64 = 4;

/// What it costs to store a bitmap of a layer that becomes read-only.
fn store_ns(node: &Node, bitmap: &NodeBitmap) -> u64 {
    bitmap.state.granularity.granules(node.size_bytes) / STORED_GRANULES_PER_NS
}

fn merge_ns(node: &Node, source: &Known, target: &Known) -> u64 {
    let finer = source.granularity.min(target.granularity);
    let dirty = target.granularity.granules(source.dirty_bytes.min(node.size_bytes));
    // Between equal granularities words are united, whatever is dirty.
    let spread = if source.granularity == target.granularity { 0 } else { dirty.saturating_mul(DIRTY_GRANULE_NS) };
    (finer.granules(node.size_bytes) / GRANULES_PER_NS).saturating_add(spread)
}
