//! Calls on bitmaps in files.

use super::bitmaps::{Extents, Place, shapes};
use super::{Handle, fail_each, last_error};
use checkmap::capi::report::{checkmap_report, checkmap_report_errors, checkmap_report_free};
use checkmap::capi::segment::*;
use checkmap::capi::values::checkmap_extent;
use std::ffi::c_char;
use std::fs;
use std::path::{Path, PathBuf};
use std::ptr;

/// An open segment.
struct Segment(*mut checkmap_segment);

impl Segment {
    fn open(path: &Path) -> Self {
        let mut segment = ptr::null_mut();
        assert_eq!(open(path, &raw mut segment), 0, "{}", last_error());
        Self(segment)
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: the handle is alive or NULL, and nobody uses it afterwards.
        unsafe { checkmap_segment_close(self.0) }
    }
}

fn text(path: &Path) -> (*const c_char, usize) {
    let path = path.to_str().expect("a path in UTF-8");
    (path.as_ptr().cast(), path.len())
}

fn open(path: &Path, out: *mut *mut checkmap_segment) -> i32 {
    let (path, len) = text(path);
    // SAFETY: the path has as many bytes, and the place is the caller's.
    unsafe { checkmap_segment_open(path, len, out) }
}

fn write(bitmap: &Handle, path: &Path) -> i32 {
    let (path, len) = text(path);
    // SAFETY: the handle is alive, and the path has as many bytes.
    unsafe { checkmap_segment_write(bitmap.0, path, len, ptr::null_mut()) }
}

/// A folder with a segment of each shape.
fn written() -> (tempfile::TempDir, Vec<(&'static str, PathBuf)>) {
    let folder = tempfile::tempdir().expect("a folder");
    let paths = shapes().into_iter().map(|(shape, make)| {
        let path = folder.path().join(shape);
        assert_eq!(write(&make(), &path), 0, "{}", last_error());
        (shape, path)
    });
    let paths = paths.collect();
    (folder, paths)
}

fn files(folder: &Path) -> usize {
    fs::read_dir(folder).expect("a folder").count()
}

#[test]
fn writing_leaves_what_was_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("segment");
    for (shape, make) in shapes() {
        let bitmap = make();
        assert_eq!(write(&bitmap, &path), 0, "{}", last_error());
        let expected = fs::read(&path).expect("it was written");
        fail_each(
            &format!("write {shape}"),
            || fs::write(&path, "before").expect("a file"),
            |()| write(&bitmap, &path).into(),
            |(), ()| fs::read(&path).expect("it is there") == b"before" && files(folder.path()) == 1,
            |()| fs::read(&path).expect("it is there") == expected && files(folder.path()) == 1,
        );
    }
}

#[test]
fn opening_and_loading() {
    let (_folder, paths) = written();
    for ((shape, path), (_, make)) in paths.iter().zip(shapes()) {
        let same = |segment: &Segment| {
            let mut loaded = Handle(ptr::null_mut());
            // SAFETY: the handle is alive, and the place is ours.
            let status = unsafe { checkmap_segment_load(segment.0, 0, u64::MAX, &raw mut loaded.0) };
            status == 0 && loaded == make()
        };
        fail_each(
            &format!("open {shape}"),
            || Segment(ptr::null_mut()),
            |segment| open(path, &raw mut segment.0).into(),
            |segment, _| segment.0.is_null(),
            same,
        );
        fail_each(
            &format!("load {shape}"),
            || (Segment::open(path), Place(ptr::null_mut())),
            // SAFETY: the handle is alive, and the place is ours.
            |(segment, out)| unsafe { checkmap_segment_load(segment.0, 0, u64::MAX, &raw mut out.0) }.into(),
            |(_, out), _| out.0.is_null(),
            |(segment, out)| same(segment) && !out.0.is_null(),
        );
    }
}

#[test]
fn questions() {
    let (_folder, paths) = written();
    for ((shape, path), (_, other)) in paths.iter().zip(paths.iter().cycle().skip(3)) {
        let other = Segment::open(other);
        let ask = |name: &str, ask: &dyn Fn(*const checkmap_segment, &mut Vec<checkmap_extent>) -> i64| {
            let mut expected = Extents::room();
            let status = ask(Segment::open(path).0, &mut expected.0);
            assert!(status >= -1, "{name}: {}", last_error());
            fail_each(
                &format!("{name} of {shape}"),
                || (Segment::open(path), Extents::room(), 0),
                |(segment, out, given)| {
                    *given = ask(segment.0, &mut out.0);
                    // None is no failure.
                    if *given == -1 { 0 } else { *given }
                },
                |_, _| true,
                |(_, out, given)| *given == status && *out == expected,
            );
        };
        // SAFETY: the handles are alive, in all of these, and the room is as long as is said.
        ask("count", &|segment, _| unsafe { checkmap_segment_count(segment) });
        // SAFETY: as above.
        ask("dirty_bytes", &|segment, _| unsafe { checkmap_segment_dirty_bytes(segment) });
        // SAFETY: as above.
        ask("count_range", &|segment, _| unsafe { checkmap_segment_count_range(segment, 70_000, 1 << 24) });
        // SAFETY: as above.
        ask("get", &|segment, _| unsafe { checkmap_segment_get(segment, 3 << 16) }.into());
        // SAFETY: as above.
        ask("next_dirty", &|segment, _| unsafe { checkmap_segment_next_dirty(segment, 70_001, u64::MAX) });
        // SAFETY: as above.
        ask("next_clean", &|segment, _| unsafe { checkmap_segment_next_clean(segment, 70_000, u64::MAX) });
        // SAFETY: as above.
        ask("extents", &|segment, out| unsafe {
            checkmap_segment_extents(segment, 0, u64::MAX, out.as_mut_ptr(), out.len())
        });
        // SAFETY: as above.
        ask("diff", &|segment, out| unsafe {
            checkmap_segment_diff(segment, other.0, 0, u64::MAX, out.as_mut_ptr(), out.len())
        });
        // SAFETY: as above; the report is ours.
        ask("check", &|segment, _| unsafe {
            let mut report: *mut checkmap_report = ptr::null_mut();
            let status = checkmap_segment_check(segment, ptr::null(), &raw mut report);
            if status < 0 {
                return status.into();
            }
            let errors = checkmap_report_errors(report);
            checkmap_report_free(report);
            errors
        });
    }
}

#[test]
fn merging_leaves_what_was_there() {
    let (folder, paths) = written();
    let path = folder.path().join("merged");
    let coarse = folder.path().join("coarse");
    let bitmap = Handle::new(6000 << 16, 4096);
    (0..20).for_each(|n| bitmap.set(n << 18, 5000));
    assert_eq!(write(&bitmap, &coarse), 0, "{}", last_error());
    let picks: [Vec<&Path>; 5] = [
        paths.iter().map(|(_, path)| path.as_path()).collect(),
        paths[2..4].iter().map(|(_, path)| path.as_path()).collect(),
        vec![&paths[6].1, &paths[8].1],
        vec![&paths[3].1, &coarse, &paths[9].1],
        vec![&paths[2].1; 200],
    ];
    for pick in picks {
        let merge = || {
            let segments: Vec<Segment> = pick.iter().map(|path| Segment::open(path)).collect();
            let handles: Vec<_> = segments.iter().map(|segment| segment.0.cast_const()).collect();
            (segments, handles)
        };
        let (to, len) = text(&path);
        let call = |handles: &[*const checkmap_segment]| {
            // SAFETY: the handles are alive, and the path has as many bytes.
            unsafe { checkmap_segment_merge(handles.as_ptr(), handles.len(), to, len, ptr::null(), ptr::null_mut()) }
        };
        assert_eq!(call(&merge().1), 0, "{}", last_error());
        let (expected, count) = (fs::read(&path).expect("it was written"), files(folder.path()));
        fail_each(
            &format!("merge {}", pick.len()),
            || {
                fs::write(&path, "before").expect("a file");
                merge()
            },
            |(_, handles)| call(handles).into(),
            |_, _| fs::read(&path).expect("it is there") == b"before" && files(folder.path()) == count,
            |_| fs::read(&path).expect("it is there") == expected && files(folder.path()) == count,
        );
    }
}
