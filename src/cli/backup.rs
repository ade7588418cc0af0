#![forbid(unsafe_code)]
//! Owns `checkmap backup`: which disks get which name, and how the outcome of each is told. Must never know how a backup is taken.

use crate::args::BackupArgs;
use crate::exit::{Failure, Outcome, Status};
use crate::session::{Session, threads};
use crate::target::Target;
use crate::words::{amount, count, some_of, spelled};
use checkmap::backup::{BackupDirectory, Options, Source, Taken, checkpoint_name, preview};
use checkmap::chain::Name;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

pub(crate) fn run(args: &BackupArgs, session: &Session) -> Outcome {
    let (target, others) = args.target.split(&args.others)?;
    let Target::Image(first) = target else {
        let message = "backup takes images: a disk of a running hypervisor cannot be backed up yet";
        return Err(Failure::Usage(message.into()));
    };
    let images: Vec<&Path> = std::iter::once(first).chain(others.into_iter().map(Path::new)).collect();
    let sources = named(&images, &args.disk_name)?;
    let checkpoint = match &args.checkpoint {
        Some(name) => name.as_bytes().to_vec(),
        None => checkpoint_name(SystemTime::now()).into_bytes(),
    };
    let keep = usize::try_from(args.keep_checkpoints).unwrap_or(usize::MAX);
    let options = Options::new(&checkpoint).full(args.full).keep_checkpoints(keep).no_lock(session.is_without_locks());
    let options = options.secret_file(args.secret_file.as_deref()).threads(threads());
    if args.dry_run.dry_run {
        for taken in preview(&args.output, &sources, &options, &mut session.watch())? {
            tell(&taken, &checkpoint, "would back up", session);
        }
        return Ok(Status::Done);
    }
    // From now on the end is always an orderly one: no checkpoint is left without its backup.
    session.interrupt().hold();
    let mut directory = BackupDirectory::create(&args.output)?;
    let all = directory.take(&sources, &options, &mut session.watch())?;
    let mut status = Status::Done;
    for (taken, done) in &all {
        tell(taken, &checkpoint, "backed up", session);
        if let Err(failure) = done {
            let disk = Name::new(taken.name.as_slice());
            let what = match failure.is_backed_up {
                true => "is backed up, but its older checkpoints stay",
                false => "is not backed up",
            };
            session.error(&format!("the disk {disk} {what}: {}", spelled(&failure.error)));
            status = Status::Fault;
        }
    }
    Ok(status)
}

/// The disks of the images, with their names in the directory.
fn named<'a>(images: &[&'a Path], names: &[OsString]) -> Result<Vec<Source<'a>>, Failure> {
    let mut sources: Vec<Source<'a>> = images.iter().map(|image| Source::new(image)).collect();
    for word in names {
        let named = sources.iter_mut().find_map(|source| {
            let rest = word.as_bytes().strip_prefix(source.image.as_os_str().as_bytes())?;
            Some((source, rest.strip_prefix(b"=")?))
        });
        match named {
            Some((source, name)) if !name.is_empty() => source.name = name.to_vec(),
            _ => {
                let message =
                    format!("--disk-name {}: it is IMAGE=NAME, of an image that is given", word.to_string_lossy());
                return Err(Failure::Usage(message));
            }
        }
    }
    Ok(sources)
}

fn tell(taken: &Taken, checkpoint: &[u8], done: &str, session: &Session) {
    for warning in &taken.warnings {
        session.warn(warning);
    }
    for file in &taken.files {
        session.say(&format!("read {}: {}, {}", file.path.display(), file.role, file.format));
    }
    if let Some(why) = &taken.through_qemu {
        session.say(&format!("read through a private qemu-nbd: {why}"));
    }
    let Some(backup) = &taken.backup else { return };
    let kind = match (&backup.reason, backup.is_full) {
        (Some(reason), _) => format!("full, since {reason}"),
        (None, true) => "full".to_owned(),
        (None, false) => "what changed".to_owned(),
    };
    let (disk, checkpoint) = (Name::new(taken.name.as_slice()), Name::new(checkpoint));
    session.say(&format!("{done} the disk {disk} at {checkpoint}: {} of data ({kind})", amount(backup.data_bytes)));
    if !taken.dropped.is_empty() {
        let names = some_of(taken.dropped.iter().map(|name| Name::new(name.as_slice()).to_string()), ", ");
        let number = count(taken.dropped.len() as u64, "older checkpoint");
        session.say(&format!("dropped {number} from the disk {disk}: {names}"));
    }
}
