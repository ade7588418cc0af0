//! Owns the clock and the scales: how a median comes about, and how many bytes of the heap a value owns.
//!
//! Times: a cell is run once to warm up, then at least three times and until its time is used up; what a run consumes is
//! made before the clock starts, and its result is freed after the clock has stopped. Where results come to lie is left to
//! each engine and to the C library's allocator in its default state, which all engines share: large results are fresh
//! pages, small ones are often memory that the run before gave back.
//!
//! Memory: what the C library's allocator takes back when the value is dropped, counted in whole blocks. So no engine is
//! asked for its own opinion, CRoaring's C code and Rust stand on one scale, and nothing is counted while the clock runs.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_void;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

static WEIGHING: AtomicBool = AtomicBool::new(false);
static FREED: AtomicU64 = AtomicU64::new(0);

/// The bytes of the heap that `value` owns; drops it.
pub fn heap_bytes<T>(value: T) -> u64 {
    FREED.store(0, Ordering::Relaxed);
    WEIGHING.store(true, Ordering::SeqCst);
    drop(value);
    WEIGHING.store(false, Ordering::SeqCst);
    FREED.load(Ordering::Relaxed)
}

fn weigh(pointer: *mut c_void) {
    if WEIGHING.load(Ordering::Relaxed) {
        // SAFETY: the callers are about to free `pointer`, which the C library's allocator returned, or null.
        let bytes = unsafe { libc::malloc_usable_size(pointer) };
        FREED.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// The system's allocator, which also counts freed bytes.
pub struct Scale;

// SAFETY: every call goes to `System` unchanged, which on Unix is the C library's allocator.
unsafe impl GlobalAlloc for Scale {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the rules of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the rules of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the rules of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        weigh(pointer.cast());
        // SAFETY: the caller keeps the rules of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

unsafe extern "C" fn weigh_and_free(pointer: *mut c_void) {
    weigh(pointer);
    // SAFETY: CRoaring frees what the hooks below gave it, or null.
    unsafe { libc::free(pointer) }
}

unsafe extern "C" fn aligned_malloc(align: usize, size: usize) -> *mut c_void {
    let mut pointer = std::ptr::null_mut();
    // SAFETY: `pointer` is a place for the result; CRoaring's alignments are powers of two of at least 32.
    match unsafe { libc::posix_memalign(&raw mut pointer, align, size) } {
        0 => pointer,
        _ => std::ptr::null_mut(),
    }
}

/// Has CRoaring call the C library's allocator as it does anyway, except that what it frees is weighed.
pub fn weigh_croaring() {
    let hooks = croaring_sys::roaring_memory_t {
        malloc: Some(libc::malloc),
        realloc: Some(libc::realloc),
        calloc: Some(libc::calloc),
        free: Some(weigh_and_free),
        aligned_malloc: Some(aligned_malloc),
        aligned_free: Some(weigh_and_free),
    };
    // SAFETY: called before CRoaring holds any memory; the hooks are one allocator's.
    unsafe { croaring_sys::roaring_init_memory_hook(hooks) }
}

/// How often a cell is run.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// The time for one engine in one cell, after which only the missing ones of three runs follow.
    pub budget: Duration,
    /// The most runs.
    pub runs: usize,
}

/// A shorter operation is run several times between two looks at the clock.
const SHORT: Duration = Duration::from_micros(20);

/// The time of one call.
pub fn once<R>(run: impl FnOnce() -> R) -> (Duration, R) {
    let start = Instant::now();
    let result = black_box(run());
    (start.elapsed(), result)
}

/// The nanoseconds of each run: `prepare` and `take`, which gets the results, are not timed. `expected` is about what one
/// run takes.
pub fn sample<S, R>(
    effort: Effort,
    expected: Duration,
    mut prepare: impl FnMut() -> S,
    mut run: impl FnMut(S) -> R,
    mut take: impl FnMut(R),
) -> Vec<f64> {
    let batch = (SHORT.as_nanos() / expected.as_nanos().max(1)).clamp(1, 256) as usize;
    let mut times = Vec::new();
    let begin = Instant::now();
    while times.len() < 3 || (begin.elapsed() < effort.budget && times.len() < effort.runs) {
        let prepared: Vec<S> = (0..batch).map(|_| prepare()).collect();
        let mut results = Vec::with_capacity(batch);
        let start = Instant::now();
        for state in prepared {
            results.push(black_box(run(black_box(state))));
        }
        times.push(start.elapsed().as_nanos() as f64 / batch as f64);
        results.into_iter().for_each(&mut take);
    }
    times
}

/// The median; of an even number of times the mean of the two in the middle.
pub fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    let half = times.len() / 2;
    if times.len().is_multiple_of(2) { (times[half - 1] + times[half]) / 2.0 } else { times[half] }
}
