#![forbid(unsafe_code)]
//! Owns `checkmap doctor`: where bitmaps, chains and libvirt's notes disagree, and the steps that mend it. Must never know why a step helps.

use crate::args::DoctorArgs;
use crate::change::{say_if_too_late, warn_all};
use crate::disks::{Disk, Disks};
use crate::exit::{Failure, Outcome, Status};
use crate::output::print;
use crate::session::Session;
use crate::words::{amount, hex, one_line, text};
use checkmap::chain::Plan;
use checkmap::doctor::{Case, Diagnosis, Finding, Options, Patient, diagnose, notes_after_conversion, plan_repair};
use checkmap::image::{Access, Excess, Group};
use checkmap::libvirt::{Change, Metadata};
use checkmap::{Error, ErrorKind, Image};
use serde::Serialize;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Serialize)]
struct Report<'a> {
    findings: Vec<Row<'a>>,
    notes: &'a [String],
    steps: Vec<String>,
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

/// The disks of a run, and what libvirt notes of them.
struct Visit<'a> {
    session: &'a Session,
    args: &'a DoctorArgs,
    disks: Disks,
    metadata: Option<Metadata>,
    /// The target of each disk.
    targets: Vec<Option<String>>,
}

pub(crate) fn run(args: &DoctorArgs, session: &Session) -> Outcome {
    let changes = (args.repair || args.to_interval) && !args.dry_run.dry_run;
    let access = if changes { Access::Write } else { Access::Read };
    let mut disks = session.open_disks(args.target.only()?, access).map_err(Failure::nothing_changed)?;
    for left_out in disks.leave_out_unfit() {
        session.warn(&format!("the disk {} keeps no bitmaps, and is left out", left_out.title()));
    }
    let metadata = session.metadata(&args.metadata, disks.machine.as_ref(), true).map_err(Failure::nothing_changed)?;
    if let (Some(metadata), true) = (&metadata, args.metadata.libvirt_xml.is_some()) {
        for disk in &mut disks.disks {
            disk.image.note_libvirt(metadata.checkpoints().iter().map(|own| own.name().clone()));
        }
    }
    let mut visit = Visit { session, args, disks, metadata, targets: Vec::new() };
    visit.targets = visit.find_targets().map_err(|error| Failure::from(error).nothing_changed())?;
    if args.to_interval { visit.convert() } else { visit.diagnose() }
}

impl Visit<'_> {
    fn find_targets(&self) -> checkmap::Result<Vec<Option<String>>> {
        let Some(metadata) = &self.metadata else { return Ok(vec![None; self.disks.disks.len()]) };
        let is_alone = self.disks.disks.len() == 1;
        let find = |Disk { image, of_machine }: &Disk| {
            if let Some(own) = of_machine.as_ref().filter(|_| self.args.metadata.libvirt_xml.is_none()) {
                return Ok(Some(own.title().to_owned()));
            }
            if let Some(target) = self.args.disk_target.as_ref().filter(|_| is_alone) {
                return Ok(Some(target.clone()));
            }
            let file = of_machine.as_ref().map_or(image.path(), |own| Path::new(own.file()));
            let targets = metadata.targets();
            let only = targets.first().copied().filter(|_| is_alone && targets.len() == 1);
            match metadata.target_of(file).or(only) {
                // There is nothing to compare with; a bitmap of libvirt's is found all the same.
                None if targets.is_empty() => Ok(None),
                Some(target) => Ok(Some(target.to_owned())),
                None => {
                    Err(Error::new(ErrorKind::NotFound, "libvirt's notes do not tell which disk of the domain it is")
                        .advise("say its name in the domain with --disk-target, such as vda")
                        .in_file(image.path()))
                }
            }
        };
        self.disks.disks.iter().map(find).collect()
    }

    fn options(&self) -> Options {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Options::new(now).model(self.args.model.wanted())
    }

    fn found(&self) -> Result<Diagnosis, Failure> {
        let options = self.options();
        let mut patients = Vec::new();
        for (Disk { image, of_machine }, target) in self.disks.disks.iter().zip(&self.targets) {
            let (metadata, watch) = (self.metadata.as_ref(), &mut self.session.watch());
            let patient = Patient::examine(image, target.as_deref(), metadata, &options, watch)?;
            let files = match (of_machine, &self.disks.machine) {
                (Some(own), Some(machine)) => {
                    let below = machine.layers_below(own)?;
                    [own].into_iter().chain(&below).map(|layer| layer.file().to_owned()).collect()
                }
                _ => patient.layers.iter().map(|layer| layer.layer.clone()).collect(),
            };
            patients.push(patient.files(files));
        }
        let targets = self.disks.machine.as_ref().and_then(|machine| machine.libvirt_targets());
        let targets = targets.map(|targets| targets.into_iter().collect());
        Ok(diagnose(&Case::new(&patients).metadata(self.metadata.as_ref()).targets(targets), &options)?)
    }

    fn diagnose(mut self) -> Outcome {
        let found = self.found().map_err(Failure::nothing_changed)?;
        let steps = self.steps(
            &found.actions.iter().map(|own| own.iter().map(ToString::to_string)).collect::<Vec<_>>(),
            &found.changes,
        );
        if !self.args.repair {
            self.report(&found, &steps, false)?;
            return Ok(if found.findings.is_empty() { Status::Done } else { Status::Fault });
        }
        let plans = self.plans(&mut |at, image| plan_repair(image, &found, at)).map_err(Failure::nothing_changed)?;
        if self.args.dry_run.dry_run {
            self.rehearse(&plans)?;
            self.report(&found, &steps, false)?;
            return Ok(if found.findings.is_empty() { Status::Done } else { Status::Fault });
        }
        self.carry_out(&plans, &found.changes)?;
        self.report(&found, &steps, true)?;
        if found.findings.is_empty() {
            return Ok(Status::Done);
        }
        // Also what only a mend could bring to light.
        self.metadata = self.session.metadata(&self.args.metadata, self.disks.machine.as_ref(), true)?;
        let left = self.found()?;
        for found in &left.findings {
            self.session.warn(&format!("left: {}", line(found)));
        }
        Ok(if left.findings.is_empty() { Status::Done } else { Status::Fault })
    }

    fn convert(mut self) -> Outcome {
        let records = self.metadata.as_ref().map(Metadata::records).unwrap_or_default();
        let (mut excesses, model, session) = (Vec::new(), self.args.model.wanted(), self.session);
        let plans = self.plans(&mut |at, image| {
            let (plan, excess) = image.plan_to_interval(&records, model, &mut session.watch())?;
            excesses.push((at, excess));
            Ok(plan)
        });
        let plans = plans.map_err(Failure::nothing_changed)?;
        let targets: Vec<&str> = self.targets.iter().flatten().map(String::as_str).collect();
        let changes = notes_after_conversion(self.metadata.as_ref(), &targets)?;
        let steps = self.steps(
            &plans.iter().map(|plan| plan.actions().iter().map(ToString::to_string)).collect::<Vec<_>>(),
            &changes,
        );
        let dry_run = self.args.dry_run.dry_run;
        if dry_run {
            self.rehearse(&plans)?;
        } else {
            self.carry_out(&plans, &changes)?;
        }
        let mut found = Diagnosis::default();
        for (at, Excess { since, until, bytes, excess_bytes, .. }) in
            excesses.iter().flat_map(|(at, all)| all.iter().map(move |one| (at, one)))
        {
            found.notes.push(format!(
                "{}: the diff from {since} until {until} has {} of changes, of which up to {} came only after {until}",
                self.title(*at),
                amount(*bytes),
                amount(*excess_bytes)
            ));
        }
        self.report(&found, &steps, !dry_run)?;
        Ok(Status::Done)
    }

    fn title(&self, at: usize) -> String {
        let target = self.targets.get(at).cloned().flatten();
        let path = || self.disks.disks.get(at).map(|disk| disk.image.path().display().to_string());
        target.or_else(path).unwrap_or_default()
    }

    fn steps<I: Iterator<Item = String> + Clone>(&self, actions: &[I], changes: &[Change]) -> Vec<String> {
        let of_disks = actions.iter().enumerate().flat_map(|(at, own)| {
            let title = self.title(at);
            own.clone().map(move |action| format!("{title}: {action}"))
        });
        of_disks.chain(changes.iter().map(ToString::to_string)).collect()
    }

    fn plans(&mut self, plan: &mut dyn FnMut(usize, &Image) -> checkmap::Result<Plan>) -> Result<Vec<Plan>, Failure> {
        self.disks.disks.iter().enumerate().map(|(at, disk)| Ok(plan(at, &disk.image)?)).collect()
    }

    fn rehearse(&self, plans: &[Plan]) -> Result<(), Failure> {
        for (disk, plan) in self.disks.disks.iter().zip(plans) {
            warn_all(self.session, plan.risks().iter().chain(plan.warnings()));
            warn_all(self.session, &disk.image.rehearse(plan, &mut self.session.watch())?);
        }
        Ok(())
    }

    /// The bitmaps first: libvirt compares what it is told with them.
    fn carry_out(&mut self, plans: &[Plan], changes: &[Change]) -> Result<(), Failure> {
        let session = self.session;
        warn_all(session, plans.iter().flat_map(Plan::risks));
        if !plans.iter().all(Plan::is_empty) {
            session.interrupt().hold();
            let mut group = Group::new(self.disks.disks.iter_mut().map(|disk| &mut disk.image))?;
            let warnings = group.commit(plans, &mut session.watch())?;
            warn_all(session, plans.iter().flat_map(Plan::warnings).chain(warnings.iter().flatten()));
        }
        let noted = match (&self.args.metadata.libvirt_xml, &self.disks.machine, &self.metadata) {
            _ if changes.is_empty() => Ok(()),
            (Some(folder), _, Some(metadata)) => metadata.change_folder(folder, changes).inspect(|()| {
                session.warn("libvirt's daemon reads its own folder only when it starts");
            }),
            (_, Some(machine), _) => machine.change_libvirt(changes, &mut session.watch()),
            _ => Ok(()),
        };
        noted.inspect_err(|_| {
            session.warn("the bitmaps are mended, and not all of libvirt's notes: the same command goes on")
        })?;
        say_if_too_late(session);
        Ok(())
    }

    fn report(&self, found: &Diagnosis, steps: &[String], done: bool) -> Result<(), Failure> {
        let dry_run = self.args.dry_run.dry_run;
        print(self.session, |out| {
            if self.args.json {
                let findings = found.findings.iter().map(Row::of).collect();
                let report = Report { findings, notes: &found.notes, steps: steps.to_vec(), done };
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
    let mend = found
        .mend
        .as_deref()
        .map_or_else(|| "no mend is certain: drop what nobody needs".to_owned(), |mend| format!("the mend: {mend}"));
    format!("{disk}{}; {}; {mend}", found.message, found.cost)
}
