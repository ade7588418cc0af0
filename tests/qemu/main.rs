//! Owns the proof that the verbs work on running QEMUs: real ones, beside a log of what the guest wrote.

mod histories;
mod hostile;
mod killed;
mod layers;
mod layers_history;
mod layers_killed;
mod layers_kinds;
mod manners;
mod moment;
mod planning;
mod running_backups;
#[path = "../support/mod.rs"]
mod support;
mod transactions;
mod verbs;
mod virsh;
