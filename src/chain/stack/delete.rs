#![forbid(unsafe_code)]
//! Owns the deletion of checkpoints of a disk on several layers.
