#![forbid(unsafe_code)]
//! Owns `checkmap create`: a new checkpoint, from which on QEMU records.

use crate::args::CreateArgs;
use crate::change;
use crate::exit::Outcome;
use crate::hint;
use crate::session::Session;
use crate::target::exactly;
use checkmap::chain::Name;
use checkmap::image::Purpose;
use std::os::unix::ffi::OsStrExt;

pub(crate) fn run(args: &CreateArgs, session: &Session) -> Outcome {
    let (target, words) = args.target.split(&args.checkpoint)?;
    let [name] = exactly(&words, ["CHECKPOINT"])?.map(|word| word.as_bytes());
    let done = format!("created checkpoint {}", Name::new(name));
    if let Some(hint) = hint::of_redirection([name]) {
        session.warn(&hint);
    }
    let step = args.also.step(Purpose::Create(Name::new(name), args.model.wanted()));
    change::run_step(session, target, step, args.dry_run.dry_run, &done, |image| {
        image.plan_create(name, args.granularity, args.model.wanted())
    })
}
