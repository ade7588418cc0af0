#![forbid(unsafe_code)]
//! Owns the bytes of a segment: its header, its trailer, the entries of its directory, and the rules that they keep among
//! themselves. Must never read or write a file. `docs/formats/segment.md` says the same in words.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use crate::bitmap::chunks::{CHUNK_GRANULES, Form};
use crate::checksum::crc32c;
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::{Granularity, check_disk};
use crate::io::bytes::{le_u32, le_u64};

/// What a segment begins with: no text file does, and one whose line ends were changed does not either.
pub(super) const MAGIC: [u8; 8] = *b"\x89CKSEG\r\n";
/// What a segment ends with.
const END_MAGIC: [u8; 4] = *b"GESK";
/// The version that this crate writes, and the only one it reads.
pub(super) const VERSION: u32 = 1;

pub(super) const HEADER_BYTES: usize = 64;
pub(super) const TRAILER_BYTES: usize = 64;
pub(super) const ENTRY_BYTES: usize = 40;
/// The entries of a page of the directory; the last page may have fewer.
pub(super) const PAGE_ENTRIES: usize = 64;
/// What the index has of each page.
pub(super) const PLACE_BYTES: usize = 24;
/// Every container begins at a multiple of this.
pub(super) const ALIGN: u64 = ALIGN_LEN as u64;
pub(super) const ALIGN_LEN: usize = 64;
/// The bytes of a chunk as words.
pub(super) const WORDS_BYTES: u32 = 8192;
/// The most values of an array.
pub(super) const ARRAY_MAX: u32 = 4096;
/// The most runs of a container.
pub(super) const RUNS_MAX: u32 = 2048;
/// The least bytes of a packed container: its upper masks, one mask and one byte.
pub(super) const SPARSE_MIN: u32 = 130;

pub(super) const HEADER: &str = "segment header";
pub(super) const TRAILER: &str = "segment trailer";
pub(super) const DIRECTORY: &str = "segment directory";
pub(super) const INDEX: &str = "segment directory index";

/// `len` rounded up to where the next container may begin.
pub(super) fn aligned(len: u64) -> u64 {
    len.next_multiple_of(ALIGN)
}

/// Gathers the fields of a structure one after the other.
struct Fields<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Fields<N> {
    fn new() -> Self {
        Self { bytes: [0; N], at: 0 }
    }

    fn add(mut self, field: &[u8]) -> Self {
        let end = self.at + field.len();
        if let Some(place) = self.bytes.get_mut(self.at..end) {
            place.copy_from_slice(field);
        }
        self.at = end;
        self
    }

    /// Adds the checksum of all that stands before it.
    fn seal(self) -> Self {
        let sum = crc32c(self.bytes.get(..self.at).unwrap_or_default());
        self.add(&sum.to_le_bytes())
    }
}

/// What stands at the beginning: known before the first container is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) size_bytes: u64,
    pub(super) granularity: Granularity,
}

impl Header {
    pub(super) fn encode(self) -> [u8; HEADER_BYTES] {
        Fields::new()
            .add(&MAGIC)
            .add(&VERSION.to_le_bytes())
            .add(&0_u32.to_le_bytes())
            .add(&self.size_bytes.to_le_bytes())
            .add(&self.granularity.bits().to_le_bytes())
            .add(&[0; 32])
            .seal()
            .bytes
    }

    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self> {
        let (magic, _) = bytes.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(Error::new(ErrorKind::UnknownFormat, "this is no segment: the magic is missing").at(HEADER, 0));
        }
        if le_u32(bytes, 8) != VERSION {
            let message = format!("version {} is not known, only {VERSION} is", le_u32(bytes, 8));
            return Err(Error::new(ErrorKind::Unsupported, message).at(HEADER, 8));
        }
        let damaged = |message: String, at: u64| Err(Error::new(ErrorKind::Damaged, message).at(HEADER, at));
        let (body, sum) = bytes.split_at(HEADER_BYTES - 4);
        if crc32c(body) != le_u32(sum, 0) {
            return damaged("the checksum is wrong".into(), 60);
        }
        if le_u32(bytes, 12) != 0 {
            let message = format!("feature bits {:#x} are not known", le_u32(bytes, 12));
            return Err(Error::new(ErrorKind::Unsupported, message).at(HEADER, 12));
        }
        if bytes.get(28..60).is_none_or(|reserved| reserved.iter().any(|byte| *byte != 0)) {
            return damaged("reserved bytes are not zero".into(), 28);
        }
        let header = Granularity::from_bits(le_u32(bytes, 24)).and_then(|granularity| {
            let size_bytes = le_u64(bytes, 16);
            check_disk(size_bytes, granularity).map(|()| Self { size_bytes, granularity })
        });
        header.or_else(|error| damaged(error.message().to_owned(), 16))
    }

    pub(super) fn granules(&self) -> u64 {
        self.granularity.granules(self.size_bytes)
    }

    /// The chunks of the disk; the last one may be partial.
    pub(super) fn chunks(&self) -> u64 {
        self.granules().div_ceil(CHUNK_GRANULES.into())
    }

    /// How many granules of chunk `key` the disk has.
    pub(super) fn granules_of(&self, key: u32) -> u32 {
        let rest = self.granules().saturating_sub(u64::from(key) << 16);
        u32::try_from(rest).map_or(CHUNK_GRANULES, |rest| rest.min(CHUNK_GRANULES))
    }
}

/// What a segment holds, and what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// The size of the disk in bytes.
    pub size_bytes: u64,
    /// The bytes that one granule stands for.
    pub granularity: Granularity,
    /// The dirty granules.
    pub dirty_granules: u64,
    /// The extents of the whole disk.
    pub extents: u64,
    /// The chunks of 65536 granules that have dirty ones.
    pub chunks: u64,
    /// The entries of the directory: consecutive full chunks share one.
    pub entries: u64,
    /// The length of the file.
    pub file_bytes: u64,
}

impl Summary {
    pub(super) fn header(&self) -> Header {
        Header { size_bytes: self.size_bytes, granularity: self.granularity }
    }

    pub(super) fn pages(&self) -> u64 {
        self.entries.div_ceil(PAGE_ENTRIES as u64)
    }

    /// The bytes of directory and index.
    pub(super) fn directory_bytes(&self) -> Option<u64> {
        let index = self.pages().checked_mul(PLACE_BYTES as u64)?;
        self.entries.checked_mul(ENTRY_BYTES as u64)?.checked_add(index)
    }

    pub(super) fn directory_offset(&self) -> u64 {
        let behind = self.directory_bytes().and_then(|bytes| bytes.checked_add(TRAILER_BYTES as u64));
        self.file_bytes.saturating_sub(behind.unwrap_or(u64::MAX))
    }

    pub(super) fn index_offset(&self) -> u64 {
        self.directory_offset() + self.entries.saturating_mul(ENTRY_BYTES as u64)
    }
}

/// The trailer of a segment that `summary` describes; `index` is the checksum of its index.
pub(super) fn encode_trailer(summary: &Summary, index: u32) -> [u8; TRAILER_BYTES] {
    let header = summary.header().encode();
    Fields::new()
        .add(&summary.chunks.to_le_bytes())
        .add(&summary.dirty_granules.to_le_bytes())
        .add(&summary.extents.to_le_bytes())
        .add(&summary.directory_offset().to_le_bytes())
        .add(&summary.entries.to_le_bytes())
        .add(&index.to_le_bytes())
        .add(header.last_chunk::<4>().unwrap_or(&[0; 4]))
        .add(&summary.file_bytes.to_le_bytes())
        .seal()
        .add(&END_MAGIC)
        .bytes
}

/// The summary and the checksum of the index, from the trailer of a file of `file_bytes`.
pub(super) fn decode_trailer(bytes: &[u8; TRAILER_BYTES], header: Header, file_bytes: u64) -> Result<(Summary, u32)> {
    let base = file_bytes.saturating_sub(TRAILER_BYTES as u64);
    let damaged = |message: &str, at: u64| Err(Error::new(ErrorKind::Damaged, message).at(TRAILER, base + at));
    let (body, rest) = bytes.split_at(TRAILER_BYTES - 8);
    if rest.get(4..) != Some(&END_MAGIC) {
        return damaged("the file does not end with a trailer: it was cut short, or something was appended", 60);
    }
    if crc32c(body) != le_u32(rest, 0) {
        return damaged("the checksum is wrong", 56);
    }
    if le_u64(bytes, 48) != file_bytes {
        return damaged("the file is not as long as it was when it was written", 48);
    }
    if header.encode().last_chunk::<4>() != bytes.get(44..48).and_then(<[u8]>::first_chunk) {
        return damaged("it belongs to another header", 44);
    }
    let summary = Summary {
        size_bytes: header.size_bytes,
        granularity: header.granularity,
        chunks: le_u64(bytes, 0),
        dirty_granules: le_u64(bytes, 8),
        extents: le_u64(bytes, 16),
        entries: le_u64(bytes, 32),
        file_bytes,
    };
    let end =
        summary.directory_bytes().and_then(|len| len.checked_add(le_u64(bytes, 24))?.checked_add(TRAILER_BYTES as u64));
    if end != Some(file_bytes) || le_u64(bytes, 24) < HEADER_BYTES as u64 {
        return damaged("the directory does not lie between the containers and the trailer", 24);
    }
    if summary.entries > header.chunks() {
        return damaged("there are more entries than the disk has chunks", 32);
    }
    let is_empty = summary.entries == 0;
    if !(summary.entries..=header.chunks()).contains(&summary.chunks) || is_empty != (summary.chunks == 0) {
        return damaged("the number of chunks is not one of so many entries, or of this disk", 0);
    }
    if !(summary.chunks..=header.granules()).contains(&summary.dirty_granules)
        || is_empty != (summary.dirty_granules == 0)
    {
        return damaged("the number of dirty granules is not one of so many chunks, or of this disk", 8);
    }
    if is_empty && le_u64(bytes, 24) != HEADER_BYTES as u64 {
        return damaged("there are containers, but no entries", 24);
    }
    Ok((summary, le_u32(bytes, 40)))
}

/// One chunk with dirty granules, or several consecutive full ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: u32,
    /// How many chunks; more than one only if they are full.
    pub(super) chunks: u32,
    /// Where the container is; 0 if there is none.
    pub(super) offset: u64,
    /// The dirty granules before this entry.
    pub(super) before: u64,
    /// The length of the container.
    pub(super) len: u32,
    /// The dirty granules of one chunk.
    pub(super) ones: u32,
    /// The checksum of the container.
    pub(super) sum: u32,
    pub(super) form: Form,
}

/// Full entries are merged into one, always.
pub(super) const TOUCH: &str = "full entries touch";

impl Entry {
    /// Whether both are full, and nothing is between them.
    pub(super) fn touches(&self, next: &Self) -> bool {
        self.is_full() && next.is_full() && self.end() == next.key
    }

    pub(super) fn end(&self) -> u32 {
        self.key + self.chunks
    }

    pub(super) fn is_full(&self) -> bool {
        self.form == Form::Full
    }

    /// The dirty granules of all chunks.
    pub(super) fn total(&self) -> u64 {
        u64::from(self.ones) * u64::from(self.chunks)
    }

    /// Where the next container begins.
    pub(super) fn data_end(&self) -> u64 {
        self.offset + aligned(self.len.into())
    }

    pub(super) fn structure(&self) -> String {
        format!("segment container of chunk {}", self.key)
    }

    pub(super) fn encode(&self) -> [u8; ENTRY_BYTES] {
        let form: u32 = match self.form {
            Form::Array => 1,
            Form::Words => 2,
            Form::Runs => 3,
            Form::Full => 4,
            Form::Sparse => 5,
        };
        Fields::new()
            .add(&self.key.to_le_bytes())
            .add(&self.chunks.to_le_bytes())
            .add(&self.offset.to_le_bytes())
            .add(&self.before.to_le_bytes())
            .add(&self.len.to_le_bytes())
            .add(&self.ones.to_le_bytes())
            .add(&self.sum.to_le_bytes())
            .add(&form.to_le_bytes())
            .bytes
    }

    fn decode(bytes: &[u8; ENTRY_BYTES]) -> std::result::Result<Self, &'static str> {
        let form = match le_u32(bytes, 36) {
            1 => Form::Array,
            2 => Form::Words,
            3 => Form::Runs,
            4 => Form::Full,
            5 => Form::Sparse,
            _ => return Err("the form of a container is not known"),
        };
        Ok(Self {
            key: le_u32(bytes, 0),
            chunks: le_u32(bytes, 4),
            offset: le_u64(bytes, 8),
            before: le_u64(bytes, 16),
            len: le_u32(bytes, 24),
            ones: le_u32(bytes, 28),
            sum: le_u32(bytes, 32),
            form,
        })
    }

    /// Whether length and number of granules are possible for the form.
    fn check_form(&self) -> std::result::Result<(), &'static str> {
        let fits = match self.form {
            Form::Array => (1..=ARRAY_MAX).contains(&self.ones) && self.len == 2 * self.ones,
            Form::Words => (ARRAY_MAX + 1..CHUNK_GRANULES).contains(&self.ones) && self.len == WORDS_BYTES,
            Form::Runs => {
                let runs = self.len / 4;
                self.len.is_multiple_of(4)
                    && (1..=RUNS_MAX).contains(&runs)
                    && (runs..CHUNK_GRANULES).contains(&self.ones)
            }
            Form::Sparse => (1..CHUNK_GRANULES).contains(&self.ones) && (SPARSE_MIN..WORDS_BYTES).contains(&self.len),
            Form::Full => self.ones == CHUNK_GRANULES && (self.len, self.sum, self.offset) == (0, 0, 0),
        };
        match fits {
            true => Ok(()),
            false => Err("the length and the number of granules of a container do not fit its form"),
        }
    }
}

/// What the index has of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexEntry {
    /// The first chunk of its first entry.
    pub(super) key: u32,
    /// The checksum of the page.
    pub(super) sum: u32,
    /// The dirty granules before it.
    pub(super) before: u64,
    /// Where its first container begins, or would.
    pub(super) data: u64,
}

impl IndexEntry {
    pub(super) fn encode(&self) -> [u8; PLACE_BYTES] {
        Fields::new()
            .add(&self.key.to_le_bytes())
            .add(&self.sum.to_le_bytes())
            .add(&self.before.to_le_bytes())
            .add(&self.data.to_le_bytes())
            .bytes
    }

    pub(super) fn decode(bytes: &[u8; PLACE_BYTES]) -> Self {
        Self { key: le_u32(bytes, 0), sum: le_u32(bytes, 4), before: le_u64(bytes, 8), data: le_u64(bytes, 16) }
    }
}

/// Refuses the first place of an index that breaks a rule, by its number.
pub(super) fn check_places(
    summary: &Summary,
    places: impl Iterator<Item = IndexEntry>,
) -> std::result::Result<(), (&'static str, u64)> {
    // All pages but the last one have all their entries, each with one chunk and one granule at least.
    let mut least = (0, 0, HEADER_BYTES as u64);
    for (number, place) in (0..).zip(places) {
        if u64::from(place.key) < least.0 || u64::from(place.key) >= summary.header().chunks() {
            return Err(("pages are out of order, or past the end of the disk", number));
        }
        let first = number == 0;
        if place.before < least.1 || place.before > summary.dirty_granules || first && place.before != 0 {
            return Err(("the count of the granules before a page is wrong", number));
        }
        if place.data < least.2 || place.data > summary.directory_offset() || first && place.data != least.2 {
            return Err(("the containers of a page do not lie behind those of the page before it", number));
        }
        let entries = PAGE_ENTRIES as u64;
        least = (u64::from(place.key) + entries, place.before + entries, place.data);
    }
    Ok(())
}

/// Takes the entries of a page in their order, and refuses the first that breaks a rule.
#[derive(Debug)]
pub(super) struct PageReader<'a> {
    header: Header,
    summary: &'a Summary,
    place: &'a IndexEntry,
    last: Option<Entry>,
    /// Where the next container must begin.
    data: u64,
    dirty: u64,
}

impl<'a> PageReader<'a> {
    pub(super) fn new(summary: &'a Summary, place: &'a IndexEntry) -> Self {
        Self { header: summary.header(), summary, place, last: None, data: place.data, dirty: place.before }
    }

    pub(super) fn take(&mut self, bytes: &[u8; ENTRY_BYTES]) -> std::result::Result<Entry, &'static str> {
        let entry = Entry::decode(bytes)?;
        entry.check_form()?;
        if entry.chunks == 0 || entry.chunks > 1 && !entry.is_full() {
            return Err("an entry that is not full spans several chunks, or none");
        }
        let end = u64::from(entry.key) + u64::from(entry.chunks);
        if end > self.header.chunks() || u64::from(entry.ones) > u64::from(self.header.granules_of(entry.key)) {
            return Err("dirty granules lie past the end of the disk");
        }
        if entry.is_full() && end << 16 > self.header.granules() {
            return Err("a full chunk reaches past the end of the disk");
        }
        match &self.last {
            None if entry.key != self.place.key => {
                return Err("a page does not begin with the chunk that the index says");
            }
            Some(last) if last.end() > entry.key => return Err("entries overlap or are out of order"),
            Some(last) if last.touches(&entry) => return Err(TOUCH),
            _ => {}
        }
        if !entry.is_full() {
            if entry.offset != self.data {
                return Err("a container does not begin where the one before it ends");
            }
            self.data = entry.data_end();
            if self.data > self.summary.directory_offset() {
                return Err("a container reaches past the containers' end");
            }
        }
        if entry.before != self.dirty {
            return Err("the count of the granules before an entry is wrong");
        }
        self.dirty += entry.total();
        self.last = Some(entry);
        Ok(entry)
    }

    /// Checks that the page ends where the next one begins, or the directory's end.
    pub(super) fn finish(self, next: Option<&IndexEntry>) -> std::result::Result<(), &'static str> {
        let (data, dirty) = match next {
            None => (self.summary.directory_offset(), self.summary.dirty_granules),
            Some(next) => (next.data, next.before),
        };
        if self.data != data {
            return Err("the last container of a page does not end where the next one begins, or the directory");
        }
        if self.dirty != dirty {
            return Err("the count of the granules after a page is wrong");
        }
        match (next, self.last) {
            (Some(next), Some(last)) if last.end() > next.key => Err("a page reaches into the next one"),
            _ => Ok(()),
        }
    }
}
