//! drop: what lies before a checkpoint, one bitmap, all of them; with its warnings and what it asks for.

use crate::gaps::without;
use crate::support::TestImage;
use crate::{bitmaps, checkmap, mark_inconsistent, needs_tools, poke, same_file, three_checkpoints};
use std::fs;

#[test]
fn before_removes_what_is_older() {
    needs_tools!();
    let image = without(&["mon->tue"]);
    let before = fs::read(&image.path).unwrap();
    let dry = checkmap!("drop", image.path, "--before", "wed", "--dry-run");
    assert_eq!(dry.ok(), "remove 'mon'\nrename 'tue->wed' to 'wed'\n");
    dry.says("every diff since 'mon' is lost");
    assert!(same_file(&image.path, &before));
    checkmap!("drop", image.path, "--before", "wed").says("every diff since 'mon' is lost");
    assert_eq!(bitmaps(&image), ["wed", "+wed->thu"]);
    checkmap!("drop", image.path, "--before", "wed").says("nothing to do");
    checkmap!("drop", image.path, "--before", "sun").fails(3, "'sun'");
    image.assert_clean("drop --before");
}

#[test]
fn one_bitmap_goes_by_its_own_name() {
    needs_tools!();
    let image = three_checkpoints();
    image.bitmap(&["--add"], "theirs");
    mark_inconsistent(&image.path, b"theirs");
    checkmap!("drop", image.path, "--bitmap", "theirs").ok();
    checkmap!("drop", image.path, "--bitmap", "mon->tue").says("every diff is lost that needs what was written");
    assert_eq!(bitmaps(&image), ["mon", "+tue->wed"]);
    checkmap!("drop", image.path, "--bitmap", "wed").fails(3, "no bitmap is named 'wed'");
    image.assert_clean("drop --bitmap");
}

#[test]
fn an_unusable_bitmap_goes_too() {
    needs_tools!();
    let image = three_checkpoints();
    // A type of bitmap that nobody knows.
    poke(&image.path, crate::entry_of(&image.path, b"mon->tue") + 16, |_| 9);
    checkmap!("delete", image.path, "tue").fails(1, "`checkmap drop --bitmap 'mon->tue'`");
    checkmap!("drop", image.path, "--bitmap", "mon->tue").ok();
    assert_eq!(bitmaps(&image), ["mon", "+tue->wed"]);
    image.assert_clean("an unusable bitmap is dropped");
}

#[test]
fn all_of_them_go_and_foreign_ones_need_a_yes() {
    needs_tools!();
    let image = three_checkpoints();
    image.bitmap(&["--add", "--disable"], "theirs");
    let before = fs::read(&image.path).unwrap();
    checkmap!("drop", image.path, "--all").fails(3, "'theirs' (if nobody needs them, insist with --yes");
    let dry = checkmap!("drop", image.path, "--all", "--dry-run");
    assert_eq!(dry.status, Some(3), "{}", dry.stderr);
    let dry = checkmap!("drop", image.path, "--all", "--yes", "--dry-run");
    assert!(dry.ok().contains("remove 'theirs'\ndrop the bitmap directory\n"));
    assert!(same_file(&image.path, &before));
    checkmap!("drop", image.path, "--all", "--yes").says("every diff since 'mon', 'tue', 'wed' is lost");
    assert_eq!(bitmaps(&image), [""; 0]);
    checkmap!("drop", image.path, "--all").says("nothing to do");
    checkmap!("create", image.path, "new").ok();
}

#[test]
fn whose_cumulative_bitmaps_go_is_said() {
    needs_tools!();
    let image = TestImage::create("", "1M");
    image.bitmap(&["--add"], "a");
    image.bitmap(&["--add"], "b");
    checkmap!("drop", image.path, "--before", "a").fails(3, "cumulative");
    checkmap!("drop", image.path, "--all").says("'a', 'b' are cumulative checkpoints, as libvirt makes them");
    assert_eq!(bitmaps(&image), [""; 0]);
}

#[test]
fn a_damaged_directory_that_keeps_qemu_from_opening_the_image_goes() {
    needs_tools!();
    let image = three_checkpoints();
    // The length of the second name reaches past the directory.
    poke(&image.path, crate::entry_of(&image.path, b"mon->tue") + 18, |_| 0xff);
    let opens = || crate::support::try_run("qemu-io", &["-c".as_ref(), "read 0 1".as_ref(), image.path.as_os_str()]);
    assert!(!opens().status.success(), "the machine does not start");
    checkmap!("create", image.path, "thu").fails(1, "`checkmap drop --all`");
    checkmap!("drop", image.path, "--all", "--dry-run").says("what else it held cannot be told");
    checkmap!("drop", image.path, "--all").says("what else it held cannot be told");
    assert!(opens().status.success());
    assert_eq!(bitmaps(&image), [""; 0]);
    checkmap!("create", image.path, "thu").ok();
}

#[test]
fn what_to_drop_is_said_once() {
    for args in [
        &["drop", "/absent"][..],
        &["drop", "/absent", "--all", "--before", "x"],
        &["drop", "/absent", "--bitmap", "x", "--before", "x"],
        &["drop", "/absent", "--yes"],
    ] {
        let all: Vec<_> = args.iter().map(Into::into).collect();
        let ran = crate::Ran::of(crate::command(&all).output().unwrap());
        assert_eq!((ran.status, ran.stdout.len()), (Some(2), 0), "{args:?}: {}", ran.stderr);
    }
}
