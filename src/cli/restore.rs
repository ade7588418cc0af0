#![forbid(unsafe_code)]
//! Owns `checkmap restore`: which disks of a backup directory go where. Must never know how they are written.

use crate::args::RestoreArgs;
use crate::exit::{Failure, Outcome, Status};
use crate::session::Session;
use checkmap::backup::{BackupDirectory, DiskRecord, RestoreRequest};
use checkmap::chain::Name;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

pub(crate) fn run(args: &RestoreArgs, session: &Session) -> Outcome {
    let directory = BackupDirectory::open(&args.directory)?;
    let at = args.at.as_deref().map(OsStrExt::as_bytes);
    let all: Vec<(Vec<u8>, PathBuf)> = match (&args.disk, directory.disks()) {
        (Some(disk), _) => vec![(disk.as_bytes().to_vec(), args.output.clone())],
        (None, [only]) => vec![(only.name.clone(), args.output.clone())],
        (None, []) => return Err(Failure::Usage("the directory keeps no disk".into())),
        (None, disks) if args.output.is_dir() => {
            let place = |disk: &DiskRecord| (disk.name.clone(), args.output.join(disk.folder()));
            disks.iter().map(place).collect()
        }
        (None, _) => {
            return Err(Failure::Usage(
                "the directory keeps several disks: name one with --disk, or a folder as TARGET".into(),
            ));
        }
    };
    // No signal may end the program while a temporary file is there.
    session.interrupt().hold();
    for (disk, target) in &all {
        let request = RestoreRequest::new(disk, target).at(at).format(args.format).force(args.force);
        directory.restore(&request, &mut session.watch())?;
        session.say(&format!("restored the disk {} to {}", Name::new(disk.as_slice()), target.display()));
    }
    Ok(Status::Done)
}
