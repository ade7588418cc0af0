#![forbid(unsafe_code)]
//! Owns `checkmap diff`: which blocks changed between two points in time.

use crate::args::DiffArgs;
use crate::exit::{Outcome, Status};
use crate::map::{Subject, Wish};
use crate::session::Session;
use checkmap::image::{Access, DiffRequest};
use std::os::unix::ffi::OsStrExt;

pub(crate) fn run(args: &DiffArgs, session: &Session) -> Outcome {
    let wish = Wish::new(&args.map, &args.image)?;
    let image = session.open(&args.image, Access::Read)?;
    wish.check(&image)?;
    let (offset, len_bytes) = wish.window();
    let request = DiffRequest {
        since: args.since.as_bytes(),
        until: args.until.as_ref().map(|until| until.as_bytes()),
        offset,
        len_bytes,
        layers: args.layers.wanted(),
        model: args.model.wanted(),
    };
    let diff = image.diff(&request, &mut session.watch())?;
    wish.write(session, &diff.bitmap, &Subject::Diff { since: diff.since, until: diff.until })?;
    Ok(Status::Done)
}
