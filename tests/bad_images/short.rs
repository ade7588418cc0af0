//! Sound images whose file ends inside a cluster: QEMU reads zeros there, and so do we. What lacks more is damaged.

use crate::support::raw::{self, Raw};
use crate::support::{TestImage, nbd, run, tools_are_here, try_run};
use crate::table::{diff, unlocked};
use checkmap::chain::{Name, Plan};
use checkmap::image::{Access, Layers};
use checkmap::progress::Unobserved;
use checkmap::{ErrorKind, Image};
use std::path::Path;

/// Moves a structure to the end of the file; where it stands there.
type MoveToEnd = fn(&mut Raw) -> usize;

/// The structures that may be last in a file.
const LAST: [(&str, MoveToEnd); 8] = [
    ("the L1 table", |raw| raw.move_to_end(raw::L1_OFFSET, 8 * entries(raw, raw::L1_ENTRIES))),
    ("an L2 table", |raw| {
        let used = (0..).find(|number| raw.u64(raw.l1() + 8 * number) != 0).expect("an L2 table");
        raw.move_to_end(raw.l1() + 8 * used, CLUSTER)
    }),
    ("the refcount table", |raw| raw.move_to_end(raw::REFCOUNT_TABLE, CLUSTER)),
    ("a refcount block", |raw| raw.move_to_end(raw.refcount_table(), CLUSTER)),
    ("the snapshot table", |raw| raw.move_to_end(raw::SNAPSHOTS_OFFSET, CLUSTER)),
    ("a snapshot's L1 table", |raw| {
        let snapshot = raw.offset(raw::SNAPSHOTS_OFFSET);
        raw.move_to_end(snapshot, 8 * entries(raw, snapshot + 8))
    }),
    ("the bitmap directory", |raw| raw.move_to_end(raw.extension(raw::EXTENSION_OFFSET), CLUSTER)),
    ("a bitmap table", |raw| raw.move_to_end(raw.entry(0), CLUSTER)),
];
const CLUSTER: usize = 4096;

fn entries(raw: &Raw, at: usize) -> usize {
    usize::try_from(raw.u32(at)).expect("few")
}

/// A chain of two bitmaps over a disk with an internal snapshot, in clusters of 4 KiB.
fn sound() -> Raw {
    let image = TestImage::create("cluster_size=4k", "64M");
    image.io(&["write -P 5 0 64k".into(), "write -P 6 20M 4k".into()]);
    run("qemu-img", &["snapshot".as_ref(), "-c".as_ref(), "before".as_ref(), image.path.as_os_str()]);
    image.bitmap(&["--add", "-g", "512"], "1");
    image.io(&["write -P 7 1M 4k".into()]);
    image.bitmap(&["--disable"], "1");
    image.bitmap(&["--add", "-g", "512"], "1->2");
    image.io(&["write -P 8 2M 4k".into()]);
    let mut raw = Raw::read(&image.path);
    raw.bytes.resize(raw.bytes.len().next_multiple_of(CLUSTER), 0);
    raw
}

fn check(path: &Path) -> Option<i32> {
    try_run("qemu-img", &["check".as_ref(), "-f".as_ref(), "qcow2".as_ref(), path.as_os_str()]).status.code()
}

fn change(path: &Path, plan: impl Fn(&Image) -> checkmap::Result<Plan>) -> checkmap::Result<()> {
    let mut image = Image::open(path, &unlocked(Access::Write))?;
    let plan = plan(&image)?;
    image.commit(&plan, &mut Unobserved).map(drop)
}

fn create(path: &Path) -> checkmap::Result<()> {
    change(path, |image| image.plan_create(b"new", None, None))
}

#[test]
fn a_table_that_the_file_ends_inside_reads_as_in_qemu() {
    if !tools_are_here() {
        return;
    }
    let sound = sound();
    let expected = diff(&read(&sound)).expect("sound");
    for (what, move_to_end) in LAST {
        let mut raw = sound.clone();
        let start = move_to_end(&mut raw);
        let end = raw.len_without_zeros().max(start + 1);
        assert!(end < raw.bytes.len(), "{what} is full: the test tests nothing");
        for len in [end, end.next_multiple_of(512), raw.bytes.len() - 1] {
            let folder = crate::support::folder();
            let path = folder.path().join("short.qcow2");
            let case = format!("{what}, {} of {} bytes", len - start, raw.bytes.len() - start);
            std::fs::write(&path, &raw.bytes[..len]).expect("the image can be written");
            assert_eq!(check(&path), Some(0), "{case}: QEMU finds it sound");
            let image = Image::open(&path, &unlocked(Access::Read)).unwrap_or_else(|error| panic!("{case}: {error}"));
            let report = image.check(&mut Unobserved).unwrap_or_else(|error| panic!("{case}: {error}"));
            assert!(report.problems.is_empty(), "{case}: {report:?}");
            assert_eq!(diff(&image).unwrap_or_else(|error| panic!("{case}: {error}")), expected, "{case}");
            drop(image);
            create(&path).unwrap_or_else(|error| panic!("{case}: {error}"));
            assert_eq!(check(&path), Some(0), "{case}: after a create");
            change(&path, |image| image.plan_delete(b"2", false, Layers::TopOnly, None))
                .unwrap_or_else(|error| panic!("{case}: {error}"));
            assert_eq!(check(&path), Some(0), "{case}: after a delete");
            crate::support::qemu_io(
                &path,
                &[
                    "read -P 5 0 64k".into(),
                    "read -P 6 20M 4k".into(),
                    "read -P 7 1M 4k".into(),
                    "read -P 8 2M 4k".into(),
                    "write -P 9 3M 4k".into(),
                ],
            );
            let extents: Vec<_> = expected.extents(0, u64::MAX).collect();
            assert_eq!(nbd::dirty(&path, "1"), extents, "{case}");
            assert_eq!(check(&path), Some(0), "{case}: after QEMU wrote");
        }
    }
}

fn read(raw: &Raw) -> Image {
    let storage = std::sync::Arc::new(crate::support::memory::Memory::new(raw.bytes.clone()));
    crate::support::memory::open(&storage, Access::Read).expect("it opens")
}

#[test]
fn a_table_of_which_the_file_has_nothing_is_damaged() {
    if !tools_are_here() {
        return;
    }
    let sound = sound();
    // An L1 table is smaller than a cluster here, and QEMU takes it for zeros.
    for (what, move_to_end) in LAST.into_iter().filter(|(what, _)| !what.contains("L1")) {
        let mut raw = sound.clone();
        let start = move_to_end(&mut raw);
        raw.bytes.truncate(start);
        let folder = crate::support::folder();
        let path = folder.path().join("short.qcow2");
        std::fs::write(&path, &raw.bytes).expect("the image can be written");
        assert_ne!(check(&path), Some(0), "{what}: QEMU finds damage, too");
        let error = create(&path).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Damaged, "{what}: {error}");
        assert_eq!(error.offset(), Some(start as u64), "{what}: {error}");
        assert!(error.way_out().is_some(), "{what}: {error}");
        assert!(raw == Raw::read(&path), "{what}: the refusal changed the image");
    }
}

/// A device: it does not grow.
#[derive(Debug)]
struct Device(crate::support::memory::Memory);

impl checkmap::io::Storage for Device {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        assert!(offset + bytes.len() as u64 <= self.0.len_bytes()?, "a write past the end of the device");
        self.0.write_at(bytes, offset)
    }

    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn truncate(&self, _: u64) -> std::io::Result<()> {
        Ok(())
    }

    fn len_bytes(&self) -> std::io::Result<u64> {
        self.0.len_bytes()
    }

    fn can_grow(&self) -> bool {
        false
    }
}

fn create_on(device: &std::sync::Arc<Device>) -> checkmap::Result<()> {
    let mut image = crate::support::memory::open(device, Access::Write)?;
    let plan = image.plan_create(b"new", None, None)?;
    image.commit(&plan, &mut Unobserved).map(drop)
}

#[test]
fn a_device_that_ends_inside_a_table_is_written_only_where_it_can_be() {
    if !tools_are_here() {
        return;
    }
    for (what, move_to_end) in LAST {
        let mut raw = sound();
        let start = move_to_end(&mut raw);
        // The clusters that the table left, and some more, are free.
        raw.bytes.truncate(raw.len_without_zeros().max(start + 1).next_multiple_of(512));
        let device = std::sync::Arc::new(Device(crate::support::memory::Memory::new(raw.bytes.clone())));
        match create_on(&device) {
            Ok(()) => {
                let folder = crate::support::folder();
                let path = folder.path().join("device.qcow2");
                std::fs::write(&path, device.0.bytes()).expect("the image can be written");
                assert_eq!(check(&path), Some(0), "{what}");
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{what}: {error}");
                assert!(device.0.holds(&raw.bytes), "{what}: the refusal changed the device");
            }
        }
    }
}

#[test]
fn a_refcount_that_a_device_has_no_place_for_is_a_refusal() {
    if !tools_are_here() {
        return;
    }
    // A block of 512 refcounts of which the device has the first 64: these are taken, and the others read as zeros.
    let mut raw = Raw::read(&TestImage::create("cluster_size=4k,refcount_bits=64", "1M").path);
    let (block, next_block) = (520, 60);
    raw.bytes.resize(521 * CLUSTER, 0);
    for number in 0..64 {
        raw.put_u64(block * CLUSTER + 8 * number, 1);
    }
    raw.put_u64(next_block * CLUSTER + 8 * (block - 512), 1);
    let table = raw.refcount_table();
    raw.put_u64(table, (block * CLUSTER) as u64);
    raw.put_u64(table + 8, (next_block * CLUSTER) as u64);
    raw.bytes.truncate(block * CLUSTER + 512);
    let device = std::sync::Arc::new(Device(crate::support::memory::Memory::new(raw.bytes.clone())));
    let error = create_on(&device).expect_err("the device has no place for the refcount of a free cluster");
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert!(error.way_out().is_some(), "{error}");
    assert!(device.0.holds(&raw.bytes), "the refusal changed the device");
    // A file has one.
    let folder = crate::support::folder();
    let path = folder.path().join("file.qcow2");
    std::fs::write(&path, &raw.bytes).expect("the image can be written");
    assert_eq!(check(&path), Some(3), "QEMU finds nothing but clusters that nothing uses");
    create(&path).expect("the file grows");
    assert_eq!(check(&path), Some(3), "after a create");
}

#[test]
fn an_empty_l1_table_need_not_be_in_the_file() {
    if !tools_are_here() {
        return;
    }
    let image = TestImage::create("", "1G");
    let mut raw = Raw::read(&image.path);
    raw.bytes.truncate(raw.l1());
    std::fs::write(&image.path, &raw.bytes).expect("the image can be written");
    image.assert_clean("the L1 table was cut off");
    create(&image.path).expect("QEMU opens it");
    image.assert_clean("a create");
    image.write(5 << 20, 1);
    assert_eq!(nbd::dirty(&image.path, "new"), [checkmap::Extent { offset: 5 << 20, len_bytes: 65536 }]);
    image.assert_clean("a write");
}

#[test]
fn the_data_of_a_bitmap_that_the_file_ends_inside_is_never_taken_for_clean() {
    if !tools_are_here() {
        return;
    }
    let mut raw = sound();
    // The disk has 131072 granules: the first of the table's entries has a whole cluster of them.
    let start = raw.move_to_end(raw.table(0), CLUSTER);
    for (len, readable) in [(CLUSTER, true), (CLUSTER - 1, false), (512, false), (0, false)] {
        let mut cut = raw.clone();
        cut.bytes.truncate(start + len);
        let bits = read(&cut).read_bitmap(&Name::new("1"), 0, u64::MAX);
        assert_eq!(bits.is_ok(), readable, "{len} bytes: {bits:?}");
    }
    // What stands for no granule need not be there.
    let mut raw = crate::bases::Base::Clusters4K.raw();
    raw.bytes.resize(raw.bytes.len().next_multiple_of(CLUSTER), 0);
    let start = raw.move_to_end(raw.table(0), CLUSTER);
    for (len, readable) in [(CLUSTER, true), (512, true), (25, true), (24, false)] {
        let mut cut = raw.clone();
        cut.bytes.truncate(start + len);
        let bits = read(&cut).read_bitmap(&Name::new("1"), 0, u64::MAX);
        assert_eq!(bits.is_ok(), readable, "{len} bytes: {bits:?}");
    }
}

#[test]
fn a_file_shorter_than_its_first_cluster_opens_as_in_qemu_and_is_never_written() {
    if !tools_are_here() {
        return;
    }
    let image = TestImage::create("", "1G");
    let whole = Raw::read(&image.path);
    for len in [103, 104, 112, 511, 512, 65535] {
        let short = &whole.bytes[..len];
        std::fs::write(&image.path, short).expect("the image can be written");
        let path = image.path.to_str().expect("UTF-8");
        let qemu = try_run("qemu-img", &["info", path]).status.success();
        let ours = Image::open(&image.path, &unlocked(Access::Read));
        assert_eq!(ours.is_ok(), qemu, "{len} bytes: {:?}", ours.err());
        if let Ok(ours) = ours {
            assert_eq!(ours.virtual_size(), 1 << 30, "{len} bytes");
        }
        assert!(create(&image.path).is_err(), "{len} bytes: nothing counts the clusters");
        assert_eq!(std::fs::read(&image.path).expect("readable"), short, "{len} bytes");
    }
}
