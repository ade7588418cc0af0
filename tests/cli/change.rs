//! create, delete, rename and merge: what they leave in the image, what they say, and that a dry run leaves it alone.

use crate::support::TestImage;
use crate::support::nbd::dirty;
use crate::{SIZE, bitmaps, bytes_of, checkmap, extents, needs_tools, same_file, three_checkpoints};
use serde_json::json;
use std::fs;

#[test]
fn create_freezes_the_last_bitmap_and_starts_the_next() {
    needs_tools!();
    let image = three_checkpoints();
    assert_eq!(bitmaps(&image), ["mon", "mon->tue", "+tue->wed"]);
    let ran = checkmap!("create", image.path, "thu");
    ran.says("created checkpoint 'thu'");
    assert!(ran.stdout.is_empty(), "messages go to stderr");
    assert_eq!(bitmaps(&image), ["mon", "mon->tue", "tue->wed", "+wed->thu"]);
    image.assert_clean("create");
}

#[test]
fn create_takes_the_granularity_of_the_newest_checkpoint_else_qemus() {
    needs_tools!();
    for (options, expected) in [("cluster_size=512", 4096), ("cluster_size=32k", 32768), ("cluster_size=2M", 65536)] {
        let image = TestImage::create(options, "8M");
        checkmap!("create", image.path, "a").ok();
        assert_eq!(image.qemu_bitmaps()[0].granularity, expected, "{options}");
        checkmap!("create", image.path, "b", "--granularity", "1M").ok();
        checkmap!("create", image.path, "c").ok();
        assert_eq!(image.qemu_bitmaps()[2].granularity, 1 << 20, "{options}");
    }
}

#[test]
fn delete_joins_the_intervals_on_both_sides() {
    needs_tools!();
    let image = three_checkpoints();
    let all = extents(&checkmap!("diff", image.path, "--since", "mon", "--json").json());
    checkmap!("delete", image.path, "tue").says("deleted checkpoint 'tue'");
    assert_eq!(bitmaps(&image), ["mon", "+mon->wed"]);
    assert_eq!(extents(&checkmap!("diff", image.path, "--since", "mon", "--json").json()), all);
    assert_eq!(dirty(&image.path, "mon").len(), 3, "QEMU sees the absorbed blocks");
    checkmap!("delete", image.path, "wed").ok();
    assert_eq!(bitmaps(&image), ["+mon"], "the absorber records where the absorbed one did");
    image.assert_clean("delete");
}

#[test]
fn deleting_the_only_checkpoint_says_that_tracking_ends() {
    needs_tools!();
    let image = TestImage::create("", "1M");
    checkmap!("create", image.path, "mon").ok();
    checkmap!("delete", image.path, "mon").says("tracking ends");
    assert_eq!(bitmaps(&image), [""; 0]);
    image.assert_clean("delete");
}

#[test]
fn rename_changes_the_names_of_both_bitmaps_that_carry_it() {
    needs_tools!();
    let image = three_checkpoints();
    checkmap!("rename", image.path, "tue", "tuesday").says("renamed checkpoint 'tue' to 'tuesday'");
    assert_eq!(bitmaps(&image), ["mon", "mon->tuesday", "+tuesday->wed"]);
    image.assert_clean("rename");
}

#[test]
fn merge_joins_bitmaps_by_their_own_names() {
    needs_tools!();
    let image = three_checkpoints();
    image.bitmap(&["--add", "--disable"], "copy");
    checkmap!("merge", image.path, "mon", "mon->tue", "--into", "copy").says("merged into bitmap 'copy'");
    let copy = checkmap!("dump", image.path, "--bitmap", "copy", "--json").json();
    assert_eq!(extents(&copy), [(65536, 65536), (1 << 20, 131_072), (3 << 20, 65536)]);
    checkmap!("merge", image.path, "mon", "--into", "mon->tue").says("will hold more");
    image.assert_clean("merge");
}

#[test]
fn a_dry_run_prints_its_steps_and_changes_no_byte() {
    needs_tools!();
    let image = three_checkpoints();
    let before = fs::read(&image.path).unwrap();
    let create = checkmap!("create", image.path, "thu", "--dry-run");
    assert_eq!(create.ok(), "stop recording in 'tue->wed'\nadd 'wed->thu', recording, granularity 65536\n");
    let delete = checkmap!("delete", image.path, "tue", "--dry-run");
    assert_eq!(delete.ok(), "merge 'mon->tue' into 'mon'\nremove 'mon->tue'\nrename 'tue->wed' to 'mon->wed'\n");
    let rename = checkmap!("rename", image.path, "mon", "m", "--dry-run");
    assert_eq!(rename.ok(), "rename 'mon' to 'm'\nrename 'mon->tue' to 'm->tue'\n");
    let merge = checkmap!("merge", image.path, "mon", "--into", "mon->tue", "--dry-run");
    assert_eq!(merge.ok(), "merge 'mon' into 'mon->tue'\n");
    let nothing = checkmap!("delete", image.path, "--all-inconsistent", "--dry-run");
    assert_eq!(nothing.ok(), "nothing to do\n");
    assert!(same_file(&image.path, &before));
}

#[test]
fn nothing_inconsistent_is_nothing_to_do() {
    needs_tools!();
    let image = three_checkpoints();
    let before = fs::read(&image.path).unwrap();
    checkmap!("delete", image.path, "--all-inconsistent").says("nothing to do");
    assert!(same_file(&image.path, &before));
}

#[test]
fn sizes_take_suffixes_and_say_what_they_are_where_they_are_none() {
    needs_tools!();
    let image = TestImage::create("", "1M");
    for (size, bytes) in [("64K", 65536), ("64k", 65536), ("1MiB", 1 << 20), ("512", 512), ("2G", 2 << 30)] {
        checkmap!("create", image.path, "x", "--granularity", size).ok();
        assert_eq!(image.qemu_bitmaps()[0].granularity, bytes, "{size}");
        checkmap!("delete", image.path, "x").ok();
    }
    for (size, why) in [
        ("3K", "power of two"),
        ("0", "power of two"),
        ("64KB", "K, M, G"),
        ("-1", "unexpected argument"),
        ("16E", "2^64"),
        ("4G", "2^31"),
        ("256", "512"),
    ] {
        checkmap!("create", image.path, "x", "--granularity", size).fails(2, why);
    }
}

#[test]
fn names_may_be_any_bytes_but_an_arrow() {
    needs_tools!();
    let image = TestImage::create("", "1M");
    let odd: [&[u8]; 5] = [b"two\nlines", b"-dash", b"a b > c", b"\xff\x80", "\u{1f41e}".as_bytes()];
    for name in odd {
        let ran = checkmap!("create", image.path, "--", bytes_of(name));
        ran.ok();
        assert_eq!(ran.stderr.lines().filter(|line| line.contains("created")).count(), 1, "{}", ran.stderr);
    }
    let list = checkmap!("list", image.path, "--json").json();
    assert_eq!(list[0]["name"], "two\nlines");
    assert_eq!(list[1]["bitmap"], "two\nlines->-dash");
    assert_eq!(list[3]["name_hex"], "ff80");
    checkmap!("list", image.path).ok();
    checkmap!("diff", image.path, "--since=-dash").ok();
    for name in odd {
        checkmap!("delete", image.path, "--", bytes_of(name)).ok();
    }
    image.assert_clean("odd names");
    for name in ["", "a->b", "->", "libvirt-tmp-x"] {
        checkmap!("create", image.path, "--", name).fails(2, "name");
    }
    checkmap!("create", image.path, "x".repeat(511)).fails(2, "510 bytes");
    checkmap!("create", image.path, "x".repeat(510)).says("has 510 bytes");
}

#[test]
fn qemu_goes_on_recording_into_what_we_made() {
    needs_tools!();
    let image = three_checkpoints();
    checkmap!("delete", image.path, "wed").ok();
    image.write(5 << 20, 65536);
    let diff = checkmap!("diff", image.path, "--since", "tue", "--json").json();
    let tail = SIZE - SIZE % 65536;
    assert_eq!(extents(&diff), [(1 << 20, 131_072), (3 << 20, 65536), (5 << 20, 65536), (tail, SIZE % 65536)]);
    assert_eq!(diff["until"], json!(null));
}

#[test]
fn a_name_of_somebody_else_stays_untouched() {
    needs_tools!();
    let image = three_checkpoints();
    image.bitmap(&["--add", "--disable"], "foreign");
    let info = checkmap!("info", image.path, "--json").json();
    assert_eq!((&info["bitmaps"][3]["role"], &info["bitmaps"][3]["since"]), (&json!("foreign"), &json!(null)));
    checkmap!("delete", image.path, "mon").ok();
    assert!(bitmaps(&image).contains(&"foreign".to_owned()));
    checkmap!("create", image.path, "foreign").fails(3, "'foreign' exists");
}
