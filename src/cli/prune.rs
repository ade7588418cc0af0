#![forbid(unsafe_code)]
//! Owns `checkmap prune`: the rules, and the moments that were given up.

use crate::args::PruneArgs;
use crate::exit::{Failure, Outcome, Status};
use crate::session::Session;
use crate::words::{count, some_of, spelled};
use checkmap::backup::{BackupDirectory, Keep};
use checkmap::chain::Name;

pub(crate) fn run(args: &PruneArgs, session: &Session) -> Outcome {
    if args.keep_last.is_none() && args.keep_within.is_none() {
        return Err(Failure::Usage("say what is kept with --keep-last or --keep-within".into()));
    }
    session.interrupt().hold();
    let mut directory = BackupDirectory::open_to_change(&args.directory)?;
    let last = args.keep_last.and_then(|last| usize::try_from(last).ok());
    let keep = Keep::new().last(last).within(args.keep_within).rewrite(args.rewrite);
    let mut status = Status::Done;
    for pruned in directory.prune(&keep, &mut session.watch())? {
        let disk = Name::new(pruned.disk.as_slice());
        if !pruned.dropped.is_empty() {
            let names = some_of(pruned.dropped.iter().map(|name| Name::new(name.as_slice()).to_string()), ", ");
            session
                .say(&format!("gave up {} of the disk {disk}: {names}", count(pruned.dropped.len() as u64, "moment")));
        }
        if let Some(error) = &pruned.error {
            session.error(&format!("moments of the disk {disk} that no rule keeps stay: {}", spelled(error)));
            status = Status::Fault;
        }
    }
    Ok(status)
}
