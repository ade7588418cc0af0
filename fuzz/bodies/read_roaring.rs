//! Any bytes as Roaring of 64 bits, or of 32, against the roaring crate.
//!
//! The crate reads a little more than the format allows and than we do, all of it bytes that no Roaring library writes:
//! bytes after the last container, offsets that point elsewhere, high keys twice or out of order, runs that are more or
//! fewer values than their description says, and run flags of no container. `tests/fuzz_replay/strictness.rs` has one
//! of each. So where the two disagree, ours must be the one that refuses, and must not refuse what the crate would write.

use checkmap::{Bitmap, Granularity};
use roaring::{RoaringBitmap, RoaringTreemap};

/// The most granules that a bitmap can have, so that as few values as possible lie past the end.
const GRANULES: u64 = 1 << 41;

/// Reads the bytes with both, and writes the result.
pub(crate) fn read_roaring(bytes: &[u8]) {
    let granularity = Granularity::from_bits(21).expect("2 MiB is a granularity");
    let size_bytes = GRANULES << granularity.bits();
    let ours = Bitmap::from_roaring(bytes, size_bytes, granularity);
    let theirs = match RoaringTreemap::deserialize_from(bytes) {
        Ok(wide) => Ok((wide, true)),
        // Of 32 bits, as a bitmap by itself.
        Err(refusal) => match RoaringBitmap::deserialize_from(bytes) {
            Ok(narrow) => Ok((RoaringTreemap::from_bitmaps([(0, narrow)]), false)),
            Err(_) => Err(refusal),
        },
    };
    match (ours, theirs) {
        (Ok(ours), Ok((theirs, _))) => {
            ours.validate().expect("a bitmap that was read keeps its own rules");
            assert_eq!(ours.dirty_granules(), theirs.len());
            assert!(granules(&ours).eq(theirs), "the values differ");
            assert_reads_back(&ours);
        }
        (Ok(ours), Err(refusal)) => panic!("we read {ours:?} where the roaring crate refuses: {refusal}"),
        (Err(refusal), Ok((theirs, is_wide))) => {
            let mut canonical = Vec::new();
            let narrow = theirs.bitmaps().next().filter(|_| !is_wide);
            let written = match narrow {
                Some((_, narrow)) => narrow.serialize_into(&mut canonical),
                None => theirs.serialize_into(&mut canonical),
            };
            written.expect("memory can be written");
            let inside = theirs.max().is_none_or(|max| max < GRANULES);
            assert!(canonical != bytes || !inside, "we refuse what the roaring crate writes: {refusal}");
            assert!(refusal.structure().is_some() && refusal.offset().is_some(), "no place is named: {refusal}");
        }
        (Err(_), Err(_)) => {}
    }
}

fn granules(bitmap: &Bitmap) -> impl Iterator<Item = u64> {
    let bits = bitmap.granularity().bits();
    bitmap.extents(0, u64::MAX).flat_map(move |extent| extent.offset >> bits..extent.end().div_ceil(1 << bits))
}

fn assert_reads_back(bitmap: &Bitmap) {
    let mut written = Vec::new();
    bitmap.write_roaring(&mut written).expect("memory can be written");
    assert_eq!(written.len() as u64, bitmap.serialized_len());
    let again = Bitmap::from_roaring(&written, bitmap.size_bytes(), bitmap.granularity()).expect("we wrote it");
    assert_eq!(again, *bitmap);
}
