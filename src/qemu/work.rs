#![forbid(unsafe_code)]
//! Owns a piece of work inside of a hypervisor: the mark that keeps other clients of checkmap out, and the removal of all that dead
//! ones left. Must never know what the work is about.

use super::answer::{self, Field};
use super::fill;
use super::machine::{Connection, Shared};
use super::moment;
use super::monitor::{Conversation, Failure};
use super::owner::{self, Life, MARK, Owner};
use super::reopen;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::{Observer, Step, tell};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::sync::MutexGuard;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long it waits between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// How long an export may take until it is gone: its last requests are answered first.
const MOST_FOR_AN_EXPORT: Duration = Duration::from_secs(10);

/// An observer that stops what lasts longer than it should: nobody waits for a clean-up in a hypervisor that does not answer.
#[derive(Debug)]
pub(super) struct Until(Option<Instant>);

impl Until {
    /// So long as a hypervisor may be silent.
    pub(super) fn timeout(shared: &Shared) -> Self {
        Self(Instant::now().checked_add(shared.options.timeout))
    }
}

/// The error where [`Until`] stopped the waiting.
pub(super) fn silent(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Cancelled => Error::new(ErrorKind::InUse, "the hypervisor does not answer in time")
            .advise("look whether it hangs, or allow more time"),
        _ => error,
    }
}

impl Observer for Until {
    fn step(&mut self, _: Step) -> ControlFlow<()> {
        match self.0.is_some_and(|end| Instant::now() >= end) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

/// Work of this client, of which there is one at a time in a hypervisor. Everything ends when it is dropped.
#[derive(Debug)]
pub(super) struct Work<'a> {
    shared: &'a Shared,
    pub(super) connection: MutexGuard<'a, Connection>,
    pub(super) owner: Owner,
    /// Whether something of this client may still be in the hypervisor, so that the mark has to stay for the next one.
    is_untidy: bool,
}

impl<'a> Work<'a> {
    /// Begins: waits for a client that is alive, and clears what a dead one left.
    pub(super) fn begin(shared: &'a Shared, observer: &mut dyn Observer) -> Result<Self> {
        let mut connection = shared.connection();
        let beside = shared.monitor.folder();
        let user = connection.user(shared, observer)?;
        let owner = Owner::new(beside.as_deref(), user)?;
        let deadline = Instant::now().checked_add(shared.options.timeout);
        let arguments = json!({ "qom-type": "authz-simple", "id": MARK, "identity": owner.identity() });
        let mut has_cleared = false;
        loop {
            match connection.command(shared, "object-add", &arguments, observer) {
                Ok(_) => return Ok(Self { shared, connection, owner, is_untidy: false }),
                Err(Failure::Refused(refusal)) if refusal.words.contains("duplicate property") => {}
                Err(Failure::Broken(error)) => {
                    // The mark may be there; the lock file says that its owner is dead.
                    return Err(error);
                }
                Err(failure) => return Err(failure.into_error()),
            }
            let is_late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            match Self::marked(shared, &mut connection, observer)? {
                // It went meanwhile, or something else has this id.
                None if is_late => return Err(owner::in_use("unknown", &Life::Unknown)),
                None => {}
                Some(identity) => match owner::life_of(&identity) {
                    Life::Dead(_lock) if !is_late || !has_cleared => {
                        Self::clear(shared, &mut connection, &identity, observer)?;
                        has_cleared = true;
                    }
                    life if is_late => return Err(owner::in_use(&identity, &life)),
                    _ => {}
                },
            }
            tell(observer, "waiting for another checkmap", 0, 0)?;
            sleep(PAUSE);
        }
    }

    /// Clears what a dead client left, where there is a mark of one.
    pub(super) fn clear_dead(shared: &Shared, connection: &mut Connection, observer: &mut dyn Observer) -> Result<()> {
        if let Some(identity) = Self::marked(shared, connection, observer)?
            && let Life::Dead(_lock) = owner::life_of(&identity)
        {
            Self::clear(shared, connection, &identity, observer)?;
            connection.refresh(shared, observer)?;
        }
        Ok(())
    }

    /// The text of the mark that is there.
    fn marked(shared: &Shared, connection: &mut Connection, observer: &mut dyn Observer) -> Result<Option<String>> {
        let arguments = json!({ "path": format!("/objects/{MARK}"), "property": "identity" });
        match connection.command(shared, "qom-get", &arguments, observer) {
            Ok(identity) => match identity.as_str() {
                Some(identity) => Ok(Some(identity.to_owned())),
                None => Err(answer::wrong("identity", "is no string")),
            },
            Err(Failure::Refused(_)) => Ok(None),
            Err(failure) => Err(failure.into_error()),
        }
    }

    /// Removes the exports, the nodes and the server of a dead client, sets back the layers that it made writable, and removes its mark
    /// last.
    fn clear(shared: &Shared, connection: &mut Connection, identity: &str, observer: &mut dyn Observer) -> Result<()> {
        moment::resume(shared, connection)?;
        let folder = owner::left_by(identity);
        let id = folder.as_ref().and_then(|folder| Some(folder.file_name()?.to_string_lossy().into_owned()));
        connection.refresh(shared, observer)?;
        let exports = exports(shared, connection)?;
        let is_of_it = |name: &str| {
            id.as_ref().and_then(|id| name.strip_prefix(id.as_str())).is_some_and(|rest| rest.starts_with('-'))
        };
        for export in exports.iter().filter(|export| is_of_it(export)) {
            remove_export(shared, connection, export)?;
        }
        fill::clear(shared, connection, &is_of_it, observer)?;
        let nodes: Vec<String> = connection.nodes.names().filter(|name| is_of_it(name)).map(str::to_owned).collect();
        for node in nodes {
            connection.ask(shared, "blockdev-del", &json!({ "node-name": node }), observer)?;
        }
        if let Some(folder) = folder.as_ref().filter(|folder| owner::listens(folder)) {
            let stopped = connection.ask(shared, "nbd-server-stop", &Value::Null, observer);
            stopped.map_err(|error| error.in_file(folder))?;
        }
        reopen::clear(shared, connection)?;
        remove_mark(shared, connection)?;
        folder.as_deref().map(owner::remove);
        Ok(())
    }

    pub(super) fn command(
        &mut self,
        name: &str,
        arguments: &Value,
        observer: &mut dyn Observer,
    ) -> std::result::Result<Value, Failure> {
        self.connection.command(self.shared, name, arguments, observer)
    }

    /// The answer to a command that QEMU carries out at once, in the time that the caller told.
    pub(super) fn ask(&mut self, name: &str, arguments: &Value) -> Result<Value> {
        self.connection.ask(self.shared, name, arguments, &mut Until::timeout(self.shared)).map_err(silent)
    }

    /// As [`Work::ask`], of commands that can be carried out twice: tried once more where the conversation breaks.
    pub(super) fn surely(&mut self, name: &str, arguments: &Value) -> std::result::Result<Value, Failure> {
        self.connection.surely(self.shared, name, arguments)
    }

    pub(super) fn refresh(&mut self, observer: &mut dyn Observer) -> Result<()> {
        self.connection.refresh(self.shared, observer)
    }

    /// Notes that something may have been left behind.
    pub(super) fn is_untidy(&mut self) {
        self.is_untidy = true;
    }

    /// Removes an export, and waits until it is gone.
    pub(super) fn remove_export(&mut self, export: &str) -> Result<()> {
        remove_export(self.shared, &mut self.connection, export)
    }

    pub(super) fn shared(&self) -> &'a Shared {
        self.shared
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        // A mark that stays has the next client look for the rest: the lock file tells it that this one is gone.
        let is_tidy = !self.is_untidy && remove_mark(self.shared, &mut self.connection).is_ok();
        if !is_tidy && self.owner.is_listened_at() {
            self.owner.leave();
        }
    }
}

fn remove_mark(shared: &Shared, connection: &mut Connection) -> Result<()> {
    match connection.command(shared, "object-del", &json!({ "id": MARK }), &mut Until::timeout(shared)) {
        Ok(_) => Ok(()),
        Err(failure) => Err(silent(failure.into_error())),
    }
}

/// The ids of all exports.
pub(super) fn exports(shared: &Shared, connection: &mut Connection) -> Result<Vec<String>> {
    let exports = connection.surely(shared, "query-block-exports", &Value::Null);
    let exports = exports.map_err(|failure| silent(failure.into_error()))?;
    answer::items(&exports, "query-block-exports")?.iter().map(|export| String::take(export, "id")).collect()
}

fn remove_export(shared: &Shared, connection: &mut Connection, export: &str) -> Result<()> {
    let arguments = json!({ "id": export, "mode": "hard" });
    match connection.surely(shared, "block-export-del", &arguments) {
        // It may be on its way out already.
        Ok(_) | Err(Failure::Refused(_)) => {}
        Err(failure) => return Err(silent(failure.into_error())),
    }
    let deadline = Instant::now() + MOST_FOR_AN_EXPORT;
    while exports(shared, connection)?.iter().any(|other| other == export) {
        if Instant::now() >= deadline {
            return Err(Error::new(ErrorKind::InUse, format!("the export {export:?} does not go away")));
        }
        sleep(Duration::from_millis(1));
    }
    Ok(())
}

impl Connection {
    /// The user as whom the hypervisor runs, where that can be told.
    pub(super) fn user(&mut self, shared: &Shared, observer: &mut dyn Observer) -> Result<Option<u32>> {
        // Begins the conversation where it broke.
        self.ask(shared, "query-version", &Value::Null, observer)?;
        if let Some(Conversation::Socket(socket)) = self.conversation() {
            return Ok(socket.peer());
        }
        // libvirt does not tell; the thread of a processor does.
        let processors = match self.command(shared, "query-cpus-fast", &Value::Null, observer) {
            Ok(processors) => processors,
            Err(Failure::Refused(_)) => return Ok(None),
            Err(failure) => return Err(failure.into_error()),
        };
        let thread = processors.as_array().and_then(|all| all.first()?.get("thread-id")?.as_u64());
        let status = thread.and_then(|thread| std::fs::metadata(format!("/proc/{thread}")).ok());
        Ok(status.map(|status| status.uid()))
    }
}
