#![forbid(unsafe_code)]
//! The command line: parses, hands over to one file per subcommand, and ends with the status of the contract.
//! Must never know more of the library than any other program can.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod args;
mod backup;
mod change;
mod check;
mod commit_bitmaps;
mod compare;
mod compared;
mod complete;
mod completions;
mod create;
mod delete;
mod diff;
mod directory;
mod disks;
mod doctor;
mod drop;
mod dump;
mod duration;
mod exit;
mod fleet;
mod help;
mod hint;
mod in_layers;
mod info;
mod interrupt;
mod list;
mod map;
mod merge;
mod moment;
mod output;
mod picture;
mod plan;
mod progress;
mod prune;
mod recover;
mod rename;
mod restore;
mod rows;
mod segment;
mod serve;
mod session;
mod several;
mod shell;
mod size;
mod table;
mod target;
mod verify;
mod words;

use args::{Arguments, Verb};
use clap::Parser;
use session::Session;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == complete::WORD) {
        complete::run(std::env::args_os().skip(2));
        return ExitCode::SUCCESS;
    }
    let Arguments { common, verb } = Arguments::parse();
    let session = Session::new(&common);
    let outcome = match &verb {
        Verb::Info(args) => info::run(args, &session),
        Verb::List(args) => list::run(args, &session),
        Verb::Create(args) => create::run(args, &session),
        Verb::Delete(args) => delete::run(args, &session),
        Verb::Drop(args) => drop::run(args, &session),
        Verb::Rename(args) => rename::run(args, &session),
        Verb::Recover(args) => recover::run(args, &session),
        Verb::Diff(args) => diff::run(args, &session),
        Verb::Dump(args) => dump::run(args, &session),
        Verb::Compare(args) => compare::run(args, &session),
        Verb::Merge(args) => merge::run(args, &session),
        Verb::CommitBitmaps(args) => commit_bitmaps::run(args, &session),
        Verb::Serve(args) => serve::run(args, &session),
        Verb::Backup(args) => backup::run(args, &session),
        Verb::Map(args) => picture::map::run(args, &session),
        Verb::Trend(args) => picture::trend::run(args, &session),
        Verb::Report(args) => picture::report::run(args, &session),
        Verb::Plan(args) => plan::run(args, &session),
        Verb::Restore(args) => restore::run(args, &session),
        Verb::Verify(args) => verify::run(args, &session),
        Verb::Prune(args) => prune::run(args, &session),
        Verb::Check(args) => check::run(args, &session),
        Verb::Doctor(args) => doctor::run(args, &session),
        Verb::Fleet(args) => fleet::run(args, &session),
        Verb::Segment(args) => segment::run(&args.verb, &session),
        Verb::Completions(args) => completions::run_completions(args, &session),
        Verb::Man => completions::run_man(&session),
    };
    exit::end(outcome, &session)
}
