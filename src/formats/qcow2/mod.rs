#![forbid(unsafe_code)]
//! Owns qcow2 images: the bitmaps in them, read and written as QEMU does. Must never know where an image stands in a
//! backing chain, nor what its bitmaps mean to one another.

mod check;
mod commit;
mod directory;
mod draft;
mod drop;
mod guest;
mod header;
mod occupied;
mod ranges;
mod refcounts;
mod references;
mod rehearsal;
mod room;
mod space;
mod stages;
mod table;
mod walk;

use crate::bitmap::Bitmap;
use crate::chain::{self, Action, Name, Origin};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::geometry::{Granularity, clip_end};
use crate::memory;
use crate::progress::{Observer, Unobserved};
use crate::storage::Storage;
pub use check::{Problem, Severity};
pub(crate) use directory::Entry;
use header::{AUTOCLEAR_BITMAPS, DirectoryRef, Header, INCOMPATIBLE_CORRUPT, INCOMPATIBLE_DIRTY, MAGIC};
use occupied::{Occupied, Purpose};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// Whether a file that begins with `start` is a qcow2 image.
pub(crate) fn is_qcow2(start: &[u8]) -> bool {
    start.first_chunk().is_some_and(|magic| u32::from_be_bytes(*magic) == MAGIC)
}

/// A qcow2 image, its header and bitmap directory read.
#[derive(Debug)]
pub(crate) struct Qcow2 {
    storage: Arc<dyn Storage>,
    header: Header,
    place: Option<DirectoryRef>,
    entries: Vec<Entry>,
    /// Why the bitmaps cannot be used, and must not be written.
    trouble: Option<Error>,
    /// The place of each entry by its name, once anybody asked.
    places: OnceLock<HashMap<Name, usize>>,
    /// What occupies the file, as far as reading asks for it, once anybody asked.
    occupied: OnceLock<Occupied>,
    threads: usize,
    /// Stands for what was read; another reading has another one.
    origin: Origin,
}

impl Qcow2 {
    pub(crate) fn open(storage: Arc<dyn Storage>) -> Result<Self> {
        let header = Header::read(&*storage)?;
        let mut image = Self {
            storage,
            header,
            place: None,
            entries: Vec::new(),
            trouble: None,
            places: OnceLock::new(),
            occupied: OnceLock::new(),
            threads: 0,
            origin: Origin::default(),
        };
        image.read_directory()?;
        Ok(image)
    }

    fn read_directory(&mut self) -> Result<()> {
        if self.header.version < 3 {
            self.trouble = Some(
                Error::new(ErrorKind::OldVersion, "version 2 of qcow2 cannot hold bitmaps")
                    .at("qcow2 header", 4)
                    .advise("upgrade it with `qemu-img amend -f qcow2 -o compat=1.1`"),
            );
            return Ok(());
        }
        match &self.header.directory {
            Ok(place) => self.place = *place,
            Err(fault) => {
                let way_out = WayOut::from("give up all bitmaps with ").control(Control::DropAll);
                self.trouble = Some(fault.error().advise(way_out.words(", or restore the image's header")));
            }
        }
        if let Some(place) = self.place {
            let listing = directory::read(&*self.storage, place, self.header.size_bytes, self.header.cluster_bytes())?;
            self.entries = listing.entries;
            self.trouble = listing.fault.map(|fault| {
                fault.advise(
                    WayOut::from("QEMU may not open such an image either: give up all bitmaps with ")
                        .control(Control::DropAll)
                        .words(", or restore the image from a copy"),
                )
            });
        }
        let malformed = self.header.directory.as_ref().is_err_and(|fault| fault.is_malformed());
        if self.header.has_bitmaps_extension() && self.header.autoclear & AUTOCLEAR_BITMAPS == 0 && !malformed {
            self.trouble = Some(
                Error::new(
                    ErrorKind::Stale,
                    "software that does not know bitmaps wrote to the image, so every bitmap in it is out of date",
                )
                .at("qcow2 header", header::AUTOCLEAR_AT as u64)
                .advise(
                    WayOut::from("drop them with ")
                        .control(Control::DropAll)
                        .words(", make a full backup and create a new checkpoint"),
                ),
            );
        }
        Ok(())
    }

    pub(crate) fn version(&self) -> u32 {
        self.header.version
    }

    pub(crate) fn virtual_size(&self) -> u64 {
        self.header.size_bytes
    }

    pub(crate) fn cluster_bytes(&self) -> u64 {
        self.header.cluster_bytes()
    }

    /// Stands for the header and the directory as they were read: a plan is good for these only.
    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The bitmaps of the directory, in its order; those before the first fault where it is damaged.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// From now on the image is read and written through `storage`, which has the same bytes.
    pub(crate) fn set_storage(&mut self, storage: Arc<dyn Storage>) {
        self.storage = storage;
    }

    /// How many threads may read and write the clusters of bitmaps.
    pub(crate) fn set_threads(&mut self, threads: usize) {
        self.threads = threads;
    }

    /// Whether there is a bitmap directory, readable or not.
    pub(crate) fn has_directory(&self) -> bool {
        self.header.has_bitmaps_extension()
    }

    /// How many internal snapshots the image has.
    pub(crate) fn snapshots(&self) -> u32 {
        self.header.snapshots
    }

    /// Why no bitmap of this image can be used: its version, a stale autoclear bit, a damaged directory.
    pub(crate) fn trouble(&self) -> Option<&Error> {
        self.trouble.as_ref()
    }

    /// The backing file's name and format, as stored.
    pub(crate) fn backing(&self) -> Option<(&[u8], Option<&[u8]>)> {
        self.header.backing()
    }

    /// The name of the external data file.
    pub(crate) fn data_file(&self) -> Option<&[u8]> {
        self.header.data_file()
    }

    pub(crate) fn has_unclean_mark(&self) -> bool {
        self.header.incompatible & (INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT) != 0
    }

    /// The entry of the bitmap stored as `name`.
    pub(crate) fn entry(&self, name: &Name) -> Result<&Entry> {
        let place = self.place_of(name)?;
        self.entries.get(place).ok_or_else(|| self.no_bitmap(name))
    }

    fn place_of(&self, name: &Name) -> Result<usize> {
        if self.places.get().is_none() {
            let places = memory::map(self.entries.iter().map(|entry| entry.name.clone()).zip(0..))?;
            // Another thread may have been faster, with the same answer.
            let _ = self.places.set(places);
        }
        self.places.get().and_then(|places| places.get(name)).copied().ok_or_else(|| self.no_bitmap(name))
    }

    fn no_bitmap(&self, name: &Name) -> Error {
        chain::no_bitmap(name, self.entries.iter().map(|entry| &entry.name))
    }

    /// The bits of a bitmap that stand for a window of the disk, without reading the rest of its data.
    pub(crate) fn load(&self, name: &Name, offset: u64, len_bytes: u64) -> Result<Bitmap> {
        let end = clip_end(offset, len_bytes, self.virtual_size());
        let occupied = self.survey(&mut Unobserved)?;
        occupied.check_directory()?;
        table::load(&*self.storage, &self.header, self.entry(name)?, occupied, offset..end, self.threads)
    }

    /// What occupies the file, found out once.
    pub(crate) fn survey(&self, observer: &mut dyn Observer) -> Result<&Occupied> {
        if self.occupied.get().is_none() {
            let occupied = self.occupied(Purpose::Reading, observer)?;
            // Another thread may have been faster, with the same answer.
            let _ = self.occupied.set(occupied);
        }
        self.occupied.get().ok_or_else(|| Error::new(ErrorKind::Damaged, "what occupies the file is unknown"))
    }

    fn occupied(&self, purpose: Purpose, observer: &mut dyn Observer) -> Result<Occupied> {
        let bitmaps = self.place.map(|place| (place, self.entries.as_slice()));
        Occupied::read(&*self.storage, &self.header, bitmaps, purpose, observer)
    }

    /// What is wrong with the clusters of the bitmap stored as `name`.
    pub(crate) fn doubt(&self, name: &Name, observer: &mut dyn Observer) -> Result<Option<&Error>> {
        let place = self.place_of(name)?;
        Ok(self.survey(observer)?.doubt(place).map(|doubt| &doubt.error))
    }

    /// The bytes of the clusters that hold the table and the data of a bitmap.
    pub(crate) fn stored_bytes(&self, name: &Name) -> Result<u64> {
        let entry = self.entry(name)?;
        if let Some(doubt) = self.doubt(name, &mut Unobserved)? {
            return Err(doubt.clone());
        }
        let mut clusters = 0;
        let whole = 0..u64::from(entry.table_entries);
        table::for_each(&*self.storage, &self.header, entry, whole, &mut |_, payload| {
            clusters += u64::from(payload?.offset().is_some());
            Ok(())
        })?;
        Ok(table::len_bytes(entry).next_multiple_of(self.cluster_bytes()) + clusters * self.cluster_bytes())
    }

    /// Refuses a granularity at which this image could not store a bitmap.
    pub(crate) fn check_granularity(&self, granularity: Granularity) -> Result<()> {
        directory::check_new(self.header.size_bytes, granularity)
    }

    /// QEMU's default: the cluster size, from 4 KiB to 64 KiB; doubled until the bitmap fits qcow2.
    pub(crate) fn default_granularity(&self) -> Result<Granularity> {
        self.fitting_granularity(Granularity::from_bits(self.header.cluster_bits.clamp(12, 16))?)
    }

    /// The finest granularity from `smallest` on at which a bitmap of this disk fits qcow2.
    pub(crate) fn fitting_granularity(&self, smallest: Granularity) -> Result<Granularity> {
        for bits in smallest.bits()..31 {
            let granularity = Granularity::from_bits(bits)?;
            if self.check_granularity(granularity).is_ok() {
                return Ok(granularity);
            }
        }
        let largest = Granularity::from_bits(31)?;
        self.check_granularity(largest).map(|()| largest)
    }

    /// Whether header and directory are still in the file as they were read.
    pub(crate) fn is_unchanged(&self) -> Result<bool> {
        match Self::open(Arc::clone(&self.storage)) {
            Ok(now) => Ok(now.header.raw == self.header.raw && now.entries == self.entries),
            Err(error) if error.kind() == ErrorKind::Io || error.is_of_the_call() => Err(error),
            // It could be read when it was opened.
            Err(_) => Ok(false),
        }
    }

    /// The mark of a crash or of damage that keeps the image from being changed.
    pub(crate) fn unclean(&self) -> Option<Error> {
        if !self.has_unclean_mark() {
            return None;
        }
        let mark = if self.header.incompatible & INCOMPATIBLE_CORRUPT != 0 { "corrupt" } else { "dirty" };
        let message = format!("the image is marked {mark}, so its free space cannot be trusted");
        let doubtful = self.trouble.is_some()
            || self.survey(&mut Unobserved).is_ok_and(|occupied| occupied.deceives(&self.entries));
        Some(Error::new(ErrorKind::Unclean, message).at("qcow2 header", 72).advise(occupied::repair(doubtful)))
    }

    /// Refuses where writing bitmaps would be unsafe.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if let Some(unclean) = self.unclean() {
            return Err(unclean);
        }
        self.check_usable()
    }

    /// Refuses where no bitmap of this image can be trusted.
    pub(crate) fn check_usable(&self) -> Result<()> {
        self.trouble.as_ref().map_or(Ok(()), |trouble| Err(trouble.clone()))
    }

    /// Whether a power cut while `actions` are committed may lose the bitmaps: the directory's place crosses two sectors
    /// of the header, and bitmaps stay.
    pub(crate) fn commit_may_lose_all(&self, actions: &[Action]) -> bool {
        let count = |wanted: fn(&Action) -> bool| actions.iter().filter(|action| wanted(action)).count();
        let added = count(|action| matches!(action, Action::Add { .. }));
        let removed = count(|action| matches!(action, Action::Remove { .. }));
        self.header.directory_crosses_sectors() && !actions.is_empty() && self.entries.len() + added > removed
    }

    /// Carries out `actions` in one atomic step; the strings are warnings.
    pub(crate) fn apply(&mut self, actions: &[Action], observer: &mut dyn Observer) -> Result<Vec<String>> {
        let occupied = self.occupied_to_write(observer).map_err(Error::nothing_changed)?;
        let mut header = self.header.try_clone().map_err(Error::nothing_changed)?;
        let change = self.change(actions, &occupied).map_err(Error::nothing_changed)?;
        let written = change.write(&mut header, observer);
        self.read_again(&header, written)
    }

    /// Shows what the file holds after a change, which left `header` behind if it was carried out.
    fn read_again(&mut self, header: &Header, written: Result<Vec<String>>) -> Result<Vec<String>> {
        let failed_before = written.as_ref().is_err_and(|error| error.kind() != ErrorKind::CommitInDoubt);
        let now = Self::open(Arc::clone(&self.storage));
        if failed_before {
            // Nothing stands in the header that was not there: where there is no memory to see it, it is still known.
            let is_known = header.raw == self.header.raw && now.as_ref().is_err_and(Error::is_of_the_call);
            if !is_known {
                self.read_anew(now);
            }
            return written;
        }
        match now {
            Ok(now) if written.is_ok() && now.header.raw != header.raw => {
                let error = Error::new(ErrorKind::CommitInDoubt, "somebody else wrote to the image during the commit");
                let error = error.advise(
                    WayOut::from("verify it with `qemu-img check` and ")
                        .control(Control::Check)
                        .words(", then open it again"),
                );
                self.give_up(error.clone());
                Err(error)
            }
            Ok(now) => {
                *self = Self { threads: self.threads, ..now };
                written
            }
            // What was written counts, not that it cannot be read again; but nothing more can be done with this handle.
            Err(error) => {
                let warning = format!("done, but the image could not be read again: {}", error.reason());
                self.give_up(error);
                written.map(|mut warnings| {
                    warnings.push(warning);
                    warnings
                })
            }
        }
    }

    /// Takes over what is in the file after a change that failed before its commit. What it did to the header was put
    /// back, or not: the next change must not begin with what the file does not have.
    fn read_anew(&mut self, now: Result<Self>) {
        match now {
            // Others are told apart by the look of a handle without locks.
            Ok(now) if now.entries != self.entries => {}
            // The bitmaps are what they were, and so a plan for them is still good.
            Ok(now) => *self = Self { threads: self.threads, origin: self.origin.clone(), ..now },
            Err(error) => self.give_up(error),
        }
    }

    /// Refuses everything from now on.
    fn give_up(&mut self, why: Error) {
        self.entries.clear();
        self.places = OnceLock::new();
        self.trouble = Some(why.with_kind(ErrorKind::Changed).advise("open the image again"));
    }

    /// Finds out whether [`Qcow2::apply`] could carry out `actions`, and writes nothing.
    ///
    /// The strings are the warnings that it would give.
    pub(crate) fn rehearse(&self, actions: &[Action], observer: &mut dyn Observer) -> Result<Vec<String>> {
        let occupied = self.occupied_to_write(observer)?;
        self.change(actions, &occupied)?.rehearse(observer)
    }

    /// What occupies the file, so that clusters can be taken and released. Where bitmaps are damaged, every table of the
    /// disk is read: nothing less tells which of their clusters the guest uses.
    fn occupied_to_write(&self, observer: &mut dyn Observer) -> Result<Occupied> {
        self.check_writable()?;
        let all_tables = self.survey(observer)?.has_doubts();
        self.occupied(Purpose::Writing { all_tables }, observer)
    }

    /// Removes the bitmap directory with every bitmap in it, in one atomic step, damaged or not; the strings are warnings.
    ///
    /// What nothing else references is freed; what cannot be known is leaked, and a warning says so.
    pub(crate) fn drop_all(&mut self, observer: &mut dyn Observer) -> Result<Vec<String>> {
        let mut header = self.header.try_clone().map_err(Error::nothing_changed)?;
        let written = self.drop()?.write(&mut header, observer);
        self.read_again(&header, written)
    }

    /// The warnings that [`Qcow2::drop_all`] would give, or why it would fail; writes nothing.
    pub(crate) fn rehearse_drop_all(&self, observer: &mut dyn Observer) -> Result<Vec<String>> {
        self.drop()?.rehearse(observer)
    }

    fn drop(&self) -> Result<drop::DropAll<'_>> {
        match &self.trouble {
            Some(trouble) if matches!(trouble.kind(), ErrorKind::OldVersion | ErrorKind::Changed) => {
                Err(trouble.clone())
            }
            _ => Ok(drop::DropAll {
                storage: &*self.storage,
                header: &self.header,
                place: self.place,
                entries: &self.entries,
                free: !self.has_unclean_mark(),
            }),
        }
    }

    fn change<'a>(&'a self, actions: &[Action], occupied: &'a Occupied) -> Result<commit::Change<'a>> {
        let mut draft = draft::Draft::new(&*self.storage, &self.header, &self.entries, occupied, self.threads)?;
        actions.iter().try_for_each(|action| draft.apply(action))?;
        let draft = draft.finish();
        Ok(commit::Change { storage: &*self.storage, header: &self.header, place: self.place, occupied, draft })
    }

    /// Verifies every structure and rule, and changes nothing.
    pub(crate) fn check(&self, observer: &mut dyn Observer) -> Result<check::Report> {
        check::check(self, observer)
    }
}
