#![forbid(unsafe_code)]
//! Owns the compressed bitmap.
