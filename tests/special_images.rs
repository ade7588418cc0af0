//! Images and places that are not a plain file: devices, encryption, raw data files, disks beyond 16 TiB; and the locks,
//! byte for byte those that QEMU takes.

mod support;

use checkmap::image::{Access, Layers, OpenOptions};
use checkmap::progress::Unobserved;
use checkmap::{ErrorKind, Granularity, Image};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use support::raw::Raw;
use support::{TestImage, nbd, run, try_run};

fn open(path: &Path, access: Access) -> checkmap::Result<Image> {
    Image::open(path, &OpenOptions::new(access))
}

fn create(path: &Path, name: &str) -> checkmap::Result<()> {
    let mut image = open(path, Access::Write)?;
    let plan = image.plan_create(name.as_bytes(), None, None)?;
    assert_eq!(image.commit(&plan, &mut Unobserved)?, Vec::<String>::new());
    Ok(())
}

fn delete(path: &Path, name: &str) -> checkmap::Result<()> {
    let mut image = open(path, Access::Write)?;
    let plan = image.plan_delete(name.as_bytes(), false, Layers::Check, None)?;
    assert_eq!(image.commit(&plan, &mut Unobserved)?, Vec::<String>::new());
    Ok(())
}

/// A loop device over a file of its own; it goes away with the test.
struct LoopDevice {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl LoopDevice {
    /// `None`, loudly, where this system gives no loop devices: to a user who is not root, in a closed container.
    fn new(len_bytes: u64) -> Option<Self> {
        let folder = support::folder();
        let file = folder.path().join("device");
        fs::File::create(&file).and_then(|file| file.set_len(len_bytes)).expect("a file for the device");
        let made = Command::new("losetup").args(["--find", "--show"]).arg(&file).output();
        match made {
            Ok(made) if made.status.success() => {
                let path = PathBuf::from(String::from_utf8_lossy(&made.stdout).trim());
                Some(Self { path, _folder: folder })
            }
            made => {
                eprintln!("SKIPPED, NOT PASSED: no loop device: {made:?}");
                None
            }
        }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.path).status();
    }
}

#[test]
fn a_block_device_is_an_image_like_any_other_until_it_is_full() {
    if !support::tools_are_here() {
        return;
    }
    let Some(device) = LoopDevice::new(1 << 20) else { return };
    let path = device.path.as_path();
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", path.to_str().expect("UTF-8"), "512k"]);
    create(path, "1").expect("there is room");
    support::qemu_io(path, &["write -P 1 0 200k".into()]);
    create(path, "2").expect("there is room");
    support::qemu_io(path, &["write -P 1 200k 100k".into()]);
    assert_eq!(nbd::dirty(path, "1"), [checkmap::Extent { offset: 0, len_bytes: 200 << 10 }]);
    assert_eq!(nbd::dirty(path, "1->2"), [checkmap::Extent { offset: 200 << 10, len_bytes: 100 << 10 }]);
    delete(path, "2").expect("there is room");
    assert_eq!(nbd::dirty(path, "1"), [checkmap::Extent { offset: 0, len_bytes: 300 << 10 }]);

    let mut last = None;
    for number in 3..400 {
        let before = fs::read(path).expect("the device can be read");
        if let Err(error) = create(path, &format!("{number}{}", "x".repeat(400))) {
            assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
            assert!(before == fs::read(path).expect("the device can be read"), "a full device was changed");
            last = Some(number);
            break;
        }
    }
    assert!(last.is_some(), "the device never became full");
    let check = try_run("qemu-img", &["check", "-f", "qcow2", path.to_str().expect("UTF-8")]);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}

#[test]
fn a_block_device_that_ends_inside_a_table_is_an_image_like_any_other() {
    if !support::tools_are_here() {
        return;
    }
    let image = TestImage::create("", "1G");
    image.io(&["write -P 5 3M 64k".into()]);
    let mut raw = Raw::read(&image.path);
    raw.bytes.resize(12 * 65536, 0);
    let start = raw.move_to_end(support::raw::L1_OFFSET, 16);
    raw.bytes.truncate(start + 512);
    let Some(device) = LoopDevice::new(raw.bytes.len() as u64) else { return };
    let path = device.path.as_path();
    fs::write(path, &raw.bytes).expect("the device can be written");
    let check = |when: &str| {
        let check = try_run("qemu-img", &["check", "-f", "qcow2", path.to_str().expect("UTF-8")]);
        assert!(check.status.success(), "{when}: {}", String::from_utf8_lossy(&check.stdout));
        let report = open(path, Access::Read).expect("it opens").check(&mut Unobserved).expect("the check runs");
        assert!(report.problems.is_empty(), "{when}: {report:?}");
    };
    check("as it is");
    create(path, "1").expect("there is room");
    check("after a create");
    support::qemu_io(path, &["read -P 5 3M 64k".into(), "write -P 6 3M 512".into()]);
    assert_eq!(nbd::dirty(path, "1"), [checkmap::Extent { offset: 3 << 20, len_bytes: 65536 }]);
    delete(path, "1").expect("there is room");
    check("after a delete");
}

#[test]
fn no_room_in_the_header_cluster_is_a_refusal_that_a_rehearsal_foresees() {
    if !support::tools_are_here() {
        return;
    }
    let image = TestImage::create("cluster_size=512", "1M");
    let base = "./".repeat(178) + "base";
    fs::write(image.folder.path().join("base"), vec![0; 1 << 20]).expect("a base");
    let path = image.path.to_str().expect("UTF-8");
    run("qemu-img", &["rebase", "-u", "-F", "raw", "-b", &base, path]);
    let before = fs::read(&image.path).expect("readable");
    let mut opened = open(&image.path, Access::Write).expect("it opens");
    let plan = opened.plan_create(b"1", None, None).expect("the plan alone is fine");
    assert_eq!(opened.rehearse(&plan, &mut Unobserved).expect_err("no room").kind(), ErrorKind::CannotStore);
    assert_eq!(opened.commit(&plan, &mut Unobserved).expect_err("no room").kind(), ErrorKind::CannotStore);
    drop(opened);
    assert_eq!(fs::read(&image.path).expect("readable").len(), before.len());
    image.assert_clean("a refusal");
}

#[test]
fn an_encrypted_image_keeps_its_secret_and_gets_its_bitmaps() {
    if !support::tools_are_here() {
        return;
    }
    let folder = support::folder();
    let path = folder.path().join("secret.qcow2");
    let path_text = path.to_str().expect("UTF-8");
    let secret = ["--object", "secret,id=key,data=opensesame"];
    let format = ["-f", "qcow2", "-o", "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10"];
    run("qemu-img", &[&["create", "-q"], &secret[..], &format[..], &[path_text, "1M"]].concat());
    let image = format!("driver=qcow2,file.filename={path_text},encrypt.key-secret=key");
    let io = |command: &str| run("qemu-io", &[&secret[..], &["--image-opts", &image, "-c", command]].concat());
    create(&path, "1").expect("only metadata is touched");
    io("write -P 9 65536 65536");
    create(&path, "2").expect("only metadata is touched");
    io("write -P 9 262144 512");
    let bitmap = |name: &str| {
        let image = open(&path, Access::Read).expect("it opens");
        let bitmap = image.read_bitmap(&checkmap::chain::Name::new(name), 0, u64::MAX).expect("readable");
        bitmap.extents(0, u64::MAX).map(|extent| (extent.offset, extent.len_bytes)).collect::<Vec<_>>()
    };
    assert_eq!((bitmap("1"), bitmap("1->2")), (vec![(65536, 65536)], vec![(262_144, 65536)]));
    delete(&path, "2").expect("only metadata is touched");
    assert!(io("read -P 9 65536 65536").contains("read 65536/65536"));
    let checked = run("qemu-img", &[&["check"], &secret[..], &["--image-opts", &image]].concat());
    assert!(checked.contains("No errors"), "{checked}");
    let report = || open(&path, Access::Read).expect("it opens").check(&mut Unobserved).expect("the check runs");
    assert!(report().problems.is_empty(), "{:?}", report());

    // The encryption header in a last cluster that the file does not fill.
    let mut raw = Raw::read(&path);
    let place = raw.extension_of(0x0537_be77) + 8;
    let len = usize::try_from(raw.u64(place + 8)).expect("short");
    raw.move_to_end(place, len);
    let end = raw.len_without_zeros().max(raw.bytes.len() - 65536 + 1);
    assert_ne!(end, raw.bytes.len(), "nothing can be cut: the test tests nothing");
    raw.bytes.truncate(end);
    fs::write(&path, &raw.bytes).expect("the image can be written");
    let check = || run("qemu-img", &[&["check"], &secret[..], &["--image-opts", &image]].concat());
    assert!(check().contains("No errors"));
    assert!(report().problems.is_empty(), "{:?}", report());
    create(&path, "3").expect("only metadata is touched");
    assert!(check().contains("No errors"));
    assert!(io("read -P 9 65536 65536").contains("read 65536/65536"));
}

#[test]
fn a_disk_beyond_16_tib_gets_the_granularity_that_qcow2_can_store() {
    if !support::tools_are_here() {
        return;
    }
    let image = TestImage::create("", "300T");
    create(&image.path, "1").expect("a coarser granularity fits");
    assert_eq!(image.qemu_bitmaps()[0].granularity, 128 << 10);
    let end = 300_u64 << 40;
    image.write(end - 512, 512);
    assert_eq!(nbd::dirty(&image.path, "1"), [checkmap::Extent { offset: end - (128 << 10), len_bytes: 128 << 10 }]);
    let opened = open(&image.path, Access::Write).expect("it opens");
    let refused = opened.plan_create(b"2", Some(Granularity::from_bytes(65536).expect("valid")), None);
    assert_eq!(refused.expect_err("above 512 MiB").kind(), ErrorKind::InvalidArgument);
    drop(opened);
    image.assert_clean("a checkpoint on 300 TiB");
}

#[test]
fn raw_external_data_keeps_its_autoclear_bit() {
    if !support::tools_are_here() {
        return;
    }
    let image = TestImage::create("data_file=here,data_file_raw=on", "1M");
    create(&image.path, "1").expect("it can be written");
    assert_eq!(fs::read(&image.path).expect("readable")[95], 0b11);
    delete(&image.path, "1").expect("it can be written");
    assert_eq!(fs::read(&image.path).expect("readable")[95], 0b10);
    image.assert_clean("the last bitmap went");
}

#[test]
fn a_bitmap_in_a_lower_layer_is_never_silently_left_out() {
    if !support::tools_are_here() {
        return;
    }
    let base = TestImage::create("", "1M");
    base.bitmap(&["--add"], "1");
    let top = base.folder.path().join("top.qcow2");
    let text = top.to_str().expect("UTF-8");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "disk.qcow2", "-F", "qcow2", text]);
    assert_eq!(create(&top, "1").expect_err("the base has a checkpoint 1").kind(), ErrorKind::Exists);
    run("qemu-img", &["bitmap", "--add", text, "1"]);
    create(&top, "2").expect("create on an overlay is fine");
    assert_eq!(delete(&top, "1").expect_err("the base has a bitmap 1").kind(), ErrorKind::BackingLayer);
    let mut image = open(&top, Access::Write).expect("it opens");
    let refused = image.plan_rename(b"1", b"one", Layers::Check, None).expect_err("the base has a bitmap 1");
    assert!(refused.to_string().contains("disk.qcow2"), "{refused}");
    let plan = image.plan_rename(b"1", b"one", Layers::TopOnly, None).expect("the caller insists");
    image.commit(&plan, &mut Unobserved).expect("it can be written");
    drop(image);
    fs::remove_file(&base.path).expect("the base goes");
    assert_eq!(delete(&top, "2").expect_err("the base cannot be read").kind(), ErrorKind::BackingLayer);
}

#[test]
fn a_lower_layer_that_is_not_what_the_upper_one_says_cannot_be_read() {
    if !support::tools_are_here() {
        return;
    }
    let base = TestImage::create("", "1M");
    let top = base.folder.path().join("top.qcow2");
    let overlay = |name: &str, format: &str| {
        let top = top.to_str().expect("UTF-8");
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", format, top, "1M"]);
    };
    let delete = || delete(&top, "1").map_err(|error| error.kind());
    overlay("disk.qcow2", "qcow2");
    create(&top, "1").expect("create does not look below");
    assert_eq!(delete(), Ok(()), "the base has no bitmaps");
    // QEMU looks for the rest of `file:` where it runs, not beside the overlay.
    overlay("file:disk.qcow2", "qcow2");
    create(&top, "1").expect("create does not look below");
    assert_eq!(delete(), Err(ErrorKind::BackingLayer));
    overlay("disk.qcow2", "qcow2");
    create(&top, "1").expect("create does not look below");
    fs::write(&base.path, vec![0; 1 << 20]).expect("the base is destroyed");
    assert_eq!(delete(), Err(ErrorKind::BackingLayer));
    overlay("disk.qcow2", "raw");
    create(&top, "1").expect("create does not look below");
    assert_eq!(delete(), Ok(()), "a raw base has no bitmaps, whatever its bytes are");
}

#[test]
fn a_plan_for_other_bitmaps_is_refused() {
    if !support::tools_are_here() {
        return;
    }
    let image = TestImage::create("", "1M");
    create(&image.path, "1").expect("it can be written");
    let mut opened = open(&image.path, Access::Write).expect("it opens");
    let plans = [b"2", b"3"].map(|name| opened.plan_create(name, None, None).expect("a plan"));
    opened.commit(&plans[0], &mut Unobserved).expect("the first is for these bitmaps");
    assert_eq!(opened.commit(&plans[1], &mut Unobserved).expect_err("no longer").kind(), ErrorKind::Changed);
    assert_eq!(opened.bitmaps().len(), 2);
}

/// The lock bytes that processes hold on a file, as the kernel lists them.
fn lock_bytes(path: &Path) -> Vec<u64> {
    let inode = fs::metadata(path).expect("the file is there").ino();
    let locks = fs::read_to_string("/proc/locks").expect("the kernel lists its locks");
    let mut bytes = Vec::new();
    for line in locks.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let ours = fields.iter().any(|field| field.ends_with(&format!(":{inode}")));
        if ours && fields.contains(&"OFDLCK") && fields.contains(&"READ") {
            let range: Vec<u64> = fields.iter().rev().take(2).filter_map(|field| field.parse().ok()).collect();
            bytes.extend(range[1]..=range[0]);
        }
    }
    bytes.sort_unstable();
    bytes
}

/// A qemu-io that keeps an image open until it is dropped.
struct Holder(Child);

impl Holder {
    fn open(path: &Path, read_only: bool) -> Self {
        let mut command = Command::new("qemu-io");
        if read_only {
            command.arg("-r");
        }
        let child = command.arg(path).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("qemu-io starts");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while lock_bytes(path).len() < 3 {
            assert!(std::time::Instant::now() < deadline, "qemu-io never took its locks");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn our_locks_are_qemus_to_the_byte_and_each_refuses_while_the_other_writes() {
    if !support::tools_are_here() {
        return;
    }
    let image = TestImage::create("", "1M");
    let path = image.path.as_path();
    let kind = |access| open(path, access).err().map(|error| error.kind());

    let writer = Holder::open(path, false);
    let qemu_writes = lock_bytes(path);
    assert_eq!(kind(Access::Read), Some(ErrorKind::InUse));
    assert_eq!(kind(Access::Write), Some(ErrorKind::InUse));
    assert!(open(path, Access::Names).expect("names need no locks").is_held_by_writer());
    drop(writer);
    let reader = Holder::open(path, true);
    let qemu_reads = lock_bytes(path);
    assert_eq!(kind(Access::Read), None);
    assert_eq!(kind(Access::Write), Some(ErrorKind::InUse));
    drop(reader);

    let ours = open(path, Access::Write).expect("nobody is there");
    assert_eq!(lock_bytes(path), qemu_writes);
    assert_eq!(qemu_writes, [100, 101, 103, 201, 203]);
    assert!(!try_run("qemu-io", &["-r", "-c", "read 0 512", path.to_str().expect("UTF-8")]).status.success());
    assert!(!try_run("qemu-img", &["info", path.to_str().expect("UTF-8")]).status.success());
    assert_eq!(kind(Access::Read), Some(ErrorKind::InUse), "a second descriptor of this process is as any other");
    drop(ours);
    let ours = open(path, Access::Read).expect("nobody is there");
    assert_eq!(lock_bytes(path), qemu_reads);
    assert_eq!(qemu_reads, [100, 201, 203]);
    assert!(!try_run("qemu-io", &["-c", "write 0 512", path.to_str().expect("UTF-8")]).status.success());
    assert!(nbd::opens_in_qemu(path), "readers share");
    drop(ours);
    assert_eq!(lock_bytes(path), Vec::<u64>::new());
}
