//! Owns the report of a check, of an image or a segment, as C programs read it. Must never know how anything is checked.

use super::boundary::{Handle, OutBuffer, count, free, guard, object, shared, signed};
use super::image::text;
use super::values::{
    CHECKMAP_SEVERITY_ERROR, CHECKMAP_SEVERITY_LEAK, CHECKMAP_SEVERITY_UNUSABLE, CHECKMAP_SEVERITY_WARNING,
    checkmap_problem,
};
use crate::error::Result;
use crate::image::{CheckReport, Severity};
use crate::memory;
use crate::segment;
use std::ffi::CString;

/// The findings of a check. A report outlives the thing that was checked.
#[derive(Debug)]
pub struct checkmap_report {
    #[allow(dead_code, reason = "reached through pointers to the whole")]
    handle: Handle<Report>,
}

object!(checkmap_report = Report, b"cmReport", "report");

/// The object behind a handle.
#[derive(Debug)]
pub(super) struct Report {
    errors: u64,
    unusable: u64,
    leaked_bytes: u64,
    problems: Vec<ProblemText>,
}

#[derive(Debug)]
struct ProblemText {
    structure: CString,
    message: CString,
    offset: Option<u64>,
    severity: u32,
}

pub(super) fn report_of(found: CheckReport) -> Result<Report> {
    let severity = |severity| match severity {
        Severity::Error => CHECKMAP_SEVERITY_ERROR,
        Severity::Unusable => CHECKMAP_SEVERITY_UNUSABLE,
        Severity::Leak => CHECKMAP_SEVERITY_LEAK,
        Severity::Warning => CHECKMAP_SEVERITY_WARNING,
    };
    let problems = found.problems.iter().map(|problem| ProblemText {
        structure: text(&problem.structure),
        message: text(&problem.message),
        offset: problem.offset,
        severity: severity(problem.severity),
    });
    Ok(Report {
        errors: found.errors,
        unusable: found.unusable,
        leaked_bytes: found.leaked_bytes,
        problems: memory::gather(problems)?,
    })
}

pub(super) fn report_of_segment(problems: &[segment::Fault]) -> Result<Report> {
    let as_ours = |problem: &segment::Fault| ProblemText {
        structure: text(&problem.structure),
        message: text(&problem.message),
        offset: Some(problem.offset),
        severity: CHECKMAP_SEVERITY_ERROR,
    };
    Ok(Report {
        errors: problems.len() as u64,
        unusable: 0,
        leaked_bytes: 0,
        problems: memory::gather(problems.iter().map(as_ours))?,
    })
}

/// Frees a report.
///
/// NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_report_free(report: *mut checkmap_report) {
    // SAFETY: the caller's promise for `report`, which it gives up.
    unsafe { free(report) }
}

/// How many rules are broken.
///
/// Returns: a number of findings; or a negative errno.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_report_errors(report: *const checkmap_report) -> i64 {
    // SAFETY: the caller's promise for `report`.
    guard(|| Ok(signed(unsafe { shared(report) }?.errors)))
}

/// How many bitmaps, or all of them together, cannot be used for a backup.
///
/// Returns: a number of findings; or a negative errno.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_report_unusable(report: *const checkmap_report) -> i64 {
    // SAFETY: the caller's promise for `report`.
    guard(|| Ok(signed(unsafe { shared(report) }?.unusable)))
}

/// How many bytes are counted as used that nothing uses.
///
/// Returns: a number of bytes; or a negative errno.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_report_leaked_bytes(report: *const checkmap_report) -> i64 {
    // SAFETY: the caller's promise for `report`.
    guard(|| Ok(signed(unsafe { shared(report) }?.leaked_bytes)))
}

/// Fills `out` with the findings from number `first` on; with `out` NULL it only tells how many are kept.
///
/// The first thousand are kept, while the counts of the other calls are complete.
///
/// Returns: how many findings were written; fewer than `max` is all; with `out` NULL how many there are in all; or a
/// negative errno.
///
/// Ownership: the texts live as long as the report.
///
/// Errors:
/// - `-EINVAL`: a `max` of 0, or an `out` that is misaligned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_report_problems(
    report: *const checkmap_report,
    first: usize,
    out: *mut checkmap_problem,
    max: usize,
) -> i64 {
    guard(|| {
        // SAFETY: the caller's promise for `report`.
        let report = unsafe { shared(report) }?;
        if out.is_null() {
            return Ok(count(report.problems.len()));
        }
        // SAFETY: the caller's promise for `out`, which has room for `max` findings.
        let mut room = unsafe { OutBuffer::new(out, max, "the array of problems") }?;
        for problem in report.problems.iter().skip(first).take(max) {
            room.push(checkmap_problem {
                structure: problem.structure.as_ptr(),
                message: problem.message.as_ptr(),
                offset: problem.offset.map_or(-1, signed),
                severity: problem.severity,
                reserved: 0,
            });
        }
        Ok(room.count())
    })
}
