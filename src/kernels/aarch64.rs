//! Owns the kernels for aarch64 with NEON. Must never be reached on a CPU that does not have it.

use super::body::EDGES;
use super::portable::every_kernel;
use super::{Kernels, Measure, Pair, RunBlock, SavedRuns, Words, body};
use crate::cpu::Level;
use crate::geometry::Extent;

macro_rules! neon {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        mod neon {
            use super::*;
            $(pub(super) fn $name($($argument: $type),*) -> $result {
                #[target_feature(enable = "neon")]
                fn stamped($($argument: $type),*) -> $result {
                    body::$name($($argument),*)
                }
                // SAFETY: this is reached only through `NEON`, which `kernels::of` gives out only where detection has
                // found the feature.
                unsafe { stamped($($argument),*) }
            })*
        }
        pub(super) static NEON: Kernels = Kernels {
            level: Level::Neon,
            has_networks: false,
            has_wide_networks: false,
            packs_quickly: false,
            $($name: neon::$name,)*
        };
    };
}

every_kernel!(neon);
