#![forbid(unsafe_code)]
//! Owns `checkmap check`: the report of the faults of an image.

use crate::args::CheckArgs;
use crate::exit::{Failure, Outcome, Status};
use crate::output::print;
use crate::session::Session;
use crate::words::{amount, count, one_line};
use checkmap::ErrorKind;
use checkmap::image::{Access, Severity, format_of};
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
    let report = match inspect(args, session) {
        // A header that cannot be read is a finding like any other.
        Err(Failure::Library(error)) if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Unsupported) => {
            let format = format_of(&args.image)?;
            Report {
                image: args.image.to_string_lossy().into_owned(),
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
    Ok(if report.errors + report.unusable > 0 { Status::Fault } else { Status::Done })
}

fn inspect(args: &CheckArgs, session: &Session) -> Result<Report, Failure> {
    let image = session.open(&args.image, Access::Read)?;
    let found = image.check(&mut session.watch())?;
    let problems = found.problems.into_iter().map(|problem| ProblemRow {
        severity: problem.severity.as_str(),
        structure: problem.structure,
        offset: problem.offset,
        message: problem.message,
    });
    Ok(Report {
        image: args.image.to_string_lossy().into_owned(),
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
