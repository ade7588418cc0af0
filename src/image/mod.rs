#![forbid(unsafe_code)]
//! Owns the image as its user means it.
