//! Calls on images.

use super::bitmaps::Place;
use super::{fail_each, last_error};
use checkmap::capi::checkpoint::*;
use checkmap::capi::image::*;
use checkmap::capi::options::checkmap_opts;
use checkmap::capi::report::{checkmap_report, checkmap_report_errors, checkmap_report_free};
use checkmap::capi::stored::*;
use checkmap::capi::values::{checkmap_checkpoint, checkmap_stored, checkmap_summary};
use std::cell::Cell;
use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, ptr};

/// The checkpoints that follow the first three.
const YOUNGER: usize = 140;

pub(super) struct Image(pub(super) *mut checkmap_image);

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: the handle is alive or NULL, and nobody uses it afterwards.
        unsafe { checkmap_image_close(self.0) }
    }
}

pub(super) fn text(text: &str) -> (*const c_char, usize) {
    (text.as_ptr().cast(), text.len())
}

pub(super) fn open(path: &Path, flags: u32, out: *mut *mut checkmap_image) -> i32 {
    let (path, len) = text(path.to_str().expect("a path in UTF-8"));
    // SAFETY: the path has as many bytes, and the place is the caller's.
    unsafe { checkmap_image_open(path, len, flags, out) }
}

fn run(program: &str, arguments: &[&str]) {
    assert!(Command::new(program).args(arguments).status().expect("QEMU's tools").success(), "{program} {arguments:?}");
}

/// An image with the checkpoints a, b and c, and younger ones whose list of places alone takes more than 1 KiB.
fn make(folder: &Path) -> PathBuf {
    let path = folder.join("made.qcow2");
    let name = path.to_str().expect("a path in UTF-8");
    run("qemu-img", &["create", "-q", "-f", "qcow2", name, "4G"]);
    for (bitmap, before, write) in [("a", None, "1M"), ("a->b", Some("a"), "700M"), ("b->c", Some("a->b"), "2G")] {
        before.into_iter().for_each(|before| run("qemu-img", &["bitmap", "--disable", name, before]));
        run("qemu-img", &["bitmap", "--add", "-g", "512", name, bitmap]);
        run("qemu-io", &["-f", "qcow2", "-c", &format!("write {write} 300k"), name]);
    }
    let mut image = Image(ptr::null_mut());
    assert_eq!(open(&path, CHECKMAP_OPEN_RDWR, &raw mut image.0), 0, "{}", last_error());
    for number in 0..YOUNGER {
        let name = format!("{number} {}", "long name ".repeat(4));
        let (name, len) = text(&name);
        // SAFETY: the handle is alive, and the name has as many bytes.
        assert_eq!(unsafe { checkmap_checkpoint_create(image.0, name, len, 0) }, 0, "{}", last_error());
    }
    path
}

fn warnings(image: &Image) -> String {
    // SAFETY: the handle is alive, and each text lives as long as no call changes the image.
    let warning = |number| unsafe { CStr::from_ptr(checkmap_image_warning(image.0, number)) };
    // SAFETY: as above.
    let count = unsafe { checkmap_image_warnings(image.0) };
    (0..).take(count.try_into().expect("a count")).map(|number| warning(number).to_string_lossy()).collect()
}

/// Makes nothing the first time: what the others are compared with would hold the locks.
pub(super) fn after_first(make: impl Fn() -> Image) -> impl Fn() -> Image {
    let is_first = Cell::new(true);
    move || if is_first.replace(false) { Image(ptr::null_mut()) } else { make() }
}

/// With this `qemu-img check` ends where clusters are leaked and all else is well.
const LEAKS: i32 = 3;

const NO_OPTIONS: *const checkmap_opts = ptr::null();

/// A change of an image, by its handle.
type Change = fn(*mut checkmap_image) -> i32;

/// An image, and how it was made.
struct Files {
    _folder: tempfile::TempDir,
    made: PathBuf,
    path: PathBuf,
    before: Vec<u8>,
}

impl Files {
    fn make() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (made, path) = (make(folder.path()), folder.path().join("image.qcow2"));
        let before = fs::read(&made).expect("an image");
        let files = Self { _folder: folder, made, path, before };
        files.renew();
        files
    }

    fn renew(&self) {
        fs::copy(&self.made, &self.path).expect("a copy");
    }

    fn open(&self) -> Image {
        let mut image = Image(ptr::null_mut());
        assert_eq!(open(&self.path, CHECKMAP_OPEN_RDWR, &raw mut image.0), 0, "{}", last_error());
        image
    }

    fn is_untouched(&self) -> bool {
        fs::read(&self.path).expect("an image") == self.before
    }

    /// A change may have written to free clusters: nothing refers to them.
    fn is_as_before(&self) -> bool {
        let (now, before) = (fs::read(&self.path).expect("an image"), &self.before);
        let check = || self.check().status().expect("QEMU's tools");
        now == *before || now.len() == before.len() && now[..1 << 16] == before[..1 << 16] && check().success()
    }

    fn check(&self) -> Command {
        let mut check = Command::new("qemu-img");
        check.args(["check", "-q", "-U"]).arg(&self.path);
        check
    }
}

#[test]
fn every_question() {
    let files = Files::make();
    let (opened, is_untouched) = (|| files.open(), || files.is_untouched());
    let path = &files.path;
    let nothing = || Image(ptr::null_mut());
    let is_null = |image: &Image, _: &Image| image.0.is_null();
    fail_each(
        "open",
        nothing,
        |image| open(path, CHECKMAP_OPEN_RDWR, &raw mut image.0).into(),
        is_null,
        |image| !image.0.is_null(),
    );
    // SAFETY: the handle is alive, here and below.
    let count = |image: &mut Image| unsafe { checkmap_checkpoint_list(image.0, ptr::null_mut(), 0) };
    fail_each("count", after_first(opened), count, |_, _| is_untouched(), |_| is_untouched());
    let list = |image: &mut Image| {
        let mut out = [const { MaybeUninit::<checkmap_checkpoint>::uninit() }; 4];
        // SAFETY: as above, and there is room for as many.
        unsafe { checkmap_checkpoint_list(image.0, out.as_mut_ptr().cast(), out.len()) }
    };
    fail_each("list", after_first(opened), list, |_, _| is_untouched(), |_| is_untouched());
    let diff = |(image, out): &mut (Image, Place)| {
        let (since, len) = text("a");
        // SAFETY: as above, and the name has as many bytes.
        unsafe { checkmap_diff(image.0, since, len, ptr::null(), 0, &raw mut out.0) }.into()
    };
    let first = after_first(opened);
    fail_each(
        "diff",
        || (first(), Place(ptr::null_mut())),
        diff,
        |(_, out), _| out.0.is_null() && is_untouched(),
        |(_, out)| !out.0.is_null(),
    );
    let check = |image: &mut Image| {
        let mut report: *mut checkmap_report = ptr::null_mut();
        // SAFETY: as above; the report is ours.
        unsafe {
            let status = checkmap_image_check(image.0, ptr::null(), &raw mut report);
            if status < 0 {
                return status.into();
            }
            let errors = checkmap_report_errors(report);
            checkmap_report_free(report);
            errors
        }
    };
    fail_each("check", after_first(opened), check, |_, _| is_untouched(), |_| is_untouched());
    let stored_list = |image: &mut Image| {
        let mut out = [const { MaybeUninit::<checkmap_stored>::uninit() }; 4];
        // SAFETY: as above, and there is room for as many.
        unsafe { checkmap_stored_list(image.0, out.as_mut_ptr().cast(), out.len()) }
    };
    fail_each("stored_list", after_first(opened), stored_list, |_, _| is_untouched(), |_| is_untouched());
    let read = |(image, out): &mut (Image, Place)| {
        let (name, len) = text("a->b");
        // SAFETY: as above, and the name has as many bytes.
        unsafe { checkmap_stored_read(image.0, name, len, 0, u64::MAX, &raw mut out.0) }.into()
    };
    let first = after_first(opened);
    fail_each(
        "stored_read",
        || (first(), Place(ptr::null_mut())),
        read,
        |(_, out), _| out.0.is_null() && is_untouched(),
        |(_, out)| !out.0.is_null(),
    );
    let summarize = |image: &mut Image| {
        let ((name, len), mut out) = (text("a->b"), MaybeUninit::<checkmap_summary>::uninit());
        // SAFETY: as above; the place is ours, and written also where the call fails.
        unsafe {
            let status = i64::from(checkmap_stored_summarize(image.0, name, len, out.as_mut_ptr()));
            assert_eq!(out.assume_init().dirty_bytes, if status < 0 { -1 } else { 300 << 10 });
            status
        }
    };
    fail_each("stored_summarize", after_first(opened), summarize, |_, _| is_untouched(), |_| is_untouched());
}

#[test]
fn changes_of_checkpoints() {
    fail_changes(&[
        ("create", |image| {
            let (name, len) = text("d");
            // SAFETY: as above, and the name has as many bytes.
            unsafe { checkmap_checkpoint_create(image, name, len, 0) }
        }),
        ("delete", |image| {
            let (name, len) = text("b");
            // SAFETY: as above.
            unsafe { checkmap_checkpoint_delete(image, name, len) }
        }),
        ("rename", |image| {
            let ((name, len), (to, to_len)) = (text("b"), text("bee"));
            // SAFETY: as above.
            unsafe { checkmap_checkpoint_rename(image, name, len, to, to_len) }
        }),
        ("drop_before", |image| {
            let (name, len) = text("c");
            // SAFETY: as above.
            unsafe { checkmap_checkpoint_drop_before(image, name, len, NO_OPTIONS) }
        }),
    ]);
}

#[test]
fn changes_of_bitmaps() {
    fail_changes(&[
        ("stored_merge", |image| {
            let sources = [text("a"); 100].map(|(name, _)| name);
            let ((into, into_len), lens) = (text("a->b"), [1; 100]);
            // SAFETY: as above, and both arrays have as many elements.
            unsafe {
                checkmap_stored_merge(image, sources.as_ptr(), lens.as_ptr(), lens.len(), into, into_len, NO_OPTIONS)
            }
        }),
        ("stored_drop", |image| {
            let (name, len) = text("a->b");
            // SAFETY: as above.
            unsafe { checkmap_stored_drop(image, name, len, NO_OPTIONS) }
        }),
        // SAFETY: as above.
        ("stored_drop_all", |image| unsafe { checkmap_stored_drop_all(image, NO_OPTIONS) }),
    ]);
}

fn fail_changes(changes: &[(&str, Change)]) {
    let files = Files::make();
    let is_untouched = || files.is_untouched();
    for (name, change) in changes {
        let copied = || {
            files.renew();
            files.open()
        };
        fail_each(
            name,
            after_first(copied),
            |image| change(image.0).into(),
            |_, _| files.is_as_before(),
            |image| {
                let check = files.check().output();
                match check.expect("QEMU's tools").status.code() {
                    Some(0) => !is_untouched(),
                    // The change is done, and says what it did not come to.
                    Some(LEAKS) => !is_untouched() && warnings(image).contains("`qemu-img check -r leaks`"),
                    _ => false,
                }
            },
        );
    }
}
