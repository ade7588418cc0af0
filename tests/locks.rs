#![forbid(unsafe_code)]
//! The locks on an image, against other threads of the same process; and the changes that are noticed where there are none.

mod support;

use checkmap::image::{Access, OpenOptions};
use checkmap::progress::Unobserved;
use checkmap::{ErrorKind, Image};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use support::TestImage;
use support::raw::Raw;

#[test]
fn a_closed_image_is_free_though_another_thread_starts_processes() {
    if !support::tools_are_here() {
        return;
    }
    let image = TestImage::create("", "1M");
    let done = AtomicBool::new(false);
    let opened = std::thread::scope(|scope| {
        // A process that is just starting holds a copy of every descriptor of this one.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                Command::new("true").status().expect("true runs");
            }
        });
        let opened: checkmap::Result<()> =
            (0..300).try_for_each(|_| Image::open(&image.path, &OpenOptions::new(Access::Write)).map(drop));
        done.store(true, Ordering::Relaxed);
        opened
    });
    opened.expect("each time the image can be opened again");
}

/// A QEMU that starts marks the bitmaps as in use, in the directory where it stands: the header is the same afterwards.
#[test]
fn without_locks_a_qemu_that_came_and_crashed_is_noticed_by_the_directory_alone() {
    if !support::tools_are_here() {
        return;
    }
    let image = TestImage::create("", "1M");
    image.create_checkpoint("mon", None, None);
    let options = OpenOptions::new(Access::Write).no_lock(true);
    let mut opened = Image::open(&image.path, &options).expect("it opens");
    let plan = opened.plan_create(b"tue", None, None).expect("a plan");
    opened.check_unchanged().expect("nobody came yet");

    let before = Raw::read(&image.path);
    let mut qemu = Command::new("qemu-io").arg(&image.path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let qemu = qemu.as_mut().expect("qemu-io starts");
    qemu.stdin.as_mut().expect("it is piped").write_all(b"length\n").expect("it listens");
    let mut answer = String::new();
    BufReader::new(qemu.stdout.as_mut().expect("it is piped")).read_line(&mut answer).expect("it answers");
    qemu.kill().expect("it can be killed");
    qemu.wait().expect("it ends");
    let after = Raw::read(&image.path);
    assert_eq!(before.bytes[..before.cluster()], after.bytes[..after.cluster()], "the header tells: nothing is tested");
    assert_ne!(before.directory_bytes(), after.directory_bytes(), "the directory does not: nothing is tested");

    assert_eq!(opened.check_unchanged().expect_err("a QEMU was there").kind(), ErrorKind::Changed);
    let refused = opened.commit(&plan, &mut Unobserved).expect_err("a QEMU was there");
    assert_eq!(refused.kind(), ErrorKind::Changed);
    assert_eq!(after, Raw::read(&image.path), "a refusal changes nothing");
}

/// A QEMU that moves its refcount table, say, leaves the directory as it was: what we read of the header is stale.
#[test]
fn without_locks_a_changed_header_over_the_same_directory_is_noticed() {
    if !support::tools_are_here() {
        return;
    }
    let image = TestImage::create("", "1M");
    image.create_checkpoint("mon", None, None);
    let options = OpenOptions::new(Access::Write).no_lock(true);
    let mut opened = Image::open(&image.path, &options).expect("it opens");
    let plan = opened.plan_create(b"tue", None, None).expect("a plan");
    let mut raw = Raw::read(&image.path);
    // The compatible feature of lazy refcounts, which changes nothing by itself.
    raw.bytes[87] ^= 1;
    std::fs::write(&image.path, &raw.bytes).expect("the image can be written");
    assert_eq!(opened.check_unchanged().expect_err("the header changed").kind(), ErrorKind::Changed);
    assert_eq!(opened.commit(&plan, &mut Unobserved).expect_err("the header changed").kind(), ErrorKind::Changed);
    assert_eq!(raw, Raw::read(&image.path), "a refusal changes nothing");
}
