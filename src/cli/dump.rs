#![forbid(unsafe_code)]
//! Owns `checkmap dump`: one bitmap as it is stored, by its own name.

use crate::args::DumpArgs;
use crate::exit::{Outcome, Status};
use crate::map::{Subject, Wish};
use crate::session::Session;
use checkmap::chain::{Name, interval_of};
use checkmap::image::Access;
use std::os::unix::ffi::OsStrExt;

pub(crate) fn run(args: &DumpArgs, session: &Session) -> Outcome {
    let wish = Wish::new(&args.map, &args.image)?;
    let image = session.open(&args.image, Access::Read)?;
    wish.check(&image)?;
    let name = Name::new(args.bitmap.as_bytes());
    let (offset, len_bytes) = wish.window();
    image.survey(&mut session.watch())?;
    let bitmap = image.read_bitmap(&name, offset, len_bytes)?;
    // Names that form no chain do not keep a bitmap from being dumped.
    let interval = interval_of(&image.bitmaps(), &name)?;
    wish.write(session, &bitmap, &Subject::Bitmap { name, interval })?;
    Ok(Status::Done)
}
