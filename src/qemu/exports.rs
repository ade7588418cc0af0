#![forbid(unsafe_code)]
//! Owns the exports of a client in a hypervisor's NBD server, and that server where it is the client's own. Must never know which bits are read
//! or written through them.

use super::commands::Bits;
use super::moment;
use super::monitor::Failure;
use super::nodes::Node;
use super::work::{Until, Work, silent};
use crate::chain::Name;
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::geometry::Granularity;
use serde_json::{Value, json};
use std::path::PathBuf;

pub(super) fn not_with_theirs(error: Error) -> Error {
    error.advise(
        WayOut::from("ask for a diff until a checkpoint with ")
            .control(Control::Until)
            .words(": make one now with ")
            .control(Control::Create)
            .words(", and name the socket of the server with ")
            .control(Control::NbdSocket),
    )
}

/// The arguments of `blockdev-add` and `block-export-add` that export bitmaps of a node.
pub(super) fn export_of(node: &Node, names: &[Name], id: &str, is_writable: bool) -> (Value, Value) {
    let size = node.size_bytes;
    let empty = json!({ "driver": "null-co", "node-name": id, "size": size, "read-zeroes": true });
    let bitmap = |name: &Name| json!({ "node": node.name, "name": name.to_string_lossy() });
    let bitmaps: Vec<Value> = names.iter().map(bitmap).collect();
    let export = json!({
        "type": "nbd", "id": id, "node-name": id, "name": id, "writable": is_writable, "bitmaps": bitmaps,
    });
    (empty, export)
}

/// The name of a bitmap on a node of ours.
pub(super) const BITS: &str = "bits";

/// The arguments of `blockdev-add` and `block-dirty-bitmap-add` that make a place for bits of our own.
pub(super) fn bits_of(id: &str, size_bytes: u64, granularity: Granularity) -> (Value, Value) {
    let empty = json!({ "driver": "null-co", "node-name": id, "size": size_bytes, "read-zeroes": true });
    (empty, json!({ "node": id, "name": BITS, "granularity": granularity.bytes(), "persistent": false }))
}

/// The arguments of `block-export-add` that export a node for reading, with the map of the layers that hold its blocks.
pub(super) fn allocation_of(node: &Node, id: &str) -> Value {
    json!({
        "type": "nbd", "id": id, "node-name": node.name, "name": id, "writable": false, "allocation-depth": true,
    })
}

/// The exports of a client, and the server where it is the client's own. All go when this is dropped.
#[derive(Debug)]
pub(super) struct Exports<'w, 'a> {
    pub(super) work: &'w mut Work<'a>,
    pub(super) address: PathBuf,
    is_own_server: bool,
    records: bool,
    nodes: Vec<String>,
    pub(super) exports: Vec<String>,
}

impl<'w, 'a> Exports<'w, 'a> {
    /// Starts a server on a socket that is private to this client and the hypervisor, or uses the one that the caller named.
    pub(super) fn begin(work: &'w mut Work<'a>, records: bool) -> Result<Self> {
        let (nodes, exports) = (Vec::new(), Vec::new());
        if let Some(server) = &work.shared().options.nbd_socket {
            let address = server.clone();
            return Ok(Self { work, address, is_own_server: false, records, nodes, exports });
        }
        let address = work.owner.socket();
        let arguments = json!({ "addr": { "type": "unix", "data": { "path": address } } });
        let until = &mut Until::timeout(work.shared());
        match work.command("nbd-server-start", &arguments, until) {
            Ok(_) => Ok(Self { work, address, is_own_server: true, records, nodes, exports }),
            Err(Failure::Broken(error)) => {
                // It was started, where somebody listens at a socket that nobody else knows.
                let is_own_server = work.owner.is_listened_at();
                drop(Self { work, address, is_own_server, records, nodes, exports });
                Err(silent(error))
            }
            Err(Failure::Refused(refusal)) if refusal.words.contains("already running") => {
                if let Some(address) = moment::server(work)? {
                    return Ok(Self { work, address, is_own_server: false, records, nodes, exports });
                }
                let message = "another NBD server runs in this hypervisor, and QEMU has one at a time: that of a migration, of \
                     a backup of libvirt's, or of another program";
                let error = Error::new(ErrorKind::InUse, message);
                Err(match records {
                    true => not_with_theirs(error),
                    false => error.advise(
                        WayOut::from("wait until it ends, or name its socket with ").control(Control::NbdSocket),
                    ),
                })
            }
            Err(failure) => Err(failure.into_error().advise(
                WayOut::from(
                    "the hypervisor must be able to make a socket in the folder; or name that of a server that \
                     runs with ",
                )
                .control(Control::NbdSocket),
            )),
        }
    }

    /// Exports bitmaps of a node.
    pub(super) fn add(&mut self, node: &Node, names: &[Name]) -> Result<()> {
        let id = format!("{}-{}", self.work.owner.id(), self.exports.len());
        let (empty, export) = export_of(node, names, &id, self.records);
        // Noted before: where the answer does not come, it may be there.
        self.nodes.push(id.clone());
        self.work.ask("blockdev-add", &empty)?;
        self.exports.push(id);
        self.work.ask("block-export-add", &export).map(drop)
    }

    /// Makes an empty node of this size with a bitmap, and exports it for writing.
    pub(super) fn add_bits(&mut self, size_bytes: u64, granularity: Granularity) -> Result<Bits> {
        let id = format!("{}-{}", self.work.owner.id(), self.exports.len());
        let (empty, bitmap) = bits_of(&id, size_bytes, granularity);
        self.nodes.push(id.clone());
        self.work.ask("blockdev-add", &empty)?;
        self.work.ask("block-dirty-bitmap-add", &bitmap)?;
        self.exports.push(id.clone());
        let export = json!({ "type": "nbd", "id": id, "node-name": id, "name": id, "writable": true });
        self.work.ask("block-export-add", &export)?;
        Ok(Bits { node: id, bitmap: BITS.to_owned() })
    }

    /// Exports a node for reading, with the map of the layers that hold its blocks.
    pub(super) fn add_node(&mut self, node: &Node) -> Result<String> {
        let id = format!("{}-{}", self.work.owner.id(), self.exports.len());
        self.exports.push(id.clone());
        self.work.ask("block-export-add", &allocation_of(node, &id))?;
        Ok(id)
    }

    /// Removes the exports and the nodes, and stops the server where it is the client's own; false where that stopped in the middle.
    fn clean_up(&mut self) -> bool {
        for export in self.exports.iter().rev() {
            if self.work.remove_export(export).is_err() {
                return false;
            }
        }
        for node in self.nodes.iter().rev() {
            match self.work.surely("blockdev-del", &json!({ "node-name": node })) {
                Ok(_) => {}
                // Its making was refused.
                Err(Failure::Refused(refusal)) if refusal.is_of_absence() => {}
                Err(_) => return false,
            }
        }
        if !self.is_own_server {
            return true;
        }
        let until = &mut Until::timeout(self.work.shared());
        let stopped = self.work.command("nbd-server-stop", &Value::Null, until);
        // After a conversation that broke, the socket tells: another server may run by now.
        stopped.is_ok() || !self.work.owner.is_listened_at()
    }
}

impl Drop for Exports<'_, '_> {
    fn drop(&mut self) {
        // An export holds its bitmaps and its node, and the server holds its exports: in this order.
        if !self.clean_up() {
            self.work.is_untidy();
        }
    }
}
