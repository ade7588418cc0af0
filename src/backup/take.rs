#![forbid(unsafe_code)]
//! Owns the taking of a backup: the checkpoint on every disk first, then the reading, then the directory, then the end of older
//! checkpoints. Must never know how a file is written.
//!
//! The order never loses a change. The checkpoint stands before the first byte is read, so a write after the reading is in the next
//! increment; the reading takes all changes since the last complete backup until the reading itself. Where the reading fails, the new
//! checkpoint is merged into the one before, and the manifest knows its name until that is done.

use super::changes::{self, Wanted};
use super::compose::{MOST_LAYERS, Moment};
use super::copy::copy;
use super::directory::Directory;
use super::layer::backing_name;
use super::manifest::{Backup, DiskRecord, Mark};
use super::names::{encode, seconds};
use super::origin::{Disk, Origin, Reading};
use super::{Failure, Options, Taken};
use crate::chain::check_checkpoint_name;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Observer;

/// A moment of this many files is worth a warning.
const MANY_LAYERS: usize = 100;

/// A disk that is about to be backed up.
struct Job<'a> {
    checkpoint: &'a [u8],
    /// Whether the checkpoint is there, as that of a moment which an interrupted run left.
    is_standing: bool,
    /// Whether that run has read this disk.
    is_done: bool,
    place: Vec<u8>,
    /// The image that gets the checkpoint.
    image: Vec<u8>,
    /// Why the disk gets no checkpoint.
    unfit: Option<Error>,
    taken: Taken,
}

/// A disk that was looked at.
struct Looked {
    reading: Box<dyn Reading>,
    wanted: Wanted,
    /// The name of the file that the new one is to lie on.
    backing: Option<String>,
    /// The new backup as far as it is known before it is written.
    backup: Backup,
}

/// Tells for each disk what a backup would write, at most. Nothing is changed.
pub(super) fn preview(
    directory: Option<&Directory>,
    origin: &mut dyn Origin,
    options: &Options<'_>,
    observer: &mut dyn Observer,
) -> Result<Vec<Taken>> {
    let mut jobs = jobs(origin, options.checkpoint, false)?;
    for (disk, job) in origin.disks().into_iter().zip(&mut jobs) {
        let looked = disk
            .check_usable(observer)
            .and_then(|()| directory.map_or(Ok(()), |directory| job.check(directory, disk, options)))
            .and_then(|()| disk.check_create(options.checkpoint))
            .and_then(|unfit| {
                job.unfit = unfit;
                job.look(directory, disk, options, observer)
            });
        job.taken.backup = Some(looked.map_err(|error| disk.named(error).nothing_changed())?.backup);
    }
    Ok(jobs.into_iter().map(|job| job.taken).collect())
}

/// A job for each disk, whose names and places must be different.
fn jobs<'a>(origin: &mut dyn Origin, checkpoint: &'a [u8], is_standing: bool) -> Result<Vec<Job<'a>>> {
    check_checkpoint_name(checkpoint)?;
    let mut jobs: Vec<Job<'_>> = Vec::new();
    for disk in origin.disks() {
        let (name, place) = (disk.name().to_vec(), disk.place().to_vec());
        if name.is_empty() || jobs.iter().any(|job| encode(&job.taken.name) == encode(&name)) {
            let name = String::from_utf8_lossy(&name).into_owned();
            let message = format!("two disks would have the name '{name}', or one has none");
            return Err(Error::new(ErrorKind::InvalidArgument, message).advise("give each disk a name of its own"));
        }
        if jobs.iter().any(|job| job.place == place) {
            let message = format!("two disks are the same: {}", String::from_utf8_lossy(&place));
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let taken = Taken::of(&name);
        let image = place.clone();
        jobs.push(Job { checkpoint, is_standing, is_done: false, place, image, unfit: None, taken });
    }
    Ok(jobs)
}

/// Backs up all disks; the list says which were, and which were not.
pub(super) fn take(
    directory: &mut Directory,
    origin: &mut dyn Origin,
    options: &Options<'_>,
    observer: &mut dyn Observer,
) -> Result<Vec<(Taken, std::result::Result<(), Failure>)>> {
    check_checkpoint_name(options.checkpoint)?;
    let is_done = |disk: &[u8], checkpoint: &[u8]| {
        directory.manifest.disk(disk).is_some_and(|record| record.place_of(checkpoint).is_some())
    };
    let standing = origin.take_up(&is_done, observer)?;
    let taken = take_at(directory, origin, (standing.as_deref(), options), observer);
    let left = match (&taken, &standing) {
        // Refused: the moment stands as before.
        (Err(_), Some(_)) => {
            origin.leave();
            None
        }
        _ => origin.end(),
    };
    let mut taken = taken?;
    if let (Some(warning), Some((last, _))) = (left, taken.last_mut()) {
        last.warnings.push(warning);
    }
    Ok(taken)
}

/// As [`take`], with the checkpoint of a moment that stands already where there is one.
fn take_at(
    directory: &mut Directory,
    origin: &mut dyn Origin,
    (standing, options): (Option<&[u8]>, &Options<'_>),
    observer: &mut dyn Observer,
) -> Result<Vec<(Taken, std::result::Result<(), Failure>)>> {
    let checkpoint = standing.unwrap_or(options.checkpoint);
    let mut jobs = jobs(origin, checkpoint, standing.is_some())?;
    for (disk, job) in origin.disks().into_iter().zip(&mut jobs) {
        job.prepare(directory, disk, options, observer).map_err(|error| disk.named(error).nothing_changed())?;
    }
    // On every disk before the first one is read: so they stand as close to one moment as can be.
    for job in jobs.iter().filter(|job| !job.is_done) {
        job.announce(directory)?;
    }
    directory.save()?;
    let wanted: Vec<bool> = jobs.iter().map(|job| job.unfit.is_none()).collect();
    let made = match standing {
        Some(_) => jobs.iter().map(|_| Ok(Vec::new())).collect(),
        None => match origin.create(checkpoint, &wanted, observer) {
            Ok(made) => made,
            Err(error) => {
                for (disk, job) in origin.disks().into_iter().zip(&mut jobs) {
                    job.undo(directory, disk, false);
                }
                return Err(error.nothing_changed());
            }
        },
    };
    let mut all = Vec::new();
    for ((disk, mut job), made) in origin.disks().into_iter().zip(jobs).zip(made) {
        let (done, is_made) = match made {
            Ok(warnings) => {
                job.taken.warnings.extend(warnings);
                let copied = if job.is_done { Ok(()) } else { job.copy(directory, disk, options, observer) };
                (copied, true)
            }
            Err(error) => (Err(error), false),
        };
        let done = match done {
            Ok(()) => job.drop_older(directory, disk, options).map_err(|error| Failure { error, is_backed_up: true }),
            Err(error) => {
                if error.kind() != ErrorKind::CommitInDoubt {
                    job.undo(directory, disk, is_made);
                }
                Err(Failure { error, is_backed_up: false })
            }
        };
        all.push((job.taken, done));
    }
    Ok(all)
}

impl Job<'_> {
    /// Refuses what cannot be, and clears what an interrupted run left on the disk.
    fn prepare(
        &mut self,
        directory: &mut Directory,
        disk: &mut dyn Disk,
        options: &Options<'_>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        disk.check_usable(observer)?;
        let known = directory.manifest.disk(&self.taken.name);
        if let Some(known) = known.filter(|_| self.is_standing)
            && let Some(place) = known.place_of(self.checkpoint)
        {
            self.is_done = true;
            self.taken.backup = known.backups.get(place).cloned();
        }
        self.check(directory, disk, options)?;
        // On another image a checkpoint of that name is somebody else's.
        if let Some(known) = directory.manifest.disk(&self.taken.name) {
            let own = known.pending.iter().filter(|mark| disk.is_at(&mark.image));
            let (stands, pending): (Vec<Mark>, Vec<Mark>) =
                own.cloned().partition(|mark| self.is_standing && mark.checkpoint == self.checkpoint);
            if let Some(stands) = stands.into_iter().next() {
                self.image = stands.image;
            }
            match disk.delete(&names_of(&pending)) {
                Ok(_) => directory.record(&self.taken.name)?.pending.retain(|mark| !pending.contains(mark)),
                Err(error) => {
                    let message = format!("checkpoints of an interrupted run may be on the disk: {}", error.reason());
                    self.taken.warnings.push(message);
                }
            }
        }
        self.unfit = match (disk.check_create(self.checkpoint), self.is_standing) {
            // It is there.
            (Err(error), true) if error.kind() == ErrorKind::Exists => None,
            (Ok(None), true) => {
                Some(Error::new(ErrorKind::NotFound, "the checkpoint of the moment was deleted meanwhile"))
            }
            (checked, _) => checked?,
        };
        Ok(())
    }

    /// Refuses what does not go with what the directory has; from then on the place is that by which the directory knows the disk.
    fn check(&mut self, directory: &Directory, disk: &dyn Disk, options: &Options<'_>) -> Result<()> {
        let name = &self.taken.name;
        let Some(other) = directory.manifest.disks.iter().find(|other| other.folder() == encode(name)) else {
            return Ok(());
        };
        let known = String::from_utf8_lossy(&other.name);
        if other.name != *name {
            let message = format!("its folder would be that of the disk '{known}'");
            return Err(Error::new(ErrorKind::Exists, message).advise("give the disk another name"));
        }
        let is_there = |backup: &Backup| encode(&backup.checkpoint) == encode(self.checkpoint);
        if !self.is_done && other.backups.iter().any(is_there) {
            let message = "the directory has a backup of this name already";
            return Err(Error::new(ErrorKind::Exists, message).advise("give the checkpoint another name"));
        }
        if disk.is_at(&other.image) {
            self.place.clone_from(&other.image);
        }
        if other.image != self.place && !other.backups.is_empty() && !options.full {
            let place = String::from_utf8_lossy(&other.image).into_owned();
            let message = format!("the disk '{known}' of the directory is that of {place}: this may be another one");
            let advice = "give this disk another name; or if it was moved, ask for a full backup";
            return Err(Error::new(ErrorKind::Changed, message).advise(advice));
        }
        if files_of_the_last(other) >= MOST_LAYERS && !options.full {
            let message = format!("the last backup lies on {MOST_LAYERS} files, and no more are allowed");
            let advice = "prune the directory, or ask for a full backup";
            return Err(Error::new(ErrorKind::CannotStore, message).advise(advice));
        }
        Ok(())
    }

    /// Opens the disk, and finds out what has to be written, and on which file; or that all has to be, with the reason.
    fn look(
        &mut self,
        directory: Option<&Directory>,
        disk: &mut dyn Disk,
        options: &Options<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Looked> {
        let reading = disk.open(observer)?;
        self.taken.files = reading.files();
        self.taken.warnings.extend(reading.warnings());
        self.taken.through_qemu = reading.through_qemu().map(str::to_owned);
        let known = directory.and_then(|directory| Some((directory, directory.manifest.disk(&self.taken.name)?)));
        let changes = match (&self.unfit, known) {
            (Some(why), _) => Err(Some(format!("the disk keeps no checkpoints: {}", why.reason()))),
            (None, Some((directory, record))) => changes_of((directory, record), (disk, &*reading), options, observer)?,
            (None, None) => Err(None),
        };
        let (wanted, backing, reason) = match (changes, known.and_then(|(_, record)| record.backups.last())) {
            (Ok(wanted), Some(last)) => (wanted, Some(backing_name(last)), None),
            (Ok(_), None) => (changes::all(reading.content(), observer)?, None, None),
            (Err(reason), _) => (changes::all(reading.content(), observer)?, None, reason),
        };
        let backup = Backup {
            checkpoint: self.checkpoint.to_vec(),
            is_full: backing.is_none(),
            reason,
            size_bytes: reading.content().size_bytes(),
            time: seconds(reading.time()),
            data_bytes: wanted.copied.dirty_bytes(),
            zero_bytes: wanted.zeros.dirty_bytes(),
            file_bytes: 0,
            has_checkpoint: self.unfit.is_none(),
            image: self.image.clone(),
            sums: 0,
            is_moving: false,
            is_given_up: false,
            fold: None,
        };
        Ok(Looked { reading, wanted, backing, backup })
    }

    /// The checkpoint that is made.
    fn mark(&self) -> Mark {
        Mark { checkpoint: self.checkpoint.to_vec(), image: self.image.clone() }
    }

    /// Lets the manifest know of the disk, and of the checkpoint before it is made.
    fn announce(&self, directory: &mut Directory) -> Result<()> {
        let name = &self.taken.name;
        if directory.manifest.disk(name).is_none() {
            directory.manifest.disks.push(DiskRecord::new(name.clone(), self.place.clone()));
        }
        let record = directory.record(name)?;
        let mark = self.mark();
        if !record.pending.contains(&mark) {
            record.pending.push(mark);
        }
        directory.manifest.disk(name).map_or(Ok(()), |record| directory.make_folder(record))
    }

    /// Reads the disk, and lets the directory have the backup.
    fn copy(
        &mut self,
        directory: &mut Directory,
        disk: &mut dyn Disk,
        options: &Options<'_>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let Looked { reading, wanted, backing, mut backup } = self.look(Some(directory), disk, options, observer)?;
        let record = directory.record(&self.taken.name)?.clone();
        let folder = directory.folder(&record);
        let written = copy(reading.content(), &wanted, (&folder, backing.as_deref()), options.threads, observer)?;
        (backup.data_bytes, backup.zero_bytes) = (written.data_bytes, written.zero_bytes);
        (backup.file_bytes, backup.sums) = (written.file_bytes, written.sum);
        // All was read; the moment need not stand while the files are made durable.
        drop(reading);
        written.place(&directory.file(&record, &backup), &directory.sums(&record, &backup))?;
        let changed = directory.record(&self.taken.name)?;
        changed.backups.push(backup.clone());
        let mark = self.mark();
        changed.pending.retain(|pending| *pending != mark);
        // Not before: until then the backups are those of the image that was known, and of no other.
        changed.image.clone_from(&self.place);
        let files = files_of_the_last(changed);
        match directory.save() {
            // The manifest stands, though a power cut could bring back the old one: the files and the checkpoint stay.
            Err(error) if error.kind() == ErrorKind::CommitInDoubt => return Err(error),
            Err(error) => {
                *directory.record(&self.taken.name)? = record;
                return Err(error);
            }
            Ok(()) => {}
        }
        if files >= MANY_LAYERS {
            self.taken.warnings.push(format!("the moment lies on {files} files: prune the directory"));
        }
        self.taken.backup = Some(backup);
        Ok(())
    }

    /// Drops the checkpoints that this directory made and needs no more.
    fn drop_older(&mut self, directory: &mut Directory, disk: &mut dyn Disk, options: &Options<'_>) -> Result<()> {
        let record = directory.record(&self.taken.name)?;
        let made = record.moments().filter(|backup| backup.has_checkpoint).map(Backup::mark);
        let mut marks: Vec<Mark> = record.left.iter().cloned().chain(made).collect();
        marks.retain(|mark| disk.is_at(&mark.image));
        marks.truncate(marks.len().saturating_sub(options.keep_checkpoints.max(1)));
        if marks.is_empty() || self.unfit.is_some() {
            return Ok(());
        }
        let (dropped, warnings) = disk.delete(&names_of(&marks))?;
        self.taken.warnings.extend(warnings);
        self.taken.dropped = dropped;
        let record = directory.record(&self.taken.name)?;
        if !record.left.is_empty() {
            record.left.retain(|left| !marks.contains(left));
            directory.save()?;
        }
        Ok(())
    }

    /// After a failure: the new checkpoint is merged into the one before, if it was made.
    fn undo(&mut self, directory: &mut Directory, disk: &mut dyn Disk, is_made: bool) {
        let undone = directory.clear().and_then(|()| {
            if is_made && self.unfit.is_none() {
                disk.delete(&[self.checkpoint.to_vec()])?;
            }
            let record = directory.record(&self.taken.name)?;
            let mark = self.mark();
            record.pending.retain(|pending| *pending != mark);
            directory.save()
        });
        if let Err(error) = undone {
            let message = format!("not everything could be undone, the next run will: {}", error.reason());
            self.taken.warnings.push(message);
        }
    }
}

/// What an increment has to write; or why there must be a full backup, where there is a reason.
fn changes_of(
    (directory, record): (&Directory, &DiskRecord),
    (disk, reading): (&dyn Disk, &dyn Reading),
    options: &Options<'_>,
    observer: &mut dyn Observer,
) -> Result<std::result::Result<Wanted, Option<String>>> {
    let Some(last) = record.backups.last() else { return Ok(Err(None)) };
    if options.full {
        return Ok(Err(Some("it was asked for".into())));
    }
    if !last.has_checkpoint {
        return Ok(Err(Some("the backup before left no checkpoint on the disk".into())));
    }
    // One of that name on another image tells nothing of the last backup.
    if !disk.is_at(&last.image) {
        let image = String::from_utf8_lossy(&last.image);
        return Ok(Err(Some(format!(
            "{image}, which got the checkpoint of the backup before, is no layer of the disk"
        ))));
    }
    let changed = match reading.changed_since(&last.checkpoint, observer)? {
        Ok(changed) => changed,
        Err(why) => return Ok(Err(Some(format!("what changed cannot be told: {why}")))),
    };
    let place = record.backups.len() - 1;
    let older = match Moment::open(directory, record, record.root_of(place)..=place) {
        Err(error) if error.is_of_the_call() => return Err(error),
        Err(error) => return Ok(Err(Some(unreadable(&error)))),
        Ok(older) => older,
    };
    match changes::since(reading.content(), &changed, &older, observer)? {
        // A missing or damaged file of the directory: nothing that lies on it could be restored.
        Err(error) => Ok(Err(Some(unreadable(&error)))),
        Ok(wanted) => Ok(Ok(wanted)),
    }
}

fn names_of(marks: &[Mark]) -> Vec<Vec<u8>> {
    marks.iter().map(|mark| mark.checkpoint.clone()).collect()
}

/// How many files the last moment lies on, its own among them.
fn files_of_the_last(disk: &DiskRecord) -> usize {
    disk.backups.len().checked_sub(1).map_or(0, |last| last + 1 - disk.root_of(last))
}

fn unreadable(error: &Error) -> String {
    format!("the backup before cannot be read: {}", error.reason())
}
