#![forbid(unsafe_code)]
//! Owns the order in which a change reaches the disk, so that after a power cut at any moment the image holds the old
//! bitmaps or the new ones, whole. Must never decide on the change.
//!
//! 1. Data, tables, directory and new refcount blocks go to free clusters, and their refcounts are set in place; flush.
//!    Then the refcount table's entries, where there are new ones; flush. Nothing refers to the new clusters yet: a cut
//!    leaks them.
//! 2. The header cluster changes by single 512-byte sectors, each followed by a flush, in the stages of `stages`. One
//!    sector decides.
//! 3. Only then are the old clusters released; a cut leaks the clusters that were not yet released.
//!
//! Assumed of the disk: a write of one aligned 512-byte sector is atomic, and a flush keeps all writes before it.

use super::directory::{self, Entry};
use super::draft::{Cluster, Content, Draft, Drafted};
use super::file::Qcow2File;
use super::header::{AUTOCLEAR_AT, DirectoryRef, Header, REFCOUNT_TABLE_AT};
use super::occupied::Occupied;
use super::rehearsal::Rehearsal;
use super::room::Need;
use super::space::Space;
use super::steps::{self, SECTOR, write_sector};
use super::table::{FEW, Payload, Shape};
use crate::bitmap::Bitmap;
use crate::chain::{self, Name};
use crate::error::{Error, ErrorKind, Result, WayOut};
use crate::io::Storage;
use crate::io::bytes::{file_len, put};
use crate::memory;
use crate::pool::Pool;
use crate::progress::{Observer, tell};
use std::collections::HashSet;

const WRITING: &str = "writing bitmaps";

/// A change: the file as it was read, and the draft of its new bitmaps.
pub(super) struct Change<'a> {
    pub(super) file: Qcow2File<'a>,
    pub(super) occupied: &'a Occupied,
    pub(super) draft: Draft<'a>,
}

impl<'a> Change<'a> {
    /// Carries it out; `header` is the file's afterwards.
    ///
    /// Until the commit any failure leaves the image as it was; from the first header sector on it is
    /// [`ErrorKind::CommitInDoubt`]. The strings are warnings.
    pub(crate) fn write(self, header: &mut Header, observer: &mut dyn Observer) -> Result<Vec<String>> {
        let mut begun = self.begin(header, observer)?;
        let states = std::mem::take(&mut begun.prepared.states);
        steps::commit(begun.work.storage, begun.work.header, states)?;
        let mut warnings = begun.take_warnings();
        warnings.extend(begun.release());
        Ok(warnings)
    }

    /// Writes everything but the header, without effect; any failure leaves the image as it was.
    pub(super) fn begin(mut self, header: &'a mut Header, observer: &mut dyn Observer) -> Result<Begun<'a>> {
        let storage = self.file.storage;
        let len_before = file_len(storage).map_err(Error::nothing_changed)?;
        let mut room = Vec::new();
        if !storage.can_grow() {
            room = self.rehearse(observer).map_err(Error::nothing_changed)?;
        }
        let space = Space::new(self.file, self.occupied).map_err(Error::nothing_changed)?;
        let mut work = Work { storage, header, space, undo: Undo::new(storage, len_before) };
        let mut prepared = match work.prepare(self.file, &mut self.draft, observer) {
            Ok(prepared) => prepared,
            // Bytes behind the old end may be the other writer's by now.
            Err(error) if error.kind() == ErrorKind::Changed => return Err(error),
            Err(error) if work.undo.run() => {
                // As long as it was before: this asks for no memory.
                work.header.raw.clone_from(&self.file.header.raw);
                return Err(error.nothing_changed());
            }
            Err(error) => return Err(error.advise(not_undone())),
        };
        if !room.is_empty() {
            prepared.warnings = room;
        }
        Ok(Begun { work, prepared })
    }

    /// Does all that [`Change::write`] does before the commit, without writing: finds out whether there is room.
    pub(crate) fn rehearse(&mut self, observer: &mut dyn Observer) -> Result<Vec<String>> {
        let rehearsal = Rehearsal(self.file.storage);
        let file = Qcow2File { storage: &rehearsal, ..self.file };
        let mut header = file.header.try_clone()?;
        let space = Space::new(file, self.occupied)?;
        let undo = Undo::new(&rehearsal, 0);
        let mut work = Work { storage: &rehearsal, header: &mut header, space, undo };
        let prepared = work.prepare(file, &mut self.draft, observer)?;
        let mut warnings = prepared.warnings;
        if !rehearsal.can_grow() {
            work.space.release(&prepared.old_clusters)?;
            match prepared.need.check_device(work.header, &mut work.space) {
                // A change that adds no bitmap is a way out of a full file, and must stay open.
                Err(error) if error.kind() == ErrorKind::NoSpace && !self.draft.adds() => {
                    warnings.push(error.message().to_owned());
                }
                checked => checked?,
            }
        }
        Ok(warnings)
    }
}

/// A change of which everything but the header is on the disk.
pub(super) struct Begun<'a> {
    work: Work<'a>,
    prepared: Prepared,
}

impl<'a> Begun<'a> {
    pub(super) fn storage(&self) -> &'a dyn Storage {
        self.work.storage
    }

    /// The header as it is in the file.
    pub(super) fn header(&self) -> &Header {
        self.work.header
    }

    /// Where the new directory is; `None` where no bitmap is left.
    pub(super) fn directory(&self) -> Option<DirectoryRef> {
        self.prepared.directory
    }

    pub(super) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.prepared.warnings)
    }

    /// Releases the old clusters after the commit; a warning where they leak.
    pub(super) fn release(&mut self) -> Option<String> {
        let Work { space, undo, .. } = &mut self.work;
        // Not flushed: the commit is durable, and a cut that loses a part of this leaks clusters.
        let released = space.release(&self.prepared.old_clusters).and_then(|()| store_in_place(space, undo));
        released.err().map(|error| not_released(&error))
    }

    /// Takes everything back while the header has not changed; false where clusters stay counted as used.
    pub(super) fn undo(&mut self) -> bool {
        self.work.undo.run()
    }

    /// Takes everything back because of `error`.
    pub(super) fn give_up(mut self, error: Error) -> Error {
        if self.undo() { error.nothing_changed() } else { error.advise(not_undone()) }
    }
}

/// The rest of the work once everything but the header is on the disk.
struct Prepared {
    directory: Option<DirectoryRef>,
    /// The header as it is, and after each stage that commits the change.
    states: Vec<Vec<u8>>,
    /// The clusters to release after it.
    old_clusters: Vec<u64>,
    warnings: Vec<String>,
    /// The room that QEMU will need to store the bitmaps.
    need: Need,
}

/// The file in the middle of a change.
struct Work<'a> {
    storage: &'a dyn Storage,
    /// The header as the file has it by now.
    header: &'a mut Header,
    space: Space<'a>,
    undo: Undo<'a>,
}

impl Work<'_> {
    /// Everything before the commit of `draft`, made from `file`.
    fn prepare(&mut self, file: Qcow2File<'_>, draft: &mut Draft<'_>, observer: &mut dyn Observer) -> Result<Prepared> {
        let pool = Pool::new(if draft.bitmaps.iter().map(most_work).sum::<usize>() < FEW { 0 } else { draft.threads });
        let dropped = draft.dropped()?;
        let mut old_clusters = dropped.clusters;
        let (storage, header, space) = (self.storage, &*self.header, &mut self.space);
        let mut writer = Writer { storage, header, pool, claimed: HashSet::new(), done: 0, total: 0 };
        draft.kept_data().try_for_each(|offset| writer.claim(offset).map(drop))?;
        writer.total = draft.bitmaps.iter().map(|bitmap| clusters_to_write(bitmap, header)).sum();
        if let Some(place) = file.directory {
            let clusters = place.clusters(header.cluster_bits).map(|cluster| cluster << header.cluster_bits);
            memory::extend(&mut old_clusters, clusters)?;
        }
        // Before anything is written, free clusters included: a refusal leaves the file to the byte.
        let mut old_clusters = space.releasable(old_clusters, &dropped.kept)?;
        let mut entries = memory::room(draft.bitmaps.len())?;
        for bitmap in &draft.bitmaps {
            entries.push(writer.bitmap(bitmap, space, observer)?);
        }
        old_clusters.retain(|offset| !writer.claimed.contains(offset));
        let total = writer.total;
        let directory = self.write_directory(&entries)?;
        // Whether the header has room is known before anything in use is touched.
        self.header.with_directory(directory)?;
        tell(observer, WRITING, total, total)?;
        let need = Need::of(file, draft, directory)?;
        let mut warnings = warnings(draft, &dropped.unknown, &self.space)?;
        warnings.extend(need.warning(self.storage).filter(|_| draft.adds()));
        // The last moment at which nothing that is in use was touched.
        draft.check_current()?;
        self.clear_unknown_autoclear()?;
        let old_table = self.store_refcounts()?;
        memory::extend(&mut old_clusters, old_table)?;
        let states = steps::states(self.header, self.header.with_directory(directory)?)?;
        Ok(Prepared { directory, states, old_clusters, warnings, need })
    }

    /// A writer that does not know a feature must clear its autoclear bit before it changes anything.
    fn clear_unknown_autoclear(&mut self) -> Result<()> {
        let kept = self.header.autoclear_kept();
        if self.header.autoclear == kept {
            return Ok(());
        }
        let mut next = memory::copy(&self.header.raw)?;
        put_header(&mut next, AUTOCLEAR_AT, &kept.to_be_bytes())?;
        self.undo.begin_stage();
        self.replace_first_sector(next)?;
        self.header.autoclear = kept;
        Ok(())
    }

    /// Writes the first sector of the header cluster as it is in `next`.
    fn replace_first_sector(&mut self, next: Vec<u8>) -> Result<()> {
        self.undo.remember(0, self.header.raw.get(..SECTOR).unwrap_or_default())?;
        write_sector(self.storage, &next, 0)?;
        self.header.raw = next;
        Ok(())
    }

    fn write_directory(&mut self, entries: &[Entry]) -> Result<Option<DirectoryRef>> {
        if entries.is_empty() {
            return Ok(None);
        }
        let mut bytes = directory::encode(entries)?;
        let len_bytes = bytes.len() as u64;
        let offset = write_padded(self.storage, self.header, &mut bytes, &mut self.space)?;
        let bitmaps = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        Ok(Some(DirectoryRef { bitmaps, len_bytes, offset }))
    }

    /// Makes the refcounts of everything written so far durable; the clusters of a refcount table that was outgrown.
    fn store_refcounts(&mut self) -> Result<Vec<u64>> {
        let old_len = u64::from(self.header.refcount_table_clusters) << self.header.cluster_bits;
        let new_table = new_table(self.header, &mut self.space)?;
        for block in self.space.refcounts.changed().filter(|block| block.stored.is_none()) {
            write_at(self.storage, &block.bytes, block.offset)?;
        }
        if let Some((offset, clusters)) = new_table {
            let mut bytes = be_bytes(self.space.refcounts.tables().0.iter().copied())?;
            let len = usize::try_from(u64::from(clusters) << self.header.cluster_bits).unwrap_or(usize::MAX);
            memory::resize(&mut bytes, len)?;
            write_at(self.storage, &bytes, offset)?;
        }
        self.undo.begin_stage();
        store_in_place(&self.space, &mut self.undo)?;
        // One flush for all of it, since nothing in the image refers to any of it yet. A block must be durable, and counted,
        // before the table points to it.
        flush(self.storage)?;
        self.undo.begin_stage();
        let mut old_clusters = Vec::new();
        match new_table {
            None => self.store_table_entries()?,
            Some((offset, clusters)) => {
                let mut next = memory::copy(&self.header.raw)?;
                put_header(&mut next, REFCOUNT_TABLE_AT, &offset.to_be_bytes())?;
                put_header(&mut next, REFCOUNT_TABLE_AT + 8, &clusters.to_be_bytes())?;
                let old = self.header.refcount_table_offset;
                let old = (old..old + old_len).step_by(self.header.cluster_bytes_usize());
                old_clusters = memory::gather(old)?;
                self.replace_first_sector(next)?;
                self.header.refcount_table_offset = offset;
                self.header.refcount_table_clusters = clusters;
            }
        }
        self.space.refcounts.mark_stored()?;
        Ok(old_clusters)
    }

    /// Writes the sectors of the refcount table whose entries changed.
    fn store_table_entries(&mut self) -> Result<()> {
        let (table, stored) = self.space.refcounts.tables();
        if table == stored {
            return Ok(());
        }
        let mut stored = be_bytes(stored.iter().copied())?;
        let mut table = be_bytes(table.iter().copied())?;
        let len = stored.len().max(table.len());
        memory::resize(&mut stored, len)?;
        memory::resize(&mut table, len)?;
        write_changed_sectors(&table, &stored, self.header.refcount_table_offset, &mut self.undo)?;
        flush(self.storage)
    }
}

/// The warnings of a change, for its user.
fn warnings(draft: &Draft<'_>, unknown: &[Name], space: &Space<'_>) -> Result<Vec<String>> {
    let words =
        |(name, why): (&Name, &Error)| format!("bitmap {name} is marked inconsistent from now on: {}", why.message());
    let mut warnings = memory::gather(draft.distrusted().map(words))?;
    // Room for all that can follow, also after the commit.
    warnings.try_reserve(4)?;
    warnings.extend(leaked(unknown));
    warnings.extend(space.warning());
    Ok(warnings)
}

/// The warning that the change is done, and that old clusters leak.
pub(crate) fn not_released(error: &Error) -> String {
    format!("done, but room could not be released: {}; `qemu-img check -r leaks` releases it", error.reason())
}

/// The warning that not every cluster of these bitmaps is known, and so none of them is freed in doubt.
pub(crate) fn leaked(unknown: &[Name]) -> Option<String> {
    (!unknown.is_empty()).then(|| {
        format!(
            "which clusters {} used cannot be known, so they stay counted as used: `qemu-img check -r leaks` releases \
             them",
            chain::list(unknown)
        )
    })
}

fn clusters_to_write(bitmap: &Drafted, header: &Header) -> u64 {
    match &bitmap.content {
        Content::Kept => 0,
        Content::Clusters(clusters) => clusters.len() as u64,
        Content::Bits(bits) => Shape::of(header, bits.granularity()).entries(),
    }
}

/// How many clusters may have to be read or written.
fn most_work(bitmap: &Drafted) -> usize {
    match &bitmap.content {
        Content::Kept => 0,
        Content::Clusters(clusters) => clusters.iter().filter(|cluster| cluster.is_mixed()).count(),
        Content::Bits(bits) => usize::try_from(bits.dirty_granules()).unwrap_or(usize::MAX),
    }
}

/// The union of several clusters.
struct United {
    bytes: Vec<u8>,
    /// Each source by its offset, how it compares with those before it, and whether bits of it had to be masked.
    sources: Vec<Source>,
}

struct Source {
    offset: u64,
    more: bool,
    less: bool,
    masked: bool,
}

struct Writer<'a> {
    storage: &'a dyn Storage,
    header: &'a Header,
    pool: Pool,
    /// Clusters of data that a bitmap of the draft uses where they stand.
    claimed: HashSet<u64>,
    done: u64,
    total: u64,
}

impl Writer<'_> {
    fn bitmap(&mut self, bitmap: &Drafted, space: &mut Space<'_>, observer: &mut dyn Observer) -> Result<Entry> {
        let shape = Shape::of(self.header, bitmap.entry.granularity);
        let table = match &bitmap.content {
            Content::Kept => return bitmap.entry.try_clone(),
            Content::Clusters(clusters) => self.clusters(&shape, clusters, space, observer)?,
            Content::Bits(bits) => self.bits(&shape, bits, space, observer)?,
        };
        let mut bytes = be_bytes(table.iter().map(|payload| payload.encode()))?;
        let table_offset = self.padded(&mut bytes, space)?;
        let table_entries = u32::try_from(table.len())
            .map_err(|_| Error::new(ErrorKind::Unsupported, "the bitmap's table is above qcow2's limit"))?;
        Ok(Entry { table_offset, table_entries, ..bitmap.entry.try_clone()? })
    }

    /// How many clusters are in memory at once.
    fn batch(&self) -> usize {
        match self.pool.threads() {
            1 => 1,
            threads => 16 * threads,
        }
    }

    fn clusters(
        &mut self,
        shape: &Shape,
        clusters: &[Cluster],
        space: &mut Space<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Payload>> {
        let mut table = memory::room(clusters.len())?;
        for batch in clusters.chunks(self.batch()) {
            let numbered = memory::gather((table.len() as u64..).zip(batch))?;
            let (storage, mixed) = (self.storage, numbered.iter().copied().filter(|(_, cluster)| cluster.is_mixed()));
            let mut united =
                self.pool.map(memory::gather(mixed)?, |(number, cluster)| unite(storage, shape, number, cluster))?;
            let (mut united, mut writes) = (united.drain(..), Vec::new());
            for (number, cluster) in numbered {
                tell(observer, WRITING, self.done, self.total)?;
                let united = if cluster.is_mixed() { united.next().transpose()? } else { None };
                table.push(self.cluster(shape, number, cluster, united, space, &mut writes)?);
                self.done += 1;
            }
            self.write(writes)?;
        }
        Ok(table)
    }

    /// The place where cluster `number` will be; bytes that must be written for it join `writes`.
    fn cluster(
        &mut self,
        shape: &Shape,
        number: u64,
        cluster: &Cluster,
        united: Option<United>,
        space: &mut Space<'_>,
        writes: &mut Vec<(Vec<u8>, u64)>,
    ) -> Result<Payload> {
        let offsets = match cluster {
            Cluster::Zeros => return Ok(Payload::Zeros),
            Cluster::Ones if shape.is_whole(number) => return Ok(Payload::Ones),
            Cluster::Ones => {
                return store(shape.read(self.storage, &"", number, Payload::Ones)?.0, space, writes);
            }
            Cluster::Union(offsets) => offsets,
        };
        if let ([only], true) = (offsets.as_slice(), shape.is_whole(number))
            && self.claim(*only)?
        {
            return Ok(Payload::At(*only));
        }
        let united = match united {
            Some(united) => united,
            None => unite(self.storage, shape, number, cluster)?,
        };
        // The source that holds the whole union by itself, so that its cluster can stay.
        let mut whole = None;
        for Source { offset, more, less, masked } in united.sources {
            let usable = !masked && !self.claimed.contains(&offset);
            match (more, less) {
                (true, false) => whole = usable.then_some(offset),
                (true, true) => whole = None,
                (false, false) if whole.is_none() && usable => whole = Some(offset),
                (false, _) => {}
            }
        }
        if let Some(offset) = whole.filter(|_| united.bytes.iter().any(|byte| *byte != 0)) {
            self.claim(offset)?;
            return Ok(Payload::At(offset));
        }
        store(united.bytes, space, writes)
    }

    fn bits(
        &mut self,
        shape: &Shape,
        bits: &Bitmap,
        space: &mut Space<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Payload>> {
        let entries = usize::try_from(shape.entries()).unwrap_or(usize::MAX);
        let mut table = memory::gather(std::iter::repeat_n(Payload::Zeros, entries))?;
        let covered = shape.covered_bytes();
        let (before, cluster_len) = (self.done, self.header.cluster_bytes_usize());
        let mut next = bits.next_dirty(0, u64::MAX);
        while next.is_some() {
            let mut numbers = memory::room(self.batch())?;
            while let Some(dirty) = next.filter(|_| numbers.len() < self.batch()) {
                let number = dirty / covered;
                numbers.push(number);
                next = bits.next_dirty((number + 1) * covered, u64::MAX);
            }
            let made = self.pool.map(numbers, |number| {
                let mut bytes = memory::zeroed(cluster_len)?;
                bits.copy_bits(number * covered, &mut bytes).map(|()| (number, bytes))
            })?;
            let mut writes = Vec::new();
            for made in made {
                let (number, bytes) = made?;
                self.done = before + number;
                tell(observer, WRITING, self.done, self.total)?;
                let payload = store(bytes, space, &mut writes)?;
                if let Some(entry) = usize::try_from(number).ok().and_then(|number| table.get_mut(number)) {
                    *entry = payload;
                }
            }
            self.write(writes)?;
        }
        self.done = before + shape.entries();
        Ok(table)
    }

    /// Notes that a bitmap uses this cluster where it stands; false where one does already.
    fn claim(&mut self, offset: u64) -> Result<bool> {
        self.claimed.try_reserve(1)?;
        Ok(self.claimed.insert(offset))
    }

    fn write(&self, writes: Vec<(Vec<u8>, u64)>) -> Result<()> {
        let storage = self.storage;
        self.pool.map(writes, |(bytes, offset)| write_at(storage, &bytes, offset))?.into_iter().collect()
    }

    /// Writes `bytes`, padded to whole clusters, into free clusters; the offset of the first.
    fn padded(&self, bytes: &mut Vec<u8>, space: &mut Space<'_>) -> Result<u64> {
        write_padded(self.storage, self.header, bytes, space)
    }
}

/// Takes a free cluster for bytes that are not all zeros.
fn store(bytes: Vec<u8>, space: &mut Space<'_>, writes: &mut Vec<(Vec<u8>, u64)>) -> Result<Payload> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(Payload::Zeros);
    }
    let offset = space.take(1)?;
    memory::push(writes, (bytes, offset))?;
    Ok(Payload::At(offset))
}

/// Reads the sources of `cluster`.
fn unite(storage: &dyn Storage, shape: &Shape, number: u64, cluster: &Cluster) -> Result<United> {
    let Cluster::Union(offsets) = cluster else { return Ok(United { bytes: Vec::new(), sources: Vec::new() }) };
    let mut united = memory::zeroed::<u8>(usize::try_from(shape.cluster_bytes).unwrap_or(usize::MAX))?;
    let mut sources = memory::room(offsets.len())?;
    for &offset in offsets {
        let (bytes, masked) = shape.read(storage, &"to merge", number, Payload::At(offset))?;
        let (mut more, mut less) = (0, 0);
        for (byte, source) in united.iter_mut().zip(&bytes) {
            more |= source & !*byte;
            less |= *byte & !source;
            *byte |= source;
        }
        sources.push(Source { offset, more: more != 0, less: less != 0, masked });
    }
    Ok(United { bytes: united, sources })
}

fn write_padded(storage: &dyn Storage, header: &Header, bytes: &mut Vec<u8>, space: &mut Space<'_>) -> Result<u64> {
    let padded = bytes.len().next_multiple_of(header.cluster_bytes_usize());
    memory::resize(bytes, padded)?;
    let offset = space.take(bytes.len() as u64 >> header.cluster_bits)?;
    write_at(storage, bytes, offset)?;
    Ok(offset)
}

/// Takes room for a new refcount table, where the present one is too small for the new blocks, or where their entries
/// stand in several of its sectors: a block may count another one, and so all must appear at once.
pub(crate) fn new_table(header: &Header, space: &mut Space<'_>) -> Result<Option<(u64, u32)>> {
    let per_cluster = header.cluster_bytes() / 8;
    let present = u64::from(header.refcount_table_clusters);
    let entries = space.refcounts.tables().0.len() as u64;
    let wanted = if entries > present * per_cluster {
        // Half as much again, so that the table's own clusters do not outgrow it and the next growth is far away.
        (entries + entries / 2 + 2).div_ceil(per_cluster)
    } else if space.refcounts.changed_table_sectors(SECTOR) > 1 {
        present
    } else {
        return Ok(None);
    };
    let offset = space.take(wanted)?;
    let fits = space.refcounts.tables().0.len() as u64 <= wanted * per_cluster;
    match u32::try_from(wanted) {
        Ok(clusters) if fits && wanted * header.cluster_bytes() <= 8 << 20 => Ok(Some((offset, clusters))),
        _ => {
            Err(Error::new(ErrorKind::NoSpace, "the file would need more refcounts than QEMU's limit of 8 MiB allows"))
        }
    }
}

/// Writes the sectors of existing refcount blocks that changed.
pub(super) fn store_in_place(space: &Space<'_>, undo: &mut Undo<'_>) -> Result<()> {
    for block in space.refcounts.changed() {
        if let Some(stored) = &block.stored {
            write_changed_sectors(&block.bytes, stored, block.offset, undo)?;
        }
    }
    Ok(())
}

fn be_bytes(entries: impl ExactSizeIterator<Item = u64>) -> Result<Vec<u8>> {
    let mut bytes = memory::room(entries.len().saturating_mul(8))?;
    entries.for_each(|entry| bytes.extend(entry.to_be_bytes()));
    Ok(bytes)
}

fn write_changed_sectors(bytes: &[u8], stored: &[u8], offset: u64, undo: &mut Undo<'_>) -> Result<()> {
    for (number, (new, old)) in (0_u64..).zip(bytes.chunks(SECTOR).zip(stored.chunks(SECTOR))) {
        if new != old {
            let at = offset + number * SECTOR as u64;
            undo.remember(at, old)?;
            write_at(undo.storage, new, at)?;
        }
    }
    Ok(())
}

/// The way out where a failed change could not be put back.
pub(super) fn not_undone() -> WayOut {
    WayOut::from("the bitmaps are as they were; room may be counted as used: `qemu-img check -r leaks` releases it")
}

fn put_header(raw: &mut [u8], at: usize, field: &[u8]) -> Result<()> {
    if put(raw, at, field) {
        Ok(())
    } else {
        Err(Error::new(ErrorKind::Damaged, "the header is cut short").at("qcow2 header", at as u64))
    }
}

pub(super) fn write_at(storage: &dyn Storage, bytes: &[u8], offset: u64) -> Result<()> {
    storage.write_at(bytes, offset).map_err(|error| {
        let error = Error::io(format!("cannot write {} bytes at offset {offset:#x}", bytes.len()), error);
        match error.kind() {
            ErrorKind::NoSpace if !storage.can_grow() => error.advise("enlarge the device"),
            _ => error,
        }
    })
}

pub(super) fn flush(storage: &dyn Storage) -> Result<()> {
    storage.flush().map_err(|error| Error::io("cannot flush", error))
}

/// The old bytes to put back when a step before the commit fails: the stages in which they were changed, each flushed before
/// the next began.
pub(crate) struct Undo<'a> {
    storage: &'a dyn Storage,
    len_before: u64,
    stages: Vec<Vec<(u64, Vec<u8>)>>,
}

impl<'a> Undo<'a> {
    pub(crate) fn new(storage: &'a dyn Storage, len_before: u64) -> Self {
        Self { storage, len_before, stages: Vec::new() }
    }

    /// Begins a stage: changes remembered from now on were made after all earlier ones were flushed.
    fn begin_stage(&mut self) {
        self.stages.push(Vec::new());
    }

    fn remember(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        if let Some(stage) = self.stages.last_mut() {
            memory::push(stage, (offset, memory::copy(bytes)?))?;
        }
        Ok(())
    }

    /// Puts the old bytes back, the last stage first, each flushed: so a reference goes before the thing it points to.
    /// Where this fails it stops, and clusters stay counted as used: a leak, never damage.
    /// False where something stays.
    fn run(&self) -> bool {
        for stage in self.stages.iter().rev().filter(|stage| !stage.is_empty()) {
            let restored = stage.iter().rev().try_for_each(|(offset, bytes)| self.storage.write_at(bytes, *offset));
            if restored.and_then(|()| self.storage.flush()).is_err() {
                return false;
            }
        }
        if self.storage.len_bytes().is_ok_and(|len_bytes| len_bytes > self.len_before) {
            // Room past the old end holds nothing that counts; keeping it would do no harm.
            let _ = self.storage.truncate(self.len_before);
        }
        true
    }
}
