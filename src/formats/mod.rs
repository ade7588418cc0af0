#![forbid(unsafe_code)]
//! Owns other people's file formats: reads and writes them to the byte. Knows bitmaps, chain and geometry; must never
//! know how a command or a C caller is spelled.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

pub mod extents;
pub(crate) mod filename;
pub(crate) mod qcow2;
