//! QEMU stores every bitmap anew whenever it closes an image, and drops them all where it finds no room for that: a new
//! checkpoint leaves it that room, or is refused.

mod support;

use checkmap::image::{Access, OpenOptions};
use checkmap::progress::Unobserved;
use checkmap::{ErrorKind, Image};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use support::memory::{self, Memory};
use support::{TestImage, folder, qemu_bitmaps, qemu_io, tools_are_here};

const CLUSTER: u64 = 65536;

/// A file as a block device, gone with the test.
struct Loop(PathBuf);

impl Loop {
    fn of(file: &Path) -> Option<Self> {
        let made = Command::new("losetup").args(["-f", "--show"]).arg(file).output().ok()?;
        let device = PathBuf::from(String::from_utf8_lossy(&made.stdout).trim());
        (made.status.success() && device.exists()).then_some(Self(device))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

/// A disk with three checkpoints, in each of which something was written.
fn chain() -> Vec<u8> {
    let image = TestImage::create("", "1G");
    for name in ["a", "b", "c"] {
        image.create_checkpoint(name, None, None);
        image.io(&["write 0 64k".into()]);
    }
    std::fs::read(&image.path).expect("the image can be read")
}

fn create(image: &mut Image) -> checkmap::Result<Vec<String>> {
    let plan = image.plan_create(b"x", None, None)?;
    image.commit(&plan, &mut Unobserved)
}

#[test]
fn a_device_keeps_the_room_that_qemu_needs() {
    if !tools_are_here() {
        return;
    }
    let folder = folder();
    let path = folder.path().join("volume");
    let image = chain();
    let clusters = (image.len() as u64).div_ceil(CLUSTER);
    let mut refused = 0;
    for more in 0..24 {
        let mut bytes = image.clone();
        bytes.resize(usize::try_from((clusters + more) * CLUSTER).expect("small"), 0);
        std::fs::write(&path, &bytes).expect("the volume can be written");
        let Some(device) = Loop::of(&path) else {
            assert!(std::env::var_os("CI").is_none(), "a loop device is needed");
            eprintln!("SKIPPED, NOT PASSED: no loop device; only root can make one");
            return;
        };
        let mut opened = Image::open(&device.0, &OpenOptions::new(Access::Write).no_lock(true)).expect("it opens");
        let created = create(&mut opened);
        drop(opened);
        match created {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
                if error.to_string().contains("QEMU") {
                    assert!(error.to_string().contains("room"), "{error}");
                    refused += 1;
                }
                let now = std::fs::read(&device.0).expect("the device can be read");
                assert!(now == bytes, "{more} clusters more: a refusal changed the device");
                continue;
            }
            // The least room that is taken for enough is enough, for a guest that writes where it wrote before.
            Ok(warnings) => assert_eq!(warnings, Vec::<String>::new()),
        }
        assert!(refused > 0, "nothing was refused for the room of QEMU");
        qemu_io(&device.0, &["write 0 64k".into()]);
        let bitmaps = qemu_bitmaps(&device.0);
        assert_eq!(bitmaps.len(), 4);
        assert!(
            bitmaps.iter().all(|bitmap| !bitmap.in_use),
            "QEMU lost bitmaps with {more} clusters more: {bitmaps:?}"
        );
        return;
    }
    panic!("no device is large enough");
}

#[test]
fn a_change_that_is_a_way_out_of_a_full_device_is_only_warned_of() {
    if !tools_are_here() {
        return;
    }
    let mut image = chain();
    image.resize(image.len().next_multiple_of(65536), 0);
    let device = Arc::new(Memory::device(image));
    let mut opened = memory::open(&device, Access::Write).expect("it opens");
    let refused = create(&mut opened).expect_err("there is too little room");
    assert_eq!(refused.kind(), ErrorKind::NoSpace, "{refused}");
    let plan = opened.plan_rename(b"a", b"z", checkmap::image::Layers::Check, None).expect("a plan");
    let warnings = opened.commit(&plan, &mut Unobserved).expect("it is carried out");
    assert!(warnings.iter().any(|warning| warning.contains("QEMU needs room")), "{warnings:?}");
}

/// A file system in memory, gone with the test.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_file_system_that_is_almost_full_is_warned_of() {
    if !tools_are_here() {
        return;
    }
    let folder = folder();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(folder.path()).output();
    if !mount.is_ok_and(|mount| mount.status.success()) {
        eprintln!("SKIPPED, NOT PASSED: only root can mount a small tmpfs");
        return;
    }
    let _mounted = Mounted(folder.path());
    let path = folder.path().join("disk.qcow2");
    let image = chain();
    std::fs::write(&path, &image).expect("the image fits");
    let rest = 4 * (1 << 20) - image.len().next_multiple_of(4096);
    std::fs::write(folder.path().join("rest"), vec![1; rest - 256 * 1024]).expect("the rest is filled");
    let mut opened = Image::open(&path, &OpenOptions::new(Access::Write).no_lock(true)).expect("it opens");
    let warnings = create(&mut opened).expect("there is room for the checkpoint itself");
    assert!(warnings.iter().any(|warning| warning.contains("QEMU needs room")), "{warnings:?}");
}
