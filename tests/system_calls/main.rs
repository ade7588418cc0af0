#![forbid(unsafe_code)]
#![cfg(feature = "cli")]
//! The system calls of the real program and of C programs: in which order they write and flush, what they lock while they
//! read, and that interrupted and short calls change no answer. A double of the storage cannot tell whether a flush that it
//! sees ever reaches the kernel.

mod durable;
mod held;
mod short;
#[path = "../support/mod.rs"]
mod support;

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Output};
use support::TestImage;

const PROGRAM: &str = env!("CARGO_BIN_EXE_checkmap");

fn program() -> &'static Path {
    Path::new(PROGRAM)
}

/// The arguments of a command line, of any type that names something.
macro_rules! args {
    ($($arg:expr),* $(,)?) => { [$(std::ffi::OsString::from(&$arg)),*] };
}
pub(crate) use args;

#[track_caller]
fn checkmap(args: &[OsString]) -> Vec<u8> {
    succeeded(&Command::new(PROGRAM).args(args).output().expect("checkmap runs"))
}

#[track_caller]
fn succeeded(output: &Output) -> Vec<u8> {
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    output.stdout.clone()
}

/// An image with three checkpoints, and something written after each.
fn three_checkpoints() -> TestImage {
    let image = TestImage::create("", "64M");
    for (name, at) in [("mon", 1_u64), ("tue", 9), ("wed", 33)] {
        checkmap(&args!["create", image.path, name]);
        image.write(at << 20, 100_000);
    }
    image
}

/// Skips the rest of a test where QEMU's tools or strace are absent.
macro_rules! needs_tools {
    () => {
        if !$crate::support::tools_are_here() || !$crate::support::trace::strace_works() {
            return;
        }
    };
}
pub(crate) use needs_tools;
