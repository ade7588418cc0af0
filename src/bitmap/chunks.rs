#![forbid(unsafe_code)]
//! Owns whole chunks on their way between a bitmap and whoever stores them: each as a view of its smallest form, a bitmap
//! built from such views in ascending order, and the union of many views. Must never know how they are stored.

use super::Bitmap;
use super::container::{CHUNK, Container, Run, Workspace, no_words};
pub(crate) use super::container::{Form, Pair, View, Words};
use crate::error::Result;
use crate::geometry::Granularity;

/// The granules of one chunk.
pub(crate) const CHUNK_GRANULES: u32 = CHUNK;

/// One chunk with dirty granules, or several consecutive full ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk<'a> {
    pub(crate) key: u32,
    pub(crate) chunks: u32,
    /// In the smallest form.
    pub(crate) view: View<'a>,
    /// The dirty granules of one chunk.
    pub(crate) ones: u32,
    /// The maximal runs of them.
    pub(crate) runs: u32,
}

impl View<'_> {
    /// Passes the maximal runs inside `first..=last`, cut to it, to `take`.
    pub(crate) fn runs_within(self, first: u16, last: u16, mut take: impl FnMut(u16, u16)) {
        self.runs(Run { first, last }).for_each(|run| take(run.first, run.last));
    }
}

impl Bitmap {
    /// Passes every chunk that has dirty granules to `take`, in ascending order.
    pub(crate) fn for_each_chunk<E>(
        &self,
        mut take: impl FnMut(Chunk<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        for entry in self.directory.entries() {
            let mut copy;
            let mut view = self.directory.view(entry);
            if !entry.is_smallest() {
                copy = Container::copy(view, entry.ones_of_chunk());
                copy.optimize();
                view = copy.view();
            }
            let (key, chunks, ones) = (entry.key, entry.chunks(), entry.ones_of_chunk());
            take(Chunk { key, chunks, view, ones, runs: view.run_count() })?;
        }
        Ok(())
    }
}

/// A bitmap in the making.
#[derive(Debug)]
pub(crate) struct ChunkCollector {
    bitmap: Bitmap,
}

impl ChunkCollector {
    pub(crate) fn new(size_bytes: u64, granularity: Granularity) -> Result<Self> {
        Ok(Self { bitmap: Bitmap::new(size_bytes, granularity)? })
    }

    /// Appends chunks that lie behind all earlier ones and inside the disk; only full ones may be several.
    pub(crate) fn push(&mut self, key: u32, chunks: u32, view: View<'_>) {
        let directory = &mut self.bitmap.directory;
        match view {
            View::Full => directory.push_full(key, chunks),
            _ => {
                let mut container = Container::copy(view, view.ones());
                container.optimize();
                directory.push(key, container.ones(), container.view());
            }
        }
    }

    pub(crate) fn finish(mut self) -> Bitmap {
        self.bitmap.directory.shrink();
        self.bitmap
    }
}

/// The union of what many have of one chunk, which come one after the other; its buffers serve one chunk after the other.
#[derive(Debug)]
pub(crate) struct Union {
    workspace: Workspace,
    words: Box<Words>,
    list: Vec<u16>,
    /// Where the lists of the arrays end that came so far.
    ends: Vec<usize>,
    in_words: bool,
}

/// More values than these are cheaper to scatter into words than to merge.
const LIST_MAX: u32 = 1024;

impl Union {
    pub(crate) fn new() -> Self {
        let list = Vec::with_capacity(LIST_MAX as usize);
        Self { workspace: Workspace::new(), words: no_words(), list, ends: Vec::new(), in_words: false }
    }

    /// Starts anew; `values` is how many values all arrays that come have together, `None` if there are other forms.
    pub(crate) fn begin(&mut self, values: Option<u32>) {
        self.list.clear();
        self.ends.clear();
        self.in_words = values.is_none_or(|values| values > LIST_MAX);
        if self.in_words {
            self.words.fill(0);
        }
    }

    pub(crate) fn add(&mut self, view: View<'_>) {
        match view {
            View::Array(array) if !self.in_words => {
                self.list.extend_from_slice(array);
                self.ends.push(self.list.len());
            }
            _ => view.add_to(&mut self.words),
        }
    }

    /// What was added, as chunk `key` in the smallest form; `None` if nothing was.
    pub(crate) fn finish(&mut self, key: u32) -> Option<Chunk<'_>> {
        let Self { workspace, words, list, ends, in_words } = self;
        let made = if *in_words {
            workspace.unite(&[View::Words(words), View::Array(&[])])
        } else {
            let mut start = 0;
            let lists = ends.iter().map(|&end| View::Array(&list[std::mem::replace(&mut start, end)..end]));
            workspace.unite(&lists.chain([View::Array(&[]), View::Array(&[])]).collect::<Vec<_>>())
        };
        (made.ones > 0).then(|| Chunk { key, chunks: 1, view: made.view, ones: made.ones, runs: made.view.run_count() })
    }
}
