//! Owns the kernels for x86-64 with AVX-512, its population counts, VBMI2 and VPCLMULQDQ. Must never be reached on a CPU
//! that does not have them.

mod crc;
mod lists;
mod pairs;
mod registers;
mod runs;
mod sparse;
mod words;

use super::table::{EDGES, Kernels, Measure, Pair, RunBlock, SavedRuns, Traits, Words, every_kernel, stamp};
use crate::cpu::Level;
use crate::geometry::Extent;

mod bodies {
    pub(super) use super::crc::crc32c;
    pub(super) use super::lists::{
        ascending_runs, block, extents, intersect, list_runs, sort_few, subtract, unite, xor_lists,
    };
    pub(super) use super::runs::{apart_ones, filter_by_runs, intersect_runs, load_runs, scatter_runs, unite_few_runs};
    pub(super) use super::sparse::{byte_ones, pack, packed_len, spread, unpack};
    pub(super) use super::words::{edges, measure, positions, runs};
    /// Two chunks that half of all bits are set in took 1.25 times as long in 512-bit registers, on an AMD EPYC, and no less on an
    /// Intel Xeon: memory decides.
    pub(super) use crate::kernels::avx2::words::{and, and_not, is_subset, or, or_only, xor};
    pub(super) use crate::kernels::portable::*;
}

const TRAITS: Traits = Traits { has_networks: true, scatters_runs_quickly: true, packs_quickly: true };

every_kernel!(
    stamp
    "sse4.2,avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,avx512vbmi2,vpclmulqdq",
    Level::Avx512,
    TRAITS;
);
