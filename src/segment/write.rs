#![forbid(unsafe_code)]
//! Owns the writing of a segment from front to end, without ever going back: containers as they come, then the directory
//! and the trailer. Must never know what the bytes are written to.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::container::encode;
use super::layout::{
    ALIGN, ALIGN_LEN, ENTRY_BYTES, Entry, HEADER_BYTES, Header, IndexEntry, PAGE_ENTRIES, PLACE_BYTES, Summary,
    TRAILER_BYTES, encode_trailer,
};
use crate::bitmap::Bitmap;
use crate::bitmap::chunks::{CHUNK_GRANULES, Chunk, Form, Plain, View};
use crate::checksum::crc32c;
use crate::error;
use crate::geometry::Granularity;
use crate::memory;
use std::io::{self, Write};

/// Containers gather to about this many bytes between two writes.
const WRITE_BYTES: usize = 1 << 17;

/// Writes `bitmap` as a segment, without seeking: to a file, a pipe, or into memory.
///
/// Equal bitmaps give equal bytes. Any error is that of `out`, or [`io::ErrorKind::OutOfMemory`]; the bytes written until then are no segment, since they have
/// no trailer. Who writes a file writes a temporary one, makes it durable and renames it.
///
/// ```
/// use checkmap::{Bitmap, Granularity, segment};
///
/// let mut bitmap = Bitmap::new(10 << 30, Granularity::from_bytes(65536)?)?;
/// bitmap.set(1 << 30, 1)?;
/// let mut bytes = Vec::new();
/// let summary = segment::write(&bitmap, &mut bytes).expect("memory can be written");
/// assert_eq!(summary.dirty_granules, 1);
/// assert_eq!(summary.file_bytes, bytes.len() as u64);
/// # Ok::<(), checkmap::Error>(())
/// ```
pub fn write(bitmap: &Bitmap, out: &mut dyn Write) -> io::Result<Summary> {
    let mut writer = Writer::new(out, bitmap.size_bytes(), bitmap.granularity())?;
    let mut pieces = Pieces::default();
    bitmap.for_each_chunk(|chunk| {
        pieces.push(&chunk)?;
        if pieces.bytes.len() < WRITE_BYTES {
            return Ok(());
        }
        writer.write(&pieces)?;
        pieces.clear();
        Ok::<(), io::Error>(())
    })?;
    writer.write(&pieces)?;
    writer.finish()
}

/// The bytes that [`write()`] writes: quicker than writing into a vector, as nothing is copied twice.
pub fn to_vec(bitmap: &Bitmap) -> error::Result<Vec<u8>> {
    let header = Header { size_bytes: bitmap.size_bytes(), granularity: bitmap.granularity() };
    let (entries, bytes) = bitmap.most_of_chunks(ALIGN_LEN);
    let mut pieces = Pieces::default();
    let pages = entries.div_ceil(PAGE_ENTRIES);
    pieces.reserve(1, bytes + entries * ENTRY_BYTES + pages * PLACE_BYTES + HEADER_BYTES + TRAILER_BYTES)?;
    memory::prefer_huge_pages(&pieces.bytes);
    pieces.bytes.extend_from_slice(&header.encode());
    let mut contents = Contents::new(header);
    contents.directory.try_reserve(entries * ENTRY_BYTES)?;
    bitmap.for_each_chunk(|chunk| -> memory::Result<()> {
        pieces.push(&chunk)?;
        pieces.pieces.drain(..).try_for_each(|piece| contents.enter(&piece))
    })?;
    let (tail, _) = contents.finish()?;
    pieces.bytes.try_reserve_exact(tail.len())?;
    pieces.bytes.extend_from_slice(&tail);
    Ok(pieces.bytes)
}

/// One entry in the making: all of it but where its container will be.
#[derive(Clone, Copy, Debug)]
struct Piece {
    key: u32,
    chunks: u32,
    ones: u32,
    len: u32,
    sum: u32,
    runs: u32,
    form: Form,
    /// Whether its first and its last granule are dirty.
    edges: (bool, bool),
}

/// Consecutive containers as they will stand in the file, each followed by the zeros up to the next.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    pieces: Vec<Piece>,
    bytes: Vec<u8>,
}

impl Pieces {
    /// The memory that a piece takes beside its bytes.
    pub(super) const PIECE_BYTES: usize = size_of::<Piece>();

    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.bytes.clear();
    }

    /// Makes room for the given numbers of pieces and bytes, no more.
    pub(super) fn reserve(&mut self, pieces: usize, bytes: usize) -> memory::Result<()> {
        self.pieces.try_reserve_exact(pieces)?;
        Ok(self.bytes.try_reserve_exact(bytes)?)
    }

    /// Appends a chunk in the form in which it is viewed.
    pub(super) fn push(&mut self, chunk: &Chunk<'_>) -> memory::Result<()> {
        let bytes = encode(chunk.view);
        // From the source, not from its copy: a read of bytes just written waits for the write.
        let sum = if chunk.view.form() == Form::Full { 0 } else { crc32c(&bytes) };
        self.push_encoded(chunk, &bytes, sum)
    }

    /// Appends a chunk whose container is `bytes`, with their checksum known.
    pub(super) fn push_encoded(&mut self, chunk: &Chunk<'_>, bytes: &[u8], sum: u32) -> memory::Result<()> {
        let len = u32::try_from(bytes.len()).unwrap_or_default();
        self.bytes.try_reserve(bytes.len() + ALIGN_LEN)?;
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN_LEN), 0);
        self.add(chunk, chunk.view.form(), len, sum)
    }

    /// Appends a chunk that is counted only: what it would take is known, its bytes are not made. `packed` is its length
    /// where it would be packed.
    pub(super) fn count(&mut self, chunk: &Chunk<'_>, packed: Option<usize>) -> memory::Result<()> {
        let (form, len) = match (chunk.view, packed) {
            (View::Sparse(sparse), _) => (Form::Sparse, sparse.bytes.len()),
            (_, Some(packed)) => (Form::Sparse, packed),
            _ => {
                let plain = Plain::smallest(chunk.ones, chunk.runs);
                (plain.into(), plain.bytes(chunk.ones, chunk.runs))
            }
        };
        self.add(chunk, form, u32::try_from(len).unwrap_or_default(), 0)
    }

    fn add(&mut self, chunk: &Chunk<'_>, form: Form, len: u32, sum: u32) -> memory::Result<()> {
        let Chunk { key, chunks, view, ones, runs } = *chunk;
        memory::push(&mut self.pieces, Piece { key, chunks, ones, len, sum, runs, form, edges: view.edges() })
    }
}

/// Where the containers of a segment go.
pub(super) struct Writer<'a> {
    out: &'a mut dyn Write,
    contents: Contents,
}

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a mut dyn Write, size_bytes: u64, granularity: Granularity) -> io::Result<Self> {
        let header = Header { size_bytes, granularity };
        out.write_all(&header.encode())?;
        Ok(Self { out, contents: Contents::new(header) })
    }

    /// Writes containers that lie behind all earlier ones.
    pub(super) fn write(&mut self, pieces: &Pieces) -> io::Result<()> {
        self.out.write_all(&pieces.bytes)?;
        Ok(pieces.pieces.iter().try_for_each(|piece| self.contents.enter(piece))?)
    }

    /// Writes what follows the containers.
    pub(super) fn finish(self) -> io::Result<Summary> {
        let (tail, summary) = self.contents.finish()?;
        self.out.write_all(&tail)?;
        Ok(summary)
    }
}

/// What a segment says of its containers.
struct Contents {
    summary: Summary,
    directory: Vec<u8>,
    /// One for each page of the directory; the checksums come at the end.
    places: Vec<IndexEntry>,
    /// Full chunks that may go on.
    full: Option<(u32, u32)>,
    /// The chunk after the last one, and whether the last granule before it is dirty.
    last: (u32, bool),
}

impl Contents {
    fn new(Header { size_bytes, granularity }: Header) -> Self {
        let summary = Summary {
            size_bytes,
            granularity,
            dirty_granules: 0,
            extents: 0,
            chunks: 0,
            entries: 0,
            file_bytes: HEADER_BYTES as u64,
        };
        Self { summary, directory: Vec::new(), places: Vec::new(), full: None, last: (0, false) }
    }

    fn enter(&mut self, piece: &Piece) -> memory::Result<()> {
        let joined = self.last == (piece.key, true) && piece.edges.0;
        self.summary.extents += u64::from(piece.runs) - u64::from(joined);
        self.summary.chunks += u64::from(piece.chunks);
        self.last = (piece.key + piece.chunks, piece.edges.1);
        if piece.form == Form::Full {
            match &mut self.full {
                Some((key, chunks)) if *key + *chunks == piece.key => *chunks += piece.chunks,
                _ => {
                    self.enter_full()?;
                    self.full = Some((piece.key, piece.chunks));
                }
            }
            return Ok(());
        }
        self.enter_full()?;
        let Piece { key, chunks, ones, len, sum, form, .. } = *piece;
        let offset = self.summary.file_bytes;
        self.summary.file_bytes += u64::from(len).next_multiple_of(ALIGN);
        self.list(&Entry { key, chunks, offset, before: self.summary.dirty_granules, len, ones, sum, form })
    }

    fn enter_full(&mut self) -> memory::Result<()> {
        let Some((key, chunks)) = self.full.take() else { return Ok(()) };
        let before = self.summary.dirty_granules;
        let ones = CHUNK_GRANULES;
        self.list(&Entry { key, chunks, offset: 0, before, len: 0, ones, sum: 0, form: Form::Full })
    }

    fn list(&mut self, entry: &Entry) -> memory::Result<()> {
        if self.summary.entries.is_multiple_of(PAGE_ENTRIES as u64) {
            let data = if entry.is_full() { self.summary.file_bytes } else { entry.offset };
            memory::push(&mut self.places, IndexEntry { key: entry.key, sum: 0, before: entry.before, data })?;
        }
        self.summary.dirty_granules += entry.total();
        self.summary.entries += 1;
        self.directory.try_reserve(ENTRY_BYTES)?;
        self.directory.extend_from_slice(&entry.encode());
        Ok(())
    }

    /// The directory, its index and the trailer.
    fn finish(mut self) -> memory::Result<(Vec<u8>, Summary)> {
        self.enter_full()?;
        let mut index = memory::room(self.places.len() * PLACE_BYTES)?;
        for (place, page) in self.places.iter_mut().zip(self.directory.chunks(PAGE_ENTRIES * ENTRY_BYTES)) {
            place.sum = crc32c(page);
            index.extend_from_slice(&place.encode());
        }
        self.summary.file_bytes += (self.directory.len() + index.len() + TRAILER_BYTES) as u64;
        let mut tail = self.directory;
        tail.try_reserve_exact(index.len() + TRAILER_BYTES)?;
        tail.extend_from_slice(&index);
        tail.extend_from_slice(&encode_trailer(&self.summary, crc32c(&index)));
        Ok((tail, self.summary))
    }
}
