#![forbid(unsafe_code)]
//! Owns `checkmap diff`: which blocks changed between two points in time.

use crate::args::DiffArgs;
use crate::exit::{Outcome, Status};
use crate::map::{Subject, Wish};
use crate::session::Session;
use checkmap::image::{Access, DiffRequest};
use std::os::unix::ffi::OsStrExt;

pub(crate) fn run(args: &DiffArgs, session: &Session) -> Outcome {
    let target = args.target.only()?;
    let wish = Wish::new(&args.map, target.image())?;
    let image = session.open_one(target, Access::Read)?;
    wish.check(&image)?;
    let (offset, len_bytes) = wish.window();
    let (layers, model) = (args.layers.wanted(), args.model.wanted());
    let request = DiffRequest::since(args.since.as_bytes()).window(offset, len_bytes).layers(layers).model(model);
    let request = args.until.as_ref().map_or(request, |until| request.until(until.as_bytes()));
    let diff = image.diff(&request, &mut session.watch())?;
    wish.write(session, &diff.bitmap, &Subject::Diff { since: diff.since, until: diff.until })?;
    Ok(Status::Done)
}
