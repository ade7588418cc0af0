//! Owns the inner loops over one chunk, compiled once for each instruction set, and the choice among them. Knows nothing
//! of containers, directories or files; of disks only that granules begin at multiples of a power of two, which `extents`
//! must know to write its result in one step.
//!
//! The bodies in `portable/` are safe; each is compiled again for every instruction set, whose folder holds by hand only what
//! the compiler does badly.
#![allow(unsafe_code, reason = "what needs more than the baseline is called where detection has found it")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod table;

pub use table::{
    BLOCK, Block, ChunkOperation, EDGES, FEW, FEW_RUNS, GROUP, Kernels, ListOperation, MASKS, Measure, Pair, ROOM,
    RUN_BLOCK, RunBlock, RunsOperation, SPARSE_ROOM, SavedRuns, Traits, WORDS, Words,
};

use crate::cpu::Level;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// The kernels that this process uses, chosen at the first call.
///
/// Threads that come first together all choose, and all choose the same: nobody waits for another, which may not be there
/// in a child that was forked meanwhile.
#[inline]
pub fn select() -> &'static Kernels {
    static CHOSEN: AtomicPtr<Kernels> = AtomicPtr::new(ptr::null_mut());
    // What it points to was there before the program began, so no order is needed.
    let chosen = CHOSEN.load(Ordering::Relaxed);
    // SAFETY: it is NULL, or came from one of the references below, which live for ever and are never written through.
    if let Some(chosen) = unsafe { chosen.as_ref() } {
        return chosen;
    }
    let chosen = of(Level::select()).unwrap_or(&portable::KERNELS);
    CHOSEN.store(ptr::from_ref(chosen).cast_mut(), Ordering::Relaxed);
    chosen
}

/// All kernels that this CPU can run.
pub fn all_available() -> Vec<&'static Kernels> {
    Level::ALL.into_iter().filter_map(of).collect()
}

/// The kernels of a level, if this CPU has it: the one door to those that need more than the baseline.
fn of(level: Level) -> Option<&'static Kernels> {
    if !level.is_available() {
        return None;
    }
    match level {
        Level::Portable => Some(&portable::KERNELS),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => Some(&avx2::KERNELS),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => Some(&avx512::KERNELS),
        #[cfg(target_arch = "aarch64")]
        Level::Neon => Some(&neon::KERNELS),
        #[allow(unreachable_patterns, reason = "which levels are left depends on the architecture")]
        _ => None,
    }
}

/// Asks for `bytes` to be brought into the nearest cache; nothing happens where the compiler has no way to say so.
pub fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 has the instruction, which reads nothing that the program would see, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}
