#![forbid(unsafe_code)]
//! Owns sets of clusters as sorted ranges: memory grows with the ranges, not with the file's size. Must never know the
//! content of a cluster.

use crate::memory::{self, Result};
use std::ops::Range;

/// Clusters, as ascending ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// The clusters of `ranges`, in any order.
    pub(crate) fn of(ranges: Vec<Range<u64>>) -> Result<Self> {
        Ok(Self::with_repeated(ranges)?.0)
    }

    /// The clusters of `ranges`, and those of them that stand in several.
    pub(crate) fn with_repeated(mut ranges: Vec<Range<u64>>) -> Result<(Self, Self)> {
        ranges.retain(|range| !range.is_empty());
        ranges.sort_unstable_by_key(|range| (range.start, range.end));
        let (mut all, mut repeated) = (Self::default(), Self::default());
        for range in ranges {
            let before = all.0.last().map_or(0, |last| last.end);
            if range.start < before {
                repeated.append(range.start..range.end.min(before))?;
            }
            all.append(range)?;
        }
        Ok((all, repeated))
    }

    /// Adds a range that begins at or after the beginning of the last one.
    fn append(&mut self, range: Range<u64>) -> Result<()> {
        match self.0.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => memory::push(&mut self.0, range)?,
        }
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Range<u64>> {
        self.0.iter()
    }

    /// How many clusters there are.
    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    /// The range that holds `cluster`.
    pub(crate) fn holding(&self, cluster: u64) -> Option<&Range<u64>> {
        let at = self.0.partition_point(|range| range.end <= cluster);
        self.0.get(at).filter(|range| range.start <= cluster)
    }

    pub(crate) fn contains(&self, cluster: u64) -> bool {
        self.holding(cluster).is_some()
    }

    /// The parts of `range` that are in the set.
    pub(crate) fn within(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let at = self.0.partition_point(|held| held.end <= range.start);
        let rest = self.0.get(at..).unwrap_or_default().iter();
        rest.take_while(move |held| held.start < range.end)
            .map(move |held| held.start.max(range.start)..held.end.min(range.end))
    }

    pub(crate) fn overlaps(&self, range: Range<u64>) -> bool {
        !range.is_empty() && self.within(range).next().is_some()
    }

    /// The clusters that are in both.
    pub(crate) fn common(&self, other: &Ranges) -> Result<Ranges> {
        Self::of(memory::gather(self.0.iter().flat_map(|range| other.within(range.clone())))?)
    }

    pub(crate) fn union(&self, other: &Ranges) -> Result<Ranges> {
        Self::of(memory::gather(self.0.iter().chain(&other.0).cloned())?)
    }
}

/// Ranges that are gathered in any order, and brought into order whenever they have doubled: where the same clusters come
/// again and again, memory follows the clusters.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    ranges: Vec<Range<u64>>,
    compact_at: usize,
}

impl Gathered {
    pub(crate) fn add(&mut self, range: Range<u64>) -> Result<()> {
        match self.ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            Some(last) if *last == range => {}
            _ => memory::push(&mut self.ranges, range)?,
        }
        if self.ranges.len() > self.compact_at {
            self.ranges = Ranges::of(std::mem::take(&mut self.ranges))?.0;
            self.compact_at = (self.ranges.len() * 2).max(1 << 16);
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Ranges> {
        Ranges::of(self.ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_several_ranges_is_told_as_a_plain_count_tells_it() {
        let mut seed = 1_u64;
        let mut below = |limit: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % limit
        };
        for _ in 0..500 {
            let ranges: Vec<Range<u64>> = (0..below(12))
                .map(|_| {
                    let start = below(60);
                    start..start + below(9)
                })
                .collect();
            let count = |cluster: u64| ranges.iter().filter(|range| range.contains(&cluster)).count();
            let (all, repeated) = Ranges::with_repeated(ranges.clone()).unwrap();
            for cluster in 0..80 {
                assert_eq!(all.contains(cluster), count(cluster) > 0, "{ranges:?}: {cluster}");
                assert_eq!(repeated.contains(cluster), count(cluster) > 1, "{ranges:?}: {cluster}");
            }
            assert!(all.iter().zip(all.iter().skip(1)).all(|(one, next)| one.end < next.start), "{all:?}");
            let window = 10..40;
            let inside: u64 = all.within(window.clone()).map(|part| part.end - part.start).sum();
            assert_eq!(inside, window.filter(|cluster| count(*cluster) > 0).count() as u64);
            assert_eq!(all.common(&repeated).unwrap(), repeated);
            assert_eq!(all.union(&repeated).unwrap(), all);
        }
    }

    #[test]
    fn ranges_that_come_again_are_kept_once() {
        let mut gathered = Gathered::default();
        for number in 0..300_000_u64 {
            gathered.add(number % 7 * 2..number % 7 * 2 + 1).unwrap();
        }
        assert!(gathered.ranges.len() <= 1 << 16);
        assert_eq!(gathered.finish().unwrap().count(), 7);
    }
}
