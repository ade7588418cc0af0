#![forbid(unsafe_code)]
//! Owns whole chunks on their way between a bitmap and the code that stores them: each as a view of its smallest form, a bitmap
//! built from such views in ascending order, and the union of many views. Must never know how they are stored.

use super::Bitmap;
use super::container::{CHUNK, Container, Keeper, Made, Packer, Run, Workspace, no_words, packed_len};
pub(crate) use super::container::{Form, Pair, Plain, SPARSE_FROM, Sparse, View, Words};
use crate::error::Result;
use crate::geometry::Granularity;
use crate::kernels::{Kernels, Measure, select};
use crate::memory;
use std::borrow::Cow;

/// The granules of one chunk.
pub(crate) const CHUNK_GRANULES: u32 = CHUNK;

/// The bytes of numbers, the lowest first: where they lie, if this machine has them so.
pub(crate) fn little_endian<T: bytemuck::Pod, const N: usize>(
    numbers: &[T],
    bytes: impl Fn(&T) -> [u8; N],
) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        return Cow::Borrowed(bytemuck::cast_slice(numbers));
    }
    Cow::Owned(numbers.iter().flat_map(bytes).collect())
}

/// One chunk with dirty granules, or several consecutive full ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk<'a> {
    pub(crate) key: u32,
    pub(crate) chunks: u32,
    /// In the smallest form, unless it is only counted.
    pub(crate) view: View<'a>,
    /// The dirty granules of one chunk.
    pub(crate) ones: u32,
    /// The maximal runs of them.
    pub(crate) runs: u32,
}

impl View<'_> {
    /// The number of dirty granules of a list or of words that nobody has checked yet, or why its order is wrong.
    pub(crate) fn checked_ones(self) -> std::result::Result<u32, &'static str> {
        match self {
            Self::Array(array) if !(select().is_ascending)(array) => Err("the values of an array are out of order"),
            Self::Runs(runs) => (select().apart_ones)(runs).ok_or("runs overlap, touch or are out of order"),
            Self::Sparse(sparse) => Self::check_packed(sparse.bytes).map(|()| self.ones()),
            _ => Ok(self.ones()),
        }
    }

    /// The last dirty granule.
    pub(crate) fn last(self) -> Option<u16> {
        self.runs(Run::WHOLE).next_back().map(|run| run.last)
    }

    /// The number of dirty granules before the one of index `end`.
    pub(crate) fn count_before(self, end: u16) -> u32 {
        end.checked_sub(1).map_or(0, |last| self.count(Run { first: 0, last }))
    }

    /// The last clean granule up to `bit`.
    pub(crate) fn last_clear(self, bit: u16) -> Option<u16> {
        match self.runs(Run { first: 0, last: bit }).next_back() {
            Some(run) if run.last == bit => run.first.checked_sub(1),
            _ => Some(bit),
        }
    }

    /// The `number`-th dirty granule, from 0; there must be more than that.
    pub(crate) fn dirty_at(self, number: u32) -> u16 {
        self.nth(number)
    }

    /// The first and the last granule of the first run from granule `first` on, cut to what lies there.
    pub(crate) fn first_run(self, first: u16) -> Option<(u16, u16)> {
        self.runs(Run { first, last: u16::MAX }).next().map(|run| (run.first, run.last))
    }

    /// Passes the maximal runs inside `first..=last`, cut to it, to `take`.
    pub(crate) fn runs_within(self, first: u16, last: u16, mut take: impl FnMut(u16, u16)) {
        self.runs(Run { first, last }).for_each(|run| take(run.first, run.last));
    }
}

impl Bitmap {
    /// How many chunks [`Bitmap::for_each_chunk`] passes, and the most bytes that they take if each ends at a multiple of
    /// `align`.
    pub(crate) fn most_of_chunks(&self, align: usize) -> (usize, usize) {
        let entries = self.directory.entries();
        (entries.len(), entries.iter().map(|entry| entry.bytes().next_multiple_of(align)).sum())
    }

    /// Passes every chunk that has dirty granules to `take`, in ascending order.
    pub(crate) fn for_each_chunk<E: From<memory::OutOfMemory>>(
        &self,
        mut take: impl FnMut(Chunk<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let (mut packer, mut room) = (Packer::for_files(), Container::empty());
        for entry in self.directory.entries() {
            let view = packer.pack(self.directory.smallest(entry, &mut room)?)?;
            let (key, chunks, Measure { ones, runs }) = (entry.key, entry.chunks(), entry.measure_of_chunk());
            take(Chunk { key, chunks, view, ones, runs })?;
        }
        Ok(())
    }
}

/// A bitmap in the making.
#[derive(Debug)]
pub(crate) struct ChunkCollector {
    bitmap: Bitmap,
    packer: Packer,
}

impl ChunkCollector {
    pub(crate) fn new(size_bytes: u64, granularity: Granularity) -> Result<Self> {
        Ok(Self { bitmap: Bitmap::new(size_bytes, granularity)?, packer: Packer::new() })
    }

    /// Appends chunks that lie behind all earlier ones and inside the disk; only full ones may be several.
    pub(crate) fn push(&mut self, key: u32, chunks: u32, view: View<'_>) -> memory::Result<()> {
        let directory = &mut self.bitmap.directory;
        if let View::Full = view {
            return directory.push_full(key, chunks);
        }
        let ones = view.ones();
        let is_kept = view.form() != Form::Sparse || self.packer.is_on();
        let runs = is_kept.then(|| view.run_count()).filter(|&runs| view.is_smallest(ones, runs));
        if let Some(runs) = runs {
            let view = match view {
                View::Sparse(sparse) => View::Sparse(Sparse::counted(sparse.bytes, runs)),
                _ => self.packer.pack(view)?,
            };
            return directory.push(key, Measure { ones, runs }, view);
        }
        let mut container = Container::copy(view, ones)?;
        container.optimize()?;
        directory.push(key, container.measure(), self.packer.pack(container.view())?)
    }

    pub(crate) fn finish(mut self) -> Bitmap {
        self.bitmap.directory.shrink();
        self.bitmap
    }
}

/// The union of what many have of one chunk, which come one after the other; its buffers serve one chunk after the other.
#[derive(Debug)]
pub(crate) struct Union {
    kernels: &'static Kernels,
    workspace: Workspace,
    words: Box<Words>,
    /// Whether what comes is added to the words; then nothing waits beside them.
    in_words: bool,
    /// Arrays that wait, and where each of them ends.
    list: Vec<u16>,
    list_ends: Vec<usize>,
    /// Runs that wait, and where the runs of each chunk end.
    pairs: Vec<Pair>,
    pair_ends: Vec<usize>,
}

impl Union {
    /// No more values and runs wait than these: more are added to words sooner than they are merged.
    const LIST_MAX: usize = 4096;
    const PAIRS_MAX: usize = 1024;

    /// Above this many values and runs, words are counted sooner than a merge is.
    const COUNTED_MAX: usize = 256;

    /// The most memory that a union takes.
    pub(crate) const HEAP_BYTES: u64 = Workspace::HEAP_BYTES + 4 * 8192;

    pub(crate) fn new() -> memory::Result<Self> {
        Ok(Self {
            kernels: select(),
            workspace: Workspace::for_files(),
            words: no_words()?,
            in_words: false,
            list: Vec::new(),
            list_ends: Vec::new(),
            pairs: Vec::new(),
            pair_ends: Vec::new(),
        })
    }

    /// Starts anew; at least `values` in arrays and `runs` will come, and what they make is only counted if `count_only`.
    pub(crate) fn begin(&mut self, values: usize, runs: usize, count_only: bool) {
        self.forget();
        self.in_words = false;
        let most = match () {
            () if count_only => Self::COUNTED_MAX,
            () if runs > 0 => Self::PAIRS_MAX,
            () => Self::LIST_MAX,
        };
        if values + runs > most {
            self.use_words();
        }
    }

    pub(crate) fn add(&mut self, view: View<'_>) -> memory::Result<()> {
        match view {
            View::Array(array) if !self.in_words && self.list.len() + array.len() <= Self::LIST_MAX => {
                self.list.try_reserve_exact(Self::LIST_MAX - self.list.len())?;
                self.list.extend_from_slice(array);
                memory::push(&mut self.list_ends, self.list.len())?;
            }
            View::Runs(runs) if !self.in_words && self.pairs.len() + runs.len() <= Self::PAIRS_MAX => {
                self.pairs.try_reserve_exact(Self::PAIRS_MAX - self.pairs.len())?;
                self.pairs.extend_from_slice(runs);
                memory::push(&mut self.pair_ends, self.pairs.len())?;
            }
            _ => {
                self.use_words();
                view.add_to(&mut self.words);
            }
        }
        Ok(())
    }

    /// The added bits, as chunk `key` in the smallest form; `None` if none were added.
    pub(crate) fn finish(&mut self, key: u32) -> memory::Result<Option<Chunk<'_>>> {
        let Self { workspace, words, in_words, list, list_ends, pairs, pair_ends, .. } = self;
        let made = if *in_words {
            workspace.unite(&[View::Words(words), View::Array(&[])])?
        } else {
            let (mut from, mut first) = (0, 0);
            let lists = list_ends.iter().map(|&end| View::Array(&list[std::mem::replace(&mut from, end)..end]));
            let runs = pair_ends.iter().map(|&end| View::Runs(&pairs[std::mem::replace(&mut first, end)..end]));
            let group = memory::gather(lists.chain(runs).chain([View::Array(&[]), View::Array(&[])]))?;
            workspace.unite(&group)?
        };
        let Made { view, measure: Measure { ones, runs } } = made;
        Ok((ones > 0).then_some(Chunk { key, chunks: 1, view, ones, runs }))
    }

    /// The added bits, counted, in the form that is quickest to make; and their length when packed, where that is the smallest form.
    pub(crate) fn finish_counting(&mut self, key: u32) -> memory::Result<Option<(Chunk<'_>, Option<usize>)>> {
        if !self.in_words {
            return Ok(self.finish(key)?.map(|chunk| (chunk, None)));
        }
        let measure = (self.kernels.measure)(&self.words);
        let Measure { ones, runs } = measure;
        let packed = packed_len(self.kernels, &self.words, measure, Keeper::Files);
        Ok((ones > 0).then_some((Chunk { key, chunks: 1, view: View::Words(&self.words), ones, runs }, packed)))
    }

    /// Whether a chunk is in the form that takes the fewest bytes.
    pub(crate) fn is_smallest(&self, chunk: &Chunk<'_>) -> bool {
        let Chunk { view, ones, runs, .. } = *chunk;
        let is_packed = view.form() == Form::Sparse;
        view.is_smallest(ones, runs)
            && (is_packed
                || view.bytes() < SPARSE_FROM
                || packed_len(self.kernels, &view.words(), Measure { ones, runs }, Keeper::Files).is_none())
    }

    /// Adds what waits to the words.
    fn use_words(&mut self) {
        if std::mem::replace(&mut self.in_words, true) {
            return;
        }
        self.words.fill(0);
        View::Array(&self.list).add_to(&mut self.words);
        View::Runs(&self.pairs).add_to(&mut self.words);
        self.forget();
    }

    fn forget(&mut self) {
        self.list.clear();
        self.list_ends.clear();
        self.pairs.clear();
        self.pair_ends.clear();
    }
}
