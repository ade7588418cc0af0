//! Any bytes as an image: nothing that reads may panic, change a byte, or contradict itself.

use crate::memory::{Memory, open};
use checkmap::chain::Name;
use checkmap::image::{Access, DiffRequest, Image, Layers};
use checkmap::progress::Unobserved;
use std::sync::Arc;

/// Opens, lists, sums up, diffs and checks an image of these bytes.
pub(crate) fn read_qcow2(bytes: &[u8]) {
    let storage = Arc::new(Memory::new(bytes));
    if let Ok(names_only) = open(&storage, Access::Names) {
        let _ = (names_only.bitmaps(), names_only.chain(None));
    }
    if let Ok(image) = open(&storage, Access::Read) {
        for state in image.bitmaps() {
            look_at_bitmap(&image, &state.name);
        }
        look_at_chain(&image);
        let report = image.check(&mut Unobserved).expect("memory can be read, and nobody stops the check");
        let unusable = image.trouble().is_none() || report.errors + report.unusable > 0 || image.format_version() < 3;
        assert!(unusable, "{:?} is not in the report {report:?}", image.trouble());
    }
    assert!(storage.holds(bytes), "reading changed the image");
}

fn look_at_bitmap(image: &Image, name: &Name) {
    let summary = image.summarize(name);
    let Ok(whole) = image.read_bitmap(name, 0, u64::MAX) else { return };
    whole.validate().expect("a bitmap that was read keeps its own rules");
    let size = image.virtual_size();
    assert!(whole.dirty_bytes() <= size, "more is dirty than there is");
    let summary = summary.expect("what can be read can be summed up");
    assert_eq!(summary.dirty_bytes, Some(whole.dirty_bytes()));
    assert_eq!(summary.dirty_extents, Some(whole.extent_count()));
    let (offset, len_bytes) = (size / 3, size / 2);
    let window = image.read_bitmap(name, offset, len_bytes).expect("a part of what can be read can be read");
    assert!(window.extents(offset, len_bytes).eq(whole.extents(offset, len_bytes)), "a window shows something else");
}

fn look_at_chain(image: &Image) {
    let Ok(chain) = image.chain(None) else { return };
    for checkpoint in chain.checkpoints() {
        let request = DiffRequest::since(checkpoint.name.as_bytes()).layers(Layers::TopOnly);
        if let Ok(diff) = image.diff(&request, &mut Unobserved) {
            let own = image.read_bitmap(&checkpoint.bitmap, 0, u64::MAX).expect("its bitmap is part of the diff");
            let own = own.to_granularity(diff.bitmap.granularity()).expect("it is one of the span's granularities");
            assert!(own.is_subset(&diff.bitmap).expect("one disk has one size"), "the diff is short");
        }
    }
}
