#![forbid(unsafe_code)]
//! Owns the union of bitmaps that are read one after the other, and how much memory it takes. Must never know where they
//! come from.

use crate::bitmap::Bitmap;
use crate::error::Result;
use crate::geometry::Granularity;
use crate::memory;

/// A union in the making. As many bitmaps as the memory allows are held and united in one pass, which is quicker than to
/// add one by one.
#[derive(Debug)]
pub(super) struct Union {
    granularity: Granularity,
    memory_bytes: u64,
    threads: usize,
    /// What waits to be united; the first may be a union itself.
    held: Vec<Bitmap>,
    held_bytes: u64,
}

impl Union {
    /// An empty union at `granularity`. Bitmaps wait as long as all of them take no more than `memory_bytes`.
    pub(super) fn new(granularity: Granularity, memory_bytes: u64, threads: usize) -> Self {
        Self { granularity, memory_bytes, threads, held: Vec::new(), held_bytes: 0 }
    }

    pub(super) fn add(&mut self, bitmap: Bitmap) -> Result<()> {
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
    pub(super) fn finish(self) -> Result<Option<Bitmap>> {
        if self.held.is_empty() { Ok(None) } else { self.unite().map(Some) }
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
