#![forbid(unsafe_code)]
//! Owns `checkmap recover`, and the same before any other change: the end of a step over several images that was interrupted. Must never
//! know how it is ended.

use crate::args::RecoverArgs;
use crate::change::{open_to_plan, warn_all};
use crate::exit::{Failure, Outcome, Status};
use crate::output::print;
use crate::session::Session;
use crate::words::{count, one_line};
use checkmap::Image;
use checkmap::image::{Access, Outcome as Ending, Recovered};

pub(crate) fn run(args: &RecoverArgs, session: &Session) -> Outcome {
    if args.dry_run.dry_run {
        return preview(args, session);
    }
    let mut image = session.open(&args.image, Access::Write)?;
    if image.unfinished().is_none() {
        session.say("nothing to do");
        return Ok(Status::Done);
    }
    if args.forget {
        session.interrupt().hold();
        image.forget_step()?;
        session.say("this image is left as it is; others of the step may differ from it");
        return Ok(Status::Done);
    }
    mend(session, &mut image)?;
    Ok(Status::Done)
}

/// Prints what would be done, one step a line.
fn preview(args: &RecoverArgs, session: &Session) -> Outcome {
    let (image, refusal) = open_to_plan(session, &args.image)?;
    let mut steps = Vec::new();
    if args.forget && image.unfinished().is_some() {
        steps.push(format!("leave {} as it is, and forget the step", args.image.display()));
    } else if let Some(Recovered { outcome, purpose, images, .. }) = image.preview_recover()? {
        let how = match outcome {
            Ending::Undone => "undo",
            Ending::LeftApart => "leave as it is, on some images and not on others:",
            _ => "finish",
        };
        steps.push(format!("{how} {purpose}"));
        steps.extend(images.iter().map(|image| format!("end the step on {}", image.display())));
    }
    print(session, |out| {
        if steps.is_empty() {
            writeln!(out, "nothing to do")?;
        }
        Ok(steps.iter().try_for_each(|step| writeln!(out, "{}", one_line(step)))?)
    })?;
    refusal.map_or(Ok(Status::Done), |error| Err(error.into()))
}

/// Ends a step that was interrupted, where the image takes part in one.
pub(crate) fn mend(session: &Session, image: &mut Image) -> Result<(), Failure> {
    if image.unfinished().is_none() {
        return Ok(());
    }
    session.interrupt().hold();
    let Some(recovered) = image.recover(&mut session.watch())? else { return Ok(()) };
    let Recovered { outcome, purpose, images, warnings, .. } = recovered;
    warn_all(session, &warnings);
    let images = count(images.len() as u64, "image");
    session.say(&match outcome {
        Ending::Undone => format!("{purpose} on {images} had been interrupted, and was undone"),
        Ending::LeftApart => format!("{purpose} on {images} had been interrupted: some have it and others not"),
        _ => format!("{purpose} on {images} had been interrupted, and was finished"),
    });
    Ok(())
}
