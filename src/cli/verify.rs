#![forbid(unsafe_code)]
//! Owns `checkmap verify`: the faults of a backup directory, and the moments that they cost.

use crate::args::VerifyArgs;
use crate::exit::{Outcome, Status};
use crate::output::print;
use crate::session::Session;
use crate::words::{amount, count, some_of, spelled};
use checkmap::backup::BackupDirectory;
use checkmap::chain::Name;
use serde_json::{Value, json};

pub(crate) fn run(args: &VerifyArgs, session: &Session) -> Outcome {
    let directory = BackupDirectory::open(&args.directory)?;
    let verified = directory.verify(&mut session.watch())?;
    let shown = |name: &Vec<u8>| Name::new(name.as_slice()).to_string();
    if args.json {
        let text = |name: &Vec<u8>| String::from_utf8_lossy(name).into_owned();
        let findings = verified.findings.iter().map(|finding| {
            json!({
                "disk": text(&finding.disk),
                "checkpoint": text(&finding.checkpoint),
                "message": finding.error.reason().to_string(),
                "lost": finding.lost.iter().map(text).collect::<Vec<_>>(),
            })
        });
        let findings: Vec<Value> = findings.collect();
        let document = json!({ "moments": verified.moments, "data_bytes": verified.data_bytes, "findings": findings });
        print(session, |out| Ok(writeln!(out, "{document:#}")?))?;
    }
    for finding in &verified.findings {
        let lost = some_of(finding.lost.iter().map(shown), ", ");
        session.error(&format!(
            "{}; that costs these moments of the disk {}: {lost}",
            spelled(&finding.error),
            shown(&finding.disk)
        ));
    }
    if !verified.findings.is_empty() {
        return Ok(Status::Fault);
    }
    session.say(&format!("{} are whole, {} of data", count(verified.moments, "moment"), amount(verified.data_bytes)));
    Ok(Status::Done)
}
