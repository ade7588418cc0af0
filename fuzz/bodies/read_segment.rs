//! Any bytes as a segment: whatever is accepted agrees with a full load, with a merge, and with the roaring crate.
//!
//! Checksums keep mutations out, so each input is read twice: as it is, and with every checksum made right.

use checkmap::io::Memory;
use checkmap::progress::Unobserved;
use checkmap::segment::{self, MergeOptions};
use checkmap::{Bitmap, ErrorKind, Extent, Segment};
use roaring::RoaringTreemap;
use std::sync::Arc;

/// A larger segment only makes each run slower; full chunks are few bytes and many granules.
const MOST_GRANULES: u64 = 1 << 20;

/// Reads the bytes as they are, and with their checksums made right.
pub(crate) fn read_segment(bytes: &[u8]) {
    look_at(bytes.to_vec());
    let mut repaired = bytes.to_vec();
    repair(&mut repaired);
    look_at(repaired);
}

fn look_at(bytes: Vec<u8>) {
    let segment = match Segment::open(Arc::new(Memory(bytes))) {
        Ok(segment) => segment,
        Err(refusal) => {
            let kinds = [ErrorKind::Damaged, ErrorKind::UnknownFormat, ErrorKind::Unsupported];
            assert!(kinds.contains(&refusal.kind()), "{refusal}");
            assert!(refusal.structure().is_some() && refusal.offset().is_some(), "no place is named: {refusal}");
            return;
        }
    };
    let problems = segment.check(&mut Unobserved).expect("memory can be read");
    let (loaded, merged) = (segment.load(0, u64::MAX), merge(&segment));
    let extents: Result<Vec<Extent>, _> = segment.extents(0, u64::MAX).take(1 << 20).collect();
    let Ok(loaded) = loaded else {
        assert!(!problems.is_empty(), "the check sees nothing, yet it cannot be loaded");
        assert!(merged.is_err() && extents.is_err(), "a container is read by one and refused by another");
        return;
    };
    loaded.validate().expect("a bitmap that was read keeps its own rules");
    assert_eq!(segment.dirty_granules(), loaded.dirty_granules());
    assert_eq!(segment.dirty_bytes().expect("it was loaded"), loaded.dirty_bytes());
    assert!(extents.expect("it was loaded").into_iter().eq(loaded.extents(0, u64::MAX).take(1 << 20)));
    let size = segment.size_bytes();
    for (offset, len) in [(0, size / 2), (size / 3, size / 2), (size / 2, u64::MAX)] {
        assert_eq!(segment.count_range(offset, len).expect("it was loaded"), loaded.count_range(offset, len));
        assert_eq!(segment.next_clean(offset, len).expect("it was loaded"), loaded.next_clean(offset, len));
        let window = segment.load(offset, len).expect("it was loaded");
        assert!(window.extents(offset, len).eq(loaded.extents(offset, len)), "a window shows something else");
    }
    let mut written = Vec::new();
    segment::write(&loaded, &mut written).expect("memory can be written");
    assert_eq!(merged.expect("it was loaded"), written, "a merge of one is not what the bitmap is");
    agree_with_roaring(&loaded);
}

fn merge(segment: &Segment) -> checkmap::Result<Vec<u8>> {
    let mut merged = Vec::new();
    segment::merge(&[segment, segment], &mut merged, &MergeOptions::default(), &mut Unobserved)?;
    Ok(merged)
}

/// The loaded bitmap has the values that the roaring crate reads from it.
fn agree_with_roaring(loaded: &Bitmap) {
    if loaded.dirty_granules() > MOST_GRANULES {
        return;
    }
    let mut bytes = Vec::new();
    loaded.write_roaring(&mut bytes).expect("memory can be written");
    let theirs = RoaringTreemap::deserialize_from(&bytes[..]).expect("we write what the crate reads");
    let bits = loaded.granularity().bits();
    let ours = loaded.extents(0, u64::MAX).flat_map(|extent| {
        let last = (extent.end() - 1) >> bits;
        extent.offset >> bits..=last
    });
    assert!(ours.eq(theirs), "the values differ");
}

/// Makes every checksum, and the length at the end, what the bytes say, as far as the trailer tells where they are.
fn repair(bytes: &mut [u8]) {
    let len = bytes.len();
    let Some(trailer) = len.checked_sub(64).filter(|trailer| *trailer >= 64) else { return };
    let sum = |bytes: &[u8]| crc32c::crc32c(bytes).to_le_bytes();
    let number = |bytes: &[u8], at: usize| -> Option<usize> {
        usize::try_from(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?)).ok()
    };
    let header = sum(&bytes[..60]);
    bytes[60..64].copy_from_slice(&header);
    bytes[trailer + 44..trailer + 48].copy_from_slice(&header);
    bytes[trailer + 48..trailer + 56].copy_from_slice(&(len as u64).to_le_bytes());
    let directory = number(bytes, trailer + 24).filter(|from| *from >= 64 && *from <= trailer);
    if let Some(from) = directory {
        for at in (from..trailer).step_by(40).take_while(|at| at + 40 <= trailer) {
            let offset = number(bytes, at + 8).unwrap_or(0);
            let container = u32::from_le_bytes(bytes[at + 24..at + 28].try_into().expect("four bytes")) as usize;
            let place = offset.checked_add(container).and_then(|end| bytes.get(offset..end));
            if let Some(sum) = place.filter(|bytes| !bytes.is_empty()).map(sum) {
                bytes[at + 32..at + 36].copy_from_slice(&sum);
            }
        }
        let entries = number(bytes, trailer + 32).unwrap_or(0).min((trailer - from) / 40);
        let index = from + entries * 40;
        for (page, place) in (from..index).step_by(64 * 40).zip((index..trailer.saturating_sub(23)).step_by(24)) {
            let found = sum(&bytes[page..index.min(page + 64 * 40)]);
            bytes[place + 4..place + 8].copy_from_slice(&found);
        }
        let found = sum(&bytes[index..trailer]);
        bytes[trailer + 40..trailer + 44].copy_from_slice(&found);
    }
    let found = sum(&bytes[trailer..trailer + 56]);
    bytes[trailer + 56..trailer + 60].copy_from_slice(&found);
}
