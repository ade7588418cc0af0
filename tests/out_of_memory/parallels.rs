//! Questions to Parallels images.

use super::bitmaps::Place;
use super::fail_each;
use super::hds::Hds;
use super::images::{Image, after_first, open, text};
use checkmap::capi::image::*;
use checkmap::capi::report::{checkmap_report, checkmap_report_errors, checkmap_report_free};
use checkmap::capi::stored::*;
use checkmap::capi::values::{checkmap_sha256, checkmap_stored, checkmap_summary};
use std::mem::MaybeUninit;
use std::{fs, ptr};

#[test]
fn every_question() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("disk.hds");
    // The bits of each fill a cluster; the list of the bitmaps, and that of the clusters, take more than 1 KiB.
    let bits: Vec<u8> = (0..32_u32 << 10).map(|at| (at * at / 7).to_le_bytes()[0] & 0x55).collect();
    let disk = (0..40).fold(Hds::new(64, 8 * bits.len() as u64), |disk, _| disk.with(1, bits.clone()));
    fs::write(&path, disk.bytes()).expect("an image");
    let before = fs::read(&path).expect("an image");
    let name = disk.bitmaps[7].name();

    let is_untouched = || fs::read(&path).expect("an image") == before;
    let opened = || {
        let mut image = Image(ptr::null_mut());
        assert_eq!(open(&path, CHECKMAP_OPEN_RDONLY, &raw mut image.0), 0, "{}", super::last_error());
        image
    };
    let nothing = || Image(ptr::null_mut());
    let opening = |image: &mut Image| open(&path, CHECKMAP_OPEN_RDONLY, &raw mut image.0).into();
    fail_each("open", nothing, opening, |image, _| image.0.is_null(), |image| !image.0.is_null());
    let list = |image: &mut Image| {
        let mut out = [const { MaybeUninit::<checkmap_stored>::uninit() }; 4];
        // SAFETY: the handle is alive, here and below, and there is room for as many.
        unsafe { checkmap_stored_list(image.0, out.as_mut_ptr().cast(), out.len()) }
    };
    fail_each("stored_list", after_first(opened), list, |_, _| is_untouched(), |_| is_untouched());
    let read = |(image, out): &mut (Image, Place)| {
        let (name, len) = text(&name);
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
    let dirty = i64::try_from(bits.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>()).expect("few") * 512;
    let summarize = |image: &mut Image| {
        let ((name, len), mut out) = (text(&name), MaybeUninit::<checkmap_summary>::uninit());
        // SAFETY: as above; the place is ours, and written also where the call fails.
        unsafe {
            let status = i64::from(checkmap_stored_summarize(image.0, name, len, out.as_mut_ptr()));
            assert_eq!(out.assume_init().dirty_bytes, if status < 0 { -1 } else { dirty });
            status
        }
    };
    fail_each("stored_summarize", after_first(opened), summarize, |_, _| is_untouched(), |_| is_untouched());
    let hash = |image: &mut Image| {
        let ((name, len), mut out) = (text(&name), MaybeUninit::<checkmap_sha256>::uninit());
        // SAFETY: as above; the place is ours, and written also where the call fails.
        unsafe {
            let status = i64::from(checkmap_stored_sha256(image.0, name, len, out.as_mut_ptr()));
            assert_eq!(out.assume_init().bytes == [0; 32], status < 0);
            status
        }
    };
    fail_each("stored_sha256", after_first(opened), hash, |_, _| is_untouched(), |_| is_untouched());
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
            assert_eq!(errors, 0);
            errors
        }
    };
    fail_each("check", after_first(opened), check, |_, _| is_untouched(), |_| is_untouched());
}
