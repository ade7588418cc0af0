#![forbid(unsafe_code)]
//! The cases that QEMU pins its own dirty bitmap down with, and the subtle rules of marking, clearing and resizing.
#![allow(clippy::cast_possible_truncation, reason = "test disks are small enough to index")]

use checkmap::{Bitmap, ErrorKind, Extent, Granularity};

/// Powers of the word size, where a bitmap built as a tree of words changes shape.
const L1: u64 = 64;
const L2: u64 = 64 * 64;
const L3: u64 = 64 * 64 * 64;

fn bitmap(size: u64, bits: u32) -> Bitmap {
    Bitmap::new(size, Granularity::from_bits(bits).unwrap()).unwrap()
}

/// A bitmap of one-byte granules and the plain booleans it must agree with after each step.
struct Shadowed {
    bitmap: Bitmap,
    shadow: Vec<bool>,
}

impl Shadowed {
    fn new(size: u64) -> Self {
        Self { bitmap: bitmap(size, 0), shadow: vec![false; size as usize] }
    }

    fn set(&mut self, first: u64, count: u64) -> &mut Self {
        self.bitmap.set(first, count).unwrap();
        self.shadow[first as usize..(first + count) as usize].fill(true);
        self.check()
    }

    fn clear(&mut self, first: u64, count: u64) -> &mut Self {
        self.bitmap.clear(first, count).unwrap();
        self.shadow[first as usize..(first + count) as usize].fill(false);
        self.check()
    }

    fn resize(&mut self, size: u64) -> &mut Self {
        self.bitmap.resize(size).unwrap();
        self.shadow.resize(size as usize, false);
        self.check()
    }

    fn check(&mut self) -> &mut Self {
        self.bitmap.validate().unwrap();
        let dirty = (0..).zip(&self.shadow).filter(|&(_, &dirty)| dirty).map(|(index, _)| index);
        let ours = self.bitmap.extents(0, u64::MAX).flat_map(|extent| extent.offset..extent.end());
        assert!(ours.eq(dirty));
        assert_eq!(self.bitmap.dirty_granules(), self.shadow.iter().filter(|&&dirty| dirty).count() as u64);
        self
    }
}

fn kind<T: std::fmt::Debug>(result: checkmap::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn a_disk_of_no_bytes_is_legal() {
    let mut empty = bitmap(0, 9);
    assert_eq!((empty.granules(), empty.is_empty(), empty.next_dirty(0, u64::MAX)), (0, true, None));
    empty.set_all().unwrap();
    empty.set(0, 0).unwrap();
    empty.set(0, u64::MAX).unwrap();
    empty.clear(0, u64::MAX).unwrap();
    empty.set_bits(0, &[0xff; 9]).unwrap();
    assert!(empty.is_empty());
    assert_eq!(kind(empty.set(0, 1)), ErrorKind::OutOfRange);
    assert_eq!(kind(empty.get(0)), ErrorKind::OutOfRange);
    assert_eq!((empty.next_clean(0, 9), empty.count_range(0, 9), empty.extent_count()), (None, 0, 0));
    empty.resize(513).unwrap();
    assert_eq!((empty.granules(), empty.dirty_bytes()), (2, 0));
}

#[test]
fn the_first_and_the_last_bit_of_an_unaligned_size() {
    Shadowed::new(L3 + 23).set(0, 1).set(L3 + 22, 1);
}

#[test]
fn a_full_bitmap_is_one_extent_from_every_start() {
    let mut full = bitmap(L3, 0);
    full.set_all().unwrap();
    for middle in [0, L1, L2, L3 / 2, L3 - 1] {
        for start in middle.saturating_sub(1)..=middle + 1 {
            let expected = (start < L3).then(|| Extent { offset: start, len_bytes: L3 - start });
            assert_eq!(full.extents(start, u64::MAX).next(), expected, "from {start}");
        }
    }
}

#[test]
fn extents_begin_at_granules_unless_the_window_does_not() {
    let mut bitmap = bitmap(131_072 << 7, 7);
    assert_eq!(bitmap.extents(0, u64::MAX).next(), None);
    bitmap.set(8 << 7, 1).unwrap();
    bitmap.set(131_071 << 7, 1).unwrap();
    let whole: Vec<u64> = bitmap.extents(0, u64::MAX).map(|extent| extent.offset).collect();
    assert_eq!(whole, [8 << 7, 131_071 << 7]);
    let inside: Vec<Extent> = bitmap.extents((8 << 7) + 3, 9).collect();
    assert_eq!(inside, [Extent { offset: (8 << 7) + 3, len_bytes: 9 }]);
    let last: Vec<Extent> = bitmap.extents((131_072 << 7) - 8, u64::MAX).collect();
    assert_eq!(last, [Extent { offset: (131_072 << 7) - 8, len_bytes: 8 }]);
}

#[test]
fn a_copy_of_a_walk_goes_its_own_way_wherever_it_was_made() {
    // Chunks that are packed in memory, where the kernels do that quickly.
    let mut packed = bitmap(3 << 16, 0);
    for granule in (0..3 << 16).filter(|granule: &u64| granule % 217 < 100 && !granule.is_multiple_of(3)) {
        packed.set(granule, 1).unwrap();
    }
    packed.optimize().unwrap();
    let all: Vec<Extent> = packed.extents(0, u64::MAX).collect();
    assert!(all.len() > 20_000);
    for taken in [0, 1, 31, 32, 33, 5000, 9999, all.len() - 33, all.len() - 1, all.len()] {
        let mut ours = packed.extents(0, u64::MAX);
        assert!(ours.by_ref().take(taken).eq(all[..taken].iter().copied()));
        let mut theirs = ours.clone();
        // One enters the next chunks while the other is still in this one.
        let mut found = [Vec::new(), Vec::new()];
        let mut batch = [all[0]; 100];
        loop {
            let filled = ours.fill(&mut batch);
            found[0].extend_from_slice(&batch[..filled]);
            found[1].extend(theirs.by_ref().take(37));
            if filled < batch.len() {
                break;
            }
        }
        let back: Vec<Extent> = theirs.clone().rev().collect();
        let left: Vec<Extent> = theirs.collect();
        assert!(back.iter().rev().eq(&left));
        found[1].extend(left);
        assert!(found[0] == all[taken..] && found[1] == all[taken..], "{taken}");
    }
}

#[test]
fn a_walk_that_clears_behind_and_ahead_of_itself_ends() {
    let mut bitmap = bitmap(L3, 0);
    bitmap.set_all().unwrap();
    let (mut position, mut steps) = (0, 0);
    while let Some(dirty) = bitmap.next_dirty(position, u64::MAX) {
        bitmap.clear(dirty, 1).unwrap();
        position = dirty + 1;
        steps += 1;
        if steps == 70 {
            bitmap.clear_all();
        }
    }
    assert_eq!(steps, 70);
}

#[test]
fn get_sees_all_and_some() {
    let mut bitmap = bitmap(L3, 0);
    bitmap.set_all().unwrap();
    assert!((0..L3).step_by(61).all(|bit| bitmap.get(bit).unwrap()));
    bitmap.clear_all();
    for bit in [10, L1 - 1, L1, L2 - 1, L2] {
        bitmap.set(bit, 1).unwrap();
        assert!(bitmap.get(bit).unwrap() && !bitmap.get(bit + 2).unwrap());
        bitmap.clear(bit, 1).unwrap();
        assert!(!bitmap.get(bit).unwrap());
    }
    assert_eq!(kind(bitmap.get(L3)), ErrorKind::OutOfRange);
}

#[test]
fn set_in_every_shape() {
    Shadowed::new(L3).set(0, L3);
    Shadowed::new(L3).set(10, 1);
    Shadowed::new(L3).set(31, 1).set(L1 - 1, 2).set(L1 + 1, 1).set(L2 - 1, L1 + 2);
    Shadowed::new(L3).set(L1 - 1, L1 + 2).set(L3 - L1, L1).set(L2 - 1, 1).set(L2, 1).set(5, L3 / 2);
    let mut twice = Shadowed::new(L1 * 3);
    twice.set(0, L1 * 3).set(L1, 1);
    let mut overlap = Shadowed::new(L3 * 2);
    overlap.set(L1 - 1, L1 + 2).set(L1 * 2 - 1, L1 + 2).set(0, L1 * 3).set(L1 * 8 - 1, L2);
    overlap.set(L2, 1).set(L3 - 1, 2).set(L1 * 2 - 1, 2 * L2);
}

#[test]
fn clear_in_every_shape() {
    Shadowed::new(L3).clear(0, L3);
    let mut general = Shadowed::new(L3);
    general.set(L1 - 1, L1 + 2).clear(10, L1).clear(L2 - 1, L1 + 2).set(5, L3 / 2).clear(L1 - 1, L1 + 2);
    general.clear(0, L3 - 1).set(0, L3).clear(1, L3 - 2);
    let mut all = Shadowed::new(L3);
    all.set(L1 - 1, L1 + 2).set(L3 - 5, 5);
    all.bitmap.clear_all();
    all.shadow.fill(false);
    all.check();
}

#[test]
fn granules_count_once_however_they_are_touched() {
    let mut bitmap = bitmap(L1, 1);
    bitmap.set(0, 1).unwrap();
    assert_eq!(bitmap.dirty_bytes(), 2);
    bitmap.set(2, 1).unwrap();
    assert_eq!(bitmap.dirty_bytes(), 4);
    bitmap.set(0, 3).unwrap();
    assert_eq!(bitmap.dirty_bytes(), 4);
    bitmap.clear(0, 2).unwrap();
    assert_eq!(bitmap.dirty_bytes(), 2);
}

#[test]
fn resize_keeps_what_stays_and_drops_what_goes() {
    for (size, change) in [
        (L2, 0),
        (L2, 4),
        (L2, -4),
        (L1, 4),
        (L1 + 4, -8),
        (L2 - 2, 4),
        (L2 + 2, -4),
        (L2, 64),
        (L2, -64),
        (L1, -60),
        (65536, 1),
        (65537, -1),
        (65536, -1),
        (65535, 2),
        (196_608, -65536),
        (L2, 131_072),
    ] {
        let new_size = size.checked_add_signed(change).unwrap();
        let mut bits = Shadowed::new(size);
        bits.set(0, 1).set(size - 1, 1).set(new_size.min(size) - 1, 1);
        if new_size < size {
            bits.set(new_size, 1);
        }
        bits.resize(new_size).set(new_size - 1, 1).resize(size);
        let mut full = Shadowed::new(size);
        full.set(0, size).resize(new_size).resize(size);
    }
}

#[test]
fn resize_inside_one_granule_changes_no_bit() {
    let mut bitmap = bitmap(1000, 9);
    bitmap.set(999, 1).unwrap();
    bitmap.resize(513).unwrap();
    assert_eq!(bitmap.extents(0, u64::MAX).collect::<Vec<_>>(), [Extent { offset: 512, len_bytes: 1 }]);
    bitmap.resize(1024).unwrap();
    assert_eq!(bitmap.dirty_bytes(), 512, "the bit speaks for the newly covered bytes");
    bitmap.resize(1500).unwrap();
    assert_eq!(bitmap.next_clean(512, u64::MAX), Some(1024), "the grown area is clean");
    bitmap.resize(512).unwrap();
    assert!(bitmap.is_empty());
    bitmap.resize(1024).unwrap();
    assert!(bitmap.is_empty(), "a dropped bit does not come back");
    assert_eq!(kind(bitmap.resize(u64::MAX)), ErrorKind::InvalidArgument);
    assert_eq!(bitmap.size_bytes(), 1024);
}

#[test]
fn bits_survive_the_way_out_and_in_for_all_pairs_of_places() {
    let places = [0, 1, L1 - 1, L1, L2 - 1, L2, L2 + 1, L3 - 1];
    for start in places {
        for count in places.into_iter().filter(|&count| start + count <= L3) {
            let mut bitmap = bitmap(L3, 0);
            bitmap.set(start, count).unwrap();
            let mut bytes = vec![0xff; L3 as usize / 8];
            bitmap.copy_bits(0, &mut bytes).unwrap();
            for (byte, index) in bytes.iter().zip(0..) {
                let expected = (0..8u64).filter(|bit| (start..start + count).contains(&(index * 8 + bit)));
                assert_eq!(*byte, expected.map(|bit| 1 << bit).sum::<u8>(), "byte {index} of {start}+{count}");
            }
            assert_eq!(Bitmap::from_bits(L3, bitmap.granularity(), &bytes).unwrap(), bitmap);
        }
    }
}

#[test]
fn bits_go_in_and_out_in_parts() {
    let mut bitmap = bitmap(L3 + 23, 0);
    bitmap.set(L2 - 3, 9).unwrap();
    bitmap.set(L3 - 7, 30).unwrap();
    let mut copy = Bitmap::new(L3 + 23, bitmap.granularity()).unwrap();
    for (part, len) in [(L2, L2), (0, L2), (3 * L2, L3 - 3 * L2), (L3, L1), (2 * L2, 8)] {
        let mut bytes = vec![0x5a; len as usize / 8];
        bitmap.copy_bits(part, &mut bytes).unwrap();
        copy.set_bits(part, &bytes).unwrap();
    }
    copy.validate().unwrap();
    assert_eq!(copy, bitmap);
}

#[test]
fn zero_bits_set_nothing_and_clean_nothing() {
    let mut bitmap = bitmap(L3, 0);
    bitmap.set(L2, L1).unwrap();
    let before = bitmap.clone();
    bitmap.set_bits(0, &[0; 1024]).unwrap();
    assert_eq!(bitmap, before);
    assert!(Bitmap::from_bits(L3, before.granularity(), &[0; 1024]).unwrap().is_empty());
}

#[test]
fn bits_past_the_last_granule_are_masked_both_ways() {
    for (granules, len) in [(13, 8), (64, 9), (65_541, 8200), (65_536, 8193), (131_072, 20_000)] {
        let mut bitmap = bitmap(granules * 512 - 100, 9);
        bitmap.set_bits(0, &vec![0xff; len]).unwrap();
        bitmap.validate().unwrap();
        assert_eq!(bitmap.dirty_granules(), granules);
        let mut bytes = vec![0xff; len];
        bitmap.copy_bits(0, &mut bytes).unwrap();
        assert_eq!(bytes.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>(), granules);
        bitmap.set_bits(((granules + 7) & !7) * 512, &[0xff; 3]).unwrap();
        bitmap.resize((granules + 100) * 512).unwrap();
        assert_eq!(bitmap.dirty_granules(), granules, "no phantom bits after growing");
    }
}

#[test]
fn bits_begin_at_a_multiple_of_eight() {
    let mut bitmap = bitmap(L2, 0);
    assert_eq!(kind(bitmap.set_bits(4, &[1])), ErrorKind::InvalidArgument);
    assert_eq!(kind(bitmap.copy_bits(4, &mut [1])), ErrorKind::InvalidArgument);
    let mut bytes = [0xff; 3];
    bitmap.copy_bits(!7, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 3]);
    bitmap.set_bits(!7, &[0xff]).unwrap();
    assert!(bitmap.is_empty());
}

/// Bits that come in pieces take the memory of a container for each chunk, wherever the pieces are cut and whichever are
/// left out, as those of a file are that hold no bit.
#[test]
fn pieces_of_bits_leave_nothing_behind() {
    const CHUNKS: usize = 24;
    let dirty = dense(CHUNKS as u64, 50, 3);
    let byte = |bits: &[bool]| bits.iter().zip(0..).map(|(&bit, place)| u8::from(bit) << place).sum::<u8>();
    let bits: Vec<u8> = dirty.chunks(8).map(byte).collect();
    let most = CHUNKS * (8192 + 64) + 4096;
    for piece in [1024, 2048, 4096, 8192, 3 * 4096, 16_384, 5 * 8192] {
        for left_out in [None, Some(0), Some(1), Some(2)] {
            for swapped in [0, 1] {
                for replaced in [false, true] {
                    let mut bitmap = bitmap(dirty.len() as u64, 0);
                    let mut model = dirty.clone();
                    let pieces = bits.len().div_ceil(piece);
                    for index in (0..pieces.next_multiple_of(2)).map(|index| index ^ swapped).filter(|&at| at < pieces)
                    {
                        let from = index * piece;
                        let to = bits.len().min(from + piece);
                        if Some(index) == left_out {
                            model[8 * from..8 * to].fill(false);
                        } else if replaced {
                            bitmap.replace_bits(8 * from as u64, &bits[from..to]).unwrap();
                        } else {
                            bitmap.set_bits(8 * from as u64, &bits[from..to]).unwrap();
                        }
                    }
                    let mut shadowed = Shadowed { bitmap, shadow: model };
                    shadowed.check();
                    let heap = shadowed.bitmap.heap_bytes();
                    assert!(heap <= most, "{heap} bytes after pieces of {piece}, without {left_out:?}, {swapped}");
                }
            }
        }
    }
}

/// Where bits begin is told in bytes of the disk, whatever a granule is.
#[test]
fn bits_begin_at_a_byte_of_the_disk() {
    let mut bitmap = bitmap(1 << 20, 12);
    bitmap.set_bits(8 << 12, &[0b10]).unwrap();
    assert!(bitmap.extents(0, u64::MAX).eq([Extent { offset: 9 << 12, len_bytes: 1 << 12 }]));
    for wrong in [8, 1 << 12, 12 << 12, (8 << 12) + 1] {
        assert_eq!(kind(bitmap.set_bits(wrong, &[1])), ErrorKind::InvalidArgument, "{wrong}");
        assert_eq!(kind(bitmap.replace_bits(wrong, &[1])), ErrorKind::InvalidArgument, "{wrong}");
        assert_eq!(kind(bitmap.copy_bits(wrong, &mut [])), ErrorKind::InvalidArgument, "{wrong}");
    }
    let mut bytes = [0xff; 2];
    bitmap.copy_bits(8 << 12, &mut bytes).unwrap();
    assert_eq!(bytes, [0b10, 0]);
    bitmap.replace_bits(8 << 12, &[1]).unwrap();
    assert!(bitmap.extents(0, u64::MAX).eq([Extent { offset: 8 << 12, len_bytes: 1 << 12 }]));
}

/// The shapes over which QEMU asks for the next dirty and the next clean byte, in granules.
fn searched_shapes() -> [Vec<(u64, u64)>; 5] {
    [vec![], vec![(L2, 1)], vec![(L2 + 5, L1)], vec![(L2, 1), (L2 + 5, L1), (2 * L2, L3 - 2 * L2)], vec![(0, L3)]]
}

#[test]
fn next_and_previous_agree_with_a_look_at_every_byte() {
    for bits in [0, 1, 4] {
        for shape in searched_shapes() {
            let mut bitmap = bitmap(L3 << bits, bits);
            for &(first, count) in &shape {
                bitmap.set(first << bits, count << bits).unwrap();
            }
            let is_dirty =
                |offset: u64| shape.iter().any(|&(first, count)| (first..first + count).contains(&(offset >> bits)));
            let size = L3 << bits;
            let starts = [0, 1, L1, L2 - 1, L2, L2 + 1, L2 + 5, L2 + L1 + 5, 2 * L2 - 1, 2 * L2, L3 - 1, L3];
            for start in starts.into_iter().flat_map(|start| [start << bits, (start << bits) + 3]) {
                for len in [0, 1, 2, 5, 10, L1 << bits, 3 << 13] {
                    let mut range = start..(start + len).min(size);
                    assert_eq!(bitmap.next_dirty(start, len), range.clone().find(|&offset| is_dirty(offset)));
                    assert_eq!(bitmap.next_clean(start, len), range.clone().find(|&offset| !is_dirty(offset)));
                    assert_eq!(bitmap.previous_dirty(start, len), range.clone().rfind(|&offset| is_dirty(offset)));
                    assert_eq!(bitmap.previous_clean(start, len), range.rfind(|&offset| !is_dirty(offset)));
                }
                for endless in [i64::MAX as u64, u64::MAX] {
                    assert_eq!(bitmap.next_dirty(start, endless), bitmap.next_dirty(start, size));
                    assert_eq!(bitmap.next_clean(start, endless), bitmap.next_clean(start, size));
                }
            }
        }
    }
}

#[test]
fn a_dirty_start_is_returned_as_it_was_given() {
    let mut bitmap = bitmap(1 << 20, 16);
    bitmap.set(65_536, 65_536).unwrap();
    assert_eq!(bitmap.next_dirty(70_000, u64::MAX), Some(70_000));
    assert_eq!(bitmap.next_dirty(0, 65_536), None);
    assert_eq!(bitmap.next_clean(70_000, u64::MAX), Some(131_072));
    assert_eq!(bitmap.next_clean(70_000, 61_072), None);
    assert_eq!(bitmap.previous_dirty(0, 70_000), Some(69_999));
    assert_eq!(bitmap.previous_clean(0, 70_000), Some(65_535));
    assert_eq!(bitmap.next_dirty(1 << 20, 1), None);
    assert_eq!(bitmap.next_dirty(u64::MAX, u64::MAX), None);
    assert_eq!(bitmap.next_clean(u64::MAX, u64::MAX), None);
}

#[test]
fn searches_see_the_grown_area_as_clean() {
    let mut bitmap = bitmap(L1, 0);
    bitmap.set_all().unwrap();
    bitmap.resize(2 * L1).unwrap();
    assert_eq!((bitmap.next_clean(0, u64::MAX), bitmap.next_dirty(L1, u64::MAX)), (Some(L1), None));
    assert_eq!(bitmap.extents(0, u64::MAX).next(), Some(Extent { offset: 0, len_bytes: L1 }));
}

#[test]
fn an_area_is_cut_by_its_window() {
    let mut bitmap = bitmap(L3, 4);
    bitmap.set(5 << 4, 10 << 4).unwrap();
    for max in [1, 3, 5, 10] {
        let cut: Vec<Extent> = bitmap.extents(6 << 4, max).collect();
        assert_eq!(cut, [Extent { offset: 6 << 4, len_bytes: max }]);
    }
    assert_eq!(bitmap.extents(6 << 4, 0).next(), None);
    assert_eq!(bitmap.extents(15 << 4, u64::MAX).next(), None);
    assert_eq!(bitmap.extents(4 << 4, 20).next(), Some(Extent { offset: 5 << 4, len_bytes: 4 }));
}

#[test]
fn set_may_end_past_the_disk_but_not_past_the_last_granule() {
    let mut bitmap = bitmap(1000, 9);
    bitmap.set(999, 25).unwrap();
    assert_eq!((bitmap.dirty_granules(), bitmap.dirty_bytes()), (1, 488));
    bitmap.set(1010, 1).unwrap();
    let before = bitmap.clone();
    assert_eq!(kind(bitmap.set(0, 1025)), ErrorKind::OutOfRange);
    assert_eq!(kind(bitmap.set(1024, 1)), ErrorKind::OutOfRange);
    assert_eq!(kind(bitmap.set(u64::MAX, 2)), ErrorKind::OutOfRange);
    assert_eq!(kind(bitmap.set(2, u64::MAX - 1)), ErrorKind::OutOfRange);
    assert_eq!(bitmap, before);
    bitmap.set(u64::MAX, 0).unwrap();
    assert_eq!(bitmap, before);
}

#[test]
fn a_length_to_the_end_ends_at_the_disks_end() {
    let mut bitmap = bitmap(1000, 9);
    bitmap.set(1000, u64::MAX).unwrap();
    assert!(bitmap.is_empty());
    assert_eq!(kind(bitmap.set(1001, u64::MAX)), ErrorKind::OutOfRange);
    bitmap.set(600, u64::MAX).unwrap();
    assert_eq!(bitmap.dirty_granules(), 1);
    bitmap.set_all().unwrap();
    assert_eq!(kind(bitmap.clear(1001, u64::MAX)), ErrorKind::OutOfRange);
    assert_eq!(kind(bitmap.clear(600, u64::MAX)), ErrorKind::InvalidArgument);
    bitmap.clear(1000, u64::MAX).unwrap();
    bitmap.clear(512, u64::MAX).unwrap();
    assert_eq!(bitmap.extents(0, u64::MAX).collect::<Vec<_>>(), [Extent { offset: 0, len_bytes: 512 }]);
}

#[test]
fn clear_never_rounds_outward() {
    let mut bitmap = bitmap(1000, 9);
    bitmap.set_all().unwrap();
    let before = bitmap.clone();
    for (offset, len) in [(1, 511), (0, 511), (0, 513), (512, 487), (512, 489), (100, 0x200)] {
        assert_eq!(kind(bitmap.clear(offset, len)), ErrorKind::InvalidArgument, "{offset}+{len}");
    }
    assert_eq!(kind(bitmap.clear(512, 513)), ErrorKind::OutOfRange);
    assert_eq!(kind(bitmap.clear(1024, 512)), ErrorKind::OutOfRange);
    assert_eq!(bitmap, before);
    bitmap.clear(1, 0).unwrap();
    assert_eq!(bitmap, before);
    bitmap.clear(512, 488).unwrap();
    assert_eq!(bitmap.dirty_bytes(), 512);
    bitmap.set_all().unwrap();
    bitmap.clear(0, 1024).unwrap();
    assert!(bitmap.is_empty());
}

#[test]
fn dirty_bytes_end_where_the_disk_does() {
    let mut bitmap = bitmap(65_537, 16);
    bitmap.set_all().unwrap();
    assert_eq!((bitmap.dirty_granules(), bitmap.dirty_bytes()), (2, 65_537));
    bitmap.clear(65_536, 1).unwrap();
    assert_eq!(bitmap.dirty_bytes(), 65_536);
}

/// Positions around the end of a disk whose last granule is partial, and of one whose last granule is whole.
#[test]
fn positions_at_the_disks_end_and_past_it() {
    let granule = 64;
    for size in [64 * 7 + 1, 64 * 7 + 33, 64 * 8 - 1, 64 * 8] {
        for dirty in [vec![], vec![7], vec![0, 3, 7], vec![6], (0..8).collect()] {
            let mut bitmap = bitmap(size, 6);
            dirty.iter().for_each(|index| bitmap.set(index * granule, 1).unwrap());
            let is_dirty = |offset: u64| dirty.contains(&(offset / granule));
            for offset in (0..size + 3 * granule).chain([u64::MAX - 1, u64::MAX]) {
                let before = dirty.iter().filter(|index| offset >= size || **index < offset / granule).count() as u64;
                assert_eq!(bitmap.rank(offset), before, "{size} {offset}");
                let got = bitmap.get(offset).map_err(|error| error.kind());
                assert_eq!(got, if offset / granule < 8 { Ok(is_dirty(offset)) } else { Err(ErrorKind::OutOfRange) });
                let bytes = || offset..size;
                assert_eq!(bitmap.next_dirty(offset, u64::MAX), bytes().find(|&offset| is_dirty(offset)));
                assert_eq!(bitmap.next_clean(offset, u64::MAX), bytes().find(|&offset| !is_dirty(offset)));
                assert_eq!(bitmap.previous_dirty(offset, u64::MAX), bytes().rfind(|&offset| is_dirty(offset)));
                assert_eq!(bitmap.previous_clean(offset, u64::MAX), bytes().rfind(|&offset| !is_dirty(offset)));
                let touched = if offset < size { offset / granule..8 } else { 0..0 };
                let count = dirty.iter().filter(|index| touched.contains(index)).count() as u64;
                assert_eq!(bitmap.count_range(offset, u64::MAX), count);
            }
            for (number, index) in dirty.iter().enumerate() {
                assert_eq!(bitmap.select(number as u64), Some(index * granule));
                assert_eq!(bitmap.rank(index * granule), number as u64);
            }
            assert_eq!(bitmap.select(dirty.len() as u64), None);
            let dirty_bytes = (0..size).filter(|&offset| is_dirty(offset)).count() as u64;
            assert_eq!(bitmap.dirty_bytes(), dirty_bytes);
        }
    }
}

#[test]
fn operations_judge_sizes_in_bytes_and_change_nothing_on_error() {
    let (mut ours, mut theirs) = (bitmap(1000, 9), bitmap(1001, 9));
    ours.set(0, 1).unwrap();
    theirs.set_all().unwrap();
    assert_eq!(ours.granules(), theirs.granules());
    let before = ours.clone();
    for change in [Bitmap::union_with, Bitmap::intersect_with, Bitmap::subtract, Bitmap::xor_with] {
        assert_eq!(kind(change(&mut ours, &theirs)), ErrorKind::SizeMismatch);
    }
    for make in [Bitmap::union, Bitmap::intersection, Bitmap::difference, Bitmap::symmetric_difference] {
        assert_eq!(kind(make(&ours, &theirs)), ErrorKind::SizeMismatch);
    }
    assert_eq!(kind(ours.is_subset(&theirs)), ErrorKind::SizeMismatch);
    assert_eq!(kind(Bitmap::union_many(&[&ours, &theirs], None)), ErrorKind::SizeMismatch);
    assert_eq!(kind(Bitmap::union_many(&[], None)), ErrorKind::InvalidArgument);
    assert_eq!(ours, before);
}

#[test]
fn mixed_granularities_round_to_the_safe_side() {
    let (mut coarse, mut fine) = (bitmap(1000, 8), bitmap(1000, 4));
    fine.set(250, 20).unwrap();
    coarse.union_with(&fine).unwrap();
    assert_eq!(coarse.extents(0, u64::MAX).collect::<Vec<_>>(), [Extent { offset: 0, len_bytes: 512 }]);
    assert_eq!(coarse.difference(&fine).unwrap(), coarse, "no coarse granule is wholly covered");
    fine.set(768, u64::MAX).unwrap();
    coarse.set(768, 1).unwrap();
    let rest = coarse.difference(&fine).unwrap();
    assert_eq!(rest.dirty_bytes(), 512, "the last granule is covered as far as the disk goes");
    let united = coarse.union(&fine).unwrap();
    assert_eq!((united.granularity().bytes(), united.dirty_bytes()), (16, 744));
    assert!(fine.is_subset(&coarse).unwrap() && !coarse.is_subset(&fine).unwrap());
    assert_eq!(fine.intersection(&coarse).unwrap(), fine);
    assert_eq!(kind(coarse.symmetric_difference(&fine)), ErrorKind::InvalidArgument);
    assert_eq!(Bitmap::union_many(&[&coarse, &fine], None).unwrap(), united);
}

#[test]
fn equality_looks_at_the_bits_not_at_how_they_came() {
    let (mut at_once, mut one_by_one) = (bitmap(200_000, 0), bitmap(200_000, 0));
    at_once.set(0, 200_000).unwrap();
    for offset in (0..200_000).step_by(2).chain((1..200_000).step_by(2)) {
        one_by_one.set(offset, 1).unwrap();
    }
    one_by_one.validate().unwrap();
    assert_eq!(at_once, one_by_one);
    one_by_one.clear(77, 1).unwrap();
    assert_ne!(at_once, one_by_one);
    assert_ne!(bitmap(1000, 9), bitmap(1001, 9));
    assert_ne!(bitmap(1000, 9), bitmap(1000, 10));
    assert_eq!(format!("{at_once:?}"), "Bitmap { size_bytes: 200000, granularity: 1, dirty_granules: 200000 }");
}

#[test]
fn no_disk_is_larger_than_a_signed_offset_reaches() {
    let granularity = |bits| Granularity::from_bits(bits).unwrap();
    assert_eq!(kind(Bitmap::new(1 << 63, granularity(31))), ErrorKind::InvalidArgument);
    assert_eq!(kind(Bitmap::new((1 << 41) + 1, granularity(0))), ErrorKind::InvalidArgument);
    assert!(Bitmap::new(i64::MAX as u64, granularity(31)).is_ok());
    assert_eq!(kind(Bitmap::from_roaring(&[], 1 << 63, granularity(31))), ErrorKind::InvalidArgument);
}

/// About `percent` of the granules of `chunks` chunks, at random but the same each time.
fn dense(chunks: u64, percent: u64, seed: u64) -> Vec<bool> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..chunks << 16).map(|_| next() % 100 < percent).collect()
}

fn of_booleans(dirty: &[bool]) -> Bitmap {
    let mut result = bitmap(dirty.len() as u64, 0);
    for (offset, _) in (0..).zip(dirty).filter(|(_, dirty)| **dirty) {
        result.set(offset, 1).unwrap();
    }
    result.optimize().unwrap();
    result
}

#[test]
fn words_that_take_up_others_in_their_place_are_what_a_new_union_is() {
    const CHUNKS: u64 = 20;
    let ours = dense(CHUNKS, 30, 1);
    let random = dense(CHUNKS, 30, 2);
    // What the others have of a chunk: nothing, words, a few, long runs, all that is missing, and all of that but one.
    let kinds: [fn(u64, bool, bool) -> bool; 6] = [
        |_, _, _| false,
        |_, _, random| random,
        |bit, _, _| bit % 9000 == 77,
        |bit, _, _| bit % 3000 < 1100,
        |_, ours, _| !ours,
        |bit, ours, _| !ours && bit != 40_000,
    ];
    // A kind for each chunk in turn, one for all, and one chunk that becomes full among many.
    for shift in 0..9 {
        let mut theirs: Vec<bool> = (0u64..)
            .zip(ours.iter().zip(&random))
            .map(|(granule, (&ours, &random))| {
                let kind = match (shift, granule >> 16) {
                    (0..6, chunk) => (chunk + shift) % 6,
                    (6, _) | (8, 5) => 4,
                    (7, _) => 3,
                    _ => 1,
                };
                kinds[kind as usize](granule & 0xffff, ours, random)
            })
            .collect();
        let (mut a, b) = (of_booleans(&ours), of_booleans(&theirs));
        assert!(a.heap_bytes() >= 8192 * CHUNKS as usize, "all of it is words");
        let expected = Bitmap::union_many(&[&a, &b], None).unwrap();
        assert!(a.dirty_granules() < expected.dirty_granules());
        a.union_with(&b).unwrap();
        a.validate().unwrap();
        theirs.iter_mut().zip(&ours).for_each(|(theirs, ours)| *theirs |= ours);
        let mut shadowed = Shadowed { bitmap: a, shadow: theirs };
        shadowed.check();
        assert_eq!(shadowed.bitmap, expected);
        assert_eq!(shadowed.bitmap.to_roaring().unwrap(), expected.to_roaring().unwrap());
        assert!(shadowed.bitmap.heap_bytes() <= expected.heap_bytes() + 2 * 8192 + 2048);
    }
}

#[test]
fn what_is_full_after_many_sources_is_full_whatever_follows() {
    let sources: Vec<Vec<bool>> = (0..40).map(|seed| dense(2, 30, 101 + 2 * seed)).collect();
    let bitmaps: Vec<Bitmap> = sources.iter().map(|dirty| of_booleans(dirty)).collect();
    for count in [2, 5, 6, 12, 24, 39, 40] {
        let union = Bitmap::union_many(&bitmaps.iter().take(count).collect::<Vec<_>>(), None).unwrap();
        let shadow = (0..2 << 16).map(|granule| sources[..count].iter().any(|dirty| dirty[granule])).collect();
        Shadowed { bitmap: union, shadow }.check();
    }
    let all = Bitmap::union_many(&bitmaps.iter().collect::<Vec<_>>(), None).unwrap();
    assert_eq!(all.dirty_granules(), 2 << 16, "so many sources fill the disk");
}
