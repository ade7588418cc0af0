#![forbid(unsafe_code)]
//! Owns the form of a chunk that holds its set bits as sorted runs, and the sweep that combines any two run lists. Knows
//! nothing of chunk keys, disks or bytes.

use super::{CHUNK, RUNS_MAX, small, to_u16};

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
        u32::from(self.last) - u32::from(self.first) + 1
    }

    fn end(self) -> u32 {
        u32::from(self.last) + 1
    }

    /// As the kernels take it: ordered like the runs.
    pub(super) fn packed(self) -> u32 {
        u32::from(self.first) << 16 | u32::from(self.last)
    }

    pub(super) fn unpacked(packed: u32) -> Self {
        Self { first: to_u16(packed >> 16), last: to_u16(packed & 0xffff) }
    }
}

/// Sorted runs that neither overlap nor touch.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::bitmap) struct Runs(pub(super) Vec<Run>);

impl Runs {
    pub(super) fn ones(&self) -> u32 {
        self.0.iter().map(|run| run.len()).sum()
    }

    pub(super) fn contains(&self, bit: u16) -> bool {
        self.0.get(self.0.partition_point(|run| run.last < bit)).is_some_and(|run| run.first <= bit)
    }

    /// The runs that overlap `window`, not cut to it.
    pub(super) fn within(&self, window: Run) -> &[Run] {
        let from = self.0.partition_point(|run| run.last < window.first);
        let to = self.0.partition_point(|run| run.first <= window.last);
        &self.0[from..to]
    }

    pub(super) fn count(&self, window: Run) -> u32 {
        let cut = |run: &Run| u32::from(run.last.min(window.last) - run.first.max(window.first)) + 1;
        self.within(window).iter().map(cut).sum()
    }

    pub(super) fn set(&mut self, new: Run) {
        let from = self.0.partition_point(|run| run.end() < u32::from(new.first));
        let to = self.0.partition_point(|run| u32::from(run.first) <= new.end());
        if from == to {
            self.0.insert(from, new);
            return;
        }
        let joined = Run { first: new.first.min(self.0[from].first), last: new.last.max(self.0[to - 1].last) };
        self.0[from] = joined;
        self.0.drain(from + 1..to);
    }

    pub(super) fn clear(&mut self, gone: Run) {
        let from = self.0.partition_point(|run| run.last < gone.first);
        let to = self.0.partition_point(|run| run.first <= gone.last);
        if from == to {
            return;
        }
        let (head, tail) = (self.0[from], self.0[to - 1]);
        let left = (head.first < gone.first).then(|| Run { first: head.first, last: gone.first - 1 });
        let right = (tail.last > gone.last).then(|| Run { first: gone.last + 1, last: tail.last });
        self.0.splice(from..to, left.into_iter().chain(right));
    }

    pub(super) fn validate(&self) -> Result<(), &'static str> {
        if self.0.is_empty() || self.0.len() > RUNS_MAX {
            return Err("a run container has no run or too many");
        }
        if self.0.iter().any(|run| run.first > run.last) {
            return Err("a run ends before it begins");
        }
        if self.0.windows(2).any(|pair| pair[0].end() >= u32::from(pair[1].first)) {
            return Err("runs overlap, touch or are out of order");
        }
        if self.0[0] == Run::WHOLE {
            return Err("a run container covers its whole chunk");
        }
        Ok(())
    }
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
) -> Vec<Run> {
    let (mut a, mut b) = (Side::new(a), Side::new(b));
    let mut result: Vec<Run> = Vec::new();
    let mut position = 0;
    while position < CHUNK {
        let end = a.next_edge(position).min(b.next_edge(position)).min(CHUNK);
        if keep(a.is_set(position), b.is_set(position)) {
            match result.last_mut() {
                Some(run) if run.end() == position => run.last = to_u16(end - 1),
                _ => result.push(Run { first: to_u16(position), last: to_u16(end - 1) }),
            }
        }
        position = end;
        a.pass(position);
        b.pass(position);
    }
    result
}

/// The number of bits in sorted runs.
pub(super) fn ones_of(runs: &[Run]) -> u32 {
    runs.iter().map(|run| run.len()).sum()
}

/// The heap bytes of `count` runs.
pub(super) fn bytes_of(count: usize) -> u32 {
    small(count) * 4
}
