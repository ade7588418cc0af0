#![forbid(unsafe_code)]
//! Owns `checkmap merge`: the raw union of bitmaps by their own names.

use crate::args::MergeArgs;
use crate::change;
use crate::exit::Outcome;
use crate::session::Session;
use checkmap::chain::Name;
use std::os::unix::ffi::OsStrExt;

pub(crate) fn run(args: &MergeArgs, session: &Session) -> Outcome {
    let sources: Vec<&[u8]> = args.sources.iter().map(|source| source.as_bytes()).collect();
    let into = args.into.as_bytes();
    let done = format!("merged into bitmap {}", Name::new(into));
    change::run(session, &args.image, args.dry_run.dry_run, &done, |image| image.plan_merge(&sources, into))
}
