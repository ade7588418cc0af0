#![forbid(unsafe_code)]
//! Owns the directory of an open segment: its index, and its pages, each read and checked when it is first asked for. Must
//! never know the contents of a container.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::layout::{
    DIRECTORY, ENTRY_BYTES, Entry, INDEX, IndexEntry, PAGE_ENTRIES, PLACE_BYTES, PageReader, Summary, check_places,
};
use crate::checksum::crc32c;
use crate::error::{Error, ErrorKind, Result};
use crate::io::Storage;
use crate::io::bytes::{fill, with_bytes};
use crate::memory;
use once_cell::race::OnceBox;

/// The pages that are read at once, where many are wanted.
const PAGES_AT_ONCE: usize = 64;

const PAGE_BYTES: usize = PAGE_ENTRIES * ENTRY_BYTES;

#[derive(Clone, Debug)]
pub(super) struct Directory {
    summary: Summary,
    pages: Vec<Page>,
}

#[derive(Clone, Debug)]
struct Page {
    place: IndexEntry,
    /// Empty until somebody asks. Who asks never waits for another who reads them too.
    entries: OnceBox<Box<[Entry]>>,
}

impl Directory {
    /// Reads the index, whose checksum is `sum`.
    pub(super) fn open(storage: &dyn Storage, summary: Summary, sum: u32) -> Result<Self> {
        let base = summary.index_offset();
        let damaged = |what: &str, at: u64| Error::new(ErrorKind::Damaged, what).at(INDEX, at);
        let wanted = usize::try_from(summary.pages()).ok();
        let Some((wanted, len)) = wanted.and_then(|wanted| Some((wanted, wanted.checked_mul(PLACE_BYTES)?))) else {
            let message = format!("{} entries are more than this machine can address", summary.entries);
            return Err(Error::new(ErrorKind::Unsupported, message).at(INDEX, base));
        };
        let mut pages: Vec<Page> = memory::room(wanted)?;
        with_bytes(storage, &INDEX, base, len, |bytes| {
            if crc32c(bytes) != sum {
                return Err(damaged("the checksum is wrong", base));
            }
            let places = bytes.as_chunks().0.iter().map(IndexEntry::decode);
            pages.extend(places.map(|place| Page { place, entries: OnceBox::new() }));
            Ok(())
        })?;
        check_places(&summary, pages.iter().map(|page| page.place))
            .map_err(|(what, number)| damaged(what, base + number * PLACE_BYTES as u64))?;
        Ok(Self { summary, pages })
    }

    /// The number of entries.
    pub(super) fn len(&self) -> usize {
        usize::try_from(self.summary.entries).unwrap_or(usize::MAX)
    }

    pub(super) fn pages(&self) -> usize {
        self.pages.len()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let entries = self.pages.iter().filter_map(|page| page.entries.get()).map(|entries| entries.len());
        self.pages.capacity() * size_of::<Page>() + entries.sum::<usize>() * size_of::<Entry>()
    }

    /// The entry of this number, if its page was read.
    pub(super) fn entry(&self, index: usize) -> Option<&Entry> {
        self.pages.get(index / PAGE_ENTRIES)?.entries.get()?.get(index % PAGE_ENTRIES)
    }

    /// The entry of this number, if there are as many.
    pub(super) fn touch(&self, storage: &dyn Storage, index: usize) -> Result<Option<&Entry>> {
        Ok(self.page(storage, index / PAGE_ENTRIES)?.get(index % PAGE_ENTRIES))
    }

    /// The entries of a page; none behind the last one.
    pub(super) fn page(&self, storage: &dyn Storage, number: usize) -> Result<&[Entry]> {
        let Some(page) = self.pages.get(number) else { return Ok(&[]) };
        if let Some(entries) = page.entries.get() {
            return Ok(entries);
        }
        let (offset, len) = self.whereabouts(number, 1);
        let entries = with_bytes(storage, &DIRECTORY, offset, len, |bytes| self.decode(number, bytes))?;
        Ok(page.entries.get_or_init(|| Box::new(entries)))
    }

    /// Reads every page that was not read yet.
    pub(super) fn touch_all(&self, storage: &dyn Storage) -> Result<()> {
        let mut buffer = Vec::new();
        for first in (0..self.pages.len()).step_by(PAGES_AT_ONCE) {
            let pages = self.pages.iter().enumerate().skip(first).take(PAGES_AT_ONCE);
            if pages.clone().all(|(_, page)| page.entries.get().is_some()) {
                continue;
            }
            let (offset, len) = self.whereabouts(first, PAGES_AT_ONCE);
            memory::resize(&mut buffer, len)?;
            fill(storage, &DIRECTORY, offset, &mut buffer)?;
            for ((number, page), bytes) in pages.zip(buffer.chunks(PAGE_BYTES)) {
                if page.entries.get().is_none() {
                    let entries = self.decode(number, bytes)?;
                    page.entries.get_or_init(|| Box::new(entries));
                }
            }
        }
        Ok(())
    }

    /// The page that has the last entry whose first chunk is not after `chunk`.
    pub(super) fn page_of(&self, chunk: u64) -> Option<usize> {
        self.pages.partition_point(|page| u64::from(page.place.key) <= chunk).checked_sub(1)
    }

    /// The page with the `number`-th dirty granule, from 0.
    pub(super) fn page_holding(&self, number: u64) -> usize {
        self.pages.partition_point(|page| page.place.before <= number).saturating_sub(1)
    }

    /// The dirty granules before a page, or all where there is none.
    pub(super) fn before(&self, number: usize) -> u64 {
        self.pages.get(number).map_or(self.summary.dirty_granules, |page| page.place.before)
    }

    /// Offset and length of a number of pages from `number` on.
    fn whereabouts(&self, number: usize, pages: usize) -> (u64, usize) {
        let first = number * PAGE_ENTRIES;
        let entries = self.len().saturating_sub(first).min(pages * PAGE_ENTRIES);
        (self.summary.directory_offset() + (first * ENTRY_BYTES) as u64, entries * ENTRY_BYTES)
    }

    fn decode(&self, number: usize, bytes: &[u8]) -> Result<Box<[Entry]>> {
        let base = self.whereabouts(number, 1).0;
        let damaged = |what: &str, at: u64| Error::new(ErrorKind::Damaged, what).at(DIRECTORY, at);
        let Some(page) = self.pages.get(number) else { return Ok(Box::default()) };
        if crc32c(bytes) != page.place.sum {
            return Err(damaged("the checksum of a page is wrong", base));
        }
        let mut reader = PageReader::new(&self.summary, &page.place);
        let encoded = bytes.as_chunks().0;
        let mut entries = memory::room(encoded.len())?;
        for (entry, bytes) in (0..).zip(encoded) {
            entries.push(reader.take(bytes).map_err(|what| damaged(what, base + entry * ENTRY_BYTES as u64))?);
        }
        let next = self.pages.get(number + 1).map(|page| &page.place);
        reader.finish(next).map_err(|what| damaged(what, base))?;
        Ok(entries.into_boxed_slice())
    }
}
