#![forbid(unsafe_code)]
//! Owns what a kernel takes and gives: the list of kernels with their signatures, their types and limits. Must never know
//! an instruction set, nor which one is chosen.
//!
//! A new kernel is a line of `every_kernel!`, its portable body in `portable/`, and, where the compiler does badly, a body by
//! hand in the folder of an instruction set, named in the `bodies` of that folder.

use crate::cpu::Level;
use crate::geometry::Extent;

/// The words of one chunk.
pub const WORDS: usize = 1024;

/// How many items longer than its result a slice must be that a kernel fills.
pub const ROOM: usize = 64;

/// The bounds that `edges` finds at a time; the last 64 are room for those of one word.
pub const EDGES: usize = 128;

/// The items that `block` takes, and what it makes of them.
pub const BLOCK: usize = 32;
pub type Block = [u16; BLOCK];

/// The runs that `save_runs` serializes together.
pub const RUN_BLOCK: usize = 32;

/// The most items that `sort_few` unites, and how many of them are a group.
pub const FEW: usize = 128;
pub const GROUP: usize = 8;

/// The most groups of runs that `unite_few_runs` takes.
pub const FEW_RUNS: usize = 32;

/// The bytes of the upper masks of a packed chunk, and the bytes that `pack` needs room for.
pub const MASKS: usize = 128;
pub const SPARSE_ROOM: usize = MASKS + 8 * MASKS + 8 * WORDS + ROOM;

/// The bits of one chunk; bit n is bit n%64, counted from the least significant, of word n/64.
pub type Words = [u64; WORDS];

/// The first and the last position of a run.
pub type Pair = [u16; 2];

/// A run as it is serialized: its first position and how many follow, little-endian.
pub(in crate::kernels) type SavedRun = [u8; 4];

/// Runs that are serialized together, and their bytes.
pub type RunBlock = [Pair; RUN_BLOCK];
pub type SavedRuns = [u8; size_of::<SavedRun>() * RUN_BLOCK];

/// The numbers of set bits and of runs in a chunk, each 65536 at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measure {
    /// Set bits.
    pub ones: u32,
    /// Maximal runs of set bits.
    pub runs: u32,
}

/// An operation on two chunks, the first of which takes the result; the measure of the result.
pub type ChunkOperation = fn(to: &mut Words, from: &Words) -> Measure;

/// An operation on two lists of positions, which fills the third; its length.
pub type ListOperation = fn(a: &[u16], b: &[u16], out: &mut [u16]) -> usize;

/// An operation on lists of runs and on lists of positions, which fills `out`; its length.
pub type RunsOperation = fn(runs: &[&[Pair]], bits: &[&[u16]], out: &mut [Pair]) -> usize;

/// Calls `$stamp` with every kernel, after what else is to be handed to it.
macro_rules! every_kernel {
    ($stamp:ident $($more:tt)*) => {
        $stamp! {
            $($more)*
            /// `to |= from`, and the measure of the result.
            or(to: &mut Words, from: &Words) -> Measure;
            /// `to &= from`, and the measure of the result.
            and(to: &mut Words, from: &Words) -> Measure;
            /// `to &= !from`, and the measure of the result.
            and_not(to: &mut Words, from: &Words) -> Measure;
            /// `to ^= from`, and the measure of the result.
            xor(to: &mut Words, from: &Words) -> Measure;
            /// `to |= from`, uncounted.
            or_only(to: &mut Words, from: &Words) -> ();
            /// The measure of the words.
            measure(words: &Words) -> Measure;
            /// For each two bits whether one of them is set; `to` has half as many words.
            fold(from: &[u64], to: &mut [u64]) -> ();
            /// Each bit twice; `to` has twice as many words.
            unfold(from: &[u64], to: &mut [u64]) -> ();
            /// The number of set bits in any words.
            ones(words: &[u64]) -> u64;
            /// Whether every bit of `a` is set in `b`.
            is_subset(a: &Words, b: &Words) -> bool;
            /// The positions of the set bits, as many as `out` has room for; their number.
            positions(words: &Words, out: &mut [u16]) -> usize;
            /// Where runs begin and end (exclusively) in bits `from..to`, as pairs of bounds; the number of bounds, and from
            /// which bit on there may be more runs, `to` if all are found.
            edges(words: &Words, from: u32, to: u32, out: &mut [u32; EDGES]) -> (usize, u32);
            /// The maximal runs of set bits; their number.
            runs(words: &Words, out: &mut [Pair]) -> usize;
            /// The number of maximal runs of a list.
            list_runs(list: &[u16]) -> usize;
            /// Whether each item is above the one before.
            is_ascending(list: &[u16]) -> bool;
            /// The number of maximal runs of any items, if each is above the one before.
            ascending_runs(list: &[u16]) -> Option<usize>;
            /// Fills `out` with the first items of a list, and with 65535 where there are no more.
            block(list: &[u16], out: &mut crate::kernels::table::Block) -> ();
            /// Adds the runs of a list to the first extents of a slice, which are as many as the last argument says, and which
            /// has room for an extent for each item; their number then. A granule has 2 to the power of `bits` bytes, and
            /// granule 0 begins at byte `base`. A run that begins where the last extent ends goes on with it.
            extents(list: &[u16], base: u64, bits: u32, out: &mut [Extent], filled: usize) -> usize;
            /// Sets the bits of a list.
            scatter(list: &[u16], words: &mut Words) -> ();
            /// Sets the bits of runs.
            scatter_runs(runs: &[Pair], words: &mut Words) -> ();
            /// The items in `a` or in `b`; their number.
            unite(a: &[u16], b: &[u16], out: &mut [u16]) -> usize;
            /// The items in both `a` and `b`; their number. `out` has room for all of `a`.
            intersect(a: &[u16], b: &[u16], out: &mut [u16]) -> usize;
            /// The items in `a` that are not in `b`; their number. `out` has room for all of `a`.
            subtract(a: &[u16], b: &[u16], out: &mut [u16]) -> usize;
            /// The items in one of the two only; their number. `out` has room for all of both.
            xor_lists(a: &[u16], b: &[u16], out: &mut [u16]) -> usize;
            /// The items of a list whose bits are set in `words` if `kept`, or else those whose bits are clear; their number.
            /// `out` has room for the list.
            filter(list: &[u16], words: &Words, kept: bool, out: &mut [u16]) -> usize;
            /// The items of a list that lie in runs if `kept`, or else those that lie in none; their number. `out` has room for
            /// the list.
            filter_by_runs(list: &[u16], runs: &[Pair], kept: bool, out: &mut [u16]) -> usize;
            /// Flips the bits of a list.
            flip(list: &[u16], words: &mut Words) -> ();
            /// The runs of positions that lie in runs of both; their number. `out` has room for all of both.
            intersect_runs(a: &[Pair], b: &[Pair], out: &mut [Pair]) -> usize;
            /// The union of lists, none of them empty, that are [`FEW`] / [`GROUP`] groups at most, each list cut into groups of
            /// [`GROUP`] items. Its length; `out` has room for [`FEW`] and [`ROOM`].
            sort_few(lists: &[&[u16]], out: &mut [u16]) -> usize;
            /// The union of two lists of runs; touching runs are joined. Its length.
            unite_runs(a: &[Pair], b: &[Pair], out: &mut [Pair]) -> usize;
            /// The union of runs and of single positions, in lists that are [`FEW_RUNS`] groups at most, each list cut into
            /// groups of [`GROUP`] items; touching runs are joined. Its length.
            unite_few_runs(runs: &[&[Pair]], bits: &[&[u16]], out: &mut [Pair]) -> usize;
            /// The number of positions in runs.
            run_ones(runs: &[Pair]) -> u32;
            /// The number of positions `first..end` in runs.
            run_ones_within(runs: &[Pair], first: u32, end: u32) -> u32;
            /// The number of positions in any pairs, if each is a run, ascending, and they neither overlap nor touch.
            apart_ones(runs: &[Pair]) -> Option<u32>;
            /// Makes runs of serialized ones; the result is that of `apart_ones` for them.
            load_runs(saved: &[crate::kernels::table::SavedRun], out: &mut [Pair]) -> Option<u32>;
            /// The CRC-32C of any bytes.
            crc32c(bytes: &[u8]) -> u32;
            /// Each run, as far as there is room, as it is serialized: its first position and how many follow, little-endian.
            save_runs(runs: &[RunBlock], out: &mut [SavedRuns]) -> ();
            /// Takes the bytes of the words that are not 0, as they lie in little-endian memory, behind two levels of masks: a
            /// bit for each byte of the words, of these 1024 bytes again only those that are not 0, and before them [`MASKS`]
            /// bytes with a bit for each of the 1024; how many bytes are filled, and `out` has [`SPARSE_ROOM`].
            pack(words: &Words, out: &mut [u8]) -> usize;
            /// How many bytes `pack` fills.
            packed_len(words: &Words) -> usize;
            /// Sets the bits of what `pack` filled. Other bytes set any bits.
            spread(sparse: &[u8], words: &mut Words) -> ();
            /// Fills the words with what `pack` filled, and nothing else.
            unpack(sparse: &[u8], words: &mut Words) -> ();
            /// The number of set bits in any bytes.
            byte_ones(bytes: &[u8]) -> u32;
        }
    };
}

macro_rules! kernels_struct {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        /// The inner loops for one instruction set.
        ///
        /// Lists are sorted 16-bit positions, none twice. Where a loop fills a slice, the slice must be longer than what it
        /// fills by [`ROOM`], as it writes in blocks; what stands behind the result afterwards means nothing.
        #[derive(Debug)]
        pub struct Kernels {
            /// The instruction set.
            pub level: Level,
            /// The ways that are quick with it.
            pub traits: Traits,
            $($(#[$doc])* pub $name: fn($($argument: $type),*) -> $result,)*
        }
    };
}

every_kernel!(kernels_struct);

/// Which ways are quick with the kernels of an instruction set, so that their users choose among them.
#[derive(Clone, Copy, Debug)]
pub struct Traits {
    /// Whether lists and runs are sorted and compared in registers: else runs are united two by two.
    pub has_networks: bool,
    /// Whether `scatter_runs` and `runs` are so quick that runs of more than two sources, too many to be sorted, go through words.
    pub scatters_runs_quickly: bool,
    /// Whether `pack` and `spread` are quicker than lists of as many bytes.
    pub packs_quickly: bool,
}

/// Makes `KERNELS` of the functions in `bodies`, each compiled for some features of the CPU.
///
/// `bodies` must take the portable bodies by a glob, which the bodies by hand overrule by their names.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! stamp {
    (
        $features:literal, $level:expr, $traits:expr;
        $($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*
    ) => {
        mod stamped {
            use super::*;
            $(pub(super) fn $name($($argument: $type),*) -> $result {
                #[target_feature(enable = $features)]
                fn stamped($($argument: $type),*) -> $result {
                    bodies::$name($($argument),*)
                }
                // SAFETY: this is reached only through `KERNELS`, which `kernels::of` gives out only where detection has
                // found all of these features.
                unsafe { stamped($($argument),*) }
            })*
        }

        pub(in crate::kernels) static KERNELS: Kernels =
            Kernels { level: $level, traits: $traits, $($name: stamped::$name,)* };
    };
}

pub(super) use every_kernel;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) use stamp;
