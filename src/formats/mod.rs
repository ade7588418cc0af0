#![forbid(unsafe_code)]
//! Other people's file formats, read and written to the byte.
//!
//! [`extents`] prints maps of changed blocks as other tools do, and `parquet` (a feature) as SQL engines read them. The formats of disk images are reached through
//! [`Image`](crate::Image), which tells them apart by their content.

// Owns the knowledge of these formats. Knows bitmaps, hosts and geometry; must never know how a command or a C caller is
// spelled.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

#[cfg(feature = "serve")]
mod data;
pub mod extents;
pub(crate) mod filename;
#[cfg(feature = "serve")]
mod others;
mod parallels;
#[cfg(feature = "parquet")]
pub mod parquet;
mod probe;
mod qcow2;
mod scratch;

#[cfg(feature = "serve")]
pub(crate) use data::{DataNeeds, Encryption, PlainDisk, PlainLayer, Stretch};
#[cfg(feature = "serve")]
pub(crate) use others::is_of_another_format;
pub(crate) use probe::{Content, check_bitmap, keeps_bitmaps, name_of, open, probe, title_of};
#[cfg(feature = "serve")]
pub(crate) use probe::{is_layered, open_layered};
#[cfg(feature = "serve")]
pub(crate) use qcow2::{CLUSTER_BYTES, FORMAT as LAYERED_FORMAT, Fresh, Refill, TABLE_BYTES, data_needs};
pub(crate) use scratch::Scratch;
