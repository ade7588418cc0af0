//! Refusals: each with its exit status and its way out, and the image untouched.

use crate::support::TestImage;
use crate::{Holder, checkmap, needs_tools, poke, same_file, three_checkpoints};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// Asserts that each changing verb is refused with `status` and `what`, dry or not, and leaves the image alone.
#[track_caller]
fn assert_no_change(image: &TestImage, status: i32, what: &str) {
    let before = fs::read(&image.path).unwrap();
    for dry in [&[][..], &["--dry-run"]] {
        for args in [
            &["create", "new"][..],
            &["delete", "mon"],
            &["delete", "--all-inconsistent"],
            &["rename", "mon", "new"],
            &["merge", "mon", "--into", "mon->tue"],
        ] {
            let mut all = vec![args[0].into(), image.path.clone().into_os_string()];
            all.extend(args[1..].iter().chain(dry).map(|arg| (*arg).into()));
            let ran = crate::Ran::of(crate::command(&all).output().unwrap());
            assert_eq!(ran.status, Some(status), "{all:?}: {}", ran.stderr);
            assert!(ran.stderr.contains(what), "{all:?}: {}", ran.stderr);
        }
    }
    assert!(same_file(&image.path, &before));
}

#[test]
fn an_image_in_use_is_not_touched() {
    needs_tools!();
    let image = three_checkpoints();
    let reader = Holder::open(&image.path, &["-r"]);
    assert_no_change(&image, 3, "another process");
    checkmap!("diff", image.path, "--since", "mon").ok();
    drop(reader);
    let writer = Holder::open(&image.path, &[]);
    assert_no_change(&image, 3, "another process");
    checkmap!("diff", image.path, "--since", "mon").fails(3, "another process");
    checkmap!("dump", image.path, "--bitmap", "mon").fails(3, "another process");
    checkmap!("check", image.path).fails(3, "another process");
    checkmap!("check", image.path, "--json").fails(3, "another process");
    checkmap!("list", image.path, "--no-lock").fails(3, "another process");
    checkmap!("create", image.path, "new", "--no-lock").fails(3, "another process");
    drop(writer);
}

/// What makes every lock fail as on a file system that has none.
const NO_LOCKS: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
int fcntl(int fd, int cmd, ...) {
    va_list rest;
    va_start(rest, cmd);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (cmd == F_OFD_SETLK || cmd == F_OFD_GETLK) {
        errno = ENOLCK;
        return -1;
    }
    int (*real)(int, int, ...) = (int (*)(int, int, ...))dlsym(RTLD_NEXT, "fcntl");
    return real(fd, cmd, argument);
}
int fcntl64(int fd, int cmd, ...) __attribute__((alias("fcntl")));
"#;

#[test]
fn where_locks_do_not_work_reading_warns_and_writing_needs_no_lock() {
    needs_tools!();
    let image = three_checkpoints();
    let folder = crate::support::folder();
    let (source, shim) = (folder.path().join("shim.c"), folder.path().join("shim.so"));
    fs::write(&source, NO_LOCKS).unwrap();
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&shim).arg(&source).arg("-ldl").status().unwrap();
    assert!(built.success());
    let run = |args: &[&str]| {
        let mut all = vec![args[0].into(), image.path.clone().into_os_string()];
        all.extend(args[1..].iter().map(|arg| (*arg).into()));
        crate::Ran::of(crate::command(&all).env("LD_PRELOAD", &shim).output().unwrap())
    };
    let shown = run(&["info"]);
    shown.ok();
    assert!(shown.stderr.contains("warning") && shown.stderr.contains("cannot lock"), "{}", shown.stderr);
    let before = fs::read(&image.path).unwrap();
    let refused = run(&["create", "new"]);
    assert_eq!(refused.status, Some(3), "{}", refused.stderr);
    assert!(refused.stderr.contains("--no-lock"), "{}", refused.stderr);
    assert!(same_file(&image.path, &before));
    run(&["create", "new", "--no-lock"]).ok();
    image.assert_clean("a change without locks");
}

#[test]
fn a_read_only_image_is_not_touched_even_by_root() {
    needs_tools!();
    let image = three_checkpoints();
    fs::set_permissions(&image.path, Permissions::from_mode(0o444)).unwrap();
    assert_no_change(&image, 3, "make it writable");
    let plan = checkmap!("delete", image.path, "mon", "--dry-run");
    assert_eq!(String::from_utf8_lossy(&plan.stdout), "remove 'mon'\nrename 'mon->tue' to 'tue'\n");
    checkmap!("diff", image.path, "--since", "mon").ok();
    checkmap!("check", image.path).ok();
}

#[test]
fn an_image_marked_dirty_or_corrupt_can_only_be_read() {
    needs_tools!();
    for (mark, word) in [(1, "dirty"), (2, "corrupt")] {
        let image = three_checkpoints();
        poke(&image.path, 79, |bits| bits | mark);
        assert_no_change(&image, 3, "qemu-img check -r all");
        checkmap!("diff", image.path, "--since", "mon").ok();
        checkmap!("list", image.path).says(word);
        let info = checkmap!("info", image.path, "--json");
        assert_eq!(info.json()["needs_repair"], true);
        info.says("qemu-img check -r all");
    }
}

#[test]
fn a_stale_image_answers_nothing_and_takes_nothing() {
    needs_tools!();
    let image = three_checkpoints();
    poke(&image.path, 95, |_| 0);
    assert_no_change(&image, 3, "out of date");
    checkmap!("diff", image.path, "--since", "mon").fails(3, "out of date");
    checkmap!("dump", image.path, "--bitmap", "mon").fails(3, "out of date");
}

#[test]
fn version_2_takes_no_checkpoints() {
    needs_tools!();
    let image = TestImage::create("compat=0.10", "1M");
    assert_no_change(&image, 3, "compat=1.1");
    checkmap!("diff", image.path, "--since", "mon").fails(3, "version 2");
}

#[test]
fn unknown_features_are_an_unreadable_format() {
    needs_tools!();
    let image = three_checkpoints();
    poke(&image.path, 79, |bits| bits | 0x40);
    assert_no_change(&image, 1, "");
    checkmap!("list", image.path).fails(1, "newer checkmap");
}

#[test]
fn unknown_and_duplicate_names_are_refused() {
    needs_tools!();
    let image = three_checkpoints();
    let before = fs::read(&image.path).unwrap();
    checkmap!("create", image.path, "mon").fails(3, "exists already");
    checkmap!("rename", image.path, "mon", "tue").fails(3, "exists already");
    checkmap!("rename", image.path, "sun", "x").fails(3, "no checkpoint is named 'sun'");
    checkmap!("delete", image.path, "sun").fails(3, "'mon', 'tue', 'wed'");
    checkmap!("delete", image.path, "mon->tue").fails(3, "its checkpoint is 'tue'");
    checkmap!("diff", image.path, "--since", "sun").fails(3, "'sun'");
    checkmap!("diff", image.path, "--since", "mon", "--until", "sun").fails(3, "'sun'");
    checkmap!("dump", image.path, "--bitmap", "sun").fails(3, "'sun'");
    checkmap!("merge", image.path, "sun", "--into", "mon").fails(3, "'sun'");
    checkmap!("merge", image.path, "mon", "--into", "sun").fails(3, "'sun'");
    checkmap!("rename", image.path, "mon", "a->b").fails(2, "a->b");
    checkmap!("merge", image.path, "mon", "--into", "mon").fails(2, "itself");
    assert!(same_file(&image.path, &before));
}

#[test]
fn until_before_since_is_refused() {
    needs_tools!();
    let image = three_checkpoints();
    checkmap!("diff", image.path, "--since", "wed", "--until", "mon").fails(3, "'mon' is older than 'wed'");
}

#[test]
fn a_name_above_the_limit_of_a_bitmap_never_comes_to_be() {
    needs_tools!();
    let image = TestImage::create("", "1M");
    checkmap!("create", image.path, "a".repeat(510)).ok();
    checkmap!("create", image.path, "b".repeat(510)).ok();
    checkmap!("rename", image.path, "a".repeat(510), "c".repeat(511)).fails(2, "510");
    checkmap!("delete", image.path, "a".repeat(510)).ok();
    image.assert_clean("long names");
}

#[test]
fn usage_errors_end_with_2_before_the_image_is_opened() {
    for args in [
        &["diff", "/absent", "--since", "a", "--json", "--format", "csv"][..],
        &["dump", "/absent", "--bitmap", "a", "--json", "--format", "table"],
        &["diff", "/absent", "--since", "a", "--format", "xml"],
        &["diff", "/absent", "--since", "a", "--start", "1.5K"],
        &["diff", "/absent", "--since", "a", "-o", "/"],
        &["diff", "/absent"],
        &["delete", "/absent"],
        &["delete", "/absent", "a", "--all-inconsistent"],
        &["delete", "/absent", "--force-inconsistent"],
        &["create", "/absent", "a", "--granularity", "65535"],
        &["create", "/absent", "a", "--model", "none"],
        &["merge", "/absent", "--into", "a"],
        &["info", "/absent", "--progress=sometimes"],
        &["segment"],
        &[],
    ] {
        let all: Vec<_> = args.iter().map(Into::into).collect();
        let ran = crate::Ran::of(crate::command(&all).output().unwrap());
        assert_eq!((ran.status, ran.stdout.len()), (Some(2), 0), "{args:?}: {}", ran.stderr);
    }
    checkmap!("diff", "/absent", "--since", "a", "--json", "--format", "json").fails(1, "No such file");
}

#[test]
fn a_name_that_a_shell_cut_at_its_arrow_is_recognised() {
    needs_tools!();
    let image = three_checkpoints();
    let in_shell = |line: &str| {
        let program = std::path::Path::new(env!("CARGO_BIN_EXE_checkmap")).parent().unwrap();
        let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default());
        let mut shell = std::process::Command::new("sh");
        let output = shell.args(["-c", line]).current_dir(image.folder.path()).env("PATH", path).output();
        crate::Ran::of(output.expect("sh runs"))
    };
    in_shell("checkmap dump disk.qcow2 --bitmap mon->tue").fails(3, "if the name is meant, quote it: 'mon->tue'");
    in_shell("checkmap drop disk.qcow2 --bitmap mon->tue").fails(3, "quote it: 'mon->tue'");
    in_shell("checkmap merge disk.qcow2 mon->tue --into mon").fails(3, "quote it: 'mon->tue'");
    in_shell("checkmap delete disk.qcow2 mon->tue").fails(3, "quote it: 'mon->tue'");
    in_shell("checkmap rename disk.qcow2 mon->tue new").fails(3, "quote it: 'mon->tue'");
    in_shell("checkmap create disk.qcow2 wed->thu").says("warning: did the shell take the > for a redirection?");
    // Where stdout goes elsewhere, no shell was asked for a file.
    let ran = checkmap!("dump", image.path, "--bitmap", "mon-");
    ran.fails(3, "no bitmap is named 'mon-'");
    assert!(!ran.stderr.contains("redirection"), "{}", ran.stderr);
}
