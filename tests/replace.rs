#![forbid(unsafe_code)]
//! The atomic replacement of a file: what it keeps, what it follows, what it refuses, and that nothing is left behind.

use checkmap::io::FileId;
use checkmap::io::replace::Target;
use checkmap::{ErrorKind, Result};
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let mut replacement = Target::new(path)?.begin()?;
    replacement.write_all(content).expect("room for a few bytes");
    replacement.sync()?.commit()
}

fn listing(folder: &Path) -> Vec<OsString> {
    let entries = fs::read_dir(folder).expect("it can be listed");
    let mut names: Vec<OsString> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").mode() & 0o7777
}

#[track_caller]
fn assert_refused(path: &Path, why: &str) {
    let error = replace(path, b"new").expect_err("it must be refused");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    let text = error.to_string();
    assert!(text.contains(why) && text.starts_with(&*path.to_string_lossy()), "{text}");
}

#[test]
fn a_new_file_has_the_mode_that_any_new_file_has() {
    let folder = folder();
    let (ours, others) = (folder.path().join("ours"), folder.path().join("others"));
    replace(&ours, b"content").unwrap();
    File::create(&others).unwrap();
    assert_eq!((mode(&ours), fs::read(&ours).unwrap()), (mode(&others), b"content".to_vec()));
    assert_eq!(listing(folder.path()), ["others", "ours"]);
}

#[test]
fn an_old_file_keeps_mode_and_owner_and_is_replaced_in_one_step() {
    let folder = folder();
    let path = folder.path().join("file");
    for old_mode in [0o600, 0o640, 0o666, 0o444, 0o755] {
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(old_mode)).unwrap();
        // Only root may give files away.
        let is_given = chown(&path, Some(1234), Some(4321)).is_ok();
        let before = fs::metadata(&path).unwrap();
        let mut replacement = Target::new(&path).unwrap().begin().unwrap();
        replacement.write_all(b"new").unwrap();
        let synced = replacement.sync().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old", "nobody sees it before the commit");
        synced.commit().unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_eq!(after.mode(), before.mode());
        assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
        assert!(!is_given || after.uid() == 1234);
        assert_ne!(after.ino(), before.ino());
        assert_eq!(fs::read(&path).unwrap(), b"new");
        fs::remove_file(&path).unwrap();
        assert!(listing(folder.path()).is_empty());
    }
}

#[test]
fn the_file_behind_links_is_replaced_or_made() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("below")).unwrap();
    fs::write(at("below/file"), "old").unwrap();
    symlink("below/file", at("link")).unwrap();
    symlink("link", at("link to link")).unwrap();
    symlink("../link", at("below/back")).unwrap();
    for name in ["link", "link to link", "below/back"] {
        replace(&at(name), name.as_bytes()).unwrap();
        assert_eq!(fs::read(at("below/file")).unwrap(), name.as_bytes());
        assert!(fs::symlink_metadata(at(name)).unwrap().is_symlink());
    }
    symlink("below/new", at("to nothing")).unwrap();
    symlink("to nothing", at("to a link to nothing")).unwrap();
    replace(&at("to a link to nothing"), b"made").unwrap();
    assert_eq!(fs::read(at("below/new")).unwrap(), b"made");
    assert!(fs::symlink_metadata(at("to nothing")).unwrap().is_symlink());
    symlink("b", at("a")).unwrap();
    symlink("a", at("b")).unwrap();
    assert_eq!(replace(&at("a"), b"").unwrap_err().errno(), libc::ELOOP);
    assert_eq!(listing(&at("below")), ["back", "file", "new"]);
}

#[test]
fn what_is_no_file_is_refused_and_stays() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("folder")).unwrap();
    let _listener = UnixListener::bind(at("socket")).unwrap();
    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    symlink("/dev/null", at("device")).unwrap();
    symlink("pipe", at("link")).unwrap();
    let before = listing(folder.path());
    for (name, why) in [
        ("folder", "a directory"),
        ("folder/", "a directory"),
        ("folder/..", "a directory"),
        ("pipe", "no regular file"),
        ("link", "no regular file"),
        ("socket", "no regular file"),
        ("device", "no regular file"),
    ] {
        assert_refused(&at(name), why);
    }
    assert_refused(Path::new("/dev/null"), "no regular file");
    assert_refused(Path::new("/"), "a directory");
    assert_eq!(listing(folder.path()), before);
    assert!(fs::metadata(at("pipe")).unwrap().file_type().is_fifo());
    for name in ["absent/file", "new/", "new/."] {
        assert_eq!(replace(&at(name), b"").unwrap_err().errno(), libc::ENOENT, "{name}");
    }
    assert_eq!(replace(Path::new(""), b"").unwrap_err().errno(), libc::ENOENT);
    fs::write(at("file"), "").unwrap();
    assert_eq!(replace(&at("file/below"), b"").unwrap_err().errno(), libc::ENOTDIR);
}

#[test]
fn a_file_without_a_name_is_refused() {
    let folder = folder();
    let path = folder.path().join("gone");
    let file = File::create(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let behind = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let error = replace(behind.as_ref(), b"new").unwrap_err();
    assert!(error.to_string().contains(&behind), "{error}");
    assert!(listing(folder.path()).is_empty());
}

#[test]
fn a_disk_image_is_refused_whatever_its_format() {
    let folder = folder();
    let path = folder.path().join("disk");
    symlink("disk", folder.path().join("link")).unwrap();
    for format in ["qcow2", "qed", "vmdk", "vhdx", "parallels", "luks"] {
        let _ = fs::remove_file(&path);
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-f", format]).arg(&path).arg("1M");
        if format == "luks" {
            create.args(["--object", "secret,id=s,data=x", "-o", "key-secret=s,iter-time=1"]);
        }
        assert!(create.status().expect("qemu-img runs; see ./run-tests").success());
        let before = fs::read(&path).unwrap();
        assert_refused(&path, "a disk image");
        assert_refused(&folder.path().join("link"), "a disk image");
        assert!(Target::new(&path).unwrap().refuse_disk_image().is_err());
        assert!(fs::read(&path).unwrap() == before);
    }
    for start in [&b""[..], b"Q", b"QFI", b"QFI\xfa", b"text"] {
        fs::write(&path, start).unwrap();
        replace(&path, b"new").unwrap();
    }
    assert_eq!(listing(folder.path()), ["disk", "link"]);
}

#[test]
fn a_file_that_the_caller_names_is_refused_by_any_of_its_names() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("part"), "part").unwrap();
    fs::write(at("other"), "other").unwrap();
    fs::hard_link(at("part"), at("hard")).unwrap();
    symlink("hard", at("soft")).unwrap();
    let part = FileId::of(&fs::metadata(at("part")).unwrap());
    for name in ["part", "hard", "soft"] {
        let error = Target::new(&at(name)).unwrap().refuse(part, "a part of it").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("it is a part of it"), "{error}");
    }
    for name in ["other", "new"] {
        Target::new(&at(name)).unwrap().refuse(part, "a part of it").unwrap();
    }
}

#[test]
fn names_of_every_length_that_the_system_takes_will_do() {
    let folder = folder();
    for len in [1, 199, 200, 250, 255] {
        let path = folder.path().join("n".repeat(len));
        replace(&path, b"first").unwrap();
        replace(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
    }
    let path = folder.path().join("n".repeat(256));
    assert_eq!(replace(&path, b"").unwrap_err().errno(), libc::ENAMETOOLONG);
    assert_eq!(listing(folder.path()).len(), 5);
}

#[test]
fn whatever_ends_early_leaves_the_old_file_and_nothing_beside_it() {
    let folder = folder();
    let path = folder.path().join("file");
    fs::write(&path, "old").unwrap();
    drop(Target::new(&path).unwrap());
    drop(Target::new(&path).unwrap().begin().unwrap());
    drop(Target::new(&path).unwrap().begin().unwrap().sync().unwrap());
    assert_eq!((fs::read(&path).unwrap(), listing(folder.path())), (b"old".to_vec(), vec!["file".into()]));
}

#[test]
fn what_came_to_stand_there_meanwhile_is_looked_at_again() {
    let folder = folder();
    let path = folder.path().join("file");
    let begun = || Target::new(&path).unwrap().begin().unwrap().sync().unwrap();
    let refused = |synced: checkmap::io::replace::Synced| {
        assert_eq!(synced.commit().unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(listing(folder.path()).iter().filter(|name| *name != "other").count(), 1);
    };
    let synced = begun();
    fs::create_dir(&path).unwrap();
    refused(synced);
    fs::remove_dir(&path).unwrap();
    let synced = begun();
    fs::write(&path, b"QFI\xfb").unwrap();
    refused(synced);
    assert_eq!(fs::read(&path).unwrap(), b"QFI\xfb");
    fs::remove_file(&path).unwrap();
    let synced = begun();
    fs::write(folder.path().join("other"), "other").unwrap();
    symlink("other", &path).unwrap();
    refused(synced);
    assert_eq!(fs::read(&path).unwrap(), b"other");
    // Another writer of the same file is no trouble: the last one wins, whole.
    fs::remove_file(&path).unwrap();
    let synced = begun();
    replace(&path, b"second").unwrap();
    synced.commit().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"");
}

#[test]
fn a_folder_that_is_moved_away_takes_no_file_elsewhere() {
    let folder = folder();
    let (before, after) = (folder.path().join("before"), folder.path().join("after"));
    fs::create_dir(&before).unwrap();
    let synced = Target::new(&before.join("file")).unwrap().begin().unwrap().sync().unwrap();
    fs::rename(&before, &after).unwrap();
    assert_eq!(synced.commit().unwrap_err().errno(), libc::ENOENT);
    assert!(!before.exists() && !after.join("file").exists());
}
