//! Owns the kernels for x86-64 beyond its baseline. Must never be reached on a CPU that does not have what they need.

use super::body::EDGES;
use super::portable::every_kernel;
use super::{
    Kernels, Measure, Pair, RunBlock, SavedRuns, Words, body, compress, crc, merge, merge_wide, runs_wide, sparse,
};
use crate::cpu::Level;
use crate::geometry::Extent;

macro_rules! avx2 {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        mod avx2 {
            use super::*;
            $(pub(super) fn $name($($argument: $type),*) -> $result {
                #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
                fn stamped($($argument: $type),*) -> $result {
                    body::$name($($argument),*)
                }
                // SAFETY: this is reached only through `AVX2`, which `kernels::of` gives out only where detection has
                // found all of these features.
                unsafe { stamped($($argument),*) }
            })*
        }
        const STAMPED_AVX2: Kernels = Kernels {
            level: Level::Avx2,
            has_networks: true,
            has_wide_networks: false,
            packs_quickly: false,
            $($name: avx2::$name,)*
        };
    };
}

macro_rules! avx512 {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        mod avx512 {
            use super::*;
            $(pub(super) fn $name($($argument: $type),*) -> $result {
                #[target_feature(
                    enable = "avx2,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,avx512vbmi2"
                )]
                fn stamped($($argument: $type),*) -> $result {
                    body::$name($($argument),*)
                }
                // SAFETY: this is reached only through `AVX512`, which `kernels::of` gives out only where detection has
                // found all of these features.
                unsafe { stamped($($argument),*) }
            })*
        }
        const STAMPED_AVX512: Kernels = Kernels {
            level: Level::Avx512,
            has_networks: true,
            has_wide_networks: true,
            packs_quickly: true,
            $($name: avx512::$name,)*
        };
    };
}

every_kernel!(avx2);
every_kernel!(avx512);

/// What the compiler keeps scalar: by hand the union of lists is about three times as fast, that of few runs twice.
pub(super) static AVX2: Kernels = Kernels {
    unite: merge::unite,
    sort_few: merge::sort_few,
    unite_few_runs: merge::unite_few_runs,
    pack: sparse::pack,
    spread: sparse::spread,
    unpack: sparse::unpack,
    ..STAMPED_AVX2
};

/// Those of AVX2 where 128 or 256 bits are enough, and what takes instructions that compress and expand.
pub(super) static AVX512: Kernels = Kernels {
    unite: merge_wide::unite,
    sort_few: merge_wide::sort_few,
    unite_few_runs: runs_wide::unite_few_runs,
    pack: compress::pack,
    spread: compress::spread,
    unpack: compress::unpack,
    byte_ones: compress::byte_ones,
    positions: compress::positions,
    edges: compress::edges,
    list_runs: compress::list_runs,
    extents: compress::extents,
    runs: compress::runs,
    scatter_runs: compress::scatter_runs,
    apart_ones: compress::apart_ones,
    measure: compress::measure,
    packed_len: compress::packed_len,
    crc32c: crc::crc32c,
    ..STAMPED_AVX512
};
