//! Parallels images: the bits of their dirty bitmaps as QEMU reads them, the refusal of every change, and the reasons given for
//! images that break the rules.

mod support;

use checkmap::chain::{Name, Until};
use checkmap::image::{Access, DiffRequest, Image, OpenOptions};
use checkmap::progress::Unobserved;
use checkmap::{ErrorKind, Extent};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::nbd::Served;
use support::parallels::{self as hds, Hds};
use support::random::Random;
use support::{run, try_run};

/// An image in a folder that goes away with it.
struct OnDisk {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn on_disk(bytes: &[u8]) -> OnDisk {
    let folder = support::folder();
    let path = folder.path().join("disk.hds");
    std::fs::write(&path, bytes).expect("the image can be written");
    OnDisk { _folder: folder, path }
}

fn open(path: &Path) -> checkmap::Result<Image> {
    Image::open(path, &OpenOptions::new(Access::Read))
}

fn extents(image: &Image, name: &str, offset: u64, len_bytes: u64) -> checkmap::Result<Vec<Extent>> {
    let bitmap = image.read_bitmap(&Name::new(name), offset, len_bytes)?;
    bitmap.validate().expect("its own rules hold");
    Ok(bitmap.extents(offset, len_bytes).collect())
}

/// Runs checkmap; what it printed, what it said, and its status.
fn checkmap(words: &[&str]) -> (String, String, i32) {
    let output = Command::new(env!("CARGO_BIN_EXE_checkmap")).args(words).output().expect("checkmap runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (text(output.stdout), text(output.stderr), output.status.code().expect("it ends by itself"))
}

/// Bits in runs of every length, so that clusters without any, full ones and others are among them.
fn random_bits(random: &mut Random, granules: u64, longest: u64) -> Vec<u8> {
    let mut bits = vec![0; usize::try_from(granules.div_ceil(8)).expect("few")];
    let (mut at, mut is_dirty) = (0, random.chance(2));
    while at < granules {
        let len = 1 + random.below(longest);
        for granule in (at..(at + len).min(granules)).filter(|_| is_dirty) {
            bits[usize::try_from(granule / 8).expect("few")] |= 1 << (granule % 8);
        }
        (at, is_dirty) = (at + len, !is_dirty);
    }
    bits
}

/// Images of every shape, each with the lengths of the runs of its bits.
fn shapes() -> Vec<Hds> {
    let mut random = Random::seeded(19);
    let mut made = Vec::new();
    for (counts_clusters, cluster_sectors, sectors, granularities, longest) in [
        (true, 128, 8192_u64, &[128_u32, 1][..], 9_u64),
        (true, 2048, 1 << 15, &[8, 128, 2048, 1 << 22], 300),
        (false, 63, 63 * 500 + 17, &[1, 16], 40),
        (false, 504, 5040, &[64], 3),
        (true, 1, 30_011, &[1], 9000),
        (true, 8, (1 << 18) + 5, &[1, 2], 70_000),
        (true, 16, 1, &[8], 1),
    ] {
        let mut image = Hds { counts_clusters, ..Hds::new(cluster_sectors, sectors) };
        for granularity in granularities {
            let bits = random_bits(&mut random, sectors.div_ceil((*granularity).into()), longest);
            image = image.with(*granularity, bits);
        }
        made.push(image);
    }
    // Wholly dirty from the middle on, by entries that stand for clusters of ones; nothing is stored.
    let mut half = vec![0; 1 << 17];
    half[1 << 16..].fill(0xff);
    made.push(Hds::new(128, 1 << 27).with(128, half));
    made
}

#[test]
fn every_bit_is_as_qemu_reads_it() {
    if !support::tools_are_here() {
        return;
    }
    let (mut seen, mut dirty) = (0, 0);
    for shape in shapes() {
        let image = on_disk(&shape.bytes());
        let ours = open(&image.path).expect("it opens");
        let size = shape.sectors * 512;
        assert_eq!((ours.format(), ours.virtual_size()), ("parallels", size));
        let states = ours.bitmaps();
        assert_eq!(states.len(), shape.bitmaps.len());
        for (state, bitmap) in states.iter().zip(&shape.bitmaps) {
            let name = bitmap.name();
            assert_eq!(state.name.as_bytes(), name.as_bytes());
            assert_eq!(state.granularity.bytes(), u64::from(bitmap.granularity_sectors) * 512);
            let theirs = Served::start_as("parallels", &image.path, &name).dirty();
            assert_eq!(extents(&ours, &name, 0, u64::MAX).expect("it is read"), theirs, "{name} of {shape:?}");
            for (from, to) in [(0, size / 2), (size / 3, size / 3 * 2), (size / 2, size)] {
                let cut = |extent: &Extent| Extent {
                    offset: extent.offset.max(from),
                    len_bytes: extent.end().min(to).saturating_sub(extent.offset.max(from)),
                };
                let expected: Vec<Extent> = theirs.iter().map(cut).filter(|extent| extent.len_bytes > 0).collect();
                assert_eq!(extents(&ours, &name, from, to - from).expect("it is read"), expected, "a window of {name}");
            }
            seen += 1;
            dirty += theirs.len();
        }
        let report = ours.check(&mut Unobserved).expect("it is checked");
        assert!(report.problems.is_empty(), "{report:?}");
    }
    assert!(seen >= 12 && dirty > 500, "{seen} bitmaps, {dirty} extents");
}

#[test]
fn the_verbs_that_read_show_it() {
    let shape = Hds::new(128, 8192).with(128, vec![0b0110_0001, 0, 0xff]);
    let image = on_disk(&shape.bytes());
    let (path, name) = (image.path.to_str().expect("UTF-8"), shape.bitmaps[0].name());
    let json = |words: &[&str]| -> Value {
        let (out, err, status) = checkmap(words);
        assert_eq!((status, &*err), (0, ""), "{words:?}");
        serde_json::from_str(&out).expect("JSON")
    };
    let info = json(&["info", path, "--json"]);
    assert_eq!((&info["format"], &info["virtual_size"]), (&"parallels".into(), &(8192 * 512).into()));
    assert_eq!((&info["cluster_size"], &info["version"]), (&65536.into(), &2.into()));
    let bitmap = &info["bitmaps"][0];
    assert_eq!((&bitmap["name"], &bitmap["recording"]), (&(&*name).into(), &true.into()));
    assert_eq!((&bitmap["dirty_bytes"], &bitmap["dirty_extents"]), (&(11 * 65536).into(), &3.into()));
    assert_eq!(bitmap["stored_bytes"], 65536);
    let list = json(&["list", path, "--json"]);
    assert_eq!((&list[0]["name"], &list[0]["dirty_bytes"]), (&(&*name).into(), &(11 * 65536).into()));
    for words in [&["dump", path, "--bitmap", &name, "--json"][..], &["diff", path, "--since", &name, "--json"]] {
        let map = json(words);
        let starts: Vec<&Value> = map["extents"].as_array().expect("extents").iter().map(|one| &one["start"]).collect();
        assert_eq!(starts, [0, 5 * 65536, 16 * 65536], "{words:?}");
    }
    let (hash, _, _) = checkmap(&["dump", path, "--bitmap", &name, "--format", "sha256"]);
    let compared = json(&["compare", path, "--bitmap", &name, "--sha256", hash.trim_end(), "--json"]);
    assert_eq!(compared["equal"], true);
    let (table, _, status) = checkmap(&["info", path]);
    assert!(status == 0 && table.contains("parallels") && table.contains("704 KiB"), "{table}");
    let check = json(&["check", path, "--json"]);
    assert_eq!((&check["errors"], &check["format"]), (&0.into(), &"parallels".into()));
}

#[test]
fn several_bitmaps_are_checkpoints_of_their_own() {
    let shape = Hds::new(128, 8192).with(128, vec![0b1]).with(128, vec![0b111]);
    let image = on_disk(&shape.bytes());
    let image = open(&image.path).expect("it opens");
    for (bitmap, granules) in shape.bitmaps.iter().zip([1, 3]) {
        let diff = image.diff(&DiffRequest::since(bitmap.name().as_bytes()), &mut Unobserved).expect("a diff of one");
        assert_eq!(diff.bitmap.dirty_granules(), granules);
        assert_eq!(diff.until, None);
    }
    let interval = checkmap::chain::interval_of(&image.bitmaps(), &Name::new(shape.bitmaps[0].name()));
    assert_eq!(interval.expect("a chain").expect("an interval").until, Until::Now);
}

#[test]
fn no_verb_changes_it() {
    let shape = Hds::new(128, 8192).with(128, vec![7]);
    let bytes = shape.bytes();
    let image = on_disk(&bytes);
    let (path, name) = (image.path.to_str().expect("UTF-8"), shape.bitmaps[0].name());
    for words in [
        &["create", path, "monday"][..],
        &["create", path, "monday", "--granularity", "64K"],
        &["create", path, "monday", "--model", "cumulative"],
        &["delete", path, &name],
        &["delete", path, &name, "--dry-run"],
        &["rename", path, &name, "monday"],
        &["drop", path, "--bitmap", &name],
        &["drop", path, "--all", "--yes"],
        &["drop", path, "--all", "--yes", "--dry-run"],
    ] {
        let (_, err, status) = checkmap(words);
        assert_eq!(status, 3, "{words:?}: {err}");
        assert!(err.contains("never written") && err.contains("qemu-img convert"), "{words:?}: {err}");
        assert!(std::fs::read(&image.path).expect("it is there") == bytes, "{words:?} changed it");
    }
    let folder = support::folder();
    let backup = folder.path().join("backup");
    let backup = backup.to_str().expect("UTF-8");
    for words in [&["backup", path, "-o", backup][..], &["serve", path, "--since", &name, "--run", "true"]] {
        let (_, err, status) = checkmap(words);
        assert!(status == 3 || status == 1, "{words:?}: {err}");
        assert!(err.contains("Parallels"), "{words:?}: {err}");
        assert!(std::fs::read(&image.path).expect("it is there") == bytes, "{words:?} changed it");
    }
}

#[test]
fn one_write_by_qemu_makes_the_bitmaps_stale() {
    if !support::tools_are_here() {
        return;
    }
    let shape = Hds { guest_clusters: 0, ..Hds::new(128, 8192) }.with(128, vec![7]);
    let image = on_disk(&shape.bytes());
    let (path, name) = (image.path.to_str().expect("UTF-8"), shape.bitmaps[0].name());
    run("qemu-io", &["-f", "parallels", "-c", "write -P 5 0 64k", "-c", "write -P 6 1M 64k", path]);
    // QEMU itself cannot open it for reading any more, where it wrote over the extension.
    let theirs = try_run("qemu-io", &["-r", "-f", "parallels", "-c", "read 0 512", path]).status.success();
    let ours = open(&image.path).expect("it opens");
    assert_eq!(ours.trouble().expect("it is in trouble").kind(), ErrorKind::Stale, "QEMU reads it: {theirs}");
    for words in [&["dump", path, "--bitmap", &name][..], &["diff", path, "--since", &name]] {
        let (_, err, status) = checkmap(words);
        assert_eq!(status, 3, "{err}");
    }
    let (out, err, status) = checkmap(&["info", path]);
    assert!(status == 0 && (out + &err).contains("does not know its bitmaps"), "{err}");
    assert_eq!(checkmap(&["check", path]).2, 1);
}

#[test]
fn an_image_that_was_not_closed_has_inconsistent_bitmaps() {
    let shape = Hds::new(128, 8192).with(128, vec![7]);
    let mut bytes = shape.bytes();
    bytes[hds::MARK..hds::MARK + 4].copy_from_slice(&hds::OPEN.to_le_bytes());
    let image = on_disk(&bytes);
    let ours = open(&image.path).expect("it opens");
    assert!(ours.has_unclean_mark() && ours.bitmaps()[0].inconsistent);
    let refused = extents(&ours, &shape.bitmaps[0].name(), 0, u64::MAX).expect_err("it cannot be trusted");
    assert_eq!(refused.kind(), ErrorKind::Inconsistent);
    let report = ours.check(&mut Unobserved).expect("it is checked");
    assert!(report.unusable > 0, "{report:?}");
}

#[test]
fn images_without_bitmaps_that_qemu_makes_are_read() {
    if !support::tools_are_here() {
        return;
    }
    let folder = support::folder();
    let path = folder.path().join("disk.hds");
    run("qemu-img", &["create", "-q", "-f", "parallels", path.to_str().expect("UTF-8"), "10M"]);
    let ours = open(&path).expect("it opens");
    assert!(ours.bitmaps().is_empty() && ours.trouble().is_none());
    assert_eq!(ours.virtual_size(), 10 << 20);
    assert!(ours.check(&mut Unobserved).expect("it is checked").problems.is_empty());
}

#[test]
fn it_is_no_layer_below_another_image() {
    if !support::tools_are_here() {
        return;
    }
    let base = on_disk(&Hds::new(128, 8192).with(128, vec![7]).bytes());
    let folder = support::folder();
    let top = folder.path().join("top.qcow2");
    let (base, top) = (base.path.to_str().expect("UTF-8"), top.to_str().expect("UTF-8"));
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", base, "-F", "parallels", top]);
    run("qemu-img", &["bitmap", "--add", top, "monday"]);
    let (_, err, status) = checkmap(&["diff", top, "--since", "monday"]);
    assert!(status == 3 && err.contains("parallels"), "{err}");
}

/// A change of an image, and whether the checksum of the extension is made right afterwards.
type Change = fn(&mut Vec<u8>);

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

fn put_in_extension(bytes: &mut [u8], at: usize, field: &[u8]) {
    let base = hds::extension(bytes);
    put(bytes, base + at, field);
    hds::seal(bytes);
}

#[test]
fn an_image_whose_header_is_wrong_is_refused_with_the_place() {
    let rows: [(&str, Change, ErrorKind, u64); 8] = [
        ("version", |b| put(b, hds::VERSION, &3_u32.to_le_bytes()), ErrorKind::Unsupported, 16),
        ("no cluster", |b| put(b, hds::TRACKS, &[0; 4]), ErrorKind::Damaged, 28),
        ("a huge cluster", |b| put(b, hds::TRACKS, &[0xff; 4]), ErrorKind::Damaged, 28),
        ("a huge table", |b| put(b, hds::TABLE_ENTRIES, &[0xff; 4]), ErrorKind::Damaged, 32),
        ("a huge disk", |b| put(b, hds::SECTORS, &[0xff; 8]), ErrorKind::Damaged, 36),
        ("above 2^63-1", |b| put(b, hds::SECTORS, &(1_u64 << 54).to_le_bytes()), ErrorKind::Damaged, 36),
        ("mark", |b| put(b, hds::MARK, &1_u32.to_le_bytes()), ErrorKind::Damaged, 44),
        ("short", |b| b.truncate(60), ErrorKind::Damaged, 0),
    ];
    let bytes = Hds::new(128, 8192).with(128, vec![7]).bytes();
    for (what, change, kind, offset) in rows {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        let refused = open(&on_disk(&bytes).path).expect_err(what);
        assert_eq!((refused.kind(), refused.offset()), (kind, Some(offset)), "{what}: {refused}");
    }
}

#[test]
fn an_extension_that_is_wrong_gives_no_bits_but_a_reason() {
    let rows: [(&str, Change, ErrorKind); 24] = [
        (
            "an allocation table past the end",
            |b| put(b, hds::TABLE_ENTRIES, &(1_u32 << 28).to_le_bytes()),
            ErrorKind::Damaged,
        ),
        ("into the header", |b| put(b, hds::EXT_OFF, &1_u64.to_le_bytes()), ErrorKind::Damaged),
        (
            "into a cluster",
            |b| {
                let sector = hds::extension(b) as u64 / 512 + 1;
                put(b, hds::EXT_OFF, &sector.to_le_bytes());
            },
            ErrorKind::Damaged,
        ),
        ("into the guest's data", |b| put(b, hds::EXT_OFF, &128_u64.to_le_bytes()), ErrorKind::Damaged),
        ("past the end", |b| put(b, hds::EXT_OFF, &(128_u64 << 20).to_le_bytes()), ErrorKind::Damaged),
        ("past every end", |b| put(b, hds::EXT_OFF, &[0xff; 8]), ErrorKind::Damaged),
        (
            "cut short",
            |b| {
                let end = hds::extension(b) + 65535;
                b.truncate(end);
            },
            ErrorKind::Damaged,
        ),
        (
            "magic",
            |b| {
                let at = hds::extension(b);
                b[at] ^= 1;
            },
            ErrorKind::Damaged,
        ),
        (
            "checksum",
            |b| {
                let at = hds::extension(b);
                b[at + 65535] ^= 1;
            },
            ErrorKind::Damaged,
        ),
        (
            "no end",
            |b| {
                let at = hds::extension(b);
                b[at + 24..at + 65536].fill(1);
                hds::seal(b);
            },
            ErrorKind::Damaged,
        ),
        ("feature flags", |b| put_in_extension(b, hds::FEATURE_FLAGS, &[4]), ErrorKind::Unsupported),
        ("feature too long", |b| put_in_extension(b, hds::FEATURE_LEN, &[0xff; 4]), ErrorKind::Damaged),
        ("feature too short", |b| put_in_extension(b, hds::FEATURE_LEN, &39_u32.to_le_bytes()), ErrorKind::Damaged),
        ("size", |b| put_in_extension(b, hds::BITMAP_SECTORS, &8191_u64.to_le_bytes()), ErrorKind::Damaged),
        ("no granularity", |b| put_in_extension(b, hds::BITMAP_GRANULARITY, &[0; 4]), ErrorKind::Damaged),
        ("granularity 3", |b| put_in_extension(b, hds::BITMAP_GRANULARITY, &[3]), ErrorKind::Damaged),
        (
            "granularity 4G",
            |b| put_in_extension(b, hds::BITMAP_GRANULARITY, &(1_u32 << 23).to_le_bytes()),
            ErrorKind::Damaged,
        ),
        ("no entries", |b| put_in_extension(b, hds::BITMAP_ENTRIES, &[0; 4]), ErrorKind::Damaged),
        ("many entries", |b| put_in_extension(b, hds::BITMAP_ENTRIES, &[0xff; 4]), ErrorKind::Damaged),
        ("bits in the header", |b| put_in_extension(b, hds::BITMAP_TABLE, &2_u64.to_le_bytes()), ErrorKind::Damaged),
        (
            "bits past the end",
            |b| put_in_extension(b, hds::BITMAP_TABLE, &(1_u64 << 30).to_le_bytes()),
            ErrorKind::Damaged,
        ),
        ("bits nowhere", |b| put_in_extension(b, hds::BITMAP_TABLE, &[0xff; 8]), ErrorKind::Damaged),
        (
            "bits in the extension",
            |b| {
                let sector = hds::extension(b) as u64 / 512;
                put_in_extension(b, hds::BITMAP_TABLE, &sector.to_le_bytes());
            },
            ErrorKind::Damaged,
        ),
        (
            "bits in the guest's data",
            |b| put_in_extension(b, hds::BITMAP_TABLE, &129_u64.to_le_bytes()),
            ErrorKind::Damaged,
        ),
    ];
    let shape = Hds::new(128, 8192).with(128, vec![7]);
    for (what, change, kind) in rows {
        let mut bytes = shape.bytes();
        change(&mut bytes);
        let image = on_disk(&bytes);
        let ours = open(&image.path).expect(what);
        let refused = extents(&ours, &shape.bitmaps[0].name(), 0, u64::MAX).expect_err(what);
        assert_eq!(refused.kind(), kind, "{what}: {refused}");
        assert!(refused.structure().is_some() && refused.offset().is_some(), "{what}: {refused}");
        let report = ours.check(&mut Unobserved).expect("it is checked");
        assert!(report.errors > 0, "{what}: {report:?}");
        let path = image.path.to_str().expect("UTF-8");
        let (info, _, status) = checkmap(&["info", path, "--json"]);
        let info: Value = serde_json::from_str(&info).expect("the facts are shown all the same");
        assert_eq!((&info["virtual_size"], status), (&(8192 * 512).into(), 1), "{what}");
        assert_eq!(checkmap(&["check", path, "--json"]).2, 1, "{what}");
        assert!(std::fs::read(&image.path).expect("it is there") == bytes, "{what}");
    }
}

#[test]
fn clusters_that_two_things_own_are_found() {
    // The guest's data in the extension's cluster, as a writer that does not know it leaves it; its checksum still right.
    let shape = Hds::new(128, 8192).with(128, vec![7]).with(128, vec![1]);
    let mut bytes = shape.bytes();
    let cluster = u32::try_from(hds::extension(&bytes) / 65536).expect("few");
    put(&mut bytes, hds::TABLE + 4 * 40, &cluster.to_le_bytes());
    let ours = open(&on_disk(&bytes).path).expect("it opens");
    for bitmap in &shape.bitmaps {
        let refused = extents(&ours, &bitmap.name(), 0, u64::MAX).expect_err("its list is the guest's");
        assert!(refused.message().contains("the guest's data"), "{refused}");
    }
    // The bits of one bitmap in the cluster of the other's: both are refused.
    let mut bytes = shape.bytes();
    let shared = hds::extension(&bytes) as u64 / 512 + 128;
    let second = hds::FEATURE + 24 + 40 + 24 + 32;
    put_in_extension(&mut bytes, second, &shared.to_le_bytes());
    let ours = open(&on_disk(&bytes).path).expect("it opens");
    for bitmap in &shape.bitmaps {
        let refused = extents(&ours, &bitmap.name(), 0, u64::MAX).expect_err("both have it");
        assert!(refused.message().contains("another bitmap"), "{refused}");
    }
    // The bits of the second alone in a cluster of the guest's: the first is fine.
    let mut bytes = shape.bytes();
    put_in_extension(&mut bytes, second, &(128_u64).to_le_bytes());
    let ours = open(&on_disk(&bytes).path).expect("it opens");
    assert_eq!(extents(&ours, &shape.bitmaps[0].name(), 0, u64::MAX).expect("it is its own").len(), 1);
    assert_eq!(extents(&ours, &shape.bitmaps[1].name(), 0, u64::MAX).expect_err("shared").kind(), ErrorKind::Damaged);
}

#[test]
fn features_of_others_and_names_that_come_twice() {
    let shape = Hds::new(128, 8192).with(128, vec![7]).with(128, vec![1]);
    let mut bytes = shape.bytes();
    put_in_extension(&mut bytes, hds::FEATURE, &0x1234_u64.to_le_bytes());
    let ours = open(&on_disk(&bytes).path).expect("it opens");
    assert_eq!(ours.bitmaps().len(), 1, "the first is a feature that nobody knows");
    assert_eq!(extents(&ours, &shape.bitmaps[1].name(), 0, u64::MAX).expect("it is read").len(), 1);

    let mut twice = shape;
    twice.bitmaps[1].id = twice.bitmaps[0].id;
    let ours = open(&on_disk(&twice.bytes()).path).expect("it opens");
    assert_eq!(ours.trouble().expect("a fault").kind(), ErrorKind::Damaged);
}
