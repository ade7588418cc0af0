//! Bytes that nobody should write: refused when the segment is opened or when the container is touched, by name and place.

use crate::{BITS, SIZE, bitmap_of, bytes_of, open};
use checkmap::progress::Unobserved;
use checkmap::segment::{self, MergeOptions};
use checkmap::{Bitmap, Error, ErrorKind, Segment};

/// An entry of a directory, and its container.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) key: u32,
    pub(crate) chunks: u32,
    pub(crate) ones: u32,
    pub(crate) form: u32,
    pub(crate) data: Vec<u8>,
    pub(crate) len: Option<u32>,
    pub(crate) sum: Option<u32>,
    pub(crate) offset: Option<u64>,
    pub(crate) before: Option<u64>,
}

impl Item {
    fn new(key: u32, form: u32, ones: u32, data: Vec<u8>) -> Self {
        Self { key, chunks: 1, ones, form, data, len: None, sum: None, offset: None, before: None }
    }

    pub(crate) fn array(key: u32, values: &[u16]) -> Self {
        let ones = u32::try_from(values.len()).unwrap();
        Self::new(key, 1, ones, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    fn words(key: u32, word: u64) -> Self {
        Self::new(key, 2, word.count_ones() * 1024, word.to_le_bytes().repeat(1024))
    }

    pub(crate) fn runs(key: u32, runs: &[[u16; 2]]) -> Self {
        let ones = runs.iter().map(|[first, last]| u32::from(last.wrapping_sub(*first)) + 1).sum();
        Self::new(key, 3, ones, runs.iter().flatten().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// The bytes of words that are not 0, behind the masks that say which they are.
    fn sparse(key: u32, values: &[u16]) -> Self {
        let ones = u32::try_from(values.len()).unwrap();
        let mut bytes = [0; 8192];
        values.iter().for_each(|value| bytes[usize::from(value / 8)] |= 1 << (value % 8));
        let kept = |bytes: &[u8]| bytes.iter().copied().filter(|byte| *byte != 0).collect::<Vec<u8>>();
        let masks = |bytes: &[u8]| -> Vec<u8> {
            bytes.chunks(8).map(|eight| (0..8).map(|place| u8::from(eight[place] != 0) << place).sum()).collect()
        };
        let lower = masks(&bytes);
        Self::new(key, 5, ones, [masks(&lower), kept(&lower), kept(&bytes)].concat())
    }

    fn full(key: u32, chunks: u32) -> Self {
        Self { chunks, ..Self::new(key, 4, 65536, Vec::new()) }
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

/// A segment whose every field can lie, with checksums that are right all the same.
#[derive(Clone, Debug)]
pub(crate) struct Crafted {
    pub(crate) items: Vec<Item>,
    pub(crate) size: u64,
    pub(crate) bits: u32,
    /// Fields of the trailer that are not what they should be, by their offset in it.
    pub(crate) trailer: Vec<(usize, u64)>,
    /// Fields of the index likewise.
    index: Vec<(usize, u64)>,
}

impl Crafted {
    pub(crate) fn new(items: &[Item]) -> Self {
        Self { items: items.to_vec(), size: SIZE, bits: BITS, trailer: Vec::new(), index: Vec::new() }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut file = Vec::new();
        file.extend(*b"\x89CKSEG\r\n");
        file.extend(1_u32.to_le_bytes());
        file.extend(0_u32.to_le_bytes());
        file.extend(self.size.to_le_bytes());
        file.extend(self.bits.to_le_bytes());
        file.resize(60, 0);
        let header_sum = crc32c::crc32c(&file);
        file.extend(header_sum.to_le_bytes());
        let (mut directory, mut dirty, mut chunks): (Vec<u8>, u64, u64) = (Vec::new(), 0, 0);
        let mut places: Vec<(u32, u64, u64)> = Vec::new();
        for (number, item) in self.items.iter().enumerate() {
            if number % 64 == 0 {
                places.push((item.key, dirty, file.len() as u64));
            }
            let has_data = item.form != 4;
            let offset = item.offset.unwrap_or(if has_data { file.len() as u64 } else { 0 });
            let sum = item.sum.unwrap_or(if has_data { crc32c::crc32c(&item.data) } else { 0 });
            file.extend(&item.data);
            file.resize(file.len().next_multiple_of(64), 0);
            directory.extend(item.key.to_le_bytes());
            directory.extend(item.chunks.to_le_bytes());
            directory.extend(offset.to_le_bytes());
            directory.extend(item.before.unwrap_or(dirty).to_le_bytes());
            directory.extend(item.len.unwrap_or(u32::try_from(item.data.len()).unwrap()).to_le_bytes());
            directory.extend(item.ones.to_le_bytes());
            directory.extend(sum.to_le_bytes());
            directory.extend(item.form.to_le_bytes());
            dirty += u64::from(item.ones) * u64::from(item.chunks);
            chunks += u64::from(item.chunks);
        }
        let mut trailer = Vec::new();
        for field in [chunks, dirty, 0, file.len() as u64, self.items.len() as u64] {
            trailer.extend(field.to_le_bytes());
        }
        let mut index = Vec::new();
        for ((key, before, data), page) in places.into_iter().zip(directory.chunks(64 * 40)) {
            index.extend(key.to_le_bytes());
            index.extend(crc32c::crc32c(page).to_le_bytes());
            index.extend(before.to_le_bytes());
            index.extend(data.to_le_bytes());
        }
        for (at, value) in &self.index {
            index[*at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        trailer.extend(crc32c::crc32c(&index).to_le_bytes());
        trailer.extend(header_sum.to_le_bytes());
        trailer.extend(((file.len() + directory.len() + index.len() + 64) as u64).to_le_bytes());
        for (at, value) in &self.trailer {
            trailer[*at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        trailer.extend(crc32c::crc32c(&trailer).to_le_bytes());
        trailer.extend(*b"GESK");
        file.extend(directory);
        file.extend(index);
        file.extend(trailer);
        file
    }
}

/// Every way to read a segment.
fn touch(segment: &Segment) -> Result<(), Error> {
    segment.load(0, u64::MAX)?;
    Ok(())
}

#[track_caller]
fn assert_named(error: &Error, structure: &str, offset: u64) {
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    assert_eq!((error.structure(), error.offset()), (Some(structure), Some(offset)), "{error}");
}

#[test]
fn the_hand_that_crafts_bad_segments_makes_good_ones_too() {
    let items = [
        Item::array(0, &[1, 5, 9]),
        Item::words(1, 0x5555_5555_5555_5555),
        Item::full(2, 3),
        Item::runs(6, &[[1, 900], [902, 2000]]),
    ];
    let segment = open(Crafted::new(&items).bytes()).unwrap();
    touch(&segment).unwrap();
    assert_eq!(segment.forms().unwrap().full, 3);
    let good = bytes_of(&segment.load(0, u64::MAX).unwrap());
    let mut crafted = Crafted::new(&items);
    crafted.trailer = vec![(16, segment.extents(0, u64::MAX).count() as u64)];
    assert_eq!(crafted.bytes(), good, "to the byte, once the extents are counted");
}

#[test]
fn pages_that_break_a_rule_are_refused_when_they_are_touched() {
    let array = |key: u32| Item::array(key, &[1, 5, 9]);
    let rows: Vec<(&str, Vec<Item>, u64)> = vec![
        ("unsorted keys", vec![array(3), array(2)], 1),
        ("the same key twice", vec![array(3), array(3)], 1),
        ("unsorted full chunks", vec![Item::full(4, 2), Item::full(1, 1)], 1),
        ("a chunk inside full ones", vec![Item::full(0, 4), array(3)], 1),
        ("full entries that touch", vec![Item::full(0, 2), Item::full(2, 1)], 1),
        ("containers that overlap", vec![array(0), array(1).with(|item| item.offset = Some(64))], 1),
        ("a gap between containers", vec![array(0), array(1).with(|item| item.offset = Some(192))], 1),
        ("a container inside the header", vec![array(0).with(|item| item.offset = Some(0))], 0),
        ("a container far away", vec![array(0).with(|item| item.offset = Some(u64::MAX - 63))], 0),
        ("a length that overflows", vec![array(0).with(|item| item.len = Some(u32::MAX))], 0),
        ("more granules than the array has", vec![array(0).with(|item| item.ones = 4)], 0),
        ("an array of nothing", vec![Item::array(0, &[])], 0),
        ("an array of 4097", vec![Item::array(0, &(0..4097).collect::<Vec<_>>())], 0),
        ("words of few granules", vec![Item::words(0, 1)], 0),
        ("words of all granules", vec![Item::words(0, u64::MAX)], 0),
        ("words that are cut short", vec![Item::words(0, 0x5555).with(|item| item.len = Some(8128))], 0),
        ("runs of no run", vec![Item::runs(0, &[])], 0),
        ("half a run", vec![Item::runs(0, &[[1, 9]]).with(|item| item.len = Some(6))], 0),
        ("runs of fewer granules than runs", vec![Item::runs(0, &[[1, 1], [3, 3]]).with(|item| item.ones = 1)], 0),
        ("a form that is not known", vec![array(0).with(|item| item.form = 5)], 0),
        ("no form", vec![array(0).with(|item| item.form = 0)], 0),
        ("several chunks that are not full", vec![array(0).with(|item| item.chunks = 2)], 0),
        ("no chunk", vec![Item::full(0, 0)], 0),
        ("full chunks with data", vec![Item::full(0, 1).with(|item| item.len = Some(64))], 0),
        ("full chunks that are not", vec![Item::full(0, 1).with(|item| item.ones = 65535)], 0),
        ("a full last chunk", vec![Item::full(8, 1)], 0),
        ("full chunks past the end", vec![Item::full(7, 3)], 0),
        ("keys that overflow", vec![array(0), Item::full(u32::MAX, u32::MAX)], 1),
        ("a key past the end", vec![array(0), array(9)], 1),
        ("more granules than the last chunk has", vec![Item::array(8, &(0..1001).collect::<Vec<_>>())], 0),
        ("a cumulative count that lies", vec![array(0), array(1).with(|item| item.before = Some(4))], 1),
    ];
    for (what, items, entry) in rows {
        let data: usize = items.iter().map(|item| item.data.len().next_multiple_of(64)).sum();
        let place = (64 + data) as u64 + 40 * entry;
        // The trailer must not be the reason of the refusal.
        let few = items.len() as u64;
        let crafted = Crafted { trailer: vec![(0, few), (8, few)], ..Crafted::new(&items) };
        assert_refused(crafted.bytes(), what, "segment directory", place);
    }
}

/// Refused when it is opened, or by every way to touch it, and found by the check.
fn assert_refused(bytes: Vec<u8>, what: &str, structure: &str, offset: u64) {
    let is_it = |error: &Error| {
        let found = (error.kind(), error.structure(), error.offset());
        assert_eq!(found, (ErrorKind::Damaged, Some(structure), Some(offset)), "{what}: {error}");
    };
    let segment = match open(bytes) {
        Err(error) => return is_it(&error),
        Ok(segment) => segment,
    };
    is_it(&touch(&segment).expect_err(what));
    is_it(&segment.forms().expect_err(what));
    is_it(&segment.extents(0, u64::MAX).find_map(Result::err).expect(what));
    let whole = [&segment];
    is_it(&checkmap::segment::count(&whole, &Default::default(), &mut Unobserved).expect_err(what));
    let problems = segment.check(&mut Unobserved).expect("memory can be read");
    assert_eq!((&*problems[0].structure, problems[0].offset), (structure, offset), "{what}: {problems:?}");
}

/// A disk that is large enough for several pages, every other chunk with one granule.
fn three_pages() -> Crafted {
    let items: Vec<Item> = (0..150).map(|number| Item::array(2 * number, &[7])).collect();
    Crafted { size: 400 << 28, ..Crafted::new(&items) }
}

const DIRECTORY_OF_THREE: u64 = 64 + 150 * 64;
const INDEX_OF_THREE: u64 = DIRECTORY_OF_THREE + 150 * 40;

#[test]
fn what_is_wrong_with_one_page_is_in_nobody_elses_way() {
    let good = three_pages();
    touch(&open(good.bytes()).unwrap()).unwrap();
    let mut bytes = good.bytes();
    bytes[usize::try_from(DIRECTORY_OF_THREE).unwrap() + 64 * 40 + 77] ^= 1;
    let page = DIRECTORY_OF_THREE + 64 * 40;
    let segment = open(bytes.clone()).unwrap();
    let chunk = |number: u64| number << 28;
    assert_eq!(segment.count_range(0, chunk(128)).unwrap(), 64, "the index knows");
    assert_eq!(segment.count_range(chunk(100), chunk(50)).unwrap_err().offset(), Some(page));
    assert_eq!(segment.count_range(chunk(127), u64::MAX).unwrap(), 150 - 64);
    assert_eq!(segment.next_dirty(chunk(256), u64::MAX).unwrap(), Some(chunk(256) + (7 << 12)));
    assert_eq!(segment.load(chunk(256), u64::MAX).unwrap().dirty_granules(), 22);
    assert_refused(bytes, "a byte of a page", "segment directory", page);
}

#[test]
fn indexes_that_break_a_rule_are_refused_on_open() {
    let place = |number: u64| INDEX_OF_THREE + 24 * number;
    let key = |key: u64, sum: u64| key | sum << 32;
    for (what, fields, number) in [
        ("keys out of order", vec![(48, key(100, 0))], 2),
        ("keys closer than a page", vec![(24, key(63, 0))], 1),
        ("a key past the end", vec![(48, key(400, 0))], 2),
        ("granules before the first", vec![(8, 1)], 0),
        ("fewer granules than entries", vec![(24 + 8, 63)], 1),
        ("more granules than all", vec![(48 + 8, 151)], 2),
        ("granules that overflow", vec![(48 + 8, u64::MAX)], 2),
        ("containers in the header", vec![(16, 0)], 0),
        ("containers before those of the page before", vec![(24 + 16, 9000), (48 + 16, 8000)], 2),
        ("containers behind all", vec![(48 + 16, DIRECTORY_OF_THREE + 1)], 2),
        ("containers at the end of all numbers", vec![(48 + 16, u64::MAX)], 2),
    ] {
        let crafted = Crafted { index: fields, ..three_pages() };
        let error = open(crafted.bytes()).expect_err(what);
        let found = (error.kind(), error.structure(), error.offset());
        assert_eq!(found, (ErrorKind::Damaged, Some("segment directory index"), Some(place(number))), "{what}");
    }
    let mut bytes = three_pages().bytes();
    bytes[usize::try_from(INDEX_OF_THREE).unwrap() + 30] ^= 1;
    assert_named(&open(bytes).unwrap_err(), "segment directory index", INDEX_OF_THREE);
}

#[test]
fn pages_that_are_not_what_the_index_says_are_refused_when_they_are_touched() {
    let page = |number: u64| DIRECTORY_OF_THREE + 64 * 40 * number;
    let sums = three_pages().bytes()[usize::try_from(INDEX_OF_THREE).unwrap()..].to_vec();
    let sum =
        |number: usize| u64::from(u32::from_le_bytes(sums[24 * number + 4..24 * number + 8].try_into().unwrap())) << 32;
    for (what, field, offset) in [
        ("a first chunk that is not there", (0, 1 | sum(0)), page(0)),
        ("a page that reaches into the next one", (24, 126 | sum(1)), page(0)),
        ("a count that lies", (48 + 8, 129), page(1)),
        ("containers that end elsewhere", (24 + 16, 64 + 63 * 64), page(0)),
        ("another checksum", (24, 128 | 7 << 32), page(1)),
    ] {
        assert_refused(Crafted { index: vec![field], ..three_pages() }.bytes(), what, "segment directory", offset);
    }
    let full = (0..65).map(|number| Item::full(2 * number - number / 64, 1)).collect::<Vec<_>>();
    let crafted = Crafted { size: 400 << 28, trailer: vec![(16, 64)], ..Crafted::new(&full) };
    let problems = open(crafted.bytes()).unwrap().check(&mut Unobserved).unwrap();
    assert_eq!(
        (problems.len(), problems[0].offset),
        (1, 64 + 64 * 40),
        "full entries of two pages touch: {problems:?}"
    );
}

#[test]
fn trailers_that_break_a_rule_are_refused() {
    let items = [Item::array(0, &[1, 5, 9])];
    // Where the file has its trailer.
    let trailer = 64 + 64 + 40 + 24;
    for (what, fields, structure, offset) in [
        ("chunks that lie", vec![(0, 2)], "segment trailer", trailer),
        ("more chunks than the disk has", vec![(0, 10)], "segment trailer", trailer),
        ("granules that lie", vec![(8, 4)], "segment directory", 128),
        ("granules that overflow", vec![(8, u64::MAX)], "segment trailer", trailer + 8),
        ("a directory elsewhere", vec![(24, 64)], "segment trailer", trailer + 24),
        ("a directory in the header", vec![(24, 48)], "segment trailer", trailer + 24),
        ("a directory at the end of all numbers", vec![(24, u64::MAX)], "segment trailer", trailer + 24),
        ("entries that overflow", vec![(32, u64::MAX)], "segment trailer", trailer + 24),
        ("entries that overflow by a little", vec![(32, u64::MAX / 40 + 2)], "segment trailer", trailer + 24),
        ("no entries, and a gap", vec![(0, 0), (8, 0), (32, 0), (24, 192)], "segment trailer", trailer + 24),
        ("no entries, but chunks", vec![(32, 0), (24, 192)], "segment trailer", trailer),
        ("no granules, but chunks", vec![(8, 0)], "segment trailer", trailer + 8),
        ("another checksum", vec![(40, 7)], "segment trailer", trailer + 44),
        ("another length", vec![(48, 400)], "segment trailer", trailer + 48),
    ] {
        let bytes = Crafted { trailer: fields, ..Crafted::new(&items) }.bytes();
        match what {
            // The memory asked for does not depend on it.
            "chunks that lie" => {
                let problems = open(bytes).unwrap().check(&mut Unobserved).unwrap();
                assert_eq!((&*problems[0].structure, problems[0].offset), (structure, offset));
            }
            _ => assert_refused(bytes, what, structure, offset),
        }
    }
    let lies = Crafted { trailer: vec![(16, 9)], ..Crafted::new(&items) };
    let problems = open(lies.bytes()).unwrap().check(&mut Unobserved).unwrap();
    assert_eq!((problems.len(), problems[0].offset), (1, trailer + 16), "extents that lie are found by the check");
}

#[test]
fn headers_that_break_a_rule_are_refused_on_open() {
    let header = |change: &dyn Fn(&mut [u8])| {
        let mut bytes = Crafted::new(&[]).bytes();
        change(&mut bytes);
        let sum = crc32c::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&sum.to_le_bytes());
        open(bytes).unwrap_err()
    };
    assert_eq!(header(&|bytes| bytes[0] = b'C').kind(), ErrorKind::UnknownFormat);
    assert_eq!(header(&|bytes| bytes[8] = 2).kind(), ErrorKind::Unsupported);
    assert_eq!(header(&|bytes| bytes[12] = 1).kind(), ErrorKind::Unsupported);
    assert_named(&header(&|bytes| bytes[28] = 1), "segment header", 28);
    assert_named(&header(&|bytes| bytes[23] = 0x80), "segment header", 16);
    assert_named(&header(&|bytes| bytes[24] = 32), "segment header", 16);
    assert_named(&header(&|bytes| bytes[16] = 0), "segment trailer", 64 + 44);
    let mut bytes = Crafted::new(&[]).bytes();
    bytes[60] ^= 1;
    assert_named(&open(bytes).unwrap_err(), "segment header", 60);
    // 2^42 granules are more than a bitmap has.
    assert_named(
        &open(Crafted { size: 1 << 42, bits: 0, ..Crafted::new(&[]) }.bytes()).unwrap_err(),
        "segment header",
        16,
    );
    for other in [&b""[..], b"QFI\xfb", &[0; 200]] {
        assert_eq!(open(other).unwrap_err().kind(), ErrorKind::UnknownFormat);
    }
}

#[test]
fn containers_that_break_a_rule_are_refused_when_they_are_touched() {
    let descending = [[5, 9], [1, 3]];
    let rows = [
        ("a wrong checksum", Item::array(1, &[1, 5]).with(|item| item.sum = Some(7))),
        ("an array out of order", Item::array(1, &[5, 1])),
        ("a value twice", Item::array(1, &[5, 5])),
        ("fewer bits than the directory says", Item::words(1, 0x5555_5555_5555_5555).with(|item| item.ones += 1)),
        ("runs out of order", Item::runs(1, &descending)),
        ("runs that overlap", Item::runs(1, &[[1, 9], [5, 12]])),
        ("runs that touch", Item::runs(1, &[[1, 4], [5, 12]])),
        ("a run that ends before it begins", Item::runs(1, &[[9, 1]]).with(|item| item.ones = 9)),
        ("more granules in runs than there are", Item::runs(1, &[[1, 9]]).with(|item| item.ones = 10)),
        ("granules past the end in an array", Item::array(8, &[1, 1000])),
        ("granules past the end in runs", Item::runs(8, &[[1, 3], [999, 1000]])),
        ("granules past the end in a sparse container", Item::sparse(8, &[1, 900, 1000])),
        ("fewer granules in a sparse container", Item::sparse(1, &[1, 9, 80]).with(|item| item.ones = 4)),
        (
            "a byte less than the masks say",
            Item::sparse(1, &[1, 9, 80, 4711]).with(|item| item.data.truncate(item.data.len() - 1)),
        ),
        ("a byte more than the masks say", Item::sparse(1, &[1, 9, 80]).with(|item| item.data.push(1))),
        ("a byte that is 0", Item::sparse(1, &[1, 9, 80]).with(|item| item.data[131] = 0)),
        ("a mask that is 0", Item::sparse(1, &[1, 9, 800]).with(|item| item.data[128] = 0)),
        ("more masks than there are bytes", Item::sparse(1, &[1, 9, 80]).with(|item| item.data[..128].fill(0xff))),
        ("granules past the end of all chunks", Item::array(8, &[u16::MAX])),
    ];
    for (what, item) in rows {
        let good = Item::array(0, &[3]);
        let structure = format!("segment container of chunk {}", item.key);
        let segment = open(Crafted::new(&[good, item.clone()]).bytes()).expect(what);
        let within_first = segment.count_range(0, 1 << 20);
        assert_eq!(within_first.unwrap(), 1, "{what}: what is not touched is not in the way");
        let whole = u64::MAX;
        let at = u64::from(item.key) << 28;
        let errors = [
            segment.load(0, whole).map(|_| ()).expect_err(what),
            segment.extents(0, whole).collect::<Result<Vec<_>, _>>().map(|_| ()).expect_err(what),
            segment.count_range(0, at + (2 << 20)).map(|_| ()).expect_err(what),
            segment.next_dirty(at, whole).map(|_| ()).expect_err(what),
            segment.get(at + 4096).map(|_| ()).expect_err(what),
            checkmap::segment::merge(&[&segment], &mut Vec::new(), &Default::default(), &mut Unobserved)
                .map(|_| ())
                .expect_err(what),
            checkmap::segment::merge(&[&segment; 3], &mut Vec::new(), &Default::default(), &mut Unobserved)
                .map(|_| ())
                .expect_err(what),
        ];
        for error in errors {
            assert_named(&error, &structure, 128);
        }
        let problems = segment.check(&mut Unobserved).expect("memory can be read");
        assert_eq!(problems.len(), 1, "{what}: {problems:?}");
        assert_eq!((&problems[0].structure, problems[0].offset), (&structure, 128), "{what}");
    }
}

#[test]
fn sparse_containers_that_break_a_rule_are_refused_by_a_merge_that_makes_them_finer() {
    let values: Vec<u16> = (0..2000).map(|value| 31 * value + value % 7).collect();
    let sound = Item::sparse(1, &values);
    let rows = [
        ("a wrong checksum", sound.clone().with(|item| item.sum = Some(7))),
        ("a granule more", sound.clone().with(|item| item.ones -= 1)),
        ("a granule less", sound.clone().with(|item| item.ones += 1)),
        ("no masks", sound.clone().with(|item| item.data.truncate(127))),
        ("upper masks only", sound.clone().with(|item| item.data.truncate(128))),
        ("a byte less than the masks say", sound.clone().with(|item| item.data.truncate(item.data.len() - 1))),
        ("a byte more than the masks say", sound.clone().with(|item| item.data.push(1))),
        ("a byte that is 0", sound.clone().with(|item| *item.data.last_mut().unwrap() = 0)),
        ("a mask that is 0", sound.clone().with(|item| item.data[128] = 0)),
        ("more masks than there are bytes", sound.clone().with(|item| item.data[..128].fill(0xff))),
        ("more bytes than a chunk has", sound.clone().with(|item| item.data.fill(0xff))),
    ];
    let fine = bitmap_of(&vec![(2 << 16, 3000, 1, 3), (4 << 16, 9000, 1, 7)], BITS);
    let of = |item: &Item| Crafted { bits: BITS + 1, ..Crafted::new(std::slice::from_ref(item)) }.bytes();
    let other = open(bytes_of(&fine)).expect("we wrote it");
    let merge = |segment: &Segment<'_>, threads: usize| {
        let mut options = MergeOptions::default();
        options.threads = threads;
        let mut out = Vec::new();
        let counted = segment::count(&[&other, segment], &options, &mut Unobserved);
        let merged = segment::merge(&[&other, segment], &mut out, &options, &mut Unobserved);
        merged.and_then(|summary| counted.map(|counted| assert_eq!(counted, summary))).map(|()| out)
    };
    let segment = open(of(&sound)).expect("it is sound");
    let coarse = segment.load(0, u64::MAX).expect("it is sound");
    let union = Bitmap::union_many(&[&fine, &coarse], None).expect("of one disk");
    for threads in [0, 3] {
        assert!(merge(&segment, threads).expect("it is sound") == bytes_of(&union), "{threads}");
    }
    for (what, item) in rows {
        // What the length or the number of granules already rules out is refused before the container is read.
        let segment = open(of(&item)).expect(what);
        for threads in [0, 3] {
            let error = merge(&segment, threads).expect_err(what);
            assert_eq!(error.kind(), ErrorKind::Damaged, "{what}: {error}");
            assert!(error.structure().is_some_and(|structure| structure.starts_with("segment ")), "{what}: {error}");
        }
    }
    let past = Crafted { bits: BITS + 1, ..Crafted::new(&[Item::sparse(4, &[1, 499, 500])]) };
    let error = merge(&open(past.bytes()).expect("it is opened"), 0).expect_err("a granule lies past the end");
    assert_named(&error, "segment container of chunk 4", 64);
}

#[test]
fn a_sparse_container_is_read_whatever_its_length() {
    let values = [0, 7, 8, 63, 64, 511, 512, 4095, 4096, 65_528, u16::MAX];
    let segment = open(Crafted::new(&[Item::sparse(1, &values), Item::array(2, &[3])]).bytes()).expect("it is sound");
    let bitmap = segment.load(0, u64::MAX).expect("it is sound");
    bitmap.validate().expect("what was read keeps the rules of a bitmap");
    let found: Vec<u64> =
        bitmap.extents(0, u64::MAX).flat_map(|extent| extent.offset >> BITS..extent.end() >> BITS).collect();
    let expected: Vec<u64> = values.iter().map(|value| (1 << 16) + u64::from(*value)).chain([(2 << 16) + 3]).collect();
    assert_eq!(found, expected);
    for (number, value) in values.iter().enumerate() {
        let end = ((1 << 16) + u64::from(*value)) << BITS;
        assert_eq!(segment.count_range(0, end).expect("it is sound"), number as u64);
        assert!(segment.get(end).expect("it is sound"));
    }
    assert_eq!(segment.check(&mut Unobserved).expect("memory can be read").len(), 1, "the number of extents is 0");
    let mut merged = Vec::new();
    checkmap::segment::merge(&[&segment], &mut merged, &Default::default(), &mut Unobserved).expect("it is sound");
    assert!(merged == bytes_of(&bitmap), "a merge writes the smallest form");
}

#[test]
fn a_file_cut_short_anywhere_or_with_something_appended_is_refused() {
    let bytes = bytes_of(&bitmap_of(&vec![(0, 3000, 1, 3), (70_000, 500, 9, 20), (150_000, 1, 200_000, 1)], BITS));
    assert!(bytes.len() > 2000);
    for len in (1..bytes.len()).step_by(64).chain(bytes.len() - 70..bytes.len()) {
        let error = open(&bytes[..len]).expect_err("it is cut short");
        assert_eq!(error.kind(), ErrorKind::Damaged, "{len}: {error}");
        assert!(error.structure().is_some() && error.offset().is_some(), "{error}");
    }
    let error = open([&bytes[..], &[0]].concat()).unwrap_err();
    assert_named(&error, "segment trailer", bytes.len() as u64 + 1 - 64 + 60);
}

#[test]
fn every_byte_that_changes_is_found_by_the_open_or_by_the_check() {
    let bytes = bytes_of(&bitmap_of(&vec![(0, 300, 1, 3), (70_000, 50, 9, 20), (150_000, 1, 200_000, 1)], BITS));
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        if let Ok(segment) = open(changed) {
            let problems = segment.check(&mut Unobserved).unwrap();
            assert!(!problems.is_empty(), "nobody sees that byte {at} changed");
            let at = at as u64;
            assert!(problems.iter().all(|problem| problem.offset <= at && at < problem.offset + 8192), "{problems:?}");
        }
    }
}
