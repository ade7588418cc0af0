//! Owns the kernels for x86-64 with AVX2, BMI1, BMI2, POPCNT and LZCNT. Must never be reached on a CPU that does not have
//! them.

mod lists;
mod pairs;
mod runs;
mod short;
mod sparse;
pub(super) mod words;

use super::table::{EDGES, Kernels, Measure, Pair, RunBlock, SavedRuns, Traits, Words, every_kernel, stamp};
use crate::cpu::Level;
use crate::geometry::Extent;

/// By hand the set operations on lists are about three times as fast as what the compiler makes of the portable body, that of few
/// runs twice, and the runs of words are found five times as fast.
mod bodies {
    pub(super) use super::lists::{sort_few, unite, xor_lists};
    pub(super) use super::pairs::{intersect, subtract};
    pub(super) use super::runs::{filter_by_runs, intersect_runs, unite_few_runs, unite_runs};
    pub(super) use super::sparse::{pack, spread, unpack};
    pub(super) use super::words::{and, and_not, is_subset, measure, or, or_only, positions, runs, xor};
    pub(super) use crate::kernels::portable::*;
}

const TRAITS: Traits = Traits { has_networks: true, scatters_runs_quickly: false, packs_quickly: false };

every_kernel!(stamp "avx2,bmi1,bmi2,popcnt,lzcnt", Level::Avx2, TRAITS;);
