//! Owns planning for hypervisor managers as C programs see it: from the JSON of QEMU's block nodes to that of the commands to
//! send. Must never know a connection.

use super::boundary::{OutBuffer, array, count, guard, too_short};
use super::image::name;
use super::machine::text_of;
use super::many::several_names;
use super::options::{CHECKMAP_OPT_FORCE_INCONSISTENT, Sized32, invalid, known_model, read_sized};
use crate::error::Result;
use crate::geometry::Granularity;
use crate::memory;
use crate::planner::{self, Verb};
use std::ffi::c_char;
use std::mem;

/// A new checkpoint: `name`, `granularity`, `model`.
pub const CHECKMAP_PLAN_CREATE: u32 = 1;
/// Checkpoints deleted in one step: `names`, `model`, `flags`.
pub const CHECKMAP_PLAN_DELETE: u32 = 2;
/// Another name for a checkpoint: `name`, `other`, `model`.
pub const CHECKMAP_PLAN_RENAME: u32 = 3;
/// The union of stored bitmaps into one of them: `names`, and `name` for the one that grows.
pub const CHECKMAP_PLAN_MERGE: u32 = 4;
/// The exports whose union is a diff, on an NBD server that runs: since `name`, until `other` or now, `export_name`, `model`.
pub const CHECKMAP_PLAN_DIFF: u32 = 5;

/// What to plan; begin with `CHECKMAP_PLAN_REQUEST_INIT`. It can grow, see `checkmap_opts`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct checkmap_plan_request {
    /// sizeof(struct checkmap_plan_request)
    pub size: u32,
    /// `CHECKMAP_PLAN_...`
    pub verb: u32,
    /// The names of the disk's block nodes in UTF-8, the top one first.
    pub nodes: *const *const c_char,
    /// The bytes of each of these names.
    pub node_lens: *const usize,
    /// The number of the nodes.
    pub node_count: usize,
    /// The checkpoint or the bitmap that the verb is about.
    pub name: *const c_char,
    /// The bytes of that name.
    pub name_len: usize,
    /// The second checkpoint, or the new name; NULL for none.
    pub other: *const c_char,
    /// The bytes of that name.
    pub other_len: usize,
    /// The checkpoints to delete, or the bitmaps to merge.
    pub names: *const *const c_char,
    /// The bytes of each of these names.
    pub name_lens: *const usize,
    /// The number of these names.
    pub name_count: usize,
    /// What the exports of a diff and their nodes are called, in UTF-8.
    pub export_name: *const c_char,
    /// The bytes of that name.
    pub export_name_len: usize,
    /// The granularity of a new bitmap in bytes; 0 is the default.
    pub granularity: u64,
    /// The `CHECKMAP_MODEL_...` to insist on, as that of `checkmap_opts`.
    pub model: u32,
    /// 0, or `CHECKMAP_OPT_FORCE_INCONSISTENT`.
    pub flags: u32,
}

// SAFETY: integers, and pointers that may be NULL; the size comes first.
unsafe impl Sized32 for checkmap_plan_request {}

/// The bytes that the first version of the struct had.
const FIRST_REQUEST: usize = mem::size_of::<checkmap_plan_request>();

/// Plans a change or a diff of a disk of a running QEMU, for programs that send commands themselves: nothing is sent.
///
/// `nodes_json` has `len` bytes: the answer to `query-named-block-nodes`. The result is JSON in UTF-8 without a NUL behind it:
/// `commands`, the QMP commands to send in their order, without one there is nothing to do; `stall_ms`, how long every disk of the
/// machine is expected to stand still; `warnings`. For a diff also `granularity`, `exports`, each with its `name` and the `contexts`
/// to ask for, and `cut_off`, stretches that changed beside. The union of all these is the diff. With `out_json` NULL it only tells
/// how many bytes the JSON takes. The same input always gives the same JSON. Between the answer and the commands nobody else may
/// change the bitmaps.
///
/// Returns: how many bytes the JSON takes; or a negative errno.
///
/// Ownership: the texts of `request` are read during the call only.
///
/// Errors:
/// - `-ERANGE`: a `cap` that is too small.
/// - `-EBADMSG`: `nodes_json` is none of QEMU's.
/// - `-ENOENT`: a node, checkpoint or bitmap that is not there.
/// - `-EEXIST`: a checkpoint of the new name is there already.
/// - `-EINVAL`: an unknown verb, flag or model, no node, a name or a granularity that cannot be.
/// - `-ENAMETOOLONG`: a name of more than 510 bytes.
/// - `-EUCLEAN`: a bitmap that takes part is inconsistent.
/// - `-EPROTO`: a gap in the recording, an order that cannot be, names that form no chain, an unknown model, or a layer below
///   that takes part.
/// - `-EBUSY`: a bitmap that takes part is in use in the hypervisor.
/// - `-EROFS`: the node is read-only.
/// - `-ENOTSUP`: the node keeps no bitmaps.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_plan_qmp(
    nodes_json: *const c_char,
    len: usize,
    request: *const checkmap_plan_request,
    out_json: *mut c_char,
    cap: usize,
) -> i64 {
    guard(|| {
        // SAFETY: the caller's promise for `nodes_json` and `request`.
        let json = unsafe { planned(nodes_json, len, request) }?;
        if out_json.is_null() {
            return Ok(count(json.len()));
        }
        if json.len() > cap {
            return Err(too_short(cap, json.len() as u64));
        }
        // SAFETY: the caller's promise for `out_json`, which has `cap` bytes, and the length is not above it.
        let mut room = unsafe { OutBuffer::new(out_json.cast::<u8>(), json.len(), "the buffer") }?;
        room.bytes(json.len()).copy_from_slice(json.as_bytes());
        Ok(count(json.len()))
    })
}

/// # Safety
///
/// As every call: `nodes_json` is NULL or has `len` bytes, and `request` is NULL or readable for as many bytes as its size says,
/// with texts that are NULL or have their lengths.
unsafe fn planned(nodes_json: *const c_char, len: usize, request: *const checkmap_plan_request) -> Result<String> {
    if request.is_null() {
        return Err(invalid("the request is NULL".into()));
    }
    // SAFETY: not NULL; the alignment and the size are looked at before more than the size is read.
    let request = unsafe { read_sized(request, FIRST_REQUEST, "checkmap_plan_request") }?;
    // SAFETY: the caller's promise for `nodes_json`.
    let nodes_json: &[u8] = unsafe { array(nodes_json.cast(), len, "the JSON of the nodes") }?;
    let model = known_model(request.model)?;
    if request.flags & !CHECKMAP_OPT_FORCE_INCONSISTENT != 0 {
        return Err(invalid(format!("the request has unknown flags: {:#x}", request.flags)));
    }
    // SAFETY: the caller's promise for both arrays of `node_count` elements.
    let (nodes, lens) = unsafe {
        (
            array(request.nodes, request.node_count, "the array of nodes")?,
            array(request.node_lens, request.node_count, "their lengths")?,
        )
    };
    let mut chain = memory::room(nodes.len())?;
    for (node, len) in nodes.iter().zip(lens) {
        // SAFETY: the caller's promise for each node.
        chain.push(unsafe { text_of(*node, *len, "the name of the node") }?);
    }
    if chain.is_empty() {
        return Err(invalid("there is no node to plan for".into()));
    }
    let chain: Vec<&str> = memory::gather(chain.iter().map(String::as_str))?;
    // SAFETY: the caller's promise for each of these texts.
    let first = || unsafe { name(request.name, request.name_len) };
    // SAFETY: as before.
    let other = || unsafe { name(request.other, request.other_len) };
    // SAFETY: as before.
    let names = || unsafe { several_names(request.names, request.name_lens, request.name_count) };
    let step = match request.verb {
        CHECKMAP_PLAN_CREATE => {
            let granularity = match request.granularity {
                0 => None,
                bytes => Some(Granularity::from_bytes(bytes)?),
            };
            planner::plan(nodes_json, &chain, &Verb::Create { checkpoint: &first()?, granularity, model })
        }
        CHECKMAP_PLAN_DELETE => {
            let names = names()?;
            let checkpoints: Vec<&[u8]> = memory::gather(names.iter().map(Vec::as_slice))?;
            if checkpoints.is_empty() {
                return Err(invalid("there is no checkpoint to delete".into()));
            }
            let force_inconsistent = request.flags & CHECKMAP_OPT_FORCE_INCONSISTENT != 0;
            planner::plan(nodes_json, &chain, &Verb::Delete { checkpoints: &checkpoints, force_inconsistent, model })
        }
        CHECKMAP_PLAN_RENAME => {
            let verb = Verb::Rename { checkpoint: &first()?, new_name: &other()?, model };
            planner::plan(nodes_json, &chain, &verb)
        }
        CHECKMAP_PLAN_MERGE => {
            let names = names()?;
            let sources: Vec<&[u8]> = memory::gather(names.iter().map(Vec::as_slice))?;
            if sources.is_empty() {
                return Err(invalid("there is no bitmap to merge".into()));
            }
            planner::plan(nodes_json, &chain, &Verb::Merge { sources: &sources, into: &first()? })
        }
        CHECKMAP_PLAN_DIFF => {
            let until = if request.other.is_null() { None } else { Some(other()?) };
            // SAFETY: the caller's promise for the name of the export.
            let export = unsafe { text_of(request.export_name, request.export_name_len, "the name of the export") }?;
            let verb = Verb::Diff { since: &first()?, until: until.as_deref(), model, export: &export };
            planner::plan(nodes_json, &chain, &verb)
        }
        unknown => return Err(invalid(format!("there is no verb {unknown} to plan"))),
    };
    Ok(step?.to_json())
}
