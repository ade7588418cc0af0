#![forbid(unsafe_code)]
//! Owns the kernels for what every CPU of the architecture has, and the list from which the other files stamp theirs. Must
//! never use an instruction beyond the baseline.

use super::{Kernels, body};
use crate::cpu::Level;

/// Calls `$stamp` with every kernel's signature.
macro_rules! every_kernel {
    ($stamp:ident) => {
        $stamp! {
            or(to: &mut Words, from: &Words) -> Measure;
            and(to: &mut Words, from: &Words) -> Measure;
            and_not(to: &mut Words, from: &Words) -> Measure;
            xor(to: &mut Words, from: &Words) -> Measure;
            or_only(to: &mut Words, from: &Words) -> ();
            measure(words: &Words) -> Measure;
            ones(words: &[u64]) -> u64;
            is_subset(a: &Words, b: &Words) -> bool;
            positions(words: &Words, out: &mut [u16]) -> usize;
            edges(words: &Words, from: u32, to: u32, out: &mut [u32; EDGES]) -> (usize, u32);
            runs(words: &Words, out: &mut [Pair]) -> usize;
            list_runs(list: &[u16]) -> usize;
            is_ascending(list: &[u16]) -> bool;
            extents(list: &[u16], base: u64, bits: u32, out: &mut [Extent], filled: usize) -> usize;
            scatter(list: &[u16], words: &mut Words) -> ();
            scatter_runs(runs: &[Pair], words: &mut Words) -> ();
            unite(a: &[u16], b: &[u16], out: &mut [u16]) -> usize;
            intersect(a: &[u16], b: &[u16], out: &mut [u16]) -> usize;
            subtract(a: &[u16], b: &[u16], out: &mut [u16]) -> usize;
            sort_few(lists: &[&[u16]], out: &mut [u16]) -> usize;
            unite_runs(a: &[Pair], b: &[Pair], out: &mut [Pair]) -> usize;
            unite_few_runs(runs: &[&[Pair]], bits: &[&[u16]], out: &mut [Pair]) -> usize;
            run_ones(runs: &[Pair]) -> u32;
            run_ones_within(runs: &[Pair], first: u32, end: u32) -> u32;
            save_runs(runs: &[RunBlock], out: &mut [SavedRuns]) -> ();
            apart_ones(runs: &[Pair]) -> Option<u32>;
            crc32c(bytes: &[u8]) -> u32;
            pack(words: &Words, out: &mut [u8]) -> usize;
            packed_len(words: &Words) -> usize;
            spread(sparse: &[u8], words: &mut Words) -> ();
            unpack(sparse: &[u8], words: &mut Words) -> ();
            byte_ones(bytes: &[u8]) -> u32;
        }
    };
}

pub(super) use every_kernel;

macro_rules! portable {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        pub(super) static KERNELS: Kernels = Kernels {
            level: Level::Portable,
            has_networks: false,
            has_wide_networks: false,
            packs_quickly: false,
            $($name: body::$name,)*
        };
    };
}

every_kernel!(portable);
