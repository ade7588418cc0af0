#![forbid(unsafe_code)]
//! Owns the way of a directory to another granularity, chunk by chunk. Must never know bytes: only by which power of two the
//! granules become larger or smaller.
//!
//! What it costs depends on what the chunks hold, never on how far the granularities are apart.

use super::collector::Collector;
use super::container::{CHUNK, Made, Pair, Run, View, Words, Workspace, clear_run, no_words, to_u16};
use super::directory::Directory;
use super::entry::Entry;
use super::span::{Span, split};
use crate::kernels::{Kernels, WORDS, select};
use crate::memory::{self, Result};

/// Which way granules go that are dirty in part.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rounding {
    Outward,
    Inward,
}

/// The number of halvings that make one word of the words of a chunk.
const TO_ONE_WORD: u32 = WORDS.trailing_zeros();

/// Above this many runs in a chunk for each chunk that it becomes, its words are doubled instead of its runs.
const DOUBLED_FROM: u32 = 20;

/// `source`, which has `granules` granules, at granules that are 2 to the power of `shift` times as large; `shift` is 1..=31.
pub(super) fn coarser(source: &Directory, shift: u32, rounding: Rounding, granules: u64) -> Result<Directory> {
    let mut made = Coarse::new(shift, rounding)?;
    for entry in source.entries() {
        made.add(entry, source.view(entry))?;
    }
    made.flush()?;
    made.directory.shrink();
    // All that the disk has of the last granule may be less than a granule.
    let last = (granules >> shift) << shift;
    if rounding == Rounding::Inward && last < granules && source.next_clean(last) >= granules {
        let last = last >> shift;
        made.directory.set_span(Span { first: last, last })?;
    }
    Ok(made.directory)
}

/// `source` at granules that are 2 to the power of `shift` times as small, of which there are `granules`; `shift` is 1..=31.
pub(super) fn finer(source: &Directory, shift: u32, granules: u64) -> Result<Directory> {
    let (mut collector, mut workspace, kernels) = (Collector::default(), Workspace::new(), select());
    let mut words = no_words()?;
    for entry in source.entries() {
        let span = |first: u64, end: u64| Span { first: first << shift, last: (end << shift).min(granules) - 1 };
        let (view, base) = (source.view(entry), entry.base());
        if let View::Full = view {
            collector.push(span(base, u64::from(entry.end()) << 16))?;
            continue;
        }
        if shift > TO_ONE_WORD || entry.runs_of_chunk() <= DOUBLED_FROM << shift {
            for run in view.runs(Run::WHOLE) {
                collector.push(span(base + u64::from(run.first), base + u64::from(run.end())))?;
            }
            continue;
        }
        for (key, some) in (entry.key << shift..).zip(view.words().chunks(WORDS >> shift)) {
            if some.iter().any(|&word| word != 0) {
                double(kernels, some, shift, &mut words);
                if let Ok(used @ 0..CHUNK) = u32::try_from(granules - (u64::from(key) << 16)) {
                    clear_run(&mut words, Run { first: to_u16(used), last: u16::MAX });
                }
                let Made { view, measure } = workspace.smallest_of(&words, (kernels.measure)(&words))?;
                collector.push_chunk(key, measure, view)?;
            }
        }
    }
    collector.finish()
}

/// Fills `out` with bits of which each stands for one part in 2 to the power of `shift` of one of `words`.
fn double(kernels: &Kernels, words: &[u64], shift: u32, out: &mut Words) {
    let mut room = [0; WORDS];
    out[..words.len()].copy_from_slice(words);
    let mut len = words.len();
    for _ in 0..shift {
        room[..len].copy_from_slice(&out[..len]);
        (kernels.unfold)(&room[..len], &mut out[..2 * len]);
        len *= 2;
    }
}

/// A directory of larger granules in the making.
struct Coarse {
    shift: u32,
    rounding: Rounding,
    kernels: &'static Kernels,
    workspace: Workspace,
    directory: Directory,
    /// The chunk whose bits are being gathered, and these bits.
    key: Option<u32>,
    words: Box<Words>,
    /// What a chunk holds, on its way to larger granules.
    folded: Box<Words>,
    list: Vec<u16>,
    runs: Vec<Pair>,
}

impl Coarse {
    fn new(shift: u32, rounding: Rounding) -> Result<Self> {
        let (kernels, workspace, directory) = (select(), Workspace::new(), Directory::default());
        let (words, folded) = (no_words()?, no_words()?);
        let (list, runs) = (Vec::new(), Vec::new());
        Ok(Self { shift, rounding, kernels, workspace, directory, key: None, words, folded, list, runs })
    }

    fn add(&mut self, entry: &Entry, view: View<'_>) -> Result<()> {
        let (shift, is_outward) = (self.shift, self.rounding == Rounding::Outward);
        let up = |granule: u64| granule.div_ceil(1 << shift);
        let (base, end) = (entry.base(), u64::from(entry.end()) << 16);
        match view {
            View::Full if is_outward => self.add_span(base >> shift, up(end)),
            View::Full => self.add_span(up(base), end >> shift),
            _ if shift > 16 && is_outward => self.add_span(base >> shift, (base >> shift) + 1),
            _ if shift > 16 => Ok(()),
            _ => {
                let (key, first) = split(base >> shift);
                self.turn_to(key)?;
                match view {
                    View::Array(list) if is_outward => self.add_list(list, first),
                    View::Words(_) | View::Sparse(_) => {
                        self.add_words(view, first);
                        Ok(())
                    }
                    _ => self.add_runs(view, first),
                }
            }
        }
    }

    /// Adds the granules `first..end`, if there are any.
    fn add_span(&mut self, first: u64, end: u64) -> Result<()> {
        if first >= end {
            return Ok(());
        }
        let ((key, first), (last_key, last)) = (split(first), split(end - 1));
        let mut add = |key, first, last| {
            self.turn_to(key)?;
            (self.kernels.scatter_runs)(&[[first, last]], &mut self.words);
            Result::Ok(())
        };
        if key == last_key {
            return add(key, first, last);
        }
        add(key, first, u16::MAX)?;
        if key + 1 < last_key {
            self.flush()?;
            self.directory.push_full(key + 1, last_key - key - 1)?;
        }
        self.turn_to(last_key)?;
        (self.kernels.scatter_runs)(&[[0, last]], &mut self.words);
        Ok(())
    }

    /// Adds granules of which at least one part is in the list.
    fn add_list(&mut self, list: &[u16], base: u16) -> Result<()> {
        self.list.clear();
        self.list.try_reserve(list.len())?;
        let shift = self.shift;
        self.list.extend(list.iter().map(|&bit| base + to_u16(u32::from(bit) >> shift)));
        (self.kernels.scatter)(&self.list, &mut self.words);
        Ok(())
    }

    fn add_runs(&mut self, view: View<'_>, base: u16) -> Result<()> {
        self.runs.clear();
        let (shift, is_outward) = (self.shift, self.rounding == Rounding::Outward);
        for run in view.runs(Run::WHOLE) {
            let (first, end) = (u32::from(run.first), run.end());
            let (first, end) = match is_outward {
                true => (first >> shift, end.div_ceil(1 << shift)),
                false => (first.div_ceil(1 << shift), end >> shift),
            };
            if first < end {
                memory::push(&mut self.runs, [base + to_u16(first), base + to_u16(end - 1)])?;
            }
        }
        (self.kernels.scatter_runs)(&self.runs, &mut self.words);
        Ok(())
    }

    fn add_words(&mut self, view: View<'_>, base: u16) {
        let Self { kernels, folded, words, shift, .. } = self;
        // A granule is dirty wholly if no part of it is clean.
        let turned = if self.rounding == Rounding::Inward { u64::MAX } else { 0 };
        view.copy_to(folded);
        folded.iter_mut().for_each(|word| *word ^= turned);
        let (mut len, mut room) = (WORDS, [0; WORDS]);
        for _ in 0..(*shift).min(TO_ONE_WORD) {
            len /= 2;
            (kernels.fold)(&folded[..2 * len], &mut room[..len]);
            folded[..len].copy_from_slice(&room[..len]);
        }
        for _ in TO_ONE_WORD..*shift {
            (kernels.fold)(&[folded[0], 0], &mut room[..1]);
            folded[0] = room[0];
        }
        // A whole number of words, or a part of one.
        let bits = CHUNK >> *shift;
        let used = if bits < 64 { (1 << bits) - 1 } else { u64::MAX };
        for (to, from) in words[usize::from(base / 64)..].iter_mut().zip(&folded[..len]) {
            *to |= ((from ^ turned) & used) << (base % 64);
        }
    }

    /// Goes on with a chunk that comes behind the one so far, or is the same.
    fn turn_to(&mut self, key: u32) -> Result<()> {
        if self.key != Some(key) {
            self.flush()?;
            self.key = Some(key);
        }
        Ok(())
    }

    /// Stores the chunk whose bits were gathered.
    fn flush(&mut self) -> Result<()> {
        let Some(key) = self.key.take() else { return Ok(()) };
        let measure = (self.kernels.measure)(&self.words);
        if measure.ones > 0 {
            let made = self.workspace.smallest_of(&self.words, measure)?;
            self.directory.push(key, made.measure, made.view)?;
            self.words.fill(0);
        }
        Ok(())
    }
}
