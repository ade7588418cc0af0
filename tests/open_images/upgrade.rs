//! From reading to changing on one open image: its locks keep writers out the whole time.

use crate::support::ours::changed;
use crate::{Holder, kind, needs_tools, unlocked, written};
use checkmap::image::{Access, OpenOptions};
use checkmap::progress::Unobserved;
use checkmap::{ErrorKind, Image};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

fn create(image: &mut Image, name: &str) {
    let plan = image.plan_create(name.as_bytes(), None, None).expect("it can be planned");
    image.commit(&plan, &mut Unobserved).expect("it can be done");
}

#[test]
fn a_reader_becomes_a_writer_unless_another_reads() {
    needs_tools!();
    let image = written();
    let mut reader = image.open(Access::Read);
    let other = image.open(Access::Read);
    assert_eq!(kind(reader.upgrade()), ErrorKind::InUse);
    // Refused, it reads on, and is locked as before.
    assert_eq!(changed(&reader, "mon", None).len(), 1);
    drop(other);
    let guest = Holder::open(&image.path, &["-r"]);
    assert_eq!(kind(reader.upgrade()), ErrorKind::InUse);
    drop(guest);
    assert_eq!(kind(Image::open(&image.path, &OpenOptions::new(Access::Write))), ErrorKind::InUse);
    reader.upgrade().expect("nobody else has it");
    reader.upgrade().expect("twice does no harm");
    assert_eq!(kind(Image::open(&image.path, &OpenOptions::new(Access::Read))), ErrorKind::InUse);
    create(&mut reader, "tue");
    drop(reader);
    assert_eq!(image.checkpoints(), ["mon", "tue"]);
    image.assert_sound("a change after reading");
}

#[test]
fn no_writer_gets_in_between() {
    needs_tools!();
    let image = written();
    for refused in [true, false] {
        for _ in 0..20 {
            let mut reader = image.open(Access::Read);
            let other = refused.then(|| image.open(Access::Read));
            let done = AtomicBool::new(false);
            let got_in = std::thread::scope(|scope| {
                let intruder = scope.spawn(|| {
                    let mut got_in = 0;
                    while !done.load(Ordering::Relaxed) {
                        got_in += u32::from(Image::open(&image.path, &OpenOptions::new(Access::Write)).is_ok());
                    }
                    got_in
                });
                for _ in 0..20 {
                    // The intruder's own look is in the way now and then.
                    let _ = reader.upgrade();
                }
                done.store(true, Ordering::Relaxed);
                intruder.join().expect("it ends")
            });
            assert_eq!(got_in, 0, "a writer got in");
            drop(other);
        }
    }
}

#[test]
fn nobody_gets_more_rights_than_he_came_with() {
    needs_tools!();
    let image = written();
    let names = || Image::open(&image.path, &OpenOptions::new(Access::Names)).expect("it opens");
    assert_eq!(kind(names().upgrade()), ErrorKind::InvalidArgument);
    let file = File::open(&image.path).expect("it opens");
    let options = OpenOptions::new(Access::Read);
    let mut by_descriptor = Image::open_file(&file, &image.path, &options).expect("it opens");
    assert_eq!(kind(by_descriptor.upgrade()), ErrorKind::ReadOnly);
    drop(by_descriptor);
    let file = File::options().read(true).write(true).open(&image.path).expect("it opens");
    let mut by_descriptor = Image::open_file(&file, &image.path, &options).expect("it opens");
    by_descriptor.upgrade().expect("the descriptor allows it");
    drop(by_descriptor);
    fs::set_permissions(&image.path, Permissions::from_mode(0o444)).expect("the mode can be set");
    let mut protected = image.open(Access::Read);
    let refused = protected.upgrade().expect_err("nobody has the permission");
    assert_eq!((refused.kind(), refused.errno()), (ErrorKind::ReadOnly, libc::EACCES));
    assert_eq!(changed(&protected, "mon", None).len(), 1);
}

#[test]
fn what_is_changed_is_what_was_opened_whatever_stands_at_the_path() {
    needs_tools!();
    let (image, other) = (written(), written());
    let moved = image.folder.path().join("moved.qcow2");
    let mut reader = image.open(Access::Read);
    fs::rename(&image.path, &moved).expect("it can be renamed");
    fs::copy(&other.path, &image.path).expect("it can be copied");
    let before = fs::read(&image.path).expect("it can be read");
    reader.upgrade().expect("nobody else has it");
    create(&mut reader, "tue");
    assert!(fs::read(&image.path).expect("it can be read") == before, "another file was changed");
    fs::rename(&moved, &image.path).expect("it can be renamed");
    drop(reader);
    assert_eq!(image.checkpoints(), ["mon", "tue"]);
}

#[test]
fn without_locks_a_guest_in_between_is_noticed() {
    needs_tools!();
    let image = written();
    let mut reader = unlocked(&image.path, Access::Read).expect("nobody has it");
    image.write(8 << 20, 512);
    assert_eq!(kind(reader.upgrade()), ErrorKind::Changed);
    let mut reader = unlocked(&image.path, Access::Read).expect("nobody has it");
    reader.upgrade().expect("nobody else wrote");
    create(&mut reader, "tue");
    image.assert_sound("a change without locks");
}
