#![forbid(unsafe_code)]
//! Owns other people's file formats.
