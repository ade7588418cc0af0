#![forbid(unsafe_code)]
//! Owns `checkmap dump`: one bitmap as it is stored, by its own name; or as an NBD server tells it. Must never know how
//! either is read.

use crate::args::{DumpArgs, Dumped};
use crate::exit::{Failure, Outcome, Status};
use crate::map::{Subject, Wish};
use crate::session::Session;
use crate::words::spelled;
use checkmap::chain::{Name, interval_of};
use checkmap::image::Access;
use checkmap::nbd::{Client, ConnectOptions, DEFAULT_TIMEOUT, DIRTY_BITMAP, Uri};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

pub(crate) fn run(args: &DumpArgs, session: &Session) -> Outcome {
    let uri = args.target.nbd_uri();
    match (&args.what, uri) {
        (Dumped { bitmap: Some(_), .. }, None) if args.granularity.is_some() => {
            Err(Failure::Usage("--granularity is for NBD servers".into()))
        }
        (Dumped { bitmap: Some(bitmap), context: None }, None) => of_image(args, bitmap, session),
        (Dumped { context: Some(context), bitmap: None }, Some(uri)) => of_server(args, uri, context, session),
        (_, Some(_)) => {
            Err(Failure::Usage("an NBD server names its bitmaps: use --context qemu:dirty-bitmap:NAME".into()))
        }
        (_, None) => {
            Err(Failure::Usage("--context is for NBD servers: the bitmap of an image is --bitmap NAME".into()))
        }
    }
}

fn of_image(args: &DumpArgs, bitmap: &OsStr, session: &Session) -> Outcome {
    let target = args.target.only()?;
    let wish = Wish::new(&args.map, target.image(), false)?;
    let image = session.open_one(target, Access::Read)?;
    wish.check(&image)?;
    let name = Name::new(bitmap.as_bytes());
    let (offset, len_bytes) = wish.window();
    image.survey(&mut session.watch())?;
    let bitmap = image.read_bitmap(&name, offset, len_bytes)?;
    // Names that form no chain do not keep a bitmap from being dumped.
    let interval = interval_of(&image.bitmaps(), &name)?;
    wish.write(session, image.path().as_os_str().as_bytes(), &bitmap, &Subject::Bitmap { name, interval })?;
    Ok(Status::Done)
}

fn of_server(args: &DumpArgs, uri: &OsStr, context: &OsStr, session: &Session) -> Outcome {
    let wish = Wish::new(&args.map, None, false)?;
    let disk = uri.as_bytes();
    let uri = Uri::parse(disk).map_err(|error| Failure::Usage(spelled(&error)))?;
    let Some(name @ [_, ..]) = context.as_bytes().strip_prefix(DIRTY_BITMAP) else {
        return Err(Failure::Usage("--context is a dirty bitmap: qemu:dirty-bitmap:NAME".into()));
    };
    let timeout = args.target.timeout().unwrap_or(DEFAULT_TIMEOUT);
    let contexts = [context.as_bytes()];
    let options = ConnectOptions::new(&uri.export).contexts(&contexts).timeout(timeout);
    let mut watch = session.watch();
    let mut client = Client::connect(&uri.address, &options, &mut watch)?;
    wish.check_start(client.size_bytes())?;
    let (offset, len_bytes) = wish.window();
    let bitmaps = client.dirty_bitmaps(offset, len_bytes, &[args.granularity], &mut watch)?;
    // The server is not kept while the answer goes its way.
    drop((client, watch));
    if let Some(bitmap) = bitmaps.first() {
        wish.write(session, disk, bitmap, &Subject::Bitmap { name: Name::new(name), interval: None })?;
    }
    Ok(Status::Done)
}
