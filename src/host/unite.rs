#![forbid(unsafe_code)]
//! Owns the union of bitmaps that are read one after the other, and how much memory it takes. Must never know where they
//! come from.

use crate::bitmap::Bitmap;
use crate::chain::Name;
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::Granularity;
use crate::memory;
use crate::progress::{Observer, tell};

/// The bitmaps whose union is asked for, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnionRequest<'a> {
    /// The bitmaps: one at least.
    pub names: &'a [Name],
    /// The granularity of the answer: the finest of theirs, or a finer one.
    pub granularity: Granularity,
    /// The first byte of the disk that matters.
    pub offset: u64,
    /// How many bytes from there on matter; more than the disk has is "to the end".
    pub len_bytes: u64,
    /// How many bytes of bitmaps are held at once, beside the one that is being read and the answer.
    pub memory_bytes: u64,
    /// How many threads unite them; 0 and 1 mean the caller's.
    pub threads: usize,
}

impl<'a> UnionRequest<'a> {
    /// The union of these bitmaps at `granularity` on the whole disk, with 64 MiB of memory and no threads.
    pub fn new(names: &'a [Name], granularity: Granularity) -> Self {
        Self { names, granularity, offset: 0, len_bytes: u64::MAX, memory_bytes: 64 << 20, threads: 0 }
    }

    /// Only the part in a window of the disk, which is cut at the disk's end; a length of `u64::MAX` is "to the end".
    #[must_use]
    pub fn window(self, offset: u64, len_bytes: u64) -> Self {
        Self { offset, len_bytes, ..self }
    }
}

/// Answers `request` for a host whose bitmaps are read one after the other: `load` reads one, of which at least the part that touches
/// the window counts.
///
/// Bitmaps that fit together into the memory that the caller allows are united in one pass. `observer` is told of each bitmap.
pub fn unite(
    request: &UnionRequest<'_>,
    observer: &mut dyn Observer,
    mut load: impl FnMut(&Name) -> Result<Bitmap>,
) -> Result<Bitmap> {
    const READING: &str = "reading bitmaps";
    let total = request.names.len() as u64;
    let mut union = Union::new(request.granularity, request.memory_bytes, request.threads);
    for (done, name) in (0..).zip(request.names) {
        tell(observer, READING, done, total)?;
        let mut bitmap = load(name)?;
        bitmap.keep(request.offset, request.len_bytes)?;
        union.add(bitmap)?;
    }
    tell(observer, READING, total, total)?;
    let united = union.finish()?;
    let mut united = united.ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "a union of no bitmaps"))?;
    // A coarse granule at the edge of the window reaches further than a fine one.
    united.keep(request.offset, request.len_bytes)?;
    Ok(united)
}

/// A union in the making. As many bitmaps as the memory allows are held and united in one pass, which is quicker than to
/// add one by one.
#[derive(Debug)]
struct Union {
    granularity: Granularity,
    memory_bytes: u64,
    threads: usize,
    /// Bitmaps that wait to be united; the first may be a union itself.
    held: Vec<Bitmap>,
    held_bytes: u64,
}

impl Union {
    /// An empty union at `granularity`. Bitmaps wait as long as all of them take no more than `memory_bytes`.
    fn new(granularity: Granularity, memory_bytes: u64, threads: usize) -> Self {
        Self { granularity, memory_bytes, threads, held: Vec::new(), held_bytes: 0 }
    }

    fn add(&mut self, bitmap: Bitmap) -> Result<()> {
        self.hold(bitmap)?;
        if self.held.len() > 1 && self.held_bytes > self.memory_bytes {
            let union = self.unite()?;
            self.held.clear();
            self.held_bytes = 0;
            self.hold(union)?;
        }
        Ok(())
    }

    /// The union; `None` if nothing was added.
    fn finish(mut self) -> Result<Option<Bitmap>> {
        match self.held.as_slice() {
            [] => Ok(None),
            [only] if only.granularity() == self.granularity => Ok(self.held.pop()),
            _ => self.unite().map(Some),
        }
    }

    fn hold(&mut self, bitmap: Bitmap) -> Result<()> {
        self.held_bytes = self.held_bytes.saturating_add(bitmap.heap_bytes() as u64);
        Ok(memory::push(&mut self.held, bitmap)?)
    }

    fn unite(&self) -> Result<Bitmap> {
        let all = memory::gather(&self.held)?;
        Bitmap::union_many_with(&all, Some(self.granularity), self.threads)
    }
}
