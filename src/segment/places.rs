#![forbid(unsafe_code)]
//! Owns the questions where in a segment something is: how much is dirty before a place, the place of the n-th dirty granule,
//! and the last dirty or clean byte of a range. Must never read more than the answer needs.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::container::Decoder;
use super::layout::Entry;
use super::read::{CONTAINERS, Segment};
use crate::bitmap::chunks::{CHUNK_GRANULES, View};
use crate::error::Result;
use crate::io::bytes::with_bytes;

/// The chunk of a granule, and its number in it.
#[allow(clippy::cast_possible_truncation, reason = "the number in a chunk has 16 bits")]
fn split(granule: u64) -> (u64, u16) {
    (granule / u64::from(CHUNK_GRANULES), (granule % u64::from(CHUNK_GRANULES)) as u16)
}

impl Segment<'_> {
    /// The number of dirty granules before the one that holds the byte at `offset`; at the disk's end and past it, also inside
    /// the last granule, all of them. Reads a container at most.
    pub fn rank(&self, offset: u64) -> Result<u64> {
        if offset >= self.size_bytes() {
            return Ok(self.dirty_granules());
        }
        self.count_before(self.granularity().granule_of(offset))
    }

    /// The offset of the `number`-th dirty granule, counted from 0; `None` if fewer are dirty. Reads a container at most.
    pub fn select(&self, number: u64) -> Result<Option<u64>> {
        Ok(self.dirty_granule(number)?.map(|granule| granule << self.granularity().bits()))
    }

    /// The last dirty byte of `offset..offset + len_bytes`, a range that is cut at the disk's end.
    pub fn previous_dirty(&self, offset: u64, len_bytes: u64) -> Result<Option<u64>> {
        let Some(window) = self.window(offset, len_bytes) else { return Ok(None) };
        let Some(number) = self.count_before(window.end)?.checked_sub(1) else { return Ok(None) };
        let found = self.dirty_granule(number)?.filter(|granule| *granule >= window.start);
        Ok(found.map(|granule| self.last_byte(granule, offset, len_bytes)))
    }

    /// The last clean byte of `offset..offset + len_bytes`, a range that is cut at the disk's end.
    pub fn previous_clean(&self, offset: u64, len_bytes: u64) -> Result<Option<u64>> {
        let Some(window) = self.window(offset, len_bytes) else { return Ok(None) };
        let mut last = window.end - 1;
        loop {
            let (chunk, bit) = split(last);
            let index = self.first_touching(&(last..last + 1))?;
            let base = chunk * u64::from(CHUNK_GRANULES);
            // What comes next to look at, or the answer.
            let found = match self.touch_inside(index, &(last..last + 1))? {
                None => Ok(last),
                Some(entry) if entry.is_full() => Err(u64::from(entry.key) * u64::from(CHUNK_GRANULES)),
                Some(entry) => {
                    let clear = self.ask(entry, |view| view.last_clear(bit))?;
                    clear.map(|bit| base + u64::from(bit)).ok_or(base)
                }
            };
            match found {
                Ok(granule) => {
                    let is_inside = granule >= window.start;
                    return Ok(is_inside.then(|| self.last_byte(granule, offset, len_bytes)));
                }
                Err(dirty_from) if dirty_from > window.start => last = dirty_from - 1,
                Err(_) => return Ok(None),
            }
        }
    }

    /// The last byte of a granule, or of a range that ends in it.
    fn last_byte(&self, granule: u64, offset: u64, len_bytes: u64) -> u64 {
        let end = crate::geometry::clip_end(offset, len_bytes, self.size_bytes());
        end.min((granule + 1) << self.granularity().bits()) - 1
    }

    /// The `number`-th dirty granule.
    fn dirty_granule(&self, number: u64) -> Result<Option<u64>> {
        if number >= self.dirty_granules() {
            return Ok(None);
        }
        let page = self.page(self.page_holding(number))?;
        let place = page.partition_point(|entry| entry.before <= number).checked_sub(1);
        let Some(entry) = place.and_then(|place| page.get(place)) else { return Ok(None) };
        let (base, inside) = (u64::from(entry.key) * u64::from(CHUNK_GRANULES), number - entry.before);
        if entry.is_full() {
            return Ok(Some(base + inside));
        }
        // A chunk holds fewer than 65536 unless it is full.
        let Ok(inside) = u16::try_from(inside) else { return Ok(None) };
        Ok(Some(base + u64::from(self.ask(entry, |view| view.dirty_at(inside.into()))?)))
    }

    /// What `look` says of the container of an entry, which is read and checked for it.
    fn ask<R>(&self, entry: &Entry, look: impl FnOnce(View<'_>) -> R) -> Result<R> {
        let mut decoder = Decoder::default();
        let answer = with_bytes(self.storage(), &CONTAINERS, entry.offset, entry.len as usize, |bytes| {
            Ok(look(self.decode(&mut decoder, entry, bytes)?))
        });
        answer.map_err(|error| self.named(error))
    }
}
