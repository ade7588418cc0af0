//! Owns the segment as C programs see it: a bitmap in a file of our own, opened, asked, loaded, written, merged and checked.
//! Must never know its layout.

use super::bitmap::checkmap_bitmap;
use super::boundary::{
    Handle, OutBuffer, ask, free, give, guard, handle_out, handles, object, offset_or_none, shared, signed,
};
use super::image::{duplicate, path};
use super::options::{Facts, Options, Sized32, checkmap_opts};
use super::report::{checkmap_report, report_of_segment};
use super::values::{
    CHECKMAP_EXTENT_DIRTY, CHECKMAP_EXTENT_ONLY_IN_FIRST, CHECKMAP_EXTENT_ONLY_IN_SECOND, checkmap_extent,
};
use crate::bitmap::Bitmap;
use crate::error::{Error, Result};
use crate::geometry::Extent;
use crate::io::FileStorage;
use crate::io::replace::Target;
use crate::memory;
use crate::segment::{self, MergeOptions, Segment, Side, Summary};
use std::ffi::{c_char, c_int};
use std::io::Write;
use std::mem;
use std::sync::Arc;

/// A bitmap in a file, which may be larger than memory: only its directory is in memory.
///
/// Calls that take it as `const` may run concurrently. Every query reads what it needs, and checks it before it
/// believes it: what breaks a rule is `-EBADMSG`.
#[derive(Debug)]
pub struct checkmap_segment {
    #[allow(dead_code, reason = "reached through pointers to the whole")]
    handle: Handle<Segment<'static>>,
}

object!(checkmap_segment = Segment<'static>, b"cmSegmnt", "segment");

/// What a segment holds, and what it takes; begin with `CHECKMAP_SEGMENT_INFO_INIT`. It can grow, see `checkmap_opts`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct checkmap_segment_info {
    /// sizeof(struct checkmap_segment_info)
    pub size: u32,
    /// 0.
    pub reserved: u32,
    /// The size of the disk in bytes.
    pub disk_size: u64,
    /// The bytes that one bit stands for.
    pub granularity: u64,
    /// The dirty granules.
    pub dirty_granules: u64,
    /// The dirty extents of the whole disk.
    pub extents: u64,
    /// The chunks of 65536 granules that have dirty ones.
    pub chunks: u64,
    /// The entries of the directory.
    pub entries: u64,
    /// The length of the file in bytes.
    pub file_bytes: u64,
}

// SAFETY: integers; the size comes first.
unsafe impl Sized32 for checkmap_segment_info {}

/// The facts of a segment, where they were asked for.
struct Told(Option<Facts<checkmap_segment_info>>);

impl Told {
    /// Looks at `info`, which may be NULL.
    ///
    /// # Safety
    ///
    /// As every call: `info` is NULL or writable for as many bytes as its size says.
    unsafe fn new(info: *mut checkmap_segment_info) -> Result<Self> {
        if info.is_null() {
            return Ok(Self(None));
        }
        let first = mem::size_of::<checkmap_segment_info>();
        // SAFETY: the caller's promise is the same.
        Ok(Self(Some(unsafe { Facts::new(info, first, "checkmap_segment_info") }?)))
    }

    fn tell(self, summary: &Summary) {
        if let Some(facts) = self.0 {
            facts.put(&checkmap_segment_info {
                size: 0,
                reserved: 0,
                disk_size: summary.size_bytes,
                granularity: summary.granularity.bytes(),
                dirty_granules: summary.dirty_granules,
                extents: summary.extents,
                chunks: summary.chunks,
                entries: summary.entries,
                file_bytes: summary.file_bytes,
            });
        }
    }
}

/// Opens the segment in the file at `path`: reads and checks its header, its trailer and its directory.
///
/// The path has `path_len` bytes and needs no NUL behind them.
///
/// Errors:
/// - `-ENOTSUP`: a file that is no segment, or one of another version.
/// - `-EBADMSG`: a segment that breaks a rule or was cut short.
/// - `-EINVAL`: an empty path, or one with a NUL inside.
/// - `-ENAMETOOLONG`: a path that is too long.
/// - `-ENOENT`: no such file, with kind `CHECKMAP_ERROR_IO`.
/// - `-EISDIR`: a folder.
/// - what the system says, such as `-EACCES` and `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_segment_open(
    path: *const c_char,
    path_len: usize,
    out: *mut *mut checkmap_segment,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        // SAFETY: the caller's promise for `path`; the name of the function is only shadowed here.
        let path = unsafe { self::path(path, path_len) }?;
        out.put(give(Segment::open_file(&path)?));
        Ok(0)
    })
}

/// Opens the segment behind an open descriptor, which stays the caller's and may be closed at once.
///
/// Errors:
/// - `-EBADF`: no open descriptor.
/// - as `checkmap_segment_open()` without `-EINVAL`, `-ENAMETOOLONG`, `-ENOENT`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_segment_open_fd(fd: c_int, out: *mut *mut checkmap_segment) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        let (file, path) = duplicate(fd)?;
        let storage = FileStorage::new(file).map_err(|error| Error::io("cannot be used as a segment", error));
        let segment = storage.and_then(|storage| Segment::open(Arc::new(storage)));
        out.put(give(segment.map_err(|error| error.in_file(&path))?));
        Ok(0)
    })
}

/// Closes a segment.
///
/// NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_segment_close(segment: *mut checkmap_segment) {
    // SAFETY: the caller's promise for `segment`, which it gives up.
    unsafe { free(segment) }
}

/// Tells what a segment holds.
///
/// Everything but `info->size`, which the caller sets, is zero on error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_segment_get_info(
    segment: *const checkmap_segment,
    info: *mut checkmap_segment_info,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `info`, which is not looked at as optional here.
        let facts = unsafe { Facts::new(info, mem::size_of::<checkmap_segment_info>(), "checkmap_segment_info") }?;
        // SAFETY: the caller's promise for `segment`.
        let segment = unsafe { shared(segment) }?;
        Told(Some(facts)).tell(&segment.summary());
        Ok(0)
    })
}

/// The bytes that the handle takes on the heap.
///
/// Returns: a number of bytes; or a negative errno.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_segment_heap_bytes(segment: *const checkmap_segment) -> i64 {
    // SAFETY: the caller's promise for `segment`.
    unsafe { ask(segment, |segment| Ok(super::boundary::count(segment.heap_bytes()))) }
}

/// The number of dirty granules; from memory.
///
/// Returns: a number of granules; or a negative errno.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_segment_count(segment: *const checkmap_segment) -> i64 {
    // SAFETY: the caller's promise for `segment`.
    unsafe { ask(segment, |segment| Ok(signed(segment.dirty_granules()))) }
}

/// The number of dirty bytes: the sum of all extents, never above the size of the disk.
///
/// Returns: a number of bytes; or a negative errno.
///
/// Errors:
/// - as `checkmap_segment_get()` without `-ERANGE`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_segment_dirty_bytes(segment: *const checkmap_segment) -> i64 {
    // SAFETY: the caller's promise for `segment`.
    unsafe { ask(segment, |segment| segment.dirty_bytes().map(signed)) }
}

/// The number of dirty granules that touch the range, which is cut at the end of the disk.
///
/// However long the range, at most two pieces of the file are read.
///
/// Returns: a number of granules; or a negative errno.
///
/// Errors:
/// - as `checkmap_segment_get()` without `-ERANGE`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_segment_count_range(
    segment: *const checkmap_segment,
    offset: u64,
    length: u64,
) -> i64 {
    // SAFETY: the caller's promise for `segment`.
    unsafe { ask(segment, |segment| segment.count_range(offset, length).map(signed)) }
}

/// Whether the granule that holds the byte at `offset` is dirty.
///
/// Returns: 0 or 1; or a negative errno.
///
/// Errors:
/// - `-ERANGE`: an offset past the last granule of the disk.
/// - `-EBADMSG`: the bytes that were read break a rule of the format.
/// - what the system says, such as `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_segment_get(segment: *const checkmap_segment, offset: u64) -> c_int {
    // SAFETY: the caller's promise for `segment`.
    unsafe { ask(segment, |segment| segment.get(offset).map(c_int::from)) }
}

/// The first dirty byte of the range, which is cut at the end of the disk.
///
/// Returns: an offset in bytes; -1 if there is none; or another negative errno.
///
/// Errors:
/// - as `checkmap_segment_get()` without `-ERANGE`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_segment_next_dirty(
    segment: *const checkmap_segment,
    offset: u64,
    length: u64,
) -> i64 {
    // SAFETY: the caller's promise for `segment`.
    unsafe { ask(segment, |segment| segment.next_dirty(offset, length).map(offset_or_none)) }
}

/// The first clean byte of the range, which is cut at the end of the disk.
///
/// Returns: an offset in bytes; -1 if there is none; or another negative errno.
///
/// Errors:
/// - as `checkmap_segment_get()` without `-ERANGE`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_segment_next_clean(
    segment: *const checkmap_segment,
    offset: u64,
    length: u64,
) -> i64 {
    // SAFETY: the caller's promise for `segment`.
    unsafe { ask(segment, |segment| segment.next_clean(offset, length).map(offset_or_none)) }
}

/// The last dirty byte of the range, which is cut at the end of the disk.
///
/// Returns: an offset in bytes; -1 if there is none; or another negative errno.
///
/// Errors:
/// - as `checkmap_segment_get()` without `-ERANGE`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_segment_previous_dirty(
    segment: *const checkmap_segment,
    offset: u64,
    length: u64,
) -> i64 {
    // SAFETY: the caller's promise for `segment`.
    unsafe { ask(segment, |segment| segment.previous_dirty(offset, length).map(offset_or_none)) }
}

/// The last clean byte of the range, which is cut at the end of the disk.
///
/// Returns: an offset in bytes; -1 if there is none; or another negative errno.
///
/// Errors:
/// - as `checkmap_segment_get()` without `-ERANGE`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_segment_previous_clean(
    segment: *const checkmap_segment,
    offset: u64,
    length: u64,
) -> i64 {
    // SAFETY: the caller's promise for `segment`.
    unsafe { ask(segment, |segment| segment.previous_clean(offset, length).map(offset_or_none)) }
}

/// The number of dirty granules before the one that holds the byte at `offset`; at the end of the disk and past it, all.
///
/// Returns: a number of granules; or a negative errno.
///
/// Errors:
/// - as `checkmap_segment_get()` without `-ERANGE`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_segment_rank(segment: *const checkmap_segment, offset: u64) -> i64 {
    // SAFETY: the caller's promise for `segment`.
    unsafe { ask(segment, |segment| segment.rank(offset).map(signed)) }
}

/// Where the dirty granule of this number begins, counted from 0.
///
/// Returns: an offset in bytes; -1 if fewer granules are dirty; or another negative errno.
///
/// Errors:
/// - as `checkmap_segment_get()` without `-ERANGE`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_segment_select(segment: *const checkmap_segment, number: u64) -> i64 {
    // SAFETY: the caller's promise for `segment`.
    unsafe { ask(segment, |segment| segment.select(number).map(offset_or_none)) }
}

/// Fills `out` with the dirty extents of the range, as `checkmap_bitmap_extents()` does.
///
/// On error some of `out` may be filled, and none of it is to be believed.
///
/// Returns: how many extents were written; fewer than `max` is all; or a negative errno.
///
/// Errors:
/// - `-EINVAL`: a `max` of 0, or an `out` that is NULL or misaligned.
/// - as `checkmap_segment_get()` without `-ERANGE`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_segment_extents(
    segment: *const checkmap_segment,
    offset: u64,
    length: u64,
    out: *mut checkmap_extent,
    max: usize,
) -> i64 {
    guard(|| {
        // SAFETY: the caller's promise for `segment`.
        let segment = unsafe { shared(segment) }?;
        // SAFETY: the caller's promise for `out`, which has room for `max` extents.
        let mut room = unsafe { OutBuffer::new(out, max, "the array of extents") }?;
        for extent in segment.extents(offset, length).take(max) {
            let Extent { offset, len_bytes } = extent?;
            room.push(checkmap_extent { offset, length: len_bytes, flags: CHECKMAP_EXTENT_DIRTY, reserved: 0 });
        }
        Ok(room.count())
    })
}

/// Fills `out` with the extents of the range that are dirty in one of two segments only, in ascending order.
///
/// The flags of an extent say in which. To go on, ask again from the end of the last extent. On error some of `out` may
/// be filled, and none of it is to be believed.
///
/// Returns: how many extents were written; fewer than `max` is all; or a negative errno.
///
/// Errors:
/// - `-EINVAL`: disks of different size, a `max` of 0, or an `out` that is NULL or misaligned.
/// - as `checkmap_segment_get()` without `-ERANGE`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_segment_diff(
    first: *const checkmap_segment,
    second: *const checkmap_segment,
    offset: u64,
    length: u64,
    out: *mut checkmap_extent,
    max: usize,
) -> i64 {
    guard(|| {
        // SAFETY: the caller's promise for both, which may be the same one.
        let (first, second) = unsafe { (shared(first)?, shared(second)?) };
        // SAFETY: the caller's promise for `out`, which has room for `max` extents.
        let mut room = unsafe { OutBuffer::new(out, max, "the array of extents") }?;
        for difference in segment::diff(&first, &second, offset, length)?.take(max) {
            let difference = difference?;
            let flags = match difference.dirty_in {
                Side::A => CHECKMAP_EXTENT_ONLY_IN_FIRST,
                Side::B => CHECKMAP_EXTENT_ONLY_IN_SECOND,
            };
            let Extent { offset, len_bytes } = difference.extent;
            room.push(checkmap_extent { offset, length: len_bytes, flags, reserved: 0 });
        }
        Ok(room.count())
    })
}

/// Makes a bitmap of the granules that touch the range; all others are clean in it.
///
/// Errors:
/// - as `checkmap_segment_get()` without `-ERANGE`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_segment_load(
    segment: *const checkmap_segment,
    offset: u64,
    length: u64,
    out: *mut *mut checkmap_bitmap,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        // SAFETY: the caller's promise for `segment`.
        let segment = unsafe { shared(segment) }?;
        out.put(give(segment.load(offset, length)?));
        Ok(0)
    })
}

/// Reads all of the segment and verifies it.
///
/// Faults of the segment stand in the report, and are no error.
///
/// Options: `progress`.
///
/// Errors:
/// - `-ECANCELED`: the call was stopped.
/// - what the system says, such as `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_segment_check(
    segment: *const checkmap_segment,
    opts: *const checkmap_opts,
    out: *mut *mut checkmap_report,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        // SAFETY: the caller's promise for `opts`.
        let mut options = unsafe { Options::read(opts) }?;
        // SAFETY: the caller's promise for `segment`.
        let segment = unsafe { shared(segment) }?;
        out.put(give(report_of_segment(&segment.check(&mut options)?)?));
        Ok(0)
    })
}

/// Writes a bitmap as a segment to the file at `path`, which it replaces in one atomic step, durably.
///
/// `info` may be NULL. A replaced file keeps its mode, and its owner where the system allows that; a symbolic link is
/// followed. On error the file stays as it was, but for an error of kind `CHECKMAP_ERROR_COMMIT_IN_DOUBT`: then the new
/// content stands, and may be lost with the power.
///
/// Errors:
/// - `-EINVAL`: a folder, a device, a pipe, a socket or a disk image; an empty path, or one with a NUL inside.
/// - `-ENAMETOOLONG`: a path that is too long.
/// - `-ENOENT`: the folder of the file is missing.
/// - `-ENOSPC`: the disk is full.
/// - `-EIO`: with kind `CHECKMAP_ERROR_COMMIT_IN_DOUBT` the new content stands, and may be lost with the power.
/// - what the system says, such as `-EACCES` and `-EIO` with kind `CHECKMAP_ERROR_IO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_segment_write(
    bitmap: *const checkmap_bitmap,
    path: *const c_char,
    path_len: usize,
    info: *mut checkmap_segment_info,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `info`.
        let told = unsafe { Told::new(info) }?;
        // SAFETY: the caller's promise for `bitmap`.
        let bitmap = unsafe { shared(bitmap) }?;
        // SAFETY: the caller's promise for `path`; the name of the function is only shadowed here.
        let path = unsafe { self::path(path, path_len) }?;
        told.tell(&replace(Target::new(&path)?, |out| write_bitmap(&bitmap, out))?);
        Ok(0)
    })
}

/// Writes a bitmap as a segment to an open descriptor, from its position on; a pipe will do.
///
/// The descriptor stays the caller's. `info` may be NULL. After an error the written bytes are no segment.
///
/// Errors:
/// - `-EBADF`: no open descriptor, or one that cannot be written.
/// - `-ENOSPC`: the disk is full.
/// - what the system says, such as `-EPIPE` and `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_segment_write_fd(
    bitmap: *const checkmap_bitmap,
    fd: c_int,
    info: *mut checkmap_segment_info,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `info`.
        let told = unsafe { Told::new(info) }?;
        // SAFETY: the caller's promise for `bitmap`.
        let bitmap = unsafe { shared(bitmap) }?;
        let (mut file, path) = duplicate(fd)?;
        told.tell(&write_bitmap(&bitmap, &mut file).map_err(|error| error.in_file(&path))?);
        Ok(0)
    })
}

fn failed(error: std::io::Error) -> Error {
    Error::io("cannot write the segment", error)
}

fn write_bitmap(bitmap: &Bitmap, out: &mut dyn Write) -> Result<Summary> {
    segment::write(bitmap, out).map_err(failed)
}

/// Unites `n` segments into a new one in the file at `path`, which it replaces as `checkmap_segment_write()` does.
///
/// `info` may be NULL. The result has the finest granularity of them all. Each is read once, in bounded memory, however
/// large they are.
///
/// Options: `threads`, `memory_bytes`, `progress`.
///
/// Errors:
/// - `-EINVAL`: disks of different size, an `n` of 0, or memory that cannot suffice.
/// - `-EBADMSG`: the bytes that were read break a rule of the format.
/// - `-ECANCELED`: the call was stopped.
/// - as `checkmap_segment_write()`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_segment_merge(
    segments: *const *const checkmap_segment,
    n: usize,
    path: *const c_char,
    path_len: usize,
    opts: *const checkmap_opts,
    info: *mut checkmap_segment_info,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `info`.
        let told = unsafe { Told::new(info) }?;
        // SAFETY: the caller's promise for `opts`.
        let mut options = unsafe { Options::read(opts) }?;
        // SAFETY: the caller's promise for `segments` and the handles in it.
        let segments = unsafe { handles(segments, n, "the array of segments") }?;
        // SAFETY: the caller's promise for `path`; the name of the function is only shadowed here.
        let path = unsafe { self::path(path, path_len) }?;
        let segments: Vec<&Segment> = memory::gather(segments.iter().map(|segment| &**segment))?;
        let target = Target::new(&path)?;
        let how = merge_options(&options);
        told.tell(&replace(target, |out| segment::merge(&segments, out, &how, &mut options))?);
        Ok(0)
    })
}

/// Tells what `checkmap_segment_merge()` would make, without making it.
///
/// Options: `threads`, `memory_bytes`, `progress`.
///
/// Errors:
/// - `-EINVAL`: disks of different size, an `n` of 0, or memory that cannot suffice.
/// - `-EBADMSG`: the bytes that were read break a rule of the format.
/// - `-ECANCELED`: the call was stopped.
/// - what the system says, such as `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_segment_merge_info(
    segments: *const *const checkmap_segment,
    n: usize,
    opts: *const checkmap_opts,
    info: *mut checkmap_segment_info,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise for `info`, which is not looked at as optional here.
        let facts = unsafe { Facts::new(info, mem::size_of::<checkmap_segment_info>(), "checkmap_segment_info") }?;
        // SAFETY: the caller's promise for `opts`.
        let mut options = unsafe { Options::read(opts) }?;
        // SAFETY: the caller's promise for `segments` and the handles in it.
        let segments = unsafe { handles(segments, n, "the array of segments") }?;
        let segments: Vec<&Segment> = memory::gather(segments.iter().map(|segment| &**segment))?;
        let how = merge_options(&options);
        Told(Some(facts)).tell(&segment::count(&segments, &how, &mut options)?);
        Ok(0)
    })
}

fn merge_options(options: &Options) -> MergeOptions {
    let default = MergeOptions::default();
    let memory_bytes = if options.memory_bytes > 0 { options.memory_bytes } else { default.memory_bytes };
    MergeOptions { memory_bytes, threads: options.threads, ..default }
}

/// Lets `write` fill a new file, and puts it in the place of `target` when it is whole and durable.
fn replace(target: Target, write: impl FnOnce(&mut dyn Write) -> Result<Summary>) -> Result<Summary> {
    let path = target.path().to_owned();
    // The bytes come in large pieces.
    let mut out = target.begin()?;
    let summary = write(&mut out).map_err(|error| error.in_file(&path))?;
    out.sync()?.commit()?;
    Ok(summary)
}
