#![forbid(unsafe_code)]
//! Other people's file formats, read and written to the byte.
//!
//! [`extents`] prints maps of changed blocks as other tools do. The formats of disk images are reached through
//! [`Image`](crate::Image), which tells them apart by their content.

// Owns the knowledge of these formats. Knows bitmaps, hosts and geometry; must never know how a command or a C caller is
// spelled.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod data;
pub mod extents;
pub(crate) mod filename;
mod probe;
mod qcow2;
mod scratch;

pub(crate) use data::{DataNeeds, Encryption, PlainDisk, PlainLayer, Stretch};
pub(crate) use probe::{Content, check_bitmap, is_of_another_format, keeps_bitmaps, name_of, open, probe, title_of};
pub(crate) use qcow2::data_needs;
pub(crate) use scratch::Scratch;
