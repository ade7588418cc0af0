//! Where the roaring crate reads more than we do: the list that the fuzz target relies on.

use checkmap::{Bitmap, ErrorKind, Granularity};
use roaring::RoaringTreemap;

fn words(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The number of groups, and the high key of the first.
fn start(groups: u16, high: u16) -> Vec<u8> {
    words(&[groups, 0, 0, 0, high, 0])
}

/// A group of one array of one value, whose header says where it is.
fn array(value: u16, offset: u16) -> Vec<u8> {
    words(&[12346, 0, 1, 0, 0, 0, offset, 0, value])
}

/// A group of two runs of two values each.
fn runs(flags: u8, described: u16) -> Vec<u8> {
    [words(&[12347, 0]), vec![flags], words(&[0, described - 1, 2, 1, 1, 9, 1])].concat()
}

#[test]
fn what_the_roaring_crate_reads_and_we_refuse_is_this_and_no_more() {
    let granularity = Granularity::from_bits(21).expect("2 MiB is a granularity");
    let next = words(&[0, 0]);
    for sound in [[start(1, 0), array(5, 16)].concat(), [start(1, 0), runs(1, 4)].concat()] {
        assert!(Bitmap::from_roaring(&sound, 1 << 62, granularity).is_ok(), "the cases are built of sound parts");
    }
    for (what, bytes) in [
        ("a byte after the last container", [start(1, 0), array(5, 16), vec![0]].concat()),
        ("an offset that points elsewhere", [start(1, 0), array(5, 17)].concat()),
        ("a high key twice", [start(2, 0), array(5, 16), next.clone(), array(6, 16)].concat()),
        ("high keys that descend", [start(2, 3), array(5, 16), next, array(6, 16)].concat()),
        ("runs of fewer values than described", [start(1, 0), runs(1, 9)].concat()),
        ("a run flag of no container", [start(1, 0), runs(3, 4)].concat()),
    ] {
        assert!(RoaringTreemap::deserialize_from(&bytes[..]).is_ok(), "the roaring crate refuses {what} now");
        let refusal = Bitmap::from_roaring(&bytes, 1 << 62, granularity).expect_err(what);
        assert_eq!(refusal.kind(), ErrorKind::Damaged, "{what}");
    }
}
