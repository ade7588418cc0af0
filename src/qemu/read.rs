#![forbid(unsafe_code)]
//! Owns the reading of bitmaps out of a running hypervisor: they are exported as they are, and read over NBD, so that no disk of
//! the machine waits. Must never know what the bitmaps mean to one another.
//!
//! The exports are of an empty node (`null-co`) with the size of the disk, and carry the bitmaps of the disk's node: a client of
//! the socket can neither read nor write the guest's data. QEMU exports a bitmap that records only with an export that can be
//! written, and a guest's device lets nobody else write to its own node; to this one anybody may write, and nothing happens.

use super::answer::{self, Field};
use super::commands;
use super::exports::{Exports, not_with_theirs};
use super::machine::{self, Shared};
use super::monitor::Failure;
use super::nodes::{Node, NodeBitmap};
use super::work::Work;
use crate::bitmap::Bitmap;
use crate::chain::{BitmapState, Name};
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::{Granularity, clip_end};
use crate::host::UnionRequest;
use crate::memory;
use crate::nbd::{Address, Client, ConnectOptions, Status, context_of};
use crate::progress::Observer;
use serde_json::json;

/// The most bitmaps of one export. All are told of in each answer of the server.
const MOST_IN_EXPORT: usize = 64;

/// Reads the union of bitmaps of one node, each as it is `known` to the caller.
///
/// While they are read they are busy, so nobody can freeze, remove or merge them; writes of the guest go on, and a bitmap that
/// records holds at least those from before.
pub(super) fn union(
    shared: &Shared,
    node: &str,
    known: &[NodeBitmap],
    request: &UnionRequest<'_>,
    observer: &mut dyn Observer,
) -> Result<Bitmap> {
    let is_written = !shared.connection().nodes.node(node)?.is_read_only;
    let records = |name: &Name| known.iter().any(|one| one.state.name == *name && one.state.recording);
    // A bitmap of a layer that nobody writes to is frozen, whatever its flag says.
    let records = is_written && request.names.iter().any(records);
    if let (Some(server), true) = (&shared.options.nbd_socket, records) {
        let message = "a bitmap that records is read over an NBD server of checkmap's own only";
        return Err(not_with_theirs(Error::new(ErrorKind::InUse, message).in_file(server)));
    }
    let mut work = Work::begin(shared, observer)?;
    work.refresh(observer)?;
    let own = work.connection.nodes.node(node)?.clone();
    check(&own, known, request.names)?;
    let mut exports = Exports::begin(&mut work, records)?;
    let groups: Vec<&[Name]> = request.names.chunks(MOST_IN_EXPORT).collect();
    for names in &groups {
        exports.add(&own, names)?;
    }
    // From here on they are busy and cannot change any more; before, another client could have changed them.
    exports.work.refresh(observer)?;
    let now = exports.work.connection.nodes.node(node)?.clone();
    if now.size_bytes != own.size_bytes {
        let message = format!("the disk {node:?} got another size meanwhile");
        return Err(Error::new(ErrorKind::Changed, message).advise("try again"));
    }
    check(&now, known, request.names)?;
    let mut bitmaps = Vec::new();
    for (at, names) in groups.iter().enumerate() {
        memory::extend(&mut bitmaps, exports.read(at, &own, names, request, observer)?)?;
    }
    drop(exports);
    drop(work);
    let bitmaps = memory::gather(&bitmaps)?;
    let mut union = Bitmap::union_many_with(&bitmaps, Some(request.granularity), request.threads)?;
    // A coarse granule at the edge of the window reaches further than a fine one.
    union.keep(request.offset, request.len_bytes)?;
    Ok(union)
}

/// The context that tells for each block how many layers down it is held: 0 for none, 1 for the exported node itself.
pub const ALLOCATION_DEPTH: &[u8] = b"qemu:allocation-depth";

/// The context that tells for each block whether it takes room and whether it reads as zeros, over all layers.
const ALLOCATION: &[u8] = b"base:allocation";

/// The flag of [`ALLOCATION`] that says that a block takes no room.
const HOLE: u64 = 1;

/// Reads which blocks a node holds itself, data and zeros, instead of leaving them to the node below it.
pub(super) fn allocated(
    shared: &Shared,
    node: &Node,
    offset: u64,
    len_bytes: u64,
    observer: &mut dyn Observer,
) -> Result<Bitmap> {
    let mut work = Work::begin(shared, observer)?;
    Exports::begin(&mut work, false)?.allocated(node, offset, len_bytes, observer)
}

/// Counts the bytes of a node that take room in it or in a layer below.
pub(super) fn allocated_bytes(shared: &Shared, node: &str, observer: &mut dyn Observer) -> Result<u64> {
    let mut work = Work::begin(shared, observer)?;
    work.refresh(observer)?;
    let node = work.connection.nodes.node(node)?.clone();
    Exports::begin(&mut work, false)?.allocated_bytes(&node, observer)
}

/// The SHA-256 of a bitmap's bits, as this hypervisor computes it, unless it does not know how.
pub(super) fn sha256(
    shared: &Shared,
    node: &str,
    name: &Name,
    observer: &mut dyn Observer,
) -> Result<Option<[u8; 32]>> {
    const COMMAND: &str = "x-debug-block-dirty-bitmap-sha256";
    let arguments = json!({ "node": node, "name": commands::text(name)? });
    let answer = match shared.connection().command(shared, COMMAND, &arguments, observer) {
        Err(Failure::Refused(refusal)) if refusal.is_unknown_command() => return Ok(None),
        answer => answer.map_err(Failure::into_error)?,
    };
    let text = String::take(&answer, "sha256")?;
    let mut hash = [0; 32];
    let (digits, rest) = text.as_bytes().as_chunks::<2>();
    if digits.len() != hash.len() || !rest.is_empty() {
        return Err(answer::wrong("sha256", "is no SHA-256"));
    }
    for (byte, digits) in hash.iter_mut().zip(digits) {
        let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'));
        let value = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        *byte = value.ok_or_else(|| answer::wrong("sha256", "is no SHA-256"))?;
    }
    Ok(Some(hash))
}

/// Refuses bitmaps that are not as the caller knows them, or cannot be exported.
fn check(node: &Node, known: &[NodeBitmap], names: &[Name]) -> Result<()> {
    let state = |bitmaps: &[NodeBitmap], name: &Name| -> Option<BitmapState> {
        bitmaps.iter().find(|one| one.state.name == *name).map(|one| one.state.clone())
    };
    for name in names {
        let now = state(&node.bitmaps, name);
        if now.is_none() || now != state(known, name) {
            return Err(machine::changed(&node.name));
        }
    }
    Ok(())
}

impl Exports<'_, '_> {
    /// Reads which blocks a node holds itself.
    pub(super) fn allocated(
        &mut self,
        node: &Node,
        offset: u64,
        len_bytes: u64,
        observer: &mut dyn Observer,
    ) -> Result<Bitmap> {
        let granularity = Granularity::from_bits(node.cluster_bytes.checked_ilog2().unwrap_or(16).clamp(9, 31))?;
        let mut held = Bitmap::new(node.size_bytes, granularity)?;
        let mut client = self.client_of(node, ALLOCATION_DEPTH, observer)?;
        let size = client.size_bytes();
        let end = clip_end(offset, len_bytes, node.size_bytes);
        let mut visit = |status: Status| match status.flags {
            1 => held.set(status.extent.offset, status.extent.len_bytes),
            _ => Ok(()),
        };
        client.block_status(offset.min(size), end.min(size).saturating_sub(offset.min(size)), &mut visit, observer)?;
        if end > size {
            // The export does not have these bytes, so nobody knows.
            let from = size.max(offset);
            held.set(from, end - from)?;
        }
        Ok(held)
    }

    /// Counts the bytes of a node that are no holes.
    fn allocated_bytes(&mut self, node: &Node, observer: &mut dyn Observer) -> Result<u64> {
        let mut client = self.client_of(node, ALLOCATION, observer)?;
        let mut bytes = 0;
        let mut visit = |status: Status| {
            bytes += if status.flags & HOLE == 0 { status.extent.len_bytes } else { 0 };
            Ok(())
        };
        client.block_status(0, client.size_bytes(), &mut visit, observer)?;
        Ok(bytes)
    }

    /// Exports a node as it is, and connects to it with this context.
    fn client_of(&mut self, node: &Node, context: &[u8], observer: &mut dyn Observer) -> Result<Client> {
        let export = self.add_node(node)?;
        let contexts = [context];
        let options = ConnectOptions::new(export.as_bytes())
            .contexts(&contexts)
            .timeout(self.work.shared().options.timeout)
            .disk_bytes(node.size_bytes);
        Client::connect(&Address::Unix(self.address.clone()), &options, observer)
    }

    /// The bitmaps of the export at this place, whole as far as they touch the window.
    fn read(
        &self,
        at: usize,
        node: &Node,
        names: &[Name],
        request: &UnionRequest<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Bitmap>> {
        let Some(export) = self.exports.get(at) else { return Ok(Vec::new()) };
        let contexts: Result<Vec<Vec<u8>>> = names.iter().map(|name| context_of(name.as_bytes())).collect();
        let contexts = contexts?;
        let contexts: Vec<&[u8]> = contexts.iter().map(Vec::as_slice).collect();
        let granularities: Vec<_> = names
            .iter()
            .map(|name| {
                let own = node.bitmaps.iter().find(|bitmap| bitmap.state.name == *name);
                own.map(|own| own.state.granularity)
            })
            .collect();
        let options = ConnectOptions::new(export.as_bytes())
            .contexts(&contexts)
            .timeout(self.work.shared().options.timeout)
            .disk_bytes(node.size_bytes);
        let mut client = Client::connect(&Address::Unix(self.address.clone()), &options, observer)?;
        client.dirty_bitmaps(request.offset, request.len_bytes, &granularities, observer)
    }
}
