//! Calls that a signal interrupts, and calls that move fewer bytes than they were asked for: both are everyday for a
//! program on a network file system, and neither may change an answer.

use super::support::TestImage;
use super::{args, needs_tools, program, succeeded, three_checkpoints};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Loaded before the C library: every other read or write is interrupted, and those that are not move 100 bytes at most.
const STINGY: &str = r#"
#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <sys/types.h>
#include <unistd.h>

static _Thread_local unsigned calls;

#define STINGY(name, parameters, arguments)                                    \
    ssize_t name parameters                                                    \
    {                                                                          \
        static ssize_t(*real) parameters;                                      \
        if (!real)                                                             \
            real = (ssize_t(*) parameters)dlsym(RTLD_NEXT, #name);             \
        if (++calls % 2) {                                                     \
            errno = EINTR;                                                     \
            return -1;                                                         \
        }                                                                      \
        if (count > 100)                                                       \
            count = 100;                                                       \
        return real arguments;                                                 \
    }

STINGY(read, (int fd, void *buffer, size_t count), (fd, buffer, count))
STINGY(write, (int fd, const void *buffer, size_t count), (fd, buffer, count))
STINGY(pread64, (int fd, void *buffer, size_t count, off64_t offset), (fd, buffer, count, offset))
STINGY(pwrite64, (int fd, const void *buffer, size_t count, off64_t offset), (fd, buffer, count, offset))
"#;

fn stingy(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("stingy.c"), folder.join("stingy.so"));
    fs::write(&source, STINGY).expect("the source can be written");
    let mut cc = Command::new("cc");
    cc.args(["-D_GNU_SOURCE", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl");
    let compiled = cc.output().expect("cc runs; see ./run-tests");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    library
}

/// What a run printed and left in its folder, but for the tools of this test.
#[derive(Debug, PartialEq)]
struct Left {
    stdout: Vec<u8>,
    files: Vec<(OsString, Vec<u8>)>,
}

fn play(image: &TestImage, before: &[u8], args: &[&str], preload: Option<&Path>) -> Left {
    let folder = image.folder.path();
    fs::write(&image.path, before).expect("the image can be written");
    let mut command = Command::new(program());
    command.args(args).current_dir(folder);
    if let Some(library) = preload {
        command.env("LD_PRELOAD", library);
    }
    let stdout = succeeded(&command.output().expect("checkmap runs"));
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "qcow2" || extension == "out") {
            let name = path.file_name().expect("a name").to_owned();
            files.push((name, fs::read(&path).expect("it can be read")));
        }
    }
    files.sort();
    Left { stdout, files }
}

#[test]
fn interrupted_and_short_calls_change_no_answer_and_no_image() {
    needs_tools!();
    let image = three_checkpoints();
    let tools = super::support::folder();
    let library = stingy(tools.path());
    let before = fs::read(&image.path).expect("the image can be read");
    for args in [
        &["diff", "disk.qcow2", "--since", "mon", "--json"][..],
        &["check", "disk.qcow2"],
        &["dump", "disk.qcow2", "--bitmap", "mon", "--format", "segment", "-o", "mon.out"],
        &["diff", "disk.qcow2", "--since", "tue", "--format", "segment", "-o", "tue.out"],
        &["segment", "check", "mon.out"],
        &["segment", "merge", "mon.out", "tue.out", "-o", "both.out"],
        &["segment", "diff", "mon.out", "both.out", "--format", "csv"],
        &["create", "disk.qcow2", "thu"],
        &["delete", "disk.qcow2", "tue"],
        &["rename", "disk.qcow2", "tue", "sun"],
    ] {
        let expected = play(&image, &before, args, None);
        assert_eq!(play(&image, &before, args, Some(&library)), expected, "{args:?}");
    }
}

#[test]
fn interrupted_flushes_are_tried_again() {
    needs_tools!();
    let image = three_checkpoints();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-e", "trace=fsync,fdatasync"]);
    strace.args(["-e", "inject=fsync,fdatasync:error=EINTR:when=1+2"]).arg(program());
    succeeded(&strace.args(args!["create", image.path, "thu"]).output().expect("strace runs"));
    image.assert_sound("a change whose flushes were interrupted");
    assert_eq!(image.checkpoints(), ["mon", "tue", "wed", "thu"]);
}
