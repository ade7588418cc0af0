#![forbid(unsafe_code)]
//! Owns the opening of a segment and the queries on it: from the directory where it knows the answer, else from the few
//! containers that do. Must never keep a container, nor believe one that it has not checked.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::container::{Decoder, Refusal, count_before, count_words_before};
use super::directory::Directory;
use super::extents::Extents;
use super::layout::{
    Entry, HEADER, HEADER_BYTES, Header, PAGE_ENTRIES, Summary, TRAILER, TRAILER_BYTES, decode_trailer,
};
use crate::bitmap::Bitmap;
use crate::bitmap::chunks::{CHUNK_GRANULES, ChunkCollector, Form, View};
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::{Granularity, clip_end};
use crate::io::bytes::{fill, read_some, with_bytes};
use crate::io::{FileId, FileStorage, Storage};
use crate::memory;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name in messages of a read of many containers.
pub(super) const CONTAINERS: &str = "segment containers";

/// Containers are read in pieces of about this many bytes.
pub(super) const READ_BYTES: u64 = 1 << 17;

/// A bitmap in a file, opened to be queried or merged without being loaded.
///
/// In memory are the index of the directory, and those pages of the directory that were needed so far: in all 41
/// bytes for each chunk of 65536 granules that has dirty ones, and never more than the file itself has. Every query reads
/// the pages and containers it needs by positioned reads, and checks each one's checksum and rules before it believes it:
/// one that breaks them is [`ErrorKind::Damaged`], with its place in the file.
#[derive(Clone, Debug)]
pub struct Segment<'s> {
    storage: Arc<dyn Storage + 's>,
    path: Option<PathBuf>,
    summary: Summary,
    directory: Directory,
}

/// How many chunks a segment holds in each form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Forms {
    /// As sorted 16-bit indices.
    pub array: u64,
    /// As one bit for each granule.
    pub words: u64,
    /// As first and last indices of runs.
    pub runs: u64,
    /// As the bytes of words that are not 0, and masks that say which they are.
    pub sparse: u64,
    /// Full, without a container.
    pub full: u64,
}

impl<'s> Segment<'s> {
    /// Opens a segment: reads and checks its header, its trailer and the index of its directory.
    ///
    /// A file that is no segment is [`ErrorKind::UnknownFormat`], one of another version [`ErrorKind::Unsupported`]; one
    /// that breaks a rule of the layout, or was cut short, is [`ErrorKind::Damaged`], with structure and offset.
    pub fn open(storage: Arc<dyn Storage + 's>) -> Result<Self> {
        let file_bytes = storage.len_bytes().map_err(|error| Error::io("cannot find the size", error))?;
        let mut start = [0; HEADER_BYTES];
        let have = read_some(&*storage, &HEADER, 0, &mut start)?;
        if have < start.len() && !is_begun(&start, have) {
            let message = "this is no segment: the magic is missing";
            return Err(Error::new(ErrorKind::UnknownFormat, message).at(HEADER, 0));
        }
        if have < start.len() || file_bytes < (HEADER_BYTES + TRAILER_BYTES) as u64 {
            let message = format!("the file is cut short: it has {file_bytes} bytes");
            return Err(Error::new(ErrorKind::Damaged, message).at(HEADER, 0));
        }
        let header = Header::decode(&start)?;
        let mut end = [0; TRAILER_BYTES];
        fill(&*storage, &TRAILER, file_bytes - TRAILER_BYTES as u64, &mut end)?;
        let (summary, sum) = decode_trailer(&end, header, file_bytes)?;
        let directory = Directory::open(&*storage, summary, sum)?;
        Ok(Self { storage, path: None, summary, directory })
    }

    /// Opens the segment in the file at `path`; errors name the file.
    pub fn open_file(path: &Path) -> Result<Self> {
        let opened = File::open(path).and_then(FileStorage::new).map_err(|error| Error::io("cannot open", error));
        let segment = opened.and_then(|storage| Self::open(Arc::new(storage)));
        segment.map(|segment| Self { path: Some(path.to_owned()), ..segment }).map_err(|error| error.in_file(path))
    }

    /// Which file it is in, where it is in one.
    pub fn file_id(&self) -> Option<FileId> {
        self.storage.file_id()
    }

    /// What the segment holds, as its trailer tells.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// The size of the disk in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.summary.size_bytes
    }

    /// The bytes that one granule stands for.
    pub fn granularity(&self) -> Granularity {
        self.summary.granularity
    }

    /// The number of granules of the disk.
    pub fn granules(&self) -> u64 {
        self.header().granules()
    }

    /// The number of dirty granules.
    pub fn dirty_granules(&self) -> u64 {
        self.summary.dirty_granules
    }

    /// The number of dirty bytes, cut at the disk's end.
    pub fn dirty_bytes(&self) -> Result<u64> {
        let bits = self.granularity().bits();
        let past_end = (self.granules() << bits) - self.size_bytes();
        let last_is_dirty = past_end > 0 && self.get(self.size_bytes() - 1)?;
        Ok((self.dirty_granules() << bits) - if last_is_dirty { past_end } else { 0 })
    }

    /// How many chunks there are in each form: reads the directory.
    pub fn forms(&self) -> Result<Forms> {
        self.touch_all()?;
        let entries = (0..self.entries()).filter_map(|index| self.entry(index));
        Ok(entries.fold(Forms::default(), |mut forms, entry| {
            match entry.form {
                Form::Array => forms.array += 1,
                Form::Words => forms.words += 1,
                Form::Runs => forms.runs += 1,
                Form::Sparse => forms.sparse += 1,
                Form::Full => forms.full += u64::from(entry.chunks),
            }
            forms
        }))
    }

    /// The bytes that this handle takes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.directory.heap_bytes()
    }

    /// Whether the granule that holds the byte at `offset` is dirty.
    ///
    /// An `offset` past the last granule is [`ErrorKind::OutOfRange`].
    pub fn get(&self, offset: u64) -> Result<bool> {
        let granule = self.granularity().granule_of(offset);
        if granule >= self.granules() {
            let message =
                format!("offset {offset} reaches past the last granule of a disk of {} bytes", self.size_bytes());
            return Err(Error::new(ErrorKind::OutOfRange, message));
        }
        Ok(self.count_granules(granule..granule + 1)? > 0)
    }

    /// The number of dirty granules that touch `offset..offset + len_bytes`, a range that is cut at the disk's end;
    /// `u64::MAX` is "to the end". Reads two containers at most, and as many pages of the directory, however long the range.
    pub fn count_range(&self, offset: u64, len_bytes: u64) -> Result<u64> {
        self.window(offset, len_bytes).map_or(Ok(0), |window| self.count_granules(window))
    }

    /// The first dirty byte of `offset..offset + len_bytes`, a range that is cut at the disk's end.
    pub fn next_dirty(&self, offset: u64, len_bytes: u64) -> Result<Option<u64>> {
        Ok(self.extents(offset, len_bytes).next().transpose()?.map(|extent| extent.offset))
    }

    /// The first clean byte of `offset..offset + len_bytes`, a range that is cut at the disk's end.
    pub fn next_clean(&self, offset: u64, len_bytes: u64) -> Result<Option<u64>> {
        let end = clip_end(offset, len_bytes, self.size_bytes());
        let clean = match self.extents(offset, len_bytes).next().transpose()? {
            Some(extent) if extent.offset == offset => extent.end(),
            _ => offset,
        };
        Ok((clean < end).then_some(clean))
    }

    /// The dirty extents inside `offset..offset + len_bytes`, in ascending order, as [`Bitmap::extents`] gives them.
    ///
    /// The containers are read as the iterator goes. After an error it ends.
    pub fn extents(&self, offset: u64, len_bytes: u64) -> Extents<'_> {
        Extents::new(self, offset, clip_end(offset, len_bytes, self.size_bytes()))
    }

    /// The bitmap of the granules that touch `offset..offset + len_bytes`; all others are clean.
    pub fn load(&self, offset: u64, len_bytes: u64) -> Result<Bitmap> {
        let mut collector = ChunkCollector::new(self.size_bytes(), self.granularity())?;
        let Some(window) = self.window(offset, len_bytes) else { return Ok(collector.finish()) };
        let mut decoder = Decoder::default();
        let mut reader = SpanReader::default();
        let mut next = self.first_touching(&window)?..;
        while let Some(index) = next.next()
            && let Some(entry) = self.touch_inside(index, &window)?
        {
            let bytes = reader.container(self, index, READ_BYTES)?;
            collector.push(entry.key, entry.chunks, self.decode(&mut decoder, entry, bytes)?)?;
        }
        let mut bitmap = collector.finish();
        bitmap.keep(offset, len_bytes)?;
        Ok(bitmap)
    }

    pub(super) fn header(&self) -> Header {
        self.summary.header()
    }

    /// The granules that touch a range of bytes; `None` if none does.
    pub(super) fn window(&self, offset: u64, len_bytes: u64) -> Option<Range<u64>> {
        let end = clip_end(offset, len_bytes, self.size_bytes());
        (end > offset).then(|| self.granularity().granule_of(offset)..self.granularity().granule_of(end - 1) + 1)
    }

    /// The number of the first entry that has granules of a window, or come after it.
    pub(super) fn first_touching(&self, window: &Range<u64>) -> Result<usize> {
        let Some(number) = self.directory.page_of(window.start >> 16) else { return Ok(0) };
        let ends_before = |entry: &Entry| u64::from(entry.end()) << 16 <= window.start;
        Ok(number * PAGE_ENTRIES + self.page(number)?.partition_point(ends_before))
    }

    /// The entry of this number, if it begins before the end of `window`.
    pub(super) fn touch_inside(&self, index: usize, window: &Range<u64>) -> Result<Option<&Entry>> {
        let entry = self.directory.touch(&*self.storage, index).map_err(|error| self.named(error))?;
        Ok(entry.filter(|entry| u64::from(entry.key) << 16 < window.end))
    }

    /// The number of entries.
    pub(super) fn entries(&self) -> usize {
        self.directory.len()
    }

    /// The number of pages of the directory.
    pub(super) fn pages(&self) -> usize {
        self.directory.pages()
    }

    /// The entry of this number, if its page was read.
    pub(super) fn entry(&self, index: usize) -> Option<&Entry> {
        self.directory.entry(index)
    }

    /// The number of the page with the `number`-th dirty granule.
    pub(super) fn page_holding(&self, number: u64) -> usize {
        self.directory.page_holding(number)
    }

    pub(super) fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// The entries of a page.
    pub(super) fn page(&self, number: usize) -> Result<&[Entry]> {
        self.directory.page(&*self.storage, number).map_err(|error| self.named(error))
    }

    /// Reads every page of the directory.
    pub(super) fn touch_all(&self) -> Result<()> {
        self.directory.touch_all(&*self.storage).map_err(|error| self.named(error))
    }

    fn count_granules(&self, window: Range<u64>) -> Result<u64> {
        Ok(self.count_before(window.end)? - self.count_before(window.start)?)
    }

    /// The dirty granules before `granule`.
    pub(super) fn count_before(&self, granule: u64) -> Result<u64> {
        if granule >= self.granules() {
            return Ok(self.dirty_granules());
        }
        let Some(last) = granule.checked_sub(1) else { return Ok(0) };
        let Some(number) = self.directory.page_of(last >> 16) else { return Ok(0) };
        let page = self.page(number)?;
        let index = page.partition_point(|entry| u64::from(entry.end()) << 16 <= granule);
        let Some(entry) = page.get(index) else { return Ok(self.directory.before(number + 1)) };
        let inside = granule.saturating_sub(u64::from(entry.key) << 16);
        if inside == 0 || entry.is_full() {
            return Ok(entry.before + inside);
        }
        let mut decoder = Decoder::default();
        let inside = u16::try_from(inside).unwrap_or(u16::MAX);
        let count = with_bytes(&*self.storage, &CONTAINERS, entry.offset, entry.len as usize, |bytes| {
            if entry.form == Form::Words && self.header().granules_of(entry.key) == CHUNK_GRANULES {
                return count_words_before(entry, bytes, inside).map_err(|what| self.damaged(entry, what));
            }
            Ok(count_before(self.decode(&mut decoder, entry, bytes)?, inside))
        });
        Ok(entry.before + count.map_err(|error| self.named(error))?)
    }

    /// Reads the container of `entry`, and refuses it where it breaks a rule.
    pub(super) fn decode<'d>(&self, decoder: &'d mut Decoder, entry: &Entry, bytes: &'d [u8]) -> Result<View<'d>> {
        let view = decoder.decode(entry, bytes, self.header().granules_of(entry.key));
        view.map_err(|refusal| match refusal {
            Refusal::Broken(rule) => self.damaged(entry, rule),
            Refusal::OutOfMemory => self.named(Error::out_of_memory()),
        })
    }

    fn damaged(&self, entry: &Entry, what: &str) -> Error {
        self.named(Error::new(ErrorKind::Damaged, what).at(entry.structure(), entry.offset))
    }

    /// Where the containers of some entries are in the file; empty if none has one.
    pub(super) fn span(&self, entries: Range<usize>) -> Range<u64> {
        let held = |index: usize| self.entry(index).filter(|entry| !entry.is_full());
        let start = entries.clone().find_map(held).map_or(0, |entry| entry.offset);
        start..entries.rev().find_map(held).map_or(start, Entry::data_end)
    }

    /// Fills `buffer` from `offset` on.
    pub(super) fn read(&self, structure: &str, offset: u64, buffer: &mut [u8]) -> Result<()> {
        fill(&*self.storage, &structure, offset, buffer).map_err(|error| self.named(error))
    }

    /// The error with the file's name.
    pub(super) fn named(&self, error: Error) -> Error {
        match &self.path {
            Some(path) => error.in_file(path),
            None => error,
        }
    }
}

/// Reads containers one after the other, many at a time.
#[derive(Debug, Default)]
pub(super) struct SpanReader {
    buffer: Vec<u8>,
    /// Where in the file the buffer is from.
    offset: u64,
}

impl SpanReader {
    /// The bytes of the container of entry `index`; where it has to read, it reads about `ahead` bytes.
    pub(super) fn container(&mut self, segment: &Segment<'_>, index: usize, ahead: u64) -> Result<&[u8]> {
        let Some(entry) = segment.entry(index).filter(|entry| !entry.is_full()) else { return Ok(&[]) };
        let inside = |reader: &Self| {
            let from = usize::try_from(entry.offset.checked_sub(reader.offset)?).ok()?;
            Some(from..from.checked_add(entry.len as usize)?).filter(|range| range.end <= reader.buffer.len())
        };
        if inside(self).is_none() {
            let later = (index..).map_while(|index| segment.entry(index));
            let later = later.filter(|entry| !entry.is_full()).map(Entry::data_end);
            let end = later.take_while(|end| end - entry.offset <= ahead).last().unwrap_or(entry.data_end());
            memory::resize(&mut self.buffer, usize::try_from(end - entry.offset).unwrap_or_default())?;
            self.offset = entry.offset;
            let read = segment.read(CONTAINERS, entry.offset, &mut self.buffer);
            if let Err(error) = read {
                self.buffer.clear();
                return Err(error);
            }
        }
        Ok(inside(self).and_then(|range| self.buffer.get(range)).unwrap_or_default())
    }

    /// Whether the container of `entry`, which was read last, is followed by zeros up to where the next one begins.
    pub(super) fn is_padded(&self, entry: &Entry) -> bool {
        let place = |offset: u64| usize::try_from(offset.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let gap = place(entry.offset + u64::from(entry.len))..place(entry.data_end());
        entry.is_full() || self.buffer.get(gap).is_some_and(|gap| gap.iter().all(|byte| *byte == 0))
    }
}

/// Whether the first `have` bytes are those of a segment, as far as they go.
fn is_begun(start: &[u8], have: usize) -> bool {
    have > 0 && start.iter().take(have).zip(super::layout::MAGIC).all(|(byte, magic)| *byte == magic)
}
