#![forbid(unsafe_code)]
//! Owns `checkmap diff`: which blocks changed between two points in time.

use crate::args::DiffArgs;
use crate::exit::{Outcome, Status};
use crate::map::{Subject, Wish};
use crate::rows;
use crate::session::Session;
use checkmap::chain::Name;
use checkmap::image::{Access, DiffRequest};
use std::os::unix::ffi::OsStrExt;

pub(crate) fn run(args: &DiffArgs, session: &Session) -> Outcome {
    let target = args.target.only()?;
    let wish = Wish::new(&args.map, target.image(), args.each_interval)?;
    let image = session.open_one(target, Access::Read)?;
    wish.check(&image)?;
    let disk = image.path().as_os_str().as_bytes();
    let (offset, len_bytes) = wish.window();
    let (layers, model) = (args.layers.wanted(), args.model.wanted());
    let read = |since: &[u8], until: Option<&[u8]>| {
        let request = DiffRequest::since(since).window(offset, len_bytes).layers(layers).model(model);
        let request = until.map_or(request, |until| request.until(until));
        image.diff(&request, &mut session.watch())
    };
    let (since, until) = (args.since.as_bytes(), args.until.as_ref().map(|until| until.as_bytes()));
    if !args.each_interval {
        let diff = read(since, until)?;
        wish.write(session, disk, &diff.bitmap, &Subject::Diff { since: diff.since, until: diff.until })?;
        return Ok(Status::Done);
    }
    let names = (Name::new(since), until.map(Name::new));
    let bounds = rows::bounds(&image, &names.0, names.1.as_ref(), model, &mut session.watch())?;
    // One that is not there, and two of which the second is older, are refused in the words of any diff.
    let mut spans: Vec<(&Name, Option<&Name>)> = bounds.iter().zip(bounds.iter().skip(1).map(Some)).collect();
    match (bounds.last(), until) {
        (Some(last), None) => spans.push((last, None)),
        (Some(last), Some(_)) if spans.is_empty() => spans.push((last, Some(last))),
        _ => {}
    }
    wish.write_rows(session, disk, |sheet| {
        for (since, until) in spans {
            let diff = read(since.as_bytes(), until.map(Name::as_bytes))?;
            sheet.add(&Subject::Diff { since: diff.since, until: diff.until }, &diff.bitmap)?;
        }
        Ok(())
    })?;
    Ok(Status::Done)
}
