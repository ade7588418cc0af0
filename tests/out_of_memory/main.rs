//! Every allocation above 1 KiB that a call of the C library makes fails once, alone and with all that follow it: the call
//! says so by -ENOMEM, nothing has changed, and the same call works afterwards.

mod allocator;
mod bitmaps;
#[allow(dead_code, unreachable_pub, reason = "other tests need more of it")]
#[path = "../support/parallels.rs"]
mod hds;
mod images;
mod parallels;
mod segments;

use allocator::Failures;
use checkmap::capi::bitmap::{
    checkmap_bitmap, checkmap_bitmap_free, checkmap_bitmap_new, checkmap_bitmap_set, checkmap_bitmap_validate,
};
use checkmap::capi::error::{CHECKMAP_ERROR_OUT_OF_MEMORY, checkmap_last_error, checkmap_last_error_kind};
use checkmap::capi::sets::checkmap_bitmap_equal;
use std::ffi::CStr;
use std::ptr;

const ENOMEM: i64 = -12;

/// A bitmap behind a handle of C.
struct Handle(*mut checkmap_bitmap);

impl Handle {
    fn new(size: u64, granularity: u64) -> Self {
        let mut bitmap = ptr::null_mut();
        // SAFETY: a place of our own.
        assert_eq!(unsafe { checkmap_bitmap_new(size, granularity, &raw mut bitmap) }, 0);
        Self(bitmap)
    }

    fn set(&self, offset: u64, length: u64) {
        // SAFETY: the handle is alive and of this thread alone.
        assert_eq!(unsafe { checkmap_bitmap_set(self.0, offset, length) }, 0, "{offset} {length}");
    }

    fn is_sound(&self) -> bool {
        // SAFETY: the handle is alive.
        unsafe { checkmap_bitmap_validate(self.0) == 0 }
    }
}

impl PartialEq for Handle {
    fn eq(&self, other: &Self) -> bool {
        // SAFETY: both handles are alive.
        match unsafe { checkmap_bitmap_equal(self.0, other.0) } {
            0 => false,
            1 => true,
            status => panic!("{status}: {}", last_error()),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is alive, and nobody uses it afterwards.
        unsafe { checkmap_bitmap_free(self.0) }
    }
}

fn last_error() -> String {
    // SAFETY: the text ends with NUL, and lives until the next failure of this thread.
    unsafe { CStr::from_ptr(checkmap_last_error()) }.to_string_lossy().into_owned()
}

/// Lets each allocation of `call` fail in its turn, on what `make` makes; `is_as_before` compares what a failed call left
/// with the same made anew, `is_right` what a call left that did not fail.
fn fail_each<T>(
    name: &str,
    make: impl Fn() -> T,
    mut call: impl FnMut(&mut T) -> i64,
    is_as_before: impl Fn(&T, &T) -> bool,
    is_right: impl Fn(&T) -> bool,
) {
    let before = make();
    for failures in [Failures::One, Failures::AllFrom] {
        for number in 0.. {
            let mut state = make();
            let (status, has_failed) = failures.during(number, || call(&mut state));
            if status >= 0 {
                // What could do without is as good as what had all it asked for.
                assert!(is_right(&state), "{name}: {failures:?} {number}: the answer is wrong");
            } else {
                assert!(has_failed, "{name}: {status} without need: {}", last_error());
                assert_eq!(status, ENOMEM, "{name}: {failures:?} {number}: {}", last_error());
                assert_eq!(checkmap_last_error_kind(), CHECKMAP_ERROR_OUT_OF_MEMORY, "{name}: {}", last_error());
                assert!(is_as_before(&state, &before), "{name}: {failures:?} {number}: something has changed");
                let status = call(&mut state);
                assert!(status >= 0, "{name}: {failures:?} {number}: afterwards {status}: {}", last_error());
                assert!(is_right(&state), "{name}: {failures:?} {number}: the answer is wrong afterwards");
            }
            if !has_failed {
                break;
            }
        }
    }
}
