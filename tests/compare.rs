//! The comparison of bitmaps: against a naive model, and their hash against the one that a running QEMU computes.

mod support;

use checkmap::chain::Name;
use checkmap::image::{Access, Image, OpenOptions};
use checkmap::progress::Unobserved;
use checkmap::{Bitmap, ErrorKind, Granularity};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::process::Command;
use support::TestImage;
use support::hypervisor::{DiskSpec, Hypervisor, Program};
use support::random::Random;

const SECTOR: u64 = 512;

/// A bitmap with marks at random, and the sectors of the disk that they dirty.
fn random_bitmap(size_bytes: u64, bits: u32, marks: u64, random: &mut Random) -> (Bitmap, Vec<bool>) {
    let granularity = Granularity::from_bits(bits).expect("a granularity");
    let mut bitmap = Bitmap::new(size_bytes, granularity).expect("a disk");
    let mut sectors = vec![false; usize::try_from(size_bytes.div_ceil(SECTOR)).expect("a small disk")];
    for _ in 0..marks {
        let offset = random.below(size_bytes);
        let len = (1 + random.below(1 << 17)).min(size_bytes - offset);
        bitmap.set(offset, len).expect("inside the disk");
        let (from, to) = (offset >> bits << bits, (offset + len).next_multiple_of(1 << bits).min(size_bytes));
        for sector in from / SECTOR..to.div_ceil(SECTOR) {
            sectors[usize::try_from(sector).expect("a small disk")] = true;
        }
    }
    (bitmap, sectors)
}

#[test]
fn a_comparison_agrees_with_plain_sectors() {
    let mut random = Random::seeded(23);
    let (mut equal, mut different) = (0, 0);
    for _ in 0..400 {
        let size = SECTOR * (1 + random.below(9000));
        let (one_bits, other_bits) = (9 + random.below(9), 9 + random.below(9));
        let marks = random.below(6);
        let (one, ours) = random_bitmap(size, u32::try_from(one_bits).expect("small"), marks, &mut random);
        let (mut other, mut theirs) =
            random_bitmap(size, u32::try_from(other_bits).expect("small"), marks, &mut random);
        if random.chance(2) {
            // The same bytes at a granularity that is no coarser.
            other = one.to_granularity(Granularity::from_bits(9).expect("a granularity")).expect("finer");
            theirs.clone_from(&ours);
        }
        let count = |a: &[bool], b: &[bool]| -> u64 {
            let only = (0..).zip(a.iter().zip(b)).filter(|(_, (a, b))| **a && !**b);
            only.map(|(number, _): (u64, _)| (size - number * SECTOR).min(SECTOR)).sum()
        };
        let compared = one.compare(&other).expect("one disk");
        assert_eq!(compared.only_in_first_bytes, count(&ours, &theirs));
        assert_eq!(compared.only_in_second_bytes, count(&theirs, &ours));
        assert_eq!(compared.is_equal(), ours == theirs);
        let first = ours.iter().zip(&theirs).position(|(a, b)| a != b);
        let length = first.map(|first| {
            let range = ours[first..].iter().zip(&theirs[first..]).take_while(|(a, b)| a != b).count() as u64;
            ((first as u64) * SECTOR, range * SECTOR)
        });
        assert_eq!(compared.first_difference.map(|extent| (extent.offset, extent.len_bytes)), length);
        *if compared.is_equal() { &mut equal } else { &mut different } += 1;
    }
    assert!(equal > 100 && different > 100, "{equal} equal, {different} different");
    let small = Bitmap::new(1024, Granularity::from_bits(9).expect("a granularity")).expect("a disk");
    let large = Bitmap::new(1025, Granularity::from_bits(9).expect("a granularity")).expect("a disk");
    assert_eq!(small.compare(&large).expect_err("two disks").kind(), ErrorKind::SizeMismatch);
}

#[test]
fn the_hash_is_that_of_the_bits_in_words_of_eight_bytes() {
    let mut random = Random::seeded(24);
    // Around a word, and around the pieces in which it is computed.
    let counts = [1, 7, 8, 63, 64, 65, 127, (1 << 17) - 1, 1 << 17, (1 << 17) + 1, (1 << 17) + 64, (1 << 18) + 5];
    for granules in counts {
        for bits in [9, 16] {
            let size = (granules << bits) - random.below(1 << bits);
            let (bitmap, _) = random_bitmap(size.max(1), bits, 20, &mut random);
            let mut flat = vec![0; usize::try_from(bitmap.granules().div_ceil(64) * 8).expect("few")];
            bitmap.copy_bits(0, &mut flat).expect("from the start");
            let expected: [u8; 32] = Sha256::digest(&flat).into();
            assert_eq!(bitmap.sha256().expect("memory"), expected, "{granules} granules of 2^{bits}");
        }
    }
    let empty = Bitmap::new(0, Granularity::from_bits(16).expect("a granularity")).expect("a disk");
    assert_eq!(empty.sha256().expect("memory"), <[u8; 32]>::from(Sha256::digest([0; 8])));
}

const DISKS: [DiskSpec; 2] = [
    DiskSpec { node: "d0", size_bytes: 300 * SECTOR, options: "" },
    DiskSpec { node: "d1", size_bytes: (10 << 20) + 3 * SECTOR, options: "" },
];

/// The bitmaps that the test makes on each disk.
const GRANULARITIES: [u64; 3] = [512, 4096, 65536];

fn name(granularity: u64) -> String {
    format!("b{granularity}")
}

/// A machine with bitmaps of every granularity, each of which missed more of the guest's writes.
fn written(disks: &[DiskSpec], seed: u64) -> Hypervisor {
    let mut random = Random::from_seed(seed);
    let mut hypervisor = Hypervisor::start(Program::StorageDaemon, disks);
    for (number, disk) in disks.iter().enumerate() {
        for granularity in GRANULARITIES {
            let arguments =
                json!({ "node": disk.node, "name": name(granularity), "granularity": granularity, "persistent": true });
            hypervisor.command("block-dirty-bitmap-add", arguments);
            for _ in 0..20 {
                let sector = random.below(disk.size_bytes / SECTOR);
                let len = (1 + random.below(30)).min(disk.size_bytes / SECTOR - sector);
                hypervisor.write(number, sector * SECTOR, len * SECTOR);
            }
        }
    }
    hypervisor
}

/// The hash that QEMU computes.
fn theirs(hypervisor: &mut Hypervisor, node: &str, granularity: u64) -> String {
    let arguments = json!({ "node": node, "name": name(granularity) });
    let answer = hypervisor.command("x-debug-block-dirty-bitmap-sha256", arguments);
    answer["sha256"].as_str().expect("a hash").to_owned()
}

fn hex(hash: [u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs checkmap; what it printed, what it said, and its status.
fn checkmap(words: &[&str]) -> (String, String, i32) {
    let output = Command::new(env!("CARGO_BIN_EXE_checkmap")).args(words).output().expect("checkmap runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (text(output.stdout), text(output.stderr), output.status.code().expect("it ends by itself"))
}

#[track_caller]
fn verdict(words: &[&str], status: i32) -> Value {
    let words = [&["compare", "--json"], words].concat();
    let (out, err, ended) = checkmap(&words);
    assert_eq!((ended, &*err), (status, ""), "{words:?}");
    let answer: Value = serde_json::from_str(&out).expect("one JSON document");
    assert_eq!(answer["equal"], status == 0, "{words:?}");
    answer
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn the_hash_is_the_one_of_a_running_qemu() {
    if !support::tools_are_here() {
        return;
    }
    let mut hypervisor = written(&DISKS, 25);
    let (socket, mut expected) = (hypervisor.qmp(), Vec::new());
    for disk in DISKS {
        for granularity in GRANULARITIES {
            let hash = theirs(&mut hypervisor, disk.node, granularity);
            // While that NBD server runs no bit could be read without its socket: the machine tells the hash.
            let asked =
                ["--qmp", path(&socket), "--node", disk.node, "--bitmap", &name(granularity), "--sha256", &hash];
            let answer = verdict(&asked, 0);
            assert_eq!((&answer["a"]["sha256"], &answer["by"]), (&(&*hash).into(), &"hash".into()));
            expected.push((disk.node, granularity, hash));
        }
    }
    hypervisor.assert_tidy();
    let hashes: std::collections::BTreeSet<&String> = expected.iter().map(|(_, _, hash)| hash).collect();
    assert_eq!(hashes.len(), expected.len(), "the bitmaps differ");
    let folder = hypervisor.quit();
    for (node, granularity, hash) in expected {
        let file = folder.path().join(format!("{node}.qcow2"));
        let image = Image::open(&file, &OpenOptions::new(Access::Read)).expect("it opens");
        let ours = image.sha256(&Name::new(name(granularity)), &mut Unobserved).expect("it is read");
        assert_eq!(hex(ours), hash, "{granularity} of {node}");
        let (out, err, status) = checkmap(&["dump", path(&file), "--bitmap", &name(granularity), "--format", "sha256"]);
        assert_eq!((out.trim_end(), &*err, status), (&*hash, "", 0));
    }
}

#[test]
fn a_copy_and_its_machine_are_proved_equal_until_a_block_is_written() {
    if !support::hypervisors_are_here() {
        return;
    }
    let disks = [DISKS[1]];
    let folder = written(&disks, 26).quit();
    let copy = support::folder();
    std::fs::copy(folder.path().join("d1.qcow2"), copy.path().join("d1.qcow2")).expect("a copy");
    let kept = support::folder();
    let kept = kept.path().join("kept.qcow2");
    std::fs::copy(folder.path().join("d1.qcow2"), &kept).expect("a copy");
    let mut one = Hypervisor::start_on(folder, Program::System, &disks);
    let other = Hypervisor::start_on(copy, Program::System, &disks);
    let (here, there) = (one.qmp(), other.qmp());
    let bitmap = name(65536);
    let two = ["--qmp", path(&here), "--node", "d1", "--bitmap", &bitmap, "--other-qmp", path(&there)];
    for words in [&two[..], &[&two[..], &["--hash-only", "--other-node", "d1"]].concat()] {
        let answer = verdict(words, 0);
        assert_eq!(answer["a"]["sha256"], answer["b"]["sha256"]);
    }
    let with_file = ["--qmp", path(&here), "--node", "d1", "--bitmap", &bitmap, path(&kept)];
    verdict(&with_file, 0);
    one.write(0, 9 << 20, 65536);
    one.write(0, (9 << 20) + 65536, 1);
    let answer = verdict(&with_file, 1);
    assert_eq!((&answer["only_in_b"], &answer["by"]), (&0.into(), &"content".into()));
    assert!(answer["only_in_a"].as_u64().is_some_and(|bytes| bytes > 0 && bytes <= 2 * 65536), "{answer}");
    assert_eq!(verdict(&two, 1)["only_in_b"], 0);
    let by_hash = verdict(&[&two[..], &["--hash-only"]].concat(), 1);
    assert_eq!((&by_hash["only_in_a"], &by_hash["by"]), (&Value::Null, &"hash".into()));
    one.assert_tidy();
}

/// An image with two bitmaps, of which the second saw the second write alone, and a checkpoint of intervals.
fn image() -> TestImage {
    let image = TestImage::create("", "10M");
    image.bitmap(&["--add", "-g", "64k"], "all");
    image.write(0, 65536);
    image.bitmap(&["--add", "-g", "4k"], "fine");
    image.write(1 << 20, 8192);
    image
}

#[test]
fn images_segments_and_spans_are_compared() {
    if !support::tools_are_here() {
        return;
    }
    let image = image();
    let folder = support::folder();
    let (file, segment, copy) = (path(&image.path), folder.path().join("s.segment"), folder.path().join("copy.qcow2"));
    std::fs::copy(&image.path, &copy).expect("a copy");
    let (segment, copy) = (path(&segment), path(&copy));
    let (_, err, status) = checkmap(&["dump", file, "--bitmap", "all", "--format", "segment", "-o", segment]);
    assert_eq!(status, 0, "{err}");

    let same = verdict(&[file, copy, "--bitmap", "all"], 0);
    assert_eq!((&same["only_in_a"], &same["first_difference"]), (&0.into(), &Value::Null));
    assert_eq!((&same["virtual_size"], &same["a"]["dirty_bytes"]), (&(10 << 20).into(), &(2 << 16).into()));
    assert_eq!(same["a"]["sha256"], same["b"]["sha256"]);
    let two = verdict(&[file, "--bitmap", "all", "--other-bitmap", "fine"], 1);
    // The first granule, and what the coarse one marks more of the second.
    assert_eq!((&two["only_in_a"], &two["only_in_b"]), (&(65536 + 65536 - 8192).into(), &0.into()));
    assert_eq!(two["first_difference"], json!({ "start": 0, "length": 65536 }));
    for words in [
        &[file, segment, "--bitmap", "all"][..],
        &[segment, file, "--bitmap", "all"],
        &[segment, segment],
        &[file, "--since", "all", "--other-bitmap", "all"],
        &[file, "--since", "all", copy],
        &[segment, file, "--other-since", "all"],
    ] {
        verdict(words, 0);
    }
    verdict(&[file, segment, "--bitmap", "fine"], 1);
    let hash = same["a"]["sha256"].as_str().expect("a hash");
    for (bitmap, status) in [("all", 0), ("fine", 1)] {
        verdict(&[file, "--bitmap", bitmap, "--sha256", hash], status);
    }
    verdict(&[segment, "--sha256", &hash.to_uppercase()], 0);
    let (out, _, status) = checkmap(&["diff", file, "--since", "all", "--format", "sha256"]);
    assert_eq!((out.trim_end(), status), (hash, 0));
    let (out, err, status) = checkmap(&["compare", file, "--bitmap", "all", "--other-bitmap", "fine"]);
    assert_eq!((status, &*err), (1, ""));
    assert!(out.starts_with("different: 120 KiB dirty in A only, 0 bytes in B only, from byte 0 on\nA  "), "{out}");
    let (out, _, status) = checkmap(&["compare", file, copy, "--bitmap", "all"]);
    assert!(status == 0 && out.starts_with("equal: 128 KiB of 10 MiB dirty\n"), "{out}");
}

#[test]
fn equal_bytes_at_two_granularities_are_equal_and_have_two_hashes() {
    if !support::tools_are_here() {
        return;
    }
    let image = TestImage::create("", "10M");
    image.bitmap(&["--add", "-g", "64k"], "coarse");
    image.bitmap(&["--add", "-g", "4k"], "fine");
    image.write(65536, 131_072);
    let file = path(&image.path);
    let answer = verdict(&[file, "--bitmap", "coarse", "--other-bitmap", "fine"], 0);
    assert_ne!(answer["a"]["sha256"], answer["b"]["sha256"]);
    let (_, err, status) = checkmap(&["compare", file, "--bitmap", "coarse", "--other-bitmap", "fine", "--hash-only"]);
    assert!(status == 2 && err.contains("granularity"), "{err}");
}

#[test]
fn what_cannot_be_compared_is_refused() {
    if !support::tools_are_here() {
        return;
    }
    let image = image();
    let other = TestImage::create("", "11M");
    other.bitmap(&["--add"], "all");
    let raw = support::folder();
    let raw = raw.path().join("raw");
    std::fs::write(&raw, vec![0; 4096]).expect("a file");
    let (file, other, raw) = (path(&image.path), path(&other.path), path(&raw));
    for (words, status, says) in [
        (&[file, other, "--bitmap", "all"][..], 2, "11534336"),
        (&[file, other, "--bitmap", "all", "--hash-only"], 2, "11534336"),
        (&[file, file], 2, "--bitmap or --since"),
        (&[file, "--bitmap", "all"], 2, "nothing to compare with"),
        (&[file, "--bitmap", "gone", "--other-bitmap", "all"], 3, "gone"),
        (&[file, "--bitmap", "all", "--other-bitmap", "gone", "--hash-only"], 3, "gone"),
        (&[file, raw, "--bitmap", "all"], 1, "raw"),
        (&[file, "--bitmap", "all", "--sha256", "abc"], 2, "64 hexadecimal digits"),
        (&[file, other, "--bitmap", "all", "--sha256", &"0".repeat(64)], 2, "contradict"),
        (&[file, other, "--since", "all", "--hash-only"], 2, "--hash-only"),
        (&[file, "--bitmap", "all", "--other-since", "all", "--hash-only"], 2, "--hash-only"),
        (&[file, other, "third", "--bitmap", "all"], 2, "third"),
    ] {
        let (out, err, ended) = checkmap(&[&["compare"], words].concat());
        assert_eq!((ended, &*out), (status, ""), "{words:?}: {err}");
        assert!(err.contains(says), "{words:?}: {err}");
    }
    let (_, err, status) =
        checkmap(&["dump", file, "--bitmap", "all", "--format", "sha256", "--start", "0", "--length", "1M"]);
    assert!(status == 2 && err.contains("whole bitmaps"), "{err}");
    // A writer that did not store them leaves nothing to be trusted, and nothing to be compared.
    let mut bytes = std::fs::read(file).expect("the image");
    let at = support::raw::Raw { bytes: bytes.clone() }.entry(0) + support::raw::ENTRY_FLAGS;
    bytes[at + 3] |= 1;
    std::fs::write(file, bytes).expect("the image");
    let mut statuses =
        ["all", "fine"].map(|name| checkmap(&["compare", file, "--bitmap", name, "--sha256", &"0".repeat(64)]).2);
    statuses.sort_unstable();
    assert_eq!(statuses, [1, 3], "one of them is inconsistent");
}
