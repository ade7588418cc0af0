#![forbid(unsafe_code)]
//! Owns the checkpoints: their names, order and life; pure, without input or output.
