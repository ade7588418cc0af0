//! The cumulative and the unknown model, and backing files.

use crate::support::{TestImage, run};
use crate::{bitmaps, checkmap, extents, mark_inconsistent, needs_tools, same_file, three_checkpoints};
use serde_json::json;
use std::ffi::OsStr;
use std::fs;

/// Two bitmaps that both record, as libvirt leaves them; the older one holds more.
fn cumulative() -> TestImage {
    let image = TestImage::create("", "1M");
    image.bitmap(&["--add"], "z-older");
    image.write(0, 65536);
    image.bitmap(&["--add"], "a-younger");
    image.write(131_072, 65536);
    image
}

#[test]
fn cumulative_checkpoints_have_no_parents_and_are_ordered_by_their_bits() {
    needs_tools!();
    let image = cumulative();
    let info = checkmap!("info", image.path, "--json").json();
    assert_eq!(info["model"], "cumulative");
    let list = checkmap!("list", image.path, "--json").json();
    assert_eq!((&list[0]["name"], &list[0]["parent"]), (&json!("z-older"), &json!(null)));
    assert_eq!(list[1]["name"], "a-younger");
    assert!(list[0].get("ordered").is_none());
    checkmap!("create", image.path, "twin-1").ok();
    checkmap!("create", image.path, "twin-2").ok();
    let list = checkmap!("list", image.path, "--json");
    list.says("cannot be told");
    let list = list.json();
    assert_eq!((&list[2]["name"], &list[2]["ordered"]), (&json!("twin-1"), &json!(false)));
}

#[test]
fn a_cumulative_diff_is_that_one_bitmap_and_has_no_until() {
    needs_tools!();
    let image = cumulative();
    let diff = checkmap!("diff", image.path, "--since", "z-older", "--json").json();
    assert_eq!(extents(&diff), [(0, 65536), (131_072, 65536)]);
    checkmap!("diff", image.path, "--since", "z-older", "--until", "a-younger").fails(3, "--until");
}

#[test]
fn changing_a_cumulative_checkpoint_is_plain_and_warns_of_libvirt() {
    needs_tools!();
    let image = cumulative();
    checkmap!("rename", image.path, "a-younger", "b").says("libvirt");
    assert_eq!(bitmaps(&image), ["+z-older", "+b"]);
    let delete = checkmap!("delete", image.path, "b");
    delete.says("libvirt");
    assert_eq!(bitmaps(&image), ["+z-older"]);
    let create = checkmap!("create", image.path, "c", "--model", "cumulative");
    create.ok();
    assert_eq!(bitmaps(&image), ["+z-older", "+c"]);
    image.assert_clean("cumulative changes");
}

#[test]
fn create_on_a_lone_plain_bitmap_warns_of_libvirt() {
    needs_tools!();
    let image = TestImage::create("", "1M");
    image.bitmap(&["--add"], "mon");
    checkmap!("create", image.path, "tue").says("libvirt");
    assert_eq!(bitmaps(&image), ["mon", "+mon->tue"]);
}

#[test]
fn an_unknown_model_is_refused_unless_the_caller_says_which() {
    needs_tools!();
    let image = TestImage::create("", "1M");
    image.bitmap(&["--add", "--disable"], "a");
    image.bitmap(&["--add"], "b");
    let info = checkmap!("info", image.path, "--json");
    assert_eq!((info.json()["model"].clone(), info.json()["checkpoints"].clone()), (json!("unknown"), json!([])));
    info.says("--model");
    checkmap!("list", image.path).fails(3, "--model");
    checkmap!("diff", image.path, "--since", "b").fails(3, "--model");
    checkmap!("create", image.path, "c").fails(3, "--model");
    checkmap!("delete", image.path, "b").fails(3, "--model");
    checkmap!("rename", image.path, "b", "c").fails(3, "--model");
    let list = checkmap!("list", image.path, "--json", "--model", "interval").json();
    assert_eq!((list.as_array().unwrap().len(), &list[0]["name"]), (1, &json!("b")));
    checkmap!("diff", image.path, "--since", "b", "--model", "cumulative").ok();
    checkmap!("delete", image.path, "b", "--model", "cumulative", "--dry-run").ok();
    checkmap!("list", image.path, "--model", "unknown").fails(2, "interval");
}

#[test]
fn an_inconsistent_bitmap_blocks_what_needs_it_and_can_be_forced_away() {
    needs_tools!();
    let image = three_checkpoints();
    mark_inconsistent(&image.path, b"tue->wed");
    let before = fs::read(&image.path).unwrap();
    checkmap!("diff", image.path, "--since", "mon").fails(3, "inconsistent");
    checkmap!("diff", image.path, "--since", "mon", "--until", "wed").ok();
    checkmap!("dump", image.path, "--bitmap", "tue->wed").fails(3, "inconsistent");
    checkmap!("create", image.path, "thu").fails(3, "--all-inconsistent");
    checkmap!("delete", image.path, "wed").fails(3, "--force-inconsistent");
    checkmap!("merge", image.path, "tue->wed", "--into", "mon").fails(3, "inconsistent");
    assert!(same_file(&image.path, &before));
    let plan = checkmap!("delete", image.path, "--all-inconsistent", "--dry-run");
    assert_eq!(plan.ok(), "remove 'mon'\nremove 'mon->tue'\nremove 'tue->wed'\n");
    plan.says("every diff since 'mon', 'tue', 'wed' is lost");
    checkmap!("delete", image.path, "wed", "--force-inconsistent").says("next backup must be full");
    assert_eq!(bitmaps(&image), [""; 0]);
    image.assert_clean("forced delete");
}

#[test]
fn a_bitmap_that_does_not_record_is_a_gap_that_nothing_hides() {
    needs_tools!();
    let image = three_checkpoints();
    image.bitmap(&["--disable"], "tue->wed");
    checkmap!("diff", image.path, "--since", "mon").fails(3, "does not record");
    checkmap!("diff", image.path, "--since", "mon", "--until", "wed").ok();
    checkmap!("create", image.path, "thu").fails(3, "does not record");
    image.bitmap(&["--enable"], "mon->tue");
    checkmap!("diff", image.path, "--since", "mon", "--until", "wed").fails(3, "still records");
}

/// An overlay over an image, both with a checkpoint mon.
fn layers() -> TestImage {
    let image = TestImage::create("", "1M");
    checkmap!("create", image.path, "mon").ok();
    let over = image.folder.path().join("over.qcow2");
    let args = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "disk.qcow2"].map(OsStr::new);
    run("qemu-img", &[args.as_slice(), &[over.as_os_str()]].concat());
    TestImage { path: over, ..image }
}

#[test]
fn a_layer_below_that_takes_part_counts_unless_told_not_to_look() {
    needs_tools!();
    let image = layers();
    checkmap!("create", image.path, "mon").fails(3, "knows a checkpoint 'mon' already");
    image.bitmap(&["--add"], "mon");
    let before = fs::read(&image.path).unwrap();
    checkmap!("diff", image.path, "--since", "mon").ok();
    checkmap!("rename", image.path, "mon", "m", "--dry-run").ok();
    checkmap!("delete", image.path, "mon", "--dry-run").ok();
    assert!(same_file(&image.path, &before));
    checkmap!("dump", image.path, "--bitmap", "mon").ok();
    checkmap!("diff", image.path, "--since", "mon", "--top-layer-only").ok();
    checkmap!("rename", image.path, "mon", "m", "--top-layer-only").ok();
    checkmap!("diff", image.path, "--since", "m").ok();
    checkmap!("delete", image.path, "m").ok();
    let info = checkmap!("info", image.path, "--json").json();
    assert_eq!(info["backing_file"], "disk.qcow2");
}

#[test]
fn a_layer_below_that_cannot_be_read_is_refused() {
    needs_tools!();
    let image = layers();
    checkmap!("create", image.path, "other").ok();
    fs::remove_file(image.folder.path().join("disk.qcow2")).unwrap();
    checkmap!("diff", image.path, "--since", "other").fails(3, "cannot be read");
    checkmap!("diff", image.path, "--since", "other", "--top-layer-only").ok();
}
