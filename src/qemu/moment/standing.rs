#![forbid(unsafe_code)]
//! Owns the moment that stands in a hypervisor: how it is found, whose it is, and its removal in the one order that works. Must never
//! know how it came to be.

use super::super::answer::{self, Field};
use super::super::machine::{Connection, Shared};
use super::super::monitor::Failure;
use super::super::owner::{self, Life};
use super::super::work::{self, Until, Work, silent};
use super::note::{Form, NOTE, Note, NotedDisk, Thing};
use super::scratch;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Observer;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The id of the object that says that the machine was stopped for a step, and has to go on.
const PAUSE_NOTE: &str = "checkmap-paused";

/// How long a job may take until it is gone: the requests that are under way end first.
const MOST_FOR_A_JOB: Duration = Duration::from_secs(30);

/// The note that is there.
pub(super) fn noted(shared: &Shared, connection: &mut Connection, observer: &mut dyn Observer) -> Result<Option<Note>> {
    match identity(shared, connection, NOTE, observer)? {
        Some(text) => Note::read(&text).map(Some),
        None => Ok(None),
    }
}

/// The text of an object of ours.
fn identity(
    shared: &Shared,
    connection: &mut Connection,
    id: &str,
    observer: &mut dyn Observer,
) -> Result<Option<String>> {
    let arguments = json!({ "path": format!("/objects/{id}"), "property": "identity" });
    match connection.command(shared, "qom-get", &arguments, observer) {
        Ok(identity) => Ok(Some(identity.as_str().unwrap_or_default().to_owned())),
        Err(Failure::Refused(_)) => Ok(None),
        Err(failure) => Err(failure.into_error()),
    }
}

/// Where the server of the moment listens that stands, where that is one of checkmap's own: others of our clients may use it.
pub(in super::super) fn server(work: &mut Work<'_>) -> Result<Option<PathBuf>> {
    let shared = work.shared();
    let noted = noted(shared, &mut work.connection, &mut Until::timeout(shared)).map_err(silent)?;
    Ok(noted.filter(|note| note.is_own_server && owner::listens(&note.folder)).map(|note| note.server))
}

/// Whether all of a moment is there: its exports are made last.
pub(super) fn is_whole(shared: &Shared, connection: &mut Connection, note: &Note) -> Result<bool> {
    let exports = work::exports(shared, connection)?;
    Ok((0..note.disks.len()).all(|at| exports.contains(&note.name(Thing::Access, at))))
}

/// Removes a moment whose owner is dead, unless it is whole and has a name by which somebody will ask for it. The folder of one that
/// stands.
pub(in super::super) fn clear_dead(shared: &Shared, observer: &mut dyn Observer) -> Result<Option<PathBuf>> {
    {
        let mut connection = shared.connection();
        let Some(note) = noted(shared, &mut connection, observer)? else { return Ok(None) };
        if !is_to_go(shared, &mut connection, &note)? {
            return Ok(Some(note.folder));
        }
    }
    let mut work = Work::begin(shared, observer)?;
    clear_in(&mut work, observer)?;
    Ok(None)
}

/// As [`clear_dead`], in a piece of work.
pub(super) fn clear_in(work: &mut Work<'_>, observer: &mut dyn Observer) -> Result<()> {
    let shared = work.shared();
    if let Some(note) = noted(shared, &mut work.connection, observer)?
        && is_to_go(shared, &mut work.connection, &note)?
        && let Life::Dead(_lock) = owner::life_of(&note.folder.to_string_lossy())
    {
        remove(work, &note)?;
        forget(&note);
        work.refresh(observer)?;
    }
    Ok(())
}

/// Removes the folders of a moment that is not there any more, and whose owner is dead.
pub(super) fn forget(note: &Note) {
    for folder in [&note.folder, &note.scratch] {
        if owner::left_by(&folder.to_string_lossy()).is_some() {
            owner::remove(folder);
        }
    }
}

fn is_to_go(shared: &Shared, connection: &mut Connection, note: &Note) -> Result<bool> {
    let is_dead = matches!(owner::life_of(&note.folder.to_string_lossy()), Life::Dead(_));
    Ok(is_dead && (note.id.is_none() || !is_whole(shared, connection, note)?))
}

/// Removes all of a moment that is there, its note last: exports, the nodes on the filters, the filters or jobs, scratch images, server.
pub(super) fn remove(work: &mut Work<'_>, note: &Note) -> Result<()> {
    let shared = work.shared();
    let count = note.disks.len();
    let exports = work::exports(shared, &mut work.connection)?;
    for export in (0..count).map(|at| note.name(Thing::Access, at)).filter(|name| exports.contains(name)) {
        work.remove_export(&export)?;
    }
    for at in 0..count {
        remove_node(work, &note.name(Thing::Access, at))?;
    }
    for (at, disk) in note.disks.iter().enumerate() {
        match note.form {
            Form::Job => cancel(work, &note.name(Thing::Job, at))?,
            Form::Filter => {
                let filter = note.name(Thing::Filter, at);
                // Without its device it has the filter no more. A snapshot that was made meanwhile stands between the filter and
                // the node of before: the device gets the node that the filter has now, and never an older one.
                if behind(work, disk)?.as_deref() == Some(&filter) {
                    let (below, _) = work.connection.nodes.files(&filter)?;
                    let below = below.map(|below| below.name.clone());
                    let below = below.ok_or_else(|| answer::wrong("children", "of a filter has nothing below it"))?;
                    put(work, disk, &filter, &below)?;
                }
                remove_node(work, &filter)?;
            }
        }
        remove_node(work, &note.name(Thing::Scratch, at))?;
    }
    if note.is_own_server && owner::listens(&note.folder) {
        work.ask("nbd-server-stop", &Value::Null)?;
    }
    remove_object(work, NOTE)?;
    scratch::remove(&note.scratch, count);
    Ok(())
}

fn remove_node(work: &mut Work<'_>, node: &str) -> Result<()> {
    match work.surely("blockdev-del", &json!({ "node-name": node })) {
        Ok(_) => Ok(()),
        Err(Failure::Refused(refusal)) if refusal.is_of_absence() => Ok(()),
        Err(failure) => Err(silent(failure.into_error())),
    }
}

fn remove_object(work: &mut Work<'_>, id: &str) -> Result<()> {
    match work.surely("object-del", &json!({ "id": id })) {
        Ok(_) => Ok(()),
        Err(Failure::Refused(refusal)) if refusal.is_of_absence() => Ok(()),
        Err(failure) => Err(silent(failure.into_error())),
    }
}

/// Ends a job, and waits until it is gone.
fn cancel(work: &mut Work<'_>, job: &str) -> Result<()> {
    let deadline = Instant::now() + MOST_FOR_A_JOB;
    let mut is_told = false;
    loop {
        let jobs = work.ask("query-jobs", &Value::Null)?;
        let mut ids = answer::items(&jobs, "query-jobs")?.iter().map(|job| String::take(job, "id"));
        if !ids.any(|id| id.is_ok_and(|id| id == job)) {
            return Ok(());
        }
        if !std::mem::replace(&mut is_told, true) {
            match work.surely("job-cancel", &json!({ "id": job })) {
                // It may be on its way out already.
                Ok(_) | Err(Failure::Refused(_)) => {}
                Err(failure) => return Err(silent(failure.into_error())),
            }
        }
        if Instant::now() >= deadline {
            return Err(Error::new(ErrorKind::InUse, format!("the job {job:?} does not go away")));
        }
        sleep(Duration::from_millis(1));
    }
}

/// The node that the device of a disk has now.
pub(super) fn behind(work: &mut Work<'_>, disk: &NotedDisk) -> Result<Option<String>> {
    let shared = work.shared();
    work.refresh(&mut Until::timeout(shared)).map_err(silent)?;
    let device = disk.qdev.as_deref().and_then(|qdev| work.connection.nodes.device(qdev));
    Ok(device.map(|device| device.node.clone()))
}

/// The path of a device among the objects.
pub(super) fn path_of(qdev: &str) -> String {
    if qdev.starts_with('/') { qdev.to_owned() } else { format!("/machine/peripheral/{qdev}") }
}

/// The arguments of `qom-set` that give the device of a disk the node `to` in the place of `from`; none where it has it.
///
/// QEMU 10.0 ends where a device is given the node that it has, so this is asked before each time.
pub(super) fn putting(work: &mut Work<'_>, disk: &NotedDisk, from: &str, to: &str) -> Result<Option<Value>> {
    let Some(qdev) = &disk.qdev else {
        return Err(Error::new(ErrorKind::Changed, format!("no device of the guest has the disk {:?}", disk.node)));
    };
    match behind(work, disk)? {
        Some(now) if now == to => Ok(None),
        Some(now) if now == from => Ok(Some(json!({ "path": path_of(qdev), "property": "drive", "value": to }))),
        now => Err(has_another(qdev, now.as_deref(), from)),
    }
}

fn has_another(qdev: &str, now: Option<&str>, expected: &str) -> Error {
    let message = format!("the device {qdev:?} has the node {now:?} meanwhile, and not {expected:?}");
    Error::new(ErrorKind::Changed, message).advise("look who works on this machine")
}

/// Fails where the device of a disk has another node.
pub(super) fn check_behind(work: &mut Work<'_>, disk: &NotedDisk, node: &str) -> Result<()> {
    match behind(work, disk)? {
        Some(now) if now == node => Ok(()),
        now => Err(has_another(disk.qdev.as_deref().unwrap_or_default(), now.as_deref(), node)),
    }
}

/// Gives the device of a disk the node `to` in the place of `from`. After a conversation that broke it is tried once more.
fn put(work: &mut Work<'_>, disk: &NotedDisk, from: &str, to: &str) -> Result<()> {
    let mut broken = None;
    for _ in 0..2 {
        let Some(arguments) = putting(work, disk, from, to)? else { return Ok(()) };
        let shared = work.shared();
        match work.command("qom-set", &arguments, &mut Until::timeout(shared)) {
            Ok(_) => return Ok(()),
            Err(Failure::Broken(error)) => broken = Some(error),
            Err(failure) => return Err(failure.into_error()),
        }
    }
    Err(broken.map_or_else(|| answer::wrong("qom-set", "is missing"), silent))
}

/// The machine is to stand still for a step.
#[derive(Debug)]
pub(super) struct Pause {
    since: Instant,
}

impl Pause {
    /// Notes it, where the machine runs. An object in the hypervisor says that it is to go on, so that the next client sees to it where
    /// this one is killed.
    pub(super) fn begin(work: &mut Work<'_>) -> Result<Option<Self>> {
        if !answer::flag(&work.ask("query-status", &Value::Null)?, "running", false)? {
            return Ok(None);
        }
        let arguments = json!({ "qom-type": "authz-simple", "id": PAUSE_NOTE, "identity": "stopped" });
        work.ask("object-add", &arguments)?;
        Ok(Some(Self { since: Instant::now() }))
    }

    /// Lets the machine go on where it does not, and removes the note; how long it stood still at most.
    pub(super) fn end(self, work: &mut Work<'_>) -> Result<Duration> {
        let stood = self.since.elapsed();
        let shared = work.shared();
        resume(shared, &mut work.connection).inspect_err(|_| work.is_untidy())?;
        Ok(stood)
    }
}

/// Lets a machine go on that a client of ours stopped for a step.
pub(in super::super) fn resume(shared: &Shared, connection: &mut Connection) -> Result<()> {
    if identity(shared, connection, PAUSE_NOTE, &mut Until::timeout(shared)).map_err(silent)?.is_none() {
        return Ok(());
    }
    let surely = |connection: &mut Connection, name: &str, arguments: &Value| {
        connection.surely(shared, name, arguments).map_err(|failure| silent(failure.into_error()))
    };
    let status = surely(connection, "query-status", &Value::Null)?;
    // Somebody else may have stopped it for a reason of their own, or it has an error to be looked at.
    if status.get("status").and_then(Value::as_str) == Some("paused") {
        surely(connection, "cont", &Value::Null)?;
    }
    surely(connection, "object-del", &json!({ "id": PAUSE_NOTE })).map(drop)
}
