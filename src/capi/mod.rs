//! Owns the C ABI: what C programs see of checkmap, one file for each kind of object. Calls only what the library exports
//! to Rust programs; must never know a format, a chunk or an image's bytes.
//!
//! The header `include/checkmap.h` is made from these files, so their documents speak to C programmers.
//!
//! # Safety
//!
//! One promise holds for every call: a pointer is NULL or points to as much as its document says, which nobody changes
//! or frees during the call. A handle came from this library and is not freed yet; calls that take it as `const` may run
//! concurrently, any other call has it alone. What a look can tell (NULL, misalignment, a handle of another type or one
//! that was freed) is an error all the same.
#![allow(unsafe_code, reason = "C's pointers")]
#![allow(non_camel_case_types, reason = "the names of C")]
#![allow(clippy::missing_safety_doc, reason = "one promise holds for every call, and stands at the head of this room")]

#[cfg(panic = "abort")]
compile_error!("the feature `capi` needs panic=unwind: a hypervisor must survive a fault of this library");

pub mod bitmap;
pub mod bits;
mod boundary;
pub mod checkpoint;
pub mod error;
pub mod image;
mod lent;
pub mod options;
pub mod report;
pub mod segment;
pub mod sets;
pub mod stored;
pub mod values;
