//! Owns the proof that the verbs work on running QEMUs: real ones, beside a log of what the guest wrote.

mod histories;
#[path = "../support/mod.rs"]
mod support;
