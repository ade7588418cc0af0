#![forbid(unsafe_code)]
//! Owns what all changing verbs do with their plan: say it, and carry it out or leave it at that. Must never know how a
//! plan is made.

use crate::disks::Disks;
use crate::exit::{Failure, Outcome, Status};
use crate::output::print;
use crate::recover;
use crate::session::Session;
use crate::several::Step;
use crate::target::Target;
use crate::words::some_of;
use checkmap::chain::Plan;
use checkmap::image::{Access, Group};
use checkmap::{ErrorKind, Image};
use std::path::Path;

/// Plans a change of the disks, and carries it out on all of them in one step, unless it is a dry run. `done` tells of it afterwards.
///
/// A dry run ends with the status that the real run would have. Where only the file's permissions would stop that one,
/// the plan is shown all the same.
pub(crate) fn run(
    session: &Session,
    target: Target<'_>,
    dry_run: bool,
    done: &str,
    plan: impl Fn(&Image) -> checkmap::Result<Plan>,
) -> Outcome {
    run_step(session, target, None, dry_run, done, plan)
}

/// As [`run`], with the further images of a step.
pub(crate) fn run_step(
    session: &Session,
    target: Target<'_>,
    step: Option<Step<'_>>,
    dry_run: bool,
    done: &str,
    plan: impl Fn(&Image) -> checkmap::Result<Plan>,
) -> Outcome {
    match dry_run {
        true => show(session, target, step.as_ref(), &plan),
        false => carry_out(session, target, step.as_ref(), done, &plan),
    }
}

/// Opens an image for a dry run. Where only its permissions would stop the real one, it is opened to be read, and the
/// refusal comes along.
pub(crate) fn open_to_plan(session: &Session, image: &Path) -> Result<(Image, Option<checkmap::Error>), Failure> {
    match session.open(image, Access::Write) {
        Err(Failure::Library(error)) if error.kind() == ErrorKind::ReadOnly => {
            Ok((session.open(image, Access::Read)?, Some(error)))
        }
        opened => Ok((opened?, None)),
    }
}

/// Opens the disks for a change, without those of a hypervisor that can have no checkpoint.
fn open_to_change(session: &Session, target: Target<'_>) -> Result<Disks, Failure> {
    let mut disks = session.open_disks(target, Access::Write).map_err(Failure::nothing_changed)?;
    if target.image().is_some() {
        disks.disks.iter_mut().try_for_each(|disk| recover::mend(session, &mut disk.image))?;
    }
    for left_out in disks.leave_out_unfit() {
        let why = left_out.unfit().map(|why| why.reason().to_string()).unwrap_or_default();
        session.warn(&format!("the disk {} is left out: {why}", left_out.title()));
    }
    match disks.disks.is_empty() {
        true => Err(checkmap::Error::new(ErrorKind::CannotStore, "no disk of the machine can keep bitmaps").into()),
        false => Ok(disks),
    }
}

fn show(
    session: &Session,
    target: Target<'_>,
    step: Option<&Step<'_>>,
    plan: &dyn Fn(&Image) -> checkmap::Result<Plan>,
) -> Outcome {
    let (mut disks, refusal) = match (target, step) {
        (_, Some(step)) => step.open_to_plan(session, target)?,
        (Target::Image(path), None) => {
            let (image, refusal) = open_to_plan(session, path)?;
            (Disks::of_image(image), refusal)
        }
        (Target::Machine(_), None) => (open_to_change(session, target)?, None),
    };
    let mut plans = Vec::new();
    for disk in &disks.disks {
        disk.image.survey(&mut session.watch())?;
        plans.push(plan(&disk.image)?);
    }
    let commands = match &disks.machine {
        None => None,
        Some(machine) => {
            let of_machine = disks.disks.iter().filter_map(|disk| disk.of_machine.as_ref());
            Some(machine.commands(&of_machine.zip(&plans).collect::<Vec<_>>())?)
        }
    };
    print(session, |out| {
        if let Some(commands) = &commands {
            return Ok(commands.iter().try_for_each(|command| writeln!(out, "{command}"))?);
        }
        for (disk, plan) in disks.disks.iter().zip(&plans) {
            let title = if plans.len() > 1 { format!("{}: ", disk.image.path().display()) } else { String::new() };
            plan.actions().iter().try_for_each(|action| writeln!(out, "{title}{action}"))?;
        }
        if plans.iter().all(Plan::is_empty) {
            writeln!(out, "nothing to do")?;
        }
        Ok(())
    })?;
    for (disk, plan) in disks.disks.iter().zip(&plans) {
        warn_all(session, plan.risks().iter().chain(plan.warnings()));
        warn_all(session, &disk.image.rehearse(plan, &mut session.watch())?);
    }
    if let Some(step) = step {
        step.group(&mut disks)?;
    }
    refusal.map_or(Ok(Status::Done), |error| Err(error.into()))
}

fn carry_out(
    session: &Session,
    target: Target<'_>,
    step: Option<&Step<'_>>,
    done: &str,
    plan: &dyn Fn(&Image) -> checkmap::Result<Plan>,
) -> Outcome {
    let mut disks = match step {
        Some(step) => step.open(session, target)?,
        None => open_to_change(session, target)?,
    };
    for disk in &disks.disks {
        disk.image.survey(&mut session.watch()).map_err(checkmap::Error::nothing_changed)?;
    }
    let mut group = match step {
        Some(step) => step.group(&mut disks)?,
        None => Group::new(disks.disks.iter_mut().map(|disk| &mut disk.image))?,
    };
    let plans = group.plan(plan).map_err(checkmap::Error::nothing_changed)?;
    warn_each(session, plans.iter().flat_map(Plan::risks));
    if plans.iter().all(Plan::is_empty) {
        session.say("nothing to do");
        return Ok(Status::Done);
    }
    session.interrupt().hold();
    let warnings = group.commit(&plans, &mut session.watch())?;
    // Not before: a commit that fails changes nothing of what these tell.
    warn_each(session, plans.iter().flat_map(Plan::warnings).chain(warnings.iter().flatten()));
    let several = plans.len() > 1;
    let steps = disks.disks.iter().zip(&plans).flat_map(|(disk, plan)| {
        let title = if several { format!("{}: ", disk.image.path().display()) } else { String::new() };
        let own = plan.actions().iter().map(move |action| format!("{title}{action}"));
        let of_layers = plan
            .below()
            .iter()
            .flat_map(|below| below.actions.iter().map(move |action| format!("{}: {action}", below.label)));
        own.chain(of_layers)
    });
    session.say(&format!("{done} ({})", some_of(steps, "; ")));
    say_if_too_late(session);
    Ok(Status::Done)
}

/// Tells of a signal that came after the commit had begun.
pub(crate) fn say_if_too_late(session: &Session) {
    if session.interrupt().came() {
        session.warn("the signal to stop came too late: the change is complete");
    }
}

/// As [`warn_all`], where several disks have the same to say.
fn warn_each<'a>(session: &Session, warnings: impl IntoIterator<Item = &'a String>) {
    let mut said: Vec<&String> = Vec::new();
    for warning in warnings {
        if !said.contains(&warning) {
            session.warn(warning);
            said.push(warning);
        }
    }
}

pub(crate) fn warn_all<'a>(session: &Session, warnings: impl IntoIterator<Item = &'a String>) {
    for warning in warnings {
        session.warn(warning);
    }
}
