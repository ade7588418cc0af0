#![forbid(unsafe_code)]
//! Bitmaps in files of our own, which may be larger than memory: written once, queried without loading, merged as they are
//! read.
//!
//! A segment holds the containers of one bitmap, each in its smallest form and with a checksum, and a directory of them
//! at its end, in pages that have an index. [`Segment::open`] reads the index only; a query reads the pages and containers
//! that it needs, and checks each before it uses it. [`merge`] unites any number of segments with bounded memory. `docs/formats/segment.md` has the
//! layout to the byte.

// Owns these files. Must never know what a bitmap means, nor which checkpoint it belongs to.

mod check;
mod container;
mod diff;
mod directory;
mod extents;
mod layout;
mod merge;
mod places;
mod plan;
mod read;
mod write;

pub use check::Fault;
pub use diff::{Difference, Differences, Side, diff};
pub use extents::Extents;
pub use layout::Summary;
pub use merge::{MergeOptions, count, merge};
pub use read::{Forms, Segment};
pub use write::{to_vec, write};
