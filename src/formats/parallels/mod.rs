#![forbid(unsafe_code)]
//! Owns Parallels images as a host of bitmaps, for reading alone: QEMU writes over the format extension that lists them, at its
//! first write to the image. Must never write, nor know the meaning of the bitmaps to one another.

mod extension;
mod header;

pub(crate) use header::is_parallels;

use crate::bitmap::Bitmap;
use crate::chain::{self, Action, BitmapState, Name};
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::{Granularity, clip_end};
use crate::host::{CheckReport, Facts, Host, Problem, Severity, Summary, UnionRequest, unite};
use crate::io::Storage;
use crate::io::bytes::read_exact;
use crate::memory;
use crate::progress::{Observer, Unobserved};
use extension::{Entry, Listing, Payload, payload_bytes};
use header::{Header, Mark};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// QEMU's name of the format.
pub(crate) const FORMAT: &str = "parallels";

/// How many bytes of bits are in memory at a time.
const PIECE_BYTES: usize = 1 << 20;

/// A Parallels image, its header and format extension read.
#[derive(Debug)]
pub(crate) struct Parallels {
    storage: Arc<dyn Storage>,
    header: Header,
    listing: Listing,
    /// Why the bitmaps cannot be used.
    trouble: Option<Error>,
    /// The fault in the clusters of each bitmap, where it has one; found out at the first question.
    faults: OnceLock<Vec<Option<Error>>>,
}

/// A cluster that holds the extension, or bits of a bitmap.
#[derive(Clone, Copy)]
struct Claim {
    at: u64,
    /// The bitmap by its number; `None` for the extension.
    of: Option<u32>,
}

/// The fault in the clusters of each bitmap, the first that was found.
struct Faults(Vec<Option<Error>>);

impl Faults {
    /// A cluster that something else owns too. Without the one of the extension, no bitmap can be trusted.
    fn blame(&mut self, claim: Claim, other: &str) {
        let fault = || {
            let message =
                format!("its cluster at {:#x} belongs to {other} too, so its bits cannot be trusted", claim.at);
            Error::new(ErrorKind::Damaged, message).at("Parallels bitmaps", claim.at)
        };
        let places = match claim.of.map(|of| of as usize) {
            Some(of) => self.0.get_mut(of..of + 1).unwrap_or_default(),
            None => &mut self.0,
        };
        places.iter_mut().filter(|place| place.is_none()).for_each(|place| *place = Some(fault()));
    }
}

/// The owner of `other`, as the owner of `claim` sees it.
fn owner(claim: Claim, other: Claim) -> &'static str {
    match other.of {
        None => "the list of the bitmaps",
        of if of == claim.of => "another part of it",
        _ => "another bitmap",
    }
}

impl Parallels {
    pub(crate) fn open(storage: Arc<dyn Storage>) -> Result<Self> {
        let header = Header::read(&*storage)?;
        let mut listing = Listing::default();
        let mut trouble = None;
        if header.extension_sector != 0 {
            listing = extension::read(&*storage, &header)?;
            trouble = if header.mark == Mark::Unaware { Some(stale()) } else { listing.fault.clone() };
        }
        Ok(Self { storage, header, listing, trouble, faults: OnceLock::new() })
    }

    fn entry(&self, name: &Name) -> Result<(usize, &Entry)> {
        let Listing { entries, places, .. } = &self.listing;
        let found = places.get(name).and_then(|&place| Some((place, entries.get(place)?)));
        found.ok_or_else(|| chain::no_bitmap(name, entries.iter().map(|entry| &entry.name)))
    }

    /// The faults of the bitmaps, found out once.
    fn faults(&self, observer: &mut dyn Observer) -> Result<&[Option<Error>]> {
        if self.faults.get().is_none() {
            let faults = self.find_faults(observer)?;
            // Another thread may have been faster, with the same answer.
            let _ = self.faults.set(faults);
        }
        Ok(self.faults.get().map(Vec::as_slice).unwrap_or_default())
    }

    /// Looks whether every cluster of the bitmaps is theirs alone: neither one of another bitmap, nor of the guest's data.
    fn find_faults(&self, observer: &mut dyn Observer) -> Result<Vec<Option<Error>>> {
        let (header, entries) = (&self.header, &self.listing.entries);
        let mut faults = Faults(memory::gather(entries.iter().map(|_| None))?);
        if faults.0.is_empty() {
            return Ok(faults.0);
        }
        let extension = Claim { at: self.listing.at, of: None };
        let data = (0..).zip(entries).flat_map(|(of, entry)| {
            entry.table.iter().filter_map(move |payload| match payload {
                Payload::At(at) => Some(Claim { at: *at, of: Some(of) }),
                Payload::Zeros | Payload::Ones => None,
            })
        });
        let mut claims = memory::gather([extension].into_iter().chain(data))?;
        claims.sort_unstable_by_key(|claim| claim.at);
        // All clusters are of one length, so one that overlaps any other overlaps a neighbour.
        for pair in claims.windows(2) {
            if let [one, next] = *pair
                && next.at - one.at < header.cluster_bytes
            {
                faults.blame(one, owner(one, next));
                faults.blame(next, owner(next, one));
            }
        }
        // How many more clusters of the guest's overlap a claim than the one before it: hostile tables name a cluster often.
        let mut more: Vec<i64> = memory::zeroed(claims.len() + 1)?;
        let walked = header.guest_clusters(&*self.storage, observer, &mut |at| {
            let first = claims.partition_point(|claim| claim.at.saturating_add(header.cluster_bytes) <= at);
            let end = claims.partition_point(|claim| claim.at < at.saturating_add(header.cluster_bytes));
            more.get_mut(first).into_iter().for_each(|more| *more += 1);
            more.get_mut(end).into_iter().for_each(|more| *more -= 1);
        });
        match walked {
            // Nobody knows then where the guest's data lie.
            Err(error) if error.kind() == ErrorKind::Damaged => {
                faults.0.iter_mut().for_each(|place| *place = Some(error.clone()));
            }
            walked => walked?,
        }
        let mut overlapping = 0;
        for (claim, more) in claims.iter().zip(&more) {
            overlapping += more;
            if overlapping > 0 {
                faults.blame(*claim, "the guest's data");
            }
        }
        Ok(faults.0)
    }

    /// The bits of a bitmap for a window of the disk.
    fn load(&self, name: &Name, window: &Range<u64>) -> Result<Bitmap> {
        let (number, entry) = self.entry(name)?;
        if let Some(Some(fault)) = self.faults(&mut Unobserved)?.get(number) {
            return Err(fault.clone());
        }
        let (header, granularity) = (&self.header, entry.granularity);
        let mut bitmap = Bitmap::new(header.size_bytes, granularity)?;
        // A cluster may stand for more bytes than a disk can have; it is then the only one.
        let covered = header.cluster_bytes.saturating_mul(8).saturating_mul(granularity.bytes());
        for (number, payload) in (0_u64..).zip(&entry.table) {
            let start = number.saturating_mul(covered);
            let end = start.saturating_add(covered).min(header.size_bytes);
            if end <= window.start || start >= window.end {
                continue;
            }
            match *payload {
                Payload::Zeros => {}
                Payload::Ones => bitmap.set(start, end - start)?,
                Payload::At(at) => {
                    let len = payload_bytes(header, granularity, number);
                    for from in (0..len).step_by(PIECE_BYTES) {
                        let structure = format_args!("Parallels data of bitmap {name}, cluster {number}");
                        let piece_len = (len - from).min(PIECE_BYTES as u64);
                        let piece = read_exact(&*self.storage, &structure, at + from, piece_len)?;
                        bitmap.set_bits(start + ((from * 8) << granularity.bits()), &piece)?;
                    }
                }
            }
        }
        Ok(bitmap)
    }
}

fn stale() -> Error {
    Header::at_mark(Error::new(
        ErrorKind::Stale,
        "software that does not know its bitmaps, such as QEMU, wrote to the image, so every bitmap in it is out of date",
    ))
    .advise("make a full backup")
}

/// The refusal of every change.
fn read_only() -> Error {
    Error::new(ErrorKind::CannotStore, "the bitmaps of a Parallels image are read, and never written").advise(
        "QEMU destroys them at its first write to such an image: convert the disk with `qemu-img convert -O qcow2`, and \
         create checkpoints there",
    )
}

impl Host for Parallels {
    fn facts(&self) -> Facts<'_> {
        let mut facts = Facts::new(FORMAT, self.header.size_bytes);
        facts.format_version = header::VERSION;
        facts.allocation_bytes = self.header.cluster_bytes;
        facts.is_unclean = self.header.mark == Mark::Open;
        facts
    }

    /// The format has no flag that says whether a bitmap records: the software that keeps them records all.
    fn bitmaps(&self) -> Box<dyn Iterator<Item = BitmapState> + '_> {
        Box::new(self.listing.entries.iter().map(|entry| {
            let mut state = BitmapState::new(entry.name.clone(), entry.granularity, true);
            state.inconsistent = self.header.mark == Mark::Open;
            state
        }))
    }

    fn has_directory(&self) -> bool {
        self.header.extension_sector != 0
    }

    fn trouble(&self) -> Option<&Error> {
        self.trouble.as_ref()
    }

    fn unclean(&self) -> Option<Error> {
        (self.header.mark == Mark::Open).then(|| {
            let message = "the image is marked as open for writing: its writer has not closed it";
            Header::at_mark(Error::new(ErrorKind::Unclean, message)).advise("let its writer open and close it")
        })
    }

    fn is_unchanged(&self) -> Result<bool> {
        match Self::open(Arc::clone(&self.storage)) {
            Ok(now) => Ok(now.header == self.header
                && now.listing.entries == self.listing.entries
                && now.trouble.is_some() == self.trouble.is_some()),
            Err(error) if error.kind() == ErrorKind::Io || error.is_of_the_call() => Err(error),
            // It could be read when it was opened.
            Err(_) => Ok(false),
        }
    }

    fn default_granularity(&self) -> Result<Granularity> {
        Err(read_only())
    }

    fn check_granularity(&self, _: Granularity) -> Result<()> {
        Err(read_only())
    }

    fn survey(&self, observer: &mut dyn Observer) -> Result<()> {
        self.faults(observer).map(drop)
    }

    fn doubt(&self, name: &Name, observer: &mut dyn Observer) -> Result<Option<Error>> {
        let (number, _) = self.entry(name)?;
        Ok(self.faults(observer)?.get(number).cloned().flatten())
    }

    fn union(&self, request: &UnionRequest<'_>, observer: &mut dyn Observer) -> Result<Bitmap> {
        self.faults(observer)?;
        let window = request.offset..clip_end(request.offset, request.len_bytes, self.header.size_bytes);
        unite(request, observer, |name| self.load(name, &window))
    }

    fn summary(&self, name: &Name) -> Result<Summary> {
        let (number, entry) = self.entry(name)?;
        if let Some(Some(fault)) = self.faults(&mut Unobserved)?.get(number) {
            return Err(fault.clone());
        }
        let clusters = entry.table.iter().filter(|payload| matches!(payload, Payload::At(_))).count() as u64;
        Ok(Summary { stored_bytes: Some(clusters * self.header.cluster_bytes), ..Summary::default() })
    }

    fn rehearse(&self, _: &[Action], _: &mut dyn Observer) -> Result<Option<Vec<String>>> {
        Err(read_only())
    }

    fn apply(&mut self, _: &[Action], _: &mut dyn Observer) -> Result<Vec<String>> {
        Err(read_only().nothing_changed())
    }

    fn drop_all(&mut self, _: &mut dyn Observer) -> Result<Vec<String>> {
        Err(read_only().nothing_changed())
    }

    fn rehearse_drop_all(&self, _: &mut dyn Observer) -> Result<Option<Vec<String>>> {
        Err(read_only())
    }

    fn check(&self, observer: &mut dyn Observer) -> Result<CheckReport> {
        let mut report = CheckReport::default();
        let mut add = |severity, error: &Error| {
            match severity {
                Severity::Error => report.errors += 1,
                Severity::Unusable => report.unusable += 1,
                Severity::Leak | Severity::Warning => {}
            }
            let structure = error.structure().unwrap_or("Parallels image");
            memory::push(&mut report.problems, Problem::new(severity, structure, error.message()).at(error.offset()))
        };
        if let Some(trouble) = &self.trouble {
            add(if trouble.kind() == ErrorKind::Stale { Severity::Unusable } else { Severity::Error }, trouble)?;
        } else if let (Some(unclean), false) = (self.unclean(), self.listing.entries.is_empty()) {
            add(Severity::Unusable, &unclean)?;
        } else {
            for fault in self.faults(observer)?.iter().flatten() {
                add(Severity::Error, fault)?;
            }
        }
        Ok(report)
    }
}
