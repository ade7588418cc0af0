#![forbid(unsafe_code)]
//! Owns how files come to be: so far the one atomic replacement. Must never know what is in them.

pub mod replace;
