#![forbid(unsafe_code)]
//! Owns the options of `checkmap fleet`. Must never know which verbs there are.

use clap::{Args, ValueHint};
use std::ffi::OsString;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct FleetArgs {
    /// The list of disks: a JSON document, see docs/fleet.md
    #[arg(value_name = "MANIFEST", value_hint = ValueHint::FilePath)]
    pub(super) manifest: PathBuf,
    /// The verb that runs on each disk, and its arguments without the disk
    #[arg(value_name = "VERB", required = true, num_args = 1.., trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) command: Vec<OsString>,
    /// On how many disks it runs at a time [default: the number of processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) jobs: Option<u16>,
    /// Note in FILE which disks are done, and leave out those that are done by it already
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) state: Option<PathBuf>,
    /// The name of this host in the manifest [default: the system's host name]
    #[arg(long, value_name = "NAME")]
    pub(super) host: Option<String>,
    /// Print one JSON document, with the JSON of each disk where the verb has it
    #[arg(long)]
    pub(super) json: bool,
    /// Show all disks and whole messages in the table, however wide it becomes; else it has those that failed, in 80 columns
    #[arg(long, conflicts_with = "json")]
    pub(super) wide: bool,
    /// Hand --dry-run to a verb that changes
    #[arg(long)]
    pub(super) dry_run: bool,
}
