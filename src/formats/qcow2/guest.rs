#![forbid(unsafe_code)]
//! Owns the look at the guest's clusters: which of them are a bitmap's too, and which are counted as free. Must never know
//! the remedy.

use super::header::Header;
use super::occupied::{PHASE, clusters_of};
use super::ranges::Ranges;
use super::refcounts::Refcounts;
use super::walk::{Role, Visitor, Walk};
use crate::error::{Error, ErrorKind, Result};
use crate::memory;
use crate::progress::{Observer, tell};
use std::ops::Range;

/// The number of runs of clusters that are looked at together, in the order in which they lie in the file.
const BATCH: usize = 1 << 16;

/// Compares the guest's clusters with those of bitmaps and, where refcounts are given, with these.
pub(super) struct Guest<'a, 's> {
    cluster_bits: u32,
    bitmaps: &'a Ranges,
    refcounts: Option<&'a mut Refcounts<'s>>,
    runs: Vec<Range<u64>>,
    shared: Vec<Range<u64>>,
    uncounted: Vec<Range<u64>>,
}

impl<'a, 's> Guest<'a, 's> {
    pub(super) fn new(header: &Header, bitmaps: &'a Ranges, refcounts: Option<&'a mut Refcounts<'s>>) -> Self {
        let (runs, shared, uncounted) = (Vec::new(), Vec::new(), Vec::new());
        Self { cluster_bits: header.cluster_bits, bitmaps, refcounts, runs, shared, uncounted }
    }

    /// Reads the L2 tables in these clusters, each once.
    pub(super) fn read(&mut self, walk: &Walk<'_>, tables: &Ranges, observer: &mut dyn Observer) -> Result<()> {
        let total = tables.count();
        for (done, table) in (0..).zip(tables.iter().flat_map(Range::clone)) {
            tell(observer, PHASE, done, total)?;
            walk.l2_table(table << self.cluster_bits, false, self)?;
        }
        self.look()
    }

    /// The clusters that are a bitmap's too, and those whose refcount is 0.
    pub(super) fn finish(self) -> Result<(Ranges, Ranges)> {
        Ok((Ranges::of(self.shared)?, Ranges::of(self.uncounted)?))
    }

    fn look(&mut self) -> Result<()> {
        let runs = Ranges::of(std::mem::take(&mut self.runs))?;
        for run in runs.iter() {
            memory::extend(&mut self.shared, self.bitmaps.within(run.clone()))?;
            if let Some(refcounts) = &mut self.refcounts {
                refcounts.zeros_within(run.clone(), &mut self.uncounted)?;
            }
        }
        Ok(())
    }
}

impl Visitor for Guest<'_, '_> {
    fn occupies(&mut self, _: Role, offset: u64, len_bytes: u64) -> Result<()> {
        let range = clusters_of(offset, len_bytes, self.cluster_bits);
        match self.runs.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => memory::push(&mut self.runs, range)?,
        }
        if self.runs.len() < BATCH { Ok(()) } else { self.look() }
    }

    /// A change of bitmaps does not judge faults of the guest's tables, but fails where a table cannot be read.
    fn fault(&mut self, fault: Error) -> Result<()> {
        match (fault.kind(), &self.refcounts) {
            _ if fault.is_of_the_call() => Err(fault),
            (ErrorKind::Io, Some(_)) => Err(fault),
            _ => Ok(()),
        }
    }
}
