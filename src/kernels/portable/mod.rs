#![forbid(unsafe_code)]
//! Owns the bodies that every instruction set begins with, and the kernels for what every CPU of the architecture has. Must
//! never use an instruction beyond the baseline.

mod lists;
// Only registers of x86-64 take lists in parts.
#[cfg(target_arch = "x86_64")]
mod parts;
mod runs;
mod sparse;
mod words;

use super::table::{Kernels, Traits, every_kernel};
use crate::cpu::Level;
#[cfg(target_arch = "x86_64")]
pub(super) use parts::*;
pub(super) use {lists::*, runs::*, sparse::*, words::*};

macro_rules! portable {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        pub(super) static KERNELS: Kernels = Kernels {
            level: Level::Portable,
            traits: Traits { has_networks: false, scatters_runs_quickly: false, packs_quickly: false },
            $($name,)*
        };
    };
}

every_kernel!(portable);
