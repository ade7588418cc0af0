#![forbid(unsafe_code)]
//! Owns the comparison of one disk's bitmaps with what libvirt notes of them. Must never know other disks.

use super::notes::Notes;
use super::patient::{Patient, is_plain, is_sound};
use super::{Case, Diagnosis, Finding, FindingKind, Options, dead};
use crate::chain::{Action, BitmapState, Chain, Model, Name};
use crate::error::Result;
use crate::libvirt;
use crate::memory;
use std::collections::BTreeSet;

const FULL: &str = "libvirt refuses an incremental backup since it, and the next one must be full";

/// The state of a diagnosis.
#[derive(Debug)]
pub(super) struct Ward<'a> {
    case: &'a Case<'a>,
    options: &'a Options,
    found: Diagnosis,
    notes: Notes<'a>,
}

impl<'a> Ward<'a> {
    pub(super) fn new(case: &'a Case<'a>, options: &'a Options) -> Self {
        let found = Diagnosis { actions: vec![Vec::new(); case.patients.len()], ..Diagnosis::default() };
        Self { case, options, found, notes: Notes::new(case.metadata) }
    }

    fn note(&mut self, kind: FindingKind, disk: &str, name: &Name, message: String, cost: &str, mend: Option<&str>) {
        let (name, mend) = (Some(name.clone()), mend.map(str::to_owned));
        self.found.findings.push(Finding { kind, disk: disk.to_owned(), name, message, cost: cost.to_owned(), mend });
    }

    fn act(&mut self, at: usize, actions: impl IntoIterator<Item = Action>) -> Result<()> {
        match self.found.actions.get_mut(at) {
            // Two checkpoints can name the same bitmap.
            Some(own) => actions.into_iter().try_for_each(|action| match own.contains(&action) {
                true => Ok(()),
                false => Ok(memory::push(own, action)?),
            }),
            None => Ok(()),
        }
    }

    /// Compares the disks that checkpoints speak of with those of the domain.
    pub(super) fn compare_targets(&mut self) {
        let Some(metadata) = self.case.metadata else { return };
        for own in metadata.checkpoints() {
            let shifts = self.notes.shifts(own, self.case.patients);
            let (shifts, blocked) = self.notes.with_room(own.name(), shifts);
            for (from, to) in &blocked {
                let message = format!(
                    "the image that {from} had when {} was made is the disk {to} now, of which the checkpoint has another bitmap",
                    own.name()
                );
                let cost = "libvirt looks for the bitmap on another disk, and refuses an incremental backup since it";
                self.note(FindingKind::ShiftedDisk, to, own.name(), message, cost, None);
            }
            for (from, to) in &shifts {
                let message = format!("the image that {} had when {} was made is the disk {to} now", from, own.name());
                let cost = "libvirt looks for the bitmap on another disk, and refuses an incremental backup since it";
                self.note(
                    FindingKind::ShiftedDisk,
                    to,
                    own.name(),
                    message,
                    cost,
                    Some("libvirt is told of the new name"),
                );
            }
            self.notes.shift(own.name(), &shifts);
            if let Some(parent) = own.parent().filter(|parent| metadata.get(parent).is_none()) {
                let message = format!("{} follows {parent}, which libvirt has no more", own.name());
                let cost = "libvirt's daemon leaves the checkpoint out when it starts";
                self.note(FindingKind::ParentGone, "", own.name(), message, cost, Some("it becomes a first one"));
                self.notes.orphan(own.name());
            }
            let Some(targets) = &self.case.targets else { continue };
            for gone in self.notes.targets_of(own.name()).into_iter().filter(|target| !targets.contains(target)) {
                let message = format!("{} speaks of a disk {gone}, which the domain has no more", own.name());
                let cost = "none, until another disk gets that name";
                self.note(FindingKind::DiskGone, &gone, own.name(), message, cost, Some("libvirt forgets that disk"));
                self.notes.forget_disk(own.name(), &gone);
            }
        }
    }

    pub(super) fn look_at(&mut self, at: usize) -> Result<()> {
        let Some(patient) = self.case.patients.get(at) else { return Ok(()) };
        let title = patient.target.clone().unwrap_or_else(|| patient.title.clone());
        let bitmaps = patient.bitmaps();
        let chain = Chain::read(bitmaps, self.options.model);
        let own = match &chain {
            Ok(chain) if chain.model() == Model::Interval => {
                memory::sorted_set(chain.checkpoints().iter().map(|own| own.bitmap.clone()))
            }
            Ok(_) => BTreeSet::new(),
            Err(error) if error.is_of_the_call() => return Err(error.clone()),
            // Any of them can be a part of the chain that nobody can tell.
            Err(_) => memory::sorted_set(bitmaps.iter().map(|own| &own.name).filter(|name| !name.is_helper()).cloned()),
        };
        if let Some(unread) = &patient.unread {
            let message = format!("the layers below cannot be read: {unread}");
            let cost = "their bitmaps are not compared, and a diff that needs them is refused".to_owned();
            let (kind, disk) = (FindingKind::LayerUnread, title.clone());
            self.found.findings.push(Finding { kind, disk, name: None, message, cost, mend: None });
        }
        if let Some(journal) = &patient.unfinished {
            let message = format!("a change of this image and others in one step was interrupted ({journal})");
            let cost = "the images can differ, and none of them can be changed until the step is ended".to_owned();
            let (kind, disk) = (FindingKind::Leftover, title.clone());
            self.found.findings.push(Finding { kind, disk, name: None, message, cost, mend: None });
        }
        let (findings, actions) = dead::of_intervals(patient, self.options.model, &title)?;
        self.found.findings.extend(findings);
        self.act(at, actions)?;
        let mut claimed = BTreeSet::new();
        if let (Some(target), true) = (&patient.target, self.case.metadata.is_some()) {
            for (checkpoint, bitmap) in self.notes.of_disk(target) {
                self.compare(at, patient, (&title, target), (&checkpoint, &bitmap), &own)?;
                claimed.insert(bitmap);
            }
            if own.iter().any(|name| name.has_arrow()) {
                self.found.notes.push(format!(
                    "{title}: libvirt can be told of none of the checkpoints of checkmap's own chain: it takes bitmaps only that all \
                     record, and calls a frozen one missing or broken"
                ));
            }
        }
        let others = bitmaps.iter().filter(|bitmap| !own.contains(&bitmap.name) && !claimed.contains(&bitmap.name));
        let others = others.filter(|bitmap| !bitmap.name.has_arrow());
        for bitmap in others {
            self.judge_unclaimed(at, patient, &title, bitmap)?;
        }
        if let (Ok(chain), None) = (&chain, self.case.metadata)
            && chain.model() == Model::Unknown
            && let Err(error) = chain.check_known()
        {
            let (message, cost) = (error.message().to_owned(), "no checkpoint can be made, and no diff is answered");
            let (kind, disk) = (FindingKind::UnknownModel, title);
            self.found.findings.push(Finding { kind, disk, name: None, message, cost: cost.into(), mend: None });
        }
        Ok(())
    }

    /// Compares a checkpoint of libvirt's with its bitmap on a disk.
    fn compare(
        &mut self,
        at: usize,
        patient: &Patient,
        (title, target): (&str, &str),
        (checkpoint, bitmap): (&Name, &Name),
        own: &BTreeSet<Name>,
    ) -> Result<()> {
        let layers = 0..patient.layers.len();
        let having: Vec<usize> = layers.filter(|layer| patient.bitmap(*layer, bitmap).is_some()).collect();
        let is_sound_at = |layer: &usize| patient.bitmap(*layer, bitmap).is_some_and(is_sound);
        let is_run = having.windows(2).all(|pair| matches!(pair, [a, b] if a + 1 == *b));
        let all_sound = having.iter().all(is_sound_at);
        let forget = Some("libvirt forgets the checkpoint of this disk");
        match having.first() {
            None if patient.unread.is_some() => Ok(()),
            None => {
                let message = format!("libvirt has the checkpoint {checkpoint}, and the disk has no bitmap {bitmap}");
                self.note(FindingKind::MetadataWithoutBitmap, title, checkpoint, message, FULL, forget);
                self.notes.forget_disk(checkpoint, target);
                Ok(())
            }
            Some(0) if is_run && all_sound => {
                let Some((_, younger)) = patient.lacking.iter().find(|(older, _)| older == bitmap) else {
                    return Ok(());
                };
                let message = format!("{bitmap} misses blocks that the younger {younger} has");
                let cost = "a backup since it would miss changed blocks";
                // One of ours stays: the chain needs it.
                let goes = !own.contains(bitmap);
                let mend = if goes {
                    Some("the bitmap goes, and libvirt forgets the checkpoint of this disk")
                } else {
                    forget
                };
                self.note(FindingKind::LacksBlocks, title, checkpoint, message, cost, mend);
                self.notes.forget_disk(checkpoint, target);
                self.act(at, goes.then(|| Action::Remove { name: bitmap.clone() }))
            }
            Some(1) if is_run && all_sound => {
                let message =
                    format!("{bitmap} is in the layer below, and was not carried into the layer that was put on top");
                let Some(below) = patient.bitmap(1, bitmap) else { return Ok(()) };
                let (name, granularity) = (bitmap.clone(), below.granularity);
                let mend = "it is added to the top layer, with all blocks that this layer holds";
                self.note(FindingKind::NotCarried, title, checkpoint, message, FULL, Some(mend));
                let record = Action::SetRecording { name: name.clone(), recording: true };
                self.act(at, [Action::AddAllocated { name, granularity }, record])
            }
            Some(_) => {
                let state =
                    having.iter().find(|layer| !is_sound_at(layer)).and_then(|layer| patient.bitmap(*layer, bitmap));
                let why = match state {
                    Some(state) if state.inconsistent => "was not stored when its writer ended",
                    Some(state) if state.unusable => "is of a kind that is not known",
                    Some(_) => "does not record",
                    None => "is missing in one of the layers",
                };
                let message = format!("missing or broken bitmap: {bitmap} {why}");
                // One of ours stays: the chain needs it.
                let goes = !own.contains(bitmap) && having.contains(&0);
                let mend = match goes {
                    true => Some("the bitmap goes, and libvirt forgets the checkpoint of this disk"),
                    false => forget,
                };
                self.note(FindingKind::BrokenBitmap, title, checkpoint, message, FULL, mend);
                self.notes.forget_disk(checkpoint, target);
                let gone = goes.then(|| Action::Remove { name: bitmap.clone() });
                self.act(at, gone)
            }
        }
    }

    /// Judges a bitmap without an arrow that belongs neither to a chain of ours nor to a checkpoint that libvirt has.
    fn judge_unclaimed(&mut self, at: usize, patient: &Patient, title: &str, bitmap: &BitmapState) -> Result<()> {
        let name = &bitmap.name;
        let remove = Action::Remove { name: name.clone() };
        if bitmap.unusable {
            let message = format!("{name} is of a kind that is not known");
            self.note(FindingKind::Stranger, title, name, message, "it takes room", None);
        } else if !is_plain(bitmap) {
            let message = format!("{name} is a helper of a job of libvirt's that has ended");
            let cost = "it takes room, and a job that wants this name fails: bitmap already exists";
            self.note(FindingKind::Leftover, title, name, message, cost, Some("it goes"));
            self.act(at, [remove])?;
        } else if bitmap.inconsistent {
            let message =
                format!("{name} was not stored when its writer ended, and libvirt has no checkpoint of that name");
            let cost = "nothing can use it, and a checkpoint of this name cannot be made: bitmap already exists";
            let message = if self.case.metadata.is_some() {
                message
            } else {
                format!("{name} was not stored when its writer ended")
            };
            self.note(FindingKind::DeadChain, title, name, message, cost, Some("it goes"));
            self.act(at, [remove])?;
        } else if !bitmap.recording {
            // Without libvirt's notes the model says it.
            if self.case.metadata.is_some() {
                let message =
                    format!("{name} does not record, and belongs to no checkpoint of checkmap's or libvirt's");
                let cost = "it takes room, and a checkpoint of this name cannot be made: bitmap already exists";
                self.note(FindingKind::Stranger, title, name, message, cost, None);
            }
        } else if self.case.metadata.is_some() {
            let message = format!("{name} records, and libvirt has no checkpoint of that name");
            let cost = "every write pays for it, libvirt can take no backup since it, and refuses a checkpoint of this name: bitmap \
                        already exists";
            let target = patient.target.as_deref().filter(|_| libvirt::can_be_named(name));
            let mend = target.map(|_| "libvirt is told of it");
            self.note(FindingKind::BitmapWithoutMetadata, title, name, message, cost, mend);
            if let Some(target) = target {
                self.notes.tell_of(name, target, &patient.order);
            }
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Diagnosis> {
        self.found.changes = self.notes.changes(self.options.now_seconds)?;
        Ok(self.found)
    }
}
