//! Owns the kernels for aarch64 with NEON, all of them the portable bodies. Must never be reached on a CPU that does not have
//! it.

use super::portable as bodies;
use super::table::{EDGES, Kernels, Measure, Pair, RunBlock, SavedRuns, Traits, Words, every_kernel, stamp};
use crate::cpu::Level;
use crate::geometry::Extent;

const TRAITS: Traits = Traits { has_networks: false, has_wide_networks: false, packs_quickly: false };

every_kernel!(stamp "neon", Level::Neon, TRAITS;);
