//! Segments from the command line: made by dump and diff, merged, compared, shown and checked.

use crate::{Ran, checkmap, command, extents, listing, poke};
use checkmap::{Bitmap, Granularity, segment};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const G: u64 = 65536;
/// A disk with a tail that fills no granule, of two chunks.
const SIZE: u64 = 70_000 * G - 1000;

/// A segment whose dirty granules are these.
fn write(folder: &TempDir, name: &str, size: u64, granules: impl IntoIterator<Item = u64>) -> PathBuf {
    let mut bitmap = Bitmap::new(size, Granularity::from_bytes(G).unwrap()).unwrap();
    granules.into_iter().for_each(|granule| bitmap.set(granule * G, 1).unwrap());
    let path = folder.path().join(name);
    segment::write(&bitmap, &mut fs::File::create(&path).unwrap()).unwrap();
    path
}

fn two(folder: &TempDir) -> (PathBuf, PathBuf) {
    (write(folder, "a", SIZE, [1, 2, 3, 69_999]), write(folder, "b", SIZE, (3..40_000).step_by(2)))
}

#[test]
fn dump_and_diff_make_segments_of_the_same_bits() {
    crate::needs_tools!();
    let image = crate::three_checkpoints();
    let folder = tempfile::tempdir().unwrap();
    let [dumped, changed, cut] = ["dumped", "changed", "cut"].map(|name| folder.path().join(name));
    checkmap!("dump", image.path, "--bitmap", "mon->tue", "--format", "segment", "-o", dumped).ok();
    checkmap!("diff", image.path, "--since", "mon", "--format", "segment", "-o", changed).ok();
    checkmap!(
        "diff", image.path, "--since", "mon", "--format", "segment", "--start", "1M", "--length", "1M", "-o", cut
    )
    .ok();
    for (path, dirty) in [(&dumped, 3 * G), (&changed, 4 * G + crate::SIZE % G), (&cut, 2 * G)] {
        checkmap!("segment", "check", path).ok();
        assert_eq!(checkmap!("segment", "info", path, "--json").json()["dirty_bytes"], dirty);
    }
    let rest = checkmap!("segment", "diff", dumped, changed, "--format", "csv");
    let tail = crate::SIZE - crate::SIZE % G;
    assert_eq!(rest.ok(), format!("start,length,dirty_in\n{G},{G},b\n{tail},{},b\n", crate::SIZE % G));
    let streamed = checkmap!("dump", image.path, "--bitmap", "mon->tue", "--format", "segment");
    assert_eq!(streamed.bytes(), fs::read(&dumped).unwrap());
}

#[test]
fn merge_writes_the_union_in_one_step_and_may_replace_a_source() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = two(&folder);
    let out = folder.path().join("out");
    for threads in ["0", "1", "3"] {
        checkmap!("segment", "merge", a, b, "-o", out, "--threads", threads, "--memory", "1M").says("2 segments");
        let info = checkmap!("segment", "info", out, "--json").json();
        assert_eq!(info["dirty_granules"], 3 + 19_999);
        checkmap!("segment", "check", out).ok();
    }
    let counted = checkmap!("segment", "merge", a, b, "--count");
    assert!(counted.ok().starts_with("20002 granules dirty"), "{}", counted.ok());
    let merged = fs::read(&out).unwrap();
    assert_eq!(checkmap!("segment", "merge", a, b, "-o", "-", "--quiet").bytes(), merged);
    checkmap!("segment", "merge", a, b, "-o", a).ok();
    assert_eq!(fs::read(&a).unwrap(), merged);
    assert_eq!(listing(folder.path()), ["a", "b", "out"]);
}

#[test]
fn a_merge_that_fails_leaves_nothing_under_the_final_name() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = two(&folder);
    let other = write(&folder, "other", SIZE + G, [1]);
    let out = folder.path().join("out");
    checkmap!("segment", "merge", a, other, "-o", out).fails(2, "disks of");
    checkmap!("segment", "merge", a, folder.path().join("absent"), "-o", out).fails(1, "absent");
    checkmap!("segment", "merge", a, b, "-o", out, "--memory", "1K").fails(2, "allow");
    checkmap!("segment", "merge", a, b).fails(2, "--output");
    poke(&b, 64 + 100, |byte| byte ^ 1);
    let failed = checkmap!("segment", "merge", a, b, "-o", out);
    failed.fails(1, "segment container of chunk 0, offset 0x40: the checksum is wrong");
    assert!(failed.stderr.contains(b.to_str().unwrap()), "{}", failed.stderr);
    fs::write(&other, b"no segment").unwrap();
    checkmap!("segment", "merge", other, a, "-o", out).fails(1, "no segment");
    assert_eq!(listing(folder.path()), ["a", "b", "other"]);
}

#[test]
fn a_merge_that_meets_a_full_disk_leaves_nothing_under_the_final_name() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = two(&folder);
    let out = folder.path().join("out");
    fs::write(&out, "what was there").unwrap();
    // The limit is in units of 512 bytes; writes beyond it fail instead of killing.
    for blocks in [0, 1, 3, 8] {
        let limited = format!("ulimit -f {blocks} && trap '' XFSZ && exec \"$0\" \"$@\"");
        let mut shell = Command::new("sh");
        shell.args(["-c", &limited, env!("CARGO_BIN_EXE_checkmap"), "segment", "merge"]);
        Ran::of(shell.args([&a, &b]).arg("-o").arg(&out).output().unwrap()).fails(1, "out");
        assert_eq!(fs::read(&out).unwrap(), b"what was there");
        assert_eq!(listing(folder.path()), ["a", "b", "out"]);
    }
}

#[test]
fn diff_says_on_which_side_each_extent_is_dirty() {
    let folder = tempfile::tempdir().unwrap();
    let a = write(&folder, "a", SIZE, [1, 2, 3, 69_999]);
    let b = write(&folder, "b", SIZE, [3, 4, 5, 66_000]);
    let json = checkmap!("segment", "diff", a, b, "--json").json();
    let tail = 69_999 * G;
    assert_eq!(extents(&json), [(G, 2 * G), (4 * G, 2 * G), (66_000 * G, G), (tail, SIZE - tail)]);
    let sides: Vec<&Value> = json["extents"].as_array().unwrap().iter().map(|extent| &extent["dirty_in"]).collect();
    assert_eq!(sides, ["a", "b", "b", "a"]);
    assert_eq!((&json["virtual_size"], &json["only_in_a"]), (&json!(SIZE), &json!(2 * G + SIZE - tail)));
    assert_eq!(json["only_in_b"], 3 * G);
    let window = checkmap!("segment", "diff", a, b, "--format", "csv", "--start", "131072", "--length", "196608");
    assert_eq!(window.ok(), format!("start,length,dirty_in\n{},{G},a\n{},{G},b\n", 2 * G, 4 * G));
    let table = checkmap!("segment", "diff", a, a);
    assert!(table.ok().contains("0 bytes dirty in a only"), "{}", table.ok());
    assert_eq!(checkmap!("segment", "diff", a, a, "--json").json()["extents"], json!([]));
    checkmap!("segment", "diff", a, b, "--json", "--format", "csv").fails(2, "contradict");
    let before = fs::read(&b).unwrap();
    checkmap!("segment", "diff", a, b, "-o", b).fails(2, "one of the segments");
    checkmap!("segment", "diff", a, b, "-o", a).fails(2, "one of the segments");
    assert_eq!(fs::read(&b).unwrap(), before);
    checkmap!("segment", "diff", a, b, "--start", "1P").fails(2, "past the end");
    checkmap!("segment", "diff", a, write(&folder, "c", G, [0])).fails(2, "disks of");
}

#[test]
fn info_shows_what_a_segment_holds() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = two(&folder);
    let expected = json!({
        "segment": a, "virtual_size": SIZE, "granularity": G, "dirty_bytes": 4 * G - 1000, "dirty_granules": 4,
        "dirty_extents": 2, "stored_bytes": 64 + 128 + 80 + 24 + 64, "directory_entries": 2,
        "chunks": {"array": 1, "runs": 1, "words": 0, "sparse": 0, "full": 0},
    });
    assert_eq!(checkmap!("segment", "info", a, "--json").json(), expected);
    let text = checkmap!("segment", "info", b);
    assert!(text.ok().contains("1: 0 as arrays, 0 as words, 0 as runs, 1 sparse, 0 full"), "{}", text.ok());
}

#[test]
fn check_names_the_structure_and_the_place_of_damage() {
    let folder = tempfile::tempdir().unwrap();
    let (a, _) = two(&folder);
    let good = fs::read(&a).unwrap();
    assert_eq!(checkmap!("segment", "check", a, "--json").json()["errors"], 0);
    let report = |path: &Path| {
        let ran = Ran::of(command(&["segment".into(), "check".into(), path.into(), "--json".into()]).output().unwrap());
        assert_eq!(ran.status, Some(1), "{}", ran.stderr);
        let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
        (report["problems"][0]["structure"].as_str().unwrap().to_owned(), report["problems"][0]["offset"].as_u64())
    };
    for (at, structure, offset) in [
        (70, "segment container of chunk 0", 68),
        (64, "segment container of chunk 0", 64),
        (64 + 128 + 8, "segment directory", 192),
        (20, "segment header", 60),
        (good.len() - 1, "segment trailer", good.len() as u64 - 4),
    ] {
        fs::write(&a, &good).unwrap();
        poke(&a, at, |byte| byte ^ 1);
        assert_eq!(report(&a), (structure.to_owned(), Some(offset)), "{at}");
    }
    fs::write(&a, &good[..good.len() - 40]).unwrap();
    assert_eq!(report(&a).0, "segment trailer");
    assert_eq!(checkmap!("segment", "check", a).status, Some(1));
    fs::write(&a, "text").unwrap();
    checkmap!("segment", "check", a).fails(1, "no segment");
}
