#![forbid(unsafe_code)]
//! Owns the form of a chunk that holds its set bits as sorted runs, and the sweep that combines any two run lists. Knows
//! nothing of chunk keys, disks or bytes.

use super::list::List;
use super::{CHUNK, RUNS_MAX, to_u16};
use crate::kernels::select;
use crate::memory::{self, Result};

/// In at most this many runs, counting all is faster than searching for those of a window.
const SCANNED: usize = 256;

/// The first and the last of consecutive set bits of one chunk, as they are kept.
pub(crate) type Pair = crate::kernels::Pair;

/// Consecutive set bits of one chunk, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bitmap) struct Run {
    pub(in crate::bitmap) first: u16,
    pub(in crate::bitmap) last: u16,
}

impl Run {
    /// All bits of a chunk.
    pub(in crate::bitmap) const WHOLE: Self = Self { first: 0, last: u16::MAX };

    /// The number of bits, 1..=65536.
    pub(in crate::bitmap) fn len(self) -> u32 {
        self.end() - u32::from(self.first)
    }

    pub(in crate::bitmap) fn end(self) -> u32 {
        u32::from(self.last) + 1
    }

    pub(super) fn pair(self) -> Pair {
        [self.first, self.last]
    }
}

impl From<Pair> for Run {
    fn from([first, last]: Pair) -> Self {
        Self { first, last }
    }
}

pub(super) fn contains(runs: &[Pair], bit: u16) -> bool {
    runs.get(runs.partition_point(|run| run[1] < bit)).is_some_and(|run| run[0] <= bit)
}

/// The runs that overlap `window`, not cut to it.
pub(super) fn within(runs: &[Pair], window: Run) -> &[Pair] {
    let from = runs.partition_point(|run| run[1] < window.first);
    let to = from + runs[from..].partition_point(|run| run[0] <= window.last);
    &runs[from..to]
}

pub(super) fn count(runs: &[Pair], window: Run) -> u32 {
    let near = if runs.len() > SCANNED { within(runs, window) } else { runs };
    (select().run_ones_within)(near, window.first.into(), window.end())
}

/// The number of bits in sorted runs.
pub(super) fn ones_of(runs: &[Pair]) -> u32 {
    (select().run_ones)(runs)
}

fn sum_of(runs: impl Iterator<Item = Pair>) -> u32 {
    runs.map(|run| Run::from(run).len()).sum()
}

/// Sets the bits of `new`, and says how many of them are new. Runs that are too many for the form are left as they are.
pub(super) fn try_set(runs: &mut List<'_, Pair>, new: Run) -> Result<Option<u32>> {
    let from = runs.partition_point(|&run| Run::from(run).end() < u32::from(new.first));
    let touched = runs[from..].iter().take_while(|run| u32::from(run[0]) <= new.end()).count();
    let to = from + touched;
    if touched == 0 {
        if runs.len() == RUNS_MAX {
            return Ok(None);
        }
        runs.insert(from, new.pair())?;
        return Ok(Some(new.len()));
    }
    let before = sum_of(runs[from..to].iter().copied());
    let joined = Run { first: new.first.min(runs[from][0]), last: new.last.max(runs[to - 1][1]) };
    runs[from] = joined.pair();
    runs.remove(from + 1..to);
    Ok(Some(joined.len() - before))
}

/// Clears the bits of `gone`, and says how many were set. Runs that would be too many for the form are left as they are.
pub(super) fn try_clear(runs: &mut List<'_, Pair>, gone: Run) -> Result<Option<u32>> {
    let from = runs.partition_point(|run| run[1] < gone.first);
    let to = runs.partition_point(|run| run[0] <= gone.last);
    if from == to {
        return Ok(Some(0));
    }
    let (head, tail) = (runs[from], runs[to - 1]);
    let left = (head[0] < gone.first).then(|| [head[0], gone.first - 1]);
    let right = (tail[1] > gone.last).then(|| [gone.last + 1, tail[1]]);
    let kept = || left.into_iter().chain(right);
    if runs.len() - (to - from) + kept().count() > RUNS_MAX {
        return Ok(None);
    }
    let cleared = sum_of(runs[from..to].iter().copied()) - sum_of(kept());
    runs.replace(from..to, kept().count())?.iter_mut().zip(kept()).for_each(|(place, run)| *place = run);
    Ok(Some(cleared))
}

pub(super) fn validate(runs: &[Pair]) -> std::result::Result<(), &'static str> {
    if runs.is_empty() || runs.len() > RUNS_MAX {
        return Err("a run container has no run or too many");
    }
    if runs.iter().any(|[first, last]| first > last) {
        return Err("a run ends before it begins");
    }
    if runs.windows(2).any(|pair| Run::from(pair[0]).end() >= u32::from(pair[1][0])) {
        return Err("runs overlap, touch or are out of order");
    }
    if runs[0] == Run::WHOLE.pair() {
        return Err("a run container covers its whole chunk");
    }
    Ok(())
}

/// One side of a sweep: its current run as half-open bounds.
struct Side<I> {
    runs: I,
    first: u32,
    end: u32,
}

impl<I: Iterator<Item = Run>> Side<I> {
    fn new(runs: I) -> Self {
        let mut side = Self { runs, first: 0, end: 0 };
        side.pass(0);
        side
    }

    /// Goes to the first run that ends after `position`; past the last one both bounds are beyond the chunk.
    fn pass(&mut self, position: u32) {
        while self.end <= position {
            (self.first, self.end) =
                self.runs.next().map_or((u32::MAX, u32::MAX), |run| (u32::from(run.first), run.end()));
        }
    }

    fn is_set(&self, position: u32) -> bool {
        self.first <= position
    }

    fn next_edge(&self, position: u32) -> u32 {
        if self.is_set(position) { self.end } else { self.first }
    }
}

/// Combines two sorted run lists bit by bit with `keep`, in time linear in their lengths. `keep(false, false)` must be
/// false.
pub(super) fn sweep(
    a: impl Iterator<Item = Run>,
    b: impl Iterator<Item = Run>,
    keep: impl Fn(bool, bool) -> bool,
) -> Result<Vec<Pair>> {
    let (mut a, mut b) = (Side::new(a), Side::new(b));
    let mut result: Vec<Pair> = Vec::new();
    let mut position = 0;
    while position < CHUNK {
        let end = a.next_edge(position).min(b.next_edge(position)).min(CHUNK);
        if keep(a.is_set(position), b.is_set(position)) {
            match result.last_mut() {
                Some(run) if u32::from(run[1]) + 1 == position => run[1] = to_u16(end - 1),
                _ => memory::push(&mut result, [to_u16(position), to_u16(end - 1)])?,
            }
        }
        position = end;
        a.pass(position);
        b.pass(position);
    }
    Ok(result)
}
