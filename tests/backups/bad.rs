//! Damage, gaps, and targets that must not be touched.

use crate::support::{run, tools_are_here, try_run};
use crate::{Disk, checkmap, fails, works};
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A disk with a full backup and two increments.
fn three_days() -> Disk {
    let disk = Disk::create("", "4M");
    for (day, value) in [("mon", 1), ("tue", 2), ("wed", 3)] {
        disk.io(&[format!("write -P {value} {} 128k", value * 256 * 1024)]);
        disk.backup(day, &[]);
    }
    disk
}

fn restore<'a>(disk: &'a Disk, at: &'a str, out: &'a Path) -> Vec<&'a OsStr> {
    let args = ["restore".as_ref(), disk.directory.as_os_str(), "--at".as_ref(), at.as_ref(), "-o".as_ref()];
    [&args[..], &[out.as_os_str()]].concat()
}

/// Puts another byte in the middle of the guest's data of a file.
fn damage(path: &Path, pattern: u8) {
    let bytes = fs::read(path).expect("a file");
    let at = bytes.windows(64).position(|window| window.iter().all(|byte| *byte == pattern)).expect("its data");
    let file = fs::File::options().write(true).open(path).expect("a file");
    file.write_all_at(&[pattern ^ 1], at as u64 + 20).expect("it can be written");
}

#[test]
fn a_damaged_increment_costs_the_moments_that_lie_on_it() {
    if !tools_are_here() {
        return;
    }
    let disk = three_days();
    damage(&disk.file("tue"), 2);
    let out = disk.folder.path().join("out");
    fails(
        &["verify".as_ref(), disk.directory.as_os_str()],
        1,
        "costs these moments of the disk 'disk.qcow2': 'tue', 'wed'",
    );
    fails(&restore(&disk, "wed", &out), 1, "tue.qcow2");
    assert!(!out.exists(), "nothing of it is left");
    works(&restore(&disk, "mon", &out));
    // A prune does not give damaged bytes new sums.
    fails(&["prune".as_ref(), disk.directory.as_os_str(), "--keep-last=1".as_ref()], 1, "tue.qcow2");
    assert_eq!(disk.moments(), ["mon", "tue", "wed"]);
}

#[test]
fn a_missing_increment_makes_the_next_backup_full() {
    if !tools_are_here() {
        return;
    }
    for name in ["tue.qcow2", "tue.sums"] {
        let disk = three_days();
        fs::remove_file(disk.directory.join("disk.qcow2").join(name)).expect("it was there");
        fails(&["verify".as_ref(), disk.directory.as_os_str()], 1, name);
        let out = disk.folder.path().join("out");
        fails(&restore(&disk, "wed", &out), 1, name);
        let told = disk.backup("thu", &[]);
        assert!(told.contains("full, since the backup before cannot be read") && told.contains(name), "{told}");
        works(&restore(&disk, "thu", &out));
        let restored = disk.folder.path().join("restored");
        crate::convert(&out, &restored);
        assert!(fs::read(&restored).expect("restored") == fs::read(disk.truth("thu")).expect("a copy"));
    }
}

#[test]
fn a_list_of_sums_of_another_moment_is_noticed() {
    if !tools_are_here() {
        return;
    }
    let disk = three_days();
    let sums = |day: &str| disk.file(day).with_extension("sums");
    fs::copy(sums("tue"), sums("wed")).expect("it can be written");
    fails(&["verify".as_ref(), disk.directory.as_os_str()], 1, "'wed'");
}

#[test]
fn an_entry_of_a_table_that_is_lost_is_noticed() {
    if !tools_are_here() {
        return;
    }
    let disk = three_days();
    disk.io(&["write -z 256k 128k".into()]);
    disk.backup("thu", &[]);
    // A zero cluster that became a hole shows the older backup.
    let path = disk.file("thu");
    let bytes = fs::read(&path).expect("a file");
    let entry = 1_u64.to_be_bytes();
    // Behind the header, which has a field of this value too.
    let at = bytes.chunks(8).skip(8192).position(|chunk| chunk == entry).expect("an entry") * 8 + 65536;
    let file = fs::File::options().write(true).open(&path).expect("a file");
    file.write_all_at(&[0; 8], at as u64).expect("it can be written");
    fails(&["verify".as_ref(), disk.directory.as_os_str()], 1, "does not hold the clusters");
}

#[test]
fn a_manifest_of_a_newer_version_is_left_alone() {
    if !tools_are_here() {
        return;
    }
    let disk = three_days();
    let manifest = disk.directory.join("backup.json");
    let text = fs::read_to_string(&manifest).expect("a manifest").replace("\"version\": 1", "\"version\": 2");
    fs::write(&manifest, &text).expect("it can be written");
    for args in [
        disk.backup_args("thu", &[]),
        vec!["prune".as_ref(), disk.directory.as_os_str(), "--keep-last=1".as_ref()],
        vec!["verify".as_ref(), disk.directory.as_os_str()],
        vec!["list".as_ref(), disk.directory.as_os_str()],
    ] {
        fails(&args, 1, "newer checkmap");
    }
    assert_eq!(fs::read_to_string(&manifest).expect("a manifest"), text);
    assert_eq!(disk.checkpoints(), ["wed"]);
    fs::write(&manifest, "{").expect("it can be written");
    fails(&disk.backup_args("thu", &[]), 1, "no JSON");
}

#[test]
fn another_disk_and_a_folder_of_something_else_are_refused() {
    if !tools_are_here() {
        return;
    }
    let (disk, other) = (three_days(), three_days());
    let args = ["backup".as_ref(), other.image.as_os_str(), "-o".as_ref(), disk.directory.as_os_str()];
    fails(&args, 3, "this may be another one");
    assert_eq!(other.checkpoints(), ["wed"]);
    let full = works(&[&args[..], &["--full".as_ref(), "--checkpoint=thu".as_ref()]].concat());
    assert!(full.contains("full, since it was asked for"), "{full}");
    let folder = disk.folder.path().join("mine");
    fs::create_dir(&folder).expect("a folder");
    fs::File::create(folder.join("letter")).and_then(|mut file| file.write_all(b"dear")).expect("a file");
    fails(&["backup".as_ref(), disk.image.as_os_str(), "-o".as_ref(), folder.as_os_str()], 3, "letter");
    assert_eq!(crate::entries(&folder), ["letter"]);
    fails(&["backup".as_ref(), disk.image.as_os_str(), "-o".as_ref(), disk.image.as_os_str()], 1, "");
    fails(&disk.backup_args("mon", &[]), 3, "");
}

#[test]
fn targets_are_replaced_only_when_told_and_never_in_use() {
    if !tools_are_here() {
        return;
    }
    let disk = three_days();
    let target = disk.folder.path().join("target.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", target.to_str().expect("plain"), "1M"]);
    let before = fs::read(&target).expect("an image");
    fails(&restore(&disk, "mon", &target), 3, "there already");
    works(&["create".as_ref(), target.as_os_str(), "x".as_ref()]);
    let in_use = fs::read(&target).expect("an image");
    assert_ne!(before, in_use);
    let force = [&restore(&disk, "mon", &target)[..], &["--force".as_ref()]].concat();
    // A reader that lets nobody write.
    let command: Vec<&OsStr> = vec!["serve".as_ref(), target.as_os_str(), "--since=x".as_ref(), "--run".as_ref()];
    let line: Vec<String> = force.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let script = format!("{} {}", env!("CARGO_BIN_EXE_checkmap"), line.join(" "));
    let output = checkmap(&[&command[..], &[script.as_ref()]].concat());
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fs::read(&target).expect("an image") == in_use);
    works(&force);
    let same = ["compare".as_ref(), "-f".as_ref(), "qcow2".as_ref(), "-F".as_ref(), "raw".as_ref()];
    let truth = disk.truth("mon");
    let compared = try_run("qemu-img", &[&same[..], &[target.as_os_str(), truth.as_os_str()]].concat());
    assert!(compared.status.success(), "{}", String::from_utf8_lossy(&compared.stdout));
    fails(&restore(&disk, "fri", &disk.folder.path().join("x")), 3, "'fri'");
    fails(&["prune".as_ref(), disk.directory.as_os_str()], 2, "--keep-last");
}

/// Where the chain of checkpoints ended, the next backup is full, and the one after it an increment again.
#[test]
fn a_chain_that_ended_is_said() {
    if !tools_are_here() {
        return;
    }
    let disk = three_days();
    works(&["drop".as_ref(), disk.image.as_os_str(), "--all".as_ref()]);
    let told = disk.backup("thu", &[]);
    assert!(told.contains("full, since what changed cannot be told"), "{told}");
    disk.io(&["write -P 8 1M 64k".into()]);
    assert!(disk.backup("fri", &[]).contains("what changed"));
    disk.check("after the gap");
    // Another granularity is fine.
    works(&["create".as_ref(), disk.image.as_os_str(), "mine".as_ref(), "--granularity=512".as_ref()]);
    disk.io(&["write -P 9 2M 512".into()]);
    assert!(disk.backup("sat", &[]).contains("what changed"));
    disk.check("after another granularity");
    assert!(disk.checkpoints().contains(&"mine".to_owned()), "checkpoints of others stay");
}

/// Version 2 keeps no bitmaps: the disk is copied whole each time.
#[test]
fn a_disk_without_bitmaps_is_copied_whole() {
    if !tools_are_here() {
        return;
    }
    let disk = Disk::create("compat=0.10", "2M");
    disk.io(&["write -P 1 0 64k".into()]);
    for day in ["mon", "tue"] {
        let told = disk.backup(day, &[]);
        assert!(told.contains("full, since the disk keeps no checkpoints"), "{told}");
    }
    disk.check("version 2");
}

#[test]
fn a_directory_that_is_open_for_reading_changes_nothing() {
    use checkmap::ErrorKind::ReadOnly;
    use checkmap::backup::{BackupDirectory, Keep, Options, Source};
    use checkmap::progress::Unobserved;
    if !tools_are_here() {
        return;
    }
    let disk = three_days();
    let mut reading = BackupDirectory::open(&disk.directory).expect("it can be read");
    // One more reads beside it.
    BackupDirectory::open(&disk.directory).expect("it can be read");
    let taken = reading.take(&[Source::new(&disk.image)], &Options::new(b"thu"), &mut Unobserved);
    assert_eq!(taken.expect_err("no backup").kind(), ReadOnly);
    let pruned = reading.prune(&Keep::new().last(Some(1)), &mut Unobserved);
    assert_eq!(pruned.expect_err("no prune").kind(), ReadOnly);
    drop(reading);
    assert_eq!(disk.moments(), ["mon", "tue", "wed"]);
    assert_eq!(disk.checkpoints(), ["wed"]);
}

/// Early manifests do not tell which image got a checkpoint: it was that of the disk.
#[test]
fn an_early_manifest_goes_on() {
    if !tools_are_here() {
        return;
    }
    let disk = three_days();
    let path = disk.directory.join("backup.json");
    let text = fs::read_to_string(&path).expect("a manifest");
    let mut manifest: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    for backup in manifest["disks"][0]["backups"].as_array_mut().expect("backups") {
        assert!(backup.as_object_mut().expect("an object").remove("image").is_some());
    }
    fs::write(&path, manifest.to_string()).expect("it can be written");
    disk.io(&["write -P 9 3M 64k".into()]);
    assert!(disk.backup("thu", &[]).contains("what changed"));
    disk.check("an early manifest");
}
