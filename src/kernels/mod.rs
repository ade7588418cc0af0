//! Owns the inner loops over one chunk, compiled once for each instruction set, and the choice among them. Knows nothing
//! of containers, directories or disks.
//!
//! The bodies are safe and portable; a copy of each is stamped for every set, and only what the compiler does badly is
//! written by hand.
#![allow(unsafe_code, reason = "what needs more than the baseline is called where detection has found it")]

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod body;
#[cfg(target_arch = "x86_64")]
mod compress;
#[cfg(target_arch = "x86_64")]
mod crc;
#[cfg(target_arch = "x86_64")]
mod merge;
#[cfg(target_arch = "x86_64")]
mod merge_wide;
mod portable;
#[cfg(target_arch = "x86_64")]
mod runs_wide;
#[cfg(target_arch = "x86_64")]
mod sparse;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use body::{EDGES, FEW, FEW_RUNS, GROUP, MASKS, ROOM, RUN_BLOCK, SPARSE_ROOM, WORDS};

use crate::cpu::Level;
use crate::geometry::Extent;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// The bits of one chunk; bit n is bit n%64, counted from the least significant, of word n/64.
pub type Words = [u64; WORDS];

/// The first and the last position of a run.
pub type Pair = [u16; 2];

/// Runs that are serialized together, and their bytes.
pub type RunBlock = [Pair; RUN_BLOCK];
pub type SavedRuns = [u8; 4 * RUN_BLOCK];

/// What there is in a chunk: 65536 at most of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measure {
    /// Set bits.
    pub ones: u32,
    /// Maximal runs of set bits.
    pub runs: u32,
}

/// An operation on two chunks, the first of which takes the result, and what there is then.
pub type ChunkOperation = fn(to: &mut Words, from: &Words) -> Measure;

/// An operation on two lists of positions, which fills the third; its length.
pub type ListOperation = fn(a: &[u16], b: &[u16], out: &mut [u16]) -> usize;

/// An operation on lists of runs and on lists of positions, which fills `out`; its length.
pub type RunsOperation = fn(runs: &[&[Pair]], bits: &[&[u16]], out: &mut [Pair]) -> usize;

/// The inner loops for one instruction set.
///
/// Lists are sorted 16-bit positions, none twice. Where a loop fills a slice, the slice must be longer than what it fills
/// by [`ROOM`], as it writes in blocks; what stands behind the result afterwards means nothing.
#[derive(Debug)]
pub struct Kernels {
    /// The instruction set.
    pub level: Level,
    /// `to |= from`, and what there is then.
    pub or: fn(to: &mut Words, from: &Words) -> Measure,
    /// `to &= from`, and what there is then.
    pub and: fn(to: &mut Words, from: &Words) -> Measure,
    /// `to &= !from`, and what there is then.
    pub and_not: fn(to: &mut Words, from: &Words) -> Measure,
    /// `to ^= from`, and what there is then.
    pub xor: fn(to: &mut Words, from: &Words) -> Measure,
    /// `to |= from`, uncounted.
    pub or_only: fn(to: &mut Words, from: &Words),
    /// What there is.
    pub measure: fn(words: &Words) -> Measure,
    /// The number of set bits in any words.
    pub ones: fn(words: &[u64]) -> u64,
    /// Whether every bit of `a` is set in `b`.
    pub is_subset: fn(a: &Words, b: &Words) -> bool,
    /// The positions of the set bits, as many as `out` has room for; their number.
    pub positions: fn(words: &Words, out: &mut [u16]) -> usize,
    /// Where runs begin and end (exclusively) in bits `from..to`, as pairs of bounds; the number of bounds, and from which
    /// bit on there may be more runs, `to` if all are found.
    pub edges: fn(words: &Words, from: u32, to: u32, out: &mut [u32; EDGES]) -> (usize, u32),
    /// The maximal runs of set bits; their number.
    pub runs: fn(words: &Words, out: &mut [Pair]) -> usize,
    /// The number of maximal runs of a list.
    pub list_runs: fn(list: &[u16]) -> usize,
    /// Whether each item is above the one before.
    pub is_ascending: fn(list: &[u16]) -> bool,
    /// Adds the runs of a list to the first extents of a slice, which are as many as the last argument says, and which has
    /// room for an extent for each item; their number then. A granule has 2 to the power of `bits` bytes, and granule 0
    /// begins at byte `base`. A run that begins where the last extent ends goes on with it.
    pub extents: fn(list: &[u16], base: u64, bits: u32, out: &mut [Extent], filled: usize) -> usize,
    /// Sets the bits of a list.
    pub scatter: fn(list: &[u16], words: &mut Words),
    /// Sets the bits of runs.
    pub scatter_runs: fn(runs: &[Pair], words: &mut Words),
    /// What is in `a` or in `b`; its length.
    pub unite: fn(a: &[u16], b: &[u16], out: &mut [u16]) -> usize,
    /// What is in `a` and in `b`; its length.
    pub intersect: fn(a: &[u16], b: &[u16], out: &mut [u16]) -> usize,
    /// What is in `a` and not in `b`; its length.
    pub subtract: fn(a: &[u16], b: &[u16], out: &mut [u16]) -> usize,
    /// The union of lists, none of them empty, that are [`FEW`] / [`GROUP`] groups at most, each list cut into groups of [`GROUP`] items. Its
    /// length; `out` has room for [`FEW`] and [`ROOM`].
    pub sort_few: fn(lists: &[&[u16]], out: &mut [u16]) -> usize,
    /// The union of two lists of runs; touching runs are joined. Its length.
    pub unite_runs: fn(a: &[Pair], b: &[Pair], out: &mut [Pair]) -> usize,
    /// Whether sorting few items or runs takes networks in registers: else two lists are merged sooner, and runs two by two.
    pub has_networks: bool,
    /// Whether a register takes a whole short list: then `unite` is quicker than `sort_few` for two lists however short they
    /// are, and `unite_few_runs` quicker than `unite_runs` for two of runs.
    pub has_wide_networks: bool,
    /// The union of runs and of single positions, in lists that are [`FEW_RUNS`] groups at most, each list cut into groups of
    /// [`GROUP`] items; touching runs are joined. Its length.
    pub unite_few_runs: RunsOperation,
    /// The number of positions in runs.
    pub run_ones: fn(runs: &[Pair]) -> u32,
    /// The number of positions `first..end` in runs.
    pub run_ones_within: fn(runs: &[Pair], first: u32, end: u32) -> u32,
    /// The number of positions in any pairs, if each is a run, ascending, and they neither overlap nor touch.
    pub apart_ones: fn(runs: &[Pair]) -> Option<u32>,
    /// The CRC-32C of any bytes.
    pub crc32c: fn(bytes: &[u8]) -> u32,
    /// Each run, as far as there is room, as it is serialized: its first position and how many follow, little-endian.
    pub save_runs: fn(runs: &[RunBlock], out: &mut [SavedRuns]),
    /// Takes the bytes of the words that are not 0, as they lie in little-endian memory, behind two levels of masks: a bit
    /// for each byte of the words, of these 1024 bytes again only those that are not 0, and before them [`MASKS`] bytes
    /// with a bit for each of the 1024; how many bytes are filled, and `out` has [`SPARSE_ROOM`].
    pub pack: fn(words: &Words, out: &mut [u8]) -> usize,
    /// How many bytes `pack` fills.
    pub packed_len: fn(words: &Words) -> usize,
    /// Sets the bits of what `pack` filled. Other bytes set any bits.
    pub spread: fn(sparse: &[u8], words: &mut Words),
    /// Fills the words with what `pack` filled, and nothing else.
    pub unpack: fn(sparse: &[u8], words: &mut Words),
    /// Whether `pack` and `spread` are quicker than lists of as many bytes.
    pub packs_quickly: bool,
    /// The number of set bits in any bytes.
    pub byte_ones: fn(bytes: &[u8]) -> u32,
}

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
        Level::Avx2 => Some(&x86::AVX2),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => Some(&x86::AVX512),
        #[cfg(target_arch = "aarch64")]
        Level::Neon => Some(&aarch64::NEON),
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
