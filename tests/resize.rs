#![forbid(unsafe_code)]
//! Disks that change their size between two backups: what the bitmaps say afterwards, and what a backup program has to
//! add from its own knowledge of the old size.

mod support;

use checkmap::Extent;
use checkmap::image::Access;
use support::ours::{changed, copy, first_difference};
use support::{TestImage, nbd, run};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GRANULE: u64 = 64 * KIB;

/// A size in the middle of a granule.
const SIZE: u64 = 8 * MIB + 5 * 512;

impl TestImage {
    fn resize(&self, size: u64) {
        let size = size.to_string();
        run("qemu-img", &["resize".as_ref(), "-q".as_ref(), "--shrink".as_ref(), self.path.as_os_str(), size.as_ref()]);
        self.assert_sound("a resize");
    }

    /// The dirty extents of a bitmap; QEMU and we must see the same.
    fn dirty(&self, since: &str, bitmap: &str) -> Vec<Extent> {
        let ours = self.changed(since, None);
        assert_eq!(ours, nbd::dirty(&self.path, bitmap), "QEMU sees what we see in {bitmap}");
        ours
    }
}

fn image_with_checkpoint() -> Option<TestImage> {
    if !support::tools_are_here() {
        return None;
    }
    let image = TestImage::create("", &SIZE.to_string());
    image.io(&["write -P 1 0 1M".to_owned(), format!("write -P 2 {} 4096", SIZE - 4096)]);
    image.create_checkpoint("monday", None, None);
    Some(image)
}

fn extent(offset: u64, end: u64) -> Extent {
    Extent { offset, len_bytes: end - offset }
}

fn assert_same(restored: &[u8], disk: &[u8], what: &str) {
    assert_eq!(first_difference(restored, disk), None, "{what}: the first byte that differs");
}

#[test]
fn the_area_that_a_disk_grew_by_is_clean_until_it_is_written() {
    let Some(image) = image_with_checkpoint() else { return };
    image.write(3 * MIB, 1);
    image.resize(12 * MIB + 512);
    assert_eq!(image.dirty("monday", "monday"), [extent(3 * MIB, 3 * MIB + GRANULE)]);

    image.write(12 * MIB, 512);
    image.write(10 * MIB, GRANULE);
    let written =
        [extent(3 * MIB, 3 * MIB + GRANULE), extent(10 * MIB, 10 * MIB + GRANULE), extent(12 * MIB, 12 * MIB + 512)];
    assert_eq!(image.dirty("monday", "monday"), written);
}

#[test]
fn a_partial_last_granule_keeps_its_bit_and_speaks_for_all_of_its_bytes_when_the_disk_grows() {
    let Some(image) = image_with_checkpoint() else { return };
    image.write(SIZE - 1, 1);
    assert_eq!(image.dirty("monday", "monday"), [extent(8 * MIB, SIZE)]);
    image.resize(12 * MIB);
    assert_eq!(image.dirty("monday", "monday"), [extent(8 * MIB, 8 * MIB + GRANULE)]);
}

#[test]
fn a_backup_that_adds_the_grown_area_to_the_diff_restores_the_grown_disk() {
    let Some(image) = image_with_checkpoint() else { return };
    let full = image.content();
    image.write(5 * MIB + 1, 70_000);
    image.create_checkpoint("tuesday", None, None);
    let incremental = (image.changed("monday", Some("tuesday")), image.content());

    image.write(2 * MIB, 100);
    image.resize(16 * MIB + 512);
    image.write(9 * MIB, 3 * KIB);
    image.write(SIZE, 1);
    image.create_checkpoint("wednesday", None, None);
    image.assert_sound("a checkpoint after the resize");
    let grown = image.content();

    // What the new area of the disk that is restored to held before is not ours to know.
    let restore = |extents: &[Extent]| {
        let mut disk = full.clone();
        copy(&incremental.0, &incremental.1, &mut disk);
        assert_same(&disk, &incremental.1, "tuesday");
        disk.resize(grown.len(), 0xEE);
        copy(extents, &grown, &mut disk);
        disk
    };
    let mut extents = image.changed("tuesday", Some("wednesday"));
    assert_ne!(first_difference(&restore(&extents), &grown), None, "a resize is not a write: the diff alone is short");
    extents.push(extent(SIZE, grown.len() as u64));
    assert_same(&restore(&extents), &grown, "wednesday");

    // The bitmap of the days before the resize is of the new size too, and names the same changes.
    let image = image.open(Access::Read);
    assert_eq!(changed(&image, "monday", Some("tuesday")), incremental.0);
    let since_monday = changed(&image, "monday", Some("wednesday"));
    let mut disk = full;
    disk.resize(grown.len(), 0xEE);
    copy(&since_monday, &grown, &mut disk);
    copy(&[extent(SIZE, grown.len() as u64)], &grown, &mut disk);
    assert_same(&disk, &grown, "wednesday from monday's full backup");
}

#[test]
fn checkpoints_made_before_a_resize_can_be_deleted_after_it() {
    let Some(image) = image_with_checkpoint() else { return };
    for name in ["tuesday", "wednesday"] {
        image.write(4 * MIB, 1);
        image.create_checkpoint(name, None, None);
    }
    image.resize(12 * MIB + 512);
    image.write(12 * MIB, 512);
    let before = image.changed("monday", None);
    for name in ["tuesday", "wednesday"] {
        image.delete_checkpoint(name);
        image.assert_sound("a deletion");
    }
    assert_eq!(image.dirty("monday", "monday"), before);
    assert_eq!(before, [extent(4 * MIB, 4 * MIB + GRANULE), extent(12 * MIB, 12 * MIB + 512)]);
}

/// Pins QEMU's behaviour, which nothing in the image lets us tell: a backup program must compare the size with that
/// of the last backup, and after any shrink make a full one.
#[test]
fn a_disk_that_shrinks_and_grows_again_forgets_what_was_cut_off_and_no_bitmap_tells() {
    let Some(image) = image_with_checkpoint() else { return };
    image.write(6 * MIB, MIB);
    let tuesday = image.content();
    image.create_checkpoint("tuesday", None, None);
    image.write(7 * MIB + 512 * KIB, GRANULE);
    image.write(MIB, 1);
    assert_eq!(image.changed("tuesday", None).len(), 2);

    image.resize(6 * MIB);
    image.resize(SIZE);
    let kept = [extent(MIB, MIB + GRANULE)];
    assert_eq!(image.dirty("tuesday", "monday->tuesday"), kept, "only the changes that were not cut off are left");
    assert_eq!(image.changed("monday", Some("tuesday")), [], "the past has forgotten as well");

    // The cut-off area reads as zeros now, so it did change, and the size is what it was: the diff is too short.
    let now = image.content();
    assert_eq!(now.len(), tuesday.len());
    let mut disk = tuesday;
    copy(&image.changed("tuesday", None), &now, &mut disk);
    let first = usize::try_from(6 * MIB).expect("it fits");
    assert_eq!(first_difference(&disk, &now), Some(first));
    assert!(now[first..].iter().all(|byte| *byte == 0));
}
