#![forbid(unsafe_code)]
//! Owns `checkmap prune`: the rules, and the moments that were given up.

use crate::args::PruneArgs;
use crate::exit::{Failure, Outcome, Status};
use crate::session::Session;
use crate::words::{count, some_of, spelled};
use checkmap::ErrorKind;
use checkmap::backup::{BackupDirectory, Keep};
use checkmap::chain::Name;

pub(crate) fn run(args: &PruneArgs, session: &Session) -> Outcome {
    if args.keep_last.is_none() && args.keep_within.is_none() {
        return Err(Failure::Usage("say what is kept with --keep-last or --keep-within".into()));
    }
    let last = args.keep_last.and_then(|last| usize::try_from(last).ok());
    let keep = Keep::new().last(last).within(args.keep_within).rewrite(args.rewrite);
    if args.dry_run.dry_run {
        for going in BackupDirectory::open(&args.directory)?.going(&keep)? {
            session.say(&format!("would give up {}", moments(&going.disk, &going.dropped)));
        }
        return Ok(Status::Done);
    }
    session.interrupt().hold();
    let mut directory = BackupDirectory::open_to_change(&args.directory)?;
    let mut status = Status::Done;
    let mut stopped = None;
    for pruned in directory.prune(&keep, &mut session.watch())? {
        let disk = Name::new(pruned.disk.as_slice());
        if !pruned.dropped.is_empty() {
            session.say(&format!("gave up {}", moments(&pruned.disk, &pruned.dropped)));
        }
        if let Some(error) = pruned.error.as_ref().filter(|error| error.kind() == ErrorKind::Cancelled) {
            stopped = Some(error.clone());
        } else if let Some(error) = &pruned.error {
            session.error(&format!("moments of the disk {disk} that no rule keeps stay: {}", spelled(error)));
            status = Status::Fault;
        }
    }
    stopped.map_or(Ok(status), |error| Err(error.into()))
}

/// How many moments of a disk, and which.
fn moments(disk: &[u8], checkpoints: &[Vec<u8>]) -> String {
    let shown = |name: &[u8]| Name::new(name).to_string();
    let number = count(checkpoints.len() as u64, "moment");
    let names = some_of(checkpoints.iter().map(|name| shown(name)), ", ");
    let names = if checkpoints.is_empty() { names } else { format!(": {names}") };
    format!("{number} of the disk {}{names}", shown(disk))
}
