//! Backups and prunes that are killed at every single step that changes a name or makes something durable.

use crate::support::tools_are_here;
use crate::support::trace::strace_works;
use crate::support::try_run;
use crate::{Disk, entries, works};
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// The calls by which a file gets, changes or loses its name, and by which it becomes durable.
const CALLS: [&str; 9] =
    ["rename", "renameat", "renameat2", "unlink", "unlinkat", "fsync", "fdatasync", "mkdir", "pwrite64"];

/// Calls that are made often are not all tried.
const MOST_STEPS: u32 = 40;

/// Lets `one` be killed at each step: it gets the call and its number, and says whether it came to its end before.
fn at_each_step(mut one: impl FnMut(&str, u32) -> bool) -> u32 {
    let mut kills = 0;
    for call in CALLS {
        for step in 1..=MOST_STEPS {
            if one(call, step) {
                break;
            }
            kills += 1;
        }
    }
    kills
}

/// Runs checkmap and kills it at the call of this number; whether it came to its end before.
fn killed_at(call: &str, step: u32, args: &[&OsStr]) -> bool {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    strace.args(["-e", &format!("inject={call}:signal=KILL:when={step}")]);
    let output = strace.arg(env!("CARGO_BIN_EXE_checkmap")).args(args).output().expect("strace runs");
    output.status.success()
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(copied.success());
}

/// Puts the disk and its directory back to the copies.
fn put_back(disk: &Disk, image: &Path, directory: &Path) {
    std::fs::copy(image, &disk.image).expect("the copy of the image");
    if disk.directory.exists() {
        std::fs::remove_dir_all(&disk.directory).expect("a folder");
    }
    if directory.exists() {
        copy(directory, &disk.directory);
    }
}

/// In a file that a fold changes QEMU finds clusters that nothing names at the worst.
fn is_no_file_damaged(file: &Path, when: &str) {
    if file.exists() {
        let checked = try_run("qemu-img", &["check".as_ref(), file.as_os_str()]);
        let told = String::from_utf8_lossy(&checked.stdout);
        assert!(matches!(checked.status.code(), Some(0 | 3)), "{when}: {told}");
    }
}

/// Two whole files for each moment, and nothing else.
fn is_tidy(disk: &Disk) {
    let mut left = entries(&disk.directory.join("disk.qcow2"));
    left.extend(entries(&disk.directory));
    assert_eq!(left.len(), 2 * disk.moments().len() + 2, "{left:?}");
}

/// A disk with moments of four days, on one of which it was shorter, and an older checkpoint that is not on it any more.
fn four_days() -> Disk {
    let disk = Disk::create("", "2M");
    for day in 0..4 {
        disk.io(&[format!("write -P {} {} 100k", day + 1, day * 300 * 1024)]);
        if day == 2 {
            let image = disk.image.to_str().expect("a plain path");
            crate::support::run("qemu-img", &["resize", "-q", "--shrink", image, "1049088"]);
        }
        disk.backup(&format!("d{day}"), &[]);
        if day == 2 {
            crate::support::run("qemu-img", &["resize", "-q", disk.image.to_str().expect("a plain path"), "2M"]);
        }
    }
    disk
}

/// A new full backup that was begun over a fold, and not ended, leaves a list of its own: the fold must not take it for the one that it was
/// begun with.
#[test]
fn a_new_full_backup_that_is_killed_over_a_fold_costs_no_moment() {
    if !tools_are_here() || !strace_works() {
        return;
    }
    // Zeros over old data stand in the list of a fold, and in none of a new full file.
    let disk = Disk::create("", "2M");
    for (name, write) in [("d0", "write -P 1 0 512k"), ("d1", "write -z 64k 128k"), ("d2", "write -P 2 1M 64k")] {
        disk.io(&[write.into()]);
        disk.backup(name, &[]);
    }
    let (image, directory) = (disk.folder.path().join("image"), disk.folder.path().join("directory"));
    let plain = ["prune".as_ref(), disk.directory.as_os_str(), OsStr::new("--keep-last=1")];
    let rewrite = [&plain[..], &["--rewrite".as_ref()]].concat();
    // Killed where the old file gets its new name: the fold is noted.
    std::fs::copy(&disk.image, &image).expect("a copy");
    copy(&disk.directory, &directory);
    let list = disk.directory.join("disk.qcow2/d2.sums.next");
    let is_noted = (1..MOST_STEPS).any(|step| {
        put_back(&disk, &image, &directory);
        let whole = killed_at("pwrite64", step, &plain);
        assert!(!whole, "the fold came to its end");
        list.exists() && std::fs::read_to_string(disk.directory.join("backup.json")).expect("text").contains("\"fold\"")
    });
    assert!(is_noted);
    std::fs::remove_dir_all(&directory).expect("a folder");
    copy(&disk.directory, &directory);
    let mut stopped = 0;
    at_each_step(|call, step| {
        put_back(&disk, &image, &directory);
        let whole = killed_at(call, step, &rewrite);
        disk.check(&format!("{call} {step}"));
        // Either it goes on with the fold or the new file, or it says that it cannot, and nothing is lost.
        let output = crate::checkmap(&plain);
        stopped += u32::from(!output.status.success());
        disk.check(&format!("{call} {step}, behind a fold"));
        works(&rewrite);
        assert_eq!(disk.moments(), ["d2"]);
        disk.check(&format!("{call} {step}, finished"));
        is_tidy(&disk);
        whole
    });
    assert!(stopped > 0, "no list was another one");
}

#[test]
fn a_prune_that_is_killed_at_any_step_keeps_what_it_keeps() {
    if !tools_are_here() || !strace_works() {
        return;
    }
    let disk = four_days();
    let (image, directory) = (disk.folder.path().join("image"), disk.folder.path().join("directory"));
    std::fs::copy(&disk.image, &image).expect("a copy");
    copy(&disk.directory, &directory);
    let prune = |last| vec!["prune".as_ref(), disk.directory.as_os_str(), OsStr::new(last)];
    for (last, kept) in [("--keep-last=1", 1), ("--keep-last=3", 3)] {
        let kills = at_each_step(|call, step| {
            put_back(&disk, &image, &directory);
            let whole = killed_at(call, step, &prune(last));
            // Before and after the repair by the next run.
            disk.check(&format!("{last}, {call} {step}"));
            is_no_file_damaged(&disk.file("d0"), &format!("{last}, {call} {step}"));
            works(&prune(last));
            assert_eq!(disk.moments().len(), kept);
            disk.check(&format!("{last}, {call} {step}, finished"));
            is_tidy(&disk);
            whole
        });
        assert!(kills > 10, "{kills} kills");
    }
}

#[test]
fn a_backup_that_is_killed_at_any_step_loses_nothing() {
    if !tools_are_here() || !strace_works() {
        return;
    }
    let disk = four_days();
    disk.io(&["write -P 99 1000k 100k".into()]);
    let (image, directory) = (disk.folder.path().join("image"), disk.folder.path().join("directory"));
    std::fs::copy(&disk.image, &image).expect("a copy");
    copy(&disk.directory, &directory);
    disk.keep("new");
    let kills = at_each_step(|call, step| {
        put_back(&disk, &image, &directory);
        let whole = killed_at(call, step, &disk.backup_args("new", &[]));
        disk.check(&format!("{call} {step}"));
        // The guest goes on; the next night the work is done.
        disk.io(&["write -P 98 0 64k".into(), "discard 512k 64k".into()]);
        disk.backup("next", &[]);
        disk.check(&format!("{call} {step}, the next night"));
        assert_eq!(disk.checkpoints(), ["next"], "{call} {step}");
        is_tidy(&disk);
        whole
    });
    assert!(kills > 10, "{kills} kills");
}

/// The first one of all, which makes the directory.
#[test]
fn the_first_backup_can_be_killed_at_any_step() {
    if !tools_are_here() || !strace_works() {
        return;
    }
    let disk = Disk::create("", "1M");
    disk.io(&["write -P 1 0 64k".into()]);
    let image = disk.folder.path().join("image");
    std::fs::copy(&disk.image, &image).expect("a copy");
    disk.keep("new");
    at_each_step(|call, step| {
        put_back(&disk, &image, Path::new("/nothing"));
        let whole = killed_at(call, step, &disk.backup_args("new", &[]));
        disk.backup("next", &[]);
        disk.check(&format!("{call} {step}"));
        assert!(disk.moments().ends_with(&["next".to_owned()]));
        assert_eq!(disk.checkpoints(), ["next"], "{call} {step}");
        whole
    });
}
