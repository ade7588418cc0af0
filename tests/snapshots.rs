#![forbid(unsafe_code)]
//! Images with internal snapshots, whose table nothing pads.

mod support;

use std::ffi::OsStr;
use support::{TestImage, run};

#[test]
fn an_image_whose_file_ends_within_its_snapshot_table_can_be_checked_and_changed() {
    if !support::tools_are_here() {
        return;
    }
    // One of the lengths fills the last entry's eight bytes, all others leave some of them out.
    for len in 1..=8 {
        let image = TestImage::create("", "1M");
        let name = "n".repeat(len);
        run("qemu-img", &["snapshot".as_ref(), "-c".as_ref(), OsStr::new(&name), image.path.as_os_str()]);
        image.assert_sound("a snapshot");
        image.create_checkpoint("monday", None, None);
        image.assert_sound("a checkpoint after a snapshot");
    }
}
