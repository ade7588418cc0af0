//! Owns the answer to how much of a disk a backup has to read, as C programs see it. Must never know how that is found out.

use super::backups::path_or_none;
use super::boundary::{Out, OutBuffer, count, guard, shared, signed};
use super::image::{checkmap_image, name};
use super::machine::{checkmap_machine, text_of};
use super::options::{Options, checkmap_opts};
use crate::backup::{self, Planned, Tier};
use crate::error::Result;
use std::ffi::c_char;

/// What changed since the checkpoint has to be read.
pub const CHECKMAP_TIER_CHANGED: u32 = 1;
/// The allocated part has to be read, as it cannot be told what changed.
pub const CHECKMAP_TIER_ALLOCATED: u32 = 2;
/// All has to be read, as nobody can tell the allocated part either.
pub const CHECKMAP_TIER_ALL: u32 = 3;

/// What a backup of a disk since a checkpoint has to read. Frozen.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct checkmap_planned {
    /// `CHECKMAP_TIER_...`
    pub tier: u32,
    /// 0.
    pub reserved: u32,
    /// How many bytes changed; -1 where that cannot be told.
    pub changed_bytes: i64,
    /// How many bytes are allocated; -1 where that cannot be told.
    pub allocated_bytes: i64,
    /// The size of the disk in bytes.
    pub disk_size: u64,
    /// 0.
    pub reserved2: [u64; 4],
}

const NOTHING: checkmap_planned =
    checkmap_planned { tier: 0, reserved: 0, changed_bytes: -1, allocated_bytes: -1, disk_size: 0, reserved2: [0; 4] };

/// Writes a plan, and its reason as far as it fits between two characters.
///
/// # Safety
///
/// As every call: `reason` is NULL or has `cap` bytes.
unsafe fn tell(planned: &Planned, out: Out<'_, checkmap_planned>, reason: *mut c_char, cap: usize) -> Result<i64> {
    let text = planned.reason.as_deref().unwrap_or_default();
    if !reason.is_null() && !text.is_empty() {
        let len = (0..=text.len().min(cap)).rev().find(|len| text.is_char_boundary(*len)).unwrap_or(0);
        // SAFETY: the caller's promise for `reason`, which has room for `cap` bytes.
        let mut room = unsafe { OutBuffer::new(reason.cast::<u8>(), cap, "the buffer") }?;
        room.bytes(len).copy_from_slice(&text.as_bytes()[..len]);
    }
    let tier = match planned.tier {
        Tier::Changed => CHECKMAP_TIER_CHANGED,
        Tier::Allocated => CHECKMAP_TIER_ALLOCATED,
        Tier::All => CHECKMAP_TIER_ALL,
    };
    let (changed_bytes, allocated_bytes) = (planned.changed_bytes, planned.allocated_bytes);
    out.put(checkmap_planned {
        tier,
        changed_bytes: changed_bytes.map_or(-1, signed),
        allocated_bytes: allocated_bytes.map_or(-1, signed),
        disk_size: planned.size_bytes,
        ..NOTHING
    });
    Ok(count(text.len()))
}

/// Tells how much of the disk of an image a backup since a checkpoint has to read: what changed, the allocated part, or all.
///
/// The image was opened with `CHECKMAP_OPEN_RDONLY`. `secret_file`, with the passphrase of encrypted layers, may be NULL. `reason`
/// gets the reason why no smaller part will do, in UTF-8 without a NUL behind it; of one that does not fit into `cap` bytes, the
/// beginning. Only what says nothing of the map is an error. Nothing is changed.
///
/// Options: `progress`.
///
/// Returns: how many bytes the whole reason has, 0 for what changed; or a negative errno.
///
/// Errors:
/// - `-EINVAL`: a name that cannot be, an empty path, or a `cap` of 0.
/// - `-ENAMETOOLONG`: a name of more than 510 bytes, or a path that is too long.
/// - `-EBADMSG`: the image is damaged.
/// - `-ECANCELED`: the call was stopped.
/// - what the system says, such as `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_plan_backup(
    image: *const checkmap_image,
    checkpoint: *const c_char,
    checkpoint_len: usize,
    secret_file: *const c_char,
    secret_file_len: usize,
    opts: *const checkmap_opts,
    out: *mut checkmap_planned,
    reason: *mut c_char,
    cap: usize,
) -> i64 {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { Out::new(out, NOTHING) }?;
        // SAFETY: the caller's promise for `opts`.
        let mut options = unsafe { Options::read(opts) }?;
        // SAFETY: the caller's promise for both texts.
        let (checkpoint, secret_file) =
            unsafe { (name(checkpoint, checkpoint_len)?, path_or_none(secret_file, secret_file_len)?) };
        // SAFETY: the caller's promise for `image`.
        let open = unsafe { shared(image) }?;
        let planned = backup::plan(open.fresh()?, &checkpoint, secret_file.as_deref(), &mut options)?;
        // SAFETY: the caller's promise for `reason`.
        unsafe { tell(&planned, out, reason, cap) }
    })
}

/// Tells how much of a disk of a running machine a backup since a checkpoint has to read: what changed, the allocated part, or all.
///
/// `node` names the disk as for `checkmap_machine_image()`; the rest is as for `checkmap_plan_backup()`.
///
/// Options: `progress`.
///
/// Returns: how many bytes the whole reason has, 0 for what changed; or a negative errno.
///
/// Errors:
/// - `-ENOENT`: no disk is called so, with kind `CHECKMAP_ERROR_NOT_FOUND`.
/// - `-EEXIST`: two disks are called so.
/// - `-EREMOTEIO`: QEMU refused a command, or the connection broke.
/// - as `checkmap_plan_backup()`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_plan_backup_running(
    machine: *const checkmap_machine,
    node: *const c_char,
    node_len: usize,
    checkpoint: *const c_char,
    checkpoint_len: usize,
    opts: *const checkmap_opts,
    out: *mut checkmap_planned,
    reason: *mut c_char,
    cap: usize,
) -> i64 {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { Out::new(out, NOTHING) }?;
        // SAFETY: the caller's promise for `opts`.
        let mut options = unsafe { Options::read(opts) }?;
        // SAFETY: the caller's promise for both texts.
        let (node, checkpoint) =
            unsafe { (text_of(node, node_len, "the name of the node")?, name(checkpoint, checkpoint_len)?) };
        // SAFETY: the caller's promise for `machine`.
        let open = unsafe { shared(machine) }?;
        open.machine().refresh(&mut options)?;
        let disk = open.machine().find(&node)?;
        let planned = backup::plan_running(open.machine(), &disk, &checkpoint, &mut options)?;
        // SAFETY: the caller's promise for `reason`.
        unsafe { tell(&planned, out, reason, cap) }
    })
}
