#![forbid(unsafe_code)]
//! Owns the map of the occupied clusters of a qcow2 file: where two structures claim one cluster, which are in use
//! and not counted, and which bitmaps cannot be trusted for it. Must never take or release a cluster.

use super::directory::Entry;
use super::file::Qcow2File;
use super::guest;
use super::header::Header;
use super::ranges::{Gathered, Ranges};
use super::refcounts::Refcounts;
use super::table::{self, Payload};
use super::walk::{Role, Visitor, Walk};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::io::bytes::file_len;
use crate::memory;
use crate::progress::{Observer, tell};
use std::ops::Range;

/// The guest's clusters are looked at where the L2 tables that name them take no more than this: those of 1 TiB of data
/// with clusters of 64 KiB. Beyond, only a check of the whole image looks, and a change that needs to know.
const MAX_L2_BYTES: u64 = 128 << 20;
pub(super) const PHASE: &str = "looking at what is in use";

/// The purpose of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To read bitmaps. Faults of other structures are passed over: they are reported when these are read.
    Reading,
    /// To take and release clusters. Any fault of another structure than a bitmap is an error.
    Writing {
        /// Reads every L2 table, however many there are.
        all_tables: bool,
    },
}

/// Why a bitmap cannot be trusted.
#[derive(Clone, Debug)]
pub(crate) struct Doubt {
    pub(crate) error: Error,
    /// Whether the table at least is sound, so that the clusters it names are the bitmap's.
    pub(crate) table_is_sound: bool,
}

/// The clusters of a file that are occupied, and by whom.
#[derive(Debug)]
pub(crate) struct Occupied {
    /// Claims of the structures of the disk: everything but bitmaps and the guest's data.
    disk: Ranges,
    /// Claims of the directory, the tables and the data of bitmaps.
    bitmaps: Ranges,
    /// Clusters of bitmaps that something else claims as well.
    shared: Ranges,
    /// Those of them that hold data of the guest.
    guest_shared: Ranges,
    /// Clusters of bitmaps whose refcount is 0.
    uncounted: Ranges,
    /// Clusters of the disk's structures and of the guest's data whose refcount is 0; looked for only to write.
    uncounted_disk: Ranges,
    /// The place of the directory, where a structure of the disk or the guest claims its clusters too.
    directory_shared: Option<u64>,
    /// For each entry of the directory, why it cannot be trusted.
    doubts: Vec<Option<Doubt>>,
    /// How many clusters the file has, the last one perhaps in part.
    file_clusters: u64,
    /// Whether every cluster of the guest is known.
    pub(crate) is_complete: bool,
}

impl Occupied {
    pub(super) fn read(file: Qcow2File<'_>, purpose: Purpose, observer: &mut dyn Observer) -> Result<Self> {
        let Qcow2File { storage, header, directory, .. } = file;
        // Without a directory there are no bitmaps.
        let entries = directory.map_or(&[][..], |_| file.entries);
        let walk = Walk(file);
        let file_end = file_len(storage)?;
        let writing = purpose != Purpose::Reading;
        let mut claims = Claims::new(header, file_end, writing, directory.is_some(), observer);
        walk.disk(&mut claims)?;
        let mut refcounts = claims.refcounts(file)?;
        let (disk, l2_tables) = claims.disk()?;
        if claims.disk_overlaps {
            // The bytes there may be the other structure's.
            refcounts = None;
        }
        claims.faults = memory::gather(entries.iter().map(|_| None))?;
        walk.bitmaps(&mut claims)?;
        let (bitmap_clusters, repeated) = Ranges::with_repeated(std::mem::take(&mut claims.bitmaps))?;
        let faults = std::mem::take(&mut claims.faults);

        let all_tables = matches!(purpose, Purpose::Writing { all_tables: true }) || writing && !storage.can_grow();
        let is_known = all_tables || l2_tables.count() << header.cluster_bits <= MAX_L2_BYTES;
        let is_needed = writing || !bitmap_clusters.is_empty();
        let mut guest = guest::Guest::new(header, &bitmap_clusters, refcounts.as_mut().filter(|_| writing));
        if is_known && is_needed && !header.has_data_file() {
            guest.read(&walk, &l2_tables, observer)?;
        }
        let (guest_shared, uncounted_guest) = guest.finish()?;

        let mut uncounted = Ranges::default();
        let mut uncounted_disk = uncounted_guest;
        if let Some(refcounts) = &mut refcounts {
            let end = file_end.div_ceil(header.cluster_bytes());
            uncounted = lenient(uncounted_in(&bitmap_clusters, end, refcounts, observer), writing)?;
            if writing {
                uncounted_disk = uncounted_disk.union(&uncounted_in(&disk, end, refcounts, observer)?)?;
            }
        }
        let shared_by_disk = bitmap_clusters.common(&disk)?.union(&guest_shared)?;
        let directory_shared = directory.filter(|directory| {
            shared_by_disk.overlaps(clusters_of(directory.offset, directory.len_bytes, header.cluster_bits))
        });
        let mut occupied = Self {
            shared: repeated.union(&shared_by_disk)?,
            disk,
            bitmaps: bitmap_clusters,
            guest_shared,
            uncounted,
            uncounted_disk,
            directory_shared: directory_shared.map(|directory| directory.offset),
            doubts: Vec::new(),
            file_clusters: file_end.div_ceil(header.cluster_bytes()),
            is_complete: is_known || header.has_data_file(),
        };
        occupied.doubts = occupied.judge(&walk, entries, faults, observer)?;
        Ok(occupied)
    }

    /// The reasons against trusting each bitmap, its own faults first.
    fn judge(
        &self,
        walk: &Walk<'_>,
        entries: &[Entry],
        faults: Vec<Option<Error>>,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Option<Doubt>>> {
        let mut doubts = memory::room(entries.len())?;
        for (entry, fault) in entries.iter().zip(faults) {
            tell(observer, PHASE, doubts.len() as u64, entries.len() as u64)?;
            let fault = fault.or_else(|| self.check_table(walk.0.header, entry).err());
            let doubt = match fault {
                Some(error) => Some(Doubt { error, table_is_sound: false }),
                None if self.shared.is_empty() && self.uncounted.is_empty() => None,
                None => self
                    .check_all_data(walk, entry, observer)?
                    .or_else(|| self.check_directory().err())
                    .map(|error| Doubt { error, table_is_sound: true }),
            };
            doubts.push(doubt);
        }
        Ok(doubts)
    }

    fn check_all_data(&self, walk: &Walk<'_>, entry: &Entry, observer: &mut dyn Observer) -> Result<Option<Error>> {
        let mut fault = None;
        let total = u64::from(entry.table_entries);
        table::for_each(walk.0, entry, 0..total, &mut |number, payload| {
            if number % (1 << 16) == 0 {
                tell(observer, PHASE, number, total)?;
            }
            if fault.is_none() {
                fault = self.check_data(walk.0.header, entry, number, payload?).err();
            }
            Ok(())
        })?;
        Ok(fault)
    }

    /// Refuses a table whose clusters belong to something else as well, or are not counted.
    pub(crate) fn check_table(&self, header: &Header, entry: &Entry) -> Result<()> {
        let clusters = table::clusters(header, entry);
        if self.shared.overlaps(clusters.clone()) {
            return Err(table::shared_table(entry));
        }
        if self.uncounted.overlaps(clusters) {
            let message = "the refcount of the table is 0, so it may have been overwritten";
            return Err(table::unreadable(entry, entry.table_offset, message.into()));
        }
        Ok(())
    }

    /// The same for the data of the table's entry `number`.
    pub(crate) fn check_data(&self, header: &Header, entry: &Entry, number: u64, payload: Payload) -> Result<()> {
        let Some(offset) = payload.offset() else { return Ok(()) };
        let cluster = offset >> header.cluster_bits;
        let message = if self.shared.contains(cluster) {
            "the data overlaps another structure, so its bits cannot be trusted"
        } else if self.uncounted.contains(cluster) {
            "the refcount of the data is 0, so it may have been overwritten"
        } else {
            return Ok(());
        };
        Err(table::unreadable(entry, entry.table_offset + number * 8, message.into()))
    }

    /// Refuses a directory in clusters that a structure of the disk, or the guest, claims too: what it says of any bitmap
    /// may be the other's bytes.
    pub(crate) fn check_directory(&self) -> Result<()> {
        match self.directory_shared {
            Some(offset) => Err(Error::new(
                ErrorKind::Damaged,
                "the directory overlaps another structure, so no bitmap can be trusted",
            )
            .at("qcow2 bitmap directory", offset)
            .advise(
                WayOut::from("remove it, before anything repairs the image, with ")
                    .control(Control::DropAll)
                    .words(", and make the next backup a full one"),
            )),
            None => Ok(()),
        }
    }

    /// Why the bitmap at `place` of the directory cannot be trusted.
    pub(crate) fn doubt(&self, place: usize) -> Option<&Doubt> {
        self.doubts.get(place).and_then(Option::as_ref)
    }

    pub(crate) fn has_doubts(&self) -> bool {
        self.doubts.iter().any(Option::is_some)
    }

    /// Whether QEMU would take a bitmap for sound that cannot be trusted.
    pub(crate) fn deceives(&self, entries: &[Entry]) -> bool {
        entries.iter().zip(&self.doubts).any(|(entry, doubt)| doubt.is_some() && !entry.is_inconsistent())
    }

    /// Whether anything but free room is known to be at `cluster`.
    pub(crate) fn holds(&self, cluster: u64) -> bool {
        self.disk.contains(cluster) || self.bitmaps.contains(cluster) || self.uncounted_disk.contains(cluster)
    }

    /// Whether anything uses clusters of bitmaps too, so that not all of them can be released.
    pub(crate) fn has_shared(&self) -> bool {
        !self.shared.is_empty()
    }

    /// Whether the file holds all of these clusters, the last one perhaps in part.
    pub(crate) fn is_in_file(&self, clusters: &Range<u64>) -> bool {
        clusters.end <= self.file_clusters
    }

    /// Whether the disk's own structures or the guest use `cluster` of a bitmap.
    pub(crate) fn is_used_by_disk(&self, cluster: u64) -> bool {
        self.disk.contains(cluster) || self.guest_shared.contains(cluster)
    }

    /// The clusters of the disk in use that are counted as free.
    pub(crate) fn uncounted_disk(&self) -> &Ranges {
        &self.uncounted_disk
    }
}

/// The clusters that `len_bytes` bytes at `offset` touch.
pub(super) fn clusters_of(offset: u64, len_bytes: u64, cluster_bits: u32) -> Range<u64> {
    offset >> cluster_bits..offset.saturating_add(len_bytes).div_ceil(1 << cluster_bits)
}

/// The clusters before `end` that are in use although their refcount is 0.
fn uncounted_in(used: &Ranges, end: u64, refcounts: &mut Refcounts<'_>, observer: &mut dyn Observer) -> Result<Ranges> {
    let mut zeros = Vec::new();
    for range in used.iter().take_while(|range| range.start < end) {
        tell(observer, PHASE, range.start, end)?;
        refcounts.zeros_within(range.start..range.end.min(end), &mut zeros)?;
    }
    Ok(Ranges::of(zeros)?)
}

/// Passes over refcounts that cannot be read, where nothing is to be written.
fn lenient(uncounted: Result<Ranges>, writing: bool) -> Result<Ranges> {
    match uncounted {
        Err(error) if error.kind() == ErrorKind::Damaged && !writing => Ok(Ranges::default()),
        found => found,
    }
}

/// The way out where QEMU's repair helps. It opens the image for writing, and so stores every bitmap anew, whatever it
/// holds: bitmaps in doubt must be gone by then.
pub(super) fn repair(has_doubtful_bitmaps: bool) -> WayOut {
    match has_doubtful_bitmaps {
        false => WayOut::from("repair the image with `qemu-img check -r all`"),
        true => WayOut::from("remove the bitmaps with ")
            .control(Control::DropAll)
            .words(", repair the image then with `qemu-img check -r all`, and make the next backup a full one"),
    }
}

/// The way out where it does not: QEMU's repair leaves tables of the disk that are damaged as they are.
fn copy() -> WayOut {
    WayOut::from(
        "restore the image from a copy, or save what can be read of the disk into a new image with \
         `qemu-img convert --salvage -O qcow2`",
    )
}

/// Of two structures in one cluster, how likely it is that this one is in the wrong place.
fn suspicion(role: Role) -> u8 {
    match role {
        Role::L2Table | Role::RefcountBlock => 1,
        _ => 0,
    }
}

/// Gathers the findings of the walk.
struct Claims<'a> {
    header: &'a Header,
    file_end: u64,
    /// Whether a fault of the disk's structures is an error.
    is_strict: bool,
    has_bitmaps: bool,
    disk_overlaps: bool,
    disk: Vec<(Range<u64>, Role)>,
    l2_tables: Gathered,
    bitmaps: Vec<Range<u64>>,
    faults: Vec<Option<Error>>,
    observer: &'a mut dyn Observer,
}

impl<'a> Claims<'a> {
    fn new(
        header: &'a Header,
        file_end: u64,
        is_strict: bool,
        has_bitmaps: bool,
        observer: &'a mut dyn Observer,
    ) -> Self {
        let (disk, bitmaps, faults) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            header,
            file_end,
            is_strict,
            has_bitmaps,
            disk_overlaps: false,
            disk,
            l2_tables: Gathered::default(),
            bitmaps,
            faults,
            observer,
        }
    }

    fn refcounts<'s>(&mut self, file: Qcow2File<'s>) -> Result<Option<Refcounts<'s>>> {
        match Refcounts::read(file) {
            Ok(refcounts) => {
                for (_, offset) in refcounts.blocks() {
                    self.occupies(Role::RefcountBlock, offset, self.header.cluster_bytes())?;
                }
                Ok(Some(refcounts))
            }
            Err(fault) => self.fault(fault).map(|()| None),
        }
    }

    /// The clusters of the disk's structures, and those of its L2 tables; two structures in one cluster are a fault.
    fn disk(&mut self) -> Result<(Ranges, Ranges)> {
        let l2_tables = std::mem::take(&mut self.l2_tables).finish()?;
        memory::extend(&mut self.disk, l2_tables.iter().map(|range| (range.clone(), Role::L2Table)))?;
        let mut claims = std::mem::take(&mut self.disk);
        claims.sort_unstable_by_key(|(range, role)| (range.start, range.end, *role));
        let mut holder: Option<&(Range<u64>, Role)> = None;
        let mut worst: Option<(Role, u64)> = None;
        for claim in &claims {
            if let Some((_, role)) = holder.filter(|(held, _)| claim.0.start < held.end) {
                for role in [claim.1, *role] {
                    if worst.is_none_or(|(worst, _)| suspicion(role) > suspicion(worst)) {
                        worst = Some((role, claim.0.start << self.header.cluster_bits));
                    }
                }
            }
            if holder.is_none_or(|(held, _)| held.end < claim.0.end) {
                holder = Some(claim);
            }
        }
        if let Some((role, offset)) = worst {
            self.disk_overlaps = true;
            let overlap = Error::new(ErrorKind::Damaged, "overlaps another structure");
            self.fault(overlap.at(format!("qcow2 {}", role.name()), offset))?;
        }
        Ok((Ranges::of(memory::gather(claims.into_iter().map(|(range, _)| range))?)?, l2_tables))
    }
}

impl Visitor for Claims<'_> {
    fn occupies(&mut self, role: Role, offset: u64, len_bytes: u64) -> Result<()> {
        let range = clusters_of(offset, len_bytes, self.header.cluster_bits);
        let wrong = if role.is_bitmap() {
            // A fault of its place is a fault of its bitmap; the place must not be taken all the same.
            return self.add_bitmap(range);
        } else if !self.is_in_file(offset, len_bytes) {
            "lies past the end of the file"
        } else if !offset.is_multiple_of(self.header.cluster_bytes()) {
            "is not at the start of a cluster"
        } else {
            match role {
                Role::L2Table => self.l2_tables.add(range)?,
                _ => memory::push(&mut self.disk, (range, role))?,
            }
            return Ok(());
        };
        self.fault(Error::new(ErrorKind::Damaged, wrong).at(format!("qcow2 {}", role.name()), offset))
    }

    fn fault(&mut self, fault: Error) -> Result<()> {
        if fault.is_of_the_call() {
            return Err(fault);
        }
        if !self.is_strict {
            return Ok(());
        }
        let blocks = fault.structure() == Some("qcow2 refcount block");
        Err(fault.advise(if blocks { repair(self.has_bitmaps) } else { copy() }))
    }

    fn bitmap_fault(&mut self, place: usize, fault: Error) -> Result<()> {
        if fault.is_of_the_call() {
            return Err(fault);
        }
        if let Some(known) = self.faults.get_mut(place) {
            known.get_or_insert(fault);
        }
        Ok(())
    }

    fn tick(&mut self, done: u64, total: u64) -> Result<()> {
        tell(self.observer, PHASE, done, total)
    }
}

impl Claims<'_> {
    /// Whether the file has the beginning of it, or lacks no more than the rest of its last cluster, for which zeros stand.
    fn is_in_file(&self, offset: u64, len_bytes: u64) -> bool {
        let reach = self.file_end.saturating_add(self.header.cluster_bytes() - 1);
        offset.checked_add(len_bytes).is_some_and(|end| offset < self.file_end || end <= reach)
    }

    fn add_bitmap(&mut self, range: Range<u64>) -> Result<()> {
        match self.bitmaps.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => memory::push(&mut self.bitmaps, range)?,
        }
        Ok(())
    }
}
