#![forbid(unsafe_code)]
//! Owns the cutting of a merge into batches of consecutive chunks that fit a budget of memory, from the directories alone.
//! Must never read a container.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::layout::{Entry, WORDS_BYTES};
use super::read::Segment;
use crate::bitmap::chunks::{Form, SPARSE_FROM};
use crate::memory;
use std::ops::Range;

/// Full chunks from this many on are handed over without a look at what others have there.
const LONG: u64 = 16;

/// One segment that takes part, at the granularity of the result.
#[derive(Clone, Copy, Debug)]
pub(super) struct Input<'a> {
    pub(super) segment: &'a Segment<'a>,
    /// The result has 2^shift granules for each of this one's, and as many chunks.
    pub(super) shift: u32,
}

impl<'a> Input<'a> {
    pub(super) fn entry(&self, index: usize) -> Option<&'a Entry> {
        self.segment.entry(index)
    }

    /// The chunks of the result that an entry covers.
    pub(super) fn keys(&self, entry: &Entry) -> Range<u64> {
        u64::from(entry.key) << self.shift..u64::from(entry.end()) << self.shift
    }
}

/// A piece of the work.
#[derive(Debug)]
pub(super) enum Batch {
    /// These chunks are full.
    Full(Range<u64>),
    /// These chunks have to be looked at.
    Mixed(Mixed),
}

/// Chunks that have to be looked at.
#[derive(Debug)]
pub(super) struct Mixed {
    pub(super) keys: Range<u64>,
    /// For each input, the entries that take part.
    pub(super) spans: Vec<Range<usize>>,
    /// The most bytes of containers that are made, and the most of them, 64 bytes each.
    pub(super) cost: u64,
}

impl Batch {
    /// The chunk after the last one.
    pub(super) fn end(&self) -> u64 {
        match self {
            Self::Full(keys) | Self::Mixed(Mixed { keys, .. }) => keys.end,
        }
    }
}

/// Cuts a merge into batches, in ascending order.
#[derive(Debug)]
pub(super) struct Planner<'a> {
    inputs: &'a [Input<'a>],
    /// The first entry of each input that is not wholly planned.
    next: Vec<usize>,
    /// All chunks before this one are planned.
    position: u64,
    /// The chunks that the disk has in whole.
    whole: u64,
    /// All chunks of the disk.
    chunks: u64,
    /// The bytes of containers, read and written, that a batch may have.
    budget: u64,
}

/// The most that one chunk of the result costs.
pub(super) fn most_of_a_chunk(inputs: usize) -> u64 {
    (inputs as u64 + 1) * u64::from(WORDS_BYTES)
}

/// What a sparse container may lack of the form that it is written in if what it is united with joins its runs.
pub(super) fn shrunk(entry: &Entry) -> usize {
    if entry.form == Form::Sparse { SPARSE_FROM.saturating_sub(entry.len as usize) } else { 0 }
}

impl<'a> Planner<'a> {
    pub(super) fn new(inputs: &'a [Input<'a>], granules: u64, budget: u64) -> memory::Result<Self> {
        let (whole, chunks) = (granules >> 16, granules.div_ceil(1 << 16));
        Ok(Self { inputs, next: memory::zeroed(inputs.len())?, position: 0, whole, chunks, budget })
    }

    /// The first chunk at or after `position` in which one of the inputs has something.
    fn first(&self, at: &[usize], position: u64) -> Option<u64> {
        let starts = self.inputs.iter().zip(at);
        let starts = starts.filter_map(|(input, index)| Some(input.keys(input.entry(*index)?).start.max(position)));
        starts.min().filter(|first| *first < self.chunks)
    }

    /// How far the chunks from `key` on are known to be full.
    fn full_end(&self, at: &[usize], key: u64) -> u64 {
        let full = self.inputs.iter().zip(at).filter_map(|(input, index)| {
            let entry = input.entry(*index).filter(|entry| entry.is_full())?;
            Some(input.keys(entry)).filter(|keys| keys.contains(&key)).map(|keys| keys.end.min(self.whole))
        });
        full.max().unwrap_or(key).max(key)
    }

    /// Goes past the entries that end at or before `position`.
    fn pass(&self, at: &mut [usize], position: u64) {
        for (input, index) in self.inputs.iter().zip(at) {
            let passed = |entry: &Entry| input.keys(entry).end <= position;
            if !input.entry(*index).is_some_and(passed) {
                continue;
            }
            *index += 1;
            // Most often one entry is passed; behind a long full stretch, many are.
            if input.entry(*index).is_some_and(passed) {
                let (mut low, mut high) = (*index, input.segment.entries());
                while low < high {
                    let middle = low.midpoint(high);
                    match input.entry(middle).is_some_and(passed) {
                        true => low = middle + 1,
                        false => high = middle,
                    }
                }
                *index = low;
            }
        }
    }

    /// Where, after chunk `key`, an entry begins or ends: up to there the same ones take part.
    fn stretch_end(&self, at: &[usize], key: u64) -> u64 {
        let edges = self.inputs.iter().zip(at).filter_map(|(input, index)| {
            let keys = input.keys(input.entry(*index)?);
            Some(if keys.start > key { keys.start } else { keys.end })
        });
        edges.min().unwrap_or(self.chunks).min(self.chunks)
    }

    /// What `count` chunks from `key` on, in which the same entries take part, cost in a batch that begins with chunk `from`.
    fn cost(&self, at: &[usize], key: u64, count: u64, from: u64) -> u64 {
        let costs = self.inputs.iter().zip(at).filter_map(|(input, index)| {
            let entry = input.entry(*index).filter(|entry| input.keys(entry).contains(&key))?;
            let len = if entry.is_full() { 0 } else { entry.data_end() - entry.offset };
            let is_new = input.keys(entry).start.max(from) == key;
            // A coarse container is read once, and each of its chunks is made anew: as runs, or as words if they are many.
            let made = match input.shift {
                0 => shrunk(entry) as u64,
                shift => u64::from(WORDS_BYTES).min(PIECE + 4 * (0x1_0000 >> shift.min(16))),
            };
            let made = if count == 1 { made } else { most_pieces(entry, input.shift, count) * (PIECE + made) };
            Some(if is_new { len + made } else { made })
        });
        // The output is never larger than this.
        PIECE + costs.sum::<u64>()
    }
}

/// What stands for all that a container takes beside its bytes.
pub(super) const PIECE: u64 = 64;

/// The most containers and stretches of full chunks that `count` chunks of an entry can come to: however far they reach, no
/// more than a few for each of its runs.
fn most_pieces(entry: &Entry, shift: u32, count: u64) -> u64 {
    let runs = match entry.form {
        Form::Full => 1,
        Form::Runs => u64::from(entry.len / 4),
        _ => u64::from(entry.ones),
    };
    // The chunks that one coarse granule fills, all or none of them.
    let alike = 1 << shift.saturating_sub(16);
    (1 + (count - 1).div_ceil(alike)).min(3 * runs)
}

impl Planner<'_> {
    /// The batch that begins with chunk `from`, before which the entries at `at` are the next ones.
    fn batch(&self, at: &mut [usize], from: u64) -> memory::Result<Batch> {
        let full = self.full_end(at, from);
        if full >= from + LONG {
            return Ok(Batch::Full(from..full));
        }
        let begun = memory::copy(at)?;
        let (mut to, mut used) = (from, 0);
        while let Some(key) = self.first(at, to) {
            let is_long = self.full_end(at, key) >= key + LONG;
            let mut count = self.stretch_end(at, key).saturating_sub(key).max(1);
            let mut cost = self.cost(at, key, count, from);
            while used + cost > self.budget && count > 1 {
                count /= 2;
                cost = self.cost(at, key, count, from);
            }
            if used > 0 && (is_long || used + cost > self.budget) {
                break;
            }
            used += cost;
            to = key + count;
            self.pass(at, to);
        }
        let spans = self.inputs.iter().zip(begun.iter().zip(&*at)).map(|(input, (begin, end))| {
            // An entry that goes on after the batch takes part in it too.
            let goes_on = input.entry(*end).is_some_and(|entry| input.keys(entry).start < to);
            *begin..*end + usize::from(goes_on)
        });
        let spans = memory::gather(spans)?;
        at.copy_from_slice(&begun);
        Ok(Batch::Mixed(Mixed { keys: from..to, spans, cost: used }))
    }
}

impl Iterator for Planner<'_> {
    type Item = memory::Result<Batch>;

    fn next(&mut self) -> Option<memory::Result<Batch>> {
        let mut at = std::mem::take(&mut self.next);
        self.pass(&mut at, self.position);
        let batch = self.first(&at, self.position).map(|from| self.batch(&mut at, from)).transpose();
        self.position = batch.as_ref().ok().and_then(Option::as_ref).map_or(self.chunks, Batch::end);
        self.next = at;
        batch.transpose()
    }
}
