#![forbid(unsafe_code)]
//! Owns the taking of a backup: the checkpoint on every disk first, then the reading, then the directory, then the end of older
//! checkpoints. Must never know how a file is written.
//!
//! The order never loses a change. The checkpoint stands before the first byte is read, so a write after the reading is in the next
//! increment; the reading takes all changes since the last complete backup until the reading itself. Where the reading fails, the new
//! checkpoint is merged into the one before, and the manifest knows its name until that is done.

use super::changes::{self, Wanted};
use super::compose::{MOST_LAYERS, Moment};
use super::directory::Directory;
use super::layer::backing_name;
use super::manifest::{Backup, DiskRecord};
use super::names::seconds;
use super::writer::{Writer, Written, buffer};
use super::{Failure, Options, Source, Taken};
use crate::bitmap::Bitmap;
use crate::chain::check_checkpoint_name;
use crate::content::{self, Chain, Content};
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::Extent;
use crate::image::{Access, DiffRequest, Image, Layers, OpenOptions};
use crate::progress::{Observer, Unobserved, tell};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

/// The piece of a disk that is read at once: large enough for several requests to a server to be under way.
const PIECE: u64 = 4 << 20;

/// A moment of this many files is worth a warning.
const MANY_LAYERS: usize = 100;

/// A disk that is about to be backed up.
struct Job<'a> {
    source: &'a Source<'a>,
    checkpoint: &'a [u8],
    /// Why the disk gets no checkpoint.
    unfit: Option<Error>,
    taken: Taken,
}

/// Backs up all disks; the list says which were, and which were not.
pub(super) fn take(
    directory: &mut Directory,
    sources: &[Source<'_>],
    options: &Options<'_>,
    observer: &mut dyn Observer,
) -> Result<Vec<(Taken, std::result::Result<(), Failure>)>> {
    check_checkpoint_name(options.checkpoint)?;
    for (at, source) in sources.iter().enumerate() {
        if source.name.is_empty() || sources.iter().take(at).any(|other| other.name == source.name) {
            let name = String::from_utf8_lossy(&source.name).into_owned();
            let message = format!("two disks would have the name '{name}', or one has none");
            return Err(Error::new(ErrorKind::InvalidArgument, message).advise("give each disk a name of its own"));
        }
    }
    let mut jobs = Vec::new();
    for source in sources {
        let mut job = Job { source, checkpoint: options.checkpoint, unfit: None, taken: Taken::of(source) };
        job.prepare(directory, options).map_err(|error| error.in_file(source.image).nothing_changed())?;
        jobs.push(job);
    }
    // On every disk before the first one is read: so they stand as close to one moment as can be.
    let mut failed: Vec<Option<Error>> = Vec::new();
    for job in &mut jobs {
        failed.push(job.create(directory, options).err());
    }
    let mut all = Vec::new();
    for (mut job, failed) in jobs.into_iter().zip(failed) {
        let done = match failed {
            Some(error) => Err(error),
            None => job.copy(directory, options, observer),
        };
        let done = match done {
            Ok(()) => job.drop_older(directory, options).map_err(|error| Failure { error, is_backed_up: true }),
            Err(error) => {
                if error.kind() != ErrorKind::CommitInDoubt {
                    job.undo(directory, options);
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
    fn prepare(&mut self, directory: &mut Directory, options: &Options<'_>) -> Result<()> {
        let path = fs::canonicalize(self.source.image).map_err(|error| Error::io("cannot find", error))?;
        let path = path.as_os_str().as_bytes();
        let mut image = self.open(Access::Write, options)?;
        if let Some(unclean) = image.unclean() {
            return Err(unclean);
        }
        if let Some(record) = directory.manifest.disk(&self.source.name) {
            if record.place_of(self.checkpoint).is_some() {
                let message = "the directory has a backup of this name already";
                return Err(Error::new(ErrorKind::Exists, message).advise("give the checkpoint another name"));
            }
            if record.image != path && !record.backups.is_empty() && !options.full {
                let message = format!(
                    "the disk '{}' of the directory is that of {}: this may be another one",
                    String::from_utf8_lossy(&record.name),
                    String::from_utf8_lossy(&record.image)
                );
                let advice = "give this disk another name; or if it was moved, ask for a full backup";
                return Err(Error::new(ErrorKind::Changed, message).advise(advice));
            }
            let pending = record.pending.clone();
            for name in &pending {
                match merge_back(&mut image, name) {
                    Ok(()) => directory.record(&self.source.name)?.pending.retain(|other| other != name),
                    Err(error) => self.taken.warn(format!(
                        "the checkpoint {} of an interrupted run stays on the disk: {}",
                        crate::chain::Name::new(name.as_slice()),
                        error.reason()
                    )),
                }
            }
        }
        match image.plan_create(self.checkpoint, None, None) {
            Ok(_) => {}
            Err(error) if keeps_no_checkpoint(&error) => self.unfit = Some(error),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn open(&self, access: Access, options: &Options<'_>) -> Result<Image> {
        Image::open(self.source.image, &OpenOptions::new(access).no_lock(options.no_lock).threads(options.threads))
    }

    /// Makes the checkpoint, and lets the manifest know of it before.
    fn create(&mut self, directory: &mut Directory, options: &Options<'_>) -> Result<()> {
        let path = fs::canonicalize(self.source.image).map_err(|error| Error::io("cannot find", error))?;
        let name = &self.source.name;
        if directory.manifest.disk(name).is_none() {
            let record = DiskRecord::new(name.clone(), path.as_os_str().as_bytes().to_vec());
            directory.manifest.disks.push(record);
        }
        let record = directory.record(name)?;
        record.image = path.as_os_str().as_bytes().to_vec();
        if self.unfit.is_none() {
            record.pending.push(self.checkpoint.to_vec());
        }
        directory.save()?;
        directory.manifest.disk(name).map_or(Ok(()), |record| directory.make_folder(record))?;
        if self.unfit.is_some() {
            return Ok(());
        }
        let mut image = self.open(Access::Write, options)?;
        let plan = image.plan_create(self.checkpoint, None, None)?;
        self.taken.warnings.extend(plan.risks().iter().chain(plan.warnings()).cloned());
        let warnings = image.commit(&plan, &mut Unobserved)?;
        self.taken.warnings.extend(warnings);
        Ok(())
    }

    /// Reads the disk, and lets the directory have the backup.
    fn copy(&mut self, directory: &mut Directory, options: &Options<'_>, observer: &mut dyn Observer) -> Result<()> {
        let time = seconds(SystemTime::now());
        let image = self.open(Access::Read, options)?;
        let chain = Chain::of(&image, content::Options { no_lock: image.is_without_locks() })?;
        self.taken.files = chain.files();
        self.taken.warnings.extend(chain.warnings().iter().cloned());
        let (content, through_qemu) = content::open(chain, options.secret_file, observer)?;
        self.taken.through_qemu = through_qemu;
        if content.size_bytes() != image.virtual_size() {
            let message = format!("its content has {} bytes, its map {}", content.size_bytes(), image.virtual_size());
            return Err(Error::new(ErrorKind::Damaged, message));
        }
        let record = directory.record(&self.source.name)?.clone();
        let changes = match &self.unfit {
            Some(why) => Err(Some(format!("the disk keeps no checkpoints: {}", why.reason()))),
            None => self.changes(directory, &record, &image, &*content, options, observer)?,
        };
        let folder = directory.folder(&record);
        let (wanted, backing, reason) = match (changes, record.backups.last()) {
            (Ok(wanted), Some(last)) => (wanted, Some(backing_name(last)), None),
            (Ok(_), None) => (changes::all(&*content, observer)?, None, None),
            (Err(reason), _) => (changes::all(&*content, observer)?, None, reason),
        };
        let written = write(&*content, &wanted, &folder, backing.as_deref(), observer)?;
        let backup = Backup {
            checkpoint: self.checkpoint.to_vec(),
            is_full: backing.is_none(),
            reason,
            size_bytes: content.size_bytes(),
            time,
            data_bytes: written.data_bytes,
            zero_bytes: written.zero_bytes,
            file_bytes: written.file_bytes,
            has_checkpoint: self.unfit.is_none(),
            sums: written.sum,
            is_moving: false,
        };
        written.place(&directory.file(&record, &backup), &directory.sums(&record, &backup))?;
        let record = directory.record(&self.source.name)?;
        let pending = record.pending.clone();
        record.backups.push(backup.clone());
        record.pending.retain(|name| name != self.checkpoint);
        match directory.save() {
            // The manifest stands, though a power cut could bring back the old one: the files and the checkpoint stay.
            Err(error) if error.kind() == ErrorKind::CommitInDoubt => return Err(error),
            Err(error) => {
                let record = directory.record(&self.source.name)?;
                record.backups.pop();
                record.pending = pending;
                return Err(error);
            }
            Ok(()) => {}
        }
        let record = directory.record(&self.source.name)?;
        let files = record.backups.len() - record.root_of(record.backups.len().saturating_sub(1));
        if files >= MANY_LAYERS {
            self.taken.warn(format!("the moment lies on {files} files: prune the directory"));
        }
        self.taken.backup = Some(backup);
        Ok(())
    }

    /// What an increment has to write; or why there must be a full backup, where there is a reason.
    fn changes(
        &self,
        directory: &Directory,
        record: &DiskRecord,
        image: &Image,
        content: &dyn Content,
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
        let changed = match image.diff(&DiffRequest::since(&last.checkpoint), observer) {
            Err(error) if is_of_the_map(&error) => {
                return Ok(Err(Some(format!("what changed cannot be told: {}", error.reason()))));
            }
            diff => diff?.bitmap,
        };
        let place = record.backups.len() - 1;
        let root = record.root_of(place);
        if place + 1 - root >= MOST_LAYERS {
            let message = format!("the last backup lies on {MOST_LAYERS} files, and no more are allowed");
            return Err(
                Error::new(ErrorKind::CannotStore, message).advise("prune the directory, or ask for a full one")
            );
        }
        self.over(directory, record, root..=place, content, &changed, observer)
    }

    fn over(
        &self,
        directory: &Directory,
        record: &DiskRecord,
        places: std::ops::RangeInclusive<usize>,
        content: &dyn Content,
        changed: &Bitmap,
        observer: &mut dyn Observer,
    ) -> Result<std::result::Result<Wanted, Option<String>>> {
        let wanted = Moment::open(directory, record, places)
            .map_err(|error| (error, true))
            .and_then(|older| changes::since(content, changed, &older, observer).map_err(|error| (error, false)));
        match wanted {
            Ok(wanted) => Ok(Ok(wanted)),
            Err((error, _)) if error.is_of_the_call() => Err(error),
            // A missing or damaged file of the directory: nothing that lies on it could be restored.
            Err((error, is_older)) if is_older || error.kind() == ErrorKind::Damaged => {
                Ok(Err(Some(format!("the backup before cannot be read: {}", error.reason()))))
            }
            Err((error, _)) => Err(error),
        }
    }

    /// Drops the checkpoints that this directory made and needs no more.
    fn drop_older(&mut self, directory: &mut Directory, options: &Options<'_>) -> Result<()> {
        let record = directory.record(&self.source.name)?;
        let made = record.backups.iter().filter(|backup| backup.has_checkpoint).map(|backup| backup.checkpoint.clone());
        let mut names: Vec<Vec<u8>> = record.left.iter().cloned().chain(made).collect();
        names.truncate(names.len().saturating_sub(options.keep_checkpoints.max(1)));
        if names.is_empty() || self.unfit.is_some() {
            return Ok(());
        }
        let mut image = self.open(Access::Write, options)?;
        let chain = image.chain(None)?;
        let there: Vec<&Vec<u8>> = names.iter().filter(|name| chain.checkpoint(name).is_some()).collect();
        if !there.is_empty() {
            let plan = image.plan_delete_many(&there, false, Layers::Check, None)?;
            let warnings = image.commit(&plan, &mut Unobserved)?;
            self.taken.warnings.extend(warnings);
            self.taken.dropped = there.into_iter().cloned().collect();
        }
        let record = directory.record(&self.source.name)?;
        if !record.left.is_empty() {
            record.left.retain(|left| !names.contains(left));
            directory.save()?;
        }
        Ok(())
    }

    /// After a failure: the new checkpoint is merged into the one before.
    fn undo(&mut self, directory: &mut Directory, options: &Options<'_>) {
        let undone = directory.clear().and_then(|()| {
            if self.unfit.is_some() {
                return Ok(());
            }
            let mut image = self.open(Access::Write, options)?;
            merge_back(&mut image, self.checkpoint)?;
            let record = directory.record(&self.source.name)?;
            record.pending.retain(|name| name != self.checkpoint);
            directory.save()
        });
        if let Err(error) = undone {
            self.taken.warn(format!("not everything could be undone, the next run will: {}", error.reason()));
        }
    }
}

/// Merges a checkpoint into the one before, where it is on the disk.
fn merge_back(image: &mut Image, name: &[u8]) -> Result<()> {
    if image.chain(None)?.checkpoint(name).is_none() {
        return Ok(());
    }
    let plan = image.plan_delete(name, false, Layers::Check, None)?;
    image.commit(&plan, &mut Unobserved).map(drop)
}

/// Whether the disk is one that can be copied, and that keeps no new checkpoint.
fn keeps_no_checkpoint(error: &Error) -> bool {
    use ErrorKind::{BrokenChain, CannotStore, Inconsistent, Model, OldVersion, Recording, Stale};
    matches!(
        error.kind(),
        OldVersion | CannotStore | Stale | Inconsistent | Recording | BrokenChain | Model | ErrorKind::Unsupported
    )
}

/// Whether an error tells that the map of changes cannot be had, and nothing of the disk's data.
pub(super) fn is_of_the_map(error: &Error) -> bool {
    use ErrorKind::{BackingLayer, NotFound, Order, SizeMismatch};
    keeps_no_checkpoint(error) || matches!(error.kind(), NotFound | Order | SizeMismatch | BackingLayer)
}

/// Writes the wanted clusters into a file in `folder`.
fn write(
    content: &dyn Content,
    wanted: &Wanted,
    folder: &Path,
    backing: Option<&str>,
    observer: &mut dyn Observer,
) -> Result<Written> {
    let mut writer = Writer::begin(folder, content.size_bytes(), backing)?;
    let total = wanted.copied.dirty_bytes();
    let mut done = 0;
    let mut piece = buffer(PIECE)?;
    let mut zeros = wanted.zeros.extents(0, u64::MAX).peekable();
    for Extent { offset, len_bytes } in wanted.copied.extents(0, u64::MAX) {
        while let Some(zero) = zeros.next_if(|zero| zero.offset < offset) {
            writer.write_zeros(zero.offset, zero.len_bytes)?;
        }
        let end = offset + len_bytes;
        let mut at = offset;
        while at < end {
            tell(observer, "copying the disk", done, total)?;
            let len = PIECE.min(end - at);
            let bytes = piece.get_mut(..usize::try_from(len).unwrap_or(usize::MAX)).unwrap_or_default();
            content.read_at(bytes, at)?;
            writer.bytes(at, bytes)?;
            (at, done) = (at + len, done + len);
        }
    }
    zeros.try_for_each(|zero| writer.write_zeros(zero.offset, zero.len_bytes))?;
    tell(observer, "copying the disk", total, total)?;
    writer.finish(folder)
}
