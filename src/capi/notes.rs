//! Owns libvirt's notes of its checkpoints as C programs see them: read, listed, and followed by an image. Must never know a document.

use super::boundary::{Handle, OutBuffer, count, exclusive, free, give, guard, handle_out, object, shared, signed};
use super::image::{checkmap_image, path};
use super::machine::checkmap_machine;
use super::options::{Options, checkmap_opts};
use super::outcome::lent;
use crate::error::{Error, ErrorKind};
use crate::libvirt::Metadata;
use std::ffi::{c_char, c_int};

/// libvirt's notes of the checkpoints of one domain, oldest first.
#[derive(Debug)]
pub struct checkmap_notes {
    #[allow(dead_code, reason = "reached through pointers to the whole")]
    handle: Handle<Metadata>,
}

object!(checkmap_notes = Metadata, b"cmNotes!", "notes");

/// A checkpoint as libvirt notes it. Frozen.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct checkmap_noted {
    /// Its name: `name_len` bytes, without a NUL behind them.
    pub name: *const c_char,
    /// The bytes of the name.
    pub name_len: usize,
    /// The name of the checkpoint before it; NULL where there is none.
    pub parent: *const c_char,
    /// The bytes of that name.
    pub parent_len: usize,
    /// When it was made, in seconds since 1970; -1 where nobody noted it.
    pub time: i64,
    /// On how many disks of the domain it has a bitmap.
    pub disk_count: u64,
    /// 0.
    pub reserved: [u64; 4],
}

/// Reads libvirt's documents of checkpoints in a folder, such as `/var/lib/libvirt/qemu/checkpoint/DOMAIN`, or one with what `virsh
/// checkpoint-dumpxml` printed, each in a file `*.xml`.
///
/// Errors:
/// - `-ENOENT`: no such folder, with kind `CHECKMAP_ERROR_IO`.
/// - `-EBADMSG`: a file is no document of a checkpoint: no XML, too large, with a document type and so with entities of its own.
/// - `-EPROTO`: two documents tell of one checkpoint, or their parents go round in a circle.
/// - `-EINVAL`: an empty path, or one with a NUL inside.
/// - `-ENAMETOOLONG`: a path that is too long.
/// - what the system says, such as `-EACCES`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_notes_read(
    folder: *const c_char,
    len: usize,
    out: *mut *mut checkmap_notes,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        // SAFETY: the caller's promise for `folder`.
        let folder = unsafe { path(folder, len) }?;
        out.put(give(Metadata::read(&folder)?));
        Ok(0)
    })
}

/// Asks libvirt for its notes of the checkpoints of the domain that a machine is, see `checkmap_machine_open_libvirt()`.
///
/// Options: `progress`.
///
/// Errors:
/// - `-ENOTSUP`: the machine was not reached through libvirt.
/// - `-EBADMSG`: an answer is none of libvirt's.
/// - `-EREMOTEIO`: libvirt refused a command.
/// - `-EBUSY`: libvirt did not answer in time.
/// - `-ESTALE`: a checkpoint went while libvirt was asked.
/// - `-ECANCELED`: the call was stopped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_notes_of_machine(
    machine: *const checkmap_machine,
    opts: *const checkmap_opts,
    out: *mut *mut checkmap_notes,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        // SAFETY: the caller's promise for `opts`.
        let mut options = unsafe { Options::read(opts) }?;
        // SAFETY: the caller's promise for `machine`.
        let open = unsafe { shared(machine) }?;
        match open.machine().libvirt_metadata(false, &mut options)? {
            Some(metadata) => out.put(give(metadata)),
            None => return Err(Error::new(ErrorKind::Unsupported, "the machine is not reached through libvirt")),
        }
        Ok(0)
    })
}

/// Fills `out` with the checkpoints, oldest first, `max` at most; with `out` NULL it only counts.
///
/// Returns: how many checkpoints there are in all; or a negative errno.
///
/// Ownership: the texts live as long as the notes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_notes_list(
    notes: *const checkmap_notes,
    out: *mut checkmap_noted,
    max: usize,
) -> i64 {
    guard(|| {
        // SAFETY: the caller's promise for `notes`.
        let notes = unsafe { shared(notes) }?;
        let all = notes.checkpoints();
        if out.is_null() {
            return Ok(count(all.len()));
        }
        // SAFETY: the caller's promise for `out`, which has room for `max` checkpoints.
        let mut room = unsafe { OutBuffer::new(out, max, "the array of checkpoints") }?;
        room.fill(all.iter().map(|own| {
            let (name, name_len) = lent(Some(own.name().as_bytes()));
            let (parent, parent_len) = lent(own.parent().map(|parent| parent.as_bytes()));
            checkmap_noted {
                name,
                name_len,
                parent,
                parent_len,
                time: own.time_seconds().map_or(-1, signed),
                disk_count: own.disks().iter().filter(|disk| disk.bitmap.is_some()).count() as u64,
                reserved: [0; 4],
            }
        }));
        Ok(count(all.len()))
    })
}

/// Lets an image follow libvirt's notes: its cumulative checkpoints are listed in their order, with the parents that the notes tell, and a
/// bitmap of a checkpoint of libvirt's is taken for no other.
///
/// It is for this handle, until the next call of the same. Nothing is changed in the image, and the notes may be freed after the call.
/// Pointers that were handed out of the image before are not good any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_image_follow(image: *mut checkmap_image, notes: *const checkmap_notes) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `image`.
        let mut open = unsafe { exclusive(image) }?;
        // SAFETY: the caller's promise for `notes`.
        let notes = unsafe { shared(notes) }?;
        open.records = notes.records();
        let names = open.records.iter().map(|record| record.name.clone()).collect::<Vec<_>>();
        open.image.note_libvirt(names);
        open.lent().end_change();
        Ok(0)
    })
}

/// Frees notes.
///
/// NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_notes_free(notes: *mut checkmap_notes) {
    // SAFETY: the caller's promise for `notes`, which it gives up.
    unsafe { free(notes) }
}
