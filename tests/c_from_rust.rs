//! Calls of the C library made from Rust, on little data, beside the same in Rust: Miri runs these, which cannot run C, and
//! sees what the calls do with the memory of their caller. `tests/c` has every behaviour.

use checkmap::capi::bitmap::*;
use checkmap::capi::bits::*;
use checkmap::capi::error::{
    CHECKMAP_ERROR_CANCELLED, CHECKMAP_ERROR_OUT_OF_RANGE, checkmap_error_name, checkmap_last_error,
    checkmap_last_error_kind, checkmap_last_error_marked,
};
use checkmap::capi::options::checkmap_opts;
use checkmap::capi::report::*;
use checkmap::capi::segment::*;
use checkmap::capi::sets::*;
use checkmap::capi::values::{checkmap_extent, checkmap_problem};
use checkmap::{Bitmap, Granularity};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::{MaybeUninit, size_of};
use std::path::Path;
use std::{fs, ptr};

const CHUNK: u64 = 1 << 16;
const SIZE: u64 = 5 * CHUNK + 77;
const TO_END: u64 = u64::MAX;

/// A bitmap behind a handle of C, and the same in Rust.
struct Both(*mut checkmap_bitmap, Bitmap);

impl Drop for Both {
    fn drop(&mut self) {
        // SAFETY: the handle is alive, and nobody uses it afterwards.
        unsafe { checkmap_bitmap_free(self.0) }
    }
}

fn rust_bitmap(ranges: &[(u64, u64)]) -> Bitmap {
    let mut bitmap = Bitmap::new(SIZE, Granularity::from_bits(0).unwrap()).unwrap();
    ranges.iter().for_each(|&(offset, length)| bitmap.set(offset, length).unwrap());
    bitmap
}

impl Both {
    fn new(ranges: &[(u64, u64)]) -> Self {
        let mut bitmap = ptr::null_mut();
        // SAFETY: a place of our own, then a handle that is alive, as in all calls of this file.
        unsafe {
            assert_eq!(checkmap_bitmap_new(SIZE, 1, &raw mut bitmap), 0);
            ranges.iter().for_each(|&(offset, length)| assert_eq!(checkmap_bitmap_set(bitmap, offset, length), 0));
        }
        Self(bitmap, rust_bitmap(ranges))
    }

    /// That of a call which made a new one.
    fn made(expected: Bitmap, make: impl FnOnce(*mut *mut checkmap_bitmap) -> c_int) -> Self {
        let mut bitmap = ptr::null_mut();
        assert_eq!(make(&raw mut bitmap), 0, "{}", last_error());
        Self(bitmap, expected)
    }

    /// Compares all that C can ask for.
    fn check(&self) {
        let Self(bitmap, expected) = self;
        let bitmap = bitmap.cast_const();
        let size = expected.size_bytes();
        let signed = |number: u64| i64::try_from(number).unwrap();
        let place = |found: Option<u64>| found.map_or(-1, signed);
        // Longer than is needed, and not filled before.
        let mut extents = [const { MaybeUninit::<checkmap_extent>::uninit() }; 40];
        let mut bits = vec![MaybeUninit::<u8>::uninit(); usize::try_from(size.div_ceil(8)).unwrap()];
        // SAFETY: the handle is alive, and the buffers are as long as is said.
        unsafe {
            assert_eq!(checkmap_bitmap_validate(bitmap), 0, "{}", last_error());
            assert_eq!((checkmap_bitmap_size(bitmap), checkmap_bitmap_granularity(bitmap)), (size, 1));
            assert_eq!(checkmap_bitmap_count(bitmap), signed(expected.dirty_granules()));
            assert_eq!(checkmap_bitmap_dirty_bytes(bitmap), signed(expected.dirty_bytes()));
            assert_eq!(checkmap_bitmap_count_extents(bitmap), signed(expected.extents(0, TO_END).count() as u64));
            assert!(checkmap_bitmap_heap_bytes(bitmap) >= 0);
            for (offset, length) in [(0, TO_END), (70, 3 * CHUNK), (CHUNK - 1, 2)] {
                assert_eq!(
                    checkmap_bitmap_next_dirty(bitmap, offset, length),
                    place(expected.next_dirty(offset, length))
                );
                assert_eq!(
                    checkmap_bitmap_previous_clean(bitmap, offset, length),
                    place(expected.previous_clean(offset, length))
                );
            }
            let out = extents.as_mut_ptr().cast();
            let count = usize::try_from(checkmap_bitmap_extents(bitmap, 0, TO_END, out, extents.len())).unwrap();
            let found = extents[..count].iter().map(|extent| extent.assume_init_ref());
            assert!(
                found
                    .map(|extent| (extent.offset, extent.length))
                    .eq(expected.extents(0, TO_END).map(|extent| (extent.offset, extent.len_bytes)))
            );
            let written = checkmap_bitmap_to_bits(bitmap, 0, TO_END, bits.as_mut_ptr().cast(), bits.len());
            assert_eq!(usize::try_from(written).unwrap(), bits.len(), "{}", last_error());
            for extent in expected.extents(0, TO_END) {
                for bit in [extent.offset, extent.offset + extent.len_bytes - 1] {
                    let byte = bits[usize::try_from(bit / 8).unwrap()].assume_init();
                    assert!(byte >> (bit % 8) & 1 == 1 && checkmap_bitmap_get(bitmap, bit) == 1);
                }
            }
        }
    }
}

fn last_error() -> String {
    // SAFETY: the text ends with NUL, and lives until the next failure of this thread.
    unsafe { CStr::from_ptr(checkmap_last_error()) }.to_string_lossy().into_owned()
}

/// A list, runs, words, full chunks and the end of the disk.
fn ranges() -> Vec<(u64, u64)> {
    let list = [(3, 1), (64, 2), (900, 1), (CHUNK - 1, 3)];
    let runs = [(2 * CHUNK + 5, 3000), (2 * CHUNK + 4000, 500)];
    [&list[..], &runs, &[(3 * CHUNK, CHUNK), (SIZE - 1, 1)]].concat()
}

#[test]
fn marks_and_what_they_come_to() {
    let mut bitmap = Both::new(&ranges());
    bitmap.check();
    // SAFETY: the handle is alive, and the bits are as many as is said.
    unsafe {
        assert_eq!(checkmap_bitmap_clear(bitmap.0, 64, 2 * CHUNK), 0);
        bitmap.1.clear(64, 2 * CHUNK).unwrap();
        bitmap.check();
        let bits = [0xa5; 33];
        assert_eq!(checkmap_bitmap_from_bits(bitmap.0, 8 * 100, bits.as_ptr(), bits.len()), 0, "{}", last_error());
        for bit in (0..33 * 8).filter(|bit| 0xa5 >> (bit % 8) & 1 == 1) {
            bitmap.1.set(8 * 100 + bit, 1).unwrap();
        }
        assert_eq!(checkmap_bitmap_count(bitmap.0), i64::try_from(bitmap.1.dirty_granules()).unwrap());
        assert_eq!(checkmap_bitmap_clear(bitmap.0, 800, 264), 0);
        bitmap.1.clear(800, 264).unwrap();
        assert_eq!(checkmap_bitmap_optimize(bitmap.0), 0);
        assert_eq!(checkmap_bitmap_resize(bitmap.0, 2 * CHUNK + 100), 0);
        bitmap.1.resize(2 * CHUNK + 100).unwrap();
        bitmap.check();
        assert_eq!((checkmap_bitmap_set_all(bitmap.0), checkmap_bitmap_clear_all(bitmap.0)), (0, 0));
        assert_eq!(checkmap_bitmap_is_empty(bitmap.0), 1);
    }
}

#[test]
fn operations_and_copies() {
    let (a, b) = (Both::new(&ranges()), Both::new(&[(0, 70), (2 * CHUNK, CHUNK + 9), (SIZE - 2, 2)]));
    let mut united = a.1.clone();
    united.union_with(&b.1).unwrap();
    let sources = [a.0.cast_const(), b.0.cast_const()];
    // SAFETY: the handles are alive, and the lists as long as is said.
    unsafe {
        let made = Both::made(united.clone(), |out| checkmap_bitmap_union_new(sources.as_ptr(), 2, 0, out));
        made.check();
        assert_eq!((checkmap_bitmap_is_subset(a.0, made.0), checkmap_bitmap_is_subset(made.0, a.0)), (1, 0));
        // One of the sources may be the result itself.
        assert_eq!(checkmap_bitmap_union(a.0, sources.as_ptr(), 2), 0, "{}", last_error());
        assert_eq!((checkmap_bitmap_equal(a.0, made.0), checkmap_bitmap_equal(a.0, a.0)), (1, 1));
        let copy = Both::made(united.clone(), |out| checkmap_bitmap_clone(a.0, out));
        for (operation, expected) in [
            (checkmap_bitmap_intersect as unsafe extern "C" fn(_, _) -> _, &b.1),
            (checkmap_bitmap_xor, &rust_bitmap(&[])),
        ] {
            assert_eq!(operation(copy.0, b.0), 0);
            Both::made(expected.clone(), |out| checkmap_bitmap_clone(copy.0, out)).check();
        }
        assert_eq!(checkmap_bitmap_subtract(a.0, a.0), 0);
        assert_eq!(checkmap_bitmap_is_empty(a.0), 1);

        let len = checkmap_bitmap_serialize(made.0, ptr::null_mut(), 0);
        let mut bytes = vec![MaybeUninit::<u8>::uninit(); usize::try_from(len).unwrap()];
        assert_eq!(checkmap_bitmap_serialize(made.0, bytes.as_mut_ptr().cast(), bytes.len()), len);
        let read = |out| checkmap_bitmap_deserialize(bytes.as_ptr().cast(), bytes.len(), SIZE, 1, out);
        Both::made(united, read).check();
    }
}

/// Stops at the first step that has a name.
unsafe extern "C" fn stop(user_data: *mut c_void, phase: *const c_char, done: u64, total: u64) -> c_int {
    // SAFETY: the name ends with NUL, and the other is the place that the options name.
    unsafe {
        assert!(!CStr::from_ptr(phase).is_empty() && done <= total);
        *user_data.cast::<u32>() += 1;
    }
    1
}

#[test]
fn options_and_what_is_refused() {
    let bitmap = Both::new(&ranges());
    let sources = [bitmap.0.cast_const()];
    let mut steps = 0_u32;
    let opts = checkmap_opts {
        size: u32::try_from(size_of::<checkmap_opts>()).unwrap(),
        threads: 1,
        memory_bytes: 0,
        progress: Some(stop),
        user_data: (&raw mut steps).cast(),
        flags: 0,
        model: 0,
    };
    // As a newer caller has it, with members that this library does not know.
    let larger = (checkmap_opts { size: opts.size + 8, ..opts }, 0_u64);
    let known = (checkmap_opts { size: opts.size + 8, ..opts }, 1_u64);
    let smaller = checkmap_opts { size: 8, ..opts };
    let options = [&raw const opts, (&raw const larger).cast(), (&raw const known).cast(), &raw const smaller];
    let mut out = ptr::null_mut();
    // SAFETY: the handles are alive or NULL, and the options as long as they say.
    unsafe {
        let statuses = options.map(|opts| checkmap_bitmap_union_new_with(sources.as_ptr(), 1, 0, opts, &raw mut out));
        assert_eq!(statuses, [-libc::ECANCELED, -libc::ECANCELED, -libc::E2BIG, -libc::EINVAL]);
        assert!(steps == 2 && out.is_null());
        assert_eq!(checkmap_bitmap_set(ptr::null_mut(), 0, 1), -libc::EINVAL);
        assert_eq!(checkmap_bitmap_get(bitmap.0, SIZE), -libc::ERANGE);
        assert_eq!(checkmap_last_error_kind(), CHECKMAP_ERROR_OUT_OF_RANGE);
        assert!(!CStr::from_ptr(checkmap_last_error_marked()).is_empty() && last_error().contains(&SIZE.to_string()));
        assert_eq!(
            CStr::from_ptr(checkmap_error_name(CHECKMAP_ERROR_CANCELLED)).to_bytes(),
            b"CHECKMAP_ERROR_CANCELLED"
        );
        // An object of another type.
        let mut report = ptr::null_mut();
        assert_eq!(checkmap_report_errors(bitmap.0.cast()), i64::from(-libc::EINVAL));
        assert_eq!(checkmap_segment_check(bitmap.0.cast(), ptr::null(), &raw mut report), -libc::EINVAL);
    }
}

fn text(path: &Path) -> (*const c_char, usize) {
    let path = path.to_str().expect("a path in UTF-8");
    (path.as_ptr().cast(), path.len())
}

#[test]
fn a_segment_written_and_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, merged) = (folder.path().join("one"), folder.path().join("two"));
    let bitmap = Both::new(&ranges());
    let mut info = MaybeUninit::<checkmap_segment_info>::zeroed();
    let (name, len) = text(&path);
    // SAFETY: the handles are alive, and paths and buffers as long as is said.
    unsafe {
        info.assume_init_mut().size = u32::try_from(size_of::<checkmap_segment_info>()).unwrap();
        assert_eq!(checkmap_segment_write(bitmap.0, name, len, info.as_mut_ptr()), 0, "{}", last_error());
        assert_eq!(info.assume_init_ref().file_bytes, fs::metadata(&path).expect("it is there").len());
        let mut segment = ptr::null_mut();
        assert_eq!(checkmap_segment_open(name, len, &raw mut segment), 0, "{}", last_error());
        Both::made(bitmap.1.clone(), |out| checkmap_segment_load(segment, 0, TO_END, out)).check();
        assert_eq!(checkmap_segment_count(segment), checkmap_bitmap_count(bitmap.0));
        assert_eq!((checkmap_segment_get(segment, 3), checkmap_segment_get(segment, 4)), (1, 0));
        assert_eq!(checkmap_segment_next_clean(segment, 3 * CHUNK, TO_END), i64::try_from(4 * CHUNK).unwrap());
        let mut extents = [const { MaybeUninit::<checkmap_extent>::uninit() }; 3];
        assert_eq!(checkmap_segment_extents(segment, 0, TO_END, extents.as_mut_ptr().cast(), 3), 3);
        assert_eq!(extents[2].assume_init_ref().offset, 900);

        let (sources, (name, len)) = ([segment.cast_const(); 2], text(&merged));
        let status = checkmap_segment_merge(sources.as_ptr(), 2, name, len, ptr::null(), ptr::null_mut());
        assert_eq!(status, 0, "{}", last_error());
        assert_eq!(fs::read(&merged).expect("it is there"), fs::read(&path).expect("it is there"));
        let mut report = ptr::null_mut();
        assert_eq!(checkmap_segment_check(segment, ptr::null(), &raw mut report), 0, "{}", last_error());
        let mut problems = [const { MaybeUninit::<checkmap_problem>::uninit() }; 2];
        assert_eq!(checkmap_report_problems(report, 0, problems.as_mut_ptr().cast(), 2), 0);
        assert_eq!(checkmap_report_errors(report), 0);
        checkmap_report_free(report);
        checkmap_segment_close(segment);
    }
}
