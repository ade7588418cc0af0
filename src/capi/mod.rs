//! Owns the C ABI: checkmap as C programs see it, one file for each kind of object. Calls only items that the library exports
//! to Rust programs; must never know a format, a chunk or an image's bytes.
//!
//! The header `include/checkmap.h` is made from these files, so their documents speak to C programmers.
//!
//! # Safety
//!
//! One promise holds for every call: a pointer is NULL or points to memory of the size that its document gives, and no
//! other thread changes or frees that memory during the call. A handle came from this library and is not freed yet; calls
//! that take it as `const` may run concurrently, any other call has it alone. Breaches that a look can find (NULL,
//! misalignment, a handle of another type, one that was freed) are errors all the same.
#![allow(unsafe_code, reason = "C's pointers")]
#![allow(non_camel_case_types, reason = "the names of C")]
#![allow(clippy::missing_safety_doc, reason = "one promise holds for every call, and stands at the head of this room")]

#[cfg(panic = "abort")]
compile_error!("the feature `capi` needs panic=unwind: a hypervisor must survive a fault of this library");

pub mod backups;
pub mod bitmap;
pub mod bits;
mod boundary;
pub mod checkpoint;
pub mod doctor;
pub mod error;
pub mod image;
pub mod layers;
mod lent;
pub mod machine;
pub mod many;
pub mod notes;
pub mod options;
pub mod outcome;
pub mod plan;
pub mod report;
pub mod segment;
pub mod sets;
pub mod stored;
pub mod tiers;
pub mod values;
