#![forbid(unsafe_code)]
//! Owns libvirt's notes as they are to become: which disks a checkpoint speaks of, and which checkpoints are new or go. Must never
//! know bitmaps.

use super::Patient;
use crate::chain::Name;
use crate::error::Result;
use crate::libvirt::{Change, DiskEntry, DomainCheckpoint, Metadata};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The name of each disk then, and the one now.
pub(super) type Moves = Vec<(String, String)>;

/// The notes, with all changes so far.
#[derive(Debug)]
pub(super) struct Notes<'a> {
    metadata: Option<&'a Metadata>,
    /// The disks of each checkpoint that speaks of others now.
    entries: BTreeMap<Name, Vec<DiskEntry>>,
    /// Those whose disks have other names: the domain that libvirt noted with them is of no use any more.
    shifted: BTreeSet<Name>,
    orphans: BTreeSet<Name>,
    /// The targets of new checkpoints, each with the checkpoint before it.
    new: BTreeMap<Name, Vec<String>>,
    order: Vec<Name>,
}

impl<'a> Notes<'a> {
    pub(super) fn new(metadata: Option<&'a Metadata>) -> Self {
        Self {
            metadata,
            entries: BTreeMap::new(),
            shifted: BTreeSet::new(),
            orphans: BTreeSet::new(),
            new: BTreeMap::new(),
            order: Vec::new(),
        }
    }

    fn disks(&self, checkpoint: &Name) -> &[DiskEntry] {
        let noted = || self.metadata?.get(checkpoint).map(DomainCheckpoint::disks);
        self.entries.get(checkpoint).map(Vec::as_slice).or_else(noted).unwrap_or_default()
    }

    fn edit(&mut self, checkpoint: &Name, change: impl FnOnce(&mut Vec<DiskEntry>)) {
        let mut disks = self.disks(checkpoint).to_vec();
        change(&mut disks);
        self.entries.insert(checkpoint.clone(), disks);
    }

    /// The checkpoints that have a bitmap on this disk, each with the bitmap.
    pub(super) fn of_disk(&self, target: &str) -> Vec<(Name, Name)> {
        let listed = self.metadata.map(Metadata::checkpoints).unwrap_or_default().iter();
        let on_it = listed.filter_map(|own| {
            let disk = self.disks(own.name()).iter().find(|disk| disk.target == target)?;
            Some((own.name().clone(), disk.bitmap.clone()?))
        });
        on_it.collect()
    }

    /// The disks that take part in a checkpoint.
    pub(super) fn targets_of(&self, checkpoint: &Name) -> Vec<String> {
        let takes_part = self.disks(checkpoint).iter().filter(|disk| disk.bitmap.is_some());
        takes_part.map(|disk| disk.target.clone()).collect()
    }

    /// The disks whose image is another disk of the domain now: the name then, and the one now. The image must have the bitmap still, and
    /// be a layer of one other disk only: clones share their base.
    pub(super) fn shifts(&self, own: &DomainCheckpoint, patients: &[Patient]) -> Moves {
        let real = |path: &str| Path::new(path).canonicalize().unwrap_or_else(|_| path.into());
        let moved = own.sources().filter_map(|(target, source)| {
            let bitmap = own.bitmap_on(target)?;
            let source = real(source);
            let has_it = |one: &&Patient| one.files.iter().any(|file| real(file) == source);
            let mut with: Vec<&Patient> = patients.iter().filter(has_it).collect();
            if with.iter().any(|one| one.target.as_deref() == Some(target)) {
                return None;
            }
            with.retain(|one| (0..one.layers.len()).any(|layer| one.bitmap(layer, bitmap).is_some()));
            match with.as_slice() {
                [only] => Some((target.to_owned(), only.target.clone()?)),
                _ => None,
            }
        });
        moved.collect()
    }

    /// The moves whose new name no other bitmap of the checkpoint has, or that becomes free in the same step; and the others.
    pub(super) fn with_room(&self, checkpoint: &Name, mut moves: Moves) -> (Moves, Moves) {
        let mut blocked = Moves::new();
        let disks = self.disks(checkpoint);
        loop {
            let is_taken = |to: &str| {
                let stays = !moves.iter().any(|(from, _)| from == to);
                let has_bitmap = disks.iter().any(|disk| disk.target == to && disk.bitmap.is_some());
                stays && has_bitmap || moves.iter().filter(|(_, other)| other == to).count() > 1
            };
            let Some(at) = moves.iter().position(|(_, to)| is_taken(to)) else { return (moves, blocked) };
            blocked.push(moves.remove(at));
        }
    }

    pub(super) fn shift(&mut self, checkpoint: &Name, shifts: &[(String, String)]) {
        if shifts.is_empty() {
            return;
        }
        let moves: BTreeMap<&str, &str> = shifts.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect();
        self.edit(checkpoint, |disks| {
            for disk in disks.iter_mut() {
                if let Some(to) = moves.get(disk.target.as_str()) {
                    disk.target = (*to).to_owned();
                }
            }
            // One that took no part can have had the name.
            let mut seen = BTreeSet::new();
            disks.sort_by_key(|disk| disk.bitmap.is_none());
            disks.retain(|disk| seen.insert(disk.target.clone()));
        });
        self.shifted.insert(checkpoint.clone());
    }

    pub(super) fn orphan(&mut self, checkpoint: &Name) {
        self.orphans.insert(checkpoint.clone());
    }

    /// The checkpoint has nothing on this disk any more.
    pub(super) fn forget_disk(&mut self, checkpoint: &Name, target: &str) {
        self.edit(checkpoint, |disks| disks.retain(|disk| disk.target != target));
    }

    /// A bitmap of this disk becomes a checkpoint; `order` tells which are older.
    pub(super) fn tell_of(&mut self, bitmap: &Name, target: &str, order: &[Name]) {
        self.new.entry(bitmap.clone()).or_default().push(target.to_owned());
        if self.order.len() < order.len() {
            self.order = order.to_vec();
        }
    }

    /// The changes: of documents that stay, then new ones, then those that go.
    pub(super) fn changes(&self, now_seconds: u64) -> Result<Vec<Change>> {
        let (mut changes, mut gone) = (Vec::new(), Vec::new());
        let mut stays: BTreeSet<&Name> = self.new.keys().collect();
        for own in self.metadata.map(Metadata::checkpoints).unwrap_or_default() {
            let name = own.name();
            let is_changed = self.entries.contains_key(name) || self.orphans.contains(name);
            if !is_changed && !self.new.contains_key(name) {
                stays.insert(name);
                continue;
            }
            let new = self.new_on(name);
            let others = self.disks(name).iter().filter(|disk| new.iter().all(|own| own.target != disk.target));
            let disks: Vec<DiskEntry> = others.cloned().chain(new.iter().cloned()).collect();
            if disks.iter().all(|disk| disk.bitmap.is_none()) {
                gone.push(Change::Forget(name.clone()));
                continue;
            }
            stays.insert(name);
            let mut told = own.with_disks(&disks)?;
            if self.orphans.contains(name) {
                told = told.with_parent(None)?;
            }
            if self.shifted.contains(name) {
                told = told.without_domain()?;
            }
            changes.push(Change::Tell(Box::new(told)));
        }
        let place = |name: &Name| self.order.iter().position(|own| own == name).unwrap_or(usize::MAX);
        let is_known = |name: &Name| self.metadata.is_some_and(|own| own.get(name).is_some());
        let mut new: Vec<&Name> = self.new.keys().filter(|name| !is_known(name)).collect();
        new.sort_by_key(|name| (place(name), *name));
        for name in new {
            let before = self.order.iter().take_while(|own| *own != name);
            let parent = before.filter(|own| stays.contains(own)).last().filter(|_| self.order.contains(name));
            // It is no younger than those that follow it.
            let after = self.order.iter().skip_while(|own| *own != name);
            let times = after.filter_map(|own| self.metadata?.get(own)?.time_seconds());
            let time = times.fold(now_seconds, u64::min);
            let told = DomainCheckpoint::new(name, parent, time, &self.new_on(name))?;
            changes.push(Change::Tell(Box::new(told)));
        }
        changes.extend(gone);
        Ok(changes)
    }

    /// The disks on which this checkpoint is new.
    fn new_on(&self, name: &Name) -> Vec<DiskEntry> {
        let targets = self.new.get(name).into_iter().flatten();
        targets.map(|target| DiskEntry::new(target.as_str(), Some(name.clone()))).collect()
    }
}
