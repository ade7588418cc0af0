#![forbid(unsafe_code)]
//! Owns what all changing verbs do with their plan: say it, and carry it out or leave it at that. Must never know how a
//! plan is made.

use crate::exit::{Failure, Outcome, Status};
use crate::output::print;
use crate::session::Session;
use crate::words::some_of;
use checkmap::chain::Plan;
use checkmap::image::Access;
use checkmap::{ErrorKind, Image};
use std::path::Path;

/// Plans a change of the image, and carries it out unless it is a dry run. `done` tells of it afterwards.
///
/// A dry run ends with the status that the real run would have. Where only the file's permissions would stop that one,
/// the plan is shown all the same.
pub(crate) fn run(
    session: &Session,
    image: &Path,
    dry_run: bool,
    done: &str,
    plan: impl FnOnce(&Image) -> checkmap::Result<Plan>,
) -> Outcome {
    if dry_run { show(session, image, plan) } else { carry_out(session, image, done, plan) }
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

fn show(session: &Session, image: &Path, plan: impl FnOnce(&Image) -> checkmap::Result<Plan>) -> Outcome {
    let (image, refusal) = open_to_plan(session, image)?;
    image.survey(&mut session.watch())?;
    let plan = plan(&image)?;
    print(session, |out| {
        for action in plan.actions() {
            writeln!(out, "{action}")?;
        }
        if plan.is_empty() {
            writeln!(out, "nothing to do")?;
        }
        Ok(())
    })?;
    warn_all(session, plan.risks().iter().chain(plan.warnings()));
    warn_all(session, &image.rehearse(&plan, &mut session.watch())?);
    refusal.map_or(Ok(Status::Done), |error| Err(error.into()))
}

fn carry_out(
    session: &Session,
    image: &Path,
    done: &str,
    plan: impl FnOnce(&Image) -> checkmap::Result<Plan>,
) -> Outcome {
    let mut image = session.open(image, Access::Write).map_err(Failure::nothing_changed)?;
    image.survey(&mut session.watch()).map_err(checkmap::Error::nothing_changed)?;
    let plan = plan(&image).map_err(checkmap::Error::nothing_changed)?;
    warn_all(session, plan.risks());
    if plan.is_empty() {
        session.say("nothing to do");
        return Ok(Status::Done);
    }
    session.interrupt().hold();
    let warnings = image.commit(&plan, &mut session.watch())?;
    // Not before: a commit that fails changes nothing of what these tell.
    warn_all(session, plan.warnings().iter().chain(&warnings));
    let steps = some_of(plan.actions().iter().map(ToString::to_string), "; ");
    session.say(&format!("{done} ({steps})"));
    say_if_too_late(session);
    Ok(Status::Done)
}

/// Tells of a signal that came after the commit had begun.
pub(crate) fn say_if_too_late(session: &Session) {
    if session.interrupt().came() {
        session.warn("the signal to stop came too late: the change is complete");
    }
}

pub(crate) fn warn_all<'a>(session: &Session, warnings: impl IntoIterator<Item = &'a String>) {
    for warning in warnings {
        session.warn(warning);
    }
}
