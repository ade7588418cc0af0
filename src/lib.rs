#![deny(unsafe_code)]
//! checkmap answers one question: *which blocks of this disk changed between these two points in time?*
//!
//! A [`Bitmap`] holds one bit for each granule of a disk. An [`Image`] is a disk image on which QEMU records
//! such bitmaps; its [`chain`] of checkpoints says which interval of time each bitmap covers. Creating, deleting and
//! renaming checkpoints yields a [`Plan`](chain::Plan), and [`Image::commit`] carries it out in one atomic step.
//!
//! A [`Segment`] is a bitmap in a file of our own, which may be larger than memory.
//!
//! Public calls take byte offsets and byte lengths of the virtual disk; no call prints or aborts, and none starts a
//! thread that its options do not ask for.

#[cfg(feature = "serve")]
pub mod backup;
pub mod bitmap;
#[cfg(feature = "capi")]
pub mod capi;
pub mod chain;
mod checksum;
#[cfg(feature = "serve")]
mod content;
#[doc(hidden)]
pub mod cpu;
pub mod doctor;
pub mod error;
mod fault;
mod fork;
pub mod formats;
pub mod geometry;
pub mod host;
pub mod image;
pub mod io;
#[doc(hidden)]
pub mod kernels;
pub mod libvirt;
mod memory;
pub mod nbd;
pub mod picture;
pub mod planner;
#[doc(hidden)]
pub mod pool;
pub mod progress;
pub mod qemu;
pub mod segment;
#[cfg(feature = "serve")]
pub mod serve;

pub use bitmap::Bitmap;
pub use error::{Control, Error, ErrorKind, Result, WayOut};
pub use geometry::{Extent, Granularity};
pub use image::Image;
pub use segment::Segment;

/// The README's Rust is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[derive(Debug)]
pub struct Readme;
