#![forbid(unsafe_code)]
//! Owns `checkmap rename`: a checkpoint gets another name.

use crate::args::RenameArgs;
use crate::change;
use crate::exit::Outcome;
use crate::hint;
use crate::in_layers;
use crate::session::Session;
use crate::target::exactly;
use checkmap::chain::Name;
use checkmap::image::{Edit, Layers, Purpose};
use std::os::unix::ffi::OsStrExt;

pub(crate) fn run(args: &RenameArgs, session: &Session) -> Outcome {
    let (target, words) = args.target.split(args.checkpoint.iter().chain(&args.new_name))?;
    let [old, new] = exactly(&words, ["CHECKPOINT", "NEW-NAME"])?.map(|word| word.as_bytes());
    let done = format!("renamed checkpoint {} to {}", Name::new(old), Name::new(new));
    if let Some(hint) = hint::of_redirection([new]) {
        session.warn(&hint);
    }
    if let (Some(path), Layers::Check, true) = (target.image(), args.layers.wanted(), args.also.is_empty())
        && let Some(image) = in_layers::open(session, path, args.dry_run.dry_run)
    {
        let (old, new) = (Name::new(old), Name::new(new));
        let (edit, model) = (Edit::Rename(&old, &new), args.model.wanted());
        if let Some(outcome) = in_layers::run(session, image, &edit, model, args.dry_run.dry_run, &done)? {
            return Ok(outcome);
        }
    }
    let step = args.also.step(Purpose::Rename);
    change::run_step(session, target, step, args.dry_run.dry_run, &done, |image| {
        image.plan_rename(old, new, args.layers.wanted(), args.model.wanted())
    })
}
