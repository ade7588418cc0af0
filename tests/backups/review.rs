//! Mistakes that would cost a moment or a file later on.

use crate::support::{run, tools_are_here};
use crate::{Disk, checkmap, entries, fails, works};
use std::ffi::OsStr;
use std::fs;

fn args<'a>(disk: &'a Disk, image: &'a OsStr, options: &[&'a str]) -> Vec<&'a OsStr> {
    let args = ["backup".as_ref(), image, "-o".as_ref(), disk.directory.as_os_str()];
    args.into_iter().chain(options.iter().map(|option| OsStr::new(*option))).collect()
}

/// A full backup of another image that fails does not make that image the disk of the directory.
#[test]
fn another_image_is_not_taken_for_the_disk_after_a_failure() {
    if !tools_are_here() {
        return;
    }
    let disk = Disk::create("", "4M");
    disk.io(&["write -P 1 0 4M".into()]);
    disk.backup("mon", &[]);
    // Its checkpoint has the same name, and its content is another one.
    let other = disk.folder.path().join("moved").join("disk.qcow2");
    fs::create_dir(other.parent().expect("a folder")).expect("a folder");
    let name = other.to_str().expect("a plain path");
    run("qemu-img", &["create", "-q", "-f", "qcow2", name, "4M"]);
    crate::support::qemu_io(&other, &["write -P 2 0 4M".into()]);
    works(&["create".as_ref(), other.as_os_str(), "mon".as_ref()]);
    // The folder of the disk cannot take a file.
    let folder = disk.directory.join("disk.qcow2");
    let away = disk.directory.join("away");
    fs::rename(&folder, &away).expect("it can be renamed");
    fs::write(&folder, "").expect("it can be written");
    fails(&args(&disk, other.as_os_str(), &["--full", "--checkpoint=tue"]), 1, "");
    fs::remove_file(&folder).expect("it was there");
    fs::rename(&away, &folder).expect("it can be renamed");
    fails(&args(&disk, other.as_os_str(), &["--checkpoint=tue"]), 3, "this may be another one");
    assert!(disk.backup("wed", &[]).contains("what changed"));
    disk.check("after all");
}

#[test]
fn one_image_is_not_taken_twice() {
    if !tools_are_here() {
        return;
    }
    let disk = Disk::create("", "1M");
    let link = disk.folder.path().join("link.qcow2");
    std::os::unix::fs::symlink(&disk.image, &link).expect("a link");
    fails(&args(&disk, disk.image.as_os_str(), &[link.to_str().expect("plain")]), 2, "two disks are the same");
    assert!(disk.checkpoints().is_empty());
    // A hard link cannot be told by its path: the second checkpoint is there already.
    let hard = disk.folder.path().join("hard.qcow2");
    fs::hard_link(&disk.image, &hard).expect("a link");
    fails(&args(&disk, disk.image.as_os_str(), &[hard.to_str().expect("plain"), "--checkpoint=mon"]), 1, "mon");
    assert_eq!(disk.checkpoints(), ["mon"]);
    disk.io(&["write -P 1 0 64k".into()]);
    assert!(disk.backup("tue", &[]).contains("what changed"));
}

/// Only what the directory made is cleared away.
#[test]
fn files_of_others_stay_and_no_target_is_in_the_directory() {
    if !tools_are_here() {
        return;
    }
    let disk = Disk::create("", "1M");
    disk.backup("mon", &[]);
    let mine = disk.directory.join("disk.qcow2").join("mine.qcow2");
    fs::write(&mine, "precious").expect("it can be written");
    disk.backup("tue", &[]);
    works(&["prune".as_ref(), disk.directory.as_os_str(), "--keep-last=1".as_ref()]);
    assert_eq!(fs::read(&mine).expect("it is there"), b"precious");
    let restore = |target: &OsStr| {
        let args = ["restore".as_ref(), disk.directory.as_os_str(), "--force".as_ref(), "-o".as_ref(), target];
        fails(&args, 2, "lies in the backup directory");
    };
    restore(mine.as_os_str());
    restore(disk.file("tue").as_os_str());
    let link = disk.folder.path().join("link.qcow2");
    std::os::unix::fs::symlink(disk.file("tue"), &link).expect("a link");
    restore(link.as_os_str());
    fails(&args(&disk, disk.file("tue").as_os_str(), &[]), 2, "lies in the backup directory");
    disk.check("after all");
}

/// A guest that trims a huge empty disk makes no tables for it; zeros beside other content are written as such.
#[test]
fn a_trim_of_what_was_empty_costs_nothing() {
    if !tools_are_here() {
        return;
    }
    let disk = Disk::create("", "128G");
    disk.io(&["write -P 1 0 64k".into(), "write -P 2 64G 64k".into()]);
    works(&disk.backup_args("mon", &[]));
    let discards: Vec<String> = (0..128).map(|gibibyte| format!("discard {gibibyte}G 1G")).collect();
    disk.io(&discards);
    disk.io(&["write -P 3 128k 64k".into()]);
    works(&disk.backup_args("tue", &[]));
    let len = fs::metadata(disk.file("tue")).expect("a file").len();
    assert!(len < 1 << 20, "{len}");
    let sums = fs::read_to_string(disk.file("tue").with_extension("sums")).expect("a list");
    assert!(sums.contains("\nzero 0 131072\n"), "{sums}");
    let same = ["compare", "-f", "qcow2", "-F", "qcow2", disk.image.to_str().expect("plain")];
    run("qemu-img", &[&same[..], &[disk.file("tue").to_str().expect("plain")]].concat());
}

/// A disk for backups alone has a folder from its file system.
#[test]
fn the_root_of_a_file_system_can_be_the_directory() {
    if !tools_are_here() {
        return;
    }
    let disk = Disk::create("", "1M");
    fs::create_dir_all(disk.directory.join("lost+found")).expect("a folder");
    disk.backup("mon", &[]);
    assert!(entries(&disk.directory).contains(&"lost+found".to_owned()));
    let told = checkmap(&["verify".as_ref(), disk.directory.as_os_str()]);
    assert!(told.status.success());
}

/// A dry run tells what would be done, and neither makes a directory nor a checkpoint.
#[test]
fn a_dry_run_changes_nothing() {
    if !tools_are_here() {
        return;
    }
    let disk = Disk::create("", "1M");
    disk.io(&["write -P 1 0 128k".into()]);
    let dry = |checkpoint| works(&disk.backup_args(checkpoint, &["--dry-run"]));
    assert!(dry("mon").contains("would back up the disk 'disk.qcow2' at 'mon': 128 KiB of data (full)"));
    assert!(!disk.directory.exists() && disk.checkpoints().is_empty());
    disk.backup("mon", &[]);
    disk.io(&["write -P 2 512k 64k".into()]);
    let before = fs::read(&disk.image).expect("an image");
    let told = dry("tue");
    assert!(told.contains("64 KiB of data (what changed)"), "{told}");
    assert!(fs::read(&disk.image).expect("an image") == before);
    assert_eq!(disk.moments(), ["mon"]);
    fails(&disk.backup_args("mon", &["--dry-run"]), 3, "");
}

/// Two overlays of one image, both with a checkpoint of the same name: only one of them tells what changed since the backup.
#[test]
fn a_checkpoint_of_that_name_on_another_branch_makes_no_increment() {
    if !tools_are_here() {
        return;
    }
    let disk = Disk::create("", "4M");
    disk.io(&["write -P 1 0 4M".into()]);
    disk.backup("mon", &[]);
    let overlay = |name: &str, writes: &[&str]| {
        let path = disk.folder.path().join(name);
        let image = path.to_str().expect("a plain path");
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "disk.qcow2", image]);
        crate::support::qemu_io(&path, &writes.iter().map(|write| (*write).to_owned()).collect::<Vec<_>>());
        path
    };
    let take = |image: &std::path::Path, checkpoint: &str| {
        crate::convert(image, &disk.truth(checkpoint));
        let mut name = image.as_os_str().to_owned();
        name.push("=disk.qcow2");
        works(&args(
            &disk,
            image.as_os_str(),
            &["--checkpoint", checkpoint, "--disk-name", name.to_str().expect("a plain path")],
        ))
    };
    let one = overlay("one.qcow2", &["write -P 2 1M 64k"]);
    assert!(take(&one, "tue").contains("what changed"));
    // Somebody goes back to the snapshot, on another branch, and makes a checkpoint there.
    let other = overlay("other.qcow2", &["write -P 3 2M 64k"]);
    works(&["create".as_ref(), other.as_os_str(), "tue".as_ref()]);
    let told = take(&other, "wed");
    assert!(
        told.contains("one.qcow2, which got the checkpoint of the backup before, is no layer of the disk"),
        "{told}"
    );
    crate::support::qemu_io(&other, &["write -P 4 3M 64k".into()]);
    assert!(take(&other, "thu").contains("what changed"));
    disk.check("on two branches");
    // The checkpoint that is not of this directory stays.
    let listed = checkmap(&["list".as_ref(), other.as_os_str(), "--json".as_ref()]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("\"tue\""));
}
