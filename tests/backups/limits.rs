//! Long chains, huge disks, full file systems, and headers that a guest wrote.

use crate::support::{run, tools_are_here, try_run};
use crate::{Disk, checkmap, fails, moments, works};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A night for each increment; from 100 files on there is a warning.
#[test]
fn sixty_and_a_hundred_increments_restore() {
    if !tools_are_here() {
        return;
    }
    let disk = Disk::create("", "1M");
    for day in 0..100_u64 {
        disk.io(&[format!("write -P {} {} 1k", day + 1, day * 10 * 1024)]);
        let name = format!("d{day}");
        match day {
            0 | 60 => drop(disk.backup(&name, &[])),
            99 => {
                let told = disk.backup(&name, &[]);
                assert!(told.contains("the moment lies on 100 files: prune the directory"), "{told}");
            }
            _ => {
                let told = works(&disk.backup_args(&name, &[]));
                assert!(!told.contains("files: prune"), "{told}");
            }
        }
    }
    // The moments whose truth is known.
    let out = disk.folder.path().join("out");
    for day in ["d0", "d60", "d99"] {
        let truth = fs::read(disk.truth(day)).expect("a copy");
        crate::convert(&disk.file(day), &out);
        assert!(fs::read(&out).expect("restored") == truth, "{day}");
        let args = ["restore".as_ref(), disk.directory.as_os_str(), "--at".as_ref(), day.as_ref(), "-o".as_ref()];
        works(&[&args[..], &[out.as_os_str(), "--format=raw".as_ref(), "--force".as_ref()]].concat());
        assert!(fs::read(&out).expect("restored") == truth, "{day}");
    }
    works(&["verify".as_ref(), disk.directory.as_os_str()]);
    works(&["prune".as_ref(), disk.directory.as_os_str(), "--keep-last=1".as_ref()]);
    disk.check("after the prune");
}

/// qemu-img crashes on chains that are longer still: so no backup makes one.
#[test]
fn no_moment_lies_on_more_than_500_files() {
    if !tools_are_here() {
        return;
    }
    let disk = Disk::create("", "1M");
    for day in ["mon", "tue"] {
        disk.backup(day, &[]);
    }
    let manifest = disk.directory.join("backup.json");
    let mut document: Value = serde_json::from_slice(&fs::read(&manifest).expect("a manifest")).expect("JSON");
    let backups = document["disks"][0]["backups"].as_array_mut().expect("backups");
    let mut last = backups.pop().expect("the last one");
    for number in backups.len()..499 {
        let mut made = last.clone();
        made["checkpoint"] = json!(format!("m{number}"));
        made["parent"] = backups.last().expect("one")["checkpoint"].clone();
        backups.push(made);
    }
    last["parent"] = backups.last().expect("one")["checkpoint"].clone();
    backups.push(last);
    fs::write(&manifest, document.to_string()).expect("it can be written");
    fails(&disk.backup_args("wed", &[]), 3, "500 files");
    assert_eq!(disk.checkpoints(), ["tue"]);
    assert!(disk.backup("wed", &["--full"]).contains("full, since it was asked for"));
}

#[test]
fn a_sparse_disk_of_16_tib_is_backed_up() {
    if !tools_are_here() {
        return;
    }
    let disk = Disk::create("", "16T");
    let names = [disk.image.to_str().expect("plain").to_owned(), disk.file("wed").to_str().expect("plain").to_owned()];
    for (day, at) in [("mon", "1T"), ("tue", "15T"), ("wed", "3T")] {
        disk.io(&[format!("write -P 7 {at} 192k"), "write -P 9 17592186044352 64".into()]);
        works(&disk.backup_args(day, &[]));
    }
    let compare = |file: &str| run("qemu-img", &["compare", "-q", "-f", "qcow2", "-F", "qcow2", &names[0], file]);
    compare(&names[1]);
    works(&["prune".as_ref(), disk.directory.as_os_str(), "--keep-last=1".as_ref()]);
    compare(&names[1]);
    works(&["verify".as_ref(), disk.directory.as_os_str()]);
    run("qemu-img", &["check", "-q", &names[1]]);
    let out = disk.folder.path().join("out.qcow2");
    works(&["restore".as_ref(), disk.directory.as_os_str(), "-o".as_ref(), out.as_os_str()]);
    compare(out.to_str().expect("plain"));
}

/// What stock tools see of an increment: a backing name that no colon turns into a protocol, zeros that are no holes.
#[test]
fn an_increment_shows_its_zeros_and_its_backing_file() {
    if !tools_are_here() {
        return;
    }
    let disk = Disk::create("", "1M");
    disk.io(&["write -P 1 0 1M".into()]);
    works(&disk.backup_args("nbd:a", &[]));
    disk.io(&["write -z 0 128k".into(), "write -P 0 256k 64k".into(), "discard 512k 64k".into()]);
    works(&disk.backup_args("b", &[]));
    let file = disk.file("b");
    let told = |args: &[&str]| -> Value {
        let args: Vec<&OsStr> = args.iter().map(OsStr::new).chain([file.as_os_str()]).collect();
        serde_json::from_slice(&try_run("qemu-img", &args).stdout).expect("JSON")
    };
    let info = told(&["info", "--output=json"]);
    assert_eq!(info["backing-filename"], "./nbd%3Aa.qcow2");
    assert_eq!(info["backing-filename-format"], "qcow2");
    assert_eq!(
        (info["cluster-size"].as_u64(), &info["format-specific"]["data"]["compat"]),
        (Some(65536), &json!("1.1"))
    );
    let map = told(&["map", "--output=json"]);
    let zeros: Vec<(u64, u64)> = map
        .as_array()
        .expect("a list")
        .iter()
        .filter(|row| row["depth"] == 0 && row["zero"] == true && row["data"] == false)
        .map(|row| (row["start"].as_u64().expect("a number"), row["length"].as_u64().expect("a number")))
        .collect();
    assert_eq!(zeros, [(0, 128 << 10), (256 << 10, 64 << 10), (512 << 10, 64 << 10)], "{map:#}");
}

/// Shrunk and grown again within one night: no bit of the map tells of the data that are gone.
#[test]
fn a_clean_bitmap_hides_no_zeros() {
    if !tools_are_here() {
        return;
    }
    for options in ["", "cluster_size=4k"] {
        let disk = Disk::create(options, "4M");
        disk.io(&["write -P 1 0 4M".into()]);
        disk.backup("mon", &[]);
        let image = disk.image.to_str().expect("plain");
        run("qemu-img", &["resize", "-q", "--shrink", image, "1060864"]);
        run("qemu-img", &["resize", "-q", image, "4M"]);
        let diff = checkmap(&["diff", image, "--since", "mon", "--json"]);
        let diff: Value = serde_json::from_slice(&diff.stdout).expect("JSON");
        assert_eq!(diff["dirty_bytes"], 0, "the map tells nothing");
        let told = disk.backup("tue", &[]);
        assert!(told.contains("what changed"), "{told}");
        disk.check(options);
        works(&["prune".as_ref(), disk.directory.as_os_str(), "--keep-last=1".as_ref()]);
        disk.check(options);
    }
}

/// The file that a guest names in the header of its disk is read into no backup.
#[test]
fn a_file_of_the_host_that_a_guest_names_is_not_read() {
    if !tools_are_here() {
        return;
    }
    let disk = Disk::create("", "1M");
    let secret = disk.folder.path().join("secret");
    fs::write(&secret, vec![42; 1 << 20]).expect("it can be written");
    // The guest of a raw disk writes the header of an image over the secret; a layer above is created without a format.
    let raw = disk.folder.path().join("raw.img");
    let names = [raw.to_str().expect("plain"), secret.to_str().expect("plain")];
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", names[1], "-F", "raw", names[0], "1M"]);
    let image = disk.image.to_str().expect("plain");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-u", "-b", names[0], "-F", "qcow2", image, "1M"]);
    // An older QEMU made it, which recorded no format.
    let mut bytes = fs::read(&disk.image).expect("an image");
    let at = bytes.windows(4).position(|four| four == [0xe2, 0x79, 0x2a, 0xca]).expect("the record of the format");
    bytes[at..at + 4].copy_from_slice(&[0x12, 0x34, 0x56, 0x78]);
    fs::write(&disk.image, &bytes).expect("it can be written");
    fails(&disk.backup_args("mon", &[]), 3, "raw.img");
    assert!(moments(&disk.directory).is_empty());
    assert!(disk.checkpoints().is_empty(), "the checkpoint is undone");
    // Where the format is recorded as raw, the bytes of the header are the content.
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", names[0], "-F", "raw", image, "1M"]);
    let told = works(&disk.backup_args("mon", &[]));
    assert!(told.contains("raw.img") && !told.contains("secret"), "{told}");
    let out = disk.folder.path().join("out");
    crate::convert(&disk.file("mon"), &out);
    let restored = fs::read(&out).expect("restored");
    assert!(restored.starts_with(b"QFI\xfb") && !restored.windows(512).any(|window| window == [42; 512]));
}

/// A file system in memory, gone with the test.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(path: &'a Path, size: &str) -> Option<Self> {
        fs::create_dir_all(path).expect("a folder");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(path).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(path));
        }
        eprintln!("SKIPPED, NOT PASSED: a file system can be mounted by root alone");
        None
    }

    fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        let status = Command::new("mount").args(["-o", &options]).arg(self.0).status().expect("mount runs");
        assert!(status.success());
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_full_file_system_loses_nothing() {
    if !tools_are_here() {
        return;
    }
    let mut disk = Disk::create("", "8M");
    let mount = disk.folder.path().join("mount");
    let Some(mounted) = Mounted::new(&mount, "2600k") else { return };
    disk.directory = mount.join("backup");
    disk.io(&["write -P 1 0 1M".into()]);
    disk.backup("mon", &[]);
    disk.io(&["write -P 2 2M 4M".into()]);
    fails(&disk.backup_args("tue", &[]), 1, "No space");
    assert_eq!((disk.moments(), disk.checkpoints()), (vec!["mon".to_owned()], vec!["mon".to_owned()]));
    disk.check("without room");
    mounted.resize("16M");
    disk.io(&["write -P 3 0 64k".into()]);
    assert!(disk.backup("wed", &[]).contains("what changed"));
    disk.check("with room");
    // A fold that finds no room: it is noted, every kept moment restores, backups go on, and the next prune ends it.
    let leave = |kib: u64| {
        let used = Command::new("du").args(["-sk"]).arg(&mount).output().expect("du runs").stdout;
        let used = String::from_utf8_lossy(&used).split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
        mounted.resize(&format!("{}k", used.expect("KiB") + kib));
    };
    leave(400);
    let prune = ["prune".as_ref(), disk.directory.as_os_str(), "--keep-last=1".as_ref()];
    fails(&prune, 1, "No space");
    assert_eq!(disk.moments(), ["wed"]);
    disk.check_moments("in the middle of a fold");
    leave(1000);
    disk.io(&["write -P 4 7M 64k".into()]);
    assert!(disk.backup("thu", &[]).contains("what changed"));
    disk.check_moments("a night later");
    fails(&prune, 1, "No space");
    disk.check_moments("once more");
    mounted.resize("16M");
    works(&prune);
    assert_eq!(disk.moments(), ["thu"]);
    disk.check("in the end");
    drop(mounted);
}

#[test]
fn a_target_without_room_leaves_nothing() {
    if !tools_are_here() {
        return;
    }
    let disk = Disk::create("", "8M");
    disk.io(&["write -P 1 0 4M".into()]);
    disk.backup("mon", &[]);
    let mount = disk.folder.path().join("mount");
    let Some(_mounted) = Mounted::new(&mount, "1M") else { return };
    for format in ["raw", "qcow2"] {
        let target = mount.join("out");
        let args = ["restore".as_ref(), disk.directory.as_os_str(), "-o".as_ref(), target.as_os_str()];
        fails(&[&args[..], &["--format".as_ref(), format.as_ref()]].concat(), 1, "No space");
        assert!(crate::entries(&mount).is_empty());
    }
}
