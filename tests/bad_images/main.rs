//! Hand-made bad images, one for each rule of the format: what each operation answers, that the answer names file,
//! structure, offset and way out, and that a refusal leaves every byte.

mod bases;
mod bitmaps;
mod clusters;
mod header;
mod normalised;
mod refcounts;
mod repair;
mod short;
#[path = "../support/mod.rs"]
mod support;
mod survivors;
mod table;
mod truncated;
