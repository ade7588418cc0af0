//! The allocator of this program, which refuses what the thread that is tested has chosen.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Allocations of no more bytes than these never fail.
const SMALL: usize = 1024;

thread_local! {
    /// How many allocations are granted before one is refused.
    static GRANTED: Cell<usize> = const { Cell::new(usize::MAX) };
    /// Whether those behind it are refused too.
    static REFUSES_ALL: Cell<bool> = const { Cell::new(false) };
    static HAS_REFUSED: Cell<bool> = const { Cell::new(false) };
}

/// Which allocations are refused.
#[derive(Clone, Copy, Debug)]
pub(super) enum Failures {
    One,
    AllFrom,
}

impl Failures {
    /// Refuses allocation `number` of `call`; its answer, and whether it asked as often.
    pub(super) fn during<R>(self, number: usize, call: impl FnOnce() -> R) -> (R, bool) {
        REFUSES_ALL.set(matches!(self, Self::AllFrom));
        HAS_REFUSED.set(false);
        GRANTED.set(number);
        let answer = call();
        GRANTED.set(usize::MAX);
        (answer, HAS_REFUSED.get())
    }
}

fn is_refused(size: usize) -> bool {
    let granted = GRANTED.get();
    if size <= SMALL || granted == usize::MAX {
        return false;
    }
    if granted > 0 {
        GRANTED.set(granted - 1);
        return false;
    }
    HAS_REFUSED.set(true);
    if !REFUSES_ALL.get() {
        GRANTED.set(usize::MAX - 1);
    }
    true
}

struct Refusing;

#[global_allocator]
static ALLOCATOR: Refusing = Refusing;

// SAFETY: every call that is not refused is passed on to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_refused(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller keeps the rules of `alloc`, which are the system allocator's own.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_refused(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if is_refused(new_size) {
            return std::ptr::null_mut();
        }
        // SAFETY: as above; a refused one leaves the block as it was.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from this allocator, and so from the system's, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}
