#![forbid(unsafe_code)]
//! Owns `checkmap merge`: the raw union of bitmaps by their own names.

use crate::args::MergeArgs;
use crate::change;
use crate::exit::{Failure, Outcome};
use crate::session::Session;
use checkmap::chain::Name;
use std::os::unix::ffi::OsStrExt;

pub(crate) fn run(args: &MergeArgs, session: &Session) -> Outcome {
    let (target, sources) = args.target.split(&args.sources)?;
    let sources: Vec<&[u8]> = sources.iter().map(|source| source.as_bytes()).collect();
    if sources.is_empty() {
        return Err(Failure::Usage("SOURCE-BITMAP is missing".into()));
    }
    let into = args.into.as_bytes();
    let done = format!("merged into bitmap {}", Name::new(into));
    change::run(session, target, args.dry_run.dry_run, &done, |image| image.plan_merge(&sources, into))
}
