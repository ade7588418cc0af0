//! The NBD client: against real servers, whose answers are compared with those of other clients and of the file; and against a
//! server of our own that breaks every rule.

mod real;
#[path = "../support/mod.rs"]
mod support;
