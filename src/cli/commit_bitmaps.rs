#![forbid(unsafe_code)]
//! Owns `checkmap commit-bitmaps`: a base takes in the checkpoints of the images above it.

use crate::args::CommitBitmapsArgs;
use crate::change::{open_to_plan, say_if_too_late, warn_all};
use crate::exit::{Failure, Outcome, Status};
use crate::output::print;
use crate::session::Session;
use crate::words::some_of;
use checkmap::image::{Access, Committed};

pub(crate) fn run(args: &CommitBitmapsArgs, session: &Session) -> Outcome {
    if args.dry_run.dry_run { show(args, session) } else { carry_out(args, session) }
}

fn steps(committed: &Committed) -> impl Iterator<Item = String> + '_ {
    committed.actions.iter().map(ToString::to_string).chain(committed.taken.iter().cloned())
}

fn show(args: &CommitBitmapsArgs, session: &Session) -> Outcome {
    let (base, refusal) = open_to_plan(session, &args.base)?;
    let top = session.open(&args.top, Access::Read)?;
    let committed = top.rehearse_commit_bitmaps(&base, &mut session.watch())?;
    print(session, |out| {
        for step in steps(&committed) {
            writeln!(out, "{step}")?;
        }
        if committed.is_empty() {
            writeln!(out, "nothing to do")?;
        }
        Ok(())
    })?;
    warn_all(session, &committed.warnings);
    refusal.map_or(Ok(Status::Done), |error| Err(error.into()))
}

fn carry_out(args: &CommitBitmapsArgs, session: &Session) -> Outcome {
    let mut base = session.open(&args.base, Access::Write).map_err(Failure::nothing_changed)?;
    let top = session.open(&args.top, Access::Read).map_err(Failure::nothing_changed)?;
    session.interrupt().hold();
    let committed = top.commit_bitmaps(&mut base, &mut session.watch())?;
    warn_all(session, &committed.warnings);
    match committed.is_empty() {
        true => session.say("nothing to do"),
        false => session.say(&format!("committed the bitmaps ({})", some_of(steps(&committed), "; "))),
    }
    say_if_too_late(session);
    Ok(Status::Done)
}
