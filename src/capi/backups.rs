//! Owns the backup directory as C programs see it: opening it, its list, and backup, restore, verification and prune. Must never
//! know what lies in the directory.

use super::boundary::{
    Handle, OutBuffer, array, count, exclusive, free, give, guard, handle_out, object, shared, signed,
};
use super::image::{name, path};
use super::machine::{checkmap_machine, text_of};
use super::options::{
    CHECKMAP_OPT_DRY_RUN, Options, Sized32, checkmap_opts, checkmap_progress_fn, invalid, read_sized, threads,
};
use super::outcome::{Outcome, checkmap_moment, checkmap_outcome, kept};
use crate::backup::{self, BackupDirectory, Keep, RestoreRequest, RunningSource, Source, TargetFormat};
use crate::error::Result;
use crate::memory;
use crate::qemu::MomentOptions;
use std::ffi::{c_char, c_int, c_void};
use std::mem;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Open for everything that changes nothing; many can at once.
pub const CHECKMAP_BACKUPS_RDONLY: u32 = 0;
/// Open for changes as well: what an interrupted run left is finished or cleared.
pub const CHECKMAP_BACKUPS_RDWR: u32 = 1;
/// As `CHECKMAP_BACKUPS_RDWR`; where there is no directory, or an empty one, it becomes one with mode 0700.
pub const CHECKMAP_BACKUPS_CREATE: u32 = 2;

/// A directory of backups. It is locked until it is closed: many can read it at once, one can change it.
///
/// A forked child must not use or close it.
#[derive(Debug)]
pub struct checkmap_backups {
    #[allow(dead_code, reason = "reached through pointers to the whole")]
    handle: Handle<BackupDirectory>,
}

object!(checkmap_backups = BackupDirectory, b"cmBackup", "directory of backups");

/// Told at once what a user should know, in a sentence of UTF-8 that is good until the callback returns.
///
/// It runs on the thread of the call, inside of it, under the rules of `checkmap_progress_fn`.
pub type checkmap_say_fn = Option<unsafe extern "C" fn(user_data: *mut c_void, sentence: *const c_char, len: usize)>;

/// A disk that is to be backed up. Frozen.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct checkmap_backup_source {
    /// The path of its image; of a running machine the name of a node, of a device or its id, or the file of an image, in UTF-8.
    pub disk: *const c_char,
    /// The bytes of that text.
    pub disk_len: usize,
    /// Its name in the directory, any bytes; NULL for the name by which the directory knows the disk of a running machine already,
    /// or else that of the file.
    pub name: *const c_char,
    /// The bytes of that name.
    pub name_len: usize,
}

/// Copy all, also where an increment could be taken; and take an image that was moved for the disk of that name.
pub const CHECKMAP_BACKUP_FULL: u32 = 1;
/// Take no locks on the images, as `CHECKMAP_OPEN_NO_LOCK`.
pub const CHECKMAP_BACKUP_NO_LOCK: u32 = 2;
/// End the moment that an interrupted run of this directory left in the machine, instead of backing it up.
pub const CHECKMAP_BACKUP_ABANDON: u32 = 4;

const BACKUP_FLAGS: u32 = CHECKMAP_BACKUP_FULL | CHECKMAP_BACKUP_NO_LOCK | CHECKMAP_BACKUP_ABANDON;

/// How a backup is taken; begin with `CHECKMAP_BACKUP_OPTS_INIT`. NULL stands for the defaults. It can grow, see `checkmap_opts`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct checkmap_backup_opts {
    /// sizeof(struct checkmap_backup_opts)
    pub size: u32,
    /// How many threads may be used, as that of `checkmap_opts`; from 2 on a disk is read on one while another writes.
    pub threads: u32,
    /// `CHECKMAP_BACKUP_...`; an unknown one is `-EINVAL`.
    pub flags: u32,
    /// How many checkpoints of the directory stay on each disk, the new one among them; 0 is 1.
    pub keep_checkpoints: u32,
    /// The name of the moment, which is that of the checkpoint on every disk; NULL for one from the clock, in UTC, such as
    /// 20261126T020000Z.
    pub checkpoint: *const c_char,
    /// The bytes of that name.
    pub checkpoint_len: usize,
    /// The file with the passphrase of encrypted layers of images; NULL for none.
    pub secret_file: *const c_char,
    /// The bytes of that path.
    pub secret_file_len: usize,
    /// The folder for scratch images of running disks; NULL for `TMPDIR`, or `/var/tmp`.
    pub scratch: *const c_char,
    /// The bytes of that path.
    pub scratch_len: usize,
    /// How many bytes the scratch images of all disks may take together; 0 is half of the free room of their folder.
    pub scratch_max_bytes: u64,
    /// Told what a user should know while a running machine is backed up, such as a pause or a scratch that is nearly full; or NULL.
    pub say: checkmap_say_fn,
    /// Told how far the call has come, and asked whether to go on; or NULL.
    pub progress: checkmap_progress_fn,
    /// Handed to `say` and `progress`.
    pub user_data: *mut c_void,
}

// SAFETY: integers, and pointers that may be NULL; the size comes first. A function pointer of any bits but NULL is the
// caller's to answer for.
unsafe impl Sized32 for checkmap_backup_opts {}

/// Replace a file that is there, or write over a device; never one that somebody uses.
pub const CHECKMAP_RESTORE_REPLACE: u32 = 1;
/// A new file gets the bytes of the disk themselves, instead of being an image that can keep bitmaps. A device gets them always.
pub const CHECKMAP_RESTORE_RAW: u32 = 2;

/// What to restore; begin with `CHECKMAP_RESTORE_REQUEST_INIT`. It can grow, see `checkmap_opts`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct checkmap_restore_request {
    /// sizeof(struct checkmap_restore_request)
    pub size: u32,
    /// `CHECKMAP_RESTORE_...`; an unknown one is `-EINVAL`.
    pub flags: u32,
    /// The name of the disk in the directory.
    pub disk: *const c_char,
    /// The bytes of that name.
    pub disk_len: usize,
    /// The checkpoint of the moment; NULL for the newest moment of the disk.
    pub checkpoint: *const c_char,
    /// The bytes of that name.
    pub checkpoint_len: usize,
    /// The path of the new file, of one that may be replaced, or of a block device.
    pub target: *const c_char,
    /// The bytes of that path.
    pub target_len: usize,
}

// SAFETY: integers, and pointers that may be NULL; the size comes first.
unsafe impl Sized32 for checkmap_restore_request {}

/// Where the oldest moments go, write a new full file, and leave the old one as it is until then.
pub const CHECKMAP_KEEP_REWRITE: u32 = 1;

/// Which moments a prune keeps: those that any rule keeps, and the newest one of each disk. Begin with `CHECKMAP_KEEP_INIT`. It can
/// grow, see `checkmap_opts`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct checkmap_keep {
    /// sizeof(struct checkmap_keep)
    pub size: u32,
    /// `CHECKMAP_KEEP_...`; an unknown one is `-EINVAL`.
    pub flags: u32,
    /// How many of the newest moments of each disk are kept; 0 is no such rule.
    pub last: u64,
    /// The moments that are no older than these seconds are kept; 0 is no such rule.
    pub within_seconds: u64,
}

// SAFETY: integers; the size comes first.
unsafe impl Sized32 for checkmap_keep {}

/// The bytes that the first version of each struct had.
const FIRST_OPTS: usize = mem::size_of::<checkmap_backup_opts>();
const FIRST_REQUEST: usize = mem::size_of::<checkmap_restore_request>();
const FIRST_KEEP: usize = mem::size_of::<checkmap_keep>();

/// The options of a backup, looked at and copied.
struct Given {
    checkpoint: Vec<u8>,
    flags: u32,
    keep_checkpoints: usize,
    secret_file: Option<PathBuf>,
    threads: usize,
    moment: MomentOptions,
    say: checkmap_say_fn,
    user_data: *mut c_void,
    observer: Options,
}

impl Given {
    /// # Safety
    ///
    /// As every call: `opts` is NULL or readable for as many bytes as its size says, with texts that are NULL or have their lengths.
    unsafe fn read(opts: *const checkmap_backup_opts) -> Result<Self> {
        let mut given = Self {
            checkpoint: Vec::new(),
            flags: 0,
            keep_checkpoints: 1,
            secret_file: None,
            threads: 0,
            moment: MomentOptions::default(),
            say: None,
            user_data: std::ptr::null_mut(),
            observer: Options::default(),
        };
        if !opts.is_null() {
            // SAFETY: not NULL; the alignment and the size are looked at before more than the size is read.
            let opts = unsafe { read_sized(opts, FIRST_OPTS, "checkmap_backup_opts") }?;
            known_flags(opts.flags, BACKUP_FLAGS)?;
            given.flags = opts.flags;
            given.threads = threads(opts.threads)?;
            given.keep_checkpoints = usize::try_from(opts.keep_checkpoints.max(1)).unwrap_or(usize::MAX);
            if !opts.checkpoint.is_null() {
                // SAFETY: the caller's promise for the name in `opts`.
                given.checkpoint = unsafe { name(opts.checkpoint, opts.checkpoint_len) }?;
            }
            // SAFETY: the caller's promise for the path in `opts`.
            given.secret_file = unsafe { path_or_none(opts.secret_file, opts.secret_file_len) }?;
            // SAFETY: as before.
            let scratch = unsafe { path_or_none(opts.scratch, opts.scratch_len) }?;
            let most = (opts.scratch_max_bytes > 0).then_some(opts.scratch_max_bytes);
            given.moment = given.moment.scratch(scratch).most_scratch_bytes(most);
            (given.say, given.user_data) = (opts.say, opts.user_data);
            given.observer = Options::observed_by(opts.progress, opts.user_data);
        }
        if given.checkpoint.is_empty() {
            given.checkpoint = backup::checkpoint_name(SystemTime::now()).into_bytes();
        }
        Ok(given)
    }

    fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    fn options(&self) -> backup::Options<'_> {
        backup::Options::new(&self.checkpoint)
            .full(self.has(CHECKMAP_BACKUP_FULL))
            .no_lock(self.has(CHECKMAP_BACKUP_NO_LOCK))
            .keep_checkpoints(self.keep_checkpoints)
            .secret_file(self.secret_file.as_deref())
            .threads(self.threads)
    }
}

/// Refuses flags that this library does not know.
fn known_flags(flags: u32, known: u32) -> Result<()> {
    match flags & !known {
        0 => Ok(()),
        unknown => Err(invalid(format!("there are unknown flags: {unknown:#x}"))),
    }
}

/// A path that may be missing.
///
/// # Safety
///
/// As every call: `given` is NULL or has `len` bytes.
pub(super) unsafe fn path_or_none(given: *const c_char, len: usize) -> Result<Option<PathBuf>> {
    if given.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise is the same.
    Ok(Some(unsafe { path(given, len) }?))
}

/// The name of a disk in a directory, copied; NULL is none.
///
/// # Safety
///
/// As every call: `given` is NULL or has `len` bytes.
unsafe fn disk_name(given: *const c_char, len: usize) -> Result<Option<Vec<u8>>> {
    if given.is_null() {
        return Ok(None);
    }
    if len == 0 {
        return Err(invalid("the name of a disk cannot be empty".into()));
    }
    // SAFETY: the caller's promise is the same.
    Ok(Some(unsafe { array(given.cast(), len, "the name of the disk") }?.to_vec()))
}

/// The disks that are to be backed up, of which there is one at least.
///
/// # Safety
///
/// As every call: `sources` is NULL or has `n` elements.
unsafe fn several<'a>(sources: *const checkmap_backup_source, n: usize) -> Result<&'a [checkmap_backup_source]> {
    // SAFETY: the caller's promise is the same.
    match unsafe { array(sources, n, "the array of disks") }? {
        [] => Err(invalid("there is no disk to back up".into())),
        sources => Ok(sources),
    }
}

/// Images and their names, copied.
///
/// # Safety
///
/// As every call: `sources` is NULL or has `n` elements, whose texts are NULL or have their lengths.
unsafe fn images(sources: *const checkmap_backup_source, n: usize) -> Result<Vec<(PathBuf, Option<Vec<u8>>)>> {
    // SAFETY: the caller's promise is the same.
    let sources = unsafe { several(sources, n) }?;
    let mut copied = memory::room(sources.len())?;
    for source in sources {
        // SAFETY: the caller's promise for both texts.
        copied.push(unsafe { (path(source.disk, source.disk_len)?, disk_name(source.name, source.name_len)?) });
    }
    Ok(copied)
}

fn sources_of(images: &[(PathBuf, Option<Vec<u8>>)]) -> Result<Vec<Source<'_>>> {
    let sources = images.iter().map(|(image, name)| match name {
        Some(name) => Source { image, name: name.clone() },
        None => Source::new(image),
    });
    Ok(memory::gather(sources)?)
}

/// Opens a directory of backups.
///
/// `flags` is one of `CHECKMAP_BACKUPS_...`
///
/// Errors:
/// - `-ENOENT`: there is no such directory, with kind `CHECKMAP_ERROR_IO`, or it is none of backups, with kind
///   `CHECKMAP_ERROR_NOT_FOUND`.
/// - `-EBUSY`: somebody changes it, or reads it while it is to be changed.
/// - `-ENOTSUP`: a newer version of checkmap made it.
/// - `-EBADMSG`: its manifest is damaged.
/// - `-EEXIST`: it is to be made, and holds other things.
/// - `-EINVAL`: unknown flags, an empty path, or one with a NUL inside.
/// - `-ENAMETOOLONG`: a path that is too long.
/// - what the system says, such as `-EACCES`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_backups_open(
    path: *const c_char,
    path_len: usize,
    flags: u32,
    out: *mut *mut checkmap_backups,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        // SAFETY: the caller's promise for `path`; the name of the function is only shadowed here.
        let path = unsafe { self::path(path, path_len) }?;
        let directory = match flags {
            CHECKMAP_BACKUPS_RDONLY => BackupDirectory::open(&path)?,
            CHECKMAP_BACKUPS_RDWR => BackupDirectory::open_to_change(&path)?,
            CHECKMAP_BACKUPS_CREATE => BackupDirectory::create(&path)?,
            unknown => return Err(invalid(format!("unknown flags to open a directory of backups: {unknown:#x}"))),
        };
        out.put(give(directory));
        Ok(0)
    })
}

/// Closes a directory of backups, a poisoned one too, and releases its lock.
///
/// NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_backups_close(backups: *mut checkmap_backups) {
    // SAFETY: the caller's promise for `backups`, which it gives up.
    unsafe { free(backups) }
}

/// Fills `out` with the kept moments of all disks, `max` at most; with `out` NULL it only counts.
///
/// Those of one disk stand together, the oldest first.
///
/// Returns: how many moments there are in all; or a negative errno.
///
/// Ownership: the texts live until a call that takes the directory alone, or its end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_backups_list(
    backups: *const checkmap_backups,
    out: *mut checkmap_moment,
    max: usize,
) -> i64 {
    guard(|| {
        // SAFETY: the caller's promise for `backups`.
        let open = unsafe { shared(backups) }?;
        let disks = open.disks();
        let moments = || disks.iter().flat_map(|disk| disk.moments().map(move |backup| kept(disk, backup)));
        if out.is_null() {
            return Ok(count(moments().count()));
        }
        // SAFETY: the caller's promise for `out`, which has room for `max` moments.
        let mut room = unsafe { OutBuffer::new(out, max, "the array of moments") }?;
        room.fill(moments());
        Ok(count(moments().count()))
    })
}

/// Takes a backup of `n` disk images, all with one checkpoint name.
///
/// The first backup of a disk is full; later ones hold what changed since the last one, or all with the reason. An error of the call
/// changes nothing, and what came of each disk is in the outcome: a disk that failed leaves the others.
///
/// Returns: how many disks are not done, each with an error in its row; or a negative errno.
///
/// Ownership: the texts of `sources` and `opts` are copied.
///
/// Errors:
/// - `-ESTALE`: the disk of that name in the directory is of another image.
/// - `-EEXIST`: the checkpoint is there already.
/// - `-EBUSY`: an image is in use.
/// - `-EROFS`: the directory was opened for reading, or an image may not be written.
/// - `-EUCLEAN`: an image must be repaired first.
/// - `-EBADMSG`: an image is damaged.
/// - `-ENOTSUP`: an image that cannot be read, or needs a `secret_file`, or a disk whose last backup lies on 500 files.
/// - `-EPROTO`: a file below an image is missing, or does not fit it.
/// - `-ENOLCK`: images of this file system cannot be locked; `CHECKMAP_BACKUP_NO_LOCK` does without.
/// - `-EINVAL`: no disk, two of one name, an unknown flag, or an image in the directory itself.
/// - `-ENAMETOOLONG`: a name of a checkpoint of more than 510 bytes, or a path that is too long.
/// - `-ENOENT`: no such image, with kind `CHECKMAP_ERROR_IO`.
/// - `-ECANCELED`: the call was stopped before the first disk was read.
/// - what the system says, such as `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_backups_take(
    backups: *mut checkmap_backups,
    sources: *const checkmap_backup_source,
    n: usize,
    opts: *const checkmap_backup_opts,
    out: *mut *mut checkmap_outcome,
) -> i64 {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        // SAFETY: the caller's promise for `opts`.
        let mut given = unsafe { Given::read(opts) }?;
        // SAFETY: the caller's promise for `sources`.
        let images = unsafe { images(sources, n) }?;
        // SAFETY: the caller's promise for `backups`.
        let mut open = unsafe { exclusive(backups) }?;
        let mut observer = mem::take(&mut given.observer);
        let all = open.take(&sources_of(&images)?, &given.options(), &mut observer)?;
        let outcome = Outcome::of_backup(&all)?;
        let failed = outcome.failed();
        out.put(give(outcome));
        Ok(failed)
    })
}

/// Takes a backup of `n` disks of a running machine while its guest writes on: all as they were at one moment, at which the checkpoint
/// is made.
///
/// A moment that an interrupted run of this directory left in the machine is backed up in the place of a new one, under its own name,
/// unless `CHECKMAP_BACKUP_ABANDON` ends it. Where the moment is lost, no disk that was not read yet is backed up, and the next
/// run has all changes. `say` of `opts` is told what a user should know at once.
///
/// Returns: how many disks are not done, each with an error in its row; or a negative errno.
///
/// Ownership: the texts of `sources` and `opts` are copied.
///
/// Errors:
/// - `-EBUSY`: a moment of somebody else stands in the machine, or a job works on the disks.
/// - `-ENOTSUP`: too little room for the scratch, or a disk that cannot be read so.
/// - `-ENOENT`: no disk is called so, with kind `CHECKMAP_ERROR_NOT_FOUND`.
/// - `-EEXIST`: the checkpoint is there already, or two disks are called so.
/// - `-EREMOTEIO`: QEMU refused a command, or the connection broke.
/// - as `checkmap_backups_take()` without `-EBUSY`, `-ENOTSUP`, `-ENOENT`, `-EEXIST`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_backups_take_running(
    backups: *mut checkmap_backups,
    machine: *const checkmap_machine,
    sources: *const checkmap_backup_source,
    n: usize,
    opts: *const checkmap_backup_opts,
    out: *mut *mut checkmap_outcome,
) -> i64 {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        // SAFETY: the caller's promise for `opts`.
        let mut given = unsafe { Given::read(opts) }?;
        // SAFETY: the caller's promise for `sources`.
        let named = unsafe { several(sources, n) }?;
        // SAFETY: the caller's promise for both handles, which are of different types.
        let (mut backups, open) = unsafe { (exclusive(backups)?, shared(machine)?) };
        let mut observer = mem::take(&mut given.observer);
        // Somebody may have made a snapshot since the machine was looked at.
        open.machine().refresh(&mut observer)?;
        let mut sources = memory::room(named.len())?;
        for each in named {
            // SAFETY: the caller's promise for the texts.
            let (disk, name) = unsafe {
                (text_of(each.disk, each.disk_len, "the name of the disk")?, disk_name(each.name, each.name_len)?)
            };
            let mut source = RunningSource::new(open.machine().find(&disk)?);
            source.name = name;
            sources.push(source);
        }
        let (say, user_data) = (given.say, given.user_data);
        let say = |sentence: &str| {
            if let Some(say) = say {
                // SAFETY: the caller gave a function of this type, to be called with this pointer, and the text has this length.
                unsafe { say(user_data, sentence.as_ptr().cast(), sentence.len()) };
            }
        };
        let of_moment = (&given.moment, given.has(CHECKMAP_BACKUP_ABANDON));
        let of_machine = (open.machine(), sources.as_slice());
        let all = backups.take_running(of_machine, &given.options(), of_moment, &say, &mut observer)?;
        let outcome = Outcome::of_backup(&all)?;
        let failed = outcome.failed();
        out.put(give(outcome));
        Ok(failed)
    })
}

/// Tells what `checkmap_backups_take()` would write into the directory at `path`, which need not be there: for each disk the moment as
/// it would be, its bytes at most.
///
/// Nothing is changed.
///
/// Ownership: the texts of `sources` and `opts` are copied.
///
/// Errors:
/// - as `checkmap_backups_take()`
/// - as `checkmap_backups_open()` without `-EEXIST`, `-ENOENT`, `-EBUSY`, `-ENOTSUP`, `-EBADMSG`, `-EINVAL`, `-ENAMETOOLONG`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_backups_preview(
    path: *const c_char,
    path_len: usize,
    sources: *const checkmap_backup_source,
    n: usize,
    opts: *const checkmap_backup_opts,
    out: *mut *mut checkmap_outcome,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        // SAFETY: the caller's promise for `path`; the name of the function is only shadowed here.
        let path = unsafe { self::path(path, path_len) }?;
        // SAFETY: the caller's promise for `opts`.
        let mut given = unsafe { Given::read(opts) }?;
        // SAFETY: the caller's promise for `sources`.
        let images = unsafe { images(sources, n) }?;
        let mut observer = mem::take(&mut given.observer);
        let all = backup::preview(&path, &sources_of(&images)?, &given.options(), &mut observer)?;
        out.put(give(Outcome::of_preview(&all)?));
        Ok(0)
    })
}

/// Writes a moment of a disk to a new file, to an existing one that may be replaced, or to a device, and compares all that it reads
/// with the checksums.
///
/// A file gets its name when it is whole and durable; a device may hold a part after an error.
///
/// Options: `progress`.
///
/// Ownership: the texts of `request` are copied.
///
/// Errors:
/// - `-ENOENT`: the directory has no such disk or moment, with kind `CHECKMAP_ERROR_NOT_FOUND`; a file of the backup or the
///   target's folder is missing, with kind `CHECKMAP_ERROR_IO`.
/// - `-EEXIST`: the target is there, and `CHECKMAP_RESTORE_REPLACE` was not asked for.
/// - `-EBUSY`: the target is in use.
/// - `-EBADMSG`: a file of the backup is damaged.
/// - `-ENOSPC`: no room, or a device that is too small.
/// - `-EINVAL`: an unknown flag, an empty name or path, a target that is no file or device, or one inside the directory.
/// - `-ENAMETOOLONG`: a name or path that is too long.
/// - `-ECANCELED`: the call was stopped.
/// - what the system says, such as `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_backups_restore(
    backups: *const checkmap_backups,
    request: *const checkmap_restore_request,
    opts: *const checkmap_opts,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `opts`.
        let mut options = unsafe { Options::read(opts) }?;
        if request.is_null() {
            return Err(invalid("the request is NULL".into()));
        }
        // SAFETY: not NULL; the alignment and the size are looked at before more than the size is read.
        let request = unsafe { read_sized(request, FIRST_REQUEST, "checkmap_restore_request") }?;
        known_flags(request.flags, CHECKMAP_RESTORE_REPLACE | CHECKMAP_RESTORE_RAW)?;
        // SAFETY: the caller's promise for the texts of the request.
        let disk = unsafe { disk_name(request.disk, request.disk_len) }?;
        let disk = disk.ok_or_else(|| invalid("the name of the disk is NULL".into()))?;
        let checkpoint = match request.checkpoint.is_null() {
            true => None,
            // SAFETY: as before.
            false => Some(unsafe { name(request.checkpoint, request.checkpoint_len) }?),
        };
        // SAFETY: as before.
        let target = unsafe { path(request.target, request.target_len) }?;
        // SAFETY: the caller's promise for `backups`.
        let open = unsafe { shared(backups) }?;
        let wanted = RestoreRequest::new(&disk, &target)
            .at(checkpoint.as_deref())
            .format((request.flags & CHECKMAP_RESTORE_RAW != 0).then_some(TargetFormat::Raw))
            .force(request.flags & CHECKMAP_RESTORE_REPLACE != 0);
        open.restore(&wanted, &mut options)?;
        Ok(0)
    })
}

/// Reads everything in a directory of backups, and tells which files are damaged or missing, and which moments that costs.
///
/// The outcome has a row for each such file, named by its disk and its checkpoint, with its error; `CHECKMAP_TEXTS_CHECKPOINTS` are
/// the moments that cannot be restored for it. Without a row all is well.
///
/// Options: `progress`.
///
/// Returns: how many moments were looked at; or a negative errno.
///
/// Errors:
/// - `-ECANCELED`: the call was stopped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_backups_verify(
    backups: *const checkmap_backups,
    opts: *const checkmap_opts,
    out: *mut *mut checkmap_outcome,
) -> i64 {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        // SAFETY: the caller's promise for `opts`.
        let mut options = unsafe { Options::read(opts) }?;
        // SAFETY: the caller's promise for `backups`.
        let open = unsafe { shared(backups) }?;
        let verified = open.verify(&mut options)?;
        out.put(give(Outcome::of_verification(&verified.findings)?));
        Ok(signed(verified.moments))
    })
}

/// Gives up the moments that no rule keeps.
///
/// Every kept moment can be restored at each instant, also where the process is killed. The outcome has a row for each disk;
/// `CHECKMAP_TEXTS_CHECKPOINTS` are the moments that were given up, or would be. Where the call is stopped, the last row is that of the
/// disk at which it was, with `-ECANCELED`.
///
/// Options: `progress`, `DRY_RUN`.
///
/// Returns: how many disks are not done, each with an error in its row; or a negative errno.
///
/// Errors:
/// - `-EINVAL`: no rule, or an unknown flag.
/// - `-EROFS`: the directory was opened for reading, and `DRY_RUN` was not asked for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_backups_prune(
    backups: *mut checkmap_backups,
    keep: *const checkmap_keep,
    opts: *const checkmap_opts,
    out: *mut *mut checkmap_outcome,
) -> i64 {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        // SAFETY: the caller's promise for `opts`.
        let mut options = unsafe { Options::read(opts) }?;
        if keep.is_null() {
            return Err(invalid("the rules of what is kept are NULL".into()));
        }
        // SAFETY: not NULL; the alignment and the size are looked at before more than the size is read.
        let keep = unsafe { read_sized(keep, FIRST_KEEP, "checkmap_keep") }?;
        known_flags(keep.flags, CHECKMAP_KEEP_REWRITE)?;
        let rules = Keep::new()
            .last((keep.last > 0).then(|| usize::try_from(keep.last).unwrap_or(usize::MAX)))
            .within((keep.within_seconds > 0).then(|| Duration::from_secs(keep.within_seconds)))
            .rewrite(keep.flags & CHECKMAP_KEEP_REWRITE != 0);
        // SAFETY: the caller's promise for `backups`.
        let mut open = unsafe { exclusive(backups) }?;
        let all = match options.has(CHECKMAP_OPT_DRY_RUN) {
            true => open.going(&rules)?,
            false => open.prune(&rules, &mut options)?,
        };
        let outcome = Outcome::of_prune(&all)?;
        let failed = outcome.failed();
        out.put(give(outcome));
        Ok(failed)
    })
}
