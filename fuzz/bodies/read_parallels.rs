//! Any bytes as a Parallels image: nothing that reads may panic, change a byte, or contradict itself.
//!
//! A checksum keeps mutations out of the list of bitmaps, so each input is read twice: as it is, and with the checksum made right.

use crate::memory::{Memory, open};
use checkmap::image::{Access, Image, OpenOptions};
use checkmap::progress::Unobserved;
use checkmap::{ErrorKind, Granularity};
use md5::{Digest, Md5};
use std::sync::Arc;

/// Reads the bytes as they are, and with their checksum made right.
pub(crate) fn read_parallels(bytes: &[u8]) {
    look_at(bytes);
    let mut repaired = bytes.to_vec();
    if repair(&mut repaired).is_some() {
        look_at(&repaired);
    }
}

fn look_at(bytes: &[u8]) {
    let storage = Arc::new(Memory::new(bytes));
    if let Ok(image) = open(&storage, Access::Read)
        && image.format() == "parallels"
    {
        let report = image.check(&mut Unobserved).expect("memory can be read, and nobody stops the check");
        let found = report.errors + report.unusable > 0;
        assert!(image.trouble().is_none() || found, "{:?} is not in the report {report:?}", image.trouble());
        for state in image.bitmaps() {
            let read = image.read_bitmap(&state.name, 0, u64::MAX);
            let Ok(whole) = read else {
                assert!(found, "{:?} is not in the report {report:?}", read.err());
                continue;
            };
            whole.validate().expect("a bitmap that was read keeps its own rules");
            let size = image.virtual_size();
            assert!(whole.dirty_bytes() <= size, "more is dirty than there is");
            let summary = image.summarize(&state.name).expect("what can be read can be summed up");
            assert_eq!(summary.dirty_bytes, Some(whole.dirty_bytes()));
            let (offset, len_bytes) = (size / 3, size / 2);
            let window = image.read_bitmap(&state.name, offset, len_bytes).expect("a part of it can be read");
            assert!(
                window.extents(offset, len_bytes).eq(whole.extents(offset, len_bytes)),
                "a window shows something else"
            );
        }
        never_changes(&storage);
    }
    assert!(storage.holds(bytes), "something changed the image");
}

/// No plan is made or carried out.
fn never_changes(storage: &Arc<Memory>) {
    let opened: checkmap::Result<Image> =
        Image::open_storage(Arc::clone(storage) as _, "in-memory.hds".as_ref(), &OpenOptions::new(Access::Write));
    let mut image = opened.expect("it was opened for reading");
    let granularity = Granularity::from_bits(16).expect("a granularity");
    assert!(image.plan_create(b"monday", Some(granularity), None).is_err());
    let dropped = image.drop_all(true, &mut Unobserved);
    assert!(dropped.as_ref().map_or_else(|error| error.kind() == ErrorKind::CannotStore, Vec::is_empty), "{dropped:?}");
}

/// Makes the checksum what the bytes say, where the header tells where it is.
fn repair(bytes: &mut [u8]) -> Option<()> {
    let tracks = u32::from_le_bytes(bytes.get(28..32)?.try_into().ok()?);
    let sector = u64::from_le_bytes(bytes.get(56..64)?.try_into().ok()?);
    let at = usize::try_from(sector.checked_mul(512)?).ok()?;
    let end = at.checked_add(usize::try_from(u64::from(tracks) * 512).ok()?)?;
    let sum = Md5::digest(bytes.get(at.checked_add(24)?..end)?);
    bytes.get_mut(at..at + 8)?.copy_from_slice(&0xab23_4cef_23dc_ea87_u64.to_le_bytes());
    bytes.get_mut(at + 8..at + 24)?.copy_from_slice(&sum);
    Some(())
}
