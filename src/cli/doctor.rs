#![forbid(unsafe_code)]
//! Owns `checkmap doctor`: where bitmaps, chains and libvirt's notes disagree, and the steps that mend it. Must never know why a step helps.

use crate::args::DoctorArgs;
use crate::change::{say_if_too_late, warn_all};
use crate::exit::{Failure, Outcome, Status};
use crate::output::print;
use crate::recover;
use crate::session::Session;
use crate::words::{amount, hex, one_line, text};
use checkmap::chain::Plan;
use checkmap::doctor::{Diagnosis, Finding, FindingKind, Options, Seen, Visit};
use checkmap::image::{Access, Excess};
use checkmap::libvirt::Change;
use checkmap::{Error, ErrorKind};
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Serialize)]
struct Report<'a> {
    findings: Vec<Row<'a>>,
    notes: &'a [String],
    steps: &'a [String],
    /// Whether the steps were carried out.
    done: bool,
}

#[derive(Serialize)]
struct Row<'a> {
    kind: &'static str,
    disk: &'a str,
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_hex: Option<String>,
    message: &'a str,
    cost: &'a str,
    mend: Option<&'a str>,
}

impl<'a> Row<'a> {
    fn of(found: &'a Finding) -> Self {
        Self {
            kind: found.kind.as_str(),
            disk: &found.disk,
            name: found.name.as_ref().map(text),
            name_hex: found.name.as_ref().and_then(hex),
            message: &found.message,
            cost: &found.cost,
            mend: found.mend.as_deref(),
        }
    }
}

pub(crate) fn run(args: &DoctorArgs, session: &Session) -> Outcome {
    let changes = (args.repair || args.to_interval) && !args.dry_run.dry_run;
    let access = if changes { Access::Write } else { Access::Read };
    let mut disks = session.open_disks(args.target.only()?, access).map_err(Failure::nothing_changed)?;
    if changes && disks.machine.is_none() {
        disks.disks.iter_mut().try_for_each(|disk| recover::mend(session, &mut disk.image))?;
    }
    for left_out in disks.leave_out_unfit() {
        session.warn(&format!("the disk {} keeps no bitmaps, and is left out", left_out.title()));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let options = Options::new(now).model(args.model.wanted());
    let seen = disks.disks.iter_mut().map(|disk| match &disk.of_machine {
        Some(own) => Seen::of_machine(own, &mut disk.image),
        None => Seen::image(&mut disk.image, args.disk_target.clone()),
    });
    let folder = args.metadata.libvirt_xml.as_deref();
    let visit = Visit::begin(seen.collect(), disks.machine.as_ref(), folder, options, &mut session.watch());
    let visit = visit.map_err(|error| match error.kind() {
        ErrorKind::NotFound => error.advise("say its name in the domain with --disk-target, such as vda"),
        _ => error,
    });
    let visit = visit.map_err(|error| Failure::from(error).nothing_changed())?;
    let run = Run { session, args };
    if args.to_interval { run.convert(visit) } else { run.diagnose(visit) }
}

struct Run<'a> {
    session: &'a Session,
    args: &'a DoctorArgs,
}

impl Run<'_> {
    fn diagnose(&self, mut visit: Visit<'_>) -> Outcome {
        let unchanged = |error: Error| Failure::from(error).nothing_changed();
        let found = visit.diagnose(&mut self.session.watch()).map_err(unchanged)?;
        let status = if found.findings.is_empty() { Status::Done } else { Status::Fault };
        let steps = visit.steps(found.actions.iter().map(Vec::as_slice), &found.changes)?;
        if !self.args.repair {
            self.report(&found, &steps, false)?;
            return Ok(status);
        }
        let plans = visit.plan_repair(&found).map_err(unchanged)?;
        if !self.carry_out(&mut visit, &plans, &found.changes)? {
            self.report(&found, &steps, false)?;
            return Ok(status);
        }
        self.report(&found, &steps, true)?;
        if found.findings.is_empty() {
            return Ok(Status::Done);
        }
        // Also what only a mend could bring to light.
        let left = visit.diagnose_again(&mut self.session.watch())?;
        for found in &left.findings {
            self.session.warn(&format!("left: {}", line(found)));
        }
        Ok(if left.findings.is_empty() { Status::Done } else { Status::Fault })
    }

    fn convert(&self, mut visit: Visit<'_>) -> Outcome {
        let unchanged = |error: Error| Failure::from(error).nothing_changed();
        let found = visit.plan_conversion(&mut self.session.watch()).map_err(unchanged)?;
        let steps = visit.steps(found.plans.iter().map(Plan::actions), &found.changes)?;
        let done = self.carry_out(&mut visit, &found.plans, &found.changes)?;
        let mut said = Diagnosis::default();
        for (disk, Excess { since, until, bytes, excess_bytes, .. }) in &found.excess {
            said.notes.push(format!(
                "{disk}: the diff from {since} until {until} has {} of changes, of which up to {} came only after {until}",
                amount(*bytes),
                amount(*excess_bytes)
            ));
        }
        self.report(&said, &steps, done)?;
        Ok(Status::Done)
    }

    /// Carries out the steps, or rehearses them: then it is false.
    fn carry_out(&self, visit: &mut Visit<'_>, plans: &[Plan], changes: &[Change]) -> Result<bool, Failure> {
        if self.args.dry_run.dry_run {
            warn_all(self.session, &visit.rehearse(plans, &mut self.session.watch())?);
            return Ok(false);
        }
        warn_all(self.session, plans.iter().flat_map(Plan::risks));
        if !plans.iter().all(Plan::is_empty) || !changes.is_empty() {
            self.session.interrupt().hold();
        }
        warn_all(self.session, &visit.carry_out(plans, changes, &mut self.session.watch())?);
        say_if_too_late(self.session);
        Ok(true)
    }

    fn report(&self, found: &Diagnosis, steps: &[String], done: bool) -> Result<(), Failure> {
        let dry_run = self.args.dry_run.dry_run;
        print(self.session, |out| {
            if self.args.json {
                let findings = found.findings.iter().map(Row::of).collect();
                let report = Report { findings, notes: &found.notes, steps, done };
                serde_json::to_writer_pretty(&mut *out, &report).map_err(std::io::Error::from)?;
                return Ok(writeln!(out)?);
            }
            if !dry_run {
                for found in &found.findings {
                    writeln!(out, "{}", one_line(&line(found)))?;
                }
                if found.findings.is_empty() && !self.args.to_interval {
                    writeln!(out, "nothing wrong")?;
                }
            }
            if dry_run || done {
                for step in steps {
                    writeln!(out, "{}", one_line(step))?;
                }
                if steps.is_empty() {
                    writeln!(out, "nothing to do")?;
                }
            }
            Ok(())
        })?;
        if !self.args.json {
            found.notes.iter().for_each(|note| self.session.say(note));
        }
        Ok(())
    }
}

fn line(found: &Finding) -> String {
    let disk = if found.disk.is_empty() { String::new() } else { format!("{}: ", found.disk) };
    let mend = match (&found.mend, found.kind) {
        (Some(mend), _) => format!("the mend: {mend}"),
        (None, FindingKind::Leftover) => "the mend: `checkmap recover`".to_owned(),
        (None, FindingKind::LayerUnread) => "the mend: make them readable".to_owned(),
        (None, FindingKind::Gap | FindingKind::ShiftedDisk) => "no mend is certain".to_owned(),
        (None, _) => "no mend is certain: drop what nobody needs".to_owned(),
    };
    format!("{disk}{}; {}; {mend}", found.message, found.cost)
}
