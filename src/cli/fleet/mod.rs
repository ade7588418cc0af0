#![forbid(unsafe_code)]
//! Owns `checkmap fleet`: a verb on each disk of a list, several at a time, each in a process of its own. Must never know what a verb
//! does with its disk.

pub(crate) mod args;
mod child;
mod manifest;
mod report;
mod state;
mod verbs;

use crate::exit::{Failure, Outcome as End, Status as ExitStatus};
use crate::session::Session;
use crate::words::count;
use args::FleetArgs;
use checkmap::chain::Name;
use checkmap::progress::{Observer, Step};
use checkmap::{Error, ErrorKind};
use child::{Ended, MOST_ANSWER_BYTES};
use manifest::{Entry, Manifest, Source, same_disk};
use report::{Answer, Outcome, Report, Status};
use state::State;
use std::fs::{self, DirBuilder};
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{available_parallelism, scope};
use std::time::Instant;
use verbs::{Verb, Wanted};

pub(crate) fn run(args: &FleetArgs, session: &Session) -> End {
    let since = Instant::now();
    let manifest = Manifest::read(&args.manifest)?;
    let host = args.host.clone().map_or_else(host_name, Ok)?;
    let is_here = |entry: &&Entry| entry.host.as_deref().is_none_or(|of| of == host);
    let here: Vec<&Entry> = manifest.entries.iter().filter(is_here).collect();
    let wanted = Wanted {
        json: args.json,
        dry_run: args.dry_run,
        quiet: session.is_quiet(),
        no_lock: session.is_without_locks(),
    };
    let verb = Verb::new(&args.command, wanted, &one_of_each_kind(&here))?;
    if args.wide && verb.json {
        return Err(Failure::Usage("--wide is for the table, and --json has none".into()));
    }
    if verb.prints_binary && here.len() > 1 {
        let why = "this format is binary, and the answers of several disks would run into one another";
        return Err(Failure::Usage(format!("{why}: give a folder with -o DIR")));
    }
    verb.check_since(here.iter().copied())?;
    verb.check_places(here.iter().copied())?;
    if let Some((one, other)) = same_disk(here.iter().copied()).filter(|_| verb.changes) {
        let message = format!(
            "{} and {} are the same disk, which would be changed twice",
            quoted(&one.disk),
            quoted(&other.disk)
        );
        return Err(Failure::Usage(format!("{}: {message}: remove one of them", args.manifest.display())));
    }
    if here.is_empty() && !manifest.entries.is_empty() {
        // A host that has another name than it thinks would otherwise never be backed up, and nobody would know.
        let message =
            format!("no disk is of this host, {}: all {} are of others", quoted(&host), manifest.entries.len());
        let error = Error::new(ErrorKind::NotFound, message).in_file(&args.manifest);
        return Err(error.advise("say with --host which name this host has in the manifest").nothing_changed().into());
    }
    if let Some(folder) = &verb.folder {
        make_folder(folder, verb.gives_folders)?;
    }
    let state = match &args.state {
        Some(path) => {
            // Relative paths of the same document lead to other disks from another folder.
            let place = vec![host.into_bytes(), folder_of(&args.manifest)?.into_os_string().into_vec()];
            Some(State::open(path, &manifest.bytes, &[verb.identity(), place].concat())?)
        }
        None => None,
    };
    drop(manifest.bytes);
    let mut report = Report::begin(verb.json, args.wide);
    let mut pending = Vec::new();
    let mut at_here = here.iter();
    let mut next_here = at_here.next();
    for entry in &manifest.entries {
        // Both lists have one order.
        if next_here.is_none_or(|here| !std::ptr::eq(*here, entry)) {
            let message = entry.host.as_ref().map(|host| format!("it is of the host {}", quoted(host)));
            report.add(&entry.disk, &Outcome::without_a_run(Status::LeftOut, message), Answer::Nothing);
            continue;
        }
        next_here = at_here.next();
        match state.as_ref().is_some_and(|state| state.is_done(&entry.disk)) {
            true => report.add(&entry.disk, &Outcome::without_a_run(Status::DoneBefore, None), Answer::Nothing),
            false => pending.push(entry),
        }
    }
    let jobs = args.jobs.map_or_else(|| available_parallelism().map_or(1, usize::from), usize::from);
    Fleet { verb: &verb, session, pending, jobs, stop: AtomicBool::new(false) }.run(report, state, since)
}

/// The disks that are to be run.
struct Fleet<'a> {
    verb: &'a Verb,
    session: &'a Session,
    pending: Vec<&'a Entry>,
    jobs: usize,
    /// No further disk is begun.
    stop: AtomicBool,
}

impl Fleet<'_> {
    fn run(&self, mut report: Report, mut state: Option<State>, since: Instant) -> End {
        let next = AtomicUsize::new(0);
        let workers = self.jobs.min(self.pending.len());
        let (send, receive) = sync_channel(workers);
        let (ran, trouble) = scope(|scope| {
            for _ in 0..workers {
                let (send, next) = (send.clone(), &next);
                scope.spawn(move || {
                    while !self.is_over() {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(entry) = self.pending.get(at) else { return };
                        let ended =
                            child::run(&self.verb.arguments(entry), !self.verb.changes, self.session.interrupt());
                        if send.send((at, ended)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(send);
            self.receive(&receive, &mut report, state.as_mut())
        });
        for entry in self.pending.iter().zip(&ran).filter(|(_, ran)| !**ran).map(|(entry, _)| entry) {
            report.add(&entry.disk, &Outcome::without_a_run(Status::NotBegun, None), Answer::Nothing);
        }
        let (failed, not_begun) = (report.count(Status::Failed), report.count(Status::NotBegun));
        let is_closed = report.is_broken();
        report.end(since.elapsed().as_secs_f64())?;
        trouble.map_or(Ok(()), Err)?;
        if is_closed && failed == 0 && self.only_answers() && state.is_none() && !self.session.interrupt().came() {
            // Nobody reads any more, and the answers were all that was wanted.
            return Ok(ExitStatus::Done);
        }
        if self.session.interrupt().came() {
            self.session.error(&format!("interrupted: {} not begun", count(not_begun, "disk")));
            self.session.interrupt().die();
        }
        match failed + not_begun {
            0 => Ok(ExitStatus::Done),
            number => {
                self.session.error(&format!("{number} of {} not done", count(self.pending.len() as u64, "disk")));
                Ok(ExitStatus::Fault)
            }
        }
    }

    /// Whether nothing stays of a run but what it prints.
    fn only_answers(&self) -> bool {
        !self.verb.changes && self.verb.folder.is_none()
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.session.interrupt().came()
    }

    /// Takes each outcome as it comes; with whether each disk ran, and why the run could not go on.
    fn receive(
        &self,
        receive: &Receiver<(usize, Ended)>,
        report: &mut Report,
        mut state: Option<&mut State>,
    ) -> (Vec<bool>, Option<Failure>) {
        let total = self.pending.len() as u64;
        let mut ran = vec![false; self.pending.len()];
        let mut trouble = None;
        // Answers on a terminal would be torn by a bar.
        let shows = self.verb.folder.is_some() || self.verb.changes || !io::stdout().is_terminal();
        let mut watch = shows.then(|| self.session.watch());
        for (done, (at, ended)) in (1..).zip(receive) {
            if let (Some(ran), Some(entry)) = (ran.get_mut(at), self.pending.get(at)) {
                *ran = true;
                let (outcome, answer) = self.judge(&ended);
                if outcome.status == Status::Failed {
                    let message = outcome.message.as_deref().unwrap_or_default();
                    self.session.error(&format!("the disk {}: {message}", quoted(&entry.disk)));
                }
                if let Some(state) = state.as_deref_mut().filter(|_| trouble.is_none()) {
                    trouble = state.note(&entry.disk, &outcome).err();
                }
                report.add(&entry.disk, &outcome, answer);
            }
            // Where no process can be started, the next disk would fail for the same reason.
            let is_short = ended.status.is_none();
            if is_short || trouble.is_some() || report.is_broken() && self.only_answers() {
                self.stop.store(true, Ordering::Relaxed);
            }
            if let Some(watch) = &mut watch {
                // Workers look for the signal themselves.
                let _ = watch.step(Step::new("disks", done, total));
            }
        }
        (ran, trouble)
    }

    /// How a disk ended, and the answer to print of it.
    fn judge<'e>(&self, ended: &'e Ended) -> (Outcome, Answer<'e>) {
        let text = match ended.answer.is_empty() || ended.is_cut {
            true => Answer::Nothing,
            false => Answer::Text(&ended.answer),
        };
        let (answer, is_json) = match self.verb.prints_json && !ended.is_cut && !ended.answer.is_empty() {
            true => match serde_json::from_slice(&ended.answer) {
                Ok(value) => (Answer::Json(value), true),
                Err(_) => (text, false),
            },
            false => (text, true),
        };
        let mut message = (!ended.said.is_empty()).then(|| ended.said.clone());
        let mut is_done = ended.status == Some(0);
        if ended.is_cut {
            let cut =
                format!("its answer is longer than {} MiB: let it go to a file with -o DIR", MOST_ANSWER_BYTES >> 20);
            message = Some(cut);
            // A change stands, whether its answer can be shown or not.
            is_done &= self.verb.changes;
        } else if is_done && !is_json {
            message = Some("its answer is no JSON".to_owned());
            is_done = false;
        } else if let (false, Some(status)) = (is_done, ended.status) {
            let how = match status {
                129.. => format!("it was ended by signal {}", status - 128),
                _ => format!("it ended with status {status}"),
            };
            message = Some(match (message, status) {
                (Some(said), 129..) => format!("{how}; {said}"),
                (Some(said), _) => said,
                (None, _) => how,
            });
        }
        let status = if is_done { Status::Done } else { Status::Failed };
        (Outcome { status, exit_status: ended.status, message, seconds: Some(ended.seconds) }, answer)
    }
}

/// A disk of each kind that the arguments are tried with.
fn one_of_each_kind<'a>(entries: &[&'a Entry]) -> Vec<&'a Entry> {
    let kind = |entry: &Entry| match &entry.source {
        Source::Image(_) => 0,
        Source::Qmp { .. } => 1,
        Source::Libvirt { .. } => 2,
    };
    (0..3).filter_map(|wanted| entries.iter().find(|entry| kind(entry) == wanted)).copied().collect()
}

/// A name as messages have it.
fn quoted(name: &str) -> Name {
    Name::new(name)
}

/// The folder of a manifest, from the root on.
fn folder_of(manifest: &Path) -> Result<PathBuf, Failure> {
    let folder = manifest.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let failed = |error| Error::io("the folder of the manifest cannot be found", error).in_file(folder).into();
    fs::canonicalize(folder).map_err(failed)
}

/// The name of this host, as the system has it.
fn host_name() -> Result<String, Failure> {
    let file = Path::new("/proc/sys/kernel/hostname");
    let name = fs::read_to_string(file)
        .map_err(|error| Error::io("the name of this host cannot be read", error).in_file(file))?;
    Ok(name.trim_end().to_owned())
}

/// Makes the folder for the answers, where there is none, and looks whether it can be written to.
fn make_folder(folder: &Path, is_private: bool) -> Result<(), Failure> {
    let failed =
        |error| Failure::from(Error::io("answers cannot be written there", error).in_file(folder).nothing_changed());
    match DirBuilder::new().mode(if is_private { 0o700 } else { 0o777 }).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    // Without a name, so that nothing is left.
    tempfile::tempfile_in(folder).map(drop).map_err(failed)
}
