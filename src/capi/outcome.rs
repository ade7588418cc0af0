//! Owns the outcome of a backup, a verification or a prune as C programs read it: a row for each disk or finding, and its texts.
//! Must never know how any of them is done.

use super::boundary::{Handle, OutBuffer, count, free, guard, object, shared};
use super::options::invalid;
use crate::backup::{Backup, DiskRecord, Failure, Finding, Pruned, Taken};
use crate::error::{Error, Result};
use crate::memory;
use std::ffi::{c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

/// The backup holds all of the disk, instead of lying on the one before.
pub const CHECKMAP_MOMENT_FULL: u32 = 1;
/// The disk got a checkpoint of that moment, so that the next backup can be an increment.
pub const CHECKMAP_MOMENT_HAS_CHECKPOINT: u32 = 2;
/// The moment is in the directory, complete.
pub const CHECKMAP_MOMENT_COMPLETE: u32 = 4;
/// Not all was done; `checkmap_outcome_error()` tells the cause.
pub const CHECKMAP_MOMENT_FAILED: u32 = 8;

/// A moment of a disk in a backup directory. Frozen.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct checkmap_moment {
    /// The name of the disk in the directory: any bytes, without a NUL behind them.
    pub disk: *const c_char,
    /// The bytes of that name.
    pub disk_len: usize,
    /// The image by which the directory knows the disk, in lists of a directory; else NULL. It can have got overlays since.
    pub image: *const c_char,
    /// The bytes of that path.
    pub image_len: usize,
    /// The checkpoint of the moment, without a NUL behind it; NULL where there is no moment.
    pub checkpoint: *const c_char,
    /// The bytes of that name.
    pub checkpoint_len: usize,
    /// Why the backup is full, in UTF-8 without a NUL behind it; NULL where it is the first one, was folded, or is not full.
    pub reason: *const c_char,
    /// The bytes of that text.
    pub reason_len: usize,
    /// The size of the disk at the moment, in bytes.
    pub disk_size: u64,
    /// The moment, in seconds since 1970.
    pub time: u64,
    /// How many bytes of data the backup's file holds.
    pub data_bytes: u64,
    /// How many bytes it stores as zeros without data.
    pub zero_bytes: u64,
    /// The bytes of the file.
    pub file_bytes: u64,
    /// `CHECKMAP_MOMENT_...`
    pub flags: u32,
    /// 0.
    pub reserved: u32,
    /// 0.
    pub reserved2: [u64; 4],
}

/// A text, a name or a path. Frozen.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct checkmap_text {
    /// Its bytes, not necessarily UTF-8, without a NUL behind them.
    pub bytes: *const c_char,
    /// How many there are.
    pub len: usize,
}

/// The checkpoints of a row: those dropped from the disk by a backup, the moments that a prune gave up, or the moments that a
/// damaged file costs. Oldest first.
pub const CHECKMAP_TEXTS_CHECKPOINTS: u32 = 1;
/// The warnings of a backup, in UTF-8.
pub const CHECKMAP_TEXTS_WARNINGS: u32 = 2;
/// The files that a backup read, the top one first.
pub const CHECKMAP_TEXTS_FILES: u32 = 3;
/// One text in UTF-8, or none: why the disk was read by a private qemu-nbd.
pub const CHECKMAP_TEXTS_READER: u32 = 4;

/// What came of the disks of a backup or a prune, or what a verification found. It outlives the directory.
#[derive(Debug)]
pub struct checkmap_outcome {
    #[allow(dead_code, reason = "reached through pointers to the whole")]
    handle: Handle<Outcome>,
}

object!(checkmap_outcome = Outcome, b"cmOutcom", "outcome");

/// The object behind a handle.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    rows: Vec<Row>,
}

#[derive(Debug, Default)]
struct Row {
    disk: Vec<u8>,
    checkpoint: Option<Vec<u8>>,
    backup: Option<Backup>,
    is_complete: bool,
    error: Option<Error>,
    checkpoints: Vec<Vec<u8>>,
    warnings: Vec<Vec<u8>>,
    files: Vec<Vec<u8>>,
    reader: Vec<Vec<u8>>,
}

impl Row {
    fn of(taken: &Taken) -> Result<Self> {
        Ok(Self {
            disk: taken.name.clone(),
            checkpoint: taken.backup.as_ref().map(|backup| backup.checkpoint.clone()),
            backup: taken.backup.clone(),
            is_complete: false,
            error: None,
            checkpoints: taken.dropped.clone(),
            warnings: memory::gather(taken.warnings.iter().map(|warning| warning.clone().into_bytes()))?,
            files: memory::gather(taken.files.iter().map(|file| file.path.as_os_str().as_bytes().to_vec()))?,
            reader: memory::gather(taken.through_qemu.iter().map(|text| text.clone().into_bytes()))?,
        })
    }

    fn moment(&self) -> checkmap_moment {
        let mut moment = match &self.backup {
            Some(backup) => moment_of(backup),
            None => NOTHING,
        };
        (moment.disk, moment.disk_len) = lent(Some(&self.disk));
        (moment.checkpoint, moment.checkpoint_len) = lent(self.checkpoint.as_deref());
        moment.flags |= if self.is_complete { CHECKMAP_MOMENT_COMPLETE } else { 0 };
        moment.flags |= if self.error.is_some() { CHECKMAP_MOMENT_FAILED } else { 0 };
        moment
    }
}

impl Outcome {
    /// That of a backup.
    pub(super) fn of_backup(all: &[(Taken, std::result::Result<(), Failure>)]) -> Result<Self> {
        let mut rows = memory::room(all.len())?;
        for (taken, done) in all {
            let mut row = Row::of(taken)?;
            row.is_complete = done.as_ref().map_or_else(|failure| failure.is_backed_up, |()| true);
            row.error = done.as_ref().err().map(|failure| failure.error.clone());
            rows.push(row);
        }
        Ok(Self { rows })
    }

    /// That of a preview.
    pub(super) fn of_preview(all: &[Taken]) -> Result<Self> {
        let mut rows = memory::room(all.len())?;
        for taken in all {
            rows.push(Row::of(taken)?);
        }
        Ok(Self { rows })
    }

    /// That of a verification.
    pub(super) fn of_verification(findings: &[Finding]) -> Result<Self> {
        let rows = memory::gather(findings.iter().map(|finding| Row {
            disk: finding.disk.clone(),
            checkpoint: Some(finding.checkpoint.clone()),
            error: Some(finding.error.clone()),
            checkpoints: finding.lost.clone(),
            ..Row::default()
        }))?;
        Ok(Self { rows })
    }

    /// That of a prune.
    pub(super) fn of_prune(all: &[Pruned]) -> Result<Self> {
        let rows = memory::gather(all.iter().map(|pruned| Row {
            disk: pruned.disk.clone(),
            error: pruned.error.clone(),
            checkpoints: pruned.dropped.clone(),
            ..Row::default()
        }))?;
        Ok(Self { rows })
    }

    /// How many rows are not done, as C calls return it.
    pub(super) fn failed(&self) -> i64 {
        count(self.rows.iter().filter(|row| row.error.is_some()).count())
    }

    fn row(&self, row: usize) -> Result<&Row> {
        self.rows.get(row).ok_or_else(|| invalid(format!("there is no row {row} among {}", self.rows.len())))
    }
}

/// Bytes as C gets them.
pub(super) fn lent(bytes: Option<&[u8]>) -> (*const c_char, usize) {
    bytes.map_or((ptr::null(), 0), lent_bytes)
}

/// The same, as a text.
pub(super) fn lent_text(bytes: Option<&[u8]>) -> checkmap_text {
    let (bytes, len) = lent(bytes);
    checkmap_text { bytes, len }
}

/// A function of its own, as compiled code else looks at the length before it knows that there are bytes; it takes no harm, but
/// valgrind warns of it.
#[inline(never)]
fn lent_bytes(bytes: &[u8]) -> (*const c_char, usize) {
    if bytes.is_empty() { (ptr::null(), 0) } else { (bytes.as_ptr().cast(), bytes.len()) }
}

const NOTHING: checkmap_moment = checkmap_moment {
    disk: ptr::null(),
    disk_len: 0,
    image: ptr::null(),
    image_len: 0,
    checkpoint: ptr::null(),
    checkpoint_len: 0,
    reason: ptr::null(),
    reason_len: 0,
    disk_size: 0,
    time: 0,
    data_bytes: 0,
    zero_bytes: 0,
    file_bytes: 0,
    flags: 0,
    reserved: 0,
    reserved2: [0; 4],
};

fn moment_of(backup: &Backup) -> checkmap_moment {
    let flag = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
    let (checkpoint, checkpoint_len) = lent(Some(&backup.checkpoint));
    let (reason, reason_len) = lent(backup.reason.as_deref().map(str::as_bytes));
    checkmap_moment {
        checkpoint,
        checkpoint_len,
        reason,
        reason_len,
        disk_size: backup.size_bytes,
        time: backup.time,
        data_bytes: backup.data_bytes,
        zero_bytes: backup.zero_bytes,
        file_bytes: backup.file_bytes,
        flags: flag(backup.is_full, CHECKMAP_MOMENT_FULL) | flag(backup.has_checkpoint, CHECKMAP_MOMENT_HAS_CHECKPOINT),
        ..NOTHING
    }
}

/// A kept moment of a disk of a directory.
pub(super) fn kept(record: &DiskRecord, backup: &Backup) -> checkmap_moment {
    let mut moment = moment_of(backup);
    (moment.disk, moment.disk_len) = lent(Some(&record.name));
    (moment.image, moment.image_len) = lent(Some(&record.image));
    moment.flags |= CHECKMAP_MOMENT_COMPLETE;
    moment
}

/// Frees an outcome.
///
/// NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_outcome_free(outcome: *mut checkmap_outcome) {
    // SAFETY: the caller's promise for `outcome`, which it gives up.
    unsafe { free(outcome) }
}

/// Fills `out` with the rows of an outcome, `max` at most; with `out` NULL it only counts.
///
/// A backup, a preview and a prune have a row for each disk, a verification one for each file that is damaged or missing.
///
/// Returns: how many rows there are in all; or a negative errno.
///
/// Ownership: the texts live as long as the outcome.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_outcome_rows(
    outcome: *const checkmap_outcome,
    out: *mut checkmap_moment,
    max: usize,
) -> i64 {
    guard(|| {
        // SAFETY: the caller's promise for `outcome`.
        let outcome = unsafe { shared(outcome) }?;
        if out.is_null() {
            return Ok(count(outcome.rows.len()));
        }
        // SAFETY: the caller's promise for `out`, which has room for `max` rows.
        let mut room = unsafe { OutBuffer::new(out, max, "the array of rows") }?;
        room.fill(outcome.rows.iter().map(Row::moment));
        Ok(count(outcome.rows.len()))
    })
}

/// Fills `out` with the texts of one kind that a row has, `max` at most; with `out` NULL it only counts.
///
/// `row` counts from 0, `kind` is one of `CHECKMAP_TEXTS_...`
///
/// Returns: how many texts there are in all; or a negative errno.
///
/// Ownership: the texts live as long as the outcome.
///
/// Errors:
/// - `-EINVAL`: no such row, or an unknown kind.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_outcome_texts(
    outcome: *const checkmap_outcome,
    row: usize,
    kind: u32,
    out: *mut checkmap_text,
    max: usize,
) -> i64 {
    guard(|| {
        // SAFETY: the caller's promise for `outcome`.
        let outcome = unsafe { shared(outcome) }?;
        let row = outcome.row(row)?;
        let texts = match kind {
            CHECKMAP_TEXTS_CHECKPOINTS => &row.checkpoints,
            CHECKMAP_TEXTS_WARNINGS => &row.warnings,
            CHECKMAP_TEXTS_FILES => &row.files,
            CHECKMAP_TEXTS_READER => &row.reader,
            unknown => return Err(invalid(format!("there is no kind {unknown} of texts"))),
        };
        if out.is_null() {
            return Ok(count(texts.len()));
        }
        // SAFETY: the caller's promise for `out`, which has room for `max` texts.
        let mut room = unsafe { OutBuffer::new(out, max, "the array of texts") }?;
        room.fill(texts.iter().map(|text| lent_text(Some(text))));
        Ok(count(texts.len()))
    })
}

/// Fails with the error of a row, as if this call had met it: with its errno, its kind and its message.
///
/// `row` counts from 0.
///
/// Returns: 0 where all of the row was done; or a negative errno.
///
/// Errors:
/// - `-EINVAL`: no such row.
/// - the errno of the row's error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_outcome_error(outcome: *const checkmap_outcome, row: usize) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `outcome`.
        let outcome = unsafe { shared(outcome) }?;
        outcome.row(row)?.error.clone().map_or(Ok(0), Err)
    })
}
