#![forbid(unsafe_code)]
//! Owns the verification of a whole qcow2 image: every structure, every rule, every reference count.
//! Must never change anything.

use super::refcounts::{Refcounts, largest};
use super::references::References;
use super::table::{self, Payload, Shape};
use super::walk::{Role, Visitor, Walk};
use super::{Qcow2, header};
use crate::error::{Error, ErrorKind, Result};
use crate::host::{CheckReport, Problem, Severity};
use crate::io::bytes::file_len;
use crate::memory;
use crate::progress::{Observer, tell};
use std::collections::BTreeMap;
use std::ops::Range;

/// The report of a check, in the making. Problems are kept up to a limit; the counts are complete.
#[derive(Debug)]
struct Report(CheckReport);

/// A damaged image can have as many problems as clusters.
const MAX_PROBLEMS: usize = 1000;
const PHASE: &str = "checking";

impl Report {
    /// Without findings, and with room for all that are kept.
    fn new() -> Result<Self> {
        Ok(Self(CheckReport { problems: memory::room(MAX_PROBLEMS)?, ..CheckReport::default() }))
    }

    fn is_full(&self) -> bool {
        self.0.problems.len() >= MAX_PROBLEMS
    }

    fn add(&mut self, severity: Severity, structure: &str, offset: Option<u64>, message: String) {
        match severity {
            Severity::Error => self.0.errors += 1,
            Severity::Unusable => self.0.unusable += 1,
            Severity::Leak | Severity::Warning => {}
        }
        if !self.is_full() {
            self.0.problems.push(Problem::new(severity, structure, message).at(offset));
        }
    }

    /// Adds a fault as a finding, unless it is the call's own error.
    fn add_error(&mut self, severity: Severity, error: &Error) -> Result<()> {
        if error.is_of_the_call() {
            return Err(error.clone());
        }
        self.add(severity, error.structure().unwrap_or("qcow2 image"), error.offset(), error.message().to_owned());
        Ok(())
    }
}

pub(super) fn check(image: &Qcow2, observer: &mut dyn Observer) -> Result<CheckReport> {
    let file = image.file();
    let mut report = Report::new()?;
    check_marks(image, &mut report)?;
    let refcounts = match Refcounts::read(file) {
        Ok(refcounts) => refcounts,
        Err(fault) => {
            report.add_error(Severity::Error, &fault)?;
            check_bitmaps(image, &mut report)?;
            return Ok(report.0);
        }
    };
    let file_end = file_len(file.storage)?;
    let (references, l2_tables) = (References::default(), BTreeMap::new());
    let (bitmaps, times) = (Vec::new(), 1);
    let mut count = Count { image, report, references, l2_tables, bitmaps, times, file_end, refcounts, observer };
    let walk = Walk(file);
    walk.disk(&mut count)?;
    count.guest(&walk)?;
    let blocks = memory::gather(count.refcounts.blocks())?;
    for (_, offset) in &blocks {
        count.occupies(Role::RefcountBlock, *offset, image.cluster_bytes())?;
    }
    let usable = image.trouble.as_ref().is_none_or(|trouble| trouble.kind() == ErrorKind::Damaged);
    if usable {
        walk.bitmaps(&mut count)?;
    }
    count.references.settle()?;
    count.overlaps()?;
    count.compare(&blocks)?;
    let mut report = count.report;
    check_bitmaps(image, &mut report)?;
    Ok(report.0)
}

fn check_marks(image: &Qcow2, report: &mut Report) -> Result<()> {
    let header = &image.header;
    let marked = |bit| header.incompatible & bit != 0;
    if marked(header::INCOMPATIBLE_CORRUPT) {
        report.add(Severity::Error, "qcow2 header", Some(72), "the image is marked corrupt".into());
    }
    if marked(header::INCOMPATIBLE_DIRTY) {
        let message = "the image is marked dirty: its refcounts may be out of date until it is repaired";
        report.add(Severity::Warning, "qcow2 header", Some(72), message.into());
    }
    match &image.trouble {
        Some(trouble) if trouble.kind() == ErrorKind::Damaged => report.add_error(Severity::Error, trouble)?,
        Some(trouble) if trouble.kind() == ErrorKind::Stale => report.add_error(Severity::Unusable, trouble)?,
        _ => {}
    }
    if let Some(mark) = header.mark() {
        let message = format!(
            "a change of this image and others in one step was interrupted; {} says which",
            mark.journal.display()
        );
        report.add(Severity::Warning, "qcow2 header", None, message);
    }
    let promised = header.autoclear & header::AUTOCLEAR_BITMAPS != 0;
    if promised && !header.has_bitmaps_extension() {
        let message = "the autoclear bit promises bitmaps, but there is no bitmaps extension";
        report.add(Severity::Warning, "qcow2 header", Some(header::AUTOCLEAR_AT as u64), message.into());
    }
    Ok(())
}

/// The rules that concern the bits themselves.
fn check_bitmaps(image: &Qcow2, report: &mut Report) -> Result<()> {
    for entry in &image.entries {
        let structure = || format!("qcow2 bitmap {}", entry.name);
        if entry.is_inconsistent() {
            let message = "is inconsistent: its writer did not store it, or is still running";
            report.add(Severity::Unusable, &structure(), Some(entry.table_offset), message.into());
            continue;
        }
        if entry.is_unusable() {
            let message = "has extra data or a type that is unknown; it is kept as it is";
            report.add(Severity::Unusable, &structure(), Some(entry.table_offset), message.into());
            continue;
        }
        let shape = Shape::of(&image.header, entry.granularity);
        // A table that cannot be read was reported by the walk.
        let Some(number) = shape.entries().checked_sub(1) else { continue };
        let last = table::read_range(image.file(), entry, number..number + 1);
        let payload = match last {
            Err(error) if error.is_of_the_call() => return Err(error),
            last => last.ok().and_then(|last| last.first().copied()),
        };
        let Some(payload) = payload else { continue };
        if let Payload::At(offset) = payload {
            match shape.read(&*image.storage, &entry.name, number, payload) {
                Ok((_, false)) => {}
                Ok((_, true)) => {
                    let message = "bits past the end of the disk are set; they are ignored";
                    report.add(Severity::Warning, &structure(), Some(offset), message.into());
                }
                Err(fault) => report.add_error(Severity::Error, &fault)?,
            }
        } else if payload == Payload::Ones && !shape.is_whole(number) {
            let message = "the last, partly used cluster is all ones; bits past the end of the disk are ignored";
            report.add(Severity::Warning, &structure(), Some(entry.table_offset), message.into());
        }
    }
    Ok(())
}

/// How an L2 table is referred to.
#[derive(Clone, Copy, Default)]
struct L2Table {
    times: u16,
    /// Whether the active L1 table is among those that do.
    active: bool,
}

struct Count<'a> {
    image: &'a Qcow2,
    report: Report,
    references: References,
    /// The L2 tables by their offset, so that each is read once, however often it is referred to.
    l2_tables: BTreeMap<u64, L2Table>,
    /// The claims of the bitmaps, and their kinds.
    bitmaps: Vec<(Range<u64>, Role)>,
    /// How many references one that is found stands for.
    times: u16,
    file_end: u64,
    refcounts: Refcounts<'a>,
    observer: &'a mut dyn Observer,
}

impl Visitor for Count<'_> {
    fn occupies(&mut self, role: Role, offset: u64, len_bytes: u64) -> Result<()> {
        let cluster_bytes = self.image.cluster_bytes();
        let Some(end) = offset.checked_add(len_bytes).filter(|end| *end < self.file_end.saturating_add(cluster_bytes))
        else {
            let message = format!("{len_bytes} bytes lie past the end of the file at {:#x}", self.file_end);
            self.report.add(Severity::Error, &format!("qcow2 {}", role.name()), Some(offset), message);
            return Ok(());
        };
        let clusters = offset / cluster_bytes..end.div_ceil(cluster_bytes);
        self.references.add(clusters.clone(), self.times)?;
        if role.is_bitmap() {
            memory::push(&mut self.bitmaps, (clusters, role))?;
        }
        if role == Role::L2Table {
            let table = self.l2_tables.entry(offset).or_default();
            table.times = table.times.saturating_add(1);
        }
        Ok(())
    }

    fn fault(&mut self, fault: Error) -> Result<()> {
        self.report.add_error(Severity::Error, &fault)
    }

    fn copied_flag(&mut self, role: Role, entry_at: u64, offset: u64, copied: bool) -> Result<()> {
        if let Some(table) = self.l2_tables.get_mut(&offset).filter(|_| role == Role::L2Table) {
            table.active = true;
        }
        let cluster = offset >> self.image.header.cluster_bits;
        if offset >= self.file_end {
            return Ok(());
        }
        match self.refcounts.get(cluster) {
            Ok(refcount) if (refcount == 1) != copied => {}
            Err(error) if error.is_of_the_call() => return Err(error),
            _ => return Ok(()),
        }
        let message = format!(
            "the entry for the {} at {offset:#x} says {} while the refcount says otherwise",
            role.name(),
            if copied { "it is used once" } else { "it is shared" },
        );
        self.report.add(Severity::Error, "qcow2 copied flag", Some(entry_at), message);
        Ok(())
    }

    fn tick(&mut self, done: u64, total: u64) -> Result<()> {
        tell(self.observer, PHASE, done, total)
    }
}

impl Count<'_> {
    /// Counts the clusters that the L2 tables name, as often as each is referred to.
    fn guest(&mut self, walk: &Walk<'_>) -> Result<()> {
        let tables = std::mem::take(&mut self.l2_tables);
        for (done, (offset, table)) in (0..).zip(&tables) {
            self.tick(done, tables.len() as u64)?;
            self.times = table.times;
            walk.l2_table(*offset, table.active, self)?;
        }
        self.times = 1;
        Ok(())
    }

    /// Reports clusters that bitmaps share with other structures.
    fn overlaps(&mut self) -> Result<()> {
        let bitmaps = std::mem::take(&mut self.bitmaps);
        for (done, (clusters, role)) in (0..).zip(&bitmaps) {
            self.tick(done, bitmaps.len() as u64)?;
            if self.references.any_repeated(clusters.clone()) {
                let (structure, message) = (format!("qcow2 {}", role.name()), "overlaps another structure".to_owned());
                let offset = clusters.start << self.image.header.cluster_bits;
                self.report.add(Severity::Error, &structure, Some(offset), message);
            }
        }
        Ok(())
    }

    /// Compares every refcount of the file with the references found.
    fn compare(&mut self, blocks: &[(u64, u64)]) -> Result<()> {
        let cluster_bits = self.image.header.cluster_bits;
        let largest = largest(self.image.header.refcount_order).min(u64::from(u16::MAX));
        let present = self.file_end.div_ceil(self.image.cluster_bytes());
        // A table of zeros may begin where the file ends.
        let clusters = present + u64::from(self.references.get(present) > 0);
        let per_block = self.refcounts.clusters_per_block();
        for (done, (number, offset)) in (0..).zip(blocks) {
            self.tick(done, blocks.len() as u64)?;
            let first = number * per_block;
            let end = (first + per_block).min(clusters);
            // A sparse file can have any number of blocks that count nothing.
            if first >= end || !self.references.any(first..end) && self.refcounts.is_zero_block(first).unwrap_or(false)
            {
                continue;
            }
            for cluster in first..end {
                let refcount = match self.refcounts.get(cluster) {
                    Ok(refcount) => refcount,
                    Err(fault) => {
                        self.report.add_error(Severity::Error, &fault.at("qcow2 refcount block", *offset))?;
                        break;
                    }
                };
                let references = self.references.get(cluster);
                let same = refcount == references || references >= largest && refcount >= largest;
                if !same {
                    self.mismatch(cluster << cluster_bits, refcount, references);
                }
            }
        }
        let runs = self.references.runs()?;
        for (done, run) in (0..).zip(&runs) {
            self.tick(done, runs.len() as u64)?;
            for missing in self.refcounts.without_block(run.clone())? {
                let clusters = missing.end - missing.start;
                let message = format!("no refcount block counts it, nor {} clusters after it", clusters - 1);
                self.report.add(Severity::Error, "qcow2 cluster", Some(missing.start << cluster_bits), message);
                self.report.0.errors += clusters - 1;
            }
        }
        let singles = self.references.singles()?;
        for (done, cluster) in (0..).zip(&singles) {
            self.tick(done, singles.len() as u64)?;
            if !self.refcounts.has_block(*cluster) {
                self.mismatch(cluster << cluster_bits, 0, self.references.get(*cluster));
            }
        }
        Ok(())
    }

    fn mismatch(&mut self, offset: u64, refcount: u64, references: u64) {
        let message = match self.report.is_full() {
            true => String::new(),
            false => format!("the refcount is {refcount}, the references are {references}"),
        };
        let severity = if refcount > references { Severity::Leak } else { Severity::Error };
        if severity == Severity::Leak {
            self.report.0.leaked_bytes += self.image.cluster_bytes();
        }
        self.report.add(severity, "qcow2 cluster", Some(offset), message);
    }
}
