#![forbid(unsafe_code)]
//! Owns `checkmap serve`: the socket, the command that is run beside it, and the end of both. Must never know the protocol.

use crate::args::ServeArgs;
use crate::exit::{Failure, Outcome, Status};
use crate::moment;
use crate::session::Session;
use crate::target::Target;
use checkmap::image::{Access, DiffRequest};
use checkmap::nbd::Uri;
use checkmap::nbd::server::{DEFAULT_CLIENTS, Listener};
use checkmap::progress::Step;
use checkmap::qemu::Moment;
use checkmap::serve::{Options, Served};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT};
use std::ffi::OsStr;
use std::io::{IsTerminal, stderr};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use tempfile::TempDir;

/// The longest name of an export.
const MOST_EXPORT_BYTES: usize = 4096;

pub(crate) fn run(args: &ServeArgs, session: &Session) -> Outcome {
    let target = args.target.only()?;
    let of_moment = [
        ("--checkpoint", args.checkpoint.is_some()),
        ("--scratch", args.scratch.is_some()),
        ("--scratch-max", args.scratch_max.is_some()),
    ];
    let of_moment = of_moment.iter().find(|(_, is_there)| *is_there).map(|(option, _)| *option);
    match (target, of_moment) {
        (Target::Image(_), Some(option)) => {
            let message =
                format!("{option} is for disks of a running hypervisor: an image does not change while it is served");
            return Err(Failure::Usage(message));
        }
        (Target::Machine(_), Some(option)) if args.until.is_some() => {
            return Err(Failure::Usage(format!("{option} does not go with --until: the map alone is served then")));
        }
        (Target::Machine(_), _) if args.until.is_none() && args.checkpoint.is_none() => {
            let message = "say with --checkpoint which checkpoint is made at the moment that is served, or with --until up to \
                           which one the map alone is served";
            return Err(Failure::Usage(message.into()));
        }
        _ => {}
    }
    if args.socket.is_none() && args.run.is_none() {
        return Err(Failure::Usage("say where to listen with --socket, or what to run with --run".into()));
    }
    let export = args.export.as_deref().unwrap_or_default().as_bytes();
    if export.len() > MOST_EXPORT_BYTES {
        return Err(Failure::Usage(format!("the name of an export has at most {MOST_EXPORT_BYTES} bytes")));
    }
    let request = DiffRequest::since(args.since.as_bytes()).layers(args.layers.wanted()).model(args.model.wanted());
    let request = args.until.as_ref().map_or(request, |until| request.until(until.as_bytes()));
    let options = Options::new().bitmap_name(args.bitmap_name.as_bytes()).secret_file(args.secret_file.as_deref());
    let image = match (target, &args.checkpoint) {
        (Target::Machine(_), Some(checkpoint)) => {
            let checkpoint = checkpoint.as_bytes();
            let open = |moment: &Moment, image| {
                Served::of_moment(image, &request, (moment, 0, checkpoint), &options, &mut session.watch())
            };
            return moment::run(args, checkpoint, session, &open, &|served, look| {
                serve(args, export, served, look, session)
            });
        }
        (target, _) => session.open_one(target, Access::Read)?,
    };
    // From now on the end is always an orderly one: sockets and helpers go away.
    session.interrupt().hold();
    let served = Served::open(image, &request, &options, &mut session.watch())?;
    tell(&served, session);
    serve(args, export, &served, &|| {}, session)
}

/// Serves until it is asked to end, or the command has ended. `look` is called now and then meanwhile.
fn serve(args: &ServeArgs, export: &[u8], served: &Served, look: &dyn Fn(), session: &Session) -> Outcome {
    let (socket, _folder) = place(args)?;
    let listener = Listener::bind(&socket)?;
    let uri = Uri { address: listener.address(), export: export.to_vec() }.to_string();
    match &args.run {
        Some(command) => run_beside(command, &uri, &listener, (export, served), look, session),
        None => {
            session.say(&format!("serving at {uri}"));
            let mut watch = |_: Step| {
                look();
                if session.interrupt().came() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            listener.serve(export, served, DEFAULT_CLIENTS, &mut watch)?;
            match session.interrupt().signal() {
                Some(SIGHUP) => Err(Failure::Interrupted),
                _ => Ok(Status::Done),
            }
        }
    }
}

/// Tells which files are read, and how.
fn tell(served: &Served, session: &Session) {
    for warning in served.warnings() {
        session.warn(warning);
    }
    for file in served.files() {
        session.say(&format!("reading {}: {}, {}", file.path.display(), file.role, file.format));
    }
    if let Some(why) = served.through_qemu() {
        session.say(&format!("reading through a private qemu-nbd: {why}"));
    }
    if served.is_map_alone() {
        session.say("serving the map alone: reads are refused, as the disk has changed since that checkpoint");
    }
}

/// Where to listen: as asked for, or in a folder that goes away.
fn place(args: &ServeArgs) -> Result<(PathBuf, Option<TempDir>), Failure> {
    let failed = |error| checkmap::Error::io("cannot make a folder for the socket", error);
    match &args.socket {
        Some(path) => Ok((std::path::absolute(path).map_err(failed)?, None)),
        None => {
            let folder = tempfile::Builder::new().prefix("checkmap-").tempdir().map_err(failed)?;
            Ok((folder.path().join("nbd.sock"), Some(folder)))
        }
    }
}

/// Serves until the command has ended; its status is ours.
fn run_beside(
    command: &OsStr,
    uri: &str,
    listener: &Listener,
    (export, served): (&[u8], &Served),
    look: &dyn Fn(),
    session: &Session,
) -> Outcome {
    let spawned = Command::new("/bin/sh").arg("-c").arg(command).env("uri", uri).spawn();
    let mut child = spawned.map_err(|error| checkmap::Error::io("cannot run the command", error))?;
    let (mut ended, mut is_told) = (None, false);
    let mut watch = |_: Step| {
        look();
        ended = child.try_wait().ok().flatten();
        if let Some(signal) = session.interrupt().signal().filter(|_| !is_told) {
            is_told = true;
            pass_on(signal, &child);
        }
        if ended.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let outcome = listener.serve(export, served, DEFAULT_CLIENTS, &mut watch);
    let status = match ended {
        Some(status) => status,
        None => child.wait().map_err(|error| checkmap::Error::io("cannot wait for the command", error))?,
    };
    outcome?;
    match code_of(status) {
        0 => Ok(Status::Done),
        code => Err(Failure::OfCommand(code)),
    }
}

/// Lets the command end as we are asked to. A key of a terminal reaches it by itself.
fn pass_on(signal: i32, child: &Child) {
    if signal == SIGINT && stderr().is_terminal() {
        return;
    }
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some((pid, signal)) = pid.zip(Signal::from_named_raw(signal)) {
        // It may have ended by now.
        let _ = kill_process(pid, signal);
    }
}

/// The status as a shell gives it.
fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(u8::MAX)
}
