#![forbid(unsafe_code)]
//! Owns `checkmap drop`: what lies before a checkpoint goes, one bitmap, or all of them.

use crate::args::DropArgs;
use crate::change;
use crate::exit::{Outcome, Status};
use crate::output::print;
use crate::recover;
use crate::session::Session;
use crate::target::Target;
use checkmap::chain::Name;
use checkmap::image::Access;
use std::os::unix::ffi::OsStrExt;

pub(crate) fn run(args: &DropArgs, session: &Session) -> Outcome {
    let (image, dry_run) = (Target::Image(&args.image), args.dry_run.dry_run);
    if let Some(checkpoint) = &args.what.before {
        let checkpoint = checkpoint.as_bytes();
        let done = format!("dropped what lay before checkpoint {}", Name::new(checkpoint));
        return change::run(session, image, dry_run, &done, |image| {
            image.plan_drop_before(checkpoint, args.model.wanted())
        });
    }
    if let Some(bitmap) = &args.what.bitmap {
        let bitmap = bitmap.as_bytes();
        let done = format!("dropped bitmap {}", Name::new(bitmap));
        return change::run(session, image, dry_run, &done, |image| image.plan_drop_bitmap(bitmap));
    }
    if dry_run { show_all(args, session) } else { drop_all(args, session) }
}

fn show_all(args: &DropArgs, session: &Session) -> Outcome {
    let (image, refusal) = change::open_to_plan(session, &args.image)?;
    let loss = image.loss_of_all()?;
    print(session, |out| {
        for bitmap in &loss.bitmaps {
            writeln!(out, "remove {bitmap}")?;
        }
        match loss.has_directory {
            true => writeln!(out, "drop the bitmap directory")?,
            false => writeln!(out, "nothing to do")?,
        }
        Ok(())
    })?;
    let warnings = image.rehearse_drop_all(args.yes, &mut session.watch())?;
    change::warn_all(session, loss.warnings.iter().chain(&warnings));
    refusal.map_or(Ok(Status::Done), |error| Err(error.into()))
}

fn drop_all(args: &DropArgs, session: &Session) -> Outcome {
    let mut image = session.open(&args.image, Access::Write)?;
    recover::mend(session, &mut image)?;
    let loss = image.loss_of_all()?;
    if !loss.has_directory {
        session.say("nothing to do");
        return Ok(Status::Done);
    }
    session.interrupt().hold();
    let warnings = image.drop_all(args.yes, &mut session.watch())?;
    change::warn_all(session, loss.warnings.iter().chain(&warnings));
    let names: Vec<String> = loss.bitmaps.iter().map(ToString::to_string).collect();
    session.say(&format!("dropped the bitmap directory ({})", names.join(", ")));
    change::say_if_too_late(session);
    Ok(Status::Done)
}
