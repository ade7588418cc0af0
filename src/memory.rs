//! Owns what is asked of the system's memory: huge pages for what is large. Must never allocate, and never know what the
//! memory is for.
#![allow(unsafe_code, reason = "the system is told where the memory is")]

/// The size of a huge page on most systems; what is smaller than two of them is left alone.
#[cfg(target_os = "linux")]
const HUGE: usize = 2 << 20;

/// Asks for huge pages for the memory of `vector`, whose first use then costs a fifth. A wish: nothing is lost where the
/// system does not grant it.
#[cfg(target_os = "linux")]
pub(crate) fn prefer_huge_pages<T>(vector: &Vec<T>) {
    let start = vector.as_ptr().addr().next_multiple_of(4096);
    let end = (vector.as_ptr().addr() + vector.capacity() * size_of::<T>()) & !4095;
    if end.saturating_sub(start) >= 2 * HUGE {
        let pages = vector.as_ptr().cast_mut().cast::<libc::c_void>().with_addr(start);
        // SAFETY: the whole pages lie inside the vector's own allocation, and the advice changes neither what they hold nor
        // whether they can be used.
        unsafe { libc::madvise(pages, end - start, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn prefer_huge_pages<T>(_: &Vec<T>) {}
