//! Backups and prunes that are killed at any moment: kept moments stay kept, and the next run goes on.

use crate::support::random::Random;
use crate::support::tools_are_here;
use crate::{Disk, entries, works};
use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// Runs checkmap and kills it after this many microseconds; whether it came to its end before.
fn killed(args: &[&OsStr], after: u64) -> bool {
    let mut command = Command::new(env!("CARGO_BIN_EXE_checkmap"));
    let mut child = command.args(args).stderr(Stdio::null()).spawn().expect("checkmap runs");
    thread::sleep(Duration::from_micros(after));
    child.kill().expect("it can be killed");
    child.wait().expect("it can be waited for").success()
}

#[test]
fn a_kill_during_a_backup_or_a_prune_loses_nothing() {
    if !tools_are_here() {
        return;
    }
    let mut random = Random::seeded(11);
    let disk = Disk::create("", "8M");
    let (mut whole, mut cut) = (0, 0);
    for round in 0..60 {
        let offset = random.below(7 << 20) / 512 * 512;
        disk.io(&[format!("write -P {} {offset} {}", random.below(255) + 1, 512 * (1 + random.below(1000)))]);
        let name = format!("k{round}");
        disk.keep(&name);
        let args = disk.backup_args(&name, &[]);
        match killed(&args, random.below(60_000)) {
            true => whole += 1,
            false => cut += 1,
        }
        if round % 4 == 0 {
            let prune = ["prune".as_ref(), disk.directory.as_os_str(), "--keep-last=3".as_ref()];
            killed(&prune, random.below(40_000));
        }
        if round % 5 == 0 && disk.directory.join("backup.json").exists() {
            disk.check(&format!("round {round}"));
        }
    }
    assert!(cut > 0, "{whole} backups came to their end, {cut} did not");
    // The next whole run clears all that is left.
    disk.backup("last", &[]);
    works(&["prune".as_ref(), disk.directory.as_os_str(), "--keep-last=4".as_ref()]);
    disk.check("after all kills");
    disk.check_files();
    assert_eq!(disk.checkpoints(), ["last"]);
    let mut left = entries(&disk.directory.join("disk.qcow2"));
    left.extend(entries(&disk.directory));
    let expected = 2 * disk.moments().len() + 2;
    assert_eq!(left.len(), expected, "{left:?}");
}
