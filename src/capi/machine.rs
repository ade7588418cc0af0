//! Owns the running hypervisor as C programs see it: the connection, the disks, and each of them as an image. Must never know a
//! command of its monitor, nor how a change becomes one step.

use super::boundary::{Handle, OutBuffer, array, count, give, guard, handle_out, object, shared};
use super::image::{OpenImage, checkmap_image, path};
use super::options::{Options, Sized32, checkmap_progress_fn, invalid, read_sized};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Access, Image, OpenOptions};
use crate::progress::Unobserved;
use crate::qemu::{self, Machine, Monitor};
use std::ffi::{c_char, c_int, c_void};
use std::mem;
use std::path::Path;
use std::time::Duration;

/// A running hypervisor: one connection, which all images of its disks share.
///
/// A monitor of QEMU talks to one client at a time. So disks that a program uses together come from one machine, by
/// `checkmap_machine_image()`; a second connection to the same socket would wait for the first one, and be `-EBUSY`.
#[derive(Debug)]
pub struct checkmap_machine {
    #[allow(dead_code, reason = "reached through pointers to the whole")]
    handle: Handle<OpenMachine>,
}

object!(checkmap_machine = OpenMachine, b"cmMachin", "machine");

/// The object behind a handle.
#[derive(Debug)]
pub(super) struct OpenMachine {
    machine: Machine,
    /// As they were at the opening: C may hold pointers to their texts until the end.
    disks: Vec<qemu::Disk>,
}

impl OpenMachine {
    pub(super) fn machine(&self) -> &Machine {
        &self.machine
    }
}

/// How a running hypervisor is worked with; begin with `CHECKMAP_QMP_OPTS_INIT`. NULL stands for the defaults. It can grow,
/// see `checkmap_opts`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct checkmap_qmp_opts {
    /// sizeof(struct checkmap_qmp_opts)
    pub size: u32,
    /// How long to wait for a monitor that says nothing, as another client has it, for each answer of an NBD server, and for
    /// another client of checkmap at work, in milliseconds; 0 is 30 seconds.
    pub timeout_ms: u32,
    /// A change that is expected to stop the disks of the machine for longer than these milliseconds is `-EBUSY`; 0 is no
    /// limit.
    pub max_stall_ms: u64,
    /// The Unix socket of the NBD server that runs in the hypervisor already; NULL where none runs: one is started for as
    /// long as a diff needs it.
    pub nbd_socket: *const c_char,
    /// The bytes of that path.
    pub nbd_socket_len: usize,
    /// Told of the opening, and asked whether to go on; or NULL. The images take that of `checkmap_opts`.
    pub progress: checkmap_progress_fn,
    /// Handed to `progress`.
    pub user_data: *mut c_void,
}

// SAFETY: integers, and pointers that may be NULL; the size comes first. A function pointer of any bits but NULL is the
// caller's to answer for.
unsafe impl Sized32 for checkmap_qmp_opts {}

/// No checkpoint can be made on the disk: its format keeps no bitmaps, or it is read-only.
pub const CHECKMAP_DISK_UNFIT: u32 = 1;

/// A disk of a running hypervisor. Frozen.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct checkmap_disk {
    /// The name of its device, or of its node where there is no device: UTF-8 without a NUL behind it.
    pub title: *const c_char,
    /// The bytes of that name.
    pub title_len: usize,
    /// The name of the block node at its top, without a NUL behind it.
    pub node: *const c_char,
    /// The bytes of that name.
    pub node_len: usize,
    /// The file of that node, as the hypervisor names it, without a NUL behind it.
    pub file: *const c_char,
    /// The bytes of that name.
    pub file_len: usize,
    /// Its size in bytes.
    pub disk_size: u64,
    /// `CHECKMAP_DISK_...`
    pub flags: u32,
    /// 0.
    pub reserved: u32,
    /// 0.
    pub reserved2: [u64; 4],
}

/// The bytes that the first version of the struct had.
const FIRST_QMP_OPTS: usize = mem::size_of::<checkmap_qmp_opts>();

/// Connects by the options of the caller.
///
/// # Safety
///
/// As every call: `opts` is NULL or readable for as many bytes as its size says.
unsafe fn connect(monitor: Monitor, opts: *const checkmap_qmp_opts) -> Result<Machine> {
    let mut options = qemu::Options::default();
    let mut observer = Options::default();
    if !opts.is_null() {
        // SAFETY: not NULL; the alignment and the size are looked at before more than the size is read.
        let given = unsafe { read_sized(opts, FIRST_QMP_OPTS, "checkmap_qmp_opts") }?;
        if given.timeout_ms > 0 {
            options = options.timeout(Duration::from_millis(given.timeout_ms.into()));
        }
        if given.max_stall_ms > 0 {
            options = options.max_stall(Some(Duration::from_millis(given.max_stall_ms)));
        }
        if !given.nbd_socket.is_null() {
            // SAFETY: the caller's promise for the path in `opts`.
            options = options.nbd_socket(Some(unsafe { path(given.nbd_socket, given.nbd_socket_len) }?));
        }
        observer = Options::observed_by(given.progress, given.user_data);
    }
    Machine::connect(monitor, &options, &mut observer)
}

/// The image of the disk that is meant by the name.
///
/// # Safety
///
/// As every call: `node` is NULL or has `len` bytes.
unsafe fn image_of(machine: &Machine, node: *const c_char, len: usize) -> Result<OpenImage> {
    // SAFETY: the caller's promise is the same.
    let node = unsafe { text_of(node, len, "the name of the node") }?;
    machine.refresh(&mut Unobserved)?;
    let disk = machine.find(&node)?;
    let host = machine.host(&disk)?;
    Ok(OpenImage::new(Image::on(host, Path::new(disk.title()), &OpenOptions::new(Access::Write))))
}

/// A text of the caller that names something in a hypervisor, which speaks JSON.
///
/// # Safety
///
/// As every call: `text` is NULL or has `len` bytes.
pub(super) unsafe fn text_of(text: *const c_char, len: usize, what: &str) -> Result<String> {
    if len == 0 {
        return Err(invalid(format!("{what} cannot be empty")));
    }
    // SAFETY: the caller's promise is the same.
    let bytes: &[u8] = unsafe { array(text.cast(), len, what) }?;
    String::from_utf8(bytes.to_vec()).map_err(|_| Error::new(ErrorKind::InvalidName, format!("{what} is no UTF-8")))
}

/// Connects to the QMP monitor of a running QEMU, and removes what clients that were killed left in it.
///
/// The monitor is the caller's from now on until the machine and all images of it are closed: give it one of its own, as QEMU
/// serves one client a monitor. The call reads which disks there are; nothing is changed for the guest.
///
/// Ownership: the paths in `opts` are copied.
///
/// Errors:
/// - `-EBUSY`: the monitor said nothing in time, as another client has it, or another client of checkmap was at work all
///   the time.
/// - `-ENOENT`: no such socket, with kind `CHECKMAP_ERROR_IO`.
/// - `-ECONNREFUSED`: nobody listens there, with kind `CHECKMAP_ERROR_IO`.
/// - `-EBADMSG`: the answers are not those of QEMU.
/// - `-EREMOTEIO`: QEMU refused a command, or the connection broke.
/// - `-EINVAL`: an empty path, or one with a NUL inside.
/// - `-ENAMETOOLONG`: a path that is too long.
/// - `-ECANCELED`: the call was stopped.
/// - what the system says, such as `-EACCES`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_machine_open(
    socket: *const c_char,
    len: usize,
    opts: *const checkmap_qmp_opts,
    out: *mut *mut checkmap_machine,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        // SAFETY: the caller's promise for `socket`.
        let monitor = Monitor::Socket(unsafe { path(socket, len) }?);
        // SAFETY: the caller's promise for `opts`.
        let machine = unsafe { connect(monitor, opts) }?;
        let disks = machine.disks()?;
        out.put(give(OpenMachine { machine, disks }));
        Ok(0)
    })
}

/// Connects to a domain of libvirt, and removes what clients that were killed left in its QEMU.
///
/// `uri` is that of a connection, such as `qemu:///system`; `domain` is the domain's name, id or UUID. Each command is one run of
/// `virsh qemu-monitor-command`, which is found by `PATH`; nothing of libvirt is linked. libvirt marks the domain as tainted
/// (`custom-monitor`). The call reads which disks there are; nothing is changed for the guest.
///
/// Ownership: the paths in `opts` are copied.
///
/// Errors:
/// - `-EBUSY`: libvirt or another client of checkmap was at work all the time.
/// - `-ENOENT`: no such domain, with kind `CHECKMAP_ERROR_NOT_FOUND`; no `virsh`, with kind `CHECKMAP_ERROR_IO`.
/// - `-EINVAL`: an empty text, one that is no UTF-8, or an empty path.
/// - `-EREMOTEIO`: the connection to libvirt failed, or libvirt or QEMU refused a command.
/// - as `checkmap_machine_open()` without `-EBUSY`, `-ENOENT`, `-ECONNREFUSED`, `-EREMOTEIO`, `-EINVAL`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_machine_open_libvirt(
    uri: *const c_char,
    uri_len: usize,
    domain: *const c_char,
    domain_len: usize,
    opts: *const checkmap_qmp_opts,
    out: *mut *mut checkmap_machine,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        // SAFETY: the caller's promise for `uri`.
        let uri = unsafe { text_of(uri, uri_len, "the URI of libvirt") }?;
        // SAFETY: the caller's promise for `domain`.
        let domain = unsafe { text_of(domain, domain_len, "the name of the domain") }?;
        // SAFETY: the caller's promise for `opts`.
        let machine = unsafe { connect(Monitor::Libvirt { uri, domain }, opts) }?;
        let disks = machine.disks()?;
        out.put(give(OpenMachine { machine, disks }));
        Ok(0)
    })
}

/// Fills `out` with the disks of the machine, `max` at most; with `out` NULL it only counts.
///
/// They are those of the guest's devices at the time of the opening, in the order of the hypervisor; where it has no devices, all
/// images that nothing stands on.
///
/// Returns: how many disks there are in all; or a negative errno.
///
/// Ownership: the texts live as long as the machine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_machine_disks(
    machine: *const checkmap_machine,
    out: *mut checkmap_disk,
    max: usize,
) -> i64 {
    guard(|| {
        // SAFETY: the caller's promise for `machine`.
        let open = unsafe { shared(machine) }?;
        if out.is_null() {
            return Ok(count(open.disks.len()));
        }
        // SAFETY: the caller's promise for `out`, which has room for `max` disks.
        let mut room = unsafe { OutBuffer::new(out, max, "the array of disks") }?;
        for disk in open.disks.iter().take(room.left()) {
            room.push(checkmap_disk {
                title: disk.title().as_ptr().cast(),
                title_len: disk.title().len(),
                node: disk.node().as_ptr().cast(),
                node_len: disk.node().len(),
                file: disk.file().as_ptr().cast(),
                file_len: disk.file().len(),
                disk_size: disk.size_bytes(),
                flags: if disk.unfit().is_some() { CHECKMAP_DISK_UNFIT } else { 0 },
                reserved: 0,
                reserved2: [0; 4],
            });
        }
        Ok(count(open.disks.len()))
    })
}

/// Opens a disk of a machine as an image, whose calls go to the hypervisor over the machine's connection.
///
/// `node` has `node_len` bytes: the name of a node, of a device or its id, or the file of an image. Every call on images
/// serves this one; a checkpoint exists in the hypervisor's memory until the disk is closed there, so after a crash of it the
/// chain has ended. Images of one machine change in one step by `checkmap_checkpoint_create_many()`. The image may outlive the
/// handle of the machine.
///
/// Errors:
/// - `-ENOENT`: no disk is called so, with kind `CHECKMAP_ERROR_NOT_FOUND`.
/// - `-EEXIST`: two disks are called so.
/// - `-EINVAL`: an empty name, or one that is no UTF-8.
/// - `-EPROTO`: the layers below the disk form none that can be read.
/// - `-EBADMSG`: the answers are not those of QEMU.
/// - `-EREMOTEIO`: QEMU refused a command, or the connection broke.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_machine_image(
    machine: *const checkmap_machine,
    node: *const c_char,
    node_len: usize,
    out: *mut *mut checkmap_image,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        // SAFETY: the caller's promise for `machine`.
        let open = unsafe { shared(machine) }?;
        // SAFETY: the caller's promise for `node`.
        out.put(give(unsafe { image_of(&open.machine, node, node_len) }?));
        Ok(0)
    })
}

/// Ends a machine, a poisoned one too; its connection ends with the last image of it.
///
/// NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_machine_close(machine: *mut checkmap_machine) {
    // SAFETY: the caller's promise for `machine`, which it gives up.
    unsafe { super::boundary::free(machine) }
}

/// Opens one disk of a running QEMU as an image, with a connection of its own.
///
/// It is `checkmap_machine_open()` and `checkmap_machine_image()` in one, for programs that need one disk. A second call on the
/// same socket while the image is open is `-EBUSY`: several disks come from one machine.
///
/// Ownership: the paths in `opts` are copied.
///
/// Errors:
/// - `-ENOENT`: no such socket, with kind `CHECKMAP_ERROR_IO`; no disk is called so, with kind `CHECKMAP_ERROR_NOT_FOUND`.
/// - `-EINVAL`: an empty path or name, a path with a NUL inside, or a name that is no UTF-8.
/// - as `checkmap_machine_open()` without `-ENOENT`, `-EINVAL`
/// - as `checkmap_machine_image()` without `-ENOENT`, `-EINVAL`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_image_open_qmp(
    socket: *const c_char,
    len: usize,
    node: *const c_char,
    node_len: usize,
    opts: *const checkmap_qmp_opts,
    out: *mut *mut checkmap_image,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        // SAFETY: the caller's promise for `node`, which is looked at before anybody is asked.
        unsafe { text_of(node, node_len, "the name of the node") }?;
        // SAFETY: the caller's promise for `socket`.
        let monitor = Monitor::Socket(unsafe { path(socket, len) }?);
        // SAFETY: the caller's promise for `opts`.
        let machine = unsafe { connect(monitor, opts) }?;
        // SAFETY: the caller's promise for `node`.
        out.put(give(unsafe { image_of(&machine, node, node_len) }?));
        Ok(0)
    })
}
