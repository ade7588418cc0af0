#![forbid(unsafe_code)]
//! A file may end inside its last cluster. Where the bits of a bitmap stand there, only they must be there.

mod support;

use checkmap::Extent;
use checkmap::image::Access;
use support::raw::Raw;
use support::{TestImage, nbd};

/// The bits of this disk take 128 bytes of a cluster of 64 KiB.
const GRANULE: u64 = 65536;
const SIZE: u64 = 1024 * GRANULE;
const BITS: usize = 128;

/// An image whose last cluster holds the bits of its one bitmap, and that ends `after` bytes behind them.
fn ends_behind_the_bits(after: usize) -> (TestImage, Vec<Extent>) {
    let image = TestImage::create("", &SIZE.to_string());
    image.create_checkpoint("mon", Some(GRANULE), None);
    image.io(&["write 0 64k".into(), format!("write {} 64k", SIZE - GRANULE)]);
    let mut raw = Raw::read(&image.path);
    let (old, new) = (raw.data(0), raw.bytes.len().next_multiple_of(raw.cluster()));
    raw.bytes.resize(new + BITS + after, 0);
    raw.bytes.copy_within(old..old + BITS, new);
    let table = raw.table(0);
    raw.put_u64(table, new as u64);
    for (offset, refcount) in [(old, 0), (new, 1)] {
        let at = raw.refcount_of(offset);
        raw.put_u16(at, refcount);
    }
    std::fs::write(&image.path, &raw.bytes).expect("the image can be written");
    let ends = [0, SIZE - GRANULE].map(|offset| Extent { offset, len_bytes: GRANULE });
    (image, ends.to_vec())
}

#[test]
fn bits_at_the_end_of_a_file_are_read_and_can_be_changed() {
    if !support::tools_are_here() {
        return;
    }
    for after in [0, 1, 512, 65536 - BITS] {
        let (image, dirty) = ends_behind_the_bits(after);
        assert_eq!(nbd::dirty(&image.path, "mon"), dirty, "{after}: this is how QEMU reads it");
        assert_eq!(image.changed("mon", None), dirty, "{after}");
        assert!(
            image.open(Access::Read).check(&mut checkmap::progress::Unobserved).expect("a check").problems.is_empty()
        );
        image.create_checkpoint("tue", None, None);
        image.write(GRANULE, GRANULE);
        image.delete_checkpoint("tue");
        let united = [0..2 * GRANULE, SIZE - GRANULE..SIZE];
        let united = united.map(|range| Extent { offset: range.start, len_bytes: range.end - range.start });
        assert_eq!(image.changed("mon", None), united, "{after}");
        assert_eq!(nbd::dirty(&image.path, "mon"), united, "{after}");
        image.assert_sound("changes of a file that ended in its last cluster");
    }
}
