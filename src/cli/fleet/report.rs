#![forbid(unsafe_code)]
//! Owns how the outcome of a fleet is told: the answers as disks end, then the table; or one JSON document that grows with each
//! disk, so that memory does not. Must never know how a disk is run.

use crate::exit::Failure;
use crate::table::{Column, Rows};
use crate::words::{count, one_line};
use serde_json::{Value, json};
use std::io::{self, ErrorKind, Write};

const COLUMNS: [Column; 5] = [
    Column::Names("DISK"),
    Column::Words("OUTCOME"),
    Column::Numbers("STATUS"),
    Column::SpareNumbers("SECONDS"),
    Column::Names("MESSAGE"),
];

/// What became of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Done,
    Failed,
    /// It belongs to another host.
    LeftOut,
    NotBegun,
    /// By an earlier run with the same state.
    DoneBefore,
}

impl Status {
    const ALL: [Status; 5] = [Status::Done, Status::DoneBefore, Status::Failed, Status::NotBegun, Status::LeftOut];

    pub(super) fn name(self) -> &'static str {
        match self {
            Status::Done => "done",
            Status::Failed => "failed",
            Status::LeftOut => "left-out",
            Status::NotBegun => "not-begun",
            Status::DoneBefore => "done-before",
        }
    }

    /// Whether the table shows it, also where it is not wide.
    fn is_trouble(self) -> bool {
        matches!(self, Status::Failed | Status::NotBegun)
    }
}

/// The outcome of one disk.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) status: Status,
    pub(super) exit_status: Option<i32>,
    pub(super) message: Option<String>,
    pub(super) seconds: Option<f64>,
}

impl Outcome {
    /// Of a disk that was not run.
    pub(super) fn without_a_run(status: Status, message: Option<String>) -> Self {
        Self { status, exit_status: None, message, seconds: None }
    }
}

/// How the answer of a disk is printed.
pub(super) enum Answer<'a> {
    Nothing,
    Json(Value),
    Text(&'a [u8]),
}

/// The outcomes as they come in.
pub(super) struct Report {
    json: bool,
    wide: bool,
    table: Rows<'static>,
    counts: [u64; Status::ALL.len()],
    is_first: bool,
    out: io::Stdout,
    /// Why nothing can be printed any more.
    broken: Option<io::Error>,
}

impl Report {
    pub(super) fn begin(json: bool, wide: bool) -> Self {
        let (table, counts) = (Rows::new(&COLUMNS), Default::default());
        let mut report = Self { json, wide, table, counts, is_first: true, out: io::stdout(), broken: None };
        if json {
            report.print(b"{\"disks\": [");
        }
        report
    }

    /// Whether nobody reads any more: the reader of stdout has closed it, or it cannot be written.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    pub(super) fn count(&self, status: Status) -> u64 {
        let at = Status::ALL.iter().position(|other| *other == status);
        at.and_then(|at| self.counts.get(at)).copied().unwrap_or_default()
    }

    pub(super) fn add(&mut self, disk: &str, outcome: &Outcome, answer: Answer<'_>) {
        if let Some(count) =
            Status::ALL.iter().position(|status| *status == outcome.status).and_then(|at| self.counts.get_mut(at))
        {
            *count += 1;
        }
        let Outcome { status, exit_status, message, seconds } = outcome;
        if self.json {
            let (result, output) = match answer {
                Answer::Nothing => (Value::Null, None),
                Answer::Json(value) => (value, None),
                // Of a verb that has no JSON, such as the steps of a dry run.
                Answer::Text(text) => (Value::Null, Some(String::from_utf8_lossy(text))),
            };
            let mut row = serde_json::Map::new();
            row.insert("disk".to_owned(), disk.into());
            row.insert("status".to_owned(), status.name().into());
            row.insert("exit_status".to_owned(), json!(exit_status));
            row.insert("message".to_owned(), json!(message));
            row.insert("seconds".to_owned(), json!(seconds));
            row.insert("result".to_owned(), result);
            row.extend(output.map(|output| ("output".to_owned(), output.into())));
            let row = Value::Object(row);
            let comma = if std::mem::take(&mut self.is_first) { "" } else { "," };
            self.print(format!("{comma}\n{row}").as_bytes());
            return;
        }
        if let Answer::Text(text) = answer {
            let end: &[u8] = if text.ends_with(b"\n") { b"\n" } else { b"\n\n" };
            self.print(&[one_line(disk).as_bytes(), b":\n", text, end].concat());
        }
        if self.wide || status.is_trouble() {
            self.table.add([
                one_line(disk),
                status.name().to_owned(),
                exit_status.map_or_else(String::new, |status| status.to_string()),
                seconds.map_or_else(String::new, |seconds| format!("{seconds:.1}")),
                one_line(message.as_deref().unwrap_or_default()),
            ]);
        }
    }

    /// Ends it with the sums. A reader that has closed the pipe is no failure.
    pub(super) fn end(mut self, seconds: f64) -> Result<(), Failure> {
        let total: u64 = self.counts.iter().sum();
        if self.json {
            let mut sums = serde_json::Map::new();
            for status in Status::ALL {
                sums.insert(status.name().replace('-', "_"), self.count(status).into());
            }
            sums.insert("seconds".to_owned(), json!(seconds));
            // The members go on in the object that was begun.
            let sums = Value::Object(sums).to_string();
            self.print(format!("\n], {}\n", sums.trim_start_matches('{')).as_bytes());
        } else {
            let parts =
                Status::ALL.iter().map(|status| (status, self.count(*status))).filter(|(_, number)| *number > 0);
            let parts: Vec<String> = parts.map(|(status, number)| format!("{number} {}", in_words(*status))).collect();
            let parts = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
            let mut text = Vec::new();
            if total > 0 && (self.wide || self.count(Status::Failed) + self.count(Status::NotBegun) > 0) {
                self.table.write(self.wide, &mut text)?;
            }
            writeln!(text, "{}{parts}; {seconds:.1} s", count(total, "disk"))?;
            self.print(&text);
        }
        match self.broken {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(Failure::Output("cannot write to stdout".to_owned(), error))
            }
            _ => Ok(()),
        }
    }

    fn print(&mut self, bytes: &[u8]) {
        if self.broken.is_none() {
            self.broken = self.out.write_all(bytes).and_then(|()| self.out.flush()).err();
        }
    }
}

fn in_words(status: Status) -> &'static str {
    match status {
        Status::Done => "done",
        Status::DoneBefore => "done before",
        Status::Failed => "failed",
        Status::NotBegun => "not begun",
        Status::LeftOut => "of other hosts left out",
    }
}
