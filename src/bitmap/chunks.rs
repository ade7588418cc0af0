#![forbid(unsafe_code)]
//! Owns whole chunks on their way between a bitmap and whoever stores them: each as a view of its smallest form, a bitmap
//! built from such views in ascending order, and the union of many views. Must never know how they are stored.

use super::Bitmap;
use super::container::{CHUNK, Container, Run, Words as ChunkWords, no_words, set_run, to_u16};
use super::directory::Directory;
use crate::error::Result;
use crate::geometry::Granularity;

/// The granules of one chunk.
pub(crate) const CHUNK_GRANULES: u32 = CHUNK;

/// The bits of one chunk, least significant first.
pub(crate) type Words = ChunkWords;

/// The first and the last granule of consecutive ones, both included.
pub(crate) type Pair = [u16; 2];

/// More values than these are cheaper to scatter into words than to sort.
const LIST_MAX: u32 = 512;

/// The dirty granules of one chunk, by their index in it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum View<'a> {
    /// Sorted, none twice.
    Array(&'a [u16]),
    Words(&'a Words),
    /// Sorted; they neither overlap nor touch.
    Runs(&'a [Pair]),
    Full,
}

/// A form, without what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Array,
    Words,
    Runs,
    Full,
}

impl Form {
    /// The form that takes the fewest bytes, as a bitmap in memory chooses it too.
    pub(crate) fn smallest(ones: u32, runs: u32) -> Self {
        match () {
            () if ones == CHUNK => Self::Full,
            () if ones <= 4096 && ones <= 2 * runs => Self::Array,
            () if runs <= 2048 => Self::Runs,
            () => Self::Words,
        }
    }
}

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
    pub(crate) fn form(&self) -> Form {
        match self {
            Self::Array(_) => Form::Array,
            Self::Words(_) => Form::Words,
            Self::Runs(_) => Form::Runs,
            Self::Full => Form::Full,
        }
    }

    pub(crate) fn run_count(&self) -> u32 {
        match self {
            Self::Array(array) => array_run_count(array),
            Self::Words(words) => run_count(words),
            Self::Runs(runs) => runs.len().try_into().unwrap_or(CHUNK),
            Self::Full => 1,
        }
    }

    pub(crate) fn contains(&self, bit: u16) -> bool {
        match self {
            Self::Array(array) => array.binary_search(&bit).is_ok(),
            Self::Words(words) => words[usize::from(bit / 64)] >> (bit % 64) & 1 == 1,
            Self::Runs(runs) => runs.get(runs.partition_point(|run| run[1] < bit)).is_some_and(|run| run[0] <= bit),
            Self::Full => true,
        }
    }

    /// Passes the maximal runs inside `first..=last`, cut to it, to `take`.
    pub(crate) fn runs_within(&self, first: u16, last: u16, mut take: impl FnMut(u16, u16)) {
        match self {
            Self::Full => take(first, last),
            Self::Runs(runs) => {
                let from = runs.partition_point(|run| run[1] < first);
                for run in runs[from..].iter().take_while(|run| run[0] <= last) {
                    take(run[0].max(first), run[1].min(last));
                }
            }
            Self::Array(array) => {
                let from = array.partition_point(|&bit| bit < first);
                let mut pending: Option<(u16, u16)> = None;
                for &bit in array[from..].iter().take_while(|bit| **bit <= last) {
                    pending = match pending {
                        Some((begin, end)) if end + 1 == bit => Some((begin, bit)),
                        Some((begin, end)) => {
                            take(begin, end);
                            Some((bit, bit))
                        }
                        None => Some((bit, bit)),
                    };
                }
                if let Some((begin, end)) = pending {
                    take(begin, end);
                }
            }
            Self::Words(words) => {
                let (first, end) = (u32::from(first), u32::from(last) + 1);
                let mut at = first;
                while at < end {
                    let begin = scan(words, at, end, 0);
                    at = scan(words, begin, end, u64::MAX);
                    if begin < at {
                        take(to_u16(begin), to_u16(at - 1));
                    }
                }
            }
        }
    }
}

impl Bitmap {
    /// Passes every chunk that has dirty granules to `take`, in ascending order.
    pub(crate) fn for_each_chunk<E>(
        &self,
        mut take: impl FnMut(Chunk<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let (mut array, mut pairs): (Vec<u16>, Vec<Pair>) = (Vec::new(), Vec::new());
        for entry in self.directory.entries() {
            let (ones, runs) = (entry.container.ones(), entry.container.run_count());
            let spans = || entry.container.runs(Run::WHOLE);
            let words;
            let view = match Form::smallest(ones, runs) {
                Form::Full => View::Full,
                Form::Array => {
                    array.clear();
                    array.extend(spans().flat_map(|run| run.first..=run.last));
                    View::Array(&array)
                }
                Form::Runs => {
                    pairs.clear();
                    pairs.extend(spans().map(|run| [run.first, run.last]));
                    View::Runs(&pairs)
                }
                Form::Words => {
                    words = entry.container.words();
                    View::Words(&words)
                }
            };
            take(Chunk { key: entry.key, chunks: entry.chunks, view, ones, runs })?;
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
        let container = match view {
            View::Array(array) => Container::from_sorted(array.to_vec()),
            View::Words(words) => Container::from_words(Box::new(*words)),
            View::Runs(runs) => Container::from_runs(runs.iter().map(|&[first, last]| Run { first, last }).collect()),
            View::Full => Container::Full,
        };
        let directory: &mut Directory = &mut self.bitmap.directory;
        directory.push(key, chunks, container);
    }

    pub(crate) fn finish(self) -> Bitmap {
        self.bitmap
    }
}

/// The union of what many have of one chunk; its buffers serve one chunk after the other.
#[derive(Debug)]
pub(crate) struct Union {
    words: Box<Words>,
    list: Vec<u16>,
    pairs: Vec<Pair>,
    in_words: bool,
}

impl Union {
    pub(crate) fn new() -> Self {
        Self { words: no_words(), list: Vec::with_capacity(4096), pairs: Vec::with_capacity(2048), in_words: false }
    }

    /// Starts anew; `values` is how many values all arrays that come have together, `None` if there are other forms.
    pub(crate) fn begin(&mut self, values: Option<u32>) {
        self.list.clear();
        self.in_words = values.is_none_or(|values| values > LIST_MAX);
        if self.in_words {
            self.words.fill(0);
        }
    }

    pub(crate) fn add(&mut self, view: View<'_>) {
        match view {
            View::Array(array) if !self.in_words => self.list.extend_from_slice(array),
            View::Array(array) => {
                for &bit in array {
                    self.words[usize::from(bit / 64)] |= 1 << (bit % 64);
                }
            }
            View::Words(words) => self.words.iter_mut().zip(words).for_each(|(to, from)| *to |= from),
            View::Runs(runs) => {
                runs.iter().for_each(|&[first, last]| set_run(&mut self.words, Run { first, last }));
            }
            View::Full => self.words.fill(u64::MAX),
        }
    }

    /// What was added, as chunk `key` in the smallest form; `None` if nothing was.
    pub(crate) fn finish(&mut self, key: u32) -> Option<Chunk<'_>> {
        let Self { words, list, pairs, in_words } = self;
        let (ones, runs) = if *in_words {
            (count_ones(words), run_count(words))
        } else {
            list.sort();
            list.dedup();
            (list.len().try_into().unwrap_or(CHUNK), array_run_count(list))
        };
        if ones == 0 {
            return None;
        }
        let view = match (Form::smallest(ones, runs), *in_words) {
            (Form::Full, _) => View::Full,
            (Form::Array, false) => View::Array(list),
            (Form::Array, true) => {
                list.clear();
                for (index, &word) in (0..).zip(words.iter()) {
                    let mut rest = word;
                    while rest != 0 {
                        list.push(to_u16(index * 64 + rest.trailing_zeros()));
                        rest &= rest - 1;
                    }
                }
                View::Array(list)
            }
            // A list is never so long that words are smaller.
            (Form::Words, _) => View::Words(words),
            (Form::Runs, _) => {
                pairs.clear();
                let source = if *in_words { View::Words(words) } else { View::Array(list) };
                source.runs_within(0, u16::MAX, |first, last| pairs.push([first, last]));
                View::Runs(pairs)
            }
        };
        Some(Chunk { key, chunks: 1, view, ones, runs })
    }
}

pub(crate) fn count_ones(words: &Words) -> u32 {
    words.iter().map(|word| word.count_ones()).sum()
}

fn run_count(words: &Words) -> u32 {
    let mut before = 0;
    let mut runs = 0;
    for &word in words {
        runs += (word & !(word << 1 | before)).count_ones();
        before = word >> 63;
    }
    runs
}

fn array_run_count(array: &[u16]) -> u32 {
    let follows = array.windows(2).map(|pair| u32::from(pair[1].wrapping_sub(pair[0]) != 1)).sum::<u32>();
    follows + u32::from(!array.is_empty())
}

/// The first bit of `from..to` that is set once `flip` is applied to its word, else `to`.
fn scan(words: &Words, from: u32, to: u32, flip: u64) -> u32 {
    let mut at = from;
    while at < to {
        let word = (words[at as usize / 64] ^ flip) >> (at % 64);
        if word != 0 {
            return to.min(at + word.trailing_zeros());
        }
        at = (at / 64 + 1) * 64;
    }
    to
}
