#![forbid(unsafe_code)]
//! Owns `checkmap commit-bitmaps`: a base takes in the checkpoints of the images above it.

use crate::args::CommitBitmapsArgs;
use crate::change::{open_to_plan, say_if_too_late, warn_all};
use crate::exit::{Failure, Outcome, Status};
use crate::output::print;
use crate::recover;
use crate::session::Session;
use crate::target::{Target, exactly};
use crate::words::some_of;
use checkmap::image::{Access, Committed, OpenOptions};
use checkmap::{ErrorKind, Image, qemu};
use std::ffi::OsStr;
use std::path::Path;

pub(crate) fn run(args: &CommitBitmapsArgs, session: &Session) -> Outcome {
    let (target, words) = args.target.split(&args.base)?;
    let [base] = exactly(&words, ["BASE"])?;
    if args.dry_run.dry_run { show(target, base, session) } else { carry_out(target, base, session) }
}

fn steps(committed: &Committed) -> impl Iterator<Item = String> + '_ {
    committed.actions.iter().map(ToString::to_string).chain(committed.taken.iter().cloned())
}

fn show(target: Target<'_>, base: &OsStr, session: &Session) -> Outcome {
    let (top, base, refusal) = match target {
        Target::Image(path) => {
            let (base, refusal) = open_to_plan(session, Path::new(base))?;
            (session.open(path, Access::Read)?, base, refusal)
        }
        Target::Machine(_) => {
            let (top, base) = open_in_machine(target, base, session)?;
            (top, base, None)
        }
    };
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

fn carry_out(target: Target<'_>, base: &OsStr, session: &Session) -> Outcome {
    let (top, mut base) = match target {
        Target::Image(path) => {
            let mut base = session.open(Path::new(base), Access::Write).map_err(Failure::nothing_changed)?;
            recover::mend(session, &mut base)?;
            (session.open(path, Access::Read).map_err(Failure::nothing_changed)?, base)
        }
        Target::Machine(_) => open_in_machine(target, base, session).map_err(Failure::nothing_changed)?,
    };
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

/// The one disk of the hypervisor that is named, and the layer below it that is meant: by the name of its node, or its file.
fn open_in_machine(target: Target<'_>, base: &OsStr, session: &Session) -> Result<(Image, Image), Failure> {
    let disks = session.open_disks(target, Access::Write)?;
    let machine = disks.machine.clone();
    let of_machine = disks.disks.first().and_then(|disk| disk.of_machine.clone());
    let top = disks.one()?;
    let (Some(machine), Some(disk)) = (machine, of_machine) else {
        return Err(Failure::Usage("no disk is named".into()));
    };
    let below = machine.layers_below(&disk)?;
    let is_file = |layer: &&qemu::Disk| {
        let real = |path: &Path| path.canonicalize().ok();
        layer.file() == base || real(Path::new(base)).is_some_and(|base| Some(base) == real(Path::new(layer.file())))
    };
    let named = below.iter().find(|layer| layer.node() == base);
    let Some(layer) = named.or_else(|| below.iter().find(is_file)) else {
        let message = format!("no layer below it is the node or the file {:?}", base.to_string_lossy());
        let known: Vec<&str> = below.iter().map(qemu::Disk::node).collect();
        let error = checkmap::Error::new(ErrorKind::BackingLayer, message).in_file(top.path());
        return Err(error.advise(format!("there are {}", known.join(", "))).into());
    };
    let host = machine.host(layer)?;
    Ok((top, Image::on(host, Path::new(layer.node()), &OpenOptions::new(Access::Write))))
}
