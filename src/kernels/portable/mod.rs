#![forbid(unsafe_code)]
//! Owns the bodies that every instruction set begins with, and the kernels for what every CPU of the architecture has. Must
//! never use an instruction beyond the baseline.

mod lists;
mod parts;
mod runs;
mod sparse;
mod words;

use super::table::{Kernels, Traits, every_kernel};
use crate::cpu::Level;
pub(super) use {lists::*, parts::*, runs::*, sparse::*, words::*};

macro_rules! portable {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        pub(super) static KERNELS: Kernels = Kernels {
            level: Level::Portable,
            traits: Traits { has_networks: false, has_wide_networks: false, packs_quickly: false },
            $($name,)*
        };
    };
}

every_kernel!(portable);
