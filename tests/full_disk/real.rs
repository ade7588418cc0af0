//! The same with what a real system refuses: a file above its limit, and a file system that is full.

use crate::support::raw::Raw;
use crate::support::{folder, qemu_bitmaps, tools_are_here, try_run};
use crate::{Create, DeleteMiddle, assert_untouched, chain, plan};
use checkmap::image::{Access, OpenOptions};
use checkmap::progress::Unobserved;
use checkmap::{ErrorKind, Image};
use std::path::Path;
use std::process::Command;

/// An image in which every cluster is used, so that any change needs a longer file.
fn tight(path: &Path) -> Vec<u8> {
    let mut raw = Raw { bytes: chain("cluster_size=4096,refcount_bits=64", "1M", 1 << 19) };
    raw.leave_no_room();
    std::fs::write(path, &raw.bytes).expect("the image can be written");
    raw.bytes
}

/// Both changes meet a full disk, and the image is what it was.
fn assert_refused(path: &Path, before: &[u8]) {
    for change in [Create, DeleteMiddle] {
        let mut image = Image::open(path, &OpenOptions::new(Access::Write)).expect("it opens");
        let plan = plan(&image, change);
        let error = image.commit(&plan, &mut Unobserved).expect_err("there is no room");
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        assert_untouched(before, &std::fs::read(path).expect("it can be read"), "on a real file system");
    }
}

fn assert_sound(path: &Path) {
    let names: Vec<String> = qemu_bitmaps(path).into_iter().map(|bitmap| bitmap.name).collect();
    assert_eq!(names, ["1", "1->2", "2->3"]);
    // The room that nobody may use is a leak, which is 3; errors would be 2.
    let check = try_run("qemu-img", &["check".as_ref(), path.as_os_str()]);
    assert_eq!(check.status.code(), Some(3), "{}", String::from_utf8_lossy(&check.stdout));
}

#[test]
fn a_file_at_the_limit_of_its_size_stays_as_it_was() {
    if !tools_are_here() {
        return;
    }
    let folder = folder();
    let path = folder.path().join("tight.qcow2");
    let before = tight(&path);
    // The limit holds for a whole process, in units of 512 bytes; writes beyond it fail instead of killing.
    let limited = format!("ulimit -f {} && trap '' XFSZ && exec \"$0\" \"$@\"", before.len().div_ceil(512));
    for change in [["create", "4"], ["delete", "2"]] {
        let output = Command::new("sh")
            .args(["-c", &limited, env!("CARGO_BIN_EXE_checkmap"), change[0]])
            .arg(&path)
            .arg(change[1])
            .output()
            .expect("a shell");
        let printed = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{printed}");
        assert!(printed.contains(&path.display().to_string()), "{printed}");
        assert_untouched(&before, &std::fs::read(&path).expect("it can be read"), "under a limit");
    }
    assert_sound(&path);
}

/// A file system in memory, gone with the test.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_full_file_system_leaves_the_image_as_it_was() {
    if !tools_are_here() {
        return;
    }
    let folder = folder();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(folder.path()).output();
    if !mount.is_ok_and(|mount| mount.status.success()) {
        eprintln!("SKIPPED, NOT PASSED: only root can mount a small tmpfs");
        return;
    }
    let _mounted = Mounted(folder.path());
    let path = folder.path().join("tight.qcow2");
    let before = tight(&path);
    // The rest of the file system is filled, down to the last page.
    let mut rest = std::fs::File::create(folder.path().join("rest")).expect("a file");
    while std::io::Write::write_all(&mut rest, &[1; 4096]).is_ok() {}
    assert_refused(&path, &before);
    drop(rest);
    assert_sound(&path);
}
