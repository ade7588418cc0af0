#![forbid(unsafe_code)]
//! Owns the way in and out as plain bits, least significant first, one piece of the disk at a time. Must never know of
//! clusters, tables or files.

use super::Bitmap;
use super::container::{CHUNK, Container, Made, Run, View, Words, Workspace, clear_run, no_words, to_u16};
use super::directory::Directory;
use super::span::{Span, split, window_in_chunk};
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::Granularity;
use crate::kernels::select;
use crate::memory;

/// The bytes of one chunk's bits.
const CHUNK_BYTES: usize = size_of::<Words>();

impl Bitmap {
    /// A bitmap of these bits: bit n is granule n, in byte n/8, counted from the least significant bit.
    ///
    /// Granules past the end of `bits` are clean; bits past the last granule are ignored. A disk that [`Bitmap::new`]
    /// would refuse is [`ErrorKind::InvalidArgument`].
    pub fn from_bits(size_bytes: u64, granularity: Granularity, bits: &[u8]) -> Result<Self> {
        let mut bitmap = Self::new(size_bytes, granularity)?;
        bitmap.set_bits(0, bits)?;
        Ok(bitmap)
    }

    /// Marks the granules whose bits are set; those whose bits are clear stay as they are.
    ///
    /// `offset` is the byte of the disk at which the granule of the first bit begins. Bit n, in byte n/8, counted from the
    /// least significant bit, is the n-th granule after that one. Bits past the last granule are ignored. As a byte holds
    /// eight granules, an `offset` that is not a multiple of eight granules is [`ErrorKind::InvalidArgument`].
    pub fn set_bits(&mut self, offset: u64, bits: &[u8]) -> Result<()> {
        if self.append_bits(offset, bits)? {
            return Ok(());
        }
        let mut workspace = Workspace::new();
        self.change_by_bits(offset, bits, |ours, words, _| {
            let Some(words) = words else { return Ok(None) };
            let mut united = Container::from_words(words)?;
            if let Some(ours) = ours {
                united.unite_with(ours, &mut workspace)?;
            }
            Ok(Some(united))
        })
    }

    /// Makes the granules dirty whose bits are set, and those clean whose bits are clear. Bits are ordered as in
    /// [`Bitmap::set_bits`], which also lists the errors.
    pub fn replace_bits(&mut self, offset: u64, bits: &[u8]) -> Result<()> {
        if self.append_bits(offset, bits)? {
            return Ok(());
        }
        self.change_by_bits(offset, bits, |ours, words, given| {
            let Some(ours) = ours else { return words.map(Container::from_words).transpose() };
            let mut rest = memory::copy_box(&ours.words())?;
            clear_run(&mut rest, given);
            if let Some(words) = words {
                View::Words(&words).add_to(&mut rest);
            }
            Container::from_words(rest).map(Some)
        })
    }

    /// Adds the bits of whole chunks that all lie behind those that have dirty granules, packed; whether they are such bits.
    ///
    /// A chunk that comes in pieces is none: its next piece would put a container of its own in the place of the packed one, and
    /// leave that unused in the arena.
    fn append_bits(&mut self, offset: u64, bits: &[u8]) -> Result<bool> {
        let (first, granules) = (self.first_granule(offset)?, self.granules());
        let end = first.saturating_add((bits.len() as u64).saturating_mul(8)).min(granules);
        if end <= first {
            return Ok(true);
        }
        let is_whole = |bound: u64| bound.is_multiple_of(CHUNK.into());
        let is_behind = || self.directory.entries().last().is_none_or(|last| last.end() <= split(first).0);
        if !is_whole(first) || end < granules && !is_whole(end) || !is_behind() {
            return Ok(false);
        }
        let used = (granules - first).div_ceil(8);
        let mut rest = &bits[..bits.len().min(usize::try_from(used).unwrap_or(usize::MAX))];
        let chunks = rest.len().div_ceil(CHUNK_BYTES);
        let mut made = Directory::with_capacity(chunks, chunks, rest.len())?;
        let (mut workspace, kernels) = (Workspace::new(), select());
        let (mut at, mut room) = (first, [0; 1024]);
        while !rest.is_empty() {
            let (key, _) = split(at);
            let (piece, tail) = rest.split_at(rest.len().min(CHUNK_BYTES));
            let past = u32::try_from(granules - (u64::from(key) << 16)).unwrap_or(CHUNK);
            let words = match bytemuck::try_from_bytes::<Words>(piece) {
                Ok(words) if cfg!(target_endian = "little") && past >= CHUNK => words,
                _ => {
                    room.fill(0);
                    read_words(piece, 0, &mut room);
                    if past < CHUNK {
                        clear_run(&mut room, Run { first: to_u16(past), last: u16::MAX });
                    }
                    &room
                }
            };
            let measure = (kernels.measure)(words);
            if measure.ones > 0 {
                let Made { view, measure } = workspace.smallest_of(words, measure)?;
                made.push(key, measure, view)?;
            }
            at = (u64::from(key) + 1) << 16;
            rest = tail;
        }
        made.shrink();
        self.directory.append(made)?;
        Ok(true)
    }

    /// Puts what `change` makes of each chunk that `bits` touch in its place, unless it makes nothing. It gets what the chunk
    /// holds, the bits as words, and where in the chunk they lie; nothing for a chunk or for bits in which nothing is set.
    fn change_by_bits(
        &mut self,
        offset: u64,
        bits: &[u8],
        mut change: impl FnMut(Option<View<'_>>, Option<Box<Words>>, Run) -> memory::Result<Option<Container>>,
    ) -> Result<()> {
        let first_granule = self.first_granule(offset)?;
        let granules = self.granules();
        let (mut at, mut rest, mut changed) = (first_granule, bits, Vec::new());
        while at < granules && !rest.is_empty() {
            let (key, low) = split(at);
            let skip = usize::from(low / 8);
            let (piece, tail) = rest.split_at(rest.len().min(CHUNK_BYTES - skip));
            let mut words = None;
            if piece.iter().any(|&byte| byte != 0) {
                let words = words.insert(words_of(piece, skip)?);
                if let Ok(used @ 0..CHUNK) = u32::try_from(granules - (u64::from(key) << 16)) {
                    clear_run(words, Run { first: to_u16(used), last: u16::MAX });
                }
            }
            #[allow(clippy::cast_possible_truncation, reason = "a piece has 65536 bits at most")]
            let given = Run { first: low, last: low + (8 * piece.len() - 1) as u16 };
            let ours = self.directory.find(key).map(|entry| self.directory.view(entry));
            if let Some(container) = change(ours, words, given)? {
                memory::push(&mut changed, (key, container))?;
            }
            at = (u64::from(key) + 1) << 16;
            rest = tail;
        }
        self.directory.reserve(changed.len())?;
        changed.into_iter().for_each(|(key, container)| self.directory.put(key, container));
        Ok(())
    }

    /// Overwrites `out` with the bits of the granules from byte `offset` of the disk on, in the order of
    /// [`Bitmap::set_bits`], which also lists the errors.
    ///
    /// Bits past the last granule are 0.
    pub fn copy_bits(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let first_granule = self.first_granule(offset)?;
        let end = first_granule.saturating_add(out.len() as u64 * 8).min(self.granules());
        if end <= first_granule {
            out.fill(0);
            return Ok(());
        }
        let window = Span { first: first_granule, last: end - 1 };
        let mut filled = 0;
        for entry in self.directory.within(split(window.first).0, split(window.last).0 + 1) {
            let all = entry.span();
            let (first, last) = (all.first.max(window.first), all.last.min(window.last));
            let from = byte_index(first - first_granule);
            let to = byte_index(last - first_granule) + 1;
            out[filled..from].fill(0);
            let piece = &mut out[from..to];
            if entry.is_full() {
                // A full chunk has no granule past the disk's end, so it begins and ends with whole bytes.
                piece.fill(u8::MAX);
            } else {
                let run = window_in_chunk(window, entry.base());
                copy_view(self.directory.view(entry), usize::from(run.first / 8), piece);
            }
            filled = to;
        }
        out[filled..].fill(0);
        Ok(())
    }

    /// The granule that begins at byte `offset`, if it can be the first of a byte of bits.
    fn first_granule(&self, offset: u64) -> Result<u64> {
        let unit = 8 * self.granularity.bytes();
        if offset.is_multiple_of(unit) {
            return Ok(self.granularity.granule_of(offset));
        }
        let message = format!("bits cannot begin at {offset}: a byte holds 8 granules, which are {unit} bytes");
        Err(Error::new(ErrorKind::InvalidArgument, message))
    }
}

/// The words of a chunk in which `bytes` begin at byte `skip`.
fn words_of(bytes: &[u8], skip: usize) -> memory::Result<Box<Words>> {
    let mut words = no_words()?;
    read_words(bytes, skip, &mut words);
    Ok(words)
}

/// Sets the bits of `bytes`, which begin at byte `skip`.
fn read_words(bytes: &[u8], skip: usize, words: &mut Words) {
    let head = bytes.len().min(skip.next_multiple_of(8) - skip);
    let (head, body) = bytes.split_at(head);
    let mut add = |at: usize, bytes: &[u8]| {
        let mut word = [0; 8];
        word[at % 8..at % 8 + bytes.len()].copy_from_slice(bytes);
        words[at / 8] |= u64::from_le_bytes(word);
    };
    if !head.is_empty() {
        add(skip, head);
    }
    let start = skip + head.len();
    let (whole, tail) = body.as_chunks::<8>();
    if !tail.is_empty() {
        add(start + size_of_val(whole), tail);
    }
    for (word, bytes) in words[start / 8..].iter_mut().zip(whole) {
        *word |= u64::from_le_bytes(*bytes);
    }
}

/// Fills `out` with the bits of a chunk from byte `skip` on.
fn copy_view(view: View<'_>, skip: usize, out: &mut [u8]) {
    if cfg!(target_endian = "little") {
        if let View::Words(words) = view {
            let bytes: &[u8] = bytemuck::cast_slice(words);
            return out.copy_from_slice(&bytes[skip..skip + out.len()]);
        }
        if let Ok(words) = bytemuck::try_from_bytes_mut::<Words>(out) {
            return view.copy_to(words);
        }
    }
    copy_words(&view.words(), skip, out);
}

/// Copies the bytes of `words` from byte `skip` on.
fn copy_words(words: &Words, skip: usize, out: &mut [u8]) {
    let head = out.len().min(skip.next_multiple_of(8) - skip);
    let (head, body) = out.split_at_mut(head);
    let copy = |at: usize, out: &mut [u8]| {
        out.copy_from_slice(&words[at / 8].to_le_bytes()[at % 8..at % 8 + out.len()]);
    };
    let start = skip + head.len();
    if !head.is_empty() {
        copy(skip, head);
    }
    for (index, out) in body.chunks_mut(8).enumerate() {
        copy(start + index * 8, out);
    }
}

/// The byte of a bit inside a buffer in memory.
#[allow(clippy::cast_possible_truncation, reason = "the bit is inside a buffer, whose length is a usize")]
fn byte_index(bit: u64) -> usize {
    (bit / 8) as usize
}
