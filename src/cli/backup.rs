#![forbid(unsafe_code)]
//! Owns `checkmap backup`: which disks get which name, and how the outcome of each is told. Must never know how a backup is taken.

use crate::args::BackupArgs;
use crate::exit::{Failure, Outcome, Status};
use crate::output::print;
use crate::session::{Session, threads};
use crate::target::{Target, TargetArgs, exactly};
use crate::words::{amount, count, some_of, spelled};
use checkmap::backup::{BackupDirectory, Options, RunningSource, Source, Taken, checkpoint_name, preview};
use checkmap::chain::Name;
use checkmap::image::{Access, OpenOptions};
use checkmap::qemu::{Machine, MomentOptions};
use checkmap::{ErrorKind, Image};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

pub(crate) fn run(args: &BackupArgs, session: &Session) -> Outcome {
    let (target, others) = args.target.split(&args.others)?;
    let checkpoint = match &args.checkpoint {
        Some(name) => name.as_bytes().to_vec(),
        None => checkpoint_name(SystemTime::now()).into_bytes(),
    };
    let keep = usize::try_from(args.keep_checkpoints).unwrap_or(usize::MAX);
    let options = Options::new(&checkpoint).full(args.full).keep_checkpoints(keep).no_lock(session.is_without_locks());
    let options = options.secret_file(args.secret_file.as_deref()).threads(threads());
    let all = match target {
        Target::Image(first) => {
            let of_machine = [
                ("--scratch", args.scratch.is_some()),
                ("--scratch-max", args.scratch_max.is_some()),
                ("--abandon", args.abandon),
            ];
            if let Some((option, _)) = of_machine.iter().find(|(_, is_there)| *is_there) {
                let message = format!("{option} goes with --qmp or --libvirt only: an image does not change meanwhile");
                return Err(Failure::Usage(message));
            }
            let images: Vec<&Path> = std::iter::once(first).chain(others.into_iter().map(Path::new)).collect();
            let sources = named(&images, &args.disk_name)?;
            if args.dry_run.dry_run {
                for taken in preview(&args.output, &sources, &options, &mut session.watch())? {
                    tell(&taken, "would back up", session);
                }
                return Ok(Status::Done);
            }
            // From now on the end is always an orderly one: no checkpoint is left without its backup.
            session.interrupt().hold();
            BackupDirectory::create(&args.output)?.take(&sources, &options, &mut session.watch())?
        }
        Target::Machine(arguments) => {
            let [] = exactly(&others, [])?;
            let (machine, sources) = of_machine(arguments, args, session)?;
            if args.dry_run.dry_run {
                return plan_of_machine(&machine, &sources, &checkpoint, session);
            }
            let moment = MomentOptions::default().scratch(args.scratch.clone()).most_scratch_bytes(args.scratch_max);
            // From now on the end is always an orderly one: no moment is left in the machine.
            session.interrupt().hold();
            let mut directory = BackupDirectory::create(&args.output)?;
            let say = |sentence: &str| session.warn(sentence);
            let of_moment = (&moment, args.abandon);
            directory.take_running((&machine, &sources), &options, of_moment, &say, &mut session.watch())?
        }
    };
    let mut status = Status::Done;
    for (taken, done) in &all {
        tell(taken, "backed up", session);
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

/// The disks of a running machine that are meant.
fn of_machine(
    arguments: &TargetArgs,
    args: &BackupArgs,
    session: &Session,
) -> Result<(Machine, Vec<RunningSource>), Failure> {
    let (machine, disks) = session.machine(arguments)?;
    let is_named = !arguments.nodes().is_empty();
    let mut sources = Vec::new();
    for disk in disks {
        match disk.unfit() {
            // A medium in a drive for reading alone is no disk of this machine.
            Some(unfit) if unfit.kind() == ErrorKind::ReadOnly && !is_named => {
                session.warn(&format!("{} is read-only and left out; name it with --node to have it", disk.title()));
            }
            Some(unfit) => {
                session.warn(&format!("{} is copied whole each time: {}", disk.title(), unfit.reason()));
                sources.push(RunningSource::new(disk));
            }
            None => sources.push(RunningSource::new(disk)),
        }
    }
    if sources.is_empty() {
        return Err(Failure::Usage("the machine has no disk to back up".into()));
    }
    for word in &args.disk_name {
        let named = sources.iter_mut().find_map(|source| {
            let titles = [source.disk.title(), source.disk.node(), source.disk.file()];
            let mut rests = titles.iter().filter_map(|title| word.as_bytes().strip_prefix(title.as_bytes()));
            let name = rests.find_map(|rest| rest.strip_prefix(b"="))?;
            Some((source, name))
        });
        match named {
            Some((source, name)) if !name.is_empty() => source.name = Some(name.to_vec()),
            _ => {
                let message =
                    format!("--disk-name {}: it is DISK=NAME, of a disk of the machine", word.to_string_lossy());
                return Err(Failure::Usage(message));
            }
        }
    }
    Ok((machine, sources))
}

/// Prints the commands that make the checkpoint. The moment begins with it, and is made of commands that depend on the answers.
fn plan_of_machine(machine: &Machine, sources: &[RunningSource], checkpoint: &[u8], session: &Session) -> Outcome {
    let mut plans = Vec::new();
    for source in sources.iter().filter(|source| source.disk.unfit().is_none()) {
        let host = machine.host(&source.disk)?;
        let image = Image::on(host, Path::new(source.disk.title()), &OpenOptions::new(Access::Write));
        image.survey(&mut session.watch())?;
        plans.push((&source.disk, image.plan_create(checkpoint, None, None)?));
    }
    let plans: Vec<_> = plans.iter().map(|(disk, plan)| (*disk, plan)).collect();
    let commands = machine.commands(&plans)?;
    print(session, |out| Ok(commands.iter().try_for_each(|command| writeln!(out, "{command}"))?))?;
    Ok(Status::Done)
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

fn tell(taken: &Taken, done: &str, session: &Session) {
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
    let (disk, checkpoint) = (Name::new(taken.name.as_slice()), Name::new(backup.checkpoint.as_slice()));
    session.say(&format!("{done} the disk {disk} at {checkpoint}: {} of data ({kind})", amount(backup.data_bytes)));
    if !taken.dropped.is_empty() {
        let names = some_of(taken.dropped.iter().map(|name| Name::new(name.as_slice()).to_string()), ", ");
        let number = count(taken.dropped.len() as u64, "older checkpoint");
        session.say(&format!("dropped {number} from the disk {disk}: {names}"));
    }
}
