#![forbid(unsafe_code)]
//! Owns `checkmap delete`: one checkpoint goes, or all whose bitmaps cannot be trusted.

use crate::args::DeleteArgs;
use crate::change;
use crate::exit::Outcome;
use crate::session::Session;
use checkmap::chain::Name;
use std::os::unix::ffi::OsStrExt;

pub(crate) fn run(args: &DeleteArgs, session: &Session) -> Outcome {
    let (layers, model) = (args.layers.wanted(), args.model.wanted());
    let done = match &args.checkpoint {
        Some(checkpoint) => format!("deleted checkpoint {}", Name::new(checkpoint.as_bytes())),
        None => "deleted all inconsistent checkpoints".to_owned(),
    };
    change::run(session, &args.image, args.dry_run.dry_run, &done, |image| match &args.checkpoint {
        Some(checkpoint) => image.plan_delete(checkpoint.as_bytes(), args.force_inconsistent, layers, model),
        None => image.plan_delete_all_inconsistent(layers, model),
    })
}
