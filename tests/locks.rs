#![forbid(unsafe_code)]
//! The locks on an image, against other threads of the same process.

mod support;

use checkmap::Image;
use checkmap::image::{Access, OpenOptions};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use support::TestImage;

#[test]
fn a_closed_image_is_free_though_another_thread_starts_processes() {
    if !support::tools_are_here() {
        return;
    }
    let image = TestImage::create("", "1M");
    let done = AtomicBool::new(false);
    let opened = std::thread::scope(|scope| {
        // A process that is just starting holds a copy of every descriptor of this one.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                Command::new("true").status().expect("true runs");
            }
        });
        let opened: checkmap::Result<()> =
            (0..300).try_for_each(|_| Image::open(&image.path, &OpenOptions::new(Access::Write)).map(drop));
        done.store(true, Ordering::Relaxed);
        opened
    });
    opened.expect("each time the image can be opened again");
}
