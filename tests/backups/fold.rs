//! The oldest moments go into the full file in place; where that cannot be, into a new one.

use crate::support::{run, tools_are_here};
use crate::{Disk, entries, fails, works};
use checkmap::Image;
use checkmap::image::{Access, OpenOptions};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

fn inode(path: &Path) -> u64 {
    fs::metadata(path).expect("a file").ino()
}

fn prune<'a>(disk: &'a Disk, options: &[&'a str]) -> Vec<&'a OsStr> {
    let args = ["prune".as_ref(), disk.directory.as_os_str()];
    args.into_iter().chain(options.iter().map(|option| OsStr::new(*option))).collect()
}

fn resize(disk: &Disk, size: &str) {
    run("qemu-img", &["resize", "-q", "--shrink", disk.image.to_str().expect("a plain path"), size]);
}

fn four_days() -> Disk {
    let disk = Disk::create("", "4M");
    for day in 0..4 {
        disk.io(&[format!("write -P {} {} 200k", day + 1, day * 150 * 1024), "write -z 1M 64k".into()]);
        disk.backup(&format!("d{day}"), &[]);
    }
    disk
}

#[test]
fn the_oldest_file_is_changed_in_place_unless_it_may_not() {
    if !tools_are_here() {
        return;
    }
    let disk = four_days();
    let oldest = inode(&disk.file("d0"));
    let told = works(&prune(&disk, &["--keep-last=2", "--dry-run"]));
    assert!(told.contains("would give up 2 moments of the disk 'disk.qcow2': 'd0', 'd1'"), "{told}");
    assert_eq!(disk.moments().len(), 4);
    works(&prune(&disk, &["--keep-last=3"]));
    assert_eq!(inode(&disk.file("d1")), oldest);
    disk.check("one is given up");
    works(&prune(&disk, &["--keep-last=1"]));
    assert_eq!(inode(&disk.file("d3")), oldest);
    disk.check("two are given up");
    assert_eq!(entries(&disk.directory.join("disk.qcow2")).len(), 2);
    disk.io(&["write -P 9 0 64k".into()]);
    assert!(disk.backup("d4", &[]).contains("what changed"));
    works(&prune(&disk, &["--keep-last=1", "--rewrite"]));
    assert_ne!(inode(&disk.file("d4")), oldest);
    disk.check("a new file");
}

/// A copy by hard links must not change.
#[test]
fn a_file_with_two_names_is_not_changed() {
    if !tools_are_here() {
        return;
    }
    let disk = four_days();
    let copy = disk.folder.path().join("copy");
    fs::hard_link(disk.file("d0"), &copy).expect("a link");
    let before = fs::read(&copy).expect("a file");
    works(&prune(&disk, &["--keep-last=2"]));
    assert!(fs::read(&copy).expect("a file") == before);
    assert_ne!(inode(&disk.file("d2")), inode(&copy));
    disk.check("with a copy");
    // Nor is one that QEMU has put a bitmap into.
    let oldest = inode(&disk.file("d2"));
    run("qemu-img", &["bitmap", "--add", "-f", "qcow2", disk.file("d2").to_str().expect("plain"), "b"]);
    works(&prune(&disk, &["--keep-last=1"]));
    assert_ne!(inode(&disk.file("d3")), oldest);
    disk.check("with a bitmap");
}

/// Many tables, some of them new, and a disk that grows beyond them and shrinks again.
#[test]
fn tables_come_and_go() {
    if !tools_are_here() {
        return;
    }
    let disk = Disk::create("", "3G");
    // No copies of this disk are made: QEMU compares it with the restored one.
    let same = |moment: &str, when: &str| {
        let file = disk.file(moment);
        let paths = [disk.image.to_str().expect("plain"), file.to_str().expect("plain")];
        run("qemu-img", &[&["compare", "-q", "-f", "qcow2", "-F", "qcow2"], &paths[..]].concat());
        works(&["verify".as_ref(), disk.directory.as_os_str()]);
        run("qemu-img", &["check", "-q", paths[1]]);
        let out = disk.folder.path().join("out.qcow2");
        works(&["restore".as_ref(), disk.directory.as_os_str(), "-o".as_ref(), out.as_os_str()]);
        run("qemu-img", &["compare", "-q", "-f", "qcow2", "-F", "qcow2", paths[0], out.to_str().expect("plain")]);
        fs::remove_file(out).unwrap_or_else(|error| panic!("{when}: {error}"));
    };
    disk.io(&["write -P 1 0 64k".into(), "write -P 2 2G 192k".into()]);
    works(&disk.backup_args("mon", &[]));
    let oldest = inode(&disk.file("mon"));
    let nights: [(&str, &str, &[&str]); 5] = [
        ("tue", "3G", &["write -P 3 1G 128k", "discard 2G 64k"]),
        ("wed", "9G", &["write -P 4 8G 128k", "write -P 5 2147549184 64k"]),
        ("thu", "1100054528", &["write -P 6 1100000000 4k", "write -P 7 512M 64k"]),
        ("fri", "700G", &["write -P 8 699G 64k"]),
        ("sat", "700G", &["discard 1G 1G", "write -P 10 1100000000 4k"]),
    ];
    for (day, size, commands) in nights {
        resize(&disk, size);
        disk.io(&commands.iter().map(|command| (*command).to_owned()).collect::<Vec<_>>());
        works(&disk.backup_args(day, &[]));
        works(&prune(&disk, &["--keep-last=1"]));
        assert_eq!(inode(&disk.file(day)), oldest, "{day}");
        same(day, day);
    }
    // More tables than are kept in memory at once.
    disk.io(&(0..699).map(|at| format!("write -P {} {at}G 4k", at % 255 + 1)).collect::<Vec<_>>());
    works(&disk.backup_args("sun", &[]));
    works(&prune(&disk, &["--keep-last=1"]));
    assert_eq!(inode(&disk.file("sun")), oldest);
    same("sun", "sun");
}

/// While somebody reads the old file, it stays, and with it all moments.
#[test]
fn a_file_in_use_is_not_changed() {
    if !tools_are_here() {
        return;
    }
    let disk = four_days();
    let reader = Image::open(&disk.file("d0"), &OpenOptions::new(Access::Read)).expect("an image");
    fails(&prune(&disk, &["--keep-last=2"]), 1, "d0.qcow2");
    assert_eq!(disk.moments(), ["d0", "d1", "d2", "d3"]);
    drop(reader);
    works(&prune(&disk, &["--keep-last=2"]));
    disk.check("after the reader");
}

/// What moves is compared with its sums before anything is given up.
#[test]
fn damage_stops_a_fold_before_it_begins() {
    if !tools_are_here() {
        return;
    }
    for day in [0, 1] {
        let disk = four_days();
        let file = disk.file(&format!("d{day}"));
        let mut bytes = fs::read(&file).expect("a file");
        // In the part of the oldest one that the next one hides by a half, or in the next one.
        let at = bytes.windows(64).rposition(|window| window.iter().all(|byte| *byte == day + 1)).expect("its data");
        bytes[at] ^= 1;
        fs::write(&file, bytes).expect("it can be written");
        fails(&prune(&disk, &["--keep-last=3"]), 1, &format!("d{day}.qcow2"));
        assert_eq!(disk.moments(), ["d0", "d1", "d2", "d3"]);
    }
}
