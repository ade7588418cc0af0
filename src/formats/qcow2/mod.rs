#![forbid(unsafe_code)]
//! Owns qcow2 images: the bitmaps in them, read and written as QEMU does. Must never know where an image stands in a
//! backing chain, nor the meaning of its bitmaps to one another.

mod allocated;
mod check;
mod commit;
mod directory;
mod draft;
mod drop;
mod empty;
mod file;
#[cfg(feature = "serve")]
mod fresh;
mod guest;
mod header;
mod host;
mod joint;
mod mark;
mod occupied;
mod ranges;
#[cfg(feature = "serve")]
mod readable;
mod refcounts;
mod references;
#[cfg(feature = "serve")]
mod refill;
mod rehearsal;
mod room;
mod space;
mod stages;
mod steps;
mod table;
mod walk;
pub(crate) use directory::check_new;
pub(crate) use empty::empty_image;
#[cfg(feature = "serve")]
pub(crate) use fresh::{CLUSTER_BYTES, Fresh, TABLE_BYTES};
#[cfg(feature = "serve")]
pub(crate) use readable::data_needs;
#[cfg(feature = "serve")]
pub(crate) use refill::Refill;

use crate::chain::{self, Action, Name};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::host::{Fill, Host};
use crate::io::Storage;
use crate::memory;
use crate::progress::{Observer, Unobserved};
use directory::Entry;
use file::Qcow2File;
use header::{AUTOCLEAR_BITMAPS, DirectoryRef, Header, INCOMPATIBLE_CORRUPT, INCOMPATIBLE_DIRTY, MAGIC};
use occupied::{Occupied, Purpose};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// QEMU's name of the format.
pub(crate) const FORMAT: &str = "qcow2";

/// Whether a file that begins with `start` is a qcow2 image.
pub(crate) fn is_qcow2(start: &[u8]) -> bool {
    start.first_chunk().is_some_and(|magic| u32::from_be_bytes(*magic) == MAGIC)
}

/// A qcow2 image, its header and bitmap directory read.
#[derive(Debug)]
pub(crate) struct Qcow2 {
    storage: Arc<dyn Storage>,
    header: Header,
    directory: Option<DirectoryRef>,
    entries: Vec<Entry>,
    /// Why the bitmaps cannot be used, and must not be written.
    trouble: Option<Error>,
    /// The place of each entry by its name, made at the first question.
    places: OnceLock<HashMap<Name, usize>>,
    /// The map of the file as far as reading needs it, made at the first question.
    occupied: OnceLock<Occupied>,
    threads: usize,
    /// Whether changes are allowed although the header has a mark.
    mends: bool,
}

impl Qcow2 {
    pub(crate) fn open(storage: Arc<dyn Storage>) -> Result<Self> {
        let header = Header::read(&*storage)?;
        let mut image = Self {
            storage,
            header,
            directory: None,
            entries: Vec::new(),
            trouble: None,
            places: OnceLock::new(),
            occupied: OnceLock::new(),
            threads: 0,
            mends: false,
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
            Ok(directory) => self.directory = *directory,
            Err(fault) => {
                let way_out = WayOut::from("give up all bitmaps with ").control(Control::DropAll);
                self.trouble = Some(fault.error().advise(way_out.words(", or restore the image's header")));
            }
        }
        if let Some(place) = self.directory {
            let listing = directory::read(&*self.storage, &self.header, place)?;
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

    /// The file as it is.
    fn file(&self) -> Qcow2File<'_> {
        let Self { storage, header, directory, entries, .. } = self;
        Qcow2File { storage: &**storage, header, directory: *directory, entries }
    }

    fn cluster_bytes(&self) -> u64 {
        self.header.cluster_bytes()
    }

    fn has_unclean_mark(&self) -> bool {
        self.header.incompatible & (INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT) != 0
    }

    /// The entry of the bitmap stored as `name`.
    fn entry(&self, name: &Name) -> Result<&Entry> {
        let place = self.place_of(name)?;
        place.and_then(|place| self.entries.get(place)).ok_or_else(|| self.no_bitmap(name))
    }

    fn place_of(&self, name: &Name) -> Result<Option<usize>> {
        if self.places.get().is_none() {
            let places = memory::map(self.entries.iter().map(|entry| entry.name.clone()).zip(0..))?;
            // Another thread may have been faster, with the same answer.
            let _ = self.places.set(places);
        }
        Ok(self.places.get().and_then(|places| places.get(name)).copied())
    }

    fn no_bitmap(&self, name: &Name) -> Error {
        chain::no_bitmap(name, self.entries.iter().map(|entry| &entry.name))
    }

    /// The map of the file, made once.
    fn occupied_to_read(&self, observer: &mut dyn Observer) -> Result<&Occupied> {
        if self.occupied.get().is_none() {
            let occupied = self.occupied(Purpose::Reading, observer)?;
            // Another thread may have been faster, with the same answer.
            let _ = self.occupied.set(occupied);
        }
        self.occupied.get().ok_or_else(|| Error::new(ErrorKind::Damaged, "what occupies the file is unknown"))
    }

    fn occupied(&self, purpose: Purpose, observer: &mut dyn Observer) -> Result<Occupied> {
        Occupied::read(self.file(), purpose, observer)
    }

    /// The fault in the clusters of the bitmap stored as `name`, where there is one.
    fn fault_of(&self, name: &Name, observer: &mut dyn Observer) -> Result<Option<&Error>> {
        let place = self.place_of(name)?.ok_or_else(|| self.no_bitmap(name))?;
        Ok(self.occupied_to_read(observer)?.doubt(place).map(|doubt| &doubt.error))
    }

    /// The bytes of the clusters that hold the table and the data of a bitmap.
    fn stored_bytes(&self, name: &Name) -> Result<u64> {
        let entry = self.entry(name)?;
        if let Some(doubt) = self.fault_of(name, &mut Unobserved)? {
            return Err(doubt.clone());
        }
        let mut clusters = 0;
        let whole = 0..u64::from(entry.table_entries);
        table::for_each(self.file(), entry, whole, &mut |_, payload| {
            clusters += u64::from(payload?.offset().is_some());
            Ok(())
        })?;
        Ok(table::len_bytes(entry).next_multiple_of(self.cluster_bytes()) + clusters * self.cluster_bytes())
    }

    /// Refuses where writing bitmaps would be unsafe.
    fn check_writable(&self) -> Result<()> {
        match self.unclean().or_else(|| self.unfinished()) {
            Some(refusal) => Err(refusal),
            None => self.check_usable(),
        }
    }

    /// Refuses where no bitmap of this image can be trusted.
    fn check_usable(&self) -> Result<()> {
        self.trouble.as_ref().map_or(Ok(()), |trouble| Err(trouble.clone()))
    }

    /// Reads the file after a change, which left `header` behind if it was carried out.
    fn conclude(&mut self, header: &Header, written: Result<Vec<String>>) -> Result<Vec<String>> {
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
                *self = Self { threads: self.threads, mends: self.mends, ..now };
                written
            }
            // The change is done, also where the file cannot be read again; but this handle is of no more use.
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

    /// Takes over the state of the file after a change that failed before its commit. Its changes of the header were put
    /// back, or not: the next change must begin with the bytes that the file has.
    fn read_anew(&mut self, now: Result<Self>) {
        match now {
            // Others are told apart by the look of a handle without locks.
            Ok(now) if now.entries != self.entries => {}
            // The bitmaps are unchanged, so a plan for them is still good.
            Ok(now) => *self = Self { threads: self.threads, mends: self.mends, ..now },
            Err(error) => self.give_up(error),
        }
    }

    /// Refuses everything from now on.
    fn give_up(&mut self, why: Error) {
        self.entries.clear();
        self.places = OnceLock::new();
        self.trouble = Some(why.with_kind(ErrorKind::Changed).advise("open the image again"));
    }

    /// The map of the file with which clusters can be taken and released. Where bitmaps are damaged, every table of the
    /// disk is read: nothing less tells which of their clusters the guest uses.
    fn occupied_to_write(&self, observer: &mut dyn Observer) -> Result<Occupied> {
        self.check_writable()?;
        let all_tables = self.occupied_to_read(observer)?.has_doubts();
        self.occupied(Purpose::Writing { all_tables }, observer)
    }

    /// The removal of the whole directory.
    fn removal(&self) -> Result<drop::DropAll<'_>> {
        if let Some(refusal) = self.unfinished() {
            return Err(refusal);
        }
        match &self.trouble {
            Some(trouble) if matches!(trouble.kind(), ErrorKind::OldVersion | ErrorKind::Changed) => {
                Err(trouble.clone())
            }
            _ => Ok(drop::DropAll { file: self.file(), free: !self.has_unclean_mark() }),
        }
    }

    fn change<'a>(&'a self, actions: &[Action], fills: &[Fill], occupied: &'a Occupied) -> Result<commit::Change<'a>> {
        let mut draft = draft::Draft::new(self.file(), occupied, self.threads)?;
        actions.iter().try_for_each(|action| draft.apply(action))?;
        fills.iter().try_for_each(|fill| draft.fill(fill))?;
        Ok(commit::Change { file: self.file(), occupied, draft: draft.finish() })
    }
}
