#![forbid(unsafe_code)]
//! Owns `checkmap check`: the report of the faults of an image.

use crate::args::CheckArgs;
use crate::exit::{Failure, Outcome, Status};
use crate::info::{OfDisk, write_json};
use crate::output::print;
use crate::session::Session;
use crate::target::Target;
use crate::words::{amount, count, one_line};
use checkmap::image::{Access, Severity, format_of};
use checkmap::{ErrorKind, Image};
use serde::Serialize;

/// The report, as the contract spells it.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) image: String,
    pub(crate) format: &'static str,
    pub(crate) errors: u64,
    pub(crate) unusable: u64,
    pub(crate) leaked_bytes: u64,
    pub(crate) problems: Vec<ProblemRow>,
}

#[derive(Serialize)]
pub(crate) struct ProblemRow {
    pub(crate) severity: &'static str,
    pub(crate) structure: String,
    pub(crate) offset: Option<u64>,
    pub(crate) message: String,
}

pub(crate) fn run(args: &CheckArgs, session: &Session) -> Outcome {
    let target = args.target.only()?;
    let path = match target {
        Target::Image(path) => path,
        Target::Machine(_) => return check_machine(args, target, session),
    };
    let inspected = session.open(path, Access::Read).and_then(|image| inspect(&image, session));
    let report = match inspected {
        // A header that cannot be read is a finding like any other.
        Err(Failure::Library(error)) if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Unsupported) => {
            let format = format_of(path)?;
            Report {
                image: path.to_string_lossy().into_owned(),
                format,
                errors: 1,
                unusable: 0,
                leaked_bytes: 0,
                problems: vec![ProblemRow {
                    severity: Severity::Error.as_str(),
                    structure: error.structure().map_or_else(|| format!("{format} image"), str::to_owned),
                    offset: error.offset(),
                    message: error.message().to_owned(),
                }],
            }
        }
        inspected => inspected?,
    };
    show(&report, args.json, session)
}

/// Checks the disks of a running hypervisor.
fn check_machine(args: &CheckArgs, target: Target<'_>, session: &Session) -> Outcome {
    let disks = session.open_disks(target, Access::Read)?;
    let mut reports = Vec::new();
    for disk in &disks.disks {
        reports.push(OfDisk { node: disk.node(), answer: inspect(&disk.image, session)? });
    }
    if args.json {
        let status = reports.iter().map(|report| status_of_report(&report.answer)).fold(Status::Done, Status::worse);
        print(session, |out| Ok(write_json(reports, disks.is_single, out)?))?;
        return Ok(status);
    }
    let mut status = Status::Done;
    for report in &reports {
        status = status.worse(show(&report.answer, false, session)?);
    }
    Ok(status)
}

/// Prints a report, and turns it into the exit status.
pub(crate) fn show(report: &Report, json: bool, session: &Session) -> Outcome {
    print(session, |out| {
        if json {
            serde_json::to_writer_pretty(&mut *out, report).map_err(std::io::Error::from)?;
            return Ok(writeln!(out)?);
        }
        for ProblemRow { severity, structure, offset, message } in &report.problems {
            let place = offset.map_or_else(String::new, |offset| format!(", offset {offset:#x}"));
            writeln!(out, "{severity}: {}", one_line(&format!("{structure}{place}: {message}")))?;
        }
        Ok(writeln!(out, "{}", summary(report))?)
    })?;
    Ok(status_of_report(report))
}

fn status_of_report(report: &Report) -> Status {
    if report.errors + report.unusable > 0 { Status::Fault } else { Status::Done }
}

fn inspect(image: &Image, session: &Session) -> Result<Report, Failure> {
    let found = image.check(&mut session.watch())?;
    let problems = found.problems.into_iter().map(|problem| ProblemRow {
        severity: problem.severity.as_str(),
        structure: problem.structure,
        offset: problem.offset,
        message: problem.message,
    });
    Ok(Report {
        image: image.path().to_string_lossy().into_owned(),
        format: image.format(),
        errors: found.errors,
        unusable: found.unusable,
        leaked_bytes: found.leaked_bytes,
        problems: problems.collect(),
    })
}

fn summary(report: &Report) -> String {
    let mut parts = Vec::new();
    if report.errors > 0 {
        parts.push(count(report.errors, "error"));
    }
    if report.unusable > 0 {
        parts.push(format!("{} unusable", report.unusable));
    }
    if report.leaked_bytes > 0 {
        parts.push(format!("{} leaked, which is harmless", amount(report.leaked_bytes)));
    }
    if parts.is_empty() {
        parts.push("no errors".to_owned());
    }
    format!("{}: {}", one_line(&report.image), parts.join(", "))
}
