#![forbid(unsafe_code)]
//! Owns the fold: the file of the oldest moment becomes, in place, that of the first one that is kept. Must never change what a
//! kept moment shows, not at any instant.
//!
//! Only clusters change that the files above hide, so every moment above reads right all the time, with stock tools as well, and
//! to begin once more is harmless. The steps, each durable before the next one:
//!
//! 1. Two lists wait as successors: of what the old file still gives to those above (the hidden clusters taken out, as their bytes
//!    come to be others), and of all that it holds in the end. To make them, everything that moves is read and compared with its sum.
//! 2. The manifest gives up the older moments, and notes the fold at the one that is kept.
//! 3. The clusters are written ([`Refill`]), and the disk in the file gets its size.
//! 4. The file is renamed over that of the kept moment. It names no file below, so who looks at the directory knows that the fold is
//!    done, and reads it by the second list.
//! 5. The manifest tells of a full backup, and the last files of the older moments go.

use super::compose::{Moment, Sink};
use super::directory::{Directory, clear_room, rename, successor};
use super::layer::{Layer, stands_alone};
use super::manifest::{Backup, DiskRecord, Fold};
use super::prune::held;
use super::sums::{MOST_EXTENT, Summed, Sums, clusters};
use super::writer::{buffer, place_list};
use crate::bitmap::Bitmap;
use crate::checksum::crc32c;
use crate::error::{Error, ErrorKind, Result};
use crate::formats::{CLUSTER_BYTES, Refill};
use crate::geometry::Extent;
use crate::io::FileStorage;
use crate::io::locks::{self, Held, Role};
use crate::memory;
use crate::progress::Observer;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// The old file, locked so that nobody else reads or writes it.
struct Old {
    file: Arc<File>,
    storage: FileStorage,
    _locks: Option<Held>,
}

impl Old {
    fn open(path: &Path) -> Result<Self> {
        let failed = |error| Error::io("cannot open", error).in_file(path);
        let file = Arc::new(File::options().read(true).write(true).open(path).map_err(failed)?);
        let locks = match locks::acquire(&file, Role::Writer) {
            Err(error) if error.kind() == ErrorKind::NoLocks => None,
            locked => Some(locked.map_err(|error| error.in_file(path))?),
        };
        let storage = FileStorage::new(Arc::clone(&file)).map_err(failed)?;
        Ok(Self { file, storage, _locks: locks })
    }
}

/// Prepares the fold of the file at `first`, a full one, into the moment at `child`, and notes it in `record`. Where the file cannot
/// be changed in place, nothing is noted, and the answer is the reason.
pub(super) fn begin(
    directory: &Directory,
    record: &mut DiskRecord,
    first: usize,
    child: usize,
    observer: &mut dyn Observer,
) -> Result<std::result::Result<(), String>> {
    let (Some(oldest), Some(kept)) = (record.backups.get(first), record.backups.get(child)) else { return Ok(Ok(())) };
    let path = directory.file(record, oldest);
    let old = Old::open(&path)?;
    let names = old.file.metadata().map_err(|error| Error::io("cannot look at", error).in_file(&path))?.nlink();
    if names != 1 {
        return Ok(Err(format!("it has {names} names")));
    }
    let named = |error: Error| error.in_file(&path);
    if let Err(why) = Refill::open(&old.storage, kept.size_bytes).map_err(named)? {
        return Ok(Err(why));
    }
    let size_bytes = kept.size_bytes;
    let sizes = record.backups.iter().take(child + 1).skip(first).map(|backup| backup.size_bytes);
    let limit = sizes.min().unwrap_or(0);
    let moment = Moment::open_to_fold(directory, record, first..=child)?;
    let Some(layer) = moment.lowest() else { return Ok(Ok(())) };
    layer.check_held(observer)?;
    let mut hidden = Bitmap::new(size_bytes, clusters()?)?;
    for upper in moment.above_lowest() {
        let mut own = upper.sums.held()?;
        own.resize(size_bytes)?;
        hidden.union_with(&own)?;
    }
    let wanted = wanted(directory, record, first, child)?;
    let rest = rest(layer, &hidden, limit)?;
    let whole = whole(&moment, layer, &rest, &wanted, size_bytes, observer)?;
    let folder = directory.folder(record);
    let rest_sum = place_list(&folder, &rest, &successor(&folder.join(oldest.sums_name())))?;
    let sums = place_list(&folder, &whole, &successor(&folder.join(kept.sums_name())))?;
    let fold = Fold { sums, data_bytes: whole.has_data.dirty_bytes(), zero_bytes: whole.has_zeros.dirty_bytes() };
    let older = record.backups.iter_mut().take(child).skip(first);
    older.for_each(|backup| backup.is_given_up = true);
    if let Some(oldest) = record.backups.get_mut(first) {
        (oldest.sums, oldest.size_bytes, oldest.is_moving) = (rest_sum, limit, true);
    }
    if let Some(kept) = record.backups.get_mut(child) {
        kept.fold = Some(fold);
    }
    Ok(Ok(()))
}

/// Does what a fold of the disk that is noted has to do, from its beginning on.
pub(super) fn finish(directory: &mut Directory, name: &[u8], observer: &mut dyn Observer) -> Result<()> {
    let record = directory.record(name)?.clone();
    let Some(child) = record.backups.iter().position(|backup| backup.fold.is_some()) else { return Ok(()) };
    let first = record.root_of(child);
    let (Some(oldest), Some(kept)) = (record.backups.get(first), record.backups.get(child)) else { return Ok(()) };
    let (from, to) = (directory.file(&record, oldest), directory.file(&record, kept));
    let named = |error: Error| error.in_file(&from);
    check_list(directory, &record, kept)?;
    let old = Old::open(&from)?;
    let refill = Refill::open(&old.storage, kept.size_bytes).map_err(named)?.map_err(|why| {
        let message = format!("cannot be changed in place: {why}");
        named(Error::new(ErrorKind::Unsupported, message).advise("write a new full backup instead"))
    })?;
    let wanted = wanted(directory, &record, first, child)?;
    let mut into = Into { refill };
    Moment::open_to_fold(directory, &record, first..=child)?.walk(Some(&wanted), &mut into, observer)?;
    let unread = into.refill.finish(kept.size_bytes).map_err(named)?;
    rename(&from, &to)?;
    clear_room(&old.file, &unread);
    drop(old);
    notice(directory)?;
    directory.finish_moves()?;
    directory.clear()
}

/// Refuses where the list that waits for the end of the fold is another one: a new full backup that was begun meanwhile, and not ended,
/// has put its own there. Nothing has been changed then, and the moment reads by its old files.
fn check_list(directory: &Directory, record: &DiskRecord, kept: &Backup) -> Result<()> {
    let path = successor(&directory.folder(record).join(kept.sums_name()));
    let list = std::fs::read(&path).map_err(|error| Error::io("cannot be read", error).in_file(&path))?;
    if kept.fold.as_ref().is_some_and(|fold| fold.sums == crc32c(&list)) {
        return Ok(());
    }
    let message = "is not the list of sums that the fold was begun with";
    Err(Error::new(ErrorKind::Damaged, message).in_file(&path).advise("write a new full backup instead"))
}

/// Lets the manifest in memory tell of folds whose file has its name already.
pub(super) fn notice(directory: &mut Directory) -> Result<()> {
    for at in 0..directory.manifest.disks.len() {
        let Some(record) = directory.manifest.disks.get(at) else { break };
        let Some(child) = record.backups.iter().position(|backup| backup.fold.is_some()) else { continue };
        let Some(kept) = record.backups.get(child) else { continue };
        let path = directory.file(record, kept);
        // A file that cannot be read is one that is not done: nothing goes then.
        if !stands_alone(&path) {
            continue;
        }
        let file_bytes = path.metadata().map_or(kept.file_bytes, |metadata| metadata.len());
        if let Some(record) = directory.manifest.disks.get_mut(at) {
            record.end_fold(child, file_bytes);
        }
    }
    Ok(())
}

/// The clusters of the old file that have to be written: what the files above hold, and what lies behind the end of a shorter one.
fn wanted(directory: &Directory, record: &DiskRecord, first: usize, child: usize) -> Result<Bitmap> {
    let mut wanted = held(directory, record, first + 1, child)?;
    let size_bytes = wanted.size_bytes();
    let end = record.backups.get(first).map_or(0, |oldest| oldest.size_bytes / CLUSTER_BYTES * CLUSTER_BYTES);
    let is_shorter = record.backups.get(first).is_some_and(|oldest| oldest.size_bytes < size_bytes);
    if is_shorter {
        wanted.set(end, size_bytes - end)?;
    }
    Ok(wanted)
}

/// The list of what the old file gives to those above it, up to the end of the shortest of them.
fn rest(layer: &Layer, hidden: &Bitmap, limit: u64) -> Result<Sums> {
    let mut rest = Sums::new(limit)?;
    let cut = |map: &Bitmap| -> Result<Bitmap> {
        let mut map = map.try_clone()?;
        map.resize(limit)?;
        Ok(map)
    };
    let hidden = cut(hidden)?;
    let data = cut(&layer.sums.has_data)?.difference(&hidden)?;
    for summed in remaining(layer, &data)? {
        rest.add_summed(summed)?;
    }
    rest.has_zeros = cut(&layer.sums.has_zeros)?.difference(&hidden)?;
    Ok(rest)
}

/// The list of all that the file holds in the end.
fn whole(
    moment: &Moment,
    layer: &Layer,
    rest: &Sums,
    wanted: &Bitmap,
    size_bytes: u64,
    observer: &mut dyn Observer,
) -> Result<Sums> {
    let mut moved = Listing { data: Vec::new(), zeros: Bitmap::new(size_bytes, clusters()?)? };
    moment.walk(Some(wanted), &mut moved, observer)?;
    let sized = |map: &Bitmap| -> Result<Bitmap> {
        let mut map = map.try_clone()?;
        map.resize(size_bytes)?;
        Ok(map)
    };
    let kept = sized(&rest.has_data)?.difference(wanted)?;
    let mut data = remaining(layer, &kept)?;
    memory::extend(&mut data, moved.data)?;
    data.sort_unstable_by_key(|summed| summed.extent.offset);
    let mut whole = Sums::new(size_bytes)?;
    for summed in data {
        whole.add_summed(summed)?;
    }
    // What no entry named is not named in the end either: nothing lies below, so that a hole reads as zeros.
    let zeros = moved.zeros.intersection(&sized(&layer.sums.held()?)?)?;
    whole.has_zeros = sized(&rest.has_zeros)?.difference(wanted)?.union(&zeros)?;
    Ok(whole)
}

/// The extents of the layer that lie in `kept`. Those that are there in part are read, and get sums of their own.
fn remaining(layer: &Layer, kept: &Bitmap) -> Result<Vec<Summed>> {
    let mut found = Vec::new();
    for summed in &layer.sums.data {
        let Extent { offset, len_bytes } = summed.extent;
        let mut bytes = None;
        for part in kept.extents(offset, len_bytes) {
            if part == summed.extent {
                memory::push(&mut found, *summed)?;
                continue;
            }
            let bytes = match &mut bytes {
                Some(bytes) => bytes,
                None => {
                    let mut all = buffer(len_bytes)?;
                    layer.read(*summed, &mut all)?;
                    bytes.insert(all)
                }
            };
            let at = |place: u64| usize::try_from(place - offset).unwrap_or(usize::MAX);
            let own = bytes.get(at(part.offset)..at(part.end())).unwrap_or_default();
            memory::push(&mut found, Summed { extent: part, sum: crc32c(own) })?;
        }
    }
    Ok(found)
}

/// Lists what moves.
struct Listing {
    data: Vec<Summed>,
    zeros: Bitmap,
}

impl Sink for Listing {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let most = usize::try_from(MOST_EXTENT).unwrap_or(usize::MAX);
        let mut at = offset;
        for piece in bytes.chunks(most) {
            let extent = Extent { offset: at, len_bytes: piece.len() as u64 };
            memory::push(&mut self.data, Summed { extent, sum: crc32c(piece) })?;
            at = extent.end();
        }
        Ok(())
    }

    fn zeros(&mut self, offset: u64, len_bytes: u64) -> Result<()> {
        self.zeros.set(offset, len_bytes)
    }
}

/// Writes what moves.
struct Into<'a> {
    refill: Refill<'a>,
}

impl Sink for Into<'_> {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.refill.data(offset, bytes)
    }

    fn zeros(&mut self, offset: u64, len_bytes: u64) -> Result<()> {
        self.refill.zeros(offset, len_bytes)
    }
}
