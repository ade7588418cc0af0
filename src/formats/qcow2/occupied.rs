#![forbid(unsafe_code)]
//! Owns the map of what occupies the clusters of a qcow2 file, and where two structures claim one cluster. Must never
//! take or release a cluster.

use super::directory::Entry;
use super::header::{DirectoryRef, Header};
use super::refcounts::Refcounts;
use super::walk::{Depth, Role, Visitor, Walk};
use crate::bitmap::Bitmap;
use crate::error::{Error, ErrorKind, Result};
use crate::formats::bytes::file_len;
use crate::geometry::{Granularity, MAX_DISK_BYTES, MAX_GRANULES};
use crate::progress::{Observer, tell};
use crate::storage::Storage;

/// The guest's clusters are compared with the bitmaps' where the L2 tables that name them take no more than this: those of
/// 1 TiB of data with clusters of 64 KiB. Beyond, only a check of the whole image looks.
const MAX_L2_BYTES: u64 = 128 << 20;
const PHASE: &str = "looking for free room";

/// What occupies the file.
#[derive(Debug)]
pub(crate) struct Occupied {
    /// Every cluster that a structure other than the guest's data claims.
    pub(crate) clusters: Bitmap,
    /// Those of them that two structures claim, or a bitmap and the guest.
    pub(crate) shared: Bitmap,
    /// Who claims one of those, and where: a structure of the bitmaps if there is any.
    pub(crate) overlap: Option<(Role, u64)>,
}

/// How faults of structures are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// Any fault is an error: for writing.
    Strict,
    /// Faults are passed over: they are reported when what is at fault is read itself.
    Lenient,
}

impl Occupied {
    pub(crate) fn read(
        storage: &dyn Storage,
        header: &Header,
        bitmaps: Option<(DirectoryRef, &[Entry])>,
        strictness: Strictness,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let mut claims = Claims {
            claims: Vec::new(),
            compact_at: 1 << 16,
            cluster_bits: header.cluster_bits,
            file_end: file_len(storage)?,
            strictness,
            observer,
        };
        let walk = Walk { storage, header, depth: Depth::Metadata };
        walk.disk(&mut claims)?;
        match Refcounts::read(storage, header) {
            Ok(refcounts) => {
                for (_, offset) in refcounts.blocks() {
                    claims.occupies(Role::RefcountBlock, offset, header.cluster_bytes())?;
                }
            }
            Err(fault) => claims.fault(fault)?,
        }
        if let Some((place, entries)) = bitmaps {
            walk.bitmaps(place, entries, &mut claims)?;
        }
        let mut occupied = claims.map(header)?;
        occupied.compare_with_guest(&walk, &claims.claims, claims.observer)?;
        Ok(occupied)
    }

    /// Notes that the clusters from `first` up to `end` are claimed by `role` and by something else.
    fn share(&mut self, role: Role, first: u64, end: u64, cluster_bits: u32) -> Result<()> {
        if self.overlap.is_none_or(|(worst, _)| suspicion(role) > suspicion(worst)) {
            self.overlap = Some((role, first << cluster_bits));
        }
        self.shared.set(first << cluster_bits, (end - first) << cluster_bits)
    }

    /// Finds the clusters of bitmaps that the guest uses as well.
    fn compare_with_guest(&mut self, walk: &Walk<'_>, claims: &[Claim], observer: &mut dyn Observer) -> Result<()> {
        let tables: Vec<&Claim> = claims.iter().filter(|claim| claim.role == Role::L2Table).collect();
        let cluster_bits = walk.header.cluster_bits;
        let bitmaps: Vec<&Claim> = claims.iter().filter(|claim| claim.role.is_bitmap()).collect();
        if walk.header.has_data_file() || bitmaps.is_empty() || (tables.len() as u64) << cluster_bits > MAX_L2_BYTES {
            return Ok(());
        }
        let mut guest = Guest { filter: Filter::new(&bitmaps), bitmaps, cluster_bits, found: Vec::new() };
        let total = tables.len() as u64;
        for (done, table) in (0..).zip(tables) {
            tell(observer, PHASE, done, total)?;
            walk.l2_table(table.first << cluster_bits, false, &mut guest)?;
        }
        for (claim, cluster) in guest.found {
            self.share(claim.role, cluster, cluster + 1, cluster_bits)?;
        }
        Ok(())
    }
}

/// Of two structures in one cluster, how likely it is that this one is in the wrong place.
fn suspicion(role: Role) -> u8 {
    match role {
        Role::BitmapDirectory | Role::BitmapTable => 3,
        Role::BitmapData => 2,
        Role::L2Table | Role::RefcountBlock => 1,
        _ => 0,
    }
}

/// Clusters from `first` up to `end` that a structure says are its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    first: u64,
    end: u64,
    role: Role,
}

struct Claims<'a> {
    claims: Vec<Claim>,
    compact_at: usize,
    cluster_bits: u32,
    file_end: u64,
    strictness: Strictness,
    observer: &'a mut dyn Observer,
}

impl Claims<'_> {
    /// Sorts the claims; L2 tables, which snapshots share with one another, are kept once.
    fn compact(&mut self) {
        self.claims.sort_unstable();
        self.claims.dedup_by(|one, other| one == other && one.role == Role::L2Table);
        self.compact_at = (self.claims.len() * 2).max(1 << 16);
    }

    fn map(&mut self, header: &Header) -> Result<Occupied> {
        self.compact();
        let size_bytes = MAX_GRANULES.saturating_mul(header.cluster_bytes()).min(MAX_DISK_BYTES);
        let empty = Bitmap::new(size_bytes, Granularity::from_bits(header.cluster_bits)?)?;
        let mut occupied = Occupied { clusters: empty.clone(), shared: empty, overlap: None };
        // The claim that reaches farthest of those before.
        let mut holder: Option<&Claim> = None;
        for claim in &self.claims {
            if let Some(holder) = holder.filter(|holder| claim.first < holder.end) {
                for role in [claim.role, holder.role] {
                    occupied.share(role, claim.first, claim.end.min(holder.end), self.cluster_bits)?;
                }
            }
            if holder.is_none_or(|holder| holder.end < claim.end) {
                holder = Some(claim);
            }
            occupied.clusters.set(claim.first << self.cluster_bits, (claim.end - claim.first) << self.cluster_bits)?;
        }
        Ok(occupied)
    }
}

impl Visitor for Claims<'_> {
    fn occupies(&mut self, role: Role, offset: u64, len_bytes: u64) -> Result<()> {
        let cluster_bytes = 1_u64 << self.cluster_bits;
        // Less than a cluster may be missing at the end of the file: zeros stand for it.
        let reach = self.file_end.saturating_add(cluster_bytes - 1);
        let end = offset.checked_add(len_bytes).filter(|end| offset < self.file_end || *end <= reach);
        let wrong = match end {
            // Who reads it names it better.
            None if role.is_bitmap() => return Ok(()),
            None => "lies past the end of the file",
            Some(_) if !offset.is_multiple_of(cluster_bytes) => "is not at the start of a cluster",
            Some(end) => {
                // What reaches past the end of the file is cut off; its reader finds that, where it matters.
                let end = end.min(reach).div_ceil(cluster_bytes);
                let first = offset >> self.cluster_bits;
                if first < end {
                    self.claims.push(Claim { first, end, role });
                }
                if self.claims.len() > self.compact_at {
                    self.compact();
                }
                return Ok(());
            }
        };
        self.fault(Error::new(ErrorKind::Damaged, wrong).at(format!("qcow2 {}", role.name()), offset))
    }

    fn fault(&mut self, fault: Error) -> Result<()> {
        match self.strictness {
            Strictness::Strict => Err(fault.advise("repair the image with `qemu-img check -r all`")),
            Strictness::Lenient => Ok(()),
        }
    }

    fn tick(&mut self, done: u64, total: u64) -> Result<()> {
        tell(self.observer, PHASE, done, total)
    }
}

/// Compares the guest's clusters with those of bitmaps.
struct Guest<'a> {
    filter: Filter,
    bitmaps: Vec<&'a Claim>,
    cluster_bits: u32,
    found: Vec<(&'a Claim, u64)>,
}

impl Visitor for Guest<'_> {
    fn occupies(&mut self, _: Role, offset: u64, len_bytes: u64) -> Result<()> {
        let last = offset.saturating_add(len_bytes.saturating_sub(1)) >> self.cluster_bits;
        for cluster in offset >> self.cluster_bits..=last {
            if !self.filter.may_have(cluster) {
                continue;
            }
            // The claims are sorted, and those that overlap one another are reported already.
            let at = self.bitmaps.partition_point(|claim| claim.end <= cluster);
            if let Some(claim) = self.bitmaps.get(at).filter(|claim| claim.first <= cluster) {
                self.found.push((claim, cluster));
            }
        }
        Ok(())
    }

    fn fault(&mut self, _: Error) -> Result<()> {
        Ok(())
    }
}

/// Says at once of nearly all clusters that they are no bitmap's.
struct Filter {
    bits: Vec<u64>,
}

impl Filter {
    const BITS: u64 = 1 << 20;

    fn new(claims: &[&Claim]) -> Self {
        let mut filter = Self { bits: vec![0; usize::try_from(Self::BITS / 64).unwrap_or_default()] };
        for claim in claims {
            for cluster in claim.first..claim.end.min(claim.first.saturating_add(Self::BITS)) {
                if let Some(word) = Self::word(cluster).and_then(|word| filter.bits.get_mut(word)) {
                    *word |= 1 << (cluster % 64);
                }
            }
        }
        filter
    }

    fn may_have(&self, cluster: u64) -> bool {
        let word = Self::word(cluster).and_then(|word| self.bits.get(word));
        word.is_some_and(|word| word >> (cluster % 64) & 1 == 1)
    }

    fn word(cluster: u64) -> Option<usize> {
        usize::try_from(cluster % Self::BITS / 64).ok()
    }
}
