#![forbid(unsafe_code)]
//! Owns the layers below that are writable for the time of one step: how each is made so and read-only again, whatever happens
//! in between. Must never know what changes in them.
//!
//! The monitor for people has a way that keeps every option of a node: `qemu-io NODE "reopen -w"`, with the answer empty where it
//! was done. `blockdev-reopen` sets back each option that it is not told of, and QMP tells of a few only: it is for
//! `qemu-storage-daemon`, which has no such monitor.
//!
//! An object in the hypervisor, beside the mark of the client, names the nodes before the first one changes, so that the next
//! client finds those that a dead one left writable. It lives exactly as long as the nodes.

use super::answer;
use super::commands;
use super::machine::{Connection, Shared};
use super::monitor::{Failure, Refusal};
use super::nodes::{Node, Reopening};
use super::work::{Until, Work, silent};
use crate::error::{Error, ErrorKind, Result, WayOut};
use crate::progress::{Observer, Unobserved};
use serde_json::{Value, json};

/// The id of the object that names the nodes.
const NOTE: &str = "checkmap-writable";

/// How a node is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// The command that opens a node for this access, with its arguments.
pub(super) fn line(node: &Node, access: Access) -> Result<(&'static str, Value)> {
    let name = &node.name;
    match &node.reopening {
        Reopening::ByPeople => {}
        Reopening::ByOptions(options) => {
            let mut options = options.clone();
            options.as_object_mut().map(|all| all.insert("read-only".to_owned(), json!(access == Access::Read)));
            return Ok(("blockdev-reopen", json!({ "options": [options] })));
        }
        Reopening::Untold => {
            let message = format!(
                "the node {name:?} has options that this hypervisor does not tell of, so it cannot be opened anew"
            );
            return Err(Error::new(ErrorKind::BackingLayer, message).advise("do it while the disk is not in use"));
        }
    }
    // QEMU allows letters, digits and these, and puts '#' before the names that it makes up.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._#".contains(&byte);
    if name.is_empty() || name.starts_with('-') || !name.bytes().all(is_plain) {
        let message = format!("the node {name:?} cannot be said to the monitor that makes it writable");
        return Err(Error::new(ErrorKind::InvalidName, message).advise("give it a node-name of letters and digits"));
    }
    let option = if access == Access::Write { "-w" } else { "-r" };
    Ok(("human-monitor-command", json!({ "command-line": format!("qemu-io {name} \"reopen {option}\"") })))
}

/// Layers that are writable until this ends.
#[derive(Debug)]
pub(super) struct Reopened<'w, 'a> {
    pub(super) work: &'w mut Work<'a>,
    /// The nodes that were read-only, in the order in which they are to be so again.
    nodes: Vec<String>,
    /// What a person should know of the way back.
    warnings: Vec<String>,
    is_over: bool,
}

impl<'w, 'a> Reopened<'w, 'a> {
    /// Makes these read-only layers writable. On an error all are as they were.
    pub(super) fn begin(work: &'w mut Work<'a>, layers: &[String], observer: &mut dyn Observer) -> Result<Self> {
        let (mut nodes, mut files) = (layers.to_vec(), Vec::new());
        for layer in layers {
            let (file, data) = work.connection.nodes.files(layer)?;
            if data.is_some() {
                let message = format!("the layer {layer:?} keeps its data in a file of their own");
                return Err(Error::new(ErrorKind::BackingLayer, message)
                    .advise("QEMU would open that one for writing too: do it while the machine is off"));
            }
            files.push(file.filter(|file| file.is_read_only).map(|file| file.name.clone()));
        }
        nodes.extend(files.iter().flatten().cloned());
        let mut reopened = Self { work, nodes, warnings: Vec::new(), is_over: layers.is_empty() };
        if reopened.is_over {
            return Ok(reopened);
        }
        // One that outlived its mark.
        clear(reopened.work.shared(), &mut reopened.work.connection)?;
        reopened.note()?;
        for (layer, file) in layers.iter().zip(&files) {
            let said = reopened.set(layer, Access::Write)?;
            let Some(words) = said else { continue };
            // A file whose own node was opened read-only.
            let by_file = file.as_deref().filter(|_| words.contains("read-only"));
            let said = match by_file.map(|file| reopened.set(file, Access::Write)).transpose()?.flatten() {
                Some(words) => Some(words),
                None if by_file.is_some() => reopened.set(layer, Access::Write)?,
                None => Some(words),
            };
            if let Some(words) = said {
                return Err(refused(layer, &words));
            }
        }
        reopened.work.refresh(observer)?;
        for layer in layers {
            let node = reopened.work.connection.nodes.node(layer)?;
            if node.is_read_only {
                return Err(refused(layer, "it is read-only all the same"));
            }
            if matches!(node.reopening, Reopening::ByOptions(_)) {
                reopened.warnings.push(format!(
                    "the node {layer:?} was opened anew: options of which QMP does not tell, such as the sizes of its caches, \
                     have their defaults now"
                ));
            }
        }
        Ok(reopened)
    }

    /// Notes the nodes in the hypervisor.
    fn note(&mut self) -> Result<()> {
        let identity = json!(self.nodes).to_string();
        let arguments = json!({ "qom-type": "authz-simple", "id": NOTE, "identity": identity });
        self.work.ask("object-add", &arguments).map(drop)
    }

    fn set(&mut self, node: &str, access: Access) -> Result<Option<String>> {
        let shared = self.work.shared();
        set(shared, &mut self.work.connection, node, access)
    }

    /// Makes the layers read-only again. Warnings, and the words for one that stays writable.
    pub(super) fn end(mut self) -> (Vec<String>, Option<String>) {
        let left = self.undo();
        (std::mem::take(&mut self.warnings), left)
    }

    fn undo(&mut self) -> Option<String> {
        if std::mem::replace(&mut self.is_over, true) {
            return None;
        }
        let shared = self.work.shared();
        let undone = restore(shared, &mut self.work.connection, &self.nodes);
        let undone = undone.and_then(|()| forget(shared, &mut self.work.connection));
        let error = undone.err()?;
        // The mark stays, so that the next client tries it again.
        self.work.is_untidy();
        Some(format!("a layer below is still writable, and the next command tries to set it back: {}", error.message()))
    }
}

impl Drop for Reopened<'_, '_> {
    fn drop(&mut self) {
        self.undo();
    }
}

/// Opens a node for this access; the words of the hypervisor where it did not.
fn set(shared: &Shared, connection: &mut Connection, node: &str, access: Access) -> Result<Option<String>> {
    let (name, arguments) = line(connection.nodes.node(node)?, access)?;
    // It stores bitmaps, so it takes as long as it takes; and it can be done twice.
    let said = match connection.command(shared, name, &arguments, &mut Unobserved) {
        Err(Failure::Broken(_)) => connection.command(shared, name, &arguments, &mut Until::timeout(shared)),
        said => said,
    };
    match said {
        Ok(said) if said == json!({}) => Ok(None),
        Ok(said) => match said.as_str().map(str::trim) {
            Some("") => Ok(None),
            Some(words) => Ok(Some(words.to_owned())),
            None => Err(answer::wrong("return", "is no string")),
        },
        Err(Failure::Refused(refusal)) => Ok(Some(refusal.words)),
        Err(failure) => Err(silent(failure.into_error())),
    }
}

/// Makes the nodes read-only, first the layers, as far as they are still below others, then the files.
fn restore(shared: &Shared, connection: &mut Connection, nodes: &[String]) -> Result<()> {
    let mut left: Option<Error> = None;
    for are_layers in [true, false] {
        look(shared, connection)?;
        for name in nodes {
            let all = &connection.nodes;
            let Some(node) = all.get(name).filter(|node| commands::can_keep(node) == are_layers) else { continue };
            // Since a commit, a layer can be the top one of its disk, and gets the guest's writes.
            let is_free = match are_layers {
                true => all.count_above(name) > 0 && !all.is_top(name)?,
                false => !all.is_file_of_writable(name),
            };
            if !node.is_read_only
                && is_free
                && let Some(words) = set(shared, connection, name, Access::Read)?
            {
                left.get_or_insert(refused(name, &words));
            }
        }
    }
    look(shared, connection)?;
    left.map_or(Ok(()), Err)
}

/// Reads the nodes anew, once more where the conversation breaks.
fn look(shared: &Shared, connection: &mut Connection) -> Result<()> {
    let first = connection.refresh(shared, &mut Until::timeout(shared));
    first.or_else(|_| connection.refresh(shared, &mut Until::timeout(shared))).map_err(silent)
}

/// Removes the note.
fn forget(shared: &Shared, connection: &mut Connection) -> Result<()> {
    match connection.surely(shared, "object-del", &json!({ "id": NOTE })) {
        Ok(_) => Ok(()),
        // Removed by the command whose answer did not come.
        Err(Failure::Refused(refusal)) if refusal.is_of_absence() => Ok(()),
        Err(failure) => Err(silent(failure.into_error())),
    }
}

/// Makes read-only again what a dead client left writable.
pub(super) fn clear(shared: &Shared, connection: &mut Connection) -> Result<()> {
    let arguments = json!({ "path": format!("/objects/{NOTE}"), "property": "identity" });
    let noted = match connection.surely(shared, "qom-get", &arguments) {
        Ok(noted) => noted,
        Err(Failure::Refused(_)) => return Ok(()),
        Err(failure) => return Err(silent(failure.into_error())),
    };
    let nodes = noted.as_str().and_then(|noted| serde_json::from_str::<Vec<String>>(noted).ok());
    let nodes = nodes.ok_or_else(|| answer::wrong("identity", "is no list of nodes"))?;
    restore(shared, connection, &nodes)?;
    forget(shared, connection)
}

fn refused(node: &str, words: &str) -> Error {
    let refusal = Refusal { class: String::new(), words: words.to_owned() };
    let error = refusal.into_error();
    let kind = if words.contains("lock") { ErrorKind::InUse } else { error.kind() };
    let message = format!("the layer {node:?} cannot be opened for another access: {words}");
    Error::new(kind, message)
        .advise(WayOut::from("end the job or the program that uses the layer, or do it while the machine is off"))
}
