//! What looks odd and yet must work, or be kept to the byte.

use crate::bases::Base;
use crate::support::raw::{self, Raw};
use crate::support::{folder, nbd, qemu_bitmaps, tools_are_here};
use crate::table::{Operation, diff, perform, qemu_reads, unlocked};
use checkmap::Image;
use checkmap::image::{Access, CheckReport, Severity};
use checkmap::progress::Unobserved;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A damaged copy of `base` in a folder of its own.
fn damaged(base: Base, damage: fn(&mut Raw)) -> (TempDir, PathBuf) {
    let mut raw = base.raw();
    damage(&mut raw);
    let folder = folder();
    let path = folder.path().join("odd.qcow2");
    std::fs::write(&path, raw.bytes).expect("the image can be written");
    (folder, path)
}

fn open(path: &Path) -> Image {
    Image::open(path, &unlocked(Access::Read)).expect("the image opens")
}

fn check(path: &Path) -> CheckReport {
    open(path).check(&mut Unobserved).expect("the check goes to its end")
}

fn has(report: &CheckReport, severity: Severity, text: &str) -> bool {
    report.problems.iter().any(|problem| problem.severity == severity && problem.message.contains(text))
}

#[test]
fn bits_past_the_end_of_the_disk_are_masked_and_reported_and_gone_after_a_merge() {
    if !tools_are_here() {
        return;
    }
    let sound = damaged(Base::Chain, |_| {});
    // The disk has 193 granules: byte 24 holds the last one, and the rest of the cluster stands for nothing.
    let (_folder, path) = damaged(Base::Chain, |raw| {
        let data = raw.data(0);
        raw.put(data + 24, &[0xfe; 200]);
    });
    let report = check(&path);
    assert!(has(&report, Severity::Warning, "past the end of the disk"), "{report:?}");
    assert_eq!((report.errors, report.unusable), (0, 0), "{report:?}");
    let bits = |path: &Path| diff(&open(path)).expect("the diff works");
    assert_eq!(bits(&path), bits(&sound.1));
    perform(Operation::Create, &path).expect("it can be written");
    perform(Operation::Delete, &path).expect("it can be written");
    let report = check(&path);
    assert!(report.problems.is_empty(), "{report:?}");
    assert_eq!(bits(&path), bits(&sound.1));
}

#[test]
fn an_entry_of_all_ones_reads_as_all_dirty_and_survives_a_merge() {
    if !tools_are_here() {
        return;
    }
    // The last cluster is not wholly used: its ones are cut at the disk's end.
    let (_folder, path) = damaged(Base::Chain, |raw| raw.put_u64(raw.table(1), 1));
    let report = check(&path);
    assert!(has(&report, Severity::Warning, "all ones"), "{report:?}");
    assert!(has(&report, Severity::Leak, "refcount"), "{report:?}");
    let everything = |path: &Path| diff(&open(path)).expect("the diff works").dirty_bytes();
    assert_eq!(everything(&path), 98816);
    perform(Operation::Delete, &path).expect("it can be written");
    assert_eq!(everything(&path), 98816);
    assert!(!has(&check(&path), Severity::Warning, "all ones"), "the merge wrote ones past the end of the disk");
    assert_eq!(nbd::dirty(&path, "1").iter().map(|extent| extent.len_bytes).sum::<u64>(), 98816);

    let (_folder, path) = damaged(Base::TwoEntries, |raw| raw.put_u64(raw.table(0), 1));
    assert_eq!(diff(&open(&path)).expect("the diff works").extents(0, 2 << 20).count(), 1);
}

#[test]
fn unknown_autoclear_bits_are_cleared_by_a_change_as_qemu_clears_them() {
    if !tools_are_here() {
        return;
    }
    // Bit 1, raw external data, is known and stays.
    let (_folder, path) =
        damaged(Base::Chain, |raw| raw.put_u64(raw::AUTOCLEAR, raw.u64(raw::AUTOCLEAR) | 0x8000_0102));
    assert_eq!(Raw::read(&path).u64(raw::AUTOCLEAR), 0x8000_0103);
    assert_eq!(check(&path).errors, 0);
    perform(Operation::Create, &path).expect("it can be written");
    assert_eq!(Raw::read(&path).u64(raw::AUTOCLEAR), 3);
}

#[test]
fn a_bitmap_with_extra_data_is_kept_to_the_byte_when_another_is_deleted() {
    if !tools_are_here() {
        return;
    }
    let (_folder, path) = damaged(Base::Cumulative, |raw| raw.replace_entry(0, b"nobody knows", b"monday"));
    let entry = |path: &Path| {
        let raw = Raw::read(path);
        raw.bytes[raw.entry(0)..][..24 + 12 + 6].to_vec()
    };
    let (before, content) = (entry(&path), Raw::read(&path).data(0));
    // The directory that the damage moved is counted by nobody, so only a change that keeps it in place can be made.
    let mut raw = Raw::read(&path);
    let counted = raw.refcount_of(raw.directory());
    raw.put_u16(counted, 1);
    std::fs::write(&path, &raw.bytes).expect("the image can be written");
    perform(Operation::Delete, &path).expect("the other bitmap can be deleted");
    assert_eq!((entry(&path), Raw::read(&path).data(0)), (before, content));
    assert_eq!(open(&path).bitmaps().len(), 1);
}

#[test]
fn an_inconsistent_bitmap_can_be_given_up_and_qemu_agrees() {
    if !tools_are_here() {
        return;
    }
    let (_folder, path) = damaged(Base::Chain, |raw| raw.put_u32(raw.entry(1) + raw::ENTRY_FLAGS, 1));
    let mut image = Image::open(&path, &unlocked(Access::Write)).expect("the image opens");
    let plan = image.plan_delete_all_inconsistent(checkmap::image::Layers::Check, None).expect("a way out");
    image.commit(&plan, &mut Unobserved).expect("it can be written");
    drop(image);
    assert!(qemu_reads(&path));
    let names: Vec<String> = qemu_bitmaps(&path).into_iter().map(|bitmap| bitmap.name).collect();
    assert_eq!(names, ["3"]);
    assert!(check(&path).problems.is_empty());
}
