#![forbid(unsafe_code)]
//! Owns `checkmap dump`: one bitmap as it is stored, by its own name.

use crate::args::DumpArgs;
use crate::exit::{Outcome, Status};
use crate::map::{Subject, Wish};
use crate::session::Session;
use checkmap::chain::{Chain, Name};
use checkmap::image::Access;
use std::os::unix::ffi::OsStrExt;

pub(crate) fn run(args: &DumpArgs, session: &Session) -> Outcome {
    let target = args.target.only()?;
    let wish = Wish::new(&args.map, target.image())?;
    let image = session.open_one(target, Access::Read)?;
    wish.check(&image)?;
    let name = Name::new(args.bitmap.as_bytes());
    let (offset, len_bytes) = wish.window();
    image.survey(&mut session.watch())?;
    let bitmap = image.read_bitmap(&name, offset, len_bytes)?;
    // Names that form no chain do not keep a bitmap from being dumped.
    let interval = Chain::read(&image.bitmaps(), None).ok().and_then(|chain| chain.interval_of(&name));
    wish.write(session, &bitmap, &Subject::Bitmap { name, interval })?;
    Ok(Status::Done)
}
