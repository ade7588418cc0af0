//! Clusters that the guest's tables name and that are counted as free: no bitmap is ever put there, and the user is told.

mod support;

use checkmap::Image;
use checkmap::image::{Access, OpenOptions};
use checkmap::progress::Unobserved;
use std::fs::{File, OpenOptions as FileOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use support::raw::Raw;
use support::{TestImage, memory, run, tools_are_here, try_run};

const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;

fn offset(entry: u64) -> usize {
    usize::try_from(entry & OFFSET_MASK).expect("inside the file")
}

/// Damages the image, makes a checkpoint in it, and returns what the checkpoint's maker was told.
fn create_after(image: &TestImage, damage: impl FnOnce(&mut Raw)) -> Vec<String> {
    let mut raw = Raw::read(&image.path);
    damage(&mut raw);
    std::fs::write(&image.path, &raw.bytes).expect("the image can be written");
    create(&image.path)
}

fn create(path: &Path) -> Vec<String> {
    let mut image = Image::open(path, &OpenOptions::new(Access::Write).no_lock(true)).expect("it opens");
    let plan = image.plan_create(b"new", None, None).expect("a plan");
    let told = image.rehearse(&plan, &mut Unobserved).expect("a rehearsal");
    let warnings = image.commit(&plan, &mut Unobserved).expect("room is found");
    assert_eq!(told, warnings, "the rehearsal tells something else");
    warnings
}

/// The user is told; a repair leaves nothing wrong, and the guest's data are what they were.
fn assert_spared(image: &TestImage, warnings: &[String], before: &[u8]) {
    let said = |text: &str| warnings.iter().any(|warning| warning.contains(text));
    assert!(said("counted as free") && said("qemu-img check -r all"), "{warnings:?}");
    assert!(image.content() == before, "the guest's data changed");
    let _ = try_run("qemu-img", &["check".as_ref(), "-r".as_ref(), "all".as_ref(), image.path.as_os_str()]);
    image.assert_clean("the repair");
    assert!(image.content() == before, "the guest's data changed in the repair");
    let names: Vec<String> = image.qemu_bitmaps().into_iter().map(|bitmap| bitmap.name).collect();
    assert_eq!(names, ["new"]);
}

#[test]
fn a_cluster_of_the_guest_that_is_counted_as_free_is_not_taken() {
    if !tools_are_here() {
        return;
    }
    for options in ["", "cluster_size=4k", "cluster_size=512,refcount_bits=16", "extended_l2=on,cluster_size=64k"] {
        let image = TestImage::create(options, "4M");
        image.io(&["write -P 1 0 64k".into(), "write -P 2 1M 64k".into()]);
        let before = image.content();
        let warnings = create_after(&image, |raw| {
            let data = offset(raw.u64(raw.l2()));
            raw.put_u16(raw.refcount_of(data), 0);
        });
        assert_spared(&image, &warnings, &before);
    }
}

#[test]
fn a_compressed_cluster_that_is_counted_as_free_is_not_taken() {
    if !tools_are_here() {
        return;
    }
    let image = TestImage::create("cluster_size=64k", "4M");
    image.io(&["write -c -P 1 0 64k".into(), "write -c -P 2 64k 64k".into()]);
    let before = image.content();
    let warnings = create_after(&image, |raw| {
        let entry = raw.u64(raw.l2());
        let start = usize::try_from(entry & ((1 << 54) - 1)).expect("inside the file");
        raw.put_u16(raw.refcount_of(start / 65536 * 65536), 0);
    });
    assert_spared(&image, &warnings, &before);
}

#[test]
fn a_table_of_the_disk_that_is_counted_as_free_is_not_taken() {
    if !tools_are_here() {
        return;
    }
    for structure in [Raw::l1, Raw::l2, Raw::refcount_table, Raw::refcount_block] {
        let image = TestImage::create("", "4M");
        image.io(&["write -P 1 0 64k".into()]);
        let before = image.content();
        let warnings = create_after(&image, |raw| raw.put_u16(raw.refcount_of(structure(raw)), 0));
        assert_spared(&image, &warnings, &before);
    }
}

#[test]
fn what_only_a_snapshot_holds_is_not_taken() {
    if !tools_are_here() {
        return;
    }
    let image = TestImage::create("", "4M");
    image.io(&["write -P 1 0 64k".into()]);
    let old = offset(Raw::read(&image.path).u64(Raw::read(&image.path).l2()));
    let path = image.path.to_str().expect("UTF-8");
    run("qemu-img", &["snapshot", "-c", "before", path]);
    image.io(&["write -P 2 0 64k".into()]);
    let in_snapshot = || {
        let out = image.folder.path().join("snapshot.raw");
        run("qemu-img", &["convert", "-l", "before", "-O", "raw", path, out.to_str().expect("UTF-8")]);
        std::fs::read(out).expect("it can be read")
    };
    let (before, before_in_snapshot) = (image.content(), in_snapshot());
    let warnings = create_after(&image, |raw| raw.put_u16(raw.refcount_of(old), 0));
    assert!(in_snapshot() == before_in_snapshot, "the snapshot's data changed");
    assert_spared(&image, &warnings, &before);
}

#[test]
fn what_the_guest_names_past_the_end_of_the_file_is_not_taken_when_the_file_grows() {
    if !tools_are_here() {
        return;
    }
    let image = TestImage::create("", "4M");
    image.io(&["write -P 1 0 64k".into()]);
    let warnings = create_after(&image, |raw| {
        // QEMU reads zeros there.
        let end = raw.bytes.len().next_multiple_of(65536);
        raw.leave_no_room();
        for number in 0..3 {
            raw.put_u64(raw.l2() + 8 * (20 + number), (end + number * 65536) as u64 | 1 << 63);
        }
    });
    assert!(warnings.iter().any(|warning| warning.contains("counted as free")), "{warnings:?}");
    let raw = Raw::read(&image.path);
    let taken: Vec<usize> = (20..23).map(|number| offset(raw.u64(raw.l2() + 8 * number))).collect();
    assert!(!taken.contains(&raw.directory()) && !taken.contains(&raw.table(0)), "{taken:x?}");
    assert!(image.content()[20 * 65536..23 * 65536].iter().all(|byte| *byte == 0), "the guest sees a bitmap's bytes");
}

/// A device: the storage of a file in memory that cannot grow.
#[test]
fn on_a_device_the_same_clusters_are_spared() {
    if !tools_are_here() {
        return;
    }
    let image = TestImage::create("", "4M");
    image.io(&["write -P 1 0 64k".into(), "write -P 2 1M 64k".into()]);
    let mut raw = Raw::read(&image.path);
    let data = offset(raw.u64(raw.l2()));
    raw.put_u16(raw.refcount_of(data), 0);
    raw.bytes.resize(8 << 20, 0);
    let device = Arc::new(memory::Memory::device(raw.bytes.clone()));
    let mut opened = memory::open(&device, Access::Write).expect("it opens");
    let plan = opened.plan_create(b"new", None, None).expect("a plan");
    opened.commit(&plan, &mut Unobserved).expect("room is found");
    assert_eq!(device.bytes()[data..data + 65536], raw.bytes[data..data + 65536]);
}

/// More L2 tables than are read to change a few bitmaps: those of more than 1 TiB of data.
fn huge() -> TestImage {
    TestImage::create("preallocation=metadata", "1100G")
}

fn u64_at(file: &File, at: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at).expect("it can be read");
    u64::from_be_bytes(bytes)
}

#[test]
fn where_not_every_table_was_read_bitmaps_are_put_behind_the_end() {
    if !tools_are_here() {
        return;
    }
    let image = huge();
    let file = FileOptions::new().read(true).write(true).open(&image.path).expect("it opens");
    let len = file.metadata().expect("its length").len();
    let l2 = u64_at(&file, u64_at(&file, 40)) & OFFSET_MASK;
    let data = u64_at(&file, l2) & OFFSET_MASK;
    let block = u64_at(&file, u64_at(&file, 48));
    assert!(data / 65536 < 32768, "the first block counts it");
    file.write_all_at(&[0, 0], block + data / 65536 * 2).expect("it can be written");
    create(&image.path);
    let mut header = vec![0; 65536];
    file.read_exact_at(&mut header, 0).expect("it can be read");
    let at = header.chunks(8).position(|chunk| chunk[..4] == [0x23, 0x85, 0x28, 0x75]).expect("the extension") * 8;
    let directory = u64_at(&file, at as u64 + 24);
    assert!(directory >= len, "{directory:#x} is before the end at {len:#x}");
    assert!(u64_at(&file, directory) >= len, "the table is before the end");
}
