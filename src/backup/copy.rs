#![forbid(unsafe_code)]
//! Owns the copying of a disk into one backup's file: which extents are read together, and the two threads of it. Must never know
//! which extents are wanted, nor where the file gets its name.

use super::changes::Wanted;
use super::writer::{Writer, Written, buffer};
use crate::content::Content;
use crate::error::Result;
use crate::geometry::Extent;
use crate::memory;
use crate::pool::Pool;
use crate::progress::{Observer, tell};
use std::iter::Peekable;
use std::path::Path;

/// The bytes that are read at once: enough for several requests to a server to be under way.
const BATCH_BYTES: u64 = 4 << 20;

/// The most extents of a batch, zeros among them.
const MOST_EXTENTS: usize = 1024;

/// One of the two things that are done at the same time.
enum Half<'a> {
    /// The next batch is read.
    Read(&'a mut [u8], &'a Batch),
    /// The one before it is written.
    Write(&'a mut Writer, &'a [u8], &'a Batch),
}

/// Extents that are read at once, of [`BATCH_BYTES`] bytes at most, and the zeros between them.
#[derive(Default)]
struct Batch {
    copied: Vec<Extent>,
    /// Each with the number of copied extents that come before it.
    zeros: Vec<(usize, Extent)>,
    len_bytes: u64,
}

/// Cuts that which has to be written into batches, in its order on the disk.
struct Batches<C: Iterator<Item = Extent>, Z: Iterator<Item = Extent>> {
    copied: Peekable<C>,
    zeros: Peekable<Z>,
}

impl<C: Iterator<Item = Extent>, Z: Iterator<Item = Extent>> Batches<C, Z> {
    /// The next batch; none at the end.
    fn next_batch(&mut self) -> Result<Option<Batch>> {
        let mut batch = Batch::default();
        let mut is_empty = true;
        loop {
            let next_copied = self.copied.peek().map(|extent| extent.offset);
            if let Some(zero) = self.zeros.next_if(|zero| next_copied.is_none_or(|copied| zero.offset < copied)) {
                memory::push(&mut batch.zeros, (batch.copied.len(), zero))?;
            } else if let Some(extent) = self.copied.next_if(|extent| batch.len_bytes + extent.len_bytes <= BATCH_BYTES)
            {
                memory::push(&mut batch.copied, extent)?;
                batch.len_bytes += extent.len_bytes;
            } else {
                return Ok((!is_empty).then_some(batch));
            }
            is_empty = false;
            if batch.copied.len() + batch.zeros.len() >= MOST_EXTENTS {
                return Ok(Some(batch));
            }
        }
    }
}

impl Batch {
    fn write(&self, writer: &mut Writer, bytes: &[u8]) -> Result<()> {
        let mut zeros = self.zeros.iter().peekable();
        let mut rest = bytes;
        for (number, extent) in self.copied.iter().enumerate() {
            while let Some((_, zero)) = zeros.next_if(|(before, _)| *before <= number) {
                writer.write_zeros(zero.offset, zero.len_bytes)?;
            }
            let len = usize::try_from(extent.len_bytes).unwrap_or(usize::MAX).min(rest.len());
            let (bytes, behind) = rest.split_at(len);
            writer.bytes(extent.offset, bytes)?;
            rest = behind;
        }
        zeros.try_for_each(|(_, zero)| writer.write_zeros(zero.offset, zero.len_bytes))
    }
}

/// Writes the wanted clusters into a file in `folder`; on two threads, a batch is read while the one before it is written.
pub(super) fn copy(
    content: &dyn Content,
    wanted: &Wanted,
    (folder, backing): (&Path, Option<&str>),
    threads: usize,
    observer: &mut dyn Observer,
) -> Result<Written> {
    let mut writer = Writer::begin(folder, content.size_bytes(), backing)?;
    let pool = Pool::new(threads.min(2));
    let total = wanted.copied.dirty_bytes();
    let (mut next, mut last) = (buffer(BATCH_BYTES)?, buffer(BATCH_BYTES)?);
    let mut read: Option<Batch> = None;
    let mut done = 0;
    let copied = wanted.copied.extents(0, u64::MAX).flat_map(pieces_of).peekable();
    let mut batches = Batches { copied, zeros: wanted.zeros.extents(0, u64::MAX).peekable() };
    loop {
        let batch = batches.next_batch()?;
        if batch.is_none() && read.is_none() {
            break;
        }
        tell(observer, "copying the disk", done, total)?;
        let mut halves = Vec::new();
        if let Some(batch) = &batch {
            memory::push(&mut halves, Half::Read(start_of_mut(&mut next, batch.len_bytes), batch))?;
        }
        if let Some(before) = &read {
            memory::push(&mut halves, Half::Write(&mut writer, start_of(&last, before.len_bytes), before))?;
            done += before.len_bytes;
        }
        let halves = pool.map(halves, |half| match half {
            Half::Read(bytes, batch) => content.read_extents(bytes, &batch.copied),
            Half::Write(writer, bytes, batch) => batch.write(writer, bytes),
        })?;
        halves.into_iter().collect::<Result<Vec<()>>>()?;
        std::mem::swap(&mut next, &mut last);
        read = batch;
    }
    tell(observer, "copying the disk", total, total)?;
    writer.finish(folder)
}

/// The pieces in which an extent is read.
fn pieces_of(extent: Extent) -> impl Iterator<Item = Extent> {
    let count = extent.len_bytes.div_ceil(BATCH_BYTES);
    (0..count).map(move |at| {
        let offset = extent.offset + at * BATCH_BYTES;
        Extent { offset, len_bytes: BATCH_BYTES.min(extent.end() - offset) }
    })
}

/// The part of a buffer that a batch fills.
fn start_of(buffer: &[u8], len_bytes: u64) -> &[u8] {
    buffer.get(..usize::try_from(len_bytes).unwrap_or(usize::MAX)).unwrap_or_default()
}

/// As [`start_of`], to fill it.
fn start_of_mut(buffer: &mut [u8], len_bytes: u64) -> &mut [u8] {
    buffer.get_mut(..usize::try_from(len_bytes).unwrap_or(usize::MAX)).unwrap_or_default()
}
