#![forbid(unsafe_code)]
//! Owns the giving up of moments: which ones no rule keeps, and how the next kept one takes in what they alone hold. Must never
//! let a kept moment read wrong, not at any instant.
//!
//! Where the oldest moments go, their full file takes in the next kept one ([`super::fold`]), unless it may not be changed in place.
//!
//! Else a kept moment that lies on dropped ones gets a new file: what it holds united with what they hold, on the last kept one
//! below them, or on none. The new file waits beside the old one until the manifest tells of it (see [`super::directory`]); both show
//! the same moment, so those above it read right on either. Then the dropped files go.

use super::compose::Moment;
use super::directory::{Directory, successor};
use super::fold;
use super::layer::{backing_name, read_sums};
use super::manifest::{Backup, DiskRecord};
use super::names::seconds;
use super::sums::clusters;
use super::writer::Writer;
use crate::bitmap::Bitmap;
use crate::error::{Error, ErrorKind, Result};
use crate::formats::CLUSTER_BYTES;
use crate::progress::Observer;
use std::time::{Duration, SystemTime};

/// Which moments are kept: those that any rule keeps, and the newest one of each disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keep {
    last: Option<usize>,
    within: Option<Duration>,
    rewrite: bool,
}

impl Keep {
    /// No rule yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The newest `last` moments of each disk; at least 1.
    #[must_use]
    pub fn last(self, last: Option<usize>) -> Self {
        Self { last, ..self }
    }

    /// The moments that are no older than this.
    #[must_use]
    pub fn within(self, within: Option<Duration>) -> Self {
        Self { within, ..self }
    }

    /// Where the oldest moments go, write a new full file, and leave the old one as it is until then.
    #[must_use]
    pub fn rewrite(self, rewrite: bool) -> Self {
        Self { rewrite, ..self }
    }

    /// Refuses rules that keep nothing.
    fn check(&self) -> Result<()> {
        if self.last.is_none() && self.within.is_none() || self.last == Some(0) {
            let message = "no rule says what is kept, or one keeps nothing";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(())
    }

    /// Whether each of the disk's moments is kept.
    fn kept(&self, disk: &DiskRecord, now: u64) -> Vec<bool> {
        let young = |time: u64| self.within.is_some_and(|within| time.saturating_add(within.as_secs()) >= now);
        let mut newest = self.last.unwrap_or(1).max(1);
        let mut kept = Vec::new();
        for backup in disk.backups.iter().rev() {
            kept.push(!backup.is_given_up && (newest > 0 || young(backup.time)));
            newest = newest.saturating_sub(usize::from(!backup.is_given_up));
        }
        kept.reverse();
        kept
    }
}

/// The moments that a prune would give up, for each disk, oldest first.
pub(super) fn going(directory: &Directory, keep: &Keep) -> Result<Vec<Pruned>> {
    keep.check()?;
    let now = seconds(SystemTime::now());
    let of_disk = |disk: &DiskRecord| {
        let rows = disk.backups.iter().zip(keep.kept(disk, now));
        let gone = rows.filter(|(backup, kept)| !kept && !backup.is_given_up);
        let dropped = gone.map(|(backup, _)| backup.checkpoint.clone()).collect();
        Pruned { disk: disk.name.clone(), dropped, error: None }
    };
    Ok(directory.manifest.disks.iter().map(of_disk).collect())
}

/// What became of one disk.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Pruned {
    /// The name of the disk.
    pub disk: Vec<u8>,
    /// The moments that were given up, oldest first.
    pub dropped: Vec<Vec<u8>>,
    /// Why some that no rule keeps are still there.
    pub error: Option<Error>,
}

pub(super) fn prune(directory: &mut Directory, keep: &Keep, observer: &mut dyn Observer) -> Result<Vec<Pruned>> {
    keep.check()?;
    let now = seconds(SystemTime::now());
    let names: Vec<Vec<u8>> = directory.manifest.disks.iter().map(|disk| disk.name.clone()).collect();
    let mut all = Vec::new();
    let mut is_stopped = false;
    for name in names {
        let mut pruned = Pruned { disk: name, dropped: Vec::new(), error: None };
        loop {
            let finished = if keep.rewrite { Ok(()) } else { fold::finish(directory, &pruned.disk, observer) };
            match finished.and_then(|()| step(directory, &pruned.disk, keep, now, observer)) {
                Ok(None) => break,
                Ok(Some(dropped)) => pruned.dropped.extend(dropped),
                Err(error) => {
                    // The moments that were given up before stay so, and are told.
                    is_stopped = error.is_of_the_call();
                    pruned.error = Some(error);
                    break;
                }
            }
        }
        all.push(pruned);
        if is_stopped {
            break;
        }
    }
    Ok(all)
}

/// Gives up the first run of moments that no rule keeps; returns them, or nothing where there is none.
fn step(
    directory: &mut Directory,
    name: &[u8],
    keep: &Keep,
    now: u64,
    observer: &mut dyn Observer,
) -> Result<Option<Vec<Vec<u8>>>> {
    let record = directory.record(name)?.clone();
    let kept = keep.kept(&record, now);
    let Some(first) = kept.iter().position(|kept| !kept) else { return Ok(None) };
    // The newest one is always kept.
    let run = kept.iter().skip(first).take_while(|kept| !**kept).count();
    let child = first + run;
    let mut changed = record.clone();
    let is_increment = changed.backups.get(child).is_some_and(|child| !child.is_full);
    let oldest_go = is_increment && record.root_of(child) == first;
    let folds = oldest_go && !keep.rewrite && fold::begin(directory, &mut changed, first, child, observer)?.is_ok();
    let going = record.backups.iter().take(child).skip(first).filter(|backup| !backup.is_given_up);
    changed.left.extend(going.clone().filter(|backup| backup.has_checkpoint).map(Backup::mark));
    let dropped = going.map(|backup| backup.checkpoint.clone()).collect();
    if !folds {
        if is_increment {
            take_in(directory, &mut changed, first, child, observer)?;
        }
        changed.gone.extend(changed.backups.drain(first..child).map(|backup| backup.checkpoint));
    }
    *directory.record(name)? = changed;
    match directory.save() {
        // The new manifest stands, or will not after a power cut: then its files are there all the same.
        Err(error) if error.kind() == ErrorKind::CommitInDoubt => return Err(error),
        Err(error) => {
            *directory.record(name)? = record;
            directory.clear()?;
            return Err(error);
        }
        Ok(()) => {}
    }
    directory.finish_moves()?;
    directory.clear()?;
    Ok(Some(dropped))
}

/// Writes the successor of the moment at `child`, which takes in those from `first` on.
fn take_in(
    directory: &Directory,
    record: &mut DiskRecord,
    first: usize,
    child: usize,
    observer: &mut dyn Observer,
) -> Result<()> {
    let root = record.root_of(child);
    let moment = Moment::open(directory, record, root..=child)?;
    let folder = directory.folder(record);
    let below = first.checked_sub(1).filter(|below| *below >= root);
    let backing = below.and_then(|below| record.backups.get(below)).map(backing_name);
    let mut writer = Writer::begin(&folder, moment.size_bytes(), backing.as_deref())?;
    match below {
        Some(_) => moment.walk(Some(&held(directory, record, first, child)?), &mut writer, observer)?,
        None => moment.walk(None, &mut writer, observer)?,
    }
    let written = writer.finish(&folder)?;
    let Some(backup) = record.backups.get(child) else { return Ok(()) };
    let (file, sums) = (folder.join(backup.file_name()), folder.join(backup.sums_name()));
    let Some(backup) = record.backups.get_mut(child) else { return Ok(()) };
    backup.is_full = below.is_none();
    backup.sums = written.sum;
    (backup.data_bytes, backup.zero_bytes) = (written.data_bytes, written.zero_bytes);
    backup.file_bytes = written.file_bytes;
    backup.is_moving = true;
    backup.fold = None;
    written.place(&successor(&file), &successor(&sums))
}

/// The clusters that the moments from `first` to `child` hold, or hide by being shorter.
pub(super) fn held(directory: &Directory, record: &DiskRecord, first: usize, child: usize) -> Result<Bitmap> {
    let size = record.backups.get(child).map_or(0, |child| child.size_bytes);
    let mut all = Bitmap::new(size, clusters()?)?;
    for (place, backup) in record.backups.iter().enumerate().take(child + 1).skip(first) {
        let mut held = read_sums(directory, record, backup)?.held()?;
        held.resize(size)?;
        all.union_with(&held)?;
        let end = backup.size_bytes / CLUSTER_BYTES * CLUSTER_BYTES;
        if place < child && end < size {
            all.set(end, size - end)?;
        }
    }
    Ok(all)
}
