//! Header fields that QEMU normalises, ignores or compares before it uses them: whatever the field, we open what QEMU opens,
//! and see the same disk.

use crate::support::raw::{self, Raw};
use crate::support::{TestImage, folder, nbd, qemu_bitmaps, run, tools_are_here, try_run};
use crate::table::unlocked;
use checkmap::image::{Access, Layers};
use checkmap::progress::Unobserved;
use checkmap::{ErrorKind, Image};
use std::path::Path;

const FORMAT: u32 = 0xe279_2aca;
const DATA_FILE: u32 = 0x4441_5441;
const CRYPTO: u32 = 0x0537_be77;
const BITMAPS: u32 = 0x2385_2875;
const UNKNOWN: u32 = 0x1234_5678;
const COMPATIBLE: usize = 80;
const ENCRYPTION: usize = 32;
const COMPRESSION: usize = 104;

/// What opening an image tells.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    size: u64,
    backing: Option<String>,
    data_file: Option<String>,
    bitmaps: Vec<String>,
}

fn qemus(path: &Path) -> Option<Facts> {
    let told = try_run("qemu-img", &["info".as_ref(), "--output=json".as_ref(), path.as_os_str()]);
    if !told.status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    let info: serde_json::Value = serde_json::from_str(&text).expect("qemu-img prints JSON");
    let special = &info["format-specific"]["data"];
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let bitmaps = special["bitmaps"].as_array().map_or(&[][..], Vec::as_slice);
    Some(Facts {
        size: info["virtual-size"].as_u64().expect("a size"),
        backing: text(&info["backing-filename"]),
        data_file: text(&special["data-file"]),
        bitmaps: bitmaps.iter().filter_map(|bitmap| text(&bitmap["name"])).collect(),
    })
}

fn ours(path: &Path) -> Option<Facts> {
    let image = Image::open(path, &unlocked(Access::Read)).ok()?;
    let stale = match image.trouble().map(checkmap::Error::kind) {
        Some(ErrorKind::Damaged) => return None,
        trouble => trouble.is_some(),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let bitmaps = image.bitmaps();
    let bitmaps = bitmaps.iter().filter(|_| !stale).map(|state| text(state.name.as_bytes())).collect();
    Some(Facts {
        size: image.virtual_size(),
        backing: image.backing_file().map(text),
        data_file: image.data_file().map(text),
        bitmaps,
    })
}

/// An image of 1 MiB as QEMU makes it, with a header of 104 bytes and no extensions.
fn plain(options: &str) -> Raw {
    let mut raw = Raw::read(&TestImage::create(options, "1M").path);
    raw.set_header_len(104);
    raw
}

type Case = (&'static str, fn(&mut Raw));

fn compare(options: &str, cases: &[Case]) {
    let plain = plain(options);
    let folder = folder();
    let path = folder.path().join("disk.qcow2");
    let mut failures = Vec::new();
    for (case, change) in cases {
        let mut raw = plain.clone();
        change(&mut raw);
        std::fs::write(&path, &raw.bytes).expect("the image can be written");
        let (qemus, ours) = (qemus(&path), ours(&path));
        if qemus != ours {
            failures.push(format!("{case}: QEMU {qemus:?}, we {ours:?}"));
        }
        assert!(raw == Raw::read(&path), "{case}: reading changed the image");
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

#[test]
fn every_field_is_taken_as_qemu_takes_it() {
    if !tools_are_here() {
        return;
    }
    compare(
        "",
        &[
            ("a size of a sector and a half", |raw| raw.put_u64(raw::DISK_SIZE, 768)),
            ("a size below a sector", |raw| raw.put_u64(raw::DISK_SIZE, 511)),
            ("a size of nothing", |raw| raw.put_u64(raw::DISK_SIZE, 0)),
            ("a size for which the L1 table is just large enough", |raw| raw.put_u64(raw::DISK_SIZE, 512 << 20)),
            ("a size whose last bytes need another L1 entry", |raw| raw.put_u64(raw::DISK_SIZE, (512 << 20) + 100)),
            ("no L1 table", |raw| raw.put_u32(raw::L1_ENTRIES, 0)),
            ("a longer L1 table", |raw| raw.put_u32(raw::L1_ENTRIES, 7)),
            ("a header of 105 bytes", |raw| raw.set_header_len(105)),
            ("a header of 108 bytes", |raw| raw.set_header_len(108)),
            ("a header of 200 bytes", |raw| raw.set_header_len(200)),
            ("a header of the whole cluster", |raw| raw.set_header_len(65536)),
            ("a header of all but 4 bytes of the cluster", |raw| raw.set_header_len(65532)),
            ("a header beyond the cluster", |raw| raw.set_header_len(65544)),
            ("unknown bytes in a longer header", |raw| {
                raw.set_header_len(200);
                raw.put(112, &[7; 88]);
            }),
            ("zstd, announced", |raw| {
                raw.set_header_len(112);
                raw.put(COMPRESSION, &[1]);
                raw.put_u64(raw::INCOMPATIBLE, 8);
            }),
            ("zstd, not announced", |raw| {
                raw.set_header_len(112);
                raw.put(COMPRESSION, &[1]);
            }),
            ("zlib, announced", |raw| raw.put_u64(raw::INCOMPATIBLE, 8)),
            ("a compression type in a header that ends before it", |raw| raw.put(COMPRESSION, &[0, 0, 0, 0, 1])),
            ("an unknown compression type", |raw| {
                raw.set_header_len(112);
                raw.put(COMPRESSION, &[2]);
                raw.put_u64(raw::INCOMPATIBLE, 8);
            }),
            ("no snapshots, their table out of step", |raw| raw.put_u64(raw::SNAPSHOTS_OFFSET, 0x208)),
            ("no snapshots, their table far away", |raw| raw.put_u64(raw::SNAPSHOTS_OFFSET, 1 << 40)),
            ("no snapshots, their table above 2^63", |raw| raw.put_u64(raw::SNAPSHOTS_OFFSET, 1 << 63)),
            ("an L1 table above 2^63", |raw| raw.put_u64(raw::L1_OFFSET, 1 << 63)),
            ("a refcount table above 2^63", |raw| raw.put_u64(raw::REFCOUNT_TABLE, 1 << 63)),
            ("unknown compatible features", |raw| raw.put_u64(COMPATIBLE, 0xfff0)),
            ("unknown autoclear features", |raw| raw.put_u64(raw::AUTOCLEAR, 0xfff0)),
            ("bitmaps promised by the autoclear bit alone", |raw| raw.put_u64(raw::AUTOCLEAR, 1)),
            ("encryption of an unknown method", |raw| raw.put_u32(ENCRYPTION, 3)),
            ("LUKS without a place", |raw| raw.put_u32(ENCRYPTION, 2)),
            ("AES", |raw| raw.put_u32(ENCRYPTION, 1)),
        ],
    );
}

#[test]
fn every_extension_and_name_is_taken_as_qemu_takes_it() {
    if !tools_are_here() {
        return;
    }
    let crypto = |offset: u64| [offset.to_be_bytes(), 4096_u64.to_be_bytes()].concat();
    assert_eq!(crypto(65536).len(), 16);
    compare(
        "cluster_size=4k",
        &[
            ("a place of an encryption header without encryption", |raw| {
                raw.set_extensions(&[(CRYPTO, [4096_u64.to_be_bytes(), 4096_u64.to_be_bytes()].concat())]);
            }),
            ("extensions up to the end of the cluster", |raw| raw.set_extensions(&[(UNKNOWN, vec![1; 4096 - 112])])),
            ("extensions that end 8 bytes earlier", |raw| raw.set_extensions(&[(UNKNOWN, vec![1; 4096 - 120])])),
            ("an end marker with a length", |raw| raw.put_u32(108, 77)),
            ("an end marker with a length beyond the cluster", |raw| raw.put_u32(108, 4096)),
            ("an extension one byte too long", |raw| {
                raw.set_extensions(&[(UNKNOWN, vec![1; 4096 - 112])]);
                raw.put_u32(108, 4096 - 111);
            }),
            ("a bitmaps extension of 16 bytes that is out of date", |raw| {
                raw.set_extensions(&[(BITMAPS, vec![0; 16])])
            }),
            ("a bitmaps extension without bitmaps that is out of date", |raw| {
                raw.set_extensions(&[(BITMAPS, vec![0; 24])]);
            }),
            ("a name at offset 0", |raw| raw.put_u32(raw::BACKING_LEN, 5)),
            ("an empty name that ends the extensions", |raw| {
                raw.set_extensions(&[(UNKNOWN, vec![1; 150])]);
                raw.put_u64(raw::BACKING_OFFSET, 200);
            }),
            ("an empty name behind the extensions", |raw| {
                raw.set_extensions(&[(UNKNOWN, vec![1; 50])]);
                raw.put_u64(raw::BACKING_OFFSET, 200);
            }),
            ("an empty name at the end of the cluster", |raw| raw.put_u64(raw::BACKING_OFFSET, 4096)),
            ("an empty name past the end of the cluster", |raw| raw.put_u64(raw::BACKING_OFFSET, 4104)),
            ("a name inside the fields", |raw| {
                raw.put_u64(raw::BACKING_OFFSET, 4);
                raw.put_u32(raw::BACKING_LEN, 3);
            }),
            ("a name with a NUL", |raw| raw.set_backing_name(200, b"base\0rest")),
            ("a name that begins with a NUL", |raw| raw.set_backing_name(200, b"\0rest")),
            ("a name of 1023 bytes", |raw| raw.set_backing_name(200, &[b'b'; 1023])),
            ("a name of 1024 bytes", |raw| raw.set_backing_name(200, &[b'b'; 1024])),
            ("a name right behind the extensions", |raw| {
                raw.set_extensions(&[(FORMAT, b"raw".to_vec())]);
                raw.set_backing_name(120, b"base");
            }),
            ("a name 4 bytes behind the extensions", |raw| {
                raw.set_extensions(&[(FORMAT, b"raw".to_vec())]);
                raw.set_backing_name(124, b"base");
            }),
            ("a name in the padding of the last extension", |raw| {
                raw.set_extensions(&[(UNKNOWN, vec![1; 9])]);
                raw.set_backing_name(121, b"base");
            }),
            ("a format of 15 bytes", |raw| {
                raw.set_extensions(&[(FORMAT, vec![b'f'; 15])]);
                raw.set_backing_name(200, b"base");
            }),
            ("a format of 16 bytes", |raw| {
                raw.set_extensions(&[(FORMAT, vec![b'f'; 16])]);
                raw.set_backing_name(200, b"base");
            }),
            ("two names of a data file", |raw| {
                raw.set_extensions(&[(DATA_FILE, b"one".to_vec()), (DATA_FILE, b"two".to_vec())]);
                raw.put_u64(raw::INCOMPATIBLE, 4);
            }),
            ("a data file's name with a NUL", |raw| {
                raw.set_extensions(&[(DATA_FILE, b"one\0two".to_vec())]);
                raw.put_u64(raw::INCOMPATIBLE, 4);
            }),
            ("a data file's name without its feature bit", |raw| raw.set_extensions(&[(DATA_FILE, b"one".to_vec())])),
        ],
    );
}

#[test]
fn version_2_has_no_fields_past_72_bytes() {
    if !tools_are_here() {
        return;
    }
    let make = |change: Case| {
        let mut raw = Raw::read(&TestImage::create("compat=0.10", "1M").path);
        raw.bytes[72..65536].fill(0);
        (change.1)(&mut raw);
        (change.0, raw)
    };
    let folder = folder();
    let path = folder.path().join("disk.qcow2");
    for (case, raw) in [
        make(("garbage behind the end marker", |raw| raw.put(80, &[0xff; 40]))),
        make(("a format where version 3 has its features", |raw| {
            raw.put(72, &[&FORMAT.to_be_bytes()[..], &[0, 0, 0, 3], b"raw"].concat());
            raw.set_backing_name(200, b"base");
        })),
        make(("an extension that leaves the header", |raw| raw.put(72, &[1, 2, 3, 4, 0, 1, 0, 0]))),
    ] {
        std::fs::write(&path, &raw.bytes).expect("the image can be written");
        assert_eq!(qemus(&path), ours(&path), "{case}");
    }
}

#[test]
fn of_two_backing_formats_the_last_counts() {
    if !tools_are_here() {
        return;
    }
    let (raw_last, qcow2_last) = ([b"qcow2".to_vec(), b"raw".to_vec()], [b"raw\0x".to_vec(), b"qcow2".to_vec()]);
    for (formats, qemu_opens) in [(raw_last, true), (qcow2_last, false)] {
        let image = TestImage::create("", "1M");
        // A bare file: raw, or a damaged qcow2 image.
        std::fs::write(image.folder.path().join("base"), vec![0; 1 << 20]).expect("a base");
        let mut raw = Raw::read(&image.path);
        raw.set_header_len(112);
        raw.set_extensions(&formats.map(|format| (FORMAT, format)));
        raw.set_backing_name(400, b"base");
        std::fs::write(&image.path, &raw.bytes).expect("the image can be written");
        let change = |plan: fn(&Image) -> checkmap::Result<checkmap::chain::Plan>| {
            let mut opened = Image::open(&image.path, &unlocked(Access::Write)).expect("it opens");
            plan(&opened).and_then(|plan| opened.commit(&plan, &mut Unobserved).map(drop))
        };
        change(|image| image.plan_create(b"1", None, None)).expect("create does not look below");
        let deleted = change(|image| image.plan_delete(b"1", false, Layers::Check, None));
        assert_eq!(deleted.is_ok(), qemu_opens, "{deleted:?}");
        let path = image.path.to_str().expect("UTF-8");
        assert_eq!(try_run("qemu-io", &["-c", "read 0 512", path]).status.success(), qemu_opens);
    }
}

/// The image whose header says `size`, in a file that QEMU made for whole sectors.
fn of_size(options: &str, size: u64) -> TestImage {
    let image = TestImage::create(options, &size.next_multiple_of(512).to_string());
    let mut raw = Raw::read(&image.path);
    raw.put_u64(raw::DISK_SIZE, size);
    std::fs::write(&image.path, &raw.bytes).expect("the image can be written");
    image
}

#[test]
fn a_bitmap_fits_the_disk_that_qemu_sees() {
    if !tools_are_here() {
        return;
    }
    let (kib, mib, tib) = (1_u64 << 10, 1_u64 << 20, 1_u64 << 40);
    for (options, size) in [
        ("", 512),
        ("", 612),
        ("", 1023),
        ("cluster_size=512", 3 * 4096 + 100),
        // The last bytes would need another entry of the table.
        ("cluster_size=512", 16 * mib + 100),
        ("cluster_size=512", 32 * mib + 511),
        ("cluster_size=4k", 128 * mib + 1),
        ("", 32 * 1024 * mib + 100),
        ("", 32 * 1024 * mib + 511),
        // One more granule would be none of the default granularity.
        ("", 256 * tib + 100),
        ("", 256 * tib + 65 * kib),
    ] {
        let case = format!("{size} bytes, {options}");
        let (image, qemus) = (of_size(options, size), of_size(options, size));
        let qemu = try_run("qemu-img", &["bitmap", "--add", qemus.path.to_str().expect("UTF-8"), "1"]);
        let mut opened = Image::open(&image.path, &unlocked(Access::Write)).expect("it opens");
        assert_eq!(opened.virtual_size(), size / 512 * 512, "{case}");
        let plan = opened.plan_create(b"1", None, None).unwrap_or_else(|error| panic!("{case}: {error}"));
        opened.commit(&plan, &mut Unobserved).unwrap_or_else(|error| panic!("{case}: {error}"));
        drop(opened);
        if qemu.status.success() {
            let (ours, theirs) = (qemu_bitmaps(&image.path), qemu_bitmaps(&qemus.path));
            assert_eq!(ours, theirs, "{case}");
            let entries = |image: &TestImage| {
                let raw = Raw::read(&image.path);
                raw.u32(raw.entry(0) + raw::ENTRY_TABLE_SIZE)
            };
            assert_eq!(entries(&image), entries(&qemus), "{case}");
        }
        let last = (size / 512 - 1) * 512;
        image.write(last, 512);
        image.assert_clean(&case);
        let granularity = qemu_bitmaps(&image.path)[0].granularity;
        let start = last / granularity * granularity;
        let len_bytes = size / 512 * 512 - start;
        assert_eq!(nbd::dirty(&image.path, "1"), [checkmap::Extent { offset: start, len_bytes }], "{case}");
        let opened = Image::open(&image.path, &unlocked(Access::Read)).expect("it opens");
        let report = opened.check(&mut Unobserved).expect("the check runs");
        assert!(report.problems.is_empty(), "{case}: {report:?}");
        drop(opened);
        if granularity << 32 < size + mib {
            // QEMU enlarges the disk, and has no room for the bitmap when it stores it.
            continue;
        }
        let path = image.path.to_str().expect("UTF-8");
        run("qemu-img", &["resize", "-q", path, "+1M"]);
        let opened = Image::open(&image.path, &unlocked(Access::Read)).expect("it opens");
        assert_eq!(opened.virtual_size(), size / 512 * 512 + mib, "{case}: after a resize");
        assert!(opened.check(&mut Unobserved).expect("the check runs").problems.is_empty(), "{case}: after a resize");
    }
}

#[test]
fn a_disk_below_one_sector_is_empty_and_gets_no_bitmap() {
    if !tools_are_here() {
        return;
    }
    for size in [1, 511] {
        let image = of_size("", size);
        let before = Raw::read(&image.path);
        let opened = Image::open(&image.path, &unlocked(Access::Write)).expect("it opens");
        assert_eq!(opened.virtual_size(), 0);
        let refused = opened.plan_create(b"1", None, None).expect_err("no granules");
        assert_eq!(refused.kind(), ErrorKind::CannotStore, "{refused}");
        drop(opened);
        assert!(before == Raw::read(&image.path));
        assert_eq!(qemus(&image.path).map(|facts| facts.size), Some(0));
    }
}
