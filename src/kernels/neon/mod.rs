//! Owns the kernels for aarch64 with NEON. Must never be reached on a CPU that does not have it.

mod lists;
mod words;

use super::table::{EDGES, Kernels, Measure, Pair, RunBlock, SavedRuns, Traits, Words, every_kernel, stamp};
use crate::cpu::Level;
use crate::geometry::Extent;

/// By hand the set operations on lists and words take fewer instructions than what the compiler makes of the portable body.
mod bodies {
    pub(super) use super::lists::{intersect, subtract, unite, xor_lists};
    pub(super) use super::words::{and, and_not, measure, or, xor};
    pub(super) use crate::kernels::portable::*;
}

const TRAITS: Traits = Traits { has_networks: false, scatters_runs_quickly: false, packs_quickly: false };

every_kernel!(stamp "neon", Level::Neon, TRAITS;);
